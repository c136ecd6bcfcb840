"""The exercises: every rung of the ladder with an answer made to fall from it, and every exercise of the course."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import inspect
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lesson_lib import condition, diagrams, noise
from lesson_lib.exercises import (
    LESSONS,
    REGISTRY,
    CheckFailed,
    ask,
    check,
    predict,
    progress,
    prose,
    revisit,
    saved,
    score,
)
from lesson_lib.exercises.attempt import bound_arguments
from lesson_lib.exercises.compare import array, difference
from lesson_lib.exercises.core import Case, Exercise, LessonCard, Mistake, Property, Prose, Question, normal, uniform
from lesson_lib.exercises.ladder import examine
from lesson_lib.exercises.registry import collect
from lesson_lib.exercises.source import imports_for, merge_imports, resolve, source_of, stub_of

ANSWERS = Path(__file__).parent / "answers"


@pytest.fixture(autouse=True)
def own_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep progress out of the repository."""
    monkeypatch.setenv("LESSON_PROGRESS", str(tmp_path / "progress.json"))
    monkeypatch.delenv("LESSON_STRICT", raising=False)
    return tmp_path / "progress.json"


# --- two exercises to fall from ----------------------------------------------------------------------------------


def _noisy(g: torch.Generator, size: int) -> Case:
    x0 = normal(g, 2 + size, 3, 4, 5)
    return Case(x0, normal(g, *x0.shape), uniform(g, 2 + size, low=0.05, high=0.95))


