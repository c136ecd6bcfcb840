"""Lesson 00, start here: the warm-up exercise."""

from __future__ import annotations

import torch
from torch import Tensor

from lesson_lib.exercises.core import Case, Exercise, LessonCard, Mistake, Property, Question, normal

LESSON = LessonCard(
    number="00",
    slug="start_here",
    title="Start here",
    question="What will I be able to do?",
    minutes=30,
)


def _images(g: torch.Generator, size: int) -> Case:
    return Case(2 * normal(g, 2 + size, 3, 4, 4 + size))


def _in_place(images: Tensor) -> Tensor:
    return images.add_(1).div_(2).clamp_(0, 1)


def _ends_meet(answer: object, case: Case) -> str | None:
    assert callable(answer)
    ends = answer(torch.tensor([-1.0, 0.0, 1.0]))
    if not torch.equal(ends, torch.tensor([0.0, 0.5, 1.0])):
        return f"-1, 0 and 1 must become 0, 0.5 and 1; they become {', '.join(f'{v:.3g}' for v in ends.tolist())}."
    return None


EXERCISES = [
    Exercise(
        id="noise.to_pixels",
        lesson="00",
        number=1,
        title="From the network's numbers to a screen's",
        points=1,
        minutes=5,
        difficulty=1,
        case=_images,
        properties=[Property("the ends of the range", _ends_meet)],
        mistakes=[
            Mistake(
                "no clamp",
                lambda images: (images + 1) / 2,
                "The map is right, but nothing is cut off: numbers outside [-1, 1] leave the range [0, 1]. "
                "Add .clamp(0, 1) at the end.",
            ),
            Mistake(
                "no shift",
                lambda images: (images / 2).clamp(0, 1),
                "You halve, but do not add 1 first: everything darker than middle grey becomes black.",
            ),
            Mistake(
                "divided before adding",
                lambda images: (images / 2 + 1).clamp(0, 1),
                "You divide before you add: -1 becomes 0.5, and everything from middle grey up is white. "
                "Add 1, then halve the sum: the brackets matter.",
            ),
            Mistake(
                "clamped first",
                lambda images: (images.clamp(0, 1) + 1) / 2,
                "You cut to [0, 1] before the map: every dark pixel becomes middle grey. Map first, cut last.",
            ),
            Mistake(
                "in place",
                _in_place,
                "The result is right, but add_, div_ and clamp_ (or +=) also overwrite the caller's images. "
                "Write (images + 1) / 2, which makes a new tensor.",
            ),
        ],
    ),
]

QUESTIONS = [
    Question(
        id="start.q1",
        lesson="00",
        text="One noise, two orders: in how many of 100 such pairs does the object land in the same of nine places?",
        unit="of 100",
        because="The order says what to draw. Where it goes is left open by the order, so the noise decides it.",
    ),
]
