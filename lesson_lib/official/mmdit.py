"""Our MMDiT and the public ones: diffusers' SD3, FLUX.1 and Qwen-Image, and the files of Stability AI and of BFL.

Their names as tables, and how far diffusers' outputs are from ours; then the transformers of one stream, Z-Image and
Lumina-Image 2.0. The two reference repositories are no packages: their layouts are read and written here; what they
compute is compared through diffusers, which was made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from lesson_lib.attention import Words
from lesson_lib.mmdit import MMDiT, MMDiTConfig, SingleStreamConfig, SingleStreamDiT
from lesson_lib.official.unet import Weight, check_names, randomise
from lesson_lib.official.vit import check_shapes

Config = MMDiTConfig | SingleStreamConfig
Change = Callable[[Tensor], Tensor]
Names = dict[str, str]


def unchanged(tensor: Tensor) -> Tensor:
    """Return the tensor itself."""
    return tensor


def swapped(tensor: Tensor) -> Tensor:
    """Return the two halves of the rows in the other order: shift and scale, scale and shift."""
    return torch.cat(tensor.chunk(2)[::-1])


@dataclass(frozen=True)
class Moved(Weight):
    """A Weight whose numbers stand in another order there, or whose parts there are not of one size.

    there, here: from our order to theirs, and back. sizes: the rows of each of their tensors; none for equal parts.
    """

    there: Change = unchanged
    here: Change = unchanged
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Layout:
    """How a public transformer names and orders what our MMDiT, or our SingleStreamDiT, holds.

    owner: its name in errors. names: our layer → theirs, several with spaces between where it is cut into several; {}
    is a block's number. patches: how they enter, through a "convolution", or through a linear layer whose columns are
    ordered (channel, row, column), "channels first", as the last layer's rows are then, or (row, column, channel),
    "channels last". scale_first: of a modulation that makes no more than a shift and a scale. needs: what our
    configuration must say. prefix: of its names in a released file. unused: tensors of one row that ours has not.
    """

    owner: str
    names: Names
    patches: str = "convolution"
    scale_first: bool = False
    needs: dict[str, Any] = field(default_factory=dict)
    prefix: str = ""
    unused: tuple[str, ...] = ()


# --- the tables: our layer, and theirs ------------------------------------------------------------------------------


def in_blocks(ours: str, theirs: str, names: Names) -> Names:
    """Return names of layers inside a block as names inside every block of a list, with {} for its number."""
    return {f"{ours}.{{}}.{a}": " ".join(f"{theirs}.{{}}.{one}" for one in b.split()) for a, b in names.items()}


def in_streams(image: str, text: str, names: Names) -> Names:
    """Return names of layers inside a stream as names inside both; image, text: what they begin with there."""
    return {
        f"{ours}.{a}": f"{theirs}{b}" for ours, theirs in (("image", image), ("text", text)) for a, b in names.items()
    }


def unnamed(*names: str) -> Names:
    """Return names that are the same there."""
    return dict(zip(names, names, strict=True))


# in all three of diffusers' networks
_ENDS = {
    "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
_ATTENTION = {
    "image.attn.qkv": "attn.to_q attn.to_k attn.to_v",
    "image.attn.norm.query": "attn.norm_q",
    "image.attn.norm.key": "attn.norm_k",
    "image.attn.proj": "attn.to_out.0",
    "text.attn.qkv": "attn.add_q_proj attn.add_k_proj attn.add_v_proj",
    "text.attn.norm.query": "attn.norm_added_q",
    "text.attn.norm.key": "attn.norm_added_k",
    "text.attn.proj": "attn.to_add_out",
}
# in its SD3 and FLUX
_POOLED = {
    "y_embedder.0": "time_text_embed.text_embedder.linear_1",
    "y_embedder.2": "time_text_embed.text_embedder.linear_2",
    "context_embedder": "context_embedder",
}
_STREAMS = _ATTENTION | {
    "image.adaLN_modulation.1": "norm1.linear",
    "image.mlp.fc1": "ff.net.0.proj",
    "image.mlp.fc2": "ff.net.2",
    "text.adaLN_modulation.1": "norm1_context.linear",
    "text.mlp.fc1": "ff_context.net.0.proj",
    "text.mlp.fc2": "ff_context.net.2",
}

_SD3_IMAGE = {
    "image.attn2.qkv": "attn2.to_q attn2.to_k attn2.to_v",
    "image.attn2.norm.query": "attn2.norm_q",
    "image.attn2.norm.key": "attn2.norm_k",
    "image.attn2.proj": "attn2.to_out.0",
}
_FLUX_SINGLE = {
    "adaLN_modulation.1": "norm.linear",
    "linear1": "attn.to_q attn.to_k attn.to_v proj_mlp",
    "norm.query": "attn.norm_q",
    "norm.key": "attn.norm_k",
    "linear2": "proj_out",
}
_QWEN_STREAM = {"adaLN_modulation.1": "_mod.1", "mlp.fc1": "_mlp.net.0.proj", "mlp.fc2": "_mlp.net.2"}

_ALL_NEED = {"shared": (), "mlp_ratio": 4.0}
_SD3_NEEDS = _ALL_NEED | {
    "places": "sin-cos",
    "single": 0,
    "last_text": False,
    "guidance": False,
    "context_norm": False,
}
_ROTATED = _ALL_NEED | {"rope_base": 10_000.0, "qk_norm": True, "dual": 0}
_FLUX_NEEDS = _ROTATED | {"places": "origin", "context_norm": False}
_QWEN_NEEDS = _ROTATED | {"places": "diagonal", "context_norm": True, "single": 0, "last_text": True, "pooled_size": 0}

DIFFUSERS_SD3 = Layout(
    "diffusers' SD3",
    {"pos_embed": "pos_embed.pos_embed", "x_embedder.proj": "pos_embed.proj"}
    | _ENDS
    | _POOLED
    | in_blocks("double_blocks", "transformer_blocks", _STREAMS | _SD3_IMAGE),
    scale_first=True,
    needs=_SD3_NEEDS,
)
DIFFUSERS_FLUX = Layout(
    "diffusers' FLUX",
    {
        "x_embedder.proj": "x_embedder",
        "guidance_embedder.mlp.0": "time_text_embed.guidance_embedder.linear_1",
        "guidance_embedder.mlp.2": "time_text_embed.guidance_embedder.linear_2",
    }
    | _ENDS
    | _POOLED
    | in_blocks("double_blocks", "transformer_blocks", _STREAMS)
    | in_blocks("single_blocks", "single_transformer_blocks", _FLUX_SINGLE),
    patches="channels first",
    scale_first=True,
    needs=_FLUX_NEEDS,
)
DIFFUSERS_QWEN = Layout(
    "diffusers' Qwen-Image",
    {"x_embedder.proj": "img_in", "context_norm": "txt_norm", "context_embedder": "txt_in"}
    | _ENDS
    | in_blocks("double_blocks", "transformer_blocks", _ATTENTION | in_streams("img", "txt", _QWEN_STREAM)),
    patches="channels first",
    scale_first=True,
    needs=_QWEN_NEEDS | {"guidance": False},
)

# the reference repositories, whose layers are ours
_STABILITY_ATTENTION = {"qkv": "qkv", "norm.query": "ln_q", "norm.key": "ln_k", "proj": "proj"}
_STABILITY_STREAM = unnamed("adaLN_modulation.1", "mlp.fc1", "mlp.fc2")
for _attention in ("attn", "attn2"):
    _STABILITY_STREAM |= {f"{_attention}.{a}": f"{_attention}.{b}" for a, b in _STABILITY_ATTENTION.items()}

STABILITY = Layout(
    "Stability-AI/sd3.5",
    unnamed("pos_embed", "x_embedder.proj", "t_embedder.mlp.0", "t_embedder.mlp.2", "context_embedder")
    | unnamed("final_layer.adaLN_modulation.1", "final_layer.linear")
    | {"y_embedder.0": "y_embedder.mlp.0", "y_embedder.2": "y_embedder.mlp.2"}
    | in_blocks("double_blocks", "joint_blocks", in_streams("x_block.", "context_block.", _STABILITY_STREAM)),
    needs=_SD3_NEEDS,
    prefix="model.diffusion_model.",
)
_BFL_STREAM = {
    "adaLN_modulation.1": "mod.lin",
    "attn.qkv": "attn.qkv",
    "attn.norm.query.weight": "attn.norm.query_norm.scale",
    "attn.norm.key.weight": "attn.norm.key_norm.scale",
    "attn.proj": "attn.proj",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}
_BFL_SINGLE = {
    "adaLN_modulation.1": "modulation.lin",
    "linear1": "linear1",
    "norm.query.weight": "norm.query_norm.scale",
    "norm.key.weight": "norm.key_norm.scale",
    "linear2": "linear2",
}
BFL = Layout(
    "black-forest-labs/flux",
    {
        "x_embedder.proj": "img_in",
        "context_embedder": "txt_in",
        "t_embedder.mlp.0": "time_in.in_layer",
        "t_embedder.mlp.2": "time_in.out_layer",
        "y_embedder.0": "vector_in.in_layer",
        "y_embedder.2": "vector_in.out_layer",
        "guidance_embedder.mlp.0": "guidance_in.in_layer",
        "guidance_embedder.mlp.2": "guidance_in.out_layer",
    }
    | unnamed("final_layer.adaLN_modulation.1", "final_layer.linear")
    | in_blocks("double_blocks", "double_blocks", in_streams("img_", "txt_", _BFL_STREAM))
    | in_blocks("single_blocks", "single_blocks", _BFL_SINGLE),
    patches="channels first",
    needs=_FLUX_NEEDS,
    prefix="model.diffusion_model.",
)

# one stream
_Z_BLOCK = {
    "q": "attention.to_q",
    "kv": "attention.to_k attention.to_v",
    "proj": "attention.to_out.0",
    "norm.query": "attention.norm_q",
    "norm.key": "attention.norm_k",
    "mlp.w1": "feed_forward.w1",
    "mlp.w2": "feed_forward.w2",
    "mlp.w3": "feed_forward.w3",
    "norm1": "attention_norm1",
    "norm1_after": "attention_norm2",
    "norm2": "ffn_norm1",
    "norm2_after": "ffn_norm2",
    "adaLN_modulation": "adaLN_modulation.0",
}
_LUMINA_BLOCK = {
    **{a: b.replace("attention.", "attn.").replace("forward.w", "forward.linear_") for a, b in _Z_BLOCK.items()},
    "norm1": "norm1.norm",
    "norm1_after": "norm2",
    "adaLN_modulation": "norm1.linear",
}
Z_IMAGE = Layout(
    "diffusers' Z-Image",
    {
        "x_embedder.proj": "all_x_embedder.2-1",
        "t_embedder.0": "t_embedder.mlp.0",
        "t_embedder.2": "t_embedder.mlp.2",
        "context_norm": "cap_embedder.0",
        "context_embedder": "cap_embedder.1",
        "final_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
        "final_linear": "all_final_layer.2-1.linear",
    }
    | in_blocks("context_refiner", "context_refiner", _Z_BLOCK)
    | in_blocks("noise_refiner", "noise_refiner", _Z_BLOCK)
    | in_blocks("blocks", "layers", _Z_BLOCK),
    patches="channels last",
    needs={"silu": False, "time_width": 1024, "patch_size": 2},
    unused=("x_pad_token", "cap_pad_token"),
)
LUMINA = Layout(
    "diffusers' Lumina-Image 2.0",
    {
        "x_embedder.proj": "x_embedder",
        "t_embedder.0": "time_caption_embed.timestep_embedder.linear_1",
        "t_embedder.2": "time_caption_embed.timestep_embedder.linear_2",
        "context_norm": "time_caption_embed.caption_embedder.0",
        "context_embedder": "time_caption_embed.caption_embedder.1",
        "final_modulation.1": "norm_out.linear_1",
        "final_linear": "norm_out.linear_2",
    }
    | in_blocks("context_refiner", "context_refiner", _LUMINA_BLOCK | {"norm1": "norm1"})
    | in_blocks("noise_refiner", "noise_refiner", _LUMINA_BLOCK)
    | in_blocks("blocks", "layers", _LUMINA_BLOCK),
    patches="channels last",
    needs={"silu": True, "rope_base": 10_000.0},
)


# --- the converters -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def mmdit_shapes(config: Config) -> Mapping[str, torch.Size]:
    """Return the shape of every tensor of our MMDiT(config) or SingleStreamDiT(config)."""
    with torch.device("meta"):
        model = MMDiT(config) if isinstance(config, MMDiTConfig) else SingleStreamDiT(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def mmdit_weights(config: Config, layout: Layout) -> list[Moved]:
    """Return every tensor of our network with its names here and in a public layout, and how its numbers are moved."""
    found = []
    for name, shape in mmdit_shapes(config).items():
        above, _, kind = name.rpartition(".")
        (whole, number), (layer, _) = _pattern(name), _pattern(above)
        if whole in layout.names:
            theirs = [layout.names[whole]]
        else:
            theirs = [f"{one}.{kind}" for one in layout.names[layer].split()]
        weight = Moved(name, tuple(one.format(number) for one in theirs))
        if layout.scale_first and above.endswith("adaLN_modulation.1") and shape[0] == 2 * config.hidden_size:
            weight = replace(weight, there=swapped, here=swapped)
        elif name == "x_embedder.proj.weight" or above == "final_layer.linear":
            there, here = _patches(config, layout.patches, above)
            weight = replace(weight, there=there, here=here)
        elif len(theirs) == 4:
            width = config.hidden_size
            weight = replace(weight, sizes=(width, width, width, shape[0] - 3 * width))
        found.append(weight)
    return found


def _pattern(name: str) -> tuple[str, str]:
    """Return a name with {} in place of the number of its block, and that number."""
    blocks, *rest = name.split(".")
    if not rest or not blocks.endswith(("blocks", "refiner")):
        return name, ""
    return ".".join((blocks, "{}", *rest[1:])), rest[0]


def _patches(config: Config, kind: str, layer: str) -> tuple[Change, Change]:
    """Return the changes, there and back, of the layer that reads patches, or of the one that writes them."""
    square, channels = (config.patch_size, config.patch_size), config.in_channels
    if kind == "channels first" and layer == "final_layer.linear":  # rows are (row, column, channel) here
        return (
            lambda tensor: tensor.unflatten(0, (*square, channels)).movedim(2, 0).flatten(0, 2),
            lambda tensor: tensor.unflatten(0, (channels, *square)).movedim(0, 2).flatten(0, 2),
        )
    if kind == "channels first":
        return lambda tensor: tensor.flatten(1), lambda tensor: tensor.unflatten(1, (channels, *square))
    if kind == "channels last" and layer == "x_embedder.proj":
        return (
            lambda tensor: tensor.movedim(1, 3).flatten(1),
            lambda tensor: tensor.unflatten(1, (*square, channels)).movedim(3, 1),
        )
    return unchanged, unchanged


def _there(weights: list[Moved], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    moved: dict[str, Tensor] = {}
    for weight in weights:
        tensor, count = weight.there(state[weight.ours]), len(weight.theirs)
        parts = tensor.split(weight.sizes or len(tensor) // count)
        moved.update({name: part.clone() for name, part in zip(weight.theirs, parts, strict=True)})
    return moved


def _to(who: str, layout: Layout, state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    _check_expressible(who, layout, config)
    shapes = mmdit_shapes(config)
    check_shapes(who, state, shapes)
    check_names(who, set(shapes), set(state))
    blank = state["x_embedder.proj.bias"].new_zeros(1, config.hidden_size)
    return _there(mmdit_weights(config, layout), state) | {name: blank.clone() for name in layout.unused}


def _from(who: str, layout: Layout, state: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    _check_expressible(who, layout, config)
    if prefixed := [name for name in state if layout.prefix and name.startswith(layout.prefix)]:
        state = {name.removeprefix(layout.prefix): state[name] for name in prefixed}
    state = {name: tensor for name, tensor in state.items() if name not in layout.unused}
    weights = mmdit_weights(config, layout)
    blank = {name: torch.empty(shape, device="meta") for name, shape in mmdit_shapes(config).items()}
    shapes = {name: tensor.shape for name, tensor in _there(weights, blank).items()}
    check_shapes(who, state, shapes)
    check_names(who, set(shapes), set(state))
    moved = {weight.ours: weight.here(torch.cat([state[name] for name in weight.theirs])) for weight in weights}
    return {name: tensor.contiguous() for name, tensor in moved.items()}


def _check_expressible(who: str, layout: Layout, config: Config) -> None:
    complaint = None
    for name, needed in layout.needs.items():
        value = getattr(config, name)
        if value != needed:
            complaint = complaint or f"{name} {value!r} (it is {needed!r} there)"
    if isinstance(config, MMDiTConfig) and not complaint:
        if not config.pooled_size and "pooled_size" not in layout.needs:
            complaint = "a network without a pooled text"
        elif config.places != "sin-cos" and len(config.axes) != 3:
            complaint = f"places on {len(config.axes)} axes"
        elif config.places == "origin" and not (config.single or config.last_text):
            complaint = "a last block whose words only answer"
    if complaint:
        raise ValueError(f"{who}: {layout.owner} has no way to express {complaint}")


def sd3_to_diffusers(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of our MMDiT(config) under the names of diffusers' SD3Transformer2DModel.

    The last modulation, and that of the last block's words, have the scale first there. Raises ValueError for a network
    that is none of SD3's kind and, naming them, for missing and unknown keys and wrong shapes.
    Source: diffusers, models/transformers/transformer_sd3.py; scripts/convert_sd3_to_diffusers.py.
    """
    return _to("sd3_to_diffusers", DIFFUSERS_SD3, state, config)


