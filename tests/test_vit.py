"""Positions and the Vision Transformer: patches against slices, presets, invariances, and what wrong input is told."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib.position import sin_cos_1d, sin_cos_2d
from lesson_lib.vit import EncoderBlock, PatchEmbed, ViT, ViTConfig, check_patches, patchify

SMALL = ViTConfig(image_size=12, patch_size=4, in_channels=2, num_classes=5, hidden_size=24, depth=2, num_heads=3)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
def test_patchify_reads_the_picture_row_by_row(batch, channels, rows, columns, p):
    images = normal(batch, channels, rows * p, columns * p)
    found = patchify(images, p)
    assert found.shape == (batch, rows * columns, channels * p * p)
    for row in range(rows):
        for column in range(columns):
            patch = images[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p]
            torch.testing.assert_close(found[:, row * columns + column], patch.flatten(1))


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 100))
def test_a_patch_embedding_is_patchify_and_a_linear_layer(channels, p, seed):
    torch.manual_seed(seed)
    layer, images = PatchEmbed(p, channels, 7), normal(2, channels, 3 * p, 2 * p, seed=seed)
    wanted = patchify(images, p) @ layer.proj.weight.flatten(1).T + layer.proj.bias
    torch.testing.assert_close(layer(images), wanted, rtol=1e-4, atol=1e-5)


def test_sines_come_first_and_frequencies_fall():
    table = sin_cos_1d(torch.arange(5), 6)
    assert table.shape == (5, 6)
    omega = 10000 ** (-torch.arange(3, dtype=torch.float64) / 3)
    torch.testing.assert_close(table[3, :3].double(), (3 * omega).sin(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(table[3, 3:].double(), (3 * omega).cos(), rtol=1e-6, atol=1e-7)


def test_the_first_half_of_a_position_says_the_column():
    table = sin_cos_2d(3, 5, 16).unflatten(0, (3, 5))
    assert torch.equal(table[0, :, :8], table[2, :, :8])  # another row, the same first half
    assert torch.equal(table[:, 1, 8:], table[:, 4, 8:])  # another column, the same second half
    assert not torch.equal(table[0, 0, :8], table[0, 1, :8])
    torch.testing.assert_close(table[1, 4, :8], sin_cos_1d(torch.tensor([4]), 8)[0])


def test_all_places_of_a_grid_differ():
    table = sin_cos_2d(16, 16, 64)
    assert len(table.unique(dim=0)) == 256


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sin_cos_1d(torch.arange(3), 5), "must be even"),
        (lambda: sin_cos_2d(2, 2, 30), "28 and 32 fit"),
        (lambda: patchify(torch.zeros(1, 3, 30, 32), 4), "patch_size 1 or 2"),
        (lambda: patchify(torch.zeros(1, 3, 30, 32), 4), "pad the picture to 32×32"),
        (lambda: check_patches("x", 8, 8, 0), "at least 1"),
        (lambda: replace(SMALL, patch_size=5), "do not divide into patches of 5"),
        (lambda: replace(SMALL, num_heads=5), "does not divide into 5 heads"),
        (lambda: replace(SMALL, positions="rope"), "none, learned, sin-cos, axial, mixed"),
        (lambda: replace(SMALL, pool="max"), "cls, mean"),
        (lambda: replace(SMALL, positions="sin-cos", hidden_size=30), "28 and 32 fit"),
        (lambda: ViT(SMALL)(torch.zeros(1, 3, 12, 12)), r"\(B, 2, 12, 12\), got \(1, 3, 12, 12\)"),
    ],
)
def test_wrong_input_is_told_what_would_fit(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize("positions", ["learned", "sin-cos", "none"])
@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_every_kind_classifies_learns_and_repeats(positions, pool):
    model = ViT(replace(SMALL, positions=positions, pool=pool))
    images = normal(3, 2, 12, 12)
    logits = model(images)
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    silent = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not silent
    assert (model.pos_embed is None) == (positions == "none")
    assert model.pos_embed is None or model.pos_embed.requires_grad == (positions == "learned")


def shuffled(images, order, p=4):
    parts = images.unfold(2, p, p).unfold(3, p, p).flatten(2, 3)[:, :, order]
    rows = parts.unflatten(2, (3, 3)).permute(0, 1, 2, 4, 3, 5)
    return rows.reshape(images.shape)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_without_positions_the_order_of_the_patches_means_nothing(pool):
    torch.manual_seed(0)
    images, order = normal(2, 2, 12, 12), torch.tensor([4, 0, 8, 2, 6, 1, 7, 3, 5])
    deaf = ViT(replace(SMALL, positions="none", pool=pool)).eval()
    torch.testing.assert_close(deaf(shuffled(images, order)), deaf(images), rtol=1e-4, atol=1e-5)
    hears = ViT(replace(SMALL, positions="sin-cos", pool=pool)).eval()
    assert (hears(shuffled(images, order)) - hears(images)).abs().max() > 1e-3


def test_attention_maps_are_shares_and_those_that_the_blocks_use():
    torch.manual_seed(0)
    model, images = ViT(SMALL).eval(), normal(2, 2, 12, 12)
    maps = model.attention_maps(images)
    assert [tuple(one.shape) for one in maps] == [(2, 3, 10, 10)] * 2
    for one in maps:
        torch.testing.assert_close(one.sum(dim=-1), torch.ones(2, 3, 10))
    x = model.embed(images)
    block = model.blocks[0]
    value = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)[2].unflatten(-1, (3, 8)).transpose(1, 2)
    answer = block.attn.proj((maps[0] @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(answer, block.attn(block.norm1(x)), rtol=1e-4, atol=1e-6)


def test_a_block_without_its_branches_is_the_identity():
    block, x = EncoderBlock(12, 3), normal(2, 5, 12)
    for layer in (block.attn.proj, block.mlp.fc2):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    assert torch.equal(block(x), x)
