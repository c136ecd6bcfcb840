"""Vision Transformers on real pictures: the two that are shipped, positions, and how much data they need."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib import ROOT, attention, data, position, train, vit
from lesson_lib.data import ImageSet, digits, hub
from lesson_lib.evaluate import trained_parameters
from lesson_lib.experiments.autoencoders import CHECKPOINTS
from lesson_lib.experiments.run import Experiment, folder_for
from lesson_lib.results import proportion_interval
from lesson_lib.setup import Budget
from lesson_lib.train import TrainRecord, classification_loss, fit, load_model, save_model
from lesson_lib.vit import ViT, ViTConfig, at_size

SIZES = (50, 100, 200, 400, 800, 1397)


@dataclass(frozen=True)
class ViTRecipe:
    """One shipped classifier: its data, its size and how long it learns."""

    data: str
    config: ViTConfig
    steps: int
    lr: float = 1e-3
    batch_size: int = 64


VIT_RECIPES = {
    "vit-digits": ViTRecipe("digits", ViTConfig.digits(), steps=1500),
    "vit-fashion": ViTRecipe("fashion_mnist", ViTConfig.fashion(), steps=1500, batch_size=32),
}


class ConvClassifier(nn.Module):
    """The convolutional network beside the ViT: three 3×3 convolutions, the last two halving, then the mean.

    images: (B, 1, 8, 8). Returns (B, 10) logits. About as many weights as half of ViTConfig.digits.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, width // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(width // 2, width, 3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.norms = nn.ModuleList(nn.GroupNorm(8, channels) for channels in (width // 2, width, 2 * width))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, images: Tensor) -> Tensor:
        h = images
        for conv, norm in zip((self.conv1, self.conv2, self.conv3), self.norms, strict=True):
            h = F.gelu(norm(conv(h)))
        return self.head(h.mean(dim=(2, 3)))


def load_vit(name: str, device: str | torch.device = "cpu", folder: Path = CHECKPOINTS) -> ViT:
    """Return a shipped classifier, ready to use; raises ValueError, listing the names, for another."""
    if name not in VIT_RECIPES:
        raise ValueError(f"there is no shipped classifier {name!r}; there are {', '.join(VIT_RECIPES)}")
    model = load_model(folder / f"{name}.safetensors", lambda config: ViT(ViTConfig(**config)))
    assert isinstance(model, ViT)
    return model.eval().requires_grad_(False).to(device)


def pictures(recipe: ViTRecipe, split: str, folder: str | None = None, limit: int | None = None) -> ImageSet:
    """Return a recipe's pictures with labels; Fashion-MNIST at 32×32 needs a network or a local folder."""
    if recipe.data == "digits":
        return digits(split)
    return hub(folder or recipe.data, split, size=recipe.config.image_size, limit=limit)


@torch.no_grad()
def right(model: nn.Module, images: Tensor, labels: Tensor) -> int:
    """Return how many pictures a classifier reads as their labels say."""
    device = next(model.parameters()).device
    parts = zip(images.split(500), labels.split(500), strict=True)
    return sum(int((model(part.to(device)).argmax(dim=1).cpu() == wanted.cpu()).sum()) for part, wanted in parts)


def ship_vit(name: str, budget: Budget, out: Path | None = None, data: str | None = None) -> tuple[TrainRecord, str]:
    """Train one classifier, continuing where an earlier run was stopped, and write it to out.

    Returns the record and the Markdown section of its card. data: a local folder with the pictures of the hub.
    """
    recipe, out = VIT_RECIPES[name], out or folder_for(budget, CHECKPOINTS)
    steps = budget.choose(smoke=4, laptop=recipe.steps, gpu=4 * recipe.steps)
    known = pictures(recipe, "train", data, budget.choose(smoke=100, laptop=60_000)).to(budget.device)
    torch.manual_seed(0)
    model = ViT(recipe.config).to(budget.device)
    part = ROOT / "build" / "experiments" / f"shipped-{name}-{budget.name}.safetensors"
    part.parent.mkdir(parents=True, exist_ok=True)
    record = fit(
        model, (known.images, known.labels), classification_loss, steps=steps, batch_size=recipe.batch_size,
        lr=recipe.lr, weight_decay=0.05, warmup=100, cooldown=steps // 2, ema=0.99, checkpoint=part, resume=True,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    save_model(path, model, asdict(recipe.config))
    test = pictures(recipe, "test", data, budget.choose(smoke=100, laptop=10_000))
    hits = right(load_vit(name, budget.device, out), test.images, test.labels)
    share, low, high = proportion_interval(hits, len(test.labels))
    weights = trained_parameters(model)
    words = "scikit-learn's digits (8×8)" if recipe.data == "digits" else "Fashion-MNIST (32×32, real, MIT licence)"
    return record, (
        f"## {path.name}\n\n"
        f"**What.** A ViT of {weights:,} weights that reads the class of {words}: {recipe.config.grid**2} patches of "
        f"{recipe.config.patch_size}×{recipe.config.patch_size} pixels.\n\n"
        f"**How made.** `python -m lesson_lib.experiments shipped --model {name} --budget {budget.name}`: "
        f"{record.steps:,} steps of batch {record.config['batch_size']}, averaged weights; "
        f"{record.seconds / 60:.0f} minutes on {record.device}.\n\n"
        f"**File.** {path.stat().st_size:,} bytes, sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`.\n\n"
        f"**Quality.** Share of {len(test.labels):,} held-out pictures whose class it reads, with a 95 % Wilson "
        f"interval: {share:.1%} [{low:.1%}, {high:.1%}].\n"
    )


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "scikit-learn's digits, 8×8, 1,397 to train on and 400 held out",
        "vit": "ViTConfig.digits",
        "steps": budget.choose(smoke=4, laptop=500, gpu=2000),
        "batch_size": 50,
        "lr": 1e-3,
        "weight_decay": 0.05,
        "held_out": budget.choose(smoke=50, laptop=400),
    }


