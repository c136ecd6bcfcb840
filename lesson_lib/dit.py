"""The Diffusion Transformer: a ViT that hears the time and the class and answers with a picture of noise.

Read from the top: the modulation, the ways to condition a block, the final layer, the sizes of the paper, the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from lesson_lib.attention import CrossAttention, Rotate, SelfAttention, Words, check_heads, check_mask, silence
from lesson_lib.denoiser import zero_
from lesson_lib.embed import LabelEmbedder, TimeEmbedder, VectorEmbedder
from lesson_lib.position import Ropes, check_kind, sin_cos_2d
from lesson_lib.vit import EncoderBlock, Mlp, PatchEmbed, check_patches


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Scale and shift every token by its image's condition: x * (1 + scale) + shift.

    x: (B, N, D) tokens after LayerNorm; shift, scale: (B, D). Returns (B, N, D).
    The 1 makes a zero scale the identity, so a zero-initialised layer changes nothing (DiT, arXiv 2212.09748, §3.2).
    """
    return x * (1 + scale[:, None]) + shift[:, None]


def plain_norm(width: int) -> nn.LayerNorm:
    """Return a LayerNorm without weights of its own: the modulation after it has that part."""
    return nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)


class Modulation(nn.Sequential):
    """Turn an image's condition into several vectors of its width: SiLU, then one linear layer, then a cut.

    c: (B, D). Returns `parts` tensors (B, D). Runs once an image, not once a token: many weights, little arithmetic.
    Source: facebookresearch/DiT, models.py (adaLN_modulation).
    """

    def __init__(self, width: int, parts: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(width, parts * width))
        self.parts = parts

    def forward(self, c: Tensor) -> tuple[Tensor, ...]:
        return super().forward(c).chunk(self.parts, dim=-1)


class InContextBlock(EncoderBlock):
    """Listen as one listens to a neighbour: time and class are two more tokens of the sentence, the block is a ViT's.

    x: (B, N + 2, D), the last two being the condition; the second argument is not used. Returns (B, N + 2, D).
    Source: DiT (arXiv 2212.09748, §3.2, "In-context conditioning").
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0, context_size: int = 0) -> None:
        super().__init__(width, num_heads, mlp_ratio, approximate="tanh")

    def forward(  # type: ignore[override]
        self, x: Tensor, tokens: Tensor | None = None, context: Tensor | None = None, rotate: Rotate | None = None
    ) -> Tensor:
        return super().forward(x, rotate)


class CrossAttentionBlock(nn.Module):
    """Listen by asking: after the patches have asked each other, they ask the two tokens of time and class.

    x: (B, N, D); tokens: (B, 2, D), time and class. Returns (B, N, D).
    Source: DiT (arXiv 2212.09748, §3.2, "Cross-attention block").
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0, context_size: int = 0) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), SelfAttention(width, num_heads)
        self.norm2, self.cross_attn = nn.LayerNorm(width, eps=1e-6), CrossAttention(width, width, num_heads)
        self.norm3, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, int(width * mlp_ratio), "tanh")

    def forward(self, x: Tensor, tokens: Tensor, context: Tensor | None = None, rotate: Rotate | None = None) -> Tensor:
        x = x + self.attn(self.norm1(x), rotate)
        x = x + self.cross_attn(self.norm2(x), tokens)
        return x + self.mlp(self.norm3(x))


class AdaLNBlock(nn.Module):
    """Listen by being tuned: the condition stretches and shifts what attention and perceptron read.

    x: (B, N, D); c: (B, D). Returns (B, N, D). Four vectors a block, in the order of DiT less its gates.
    Source: DiT (arXiv 2212.09748, §3.2, "adaLN block").
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0, context_size: int = 0) -> None:
        super().__init__()
        self.norm1, self.attn = plain_norm(width), SelfAttention(width, num_heads)
        self.norm2, self.mlp = plain_norm(width), Mlp(width, int(width * mlp_ratio), "tanh")
        self.adaLN_modulation = Modulation(width, 4)

    def forward(self, x: Tensor, c: Tensor, context: Tensor | None = None, rotate: Rotate | None = None) -> Tensor:
        shift_msa, scale_msa, shift_mlp, scale_mlp = self.adaLN_modulation(c)
        x = x + self.attn(modulate(self.norm1(x), shift_msa, scale_msa), rotate)
        return x + self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class AdaLNZeroBlock(nn.Module):
    """adaLN with two gates, and all six vectors zero at the start: a fresh block returns its input.

    x: (B, N, D); c: (B, D). Returns (B, N, D). rotate: the attention's, none before lesson 8. The six come in the order
    shift, scale, gate of the attention, then of the perceptron.
    Source: DiT (arXiv 2212.09748, §3.2, "adaLN-Zero block"); facebookresearch/DiT, models.py, DiTBlock.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0, context_size: int = 0) -> None:
        super().__init__()
        self.norm1, self.attn = plain_norm(width), SelfAttention(width, num_heads)
        self.norm2, self.mlp = plain_norm(width), Mlp(width, int(width * mlp_ratio), "tanh")
        self.adaLN_modulation = Modulation(width, 6)

    def forward(self, x: Tensor, c: Tensor, context: Tensor | None = None, rotate: Rotate | None = None) -> Tensor:
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = self.adaLN_modulation(c)
        x = x + gate_msa[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa), rotate)
        return x + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


