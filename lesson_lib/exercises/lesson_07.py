"""Lesson 07, adaLN: the ways in which a transformer hears time and class, how they begin and what they weigh."""
# ruff: noqa: RUF059 - some mistakes cut six vectors and forget a few

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib import results
from lesson_lib.denoiser import zero_
from lesson_lib.dit import (
    AdaLNSingleBlock,
    AdaLNZeroBlock,
    DiT,
    DiTConfig,
    modulate,
    parameters_by_part,
    sum_of,
)
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
)
from lesson_lib.results import Record

LESSON = LessonCard(
    number="07",
    slug="adaln",
    title="AdaLN",
    question="How should a transformer listen?",
    minutes=105,
    prerequisites=("06",),
)


# --- modulate ----------------------------------------------------------------------------------------------------


def _tokens(g: torch.Generator, size: int) -> Case:
    """Draw tokens and their images' shifts and scales; every fourth time as many tokens as images."""
    batch, count = ((2, 7), (3, 3), (5, 2), (4, 1))[size % 4]
    width = 5 + 2 * size
    return Case(normal(g, batch, count, width), normal(g, batch, width), normal(g, batch, width))


def _in_place(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    x *= 1 + scale[:, None]
    x += shift[:, None]
    return x


MODULATE = Exercise(
    id="dit.modulate",
    lesson="07",
    number=1,
    title="Stretch and shift every token of an image alike",
    points=2,
    minutes=5,
    difficulty=1,
    case=_tokens,
    mistakes=[
        Mistake(
            "no one",
            lambda x, shift, scale: x * scale[:, None] + shift[:, None],
            "The 1 + in front of scale is missing. A scale of zero must leave the tokens as they are; yours erases "
            "them, and a network whose modulation starts at zero would start deaf and blind.",
        ),
        Mistake(
            "swapped",
            lambda x, shift, scale: x * (1 + shift[:, None]) + scale[:, None],
            "Shift and scale have changed places: you multiply by the shift and add the scale. The order of the "
            "arguments is DiT's, shift first; ADM's AdaGN has the scale first.",
        ),
        Mistake(
            "axis in front",
            lambda x, shift, scale: x * (1 + scale) + shift,
            "scale (B, D) meets x (B, N, D) without an axis for the tokens, or with one in front. torch lines shapes "
            "up from the right, so image number 2 lands on token number 2; where B and N are equal nothing complains. "
            "The new axis stands between the two: scale[:, None] is (B, 1, D).",
        ),
        Mistake(
            "axis at the end",
            lambda x, shift, scale: x * (1 + scale[..., None]) + shift[..., None],
            "Your new axis stands last, (B, D, 1), as it would for maps with the channels in front. Tokens have their "
            "features last: the axis of the tokens comes between, (B, 1, D).",
        ),
        Mistake(
            "shifted first",
            lambda x, shift, scale: (x + shift[:, None]) * (1 + scale[:, None]),
            "You shift first and then stretch, so the scale stretches the shift as well. Stretch x alone; the shift is "
            "added last and arrives as large as it was asked for.",
        ),
        Mistake(
            "only added",
            lambda x, shift, scale: x + scale[:, None] + shift[:, None],
            "You add the scale. It is a factor: x times (1 + scale). Two vectors that are both added could be one.",
        ),
        Mistake(
            "one number an image",
            lambda x, shift, scale: x * (1 + scale.mean(dim=-1)[:, None, None]) + shift.mean(dim=-1)[:, None, None],
            "You average over the features, so each image is stretched and shifted by one number, and the next "
            "LayerNorm takes exactly that out again. Every feature has a scale and a shift of its own.",
        ),
        Mistake(
            "mean token",
            lambda x, shift, scale: x.mean(dim=1) * (1 + scale) + shift,
            "You modulate the mean of the tokens and return one vector an image. The condition is one an image, the "
            "tokens stay N: let the condition spread over them.",
        ),
        Mistake(
            "normalised here",
            lambda x, shift, scale: F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None],
            "You normalise x as well. modulate receives tokens that LayerNorm has already passed; the block's own "
            "norm does that, and this function only stretches and shifts.",
        ),
        Mistake(
            "in place",
            _in_place,
            "*= and += write into the caller's tokens, which the block still needs for its residual. Make a new "
            "tensor: x * (…) + ….",
        ),
    ],
)


# --- adaLN-Zero --------------------------------------------------------------------------------------------------


def _sentence(g: torch.Generator, size: int) -> Case:
    width, heads = ((12, 3), (10, 2), (7, 1), (15, 5))[size % 4]
    batch, count = 3 + size // 2, 5 + 2 * size
    return Case(normal(g, batch, count, width), normal(g, batch, width), build={"width": width, "num_heads": heads})


Step = Callable[[Tensor], Tensor]


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _two_branches(self: Any, x: Tensor, six: Sequence[Tensor], *, gate: Step = _as_it_is, between: Step = _as_it_is):  # type: ignore[no-untyped-def]
    """Return what the block does with six vectors in DiT's order; gate and between are where mistakes reach in."""
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = six
    x = between(x + gate(gate_msa)[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa)))
    return x + gate(gate_mlp)[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))
