"""The browser test's own parts: what it counts as wrong, how it starts and stops JupyterLab, what is kept of it."""

import argparse
import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from types import SimpleNamespace

import pytest

from lesson_lib import ROOT
from lesson_lib.build.readme import put_block
from lesson_lib.delivery import DeliveryError, browser, chromium, first_picture, jupyterlab
from lesson_lib.delivery.__main__ import main as command_line


@pytest.fixture
def bare_path(monkeypatch, tmp_path):
    """Give a PATH with nothing on it, and no CHROMIUM; return the folder that it names."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    return tmp_path


def program(path, text="#!/bin/sh\n"):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


# Chromium


@pytest.mark.parametrize("name", chromium.NAMES)
def test_a_browser_is_found_by_each_of_its_names(bare_path, name):
    expected = program(bare_path / name)
    assert chromium.find_chromium() == expected


def test_the_variable_goes_before_the_path(bare_path, monkeypatch):
    program(bare_path / "chromium")
    monkeypatch.setenv("CHROMIUM", program(bare_path / "mine"))
    assert chromium.find_chromium().endswith("mine")


def test_a_wrong_variable_is_named_and_nothing_else_is_taken(bare_path, monkeypatch):
    program(bare_path / "chromium")
    monkeypatch.setenv("CHROMIUM", "/nowhere/chrome")
    with pytest.raises(chromium.NoBrowser, match="/nowhere/chrome"):
        chromium.find_chromium()


def test_without_a_browser_the_message_says_how_to_install_one(bare_path):
    with pytest.raises(chromium.NoBrowser, match="apt-get install chromium"):
        chromium.find_chromium()


def test_the_install_line_of_playwright_names_an_extra_that_has_it():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.search(r"\[(\w+)\]", chromium.INSTALL_PLAYWRIGHT).group(1)
    assert any(package.startswith("playwright") for package in extras[named])


@pytest.mark.parametrize("missing", ["chromium", "playwright"])
def test_a_missing_part_skips_the_browser_test_and_fails_it_where_it_is_required(
    bare_path, monkeypatch, capsys, missing
):
    found = {"chromium": bare_path, "playwright": None}
    monkeypatch.setattr(chromium.importlib.util, "find_spec", lambda name: found[missing])
    if missing == "playwright":
        program(bare_path / "chromium")
    assert command_line(["browser"]) == 0
    line = capsys.readouterr().out
    assert line.startswith("browser test skipped: ")
    assert missing in line
    assert line.count("\n") == 1
    assert command_line(["browser", "--required"]) == 1
    assert missing in capsys.readouterr().err


# What a watch notes


def request(url, failure=None):
    return SimpleNamespace(url=url, failure=failure)


def test_a_watch_is_silent_about_what_is_in_order():
    watch = chromium.Watch(["127.0.0.1"])
    for url in ("http://127.0.0.1:80/lab", "ws://127.0.0.1:80/api", "data:,x", "blob:http://127.0.0.1/1", "file:///a"):
        watch.request(request(url))
    watch.console(SimpleNamespace(type="warning", text="deprecated", location={}))
    watch.failed(request("http://127.0.0.1/lab", "net::ERR_ABORTED"))
    assert watch.problems == []
    assert watch.hosts() == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("kind", "event", "told"),
    [
        ("request", request("https://cdn.example.org/x.js"), "request to another host: https://cdn.example.org/x.js"),
        ("request", request("wss://example.org/"), "request to another host: wss://example.org/"),
        ("request", request("http://127.0.0.1.example.org/"), "request to another host"),
        ("failed", request("http://127.0.0.1/a", "net::ERR_CONNECTION_REFUSED"), "ERR_CONNECTION_REFUSED"),
        ("console", SimpleNamespace(type="error", text="no model", location={"url": "http://x/y.js"}), "no model"),
        ("console", SimpleNamespace(type="error", text="no model", location={"url": "http://x/y.js"}), "x/y.js"),
        ("uncaught", SimpleNamespace(error="TypeError: x is undefined"), "page error: TypeError"),
    ],
)
def test_a_watch_notes(kind, event, told):
    watch = chromium.Watch(["127.0.0.1"])
    getattr(watch, kind)(event)
    assert len(watch.problems) == 1
    assert told in watch.problems[0]


PAGE = """<!doctype html><html lang="en"><link rel="icon" href="data:,"><title>a page</title>
<style>label { display: block }
.room { width: 60px; height: 20px; line-height: 20px; white-space: nowrap; overflow: hidden }
.narrow { width: 60px; height: 20px; line-height: 20px; }</style>
<label class="room">short</label><label class="room">far too long for its room</label>
<label class="narrow">two lines lie over what comes below</label><label class="room"> </label>
<img id="there" width="400" src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">
<p style="height: 3000px"><b id="low">low</b>
<img src="missing.png"><script>
console.error("the page's own error"); fetch("http://elsewhere.invalid/data").catch(() => {});
setTimeout(() => { throw new Error("caught by nobody") }, 0);
setTimeout(() => { document.querySelector("#low").style.marginTop = "900px" }, 100);
</script>"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def visited(tmp_path_factory):
    """Open PAGE in the system's chromium and yield the page and its watch."""
    try:
        chromium.need_browser()
    except chromium.NoBrowser as missing:
        pytest.skip(str(missing))
    folder = tmp_path_factory.mktemp("page")
    (folder / "index.html").write_text(PAGE)
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with chromium.open_page(width=800, height=600, allowed=["127.0.0.1"]) as (page, watch):
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_load_state("networkidle")
        yield page, watch
    server.shutdown()


