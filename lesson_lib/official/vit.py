"""Our ViT and transformers': the weights of one under the other's names, and how far their outputs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.official.unet import Weight, layer, randomise, to_ours, to_theirs
from lesson_lib.position import sin_cos_2d
from lesson_lib.vit import EncoderBlock, ViT, ViTConfig

Module = TypeVar("Module", bound=nn.Module)

# What transformers' files call a block's parts → what its classes have called them since version 5.
FILE_NAMES = (
    ("vit.encoder.layer.", "vit.layers."),
    ("attention.attention.query", "attention.q_proj"),
    ("attention.attention.key", "attention.k_proj"),
    ("attention.attention.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
)
CLASS_TOKEN, POSITIONS = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"


def vit_weights(config: ViTConfig) -> list[Weight]:
    """Return every tensor of a ViT that has a partner there, with both names; class token and places are extra."""
    with torch.device("meta"):
        vit = ViT(config)
    found = [*layer(vit.patch_embed.proj, "patch_embed.proj", "vit.embeddings.patch_embeddings.projection")]
    for i, block in enumerate(vit.blocks):
        assert isinstance(block, EncoderBlock)
        found += _block(block, f"blocks.{i}", f"vit.layers.{i}")
    found += layer(vit.norm, "norm", "vit.layernorm")
    found += layer(vit.head, "head", "classifier")
    return found


def _block(block: EncoderBlock, ours: str, theirs: str) -> Iterator[Weight]:
    yield from layer(block.norm1, f"{ours}.norm1", f"{theirs}.layernorm_before")
    yield from layer(block.attn.qkv, f"{ours}.attn.qkv", *(f"{theirs}.attention.{one}_proj" for one in "qkv"))
    yield from layer(block.attn.proj, f"{ours}.attn.proj", f"{theirs}.attention.o_proj")
    yield from layer(block.norm2, f"{ours}.norm2", f"{theirs}.layernorm_after")
    yield from layer(block.mlp.fc1, f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1")
    yield from layer(block.mlp.fc2, f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2")


def vit_to_transformers(state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """Return the weights of our ViT under the names of transformers' ViTForImageClassification.

    There a sentence always has a class token and places: what this configuration lacks becomes zeros, and the token of
    one that pools the mean has to be masked (transformers_logits does). Raises ValueError, naming them, for missing and
    unknown keys and wrong shapes. Source: transformers, models/vit/modeling_vit.py.
    """
    who, weights = "vit_to_transformers", vit_weights(config)
    check_shapes(who, state, shapes_of(ViT, config))
    extra = {name: state[name] for name in ("cls_token", "pos_embed") if name in shapes_of(ViT, config)}
    return {}


