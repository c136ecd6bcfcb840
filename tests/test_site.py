"""The website's source from a small course and from this one, the checks of built pages, the glossary and notation."""

import argparse
import base64
import html
import json
import re
import struct
import urllib.request
import zlib
from pathlib import Path

import pytest

from lesson_lib import DATA, ROOT
from lesson_lib.build.expand import Course, course
from lesson_lib.build.repository import Repository, read_repository
from lesson_lib.delivery import DeliveryError
from lesson_lib.delivery.site import book, checks, figures, gallery, landing, pages, pictures
from lesson_lib.delivery.site import main as site_main
from lesson_lib.delivery.site.links import Links
from lesson_lib.exercises.core import LessonCard
from lesson_lib.results import Record, load, save

REPOSITORY = Repository("ada/theirs")
README = """# A small course

Two lessons. ![Samples](shown.png)

## Two commands

`make lab`, then read [the rules](CONTRIBUTING.md).

## For whom

- **Learners** open a notebook.
- **Instructors** grade: [`docs/instructors.md`](docs/instructors.md).
- **Engineers** read [`lesson_lib/`](lesson_lib)
  and [one module](lesson_lib/one.py).

## Cite

Us.

## Licence

Code: Apache-2.0. Text: CC BY 4.0. See [`LICENSE`](LICENSE).
"""
GLOSSARY = "00_start_here.ipynb#Notation-and-glossary"
CARD = f"[Open in Colab](https://elsewhere/x) · 10 minutes · [notation and glossary]({GLOSSARY})"


