"""The command line: python -m lesson_lib.delivery {environment,drill,browser,first-picture,site,links,health}."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from lesson_lib.build.sources import BuildError
from lesson_lib.delivery import DeliveryError

# Each module has arguments(parser), which says what it takes, and main(options), which returns the exit status.
COMMANDS = {
    "environment": ("colab", "install Colab's packages into an environment of their own"),
    "drill": ("drill", "run lessons as Colab would, from a bare clone into an empty folder"),
    "browser": ("browser", "work through lessons in JupyterLab with a real browser"),
    "first-picture": ("first_picture", "time a learner's way from the clone to the first picture"),
    "site": ("site", "write the website into build/site/"),
    "links": ("links", "check links and anchors; with --external those to other hosts too"),
    "health": ("health", "compare Colab's packages with a newer freeze and run the drill against it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its status, or 1 with a sentence on stderr."""
    given = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m lesson_lib.delivery")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, purpose) in COMMANDS.items():
        command = commands.add_parser(name, help=purpose)
        if name in given[:1]:  # only this one's module is loaded: the others may want what is not installed
            part = importlib.import_module(f"lesson_lib.delivery.{module}")
            part.arguments(command)
            command.set_defaults(run=part.main)
    options = parser.parse_args(given)
    try:
        return int(options.run(options))
    except (DeliveryError, BuildError) as problem:
        print(problem, file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(main())
