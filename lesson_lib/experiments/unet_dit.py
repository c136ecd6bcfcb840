"""U-Net or DiT: the same pictures, the same steps, at equal compute and at equal parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lesson_lib.dit import DiTConfig
from lesson_lib.experiments import dit_training
from lesson_lib.experiments.dit_training import Config
from lesson_lib.experiments.run import Experiment
from lesson_lib.setup import Budget
from lesson_lib.unet import UNetConfig

BASE = DiTConfig.shapes16()
LAPTOP_STEPS = 600
NETWORKS: dict[str, Config] = {
    "U-Net": UNetConfig.shapes16(),
    "DiT, equal compute": replace(BASE, hidden_size=152, depth=5),
    "DiT, equal parameters": replace(BASE, hidden_size=96),
}


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    network = "UNetConfig.shapes16 against DiTConfig.shapes16 of width 152 and depth 5, and of width 96"
    return {**dit_training.settings(budget, LAPTOP_STEPS), "network": network}


def measure(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train and measure one network."""
    return dit_training.last(dit_training.outcome(NETWORKS[variant], seed, (1.0,), budget, LAPTOP_STEPS))


EXPERIMENTS = (
    Experiment(
        "unet_dit", "U-Net and DiT at equal compute and at equal parameters", tuple(NETWORKS), dit_training.METRICS,
        settings, measure, dit_training.SOURCES,
    ),
)  # fmt: skip
