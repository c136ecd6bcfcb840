"""Reading attention: what is recorded is what the networks mix with, and every number is what it says."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib.attention import CrossAttention, SelfAttention, Words, attend, attention_map, masked_map
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.mmdit import MMDiT, MMDiTConfig, joint_attention
from lesson_lib.position import AxialRope
from lesson_lib.readout import (
    BLOCKS,
    four_blocks,
    image_to_text,
    patch_cover,
    prompt_maps,
    recorded,
    share_inside,
    text_mass,
    word_map,
)
from lesson_lib.text import PADDING, CaptionConfig, CaptionEncoder, TextToImage, WordTokenizer

SEEDS = st.integers(0, 10_000)
JOINT = MMDiTConfig(
    8, 2, 3, hidden_size=24, num_heads=2, double=2, single=1, context_size=16, pooled_size=16, places="origin",
    axes=(6, 6),
)  # fmt: skip
CROSS = DiTConfig(
    8, 2, 3, hidden_size=24, depth=2, num_heads=2, num_classes=0, context_size=16, conditioning="adaln-single"
)
CAPTIONS = ("a small red circle at the top left", "a red circle above a blue square")


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def awake(model, seed=0):
    """Give every tensor random numbers: what starts at zero would hide a mistake."""
    g = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=g) * 0.15
    return model.eval()


def speaking(config):
    """Return a text-to-image network whose every weight says something, and what to call it with."""
    tokenizer = WordTokenizer.shapes()
    encoder = CaptionEncoder(CaptionConfig(tokenizer.words, tokenizer.length, width=16, depth=1, num_heads=2))
    model = awake(TextToImage(encoder, MMDiT(config) if isinstance(config, MMDiTConfig) else DiT(config)))
    return model, (normal(2, 3, 8, 8), torch.tensor([100.0, 800.0]), tokenizer(CAPTIONS))


def joint_maps(seed, heads=2, words=3, patches=6):
    """Return some joint map, whose rows sum to 1."""
    return normal(2, heads, words + patches, words + patches, seed=seed).softmax(dim=-1)


# What is recorded


def test_the_maps_of_a_layer_are_recorded_as_it_computes_them():
    own, other = awake(SelfAttention(8, 2)), awake(CrossAttention(8, 6, 2))
    x, words = normal(2, 5, 8), Words(normal(2, 4, 6), torch.arange(4) < torch.tensor([[4], [2]]))
    rotate = AxialRope((4,))(torch.arange(5.0)[:, None])
    with recorded() as maps:
        own(x), own(x, rotate), other(x, words), other(x, words.tokens)
    wanted = [own.map(x), own.map(x, rotate), other.map(x, words), other.map(x, words.tokens)]
    assert len(maps) == 4
    for found, right in zip(maps, wanted, strict=True):
        torch.testing.assert_close(found, right)
        assert not found.requires_grad
    assert not maps[2][1, ..., 2:].any()


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 5), st.booleans())
def test_scores_are_what_the_softmax_gets(seed, heads, queries, keys, masked):
    query, (key, value) = 3 * normal(2, heads, queries, 4, seed=seed), normal(2, 2, heads, keys, 4, seed=seed + 1)
    mask = (normal(2, keys, seed=seed) > 0) | (torch.arange(keys) == 0) if masked else None
    with recorded(scores=True) as scores, recorded() as maps:
        attend(query, key, value, mask=mask)
    right = attention_map(query, key) if mask is None else masked_map(query, key, mask)
    torch.testing.assert_close(maps[0], right)
    torch.testing.assert_close(scores[0].softmax(dim=-1), right)
    for b in range(2):
        for n in range(keys):
            if mask is None or mask[b, n]:
                torch.testing.assert_close(scores[0][b, :, :, n], (query[b] @ key[b, :, n, :, None])[..., 0] / 2)
            else:
                assert (scores[0][b, :, :, n] == -torch.inf).all()


def test_recording_ends_with_its_block_and_leaves_the_answer_alone():
    layer, x = awake(SelfAttention(8, 2)), normal(1, 5, 8)
    answer = layer(x)
    with recorded() as maps:
        assert torch.equal(layer(x), answer)
        layer(2 * x)
    layer(x)
    assert len(maps) == 2
    torch.testing.assert_close(maps[1], layer.map(2 * x))
    with pytest.raises(RuntimeError, match="stop"), recorded():
        raise RuntimeError("stop")
    layer(x)
    assert len(maps) == 2


@pytest.mark.parametrize(
    "config", [JOINT, replace(JOINT, single=0, double=3), CROSS], ids=["hybrid", "double", "cross"]
)
@pytest.mark.parametrize("scores", [False, True])
def test_a_prompt_gives_the_maps_of_the_network_without_those_of_its_encoder(config, scores):
    model, call = speaking(config)
    answer = model(*call)
    maps = prompt_maps(model, *call, scores=scores)
    joint, own, asked = (2, 2, 27, 27), (2, 2, 16, 16), (2, 2, 16, 11)
    assert [tuple(one.shape) for one in maps] == ([own, asked] * 2 if config is CROSS else [joint] * 3)
    assert torch.equal(model(*call), answer)
    padding = call[2] == PADDING
    for one in maps:
        shares = one.softmax(dim=-1) if scores else one
        torch.testing.assert_close(shares.sum(dim=-1), torch.ones(one.shape[:-1]))
        if one.shape[-1] != 16:  # these ask words: nobody asks the padding, everybody the end
            to_words = shares[..., :11].transpose(1, 3)
            assert not to_words[padding].any()
            assert (to_words[~padding] > 0).all()
    first = model.network.blocks[0] if config is CROSS else model.network.double_blocks[0]
    seen = []
    if config is CROSS:
        first.cross_attn.register_forward_pre_hook(lambda layer, args: seen.append(layer.map(*args)))
        model(*call)
        right, found = seen[0], maps[1]
    else:
        right, found = joint_by_hand(model, call), maps[0]
    torch.testing.assert_close(found.softmax(dim=-1) if scores else found, right, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def joint_by_hand(model, call):
    """Return the map of the first double-stream block, from its queries and keys."""
    network, (x, t, ids) = model.network, call
    pooled, words = model.hear(ids)
    c = network.t_embedder(t) + network.y_embedder(pooled)
    block, text, image = network.double_blocks[0], network.context_embedder(words.tokens), network.x_embedder(x)
    asked = (
        block.text.ask(text, block.text.adaLN_modulation(c)),
        block.image.ask(image, block.image.adaLN_modulation(c)),
    )
    rotate = network.rotation(11, 4, 4, x.device)
    query, key = (rotate(torch.cat([side[n] for side in asked], dim=2)) for n in (0, 1))
    everyone = torch.cat([words.mask, torch.ones(2, 16, dtype=torch.bool)], dim=1)
    return masked_map(query, key, everyone)


# What is read


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 4))
def test_four_blocks_are_the_whole_map(seed, words, patches):
    joint = joint_maps(seed, 2, words, patches)
    cut = four_blocks(joint, words)
    assert tuple(cut) == BLOCKS == ("text → text", "text → image", "image → text", "image → image")
    rows = [torch.cat([cut[f"{side} → text"], cut[f"{side} → image"]], dim=3) for side in ("text", "image")]
    assert torch.equal(torch.cat(rows, dim=2), joint)
    assert cut["text → image"].shape == (2, 2, words, patches)
    even = four_blocks(joint, words, renormalise=True)
    for name, part in even.items():
        torch.testing.assert_close(part.sum(dim=-1), torch.ones(part.shape[:-1]))
        torch.testing.assert_close(part * cut[name].sum(dim=-1, keepdim=True), cut[name])


def test_a_row_that_asks_nobody_stays_zero():
    joint = torch.zeros(1, 1, 3, 3)
    joint[..., 2] = 1  # everyone asks the last patch
    even = four_blocks(joint, 2, renormalise=True)
    assert not even["text → text"].any()
    assert not even["image → text"].any()
    assert even["text → image"].eq(1).all()


def test_maps_of_both_kinds_say_how_much_each_patch_asks_each_word():
    joint, cross = joint_maps(0), normal(2, 2, 6, 3).softmax(dim=-1)
    assert torch.equal(image_to_text(joint, 3), joint[:, :, 3:, :3])
    assert image_to_text(cross, 3) is cross


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 3), st.booleans())
def test_a_words_map_lies_as_the_picture_does(seed, words, rows, columns, joint):
    attention = joint_maps(seed, 2, words, rows * columns)
    if not joint:
        attention = attention[:, :, words:, :words]
    start = words if joint else 0
    for word in range(words):
        found = word_map(attention, words, word, rows)
        assert found.shape == (2, 2, rows, columns)
        for row in range(rows):
            for column in range(columns):
                wanted = attention[:, :, start + row * columns + column, word]
                assert torch.equal(found[:, :, row, column], wanted)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: word_map(joint_maps(0), 3, 3, 2), "word 3 of 3, 6 patches in 2 rows"),
        (lambda: word_map(joint_maps(0), 3, -1, 2), "word -1 of 3, 6 patches in 2 rows"),
        (lambda: word_map(joint_maps(0), 3, 0, 4), "word 0 of 3, 6 patches in 4 rows"),
        (lambda: four_blocks(normal(1, 1, 6, 3), 2), r"a map of shape \(1, 1, 6, 3\) is not joint with 2 words"),
        (lambda: four_blocks(joint_maps(0), 9), "is not joint with 9 words"),
        (lambda: four_blocks(joint_maps(0), 0), "is not joint with 0 words"),
        (lambda: text_mass(normal(1, 1, 6, 4), 3), r"a map of shape \(1, 1, 6, 4\) is not joint with 3 words"),
    ],
)
def test_what_cannot_be_read_is_told_why(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(("words", "patches"), [(1, 1), (5, 16), (154, 4096 // 16)])
def test_equal_scores_give_words_their_share_of_the_tokens(words, patches):
    value = [normal(3, 1, 2, n, 4) for n in (words, patches)]
    text, image = ((0 * part[0], part[1], part[2]) for part in value)
    with recorded() as maps:
        joint_attention(text, image)
    torch.testing.assert_close(text_mass(maps[0], words), torch.full((1, 2), words / (words + patches)))


def test_the_mass_of_words_is_a_mean_over_patches_alone():
    joint = torch.zeros(1, 1, 3, 3)
    joint[0, 0] = torch.tensor([[0.0, 0.5, 0.5], [0.25, 0.5, 0.25], [0.75, 0.0, 0.25]])
    assert text_mass(joint, 1).tolist() == [[0.5]]
    assert text_mass(normal(1, 2, 6, 3).softmax(dim=-1), 3).tolist() == [[pytest.approx(1)] * 2]


def test_a_share_is_all_half_or_nothing_whatever_the_sizes():
    here, there = torch.zeros(3, 2, 3), torch.zeros(3, 2, 3)
    here[:, 0, :2], there[:, 1, 2] = 1, 0.5
    maps = torch.stack([here[0], torch.ones(2, 3), there[0]])
    assert share_inside(maps, here, there).tolist() == [1, 0.5, 0]
    assert share_inside(maps, there, here).tolist() == [0, 0.5, 1]
    maps = torch.full((1, 2, 3), 0.1)
    maps[0, 0, 0], maps[0, 1, 2] = 0.5, 0.1  # means 0.3 and 0.1
    assert float(share_inside(maps, here[:1], there[:1])) == pytest.approx(0.75)
    partly = torch.tensor([[[1.0, 0.5, 0.0], [0.0] * 3]])  # (0.5 + 0.05) / 1.5 on the object that covers half a patch
    assert float(share_inside(maps, partly, there[:1])) == pytest.approx((0.55 / 1.5) / (0.55 / 1.5 + 0.1))


def test_a_patchs_cover_is_the_mean_of_its_pixels():
    masks = torch.zeros(1, 2, 4, 6)
    masks[0, 0, :2, 2:4], masks[0, 1, 3, 5] = 1, 1
    found = patch_cover(masks, 2)
    assert found.shape == (1, 2, 2, 3)
    assert found[0, 0].tolist() == [[0, 1, 0], [0, 0, 0]]
    assert found[0, 1].tolist() == [[0, 0, 0], [0, 0, 0.25]]