def sd3_from_diffusers(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of diffusers' SD3Transformer2DModel under the names of our MMDiT(config), with its places.

    Raises ValueError as sd3_to_diffusers does.
    """
    return _from("sd3_from_diffusers", DIFFUSERS_SD3, state, config)


def sd3_to_stability(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of our MMDiT(config) under the names of Stability AI's code for SD3 and SD3.5.

    Only names differ. Raises ValueError as sd3_to_diffusers does. Source: Stability-AI/sd3.5, mmditx.py.
    """
    return _to("sd3_to_stability", STABILITY, state, config)


def sd3_from_stability(checkpoint: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the transformer's weights of a file of Stability AI under the names of our MMDiT(config).

    checkpoint: of the transformer alone, or a released file, in which its names begin with model.diffusion_model and
    the autoencoder and text encoders lie beside it. Raises ValueError as sd3_to_diffusers does.
    """
    return _from("sd3_from_stability", STABILITY, checkpoint, config)


def flux_to_diffusers(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of our MMDiT(config) under the names of diffusers' FluxTransformer2DModel.

    Patches come packed there, channels first, through a linear layer, and leave so; the last modulation has the scale
    first; the single blocks' first layer is cut into four. Raises ValueError as sd3_to_diffusers does.
    Source: diffusers, models/transformers/transformer_flux.py; scripts/convert_flux_to_diffusers.py.
    """
    return _to("flux_to_diffusers", DIFFUSERS_FLUX, state, config)


def flux_from_diffusers(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of diffusers' FluxTransformer2DModel under the names of our MMDiT(config).

    Raises ValueError as sd3_to_diffusers does.
    """
    return _from("flux_from_diffusers", DIFFUSERS_FLUX, state, config)


def flux_to_bfl(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of our MMDiT(config) under the names of Black Forest Labs' code for FLUX.1.

    Patches come packed, channels first, as in diffusers; the layers are ours. Raises ValueError as sd3_to_diffusers
    does. Source: black-forest-labs/flux, model.py and modules/layers.py.
    """
    return _to("flux_to_bfl", BFL, state, config)


def flux_from_bfl(checkpoint: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of a file of Black Forest Labs under the names of our MMDiT(config).

    checkpoint: a released file, or one in which the transformer's names begin with model.diffusion_model. Raises
    ValueError as sd3_to_diffusers does.
    """
    return _from("flux_from_bfl", BFL, checkpoint, config)


def qwen_to_diffusers(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of our MMDiT(config) under the names of diffusers' QwenImageTransformer2DModel.

    Patches and the last modulation are ordered as in diffusers' FLUX. Raises ValueError as sd3_to_diffusers does.
    Source: diffusers, models/transformers/transformer_qwenimage.py, which is the released code.
    """
    return _to("qwen_to_diffusers", DIFFUSERS_QWEN, state, config)


def qwen_from_diffusers(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of diffusers' QwenImageTransformer2DModel under the names of our MMDiT(config).

    Raises ValueError as sd3_to_diffusers does.
    """
    return _from("qwen_from_diffusers", DIFFUSERS_QWEN, state, config)


def single_to_diffusers(state: Mapping[str, Tensor], config: SingleStreamConfig) -> dict[str, Tensor]:
    """Return the weights of our SingleStreamDiT(config) under the names of diffusers' Z-Image or Lumina-Image 2.0.

    config.silu says which: Lumina's blocks hear SiLU of the time. Z-Image's two padding tokens, which ours has not,
    become zeros. Raises ValueError as sd3_to_diffusers does.
    Source: diffusers, models/transformers/transformer_z_image.py and transformer_lumina2.py.
    """
    return _to("single_to_diffusers", LUMINA if config.silu else Z_IMAGE, state, config)


def single_from_diffusers(state: Mapping[str, Tensor], config: SingleStreamConfig) -> dict[str, Tensor]:
    """Return the weights of diffusers' Z-Image or Lumina-Image 2.0 under the names of our SingleStreamDiT(config).

    Z-Image's padding tokens are left behind: there words and patches are filled up to multiples of 32 with them, and
    the network hears them. Raises ValueError as single_to_diffusers does.
    """
    return _from("single_from_diffusers", LUMINA if config.silu else Z_IMAGE, state, config)


# --- diffusers' networks --------------------------------------------------------------------------------------------


def build_diffusers_mmdit(config: MMDiTConfig) -> Any:
    """Return diffusers' SD3, FLUX or Qwen-Image transformer of the same configuration, freshly initialised.

    config.places says which: SD3's patches have a table, FLUX's words stand at the origin, Qwen-Image's on the
    diagonal. Raises ValueError for what it cannot express, ImportError where diffusers is absent.
    """
    from diffusers import FluxTransformer2DModel, QwenImageTransformer2DModel, SD3Transformer2DModel

    layout = {"origin": DIFFUSERS_FLUX, "diagonal": DIFFUSERS_QWEN}.get(config.places, DIFFUSERS_SD3)
    _check_expressible("build_diffusers_mmdit", layout, config)
    shared: dict[str, Any] = {
        "num_layers": config.double,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "num_attention_heads": config.num_heads,
        "joint_attention_dim": config.context_size,
    }
    packed = config.in_channels * config.patch_size**2
    if layout is DIFFUSERS_FLUX:
        return FluxTransformer2DModel(
            **shared,
            in_channels=packed,
            num_single_layers=config.single,
            pooled_projection_dim=config.pooled_size,
            guidance_embeds=config.guidance,
            axes_dims_rope=config.axes,  # type: ignore[arg-type]
        )
    if layout is DIFFUSERS_QWEN:
        return QwenImageTransformer2DModel(
            **shared,
            patch_size=config.patch_size,
            in_channels=packed,
            out_channels=config.in_channels,
            axes_dims_rope=config.axes,  # type: ignore[arg-type]
        )
    return SD3Transformer2DModel(
        **shared,
        sample_size=config.input_size,
        patch_size=config.patch_size,
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        caption_projection_dim=config.hidden_size,
        pooled_projection_dim=config.pooled_size,
        pos_embed_max_size=config.table_size,
        dual_attention_layers=tuple(range(config.dual)),
        qk_norm="rms_norm" if config.qk_norm else None,
    )


def build_diffusers_single(config: SingleStreamConfig) -> Any:
    """Return diffusers' Z-Image or, where blocks hear SiLU of the time, Lumina-Image 2.0, freshly initialised.

    Raises ValueError for what it cannot express, ImportError where diffusers is absent.
    """
    from diffusers import Lumina2Transformer2DModel, ZImageTransformer2DModel

    who, width = "build_diffusers_single", config.hidden_size
    layout, told, wide = (LUMINA, 1024, 4 * width) if config.silu else (Z_IMAGE, 256, int(width / 3 * 8))
    _check_expressible(who, layout, config)
    for name, value in (("condition_size", min(told, width)), ("mlp_width", wide)):
        if getattr(config, name) != value:
            raise ValueError(f"{who}: {layout.owner} has no {name} of {getattr(config, name)} (it is {value} there)")
    if config.silu:
        return Lumina2Transformer2DModel(
            patch_size=config.patch_size,
            in_channels=config.in_channels,
            hidden_size=width,
            num_layers=config.depth,
            num_refiner_layers=config.refiners,
            num_attention_heads=config.num_heads,
            num_kv_heads=config.kv_heads,
            multiple_of=1,
            axes_dim_rope=config.axes,  # type: ignore[arg-type]
            cap_feat_dim=config.context_size,
        )
    return ZImageTransformer2DModel(
        in_channels=config.in_channels,
        dim=width,
        n_layers=config.depth,
        n_refiner_layers=config.refiners,
        n_heads=config.num_heads,
        n_kv_heads=config.kv_heads,
        cap_feat_dim=config.context_size,
        rope_theta=config.rope_base,
        axes_dims=list(config.axes),
    )


# --- the comparisons ------------------------------------------------------------------------------------------------


def pack(x: Tensor, patch_size: int) -> Tensor:
    """Cut pictures (B, C, H, W) into rows of numbers (B, N, C p²), channels first: what FLUX and Qwen-Image are given.

    Source: diffusers, pipelines/flux/pipeline_flux.py, _pack_latents.
    """
    return rearrange(x, "b c (h p1) (w p2) -> b (h w) (c p1 p2)", p1=patch_size, p2=patch_size)


def unpack(tokens: Tensor, patch_size: int, rows: int) -> Tensor:
    """Lay packed patches (B, N, C p²) out again as pictures (B, C, H, W), in so many rows of patches."""
    pattern = "b (h w) (c p1 p2) -> b c (h p1) (w p2)"
    return rearrange(tokens, pattern, h=rows, p1=patch_size, p2=patch_size)


def matching_inputs(
    config: MMDiTConfig, batch: int, generator: torch.Generator, grid: tuple[int, int] = (3, 4), words: int = 7,
    padded: bool = False,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Return random inputs as keyword arguments, for our MMDiT(config) and for what build_diffusers_mmdit returns.

    grid: rows and columns of patches. Times are 1000, 500, 250, … here, 1, ½, ¼, … for FLUX and Qwen-Image, so that
    both have the same without rounding. padded: one word less for each further text (Qwen-Image alone has a mask).
    """
    rows, columns = grid
    x = torch.randn(batch, config.in_channels, *(config.patch_size * side for side in grid), generator=generator)
    t = 1000 / 2.0 ** (torch.arange(batch) % 4)
    sentence = torch.randn(batch, words, config.context_size, generator=generator)
    ours: dict[str, Any] = {"x": x, "t": t, "context": sentence}
    theirs: dict[str, Any] = {"hidden_states": x, "timestep": t, "encoder_hidden_states": sentence}
    if config.pooled_size:
        ours["pooled"] = torch.randn(batch, config.pooled_size, generator=generator)
        theirs["pooled_projections"] = ours["pooled"]
    if config.guidance:
        ours["guidance"] = theirs["guidance"] = 1 + 0.5 * torch.arange(batch)
    if config.places != "sin-cos":
        theirs |= {"hidden_states": pack(x, config.patch_size), "timestep": t / 1000}
    if config.places == "origin":
        theirs["txt_ids"] = torch.zeros(words, 3)
        theirs["img_ids"] = torch.cartesian_prod(torch.zeros(1), torch.arange(rows) + 0.0, torch.arange(columns) + 0.0)
    if config.places == "diagonal":
        mask = torch.arange(words) < words - torch.arange(batch)[:, None] if padded else torch.ones(batch, words).bool()
        ours["context"] = Words(sentence, mask) if padded else sentence
        theirs |= {"encoder_hidden_states_mask": mask, "img_shapes": [[(1, rows, columns)]] * batch}
    return ours, theirs


_TINY = MMDiTConfig(16, 2, 4, hidden_size=32, num_heads=2, double=3, context_size=24, pooled_size=20, table_size=12)
_TINY_FLUX = replace(_TINY, double=2, single=2, places="origin", axes=(4, 6, 6), guidance=True)
_TINY_QWEN = replace(_TINY, pooled_size=0, last_text=True, places="diagonal", axes=(4, 6, 6), context_norm=True)

SD3_LAYOUTS: dict[str, MMDiTConfig] = {
    "SD3": replace(_TINY, qk_norm=False),
    "SD3.5, QK-norm": replace(_TINY, hidden_size=48, num_heads=3, double=2),
    "SD3.5-medium, second attention": replace(_TINY, dual=2),
}
FLUX_LAYOUTS: dict[str, MMDiTConfig] = {
    "FLUX.1-dev": _TINY_FLUX,
    "FLUX.1-schnell, no guidance": replace(_TINY_FLUX, guidance=False, double=1, single=3),
    "pixels, patches of 4": replace(_TINY_FLUX, in_channels=3, patch_size=4, hidden_size=64, num_heads=4),
}
QWEN_LAYOUTS: dict[str, MMDiTConfig] = {
    "all words": _TINY_QWEN,
    "one head, patches of 1": replace(_TINY_QWEN, double=1, patch_size=1, num_heads=1, axes=(8, 12, 12)),
}
_TINY_SINGLE = SingleStreamConfig(2, 4, 48, 2, 1, 3, 3, 128, 24, 48, 1024, axes=(4, 6, 6))
SINGLE_LAYOUTS: dict[str, SingleStreamConfig] = {
    "Z-Image": _TINY_SINGLE,
    "Lumina-Image 2.0": replace(_TINY_SINGLE, kv_heads=1, mlp_width=192, time_width=48, silu=True, rope_base=10_000.0),
}


def compare_sd3() -> dict[str, float]:
    """Return the largest difference of an output number between diffusers' SD3 and ours, for each tiny layout.

    Every tensor is random, the table of places too; pictures are not square; outputs are of order 1. Raises ImportError
    where diffusers is absent.
    """
    return {name: mmdit_difference(config) for name, config in SD3_LAYOUTS.items()}


def compare_flux() -> dict[str, float]:
    """Return the largest difference of an output number between diffusers' FLUX and ours, as compare_sd3 does."""
    return {name: mmdit_difference(config) for name, config in FLUX_LAYOUTS.items()}


def compare_qwen() -> dict[str, float]:
    """Return the largest difference of an output number between diffusers' Qwen-Image and ours, as compare_sd3 does."""
    found = {name: mmdit_difference(config) for name, config in QWEN_LAYOUTS.items()}
    return {**found, "padded words": mmdit_difference(_TINY_QWEN, padded=True)}


def compare_single_stream() -> dict[str, float]:
    """Return the largest difference of an output number between diffusers' Z-Image and Lumina-Image 2.0 and ours.

    As compare_sd3 does; for 32 words and 32 patches, which Z-Image does not fill up.
    """
    return {name: single_difference(config) for name, config in SINGLE_LAYOUTS.items()}


def from_diffusers(state: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Return the weights of what build_diffusers_mmdit returns under the names of our MMDiT(config)."""
    convert = {"origin": flux_from_diffusers, "diagonal": qwen_from_diffusers}.get(config.places, sd3_from_diffusers)
    return convert(state, config)


def mmdit_difference(
    config: MMDiTConfig, padded: bool = False, grid: tuple[int, int] = (3, 4), seed: int = 0
) -> float:  # fmt: skip
    """Return the largest difference of the outputs of diffusers' network with random weights and of ours with the same.

    In float32, for two pictures; grid and padded as in matching_inputs.
    """
    ours, theirs = mmdit_outputs(config, padded, grid, seed)
    return float((ours - theirs).abs().max())


def mmdit_outputs(
    config: MMDiTConfig, padded: bool = False, grid: tuple[int, int] = (3, 4), seed: int = 0
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the pictures (2, C, H, W) that our MMDiT and diffusers' make of the same with the same random weights."""
    generator = torch.Generator().manual_seed(seed)
    theirs = randomise(build_diffusers_mmdit(config), generator).eval()
    if config.places == "sin-cos":
        theirs.pos_embed.pos_embed.normal_(generator=generator)
    ours = MMDiT(config).eval()
    ours.load_state_dict(from_diffusers(theirs.state_dict(), config))
    our_inputs, their_inputs = matching_inputs(config, 2, generator, grid, padded=padded)
    with torch.no_grad():
        found = theirs(**their_inputs).sample
        if config.places != "sin-cos":
            found = unpack(found, config.patch_size, grid[0])
        return ours(**our_inputs), found


def single_difference(config: SingleStreamConfig, seed: int = 0) -> float:
    """Return the largest difference of the outputs of diffusers' network of one stream and of ours, as above.

    For two pictures of 4 by 8 patches and 32 words.
    """
    ours, theirs = single_outputs(config, seed)
    return float((ours - theirs).abs().max())


def single_outputs(config: SingleStreamConfig, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return the pictures (2, C, H, W) that our SingleStreamDiT and diffusers' network make of the same.

    Z-Image is given lists of pictures and texts, and times from 0 to 1; Lumina-Image 2.0 the times as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    theirs = randomise(build_diffusers_single(config), generator).eval()
    ours = SingleStreamDiT(config).eval()
    ours.load_state_dict(single_from_diffusers(theirs.state_dict(), config))
    x = torch.randn(2, config.in_channels, *(config.patch_size * side for side in (4, 8)), generator=generator)
    words = torch.randn(2, 32, config.context_size, generator=generator)
    t = torch.tensor([500.0, 250.0])
    with torch.no_grad():
        if config.silu:
            found = theirs(x, t, words, torch.ones(2, 32).bool()).sample
        else:
            found = torch.stack([one[:, 0] for one in theirs(list(x[:, :, None]), t / 1000, list(words)).sample])
        return ours(x, t, context=words), found
