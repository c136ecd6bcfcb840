"""The Diffusion Transformer: each way to listen, its start, its counts, and what wrong input is told."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lesson_lib.attention import Words
from lesson_lib.dit import (
    BLOCKS,
    STARTS,
    AdaLNZeroBlock,
    DiT,
    DiTConfig,
    macs,
    modulate,
    parameters_by_part,
    start_modulation,
    unpatchify,
)
from lesson_lib.evaluate import count_macs
from lesson_lib.position import sin_cos_2d
from lesson_lib.vit import patchify

SMALL = DiTConfig(8, 2, 3, hidden_size=24, depth=3, num_heads=3, num_classes=5, learn_sigma=False)
WORDS = replace(SMALL, conditioning="adaln-single", num_classes=0, context_size=7)
POOLED = replace(SMALL, num_classes=0, pooled_size=5)
ALL = [*(replace(SMALL, conditioning=name) for name in BLOCKS), WORDS, POOLED, replace(SMALL, learn_sigma=True)]


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs(config, batch=4, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.in_channels, config.input_size, config.input_size, generator=g)
    given = {"x": x, "t": torch.rand(batch, generator=g) * 1000}
    if config.num_classes:
        given["labels"] = torch.randint(config.num_classes + 1, (batch,), generator=g)
    if config.pooled_size:
        given["labels"] = torch.randn(batch, config.pooled_size, generator=g)
    if config.context_size:
        given["context"] = torch.randn(batch, 6, config.context_size, generator=g)
    return given


def awake(model, seed=0):
    """Give every tensor random numbers: what starts at zero would hide a mistake."""
    g = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = torch.randn(weight.shape, generator=g) * 0.2
    return model.eval()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
def test_unpatchify_lays_every_patch_where_it_was(batch, rows, columns, p, channels):
    tokens = normal(batch, rows * columns, p * p * channels)
    image = unpatchify(tokens, p, rows)
    assert image.shape == (batch, channels, rows * p, columns * p)
    for row in range(rows):
        for column in range(columns):
            patch = image[:, :, row * p : (row + 1) * p, column * p : (column + 1) * p]
            wanted = tokens[:, row * columns + column].reshape(batch, p, p, channels).permute(0, 3, 1, 2)
            assert torch.equal(patch, wanted)


def test_unpatchify_undoes_patchify_for_one_channel_only():
    grey, colour = normal(2, 1, 6, 8), normal(2, 3, 6, 8)
    assert torch.equal(unpatchify(patchify(grey, 2), 2, 3), grey)
    assert not torch.equal(unpatchify(patchify(colour, 2), 2, 3), colour)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 6))
def test_modulate_treats_every_token_of_an_image_alike(batch, tokens, width):
    x, shift, scale = normal(batch, tokens, width), normal(batch, width, seed=1), normal(batch, width, seed=2)
    found = modulate(x, shift, scale)
    for b in range(batch):
        for n in range(tokens):
            torch.testing.assert_close(found[b, n], x[b, n] * (1 + scale[b]) + shift[b])
    assert torch.equal(modulate(x, torch.zeros_like(shift), torch.zeros_like(scale)), x)


@pytest.mark.parametrize("config", ALL, ids=lambda c: f"{c.conditioning}{'+words' * bool(c.context_size)}")
def test_every_kind_answers_with_a_picture_and_hears_time_and_class(config):
    model, given = awake(DiT(config)), inputs(config)
    out = model(**given)
    assert out.shape == (4, config.out_channels, 8, 8)
    later = model(**{**given, "t": given["t"] + 100})
    assert (later - out).abs().amax(dim=(1, 2, 3)).min() > 1e-5
    if config.num_classes:
        other = model(**{**given, "labels": (given["labels"] + 1) % 6})
        assert (other - out).abs().amax(dim=(1, 2, 3)).min() > 1e-5
    if config.pooled_size:
        other = model(**{**given, "labels": given["labels"] + 1})
        assert (other - out).abs().amax(dim=(1, 2, 3)).min() > 1e-5
    if config.context_size:
        words = given["context"].clone()
        words[:, 2] += 1
        assert (model(**{**given, "context": words}) - out).abs().amax(dim=(1, 2, 3)).min() > 1e-5


@pytest.mark.parametrize("config", ALL, ids=lambda c: f"{c.conditioning}{'+words' * bool(c.context_size)}")
def test_pictures_of_a_batch_do_not_hear_each_other(config):
    model, given = awake(DiT(config)), inputs(config)
    alone = torch.cat([model(**{name: value[i : i + 1] for name, value in given.items()}) for i in range(4)])
    torch.testing.assert_close(model(**given), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config", ALL, ids=lambda c: f"{c.conditioning}{'+words' * bool(c.context_size)}")
def test_a_fresh_network_answers_zero_and_every_weight_learns_in_the_end(config):
    torch.manual_seed(0)
    model, given = DiT(config), inputs(config)
    assert torch.equal(model(**given), torch.zeros(4, config.out_channels, 8, 8))
    target, optimiser = normal(4, config.out_channels, 8, 8, seed=3), torch.optim.Adam(model.parameters(), 1e-3)
    touched = set()
    for _ in range(4):  # zeros wake one after another, from the last layer back to the first
        optimiser.zero_grad()
        (model(**given) - target).square().mean().backward()
        optimiser.step()
        touched |= {n for n, w in model.named_parameters() if w.grad is not None and bool((w.grad != 0).any())}
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == touched


@pytest.mark.parametrize("start", STARTS)
def test_silent_gates_make_a_fresh_block_the_identity(start):
    torch.manual_seed(0)
    block = DiT(replace(SMALL, start=start)).blocks[0]
    x, c = normal(2, 16, 24), normal(2, 24, seed=1)
    moved = float((block(x, c) - x).detach().abs().max())
    assert (moved == 0) == (start in ("zero", "gates"))
    assert start != "gaussian" or moved < 0.05


def test_starts_silence_what_they_say():
    weight = normal(6 * 4, 4)
    assert torch.equal(start_modulation(weight, 6, "xavier"), weight)
    assert not start_modulation(weight, 6, "zero").any()
    gates = start_modulation(weight, 6, "gates").unflatten(0, (6, 4))
    assert [bool(part.any()) for part in gates] == [True, True, False, True, True, False]
    assert torch.equal(gates[1], weight.unflatten(0, (6, 4))[1])
    assert weight.abs().min() > 0  # left as it was
    torch.manual_seed(0)
    assert float(start_modulation(torch.zeros(6000, 50), 6, "gaussian").std()) == pytest.approx(1e-3, rel=0.01)
    with pytest.raises(ValueError, match="zero, gates, gaussian, xavier"):
        start_modulation(weight, 6, "ones")


def test_the_six_parts_come_in_the_papers_order():
    """Silence one part at a time: which of the block's two branches changes, and how, tells which part it is."""
    block = awake(AdaLNZeroBlock(12, 3))
    x, c = normal(1, 5, 12), normal(1, 12, seed=1)
    numbers = dict(zip(("shift", "scale", "gate", "shift2", "scale2", "gate2"), block.adaLN_modulation(c), strict=True))
    h = x + numbers["gate"][:, None] * block.attn(modulate(block.norm1(x), numbers["shift"], numbers["scale"]))
    wanted = h + numbers["gate2"][:, None] * block.mlp(modulate(block.norm2(h), numbers["shift2"], numbers["scale2"]))
    torch.testing.assert_close(block(x, c), wanted)


