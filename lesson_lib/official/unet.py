"""Our U-Net and diffusers': the weights of one under the other's names, and how far their outputs differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lesson_lib.embed import sinusoidal
from lesson_lib.official.embeddings import THEIR_NAMES
from lesson_lib.unet import AttentionBlock, ResBlock, SpatialTransformer, Stage, TransformerBlock, UNet, UNetConfig

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Weight:
    """One of our tensors and what holds the same numbers there: one tensor, or several whose rows follow each other.

    pointwise: there it may belong to a 1×1 convolution; then its shape is (out, in, 1, 1) instead of (out, in).
    """

    ours: str
    theirs: tuple[str, ...]
    pointwise: bool = False


def layer(module: nn.Module, ours: str, *theirs: str, pointwise: bool = False) -> Iterator[Weight]:
    """Yield the tensors of one of our layers, which goes there by one name, or is cut into several layers."""
    for name, _ in module.named_parameters():
        yield Weight(f"{ours}.{name}", tuple(f"{one}.{name}" for one in theirs), pointwise and name == "weight")


def res_block(block: ResBlock, ours: str, theirs: str) -> Iterator[Weight]:
    """Yield the tensors of a residual block: diffusers' ResnetBlock2D."""
    yield from layer(block.norm1, f"{ours}.norm1", f"{theirs}.norm1")
    yield from layer(block.conv1, f"{ours}.conv1", f"{theirs}.conv1")
    if isinstance(block.norm2, nn.GroupNorm):
        yield from layer(block.norm2, f"{ours}.norm2", f"{theirs}.norm2")
    else:
        yield from layer(block.norm2.project, f"{ours}.norm2.project", f"{theirs}.time_emb_proj")
        yield from layer(block.norm2.norm, f"{ours}.norm2.norm", f"{theirs}.norm2")
    yield from layer(block.conv2, f"{ours}.conv2", f"{theirs}.conv2")
    yield from layer(block.shortcut, f"{ours}.shortcut", f"{theirs}.conv_shortcut")


def attention_block(block: AttentionBlock, ours: str, theirs: str) -> Iterator[Weight]:
    """Yield the tensors of attention over pixels: diffusers' Attention, in which q, k and v are three layers."""
    yield from layer(block.norm, f"{ours}.norm", f"{theirs}.group_norm")
    yield from _attention(block.attention, f"{ours}.attention", theirs)


def _attention(attention: nn.Module, ours: str, theirs: str) -> Iterator[Weight]:
    names = {"qkv": ("to_q", "to_k", "to_v"), "q": ("to_q",), "kv": ("to_k", "to_v"), "proj": ("to_out.0",)}
    for name, part in attention.named_children():
        yield from layer(part, f"{ours}.{name}", *(f"{theirs}.{one}" for one in names[name]))


def _spatial_transformer(block: SpatialTransformer, ours: str, theirs: str) -> Iterator[Weight]:
    yield from layer(block.norm, f"{ours}.norm", f"{theirs}.norm")
    yield from layer(block.enter, f"{ours}.enter", f"{theirs}.proj_in", pointwise=True)
    for i, inner in enumerate(block.blocks):
        assert isinstance(inner, TransformerBlock)
        here, there = f"{ours}.blocks.{i}", f"{theirs}.transformer_blocks.{i}"
        for name in ("norm1", "norm2", "norm3"):
            yield from layer(inner.get_submodule(name), f"{here}.{name}", f"{there}.{name}")
        yield from _attention(inner.self_attention, f"{here}.self_attention", f"{there}.attn1")
        yield from _attention(inner.cross_attention, f"{here}.cross_attention", f"{there}.attn2")
        yield from layer(inner.feed_forward.enter, f"{here}.feed_forward.enter", f"{there}.ff.net.0.proj")
        yield from layer(inner.feed_forward.leave, f"{here}.feed_forward.leave", f"{there}.ff.net.2")
    yield from layer(block.leave, f"{ours}.leave", f"{theirs}.proj_out", pointwise=True)


def _stage(stage: Stage, ours: str, theirs: str, number: int) -> Iterator[Weight]:
    yield from res_block(stage.block, f"{ours}.block", f"{theirs}.resnets.{number}")
    here, there = f"{ours}.attention", f"{theirs}.attentions.{number}"
    if isinstance(stage.attention, SpatialTransformer):
        yield from _spatial_transformer(stage.attention, here, there)
    elif isinstance(stage.attention, AttentionBlock):
        yield from attention_block(stage.attention, here, there)


