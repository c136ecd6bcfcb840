"""How many network calls does a sampler need? DDPM and DDIM on a noise predictor, Euler and Heun on a flow."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from lesson_lib import denoiser, flow, guidance, noise, samplers, shapes, train
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.experiments import small_shapes
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.noise import Diffusion
from lesson_lib.setup import Budget

CALLS = [3, 5, 9, 17, 33, 65]  # odd, so that Heun (2 steps - 1 calls) spends exactly as many as the others
PROCESSES: dict[str, RectifiedFlow | Diffusion] = {
    "eps": Diffusion.cosine(clip=True),
    "flow": RectifiedFlow(time="logit-normal"),
}
PREDICTS = {"ddpm": "eps", "ddim": "eps", "euler": "flow", "heun": "flow"}


def measure(variant: str, seed: int, configuration: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Return the quality of one sampler at every number of calls; two samplers share one trained network."""
    predicts = PREDICTS[variant]
    model = _trained(predicts, seed, configuration["steps"], budget)
    steps = [(calls + 1) // 2 if variant == "heun" else calls for calls in CALLS]
    return small_shapes.measure(model, PROCESSES[predicts], variant, steps, seed, configuration["samples"], budget)


@lru_cache(maxsize=2)
def _trained(predicts: str, seed: int, steps: int, budget: Budget) -> ConvDenoiser:
    return small_shapes.train(PROCESSES[predicts], seed, steps, budget)


EXPERIMENTS = (
    Experiment(
        name="sampler_steps",
        title="How many network calls does each sampler need?",
        variants=tuple(PREDICTS),
        metrics=small_shapes.METRICS,
        settings=lambda budget: small_shapes.settings(budget, laptop_steps=2000),
        measure=measure,
        sources=(samplers, noise, flow, denoiser, guidance, train, shapes),
        x=("network calls", [float(calls) for calls in CALLS]),
    ),
)