def png(width: int = 1008, height: int = 300) -> bytes:
    """Return a picture of one colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress((b"\0" + b"\0" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(
        b"IDAT", rows) + chunk(b"IEND", b"")  # fmt: skip


def figure(alt: str | None) -> dict:
    metadata = {} if alt is None else {"image/png": {"alt": alt}}
    data = {"image/png": base64.b64encode(png()).decode(), "text/plain": "[figure]"}
    return {"output_type": "display_data", "data": data, "metadata": metadata}


def code(name: str, source: str, *outputs: dict) -> dict:
    return {"cell_type": "code", "id": name, "metadata": {"name": name}, "execution_count": 1, "source": source,
            "outputs": list(outputs)}  # fmt: skip


def text(source: str) -> dict:
    return {"cell_type": "markdown", "id": "text", "metadata": {}, "source": source}


def notebook(*cells: dict) -> dict:
    return {"cells": list(cells), "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def record(**changes) -> Record:
    given = {
        "experiment": "toy_steps",
        "title": "How many steps?",
        "metrics": {"fd": "a distance; lower is better", "weights": "what is trained"},
        "configuration": {"data": "toys", "network": {"width": 8, "mult": [1, 2]}},
        "sources_sha256": "0" * 64,
        "hardware": "CPU x86_64",
        "budget": "smoke",
        "seeds": [0, 1, 2],
        "variants": {"euler": {"fd": [4.0, 5.0, 6.0], "weights": [10, 10, 10]},
                     "heun | 2": {"fd": [1.0, 1.0, 2.5], "weights": [12, 12, 12]}},
        "seconds": 7.0,
    }  # fmt: skip
    return Record(**{**given, **changes})


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Course]:
    """A repository with two lessons, a record and a few documents."""
    root = tmp_path / "repository"
    for folder in ("lessons", "notebooks", "docs", "data", "lesson_lib", ".github"):
        (root / folder).mkdir(parents=True)
    (root / "README.md").write_text(README)
    for name in ("CONTRIBUTING.md", "docs/instructors.md", "docs/glossary.md", "docs/notation.md", "docs/more.md"):
        (root / name).write_text(f"# {name}\n\n[home](../README.md)\n" if "/" in name else "# Rules\n")
    (root / "lesson_lib" / "one.py").write_text("1\n")
    (root / "LICENSE").write_text("yes\n")
    (root / ".github" / "open-in-colab.svg").write_text("<svg/>")
    (root / "shown.png").write_bytes(png())
    save(record(), root / "data" / "results")
    (root / "lessons" / "00_start_here.py").write_text("# nothing\n")
    (root / "lessons" / "01_toys.py").write_text('found = results.load("toy_steps")\n')
    first = notebook(text(f"# 0 · What?\n\n{CARD}\n\n## Notation and glossary"))
    second = notebook(
        text(f"# 1 · How?\n\n{CARD}"),
        code("setup", "import os, sys", {"output_type": "stream", "name": "stdout", "text": "a <b>\nx    y\n"}),
        code("drawn", "plot()", figure('five "dots" & a line'), figure("a second")),
        text("[back](00_start_here.ipynb#Notation-and-glossary), [code](../lesson_lib/one.py), `[no](nowhere.md)`"),
        text("<details><summary>Hint</summary>\n\n$x$\n\n</details>"),
    )
    for stem, made in (("00_start_here", first), ("01_toys", second)):
        (root / "notebooks" / f"{stem}.ipynb").write_text(json.dumps(made))
    cards = {"00": LessonCard("00", "start_here", "Start here", "What?", 10),
             "01": LessonCard("01", "toys", "Toys", "How?", 20, ("00",))}  # fmt: skip
    return root, Course({}, {}, cards, REPOSITORY)


def cells(target: Path, stem: str) -> list[dict]:
    return json.loads((target / "notebooks" / f"{stem}.ipynb").read_text())["cells"]


# The source


def test_source_of_a_small_course(small, tmp_path):
    root, known = small
    target = tmp_path / "source"
    written = pages.write_source(root, target, known)
    assert written[:3] == ["index.md", "notebooks/00_start_here.ipynb", "notebooks/01_toys.ipynb"]
    assert "docs/more.md" in written, "a document that nobody named has a page too"
    title, setup, drawn, linked, hint = cells(target, "01_toys")
    assert "https://colab.research.google.com/github/ada/theirs/blob/main/notebooks/01_toys.ipynb" in title["source"]
    assert 'href="01_toys.ipynb" download' in title["source"]
    assert "elsewhere" not in title["source"]
    assert "10 minutes · [notation](../docs/notation.md) · [glossary](../docs/glossary.md)" in title["source"]
    assert setup["source"] == "import os, sys"
    assert setup["outputs"][0]["data"]["text/html"].endswith("<span>a &lt;b&gt;</span>x    y\n</pre>")
    shown = [output["data"]["text/html"] for output in drawn["outputs"]]
    assert 'alt="five &quot;dots&quot; &amp; a line" width="806" height="240"' in shown[0]
    assert 'alt="a second"' in shown[1]
    for page in shown:
        path = re.search(r'src="([^"]+)"', page)[1]
        assert (target / "extra" / "notebooks" / path).read_bytes() == png()
    assert "(00_start_here.ipynb#notation-and-glossary)" in linked["source"]
    assert "(https://github.com/ada/theirs/blob/main/lesson_lib/one.py)" in linked["source"]
    assert "`[no](nowhere.md)`" in linked["source"]
    assert hint["source"].startswith("<details>")
    original = root / "notebooks" / "01_toys.ipynb"
    assert (target / "extra" / "notebooks" / "01_toys.ipynb").read_bytes() == original.read_bytes()
    assert "](../index.md)" in (target / "docs" / "more.md").read_text()
    contents = json.loads((target / "_toc.yml").read_text())
    assert contents["parts"][0]["chapters"][1] == {"file": "notebooks/01_toys", "title": "01 · Toys"}
    assert contents["parts"][-1]["chapters"] == [{"file": "docs/more"}]
    settings = json.loads((target / "_config.yml").read_text())
    assert settings["execute"]["execute_notebooks"] == "off"
    assert settings["repository"]["url"] == "https://github.com/ada/theirs"
    assert "sphinx_thebe" not in settings["sphinx"]["config"]["extensions"]


def test_landing_of_a_small_course(small, tmp_path):
    root, known = small
    pages.write_source(root, tmp_path / "source", known)
    page = (tmp_path / "source" / "index.md").read_text()
    assert page.startswith("# A small course\n\nTwo lessons.")
    assert (tmp_path / "source" / "shown.png").is_file()
    assert "and [one module](https://github.com/ada/theirs/blob/main/lesson_lib/one.py)" in page
    assert "[`lesson_lib/`](https://github.com/ada/theirs/tree/main/lesson_lib)" in page
    assert "[Start with lesson 00](notebooks/00_start_here.ipynb)" in page
    assert "| [01 · Toys](notebooks/01_toys.ipynb) | How? | 20 |" in page
    assert page.count('<a href="notebooks/') == 2
    assert page.count('class="arrow"') == 1, "of the map's arrows only the one between these two lessons"
    assert landing.licence(root) == "<p>Code: Apache-2.0. Text: CC BY 4.0.</p>"


def spoil_alt(root):
    path = root / "notebooks" / "01_toys.ipynb"
    path.write_text(path.read_text().replace('"alt": "a second"', '"alt": " "'))


def spoil_card(root):
    path = root / "notebooks" / "01_toys.ipynb"
    path.write_text(path.read_text().replace("Open in Colab", "Colab"))


def spoil_link(root):
    (root / "docs" / "more.md").write_text("# More\n\n[gone](gone.md)\n")


def spoil_outside(root):
    (root / "docs" / "more.md").write_text("# More\n\n[out](../../elsewhere)\n")


def spoil_door(root):
    (root / "README.md").write_text(README.replace("- **Learners**", "- **Students**"))


def spoil_section(root):
    (root / "README.md").write_text(README.replace("## Two commands", "## Start"))


def spoil_notebook(root):
    (root / "notebooks" / "01_toys.ipynb").unlink()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_alt, r"01_toys.ipynb, cell 'drawn': a figure has no alt text"),
        (spoil_card, r"01_toys.ipynb: its first cell has no line"),
        (spoil_link, r"docs/more.md: the link gone.md leads nowhere"),
        (spoil_outside, r"docs/more.md: the link ../../elsewhere leads nowhere"),
        (spoil_door, r"expects the entries Learners, Instructors, Engineers, found Students"),
        (spoil_section, r"needs its section `## Two commands`"),
        (spoil_notebook, r"01_toys.ipynb is missing; `make notebooks`"),
    ],
)
def test_source_refuses(small, tmp_path, spoil, words):
    root, known = small
    spoil(root)
    with pytest.raises(DeliveryError, match=words):
        pages.write_source(root, tmp_path / "source", known)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[a](../README.md)", "[a](../index.md)"),
        ("[a](#place)", "[a](#place)"),
        ("[a](instructors.md#place)", "[a](instructors.md#place)"),
        ("[a](https://host/x.md)", "[a](https://host/x.md)"),
        ("[a](../lesson_lib/)", "[a](https://github.com/ada/theirs/tree/main/lesson_lib)"),
        ('[a](../LICENSE "words")', '[a](https://github.com/ada/theirs/blob/main/LICENSE "words")'),
        ("[![b](../shown.png)](../LICENSE)", "[![b](../shown.png)](https://github.com/ada/theirs/blob/main/LICENSE)"),
        ("``[a](../x)`` [a](../LICENSE)", "``[a](../x)`` [a](https://github.com/ada/theirs/blob/main/LICENSE)"),
        ("```md\n[a](gone.md)\n```\n", "```md\n[a](gone.md)\n```\n"),
        ("  ~~~~\n  [a](gone.md)\n  ~~~~\n", "  ~~~~\n  [a](gone.md)\n  ~~~~\n"),
    ],
)
def test_links(small, before, after):
    root, _ = small
    links = Links(root, {"README.md": "index.md", "docs/instructors.md": "docs/instructors.md",
                         "docs/more.md": "docs/more.md"}, REPOSITORY)  # fmt: skip
    assert links.rewrite(before, "docs/more.md") == after


def test_the_real_course(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "draw", lambda *_: png())  # what it draws is looked at below, on a small record
    known = course(read_repository())
    written = pages.write_source(ROOT, tmp_path, known)
    lessons = sorted(path.stem for path in (ROOT / "lessons").glob("*.py"))
    assert [page for page in written if page.startswith("notebooks/")] == [
        f"notebooks/{stem}.ipynb" for stem in lessons
    ]
    for document in (ROOT / "docs").glob("*.md"):
        assert f"docs/{document.name}" in written
    for stem in lessons:
        committed = json.loads((ROOT / "notebooks" / f"{stem}.ipynb").read_text())["cells"]
        alts = [output["metadata"]["image/png"]["alt"] for cell in committed for output in cell.get("outputs", ())
                if "image/png" in output.get("data", {})]  # fmt: skip
        made = json.dumps(cells(tmp_path, stem), ensure_ascii=False).replace('\\"', '"')
        found = re.findall(r'<img src="([^"]*)" alt="([^"]*)"', made)
        assert [html.unescape(alt) for _, alt in found] == alts, stem
        assert all((tmp_path / "extra" / "notebooks" / path).is_file() for path, _ in found)
        again = [(cell["source"], cell["metadata"]) for cell in cells(tmp_path, stem) if cell["cell_type"] == "code"]
        source = [("".join(cell["source"]), cell["metadata"]) for cell in committed if cell["cell_type"] == "code"]
        assert [("".join(lines), metadata) for lines, metadata in again] == source
        assert f"notebooks/{stem}.html" in (tmp_path / "index.md").read_text(), "the map has a box for each lesson"
    page = (tmp_path / "gallery.md").read_text()
    for path in (DATA / "results").glob("*.json"):
        found = load(path.stem)
        assert f"### {gallery.plain(found.title)}\n\nUsed by [lesson" in page, f"{path.stem} is used by no lesson"
        assert f"-m lesson_lib.experiments {path.stem} --budget {found.budget} --seeds {len(found.seeds)}" in page


# The gallery


def test_gallery_of_a_small_course(small, tmp_path):
    root, known = small
    pages.write_source(root, tmp_path / "source", known)
    page = (tmp_path / "source" / "gallery.md").read_text()
    assert "## 01 · Toys" in page
    assert "Used by [lesson 01](notebooks/01_toys.ipynb). Varied: euler, heun \\| 2. 3 seeds (0, 1, 2)" in page
    assert "| euler | 5.0\u00a0±\u00a02.5 |" in page
    assert "| heun \\| 2 | 1.5\u00a0±\u00a02.2 |" in page
    assert "| euler | 10 |" in page
    assert "network: width 8, mult 1, 2" in page
    assert "--budget smoke --seeds 3" in page
    assert "blob/main/data/results/toy_steps.json" in page
    [shown] = re.findall(r'<img src="([^"]*)" alt="([^"]*)"', page)
    numbers = "euler 5.0\u00a0±\u00a02.5; heun | 2 1.5\u00a0±\u00a02.2"
    assert shown == ("figures/toy_steps-fd.png", f"fd, mean ± 95 % t-interval of 3 seeds: {numbers}")
    assert (tmp_path / "source" / "extra" / shown[0]).read_bytes().startswith(b"\x89PNG")


def test_gallery_of_a_sweep(tmp_path):
    rows = {"a": {"fd": [[40.0, 2.0], [44.0, 2.0]]}, "b": {"fd": [[10.0, 1.0], [12.0, 1.4]]}}
    swept = record(metrics={"fd": "a distance"}, variants=rows, seeds=[3, 4], x={"name": "steps", "values": [1, 2000]})
    parts = "\n\n".join(gallery.entry(swept, [], "https://host/r.json", tmp_path))
    assert "Varied: steps (1, 2,000), for a, b. 2 seeds (3, 4)" in parts
    assert "| by steps | 1 | 2,000 |" in parts
    assert "| a | 42\u00a0±\u00a025 | 2 |" in parts
    assert "Used by" not in parts
    assert "fd over steps = 1, 2,000, mean ± 95 % t-interval of 2 seeds: a 42" in parts
    assert (tmp_path / "toy_steps-fd.png").read_bytes().startswith(b"\x89PNG")


def test_who_uses_a_record(tmp_path):
    (tmp_path / "03_a.py").write_text('x = results.load(f"toy_{name}")\ny = results.load("other")\n')
    (tmp_path / "04_b.py").write_text('x = results.load("toy_one")\nload("unused")\n')
    found = gallery.used_by(sorted(tmp_path.glob("*.py")), ["other", "toy_one", "toy_two", "unused"])
    assert found == {"toy_one": ["03", "04"], "toy_two": ["03"], "other": ["03"], "unused": []}
    assert list(found)[-1] == "unused"


@pytest.mark.parametrize(
    ("values", "words"),
    [([0.5, 0.5], "0.5"), ([7.0], "7"), ([1500.0, 1600.0], "1,550\u00a0±\u00a0635"), ([0.1, 0.1], "0.1"),
     ([0.94, 0.95, 0.96], "0.950\u00a0±\u00a00.025")],
)  # fmt: skip
def test_measured(values, words):
    assert gallery.measured(values) == words


def test_plain_text_stays_text():
    assert gallery.plain("a|b *c* $d$ [e] <f>") == r"a\|b \*c\* \$d\$ \[e\] \<f\>"


def test_a_figure_says_its_size(tmp_path):
    (tmp_path / "a.png").write_bytes(png(600, 200))
    assert 'alt="&lt;a&gt;" width="480" height="160"' in figures.picture(tmp_path / "a.png", "figures", "<a>")


# The checks of built pages

SOUND = """<!doctype html><html lang="en"><head><title>A page</title><link rel="stylesheet" href="a.css">
<link rel="next" href="b.html"><script src="a.js"></script><style>p { background: url(dot.png) }</style></head>
<body><h1 id="top">One</h1><svg><title>no title of the page</title></svg><img src="dot.png" alt="a dot">
<a href="b.html#there">b</a> <a href="#top">up</a> <a href="https://elsewhere/x">out</a> <a href="/">home</a>
<img src="data:image/png;base64,AA" alt="inside"></body></html>"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "_static").mkdir()
    (tmp_path / "_static" / "part.html").write_text("a theme's part, no page")
    (tmp_path / "index.html").write_text(SOUND)
    (tmp_path / "b.html").write_text(
        '<html lang="en"><title>B</title><h1>B</h1><p id="there"><a name="old">x</a><a href="#old">y</a></p></html>'
    )
    (tmp_path / "a.css").write_text("/* url(gone.png) */ @import 'c.css'; a { b: url(data:x) url('dot.png') url(#id) }")
    (tmp_path / "c.css").write_text("")
    (tmp_path / "a.js").write_text(f"load('{next(iter(checks.NEVER_LOADED))}'); say('https://host/page')")
    (tmp_path / "dot.png").write_bytes(png())
    return tmp_path


