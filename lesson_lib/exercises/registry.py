"""Every exercise, question and lesson card of the course, read from the lesson_NN modules when first asked for."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any, Generic, TypeVar

from lesson_lib.exercises.core import Exercise, LessonCard, Prose, Question

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Course:
    """All lessons' parts by their ids, in the order of the lessons."""

    exercises: dict[str, Exercise]
    questions: dict[str, Question]
    prose: dict[str, Prose]
    lessons: dict[str, LessonCard]


class Lazy(Mapping[str, T], Generic[T]):
    """A read-only dictionary that is filled when it is first used."""

    def __init__(self, what: str, fill: Callable[[], dict[str, T]]) -> None:
        self._what, self._fill = what, fill

    def __getitem__(self, key: str) -> T:
        items = self._fill()
        if key not in items:
            near = difflib.get_close_matches(str(key), items, 3, 0.4)
            raise KeyError(f"there is no {self._what} {key!r}" + (f"; is it {' or '.join(near)}?" if near else ""))
        return items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fill())

    def __len__(self) -> int:
        return len(self._fill())


def collect(modules: Iterable[ModuleType]) -> Course:
    """Gather what lesson modules define: EXERCISES, QUESTIONS, PROSE and LESSON.

    Raises ValueError for an id that is used twice, or for an exercise that names another lesson than its file.
    """
    course = Course({}, {}, {}, {})
    for module in modules:
        card: LessonCard = module.LESSON
        parts: dict[str, list[Any]] = {n: list(getattr(module, n, ())) for n in ("EXERCISES", "QUESTIONS", "PROSE")}
        for item in [*parts["EXERCISES"], *parts["QUESTIONS"], *parts["PROSE"]]:
            if item.id in {**course.exercises, **course.questions, **course.prose}:
                raise ValueError(f"the id {item.id} is used twice; the second time in {module.__name__}")
            if item.lesson != card.number:
                raise ValueError(f"{item.id} says lesson {item.lesson}, but stands in {module.__name__}")
            place: Any = {Exercise: course.exercises, Question: course.questions, Prose: course.prose}[type(item)]
            place[item.id] = item
        if card.number in course.lessons:
            raise ValueError(f"there are two lessons {card.number}; the second is {module.__name__}")
        earned, written = (sum(item.points for item in parts[name]) for name in ("EXERCISES", "PROSE"))
        course.lessons[card.number] = dataclasses.replace(card, points=earned, prose_points=written)
    return course


@lru_cache(maxsize=1)
def load_course() -> Course:
    """Import every lesson_NN module of this package, once."""
    package = importlib.import_module("lesson_lib.exercises")
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if m.name.startswith("lesson_"))
    return collect(importlib.import_module(f"{package.__name__}.{name}") for name in names)


REGISTRY: Mapping[str, Exercise] = Lazy("exercise", lambda: load_course().exercises)
QUESTIONS: Mapping[str, Question] = Lazy("question", lambda: load_course().questions)
PROSE: Mapping[str, Prose] = Lazy("prose question", lambda: load_course().prose)
LESSONS: Mapping[str, LessonCard] = Lazy("lesson", lambda: load_course().lessons)
