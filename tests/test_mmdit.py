"""MMDiT: one softmax written out, every block against its formula, what is shared, and the sizes of the papers."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib.attention import SelfAttention, Words
from lesson_lib.dit import AdaLNZeroBlock, FinalLayer, unpatchify
from lesson_lib.flow import RectifiedFlow
from lesson_lib.mmdit import (
    PLACES,
    SHARED,
    DoubleStreamBlock,
    MMDiT,
    MMDiTConfig,
    QKNorm,
    SandwichBlock,
    SingleStreamBlock,
    SingleStreamConfig,
    SingleStreamDiT,
    StreamAttention,
    joint_attention,
    modulation_share,
    sentence_mask,
    split_sentence,
)
from lesson_lib.position import AxialRope, Rotation, crop_table, joint_coordinates, sin_cos_2d
from lesson_lib.train import denoising_loss, load_model, save_model

SEEDS = st.integers(0, 10_000)
SD3 = MMDiTConfig(
    8, 2, 3, hidden_size=24, num_heads=2, double=2, context_size=10, pooled_size=6, table_size=6, qk_norm=False
)  # fmt: skip
FAMILY = {
    "sd3": SD3,
    "sd3.5": replace(SD3, qk_norm=True, dual=1),
    "flux": replace(SD3, qk_norm=True, double=1, single=2, places="origin", axes=(4, 4, 4), guidance=True),
    "qwen": replace(SD3, qk_norm=True, pooled_size=0, last_text=True, places="diagonal", axes=(4, 4, 4),
                    context_norm=True),
    "single": replace(SD3, double=0, single=2, places="continued", axes=(4, 4, 4)),
    "two axes": replace(SD3, single=1, places="origin", axes=(6, 6), rope_base=100.0),
    "one sentence": replace(SD3, shared=("streams",)),
    "dit-air": replace(SD3, shared=("modulation", "weights")),
}  # fmt: skip
NEWER = SingleStreamConfig(
    2, 3, 24, depth=2, refiners=1, num_heads=4, kv_heads=2, mlp_width=32, context_size=10, condition_size=8,
    time_width=16, axes=(2, 2, 2), rope_base=100.0,
)  # fmt: skip
EVERYONE = {**FAMILY, "one stream": NEWER, "one stream, silu": replace(NEWER, silu=True)}
EVERY_MMDIT = pytest.mark.parametrize("name", list(FAMILY))
EVERY_NETWORK = pytest.mark.parametrize("name", list(EVERYONE))


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def awake(model, seed=0):
    """Give every tensor random numbers: what starts at zero would hide a mistake."""
    g = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data = torch.randn(weight.shape, generator=g) * 0.2
    return model.eval()


def build(config):
    return MMDiT(config) if isinstance(config, MMDiTConfig) else SingleStreamDiT(config)


def inputs(config, batch=3, words=5, height=8, width=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    given = {
        "x": torch.randn(batch, config.in_channels, height, width, generator=g),
        "t": torch.rand(batch, generator=g) * 1000,
        "context": torch.randn(batch, words, config.context_size, generator=g),
    }
    if getattr(config, "pooled_size", 0):
        given["pooled"] = torch.randn(batch, config.pooled_size, generator=g)
    if getattr(config, "guidance", False):
        given["guidance"] = 1 + 4 * torch.rand(batch, generator=g)
    return given


def difference(one, other):
    return float((one - other).detach().abs().max())


def moved(one, other):
    """Return how far each picture of a batch is from the other."""
    return (one - other).detach().abs().amax(dim=(1, 2, 3))


def turn(tokens, head=12, seed=3):
    """Return some rotation of so many tokens."""
    return Rotation.of(3 * normal(tokens, head // 2, seed=seed))


def split_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def one_softmax(query, key, value, mask=None):
    """Write attention out token by token, with a softmax by hand over those who are there. Returns (B, N, h d)."""
    rows = []
    for b in range(len(query)):
        there = [n for n in range(key.shape[2]) if mask is None or mask[b, n]]
        for q in query[b].unbind(dim=1):  # (h, d)
            weights = torch.stack([(q * key[b, :, n]).sum(dim=1) / math.sqrt(q.shape[1]) for n in there]).exp()
            heard = sum(w[:, None] * value[b, :, n] for w, n in zip(weights, there, strict=True))
            rows.append((heard / weights.sum(dim=0)[:, None]).flatten())
    return torch.stack(rows).unflatten(0, (len(query), -1))


# One attention, one softmax


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 2), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
def test_joint_attention_is_attention_over_the_whole_sentence(seed, batch, heads, words, patches, rotated, masked):
    text, image = (normal(3, batch, heads, n, 4, seed=seed + n).unbind(0) for n in (words, 10 + patches))
    image = tuple(part[:, :, :patches] for part in image)
    rotate = turn(words + patches, 4, seed) if rotated else None
    mask = normal(batch, words, seed=seed) > 0 if masked else None
    query, key, value = (torch.cat([one, other], dim=2) for one, other in zip(text, image, strict=True))
    if rotate:
        query, key = rotate(query), rotate(key)
    everyone = None if mask is None else torch.cat([mask, torch.ones(batch, patches, dtype=torch.bool)], dim=1)
    wanted = one_softmax(query, key, value, everyone)
    text_heard, image_heard = joint_attention(text, image, rotate, mask)
    torch.testing.assert_close(text_heard, wanted[:, :words], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(image_heard, wanted[:, words:], rtol=1e-4, atol=1e-5)


def test_joint_attention_is_no_pair_of_attentions():
    """A loud patch takes from what patches hear of words: two softmaxes side by side would not notice."""
    text, image = (normal(3, 1, 1, 3, 4, seed=seed).unbind(0) for seed in (0, 1))
    quiet = joint_attention(text, image)
    loud = joint_attention(text, (image[0], 5 * image[1], image[2]))
    assert difference(quiet[0], loud[0]) > 1e-2
    assert difference(quiet[1], loud[1]) > 1e-2


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(0, 4), st.integers(0, 4))
def test_a_sentence_is_cut_where_it_was_joined(seed, batch, words, patches):
    text, image = normal(batch, words, 3, seed=seed), normal(batch, patches, 3, seed=seed + 1)
    found = split_sentence(torch.cat([text, image], dim=1), words)
    assert torch.equal(found[0], text)
    assert torch.equal(found[1], image)


def test_patches_are_always_there():
    mask = torch.tensor([[True, False], [True, True]])
    assert sentence_mask(mask, 3).tolist() == [[True, False, True, True, True], [True] * 5]
    assert sentence_mask(mask, 3).dtype == torch.bool
    assert sentence_mask(None, 3) is None


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 8), st.floats(0.1, 3), st.floats(1e-2, 1e3))
def test_with_qk_norm_no_score_runs_away(seed, size, stretch, loudness):
    norm = QKNorm(size)
    norm.query.weight.data.fill_(stretch)
    norm.key.weight.data.uniform_(-stretch, stretch, generator=torch.Generator().manual_seed(seed))
    query, key = loudness * normal(1, 2, 3, size, seed=seed), normal(1, 2, 4, size, seed=seed + 1)
    q, k = norm(query, key)
    scores = q @ k.mT / math.sqrt(size)
    assert scores.abs().max() <= stretch**2 * math.sqrt(size) * 1.001
    torch.testing.assert_close(q, F.rms_norm(query, (size,), norm.query.weight, 1e-6))
    torch.testing.assert_close(k, F.rms_norm(key, (size,), norm.key.weight, 1e-6))
    aligned = norm(query, query)[0].detach()  # and the bound is reached where a query meets itself
    assert float((aligned @ aligned.mT / math.sqrt(size)).max()) == pytest.approx(
        stretch**2 * math.sqrt(size), rel=0.05
    )


def test_qk_norm_has_one_weight_for_each_channel_of_a_head():
    assert {name: tuple(weight.shape) for name, weight in QKNorm(5).named_parameters()} == {
        "query.weight": (5,), "key.weight": (5,),
    }  # fmt: skip


@pytest.mark.parametrize("qk_norm", [False, True])
def test_a_streams_heads_are_those_of_self_attention(qk_norm):
    stream, plain = awake(StreamAttention(12, 3, qk_norm)), awake(SelfAttention(12, 3))
    plain.qkv.load_state_dict(stream.qkv.state_dict())
    x = normal(2, 5, 12)
    query, key, value = stream.heads(x)
    wanted = [split_heads(part, 3) for part in plain.qkv(x).chunk(3, dim=-1)]
    if qk_norm:
        wanted[:2] = stream.norm(*wanted[:2])
        assert difference(query, split_heads(plain.qkv(x).chunk(3, dim=-1)[0], 3)) > 1e-2
    for found, right in zip((query, key, value), wanted, strict=True):
        torch.testing.assert_close(found, right)
    assert StreamAttention(12, 3, project=False).proj is None
    with pytest.raises(ValueError, match="these do: 1, 2, 3, 4, 6, 12"):
        StreamAttention(12, 5)


# The double-stream block


def tell(layer, c, parts):
    """Return a modulation's vectors (B, 1, D), by hand."""
    return (F.silu(c) @ layer[1].weight.T + layer[1].bias)[:, None].chunk(parts, dim=-1)


