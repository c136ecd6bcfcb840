"""Which times should a flow be trained on? Uniform against logit-normal, at equal steps."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from lesson_lib import denoiser, flow, guidance, samplers, train
from lesson_lib import shapes as shapes_module
from lesson_lib.data import shapes
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.evaluate import JUDGE_FILE, fd_judge, load_judge, prompt_accuracy
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.setup import Budget
from lesson_lib.train import denoising_loss, fit

STEPS = [4, 8, 32]


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "shapes, 16×16, one object, 4,000 images",
        "network": {"patch_size": 2, "width": 48, "depth": 4},
        "steps": budget.choose(smoke=3, laptop=600, gpu=6000, long=20_000),
        "batch_size": 64,
        "lr": 2e-3,
        "samples": budget.choose(smoke=72, laptop=360, gpu=2400, long=4800),
        "sampler": "euler",
        "guidance_scale": 1.0,
        "judge_sha256": hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest(),
    }


def measure(variant: str, seed: int, configuration: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train one flow on uniform or logit-normal times and return its quality at few and at many Euler steps."""
    data = shapes(4000, size=16, seed=3, device=budget.device)
    torch.manual_seed(seed)
    model = ConvDenoiser(3, patch_size=2, width=48, depth=4, num_classes=24).to(budget.device)
    process = RectifiedFlow(time=variant)
    loss = denoising_loss(process, label_dropout=0.1)
    fit(
        model,
        (data.images, data.labels),
        loss,
        steps=configuration["steps"],
        lr=2e-3,
        warmup=50,
        ema=0.995,
        seed=seed,
        progress=False,
    )
    judge, count = load_judge(budget.device), configuration["samples"]
    real = shapes(2 * count, size=16, seed=77, device=budget.device).images
    labels = (torch.arange(count) % 24).to(budget.device)
    start = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1000 + seed)).to(budget.device)
    found: dict[str, Any] = {"fd_judge": [], "accuracy": []}
    for steps in STEPS:
        images = samplers.euler(Guided(model, labels, 1.0), start, steps, process).clamp(-1, 1)
        found["fd_judge"].append(fd_judge(real, images, judge))
        found["accuracy"].append(prompt_accuracy(images, labels, judge))
    return found


EXPERIMENTS = (
    Experiment(
        name="time_sampling",
        title="Which times should a flow be trained on?",
        variants=("uniform", "logit-normal"),
        metrics={
            "fd_judge": "Fréchet distance to held-out pictures on the judge's 64 features; lower is better",
            "accuracy": "share of samples in which the judge finds the colour and the shape that were asked for",
        },
        settings=settings,
        measure=measure,
        sources=(samplers, flow, denoiser, guidance, train, shapes_module),
        x=("Euler steps", [float(s) for s in STEPS]),
    ),
)
