"""Text: captions as numbers, an encoder that padding cannot touch, and networks that hear what was asked."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lesson_lib.attention import Words
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.mmdit import MMDiT, MMDiTConfig, SingleStreamConfig, SingleStreamDiT
from lesson_lib.position import AxialRope
from lesson_lib.shapes import describe, draw_attributes
from lesson_lib.text import (
    END,
    PADDING,
    CaptionConfig,
    Captioned,
    CaptionEncoder,
    PublicEncoder,
    RMSNorm,
    SwiGLU,
    Text,
    TextToImage,
    WordBlock,
    WordTokenizer,
    join_encoders,
    pooled_text,
    split_words,
    start_from_classes,
)
from lesson_lib.train import denoising_loss, fit

SEEDS = st.integers(0, 10_000)
CAPTIONS = describe(draw_attributes(300, (1, 2), torch.Generator().manual_seed(0))[0])
SOME = ("a small red circle at the top left", "a large blue square left of a small pink cross", "a large red circle")
CAPTION = CaptionConfig(WordTokenizer.shapes().words, WordTokenizer.shapes().length, width=16, depth=2, num_heads=2)
CLASSES = DiTConfig(8, 2, 3, hidden_size=24, depth=2, num_heads=2, num_classes=5, learn_sigma=False, positions="axial")
NETWORKS = {
    "one vector": replace(CLASSES, num_classes=0, pooled_size=16),
    "cross-attention": replace(CLASSES, num_classes=0, context_size=16, conditioning="adaln-single"),
    "joint": MMDiTConfig(
        8, 2, 3, hidden_size=24, num_heads=2, double=1, single=1, context_size=16, pooled_size=16, places="origin",
        axes=(6, 6),
    ),
}  # fmt: skip
EVERY_NETWORK = pytest.mark.parametrize("name", list(NETWORKS))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def awake(model, seed=0):
    """Give every tensor random numbers: what starts at zero would hide a mistake."""
    g = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=g) * 0.3
    return model.eval()


def speaking(name, seed=0, **changes):
    """Return a text-to-image network whose every weight says something."""
    config = NETWORKS[name]
    network = MMDiT(config) if isinstance(config, MMDiTConfig) else DiT(config)
    return awake(TextToImage(CaptionEncoder(replace(CAPTION, **changes)), network), seed)


def pictures(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=g), torch.rand(count, generator=g) * 1000


def difference(one, other):
    return float((one - other).detach().abs().max())


# Captions as numbers


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("A red circle!", ["a", "red", "circle"]),
        ("  left of,the  CENTRE.", ["left", "of", "the", "centre"]),
        ("woman’s hat & a dog's ear", ["woman’s", "hat", "a", "dog's", "ear"]),
        ("blue_square-2", ["blue", "square", "2"]),
        ("'quoted' Größe", ["quoted", "größe"]),
        ("!? …", []),
    ],
)
def test_words_are_letters_and_digits_in_lower_case(caption, words):
    assert split_words(caption) == words


def test_the_tokenizer_of_shapes_reads_back_every_caption_that_there_is():
    tokenizer = WordTokenizer.shapes()
    rows = tokenizer(CAPTIONS)
    assert rows.shape == (300, 11)
    assert rows.dtype == torch.int64
    for caption, row in zip(CAPTIONS, rows, strict=True):
        words = split_words(caption)
        assert tokenizer.read(row) == [*words, "·"]
        assert row[len(words)] == END
        assert not row[len(words) + 1 :].any()
    assert int((rows != PADDING).sum(dim=1).max()) == 11  # the longest caption fills its row
    assert len(tokenizer.words) <= 30
    assert (
        len(tokenizer) == len(tokenizer.words) + 2 == int(max(tokenizer([word]).max() for word in tokenizer.words)) + 1
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["red", "big", "cat", "of", "an"]), max_size=6), min_size=1, max_size=4))
def test_a_tokenizer_of_captions_knows_their_words_and_has_room_for_the_longest(sentences):
    longest = max(map(len, sentences))
    captions = [" ".join(words) for words in sentences]
    if longest == 0:
        with pytest.raises(ValueError, match="length 1"):
            WordTokenizer.of(captions)
        return
    tokenizer = WordTokenizer.of(captions)
    assert set(tokenizer.words) == {word for words in sentences for word in words}
    assert tokenizer.length == longest + 1
    assert [tokenizer.read(row)[:-1] for row in tokenizer(captions)] == sentences
    assert torch.equal(tokenizer([f"{caption.upper()} !" for caption in captions]), tokenizer(captions))


def test_nothing_asked_is_the_end_alone():
    tokenizer = WordTokenizer.shapes()
    rows = tokenizer(["", "?!"])
    assert rows.tolist() == [[END] + [PADDING] * 10] * 2
    assert tokenizer.read(rows[0]) == ["·"]
    assert tokenizer([]).shape == (0, 11)


@pytest.mark.parametrize(
    ("caption", "says"),
    [
        ("a larg red circle", r"unknown in 'a larg red circle': 'larg' \(nearest: large"),
        ("a red cirkle", r"'cirkle' \(nearest: circle"),
        ("a blu skware, a blu skware", r"'blu' \(nearest: blue[^)]*\), 'skware' \(nearest: square[^)]*\)\. The words"),
        ("a qqq", r"unknown in 'a qqq': 'qqq'\. The words are: a, above, at, .*, yellow$"),
        ("a red circle " * 4, r"has 12 words; there is room for 10 and the end: shorten it"),
        ("the " * 11, r"has 11 words; there is room for 10"),
    ],
)
def test_a_wrong_caption_is_told_what_would_be_right(caption, says):
    with pytest.raises(ValueError, match=says):
        WordTokenizer.shapes()(["a red circle", caption])


def test_a_long_vocabulary_is_not_written_out():
    tokenizer = WordTokenizer([f"word{n}" for n in range(41)], 4)
    with pytest.raises(ValueError, match=r"The words are: word0, .*, word19, …$"):
        tokenizer(["xyz"])


@pytest.mark.parametrize(("words", "length"), [(("red", "red"), 4), (("red", "blue"), 1)])
def test_a_vocabulary_is_told_why_it_cannot_be_one(words, length):
    with pytest.raises(ValueError, match=f"2 words, {len(set(words))} of them different; length {length}"):
        WordTokenizer(words, length)


# The parts of a modern block


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 12), st.sampled_from([1e-6, 1e-2]))
def test_rms_norm_is_its_formula_and_does_not_centre(seed, rows, size, eps):
    norm, x = RMSNorm(size, eps), 3 * normal(rows, 4, size, seed=seed) + 1
    norm.weight.data = normal(size, seed=seed + 1)
    wanted = x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * norm.weight
    torch.testing.assert_close(norm(x), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm(-x), -norm(x))
    assert torch.equal(norm(torch.zeros(1, size)), torch.zeros(1, size))


def test_rms_norm_brings_every_token_to_length_root_d_and_computes_in_float32():
    x = normal(2, 5, 64) * torch.tensor([1e-2, 1.0, 1e2, 1e3, 1e4])[:, None]
    torch.testing.assert_close(RMSNorm(64)(x).norm(dim=-1), torch.full((2, 5), 8.0), rtol=1e-2, atol=0)
    half, norm = (x / 10).half(), RMSNorm(64)  # squares of 1,000 do not fit into float16
    assert norm(half).dtype == torch.float16
    assert torch.equal(norm(half), norm(half.float()).half())
    assert torch.isfinite(norm(half)).all()


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 8), st.integers(1, 8))
def test_swiglu_is_its_formula(seed, width, hidden):
    layer, x = awake(SwiGLU(width, hidden), seed), normal(2, 3, width, seed=seed)
    up, gate = x @ layer.w3.weight.T, x @ layer.w1.weight.T
    torch.testing.assert_close(layer(x), (gate * gate.sigmoid() * up) @ layer.w2.weight.T, rtol=1e-4, atol=1e-5)
    assert not layer(torch.zeros(1, width)).any()


def test_swiglu_of_eight_thirds_has_the_weights_of_the_usual_perceptron():
    assert sum(weight.numel() for weight in SwiGLU(48, 8 * 48 // 3).parameters()) == 2 * 48 * 4 * 48


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 4]))
def test_a_word_block_is_its_formula(seed, heads):
    block, x = awake(WordBlock(16, heads), seed), normal(2, 5, 16, seed=seed)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    turn = AxialRope((16 // heads,), 100.0)(torch.arange(5.0)[:, None])
    q, k, v = (
        part.unflatten(-1, (heads, -1)).transpose(1, 2)
        for part in (F.rms_norm(x, (16,), block.norm1.weight, 1e-6) @ block.qkv.weight.T).chunk(3, dim=-1)
    )
    scores = (turn(q) @ turn(k).mT / math.sqrt(16 // heads)).exp() * mask[:, None, None]
    heard = (scores / scores.sum(dim=-1, keepdim=True) @ v).transpose(1, 2).flatten(2)
    after = x + heard @ block.proj.weight.T
    wanted = after + block.mlp(F.rms_norm(after, (16,), block.norm2.weight, 1e-6))
    torch.testing.assert_close(block(x, mask, turn), wanted, rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 5))
def test_words_hear_each_other_both_ways_but_not_the_padding(seed, real):
    block, x = awake(WordBlock(16, 2), seed), normal(1, 6, 16, seed=seed)
    mask, turn = torch.arange(6)[None] < real, AxialRope((8,), 100.0)(torch.arange(6.0)[:, None])
    said = block(x, mask, turn)
    other = x.clone()
    other[:, real:] += 5
    assert difference(block(other, mask, turn)[:, :real], said[:, :real]) == 0
    other = x.clone()
    other[:, real - 1] += 1
    changed = (block(other, mask, turn) - said).abs().amax(dim=(0, 2))
    assert changed[:real].min() > 1e-6


def test_a_word_block_has_no_biases_and_its_heads_divide_it():
    assert not [name for name, _ in WordBlock(16, 2).named_parameters() if "bias" in name]
    with pytest.raises(ValueError, match="these do: 1, 2, 4, 8, 16"):
        WordBlock(16, 3)


# The encoder


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.lists(st.sampled_from(CAPTIONS), min_size=1, max_size=3), st.integers(1, 9))
def test_a_caption_in_a_longer_row_gives_the_same_text(seed, captions, extra):
    short = awake(CaptionEncoder(CAPTION), seed)
    long = CaptionEncoder(replace(CAPTION, length=11 + extra))
    long.load_state_dict(short.state_dict())
    one, other = short(short.tokenizer(captions)), long(long.tokenizer(captions))
    real = one.mask
    assert real.sum(dim=1).tolist() == [len(split_words(caption)) + 1 for caption in captions]
    assert torch.equal(other.mask, F.pad(real, (0, extra)))
    torch.testing.assert_close(other.tokens[:, :11][real], one.tokens[real], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(other.pooled, one.pooled, rtol=1e-4, atol=1e-5)


def test_what_stands_in_the_table_for_padding_is_heard_by_nobody():
    encoder = awake(CaptionEncoder(CAPTION))
    ids = encoder.tokenizer(["a red circle", ""])
    before = encoder(ids)
    encoder.table.weight.data[PADDING] += 3
    after = encoder(ids)
    assert torch.equal(after.tokens[before.mask], before.tokens[before.mask])
    assert torch.equal(after.pooled, before.pooled)
    assert not torch.equal(after.tokens, before.tokens)


def test_the_pooled_vector_stands_at_the_end_and_has_heard_every_word_and_its_place():
    encoder = awake(CaptionEncoder(CAPTION))
    ids = encoder.tokenizer(["a red circle above a blue square", "a blue circle above a red square", ""])
    text = encoder(ids)
    assert text.tokens.shape == (3, 11, 16)
    assert torch.equal(text.pooled, torch.stack([text.tokens[0, 7], text.tokens[1, 7], text.tokens[2, 0]]))
    assert difference(text.pooled[0], text.pooled[1]) > 1e-3  # the same words in another order
    for word in range(7):
        other = ids[:1].clone()
        other[0, word] = 2 + (int(other[0, word]) - 1) % 20
        assert difference(encoder(other).pooled[0], text.pooled[0]) > 1e-4
    alone = torch.cat([encoder(ids[n : n + 1]).pooled for n in range(3)])
    torch.testing.assert_close(text.pooled, alone, rtol=1e-4, atol=1e-5)


def test_the_pooled_vector_is_the_one_at_the_first_end():
    tokens, ids = normal(3, 4, 2), torch.tensor([[5, 1, 1, 1], [1, 0, 0, 0], [4, 6, 7, 1]])
    assert torch.equal(pooled_text(tokens, ids), torch.stack([tokens[0, 1], tokens[1, 0], tokens[2, 3]]))
    assert torch.equal(pooled_text(tokens[:1], ids[:1], end=5), tokens[:1, 0])


def test_a_frozen_encoder_has_nothing_to_train():
    assert not [
        name for name, weight in CaptionEncoder(CAPTION, frozen=True).named_parameters() if weight.requires_grad
    ]
    assert all(weight.requires_grad for weight in CaptionEncoder(CAPTION).parameters())


def test_the_encoder_of_shapes_reads_every_caption_of_shapes():
    encoder = CaptionEncoder(CaptionConfig.shapes(width=32))
    assert encoder.context_size == encoder.pooled_size == 32
    text = encoder(encoder.tokenizer(CAPTIONS[:20]))
    assert text.tokens.shape == (20, 11, 32)
    assert text.pooled.shape == (20, 32)
    torch.testing.assert_close(text.tokens.square().mean(dim=-1), torch.ones(20, 11), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("ids", "says"),
    [
        (torch.ones(2, 10, dtype=torch.long), r"numbers of shape \(B, 11\), got \(2, 10\)"),
        (torch.ones(11, dtype=torch.long), r"shape \(B, 11\), got \(11,\)"),
        (torch.full((1, 11), len(WordTokenizer.shapes())), "numbers must lie from 0 to"),
        (torch.tensor([[-1] + [END] * 10]), "numbers must lie from 0 to"),
        (torch.tensor([[END] * 11, [2] * 11]), "a row has no end token; make rows with the tokenizer"),
    ],
)
def test_rows_that_no_tokenizer_made_are_refused(ids, says):
    with pytest.raises(ValueError, match=says):
        CaptionEncoder(CAPTION)(ids)


# Public encoders, tiny and random


class Letters:
    """A tokenizer with the interface of transformers': a number for each word's first letter, and an end."""

    eos_token_id = 29

    def __init__(self, filling):
        self.filling = filling

    def __call__(self, captions, padding=None, max_length=0, return_tensors=None):
        rows = [[*(ord(word[0]) - ord("a") + 1 for word in caption.split()), self.eos_token_id] for caption in captions]
        if padding != "max_length":
            return {"input_ids": rows}
        return {"input_ids": torch.tensor([row + [self.filling] * (max_length - len(row)) for row in rows])}


def public(kind, length=8, layer=-1):
    """Return a tiny public encoder: "clip", "clip projected" or "t5"."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    if kind == "t5":
        config = transformers.T5Config(
            vocab_size=30, d_model=16, d_kv=4, d_ff=20, num_layers=2, num_heads=4, dropout_rate=0.5
        )  # fmt: skip
        return PublicEncoder(Letters(0), transformers.T5EncoderModel(config), length, layer)
    config = transformers.CLIPTextConfig(
        vocab_size=30, hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
        max_position_embeddings=16, projection_dim=10, eos_token_id=29, attention_dropout=0.5,
    )  # fmt: skip
    model = transformers.CLIPTextModelWithProjection if kind == "clip projected" else transformers.CLIPTextModel
    return PublicEncoder(Letters(29), model(config), length, layer)


