"""Expansion: a lesson source becomes a notebook, its directives filled from the library and the registry."""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lesson_lib.build.execute import METADATA
from lesson_lib.build.names import NameClash, Names, calls
from lesson_lib.build.repository import SETUP_NAME, Repository
from lesson_lib.build.sources import Cell, Lesson
from lesson_lib.exercises import source as library
from lesson_lib.exercises.core import Exercise, LessonCard, Prose, Question, counted

Edition = Literal["student", "solved"]
START = "00_start_here"
HINTS = {
    "idea": "Hint 1 · the idea",
    "pseudo-code": "Hint 2 · in pseudo-code",
    "most common error": "Hint 3 · the most common error",
}


@dataclass(frozen=True)
class Course:
    """What the builder knows besides the lesson's text.

    exercises and questions (guesses and prose): by id. cards: each lesson's card by its two-digit number.
    """

    exercises: Mapping[str, Exercise]
    questions: Mapping[str, Question | Prose]
    cards: Mapping[str, LessonCard]
    repository: Repository

    def of_lesson(self, number: str) -> dict[str, Exercise]:
        """Return the exercises of one lesson, in the registry's order."""
        return {key: exercise for key, exercise in self.exercises.items() if exercise.lesson == number}


def expand(lesson: Lesson, course: Course, edition: Edition = "student") -> Any:
    """Return the notebook of a lesson, without outputs: the same bytes for the same lesson and library.

    edition: "student" has stubs where "solved" has the library's source.
    Raises BuildError with file and line for an unknown id, a directive in the wrong shape, or an exercise that lacks
    one of its four cells.
    """
    if lesson.number not in course.cards:
        raise lesson.error(
            None, f"lesson {lesson.number} has no card; write LESSON in exercises/lesson_{lesson.number}.py"
        )
    stem = f"{lesson.number}_{course.cards[lesson.number].slug}"
    if lesson.path.stem != stem:
        raise lesson.error(None, f"the registry calls this lesson {stem}; rename the file or the card's slug")
    _require_parts(lesson, course)
    return _Expansion(lesson, course, edition).notebook()