def ask(stream, x, shift, scale, attention=None):
    """Return query, key and value of a stream, by hand."""
    attention = attention or stream.attn
    u = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
    q, k, v = (split_heads(part, attention.num_heads) for part in attention.qkv(u).chunk(3, dim=-1))
    return (*attention.norm(q, k), v) if attention.norm else (q, k, v)


def think(stream, x, heard, gate_msa, shift, scale, gate, extra=0.0):
    x = x + gate_msa * stream.attn.proj(heard) + extra
    return x + gate * stream.mlp(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


def double_by_hand(block, text, image, c, rotate=None, mask=None):
    """Return what a double-stream block says, written out from SD3's Figure 2."""
    last, dual = block.text.mlp is None, block.image.attn2 is not None
    told = tell(block.text.adaLN_modulation, c, 2 if last else 6)
    shown = tell(block.image.adaLN_modulation, c, 9 if dual else 6)
    both = zip(ask(block.text, text, *told[:2]), ask(block.image, image, *shown[:2]), strict=True)
    query, key, value = (torch.cat(pair, dim=2) for pair in both)
    if rotate:
        query, key = rotate(query), rotate(key)
    heard = one_softmax(query, key, value, sentence_mask(mask, image.shape[1]))
    extra = 0.0
    if dual:
        own = one_softmax(*ask(block.image, image, *shown[6:8], block.image.attn2))
        extra = shown[8] * block.image.attn2.proj(own)
    words = text.shape[1]
    after = text if last else think(block.text, text, heard[:, :words], *told[2:])
    return after, think(block.image, image, heard[:, words:], *shown[2:6], extra)


@pytest.mark.parametrize("kind", [{}, {"qk_norm": False}, {"last": True}, {"dual": True}, {"last": True, "dual": True}])
@pytest.mark.parametrize("rotated", [False, True])
def test_a_double_stream_block_is_its_formula(kind, rotated):
    block = awake(DoubleStreamBlock(24, 2, mlp_ratio=2.0, **kind))
    text, image, c = normal(2, 3, 24), normal(2, 4, 24, seed=1), normal(2, 24, seed=2)
    mask = torch.tensor([[True, True, True], [True, False, True]])
    rotate = turn(7) if rotated else None
    found = block(text, image, c, rotate, mask)
    for one, right in zip(found, double_by_hand(block, text, image, c, rotate, mask), strict=True):
        torch.testing.assert_close(one, right, rtol=1e-3, atol=1e-4)
    if "last" in kind:
        assert found[0] is text
        assert block.text.adaLN_modulation[1].weight.shape == (2 * 24, 24)
        assert {name.split(".")[0] for name, _ in block.text.named_parameters()} == {"adaLN_modulation", "attn"}


@pytest.mark.parametrize("rotated", [False, True])
def test_a_double_stream_block_with_one_set_of_weights_is_adaln_zero_over_the_sentence(rotated):
    block = awake(MMDiT(replace(SD3, shared=("streams",)))).double_blocks[0]
    plain = AdaLNZeroBlock(24, 2)
    plain.load_state_dict({
        name.removeprefix("image."): tensor for name, tensor in block.state_dict().items() if name.startswith("image.")
    })  # fmt: skip
    text, image, c = normal(2, 3, 24), normal(2, 4, 24, seed=1), normal(2, 24, seed=2)
    rotate = turn(7) if rotated else None
    found = torch.cat(block(text, image, c, rotate), dim=1)
    torch.testing.assert_close(found, plain(torch.cat([text, image], dim=1), c, None, rotate), rtol=1e-4, atol=1e-4)


def test_the_words_of_a_last_block_answer_as_any_others():
    """The picture that a last block gives is that of a whole block: only what becomes of the words is left out."""
    whole, last = awake(DoubleStreamBlock(24, 2)), DoubleStreamBlock(24, 2, last=True)
    weights = whole.state_dict()
    for part in ("weight", "bias"):
        weights[f"text.adaLN_modulation.1.{part}"] = weights[f"text.adaLN_modulation.1.{part}"][: 2 * 24]
    last.load_state_dict({name: weights[name] for name in last.state_dict()})
    text, image, c = normal(2, 3, 24), normal(2, 4, 24, seed=1), normal(2, 24, seed=2)
    torch.testing.assert_close(last(text, image, c)[1], whole(text, image, c)[1])


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([{}, {"last": True}, {"dual": True}]), st.integers(1, 4))
def test_what_only_fills_the_row_is_heard_by_nobody(seed, kind, real):
    block = awake(DoubleStreamBlock(24, 2, mlp_ratio=1.0, **kind), seed)
    single = awake(SingleStreamBlock(24, 2, mlp_ratio=1.0), seed)
    text, image, c = normal(1, 5, 24, seed=seed), normal(1, 4, 24, seed=seed + 1), normal(1, 24, seed=seed)
    mask = torch.arange(5)[None] < real
    everyone = sentence_mask(mask, 4)
    other = torch.where(mask[..., None], text, 7.0)
    for said, again in (
        (block(text, image, c, None, mask), block(other, image, c, None, mask)),
        (
            split_sentence(single(torch.cat([text, image], dim=1), c, None, everyone), 5),
            split_sentence(single(torch.cat([other, image], dim=1), c, None, everyone), 5),
        ),
    ):
        assert torch.equal(again[0][:, :real], said[0][:, :real])
        assert torch.equal(again[1], said[1])
    short, cut = block(text[:, :real], image, c), block(text, image, c, None, mask)
    torch.testing.assert_close(cut[1], short[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cut[0][:, :real], short[0], rtol=1e-4, atol=1e-5)
    assert difference(block(other, image, c)[1], cut[1]) > 1e-4


# The single-stream block


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.booleans(), st.booleans(), st.booleans())
def test_a_single_stream_block_is_its_formula(seed, qk_norm, rotated, masked):
    block = awake(SingleStreamBlock(24, 2, 2.0, qk_norm), seed)
    x, c = normal(2, 5, 24, seed=seed), normal(2, 24, seed=seed + 1)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]]) if masked else None
    rotate = turn(5) if rotated else None
    shift, scale, gate = tell(block.adaLN_modulation, c, 3)
    u = F.layer_norm(x, (24,), eps=1e-6) * (1 + scale) + shift
    first, bias = block.linear1.weight, block.linear1.bias
    query, key, value = (
        split_heads(u @ first[n * 24 : (n + 1) * 24].T + bias[n * 24 : (n + 1) * 24], 2) for n in range(3)
    )
    if qk_norm:
        query, key = block.norm(query, key)
    if rotate:
        query, key = rotate(query), rotate(key)
    attended = one_softmax(query, key, value, mask) @ block.linear2.weight[:, :24].T
    thought = F.gelu(u @ first[72:].T + bias[72:], approximate="tanh") @ block.linear2.weight[:, 24:].T
    wanted = x + gate * (attended + thought + block.linear2.bias)
    torch.testing.assert_close(block(x, c, rotate, mask), wanted, rtol=1e-3, atol=1e-4)


