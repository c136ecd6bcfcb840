"""Pairs for a person to look at: copies are found behind their disguises, and honest answers are left alone."""

from __future__ import annotations

import importlib.util
import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from lesson_lib.exercises import REGISTRY
from lesson_lib.exercises.source import source_of_mistake
from lesson_lib.grading import copies
from lesson_lib.grading.copies import Pair, common_sources, pieces, similar

LESSON = [key for key, exercise in REGISTRY.items() if exercise.lesson == "07"]
MODULATE, ZERO, START, SINGLE, RUN, PARTS, BUG = LESSON
STUBS = {key: REGISTRY[key].stub_source() for key in LESSON}
SOLUTIONS = {key: REGISTRY[key].solution_source() for key in LESSON}

UNUSUAL = '''
def start_modulation(weight: Tensor, parts: int, start: str) -> Tensor:
    """Return the weights."""
    rows = weight.shape[0] // parts
    scale = {"zero": 0.0, "xavier": 1.0}.get(start)
    if scale is not None:
        return weight * scale
    drawn = torch.empty_like(weight).uniform_(-0.002, 0.002)
    keep = torch.ones(parts, dtype=weight.dtype)
    for place in (2, 5):
        keep[place] = 0.0
    mask = keep.repeat_interleave(rows).unsqueeze(-1)
    return drawn if start == "gaussian" else weight.mul(mask)
'''
DISGUISED = """
import torch as t

def start_modulation(w, n, kind):  # my own work
    masked: t.Tensor
    number: float = {"zero": 0.0, "xavier": 1.0}.get(kind)
    height = w.shape[0] // n
    if number is not None:
        return w * number
    switch = t.ones(n, dtype=w.dtype)
    for i in (2, 5):
        switch[i] = 0.0
    random_numbers = t.empty_like(w).uniform_(-0.002, 0.002)
    masked = switch.repeat_interleave(height).unsqueeze(-1)
    return random_numbers if kind == "gaussian" else w.mul(masked)
"""


@cache
def common() -> dict[str, list[str]]:
    """Return what else everybody may come to, by exercise."""
    return {key: common_sources(REGISTRY[key]) for key in LESSON}


