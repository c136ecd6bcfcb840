"""Links: every internal one must lead somewhere; those to other hosts are counted, and asked only on request.

A Markdown page is read on GitHub and a notebook in JupyterLab, so each is checked by its own reader's rules.
"""

from __future__ import annotations

import argparse
import posixpath
import re
import ssl
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from lesson_lib import ROOT
from lesson_lib.build.repository import BADGE_HOST, BRANCH, HOST, Repository, read_repository
from lesson_lib.delivery import DeliveryError
from lesson_lib.delivery.pages import Page, read_pages, tracked

PLACEHOLDER = "OWNER/REPO"  # the slug of a course that has no address yet
TIMEOUT = 15.0  # seconds
REFUSALS = (401, 403, 405, 429, 999)  # what hosts say to programs about pages that people can see
SOURCES = (".py", ".md", ".txt", ".toml", ".yml", "Makefile", "Containerfile", "LICENSE", "run")
WRITTEN = re.compile(r"https?://[a-z0-9-]+(?:\.[a-z0-9-]+)*\.[a-z]{2,}(?:/[\w./#?=&%+~-]*[\w/])?", re.ASCII)
Kind = Literal["fine", "moved", "refuses", "dead", "unreachable"]
SAYS: dict[Kind, str] = {"moved": "has moved", "refuses": "refuses robots", "dead": "dead", "unreachable": "dead"}


# Inside the repository


def own_path(address: str, repository: Repository) -> str | None:
    """Return which of the repository's own files an address on GitHub or Colab shows, or None for any other address."""
    for host in (HOST, BADGE_HOST):
        found = re.match(rf"{re.escape(host + repository.slug)}/(?:blob|tree|raw)/{BRANCH}/([^#?]*)", address)
        if found:
            return found[1]
    return None


def problems(pages: Iterable[Page], files: Iterable[str], repository: Repository) -> list[str]:
    """Return a sentence for each internal link, anchor or picture of these pages that does not work.

    files: the paths that the repository has; a file that exists only on this machine does not count.
    """
    there = {page.path: page for page in pages}
    known = set(files)
    known |= {parent for path in known for parent in _folders(path)}
    return [
        f"{page.path}: {found}" for page in there.values() for found in _page_problems(page, there, known, repository)
    ]


def _folders(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:i]) for i in range(1, len(parts))]


def _page_problems(page: Page, there: dict[str, Page], known: set[str], repository: Repository) -> list[str]:
    found = [f"{text} names a reference that is defined nowhere" for text in page.undefined]
    found += [f"{address} is fetched from another host" for address in page.loaded if _remote(address)]
    for picture in page.pictures:
        if _remote(picture.source):
            found.append(f"the picture {picture.source} lies on another host; put it into the repository")
        elif sentence := _broken(page, picture.source, there, known):
            found.append(sentence)
    for target in page.links:
        if own := own_path(target, repository):
            found += [] if own in known else [f"{target} shows {own}, which is not in the repository"]
        elif target.startswith(BADGE_HOST):
            found.append(f"{target} opens another repository's notebook, not one of {repository.slug}")
        elif not _remote(target) and not target.startswith("mailto:"):
            found += [sentence for sentence in [_broken(page, target, there, known)] if sentence]
    return found


def _remote(target: str) -> bool:
    return target.startswith(("http://", "https://", "//"))


def _broken(page: Page, target: str, there: dict[str, Page], known: set[str]) -> str:
    """Say in a sentence what is wrong with a link inside the repository; "" where nothing is."""
    parts = urlsplit(target)
    if parts.scheme or not target or parts.path.startswith("/"):
        return f"{target!r} is no link that works for everybody; write a path from this page's folder"
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page.path), unquote(parts.path)))
    path = path if parts.path else page.path
    if path != "." and path not in known:
        return f"{target} leads to {path}, which is not in the repository"
    if not parts.fragment:
        return ""
    if path not in there:
        return f"{target} has an anchor, but only pages and notebooks have anchors"
    anchors, wanted = there[path].anchors(), unquote(parts.fragment)
    if wanted in there[path].named or anchors.count(wanted) == 1:
        return ""
    if wanted in anchors:
        return (
            f"{target}: {path} has that heading {anchors.count(wanted)} times; give the one that is meant its own words"
        )
    near = [anchor for anchor in anchors if _bare(anchor) == _bare(wanted)]
    return f"{target}: {path} has no such heading" + (f"; it has #{near[0]}" if near else "")


def _bare(anchor: str) -> str:
    return re.sub(r"\W|_", "", anchor.lower())


# To other hosts


@dataclass(frozen=True)
class Answer:
    """What a host said about an address: how it stands, and its status or its error in words."""

    address: str
    kind: Kind
    note: str


