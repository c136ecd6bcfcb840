"""Where am I: positions in a DiT, at the trained size and at others, the base, and a task that needs diagonals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib import evaluate
from lesson_lib.attention import SelfAttention
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.evaluate import count_objects, load_judge
from lesson_lib.experiments.dit_training import (
    SAMPLING_STEPS,
    SOURCES,
    LearnedTable,
    experiment,
    settings,
    trained,
)
from lesson_lib.experiments.run import Experiment
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.position import AxialRope, MixedRope, grid_coordinates
from lesson_lib.samplers import euler
from lesson_lib.setup import Budget
from lesson_lib.train import fit
from lesson_lib.vit import at_size

LAPTOP_STEPS = 1500
SHARES = (0.25, 0.5, 1.0)

# A learned table starts as ViT's, N(0, 0.02²), or as N(0, 0.5²), about as large as a patch's token.
POSITIONS = {
    kind: replace(DiTConfig.shapes16(), positions=kind) for kind in ("none", "learned", "sin-cos", "axial", "mixed")
}
POSITIONS["learned, σ 0.5"] = LearnedTable.shapes16()
# What a network does with a grid that it was not trained on: the words of the record → (positions, stretch).
WAYS = {
    "none": ("none", "extend"),
    "learned, resized": ("learned", "interpolate"),
    "learned, σ 0.5, resized": ("learned, σ 0.5", "interpolate"),
    "sin-cos, extended": ("sin-cos", "extend"),
    "sin-cos, centred": ("sin-cos", "centre"),
    "sin-cos, interpolated": ("sin-cos", "interpolate"),
    "axial, extended": ("axial", "extend"),
    "axial, interpolated": ("axial", "interpolate"),
    "axial, NTK": ("axial", "ntk"),
    "mixed, extended": ("mixed", "extend"),
    "mixed, interpolated": ("mixed", "interpolate"),
}
BASES = {"base 10": 10.0, "base 100": None, "base 10,000": 10_000.0}  # None: the default, which is 100
STRETCHED = {1.0: (16, 16), 1.5: (24, 24), 2.0: (32, 32)}  # side over trained side → pixels
SHAPED = {0.5: (32, 16), 1.0: (16, 16), 2.0: (16, 32)}  # width over height → pixels

SIZE_METRICS = {
    "objects": "separate objects in a picture; the pictures of the training have one",
    "one": "share of pictures with exactly one object",
    "right": "share of the objects that have the colour and the shape asked for",
    "accuracy": "share of pictures that show one object, the one asked for; higher is better",
}
TASK_METRICS = {
    "diagonal": "share of the variance explained where each token is to name the mean of its diagonal",
    "offset": "share of the variance explained where each token is to name the token two down and two right of it",
}


def size_settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set; the training is that of rope_positions."""
    chosen = settings(budget, LAPTOP_STEPS)
    samples = budget.choose(smoke=24, laptop=96, gpu=960)
    return {**chosen, "network": "DiTConfig.shapes16, positions changed", "samples": samples, "guidance_scale": 2.0}


@torch.no_grad()
def draw(
    model: DiT, stretch: str, height: int, width: int, labels: Tensor, seed: int, scale: float = 2.0
) -> Tensor:  # fmt: skip
    """Return pictures (B, 3, height, width) of a network that was trained at another size; labels: (B,)."""
    noise = torch.randn(len(labels), 3, height, width, generator=torch.Generator().manual_seed(1000 + seed))
    guided = Guided(at_size(model, height, width, stretch), labels, scale)
    return euler(guided, noise.to(labels.device), SAMPLING_STEPS, RectifiedFlow()).clamp(-1, 1)


def reading(images: Tensor, labels: Tensor, device: torch.device) -> dict[str, float]:
    """Return the metrics of SIZE_METRICS of some pictures of any size."""
    total, right = count_objects(images, labels, load_judge(device))
    single = total == 1
    return {
        "objects": total.double().mean().item(),
        "one": single.double().mean().item(),
        "right": right.sum().item() / max(1, total.sum().item()),
        "accuracy": (single & (right == 1)).double().mean().item(),
    }


def at_sizes(
    config: DiTConfig, stretch: str, sizes: Mapping[float, tuple[int, int]], seed: int, chosen: dict, budget: Budget
) -> dict[str, list[float]]:
    """Train a network, or load it, and measure what it draws at some sizes: metric → one number for each."""
    model = trained(config, seed, (1.0,), budget, LAPTOP_STEPS)
    assert isinstance(model, DiT)
    labels = (torch.arange(chosen["samples"]) % 24).to(budget.device)
    found: dict[str, list[float]] = {name: [] for name in SIZE_METRICS}
    for height, width in sizes.values():
        images = draw(model, stretch, height, width, labels, seed, chosen["guidance_scale"])
        for name, value in reading(images, labels, budget.device).items():
            found[name].append(value)
    return found


