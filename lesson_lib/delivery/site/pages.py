"""The site's source: notebooks with their figures as files, documents, the landing page, the gallery, the settings.

build/site-source/ has the shape of the repository, so that links between its files hold. What is copied as it is,
figures and the notebooks to download, lies in its folder extra/.
"""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lesson_lib.build.expand import Course
from lesson_lib.build.repository import BRANCH
from lesson_lib.build.sources import find_lessons
from lesson_lib.delivery import DeliveryError
from lesson_lib.delivery.site import gallery, landing
from lesson_lib.delivery.site.figures import picture
from lesson_lib.delivery.site.links import Links

HERE = Path(__file__).parent
STATIC = {"course.css": "_static", "favicon.svg": "_static", "layout.html": "_templates"}
GALLERY = "gallery.md"
# Documents by the part of the table of contents in which they stand. Other files of docs/ follow at the end.
LOOK_UP = ("docs/glossary.md", "docs/notation.md", GALLERY)
INSTRUCTORS = ("docs/instructors.md", "docs/grading_attacks.md", "docs/grading_comparison.md", "docs/maintaining.md")
ENGINEERS = ("CONTRIBUTING.md", "lesson_lib/experiments/README.md")
DATA = ("data/README.md", "data/shapes/README.md", "data/checkpoints/README.md")
COLAB_LINK = re.compile(r"^\[Open in Colab\]\([^)]*\) · (.*)$", re.MULTILINE)
GLOSSARY_LINK = re.compile(r"\[notation and glossary\]\([^)]*\)")


def write_source(root: Path, target: Path, course: Course) -> list[str]:
    """Write the source of the site of the course below `root` into an empty `target`; return its pages.

    Raises DeliveryError for a link that leads nowhere, a figure without alt text, or a page that lacks an expected
    part.
    """
    shutil.rmtree(target, ignore_errors=True)
    lessons = [f"notebooks/{path.stem}.ipynb" for path in find_lessons(root / "lessons")]
    parts = contents(root, lessons)
    pages = [page for _, group in parts for page in group]
    links = Links(root, {"README.md": "index.md", **{page: page for page in pages}}, course.repository)
    for page in pages:
        path = target / page
        path.parent.mkdir(parents=True, exist_ok=True)
        if page in lessons:
            _write_lesson(root, target, page, links)
        elif page != GALLERY:
            path.write_text(links.rewrite((root / page).read_text(encoding="utf-8"), page), encoding="utf-8")
    (target / "index.md").write_text(landing.page(root, course, links), encoding="utf-8")
    gallery.write(root, target / GALLERY, target / "extra", course)
    for shown in links.pictures:
        (target / shown).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / shown, target / shown)
    for name, place in STATIC.items():
        (target / place).mkdir(exist_ok=True)
        shutil.copyfile(HERE / name, target / place / name)
    titles = {page: f"{page[10:12]} · {course.cards[page[10:12]].title}" for page in lessons}
    titles["docs/instructors.md"] = "Instructor's guide"
    _write_json(target / "_toc.yml", table_of_contents(parts, titles))
    _write_json(target / "_config.yml", settings(landing.title(root), course, landing.licence(root)))
    return ["index.md", *pages]


