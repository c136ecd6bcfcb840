"""Shapes: pictures of one or two coloured objects whose every attribute is known, made in a few microseconds each.

Nothing has to be downloaded, and because the truth of every picture is known, a model that draws them can be measured:
did it draw the colour, the shape and the arrangement that the prompt asked for?
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

COLOURS = ("red", "yellow", "green", "blue", "pink", "black")
SHAPES = ("circle", "square", "triangle", "cross")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
RELATIONS = ("above", "left of")
MIRRORED = ("below", "right of")

RGB = ((215, 35, 40), (245, 200, 0), (40, 175, 80), (35, 95, 225), (240, 90, 200), (20, 20, 20))
BACKGROUND = 240

# Lengths are shares of the picture's side. The outer rows and columns lie so far apart that two large objects in them
# leave a gap of more than one pixel even at 16×16: 0.53 - 2 (JITTER + RADII[1] (1 + RADIUS_JITTER)) = 0.064 > 1/16.
GRID = (0.235, 0.5, 0.765)
JITTER = 0.025
RADII = (0.14, 0.20)
RADIUS_JITTER = 0.04


@dataclass(frozen=True)
class ImageSet:
    """A whole data set, decoded once: what every training and every measurement of the course takes its images from.

    images: (N, C, H, W) float32 in [-1, 1]; labels: (N,) int64, empty where the set has none; class_names: one for
    each label; captions: one for each image, or none; attributes: for shapes, the truth of every picture (see
    draw_attributes). Raises ValueError where the lengths do not agree.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    captions: tuple[str, ...] = ()
    name: str = ""
    attributes: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.images.ndim != 4:
            raise ValueError(f"images must have the shape (N, C, H, W), not {tuple(self.images.shape)}")
        for what, length in (("labels", len(self.labels)), ("captions", len(self.captions))):
            if length not in (0, len(self.images)):
                raise ValueError(f"{len(self.images)} images need as many {what} or none, not {length}")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.images.shape[1:]))
        return f"ImageSet({self.name!r}: {len(self):,} images of {size}, {len(self.class_names)} classes)"

    def to(self, device: str | torch.device) -> ImageSet:
        """Return the set with its tensors on the device, so that no batch has to travel during training."""
        attributes = {key: value.to(device) for key, value in self.attributes.items()}
        images, labels = self.images.to(device), self.labels.to(device)
        return ImageSet(images, labels, self.class_names, self.captions, self.name, attributes)

    def subset(self, indices: Tensor) -> ImageSet:
        """Return the images at these places, in this order, with all that belongs to them; indices: (M,) int64."""
        indices = indices.to(self.images.device)
        labels = self.labels[indices] if len(self.labels) else self.labels
        captions = tuple(self.captions[i] for i in indices.tolist()) if self.captions else ()
        attributes = {key: value[indices] for key, value in self.attributes.items()}
        return ImageSet(self.images[indices], labels, self.class_names, captions, self.name, attributes)


def _choose(uniform: Tensor, choices: int) -> Tensor:
    return (uniform * choices).long().clamp(max=choices - 1)


def draw_attributes(
    count: int, objects: int | tuple[int, ...], generator: torch.Generator
) -> tuple[dict[str, Tensor], Tensor]:
    """Draw what the pictures show, before any is drawn: the attributes, and how far each object strays from its norm.

    objects: 1, 2, or (1, 2) for a mixture in equal shares. Returns the attributes and the wobble, (N, 2, 3) in [-1, 1]
    for x, y and radius. Attributes are int64. (N,): count; relation, 0 where the first object is above and 1 where it
    is left of the second, -1 with one object; mentioned_first, the object that the caption begins with. (N, 2), with -1
    where there is no second object: colour, shape, size, place. Object 0 is the upper or the left one.
    A longer draw from the same seed begins with the same scenes. Raises ValueError for another number of objects.
    """
    if objects not in (1, 2, (1,), (2,), (1, 2)):
        raise ValueError(f"objects is {objects!r}; it must be 1, 2 or (1, 2) for a mixture")
    kinds = objects if isinstance(objects, tuple) else (objects,)
    uniform = torch.rand(count, 20, generator=generator)  # one row a scene: a longer draw begins with a shorter one
    scene, each, wobble = uniform[:, :6], uniform[:, 6:14].view(count, 2, 4), uniform[:, 14:].view(count, 2, 3)
    two = _choose(scene[:, 0], len(kinds)) + kinds[0] == 2

    relation = _choose(scene[:, 1], 2)
    # Two objects stand in the outer rows and at most one column apart, or the other way round: no relation is in doubt.
    across = torch.stack([_choose(scene[:, 2], 3)] * 2, dim=1)
    across[:, 1] = (across[:, 1] + _choose(scene[:, 3], 3) - 1).clamp(0, 2)
    along = torch.tensor([0, 2]).expand(count, 2)
    is_above = (relation == 0)[:, None]
    place = torch.where(is_above, 3 * along + across, 3 * across + along)
    place[:, 0] = torch.where(two, place[:, 0], _choose(scene[:, 4], len(PLACES)))

    present = torch.stack([torch.ones_like(two), two], dim=1)
    attributes = {"count": two.long() + 1}
    for index, (key, names) in enumerate({"colour": COLOURS, "shape": SHAPES, "size": SIZES}.items()):
        attributes[key] = torch.where(present, _choose(each[..., index], len(names)), -1)
    attributes["place"] = torch.where(present, place, -1)
    attributes["relation"] = torch.where(two, relation, -1)
    attributes["mentioned_first"] = torch.where(two, _choose(scene[:, 5], 2), 0)
    return attributes, 2 * wobble - 1