def test_adaln_single_is_adaln_zero_with_the_same_six_vectors():
    config = replace(SMALL, conditioning="adaln-single")
    single, zero = awake(DiT(config)).blocks[0], awake(DiT(SMALL)).blocks[0]
    x, six = normal(2, 16, 24), normal(2, 6 * 24, seed=1)
    zero.load_state_dict({**zero.state_dict(), **{k: v for k, v in single.state_dict().items() if "table" not in k}})
    zero.adaLN_modulation = Given((six + single.scale_shift_table.flatten()).chunk(6, dim=-1))
    torch.testing.assert_close(single(x, six), zero(x, normal(2, 24)))


class Given(nn.Module):
    """A modulation that says what it was told to say."""

    def __init__(self, parts):
        super().__init__()
        self.parts_given = parts

    def forward(self, c):
        return self.parts_given


def test_condition_tokens_stand_last_and_leave_again():
    config = replace(SMALL, conditioning="in-context")
    model, seen = awake(DiT(config)), []
    model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    given = inputs(config)
    tokens = normal(4, 16, 24)
    heard = [model.t_embedder(given["t"]), model.y_embedder(given["labels"])]
    assert model.run_blocks(tokens, heard).shape == (4, 16, 24)
    torch.testing.assert_close(seen[0], torch.cat([tokens, torch.stack(heard, dim=1)], dim=1))


