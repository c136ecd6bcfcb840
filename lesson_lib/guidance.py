"""Classifier-free guidance: push a sample away from what any image looks like, towards what this class looks like."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Extrapolate from the unconditional to the conditional prediction: uncond + scale (cond - uncond).

    conditional, unconditional: (B, ...) predictions of one network (noise, image, v or velocity). Returns (B, ...).
    scale 0 ignores the class, 1 is no guidance, above 1 exaggerates. Ho & Salimans write w = scale - 1.
    Source: classifier-free guidance (arXiv 2207.12598, Eq. 6); DiT (arXiv 2212.09748, §3.1).
    """
    return unconditional + scale * (conditional - unconditional)


def guide_first(conditional: Tensor, unconditional: Tensor, scale: float, channels: int = 3) -> Tensor:
    """Guide only the first channels of two predictions; the others stay as the network gave them with the class.

    conditional, unconditional: (B, C, H, W); channels: how many are guided, at most C. Returns (B, C, H, W).
    For networks that also choose a variance: its half is no direction to exaggerate. DiT guides three of its four
    latent channels, by accident (code for RGB pictures was reused); it stayed so that the published numbers repeat.
    Source: facebookresearch/DiT, models.py, forward_with_cfg; arXiv 2212.09748, App. A.
    """
    guided = guide(conditional[:, :channels], unconditional[:, :channels], scale)
    return torch.cat([guided, conditional[:, channels:]], dim=1)


class Guided:
    """A two-argument model for the samplers, made from a three-argument one, fixed labels and a guidance scale.

    model: called model(x, t, labels) and knowing num_classes; its null class is num_classes. labels: (B,) int64.
    At scale 1 the network runs once a call, otherwise once on a batch of twice the size.
    """

    def __init__(
        self, model: nn.Module, labels: Tensor, scale: float = 1.0, combine: Callable[..., Tensor] = guide
    ) -> None:
        self.null_label = int(getattr(model, "num_classes", 0))
        if not self.null_label:
            raise ValueError("guidance needs a model with classes; this one has none (num_classes is 0)")
        self.model, self.labels, self.scale, self.combine = model, labels, scale, combine

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the guided prediction for x (B, ...) at model time t (B,)."""
        if len(self.labels) != len(x):
            raise ValueError(f"there are {len(self.labels)} labels for {len(x)} images; give one for each")
        if self.scale == 1:
            return self.model(x, t, self.labels)
        null = torch.full_like(self.labels, self.null_label)
        both = self.model(torch.cat([x, x]), torch.cat([t, t]), torch.cat([self.labels, null]))
        return self.combine(*both.chunk(2), self.scale)
