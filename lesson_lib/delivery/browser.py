"""The browser test: two lessons in JupyterLab, worked through with mouse and keyboard as a learner does."""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesson_lib import ROOT
from lesson_lib.delivery import DeliveryError
from lesson_lib.delivery.chromium import NoBrowser, need_browser, open_page
from lesson_lib.delivery.jupyterlab import FIRST, LOCALHOST, Tab, copy_course, end_on_sigterm, serve

SECOND = "10_mmdit.ipynb"  # it has what lesson 00 lacks: a slider, a prompt, and questions with choices
LESSON_SECONDS = 600  # at most, for all cells of a lesson at the smoke budget
WIDTH, HEIGHT, PART = 1440, 960, 6000  # of the window, and of one picture of a whole lesson, in pixels
UNSHOWN = re.compile(r"Error displaying widget|Loading widget|widget could not be displayed|Model not found|VBox\(")
# The picture as the page holds it; drawing it into a canvas asks no server for it again. Empty while it loads.
PIXELS = """image => {
  if (!image.complete || !image.naturalWidth) return "";
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL();
}"""
CHANGED = f"([image, before]) => {{ const now = ({PIXELS})(image); return now && now !== before; }}"
# Scrolls until nothing moves any more: JupyterLab lays cells out when they come near, and that shifts the others.
SETTLED = """element => {
  const before = element.getBoundingClientRect().top;
  element.scrollIntoView({block: "center"});
  element.still = element.getBoundingClientRect().top === before ? (element.still || 0) + 1 : 0;
  return element.still > 10;
}"""
# The labels whose text does not fit into the room that they have.
CRAMPED = """labels => labels
  .filter(label => label.innerText.trim())
  .filter(label => label.scrollWidth > label.clientWidth + 1 || label.scrollHeight > label.clientHeight + 1)
  .map(label => label.innerText)"""
SIZES = "image => [image.naturalWidth, image.getBoundingClientRect().width]"


class Log:
    """Steps with the seconds at which they were done, on the screen and in a file."""

    def __init__(self, path: Path) -> None:
        self.path, self.started, self.last = path, time.monotonic(), "the start"
        path.write_text("")

    def say(self, step: str) -> float:
        """Note that a step is done; return the seconds since the log began."""
        seconds, self.last = time.monotonic() - self.started, step
        line = f"{seconds:7.1f} s  {step}"
        print(line, flush=True)
        with self.path.open("a") as file:
            print(line, file=file)
        return seconds


def saved_problems(notebook: Mapping[str, Any]) -> list[str]:
    """Return what is wrong in a notebook that JupyterLab saved after Run All, as sentences.

    Every code cell ran, at the smoke budget (so these are not the outputs that came with the course), none raised, and
    every figure carries its alt text.
    """
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    outputs = [(cell, output) for cell in cells for output in cell["outputs"]]
    problems = [f"a cell did not run: {_first_line(cell)}" for cell in cells if not cell["execution_count"]]
    for cell, output in outputs:
        if output["output_type"] == "error":
            problems.append(f"{output['ename']} in the cell: {_first_line(cell)}")
        if "image/png" in output.get("data", {}) and not output["metadata"].get("image/png", {}).get("alt", "").strip():
            problems.append(f"a figure has no alt text, in the cell: {_first_line(cell)}")
    if not any("budget smoke" in "".join(output.get("text", "")) for _, output in outputs):
        problems.append("no cell was run at the smoke budget: the outputs are those that came with the course")
    return problems


