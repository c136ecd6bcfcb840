"""Points in the plane: clouds side by side, the paths they take, and the velocity that moves them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lesson_lib.style import COLOUR, GREY, PALETTE, array, figure, filled, ink, page_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def points(
    sets: Mapping[str, Any], *, alt: str, classes: Mapping[str, Any] | None = None, extent: float | None = None
) -> None:
    """Scatter sets of points side by side, with one scale for all: data, samples, steps in between.

    sets: label → (N, 2). classes: label → (N,) int64, which colours the points. extent: the axes run from -extent to
    extent (by default as far as the points). Raises ValueError where a set is not (N, 2).
    """
    clouds = {label: _plane(values, f"points: {label!r}") for label, values in filled(sets, "points").items()}
    reach = extent or 1.05 * max(float(np.abs(cloud[np.isfinite(cloud)]).max(initial=0.1)) for cloud in clouds.values())
    with _panels(len(clouds), alt, reach) as panels:
        for axes, (label, cloud) in zip(panels, clouds.items(), strict=True):
            members = array(classes[label]).astype(int) if classes and label in classes else np.zeros(len(cloud), int)
            size = float(np.clip(2500 / max(len(cloud), 1), 1.5, 14))
            paint = [PALETTE[member % len(PALETTE)] for member in members]
            axes.scatter(cloud[:, 0], cloud[:, 1], s=size, c=paint, alpha=0.6, linewidth=0)
            axes.set_title(label)


def paths(path: Any, *, alt: str, title: str = "", limit: int = 60, extent: float | None = None) -> None:
    """Draw the way that points take from noise (open circles) to data (filled circles).

    path: (T, N, 2), as samplers return with trajectory=True; the first `limit` points are drawn.
    """
    way = _way(path, "paths")[:, :limit]
    reach = extent or 1.05 * float(np.abs(way[np.isfinite(way)]).max(initial=0.1))
    with _panels(1, alt, reach, panel=4.4) as (axes,):
        _draw_paths(axes, way)
        axes.set_title(title)


def flow_field(
    velocity: Callable[[Tensor, Tensor], Tensor],
    times: Sequence[float],
    *,
    alt: str,
    extent: float = 3.0,
    cells: int = 17,
    path: Any = None,
) -> None:
    """Draw a velocity as arrows over the plane, one panel for each time, if wished with the paths of points on top.

    velocity: called with points (N, 2) and t (N,) filled with the panel's time; returns (N, 2). path: (T, N, 2).
    Arrows share one scale. Raises ValueError where velocity returns another shape.
    """
    axis = torch.linspace(-extent, extent, cells)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        fields = [velocity(grid, torch.full((len(grid),), float(time))) for time in times]
    for field in fields:
        if field.shape != grid.shape:
            raise ValueError(f"flow_field: velocity returned {tuple(field.shape)}; it must be {tuple(grid.shape)}")
    longest = max(float(field.norm(dim=1).quantile(0.95)) for field in fields) or 1.0
    with _panels(len(fields), alt, extent) as panels:
        for axes, time, field in zip(panels, times, fields, strict=True):
            if path is not None:
                _draw_paths(axes, _way(path, "flow_field")[:, :25])
            scale = longest / (1.6 * 2 * extent / cells)
            axes.quiver(
                *array(grid).T, *array(field).T, angles="xy", scale_units="xy", scale=scale, color=ink(COLOUR["u"]),
                width=0.005, headwidth=4,
            )  # fmt: skip
            axes.set_title(f"t = {time:g}")


@contextmanager
def _panels(count: int, alt: str, reach: float, panel: float = 2.6) -> Iterator[list[Axes]]:
    columns = max(1, min(count, int(page_width() // 2.0)))
    side = min(panel, page_width() / columns)
    rows = math.ceil(count / columns)
    with figure(alt=alt, width=side * columns, height=(side + 0.25) * rows + 0.25) as fig:
        panels = list(fig.subplots(rows, columns, squeeze=False).flat)
        for axes in panels[count:]:
            axes.set_visible(False)
        for i, axes in enumerate(panels[:count]):
            axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
            axes.tick_params(labelbottom=i + columns >= count, labelleft=i % columns == 0)
        yield panels[:count]


def _draw_paths(axes: Axes, way: np.ndarray) -> None:
    axes.plot(way[..., 0], way[..., 1], color=GREY, linewidth=0.8, alpha=0.8)
    axes.scatter(way[0, :, 0], way[0, :, 1], s=16, facecolor="white", edgecolor=GREY, linewidth=0.9, zorder=3)
    axes.scatter(way[-1, :, 0], way[-1, :, 1], s=16, color=PALETTE[0], linewidth=0, zorder=4)


def _plane(values: Any, what: str) -> np.ndarray:
    cloud = array(values)
    if cloud.ndim != 2 or cloud.shape[1] != 2:
        raise ValueError(f"{what} has shape {cloud.shape}; points in the plane are (N, 2)")
    return cloud


def _way(path: Any, function: str) -> np.ndarray:
    way = array(torch.stack(list(path)) if isinstance(path, list | tuple) else path)
    if way.ndim != 3 or way.shape[2] != 2:
        raise ValueError(f"{function}: path has shape {way.shape}; it must be (T, N, 2): times, points, coordinates")
    return way
