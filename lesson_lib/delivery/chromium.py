"""A page in the chromium that the system has, and a watch on everything that goes wrong in it."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from lesson_lib.delivery import DeliveryError

NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL_CHROMIUM = "no chromium here; install it (Debian, Ubuntu: apt-get install chromium) or set CHROMIUM to its path"
INSTALL_PLAYWRIGHT = 'no playwright here; install it with: pip install -c constraints.txt -e ".[browser]"'
LOCAL = ("data", "blob", "file", "about")  # these schemes ask nobody
SECONDS = 120  # how long a page may take over one thing before that counts as a failure: machines are slow


class NoBrowser(DeliveryError):
    """Chromium or playwright is not installed; the text says what to install."""


def find_chromium() -> str:
    """Return the path of a browser: what CHROMIUM names, else the first of NAMES on PATH.

    Raises NoBrowser, with an install line, where there is none. Nothing is ever downloaded.
    """
    named = os.environ.get("CHROMIUM")
    if named:
        path = shutil.which(named)
        if path is None:
            raise NoBrowser(f"CHROMIUM is {named!r}, which is no program; set it to the path of a chromium")
        return path
    for name in NAMES:
        path = shutil.which(name)
        if path is not None:
            return path
    raise NoBrowser(INSTALL_CHROMIUM)


def need_browser() -> str:
    """Return the path of a browser that playwright can drive; raise NoBrowser where either of the two is missing."""
    if importlib.util.find_spec("playwright") is None:
        raise NoBrowser(INSTALL_PLAYWRIGHT)
    return find_chromium()


class Watch:
    """What goes wrong in a page, as sentences in `problems`, in the order in which it happens.

    A console error, an error that no code caught, a request that failed, and a request or websocket to a host that is
    not in `allowed` (names without port, such as "127.0.0.1"). What a page itself breaks off (ERR_ABORTED: it was
    left, or it changed its mind) is no failure.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self.allowed = frozenset(allowed)
        self.problems: list[str] = []
        self._hosts: set[str] = set()

    def hosts(self) -> list[str]:
        """Return every host that was asked, sorted."""
        return sorted(self._hosts)

    def console(self, message: Any) -> None:
        """Note a console message of type error, with the address it is about."""
        if message.type == "error":
            where = (message.location or {}).get("url", "")
            self.problems.append(f"console error: {message.text}" + (f" ({where})" if where else ""))

    def uncaught(self, web_error: Any) -> None:
        """Note an error that no code of the page caught."""
        self.problems.append(f"page error: {web_error.error}")

    def request(self, request: Any) -> None:
        """Note a request, or a websocket, to a host that is not allowed."""
        parts = urlsplit(request.url)
        if parts.scheme in LOCAL:
            return
        host = parts.hostname or ""
        self._hosts.add(host)
        if host not in self.allowed:
            self.problems.append(f"request to another host: {request.url[:200]}")

    def failed(self, request: Any) -> None:
        """Note a request that got no answer."""
        if "ERR_ABORTED" not in (request.failure or ""):
            self.problems.append(f"request failed: {request.url[:200]} ({request.failure})")

    def follow(self, context: Any) -> None:
        """Listen to a browser context: its console, errors and requests, and the websockets of its pages."""
        context.on("console", self.console)
        context.on("weberror", self.uncaught)
        context.on("request", self.request)
        context.on("requestfailed", self.failed)
        context.on("page", lambda page: page.on("websocket", self.request))


@contextmanager
def open_page(*, width: int, height: int, allowed: Sequence[str]) -> Iterator[tuple[Any, Watch]]:
    """Open an empty page of width × height CSS pixels in a fresh profile; yield (playwright's Page, its Watch).

    allowed: the hosts that the page may ask, such as ["127.0.0.1"]. The name of any other host is answered with "not
    found" inside the browser, so nothing leaves the machine, and the watch tells. Raises NoBrowser where chromium or
    playwright is missing.
    """
    chromium = need_browser()
    from playwright.sync_api import sync_playwright

    hosts = "".join(f", EXCLUDE {host}" for host in allowed)
    flags = [f"--host-resolver-rules=MAP * ~NOTFOUND{hosts}", "--disable-background-networking"]
    root = hasattr(os, "geteuid") and os.geteuid() == 0  # chromium's own sandbox refuses to work for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=flags, chromium_sandbox=not root, timeout=SECONDS * 1000
        )
        try:
            context = browser.new_context(
                viewport={"width": width, "height": height}, reduced_motion="reduce", locale="en-GB"
            )
            context.set_default_timeout(SECONDS * 1000)
            watch = Watch(allowed)
            watch.follow(context)
            yield context.new_page(), watch
        finally:
            browser.close()
