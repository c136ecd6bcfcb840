"""What an exercise is: its card, its random cases, its properties, and the mistakes it knows by name.

An author writes these in lesson_NN.py; the notebook, the tests and the grader all read the same definition.
"""

from __future__ import annotations

import copy
import functools
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib.exercises import source
from lesson_lib.exercises.source import Reference

# --- random cases ------------------------------------------------------------------------------------------------


class Case:
    """One call to try an answer on: Case(x0, noise, alpha_bar) or Case(h, condition, build={"channels": 4}).

    build: the constructor's keyword arguments, where the exercise is a method. seed: of the global random numbers
    during the call, and of the weights; the exercise sets it.
    """

    def __init__(self, *args: Any, build: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        self.args, self.kwargs, self.build = args, kwargs, dict(build or {})
        self.seed = 0

    def copy(self, device: str | None = None) -> Case:
        """Return a case whose tensors, generators and modules share nothing with this one's; on a device, if named."""
        fresh = Case(*clone(self.args, device), build=clone(self.build, device), **clone(self.kwargs, device))
        fresh.seed = self.seed
        return fresh


def clone(value: Any, device: str | None = None) -> Any:
    """Copy an argument with everything in it; a generator's copy is in the same state."""
    if isinstance(value, Tensor):
        return value.detach().clone() if device is None else value.detach().to(device, copy=True)
    if isinstance(value, torch.Generator):
        return torch.Generator(value.device).set_state(value.get_state())
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return type(value)(clone(item, device) for item in value)
    if isinstance(value, dict):
        return {key: clone(item, device) for key, item in value.items()}
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(device) if device else copy.deepcopy(value)
    return copy.deepcopy(value)


def normal(g: torch.Generator, *shape: int) -> Tensor:
    """Draw a float32 tensor of standard normal numbers for a case."""
    return torch.randn(*shape, generator=g)


def uniform(g: torch.Generator, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Draw a float32 tensor of numbers spread evenly from low to high for a case."""
    return low + (high - low) * torch.rand(*shape, generator=g)


def integers(g: torch.Generator, *shape: int, low: int = 0, high: int) -> Tensor:
    """Draw an int64 tensor of whole numbers from low to high - 1 for a case."""
    return torch.randint(low, high, shape, generator=g)


# --- what an author writes ---------------------------------------------------------------------------------------


def counted(number: int, thing: str) -> str:
    """Return a number with its noun, "1 point" or "3 points"."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


@dataclass(frozen=True)
class Mistake:
    """A wrong implementation with a name, and the sentence that helps whoever made it.

    function: takes the reference's arguments in the same order (the names may differ); for a method it takes self
    first, or is a whole class. Written with def where a notebook shows it (Exercise.broken).
    """

    name: str
    function: Callable[..., Any]
    sentence: str


@dataclass(frozen=True)
class Property:
    """Something every right answer has: function(answer, case) returns None, or a sentence that says what is missing.

    answer is callable like the reference; for a method it is bound to an instance that the case has built.
    """

    name: str
    function: Callable[[Callable[..., Any], Case], str | None]


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """An exercise: the part of the library that the learner writes, and everything needed to judge an attempt.

    id: also the reference's path, unless reference names another ("noise.add_noise", "condition.FiLM.forward").
    case: (generator, size) -> Case, where size 0, 1, 2, … asks for different shapes. difficulty: 1 to 3.
    broken: name of the mistake that the notebook shows instead of an empty body (a debugging exercise).
    tolerance: largest error allowed, relative to the largest number expected. values, gradient: whether those rungs
    are climbed (no values: only the properties decide). randomise: whether a method is tried with random weights
    (otherwise with those that its own constructor makes). seconds: limit for one call.
    """

    id: str
    lesson: str
    number: int
    title: str
    points: int
    minutes: int
    difficulty: int
    case: Callable[[torch.Generator, int], Case]
    mistakes: Sequence[Mistake]
    properties: Sequence[Property] = ()
    reference: str = ""
    broken: str = ""
    tolerance: float = 1e-5
    values: bool = True
    gradient: bool = True
    randomise: bool = True
    seconds: float = 5.0

    def __post_init__(self) -> None:
        names = [mistake.name for mistake in self.mistakes]
        if not re.fullmatch(r"\d\d", self.lesson):
            raise ValueError(f"{self.id}: lesson is {self.lesson!r}; write it with two digits, as in '01'")
        if self.difficulty not in (1, 2, 3):
            raise ValueError(f"{self.id}: difficulty is {self.difficulty}; it must be 1, 2 or 3")
        if self.points < 1 or self.minutes < 1:
            raise ValueError(f"{self.id}: points and minutes must be at least 1")
        if len(set(names)) < len(names):
            raise ValueError(f"{self.id}: two mistakes have the same name; each needs its own")
        if self.broken and self.broken not in names:
            raise ValueError(f"{self.id}: broken is {self.broken!r}; it must be one of {', '.join(names)}")

    @property
    def label(self) -> str:
        """The exercise's place in the course, such as "1.3"."""
        return f"{int(self.lesson)}.{self.number}"

    @property
    def path(self) -> str:
        """The path of the reference in lesson_lib."""
        return self.reference or self.id

    @property
    def resolved(self) -> Reference:
        """The reference: its module, name, method and function."""
        return source.resolve(self.path)

    @property
    def target(self) -> Any:
        """The library's own answer: a function, or the class where the exercise is a method."""
        return self.resolved.target

    @property
    def name(self) -> str:
        """What check returns under this name: "add_noise", or "FiLM" for condition.FiLM.forward."""
        return self.resolved.name

    def mistake(self, name: str) -> Mistake:
        """Return the mistake of that name."""
        return next(mistake for mistake in self.mistakes if mistake.name == name)

    def cases(self, seed: int, n: int = 4, first_size: int = 0) -> Iterator[Case]:
        """Yield n random cases of sizes first_size, first_size + 1, …, the same ones for the same seed."""
        for size in range(first_size, first_size + n):
            number = (seed * 1_000_003 + size * 7_919 + 12_345) % 2**63
            case = self.case(torch.Generator().manual_seed(number), size)
            case.seed = number
            yield case

    def adopt(self, function: Callable[..., Any]) -> Any:
        """Turn a mistake's function, or a method written as a function, into what a learner would hand to check.

        Arguments are passed on by position, so that the function may name them as it likes.
        """
        reference = self.resolved
        if inspect.isclass(function):
            return function
        wanted = inspect.signature(reference.function)

        @functools.wraps(reference.function)
        def answer(*args: Any, **kwargs: Any) -> Any:
            bound = wanted.bind(*args, **kwargs)
            return function(*bound.args, **bound.kwargs)

        if not reference.method:
            return answer
        return type(
            reference.name, (reference.target,), {reference.method: answer, "__doc__": reference.target.__doc__}
        )

    def stub_source(self) -> str:
        """Return what the student edition shows: the stub, or the broken code of a debugging exercise."""
        if self.broken:
            return source.source_of_mistake(self.mistake(self.broken).function, self.path)
        return source.stub_of(self.path)

    def solution_source(self) -> str:
        """Return what the solved edition shows: the library's own source."""
        return source.source_of(self.path)

    def needs(self) -> list[str]:
        """Return the import lines that the stub and the solution need in a fresh notebook."""
        lines = source.imports_for(self.path)
        if self.broken:
            function = self.mistake(self.broken).function
            lines = [*lines, *source.imports_for_text(self.stub_source(), sys.modules[function.__module__])]
        return source.merge_imports(lines)


@dataclass(frozen=True, kw_only=True)
class Question:
    """A guess to make before the code, compared with a measurement after it.

    choices: for a multiple choice, or empty for a number (then unit says of what). answer: returns the measured value,
    a choice or a number, computed or read from the recorded results. because: one sentence shown beside it.
    """

    id: str
    lesson: str
    text: str
    choices: Sequence[str] = ()
    unit: str = ""
    answer: Callable[[], str | float] | None = None
    because: str = ""


@dataclass(frozen=True, kw_only=True)
class Prose:
    """A question answered in words, graded by a person. rubric: what earns the points, a line each."""

    id: str
    lesson: str
    text: str
    points: int
    rubric: Sequence[str]
    min_words: int = 30
    max_words: int = 120


@dataclass(frozen=True)
class LessonCard:
    """What the head of a lesson says. points and prose_points are filled in by the registry."""

    number: str
    slug: str
    title: str
    question: str
    minutes: int
    prerequisites: Sequence[str] = ()
    points: int = field(default=0)
    prose_points: int = field(default=0)
