"""Checks of the built site: everything that a page loads is here, links lead somewhere, and pages can be read aloud."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

RELATIONS = {"stylesheet", "icon", "shortcut", "preload", "modulepreload", "prefetch", "manifest", "apple-touch-icon"}
SOURCES = {"script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"),
           "video": ("src", "poster"), "audio": ("src",), "embed": ("src",), "object": ("data",), "track": ("src",),
           "input": ("src",), "image": ("href", "xlink:href"), "use": ("href", "xlink:href")}  # fmt: skip
CSS_ADDRESS = re.compile(r"url\(\s*[\"']?([^\"')]+)[\"']?\s*\)|@import\s+[\"']([^\"']+)[\"']")
CSS_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
# An address of another host, in a program, that ends like something that is loaded.
LOADED = re.compile(r"[\"'`]((?:https?:)?//[\w.-]+\.[a-z]{2,}/[^\"'`\s]*\.(?:js|mjs|css|woff2?|ttf|wasm|json))[\"'`]")
# Of those, what no browser of today asks for, and why it is there.
NEVER_LOADED = {
    "https://cdn.jsdelivr.net/npm/wicked-good-xpath@1.3.0/dist/wgxpath.install.js": "MathJax, where XPath is missing",
}
LINKED = ("http", "https", "mailto")  # schemes of links that lead out of the site


@dataclass
class Page:
    """What the checks need of one HTML file."""

    language: str = ""
    title: str = ""
    headings: int = 0  # of the first level
    loads: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    programs: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    unnamed: list[str] = field(default_factory=list)  # images without alt text


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page, self.inside, self.depth = Page(), "", 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        page = self.page
        page.ids |= {given[name] for name in ("id", "name") if given.get(name) and (name == "id" or tag == "a")}
        if tag == "html":
            page.language = given.get("lang", "")
        page.headings += tag == "h1"
        if tag == "img" and not given.get("alt", "").strip():
            page.unnamed.append(given.get("src", "")[:80])
        if tag == "link" and RELATIONS & set(given.get("rel", "").lower().split()):
            page.loads.append(given.get("href", ""))
        elif tag in ("a", "area", "link") and "href" in given:
            page.links.append(given["href"])
        for name in SOURCES.get(tag, ()):
            if name == "srcset":
                page.loads += [part.split()[0] for part in given.get(name, "").split(",") if part.strip()]
            elif name in given:
                page.loads.append(given[name])
        if "style" in given:
            page.styles.append(given["style"])
        if tag in ("script", "style") or (tag == "title" and self.depth == 0):
            self.inside = tag
        self.depth += tag == "svg"

    def handle_endtag(self, tag: str) -> None:
        self.depth -= tag == "svg"
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "title":
            self.page.title += data
        elif self.inside == "style":
            self.page.styles.append(data)
        elif self.inside == "script":
            self.page.programs.append(data)


def read(text: str) -> Page:
    """Return what the checks need of a page's HTML."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return reader.page


def check(site: Path) -> list[str]:
    """Return a sentence for everything that is wrong with the site in this folder (none: it is sound)."""
    files = sorted(path for path in site.rglob("*.html") if "_static" not in path.relative_to(site).parts)
    pages = {path: read(path.read_text(encoding="utf-8")) for path in files}
    found = [] if (site / "index.html").is_file() else ["the site has no index.html"]
    for path, page in pages.items():
        found += [f"{path.relative_to(site)}: {what}" for what in _page_problems(path, page, pages, site)]
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(site)}: {what}" for what in _style_problems(text, path, site)]
    for path in sorted(site.rglob("*.js")):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(site)}: {what}" for what in _program_problems(text)]
    return found


def _page_problems(path: Path, page: Page, pages: dict[Path, Page], site: Path) -> list[str]:
    found = []
    if not page.language.strip():
        found.append("its language is not set (`lang`)")
    if not page.title.strip():
        found.append("it has no title")
    if page.headings != 1:
        found.append(f"it has {page.headings} headings of the first level; a page has one")
    found += [f"an image has no alt text: {source}" for source in page.unnamed]
    found += [what for address in page.loads if (what := _load_problem(address, path, site))]
    found += [what for text in page.styles for what in _style_problems(text, path, site)]
    found += [what for text in page.programs for what in _program_problems(text)]
    found += [what for address in page.links if (what := _link_problem(address, path, pages, site))]
    return found


def _style_problems(text: str, path: Path, site: Path) -> list[str]:
    addresses = [one or other for one, other in CSS_ADDRESS.findall(CSS_COMMENT.sub("", text))]
    return [what for address in addresses if (what := _load_problem(address, path, site))]


def _program_problems(text: str) -> list[str]:
    return [f"loads {address}" for address in LOADED.findall(text) if address not in NEVER_LOADED]


def _load_problem(address: str, path: Path, site: Path) -> str:
    """Say what is wrong with an address that is loaded: it must be a file of the site, or stand in the page itself."""
    parts = urlsplit(address.strip())
    if parts.scheme == "data" or address.startswith("#"):
        return ""
    if parts.scheme or parts.netloc:
        return f"loads {address} from another host"
    if not parts.path:
        return "loads an empty address"
    return "" if _file(parts.path, path, site) else f"loads {address}, which is not there"


def _link_problem(address: str, path: Path, pages: dict[Path, Page], site: Path) -> str:
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return "" if parts.scheme in LINKED and (parts.netloc or parts.path) else f"a link leads to {address}"
    target = _file(parts.path, path, site) if parts.path else path
    if target is None:
        return f"a link leads to {address}, which is not there"
    anchor = unquote(parts.fragment)
    if anchor and target in pages and anchor not in pages[target].ids:
        return f"a link leads to {address}, but that page has no such place"
    return ""


def _file(address: str, path: Path, site: Path) -> Path | None:
    """Return the file of the site that an address on a page means, or None; it must lie inside the site."""
    start = site / address.lstrip("/") if address.startswith("/") else path.parent / address
    target = Path(unquote(str(start))).resolve()
    if target.is_dir():
        target /= "index.html"
    return site.joinpath(target.relative_to(site.resolve())) if _inside(target, site) and target.is_file() else None


def _inside(target: Path, site: Path) -> bool:
    return target.is_relative_to(site.resolve())
