"""The judge reads what is there; distances agree with closed forms, scipy and brute force; costs with arithmetic."""

import hashlib
import json

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lesson_lib import evaluate
from lesson_lib.data import digits, shapes
from lesson_lib.evaluate import (
    HEADS,
    JUDGE_FILE,
    SPOILT,
    Judge,
    balls_around,
    class_accuracy,
    count_macs,
    count_objects,
    cut_objects,
    digit_judge,
    fd_judge,
    frechet_distance,
    gaussian_frechet,
    load_judge,
    precision_recall,
    prompt_accuracy,
    prompt_hits,
)
from lesson_lib.experiments.judge import accuracies, augment, run, targets_of
from lesson_lib.setup import Budget
from lesson_lib.shapes import BACKGROUND


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(width: int, seed: int) -> torch.Tensor:
    root = normal(width, width, seed=seed)
    return root @ root.T / width


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


class TestFrechet:
    @pytest.mark.parametrize("width", [1, 2, 7, 64])
    def test_agrees_with_scipys_matrix_root(self, width):
        mean_a, mean_b = normal(width, seed=1), normal(width, seed=2)
        cov_a, cov_b = covariance(width, 3), covariance(width, 4)
        root = scipy.linalg.sqrtm(cov_a.numpy() @ cov_b.numpy()).real
        wanted = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * np.trace(root)
        assert gaussian_frechet(mean_a, cov_a, mean_b, cov_b) == pytest.approx(wanted.item(), rel=1e-6, abs=1e-8)

    def test_of_independent_features_is_a_sum_over_them(self):
        spread_a, spread_b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.0])
        found = gaussian_frechet(torch.zeros(3), spread_a.square().diag(), torch.ones(3), spread_b.square().diag())
        assert found == pytest.approx(3 + 1 + 0 + 9)

    def test_samples_of_known_gaussians(self):
        """N(0, 1) and N(1, 4) in two independent directions: 2 (1² + (2 − 1)²) = 4."""
        a, b = normal(40_000, 2, seed=5), 2 * normal(40_000, 2, seed=6) + 1
        assert frechet_distance(a, b) == pytest.approx(4, abs=0.08)

    def test_features_agree_with_numpy_and_scipy(self):
        a, b = normal(300, 6, seed=7) @ normal(6, 6, seed=8), normal(200, 6, seed=9) + 0.3
        cov_a, cov_b = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
        root = scipy.linalg.sqrtm(cov_a @ cov_b).real
        shift = np.square(a.numpy().mean(0) - b.numpy().mean(0)).sum()
        assert frechet_distance(a, b) == pytest.approx(shift + np.trace(cov_a + cov_b - 2 * root), rel=1e-8)

    @pytest.mark.parametrize(("width", "count"), [(16, 400), (64, 1000)])
    def test_small_samples_are_biased_as_theory_says(self, width, count):
        """Against the exact N(0, I): about F/N + F(F + 1)/(4N), with N the number of samples."""
        found = []
        for seed in range(8):
            sample = normal(count, width, seed=seed)
            found.append(
                gaussian_frechet(
                    sample.mean(0), torch.cov(sample.T), torch.zeros(width), torch.eye(width)
                )
            )  # fmt: skip
        assert np.mean(found) == pytest.approx((width + width * (width + 1) / 4) / count, rel=0.08)

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 6), st.floats(0.01, 100))
    def test_is_symmetric_and_zero_only_on_itself(self, seed, width, scale):
        a, b = scale * normal(width + 20, width, seed=seed), normal(width + 9, width, seed=seed + 1) + 1
        assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6, abs=1e-9)
        assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10 * scale**2 * width + 1e-12)
        assert frechet_distance(a, b) > 1e-3

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10_000), st.lists(st.floats(-50, 50), min_size=3, max_size=3))
    def test_of_a_moved_set_is_the_squared_shift(self, seed, shift):
        a = normal(30, 3, seed=seed)
        moved = a + torch.tensor(shift, dtype=torch.float64)
        assert frechet_distance(a, moved) == pytest.approx(sum(s * s for s in shift), rel=1e-6, abs=1e-9)

    def test_needs_more_samples_than_features_and_says_how_many(self):
        frechet_distance(normal(9, 8), normal(9, 8))
        with pytest.raises(ValueError, match="width 8 need at least 9 samples in each set, got 8 and 30"):
            frechet_distance(normal(8, 8), normal(30, 8))

    def test_refuses_other_widths_and_values_that_are_not_finite(self):
        with pytest.raises(ValueError, match=r"of one width, got \(9, 8\) and \(9, 7\)"):
            frechet_distance(normal(9, 8), normal(9, 7))
        with pytest.raises(ValueError, match="the second set holds values that are not finite"):
            frechet_distance(normal(9, 3), normal(9, 3) / 0)


