"""Four ways to tell every place of a picture about one condition: concatenate, add, modulate (FiLM), attend."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn


class Concat(nn.Module):
    """Paste the condition next to the features of every place, then mix with a 1×1 convolution.

    h: (B, C, H, W) features; condition: (B, D). Returns (B, C, H, W).
    """

    def __init__(self, channels: int, condition_size: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels + condition_size, channels, 1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        everywhere = repeat(condition, "b d -> b d height width", height=h.shape[2], width=h.shape[3])
        return self.mix(torch.cat([h, everywhere], dim=1))


class Add(nn.Module):
    """Shift the features of every place by the same projected vector, as DDPM does with the time.

    h: (B, C, H, W) features; condition: (B, D). Returns (B, C, H, W).
    Source: DDPM (arXiv 2006.11239); hojonathanho/diffusion, diffusion_tf/models/unet.py.
    """

    def __init__(self, channels: int, condition_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(condition_size, channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        return h + rearrange(self.project(condition), "b c -> b c 1 1")


class FiLM(nn.Module):
    """Stretch and shift each feature by amounts that the condition decides: h * (1 + scale) + shift.

    h: (B, C, H, W) features, usually just normalised; condition: (B, D). Returns (B, C, H, W).
    One linear layer gives scale (the first C outputs) and shift (the last C), the order of ADM's AdaGN.
    Source: FiLM (arXiv 1709.07871, Eq. 2); ADM (arXiv 2105.05233, §3.1).
    """

    def __init__(self, channels: int, condition_size: int) -> None:
        super().__init__()
        self.project = nn.Linear(condition_size, 2 * channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = rearrange(self.project(condition), "b (two c) -> two b c 1 1", two=2)
        return h * (1 + scale) + shift


class CrossAttention(nn.Module):
    """Let every place ask a list of condition tokens for what it needs, and add the answer.

    h: (B, C, H, W) features; condition: (B, D) for one token or (B, M, D) for M. Returns (B, C, H, W).
    One head of width C: softmax(Q K^T / sqrt(C)) V with queries from the places, keys and values from the tokens.
    With one token the softmax has nothing to choose: every place receives the same vector, and this becomes Add.
    Source: latent diffusion (arXiv 2112.10752, §3.3).
    """

    def __init__(self, channels: int, condition_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(condition_size, channels, bias=False)
        self.value = nn.Linear(condition_size, channels, bias=False)
        self.out = nn.Linear(channels, channels)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        tokens = condition[:, None] if condition.ndim == 2 else condition
        query = self.query(rearrange(h, "b c height width -> b (height width) c"))
        scores = query @ self.key(tokens).mT / query.shape[-1] ** 0.5
        answer = self.out(F.softmax(scores, dim=-1) @ self.value(tokens))
        return h + rearrange(answer, "b (height width) c -> b c height width", height=h.shape[2])


INJECTIONS: dict[str, type[nn.Module]] = {"concat": Concat, "add": Add, "film": FiLM, "cross-attention": CrossAttention}


def injection(way: str, channels: int, condition_size: int) -> nn.Module:
    """Build one of the four ways by its name; raises ValueError, listing the names, for another."""
    if way not in INJECTIONS:
        raise ValueError(f"way is {way!r}; it must be one of {', '.join(INJECTIONS)}")
    return INJECTIONS[way](channels, condition_size)