def test_positions_are_the_fixed_table_and_never_trained():
    model = DiT(SMALL)
    assert torch.equal(model.pos_embed[0], sin_cos_2d(4, 4, 24))
    assert not model.pos_embed.requires_grad


@pytest.mark.parametrize("name", ["S/8", "B/4", "L/2", "XL/2"])
@pytest.mark.parametrize("size", [32, 64])
def test_macs_counted_by_hand_are_those_of_the_network(name, size):
    config = DiTConfig.paper(name, size)
    with torch.device("meta"):
        arguments = (torch.empty(1, 4, size, size), torch.empty(1), torch.empty(1, dtype=torch.long))
        assert macs(config) == count_macs(DiT(config), *arguments)


@pytest.mark.parametrize("config", ALL, ids=lambda c: f"{c.conditioning}{'+words' * bool(c.context_size)}")
def test_the_parts_are_the_whole(config):
    model = DiT(config)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert sum(parameters_by_part(model).values()) == trained


@pytest.mark.parametrize("name", ["S/2", "B/4", "XL/8"])
def test_a_third_of_a_dit_makes_shifts_scales_and_gates(name):
    with torch.device("meta"):
        parts = parameters_by_part(DiT(DiTConfig.paper(name)))
    assert parts["modulation"] / sum(parts.values()) == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"patch_size": 3}, "choose patch_size 1 or 2 or 4 or 8"),
        ({"num_heads": 5}, "does not divide into 5 heads; these do: 1, 2, 3"),
        ({"hidden_size": 30}, "28 and 32 fit"),
        ({"conditioning": "film"}, "in-context, cross-attention, adaln, adaln-zero, adaln-single"),
        ({"start": "one"}, "zero, gates, gaussian, xavier"),
        ({"start": "gates", "conditioning": "adaln"}, "needs conditioning 'adaln-zero'"),
        ({"context_size": 5}, "only blocks of conditioning 'adaln-single'"),
        ({"pooled_size": 5}, "a pooled text takes the place of the classes: set num_classes to 0"),
    ],
)
def test_a_wrong_configuration_is_told_what_would_fit(change, says):
    with pytest.raises(ValueError, match=says):
        replace(SMALL, **change)


def test_a_wrong_name_of_the_paper_is_told_the_right_ones():
    with pytest.raises(ValueError, match="S, B, L, XL with /2, /4 or /8"):
        DiTConfig.paper("XXL/2")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(4, 3, 10, 8)}, r"\(B, 3, 8, 8\), got \(4, 3, 10, 8\)"),
        ({"t": torch.zeros(4, 1)}, r"t has shape \(4, 1\) for 4 pictures"),
        ({"t": torch.tensor(5.0)}, r"t has shape \(\) for 4 pictures"),
        ({"t": torch.zeros(3)}, "one time for each"),
        ({"labels": None}, "was built with labels"),
        ({"labels": torch.tensor([0, 1, 2, 6])}, "from 0 to 5 .5 is the null class., got 0 to 6"),
        ({"labels": torch.tensor([0, 1, 2])}, r"labels has shape \(3,\); expected \(4\)"),
        ({"context": torch.zeros(4, 6, 7)}, "was built without context"),
    ],
)
def test_a_wrong_call_is_told_what_was_expected(change, says):
    with pytest.raises(ValueError, match=says):
        DiT(SMALL)(**{**inputs(SMALL), **change})


def test_words_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"context has shape \(4, 6, 8\); expected \(4, M, 7\)"):
        DiT(WORDS)(**{**inputs(WORDS), "context": torch.zeros(4, 6, 8)})


def test_a_network_without_classes_refuses_labels():
    with pytest.raises(ValueError, match="was built without labels"):
        DiT(WORDS)(**inputs(WORDS), labels=torch.zeros(4, dtype=torch.long))


# Texts in the place of classes