def test_a_sound_site_has_no_problem(site):
    assert checks.check(site) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (' lang="en"', "", "language is not set"),
        ("A page", " ", "no title"),
        ("<title>A page</title>", "", "no title"),
        ("<h1", "<h1>Two</h1><h1", "2 headings of the first level"),
        ('<h1 id="top">One</h1>', '<p id="top">', "0 headings"),
        ('alt="a dot"', 'alt=" "', "no alt text: dot.png"),
        (' alt="a dot"', "", "no alt text: dot.png"),
        ('src="dot.png"', 'src="gone.png"', "loads gone.png, which is not there"),
        ('src="dot.png"', 'src="dot.png" srcset="dot.png 1x, //cdn/d.png 2x"', "loads //cdn/d.png from another host"),
        ('href="a.css"', 'href="https://cdn.host/a.css"', "loads https://cdn.host/a.css from another host"),
        ('src="a.js"', 'src="//cdn.host/a.js"', "loads //cdn.host/a.js from another host"),
        ('src="a.js"', 'src=""', "loads an empty address"),
        ("url(dot.png)", "url(https://fonts.host/f)", "loads https://fonts.host/f from another host"),
        ("<body>", '<body style="background: url(gone.png)">', "loads gone.png, which is not there"),
        ("<body>", '<body><iframe src="gone.html"></iframe>', "loads gone.html, which is not there"),
        ("<body>", '<body><source src="gone.mp4">', "loads gone.mp4, which is not there"),
        ("<body>", "<body><script>f('https://unpkg.com/thebe@1/index.js')</script>", "loads https://unpkg.com/thebe"),
        ('href="b.html#there"', 'href="gone.html"', "leads to gone.html, which is not there"),
        ('href="b.html#there"', 'href="b.html#gone"', "b.html#gone, but that page has no such place"),
        ('href="b.html#there"', 'href="../outside.html"', "leads to ../outside.html, which is not there"),
        ('href="b.html#there"', 'href="javascript:x"', "a link leads to javascript:x"),
        ('rel="next" href="b.html"', 'rel="next" href="gone.html"', "leads to gone.html"),
        ('href="#top"', 'href="#gone"', "leads to #gone, but that page has no such place"),
    ],
)
def test_checks_find(site, old, new, words):
    assert old in SOUND
    (site.parent / "outside.html").write_text("there, but not in the site")
    (site / "index.html").write_text(SOUND.replace(old, new, 1))
    problems = checks.check(site)
    assert problems
    assert all(problem.startswith("index.html: ") for problem in problems)
    assert any(words in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("name", "added", "words"),
    [
        ("a.css", "@import url(https://fonts.host/css);", "a.css: loads https://fonts.host/css from another host"),
        ("a.css", "@import 'gone.css';", "a.css: loads gone.css, which is not there"),
        ("a.css", 'p { src: url("fonts/gone.woff2") }', "a.css: loads fonts/gone.woff2, which is not there"),
        ("a.js", ";import('https://cdn.host/x/y.mjs')", "a.js: loads https://cdn.host/x/y.mjs"),
    ],
)
def test_checks_read_styles_and_programs(site, name, added, words):
    (site / name).write_text((site / name).read_text() + added)
    assert checks.check(site) == [words]


