"""Ordinary hand-ins of lesson 07: of each exercise a right answer, a mistake or the stub, in the real notebook."""

from __future__ import annotations

import ast
import functools
import inspect
import random
import sys
from collections.abc import Callable
from pathlib import Path

from grading_attacks.notebooks import (
    EXERCISES,
    PARTS,
    RUN,
    SINGLE,
    START,
    Entry,
    Notebook,
    answer,
    answers,
    handed_out,
    right,
    source,
    write,
)
from lesson_lib.exercises import REGISTRY
from lesson_lib.exercises.core import Mistake
from lesson_lib.exercises.source import source_of_mistake

RIGHT, MISTAKE, STUB = "right", "mistake", "stub"
KNOWN = {  # what the notebook has imported or shown above the exercises
    *("torch", "nn", "F", "Tensor", "modulate", "rearrange", "plain_norm", "SelfAttention", "CrossAttention", "Mlp"),
    *("Modulation", "Sequence", "BLOCKS", "DiTConfig", "sum_of", "unpatchify", "FinalLayer", "STARTS"),
}
SLIPS = {  # in the library's own text, where the known mistakes are made by functions that a notebook cannot show
    START: (
        ("first of three", "by_part[2::3]", "by_part[::3]"),
        ("second of three", "by_part[2::3]", "by_part[1::3]"),
        ("another Gaussian", "1e-3 *", "0.02 *"),
        ("written over", "weight.clone()", "weight"),
    ),
    SINGLE: (
        ("no table", "self.scale_shift_table + rearrange", "rearrange"),
        ("features outermost", "b (six d) ->", "b (d six) ->"),
        ("no gates", "gate_msa[:, None] * ", ""),
        ("words replace the tokens", "x = x + self.cross_attn", "x = self.cross_attn"),
    ),
    RUN: (
        ("not removed", "return tokens[:, :count]", "return tokens"),
        ("stacked in front", "torch.stack(list(heard), dim=1)", "torch.stack(list(heard))"),
        ("no words", "condition, context, rotate)", "condition, None, rotate)"),
        ("only the time", "self.t_block(sum_of(heard))", "self.t_block(heard[0])"),
    ),
    PARTS: (
        ("all counted", "if weight.requires_grad:", "if weight is not None:"),
        ("only the first word", "words[:3]", "words[:1]"),
        ("counted as tensors", "weight.numel()", "1"),
    ),
}
PROSE = (
    "It is not arithmetic: the modulation runs once an image, and Table 4 has 118.6 against 119.4 Gflops.",
    "Size cannot be excluded by the paper, since at equal width one network has half as many weights again.",
    "The comparison at equal parameters in this lesson bears on it, and its interval leaves little room.",
    "The three starts say more about zeros than about size, because those networks weigh the same.",
    "I would trust a run with more seeds before I believe any of the two friends.",
    "For eight classes the two curves lie so close that I could not tell them apart by eye.",
)


@functools.cache
def mistakes(exercise: str) -> dict[str, str]:
    """Return mistakes of an exercise that can be written into the notebook, as text, by name."""
    found = {name: right(exercise, 0).replace(old, new) for name, old, new in SLIPS.get(exercise, ())}
    for mistake in REGISTRY[exercise].mistakes:
        text = _written(exercise, mistake)
        if text and mistake.name != REGISTRY[exercise].broken:
            found[mistake.name] = text
    return found


def _written(exercise: str, mistake: Mistake) -> str:
    """Return a mistake under the exercise's own signature, or nothing where it leans on what the notebook lacks."""
    function, path = mistake.function, REGISTRY[exercise].path
    code = getattr(function, "__code__", None)
    if code is None or code.co_freevars or not _names(function) <= KNOWN:
        return ""
    if function.__name__ != "<lambda>":
        return source_of_mistake(function, path)
    wanted = inspect.signature(REGISTRY[exercise].resolved.function).parameters
    if list(inspect.signature(function).parameters) != list(wanted):
        return ""
    stub = REGISTRY[exercise].stub_source()
    [line] = [line for line in stub.splitlines() if "raise NotImplementedError" in line]
    return stub.replace(line.strip(), f"return {ast.unparse(_lambda(function).body)}")


def _names(function: Callable[..., object]) -> set[str]:
    """Name the globals that a function uses, also those of functions inside it."""
    tree = ast.parse(source(function)) if function.__name__ != "<lambda>" else _lambda(function)
    module = vars(sys.modules[function.__module__])
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    own = {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    annotations = {"AdaLNZeroBlock", "AdaLNSingleBlock", "DiT", "Rotate"}
    return {name for name in used if name in module} - own - annotations


def _lambda(function: Callable[..., object]) -> ast.Lambda:
    """Find a lambda's own node in its module."""
    tree = ast.parse(inspect.getsource(sys.modules[function.__module__]))
    line = function.__code__.co_firstlineno
    return next(n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and n.lineno == line)


def _filled(rng: random.Random) -> tuple[Notebook, frozenset[str]]:
    """Return a notebook with a random mix of answers, and which of them are right."""
    notebook, honest = handed_out(), set()
    good = rng.choice((0.95, 0.8, 0.6, 0.3))
    for exercise in EXERCISES:
        known = mistakes(exercise)
        kind = RIGHT if rng.random() < good else rng.choice((MISTAKE, MISTAKE, STUB) if known else (STUB,))
        if kind == RIGHT:
            honest.add(exercise)
            answer(notebook, exercise, right(exercise, rng.randrange(len(answers()[exercise]) + 1)))
        elif kind == MISTAKE:
            answer(notebook, exercise, known[rng.choice(sorted(known))])
    if rng.random() < 0.6:
        cell = next(c for c in notebook["cells"] if c["metadata"].get("name") == "in-words")
        words = " ".join(rng.sample(PROSE, 5))
        cell["source"] = f'prose("adaln.w1", """{words}""")'
    return notebook, frozenset(honest)


def ordinary(count: int, seed: int) -> list[Entry]:
    """Return ordinary hand-ins, the same ones for the same seed; honest says which exercises deserve their points."""
    rng = random.Random(seed)
    return [_entry(number, *_filled(rng)) for number in range(1, count + 1)]


def _entry(number: int, notebook: Notebook, honest: frozenset[str]) -> Entry:
    def build(folder: Path) -> None:
        write(folder, notebook)

    return Entry(f"student-{number:03}", "ordinary", "answers some exercises", build, honest)
