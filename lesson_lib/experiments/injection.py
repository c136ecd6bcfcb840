"""Four ways to inject a condition, for three conditions: the time, a class, and the features of an image."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib import condition, data, denoiser, embed, flow, samplers, train
from lesson_lib.condition import INJECTIONS
from lesson_lib.data import digits
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.evaluate import class_accuracy, frechet_distance
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.setup import Budget
from lesson_lib.train import denoising_loss, fit

NETWORK: dict[str, Any] = {"width": 32, "depth": 3}
TRAINING: dict[str, Any] = {"batch_size": 64, "lr": 2e-3}
PROCESS = RectifiedFlow(time="logit-normal")


class TinyViT(nn.Module):
    """A small vision transformer whose class token becomes the condition: 2×2 patches, two encoder layers.

    images: (B, 1, 8, 8). forward returns the logits (B, 10), features the class token (B, width).
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(4, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(width), enable_nested_tensor=False)
        self.leave = nn.Linear(width, 10)

    def features(self, images: Tensor) -> Tensor:
        """Return the class token after the last layer, (B, width)."""
        tokens = self.enter(rearrange(images, "b 1 (height p1) (width p2) -> b (height width) (p1 p2)", p1=2, p2=2))
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], dim=1) + self.place
        return self.encoder(tokens)[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        return self.leave(self.features(images))


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "scikit-learn's digits, 8×8, 1,397 to train on and 400 held out",
        "network": {**NETWORK, "other conditions": "add"},
        "steps": budget.choose(smoke=3, laptop=400, gpu=4000, long=10_000),
        "vit_steps": budget.choose(smoke=3, laptop=500, gpu=1000),
        **TRAINING,
        "euler_steps": budget.choose(smoke=2, laptop=16, gpu=50),
        "guidance_scale": 1.0,
    }


@lru_cache(maxsize=1)
def image_reader(seed: int, steps: int, device: torch.device) -> TinyViT:
    """Return a TinyViT trained to name the digits, so that its class token holds what tells them apart."""
    real = digits("train").to(device)
    torch.manual_seed(seed)
    reader = TinyViT().to(device)

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        return F.cross_entropy(model(batch[0]), batch[1])

    fit(reader, (real.images, real.labels), loss, steps=steps, warmup=20, ema=0.0, seed=seed, progress=False)
    return reader


@torch.no_grad()
def held_out_loss(model: nn.Module, images: Tensor, conditions: tuple[Tensor, ...]) -> float:
    """Return the flow's loss on held-out images at eight evenly spaced times, with the same noise for everybody."""
    total, times = 0.0, (torch.arange(8) + 0.5) / 8
    for i, time in enumerate(times):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(i)).to(images.device)
        t = torch.full((len(images),), float(time), device=images.device)
        noisy, target = PROCESS.training_pair(images, noise, t)
        total += float(F.mse_loss(model(noisy, PROCESS.model_time(t), *conditions), target))
    return total / len(times)


def measure(what: str, variant: str, seed: int, configuration: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train one network that hears `what` in the way `variant` says; measure it on the held-out digits."""
    real, held_out = digits("train").to(budget.device), digits("test").to(budget.device)
    sizes: dict[str, Any] = {**NETWORK, "time_way": "add", "condition_way": "add"}
    tensors: tuple[Tensor, ...] = (real.images,)
    conditions: tuple[Tensor, ...] = ()
    if what == "time":
        sizes["time_way"] = variant
    else:
        sizes["condition_way"] = variant
    if what == "class":
        sizes["num_classes"] = 10
        tensors, conditions = (real.images, real.labels), (held_out.labels,)
    if what == "image":
        reader = image_reader(seed, configuration["vit_steps"], budget.device)
        with torch.no_grad():
            tensors, conditions = (real.images, reader.features(real.images)), (reader.features(held_out.images),)
        sizes["feature_size"] = tensors[1].shape[1]
    torch.manual_seed(seed)
    model = ConvDenoiser(1, **sizes).to(budget.device)
    steps = configuration["steps"]
    fit(
        model, tensors, denoising_loss(PROCESS), steps=steps, **TRAINING, warmup=50, ema=0.99, seed=seed, progress=False
    )
    start = torch.randn(held_out.images.shape, generator=torch.Generator().manual_seed(1000 + seed)).to(budget.device)
    images = samplers.euler(lambda x, t: model(x, t, *conditions), start, configuration["euler_steps"], PROCESS)
    found = {
        "loss": held_out_loss(model, held_out.images, conditions),
        "fd_pixel": frechet_distance(held_out.images.flatten(1), images.clamp(-1, 1).flatten(1)),
    }
    if what != "time":
        found["accuracy"] = class_accuracy(images.clamp(-1, 1).cpu(), held_out.labels.cpu())
    return found


METRICS = {
    "loss": "squared error of the velocity on 400 held-out digits at eight times; lower is better",
    "fd_pixel": "Fréchet distance between 400 samples and the held-out digits, on their 64 pixels; lower is better",
    "accuracy": "share of 400 samples that a classifier of real digits reads as the class of the condition",
}


def _experiment(what: str, title: str) -> Experiment:
    return Experiment(
        name=f"injection_{what}",
        title=title,
        variants=tuple(INJECTIONS),
        metrics={name: text for name, text in METRICS.items() if name != "accuracy" or what != "time"},
        settings=settings,
        measure=lambda *arguments: measure(what, *arguments),
        sources=(condition, data, denoiser, embed, flow, samplers, train),
    )


EXPERIMENTS = (
    _experiment("time", "How should a network hear the time?"),
    _experiment("class", "How should a network hear the class?"),
    _experiment("image", "How should a network hear the features of an image?"),
)