def missing_headings(notebook: Mapping[str, Any], contents: Sequence[str]) -> list[str]:
    """Return the headings of a notebook's text that are not among the lines of its table of contents."""
    text = "\n".join("".join(cell["source"]) + "\n" for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    there = {_letters(line) for line in contents}
    return [heading for heading in re.findall(r"^#+ +(.+)$", text, re.MULTILINE) if _letters(heading) not in there]


def _first_line(cell: Mapping[str, Any]) -> str:
    return "".join(cell["source"]).partition("\n")[0][:80]


def _letters(line: str) -> str:
    return re.sub(r"\W", "", line)


class Visit:
    """A learner's visit to one lesson: what they do, pictures of it, and what was wrong, in `problems`."""

    def __init__(self, tab: Tab, log: Log, pictures: Path) -> None:
        self.tab, self.log, self.pictures = tab, log, pictures
        self.lesson = tab.name[:2]
        self.problems: list[str] = []

    def say(self, step: str) -> None:
        """Note in the log that a step of this lesson is done."""
        self.log.say(f"lesson {self.lesson}: {step}")

    def check(self, right: bool, problem: str) -> None:
        """Note a problem where something is not right."""
        if not right:
            self.problems.append(f"lesson {self.lesson}: {problem}")
            self.log.say(f"PROBLEM: {self.problems[-1]}")

    def shot(self, name: str) -> None:
        """Keep what the page shows now as a picture."""
        self.tab.page.screenshot(path=self.pictures / f"lesson_{self.lesson}_{name}.png")

    def control(self, selector: str) -> Any:
        """Scroll to the lesson's first control of a kind, where there is room for its picture too, and return it."""
        control = self.tab.panel.locator(selector).first
        control.wait_for()
        self.tab.page.wait_for_function(SETTLED, arg=control.element_handle())
        return control

    def box(self, control: Any) -> Any:
        """Return the box in which a control stands together with its picture, its button and what it tells."""
        return control.locator("xpath=ancestor::div[contains(@class, 'widget-vbox')][1]")

    def before(self, name: str, control: Any) -> tuple[Any, str]:
        """Take a picture of a control before it is moved; return the element of its image, and the image itself."""
        image = self.box(control).locator(".widget-image").element_handle()
        self.tab.page.wait_for_function(PIXELS, arg=image)
        whole, shown = image.evaluate(SIZES)
        self.check(shown <= whole + 1, f"the {name}'s picture is {whole} pixels wide and blown up to {shown:.0f}")
        self.shot(f"{name}_1_before")
        return image, image.evaluate(PIXELS)

    def after(self, name: str, image: Any, before: str) -> None:
        """See that the image changed once its control was moved, and take a picture."""
        changed = self._happens(lambda: self.tab.page.wait_for_function(CHANGED, arg=[image, before]))
        self.check(changed, f"the {name} was moved and its picture stayed as it was")
        self.shot(f"{name}_2_after")
        self.say(f"{name} moved, its picture {'changed' if changed else 'did not change'}")

    def tells(self, place: Any, text: str, what: str) -> None:
        """See that a text appears in a place of the page."""
        there = self._happens(lambda: place.get_by_text(text).first.wait_for())
        self.check(there, f"{what}: {text!r} does not appear")
        self.say(f"{what}: {text!r}")

    def fits(self) -> None:
        """See that no label of a control is cut off or lies over another."""
        labels = self.tab.panel.locator(".widget-label, .widget-radio-box label")
        cramped = labels.evaluate_all(CRAMPED)
        self.check(not cramped, f"labels that do not fit: {cramped}")

    def look(self, notebook: Path) -> None:
        """Check the lesson after Run All: first figure, widgets, contents, and what JupyterLab saved."""
        panel = self.tab.panel
        figure = panel.locator(".jp-RenderedImage img").first
        figure.scroll_into_view_if_needed()
        self.check(figure.evaluate(SIZES)[0] > 0, "the first figure is empty")
        self.shot("first_figure")
        asked = self.tab.page.locator(".Toastify__toast").all_inner_texts()  # as JupyterLab asks newcomers about news
        self.check(not asked, f"something pops up over the notebook: {asked[:1]}")
        unshown = [text for text in panel.locator(".jp-OutputArea-output").all_inner_texts() if UNSHOWN.search(text)]
        self.check(not unshown, f"a widget is not displayed: {unshown[:1]}")
        self.fits()
        contents = self.tab.contents()
        self.shot("contents")
        self.tab.save()
        saved = json.loads(notebook.read_text(encoding="utf-8"))
        for problem in saved_problems(saved):
            self.check(False, problem)
        missing = missing_headings(saved, contents)
        self.check(not missing, f"the table of contents lacks {missing}")
        drawn = panel.locator(".jp-RenderedImage img")
        told = sum(drawn.evaluate_all("images => images.map(image => Boolean(image.alt))"))
        self.say(f"saved: {len(saved['cells'])} cells, {len(contents)} headings, {drawn.count()} figures")
        self.say(f"JupyterLab passes on the alt text of {told} of {drawn.count()} figures; LESSON_ALT=1 prints it")

    def whole(self) -> None:
        """Keep the whole lesson as a few high pictures."""
        page, scroller = self.tab.page, self.tab.panel.locator(".jp-WindowedPanel-outer")
        page.set_viewport_size({"width": WIDTH, "height": PART})
        scroller.evaluate("panel => panel.scrollTo(0, 0)")
        last = self.tab.panel.locator(".jp-Cell").last
        for part in range(1, 13):
            self.shot(f"whole_{part}")
            if last.evaluate("cell => cell.getBoundingClientRect().bottom < window.innerHeight"):
                break
            scroller.evaluate("panel => panel.scrollBy(0, panel.clientHeight - 100)")
        page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
        self.say("pictures of the whole lesson")

    def _happens(self, wait: Any) -> bool:
        from playwright.sync_api import TimeoutError as TooLate

        try:
            wait()
        except TooLate:
            return False
        return True


def lesson_00(visit: Visit) -> None:
    """Choose another order from the menu; guess a number, and be told it beside the measurement."""
    page = visit.tab.page
    menu = visit.control(".widget-dropdown select")
    image = visit.before("menu", menu)
    menu.click()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    visit.after("menu", *image)
    number = visit.control(".widget-text input[type=number]")
    visit.shot("guess_1_before")
    number.fill("40")
    visit.box(number).get_by_role("button", name="keep my guess", exact=True).click()
    visit.tells(visit.box(number), "Noted: 40", "guess of a number")
    visit.tells(visit.tab.run_cell('revisit("start.q1"'), "You guessed: 40", "the guess beside the measurement")
    visit.shot("guess_2_after")
    visit.whole()  # of this lesson only: meanwhile the other one runs, so these pictures cost no time


def lesson_10(visit: Visit) -> None:
    """Choose an answer; drag the slider and step it back by a key; type a caption, and one with an unknown word."""
    choice = visit.control(".widget-radio input[type=radio]")
    visit.shot("choice_1_before")
    choice.click()
    visit.box(choice).get_by_role("button", name="keep my guess", exact=True).click()
    visit.tells(visit.box(choice), "Noted: one vector", "guess by buttons")
    visit.shot("choice_2_after")
    slider = visit.control(".widget-slider .noUi-handle")
    image = visit.before("slider_mouse", slider)
    slider.drag_to(visit.box(slider).locator(".noUi-base"))
    visit.after("slider_mouse", *image)
    image = visit.before("slider_key", slider)
    slider.press("ArrowRight")
    visit.after("slider_key", *image)
    prompt = visit.control(".widget-text input[type=text]")
    image = visit.before("prompt", prompt)
    prompt.fill("a large blue triangle")
    prompt.press("Enter")
    visit.after("prompt", *image)
    prompt.fill("a large purple triangle")
    prompt.press("Enter")
    visit.tells(visit.box(prompt), "purple", "a word that the model does not know")
    visit.fits()
    visit.shot("prompt_3_refused")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--required", action="store_true", help="fail where chromium or playwright is not installed")


def main(options: argparse.Namespace) -> int:
    """Work through two lessons; leave pictures and a log in build/browser/. 1 where something was wrong."""
    try:
        need_browser()
    except NoBrowser as missing:
        if options.required:
            raise
        print(f"browser test skipped: {missing}")
        return 0
    end_on_sigterm()
    pictures = ROOT / "build" / "browser"
    pictures.mkdir(parents=True, exist_ok=True)
    for old in [*pictures.glob("lesson_*.png"), *pictures.glob("stuck.png")]:
        old.unlink()
    log = Log(pictures / "log.txt")
    with tempfile.TemporaryDirectory(prefix="course-", ignore_cleanup_errors=True) as folder:
        problems = work_through(Path(folder), pictures, log)
    log.say(f"{len(problems)} problems; pictures and log in build/browser/")
    if problems:
        raise DeliveryError("in the browser:\n" + "\n".join(f"- {problem}" for problem in problems))
    return 0


def work_through(folder: Path, pictures: Path, log: Log) -> list[str]:
    """Copy the course into a folder, open it as `make lab` does, work through both lessons; return what was wrong.

    Both lessons run at once, each kernel with one thread, since two cores are enough for that. JupyterLab's windowing
    mode stays as learners have it: "content visibility" keeps every cell in the page, drawn or not.
    """
    from playwright.sync_api import Error

    course = folder / "course"
    copy_course(ROOT, course)
    extra = {"LESSON_BUDGET": "smoke", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(course)}  # kernels import the copy
    with (
        open_page(width=WIDTH, height=HEIGHT, allowed=[LOCALHOST]) as (page, watch),
        serve(course, folder / "jupyter", extra=extra) as server,
    ):
        log.say("`make lab` has opened its page")
        visits = [Visit(Tab(page, name), log, pictures) for name in (FIRST, SECOND)]
        try:
            _both(page, server.opened, visits, course / "notebooks")
        except Error as problem:
            page.screenshot(path=pictures / "stuck.png")
            visits[0].problems.append(f"after {log.last!r}, see stuck.png: {str(problem).splitlines()[0]}")
        log.say(f"hosts asked: {', '.join(watch.hosts())}")
        return [*(problem for visit in visits for problem in visit.problems), *watch.problems]


def _both(page: Any, opened: str, visits: Sequence[Visit], notebooks: Path) -> None:
    page.goto(opened)
    for visit in visits:
        if visit.tab.name == SECOND:
            page.locator(".jp-DirListing-itemText").get_by_text(SECOND, exact=True).dblclick()
        visit.tab.wait_ready()
        visit.shot("opened")
        visit.say("open, kernel ready")
        visit.tab.run_all()
    for visit, work in zip(visits, (lesson_00, lesson_10), strict=True):
        visit.tab.bring()
        visit.tab.wait_idle(LESSON_SECONDS)
        visit.say("all cells have run")
        visit.look(notebooks / visit.tab.name)
        work(visit)
