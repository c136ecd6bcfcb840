"""Diffusion in discrete steps: noise schedules, the forward process, what a network may predict, and the posterior.

Convention of DDPM, ADM and DiT: an integer step t from 0 to T-1, a large t is noise, and
x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

PREDICTIONS = ("eps", "x0", "v")
VARIANCES = ("small", "large", "learned")
SPACINGS = ("leading", "trailing")


def to_pixels(images: Tensor) -> Tensor:
    """Map images from the network's range [-1, 1] to the screen's range [0, 1], cutting off what lies outside.

    images: any shape. Returns the same shape; the argument is left as it is.
    """
    return ((images + 1) / 2).clamp(0, 1)


def expand(coefficient: Tensor, like: Tensor) -> Tensor:
    """Give one number per image the trailing axes of an image, so that it broadcasts.

    coefficient: (B,); like: (B, ...). Returns (B, 1, ..., 1) in the dtype and on the device of like.
    """
    if coefficient.ndim != 1 or coefficient.shape[0] not in (1, like.shape[0]):
        raise ValueError(f"expected one coefficient for each of {like.shape[0]} images, got {tuple(coefficient.shape)}")
    return coefficient.to(like).view(-1, *(1,) * (like.ndim - 1))


def ddpm_linear_betas(timesteps: int = 1000) -> Tensor:
    """Return the schedule that DDPM, ADM and DiT call "linear": beta itself rises in a line from 1e-4 to 0.02.

    Returns (T,) float64. Other lengths scale both ends by 1000 / T.
    Source: DDPM (arXiv 2006.11239, §4); facebookresearch/DiT, diffusion/gaussian_diffusion.py.
    """
    ratio = 1000 / timesteps
    return torch.linspace(1e-4 * ratio, 0.02 * ratio, timesteps, dtype=torch.float64)


def ldm_linear_betas(timesteps: int = 1000, start: float = 0.00085, end: float = 0.012) -> Tensor:
    """Return the schedule that latent diffusion calls "linear": the *root* of beta rises in a line.

    Returns (T,) float64. diffusers names it "scaled_linear"; its last alpha_bar is 0.0047, so a little signal is left.
    Source: CompVis/latent-diffusion, ldm/modules/diffusionmodules/util.py.
    """
    return torch.linspace(start**0.5, end**0.5, timesteps, dtype=torch.float64) ** 2


def cosine_betas(timesteps: int = 1000, offset: float = 0.008, largest: float = 0.999) -> Tensor:
    """Return the cosine schedule: alpha_bar follows a squared cosine, so it falls evenly through the middle.

    Returns (T,) float64, each beta at most `largest`. Source: improved DDPM (arXiv 2102.09672, Eq. 17).
    """
    steps = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    alpha_bar = torch.cos((steps + offset) / (1 + offset) * torch.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest)


def add_noise(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Jump from clean images straight to their noisy version: sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) noise.

    x0, noise: (B, ...); alpha_bar: (B,), the share of the variance that is still signal. Returns (B, ...).
    Source: DDPM (arXiv 2006.11239, Eq. 4).
    """
    alpha_bar = expand(alpha_bar, x0)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def x0_from_eps(x_t: Tensor, eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Recover the clean images from the noise that a network predicts: add_noise solved for x0.

    x_t, eps: (B, ...); alpha_bar: (B,). Returns (B, ...). Source: DDPM (arXiv 2006.11239, Eq. 15).
    """
    alpha_bar = expand(alpha_bar, x_t)
    return (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()


def eps_from_x0(x_t: Tensor, x0: Tensor, alpha_bar: Tensor) -> Tensor:
    """Recover the noise from the clean images that a network predicts: add_noise solved for the noise.

    x_t, x0: (B, ...); alpha_bar: (B,). Returns (B, ...).
    """
    alpha_bar = expand(alpha_bar, x_t)
    return (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()


def v_target(x0: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """Return the v that a network may be trained on: sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0.

    x0, noise: (B, ...); alpha_bar: (B,). Returns (B, ...). v is noise where the image is clean and minus the image
    where it is noise, so the target never becomes trivial. Source: progressive distillation (arXiv 2202.00512, App. D).
    """
    alpha_bar = expand(alpha_bar, x0)
    return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0


def x0_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """Recover the clean images from v: sqrt(alpha_bar) x_t - sqrt(1 - alpha_bar) v.

    x_t, v: (B, ...); alpha_bar: (B,). Returns (B, ...). No division: it is safe at every noise level.
    """
    alpha_bar = expand(alpha_bar, x_t)
    return alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * v


def eps_from_v(x_t: Tensor, v: Tensor, alpha_bar: Tensor) -> Tensor:
    """Recover the noise from v: sqrt(1 - alpha_bar) x_t + sqrt(alpha_bar) v.

    x_t, v: (B, ...); alpha_bar: (B,). Returns (B, ...).
    """
    alpha_bar = expand(alpha_bar, x_t)
    return (1 - alpha_bar).sqrt() * x_t + alpha_bar.sqrt() * v


def score_from_eps(eps: Tensor, alpha_bar: Tensor) -> Tensor:
    """Turn predicted noise into the score, the gradient of log p(x_t): -eps / sqrt(1 - alpha_bar).

    eps: (B, ...); alpha_bar: (B,). Returns (B, ...). Source: ADM (arXiv 2105.05233, §4.2).
    """
    return -eps / (1 - expand(alpha_bar, eps)).sqrt()


def posterior(x0: Tensor, x_t: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of the less noisy image, given the noisy one and the clean one: q(x_prev | x_t, x_0).

    x0, x_t: (B, ...); alpha_bar, alpha_bar_prev: (B,) at this step and at the one before (1 where there is none).
    Returns mean (B, ...) and variance (B, 1, ..., 1). Steps may be skipped: beta is taken from the two alpha_bars.
    Source: DDPM (arXiv 2006.11239, Eqs. 6-7).
    """
    alpha_bar, alpha_bar_prev = expand(alpha_bar, x_t), expand(alpha_bar_prev, x_t)
    alpha = alpha_bar / alpha_bar_prev
    beta = 1 - alpha
    mean = (alpha_bar_prev.sqrt() * beta * x0 + alpha.sqrt() * (1 - alpha_bar_prev) * x_t) / (1 - alpha_bar)
    return mean, beta * (1 - alpha_bar_prev) / (1 - alpha_bar)


def learned_variance(v: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> Tensor:
    """Return the variance that a network chooses between the posterior's and beta, on a logarithmic scale.

    v: (B, ...) raw network output, -1 for the smaller bound and 1 for the larger; alpha_bar, alpha_bar_prev: (B,).
    Returns (B, ...). Source: improved DDPM (arXiv 2102.09672, Eq. 15).
    """
    alpha_bar, alpha_bar_prev = expand(alpha_bar, v), expand(alpha_bar_prev, v)
    beta = 1 - alpha_bar / alpha_bar_prev
    smallest = (beta * (1 - alpha_bar_prev) / (1 - alpha_bar)).clamp(min=1e-20)
    share = (v + 1) / 2
    return torch.exp(share * beta.log() + (1 - share) * smallest.log())


def pixel_log_likelihood(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the log-probability of 8-bit pixels under a Gaussian: of the interval that rounds to each value.

    x: any shape, multiples of 2/255 from -1 to 1; mean, std: the same shape. Returns that shape. The darkest and the
    brightest value own all that lies beyond. Source: DDPM (arXiv 2006.11239, Eq. 13).
    """
    above = torch.special.ndtr((x - mean + 1 / 255) / std)
    below = torch.special.ndtr((x - mean - 1 / 255) / std)
    inside = torch.where(x > 0.999, 1 - below, torch.where(x < -0.999, above, above - below))
    return inside.clamp(min=1e-12).log()


@dataclass(frozen=True, eq=False)
class Diffusion:
    """How data becomes noise in T steps, and what the network is asked to predict about it.

    betas: (T,) float64, the share of noise that each step adds. prediction: "eps", "x0" or "v".
    variance: of a DDPM step: "small" (the posterior's), "large" (beta) or "learned" (the network has twice as many
    output channels; the second half chooses). clip: whether predicted images are cut to [-1, 1] (never for latents).
    """

    betas: Tensor
    prediction: str = "eps"
    variance: str = "small"
    clip: bool = False
    _tables: dict[torch.device, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction is {self.prediction!r}; it must be one of {', '.join(PREDICTIONS)}")
        if self.variance not in VARIANCES:
            raise ValueError(f"variance is {self.variance!r}; it must be one of {', '.join(VARIANCES)}")
        if self.betas.ndim != 1 or not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError("betas must be a one-dimensional tensor of numbers between 0 and 1")

    @classmethod
    def linear(
        cls, timesteps: int = 1000, prediction: str = "eps", variance: str = "small", clip: bool = False
    ) -> Diffusion:
        """Return the process with DDPM's and DiT's linear schedule."""
        return cls(ddpm_linear_betas(timesteps), prediction, variance, clip)

    @classmethod
    def ldm_linear(
        cls, timesteps: int = 1000, prediction: str = "eps", variance: str = "small", clip: bool = False
    ) -> Diffusion:
        """Return the process with latent diffusion's linear schedule (diffusers: scaled_linear)."""
        return cls(ldm_linear_betas(timesteps), prediction, variance, clip)

    @classmethod
    def cosine(
        cls, timesteps: int = 1000, prediction: str = "eps", variance: str = "small", clip: bool = False
    ) -> Diffusion:
        """Return the process with improved DDPM's cosine schedule."""
        return cls(cosine_betas(timesteps), prediction, variance, clip)

    @property
    def timesteps(self) -> int:
        """The number T of steps."""
        return len(self.betas)

    @cached_property
    def alpha_bar(self) -> Tensor:
        """(T,) float64: the share of the variance that is still signal after each step."""
        return torch.cumprod(1 - self.betas, 0)

    def alpha_bar_at(self, t: Tensor) -> Tensor:
        """Return alpha_bar at steps t, (B,) int64 from -1 (clean: 1) to T-1, as (B,) float64 on t's device."""
        if t.dtype.is_floating_point or int(t.min()) < -1 or int(t.max()) >= self.timesteps:
            raise ValueError(f"steps must be whole numbers from -1 to {self.timesteps - 1}, got {t.min()} to {t.max()}")
        return torch.cat([torch.ones(1, dtype=torch.float64), self.alpha_bar]).to(t.device)[t + 1]

    def sample_times(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the steps to train on, each equally likely: (count,) int64 on the generator's device."""
        return torch.randint(self.timesteps, (count,), generator=generator, device=generator.device)

    def training_pair(self, x0: Tensor, noise: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noisy images at steps t (B,) and the target that the network must predict from them."""
        alpha_bar = self._coefficients(x0.device)[0, t]
        targets = {"eps": noise, "x0": x0}
        target = targets[self.prediction] if self.prediction in targets else v_target(x0, noise, alpha_bar)
        return add_noise(x0, noise, alpha_bar), target

    def variational_term(self, prediction: Tensor, v: Tensor, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return what the variance is trained with: the bits per number that this step adds to the likelihood bound.

        prediction, v: (B, C, ...), the two halves of a network's output; x0, x_t: clean and noisy images; t: (B,)
        steps. Returns (B,): the divergence of the network's step from the true posterior's, and at step 0 the negative
        log-likelihood of 8-bit pixels (DiT applies it to latents too). Source: improved DDPM (arXiv 2102.09672,
        Eqs. 4-6 and 15); facebookresearch/DiT, diffusion/gaussian_diffusion.py.
        """
        table = self._coefficients(x0.device)[:, t]
        _, from_x0, from_x_t, log_smallest, log_beta = (expand(row, x0) for row in table)
        predicted_x0, _ = self.predicted_x0_eps(prediction, x_t, table[0])
        distance = from_x0 * (x0 - predicted_x0)  # of the two means; what they take from x_t is the same
        share = (v + 1) / 2
        log_variance = share * log_beta + (1 - share) * log_smallest
        gap = log_smallest - log_variance
        divergence = 0.5 * (gap.exp() - gap - 1 + distance.square() * torch.exp(-log_variance))
        mean = from_x0 * predicted_x0 + from_x_t * x_t
        likelihood = pixel_log_likelihood(x0, mean, torch.exp(0.5 * log_variance))
        return torch.where(expand(t, x0) == 0, -likelihood, divergence).flatten(1).mean(dim=1) / math.log(2)

    def _coefficients(self, device: torch.device) -> Tensor:
        """Return (5, T) float32 on a device: alpha_bar, the posterior mean's two weights, and the two log variances.

        Made once for each device: a copy in every step would make a GPU wait. The posterior's variance at step 0 is
        zero; as in the reference code, step 1's stands in its place.
        """
        if device not in self._tables:
            now = self.alpha_bar
            before = torch.cat([torch.ones(1, dtype=torch.float64), now[:-1]])
            smallest = self.betas * (1 - before) / (1 - now)
            smallest = torch.cat([smallest[1:2], smallest[1:]]) if len(smallest) > 1 else self.betas
            from_x0 = before.sqrt() * self.betas / (1 - now)
            from_x_t = (1 - self.betas).sqrt() * (1 - before) / (1 - now)
            rows = [now, from_x0, from_x_t, smallest.log(), self.betas.log()]
            self._tables[device] = torch.stack(rows).float().to(device)
        return self._tables[device]

    def model_time(self, t: Tensor) -> Tensor:
        """Return steps t (B,) as the networks of this course are fed them: floats from 0 to 1000, whatever T is."""
        return t.float() * (1000 / self.timesteps)

    def predicted_x0_eps(self, prediction: Tensor, x_t: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
        """Turn a network's prediction into the clean image and the noise it implies, both (B, ...).

        Where clip is set, x0 is cut to [-1, 1] and the noise recomputed from it, so that the two still add up to x_t
        (ADM, guided_diffusion/gaussian_diffusion.py).
        """
        if self.prediction == "eps":
            x0, eps = x0_from_eps(x_t, prediction, alpha_bar), prediction
        elif self.prediction == "x0":
            x0, eps = prediction, eps_from_x0(x_t, prediction, alpha_bar)
        else:
            x0, eps = x0_from_v(x_t, prediction, alpha_bar), eps_from_v(x_t, prediction, alpha_bar)
        if self.clip:
            x0 = x0.clamp(-1, 1)
            eps = eps_from_x0(x_t, x0, alpha_bar)
        return x0, eps

    def grid(self, steps: int, spacing: str = "leading") -> Tensor:
        """Return the steps a sampler visits, noisiest first: (steps,) int64.

        "leading" starts below T-1 and ends at 0 (DDPM and DDIM in diffusers); "trailing" starts at T-1 exactly.
        Source of the names: Lin et al. (arXiv 2305.08891, Table 2).
        """
        if not 1 <= steps <= self.timesteps:
            raise ValueError(f"steps must be from 1 to {self.timesteps}, the length of this process; got {steps}")
        if spacing not in SPACINGS:
            raise ValueError(f"spacing is {spacing!r}; it must be one of {', '.join(SPACINGS)}")
        if spacing == "leading":
            return (torch.arange(steps) * (self.timesteps // steps)).flip(0)
        stops = torch.arange(steps, dtype=torch.float64) * (self.timesteps / steps)
        return (self.timesteps - stops).round().long() - 1
