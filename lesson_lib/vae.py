"""The latent space: an autoencoder that makes pictures small before diffusion, and what it is trained with.

Read from the top: the Gaussian that stands for a picture, encoder and decoder, the autoencoder and its scaled latents,
the terms of its loss, and last the loss of a training run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.samplers import euler
from lesson_lib.unet import AttentionBlock, Downsample, ResBlock, Upsample, check_size


def reparametrise(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Draw from a Gaussian so that gradients reach its mean and its variance: mean + exp(logvar / 2) * noise.

    mean, logvar (the logarithm of the variance), noise (standard normal): one shape, which is also the result's.
    Source: Auto-Encoding Variational Bayes (arXiv 1312.6114, §2.4).
    """
    return mean + torch.exp(0.5 * logvar) * noise


def kl_divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return how far each picture's Gaussian is from the standard normal, in nats, summed over its numbers.

    mean, logvar: (B, ...). Returns (B,): half the sum of mean² + variance − 1 − logvar.
    Source: Auto-Encoding Variational Bayes (arXiv 1312.6114, App. B).
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(dim=1)


def scale_factor(latents: Tensor) -> float:
    """Return the number that gives latents a standard deviation of 1: one over that of all their numbers together.

    latents: (N, C, H, W), from real pictures. The mean is not removed, and all channels share the one number.
    Source: latent diffusion (arXiv 2112.10752, App. G); CompVis/latent-diffusion, ldm/models/diffusion/ddpm.py.
    """
    return float(1 / latents.std())


