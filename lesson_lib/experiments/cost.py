"""What training a DiT will cost, before it is started: python -m lesson_lib.experiments.cost --preset B/2 --gpus 8.

Nothing is trained: the memory of the weights follows from their number, that of a picture is counted on a network
without numbers, and the time is arithmetic whose one assumption, the utilisation, is an argument.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from lesson_lib.dit import DiT, DiTConfig, macs
from lesson_lib.evaluate import trained_parameters

# Bytes for each trained weight: itself, its gradient, AdamW's two moments, its average; all of them float32.
STATE = {"weights": 4, "gradients": 4, "AdamW's two moments": 8, "average": 4}


def trained_weights(config: DiTConfig) -> int:
    """Return how many weights of a DiT are trained; the table of positions is not among them."""
    with torch.device("meta"):
        return trained_parameters(DiT(config))


def state_bytes(weights: int, processes: int = 1) -> int:
    """Return what one process keeps for so many trained weights, cut (FSDP2) into shares for so many processes."""
    return -(-weights * sum(STATE.values()) // processes)


def picture_bytes(config: DiTConfig) -> int:
    """Return what one more picture adds to what is kept for the backward pass, under bfloat16 autocast, not compiled.

    Counted on a CPU's kernels by a network whose tensors have shapes and no numbers; a GPU's keep a little more in
    float32. Without classes, whose label costs nothing.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    def kept(batch: int) -> int:
        found: dict[int, torch.UntypedStorage] = {}  # held until the end, so that no number is given twice

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage
            return tensor

        model = DiT(replace(config, num_classes=0))
        images = torch.empty(batch, config.in_channels, config.input_size, config.input_size)
        with (
            torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            model(images, torch.empty(batch))
        return sum(storage.nbytes() for storage in found.values())

    with FakeTensorMode():
        return kept(2) - kept(1)  # what does not grow with the batch, the weights among them, falls out


def training_flop(config: DiTConfig, batch_size: int, steps: int) -> float:
    """Return the floating-point operations of a training: two for a multiply-accumulate, once forward, twice backward.

    Source of the factor 3 that this makes: DiT (arXiv 2212.09748, §5).
    """
    return 2.0 * 3.0 * macs(config) * batch_size * steps


def hours(flop: float, gpus: int, peak_tflops: float, utilisation: float) -> float:
    """Return how long so many operations take on GPUs that reach a share (utilisation) of their peak."""
    return flop / (gpus * peak_tflops * 1e12 * utilisation) / 3600


def table(
    preset: str, *, gpus: int = 8, batch_size: int = 256, steps: int = 400_000, peak_tflops: float = 312.0,
    utilisation: float = 0.4, input_size: int = 32,
) -> str:  # fmt: skip
    """Return the memory of one GPU and the time of all, as a table in Markdown with the arithmetic in it."""
    if batch_size % gpus:
        raise ValueError(f"a batch of {batch_size} does not divide by {gpus} GPUs")
    config = DiTConfig.paper(preset, input_size)
    weights, own = trained_weights(config), batch_size // gpus
    picture, flop = picture_bytes(config), training_flop(config, batch_size, steps)
    whole, shared = state_bytes(weights), state_bytes(weights, gpus)
    rows = [("", "arithmetic", "one GPU")]
    for name, each in STATE.items():
        rows.append((name, f"{weights / 1e6:.1f} M × {each} bytes", _gb(weights * each)))
    rows.append(
        (f"kept for the backward pass of {own} pictures", f"{own} × {picture / 1e6:.0f} MB", _gb(own * picture))
    )
    rows.append(("together", "", _gb(whole + own * picture)))
    if gpus > 1:
        sum_ = f"{sum(STATE.values())} bytes × {weights / 1e6:.1f} M / {gpus}, and the pictures"
        rows.append(("together with `--shard`", sum_, _gb(shared + own * picture)))
    lines = [f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows]
    lines.insert(1, "|---|---|---|")
    duration = hours(flop, gpus, peak_tflops, utilisation)
    time = (
        f"{steps:,} steps × {batch_size} pictures × 3 × 2 × {macs(config) / 1e9:.1f} GMACs = {flop:.2e} operations; at "
        f"{utilisation:.0%} of {gpus} × {peak_tflops:g} TFLOPS: {duration:.1f} hours."
    )
    return "\n".join([*lines, "", time])


def overview(gpus: int = 8, input_size: int = 32) -> str:
    """Return what the paper's four widths keep in memory at patch size 2, as a table in Markdown."""
    each = sum(STATE.values())
    lines = [
        f"| preset | trained weights | × {each} bytes | with `--shard` on {gpus} GPUs | each picture on a GPU |",
        "|---|---|---|---|---|",
    ]
    for preset in ("S/2", "B/2", "L/2", "XL/2"):
        config = DiTConfig.paper(preset, input_size)
        weights = trained_weights(config)
        cells = [f"{weights / 1e6:.1f} M", _gb(state_bytes(weights)), _gb(state_bytes(weights, gpus))]
        lines.append(f"| {preset} | {' | '.join(cells)} | {picture_bytes(config) / 1e6:.0f} MB |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the table of one preset, or without one the memory of four; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lesson_lib.experiments.cost", description=__doc__)
    parser.add_argument("--preset", help="S/8 to XL/2, as in the paper; left out, all with patch size 2")
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=256, help="of all GPUs together (default 256)")
    parser.add_argument("--steps", type=int, default=400_000)
    parser.add_argument(
        "--peak-tflops", type=float, default=312.0, help="of one GPU, dense bfloat16 (default: A100, 312)"
    )
    parser.add_argument("--utilisation", type=float, default=0.4, help="share of the peak; an assumption (default 0.4)")
    parser.add_argument("--input-size", type=int, default=32, help="side of the latents (default 32: pictures of 256²)")
    options = parser.parse_args(arguments)
    try:
        print(table(**vars(options)) if options.preset else overview(options.gpus, options.input_size))
    except ValueError as error:
        parser.error(str(error))
    return 0


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    raise SystemExit(main())
