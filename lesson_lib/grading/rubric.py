"""What a hand-in is worth: points, lateness, which attempt counts, and the instructor's own questions.

Without a rubric.toml everything is worth what the course says, nothing is late and the best attempt counts. A file
changes only what it names; this one names everything there is:

    keep = "best"                      # the attempt that counts: the best after lateness, or the "last"

    [points]                           # of exercises; 0 takes one out of the grade
    "dit.modulate" = 4
    "dit.block_bug" = 0

    [words]                            # of the course's questions in words
    "adaln.w1" = 3

    [late]
    deadline = 2026-03-31T23:59:00+02:00   # with its zone
    grace_minutes = 30                 # not counted as late (default 0)
    per_day = 0.1                      # the share of the points lost for every day begun after that
    floor = 0.5                        # the share that always remains (default 0)

    [[question]]                       # a question of your own, answered with prose("adaln.mine", "…")
    id = "adaln.mine"
    text = "Which of the variants would you train first, and why?"
    points = 2                         # a whole number
    rubric = ["names a variant (1)", "gives a reason from the lesson's measurements (1)"]
    min_words = 30                     # default 30
    max_words = 120                    # default 120

Answers in words are graded by a person, in prose.csv. Lateness takes its share of them as of the exercises.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from lesson_lib.exercises.core import Prose, counted
from lesson_lib.exercises.registry import LESSONS, PROSE, QUESTIONS, REGISTRY
from lesson_lib.grading.marks import MISSING, PASSED, Attempt, Grade, Notebook, Student
from lesson_lib.grading.submissions import natural

BEST, LAST = "best", "last"


@dataclass(frozen=True)
class Late:
    """What lateness costs. deadline: with a zone. per_day: share lost per begun day. floor: share that remains."""

    deadline: datetime
    per_day: float
    grace_minutes: float = 0.0
    floor: float = 0.0


@dataclass(frozen=True)
class Rubric:
    """What everything in one lesson is worth. points: by exercise. words: by question, the instructor's own included.

    keep: "best" or "last", the attempt that counts.
    """

    lesson: str
    points: dict[str, float] = field(default_factory=dict)
    words: dict[str, float] = field(default_factory=dict)
    questions: tuple[Prose, ...] = ()
    late: Late | None = None
    keep: str = BEST

    @property
    def in_words(self) -> str:
        """What a student should know of it, in a line or two."""
        parts = [f"Exercises: {_points(sum(self.points.values()))}."]
        parts += [f"Answers in words: {_points(sum(self.words.values()))}."] if self.words else []
        parts.append(f"The {self.keep} attempt counts.")
        if self.late:
            grace = f" and {self.late.grace_minutes:g} minutes of grace" if self.late.grace_minutes else ""
            least = f", down to {_percent(self.late.floor)}" if self.late.floor else ""
            lost = f"every day begun after that costs {_percent(self.late.per_day)} of the points{least}"
            parts.append(f"Deadline: {self.late.deadline:%Y-%m-%d %H:%M %Z}{grace}; {lost}.")
        return " ".join(parts)


def read_rubric(path: str | Path | None, lesson: str) -> Rubric:
    """Read a rubric.toml for a lesson such as "07"; None stands for the course's own points.

    Raises ValueError, with a sentence that says where and what was probably meant, for a file that is not TOML, for
    keys and ids that do not exist and for values that make no sense.
    """
    if lesson not in LESSONS:
        raise ValueError(f"there is no lesson {lesson!r}; the lessons are {', '.join(LESSONS)}")
    found = _read_toml(path) if path else {}
    where = str(path)
    _only(found, ("points", "words", "late", "question", "keep"), where)
    points = {key: float(exercise.points) for key, exercise in REGISTRY.items() if exercise.lesson == lesson}
    words = {key: float(question.points) for key, question in PROSE.items() if question.lesson == lesson}
    points |= _weights(found.get("points", {}), points, REGISTRY, f"{where}, [points]")
    words |= _weights(found.get("words", {}), words, PROSE, f"{where}, [words]")
    questions = _questions(found.get("question", []), lesson, where)
    words |= {question.id: float(question.points) for question in questions}
    late, keep = _late(found.get("late"), f"{where}, [late]"), _keep(found, where)
    return Rubric(lesson, points, words, questions, late, keep)


def lateness(rubric: Rubric, submitted: str, late_hint: bool) -> tuple[float, str]:
    """Return the share of the points that remains, 0 to 1, and a sentence about it (empty: on time, or no deadline).

    submitted: ISO 8601, or empty where nothing tells the time; then nothing is taken off, even where the LMS marked it
    late, and the sentence says that a person must decide.
    """
    late = rubric.late
    if late is None:
        return 1.0, ""
    if not submitted:
        if late_hint:
            return 1.0, "The LMS marks it late but tells no time: nothing is taken off, and a person must decide."
        return 1.0, "It is not known when it was handed in: nothing is taken off."
    # A time without a zone is this machine's; with one, astimezone changes nothing that matters here.
    over = datetime.fromisoformat(submitted).astimezone() - late.deadline
    beyond = over - timedelta(minutes=late.grace_minutes)
    if beyond <= timedelta(0):
        if over > timedelta(0):
            return 1.0, f"Handed in {_span(over)} after the deadline, within the grace."
        contrary = "The LMS marks it late, but its time is before the deadline: nothing is taken off."
        return 1.0, contrary if late_hint else ""
    days = math.ceil(beyond / timedelta(days=1))
    factor = max(late.floor, round(1 - late.per_day * days, 10))
    begun = f"{counted(days, 'day')} begun"
    return factor, f"Handed in {_span(over)} after the deadline ({begun}): {_percent(factor)} of the points remain."


def grades(
    notebooks: Sequence[Notebook],
    owners: Mapping[str, Student],
    students: Sequence[Student],
    rubric: Rubric,
    word_points: Mapping[tuple[str, str], float],
) -> list[Grade]:
    """Turn marks into one grade per student: those of the roster in its order, then whoever else handed in, by name.

    owners: by the notebooks' keys. word_points: what a person gave, by student key and question. A student's attempts
    stand in the order of their times, or of their file names where one of the times is unknown. Of equally good ones
    the earlier counts. An attempt without a single function of the lesson (a wrong or a damaged file) never counts as
    the last one while another has some.
    """
    everyone = {student.key: student for student in students}
    strangers = {owner.key: owner for owner in owners.values() if owner.key not in everyone}
    everyone |= {
        student.key: student for student in sorted(strangers.values(), key=lambda s: (s.name.casefold(), s.key))
    }
    handed_in: dict[str, list[Notebook]] = {key: [] for key in everyone}
    for notebook in notebooks:
        handed_in[owners[notebook.key].key].append(notebook)
    return [_grade(student, handed_in[key], rubric, word_points) for key, student in everyone.items()]


def _grade(
    student: Student, notebooks: list[Notebook], rubric: Rubric, word_points: Mapping[tuple[str, str], float]
) -> Grade:
    attempts = tuple(_attempt(notebook, rubric) for notebook in _in_order(notebooks))
    words = {question: word_points.get((student.key, question)) for question in rubric.words}
    return Grade(student, attempts, _kept(attempts, rubric.keep), dict(rubric.points), dict(rubric.words), words)


def _attempt(notebook: Notebook, rubric: Rubric) -> Attempt:
    passed = {mark.exercise for mark in notebook.marks if mark.status == PASSED}
    factor, late = lateness(rubric, notebook.submitted, notebook.late_hint)
    return Attempt(notebook, {key: worth * (key in passed) for key, worth in rubric.points.items()}, factor, late)


def _in_order(notebooks: list[Notebook]) -> list[Notebook]:
    by_name = sorted(notebooks, key=lambda notebook: (natural(notebook.file), notebook.key))
    times = [notebook.time for notebook in by_name]
    known = {n.key: time.astimezone() for n, time in zip(by_name, times, strict=True) if time is not None}
    return sorted(by_name, key=lambda notebook: known[notebook.key]) if len(known) == len(by_name) else by_name


def _kept(attempts: Sequence[Attempt], keep: str) -> int | None:
    places = range(len(attempts))
    if keep == BEST:
        return max(places, key=lambda place: (round(attempts[place].total, 9), -place), default=None)
    attempted = [place for place in places if any(mark.status != MISSING for mark in attempts[place].notebook.marks)]
    return max(attempted or places, default=None)


# --- reading the file --------------------------------------------------------------------------------------------


def _read_toml(path: str | Path) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error


def _weights(table: Any, worth: Mapping[str, float], everywhere: Mapping[str, Any], where: str) -> dict[str, float]:
    """Read {id: points}. worth: the ids of this lesson; everywhere: those of the course, for a better sentence."""
    found = _flat(_table(table, where))
    for key in found:
        if key not in worth and key in everywhere:
            raise ValueError(f"{where}: {key} belongs to lesson {everywhere[key].lesson}, not to this one")
    _only(found, tuple(worth), where)
    return {key: _number(value, f"{where}, {key}") for key, value in found.items()}


def _flat(table: dict[str, Any], start: str = "") -> dict[str, Any]:
    """Join what TOML takes apart at the dots of an id without quotes: dit.modulate = 4."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        found |= _flat(value, f"{start}{key}.") if isinstance(value, dict) else {start + key: value}
    return found


