"""MMDiT: words and patches in one attention, each with weights of its own, or with the same.

Read from the top: joint attention, the double-stream block, the single-stream block, the sizes of the papers, the
whole; then the newer block of one stream, and its whole. Everywhere the words come first, then the patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib.attention import Rotate, Words, attend, check_heads, check_mask
from lesson_lib.denoiser import zero_
from lesson_lib.dit import FinalLayer, Modulation, modulate, plain_norm, unpatchify
from lesson_lib.embed import TimeEmbedder, VectorEmbedder, sinusoidal
from lesson_lib.position import AxialRope, crop_table, joint_coordinates, sin_cos_2d
from lesson_lib.text import RMSNorm, SwiGLU
from lesson_lib.vit import Mlp, PatchEmbed, check_patches

Heads = tuple[Tensor, Tensor, Tensor]


class QKNorm(nn.Module):
    """Bring every query and key to length √d, then stretch them as learned: no score can run away.

    query, key: (B, h, N, d). Returns both. The d weights are shared by the heads. With weights of at most g no score
    exceeds g² √d. Source: SD3 (arXiv 2403.03206, §5.3.2); black-forest-labs/flux, modules/layers.py, QKNorm.
    """

    def __init__(self, head_size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.query, self.key = RMSNorm(head_size, eps), RMSNorm(head_size, eps)

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        return self.query(query), self.key(key)


def joint_attention(
    text: Heads, image: Heads, rotate: Rotate | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Let words and patches ask each other in one attention, with one softmax over both.

    text, image: query, key and value (B, h, L, d) and (B, h, N, d). rotate: of all L + N tokens, the words first. mask:
    (B, L), True for words that are there; nobody asks the others. Returns what the words heard (B, L, h d), and what
    the patches heard (B, N, h d). Source: SD3 (arXiv 2403.03206, §4); Stability-AI/sd3-ref, mmdit.py, block_mixing.
    """
    query, key, value = (torch.cat(pair, dim=2) for pair in zip(text, image, strict=True))
    if rotate is not None:
        query, key = rotate(query), rotate(key)
    heard = attend(query, key, value, mask=sentence_mask(mask, image[0].shape[2]))
    return split_sentence(rearrange(heard, "b h n d -> b n (h d)"), text[0].shape[2])


def split_sentence(x: Tensor, words: int) -> tuple[Tensor, Tensor]:
    """Cut a sentence (B, L + N, D) into its words (B, L, D) and its patches (B, N, D)."""
    return x[:, :words], x[:, words:]


def sentence_mask(mask: Tensor | None, patches: int) -> Tensor | None:
    """Return the mask (B, L + N) of words (B, L) and patches, which are all there; None for None."""
    return None if mask is None else F.pad(mask, (0, patches), value=True)


