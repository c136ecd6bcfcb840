"""Our samplers against diffusers' schedulers, on the same fake model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lesson_lib import samplers
from lesson_lib.flow import RectifiedFlow
from lesson_lib.noise import Diffusion

STEPS = 25


def fake_model(x: Tensor, t: Tensor) -> Tensor:
    """Stand in for a network: a fixed nonlinear function of pictures (B, C, H, W) and times (B,) from 0 to 1000."""
    time = (t.float() / 1000).view(-1, 1, 1, 1)
    return torch.tanh(0.7 * x + 0.3 * x.flip(3)) * (0.5 + time) - 0.2 * x.roll(1, 2)


def compare_samplers() -> dict[str, float]:
    """Return the largest difference of a pixel after 25 steps, for each sampler, from the same noise in float32.

    DDPM and DDIM cut the predicted images to [-1, 1], as models of pixels do. Raises ImportError where diffusers is
    absent. Source: diffusers, schedulers/scheduling_*.py.
    """
    from diffusers import (
        DDIMScheduler,
        DDPMScheduler,
        FlowMatchEulerDiscreteScheduler,
        FlowMatchHeunDiscreteScheduler,
    )

    def start() -> torch.Generator:
        return torch.Generator().manual_seed(5)

    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    linear, flow = Diffusion.linear(clip=True), RectifiedFlow()
    pairs: dict[str, tuple[Any, dict[str, Any], Callable[[], Tensor]]] = {
        "ddpm": (DDPMScheduler(clip_sample=True), {},
                 lambda: samplers.ddpm(fake_model, noise, STEPS, linear, generator=start())),
        "ddim": (DDIMScheduler(clip_sample=True), {"use_clipped_model_output": True},
                 lambda: samplers.ddim(fake_model, noise, STEPS, linear)),
        "euler": (FlowMatchEulerDiscreteScheduler(), {}, lambda: samplers.euler(fake_model, noise, _times(), flow)),
        "heun": (FlowMatchHeunDiscreteScheduler(), {}, lambda: samplers.heun(fake_model, noise, _times(), flow)),
    }  # fmt: skip
    return {
        name: float((ours() - _run(theirs, noise, start(), options)).abs().max())
        for name, (theirs, options, ours) in pairs.items()
    }


def _times() -> Tensor:
    """The times at which diffusers stops by default: evenly from 1 to 1/1000, then 0."""
    return torch.cat([torch.linspace(1, 1 / 1000, STEPS), torch.zeros(1)])


def _run(scheduler: Any, x: Tensor, generator: torch.Generator, options: dict[str, Any]) -> Tensor:
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(fake_model(x, t.expand(len(x))), t, x, generator=generator, **options).prev_sample
    return x
