"""Attention: against its formula, against PyTorch's own layer, and what holds whatever the weights are."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lesson_lib.attention import (
    CrossAttention,
    SelfAttention,
    Words,
    attend,
    attention_map,
    check_heads,
    check_mask,
    masked_map,
    silence,
)

SEEDS = st.integers(0, 10_000)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Fill every parameter, zero-initialised ones too, so that no part of a comparison is hidden."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return module


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 8))
def test_attention_written_out_equals_the_fused_kernel_and_the_formula(seed, batch, heads, queries, keys, width):
    q = normal(batch, heads, queries, width, seed=seed)
    k, v = normal(2, batch, heads, keys, width, seed=seed + 1)
    fused, explicit = attend(q, k, v), attend(q, k, v, explicit=True)
    torch.testing.assert_close(explicit, fused, rtol=1e-6, atol=2e-6)
    for b in range(batch):
        for h in range(heads):
            scores = torch.stack([(k[b, h] * query).sum(dim=1) / math.sqrt(width) for query in q[b, h]]).exp()
            wanted = (scores / scores.sum(dim=1, keepdim=True)) @ v[b, h]
            torch.testing.assert_close(explicit[b, h], wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.booleans())
def test_attention_is_a_mean_of_the_values(seed, explicit):
    q, k, v = normal(1, 2, 5, 4, seed=seed) * 10, normal(1, 2, 7, 4, seed=seed + 1), normal(1, 2, 7, 4, seed=seed + 2)
    mixed = attend(q, k, v, explicit)
    assert (mixed <= v.amax(dim=2, keepdim=True) + 1e-5).all()
    assert (mixed >= v.amin(dim=2, keepdim=True) - 1e-5).all()
    alike = attend(torch.zeros_like(q), k, v, explicit)
    torch.testing.assert_close(alike, v.mean(dim=2, keepdim=True).expand_as(alike), rtol=1e-5, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.permutations(range(6)), st.sampled_from([1, 2, 4]))
def test_moving_the_tokens_moves_the_answers(seed, order, heads):
    layer, x = randomise(SelfAttention(8, heads), seed), normal(2, 6, 8, seed=seed)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.permutations(range(5)), st.permutations(range(6)))
def test_the_order_of_the_words_does_not_matter_and_that_of_the_places_is_kept(seed, words, places):
    layer = randomise(CrossAttention(8, 5, num_heads=2), seed)
    x, context = normal(2, 6, 8, seed=seed), normal(2, 5, 5, seed=seed + 1)
    answer = layer(x, context)
    torch.testing.assert_close(layer(x, context[:, words]), answer, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layer(x[:, places], context), answer[:, places], rtol=1e-4, atol=1e-5)
    one_word = layer(x, context[:, :1])
    torch.testing.assert_close(one_word, one_word[:, :1].expand_as(one_word), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(answer, layer(x, context + 1))


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_self_attention_equals_torch_by_transplanted_weights(heads, bias):
    ours = randomise(SelfAttention(8, heads, bias))
    theirs = nn.MultiheadAttention(8, heads, batch_first=True)
    nn.init.zeros_(theirs.in_proj_bias)
    theirs.in_proj_weight.data = ours.qkv.weight.data
    if bias:
        theirs.in_proj_bias.data = ours.qkv.bias.data
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x = normal(3, 5, 8)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0], rtol=1e-5, atol=1e-6)
    assert (ours.qkv.bias is not None) == bias
    assert ours.proj.bias is not None


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_cross_attention_equals_torch_by_transplanted_weights(heads):
    ours = randomise(CrossAttention(8, 6, heads))
    theirs = nn.MultiheadAttention(8, heads, batch_first=True, kdim=6, vdim=6)
    theirs.q_proj_weight.data = ours.q.weight.data
    theirs.k_proj_weight.data, theirs.v_proj_weight.data = ours.kv.weight.data.chunk(2)
    theirs.in_proj_bias.data = torch.cat([ours.q.bias.data, ours.kv.bias.data])
    theirs.out_proj.load_state_dict(ours.proj.state_dict())
    x, context = normal(3, 5, 8), normal(3, 4, 6, seed=1)
    wanted = theirs(x, context, context, need_weights=False)[0]
    torch.testing.assert_close(ours(x, context), wanted, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 64), st.integers(-2, 70))
def test_a_width_divides_into_its_heads_or_the_error_names_the_numbers_that_fit(width, heads):
    if heads >= 1 and width % heads == 0:
        check_heads(width, heads)
        assert SelfAttention(width, heads)(torch.zeros(1, 2, width)).shape == (1, 2, width)
        return
    for build in (lambda: SelfAttention(width, heads), lambda: CrossAttention(width, 3, heads)):
        with pytest.raises(ValueError, match=f"width {width} does not divide into {heads} heads; these do: ") as error:
            build()
        fitting = [int(number) for number in str(error.value).split("these do: ")[1].split(", ")]
        assert fitting[0] == 1
        assert all(width % number == 0 for number in fitting)
        assert {n for n in (2, 4, 8, width) if width % n == 0 and n <= 32} <= set(fitting)


def both() -> list[tuple[nn.Module, tuple[Tensor, ...]]]:
    return [
        (randomise(SelfAttention(8, 2)), (normal(2, 5, 8),)),
        (randomise(CrossAttention(8, 6, 2)), (normal(2, 5, 8), normal(2, 4, 6))),
    ]


def test_every_weight_of_both_layers_gets_a_gradient():
    for layer, inputs in both():
        layer(*inputs).square().sum().backward()
        for name, weight in layer.named_parameters():
            assert weight.grad.abs().max() > 1e-4, name


def test_a_bias_of_the_keys_changes_nothing_and_one_of_the_values_does():
    """It moves all scores of a query alike, and the softmax sees only differences."""
    for layer, inputs in both():
        before = layer(*inputs)
        bias = layer.qkv.bias.data[8:] if isinstance(layer, SelfAttention) else layer.kv.bias.data
        bias[:8] += 3
        torch.testing.assert_close(layer(*inputs), before, rtol=1e-4, atol=1e-5)
        bias[8:] += 3
        assert not torch.allclose(layer(*inputs), before, atol=1e-2)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 4]), st.integers(1, 6))
def test_maps_on_request_are_what_the_layers_mix_with(seed, heads, words):
    x, context = normal(2, 5, 8, seed=seed), normal(2, words, 6, seed=seed + 1)
    own, other = randomise(SelfAttention(8, heads), seed), randomise(CrossAttention(8, 6, heads), seed)
    value = own.qkv(x).chunk(3, dim=-1)[2].unflatten(-1, (heads, -1)).transpose(1, 2)
    answer = own.proj((own.map(x) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(own(x), answer, rtol=1e-5, atol=1e-5)
    value = other.kv(context).chunk(2, dim=-1)[1].unflatten(-1, (heads, -1)).transpose(1, 2)
    answer = other.proj((other.map(x, context) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(other(x, context), answer, rtol=1e-5, atol=1e-5)
    assert other.map(x, context).shape == (2, heads, 5, words)


def test_a_map_is_a_share_of_the_asked_and_not_of_the_askers():
    found = attention_map(normal(1, 2, 3, 4), normal(1, 2, 5, 4, seed=1))
    assert found.shape == (1, 2, 3, 5)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(1, 2, 3))


# Keys that only fill the row


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(1, 5), st.lists(st.booleans(), min_size=1, max_size=7))
def test_nobody_asks_what_only_fills_the_row(seed, heads, queries, there):
    there[seed % len(there)] = True  # at least one key is there
    mask = torch.tensor([there, [True] * len(there)])
    q = normal(2, heads, queries, 4, seed=seed)
    k, v = normal(2, 2, heads, len(there), 4, seed=seed + 1)
    found = masked_map(q, k, mask)
    kept = mask[0].nonzero()[:, 0]
    torch.testing.assert_close(found[:1, ..., kept], attention_map(q[:1], k[:1, :, kept]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], attention_map(q, k)[1], rtol=1e-5, atol=1e-6)
    assert not found[0][..., ~mask[0]].any()
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, heads, queries))
    loud = torch.where(mask[:, None, :, None], k, 1e4)
    for explicit in (False, True):
        mixed = attend(q, k, v, explicit, mask)
        torch.testing.assert_close(mixed, found @ v, rtol=1e-5, atol=2e-6)
        filled = torch.where(mask[:, None, :, None], v, -1e4)
        torch.testing.assert_close(attend(q, loud, filled, explicit, mask), mixed, rtol=1e-5, atol=2e-6)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 4]), st.integers(1, 5))
def test_words_that_fill_the_row_are_as_good_as_left_out(seed, heads, real):
    layer, x = randomise(CrossAttention(8, 6, heads), seed), normal(2, 5, 8, seed=seed)
    words, mask = normal(2, 5, 6, seed=seed + 1), torch.stack([torch.arange(5) < real, torch.ones(5) > 0])
    answer, found = layer(x, Words(words, mask)), layer.map(x, Words(words, mask))
    torch.testing.assert_close(answer[:1], layer(x[:1], words[:1, :real]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(answer[1:], layer(x[1:], words[1:]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[:1, ..., :real], layer.map(x[:1], words[:1, :real]), rtol=1e-5, atol=1e-6)
    assert not found[0, ..., real:].any()
    everyone = torch.ones(2, 5, dtype=torch.bool)
    for alike in (Words(words), Words(words, everyone)):
        torch.testing.assert_close(layer(x, alike), layer(x, words), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer.map(x, alike), layer.map(x, words), rtol=1e-5, atol=1e-6)
    assert real == 5 or not torch.allclose(layer(x, words)[0], answer[0], atol=1e-3)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(2, 4, dtype=torch.bool), r"WHO: mask has shape \(2, 4\) .* shape \(2, 3, 5\) it must be \(2, 3\)"),
        (torch.ones(1, 3, dtype=torch.bool), r"mask has shape \(1, 3\)"),
        (torch.ones(2, 3, 5, dtype=torch.bool), r"mask has shape \(2, 3, 5\)"),
        (torch.ones(2, 3), "type torch.float32; .* of torch.bool, True for words that are there"),
        (torch.ones(2, 3, dtype=torch.long), "type torch.int64"),
        (torch.tensor([[True, False, False], [False] * 3]), "WHO: row 1 of mask has no word at all; even an empty cap"),
    ],
)
def test_a_wrong_mask_is_told_what_it_must_be(mask, says):
    with pytest.raises(ValueError, match=says):
        check_mask("WHO", torch.zeros(2, 3, 5), mask)


def test_a_right_mask_is_let_through():
    check_mask("WHO", torch.zeros(2, 3, 5), torch.tensor([[True, False, False], [False, True, True]]))


# A cross-attention that says nothing yet


def test_a_silent_cross_attention_says_nothing_and_wakes_in_two_steps():
    layer = randomise(CrossAttention(8, 6, 2))
    before = {name: weight.detach().clone() for name, weight in layer.named_parameters()}
    assert silence(layer) is layer
    silent = {name for name, weight in layer.named_parameters() if not weight.any()}
    assert silent == {"proj.weight", "proj.bias"}
    assert all(torch.equal(weight, before[name]) for name, weight in layer.named_parameters() if name not in silent)
    x, context = normal(2, 5, 8), normal(2, 4, 6, seed=1)
    assert torch.equal(layer(x, context), torch.zeros(2, 5, 8))
    optimiser, heard = torch.optim.SGD(layer.parameters(), 0.1), []
    for _ in range(2):
        optimiser.zero_grad()
        (layer(x, context) - 1).square().sum().backward()
        heard.append({name for name, weight in layer.named_parameters() if weight.grad.any()})
        optimiser.step()
    assert heard == [silent, set(before)]
