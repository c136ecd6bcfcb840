"""Sliders, menus and prompts: dials that swap pictures, after a static grid of the same pictures."""

from __future__ import annotations

import html
import io
import math
import os
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from lesson_lib.style import DPI, WIDTH, capture, figure, need_alt

STATIC = 6  # pictures in the static grid at most

Draw = Callable[[Any], None] | Sequence[Tensor]


def slider(draw: Draw, values: Sequence[Any], *, label: str, alt: str, width: float = WIDTH / 2) -> None:
    """Let the reader turn one dial: one picture for each value, drawn once, swapped in well under 100 ms.

    draw: called with each value, draws one figure with this library (`plot.…`); or one tensor of images (B, C, H, W)
    in [-1, 1] for each value. values: where the dial can stop, 2 to 24. label: the dial's name, with its unit.
    width: of each picture, in inches. A static grid of up to six of the pictures always comes first; the dial follows
    where `front_end()` says that somebody may turn it. Raises ValueError where values and pictures do not match.
    """
    _interactive(draw, list(values), [_text(value) for value in values], "slider", label, alt, width)


def menu(options: Sequence[Any], draw: Draw, *, label: str, alt: str, width: float = WIDTH / 2) -> None:
    """Let the reader choose from a list, as `slider` does from a scale: prompts, classes, models.

    options: what can be chosen, 2 to 24; draw, label, alt, width: as in `slider`.
    """
    _interactive(draw, list(options), [str(option) for option in options], "menu", label, alt, width)


def prompt(
    draw: Callable[[str], None], examples: Sequence[str], *, label: str, alt: str, width: float = WIDTH / 2
) -> None:  # fmt: skip
    """Let the reader type a prompt and see what it draws; Enter sends it.

    draw: called with a prompt, draws one figure with this library; a ValueError that it raises is shown under the box,
    and the picture stays. examples: at least one; their pictures always come first, in a static grid, and the box
    begins with the first of them. label, alt, width: as in `slider`.
    """
    need_alt(alt)
    if not examples:
        raise ValueError("prompt: give at least one example; its picture is what a page without a front end shows")
    drawn = [_picture(draw, list(examples), i, alt, width, "prompt") for i in range(len(examples))]
    _strip(drawn, [f"{label}: {text}" for text in examples], alt)
    if front_end():
        from IPython.display import display

        display(_text_box(draw, examples[0], drawn[0], label, alt, width))


def _text_box(draw: Callable[[str], None], first: str, picture: bytes, label: str, alt: str, width: float) -> Any:
    """Build the box, the line under it and the picture, in one. Only what ipywidgets 7.7 has."""
    import ipywidgets

    wide = ipywidgets.Layout(width="520px")
    box = ipywidgets.Text(
        value=first, description=label, continuous_update=False, layout=wide, style={"description_width": "initial"}
    )
    told = ipywidgets.HTML(value="")  # a Label would cut a long sentence off
    image = ipywidgets.Image(value=picture, format="png", layout=_own_size(ipywidgets))

    def redraw(change: Any) -> None:
        told.value = "drawing …"
        try:
            image.value = _picture(draw, [change["new"]], 0, alt, width, "prompt")
            told.value = ""
        except ValueError as error:
            told.value = html.escape(str(error))

    box.observe(redraw, names="value")
    return ipywidgets.VBox([box, told, image])


def front_end() -> bool:
    """Say whether somebody may turn a dial: True in a notebook, False in scripts, tests and headless runs.

    LESSON_HEADLESS decides where it is set (1: nobody, 0: somebody); otherwise a kernel is needed, and pytest (nbval)
    counts as nobody. A runner that sets nothing gets the dial too, which does no harm: the static grid is there.
    """
    from IPython import get_ipython

    asked = os.environ.get("LESSON_HEADLESS")
    if asked:
        return asked == "0"
    if "google.colab" in sys.modules:
        return True
    return hasattr(get_ipython(), "kernel") and not {"PYTEST_VERSION", "PYTEST_CURRENT_TEST"} & set(os.environ)


