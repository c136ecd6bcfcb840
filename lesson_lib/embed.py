"""How a network hears the time and the class: sinusoidal features, a table of labels, and dropped labels."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

# By code base: whether the sines come first, and by how much the exponent's denominator falls short of half.
CONVENTIONS = {"dit": (False, 0), "ddpm": (True, 1), "diffusers-dit": (False, 1)}


def sinusoidal(t: Tensor, size: int, max_period: float = 10000.0, convention: str = "dit") -> Tensor:
    """Write a time as the positions of many clock hands: cosines and sines at geometrically spaced frequencies.

    t: (B,) floats, in this course from 0 to 1000. Returns (B, size) float32: cosines, then sines.
    Frequency i is max_period ** (-i / (size / 2)), from one radian per unit of time down to almost none.
    convention: "dit" (ADM, DiT, SD3, FLUX; the course's own), "ddpm" (sines first, the exponent divided by
    size / 2 - 1), or "diffusers-dit" (cosines first, also size / 2 - 1); they are not interchangeable.
    Source: facebookresearch/DiT, models.py; hojonathanho/diffusion, diffusion_tf/nn.py;
    diffusers, models/embeddings.py.
    """
    if size % 2 or size < 4:
        raise ValueError(f"sinusoidal: size is {size}; it must be even and at least 4 (half cosines, half sines)")
    if t.ndim != 1:
        raise ValueError(f"sinusoidal: expected one time for each image, shape (B,), got {tuple(t.shape)}")
    if convention not in CONVENTIONS:
        raise ValueError(f"convention is {convention!r}; it must be one of {', '.join(CONVENTIONS)}")
    sine_first, short = CONVENTIONS[convention]
    half = size // 2
    exponent = -math.log(max_period) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - short)
    angle = t.float()[:, None] * torch.exp(exponent)
    parts = (angle.sin(), angle.cos()) if sine_first else (angle.cos(), angle.sin())
    return torch.cat(parts, dim=1)


def drop_labels(labels: Tensor, probability: float, null_label: int, generator: torch.Generator) -> Tensor:
    """Replace some labels by the null label, so that one network learns to work with a class and without.

    labels: (B,) int64; probability: of dropping each. Returns (B,) int64; the argument is left as it is.
    One uniform number is drawn for each label; those below the probability are dropped.
    Source: classifier-free guidance (arXiv 2207.12598, Alg. 1); DiT drops 10 %.
    """
    dropped = torch.rand(len(labels), generator=generator, device=generator.device) < probability
    return torch.where(dropped, null_label, labels)


class TimeEmbedder(nn.Module):
    """Turn a time into a vector that a network can use: sinusoidal features, then a two-layer perceptron.

    t: (B,) floats from 0 to 1000. Returns (B, hidden_size). Source: facebookresearch/DiT, models.py, TimestepEmbedder.
    """

    def __init__(self, hidden_size: int, frequencies: int = 256, convention: str = "dit") -> None:
        super().__init__()
        self.frequencies, self.convention = frequencies, convention
        self.mlp = nn.Sequential(nn.Linear(frequencies, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))

    def forward(self, t: Tensor) -> Tensor:
        return self.mlp(sinusoidal(t, self.frequencies, convention=self.convention))


class LabelEmbedder(nn.Module):
    """Look up one learned vector for each class, and one more for "no class": the null class, row num_classes.

    labels: (B,) int64 from 0 to num_classes. Returns (B, hidden_size). Raises ValueError for a label outside.
    Source: facebookresearch/DiT, models.py, LabelEmbedder (which drops labels inside; here drop_labels does).
    """

    def __init__(self, num_classes: int, hidden_size: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.table = nn.Embedding(num_classes + 1, hidden_size)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, labels: Tensor) -> Tensor:
        if (
            labels.device.type == "cpu"
            and len(labels)
            and not 0 <= int(labels.min()) <= int(labels.max()) <= self.num_classes
        ):
            raise ValueError(
                f"labels must lie from 0 to {self.num_classes} ({self.num_classes} is the null class), "
                f"got {int(labels.min())} to {int(labels.max())}"
            )
        return self.table(labels)


class VectorEmbedder(nn.Sequential):
    """Bring one vector, such as a pooled text, to the network's width: linear, SiLU, linear.

    y: (B, size). Returns (B, hidden_size). Source: Stability-AI/sd3-ref, mmdit.py, VectorEmbedder.
    """

    def __init__(self, size: int, hidden_size: int) -> None:
        super().__init__(nn.Linear(size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
