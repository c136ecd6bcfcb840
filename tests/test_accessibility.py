"""For every eye, and for those who see no pictures: headings in order, alt texts, colours that stay apart, contrast."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colorspacious import cspace_convert
from matplotlib.colors import to_rgb

from lesson_lib import ROOT, diagrams, plot, style
from lesson_lib.delivery.pages import FORMS, Page, read_page, read_pages
from lesson_lib.unet import UNet, UNetConfig

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [page for page in read_pages() if not page.path.startswith(FORMS)]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)

# Headings


def headings_out_of_order(page: Page) -> list[str]:
    """Say where a page lacks its one title, skips a level, or has two headings with one anchor."""
    levels = [heading.level for heading in page.headings]
    found = [] if levels.count(1) == 1 and levels[0] == 1 else [f"{levels.count(1)} titles; one must come first"]
    for above, below in zip(page.headings, page.headings[1:], strict=False):
        if below.level > above.level + 1:
            found.append(f"{below.text!r} is of level {below.level} below {above.text!r} of level {above.level}")
    repeated = Counter(heading.text.lower() for heading in page.headings)
    return found + [f"{text!r} is a heading {count} times" for text, count in repeated.items() if count > 1]


@each_page
def test_headings_are_in_order(page: Page) -> None:
    assert headings_out_of_order(page) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Words.", "0 titles"),
        ("# One\n\n# Two", "2 titles"),
        ("## Early\n\n# Title", "1 titles; one must come first"),
        ("# Title\n\n### Deep", "'Deep' is of level 3"),
        ("# Title\n\n<h3>Deep</h3>", "'Deep' is of level 3"),
        ("# Title\n\n## Same\n\nWords.\n\n## same", "'same' is a heading 2 times"),
    ],
)
def test_headings_out_of_order_are_found(text: str, complaint: str) -> None:
    assert headings_out_of_order(read_page("page.md", "# Title\n\n## Part\n\n### Piece\n\n## Next")) == []
    assert any(complaint in found for found in headings_out_of_order(read_page("page.md", text)))


# Alt texts


def poor_alts(alts: list[tuple[str, Any]]) -> list[str]:
    """Say which pictures lack an alt text that tells them from the others: pairs of alt text and what is shown."""
    found, seen = [], {}
    for number, (alt, shown) in enumerate(alts, 1):
        if len(alt.strip()) < 20:
            found.append(f"picture {number}: {alt!r} does not say what it shows")
        elif seen.setdefault(alt, shown) != shown:
            found.append(f"picture {number}: {alt!r} is another picture's text too")
    return found


def figures(notebook: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the alt text ("" for none) and the bytes, as base64, of every figure in a notebook's outputs."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    shown = [output for output in outputs if "image/png" in output.get("data", {})]
    return [
        (output["metadata"].get("image/png", {}).get("alt", ""), "".join(output["data"]["image/png"]))
        for output in shown
    ]


@each_notebook
def test_every_figure_has_a_text_of_its_own(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert figures(notebook)
    assert poor_alts(figures(notebook)) == []


@each_page
def test_every_picture_on_a_page_has_a_text_of_its_own(page: Page) -> None:
    """A badge is the text of a link, so its alt text says where the link leads and may be short."""
    assert all(picture.alt.strip() for picture in page.pictures)
    assert poor_alts([(picture.alt, picture.source) for picture in page.pictures if not picture.linked]) == []


def test_missing_short_and_repeated_texts_are_found() -> None:
    good = "A line that falls from 1 to 0"
    assert poor_alts([(good, "a"), (good, "a"), ("A line that rises from 0", "b")]) == []
    assert len(poor_alts([("", "a"), (" " * 30, "b"), ("a plot", "c"), (good, "d"), (good, "e")])) == 4
    page = read_page("page.md", "![](a.png) <img src='b.png'> [![badge](c.svg)](x)")
    assert [picture.alt for picture in page.pictures] == ["", "", "badge"]
    assert [picture.linked for picture in page.pictures] == [False, False, True]
    cell = {"outputs": [{"data": {"image/png": "AA"}, "metadata": {}}, {"output_type": "stream", "text": "words"}]}
    assert figures({"cells": [cell]}) == [("", "AA")]


# Colours. Distances are measured in CAM02-UCS after the simulation of Machado and others (2009) at full strength. About
# 1 is the least that can be seen side by side. Matplotlib's own red and green come to 5.2 for a deuteranope, its ten
# colours to 1.6 for a protanope; Okabe and Ito's eight, which were chosen for this, keep 11. So 10 is asked for.

VISIONS = ("normal", "deuteranomaly", "protanomaly", "tritanomaly")
FAR_ENOUGH = 10.0
SURE = 20.0  # between the two a figure needs something besides colour


def apart(first: str, second: str, vision: str) -> float:
    """Return how far apart two colours look."""
    rgb = np.array([to_rgb(first), to_rgb(second)])
    if vision != "normal":
        space = {"name": "sRGB1+CVD", "cvd_type": vision, "severity": 100}
        rgb = np.clip(cspace_convert(rgb, space, "sRGB1"), 0, 1)
    return float(np.linalg.norm(np.subtract(*cspace_convert(rgb, "sRGB1", "CAM02-UCS"))))


def too_close(colours: dict[str, str], enough: float = FAR_ENOUGH) -> list[str]:
    """Say which pairs of colours somebody cannot tell apart."""
    return [
        f"{a} and {b} are {distance:.1f} apart ({vision})"
        for vision in VISIONS
        for a, b in combinations(colours, 2)
        if (distance := apart(colours[a], colours[b], vision)) < enough
    ]


@pytest.mark.parametrize("group", [*style.GROUPS, "palette"])
def test_colours_that_are_compared_stay_apart(group: str) -> None:
    colours = style.GROUPS.get(group) or {f"colour {i}": colour for i, colour in enumerate(style.PALETTE)}
    assert too_close(colours) == []


def test_bad_palettes_are_found() -> None:
    assert too_close({"red": "#d62728", "green": "#2ca02c"}) == ["red and green are 5.2 apart (deuteranomaly)"]
    assert too_close({"green": style.GREEN, "grey": style.GREY}) == ["green and grey are 6.6 apart (deuteranomaly)"]
    assert any("tritanomaly" in found for found in too_close({"blue": "#0072B2", "teal": "#007A8A"}))
    assert not too_close({"black": "#000000", "white": "#FFFFFF"})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Keep the figures that would be shown."""
    kept: list[Any] = []
    monkeypatch.setattr(style, "show", lambda figure, alt: kept.append(figure))
    return kept


