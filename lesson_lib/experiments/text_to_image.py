"""How should a picture hear a text: one vector, cross-attention, or one sentence with the patches; all at 16×16."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from lesson_lib import (
    attention,
    dit,
    embed,
    flow,
    guidance,
    mmdit,
    position,
    readout,
    samplers,
    shapes,
    text,
    train,
    vit,
)  # fmt: skip
from lesson_lib.attention import Words
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.evaluate import JUDGE_FILE, count_macs, fd_judge, load_judge, prompt_hits, trained_parameters
from lesson_lib.experiments.dit_training import NETWORKS
from lesson_lib.experiments.run import Experiment
from lesson_lib.experiments.shipped import load_shipped
from lesson_lib.experiments.text_models import draw_captions
from lesson_lib.flow import RectifiedFlow
from lesson_lib.mmdit import MMDiT, MMDiTConfig
from lesson_lib.readout import image_to_text, patch_cover, prompt_maps, share_inside, text_mass
from lesson_lib.results import sources_sha256
from lesson_lib.setup import Budget
from lesson_lib.shapes import ImageSet, draw_attributes, masks
from lesson_lib.shapes import shapes as draw_shapes
from lesson_lib.text import (
    CaptionConfig,
    Captioned,
    CaptionEncoder,
    TextToImage,
    WordTokenizer,
    start_from_classes,
)
from lesson_lib.train import TrainRecord, denoising_loss, fit

SOURCES = (attention, dit, embed, flow, guidance, mmdit, position, samplers, shapes, text, train, vit)
SAMPLING_STEPS, ENCODER_WIDTH, PATCH = 12, 64, 4
# Colour and shape of objects that no training picture shows: one of every shape, four colours.
HELD_OUT = (("red", "triangle"), ("yellow", "circle"), ("green", "cross"), ("blue", "square"))


# --- the networks --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """Width, depth and perceptron of a network; of an MMDiT, how many of the blocks are double-stream ones."""

    width: int
    depth: int = 4
    mlp_ratio: float = 4.0
    double: int = 0


Config = DiTConfig | MMDiTConfig


def pooled(size: Size) -> DiTConfig:
    """One vector for the whole text, added to the time: adaLN-Zero."""
    start = DiTConfig.shapes16()
    return replace(
        start, num_classes=0, pooled_size=ENCODER_WIDTH, positions="axial", hidden_size=size.width, num_heads=2,
        depth=size.depth, mlp_ratio=size.mlp_ratio,
    )  # fmt: skip


def cross_attention(size: Size) -> DiTConfig:
    """PixArt-α: the patches ask the words in every block; the time through adaLN-single."""
    return replace(pooled(size), pooled_size=0, context_size=ENCODER_WIDTH, conditioning="adaln-single")


def joint(size: Size, shared: tuple[str, ...] = ()) -> MMDiTConfig:
    """Words and patches in one attention; size.double blocks with two sets of weights come first."""
    return replace(
        MMDiTConfig.shapes16(), hidden_size=size.width, num_heads=2, axes=(size.width // 4, size.width // 4),
        double=size.double, single=size.depth - size.double, mlp_ratio=size.mlp_ratio, context_size=ENCODER_WIDTH,
        pooled_size=ENCODER_WIDTH, shared=shared,
    )  # fmt: skip


DOUBLE = joint(Size(64, 4, 4.0, double=4))
# At the parameters of the double-stream network, and at its multiply-accumulates, to within three percent.
EQUAL_PARAMETERS: dict[str, Config] = {
    "one vector": pooled(Size(88, 4, 3.5)),
    "cross-attention": cross_attention(Size(88, 4, 4.5)),
    "one sentence": joint(Size(88, 4, 3.5, double=4), shared=("streams",)),
    "double-stream": DOUBLE,
    "single-stream": joint(Size(80, 6, 3.5)),
    "hybrid": joint(Size(72, 4, 4.0, double=2)),
}
EQUAL_COMPUTE: dict[str, Config] = {
    "one vector": pooled(Size(80, 4, 3.5)),
    "cross-attention": cross_attention(Size(72, 4, 3.5)),
    "one sentence": joint(Size(64, 4, 3.5, double=4), shared=("streams",)),
    "double-stream": DOUBLE,
    "single-stream": joint(Size(56, 5, 4.0)),
    "hybrid": joint(Size(56, 5, 4.0, double=2)),
}
SHARING: dict[str, Config] = {
    "MMDiT": DOUBLE,
    "one modulation": replace(DOUBLE, shared=("modulation",)),
    "DiT-Air": replace(DOUBLE, shared=("modulation", "weights")),
    "DiT-Air/Lite, attention": replace(DOUBLE, shared=("modulation", "weights", "attention")),
    "DiT-Air/Lite": replace(DOUBLE, shared=("modulation", "weights", "attention", "perceptron")),
}


def network_of(config: Config) -> DiT | MMDiT:
    """Build the untrained network of a configuration of either family, without an encoder."""
    return MMDiT(config) if isinstance(config, MMDiTConfig) else DiT(config)


def build(config: Config, frozen: bool = False) -> TextToImage:
    """Build the untrained network of a configuration, with an encoder of its own."""
    tokenizer = tokenizer_of_plain()
    caption = CaptionConfig(tokenizer.words, tokenizer.length, ENCODER_WIDTH, depth=2, num_heads=2)
    return TextToImage(CaptionEncoder(caption, frozen), network_of(config))


def cost(config: Config) -> dict[str, float]:
    """Return what one call of a network costs for one picture and one caption, without the encoder."""
    length, width = tokenizer_of_plain().length, ENCODER_WIDTH
    with torch.device("meta"):
        network = network_of(config)
        heard = torch.empty(1, width) if config.pooled_size else None
        words = Words(torch.empty(1, length, width)) if config.context_size else None
        macs = count_macs(network, torch.empty(1, 3, 16, 16), torch.empty(1), heard, words)
    return {"macs_millions": macs / 1e6, "parameters": float(trained_parameters(network))}


# --- the scenes ----------------------------------------------------------------------------------------------------


def plain(caption: str) -> str:
    """Return a caption without articles and sizes: "red circle above blue square"."""
    return caption.replace("a large ", "")


@cache
def tokenizer_of_plain() -> WordTokenizer:
    """Return the tokenizer of the plain captions of one or two large objects."""
    drawn = draw_attributes(2000, (1, 2), torch.Generator().manual_seed(0))[0]
    drawn["size"] = torch.ones_like(drawn["size"])
    return WordTokenizer.of(plain(caption) for caption in shapes.describe(drawn))


@cache
def scenes(kind: str, count: int, seed: int) -> ImageSet:
    """Draw scenes of large objects at 16×16, with plain captions.

    kind: "known", one and two objects without any of HELD_OUT; "one" and "two", only those; "new one", one object of
    HELD_OUT; "new two", two objects of which exactly one is.
    """
    objects: int | tuple[int, ...] = (1, 2) if kind == "known" else 1 if kind.endswith("one") else 2
    drawn = draw_shapes(32 * count, size=16, objects=objects, seed=seed)
    known = drawn.attributes
    codes = [shapes.COLOURS.index(colour) * 4 + shapes.SHAPES.index(shape) for colour, shape in HELD_OUT]
    classes = torch.where(known["colour"] < 0, -1, known["colour"] * 4 + known["shape"])
    held_out = torch.isin(classes, torch.tensor(codes)).sum(dim=1)
    fits = (known["size"] != 0).all(dim=1) & (held_out == (1 if kind.startswith("new") else 0))
    found = drawn.subset(fits.nonzero()[:count, 0])
    if len(found) < count:
        raise ValueError(f"scenes: only {len(found)} of {count} scenes of kind {kind!r}")
    return replace(found, captions=tuple(map(plain, found.captions)))


# --- training and measuring ----------------------------------------------------------------------------------------

LAPTOP_STEPS, SHARES = 1000, (0.5, 1.0)
METRICS = {
    "binding": "share of samples for two objects in which count, colours, shapes and relation are as asked",
    "one": "share of samples for one object in which count, colour and shape are as asked",
    "new_binding": "binding where one of the two objects is a combination that no training picture shows",
    "new_one": "share of samples right where the one object is a combination that no training picture shows",
    "fd_judge": "Fréchet distance to held-out pictures, without guidance; lower is better",
    "macs_millions": "multiply-accumulates of one call for one picture and one caption, in millions, encoder left out",
    "parameters": "weights that are trained, encoder left out",
}


def settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set."""
    return {
        "data": "shapes, 16×16, one or two large objects, plain captions, four combinations held out, 8,000 images",
        "steps": budget.choose(smoke=4, laptop=LAPTOP_STEPS, gpu=6000, long=30_000),
        "batch_size": 32,
        "lr": 3e-3,
        "warmup": 100,
        "ema": 0.995,
        "times": "logit-normal",
        "text_dropout": 0.1,
        "samples": budget.choose(smoke=40, laptop=120, gpu=1200, long=2400),
        "sampler": f"euler, {SAMPLING_STEPS} steps",
        "guidance_scale": 2.0,
        "judge_sha256": hashlib.sha256(JUDGE_FILE.read_bytes()).hexdigest(),
    }


