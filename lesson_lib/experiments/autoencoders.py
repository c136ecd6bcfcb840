"""Train and ship the two autoencoders: python -m lesson_lib.experiments shipped --model vae-shapes."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesson_lib import DATA, ROOT, plot
from lesson_lib.data import hub, shapes
from lesson_lib.evaluate import load_judge, psnr, sharpness
from lesson_lib.experiments.run import folder_for
from lesson_lib.setup import Budget
from lesson_lib.train import TrainRecord, fit, load_model, save_model
from lesson_lib.vae import Adversaries, AutoencoderKL, VAEConfig, autoencoder_loss, scale_factor

CHECKPOINTS = DATA / "checkpoints"


@dataclass(frozen=True)
class VAERecipe:
    """One shipped autoencoder: its data, its size, the terms of its loss and how long it learns."""

    data: str
    config: VAEConfig
    steps: int
    perceptual_weight: float
    kl_weight: float = 1e-3
    lr: float = 2e-3


SMALL = VAEConfig(channels=16, channel_mult=(1, 2, 4))
VAE_RECIPES = {
    "vae-shapes": VAERecipe("shapes", SMALL, steps=2000, perceptual_weight=0.05),
    "vae-fashion": VAERecipe("fashion_mnist", replace(SMALL, in_channels=1), steps=3000, perceptual_weight=0.0),
}


def load_vae(name: str, device: str | torch.device = "cpu", folder: Path = CHECKPOINTS) -> AutoencoderKL:
    """Return a shipped autoencoder, ready to use; raises ValueError, listing the names, for another."""
    if name not in VAE_RECIPES:
        raise ValueError(f"there is no shipped autoencoder {name!r}; there are {', '.join(VAE_RECIPES)}")
    vae = load_model(folder / f"{name}.safetensors", build_vae)
    assert isinstance(vae, AutoencoderKL)
    return vae.requires_grad_(False).to(device)


def build_vae(config: dict[str, Any]) -> AutoencoderKL:
    """Build the untrained autoencoder of a checkpoint's configuration."""
    return AutoencoderKL(VAEConfig(**{**config, "channel_mult": tuple(config["channel_mult"])}))


def pictures(recipe: VAERecipe, split: str, count: int, folder: str | None = None) -> Tensor:
    """Return pictures (N, C, 32, 32) of a recipe's data; Fashion-MNIST needs a network or a local folder."""
    if recipe.data == "shapes":
        return shapes(count, size=32, objects=(1, 2), seed=31 if split == "train" else 32).images
    return hub(folder or recipe.data, split, size=32, limit=count).images


def ship_vae(name: str, budget: Budget, out: Path | None = None, data: str | None = None) -> tuple[TrainRecord, str]:
    """Train one autoencoder, continuing where an earlier run was stopped, and write it with a figure to out.

    Returns the record and the Markdown section of its card. out: data/checkpoints, or build/checkpoints at the smoke
    budget. The scale factor is measured on the training pictures and stands in the file's configuration. data: a local
    folder with the pictures of the hub.
    """
    recipe = VAE_RECIPES[name]
    out = out or folder_for(budget, CHECKPOINTS)
    steps = budget.choose(smoke=4, laptop=recipe.steps, gpu=4 * recipe.steps)
    images = pictures(recipe, "train", budget.choose(smoke=100, laptop=40_000), data).to(budget.device)
    torch.manual_seed(0)
    model = Adversaries(AutoencoderKL(recipe.config)).to(budget.device)
    features = load_judge(budget.device).maps if recipe.perceptual_weight else None
    loss = autoencoder_loss(
        kl_weight=recipe.kl_weight, perceptual_weight=recipe.perceptual_weight, features=features
    )  # fmt: skip
    part = ROOT / "build" / "experiments" / f"shipped-{name}-{budget.name}.safetensors"
    part.parent.mkdir(parents=True, exist_ok=True)
    record = fit(
        model, (images,), loss, steps=steps, batch_size=32, lr=recipe.lr, warmup=100, ema=0.999,
        checkpoint=part, resume=True,
    )  # fmt: skip
    config = replace(recipe.config, scale=round(scale_factor(model.vae.to_latents(images[:5000])), 4))
    path = out / f"{name}.safetensors"
    out.mkdir(parents=True, exist_ok=True)
    save_model(path, model.vae, asdict(config))
    return record, _section(path, recipe, record, budget, data)


