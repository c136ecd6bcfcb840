"""Where a token comes from: proofs as tests, numbers of the papers, and networks that meet other sizes."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib.attention import SelfAttention
from lesson_lib.dit import BLOCKS, DiT, DiTConfig
from lesson_lib.evaluate import count_macs, trained_parameters
from lesson_lib.flow import RectifiedFlow
from lesson_lib.position import (
    KINDS,
    PAIRINGS,
    ROTARY,
    STRETCHES,
    AxialRope,
    MixedRope,
    Ropes,
    Rotation,
    axial_angles,
    centred_grid,
    crop_table,
    diagonal_text,
    fit_table,
    grid_coordinates,
    half_order,
    halves_from_pairs,
    joint_coordinates,
    mixed_angles,
    mixed_frequencies,
    offset_kernel,
    pairs_from_halves,
    quarter_turn,
    resize_table,
    rope_frequencies,
    rotate,
    scaled_grid,
    shift_error,
    sin_cos_2d,
    sin_cos_at,
)
from lesson_lib.train import classification_loss, denoising_loss, fit
from lesson_lib.vit import ViT, ViTConfig, at_size

SEEDS = st.integers(0, 10_000)
SIDES = st.integers(1, 7)
VIT = ViTConfig(12, 4, 3, num_classes=5, hidden_size=24, depth=2, num_heads=3, positions="none", pool="mean")
DIT = DiTConfig(8, 2, 3, hidden_size=24, depth=2, num_heads=3, num_classes=5, learn_sigma=False, positions="none")
BOTH = pytest.mark.parametrize("config", [VIT, DIT], ids=["vit", "dit"])


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def awake(config, seed=0):
    """Build a network and give every tensor random numbers: what starts at zero would hide a mistake."""
    torch.manual_seed(seed)
    model = ViT(config) if isinstance(config, ViTConfig) else DiT(config)
    for name, weight in model.named_parameters():
        if weight.requires_grad and not name.endswith("freqs"):
            weight.data = torch.randn(weight.shape) * 0.4
    return model.eval()


@torch.no_grad()
def answer(model, height, width, seed=0):
    """Return what a network says to two pictures, which are the same at every call."""
    images = normal(2, model.config.in_channels, height, width, seed=seed)
    return (
        model(images) if isinstance(model, ViT) else model(images, torch.tensor([100.0, 700.0]), torch.tensor([0, 5]))
    )


def difference(one, other):
    return float((one - other).detach().abs().max())


# What turns heads of 4 k channels: the number of coordinates, the rotation, and its angles in float64.
def one_axis(heads, k):
    return 1, AxialRope((4 * k,)), lambda places: axial_angles(places, (4 * k,))


def axial(heads, k):
    return 2, AxialRope((2 * k, 2 * k), 100.0), lambda places: axial_angles(places, (2 * k, 2 * k), 100.0)


def mixed(heads, k):
    rope = MixedRope(heads, 4 * k)
    return 2, rope, lambda places: mixed_angles(places, rope.freqs.detach().double())


def three_axes(heads, k):
    axes = (4 * k - 4, 2, 2)
    return 3, AxialRope(axes), lambda places: axial_angles(places, axes)


FAMILIES = st.sampled_from([one_axis, axial, mixed, three_axes])


# Relative, and what that means


@settings(max_examples=30, deadline=None)
@given(SEEDS, FAMILIES, st.integers(1, 3), st.integers(2, 6))
def test_scores_know_the_differences_of_places_and_nothing_else(seed, family, heads, k):
    torch.manual_seed(seed)
    count, rope, exact = family(heads, k)
    places, shift = torch.randint(-30, 31, (6, count)).float(), torch.randint(1, 31, (count,)).float()
    query, key = torch.randn(2, 2, heads, 6, 4 * k)
    here, there = rope(places), rope(places + shift)
    scores = here(query) @ here(key).mT
    assert difference(there(query) @ there(key).mT, scores) < 1e-4
    assert difference(there(query) @ here(key).mT, scores) > 1e-2
    query, key = query.double(), key.double()
    scores = [rotate(query, a) @ rotate(key, a).mT for a in (exact(places), exact(places + shift))]
    assert difference(*scores) < 1e-10


@settings(max_examples=20, deadline=None)
@given(SEEDS, FAMILIES, st.integers(1, 3), st.integers(2, 6))
def test_a_rotation_keeps_lengths_and_does_nothing_at_the_origin(seed, family, heads, k):
    torch.manual_seed(seed)
    count, rope, _ = family(heads, k)
    x = torch.randn(2, heads, 5, 4 * k)
    turned = rope(torch.randint(1, 31, (5, count)).float())(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert difference(turned, x) > 1e-2
    assert torch.equal(rope(torch.zeros(5, count))(x), x)


@settings(max_examples=20, deadline=None)
@given(SEEDS, FAMILIES, st.integers(1, 3), st.integers(2, 4))
def test_attention_with_rotations_does_not_notice_that_all_move_on(seed, family, heads, k):
    torch.manual_seed(seed)
    count, rope, _ = family(heads, k)
    layer, x = SelfAttention(4 * k * heads, heads), torch.randn(2, 6, 4 * k * heads)
    torch.nn.init.normal_(layer.qkv.weight, std=0.4)
    places, shift = torch.randint(-20, 21, (6, count)).float(), torch.randint(1, 21, (count,)).float()
    said = layer(x, rope(places))
    assert difference(layer(x, rope(places + shift)), said) < 1e-4
    assert difference(layer(x, rope(places.flip(0) * 2)), said) > 1e-3
    assert difference(layer(x), said) > 1e-3


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(2, 4), st.integers(1, 20))
def test_attention_with_a_table_does_notice(seed, heads, k, shift):
    torch.manual_seed(seed)
    layer, x = SelfAttention(4 * k * heads, heads), torch.randn(2, 6, 4 * k * heads)
    torch.nn.init.normal_(layer.qkv.weight, std=0.4)
    places = torch.randint(-20, 21, (6, 2)).float()
    said, moved = (layer(x + sin_cos_at(where, x.shape[-1])) for where in (places, places + shift))
    assert difference(moved, said) > 1e-2


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 16), st.sampled_from([10.0, 100.0, 10_000.0]), st.floats(-500, 500))
def test_the_error_of_a_shift_is_zero_for_rotations_alone(seed, pairs, base, shift):
    query, key = normal(2, 5, 2 * pairs, seed=seed).double()
    frequencies = rope_frequencies(2 * pairs, base)
    assert shift_error(rotate, query, key, frequencies, shift) < 1e-10
    assert shift_error(lambda x, a: Rotation.of(a)(x[None])[0], query, key, frequencies, shift) < 1e-4

    def backwards_for_keys(x, angles):
        return rotate(x, -angles if torch.equal(x, key) else angles)

    if abs(shift) > 1e-2:
        assert shift_error(backwards_for_keys, query, key, frequencies, shift) > 1e-5


def test_the_error_of_a_shift_is_the_largest_change_of_a_score():
    """Token n is stretched by 1 + place: scores 2 (1 + m) (1 + n), after two steps 2 (3 + m) (3 + n)."""
    query, one = torch.ones(3, 2), torch.ones(1)
    assert shift_error(lambda x, a: x * (1 + a), query, query, one, 2.0) == pytest.approx(2 * 5 * 5 - 2 * 3 * 3)
    assert shift_error(lambda x, a: x * (1 + a), query, query, one, 0.0) == 0


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(PAIRINGS), st.integers(1, 3), st.integers(1, 4))
def test_values_are_not_rotated(seed, pairing, heads, k):
    torch.manual_seed(seed)
    layer, x = SelfAttention(4 * k * heads, heads), torch.randn(2, 5, 4 * k * heads)
    turn = AxialRope((4 * k,), pairing=pairing)(torch.arange(5.0)[:, None])
    value = layer.qkv(x).chunk(3, dim=-1)[2].unflatten(-1, (heads, -1)).transpose(1, 2)
    mixed = (layer.map(x, turn) @ value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x, turn), layer.proj(mixed), rtol=1e-4, atol=1e-5)


# Pairs of channels


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 4), st.integers(1, 8))
def test_a_pair_is_a_complex_number_that_is_multiplied(seed, heads, pairs):
    x, angles = normal(3, heads, 5, 2 * pairs, seed=seed), 10 * normal(heads, 5, pairs, seed=seed + 1)
    for turned in (angles, angles[0]):  # of each head its own, or of all the same
        wanted = torch.view_as_complex(x.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(turned), turned)
        torch.testing.assert_close(rotate(x, turned), torch.view_as_real(wanted).flatten(-2), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(Rotation.of(turned)(x), rotate(x, turned), rtol=0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(PAIRINGS), st.integers(1, 8))
def test_a_quarter_turn_is_a_rotation_by_ninety_degrees(seed, pairing, pairs):
    x = normal(3, 4, 2 * pairs, seed=seed)
    quarter = Rotation.of(torch.full((4, pairs), math.pi / 2), pairing)
    torch.testing.assert_close(quarter(x), quarter_turn(x, pairing), rtol=0, atol=1e-6)
    assert torch.equal(quarter_turn(quarter_turn(x, pairing), pairing), -x)
    first = torch.eye(2 * pairs)[0]
    assert quarter_turn(first, pairing)[1 if pairing == "interleaved" else pairs] == 1


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 16))
def test_both_pairings_are_one_rotation_in_two_orders(seed, pairs):
    x, angles = normal(3, 5, 2 * pairs, seed=seed), 3 * normal(5, pairs, seed=seed + 1)
    order = half_order(2 * pairs)
    halves, neighbours = Rotation.of(angles, "half-split"), Rotation.of(angles)
    assert torch.equal(halves(x[..., order]), neighbours(x)[..., order])
    assert difference(halves(x), neighbours(x)) > 1e-2


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 8), st.integers(1, 5))
def test_the_two_conversions_undo_each_other_within_every_head(seed, heads, pairs, width):
    weight, bias = normal(heads * 2 * pairs, width, seed=seed), normal(heads * 2 * pairs, seed=seed)
    for one, other in ((halves_from_pairs, pairs_from_halves), (pairs_from_halves, halves_from_pairs)):
        for tensor in (weight, bias):
            assert torch.equal(other(one(tensor, heads), heads), tensor)
            alone = [one(head, 1) for head in tensor.chunk(heads)]
            assert torch.equal(one(tensor, heads), torch.cat(alone))
    assert torch.equal(halves_from_pairs(bias, 1), bias[half_order(len(bias))])


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(2, 4))
def test_a_converted_layer_says_the_same_with_the_other_pairing(seed, heads, k):
    torch.manual_seed(seed)
    ours, x = SelfAttention(4 * k * heads, heads), torch.randn(2, 6, 4 * k * heads)
    torch.nn.init.normal_(ours.qkv.weight, std=0.4)
    torch.nn.init.normal_(ours.qkv.bias)
    theirs, places = copy.deepcopy(ours), torch.arange(6.0)[:, None]
    neighbours, halves = (AxialRope((4 * k,), 100.0, pairing)(places) for pairing in PAIRINGS)
    said = ours(x, neighbours)
    assert difference(theirs(x, halves), said) > 1e-3
    for tensor in (theirs.qkv.weight, theirs.qkv.bias):
        query, key, value = tensor.data.chunk(3)
        tensor.data = torch.cat([halves_from_pairs(query, heads), halves_from_pairs(key, heads), value])
    torch.testing.assert_close(theirs(x, halves), said, rtol=1e-4, atol=1e-5)


# Precision


@settings(max_examples=20, deadline=None)
@given(SEEDS, FAMILIES, st.integers(1, 3), st.integers(2, 6))
def test_half_precision_is_rounded_once_at_the_end(seed, family, heads, k):
    torch.manual_seed(seed)
    count, rope, _ = family(heads, k)
    turn, x = rope(torch.randint(0, 60, (5, count)).float()), torch.randn(2, heads, 5, 4 * k).bfloat16()
    assert turn(x).dtype == torch.bfloat16
    assert torch.equal(turn(x), turn(x.float()).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(turn(x), turn(x.float()).bfloat16())


@pytest.mark.parametrize("family", [one_axis, axial, mixed, three_axes])
def test_autocast_leaves_the_angles_of_large_coordinates_alone(family):
    torch.manual_seed(0)
    count, rope, exact = family(2, 4)
    places = torch.tensor([[998.0, 3, 1], [999, 1000, 997], [1000, 1000, 1001]])[:, :count]
    with torch.autocast("cpu", torch.bfloat16):
        turn = rope(places)
    assert turn.cos.dtype == turn.sin.dtype == torch.float32
    # float32 itself knows the angle 1000 to 3e-5, where it comes from learned frequencies; bfloat16 only to 2
    tolerance = 2e-4 if family is mixed else 1e-6
    assert difference(turn.cos[..., ::2], exact(places).cos()) < tolerance
    assert difference(turn.sin[..., 1::2], exact(places).sin()) < tolerance


def test_learned_frequencies_in_half_precision_make_angles_in_single():
    torch.manual_seed(0)
    ropes = Ropes("mixed", grid=3, depth=2, num_heads=2, head_size=16).bfloat16()
    ropes.place(3, 2, 1001)
    places = grid_coordinates(2, 1001)
    for rope, turn in zip(ropes, ropes(), strict=True):
        wanted = mixed_angles(places.double(), rope.freqs.detach().double())
        for found in (turn, rope(places)):
            assert found.cos.dtype == torch.float32
            assert difference(found.cos[..., ::2], wanted.cos()) < 2e-4
            assert difference(found.sin[..., 1::2], wanted.sin()) < 2e-4


def test_gradients_are_those_of_a_rotation_in_double_precision():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, dtype=torch.float64, requires_grad=True)
    angles = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    places = torch.randn(3, 2, dtype=torch.float64)
    frequencies = torch.randn(2, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotate, (x, angles))
    assert torch.autograd.gradcheck(lambda f: rotate(x, mixed_angles(places, f)), (frequencies,))
    for pairing in PAIRINGS:
        turn = Rotation.of(angles.detach(), pairing)
        assert turn(x).dtype == torch.float64
        assert torch.autograd.gradcheck(turn, (x,))


# Axial and mixed


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 6), st.sampled_from([10.0, 100.0, 10_000.0]))
def test_axial_is_mixed_that_looks_along_the_axes(seed, heads, k, base):
    torch.manual_seed(seed)
    places = torch.randint(-30, 31, (7, 2))
    along = mixed_angles(places, mixed_frequencies(torch.zeros(heads), 4 * k, base).double())
    wanted = axial_angles(places, (2 * k, 2 * k), base).expand(heads, -1, -1)
    torch.testing.assert_close(along, wanted, rtol=0, atol=2e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 6))
def test_mixed_starts_with_one_direction_a_head_and_its_right_angle(seed, heads, k):
    torch.manual_seed(seed)
    directions = 2 * math.pi * torch.rand(heads)
    row, column = mixed_frequencies(directions, 4 * k)
    lengths = rope_frequencies(2 * k, 10.0).float()
    torch.testing.assert_close(torch.hypot(row, column), lengths.repeat(2).expand(heads, -1))
    first, second = torch.complex(row, column).chunk(2, dim=1)
    torch.testing.assert_close(second, 1j * first, rtol=0, atol=1e-6)
    torch.testing.assert_close(first[:, 0], torch.polar(torch.ones(heads), directions), rtol=0, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 4), st.integers(2, 8), st.sampled_from([10.0, 100.0, 10_000.0]))
def test_the_kernel_of_axial_is_a_sum_over_the_axes_and_that_of_mixed_is_not(reach, k, base):
    grid = grid_coordinates(2 * reach + 1, 2 * reach + 1)
    along = offset_kernel(AxialRope((2 * k, 2 * k), base)(grid), reach)
    assert along.shape == (2 * reach + 1, 2 * reach + 1)
    assert along[reach, reach] == pytest.approx(1)
    assert along.diff(dim=0).diff(dim=1).abs().max() < 1e-5
    frequencies = mixed_frequencies(torch.tensor([0.0, math.pi / 2, math.pi / 4, 0.4]), 4 * k, base)
    kernels = offset_kernel(Rotation.of(mixed_angles(grid, frequencies)), reach)
    crossed = kernels.diff(dim=1).diff(dim=2).abs().amax(dim=(1, 2))
    assert crossed[:2].max() < 1e-5
    assert crossed[2:].min() > 1e-3
    torch.testing.assert_close(kernels, kernels.flip(1, 2), rtol=0, atol=1e-5)


@BOTH
def test_learned_directions_get_gradients_and_move(config):
    model = awake(replace(config, positions="mixed"))
    images, labels = normal(8, 3, 12, 12) if config is VIT else normal(8, 3, 8, 8), torch.arange(8) % 5
    loss = classification_loss if config is VIT else denoising_loss(RectifiedFlow())
    loss(model, (images, labels), torch.Generator().manual_seed(0)).backward()
    before = [rope.freqs.detach().clone() for rope in model.ropes]
    assert len(before) == config.depth
    for rope in model.ropes:
        assert (rope.freqs.grad != 0).all()
    fit(model, (images, labels), loss, steps=3, batch_size=8, lr=1e-2, progress=False)
    for rope, old in zip(model.ropes, before, strict=True):
        assert (rope.freqs != old).all()


def test_a_fresh_generator_learns_its_directions_too():
    """Its gates are zero at first: what lies behind them must wake in the end."""
    torch.manual_seed(0)
    model = DiT(replace(DIT, positions="mixed"))
    before = [rope.freqs.detach().clone() for rope in model.ropes]
    fit(
        model, (normal(8, 3, 8, 8), torch.arange(8) % 5), denoising_loss(RectifiedFlow()), steps=6, batch_size=8,
        lr=1e-2, progress=False,
    )  # fmt: skip
    for rope, old in zip(model.ropes, before, strict=True):
        assert difference(rope.freqs, old) > 1e-4


# Numbers of the papers and of their code


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        (100, (0.940, 0.518, 0.429, 0.242, 0.121, -0.021, -0.240, -0.058, 0.076)),
        (256, (0.949, 0.596, 0.521, 0.365, 0.266, 0.166, 0.048, -0.027, 0.050)),
        (2000, (0.961, 0.699, 0.643, 0.529, 0.509, 0.457, 0.383, 0.256, 0.047)),
        (10_000, (0.966, 0.748, 0.700, 0.605, 0.611, 0.435, 0.284, 0.354, 0.263)),
    ],
)
def test_equal_queries_and_keys_agree_less_with_distance(base, wanted):
    rope, far = AxialRope((64,), float(base)), (1, 4, 8, 16, 32, 64, 128, 256, 1024)
    turn = rope(torch.tensor([0.0, *far])[:, None])
    x = turn(torch.ones(1, 10, 64))[0]
    found = x[1:] @ x[0] / 64
    assert found.tolist() == pytest.approx(list(wanted), abs=6e-4)


@pytest.mark.parametrize(
    ("size", "base", "wanted"),
    [
        (56, 10_000, 45_219),  # FLUX.1, rows and columns
        (16, 10_000, 19_869),  # FLUX.1, the first axis
        (32, 2_000, 7_814),  # FLUX.2
        (48, 256, 1_277),  # Z-Image
        (32, 10_000, 35_333),  # Lumina-Image 2.0
        (32, 100, 471),  # RoPE-ViT, axial
    ],
)
def test_the_longest_wavelengths_are_those_of_the_models(size, base, wanted):
    frequencies = rope_frequencies(size, base)
    assert round(2 * math.pi / float(frequencies[-1])) == wanted
    assert frequencies[0] == 1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64), st.sampled_from([10.0, 100.0, 10_000.0]))
def test_frequencies_are_powers_of_the_base_to_all_digits(pairs, base):
    wanted = [base ** (-j / pairs) for j in range(pairs)]
    assert rope_frequencies(2 * pairs, base).tolist() == pytest.approx(wanted, rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 64), st.sampled_from([10.0, 100.0, 10_000.0]), st.floats(1.1, 8))
def test_a_longer_sequence_keeps_the_fastest_pair_and_slows_the_slowest(pairs, base, longer):
    ratio = rope_frequencies(2 * pairs, base, longer) / rope_frequencies(2 * pairs, base)
    assert float(ratio[0]) == 1
    assert float(ratio[-1]) == pytest.approx(1 / longer)
    assert (ratio.diff() < 0).all()


@pytest.mark.parametrize(("size", "wanted"), [("small", 4_608), ("base", 9_216), ("large", 24_576)])
def test_learned_directions_cost_a_few_thousand_weights(size, wanted):
    config = getattr(ViTConfig, size)()
    with torch.device("meta"):
        counts = {kind: trained_parameters(ViT(replace(config, positions=kind))) for kind in ("none", *ROTARY)}
    assert counts["mixed"] - counts["none"] == wanted
    assert counts["axial"] == counts["none"]


def test_an_axial_head_sees_a_diagonal_neighbour_as_the_sum_of_a_row_and_a_column():
    kernel = offset_kernel(AxialRope((32, 32), 100.0)(grid_coordinates(17, 17)), 8)
    assert [float(kernel[at]) for at in ((16, 8), (8, 16), (16, 16))] == pytest.approx([0.70, 0.70, 0.40], abs=0.02)
    assert float(kernel[16, 16]) == pytest.approx(float(kernel[16, 8] + kernel[8, 16]) - 1, abs=1e-6)


# Coordinates


def written_out(height, width, place):
    """Return the grid as two loops write it, in reading order."""
    return torch.tensor([place(row, column) for row in range(height) for column in range(width)], dtype=torch.float32)


def test_patches_are_counted_in_reading_order():
    assert grid_coordinates(2, 3).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, SIDES, st.sampled_from(STRETCHES), st.integers(0, 2), st.integers(0, 2))
def test_a_grid_of_another_size_is_counted_as_was_said(height, width, trained, stretch, before, after):
    longest = max(height, width)

    def place(row, column):
        if stretch in ("extend", "ntk"):
            return row, column
        if stretch == "centre":
            return trained / 2 + row - height / 2, trained / 2 + column - width / 2
        # Hunyuan-DiT's formula, with S for the trained side and the longer side below the line
        return tuple(trained / 2 + trained / longest * (i - n / 2) for i, n in ((row, height), (column, width)))

    found = grid_coordinates(height, width, trained, stretch, before, after)
    assert found.dtype == torch.float32
    patches = found[before : before + height * width]
    torch.testing.assert_close(patches, written_out(height, width, place), rtol=0, atol=1e-5)
    others = torch.cat([found[:before], found[before + height * width :]])
    assert torch.equal(others, torch.zeros(before + after, 2))


@pytest.mark.parametrize("stretch", STRETCHES)
@pytest.mark.parametrize("trained", [1, 4, 5, 7])
def test_the_grid_of_the_training_is_the_same_in_every_way(trained, stretch):
    assert torch.equal(grid_coordinates(trained, trained, trained, stretch), grid_coordinates(trained, trained))
    assert torch.equal(grid_coordinates(trained, trained, 0, stretch), grid_coordinates(trained, trained))


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 9), st.integers(2, 9), st.integers(2, 9))
def test_interpolation_fills_the_trained_range_and_keeps_patches_square(height, width, trained):
    grid = grid_coordinates(height, width, trained, "interpolate").unflatten(0, (height, width))
    step = trained / max(height, width)
    torch.testing.assert_close(grid[:, :, 0].diff(dim=0), torch.full((height - 1, width), step), rtol=0, atol=1e-5)
    torch.testing.assert_close(grid[:, :, 1].diff(dim=1), torch.full((height, width - 1), step), rtol=0, atol=1e-5)
    longer = int(width > height)
    assert float(grid[..., longer].min()) == pytest.approx(0, abs=1e-5)
    assert float(grid[..., longer].max()) + step == pytest.approx(trained, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(SIDES, SIDES)
def test_a_centred_grid_counts_from_the_middle_to_both_sides(height, width):
    rows, columns = range(-((height + 1) // 2), height // 2), range(-((width + 1) // 2), width // 2)
    found = centred_grid(height, width)
    assert found.dtype == torch.float32
    assert found.tolist() == [[row, column] for row in rows for column in columns]
    words = diagonal_text(3, height, width)
    assert float(words[0, 0]) == max(height // 2, width // 2) == float(found.max()) + 1


def test_three_by_four_patches_and_their_words_stand_where_qwen_image_puts_them():
    grid = centred_grid(3, 4)
    assert (grid[:, 0].min(), grid[:, 0].max(), grid[:, 1].min(), grid[:, 1].max()) == (-2, 0, -2, 1)
    assert diagonal_text(3, 3, 4).tolist() == [[2, 2, 2], [3, 3, 3], [4, 4, 4]]
    assert diagonal_text(2, 9, 4, axes=2).tolist() == [[4, 4], [5, 5]]


@pytest.mark.parametrize(
    ("text", "words", "picture"),
    [
        ("origin", [[0, 0, 0], [0, 0, 0]], lambda row, column: (0, row, column)),
        ("continued", [[0, 0, 0], [1, 0, 0]], lambda row, column: (2, row, column)),
        ("diagonal", [[1, 1, 1], [2, 2, 2]], lambda row, column: (0, row - 1, column - 2)),
    ],
)
def test_words_and_patches_stand_in_one_space(text, words, picture):
    found = joint_coordinates(2, 2, 3, text)
    assert found.tolist() == [*map(list, words), *written_out(2, 3, picture).tolist()]
    assert joint_coordinates(0, 2, 3, text).shape == (6, 3)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), SIDES, SIDES)
def test_no_word_on_the_diagonal_shares_a_number_with_a_patch(words, height, width):
    found = joint_coordinates(words, height, width, "diagonal")
    assert found[:words].min() > found[words:, 1:].max()
    assert torch.equal(found[:words], found[:words, :1].expand(-1, 3))


@pytest.mark.parametrize("reference", [4, 6.0, 32])
def test_a_scaled_grid_agrees_at_every_resolution_about_the_middle(reference):
    small, large = (
        scaled_grid(6, 4, reference).unflatten(0, (6, 4)),
        scaled_grid(12, 8, reference).unflatten(0, (12, 8)),
    )
    assert torch.equal(small[3, 2], torch.zeros(2))
    torch.testing.assert_close(large[::2, ::2], small, rtol=0, atol=1e-5)
    assert float(large.abs().max()) == pytest.approx(reference / 2)


@pytest.mark.parametrize("kind", ROTARY)
@pytest.mark.parametrize("stretch", ["extend", "centre", "interpolate"])
def test_tokens_beside_the_patches_are_not_rotated(kind, stretch):
    torch.manual_seed(0)
    ropes = Ropes(kind, grid=3, depth=2, num_heads=2, head_size=8, before=1, after=2)
    ropes.place(3, 4, 5, stretch)
    x = torch.randn(1, 2, 1 + 4 * 5 + 2, 8)
    for turn in ropes():
        turned = turn(x)
        assert torch.equal(turned[:, :, [0, -2, -1]], x[:, :, [0, -2, -1]])
        assert (turned != x)[:, :, 2:-2].any(dim=-1).all()


def test_blocks_share_fixed_rotations_and_have_learned_ones_of_their_own():
    fixed, learned = (Ropes(kind, 3, 3, 2, 8) for kind in ROTARY)
    assert len({id(turn) for turn in fixed()}) == 1
    assert not list(fixed.parameters())
    assert len({id(weight) for weight in learned.parameters()}) == 3
    assert not torch.equal(learned()[0].cos, learned()[1].cos)
    assert Ropes("none", 3, 3, 2, 8)() == [None] * 3


def test_the_bases_are_those_of_the_paper_unless_one_is_given():
    grid = grid_coordinates(3, 3)
    given = {base: Ropes("axial", 3, 1, 2, 8, base)()[0].cos for base in (None, 10.0)}
    assert torch.equal(given[None], Rotation.of(axial_angles(grid, (4, 4), 100.0)).cos)
    assert torch.equal(given[10.0], Rotation.of(axial_angles(grid, (4, 4), 10.0)).cos)
    for base, ratio in ((None, 10.0), (100.0, 100.0)):  # of two pairs the second is slower by the root of the base
        lengths = Ropes("mixed", 3, 1, 2, 8, base)[0].freqs.detach().norm(dim=0)
        torch.testing.assert_close(lengths[:, 0] / lengths[:, 1], torch.full((2,), ratio**0.5))


# What a common shift does to whole networks


@pytest.mark.parametrize("sides", [(5, 6), (4, 7)])
@pytest.mark.parametrize("kind", ROTARY)
@BOTH
def test_centring_changes_nothing_for_rotations_alone(config, kind, sides):
    model, patch = awake(replace(config, positions=kind)), config.patch_size
    height, width = (side * patch for side in sides)
    centred, extended = (answer(at_size(model, height, width, way), height, width) for way in ("centre", "extend"))
    assert difference(centred, extended) < 1e-4 * max(1, float(extended.abs().max()))
    squeezed = answer(at_size(model, height, width, "interpolate"), height, width)
    assert difference(squeezed, extended) > 1e-3


@pytest.mark.parametrize(
    "config",
    [
        replace(VIT, positions="sin-cos"),
        replace(DIT, positions="sin-cos"),
        *(replace(VIT, positions=kind, pool="cls") for kind in ROTARY),
        *(replace(DIT, positions=kind, conditioning="in-context") for kind in ROTARY),
    ],
    ids=lambda config: f"{type(config).__name__} {config.positions}",
)
def test_centring_is_noticed_where_something_stands_still(config):
    model, patch = awake(config), config.patch_size
    height, width = 5 * patch, 6 * patch
    centred, extended = (answer(at_size(model, height, width, way), height, width) for way in ("centre", "extend"))
    assert difference(centred, extended) > 1e-3


# Tables that are added


@settings(max_examples=20, deadline=None)
@given(SIDES, SIDES, st.integers(1, 8))
def test_the_table_at_whole_places_is_the_table(height, width, quarter):
    assert torch.equal(sin_cos_at(grid_coordinates(height, width), 4 * quarter), sin_cos_2d(height, width, 4 * quarter))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.data())
def test_cropping_takes_the_middle_as_sd3_does(trained, data):
    height, width = (data.draw(st.integers(1, trained)) for _ in range(2))
    table = written_out(trained, trained, lambda row, column: (row, column))[None]
    top, left = (trained - height) // 2, (trained - width) // 2
    wanted = written_out(height, width, lambda row, column: (top + row, left + column))[None]
    assert torch.equal(crop_table(table, trained, height, width), wanted)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 6), SIDES, SIDES, st.integers(1, 5))
def test_resizing_keeps_what_it_must(seed, trained, height, width, size):
    table = normal(1, trained**2, size, seed=seed)
    torch.testing.assert_close(resize_table(table, trained, trained, trained), table)
    thrice = resize_table(table, trained, 3 * trained, 3 * trained).unflatten(1, (3 * trained, 3 * trained))
    torch.testing.assert_close(thrice[:, 1::3, 1::3].flatten(1, 2), table)  # the middle of nine lies on the old place
    constant = normal(1, 1, size, seed=seed)
    found = resize_table(constant.expand(1, trained**2, size), trained, height, width)
    torch.testing.assert_close(found, constant.expand(1, height * width, size), rtol=1e-4, atol=1e-5)
    rows = written_out(trained, trained, lambda row, column: (row, 0))[None]
    tall = resize_table(rows, trained, height, width).unflatten(1, (height, width))
    torch.testing.assert_close(tall, tall[:, :, :1].expand_as(tall), rtol=1e-4, atol=1e-4)
    assert (tall[0, :, 0, 0].diff() > 0).all()


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 5), SIDES, SIDES, st.integers(0, 2), st.sampled_from(["extend", "centre", "interpolate"]))
def test_a_fixed_table_is_written_anew_beside_what_is_no_patch(seed, trained, height, width, before, stretch):
    extra = normal(1, before, 8, seed=seed)
    table = torch.cat([extra, sin_cos_2d(trained, trained, 8)[None]], dim=1)
    found = fit_table(table, "sin-cos", trained, height, width, stretch, before)
    wanted = sin_cos_at(grid_coordinates(height, width, trained, stretch), 8)[None]
    assert torch.equal(found, torch.cat([extra, wanted], dim=1))
    for kind in ("none", *ROTARY):
        if (height, width) != (trained, trained):
            found = fit_table(table, kind, trained, height, width, stretch, before)
            assert torch.equal(found, torch.cat([extra, torch.zeros(1, height * width, 8)], dim=1))


def test_a_learned_table_is_cropped_or_stretched_beside_what_is_no_patch():
    table = normal(1, 1 + 16, 6)
    for stretch, change, sides in (("centre", crop_table, (3, 2)), ("interpolate", resize_table, (6, 3))):
        found = fit_table(table, "learned", 4, *sides, stretch, before=1)
        assert torch.equal(found, torch.cat([table[:, :1], change(table[:, 1:], 4, *sides)], dim=1))
    for stretch in ("extend", "centre", "interpolate"):
        assert torch.equal(fit_table(table, "learned", 4, 4, 4, stretch, before=1), table)


# Wrong calls


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: rope_frequencies(5), "size is 5; channels turn in pairs, so it must be even"),
        (lambda: rope_frequencies(0), "must be even"),
        (lambda: AxialRope((4, 3)), "size is 3"),
        (lambda: axial_angles(torch.zeros(2, 3), (4, 4)), "3 coordinates for 2 axes of channels"),
        (lambda: AxialRope((4,))(torch.zeros(2, 2)), "2 coordinates for 1 axes"),
        (lambda: Rotation.of(torch.zeros(2, 2), "pairs"), "'pairs'; it must be one of interleaved, half-split"),
        (lambda: AxialRope((4,), pairing="pairs")(torch.zeros(2, 1)), "interleaved, half-split"),
        (lambda: Rotation.of(torch.zeros(5, 2))(torch.zeros(1, 6, 4)), r"shape \(1, 6, 4\); expected \(B, h, 5, 4\)"),
        (lambda: Rotation.of(torch.zeros(5, 2))(torch.zeros(1, 5, 8)), "made for 5 tokens of 4 channels in each head"),
        (lambda: Rotation.of(torch.zeros(5, 2))(torch.zeros(5, 4)), r"shape \(5, 4\); expected \(B, h, 5, 4\)"),
        (lambda: mixed_frequencies(torch.zeros(2), 6), "head_size is 6; two halves of pairs need a multiple of 4"),
        (lambda: ViT(replace(VIT, num_heads=4, positions="axial")), "heads of a multiple of 4 channels, not 6"),
        (lambda: DiT(replace(DIT, num_heads=4, positions="mixed")), "heads of a multiple of 4 channels, not 6"),
        (lambda: replace(DIT, positions="rope"), "one of none, learned, sin-cos, axial, mixed"),
        (lambda: Ropes("rope", 3, 1, 2, 8), "one of none, learned, sin-cos, axial, mixed"),
        (lambda: joint_coordinates(2, 3, 3, "left"), "one of origin, continued, diagonal"),
        (lambda: crop_table(torch.zeros(1, 9, 4), 3, 2, 4), "3×3 places has no 2×4 of them"),
        (lambda: fit_table(torch.zeros(1, 9, 4), "learned", 3, 4, 4, "extend"), "take stretch='interpolate'"),
        (lambda: fit_table(torch.zeros(1, 9, 4), "learned", 3, 4, 3, "centre"), "has no 4×3 of them"),
        (lambda: fit_table(torch.zeros(1, 9, 4), "rope", 3, 4, 4, "extend"), "positions is 'rope'; it must be one of"),
        (lambda: fit_table(torch.zeros(1, 9, 4), "none", 3, 4, 4, "zoom"), "one of extend, centre, interpolate, ntk"),
        (lambda: fit_table(torch.zeros(1, 9, 4), "sin-cos", 3, 4, 4, "ntk"), "positions 'axial', not 'sin-cos'"),
        (lambda: at_size(awake(replace(VIT, positions="axial")), 16, 18), "at_size: 16×18 pixels do not divide into"),
        (lambda: at_size(awake(replace(DIT, positions="learned")), 16, 8), "4×4 places and cannot go on to 8×4"),
        (lambda: at_size(awake(replace(VIT, positions="learned")), 8, 12, "extend"), "and cannot go on to 2×3"),
        (lambda: at_size(awake(replace(VIT, positions="learned")), 16, 12, "centre"), "has no 4×3 of them"),
        (lambda: at_size(awake(replace(VIT, positions="axial")), 16, 12, "zoom"), "extend, centre, interpolate, ntk"),
        (lambda: at_size(awake(replace(VIT, positions="mixed")), 16, 12, "ntk"), "'axial', not 'mixed'"),
        (lambda: at_size(awake(replace(VIT, positions="sin-cos")), 16, 12, "ntk"), "'axial', not 'sin-cos'"),
        (lambda: at_size(awake(DIT), 16, 12, "ntk"), "'axial', not 'none'"),
    ],
)  # fmt: skip
def test_wrong_calls_are_told_what_would_fit(call, says):
    with pytest.raises(ValueError, match=says):
        call()


# Networks at other sizes

WAYS = [
    *((kind, stretch) for kind in KINDS for stretch in ("extend", "centre", "interpolate") if kind != "learned"),
    ("learned", "interpolate"),
    ("axial", "ntk"),
]


@pytest.mark.parametrize(("kind", "stretch"), WAYS)
@BOTH
def test_a_network_meets_another_size_in_a_copy(config, kind, stretch):
    model = awake(replace(config, positions=kind))
    side, patch = model.height, config.patch_size
    said, state = answer(model, side, side), copy.deepcopy(model.state_dict())
    height, width = 5 * patch, 2 * patch
    other = at_size(model, height, width, stretch)
    found = answer(other, height, width)
    assert found.shape == ((2, 5) if config is VIT else (2, 3, height, width))
    with pytest.raises(ValueError, match=rf"\(B, 3, {height}, {width}\), got \(2, 3, {side}, {side}\)"):
        answer(other, side, side)
    for weight in other.parameters():
        weight.data += 1
    assert torch.equal(answer(model, side, side), said)
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("kind", "stretch"), [*WAYS, ("learned", "extend"), ("learned", "centre")])
@BOTH
def test_a_network_at_its_own_size_is_the_same(config, kind, stretch):
    model = awake(replace(config, positions=kind))
    side = model.height
    assert torch.equal(answer(at_size(model, side, side, stretch), side, side), answer(model, side, side))


@pytest.mark.parametrize(("kind", "stretch"), [way for way in WAYS if way[0] in ROTARY])
@BOTH
def test_the_rotations_of_another_size_are_those_of_its_grid(config, kind, stretch):
    model = awake(replace(config, positions=kind))
    grid, patch = config.grid, config.patch_size
    sized = at_size(model, 5 * patch, 2 * patch, stretch)
    places = grid_coordinates(5, 2, grid, stretch)
    longer = 5 / grid if stretch == "ntk" else 1.0
    for turn, rope in zip(sized.ropes(), model.ropes, strict=True):
        exact = axial_angles(places, (4, 4), 100.0, longer) if kind == "axial" else mixed_angles(places, rope.freqs)
        assert torch.equal(turn.cos, Rotation.of(exact).cos)
        assert torch.equal(turn.sin, Rotation.of(exact).sin)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_the_table_of_another_size_keeps_the_row_of_the_class_token(pool):
    ways = [("learned", "interpolate", (5, 2)), ("learned", "centre", (2, 3)), ("sin-cos", "interpolate", (5, 2))]
    for kind, stretch, sides in ways:
        model = awake(replace(VIT, positions=kind, pool=pool))
        before = int(pool == "cls")
        found = at_size(model, 4 * sides[0], 4 * sides[1], stretch).pos_embed
        assert torch.equal(found, fit_table(model.pos_embed, kind, 3, *sides, stretch, before))
        assert torch.equal(found[:, :before], model.pos_embed[:, :before])
        assert found.requires_grad == (kind == "learned")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("conditioning", list(BLOCKS))
def test_every_conditioning_knows_every_kind_of_position(conditioning, kind):
    """With the same weights and no positions the answer is another one; only patches are rotated."""
    config = replace(DIT, conditioning=conditioning, positions=kind)
    model, deaf = awake(config), awake(replace(config, positions="none"))
    state = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(("ropes", "pos_embed"))}
    deaf.load_state_dict(state, strict=False)
    assert (difference(answer(model, 8, 8), answer(deaf, 8, 8)) > 1e-3) == (kind != "none")
    for size in (model, at_size(model, 12, 8, "interpolate")):
        assert answer(size, size.height, size.width).shape == (2, 3, size.height, size.width)
        patches, others = size.height * size.width // 4, 2 * (conditioning == "in-context")
        for turn in size.ropes():
            if kind in ROTARY:
                assert turn.cos.shape[-2] == patches + others
                assert (turn.cos[..., patches:, :] == 1).all()
                assert not turn.sin[..., patches:, :].any()
            else:
                assert turn is None


@pytest.mark.parametrize("kind", ROTARY)
def test_attention_maps_are_those_of_rotated_queries_and_keys(kind):
    model, images = awake(replace(VIT, positions=kind)), normal(2, 3, 12, 12)
    block, turn = model.blocks[0], model.ropes()[0]
    wanted = block.attn.map(block.norm1(model.embed(images)), turn)
    assert torch.equal(model.attention_maps(images)[0], wanted)
    assert difference(wanted, block.attn.map(block.norm1(model.embed(images)))) > 1e-3


# Copies, files, and the table that is kept


@BOTH
def test_rotations_are_no_part_of_a_file(config):
    model, plain = awake(replace(config, positions="axial")), awake(config)
    learned = awake(replace(config, positions="mixed"))
    side = model.height
    said = answer(model, side, side)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert learned.state_dict().keys() - plain.state_dict().keys() == {"ropes.0.freqs", "ropes.1.freqs"}
    again = awake(replace(config, positions="axial"), seed=1)
    assert not torch.equal(answer(again, side, side), said)
    again.load_state_dict(model.state_dict())
    assert torch.equal(answer(again, side, side), said)
    for network in (model, learned):
        twin = copy.deepcopy(network)
        assert torch.equal(answer(twin, side, side), answer(network, side, side))
        assert {id(weight) for weight in twin.parameters()}.isdisjoint({id(weight) for weight in network.parameters()})


def test_a_table_is_kept_for_the_same_places_only():
    rope, grid = AxialRope((4, 4), 100.0), grid_coordinates(3, 4)
    kept = rope(grid)
    assert rope(grid) is kept
    for places, longer in ((grid, 2.0), (grid, 1.0), (grid + 1, 1.0), (grid_coordinates(4, 3), 1.0), (grid, 1.0)):
        wanted = Rotation.of(axial_angles(places, (4, 4), 100.0, longer))
        assert torch.equal(rope(places, longer).cos, wanted.cos)
        assert torch.equal(rope(places, longer).sin, wanted.sin)
    assert grid_coordinates(3, 4) is grid


@pytest.fixture
def fresh_grids():
    """Grids are kept for the whole process; a test of what is kept needs new ones, and leaves none behind."""
    grid_coordinates.cache_clear()
    yield
    grid_coordinates.cache_clear()


@pytest.mark.parametrize("kind", ["axial", "mixed"])
@BOTH
def test_a_network_can_be_used_before_it_is_trained(config, kind, fresh_grids):
    model = awake(replace(config, positions=kind))
    side = model.height
    with torch.inference_mode():
        answer(model, side, side)
    images, labels = normal(4, 3, side, side), torch.arange(4)
    loss = classification_loss if config is VIT else denoising_loss(RectifiedFlow())
    loss(model, (images, labels), torch.Generator().manual_seed(0)).backward()
    assert model.blocks[0].attn.qkv.weight.grad.abs().max() > 0


@pytest.mark.parametrize("kind", ROTARY)
@BOTH
def test_counting_on_the_meta_device_leaves_nothing_behind(config, kind, fresh_grids):
    model = awake(replace(config, positions=kind))
    side = model.height
    said = answer(copy.deepcopy(model), side, side)
    grid_coordinates.cache_clear()
    inputs = (torch.empty(1, 3, side, side), torch.empty(1), torch.empty(1, dtype=torch.long))
    inputs = tuple(part.to("meta") for part in inputs[: 1 if config is VIT else 3])
    empty = copy.deepcopy(model).to("meta")
    macs = count_macs(empty, *inputs)
    with torch.device("meta"):
        assert count_macs(type(model)(config), *inputs) == macs  # rotations are no matrix products
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert torch.equal(answer(empty, side, side), said)
    assert torch.equal(answer(model, side, side), said)


@pytest.mark.parametrize("kind", ["learned", "sin-cos", "axial"])
@BOTH
def test_a_copy_for_another_size_is_no_start_for_a_third(config, kind):
    model = awake(replace(config, positions=kind))
    side = model.height
    other = at_size(model, 2 * side, side, "interpolate")
    with pytest.raises(ValueError, match=f"already a copy for {2 * side}×{side} pixels; start from the network"):
        at_size(other, side, side, "interpolate")


def test_a_network_without_positions_refuses_what_is_no_stretch():
    with pytest.raises(ValueError, match="stretch is 'zoom'; it must be one of"):
        at_size(awake(replace(VIT, positions="none")), 2 * VIT.image_size, VIT.image_size, "zoom")


def test_a_table_can_be_made_for_another_size_on_the_meta_device():
    with torch.device("meta"):
        model = DiT(replace(DIT, positions="sin-cos"))
        grid_coordinates.cache_clear()
        assert at_size(model, 2 * DIT.input_size, DIT.input_size).pos_embed.is_meta
    assert not grid_coordinates(3, 3).is_meta
