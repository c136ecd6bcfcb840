"""Train and ship the models that lessons 00 to 02 sample from: python -m lesson_lib.experiments shipped."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesson_lib import DATA, ROOT
from lesson_lib.data import digits, shapes
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.flow import RectifiedFlow
from lesson_lib.noise import Diffusion
from lesson_lib.setup import Budget
from lesson_lib.train import TrainRecord, denoising_loss, fit, load_model, save_model

CHECKPOINTS = DATA / "checkpoints"


@dataclass(frozen=True)
class Recipe:
    """One shipped denoiser: its data, what it predicts ("flow" or "eps"), its size and how long it learns."""

    data: str
    predicts: str
    width: int
    depth: int
    patch_size: int
    steps: int
    lr: float = 2e-3


RECIPES = {
    "shapes-flow": Recipe("shapes", "flow", width=96, depth=5, patch_size=4, steps=6000),
    "digits-flow": Recipe("digits", "flow", width=48, depth=4, patch_size=1, steps=4000),
    "digits-eps": Recipe("digits", "eps", width=48, depth=4, patch_size=1, steps=4000),
}


def process_of(predicts: str) -> RectifiedFlow | Diffusion:
    """Return the process of the shipped models: a flow trained mostly on middle times, or cosine noise prediction."""
    return RectifiedFlow(time="logit-normal") if predicts == "flow" else Diffusion.cosine(clip=True)


def build(config: dict[str, Any]) -> ConvDenoiser:
    """Build the untrained network of a checkpoint's configuration."""
    colours, classes = (3, 24) if config["data"] == "shapes" else (1, 10)
    size = {name: config[name] for name in ("patch_size", "width", "depth")}
    return ConvDenoiser(colours, num_classes=classes, **size)


def load_shipped(name: str, device: str | torch.device = "cpu") -> tuple[ConvDenoiser, RectifiedFlow | Diffusion]:
    """Return a shipped denoiser and its process; raises ValueError, listing the names, for another."""
    if name not in RECIPES:
        raise ValueError(f"there is no shipped model {name!r}; there are {', '.join(RECIPES)}")
    model = load_model(CHECKPOINTS / f"{name}.safetensors", build)
    assert isinstance(model, ConvDenoiser)
    return model.to(device), process_of(RECIPES[name].predicts)


def _tensors(recipe: Recipe, device: torch.device, count: int) -> tuple[Tensor, Tensor]:
    data = shapes(count, seed=11) if recipe.data == "shapes" else digits("train")
    data = data.to(device)
    return data.images, data.labels


def ship(name: str, budget: Budget, out: Path = CHECKPOINTS) -> TrainRecord:
    """Train one shipped model, continuing where an earlier run was stopped, and write it to out/NAME.safetensors."""
    recipe = RECIPES[name]
    steps = budget.choose(smoke=4, laptop=recipe.steps, gpu=4 * recipe.steps, long=10 * recipe.steps)
    torch.manual_seed(0)
    model = build(asdict(recipe)).to(budget.device)
    tensors = _tensors(recipe, budget.device, budget.choose(smoke=100, laptop=20_000))
    part = ROOT / "build" / "experiments" / f"shipped-{name}-{budget.name}.safetensors"
    part.parent.mkdir(parents=True, exist_ok=True)
    loss = denoising_loss(process_of(recipe.predicts), label_dropout=0.1)
    record = fit(
        model, tensors, loss, steps=steps, lr=recipe.lr, warmup=100, ema=0.999, checkpoint=part, resume=True
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    save_model(path, model, asdict(recipe))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    print(f"{path.name}: {record.steps} steps, {record.seconds:.0f} s, {path.stat().st_size:,} bytes, sha256 {digest}")
    return record
