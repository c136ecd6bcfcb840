"""Grids of pictures, drawn pixel by pixel: samples, labelled rows to compare cell by cell, trajectories over time."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.style import DPI, figure, need_alt, page_width

TEXT = 9.0  # points
LETTER = 0.62 * TEXT * DPI / 72  # pixels: DejaVu Sans' average letter
LINE = 1.3 * TEXT * DPI / 72  # pixels
LARGEST, GAP = 104, 8  # pixels: of a cell at most, between two cells


def sample_grid(
    images: Tensor, *, alt: str, columns: int = 8, titles: Sequence[str] | None = None, title: str = ""
) -> None:
    """Show pictures in a grid, each pixel as a square; titles stand above the cells (class, caption).

    images: (B, C, H, W) in [-1, 1], C 1 or 3; values outside are clamped, NaN shows as magenta.
    Raises ValueError for another shape, or a number of titles that is not B.
    """
    cells = _pixels(images, "sample_grid: images")
    if titles is not None and len(titles) != len(cells):
        raise ValueError(f"sample_grid: {len(titles)} titles for {len(cells)} images; give one for each image")
    columns = max(1, min(columns, len(cells)))
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    above = None if titles is None else [list(titles[i : i + columns]) for i in range(0, len(cells), columns)]
    _draw(rows, alt=alt, columns=columns, above=above, title=title)


def sample_rows(
    rows: Mapping[str, Tensor], *, alt: str, column_titles: Sequence[str] | None = None, title: str = ""
) -> None:
    """Show labelled rows of pictures to be compared column by column: start every row from the same noise.

    rows: label → (B, C, H, W) in [-1, 1], the same B in each row; column_titles: B strings.
    Raises ValueError where rows differ in length or column_titles does not fit.
    """
    if not isinstance(rows, Mapping) or not rows:
        raise ValueError("sample_rows: expects a dictionary of row label → images (B, C, H, W)")
    cells = {str(label): _pixels(images, f"sample_rows: {label!r}") for label, images in rows.items()}
    counts = {label: len(row) for label, row in cells.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"sample_rows: rows have {counts} images; cells are compared, so every row needs as many")
    columns = next(iter(counts.values()))
    if column_titles is not None and len(column_titles) != columns:
        raise ValueError(f"sample_rows: {len(column_titles)} column titles for {columns} columns")
    above = None if column_titles is None else [list(column_titles)] + [[] for _ in range(len(cells) - 1)]
    _draw(list(cells.values()), alt=alt, columns=columns, above=above, left=list(cells), title=title)


def trajectory(
    images: Tensor | Sequence[Tensor],
    times: Any,
    *,
    alt: str,
    columns: int = 8,
    rows: int = 4,
    labels: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Show how noise becomes pictures: one row for each sample, `columns` moments spread over the way.

    images: (T, B, C, H, W), or T tensors (B, C, H, W); times: T numbers or strings, written above the columns.
    rows: how many of the B samples are shown; labels: names for them. Raises ValueError where T differs.
    """
    stops = list(images)
    moments = times.tolist() if isinstance(times, Tensor | np.ndarray) else list(times)
    if not stops or len(stops) != len(moments):
        raise ValueError(f"trajectory: {len(stops)} images for {len(moments)} times; give the time of every stop")
    chosen = np.unique(np.linspace(0, len(stops) - 1, min(columns, len(stops))).round().astype(int))
    shown = [_pixels(stops[i], "trajectory: a stop")[:rows] for i in chosen]
    names = [_moment(moments[i]) for i in chosen]
    grid = [np.stack([stop[b] for stop in shown]) for b in range(len(shown[0]))]
    above = [names] + [[] for _ in range(len(grid) - 1)]
    left = list(labels[: len(grid)]) if labels is not None else None
    _draw(grid, alt=alt, columns=len(chosen), above=above, left=left, title=title)


def _moment(time: Any) -> str:
    if isinstance(time, str):
        return time
    return f"t = {time}" if isinstance(time, int) else f"t = {time:.2f}"


