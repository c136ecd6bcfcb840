"""The shipped models that draw from a text: shapes from whole captions, and emoji from their names."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib import ROOT, plot
from lesson_lib.data import hub, shapes
from lesson_lib.evaluate import load_judge, prompt_hits
from lesson_lib.experiments.autoencoders import CHECKPOINTS
from lesson_lib.experiments.run import folder_for
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.mmdit import MMDiT, MMDiTConfig
from lesson_lib.results import hardware, proportion_interval
from lesson_lib.samplers import euler
from lesson_lib.setup import Budget
from lesson_lib.shapes import ImageSet
from lesson_lib.text import CaptionConfig, Captioned, CaptionEncoder, TextToImage, WordTokenizer
from lesson_lib.train import TrainRecord, denoising_loss, fit, load_model, save_model

SCALE, STEPS = 2.5, 25
EMOJI_GROUPS = ("Animals & Nature", "Food & Drink")
NEEDS_EMOJI = "the emoji need a folder with train.parquet (columns image, name and group): give it with --data FOLDER"


@dataclass(frozen=True)
class TextRecipe:
    """One shipped text-to-image model: its data, the size of its pictures and of its network, how long it learns."""

    data: str
    side: int
    patch_size: int = 4
    width: int = 96
    double: int = 2
    single: int = 3
    steps: int = 6000
    lr: float = 2e-3
    batch_size: int = 32

    def config(self, tokenizer: WordTokenizer) -> dict[str, Any]:
        """Return what a checkpoint must hold to be built again, in plain JSON."""
        encoder = CaptionConfig(tokenizer.words, tokenizer.length, self.width, num_heads=self.width // 32)
        network = replace(
            MMDiTConfig.shapes16(self.width), input_size=self.side, patch_size=self.patch_size, double=self.double,
            single=self.single, context_size=self.width, pooled_size=self.width,
        )  # fmt: skip
        return {"encoder": asdict(encoder), "network": asdict(network)}


TEXT_RECIPES = {
    "mmdit-shapes": TextRecipe("shapes", side=16),
    "mmdit-emoji": TextRecipe("emoji", side=32, steps=4000),
}


def build(config: dict[str, Any]) -> TextToImage:
    """Build the untrained model of a checkpoint's configuration."""
    encoder, network = _as_tuples(config["encoder"]), _as_tuples(config["network"])
    return TextToImage(CaptionEncoder(CaptionConfig(**encoder)), MMDiT(MMDiTConfig(**network)))


def _as_tuples(values: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}


def load_text(name: str, device: str | torch.device = "cpu", folder: Path = CHECKPOINTS) -> TextToImage:
    """Return a shipped text-to-image model, ready to use; raises ValueError, listing the names, for another."""
    if name not in TEXT_RECIPES:
        raise ValueError(f"there is no shipped text-to-image model {name!r}; there are {', '.join(TEXT_RECIPES)}")
    model = load_model(folder / f"{name}.safetensors", build)
    assert isinstance(model, TextToImage)
    return model.eval().requires_grad_(False).to(device)


