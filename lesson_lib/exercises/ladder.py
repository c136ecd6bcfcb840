"""The ladder that an answer climbs, rung by rung, and the report of how far it came and which mistake it looks like."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from lesson_lib.exercises.attempt import (
    Attempt,
    CannotBuild,
    attempt,
    attempt_gradients,
    makes_tensors_without_device,
    named_arguments,
    prepared,
)
from lesson_lib.exercises.compare import array, close, difference, equal, flatten, is_number, kind, shape_text
from lesson_lib.exercises.core import Case, Exercise, Mistake, counted
from lesson_lib.exercises.guard import TimeLimit, call, learner_line


@dataclass(frozen=True)
class Report:
    """How far an answer came: the rung it failed on (empty when it passed), in which way, and what may help.

    mistake: name of the known mistake that behaves in the same way over all cases. help: that mistake's sentence.
    """

    exercise: Exercise
    rung: str = ""
    sentence: str = ""
    mistake: str = ""
    help: str = ""
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether every rung was climbed."""
        return not self.rung

    @property
    def attempted(self) -> bool:
        """Whether there was anything to judge."""
        return self.rung != "attempted"

    def text(self) -> str:
        """Return the report as the few plain lines that check prints."""
        exercise = self.exercise
        head = f"{exercise.label} {exercise.title}"
        if self.passed:
            lines = [f"✓ {head}: right. {exercise.points} of {counted(exercise.points, 'point')}."]
        elif not self.attempted:
            worth = counted(exercise.points, "point")
            lines = [f"○ {head}: not attempted yet ({worth}). The cells below use the library's version."]
        else:
            rungs = list(_JUDGES)
            climbed = [f"{rung} ✓" for rung in rungs[1 : rungs.index(self.rung)]]
            lines = [f"✗ {head}: not yet.", "  " + " · ".join([*climbed, f"{self.rung} ✗"]), f"  {self.sentence}"]
            lines += [f"  → {self.help}"] if self.help else []
            lines += ["  The cells below use the library's version; change yours and run its cell and this one again."]
        if self.printed:
            first = self.printed.strip().splitlines()
            lines += [f"  Your code printed: {line}" for line in first[:3]]
            lines += [f"  … and {len(first) - 3} more lines"] if len(first) > 3 else []
        return "\n".join(lines)


@dataclass
class Climb:
    """One answer on its way up, beside the library's on the same cases."""

    trial: Trial
    answer: Any
    tries: list[Attempt] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.exercise, self.cases = self.trial.exercise, self.trial.cases
        for case in self.cases:
            self.tries.append(attempt(self.exercise, self.answer, case))
            if isinstance(self.tries[-1].error, TimeLimit):
                break

    @cached_property
    def gradients(self) -> list[Attempt]:
        """What the answer sends back."""
        return [attempt_gradients(self.exercise, self.answer, case) for case in self.cases]

    def leaves(self) -> list[tuple[Case, str, Any, Any]]:
        """List (case, place, got, expected) for every tensor and number that came back."""
        found = []
        for case, got, want in zip(self.cases, self.tries, self.trial.wanted, strict=True):
            own, expected = flatten(got.value), flatten(want.value)
            found += [(case, place, own[place], expected[place]) for place in expected]
        return found

    def first_failure(self) -> tuple[str, str]:
        """Return the first rung that fails and its sentence, or two empty strings."""
        for rung, judge in _JUDGES.items():
            sentence = judge(self)
            if sentence:
                return rung, sentence
        return "", ""


