"""Time and label embeddings, the four ways to inject a condition, the small denoisers and guidance."""

import pytest
import torch
from torch import nn

from lesson_lib import condition, embed
from lesson_lib.denoiser import ConvDenoiser, PointDenoiser
from lesson_lib.guidance import Guided, guide, guide_first


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter, zero-initialised ones too, so that no part of a comparison is hidden."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module


@pytest.mark.parametrize(
    ("convention", "flip", "shift"), [("dit", True, 0), ("ddpm", False, 1), ("diffusers-dit", True, 1)]
)
def test_time_features_equal_diffusers(convention, flip, shift):
    from diffusers.models.embeddings import get_timestep_embedding

    t = torch.tensor([0.0, 0.5, 17.0, 250.0, 999.0])
    theirs = get_timestep_embedding(t, 64, flip_sin_to_cos=flip, downscale_freq_shift=shift)
    torch.testing.assert_close(embed.sinusoidal(t, 64, convention=convention), theirs, rtol=1e-5, atol=1e-5)


def test_conventions_of_time_are_not_interchangeable():
    t = torch.tensor([3.0, 999.0])
    tables = [embed.sinusoidal(t, 256, convention=name) for name in embed.CONVENTIONS]
    for i in range(3):
        for j in range(i):
            assert (tables[i] - tables[j]).abs().max() > 0.5


def test_time_embedder_equals_diffusers_by_transplanted_weights():
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps

    ours = randomise(embed.TimeEmbedder(32, frequencies=16))
    theirs = TimestepEmbedding(16, 32)
    theirs.linear_1.load_state_dict(ours.mlp[0].state_dict())
    theirs.linear_2.load_state_dict(ours.mlp[2].state_dict())
    t = torch.tensor([0.0, 12.0, 640.5])
    wanted = theirs(Timesteps(16, flip_sin_to_cos=True, downscale_freq_shift=0)(t))
    torch.testing.assert_close(ours(t), wanted, rtol=1e-5, atol=1e-5)


def test_labels_are_dropped_at_the_asked_rate_and_the_argument_is_kept():
    labels = torch.arange(10).repeat(2000)
    before = labels.clone()
    dropped = embed.drop_labels(labels, 0.1, 10, torch.Generator().manual_seed(0))
    assert torch.equal(labels, before)
    rate = (dropped == 10).double().mean().item()
    assert abs(rate - 0.1) < 4 * (0.09 / 20_000) ** 0.5
    assert torch.equal(dropped[dropped != 10], labels[dropped != 10])
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(embed.drop_labels(labels, 0.0, 10, generator), labels)
    assert (embed.drop_labels(labels, 1.0, 10, generator) == 10).all()


@pytest.mark.parametrize("way", list(condition.INJECTIONS))
def test_every_way_keeps_shape_hears_the_condition_and_passes_gradients(way):
    layer = randomise(condition.injection(way, 8, 6))
    h, c = torch.randn(3, 8, 4, 5, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    out = layer(h, c)
    assert out.shape == h.shape
    assert not torch.allclose(out, layer(h, c + 1))
    out.square().mean().backward()
    assert h.grad.abs().sum() > 0
    assert c.grad.abs().sum() > 0


def test_concat_is_add_after_a_mix():
    """Splitting the 1×1 convolution's weights shows it: concatenation can only shift by the condition."""
    concat, add = randomise(condition.Concat(8, 6)), randomise(condition.Add(8, 6))
    h, c = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    with torch.no_grad():
        add.project.weight.copy_(concat.mix.weight[:, 8:, 0, 0])
        add.project.bias.copy_(concat.mix.bias)
        mixed = nn.functional.conv2d(h, concat.mix.weight[:, :8])
    torch.testing.assert_close(concat(h, c), add(mixed, c), rtol=1e-5, atol=1e-5)


def test_cross_attention_to_one_token_is_add_and_to_several_is_not():
    layer = randomise(condition.CrossAttention(8, 6))
    h, tokens = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 6)
    moved = layer(h, tokens[:, 0]) - h
    torch.testing.assert_close(moved, moved[:, :, :1, :1].expand_as(moved), rtol=1e-4, atol=1e-5)
    moved = layer(h, tokens) - h
    assert (moved - moved[:, :, :1, :1]).abs().max() > 1e-3


