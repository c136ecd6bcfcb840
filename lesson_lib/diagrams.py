"""Diagrams that cannot lie: the map of the course, and networks drawn from the modules themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lesson_lib.style import BLUE, GREEN, GREY, GROUND, ORANGE, PURPLE, WIDTH, figure, ink, page_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from lesson_lib.unet import UNet

# The map of the course: number → (title, its question, column, row). A column is a stage.
STAGES = (("Noise and conditions", BLUE), ("Convolutions", ORANGE), ("Transformers", GREEN), ("Text", PURPLE))
LESSONS = {
    "00": ("Start here", "what will I be able to do?", 0, 0),
    "01": ("Noise and flow", "how does noise become an image?", 0, 1),
    "02": ("Conditioning", "how does a network hear time and class?", 0, 2),
    "03": ("U-Net", "why did the U rule for seven years?", 1, 2),
    "04": ("Latents", "why not diffuse pixels?", 1, 1),
    "05": ("ViT", "can an image be a sentence?", 2, 0),
    "06": ("DiT", "what does ViT need to generate?", 2, 1),
    "07": ("AdaLN", "how should a transformer listen?", 2, 2),
    "08": ("RoPE", "where am I?", 2, 3),
    "09": ("Text", "one vector or many tokens?", 3, 2),
    "10": ("MMDiT", "what if words and patches talk?", 3, 3),
}
BUILDS_ON = (
    ("00", "01"), ("01", "02"), ("02", "03"), ("03", "04"), ("04", "06"), ("00", "05"), ("05", "06"), ("06", "07"),
    ("06", "08"), ("07", "09"), ("09", "10"), ("08", "10"),
)  # fmt: skip


def course_map(*, alt: str, here: str | None = None, points: Mapping[str, tuple[int, int]] | None = None) -> None:
    """Draw the lessons as boxes, coloured by stage, with an arrow from each lesson to those that build on it.

    here: the number of the lesson that gets a thick frame ("01"). points: for each lesson (earned, possible); a bar of
    them stands in each box in place of the lesson's question. Raises ValueError where there is no such lesson.
    """
    for number in [*([here] if here is not None else []), *(points or {})]:
        if number not in LESSONS:
            raise ValueError(f"course_map: no lesson {number!r}; there are {', '.join(LESSONS)}")
    width, height, across, down = 1.78, 0.82, 2.2, 1.12
    with figure(alt=alt, height=4.7, constrained=False) as fig:
        axes = _canvas(fig, (-0.12, 3 * across + width + 0.12), (-(3 * down + height) - 0.1, 0.5))
        corner = {number: (column * across, -row * down) for number, (_, _, column, row) in LESSONS.items()}
        for column, (stage, colour) in enumerate(STAGES):
            axes.text(column * across, 0.22, stage, size=10.5, weight="bold", color=ink(colour))
        for a, b in BUILDS_ON:
            _join(axes, corner[a], corner[b], width, height)
        for number, (title, question, column, _) in LESSONS.items():
            x, y = corner[number]
            colour = STAGES[column][1]
            _box(axes, x, y, width, height, colour, frame=2.8 if number == here else 1.1)
            axes.text(x + 0.1, y - 0.25, f"{number}  {title}", size=10, weight="bold", va="center")
            if points is not None:
                _points(axes, x + 0.1, y - 0.48, width - 0.2, colour, *points.get(number, (0, 0)))
                continue
            axes.text(
                x + 0.1, y - 0.57, _two_lines(question, 24), size=7.8, va="center", color="#333333", linespacing=1.15
            )


def _points(axes: Axes, x: float, y: float, width: float, colour: str, earned: int, possible: int) -> None:
    """Draw a bar that is filled up to the share of the points, and say the points under it."""
    from matplotlib.patches import Rectangle

    share = earned / possible if possible else 0.0
    axes.add_patch(Rectangle((x, y - 0.09), width, 0.09, facecolor="white", edgecolor=ink(colour), lw=0.8, zorder=3))
    axes.add_patch(Rectangle((x, y - 0.09), width * share, 0.09, facecolor=ink(colour), zorder=3))
    said = f"{earned} of {possible} point{'s' if possible != 1 else ''}{' · done' if share == 1 else ''}"
    axes.text(x, y - 0.21, said, size=8.2, va="center", color="#333333")


def _join(axes: Axes, a: tuple[float, float], b: tuple[float, float], width: float, height: float) -> None:
    """Draw the arrow between two boxes: along the row, along the column, or past the box between them."""
    (ax, ay), (bx, by) = a, b
    if ax != bx:
        _arrow(axes, (ax + width, ay - height / 2), (bx, by - height / 2))
    elif abs(ay - by) > 1.5 * height:
        axes.plot(
            [ax, ax - 0.2, ax - 0.2], [ay - height * 0.75, ay - height * 0.75, by - height / 2], color=GREY, lw=1.3
        )
        _arrow(axes, (ax - 0.2, by - height / 2), (bx, by - height / 2))
    else:
        top, bottom = (ay - height, by) if by < ay else (ay, by - height)
        _arrow(axes, (ax + width / 2, top), (bx + width / 2, bottom))


# A network, from the module itself


@dataclass
class _Part:
    name: str
    kind: str
    shape: str
    parameters: int
    times: int = 1
    sources: set[int] = field(default_factory=set)  # parts that its inputs were computed from
    reads_input: bool = False

    def same_as(self, other: _Part) -> bool:
        return (self.kind, self.shape, self.parameters) == (other.kind, other.shape, other.parameters)


def network_diagram(module: nn.Module, *inputs: Any, alt: str, title: str = "") -> None:
    """Draw a network's parts in the order in which one call uses them, with what flows where.

    The module is run once on the inputs, without gradient; nothing is drawn from memory. Every box is a direct child
    (or a child of a ModuleList): name, class, output shape, parameters; equal neighbours collapse to ×n. The parts on
    the path of the first input stand in the main column, others (embedders of time, label, text) beside it; an arrow
    joins two parts where the second's input was computed from the first's output.
    Raises ValueError where no child is called.
    """
    parts = _merged(trace(module, *inputs))
    if not parts:
        raise ValueError(f"network_diagram: the call used no child of {type(module).__name__}; draw a larger module")
    main = _main_path(parts)
    side = [i for i in parts if i not in main]
    box, height, step = (3.4, 2.6), 0.5, 0.74
    below = {i: -(row + 1) * step for row, i in enumerate(main)}
    below |= {i: -row * step for row, i in enumerate(side)}
    with figure(
        alt=alt, width=7.4 if side else 5.4, height=step * (max(len(main), len(side)) + 1) + 0.5, constrained=False
    ) as fig:
        left = 0.25 + 0.16 * len(_skips(parts, main))
        bus = 0.35 + 0.16 * len(side)
        right = left + box[0] + bus
        axes = _canvas(
            fig, (-0.1, right + (box[1] if side else 0) + 0.1), (-(max(len(main), len(side)) + 1) * step, 0.45)
        )
        total = sum(p.numel() for p in module.parameters())
        axes.text(left, 0.2, title or f"{type(module).__name__}: {_short(total)} parameters", size=10.5, weight="bold")
        _box(axes, left, 0, box[0], height, GREY)
        shape = "×".join(map(str, inputs[0].shape)) if isinstance(inputs[0], Tensor) else ""
        axes.text(left + 0.12, -height / 2, f"input  {shape}", size=9, va="center")
        for i, part in parts.items():
            x, wide, colour = (left, box[0], BLUE) if i in main else (right, box[1], ORANGE)
            _part(axes, part, x, below[i], wide, height, colour)
        _wires(axes, parts, main, side, below, left, right, box, height)


def trace(module: nn.Module, *inputs: Any) -> list[_Part]:
    """Run the module once and return its called parts in call order, each with the parts that its inputs came from."""
    children = dict(_children(module))
    parts: list[_Part] = []
    flow = _Flow({id(t): {-1 - k} for k, t in enumerate(pytree.tree_leaves(inputs)) if isinstance(t, Tensor)})
    names = {id(child): name for name, child in children.items()}

    def after(child: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        first = next((leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)), None)
        shape = "×".join(map(str, first.shape)) if first is not None else ""
        count = sum(p.numel() for p in child.parameters())
        came = flow.read((args, kwargs))
        part = _Part(names[id(child)], type(child).__name__, shape, count, sources={s for s in came if s >= 0})
        part.reads_input = -1 in came
        flow.write(output, {len(parts)})
        parts.append(part)

    hooks = [child.register_forward_hook(after, with_kwargs=True) for child in children.values()]
    training = {part: part.training for part in module.modules()}
    try:
        with torch.no_grad(), flow:
            module.eval()(*inputs)
    finally:
        for part, was in training.items():
            part.training = was
        for hook in hooks:
            hook.remove()
    return parts


class _Flow(TorchFunctionMode):
    """Remember for every tensor which parts it was computed from."""

    def __init__(self, origin: dict[int, set[int]]) -> None:
        super().__init__()
        self.origin = origin
        self.kept: list[Any] = []  # an id is only good while its tensor lives

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        came = self.read((args, kwargs))
        if came:
            self.write(output, came)
        return output

    def read(self, values: Any) -> set[int]:
        leaves = [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]
        return set().union(*(self.origin.get(id(leaf), set()) for leaf in leaves))

    def write(self, values: Any, came: set[int]) -> None:
        for leaf in pytree.tree_leaves(values):
            if isinstance(leaf, Tensor):
                self.origin[id(leaf)] = came
                self.kept.append(leaf)


def _children(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{inner}", part) for inner, part in _children(child))
        else:
            yield name, child


def _merged(parts: list[_Part]) -> dict[int, _Part]:
    """Collapse equal neighbours to one part that occurs several times, and follow the arrows there."""
    merged: dict[int, _Part] = {}
    place: dict[int, int] = {}
    for i, part in enumerate(parts):
        last = next(reversed(merged), None)
        chained = last is not None and merged[last].same_as(part) and (i - 1) in part.sources
        if chained and last is not None:
            merged[last].times += 1
            merged[last].parameters = part.parameters
            place[i] = last
        else:
            merged[i], place[i] = part, i
        target = merged[place[i]]
        target.sources = {place[s] for s in target.sources | part.sources if place[s] != place[i]}
        target.reads_input |= part.reads_input
    return merged


def _main_path(parts: dict[int, _Part]) -> list[int]:
    main: list[int] = []
    for i, part in parts.items():
        if part.reads_input or any(source in main for source in part.sources):
            main.append(i)
    return main


def _skips(parts: dict[int, _Part], main: list[int]) -> list[tuple[int, int]]:
    """Arrows of the main column that jump over a part, the shortest first; -1 is the input."""
    column = [-1, *main]
    pairs = [(s, i) for i in main for s in (parts[i].sources | ({-1} if parts[i].reads_input else set()))]
    jumps = [(s, i) for s, i in pairs if s in column and column.index(i) - column.index(s) > 1]
    return sorted(jumps, key=lambda jump: (column.index(jump[1]) - column.index(jump[0]), jump))


def _wires(
    axes: Axes, parts: dict[int, _Part], main: list[int], side: list[int], below: dict[int, float],
    left: float, right: float, box: tuple[float, float], height: float,
) -> None:  # fmt: skip
    below = below | {-1: 0.0}
    column = [-1, *main]
    for a, b in pairwise(column):
        if a in parts[b].sources or (a == -1 and parts[b].reads_input):
            _arrow(axes, (left + box[0] / 2, below[a] - height), (left + box[0] / 2, below[b]))
    for lane, (a, b) in enumerate(_skips(parts, main)):
        x, start, end = left - 0.2 - 0.16 * lane, below[a] - height * 0.65, below[b] - height * 0.35
        axes.plot([left, x, x], [start, start, end], color=GREY, lw=1.3)
        _arrow(axes, (x, end), (left, end))
    for lane, s in enumerate(side):
        x, y = right - 0.2 - 0.16 * lane, below[s] - height / 2
        users = [i for i in main if s in parts[i].sources]
        for i in users:
            end = below[i] - height * (0.3 + 0.4 * (lane + 1) / (len(side) + 1))
            axes.plot([right, x, x], [y, y, end], color=ink(ORANGE), lw=1.1)
            _arrow(axes, (x, end), (left + box[0], end), ink(ORANGE))
        for i in (other for other in side if s in parts[other].sources):
            _arrow(axes, (right + box[1] / 2, below[s] - height), (right + box[1] / 2, below[i]), ink(ORANGE))


def _part(axes: Axes, part: _Part, x: float, y: float, width: float, height: float, colour: str) -> None:
    for behind in range(min(part.times, 3) - 1, 0, -1):
        _box(axes, x + 0.05 * behind, y - 0.05 * behind, width, height, colour)
    _box(axes, x, y, width, height, colour)
    name = part.name.split(".")[0] if part.times > 1 else part.name
    times = f"  ×{part.times}" if part.times > 1 else ""
    axes.text(x + 0.12, y - height * 0.3, f"{name}: {part.kind}{times}", size=9, weight="bold", va="center")
    each = " each" if part.times > 1 else ""
    detail = f"→ {part.shape}   {_short(part.parameters)} parameters{each}"
    axes.text(x + 0.12, y - height * 0.72, detail, size=8, va="center", color="#333333")


# A U-Net as a U

U_PARTS = ("enter", "down", "middle1", "middle2", "up", "leave", "skips", "config")
U_BOX, U_ROW = (2.5, 0.37), 0.48  # inches: a box, and from one box to the next


@dataclass
class _Step:
    """One box of the U: what stands there, what comes out, and what went in."""

    name: str
    kind: str
    channels: int
    size: tuple[int, int]
    before: str = ""  # the step whose result goes in
    skip: str = ""  # the step of the encoder whose map is concatenated to it
    attention: str = ""


def unet_diagram(unet: UNet, *, size: int | tuple[int, int], alt: str, title: str = "") -> None:
    """Draw a U-Net as a U: a band for each resolution, the encoder going down at the left, the decoder up at the right.

    unet: any module with the parts of unet.UNet. It is run once on an empty picture, without gradient, on the device
    where it lies ("meta" will do), and what is drawn is what that run did. size: pixels of a side, or (height, width).
    A box is a part under its name in the module, with the channels and the resolution of its result; in the decoder
    the channels from below + those of the skip → its own. A skip runs from the map that the encoder kept to the stage
    that took it, and is dashed where unet.skips is False (the stage gets zeros). Attention is a tag on its box.
    Raises ValueError for a module without these parts, or for a size that the network refuses.
    """
    parts = _run_unet(unet, size)
    steps = unet_steps(unet, parts)
    levels = list(dict.fromkeys(step.size for step in steps.values()))
    page, left, right = WIDTH, 0.85, WIDTH - 0.1 - U_BOX[0]
    indent = min(0.2, (right - left - U_BOX[0] - 1.3) / 2 / max(1, len(levels) - 1))
    corner, edges = _u_places(steps, levels, (left, right), indent)
    with figure(alt=alt, width=page, height=0.35 - edges[-1], constrained=False) as fig:
        axes = _canvas(fig, (0, page), (edges[-1], 0.35))
        fonts = min(1.0, page_width() / page)
        total = _short(sum(p.numel() for p in unet.parameters()))
        axes.text(0.1, 0.17, title or f"{type(unet).__name__}: {total} parameters", va="center",
                  size=10.5 * fonts, weight="bold")  # fmt: skip
        for level, (start, end) in enumerate(pairwise(edges)):
            axes.axhspan(end, start, color=GROUND if level % 2 == 0 else "white", zorder=0, linewidth=0)
            label = "×\n" if max(levels[level]) > 999 else "×"
            axes.text(0.1, (start + end) / 2, label.join(map(str, levels[level])), size=9.5 * fonts, weight="bold",
                      va="center")  # fmt: skip
        _u_conditions(axes, unet, parts, left + U_BOX[0], right, fonts)
        _u_flow(axes, steps, corner, fonts)
        _u_skips(axes, unet, steps, corner, fonts)
        for name, step in steps.items():
            _u_box(axes, step, steps, corner[name], fonts)


def _run_unet(unet: UNet, size: int | tuple[int, int]) -> list[_Part]:
    missing = [name for name in U_PARTS if not hasattr(unet, name)]
    if missing:
        raise ValueError(
            f"unet_diagram: {type(unet).__name__} has no {', '.join(missing)}, which unet.UNet has; "
            "network_diagram draws any network"
        )
    config, weight = unet.config, next(unet.parameters())
    height, width = (size, size) if isinstance(size, int) else size
    return trace(
        unet,
        weight.new_zeros(1, config.in_channels, height, width),
        weight.new_zeros(1),
        weight.new_zeros(1, dtype=torch.int64) if config.num_classes else None,
        weight.new_zeros(1, 1, config.context_size) if config.context_size else None,
        weight.new_zeros(1, config.vector_size) if config.vector_size else None,
    )


def unet_steps(unet: UNet, parts: list[_Part]) -> dict[str, _Step]:
    """Return the steps of a traced U-Net by name, in the order in which they were taken, the picture "x" first."""
    shapes = [tuple(map(int, part.shape.split("×"))) for part in parts]
    picture = next(shape for part, shape in zip(parts, shapes, strict=True) if part.name == "enter")
    steps = {"x": _Step("x", "input", unet.config.in_channels, (picture[2], picture[3]))}
    for part, shape in zip(parts, shapes, strict=True):
        if len(shape) == 4:
            module = unet.get_submodule(part.name)
            kind = type(getattr(module, "block", getattr(module, "layer", module))).__name__
            found = _Step(part.name, kind, shape[1], (shape[2], shape[3]), attention=_attention_in(module))
            sources = sorted(s for s in part.sources if len(shapes[s]) == 4)  # the last one called comes from below
            found.before = parts[sources[-1]].name if sources else "x" if part.reads_input else ""
            found.skip = parts[sources[0]].name if len(sources) > 1 else ""
            steps[part.name] = found
    return steps


def _attention_in(stage: nn.Module) -> str:
    attention = getattr(stage, "attention", None)
    blocks = getattr(attention, "blocks", None)
    if attention is None or blocks is None:
        return "" if attention is None else "attention"
    return "attention" + (f" ×{len(blocks)}" if len(blocks) > 1 else "")


def _u_places(
    steps: dict[str, _Step], levels: list[tuple[int, int]], sides: tuple[float, float], indent: float
) -> tuple[dict[str, tuple[float, float]], list[float]]:
    """Return the upper left corner of every box, and the edges of the bands, from the top."""
    row, gap = U_ROW, 0.24
    outside = [name for name in steps if name in ("x", "norm", "leave")]
    corner = {name: (sides[0] if name == "x" else sides[1], -row if name == "norm" else 0.0) for name in outside}
    edges = [-2 * row - 0.02]
    for level, size in enumerate(levels):
        left, right = sides[0] + level * indent, sides[1] - level * indent
        here = [name for name in steps if steps[name].size == size and name not in outside]
        down = [name for name in here if name.startswith(("enter", "down"))]
        up = [name for name in here if name.startswith("up")][::-1]
        middle = [name for name in here if name.startswith("middle")]
        y = edges[-1] - gap / 2
        for x, names in ((left, down), (right, up)):
            corner |= {name: (x, y - i * row) for i, name in enumerate(names)}
        y -= row * max(len(down), len(up))
        corner |= {name: (x, y) for name, x in zip(middle, (left, right), strict=False)}
        edges.append(y - row * bool(middle) + (row - U_BOX[1]) - gap / 2)
    return corner, edges


def _u_box(axes: Axes, step: _Step, steps: dict[str, _Step], corner: tuple[float, float], fonts: float) -> None:
    (x, y), (width, height) = corner, U_BOX
    resized = step.before in steps and steps[step.before].size != step.size
    _box(axes, x, y, width, height, GREY if step.name in ("x", "norm", "leave") else ORANGE if resized else BLUE)
    axes.text(x + 0.09, y - height * 0.3, f"{step.name}: {step.kind}", size=8.2 * fonts, weight="bold", va="center")
    came = f"{steps[step.before].channels} + {steps[step.skip].channels} → " if step.skip else ""
    detail = f"{came}{step.channels} channels · {step.size[0]}×{step.size[1]}"
    axes.text(x + 0.09, y - height * 0.73, detail, size=7.6 * fonts, va="center", color="#333333")
    if step.attention:
        tag = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": ink(PURPLE), "linewidth": 0.9}
        axes.text(x + width - 0.1, y - height * 0.3, step.attention, size=7 * fonts, ha="right", va="center",
                  color=ink(PURPLE), bbox=tag)  # fmt: skip


def _u_conditions(axes: Axes, unet: UNet, parts: list[_Part], start: float, end: float, fonts: float) -> None:
    """Draw what the blocks hear, between the input and the result."""
    heard = [part for part in parts if part.shape.count("×") == 1]  # vectors, one for each picture
    lines = [(" + ".join(p.name for p in heard), f"{heard[-1].shape.split('×')[1]} numbers for every ResBlock", GREEN)]
    if unet.config.context_size:
        lines.append(("context", f"words of {unet.config.context_size} numbers for attention", PURPLE))
    for row, (name, detail, colour) in enumerate(lines):
        x, y, width, height = start + 0.15, -U_ROW * row, end - start - 0.3, U_BOX[1]
        _box(axes, x, y, width, height, colour)
        axes.text(x + width / 2, y - height * 0.3, name, size=8.2 * fonts, weight="bold", ha="center", va="center")
        axes.text(x + width / 2, y - height * 0.73, detail, size=7.6 * fonts, ha="center", va="center", color="#333333")


def _u_flow(axes: Axes, steps: dict[str, _Step], corner: dict[str, tuple[float, float]], fonts: float) -> None:
    """Draw an arrow from each step to the next: down, across at the bottom, up; halving and doubling say so."""
    width, height = U_BOX
    for name, step in steps.items():
        if not step.before:
            continue
        (ax, ay), (bx, by) = corner[step.before], corner[name]
        if ay == by:
            _arrow(axes, (ax + width, ay - height / 2), (bx, by - height / 2), "#444444")
            continue
        x = (ax + bx + width) / 2
        start, end = (ay - height, by) if by < ay else (ay, by - height)
        before = steps[step.before].size[0]
        if before == step.size[0]:
            _arrow(axes, (x, start), (x, end), "#444444")
            continue
        _arrow(axes, (x, start), (x, end), ink(ORANGE))
        factor = f"÷ {before // step.size[0]}" if before > step.size[0] else f"× {step.size[0] // before}"
        axes.text(x + 0.1, (start + end) / 2, factor, size=8 * fonts, va="center", color=ink(ORANGE), weight="bold")


def _u_skips(
    axes: Axes, unet: UNet, steps: dict[str, _Step], corner: dict[str, tuple[float, float]], fonts: float
) -> None:
    """Draw each skip from the map that was kept to the stage that took it; say once what it is, and where it is cut."""
    levels = list(dict.fromkeys(step.size for step in steps.values()))
    width, half = U_BOX[0], U_BOX[1] / 2
    said = False
    for heard, size in zip(unet.skips, levels, strict=True):
        colour = ink(GREEN) if heard else GREY
        arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3 if heard else 1.0, "shrinkA": 0, "shrinkB": 0,
                 "mutation_scale": 9, "linestyle": "-" if heard else (0, (4, 3))}  # fmt: skip
        taken = [step for step in steps.values() if step.skip and step.size == size]
        for step in taken:
            (ax, ay), (bx, by) = corner[step.skip], corner[step.name]
            axes.annotate("", (bx, by - half), (ax + width, ay - half), arrowprops=arrow)
        if taken and not (heard and said):
            top = max(taken, key=lambda step: corner[step.skip][1])
            (ax, ay), (bx, _) = corner[top.skip], corner[top.name]
            text = "skips: concatenated" if heard else "skips cut: zeros"
            axes.text((ax + width + bx) / 2, ay - half + 0.04, text, size=7.6 * fonts, ha="center", va="bottom",
                      color=ink(colour))  # fmt: skip
            said = said or heard


def _canvas(fig: Any, across: tuple[float, float], down: tuple[float, float]) -> Axes:
    """Axes without frame whose unit is an inch where the page has room."""
    width, height = across[1] - across[0], down[1] - down[0]
    shrink = min(1.0, page_width() / width)
    fig.set_size_inches(width * shrink, height * shrink)
    axes = fig.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=across, ylim=down)
    return axes


def _box(axes: Axes, x: float, y: float, width: float, height: float, colour: str, frame: float = 1.1) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch

    light = tuple(1 - 0.16 * (1 - channel) for channel in to_rgb(colour))
    style = "round,pad=0,rounding_size=0.08"
    axes.add_patch(
        FancyBboxPatch(
            (x, y - height),
            width,
            height,
            boxstyle=style,
            facecolor=light,
            edgecolor=ink(colour),
            linewidth=frame,
            zorder=2,
        )
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = GREY) -> None:
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 9}
    axes.annotate("", end, start, arrowprops=arrow)


def _two_lines(text: str, letters: int) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, letters))


def _short(count: int) -> str:
    if count < 1000:
        return str(count)
    power = min(3, int(math.log10(count) // 3))
    return f"{count / 1000**power:.3g}{' kMG'[power]}"
