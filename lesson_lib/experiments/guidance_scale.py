"""What does guidance buy and what does it cost? Fidelity and diversity of sampled digits against the scale."""

from __future__ import annotations

from typing import Any

import torch

from lesson_lib import data, denoiser, flow, guidance, samplers, train
from lesson_lib.data import digits
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.evaluate import class_accuracy, frechet_distance, precision_recall
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.setup import Budget
from lesson_lib.train import denoising_loss, fit

SCALES = [0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0]
NETWORK: dict[str, Any] = {"width": 48, "depth": 4}
TRAINING: dict[str, Any] = {"batch_size": 64, "lr": 2e-3}
PROCESS = RectifiedFlow(time="logit-normal")


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "scikit-learn's digits, 8×8, 1,397 to train on and to compare with",
        "network": NETWORK,
        "steps": budget.choose(smoke=3, laptop=600, gpu=4000, long=10_000),
        **TRAINING,
        "label_dropout": 0.1,
        "samples": budget.choose(smoke=100, laptop=400, gpu=2000),
        "euler_steps": budget.choose(smoke=2, laptop=24, gpu=50),
        "neighbours": 3,
    }


def measure(variant: str, seed: int, configuration: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train one class-conditional flow and sample it from the same noise at every guidance scale."""
    real = digits("train").to(budget.device)
    torch.manual_seed(seed)
    model = ConvDenoiser(1, num_classes=10, **NETWORK).to(budget.device)
    loss = denoising_loss(PROCESS, label_dropout=configuration["label_dropout"])
    steps, tensors = configuration["steps"], (real.images, real.labels)
    fit(model, tensors, loss, steps=steps, **TRAINING, warmup=50, ema=0.99, seed=seed, progress=False)
    count = configuration["samples"]
    labels = (torch.arange(count) % 10).to(budget.device)
    start = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(1000 + seed)).to(budget.device)
    found: dict[str, Any] = {name: [] for name in METRICS}
    for scale in SCALES:
        images = samplers.euler(Guided(model, labels, scale), start, configuration["euler_steps"], PROCESS)
        images = images.clamp(-1, 1)
        precision, recall = precision_recall(real.images.flatten(1), images.flatten(1), configuration["neighbours"])
        found["accuracy"].append(class_accuracy(images.cpu(), labels.cpu()))
        found["precision"].append(precision)
        found["recall"].append(recall)
        found["fd_pixel"].append(frechet_distance(real.images.flatten(1), images.flatten(1)))
    return found


METRICS = {
    "accuracy": "share of samples that a classifier of real digits reads as the class that was asked for",
    "precision": "share of samples that lie among the real digits (3 nearest neighbours, 64 pixels)",
    "recall": "share of real digits that lie among the samples (3 nearest neighbours, 64 pixels)",
    "fd_pixel": "Fréchet distance to the real digits on their 64 pixels; lower is better",
}

EXPERIMENTS = (
    Experiment(
        name="guidance_scale",
        title="What does guidance buy and what does it cost?",
        variants=("flow",),
        metrics=METRICS,
        settings=settings,
        measure=measure,
        sources=(data, denoiser, flow, guidance, samplers, train),
        x=("guidance scale", SCALES),
    ),
)
