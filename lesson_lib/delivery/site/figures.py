"""How a page shows a figure: with its alt text, its size, and a link to the figure alone."""

from __future__ import annotations

import html
import struct
from pathlib import Path

from lesson_lib.style import DPI

CSS_PIXELS = 96 / DPI  # for each dot of a figure: a page has 96 to the inch


def picture(path: Path, folder: str, alt: str) -> str:
    """Return the HTML that shows a PNG and leads to it alone, for whoever wants it larger."""
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    size = f'width="{round(width * CSS_PIXELS)}" height="{round(height * CSS_PIXELS)}"'
    image = f'<img src="{folder}/{path.name}" alt="{html.escape(alt)}" {size} loading="lazy">'
    return f'<a class="course-figure" href="{folder}/{path.name}">{image}</a>'
