"""Our ViT and transformers': the weights of one under the other's names, and how far their outputs differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.official.unet import Weight, layer, randomise, to_ours, to_theirs
from lesson_lib.position import sin_cos_2d
from lesson_lib.vit import EncoderBlock, ViT, ViTConfig

Module = TypeVar("Module", bound=nn.Module)

CLASS_TOKEN, PLACES = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"

# names in transformers' files, older than its classes' names → names in its classes from version 5 on
FILE_NAMES = {
    "vit.encoder.layer.": "vit.layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}


def vit_weights(config: ViTConfig) -> list[Weight]:
    """Return every tensor of a ViT with its names here and there, found by walking the network."""
    with torch.device("meta"):
        vit = ViT(config)
    found = [Weight("cls_token", (CLASS_TOKEN,))] if vit.cls_token is not None else []
    found += [Weight("pos_embed", (PLACES,))] if vit.pos_embed is not None else []
    found += layer(vit.patch_embed.proj, "patch_embed.proj", "vit.embeddings.patch_embeddings.projection")
    for i, block in enumerate(vit.blocks):
        assert isinstance(block, EncoderBlock)
        here, there = f"blocks.{i}", f"vit.layers.{i}"
        found += layer(block.norm1, f"{here}.norm1", f"{there}.layernorm_before")
        found += layer(block.attn.qkv, f"{here}.attn.qkv", *(f"{there}.attention.{one}_proj" for one in "qkv"))
        found += layer(block.attn.proj, f"{here}.attn.proj", f"{there}.attention.o_proj")
        found += layer(block.norm2, f"{here}.norm2", f"{there}.layernorm_after")
        found += layer(block.mlp.fc1, f"{here}.mlp.fc1", f"{there}.mlp.fc1")
        found += layer(block.mlp.fc2, f"{here}.mlp.fc2", f"{there}.mlp.fc2")
    found += layer(vit.norm, "norm", "vit.layernorm")
    found += layer(vit.head, "head", "classifier")
    return found


def vit_to_transformers(state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """Return the weights of our ViT under the names of transformers' ViTForImageClassification.

    A sentence there always has a class token and places; zeros stand for what this configuration has not, and where it
    pools the mean the token must be masked, as transformers_outputs does. Gradients by the same names work too.
    Raises ValueError, naming them, for missing and unknown keys and for wrong shapes.
    Source: transformers, models/vit/modeling_vit.py.
    """
    who, weights = "vit_to_transformers", vit_weights(config)
    check_shapes(who, state, vit_shapes(config))
    moved = to_theirs(who, weights, state)
    blank = moved["vit.layernorm.weight"].new_zeros
    if config.pool == "mean":
        moved[CLASS_TOKEN] = blank(1, 1, config.hidden_size)
        if PLACES in moved:
            moved[PLACES] = F.pad(moved[PLACES], (0, 0, 1, 0))
    if config.positions == "none":
        moved[PLACES] = blank(1, config.grid**2 + 1, config.hidden_size)
    return moved


def vit_from_transformers(state: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """Return the weights of transformers' ViTForImageClassification under the names of our ViT(config).

    state: of the class, or as its files name it ("vit.encoder.layer. …"). Where the configuration pools the mean,
    their class token and its place are left behind. Raises ValueError, naming them, for missing and unknown keys and
    for wrong shapes, and where the places are not the fixed ones, or none, that the configuration asks for.
    """
    who, weights = "vit_from_transformers", vit_weights(config)
    state = {_class_name(name): tensor for name, tensor in state.items()}
    there = shapes_there(weights, vit_shapes(config))
    there[CLASS_TOKEN] = torch.Size([1, 1, config.hidden_size])
    there[PLACES] = torch.Size([1, config.grid**2 + 1, config.hidden_size])
    check_shapes(who, state, there)
    if config.pool == "mean":
        state.pop(CLASS_TOKEN, None)
    if PLACES in state and config.positions != "learned":
        check_places(who, state[PLACES], _fixed_places(config))
    if PLACES in state and config.pool == "mean":
        state[PLACES] = state[PLACES][:, 1:]
    if config.positions == "none":
        state.pop(PLACES, None)
    return to_ours(who, weights, state)


def _class_name(name: str) -> str:
    for old, new in FILE_NAMES.items():
        name = name.replace(old, new)
    return name


def _fixed_places(config: ViTConfig) -> Tensor:
    """What their table must hold where ours is frozen or absent, the class token's row of zeros first."""
    if config.positions == "none":
        return torch.zeros(1, config.grid**2 + 1, config.hidden_size)
    return F.pad(sin_cos_2d(config.grid, config.grid, config.hidden_size), (0, 0, 1, 0))[None]