def test_a_single_stream_block_has_the_weights_of_flux():
    """3 D² modulate, 7 D² come before (three for the heads, four for the perceptron), 5 D² after."""
    sizes = {name: weight.numel() / 24**2 for name, weight in SingleStreamBlock(24, 2).named_parameters()
             if weight.ndim == 2}  # fmt: skip
    assert sizes == {"adaLN_modulation.1.weight": 3, "linear1.weight": 7, "linear2.weight": 5}


# The whole


@EVERY_MMDIT
def test_a_fresh_network_answers_zero_and_every_block_returns_what_it_got(name):
    torch.manual_seed(0)
    model, given = MMDiT(FAMILY[name]), inputs(FAMILY[name])
    assert torch.equal(model(**given), torch.zeros(3, 3, 8, 8))
    text, image, c = normal(3, 5, 24), normal(3, 16, 24, seed=1), normal(3, 24, seed=2)
    rotate = model.rotation(5, 4, 4, torch.device("cpu"))
    for block in model.double_blocks:
        found = block(text, image, c, rotate)
        assert torch.equal(found[0], text)
        assert torch.equal(found[1], image)
    sentence = torch.cat([text, image], dim=1)
    for block in model.single_blocks:
        assert torch.equal(block(sentence, c, rotate), sentence)