def brute_force(real: np.ndarray, fake: np.ndarray, k: int) -> tuple[float, float]:
    """Precision and recall as loops over the definition."""

    def inside(points, centres):
        hits = 0
        radii = [
            sorted(np.linalg.norm(centres[i] - centres[j]) for j in range(len(centres)) if j != i)[k - 1]
            for i in range(len(centres))
        ]
        for point in points:
            hits += any(np.linalg.norm(point - centre) <= radius for centre, radius in zip(centres, radii, strict=True))
        return hits / len(points)

    return inside(fake, real), inside(real, fake)


class TestPrecisionRecall:
    @pytest.mark.parametrize(("width", "k"), [(1, 1), (2, 3), (5, 2), (16, 5)])
    def test_agrees_with_brute_force(self, width, k):
        real, fake = normal(40, width, seed=1), 1.2 * normal(31, width, seed=2) + 0.5
        wanted = brute_force(real.numpy(), fake.numpy(), k)
        for chunk in (7, 40, 1024):
            assert precision_recall(real, fake, k=k, chunk=chunk) == pytest.approx(wanted)

    def test_known_answers(self):
        real = normal(300, 2)
        assert precision_recall(real, real) == (1, 1)
        assert precision_recall(real, real + 100) == (0, 0)
        assert precision_recall(real, real[:150].repeat(2, 1))[0] == 1

    def test_an_offset_and_copies_change_nothing(self):
        real, fake = normal(300, 8, seed=1), normal(300, 8, seed=2)
        moved = precision_recall(real + 1e4, fake + 1e4)
        assert moved == pytest.approx(precision_recall(real, fake), abs=1e-9)
        copies = real[:50].repeat_interleave(5, dim=0)  # every ball has radius 0
        assert precision_recall(real, copies) == (1, 50 / 300)

    def test_lost_modes_cost_recall_and_stray_samples_cost_precision(self):
        left, right = 0.1 * normal(200, 2, seed=1), 0.1 * normal(200, 2, seed=2) + 10
        both = torch.cat([left, right])
        precision, recall = precision_recall(both, 0.1 * normal(400, 2, seed=3))
        assert precision > 0.85
        assert 0.4 < recall < 0.5
        precision, recall = precision_recall(left, torch.cat([0.1 * normal(200, 2, seed=4), right]))
        assert 0.4 < precision < 0.5
        assert recall > 0.85

    def test_two_samples_of_one_distribution_on_a_line(self):
        """In one dimension and with k = 1 theory gives 3/4: only the two neighbours' balls can reach a point.

        With exponential gaps each of them fails with probability 1/2, independently.
        """
        precision, recall = precision_recall(normal(3000, 1, seed=1), normal(3000, 1, seed=2), k=1)
        assert precision == pytest.approx(0.75, abs=0.03)
        assert recall == pytest.approx(0.75, abs=0.03)

    @pytest.mark.parametrize(("width", "k"), [(1, 3), (8, 3), (32, 5)])
    def test_a_fresh_point_lies_in_k_balls_on_average(self, width, k):
        """Of N + 1 points of one distribution, each is as likely as any other to be among the k nearest of a centre."""
        centres, points = normal(1500, width, seed=3), normal(3000, width, seed=4)
        count = balls_around(points, centres, evaluate._radii(centres, k, 512)).double().mean().item()
        assert count == pytest.approx(k, rel=0.1)

    def test_wrong_calls(self):
        with pytest.raises(ValueError, match="with k=3 each set needs at least 4 samples"):
            precision_recall(normal(3, 2), normal(10, 2))
        with pytest.raises(ValueError, match="k at least 1"):
            precision_recall(normal(30, 2), normal(10, 2), k=0)
        with pytest.raises(ValueError, match="of one width"):
            precision_recall(normal(30, 2), normal(10, 3))