def test_a_real_page_shows_a_watch_all_its_faults(visited):
    _, watch = visited
    told = "\n".join(watch.problems)
    assert "console error: the page's own error" in told
    assert "request to another host: http://elsewhere.invalid/data" in told
    assert re.search(r"console error: .*404.*missing\.png", told)
    assert "caught by nobody" in told
    assert watch.hosts() == ["127.0.0.1", "elsewhere.invalid"]


def test_labels_without_room_are_found(visited):
    page, _ = visited
    cramped = page.locator("label").evaluate_all(browser.CRAMPED)
    assert cramped == ["far too long for its room", "two lines lie over what comes below"]


def test_a_picture_is_measured_and_told_from_another(visited):
    page, _ = visited
    image = page.locator("#there").element_handle()
    whole, shown = image.evaluate(browser.SIZES)
    assert (whole, shown) == (1, 400)
    before = image.evaluate(browser.PIXELS)
    assert before.startswith("data:image/png;base64,")
    assert page.evaluate(browser.CHANGED, [image, before]) is False
    assert page.evaluate(browser.CHANGED, [image, "another"]) is True
    missing = page.locator("img").last.element_handle()
    assert missing.evaluate(browser.PIXELS) == ""
    assert not page.evaluate(browser.CHANGED, [missing, before])


def test_scrolling_waits_until_the_page_lies_still(visited):
    page, _ = visited
    low = page.locator("#low").element_handle()
    page.wait_for_function(browser.SETTLED, arg=low)
    assert 0 < low.bounding_box()["y"] < 600


# What JupyterLab saved


def code(source="x = 1", count=1, *outputs):
    return {"cell_type": "code", "source": [source], "execution_count": count, "outputs": list(outputs)}


def text(words):
    return {"output_type": "stream", "name": "stdout", "text": [words]}


SET_UP = code("start", 1, text("Lesson 00 · cpu · budget smoke · seed 0\n"))
FIGURE = {"output_type": "display_data", "data": {"image/png": "…"}, "metadata": {"image/png": {"alt": "Two lines"}}}
BARE = {"output_type": "display_data", "data": {"image/png": "…"}, "metadata": {}}
ERROR = {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []}


def test_a_saved_notebook_that_ran_is_in_order():
    words = {"cell_type": "markdown", "source": ["# 0"]}
    assert browser.saved_problems({"cells": [SET_UP, words, code("draw()", 2, FIGURE)]}) == []


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ([SET_UP, code("later()", None)], "a cell did not run: later()"),
        ([SET_UP, code("ask()\nmore()", 2, ERROR)], "KeyError in the cell: ask()"),
        ([SET_UP, code("draw()", 2, BARE)], "a figure has no alt text, in the cell: draw()"),
        ([code("start", 1, text("budget laptop\n"))], "no cell was run at the smoke budget"),
    ],
)
def test_what_is_wrong_in_a_saved_notebook_is_said(cells, told):
    problems = browser.saved_problems({"cells": cells})
    assert len(problems) == 1
    assert told in problems[0]


def test_the_notebooks_of_the_course_would_not_pass_as_they_were_committed():
    notebook = json.loads((ROOT / "notebooks" / jupyterlab.FIRST).read_text())
    assert [line[:29] for line in browser.saved_problems(notebook)] == ["no cell was run at the smoke "]