def test_checks_want_a_first_page(site):
    (site / "index.html").unlink()
    assert checks.check(site) == ["the site has no index.html"]


# Jupyter Book and the browser


def test_warnings_are_found_unless_allowed(monkeypatch):
    said = "reading\nindex.md:3: WARNING: no such place [myst.xref]\nx.md: ERROR: worse\nWARNINGS follow\nall done"
    assert len(book.warnings(said)) == 2
    monkeypatch.setattr(book, "ALLOWED", ((r"\[myst\.xref\]", "a test"),))
    assert book.warnings(said) == ["x.md: ERROR: worse"]
    assert all(reason.strip() for _, reason in book.ALLOWED)


def test_without_its_environment_the_command_says_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(DeliveryError, match="make site"):
        book.python(tmp_path / ".venv-site")
    monkeypatch.setattr(book.python, "__defaults__", (tmp_path / ".venv-site",))
    with pytest.raises(DeliveryError, match="make site"):
        site_main(argparse.Namespace(pictures=False))


def test_a_failing_book_is_an_error_with_its_words(tmp_path, monkeypatch):
    builder = tmp_path / "bin" / "python"
    builder.parent.mkdir()
    builder.write_text('#!/bin/sh\necho "x.md: WARNING: a strange word" >&2\n')
    builder.chmod(0o755)
    monkeypatch.setattr(book.python, "__defaults__", (tmp_path,))
    with pytest.raises(DeliveryError, match="WARNING: a strange word"):
        book.build(tmp_path / "source", tmp_path / "site", tmp_path / "work")