def path(modules: Iterable[nn.Module], ours: str, theirs: str, resamplers: str) -> Iterator[Weight]:
    """Yield the tensors of a way down or up: here one list, there levels with lists of blocks and of resamplers."""
    level = number = 0
    for i, module in enumerate(modules):
        here, there = f"{ours}.{i}", f"{theirs}.{level}"
        if isinstance(module, Stage):
            yield from _stage(module, here, there, number)
            number += 1
        elif isinstance(module, ResBlock):
            yield from res_block(module, here, f"{there}.resnets.{number}")
            number += 1
        else:
            inner, here = (module.layer, f"{here}.layer") if hasattr(module, "layer") else (module, here)
            assert isinstance(inner, nn.Module)
            convert = res_block if isinstance(inner, ResBlock) else layer
            yield from convert(inner, here, f"{there}.{resamplers}.0")  # type: ignore[arg-type, operator]
            level, number = level + 1, 0


def unet_weights(config: UNetConfig) -> list[Weight]:
    """Return every tensor of a U-Net with its names here and there, found by walking the network's levels."""
    with torch.device("meta"):
        unet = UNet(config)
    found = [
        *layer(unet.time.mlp[0], "time.mlp.0", "time_embedding.linear_1"),
        *layer(unet.time.mlp[2], "time.mlp.2", "time_embedding.linear_2"),
    ]
    if unet.label is not None:
        found += layer(unet.label.table, "label.table", "class_embedding")
    if unet.vector is not None:
        found += layer(unet.vector[0], "vector.0", "add_embedding.linear_1")
        found += layer(unet.vector[2], "vector.2", "add_embedding.linear_2")
    found += layer(unet.enter, "enter", "conv_in")
    found += path(unet.down, "down", "down_blocks", "downsamplers")
    found += _stage(unet.middle1, "middle1", "mid_block", 0)
    found += _stage(unet.middle2, "middle2", "mid_block", 1)
    found += path(unet.up, "up", "up_blocks", "upsamplers")
    found += layer(unet.norm, "norm", "conv_norm_out")
    found += layer(unet.leave, "leave", "conv_out")
    return found


def to_theirs(
    who: str, weights: list[Weight], state: Mapping[str, Tensor], convolutions: bool = True
) -> dict[str, Tensor]:
    """Return a state dict under their names; convolutions: whether pointwise layers are 1×1 convolutions there.

    Raises ValueError, which begins with who and names the keys, where the state has missing or unknown keys.
    """
    check_names(who, {weight.ours for weight in weights}, set(state))
    moved: dict[str, Tensor] = {}
    for weight in weights:
        tensor = state[weight.ours]
        if weight.pointwise and convolutions:
            tensor = tensor[:, :, None, None]
        parts = tensor.chunk(len(weight.theirs))
        moved.update({name: part.clone() for name, part in zip(weight.theirs, parts, strict=True)})
    return moved