@pytest.mark.parametrize(("kind", "context", "pooled"), [("clip", 12, 12), ("clip projected", 12, 10), ("t5", 16, 0)])
def test_public_encoders_have_the_interface_of_our_own(kind, context, pooled):
    encoder = public(kind).train()
    assert (encoder.context_size, encoder.pooled_size) == (context, pooled)
    ids = encoder.tokenizer(["a red cat", "", "b c d e f g h"])
    text = encoder(ids)
    assert text.mask.sum(dim=1).tolist() == [4, 1, 8]  # CLIP fills its rows with ends, of which one is the end
    assert text.tokens.shape == (3, 8, context)
    assert (text.pooled is None) if pooled == 0 else text.pooled.shape == (3, pooled)
    longer = public(kind, length=12)
    other = longer(longer.tokenizer(["a red cat", "", "b c d e f g h"]))
    torch.testing.assert_close(other.tokens[:, :8][text.mask], text.tokens[text.mask], rtol=1e-4, atol=1e-5)
    if pooled:
        torch.testing.assert_close(other.pooled, text.pooled, rtol=1e-4, atol=1e-5)
    assert torch.equal(encoder(ids).tokens, text.tokens)  # no dropout, although it was told to train
    assert not text.tokens.requires_grad
    assert not [name for name, weight in encoder.named_parameters() if weight.requires_grad]
    with pytest.raises(ValueError, match=r"'a b c d e f g h' has 9 tokens; there is room for 8: shorten it"):
        encoder.tokenizer(["a", "a b c d e f g h"])