def test_the_pages_are_served_to_this_machine(site):
    with pictures.served(site) as address:
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(f"{address}/b.html", timeout=10) as answer:
            assert b"<h1>B</h1>" in answer.read()


def test_a_browser_sees_what_is_wrong(site, tmp_path_factory):
    chromium = pytest.importorskip("lesson_lib.delivery.chromium")
    (site / "index.html").write_text(
        '<html lang="en"><title>A</title><body><main><h1>A</h1><p style="width: 900px">wide</p><p>so \\(x\\) is</p>'
        "<p>and $$y$$ too</p><code>$$ stays</code><img src='gone.png' alt='gone'></main></body></html>"
    )
    (site / "b.html").write_text('<html lang="en"><title>B</title><body><main><h1>B</h1></main></body></html>')
    try:
        with (
            pictures.served(site) as address,
            chromium.open_page(width=390, height=700, allowed=["127.0.0.1"]) as opened,
        ):
            page, watch = opened
            assert pictures.look(page, f"{address}/b.html") == []
            found = pictures.look(page, f"{address}/index.html")
            pictures.picture(page, tmp_path_factory.mktemp("pictures") / "a.png")
    except chromium.NoBrowser as absent:
        pytest.skip(str(absent))
    assert any("a picture is not drawn" in what for what in found)
    assert any("wide in a window of 390; see p “wide”" in what for what in found)
    assert sum("TeX that is not drawn" in what for what in found) == 2
    assert any("gone.png" in what for what in watch.problems)