def swap_seconds(pictures: Sequence[bytes], rounds: int = 20) -> float:
    """Return the mean seconds that the kernel needs to swap one picture for another: a benchmark of the dial."""
    control, _ = _control("slider", "swap", [str(i) for i in range(len(pictures))], pictures)
    start = time.perf_counter()
    for _ in range(rounds):
        for i in range(len(pictures)):
            control.value = i
    return (time.perf_counter() - start) / (rounds * len(pictures))


def _interactive(
    draw: Draw, values: list[Any], names: list[str], kind: str, label: str, alt: str, width: float
) -> None:
    need_alt(alt)
    if not 2 <= len(values) <= 24:
        raise ValueError(f"{kind}: {len(values)} values; give 2 to 24, since every picture is drawn beforehand")
    if not callable(draw) and len(draw) != len(values):
        raise ValueError(f"{kind}: {len(draw)} pictures for {len(values)} values; give one for each")
    live = front_end()
    still = sorted(set(np.linspace(0, len(values) - 1, min(STATIC, len(values))).round().astype(int).tolist()))
    drawn = {i: _picture(draw, values, i, alt, width, kind) for i in (range(len(values)) if live else still)}
    _strip([drawn[i] for i in still], [f"{label}: {names[i]}" for i in still], alt)
    if live:
        from IPython.display import display

        display(_control(kind, label, names, list(drawn.values()))[1])


def _picture(draw: Draw, values: list[Any], i: int, alt: str, width: float, kind: str) -> bytes:
    from lesson_lib.pictures import sample_grid

    with capture(width) as pictures:
        if callable(draw):
            draw(values[i])
        else:
            sample_grid(draw[i], alt=alt)
    if len(pictures) != 1:
        raise ValueError(f"{kind}: draw({values[i]!r}) drew {len(pictures)} figures; it must draw one, through plot")
    return pictures[0]


def _control(kind: str, label: str, names: list[str], pictures: Sequence[bytes]) -> tuple[Any, Any]:
    """Build the dial and its picture; return the dial and the box that holds both. Only what ipywidgets 7.7 has."""
    import ipywidgets

    options = [(name, i) for i, name in enumerate(names)]
    make = ipywidgets.SelectionSlider if kind == "slider" else ipywidgets.Dropdown
    wide = ipywidgets.Layout(width="520px")
    control = make(options=options, value=0, description=label, layout=wide, style={"description_width": "initial"})
    picture = ipywidgets.Image(value=pictures[0], format="png", layout=_own_size(ipywidgets))

    def swap(change: Any) -> None:
        picture.value = pictures[change["new"]]

    control.observe(swap, names="value")
    return control, ipywidgets.VBox([control, picture])


def _own_size(ipywidgets: Any) -> Any:
    """Return the layout of a picture that stays as it was drawn; a box would stretch it to the page and blur it."""
    return ipywidgets.Layout(max_width="100%", align_self="flex-start")


def _strip(pictures: list[bytes], captions: list[str], alt: str) -> None:
    """Show pictures in a grid with a caption above each, pixel for pixel, as one figure."""
    from PIL import Image

    frames = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")) for picture in pictures]
    height, width = max(frame.shape[0] for frame in frames), max(160, *(frame.shape[1] for frame in frames))
    columns = max(1, min(len(frames), round(WIDTH * DPI) // width))
    captions = ["\n".join(textwrap.wrap(text, max(14, width // 10))[:3]) for text in captions]
    head = 12 + 19 * max(text.count("\n") + 1 for text in captions)
    rows = math.ceil(len(frames) / columns)
    sheet = np.full((rows * (height + head), columns * width, 3), 255, np.uint8)
    with figure(alt=alt, constrained=False) as fig:
        fig.set_size_inches(sheet.shape[1] / DPI, sheet.shape[0] / DPI)
        axes = fig.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        for i, (frame, caption) in enumerate(zip(frames, captions, strict=True)):
            x, y = i % columns * width, i // columns * (height + head)
            sheet[y + head : y + head + frame.shape[0], x : x + frame.shape[1]] = frame
            axes.text(x + 6, y + head - 4, caption, size=9.5, weight="bold", va="bottom")
        extent = (0, sheet.shape[1], sheet.shape[0], 0)
        axes.imshow(sheet, interpolation="nearest", aspect="auto", extent=extent)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
