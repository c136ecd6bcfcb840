"""Train a DiT of the paper, or a small one of the course, on one device or on many.

torchrun --nproc-per-node 8 -m lesson_lib.experiments.train_dit --preset B/2 --data FILE.safetensors --checkpoint FILE
README.md beside this file says what the files hold, what it costs, and how to go on after a crash.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lesson_lib import processes
from lesson_lib.checkpoint import load_model, save_model
from lesson_lib.data import OFFLINE, digits, hub, shapes
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.experiments.autoencoders import VAE_RECIPES, build_vae, load_vae
from lesson_lib.noise import Diffusion
from lesson_lib.train import TrainRecord, denoising_loss, fit
from lesson_lib.vae import AutoencoderKL

SMALL = ("shapes16", "latent8", "digits")  # the course's own sizes, beside the paper's S/8 to XL/2


def main(arguments: list[str] | None = None) -> int:
    """Train, write the training state and the averaged model, print what it cost; return the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        with processes.start_processes() as device:
            record = train(options, device)
            if processes.index() == 0:
                print(f"{summary(record)}\nThe averaged model: {averaged_path(options.checkpoint)}")
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    return 0


def train(options: argparse.Namespace, device: torch.device) -> TrainRecord:
    """Train what the command line asks for, by DiT's published recipe where it asks for nothing else."""
    items, labels, classes = load_data(options.data, options.size, options.limit, options.vae, device)
    config = config_for(options.preset, items, classes)
    torch.manual_seed(options.seed)
    model = DiT(config).to(device)
    process = Diffusion.linear(variance="learned" if config.learn_sigma else "small")
    record = fit(
        model, (items, labels), denoising_loss(process, label_dropout=options.label_dropout), steps=options.steps,
        batch_size=options.batch_size, lr=options.lr, warmup=options.warmup, clip=options.clip, ema=options.ema,
        seed=options.seed, checkpoint=options.checkpoint, every=options.every, resume=options.resume,
        shard=options.shard,
    )  # fmt: skip
    save_model(averaged_path(options.checkpoint), model, dataclasses.asdict(config))
    processes.wait()
    return record


def summary(record: TrainRecord) -> str:
    """Return one line on what a training did and cost."""
    recent = record.losses[-1000:]
    return (
        f"{record.steps:,} steps in {record.seconds / 3600:.2f} hours, {record.images_per_second:,.0f} pictures a "
        f"second, {record.peak_memory_mb:,.0f} MiB at most in one process; the mean of the last {len(recent)} losses "
        f"is {sum(recent) / max(1, len(recent)):.4f}."
    )


def averaged_path(checkpoint: Path) -> Path:
    """Return where the model with the averaged weights is written, beside the training state."""
    return checkpoint.with_name(f"{checkpoint.stem}-averaged.safetensors")


def load_trained(path: Path | str) -> DiT:
    """Return a model that this command has written, on the CPU."""
    model = load_model(path, lambda config: DiT(DiTConfig(**config)))
    assert isinstance(model, DiT)
    return model


def config_for(preset: str, items: Tensor, classes: int) -> DiTConfig:
    """Return the configuration of a preset for pictures or latents (N, C, side, side) of so many classes.

    Raises ValueError for an unknown preset, a picture that is not square, or a side that the patches do not divide.
    """
    _, channels, height, width = items.shape
    if height != width:
        raise ValueError(f"a DiT of this course reads squares; these are {height}×{width}")
    fitted: dict[str, Any] = {"input_size": height, "in_channels": channels, "num_classes": classes}
    if preset in SMALL:
        return dataclasses.replace(getattr(DiTConfig, preset)(), **fitted)
    try:
        return dataclasses.replace(DiTConfig.paper(preset, input_size=32), **fitted)
    except ValueError as error:
        raise ValueError(f"--preset {preset}: {error}; the course's own sizes are {', '.join(SMALL)}") from error


