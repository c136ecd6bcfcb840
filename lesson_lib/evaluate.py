"""Measuring samples: the judge of the shapes, distances between sets, prompt accuracy, and the cost of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib import DATA
from lesson_lib.data import digits
from lesson_lib.shapes import BACKGROUND
from lesson_lib.train import load_model

JUDGE_FILE = DATA / "checkpoints" / "judge.safetensors"

# What the judge reads: name → (slots, choices). Slot 0 is the upper or left object, slot 1 the other one.
HEADS = {"count": (1, 2), "colour": (2, 6), "shape": (2, 4), "size": (2, 2), "place": (2, 9), "relation": (1, 2)}

SPOILT = ("blur", "contrast", "brightness", "noise")


def _block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(8, channels_out), nn.SiLU())


class Judge(nn.Module):
    """A small network that reads the attributes of a shapes picture, so that samples are measured and not eyeballed.

    The last map (4×4) is flattened, never averaged: where an object lies is half of what the judge must say.
    A second head estimates how spoilt a picture is, so that the features also tell clean pictures from noisy, blurred,
    pale or dark ones: attributes alone can be read without noticing any of this.
    width: channels of the first map; feature_width: F, the width of the features that FD-judge compares.
    """

    def __init__(self, width: int = 32, feature_width: int = 64) -> None:
        super().__init__()
        self.feature_width = feature_width
        self.body = nn.Sequential(
            _block(3, width, stride=2),  # 16×16
            _block(width, width, stride=1),
            _block(width, 2 * width, stride=2),  # 8×8
            _block(2 * width, 2 * width, stride=1),
            _block(2 * width, 3 * width, stride=2),  # 4×4
            _block(3 * width, 3 * width, stride=1),
            nn.Flatten(),
            nn.Linear(16 * 3 * width, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, feature_width),
        )
        self.heads = nn.Sequential(
            nn.SiLU(),
            nn.Linear(feature_width, 4 * width),
            nn.SiLU(),
            nn.Linear(4 * width, sum(slots * choices for slots, choices in HEADS.values())),
        )

        self.spoilt = nn.Linear(feature_width, len(SPOILT))

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return what training needs: the attributes' logits, name → (B, slots, choices); the estimates (B, 4) of
        SPOILT; and the features (B, F). images: (B, 3, 32, 32) or (B, 3, 16, 16) in [-1, 1].
        """
        features = self.body(_to_32(images))
        return self._split(self.heads(features)), self.spoilt(features), features

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the six feature maps (B, C, h, w) inside the judge, the finest first: what a perceptual loss compares.

        images: (B, 3, 32, 32) or (B, 3, 16, 16) in [-1, 1], or (B, 1, …), repeated to three channels. Gradients pass.
        """
        h = _to_32(images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images)
        found = []
        for block in list(self.body)[:6]:
            h = block(h)
            found.append(h)
        return found

    @torch.no_grad()
    def features(self, images: Tensor, batch_size: int = 512) -> Tensor:
        """Return the features (N, F) on which FD-judge and precision and recall are measured.

        images: (N, 3, 32, 32) or (N, 3, 16, 16) in [-1, 1]; values outside are clamped, as a picture file would.
        Raises ValueError for pictures that are not finite.
        """
        if not torch.isfinite(images).all():
            raise ValueError("Judge: some pictures hold values that are not finite; the sampler diverged")
        device = next(self.parameters()).device
        parts = [self.body(_to_32(part.to(device).clamp(-1, 1))) for part in images.split(batch_size)]
        return torch.cat(parts).cpu()

    @torch.no_grad()
    def read(self, images: Tensor, batch_size: int = 512) -> dict[str, Tensor]:
        """Return what the judge sees, in the layout of ImageSet.attributes; -1 where there is nothing to read.

        images: (N, 3, 32, 32) or (N, 3, 16, 16) in [-1, 1]. Returns count (N,) of 1 or 2, colour, shape, size and
        place (N, 2), relation (N,). Which object a caption mentions first is no part of a picture and not read.
        """
        device = next(self.parameters()).device
        logits = self._split(self.heads(self.features(images, batch_size).to(device)).cpu())
        found = {name: part.argmax(dim=-1) for name, part in logits.items()}
        two = found["count"][:, 0] == 1
        for name in ("colour", "shape", "size", "place"):
            found[name][~two, 1] = -1
        return found | {"count": two.long() + 1, "relation": torch.where(two, found["relation"][:, 0], -1)}

    def _split(self, logits: Tensor) -> dict[str, Tensor]:
        parts = logits.split([slots * choices for slots, choices in HEADS.values()], dim=1)
        return {name: part.unflatten(1, HEADS[name]) for name, part in zip(HEADS, parts, strict=True)}


def _to_32(images: Tensor) -> Tensor:
    """Double 16×16 pictures to the judge's 32×32; refuse any other shape."""
    if images.ndim != 4 or tuple(images.shape[1:]) not in {(3, 32, 32), (3, 16, 16)}:
        raise ValueError(
            f"Judge: expects images of shape (N, 3, 32, 32) or (N, 3, 16, 16), got {tuple(images.shape)}; "
            "the judge knows the shapes set only"
        )
    return images if images.shape[-1] == 32 else F.interpolate(images, scale_factor=2, mode="nearest")


