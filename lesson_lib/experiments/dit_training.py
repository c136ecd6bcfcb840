"""The training and the measurement that all comparisons of Diffusion Transformers share: shapes at 16×16."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib import ROOT, attention, dit, embed, flow, guidance, position, samplers, shapes, train, unet, vit
from lesson_lib.data import shapes as draw_shapes
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.evaluate import JUDGE_FILE, count_macs, fd_judge, load_judge, prompt_accuracy, trained_parameters
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.results import sources_sha256
from lesson_lib.samplers import euler
from lesson_lib.setup import Budget
from lesson_lib.train import denoising_loss, fit
from lesson_lib.unet import UNet, UNetConfig


@dataclass(frozen=True)
class LearnedTable(DiTConfig):
    """A DiT with a learned table of places that starts as N(0, table_start²): larger than ViT's N(0, 0.02²)."""

    positions: str = "learned"
    table_start: float = 0.5


Config = DiTConfig | UNetConfig

SOURCES = (attention, dit, embed, flow, guidance, position, samplers, shapes, train, unet, vit)
NETWORKS = ROOT / "build" / "experiments" / "networks"
SAMPLING_STEPS = 12
METRICS = {
    "fd_judge": "Fréchet distance to held-out pictures on the judge's 64 features; lower is better",
    "accuracy": "share of samples in which the judge finds the colour and the shape that were asked for",
    "macs_millions": "multiply-accumulates of one call for one picture, in millions",
    "parameters": "weights that are trained",
}


def settings(budget: Budget, laptop_steps: int) -> dict[str, Any]:
    """Return what a repetition must set; laptop_steps: training steps at the laptop budget."""
    return {
        "data": "shapes, 16×16, one object, 8,000 images",
        "steps": budget.choose(smoke=4, laptop=laptop_steps, gpu=8000, long=40_000),
        "batch_size": 32,
        "lr": 2e-3,
        "warmup": 50,
        "ema": 0.99,
        "times": "logit-normal",
        "samples": budget.choose(smoke=72, laptop=240, gpu=2400, long=4800),
        "sampler": f"euler, {SAMPLING_STEPS} steps",
        "guidance_scale": 1.0,
        "judge_sha256": hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest(),
    }


def build(config: Config) -> DiT | UNet:
    """Build the untrained network of a configuration of either family."""
    if isinstance(config, UNetConfig):
        return UNet(config)
    model = DiT(config)
    if isinstance(config, LearnedTable):
        nn.init.normal_(model.pos_embed, std=config.table_start)
    return model


def cost(config: Config) -> dict[str, float]:
    """Return what one call for one 16×16 picture costs: macs_millions, and the number of trained parameters."""
    with torch.device("meta"):
        model = build(config)
        inputs = (torch.empty(1, 3, 16, 16), torch.empty(1), torch.empty(1, dtype=torch.long))
        macs = count_macs(model, *inputs)
    return {"macs_millions": macs / 1e6, "parameters": float(trained_parameters(model))}


@torch.no_grad()
def quality(model: nn.Module, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, float]:
    """Return fd_judge and accuracy of a trained network; noise and classes are the same for every variant of a seed."""
    judge, count = load_judge(budget.device), settings["samples"]
    real = _held_out(2 * count, budget)
    noise = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1000 + seed)).to(budget.device)
    labels = (torch.arange(count) % 24).to(budget.device)
    images = euler(Guided(model, labels, settings["guidance_scale"]), noise, SAMPLING_STEPS, RectifiedFlow())
    images = images.clamp(-1, 1)
    return {"fd_judge": fd_judge(real, images, judge), "accuracy": prompt_accuracy(images, labels, judge)}


@cache
def _held_out(count: int, budget: Budget) -> Tensor:
    return draw_shapes(count, size=16, seed=77, device=budget.device).images


@cache
def outcome(config: Config, seed: int, shares: tuple[float, ...], budget: Budget, laptop_steps: int) -> dict[str, Any]:
    """Train one network and measure it after each share of the steps: metric → list, one entry for each share.

    The seed fixes the weights and the batches, so that variants are paired. A configuration that stands in several
    experiments is trained once.
    """
    chosen = settings(budget, laptop_steps)
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    price = cost(config)
    for number in range(len(shares)):
        model = trained(config, seed, shares[: number + 1], budget, laptop_steps)
        measured = quality(model, seed, chosen, budget) | price
        for name, value in measured.items():
            found[name].append(value)
    return found


def trained(config: Config, seed: int, shares: tuple[float, ...], budget: Budget, laptop_steps: int) -> DiT | UNet:
    """Train a network for the last of some shares of the steps, or load it where that was done before.

    Each share continues the one before it, as an interrupted run would, and leaves a file in build/experiments/networks
    in place of that one's, named after all that decides the outcome: several experiments can measure one network.
    """
    chosen = settings(budget, laptop_steps)
    recipe = {name: chosen[name] for name in ("data", "batch_size", "lr", "warmup", "ema", "times")}
    told = repr((config, seed, recipe, budget.device.type, sources_sha256(*SOURCES)))
    name = hashlib.sha256(told.encode()).hexdigest()[:16]
    steps = [max(1, round(share * chosen["steps"])) for share in shares]
    files = [NETWORKS / f"{name}-{count}.safetensors" for count in steps]
    NETWORKS.mkdir(parents=True, exist_ok=True)
    if len(files) > 1 and files[-2].exists() and not files[-1].exists():
        files[-2].rename(files[-1])
    data = draw_shapes(8000, size=16, seed=3, device=budget.device)
    torch.manual_seed(seed)
    model = build(config).to(budget.device)
    fit(
        model, (data.images, data.labels), denoising_loss(RectifiedFlow(time=chosen["times"]), label_dropout=0.1),
        steps=steps[-1], batch_size=chosen["batch_size"], lr=chosen["lr"],
        warmup=chosen["warmup"], ema=chosen["ema"], seed=seed, progress=False, checkpoint=files[-1], every=10**9,
        resume=True,
    )  # fmt: skip
    return model.eval()


def experiment(
    name: str,
    title: str,
    variants: Mapping[str, Config],
    network: str,
    laptop_steps: int,
    shares: tuple[float, ...] = (1.0,),
) -> Experiment:
    """Return the comparison of some networks, measured after each share of the steps, or once at the end.

    network: what is compared, in words, for the record. laptop_steps: training steps at the laptop budget.
    """

    def measure(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
        found = outcome(variants[variant], seed, shares, budget, laptop_steps)
        return found if len(shares) > 1 else {metric: values[0] for metric, values in found.items()}

    return Experiment(
        name, title, tuple(variants), METRICS, lambda budget: {**settings(budget, laptop_steps), "network": network},
        measure, SOURCES, x=("share of the training", list(shares)) if len(shares) > 1 else None,
    )  # fmt: skip