def to_ours(who: str, weights: list[Weight], state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict under our names; pointwise layers may be convolutions or linear layers.

    Raises ValueError, which begins with who and names the keys, where the state has missing or unknown keys.
    """
    check_names(who, {name for weight in weights for name in weight.theirs}, set(state))
    moved: dict[str, Tensor] = {}
    for weight in weights:
        tensor = torch.cat([state[name] for name in weight.theirs])
        moved[weight.ours] = tensor.flatten(1) if weight.pointwise else tensor
    return moved


def check_names(who: str, expected: set[str], given: set[str]) -> None:
    """Raise ValueError, naming the first of them, where keys are missing from a state dict or unknown in it."""
    complaints = []
    for what, names in (("missing", sorted(expected - given)), ("unknown", sorted(given - expected))):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            complaints.append(f"{what}: {', '.join(names[:4])}{more}")
    if complaints:
        raise ValueError(f"{who}: the keys do not fit this configuration; {'; '.join(complaints)}")


def unet_to_diffusers(state: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Return the weights of our UNet under the names of diffusers' UNet2DModel or UNet2DConditionModel.

    state: of UNet(config); gradients by the same names work too. Fused queries, keys and values are cut apart.
    Raises ValueError, naming them, for missing and unknown keys.
    Source: diffusers, models/unets/unet_2d.py and unet_2d_condition.py.
    """
    return to_theirs("unet_to_diffusers", unet_weights(config), state, convolutions=not _linear_projection(config))


def unet_from_diffusers(state: Mapping[str, Tensor], config: UNetConfig) -> dict[str, Tensor]:
    """Return the weights of diffusers' UNet2DModel or UNet2DConditionModel under the names of our UNet(config).

    A class-conditional network must have a row for the null class, as build_diffusers_unet makes it.
    Raises ValueError, naming them, for missing and unknown keys.
    """
    return to_ours("unet_from_diffusers", unet_weights(config), state)


def _linear_projection(config: UNetConfig) -> bool:
    """Stable Diffusion 1 has a number of heads, and convolutions around its transformers; 2 and XL have neither."""
    return config.head_channels is not None


def build_diffusers_unet(config: UNetConfig, size_features: int = 256) -> Any:
    """Return diffusers' network of the same configuration, freshly initialised, on the current default device.

    With words it is a UNet2DConditionModel, otherwise a UNet2DModel. size_features: of each of the sizes in SDXL's
    vector, behind the pooled text. Raises ValueError for what diffusers cannot express, ImportError where it is absent.
    """
    from diffusers import UNet2DConditionModel, UNet2DModel

    _check_expressible(config)
    cosines_first, short = THEIR_NAMES[config.time_convention]
    kinds = [_kinds(config, bool(depth)) for depth in config.attention]
    shared: dict[str, Any] = {
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": config.channels,
        "layers_per_block": config.num_res_blocks,
        "down_block_types": [f"{before}Down{after}" for before, after in kinds],
        "up_block_types": [f"{before}Up{after}" for before, after in reversed(kinds)],
        "flip_sin_to_cos": cosines_first,
        "freq_shift": short,
        "downsample_padding": 0 if config.pad_after else 1,
        "dropout": config.dropout,
        "norm_num_groups": config.groups,
        "norm_eps": config.eps,
        "resnet_time_scale_shift": {"add": "default", "adagn": "scale_shift"}[config.time_way],
        "num_class_embeds": config.num_classes + 1 if config.num_classes else None,
    }
    if not config.context_size:
        changes = "resnet" if config.resblock_updown else "conv"
        return UNet2DModel(
            **shared,
            downsample_type=changes,
            upsample_type=changes,
            add_attention=bool(config.middle_attention),
            attention_head_dim=_head_size(config),
            attn_norm_num_groups=config.groups,
        )
    vector: dict[str, Any] = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": size_features,
        "projection_class_embeddings_input_dim": config.vector_size,
    }
    return UNet2DConditionModel(
        **shared,
        cross_attention_dim=config.context_size,
        # a level without attention must name a depth all the same, and the last level's is the middle's
        transformer_layers_per_block=[depth or config.middle_attention for depth in config.attention],
        attention_head_dim=[_num_heads(config, channels) for channels in config.channels],  # there it means heads
        use_linear_projection=_linear_projection(config),
        **(vector if config.vector_size else {}),
    )


def _kinds(config: UNetConfig, attention: bool) -> tuple[str, str]:
    """What stands before and after "Down" or "Up" in the name of diffusers' block for a level."""
    if attention:
        return ("CrossAttn" if config.context_size else "Attn"), "Block2D"
    return ("Resnet", "sampleBlock2D") if config.resblock_updown else ("", "Block2D")


def _num_heads(config: UNetConfig, channels: int) -> int:
    return channels // config.head_channels if config.head_channels else config.num_heads


def _head_size(config: UNetConfig) -> int | None:
    """The channels of a head, the same at every level there; None for one head of whatever width."""
    if config.head_channels or config.num_heads == 1:
        return config.head_channels
    widths = {channels for channels, depth in zip(config.channels, config.attention, strict=True) if depth}
    if config.middle_attention:
        widths.add(config.channels[-1])
    if len(widths) > 1:
        raise ValueError(
            f"build_diffusers_unet: {config.num_heads} heads at levels of {sorted(widths)} channels; UNet2DModel has "
            "heads of one size only: give head_channels instead"
        )
    return widths.pop() // config.num_heads if widths else None


def _check_expressible(config: UNetConfig) -> None:
    complaint = None
    if config.skips is not None and not all(config.skips):
        complaint = "a network without some of its skips"
    elif config.channels[0] != config.model_channels:
        complaint = "another width at the first level than model_channels"
    elif config.vector_size and not config.context_size:
        complaint = "a vector without words"
    elif config.context_size and config.resblock_updown:
        complaint = "a change of resolution inside residual blocks beside words"
    elif config.context_size and config.attention[-1] not in (0, config.middle_attention):
        complaint = "another depth in the middle than at the last level"
    elif config.context_size and not config.middle_attention:
        complaint = "a middle without attention beside words"
    if complaint:
        raise ValueError(f"build_diffusers_unet: diffusers has no way to express {complaint}")


