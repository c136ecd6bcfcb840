"""Train and ship the models that the lessons sample from: python -m lesson_lib.experiments shipped."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesson_lib import ROOT, plot
from lesson_lib.data import digits, hub, shapes
from lesson_lib.denoiser import ConvDenoiser
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.evaluate import digit_judge, load_judge, prompt_hits, trained_parameters
from lesson_lib.experiments.autoencoders import CHECKPOINTS, VAE_RECIPES, load_vae, ship_vae
from lesson_lib.experiments.classifiers import VIT_RECIPES, load_vit, right, ship_vit
from lesson_lib.experiments.dit_training import LearnedTable
from lesson_lib.experiments.dit_training import build as build_network
from lesson_lib.experiments.run import folder_for
from lesson_lib.experiments.text_models import TEXT_RECIPES, ship_text
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.noise import Diffusion
from lesson_lib.results import proportion_interval
from lesson_lib.samplers import SAMPLERS
from lesson_lib.setup import Budget
from lesson_lib.train import TrainRecord, denoising_loss, fit, load_model, save_model
from lesson_lib.unet import UNet, UNetConfig


@dataclass(frozen=True)
class Recipe:
    """One shipped denoiser: its data, what it predicts ("flow" or "eps"), its size and how long it learns.

    data: a key of DATA_SETS. A U-Net or a DiT is named by its preset (unet, dit); a ConvDenoiser has width, depth and
    patch_size. positions: of a DiT, where they are not its preset's. cooldown: the share of the steps, at the end, in
    which the learning rate falls to 0.
    """

    data: str
    predicts: str
    steps: int
    width: int = 0
    depth: int = 0
    patch_size: int = 0
    unet: str = ""
    dit: str = ""
    positions: str = ""
    lr: float = 2e-3
    batch_size: int = 64
    cooldown: float = 0.0


@dataclass(frozen=True)
class DataSet:
    """What a denoiser learns from, in words, the shape of one item, and its number of classes."""

    words: str
    shape: tuple[int, int, int]
    classes: int


DATA_SETS = {
    "shapes": DataSet("shapes (one object, 32×32)", (3, 32, 32), 24),
    "shapes-16": DataSet("shapes (one object, 16×16)", (3, 16, 16), 24),
    "latents": DataSet("shapes (one object, 32×32, as 8×8×4 latents of vae-shapes)", (4, 8, 8), 24),
    "fashion-latents": DataSet("Fashion-MNIST (real pictures, as 8×8×4 latents of vae-fashion)", (4, 8, 8), 10),
    "digits": DataSet("scikit-learn's digits (8×8, training split)", (1, 8, 8), 10),
}


RECIPES = {
    "shapes-flow": Recipe("shapes", "flow", steps=9000, width=96, depth=5, patch_size=4),
    "digits-flow": Recipe("digits", "flow", steps=2500, width=48, depth=4, patch_size=1),
    "digits-eps": Recipe("digits", "eps", steps=2500, width=48, depth=4, patch_size=1),
    "unet-shapes": Recipe("shapes-16", "flow", steps=4000, unet="shapes16"),
    "latent-shapes": Recipe("latents", "flow", steps=3000, unet="latent8"),
    "dit-shapes": Recipe("shapes-16", "flow", steps=7000, dit="shapes16", batch_size=32, cooldown=0.3),
    "dit-fashion": Recipe("fashion-latents", "flow", steps=5000, dit="latent8", batch_size=32, cooldown=0.3),
}

for kind in ("none", "learned", "axial", "mixed"):
    RECIPES[f"dit-shapes-{kind}"] = replace(RECIPES["dit-shapes"], positions=kind)

# What the card of a DiT says of its positions; nothing of those of its preset.
POSITIONS = {
    "": "",
    "none": ", without positions,",
    "learned": f", with a learned table of places that starts as N(0, {LearnedTable.table_start}²),",
    "axial": ", with axial rotations,",
    "mixed": ", with mixed rotations,",
}

# In an order in which they can be trained: latents need their autoencoder, and dit-fashion is judged by vit-fashion.
ALL = (*VAE_RECIPES, *VIT_RECIPES, *RECIPES, *TEXT_RECIPES)


def process_of(predicts: str) -> RectifiedFlow | Diffusion:
    """Return the process of the shipped models: a flow trained mostly on middle times, or cosine noise prediction."""
    return RectifiedFlow(time="logit-normal") if predicts == "flow" else Diffusion.cosine(clip=True)


Denoiser = ConvDenoiser | UNet | DiT


def build(config: dict[str, Any]) -> Denoiser:
    """Build the untrained network of a checkpoint's configuration."""
    if config.get("unet"):
        return UNet(getattr(UNetConfig, config["unet"])())
    if config.get("dit"):
        kind = config.get("positions")
        preset: DiTConfig = getattr(LearnedTable if kind == "learned" else DiTConfig, config["dit"])()
        return build_network(replace(preset, positions=kind or preset.positions))
    data = DATA_SETS[config["data"]]
    size = {name: config[name] for name in ("patch_size", "width", "depth")}
    return ConvDenoiser(data.shape[0], num_classes=data.classes, **size)


