"""Different right answers to the exercises of lesson 01; see lesson_00.py for the rules."""

from __future__ import annotations

import torch
from torch import Tensor


def per_image(level: Tensor, like: Tensor) -> Tensor:
    return level.reshape(-1, *[1] * (like.dim() - 1))


def add_noise_by_angle(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    angle = torch.acos(per_image(alpha_bar, x0).sqrt())
    return torch.cos(angle) * x0 + torch.sin(angle) * noise


def add_noise_by_lerp(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    a = per_image(alpha_bar, x0)
    return torch.sqrt(a) * (x0 + torch.sqrt((1 - a) / a) * noise)


def x0_two_quotients(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    a = per_image(alpha_bar, x_t)
    return x_t / a**0.5 - (1 / a - 1) ** 0.5 * eps


def x0_by_power(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    signal = per_image(alpha_bar, x_t).pow(0.5)
    sigma = (1 - signal**2).pow(0.5)
    return (x_t - eps * sigma).div(signal)


def posterior_by_precision(x0: Tensor, x_t: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> tuple[Tensor, Tensor]:
    """Bayes: the precisions of prior and likelihood add, and the means are weighted by them."""
    now, before = per_image(alpha_bar, x_t), per_image(alpha_bar_prev, x_t)
    alpha = now / before
    prior, likelihood = 1 - before, (1 - alpha) / alpha
    total = prior + likelihood
    mean = (likelihood * before.sqrt() * x0 + prior * x_t / alpha.sqrt()) / total
    return mean, prior * likelihood / total


def posterior_in_terms(x0: Tensor, x_t: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> tuple[Tensor, Tensor]:
    a, p = per_image(alpha_bar, x_t), per_image(alpha_bar_prev, x_t)
    beta = (p - a) / p
    first = torch.sqrt(p) * beta / (1 - a)
    second = torch.sqrt(1 - beta) * (1 - p) / (1 - a)
    return first * x0 + second * x_t, (1 - p) / (1 - a) * beta


def ddim_from_variances(
    x0: Tensor, eps: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, noise: Tensor, eta: float = 0.0
) -> Tensor:
    a, p = per_image(alpha_bar, x0), per_image(alpha_bar_prev, x0)
    fresh = eta**2 * (1 - p) / (1 - a) * (1 - a / p)
    kept = 1 - p - fresh
    return torch.sqrt(p) * x0 + torch.sqrt(kept) * eps + torch.sqrt(fresh) * noise


def ddim_from_parts(
    x0: Tensor, eps: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor, noise: Tensor, eta: float = 0.0
) -> Tensor:
    a, p = per_image(alpha_bar, x0), per_image(alpha_bar_prev, x0)
    sigma = eta * torch.sqrt((1 - p) / (1 - a)) * torch.sqrt(1 - a / p)
    result = p.sqrt() * x0
    result = result + (1 - p - sigma.square()).sqrt() * eps
    return result + sigma * noise


def velocity_negated(x0: Tensor, noise: Tensor) -> Tensor:
    return -(x0 - noise)


def velocity_sub(x0: Tensor, noise: Tensor) -> Tensor:
    return torch.sub(noise, x0)


def heun_by_hand(velocity, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    dt = per_image(t_next - t, z)
    k1 = velocity(z, t)
    k2 = velocity(z + dt * k1, t_next)
    return z + dt * 0.5 * (k1 + k2)


def heun_as_correction(velocity, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    dt = per_image(t_next - t, z)
    first = velocity(z, t)
    tried = z + dt * first
    return tried + dt / 2 * (velocity(tried, t_next) - first)


def times_by_exponential(count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    logit = torch.empty(count, device=generator.device).normal_(mean, std, generator=generator)
    return 1 / (1 + torch.exp(-logit))


def times_by_inverse(count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Another way to normal numbers: through the inverse of the distribution function."""
    u = torch.rand(count, generator=generator, device=generator.device, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return torch.sigmoid(mean + std * torch.special.ndtri(u)).float()


ANSWERS = {
    "noise.add_noise": [add_noise_by_angle, add_noise_by_lerp],
    "noise.x0_from_eps": [x0_two_quotients, x0_by_power],
    "noise.posterior": [posterior_by_precision, posterior_in_terms],
    "samplers.ddim_step": [ddim_from_variances, ddim_from_parts],
    "flow.velocity_target": [velocity_negated, velocity_sub],
    "samplers.heun_step": [heun_by_hand, heun_as_correction],
    "flow.logit_normal_times": [times_by_exponential, times_by_inverse],
}
