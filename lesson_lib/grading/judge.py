"""Grading one notebook: read and slice it in a sandbox, run each answer in another, climb the ladder with it here."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import hashlib
import inspect
import json
import marshal
import random
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from lesson_lib import ROOT
from lesson_lib.exercises import LESSONS, PROSE, REGISTRY
from lesson_lib.exercises.core import Exercise, Prose
from lesson_lib.exercises.guard import TimeLimit, call
from lesson_lib.exercises.ladder import Report, Trial
from lesson_lib.grading import slicing, wire
from lesson_lib.grading.marks import DELEGATED, EMPTY, FAILED, MISSING, PASSED, Mark, Notebook, Written
from lesson_lib.grading.remote import ENDS, Ended, LibraryCalled, RemoteAnswer
from lesson_lib.grading.sandbox import Sandbox, Session

CASES, MORE = 4, 2  # of the sizes that check tries, which reach every branch, and of larger ones
SECONDS = 60.0  # to read a notebook, or to run what an answer depends on

# What a student is told for a rung; the ladder's own sentences may hold numbers that were expected.
ADVICE = {
    "runs": "It stops with an error.",
    "returns": "It returns something of another kind than the text of the exercise says.",
    "shape": "The result has another shape than the text of the exercise says.",
    "finite": "Some of the numbers are NaN or infinite: a division by zero, or a root or logarithm of too small a one?",
    "values": "The numbers are not the ones that are asked for.",
    "gradient": "The values are right, but the gradients are not: something cuts or changes their way back.",
}
PLAIN = ("signature", "dtype and device", "arguments unchanged", "other devices")


def trials(lesson: str, seed: int) -> dict[str, Trial]:
    """Return the cases of a lesson's exercises for one seed: sizes and numbers both come from it."""
    found = {}
    for exercise in REGISTRY.values():
        if exercise.lesson == lesson:
            draw = random.Random(f"{seed}/{exercise.id}")
            patient = dataclasses.replace(exercise, seconds=max(10.0, 2 * exercise.seconds))
            cases = patient.cases(draw.getrandbits(40), CASES)
            others = patient.cases(draw.getrandbits(40), MORE, CASES + draw.randrange(3))
            found[exercise.id] = Trial(patient, [*cases, *others])
    if not found:
        raise ValueError(f"there is no lesson {lesson!r} with exercises; there are {', '.join(LESSONS)}")
    return found