@EVERY_MMDIT
def test_every_weight_learns_in_the_end_but_those_of_words_that_nobody_reads(name):
    torch.manual_seed(0)
    config = FAMILY[name]
    model, given = MMDiT(config), inputs(config)
    target, optimiser, touched = normal(3, 3, 8, 8, seed=3), torch.optim.Adam(model.parameters(), 1e-3), set()
    for _ in range(6):  # zeros wake one after another, from the last layer back to the first
        optimiser.zero_grad()
        (model(**given) - target).square().mean().backward()
        optimiser.step()
        touched |= {n for n, w in model.named_parameters() if w.grad is not None and bool((w.grad != 0).any())}
    unread = ()
    if not config.single and not config.shared:  # the words of the last block are asked, and ask for nothing
        unread = tuple(
            f"double_blocks.{config.double - 1}.text.{part}" for part in ("attn.norm.query", "attn.proj", "mlp")
        )
    wanted = {key for key, _ in model.named_parameters() if not key.startswith(unread or "-")}
    assert touched == wanted


def test_a_fresh_network_has_the_numbers_that_it_says():
    torch.manual_seed(0)
    model = MMDiT(replace(FAMILY["flux"], hidden_size=96, axes=(16, 16, 16)))
    for embedder in (model.t_embedder.mlp, model.y_embedder, model.guidance_embedder.mlp):
        assert float(embedder[0].weight.detach().std()) == pytest.approx(0.02, rel=0.15)
        assert float(embedder[2].weight.detach().std()) == pytest.approx(0.02, rel=0.15)
        assert not embedder[0].bias.any()
    for layer, inside in ((model.double_blocks[0].text.mlp.fc1, 96), (model.single_blocks[0].linear2, 5 * 96)):
        assert float(layer.weight.detach().abs().max()) == pytest.approx(
            math.sqrt(6 / (inside + layer.weight.shape[0])), rel=0.01
        )
    patches = model.x_embedder.proj.weight.detach()
    assert float(patches.abs().max()) == pytest.approx(math.sqrt(6 / (96 + 12)), rel=0.02)
    zero = {key for key, weight in model.named_parameters() if not weight.any()}
    assert {key for key in zero if key.endswith("weight")} == {
        key for key, _ in model.named_parameters()
        if ("adaLN_modulation" in key or key.startswith("final_layer.linear")) and key.endswith("weight")
    }  # fmt: skip
    assert all(key in zero for key, _ in model.named_parameters() if key.endswith("bias"))


@EVERY_NETWORK
def test_every_network_hears_all_that_it_is_told(name):
    config = EVERYONE[name]
    model, given = awake(build(config)), inputs(config)
    out = model(**given)
    assert out.shape == (3, 3, 8, 8)
    assert moved(model(**{**given, "t": given["t"] + 100}), out).min() > 1e-5
    for word in range(5):
        context = given["context"].clone()
        context[:, word] += 1
        assert moved(model(**{**given, "context": context}), out).min() > 1e-5
    for extra in given.keys() & {"pooled", "guidance"}:
        assert moved(model(**{**given, extra: given[extra] + 1}), out).min() > 1e-5


@EVERY_NETWORK
def test_pictures_of_a_batch_do_not_hear_each_other(name):
    config = EVERYONE[name]
    model, given = awake(build(config)), inputs(config)
    given["context"] = Words(given["context"], torch.arange(5) < torch.tensor([[5], [2], [3]]))

    def one(i):
        words = Words(given["context"].tokens[i : i + 1], given["context"].mask[i : i + 1])
        return model(**{key: value[i : i + 1] for key, value in given.items() if key != "context"}, context=words)

    out = model(**given)
    torch.testing.assert_close(out, torch.cat([one(i) for i in range(3)]), rtol=1e-3, atol=1e-4)


@EVERY_NETWORK
@pytest.mark.parametrize("real", [1, 3, 5])
def test_padding_is_heard_by_no_network(name, real):
    config = EVERYONE[name]
    model, given = awake(build(config)), inputs(config)
    words, mask = given["context"], (torch.arange(5) < real).expand(3, 5)
    out = model(**{**given, "context": Words(words, mask)})
    filled = torch.where(mask[..., None], words, 9.0)
    torch.testing.assert_close(model(**{**given, "context": Words(filled, mask)}), out, rtol=1e-4, atol=1e-5)
    if getattr(config, "places", "continued") != "continued":  # there the picture's frame is the length of the row
        longer = Words(F.pad(words, (0, 0, 0, 4)), F.pad(mask, (0, 4)))
        torch.testing.assert_close(model(**{**given, "context": longer}), out, rtol=1e-4, atol=1e-4)
        short = Words(words[:, :real])
        torch.testing.assert_close(model(**{**given, "context": short}), out, rtol=1e-4, atol=1e-4)
    everyone = Words(words, torch.ones(3, 5, dtype=torch.bool))
    alike = model(**{**given, "context": everyone})
    torch.testing.assert_close(model(**given), alike, rtol=1e-4, atol=1e-4)
    assert real == 5 or moved(out, alike).min() > 1e-4


