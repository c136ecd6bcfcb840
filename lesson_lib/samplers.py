"""From noise to pictures: DDPM, DDIM, Euler and Heun, all called in the same way.

    images = sampler(model, noise, steps, process, generator=…, progress=…, trajectory=…)

model: called model(x, t) with x (B, ...) and t (B,) floats from 0 to 1000. noise: (B, ...), where to start.
steps: how many, or the grid itself, noisiest first. process: a Diffusion for ddpm and ddim, a RectifiedFlow for euler
and heun. Returns (B, ...); with trajectory=True (stops, B, ...), the noise first and the result last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lesson_lib.flow import RectifiedFlow
from lesson_lib.noise import Diffusion, expand, learned_variance, posterior

Model = Callable[[Tensor, Tensor], Tensor]


def ddim_step(
    x0: Tensor, eps: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, noise: Tensor, eta: float = 0.0
) -> Tensor:
    """Take one DDIM step: mix the predicted image with the predicted noise again, at the lower noise level.

    x0, eps: (B, ...) predictions; alpha_bar, alpha_bar_prev: (B,) now and at the step to go to; noise: (B, ...) fresh.
    eta: share of the noise that is fresh; 0 is deterministic, 1 as random as DDPM. Returns (B, ...).
    Source: DDIM (arXiv 2010.02502, Eqs. 12 and 16).
    """
    alpha_bar, alpha_bar_prev = expand(alpha_bar, x0), expand(alpha_bar_prev, x0)
    sigma = eta * ((1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)).sqrt()
    return alpha_bar_prev.sqrt() * x0 + (1 - alpha_bar_prev - sigma**2).clamp(min=0).sqrt() * eps + sigma * noise


def euler_step(z: Tensor, velocity: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Take one Euler step: walk along the velocity from time t to time t_next.

    z, velocity: (B, ...); t, t_next: (B,), t_next below t on the way to the data. Returns (B, ...).
    """
    return z + expand(t_next - t, z) * velocity


