"""What skips, AdaGN and attention buy: the learner's U-Net at 16×16 with one field changed, all else equal."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lesson_lib import attention, embed, flow, guidance, samplers, shapes, train, unet
from lesson_lib.data import shapes as draw_shapes
from lesson_lib.evaluate import JUDGE_FILE, fd_judge, load_judge, prompt_accuracy
from lesson_lib.experiments import small_shapes
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.samplers import euler
from lesson_lib.setup import Budget
from lesson_lib.train import denoising_loss, fit
from lesson_lib.unet import UNet, UNetConfig

METRICS = small_shapes.METRICS | {
    "loss": "mean squared error of the velocity on held-out pictures, times spread evenly; lower is better",
}
BASE = UNetConfig.shapes16()
SKIPS = {
    "all skips": BASE,
    "without 16×16": replace(BASE, skips=(False, True, True)),
    "without 8×8": replace(BASE, skips=(True, False, True)),
    "without 4×4": replace(BASE, skips=(True, True, False)),
    "no skips": replace(BASE, skips=(False, False, False)),
}
TIME_WAYS = {"add": replace(BASE, time_way="add"), "adagn": BASE}
ATTENTION = {
    "none": replace(BASE, attention=(0, 0, 0), middle_attention=0),
    "lowest": BASE,
    "two": replace(BASE, attention=(0, 1, 1)),
}
SAMPLING_STEPS = 12


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "shapes, 16×16, one object, 8,000 images",
        "network": "UNetConfig.shapes16, one field changed",
        "steps": budget.choose(smoke=3, laptop=450, gpu=6000, long=20_000),
        "batch_size": 32,
        "lr": 2e-3,
        "samples": budget.choose(smoke=72, laptop=360, gpu=2400, long=4800),
        "sampler": f"euler, {SAMPLING_STEPS} steps",
        "guidance_scale": 1.0,
        "judge_sha256": hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest(),
    }


def trained_denoiser(
    config: UNetConfig, items: Tensor, labels: Tensor, seed: int, steps: int, settings: dict[str, Any]
) -> UNet:
    """Return a U-Net trained on pictures or latents as a rectified flow.

    The seed fixes its weights and its batches, so that variants are paired. settings: batch_size and lr.
    """
    torch.manual_seed(seed)
    model = UNet(config).to(items.device)
    loss = denoising_loss(RectifiedFlow(time="logit-normal"), label_dropout=0.1)
    fit(model, (items, labels), loss, steps=steps, batch_size=settings["batch_size"], lr=settings["lr"], warmup=50,
        ema=0.99, seed=seed, progress=False)  # fmt: skip
    return model.eval()


@torch.no_grad()
def measured(model: UNet, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, float]:
    """Return METRICS of a trained network; noise, times and classes are the same for every variant of a seed."""
    process, judge, count = RectifiedFlow(), load_judge(budget.device), settings["samples"]
    held_out = draw_shapes(2 * count, size=16, seed=77, device=budget.device)
    generator = torch.Generator().manual_seed(1000 + seed)
    noise = torch.randn(2 * count, 3, 16, 16, generator=generator).to(budget.device)
    t = (torch.arange(2 * count, device=budget.device) + 0.5) / (2 * count)
    noisy, target = process.training_pair(held_out.images, noise, t)
    errors = [
        (model(x, process.model_time(time), labels) - velocity).square().mean(dim=(1, 2, 3))
        for x, time, labels, velocity in zip(
            *(part.split(200) for part in (noisy, t, held_out.labels, target)), strict=True
        )
    ]
    labels = (torch.arange(count) % 24).to(budget.device)
    images = euler(Guided(model, labels, settings["guidance_scale"]), noise[:count], SAMPLING_STEPS, process)
    images = images.clamp(-1, 1)
    return {
        "fd_judge": fd_judge(held_out.images, images, judge),
        "accuracy": prompt_accuracy(images, labels, judge),
        "loss": float(torch.cat(errors).mean()),
    }


@cache
def outcome(config: UNetConfig, seed: int, budget: Budget) -> dict[str, float]:
    """Train and measure one network. The unchanged one stands in all three experiments and is trained once a seed."""
    chosen = settings(budget)
    data = draw_shapes(8000, size=16, seed=3, device=budget.device)
    model = trained_denoiser(config, data.images, data.labels, seed, chosen["steps"], chosen)
    return measured(model, seed, chosen, budget)


def _experiment(name: str, title: str, variants: dict[str, UNetConfig]) -> Experiment:
    def measure(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
        return outcome(variants[variant], seed, budget)

    sources = (attention, embed, flow, guidance, samplers, shapes, train, unet)
    return Experiment(name, title, tuple(variants), METRICS, settings, measure, sources)


EXPERIMENTS = (
    _experiment("unet_skips", "What does the U-Net lose with each level's skips?", SKIPS),
    _experiment("unet_time", "How should a residual block hear the time: add it, or AdaGN?", TIME_WAYS),
    _experiment("unet_attention", "Attention over pixels: nowhere, at 4×4, or at 4×4 and 8×8?", ATTENTION),
)
