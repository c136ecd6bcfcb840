"""Our rotations and the public ones: where words and patches stand, cosines and sines, turned queries and keys.

FLUX.1's, Qwen-Image's, Lumina-Image 2.0's and CogView4's in diffusers, and the half-split ones of transformers' Llama,
whose layers' weights are also converted to ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.attention import SelfAttention
from lesson_lib.official.unet import Weight, randomise, to_ours
from lesson_lib.position import AxialRope, Rotation, grid_coordinates, joint_coordinates, pairs_from_halves


@dataclass(frozen=True)
class PublicRotation:
    """What a public model makes of a sentence of words and patches: its numbers, and the function that it turns with.

    cos, sin: (N, d / 2), of each pair of channels. turn: from queries or keys (B, h, N, d) to turned ones.
    """

    cos: Tensor
    sin: Tensor
    turn: Callable[[Tensor], Tensor]


def flux_rotation(words: int, height: int, width: int) -> Rotation:
    """Return the rotation of FLUX.1 for a sentence of words and patches: 16 channels for the frame, 56 each for places.

    Source: black-forest-labs/flux, sampling.py and modules/layers.py, EmbedND.
    """
    return AxialRope((16, 56, 56))(joint_coordinates(words, height, width, text="origin"))


def diffusers_flux(words: int, height: int, width: int) -> PublicRotation:
    """Return diffusers' rotation of the same sentence, from the places that its FLUX pipeline gives words and patches.

    Source: diffusers, models/transformers/transformer_flux.py, FluxPosEmbed and FluxAttnProcessor;
    pipelines/flux/pipeline_flux.py, encode_prompt and _prepare_latent_image_ids.
    """
    from diffusers.models.transformers.transformer_flux import FluxPosEmbed, apply_rotary_emb

    apply: Any = apply_rotary_emb
    places = [(0, 0, 0)] * words + [(0, row, column) for row in range(height) for column in range(width)]
    cos, sin = FluxPosEmbed(theta=10000, axes_dim=[16, 56, 56])(torch.tensor(places))

    def turn(x: Tensor) -> Tensor:
        return apply(x.transpose(1, 2), (cos, sin), sequence_dim=1).transpose(1, 2)

    return PublicRotation(cos[:, ::2], sin[:, ::2], turn)


def qwen_rotation(words: int, height: int, width: int) -> Rotation:
    """Return the rotation of Qwen-Image: FLUX.1's channels, the picture counted from its middle, words on the diagonal.

    Source: Qwen-Image (arXiv 2508.02324, §2.4, MSRoPE).
    """
    return AxialRope((16, 56, 56))(joint_coordinates(words, height, width, text="diagonal"))


def diffusers_qwen(words: int, height: int, width: int) -> PublicRotation:
    """Return diffusers' rotation of the same sentence; words and patches are turned one after the other there.

    Its angles are float32, ours float64: the tables differ by about 1e-7 of the farthest place.
    Source: diffusers, models/transformers/transformer_qwenimage.py, QwenEmbedRope and QwenDoubleStreamAttnProcessor2_0.
    """
    from diffusers.models.transformers.transformer_qwenimage import QwenEmbedRope, apply_rotary_emb_qwen

    apply: Any = apply_rotary_emb_qwen
    embed = QwenEmbedRope(theta=10000, axes_dim=[16, 56, 56], scale_rope=True)
    patches, sentence = embed([[(1, height, width)]], device=torch.device("cpu"), max_txt_seq_len=words)

    def turn(x: Tensor) -> Tensor:
        parts = x.transpose(1, 2).split([words, height * width], dim=1)
        turned = [apply(part, table, use_real=False) for part, table in zip(parts, (sentence, patches), strict=True)]
        return torch.cat(turned, dim=1).transpose(1, 2)

    both = torch.cat([sentence, patches])
    return PublicRotation(both.real, both.imag, turn)


def lumina_rotation(words: int, height: int, width: int) -> Rotation:
    """Return the rotation of Lumina-Image 2.0: 32 channels an axis, words counted by the frame, the picture after them.

    Source: Alpha-VLLM/Lumina-Image-2.0, models/model.py.
    """
    return AxialRope((32, 32, 32))(joint_coordinates(words, height, width, text="continued"))


def diffusers_lumina(words: int, height: int, width: int) -> PublicRotation:
    """Return diffusers' rotation of the same sentence, the shorter of two that are padded to one length.

    Source: diffusers, models/transformers/transformer_lumina2.py, Lumina2RotaryPosEmbed and Lumina2AttnProcessor2_0.
    """
    from diffusers.models.transformers.transformer_lumina2 import Lumina2RotaryPosEmbed, apply_rotary_emb

    apply: Any = apply_rotary_emb
    embed = Lumina2RotaryPosEmbed(theta=10000, axes_dim=[32, 32, 32])
    heard = torch.arange(words + 2) < torch.tensor([[words], [words + 2]])
    table = embed(torch.zeros(2, 1, 2 * height, 2 * width), heard)[3][:1, : words + height * width]

    def turn(x: Tensor) -> Tensor:
        return apply(x.transpose(1, 2), table, use_real=False).transpose(1, 2)

    return PublicRotation(table[0].real, table[0].imag, turn)


def cogview_rotation(words: int, height: int, width: int, reference: int = 256) -> Rotation:
    """Return the rotation of CogView4: every picture is stretched to `reference` rows and columns, pairs half-split.

    Its words have no rotation, which is the one of the origin.
    Source: diffusers, models/transformers/transformer_cogview4.py.
    """
    places = grid_coordinates(height, width).long() * reference // torch.tensor([height, width])
    return AxialRope((20, 20), pairing="half-split")(F.pad(places, (0, 0, words, 0)))


def diffusers_cogview(words: int, height: int, width: int, reference: int = 256) -> PublicRotation:
    """Return diffusers' rotation of the same sentence, in which the patches alone are turned.

    Its angles are float32, ours float64: as they go up to 255, the turned numbers differ by about 1e-5.
    Source: diffusers, models/transformers/transformer_cogview4.py, CogView4RotaryPosEmbed and CogView4AttnProcessor.
    """
    from diffusers.models.embeddings import apply_rotary_emb
    from diffusers.models.transformers.transformer_cogview4 import CogView4RotaryPosEmbed

    apply: Any = apply_rotary_emb
    embed = CogView4RotaryPosEmbed(dim=40, patch_size=2, rope_axes_dim=(reference, reference))
    cos, sin = embed(torch.zeros(1, 1, 2 * height, 2 * width))

    def turn(x: Tensor) -> Tensor:
        sentence, patches = x.split([words, height * width], dim=2)
        return torch.cat([sentence, apply(patches, (cos, sin), use_real_unbind_dim=-2)], dim=2)

    still = (0, 0, words, 0)
    return PublicRotation(F.pad(cos[:, :20], still, value=1.0), F.pad(sin[:, :20], still), turn)


# model → our rotation of a sentence of words and patches, and diffusers'
MODELS: dict[str, tuple[Callable[[int, int, int], Rotation], Callable[[int, int, int], PublicRotation]]] = {
    "FLUX.1": (flux_rotation, diffusers_flux),
    "Qwen-Image": (qwen_rotation, diffusers_qwen),
    "Lumina-Image 2.0": (lumina_rotation, diffusers_lumina),
    "CogView4, grid of 16": (partial(cogview_rotation, reference=16), partial(diffusers_cogview, reference=16)),
}
GRIDS = ((5, 4, 4), (7, 3, 5), (4, 6, 1))  # words, rows and columns


def compare_rope() -> dict[str, float]:
    """Return the largest differences between diffusers' rotations and ours, for each model over all grids.

    First of the tables, the cosine and the sine of every token's angles, then of random queries that both turn.
    CogView4 counts to 16 instead of 256 here: so far its float32 angles are as good as ours.
    Raises ImportError where diffusers is absent.
    """
    found = {}
    for name, (ours, theirs) in MODELS.items():
        pairs = [rope_differences(ours(*grid), theirs(*grid)) for grid in GRIDS]
        found[f"{name}, tables"], found[f"{name}, queries"] = map(max, zip(*pairs, strict=True))
    return found


def rope_differences(ours: Rotation, theirs: PublicRotation, seed: int = 0) -> tuple[float, float]:
    """Return the largest differences of the cosines and sines, and of random queries in three heads, turned by both."""
    x = torch.randn(2, 3, *ours.cos.shape, generator=torch.Generator().manual_seed(seed))
    pairs = slice(ours.cos.shape[-1] // 2) if ours.pairing == "half-split" else slice(None, None, 2)
    tables = ((ours.cos[:, pairs], theirs.cos), (ours.sin[:, pairs], theirs.sin))
    return max(_difference(*two) for two in tables), _difference(ours(x), theirs.turn(x))


def attention_from_llama(state: Mapping[str, Tensor], num_heads: int) -> dict[str, Tensor]:
    """Return the weights of transformers' LlamaAttention under the names of our SelfAttention of so many heads.

    Queries and keys go over to the interleaved pairing, values do not: they are not turned. Where it has no biases, our
    last layer's is zero and the first one is built with bias=False. Raises ValueError for missing and unknown keys, and
    for fewer heads of keys than of queries, which ours has not.
    Source: transformers, models/llama/modeling_llama.py.
    """
    who = "attention_from_llama"
    kinds = ("weight", "bias") if "q_proj.bias" in state else ("weight",)
    weights = [Weight(f"proj.{kind}", (f"o_proj.{kind}",)) for kind in kinds]
    weights += [Weight(f"qkv.{kind}", tuple(f"{one}_proj.{kind}" for one in "qkv")) for kind in kinds]
    turned = {
        name: pairs_from_halves(tensor, num_heads) if name.startswith(("q_proj", "k_proj")) else tensor
        for name, tensor in state.items()
    }
    moved = to_ours(who, weights, turned)
    queries, keys = len(state["q_proj.weight"]), len(state["k_proj.weight"])
    if queries != keys:
        raise ValueError(
            f"{who}: {keys} channels of keys beside {queries} of queries; there several heads of queries share a head "
            "of keys, ours has one for each"
        )
    return {"proj.bias": torch.zeros(len(moved["proj.weight"])), **moved}


def build_llama_attention(width: int, num_heads: int, bias: bool = False, longest: int = 64, **rope: Any) -> Any:
    """Return transformers' LlamaAttention and LlamaRotaryEmbedding, freshly initialised.

    longest: the number of tokens of the training (max_position_embeddings). rope: of its rope_parameters, beside
    rope_theta, here 10000. The attention writes its product out and, called without a mask, has none.
    Raises ImportError where transformers is absent.
    """
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

    options: dict[str, Any] = {
        "hidden_size": width,
        "num_attention_heads": num_heads,
        "attention_bias": bias,
        "max_position_embeddings": longest,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **rope},
        "attn_implementation": "eager",
    }
    config = LlamaConfig(**options)
    return LlamaAttention(config, layer_idx=0), LlamaRotaryEmbedding(config)


# rule → transformers' parameters, how many times longer than the training the sentence of 12 is, and whether ours is
# told so (NTK-aware: the base changes) or gets places squeezed by as much (position interpolation)
LLAMA_RULES: dict[str, tuple[dict[str, Any], float, bool]] = {
    "as trained": ({}, 1.0, True),
    "interpolated": ({"rope_type": "linear", "factor": 3.0}, 3.0, False),
    "NTK-aware": ({"rope_type": "dynamic", "factor": 1.0}, 3.0, True),
}


def compare_rope_llama() -> dict[str, float]:
    """Return the largest differences between transformers' Llama and ours: rotations, and a layer with its weights.

    Of the rotations in one dimension, half-split there and here, the tables and random queries for each rule; of the
    layer, interleaved here after conversion, the attention and the output. Raises ImportError where transformers is
    absent.
    """
    found = {}
    for rule in LLAMA_RULES:
        found[f"{rule}, tables"], found[f"{rule}, queries"] = rope_differences(*llama_rotations(rule))
    found["converted layer, attention"], found["converted layer, output"] = llama_differences()
    return found


def llama_rotations(rule: str = "as trained", head_size: int = 16, tokens: int = 12) -> tuple[Rotation, PublicRotation]:
    """Return our half-split rotation of a sentence, and that of transformers' Llama by one of LLAMA_RULES."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    parameters, longer, told = LLAMA_RULES[rule]
    _, embed = build_llama_attention(2 * head_size, 2, longest=int(tokens / longer), **parameters)
    places = torch.arange(tokens)
    cos, sin = embed(torch.zeros(1), places[None])
    rope = AxialRope((head_size,), pairing="half-split")
    ours = rope(places[:, None], longer) if told else rope(places[:, None] / longer)

    def turn(x: Tensor) -> Tensor:
        return apply_rotary_pos_emb(x, x, cos, sin)[0]

    return ours, PublicRotation(cos[0, :, : head_size // 2], sin[0, :, : head_size // 2], turn)


def llama_differences(
    width: int = 48, num_heads: int = 3, bias: bool = True, tokens: int = 12, seed: int = 0
) -> tuple[float, float]:  # fmt: skip
    """Return the largest differences of who asks whom, and of the output, between a LlamaAttention and ours.

    Theirs has random weights and turns half-split pairs, ours the converted weights and turns neighbouring channels; in
    float32, for two sentences without a mask.
    """
    generator = torch.Generator().manual_seed(seed)
    theirs, embed = build_llama_attention(width, num_heads, bias)
    randomise(theirs, generator).eval()
    ours = SelfAttention(width, num_heads, bias)
    ours.load_state_dict(attention_from_llama(theirs.state_dict(), num_heads))
    x, places = torch.randn(2, tokens, width, generator=generator), torch.arange(tokens)
    rotate = AxialRope((width // num_heads,))(places[:, None])
    with torch.no_grad():
        output, attention = theirs(x, embed(x, places[None]))
        return _difference(ours.map(x, rotate), attention), _difference(ours(x, rotate), output)


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())