def test_headings_are_looked_for_in_the_contents():
    cells = [
        {"cell_type": "markdown", "source": ["# 0 · Where?\n", "text\n", "```\n", "# no heading\n", "```\n"]},
        {"cell_type": "markdown", "source": ["### Exercise 0.1 · `to_pixels`"]},
        {"cell_type": "code", "source": ["# a comment"]},
    ]
    assert browser.missing_headings({"cells": cells}, ["0 · Where?", "Exercise 0.1 · to_pixels"]) == []
    assert browser.missing_headings({"cells": cells}, ["0 · Where?"]) == ["Exercise 0.1 · `to_pixels`"]


# JupyterLab's start and end


def test_make_lab_opens_lesson_00_and_in_a_copy_installs_nothing(tmp_path):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    plain = {name: value for name, value in os.environ.items() if name not in jupyterlab.DROPPED}  # not as make's child
    dry = ["make", "-n", *jupyterlab.INSTALLED[1:]]
    settings, lab = subprocess.check_output(dry, cwd=tmp_path, env=plain, text=True).splitlines()
    assert "overrides.json" in settings
    assert "pip" not in settings
    assert lab.startswith(".venv/bin/jupyter lab ")
    assert lab.endswith(f"notebooks/{jupyterlab.FIRST}")
    assert f'--ServerApp.root_dir="{tmp_path}"' in lab
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    assert "pip install" in subprocess.check_output(["make", "-n", "lab"], cwd=tmp_path, env=plain, text=True)


def test_a_copy_has_the_course_and_nothing_of_the_learner(tmp_path):
    there = ["Makefile", "lesson_lib/__init__.py", "lesson_lib/build/__init__.py", "notebooks/00.ipynb"]
    left = [".git/HEAD", "build/x.png", ".venv/bin/python", ".venv-colab/x", "notebooks/progress.json"]
    left += ["notebooks/.ipynb_checkpoints/00.ipynb", "lesson_lib/__pycache__/x.pyc"]
    for name in there + left:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    jupyterlab.copy_course(tmp_path / "tree", tmp_path / "copy")
    assert (tmp_path / "copy" / ".venv").resolve() == type(tmp_path)(sys.prefix).resolve()
    (tmp_path / "copy" / ".venv").unlink()
    assert sorted(str(p.relative_to(tmp_path / "copy")) for p in (tmp_path / "copy").rglob("*") if p.is_file()) == there
    extra = {"PYTHONPATH": str(tmp_path / "copy")}
    environment = jupyterlab.surroundings(tmp_path / "jupyter", extra)
    where = [sys.executable, "-c", "import lesson_lib; print(lesson_lib.__file__)"]
    imported = subprocess.check_output(where, env=environment, cwd=tmp_path, text=True).strip()
    assert imported == str(tmp_path / "copy" / "lesson_lib" / "__init__.py")


def test_a_server_sees_a_learners_environment_and_settings_of_its_own(tmp_path, monkeypatch):
    for name in ("MAKEFLAGS", "PYTEST_CURRENT_TEST", "LESSON_HEADLESS", "LESSON_PROGRESS", "JUPYTER_PATH"):
        monkeypatch.setenv(name, "x")
    environment = jupyterlab.surroundings(tmp_path / "jupyter", {"LESSON_BUDGET": "smoke"})
    assert not {"MAKEFLAGS", "PYTEST_CURRENT_TEST", "LESSON_HEADLESS", "LESSON_PROGRESS"} & set(environment)
    assert "JUPYTER_PATH" not in environment
    assert environment["LESSON_BUDGET"] == "smoke"
    own = {value for name, value in environment.items() if name.startswith("JUPYTER")}
    assert len(own) == 5
    assert all(value.startswith(str(tmp_path)) for value in own)