@pytest.mark.parametrize("conditioning", list(BLOCKS))
def test_a_pooled_text_is_heard_where_a_class_would_be(conditioning):
    """A network of classes whose table holds what the pooled texts become says the same."""
    config = replace(POOLED, conditioning=conditioning)
    text, classes = awake(DiT(config)), awake(DiT(replace(SMALL, conditioning=conditioning)), seed=1)
    own = {name: weight for name, weight in text.state_dict().items() if not name.startswith("y_embedder")}
    classes.load_state_dict({**classes.state_dict(), **own})
    given = inputs(config)
    classes.y_embedder.table.weight.data[:4] = text.y_embedder(given["labels"])
    found, wanted = text(**given), classes(given["x"], given["t"], torch.arange(4))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (None, "was built with pooled text; call it with them"),
        (torch.zeros(4, 6), r"pooled text has shape \(4, 6\); expected \(4, 5\)"),
        (torch.zeros(3, 5), r"pooled text has shape \(3, 5\); expected \(4, 5\)"),
        (torch.zeros(4, dtype=torch.long), r"pooled text has shape \(4,\); expected \(4, 5\)"),
    ],
)
def test_a_wrong_pooled_text_is_told_what_was_expected(labels, says):
    with pytest.raises(ValueError, match=says):
        DiT(POOLED)(**{**inputs(POOLED), "labels": labels})


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6))
def test_words_that_fill_the_row_change_no_picture(seed, real):
    model, given = awake(DiT(WORDS), seed), inputs(WORDS, seed=seed)
    words, mask = given["context"], (torch.arange(6) < real).expand(4, 6)
    out = model(**{**given, "context": Words(words, mask)})
    torch.testing.assert_close(out, model(**{**given, "context": words[:, :real]}), rtol=1e-4, atol=1e-5)
    filled = Words(torch.where(mask[..., None], words, 9.0), mask)
    torch.testing.assert_close(model(**{**given, "context": filled}), out, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(**{**given, "context": Words(words)}), model(**given))
    assert real == 6 or (model(**given) - out).abs().amax(dim=(1, 2, 3)).min() > 1e-4


@pytest.mark.parametrize(
    ("context", "says"),
    [
        (None, "was built with context; call it with them"),
        (Words(torch.zeros(4, 6, 8)), r"context has shape \(4, 6, 8\); expected \(4, M, 7\)"),
        (Words(torch.zeros(3, 6, 7)), r"context has shape \(3, 6, 7\); expected \(4, M, 7\)"),
        (torch.zeros(4, 7), r"context has shape \(4, 7\); expected \(4, M, 7\)"),
        (Words(torch.zeros(4, 6, 7), torch.ones(4, 5, dtype=torch.bool)), r"DiT: mask has shape \(4, 5\)"),
        (Words(torch.zeros(4, 6, 7), torch.ones(4, 6)), "DiT: mask .* type torch.float32"),
        (Words(torch.zeros(4, 6, 7), torch.zeros(4, 6, dtype=torch.bool)), "DiT: row 0 of mask has no word at all"),
    ],
)
def test_wrong_words_are_told_what_was_expected(context, says):
    with pytest.raises(ValueError, match=says):
        DiT(WORDS)(**{**inputs(WORDS), "context": context})


def test_the_words_of_a_fresh_network_are_silent_but_for_their_last_layer():
    torch.manual_seed(0)
    model = DiT(WORDS)
    for block in model.blocks:
        assert not block.cross_attn.proj.weight.any()
        assert not block.cross_attn.proj.bias.any()
        assert block.cross_attn.q.weight.any()
        assert block.cross_attn.kv.weight.any()
    nn.init.normal_(model.final_layer.linear.weight)
    given = inputs(WORDS)
    assert torch.equal(model(**given), model(**{**given, "context": given["context"].flip(0)}))


def test_pixart_has_the_weights_that_its_paper_says():
    """0.611 thousand million, of which the two layers that bring T5's 4,096 numbers to the width are the encoder's."""
    config = DiTConfig(num_classes=0, context_size=1152, conditioning="adaln-single")
    with torch.device("meta"):
        model, caption = DiT(config), nn.Sequential(nn.Linear(4096, 1152), nn.Linear(1152, 1152))
    counted = sum(weight.numel() for part in (model, caption) for weight in part.parameters() if weight.requires_grad)
    assert round(counted / 1e9, 3) == 0.611