@EVERY_NETWORK
@pytest.mark.parametrize("sides", [(8, 12), (4, 2), (12, 8)])
def test_pictures_may_have_other_sides(name, sides):
    config = EVERYONE[name]
    model, given = awake(build(config)), inputs(config, height=sides[0], width=sides[1])
    out = model(**given)
    assert out.shape == (3, 3, *sides)
    assert difference(model(**{**given, "x": given["x"].flip(2)}), out.flip(2)) > 1e-3  # places are heard


def test_a_picture_larger_than_the_table_is_refused():
    with pytest.raises(ValueError, match="a table of 6×6 places has no 7×4"):
        MMDiT(SD3)(**inputs(SD3, height=14))


def test_the_whole_is_the_sum_of_its_parts():
    """Patches, places, words and one vector for all else go in; the blocks pass; the last layer makes a picture."""
    model, given = awake(MMDiT(FAMILY["sd3"])), inputs(SD3, height=4)
    assert torch.equal(model.pos_embed, sin_cos_2d(6, 6, 24)[None])
    image = model.x_embedder(given["x"]) + crop_table(model.pos_embed, 6, 2, 4)
    c = model.t_embedder(given["t"]) + model.y_embedder(given["pooled"])
    text = model.context_embedder(given["context"])
    for block in model.double_blocks:
        text, image = block(text, image, c)
    wanted = unpatchify(model.final_layer(image, c), 2, 2)
    torch.testing.assert_close(model(**given), wanted, rtol=1e-4, atol=1e-5)
    assert isinstance(model.final_layer, FinalLayer)


def test_guidance_is_heard_as_a_time_of_its_thousandfold():
    model, given = awake(MMDiT(FAMILY["flux"])), inputs(FAMILY["flux"])
    heard = []
    model.guidance_embedder.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    model(**given)
    torch.testing.assert_close(heard[0], 1000 * given["guidance"])


def test_qwens_words_are_normalised_first():
    model, given = awake(MMDiT(FAMILY["qwen"])), inputs(FAMILY["qwen"])
    louder = {**given, "context": 20 * given["context"]}
    torch.testing.assert_close(model(**louder), model(**given), rtol=1e-3, atol=1e-4)


def test_double_stream_blocks_come_first_and_single_ones_hear_one_sentence():
    model, order = awake(MMDiT(replace(FAMILY["flux"], double=2))), []
    for block in (*model.double_blocks, *model.single_blocks):
        block.register_forward_hook(lambda block, args, out: order.append((block, args, out)))
    text, image, c = normal(2, 3, 24), normal(2, 4, 24, seed=1), normal(2, 24, seed=2)
    rotate, mask = turn(7), torch.tensor([[True, True, False], [True] * 3])
    found = model.run_blocks(text, image, c, rotate, mask)
    assert [block for block, _, _ in order] == [*model.double_blocks, *model.single_blocks]
    (_, first, one), (_, second, two), (_, third, three), (_, fourth, four) = order
    assert first[:2] == (text, image)
    assert all(a is b for a, b in zip(second[:2], one, strict=True))
    assert torch.equal(third[0], torch.cat(two, dim=1))
    assert fourth[0] is three
    assert torch.equal(found, four[:, 3:])
    for _, args, _ in order:
        assert c in [part for part in args if part is c]
        assert args[-2] is rotate
    assert first[-1] is second[-1] is mask
    assert torch.equal(third[-1], sentence_mask(mask, 4))
    assert torch.equal(fourth[-1], sentence_mask(mask, 4))


# Places


@pytest.mark.parametrize(("name", "text"), [("flux", "origin"), ("qwen", "diagonal"), ("single", "continued")])
def test_rotations_are_those_of_the_places_in_one_space(name, text):
    config = FAMILY[name]
    found = MMDiT(config).rotation(5, 3, 4, torch.device("cpu"))
    wanted = AxialRope(config.axes)(joint_coordinates(5, 3, 4, text))
    assert torch.equal(found.cos, wanted.cos)
    assert torch.equal(found.sin, wanted.sin)


def test_two_axes_are_row_and_column_and_a_table_needs_none():
    found = MMDiT(FAMILY["two axes"]).rotation(5, 3, 4, torch.device("cpu"))
    wanted = AxialRope((6, 6), 100.0)(joint_coordinates(5, 3, 4, "origin")[:, 1:])
    assert torch.equal(found.cos, wanted.cos)
    assert MMDiT(SD3).rotation(5, 3, 4, torch.device("cpu")) is None


@EVERY_NETWORK
def test_whether_the_order_of_the_words_is_heard_depends_on_where_they_stand(name):
    """Words at one place, or without one, are a heap; an order that matters must come from the encoder."""
    config = EVERYONE[name]
    model, given = awake(build(config)), inputs(config)
    change = moved(model(**{**given, "context": given["context"].flip(1)}), model(**given))
    if getattr(config, "places", "continued") in ("continued", "diagonal"):
        assert change.min() > 1e-4
    else:
        assert change.max() < 1e-4


@pytest.mark.parametrize("name", ["flux", "one stream"])
def test_a_network_can_be_used_before_it_is_trained(name):
    config = EVERYONE[name]
    model, given = awake(build(config)), inputs(config, words=11)  # words that no other test has: nothing is kept yet
    with torch.inference_mode():
        model(**given)
    model(**given).square().sum().backward()
    assert model.x_embedder.proj.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", ["flux", "one stream"])
def test_a_network_on_the_meta_device_leaves_nothing_behind(name):
    config = EVERYONE[name]
    model, given = awake(build(config)), inputs(config, words=13)
    with torch.device("meta"):
        assert build(config)(**{key: value.to("meta") for key, value in given.items()}).is_meta
    assert torch.isfinite(model(**given)).all()


