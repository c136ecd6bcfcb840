"""Where a token comes from: attention sees a set, so a transformer must be told each patch's place."""

from __future__ import annotations

import torch
from torch import Tensor


def sin_cos_1d(positions: Tensor, size: int, max_period: float = 10000.0) -> Tensor:
    """Write a coordinate as the positions of many clock hands: all sines, then all cosines.

    positions: (N,) numbers, here whole ones. Returns (N, size) float32: sin(u ω_j) in the first half, cos(u ω_j) in the
    second, with ω_j = max_period ** (-j / (size / 2)). (The sinusoidal features of the time have the cosines first.)
    Raises ValueError where size is odd. Source: facebookresearch/DiT, models.py; MAE, util/pos_embed.py.
    """
    if size % 2 or size < 2:
        raise ValueError(f"sin_cos_1d: size is {size}; it must be even, half sines and half cosines: {size + 1} fits")
    half = size // 2
    frequencies = max_period ** (-torch.arange(half, dtype=torch.float64, device=positions.device) / half)
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def sin_cos_2d(height: int, width: int, size: int) -> Tensor:
    """Return the fixed table that a DiT adds to its tokens: half of each row says the column, the other half the row.

    height, width: of the grid of patches. Returns (height * width, size), tokens in reading order. The FIRST half
    encodes the column: the reference code meshes (w, h) and calls the result h, and its weights depend on that.
    Raises ValueError where size does not divide by 4. Source: DiT (arXiv 2212.09748, §3.2); facebookresearch/DiT,
    models.py, get_2d_sincos_pos_embed.
    """
    if size % 4 or size < 4:
        below, above = max(4, size // 4 * 4), (size // 4 + 1) * 4
        raise ValueError(
            f"sin_cos_2d: size is {size}; it must divide by 4 (sine and cosine of a column and of a row): "
            f"{below} and {above} fit"
        )
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    parts = [sin_cos_1d(coordinate.flatten(), size // 2) for coordinate in (columns, rows)]
    return torch.cat(parts, dim=1)