def test_the_hidden_layer_that_was_asked_for_is_given():
    encoder = public("clip", layer=-2)
    ids = encoder.tokenizer(["a red cat"])
    found = encoder.model(ids, output_hidden_states=True)
    assert torch.equal(encoder(ids).tokens, found.hidden_states[-2])
    assert torch.equal(encoder(ids).pooled, found.pooler_output)
    assert torch.equal(public("clip")(ids).tokens, found.last_hidden_state)


def test_a_public_encoder_can_be_heard_by_a_network():
    encoder = public("clip")
    model = TextToImage(encoder, awake(DiT(replace(NETWORKS["cross-attention"], context_size=12))))
    images, t = pictures(2)
    ids = encoder.tokenizer(["a red cat", "a blue cat"])
    drawn = model(images, t, ids)
    assert difference(drawn, model(images, t, ids.flip(0))) > 1e-4
    asked = Captioned(model, ["a red cat", "a blue cat"])
    torch.testing.assert_close(asked(images, t, torch.tensor([0, 1])), drawn)


def test_an_encoder_that_is_nowhere_is_named_with_a_way_out(monkeypatch):
    transformers = pytest.importorskip("transformers")

    def unreachable(name):
        raise OSError("no such host")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ConnectionError, match=r"google/t5-v1_1-small is neither .*CaptionEncoder needs no network"):
        PublicEncoder.load("google/t5-v1_1-small")