def matching_inputs(
    config: UNetConfig, batch: int, height: int, width: int, generator: torch.Generator, size_features: int = 256
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return random inputs as keyword arguments, for UNet(config) and for what build_diffusers_unet returns.

    Pictures are (batch, in_channels, height, width), times lie between 0 and 1000, and there are five words.
    """
    x = torch.randn(batch, config.in_channels, height, width, generator=generator)
    t = torch.rand(batch, generator=generator) * 1000
    ours: dict[str, Any] = {"x": x, "t": t}
    theirs: dict[str, Any] = {"sample": x, "timestep": t}
    if config.num_classes:
        ours["labels"] = torch.randint(config.num_classes + 1, (batch,), generator=generator)
        theirs["class_labels"] = ours["labels"]
    if config.context_size:
        ours["context"] = torch.randn(batch, 5, config.context_size, generator=generator)
        theirs["encoder_hidden_states"] = ours["context"]
    if config.vector_size:
        sizes = torch.rand(batch, 6, generator=generator) * 1000
        pooled = torch.randn(batch, config.vector_size - 6 * size_features, generator=generator)
        features = sinusoidal(sizes.flatten(), size_features, convention=config.time_convention).view(batch, -1)
        ours["vector"] = torch.cat([pooled, features], dim=1)
        theirs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
    return ours, theirs


def randomise(module: Module, generator: torch.Generator) -> Module:
    """Give every tensor of a network random numbers, also the norms and what starts at zero; return the network.

    Matrices and kernels keep a product's size; other tensors are spread around 1 in norms and around 0 in biases.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            numbers = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(numbers / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.3 * numbers + (1.0 if name.endswith("weight") else 0.0))
    return module


_DDPM = replace(UNetConfig.ddpm_cifar10(), model_channels=16, channel_mult=(1, 2, 3), attention=(0, 1, 0), groups=4)
_ADM = replace(UNetConfig.adm(64), model_channels=16, channel_mult=(1, 2, 3), num_res_blocks=1, attention=(0, 1, 0),
               head_channels=8, num_classes=5, groups=4)  # fmt: skip
_SD = replace(UNetConfig.sd15(), model_channels=16, channel_mult=(1, 2, 2), attention=(1, 1, 0), num_heads=4,
              context_size=12, groups=4)  # fmt: skip
_SDXL = replace(UNetConfig.sdxl(), model_channels=16, num_res_blocks=1, attention=(0, 2, 3), middle_attention=3,
                head_channels=8, context_size=12, vector_size=58, groups=4)  # fmt: skip

LAYOUTS: dict[str, UNetConfig] = {
    "DDPM": _DDPM,
    "DDPM, no attention": replace(_DDPM, attention=(0, 0, 0), middle_attention=0, num_res_blocks=3),
    "AdaGN and classes": replace(_ADM, resblock_updown=False, num_res_blocks=2, attention=(1, 0, 1)),
    "ADM": _ADM,
    "SD 1.5": _SD,
    "SD 1.5, classes, one block": replace(_SD, num_classes=3, num_res_blocks=1, attention=(0, 1, 1), time_way="adagn"),
    "SDXL": _SDXL,
}
SIZE_FEATURES = 8  # of each size in the vector of the layout "SDXL"


def compare_unet() -> dict[str, float]:
    """Return the largest difference of an output number between diffusers' U-Nets and ours, for each tiny layout.

    Every tensor is random; pictures are not square. Raises ImportError where diffusers is absent.
    """
    return {name: unet_difference(config) for name, config in LAYOUTS.items()}


def unet_difference(config: UNetConfig, seed: int = 0) -> float:
    """Return the largest difference of the outputs of diffusers' U-Net with random weights and of ours with the same.

    The outputs are of order 1, in float32, for two pictures of 16 by 24 pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    theirs = randomise(build_diffusers_unet(config, SIZE_FEATURES), generator).eval()
    ours = UNet(config).eval()
    ours.load_state_dict(unet_from_diffusers(theirs.state_dict(), config))
    our_inputs, their_inputs = matching_inputs(config, 2, 16, 24, generator, SIZE_FEATURES)
    with torch.no_grad():
        return float((ours(**our_inputs) - theirs(**their_inputs).sample).abs().max())
