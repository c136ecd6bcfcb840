"""The U-Net: from Ronneberger's idea to the networks of DDPM, ADM, Stable Diffusion 1.5 and SDXL, as one class.

Read from the top: how a block hears the time, the residual block, attention over pixels and words, the two ways to
change the resolution, the sizes that the papers chose, and last the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib.attention import CrossAttention, SelfAttention
from lesson_lib.denoiser import zero_
from lesson_lib.embed import LabelEmbedder, TimeEmbedder


class AddThenNorm(nn.Module):
    """Add the projected time to every place, then normalise: how a residual block of DDPM hears the time.

    h: (B, C, H, W) features; emb: (B, D), the time (and class) as a vector. Returns (B, C, H, W).
    Source: DDPM (arXiv 2006.11239, App. B); hojonathanho/diffusion, diffusion_tf/models/unet.py.
    """

    def __init__(self, channels: int, emb_size: int, groups: int = 32, eps: float = 1e-6) -> None:
        super().__init__()
        self.project = nn.Linear(emb_size, channels)
        self.norm = nn.GroupNorm(groups, channels, eps)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        return self.norm(h + rearrange(self.project(F.silu(emb)), "b c -> b c 1 1"))


class AdaGN(nn.Module):
    """Normalise, then stretch and shift every channel as the time says: GroupNorm(h) * (1 + scale) + shift.

    h: (B, C, H, W) features; emb: (B, D). Returns (B, C, H, W).
    One linear layer of SiLU(emb) gives scale (the first C outputs) and shift (the last C); DiT has them the other way.
    Source: ADM (arXiv 2105.05233, §3.1); openai/guided-diffusion, guided_diffusion/unet.py.
    """

    def __init__(self, channels: int, emb_size: int, groups: int = 32, eps: float = 1e-6) -> None:
        super().__init__()
        self.project = nn.Linear(emb_size, 2 * channels)
        self.norm = nn.GroupNorm(groups, channels, eps)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        scale, shift = rearrange(self.project(F.silu(emb)), "b (two c) -> two b c 1 1", two=2)
        return self.norm(h) * (1 + scale) + shift


TIME_WAYS: dict[str, type[AddThenNorm] | type[AdaGN]] = {"add": AddThenNorm, "adagn": AdaGN}


class RepeatPixels(nn.Module):
    """Double the resolution by repeating every pixel: nearest-neighbour interpolation, written out.

    h: (B, C, H, W). Returns (B, C, 2H, 2W). F.interpolate gives the same numbers; on a CPU it takes several times as
    long, because it rearranges the memory to do so and back.
    """

    def forward(self, h: Tensor) -> Tensor:
        across = torch.stack([h, h], dim=-1).flatten(3)
        return torch.stack([across, across], dim=3).flatten(2, 3)


RESAMPLE: dict[str | None, Callable[[], nn.Module]] = {
    None: nn.Identity,
    "down": lambda: nn.AvgPool2d(2),
    "up": RepeatPixels,
}


class ResBlock(nn.Module):
    """Two convolutions around a shortcut; between them the block hears the time. The bricks of every U-Net here.

    h: (B, in_channels, H, W); emb: (B, emb_size), left out where emb_size is 0. Returns (B, out_channels, H, W).
    resample: "down" halves and "up" doubles the resolution, of both branches and before the first convolution (ADM,
    after BigGAN). The last convolution starts at zero, so that a fresh block is its shortcut.
    Source: DDPM (arXiv 2006.11239, App. B); ADM (arXiv 2105.05233, §3).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_size: int = 0,
        *,
        time_way: str = "add",
        groups: int = 32,
        eps: float = 1e-6,
        dropout: float = 0.0,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps)
        self.resample = RESAMPLE[resample]()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = (
            TIME_WAYS[time_way](out_channels, emb_size, groups, eps)
            if emb_size
            else nn.GroupNorm(groups, out_channels, eps)
        )
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
        zero_(self.conv2)

    def forward(self, h: Tensor, emb: Tensor | None = None) -> Tensor:
        r = self.conv1(self.resample(F.silu(self.norm1(h))))
        r = self.norm2(r) if emb is None else self.norm2(r, emb)
        r = self.conv2(self.dropout(F.silu(r)))
        return self.shortcut(self.resample(h)) + r


