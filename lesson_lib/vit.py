"""The Vision Transformer: an image cut into patches, read as a sentence by a transformer that knows no images.

Read from the top: patches, the perceptron, one block, the sizes of the papers, and last the whole.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib.attention import Rotate, SelfAttention, check_heads
from lesson_lib.position import Ropes, check_kind, fit_table, sin_cos_2d

POOLS = ("cls", "mean")


def check_patches(who: str, height: int, width: int, patch_size: int) -> None:
    """Raise ValueError, saying what would fit, where a picture does not divide into square patches."""
    if patch_size > 0 and height % patch_size == 0 and width % patch_size == 0:
        return
    if patch_size < 1:
        raise ValueError(f"{who}: patch_size is {patch_size}; it must be at least 1")
    fits = [str(p) for p in range(1, min(height, width) + 1) if height % p == 0 and width % p == 0]
    padded = [-(-side // patch_size) * patch_size for side in (height, width)]
    raise ValueError(
        f"{who}: {height}×{width} pixels do not divide into patches of {patch_size}; pad the picture to "
        f"{padded[0]}×{padded[1]}, or choose patch_size {' or '.join(fits)}"
    )


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cut pictures into squares and write each square as one row of numbers: the words of the sentence.

    images: (B, C, H, W). Returns (B, N, C p²), N = (H / p)(W / p), the patches in reading order, inside a patch the
    channels outermost, then its rows: the order of a convolution's weights. Raises ValueError where p does not divide.
    Source: ViT (arXiv 2010.11929, §3.1).
    """
    check_patches("patchify", images.shape[2], images.shape[3], patch_size)
    return rearrange(images, "b c (height p1) (width p2) -> b (height width) (c p1 p2)", p1=patch_size, p2=patch_size)