def vit_shapes(config: ViTConfig) -> dict[str, torch.Size]:
    """Return the shape of every tensor of our ViT(config)."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in ViT(config).state_dict().items()}


def shapes_there(weights: list[Weight], here: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Return the shapes of their tensors: ours, or an equal share of the rows where one is cut into several."""
    found = {}
    for weight in weights:
        rows, *rest = here[weight.ours]
        found.update({name: torch.Size([rows // len(weight.theirs), *rest]) for name in weight.theirs})
    return found


def check_shapes(who: str, state: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raise ValueError, which begins with who and names the keys, where tensors have other shapes than expected."""
    wrong = [name for name in sorted(set(expected) & set(state)) if state[name].shape != expected[name]]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        told = [f"{name} is {tuple(state[name].shape)}, not {tuple(expected[name])}" for name in wrong[:4]]
        raise ValueError(f"{who}: the shapes do not fit this configuration; {'; '.join(told)}{more}")


def check_places(who: str, given: Tensor, fixed: Tensor) -> None:
    """Raise ValueError, which begins with who, where a table of places is not the fixed one, up to half precision."""
    if given.is_meta or fixed.is_meta or given.shape != fixed.shape:
        return
    far = float((given.float() - fixed.to(given.device)).abs().max())
    if not far <= 1e-2:
        raise ValueError(
            f"{who}: the table of places differs by up to {far:.2g} from the one that this configuration keeps fixed; "
            "the network was trained with other places (learned, scaled, or rows and columns exchanged)"
        )


def build_transformers_vit(config: ViTConfig, eps: float = 1e-6) -> Any:
    """Return transformers' ViTForImageClassification of the same configuration, freshly initialised.

    eps: of all norms; 1e-6 in the original code and in ours, while transformers' own default is 1e-12.
    Raises ImportError where transformers is absent.
    """
    from transformers import ViTConfig as TheirViTConfig
    from transformers import ViTForImageClassification

    options: dict[str, Any] = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.in_channels,
        "num_labels": config.num_classes,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": int(config.hidden_size * config.mlp_ratio),
        "layer_norm_eps": eps,
    }
    return ViTForImageClassification(TheirViTConfig(**options))


def transformers_outputs(theirs: Any, images: Tensor, pool: str = "cls") -> tuple[Tensor, Tensor]:
    """Return the tokens (B, N, D) after the last norm of transformers' ViT, and the logits, pooled as ours are.

    pool "mean": nobody listens to the class token, which is as if it were not there, and it is not returned.
    """
    if pool == "cls":
        tokens = theirs.vit(images).last_hidden_state
        return tokens, theirs.classifier(tokens[:, 0])
    heard = torch.ones(len(images), theirs.vit.embeddings.position_embeddings.shape[1], device=images.device).bool()
    heard[:, 0] = False
    tokens = theirs.vit(images, attention_mask=heard).last_hidden_state[:, 1:]
    return tokens, theirs.classifier(tokens.mean(dim=1))


def randomise_trained(module: Module, generator: torch.Generator) -> Module:
    """Give every trained tensor of a network random numbers, frozen tables keeping theirs; return the network."""
    frozen = {name: weight.clone() for name, weight in module.named_parameters() if not weight.requires_grad}
    randomise(module, generator)
    module.load_state_dict(frozen, strict=False)
    return module


_TINY = ViTConfig(image_size=12, patch_size=4, num_classes=5, hidden_size=32, depth=3, num_heads=4)

LAYOUTS: dict[str, ViTConfig] = {
    "class token": _TINY,
    "class token, sin-cos places": ViTConfig(20, 4, 1, 3, hidden_size=48, depth=2, num_heads=2, positions="sin-cos"),
    "mean of the patches": ViTConfig(15, 3, 2, 7, hidden_size=24, depth=3, num_heads=3, mlp_ratio=3.0, pool="mean"),
    "mean, no places": ViTConfig(8, 2, 1, 10, hidden_size=16, depth=2, num_heads=1, positions="none", pool="mean"),
}


def compare_vit() -> dict[str, float]:
    """Return the largest difference of a token or logit between transformers' ViTs and ours, for each tiny layout.

    Every trained tensor is random. Raises ImportError where transformers is absent.
    """
    return {name: max(vit_differences(config)) for name, config in LAYOUTS.items()}


def vit_differences(config: ViTConfig, seed: int = 0) -> tuple[float, float]:
    """Return the largest differences of the tokens after the last norm and of the logits, with the same weights.

    Our ViT has random weights, transformers' the same; in float32, for two pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    ours = randomise_trained(ViT(config), generator).eval()
    theirs = build_transformers_vit(config).eval()
    theirs.load_state_dict(vit_to_transformers(ours.state_dict(), config))
    x = torch.randn(2, config.in_channels, config.image_size, config.image_size, generator=generator)
    with torch.no_grad():
        tokens = ours.embed(x)
        for block in ours.blocks:
            tokens = block(tokens)
        found = zip((ours.norm(tokens), ours(x)), transformers_outputs(theirs, x, config.pool), strict=True)
        first, second = (float((a - b).abs().max()) for a, b in found)
    return first, second