@dataclass
class Trial:
    """Some cases of an exercise with what the library's own version and every known mistake do on them.

    All of it is worked out when it is first asked for, and kept: a class of students climbs on the same cases.
    """

    exercise: Exercise
    cases: list[Case]
    _known: dict[str, tuple[Climb, str]] = field(default_factory=dict)

    @cached_property
    def wanted(self) -> list[Attempt]:
        """What the library's own version does."""
        return _reference_tries(self.exercise, self.cases, attempt)

    @cached_property
    def wanted_gradients(self) -> list[Attempt]:
        """What the library's own version sends back."""
        return _reference_tries(self.exercise, self.cases, attempt_gradients)

    def known(self, mistake: Mistake) -> tuple[Climb, str]:
        """Return a known mistake's climb and the rung it falls from."""
        if mistake.name not in self._known:
            climb = Climb(self, self.exercise.adopt(mistake.function))
            self._known[mistake.name] = climb, climb.first_failure()[0]
        return self._known[mistake.name]

    def examine(self, answer: Any) -> Report:
        """Climb the ladder with an answer, and name the known mistake that behaves the same."""
        exercise = self.exercise
        sentence = _wrong_kind(exercise, answer)
        if sentence:
            return Report(exercise, "signature", sentence)
        climb = Climb(self, answer)
        rung, sentence = climb.first_failure()
        printed = next((one.outcome.printed for one in climb.tries if one.outcome.printed), "")
        if rung in ("", "attempted", "signature"):
            return Report(exercise, rung, sentence, printed=printed)
        for mistake in exercise.mistakes:
            known, fallen = self.known(mistake)
            if fallen == rung and _alike(climb, known, rung):
                told = mistake.sentence
                if mistake.name == exercise.broken:
                    told = (
                        "It still does what the code did when you were given it. Read it line by line against the text."
                    )
                return Report(exercise, rung, sentence, mistake.name, told, printed)
        return Report(exercise, rung, sentence, printed=printed)


def examine(exercise: Exercise, answer: Any, seed: int = 0, n: int = 4) -> Report:
    """Climb the ladder with an answer, on n random cases, and name the known mistake that behaves the same.

    answer: a function, or the whole class where the exercise is a method.
    """
    return Trial(exercise, list(exercise.cases(seed, n))).examine(answer)


def _reference_tries(exercise: Exercise, cases: list[Case], how: Callable[..., Attempt]) -> list[Attempt]:
    tries = [how(exercise, exercise.target, case) for case in cases]
    for one in tries:
        if one.error:
            raise RuntimeError(f"{exercise.id}: the library's own version fails on a case") from one.error
    return tries


def _alike(a: Climb, b: Climb, rung: str) -> bool:
    """Whether two answers do the same in every case: results, errors, changed arguments and, there, gradients."""
    tolerance = a.exercise.tolerance
    for one, other in zip(a.tries, b.tries, strict=False):
        if _told(one.error) != _told(other.error):
            return False
        if one.changed != other.changed or not equal(one.value, other.value, tolerance):
            return False
    if rung != "gradient":
        return len(a.tries) == len(b.tries)
    pairs = zip(a.gradients, b.gradients, strict=True)
    return all(x.attached == y.attached and equal(x.gradients, y.gradients, 10 * tolerance) for x, y in pairs)


def _told(error: BaseException | None) -> tuple[str, str]:
    return type(error).__name__, str(error)


# The rungs: each returns a sentence, or an empty string when the answer stands on it.


def _wrong_kind(exercise: Exercise, answer: Any) -> str:
    name, is_class = exercise.name, inspect.isclass(answer)
    if exercise.resolved.method:
        return "" if is_class else f"check needs the class {name} itself, as in check({exercise.id!r}, {name})."
    if is_class or not callable(answer):
        return f"check needs the function {name} itself, without brackets after it; it was given {kind(answer)}."
    return ""


def _attempted(climb: Climb) -> str:
    return "not attempted yet" if any(isinstance(t.error, NotImplementedError) for t in climb.tries) else ""


def _signature(climb: Climb) -> str:
    reference = climb.exercise.resolved
    answer = getattr(climb.answer, reference.method, None) if reference.method else climb.answer
    if answer is None:
        return f"Your class {reference.name} has no method {reference.method}."
    try:
        own = inspect.signature(answer).parameters
    except (TypeError, ValueError):
        return ""
    wanted = inspect.signature(reference.function).parameters
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in own.values()):
        return ""
    full = f"{reference.method or reference.name}({', '.join(wanted)})"
    extra = [name for name, p in own.items() if name not in wanted and p.default is p.empty]
    if [name for name in own if name in wanted] != list(wanted) or extra:
        return f"The arguments are ({', '.join(own)}); the rest of the course calls {full}."
    for name, parameter in wanted.items():
        if parameter.default is not parameter.empty and repr(own[name].default) != repr(parameter.default):
            return f"The argument {name} must have the default {parameter.default!r}, as in the stub."
    return ""


