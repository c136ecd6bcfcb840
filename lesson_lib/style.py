"""The style of every figure: the page, one colour for each thing compared, and one door (`show`) to the notebook."""

from __future__ import annotations

import base64
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 8.4  # inches: a notebook's text column
DPI = 120

# Okabe and Ito's eight colours (jfly.uni-koeln.de/color), told apart with every common form of colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, BROWN = "#8A8A8A", "#781E00"  # grey is for what stays in the background: many eyes take it for green or purple
PALETTE = (BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK, BROWN)  # for what has no colour of its own
GROUND = "#F3F3F3"  # the darkest grey on which coloured words stand: the bands of a diagram

# Things that are compared stand in one group. A mechanism keeps its colour: FiLM returns in the transformer as adaLN.
GROUPS: dict[str, dict[str, str]] = {
    "architecture": {
        "U-Net": VERMILLION,
        "VAE": YELLOW,
        "CNN": ORANGE,
        "ViT": GREEN,
        "DiT": BLUE,
        "cross-attention DiT": SKY,
        "MMDiT": PURPLE,
        "hybrid MMDiT": BLACK,
    },
    "sampler": {"ddpm": VERMILLION, "ddim": ORANGE, "euler": SKY, "heun": BLUE},
    "injection": {"concat": ORANGE, "add": SKY, "film": BLUE, "cross-attention": GREEN},
    "conditioning": {
        "in-context": ORANGE,
        "cross-attention": GREEN,
        "adaLN": BLUE,
        "adaLN-Zero": PURPLE,
        "adaLN-single": VERMILLION,
    },
    "target": {"eps": VERMILLION, "x0": GREEN, "v": PURPLE, "u": BLUE},
    "time": {"uniform": BLACK, "logit-normal": BLUE, "mode": ORANGE},
    "process": {"diffusion": VERMILLION, "rectified flow": BLUE},
    "schedule": {"linear": VERMILLION, "cosine": BLUE, "ldm-linear": ORANGE},
}
COLOUR: dict[str, str] = {label: colour for group in GROUPS.values() for label, colour in group.items()}
MARKERS = "os^DvPX*"

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.8,
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "lines.linewidth": 1.9,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.bbox": None,
}


@dataclass(frozen=True)
class _Page:
    width: float = WIDTH
    pictures: list[bytes] | None = None


_PAGE: ContextVar[_Page] = ContextVar("page", default=_Page())  # noqa: B039 (frozen; capture() replaces it)


def show(fig: Figure, alt: str) -> None:
    """Send a figure to the notebook, once, as a PNG with its alt text; the door through which every figure goes.

    alt: what the figure shows, for readers who do not see it. Outside a notebook the alt text is printed; with
    LESSON_ALT=1 it is printed inside one too, since JupyterLab hands no alt text of a PNG to a screen reader.
    The figure is cleared and, where it came from pyplot, closed. Raises ValueError where alt is missing or blank.
    """
    import IPython
    import IPython.display

    picture = to_png(fig, alt)
    page = _PAGE.get()
    if page.pictures is not None:
        page.pictures.append(picture)
    elif IPython.get_ipython() is None:
        print(f"[figure: {alt}]")
    else:
        data = {"image/png": base64.b64encode(picture).decode("ascii"), "text/plain": f"[figure: {alt}]"}
        IPython.display.display(data, raw=True, metadata={"image/png": {"alt": alt}})
        if os.environ.get("LESSON_ALT") == "1":
            print(f"[figure: {alt}]")
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close(fig)
    fig.clear()


def to_png(fig: Figure, alt: str) -> bytes:
    """Draw a figure as PNG bytes with at most 256 colours, so that a notebook of figures stays under 1 MB.

    The alt text stands in the file too (an iTXt chunk, "Description").
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    need_alt(alt)
    drawn = io.BytesIO()
    fig.savefig(drawn, format="png", dpi=DPI)
    picture = Image.open(drawn).convert("RGB")
    palette = picture.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    text, small = PngInfo(), io.BytesIO()
    text.add_itxt("Description", alt)
    palette.save(small, format="png", optimize=True, pnginfo=text)
    return small.getvalue()


@contextmanager
def capture(width: float = WIDTH) -> Iterator[list[bytes]]:
    """Collect the PNG bytes of the figures that are drawn inside instead of showing them; sliders are made of these.

    width: of the page, in inches; figures inside become no wider.
    """
    pictures: list[bytes] = []
    token = _PAGE.set(_Page(width, pictures))
    try:
        yield pictures
    finally:
        _PAGE.reset(token)


def page_width() -> float:
    """Return how wide a figure may be here, in inches: the notebook's column, or less inside `capture`."""
    return _PAGE.get().width


@contextmanager
def figure(*, alt: str, width: float = WIDTH, height: float = 3.4, constrained: bool = True) -> Iterator[Figure]:
    """Open an empty figure in the course's style and show it at the end: for the figures that no function here draws.

    width, height: inches; constrained: matplotlib makes room for labels. Use it as
    `with plot.figure(alt="…") as fig: axes = fig.subplots()`. Nothing is shown where the body raises; matplotlib's own
    settings are left as they were.
    """
    import matplotlib
    from matplotlib.figure import Figure

    need_alt(alt)
    with matplotlib.rc_context(STYLE):
        fig = Figure(figsize=(min(width, page_width()), height), layout="constrained" if constrained else None)
        yield fig
        show(fig, alt)


def colours(labels: Sequence[str]) -> list[str]:
    """Return a colour for each label: the course's own where it has one (any case), else one that is still free."""
    known = {label.lower(): colour for label, colour in COLOUR.items()}
    fixed = [known.get(str(label).lower()) for label in labels]
    free = [c for c in PALETTE if c not in fixed]
    spare = iter(free * (1 + len(labels)) or [GREY] * len(labels))
    return [colour or next(spare) for colour in fixed]


def ink(colour: str) -> str:
    """Return the colour darkened until it can be read as text, on white and on GROUND (contrast 4.5:1, WCAG AA)."""
    from matplotlib.colors import to_hex, to_rgb

    rgb = np.array(to_rgb(colour))
    while contrast(to_hex(tuple(rgb)), GROUND) < 4.5:
        rgb = rgb * 0.95
    return str(to_hex(tuple(rgb)))


def contrast(first: Any, second: Any) -> float:
    """Return how much two colours differ in lightness as WCAG counts it: 1 for equal ones, 21 for black and white."""
    from matplotlib.colors import to_rgb

    rgb = np.array([to_rgb(first), to_rgb(second)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    darker, lighter = sorted(linear @ (0.2126, 0.7152, 0.0722))
    return float((lighter + 0.05) / (darker + 0.05))


def readable_on(colour: Any) -> str:
    """Return "black" or "white", whichever is read more easily on a ground of this colour; it is 4.5:1 on any."""
    return max("black", "white", key=lambda text: contrast(text, colour))


def need_alt(alt: str) -> None:
    """Refuse a figure without alt text, with a ValueError."""
    if not isinstance(alt, str) or not alt.strip():
        raise ValueError("alt is empty; say in a sentence what the figure shows, for readers who cannot see it")


def array(values: Any) -> np.ndarray:
    """Return a tensor, list or array as a NumPy array of floats on the CPU."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().double()
    return np.asarray(values, dtype=float)


def filled(series: Any, function: str) -> Mapping[str, Any]:
    """Refuse what is not a dictionary with at least one entry, with a ValueError."""
    if not isinstance(series, Mapping) or not series:
        raise ValueError(f"{function}: expects a dictionary of label → values with at least one entry")
    return series