class StreamAttention(nn.Module):
    """The attention's weights of one stream: queries, keys and values before, and the layer after.

    project: False in a last block, where the words only answer.
    """

    def __init__(self, width: int, num_heads: int, qk_norm: bool = True, project: bool = True) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.norm = QKNorm(width // num_heads) if qk_norm else None
        self.proj = nn.Linear(width, width) if project else None

    def heads(self, x: Tensor) -> Heads:
        """Return query, key and value (B, h, N, d) of tokens (B, N, D)."""
        query, key, value = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        if self.norm is not None:
            query, key = self.norm(query, key)
        return query, key, value


class Stream(nn.Module):
    """All that one kind of token, words or patches, owns in a double-stream block.

    vectors: of the modulation, (B, D) each, six as in DiT. last: the words of a last block only answer: two vectors
    (shift and scale), no perceptron. dual: a second attention of its own kind beside the joint one, with three more
    vectors (SD3.5-medium). Source: SD3 (arXiv 2403.03206, Fig. 2); Stability-AI/sd3.5, mmditx.py, DismantledBlock.
    """

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float = 4.0, qk_norm: bool = True, last: bool = False,
        dual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.adaLN_modulation = Modulation(width, 2 if last else 9 if dual else 6)
        self.norm1, self.attn = plain_norm(width), StreamAttention(width, num_heads, qk_norm, project=not last)
        self.attn2 = StreamAttention(width, num_heads, qk_norm) if dual else None
        self.norm2 = None if last else plain_norm(width)
        self.mlp = None if last else Mlp(width, int(width * mlp_ratio), "tanh")

    def ask(self, x: Tensor, vectors: tuple[Tensor, ...]) -> Heads:
        """Return query, key and value of tokens (B, N, D), which are normalised and modulated first."""
        return self.attn.heads(modulate(self.norm1(x), vectors[0], vectors[1]))

    def think(self, x: Tensor, heard: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        """Return the tokens (B, N, D) after what they heard (B, N, D) and what they make of it; a last block's words
        stay as they were.
        """
        if self.mlp is None or self.norm2 is None or self.attn.proj is None:
            return x
        gate_msa, shift_mlp, scale_mlp, gate_mlp = vectors[2:6]
        after = x + gate_msa[:, None] * self.attn.proj(heard)
        if self.attn2 is not None:
            after = after + self._among_themselves(x, *vectors[6:])
        return after + gate_mlp[:, None] * self.mlp(modulate(self.norm2(after), shift_mlp, scale_mlp))

    def _among_themselves(self, x: Tensor, shift: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
        assert self.attn2 is not None
        assert self.attn2.proj is not None
        heard = attend(*self.attn2.heads(modulate(self.norm1(x), shift, scale)))
        return gate[:, None] * self.attn2.proj(rearrange(heard, "b h n d -> b n (h d)"))


class DoubleStreamBlock(nn.Module):
    """Words and patches, each with weights of their own, meet in one attention.

    text: (B, L, D); image: (B, N, D); c: (B, D). Returns both. rotate, mask: see joint_attention. last: the words only
    answer, and come back as they were. dual: the patches have a second attention among themselves.
    Source: SD3 (arXiv 2403.03206, §4, Fig. 2b); black-forest-labs/flux, modules/layers.py, DoubleStreamBlock.
    """

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float = 4.0, qk_norm: bool = True, last: bool = False,
        dual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.text = Stream(width, num_heads, mlp_ratio, qk_norm, last=last)
        self.image = Stream(width, num_heads, mlp_ratio, qk_norm, dual=dual)

    def forward(
        self, text: Tensor, image: Tensor, c: Tensor, rotate: Rotate | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        for_text, for_image = self.text.adaLN_modulation(c), self.image.adaLN_modulation(c)
        asked_by_text, asked_by_image = self.text.ask(text, for_text), self.image.ask(image, for_image)
        text_heard, image_heard = joint_attention(asked_by_text, asked_by_image, rotate, mask)
        return self.text.think(text, text_heard, for_text), self.image.think(image, image_heard, for_image)


class SingleStreamBlock(nn.Module):
    """One sentence of words and patches, one set of weights; attention and perceptron side by side, not in turn.

    x: (B, L + N, D); c: (B, D); mask: (B, L + N). Returns (B, L + N, D). Three vectors: one norm and one gate serve
    both branches, whose first layers are one layer (linear1), and whose last layers are one (linear2).
    Source: black-forest-labs/flux, modules/layers.py, SingleStreamBlock; side by side as in ViT-22B (arXiv 2302.05442).
    """

    def __init__(self, width: int, num_heads: int, mlp_ratio: float = 4.0, qk_norm: bool = True) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads, self.sizes = num_heads, [3 * width, int(width * mlp_ratio)]
        self.adaLN_modulation = Modulation(width, 3)
        self.pre_norm = plain_norm(width)
        self.linear1 = nn.Linear(width, sum(self.sizes))
        self.norm = QKNorm(width // num_heads) if qk_norm else None
        self.linear2 = nn.Linear(width + self.sizes[1], width)

    def forward(self, x: Tensor, c: Tensor, rotate: Rotate | None = None, mask: Tensor | None = None) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(c)
        qkv, hidden = self.linear1(modulate(self.pre_norm(x), shift, scale)).split(self.sizes, dim=-1)
        query, key, value = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        if self.norm is not None:
            query, key = self.norm(query, key)
        if rotate is not None:
            query, key = rotate(query), rotate(key)
        heard = rearrange(attend(query, key, value, mask=mask), "b h n d -> b n (h d)")
        return x + gate[:, None] * self.linear2(torch.cat([heard, F.gelu(hidden, approximate="tanh")], dim=-1))


PLACES = ("sin-cos", "origin", "continued", "diagonal")
SHARED = ("modulation", "weights", "streams", "attention", "perceptron")


@dataclass(frozen=True)
class MMDiTConfig:
    """The choices that make one MMDiT: first double-stream blocks, then single-stream ones.

    input_size: side of the square pictures or latents. double, single: numbers of blocks. context_size: width of the
    words' vectors; pooled_size: width of the one vector that stands for the whole text, 0 for none. dual: the first so
    many blocks have a second attention among the patches. last_text: the last double-stream block thinks about its
    words too, although nobody reads them (Qwen-Image); where single blocks follow, or blocks share, it always does.
    places: "sin-cos", the middle of a table of table_size² places (SD3), or where words stand beside rotated patches
    (position.joint_coordinates), with the channels of each axis, three or only (row, column), and the base.
    shared: what several blocks have in common (share_weights). guidance: the strength of guidance is an input (FLUX).
    context_norm: RMSNorm of the words first (Qwen-Image). Raises ValueError for settings that do not fit together.
    """

    input_size: int = 128
    patch_size: int = 2
    in_channels: int = 16
    hidden_size: int = 1536
    num_heads: int = 24
    double: int = 24
    single: int = 0
    mlp_ratio: float = 4.0
    context_size: int = 4096
    pooled_size: int = 2048
    qk_norm: bool = True
    dual: int = 0
    last_text: bool = False
    places: str = "sin-cos"
    table_size: int = 192
    axes: tuple[int, ...] = ()
    rope_base: float = 10_000.0
    shared: tuple[str, ...] = ()
    guidance: bool = False
    context_norm: bool = False

    def __post_init__(self) -> None:
        check_patches("MMDiTConfig", self.input_size, self.input_size, self.patch_size)
        check_heads(self.hidden_size, self.num_heads)
        if self.places not in PLACES:
            raise ValueError(f"MMDiTConfig: places is {self.places!r}; it must be one of {', '.join(PLACES)}")
        if unknown := set(self.shared) - set(SHARED):
            raise ValueError(f"MMDiTConfig: shared has {', '.join(unknown)}; it may hold {', '.join(SHARED)}")
        head = self.hidden_size // self.num_heads
        if self.places != "sin-cos" and (sum(self.axes) != head or len(self.axes) not in (2, 3)):
            raise ValueError(f"MMDiTConfig: axes is {self.axes}; it must be two or three numbers, together {head}")
        if self.places == "sin-cos" and self.grid > self.table_size:
            raise ValueError(f"MMDiTConfig: a grid of {self.grid} needs a table_size of so many, not {self.table_size}")
        if self.dual > self.double or (self.dual and self.shared):
            raise ValueError(f"MMDiTConfig: dual is {self.dual}; at most {self.double} blocks, which share nothing")

    @property
    def grid(self) -> int:
        """Patches along each side of a picture."""
        return self.input_size // self.patch_size

    @classmethod
    def shapes16(cls, width: int = 128) -> MMDiTConfig:
        """A learner's MMDiT for 16×16 pictures of shapes: 16 patches of 4×4, two double blocks, then two single."""
        return cls(
            16, 4, 3, hidden_size=width, num_heads=width // 32, double=2, single=2, context_size=128, pooled_size=128,
            places="origin", axes=(16, 16), rope_base=100.0,
        )  # fmt: skip

    @classmethod
    def sd3_medium(cls) -> MMDiTConfig:
        """Stable Diffusion 3 medium, 2.028 thousand million weights (arXiv 2403.03206; Stability-AI/sd3-ref)."""
        return cls(qk_norm=False)

    @classmethod
    def sd35_medium(cls) -> MMDiTConfig:
        """Stable Diffusion 3.5 medium, MMDiT-X: a second attention in 13 blocks (Stability-AI/sd3.5, mmditx.py)."""
        return cls(dual=13, table_size=384)

    @classmethod
    def sd35_large(cls) -> MMDiTConfig:
        """Stable Diffusion 3.5 large, 8.057 thousand million weights (Stability-AI/sd3.5, mmditx.py)."""
        return cls(hidden_size=2432, num_heads=38, double=38)

    @classmethod
    def flux_dev(cls) -> MMDiTConfig:
        """FLUX.1-dev, 11.901 thousand million weights (black-forest-labs/flux, util.py)."""
        return cls(
            hidden_size=3072, double=19, single=38, pooled_size=768, places="origin", axes=(16, 56, 56), guidance=True
        )

    @classmethod
    def qwen_image(cls) -> MMDiTConfig:
        """Qwen-Image, 20.430 thousand million weights (arXiv 2508.02324, Table 1)."""
        return cls(
            hidden_size=3072, double=60, context_size=3584, pooled_size=0, last_text=True, places="diagonal",
            axes=(16, 56, 56), context_norm=True,
        )  # fmt: skip


class MMDiT(nn.Module):
    """Predict the velocity of pictures or latents from noisy ones, the time, and a text.

    x: (B, in_channels, H, W), sides that divide into patches; t: (B,) from 0 to 1000; pooled: (B, pooled_size);
    context: (B, L, context_size), one vector for each word, or Words with their mask; guidance: (B,), such as 3.5.
    Returns the shape of x. Raises ValueError for other shapes and for a missing condition.
    Source: SD3 (arXiv 2403.03206, Fig. 2); Stability-AI/sd3.5, mmditx.py; black-forest-labs/flux, model.py.
    """

    def __init__(self, config: MMDiTConfig) -> None:
        super().__init__()
        self.config, width, heads = config, config.hidden_size, config.num_heads
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, width)
        self.t_embedder = TimeEmbedder(width)
        self.guidance_embedder = TimeEmbedder(width) if config.guidance else None
        self.y_embedder = VectorEmbedder(config.pooled_size, width) if config.pooled_size else None
        self.context_norm = RMSNorm(config.context_size) if config.context_norm else None
        self.context_embedder = nn.Linear(config.context_size, width)
        table = sin_cos_2d(config.table_size, config.table_size, width)[None] if config.places == "sin-cos" else None
        self.register_buffer("pos_embed", table)
        self.rope = AxialRope(config.axes, config.rope_base) if config.axes else None
        rest, only_answer = (config.mlp_ratio, config.qk_norm), not (config.single or config.last_text or config.shared)
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(width, heads, *rest, last=only_answer and i == config.double - 1, dual=i < config.dual)
            for i in range(config.double)
        )
        self.single_blocks = nn.ModuleList(SingleStreamBlock(width, heads, *rest) for _ in range(config.single))
        self.final_layer = FinalLayer(width, config.patch_size**2 * config.in_channels, "adaln-zero")
        share_weights(self, config.shared)
        initialise(self)

    def forward(
        self, x: Tensor, t: Tensor, pooled: Tensor | None = None, context: Tensor | Words | None = None,
        guidance: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        words, mask = check_words("MMDiT", x, context, self.config.in_channels, self.config.context_size)
        self._check(x, t, pooled, guidance)
        rows, columns = (side // self.config.patch_size for side in x.shape[2:])
        image = self.x_embedder(x)
        if isinstance(self.pos_embed, Tensor):
            image = image + crop_table(self.pos_embed, self.config.table_size, rows, columns)
        c = self.t_embedder(t)
        if self.y_embedder is not None:
            c = c + self.y_embedder(pooled)
        if self.guidance_embedder is not None and guidance is not None:
            c = c + self.guidance_embedder(1000 * guidance)
        text = self.context_embedder(words if self.context_norm is None else self.context_norm(words))
        image = self.run_blocks(text, image, c, self.rotation(text.shape[1], rows, columns, x.device), mask)
        return unpatchify(self.final_layer(image, c), self.config.patch_size, rows)

    def run_blocks(
        self, text: Tensor, image: Tensor, c: Tensor, rotate: Rotate | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Pass words (B, L, D) and patches (B, N, D) through the double-stream blocks, then, as one sentence, through
        the single-stream ones. Returns the patches (B, N, D).
        """
        for block in self.double_blocks:
            text, image = block(text, image, c, rotate, mask)
        sentence, everyone = torch.cat([text, image], dim=1), sentence_mask(mask, image.shape[1])
        for block in self.single_blocks:
            sentence = block(sentence, c, rotate, everyone)
        return split_sentence(sentence, text.shape[1])[1]

    def rotation(self, words: int, rows: int, columns: int, device: torch.device) -> Rotate | None:
        """Return the rotation of queries and keys of so many words, then patches; None where places are added."""
        if self.rope is None:
            return None
        return self.rope(places_of(words, rows, columns, self.config.places, len(self.config.axes), device))

    def _check(self, x: Tensor, t: Tensor, pooled: Tensor | None, guidance: Tensor | None) -> None:
        for name, given, wanted, shape in (
            ("t", t, True, (len(x),)),
            ("pooled", pooled, self.config.pooled_size > 0, (len(x), self.config.pooled_size)),
            ("guidance", guidance, self.config.guidance, (len(x),)),
        ):
            if (given is not None) != wanted:
                raise ValueError(f"MMDiT: this network was built {'with' if wanted else 'without'} {name}")
            if given is not None and tuple(given.shape) != shape:
                raise ValueError(f"MMDiT: {name} has shape {tuple(given.shape)} for {len(x)} pictures; wanted {shape}")


def check_words(who: str, x: Tensor, context: Tensor | Words | None, in_channels: int, size: int) -> Words:
    """Return the words of a call with their mask; raise ValueError where they do not fit the pictures x."""
    if x.ndim != 4 or x.shape[1] != in_channels:
        raise ValueError(f"{who}: expects pictures of shape (B, {in_channels}, H, W), got {tuple(x.shape)}")
    if context is None:
        raise ValueError(f"{who}: there are no words; give context, a vector for each word of each text")
    found = context if isinstance(context, Words) else Words(context)
    if found.tokens.ndim != 3 or len(found.tokens) != len(x) or found.tokens.shape[2] != size:
        shape = tuple(found.tokens.shape)
        raise ValueError(f"{who}: context has shape {shape} for {len(x)} pictures; wanted ({len(x)}, L, {size})")
    if found.mask is not None:
        check_mask(who, found.tokens, found.mask)
    return found


@lru_cache(maxsize=64)
def places_of(words: int, rows: int, columns: int, text: str, axes: int, device: torch.device) -> Tensor:
    """Return joint_coordinates on a device, kept for the next call; axes: 3, or 2 for (row, column) alone."""
    with torch.device("cpu"):  # also where a network is built without weights, on the meta device
        found = joint_coordinates(words, rows, columns, text)[:, 3 - axes :]
    return found.to(device)


def share_weights(model: MMDiT, shared: Sequence[str]) -> None:
    """Let blocks of an MMDiT use the same weights, in place.

    shared: "modulation", one modulation layer of each kind for all blocks (FLUX.2); "weights", one attention and one
    perceptron for words and patches, which keep modulations of their own (with "modulation": DiT-Air); "streams", words
    and patches share everything (SD3's concatenation); "attention" and "perceptron", one for all double-stream blocks
    (DiT-Air/Lite). Source: DiT-Air (arXiv 2503.10618, §3, Table 1); black-forest-labs/flux2, model.py.
    """
    doubles: list[DoubleStreamBlock] = list(model.double_blocks)  # type: ignore[arg-type]
    for block in doubles:
        if "streams" in shared:
            block.text = block.image
        if "weights" in shared:
            block.text.attn, block.text.mlp = block.image.attn, block.image.mlp
        for stream, first in ((block.text, doubles[0].text), (block.image, doubles[0].image)):
            if "modulation" in shared:
                stream.adaLN_modulation = first.adaLN_modulation
            if "attention" in shared:
                stream.attn = first.attn
            if "perceptron" in shared:
                stream.mlp = first.mlp
    if "modulation" in shared:
        for single in model.single_blocks:
            single.adaLN_modulation = model.single_blocks[0].adaLN_modulation


def initialise(model: nn.Module) -> None:
    """Give an MMDiT the weights that it starts from: DiT's, since SD3's code and FLUX's are for inference only.

    Xavier for every linear layer and the patches, N(0, 0.02²) for the embedders' layers, zeros for every modulation and
    for the last layer, so that a fresh block returns its input. Source: facebookresearch/DiT, models.py; cloneofsimo/
    minRF does the same.
    """
    for name, part in model.named_modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            if "_embedder." in name and "x_embedder" not in name:
                nn.init.normal_(part.weight, std=0.02)
            else:
                nn.init.xavier_uniform_(part.weight.flatten(1))
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for name, part in model.named_modules():
        if name.endswith("adaLN_modulation") or name == "final_layer.linear":
            zero_(part)


def modulation_share(model: nn.Module) -> float:
    """Return the share of a network's weights that only make shifts, scales and gates: those of adaLN_modulation.

    A weight that several blocks share counts once. SD3's blocks have 36 D² weights, of which 12 D² modulate: a third,
    which touches no token.
    """
    told = sum(weight.numel() for name, weight in model.named_parameters() if "adaLN_modulation" in name)
    return told / sum(weight.numel() for weight in model.parameters())


# --- one stream, newer blocks ---------------------------------------------------------------------------------------


class SandwichBlock(nn.Module):
    """One sentence, one set of weights; a norm before and one after each branch; scales and bounded gates, no shifts.

    x: (B, L + N, D); c: (B, condition_size), or None in a refiner of words, which hears no time. Returns
    (B, L + N, D). kv_heads: fewer keys and values than queries, each for a group of queries (GQA). No biases but the
    modulation's. Source: Tongyi-MAI/Z-Image, zimage/transformer.py; Alpha-VLLM/Lumina-Image-2.0, models/model.py,
    JointTransformerBlock.
    """

    def __init__(
        self, width: int, num_heads: int, hidden_width: int, kv_heads: int = 0, condition_size: int = 0
    ) -> None:  # fmt: skip
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads, self.kv_heads, head = num_heads, kv_heads or num_heads, width // num_heads
        self.q, self.proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * head * self.kv_heads, bias=False)
        self.norm, self.mlp = QKNorm(head, eps=1e-5), SwiGLU(width, hidden_width)
        self.norm1, self.norm1_after, self.norm2, self.norm2_after = (RMSNorm(width, eps=1e-5) for _ in range(4))
        self.adaLN_modulation = nn.Linear(condition_size, 4 * width) if condition_size else None

    def forward(
        self, x: Tensor, c: Tensor | None = None, rotate: Rotate | None = None, mask: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        if self.adaLN_modulation is None or c is None:
            x = x + self.norm1_after(self.ask(self.norm1(x), rotate, mask))
            return x + self.norm2_after(self.mlp(self.norm2(x)))
        scale_msa, gate_msa, scale_mlp, gate_mlp = self.adaLN_modulation(c)[:, None].chunk(4, dim=-1)
        x = x + gate_msa.tanh() * self.norm1_after(self.ask(self.norm1(x) * (1 + scale_msa), rotate, mask))
        return x + gate_mlp.tanh() * self.norm2_after(self.mlp(self.norm2(x) * (1 + scale_mlp)))

    def ask(self, x: Tensor, rotate: Rotate | None, mask: Tensor | None) -> Tensor:
        """Return what the tokens (B, N, D), already normalised, hear from each other."""
        query = rearrange(self.q(x), "b n (h d) -> b h n d", h=self.num_heads)
        key, value = rearrange(self.kv(x), "b n (two h d) -> two b h n d", two=2, h=self.kv_heads)
        query, key = self.norm(query, key)
        if rotate is not None:
            query, key = rotate(query), rotate(key)
        group = self.num_heads // self.kv_heads
        if group > 1:
            key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
        return self.proj(rearrange(attend(query, key, value, mask=mask), "b h n d -> b n (h d)"))


@dataclass(frozen=True)
class SingleStreamConfig:
    """The choices of a transformer of one stream (S3-DiT): its blocks, and refiners that each side passes alone first.

    condition_size: width of the time that modulates, the same for all blocks; silu: they hear SiLU of it (Lumina).
    axes: channels of (frame, row, column). Raises ValueError for settings that do not fit together.
    """

    patch_size: int = 2
    in_channels: int = 16
    hidden_size: int = 3840
    depth: int = 30
    refiners: int = 2
    num_heads: int = 30
    kv_heads: int = 30
    mlp_width: int = 10_240
    context_size: int = 2560
    condition_size: int = 256
    time_width: int = 1024
    silu: bool = False
    axes: tuple[int, ...] = (32, 48, 48)
    rope_base: float = 256.0

    def __post_init__(self) -> None:
        check_heads(self.hidden_size, self.num_heads)
        if self.num_heads % self.kv_heads:
            raise ValueError(f"SingleStreamConfig: {self.num_heads} heads of queries, {self.kv_heads} of keys")
        if sum(self.axes) != self.hidden_size // self.num_heads or len(self.axes) != 3:
            head = self.hidden_size // self.num_heads
            raise ValueError(f"SingleStreamConfig: axes is {self.axes}; it must be three numbers, together {head}")

    @classmethod
    def z_image(cls) -> SingleStreamConfig:
        """Z-Image, 6.155 thousand million weights; 30 heads as in the code, not 32 as in its Table 2."""
        return cls()

    @classmethod
    def lumina_image_2(cls) -> SingleStreamConfig:
        """Lumina-Image 2.0, 2.610 thousand million weights; 24 heads of queries share 8 of keys and values."""
        return cls(
            hidden_size=2304, depth=26, num_heads=24, kv_heads=8, mlp_width=9216, context_size=2304,
            condition_size=1024, silu=True, axes=(32, 32, 32), rope_base=10_000.0,
        )  # fmt: skip


class SingleStreamDiT(nn.Module):
    """Predict a velocity with one set of weights for words and patches: refiners for each alone, then one sentence.

    x: (B, in_channels, H, W); t: (B,) from 0 to 1000; context: (B, L, context_size), or Words with their mask; pooled
    must be None: the text is heard word by word only. Returns the shape of x. Words stand at (n, 0, 0), the picture in
    frame L. Raises ValueError for other shapes.
    Source: Tongyi-MAI/Z-Image, zimage/transformer.py (patches of its pictures come first there, and rows are padded to
    a multiple of 32); Alpha-VLLM/Lumina-Image-2.0, models/model.py, NextDiT.
    """

    def __init__(self, config: SingleStreamConfig) -> None:
        super().__init__()
        self.config, width = config, config.hidden_size
        told = (width, config.num_heads, config.mlp_width, config.kv_heads)
        self.x_embedder = PatchEmbed(config.patch_size, config.in_channels, width)
        self.t_embedder = nn.Sequential(
            nn.Linear(256, config.time_width), nn.SiLU(), nn.Linear(config.time_width, config.condition_size)
        )
        self.context_norm = RMSNorm(config.context_size, eps=1e-5)
        self.context_embedder = nn.Linear(config.context_size, width)
        self.rope = AxialRope(config.axes, config.rope_base)
        self.context_refiner = nn.ModuleList(SandwichBlock(*told) for _ in range(config.refiners))
        self.noise_refiner = nn.ModuleList(SandwichBlock(*told, config.condition_size) for _ in range(config.refiners))
        self.blocks = nn.ModuleList(SandwichBlock(*told, config.condition_size) for _ in range(config.depth))
        self.final_norm = plain_norm(width)
        self.final_modulation = nn.Sequential(nn.SiLU(), nn.Linear(config.condition_size, width))
        self.final_linear = nn.Linear(width, config.patch_size**2 * config.in_channels)

    def forward(
        self, x: Tensor, t: Tensor, pooled: None = None, context: Tensor | Words | None = None
    ) -> Tensor:  # fmt: skip
        words, mask = check_words("SingleStreamDiT", x, context, self.config.in_channels, self.config.context_size)
        if pooled is not None:
            raise ValueError("SingleStreamDiT: this network was built without pooled")
        if t.shape != (len(x),):
            raise ValueError(f"SingleStreamDiT: t has shape {tuple(t.shape)} for {len(x)} pictures; wanted ({len(x)},)")
        rows, columns = (side // self.config.patch_size for side in x.shape[2:])
        count = words.shape[1]
        turn = self.rope(places_of(count, rows, columns, "continued", 3, x.device))
        turn_text = replace(turn, cos=turn.cos[:count], sin=turn.sin[:count])
        turn_image = replace(turn, cos=turn.cos[count:], sin=turn.sin[count:])
        c = self.t_embedder(sinusoidal(t, 256))
        told = F.silu(c) if self.config.silu else c
        text, image = self.context_embedder(self.context_norm(words)), self.x_embedder(x)
        for block in self.context_refiner:
            text = block(text, None, turn_text, mask)
        for block in self.noise_refiner:
            image = block(image, told, turn_image)
        sentence, everyone = torch.cat([text, image], dim=1), sentence_mask(mask, rows * columns)
        for block in self.blocks:
            sentence = block(sentence, told, turn, everyone)
        image = self.final_norm(split_sentence(sentence, count)[1]) * (1 + self.final_modulation(c)[:, None])
        return unpatchify(self.final_linear(image), self.config.patch_size, rows)