def learn(
    model: nn.Module, data: ImageSet, seed: int, chosen: dict[str, Any], budget: Budget, dropout: float = 0.1,
    **rest: Any,
) -> TrainRecord:  # fmt: skip
    """Train a network, called with the numbers of captions, on scenes; rest: of train.fit, its steps at least."""
    return fit(
        model, (data.images.to(budget.device), torch.arange(len(data)).to(budget.device)),
        denoising_loss(RectifiedFlow(time=chosen["times"]), label_dropout=dropout), batch_size=chosen["batch_size"],
        lr=chosen["lr"], warmup=chosen["warmup"], ema=chosen["ema"], seed=seed, progress=False, **rest,
    )  # fmt: skip


def trained(
    config: Config, seed: int, share: float, budget: Budget, dropout: float = 0.1, frozen: bool = False
) -> TextToImage:  # fmt: skip
    """Train a network for a share of the steps, or load it where that was done; a later share continues an earlier."""
    chosen = settings(budget)
    told = repr((config, seed, chosen, budget.device.type, dropout, frozen, sources_sha256(*SOURCES)))
    name = hashlib.sha256(told.encode()).hexdigest()[:16]
    steps = {part: max(1, round(part * chosen["steps"])) for part in sorted({*SHARES, share}) if part <= share}
    files = {part: NETWORKS / f"text-{name}-{count}.safetensors" for part, count in steps.items()}
    NETWORKS.mkdir(parents=True, exist_ok=True)
    data = scenes("known", 8000, 3)
    torch.manual_seed(seed)
    model = Captioned(build(config, frozen).to(budget.device), data.captions)
    before = [file for part, file in files.items() if part < share and file.exists()]
    if before and not files[share].exists():
        shutil.copyfile(before[-1], files[share])
    learn(
        model,
        data,
        seed,
        chosen,
        budget,
        dropout,
        steps=steps[share],
        checkpoint=files[share],
        every=10**9,
        resume=True,
    )
    return model.model.eval()


