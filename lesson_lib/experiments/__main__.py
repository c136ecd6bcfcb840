"""The command line of the experiments and of the shipped models; --help lists them."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import re
from pathlib import Path

from lesson_lib import results
from lesson_lib.experiments import shipped
from lesson_lib.experiments.run import Experiment, folder_for, merge, run, share_of
from lesson_lib.setup import BUDGETS, pick_budget

EXPERIMENTS = (
    "sampler_steps",
    "time_sampling",
    "injection",
    "guidance_scale",
    "unet_ablations",
    "receptive_field",
    "vae_blur",
    "latent_space",
    "classifiers",
    "dit_grid",
    "unet_dit",
    "adaln",
    "rope",
    "text_to_image",
)  # in the order of the lessons


def main(arguments: list[str] | None = None) -> int:
    """Run one experiment (or train what the course ships) and print its table and verdicts; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lesson_lib.experiments", description=__doc__)
    parser.add_argument("name", help=f"{', '.join(EXPERIMENTS)}, the name of one record, judge or shipped")
    parser.add_argument("--budget", choices=BUDGETS, help="default: LESSON_BUDGET, or what the device suggests")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each variant (default 5)")
    parser.add_argument("--out", type=Path, help="folder of the record or the checkpoints (default: data/)")
    parser.add_argument("--model", choices=list(shipped.ALL), help="with shipped: only this one")
    parser.add_argument("--data", help="a folder of Parquet files: Fashion-MNIST in place of the hub's, or emoji")
    parser.add_argument("--parts", type=Path, default=results.PARTS, help="folder of finished runs (build/experiments)")
    parser.add_argument("--shard", type=_share, help="i/n: run only the i-th of n shares, one for each machine")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FOLDER", help="collect other machines' parts instead")
    options = parser.parse_args(arguments)
    if options.shard and options.merge:
        parser.error("--shard runs a share and --merge collects what was run: give one of them")
    if (options.shard or options.merge) and options.name in ("judge", "shipped"):
        parser.error(f"--shard and --merge split experiments; {options.name} is none")
    budget = pick_budget()
    if options.budget:
        budget = dataclasses.replace(budget, name=options.budget)
    if options.name == "judge":
        from lesson_lib.experiments import judge

        judge.run(budget, options.out)
    elif options.name == "shipped":
        for name in [options.model] if options.model else shipped.ALL:
            shipped.ship(name, budget, options.out, options.data)
    else:
        out, share = options.out or folder_for(budget, results.RESULTS), options.shard or (1, 1)
        for experiment in _named(options.name, parser):
            try:
                share_of(experiment, options.seeds, share)
                record = None
                if options.merge:
                    record = merge(experiment, budget, options.merge, options.seeds, out, options.parts)
            except (ValueError, FileNotFoundError) as error:
                parser.error(str(error))
            if not options.merge:
                record = run(experiment, budget, options.seeds, out, options.parts, share=share)
            if record is not None:
                for metric in record.metrics:
                    print(results.summary(record, metric), end="\n\n")
    return 0


def _share(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is no share: write i/n with i from 1 to n, such as 1/4")
    return int(found[1]), int(found[2])


def _named(name: str, parser: argparse.ArgumentParser) -> list[Experiment]:
    """Return the experiments of one file, or the one whose record has this name."""
    files = {file: importlib.import_module(f"lesson_lib.experiments.{file}").EXPERIMENTS for file in EXPERIMENTS}
    one = [experiment for group in files.values() for experiment in group if experiment.name == name]
    if name not in files and not one:
        records = [experiment.name for group in files.values() for experiment in group]
        names = ", ".join(dict.fromkeys([*files, *records, "judge", "shipped"]))
        parser.error(f"there is no experiment {name!r}; there are {names}")
    return list(files.get(name, one))


if __name__ == "__main__":
    raise SystemExit(main())