@torch.no_grad()
def draw_captions(
    model: TextToImage, captions: Sequence[str], seed: int = 0, scale: float = SCALE, steps: int = STEPS,
    nothing: str = "",
) -> Tensor:  # fmt: skip
    """Return one picture for each caption, (B, 3, H, W) in [-1, 1].

    seed: of the noise. nothing: what the guided prediction is pushed away from, the empty caption or a negative prompt.
    Raises ValueError for words that the model does not know, naming the nearest that it does.
    """
    asked, config = Captioned(model, captions, nothing), model.network.config
    device, side = asked.ids.device, int(config.input_size)  # type: ignore[union-attr, arg-type]
    noise = torch.randn(len(captions), 3, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    guided = Guided(asked, torch.arange(len(captions), device=device), scale)
    return euler(guided, noise, steps, RectifiedFlow()).clamp(-1, 1)


def emoji(folder: str | None, limit: int | None = None) -> ImageSet:
    """Return the emoji of plants, animals and food with their names, at 32×32; no skin tones.

    folder: with train.parquet. Raises FileNotFoundError without one.
    """
    if not folder:
        raise FileNotFoundError(NEEDS_EMOJI)
    found = hub(folder, "train", label_column="group", caption_column="name")
    groups = [found.class_names.index(name) for name in EMOJI_GROUPS]
    rows = torch.isin(found.labels, torch.tensor(groups)).nonzero()[:limit, 0]
    return found.subset(rows)


def pictures(recipe: TextRecipe, count: int, folder: str | None) -> ImageSet:
    """Return what a recipe learns from; folder: of the emoji."""
    if recipe.data == "emoji":
        return emoji(folder, count)
    return shapes(count, size=recipe.side, objects=(1, 2), seed=11)


def nearest(images: Tensor, known: Tensor) -> Tensor:
    """Return for each picture (N, 3, H, W) which of the known ones (M, 3, H, W) lies nearest in the judge's features.

    The six maps inside the judge, each position's vector brought to length 1, as perceptual distances do. Returns (N,).
    """
    judge, features = load_judge(), []
    with torch.no_grad():
        for part in (images, known):
            maps = judge.maps(part.float().cpu())
            features.append(
                torch.cat([F.normalize(one, dim=1).flatten(1) / one[0, 0].numel() ** 0.5 for one in maps], 1)
            )
    return torch.cdist(features[0], features[1]).argmin(dim=1)


def ship_text(name: str, budget: Budget, out: Path | None = None, data: str | None = None) -> tuple[TrainRecord, str]:
    """Train one text-to-image model, continuing where an earlier run was stopped, and write it to out.

    Returns the record and the Markdown section of its card. data: a folder with the emoji.
    """
    recipe, out = TEXT_RECIPES[name], out or folder_for(budget, CHECKPOINTS)
    steps = budget.choose(smoke=4, laptop=recipe.steps, gpu=4 * recipe.steps, long=10 * recipe.steps)
    known = pictures(recipe, budget.choose(smoke=100, laptop=20_000), data)
    config = recipe.config(WordTokenizer.shapes() if recipe.data == "shapes" else WordTokenizer.of(known.captions))
    torch.manual_seed(0)
    model = Captioned(build(config).to(budget.device), known.captions)
    part = ROOT / "build" / "experiments" / f"shipped-{name}-{budget.name}.safetensors"
    part.parent.mkdir(parents=True, exist_ok=True)
    record = fit(
        model, (known.images.to(budget.device), torch.arange(len(known)).to(budget.device)),
        denoising_loss(RectifiedFlow(time="logit-normal"), label_dropout=0.1), steps=steps,
        batch_size=recipe.batch_size, lr=recipe.lr, warmup=100, cooldown=round(0.3 * steps), ema=0.999,
        checkpoint=part, resume=True,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    save_model(path, model.model, config)
    return record, _section(path, recipe, known, record, budget)


def binding(model: TextToImage, count: int, objects: int, budget: Budget, scale: float = SCALE) -> int:
    """Return how many of `count` pictures for held-out captions of shapes show all that was asked."""
    asked = shapes(count, size=16, objects=objects, seed=991 + objects)
    drawn = torch.cat([draw_captions(model, part, seed, scale) for seed, part in enumerate(_chunks(asked.captions))])
    return int(prompt_hits(drawn, asked.attributes, load_judge(budget.device))["all"].sum())


def _chunks(captions: Sequence[str], size: int = 120) -> list[Sequence[str]]:
    return [captions[start : start + size] for start in range(0, len(captions), size)]


def _section(path: Path, recipe: TextRecipe, known: ImageSet, record: TrainRecord, budget: Budget) -> str:
    """Return the card of one model in Markdown; every number in it is measured or read from the record."""
    model = load_text(path.stem, budget.device, path.parent)
    weights = [sum(weight.numel() for weight in part.parameters()) for part in (model.network, model.encoder)]
    started = time.perf_counter()
    draw_captions(model, list(known.captions[:4]))
    seconds, threads = time.perf_counter() - started, torch.get_num_threads()
    quality = _quality_of_shapes(model, budget) if recipe.data == "shapes" else _quality_of_emoji(model, known, budget)
    return (
        f"## {path.name}\n\n"
        f"**What.** An MMDiT of {weights[0]:,} weights ({recipe.double} double-stream blocks, then {recipe.single} "
        f"single-stream ones) with a caption encoder of {weights[1]:,} that was trained with it; it predicts the "
        f"velocity of a rectified flow for {recipe.side}×{recipe.side} pictures.\n\n"
        f"**How made.** `python -m lesson_lib.experiments shipped --model {path.stem} --budget {budget.name}"
        f"{' --data FOLDER' if recipe.data == 'emoji' else ''}`: {record.steps:,} steps of batch "
        f"{record.config['batch_size']} from {len(known):,} pictures, 10 % of the captions dropped, averaged weights; "
        f"{record.seconds / 60:.0f} minutes on {record.device}.\n\n"
        f"**File.** {path.stat().st_size:,} bytes, sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`.\n\n"
        f"{quality}\n\n**Speed.** Four pictures of {STEPS} steps at guidance scale {SCALE} took {seconds:.1f} s with "
        f"{threads} thread{'s' * (threads > 1)} of {hardware()}.\n"
        f"{_picture(path, model, known)}"
    )


def _quality_of_shapes(model: TextToImage, budget: Budget) -> str:
    count = budget.choose(smoke=24, laptop=480)
    told = []
    for objects, words in ((2, "two objects (binding: colours, shapes, relation)"), (1, "one object")):
        for scale in (1.0, SCALE):
            share, low, high = proportion_interval(binding(model, count, objects, budget, scale), count)
            told.append(f"{words}, guidance scale {scale:g}: {share:.1%} [{low:.1%}, {high:.1%}]")
    return (
        f"**Quality.** Share of {count} pictures for captions drawn anew in which the judge finds all that was asked, "
        f"with 95 % Wilson intervals: {'; '.join(told)}. Trained "
        f"{'on a GPU' if budget.device.type == 'cuda' else 'without a GPU, so less far than it could be'}."
    )


def _quality_of_emoji(model: TextToImage, known: ImageSet, budget: Budget) -> str:
    asked = torch.randperm(len(known), generator=torch.Generator().manual_seed(4))[
        : budget.choose(smoke=10, laptop=100)
    ]
    drawn = draw_captions(model, [known.captions[row] for row in asked.tolist()])
    hits = int((nearest(drawn, known.images) == asked).sum())
    share, low, high = proportion_interval(hits, len(asked))
    return (
        "**Data.** Real pictures: Noto emoji of plants, animals and food (github.com/googlefonts/noto-emoji, "
        f"Apache-2.0), {len(known)} of them, with their Unicode names (github.com/muan/unicode-emoji-json, MIT). The "
        "pictures are not part of this project.\n\n"
        f"**Quality.** For {len(asked)} names that it has seen, the training picture nearest to its picture, in the "
        f"maps inside the judge, is the named one {hits} times, {share:.0%} [{low:.0%}, {high:.0%}]; by chance it "
        f"would be {len(asked) / len(known):.1f} times.\n\n"
        f"**What it cannot do.** It learned {len(known)} pictures by heart. Other words raise an error; known words in "
        "a new order ask for what it never saw, and nothing here measures what it draws then; there are no scenes, "
        "styles or counts to ask for."
    )


def _picture(path: Path, model: TextToImage, known: ImageSet) -> str:
    """Write samples of a model beside its file; return the line for the card."""
    captions = (
        known.captions[: 2 * 8] if path.stem == "mmdit-shapes" else known.captions[:: max(1, len(known) // 24)][:24]
    )
    with plot.capture() as caught:
        plot.sample_grid(draw_captions(model, list(captions)).cpu(), titles=captions, alt=f"Samples of {path.stem}")
    figure = path.with_suffix(".png")
    figure.write_bytes(caught[0])
    return f"\n![Samples of {path.stem} with their captions, guidance scale {SCALE}]({figure.name})\n"
