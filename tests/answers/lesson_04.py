"""Different right answers to the exercises of lesson 04."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal

from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import guide
from lesson_lib.samplers import euler, euler_step
from lesson_lib.vae import AutoencoderKL


def draw_by_root(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    return torch.addcmul(mean, logvar.exp().sqrt(), noise)


def draw_by_power_of_two(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    return noise * torch.exp2(logvar / (2 * math.log(2))) + mean


def draw_by_distribution(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    gaussian = Normal(mean, (logvar / 2).exp())
    return gaussian.loc + gaussian.scale * noise


def divergence_by_distribution(mean: Tensor, logvar: Tensor) -> Tensor:
    standard = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    pairs = torch.distributions.kl_divergence(Normal(mean, torch.exp(logvar / 2)), standard)
    return pairs.reshape(len(mean), -1).sum(1)


def divergence_by_axes(mean: Tensor, logvar: Tensor) -> Tensor:
    terms = mean * mean + torch.expm1(logvar) - logvar
    return terms.sum(dim=tuple(range(1, mean.ndim))) / 2


def divergence_as_kingma_writes_it(mean: Tensor, logvar: Tensor) -> Tensor:
    return torch.stack([-0.5 * (1 + v - m**2 - v.exp()).sum() for m, v in zip(mean, logvar, strict=True)])


def scale_by_population(latents: Tensor) -> float:
    return latents.flatten().var(correction=0).rsqrt().item()


def scale_by_hand(latents: Tensor) -> float:
    numbers = latents.double().reshape(-1)
    spread = ((numbers - numbers.mean()) ** 2).sum() / (len(numbers) - 1)
    return 1.0 / math.sqrt(float(spread))


def hinge_by_clamp(real: Tensor, fake: Tensor) -> Tensor:
    return torch.stack([(1 - real).clamp(min=0).mean(), (fake + 1).clamp(min=0).mean()]).mean()


def hinge_by_where(real: Tensor, fake: Tensor) -> Tensor:
    lost = torch.where(real < 1, 1 - real, 0.0) + torch.where(fake > -1, 1 + fake, 0.0)
    return lost.sum() / (real.numel() + fake.numel())


def weight_without_detach(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4
) -> Tensor:
    pulls = []
    for loss in (reconstruction, adversarial):
        gradient = torch.autograd.grad(loss, last_layer, retain_graph=True)[0]
        pulls.append(gradient.square().sum().sqrt())
    return torch.clamp(pulls[0] / (pulls[1] + 1e-4), max=largest)


def weight_by_minimum(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    def pull(loss: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(loss, [last_layer], create_graph=True)
        return torch.linalg.vector_norm(gradient)

    ratio = (pull(reconstruction) / (1e-4 + pull(adversarial))).detach()
    return torch.minimum(ratio, torch.full_like(ratio, largest))


def images_by_a_loop(
    denoiser: nn.Module,
    vae: AutoencoderKL,
    labels: Tensor,
    noise: Tensor,
    steps: int,
    process: RectifiedFlow,
    guidance_scale: float = 1.0,
) -> Tensor:
    null = torch.full_like(labels, denoiser.num_classes)  # type: ignore[arg-type]
    times = process.grid(steps).to(noise.device).repeat(len(noise), 1)
    z = noise
    with torch.no_grad():
        for t, t_next in zip(times[:, :-1].T, times[:, 1:].T, strict=True):
            now = process.model_time(t)
            velocity = guide(denoiser(z, now, labels), denoiser(z, now, null), guidance_scale)
            z = euler_step(z, velocity, t, t_next).float()
        return F.hardtanh(vae.decode(vae.config.shift + z / vae.config.scale))


def images_by_a_function(
    denoiser: nn.Module,
    vae: AutoencoderKL,
    labels: Tensor,
    noise: Tensor,
    steps: int,
    process: RectifiedFlow,
    guidance_scale: float = 1.0,
) -> Tensor:
    def velocity(z: Tensor, t: Tensor) -> Tensor:
        without = denoiser(z, t, torch.full_like(labels, denoiser.num_classes))  # type: ignore[arg-type]
        return without + guidance_scale * (denoiser(z, t, labels) - without)

    stops = euler(velocity, noise, steps, process, trajectory=True)
    return vae.from_latents(stops[-1], batch_size=1)


def cost_by_layers(
    size: int, factor: int = 1, patch_size: int = 1, width: int = 384, depth: int = 12
) -> tuple[int, int]:
    latent, left = divmod(size, factor)
    side, over = divmod(latent, patch_size)
    if left or over:
        raise ValueError("a size that does not divide")
    tokens = side * side
    layers = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    linear = sum(tokens * enter * leave for enter, leave in layers)
    return tokens, sum(linear + tokens * tokens * width + tokens * width * tokens for _ in range(depth))


def cost_by_area(size: int, factor: int = 1, patch_size: int = 1, width: int = 384, depth: int = 12) -> tuple[int, int]:
    if size % (factor * patch_size) != 0:
        raise ValueError("a size that does not divide")
    tokens = size**2 // factor**2 // patch_size**2
    return tokens, 2 * depth * tokens * width * (6 * width + tokens)


def back_at_once(self: AutoencoderKL, latents: Tensor, batch_size: int = 256) -> Tensor:
    config = self.config
    return torch.clamp(self.decode((latents + config.shift * config.scale) / config.scale), -1, 1)


def back_in_a_loop(self: AutoencoderKL, latents: Tensor, batch_size: int = 256) -> Tensor:
    images = []
    for start in range(0, len(latents), batch_size):
        raw = latents[start : start + batch_size].div(self.config.scale).add(self.config.shift)
        images.append(F.hardtanh(self.decode(raw)))
    return torch.cat(images)


ANSWERS = {
    "vae.reparametrise": [draw_by_root, draw_by_power_of_two, draw_by_distribution],
    "vae.kl_divergence": [divergence_by_distribution, divergence_by_axes, divergence_as_kingma_writes_it],
    "vae.scale_factor": [scale_by_population, scale_by_hand],
    "vae.hinge_loss": [hinge_by_clamp, hinge_by_where],
    "vae.adaptive_weight": [weight_without_detach, weight_by_minimum],
    "vae.sample_images": [images_by_a_loop, images_by_a_function],
    "vae.transformer_cost": [cost_by_layers, cost_by_area],
    "vae.latents_bug": [back_at_once, back_in_a_loop],
}
