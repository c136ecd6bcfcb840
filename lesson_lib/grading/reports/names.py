"""What every report shares: the run, and how exercises, questions, numbers and times are written for people."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from lesson_lib.exercises import LESSONS, PROSE, REGISTRY
from lesson_lib.grading.marks import DELEGATED, EMPTY, FAILED, MISSING, PASSED, Grade, Mark, Written

# What a page or a sheet cannot hold: control characters, halves of a pair, code points that are no characters.
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
# They turn the direction of everything after them. The marks U+200E and U+200F, which do not, stay.
_TURNING = re.compile(r"[\u202a-\u202e\u2066-\u2069]")

VERDICTS = {
    PASSED: ("✓", "right"),
    FAILED: ("✗", "not yet"),
    EMPTY: ("○", "not attempted"),
    MISSING: ("○", "not found"),
    DELEGATED: ("✗", "calls the library"),
}
NO_HAND_IN = "Nothing was handed in."
_TOLD = {
    PASSED: "",
    FAILED: "It does not do what the exercise asks.",
    EMPTY: "It stands as it was handed out, so there was nothing to grade.",
    MISSING: "The notebook has no function or class of this name.",
    DELEGATED: "It only calls the library's own function, which is the answer that was asked for, so it has no points.",
}


@dataclass(frozen=True)
class Run:
    """One run of the grader, as the reports describe it.

    started: ISO 8601. seconds: what it took. rubric: one line on weights and lateness, shown to students. complete:
    whether every hand-in was graded. questions: what the instructor's own questions ask, (text, lines of the rubric)
    by id.
    """

    lesson: str
    seed: int
    started: str
    isolation: str
    seconds: float
    jobs: int
    rubric: str
    complete: bool
    questions: Mapping[str, tuple[str, Sequence[str]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The lesson's number and title."""
        return f"Lesson {self.lesson}: {LESSONS[self.lesson].title}" if self.lesson in LESSONS else self.lesson

    def question(self, question: str) -> tuple[str, Sequence[str]]:
        """Return what a question asks and the lines of its rubric: the instructor's own before the course's."""
        if question in self.questions:
            return self.questions[question]
        return (PROSE[question].text, PROSE[question].rubric) if question in PROSE else (question, ())


def label(exercise: str) -> str:
    """Return an exercise's place in the course, "7.1", or nothing where the course does not know it."""
    return REGISTRY[exercise].label if exercise in REGISTRY else ""


def title(exercise: str) -> str:
    """Return an exercise's title, or its id where the course does not know it."""
    return REGISTRY[exercise].title if exercise in REGISTRY else exercise


def heading(exercise: str) -> str:
    """Return an exercise's place and title."""
    return f"{label(exercise)} {title(exercise)}".strip()


def mistake_sentence(exercise: str, name: str) -> str:
    """Return what the course says to whoever makes this mistake, or nothing where it does not know it."""
    known = REGISTRY[exercise].mistakes if exercise in REGISTRY else ()
    return next((mistake.sentence for mistake in known if mistake.name == name), "")


def told(mark: Mark) -> str:
    """Return what a student reads about an answer: never Mark.detail, never Mark.source."""
    if mark.status == PASSED:
        return ""
    rung = f"Falls at “{mark.rung}”. " if mark.status == FAILED and mark.rung else ""
    return rung + (mark.advice or _TOLD[mark.status])


def marks(grade: Grade) -> dict[str, Mark]:
    """Return the marks that count, by exercise; nothing where nothing was handed in."""
    return {mark.exercise: mark for mark in grade.attempt.notebook.marks} if grade.attempt else {}


def mark_of(grade: Grade, exercise: str) -> Mark:
    """Return the mark that counts; an exercise that the notebook says nothing of is missing."""
    without = "" if grade.attempt else NO_HAND_IN
    return marks(grade).get(exercise) or Mark(exercise, MISSING, advice=without)


def answer_to(grade: Grade, question: str) -> Written:
    """Return the answer in words that counts; an empty one says why."""
    if not grade.attempt:
        return Written(question, "", 0, NO_HAND_IN)
    written = {answer.question: answer for answer in grade.attempt.notebook.written}
    return written.get(question) or Written(question, "", 0, "The notebook has no answer to this question.")


def waiting(grade: Grade) -> list[str]:
    """Return the answers in words that are there and that nobody has graded yet."""
    return [question for question in grade.ungraded if answer_to(grade, question).text.strip()]


def clean(text: str, limit: int = 0) -> str:
    """Return text that every page and sheet can hold, with \\n between lines, cut to a limit (0: not at all)."""
    text = _TURNING.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = _UNWRITABLE.sub("\ufffd", text)
    if limit and len(text) > limit:
        return f"{text[:limit]} … (cut here; {len(text)} characters in all)"
    return text


def number(value: float, digits: int = 2) -> str:
    """Return a number as people write it: 2, 1.5, 13.33."""
    rounded = round(float(value), digits)
    return str(int(rounded)) if rounded == int(rounded) else str(rounded)


def points(value: float) -> str:
    """Return a number with its noun: "1 point", "1.5 points"."""
    return f"{number(value)} point" if number(value) == "1" else f"{number(value)} points"


def when(moment: str) -> str:
    """Return a time in ISO 8601 for people: "2026-03-01 12:30 +01:00"; anything else as it is."""
    try:
        time = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    zone = time.isoformat()[-6:] if time.utcoffset() is not None else ""
    return f"{time:%Y-%m-%d %H:%M} {zone}".strip()


def duration(seconds: float) -> str:
    """Return a time span: "4.2 s", "3 min 20 s"."""
    if seconds < 60:
        return f"{number(seconds, 1)} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