FAKE = """import json, os, pathlib, signal, sys, time
runtime = pathlib.Path(os.environ["JUPYTER_RUNTIME_DIR"])
runtime.mkdir(parents=True)
if "stubborn" in sys.argv:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
(runtime / "jpserver-1.json").write_text(json.dumps({"pid": os.getpid(), "port": 8888}))
if "mute" not in sys.argv:
    (runtime.parent / "opened").write_text("file:///first.html\\n")
print("I listen", flush=True)
if "dead" not in sys.argv:
    time.sleep(60)
"""


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("manner", ["obedient", "stubborn"])
def test_a_server_is_gone_afterwards_even_after_an_error(tmp_path, monkeypatch, manner):
    monkeypatch.setattr(jupyterlab, "STOP_SECONDS", 1)
    (tmp_path / "scratch").mkdir()
    pids = []

    def work():
        with jupyterlab.serve(tmp_path, tmp_path / "scratch", command=(sys.executable, "-c", FAKE, manner)) as server:
            record = json.loads((tmp_path / "scratch" / "runtime" / "jpserver-1.json").read_text())
            pids.append(record["pid"])
            assert server.opened == "file:///first.html"
            assert server.address == "http://127.0.0.1:8888"
            assert is_running(record["pid"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert not is_running(pids[0])


@pytest.mark.parametrize("manner", ["mute", "mute dead"])
def test_a_server_that_opens_nothing_is_an_error_with_its_last_words(tmp_path, monkeypatch, manner):
    monkeypatch.setattr(jupyterlab, "SECONDS", 3)
    command = (sys.executable, "-c", FAKE, *manner.split())
    with pytest.raises(DeliveryError, match="I listen"), jupyterlab.serve(tmp_path, tmp_path / "s", command=command):
        pass
    record = json.loads((tmp_path / "s" / "runtime" / "jpserver-1.json").read_text())
    assert not is_running(record["pid"])


# The first picture

KEPT = {
    "date": "2026-11-22",
    "machine": {"cores": 2, "python": "3.11.7", "system": "Linux"},
    "torch": {"version": "2.13.0+cpu", "bytes": 192_000_000},
    "steps": [
        {"step": "git clone", "seconds": 10.0, "bytes": 50_000_000},
        {"step": "unpacking of packages", "seconds": 90.0},
        {"step": "download of packages", "seconds": 30.0, "bytes": 350_000_000},
    ],
    "seconds": 130.0,
    "network": {"seconds": 40.0, "bytes": 400_000_000},
}


def test_the_record_adds_up(tmp_path):
    (tmp_path / "torch-2.13.0+cpu-cp311.whl").write_bytes(b"x" * 5)
    kept = first_picture.record(KEPT["steps"], "3.11.7", next(tmp_path.iterdir()))
    assert kept["seconds"] == 130.0
    assert kept["network"] == {"seconds": 40.0, "bytes": 400_000_000}
    assert kept["torch"] == {"version": "2.13.0+cpu", "bytes": 5}


def test_the_sentence_names_the_networks_share():
    told = first_picture.sentence(KEPT)
    for part in (
        "2 min 10 s",
        "2 cores",
        "Python 3.11.7",
        "40 s",
        "400 MB, here at 10 MB a second",
        "192 MB",
        "the CPU build",
    ):
        assert part in told
    other = {**KEPT, "torch": {"version": "2.13.0", "bytes": 9}}
    assert "CPU build" not in first_picture.sentence(other)


def test_the_readme_tells_the_record():
    kept = json.loads(first_picture.RECORD.read_text())
    readme = (ROOT / "README.md").read_text()
    told = put_block(readme, "first-picture", first_picture.sentence(kept))
    assert readme == told, "run: python -m lesson_lib.delivery first-picture"
    assert kept["seconds"] == pytest.approx(sum(step["seconds"] for step in kept["steps"]), abs=0.1)
    assert readme != put_block(readme, "first-picture", first_picture.sentence(KEPT))


def test_what_make_lab_installs_is_what_is_downloaded(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    course, builders = first_picture.downloads(tmp_path, tmp_path / "wheels", os.environ)
    for command in (course, builders):
        assert command[:4] == [".venv/bin/python", "-m", "pip", "download"]
        assert command[command.index("-d") + 1] == str(tmp_path / "wheels")
        assert "-e" not in command
    assert ".[lab]" in course
    assert "constraints.txt" in course
    assert any(word.startswith("setuptools") for word in builders)
    (tmp_path / "Makefile").write_text(".venv/.lab-ready:\n\ttrue\n")
    with pytest.raises(DeliveryError, match="installs nothing"):
        first_picture.downloads(tmp_path, tmp_path / "wheels", os.environ)


def test_both_commands_say_what_they_take():
    taken = {}
    for part, given in ((browser, ["--required"]), (first_picture, ["--from", "somewhere"])):
        parser = argparse.ArgumentParser()
        part.arguments(parser)
        taken |= vars(parser.parse_args(given))
    assert taken == {"required": True, "source": "somewhere"}