def heun_step(velocity: Model, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """Take one Heun step: try Euler, look at the velocity there too, and walk along the mean of the two.

    velocity: a function of (z, t); z: (B, ...); t, t_next: (B,). Returns (B, ...). Asks for the velocity twice.
    Source: EDM (arXiv 2206.00364, Alg. 1).
    """
    here = velocity(z, t)
    there = velocity(euler_step(z, here, t, t_next), t_next)
    return euler_step(z, (here + there) / 2, t, t_next)


@torch.no_grad()
def ddpm(
    model: Model,
    noise: Tensor,
    steps: int | Tensor,
    process: Diffusion,
    *,
    generator: torch.Generator | None = None,
    progress: bool = False,
    trajectory: bool = False,
) -> Tensor:
    """Sample as DDPM does: at every step draw from the posterior around the predicted image. One call a step.

    Arguments and result as at the top of this module. Source: DDPM (arXiv 2006.11239, Alg. 2).
    """
    grid = _diffusion_grid(process, steps)
    x, stops = noise, [noise]
    for t, alpha_bar, alpha_bar_prev in _watch(grid, progress, "DDPM"):
        prediction = _call(model, x, process.model_time(t))
        if process.variance == "learned":
            prediction, v = prediction.chunk(2, dim=1)
        x0, _ = process.predicted_x0_eps(prediction, x, alpha_bar)
        mean, variance = posterior(x0, x, alpha_bar, alpha_bar_prev)
        if process.variance == "large":
            variance = expand(1 - alpha_bar / alpha_bar_prev, x)
        elif process.variance == "learned":
            variance = learned_variance(v, alpha_bar, alpha_bar_prev)
        x = mean
        if int(t) > 0 and float(alpha_bar_prev) < 1:
            x = mean + variance.sqrt() * _normal(mean, generator)
        if trajectory:
            stops.append(x)
    return torch.stack(stops) if trajectory else x


@torch.no_grad()
def ddim(
    model: Model,
    noise: Tensor,
    steps: int | Tensor,
    process: Diffusion,
    *,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    progress: bool = False,
    trajectory: bool = False,
) -> Tensor:
    """Sample as DDIM does: jump towards the predicted image and put the predicted noise back. One call a step.

    eta: 0 is deterministic, 1 adds as much fresh noise as DDPM. The rest is as at the top of this module.
    Source: DDIM (arXiv 2010.02502, Eq. 12).
    """
    grid = _diffusion_grid(process, steps)
    x, stops = noise, [noise]
    for t, alpha_bar, alpha_bar_prev in _watch(grid, progress, "DDIM"):
        prediction = _call(model, x, process.model_time(t))
        if process.variance == "learned":
            prediction, _ = prediction.chunk(2, dim=1)
        x0, eps = process.predicted_x0_eps(prediction, x, alpha_bar)
        fresh = _normal(x, generator) if eta > 0 else torch.zeros_like(x)
        x = ddim_step(x0, eps, alpha_bar, alpha_bar_prev, fresh, eta)
        if trajectory:
            stops.append(x)
    return torch.stack(stops) if trajectory else x


@torch.no_grad()
def euler(
    model: Model,
    noise: Tensor,
    steps: int | Tensor,
    process: RectifiedFlow,
    *,
    generator: torch.Generator | None = None,
    progress: bool = False,
    trajectory: bool = False,
) -> Tensor:
    """Sample by following the velocity in straight strides, from noise to data. One call a step.

    Arguments and result as at the top of this module; generator is not used (the path is deterministic).
    """
    z, stops = noise, [noise]
    for t, t_next in _watch(_flow_grid(process, steps), progress, "Euler"):
        z = euler_step(z, _call(model, z, process.model_time(t)), t, t_next)
        if trajectory:
            stops.append(z)
    return torch.stack(stops) if trajectory else z


@torch.no_grad()
def heun(
    model: Model,
    noise: Tensor,
    steps: int | Tensor,
    process: RectifiedFlow,
    *,
    generator: torch.Generator | None = None,
    progress: bool = False,
    trajectory: bool = False,
) -> Tensor:
    """Sample by following the mean of the velocities at both ends of each stride. 2 steps - 1 calls in all.

    The last stride, to time 0, is an Euler step, because no network is trained there (EDM, arXiv 2206.00364, Alg. 1).
    Arguments and result as at the top of this module; generator is not used (the path is deterministic).
    """
    z, stops = noise, [noise]
    for t, t_next in _watch(_flow_grid(process, steps), progress, "Heun"):
        if float(t_next) > 0:
            z = heun_step(lambda z, t: _call(model, z, process.model_time(t)), z, t, t_next)
        else:
            z = euler_step(z, _call(model, z, process.model_time(t)), t, t_next)
        if trajectory:
            stops.append(z)
    return torch.stack(stops) if trajectory else z


SAMPLERS: dict[str, Callable[..., Tensor]] = {"ddpm": ddpm, "ddim": ddim, "euler": euler, "heun": heun}


def _diffusion_grid(process: Diffusion, steps: int | Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return for each stop: the step t, alpha_bar there and alpha_bar at the next stop, each (1,) on the CPU."""
    if not isinstance(process, Diffusion):
        raise TypeError(f"ddpm and ddim need a Diffusion process; {type(process).__name__} goes with euler and heun")
    t = process.grid(steps) if isinstance(steps, int) else torch.as_tensor(steps, dtype=torch.int64).cpu()
    if len(t) == 0 or not bool((t[1:] < t[:-1]).all()):
        raise ValueError("a grid of steps must fall from the noisiest step to the cleanest, without repeats")
    alpha_bar = process.alpha_bar_at(t)
    previous = process.alpha_bar_at(torch.cat([t[1:], torch.tensor([-1])]))
    return list(zip(t.split(1), alpha_bar.split(1), previous.split(1), strict=True))


def _flow_grid(process: RectifiedFlow, steps: int | Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return for each stride the time it leaves and the time it reaches, each (1,) on the CPU."""
    if not isinstance(process, RectifiedFlow):
        raise TypeError(
            f"euler and heun need a RectifiedFlow process; {type(process).__name__} goes with ddpm and ddim"
        )
    t = process.grid(steps) if isinstance(steps, int) else torch.as_tensor(steps, dtype=torch.float64).cpu()
    if len(t) < 2 or not bool((t[1:] < t[:-1]).all()):
        raise ValueError("a grid of times must have at least two entries and fall from the noise to the data")
    return list(zip(t[:-1].split(1), t[1:].split(1), strict=True))


def _call(model: Model, x: Tensor, time: Tensor) -> Tensor:
    """Call the model with one time for each image, on the images' device."""
    return model(x, time.to(x.device).expand(len(x)))


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw standard normal noise in the shape and on the device of like."""
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def _watch(stops: list, progress: bool, name: str) -> Iterable:
    """Put a progress bar around the stops where one is asked for."""
    if not progress:
        return stops
    from tqdm.auto import tqdm

    return tqdm(stops, desc=name, unit="step")
