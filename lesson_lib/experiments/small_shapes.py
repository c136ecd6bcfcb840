"""The training and the measurement that the experiments on samplers and on times share: shapes at 16×16."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from lesson_lib.data import shapes
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.evaluate import JUDGE_FILE, fd_judge, load_judge, prompt_accuracy
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.noise import Diffusion
from lesson_lib.samplers import SAMPLERS
from lesson_lib.setup import Budget
from lesson_lib.train import denoising_loss, fit

NETWORK: dict[str, Any] = {"patch_size": 2, "width": 48, "depth": 4}
TRAINING: dict[str, Any] = {"batch_size": 64, "lr": 2e-3}
METRICS = {
    "fd_judge": "Fréchet distance to held-out pictures on the judge's 64 features; lower is better",
    "accuracy": "share of samples in which the judge finds the colour and the shape that were asked for",
}


def settings(budget: Budget, laptop_steps: int) -> dict[str, Any]:
    """Return what a repetition must set; laptop_steps: training steps at the laptop budget."""
    return {
        "data": "shapes, 16×16, one object, 4,000 images",
        "network": NETWORK,
        "steps": budget.choose(smoke=3, laptop=laptop_steps, gpu=6000, long=20_000),
        **TRAINING,
        "samples": budget.choose(smoke=72, laptop=360, gpu=2400, long=4800),
        "guidance_scale": 1.0,
        "judge_sha256": hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest(),
    }


def train(process: RectifiedFlow | Diffusion, seed: int, steps: int, budget: Budget) -> ConvDenoiser:
    """Return a class-conditional denoiser trained on the 4,000 pictures; the seed fixes its weights and its batches."""
    data = shapes(4000, size=16, seed=3, device=budget.device)
    torch.manual_seed(seed)
    model = ConvDenoiser(3, num_classes=24, **NETWORK).to(budget.device)
    loss, tensors = denoising_loss(process, label_dropout=0.1), (data.images, data.labels)
    fit(model, tensors, loss, steps=steps, **TRAINING, warmup=50, ema=0.995, seed=seed, progress=False)
    return model


def measure(
    model: ConvDenoiser,
    process: RectifiedFlow | Diffusion,
    sampler: str,
    steps: list[int],
    seed: int,
    count: int,
    budget: Budget,
) -> dict[str, list[float]]:
    """Return METRICS for `count` samples at each number of steps, always from the same noise."""
    judge = load_judge(budget.device)
    real = shapes(2 * count, size=16, seed=77, device=budget.device).images
    labels = (torch.arange(count) % 24).to(budget.device)
    start = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1000 + seed)).to(budget.device)
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for number in steps:
        walk, generator = SAMPLERS[sampler], budget.generator(seed)
        images: Tensor = walk(Guided(model, labels, 1.0), start, number, process, generator=generator).clamp(-1, 1)
        found["fd_judge"].append(fd_judge(real, images, judge))
        found["accuracy"].append(prompt_accuracy(images, labels, judge))
    return found
