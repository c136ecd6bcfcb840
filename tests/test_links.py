"""Links: every internal one leads somewhere, each kind of broken one is found, and other hosts are asked politely."""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lesson_lib import ROOT
from lesson_lib.build.repository import Repository, read_repository
from lesson_lib.delivery import DeliveryError, links
from lesson_lib.delivery.links import ask, ask_all, external, own_path, problems
from lesson_lib.delivery.pages import Page, read_page, read_pages, tracked

HERE = Repository("ada/course")
COLAB = "https://colab.research.google.com/github/ada/course/blob/main/notebooks"


def notebook(*texts: str, code: str = "") -> str:
    cells = [{"cell_type": "markdown", "source": text} for text in texts]
    return json.dumps({"cells": [*cells, {"cell_type": "code", "source": [code]}]})


FILES = {
    "README.md": "# The *course* & `you`\n\n## Two words\n\n## Two words\n\n<a id='by-hand'></a>\n",
    "docs/guide.md": "# Guide\n\n## What's new?\n",
    "docs/a picture.png": "",
    "notebooks/01_a.ipynb": notebook("# 1 · First", "## What is new?", "## Loss $L_1$"),
    "lesson_lib/flow.py": "",
}


def found(path: str, text: str) -> list[str]:
    """Return the problems of one page among FILES."""
    pages = [read_page(name, words) for name, words in FILES.items() if name.endswith((".md", ".ipynb"))]
    return problems([*pages, read_page(path, text)], [*FILES, path], HERE)


# Inside the repository


def test_every_internal_link_anchor_and_picture_works() -> None:
    files = tracked()
    assert problems(read_pages(files=files), files, read_repository()) == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](guide.md) [b](../README.md) [c](../lesson_lib) [d](../lesson_lib/) [e](..) [f](../lesson_lib/flow.py)",
        "[a](guide.md#whats-new) [b](../README.md#the-course--you) [c](../README.md#by-hand) [d](#here)\n\n# Here",
        "[a](../notebooks/01_a.ipynb#What-is-new?) [b](../notebooks/01_a.ipynb#1-·-First)",
        "![a](a%20picture.png) ![b](<a picture.png>) <img src='a picture.png'> <a href=\"guide.md\">x</a>",
        "[a][guide] and [guide]\n\n[guide]: guide.md 'Guide'",
        f"[a]({COLAB}/01_a.ipynb) [b](https://github.com/ada/course/blob/main/README.md#x) [c](mailto:a@b.example)",
        "`[a](gone.md)` and $[a][b]$ and\n\n```\n[a](gone.md)\n```\n",
    ],
)
def test_sound_links_pass(text: str) -> None:
    assert found("docs/other.md", text) == []


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[a](gone.md)", "gone.md leads to docs/gone.md, which is not in the repository"),
        ("[a](Guide.md)", "leads to docs/Guide.md"),
        ("[a](README.md)", "leads to docs/README.md"),
        ("[a](../../secret.md)", "leads to ../secret.md"),
        ("[a](/docs/guide.md)", "write a path from this page's folder"),
        ("[a](file:///etc/hosts)", "write a path from this page's folder"),
        ("[a]()", "write a path from this page's folder"),
        ("[a](guide.md#What's-new?)", "docs/guide.md has no such heading; it has #whats-new"),
        ("[a](#nowhere)", "docs/other.md has no such heading"),
        ("[a](../README.md#two-words-2)", "no such heading"),
        ("[a](../notebooks/01_a.ipynb#what-is-new)", "no such heading; it has #What-is-new?"),
        ("[a](../lesson_lib/flow.py#L3)", "only pages and notebooks have anchors"),
        ("<a href='gone.md'>x</a>", "leads to docs/gone.md"),
        ("Text.\n\n<p>\n<a href='gone.md'>x</a>\n</p>", "leads to docs/gone.md"),
        ("[a][guide]\n\n[guide]: gone.md", "leads to docs/gone.md"),
        ("[a][nobody]", "[a][nobody] names a reference that is defined nowhere"),
        ("| a |\n|---|\n| [b](gone.md) |", "leads to docs/gone.md"),
        ("![a](gone.png)", "leads to docs/gone.png"),
        ("![a](https://x.example/a.png)", "put it into the repository"),
        ("<img src='https://x.example/a.png' alt='a'>", "put it into the repository"),
        ("<script src='https://x.example/a.js'></script>", "fetched from another host"),
        (f"[a]({COLAB}/02_b.ipynb)", "shows notebooks/02_b.ipynb, which is not in the repository"),
        ("[a](https://github.com/ada/course/tree/main/gone)", "shows gone, which is not in the repository"),
        (f"[a]({COLAB.replace('ada', 'bob')}/01_a.ipynb)", "another repository's notebook, not one of ada/course"),
    ],
)
def test_broken_links_are_found(text: str, complaint: str) -> None:
    [sentence] = found("docs/other.md", text)
    assert sentence.startswith("docs/other.md: ")
    assert complaint in sentence


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (notebook("# A", "[a](#A) [b](01_a.ipynb#What-is-new?) [c](01_a.ipynb#Loss-$L_1$)"), ""),
        (notebook("# A", "[a](#a)"), "it has #A"),
        (notebook("# A", "## B", "## B", "[a](#B)"), "has that heading 2 times"),
        (notebook("[a][b]", "[b]: 01_a.ipynb"), "defined nowhere"),  # each cell is read for itself
        (notebook(code="Markdown('![a](https://x.example/a.png)')"), "fetched from another host"),
        (notebook(code="HTML('<img width=3 src=\"https://x.example/a.png\">')"), "fetched from another host"),
        (notebook(code="HTML('<style>@import \"https://x.example/a.css\"</style>')"), "fetched from another host"),
    ],
)
def test_links_of_notebooks(text: str, complaint: str) -> None:
    sentences = found("notebooks/02_b.ipynb", text)
    assert [complaint in sentence for sentence in sentences] == [True] * bool(complaint)


