"""The website: the lessons with their outputs, the documents and every recorded result, as pages that load nothing
from elsewhere.

Read in this order: pages (the source), landing and gallery (the two pages that are written here), links (where they
lead), book (Jupyter Book makes HTML), checks (is it sound?), pictures (how does it look in a browser?).
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

from lesson_lib import ROOT
from lesson_lib.delivery import DeliveryError


def arguments(parser: argparse.ArgumentParser) -> None:
    """Say what the command takes."""
    parser.add_argument("--pictures", action="store_true", help="look at five pages with chromium, wide and narrow")


def main(options: argparse.Namespace) -> int:
    """Build and check the site in build/site/; return 0, or raise DeliveryError with everything that is wrong."""
    from lesson_lib.build.expand import course
    from lesson_lib.build.repository import read_repository
    from lesson_lib.delivery.site import book, checks, pages

    source, site = ROOT / "build" / "site-source", ROOT / "build" / "site"
    book.python()  # says at once where its environment is missing
    clock = [time.perf_counter()]
    written = pages.write_source(ROOT, source, course(read_repository()))
    clock.append(time.perf_counter())
    book.build(source, site, ROOT / "build" / "site-work")
    clock.append(time.perf_counter())
    problems = checks.check(site)
    clock.append(time.perf_counter())
    if problems:
        raise DeliveryError("\n".join([*problems, f"build/site/: {len(problems)} problems"]))
    wrote, built, checked = (later - earlier for earlier, later in itertools.pairwise(clock))
    print(
        f"build/site/: {len(written)} pages, {_megabytes(site):.1f} MB, {clock[-1] - clock[0]:.0f} s "
        f"(source {wrote:.0f}, Jupyter Book {built:.0f}, checks {checked:.0f})"
    )
    if options.pictures:
        from lesson_lib.delivery.site import pictures

        pictures.main(site, ROOT / "build" / "browser")
    return 0


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
