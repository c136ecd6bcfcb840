"""Lesson 03, the U-Net: its bricks, the way up with the kept maps, and what can be measured on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib import results
from lesson_lib.evaluate import input_gradient
from lesson_lib.exercises.core import (
    Case,
    Exercise,
    LessonCard,
    Mistake,
    Property,
    Prose,
    Question,
    integers,
    normal,
)
from lesson_lib.unet import (
    AdaGN,
    AttentionBlock,
    ResBlock,
    Stage,
    UNet,
    UNetConfig,
    encoder_channels,
    parameters_by_part,
)

LESSON = LessonCard(
    number="03",
    slug="unet",
    title="U-Net",
    question="Why did the U rule for seven years?",
    minutes=100,
    prerequisites=("01", "02"),
)


# --- AdaGN -------------------------------------------------------------------------------------------------------


def _features(g: torch.Generator, size: int) -> Case:
    channels, emb_size = 12 + 4 * size, 7 + 2 * size
    h = normal(g, 2 + size, channels, 3 + size, 5 + size)
    build = {"channels": channels, "emb_size": emb_size, "groups": 4, "eps": 1e-5}
    return Case(h, normal(g, 2 + size, emb_size), build=build)


def _knobs(self: AdaGN, emb: Tensor, pattern: str = "b (two c) -> two b c 1 1") -> tuple[Tensor, Tensor]:
    """Return the two outputs of the projection, in the order in which they stand there."""
    first, second = rearrange(self.project(F.silu(emb)), pattern, two=2)
    return first, second


def _no_one(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = _knobs(self, emb)
    return self.norm(h) * scale + shift


def _shift_first(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    shift, scale = _knobs(self, emb)
    return self.norm(h) * (1 + scale) + shift


def _norm_last(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = _knobs(self, emb)
    return self.norm(h * (1 + scale) + shift)


def _no_norm(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = _knobs(self, emb)
    return h * (1 + scale) + shift


def _silu_after(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = rearrange(F.silu(self.project(emb)), "b (two c) -> two b c 1 1", two=2)
    return self.norm(h) * (1 + scale) + shift


def _no_silu(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = rearrange(self.project(emb), "b (two c) -> two b c 1 1", two=2)
    return self.norm(h) * (1 + scale) + shift


def _alternating(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = _knobs(self, emb, "b (c two) -> two b c 1 1")
    return self.norm(h) * (1 + scale) + shift


def _no_axes(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = _knobs(self, emb, "b (two c) -> two b c")
    return self.norm(h) * (1 + scale) + shift


ADAGN = Exercise(
    id="unet.AdaGN.forward",
    lesson="03",
    number=1,
    title="Let the time stretch and shift every channel",
    points=3,
    minutes=7,
    difficulty=1,
    case=_features,
    mistakes=[
        Mistake(
            "no one",
            _no_one,
            "The 1 + in front of scale is missing. A projection that says nothing (all zeros) must leave the "
            "normalised features as they are; yours erases them.",
        ),
        Mistake(
            "shift first",
            _shift_first,
            "Scale and shift have changed places. In ADM, and here, the first C outputs of the projection are the "
            "scale and the last C the shift; DiT orders them the other way round.",
        ),
        Mistake(
            "normalised last",
            _norm_last,
            "You stretch and shift first and normalise afterwards. GroupNorm takes out the mean and the spread of a "
            "group, and with them much of what the time had just said. Normalise h, then modulate.",
        ),
        Mistake(
            "no norm",
            _no_norm,
            "You stretch and shift the raw features; self.norm is unused. Normalise h first: then a shift of 1 means "
            "the same in every block, however large its features have grown.",
        ),
        Mistake(
            "no SiLU",
            _no_silu,
            "emb goes into self.project as it is. It must pass through F.silu on its way: the projection reads "
            "SiLU(emb), in every block of the network.",
        ),
        Mistake(
            "SiLU after the projection",
            _silu_after,
            "Your SiLU stands after the projection, so no scale or shift can fall below about -0.28. It belongs "
            "before it: emb, SiLU, projection.",
        ),
        Mistake(
            "alternating",
            _alternating,
            "You read the projection as scale, shift, scale, shift, … It holds two blocks: first all the scales, then "
            "all the shifts.",
        ),
        Mistake(
            "no axes",
            _no_axes,
            "scale and shift have the shape (B, C), h has (B, C, H, W). torch lines shapes up from the right, so C "
            "meets W. Give scale and shift two more axes of length 1 at the end.",
        ),
    ],
)


# --- the residual block ------------------------------------------------------------------------------------------


def _bricks(g: torch.Generator, size: int) -> Case:
    """Add or AdaGN, with and without the time, at the same resolution, halved and doubled; in turn."""
    narrow, wide = 9 + 6 * (size // 4), 15 + 6 * (size // 4)
    builds: list[dict[str, Any]] = [
        {"in_channels": narrow, "out_channels": wide, "emb_size": 7, "time_way": "add"},
        {"in_channels": narrow, "out_channels": narrow, "resample": "down", "dropout": 0.25},
        {"in_channels": wide, "out_channels": narrow, "emb_size": 7, "time_way": "adagn", "resample": "up"},
        {"in_channels": narrow, "out_channels": narrow, "emb_size": 7, "time_way": "adagn"},
    ]
    build = builds[size % 4]
    h = normal(g, 2 + size, build["in_channels"], 4 + 2 * size, 10 + 2 * size)
    emb = (normal(g, 2 + size, 7),) if "emb_size" in build else ()
    return Case(h, *emb, build={**build, "groups": 3, "eps": 1e-5})


def _branch(self: ResBlock, h: Tensor, emb: Tensor | None) -> Tensor:
    """Return what a block adds to its shortcut, from the first convolution's output on."""
    r = self.norm2(h) if emb is None else self.norm2(h, emb)
    return self.conv2(self.dropout(F.silu(r)))