def class_of(attributes: Mapping[str, Tensor]) -> Tensor:
    """Return the class of every scene, colour * 4 + shape of the object its caption names first: (N,) int64."""
    first = attributes["mentioned_first"][:, None]
    return (attributes["colour"] * len(SHAPES) + attributes["shape"]).gather(1, first)[:, 0]


CLASS_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)


def describe(attributes: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Put every scene into words: "a large red circle at the top left", "a small red circle above a large blue square".

    attributes: as draw_attributes makes them; mentioned_first chooses between a wording and its mirror ("below").
    """
    objects = [f"a {size} {colour} {shape}" for size in SIZES for colour in COLOURS for shape in SHAPES]
    code = (attributes["size"] * len(COLOURS) + attributes["colour"]) * len(SHAPES) + attributes["shape"]
    place, keys = attributes["place"][:, 0].tolist(), ("relation", "mentioned_first")
    rows = zip(code.tolist(), place, *(attributes[key].tolist() for key in keys), strict=True)
    captions = []
    for (one, other), where, relation, second_first in rows:
        if relation < 0:
            captions.append(f"{objects[one]} at the {PLACES[where]}")
        elif second_first:
            captions.append(f"{objects[other]} {MIRRORED[relation]} {objects[one]}")
        else:
            captions.append(f"{objects[one]} {RELATIONS[relation]} {objects[other]}")
    return tuple(captions)


def read_captions(captions: Sequence[str]) -> dict[str, Tensor]:
    """Return the attributes that captions ask for: the inverse of describe, for prompts that a learner writes.

    place is -1 where the caption leaves it open (two objects). Raises ValueError, with an example, for any other
    sentence.
    """
    thing = rf"a ({'|'.join(SIZES)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
    places = "|".join(sorted(PLACES, key=len, reverse=True))
    pattern = re.compile(rf"{thing} (?:at the ({places})|({'|'.join(RELATIONS + MIRRORED)}) {thing})")
    columns: dict[str, list[int | list[int]]] = {
        key: [] for key in ("count", "colour", "shape", "size", "place", "relation", "mentioned_first")
    }
    for caption in captions:
        found = pattern.fullmatch(" ".join(caption.lower().split()))
        if not found:
            example = "'a large red circle at the top left' or 'a small red circle above a large blue square'"
            raise ValueError(f"{caption!r} is not a caption of the shapes; write, for example, {example}")
        *one, place, relation, size, colour, shape = found.groups()
        words = [one, [size, colour, shape]]
        swapped = relation in MIRRORED
        for slot, (key, names) in enumerate((("size", SIZES), ("colour", COLOURS), ("shape", SHAPES))):
            pair = [names.index(words[i][slot]) if words[i][slot] else -1 for i in (0, 1)]
            columns[key].append(pair[::-1] if swapped else pair)
        columns["count"].append(2 if relation else 1)
        columns["place"].append([PLACES.index(place) if place else -1, -1])
        columns["relation"].append((RELATIONS + MIRRORED).index(relation) % 2 if relation else -1)
        columns["mentioned_first"].append(int(swapped))
    return {key: torch.tensor(values, dtype=torch.int64) for key, values in columns.items()}


def _layout(attributes: Mapping[str, Tensor], wobble: Tensor) -> Tensor:
    """Where the objects lie, (N, 2, 3): x, y and radius as shares of the side; an open place becomes a middle one."""
    middle = torch.tensor([[1, 7], [3, 5]], device=wobble.device)[attributes["relation"].clamp(min=0)]
    place = torch.where(attributes["place"] < 0, middle, attributes["place"])
    grid, radii = torch.tensor(GRID, device=wobble.device), torch.tensor(RADII, device=wobble.device)
    radius = radii[attributes["size"]] * (1 + RADIUS_JITTER * wobble[..., 2])
    return torch.stack(
        [grid[place % 3] + JITTER * wobble[..., 0], grid[place // 3] + JITTER * wobble[..., 1], radius], dim=-1
    )


def _span(distance: Tensor, half: Tensor) -> Tensor:
    """The share of a pixel of width 1 that a bar covers whose middle is that far away."""
    return (half + 0.5 - distance.abs()).clamp(0, 1)


def coverage(shape: int, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Return how much of every pixel an object covers, from 0 to 1, so that its edge is smooth at any size.

    shape: index into SHAPES; dx: (N, 1, W) and dy: (N, H, 1) from the object's centre; radius: (N, 1, 1); in pixels.
    Returns (N, H, W). Square and cross are exact areas, a circle's follows from the distance to its edge, a triangle's
    from four lines through every pixel.
    """
    if SHAPES[shape] == "circle":
        return _span((dx.square() + dy.square()).sqrt(), radius)
    if SHAPES[shape] == "square":
        return _span(dx, 0.89 * radius) * _span(dy, 0.89 * radius)  # about the circle's area
    if SHAPES[shape] == "triangle":  # apex 0.9 r above the centre, base 0.9 r below, and 2 r wide
        lines = [((dy + offset + 0.9 * radius) / 1.8).clamp(min=0) for offset in (-0.375, -0.125, 0.125, 0.375)]
        sides = sum(torch.minimum(_span(dx, half), 2 * half) for half in lines) / len(lines)
        return sides * (0.9 * radius + 0.5 - dy).clamp(0, 1)
    arm = 0.3 * radius
    long_x, long_y, thin_x, thin_y = _span(dx, radius), _span(dy, radius), _span(dx, arm), _span(dy, arm)
    return long_x * thin_y + thin_x * long_y - thin_x * thin_y


def masks(attributes: Mapping[str, Tensor], wobble: Tensor, *, size: int = 32) -> Tensor:
    """Return how much of every pixel each object covers: (N, 2, size, size) in [0, 1], zero for an absent object."""
    x, y, radius = (size * _layout(attributes, wobble)[..., None, None]).unbind(2)
    pixel = torch.arange(size, device=wobble.device) + 0.5
    dx, dy = pixel - x, pixel[:, None] - y
    covered = torch.zeros(len(wobble), 2, size, size, device=wobble.device)
    for shape in range(len(SHAPES)):
        which = (attributes["shape"] == shape).nonzero(as_tuple=True)
        covered[which] = coverage(shape, dx[which], dy[which], radius[which])
    return covered


def render(attributes: Mapping[str, Tensor], wobble: Tensor | None = None, *, size: int = 32) -> Tensor:
    """Draw scenes, on the device their attributes are on.

    attributes and wobble: as draw_attributes makes them; without a wobble every object has the middle of its place and
    its nominal size. Returns (N, 3, size, size) float32 in [-1, 1].
    """
    shape = attributes["shape"]
    wobble = torch.zeros(*shape.shape, 3, device=shape.device) if wobble is None else wobble
    paint = torch.tensor(RGB, device=shape.device)[attributes["colour"]] / 127.5 - 1
    images = torch.full((len(shape), 3, size, size), BACKGROUND / 127.5 - 1, device=shape.device)
    chunk = 64 if shape.device.type == "cpu" else 8192  # what a CPU core's cache holds
    for start in range(0, len(shape), chunk):
        part = slice(start, start + chunk)
        covered = masks({key: value[part] for key, value in attributes.items()}, wobble[part], size=size)
        for slot in (0, 1):
            images[part].lerp_(paint[part, slot, :, None, None], covered[:, slot, None])
    return images


def shapes(
    count: int,
    *,
    size: int = 32,
    objects: int | tuple[int, ...] = 1,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> ImageSet:
    """Make labelled, captioned pictures of coloured shapes: the data set whose truth is known.

    size: 32 or 16 pixels; objects: 1, 2 or (1, 2) for a mixture. The same seed gives the same scenes at both sizes and
    on every device. Labels are colour * 4 + shape (24 classes) of the object that the caption names first.
    Raises ValueError for any other size or number of objects.
    """
    if size not in (16, 32):
        raise ValueError(f"size is {size}; shapes are drawn at 32 or 16 pixels")
    attributes, wobble = draw_attributes(count, objects, torch.Generator().manual_seed(seed))
    captions = describe(attributes)
    attributes = {key: value.to(device) for key, value in attributes.items()}
    images = render(attributes, wobble.to(device), size=size)
    return ImageSet(images, class_of(attributes), CLASS_NAMES, captions, "shapes", attributes)


def scenes(captions: Sequence[str], *, size: int = 32) -> ImageSet:
    """Draw exactly what captions say, each object at its nominal place and size: what a perfect model would answer.

    Raises ValueError for a sentence that is no caption of the shapes (see read_captions).
    """
    attributes = read_captions(captions)
    words = describe(attributes)
    return ImageSet(render(attributes, size=size), class_of(attributes), CLASS_NAMES, words, "shapes", attributes)
