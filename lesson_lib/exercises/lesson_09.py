"""Lesson 09, text: one vector for a caption or a vector for every word, who hears whom, and reading it off again."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib import results
from lesson_lib.attention import CrossAttention, Rotate, Words, attend, attention_map, silence
from lesson_lib.exercises.compare import kind
from lesson_lib.exercises.core import (
    Case,
    Exercise,
    LessonCard,
    Mistake,
    Property,
    Prose,
    Question,
    integers,
    normal,
    uniform,
)
from lesson_lib.position import Rotation
from lesson_lib.readout import image_to_text, word_map
from lesson_lib.text import (
    END,
    PADDING,
    CaptionConfig,
    Captioned,
    CaptionEncoder,
    RMSNorm,
    Text,
    TextToImage,
    WordBlock,
    join_encoders,
    pooled_text,
)

LESSON = LessonCard(
    number="09",
    slug="text",
    title="Text",
    question="One vector or many tokens?",
    minutes=105,
    prerequisites=("02", "07"),
)

Forward = Callable[..., Tensor]
M = TypeVar("M", bound=nn.Module)


def _drawn(g: torch.Generator, make: Callable[[], M]) -> M:
    """Build a module with weights that come from g, and leave the global random numbers alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(integers(g, 1, high=2**31)))
        return make()


# --- one vector for a caption ------------------------------------------------------------------------------------


def _captions(g: torch.Generator, size: int) -> Case:
    """Draw captions with padding, with ends up to the rim as CLIP's, and with anything behind, where 0 is a word."""
    batch, length, width = 3 + size % 3, 7 + size, 5 + 2 * size
    end = (END, 40, END, 5)[size % 4]
    ids = integers(g, batch, length, low=10, high=40) if size % 4 < 3 else integers(g, batch, length, high=5)
    first = integers(g, batch, low=1, high=length - 2)[:, None]
    place = torch.arange(length)
    if size % 4 < 3:
        ids = ids.masked_fill(place > first, end if size % 4 == 1 else PADDING)
    else:
        ids = ids.masked_fill(place == first + 2, end)
    ids = ids.masked_fill(place == first, end)
    return Case(normal(g, batch, length, width), ids, *((end,) if end != END else ()))


