"""Attention: every token asks all tokens of a sequence, its own or another, for what it needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Rotate = Callable[[Tensor], Tensor]


class Words(NamedTuple):
    """Tokens to attend to, some of which only fill the row: tokens (B, M, size) and mask (B, M), True for real ones."""

    tokens: Tensor
    mask: Tensor | None = None


def attention_map(query: Tensor, key: Tensor) -> Tensor:
    """Return whom each query asks, and how much: softmax(Q Kᵀ / √d), in every head a row of shares for each query.

    query: (B, h, N, d); key: (B, h, M, d). Returns (B, h, N, M); each row sums to 1.
    Source: Attention Is All You Need (arXiv 1706.03762, Eq. 1).
    """
    return (query @ key.mT / math.sqrt(query.shape[-1])).softmax(dim=-1)


def masked_map(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Return the attention map where some keys only fill the row: nobody asks them, and the others share the whole 1.

    query: (B, h, N, d); key: (B, h, M, d); mask: (B, M) bool, True for keys that are there, at least one in each row.
    Returns (B, h, N, M). A score of -∞ before the softmax is a share of 0 after it.
    Source: Attention Is All You Need (arXiv 1706.03762, §3.2.3).
    """
    scores = query @ key.mT / math.sqrt(query.shape[-1])
    return scores.masked_fill(~mask[:, None, None], -math.inf).softmax(dim=-1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, explicit: bool = False, mask: Tensor | None = None
) -> Tensor:  # fmt: skip
    """Mix the values, each query with its own weights: softmax(Q Kᵀ / √d) V, separately in every head.

    query: (B, h, N, d); key, value: (B, h, M, d). Returns (B, h, N, d). mask: see masked_map.
    explicit: write the product out, with all N × M weights in memory; otherwise PyTorch's fused kernel does the same
    without keeping them. Source: Attention Is All You Need (arXiv 1706.03762, Eq. 1).
    """
    if explicit:
        return (attention_map(query, key) if mask is None else masked_map(query, key, mask)) @ value
    return F.scaled_dot_product_attention(query, key, value, None if mask is None else mask[:, None, None])


def check_mask(who: str, tokens: Tensor, mask: Tensor) -> None:
    """Raise ValueError where a mask does not say True or False of every token (B, M, D), or leaves a row none."""
    if mask.dtype != torch.bool or mask.shape != tokens.shape[:2]:
        raise ValueError(
            f"{who}: mask has shape {tuple(mask.shape)} and type {mask.dtype}; for words of shape "
            f"{tuple(tokens.shape)} it must be {tuple(tokens.shape[:2])} of torch.bool, True for words that are there"
        )
    if mask.device.type == "cpu" and not mask.any(dim=1).all():
        row = int((~mask.any(dim=1)).nonzero()[0])
        raise ValueError(f"{who}: row {row} of mask has no word at all; even an empty caption has its end token")


def check_heads(width: int, num_heads: int) -> None:
    """Raise ValueError, naming the numbers that would fit, where a width does not divide into so many heads."""
    if num_heads < 1 or width % num_heads:
        fitting = ", ".join(str(n) for n in range(1, min(width, 32) + 1) if width % n == 0)
        raise ValueError(f"attention: width {width} does not divide into {num_heads} heads; these do: {fitting}")


class SelfAttention(nn.Module):
    """Let every token of a sequence attend to all tokens of the same sequence.

    x: (B, N, D). Returns (B, N, D). One linear layer gives queries, keys and values (in that order), another mixes the
    heads. bias: of the first layer. rotate: turns queries and keys (B, h, N, d) by their places; lesson 8 makes such
    functions, and until then there is none. Raises ValueError where D does not divide into num_heads.
    Source: ViT (arXiv 2010.11929, App. A); the layout of facebookresearch/DiT and timm.
    """

    def __init__(self, width: int, num_heads: int = 1, bias: bool = True) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotate: Rotate | None = None) -> Tensor:
        query, key, value = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        if rotate is not None:
            query, key = rotate(query), rotate(key)
        return self.proj(rearrange(attend(query, key, value), "b h n d -> b n (h d)"))

    def map(self, x: Tensor, rotate: Rotate | None = None) -> Tensor:
        """Return the attention map (B, h, N, N) of what forward would do with x: row n says whom token n asks."""
        query, key, _ = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        return attention_map(query, key) if rotate is None else attention_map(rotate(query), rotate(key))


class CrossAttention(nn.Module):
    """Let every token of one sequence attend to the tokens of another, such as places of a picture to words.

    x: (B, N, D); context: (B, M, context_size), or Words where some of them only fill the row. Returns (B, N, D).
    bias: of queries, keys and values.
    Source: latent diffusion (arXiv 2112.10752, §3.3); CompVis/latent-diffusion, ldm/modules/attention.py.
    """

    def __init__(self, width: int, context_size: int, num_heads: int = 1, bias: bool = True) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(context_size, 2 * width, bias=bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor | Words) -> Tensor:
        words, mask = context if isinstance(context, Words) else Words(context)
        query = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.num_heads)
        key, value = rearrange(self.kv(words), "b m (two h d) -> two b h m d", two=2, h=self.num_heads)
        return self.proj(rearrange(attend(query, key, value, mask=mask), "b h n d -> b n (h d)"))

    def map(self, x: Tensor, context: Tensor | Words) -> Tensor:
        """Return the attention map (B, h, N, M) of what forward would do: row n says which words token n asks."""
        words, mask = context if isinstance(context, Words) else Words(context)
        query = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.num_heads)
        key, _ = rearrange(self.kv(words), "b m (two h d) -> two b h m d", two=2, h=self.num_heads)
        return attention_map(query, key) if mask is None else masked_map(query, key, mask)


def silence(asking: CrossAttention) -> CrossAttention:
    """Let a fresh cross-attention change nothing yet: its last layer, weight and bias, becomes zero, in place.

    Queries, keys and values stay as drawn: through them the last layer gets gradients from the first step on, and they
    get theirs as soon as it is no longer zero. Returns the layer. Source: PixArt-α (arXiv 2310.00426, §2.3).
    """
    nn.init.zeros_(asking.proj.weight)
    nn.init.zeros_(asking.proj.bias)
    return asking