class PatchEmbed(nn.Module):
    """Turn a picture into tokens: patchify and one linear layer, which together are one strided convolution.

    images: (B, in_channels, H, W). Returns (B, N, hidden_size). The layer's weights are stored as a convolution's,
    (D, C, p, p); flattened to (D, C p²) they are the linear layer's.
    Source: ViT (arXiv 2010.11929, Eq. 1); the layout of timm and facebookresearch/DiT.
    """

    def __init__(self, patch_size: int, in_channels: int, hidden_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_channels, hidden_size, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        check_patches("PatchEmbed", images.shape[2], images.shape[3], self.patch_size)
        return self.proj(images).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """Think about each token alone: a linear layer up, GELU, a linear layer down.

    x: (B, N, D). Returns (B, N, D). approximate: "none" for ViT's GELU, "tanh" for DiT's cheaper one.
    Source: ViT (arXiv 2010.11929, §3.1); the layout of timm and facebookresearch/DiT.
    """

    def __init__(self, width: int, hidden_width: int, approximate: str = "none") -> None:
        super().__init__()
        self.approximate = approximate
        self.fc1 = nn.Linear(width, hidden_width)
        self.fc2 = nn.Linear(hidden_width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class EncoderBlock(nn.Module):
    """Ask the other tokens, then think: two residual branches, each normalised first.

    x: (B, N, D). Returns (B, N, D). rotate: the attention's. Source: ViT (arXiv 2010.11929, Eqs. 2-3).
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0, approximate: str = "none") -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = SelfAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, int(width * mlp_ratio), approximate)

    def forward(self, x: Tensor, rotate: Rotate | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), rotate)
        return x + self.mlp(self.norm2(x))


@dataclass(frozen=True)
class ViTConfig:
    """The choices that make one Vision Transformer.

    image_size: side of the square pictures. positions: "learned" (one free vector for each token), "sin-cos" (a fixed
    table) or "none"; from lesson 8 on also rotations in every block, "axial" or "mixed", with rope_base. pool: what the
    classifier reads, "cls" (an extra learned token, which is not rotated) or "mean" (of all patches).
    Raises ValueError for settings that do not fit together.
    """

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    num_classes: int = 1000
    hidden_size: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    positions: str = "learned"
    pool: str = "cls"
    rope_base: float | None = None

    def __post_init__(self) -> None:
        check_patches("ViTConfig", self.image_size, self.image_size, self.patch_size)
        check_heads(self.hidden_size, self.num_heads)
        check_kind("ViTConfig", self.positions, head_size=self.hidden_size // self.num_heads)
        if self.pool not in POOLS:
            raise ValueError(f"ViTConfig: pool is {self.pool!r}; it must be one of {', '.join(POOLS)}")
        if self.positions == "sin-cos":
            sin_cos_2d(1, 1, self.hidden_size)

    @property
    def grid(self) -> int:
        """Patches along each side of a picture."""
        return self.image_size // self.patch_size

    @classmethod
    def digits(cls) -> ViTConfig:
        """A learner's ViT for scikit-learn's 8×8 digits: 16 patches of 2×2."""
        return cls(image_size=8, patch_size=2, in_channels=1, num_classes=10, hidden_size=64, depth=4, num_heads=4)

    @classmethod
    def fashion(cls) -> ViTConfig:
        """A learner's ViT for Fashion-MNIST at 32×32 pixels: 64 patches of 4×4."""
        return cls(image_size=32, patch_size=4, in_channels=1, num_classes=10, hidden_size=96, depth=4, num_heads=4,
                   pool="mean")  # fmt: skip

    @classmethod
    def tiny(cls, patch_size: int = 16) -> ViTConfig:
        """ViT-Ti, 5.7 M weights at patch 16 (google-research/vision_transformer, configs/models.py)."""
        return cls(patch_size=patch_size, hidden_size=192, num_heads=3)

    @classmethod
    def small(cls, patch_size: int = 16) -> ViTConfig:
        """ViT-S, 22 M weights (google-research/vision_transformer, configs/models.py)."""
        return cls(patch_size=patch_size, hidden_size=384, num_heads=6)

    @classmethod
    def base(cls, patch_size: int = 16) -> ViTConfig:
        """ViT-B, 86 M weights (arXiv 2010.11929, Table 1)."""
        return cls(patch_size=patch_size)

    @classmethod
    def large(cls, patch_size: int = 16) -> ViTConfig:
        """ViT-L, 307 M weights (arXiv 2010.11929, Table 1)."""
        return cls(patch_size=patch_size, hidden_size=1024, depth=24, num_heads=16)

    @classmethod
    def huge(cls, patch_size: int = 14) -> ViTConfig:
        """ViT-H, 632 M weights (arXiv 2010.11929, Table 1)."""
        return cls(patch_size=patch_size, hidden_size=1280, depth=32, num_heads=16)


class ViT(nn.Module):
    """Classify pictures by reading them as sentences of patches.

    images: (B, in_channels, image_size, image_size). Returns (B, num_classes) logits. Raises ValueError for pictures of
    another shape. Source: ViT (arXiv 2010.11929, Eqs. 1-4); its start as in the code (class token zero, positions
    N(0, 0.02²)): google-research/vision_transformer, vit_jax/models_vit.py.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config, width = config, config.hidden_size
        self.height = self.width = config.image_size
        self.patch_embed = PatchEmbed(config.patch_size, config.in_channels, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.pool == "cls" else None
        self.pos_embed = self._positions()
        head_size, before = width // config.num_heads, int(config.pool == "cls")
        self.ropes = Ropes(
            config.positions, config.grid, config.depth, config.num_heads, head_size, config.rope_base, before
        )
        self.blocks = nn.ModuleList(
            EncoderBlock(width, config.num_heads, config.mlp_ratio) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, config.num_classes)

    def _positions(self) -> nn.Parameter | None:
        """Return the table (1, N, D) that is added to the tokens, the class token's row first; sin-cos is frozen."""
        config, extra = self.config, int(self.config.pool == "cls")
        if config.positions not in ("learned", "sin-cos"):
            return None
        if config.positions == "sin-cos":
            table = sin_cos_2d(config.grid, config.grid, config.hidden_size)
            return nn.Parameter(F.pad(table, (0, 0, extra, 0))[None], requires_grad=False)
        return nn.Parameter(0.02 * torch.randn(1, config.grid**2 + extra, config.hidden_size))

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        for block, rotate in zip(self.blocks, self.ropes(images.device), strict=True):
            x = block(x, rotate)
        return self.head(self.pool(self.norm(x)))

    def embed(self, images: Tensor) -> Tensor:
        """Return the sentence (B, N, D) the blocks read: patches with their places, a class token before them."""
        expected = (self.config.in_channels, self.height, self.width)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            shape = ", ".join(map(str, expected))
            raise ValueError(f"ViT: expects pictures of shape (B, {shape}), got {tuple(images.shape)}")
        x = self.patch_embed(images)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        return x if self.pos_embed is None else x + self.pos_embed

    def pool(self, x: Tensor) -> Tensor:
        """Return the one vector (B, D) that stands for the whole sentence (B, N, D)."""
        return x[:, 0] if self.config.pool == "cls" else x.mean(dim=1)

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> list[Tensor]:
        """Return whom every token asks, for each block: (B, h, N, N); rows sum to 1. A class token comes first in N."""
        x, found = self.embed(images), []
        for block, rotate in zip(self.blocks, self.ropes(images.device), strict=True):
            assert isinstance(block, EncoderBlock)
            found.append(block.attn.map(block.norm1(x), rotate))
            x = block(x, rotate)
        return found


Network = TypeVar("Network", bound=nn.Module)


def at_size(network: Network, height: int, width: int, stretch: str = "extend") -> Network:
    """Return a copy of a ViT or a DiT for pictures of height × width pixels, its positions going on as stretch says.

    stretch: one of position.STRETCHES; what it does to a table says position.fit_table, to rotations grid_coordinates.
    Raises ValueError where the patches do not fit, the positions cannot go on in that way, or the network is such a
    copy itself.
    """
    model: Any = copy.deepcopy(network)
    size, side = model.config.patch_size, model.config.patch_size * model.config.grid
    check_patches("at_size", height, width, size)
    check_kind("at_size", model.config.positions, stretch)
    if (model.height, model.width) != (side, side):
        raise ValueError(
            f"at_size: this is already a copy for {model.height}×{model.width} pixels; start from the network that was "
            f"trained, at {side}×{side}"
        )
    place = (model.config.grid, height // size, width // size, stretch)
    model.height, model.width = height, width
    model.ropes.place(*place)
    if model.pos_embed is not None:
        table = fit_table(model.pos_embed.detach(), model.config.positions, *place, before=model.ropes.extra[0])
        model.pos_embed = nn.Parameter(table, requires_grad=model.pos_embed.requires_grad)
    return model
