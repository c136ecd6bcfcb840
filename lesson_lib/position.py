"""Where a token comes from: attention sees a set, so a transformer must be told each patch's place.

Read from the top: tables that are added, tables at other sizes, rotations in one dimension, where patches and words
stand, and rotations of pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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


# --- additive tables at other sizes -------------------------------------------------------------------------------

ADDITIVE = ("none", "learned", "sin-cos")
ROTARY = ("axial", "mixed")
KINDS = (*ADDITIVE, *ROTARY)
STRETCHES = ("extend", "centre", "interpolate", "ntk")


def check_kind(who: str, kind: str, stretch: str = "extend", head_size: int = 4) -> None:
    """Raise ValueError, saying what there is, for an unknown kind of positions or a stretch that does not fit it.

    head_size: channels of a head, a multiple of 4 where two axes are to share them as pairs.
    """
    for name, value, known in (("positions", kind, KINDS), ("stretch", stretch, STRETCHES)):
        if value not in known:
            raise ValueError(f"{who}: {name} is {value!r}; it must be one of {', '.join(known)}")
    if stretch == "ntk" and kind != "axial":
        raise ValueError(f"{who}: stretch 'ntk' changes the base of fixed rotations, positions 'axial', not {kind!r}")
    if kind in ROTARY and head_size % 4:
        raise ValueError(f"{who}: positions {kind!r} need heads of a multiple of 4 channels, not {head_size}")


def sin_cos_at(coordinates: Tensor, size: int) -> Tensor:
    """Return rows of the table of sin_cos_2d at any places, between the patches and outside the grid too.

    coordinates: (N, 2), row and column, whole or not. Returns (N, size), the column in the first half.
    """
    row, column = coordinates.unbind(dim=1)
    return torch.cat([sin_cos_1d(column, size // 2), sin_cos_1d(row, size // 2)], dim=1)


def crop_table(table: Tensor, trained: int, height: int, width: int) -> Tensor:
    """Cut the middle out of a table of trained × trained places, as SD3 does with its table of 192 × 192.

    table: (1, trained², D). Returns (1, height · width, D): rows from (trained - height) // 2 on, columns likewise.
    Raises ValueError for a larger grid. Source: SD3 (arXiv 2403.03206, §5.3.2); Stability-AI/sd3.5, mmditx.py.
    """
    if max(height, width) > trained:
        raise ValueError(
            f"crop_table: a table of {trained}×{trained} places has no {height}×{width} of them; make a larger table, "
            "or stretch it"
        )
    top, left = (trained - height) // 2, (trained - width) // 2
    places = table.unflatten(1, (trained, trained))
    return places[:, top : top + height, left : left + width].flatten(1, 2)


def resize_table(table: Tensor, trained: int, height: int, width: int) -> Tensor:
    """Stretch a table of trained × trained places like a picture, bicubically: how a learned one meets a larger grid.

    table: (1, trained², D). Returns (1, height · width, D).
    Source: ViT (arXiv 2010.11929, §3.2); facebookresearch/dino, vision_transformer.py, interpolate_pos_encoding.
    """
    places = table.unflatten(1, (trained, trained)).movedim(-1, 1)
    return F.interpolate(places, size=(height, width), mode="bicubic").flatten(2).mT


def fit_table(
    table: Tensor, kind: str, trained: int, height: int, width: int, stretch: str, before: int = 0
) -> Tensor:  # fmt: skip
    """Return what is added to the tokens of a grid of another size than the trained one.

    table: (1, before + trained², D), the first rows belonging to tokens that are no patches. stretch: "extend" goes on
    counting from the corner, "centre" in all directions from the middle, "interpolate" squeezes the longer side into
    the trained range; of a kind without a table the rows are zero. A learned table can be cropped ("centre") and
    interpolated, not extended: ValueError.
    """
    check_kind("fit_table", kind, stretch)
    if (height, width) == (trained, trained):
        return table
    extra, places = table[:, :before], table[:, before:]
    if kind not in ("learned", "sin-cos"):
        places = table.new_zeros(1, height * width, table.shape[-1])
    elif kind == "sin-cos":
        coordinates = grid_coordinates(height, width, trained, stretch)
        places = sin_cos_at(coordinates, table.shape[-1])[None].to(table)
    elif stretch == "interpolate":
        places = resize_table(places, trained, height, width)
    elif stretch == "centre":
        places = crop_table(places, trained, height, width)
    else:
        raise ValueError(
            f"a learned table knows {trained}×{trained} places and cannot go on to {height}×{width}: take "
            "stretch='interpolate', or 'centre' for a smaller grid"
        )
    return torch.cat([extra, places], dim=1)


# --- rotations in one dimension ------------------------------------------------------------------------------------

PAIRINGS = ("interleaved", "half-split")


def rope_frequencies(size: int, base: float = 10000.0, longer: float = 1.0) -> Tensor:
    """Return how far each pair of channels turns with one step: base ** (-2 j / size) radians, from 1 downwards.

    size: channels that turn, an even number. longer: how many times longer than the trained one a sequence is;
    NTK-aware scaling then raises the base to base · longer ** (size / (size - 2)): the fastest pair stays, the slowest
    turns `longer` times slower. Returns (size / 2,) float64. Raises ValueError where size is odd.
    Source: RoFormer (arXiv 2104.09864, §3.2.2, Eq. 15); NTK-aware: transformers, modeling_rope_utils.py.
    """
    if size % 2 or size < 2:
        raise ValueError(f"rope_frequencies: size is {size}; channels turn in pairs, so it must be even")
    if longer != 1 and size > 2:
        base = base * longer ** (size / (size - 2))
    return base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring channels (0, 1), (2, 3), … as points of a plane: (a, b) → (a cos - b sin, a sin + b cos).

    x: (..., N, d); angles: (..., N, d / 2) in radians. Returns (..., N, d).
    Source: RoFormer (arXiv 2104.09864, Eqs. 14-16); black-forest-labs/flux, math.py, apply_rope.
    """
    cos, sin = angles.cos(), angles.sin()
    first, second = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1).flatten(-2)