def test_anchors_are_those_of_the_pages_reader() -> None:
    texts = [
        "# A `b` *c*: d_e",
        "## Don't stop — ever",
        "## Don't stop — ever",
        "## Überall 2.1",
        "<h2>By <b>hand</b></h2>",
    ]
    page = read_page("a.md", "\n\n".join(texts))
    assert page.anchors() == ["a-b-c-d_e", "dont-stop--ever", "dont-stop--ever-1", "überall-21", "by-hand"]
    page = read_page("a.ipynb", notebook(*texts))
    assert page.anchors() == ["A-b-c:-d_e", "Don't-stop-—-ever", "Don't-stop-—-ever", "Überall-2.1", "By-hand"]


def test_pages_and_files_of_a_folder_that_is_no_checkout(tmp_path: Path) -> None:
    form = "name: A form\nbody:\n  - type: markdown\n    attributes:\n      value: 'Read [this](gone.md).'\n"
    texts = {"a.md": "# A", "build/b.md": "# B", ".git/c.md": "# C", ".github/ISSUE_TEMPLATE/d.yml": form, "e.py": ""}
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert tracked(tmp_path) == [".github/ISSUE_TEMPLATE/d.yml", "a.md", "e.py"]
    pages = read_pages(tmp_path)
    assert [page.path for page in pages] == [".github/ISSUE_TEMPLATE/d.yml", "a.md"]
    assert pages[0].words == ["A form", "Read this."]
    assert len(problems(pages, tracked(tmp_path), HERE)) == 1


def test_a_file_that_git_ignores_is_not_there() -> None:
    assert (ROOT / ".git").exists()
    page = Page("README.md", links=[".git/HEAD", "lessons"])
    assert len(problems([page], tracked(), HERE)) == 1


def test_own_addresses() -> None:
    assert own_path(f"{COLAB}/01_a.ipynb", HERE) == "notebooks/01_a.ipynb"
    assert own_path("https://github.com/ada/course/tree/main/docs#x", HERE) == "docs"
    assert own_path("https://github.com/ada/courses/tree/main/docs", HERE) is None
    assert own_path("https://github.com/ada/course/issues", HERE) is None


# Other hosts