class Judge:
    """Grades notebooks of one lesson, one after the other, in one sandbox's sessions."""

    def __init__(self, box: Sandbox, lesson: str, seed: int, questions: Sequence[Prose] = ()) -> None:
        self._box, self.lesson, self.seed = box, lesson, seed
        self._trials = trials(lesson, seed)
        self.questions = {p.id: p for p in [*(p for p in PROSE.values() if p.lesson == lesson), *questions]}

    def grade(self, key: str, data: bytes) -> Notebook:
        """Return the marks of one notebook's bytes; whatever it holds, this comes back."""
        started = time.monotonic()
        digest = hashlib.sha256(data).hexdigest()
        found = self._read(data)
        problems = [str(one)[:500] for one in found.get("problems", [])]
        marks = []
        for exercise, trial in self._trials.items():
            begun = time.monotonic()
            mark = self._mark(trial, found.get("answers", {}).get(exercise, []))
            marks.append(dataclasses.replace(mark, seconds=round(time.monotonic() - begun, 3)))
        if not problems and all(mark.status == MISSING for mark in marks):
            problems.append(f"It holds none of the exercises of lesson {self.lesson}.")
        written = [
            _written(question, found.get("words", {}).get(question.id, {})) for question in self.questions.values()
        ]
        return Notebook(
            key=key,
            student="",
            file="",
            digest=digest,
            lesson=self.lesson,
            seed=self.seed,
            marks=tuple(marks),
            written=tuple(written),
            problems=tuple(problems),
            seconds=round(time.monotonic() - started, 3),
        )

    # reading

    def _read(self, data: bytes) -> dict[str, Any]:
        """Let a sandbox parse the file; a file that breaks the parser breaks only the sandbox."""
        message = {"do": "read", "code": _slicing(), "data": data, "wanted": self._wanted(), "seconds": SECONDS}
        with self._box.session() as session:

            def ask() -> Any:
                wire.send(session.channel, *wire.pack(message)[0])
                return wire.unpack_reply(wire.receive(session.channel))[0]

            outcome = call(ask, SECONDS, 0)
        found = outcome.value.get("value") if outcome.error is None else None
        if isinstance(found, dict):
            return found
        if outcome.error is None:
            why = str(outcome.value.get("error", {}).get("text", "an error"))
        else:
            why = "it takes too long" if isinstance(outcome.error, TimeLimit) else str(outcome.error)
        return {"problems": [f"This notebook cannot be read ({why}). Look at it, or ask for it again."]}

    def _wanted(self) -> dict[str, Any]:
        exercises = [self._trials[key].exercise for key in self._trials]
        imports = {e.name: f"from {e.resolved.module.__name__} import {e.name}" for e in exercises}
        return {
            "exercises": [[e.id, e.name] for e in exercises],
            "imports": imports,
            "given": _given_imports(self.lesson),
            "prose": list(self.questions),
        }

    # one answer

    def _mark(self, trial: Trial, candidates: Sequence[Mapping[str, Any]]) -> Mark:
        """Try the versions of an answer, one after the other, until one is right; else tell of the first that tries."""
        exercise, marks = trial.exercise, []
        if not candidates:
            return Mark(exercise.id, MISSING, advice=f"The notebook does not define {exercise.name}.")
        untouched = [candidate for candidate in candidates if _is_untouched(exercise, candidate)]
        if untouched:
            return Mark(exercise.id, EMPTY, mistake=exercise.broken, advice=_UNTOUCHED)
        if all(candidate.get("imported") for candidate in candidates):
            return Mark(exercise.id, MISSING, advice=f"The notebook imports {exercise.name}, but does not write it.")
        for candidate in candidates:
            if "broken" in candidate:
                told = f"Python cannot read the code of {candidate['broken']}"
                return Mark(exercise.id, FAILED, "runs", advice=told + ".", detail=told)
            mark = self._try(trial, candidate)
            if mark.status == PASSED:
                return mark
            marks.append(mark)
            if "No answer after" in mark.detail:
                break  # what takes too long once is not tried in other versions
        return next((mark for mark in marks if mark.status != EMPTY), marks[0])

    def _try(self, trial: Trial, candidate: Mapping[str, Any]) -> Mark:
        exercise = trial.exercise
        pieces = [(str(label), str(text)) for label, text in candidate["pieces"]]
        source = "\n".join(text.lstrip("\n") for _, text in pieces)
        with self._box.session() as session:
            report = _examine(session, trial, pieces, str(candidate["name"]), bool(candidate["future"]))
        return dataclasses.replace(_judged(exercise, report), source=source[:200_000])


def _written(question: Prose, found: Mapping[str, Any]) -> Written:
    text, note = str(found.get("text", "")), str(found.get("note", "not answered"))
    words = len(text.split())
    if text and not question.min_words <= words <= question.max_words:
        note = f"{words} words; {question.min_words} to {question.max_words} were asked for"
    return Written(question.id, text, words, note)


def _is_untouched(exercise: Exercise, candidate: Mapping[str, Any]) -> bool:
    """Whether the broken code of a debugging exercise stands, as it was handed out, behind its check.

    In a notebook whose cells have changed places another exercise's answer of the same name does not stand in for it.
    """
    if not exercise.broken or not candidate.get("behind"):
        return False
    return any(exercise.stub_source().strip() in str(text) for _, text in candidate["pieces"])


@lru_cache(maxsize=1)
def _given_imports(lesson: str) -> dict[str, str]:
    """Return what the notebook that was handed out imports, name → line, for learners who have lost such a cell."""
    path = ROOT / "notebooks" / f"{lesson}_{LESSONS[lesson].slug}.ipynb"
    found: dict[str, str] = {}
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []:
        text = "".join(cell["source"])
        for node in ast.parse(text).body if cell["cell_type"] == "code" else []:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    line = type(node)(**{**vars(node), "names": [alias]})
                    found[alias.asname or alias.name.split(".")[0]] = ast.unparse(line)
    return found


