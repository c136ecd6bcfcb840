"""Train and ship the judge of the shapes set: python -m lesson_lib.experiments judge."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.data import ImageSet, shapes
from lesson_lib.evaluate import HEADS, JUDGE_FILE, Judge, load_judge
from lesson_lib.experiments.run import folder_for
from lesson_lib.setup import Budget
from lesson_lib.train import fit, save_model

TRAIN_SEED, TEST_SEED = 1_001, 2_002


def targets_of(attributes: Mapping[str, Tensor]) -> Tensor:
    """Return the judge's targets (N, 10) as int64: one column a slot, in the order of HEADS, -1 where absent."""
    count = attributes["count"] - 1
    return torch.cat(
        [(count if name == "count" else attributes[name]).reshape(len(count), -1) for name in HEADS], dim=1
    )


def augment(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Spoil pictures a little, as samplers do: a slight blur, a shift of contrast and brightness, Gaussian noise.

    images: (B, 3, H, W) in [-1, 1]. Each picture draws its own strengths, and keeps each property with probability 1/4.
    Returns the pictures and the strengths (B, 4) from 0 to 1 (brightness: from -1 to 1), in the order of SPOILT.
    """
    draw = torch.rand(len(images), 5, generator=generator, device=images.device)
    strengths = (draw[:, :4] - 0.25).clamp(min=0) / 0.75
    strengths[:, 2] *= (draw[:, 4] < 0.5).float() * 2 - 1
    blur, contrast, brightness, noise = strengths[:, :, None, None, None].unbind(dim=1)
    line = torch.tensor([0.25, 0.5, 0.25], device=images.device)
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    images = images + 0.6 * blur * (blurred - images)
    images = images * (1 - 0.25 * contrast) + 0.15 * brightness
    images = images + 0.15 * noise * torch.randn(images.shape, generator=generator, device=images.device)
    return images.clamp(-1, 1), strengths


def judge_loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """Return the summed cross-entropy of the attributes that a picture has, and the error in how spoilt it is.

    batch: pictures at 32×32 and at 16×16, uint8, of the same scenes, and their targets; half are shown at 16×16.
    A small weight on the features' size keeps them, and with them FD-judge, at a scale of about 1.
    """
    large, small, targets = batch
    half = len(large) // 2
    (large, spoilt_large), (small, spoilt_small) = (
        augment(part.float() / 127.5 - 1, generator) for part in (large[:half], small[half:])
    )
    small = F.interpolate(small, scale_factor=2, mode="nearest")
    logits, spoilt, features = model(torch.cat([large, small]))
    parts = targets.split([slots for slots, _ in HEADS.values()], dim=1)
    losses = [
        F.cross_entropy(logits[name].flatten(0, 1), part.flatten(), ignore_index=-1)
        for name, part in zip(HEADS, parts, strict=True)
    ]
    losses.append(3 * F.mse_loss(spoilt, torch.cat([spoilt_large, spoilt_small])))
    losses.append(0.01 * features.square().mean())
    return torch.stack(losses).sum()


def accuracies(judge: Judge, scenes: ImageSet) -> dict[str, float]:
    """Return the share of slots that the judge reads rightly, attribute by attribute, where the attribute exists.

    "all" is the share of pictures on which every attribute is right.
    """
    found = judge.read(scenes.images)
    shares, whole = {}, torch.ones(len(scenes), dtype=torch.bool)
    for name in HEADS:
        wanted = scenes.attributes[name].cpu()
        asked = wanted >= 0
        right = found[name] == wanted
        shares[name] = right[asked].float().mean().item()
        whole &= (right | ~asked).reshape(len(scenes), -1).all(dim=1)
    return shares | {"all": whole.float().mean().item()}


def _pool(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return training scenes at both sizes as uint8, and their targets, made in parts so that memory stays small."""
    large: list[Tensor] = []
    small: list[Tensor] = []
    targets: list[Tensor] = []
    for part in range(0, count, 5_000):
        size = min(5_000, count - part)
        for store, pixels in ((large, 32), (small, 16)):
            scenes = shapes(size, size=pixels, objects=(1, 2), seed=TRAIN_SEED + part)
            store.append(((scenes.images + 1) * 127.5).round().to(torch.uint8))
        targets.append(targets_of(scenes.attributes))
    return torch.cat(large), torch.cat(small), torch.cat(targets)


def run(budget: Budget, out: Path | None = None, steps: int | None = None) -> dict[str, dict[str, float]]:
    """Train the judge, write it to out/judge.safetensors and return its held-out accuracies: size → attribute → share.

    out: data/checkpoints, or build/checkpoints at the smoke budget. steps: instead of the budget's.
    """
    smoke, device = budget.name == "smoke", budget.device
    path = (out or folder_for(budget, JUDGE_FILE.parent)) / JUDGE_FILE.name
    tensors = tuple(tensor.to(device) for tensor in _pool(1_000 if smoke else 60_000))
    torch.manual_seed(0)
    judge = Judge().to(device)
    record = fit(
        judge, tensors, judge_loss, steps=steps or (20 if smoke else 3_000), batch_size=128, lr=2e-3,
        weight_decay=1e-4, warmup=100, ema=0.998, seed=0,
    )  # fmt: skip
    save_model(path, judge, {"width": 32, "feature_width": 64})
    judge = load_judge(path=path)  # what is measured is what is shipped, half precision included
    held_out = {
        f"{size}×{size}": accuracies(judge, shapes(500 if smoke else 10_000, size=size, objects=(1, 2), seed=TEST_SEED))
        for size in (32, 16)
    }
    print(f"{record.steps} steps in {record.seconds:.0f} s; {path.stat().st_size:,} bytes")
    print(f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}")
    for size, shares in held_out.items():
        print(f"{size}: " + ", ".join(f"{attribute} {share:.2%}" for attribute, share in shares.items()))
    return held_out
