"""Different right answers to the exercises of lesson 06."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.position import sin_cos_1d


def places_by_repeat(height: int, width: int, size: int) -> Tensor:
    if size % 4:
        raise ValueError(f"size {size} does not divide by 4")
    columns = repeat(sin_cos_1d(torch.arange(width), size // 2), "width d -> (height width) d", height=height)
    rows = repeat(sin_cos_1d(torch.arange(height), size // 2), "height d -> (height width) d", width=width)
    return torch.cat([columns, rows], dim=1)


def places_by_numpy(height: int, width: int, size: int) -> Tensor:
    quarter, rest = divmod(size, 4)
    if rest or not quarter:
        raise ValueError("four parts of equal length are needed")
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)))  # numpy's indexing: columns vary fastest
    frequencies = 1 / 10000 ** (np.arange(quarter) / quarter)
    angles = np.einsum("an,d->and", grid.reshape(2, -1), frequencies)
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=2)
    return torch.from_numpy(np.concatenate(list(table), axis=1).astype(np.float32))


def places_one_by_one(height: int, width: int, size: int) -> Tensor:
    if size < 4 or size % 4 != 0:
        raise ValueError(f"{size} is no multiple of 4")
    hands = [10000 ** (-4 * j / size) for j in range(size // 4)]
    table = []
    for row in range(height):
        for column in range(width):
            table.append([f(u * hand) for u in (column, row) for f in (math.sin, math.cos) for hand in hands])
    return torch.tensor(table)


def picture_by_einsum(tokens: Tensor, patch_size: int, height: int) -> Tensor:
    batch, count, numbers = tokens.shape
    width, channels = count // height, numbers // patch_size**2
    x = tokens.reshape(batch, height, width, patch_size, patch_size, channels)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(batch, channels, height * patch_size, width * patch_size)


def picture_by_pixel_shuffle(tokens: Tensor, patch_size: int, height: int) -> Tensor:
    coarse = tokens.unflatten(2, (patch_size**2, -1)).transpose(2, 3).flatten(2)  # the channels outermost
    coarse = coarse.transpose(1, 2).unflatten(2, (height, -1))
    return F.pixel_shuffle(coarse, patch_size)


def picture_by_fold(tokens: Tensor, patch_size: int, height: int) -> Tensor:
    size = (height * patch_size, tokens.shape[1] // height * patch_size)
    columns = rearrange(tokens, "b n (pixels c) -> b (c pixels) n", pixels=patch_size * patch_size)
    return F.fold(columns, size, patch_size, stride=patch_size)


def forward_by_labels(
    self: DiT, x: Tensor, t: Tensor, labels: Tensor | None = None, context: Tensor | None = None
) -> Tensor:
    self._check(x, t, labels, context)
    heard = [self.t_embedder(t)] + ([] if labels is None else [self.y_embedder(labels)])
    tokens = self.run_blocks(self.x_embedder(x) + self.pos_embed, heard, context)
    numbers = self.final_layer(tokens, torch.stack(heard).sum(dim=0))
    return picture_by_einsum(numbers, self.config.patch_size, self.config.input_size // self.config.patch_size)


def forward_by_matrices(
    self: DiT, x: Tensor, t: Tensor, labels: Tensor | None = None, context: Tensor | None = None
) -> Tensor:
    if x.shape[-2:] != (self.config.input_size,) * 2 or (labels is None) != (self.y_embedder is None):
        raise ValueError("the call does not fit this network")
    p, weight = self.config.patch_size, self.x_embedder.proj.weight
    patches = F.unfold(x, p, stride=p).transpose(1, 2)
    tokens = F.linear(patches, weight.flatten(1), self.x_embedder.proj.bias)
    tokens = torch.add(tokens, self.pos_embed)
    heard, c = [self.t_embedder(t)], self.t_embedder(t)
    if labels is not None:
        heard.append(self.y_embedder.table.weight[labels])
        c = c + heard[-1]
    tokens = self.run_blocks(tokens, tuple(heard), context=context)
    return picture_by_fold(self.final_layer(tokens, c), p, self.config.grid)


def variance_by_powers(v: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> Tensor:
    now, before = (level.reshape(-1, *[1] * (v.ndim - 1)) for level in (alpha_bar, alpha_bar_prev))
    beta = (before - now) / before
    smallest = beta * (1 - before) / (1 - now)
    share = 0.5 * v + 0.5
    return beta**share * smallest ** (1 - share)


def variance_by_lerp(v: Tensor, alpha_bar: Tensor, alpha_bar_prev: Tensor) -> Tensor:
    like = (slice(None), *[None] * (v.ndim - 1))
    largest = 1 - alpha_bar[like] / alpha_bar_prev[like]
    ratio = ((1 - alpha_bar_prev[like]) / (1 - alpha_bar[like])).clamp(min=1e-12)
    return largest * torch.lerp(ratio.log(), torch.zeros_like(ratio), (v + 1) / 2).exp()


def guided_by_scales(conditional: Tensor, unconditional: Tensor, scale: float, channels: int = 3) -> Tensor:
    scales = torch.ones(conditional.shape[1], 1, 1, device=conditional.device)
    scales[:channels] = scale
    return unconditional + scales * (conditional - unconditional)


def guided_in_a_copy(conditional: Tensor, unconditional: Tensor, scale: float, channels: int = 3) -> Tensor:
    result = conditional.clone()
    result[:, :channels] += (scale - 1) * (conditional - unconditional)[:, :channels]
    return result


def frechet_by_eigenvalues(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    roots = torch.linalg.eigvals(cov_a @ cov_b).sqrt().real  # complex numbers with tiny imaginary parts
    gap = mean_a - mean_b
    return (gap @ gap + torch.trace(cov_a + cov_b) - 2 * roots.sum()).item()


def frechet_by_singular_values(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    halves = []
    for cov in (cov_a, cov_b):
        u, s, _ = torch.linalg.svd(cov)
        halves.append(u * s.sqrt())  # Σ = half @ half.T
    between = torch.linalg.matrix_norm(halves[0].T @ halves[1], ord="nuc")
    spread = sum(half.square().sum() for half in halves)
    return float(torch.dist(mean_a, mean_b) ** 2 + spread - 2 * between)


def frechet_in_single_precision(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    a, b = cov_a.float(), cov_b.float()
    values, vectors = torch.linalg.eigh(a)
    root = vectors @ torch.diag(values.relu().sqrt()) @ vectors.mT
    between = torch.linalg.eigvalsh(root @ b @ root).relu().sqrt().sum()
    return float(((mean_a - mean_b) ** 2).sum() + a.diagonal().sum() + b.diagonal().sum() - 2 * between)


def macs_layer_by_layer(config: DiTConfig) -> int:
    d, n, p = config.hidden_size, config.grid * config.grid, config.patch_size
    patches = n * (p * p * config.in_channels) * d
    time = 256 * d + d * d
    attention = n * d * 3 * d + n * n * d + n * n * d + n * d * d
    perceptron = n * d * 4 * d + n * 4 * d * d
    modulation = d * 6 * d
    last = d * 2 * d + n * d * (p * p * config.out_channels)
    return patches + time + config.depth * (attention + perceptron + modulation) + last


def macs_by_modules(config: DiTConfig) -> int:
    tokens, total = config.grid**2, 2 * config.depth * config.grid**4 * config.hidden_size
    for name, module in DiT(config).named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            once = "modulation" in name.lower() or "t_embedder" in name
            total += module.weight.numel() * (1 if once else tokens)
    return total


ANSWERS = {
    "position.sin_cos_2d": [places_by_repeat, places_by_numpy, places_one_by_one],
    "dit.unpatchify": [picture_by_einsum, picture_by_pixel_shuffle, picture_by_fold],
    "dit.DiT.forward": [forward_by_labels, forward_by_matrices],
    "noise.learned_variance": [variance_by_powers, variance_by_lerp],
    "guidance.guide_first": [guided_by_scales, guided_in_a_copy],
    "evaluate.gaussian_frechet": [frechet_by_eigenvalues, frechet_by_singular_values, frechet_in_single_precision],
    "dit.macs": [macs_layer_by_layer, macs_by_modules],
    "dit.unpatchify_bug": [picture_by_einsum, picture_by_fold],
}