@dataclass(frozen=True)
class VAEConfig:
    """The choices that make one autoencoder. Each level has half the resolution of the one before.

    channel_mult: the channels of level i are channels * channel_mult[i]. num_res_blocks: in a level of the encoder (the
    decoder has one more). scale, shift: the diffusion model works with (latent − shift) * scale.
    Raises ValueError where channels do not divide into groups.
    """

    in_channels: int = 3
    channels: int = 32
    channel_mult: tuple[int, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    latent_channels: int = 4
    groups: int = 8
    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not self.channel_mult or self.num_res_blocks < 1:
            raise ValueError("VAEConfig: an autoencoder needs at least one level, and one residual block in each")
        for channels in self.widths:
            if channels % self.groups:
                raise ValueError(f"VAEConfig: {channels} channels do not divide into {self.groups} groups")
        if self.latent_channels < 1:
            raise ValueError(f"VAEConfig: latent_channels is {self.latent_channels}; it must be at least 1")
        if not self.scale > 0:
            raise ValueError(f"VAEConfig: scale is {self.scale}; latents are multiplied by it, so it must be above 0")

    @property
    def widths(self) -> tuple[int, ...]:
        """The channels of every level, the finest first."""
        return tuple(self.channels * mult for mult in self.channel_mult)

    @property
    def factor(self) -> int:
        """How many pixels of a side become one latent place: f, in the names of LDM's models (kl-f8)."""
        return int(2 ** (len(self.channel_mult) - 1))

    @classmethod
    def ldm_kl_f8(cls) -> VAEConfig:
        """The autoencoder of latent diffusion, Stable Diffusion 1 and 2, and DiT: 83.7 M weights (arXiv 2112.10752)."""
        return cls(channels=128, channel_mult=(1, 2, 4, 4), num_res_blocks=2, groups=32, scale=0.18215)


def _middle(channels: int, groups: int) -> nn.Sequential:
    return nn.Sequential(
        ResBlock(channels, channels, groups=groups),
        AttentionBlock(channels, groups=groups),
        ResBlock(channels, channels, groups=groups),
    )


class Encoder(nn.Module):
    """Turn a picture into the mean and the log-variance of each latent number.

    x: (B, in_channels, H, W). Returns (B, 2 * latent_channels, H/f, W/f).
    Source: CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py, Encoder.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths, last = config.widths, len(config.widths) - 1
        self.enter = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down = nn.Sequential()
        current = widths[0]
        for level, width in enumerate(widths):
            for _ in range(config.num_res_blocks):
                self.down.append(ResBlock(current, width, groups=config.groups))
                current = width
            if level < last:
                self.down.append(Downsample(width, pad_after=True))
        self.middle = _middle(current, config.groups)
        self.norm = nn.GroupNorm(config.groups, current, 1e-6)
        self.leave = nn.Conv2d(current, 2 * config.latent_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.middle(self.down(self.enter(x)))
        return self.leave(F.silu(self.norm(h)))


class Decoder(nn.Module):
    """Turn latents back into a picture: the encoder mirrored, with one more residual block in every level.

    z: (B, latent_channels, h, w). Returns (B, in_channels, h * f, w * f). There are no skips: all must pass through z.
    Source: CompVis/latent-diffusion, ldm/modules/diffusionmodules/model.py, Decoder.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.widths
        current = widths[-1]
        self.enter = nn.Conv2d(config.latent_channels, current, 3, padding=1)
        self.middle = _middle(current, config.groups)
        self.up = nn.Sequential()
        for level in range(len(widths) - 1, -1, -1):
            for _ in range(config.num_res_blocks + 1):
                self.up.append(ResBlock(current, widths[level], groups=config.groups))
                current = widths[level]
            if level > 0:
                self.up.append(Upsample(current))
        self.norm = nn.GroupNorm(config.groups, current, 1e-6)
        self.leave = nn.Conv2d(current, config.in_channels, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        h = self.up(self.middle(self.enter(z)))
        return self.leave(F.silu(self.norm(h)))


class AutoencoderKL(nn.Module):
    """Compress pictures to a small map of latents that a diffusion model can work on, and bring them back.

    Source: latent diffusion (arXiv 2112.10752, §3.1 and App. G); CompVis/latent-diffusion, ldm/models/autoencoder.py.
    """

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the log-variance, each (B, latent_channels, H/f, W/f), of the Gaussian of each picture.

        x: (B, in_channels, H, W) in [-1, 1]. Raises ValueError for other channels or a size that f does not divide.
        The log-variance is clamped to [-30, 20], as in LDM.
        """
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"AutoencoderKL: expects pictures of shape (B, {self.config.in_channels}, H, W), got {tuple(x.shape)}"
            )
        check_size("AutoencoderKL", x.shape[2], x.shape[3], len(self.config.channel_mult) - 1)
        mean, logvar = self.quant(self.encoder(x)).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, z: Tensor) -> Tensor:
        """Return the pictures (B, in_channels, h * f, w * f) of latents z: (B, latent_channels, h, w), not clamped."""
        if z.ndim != 4 or z.shape[1] != self.config.latent_channels:
            raise ValueError(
                f"AutoencoderKL: expects latents of shape (B, {self.config.latent_channels}, h, w), got "
                f"{tuple(z.shape)}; decode takes what encode returns, and from_latents what to_latents returns"
            )
        return self.decoder(self.post_quant(z))

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction (B, in_channels, H, W), the mean and the log-variance; noise None uses the mean."""
        mean, logvar = self.encode(x)
        z = mean if noise is None else reparametrise(mean, logvar, noise)
        return self.decode(z), mean, logvar

    @torch.no_grad()
    def to_latents(self, images: Tensor, generator: torch.Generator | None = None, batch_size: int = 256) -> Tensor:
        """Return the latents that a diffusion model learns from: (z − shift) * scale, in batches, without gradients.

        images: (N, in_channels, H, W) in [-1, 1]. Returns (N, latent_channels, H/f, W/f).
        generator: draw z from each picture's Gaussian; None takes its mean.
        """
        parts = []
        for batch in images.split(batch_size):
            mean, logvar = self.encode(batch)
            if generator is not None:
                noise = torch.randn(mean.shape, generator=generator, device=generator.device).to(mean)
                mean = reparametrise(mean, logvar, noise)
            parts.append((mean - self.config.shift) * self.config.scale)
        return torch.cat(parts)

    @torch.no_grad()
    def from_latents(self, latents: Tensor, batch_size: int = 256) -> Tensor:
        """Return the pictures of what a diffusion model drew: decode(latents / scale + shift), clamped to [-1, 1].

        latents: (N, latent_channels, h, w). Returns (N, in_channels, h * f, w * f).
        """
        parts = [self.decode(batch / self.config.scale + self.config.shift) for batch in latents.split(batch_size)]
        return torch.cat(parts).clamp(-1, 1)


def sample_images(
    denoiser: nn.Module,
    vae: AutoencoderKL,
    labels: Tensor,
    noise: Tensor,
    steps: int,
    process: RectifiedFlow,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Draw pictures by latent diffusion: walk from noise to latents with Euler's method, then decode them.

    denoiser: predicts the velocity of scaled latents; labels: (N,) int64, one class for each picture;
    noise: (N, latent_channels, h, w) standard normal. Returns (N, in_channels, h * f, w * f) in [-1, 1].
    Source: latent diffusion (arXiv 2112.10752, §3.2).
    """
    latents = euler(Guided(denoiser, labels, guidance_scale), noise, steps, process)
    return vae.from_latents(latents)


def perceptual_distance(ours: list[Tensor], real: list[Tensor]) -> Tensor:
    """Compare two pictures as a network sees them: squared differences of features, each scaled to length 1.

    ours, real: maps (B, C, H, W), one for each layer that is compared. Returns (B,): for each layer the mean over
    places of the squared distance, summed over layers. LPIPS (arXiv 1801.03924, Eq. 1) with all its weights 1.
    """
    distance = torch.zeros(len(ours[0]), device=ours[0].device)
    for a, b in zip(ours, real, strict=True):
        difference = F.normalize(a, dim=1, eps=1e-6) - F.normalize(b, dim=1, eps=1e-6)
        distance = distance + difference.square().sum(dim=1).mean(dim=(1, 2))
    return distance


class PatchDiscriminator(nn.Module):
    """Judge every patch of a picture, real or reconstructed: a few strided convolutions and no pooling at the end.

    x: (B, in_channels, H, W). Returns (B, 1, H/4, W/4), one logit for each patch, high where it looks real.
    Source: pix2pix's PatchGAN (arXiv 1611.07004, §3.2.2); LDM uses three strided layers and batch norm, here are two
    layers and group norm, for pictures an eighth as large.
    """

    def __init__(self, in_channels: int = 3, channels: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, channels, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * channels),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * channels, 1, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss: real patches should score above 1, reconstructed ones below −1, and no more.

    real, fake: logits of any shape. Returns a scalar: half of mean(max(0, 1 − real)) + mean(max(0, 1 + fake)).
    Source: CompVis/taming-transformers, taming/modules/losses/vqperceptual.py, hinge_d_loss.
    """
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    """Return the weight that lets two losses pull equally hard at the decoder's last layer.

    reconstruction, adversarial: scalar losses; last_layer: the weight that both reach. Returns a scalar without
    gradient: the norm of the first loss's gradient over that of the second's (plus 1e-4), clamped to [0, largest].
    Source: VQGAN (arXiv 2012.09841, Eq. 7); CompVis/latent-diffusion, ldm/modules/losses/contperceptual.py.
    """
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (wanted.norm() / (given.norm() + 1e-4)).clamp(0, largest).detach()


class Adversaries(nn.Module):
    """An autoencoder and the discriminator that criticises it, in one module so that train.fit trains both at once."""

    def __init__(self, vae: AutoencoderKL, discriminator: PatchDiscriminator | None = None) -> None:
        super().__init__()
        self.vae, self.discriminator = vae, discriminator

    def criticise(self, images: Tensor) -> Tensor:
        """Return the discriminator's logits with its weights held fixed, so that only the images get gradients."""
        if self.discriminator is None:
            raise ValueError("Adversaries: an adversarial term needs a discriminator; build Adversaries with one")
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        return torch.func.functional_call(self.discriminator, fixed, (images,))


Features = Callable[[Tensor], list[Tensor]]


def autoencoder_loss(
    *,
    pixel: str = "l1",
    kl_weight: float = 1e-6,
    perceptual_weight: float = 0.0,
    features: Features | None = None,
    adversarial_weight: float = 0.0,
) -> Callable[[nn.Module, tuple[Tensor, ...], torch.Generator], Tensor]:
    """Return the loss of an autoencoder for train.fit: pixels, features, the divergence, and the discriminator.

    pixel: "l1" or "l2". features: images (B, C, H, W) → maps of a frozen network, where perceptual_weight is above 0.
    The loss is called with an Adversaries module (with a discriminator where adversarial_weight is above 0).
    Pixels and divergence are sums over a picture, as in LDM, and all is divided by the numbers in a picture, so that
    kl_weight means what it means there; the perceptual term counts once for each pixel, also as there. The optimiser's
    one step moves the autoencoder against the fixed discriminator and the discriminator against the fixed pictures.
    Source: latent diffusion (arXiv 2112.10752, App. G, Eq. 25); ldm/modules/losses/contperceptual.py.
    """
    if pixel not in ("l1", "l2"):
        raise ValueError(f'autoencoder_loss: pixel is {pixel!r}; it must be "l1" or "l2"')
    if perceptual_weight and features is None:
        raise ValueError("autoencoder_loss: a perceptual term needs features, such as evaluate.load_judge().maps")

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        if not hasattr(model, "vae"):
            raise ValueError("autoencoder_loss: train.fit must be given Adversaries(vae), also without a discriminator")
        images = batch[0]
        vae: AutoencoderKL = model.vae  # type: ignore[assignment]
        mean, logvar = vae.encode(images)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        made = vae.decode(reparametrise(mean, logvar, noise))
        reconstruction = F.l1_loss(made, images) if pixel == "l1" else F.mse_loss(made, images)
        if perceptual_weight and features is not None:
            with torch.no_grad():
                real = features(images)
            reconstruction = reconstruction + perceptual_weight * perceptual_distance(features(made), real).mean()
        total = reconstruction + kl_weight * kl_divergence(mean, logvar).mean() / images[0].numel()
        if adversarial_weight:
            fooling = -model.criticise(made).mean()  # type: ignore[operator]
            weight = adaptive_weight(reconstruction, fooling, vae.decoder.leave.weight)
            discriminator: nn.Module = model.discriminator  # type: ignore[assignment]
            caught = hinge_loss(discriminator(images), discriminator(made.detach()))
            total = total + adversarial_weight * weight * fooling + caught
        return total

    terms = f"{pixel}, kl {kl_weight}, perceptual {perceptual_weight}, adversarial {adversarial_weight}"
    loss.description = f"autoencoder({terms})"  # type: ignore[attr-defined]
    return loss


def transformer_cost(
    size: int, factor: int = 1, patch_size: int = 1, width: int = 384, depth: int = 12
) -> tuple[int, int]:
    """Return the tokens of a square picture and the multiply-accumulates of a plain transformer over them.

    size: pixels of a side; factor: f of the autoencoder, 1 for none; patch_size: of the latents' side in one token.
    For N tokens a block costs 12 N width² in its linear layers and 2 N² width in its attention.
    Raises ValueError where the size does not divide.
    """
    if size % (factor * patch_size):
        raise ValueError(
            f"transformer_cost: {size} pixels do not divide by {factor} × {patch_size} = {factor * patch_size}"
        )
    tokens = (size // factor // patch_size) ** 2
    return tokens, depth * (12 * tokens * width**2 + 2 * tokens**2 * width)
