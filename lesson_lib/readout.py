"""Reading attention: which patch asks which word, in any network of the course, by layer, head and time.

A joint map (B, h, L + N, L + N) has a row for every token that asks and a column for every token that is asked, the
words first. Every row sums to 1 over words and patches together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lesson_lib.text import TextToImage

BLOCKS = ("text → text", "text → image", "image → text", "image → image")


class _Listener(TorchFunctionMode):
    """Computes the map of every fused attention that is called, since the kernel itself does not keep it."""

    def __init__(self, scores: bool) -> None:
        super().__init__()
        self.scores, self.maps = scores, list[Tensor]()

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | (kwargs or {})
            scores = named["query"].float() @ named["key"].float().mT / math.sqrt(named["query"].shape[-1])
            if named.get("attn_mask") is not None:
                scores = scores.masked_fill(~named["attn_mask"], -math.inf)
            self.maps.append((scores if self.scores else scores.softmax(dim=-1)).detach())
        return function(*args, **(kwargs or {}))


@contextmanager
def recorded(scores: bool = False) -> Iterator[list[Tensor]]:
    """Collect the map (B, h, N, M) of every attention that runs inside the with-block, in the order of the calls.

    Queries and keys are read as the kernel gets them: after QK-norm and rotations. scores: keep what the softmax gets.
    """
    with _Listener(scores) as listener:
        yield listener.maps


@torch.no_grad()
def prompt_maps(
    model: TextToImage, x: Tensor, t: Tensor, ids: Tensor, scores: bool = False
) -> list[Tensor]:  # fmt: skip
    """Return the maps of the attentions in a text-to-image network, block after block, without its encoder's.

    x: (B, C, H, W) noisy pictures; t: (B,) from 0 to 1000; ids: (B, L). An MMDiT gives joint maps, one for each block;
    a DiT with cross-attention gives two for each block, (B, h, N, N) among the patches and (B, h, N, L) to words.
    """
    heard = model.hear(ids)
    with recorded(scores) as maps:
        model.network(x, t, *heard)
    return maps


def four_blocks(joint: Tensor, words: int, renormalise: bool = False) -> dict[str, Tensor]:
    """Cut a joint map (B, h, L + N, L + N) into four: who asks → who is asked.

    words: L. renormalise: let each row of each block sum to 1, which shows where it looks among words, or among
    patches, but no longer how much; a row that asks nobody there stays zero. Raises ValueError for a map that is not
    joint.
    """
    if joint.shape[-1] != joint.shape[-2] or not 0 < words < joint.shape[-1]:
        raise ValueError(f"four_blocks: a map of shape {tuple(joint.shape)} is not joint with {words} words")
    rows = (joint[..., :words, :], joint[..., words:, :])
    cut = [part for row in rows for part in (row[..., :words], row[..., words:])]
    if renormalise:
        cut = [part / part.sum(dim=-1, keepdim=True).clamp(min=1e-12) for part in cut]
    return dict(zip(BLOCKS, cut, strict=True))


def image_to_text(attention: Tensor, words: int) -> Tensor:
    """Return how much each patch asks each word, (B, h, N, L), from a joint map or from one of cross-attention."""
    if attention.shape[-1] == words:
        return attention
    return four_blocks(attention, words)["image → text"]


def word_map(attention: Tensor, words: int, word: int, rows: int) -> Tensor:
    """Return where one word is heard: how much each patch asks it, laid out as the picture, (B, h, rows, columns).

    attention: a joint map or one of cross-attention; words: L; word: its number in the caption, from 0; rows: of
    patches. Raises ValueError where there is no such word, or the patches do not fill the rows.
    """
    asked = image_to_text(attention, words)
    if not 0 <= word < words or asked.shape[2] % rows:
        raise ValueError(f"word_map: word {word} of {words}, {asked.shape[2]} patches in {rows} rows")
    return asked[..., word].unflatten(-1, (rows, -1))


def text_mass(attention: Tensor, words: int) -> Tensor:
    """Return the share of the patches' attention that goes to words, averaged over patches: (B, h).

    With equal scores it would be L / (L + N): of 77 + 77 words and 4,096 patches, 3.6 % (SD3 at 1024²).
    """
    return image_to_text(attention, words).sum(dim=-1).mean(dim=-1)


def share_inside(maps: Tensor, mask: Tensor, other: Tensor) -> Tensor:
    """Return how much of a word's map lies on one object rather than the other: 1 all, ½ undecided, 0 on the other.

    maps: (B, rows, columns), averaged over heads; mask, other: (B, rows, columns), how much of each patch the objects
    cover. Each object's mean is taken, so that a larger one does not win by size. Returns (B,).
    """
    here, there = ((maps * part).sum(dim=(1, 2)) / part.sum(dim=(1, 2)) for part in (mask, other))
    return here / (here + there)


def patch_cover(masks: Tensor, patch_size: int) -> Tensor:
    """Return how much of every patch objects cover, (B, K, rows, columns), from masks of pixels (B, K, H, W)."""
    return F.avg_pool2d(masks, patch_size)