def test_three_encoders_make_one_text_as_in_sd3():
    masks = [torch.arange(77)[None] < real for real in (5, 5, 9)]
    clip_l = Text(normal(1, 77, 768), normal(1, 768), masks[0])
    clip_g = Text(normal(1, 77, 1280, seed=1), normal(1, 1280, seed=1), masks[1])
    t5 = Text(normal(1, 77, 4096, seed=2), None, masks[2])
    text = join_encoders(clip_l, clip_g, t5)
    assert text.tokens.shape == (1, 154, 4096)
    assert torch.equal(text.tokens[:, :77, :768], clip_l.tokens)
    assert torch.equal(text.tokens[:, :77, 768:2048], clip_g.tokens)
    assert not text.tokens[:, :77, 2048:].any()
    assert torch.equal(text.tokens[:, 77:], t5.tokens)
    assert torch.equal(text.pooled, torch.cat([clip_l.pooled, clip_g.pooled], dim=1))
    assert torch.equal(text.mask, torch.cat([masks[0], masks[2]], dim=1))
    narrow = Text(t5.tokens[..., :2047], None, masks[2])
    for clips, last in (((clip_l, clip_g), narrow), ((clip_l._replace(pooled=None), clip_g), t5)):
        with pytest.raises(
            ValueError, match=f"two pooled CLIPs, together no wider than T5: 2048, {last.tokens.shape[2]}"
        ):
            join_encoders(*clips, last)