def measure_sizes(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Draw at one, one and a half and two times the trained side."""
    kind, stretch = WAYS[variant]
    return at_sizes(POSITIONS[kind], stretch, STRETCHED, seed, settings, budget)


def measure_shapes(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Draw tall and wide pictures with a network that was trained on square ones."""
    kind, stretch = WAYS[variant]
    return at_sizes(POSITIONS[kind], stretch, SHAPED, seed, settings, budget)


def measure_base(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train with one base of the frequencies, and draw at three sizes."""
    config = replace(POSITIONS["axial"], rope_base=BASES[variant])
    return at_sizes(config, "extend", STRETCHED, seed, settings, budget)


# --- one layer, one question ---------------------------------------------------------------------------------------

HEADS = {"axial, 1 head": ("axial", 1), "mixed, 1 head": ("mixed", 1), "axial, 4 heads": ("axial", 4),
         "mixed, 4 heads": ("mixed", 4)}  # fmt: skip
SIDE, VALUES = 7, 4


class OneLayer(nn.Module):
    """One layer of attention on a 7 × 7 grid with one kind of rotation, of base 10: what can it look at?

    x: (B, 49, 4) values. Returns (B, 49, 4). Heads have 16 channels.
    """

    def __init__(self, kind: str, num_heads: int) -> None:
        super().__init__()
        width = 16 * num_heads
        self.before, self.attn, self.after = (
            nn.Linear(VALUES, width),
            SelfAttention(width, num_heads),
            nn.Linear(width, VALUES),
        )
        self.rope = AxialRope((8, 8), 10.0) if kind == "axial" else MixedRope(num_heads, 16)

    def forward(self, x: Tensor) -> Tensor:
        rotate = self.rope(grid_coordinates(SIDE, SIDE, device=x.device))
        return self.after(self.attn(self.before(x), rotate))


def task(name: str) -> Tensor:
    """Return the (49, 49) weights with which each token's answer is made of all tokens' values; rows sum to 1 or 0."""
    place = grid_coordinates(SIDE, SIDE)
    offset = place[None] - place[:, None]
    asked = offset[..., 0] == offset[..., 1] if name == "diagonal" else (offset == 2).all(dim=-1)
    return asked / asked.sum(dim=1, keepdim=True).clamp(min=1)


def task_settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "random numbers, 4 for each of 7 × 7 tokens",
        "network": "one layer of attention, heads of 16 channels, base 10",
        "steps": budget.choose(smoke=4, laptop=800),
        "batch_size": 64,
        "lr": 1e-2,
        "held_out": 1000,
    }


def explained(kind: str, num_heads: int, name: str, seed: int, settings: dict[str, Any], budget: Budget) -> float:
    """Train one layer on one task and return the share of the held-out variance that it explains."""
    generator = torch.Generator().manual_seed(seed)
    wanted = task(name)
    values = torch.randn(4000 + settings["held_out"], SIDE**2, VALUES, generator=generator)
    answers = wanted @ values
    heard = wanted.sum(dim=1) > 0  # tokens at the edge have nobody two down and two right

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        x, y = batch
        return F.mse_loss(model(x)[:, heard], y[:, heard])

    torch.manual_seed(seed)
    model = OneLayer(kind, num_heads).to(budget.device)
    steps = settings["steps"]
    fit(
        model, (values[:4000], answers[:4000]), loss, steps=steps, batch_size=settings["batch_size"],
        lr=settings["lr"], warmup=50, cooldown=steps // 2, ema=0.99, seed=seed, progress=False,
    )  # fmt: skip
    with torch.no_grad():
        x, y = values[4000:].to(budget.device), answers[4000:].to(budget.device)
        left = (model(x) - y)[:, heard].square().mean() / y[:, heard].square().mean()
    return 1 - left.item()


def measure_task(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train one layer on both tasks."""
    kind, num_heads = HEADS[variant]
    return {name: explained(kind, num_heads, name, seed, settings, budget) for name in TASK_METRICS}


SIZE_SOURCES = (*SOURCES, evaluate)
EXPERIMENTS = (
    experiment(
        "rope_positions", "Six ways to tell a DiT where its patches lie", POSITIONS,
        "DiTConfig.shapes16, positions changed", LAPTOP_STEPS, SHARES,
    ),
    Experiment(
        "rope_sizes", "Drawing larger pictures than those of the training", tuple(WAYS), SIZE_METRICS, size_settings,
        measure_sizes, SIZE_SOURCES, x=("side over trained side", list(STRETCHED)),
    ),
    Experiment(
        "rope_shapes", "Drawing tall and wide pictures after square ones", tuple(WAYS), SIZE_METRICS, size_settings,
        measure_shapes, SIZE_SOURCES, x=("width over height", list(SHAPED)),
    ),
    Experiment(
        "rope_base", "Which base for a grid of four patches a side?", tuple(BASES), SIZE_METRICS, size_settings,
        measure_base, SIZE_SOURCES, x=("side over trained side", list(STRETCHED)),
    ),
    Experiment(
        "rope_diagonal", "One layer that is to look along a diagonal, and at one diagonal neighbour", tuple(HEADS),
        TASK_METRICS, task_settings, measure_task, SIZE_SOURCES,
    ),
)  # fmt: skip
