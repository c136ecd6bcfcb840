"""U-Net or DiT: the same pictures, the same steps, at equal compute and at equal parameters."""

from __future__ import annotations

from dataclasses import replace

from lesson_lib.dit import DiTConfig
from lesson_lib.experiments.dit_training import Config, experiment
from lesson_lib.unet import UNetConfig

BASE = DiTConfig.shapes16()
LAPTOP_STEPS = 600
NETWORKS: dict[str, Config] = {
    "U-Net": UNetConfig.shapes16(),
    "DiT, equal compute": replace(BASE, hidden_size=152, depth=5),
    "DiT, equal parameters": replace(BASE, hidden_size=96),
}

EXPERIMENTS = (
    experiment(
        "unet_dit", "U-Net and DiT at equal compute and at equal parameters", NETWORKS,
        "UNetConfig.shapes16 against DiTConfig.shapes16 of width 152 and depth 5, and of width 96", LAPTOP_STEPS,
    ),
)  # fmt: skip