def contents(root: Path, lessons: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return the parts of the table of contents: (caption, pages as paths in the repository)."""
    parts = [
        ("Lessons", list(lessons)),
        ("To look things up", list(LOOK_UP)),
        ("For instructors", list(INSTRUCTORS)),
        ("For engineers", list(ENGINEERS)),
        ("Data and models", list(DATA)),
    ]
    known = {page for _, group in parts for page in group}
    more = [page for path in sorted((root / "docs").glob("*.md")) if (page := f"docs/{path.name}") not in known]
    parts.append(("About the course", more))
    made = {GALLERY, *lessons}  # a lesson without its notebook is an error, which its own function tells
    there = [(name, [page for page in group if page in made or (root / page).is_file()]) for name, group in parts]
    return [(name, group) for name, group in there if group]


def table_of_contents(parts: Sequence[tuple[str, Sequence[str]]], titles: dict[str, str]) -> dict[str, Any]:
    """Return Jupyter Book's table of contents; titles: page → what stands there in place of the page's heading."""

    def chapter(page: str) -> dict[str, str]:
        entry = {"file": page.rsplit(".", 1)[0]}
        return {**entry, "title": titles[page]} if page in titles else entry

    groups = [{"caption": name, "chapters": [chapter(page) for page in group]} for name, group in parts]
    return {"format": "jb-book", "root": "index", "parts": groups}


def settings(title: str, course: Course, footer: str) -> dict[str, Any]:
    """Return Jupyter Book's settings: nothing is executed, and nothing is loaded from anywhere else."""
    return {
        "title": title,
        "author": "",
        "only_build_toc_files": True,
        "execute": {"execute_notebooks": "off"},
        "repository": {"url": course.repository.address, "branch": BRANCH},
        "html": {"use_repository_button": True, "favicon": "_static/favicon.svg", "home_page_in_navbar": False},
        "sphinx": {
            "recursive_update": True,
            "config": {
                # Jupyter Book's own list, without thebe, intersphinx and what folds cells up
                "extensions": ["sphinx_copybutton", "myst_nb", "jupyter_book", "sphinx_comments",
                               "sphinx_external_toc", "sphinx_design", "sphinx_book_theme"],
                "language": "en",
                "myst_enable_extensions": ["colon_fence", "dollarmath"],
                "myst_dmath_allow_labels": False,
                "myst_heading_anchors": 4,
                "nb_ipywidgets_js": {},
                "mathjax_path": "mathjax/tex-chtml.js",
                "smartquotes": False,
                "html_copy_source": False,
                "html_use_index": False,
                "html_show_sphinx": False,
                "html_context": {"default_mode": "auto"},
                "html_extra_path": ["extra"],
                "templates_path": ["_templates"],
                "html_theme_options": {
                    "use_download_button": False,
                    "use_fullscreen_button": False,
                    "navbar_persistent": [],  # the theme has the search in its side bar
                    "search_bar_text": "Search the course",
                    "footer_content_items": ["extra-footer"],
                    "extra_footer": footer,
                },
            },
        },
    }  # fmt: skip


def _write_json(path: Path, data: dict[str, Any]) -> None:
    """Write settings; JSON is YAML too."""
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# Lessons


def _write_lesson(root: Path, target: Path, page: str, links: Links) -> None:
    source = root / page
    if not source.is_file():
        raise DeliveryError(f"{page} is missing; `make notebooks` builds it")
    notebook = json.loads(source.read_text(encoding="utf-8"))
    folder = target / "extra" / "notebooks"
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / source.name)
    _write_json(target / page, prepared(notebook, page, links, folder / "figures"))


def prepared(notebook: dict[str, Any], page: str, links: Links, figures: Path) -> dict[str, Any]:
    """Return a committed notebook as the site shows it, and write its figures into the folder `figures`.

    The title card gets two buttons, links are rewritten, and each figure becomes a file with its size and alt text.
    Raises DeliveryError for a figure without alt text or a title card without its links.
    """
    stem = Path(page).stem
    cells: list[dict[str, Any]] = []
    count = 0
    for cell in notebook["cells"]:
        cell = dict(cell)
        if cell["cell_type"] == "markdown":
            cell["source"] = links.rewrite("".join(cell["source"]), page)
            if not cells:
                cell["source"] = title_card(cell["source"], stem, links)
        elif cell["cell_type"] == "code":
            outputs = []
            for output in cell["outputs"]:
                if output["output_type"] == "stream":
                    output = _printed("".join(output["text"]))
                elif "image/png" in output.get("data", {}):
                    count += 1
                    where = f"{page}, cell {cell['metadata'].get('name', cell.get('id'))!r}"
                    output = _figure(output, figures / f"{stem}-{count:02}.png", where)
                outputs.append(output)
            cell["outputs"] = outputs
        cells.append(cell)
    return {**notebook, "cells": cells}


def title_card(text: str, stem: str, links: Links) -> str:
    """Return a lesson's first cell with buttons in place of the Colab link, and links to the full glossary."""
    found = COLAB_LINK.search(text)
    if not found or not GLOSSARY_LINK.search(found[1]):
        raise DeliveryError(f"notebooks/{stem}.ipynb: its first cell has no line `[Open in Colab](…) · … · glossary`")
    buttons = (
        f'<p class="course-buttons"><a href="{html.escape(links.repository.colab(stem))}">Open in Colab</a>\n'
        f'<a href="{stem}.ipynb" download="{stem}.ipynb">Download the notebook</a></p>'
    )
    rest = GLOSSARY_LINK.sub("[notation](../docs/notation.md) · [glossary](../docs/glossary.md)", found[1])
    return text.replace(found[0], f"{buttons}\n\n{rest}")


def _figure(output: dict[str, Any], path: Path, where: str) -> dict[str, Any]:
    """Write a figure's file and return the output that shows it: MyST-NB itself would drop the alt text."""
    alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
    if not alt.strip():
        raise DeliveryError(f"{where}: a figure has no alt text; draw it with lesson_lib.plot, which asks for one")
    path.write_bytes(base64.b64decode("".join(output["data"]["image/png"])))
    return _shown(picture(path, "figures", alt))


def _printed(text: str) -> dict[str, Any]:
    """Return the output that shows printed text: sentences are wrapped, lines of a table stay as they are."""
    lines = [html.escape(line) for line in text.rstrip("\n").split("\n")]
    ends = [f"{line}\n" if "  " in line.strip() or not line else f"<span>{line}</span>" for line in lines]
    return _shown(f'<pre class="course-printed">{"".join(ends)}</pre>')


def _shown(code: str) -> dict[str, Any]:
    return {"output_type": "display_data", "metadata": {}, "data": {"text/html": code}}
