"""The figures of the course: curves, intervals, heat maps; `style`, `pictures` and `plane` are here too."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lesson_lib.pictures import sample_grid, sample_rows, trajectory
from lesson_lib.plane import flow_field, paths, points
from lesson_lib.style import (
    BLACK,
    COLOUR,
    GROUPS,
    MARKERS,
    WIDTH,
    array,
    capture,
    colours,
    figure,
    filled,
    ink,
    page_width,
    readable_on,
    show,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "COLOUR",
    "GROUPS",
    "MARKERS",
    "WIDTH",
    "capture",
    "colours",
    "curves",
    "figure",
    "flow_field",
    "heat",
    "histogram",
    "ink",
    "intervals",
    "lines",
    "losses",
    "page_width",
    "paths",
    "points",
    "sample_grid",
    "sample_rows",
    "show",
    "to_png",
    "trajectory",
]

# Curves


def lines(
    x: Any,
    series: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    alt: str,
    title: str = "",
    logx: bool = False,
    logy: bool = False,
) -> None:
    """Draw one line for each label over a common x: schedules, densities, anything without repetitions.

    x: (X,); series: label → (X,). Axis labels carry the unit. Raises ValueError where a length differs from x.
    """
    across = _vector(x, "lines: x")
    rows = _rows(series, "lines", (len(across),))
    with figure(alt=alt) as fig:
        axes = fig.subplots()
        for y, colour in zip(rows.values(), colours(list(rows)), strict=True):
            axes.plot(across, y, color=colour)
        _finish(axes, xlabel, ylabel, title, logx, logy)
        _name_lines(axes, {label: (across, y) for label, y in rows.items()})


def curves(
    x: Any,
    series: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    alt: str,
    title: str = "",
    logx: bool = False,
    logy: bool = False,
) -> None:
    """Draw the mean over seeds with its 95 % t-interval as a band, one curve for each label.

    x: (X,); series: label → (seeds, X). With one seed there is no band, and the figure says so.
    Raises ValueError where an array is not (seeds, X).
    """
    across = _vector(x, "curves: x")
    rows = {label: array(values) for label, values in filled(series, "curves").items()}
    for label, values in rows.items():
        if values.ndim != 2 or values.shape[1] != len(across) or not len(values):
            raise ValueError(
                f"curves: {label!r} has shape {values.shape}; it must be (seeds, {len(across)}): one row for each seed"
            )
    with figure(alt=alt) as fig:
        axes = fig.subplots()
        drawn = {}
        for i, ((label, values), colour) in enumerate(zip(rows.items(), colours(list(rows)), strict=True)):
            mean, low, high = np.array([_interval(column) for column in values.T]).T
            axes.fill_between(across, low, high, color=colour, alpha=0.18, linewidth=0)
            marker = MARKERS[i % len(MARKERS)] if len(across) <= 16 else ""
            axes.plot(across, mean, color=colour, marker=marker, markersize=5)
            drawn[label] = (across, mean)
        _finish(axes, xlabel, ylabel, title, logx, logy)
        if len(across) <= 10:
            axes.set_xticks(across, [f"{value:g}" for value in across])
            axes.set_xticks([], minor=True)
        _name_lines(axes, drawn)
        _note(axes, _what_the_band_is([len(values) for values in rows.values()]))


def losses(record: Any, *, alt: str, title: str = "", logy: bool = False) -> None:
    """Draw the loss of one training or of several: the raw values faint, a running mean over 2 % of the steps on top.

    record: a TrainRecord, a sequence of losses, or label → one of these. Raises ValueError where there is no loss.
    """
    named = record if isinstance(record, Mapping) else {"": record}
    with figure(alt=alt) as fig:
        axes = fig.subplots()
        drawn, seen = {}, []
        for (label, one), colour in zip(filled(named, "losses").items(), colours(list(named)), strict=True):
            raw = _vector(getattr(one, "losses", one), f"losses: {label!r}")
            steps = np.linspace(1, getattr(one, "steps", None) or len(raw), len(raw))
            window = max(1, len(raw) // 50)
            total = np.cumsum(np.insert(raw, 0, 0.0))
            first = np.maximum(np.arange(1, len(raw) + 1) - window, 0)
            mean = (total[1:] - total[first]) / (np.arange(1, len(raw) + 1) - first)
            thin = slice(None, None, max(1, len(raw) // 1500))
            axes.plot(steps[thin], raw[thin], color=colour, alpha=0.22, linewidth=0.8)
            axes.plot(steps, mean, color=colour)
            drawn[label] = (steps[-1:], mean[-1:])
            seen += [mean[min(window, len(mean) - 1) :], np.quantile(raw, [0.005, 0.99])]
        _finish(axes, "training step", "loss", title, False, logy)
        everything = np.concatenate(seen)
        if not logy and np.isfinite(everything).all():  # the first steps may be a hundred times the rest
            margin = 0.08 * (np.ptp(everything) or 1.0)
            axes.set_ylim(everything.min() - margin, everything.max() + margin)
        _name_lines(axes, {label: end for label, end in drawn.items() if label})
        _note(axes, "faint: every step · line: running mean over 2 % of the steps")


def intervals(
    record: Any,
    metric: str | None = None,
    *,
    alt: str,
    xlabel: str = "",
    better: str | None = None,
    paper: Mapping[str, float] | None = None,
    title: str = "",
) -> None:
    """Draw one row for each variant: every seed as a dot, the mean as a bar across, the 95 % t-interval as a line.

    record: a Record, or variant → {metric: values}, or variant → values (one per seed); metric names which values.
    better: "higher" or "lower", written on the axis. paper: variant → the published value, drawn as an open diamond.
    Raises ValueError where no variant has the metric (it lists those there are).
    """
    values = _values_of(record, metric)
    if better not in (None, "higher", "lower"):
        raise ValueError(f"intervals: better is {better!r}; it must be 'higher', 'lower' or left out")
    with figure(alt=alt, height=0.9 + 0.42 * len(values)) as fig:
        axes = fig.subplots()
        axes.grid(False, axis="y")
        for y, ((label, seeds), colour) in enumerate(zip(values.items(), colours(list(values)), strict=True)):
            mean, low, high = _interval(seeds)
            axes.plot([low, high], [y, y], color=colour, linewidth=3.2, solid_capstyle="butt", alpha=0.55)
            axes.plot([mean, mean], [y - 0.26, y + 0.26], color=ink(colour), linewidth=2.6)
            spread = y + np.linspace(-0.13, 0.13, len(seeds)) if len(seeds) > 1 else [y]
            axes.scatter(seeds, spread, s=20, color=colour, edgecolor="white", linewidth=0.5, zorder=3)
            if paper and label in paper:
                axes.scatter([paper[label]], [y], s=46, marker="D", facecolor="none", edgecolor=BLACK, zorder=4)
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.45, -0.55)
        axes.tick_params(axis="y", length=0, labelsize=10)
        arrow = {"higher": " (higher is better →)", "lower": " (← lower is better)", None: ""}[better]
        _finish(axes, (xlabel or metric or "value") + arrow, "", title, False, False)
        note = _what_the_band_is([len(seeds) for seeds in values.values()], mark="bar and line")
        _note(axes, "dots: seeds · " + note + (" · ◇ published" if paper else ""))


def histogram(series: Mapping[str, Any], *, xlabel: str, alt: str, bins: int = 40, title: str = "") -> None:
    """Draw how often values occur, as outlines that can lie over each other: times that were drawn, pixel values.

    series: label → values of any shape. The area under each outline is 1.
    """
    rows = {label: array(values).ravel() for label, values in filled(series, "histogram").items()}
    edges = np.histogram_bin_edges(np.concatenate(list(rows.values())), bins)
    with figure(alt=alt) as fig:
        axes = fig.subplots()
        drawn = {}
        for (label, values), colour in zip(rows.items(), colours(list(rows)), strict=True):
            heights, _ = np.histogram(values, edges, density=True)
            axes.stairs(heights, edges, color=colour, linewidth=1.9)
            axes.stairs(heights, edges, color=colour, fill=True, alpha=0.12)
            drawn[label] = ((edges[1:] + edges[:-1]) / 2, heights)
        _finish(axes, xlabel, "density", title, False, False)
        _name_lines(axes, drawn)


def heat(
    matrix: Any,
    *,
    alt: str,
    xlabel: str,
    ylabel: str,
    label: str = "",
    xticks: Sequence[str] | None = None,
    yticks: Sequence[str] | None = None,
    centre: float | None = None,
    annotate: bool | None = None,
    title: str = "",
) -> None:
    """Draw a matrix as colours: attention weights, a schedule over time and channel, accuracy over two knobs.

    matrix: (rows, columns); label: what a value is, with its unit. centre: the value that stays white, for signed
    data. annotate: write the numbers into the cells (by default up to 100 of them).
    """
    values = array(matrix)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"heat: expects a matrix (rows, columns), got shape {values.shape}")
    rows, columns = values.shape
    scale: dict[str, Any] = {"cmap": "viridis"}
    if centre is not None:
        reach = float(np.nanmax(np.abs(values - centre))) or 1.0
        scale = {"cmap": "PuOr_r", "vmin": centre - reach, "vmax": centre + reach}
    cell = min(0.62, (page_width() - 2.2) / columns, 4.4 / rows)
    with figure(alt=alt, width=max(3.6, cell * columns + 2.2), height=max(2.0, cell * rows + 1.1)) as fig:
        axes = fig.subplots()
        axes.grid(False)
        image = axes.imshow(values, aspect="equal" if cell * min(values.shape) > 1.2 else "auto", **scale)
        fig.colorbar(image, ax=axes, label=label, pad=0.02)
        for set_ticks, names in ((axes.set_xticks, xticks), (axes.set_yticks, yticks)):
            if names is not None:
                set_ticks(range(len(names)), list(names))
        if annotate or (annotate is None and values.size <= 100 and cell > 0.35):
            for (i, j), value in np.ndenumerate(values):
                colour = readable_on(image.cmap(image.norm(value))[:3])
                axes.text(j, i, f"{value:.2g}", ha="center", va="center", size=8, color=colour)
        _finish(axes, xlabel, ylabel, title, False, False)


# What the curves share


def _finish(axes: Axes, xlabel: str, ylabel: str, title: str, logx: bool, logy: bool) -> None:
    axes.set(xlabel=xlabel, ylabel=ylabel)
    if title:
        axes.set_title(title, pad=8)
    if logx:
        axes.set_xscale("log")
    if logy:
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)


def _plain_numbers(axis: Any) -> None:
    """Write 20 and not 2 × 10¹ on a logarithmic axis; a short axis also names 2, 4 and 6 of each decade."""
    from matplotlib.ticker import FuncFormatter

    def between(value: float, _: int) -> str:
        low, high = axis.get_view_interval()
        named = round(value / 10 ** math.floor(math.log10(value))) in (2, 4, 6)
        return f"{value:g}" if named and high < 30 * low else ""

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(FuncFormatter(between))


def _note(axes: Axes, text: str) -> None:
    """Write in small type above the axes, under the title, what dots, bands and bars are."""
    axes.set_title(axes.get_title("left"), pad=20)
    axes.annotate(
        text, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", size=8, color="#555555", va="bottom"
    )


def _what_the_band_is(counts: Sequence[int], mark: str = "band") -> str:
    if max(counts) == 1:
        return "one seed: no interval"
    seeds = f"{counts[0]}" if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"
    return f"{mark}: mean ± 95 % t-interval, {seeds} seeds"


def _name_lines(axes: Axes, drawn: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """Write each line's name in its colour: at the right end, or on the line where the lines are further apart."""
    fig = axes.get_figure(root=True)
    assert fig is not None
    fig.draw_without_rendering()  # fixes the size of the axes, and with it how far apart the names must be
    step = 12.5 / (axes.get_window_extent().height * 72 / fig.dpi)
    to_fraction = axes.transData + axes.transAxes.inverted()
    heights = {label: to_fraction.transform(np.stack(line, axis=1)) for label, line in drawn.items()}
    paint = {label: ink(colour) for label, colour in zip(drawn, colours(list(drawn)), strict=True)}
    style: dict[str, Any] = {"weight": "bold", "size": 9.5, "va": "center", "annotation_clip": False}
    place, gap = _widest_gap(list(heights.values()))
    ends = np.sort([line[-1, 1] for line in heights.values()])
    if gap > 2 * step and len(ends) > 1 and np.diff(ends).min() < step:
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
        for label, line in heights.items():
            axes.annotate(
                label, line[place], xycoords="axes fraction", ha="center", color=paint[label], bbox=box, **style
            )  # fmt: skip
        return
    apart = _move_apart({label: float(line[-1, 1]) for label, line in heights.items()}, step)
    for label, height in apart.items():
        axes.annotate(
            label, (1, height), (8, 0), xycoords="axes fraction", textcoords="offset points",
            color=paint[label], **style,
        )  # fmt: skip