class TestJudge:
    @pytest.mark.parametrize("size", [32, 16])
    def test_reads_held_out_scenes_at_99_per_cent(self, judge, size):
        scenes = shapes(2000, size=size, objects=(1, 2), seed=77)
        shares = accuracies(judge, scenes)
        assert set(shares) == {*HEADS, "all"}
        assert min(shares.values()) >= 0.99, shares

    def test_reads_pictures_that_a_sampler_left_a_little_noisy(self, judge):
        scenes = shapes(1000, objects=(1, 2), seed=78)
        noisy = scenes.images + 0.06 * normal(*scenes.images.shape).float()
        assert prompt_accuracy(noisy, scenes.attributes, judge) > 0.97

    def test_has_the_layout_of_the_data_set(self, judge):
        scenes = shapes(300, objects=(1, 2), seed=79)
        found = judge.read(scenes.images)
        assert set(found) == set(scenes.attributes) - {"mentioned_first"}
        for name, values in found.items():
            assert values.shape == scenes.attributes[name].shape
            assert values.dtype == torch.int64
            assert torch.equal(values < 0, scenes.attributes[name] < 0)

    def test_features_do_not_depend_on_the_batch(self, judge):
        images = shapes(70, seed=80).images
        features = judge.features(images)
        assert features.shape == (70, judge.feature_width)
        torch.testing.assert_close(judge.features(images, batch_size=9), features, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(judge.features(images[:3] * 1.0 + 0), features[:3], rtol=1e-4, atol=1e-4)

    def test_clamps_and_refuses(self, judge):
        images = shapes(5, seed=81).images
        torch.testing.assert_close(judge.features(5 * images), judge.features((5 * images).clamp(-1, 1)))
        with pytest.raises(ValueError, match=r"got \(5, 1, 8, 8\); the judge knows the shapes set only"):
            judge.read(torch.zeros(5, 1, 8, 8))
        with pytest.raises(ValueError, match="not finite"):
            judge.read(images / 0)

    def test_fd_judge_ranks_what_the_eye_ranks(self, judge):
        real, other = shapes(600, seed=82).images, shapes(600, seed=83).images
        noise = normal(*other.shape).float()
        distances = [fd_judge(real, other + s * noise, judge) for s in (0, 0.3, 1.0)]
        distances.append(fd_judge(real, torch.rand_like(other) * 2 - 1, judge))
        assert distances == sorted(distances)
        assert distances[3] > 20 * distances[0]
        assert fd_judge(real, other + 0.1 * noise, judge) > 3 * distances[0]
        assert fd_judge(real, F.avg_pool2d(other, 3, 1, 1, count_include_pad=False), judge) > 3 * distances[0]
        half = shapes(600, seed=84)
        reds = half.images[half.attributes["colour"][:, 0] < 2]
        assert fd_judge(real, reds, judge) > 3 * distances[0]

    def test_checkpoint_is_small_and_its_card_is_true(self):
        card = (JUDGE_FILE.parent / "README.md").read_text(encoding="utf-8")
        assert hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest() in card
        assert f"{JUDGE_FILE.stat().st_size:,} bytes" in card
        assert JUDGE_FILE.stat().st_size < 2e6


class TestPromptAccuracy:
    def test_classes_ask_for_one_object_of_a_colour_and_a_shape(self, judge):
        scenes = shapes(300, seed=85)
        assert prompt_accuracy(scenes.images, scenes.labels, judge) > 0.98
        assert prompt_accuracy(scenes.images, (scenes.labels + 1) % 24, judge) < 0.01
        pairs = shapes(200, objects=2, seed=86)
        assert prompt_accuracy(pairs.images, pairs.labels, judge) < 0.02

    def test_binding_needs_each_colour_on_its_object(self, judge):
        pairs = shapes(400, objects=2, seed=87)
        assert prompt_accuracy(pairs.images, pairs.attributes, judge) > 0.98
        swapped = dict(pairs.attributes, colour=pairs.attributes["colour"].flip(1))
        differ = pairs.attributes["colour"][:, 0] != pairs.attributes["colour"][:, 1]
        hits = prompt_hits(pairs.images, swapped, judge)
        assert hits["shape"].float().mean() > 0.98
        assert not hits["all"][differ].any()
        assert (
            prompt_accuracy(pairs.images, dict(pairs.attributes, relation=1 - pairs.attributes["relation"]), judge)
            < 0.02
        )

    def test_what_is_minus_one_or_not_named_is_not_asked(self, judge):
        scenes = shapes(200, objects=(1, 2), seed=88)
        wrong_place = dict(scenes.attributes, place=(scenes.attributes["place"] + 1) % 9)
        assert prompt_accuracy(scenes.images, wrong_place, judge) > 0.98
        hits = prompt_hits(scenes.images, wrong_place, judge, asked=("colour", "place"))
        assert set(hits) == {"colour", "place", "all"}
        assert hits["all"].float().mean() < 0.02
        open_colour = {"colour": torch.full((200, 2), -1)}
        assert prompt_accuracy(scenes.images, open_colour, judge) == 1

    def test_wrong_calls(self, judge):
        scenes = shapes(5, seed=89)
        with pytest.raises(ValueError, match="5 images but 4 wanted"):
            prompt_accuracy(scenes.images, scenes.labels[:4], judge)
        with pytest.raises(ValueError, match="has none of count, colour, shape, relation; it has place"):
            prompt_accuracy(scenes.images, {"place": scenes.attributes["place"]}, judge)


PAPER = BACKGROUND / 127.5 - 1
RED, BLUE = torch.tensor([0.7, -0.7, -0.7]), torch.tensor([-0.7, -0.3, 0.8])


def paper(height: int, width: int) -> torch.Tensor:
    return torch.full((1, 3, height, width), PAPER)


def box(images: torch.Tensor, top: int, left: int, height: int, width: int, colour: torch.Tensor = RED) -> torch.Tensor:
    images[0, :, top : top + height, left : left + width] = colour[:, None, None]
    return images


def frame(picture: torch.Tensor) -> tuple[int, int, int, int]:
    """Return top, left, height and width of what is no paper."""
    marked = ((picture - PAPER).abs() > 1e-3).any(dim=0)
    rows, columns = (marked.any(dim=1 - axis).nonzero().flatten() for axis in (0, 1))
    return int(rows[0]), int(columns[0]), len(rows), len(columns)


class TestObjects:
    @pytest.mark.parametrize(("size", "scale"), [(16, 1), (32, 1), (16, 2), (32, 2)])
    @pytest.mark.parametrize("count", [1, 2])
    def test_counts_and_reads_what_was_drawn_at_any_size(self, judge, size, scale, count):
        scenes = shapes(100, size=size, objects=count, seed=92)
        total, right = count_objects(F.interpolate(scenes.images, scale_factor=scale), scenes.labels, judge)
        assert torch.equal(total, torch.full((100,), count))
        classes = (4 * scenes.attributes["colour"] + scenes.attributes["shape"])[:, :count]
        wanted = (classes == scenes.labels[:, None]).sum(dim=1)
        assert (right == wanted).float().mean() > 0.96

    def test_counts_those_of_the_class_that_was_asked_for(self, judge):
        """A picture of 40×64 pixels with four objects, one or two of them the one that is asked for."""
        scenes = shapes(40, size=16, seed=93)
        asked, colours = scenes.labels[0], scenes.labels // 4
        alike = ((scenes.labels != asked) & (colours == colours[0])).nonzero()[:1, 0]  # the colour alone is not enough
        other = torch.cat([alike, (colours != colours[0]).nonzero()[:2, 0]])
        images = paper(40, 64).repeat(2, 1, 1, 1)
        places = ((1, 1), (1, 44), (22, 3), (20, 40))
        for number, parts in enumerate(([0, *other], [0, other[0], 0, other[1]])):
            for (top, left), part in zip(places, parts, strict=True):
                images[number, :, top : top + 16, left : left + 16] = scenes.images[part]
        total, right = count_objects(images, asked.expand(2), judge)
        assert total.tolist() == [4, 4]
        assert right.tolist() == [1, 2]

    def test_pictures_without_objects_count_nothing(self, judge):
        one, none = box(paper(20, 24), 4, 4, 6, 6), paper(20, 24)
        total, right = count_objects(torch.cat([none, one, none]), torch.zeros(3, dtype=torch.int64), judge)
        assert total.tolist() == [0, 1, 0]
        assert right.tolist()[::2] == [0, 0]
        for images in (none, none[:0]):
            pictures, owners = cut_objects(images)
            assert pictures.shape == (0, 3, 32, 32)
            assert owners.shape == (0,)
            found = count_objects(images, torch.zeros(len(images), dtype=torch.int64), judge)
            assert [part.tolist() for part in found] == [[0] * len(images)] * 2

    @pytest.mark.parametrize(
        ("side", "wanted"), [((3, 4), (6, 8)), ((7, 7), (14, 14)), ((8, 5), (8, 5)), ((14, 14), (14, 14)),
                             ((20, 20), (14, 14)), ((10, 20), (7, 14)), ((30, 1), (14, 1))],
    )  # fmt: skip
    def test_small_objects_are_doubled_and_large_ones_scaled_down(self, side, wanted):
        pictures, owners = cut_objects(box(paper(32, 40), 1, 2, *side))
        assert owners.tolist() == [0]
        top, left, height, width = frame(pictures[0])
        assert (height, width) == wanted
        assert (top, left) == ((32 - height) // 2, (32 - width) // 2)
        inside = pictures[0, :, top : top + height, left : left + width]
        torch.testing.assert_close(inside, RED[:, None, None].expand_as(inside))

    def test_owners_say_which_picture_and_specks_are_no_objects(self):
        first = box(box(paper(24, 24), 1, 1, 8, 8), 15, 15, 8, 8, BLUE)
        second = box(box(paper(24, 24), 2, 2, 1, 3), 10, 10, 9, 9, BLUE)
        pictures, owners = cut_objects(torch.cat([first, paper(24, 24), second]))
        assert owners.tolist() == [0, 0, 2]
        for picture, colour in zip(pictures, (RED, BLUE, BLUE), strict=True):
            torch.testing.assert_close(picture[:, 16, 16], colour)
        assert cut_objects(box(paper(24, 24), 2, 2, 2, 2))[1].tolist() == [0]
        assert cut_objects(second, least=3)[1].tolist() == [0, 0]
        assert cut_objects(second, least=82)[1].tolist() == []

    def test_pixels_that_touch_at_a_corner_are_one_object(self):
        images = box(box(paper(24, 24), 4, 4, 4, 4), 8, 8, 4, 4)
        assert cut_objects(images)[1].tolist() == [0]
        assert cut_objects(box(images, 14, 14, 4, 4))[1].tolist() == [0, 0]

    def test_a_cut_holds_its_object_and_edge_and_nothing_of_a_neighbour(self):
        """An angle of red around a blue square: both lie in the angle's frame, and a pale edge beside each."""
        pale = torch.full((3,), PAPER - 0.3)
        images = box(box(paper(24, 24), 4, 4, 12, 2), 14, 4, 2, 12)
        box(images, 13, 6, 1, 10, pale)
        box(images, 5, 9, 5, 5, BLUE)
        box(images, 10, 9, 1, 5, pale)
        pictures, owners = cut_objects(images)
        assert owners.tolist() == [0, 0]
        wanted = paper(24, 24)
        box(box(box(wanted, 4, 4, 12, 2), 14, 4, 2, 12), 13, 6, 1, 10, pale)
        torch.testing.assert_close(pictures[0, :, 10:22, 10:22], wanted[0, :, 4:16, 4:16])
        assert not (pictures[0] == BLUE[:, None, None]).all(dim=0).any()
        assert frame(pictures[1])[2:] == (10, 10)

    def test_values_outside_are_clamped_and_the_argument_is_left_as_it_is(self):
        images = box(paper(24, 24), 4, 4, 8, 8, 3 * RED)
        before = images.clone()
        pictures, _ = cut_objects(images)
        assert pictures.abs().max() <= 1
        assert torch.equal(images, before)


class TestDigits:
    def test_judge_is_right_on_held_out_digits(self):
        test = digits("test")
        assert digit_judge().accuracy > 0.98
        assert class_accuracy(test.images, test.labels) == pytest.approx(digit_judge().accuracy)
        assert class_accuracy(test.images, (test.labels + 1) % 10) < 0.02
        assert digit_judge() is digit_judge()

    def test_wrong_calls(self):
        with pytest.raises(ValueError, match=r"expects images of shape \(N, 1, 8, 8\)"):
            class_accuracy(torch.zeros(3, 3, 32, 32), torch.zeros(3))
        with pytest.raises(ValueError, match="3 images but 2 labels"):
            class_accuracy(torch.zeros(3, 1, 8, 8), torch.zeros(2))


class Attention(nn.Module):
    def forward(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v)


class Einsum(nn.Module):
    def forward(self, a, *, b):
        return torch.einsum("bnd,bmd->bnm", a, b).relu() + 1


@pytest.mark.parametrize("device", ["cpu", "meta"])
class TestMacs:
    def test_linear_layers(self, device):
        for bias in (True, False):
            layer = nn.Linear(4, 6, bias=bias, device=device)
            assert count_macs(layer, torch.zeros(2, 3, 4, device=device)) == 2 * 3 * 4 * 6

    def test_convolutions(self, device):
        image = torch.zeros(2, 4, 8, 8, device=device)
        for layer, wanted in (
            (nn.Conv2d(4, 6, 3, padding=1), 2 * 64 * 9 * 4 * 6),
            (nn.Conv2d(4, 6, 3, padding=1, stride=2), 2 * 16 * 9 * 4 * 6),
            (nn.Conv2d(4, 8, 3, padding=1, groups=4), 2 * 64 * 9 * 1 * 8),
            (nn.ConvTranspose2d(4, 6, 2, stride=2), 2 * 64 * 4 * 4 * 6),
        ):
            assert count_macs(layer.to(device), image) == wanted

    def test_attention_is_two_matrix_products(self, device):
        q, k = torch.zeros(2, 3, 5, 8, device=device), torch.zeros(2, 3, 7, 8, device=device)
        assert count_macs(Attention(), q, k, k) == 2 * (2 * 3 * 5 * 7 * 8)

    def test_einsum_and_named_arguments(self, device):
        a, b = torch.zeros(2, 3, 4, device=device), torch.zeros(2, 5, 4, device=device)
        assert count_macs(Einsum(), a, b=b) == 2 * 3 * 5 * 4

    def test_a_fused_encoder_layer_hides_nothing(self, device):
        """Of width D with N tokens and an MLP twice as wide: 4 N D² + 4 N D² + 2 N² D."""
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, device=device).eval()
        assert count_macs(layer, torch.zeros(1, 10, 16, device=device)) == 8 * 10 * 16**2 + 2 * 10**2 * 16
        assert torch.backends.mha.get_fastpath_enabled()


class TestTraining:
    def test_targets_stand_in_the_order_of_the_heads(self):
        scenes = shapes(50, objects=(1, 2), seed=90)
        targets = targets_of(scenes.attributes)
        assert targets.shape == (50, 10)
        assert torch.equal(targets[:, 0] + 1, scenes.attributes["count"])
        assert torch.equal(targets[:, 1:3], scenes.attributes["colour"])
        assert torch.equal(targets[:, -1], scenes.attributes["relation"])

    def test_augmentation_spoils_a_little_and_repeats(self):
        images = shapes(64, seed=91).images
        spoilt, strengths = augment(images, torch.Generator().manual_seed(0))
        again = augment(images, torch.Generator().manual_seed(0))
        assert torch.equal(spoilt, again[0])
        assert torch.equal(strengths, again[1])
        assert strengths.shape == (64, len(SPOILT))
        assert spoilt.abs().max() <= 1
        assert 0.02 < (spoilt - images).abs().mean() < 0.2

    @pytest.mark.slow
    def test_the_command_trains_and_writes(self, tmp_path):
        held_out = run(Budget("smoke", torch.device("cpu")), tmp_path, steps=3)
        assert set(held_out) == {"32×32", "16×16"}
        json.dumps(held_out)
        assert (tmp_path / "judge.safetensors").stat().st_size < 2e6
