"""How far a network looks, measured by gradients: a U-Net against as many residual blocks at full resolution."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib import denoiser, unet
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.evaluate import input_gradient, receptive_side
from lesson_lib.experiments.run import Experiment
from lesson_lib.setup import Budget
from lesson_lib.unet import UNet, UNetConfig

LEVELS = [1, 2, 3, 4]
SIZE = 64
SHARES = {"side": 0.5, "side_95": 0.95}
METRICS = {
    "side": "side in pixels of the square around a pixel that holds half of its gradient",
    "side_95": "the same for 95 %, of which the normalisation layers, which tie all pixels, decide the last part",
}


def blocks_of(levels: int) -> int:
    """Return the residual blocks of a U-Net with one of them in each level of its encoder: n + 2 in the middle + 2n."""
    return levels + 2 + 2 * levels


def network_of(variant: str, levels: int) -> nn.Module:
    """Return an untrained network with random weights everywhere: those that start at zero would let nothing pass."""
    model: nn.Module
    if variant == "U-Net":
        config = UNetConfig(
            model_channels=16, channel_mult=(1, 2, 2, 2)[:levels], num_res_blocks=1, attention=(0,) * levels,
            middle_attention=0, groups=8,
        )  # fmt: skip
        model = UNet(config)
    else:
        model = ConvDenoiser(3, width=16, depth=blocks_of(levels))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    return model


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "Gaussian noise, 64×64; random weights, nothing trained",
        "images": budget.choose(smoke=2, laptop=16),
        "width": 16,
    }


def gradient_of(model: nn.Module, images: Tensor) -> Tensor:
    """Return input_gradient of the middle pixel at the middle of the noise levels."""
    t = torch.full((len(images),), 500.0, device=images.device)
    return input_gradient(lambda x: model(x, t), images, SIZE // 2, SIZE // 2)


def measure(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Return METRICS at each number of levels."""
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for levels in LEVELS:
        torch.manual_seed(seed)
        images = torch.randn(settings["images"], 3, SIZE, SIZE).to(budget.device)
        gradient = gradient_of(network_of(variant, levels).to(budget.device), images)
        for name, share in SHARES.items():
            found[name].append(float(receptive_side(gradient, SIZE // 2, SIZE // 2, share)))
    return found


EXPERIMENTS = (
    Experiment(
        "receptive_field",
        "How far does one output pixel look?",
        ("U-Net", "plain convolutions"),
        METRICS,
        settings,
        measure,
        (denoiser, unet),
        ("levels of the U-Net", [float(n) for n in LEVELS]),
    ),
)
