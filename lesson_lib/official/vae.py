"""Our autoencoder and diffusers': the weights of one under the other's names, and how far their outputs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib.official.unet import Weight, attention_block, layer, path, randomise, res_block, to_ours, to_theirs
from lesson_lib.unet import AttentionBlock, ResBlock
from lesson_lib.vae import AutoencoderKL, VAEConfig


def vae_weights(config: VAEConfig) -> list[Weight]:
    """Return every tensor of an autoencoder with its names here and there, found by walking the network's levels."""
    with torch.device("meta"):
        vae = AutoencoderKL(config)
    found: list[Weight] = []
    for name, half in (("encoder", vae.encoder), ("decoder", vae.decoder)):
        found += layer(half.enter, f"{name}.enter", f"{name}.conv_in")
        found += _middle(half.middle, f"{name}.middle", f"{name}.mid_block")
        found += layer(half.norm, f"{name}.norm", f"{name}.conv_norm_out")
        found += layer(half.leave, f"{name}.leave", f"{name}.conv_out")
    found += path(vae.encoder.down, "encoder.down", "encoder.down_blocks", "downsamplers")
    found += path(vae.decoder.up, "decoder.up", "decoder.up_blocks", "upsamplers")
    found += layer(vae.quant, "quant", "quant_conv")
    found += layer(vae.post_quant, "post_quant", "post_quant_conv")
    return found


def _middle(middle: nn.Sequential, ours: str, theirs: str) -> Iterator[Weight]:
    first, attention, second = middle
    assert isinstance(first, ResBlock)
    assert isinstance(attention, AttentionBlock)
    assert isinstance(second, ResBlock)
    yield from res_block(first, f"{ours}.0", f"{theirs}.resnets.0")
    yield from attention_block(attention, f"{ours}.1", f"{theirs}.attentions.0")
    yield from res_block(second, f"{ours}.2", f"{theirs}.resnets.1")


def vae_to_diffusers(state: Mapping[str, Tensor], config: VAEConfig) -> dict[str, Tensor]:
    """Return the weights of our AutoencoderKL under the names of diffusers' class of the same name.

    Raises ValueError, naming them, for missing and unknown keys.
    Source: diffusers, models/autoencoders/autoencoder_kl.py and vae.py.
    """
    return to_theirs("vae_to_diffusers", vae_weights(config), state)


def vae_from_diffusers(state: Mapping[str, Tensor], config: VAEConfig) -> dict[str, Tensor]:
    """Return the weights of diffusers' AutoencoderKL under the names of our AutoencoderKL(config).

    Raises ValueError, naming them, for missing and unknown keys.
    """
    return to_ours("vae_from_diffusers", vae_weights(config), state)


def build_diffusers_vae(config: VAEConfig) -> Any:
    """Return diffusers' AutoencoderKL of the same configuration, freshly initialised, on the current default device.

    Raises ImportError where diffusers is absent.
    """
    from diffusers import AutoencoderKL as TheirAutoencoderKL

    levels = len(config.widths)
    return TheirAutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.widths,
        layers_per_block=config.num_res_blocks,
        latent_channels=config.latent_channels,
        norm_num_groups=config.groups,
        scaling_factor=config.scale,
        shift_factor=config.shift,
    )


LAYOUTS: dict[str, VAEConfig] = {
    "f = 4": VAEConfig(channels=16, groups=4),
    "f = 8, as kl-f8": VAEConfig(channels=8, channel_mult=(1, 2, 4, 4), num_res_blocks=2, groups=4),
    "one channel, f = 2": VAEConfig(in_channels=1, channels=8, channel_mult=(1, 3), latent_channels=3, groups=2),
}


def compare_vae() -> dict[str, float]:
    """Return the largest difference of means, log-variances and pictures between diffusers' autoencoders and ours.

    Every tensor is random; pictures are not square. Raises ImportError where diffusers is absent.
    """
    found = {}
    for name, config in LAYOUTS.items():
        for part, value in zip(("mean", "log-variance", "picture"), vae_differences(config), strict=True):
            found[f"{part}, {name}"] = value
    return found


def vae_differences(config: VAEConfig, seed: int = 0) -> tuple[float, float, float]:
    """Return the largest difference of the mean, of the log-variance and of the decoded mean, with the same weights.

    They are in float32, for two pictures of 16 by 24 pixels; diffusers' network has random weights, ours the same.
    """
    generator = torch.Generator().manual_seed(seed)
    theirs = randomise(build_diffusers_vae(config), generator).eval()
    ours = AutoencoderKL(config).eval()
    ours.load_state_dict(vae_from_diffusers(theirs.state_dict(), config))
    x = torch.randn(2, config.in_channels, 16, 24, generator=generator)
    with torch.no_grad():
        picture, mean, logvar = ours(x)
        gaussian = theirs.encode(x).latent_dist
        pairs = ((mean, gaussian.mean), (logvar, gaussian.logvar), (picture, theirs.decode(gaussian.mean).sample))
    first, second, third = (float((a - b).abs().max()) for a, b in pairs)
    return first, second, third
