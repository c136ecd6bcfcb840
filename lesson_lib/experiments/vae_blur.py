"""Why a pixel loss blurs: squared error, features and a discriminator, at three weights of the divergence."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

from lesson_lib import shapes, train, unet, vae
from lesson_lib.data import shapes as draw_shapes
from lesson_lib.evaluate import JUDGE_FILE, fd_judge, load_judge, psnr, sharpness
from lesson_lib.experiments.run import Experiment
from lesson_lib.setup import Budget
from lesson_lib.train import fit
from lesson_lib.vae import Adversaries, AutoencoderKL, PatchDiscriminator, VAEConfig, autoencoder_loss

KL_WEIGHTS = [1e-6, 1e-3, 1e-1]
VARIANTS: dict[str, dict[str, Any]] = {
    "l2": {},
    "l2 + perceptual": {"perceptual_weight": 0.05},
    "l2 + perceptual + adversarial": {"perceptual_weight": 0.05, "adversarial_weight": 0.5},
}
METRICS = {
    "psnr": "peak signal-to-noise ratio of held-out reconstructions in dB; higher is better",
    "fd_judge": "Fréchet distance of reconstructions to other held-out pictures; lower is better",
    "sharpness": "squared differences of neighbouring pixels over the pictures' own; 1 is as sharp as the pictures",
}


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set. The discriminator joins for the last two fifths of the steps."""
    return {
        "data": "shapes, 16×16, one or two objects, 8,000 images",
        "channels": 16,
        "channel_mult": [1, 2, 4],
        "latent_channels": 4,
        "steps": budget.choose(smoke=5, laptop=400, gpu=4000),
        "batch_size": 32,
        "lr": 2e-3,
        "pictures": budget.choose(smoke=72, laptop=1000, gpu=5000),
        "judge_sha256": hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest(),
    }


def trained(
    images: Tensor, seed: int, settings: dict[str, Any], budget: Budget, kl_weight: float, terms: dict[str, Any]
) -> AutoencoderKL:
    """Return an autoencoder of 16×16 pictures, trained with a squared error and further terms of autoencoder_loss."""
    config = VAEConfig(
        channels=settings["channels"], channel_mult=tuple(settings["channel_mult"]),
        latent_channels=settings["latent_channels"],
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Adversaries(AutoencoderKL(config), PatchDiscriminator()).to(budget.device)
    recipe = {"batch_size": settings["batch_size"], "lr": settings["lr"], "ema": 0.99, "progress": False}
    late = 2 * settings["steps"] // 5 if "adversarial_weight" in terms else 0
    maps = load_judge(budget.device).maps
    early_terms = {name: value for name, value in terms.items() if name != "adversarial_weight"}
    loss = autoencoder_loss(pixel="l2", kl_weight=kl_weight, features=maps, **early_terms)
    fit(model, (images,), loss, steps=settings["steps"] - late, warmup=50, seed=seed, **recipe)
    if late:
        loss = autoencoder_loss(pixel="l2", kl_weight=kl_weight, features=maps, **terms)
        fit(model, (images,), loss, steps=late, warmup=20, seed=seed + 1000, **recipe)
    return model.vae.eval()


def measure(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Return METRICS at each weight of the divergence; the decoder sees a draw from each picture's Gaussian."""
    images = draw_shapes(8000, size=16, objects=(1, 2), seed=3, device=budget.device).images
    count, judge = settings["pictures"], load_judge(budget.device)
    real = draw_shapes(count, size=16, objects=(1, 2), seed=77, device=budget.device).images
    others = draw_shapes(2 * count, size=16, objects=(1, 2), seed=78, device=budget.device).images
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for kl_weight in KL_WEIGHTS:
        model = trained(images, seed, settings, budget, kl_weight, VARIANTS[variant])
        made = model.from_latents(model.to_latents(real, budget.generator(seed)))
        found["psnr"].append(psnr(made, real))
        found["fd_judge"].append(fd_judge(others, made, judge))
        found["sharpness"].append(sharpness(made, real))
    return found


EXPERIMENTS = (
    Experiment(
        "vae_blur",
        "Which loss makes reconstructions sharp, and what does the divergence cost?",
        tuple(VARIANTS),
        METRICS,
        settings,
        measure,
        (shapes, train, unet, vae),
        ("weight of the divergence", KL_WEIGHTS),
    ),
)
