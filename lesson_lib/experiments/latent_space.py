"""What a latent space is good for: how many channels it should have, and whether it beats pixels at equal compute."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import torch

from lesson_lib import flow, guidance, samplers, shapes, train, unet, vae
from lesson_lib.data import shapes as draw_shapes
from lesson_lib.evaluate import JUDGE_FILE, count_macs, fd_judge, load_judge, prompt_accuracy, psnr
from lesson_lib.experiments.autoencoders import CHECKPOINTS, load_vae
from lesson_lib.experiments.run import Experiment
from lesson_lib.experiments.unet_ablations import trained_denoiser
from lesson_lib.experiments.vae_blur import VARIANTS as LOSSES
from lesson_lib.experiments.vae_blur import trained as trained_autoencoder
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.samplers import euler
from lesson_lib.setup import Budget
from lesson_lib.unet import UNet, UNetConfig
from lesson_lib.vae import AutoencoderKL, scale_factor

CHANNELS = ("2", "4", "8")
SAMPLING_STEPS = 16
# Pixels at 32×32, and latents at 8×8×4 of the shipped vae-shapes. The two networks are the learner's presets.
NETWORKS = {"pixel": UNetConfig.shapes32(), "latent": UNetConfig.latent8()}

QUALITY = {
    "fd_judge": "Fréchet distance of samples to held-out pictures on the judge's features; lower is better",
    "accuracy": "share of samples in which the judge finds the colour and the shape that were asked for",
}
RECONSTRUCTION = {
    "psnr": "peak signal-to-noise ratio of held-out reconstructions in dB; higher is better",
    "fd_reconstruction": "Fréchet distance of reconstructions to other held-out pictures; lower is better",
}


def common(budget: Budget) -> dict[str, Any]:
    """Return the settings that both experiments share."""
    return {
        "batch_size": 32,
        "lr": 2e-3,
        "samples": budget.choose(smoke=72, laptop=360, gpu=2400, long=4800),
        "sampler": f"euler, {SAMPLING_STEPS} steps",
        "guidance_scale": 1.0,
        "judge_sha256": hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest(),
    }


def channel_settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition of latent_channels must set."""
    return {
        **common(budget),
        "data": "shapes, 16×16, 8,000 images; the autoencoder sees one or two objects, the diffusion model one",
        "channels": 16,
        "channel_mult": [1, 2, 4],
        "kl_weight": 1e-3,
        "loss": "l2 + perceptual",
        "steps": budget.choose(smoke=5, laptop=400, gpu=4000),
        "diffusion_steps": budget.choose(smoke=3, laptop=800, gpu=8000),
        "network": "UNetConfig.latent8 on 4×4 latents",
    }


def measure_channels(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train an autoencoder with so many latent channels, then a diffusion model on its latents."""
    both = draw_shapes(8000, size=16, objects=(1, 2), seed=3, device=budget.device).images
    chosen = {**settings, "latent_channels": int(variant)}
    autoencoder = trained_autoencoder(both, seed, chosen, budget, settings["kl_weight"], LOSSES[settings["loss"]])
    one = draw_shapes(8000, size=16, seed=4, device=budget.device)
    scale = scale_factor(autoencoder.to_latents(one.images))
    autoencoder.config = replace(autoencoder.config, scale=scale)
    config = replace(NETWORKS["latent"], in_channels=int(variant), out_channels=int(variant))
    latents = autoencoder.to_latents(one.images, budget.generator(seed))
    model = trained_denoiser(config, latents, one.labels, seed, settings["diffusion_steps"], settings)
    real = draw_shapes(1000, size=16, objects=(1, 2), seed=77, device=budget.device).images
    others = draw_shapes(2000, size=16, objects=(1, 2), seed=78, device=budget.device).images
    made = autoencoder.from_latents(autoencoder.to_latents(real))
    return {
        "psnr": psnr(made, real),
        "fd_reconstruction": fd_judge(others, made, load_judge(budget.device)),
        **quality(model, (int(variant), 4, 4), seed, settings, budget, autoencoder),
    }


def compute_settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition of pixel_latent must set; the latent model gets the steps that cost the same."""
    macs = {}
    for variant, config in NETWORKS.items():
        side = 32 if variant == "pixel" else 8
        x = torch.zeros(1, config.in_channels, side, side)
        macs[variant] = count_macs(UNet(config), x, torch.zeros(1), torch.zeros(1, dtype=torch.int64))
    steps = budget.choose(smoke=3, laptop=200, gpu=4000, long=20_000)
    return {
        **common(budget),
        "data": "shapes, 32×32, one object, 8,000 images",
        "networks": "UNetConfig.shapes32 on pixels, UNetConfig.latent8 on latents of the shipped vae-shapes",
        "macs_per_image": macs,
        "steps": {"pixel": steps, "latent": round(steps * macs["pixel"] / macs["latent"])},
        "not counted": "the training of the autoencoder, and encoding the 8,000 images once",
        "vae_sha256": hashlib.sha256((CHECKPOINTS / "vae-shapes.safetensors").read_bytes()).hexdigest(),
    }


def measure_compute(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train a diffusion model on pixels or on latents, for as many multiply-accumulates."""
    data = draw_shapes(8000, size=32, seed=4, device=budget.device)
    autoencoder = load_vae("vae-shapes", budget.device) if variant == "latent" else None
    items = data.images if autoencoder is None else autoencoder.to_latents(data.images)
    model = trained_denoiser(NETWORKS[variant], items, data.labels, seed, settings["steps"][variant], settings)
    return quality(model, tuple(items.shape[1:]), seed, settings, budget, autoencoder)


def quality(
    model: UNet,
    shape: tuple[int, ...],
    seed: int,
    settings: dict[str, Any],
    budget: Budget,
    autoencoder: AutoencoderKL | None,
) -> dict[str, float]:
    """Return QUALITY of samples, decoded where there is an autoencoder."""
    count, judge = settings["samples"], load_judge(budget.device)
    labels = (torch.arange(count) % 24).to(budget.device)
    noise = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1000 + seed)).to(budget.device)
    images = euler(Guided(model, labels, settings["guidance_scale"]), noise, SAMPLING_STEPS, RectifiedFlow())
    images = images.clamp(-1, 1) if autoencoder is None else autoencoder.from_latents(images)
    real = draw_shapes(2 * count, size=images.shape[-1], seed=77, device=budget.device).images
    return {"fd_judge": fd_judge(real, images, judge), "accuracy": prompt_accuracy(images, labels, judge)}


SOURCES = (flow, guidance, samplers, shapes, train, unet, vae)
EXPERIMENTS = (
    Experiment(
        "latent_channels",
        "How many channels should a latent have?",
        CHANNELS,
        RECONSTRUCTION | QUALITY,
        channel_settings,
        measure_channels,
        SOURCES,
    ),
    Experiment(
        "pixel_latent",
        "Pixels or latents, at equal compute?",
        tuple(NETWORKS),
        QUALITY,
        compute_settings,
        measure_compute,
        SOURCES,
    ),
)