def _no_root(x0: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    a = a[:, None, None, None]
    return a * x0 + (1 - a) * noise


def _detached(x0: Tensor, noise: Tensor, a: Tensor) -> Tensor:
    a = a[:, None, None, None]
    return a.sqrt() * x0.detach() + (1 - a).sqrt() * noise


def _exercise(**changes: Any) -> Exercise:
    card: dict[str, Any] = dict(id="noise.add_noise", lesson="01", number=1, title="Jump", points=3, minutes=5)
    mistakes = [
        Mistake("no root", _no_root, "ROOT"),
        Mistake("no expand", lambda x0, noise, a: a.sqrt() * x0 + (1 - a).sqrt() * noise, "EXPAND"),
        Mistake("detached", _detached, "DETACHED"),
    ]
    return Exercise(**{**card, "difficulty": 1, "case": _noisy, "mistakes": mistakes, **changes})


def right(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    a = alpha_bar.view(-1, 1, 1, 1)
    return torch.sqrt(a) * x0 + torch.sqrt(1 - a) * noise


def _wrong_answers() -> dict[str, tuple[Callable[..., Any], str, str]]:
    """Name → (answer, the rung it falls from, words of the sentence)."""

    def stub(x0, noise, alpha_bar):
        raise NotImplementedError

    def renamed(x, noise, alpha_bar):
        return right(x, noise, alpha_bar)

    def too_many(x0, noise, alpha_bar, scale):
        return right(x0, noise, alpha_bar)

    def raises(x0, noise, alpha_bar):
        return x0.reshape(7, 7, 7)

    def leaves(x0, noise, alpha_bar):
        sys.exit(3)

    def for_ever(x0, noise, alpha_bar):
        while True:
            with contextlib.suppress(Exception):
                sum(range(1000))

    def nothing(x0, noise, alpha_bar):
        right(x0, noise, alpha_bar)

    def pair(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar), noise

    def to_numpy(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar).numpy()

    def number(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar).mean().item()

    def broadcastable(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar)[None]

    def one_channel(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar)[:, :1]

    def double(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar).double()

    def elsewhere(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar).to("meta")

    def in_place(x0, noise, alpha_bar):
        result = right(x0, noise, alpha_bar)
        x0 += 1
        return result

    def nan(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar) / (x0 - x0)

    def twice(x0, noise, alpha_bar):
        return 2 * right(x0, noise, alpha_bar)

    def shifted(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar) + 1

    def flipped(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar).flip(0)

    def cut(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar).detach()

    def cut_one(x0, noise, alpha_bar):
        return right(x0, noise.detach(), alpha_bar)

    def half_gradient(x0, noise, alpha_bar):
        return right((x0 + x0.detach()) / 2, noise, alpha_bar)

    def on_the_cpu(x0, noise, alpha_bar):
        return right(x0, noise, alpha_bar) * torch.ones(5)

    return {
        "stub": (stub, "attempted", "not attempted"),
        "renamed": (renamed, "signature", "(x, noise, alpha_bar)"),
        "too many": (too_many, "signature", "scale"),
        "raises": (raises, "runs", "return x0.reshape(7, 7, 7)"),
        "leaves": (leaves, "runs", "SystemExit"),
        "for ever": (for_ever, "runs", "loop that does not end"),
        "nothing": (nothing, "returns", "return at the end"),
        "pair": (pair, "returns", "2 things in a tuple"),
        "numpy": (to_numpy, "returns", "Stay in torch"),
        "number": (number, "returns", "a number; a tensor is expected"),
        "broadcastable": (broadcastable, "shape", "(1, 2, 3, 4, 5); (2, 3, 4, 5) is expected"),
        "one channel": (one_channel, "shape", "(2, 1, 4, 5)"),
        "dtype": (double, "dtype and device", "float64; float32 is expected"),
        "device": (elsewhere, "dtype and device", "meta; cpu is expected"),
        "in place": (in_place, "arguments unchanged", "x0"),
        "NaN": (nan, "finite", "120 of the 120"),
        "twice": (twice, "values", "2 × as large"),
        "shifted": (shifted, "values", "1 too large everywhere"),
        "flipped": (flipped, "values", "stand in other places"),
        "cut": (cut, "gradient", "no gradient flows back"),
        "cut one": (cut_one, "gradient", "no gradient reaches noise"),
        "half gradient": (half_gradient, "gradient", "gradient of x0"),
        "on the CPU": (on_the_cpu, "other devices", "device="),
    }


@pytest.mark.parametrize("name", list(_wrong_answers()))
def test_each_rung_stops_the_answer_made_for_it(name: str) -> None:
    answer, rung, words = _wrong_answers()[name]
    report = examine(_exercise(seconds=0.3), answer)
    assert (report.rung, report.passed) == (rung, False)
    assert words in report.text()
    assert not report.mistake


def test_an_instructors_own_question_is_kept(own_progress: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prose("mine.w1", "three short words")
    assert json.loads(own_progress.read_text())["prose"]["mine.w1"]["words"] == 3
    prose("adaln.w2", "")
    assert "is it 'adaln.w1'?" in capsys.readouterr().out


@pytest.mark.parametrize("key", list(REGISTRY))
def test_handing_an_argument_back_is_never_right(key: str) -> None:
    """Nor is a copy of it, zeros in its place, or nothing: an answer has to do something."""
    exercise = REGISTRY[key]
    first = next(exercise.cases(0, 1))
    count = len(first.args) + len(first.kwargs)
    start = 1 if exercise.resolved.method else 0
    cheap: list[Callable[..., Any]] = [lambda *given, i=start + i: given[i] for i in range(count)]
    cheap += [lambda *given, i=start + i: _emptied(given[i]) for i in range(count)]
    cheap += [lambda *given: None, lambda *given: given[start:]]
    for place, answer in enumerate(cheap):
        assert not examine(exercise, exercise.adopt(_padded(answer, count + start))).passed, place


def _emptied(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) else 0


def _padded(answer: Callable[..., Any], least: int) -> Callable[..., Any]:
    return lambda *given: answer(*given, *[None] * (least - len(given)))


def test_right_answers_pass_in_any_dress() -> None:
    def prints(x0, noise, alpha_bar):
        print("shape", x0.shape)
        print("in the middle")
        return right(x0, noise, alpha_bar)

    def random_calls(x0, noise, alpha_bar, unused=1):
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(True)
        return right(x0, noise, alpha_bar)

    assert examine(_exercise(), right).passed
    assert "Your code printed: in the middle" in examine(_exercise(), prints).text()
    before = torch.get_rng_state()
    assert examine(_exercise(), random_calls).passed
    assert torch.equal(before, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32


def test_the_prints_do_not_reach_the_page_twice_or_fill_memory(capsys: pytest.CaptureFixture[str]) -> None:
    def chatters(x0, noise, alpha_bar):
        while True:
            print("x" * 1000)

    report = examine(_exercise(seconds=0.3), chatters)
    assert report.rung == "runs"
    assert len(report.printed) <= 2000
    assert capsys.readouterr().out == ""


def test_a_loop_that_catches_everything_is_still_stopped() -> None:
    def stubborn(x0, noise, alpha_bar):
        while True:
            try:
                time.sleep(0.01)
            except BaseException as error:
                if time.monotonic() > until:
                    raise error

    until = time.monotonic() + 1
    assert "loop that does not end" in examine(_exercise(seconds=0.2), stubborn).sentence


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_the_time_limit_gives_the_timer_back() -> None:
    old_handler = signal.getsignal(signal.SIGALRM)
    old, _ = signal.setitimer(signal.ITIMER_REAL, 100)
    try:
        examine(_exercise(), right)
        assert 90 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
        assert signal.getsignal(signal.SIGALRM) is old_handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, old)


def test_a_known_mistake_is_named_whatever_rung_it_falls_from() -> None:
    def no_root(x0, noise, alpha_bar):
        return torch.einsum("b,bchw->bchw", alpha_bar, x0) + torch.einsum("b,bchw->bchw", 1 - alpha_bar, noise)

    def no_expand(x0, noise, alpha_bar):
        return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise

    def detached(x0, noise, alpha_bar):
        return right(x0.data, noise, alpha_bar)

    for answer, rung, sentence in [
        (no_root, "values", "ROOT"),
        (no_expand, "runs", "EXPAND"),
        (detached, "gradient", "DETACHED"),
    ]:
        report = examine(_exercise(), answer)
        assert (report.rung, report.help) == (rung, sentence)


def test_a_mistake_must_match_in_all_cases() -> None:
    def sometimes(x0, noise, alpha_bar):
        return _no_root(x0, noise, alpha_bar) if len(x0) < 4 else 3 * x0

    assert examine(_exercise(), sometimes).mistake == ""


def test_a_replaced_allclose_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner, name in [
        (torch, "allclose"),
        (torch, "equal"),
        (torch.Tensor, "allclose"),
        (torch.testing, "assert_close"),
    ]:
        monkeypatch.setattr(owner, name, lambda *a, **k: True)
    monkeypatch.setattr(np, "allclose", lambda *a, **k: True)
    monkeypatch.setattr(torch.Tensor, "numpy", lambda self: np.zeros(self.shape))
    assert examine(_exercise(), _wrong_answers()["twice"][0]).rung == "values"


def test_what_is_not_a_function_gets_a_sentence() -> None:
    assert "without brackets" in examine(_exercise(), torch.zeros(3)).sentence
    assert "the class FiLM itself" in examine(_film(), lambda h, condition: h).sentence


def test_properties_and_exercises_without_values() -> None:
    def mean_stays(answer: Callable[..., Tensor], case: Case) -> str | None:
        return None if answer(*case.args).mean() < 100 else "the mean runs away."

    def explodes(answer: Callable[..., Tensor], case: Case) -> str | None:
        raise ZeroDivisionError("oh")

    loose = _exercise(values=False, gradient=False, properties=[Property("size", mean_stays)])
    assert examine(loose, _wrong_answers()["twice"][0]).passed
    report = examine(loose, lambda x0, noise, alpha_bar: right(x0, noise, alpha_bar) + 1000)
    assert (report.rung, report.sentence) == ("properties", "size: the mean runs away.")
    assert "ZeroDivisionError" in examine(_exercise(properties=[Property("p", explodes)]), right).sentence


def test_results_with_several_parts_are_compared_part_by_part() -> None:
    def case(g: torch.Generator, size: int) -> Case:
        x = normal(g, 2 + size, 3)
        return Case(x, normal(g, 2 + size, 3), uniform(g, 2 + size, low=0.1, high=0.4), uniform(g, 2 + size, low=0.5))

    exercise = _exercise(id="noise.posterior", case=case, mistakes=[])
    assert examine(exercise, noise.posterior).passed

    def swapped(x0, x_t, alpha_bar, alpha_bar_prev):
        return noise.posterior(x0, x_t, alpha_bar, alpha_bar_prev)[::-1]

    def second_wrong(x0, x_t, alpha_bar, alpha_bar_prev):
        mean, variance = noise.posterior(x0, x_t, alpha_bar, alpha_bar_prev)
        return mean, variance.sqrt()

    assert examine(exercise, swapped).rung == "shape"
    assert "Result[1]" in examine(exercise, second_wrong).sentence
    assert "one" not in examine(exercise, lambda x0, x_t, alpha_bar, alpha_bar_prev: (x0,)).sentence


# --- methods -----------------------------------------------------------------------------------------------------


def _features(g: torch.Generator, size: int) -> Case:
    return Case(normal(g, 2 + size, 4, 3, 5), normal(g, 2 + size, 6), build={"channels": 4, "condition_size": 6})


def _no_one(self: condition.FiLM, h: Tensor, c: Tensor) -> Tensor:
    scale, shift = self.project(c)[:, :, None, None].chunk(2, dim=1)
    return h * scale + shift


def _shift_first(self: condition.FiLM, h: Tensor, condition: Tensor) -> Tensor:
    shift, scale = self.project(condition)[:, :, None, None].chunk(2, dim=1)
    return h * (1 + scale) + shift


def _film(**changes: Any) -> Exercise:
    mistakes = [Mistake("no one", _no_one, "ONE"), Mistake("shift first", _shift_first, "SWAPPED")]
    return _exercise(**{"id": "condition.FiLM.forward", "case": _features, "mistakes": mistakes, **changes})


class FiLM(nn.Module):
    """A learner's class."""

    def __init__(self, channels: int, condition_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(condition_size, 2 * channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.project(condition)[:, :, None, None].chunk(2, dim=1)
        return h + h * scale + shift


def test_a_class_is_judged_by_one_method_with_the_references_weights() -> None:
    assert examine(_film(), FiLM).passed
    assert examine(_film(), type("FiLM", (FiLM,), {"forward": _no_one})).rung == "signature"
    for name, sentence in [("no one", "ONE"), ("shift first", "SWAPPED")]:
        assert examine(_film(), _film().adopt(_film().mistake(name).function)).help == sentence


def test_a_class_that_was_changed_elsewhere_gets_a_sentence() -> None:
    class Renamed(FiLM):
        def __init__(self, channels: int, condition_size: int) -> None:
            super().__init__(channels, condition_size)
            self.linear = self.__dict__["_modules"].pop("project")

    class Larger(FiLM):
        def __init__(self, channels: int, condition_size: int) -> None:
            super().__init__(channels + 1, condition_size)

    class NoRoom(FiLM):
        def __init__(self, channels: int) -> None:
            super().__init__(channels, 3)

    class Empty(nn.Module):
        def __init__(self, channels: int, condition_size: int) -> None:
            super().__init__()

    class Cut(FiLM):
        def forward(self, h: Tensor, condition: Tensor) -> Tensor:
            with torch.no_grad():
                weight = self.project(condition)
            scale, shift = weight[:, :, None, None].chunk(2, dim=1)
            return h * (1 + scale) + shift

    class Stub(FiLM):
        def forward(self, h: Tensor, condition: Tensor) -> Tensor:
            raise NotImplementedError

    words = {Renamed: "no weights called project.weight", Larger: "(10, 6); (8, 6)", NoRoom: "cannot be built"}
    for answer, part in words.items():
        report = examine(_film(), answer)
        assert report.rung == "runs"
        assert part in report.sentence
    assert not examine(_film(), Empty).passed
    assert not examine(_film(), Stub).attempted
    assert "no gradient reaches condition" in examine(_film(), Cut).sentence


def test_a_method_of_a_plain_class_can_be_an_exercise() -> None:
    def case(g: torch.Generator, size: int) -> Case:
        t = torch.randint(10, (2 + size,), generator=g)
        x0 = normal(g, 2 + size, 3)
        return Case(x0, normal(g, *x0.shape), t, build={"betas": noise.ddpm_linear_betas(100)})

    exercise = _exercise(id="noise.Diffusion.training_pair", case=case, mistakes=[])
    assert examine(exercise, noise.Diffusion).passed
    broken = exercise.adopt(lambda self, x0, eps, t: (x0, eps))
    assert examine(exercise, broken).rung == "values"


# --- debugging exercises -----------------------------------------------------------------------------------------


def test_a_case_that_the_library_cannot_do_is_the_authors_fault() -> None:
    exercise = _exercise(case=lambda g, size: Case(normal(g, 2, 3), normal(g, 2, 3), uniform(g, 5)))
    with pytest.raises(RuntimeError, match="library's own version fails"):
        examine(exercise, right)


def test_a_debugging_exercise_shows_the_broken_code_and_does_not_tell() -> None:
    exercise = _film(id="condition.bug", reference="condition.FiLM.forward", broken="shift first")
    space = _run(exercise.needs(), exercise.stub_source())
    assert "class FiLM" in exercise.stub_source()
    assert "_shift_first" not in exercise.stub_source()
    report = examine(exercise, space["FiLM"])
    assert report.rung == "values"
    assert "SWAPPED" not in report.text()
    assert "when you were given it" in report.text()
    assert examine(exercise, exercise.adopt(_no_one)).help == "ONE"
    function = _exercise(broken="no root")
    assert "def add_noise(x0: Tensor" in function.stub_source()
    with pytest.raises(ValueError, match="not lambda"):
        _exercise(broken="no expand").stub_source()


# --- source as text ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["noise.add_noise", "noise.Diffusion.training_pair", "embed.TimeEmbedder.forward"])
def test_the_solution_and_its_imports_run_on_their_own(path: str) -> None:
    space = _run(imports_for(path), source_of(path))
    assert resolve(path).name in space
    stub = _run(imports_for(path), stub_of(path))
    assert resolve(path).name in stub
    assert "raise NotImplementedError" in stub_of(path)


def test_a_wrong_path_gets_a_sentence() -> None:
    for path, words in [
        ("noise.nope", "nothing called nope"),
        ("nowhere.f", "no module nowhere"),
        ("noise", "looks like"),
    ]:
        with pytest.raises(ValueError, match=words):
            resolve(path)


def _run(imports: list[str], text: str) -> dict[str, Any]:
    """Run a piece of source in an empty namespace, as a fresh notebook would."""
    space: dict[str, Any] = {"__name__": "__main__"}
    exec("\n".join([*imports, text]), space)
    return space


# --- check, score, guesses, prose, progress ----------------------------------------------------------------------


def _to_pixels(images: Tensor) -> Tensor:
    return torch.clamp((images + 1) / 2, 0, 1)


def _wrong_pixels(images: Tensor) -> Tensor:
    return images


def _untouched(images: Tensor) -> Tensor:
    raise NotImplementedError


def test_check_returns_what_the_lesson_goes_on_with(
    capsys: pytest.CaptureFixture[str], own_progress: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert check("noise.to_pixels", _untouched) is noise.to_pixels
    assert check("noise.to_pixels", noise.to_pixels) is noise.to_pixels
    assert not own_progress.exists()
    assert check("noise.to_pixels", _wrong_pixels) is noise.to_pixels
    assert check("noise.to_pixels", _to_pixels) is _to_pixels
    check("noise.to_pixels", _wrong_pixels)
    entry = json.loads(own_progress.read_text())["exercises"]["noise.to_pixels"]
    assert entry == {"passed": True, "tries": 3, "last": "values"}
    text = capsys.readouterr().out
    assert [line[0] for line in text.splitlines() if not line.startswith(" ")] == ["○", "✓", "✗", "✓", "✗"]
    score("00")
    assert "1 / 1" in capsys.readouterr().out
    score()
    assert LESSONS["00"].title in capsys.readouterr().out
    with pytest.raises(KeyError, match=r"noise\.to_pixels"):
        check("noise.to_pixel", _to_pixels)
    monkeypatch.setenv("LESSON_STRICT", "1")
    for answer in (_untouched, _wrong_pixels):
        with pytest.raises(CheckFailed):
            check("noise.to_pixels", answer)
    assert check("noise.to_pixels", _to_pixels) is _to_pixels


def test_progress_draws_the_map_with_the_points(
    capsys: pytest.CaptureFixture[str], own_progress: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(diagrams, "course_map", lambda **given: drawn.append(given))
    worth = {number: sum(e.points for e in REGISTRY.values() if e.lesson == number) for number in LESSONS}
    progress()
    check("noise.to_pixels", _wrong_pixels)
    progress()
    assert drawn[0] == drawn[1]
    assert drawn[0]["here"] == "00"
    assert drawn[0]["points"] == {number: (0, points) for number, points in worth.items()}
    check("noise.to_pixels", _to_pixels)
    capsys.readouterr()
    progress()
    assert drawn[2]["here"] == "01"
    assert drawn[2]["points"] == drawn[0]["points"] | {"00": (1, 1)}
    assert "00 1 of 1, 01 0 of" in drawn[2]["alt"]
    text = capsys.readouterr().out
    assert f"1 of {sum(worth.values())} points" in text
    assert "lesson 01 · Noise and flow" in text
    own_progress.write_text(json.dumps({"exercises": {key: {"passed": True} for key in REGISTRY}}))
    progress()
    assert drawn[3]["here"] is None
    assert "Every exercise" in capsys.readouterr().out


def test_a_lesson_that_is_not_on_the_map_is_named(
    capsys: pytest.CaptureFixture[str], own_progress: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(diagrams.LESSONS, "10")
    monkeypatch.setattr(diagrams, "BUILDS_ON", [pair for pair in diagrams.BUILDS_ON if "10" not in pair])
    progress()
    assert "10 · MMDiT, which is not on the map: 0 of" in capsys.readouterr().out


def test_the_map_has_the_lessons_of_the_course() -> None:
    assert {number: title for number, (title, *_) in diagrams.LESSONS.items()} == {
        number: card.title for number, card in LESSONS.items()
    }


def _course_of(monkeypatch: pytest.MonkeyPatch) -> None:
    questions = {
        "q1": Question(
            id="q1", lesson="00", text="Which?", choices=("a", "b"), answer=lambda: "b", because="So it is."
        ),
        "q2": Question(id="q2", lesson="00", text="How many?", unit="steps"),
    }
    written = Prose(id="w1", lesson="00", text="Why?", points=2, rubric=("a reason: 2",), min_words=3, max_words=5)
    monkeypatch.setattr(ask, "QUESTIONS", questions)
    monkeypatch.setattr(ask, "PROSE", {"w1": written})


def test_guesses_are_kept_and_compared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _course_of(monkeypatch)
    predict("q1")
    revisit("q1")
    revisit("q2")
    text = capsys.readouterr().out
    assert "No guess yet" in text
    assert "You made no guess" in text
    assert "no measurement" in text
    predict("q1", "c")
    predict("q2", "many")
    assert "none of the choices" in capsys.readouterr().out
    predict("q1", "b")
    predict("q2", 12)
    capsys.readouterr()
    revisit("q1")
    revisit("q2", 20.0)
    text = capsys.readouterr().out
    for part in (
        "You guessed: b",
        "Measured: b",
        "As you thought",
        "So it is.",
        "guessed: 12 steps",
        "Measured: 20 steps",
    ):
        assert part in text


def test_buttons_keep_a_guess_where_a_notebook_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    display = pytest.importorskip("IPython.display")
    pytest.importorskip("ipywidgets")
    _course_of(monkeypatch)
    monkeypatch.setenv("LESSON_HEADLESS", "0")
    monkeypatch.setattr(display, "display", shown.append)
    predict("q1")
    field, row = shown[0].children
    button, note = row.children
    button.click()
    assert note.value == "Choose one first."
    field.value = "a"
    button.click()
    assert saved.load()["guesses"] == {"q1": "a"}
    predict("q2")
    predict("q1")
    assert shown[-1].children[0].value == "a"


def test_prose_has_bounds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _course_of(monkeypatch)
    prose("w1")
    prose("w1", "too short")
    prose("w1", "this is far too long to keep")
    assert saved.load()["prose"] == {}
    prose("w1", " because it is so ")
    assert saved.load()["prose"]["w1"] == {"text": "because it is so", "words": 4}
    assert [line[0] for line in capsys.readouterr().out.splitlines() if line[0] != " "] == ["○", "✗", "✗", "✓"]
    score("00")
    assert "written" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"exercises": 3}', b"\xff\xfe\x00", b"null"])
def test_a_damaged_progress_file_is_set_aside(
    content: bytes, own_progress: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_progress.write_bytes(content)
    check("noise.to_pixels", _to_pixels)
    assert "damaged" in capsys.readouterr().out
    assert own_progress.with_name("progress.json.broken").read_bytes() == content
    assert saved.load()["exercises"]["noise.to_pixels"]["passed"] is True


def test_odd_entries_and_places_do_not_stop_a_lesson(
    own_progress: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_progress.write_text('{"exercises": {"noise.to_pixels": 7, "gone": {"passed": true}}, "guesses": {"q": [1]}}')
    score()
    check("noise.to_pixels", _to_pixels)
    own_progress.write_text('{"exercises": {"noise.to_pixels": {"passed": "maybe", "tries": "many"}}}')
    check("noise.to_pixels", _wrong_pixels)
    monkeypatch.setenv("LESSON_PROGRESS", str(own_progress.parent))
    check("noise.to_pixels", _to_pixels)
    assert "the lesson goes on" in capsys.readouterr().out


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_progress_survives_a_writer_that_is_killed(own_progress: Path) -> None:
    writer = textwrap.dedent("""
        import saved
        for i in range(10**9):
            saved.record("prose", "w", {"text": "x" * 200_000, "words": i})
    """)
    environment = {
        **os.environ,
        "LESSON_PROGRESS": str(own_progress),
        "PYTHONPATH": str(Path(saved.__file__).parent),
    }
    seen = []
    for pause in (0.001, 0.002, 0.003, 0.005, 0.02, 0.031, 0.047, 0.1):
        process = subprocess.Popen([sys.executable, "-c", writer], env=environment)
        started = time.monotonic()
        stamp = own_progress.stat().st_mtime_ns if own_progress.exists() else 0
        while (
            not own_progress.exists() or own_progress.stat().st_mtime_ns == stamp
        ) and time.monotonic() < started + 60:
            time.sleep(0.01)
        time.sleep(pause)
        process.kill()
        process.wait()
        seen.append(len(json.loads(own_progress.read_text())["prose"]["w"]["text"]))
    assert seen == [200_000] * 8
    check("noise.to_pixels", _to_pixels)
    assert set(saved.load()["prose"]) == {"w"}


# --- the registry ------------------------------------------------------------------------------------------------


def _module(number: str, *exercises: Exercise) -> Any:
    return SimpleNamespace(
        __name__=f"lesson_{number}", LESSON=LessonCard(number, "s", "T", "Q?", 10), EXERCISES=exercises
    )


def test_the_registry_refuses_what_would_confuse() -> None:
    course = collect([_module("01", _exercise(), _exercise(id="b", points=4))])
    assert course.lessons["01"].points == 7
    with pytest.raises(ValueError, match="used twice"):
        collect([_module("01", _exercise(), _exercise())])
    with pytest.raises(ValueError, match="stands in lesson_02"):
        collect([_module("02", _exercise())])
    with pytest.raises(ValueError, match="two lessons 01"):
        collect([_module("01"), _module("01")])
    for wrong in (
        {"difficulty": 4},
        {"lesson": "1"},
        {"points": 0},
        {"broken": "nope"},
        {"mistakes": [Mistake("a", right, "")] * 2},
    ):
        with pytest.raises(ValueError):
            _exercise(**wrong)


def _answers(lesson: str) -> dict[str, list[Any]]:
    path = ANSWERS / f"lesson_{lesson}.py"
    spec = importlib.util.spec_from_file_location(f"answers_{lesson}", path)
    assert path.exists(), f"{path} is missing"
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.ANSWERS  # type: ignore[no-any-return]


every_exercise = pytest.mark.parametrize("exercise", REGISTRY.values(), ids=list(REGISTRY))


@every_exercise
def test_two_different_right_answers_pass(exercise: Exercise) -> None:
    answers = _answers(exercise.lesson).get(exercise.id, [])
    assert len(answers) >= 2, f"{exercise.id} needs at least two right answers in tests/answers"
    sources = {"".join(inspect.getsource(answer).split()) for answer in answers}
    assert len(sources) == len(answers), "two answers are the same"
    for answer in answers:
        assert answer is not exercise.target
        assert answer is not exercise.resolved.function
        if exercise.resolved.method and not inspect.isclass(answer):
            answer = exercise.adopt(answer)
        report = examine(exercise, answer)
        assert report.passed, report.text()


@every_exercise
def test_each_mistake_fails_with_its_own_sentence(exercise: Exercise) -> None:
    assert len(exercise.mistakes) >= 3, f"{exercise.id} needs at least three mistakes"
    sentences = [mistake.sentence for mistake in exercise.mistakes]
    assert len(set(sentences)) == len(sentences)
    for mistake in exercise.mistakes:
        assert len(mistake.sentence) > 30
        report = examine(exercise, exercise.adopt(mistake.function))
        assert report.mistake == mistake.name, f"{mistake.name}: {report.text()}"
        assert (report.help == mistake.sentence) == (mistake.name != exercise.broken)


@every_exercise
def test_the_library_passes_and_no_argument_does(exercise: Exercise) -> None:
    for seed in range(5):
        report = examine(exercise, exercise.target, seed)
        assert report.passed, report.text()
    for name in bound_arguments(exercise, next(iter(exercise.cases(0, 1)))):

        def returns_it(*args: Any, name: str = name) -> Any:
            reference = exercise.resolved
            return inspect.signature(reference.function).bind(*args).arguments[name]

        assert not examine(exercise, exercise.adopt(returns_it)).passed, f"returning {name} passes"


@every_exercise
def test_the_stub_and_the_solution_run_on_their_own(exercise: Exercise) -> None:
    stub = _run(exercise.needs(), exercise.stub_source())[exercise.name]
    report = examine(exercise, stub)
    assert report.attempted == bool(exercise.broken)
    assert not report.passed
    assert examine(exercise, _run(exercise.needs(), exercise.solution_source())[exercise.name]).passed


@every_exercise
def test_cases_come_from_their_seed_and_change_size(exercise: Exercise) -> None:
    def tensors(seed: int) -> list[str]:
        found = []
        for case in exercise.cases(seed):
            found.append(repr([(k, _state(v)) for k, v in {**bound_arguments(exercise, case), **case.build}.items()]))
        return found

    assert tensors(3) == tensors(3)
    assert tensors(3) != tensors(4)
    assert len(set(tensors(3))) == 4


def _state(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return repr(value)
    if isinstance(value, torch.Generator):
        return value.get_state().sum()
    if isinstance(value, nn.Module):
        return [(name, tuple(weight.shape)) for name, weight in value.state_dict().items()]
    return value if isinstance(value, Tensor | int | float | str | list | tuple) else type(value)


@pytest.mark.parametrize("as_result", [float, int, torch.tensor])
def test_a_wrong_number_is_told_apart_from_the_right_one(as_result):
    sentence = difference(array(as_result(7)), array(as_result(5)), 1e-5)
    assert "you return 7, 5 is expected" in sentence


def test_imports_of_one_module_are_joined_without_repeats():
    lines = ["from lesson_lib.vae import Decoder, VAEConfig", "from lesson_lib.vae import VAEConfig", "import torch"]
    assert merge_imports(lines) == ["import torch", "from lesson_lib.vae import Decoder, VAEConfig"]