def _enter(self: ResBlock, h: Tensor) -> Tensor:
    return self.conv1(self.resample(F.silu(self.norm1(h))))


def _no_shortcut(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    return _branch(self, _enter(self, h), emb)


def _bare_shortcut(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    return self.resample(h) + _branch(self, _enter(self, h), emb)


def _branch_resampled(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    return self.shortcut(h) + _branch(self, _enter(self, h), emb)


def _shortcut_resampled(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    r = self.conv1(F.silu(self.norm1(h)))
    return self.shortcut(self.resample(h)) + _branch(self, r, emb)


def _activated_first(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    r = self.conv1(self.resample(self.norm1(F.silu(h))))
    r = self.norm2(F.silu(r)) if emb is None else self.norm2(F.silu(r), emb)
    return self.shortcut(self.resample(h)) + self.conv2(self.dropout(r))


def _resampled_after(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    r = self.resample(self.conv1(F.silu(self.norm1(h))))
    return self.shortcut(self.resample(h)) + _branch(self, r, emb)


def _resampled_first(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    h = self.resample(h)
    return self.shortcut(h) + _branch(self, self.conv1(F.silu(self.norm1(h))), emb)


def _always_heard(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    r = self.norm2(_enter(self, h), emb)
    return self.shortcut(self.resample(h)) + self.conv2(self.dropout(F.silu(r)))


def _never_heard(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    return self.shortcut(self.resample(h)) + _branch(self, _enter(self, h), None)


def _truth_of_a_tensor(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    r = _enter(self, h)
    r = self.norm2(r, emb) if emb else self.norm2(r)
    return self.shortcut(self.resample(h)) + self.conv2(self.dropout(F.silu(r)))


def _no_dropout(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    r = _enter(self, h)
    r = self.norm2(r) if emb is None else self.norm2(r, emb)
    return self.shortcut(self.resample(h)) + self.conv2(F.silu(r))


def _one_activation(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    r = _enter(self, h)
    r = self.norm2(r) if emb is None else self.norm2(r, emb)
    return self.shortcut(self.resample(h)) + self.conv2(self.dropout(r))


def _overwritten(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    h = self.resample(F.silu(self.norm1(h)))
    return self.shortcut(h) + _branch(self, self.conv1(h), emb)


RES_BLOCK = Exercise(
    id="unet.ResBlock.forward",
    lesson="03",
    number=2,
    title="Two convolutions around a shortcut",
    points=4,
    minutes=12,
    difficulty=2,
    case=_bricks,
    mistakes=[
        Mistake(
            "no shortcut",
            _no_shortcut,
            "You return the branch alone. The block is a correction to its input: the shortcut of h is added at the "
            "end. A fresh block, whose last convolution is zero, would otherwise return zeros.",
        ),
        Mistake(
            "h itself added",
            _bare_shortcut,
            "You add h without self.shortcut. Where the number of channels changes, the two do not fit; the 1×1 "
            "convolution in self.shortcut makes them fit, and where nothing changes it does nothing.",
        ),
        Mistake(
            "only the branch resampled",
            _branch_resampled,
            "Only the branch changes its resolution; the shortcut still has the old one. Both must pass through "
            "self.resample before they are added.",
        ),
        Mistake(
            "only the shortcut resampled",
            _shortcut_resampled,
            "Only the shortcut changes its resolution; the branch keeps the old one. The branch passes through "
            "self.resample too, before its first convolution.",
        ),
        Mistake(
            "resampled after the convolution",
            _resampled_after,
            "Your branch changes its resolution after the first convolution. Do it before, after norm and SiLU: the "
            "convolution then already works at the new resolution, which also costs less on the way down.",
        ),
        Mistake(
            "resampled first of all",
            _resampled_first,
            "You change the resolution before self.norm1. Averaging four pixels makes them calmer, so norm and SiLU "
            "then see other numbers. In the branch the order is norm, SiLU, resample, convolution.",
        ),
        Mistake(
            "activation before the norm",
            _activated_first,
            "Norm and SiLU have changed places. Each convolution is preceded by norm, then SiLU: the norm centres the "
            "features so that SiLU bends about half of them.",
        ),
        Mistake(
            "one activation",
            _one_activation,
            "There is a SiLU before the first convolution, but none before the second: after self.norm2 the features "
            "pass through F.silu again.",
        ),
        Mistake(
            "emb always passed on",
            _always_heard,
            "You hand emb to self.norm2 in every case. A block that was built without a time (emb_size 0) has a plain "
            "GroupNorm there, which takes the features only: leave emb out where it is None.",
        ),
        Mistake(
            "emb ignored",
            _never_heard,
            "You call self.norm2 without emb. It is where the block hears the time (see AddThenNorm and AdaGN): hand "
            "emb over as the second argument, where there is one.",
        ),
        Mistake(
            "truth of a tensor",
            _truth_of_a_tensor,
            "`if emb` asks a whole tensor whether it is true, and torch refuses to say. Ask whether there is one: "
            "`emb is None`.",
        ),
        Mistake(
            "shortcut from the branch",
            _overwritten,
            "You wrote the normalised features over h, and the shortcut then carries those. It must start from the h "
            "that came in: give the branch a name of its own.",
        ),
        Mistake(
            "no dropout",
            _no_dropout,
            "self.dropout is unused. It stands in front of the last convolution, after SiLU, and some of the cases "
            "tried here drop a quarter of the features.",
        ),
    ],
)


# --- attention over pixels ---------------------------------------------------------------------------------------


def _maps(g: torch.Generator, size: int) -> Case:
    heads = (3, 2, 4, 1)[size % 4]
    build = {"channels": 12, "num_heads": heads, "groups": 4, "eps": 1e-5}
    return Case(normal(g, 2 + size, 12, 3 + size, 5 + 2 * size), build=build)


FLAT, FOLDED = "b c height width -> b (height width) c", "b (height width) c -> b c height width"


def _no_residual(self: AttentionBlock, h: Tensor) -> Tensor:
    return rearrange(self.attention(rearrange(self.norm(h), FLAT)), FOLDED, height=h.shape[2])


def _not_normalised(self: AttentionBlock, h: Tensor) -> Tensor:
    return h + rearrange(self.attention(rearrange(h, FLAT)), FOLDED, height=h.shape[2])


def _normalised_residual(self: AttentionBlock, h: Tensor) -> Tensor:
    h = self.norm(h)
    return h + rearrange(self.attention(rearrange(h, FLAT)), FOLDED, height=h.shape[2])


def _over_channels(self: AttentionBlock, h: Tensor) -> Tensor:
    answer = self.attention(rearrange(self.norm(h), "b c height width -> b c (height width)"))
    return h + rearrange(answer, "b c (height width) -> b c height width", height=h.shape[2])


def _over_batch(self: AttentionBlock, h: Tensor) -> Tensor:
    answer = self.attention(rearrange(self.norm(h), "b c height width -> (height width) b c"))
    return h + rearrange(answer, "(height width) b c -> b c height width", height=h.shape[2])


def _only_reshaped(self: AttentionBlock, h: Tensor) -> Tensor:
    pixels = self.norm(h).reshape(h.shape[0], h.shape[2] * h.shape[3], h.shape[1])
    return h + self.attention(pixels).reshape(h.shape)


def _reshaped_back(self: AttentionBlock, h: Tensor) -> Tensor:
    return h + self.attention(rearrange(self.norm(h), FLAT)).reshape(h.shape)


def _answers_turned(self: AttentionBlock, h: Tensor) -> Tensor:
    pixels = rearrange(self.norm(h), "b c height width -> b (height width) c")
    answer = self.attention(pixels)
    return h + rearrange(answer, "b (width height) c -> b c height width", height=h.shape[2])


def _questions_turned(self: AttentionBlock, h: Tensor) -> Tensor:
    pixels = rearrange(self.norm(h), "b c height width -> b (width height) c")
    answer = self.attention(pixels)
    return h + rearrange(answer, "b (height width) c -> b c height width", height=h.shape[2])


def _map_turned(self: AttentionBlock, h: Tensor) -> Tensor:
    answer = self.attention(rearrange(self.norm(h), FLAT))
    return h + rearrange(answer, "b (height width) c -> b c width height", height=h.shape[2])


def _wrong_side(self: AttentionBlock, h: Tensor) -> Tensor:
    answer = self.attention(rearrange(self.norm(h), FLAT))
    return h + rearrange(answer, FOLDED, width=h.shape[2])


ATTENTION = Exercise(
    id="unet.AttentionBlock.forward",
    lesson="03",
    number=3,
    title="Let every pixel ask every pixel",
    points=4,
    minutes=10,
    difficulty=2,
    case=_maps,
    tolerance=3e-5,
    mistakes=[
        Mistake(
            "no residual",
            _no_residual,
            "You return the answer of the attention and lose the features. It is a correction: add it to h.",
        ),
        Mistake(
            "not normalised",
            _not_normalised,
            "The attention reads h as it is; self.norm is unused. Normalise what goes into the attention, and only "
            "that.",
        ),
        Mistake(
            "normalised residual",
            _normalised_residual,
            "You add the answer to the normalised features. The residual path carries the h that came in, untouched; "
            "only the attention reads the normalised one.",
        ),
        Mistake(
            "over channels",
            _over_channels,
            "Your sequence has the channels as its tokens. The tokens are the pixels, H · W of them, each with its C "
            "features: (B, H·W, C), with the channels last.",
        ),
        Mistake(
            "over the batch",
            _over_batch,
            "Your pixels stand first and the batch second, so that each picture attends to the other pictures of the "
            "batch. SelfAttention wants (B, N, C): the batch stays in front.",
        ),
        Mistake(
            "only reshaped",
            _only_reshaped,
            "The shapes are right and the contents are not: reshape reads memory in order, and there all pixels of "
            "channel 0 come first. Move the channels to the end, do not only relabel the axes; then the same way "
            "back.",
        ),
        Mistake(
            "only reshaped on the way back",
            _reshaped_back,
            "The way there is right. On the way back you reshape (B, H·W, C) to (B, C, H, W) without moving the "
            "channels to the front first, which mixes channels with places.",
        ),
        Mistake(
            "answers turned",
            _answers_turned,
            "Rows and columns have changed places on the way back: you flatten row by row and fold column by column. "
            "Whatever order you take for the one, take it for the other.",
        ),
        Mistake(
            "map turned",
            _map_turned,
            "The folded map has its width before its height and does not fit h, which is (B, C, H, W): h.shape[2] is "
            "the height, h.shape[3] the width.",
        ),
    ],
)

ATTENTION_BUG = Exercise(
    id="unet.attention_bug",
    reference="unet.AttentionBlock.forward",
    lesson="03",
    number=8,
    title="Debug: the answers reach the wrong pixels",
    points=3,
    minutes=9,
    difficulty=2,
    case=_maps,
    tolerance=3e-5,
    broken="answers turned",
    mistakes=[
        Mistake(
            "answers turned",
            _answers_turned,
            "The sequence is written row by row and read back column by column. No shape complains, because both have "
            "H · W tokens; only pixels whose place in both orders agrees get their own answer.",
        ),
        Mistake(
            "questions turned",
            _questions_turned,
            "Now the way there goes column by column and the way back row by row: you changed both, and the two still "
            "disagree. Leave one as it was.",
        ),
        Mistake(
            "wrong side",
            _wrong_side,
            "Your folded map has its width before its height and does not fit h. Either the right-hand side of "
            "rearrange says so, or the height, h.shape[2], was handed over under the name of the width.",
        ),
        Mistake(
            "only reshaped on the way back",
            _reshaped_back,
            "reshape to (B, C, H, W) does not move the channels, which stand last in the answer. Keep rearrange and "
            "look at the order inside its brackets.",
        ),
        Mistake(
            "no residual",
            _no_residual,
            "The order of the pixels is right now, but the residual is gone: the answer is added to h.",
        ),
    ],
)


# --- the decoder's channels --------------------------------------------------------------------------------------


def _levels(g: torch.Generator, size: int) -> Case:
    steps = integers(g, 2 + size % 4, low=1, high=9)
    channels = tuple((8 * steps.cumsum(dim=0)).tolist())
    return Case(channels, 1 + size % 3)


Pairs = list[tuple[int, int]]


def _no_extra_block(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    kept, current, blocks = encoder_channels(channels, num_res_blocks), channels[-1], []
    for width in reversed(channels):
        for _ in range(num_res_blocks):
            blocks.append((current + kept.pop(), width))
            current = width
    return blocks


def _first_kept(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    kept, current, blocks = encoder_channels(channels, num_res_blocks), channels[-1], []
    for width in reversed(channels):
        for _ in range(num_res_blocks + 1):
            blocks.append((current + kept.pop(0), width))
            current = width
    return blocks


def _no_halvings(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    kept = [channels[0]] + [width for width in channels for _ in range(num_res_blocks)]
    current, blocks = channels[-1], []
    for width in reversed(channels):
        for _ in range(num_res_blocks + 1):
            blocks.append((current + kept.pop(), width))
            current = width
    return blocks


def _halvings_of_next(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    kept, current, blocks = [channels[0]], channels[-1], []
    for level, width in enumerate(channels):
        kept += [width] * num_res_blocks + list(channels[level + 1 : level + 2])
    for width in reversed(channels):
        for _ in range(num_res_blocks + 1):
            blocks.append((current + kept.pop(), width))
            current = width
    return blocks


def _own_width(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    kept = encoder_channels(channels, num_res_blocks)
    return [(width + kept.pop(), width) for width in reversed(channels) for _ in range(num_res_blocks + 1)]


def _bottom_width(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    kept = encoder_channels(channels, num_res_blocks)
    return [(channels[-1] + kept.pop(), width) for width in reversed(channels) for _ in range(num_res_blocks + 1)]


def _no_skips(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    current, blocks = channels[-1], []
    for width in reversed(channels):
        for _ in range(num_res_blocks + 1):
            blocks.append((current, width))
            current = width
    return blocks


def _twice_the_width(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    return [(2 * width, width) for width in reversed(channels) for _ in range(num_res_blocks + 1)]


def _one_skip_a_level(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    current, blocks = channels[-1], []
    for width in reversed(channels):
        for place in range(num_res_blocks + 1):
            blocks.append((current + width if place == 0 else current, width))
            current = width
    return blocks


def _finest_first(channels: Sequence[int], num_res_blocks: int) -> Pairs:
    kept, current, blocks = encoder_channels(channels, num_res_blocks), channels[-1], []
    for width in channels:
        for _ in range(num_res_blocks + 1):
            blocks.append((current + kept.pop(), width))
            current = width
    return blocks


DECODER = Exercise(
    id="unet.decoder_channels",
    lesson="03",
    number=4,
    title="Count what every block of the decoder reads",
    points=3,
    minutes=10,
    difficulty=2,
    case=_levels,
    gradient=False,
    mistakes=[
        Mistake(
            "no extra block",
            _no_extra_block,
            "Your levels have num_res_blocks blocks, as in the encoder. The decoder has one more a level: beside its "
            "blocks' maps, each level has kept the map it started from, and each kept map is read by one block.",
        ),
        Mistake(
            "taken from the front",
            _first_kept,
            "You take the kept maps in the order in which they were made. The decoder goes back up, so it takes the "
            "last one first.",
        ),
        Mistake(
            "too few maps",
            _no_halvings,
            "You run out of kept maps before the last block. Three things leave one: the first convolution, every "
            "residual block, and every halving between two levels. encoder_channels lists them all.",
        ),
        Mistake(
            "halvings with the next width",
            _halvings_of_next,
            "Your halvings leave maps with the width of the level below. A halving keeps the channels; it is the next "
            "level's first residual block that widens them.",
        ),
        Mistake(
            "own width",
            _own_width,
            "You assume that a level's first block receives features of that level's width. They come from the level "
            "below, through an upsampling that keeps the channels: carry the width of the features along.",
        ),
        Mistake(
            "always the bottom's width",
            _bottom_width,
            "You add the coarsest level's width everywhere. After a block the features have that block's "
            "out_channels: update the width inside the loop.",
        ),
        Mistake(
            "no skips",
            _no_skips,
            "Your blocks read the features only. Each also reads a kept map, concatenated along the channels, so the "
            "two widths add up.",
        ),
        Mistake(
            "twice the width",
            _twice_the_width,
            "Twice the level's own width is right only for blocks in the middle of a level. At its borders the "
            "features come from the coarser level, and the last kept map from the finer one.",
        ),
        Mistake(
            "one skip a level",
            _one_skip_a_level,
            "You concatenate one map a level, as the first U-Net did. DDPM's network keeps one after every block, and "
            "every block of the decoder gets one.",
        ),
        Mistake(
            "finest level first",
            _finest_first,
            "You walk through the levels from fine to coarse. The decoder starts at the bottom: the coarsest first.",
        ),
    ],
)


# --- the way up --------------------------------------------------------------------------------------------------


def _small(**changes: Any) -> UNetConfig:
    return UNetConfig(model_channels=4, groups=2, middle_attention=0, **changes)


UPS = (
    _small(channel_mult=(1, 2), num_res_blocks=1, attention=(0, 0), skips=(True, False)),
    _small(channel_mult=(1, 1), num_res_blocks=1, attention=(0, 0), skips=(False, True), time_way="add"),
    _small(channel_mult=(1, 1, 1), num_res_blocks=1, attention=(0, 0, 0), resblock_updown=True),
    _small(channel_mult=(1, 1), num_res_blocks=1, attention=(0, 1), skips=(True, False), context_size=6),
)


def _kept_maps(g: torch.Generator, size: int) -> Case:
    """Draw a coarsest map and kept maps, with the shapes that encode would return for a small U-Net."""
    config = UPS[size % len(UPS)]
    batch, blocks, coarsest = 5 + 2 * (size % 3), config.num_res_blocks, len(config.channels) - 1
    height, width = (side + 3 * (size // len(UPS)) for side in (2, 3))
    levels = [0, *(at for level in range(coarsest + 1) for at in [level] * blocks + [level + 1])][:-1]
    kept = [
        normal(g, batch, channels, height * 2 ** (coarsest - level), width * 2 ** (coarsest - level))
        for channels, level in zip(encoder_channels(config.channels, blocks), levels, strict=True)
    ]
    h = normal(g, batch, config.channels[-1], height, width)
    context = (normal(g, batch, 8, config.context_size),) if config.context_size else ()
    return Case(h, kept, normal(g, batch, config.emb_size), *context, build={"config": config})


def _climb(
    self: UNet,
    h: Tensor,
    kept: list[Tensor],
    emb: Tensor,
    context: Tensor | None,
    *,
    take: int = -1,
    join: Callable[[Tensor, Tensor], Tensor] = lambda h, skip: torch.cat([h, skip], dim=1),
    skips: Sequence[bool] | None = None,
) -> Tensor:
    """Return the finest features, with the slip that a mistake asks for."""
    kept, skips, level = list(kept), self.skips if skips is None else skips, len(self.skips) - 1
    for stage in self.up:
        if isinstance(stage, Stage):
            skip = kept.pop(take)
            h = join(h, skip if skips[level] else torch.zeros_like(skip))
        else:
            level -= 1
        h = stage(h, emb, context)
    return h


def _reversed(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    return _climb(self, h, kept, emb, context, take=0)


def _skip_first(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    return _climb(self, h, kept, emb, context, join=lambda h, skip: torch.cat([skip, h], dim=1))


def _added(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    return _climb(self, h, kept, emb, context, join=lambda h, skip: h + skip)


def _stacked(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    return _climb(self, h, kept, emb, context, join=lambda h, skip: torch.cat([h, skip]))


def _all_maps(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    return _climb(self, h, kept, emb, context, skips=[True] * len(self.skips))


def _levels_from_the_top(
    self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None
) -> Tensor:
    return _climb(self, h, kept, emb, context, skips=self.skips[::-1])


def _always_popped(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    kept = list(kept)
    for stage in self.up:
        h = stage(torch.cat([h, kept.pop()], dim=1), emb, context)
    return h


def _left_out(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    kept, level = list(kept), len(self.skips) - 1
    for stage in self.up:
        if isinstance(stage, Stage):
            skip = kept.pop()
            h = torch.cat([h, skip], dim=1) if self.skips[level] else h
        else:
            level -= 1
        h = stage(h, emb, context)
    return h


def _no_context(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    return _climb(self, h, kept, emb, None)


def _emptied(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    h = _climb(self, h, kept, emb, context)
    kept.clear()
    return h


def _keeps_the_list(answer: Callable[..., Tensor], case: Case) -> str | None:
    kept = case.args[1]
    before = list(kept)
    answer(*case.args)
    if len(kept) == len(before) and all(a is b for a, b in zip(kept, before, strict=True)):
        return None
    return f"the list held {len(before)} maps before the call and holds {len(kept)} after it."


DECODE = Exercise(
    id="unet.UNet.decode",
    lesson="03",
    number=5,
    title="Climb up again with the kept maps",
    points=4,
    minutes=12,
    difficulty=3,
    case=_kept_maps,
    tolerance=1e-4,
    properties=[Property("the caller's list", _keeps_the_list)],
    mistakes=[
        Mistake(
            "first map first",
            _reversed,
            "You take the kept maps in the order in which they were made, and the finest meets the coarsest features. "
            "The way up mirrors the way down: the map that was kept last comes first.",
        ),
        Mistake(
            "upsampling takes one too",
            _always_popped,
            "An upsampling took a map as well. Only the Stages in self.up read a kept map; ask isinstance(stage, "
            "Stage) before you take one.",
        ),
        Mistake(
            "added",
            _added,
            "The stage gets as many channels as the features have, so the kept map was left out or added to them. "
            "Here it is put beside them, along the channels (torch.cat), and the next convolution weighs the two.",
        ),
        Mistake(
            "along the batch",
            _stacked,
            "torch.cat without dim puts the maps behind the batch, as if they were more pictures. The channels are "
            "dim 1.",
        ),
        Mistake(
            "map before features",
            _skip_first,
            "You put the kept map before the features. The result has the right shape, but every weight of the block "
            "then meets the other half's channels. The features come first.",
        ),
        Mistake(
            "self.skips ignored",
            _all_maps,
            "Every level gets its maps, also those whose entry of self.skips is False. There the stage must get zeros "
            "in the map's place.",
        ),
        Mistake(
            "self.skips from the wrong end",
            _levels_from_the_top,
            "You read self.skips from its first entry on, but the climb starts at the bottom: the entries are ordered "
            "from fine to coarse, and each upsampling leads one level up, to the entry before.",
        ),
        Mistake(
            "left out, not zeros",
            _left_out,
            "Where a level's skips are off, you leave the map out, and the block misses its channels. Put zeros of "
            "the map's shape in its place.",
        ),
        Mistake(
            "no context",
            _no_context,
            "context does not arrive in the stages. A network with words attends to them on the way up too: each "
            "stage takes h, emb and context.",
        ),
        Mistake(
            "the caller's list",
            _emptied,
            "The features are right, but pop takes the maps out of the caller's own list, and a second call finds it "
            "empty. Work on a copy: list(kept).",
        ),
    ],
)


# --- what a pixel sees -------------------------------------------------------------------------------------------


def _network(g: torch.Generator, size: int) -> Callable[[Tensor], Tensor]:
    """Return a small network of 3 channels in and 2 out; every fourth one is a plain function without parameters()."""
    first, second = normal(g, 4, 3, 3, 3) / 3, normal(g, 2, 4, 3, 3) / 3
    if size % 4 == 3:
        return lambda images: F.conv2d(F.conv2d(images, first, padding=1).tanh(), second, padding=1)
    layers = (nn.utils.skip_init(nn.Conv2d, a, b, 3, padding=1, bias=False) for a, b in ((3, 4), (4, 2)))
    network = nn.Sequential(next(layers), nn.SiLU(), next(layers))
    network.load_state_dict({"0.weight": first, "2.weight": second})
    return network


def _looking(g: torch.Generator, size: int) -> Case:
    images = normal(g, 2 + size, 3, 6 + size, 9 + size)
    return Case(_network(g, size), images, 1 + size, 3 + size)


Network = Callable[[Tensor], Tensor]


def _gradient_of(
    network: Network, images: Tensor, total: Callable[[Tensor], Tensor] = lambda output: output.sum()
) -> Tensor:
    """Return the gradient (B, C, H, W) of some sum over a network's output."""
    images = images.detach().clone().requires_grad_()
    return torch.autograd.grad(total(network(images)), images)[0]


def _signed(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    gradient = _gradient_of(network, images, lambda output: output[:, :, row, column].sum())
    return gradient.sum(dim=1).mean(dim=0)


def _abs_after_channels(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    gradient = _gradient_of(network, images, lambda output: output[:, :, row, column].sum())
    return gradient.sum(dim=1).abs().mean(dim=0)


def _abs_after_pictures(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    gradient = _gradient_of(network, images, lambda output: output[:, :, row, column].sum())
    return gradient.mean(dim=0).abs().sum(dim=0)


def _abs_last(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    return _signed(network, images, row, column).abs()


def _batch_summed(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    return _gradient_of(network, images, lambda output: output[:, :, row, column].sum()).abs().sum(dim=(0, 1))


def _channels_averaged(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    return _gradient_of(network, images, lambda output: output[:, :, row, column].sum()).abs().mean(dim=(0, 1))


def _whole_output(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    return _gradient_of(network, images).abs().sum(dim=1).mean(dim=0)


def _whole_mean(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    return _gradient_of(network, images, lambda output: output.mean()).abs().sum(dim=1).mean(dim=0)


def _place_mean(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    gradient = _gradient_of(network, images, lambda output: output[:, :, row, column].mean())
    return gradient.abs().sum(dim=1).mean(dim=0)


def _one_channel(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    gradient = _gradient_of(network, images, lambda output: output[:, 0, row, column].sum())
    return gradient.abs().sum(dim=1).mean(dim=0)


def _not_reduced(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    return _gradient_of(network, images, lambda output: output[:, :, row, column].sum()).abs()


def _no_leaf(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    (gradient,) = torch.autograd.grad(network(images)[:, :, row, column].sum(), images)
    return gradient.abs().sum(dim=1).mean(dim=0)


def _backward_without_leaf(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    network(images)[:, :, row, column].sum().backward()
    return images.grad.abs().sum(dim=1).mean(dim=0)  # type: ignore[union-attr]


def _backward(network: Network, images: Tensor, row: int, column: int) -> Tensor:
    images.requires_grad_()
    network(images)[:, :, row, column].sum().backward()
    assert images.grad is not None
    return images.grad.abs().sum(dim=1).mean(dim=0)


def _leaves_no_trace(answer: Callable[..., Tensor], case: Case) -> str | None:
    network, images, *_ = case.args
    answer(*case.args)
    if images.requires_grad or images.grad is not None:
        return "after the call the caller's images ask for gradients; they were plain numbers before."
    if isinstance(network, nn.Module) and any(weight.grad is not None for weight in network.parameters()):
        return "after the call the network's weights hold gradients; the next training step would add to them."
    return None


RECEPTIVE = Exercise(
    id="evaluate.input_gradient",
    lesson="03",
    number=6,
    title="Measure what one pixel sees",
    points=3,
    minutes=9,
    difficulty=2,
    case=_looking,
    gradient=False,
    seconds=20,  # the first use of torch.func, which an answer may call, imports for seconds
    properties=[Property("no trace left", _leaves_no_trace)],
    mistakes=[
        Mistake(
            "no absolute value",
            _signed,
            "Your gradients keep their signs, so influences of opposite sign cancel when they are added, and a pixel "
            "that matters may show as zero. Take the absolute value before anything is added.",
        ),
        Mistake(
            "absolute value last",
            _abs_last,
            "You take the absolute value at the very end, when channels and pictures have already cancelled one "
            "another. It comes first, on the gradient (B, C, H, W) itself.",
        ),
        Mistake(
            "absolute value after the channels",
            _abs_after_channels,
            "You add up the channels before you take the absolute value: a positive pull through red and a negative "
            "one through blue cancel. Absolute value first.",
        ),
        Mistake(
            "absolute value after the pictures",
            _abs_after_pictures,
            "You average over the pictures before you take the absolute value: pulls of different sign in different "
            "pictures cancel. Absolute value first.",
        ),
        Mistake(
            "summed over pictures",
            _batch_summed,
            "You add the pictures up, so the result grows with the size of the batch. Channels are summed, pictures "
            "are averaged.",
        ),
        Mistake(
            "averaged over channels",
            _channels_averaged,
            "You average over the input's channels as well. They are summed, because all channels of a pixel are "
            "that pixel; only the pictures are averaged.",
        ),
        Mistake(
            "every output pixel",
            _whole_output,
            "You send back the sum of all output pixels, so every input pixel moves something. Ask for one output "
            "pixel: the one at (row, column).",
        ),
        Mistake(
            "mean of the output",
            _whole_mean,
            "You send back the mean of the whole output. The question is about one output pixel: take (row, column) "
            "out first, and add up its channels.",
        ),
        Mistake(
            "mean at the pixel",
            _place_mean,
            "The pixel is right, but .mean() divides by the pictures and the output channels, and you average over "
            "the pictures again later. Add the outputs up with .sum(): pictures do not mix, so each still gets its "
            "own gradient.",
        ),
        Mistake(
            "one output channel",
            _one_channel,
            "You follow the first output channel only. A pixel of the output is all its channels: add them up.",
        ),
        Mistake(
            "row and column swapped",
            lambda network, images, row, column: input_gradient(network, images, column, row),
            "Row and column have changed places: in (B, C, H, W) the row counts along H and comes first.",
        ),
        Mistake(
            "not reduced",
            _not_reduced,
            "You return one number for every picture and channel. What is asked for is one map (H, W): channels "
            "summed, pictures averaged.",
        ),
        Mistake(
            "images without gradient",
            _no_leaf,
            "torch keeps no path back to a tensor that nobody asked about. Make a copy of the images first and call "
            "requires_grad_() on it before the network sees it.",
        ),
        Mistake(
            "images.grad is None",
            _backward_without_leaf,
            "images.grad is empty, because nobody asked torch for it: call requires_grad_() on a copy of the images "
            "before the network sees it. With torch.autograd.grad you get the gradient back directly.",
        ),
        Mistake(
            "traces left",
            _backward,
            "The map is right, but something stays behind. requires_grad_() on the caller's images changes them: work "
            "on images.detach().clone(). And backward() fills .grad of every weight of the network: "
            "torch.autograd.grad(output, images) returns the one gradient you want and writes nowhere.",
        ),
    ],
)


# --- the parts of a U-Net, weighed -------------------------------------------------------------------------------


def _whole(g: torch.Generator, size: int) -> Case:
    """A small U-Net without classes, with classes, with one more vector and with both; on the meta device."""
    config = UNetConfig(
        model_channels=4 * int(integers(g, 1, low=1, high=4)),
        channel_mult=tuple(integers(g, 2, low=1, high=4).tolist()),
        num_res_blocks=(1, 2)[size % 2],
        attention=(0, size // 2 % 2),
        groups=2,
        num_classes=(0, 1, 0, 1)[size % 4] * int(integers(g, 1, low=3, high=40)),
        vector_size=(0, 0, 1, 1)[size % 4] * int(integers(g, 1, low=3, high=40)),
    )
    with torch.device("meta"):
        return Case(UNet(config))


def _weighed(unet: UNet, *, forgotten: Sequence[str] = (), **moved: str) -> dict[str, int]:
    """Return the weights of every part, with some modules forgotten and some counted in another part."""
    places = {"time": "time and class", "label": "time and class", "vector": "time and class", "down": "encoder",
              "middle1": "middle", "middle2": "middle", "up": "decoder", "enter": "ends", "norm": "ends",
              "leave": "ends"} | moved  # fmt: skip
    sums = dict.fromkeys(("time and class", "encoder", "middle", "decoder", "ends"), 0)
    for name, module in unet.named_children():
        if name not in forgotten:
            sums[places[name]] += sum(weight.numel() for weight in module.parameters())
    return sums


def _of_none(unet: UNet) -> int:
    return sum(sum(weight.numel() for weight in module.parameters()) for module in _embedders(unet))


def _embedders(unet: UNet) -> list[Any]:
    return [unet.time, unet.label, unet.vector]


def _tensors(unet: UNet) -> dict[str, int]:
    def count(*modules: nn.Module | None) -> int:
        return sum(len(list(module.parameters())) for module in modules if module is not None)

    return {
        "time and class": count(unet.time, unet.label, unet.vector),
        "encoder": count(unet.down),
        "middle": count(unet.middle1, unet.middle2),
        "decoder": count(unet.up),
        "ends": count(unet.enter, unet.norm, unet.leave),
    }


def _shares(unet: UNet) -> dict[str, float]:
    parts = parameters_by_part(unet)
    return {name: count / sum(parts.values()) for name, count in parts.items()}


def _no_middle(unet: UNet) -> dict[str, int]:
    return {name: count for name, count in parameters_by_part(unet).items() if name != "middle"}


PARTS = Exercise(
    id="unet.parameters_by_part",
    lesson="03",
    number=7,
    title="Weigh the two arms of the U",
    points=2,
    minutes=6,
    difficulty=1,
    case=_whole,
    gradient=False,
    mistakes=[
        Mistake(
            "only the time",
            lambda unet: _weighed(unet, forgotten=("label", "vector")),
            'Under "time and class" you count the time\'s layers only. A network with classes has a table of labels '
            "(unet.label), and SDXL's has layers for one more vector (unet.vector); both belong there.",
        ),
        Mistake(
            "no vector",
            lambda unet: _weighed(unet, forgotten=("vector",)),
            "unet.vector is missing: where a network takes one more vector, as SDXL's does, its layers belong to "
            '"time and class".',
        ),
        Mistake(
            "no label",
            lambda unet: _weighed(unet, forgotten=("label",)),
            'unet.label is missing: where a network has classes, its table of labels belongs to "time and class".',
        ),
        Mistake(
            "None has no parameters",
            _of_none,
            "unet.label and unet.vector are None in a network without classes or without a vector; skip what is None "
            "before you ask for its parameters.",
        ),
        Mistake(
            "tensors counted",
            _tensors,
            "You count the tensors, not the numbers in them: a matrix of 512 × 128 counted as one. weight.numel() "
            "says how many numbers a tensor holds.",
        ),
        Mistake(
            "no middle",
            _no_middle,
            'The part "middle" is missing: unet.middle1 and unet.middle2, between the way down and the way up.',
        ),
        Mistake(
            "half the middle",
            lambda unet: _weighed(unet, forgotten=("middle2",)),
            "The middle has two stages, unet.middle1 and unet.middle2; you count the first only.",
        ),
        Mistake(
            "ends inside the arms",
            lambda unet: _weighed(unet, enter="encoder", norm="decoder", leave="decoder"),
            "You count the first convolution with the encoder, and the last norm and convolution with the decoder. "
            'They are a part of their own here, the "ends", so that the two arms can be compared block by block.',
        ),
        Mistake(
            "only one end",
            lambda unet: _weighed(unet, forgotten=("norm",)),
            "The last norm is missing from the ends: unet.norm holds a scale and a shift for each channel. Together "
            "the parts must be the whole network.",
        ),
        Mistake(
            "shares",
            _shares,
            "You return shares. Return the counts, as whole numbers; dividing can wait.",
        ),
    ],
)

EXERCISES = [ADAGN, RES_BLOCK, ATTENTION, DECODER, DECODE, RECEPTIVE, PARTS, ATTENTION_BUG]


# --- guesses and the question in words ---------------------------------------------------------------------------


SKIPS = ("16×16", "8×8", "4×4", "no single one stands out")
WHERE = {
    "none": "nowhere",
    "lowest": "at the lowest resolution (4×4)",
    "two": "at the two lowest (4×4 and 8×8)",
    "": "no difference is established",
}


def _worst_missed_skip() -> str:
    """Read which level's skips cost most FD-judge when they are gone."""
    variants = [f"without {level}" for level in SKIPS[:3]]
    worst = results.established(results.load("unet_skips"), "fd_judge", variants, better="higher")
    return worst.removeprefix("without ") if worst else SKIPS[3]


def _best_attention() -> str:
    """Read where attention draws best, by FD-judge."""
    best = results.established(results.load("unet_attention"), "fd_judge", ["none", "lowest", "two"], better="lower")
    return WHERE[best or ""]


def _decoder_share() -> float:
    """Count, on the meta device, what share of the weights of DDPM's network lies in the decoder, in percent."""
    with torch.device("meta"):
        parts = parameters_by_part(UNet(UNetConfig.ddpm_cifar10()))
    return 100 * parts["decoder"] / sum(parts.values())


QUESTIONS = [
    Question(
        id="unet.q1",
        lesson="03",
        text="A U-Net for 16×16 pictures has levels of 16, 8 and 4 pixels. It is trained anew with zeros in place of "
        "one level's skips. Which level's skips does it miss most?",
        choices=SKIPS,
        answer=_worst_missed_skip,
        because="Judged by FD-judge: a level is named only where its paired interval against both others leaves out 0.",
    ),
    Question(
        id="unet.q2",
        lesson="03",
        text="DDPM's network for CIFAR-10 is drawn as a symmetric U: four levels down and the same four up. What share "
        "of all its weights lies in the decoder, the way up?",
        unit="% of the weights",
        answer=_decoder_share,
        because="The arms are no mirror images: a block of the decoder reads two maps side by side, and each level has "
        "one block more.",
    ),
    Question(
        id="unet.q3",
        lesson="03",
        text="The same small U-Net, trained on 16×16 shapes with attention over pixels nowhere, at 4×4 only, or at 4×4 "
        "and 8×8. Which draws best?",
        choices=tuple(WHERE.values()),
        answer=_best_attention,
        because="Judged by FD-judge: one is named only where its paired interval against both others leaves out 0.",
    ),
]

PROSE = [
    Prose(
        id="unet.w1",
        lesson="03",
        text="The network must name the noise of every single pixel, yet its middle sees a map of only 4×4. A friend "
        "concludes that the middle could be left out; another, that the skips could. Say what each of the two would "
        "lose, and name a measurement of this lesson that supports you.",
        points=2,
        rubric=(
            "without the skips the fine, pixel-by-pixel part of the noise would have to pass through the few numbers "
            "of the coarse map; without the coarse levels a pixel sees only its surroundings and cannot agree with "
            "distant ones on what is drawn: 1",
            "quotes a measurement of the lesson (skips removed, receptive field against levels) with its interval or "
            "its verdict, and claims no more than that says: 1",
        ),
        min_words=40,
        max_words=140,
    )
]