class _Expansion:
    def __init__(self, lesson: Lesson, course: Course, edition: Edition) -> None:
        self.lesson = lesson
        self.course = course
        self.edition = edition
        self.names = Names()
        self.used: dict[str, int] = {}

    def notebook(self) -> Any:
        from nbformat import from_dict

        cells = [from_dict(self._markdown(c) if c.markdown else self._code(c)) for c in self.lesson.cells]
        return from_dict({"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5})

    def _markdown(self, cell: Cell) -> dict[str, Any]:
        fill = {"title_card": self._title, "exercise_card": self._card, "hints": self._hints}.get(cell.directive)
        first = next((line for line in cell.text.splitlines() if line.strip()), "text")
        key = f"{cell.directive} {cell.value}" if cell.directive else first.strip("# ")
        metadata = {"tags": list(cell.tags)} if cell.tags else {}
        return {
            "cell_type": "markdown",
            "id": self._id("text", key),
            "metadata": metadata,
            "source": fill(cell) if fill else cell.text,
        }

    def _code(self, cell: Cell) -> dict[str, Any]:
        source = {"exercise": self._exercise, "source": self._source, "name": self._named}[cell.directive](cell)
        kind = "check" if cell.value.startswith("check-") else cell.directive
        name = cell.value if cell.directive == "name" else f"{cell.directive}-{cell.value}"
        tags = [*([] if kind == "name" else [kind]), *cell.tags]
        return {
            "cell_type": "code",
            "execution_count": None,
            "id": self._id(cell.directive, cell.value),
            "metadata": {"name": name, "tags": tags} if tags else {"name": name},
            "outputs": [],
            "source": source,
        }

    def _id(self, kind: str, key: str) -> str:
        """Name a cell after the lesson and its own name or first line, never after its place."""
        again = self.used[f"{kind} {key}"] = self.used.get(f"{kind} {key}", 0) + 1
        digest = hashlib.sha256(f"{self.lesson.path.stem}\n{kind}\n{key}\n{again}".encode()).hexdigest()[:8]
        slug = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")[:40].rstrip("-") or "cell"
        return f"{self.lesson.number}-{slug}-{digest}"

    def _named(self, cell: Cell) -> str:
        source = self.course.repository.setup_cell(self.lesson.number) if cell.value == SETUP_NAME else cell.text
        self.names.read(source)
        return source

    def _exercise(self, cell: Cell) -> str:
        exercise = self.course.exercises[cell.value]
        try:
            shown = exercise.solution_source() if self.edition == "solved" else exercise.stub_source()
            return self._from_library(cell, exercise.path, exercise.needs(), shown)
        except ValueError as problem:
            raise self.lesson.error(cell, str(problem)) from problem

    def _source(self, cell: Cell) -> str:
        try:
            return self._from_library(cell, cell.value, library.imports_for(cell.value), library.source_of(cell.value))
        except ValueError as problem:
            raise self.lesson.error(cell, str(problem)) from problem

    def _from_library(self, cell: Cell, path: str, needs: list[str], shown: str) -> str:
        """Put the missing imports above a piece of the library.

        Both editions import the same, so that every later cell finds the same names in both.
        """
        reference = library.resolve(path)
        self._require_bare_import(cell, reference.module.__name__, reference.name)
        try:
            imports = self.names.missing(needs)
        except NameClash as problem:
            raise self.lesson.error(cell, str(problem)) from problem
        self.names.read("\n".join(imports))
        self.names.read(shown, answers=True)
        return "\n".join(imports) + ("\n\n\n" if imports else "") + shown.rstrip("\n")

    def _require_bare_import(self, cell: Cell, module: str, name: str) -> None:
        body = ast.parse(cell.text).body
        if len(body) == 1 and isinstance(body[0], ast.ImportFrom):
            imported = [alias.name for alias in body[0].names if alias.asname is None]
            if body[0].module == module and imported == [name]:
                return
        raise self.lesson.error(
            cell, f"this cell must hold one line, `from {module} import {name}`; the builder writes the rest"
        )

    def _title(self, cell: Cell) -> str:
        if cell.value != self.lesson.number:
            raise self.lesson.error(cell, f"title_card must be {self.lesson.number!r}, the number in the file's name")
        card, stem = self.course.cards[self.lesson.number], self.lesson.path.stem
        glossary = ("" if stem == START else f"{START}.ipynb") + "#Notation-and-glossary"
        parts = [
            f"[Open in Colab]({self.course.repository.colab(stem)})",
            f"{card.minutes} minutes",
            points_text(card),
            _prerequisites(card.prerequisites),
            f"[notation and glossary]({glossary})",
        ]
        return f"{cell.text.rstrip()}\n\n{' · '.join(part for part in parts if part)}"

    def _card(self, cell: Cell) -> str:
        exercise = self.course.exercises[cell.value]
        heading, _, text = cell.text.strip().partition("\n")
        if not heading.startswith("#"):
            raise self.lesson.error(cell, "an exercise card starts with a heading, `### Exercise 1.1 · …`")
        label = re.search(r"\bExercise (\d+\.\d+)", heading)
        if label and label[1] != exercise.label:
            raise self.lesson.error(cell, f"the heading says {label[1]}; the registry calls it {exercise.label}")
        points = counted(exercise.points, "point")
        difficulty = "●" * exercise.difficulty + "○" * (3 - exercise.difficulty)
        return f"{heading}\n\n**{points} · {exercise.minutes} minutes · {difficulty}**\n\n{text.strip()}".rstrip()

    def _hints(self, cell: Cell) -> str:
        module = library.resolve(self.course.exercises[cell.value].path).module.__name__
        folds = [_fold(HINTS[key], text) for key, text in _hint_texts(self.lesson, cell)]
        where = f"The library holds it: `{module.replace('.', '/')}.py`. Read it after your own attempt."
        return "\n\n".join([*folds, _fold("The solution", where)])


def course(repository: Repository) -> Course:
    """Return the course as the library's registry describes it."""
    from lesson_lib import exercises as spine

    return Course(spine.REGISTRY, {**spine.QUESTIONS, **spine.PROSE}, spine.LESSONS, repository)


def points_text(card: LessonCard) -> str:
    """Return what a lesson is worth, in words: the checked points, and those that a person gives."""
    prose = f" + {card.prose_points} for answers in words" if card.prose_points else ""
    return f"{counted(card.points, 'point')}{prose}"


def _prerequisites(numbers: Any) -> str:
    if not numbers:
        return "no prerequisites"
    names = [str(int(n)) if str(n).isdigit() else str(n) for n in numbers]
    if len(names) == 1:
        return f"after lesson {names[0]}"
    return f"after lessons {', '.join(names[:-1])} and {names[-1]}"


def _fold(title: str, text: str) -> str:
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def _hint_texts(lesson: Lesson, cell: Cell) -> Iterator[tuple[str, str]]:
    """Yield the three hints by key; a hint may go on over several lines, until the next key."""
    found = re.split(rf"^({'|'.join(HINTS)}):", cell.text, flags=re.MULTILINE)
    if found[0].strip() or found[1::2] != list(HINTS) or not all(text.strip() for text in found[2::2]):
        raise lesson.error(cell, f"hints are three lines in this order: {', '.join(f'`{key}: …`' for key in HINTS)}")
    yield from zip(found[1::2], (text.strip() for text in found[2::2]), strict=True)


def _require_parts(lesson: Lesson, course: Course) -> None:
    """Refuse ids that the registry does not know in this lesson, and exercises without cell, card, check or hints."""
    own = course.of_lesson(lesson.number)
    questions = {key: question for key, question in course.questions.items() if question.lesson == lesson.number}
    parts: dict[str, set[str]] = {key: set() for key in own}
    for cell in lesson.cells:
        used = [(cell.directive, cell.value)] if cell.directive in ("exercise", "exercise_card", "hints") else []
        if not cell.markdown:
            used += [
                (function, key)
                for function, key, _ in calls(ast.parse(cell.text), ("check", "predict", "revisit", "prose"))
            ]
        for kind, key in used:
            known = questions if kind in ("predict", "revisit", "prose") else own
            if key not in known:
                raise lesson.error(
                    cell, f"{kind} names {key!r}; lesson {lesson.number} has {', '.join(known) or 'none'}"
                )
            if key in parts:
                parts[key].add(kind)
    wanted = {
        "exercise": "a code cell exercise=",
        "exercise_card": "a card",
        "check": "a check() call",
        "hints": "hints",
    }
    for key, found in parts.items():
        if lacking := [text for kind, text in wanted.items() if kind not in found]:
            raise lesson.error(None, f"exercise {key!r} lacks {', '.join(lacking)}")
