"""What people read: the Markdown pages and notebooks of a checkout, with their headings, links, pictures and words."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from lesson_lib import ROOT

FORMS = ".github/ISSUE_TEMPLATE/"
LOADED = {"script", "iframe", "video", "audio", "source", "embed", "link"}  # tags that fetch what they name
FETCHED = re.compile(
    r"""(?:!\[[^]]*\]\(|<(?:img|script|iframe|link)\b[^>]*=["']?|@import\W+(?:url\W+)?)(https?://[^\s"')>]+)"""
)


@dataclass(frozen=True)
class Heading:
    """A heading: its level, 1 to 6, and its text as a reader sees it, code and formulas included."""

    level: int
    text: str


@dataclass(frozen=True)
class Picture:
    """A picture: where it lies, its alt text, and whether it is the text of a link, as a badge is."""

    source: str
    alt: str
    linked: bool = False


@dataclass
class Page:
    """One page: its path from the root with "/", and what stands on it, from top to bottom.

    links: targets as they are written; undefined: references like [text][name] whose name is defined nowhere.
    named: the anchors that HTML tags give; loaded: what a tag other than a picture fetches, or any in a code cell.
    words: paragraphs, headings, table cells and alt texts without code, formulas and tags.
    """

    path: str
    headings: list[Heading] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    undefined: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    loaded: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)

    @property
    def notebook(self) -> bool:
        """Whether the page is a notebook, read in JupyterLab, and not a page that is read on GitHub."""
        return self.path.endswith(".ipynb")

    def anchors(self) -> list[str]:
        """Return the anchors of the headings as the page's reader makes them, an entry for each heading.

        JupyterLab keeps a heading's letters and writes hyphens for spaces; a heading that occurs again has the same
        anchor, so only the first can be linked to. GitHub writes small letters, drops punctuation and numbers repeats.
        """
        if self.notebook:
            return [heading.text.replace(" ", "-") for heading in self.headings]
        anchors: list[str] = []
        for heading in self.headings:
            plain = re.sub(r"[^\w\- ]", "", heading.text.strip().lower()).replace(" ", "-")
            again = sum(heading.text == other.text for other in self.headings[: len(anchors)])
            anchors.append(f"{plain}-{again}" if again else plain)
        return anchors


def tracked(root: Path = ROOT) -> list[str]:
    """Return the paths of the project's files, with "/": what git tracks or would track.

    In a folder that is no checkout: all files but those below build/ and below folders that begin with a dot.
    """
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}  # a hook names its own
    listing = subprocess.run(command, cwd=root, env=plain, capture_output=True, text=True)
    if listing.returncode == 0:
        return sorted({line for line in listing.stdout.split("\0") if line and (root / line).is_file()})
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    hidden = re.compile(r"\.(?!github$|ci$)|build$|__pycache__$")
    return sorted(path.as_posix() for path in paths if not any(hidden.match(part) for part in path.parts[:-1]))


def read_pages(root: Path = ROOT, files: Iterable[str] | None = None) -> list[Page]:
    """Return the pages of a checkout: Markdown files, committed notebooks, GitHub's forms for reports.

    files: paths from the root (by default all that git tracks). Raises OSError or ValueError for an unreadable one.
    """
    found = []
    for path in tracked(root) if files is None else files:
        form = path.startswith(FORMS) and path.endswith((".yml", ".yaml"))
        if path.endswith((".md", ".ipynb")) or form:
            text = (root / path).read_text(encoding="utf-8")
            found.append(read_page(path, _form(text) if form else text))
    return found


def read_page(path: str, text: str) -> Page:
    """Return the page that a file's text makes; path says whether it is Markdown or a notebook."""
    page = Page(path)
    if not page.notebook:
        _read(page, text)
        return page
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])  # a string, or a list of lines
        if cell["cell_type"] == "markdown":
            _read(page, source)
        else:
            page.loaded += FETCHED.findall(source)
    return page


def _form(text: str) -> str:
    """Return the sentences of an issue form as Markdown."""
    import yaml

    def sentences(value: Any) -> Iterator[str]:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(inner, str) and key in ("name", "description", "label", "value", "title"):
                yield inner
            elif isinstance(inner, dict | list):
                yield from sentences(inner)

    return "\n\n".join(sentences(yaml.safe_load(text)))


@cache
def _parser() -> Any:
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin
    from mdit_py_plugins.front_matter import front_matter_plugin

    # linkify=False: it needs one more package, so addresses written out are found by a regular expression
    markdown: Any = MarkdownIt("gfm-like", {"linkify": False}).use(front_matter_plugin)
    markdown.validateLink = lambda address: True  # a link that browsers refuse is to be seen here, not dropped
    return markdown.use(dollarmath_plugin, allow_space=False, double_inline=True)


def _read(page: Page, text: str) -> None:
    tags = _Tags(page)
    level = 0
    for token in _parser().parse(text):
        if token.type == "heading_open":
            level = int(token.tag[1])
        elif token.type == "heading_close":
            level = 0
        elif token.type == "html_block":
            tags.feed(token.content)
        elif token.type == "inline":
            _read_inline(page, tags, token.children)
            if level:
                page.headings.append(Heading(level, "".join(_shown(token.children))))
    tags.close()


def _read_inline(page: Page, tags: _Tags, tokens: list[Any]) -> None:
    linked, words = 0, []
    for token in tokens:
        linked += {"link_open": 1, "link_close": -1}.get(token.type, 0)
        if token.type == "link_open":
            page.links.append(token.attrs["href"])
        elif token.type == "image":
            page.pictures.append(Picture(token.attrs["src"], token.content, linked > 0))
            words.append(token.content)
        elif token.type == "html_inline":
            tags.feed(token.content)
        elif token.type == "text":
            page.undefined += [found[0] for found in re.finditer(r"(?<!\w)\[[^][]+\]\[[^][]*\]", token.content)]
            if not linked:
                page.links += re.findall(r"https?://[^\s<>|]*[^\s<>|.,;:!?)\"'’”]", token.content)
            words.append(token.content)
        elif token.type in ("softbreak", "hardbreak", "code_inline", "math_inline"):
            words.append(" ")
    page.words.append("".join(words))


def _shown(tokens: list[Any]) -> Iterator[str]:
    for token in tokens:
        if token.type in ("text", "code_inline"):
            yield token.content
        elif token.type.startswith("math_inline"):
            yield f"${token.content}$"


class _Tags(HTMLParser):
    """Gathers what HTML tags in Markdown hold; fed piece by piece, as the Markdown parser finds them."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.links = 0
        self.heading = 0

    def handle_starttag(self, tag: str, given: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in given}
        self.page.named |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        if tag == "a" and "href" in attributes:
            self.links += 1
            self.page.links.append(attributes["href"])
        elif tag == "img":
            self.page.pictures.append(Picture(attributes.get("src", ""), attributes.get("alt", ""), self.links > 0))
        elif tag in LOADED:
            self.page.loaded += [attributes[name] for name in ("src", "href") if name in attributes]
        elif re.fullmatch("h[1-6]", tag):
            self.heading = int(tag[1])
            self.page.headings.append(Heading(self.heading, ""))

    def handle_endtag(self, tag: str) -> None:
        self.links -= tag == "a" and self.links > 0
        if re.fullmatch("h[1-6]", tag):
            self.heading = 0

    def handle_data(self, data: str) -> None:
        if self.heading:
            self.page.headings[-1] = Heading(self.heading, self.page.headings[-1].text + data)
        self.page.words.append(data)
