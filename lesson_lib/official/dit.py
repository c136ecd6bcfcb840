"""Our Diffusion Transformer and the public ones: the layout of facebookresearch/DiT, diffusers' DiT, and PixArt-α.

Their names, and how far diffusers' outputs are from ours. facebookresearch/DiT is a repository, not a package: its
layout is read and written here; what it computes is compared through diffusers, which was made from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib.attention import Words
from lesson_lib.dit import AdaLNSingleBlock, AdaLNZeroBlock, DiT, DiTConfig
from lesson_lib.embed import LabelEmbedder
from lesson_lib.official.unet import Weight, layer, randomise, to_ours, to_theirs
from lesson_lib.official.vit import check_places, check_shapes, randomise_trained, shapes_there
from lesson_lib.position import sin_cos_2d

FACEBOOK, DIFFUSERS, PIXART = "facebookresearch/DiT", "diffusers' DiT", "diffusers' PixArt"

# In diffusers' DiT each block embeds time and class by itself, from a copy of its own; the first block's are read.
FIRST, EMBEDDERS = "transformer_blocks.0.", "transformer_blocks.0.norm1.emb."


def facebook_weights(config: DiTConfig) -> list[Weight]:
    """Return every tensor of a DiT with its names here and in facebookresearch/DiT; one of them differs."""
    return [
        Weight(name, (name.replace("y_embedder.table", "y_embedder.embedding_table"),)) for name in dit_shapes(config)
    ]


def dit_to_facebook(state: Mapping[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
    """Return the weights of our DiT(config) under the names of facebookresearch/DiT, as in its released files.

    Raises ValueError for a network that is not class-conditional adaLN-Zero and, naming them, for missing and unknown
    keys and wrong shapes. Source: facebookresearch/DiT, models.py.
    """
    who = "dit_to_facebook"
    _check_expressible(who, FACEBOOK, config)
    _check_tensors(who, state, config, facebook_weights(config), here=True)
    return to_theirs(who, facebook_weights(config), state)


def dit_from_facebook(checkpoint: Mapping[str, Any], config: DiTConfig) -> dict[str, Tensor]:
    """Return the weights of a file of facebookresearch/DiT under the names of our DiT(config), pos_embed included.

    checkpoint: a released file, which is a bare state dict, or one that train.py wrote, of whose parts (model, ema,
    opt, args) the averaged weights are taken. Raises ValueError as dit_to_facebook does, and for a pos_embed that is
    not the fixed table. Source: facebookresearch/DiT, download.py and train.py.
    """
    who, weights = "dit_from_facebook", facebook_weights(config)
    _check_expressible(who, FACEBOOK, config)
    state = checkpoint.get("ema", checkpoint)
    _check_tensors(who, state, config, weights, here=False)
    return to_ours(who, weights, state)


def dit_weights(config: DiTConfig) -> list[Weight]:
    """Return every trained tensor of a DiT with its names here and in diffusers, its embedders in the first block."""
    dit = _blank(config)
    assert isinstance(dit.y_embedder, LabelEmbedder)
    time = f"{EMBEDDERS}timestep_embedder"
    found = [
        *layer(dit.x_embedder.proj, "x_embedder.proj", "pos_embed.proj"),
        *layer(dit.t_embedder.mlp[0], "t_embedder.mlp.0", f"{time}.linear_1"),
        *layer(dit.t_embedder.mlp[2], "t_embedder.mlp.2", f"{time}.linear_2"),
        *layer(dit.y_embedder.table, "y_embedder.table", f"{EMBEDDERS}class_embedder.embedding_table"),
    ]
    for i, block in enumerate(dit.blocks):
        assert isinstance(block, AdaLNZeroBlock)
        here, there = f"blocks.{i}", f"transformer_blocks.{i}"
        found += layer(block.adaLN_modulation[1], f"{here}.adaLN_modulation.1", f"{there}.norm1.linear")
        found += _branches(block, here, there)
    final = dit.final_layer
    found += layer(final.adaLN_modulation[1], "final_layer.adaLN_modulation.1", "proj_out_1")
    found += layer(final.linear, "final_layer.linear", "proj_out_2")
    return found


def _branches(block: AdaLNZeroBlock | AdaLNSingleBlock, ours: str, theirs: str) -> Iterator[Weight]:
    yield from layer(block.attn.qkv, f"{ours}.attn.qkv", *(f"{theirs}.attn1.to_{one}" for one in "qkv"))
    yield from layer(block.attn.proj, f"{ours}.attn.proj", f"{theirs}.attn1.to_out.0")
    yield from layer(block.mlp.fc1, f"{ours}.mlp.fc1", f"{theirs}.ff.net.0.proj")
    yield from layer(block.mlp.fc2, f"{ours}.mlp.fc2", f"{theirs}.ff.net.2")


def dit_to_diffusers(state: Mapping[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
    """Return the weights of our DiT(config) under the names of diffusers' DiTTransformer2DModel.

    The embedders of time and class are copied into every block; the table of places, which is no weight there, is left
    behind and may be absent. Raises ValueError as dit_to_facebook does, and for a table that is not the fixed one.
    Source: diffusers, scripts/convert_dit_to_diffusers.py and models/transformers/dit_transformer_2d.py.
    """
    who = "dit_to_diffusers"
    _check_expressible(who, DIFFUSERS, config)
    moved = _to_diffusers(who, dit_weights(config), state, config)
    for name in [name for name in moved if name.startswith(EMBEDDERS)]:
        moved.update({copy: moved[name].clone() for copy in _copies(name, config)})
    return moved


def dit_from_diffusers(state: Mapping[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
    """Return the weights of diffusers' DiTTransformer2DModel under the names of our DiT(config), pos_embed included.

    Raises ValueError, naming them, for missing and unknown keys and wrong shapes, and where the blocks' embedders are
    no longer copies of each other, as after training in diffusers: ours has one for all.
    """
    who = "dit_from_diffusers"
    _check_expressible(who, DIFFUSERS, config)
    rest = dict(state)
    for name in [name for name in state if name.startswith(EMBEDDERS)]:
        for copy in _copies(name, config):
            other = rest.pop(copy, None)
            if other is None:
                raise ValueError(f"{who}: the keys do not fit this configuration; missing: {copy}")
            if not (other.is_meta or torch.equal(other, state[name])):
                raise ValueError(
                    f"{who}: {copy} differs from the first block's; there every block has its own embedders of time "
                    "and class, ours has one for all blocks, so only equal ones can be read"
                )
    return _from_diffusers(who, dit_weights(config), rest, config)


def _copies(name: str, config: DiTConfig) -> list[str]:
    return [name.replace(FIRST, f"transformer_blocks.{i}.", 1) for i in range(1, config.depth)]


def build_diffusers_dit(config: DiTConfig, short: int = 0, eps: float = 1e-6) -> Any:
    """Return diffusers' DiTTransformer2DModel of the same configuration, freshly initialised.

    As shipped it differs from the DiT that it was made from in two numbers, which are put right here unless given:
    short, 1 as shipped and 0 in DiT: the frequencies' exponent is divided by 128 - short. eps, 1e-5 as shipped and 1e-6
    in DiT: of the norm before the perceptron. A third difference stays: in training mode each block drops labels on its
    own. Raises ValueError for what it cannot express, ImportError where diffusers is absent.
    """
    from diffusers import DiTTransformer2DModel

    _check_expressible("build_diffusers_dit", DIFFUSERS, config)
    theirs: Any = DiTTransformer2DModel(**_shared(config), num_embeds_ada_norm=config.num_classes, norm_eps=eps)
    for block in theirs.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = short
    return theirs


def pixart_weights(config: DiTConfig) -> list[Weight]:
    """Return every trained tensor of a DiT with adaLN-single with its names here and in diffusers' PixArt."""
    dit = _blank(config)
    assert dit.t_block is not None
    time = "adaln_single.emb.timestep_embedder"
    found = [
        *layer(dit.x_embedder.proj, "x_embedder.proj", "pos_embed.proj"),
        *layer(dit.t_embedder.mlp[0], "t_embedder.mlp.0", f"{time}.linear_1"),
        *layer(dit.t_embedder.mlp[2], "t_embedder.mlp.2", f"{time}.linear_2"),
        *layer(dit.t_block[1], "t_block.1", "adaln_single.linear"),
    ]
    for i, block in enumerate(dit.blocks):
        assert isinstance(block, AdaLNSingleBlock)
        here, there = f"blocks.{i}", f"transformer_blocks.{i}"
        found.append(Weight(f"{here}.scale_shift_table", (f"{there}.scale_shift_table",)))
        found += _branches(block, here, there)
        if block.cross_attn is not None:
            found += layer(block.cross_attn.q, f"{here}.cross_attn.q", f"{there}.attn2.to_q")
            found += layer(block.cross_attn.kv, f"{here}.cross_attn.kv", f"{there}.attn2.to_k", f"{there}.attn2.to_v")
            found += layer(block.cross_attn.proj, f"{here}.cross_attn.proj", f"{there}.attn2.to_out.0")
    found.append(Weight("final_layer.scale_shift_table", ("scale_shift_table",)))
    found += layer(dit.final_layer.linear, "final_layer.linear", "proj_out")
    return found