def _at(place: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """Return a pooling that takes the vector at place(ids, end), a number for each row."""

    def answer(tokens: Tensor, ids: Tensor, end: int = END) -> Tensor:
        return tokens[torch.arange(len(ids), device=ids.device), place(ids, end)]

    return answer


def _first_end(ids: Tensor, end: int) -> Tensor:
    return (ids == end).int().argmax(dim=1)


def _mean_of(heard: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    """Return a pooling that averages the tokens for which heard(ids, end) is True."""

    def answer(tokens: Tensor, ids: Tensor, end: int = END) -> Tensor:
        share = heard(ids, end).to(tokens)[..., None]
        return (tokens * share).sum(dim=1) / share.sum(dim=1)

    return answer


POOLED = Exercise(
    id="text.pooled_text",
    lesson="09",
    number=1,
    title="Take one vector for the whole caption",
    points=3,
    minutes=8,
    difficulty=1,
    case=_captions,
    mistakes=[
        Mistake(
            "first token",
            lambda tokens, ids, end=END: tokens[:, 0],
            "You take the first token, where ViT and BERT keep their CLS. A caption has none: its summary is the end "
            "token, the only one that every encoder of this family puts behind all words.",
        ),
        Mistake(
            "last of the row",
            lambda tokens, ids, end=END: tokens[:, -1],
            "You take the last token of the row, which in a short caption is padding. The end token stands behind the "
            "last word, in each row at another place.",
        ),
        Mistake(
            "mean of all",
            lambda tokens, ids, end=END: tokens.mean(dim=1),
            "You average over all tokens, padding included: the shorter the caption, the less of it is left. Take the "
            "one vector at the end token.",
        ),
        Mistake(
            "mean of the words",
            _mean_of(lambda ids, end: torch.arange(ids.shape[1]) <= _first_end(ids, end)[:, None]),
            "You average over the words, as some encoders of sentences do. CLIP does not: its end token has attended "
            "to the whole caption and is trained to stand for it. Take that one vector.",
        ),
        Mistake(
            "largest number",
            _at(lambda ids, end: ids.argmax(dim=1)),
            "You look for the largest number in the row. In CLIP's vocabulary the end is the largest, and its first "
            "code did so; here the end is 1. Compare with end, then take the first hit.",
        ),
        Mistake(
            "last end",
            _at(lambda ids, end: ids.shape[1] - 1 - (ids == end).int().flip(1).argmax(dim=1)),
            "You take the last end token of a row. CLIP fills its rows with end tokens, so that is the rim of the row, "
            "not of the caption. The first one counts.",
        ),
        Mistake(
            "padding counted",
            _at(lambda ids, end: (ids != PADDING).sum(dim=1) - 1),
            "You count what is not padding. A row need not be filled with 0: CLIP fills it with ends, and there 0 is a "
            'word ("!"). Look for the end token itself.',
        ),
        Mistake(
            "one before the end",
            _at(lambda ids, end: _first_end(ids, end) - 1),
            "You stop one token early, at the last word. It is the end token that stands for the caption.",
        ),
        Mistake(
            "end ignored",
            lambda tokens, ids, end=END: pooled_text(tokens, ids),
            "You always look for 1. end says which number ends a caption: in CLIP's vocabulary it is 49407.",
        ),
        Mistake(
            "every row's end in every row",
            lambda tokens, ids, end=END: tokens[:, _first_end(ids, end)],
            "tokens[:, places] takes every place from every row, (B, B, D). Each row has one place: give both indices, "
            "tokens[torch.arange(B), places].",
        ),
    ],
)


# --- attention with a mask ---------------------------------------------------------------------------------------


def _padded(g: torch.Generator, size: int) -> Case:
    """Draw queries for padded keys.

    The second time there are as many queries as captions, the third as many heads; the fourth time holes lie anywhere,
    with keys in them as large as an untrained encoder may leave them.
    """
    batch, heads, count, length = ((3, 2, 5, 7), (4, 3, 4, 6), (3, 3, 6, 5), (2, 4, 3, 8))[size % 4]
    count, width = count + size // 4 * 7, 4 + size
    query, key = normal(g, batch, heads, count, width), normal(g, batch, heads, length, width)
    mask = torch.arange(length) <= integers(g, batch, low=1, high=length)[:, None]
    mask[0, -2:] = False
    if size % 4 == 3:
        mask = uniform(g, batch, length) < 0.5
        mask[:, :2] = torch.tensor([False, True])
        key = torch.where(mask[:, None, :, None], key, 1e4 * key)
    return Case(query, key, mask)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.mT / math.sqrt(query.shape[-1])


def _masking(change: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    """Return a masked map that changes its scores, given the mask as (B, 1, 1, M), before a softmax."""
    return lambda query, key, mask: change(_scores(query, key), mask[:, None, None]).softmax(dim=-1)


def _shares_again(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    shares = attention_map(query, key) * mask[:, None, None]
    return shares / shares.sum(dim=-1, keepdim=True)


MASKED = Exercise(
    id="attention.masked_map",
    lesson="09",
    number=2,
    title="Let nobody ask the padding",
    points=3,
    minutes=10,
    difficulty=2,
    case=_padded,
    mistakes=[
        Mistake(
            "no mask",
            lambda query, key, mask: attention_map(query, key),
            "mask is unused: every patch asks the padding as well, and what it hears depends on how long the row "
            "happens to be.",
        ),
        Mistake(
            "scores of zero",
            _masking(lambda scores, mask: scores * mask),
            "You set the scores of the padding to 0 (or its keys, which is the same). A score of 0 is a middling one: "
            "e⁰ = 1. Nobody asks where the score is −∞, for e to that is 0.",
        ),
        Mistake(
            "mask upside down",
            _masking(lambda scores, mask: scores.masked_fill(mask, -math.inf)),
            "You hide the words and leave the padding. mask is True for keys that are there: masked_fill wants True "
            "where it fills, so give it ~mask.",
        ),
        Mistake(
            "cut after the softmax",
            lambda query, key, mask: attention_map(query, key) * mask[:, None, None],
            "You erase the padding's shares after the softmax, and the rows no longer sum to 1: the shorter a caption, "
            "the more quietly it speaks. Mask the scores, before the softmax.",
        ),
        Mistake(
            "shared out again",
            _shares_again,
            "You erase the padding's shares and divide by what is left. On paper that is right; where a padded key's "
            "score is large, it has taken the whole 1, the others have rounded to 0, and 0 / 0 is left. Mask the "
            "scores, before the softmax.",
        ),
        Mistake(
            "minus ten thousand",
            _masking(lambda scores, mask: scores - 1e4 * ~mask),
            "You lower the padding's scores by 10,000, as BERT's first code did. What stands in the padding may be "
            "large, and then that is not enough: put −∞ in place of the score.",
        ),
        Mistake(
            "infinity times zero",
            _masking(lambda scores, mask: scores - math.inf * (~mask).float()),
            "∞ · 0 is NaN, so that every word's score is lost as well. Do not multiply by ∞: masked_fill(~mask, "
            "-math.inf) writes it only where it belongs.",
        ),
        Mistake(
            "mask without axes",
            lambda query, key, mask: _scores(query, key).masked_fill(~mask, -math.inf).softmax(dim=-1),
            "mask (B, M) meets scores (B, h, N, M), and torch lines shapes up from the right: caption number 2 hides "
            "keys from query number 2. Two axes are missing between: mask[:, None, None].",
        ),
        Mistake(
            "mask with one axis",
            lambda query, key, mask: _scores(query, key).masked_fill(~mask[:, None], -math.inf).softmax(dim=-1),
            "mask[:, None] is (B, 1, M), and its B meets the heads. Between B and M there are heads and queries: two "
            "new axes, mask[:, None, None].",
        ),
        Mistake(
            "queries masked",
            lambda query, key, mask: _scores(query, key).masked_fill(~mask[:, None, :, None], -math.inf).softmax(-1),
            "Your mask hides queries, the rows. It is the keys, the last axis, of which some are padding: "
            "mask[:, None, None] is (B, 1, 1, M).",
        ),
        Mistake(
            "softmax over queries",
            lambda query, key, mask: _scores(query, key).masked_fill(~mask[:, None, None], -math.inf).softmax(dim=-2),
            "Your softmax runs over the queries, so that each key shares itself out (and a hidden one divides 0 by 0). "
            "Each query shares itself out among the keys: dim=-1.",
        ),
    ],
)


# --- a layer that says nothing at first --------------------------------------------------------------------------


@dataclasses.dataclass(init=False, eq=False, repr=False)
class _Shown(CrossAttention):
    """A cross-attention whose weights a check can compare: the fields hold copies, as they are when they are read."""

    weights: dict[str, Tensor]
    learns: dict[str, bool]

    def __getattr__(self, name: str) -> Any:
        if name == "weights":
            return {key: weight.detach().clone() for key, weight in self.named_parameters()}
        if name == "learns":
            return {key: weight.requires_grad for key, weight in self.named_parameters()}
        return super().__getattr__(name)


_Shown.__name__ = CrossAttention.__name__  # what a report calls it


def _fresh(g: torch.Generator, size: int) -> Case:
    """Draw a cross-attention with weights and biases; every third time queries, keys and values have none."""
    heads = (2, 3, 1, 4)[size % 4]
    width, words = heads * (2 + int(integers(g, 1, high=9))), 3 + int(integers(g, 1, high=30))
    return Case(_drawn(g, lambda: _Shown(width, words, heads, bias=size % 3 < 2)))


def _zeroing(*pieces: str) -> Callable[[CrossAttention], CrossAttention]:
    """Return an answer that writes zeros into the parameters whose names begin with one of these."""

    def answer(asking: CrossAttention) -> CrossAttention:
        for name, weight in asking.named_parameters():
            if name.startswith(pieces):
                nn.init.zeros_(weight)
        return asking

    return answer


def _almost(asking: CrossAttention) -> CrossAttention:
    nn.init.normal_(asking.proj.weight, std=1e-3)
    nn.init.zeros_(asking.proj.bias)
    return asking


def _frozen(asking: CrossAttention) -> CrossAttention:
    silence(asking).proj.requires_grad_(False)
    return asking


def _new_weights(asking: CrossAttention) -> CrossAttention:
    asking.proj.weight = nn.Parameter(torch.zeros_like(asking.proj.weight))
    asking.proj.bias = nn.Parameter(torch.zeros_like(asking.proj.bias))
    return asking


def _no_longer(asking: CrossAttention) -> None:
    silence(asking)


def _same_layer(answer: Callable[..., Any], case: Case) -> str | None:
    layer: CrossAttention = case.args[0]
    before = [id(weight) for weight in layer.parameters()]
    silent = answer(layer)
    if silent is layer and [id(weight) for weight in layer.parameters()] == before:
        return None
    return (
        "what you return is another layer, or holds new parameters; an optimiser that was made before would go on "
        "training the old ones. Write the zeros into the tensors that are there."
    )


def _speaks_after_a_step(answer: Callable[..., Any], case: Case) -> str | None:
    layer: CrossAttention = answer(case.args[0])
    g = torch.Generator().manual_seed(case.seed)
    x, context = normal(g, 2, 5, layer.q.in_features), normal(g, 2, 4, layer.kv.in_features)
    wanted = normal(g, *x.shape)
    with torch.enable_grad():  # one step of gradient descent by hand: torch.optim's first import takes seconds
        first = torch.autograd.grad((layer(x, context) - wanted).square().mean(), list(layer.proj.parameters()))
        for weight, gradient in zip(layer.proj.parameters(), first, strict=True):
            weight.data -= gradient
        (second,) = torch.autograd.grad((layer(x, context) - wanted).square().mean(), [layer.kv.weight])
    if layer.proj.weight.any() and second.any():
        return None
    return "no gradient reaches its last layer, or none goes through it to the words after that: it stays silent."


SILENCE = Exercise(
    id="attention.silence",
    lesson="09",
    number=3,
    title="Add a branch that changes nothing yet",
    points=2,
    minutes=7,
    difficulty=1,
    case=_fresh,
    gradient=False,
    properties=[Property("the same layer", _same_layer), Property("after one step of training", _speaks_after_a_step)],
    mistakes=[
        Mistake(
            "bias left",
            _zeroing("proj.weight"),
            "Only the weight of the last layer is zero. nn.Linear also draws its bias at random, and that is now added "
            "to every patch, whatever the words say. Weight and bias.",
        ),
        Mistake(
            "everything zero",
            _zeroing("q", "kv", "proj"),
            "You set all layers to zero. Silent it is, and so it remains: with keys and values of zero the last "
            "layer's weight gets no gradient, and with that weight zero they get none. One zero is enough: the last.",
        ),
        Mistake(
            "nearly silent",
            _almost,
            "You draw small numbers. Then a network that starts from trained weights is already another one at step 0. "
            "Zeros are allowed here, since the layers in front are random and send different gradients.",
        ),
        Mistake(
            "frozen",
            _frozen,
            "It is silent and frozen: with requires_grad False the last layer stays zero for ever. It begins at zero "
            "and learns like all others.",
        ),
        Mistake(
            "new parameters",
            _new_weights,
            "The numbers are right, but they stand in new tensors: a copy of the layer, or new Parameters. Fill the "
            "old ones in place: nn.init.zeros_.",
        ),
        Mistake(
            "nothing returned",
            _no_longer,
            "You make the layer silent and return nothing. Return the layer, so that silence(CrossAttention(…)) can "
            "stand where a layer is expected.",
        ),
    ],
)


# --- RMSNorm -----------------------------------------------------------------------------------------------------


def _to_scale(g: torch.Generator, size: int) -> Case:
    """Draw tokens off centre; some are all zero, as a table's padding is, and once they are of double precision."""
    shape, width = ((3, 7), (5,), (2, 3, 4), (2, 6))[size % 4], 6 + 3 * size
    x = 2 * normal(g, *shape, width) + 1.5
    if size % 4 == 1:
        x[1] = 0
    eps = ({"eps": 0.5}, {"eps": 0.02}, {}, {"eps": 0.1})[size % 4]
    return Case(x.double() if size % 4 == 2 else x, build={"size": width, **eps})


def _root_mean_square(x: Tensor, eps: float) -> Tensor:
    return (x.square().mean(dim=-1, keepdim=True) + eps).sqrt()


def _divided(
    by: Callable[[Tensor, float], Tensor] = _root_mean_square,
    weigh: Callable[[Tensor, Tensor], Tensor] = lambda x, weight: x * weight,
) -> Forward:
    """Return a norm that divides by its own number and weighs its own way."""

    def forward(self: RMSNorm, x: Tensor) -> Tensor:
        long = x.float()
        return weigh(long / by(long, self.eps), self.weight).to(x.dtype)

    return forward


def _centred(self: RMSNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x.float(), self.weight.shape, self.weight, eps=self.eps).to(x.dtype)


def _as_it_comes(self: RMSNorm, x: Tensor) -> Tensor:
    return x / _root_mean_square(x, self.eps) * self.weight


def _divided_in_place(self: RMSNorm, x: Tensor) -> Tensor:
    x /= _root_mean_square(x, self.eps)
    return (x * self.weight).to(x.dtype)


def _in_half_precision(answer: Any, case: Case) -> str | None:
    norm: RMSNorm = answer.__self__
    x = 300 * normal(torch.Generator().manual_seed(case.seed), 4, len(norm.weight))
    with torch.no_grad():
        wanted, found = _divided()(norm, x.half().float()), answer(x.half()).float()
    if found.shape == wanted.shape and (found - wanted).abs().max() < 0.01 * wanted.abs().max():
        return None
    return (
        "numbers of a few hundred are no matter for float16, but their squares are beyond its 65,504 and count as "
        "infinite: the result is wrong. Square in float32."
    )


RMS_NORM = Exercise(
    id="text.RMSNorm.forward",
    lesson="09",
    number=4,
    title="Normalise without centring",
    points=3,
    minutes=8,
    difficulty=1,
    case=_to_scale,
    properties=[Property("in half precision", _in_half_precision)],
    mistakes=[
        Mistake(
            "centred",
            _centred,
            "You take the mean out first. That is LayerNorm; RMSNorm leaves out exactly that step and divides what "
            "came in by its root mean square.",
        ),
        Mistake(
            "no root",
            _divided(lambda x, eps: x.square().mean(dim=-1, keepdim=True) + eps),
            "You divide by the mean square, without its root: tokens twice as large come out half as large.",
        ),
        Mistake(
            "sum",
            _divided(lambda x, eps: (x.square().sum(dim=-1, keepdim=True) + eps).sqrt()),
            "You divide by the length, the root of the sum of squares: every channel then shrinks with the width. The "
            "mean of the squares, so that the root mean square of the result is 1.",
        ),
        Mistake(
            "eps outside",
            _divided(lambda x, eps: x.square().mean(dim=-1, keepdim=True).sqrt() + eps),
            "You add eps to the root. It stands inside, under the root with the mean square; outside, the root's slope "
            "at a token of zeros is infinite.",
        ),
        Mistake(
            "no eps",
            _divided(lambda x, eps: x.square().mean(dim=-1, keepdim=True).sqrt()),
            "eps is missing. A token of zeros is 0 / 0 then, and such tokens exist: the padding's row in the table of "
            "words is zero.",
        ),
        Mistake(
            "over everything",
            _divided(lambda x, eps: (x.square().mean() + eps).sqrt()),
            "You take one root mean square for the whole tensor, so that one large token makes all others small. Each "
            "token has its own: dim=-1, keepdim=True.",
        ),
        Mistake(
            "axis lost",
            _divided(lambda x, eps: (x.square().mean(dim=-1) + eps).sqrt()),
            "mean takes the axis of the channels away, and (…, N) no longer meets (…, N, D). keepdim=True leaves an "
            "axis of one.",
        ),
        Mistake(
            "no weight",
            _divided(weigh=lambda x, weight: x),
            "self.weight is unused: what was learned about each channel is lost. Multiply the normalised token by it.",
        ),
        Mistake(
            "one plus weight",
            _divided(weigh=lambda x, weight: x * (1 + weight)),
            "You stretch by 1 + weight, as modulate does and Gemma's norm. There the weight begins at 0; this one "
            "begins at 1 and is the factor itself.",
        ),
        Mistake(
            "always float32",
            lambda self, x: x.float() / _root_mean_square(x.float(), self.eps) * self.weight,
            "You compute in float32, as you should, and return it too. The next layer expects the type that came in: "
            ".to(x.dtype) at the end.",
        ),
        Mistake(
            "as it comes",
            _as_it_comes,
            "The formula is right, but it is computed in the type of x. Networks run in half precision, and squares "
            "are the first to leave its range: x.float() first, .to(x.dtype) last.",
        ),
        Mistake(
            "in place",
            _divided_in_place,
            "/= writes into the caller's tokens, which the block still adds its answer to. Make a new tensor.",
        ),
        Mistake(
            "cut off",
            _divided(lambda x, eps: _root_mean_square(x, eps).detach()),
            "The values are right, but you treat the root mean square as a constant: the gradient misses how it "
            "changes with x. No detach, no no_grad.",
        ),
    ],
)


# --- SwiGLU ------------------------------------------------------------------------------------------------------


def _to_think(g: torch.Generator, size: int) -> Case:
    shape, width = ((2, 5), (7,), (3, 2, 4), (4, 3))[size % 4], 5 + 2 * size
    return Case(normal(g, *shape, width), build={"width": width, "hidden_width": 2 * width + 2 + size})


def _gated(gate: Callable[[Tensor, Tensor], Tensor]) -> Forward:
    """Return a perceptron that makes its hidden numbers of W₁ x and W₃ x in its own way."""
    return lambda self, x: self.w2(gate(self.w1(x), self.w3(x)))


SWIGLU = Exercise(
    id="text.SwiGLU.forward",
    lesson="09",
    number=5,
    title="Open and close the hidden numbers",
    points=2,
    minutes=6,
    difficulty=1,
    case=_to_think,
    mistakes=[
        Mistake(
            "other half through SiLU",
            _gated(lambda a, b: a * F.silu(b)),
            "SiLU stands around W₃ x. A network that is trained so learns the same with the names exchanged; published "
            "weights are read wrongly. W₁ is the gate: SiLU(W₁ x) ⊙ W₃ x.",
        ),
        Mistake(
            "no SiLU",
            _gated(lambda a, b: a * b),
            "There is no SiLU, only the product of two linear layers (the paper calls it Bilinear). SwiGLU's gate is "
            "SiLU(W₁ x).",
        ),
        Mistake(
            "SiLU twice",
            _gated(lambda a, b: F.silu(a) * F.silu(b)),
            "Both halves pass SiLU. Only the gate does; what is let through, W₃ x, stays as it is and may be negative.",
        ),
        Mistake(
            "added",
            _gated(lambda a, b: F.silu(a) + b),
            "You add the halves. A gate multiplies: where it is near 0, nothing passes.",
        ),
        Mistake(
            "no gate",
            _gated(lambda a, b: F.silu(a)),
            "self.w3 is unused: that is the usual perceptron, with SiLU. Multiply by W₃ x before W₂.",
        ),
        Mistake(
            "GEGLU",
            _gated(lambda a, b: F.gelu(a) * b),
            "Your gate is a GELU: that is GEGLU, of the same paper. SwiGLU takes SiLU, x · sigmoid(x), which was first "
            "called Swish.",
        ),
        Mistake(
            "gated at the end",
            lambda self, x: self.w2(F.silu(self.w1(x))) * self.w3(x),
            "You multiply by W₃ x after W₂. Both halves have the hidden width; W₂ leads back, and comes last.",
        ),
        Mistake(
            "halves of one layer",
            lambda self, x: self.w2(F.silu(self.w1(x).chunk(2, dim=-1)[0]) * self.w1(x).chunk(2, dim=-1)[1]),
            "You cut one layer's output into two halves, as code does that keeps W₁ and W₃ in one matrix. Here they "
            "are two layers, each of the whole hidden width.",
        ),
    ],
)


# --- a caption in place of a class -------------------------------------------------------------------------------

COLOURS, SHAPES, FAULT = ("red", "blue", "green"), ("circle", "square"), "blurry"


class _Tinting(nn.Module):
    """The smallest network that hears words: the later it is, the more it tints a picture with their mean."""

    def __init__(self, context_size: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(pooled_size=0, context_size=context_size)
        self.tint = nn.Linear(context_size, 2)

    def forward(self, x: Tensor, t: Tensor, pooled: None, words: Words) -> Tensor:
        assert words.mask is not None
        heard = (words.tokens * words.mask[..., None]).sum(dim=1) / words.mask.sum(dim=1)[:, None]
        return x + self.tint(heard)[..., None, None] * (t / 1000)[:, None, None, None]


def _asked(g: torch.Generator, size: int) -> Case:
    """Draw noisy pictures with captions; some ask for nothing: the empty caption or, in turn, a negative prompt."""
    captions = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES][: 4 + size % 3]
    words = CaptionConfig((*COLOURS, *SHAPES, FAULT), length=4, width=6, depth=0, num_heads=1)
    model = _drawn(g, lambda: TextToImage(CaptionEncoder(words), _Tinting(words.width)))
    batch = 5 + size
    labels = integers(g, batch, high=len(captions))
    labels[:3] = torch.tensor([1, len(captions), 0])
    build = {"model": model, "captions": captions, **({"nothing": FAULT} if size % 2 else {})}
    return Case(normal(g, batch, 2, 3, 4), uniform(g, batch, high=1000), labels, build=build)


def _heard(rows: Callable[[Captioned, Tensor], Tensor]) -> Forward:
    """Return a forward that finds the numbers of its captions in its own way."""
    return lambda self, x, t, labels: self.model(x, t, rows(self, labels))


def _always_the_empty_one(self: Captioned, labels: Tensor) -> Tensor:
    empty = F.pad(torch.tensor([END]), (0, self.ids.shape[1] - 1), value=PADDING)
    return torch.where((labels == self.num_classes)[:, None], empty, self.ids[labels])


def _guided_already(self: Captioned, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    nothing = self.model(x, t, self.ids[torch.full_like(labels, self.num_classes)])
    return nothing + 2 * (self.model(x, t, self.ids[labels]) - nothing)


CAPTIONED = Exercise(
    id="text.Captioned.forward",
    lesson="09",
    number=6,
    title="Guide a caption as you guided a class",
    points=3,
    minutes=9,
    difficulty=2,
    case=_asked,
    mistakes=[
        Mistake(
            "labels as words",
            _heard(lambda self, labels: labels),
            "You hand the labels on as if they were words. A label is the number of a caption: self.ids has that "
            "caption's words in its row.",
        ),
        Mistake(
            "counted from 1",
            _heard(lambda self, labels: self.ids[labels - 1]),
            "You count the captions from 1, and label 0 gets the last row, which is `nothing`. Label n is row n.",
        ),
        Mistake(
            "nothing cut off",
            _heard(lambda self, labels: self.ids[labels.clamp(max=self.num_classes - 1)]),
            "You keep the labels below num_classes, and who asks for nothing hears the last caption: guidance then "
            "moves away from that one. Row num_classes exists, it is `nothing`.",
        ),
        Mistake(
            "nothing is padding",
            _heard(lambda self, labels: self.ids[labels] * (labels < self.num_classes)[:, None]),
            "For nothing you make a row of padding. There is no word in it that could be asked, not even an end. The "
            "empty caption is its end token alone, and stands in row num_classes.",
        ),
        Mistake(
            "always the empty caption",
            _heard(_always_the_empty_one),
            "Label num_classes is always the empty caption with you. `nothing` may be a negative prompt, from which "
            "guidance moves away: what was given is in row num_classes.",
        ),
        Mistake(
            "guided already",
            _guided_already,
            "You guide in here. guidance.Guided calls this forward with captions and with nothing and does the rest: "
            "it would guide what is guided. One call of the network, and its answer.",
        ),
        Mistake(
            "cut off",
            lambda self, x, t, labels: Captioned.forward(self, x, t, labels).detach(),
            "The values are right, but no gradient flows back: train.denoising_loss trains the network through this "
            "forward. No detach, no no_grad.",
        ),
    ],
)


# --- where a word is heard ---------------------------------------------------------------------------------------


def _maps(g: torch.Generator, size: int) -> Case:
    """Draw joint maps and, every second time, maps of cross-attention; the first of these is square by chance."""
    (rows, columns), words = ((3, 4), (4, 2), (2, 5), (2, 3))[size % 4], (5, 8, 4, 9)[size % 4]
    rows, batch, heads = rows + 4 * (size // 4), 2 + size % 2, (3, 2, 4, 1)[size % 4]
    patches = rows * columns
    words = patches if size % 4 == 1 else words
    shape = (patches, words) if size % 2 else (words + patches, words + patches)
    word = int(integers(g, 1, high=words - 1))
    return Case(normal(g, batch, heads, *shape).softmax(dim=-1), words, word, rows)


Cut = Callable[[Tensor, int], Tensor]


def _row_by_row(shares: Tensor, rows: int) -> Tensor:
    return shares.unflatten(-1, (rows, -1))


def _read_off(cut: Cut = image_to_text, lay: Callable[[Tensor, int], Tensor] = _row_by_row) -> Callable[..., Tensor]:
    """Return a word_map that finds (B, h, N, L) in its own way, and lays one word's (B, h, N) out in its own way."""

    def answer(attention: Tensor, words: int, word: int, rows: int) -> Tensor:
        shares = cut(attention, words)
        if not 0 <= word < words or shares.shape[2] % rows:
            raise ValueError("no such word, or no such rows")
        return lay(shares[..., word], rows)

    return answer


def _if_joint(cut: Cut) -> Cut:
    return lambda attention, words: attention if attention.shape[-1] == words else cut(attention, words)


def _square_is_joint(attention: Tensor, words: int) -> Tensor:
    joint = attention.shape[-1] == attention.shape[-2]
    return attention[..., words:, :words] if joint else attention


def _taken_as_it_is(attention: Tensor, words: int, word: int, rows: int) -> Tensor:
    return _row_by_row(image_to_text(attention, words)[..., word], rows)


def _refuses(answer: Callable[..., Tensor], case: Case) -> str | None:
    attention, words, _, rows = case.args
    patches = image_to_text(attention, words).shape[2]
    for word, lines, told in (
        (-1, rows, f"word -1 of {words}"),
        (words, rows, f"word {words} of {words}, which are counted from 0"),
        (0, patches + 1, f"{patches} patches in {patches + 1} rows"),
    ):
        try:
            answer(attention, words, word, lines)
        except ValueError:
            continue
        except Exception as error:
            return f"{told}: raise a ValueError, not {kind(error)}."
        return f"{told}: there is no such thing, but you return a map. Raise a ValueError."
    return None


WORD_MAP = Exercise(
    id="readout.word_map",
    lesson="09",
    number=7,
    title="See where a word is heard",
    points=3,
    minutes=9,
    difficulty=2,
    case=_maps,
    gradient=False,
    properties=[Property("what is not there", _refuses)],
    mistakes=[
        Mistake(
            "whom the word asks",
            _read_off(_if_joint(lambda attention, words: attention[..., :words, words:].mT)),
            "You read the row of the word: whom the word asks. The other way round is wanted: how much each patch, a "
            "row, asks the word, a column.",
        ),
        Mistake(
            "words' rows left in",
            _read_off(lambda attention, words: attention),
            "You take the word's whole column. In a joint map its first L entries are words that ask it, no places of "
            "the picture: image_to_text leaves the patches' rows.",
        ),
        Mistake(
            "patches first",
            _read_off(_if_joint(lambda attention, words: attention[..., :-words, -words:])),
            "You look for the words behind the patches. Here a sentence begins with its words, as in FLUX and "
            "Qwen-Image.",
        ),
        Mistake(
            "square means joint",
            _read_off(_square_is_joint),
            "You take a square map for a joint one. Cross-attention with as many patches as words is square as well: "
            "a map is joint where it has more columns than words.",
        ),
        Mistake(
            "renormalised",
            _read_off(lambda attention, words: F.normalize(image_to_text(attention, words), p=1, dim=-1)),
            "You let each patch's shares of the words sum to 1. In a joint map most patches ask mostly patches, and "
            "that is lost: the shares as they are, please.",
        ),
        Mistake(
            "heads averaged",
            _read_off(lay=lambda shares, rows: _row_by_row(shares, rows).mean(dim=1)),
            "You average over the heads. Heads differ, and the reader decides what to average: (B, h, rows, columns).",
        ),
        Mistake(
            "rows and columns exchanged",
            _read_off(lay=lambda shares, rows: shares.unflatten(-1, (-1, rows))),
            "Your map lies on its side, (columns, rows). rows is how many lines there are: unflatten(-1, (rows, -1)).",
        ),
        Mistake(
            "down the columns",
            _read_off(lay=lambda shares, rows: shares.unflatten(-1, (-1, rows)).mT),
            "The shape is right, but your patches go down the columns. They are in reading order: a row of the "
            "picture, then the next. unflatten(-1, (rows, -1)), without exchanging axes.",
        ),
        Mistake(
            "square pictures",
            _read_off(lay=lambda shares, rows: shares.unflatten(-1, (math.isqrt(shares.shape[-1]),) * 2)),
            "You take the root of the number of patches for the side. Pictures need not be square: rows is given.",
        ),
        Mistake(
            "counted from 1",
            lambda attention, words, word, rows: word_map(attention, words, (word - 1) % words, rows),
            "You count words from 1. The first is 0, as everywhere in Python.",
        ),
        Mistake(
            "nothing refused",
            _taken_as_it_is,
            "Right for what is there. Word −1 is the last one in Python, here most often padding, and a figure would "
            "show its map under another name: ask 0 <= word < words, and whether the patches fill the rows.",
        ),
    ],
)


# --- words that hear what is not there ---------------------------------------------------------------------------


def _read_together(g: torch.Generator, size: int) -> Case:
    """Draw captions of different lengths, padded, and a rotation by the words' places."""
    width, heads = ((12, 3), (8, 2), (16, 2), (10, 1))[size % 4]
    batch, length = 3 + size // 2, 7 + size
    mask = torch.arange(length) <= integers(g, batch, low=1, high=length - 2)[:, None]
    rotate = Rotation.of(2 * normal(g, length, width // heads // 2))
    return Case(normal(g, batch, length, width), mask, rotate, build={"width": width, "num_heads": heads})


def _padding_heard(self: WordBlock, x: Tensor, mask: Tensor, rotate: Rotate) -> Tensor:
    asked = self.qkv(self.norm1(x))
    query, key, value = rearrange(asked, "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
    heard = attend(rotate(query), rotate(key), value)
    x = x + self.proj(rearrange(heard, "b h n d -> b n (h d)"))
    return x + self.mlp(self.norm2(x))


Attend = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _reading(how: Attend, turned: bool = True, empty: bool = False) -> Forward:
    """Return a block that attends in its own way: how(query, key, value, mask); empty: q, k, v of padding are zero."""

    def forward(self: WordBlock, x: Tensor, mask: Tensor, rotate: Rotate) -> Tensor:
        asked = self.qkv(self.norm1(x)) * (mask[..., None] if empty else 1)
        parts = rearrange(asked, "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        query, key = (rotate(part) if turned else part for part in parts[:2])
        x = x + self.proj(rearrange(how(query, key, parts[2], mask), "b h n d -> b n (h d)"))
        return x + self.mlp(self.norm2(x))

    return forward


def _unmasked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return attend(query, key, value)


def _masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return attend(query, key, value, mask=mask)


BLOCK_BUG = Exercise(
    id="text.block_bug",
    reference="text.WordBlock.forward",
    lesson="09",
    number=8,
    title="Debug: the same caption, another answer in a longer row",
    points=3,
    minutes=8,
    difficulty=2,
    case=_read_together,
    tolerance=3e-5,
    broken="padding heard",
    mistakes=[
        Mistake(
            "padding heard",
            _padding_heard,
            "mask arrives and is not handed on: words hear the padding, and a caption's vectors change with the length "
            "of its row.",
        ),
        Mistake(
            "mask in another's place",
            _reading(lambda query, key, value, mask: attend(query, key, value, mask)),  # type: ignore[arg-type]
            "You hand the mask on as the fourth argument, and that is attend's `explicit`. Name it: mask=mask.",
        ),
        Mistake(
            "mask upside down",
            _reading(lambda query, key, value, mask: attend(query, key, value, mask=~mask)),
            "Now words hear only the padding. mask is True for words that are there, and attend wants it so: no ~.",
        ),
        Mistake(
            "padding's answers erased",
            _reading(lambda query, key, value, mask: attend(query, key, value) * mask[:, None, :, None]),
            "You erase what the padding has heard. It may hear what it likes; the words must not hear it: mask the "
            "keys, inside attend.",
        ),
        Mistake(
            "padding's values erased",
            _reading(lambda query, key, value, mask: attend(query, key, value * mask[:, None, :, None])),
            "The padding's values are zero, so it says nothing, but it is still asked: it takes its share of the 1, "
            "and the words are heard more quietly. Its share must be 0: hand the mask to attend.",
        ),
        Mistake(
            "padding emptied",
            _reading(_unmasked, empty=True),
            "You set the padding to zero before the attention. A key of zero has a score of 0, a middling one, and "
            "takes its share of the 1. Only a score of −∞ is a share of 0: hand the mask to attend.",
        ),
        Mistake(
            "left to right",
            _reading(lambda query, key, value, mask: F.scaled_dot_product_attention(query, key, value, is_causal=True)),
            "You let each word hear only what stands before it. That keeps the padding out, which stands behind, and "
            "it is how CLIP reads; but here words hear both ways, and a word must hear the next one, too.",
        ),
        Mistake(
            "not turned",
            _reading(_masked, turned=False),
            "The mask is right now, but queries and keys are no longer turned: the words have no order.",
        ),
    ],
)

EXERCISES = [POOLED, MASKED, SILENCE, RMS_NORM, SWIGLU, CAPTIONED, WORD_MAP, BLOCK_BUG]


# --- guesses and the question in words ---------------------------------------------------------------------------

BANDS = ("under 10 %", "10 to 40 %", "over 40 %")
BINDERS = {
    "cross-attention": "cross-attention, a vector for each word",
    "one vector": "one vector for the whole caption",
    "": "no difference that the seeds establish",
}


def _last(record: results.Record) -> float:
    assert record.x is not None
    return float(record.x["values"][-1])


def _one_vector_binds() -> str:
    """Read in which band the mean share of bound pairs lies for the network that hears one vector."""
    record = results.load("text_equal_parameters")
    values = record.values("one vector", "binding", _last(record))
    share = sum(values) / len(values)
    return BANDS[0] if share < 0.1 else BANDS[1] if share <= 0.4 else BANDS[2]


def _better_binder() -> str:
    """Read which of two ways to hear a caption binds better, after the whole training."""
    record = results.load("text_equal_parameters")
    pair: Sequence[str] = [variant for variant in BINDERS if variant]
    return BINDERS[results.established(record, "binding", pair, better="higher", at=_last(record)) or ""]


def _tokens_of_sd3() -> float:
    """Join three encoders' texts of 77 tokens each, on the meta device, and count the tokens."""

    def text(width: int) -> Text:
        tokens = torch.empty(1, 77, width, device="meta")
        return Text(tokens, tokens[:, -1], torch.ones(1, 77, dtype=torch.bool, device="meta"))

    return join_encoders(text(768), text(1280), text(4096)).tokens.shape[1]


QUESTIONS = [
    Question(
        id="text.q1",
        lesson="09",
        text="A small transformer hears a caption as one vector, through adaLN, and is trained on 16×16 pictures of "
        'one or two large objects. Then it is asked for two, "red circle above green square". In how many of its '
        "pictures has each object the colour, shape and place that were asked for?",
        choices=BANDS,
        answer=_one_vector_binds,
        because="Read from the recorded runs: the judge's binding accuracy after the whole training, the mean over the "
        "seeds. The same record says how often the network draws one object as asked.",
    ),
    Question(
        id="text.q2",
        lesson="09",
        text="Two networks have about the same number of parameters. One hears a caption as one vector, through adaLN; "
        "in the other every patch asks the words, by cross-attention. Which binds colours and shapes better?",
        choices=tuple(BINDERS.values()),
        answer=_better_binder,
        because="Judged by binding accuracy after the whole training: one is named only where the paired interval of "
        "the two leaves out 0. No difference at this size and after so few steps does not mean that there is none.",
    ),
    Question(
        id="text.q3",
        lesson="09",
        text="Stable Diffusion 3 reads a prompt with two CLIPs and a T5, each with 77 tokens. How many tokens does its "
        "transformer get for one prompt?",
        unit="tokens",
        answer=_tokens_of_sd3,
        because="The two CLIPs read the same words and are put side by side, channel by channel: 77 tokens. T5's 77 "
        "stand behind them. The CLIPs' 768 + 1,280 channels are filled up with zeros to T5's 4,096.",
    ),
]

PROSE = [
    Prose(
        id="text.w1",
        lesson="09",
        text='A colleague says: "Cross-attention works better than AdaLN for text." What is established, and for what '
        "signal? What would you measure before you agree?",
        points=2,
        rubric=(
            "says for which signal: for class labels DiT found the opposite (FID-50K after 400,000 steps, XL/2: "
            "adaLN-Zero 19.47, cross-attention 26.14; arXiv 2212.09748, Table 4); adaLN hears one vector, the same for "
            "all patches, so that the sentence compares a pooled vector with tokens as much as two ways to listen; or "
            "quotes this lesson's record with its interval or verdict and claims no more than that says: 1",
            "names a measurement that could decide: the same encoder and data, equal parameters and equal compute, "
            "several seeds, binding accuracy of two objects beside accuracy of one, paired intervals; or networks with "
            "both (a pooled vector through adaLN and tokens through attention), as most models have: 1",
        ),
        min_words=60,
        max_words=150,
    )
]