def load_data(
    name: str, size: int, limit: int | None, vae: str | None, device: torch.device
) -> tuple[Tensor, Tensor, int]:  # fmt: skip
    """Return pictures or latents (N, C, side, side), labels (N,), and how many classes there are.

    name: "shapes", "digits", a set of the hub such as "fashion_mnist", a folder of Parquet files, or a safetensors file
    with the tensors latents (N, C, side, side), scaled to about unit variance, and labels (N,). vae: an autoencoder of
    this course, by name or as a file, that turns pictures into latents. Raises ValueError or FileNotFoundError.
    """
    if name.endswith(".safetensors"):
        if vae:
            raise ValueError(f"{name} holds latents already: leave --vae out")
        latents, labels = _read_latents(Path(name), limit, device)
        return latents, labels, int(labels.max()) + 1
    if name.endswith((".pt", ".pth", ".npy")):
        raise ValueError(f"{name}: write latents to a safetensors file; loading a pickle runs what is inside it")
    if name == "shapes":
        found = shapes(limit or 20_000, size=size, seed=11)
    elif name == "digits":
        found = digits("train")
    else:
        try:
            found = hub(name, "train", size=size, limit=limit)
        except ConnectionError as error:
            raise ValueError(str(error)) from error
    if not len(found.labels):
        raise ValueError(f"{name} has no labels, and this DiT learns classes. {OFFLINE}")
    images, labels = found.images[:limit], found.labels[:limit]
    items = _autoencoder(vae, device).to_latents(images.to(device)) if vae else images
    return items, labels, len(found.class_names)


def _read_latents(path: Path, limit: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """Read a file straight to the device: eight processes would otherwise fill the machine's memory eight times."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = set(file.keys())
            if not {"latents", "labels"} <= names:
                there = ", ".join(sorted(names)) or "nothing"
                raise ValueError(
                    f"{path} holds {there}; the tensors latents (N, C, side, side) and labels (N,) are needed"
                )
            latents, labels = file.get_slice("latents")[:limit], file.get_slice("labels")[:limit].long()
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); write or copy it again") from error
    if latents.ndim != 4 or labels.shape != latents.shape[:1] or not latents.is_floating_point():
        kind = f"latents {tuple(latents.shape)} {latents.dtype} and labels {tuple(labels.shape)}"
        raise ValueError(f"{path} holds {kind}; it should be (N, C, side, side) numbers and (N,)")
    if not len(labels) or int(labels.min()) < 0:
        raise ValueError(f"{path} holds {len(labels)} labels; there should be at least one, and none below 0")
    return latents, labels


def _autoencoder(name: str, device: torch.device) -> AutoencoderKL:
    if name in VAE_RECIPES:
        return load_vae(name, device)
    if not Path(name).is_file():
        raise FileNotFoundError(f"--vae {name} is neither a file nor one of {', '.join(VAE_RECIPES)}")

    vae = load_model(name, build_vae)
    assert isinstance(vae, AutoencoderKL)
    return vae.requires_grad_(False).to(device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="train_dit", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--preset", required=True, help=f"S/8 to XL/2 as in the paper, or {', '.join(SMALL)}")
    add("--data", required=True, help="shapes, digits, a hub set, a folder of Parquet files, or latents.safetensors")
    add("--checkpoint", required=True, type=Path, help="the training state; the averaged model is written beside it")
    add("--vae", help=f"train on latents of the pictures: {', '.join(VAE_RECIPES)}, or a file of such a model")
    add("--size", type=int, default=32, help="side of the pictures in pixels (default 32; digits have 8)")
    add("--limit", type=int, help="take only so many pictures")
    add("--steps", type=int, default=400_000, help="default 400,000, as in the paper's comparisons")
    add("--batch-size", type=int, default=256, help="of all processes together (default 256)")
    add("--lr", type=float, default=1e-4)
    add("--warmup", type=int, default=0)
    add("--clip", type=float, default=0.0, help="largest norm of the gradients; 0, the default, for none")
    add("--ema", type=float, default=0.9999)
    add("--label-dropout", type=float, default=0.1)
    add("--seed", type=int, default=0)
    add("--every", type=int, default=5000, help="steps between two writings of the training state")
    add("--resume", action="store_true", help="continue the file of --checkpoint where there is one")
    add("--shard", action="store_true", help="each process keeps only its share of the weights (FSDP2)")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
