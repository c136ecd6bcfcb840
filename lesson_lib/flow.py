"""Rectified flow: a straight line from data to noise, the velocity along it, and which times to train on.

Convention of SD3 and FLUX: time runs from 0 (data) to 1 (noise), z_t = (1 - t) x_0 + t eps, velocity u = eps - x_0.
Lipman et al. and facebookresearch/flow_matching run time the other way: replace t by 1 - t and u by -u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lesson_lib.noise import expand

TIMES = ("uniform", "logit-normal", "mode")


def interpolate(x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Walk the share t of the straight line from the data to the noise: (1 - t) x0 + t noise.

    x0, noise: (B, ...); t: (B,) from 0 to 1. Returns (B, ...). Source: SD3 (arXiv 2403.03206, §3).
    """
    t = expand(t, x0)
    return (1 - t) * x0 + t * noise


def velocity_target(x0: Tensor, noise: Tensor) -> Tensor:
    """Return the velocity along the straight line, the same at every t: noise - x0.

    x0, noise: (B, ...). Returns (B, ...). Source: SD3 (arXiv 2403.03206, §3).
    """
    return noise - x0


def x0_from_velocity(z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Follow a predicted velocity back to the data: z_t - t u.

    z_t, velocity: (B, ...); t: (B,). Returns (B, ...).
    """
    return z_t - expand(t, z_t) * velocity


def eps_from_velocity(z_t: Tensor, velocity: Tensor, t: Tensor) -> Tensor:
    """Follow a predicted velocity on to the noise: z_t + (1 - t) u.

    z_t, velocity: (B, ...); t: (B,). Returns (B, ...).
    """
    return z_t + (1 - expand(t, z_t)) * velocity


def velocity_from_eps(z_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Turn predicted noise into a velocity: (eps - z_t) / (1 - t).

    z_t, eps: (B, ...); t: (B,), below 1. Returns (B, ...).
    """
    return (eps - z_t) / (1 - expand(t, z_t))


def logit_normal_times(count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Draw training times that favour the middle: the sigmoid of a normal variable.

    Returns (count,) float32 in (0, 1). A negative mean favours data, a positive one noise.
    Source: SD3 (arXiv 2403.03206, §3.1).
    """
    return torch.sigmoid(mean + std * torch.randn(count, generator=generator, device=generator.device))


def mode_times(count: int, generator: torch.Generator, scale: float = 1.29) -> Tensor:
    """Draw training times that favour the middle but keep some weight at both ends.

    Returns (count,) float32 in [0, 1]: t = 1 - u - scale (cos^2(pi u / 2) - 1 + u) for a uniform u; scale 0 is uniform.
    Raises ValueError outside -1 <= scale <= 2 / (pi - 2), where t would run backwards. Source: SD3 (§3.1).
    """
    if not -1 <= scale <= 2 / (math.pi - 2):
        raise ValueError(f"scale is {scale}; it must lie from -1 to {2 / (math.pi - 2):.3f}")
    u = torch.rand(count, generator=generator, device=generator.device)
    return 1 - u - scale * (torch.cos(torch.pi / 2 * u) ** 2 - 1 + u)


def shift_times(t: Tensor, shift: float) -> Tensor:
    """Move times towards the noise, as larger pictures need: shift t / (1 + (shift - 1) t).

    t: any shape, from 0 to 1. Returns the same shape; 0 and 1 stay. A shift of sqrt(m / n) makes m pixels as hard as n
    were. Source: SD3 (arXiv 2403.03206, §5.3.2).
    """
    return shift * t / (1 + (shift - 1) * t)


def flux_shift(tokens: int) -> float:
    """Return the shift that FLUX uses for a number of image tokens: exp of a line through (256, 0.5) and (4096, 1.15).

    Source: black-forest-labs/flux, src/flux/sampling.py.
    """
    return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path from data to noise, and how often each time is trained on.

    time: "uniform", "logit-normal" (mean, std) or "mode" (scale). shift: moves the times of training and of sampling.
    """

    time: str = "uniform"
    mean: float = 0.0
    std: float = 1.0
    scale: float = 1.29
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.time not in TIMES:
            raise ValueError(f"time is {self.time!r}; it must be one of {', '.join(TIMES)}")
        if self.shift <= 0 or self.std <= 0:
            raise ValueError(f"shift and std must be above 0, got {self.shift} and {self.std}")

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the times to train on: (count,) float32 on the generator's device."""
        if self.time == "logit-normal":
            t = logit_normal_times(count, generator, self.mean, self.std)
        elif self.time == "mode":
            t = mode_times(count, generator, self.scale)
        else:
            t = torch.rand(count, generator=generator, device=generator.device)
        return shift_times(t, self.shift)

    def training_pair(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noisy images at times t (B,) and the velocity that the network must predict from them."""
        return interpolate(x0, noise, t), velocity_target(x0, noise)

    def model_time(self, t: Tensor) -> Tensor:
        """Return times t (B,) as the networks of this course are fed them: 1000 t (SD3, FLUX, diffusers)."""
        return t.float() * 1000

    def grid(self, steps: int) -> Tensor:
        """Return the times a sampler stops at, from 1 (noise) to 0 (data): (steps + 1,) float64."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        return shift_times(torch.linspace(1, 0, steps + 1, dtype=torch.float64), self.shift)