def draw(model: TextToImage, captions: Sequence[str], seed: int, scale: float, nothing: str = "") -> Tensor:
    """Return a picture (B, 3, 16, 16) for each caption; the noise is the seed's, whatever the network."""
    return draw_captions(model, captions, 1000 + seed, scale, SAMPLING_STEPS, nothing)


def right(images: Tensor, asked: ImageSet) -> float:
    """Return the share of pictures that show all that their captions ask for."""
    return prompt_hits(images, asked.attributes, load_judge(images.device))["all"].double().mean().item()


def quality(model: TextToImage, seed: int, chosen: dict[str, Any], budget: Budget) -> dict[str, float]:
    """Return how well a trained network follows known and new prompts, and its FD-judge."""
    count, scale = chosen["samples"], chosen["guidance_scale"]
    found = {}
    for metric, kind in {"binding": "two", "one": "one", "new_binding": "new two", "new_one": "new one"}.items():
        asked = scenes(kind, count, 50)
        found[metric] = right(draw(model, asked.captions, seed, scale), asked)
    asked, real = scenes("known", 2 * count, 60), scenes("known", 4 * count, 70)
    found["fd_judge"] = fd_judge(real.images, draw(model, asked.captions, seed, 1.0), load_judge(budget.device))
    return found


@cache
def outcome(config: Config, seed: int, budget: Budget) -> dict[str, list[float]]:
    """Train one network and measure it after each share of the steps: metric → one number for each."""
    chosen, price = settings(budget), cost(config)
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for share in SHARES:
        measured = quality(trained(config, seed, share, budget), seed, chosen, budget) | price
        for name, value in measured.items():
            found[name].append(value)
    return found