def _pixels(images: Any, what: str) -> np.ndarray:
    """Turn (B, C, H, W) in [-1, 1] into bytes (B, H, W, 3)."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] not in (1, 3) or not len(images):
        shape = tuple(images.shape) if hasattr(images, "shape") else type(images).__name__
        raise ValueError(f"{what}: expects a tensor (B, C, H, W) with 1 or 3 channels in [-1, 1], got {shape}")
    x = images.detach().float().cpu()
    lost = x.isnan().any(dim=1)
    x = ((x.nan_to_num().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).expand(-1, 3, -1, -1)
    x = x.permute(0, 2, 3, 1).clone()
    x[lost] = torch.tensor([255, 0, 255], dtype=torch.uint8)
    return x.numpy()


def _scale(cells: np.ndarray, room: int) -> np.ndarray:
    """Enlarge by a whole factor, so that all pixels stay squares of one size; shrink where there is no room."""
    factor = min(LARGEST, room) // max(cells.shape[1:3])
    if factor >= 1:
        return cells.repeat(factor, axis=1).repeat(factor, axis=2)
    side = max(8, room)
    shrunk = F.interpolate(torch.from_numpy(cells).permute(0, 3, 1, 2).float(), size=(side, side), mode="area")
    return shrunk.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


def _draw(
    rows: list[np.ndarray],
    *,
    alt: str,
    columns: int,
    above: list[list[str]] | None = None,
    left: list[str] | None = None,
    title: str = "",
) -> None:
    """Lay the cells out in pixels, so that every picture pixel becomes the same whole number of screen pixels."""
    need_alt(alt)
    page = round(page_width() * DPI)
    labels = [textwrap.wrap(label, 17) or [""] for label in left] if left else []
    margin = round(max((len(line) for label in labels for line in label), default=0) * LETTER + 10) if left else 4
    room = (page - margin - 4) // columns - GAP
    grid = [_scale(row, room) for row in rows]
    height, width = grid[0].shape[1:3]
    letters = max(6, int((width + GAP) / LETTER))
    wrapped = [[textwrap.wrap(text, letters) for text in line] for line in above] if above else [[] for _ in grid]
    heads = [round(max((len(text) for text in line), default=0) * LINE) + (4 if line else 0) for line in wrapped]
    top = round(1.6 * LINE) if title else 2
    total = top + sum(heads) + len(grid) * (height + GAP)
    sheet = np.full((total, max(margin + columns * (width + GAP), round(len(title) * LETTER * 1.15)), 3), 255, np.uint8)
    texts: list[tuple[float, float, str, dict[str, Any]]] = []
    if title:
        texts.append((margin, top / 2, title, {"va": "center", "ha": "left", "size": 10.5}))
    y = top
    for r, cells in enumerate(grid):
        y += heads[r]
        for c, cell in enumerate(cells):
            x = margin + c * (width + GAP)
            sheet[y - 1 : y + height + 1, x - 1 : x + width + 1] = 190  # a thin frame: many pictures are white outside
            sheet[y : y + height, x : x + width] = cell
            if c < len(wrapped[r]):
                texts.append((x + width / 2, y - 3, "\n".join(wrapped[r][c]), {"va": "bottom", "ha": "center"}))
        if left:
            texts.append((margin - 8, y + height / 2, "\n".join(labels[r]), {"va": "center", "ha": "right"}))
        y += height + GAP
    _print(sheet, texts, alt)


def _print(sheet: np.ndarray, texts: list[tuple[float, float, str, dict[str, Any]]], alt: str) -> None:
    height, width = sheet.shape[:2]
    with figure(alt=alt, width=width / DPI, height=height / DPI, constrained=False) as fig:
        fig.set_size_inches(width / DPI, height / DPI)  # even where a title is wider than the page
        axes = fig.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.imshow(sheet, interpolation="nearest", aspect="auto", extent=(0, width, height, 0))
        axes.set(xlim=(0, width), ylim=(height, 0))
        for x, y, text, place in texts:
            axes.text(x, y, text, **({"size": TEXT, "linespacing": 1.15} | place))