LABELS = [f"way {i}" for i in range(8)]
X = list(range(5))


def test_close_colours_are_told_apart_by_marker_or_name(drawn: list[Any]) -> None:
    assert too_close(dict(zip(LABELS, plot.colours(LABELS), strict=True)), SURE), "no colours are close any more"
    about = {"xlabel": "x", "ylabel": "y", "alt": "Eight ways"}
    plot.curves(X, {label: torch.rand(3, 5) for label in LABELS}, **about)
    markers = [line.get_marker() for line in drawn[0].axes[0].lines]
    assert len(set(markers)) == len(LABELS)
    plot.lines(X, {label: torch.rand(5) for label in LABELS}, **about)
    plot.losses({label: torch.rand(99).tolist() for label in LABELS}, alt="Eight losses")
    plot.histogram({label: torch.rand(99) for label in LABELS}, xlabel="x", alt="Eight outlines")
    plot.intervals({label: [0.1, 0.2, 0.3] for label in LABELS}, alt="Eight rows")
    for figure in drawn:  # each has its name beside it or, where it has a row to itself, before it
        axes = figure.axes[0]
        named = {text.get_text() for text in (*axes.texts, *axes.get_yticklabels())}
        assert set(LABELS) <= named
    assert not any(figure.legends or figure.axes[0].get_legend() for figure in drawn)


