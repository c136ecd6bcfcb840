"""Pictures of five pages in a browser, wide and narrow, and what only a browser shows: errors, overflow, raw TeX."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lesson_lib.delivery import DeliveryError
from lesson_lib.delivery.chromium import open_page

PAGES = {
    "landing": "index.html",
    "lesson": "notebooks/01_noise_and_flow.html",
    "gallery": "gallery.html",
    "glossary": "docs/glossary.html",
    "instructors": "docs/instructors.html",
}
WIDTHS = {"desktop": 1280, "phone": 390}
TALLEST = 9000  # pixels of a picture: the longest pages end there
LOOPBACK = "127.0.0.1"
# Draws every picture of the page, waits for MathJax, and returns what is wrong.
LOOK = """async () => {
  document.querySelectorAll('img[loading=lazy]').forEach(image => { image.loading = 'eager'; });
  await Promise.all([...document.images].map(image => image.decode().catch(() => null)));
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const wrong = [];
  for (const image of document.images)
    if (!image.naturalWidth) wrong.push(`a picture is not drawn: ${image.src}`);
  const root = document.documentElement;
  if (root.scrollWidth > window.innerWidth) {
    const scrolls = '.course-map, table, pre, mjx-container';
    const wide = [...document.querySelectorAll('main *')].filter(
      e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(scrolls));
    const what = wide.slice(0, 3).map(e => `${e.tagName.toLowerCase()} “${e.textContent.trim().slice(0, 40)}”`);
    wrong.push(`the page is ${root.scrollWidth} wide in a window of ${window.innerWidth}; see ${what.join(', ')}`);
  }
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = words.nextNode(); node; node = words.nextNode()) {
    if (node.parentElement.closest('script, style, code, pre, mjx-container')) continue;
    const found = node.data.match(/\\\\\\(|\\\\\\[|\\$\\$|\\\\(frac|sqrt|alpha|bar|hat|mathrm)\\b/);
    if (found) wrong.push(`TeX that is not drawn: ${node.data.trim().slice(0, 60)}`);
  }
  document.querySelectorAll('mjx-merror, [data-mjx-error]').forEach(e => {
    wrong.push(`a formula with an error: ${e.getAttribute('data-mjx-error') || e.textContent}`);
  });
  return wrong;
}"""


def main(site: Path, folder: Path) -> None:
    """Take the pictures of the site into `folder` as site-PAGE-WIDTH.png and print the seconds.

    Raises DeliveryError with everything that is wrong: errors in the console, requests to other hosts, pages wider
    than the window, formulas that are not drawn; and where there is no browser.
    """
    began = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    with served(site) as address:
        for size, width in WIDTHS.items():
            with open_page(width=width, height=900, allowed=[LOOPBACK]) as (page, watch):
                for name, path in PAGES.items():
                    problems += [f"{path}, {size}: {what}" for what in look(page, f"{address}/{path}")]
                    picture(page, folder / f"site-{name}-{size}.png")
                problems += [f"{size}: {what}" for what in watch.problems]
    print(f"{folder.name}/site-*.png: {len(WIDTHS) * len(PAGES)} pictures, {time.perf_counter() - began:.0f} s")
    if problems:
        raise DeliveryError("\n".join(problems))


@contextlib.contextmanager
def served(site: Path) -> Iterator[str]:
    """Serve a folder to this machine alone, on a free port; yield its address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), functools.partial(Quiet, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def look(page: Any, address: str) -> list[str]:
    """Open a page, let it draw all it has, and say what is wrong with it."""
    page.goto(address, wait_until="load")
    return list(page.evaluate(LOOK))


def picture(page: Any, path: Path) -> None:
    """Take the picture of a whole page, from its top down to TALLEST."""
    size = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": page.viewport_size["width"], "height": min(size[1], TALLEST)}
    page.screenshot(path=str(path), full_page=True, clip=clip)