def compared(name: str, title: str, variants: dict[str, Config]) -> Experiment:
    """Return the comparison of some networks that hear a text."""

    def measure(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
        return outcome(variants[variant], seed, budget)

    return Experiment(
        name, title, tuple(variants), METRICS, settings, measure, SOURCES, x=("share of the training", list(SHARES))
    )


# --- text dropout and guidance -------------------------------------------------------------------------------------

DROPOUTS = {"never dropped": 0.0, "10 % dropped": 0.1, "30 % dropped": 0.3}
SCALES = [1.0, 1.5, 2.0, 3.0, 5.0, 8.0]


def measure_dropout(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Return binding and one-object accuracy of a double-stream network at each guidance scale."""
    model, count = trained(DOUBLE, seed, 1.0, budget, dropout=DROPOUTS[variant]), settings["samples"]
    two, one = scenes("two", count, 50), scenes("one", count, 50)
    return {
        "binding": [right(draw(model, two.captions, seed, scale), two) for scale in SCALES],
        "one": [right(draw(model, one.captions, seed, scale), one) for scale in SCALES],
    }


# --- where words act -----------------------------------------------------------------------------------------------

TIMES = [0.1, 0.3, 0.5, 0.7, 0.9]
READERS = {name: config for name, config in EQUAL_PARAMETERS.items() if name != "one vector"}
ACT_METRICS = {
    "colour": "how much of a colour word's map lies on the object it names rather than on the other; ½ is chance",
    "shape": "the same of a shape word",
    "mass": "share of the patches' attention that goes to words, divided by the words' share of all tokens",
    "best_colour": "the same as colour, in the block where it is largest",
}


def measure_words(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Return where the words of two-object captions are heard, at several times, averaged over blocks and heads."""
    model = trained(READERS[variant], seed, 1.0, budget)
    asked = scenes("two", settings["samples"], 80)
    # The words' maps are compared with where the objects really are, so the pictures are real ones, noised.
    wobble = torch.zeros(len(asked), 2, 3)
    cover = patch_cover(masks(asked.attributes, wobble, size=16), PATCH)
    noise = torch.randn(asked.images.shape, generator=torch.Generator().manual_seed(seed))
    ids = model.encoder.tokenizer(asked.captions)
    length, words = ids.shape[1], [text.split_words(caption) for caption in asked.captions]
    spoken, patches = (ids != text.PADDING).sum(dim=1), cover[0, 0].numel()
    equal = spoken / (spoken + patches)  # the words' share of all tokens
    found: dict[str, list[float]] = {name: [] for name in ACT_METRICS}
    for time in TIMES:
        t = torch.full((len(asked),), time)
        noisy = RectifiedFlow().training_pair(asked.images, noise, t)[0]
        maps = prompt_maps(model, noisy.to(budget.device), (1000 * t).to(budget.device), ids.to(budget.device))
        maps = [one.cpu() for one in maps if one.shape[-1] != patches]  # not those among the patches alone
        colour = [_on_object(one, length, words, asked, cover, "colour") for one in maps]
        shape = [_on_object(one, length, words, asked, cover, "shape") for one in maps]
        joint_maps = [one for one in maps if one.shape[-1] == one.shape[-2]]
        mass = [(text_mass(one, length).mean(dim=1) / equal).mean().item() for one in joint_maps]
        found["colour"].append(sum(colour) / len(colour))
        found["shape"].append(sum(shape) / len(shape))
        found["best_colour"].append(max(colour))
        found["mass"].append(sum(mass) / len(mass) if mass else 1.0)
    return found


def _on_object(
    attention: Tensor, length: int, words: list[list[str]], asked: ImageSet, cover: Tensor, kind: str
) -> float:
    """Return share_inside of one kind of word, averaged over both objects and all pictures."""
    names = {"colour": shapes.COLOURS, "shape": shapes.SHAPES}[kind]
    grid = image_to_text(attention, length).mean(dim=1).unflatten(1, cover.shape[2:])
    first = asked.attributes["mentioned_first"]
    shares = []
    for place in (0, 1):  # the first and the second word of this kind in the caption
        numbers = torch.tensor([[n for n, word in enumerate(row) if word in names][place] for row in words])
        maps = grid.gather(3, numbers[:, None, None, None].expand(-1, *cover.shape[2:], 1))[..., 0]
        rows, own = torch.arange(len(words)), (first if place == 0 else 1 - first)
        shares.append(share_inside(maps, cover[rows, own], cover[rows, 1 - own]))
    return torch.cat(shares).mean().item()


def words_settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set; the training is that of text_equal_parameters."""
    return {**settings(budget), "pictures": "held-out scenes of two objects, noised", "times": TIMES}


# --- QK-norm in low precision --------------------------------------------------------------------------------------

RATES = [0.003, 0.01, 0.02, 0.03]
NORM_METRICS = {
    "loss": "mean of the last tenth of the losses, at most 2; lower is better",
    "largest_score": "largest attention score, before the softmax, in any block for 32 held-out pictures, at most 10⁶",
    "entropy": "entropy of the patches' attention in nats, averaged over blocks and heads, at the end",
}


class LowPrecision(nn.Module):
    """A network that computes in bfloat16 on any device, while its weights stay in float32."""

    def __init__(self, inner: Captioned) -> None:
        super().__init__()
        self.inner, self.num_classes = inner, inner.num_classes
        self.text_to_image = inner.model

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.inner(x, t, labels).float()


def norm_settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set: short trainings, no clipping of gradients, bfloat16."""
    steps = budget.choose(smoke=4, laptop=200, gpu=2000, long=10_000)
    return {**settings(budget), "steps": steps, "warmup": 0, "clip": 0, "ema": 0, "precision": "bfloat16"}


def measure_norm(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train with and without QK-norm at each learning rate, and look at loss, scores and entropy."""
    found: dict[str, list[float]] = {name: [] for name in NORM_METRICS}
    for lr in RATES:
        for name, value in _norm_run(replace(DOUBLE, qk_norm=variant == "QK-norm"), lr, seed, settings, budget).items():
            found[name].append(value)
    return found


def _norm_run(config: Config, lr: float, seed: int, chosen: dict[str, Any], budget: Budget) -> dict[str, float]:
    data = scenes("known", 8000, 3)
    torch.manual_seed(seed)
    model = LowPrecision(Captioned(build(config).to(budget.device), data.captions))
    losses = [2.0]
    try:
        recipe = {**chosen, "lr": lr}
        record = learn(model, data, seed, recipe, budget, steps=chosen["steps"], clip=chosen["clip"])
        losses = record.losses[-max(1, len(record.losses) // 10) :]
    except FloatingPointError:
        pass
    held_out = scenes("known", 32, 90)
    inner = model.text_to_image.eval()
    ids = inner.encoder.tokenizer(held_out.captions).to(budget.device)
    noise = torch.randn(held_out.images.shape, generator=torch.Generator().manual_seed(seed))
    noisy = (0.5 * (held_out.images + noise)).to(budget.device)
    t = torch.full((32,), 500.0, device=budget.device)
    scores = prompt_maps(inner, noisy, t, ids, scores=True)
    largest = torch.stack([one.max() for one in scores]).max().item()
    asked = [one[:, :, ids.shape[1] :].softmax(dim=-1) for one in scores]  # the patches' rows
    entropies = [-(one.clamp(min=1e-12).log() * one).sum(dim=-1).mean().item() for one in asked]
    return {
        "loss": _at_most(sum(losses) / len(losses), 2.0),
        "largest_score": _at_most(largest, 1e6),
        "entropy": _at_most(sum(entropies) / len(entropies), 10.0),
    }


def _at_most(value: float, limit: float) -> float:
    """Return a value, or the limit where it is larger or not a number."""
    return value if value <= limit else limit


# --- started from a network of classes -----------------------------------------------------------------------------

START_SHARES = (0.25, 0.5, 1.0)
START_METRICS = {"one": METRICS["one"], "new_one": METRICS["new_one"]}


def start_settings(budget: Budget) -> dict[str, Any]:
    """Return what a repetition must set: a short training on one-object captions."""
    steps = budget.choose(smoke=4, laptop=400, gpu=2000, long=10_000)
    data = "shapes, 16×16, one large object, plain captions, four combinations held out, 4,000 images"
    return {
        **settings(budget),
        "data": data,
        "steps": steps,
        "lr": 1e-3,
        "warmup": 20,
        "started_from": "dit-shapes-axial",
    }


def measure_start(variant: str, seed: int, settings: dict[str, Any], budget: Budget) -> dict[str, Any]:
    """Train a cross-attention network, fresh or with the weights of dit-shapes-axial, and measure it on the way."""
    source = load_shipped("dit-shapes-axial")[0]
    assert isinstance(source, DiT)
    data = scenes("one", 4000, 3)
    torch.manual_seed(seed)
    model = build(replace(source.config, num_classes=0, context_size=ENCODER_WIDTH, conditioning="adaln-single"))
    if variant == "from classes":
        model.network.load_state_dict(start_from_classes(source, ENCODER_WIDTH).state_dict())
    asked = Captioned(model.to(budget.device), data.captions)
    found: dict[str, list[float]] = {name: [] for name in START_METRICS}
    with TemporaryDirectory() as folder:
        for share in START_SHARES:
            learn(
                asked, data, seed, settings, budget, steps=max(1, round(share * settings["steps"])),
                checkpoint=Path(folder) / "run.safetensors", every=10**9, resume=True,
            )  # fmt: skip
            for metric, kind in {"one": "one", "new_one": "new one"}.items():
                wanted = scenes(kind, settings["samples"], 50)
                drawn = draw(model.eval(), wanted.captions, seed, settings["guidance_scale"])
                found[metric].append(right(drawn, wanted))
    return found


EXPERIMENTS = (
    compared("text_equal_parameters", "Six ways to hear a text, at equal parameters", EQUAL_PARAMETERS),
    compared("text_equal_compute", "Six ways to hear a text, at equal compute", EQUAL_COMPUTE),
    compared("text_sharing", "What blocks and modalities can share", SHARING),
    Experiment(
        "text_dropout", "Text dropout and guidance against binding", tuple(DROPOUTS),
        {"binding": METRICS["binding"], "one": METRICS["one"]}, settings, measure_dropout, SOURCES,
        x=("guidance scale", SCALES),
    ),
    Experiment(
        "text_attention", "Where words act, against time", tuple(READERS), ACT_METRICS, words_settings, measure_words,
        (*SOURCES, readout), x=("time, 1 is noise", TIMES),
    ),
    Experiment(
        "qk_norm", "QK-norm at high learning rates in bfloat16", ("no norm", "QK-norm"), NORM_METRICS, norm_settings,
        measure_norm, (*SOURCES, readout), x=("learning rate", RATES),
    ),
    Experiment(
        "text_start", "Text-to-image from a class-conditional start", ("from nothing", "from classes"), START_METRICS,
        start_settings, measure_start, SOURCES, x=("share of the training", list(START_SHARES)),
    ),
)  # fmt: skip