def _runs(climb: Climb) -> str:
    # The library's version first: where a case itself is wrong, the author must hear of it, not the learner.
    assert len(climb.trial.wanted) == len(climb.cases)
    for case, one in zip(climb.cases, climb.tries, strict=False):
        error = one.error
        if isinstance(error, TimeLimit):
            return f"No answer after {climb.exercise.seconds:g} seconds. Is there a loop that does not end?"
        if isinstance(error, CannotBuild):
            return str(error)
        if error is not None:
            first = (str(error).strip().splitlines() or [""])[0]
            line = getattr(error, "learner_line", "") or learner_line(error.__traceback__)
            place = f"\n  On {line}" if line else ""
            return f"It stops with {type(error).__name__}: {first}{place}{_for_shapes(climb, case)}"
    return ""


def _for_shapes(climb: Climb, case: Case, start: str = "\n  Called with ") -> str:
    shapes = [f"{name} {tuple(t.shape)}" for name, t in named_arguments(climb.exercise, case).items()]
    return start + ", ".join(shapes) + "." if shapes else ""


def _returns(climb: Climb) -> str:
    for got, want in zip(climb.tries, climb.trial.wanted, strict=True):
        if _family(got.value) != _family(want.value):
            advice = {
                "nothing (None)": " Is there a return at the end?",
                "a numpy array": " Stay in torch: numpy cuts the gradient's way back.",
            }
            return f"You return {kind(got.value)}; {kind(want.value)} is expected.{advice.get(kind(got.value), '')}"
        own, expected = flatten(got.value), flatten(want.value)
        if own.keys() != expected.keys():
            return f"You return {kind(got.value)}, {_keys(own)}; expected is {kind(want.value)}, {_keys(expected)}."
        for place in expected:
            if _family(own[place]) != _family(expected[place]):
                return f"Result{place} is {kind(own[place])}; {kind(expected[place])} is expected."
    return ""


def _keys(leaves: dict[str, Any]) -> str:
    return ", ".join(place or "one" for place in leaves)