def _widest_gap(drawn: list[np.ndarray]) -> tuple[int, float]:
    """Find where the closest two of the lines are furthest apart: the index along x, and the gap there."""
    if len(drawn) < 2 or len({len(line) for line in drawn}) > 1 or len(drawn[0]) < 20:
        return 0, 0.0
    stack = np.sort(np.nan_to_num([line[:, 1] for line in drawn]).clip(0, 1), axis=0)
    gaps = np.diff(stack, axis=0).min(axis=0)
    x = drawn[0][:, 0]
    gaps[(x < 0.15) | (x > 0.85)] = 0.0
    return int(gaps.argmax()), float(gaps.max())


def _move_apart(wanted: Mapping[str, float], step: float) -> dict[str, float]:
    """Move heights (fractions of the axes) up and down until neighbours are at least one step apart."""
    order = sorted(wanted, key=lambda label: float(np.nan_to_num(wanted[label])))
    heights = np.clip(np.nan_to_num([wanted[label] for label in order]), 0.0, 1.0)
    for _ in range(200):
        for i in range(len(order) - 1):
            overlap = step - (heights[i + 1] - heights[i])
            if overlap > 1e-6:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
    return dict(zip(order, heights.tolist(), strict=True))


def _interval(values: Any) -> tuple[float, float, float]:
    """Mean and 95 % t-interval; a single value is its own interval."""
    from lesson_lib.results import interval

    seeds = [float(value) for value in values]
    return (seeds[0], seeds[0], seeds[0]) if len(seeds) == 1 else interval(seeds)


def _values_of(record: Any, metric: str | None) -> dict[str, np.ndarray]:
    variants = filled(getattr(record, "variants", record), "intervals")
    found = {}
    for label, entry in variants.items():
        if isinstance(entry, Mapping):
            if metric not in entry:
                raise ValueError(f"intervals: {label!r} has no metric {metric!r}; it has {', '.join(entry)}")
            entry = entry[metric]
        found[label] = _vector(entry, f"intervals: {label!r}")
    return found


def _vector(values: Any, what: str) -> np.ndarray:
    numbers = array(values)
    if numbers.ndim != 1 or not len(numbers):
        raise ValueError(f"{what} has shape {numbers.shape}; it must be a sequence of at least one number")
    return numbers


def _rows(series: Any, function: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    rows = {label: array(values) for label, values in filled(series, function).items()}
    for label, values in rows.items():
        if values.shape != shape:
            raise ValueError(f"{function}: {label!r} has shape {values.shape}; like x it must be {shape}")
    return rows