def external(pages: Iterable[Page], files: Iterable[str], root: Path = ROOT) -> dict[str, list[str]]:
    """Return the addresses on other hosts, each with the paths of the pages that link to it or the files that name it.

    files: paths from the root. Tests name invented hosts and are left out, and so are the repository's own addresses
    while it has none.
    """
    found: dict[str, list[str]] = {}
    for page in pages:
        for target in page.links:
            if _remote(target):
                found.setdefault(target, []).append(page.path)
    for path in files:
        if path.endswith(SOURCES) and not path.startswith("tests/"):
            for target in sorted(set(WRITTEN.findall((root / path).read_text(encoding="utf-8")))):
                found.setdefault(target, []).append(path)
    return {address: list(dict.fromkeys(paths)) for address, paths in found.items() if PLACEHOLDER not in address}


def ask(address: str, timeout: float = TIMEOUT) -> Answer:
    """Ask a host whether an address is there: HEAD, then GET where HEAD is not answered with yes; seconds for each."""
    answer = Answer(address, "dead", "")
    for method in ("HEAD", "GET"):
        answer = _ask(address, method, timeout)
        if answer.kind in ("fine", "moved"):
            break
    return answer


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self) -> None:
        self.codes: list[int] = []

    def redirect_request(self, request: Any, file: Any, code: int, *rest: Any) -> Any:
        self.codes.append(code)
        return super().redirect_request(request, file, code, *rest)


def _ask(address: str, method: str, timeout: float) -> Answer:
    redirects = _Redirects()
    headers = {"User-Agent": "Mozilla/5.0 (compatible; a course checks its links)", "Accept": "*/*"}
    whole = f"https:{address}" if address.startswith("//") else address
    try:
        request = urllib.request.Request(whole.partition("#")[0], headers=headers, method=method)
        with urllib.request.build_opener(redirects).open(request, timeout=timeout) as response:
            for_good = {301, 308} & set(redirects.codes)
            return Answer(address, "moved", f"to {response.geturl()}") if for_good else Answer(address, "fine", "200")
    except urllib.error.HTTPError as refusal:
        kind: Kind = "refuses" if refusal.code in REFUSALS else "dead"
        note = "redirects in a circle" if 300 <= refusal.code < 400 else str(refusal.msg)
        return Answer(address, kind, f"{refusal.code} {note}")
    except (OSError, HTTPException, ValueError) as problem:
        cause = getattr(problem, "reason", problem)
        if isinstance(cause, TimeoutError):
            return Answer(address, "unreachable", f"no answer in {timeout:g} s")
        reached = isinstance(cause, ssl.SSLError) or not isinstance(problem, OSError)
        return Answer(address, "dead" if reached else "unreachable", f"{type(cause).__name__}: {cause}")


def ask_all(addresses: Sequence[str], timeout: float = TIMEOUT) -> list[Answer]:
    """Ask about many addresses, eight at a time; the answers stand in the order of the addresses.

    Raises DeliveryError where none of their hosts can be reached, as on a machine without a network.
    """
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda address: ask(address, timeout), addresses))
    if answers and all(answer.kind == "unreachable" for answer in answers):
        raise DeliveryError(
            f"none of {len(answers)} addresses could be reached ({answers[0].note}): this machine seems to have no "
            "network. Links inside the repository were checked; ask for the others again where there is one"
        )
    return answers


# The command


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what `links` takes."""
    parser.add_argument("--external", action="store_true", help="also ask the other hosts; needs a network")
    parser.add_argument("--timeout", type=float, default=TIMEOUT, metavar="SECONDS", help="for each answer of a host")


def main(options: argparse.Namespace) -> int:
    """Print what is wrong with the links; return 1 where any is dead."""
    files, repository = tracked(), read_repository()
    pages = read_pages(files=files)
    found = problems(pages, files, repository)
    print(*found, sep="\n", end="\n" if found else "")
    outside = external(pages, files)
    count = sum(len(page.links) for page in pages)
    print(f"{len(pages)} pages with {count} links, {len(found)} problems inside the repository")
    if repository.slug == PLACEHOLDER:
        print(f"{PLACEHOLDER} is no address yet, so links to it are checked as paths only")
    for host, count in Counter(urlsplit(address).netloc for address in outside).most_common():
        print(f"{host}: {count} address{'es' if count > 1 else ''}")
    if options.external:
        answers = ask_all(list(outside), options.timeout)
        for answer in answers:
            if answer.kind != "fine":
                print(f"{SAYS[answer.kind]}: {answer.address} ({answer.note}), on {', '.join(outside[answer.address])}")
        dead = sum(answer.kind in ("dead", "unreachable") for answer in answers)
        print(f"{len(answers)} addresses on other hosts asked, {dead} dead")
        found += ["dead"] * dead
    return int(bool(found))