def _family(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "sequence"
    return kind(value)


def _shape(climb: Climb) -> str:
    for case, place, got, want in climb.leaves():
        if isinstance(want, Tensor) and got.shape != want.shape:
            told = f"Your result{place} has shape {shape_text(got)}; {shape_text(want)} is expected"
            return told + (_for_shapes(climb, case, " for ") or ".")
    return ""


def _dtype_and_device(climb: Climb) -> str:
    for _, place, got, want in climb.leaves():
        if isinstance(want, Tensor):
            if got.dtype != want.dtype:
                own, expected = (str(t.dtype).removeprefix("torch.") for t in (got, want))
                return f"Your result{place} is {own}; {expected} is expected."
            if got.device != want.device:
                return f"Your result{place} is on the device {got.device}; {want.device} is expected."
    return ""


def _unchanged(climb: Climb) -> str:
    for got, want in zip(climb.tries, climb.trial.wanted, strict=True):
        changed = [name for name in got.changed if name not in want.changed]
        if changed:
            names = " and ".join(changed)
            return f"It changes its argument {names}: +=, mul_ or x[…] = … reach the caller's tensor. Make a new one."
    return ""


def _finite(climb: Climb) -> str:
    for _, place, got, want in climb.leaves():
        if isinstance(want, Tensor) or is_number(want):
            own, expected = array(got), array(want)
            bad = ~np.isfinite(own) & np.isfinite(expected)
            if bad.any():
                named = "NaN" if np.isnan(own[bad]).any() else "infinite"
                told = f"{int(bad.sum())} of the {own.size} numbers in your result{place} are {named}."
                return f"{told} Is something divided by zero, or a root or a logarithm taken of a number too small?"
    return ""


def _values(climb: Climb) -> str:
    if not climb.exercise.values:
        return ""
    for case, place, got, want in climb.leaves():
        if isinstance(want, Tensor) or is_number(want):
            own, expected = array(got), array(want)
            if not close(own, expected, climb.exercise.tolerance):
                told = difference(own, expected, climb.exercise.tolerance)
                return (f"Result{place}: {told}" if place else told[0].upper() + told[1:]) + _for_shapes(climb, case)
        elif got != want:
            return f"Your result{place} is {got!r}; {want!r} is expected."
    return ""


def _properties(climb: Climb) -> str:
    for item in climb.exercise.properties:
        for case in climb.cases:
            fresh = case.copy()

            def ask(fresh: Case = fresh) -> str | None:
                return item.function(prepared(climb.exercise, climb.answer, fresh), fresh)  # noqa: B023 - called at once

            outcome = call(ask, climb.exercise.seconds, case.seed)
            if outcome.error:
                return f"{item.name}: it stops with {type(outcome.error).__name__}: {outcome.error}"
            if outcome.value:
                return f"{item.name}: {outcome.value}"
    return ""


def _gradient(climb: Climb) -> str:
    if not climb.exercise.gradient:
        return ""
    for got, want in zip(climb.gradients, climb.trial.wanted_gradients, strict=True):
        if not any(g is not None for g in want.gradients.values()):
            continue
        if got.error:
            return f"The values are right, but with gradients it stops: {type(got.error).__name__}: {got.error}"
        if not got.attached:
            return (
                "The values are right, but no gradient flows back: detach(), no_grad(), item() and .data cut its way."
            )
        for name, expected in want.gradients.items():
            sentence = _gradient_differs(name, got.gradients.get(name), expected, climb.exercise.tolerance)
            if sentence:
                return sentence
    return ""


def _gradient_differs(name: str, got: Tensor | None, want: Tensor | None, tolerance: float) -> str:
    own = array(got) if got is not None else None
    expected = array(want) if want is not None else None
    if expected is None or not expected.any():
        stray = own is not None and own.any()
        return f"A gradient flows back to {name}, where none should." if stray else ""
    if own is None or not own.any():
        return f"The values are right, but no gradient reaches {name}: something on the way cuts it."
    # A gradient adds up rounding errors of many terms.
    if close(own, expected, 100 * tolerance):
        return ""
    return f"The values are right, but the gradient of {name} is not: {difference(own, expected, 100 * tolerance)}"


def _other_devices(climb: Climb) -> str:
    """Try the smallest case on torch's device "meta", which computes no numbers but refuses to mix devices.

    Only where there is reason to: the device's first use costs two seconds of imports.
    """
    case = climb.cases[0]
    if not makes_tensors_without_device(climb.exercise, climb.answer, case):
        return ""
    want = attempt(climb.exercise, climb.exercise.target, case, "meta")
    devices = {str(t.device) for t in flatten(want.value).values() if isinstance(t, Tensor)}
    if want.error or devices != {"meta"}:
        return ""
    got = attempt(climb.exercise, climb.answer, case, "meta")
    mixed = isinstance(got.error, RuntimeError) and "device" in str(got.error) and "meta" in str(got.error)
    left = any(isinstance(t, Tensor) and t.device.type == "cpu" for t in flatten(got.value).values())
    if (not got.error and not left) or (got.error and not mixed):
        return ""
    own = next(iter(named_arguments(climb.exercise, case)), "x")
    return (
        f"Right on a CPU, but it makes a tensor there by itself and would fail on a GPU. Give it device={own}.device."
    )


_JUDGES: dict[str, Callable[[Climb], str]] = {
    "attempted": _attempted,
    "signature": _signature,
    "runs": _runs,
    "returns": _returns,
    "shape": _shape,
    "dtype and device": _dtype_and_device,
    "arguments unchanged": _unchanged,
    "finite": _finite,
    "values": _values,
    "properties": _properties,
    "gradient": _gradient,
    "other devices": _other_devices,
}