# What is shared


def in_squares(model):
    """Return the weights of the blocks in units of D², biases and norms aside."""
    blocks = torch.nn.ModuleList([model.double_blocks, model.single_blocks])
    return sum(weight.numel() for weight in blocks.parameters() if weight.ndim == 2) / model.config.hidden_size**2


@pytest.mark.parametrize("depth", [1, 3, 5])
@pytest.mark.parametrize(
    ("shared", "fixed", "each"),
    [
        ((), 0, 36),
        (("modulation",), 12, 24),
        (("weights",), 0, 24),
        (("streams",), 0, 18),
        (("modulation", "streams"), 6, 12),
        (("modulation", "weights"), 12, 12),
        (("modulation", "weights", "attention"), 16, 8),
        (("modulation", "weights", "perceptron"), 20, 4),
        (("modulation", "weights", "attention", "perceptron"), 24, 0),
    ],
)
def test_sharing_leaves_the_weights_of_dit_airs_table(shared, fixed, each, depth):
    """DiT-Air, Table 1, in units of D² with N layers: MMDiT 36 N, DiT-Air 12 + 12 N, its Lites 16 + 8 N and 24."""
    with torch.device("meta"):
        model = MMDiT(replace(SD3, double=depth, last_text=True, shared=shared))
    assert in_squares(model) == fixed + each * depth


def test_single_blocks_share_one_modulation():
    with torch.device("meta"):
        models = [MMDiT(replace(FAMILY["flux"], double=2, single=4, shared=s)) for s in ((), ("modulation",))]
    assert [in_squares(model) for model in models] == [2 * 36 + 4 * 15, 2 * 24 + 12 + 4 * 12 + 3]


@pytest.mark.parametrize("shared", [(), *((part,) for part in SHARED), ("modulation", "weights")])
def test_what_is_shared_is_one_thing_and_all_else_is_two(shared):
    first, second = MMDiT(replace(SD3, last_text=True, shared=shared)).double_blocks
    one_stream = "streams" in shared
    assert (first.text is first.image) == one_stream
    assert (
        (first.text.attn is first.image.attn)
        == (first.text.mlp is first.image.mlp)
        == bool({"weights", "streams"} & set(shared))
    )
    assert (first.text.adaLN_modulation is first.image.adaLN_modulation) == one_stream
    for stream, other in ((first.text, second.text), (first.image, second.image)):
        assert (stream.adaLN_modulation is other.adaLN_modulation) == ("modulation" in shared)
        assert (stream.attn is other.attn) == ("attention" in shared)
        assert (stream.mlp is other.mlp) == ("perceptron" in shared)


def test_a_network_that_shares_says_what_one_says_whose_weights_are_equal():
    shared = awake(MMDiT(replace(SD3, shared=("modulation", "weights", "attention"))))
    plain = MMDiT(replace(SD3, last_text=True))
    plain.load_state_dict(shared.state_dict())
    given = inputs(SD3)
    torch.testing.assert_close(plain(**given), shared(**given))
    assert sum(w.numel() for w in plain.parameters()) > sum(w.numel() for w in shared.parameters())


def test_a_network_that_shares_is_saved_loaded_and_copied(tmp_path):
    config = replace(FAMILY["flux"], double=2, shared=("modulation", "weights"))
    model, given = awake(MMDiT(config)), inputs(config)
    save_model(tmp_path / "shared.safetensors", model, {}, half=False)
    for other in (load_model(tmp_path / "shared.safetensors", lambda _: MMDiT(config)), copy.deepcopy(model)):
        assert torch.equal(other(**given), model(**given))
        assert sum(w.numel() for w in other.parameters()) == sum(w.numel() for w in model.parameters())
        assert other.double_blocks[0].text.attn is other.double_blocks[0].image.attn


def test_modulations_share_is_a_third_of_a_block_and_counts_once_what_is_shared():
    with torch.device("meta"):
        block = DoubleStreamBlock(64, 2, qk_norm=False)
        model = MMDiT(replace(SD3, hidden_size=480, double=4, last_text=True, shared=("modulation",)))
    assert modulation_share(block) == pytest.approx(12 / 36, abs=2e-3)
    weights = sum(weight.numel() for weight in model.parameters())
    modulating = 12 * 480**2 + 12 * 480 + 2 * 480**2 + 2 * 480  # one for words, one for patches, and the last layer's
    assert modulation_share(model) == pytest.approx(modulating / weights, rel=1e-6)


# The sizes of the papers


@pytest.mark.parametrize(
    ("name", "thousand_millions", "per_cent"),
    [
        ("sd3_medium", 2.028, 33.3),
        ("sd35_medium", 2.243, 34.2),
        ("sd35_large", 8.057, 33.3),
        ("flux_dev", 11.901, 27.3),
        ("qwen_image", 20.430, 33.4),
        ("z_image", 6.155, 2.1),
        ("lumina_image_2", 2.610, 10.1),
    ],
)
def test_presets_have_the_published_sizes(name, thousand_millions, per_cent):
    kind, model = (MMDiTConfig, MMDiT) if hasattr(MMDiTConfig, name) else (SingleStreamConfig, SingleStreamDiT)
    with torch.device("meta"):
        network = model(getattr(kind, name)())
    assert round(sum(weight.numel() for weight in network.parameters()) / 1e9, 3) == thousand_millions
    assert round(100 * modulation_share(network), 1) == per_cent