def load_judge(device: str | torch.device = "cpu", path: Path = JUDGE_FILE) -> Judge:
    """Return the shipped judge, ready to read; data/checkpoints/README.md says how it was made and how often it errs.

    path: another judge's checkpoint.
    Raises FileNotFoundError or ValueError where the checkpoint is missing or damaged.
    """
    judge = load_model(path, lambda config: Judge(config["width"], config["feature_width"]))
    assert isinstance(judge, Judge)
    return judge.float().eval().requires_grad_(False).to(device)


def psnr(ours: Tensor, real: Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels, the mean over pictures: 10 log10(2² / mean squared error).

    ours, real: (N, C, H, W) in [-1, 1], whose range is 2 wide. Higher is closer; raises ValueError for other shapes.
    """
    if ours.shape != real.shape:
        raise ValueError(f"psnr: pictures of shape {tuple(ours.shape)} and {tuple(real.shape)}; they must be pairs")
    error = (ours - real).square().flatten(1).mean(dim=1).clamp(min=1e-10)
    return float((10 * torch.log10(4 / error)).mean())


def sharpness(ours: Tensor, real: Tensor) -> float:
    """Return how much of the real pictures' sharpness is left: 1 for all of it, less for blur, more for added texture.

    ours, real: (N, C, H, W). Sharpness is the mean of the squared differences between neighbouring pixels, which a
    few hard edges decide, as they decide what an eye calls sharp; the result is the ratio of the two sets' means.
    """

    def steps(images: Tensor) -> Tensor:
        return images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()

    return float(steps(ours) / steps(real))


def input_gradient(network: Callable[[Tensor], Tensor], images: Tensor, row: int, column: int) -> Tensor:
    """Return how strongly each input pixel moves one output pixel: a measured receptive field.

    network: images (B, C, H, W) → (B, C', H, W); images: real ones, or noise. Returns (H, W): the absolute gradient of
    the output at (row, column), summed over its channels, with respect to each input; summed over the input's channels
    and averaged over the pictures. The argument is left as it is, and no parameter gets a gradient.
    Source: Understanding the Effective Receptive Field (arXiv 1701.04128, §2).
    """
    images = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images)[:, :, row, column].sum(), images)
    return gradient.abs().sum(dim=1).mean(dim=0)


def receptive_side(gradient: Tensor, row: int, column: int, share: float = 0.5) -> int:
    """Return the side, in pixels, of the smallest square around a pixel that holds this share of the gradient.

    gradient: (H, W), as input_gradient returns it. A square that would leave the picture is cut at its border.
    Normalisation layers tie every pixel to every other, so that the last few percent reach everywhere: hence half.
    """
    gradient = gradient.double()
    wanted = share * gradient.sum() * (1 - 1e-9)  # sums in another order differ in their last digits
    for reach in range(max(gradient.shape)):
        square = gradient[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1]
        if square.sum() >= wanted:
            break
    return 2 * reach + 1


def gaussian_frechet(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Return the Fréchet distance of two Gaussians: |μa − μb|² + Tr(Σa + Σb − 2 (Σa Σb)^½).

    mean: (F,), cov: (F, F). The trace of the root is taken from Σa^½ Σb Σa^½, which is symmetric and has the same
    eigenvalues as Σa Σb, so that nothing complex can appear and a singular covariance needs no small diagonal added.
    Source: FID, arXiv 1706.08500, eq. 6.
    """
    mean_a, cov_a, mean_b, cov_b = (part.double() for part in (mean_a, cov_a, mean_b, cov_b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    middle = root @ cov_b @ root
    trace_of_root = torch.linalg.eigvalsh((middle + middle.T) / 2).clamp(min=0).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * trace_of_root
    return max(distance.item(), 0.0)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return how far apart two sets of features lie: the Fréchet distance of the Gaussians fitted to them; 0 is none.

    a: (N, F), b: (M, F). Raises ValueError where a set is smaller than F + 1, for then its covariance (F, F) is
    singular whatever the samples are.
    The value is biased upwards by about 1/N (arXiv 1911.07023), so compare only values measured with the same N.
    """
    _check_features("frechet_distance", a, b)
    needed = a.shape[1] + 1
    if min(len(a), len(b)) < needed:
        raise ValueError(
            f"frechet_distance: features of width {a.shape[1]} need at least {needed} samples in each set, "
            f"got {len(a)} and {len(b)}; draw more samples (a few thousand keep the bias small)"
        )
    a, b = a.detach().cpu().double(), b.detach().cpu().double()
    cov_a, cov_b = (torch.cov(part.T).reshape(needed - 1, needed - 1) for part in (a, b))
    return gaussian_frechet(a.mean(dim=0), cov_a, b.mean(dim=0), cov_b)


def fd_judge(real: Tensor, fake: Tensor, judge: Judge) -> float:
    """Return the Fréchet distance of two sets of shapes pictures in the judge's features: FD-judge, which is not FID.

    real, fake: (N, 3, 32, 32) or (N, 3, 16, 16) in [-1, 1], at least F + 1 = 65 of each.
    """
    return frechet_distance(judge.features(real), judge.features(fake))


def precision_recall(real: Tensor, fake: Tensor, k: int = 3, chunk: int = 1024) -> tuple[float, float]:
    """Return how much of the fake set looks real (precision), and how much of the real set the fakes reach (recall).

    real: (N, F), fake: (M, F) features or points. Around every sample lies a ball that ends at its k-th nearest
    neighbour in its own set. Precision is the share of fakes inside some real ball, recall the share of real samples
    inside some fake one (arXiv 1904.06991, eq. 1–2). Both fall short of 1 for two samples of one distribution, and
    depend on N, M and k: keep these fixed in a comparison.
    chunk: rows of the distance matrix held at a time.
    """
    _check_features("precision_recall", real, fake)
    if k < 1 or min(len(real), len(fake)) < k + 1:
        raise ValueError(
            f"precision_recall: with k={k} each set needs at least {max(k, 1) + 1} samples and k at least 1, "
            f"got {len(real)} and {len(fake)}"
        )
    middle = real.detach().cpu().double().mean(dim=0)
    real, fake = (part.detach().cpu().double() - middle for part in (real, fake))
    precision = balls_around(fake, real, _radii(real, k, chunk), chunk).gt(0).double().mean().item()
    recall = balls_around(real, fake, _radii(fake, k, chunk), chunk).gt(0).double().mean().item()
    return precision, recall


def balls_around(points: Tensor, centres: Tensor, radii: Tensor, chunk: int = 1024) -> Tensor:
    """Return in how many balls each point lies: (N,) int64, for points (N, F), centres (M, F) and radii (M,)."""
    points, centres = points.double(), centres.double()
    rounding = 1e-13 * centres.square().sum(dim=1).max()  # a sample's own neighbours lie on the edge of its ball
    reach = radii.double().square() + rounding
    return torch.cat([(_squared_distances(part, centres) <= reach).sum(dim=1) for part in points.split(chunk)])


def _radii(points: Tensor, k: int, chunk: int) -> Tensor:
    """Return each point's distance to its k-th nearest neighbour in the same set, itself left out."""
    radii = []
    for start in range(0, len(points), chunk):
        distances = _squared_distances(points[start : start + chunk], points)
        rows = torch.arange(len(distances))
        distances[rows, rows + start] = torch.inf
        radii.append(distances.kthvalue(k, dim=1).values.sqrt())
    return torch.cat(radii)


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    # As one matrix product, ten times as fast as differences; float64 and centred sets keep the digits that matter.
    squares = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1)
    return torch.addmm(squares, a, b.T, alpha=-2).clamp_(min=0)


def _check_features(name: str, a: Tensor, b: Tensor) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{name}: expects two sets of features (N, F) and (M, F) of one width, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    for label, part in (("first", a), ("second", b)):
        if not torch.isfinite(part).all():
            raise ValueError(f"{name}: the {label} set holds values that are not finite; the sampler diverged")


ASKED = ("count", "colour", "shape", "relation")


def prompt_hits(
    images: Tensor, wanted: Tensor | Mapping[str, Tensor], judge: Judge, asked: Sequence[str] = ASKED
) -> dict[str, Tensor]:
    """Return what each picture got right of its prompt: name → (N,) bool, and under "all" the whole prompt.

    images: (N, 3, 32, 32) or (N, 3, 16, 16) in [-1, 1].
    wanted: class labels (N,) int64, colour · 4 + shape of one single object; or attributes laid out as in
    ImageSet.attributes, where an entry of -1 is not asked. Only the names in `asked` that `wanted` has are compared.
    With two objects "all" is the binding: each colour and shape on the right object, and the right relation.
    """
    if isinstance(wanted, Tensor):
        wanted = {"count": torch.ones_like(wanted), "colour": wanted[:, None] // 4, "shape": wanted[:, None] % 4}
    names = [name for name in asked if name in wanted]
    if not names:
        raise ValueError(
            f"prompt_hits: `wanted` has none of {', '.join(asked)}; it has {', '.join(wanted) or 'nothing'}"
        )
    found, hits = judge.read(images), {}
    for name in names:
        target = wanted[name].cpu().reshape(len(wanted[name]), -1)
        if len(target) != len(images):
            raise ValueError(f"prompt_hits: {len(images)} images but {len(target)} wanted values of {name!r}")
        seen = found[name].reshape(len(images), -1)[:, : target.shape[1]]
        hits[name] = ((seen == target) | (target < 0)).all(dim=1)
    return hits | {"all": torch.stack(list(hits.values())).all(dim=0)}


def prompt_accuracy(images: Tensor, wanted: Tensor | Mapping[str, Tensor], judge: Judge) -> float:
    """Return the share of shapes pictures that show their whole prompt; see prompt_hits for the arguments.

    Single objects: one object, of the right colour and shape. Two: both bound rightly and in the right relation.
    """
    return prompt_hits(images, wanted, judge)["all"].double().mean().item()


def cut_objects(images: Tensor, least: int = 4) -> tuple[Tensor, Tensor]:
    """Cut every separate object out of shapes pictures of any size, and lay each in the middle of an empty picture.

    images: (N, 3, H, W) in [-1, 1]. An object is a connected set of at least `least` pixels that differ from the
    background. One of up to 7 pixels is doubled, as a 16×16 picture would be for the judge; one of more than 14 is
    scaled down to that. Returns the pictures (M, 3, 32, 32), and (M,) int64, the picture that each comes from.
    """
    from scipy import ndimage

    paper = BACKGROUND / 127.5 - 1
    found, owners = [images.new_empty(0, 3, 32, 32, device="cpu", dtype=torch.float32)], []
    for number, image in enumerate(images.detach().cpu().float().clamp(-1, 1)):
        marked = (image - paper).abs().amax(dim=0) > 0.4
        regions, count = ndimage.label(marked.numpy(), structure=[[1, 1, 1]] * 3)
        for region, (rows, columns) in zip(range(1, count + 1), ndimage.find_objects(regions), strict=True):
            inside = torch.from_numpy(regions[rows, columns] == region)
            if int(inside.sum()) < least:
                continue
            near = F.max_pool2d(inside[None, None].float(), 3, 1, 1)[0, 0] > 0  # smooth edges belong to the object
            patch, longest = torch.where(near, image[:, rows, columns], torch.tensor(paper))[None], max(inside.shape)
            if longest <= 7:
                patch = F.interpolate(patch, scale_factor=2, mode="nearest")
            elif longest > 14:
                sides = [max(1, round(14 * length / longest)) for length in inside.shape]
                patch = F.interpolate(patch, size=sides, mode="area")
            height, width = patch.shape[2:]
            top, left = (32 - height) // 2, (32 - width) // 2
            picture = torch.full((1, 3, 32, 32), paper)
            picture[..., top : top + height, left : left + width] = patch
            found.append(picture)
            owners.append(number)
    return torch.cat(found), torch.tensor(owners, dtype=torch.int64)


def count_objects(images: Tensor, labels: Tensor, judge: Judge) -> tuple[Tensor, Tensor]:
    """Return how many objects each shapes picture of any size shows, and how many of them are the one asked for.

    images: (N, 3, H, W) in [-1, 1]; labels: (N,) int64, colour · 4 + shape. Returns two (N,) int64. The judge reads
    each object on a picture of its own (cut_objects), so it need not know the size.
    """
    pictures, owners = cut_objects(images)
    total = torch.bincount(owners, minlength=len(images))
    if not len(pictures):
        return total, torch.zeros_like(total)
    hits = prompt_hits(pictures, labels.cpu()[owners], judge, asked=("colour", "shape"))["all"]
    return total, torch.bincount(owners[hits], minlength=len(images))


@dataclass(frozen=True)
class DigitJudge:
    """A support-vector classifier of 8×8 digits, fitted on the real training digits; accuracy: on the held-out ones."""

    classifier: Any
    accuracy: float

    def read(self, images: Tensor) -> Tensor:
        """Return the digit that each picture shows, (N,) int64, for images (N, 1, 8, 8) in [-1, 1]."""
        if tuple(images.shape[1:]) != (1, 8, 8):
            raise ValueError(f"DigitJudge: expects images of shape (N, 1, 8, 8), got {tuple(images.shape)}")
        flat = images.detach().cpu().float().clamp(-1, 1).flatten(1).numpy()
        return torch.from_numpy(self.classifier.predict(flat)).long()


@cache
def digit_judge() -> DigitJudge:
    """Return the judge of the digits, fitted once in a process (0.1 s)."""
    from sklearn.svm import SVC

    train, test = digits("train"), digits("test")
    classifier = SVC(C=10.0, gamma="scale").fit(train.images.flatten(1).numpy(), train.labels.numpy())
    right = classifier.predict(test.images.flatten(1).numpy()) == test.labels.numpy()
    return DigitJudge(classifier, float(right.mean()))


def class_accuracy(images: Tensor, labels: Tensor) -> float:
    """Return the share of sampled digits in which the digit judge recognises the class that was asked for.

    images: (N, 1, 8, 8) in [-1, 1]; labels: (N,) int64.
    """
    if len(images) != len(labels):
        raise ValueError(f"class_accuracy: {len(images)} images but {len(labels)} labels")
    return (digit_judge().read(images) == labels.cpu()).double().mean().item()


def trained_parameters(model: nn.Module) -> int:
    """Return how many weights of a model are trained; frozen tables, such as a DiT's positions, are not among them."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def count_macs(model: nn.Module, *inputs: Any, **named: Any) -> int:
    """Return the multiply–accumulates of one call of a model: its linear layers, convolutions and matrix products.

    inputs, named: what the model is called with; the count is for their whole batch. Model and inputs may live on the
    "meta" device: then nothing is computed. Attention counts as its two matrix products; normalisations, activations
    and sums are left out. What the DiT paper calls Gflops is this number (arXiv 2212.09748).
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # fused layers hide their matrix products from the counter
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(*inputs, **named)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2
