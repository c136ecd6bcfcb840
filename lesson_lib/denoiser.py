"""The two small networks of lessons 00 to 02: one for points in the plane, one for pictures."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.condition import injection
from lesson_lib.embed import LabelEmbedder, TimeEmbedder


def zero_(layer: nn.Module) -> nn.Module:
    """Set every parameter of a layer to zero, in place, so that a fresh network starts by adding nothing; return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class PointDenoiser(nn.Module):
    """Predict noise or velocity for points in the plane: a residual perceptron that hears the time in every layer.

    x: (B, 2); t: (B,) from 0 to 1000; labels: (B,) int64, only where num_classes is above 0. Returns (B, 2).
    """

    def __init__(self, width: int = 128, depth: int = 3, num_classes: int = 0) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.time = TimeEmbedder(width, frequencies=64)
        self.label = LabelEmbedder(num_classes, width) if num_classes else None
        self.enter = nn.Linear(2, width)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(depth)
        )
        self.leave = nn.Linear(width, 2)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        condition = self.time(t)
        if self.label is not None and labels is not None:
            condition = condition + self.label(labels)
        h = self.enter(x)
        for layer in self.layers:
            h = h + layer(h + condition)
        return self.leave(F.silu(h))


class ConvBlock(nn.Module):
    """Two convolutions around a residual; between them the block hears the time, then the condition.

    h: (B, C, H, W); time, condition: (B, D). Returns (B, C, H, W). The last convolution starts at zero, so that a
    fresh block changes nothing (DDPM, ADM).
    """

    def __init__(self, width: int, condition_size: int, time_way: str, condition_way: str | None) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, width)
        self.hear_time = injection(time_way, width, condition_size)
        self.hear_condition = injection(condition_way, width, condition_size) if condition_way else None
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        zero_(self.conv2)

    def forward(self, h: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
        r = self.norm2(self.conv1(F.silu(self.norm1(h))))
        r = self.hear_time(r, time)
        if self.hear_condition is not None:
            r = self.hear_condition(r, condition)
        return h + self.conv2(F.silu(r))


class ConvDenoiser(nn.Module):
    """Predict noise or velocity for pictures: a stack of residual convolutions at one resolution.

    x: (B, channels, H, W); t: (B,) from 0 to 1000; condition: labels (B,) int64 where num_classes is above 0, features
    (B, feature_size) where that is above 0, otherwise left out. Returns (B, channels, H, W).
    Pixels are first folded into patches (patch_size 4 makes an 8×8 grid of a 32×32 picture), which keeps it quick.
    time_way, condition_way: "concat", "add", "film" or "cross-attention". Raises ValueError where H or W does not
    divide by patch_size, or a condition is missing.
    """

    def __init__(
        self,
        channels: int = 1,
        patch_size: int = 1,
        width: int = 64,
        depth: int = 5,
        num_classes: int = 0,
        feature_size: int = 0,
        time_way: str = "film",
        condition_way: str = "film",
    ) -> None:
        super().__init__()
        self.num_classes, self.patch_size = num_classes, patch_size
        self.time = TimeEmbedder(width)
        self.condition: nn.Module | None = None
        if num_classes or feature_size:
            self.condition = LabelEmbedder(num_classes, width) if num_classes else nn.Linear(feature_size, width)
        self.enter = nn.Conv2d(channels * patch_size**2, width, 3, padding=1)
        way = condition_way if self.condition is not None else None
        self.blocks = nn.ModuleList(ConvBlock(width, width, time_way, way) for _ in range(depth))
        self.norm = nn.GroupNorm(8, width)
        self.leave = nn.Conv2d(width, channels * patch_size**2, 3, padding=1)
        zero_(self.leave)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor | None = None) -> Tensor:
        if x.shape[2] % self.patch_size or x.shape[3] % self.patch_size:
            raise ValueError(f"{x.shape[2]}×{x.shape[3]} pixels do not divide into patches of {self.patch_size}")
        if self.condition is not None and condition is None:
            raise ValueError("this network was built with a condition: call it as model(x, t, condition)")
        time = F.silu(self.time(t))
        heard = F.silu(self.condition(condition)) if self.condition is not None else None
        h = self.enter(F.pixel_unshuffle(x, self.patch_size))
        for block in self.blocks:
            h = block(h, time, heard)
        return F.pixel_shuffle(self.leave(F.silu(self.norm(h))), self.patch_size)
