"""Lesson 02, conditioning: time features, dropped labels, guidance, and four ways to tell a network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor

from lesson_lib.condition import Concat, CrossAttention, FiLM
from lesson_lib.denoiser import PointDenoiser
from lesson_lib.embed import sinusoidal
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
from lesson_lib.guidance import Guided

LESSON = LessonCard(
    number="02",
    slug="conditioning",
    title="Conditioning",
    question="How does a network hear the time and the class?",
    minutes=100,
    prerequisites=("01",),
)


# --- time features -----------------------------------------------------------------------------------------------


def _times(g: torch.Generator, size: int) -> Case:
    return Case(uniform(g, 3 + size, low=1.0, high=999.0), 8 + 4 * size, (10_000.0, 100.0)[size % 2])


def _features(t: Tensor, size: int, max_period: float = 10_000.0, *, short: float = 0, factor: float = 1) -> Tensor:
    """Return the angles (B, size / 2), with the slip that a mistake asks for."""
    half = size // 2
    exponent = torch.arange(half, device=t.device) / (half - short)
    return factor * t[:, None] * max_period**-exponent


def _sines_first(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    angle = _features(t, size, max_period)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _half_less_one(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    return sinusoidal(t, size, max_period, "diffusers-dit")


def _ddpm(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    return sinusoidal(t, size, max_period, "ddpm")


def _turns(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    angle = _features(t, size, max_period, factor=2 * math.pi)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _no_time(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    angle = _features(torch.ones_like(t), size, max_period)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _over_size(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    angle = _features(t, size, max_period, short=-size // 2)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def _interleaved(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    angle = _features(t, size, max_period)
    return torch.stack([angle.cos(), angle.sin()], dim=2).flatten(1)


def _rising(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    angle = _features(t, size, 1 / max_period)
    return torch.cat([angle.cos(), angle.sin()], dim=1)


TIME = Exercise(
    id="embed.sinusoidal",
    lesson="02",
    number=1,
    title="Write a time as many clock hands",
    points=4,
    minutes=12,
    difficulty=2,
    case=_times,
    tolerance=2e-4,
    mistakes=[
        Mistake(
            "sines first",
            _sines_first,
            "Sines and cosines have changed places. DDPM puts the sines first; ADM, DiT, SD3 and this course put the "
            "cosines first: torch.cat([angle.cos(), angle.sin()], dim=1).",
        ),
        Mistake(
            "half less one",
            _half_less_one,
            "You divided the exponent by size / 2 - 1, as diffusers does for DiT. Here it is i / (size / 2): the last "
            "frequency stops one step before 1 / max_period.",
        ),
        Mistake(
            "ddpm",
            _ddpm,
            "That is DDPM's table: sines first, and the exponent divided by size / 2 - 1. Here the cosines come first "
            "and the exponent is divided by size / 2.",
        ),
        Mistake(
            "turns",
            _turns,
            "There is a 2π too many. The frequencies count radians per unit of time, not turns: the angle is t times "
            "the frequency, and nothing else.",
        ),
        Mistake(
            "no time",
            _no_time,
            "Every image gets the same row: the frequencies are there, but they are not multiplied by t. "
            "The angle is t[:, None] * frequency.",
        ),
        Mistake(
            "divided by size",
            _over_size,
            "You divided the exponent by size. Only half of the features are frequencies, so the slowest hand must be "
            "reached after size / 2 of them: divide by size / 2.",
        ),
        Mistake(
            "interleaved",
            _interleaved,
            "Your columns alternate: cosine, sine, cosine, sine. Here all cosines come first, then all sines: "
            "torch.cat along dim 1.",
        ),
        Mistake(
            "rising",
            _rising,
            "Your frequencies rise from 1 to max_period: the sign of the exponent is missing. They must fall, from 1 "
            "radian per unit of time to almost none.",
        ),
    ],
)


# --- dropped labels ----------------------------------------------------------------------------------------------


def _labels(g: torch.Generator, size: int) -> Case:
    classes = 5 + size
    labels = integers(g, 60 + 7 * size, low=1, high=classes)
    seed = int(integers(g, 1, high=10_000))
    return Case(labels, 0.15 + 0.05 * size, classes, torch.Generator().manual_seed(seed))


def _draw(labels: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(labels), generator=generator, device=generator.device)


def _in_place(labels: Tensor, probability: float, null_label: int, generator: torch.Generator) -> Tensor:
    labels[_draw(labels, generator) < probability] = null_label
    return labels


def _whole_batch(labels: Tensor, probability: float, null_label: int, generator: torch.Generator) -> Tensor:
    dropped = torch.rand(1, generator=generator) < probability
    return torch.where(dropped, null_label, labels)


def _global(labels: Tensor, probability: float, null_label: int, generator: torch.Generator) -> Tensor:
    return torch.where(torch.rand(len(labels)) < probability, null_label, labels)


DROP = Exercise(
    id="embed.drop_labels",
    lesson="02",
    number=2,
    title="Forget some labels on purpose",
    points=3,
    minutes=8,
    difficulty=1,
    case=_labels,
    mistakes=[
        Mistake(
            "kept and dropped swapped",
            lambda labels, p, null, g: torch.where(_draw(labels, g) < p, labels, null),
            "You keep the labels that should go and drop those that should stay: the share dropped is 1 - probability. "
            "A uniform number lies below p with probability p; torch.where takes first what stands where that is True.",
        ),
        Mistake(
            "class 0",
            lambda labels, p, null, g: torch.where(_draw(labels, g) < p, 0, labels),
            "Dropped labels became class 0, which is a real class: the network would learn that every picture may be "
            "a zero. They must become null_label.",
        ),
        Mistake(
            "last class",
            lambda labels, p, null, g: torch.where(_draw(labels, g) < p, null - 1, labels),
            "Dropped labels became null_label - 1, which is the last real class. The null class has a row of its own, "
            "after all of them: use null_label itself.",
        ),
        Mistake(
            "in place",
            _in_place,
            "The result is right, but you wrote into the caller's labels: at the next epoch the dropped ones are gone "
            "for good. torch.where makes a new tensor.",
        ),
        Mistake(
            "one draw",
            _whole_batch,
            "One random number decides for the whole batch. Draw one for each label: torch.rand(len(labels), …).",
        ),
        Mistake(
            "another generator",
            _global,
            "The random numbers do not come from the generator that was passed in. Give it to torch.rand, or a run "
            "cannot be repeated.",
        ),
        Mistake(
            "removed",
            lambda labels, p, null, g: labels[_draw(labels, g) >= p],
            "You removed the dropped labels, so there are fewer labels than images. Each keeps its place and becomes "
            "the null label.",
        ),
    ],
)


# --- guidance ----------------------------------------------------------------------------------------------------


def _predictions(g: torch.Generator, size: int) -> Case:
    shape = [(4, 2), (2, 1, 3, 5), (3, 2, 4, 4)][size % 3]
    return Case(normal(g, *shape), normal(g, *shape), 1.5 + 0.75 * size)


def _guide_in_place(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    return conditional.sub_(unconditional).mul_(scale).add_(unconditional)


def _two_certain_scales(answer: object, case: Case) -> str | None:
    assert callable(answer)
    conditional, unconditional, _ = case.args
    for scale, wanted, name in ((0.0, unconditional, "unconditional"), (1.0, conditional, "conditional")):
        if not torch.allclose(answer(conditional, unconditional, scale), wanted, atol=1e-5):
            return f"at scale {scale:g} the result must be the {name} prediction."
    return None


GUIDE = Exercise(
    id="guidance.guide",
    lesson="02",
    number=3,
    title="Walk past the conditional prediction",
    points=3,
    minutes=8,
    difficulty=1,
    case=_predictions,
    properties=[Property("scales 0 and 1", _two_certain_scales)],
    mistakes=[
        Mistake(
            "w, not s",
            lambda cond, uncond, scale: cond + scale * (cond - uncond),
            "You start from the conditional prediction: that is Ho and Salimans' w, and your scale means 1 + scale. "
            "Here scale 1 is no guidance: start from the unconditional one.",
        ),
        Mistake(
            "swapped",
            lambda cond, uncond, scale: cond + scale * (uncond - cond),
            "Conditional and unconditional have changed places: a larger scale now pushes away from the class. "
            "Start at unconditional and walk towards conditional.",
        ),
        Mistake(
            "backwards",
            lambda cond, uncond, scale: uncond + scale * (uncond - cond),
            "The start is right and the direction is not: (conditional - unconditional) points to the class, you walk "
            "the other way.",
        ),
        Mistake(
            "no start",
            lambda cond, uncond, scale: scale * (cond - uncond),
            "You return the push alone. It is added to something: unconditional + scale * (conditional - "
            "unconditional).",
        ),
        Mistake(
            "louder",
            lambda cond, uncond, scale: scale * cond,
            "You multiply the conditional prediction itself. Guidance scales the difference of two predictions; the "
            "size of either stays as it is.",
        ),
        Mistake(
            "in place",
            _guide_in_place,
            "The numbers are right, but sub_, mul_ and add_ overwrite the caller's prediction. Write the formula "
            "without the underscores.",
        ),
    ],
)


def _guided(g: torch.Generator, size: int) -> Case:
    classes, count = 3 + size, 3 + size
    model = PointDenoiser(width=8, depth=1, num_classes=classes)
    for parameter in model.parameters():
        parameter.data = normal(g, *parameter.shape) * 0.5
    x, t = normal(g, count, 2), uniform(g, count, low=1.0, high=999.0)
    build = {"model": model, "labels": integers(g, count, high=classes), "scale": 1.75 + 0.5 * size}
    return Case(x, t, build=build)


def _interleaved_batch(self: Guided, x: Tensor, t: Tensor) -> Tensor:
    if len(self.labels) != len(x):
        raise ValueError(f"there are {len(self.labels)} labels for {len(x)} images; give one for each")
    if self.scale == 1:
        return self.model(x, t, self.labels)
    null = torch.full_like(self.labels, self.null_label)
    twice = x.repeat_interleave(2, dim=0)
    both = self.model(twice, t.repeat_interleave(2), torch.cat([self.labels, null]))
    return self.combine(*both.chunk(2), self.scale)


def _two_calls(self: Guided, x: Tensor, t: Tensor, null_label: int, swap: bool = False) -> Tensor:
    """Return what a Guided does that runs the network twice, with the slip that a mistake asks for."""
    parts = [self.model(x, t, self.labels), self.model(x, t, torch.full_like(self.labels, null_label))]
    return self.combine(*(parts[::-1] if swap else parts), self.scale)


GUIDED = Exercise(
    id="guidance.guided_bug",
    reference="guidance.Guided.__call__",
    lesson="02",
    number=4,
    title="Debug: right for one image, wrong for many",
    points=4,
    minutes=12,
    difficulty=2,
    case=_guided,
    broken="interleaved batch",
    mistakes=[
        Mistake(
            "interleaved batch",
            _interleaved_batch,
            "repeat_interleave puts the two copies of an image next to each other (a a b b); the labels and chunk(2) "
            "expect them a whole batch apart (a b a b). Write torch.cat([x, x]), and the same for t.",
        ),
        Mistake(
            "halves swapped",
            lambda self, x, t: _two_calls(self, x, t, self.null_label, swap=True),
            "The two halves have changed places: the first half of the labels must be the real ones, because combine "
            "takes the conditional prediction first. A larger scale now flees the class.",
        ),
        Mistake(
            "a real class as null",
            lambda self, x, t: _two_calls(self, x, t, self.null_label - 1),
            "Your second half asks for the last real class. The null class is self.null_label, one row further.",
        ),
        Mistake(
            "class 0 as null",
            lambda self, x, t: _two_calls(self, x, t, 0),
            "Your second half asks for class 0, a real class: guidance then pushes away from that class instead of "
            "away from the average of all. Fill it with self.null_label.",
        ),
        Mistake(
            "no guidance",
            lambda self, x, t: self.model(x, t, self.labels),
            "You return the conditional prediction at every scale: nothing is guided. Hand both halves to "
            "self.combine.",
        ),
    ],
)


# --- four ways to inject -----------------------------------------------------------------------------------------


def _places(g: torch.Generator, size: int) -> Case:
    return Case(normal(g, 2 + size, 4, 3, 5), normal(g, 2 + size, 6), build={"channels": 4, "condition_size": 6})


def _everywhere(h: Tensor, condition: Tensor) -> Tensor:
    return repeat(condition, "b d -> b d height width", height=h.shape[2], width=h.shape[3])


def _condition_first(self: Concat, h: Tensor, condition: Tensor) -> Tensor:
    return self.mix(torch.cat([_everywhere(h, condition), h], dim=1))


def _not_repeated(self: Concat, h: Tensor, condition: Tensor) -> Tensor:
    return self.mix(torch.cat([h, condition[:, :, None, None]], dim=1))


def _corner_only(self: Concat, h: Tensor, condition: Tensor) -> Tensor:
    corner = torch.zeros_like(_everywhere(h, condition))
    corner[:, :, 0, 0] = condition
    return self.mix(torch.cat([h, corner], dim=1))


CONCAT = Exercise(
    id="condition.Concat.forward",
    lesson="02",
    number=5,
    title="Paste the condition next to every place",
    points=3,
    minutes=8,
    difficulty=1,
    case=_places,
    mistakes=[
        Mistake(
            "condition first",
            _condition_first,
            "You paste the condition before the features. The mixing weights expect the features in the first C "
            "channels: torch.cat([h, everywhere], dim=1).",
        ),
        Mistake(
            "not repeated",
            _not_repeated,
            "The condition has one place and the features have H × W; cat does not stretch. Repeat or expand it to "
            "(B, D, H, W) first.",
        ),
        Mistake(
            "no mix",
            lambda self, h, condition: torch.cat([h, _everywhere(h, condition)], dim=1),
            "You return C + D channels. The 1×1 convolution self.mix must bring them back to C.",
        ),
        Mistake(
            "features added again",
            lambda self, h, condition: h + self.mix(torch.cat([h, _everywhere(h, condition)], dim=1)),
            "You add h once more. Concat has no residual of its own: self.mix already sees h.",
        ),
        Mistake(
            "one corner",
            _corner_only,
            "Only one place hears the condition; the others get zeros. Every place gets the same copy.",
        ),
    ],
)


def _no_one(self: FiLM, h: Tensor, condition: Tensor) -> Tensor:
    scale, shift = rearrange(self.project(condition), "b (two c) -> two b c 1 1", two=2)
    return h * scale + shift


def _shift_first(self: FiLM, h: Tensor, condition: Tensor) -> Tensor:
    shift, scale = rearrange(self.project(condition), "b (two c) -> two b c 1 1", two=2)
    return h * (1 + scale) + shift


def _alternating(self: FiLM, h: Tensor, condition: Tensor) -> Tensor:
    scale, shift = rearrange(self.project(condition), "b (c two) -> two b c 1 1", two=2)
    return h * (1 + scale) + shift


def _shift_inside(self: FiLM, h: Tensor, condition: Tensor) -> Tensor:
    scale, shift = rearrange(self.project(condition), "b (two c) -> two b c 1 1", two=2)
    return (h + shift) * (1 + scale)


def _only_scale(self: FiLM, h: Tensor, condition: Tensor) -> Tensor:
    scale, _ = rearrange(self.project(condition), "b (two c) -> two b c 1 1", two=2)
    return h * (1 + scale)


def _no_axes(self: FiLM, h: Tensor, condition: Tensor) -> Tensor:
    scale, shift = self.project(condition).chunk(2, dim=1)
    return h * (1 + scale) + shift


FILM = Exercise(
    id="condition.FiLM.forward",
    lesson="02",
    number=6,
    title="Stretch and shift each feature",
    points=4,
    minutes=10,
    difficulty=2,
    case=_places,
    mistakes=[
        Mistake(
            "no one",
            _no_one,
            "The 1 + in front of scale is missing. With it a scale of zero leaves the feature alone; without it the "
            "feature is erased, and a layer that starts near zero silences the network.",
        ),
        Mistake(
            "shift first",
            _shift_first,
            "Scale and shift have changed places. In this layer the first C outputs are the scale, as in ADM; "
            "DiT orders them the other way round.",
        ),
        Mistake(
            "alternating",
            _alternating,
            "You read the outputs as scale, shift, scale, shift, … They come in two blocks: C scales, then C shifts "
            '(chunk(2, dim=1), or "(two c)" in einops).',
        ),
        Mistake(
            "shift inside",
            _shift_inside,
            "You shift before you stretch, so the shift is stretched too. Multiply h first, then add.",
        ),
        Mistake(
            "no shift",
            _only_scale,
            "You stretch but do not shift: the second half of the projection is unused.",
        ),
        Mistake(
            "no axes",
            _no_axes,
            "scale and shift are (B, C), h is (B, C, H, W): without two more axes, torch lines C up with W. "
            "Give them the shape (B, C, 1, 1).",
        ),
    ],
)


def _tokens(g: torch.Generator, size: int) -> Case:
    batch, tokens = 2 + size, 3 + size
    shape = (batch, 6) if size % 2 else (batch, tokens, 6)
    return Case(normal(g, batch, 4, 3, 5), normal(g, *shape), build={"channels": 4, "condition_size": 6})


def _attend(
    self: CrossAttention,
    h: Tensor,
    condition: Tensor,
    *,
    divide: float = 0.5,
    dim: int = -1,
    swap: bool = False,
    out: bool = True,
    turned: bool = False,
) -> Tensor:
    """Return what the layer adds to h, with the slip that a mistake asks for."""
    tokens = condition[:, None] if condition.ndim == 2 else condition
    key, value = (self.value, self.key) if swap else (self.key, self.value)
    query = self.query(rearrange(h, "b c height width -> b (height width) c"))
    weights = F.softmax(query @ key(tokens).mT / query.shape[-1] ** divide, dim=dim)
    answer = weights @ value(tokens)
    answer = self.out(answer) if out else answer
    if turned:
        return rearrange(answer, "b (width height) c -> b c height width", height=h.shape[2])
    return rearrange(answer, "b (height width) c -> b c height width", height=h.shape[2])


ATTEND = Exercise(
    id="condition.CrossAttention.forward",
    lesson="02",
    number=7,
    title="Let every place ask the tokens",
    points=6,
    minutes=18,
    difficulty=3,
    case=_tokens,
    mistakes=[
        Mistake(
            "no scale",
            lambda self, h, c: h + _attend(self, h, c, divide=0.0),
            "The scores are not divided by √C. With C channels a product of two random vectors has a spread of about "
            "√C, and the softmax hardens as the network widens.",
        ),
        Mistake(
            "divided by C",
            lambda self, h, c: h + _attend(self, h, c, divide=1.0),
            "You divided the scores by C; it is the root of C. Sums of C products spread like √C.",
        ),
        Mistake(
            "softmax over places",
            lambda self, h, c: h + _attend(self, h, c, dim=1),
            "Your softmax runs over the places, so each token shares itself out among them. Each place must share its "
            "attention among the tokens: the last axis of (B, places, tokens).",
        ),
        Mistake(
            "keys and values swapped",
            lambda self, h, c: h + _attend(self, h, c, swap=True),
            "Keys and values have changed places: the scores compare queries with keys, and what is fetched are the "
            "values.",
        ),
        Mistake(
            "no residual",
            lambda self, h, c: _attend(self, h, c),
            "You return the answer alone and lose the features. The answer is added: h + ….",
        ),
        Mistake(
            "no output layer",
            lambda self, h, c: h + _attend(self, h, c, out=False),
            "self.out is missing: the mixed values must pass through it before they are added.",
        ),
        Mistake(
            "turned",
            lambda self, h, c: h + _attend(self, h, c, turned=True),
            "Places come back in another order than they left: you flattened rows first and unflattened columns first. "
            "Use the same (height width) both times.",
        ),
    ],
)

EXERCISES = [TIME, DROP, GUIDE, GUIDED, CONCAT, FILM, ATTEND]


# --- guesses and the question in words ---------------------------------------------------------------------------

ONE_TOKEN = ("nothing", "tell places apart", "multiply features")


def _one_token() -> str:
    """Measure on random weights whether attention to one token moves any two places differently."""
    g = torch.Generator().manual_seed(0)
    layer = CrossAttention(8, 6)
    for parameter in layer.parameters():
        parameter.data = normal(g, *parameter.shape)
    h, condition = normal(g, 2, 8, 4, 4), normal(g, 2, 6)
    with torch.no_grad():
        moved = layer(h, condition) - h
    same_everywhere = torch.allclose(moved, moved[:, :, :1, :1].expand_as(moved), atol=1e-4)
    return ONE_TOKEN[0] if same_everywhere else ONE_TOKEN[1]


QUESTIONS = [
    Question(
        id="condition.q1",
        lesson="02",
        text="Cross-attention to a single condition token, compared with adding one projected vector everywhere: "
        "what can it do that adding cannot?",
        choices=ONE_TOKEN,
        answer=_one_token,
        because="A softmax over one token is 1 at every place, so every place receives the same vector.",
    ),
    Question(
        id="guidance.q1",
        lesson="02",
        text="You raise the guidance scale from 1 to 3. What happens to the share of samples that a classifier "
        "recognises as their class, and to the share of real digits that the samples come near (recall)?",
        choices=("both rise", "recognised rises, recall falls", "recognised falls, recall rises", "both fall",
                 "at least one does not change"),
        because="Read from the recorded runs: a change counts where the paired 95 % interval leaves out 0.",
    ),
]  # fmt: skip

PROSE = [
    Prose(
        id="guidance.w1",
        lesson="02",
        text="A model was trained without dropping labels. A user turns guidance from 1 to 4 and the pictures fall "
        "apart; another model, trained with 10 % dropped, becomes cleaner but less varied. Explain both from the "
        "formula of guide.",
        points=2,
        rubric=(
            "without dropping, the null row was never trained, so the unconditional prediction is arbitrary, and the "
            "scale multiplies the difference from it: 1",
            "with dropping, the difference points from all digits to this class; walking along it further than the "
            "data reach leaves the typical centre of the class and loses its edges: 1",
        ),
        min_words=40,
        max_words=140,
    )
]