@lru_cache(maxsize=1)
def _slicing() -> bytes:
    return marshal.dumps(compile(inspect.getsource(slicing), "slicing.py", "exec"))


def _examine(
    session: Session, trial: Trial, pieces: Sequence[tuple[str, str]], name: str, future: bool
) -> Report | Exception:
    """Run an answer and climb with it; return the report, or the error that stopped everything."""
    # The library's own results first: nothing that an answer does can reach them later.
    assert trial.wanted
    assert trial.wanted_gradients or not trial.exercise.gradient
    failures: list[str] = []

    def climb() -> Report:
        remote = RemoteAnswer(session, trial.exercise, pieces, name, future)
        failures.extend(remote.failures)
        if remote.kind == "nothing":
            raise Ended(f"nothing called {name} is there after its cells have run")
        return trial.examine(remote.answer)

    outcome = call(climb, 600, 0)
    found = outcome.value if outcome.error is None else outcome.error
    if isinstance(found, TimeLimit):
        found = Ended("what the answer depends on takes too long")
    if not isinstance(found, Report) and failures:
        found = Ended(f"{found}; before that: {failures[0]}")
    if not isinstance(found, Report | Exception):
        found = Ended(type(found).__name__)
    return found


def _judged(exercise: Exercise, report: Report | Exception) -> Mark:
    """Turn a report into a mark: what to tell the student, and what the instructor."""
    if isinstance(report, LibraryCalled):
        return Mark(exercise.id, DELEGATED, advice=_DELEGATED, detail=str(report))
    if isinstance(report, Exception):
        told = f"It could not be run: {type(report).__name__}: {report}"
        return Mark(exercise.id, FAILED, "runs", advice="It could not be run.", detail=told)
    if report.passed:
        return Mark(exercise.id, PASSED)
    if not report.attempted or (exercise.broken and report.mistake == exercise.broken):
        return Mark(exercise.id, EMPTY, report.rung, report.mistake, _UNTOUCHED)
    if f"{LibraryCalled.__name__}:" in report.sentence:
        return Mark(exercise.id, DELEGATED, report.rung, advice=_DELEGATED, detail=report.sentence)
    detail = report.sentence + (f"\n→ {report.mistake}: {report.help}" if report.mistake else "")
    advice = _advice(report) + (f" {report.help}" if report.mistake else "")
    return Mark(exercise.id, FAILED, report.rung, report.mistake, advice, detail)


_UNTOUCHED = "It is as it was handed out."
_DELEGATED = "It calls the library's own version of what was to be written; that has no points."


def _advice(report: Report) -> str:
    """Say what is wrong without a number of the inputs or of what was expected."""
    if report.rung in PLAIN:
        return report.sentence.splitlines()[0]
    if report.rung == "runs" and report.sentence.startswith("No answer"):
        return report.sentence
    if report.rung == "runs" and report.sentence.startswith(f"It stops with {Ended.__name__}: "):
        return next((f"It stops: {told}." for told in ENDS.values() if told in report.sentence), ADVICE["runs"])
    if report.rung == "runs" and report.sentence.startswith("It stops with"):
        kind, _, rest = report.sentence.removeprefix("It stops with ").partition(":")
        kind = kind if hasattr(builtins, kind) else "an error"
        place = next((line.strip() for line in rest.splitlines() if line.startswith("  On line ")), "")
        return f"It stops with {kind}{': ' + place.removeprefix('On ') if place else ''}."
    if report.rung == "runs":
        return "The class cannot be built: leave its constructor and the names in it as they were."
    if report.rung == "returns" and "nothing (None)" in report.sentence:
        return "It returns nothing. Is there a return at the end?"
    if report.rung == "properties":
        return f"It does not hold what is asked under “{report.sentence.partition(':')[0]}”."
    return ADVICE.get(report.rung, "It does not do what the exercise asks.")
