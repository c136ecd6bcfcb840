"""Which times should a flow be trained on? Uniform against logit-normal, at equal steps."""

from __future__ import annotations

from typing import Any

from lesson_lib import denoiser, flow, guidance, samplers, shapes, train
from lesson_lib.experiments import small_shapes
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.setup import Budget

STEPS = [4, 8, 32]


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return small_shapes.settings(budget, laptop_steps=600) | {"sampler": "euler"}


def measure(variant: str, seed: int, configuration: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train one flow on uniform or logit-normal times and return its quality at few and at many Euler steps."""
    process = RectifiedFlow(time=variant)
    model = small_shapes.train(process, seed, configuration["steps"], budget)
    return small_shapes.measure(model, process, "euler", STEPS, seed, configuration["samples"], budget)


EXPERIMENTS = (
    Experiment(
        name="time_sampling",
        title="Which times should a flow be trained on?",
        variants=("uniform", "logit-normal"),
        metrics=small_shapes.METRICS,
        settings=settings,
        measure=measure,
        sources=(samplers, flow, denoiser, guidance, train, shapes),
        x=("Euler steps", [float(steps) for steps in STEPS]),
    ),
)