def reconstruction_quality(
    name: str, budget: Budget, folder: Path = CHECKPOINTS, data: str | None = None
) -> dict[str, float]:
    """Return psnr and sharpness of held-out reconstructions; of shapes also the share that the judge still reads."""
    recipe, vae = VAE_RECIPES[name], load_vae(name, budget.device, folder)
    count = budget.choose(smoke=50, laptop=2000)
    real = pictures(recipe, "test", count, data)
    made = vae.from_latents(vae.to_latents(real.to(budget.device))).cpu()
    found = {"psnr": psnr(made, real), "sharpness": sharpness(made, real)}
    if recipe.data == "shapes":
        wanted = shapes(count, size=32, objects=(1, 2), seed=32).attributes
        read = load_judge(budget.device).read(made)
        asked = {name: values >= 0 for name, values in wanted.items() if name in read}
        right = sum(int((read[name] == wanted[name])[mask].sum()) for name, mask in asked.items())
        found["attributes read"] = right / sum(int(mask.sum()) for mask in asked.values())
    return found


def _figure(path: Path, recipe: VAERecipe, data: str | None) -> Path:
    """Write the picture of the card: held-out pictures, their latents' four channels, and their reconstructions."""
    vae = load_vae(path.stem, folder=path.parent)
    real = pictures(recipe, "test", 10, data)
    latents = vae.to_latents(real)
    made = vae.from_latents(latents)
    rows = {"held-out pictures": real, "reconstructions": made}
    for channel in range(latents.shape[1]):
        small = latents[:, channel : channel + 1] / 3
        rows[f"latent channel {channel}"] = small.repeat_interleave(4, 2).repeat_interleave(4, 3).expand_as(real)
    with plot.capture() as caught:
        plot.sample_rows(rows, alt="Held-out pictures, their reconstructions, and the four channels of their latents")
    figure = path.with_suffix(".png")
    figure.write_bytes(caught[0])
    return figure


def _section(path: Path, recipe: VAERecipe, record: TrainRecord, budget: Budget, data: str | None) -> str:
    """Return the card of one autoencoder in Markdown; every number in it is measured or read from the record."""
    vae = load_vae(path.stem, folder=path.parent)
    figure = _figure(path, recipe, data)
    quality = reconstruction_quality(path.stem, budget, path.parent, data)
    weights = sum(weight.numel() for weight in vae.parameters())
    channels = recipe.config.in_channels
    words = "shapes (one or two objects)" if recipe.data == "shapes" else "Fashion-MNIST (real pictures, MIT licence)"
    terms = f"L1, KL weight {recipe.kl_weight:g}"
    if recipe.perceptual_weight:
        terms += f", perceptual term {recipe.perceptual_weight:g} on the judge's maps"
    judged = f"; the judge reads {quality['attributes read']:.2%} of the attributes" if recipe.data == "shapes" else ""
    return (
        f"## {path.name}\n\n"
        f"**What.** A KL autoencoder of {weights:,} weights for {words}: 32×32×{channels} to 8×8×4 and back. Scale "
        f"factor {vae.config.scale:g}, measured on training pictures.\n\n"
        f"**How made.** `python -m lesson_lib.experiments shipped --model {path.stem} --budget {budget.name}`: "
        f"{record.steps:,} steps of batch {record.config['batch_size']}, {terms}, averaged weights; "
        f"{record.seconds / 60:.0f} minutes on {record.device}.\n\n"
        f"**File.** {path.stat().st_size:,} bytes, sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`.\n\n"
        f"**Quality**, on held-out pictures through the latents' means: PSNR {quality['psnr']:.1f} dB, sharpness "
        f"{quality['sharpness']:.2f} of the pictures' own{judged}.\n\n"
        f"![Held-out pictures, their reconstructions by {path.stem} and their latents]({figure.name})\n"
    )