def load_shipped(
    name: str, device: str | torch.device = "cpu", folder: Path = CHECKPOINTS
) -> tuple[Denoiser, RectifiedFlow | Diffusion]:
    """Return a shipped denoiser and its process; raises ValueError, listing the names, for another."""
    if name not in RECIPES:
        raise ValueError(f"there is no shipped model {name!r}; there are {', '.join(RECIPES)}")
    model = load_model(folder / f"{name}.safetensors", build)
    assert isinstance(model, Denoiser)
    return model.to(device), process_of(RECIPES[name].predicts)


def tensors_of(
    data: str, count: int, folder: Path = CHECKPOINTS, pictures: str | None = None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return (items, labels) of a data set to train on; digits ignores count.

    folder: of the autoencoders. pictures: a local folder with the pictures of the hub.
    """
    if data == "digits":
        return digits("train").images, digits("train").labels
    if data == "fashion-latents":
        real = hub(pictures or "fashion_mnist", "train", size=32, limit=count)
        return load_vae("vae-fashion", folder=folder).to_latents(real.images), real.labels
    found = shapes(count, size=16 if data == "shapes-16" else 32, seed=11)
    images = load_vae("vae-shapes", folder=folder).to_latents(found.images) if data == "latents" else found.images
    return images, found.labels


def ship(name: str, budget: Budget, out: Path | None = None, data: str | None = None) -> TrainRecord:
    """Train one shipped model, continuing where an earlier run was stopped; write it to out/NAME.safetensors.

    The section of the model in out/README.md is written anew, with its checksum and its measured quality.
    out: data/checkpoints, or build/checkpoints at the smoke budget, which must not replace what is shipped.
    data: a local folder with the pictures that the models of Fashion-MNIST would get from the hub, or with the emoji.
    """
    out = out or folder_for(budget, CHECKPOINTS)
    if name in VAE_RECIPES:
        record, text = ship_vae(name, budget, out, data)
    elif name in VIT_RECIPES:
        record, text = ship_vit(name, budget, out, data)
    elif name in TEXT_RECIPES:
        record, text = ship_text(name, budget, out, data)
    else:
        record, text = _ship_denoiser(name, budget, out, data)
    _write_section(out / "README.md", text)
    print(text)
    return record


def _ship_denoiser(name: str, budget: Budget, out: Path, data: str | None) -> tuple[TrainRecord, str]:
    recipe = RECIPES[name]
    steps = budget.choose(smoke=4, laptop=recipe.steps, gpu=4 * recipe.steps, long=10 * recipe.steps)
    torch.manual_seed(0)
    model = build(asdict(recipe)).to(budget.device)
    tensors = tensors_of(recipe.data, budget.choose(smoke=100, laptop=20_000), pictures=data)
    part = ROOT / "build" / "experiments" / f"shipped-{name}-{budget.name}.safetensors"
    part.parent.mkdir(parents=True, exist_ok=True)
    loss = denoising_loss(process_of(recipe.predicts), label_dropout=0.1)
    record = fit(
        model, tensors, loss, steps=steps, batch_size=recipe.batch_size, lr=recipe.lr, warmup=100,
        cooldown=round(recipe.cooldown * steps), ema=0.999, checkpoint=part, resume=True
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    save_model(path, model, asdict(recipe))
    return record, _section(path, recipe, record, budget)


def quality(name: str, scale: float, budget: Budget, folder: Path = CHECKPOINTS) -> tuple[int, int]:
    """Return how many of how many samples of a shipped model show the class that was asked for, at a guidance scale."""
    count = budget.choose(smoke=24, laptop=480)
    images, labels = sampled(name, count, scale, budget, folder)
    if RECIPES[name].data == "digits":
        return int((digit_judge().read(images.cpu()) == labels.cpu()).sum()), count
    if RECIPES[name].data == "fashion-latents":
        return right(load_vit("vit-fashion", budget.device), images, labels), count
    return int(prompt_hits(images, labels, load_judge(budget.device))["all"].sum()), count


@torch.no_grad()
def sampled(
    name: str, count: int, scale: float, budget: Budget, folder: Path = CHECKPOINTS
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return pictures (count, C, H, W) in [-1, 1] that a shipped model draws in 25 steps, and the classes asked for."""
    model, process = load_shipped(name, budget.device, folder)
    data = DATA_SETS[RECIPES[name].data]
    labels = (torch.arange(count) % model.num_classes).to(budget.device)
    noise = torch.randn(count, *data.shape, generator=torch.Generator().manual_seed(5)).to(budget.device)
    sampler = SAMPLERS["euler" if isinstance(process, RectifiedFlow) else "ddim"]
    images = sampler(Guided(model, labels, scale), noise, 25, process)
    autoencoder = {"latents": "vae-shapes", "fashion-latents": "vae-fashion"}.get(RECIPES[name].data)
    if autoencoder:
        images = load_vae(autoencoder, budget.device).from_latents(images)
    return images.clamp(-1, 1), labels


def _section(path: Path, recipe: Recipe, record: TrainRecord, budget: Budget) -> str:
    """Return the card of one model in Markdown; every number in it is measured or read from the record."""
    model = build(asdict(recipe))
    weights = trained_parameters(model)
    reader = "vit-fashion" if recipe.data == "fashion-latents" else "the judge"
    target = "velocity of a rectified flow" if recipe.predicts == "flow" else "noise, on a cosine schedule"
    shares = []
    for scale in (1.0, 2.0):
        hits, count = quality(path.stem, scale, budget, path.parent)
        share, low, high = proportion_interval(hits, count)
        shares.append(f"{share:.1%} [{low:.1%}, {high:.1%}] at guidance scale {scale:g}")
    return (
        f"## {path.name}\n\n"
        f"**What.** A {type(model).__name__} of {weights:,} weights{POSITIONS[recipe.positions]} that predicts "
        f"the {target}, for one class of {DATA_SETS[recipe.data].words}.\n\n"
        f"**How made.** `python -m lesson_lib.experiments shipped --model {path.stem} --budget {budget.name}`: "
        f"{record.steps:,} steps of batch {record.config['batch_size']}, 10 % of the labels dropped, averaged weights; "
        f"{record.seconds / 60:.0f} minutes on {record.device}.\n\n"
        f"**File.** {path.stat().st_size:,} bytes, sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`.\n\n"
        f"**Quality.** Share of {count} samples (25 steps) in which {reader} reads the class that was asked for, with "
        f"95 % Wilson intervals: {'; '.join(shares)}.\n"
        f"{_picture(path, budget) if recipe.dit else ''}"
    )


def _picture(path: Path, budget: Budget) -> str:
    """Write samples of a model beside its file, a column for each class; return the line for the card."""
    classes = DATA_SETS[RECIPES[path.stem].data].classes
    images, _ = sampled(path.stem, 4 * classes, 2.0, budget, path.parent)
    with plot.capture() as caught:
        rows = {f"noise {i + 1}": part.cpu() for i, part in enumerate(images.split(classes))}
        plot.sample_rows(rows, alt=f"Samples of {path.stem}, one column for each class")
    figure = path.with_suffix(".png")
    figure.write_bytes(caught[0])
    return f"\n![Samples of {path.stem}, one column for each class, guidance scale 2]({figure.name})\n"


def _write_section(card: Path, section: str) -> None:
    """Put a section into the card in place of the one with the same heading, or at the end."""
    text = card.read_text(encoding="utf-8") if card.exists() else "# Checkpoints\n"
    heading = section.splitlines()[0]
    parts = re.split(r"(?m)^(?=## )", text)
    parts = [part for part in parts if part.splitlines()[:1] != [heading]]
    card.write_text("\n".join(part.rstrip("\n") + "\n" for part in [*parts, section]), encoding="utf-8")