# A network that hears a text


@EVERY_NETWORK
def test_a_network_gets_what_its_configuration_says(name):
    model, config = speaking(name), NETWORKS[name]
    ids = model.encoder.tokenizer(SOME)
    text = model.encoder(ids)
    pooled, words = model.hear(ids)
    assert (pooled is not None) == bool(config.pooled_size)
    assert (words is not None) == bool(config.context_size)
    if pooled is not None:
        assert torch.equal(pooled, text.pooled)
    if words is not None:
        assert isinstance(words, Words)
        assert torch.equal(words.tokens, text.tokens)
        assert torch.equal(words.mask, text.mask)
    images, t = pictures(3)
    torch.testing.assert_close(model(images, t, ids), model.network(images, t, pooled, words))


@EVERY_NETWORK
@settings(max_examples=6, deadline=None)
@given(SEEDS, st.lists(st.sampled_from(CAPTIONS), min_size=2, max_size=2), st.integers(1, 9))
def test_a_caption_in_a_longer_row_gives_the_same_picture(name, seed, captions, extra):
    short, long = speaking(name, seed), speaking(name, length=11 + extra)
    long.load_state_dict(short.state_dict())
    images, t = pictures(2, seed)
    drawn = short(images, t, short.encoder.tokenizer(captions))
    longer = long(images, t, long.encoder.tokenizer(captions))
    torch.testing.assert_close(longer, drawn, rtol=1e-3, atol=1e-4 * max(1, float(drawn.detach().abs().max())))