def _questions(tables: Any, lesson: str, where: str) -> tuple[Prose, ...]:
    if not isinstance(tables, list):
        raise ValueError(f"{where}: write [[question]] with two brackets, once for each question")
    found: dict[str, Prose] = {}
    for number, table in enumerate(tables, start=1):
        question = _question(_table(table, where), lesson, f"{where}, question {number}")
        if question.id in found or question.id in {**REGISTRY, **PROSE, **QUESTIONS}:
            raise ValueError(f"{where}, question {number}: the id {question.id} is taken; choose another")
        found[question.id] = question
    return tuple(found.values())


def _question(table: dict[str, Any], lesson: str, where: str) -> Prose:
    _only(table, ("id", "text", "points", "rubric", "min_words", "max_words"), where)
    missing = [key for key in ("id", "text", "points", "rubric") if key not in table]
    if missing:
        raise ValueError(f"{where}: it needs {' and '.join(missing)}")
    key, text, lines = table["id"], table["text"], table["rubric"]
    if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,59}", key, re.ASCII):
        raise ValueError(f"{where}: the id is {key!r}; use letters, digits, dots and hyphens, as in adaln.mine")
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: text must say what is asked")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError(
            f'{where}: rubric must be a list of lines, as in ["names a variant (1)", "gives a reason (1)"]'
        )
    low, high = (_whole(table.get(name, default), f"{where}, {name}") for name, default in _WORDS.items())
    if low > high:
        raise ValueError(f"{where}: min_words is {low}, more than max_words, {high}")
    points = _whole(table["points"], f"{where}, points")
    return Prose(id=key, lesson=lesson, text=text, points=points, rubric=lines, min_words=low, max_words=high)