def test_cross_attention_equals_torch():
    layer = randomise(condition.CrossAttention(8, 6))
    h, tokens = torch.randn(2, 8, 4, 4), torch.randn(2, 3, 6)
    q = layer.query(h.flatten(2).mT)
    wanted = nn.functional.scaled_dot_product_attention(q, layer.key(tokens), layer.value(tokens))
    wanted = h + layer.out(wanted).mT.reshape(h.shape)
    torch.testing.assert_close(layer(h, tokens), wanted, rtol=1e-5, atol=1e-6)


def test_denoisers_start_at_zero_and_hear_everything():
    x, t, labels = torch.randn(4, 3, 16, 16), torch.rand(4) * 1000, torch.tensor([0, 1, 2, 3])
    model = ConvDenoiser(3, patch_size=2, width=16, depth=2, num_classes=3)
    assert model(x, t, labels).abs().max() == 0
    randomise(model)
    out = model(x, t, labels)
    assert out.shape == x.shape
    assert not torch.allclose(out, model(x, t * 0.5, labels))
    assert not torch.allclose(out, model(x, t, labels.flip(0)))
    features = randomise(ConvDenoiser(3, width=16, depth=1, feature_size=5))
    assert features(x, t, torch.randn(4, 5)).shape == x.shape
    plain = randomise(ConvDenoiser(3, width=16, depth=1))
    assert plain(x, t).shape == x.shape
    points = randomise(PointDenoiser(width=16, depth=1, num_classes=3))
    p = torch.randn(4, 2)
    assert not torch.allclose(points(p, t, labels), points(p, t, labels.flip(0)))
    assert randomise(PointDenoiser(width=16))(p, t).shape == p.shape


def test_guidance_extrapolates_and_runs_once_at_scale_one():
    cond, uncond = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(guide(cond, uncond, 0.0), uncond)
    torch.testing.assert_close(guide(cond, uncond, 1.0), cond)
    torch.testing.assert_close(guide(cond, uncond, 1 + 0.7), (1 + 0.7) * cond - 0.7 * uncond)
    sizes = []

    class Model(nn.Module):
        num_classes = 10

        def forward(self, x, t, labels):
            sizes.append(len(x))
            return x * 0 + labels.view(-1, 1, 1, 1)

    x, t, labels = torch.zeros(2, 1, 2, 2), torch.zeros(2), torch.tensor([4, 7])
    assert Guided(Model(), labels, 1.0)(x, t)[:, 0, 0, 0].tolist() == [4, 7]
    assert Guided(Model(), labels, 2.0)(x, t)[:, 0, 0, 0].tolist() == [-2, 4]
    assert sizes == [2, 4]


def test_wrong_calls_get_a_sentence():
    with pytest.raises(ValueError, match="even and at least 4"):
        embed.sinusoidal(torch.zeros(2), 7)
    with pytest.raises(ValueError, match="one time for each image"):
        embed.sinusoidal(torch.zeros(2, 1), 8)
    with pytest.raises(ValueError, match="dit, ddpm, diffusers-dit"):
        embed.sinusoidal(torch.zeros(2), 8, convention="sd3")
    with pytest.raises(ValueError, match="10 is the null class"):
        embed.LabelEmbedder(10, 4)(torch.tensor([3, 11]))
    with pytest.raises(ValueError, match="concat, add, film, cross-attention"):
        condition.injection("adaln", 4, 4)
    with pytest.raises(ValueError, match="do not divide into patches of 4"):
        ConvDenoiser(1, patch_size=4, width=8, depth=1)(torch.zeros(1, 1, 10, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="built with a condition"):
        ConvDenoiser(1, width=8, depth=1, num_classes=2)(torch.zeros(1, 1, 8, 8), torch.zeros(1))
    with pytest.raises(ValueError, match="has none"):
        Guided(PointDenoiser(), torch.zeros(2, dtype=torch.int64), 2.0)
    with pytest.raises(ValueError, match="3 labels for 2 images"):
        Guided(ConvDenoiser(num_classes=4, width=8, depth=1), torch.zeros(3, dtype=torch.int64))(
            torch.zeros(2, 1, 8, 8), torch.zeros(2)
        )


def test_guide_first_leaves_the_other_channels_as_with_the_class():
    cond, uncond = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    found = guide_first(cond, uncond, 4.0)
    torch.testing.assert_close(found[:, :3], guide(cond, uncond, 4.0)[:, :3])
    assert torch.equal(found[:, 3:], cond[:, 3:])
    torch.testing.assert_close(guide_first(cond, uncond, 4.0, channels=4), guide(cond, uncond, 4.0))