def pixart_to_diffusers(state: Mapping[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
    """Return the weights of our DiT(config) with adaLN-single under the names of diffusers' PixArtTransformer2DModel.

    Its caption_projection is not among them: our network begins with projected words. Raises ValueError as
    dit_to_diffusers does, here for a network that is not adaLN-single or has classes.
    Source: diffusers, models/transformers/pixart_transformer_2d.py.
    """
    who = "pixart_to_diffusers"
    _check_expressible(who, PIXART, config)
    return _to_diffusers(who, pixart_weights(config), state, config)


def pixart_from_diffusers(state: Mapping[str, Tensor], config: DiTConfig) -> dict[str, Tensor]:
    """Return the weights of diffusers' PixArtTransformer2DModel under the names of our DiT(config).

    Its caption_projection (a perceptron on the text encoder's words, apart from the transformer) is left behind: who
    has one applies it and gives our network the result as context. Raises ValueError as pixart_to_diffusers does; the
    larger PixArt, which also hears resolution and aspect ratio, has keys that are unknown here.
    """
    who = "pixart_from_diffusers"
    _check_expressible(who, PIXART, config)
    rest = {name: tensor for name, tensor in state.items() if not name.startswith("caption_projection.")}
    return _from_diffusers(who, pixart_weights(config), rest, config)


def build_diffusers_pixart(config: DiTConfig, caption_size: int = 0) -> Any:
    """Return diffusers' PixArtTransformer2DModel of the same configuration, freshly initialised.

    caption_size: width of the words before caption_projection; 0 for none. Projected words are as wide as the tokens.
    Raises ValueError for what it cannot express, ImportError where diffusers is absent.
    """
    from diffusers import PixArtTransformer2DModel

    _check_expressible("build_diffusers_pixart", PIXART, config)
    if caption_size and config.context_size != config.hidden_size:
        raise ValueError(
            f"build_diffusers_pixart: projected captions are {config.hidden_size} wide, as the tokens are, but "
            f"context_size is {config.context_size}"
        )
    return PixArtTransformer2DModel(
        **_shared(config),
        cross_attention_dim=config.context_size or None,
        caption_channels=caption_size or None,
        use_additional_conditions=False,
        interpolation_scale=1,
    )


def _shared(config: DiTConfig) -> dict[str, Any]:
    return {
        "num_attention_heads": config.num_heads,
        "attention_head_dim": config.hidden_size // config.num_heads,
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "sample_size": config.input_size,
        "patch_size": config.patch_size,
    }


def _check_expressible(who: str, theirs: str, config: DiTConfig) -> None:
    single = theirs == PIXART
    complaint = None
    if config.conditioning != ("adaln-single" if single else "adaln-zero"):
        complaint = f"conditioning {config.conditioning!r}"
    elif single and config.num_classes:
        complaint = "classes"
    elif not single and not config.num_classes:
        complaint = "a network without classes"
    elif theirs != FACEBOOK and config.mlp_ratio != 4:
        complaint = f"an mlp_ratio of {config.mlp_ratio:g} (it is 4 there)"
    if complaint:
        raise ValueError(f"{who}: {theirs} has no way to express {complaint}")


def _blank(config: DiTConfig) -> DiT:
    with torch.device("meta"):
        return DiT(config)


def dit_shapes(config: DiTConfig) -> dict[str, torch.Size]:
    """Return the shape of every tensor of our DiT(config)."""
    return {name: tensor.shape for name, tensor in _blank(config).state_dict().items()}


def _places(config: DiTConfig) -> Tensor:
    return sin_cos_2d(config.grid, config.grid, config.hidden_size)[None]


def _check_tensors(
    who: str, state: Mapping[str, Tensor], config: DiTConfig, weights: list[Weight], here: bool
) -> None:  # fmt: skip
    """Refuse wrong shapes, and a pos_embed that is not the fixed table, in a state under our names or under theirs."""
    shapes = dit_shapes(config)
    check_shapes(who, state, shapes if here else shapes_there(weights, shapes))
    if "pos_embed" in state:
        check_places(who, state["pos_embed"], _places(config))


def _to_diffusers(
    who: str, weights: list[Weight], state: Mapping[str, Tensor], config: DiTConfig
) -> dict[str, Tensor]:  # fmt: skip
    _check_tensors(who, state, config, weights, here=True)
    return to_theirs(who, weights, {name: tensor for name, tensor in state.items() if name != "pos_embed"})


def _from_diffusers(
    who: str, weights: list[Weight], state: Mapping[str, Tensor], config: DiTConfig
) -> dict[str, Tensor]:  # fmt: skip
    _check_tensors(who, state, config, weights, here=False)
    moved = to_ours(who, weights, state)
    return {**moved, "pos_embed": _places(config).to(moved["x_embedder.proj.weight"])}


def matching_inputs(
    config: DiTConfig, batch: int, generator: torch.Generator, padded: bool = False
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return random inputs as keyword arguments, for our DiT(config) and for what build_diffusers_… returns.

    Times lie between 0 and 1000, labels may be the null class, and there are five words where there are words.
    padded: the second text has one word less, the third two less: what follows only fills the row.
    """
    x = torch.randn(batch, config.in_channels, config.input_size, config.input_size, generator=generator)
    t = torch.rand(batch, generator=generator) * 1000
    ours: dict[str, Any] = {"x": x, "t": t}
    theirs: dict[str, Any] = {"hidden_states": x, "timestep": t}
    if config.num_classes:
        ours["labels"] = theirs["class_labels"] = torch.randint(config.num_classes + 1, (batch,), generator=generator)
    if config.context_size:
        words = torch.randn(batch, 5, config.context_size, generator=generator)
        ours["context"] = theirs["encoder_hidden_states"] = words
        if padded:
            theirs["encoder_attention_mask"] = torch.arange(5) < 5 - torch.arange(batch)[:, None]
            ours["context"] = Words(words, theirs["encoder_attention_mask"])
    return ours, theirs


_TINY = DiTConfig(8, 2, 4, hidden_size=32, depth=3, num_heads=4, num_classes=5)

LAYOUTS: dict[str, DiTConfig] = {
    "patches of 2, learned variance": _TINY,
    "patches of 4, one head, pixels": DiTConfig(12, 4, 3, 24, 2, num_heads=1, num_classes=2, learn_sigma=False),
    "patches of 1, three heads": DiTConfig(5, 1, 2, hidden_size=36, depth=2, num_heads=3, num_classes=3),
}
_PIXART = replace(_TINY, num_classes=0, conditioning="adaln-single", context_size=12)

PIXART_LAYOUTS: dict[str, DiTConfig] = {
    "words": _PIXART,
    "captions, projected outside": replace(_PIXART, context_size=32, patch_size=4),
    "no words": replace(_PIXART, context_size=0, learn_sigma=False, num_heads=2),
}
CAPTION_SIZE = 10  # of the words before their projection in "captions, projected outside"


def compare_dit() -> dict[str, float]:
    """Return the largest difference of an output number between diffusers' DiTs and ours, for each tiny layout.

    First, on one layout, as diffusers ships it; with its frequencies fixed; with its epsilon too; and as shipped beside
    ours with both of its numbers (as_diffusers). Every trained tensor is random.
    Raises ImportError where diffusers is absent.
    """
    found = {
        "as shipped": dit_difference(_TINY, short=1, eps=1e-5),
        "frequencies fixed": dit_difference(_TINY, eps=1e-5),
        "frequencies and epsilon fixed": dit_difference(_TINY),
        "as shipped, ours adapted to it": dit_difference(_TINY, short=1, eps=1e-5, adapt=True),
    }
    return found | {name: dit_difference(config) for name, config in LAYOUTS.items() if config != _TINY}


def dit_difference(
    config: DiTConfig, short: int = 0, eps: float = 1e-6, adapt: bool = False, seed: int = 0
) -> float:  # fmt: skip
    """Return the largest difference of the outputs of our DiT with random weights and of diffusers' with the same.

    short, eps: as in build_diffusers_dit. adapt: give our network diffusers' two numbers, which is what weights trained
    in diffusers need. In float32, for two pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    ours = randomise_trained(DiT(config), generator).eval()
    theirs = build_diffusers_dit(config, short, eps).eval()
    theirs.load_state_dict(dit_to_diffusers(ours.state_dict(), config))
    if adapt:
        as_diffusers(ours)
    our_inputs, their_inputs = matching_inputs(config, 2, generator)
    with torch.no_grad():
        return float((ours(**our_inputs) - theirs(**their_inputs).sample).abs().max())


def as_diffusers(dit: DiT) -> DiT:
    """Give our DiT the frequencies and the epsilon that diffusers' has as shipped; return the network."""
    dit.t_embedder.convention = "diffusers-dit"
    for block in dit.blocks:
        assert isinstance(block.norm2, nn.LayerNorm)
        block.norm2.eps = 1e-5
    return dit


def compare_pixart() -> dict[str, float]:
    """Return the largest difference of an output number between diffusers' PixArt-α and ours, for each tiny layout.

    Every trained tensor is random. Raises ImportError where diffusers is absent.
    """
    found = {name: pixart_difference(config) for name, config in PIXART_LAYOUTS.items()}
    return {**found, "padded words": pixart_difference(_PIXART, padded=True)}


def pixart_difference(config: DiTConfig, seed: int = 0, padded: bool = False) -> float:
    """Return the largest difference of the outputs of diffusers' PixArt with random weights and of ours with the same.

    Where words are as wide as the tokens they are captions: diffusers projects them inside, for ours it is done before.
    padded: as in matching_inputs. In float32, for two pictures.
    """
    generator = torch.Generator().manual_seed(seed)
    caption_size = CAPTION_SIZE if config.context_size == config.hidden_size else 0
    theirs = randomise(build_diffusers_pixart(config, caption_size), generator).eval()
    ours = DiT(config).eval()
    ours.load_state_dict(pixart_from_diffusers(theirs.state_dict(), config))
    our_inputs, their_inputs = matching_inputs(config, 2, generator, padded)
    with torch.no_grad():
        if caption_size:
            captions = torch.randn(2, 5, caption_size, generator=generator)
            their_inputs["encoder_hidden_states"] = captions
            projected = theirs.caption_projection(captions)
            our_inputs["context"] = Words(projected, their_inputs["encoder_attention_mask"]) if padded else projected
        return float((ours(**our_inputs) - theirs(**their_inputs).sample).abs().max())
