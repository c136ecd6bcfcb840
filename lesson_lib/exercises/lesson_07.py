"""Lesson 07, adaLN: the ways in which a transformer hears time and class, how they begin and what they weigh."""
# ruff: noqa: RUF059 - some mistakes cut six vectors and forget a few

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lesson_lib import results
from lesson_lib.attention import Rotate
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
            "them, and a network whose modulation starts at zero would let nothing through.",
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


def _two_branches(
    self: AdaLNZeroBlock | AdaLNSingleBlock,
    x: Tensor,
    six: Sequence[Tensor],
    *,
    gate: Step = _as_it_is,
    between: Step = _as_it_is,
) -> Tensor:
    """Return what a block does with six vectors; gate and between are where a mistake reaches in."""
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = six
    x = between(x + gate(gate_msa)[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa)))
    return x + gate(gate_mlp)[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


Forward = Callable[..., Tensor]


def _taken(*order: int) -> Forward:
    """Return a forward that takes its six vectors from these places of the modulation's output."""

    def forward(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
        six = self.adaLN_modulation(c)
        return _two_branches(self, x, [six[place] for place in order])

    return forward


def _gated(gate: Step) -> Forward:
    """Return a forward whose gates pass through a function first."""

    def forward(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
        return _two_branches(self, x, self.adaLN_modulation(c), gate=gate)

    return forward


def _gated_sum(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    x = gate_msa[:, None] * (x + self.attn(modulate(self.norm1(x), shift_msa, scale_msa)))
    return gate_mlp[:, None] * (x + self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp)))


def _no_residual(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    x = gate_msa[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
    return gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


def _modulated_residual(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    x = modulate(self.norm1(x), shift_msa, scale_msa)
    x = x + gate_msa[:, None] * self.attn(x)
    x = modulate(self.norm2(x), shift_mlp, scale_mlp)
    return x + gate_mlp[:, None] * self.mlp(x)


def _side_by_side(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    answer = gate_msa[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
    return x + answer + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


def _not_normalised(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    x = x + gate_msa[:, None] * self.attn(modulate(x, shift_msa, scale_msa))
    return x + gate_mlp[:, None] * self.mlp(modulate(x, shift_mlp, scale_mlp))


def _gate_without_axis(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    x = x + gate_msa * self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
    return x + gate_mlp * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


def _silu_twice(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    return _two_branches(self, x, self.adaLN_modulation(F.silu(c)))


def _summed_in_place(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    x += gate_msa[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
    return x + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


def _silent_at_first(answer: Any, case: Case) -> str | None:
    zero_(answer.__self__.adaLN_modulation)
    x, *others = case.args
    with torch.no_grad():
        largest = float((answer(x.clone(), *others) - x).abs().max())
    if largest <= 1e-7:
        return None
    return (
        "with a modulation that is all zeros, as at the start, the block must return its input; yours changes it by up "
        f"to {largest:.2g}."
    )


ADALN_ZERO = Exercise(
    id="dit.AdaLNZeroBlock.forward",
    lesson="07",
    number=2,
    title="Tune what each branch reads, and gate what it says",
    points=4,
    minutes=12,
    difficulty=2,
    case=_sentence,
    tolerance=3e-5,
    properties=[Property("silent at the start", _silent_at_first)],
    mistakes=[
        Mistake(
            "no gates",
            _gated(torch.ones_like),
            "The gates are cut out of the modulation but not used. That is the adaLN block: at the start, with all six "
            "vectors zero, it adds full answers of an untrained attention. Multiply each branch by its gate before "
            "it is added.",
        ),
        Mistake(
            "sum gated",
            _gated_sum,
            "Your gate multiplies the residual too: gate · (x + branch). A gate of zero then erases the tokens, and a "
            "fresh network is dead from its first block on. Only the branch is gated: x + gate · branch.",
        ),
        Mistake(
            "no residual",
            _no_residual,
            "You pass on the gated answers alone; the tokens themselves are lost, and with gates of zero nothing comes "
            "out at all. Each branch is added to x.",
        ),
        Mistake(
            "modulated residual",
            _modulated_residual,
            "You wrote the modulated tokens over x, and the residual then carries those: even with silent gates every "
            "block normalises the sentence anew. Only the branch reads the modulated tokens; what is added to is the "
            "x that came in.",
        ),
        Mistake(
            "scale first",
            _taken(1, 0, 2, 4, 3, 5),
            "Shift and scale have changed places, as they stand in ADM. DiT's order is shift, scale, gate; a network "
            "trained by you would not notice, but published weights would be read wrongly.",
        ),
        Mistake(
            "gate first",
            _taken(1, 2, 0, 4, 5, 3),
            "You read gate, shift, scale. The order is shift, scale, gate: the gate comes last, as it is used last.",
        ),
        Mistake(
            "kind by kind",
            _taken(0, 2, 4, 1, 3, 5),
            "You read the six as two shifts, two scales, two gates. They come branch by branch: shift, scale and gate "
            "of the attention, then the same three of the perceptron.",
        ),
        Mistake(
            "perceptron first",
            _taken(3, 4, 5, 0, 1, 2),
            "You give the first three vectors to the perceptron and the last three to the attention. They stand in "
            "the order in which the block works: attention first.",
        ),
        Mistake(
            "modulation used again",
            _taken(0, 1, 2, 0, 1, 5),
            "The perceptron reads tokens that were modulated with the attention's shift and scale. It has two of its "
            "own, the fourth and the fifth vector, which now reach nothing and learn nothing.",
        ),
        Mistake(
            "three used for both",
            _taken(0, 1, 2, 0, 1, 2),
            "Both branches use the first three vectors. There are six: the last three are the perceptron's shift, "
            "scale and gate.",
        ),
        Mistake(
            "side by side",
            _side_by_side,
            "Your perceptron reads the x that came in, not the one to which the attention has added its answer. The "
            "two branches follow each other: the second norm sees the new x.",
        ),
        Mistake(
            "one plus gate",
            _gated(lambda gate: 1 + gate),
            "You gate with 1 + gate. The 1 belongs to the scale, where zero must leave the tokens as they are. A gate "
            "of zero must silence its branch, or the fresh block is not the identity.",
        ),
        Mistake(
            "sigmoid",
            _gated(torch.sigmoid),
            "You send the gates through a sigmoid. Then a gate of zero lets half of the answer pass and none can turn "
            "it round. DiT's gates have no activation: they are plain numbers.",
        ),
        Mistake(
            "tanh",
            _gated(torch.tanh),
            "You send the gates through tanh. It does keep zero at zero, but DiT's gates are plain numbers that may "
            "grow beyond 1.",
        ),
        Mistake(
            "not normalised",
            _not_normalised,
            "You modulate the raw tokens; norm1 and norm2 are unused. They hold no weights, but they take out how "
            "large the tokens have grown, so that a shift of 1 means the same in every block.",
        ),
        Mistake(
            "gate without axis",
            _gate_without_axis,
            "The gate is (B, D), the branch's answer (B, N, D): torch lines B up with N. Like shift and scale inside "
            "modulate, it needs an axis for the tokens: gate[:, None].",
        ),
        Mistake(
            "SiLU twice",
            _silu_twice,
            "You send c through SiLU before self.adaLN_modulation, which begins with a SiLU of its own. Hand it c as "
            "it is.",
        ),
        Mistake(
            "in place",
            _summed_in_place,
            "x += … writes into the tokens of the caller, and stops training wherever the old x is needed for the way "
            "back. Write x = x + ….",
        ),
    ],
)


# --- the same block, broken --------------------------------------------------------------------------------------


def _three_errors(
    self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None, rotate: Rotate | None = None
) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    tuned = modulate(self.norm1(x), shift_msa, scale_msa)
    x = x + gate_msa[:, None] * (x + self.attn(tuned, rotate))
    tuned = modulate(self.norm2(x), shift_msa, scale_msa)
    return x + self.mlp(gate_mlp[:, None] * tuned)


def _left(*, doubled: bool = False, reused: bool = False, gated_early: bool = False) -> Forward:
    """Return the broken forward with only these errors left in it."""

    def forward(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
        answer = self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
        x = x + gate_msa[:, None] * (x + answer if doubled else answer)
        shift, scale = (shift_msa, scale_msa) if reused else (shift_mlp, scale_mlp)
        tuned, gate = modulate(self.norm2(x), shift, scale), gate_mlp[:, None]
        return x + (self.mlp(gate * tuned) if gated_early else gate * self.mlp(tuned))

    return forward


def _residual_replaced(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    tuned = modulate(self.norm1(x), shift_msa, scale_msa)
    x = tuned + gate_msa[:, None] * self.attn(tuned)
    tuned = modulate(self.norm2(x), shift_mlp, scale_mlp)
    return tuned + gate_mlp[:, None] * self.mlp(tuned)


def _second_gate_lost(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    x = x + gate_msa[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa))
    return x + self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


def _residual_moved(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
    x = gate_msa[:, None] * (x + self.attn(modulate(self.norm1(x), shift_msa, scale_msa)))
    return x + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


BLOCK_BUG = Exercise(
    id="dit.block_bug",
    reference="dit.AdaLNZeroBlock.forward",
    lesson="07",
    number=7,
    title="Debug: three errors that a silent start hides",
    points=4,
    minutes=12,
    difficulty=3,
    case=_sentence,
    tolerance=3e-5,
    broken="three errors",
    mistakes=[
        Mistake(
            "three errors",
            _three_errors,
            "x is added twice, the perceptron is tuned with the attention's vectors, and its gate stands in front of "
            "it. With six vectors of zero and biases of zero all three cancel, and the fresh block returns its input.",
        ),
        Mistake(
            "residual and modulation left",
            _left(doubled=True, reused=True),
            "The perceptron's gate is right now. Two errors are left: count how often x is added in the attention's "
            "line, and see which shift and scale the perceptron's tokens get.",
        ),
        Mistake(
            "residual and gate left",
            _left(doubled=True, gated_early=True),
            "The perceptron is tuned with its own vectors now. Two errors are left: count how often x is added in the "
            "attention's line, and ask what a perceptron answers when its gate has made its tokens zero.",
        ),
        Mistake(
            "modulation and gate left",
            _left(reused=True, gated_early=True),
            "The residual of the attention is right now. Two errors are left, both in the perceptron's lines: which "
            "shift and scale it gets, and where its gate stands.",
        ),
        Mistake(
            "residual left",
            _left(doubled=True),
            "One error is left. In the attention's line x is added twice, once plainly and once inside the brackets: "
            "with a gate of 1 every block doubles the tokens. The gate multiplies the attention's answer alone.",
        ),
        Mistake(
            "modulation left",
            _left(reused=True),
            "One error is left. The perceptron's tokens are tuned with the attention's shift and scale, and two of the "
            "six vectors reach nothing: the condition cannot ask the two branches for different things.",
        ),
        Mistake(
            "gate left",
            _left(gated_early=True),
            "One error is left. The perceptron's gate scales what it reads, not what it says. A perceptron bends, and "
            "adds biases: half the input is not half the answer, and no input is not silence. Gate its output.",
        ),
        Mistake(
            "modulated residual",
            _residual_replaced,
            "Each branch is now added to the tuned tokens instead of the x that came in, so every block wipes out how "
            "far the sentence has come. The name left of + must be x.",
        ),
        Mistake(
            "residual inside the gate",
            _residual_moved,
            "Of the two x in the attention's line you removed the one that must stay: now the gate multiplies the "
            "residual, and a silent gate erases the sentence. x stands outside the brackets.",
        ),
        Mistake(
            "gate lost",
            _second_gate_lost,
            "The gate in front of the perceptron is gone, but none has come behind it: the perceptron now always "
            "speaks with full voice. Multiply what comes out of self.mlp by gate_mlp[:, None].",
        ),
    ],
)


# --- how the modulation begins -----------------------------------------------------------------------------------


def _layer(g: torch.Generator, size: int) -> Case:
    width = 5 + 2 * size
    parts, start = ((6, "gates"), (4, "zero"), (6, "xavier"), (9, "gates"))[size % 4]
    return Case(normal(g, parts * width, width), parts, start)


def _start(silence: Callable[[Tensor], None], std: float = 1e-3) -> Callable[[Tensor, int, str], Tensor]:
    """Return a start_modulation that sets "gates" its own way: silence is given the weights (parts, D, D) to change."""

    def start_modulation(weight: Tensor, parts: int, start: str) -> Tensor:
        if start == "gates":
            by_part = weight.clone().unflatten(0, (parts, -1))
            silence(by_part)
            return by_part.flatten(0, 1)
        return {"zero": torch.zeros_like(weight), "gaussian": std * torch.randn_like(weight)}.get(start, weight)

    return start_modulation


def _silenced(places: slice | list[int]) -> Callable[[Tensor], None]:
    def silence(by_part: Tensor) -> None:
        by_part[places] = 0

    return silence


def _alternating_parts(weight: Tensor, parts: int, start: str) -> Tensor:
    kept = torch.arange(len(weight), device=weight.device) % 3 != 2
    return weight * kept[:, None] if start == "gates" else _start(_silenced([]))(weight, parts, start)


def _whole_thirds(weight: Tensor, parts: int, start: str) -> Tensor:
    kept = torch.arange(len(weight), device=weight.device) < len(weight) * 2 // 3
    return weight * kept[:, None] if start == "gates" else _start(_silenced([]))(weight, parts, start)


def _written_over(weight: Tensor, parts: int, start: str) -> Tensor:
    if start == "gates":
        weight.unflatten(0, (parts, -1))[2::3] = 0
        return weight
    return _start(_silenced([]))(weight, parts, start)


def _gaussian_start(answer: Callable[..., Tensor], case: Case) -> str | None:
    weight = normal(torch.Generator().manual_seed(case.seed), 6 * 32, 32)
    made = answer(weight.clone(), 6, "gaussian")
    if made.shape != weight.shape:
        return f"for weights of shape {tuple(weight.shape)} you return {tuple(made.shape)}; the shape must stay."
    spread, middle = float(made.std()), float(made.mean())
    if abs(spread - 1e-3) < 1e-4 and abs(middle) < 1e-4:
        return None
    return f"its numbers have the mean {middle:.1g} and the standard deviation {spread:.2g}; 0 and 0.001 are expected."


START = Exercise(
    id="dit.start_modulation",
    lesson="07",
    number=3,
    title="Choose what is silent at the start",
    points=3,
    minutes=9,
    difficulty=2,
    case=_layer,
    gradient=False,
    properties=[Property("the Gaussian start", _gaussian_start)],
    mistakes=[
        Mistake(
            "first of three",
            _start(_silenced(slice(None, None, 3))),
            "You silence the first part of every three, which are the shifts. The order is shift, scale, gate: the "
            "gates are the third of every three, and Python counts that from 2.",
        ),
        Mistake(
            "second of three",
            _start(_silenced(slice(1, None, 3))),
            "You silence the scales, the second part of every three. The gates are the third: indices 2, 5, …",
        ),
        Mistake(
            "last two parts",
            _start(_silenced(slice(4, None))),
            "You silence everything from part 4 on, as if both gates stood at the end. They come branch by branch: "
            "each branch's gate follows its own shift and scale, at 2 and at 5.",
        ),
        Mistake(
            "one gate",
            _start(_silenced([2])),
            "Only the attention's gate is silent; the perceptron still speaks, and the fresh block is not the "
            "identity. Every third part is a gate.",
        ),
        Mistake(
            "two gates by number",
            _start(_silenced([2, 5])),
            "You silence the parts 2 and 5 by number. That fits a block with two branches; a layer with more parts has "
            "a gate in every three: a slice with a step of 3 finds them all.",
        ),
        Mistake(
            "all but the gates",
            _start(_silenced([0, 1, 3, 4])),
            "You silence shifts and scales and leave the gates at random, so a fresh block adds the answers of an "
            "untrained attention. It is the gates that must be zero.",
        ),
        Mistake(
            "every third row",
            _alternating_parts,
            "You silence every third row of the matrix. A part is D rows that stand together: first cut the rows into "
            "parts, then take every third part.",
        ),
        Mistake(
            "last third of the rows",
            _whole_thirds,
            "You silence the last third of the rows. With six parts those are the perceptron's scale and gate; the "
            "attention's gate stands in the middle.",
        ),
        Mistake(
            "everything",
            _start(_silenced(slice(None))),
            'For "gates" you return zeros throughout. That is "zero", DiT\'s own start; here shifts and scales keep '
            "Xavier's numbers and only the gates are silent.",
        ),
        Mistake(
            "written over",
            _written_over,
            "You set the gates to zero in the caller's own weights. unflatten, view and slices share their memory: "
            "clone the weights first.",
        ),
        Mistake(
            "another Gaussian",
            _start(_silenced(slice(2, None, 3)), std=0.02),
            "Your Gaussian start has another spread. N(0, 0.001²) names the variance, so the standard deviation is "
            "0.001: torch.randn_like alone has 1, the root of 0.001 is 0.03, and 0.02 is DiT's own for time and class.",
        ),
    ],
)


# --- adaLN-single ------------------------------------------------------------------------------------------------


def _shared_six(g: torch.Generator, size: int) -> Case:
    """Draw tokens, the shared 6 D numbers and, every second time, words of another width."""
    width, heads = ((12, 3), (10, 2), (7, 1), (15, 5))[size % 4]
    batch, count, words = 3 + size // 2, 5 + 2 * size, 4 + size
    context_size = (0, 9)[size % 2]
    build = {"width": width, "num_heads": heads, "context_size": context_size}
    context = (normal(g, batch, words, context_size),) if context_size else ()
    return Case(normal(g, batch, count, width), normal(g, batch, 6 * width), *context, build=build)


def _cut(self: AdaLNSingleBlock, shared: Tensor, pattern: str = "b (six d) -> b six d") -> Tensor:
    return self.scale_shift_table + rearrange(shared, pattern, six=6)


def _ask(self: AdaLNSingleBlock, context: Tensor | None, reads: Step = _as_it_is) -> Step:
    """Return the step in which the patches ask the words, where there are any."""
    if self.cross_attn is None:
        return _as_it_is
    asked = self.cross_attn
    return lambda x: x + asked(reads(x), context)


def _single(six: Callable[[AdaLNSingleBlock, Tensor], Tensor]) -> Forward:
    """Return a forward that makes its six vectors, stacked as (B, 6, D), in its own way."""

    def forward(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
        return _two_branches(self, x, six(self, shared).unbind(dim=1), between=_ask(self, context))

    return forward


def _asked_first(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    return _two_branches(self, _ask(self, context)(x), _cut(self, shared).unbind(dim=1))


def _asked_last(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    return _ask(self, context)(_two_branches(self, x, _cut(self, shared).unbind(dim=1)))


def _asked_normalised(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    return _two_branches(self, x, _cut(self, shared).unbind(dim=1), between=_ask(self, context, self.norm2))


def _asked_gated(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    six = _cut(self, shared)

    def between(x: Tensor) -> Tensor:
        return x if self.cross_attn is None else x + six[:, 2:3] * self.cross_attn(x, context)

    return _two_branches(self, x, six.unbind(dim=1), between=between)


def _asked_without_residual(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    def between(x: Tensor) -> Tensor:
        return x if self.cross_attn is None else self.cross_attn(x, context)

    return _two_branches(self, x, _cut(self, shared).unbind(dim=1), between=between)


def _never_asked(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    return _two_branches(self, x, _cut(self, shared).unbind(dim=1))


def _always_asked(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    def between(x: Tensor) -> Tensor:
        return x + self.cross_attn(x, context)  # type: ignore[misc]

    return _two_branches(self, x, _cut(self, shared).unbind(dim=1), between=between)


def _truth_of_words(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    def between(x: Tensor) -> Tensor:
        return _ask(self, context)(x) if context else x

    return _two_branches(self, x, _cut(self, shared).unbind(dim=1), between=between)


def _single_ungated(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    six = _cut(self, shared).unbind(dim=1)
    return _two_branches(self, x, six, gate=torch.ones_like, between=_ask(self, context))


ADALN_SINGLE = Exercise(
    id="dit.AdaLNSingleBlock.forward",
    lesson="07",
    number=4,
    title="Share one modulation between all blocks",
    points=4,
    minutes=11,
    difficulty=2,
    case=_shared_six,
    tolerance=3e-5,
    mistakes=[
        Mistake(
            "no table",
            _single(lambda self, shared: rearrange(shared, "b (six d) -> b six d", six=6)),
            "self.scale_shift_table is unused. Without it all blocks hear exactly the same six vectors; the table is "
            "what a block has of its own, and it is added to what is shared.",
        ),
        Mistake(
            "only the table",
            _single(lambda self, shared: self.scale_shift_table.expand(len(shared), -1, -1)),
            "shared does not arrive: your block uses its table alone and treats every time alike. The six vectors are "
            "the table plus what the shared layer says.",
        ),
        Mistake(
            "table of the other branch",
            _single(
                lambda self, shared: (
                    rearrange(shared, "b (six d) -> b six d", six=6) + self.scale_shift_table.roll(3, 0)
                )
            ),
            "The table's rows were added to the wrong vectors: the attention got the rows 3, 4, 5 and the perceptron "
            "the rows 0, 1, 2. Row and vector have the same number. Add the whole table before you cut, and nothing "
            "can slip.",
        ),
        Mistake(
            "table with the scale first",
            _single(
                lambda self, shared: (
                    rearrange(shared, "b (six d) -> b six d", six=6) + self.scale_shift_table[[1, 0, 2, 4, 3, 5]]
                )
            ),
            "The table's rows for shift and scale have changed places, in spite of its name: its rows come in the "
            "order shift, scale, gate, as everywhere in DiT.",
        ),
        Mistake(
            "table multiplied",
            _single(
                lambda self, shared: rearrange(shared, "b (six d) -> b six d", six=6) * (1 + self.scale_shift_table)
            ),
            "You multiply what is shared by 1 + the table. It is added: then a block can have a shift of its own even "
            "where the shared layer says nothing.",
        ),
        Mistake(
            "features outermost",
            _single(lambda self, shared: _cut(self, shared, "b (d six) -> b six d")),
            "You cut shared as (d six): six neighbouring numbers for each feature. The layer writes the six vectors "
            "one after the other, D numbers each: (six d), as chunk would cut it.",
        ),
        Mistake(
            "SiLU again",
            _single(lambda self, shared: _cut(self, F.silu(shared))),
            "You send shared through SiLU. The shared layer (t_block) has done that before its matrix; what arrives "
            "here are finished shifts, scales and gates, which must be free to be negative.",
        ),
        Mistake(
            "no gates",
            _single_ungated,
            "The two gates are cut out and not used. adaLN-single is adaLN-Zero with cheaper vectors: each of the "
            "two branches is multiplied by its gate before it is added.",
        ),
        Mistake(
            "words first",
            _asked_first,
            "Your patches ask the words before they have asked each other. The order is self-attention, words, "
            "perceptron.",
        ),
        Mistake(
            "words last",
            _asked_last,
            "Your patches ask the words after the perceptron, so that nobody thinks about the answer in this block. "
            "The order is self-attention, words, perceptron.",
        ),
        Mistake(
            "words gated",
            _asked_gated,
            "You multiply the words' answer by the attention's gate. PixArt-α leaves this branch without gate and "
            "modulation: of the six vectors none belongs to it.",
        ),
        Mistake(
            "words asked with a norm",
            _asked_normalised,
            "You normalise the tokens before they ask the words. In PixArt-α the cross-attention reads x as it is; "
            "norm2 belongs to the perceptron.",
        ),
        Mistake(
            "words replace the tokens",
            _asked_without_residual,
            "After the cross-attention only its answer is left. It is a third branch: add it to x.",
        ),
        Mistake(
            "words ignored",
            _never_asked,
            "context is unused. A block that was built with a context_size has self.cross_attn, and between the two "
            "branches its patches ask the words there.",
        ),
        Mistake(
            "words always asked",
            _always_asked,
            "self.cross_attn is None in a block that was built without words. Ask whether it is there before you call "
            "it.",
        ),
        Mistake(
            "truth of a tensor",
            _truth_of_words,
            "`if context` asks a whole tensor whether it is true, and torch refuses to say. Ask whether the layer is "
            "there: `self.cross_attn is not None`.",
        ),
    ],
)


# --- all blocks --------------------------------------------------------------------------------------------------


def _small(**changes: Any) -> DiTConfig:
    return DiTConfig(input_size=4, in_channels=1, hidden_size=8, num_heads=2, depth=2, mlp_ratio=2.0, **changes)


STACKS = (
    _small(conditioning="in-context", num_classes=0),
    _small(conditioning="adaln-single", num_classes=3, context_size=5),
    _small(conditioning="cross-attention", num_classes=3),
    _small(conditioning="adaln-zero", num_classes=3),
    _small(conditioning="in-context", num_classes=3),
    _small(conditioning="adaln", num_classes=0),
)


def _heard(g: torch.Generator, size: int) -> Case:
    """Draw tokens, what was heard (time, and class where there are any) and, for some, words."""
    config = STACKS[size % len(STACKS)]
    batch, width = 3 + size % 3, config.hidden_size
    heard = [normal(g, batch, width) for _ in range(2 if config.num_classes else 1)]
    context = (normal(g, batch, 3 + size, config.context_size),) if config.context_size else ()
    return Case(normal(g, batch, 5 + 2 * size, width), heard, *context, build={"config": config})


def _condition(self: DiT, heard: Sequence[Tensor]) -> Tensor:
    """Return what the blocks are told, each kind in its own form."""
    if self.config.conditioning in ("in-context", "cross-attention"):
        return torch.stack(list(heard), dim=1)
    return sum_of(heard) if self.t_block is None else self.t_block(sum_of(heard))


def _behind(tokens: Tensor, condition: Tensor) -> Tensor:
    return torch.cat([tokens, condition], dim=1)


def _in_front(tokens: Tensor, condition: Tensor) -> Tensor:
    return torch.cat([condition, tokens], dim=1)


def _first(tokens: Tensor, count: int) -> Tensor:
    return tokens[:, :count]


def _run(
    told: Callable[[DiT, Sequence[Tensor]], Tensor] = _condition,
    join: Callable[[Tensor, Tensor], Tensor] = _behind,
    leave: Callable[[Tensor, int], Tensor] = _first,
) -> Forward:
    """Return a run_blocks with the slip that a mistake asks for."""

    def run_blocks(self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
        count, condition = tokens.shape[1], told(self, heard)
        if self.config.conditioning == "in-context":
            tokens = join(tokens, condition)
        for block in self.blocks:
            tokens = block(tokens, condition, context)
        return leave(tokens, count)

    return run_blocks


def _one_token(self: DiT, heard: Sequence[Tensor]) -> Tensor:
    as_token = self.config.conditioning in ("in-context", "cross-attention")
    return sum_of(heard)[:, None] if as_token else _condition(self, heard)


def _stacked_in_front(self: DiT, heard: Sequence[Tensor]) -> Tensor:
    as_token = self.config.conditioning in ("in-context", "cross-attention")
    return torch.stack(list(heard)) if as_token else _condition(self, heard)


def _always_stacked(self: DiT, heard: Sequence[Tensor]) -> Tensor:
    condition = torch.stack(list(heard), dim=1)
    return condition if self.t_block is None else self.t_block(condition)


def _always_two(self: DiT, heard: Sequence[Tensor]) -> Tensor:
    if self.config.conditioning in ("in-context", "cross-attention"):
        return torch.stack([heard[0], heard[1]], dim=1)
    c = heard[0] + heard[1]
    return c if self.t_block is None else self.t_block(c)


def _not_projected(self: DiT, heard: Sequence[Tensor]) -> Tensor:
    return sum_of(heard) if self.t_block is not None else _condition(self, heard)


def _joined_in_every_block(self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
    count, condition = tokens.shape[1], _condition(self, heard)
    for block in self.blocks:
        tokens = _behind(tokens, condition) if self.config.conditioning == "in-context" else tokens
        tokens = block(tokens, condition, context)
    return tokens[:, :count]


def _fresh_in_every_block(self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
    count, condition = tokens.shape[1], _condition(self, heard)
    for block in self.blocks:
        tokens = _behind(tokens, condition) if self.config.conditioning == "in-context" else tokens
        tokens = block(tokens, condition, context)[:, :count]
    return tokens


def _not_joined(self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
    condition = _condition(self, heard)
    for block in self.blocks:
        tokens = block(tokens, condition, context)
    return tokens


def _not_chained(self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
    count, condition = tokens.shape[1], _condition(self, heard)
    if self.config.conditioning == "in-context":
        tokens = _behind(tokens, condition)
    for block in self.blocks:
        result = block(tokens, condition, context)
    return result[:, :count]


def _no_words(self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
    return _run()(self, tokens, heard, None)


def _projected_for_each(self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
    if self.t_block is None:
        return _run()(self, tokens, heard, context)
    for block in self.blocks:
        tokens = block(tokens, self.t_block(sum_of(heard)), context)
    return tokens


def _projected_once(answer: Any, case: Case) -> str | None:
    model: DiT = answer.__self__
    if model.t_block is None:
        return None
    calls: list[int] = []
    handle = model.t_block[1].register_forward_hook(lambda *_: calls.append(1))
    answer(*case.args)
    handle.remove()
    if len(calls) <= 1:
        return None
    return f"its layer ran {len(calls)} times for {len(model.blocks)} blocks, with the same result each time."


RUN_BLOCKS = Exercise(
    id="dit.DiT.run_blocks",
    lesson="07",
    number=5,
    title="Tell every block, in its own way",
    points=4,
    minutes=12,
    difficulty=3,
    case=_heard,
    tolerance=1e-4,
    properties=[Property("t_block, which all blocks share", _projected_once)],
    mistakes=[
        Mistake(
            "not removed",
            _run(leave=lambda tokens, count: tokens),
            "The tokens of time and class are still there at the end. They are no patches of the picture: return the "
            "first N tokens only.",
        ),
        Mistake(
            "removed from the front",
            _run(leave=lambda tokens, count: tokens[:, -count:]),
            "You put the condition's tokens behind the patches and remove as many from the front. The number is right, "
            "but the first patches are gone and time and class are laid out as patches. Keep tokens[:, :count].",
        ),
        Mistake(
            "two always removed",
            _run(leave=lambda tokens, count: tokens[:, :-2]),
            "You cut off two tokens in every case. Only in-context adds any, and without classes it adds one. Note how "
            "many patches came in and return that many.",
        ),
        Mistake(
            "put in front",
            _run(join=_in_front),
            "You put the condition's tokens in front of the patches and keep the first N of all: the condition stays, "
            "and the last patches are lost. Put them behind.",
        ),
        Mistake(
            "not put in",
            _not_joined,
            "Nothing tells the in-context blocks: they ignore their second argument and know only the tokens of their "
            "sentence. There time and class must be two more tokens of it.",
        ),
        Mistake(
            "put in again by every block",
            _joined_in_every_block,
            "You put the condition's tokens in once more before every block, so the sentence grows by two each time. "
            "They join once, before the first block, and travel along.",
        ),
        Mistake(
            "fresh for every block",
            _fresh_in_every_block,
            "You take the condition's tokens out after every block and put fresh ones in. In-context means that they "
            "travel through all blocks like any token and change on the way: in once before, out once after.",
        ),
        Mistake(
            "one token",
            _run(told=_one_token),
            "You add time and class up to one token. To in-context and cross-attention they are two: stack them, "
            "(B, 2, D), so that a patch can ask one more than the other. Only adaLN's ways listen to the sum.",
        ),
        Mistake(
            "stacked in front",
            _run(told=_stacked_in_front),
            "torch.stack without dim puts the new axis first, (2, B, D), where the images stand. The two are tokens of "
            "an image: dim=1 makes (B, 2, D).",
        ),
        Mistake(
            "stacked for all",
            _run(told=_always_stacked),
            "You stack time and class for every way to listen. The ways of adaLN want one vector an image, (B, D): "
            "the sum. Tokens are for in-context and cross-attention.",
        ),
        Mistake(
            "only the time",
            _run(told=lambda self, heard: _condition(self, heard[:1])),
            "The class does not arrive; you pass on the first of what was heard, the time. All of it counts: stacked "
            "as tokens, or summed.",
        ),
        Mistake(
            "always two",
            _run(told=_always_two),
            "heard[1] is missing in a network without classes, which hears the time alone. Take heard as it is, with "
            "one or two in it: torch.stack and sum_of do.",
        ),
        Mistake(
            "no t_block",
            _run(told=_not_projected),
            "adaLN-single's blocks have no layer of their own and expect 6 D numbers. self.t_block, one layer for all "
            "of them, makes these from the sum; in the other networks it is None.",
        ),
        Mistake(
            "not chained",
            _not_chained,
            "Every block reads the tokens that came in, and only the last one's answer is kept. Each block reads what "
            "the one before has written.",
        ),
        Mistake(
            "no words",
            _no_words,
            "context does not arrive in the blocks. Hand it to each as the third argument; those that were built "
            "without words ignore it.",
        ),
        Mistake(
            "t_block for each block",
            _projected_for_each,
            "The values are right, but self.t_block runs again for every block. All blocks share its result, which is "
            "the point of adaLN-single: compute it once, before the loop.",
        ),
    ],
)


# --- the parts of a DiT, weighed ---------------------------------------------------------------------------------


def _whole(g: torch.Generator, size: int) -> Case:
    """A small DiT of every way to listen in turn, with and without classes; on the meta device."""
    ways = ("adaln-zero", "adaln-single", "cross-attention", "in-context", "adaln")
    config = DiTConfig(
        input_size=8,
        in_channels=int(integers(g, 1, low=1, high=5)),
        hidden_size=4 * int(integers(g, 1, low=2, high=9)),
        depth=int(integers(g, 1, low=1, high=4)),
        num_heads=2,
        num_classes=(1, 0, 1)[size % 3] * int(integers(g, 1, low=3, high=40)),
        learn_sigma=size % 2 == 0,
        conditioning=ways[size % len(ways)],
        context_size=(0, 7)[ways[size % len(ways)] == "adaln-single"],
    )
    with torch.device("meta"):
        return Case(DiT(config))


PARTS_OF_A_DIT = ("attention", "perceptron", "modulation", "embedders", "ends")


def _part_of(name: str) -> str:
    """Return the part to which a weight of this name belongs."""
    words = name.split(".")
    if words[0] in ("t_embedder", "y_embedder"):
        return "embedders"
    if words[0] in ("x_embedder", "pos_embed") or words[:2] == ["final_layer", "linear"]:
        return "ends"
    return {"attn": "attention", "mlp": "perceptron"}.get(words[2], "modulation") if len(words) > 2 else "modulation"


def _weighed(part: Callable[[str], str | None] = _part_of, frozen: bool = False) -> Callable[[DiT], dict[str, int]]:
    """Return a count that sorts the weights by name in its own way; None leaves them out."""

    def count(model: DiT) -> dict[str, int]:
        sums = dict.fromkeys(PARTS_OF_A_DIT, 0)
        for name, weight in model.named_parameters():
            place = part(name)
            if place and (weight.requires_grad or frozen):
                sums[place] += weight.numel()
        return sums

    return count


def _forgetting(*endings: str) -> Callable[[DiT], dict[str, int]]:
    return _weighed(lambda name: None if name.endswith(endings) else _part_of(name))


def _moved(part: str, *pieces: str) -> Callable[[DiT], dict[str, int]]:
    """Return a count that puts the weights with one of these pieces in their names into another part."""
    return _weighed(lambda name: part if any(piece in name for piece in pieces) else _part_of(name))


def _of_none(model: DiT) -> int:
    embedders: list[Any] = [model.t_embedder, model.y_embedder]
    return sum(weight.numel() for module in embedders for weight in module.parameters())


def _number_of_tensors(model: DiT) -> dict[str, int]:
    sums = dict.fromkeys(PARTS_OF_A_DIT, 0)
    for name, weight in model.named_parameters():
        sums[_part_of(name)] += int(weight.requires_grad)
    return sums


def _shares(model: DiT) -> dict[str, float]:
    parts = parameters_by_part(model)
    return {name: count / sum(parts.values()) for name, count in parts.items()}


WEIGHTS = Exercise(
    id="dit.parameters_by_part",
    lesson="07",
    number=6,
    title="Weigh what listens",
    points=3,
    minutes=9,
    difficulty=2,
    case=_whole,
    gradient=False,
    mistakes=[
        Mistake(
            "final modulation forgotten",
            _weighed(lambda name: None if name.startswith("final_layer.adaLN") else _part_of(name)),
            "The final layer has a modulation too, 2 D² weights for a shift and a scale; it is missing from yours. "
            "Together the parts must be all that is trained.",
        ),
        Mistake(
            "final layer in the ends",
            _moved("ends", "final_layer"),
            "You count the whole final layer with the ends. Only its linear layer belongs there; what stands in front "
            "of that, be it a modulation, a table or a norm with weights of its own, counts as modulation.",
        ),
        Mistake(
            "frozen table in the ends",
            _weighed(frozen=True),
            "You count pos_embed, the table of places, with the ends. It is a Parameter, so that it is stored, but it "
            "is frozen: leave out what has requires_grad False.",
        ),
        Mistake(
            "frozen table as modulation",
            _weighed(lambda name: "modulation" if name == "pos_embed" else _part_of(name), frozen=True),
            "pos_embed, the table of places, has slipped into the modulation, where you put whatever is left. It is "
            "frozen and not trained: leave out what has requires_grad False.",
        ),
        Mistake(
            "no biases in the attention",
            _forgetting("attn.qkv.bias"),
            "You count the attention without the biases of queries, keys and values. DiT has them: 3 D in every block "
            "beside the 3 D² of the matrix.",
        ),
        Mistake(
            "no biases",
            _forgetting(".bias"),
            "You count matrices only. Biases are trained too, and they are parameters like all others.",
        ),
        Mistake(
            "embedders in the ends",
            _moved("ends", "t_embedder", "y_embedder"),
            "You count the embedders of time and class with the ends. They are a part of their own here; the ends are "
            "where the picture goes in and out: patches and last linear layer.",
        ),
        Mistake(
            "time's perceptron as a perceptron",
            _moved("perceptron", "mlp"),
            'The time has an mlp as well, and your search for "mlp" takes it for one of the blocks\'. Read the words '
            "of a name from the front: t_embedder.mlp.0 is an embedder.",
        ),
        Mistake(
            "cross-attention as attention",
            _moved("attention", "attn"),
            'Your search for "attn" also finds cross_attn. Cross-attention is how those blocks listen to the '
            "condition, so it counts as modulation here; compare whole words, not pieces.",
        ),
        Mistake(
            "tables forgotten",
            _forgetting("scale_shift_table"),
            "adaLN-single's tables are missing. A scale_shift_table is a Parameter of the block itself and lies in no "
            "layer; model.named_parameters() finds it.",
        ),
        Mistake(
            "norms forgotten",
            _weighed(lambda name: None if ".norm" in name else _part_of(name)),
            "The norms are missing. With in-context and cross-attention they have a scale and a shift of their own, "
            "learned and the same for every condition; here they count as modulation.",
        ),
        Mistake(
            "t_block among the embedders",
            _moved("embedders", "t_block"),
            "You count t_block with the embedders. In spite of its name it makes shifts, scales and gates, for all "
            "blocks at once: it is adaLN-single's modulation.",
        ),
        Mistake(
            "None has no parameters",
            _of_none,
            "model.y_embedder is None in a network without classes; skip what is None before you ask for its "
            "parameters, or walk through model.named_parameters().",
        ),
        Mistake(
            "tensors counted",
            _number_of_tensors,
            "You count the tensors, not the numbers in them. weight.numel() says how many numbers a tensor holds.",
        ),
        Mistake(
            "shares",
            _shares,
            "You return shares. Return the counts, as whole numbers; dividing can wait.",
        ),
    ],
)

EXERCISES = [MODULATE, ADALN_ZERO, START, ADALN_SINGLE, RUN_BLOCKS, WEIGHTS, BLOCK_BUG]


# --- guesses and the question in words ---------------------------------------------------------------------------


WAYS = ("in-context", "cross-attention", "adaLN", "adaLN-Zero", "no single one stands out")
AHEAD = {
    "everything": "the one that starts as the identity",
    "nothing": "the one that starts at random",
    "": "no difference is established",
}


def _best_way() -> str:
    """Read which way to listen draws best at equal width, after the whole training."""
    record = results.load("adaln_ways")
    return results.established(record, "fd_judge", WAYS[:4], at=1.0) or WAYS[4]


def _ahead_at_first() -> str:
    """Read which of two starts is ahead after the first quarter of the training."""
    record = results.load("adaln_zero")
    pair = ["everything", "nothing"]
    return AHEAD[results.established(record, "fd_judge", pair, at=0.25) or ""]


def _listening_share() -> float:
    """Count, on the meta device, what share of DiT-XL/2's weights makes shifts, scales and gates, in percent."""
    with torch.device("meta"):
        parts = parameters_by_part(DiT(DiTConfig.paper("XL/2")))
    return 100 * parts["modulation"] / sum(parts.values())


QUESTIONS = [
    Question(
        id="adaln.q1",
        lesson="07",
        text="Four small transformers of equal width and depth are trained alike on 16×16 shapes; they differ only in "
        "how they hear time and class. Which draws best in the end?",
        choices=WAYS,
        answer=_best_way,
        because="Judged by FD-judge: one is named only where its paired interval against each of the others leaves out "
        "0. Equal width is not equal size: the four differ in parameters.",
    ),
    Question(
        id="adaln.q2",
        lesson="07",
        text="Two transformers with gates, alike but for their start: in one all shifts, scales and gates are zero and "
        "every block returns its input; in the other they begin as random numbers. Which is ahead when the training "
        "has just begun?",
        choices=tuple(AHEAD.values()),
        answer=_ahead_at_first,
        because="Judged by FD-judge after the first quarter of the training: one is named only where the paired "
        "interval leaves out 0.",
    ),
    Question(
        id="adaln.q3",
        lesson="07",
        text="DiT-XL/2 has 675 million weights. Attention and perceptrons compute with some of them; others only make "
        "shifts, scales and gates out of time and class. What share are those?",
        unit="% of the weights",
        answer=_listening_share,
        because="A block has 4 D² weights of attention, 8 D² of the perceptron and 6 D² of modulation: 6 of 18. They "
        "run once an image, not once a token, so that they hold a third of the weights and hardly any arithmetic.",
    ),
]

PROSE = [
    Prose(
        id="adaln.w1",
        lesson="07",
        text="In DiT's paper adaLN-Zero beats in-context conditioning, with 675 million weights against 449 million. "
        "One friend says: it wins because it is bigger. Another: it wins because it computes more. Say what speaks "
        "for or against each of them, and name a measurement of this lesson that bears on it.",
        points=2,
        rubric=(
            "computes more: wrong, the modulation runs once an image and not once a token (118.6 against 119.4 Gflops "
            "in the paper's Table 4, or the lesson's own MACs); bigger: cannot be excluded by that comparison, because "
            "at equal width the numbers of weights differ: 1",
            "quotes a measurement of the lesson that bears on it (the comparison at equal parameters, adaLN against "
            "adaLN-Zero, the starts, adaLN-single) with its interval or its verdict, and claims no more than that "
            "says: 1",
        ),
        min_words=50,
        max_words=150,
    )
]