_WORDS = {"min_words": 30, "max_words": 120}


def _late(table: Any, where: str) -> Late | None:
    if table is None:
        return None
    table = _table(table, where)
    _only(table, ("deadline", "grace_minutes", "per_day", "floor", "keep"), where)
    missing = [key for key in ("deadline", "per_day") if key not in table]
    if missing:
        raise ValueError(f"{where}: it needs {' and '.join(missing)}")
    deadline = _deadline(table["deadline"], where)
    shares = {key: _number(table.get(key, 0), f"{where}, {key}") for key in ("per_day", "floor")}
    for key, share in shares.items():
        if share > 1:
            raise ValueError(f"{where}: {key} is {share:g}; it is a share between 0 and 1, 0.1 for ten percent")
    return Late(
        deadline, shares["per_day"], _number(table.get("grace_minutes", 0), f"{where}, grace_minutes"), shares["floor"]
    )


def _deadline(value: Any, where: str) -> datetime:
    try:
        deadline = datetime.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        deadline = None
    if not isinstance(deadline, datetime) or deadline.tzinfo is None:
        raise ValueError(f"{where}: deadline is {value}; write day, time and zone, as in 2026-03-31T23:59:00+02:00")
    return deadline


def _keep(found: dict[str, Any], where: str) -> str:
    """Read keep from the top or, where a line written last ends up, from [late]."""
    late = found.get("late")
    places = [table["keep"] for table in (found, late) if isinstance(table, dict) and "keep" in table]
    if len(places) > 1:
        raise ValueError(f"{where}: keep stands in it twice")
    keep = places[0] if places else BEST
    if keep not in (BEST, LAST):
        raise ValueError(f'{where}: keep is {keep!r}; it must be "{BEST}" or "{LAST}"')
    return str(keep)


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a table is expected here, not {value!r}")
    return value


def _only(table: Iterable[str], allowed: Sequence[str], where: str) -> None:
    for key in table:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 3, 0.4)
            hint = f"is it {' or '.join(near)}?" if near else f"there are {', '.join(allowed)}"
            raise ValueError(f"{where}: there is no {key!r}; {hint}")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{where} is {value!r}; it must be a number, 0 or more")
    return float(value)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where} is {value!r}; it must be a whole number, 0 or more")
    return value


# --- in words ----------------------------------------------------------------------------------------------------


def _points(number: float) -> str:
    return f"{number:g} {'point' if number == 1 else 'points'}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _span(time: timedelta) -> str:
    """Return a length of time in its two largest units: "1 day and 3 hours"."""
    minutes = max(1, math.ceil(time / timedelta(minutes=1)))
    amounts = ((minutes // 1440, "day"), (minutes // 60 % 24, "hour"), (minutes % 60, "minute"))
    return " and ".join([counted(amount, unit) for amount, unit in amounts if amount][:2])