def shift_error(
    turn: Callable[[Tensor, Tensor], Tensor], query: Tensor, key: Tensor, frequencies: Tensor, shift: float
) -> float:  # fmt: skip
    """Return the largest change of any score q·k when all tokens move on by the same number of places.

    turn: a function like rotate. query, key: (N, d), token n standing at place n; frequencies: (d / 2,). For a relative
    encoding the change is 0 up to rounding: proof by experiment of R(m)ᵀ R(n) = R(n - m).
    Source: RoFormer (arXiv 2104.09864, Eq. 16).
    """

    def scores(start: float) -> Tensor:
        angles = (start + torch.arange(len(query), dtype=frequencies.dtype))[:, None] * frequencies
        return turn(query, angles) @ turn(key, angles).mT

    return float((scores(shift) - scores(0.0)).abs().max())


def half_order(size: int) -> Tensor:
    """Return the channels in the order (0, 2, 4, …, 1, 3, 5, …): x[half_order] is x for the half-split pairing."""
    return torch.arange(size).view(-1, 2).T.flatten()


def halves_from_pairs(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the outputs of a query or key layer from the interleaved to the half-split pairing; the scores stay.

    weight: (num_heads · d, D), or its bias (num_heads · d,), or a QK-norm's weight (d,) with num_heads 1.
    Source: transformers, models/llama/convert_llama_weights_to_hf.py.
    """
    heads = weight.unflatten(0, (num_heads, -1))
    return heads[:, half_order(heads.shape[1])].flatten(0, 1)


def pairs_from_halves(weight: Tensor, num_heads: int) -> Tensor:
    """Reorder the outputs of a query or key layer from the half-split to the interleaved pairing; the scores stay.

    weight: (num_heads · d, D), or its bias (num_heads · d,), or a QK-norm's weight (d,) with num_heads 1: the inverse
    of halves_from_pairs. Values and the output layer stay as they are: they are not rotated.
    """
    heads = weight.unflatten(0, (num_heads, -1))
    return heads[:, half_order(heads.shape[1]).argsort()].flatten(0, 1)


def quarter_turn(x: Tensor, pairing: str = "interleaved") -> Tensor:
    """Turn every pair of channels by 90°: (a, b) → (-b, a). x: (..., d). Returns (..., d).

    pairing: "interleaved" pairs channels (0, 1), (2, 3), … (FLUX, Qwen-Image, RoPE-ViT), "half-split" channel j with
    channel j + d / 2 (transformers' Llama, CogView4).
    """
    if pairing == "half-split":
        first, second = x.chunk(2, dim=-1)
        return torch.cat([-second, first], dim=-1)
    first, second = x.unflatten(-1, (-1, 2)).unbind(dim=-1)
    return torch.stack([-second, first], dim=-1).flatten(-2)


@dataclass(frozen=True)
class Rotation:
    """A rotation of queries and keys, ready to be used: cosines and sines of every token's angles, in float32.

    cos, sin: (N, d), or (h, N, d) where heads differ; a pair's two channels have the same. Called with x (B, h, N, d)
    it returns x · cos + quarter_turn(x) · sin, the same as rotate, in x's own precision. Raises ValueError for another
    N or d. Source: the form of diffusers, models/embeddings.py, apply_rotary_emb.
    """

    cos: Tensor
    sin: Tensor
    pairing: str = "interleaved"

    @classmethod
    def of(cls, angles: Tensor, pairing: str = "interleaved") -> Rotation:
        """Make the rotation by angles (..., N, d / 2), in radians. Raises ValueError for an unknown pairing."""
        if pairing not in PAIRINGS:
            raise ValueError(f"Rotation: pairing is {pairing!r}; it must be one of {', '.join(PAIRINGS)}")
        cos, sin = angles.cos().float(), angles.sin().float()
        if pairing == "half-split":
            return cls(torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1), pairing)
        return cls(cos.repeat_interleave(2, dim=-1), sin.repeat_interleave(2, dim=-1), pairing)

    def __call__(self, x: Tensor) -> Tensor:
        if x.ndim < 3 or x.shape[-2:] != self.cos.shape[-2:]:
            raise ValueError(
                f"Rotation: made for {self.cos.shape[-2]} tokens of {self.cos.shape[-1]} channels in each head, called "
                f"with a tensor of shape {tuple(x.shape)}; expected (B, h, {', '.join(map(str, self.cos.shape[-2:]))})"
            )
        x, (cos, sin) = x.transpose(-3, -2), self._in_memory_order
        return torch.addcmul(x * cos, quarter_turn(x, self.pairing), sin).to(x.dtype).transpose(-3, -2)

    @cached_property
    def _in_memory_order(self) -> tuple[Tensor, Tensor]:
        """The tables with the heads after the tokens: so a linear layer leaves them, and so it is fastest."""
        if self.cos.ndim == 2:
            return self.cos[:, None], self.sin[:, None]
        return self.cos.transpose(-3, -2), self.sin.transpose(-3, -2)


# --- coordinates: where patches and words stand ---------------------------------------------------------------------


@lru_cache(maxsize=64)
def grid_coordinates(
    height: int, width: int, trained: int = 0, stretch: str = "extend", before: int = 0, after: int = 0,
    device: str | torch.device = "cpu",
) -> Tensor:  # fmt: skip
    """Return row and column of every patch, in reading order, as a network trained on another grid is to see them.

    trained: side of the square grid of the training; 0: this one. stretch: "extend" and "ntk" count on from the
    corner; "centre" lets the middles of both grids agree, trained / 2 + (i - height / 2); "interpolate" also squeezes
    the longer side into the trained range: both distances times trained / max(height, width), Hunyuan-DiT's
    centralised interpolation. before, after: tokens that are no patches; they stand at the origin, where nothing is
    rotated.
    Returns (before + height · width + after, 2) float32; the same tensor at every call, so do not write into it.
    Source: Hunyuan-DiT (arXiv 2405.08748, §2.1); position interpolation: arXiv 2306.15595.
    """
    scale = trained / max(height, width) if trained and stretch == "interpolate" else 1.0
    sides = []
    with torch.inference_mode(False):  # the grid outlives this call, also into a training
        for side in (height, width):
            places = torch.arange(side, dtype=torch.float64, device="cpu")
            if trained and stretch in ("centre", "interpolate"):
                places = trained / 2 + scale * (places - side / 2)
            sides.append(places)
        rows, columns = torch.meshgrid(*sides, indexing="ij")
        grid = torch.stack([rows.flatten(), columns.flatten()], dim=1)
        return F.pad(grid, (0, 0, before, after)).float().to(device)


def centred_grid(height: int, width: int) -> Tensor:
    """Return row and column of every patch, counted from the middle: rows from -⌈height / 2⌉ to ⌊height / 2⌋ - 1.

    Returns (height · width, 2) float32, in reading order. The row and the column just below and right of the middle are
    0. Source: Qwen-Image (arXiv 2508.02324, §2.4); diffusers, transformer_qwenimage.py, QwenEmbedRope (scale_rope).
    """
    rows, columns = (torch.arange(side) - (side - side // 2) for side in (height, width))
    return torch.cartesian_prod(rows, columns).float()


def scaled_grid(height: int, width: int, reference: int) -> Tensor:
    """Return row and column from the middle, in units in which the longer side is `reference` long.

    Returns (height · width, 2) float32, in reading order. The middle has the same coordinates at every resolution, and
    patches near it similar ones. One reading of Seedream 2.0's Scaling RoPE, whose text gives no formula: it says that
    a factor chosen from the resolution makes this so (arXiv 2503.07703, §3.1).
    """
    return grid_coordinates(height, width, reference, "interpolate") - reference / 2


TEXT_PLACES = ("origin", "continued", "diagonal")


def joint_coordinates(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
    """Return (frame, row, column) of every token of a sentence of words and patches, the words first.

    text: "origin", all words at (0, 0, 0), the place of the upper left patch (FLUX.1); "continued", word n at
    (n, 0, 0) and the picture in frame `words` (Lumina-Image 2.0); "diagonal", the picture centred and word n at
    (m + n, m + n, m + n) with m = max(⌊height / 2⌋, ⌊width / 2⌋), the first place beyond every patch (Qwen-Image).
    Returns (words + height · width, 3) float32. Raises ValueError for another text.
    Source: black-forest-labs/flux, sampling.py; Alpha-VLLM/Lumina-Image-2.0; diffusers, transformer_qwenimage.py.
    """
    if text not in TEXT_PLACES:
        raise ValueError(f"joint_coordinates: text is {text!r}; it must be one of {', '.join(TEXT_PLACES)}")
    picture = centred_grid(height, width) if text == "diagonal" else grid_coordinates(height, width)
    picture = F.pad(picture, (1, 0), value=float(words) if text == "continued" else 0.0)
    if text == "diagonal":
        sentence = diagonal_text(words, height, width)
    else:
        sentence = torch.zeros(words, 3)
        if text == "continued":
            sentence[:, 0] = torch.arange(words)
    return torch.cat([sentence, picture])


def diagonal_text(words: int, height: int, width: int, axes: int = 3) -> Tensor:
    """Return the coordinates of words beside a centred grid: word n has the same number on every axis.

    The first number is max(⌊height / 2⌋, ⌊width / 2⌋), the first that no patch has. Returns (words, axes) float32.
    Between two words the offset is the same on every axis, so among themselves they have rotations of one dimension.
    Source: Qwen-Image (arXiv 2508.02324, §2.4, MSRoPE); diffusers, transformer_qwenimage.py, QwenEmbedRope.
    """
    first = max(height // 2, width // 2)
    return (first + torch.arange(words).float())[:, None].expand(words, axes)


# --- coordinates in, rotation out -----------------------------------------------------------------------------------


def axial_angles(
    coordinates: Tensor, axes: Sequence[int], base: float = 10000.0, longer: float = 1.0
) -> Tensor:  # fmt: skip
    """Give each axis some channels of its own: the first axes[0] turn with coordinate 0, the next with coordinate 1, …

    coordinates: (N, A); axes: channels of each of the A axes, even, together a head's d (FLUX.1: 16, 56, 56). base and
    longer: of rope_frequencies, for each axis. Returns angles (N, d / 2) float64. Raises ValueError where the numbers
    of axes differ. Source: black-forest-labs/flux, modules/layers.py, EmbedND; naver-ai/rope-vit (column first there).
    """
    if coordinates.shape[-1] != len(axes):
        raise ValueError(f"axial_angles: {coordinates.shape[-1]} coordinates for {len(axes)} axes of channels")
    parts = []
    for place, size in zip(coordinates.double().unbind(dim=-1), axes, strict=True):
        parts.append(place[:, None] * rope_frequencies(size, base, longer).to(place.device))
    return torch.cat(parts, dim=-1)


def mixed_angles(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    """Let every pair of channels turn with all coordinates at once: the sum of coordinate times frequency.

    coordinates: (N, A); frequencies: (A, h, d / 2), learned, of every axis, head and pair. Returns angles
    (h, N, d / 2).
    Source: RoPE-Mixed (arXiv 2403.13298, §3.2); naver-ai/rope-vit, models/vit_rope.py, compute_mixed_cis.
    """
    place = coordinates.to(frequencies)[:, :, None, None]
    return (place * frequencies).sum(dim=1).transpose(0, 1)


def mixed_frequencies(directions: Tensor, head_size: int, base: float = 10.0) -> Tensor:
    """Return what RoPE-Mixed starts from: half of each head's pairs look into its direction, half at a right angle.

    directions: (h,) in radians, drawn uniformly from a full turn; 0 everywhere is axial. Both halves have the lengths
    rope_frequencies(head_size / 2, base). Returns (2, h, head_size / 2) float32 for (row, column).
    Raises ValueError where head_size does not divide by 4.
    Source: naver-ai/rope-vit, models/vit_rope.py, init_random_2d_freqs (column first there).
    """
    if head_size % 4:
        raise ValueError(f"mixed_frequencies: head_size is {head_size}; two halves of pairs need a multiple of 4")
    lengths = rope_frequencies(head_size // 2, base)
    turned = torch.cat([directions.double()[:, None], directions.double()[:, None] + math.pi / 2], dim=1)
    row, column = (part[:, :, None] * lengths for part in (turned.cos(), turned.sin()))
    return torch.stack([row.flatten(1), column.flatten(1)]).float()


class AxialRope(nn.Module):
    """Rotations with fixed frequencies, each axis in channels of its own; one axis is RoPE as in language models.

    coordinates: (N, A). Returns the Rotation of queries and keys by them, kept for the next call with the same tensor.
    axes: channels of each axis (see axial_angles). longer: for NTK-aware scaling, how many times longer the sides are.
    """

    def __init__(self, axes: Sequence[int], base: float = 10000.0, pairing: str = "interleaved") -> None:
        super().__init__()
        for size in axes:
            rope_frequencies(size)
        self.axes, self.base, self.pairing = tuple(axes), base, pairing
        self._kept: tuple[Tensor | None, float, Rotation | None] = (None, 1.0, None)

    def forward(self, coordinates: Tensor, longer: float = 1.0) -> Rotation:
        kept, kept_longer, rotation = self._kept
        if rotation is None or kept is not coordinates or kept_longer != longer:
            with torch.inference_mode(False):  # the table outlives this call, also into a training
                places = coordinates if coordinates.is_meta else coordinates.cpu()
                found = Rotation.of(axial_angles(places, self.axes, self.base, longer), self.pairing)
                rotation = replace(found, cos=found.cos.to(coordinates.device), sin=found.sin.to(coordinates.device))
            self._kept = (coordinates, longer, rotation)
        return rotation


class MixedRope(nn.Module):
    """Rotations in learned directions, other ones in every head; a layer has its own.

    coordinates: (N, 2). Returns the Rotation of queries and keys by them. head_size · num_heads parameters in freqs
    (2, h, d / 2), which weight decay leaves alone. Always in float32.
    Source: RoPE-Mixed (arXiv 2403.13298, §3.2); naver-ai/rope-vit, models/vit_rope.py.
    """

    undecayed = ("freqs",)

    def __init__(self, num_heads: int, head_size: int, base: float = 10.0) -> None:
        super().__init__()
        self.freqs = nn.Parameter(mixed_frequencies(2 * math.pi * torch.rand(num_heads), head_size, base))

    def forward(self, coordinates: Tensor) -> Rotation:
        return Rotation.of(mixed_angles(coordinates, self.freqs.float()))


class Ropes(nn.ModuleList):
    """The rotations of all blocks of a transformer for pictures: one for all ("axial"), one each ("mixed"), or none.

    Called with a device it returns, for every block, the Rotation on the grid where it was placed, or None.
    grid: side of the square grid of patches. base: of the frequencies, by default 100 for axial and 10 for mixed
    (RoPE-ViT's). before, after: tokens beside the patches, which are not rotated. Raises ValueError where a head's
    channels cannot be shared by two axes.
    """

    def __init__(
        self, kind: str, grid: int, depth: int, num_heads: int, head_size: int, base: float | None = None,
        before: int = 0, after: int = 0,
    ) -> None:  # fmt: skip
        check_kind("Ropes", kind, head_size=head_size)
        layers: list[nn.Module] = []
        if kind == "axial":
            layers = [AxialRope((head_size // 2, head_size // 2), base or 100.0)] * depth
        elif kind == "mixed":
            layers = [MixedRope(num_heads, head_size, base or 10.0) for _ in range(depth)]
        super().__init__(layers)
        self.kind, self.depth, self.extra = kind, depth, (before, after)
        self.place(grid, grid, grid)

    def place(self, trained: int, height: int, width: int, stretch: str = "extend") -> None:
        """Go to a grid of height × width patches, having been trained on trained × trained (see grid_coordinates)."""
        if self.kind in ROTARY:
            check_kind("Ropes", self.kind, stretch)
        self.where = (height, width, trained, stretch)

    def forward(self, device: str | torch.device = "cpu") -> list[Rotation | None]:
        if not len(self):
            return [None] * self.depth
        height, width, trained, stretch = self.where
        coordinates = grid_coordinates(*self.where, *self.extra, device)
        if self.kind == "mixed":  # the heads of all layers at once, which is faster than one layer at a time
            freqs = torch.cat([rope.get_parameter("freqs").float() for rope in self], dim=1)
            tables = Rotation.of(mixed_angles(coordinates, freqs))
            parts = (table.chunk(self.depth) for table in (tables.cos, tables.sin))
            return [Rotation(cos, sin) for cos, sin in zip(*parts, strict=True)]
        longer = max(height, width) / trained if stretch == "ntk" else 1.0
        return [rope(coordinates, longer) for rope in self]


def offset_kernel(rotation: Rotation, reach: int) -> Tensor:
    """Return how much a query and an equal key agree at every offset, whatever they say: the mean of cos(angle).

    rotation: of a grid of (2 reach + 1)² places in reading order. Returns (2 reach + 1, 2 reach + 1), or one for each
    head, 1 in the middle. Of an axial rotation it is a function of the rows plus one of the columns.
    """
    side, middle = 2 * reach + 1, 2 * reach * (reach + 1)
    same = rotation.cos * rotation.cos[..., middle, None, :] + rotation.sin * rotation.sin[..., middle, None, :]
    return same.mean(dim=-1).unflatten(-1, (side, side))
