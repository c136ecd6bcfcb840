"""Benchmarks as commands: python -m lesson_lib.bench NAME. They print what this machine does; nothing is asserted."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch


def shapes() -> None:
    """Print how many captioned pictures of shapes one core makes in a second, at both sizes."""
    from lesson_lib.data import shapes as make

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for size in (32, 16):
        count = 10_000
        seconds = _median(lambda size=size, count=count: make(count, size=size, objects=(1, 2)))  # type: ignore[misc]
        print(f"shapes at {size}×{size}: {count / seconds:,.0f} images/s on one core")
    torch.set_num_threads(threads)


def imports() -> None:
    """Print what importing the library's modules adds to importing torch, each in a fresh interpreter."""
    modules = "setup, data, noise, flow, samplers, embed, condition, denoiser, guidance, train, evaluate, results, plot"
    for name, code in (("lesson_lib", "import lesson_lib"), ("its modules", f"from lesson_lib import {modules}")):
        script = f"import time, torch\nt = time.perf_counter()\n{code}\nprint(time.perf_counter() - t)"
        runs = [float(subprocess.check_output([sys.executable, "-c", script])) for _ in range(3)]
        print(f"{name}: {1000 * statistics.median(runs):.0f} ms on top of torch")


def steps() -> None:
    """Print the time of one training step of the small denoisers, beside the first one's as a ratio."""
    from lesson_lib.data import digits
    from lesson_lib.denoiser import ConvDenoiser
    from lesson_lib.flow import RectifiedFlow
    from lesson_lib.setup import pick_device
    from lesson_lib.train import denoising_loss, fit

    real, loss, base = digits().to(pick_device()), denoising_loss(RectifiedFlow()), 0.0
    for width, depth in ((32, 3), (48, 4), (64, 5)):
        model = ConvDenoiser(1, width=width, depth=depth).to(pick_device())
        record = fit(model, (real.images,), loss, steps=20, progress=False)
        base = base or record.seconds
        print(f"width {width}, depth {depth}: {50 * record.seconds:.1f} ms a step, ratio {record.seconds / base:.2f}")


def slider() -> None:
    """Print how long a dial takes to put another ready-made picture into its frame."""
    from lesson_lib import plot, widgets

    pictures = []
    for i in range(8):
        with plot.capture() as caught:
            plot.sample_grid(torch.randn(8, 1, 8, 8) * i / 8, alt="noise")
        pictures += caught
    print(f"slider: {1000 * widgets.swap_seconds(pictures):.2f} ms a swap")


def _median(function: Callable[[], object], repeats: int = 3) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


BENCHMARKS = {"shapes": shapes, "imports": imports, "steps": steps, "slider": slider}


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmark, or all of them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lesson_lib.bench", description=__doc__)
    parser.add_argument("name", choices=[*BENCHMARKS, "all"])
    name = parser.parse_args(arguments).name
    for benchmark in BENCHMARKS.values() if name == "all" else [BENCHMARKS[name]]:
        benchmark()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
