"""What grading writes down: one answer's mark, one notebook's marks, one student's grade; and how they are kept."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

PASSED, FAILED, EMPTY, MISSING, DELEGATED = "passed", "failed", "empty", "missing", "delegated"
STATUSES = (PASSED, FAILED, EMPTY, MISSING, DELEGATED)


@dataclass(frozen=True)
class Mark:
    """How one exercise of one notebook went.

    status: passed, failed, empty (the stub as it was handed out), missing (no such function in the notebook) or
    delegated (it only calls the library's own function, which is not there during grading). rung, mistake: the rung
    of the ladder that it fell from and the known mistake it makes, both may be empty. advice: what the student is
    told, free of inputs and expected values. detail: the same with numbers and error messages, for the instructor.
    source: the answer with what it depends on, as it was run.
    """

    exercise: str
    status: str
    rung: str = ""
    mistake: str = ""
    advice: str = ""
    detail: str = ""
    source: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"{self.exercise}: the status is {self.status!r}; it must be one of {', '.join(STATUSES)}")


@dataclass(frozen=True)
class Written:
    """An answer in words, as it stands in the notebook. note: why there is none, or what is wrong with its length."""

    question: str
    text: str
    words: int
    note: str = ""


@dataclass(frozen=True)
class Notebook:
    """The marks of one notebook that was handed in: everything that later reports need, and nothing that a rubric sets.

    key: names the hand-in within a run and its files in OUT. file: where it was found, for a person. digest: sha256
    of its bytes. submitted: when, in ISO 8601 with a zone, or empty where nothing tells. late_hint: whether the LMS
    marked it late. problems: what was odd or damaged, a sentence each.
    """

    key: str
    student: str
    file: str
    digest: str
    lesson: str
    seed: int
    submitted: str = ""
    late_hint: bool = False
    marks: tuple[Mark, ...] = ()
    written: tuple[Written, ...] = ()
    problems: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def time(self) -> datetime | None:
        """When it was handed in, where that is known."""
        return datetime.fromisoformat(self.submitted) if self.submitted else None

    def to_json(self) -> str:
        """Return everything as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Notebook:
        """Read what to_json wrote. Raises ValueError for anything else."""
        try:
            found: dict[str, Any] = json.loads(text)
            marks = tuple(Mark(**mark) for mark in found.pop("marks"))
            written = tuple(Written(**answer) for answer in found.pop("written"))
            problems = tuple(found.pop("problems"))
            return cls(**found, marks=marks, written=written, problems=problems)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no record of a graded notebook: {error}") from error


@dataclass(frozen=True)
class Student:
    """Whoever handed in, as the roster or the hand-in names them. key: unique within a run, safe as a file name."""

    key: str
    name: str
    id: str = ""
    email: str = ""
    section: str = ""


@dataclass(frozen=True)
class Attempt:
    """One notebook of a student under a rubric. points: by exercise. factor: what lateness leaves of them, 0 to 1."""

    notebook: Notebook
    points: dict[str, float]
    factor: float = 1.0
    late: str = ""

    @property
    def before_lateness(self) -> float:
        """The points of the exercises together."""
        return sum(self.points.values())

    @property
    def total(self) -> float:
        """The points of the exercises together, after lateness."""
        return self.factor * self.before_lateness


@dataclass(frozen=True)
class Grade:
    """What a student gets: the attempt that counts (none: nothing was handed in) and the points of answers in words.

    worth: of every exercise, under the rubric. words_worth: of every question in words. words: what a person gave;
    None where nobody has graded it yet.
    """

    student: Student
    attempts: tuple[Attempt, ...]
    kept: int | None
    worth: dict[str, float]
    words_worth: dict[str, float] = field(default_factory=dict)
    words: dict[str, float | None] = field(default_factory=dict)

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that counts."""
        return None if self.kept is None else self.attempts[self.kept]

    @property
    def exercise_points(self) -> float:
        """The points of the exercises, after lateness."""
        return self.attempt.total if self.attempt else 0.0

    @property
    def word_points(self) -> float:
        """The points of answers in words that a person has graded, after lateness."""
        factor = self.attempt.factor if self.attempt else 0.0
        return factor * sum(points for points in self.words.values() if points is not None)

    @property
    def ungraded(self) -> list[str]:
        """The answers in words that wait for a person."""
        return [question for question in self.words_worth if self.words.get(question) is None]

    @property
    def total(self) -> float:
        """All points so far."""
        return self.exercise_points + self.word_points

    @property
    def possible(self) -> float:
        """All points there are."""
        return sum(self.worth.values()) + sum(self.words_worth.values())


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all: beside it, pushed to the disk, then put in its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