# Glossary and notation

ENTRY = re.compile(r"^- \*\*(.+?)\*\*: (.+?) \(\[lesson (\d\d)\]\(\.\./notebooks/(\S+)\.ipynb\)\)$", re.MULTILINE)
GREEK = "alpha beta gamma delta epsilon varepsilon eta theta lambda mu pi sigma phi omega varnothing Delta Sigma nabla"
ONE = rf"\\(?:{GREEK.replace(' ', '|')})(?![a-zA-Z])|[a-zA-Z]"
LETTER = re.compile(rf"(\\(?:hat|bar|tilde)\s*(?:{ONE})|\\math(?:cal|bb)\s*[A-Z]|{ONE})|\\[a-zA-Z]+")
NO_LETTERS = re.compile(r"_\{next\}|\\(?:text|mathrm|operatorname|begin|end)\s*\{[^}]*\}")


def glossary() -> list[tuple[str, str, str, str]]:
    return ENTRY.findall(re.sub(r"\s*\n  (?=\S)", " ", (ROOT / "docs" / "glossary.md").read_text()))


def letters(text: str) -> set[str]:
    """Return the letters of all formulas of a text; `\\hat x` is one letter."""
    found = re.findall(r"\$\$(.+?)\$\$|\$([^$\n]+(?:\n[^$\n]+)?)\$", re.sub(r"`[^`]*`", "", text), re.DOTALL)
    formulas = " ; ".join(NO_LETTERS.sub(" ", display or inline) for display, inline in found)
    return set(LETTER.findall(formulas)) - {""}  # the empty one stands for all other commands