# Contrast of words


def faint_words(figure: Any, enough: float = 4.5) -> list[str]:
    """Say which words of a figure are hard to read: drawn once without them, to see what they stand on."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    figure.set_layout_engine("none")  # or the rest would move into the place of the words
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    boxes = [text.get_window_extent() for text in texts]
    for text in texts:
        text.set_visible(False)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[::-1, :, :3]
    found = []
    for text, box in zip(texts, boxes, strict=True):
        inside = pixels[max(0, int(box.y0)) : int(box.y1) + 1, max(0, int(box.x0)) : int(box.x1) + 1].reshape(-1, 3)
        if not len(inside):
            continue
        values, counts = np.unique(inside, axis=0, return_counts=True)
        patch = text.get_bbox_patch()
        ground = patch.get_facecolor()[:3] if patch else values[counts.argmax()] / 255
        if (contrast := style.contrast(text.get_color(), ground)) < enough:
            found.append(f"{text.get_text()!r} has a contrast of {contrast:.1f}")
    return found


def draw_heat() -> None:
    plot.heat(torch.linspace(0, 1, 60).view(6, 10), xlabel="x", ylabel="y", alt="Sixty numbers")
    plot.heat(torch.linspace(-1, 1, 60).view(6, 10), xlabel="x", ylabel="y", alt="Sixty numbers", centre=0.0)


SEEDS = {label: torch.rand(3, 5) for label in plot.GROUPS["architecture"]}
WORDS = {
    "curves": lambda: plot.curves(X, SEEDS, xlabel="x", ylabel="y", alt="Eight networks", title="Title"),
    "intervals": lambda: plot.intervals({"a": [1.0, 2.0]}, alt="One row", paper={"a": 1.5}, better="higher"),
    "losses": lambda: plot.losses([3.0, 2.0, 1.0], alt="A loss"),
    "grid": lambda: plot.sample_rows({"a": torch.zeros(2, 3, 8, 8)}, alt="Two pictures", column_titles=["x", "y"]),
    "map": lambda: diagrams.course_map(alt="The map", here="02"),
    "network": lambda: diagrams.network_diagram(torch.nn.Sequential(torch.nn.Linear(2, 2)), torch.zeros(1, 2), alt="A"),
    "U": lambda: diagrams.unet_diagram(UNet(UNetConfig.shapes16()), size=16, alt="A U"),
    "heat": draw_heat,
}


@pytest.mark.parametrize("kind", WORDS)
def test_words_in_figures_can_be_read(kind: str, drawn: list[Any]) -> None:
    WORDS[kind]()
    assert [found for figure in drawn for found in faint_words(figure)] == []


def test_faint_words_are_found(drawn: list[Any]) -> None:
    with plot.figure(alt="Four words") as fig:
        axes = fig.subplots()
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.axhspan(0, 0.5, color="#777777")
        axes.text(0.1, 0.8, "pale", color=style.ORANGE)
        axes.text(0.1, 0.2, "grey on grey", color="#333333")
        axes.text(0.5, 0.2, "in a box", color="#333333", bbox={"facecolor": "white"})
        axes.text(0.5, 0.8, "sound", color=style.ink(style.ORANGE))
    found = faint_words(drawn[0])
    assert [sentence.partition(" has")[0] for sentence in found] == ["'pale'", "'grey on grey'"]


def test_ink_and_readable_on_keep_their_word() -> None:
    palette = {*style.PALETTE, style.GREY, *style.COLOUR.values()}
    assert all(style.contrast(style.ink(colour), style.GROUND) >= 4.5 for colour in palette)
    assert style.contrast("black", "white") == pytest.approx(21)
    assert style.contrast(style.ORANGE, "white") < 3
    grounds = np.random.default_rng(0).random((500, 3))
    assert min(style.contrast(style.readable_on(ground), ground) for ground in grounds) >= 4.5
