"""Pages that carry everything in themselves: no script, nothing from elsewhere, every text escaped on its way in."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Sequence

from lesson_lib.grading.reports.names import clean

LONG = 4_000  # characters of one text on a page
_EMPTY = {"meta", "rect", "line"}

CSS = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b1d1f; --quiet: #565c63; --line: #d5d9de;
  --soft: #f3f5f7; --good: #0b6b3a; --bad: #a3262a; --wait: #6b5200; --bar: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --page: #15181b; --text: #e8eaec; --quiet: #aab2ba; --line: #3a4148;
  --soft: #1f2428; --good: #72d39c; --bad: #ff9d96; --wait: #e5c461; --bar: #6cb6ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 58rem; padding: 1.5rem 1rem 3rem; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 2.25rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { margin: .4rem 0; }
ul { margin: .4rem 0; padding-left: 1.25rem; }
a { color: var(--bar); }
.quiet { color: var(--quiet); font-size: .9rem; }
.total { font-size: 2rem; font-weight: 650; line-height: 1.2; margin: 1rem 0 .25rem; }
.good { color: var(--good); } .bad { color: var(--bad); } .wait { color: var(--wait); }
.state { font-weight: 600; white-space: nowrap; }
code { white-space: nowrap; }
.note { border-left: .25rem solid var(--wait); background: var(--soft); padding: .5rem .75rem; margin: .75rem 0; }
blockquote { margin: .5rem 0; padding: .5rem .75rem; background: var(--soft); border-left: .25rem solid var(--line);
  overflow: hidden; }
.lines { white-space: pre-line; }
table { border-collapse: collapse; width: 100%; }
thead, tbody { border-bottom: 1px solid var(--line); }
th, td { text-align: left; vertical-align: top; padding: .45rem .75rem .45rem 0; }
td[colspan] { padding-top: 0; }
thead th { color: var(--quiet); font-size: .85rem; font-weight: 600; }
tbody th { font-weight: 600; }
th:last-child, td:last-child { padding-right: 0; }
.number, td:has(> .state) { width: 1%; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
svg { display: block; max-width: 100%; }
.track { fill: var(--line); } .fill { fill: var(--bar); } .axis { stroke: var(--quiet); }
svg text { fill: var(--text); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.figures div { background: var(--soft); padding: .6rem .75rem; }
.figures b { display: block; font-size: 1.4rem; line-height: 1.3; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); } footer h2 { margin-top: 1rem; }
@media (max-width: 34rem) { th, td { padding-right: .5rem; } .total { font-size: 1.7rem; } }
@media print { :root { --page: #ffffff; --text: #000000; --quiet: #444444; --line: #bbbbbb; --soft: #ffffff;
  --good: #0b6b3a; --bad: #a3262a; --wait: #6b5200; --bar: #444444; color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 10.5pt; } tbody, blockquote, svg { break-inside: avoid; }
  h2, h3 { break-after: avoid; } svg { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""


class Html(str):
    """Text that is HTML already. Only tag, text and join make it; every other string is escaped."""


def text(content: str, limit: int = LONG) -> Html:
    """Escape text that anybody may have written."""
    return Html(html.escape(clean(content, limit)))


def named(content: str) -> Html:
    """Escape a name or the like, in a box of its own, so that its direction of writing stays inside."""
    return tag("bdi", text(content, 80))


def tag(name: str, *children: str | None, **attributes: str) -> Html:
    """Return an element: tag("td", "a < b", class_="number"). None and empty children leave nothing behind."""
    shown = "".join(f' {key.rstrip("_").replace("_", "-")}="{text(value)}"' for key, value in attributes.items())
    if name in _EMPTY:
        return Html(f"<{name}{shown} />")
    return Html(f"<{name}{shown}>{join(*children)}</{name}>")


def join(*children: str | None) -> Html:
    """Put elements and texts one after the other."""
    return Html("".join(child if isinstance(child, Html) else text(child) for child in children if child))


def page(title: str, *body: Html | None) -> str:
    """Return a whole page. Its policy lets a browser use this style sheet and nothing else, not even a style in it."""
    digest = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="referrer", content="no-referrer"),
        tag("meta", name_="robots", content="noindex"),
        tag("title", text(title, 200)),
        tag("style", Html(CSS)),
    )
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{join(*body)}\n</body>\n</html>\n'


def section(heading: str, *body: Html | None) -> Html | None:
    """Return a heading with what belongs to it, or nothing where there is nothing."""
    return tag("section", tag("h2", heading), *body) if any(body) else None


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = (), below: Sequence[Html] = ()
) -> Html:
    """Return a table whose first column names the rows; nothing without rows.

    numbers: the columns that stand to the right. below: what stands under each row, as wide as the table: on a phone
    a sentence in a column would be a word wide.
    """
    if not rows:
        return Html("")
    places = [{"class_": "number"} if i in numbers else {} for i in range(len(head))]
    top = tag("tr", *(tag("th", name, scope="col", **place) for name, place in zip(head, places, strict=True)))
    bodies = []
    for i, (first, *rest) in enumerate(rows):
        cells = [tag("td", cell, **place) for cell, place in zip(rest, places[1:], strict=True)]
        under = below[i] if i < len(below) else Html("")
        wide = tag("tr", tag("td", under, colspan=str(len(head)), class_="lines")) if under else None
        bodies.append(tag("tbody", tag("tr", tag("th", first, scope="row"), *cells), wide))
    return tag("table", tag("thead", top), *bodies)


def bar(fraction: float, label: str) -> Html:
    """Draw a bar that is filled to a fraction, 0 to 1. label: the same in words."""
    filled = min(max(fraction, 0.0), 1.0) * 100
    return tag(
        "svg",
        tag("rect", class_="track", width="100", height="6"),
        tag("rect", class_="fill", width=f"{filled:.2f}", height="6"),
        **{"viewBox": "0 0 100 6", "preserveAspectRatio": "none"},
        width="100%",
        height="8",
        role="img",
        aria_label=label,
    )