def learn(
    model: nn.Module, images: Tensor, labels: Tensor, seed: int, settings: dict[str, Any], budget: Budget
) -> None:  # fmt: skip
    """Train a classifier on some pictures, its learning rate falling in the second half."""
    tensors, steps = (images.to(budget.device), labels.to(budget.device)), settings["steps"]
    fit(
        model.to(budget.device), tensors, classification_loss, steps=steps, batch_size=settings["batch_size"],
        lr=settings["lr"], weight_decay=settings["weight_decay"], warmup=50, cooldown=steps // 2, ema=0.99, seed=seed,
        progress=False,
    )  # fmt: skip


def accuracy(model: nn.Module, count: int | None, seed: int, settings: dict[str, Any], budget: Budget) -> float:
    """Train a classifier on the first `count` digits of a shuffle that the seed decides; return its held-out share."""
    known, held_out = digits("train"), digits("test")
    rows = torch.randperm(len(known.labels), generator=torch.Generator().manual_seed(seed))[:count]
    learn(model, known.images[rows], known.labels[rows], seed, settings, budget)
    number = settings["held_out"]
    return right(model.eval(), held_out.images[:number], held_out.labels[:number]) / number


def measure_positions(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train a ViT with one kind of position on all training digits."""
    torch.manual_seed(seed)
    return {"accuracy": accuracy(ViT(replace(ViTConfig.digits(), positions=variant)), None, seed, settings, budget)}


def measure_data(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train one kind of network on every size of training set."""
    found = []
    for size in SIZES:
        torch.manual_seed(seed)
        model = ConvClassifier() if variant == "convolutional" else ViT(ViTConfig.digits())
        found.append(accuracy(model, size, seed, settings, budget))
    return {"accuracy": found}


# Positions of a classifier that meets another size: the words of the record → (positions, stretch).
READERS = {
    "none": ("none", "extend"),
    "learned, resized": ("learned", "interpolate"),
    "sin-cos, extended": ("sin-cos", "extend"),
    "sin-cos, interpolated": ("sin-cos", "interpolate"),
    "axial, extended": ("axial", "extend"),
    "axial, interpolated": ("axial", "interpolate"),
    "mixed, extended": ("mixed", "extend"),
    "mixed, interpolated": ("mixed", "interpolate"),
}
READ_AT = (12, 16, 20, 24, 32)  # pixels; trained at 16, a grid of 8 × 8 patches


def resolution_settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return settings(budget) | {
        "data": "scikit-learn's digits, 1,397 to train on and 400 held out, scaled bilinearly, trained at 16×16",
        "vit": "ViTConfig.digits with pictures of 16×16, 64 patches of 2×2, mean pooling",
        "steps": budget.choose(smoke=4, laptop=300, gpu=2000),
    }


@cache
def reader(kind: str, seed: int, steps: int, budget: Budget) -> ViT:
    """Train a ViT with one kind of positions on all training digits, at 16×16."""
    chosen, known = resolution_settings(budget), digits("train")
    torch.manual_seed(seed)
    model = ViT(replace(ViTConfig.digits(), image_size=16, positions=kind, pool="mean")).to(budget.device)
    learn(model, scaled(known.images, 16), known.labels, seed, {**chosen, "steps": steps}, budget)
    return model.eval()


def scaled(images: Tensor, side: int) -> Tensor:
    """Return pictures (N, C, side, side), scaled bilinearly: the same digit in more pixels or fewer."""
    return F.interpolate(images, size=(side, side), mode="bilinear")


def measure_resolution(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Read the held-out digits at every size of READ_AT."""
    kind, stretch = READERS[variant]
    model, held_out = reader(kind, seed, settings["steps"], budget), digits("test")
    number, found = settings["held_out"], []
    for side in READ_AT:
        images = scaled(held_out.images[:number], side)
        found.append(right(at_size(model, side, side, stretch), images, held_out.labels[:number]) / number)
    return {"accuracy": found}


METRICS = {"accuracy": "share of held-out digits whose class is read; higher is better"}
SOURCES = (attention, data, position, train, vit)
EXPERIMENTS = (
    Experiment(
        "vit_positions", "Does a ViT need to know where its patches lie?", ("none", "learned", "sin-cos"), METRICS,
        settings, measure_positions, SOURCES,
    ),
    Experiment(
        "data_efficiency", "How many pictures does a ViT need, and a convolutional network?", ("convolutional", "ViT"),
        METRICS, settings, measure_data, SOURCES, x=("training pictures", [float(size) for size in SIZES]),
    ),
    Experiment(
        "vit_resolution", "A ViT that learned to read at one size reads at another", tuple(READERS), METRICS,
        resolution_settings, measure_resolution, SOURCES, x=("side in pixels", [float(side) for side in READ_AT]),
    ),
)  # fmt: skip
