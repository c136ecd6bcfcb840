"""Exercises that say what is wrong: one definition serves the notebook, the tests and the grader."""

from lesson_lib.exercises.ask import CheckFailed, check, predict, progress, prose, revisit, score
from lesson_lib.exercises.registry import LESSONS, PROSE, QUESTIONS, REGISTRY

__all__ = [
    "LESSONS",
    "PROSE",
    "QUESTIONS",
    "REGISTRY",
    "CheckFailed",
    "check",
    "predict",
    "progress",
    "prose",
    "revisit",
    "score",
]