class AttentionBlock(nn.Module):
    """Let every pixel attend to all pixels: normalise, read the picture as a sequence, attend, add.

    h: (B, C, H, W). Returns (B, C, H, W). The last layer starts at zero, so that a fresh block changes nothing.
    Source: DDPM (arXiv 2006.11239, App. B), with one head; ADM (arXiv 2105.05233, §3), with heads of 64 channels.
    """

    def __init__(self, channels: int, num_heads: int = 1, groups: int = 32, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.attention = SelfAttention(channels, num_heads)
        zero_(self.attention.proj)

    def forward(self, h: Tensor) -> Tensor:
        pixels = rearrange(self.norm(h), "b c height width -> b (height width) c")
        answer = self.attention(pixels)
        return h + rearrange(answer, "b (height width) c -> b c height width", height=h.shape[2])


class GEGLU(nn.Module):
    """A feed-forward layer with a gate: one half of a wide projection, times GELU of the other half, projected back.

    x: (B, N, D). Returns (B, N, D); the hidden width is four times D. Source: GLU Variants (arXiv 2002.05202, Eq. 6).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = nn.Linear(width, 8 * width)
        self.leave = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.enter(x).chunk(2, dim=-1)
        return self.leave(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Attend to the other pixels, then to the words, then think: three residual branches, each normalised first.

    x: (B, N, D) pixels; context: (B, M, context_size) words. Returns (B, N, D).
    Source: latent diffusion (arXiv 2112.10752, App. E.2.1); CompVis/latent-diffusion, ldm/modules/attention.py.
    """

    def __init__(self, width: int, context_size: int, num_heads: int) -> None:
        super().__init__()
        self.norm1, self.self_attention = nn.LayerNorm(width), SelfAttention(width, num_heads, bias=False)
        self.norm2, self.cross_attention = nn.LayerNorm(width), CrossAttention(width, context_size, num_heads, False)
        self.norm3, self.feed_forward = nn.LayerNorm(width), GEGLU(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.self_attention(self.norm1(x))
        x = x + self.cross_attention(self.norm2(x), context)
        return x + self.feed_forward(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a map, with words to attend to: how Stable Diffusion's U-Net hears text.

    h: (B, C, H, W); context: (B, M, context_size). Returns (B, C, H, W). The last layer starts at zero.
    Source: CompVis/latent-diffusion, ldm/modules/attention.py (its norm has eps 1e-6 whatever the rest uses).
    """

    def __init__(self, channels: int, context_size: int, num_heads: int, depth: int = 1, groups: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, 1e-6)
        self.enter = nn.Linear(channels, channels)
        self.blocks = nn.ModuleList(TransformerBlock(channels, context_size, num_heads) for _ in range(depth))
        self.leave = nn.Linear(channels, channels)
        zero_(self.leave)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        pixels = self.enter(rearrange(self.norm(h), "b c height width -> b (height width) c"))
        for block in self.blocks:
            pixels = block(pixels, context)
        return h + rearrange(self.leave(pixels), "b (height width) c -> b c height width", height=h.shape[2])


class Downsample(nn.Module):
    """Halve the resolution with a strided 3×3 convolution. h: (B, C, H, W), H and W even. Returns (B, C, H/2, W/2).

    pad_after: pad a row below and a column at the right only, as TensorFlow does (DDPM, and LDM's autoencoder);
    otherwise pad every side (ADM, Stable Diffusion's U-Net).
    """

    def __init__(self, channels: int, pad_after: bool = False) -> None:
        super().__init__()
        self.pad_after = pad_after
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if pad_after else 1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(F.pad(h, (0, 1, 0, 1)) if self.pad_after else h)


class Upsample(nn.Module):
    """Double the resolution: repeat every pixel, then smooth with a 3×3 convolution.

    h: (B, C, H, W). Returns (B, C, 2H, 2W). Source: DDPM, ADM and LDM alike.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.repeat = RepeatPixels()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        return self.conv(self.repeat(h))


@dataclass(frozen=True)
class UNetConfig:
    """The choices that make one U-Net of the family. One entry of the tuples for each level, the finest first.

    model_channels, channel_mult: the channels of level i are model_channels * channel_mult[i]; each level has half the
    resolution of the one before. num_res_blocks: in a level of the encoder (the decoder has one more).
    attention: transformer blocks after each residual block of a level; without words 0 or 1. middle_attention: at the
    bottom. num_heads, or head_channels where that is given. time_way: "add" or "adagn". resblock_updown: change the
    resolution inside a residual block (ADM). pad_after: see Downsample. num_classes: of a class-conditional network.
    context_size: width of the words' vectors; 0 for no words. vector_size: width of one more vector that is added to
    the time's (SDXL). skips: which levels' skips the decoder gets; None for all.
    Raises ValueError for settings that do not fit together.
    """

    in_channels: int = 3
    out_channels: int = 3
    model_channels: int = 64
    channel_mult: tuple[float, ...] = (1, 2, 2)
    num_res_blocks: int = 2
    attention: tuple[int, ...] = (0, 0, 1)
    middle_attention: int = 1
    num_heads: int = 1
    head_channels: int | None = None
    time_way: str = "adagn"
    resblock_updown: bool = False
    pad_after: bool = False
    num_classes: int = 0
    context_size: int = 0
    vector_size: int = 0
    groups: int = 32
    eps: float = 1e-5
    dropout: float = 0.0
    time_convention: str = "dit"
    skips: tuple[bool, ...] | None = None

    def __post_init__(self) -> None:
        levels = len(self.channel_mult)
        if not levels or self.num_res_blocks < 1:
            raise ValueError("UNetConfig: a network needs at least one level, and one residual block in each")
        for name in ("attention", "skips"):
            given = getattr(self, name)
            if given is not None and len(given) != levels:
                raise ValueError(f"UNetConfig: {name} has {len(given)} entries for {levels} levels; give one for each")
        if self.time_way not in TIME_WAYS:
            raise ValueError(f"UNetConfig: time_way is {self.time_way!r}; it must be one of {', '.join(TIME_WAYS)}")
        if not self.context_size and max(*self.attention, self.middle_attention) > 1:
            raise ValueError("UNetConfig: more than one attention block in a row needs words; set context_size")
        depths = (*self.attention[:-1], max(self.attention[-1], self.middle_attention))
        for channels, attends in zip(self.channels, depths, strict=True):
            if channels % self.groups:
                raise ValueError(
                    f"UNetConfig: {channels} channels do not divide into {self.groups} groups; "
                    f"choose model_channels as a multiple of {self.groups}, or fewer groups"
                )
            if self.head_channels and attends and channels % self.head_channels:
                raise ValueError(f"UNetConfig: {channels} channels do not divide into heads of {self.head_channels}")

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels of every level, the finest first."""
        return tuple(int(mult * self.model_channels) for mult in self.channel_mult)

    @property
    def emb_size(self) -> int:
        """The width of the vector that carries the time through the network: four times model_channels."""
        return 4 * self.model_channels

    @classmethod
    def shapes16(cls) -> UNetConfig:
        """A learner's U-Net for 16×16 pictures of the 24 classes of shapes: levels of 16, 8 and 4 pixels."""
        return cls(model_channels=16, channel_mult=(1, 2, 4), num_res_blocks=1, num_heads=4, groups=8, num_classes=24)

    @classmethod
    def shapes32(cls) -> UNetConfig:
        """A learner's U-Net for 32×32 pictures of the 24 classes of shapes: levels of 32, 16, 8 and 4 pixels."""
        return cls(model_channels=16, channel_mult=(1, 2, 4, 4), num_res_blocks=1, attention=(0, 0, 1, 1),
                   num_heads=4, groups=8, num_classes=24)  # fmt: skip

    @classmethod
    def latent8(cls) -> UNetConfig:
        """A learner's U-Net for the 8×8×4 latents of 32×32 pictures of the 24 classes of shapes: levels of 8 and 4."""
        return cls(in_channels=4, out_channels=4, model_channels=48, channel_mult=(1, 2), num_res_blocks=1,
                   attention=(0, 1), num_heads=4, groups=8, num_classes=24)  # fmt: skip

    @classmethod
    def ddpm_cifar10(cls) -> UNetConfig:
        """DDPM's network for CIFAR-10, 35.7 M weights (arXiv 2006.11239, App. B; scripts/run_cifar.py)."""
        return cls(model_channels=128, channel_mult=(1, 2, 2, 2), attention=(0, 1, 0, 0), time_way="add",
                   pad_after=True, eps=1e-6, dropout=0.1, time_convention="ddpm")  # fmt: skip

    @classmethod
    def adm(cls, size: int) -> UNetConfig:
        """ADM's networks for ImageNet at 64, 128, 256 or 512 pixels (arXiv 2105.05233, §3; openai/guided-diffusion).

        They predict noise and variance, six channels. Ours has one more row in its table of classes: the null class.
        """
        chosen = {
            64: (192, 3, (1, 2, 3, 4), (0, 1, 1, 1)),
            128: (256, 2, (1, 1, 2, 3, 4), (0, 0, 1, 1, 1)),
            256: (256, 2, (1, 1, 2, 2, 4, 4), (0, 0, 0, 1, 1, 1)),
            512: (256, 2, (0.5, 1, 1, 2, 2, 4, 4), (0, 0, 0, 0, 1, 1, 1)),
        }
        if size not in chosen:
            raise ValueError(f"UNetConfig.adm: size is {size}; it must be one of {', '.join(map(str, chosen))}")
        width, num_res_blocks, channel_mult, attention = chosen[size]
        return cls(out_channels=6, model_channels=width, channel_mult=channel_mult, num_res_blocks=num_res_blocks,
                   attention=attention, num_heads=4, head_channels=None if size == 128 else 64, resblock_updown=True,
                   num_classes=1000)  # fmt: skip

    @classmethod
    def sd15(cls) -> UNetConfig:
        """Stable Diffusion 1.5's network, 859.5 M weights: latents of 4 channels, words of 768 numbers (CLIP ViT-L)."""
        return cls(in_channels=4, out_channels=4, model_channels=320, channel_mult=(1, 2, 4, 4), attention=(1, 1, 1, 0),
                   num_heads=8, time_way="add", context_size=768)  # fmt: skip

    @classmethod
    def sdxl(cls) -> UNetConfig:
        """SDXL's network, 2.567 B weights (arXiv 2307.01952, Table 1).

        Words of 2,048 numbers; the vector is the pooled text (1,280) and six sizes of 256 sinusoidal features each.
        """
        return cls(in_channels=4, out_channels=4, model_channels=320, channel_mult=(1, 2, 4), attention=(0, 2, 10),
                   middle_attention=10, head_channels=64, time_way="add", context_size=2048,
                   vector_size=2816)  # fmt: skip


def encoder_channels(channels: Sequence[int], num_res_blocks: int) -> list[int]:
    """Return the channels of every map that the encoder keeps for the decoder, in the order in which it makes them.

    channels: of each level, the finest first. The first convolution leaves one map, every residual block one, and
    every halving between two levels one more.
    """
    kept = [channels[0]]
    for level, width in enumerate(channels):
        kept += [width] * num_res_blocks
        if level < len(channels) - 1:
            kept += [width]
    return kept


def decoder_channels(channels: Sequence[int], num_res_blocks: int) -> list[tuple[int, int]]:
    """Return (in_channels, out_channels) of every residual block of the decoder, in the order of the forward pass.

    channels: of each level, the finest first. A block receives the features so far, concatenated with the map that the
    encoder kept last; a level has num_res_blocks + 1 blocks, one for each map kept there.
    Source: hojonathanho/diffusion, diffusion_tf/models/unet.py.
    """
    kept = encoder_channels(channels, num_res_blocks)
    current = channels[-1]
    blocks = []
    for width in reversed(channels):
        for _ in range(num_res_blocks + 1):
            blocks.append((current + kept.pop(), width))
            current = width
    return blocks


class Resample(nn.Module):
    """A change of resolution with the signature of a Stage; the plain ones do not listen to the time."""

    def __init__(self, layer: nn.Module, listens: bool) -> None:
        super().__init__()
        self.layer, self.listens = layer, listens

    def forward(self, h: Tensor, emb: Tensor, context: Tensor | None = None) -> Tensor:
        return self.layer(h, emb) if self.listens else self.layer(h)


def resample_of(config: UNetConfig, channels: int, way: str) -> Resample:
    """Build the change of resolution ("down" or "up") between two levels as a configuration wants it."""
    if config.resblock_updown:
        return Resample(res_block_of(config, channels, channels, way), listens=True)
    return Resample(Downsample(channels, config.pad_after) if way == "down" else Upsample(channels), listens=False)


def res_block_of(config: UNetConfig, in_channels: int, out_channels: int, resample: str | None = None) -> ResBlock:
    """Build a residual block with the time, the groups and the dropout of a configuration."""
    return ResBlock(
        in_channels, out_channels, config.emb_size, time_way=config.time_way, groups=config.groups, eps=config.eps,
        dropout=config.dropout, resample=resample,
    )  # fmt: skip


def attention_of(config: UNetConfig, channels: int, depth: int) -> nn.Module | None:
    """Build the attention of a level: none, over pixels, or where there are words a spatial transformer."""
    if not depth:
        return None
    heads = channels // config.head_channels if config.head_channels else config.num_heads
    if config.context_size:
        return SpatialTransformer(channels, config.context_size, heads, depth, config.groups)
    return AttentionBlock(channels, heads, config.groups, config.eps)


def perceptron(size: int, hidden_size: int) -> nn.Sequential:
    """Two linear layers with a SiLU between them: (B, size) to (B, hidden_size)."""
    return nn.Sequential(nn.Linear(size, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))


class Stage(nn.Module):
    """One residual block, and where its level has attention, attention after it.

    h: (B, C, H, W); emb: (B, D); context: (B, M, context_size) words or None. Returns (B, out_channels, H, W).
    """

    def __init__(self, config: UNetConfig, in_channels: int, out_channels: int, attention: int) -> None:
        super().__init__()
        self.block = res_block_of(config, in_channels, out_channels)
        self.attention = attention_of(config, out_channels, attention)

    def forward(self, h: Tensor, emb: Tensor, context: Tensor | None = None) -> Tensor:
        h = self.block(h, emb)
        if isinstance(self.attention, SpatialTransformer):
            return self.attention(h, context)
        return h if self.attention is None else self.attention(h)


class UNet(nn.Module):
    """Predict noise or velocity for pictures or latents: down to a coarse map and up again, with skips across.

    x: (B, in_channels, H, W); t: (B,) from 0 to 1000; labels: (B,) int64 where num_classes is above 0 (num_classes
    itself is the null class); context: (B, M, context_size) words; vector: (B, vector_size). Returns
    (B, out_channels, H, W). Raises ValueError where H or W cannot be halved often enough, where channels differ, or
    where a condition is missing.
    Source: U-Net (arXiv 1505.04597); DDPM (arXiv 2006.11239, App. B); openai/guided-diffusion, unet.py.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config, self.num_classes = config, config.num_classes
        channels, blocks, last = config.channels, config.num_res_blocks, len(config.channels) - 1
        self.skips = config.skips or (True,) * len(channels)
        self.time = TimeEmbedder(config.emb_size, config.model_channels, config.time_convention)
        self.label = LabelEmbedder(config.num_classes, config.emb_size) if config.num_classes else None
        self.vector = perceptron(config.vector_size, config.emb_size) if config.vector_size else None

        self.enter = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.down = nn.ModuleList()
        current = channels[0]
        for level, width in enumerate(channels):
            for _ in range(blocks):
                self.down.append(Stage(config, current, width, config.attention[level]))
                current = width
            if level < last:
                self.down.append(resample_of(config, width, "down"))

        self.middle1 = Stage(config, current, current, config.middle_attention)
        self.middle2 = Stage(config, current, current, 0)

        self.up = nn.ModuleList()
        sizes = iter(decoder_channels(channels, blocks))
        for level in range(last, -1, -1):
            for _ in range(blocks + 1):
                self.up.append(Stage(config, *next(sizes), config.attention[level]))
            if level > 0:
                self.up.append(resample_of(config, channels[level], "up"))

        self.norm = nn.GroupNorm(config.groups, channels[0], config.eps)
        self.leave = zero_(nn.Conv2d(channels[0], config.out_channels, 3, padding=1))

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor | None = None,
        context: Tensor | None = None,
        vector: Tensor | None = None,
    ) -> Tensor:
        self._check(x, t, labels, context, vector)
        emb = self.embed(t, labels, vector)
        h, kept = self.encode(x, emb, context)
        h = self.middle2(self.middle1(h, emb, context), emb)
        h = self.decode(h, kept, emb, context)
        return self.leave(F.silu(self.norm(h)))

    def embed(self, t: Tensor, labels: Tensor | None = None, vector: Tensor | None = None) -> Tensor:
        """Return the vector (B, D) that every residual block hears: the time's, plus the class's, plus the vector's."""
        emb = self.time(t)
        if self.label is not None and labels is not None:
            emb = emb + self.label(labels)
        if self.vector is not None and vector is not None:
            emb = emb + self.vector(vector)
        return emb

    def encode(self, x: Tensor, emb: Tensor, context: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Return the coarsest map and all the maps on the way, in the order in which they were made."""
        h = self.enter(x)
        kept = [h]
        for stage in self.down:
            h = stage(h, emb, context)
            kept.append(h)
        return h, kept

    def decode(self, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the finest features: each stage gets the map that the encoder kept last, but an upsampling gets none.

        h: (B, C, H/2ⁿ, W/2ⁿ), the coarsest map; kept: as encode returned them. Returns (B, channels[0], H, W).
        A level whose entry of self.skips is False gets zeros in place of the encoder's maps.
        """
        kept = list(kept)
        level = len(self.skips) - 1
        for stage in self.up:
            if isinstance(stage, Stage):
                skip = kept.pop()
                h = torch.cat([h, skip if self.skips[level] else torch.zeros_like(skip)], dim=1)
            else:
                level -= 1
            h = stage(h, emb, context)
        return h

    def _check(
        self, x: Tensor, t: Tensor, labels: Tensor | None, context: Tensor | None, vector: Tensor | None
    ) -> None:
        if x.ndim != 4 or x.shape[1] != self.config.in_channels:
            raise ValueError(
                f"UNet: expects pictures of shape (B, {self.config.in_channels}, H, W), got {tuple(x.shape)}; "
                "in_channels of the configuration and the channels of the pictures must be the same"
            )
        if len(self.skips) != len(self.config.channel_mult):
            raise ValueError(f"UNet: skips has {len(self.skips)} entries for {len(self.config.channel_mult)} levels")
        check_size("UNet", x.shape[2], x.shape[3], len(self.skips) - 1)
        expected = {"t": (t, "B"), "labels": (labels, "B"), "context": (context, "BMD"), "vector": (vector, "BD")}
        for name, (given, axes) in expected.items():
            if given is not None and (given.ndim != len(axes) or len(given) != len(x)):
                raise ValueError(
                    f"UNet: {name} has shape {tuple(given.shape)} for {len(x)} pictures; expected ({', '.join(axes)})"
                )
        if labels is not None and not self.config.num_classes:
            raise ValueError("UNet: got labels, but was built without classes; set num_classes in its configuration")
        for name, given, size in (
            ("labels", labels, self.config.num_classes),
            ("context", context, self.config.context_size),
            ("vector", vector, self.config.vector_size),
        ):
            if size and given is None:
                raise ValueError(f"UNet: this network was built with {name}; call it as model(x, t, {name}={name})")
        for name, given, size in (
            ("context", context, self.config.context_size),
            ("vector", vector, self.config.vector_size),
        ):
            if given is not None and given.shape[-1] != size:
                built = f"for {size}" if size else f"without; set {name}_size in its configuration"
                raise ValueError(f"UNet: {name} has width {given.shape[-1]}; this network was built {built}")


def check_size(who: str, height: int, width: int, halvings: int) -> None:
    """Raise ValueError, saying what would fit, where a picture cannot be halved so often without a rest."""
    step = 2**halvings
    if height % step == 0 and width % step == 0:
        return
    fits = [-(-side // step) * step for side in (height, width)]
    levels = next(n for n in range(halvings, -1, -1) if height % 2**n == 0 and width % 2**n == 0) + 1
    raise ValueError(
        f"{who}: {height}×{width} pixels cannot be halved {halvings} time{'s'[: halvings - 1]}; height and width must "
        f"be multiples of {step}. Pad the pictures to {fits[0]}×{fits[1]}, or choose {levels} level{'s'[: levels - 1]} "
        f"instead of {halvings + 1}"
    )


def parameters_by_part(unet: UNet) -> dict[str, int]:
    """Return how many weights each part of a U-Net holds: "time and class", "encoder", "middle", "decoder", "ends".

    The ends are the first convolution, the last norm and the last convolution; together the parts are the whole.
    """

    def count(*modules: nn.Module | None) -> int:
        return sum(weight.numel() for module in modules if module is not None for weight in module.parameters())

    return {
        "time and class": count(unet.time, unet.label, unet.vector),
        "encoder": count(unet.down),
        "middle": count(unet.middle1, unet.middle2),
        "decoder": count(unet.up),
        "ends": count(unet.enter, unet.norm, unet.leave),
    }