class AdaLNSingleBlock(nn.Module):
    """adaLN-Zero's six vectors from one layer that all blocks share, plus a small table of this block's own.

    x: (B, N, D); shared: (B, 6 D), the same for every block; context: (B, M, context_size) words, where built with
    them: then the patches also ask the words, without norm and gate. Returns (B, N, D).
    Source: PixArt-α (arXiv 2310.00426, §2.3); PixArt-alpha/PixArt-alpha, diffusion/model/nets/PixArt.py.
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0, context_size: int = 0) -> None:
        super().__init__()
        self.norm1, self.attn = plain_norm(width), SelfAttention(width, num_heads)
        self.cross_attn = CrossAttention(width, context_size, num_heads) if context_size else None
        self.norm2, self.mlp = plain_norm(width), Mlp(width, int(width * mlp_ratio), "tanh")
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(self, x: Tensor, shared: Tensor, context: Tensor | None = None, rotate: Rotate | None = None) -> Tensor:
        six = self.scale_shift_table + rearrange(shared, "b (six d) -> b six d", six=6)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = six.unbind(dim=1)
        x = x + gate_msa[:, None] * self.attn(modulate(self.norm1(x), shift_msa, scale_msa), rotate)
        if self.cross_attn is not None:
            x = x + self.cross_attn(x, context)
        return x + gate_mlp[:, None] * self.mlp(modulate(self.norm2(x), shift_mlp, scale_mlp))


BLOCKS: dict[str, type[nn.Module]] = {
    "in-context": InContextBlock,
    "cross-attention": CrossAttentionBlock,
    "adaln": AdaLNBlock,
    "adaln-zero": AdaLNZeroBlock,
    "adaln-single": AdaLNSingleBlock,
}
STARTS = ("zero", "gates", "gaussian", "xavier")


class FinalLayer(nn.Module):
    """Turn tokens back into numbers of patches: norm, modulation (no gate), linear layer.

    x: (B, N, D); c: (B, D). Returns (B, N, out_size). conditioning: with "in-context" and "cross-attention" the norm
    has weights of its own and c is not used; with "adaln-single" a table (2, D) is added to c, without a layer.
    Source: facebookresearch/DiT, models.py, FinalLayer; PixArt-alpha, PixArt_blocks.py, T2IFinalLayer.
    """

    def __init__(self, width: int, out_size: int, conditioning: str) -> None:
        super().__init__()
        self.conditioning = conditioning
        adaptive = conditioning.startswith("adaln")
        self.norm_final = plain_norm(width) if adaptive else nn.LayerNorm(width, eps=1e-6)
        self.linear = nn.Linear(width, out_size)
        if conditioning == "adaln-single":
            self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        elif adaptive:
            self.adaLN_modulation = Modulation(width, 2)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        x = self.norm_final(x)
        if self.conditioning == "adaln-single":
            shift, scale = (self.scale_shift_table + c[:, None]).unbind(dim=1)
            x = modulate(x, shift, scale)
        elif self.conditioning.startswith("adaln"):
            x = modulate(x, *self.adaLN_modulation(c))
        return self.linear(x)


def unpatchify(tokens: Tensor, patch_size: int, height: int) -> Tensor:
    """Lay the patches out again as a picture: the inverse of cutting, with the channels innermost in a patch.

    tokens: (B, N, p² C) in reading order; height: patches from top to bottom. Returns (B, C, H, W). Inside a patch the
    order is (row, column, channel), unlike patchify's. Raises ValueError where the numbers do not fit.
    Source: facebookresearch/DiT, models.py, DiT.unpatchify.
    """
    if tokens.shape[1] % height or tokens.shape[2] % patch_size**2:
        raise ValueError(
            f"unpatchify: {tokens.shape[1]} tokens of {tokens.shape[2]} numbers do not make {height} rows of patches "
            f"of {patch_size}×{patch_size} pixels"
        )
    pattern = "b (height width) (p1 p2 c) -> b c (height p1) (width p2)"
    return rearrange(tokens, pattern, height=height, p1=patch_size, p2=patch_size)


@dataclass(frozen=True)
class DiTConfig:
    """The choices that make one Diffusion Transformer.

    input_size: side of the square pictures or latents. conditioning: a key of BLOCKS. learn_sigma: twice as many
    output channels; the second half chooses the variance of a DDPM step. num_classes: 0 for no classes.
    pooled_size: in place of classes, width of one vector for a whole text (lesson 9). context_size: width of words to
    attend to (adaln-single only, as PixArt-α). start: of the blocks' modulation: "zero"
    (all six parts, DiT's code), "gates" (only the gates), "gaussian" (N(0, 0.001²)) or "xavier" (as all other layers).
    positions: "sin-cos", DiT's fixed table, or from lesson 8 on "learned", "none", and rotations in every block,
    "axial" or "mixed", with rope_base (see position.Ropes).
    Raises ValueError for settings that do not fit together.
    """

    input_size: int = 32
    patch_size: int = 2
    in_channels: int = 4
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_classes: int = 1000
    learn_sigma: bool = True
    conditioning: str = "adaln-zero"
    context_size: int = 0
    pooled_size: int = 0
    start: str = "zero"
    positions: str = "sin-cos"
    rope_base: float | None = None

    def __post_init__(self) -> None:
        check_patches("DiTConfig", self.input_size, self.input_size, self.patch_size)
        check_heads(self.hidden_size, self.num_heads)
        check_kind("DiTConfig", self.positions, head_size=self.hidden_size // self.num_heads)
        if self.positions == "sin-cos":
            sin_cos_2d(1, 1, self.hidden_size)
        if self.conditioning not in BLOCKS:
            raise ValueError(f"DiTConfig: conditioning is {self.conditioning!r}; it must be one of {', '.join(BLOCKS)}")
        if self.start not in STARTS:
            raise ValueError(f"DiTConfig: start is {self.start!r}; it must be one of {', '.join(STARTS)}")
        if self.context_size and self.conditioning != "adaln-single":
            raise ValueError("DiTConfig: only blocks of conditioning 'adaln-single' attend to words (context_size)")
        if self.num_classes and self.pooled_size:
            raise ValueError("DiTConfig: a pooled text takes the place of the classes: set num_classes to 0")
        if self.start != "zero" and self.conditioning != "adaln-zero":
            raise ValueError(
                f"DiTConfig: start {self.start!r} needs conditioning 'adaln-zero', not {self.conditioning!r}"
            )

    @property
    def grid(self) -> int:
        """Patches along each side of a picture."""
        return self.input_size // self.patch_size

    @property
    def out_channels(self) -> int:
        """Channels of the answer: the input's, twice with learn_sigma."""
        return self.in_channels * (2 if self.learn_sigma else 1)

    @classmethod
    def paper(cls, name: str, input_size: int = 32) -> DiTConfig:
        """Return one of the paper's twelve, named as there: "S/8" to "XL/2" (arXiv 2212.09748, Tables 1 and 4).

        input_size: of the latents; 32 for pictures of 256², 64 for 512². Raises ValueError for another name.
        """
        sizes = {"S": (12, 384, 6), "B": (12, 768, 12), "L": (24, 1024, 16), "XL": (28, 1152, 16)}
        size, _, patch = name.partition("/")
        if size not in sizes or patch not in ("2", "4", "8"):
            raise ValueError(f"there is no DiT-{name}; there are {', '.join(sizes)} with /2, /4 or /8, such as 'XL/2'")
        depth, width, heads = sizes[size]
        return cls(input_size, int(patch), hidden_size=width, depth=depth, num_heads=heads)

    @classmethod
    def shapes16(cls) -> DiTConfig:
        """A learner's DiT for 16×16 pictures of the 24 classes of shapes: 16 patches of 4×4."""
        return cls(16, 4, 3, hidden_size=128, depth=4, num_heads=4, num_classes=24, learn_sigma=False)

    @classmethod
    def latent8(cls) -> DiTConfig:
        """A learner's DiT for 8×8×4 latents of 32×32 pictures of 10 classes: 16 patches of 2×2."""
        return replace(cls.shapes16(), input_size=8, patch_size=2, in_channels=4, num_classes=10)

    @classmethod
    def digits(cls) -> DiTConfig:
        """A learner's DiT for scikit-learn's 8×8 digits: 16 patches of 2×2."""
        return replace(cls.latent8(), in_channels=1, hidden_size=64)


class DiT(nn.Module):
    """Predict noise or velocity for pictures or latents: patches, a stack of conditioned blocks, patches.

    x: (B, in_channels, input_size, input_size); t: (B,) from 0 to 1000; labels: (B,) int64, num_classes being the null
    class, or (B, pooled_size) floats in their place; context: (B, M, context_size) words, or Words with their mask.
    Returns (B, out_channels, input_size, input_size).
    Raises ValueError for other shapes, or a missing condition.
    Source: DiT (arXiv 2212.09748, §3.2, Fig. 3); facebookresearch/DiT, models.py.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config, self.num_classes, width = config, config.num_classes, config.hidden_size
        self.height = self.width = config.input_size
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, width)
        self.pos_embed = self._positions()
        head_size, after = width // config.num_heads, 2 if config.conditioning == "in-context" else 0
        self.ropes = Ropes(
            config.positions, config.grid, config.depth, config.num_heads, head_size, config.rope_base, after=after
        )
        self.t_embedder = TimeEmbedder(width)
        self.y_embedder: LabelEmbedder | VectorEmbedder | None = None
        if config.num_classes or config.pooled_size:
            pooled = VectorEmbedder(config.pooled_size, width) if config.pooled_size else None
            self.y_embedder = pooled or LabelEmbedder(config.num_classes, width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width)) if self._single else None
        block = BLOCKS[config.conditioning]
        self.blocks = nn.ModuleList(
            block(width, config.num_heads, config.mlp_ratio, config.context_size) for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(width, config.patch_size**2 * config.out_channels, config.conditioning)
        initialise(self)

    @property
    def _single(self) -> bool:
        return self.config.conditioning == "adaln-single"

    def _positions(self) -> nn.Parameter:
        """Return the table (1, N, D) that is added to the tokens: DiT's, a learned one, or zeros."""
        grid, width = self.config.grid, self.config.hidden_size
        if self.config.positions == "learned":
            return nn.Parameter(0.02 * torch.randn(1, grid**2, width))
        table = sin_cos_2d(grid, grid, width) if self.config.positions == "sin-cos" else torch.zeros(grid**2, width)
        return nn.Parameter(table[None], requires_grad=False)

    def forward(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, context: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        self._check(x, t, labels, context)
        tokens = self.x_embedder(x) + self.pos_embed
        heard = [self.t_embedder(t)]
        if self.y_embedder is not None:
            heard.append(self.y_embedder(labels))
        tokens = self.run_blocks(tokens, heard, context)
        return unpatchify(self.final_layer(tokens, sum_of(heard)), self.config.patch_size, self.rows)

    def run_blocks(self, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
        """Pass tokens (B, N, D) through all blocks, which are told what was heard, (B, D) each, in their own way."""
        count = tokens.shape[1]
        if self.config.conditioning in ("in-context", "cross-attention"):
            condition = torch.stack(list(heard), dim=1)
        else:
            condition = sum_of(heard) if self.t_block is None else self.t_block(sum_of(heard))
        if self.config.conditioning == "in-context":
            tokens = torch.cat([tokens, condition], dim=1)
        for block, rotate in zip(self.blocks, self.ropes(tokens.device), strict=True):
            tokens = block(tokens, condition, context, rotate)
        return tokens[:, :count]

    @property
    def rows(self) -> int:
        """Rows of patches of a picture."""
        return self.height // self.config.patch_size

    def _check(self, x: Tensor, t: Tensor, labels: Tensor | None, context: Tensor | Words | None) -> None:
        config = self.config
        expected = (config.in_channels, self.height, self.width)
        if x.ndim != 4 or tuple(x.shape[1:]) != expected:
            sides = ", ".join(map(str, expected))
            raise ValueError(f"DiT: expects pictures of shape (B, {sides}), got {tuple(x.shape)}")
        if t.shape != (len(x),):
            raise ValueError(f"DiT: t has shape {tuple(t.shape)} for {len(x)} pictures; give one time for each, (B,)")
        words, mask = context if isinstance(context, Words) else Words(context) if context is not None else (None, None)
        asked: tuple[str, int, tuple[int, ...]] = ("labels", config.num_classes, (len(x),))
        if config.pooled_size:
            asked = ("pooled text", config.pooled_size, (len(x), config.pooled_size))
        for name, given, size, shape in (
            (asked[0], labels, *asked[1:]),
            ("context", words, config.context_size, (len(x), -1, config.context_size)),
        ):
            if (given is None) == bool(size):
                says = "was built with" if size else "was built without"
                raise ValueError(f"DiT: this network {says} {name}; call it {'with' if size else 'without'} them")
            if given is not None and (given.ndim != len(shape) or len(given) != len(x) or given.shape[-1] != shape[-1]):
                wanted = ", ".join("M" if side < 0 else str(side) for side in shape)
                raise ValueError(f"DiT: {name} has shape {tuple(given.shape)}; expected ({wanted})")
        if words is not None and mask is not None:
            check_mask("DiT", words, mask)


def sum_of(vectors: Sequence[Tensor]) -> Tensor:
    """Return the sum of what was heard: time plus class, the one vector c that adaLN listens to."""
    return vectors[0] if len(vectors) == 1 else vectors[0] + vectors[1]


def initialise(model: DiT) -> None:
    """Give a DiT the weights that it starts from, as the reference code does.

    Xavier for every linear layer and the patches, N(0, 0.02²) for time and class, zeros for the last layer and, as
    config.start says, for the modulation. Source: facebookresearch/DiT, models.py, DiT.initialize_weights; the Gaussian
    one is adaLN-Gaussian's (OpenReview E4roJSM9RM); adaLN-single's: PixArt-alpha, nets/PixArt.py.
    """
    for part in model.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(part.weight.flatten(1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for embedder in (model.t_embedder.mlp, model.t_block):
        for part in embedder or ():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
    for block in model.blocks:
        if isinstance(block, AdaLNBlock | AdaLNZeroBlock):
            modulation = block.adaLN_modulation
            weight = modulation.get_parameter("1.weight").data
            weight.copy_(start_modulation(weight, modulation.parts, model.config.start))
        elif isinstance(block, AdaLNSingleBlock) and block.cross_attn is not None:
            silence(block.cross_attn)
    if hasattr(model.final_layer, "adaLN_modulation"):
        zero_(model.final_layer.adaLN_modulation)
    zero_(model.final_layer.linear)


def start_modulation(weight: Tensor, parts: int, start: str) -> Tensor:
    """Return the weights that a block's modulation layer begins with; its bias is zero in every case.

    weight: (parts · D, D), Xavier's numbers, which stay as they are. start: "zero" (every part silent), "gates" (only
    the gates silent: every third part, counted from the third), "gaussian" (N(0, 0.001²)) or "xavier" (weight itself).
    With silent gates a fresh block returns its input. Raises ValueError for another start.
    """
    if start not in STARTS:
        raise ValueError(f"start is {start!r}; it must be one of {', '.join(STARTS)}")
    if start == "zero":
        return torch.zeros_like(weight)
    if start == "gaussian":
        return 1e-3 * torch.randn_like(weight)
    by_part = weight.clone().unflatten(0, (parts, -1))
    if start == "gates":
        by_part[2::3] = 0
    return by_part.flatten(0, 1)


def macs(config: DiTConfig) -> int:
    """Return the multiply-accumulates of one call of an adaLN-Zero DiT for one picture, counted by hand.

    The paper's "Gflops" are these, in units of a thousand million (arXiv 2212.09748, Table 4). Of a block's
    12 N D² + 2 N² D + 6 D², only the last term, the modulation's, does not grow with the number N of tokens.
    """
    width, tokens = config.hidden_size, config.grid**2
    block = 12 * tokens * width**2 + 2 * tokens**2 * width + 6 * width**2
    ends = config.patch_size**2 * tokens * width * (config.in_channels + config.out_channels)
    return ends + config.depth * block + (256 * width + width**2) + 2 * width**2


def parameters_by_part(model: DiT) -> dict[str, int]:
    """Return how many trained weights each part holds: "attention", "perceptron", "modulation", "embedders", "ends".

    Modulation: every layer or table that makes shifts, scales and gates, the final layer's too, with norms that have
    weights of their own and cross-attention, which do that work in the blocks without. Embedders: of time and class.
    Ends: patches and the last linear layer. Together the parts are all that is trained.
    """
    kinds = {"attn": "attention", "mlp": "perceptron", "t_embedder": "embedders", "y_embedder": "embedders"}
    kinds |= {"x_embedder": "ends", "linear": "ends"}
    counts = dict.fromkeys(("attention", "perceptron", "modulation", "embedders", "ends"), 0)
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            words = name.split(".")
            part = next((kinds[word] for word in words[:3] if word in kinds), "modulation")
            counts[part] += weight.numel()
    return counts