@EVERY_NETWORK
def test_every_picture_hears_its_own_caption_to_the_last_word(name):
    model = speaking(name)
    images, t = pictures(3)
    ids = model.encoder.tokenizer(SOME)
    drawn = model(images, t, ids)
    alone = torch.cat([model(images[n : n + 1], t[n : n + 1], ids[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(alone, drawn, rtol=1e-3, atol=1e-4)
    for word in range(4):
        other = ids.clone()
        other[1, word] = 2 + (int(other[1, word]) - 1) % 20
        moved = (model(images, t, other) - drawn).abs().amax(dim=(1, 2, 3))
        assert moved[1] > 1e-5
        assert max(moved[0], moved[2]) < 1e-5


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (replace(NETWORKS["joint"], context_size=15), "the network's context_size is 15, the encoder's 16"),
        (replace(NETWORKS["joint"], pooled_size=17), "the network's pooled_size is 17, the encoder's 16"),
        (replace(NETWORKS["one vector"], pooled_size=0), "hears neither a pooled text nor words"),
    ],
)
def test_a_network_that_does_not_fit_its_encoder_is_refused(config, says):
    network = MMDiT(config) if isinstance(config, MMDiTConfig) else DiT(config)
    with pytest.raises(ValueError, match=says):
        TextToImage(CaptionEncoder(CAPTION), network)


def test_a_network_that_hears_words_alone_needs_no_pooled_text():
    network = awake(MMDiT(replace(NETWORKS["joint"], pooled_size=0)))
    model = TextToImage(awake(CaptionEncoder(CAPTION)), network)
    ids = model.encoder.tokenizer(SOME)
    assert model.hear(ids)[0] is None
    assert model(*pictures(3), ids).shape == (3, 3, 8, 8)


def test_a_network_of_one_stream_hears_words_alone():
    config = SingleStreamConfig(
        2, 3, 24, depth=1, refiners=1, num_heads=4, kv_heads=2, mlp_width=32, context_size=16, condition_size=8,
        time_width=16, axes=(2, 2, 2),
    )  # fmt: skip
    model = awake(TextToImage(CaptionEncoder(CAPTION), SingleStreamDiT(config)))
    ids = model.encoder.tokenizer(SOME)
    images, t = pictures(3)
    assert model.hear(ids)[0] is None
    assert difference(model(images, t, ids), model(images, t, ids.flip(0))) > 1e-4


@EVERY_NETWORK
def test_another_number_of_captions_is_refused(name):
    model = speaking(name)
    with pytest.raises(ValueError, match="there are 3 captions for 2 pictures; give one for each"):
        model(*pictures(2), model.encoder.tokenizer(SOME))


# A caption in the place of a class


@EVERY_NETWORK
@settings(max_examples=6, deadline=None)
@given(SEEDS, st.floats(-1, 8), st.sampled_from(["", "a small black cross"]))
def test_guidance_pushes_from_nothing_to_the_caption(name, seed, scale, nothing):
    model = speaking(name, seed)
    captions = [*SOME, ""]
    images, t = pictures(3, seed)
    labels = torch.tensor([2, 0, 1])
    asked = model(images, t, model.encoder.tokenizer([SOME[2], SOME[0], SOME[1]]))
    empty = model(images, t, model.encoder.tokenizer([nothing] * 3))
    found = Guided(Captioned(model, captions, nothing), labels, scale)(images, t)
    wanted = empty + scale * (asked - empty)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * max(1, float(wanted.detach().abs().max())))


def test_the_label_after_the_last_is_nothing():
    model = speaking("joint")
    asked = Captioned(model, SOME)
    assert asked.num_classes == 3
    images, t = pictures(2)
    both = asked(images, t, torch.tensor([3, 1]))
    torch.testing.assert_close(both, model(images, t, model.encoder.tokenizer(["", SOME[1]])))
    negative = Captioned(model, SOME, "a small black cross")
    torch.testing.assert_close(
        negative(images, t, torch.tensor([3, 3])),
        model(images, t, model.encoder.tokenizer(["a small black cross"] * 2)),
    )
    assert set(asked.state_dict()) == {f"model.{name}" for name in model.state_dict()}  # captions are no weights
    with pytest.raises(ValueError, match=r"'cirkle' \(nearest: circle"):
        Captioned(model, ["a red cirkle"])


def test_dropped_captions_are_the_empty_one():
    model = Captioned(speaking("joint"), SOME)
    images, labels = normal(6, 3, 8, 8), torch.arange(6) % 3

    def heard(labels, dropout):
        """Return a loss, and the numbers of the words that it heard."""
        model.zero_grad()
        loss = denoising_loss(RectifiedFlow(), label_dropout=dropout)
        value = loss(model, (images, labels), torch.Generator().manual_seed(0))
        value.backward()
        return float(value.detach()), set(
            model.model.encoder.table.weight.grad.abs().amax(dim=1).nonzero()[:, 0].tolist()
        )

    asked, words = heard(labels, 0.0)
    assert words == set(model.ids[:3].flatten().tolist()) - {PADDING}
    dropped, words = heard(labels, 1.0)
    assert words == {END}
    assert dropped == pytest.approx(heard(torch.full((6,), 3), 0.0)[0], rel=1e-5)
    assert abs(dropped - asked) > 1e-4
    some = {round(heard(labels, share)[0], 5) for share in (0.3, 0.6)}
    assert not some & {round(asked, 5), round(dropped, 5)}


@pytest.mark.parametrize(("name", "frozen"), [*((name, False) for name in NETWORKS), ("joint", True)])
def test_a_caption_can_be_learned_and_a_frozen_encoder_stays(name, frozen):
    """Two captions, a light and a dark picture: after a few steps the network tells them apart."""
    torch.manual_seed(0)
    config = NETWORKS[name]
    network = MMDiT(config) if isinstance(config, MMDiTConfig) else DiT(config)
    model = Captioned(TextToImage(CaptionEncoder(CAPTION, frozen), network), ["a red circle", "a blue square"])
    before = copy.deepcopy(model.model.encoder.state_dict())
    labels = torch.arange(16) % 2
    images = (2.0 * labels - 1)[:, None, None, None].expand(16, 3, 8, 8).contiguous()
    fit(
        model, (images, labels), denoising_loss(RectifiedFlow(), label_dropout=0.1), steps=30, batch_size=16, lr=2e-2,
        ema=0, progress=False,
    )  # fmt: skip
    noise = normal(1, 3, 8, 8).expand(2, 3, 8, 8)
    with torch.no_grad():  # at time 1 the velocity is noise less picture
        dark, light = (noise - model(noise, torch.full((2,), 1000.0), torch.tensor([0, 1]))).mean(dim=(1, 2, 3))
    assert light - dark > 0.5  # 2 would be all; a network that hears nothing gives 0
    moved = {key for key, tensor in model.model.encoder.state_dict().items() if not torch.equal(tensor, before[key])}
    assert moved == (set() if frozen else set(before))


# Started from a network of classes


@pytest.mark.parametrize("positions", ["axial", "sin-cos", "learned", "mixed"])
@pytest.mark.parametrize("time", [500.0, 80.0])
def test_a_network_of_classes_becomes_one_of_texts_that_agrees_at_one_time(positions, time):
    source = awake(DiT(replace(CLASSES, positions=positions, learn_sigma=True)))
    before = copy.deepcopy(source.state_dict())
    model = start_from_classes(source, 16, time).eval()
    images, words = normal(3, 3, 8, 8), normal(3, 6, 16)

    def both(t, label):
        t = torch.full((3,), t)
        wanted = source(images, t, torch.full((3,), label))
        return difference(model(images, t, context=words), wanted) / float(wanted.detach().abs().max())

    assert both(time, 5) < 1e-5
    assert both(time + 150, 5) > 1e-3
    assert both(time, 2) > 1e-3
    assert model.config == replace(source.config, num_classes=0, context_size=16, conditioning="adaln-single")
    assert all(torch.equal(tensor, before[key]) for key, tensor in source.state_dict().items())
    for block in model.blocks:
        assert not block.cross_attn.proj.weight.any()
        assert block.cross_attn.kv.weight.any()
    same = ("x_embedder", "t_embedder", "final_layer.linear", "attn.qkv", "attn.proj", "mlp", "pos_embed", "freqs")
    copied = {key for key in before if any(part in key for part in same)}
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in copied)
    model.blocks[0].attn.qkv.weight.data += 1
    assert torch.equal(source.blocks[0].attn.qkv.weight, before["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize(
    "config", [replace(CLASSES, conditioning="adaln-single"), replace(CLASSES, num_classes=0), NETWORKS["one vector"]]
)
def test_only_adaln_zero_with_classes_can_start_a_text_network(config):
    with pytest.raises(ValueError, match="needs an adaLN-Zero DiT with classes"):
        start_from_classes(DiT(config), 16)


def test_a_text_network_started_from_classes_is_heard_by_the_encoder():
    torch.manual_seed(0)
    model = TextToImage(CaptionEncoder(CAPTION), start_from_classes(awake(DiT(CLASSES)), 16))
    images, t = pictures(3)
    ids = model.encoder.tokenizer(SOME)
    assert torch.equal(model(images, t, ids), model(images, t, ids.flip(0)))  # the words are still silent
    nn.init.normal_(model.network.blocks[1].cross_attn.proj.weight)
    assert difference(model(images, t, ids), model(images, t, ids.flip(0))) > 1e-3