def test_a_learners_network_fits_its_pictures():
    for width in (64, 128):
        config = MMDiTConfig.shapes16(width)
        model, given = awake(MMDiT(config)), inputs(config, height=16, width=16)
        assert config.grid == 4
        assert model(**given).shape == (3, 3, 16, 16)


# One stream, newer blocks


def root_mean_square(x, weight):
    return F.rms_norm(x, x.shape[-1:], weight, 1e-5)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 4]), st.booleans(), st.booleans())
def test_a_sandwich_block_is_its_formula(seed, kv_heads, told, masked):
    block = awake(SandwichBlock(24, 4, 20, kv_heads, condition_size=7), seed)
    x, c = normal(2, 5, 24, seed=seed), normal(2, 7, seed=seed + 1)
    mask = torch.tensor([[True] * 5, [True, False, True, True, False]]) if masked else None
    rotate = turn(5, 6)
    vectors = (c @ block.adaLN_modulation.weight.T + block.adaLN_modulation.bias)[:, None].chunk(4, dim=-1)
    scale_msa, gate_msa, scale_mlp, gate_mlp = vectors if told else (0, None, 0, None)

    def bounded(gate):
        return 1.0 if gate is None else gate.tanh()

    u = root_mean_square(x, block.norm1.weight) * (1 + scale_msa)
    query, (key, value) = split_heads(block.q(u), 4), (split_heads(h, kv_heads) for h in block.kv(u).chunk(2, dim=-1))
    query, key = block.norm(query, key)
    query, key = rotate(query), rotate(key)
    group = [head // (4 // kv_heads) for head in range(4)]  # head → its keys and values
    heard = block.proj(one_softmax(query, key[:, group], value[:, group], mask))
    after = x + bounded(gate_msa) * root_mean_square(heard, block.norm1_after.weight)
    thought = block.mlp(root_mean_square(after, block.norm2.weight) * (1 + scale_mlp))
    wanted = after + bounded(gate_mlp) * root_mean_square(thought, block.norm2_after.weight)
    found = block(x, c if told else None, rotate, mask)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    refiner = SandwichBlock(24, 4, 20, kv_heads)
    refiner.load_state_dict({key: w for key, w in block.state_dict().items() if "adaLN" not in key})
    if not told:
        torch.testing.assert_close(refiner(x, None, rotate, mask), found)


def test_a_silent_modulation_makes_a_sandwich_block_the_identity_and_a_loud_one_is_bounded():
    block = awake(SandwichBlock(24, 4, 20, 2, condition_size=7))
    x, c = normal(2, 5, 24), normal(2, 7, seed=1)
    block.adaLN_modulation.bias.data.zero_()
    assert torch.equal(block(x, torch.zeros(2, 7)), x)
    block.norm1_after.weight.data.fill_(1)
    block.norm2_after.weight.data.fill_(1)
    step = block(x, 1e4 * c) - x  # gates at ±1: each branch adds a vector of length √D at most
    assert step.norm(dim=-1).max() <= 2 * math.sqrt(24) * 1.001
    assert step.norm(dim=-1).max() > math.sqrt(24)


def test_fewer_keys_and_values_are_the_same_as_repeated_ones():
    few, many = awake(SandwichBlock(24, 4, 20, 2, condition_size=7)), SandwichBlock(24, 4, 20, condition_size=7)
    weights = few.state_dict()
    shared = weights["kv.weight"].unflatten(0, (2, 2, 6))  # keys and values, heads, channels
    weights["kv.weight"] = shared.repeat_interleave(2, dim=1).flatten(0, 2)
    many.load_state_dict(weights)
    x, c = normal(2, 5, 24), normal(2, 7, seed=1)
    torch.testing.assert_close(few(x, c, turn(5, 6)), many(x, c, turn(5, 6)))
    biases = {name for name, _ in few.named_parameters() if name.endswith("bias")}
    assert biases == {"adaLN_modulation.bias"}


def test_a_network_of_one_stream_is_its_parts_in_order():
    model, given = awake(SingleStreamDiT(replace(NEWER, refiners=2))), inputs(NEWER)
    order = []
    for kind in ("context_refiner", "noise_refiner", "blocks"):
        for block in getattr(model, kind):
            block.register_forward_hook(lambda block, args, out, kind=kind: order.append((kind, args, out)))
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    out = model(**{**given, "context": Words(given["context"], mask)})
    assert [kind for kind, _, _ in order] == ["context_refiner"] * 2 + ["noise_refiner"] * 2 + ["blocks"] * 2
    words, patches = order[1][2], order[3][2]
    assert torch.equal(order[4][1][0], torch.cat([words, patches], dim=1))
    assert order[0][1][1] is None  # the words' refiner hears no time
    assert order[0][1][3] is mask
    assert torch.equal(order[4][1][3], sentence_mask(mask, 16))
    places = joint_coordinates(5, 4, 4, "continued")
    rope = AxialRope(NEWER.axes, 100.0)
    for number, part in ((0, places[:5]), (2, places[5:]), (4, places)):
        assert torch.equal(order[number][1][2].cos, rope(part).cos)
    last = model.final_norm(order[5][2][:, 5:]) * (1 + model.final_modulation(order[2][1][1])[:, None])
    torch.testing.assert_close(out, unpatchify(model.final_linear(last), 2, 4))


def test_lumina_hears_silu_of_the_time_and_z_image_the_time_itself():
    heard = []
    for silu in (False, True):
        model, given = awake(SingleStreamDiT(replace(NEWER, silu=silu))), inputs(NEWER)
        model.blocks[0].register_forward_pre_hook(lambda _, args: heard.append(args[1]))
        model(**given)
    assert torch.equal(heard[1], F.silu(heard[0]))


# Wrong calls


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"patch_size": 3}, "choose patch_size 1 or 2 or 4 or 8"),
        ({"num_heads": 5}, "does not divide into 5 heads; these do: 1, 2, 3"),
        ({"places": "left"}, f"places is 'left'; it must be one of {', '.join(PLACES)}"),
        ({"shared": ("modulation", "norms")}, f"shared has norms; it may hold {', '.join(SHARED)}"),
        ({"places": "origin"}, r"axes is \(\); it must be two or three numbers, together 12"),
        ({"places": "origin", "axes": (4, 4)}, r"axes is \(4, 4\); it must be two or three numbers, together 12"),
        ({"places": "diagonal", "axes": (12,)}, "two or three numbers, together 12"),
        ({"table_size": 3}, "a grid of 4 needs a table_size of so many, not 3"),
        ({"dual": 3}, "dual is 3; at most 2 blocks, which share nothing"),
        ({"dual": 1, "shared": ("streams",)}, "dual is 1; at most 2 blocks, which share nothing"),
    ],
)
def test_a_wrong_configuration_is_told_what_would_fit(change, says):
    with pytest.raises(ValueError, match=says):
        replace(SD3, **change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_heads": 5}, "does not divide into 5 heads"),
        ({"kv_heads": 3}, "4 heads of queries, 3 of keys"),
        ({"axes": (2, 2)}, r"axes is \(2, 2\); it must be three numbers, together 6"),
        ({"axes": (2, 2, 4)}, r"axes is \(2, 2, 4\); it must be three numbers, together 6"),
    ],
)
def test_a_wrong_configuration_of_one_stream_is_told_what_would_fit(change, says):
    with pytest.raises(ValueError, match=says):
        replace(NEWER, **change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(3, 4, 8, 8)}, r"expects pictures of shape \(B, 3, H, W\), got \(3, 4, 8, 8\)"),
        ({"x": torch.zeros(3, 8, 8)}, r"expects pictures of shape \(B, 3, H, W\), got \(3, 8, 8\)"),
        ({"x": torch.zeros(3, 3, 8, 9)}, "8×9 pixels do not divide into patches of 2"),
        ({"context": None}, "there are no words; give context, a vector for each word of each text"),
        ({"context": torch.zeros(3, 10)}, r"context has shape \(3, 10\) for 3 pictures; wanted \(3, L, 10\)"),
        ({"context": torch.zeros(2, 5, 10)}, r"context has shape \(2, 5, 10\) for 3 pictures"),
        ({"context": torch.zeros(3, 5, 9)}, r"context has shape \(3, 5, 9\) for 3 pictures; wanted \(3, L, 10\)"),
        (
            {"context": Words(torch.zeros(3, 5, 10), torch.ones(3, 6, dtype=torch.bool))},
            r"mask has shape \(3, 6\) .*must be \(3, 5\) of torch.bool",
        ),
        ({"context": Words(torch.zeros(3, 5, 10), torch.ones(3, 5))}, r"type torch.float32; for words of shape"),
        (
            {"context": Words(torch.zeros(3, 5, 10), torch.tensor([[True] * 5, [False] * 5, [True] * 5]))},
            "row 1 of mask has no word at all; even an empty caption has its end token",
        ),
    ],
)
@pytest.mark.parametrize("name", ["sd3", "one stream"])
def test_wrong_words_and_pictures_are_told_what_was_expected(name, change, says):
    config = EVERYONE[name]
    with pytest.raises(ValueError, match=says):
        build(config)(**{**inputs(config), **change})


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        ("sd3", {"pooled": None}, "this network was built with pooled"),
        ("qwen", {"pooled": torch.zeros(3, 6)}, "this network was built without pooled"),
        ("one stream", {"pooled": torch.zeros(3, 6)}, "this network was built without pooled"),
        ("sd3", {"pooled": torch.zeros(3, 7)}, r"pooled has shape \(3, 7\) for 3 pictures; wanted \(3, 6\)"),
        ("sd3", {"pooled": torch.zeros(1, 6)}, r"pooled has shape \(1, 6\) for 3 pictures"),
        ("flux", {"guidance": None}, "this network was built with guidance"),
        ("sd3", {"guidance": torch.zeros(3)}, "this network was built without guidance"),
        ("flux", {"guidance": torch.zeros(3, 1)}, r"guidance has shape \(3, 1\) for 3 pictures; wanted \(3,\)"),
        ("sd3", {"t": torch.zeros(1)}, r"t has shape \(1,\) for 3 pictures; wanted \(3,\)"),
        ("sd3", {"t": torch.tensor(3.0)}, r"t has shape \(\) for 3 pictures"),
        ("one stream", {"t": torch.zeros(1)}, r"t has shape \(1,\) for 3 pictures; wanted \(3,\)"),
        ("one stream", {"t": torch.zeros(2)}, r"t has shape \(2,\) for 3 pictures"),
    ],
)
def test_a_missing_or_wrong_condition_is_named(name, change, says):
    config = EVERYONE[name]
    with pytest.raises(ValueError, match=says):
        build(config)(**{**inputs(config), **change})


def test_a_training_step_hears_words_with_their_mask():
    """denoising_loss hands conditions on as they are: pooled text and words of an MMDiT among them."""
    model = awake(MMDiT(SD3))
    given = inputs(SD3)
    loss = denoising_loss(RectifiedFlow())
    batch = (given["x"], given["pooled"], given["context"])
    value = loss(model, batch, torch.Generator().manual_seed(0))
    louder = loss(model, (*batch[:2], 2 * batch[2]), torch.Generator().manual_seed(0))
    value.backward()
    assert float(value.detach()) != float(louder.detach())
    assert model.context_embedder.weight.grad.abs().max() > 0