def test_addresses_of_other_hosts_are_listed_with_their_pages(tmp_path: Path) -> None:
    text = "[a](https://x.example/a) https://y.example/b. [c](d.md) arXiv 2212.09748, `https://code.example`"
    (tmp_path / "e.py").write_text("# see https://z.example/docs/f.html#g.\nHOST = 'https://{host}/x'\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "t.py").write_text("# https://invented.example/\n")
    pages = [read_page("a.md", text), read_page("b.md", "<https://x.example/a> https://github.com/OWNER/REPO/issues")]
    listed = external(pages, ["e.py", "tests/t.py"], tmp_path)
    assert listed == {
        "https://x.example/a": ["a.md", "b.md"],
        "https://y.example/b": ["a.md"],
        "https://z.example/docs/f.html#g": ["e.py"],
    }


class Host(BaseHTTPRequestHandler):
    """Answers with the status in the path; /late is silent for a while, /get refuses HEAD."""

    def do_HEAD(self) -> None:
        self.answer(405 if self.path == "/get" else None)

    def do_GET(self) -> None:
        self.answer(None)

    def answer(self, status: int | None) -> None:
        self.server.asked.append(f"{self.command} {self.path}")  # type: ignore[attr-defined]
        if self.path == "/late":
            time.sleep(0.6)
        word = self.path.strip("/").partition("-")[0]
        self.send_response(status or (int(word) if word.isdigit() else 200))
        if word in ("301", "302"):
            self.send_header("Location", "/302" if self.path in ("/301-circle", "/302") else "/new")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a host on this machine, and the list of what it was asked."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", server.asked  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("path", "kind", "note", "asked"),
    [
        ("/200#part", "fine", "200", ["HEAD /200"]),
        ("/get", "fine", "200", ["HEAD /get", "GET /get"]),
        ("/301", "moved", "/new", ["HEAD /301", "/new"]),
        ("/302-now", "fine", "200", ["HEAD /302-now", "/new"]),
        ("/301-circle", "dead", "redirects in a circle", None),
        ("/403", "refuses", "403", ["HEAD /403", "GET /403"]),
        ("/429", "refuses", "429", ["HEAD /429", "GET /429"]),
        ("/404", "dead", "404", ["HEAD /404", "GET /404"]),
        ("/500", "dead", "500", ["HEAD /500", "GET /500"]),
        ("/late", "unreachable", "no answer in 0.2 s", ["HEAD /late", "GET /late"]),
    ],
)
def test_answers_of_a_host(
    host: tuple[str, list[str]], path: str, kind: str, note: str, asked: list[str] | None
) -> None:
    address, log = host
    answer = ask(address + path, timeout=0.2)
    assert (answer.kind, note in answer.note) == (kind, True), answer
    if asked:
        assert [line.endswith(wanted) for line, wanted in zip(log, asked, strict=True)] == [True] * len(asked)


def test_hosts_that_are_not_there(host: tuple[str, list[str]]) -> None:
    refused = f"http://127.0.0.1:{closed_port()}/"
    assert ask(refused).kind == "unreachable"
    assert [answer.kind for answer in ask_all([refused, f"{host[0]}/200"])] == ["unreachable", "fine"]
    with pytest.raises(DeliveryError, match=r"none of 1 addresses could be reached .*no network"):
        ask_all([refused])
    assert ask_all([]) == []


def run(monkeypatch: pytest.MonkeyPatch, addresses: list[str], *given: str, inside: list[str] | None = None) -> int:
    """Run the command as if the course had these addresses on other hosts, and these problems inside."""
    monkeypatch.setattr(links, "read_pages", lambda files: [Page("a.md", links=["README.md"])])
    monkeypatch.setattr(links, "external", lambda *_: {address: ["README.md"] for address in addresses})
    if inside is not None:
        monkeypatch.setattr(links, "problems", lambda *_: inside)
    parser = argparse.ArgumentParser()
    links.arguments(parser)
    return links.main(parser.parse_args(given))


def test_the_command_counts_hosts_and_asks_only_on_request(
    host: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address, log = host
    inside = ["a.md: gone.md leads to gone.md, which is not in the repository"]
    assert run(monkeypatch, [f"{address}/200", f"{address}/404"]) == 0
    printed = capsys.readouterr().out
    assert "1 pages with 1 links, 0 problems inside the repository" in printed
    assert f"{address.removeprefix('http://')}: 2 addresses" in printed
    assert not log
    assert run(monkeypatch, [f"{address}/200", f"{address}/403", f"{address}/301"], "--external") == 0
    printed = capsys.readouterr().out
    assert f"refuses robots: {address}/403 (403 Forbidden), on README.md" in printed
    assert f"has moved: {address}/301 (to {address}/new), on README.md" in printed
    assert "3 addresses on other hosts asked, 0 dead" in printed
    assert run(monkeypatch, [f"{address}/404"], "--external") == 1
    assert f"dead: {address}/404 (404 Not Found), on README.md" in capsys.readouterr().out
    assert run(monkeypatch, [], inside=inside) == 1
    assert inside[0] in capsys.readouterr().out
    with pytest.raises(DeliveryError, match="no network"):
        run(monkeypatch, [f"http://127.0.0.1:{closed_port()}/"], "--external", "--timeout", "1")