def notation() -> list[tuple[str, str]]:
    """Return (letters, lessons) of each row of the notation."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")]
            for line in (ROOT / "docs" / "notation.md").read_text().splitlines() if line.startswith("|")]  # fmt: skip
    return [(row[0], row[2]) for row in rows if len(row) == 3 and re.fullmatch(r"all|\d\d(, \d\d)*", row[2])]


def words_of(number: str) -> str:
    """Return a lesson's text on one line, in small letters, without emphasis."""
    [path] = (ROOT / "lessons").glob(f"{number}_*.py")
    return plain_words(re.sub(r"\n# ?", " ", path.read_text()))


def plain_words(text: str) -> str:
    return re.sub(r"[*_\-\s]+", " ", text).casefold()


def table_of_lesson_00(head: str) -> list[str]:
    source = re.sub(r"^# ?", "", (ROOT / "lessons" / "00_start_here.py").read_text(), flags=re.MULTILINE)
    table = source.split(f"| {head} | meaning |\n|---|---|\n")[1].split("\n\n")[0]
    return [line.split(" | ")[0].strip("| ") for line in table.splitlines()]


def test_the_glossary_is_sorted_and_large_enough():
    entries = glossary()
    assert len(entries) == (ROOT / "docs" / "glossary.md").read_text().count("\n- "), "an entry has another form"
    names = [name.casefold() for name, *_ in entries]
    assert names == sorted(names)
    assert len(set(names)) == len(names)
    assert len(names) >= 50


@pytest.mark.parametrize("entry", glossary(), ids=lambda entry: entry[0])
def test_a_word_is_in_the_lesson_that_is_named(entry):
    name, meaning, number, stem = entry
    assert stem.startswith(number)
    for word in name.split(", "):
        assert plain_words(word) in words_of(number), f"lesson {number} never says {word}"
    assert meaning.endswith(".")


def test_the_words_of_lesson_00_are_in_the_glossary():
    words = [word.strip("*") for word in table_of_lesson_00("word")]
    assert len(words) >= 10
    assert set(words) <= {name for name, *_ in glossary()}


def test_the_letters_of_lesson_00_are_in_the_notation():
    cells = table_of_lesson_00("letter")
    assert len(cells) >= 10
    told = ", ".join(cell for cell, numbers in notation() if numbers == "all" or "00" in numbers)
    for cell in cells:
        for letter in re.findall(r"`[^`]+`|\$[^$]+\$", cell):
            assert letter in told, f"{letter} of lesson 00 is not in docs/notation.md"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_letter_of_a_formula_is_in_the_notation(path):
    markdown = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "markdown"]
    used = letters("\n\n".join("".join(cell["source"]) for cell in markdown))
    told = letters(" ".join(cell for cell, numbers in notation() if numbers == "all" or path.stem[:2] in numbers))
    assert not used - told, f"docs/notation.md lacks these for lesson {path.stem[:2]}"