@cache
def right_answers() -> dict[str, list[str]]:
    """Return the library's answer and the course's different ones, by exercise."""
    spec = importlib.util.spec_from_file_location("answers_07", Path(__file__).parent / "answers" / "lesson_07.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    others: dict[str, list[Callable[..., Any]]] = module.ANSWERS
    return {
        key: [SOLUTIONS[key], *(source_of_mistake(function, REGISTRY[key].path) for function in others[key])]
        for key in LESSON
    }


def a_class(size: int, seed: int = 0) -> dict[str, dict[str, str]]:
    """Return students who each solve every exercise in one of the course's ways."""
    draw = random.Random(seed)
    return {
        f"student_{number:03}": {key: draw.choice(found) for key, found in right_answers().items()}
        for number in range(size)
    }


def renamed(source: str) -> str:
    """Give a function's own names others; docstring, comments and layout change too."""
    for name in ("weight", "parts", "start", "width", "made", "gate", "rows", "keep", "drawn", "mask", "place"):
        source = re.sub(rf"(?<!\.)\b{name}\b", f"{name[::-1]}_1", source)
    return "# mine\n" + re.sub(r'"""Return .*?"""', '"""Something else."""', source, flags=re.DOTALL)


def listed(sources: dict[str, dict[str, str]]) -> list[Pair]:
    """Compare a class."""
    return similar(sources, STUBS, SOLUTIONS, common())


def one_exercise(*answers: str, key: str = START, size: int = 40) -> list[Pair]:
    """Compare a class in which some students, "a" first, hand in these answers to one exercise."""
    sources = a_class(size)
    for name, answer in zip("abcdefgh", answers, strict=False):
        sources[name] = {key: answer}
    return listed(sources)


# --- found -------------------------------------------------------------------------------------------------------


def test_a_copied_unusual_wrong_answer_is_listed() -> None:
    [pair] = one_exercise(UNUSUAL, UNUSUAL)
    assert (pair.first, pair.second, pair.exercises, pair.likeness) == ("a", "b", (START,), 1.0)
    assert pair.why == (
        "100% of what is neither given nor common in 1 answer is built alike, the same word for word; "
        "nobody else wrote any of it."
    )


def test_other_names_comments_and_docstrings_hide_nothing() -> None:
    copy = renamed(UNUSUAL)
    assert not set(re.findall(r"\b(?:weight|parts|rows|keep|drawn)\b", copy))
    [pair] = one_exercise(UNUSUAL, copy)
    assert pair.likeness == 1.0
    assert "the wording or the order differs" in pair.why


def test_annotations_import_names_and_another_order_hide_little() -> None:
    [pair] = one_exercise(UNUSUAL, DISGUISED)
    assert 0.8 < pair.likeness <= 1
    assert pair.exercises == (START,)


@pytest.mark.parametrize(
    "change",
    [
        ("0.002", "0.003"),
        ("uniform_", "normal_"),
        ("torch.ones", "torch.zeros"),
        ("rows, keep", "keep"),
        ('"gaussian"', '"xavier"'),
    ],
)
def test_numbers_texts_and_names_of_the_library_are_structure(change: tuple[str, str]) -> None:
    other = UNUSUAL.replace(*change)
    assert (pieces(other) != pieces(UNUSUAL)) == (other != UNUSUAL)


def own_style(answers: dict[str, str]) -> dict[str, str]:
    """Return right answers as nobody else writes them."""
    changed = {key: text.replace("+ 1", "- (-1)") for key, text in answers.items()}
    return {key: re.sub(r"\breturn (\w.*)$", r"return (\1) * 1.0", text, flags=re.M) for key, text in changed.items()}


def test_a_copied_notebook_and_a_copied_answer_are_listed_likest_first() -> None:
    sources = a_class(40)
    sources["a"] = own_style(sources["student_000"])
    sources["b"] = {key: renamed(text) for key, text in sources["a"].items()}
    sources["c"], sources["d"] = {START: UNUSUAL}, {START: DISGUISED}
    found = listed(sources)
    exercises = {(pair.first, pair.second): pair.exercises for pair in found}
    assert exercises.keys() == {("a", "b"), ("c", "d")}
    assert len(exercises["a", "b"]) >= 3
    assert exercises["c", "d"] == (START,)
    assert found[0].likeness > found[1].likeness


def test_three_friends_are_listed_as_pairs() -> None:
    sources = a_class(40)
    sources["a"] = sources["b"] = own_style(sources["student_000"]) | {START: UNUSUAL}
    sources["c"] = {key: renamed(text) for key, text in sources["a"].items()}
    found = listed(sources)
    assert {(pair.first, pair.second) for pair in found} == {("a", "b"), ("a", "c"), ("b", "c")}
    assert all("at most 1 other student wrote any of it" in pair.why for pair in found)


def test_the_answer_inside_what_it_depends_on_is_found() -> None:
    shown = right_answers()[RUN][0].replace("class DiT(", "class Shown(")
    one, other = (f"import torch\nfrom torch import nn\n\n{shown}\n\n{text}" for text in (UNUSUAL, renamed(UNUSUAL)))
    [pair] = one_exercise(one, other)
    assert pair.likeness > 0.9


# --- left alone --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [24, 40, 120])
def test_honest_students_with_the_courses_right_answers_are_not_listed(size: int) -> None:
    assert listed(a_class(size, seed=size)) == []


@pytest.mark.parametrize("size", [2, 5, 30])
def test_everybodys_library_solution_is_not_listed(size: int) -> None:
    assert listed({f"s{number}": dict(SOLUTIONS) for number in range(size)}) == []
    assert listed({f"s{number}": dict(STUBS) for number in range(size)}) == []


def test_code_that_the_notebook_gives_is_not_listed_even_between_two() -> None:
    shown = "\n".join(text for text in common()[RUN] if text.startswith(("class", "def", "from")))
    sources = {name: {RUN: f"{shown}\n{answer}"} for name, answer in zip("ab", right_answers()[RUN], strict=False)}
    assert listed(sources) == []


def test_the_same_known_mistake_is_not_listed() -> None:
    mistakes = [
        source_of_mistake(mistake.function, REGISTRY[BUG].path)
        for mistake in REGISTRY[BUG].mistakes
        if mistake.function.__name__.startswith("_")
    ]
    assert len(mistakes) > 1
    assert [pair for text in mistakes for pair in one_exercise(text, text, key=BUG)] == []


def test_an_answer_of_a_large_part_of_the_class_is_not_listed() -> None:
    sources = {f"s{number}": {START: renamed(UNUSUAL) if number % 2 else UNUSUAL} for number in range(20)}
    assert listed(sources) == []


def test_a_short_rare_answer_alone_is_not_listed() -> None:
    short = "def modulate(x, shift, scale):\n    return x.mul(scale.unsqueeze(-2).add(1)).add(shift.unsqueeze(-2))\n"
    assert one_exercise(short, renamed(short), key=MODULATE) == []


def test_the_same_answer_to_two_exercises_counts_once() -> None:
    lines = UNUSUAL.splitlines()
    head, tail = ("\n".join([lines[1], *part]) for part in (lines[3:8], lines[8:]))
    again, other = a_class(40), a_class(40)
    for name in "ab":
        again[name], other[name] = {ZERO: tail, BUG: tail}, {ZERO: tail, BUG: head}
    assert listed(again) == []
    assert [pair.exercises for pair in listed(other)] == [(ZERO, BUG)]


# --- hostile answers and many of them ----------------------------------------------------------------------------

HOSTILE = {
    "no Python": "def f(:",
    "null byte": "x = 1\0",
    "half a character": "x = '\ud800'",
    "deep signs": "-" * 50_000 + "1",
    "deep attributes": "a" + ".b" * 25_000,
    "deep calls": "f" + "()" * 25_000,
    "deep brackets": "(" * 50_000,
    "deep choices": "1 if 1 else " * 4_000 + "1",
    "huge number": "x = 0x" + "f" * 50_000,
    "bad escapes": "x = '\\d'\n" * 1_000,
    "empty": "",
    "too long": "x = 1\n" * 20_000,
    "odd syntax": "match x:\n case [a, *b] | {'k': c, **d}: pass\n case _: lambda *p, q=1, **r: (yield)\n",
}


def test_hostile_answers_are_passed_over_and_the_others_compared(recwarn: pytest.WarningsRecorder) -> None:
    sources = a_class(20)
    sources |= {name: {key: text for key in LESSON} for name, text in HOSTILE.items()}
    sources |= {f"{name} again": {key: text for key in LESSON} for name, text in HOSTILE.items()}
    sources["a"], sources["b"] = {START: UNUSUAL}, {START: renamed(UNUSUAL)}
    assert [(pair.first, pair.second) for pair in listed(sources)] == [("a", "b")]
    assert not recwarn.list


def test_nothing_of_an_answer_is_run(tmp_path: Path) -> None:
    trap = f"open({str(tmp_path / 'run')!r}, 'w').write(str([k for k in range(9) if k % 2 == 0]))\n"
    one_exercise(trap + UNUSUAL, trap + UNUSUAL)
    assert not list(tmp_path.iterdir())


def test_many_students_need_few_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: Counter[tuple[str, str]] = Counter()

    def counting(students: Iterable[str], size: int) -> Iterable[tuple[str, ...]]:
        for pair in itertools.combinations(students, size):
            compared[pair] += 1
            yield pair

    monkeypatch.setattr(copies, "combinations", counting)
    sources = a_class(200)
    sources["a"], sources["b"] = {START: UNUSUAL}, {START: renamed(UNUSUAL)}
    assert [(pair.first, pair.second) for pair in listed(sources)] == [("a", "b")]
    assert set(compared) == {("a", "b")}
    assert compared.total() < 100
