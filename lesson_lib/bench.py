"""Benchmarks as commands: python -m lesson_lib.bench NAME … They print what this machine does; nothing is asserted."""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn


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


def unet() -> None:
    """Print the time of our U-Nets beside diffusers' with the same weights: forward pass and training step."""
    from lesson_lib.official.unet import build_diffusers_unet, matching_inputs, randomise, unet_from_diffusers
    from lesson_lib.setup import pick_device
    from lesson_lib.unet import UNet, UNetConfig

    device, generator = pick_device(), torch.Generator().manual_seed(0)
    ddpm = replace(UNetConfig.ddpm_cifar10(), model_channels=64, dropout=0.0)
    adm = replace(UNetConfig.adm(64), model_channels=64, channel_mult=(1, 2, 2, 2), num_res_blocks=2)
    words = replace(UNetConfig.sd15(), model_channels=64, context_size=256)
    for name, config, size in (("DDPM", ddpm, 32), ("ADM", adm, 32), ("Stable Diffusion 1.5", words, 16)):
        theirs = randomise(build_diffusers_unet(config), generator)
        ours = UNet(config)
        ours.load_state_dict(unet_from_diffusers(theirs.state_dict(), config))
        inputs = matching_inputs(config, 2 if device.type == "cpu" else 64, size, size, generator)
        our_inputs, their_inputs = ({key: value.to(device) for key, value in given.items()} for given in inputs)
        print(f"{name}'s layout, {config.model_channels} channels, {len(our_inputs['x'])} maps of {size}×{size}")
        _compete(ours.to(device), theirs.to(device), our_inputs, their_inputs)


def vae() -> None:
    """Print the time of our autoencoder beside diffusers' with the same weights: forward pass and training step."""
    from lesson_lib.official.unet import randomise
    from lesson_lib.official.vae import build_diffusers_vae, vae_from_diffusers
    from lesson_lib.setup import pick_device
    from lesson_lib.vae import AutoencoderKL, VAEConfig

    device, generator = pick_device(), torch.Generator().manual_seed(0)
    config = replace(VAEConfig.ldm_kl_f8(), channels=32)
    theirs = randomise(build_diffusers_vae(config), generator)
    ours = AutoencoderKL(config)
    ours.load_state_dict(vae_from_diffusers(theirs.state_dict(), config))
    x = torch.randn(2 if device.type == "cpu" else 64, 3, 64, 64, generator=generator).to(device)
    print(f"kl-f8's layout, {config.channels} channels, {len(x)} pictures of 64×64")
    _compete(ours.to(device), theirs.to(device), {"x": x}, {"sample": x})


def vit() -> None:
    """Print the time of our ViT beside transformers' with the same weights: forward pass and training step."""
    from lesson_lib.official.unet import randomise
    from lesson_lib.official.vit import build_transformers_vit, vit_to_transformers
    from lesson_lib.setup import pick_device
    from lesson_lib.vit import ViT, ViTConfig

    device, generator = pick_device(), torch.Generator().manual_seed(0)
    learner = replace(ViTConfig.fashion(), pool="cls")
    for name, config, batch in (("ViT-Ti/16", ViTConfig.tiny(), (2, 256)), ("learner's ViT", learner, (64, 2048))):
        ours = randomise(ViT(config), generator)
        theirs = build_transformers_vit(config)
        theirs.load_state_dict(vit_to_transformers(ours.state_dict(), config))
        count, side = batch[device.type != "cpu"], config.image_size
        x = torch.randn(count, config.in_channels, side, side, generator=generator).to(device)
        print(f"{name}, {count} pictures of {side}×{side}")
        _compete(ours.to(device), theirs.to(device), {"images": x}, {"pixel_values": x}, "transformers")


def dit() -> None:
    """Print the time of our DiTs beside diffusers' with the same weights: forward pass and training step."""
    from lesson_lib.dit import DiT, DiTConfig
    from lesson_lib.official.dit import build_diffusers_dit, dit_to_diffusers, matching_inputs
    from lesson_lib.official.vit import randomise_trained
    from lesson_lib.setup import pick_device

    device, generator = pick_device(), torch.Generator().manual_seed(0)
    for name, config, batch in (
        ("DiT-S/4, half as deep", replace(DiTConfig.paper("S/4"), depth=6), (4, 256)),
        ("learner's DiT", DiTConfig.shapes16(), (64, 2048)),
    ):
        ours = randomise_trained(DiT(config), generator)
        theirs = build_diffusers_dit(config)
        theirs.load_state_dict(dit_to_diffusers(ours.state_dict(), config))
        inputs = matching_inputs(config, batch[device.type != "cpu"], generator)
        our_inputs, their_inputs = ({key: value.to(device) for key, value in given.items()} for given in inputs)
        count, side = len(our_inputs["x"]), config.input_size
        print(f"{name}, {count} maps of {side}×{side}")
        _compete(ours.to(device), theirs.to(device), our_inputs, their_inputs)


def mmdit() -> None:
    """Print the time of our MMDiTs beside diffusers' with the same weights: forward pass and training step."""
    from lesson_lib.mmdit import MMDiT, MMDiTConfig
    from lesson_lib.official.mmdit import build_diffusers_mmdit, from_diffusers, matching_inputs
    from lesson_lib.official.unet import randomise
    from lesson_lib.setup import pick_device

    device, generator = pick_device(), torch.Generator().manual_seed(0)
    small = replace(MMDiTConfig.sd35_large(), input_size=16, hidden_size=384, num_heads=6, double=3, context_size=512)
    hybrid = replace(MMDiTConfig.flux_dev(), input_size=16, hidden_size=384, num_heads=3, double=1, single=2)
    learner = replace(MMDiTConfig.shapes16(), axes=(8, 12, 12), rope_base=10_000.0)  # FLUX has three axes
    for name, config, batch, words in (
        ("SD3.5's double-stream blocks", small, (2, 64), 154),
        ("FLUX.1's double and single blocks", replace(hybrid, context_size=512), (2, 64), 128),
        ("learner's MMDiT", learner, (32, 2048), 11),
    ):
        theirs = randomise(build_diffusers_mmdit(config), generator)
        ours = MMDiT(config)
        ours.load_state_dict(from_diffusers(theirs.state_dict(), config))
        count, grid = batch[device.type != "cpu"], (config.grid, config.grid)
        inputs = matching_inputs(config, count, generator, grid, words)
        our_inputs, their_inputs = ({key: value.to(device) for key, value in given.items()} for given in inputs)
        print(f"{name}, {config.hidden_size} wide, {count} pictures of {config.grid**2} patches, {words} words")
        _compete(ours.to(device), theirs.to(device), our_inputs, their_inputs)


def rope() -> None:
    """Print what rotations cost: networks with them beside one with a table, and our rotation beside diffusers'."""
    from lesson_lib.dit import DiT, DiTConfig
    from lesson_lib.official.dit import matching_inputs
    from lesson_lib.official.vit import randomise_trained
    from lesson_lib.position import ROTARY, AxialRope, grid_coordinates, joint_coordinates
    from lesson_lib.setup import pick_device

    device, generator = pick_device(), torch.Generator().manual_seed(0)
    learner = DiTConfig.shapes16()
    for config in (learner, replace(learner, input_size=32)):
        given, _ = matching_inputs(config, 32 if device.type == "cpu" else 2048, generator)
        inputs, side = {key: value.to(device) for key, value in given.items()}, config.input_size
        table = randomise_trained(DiT(config), generator).to(device)
        for kind in ROTARY:
            turning = randomise_trained(DiT(replace(config, positions=kind)), generator).to(device)
            print(f"learner's DiT, ours with {kind} rotations, {len(inputs['x'])} maps of {side}×{side}")
            _compete(turning, table, inputs, inputs, "with a table")

    for name, axes, places, heads, batch in (
        ("FLUX.1's shapes", (16, 56, 56), joint_coordinates(512, 16, 16, "origin"), 24, (1, 16)),
        ("learner's DiT", (16, 16), grid_coordinates(4, 4), 4, (32, 2048)),
    ):
        shape = (batch[device.type != "cpu"], len(places), heads, sum(axes))
        queries_and_keys = [torch.randn(shape, generator=generator).to(device).requires_grad_() for _ in range(2)]
        print(f"{name}, queries and keys of {shape[0]} × {shape[1]} tokens, {heads} heads of {shape[3]}")
        print(f"  forward and backward: {_race_rotations(AxialRope(axes)(places.to(device)), queries_and_keys)}")


def speedrun() -> None:
    """Race our DiT and diffusers' U-Net, each trained in its own way, until 90 % of the samples are as asked."""
    from lesson_lib.experiments.speedrun import run
    from lesson_lib.setup import pick_budget

    run(pick_budget())


@dataclass(frozen=True)
class Race:
    """The seconds of two functions that were called in turn: the two numbers of one index were measured together.

    rival: the package that theirs comes from.
    """

    ours: list[float]
    theirs: list[float]
    rival: str = "diffusers"

    @property
    def ratios(self) -> list[float]:
        """Our seconds over theirs, for each pair."""
        return [a / b for a, b in zip(self.ours, self.theirs, strict=True)]

    def __str__(self) -> str:
        low, middle, high = statistics.quantiles(self.ratios, n=4)
        ours, theirs = 1000 * statistics.median(self.ours), 1000 * statistics.median(self.theirs)
        return (
            f"ours {ours:.1f} ms, {self.rival} {theirs:.1f} ms, median of {len(self.ours)} paired ratios {middle:.2f} "
            f"(quartiles {low:.2f} and {high:.2f})"
        )


def race(
    ours: Callable[[], object], theirs: Callable[[], object], pairs: int = 11, rival: str = "diffusers"
) -> Race:  # fmt: skip
    """Time two functions in turn, the one that goes first changing from pair to pair, after two calls of each.

    What else the machine does then falls on both alike. Waits for a GPU before and after each call. rival: the package
    that theirs comes from.
    Raises ValueError for fewer than two pairs: they show no spread.
    """
    if pairs < 2:
        raise ValueError(f"race: pairs is {pairs}; it must be at least 2")
    for function in (ours, theirs, ours, theirs):
        function()
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(pairs):
        for who in (0, 1) if i % 2 == 0 else (1, 0):
            _wait()
            started = time.perf_counter()
            (ours, theirs)[who]()
            _wait()
            seconds[who].append(time.perf_counter() - started)
    return Race(*seconds, rival)


def _compete(
    ours: nn.Module,
    theirs: nn.Module,
    our_inputs: dict[str, Any],
    their_inputs: dict[str, Any],
    rival: str = "diffusers",
) -> None:
    """Print a race of forward passes and one of training steps; on a GPU also with ours, and with both, compiled."""
    entries: list[tuple[str, Any, Any]] = [("", ours, theirs)]
    if torch.cuda.is_available():
        entries += [
            (", ours compiled", torch.compile(ours), theirs),
            (", both compiled", torch.compile(ours), torch.compile(theirs)),
        ]
    for how, one, other in entries:
        forward = race(_forward(one, our_inputs), _forward(other, their_inputs), rival=rival)
        print(f"  forward pass{how}: {forward}")
        step = race(_training_step(one, our_inputs), _training_step(other, their_inputs), rival=rival)
        print(f"  training step{how}: {step}")


def _forward(model: nn.Module, inputs: dict[str, Any]) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.no_grad():
            return _prediction(model.eval()(**inputs))

    return forward


def _training_step(model: nn.Module, inputs: dict[str, Any]) -> Callable[[], None]:
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        # gradients keep their memory: freed, it may go back to the system and cost time, in one of the two only
        optimiser.zero_grad(set_to_none=False)
        _prediction(model.train()(**inputs)).square().mean().backward()
        optimiser.step()

    return step


def _race_rotations(rotation: Any, given: list[Tensor]) -> Race:
    """Race our rotation and diffusers' with the same tables, each forward and backward; given are (B, N, h, d)."""
    from diffusers.models.embeddings import apply_rotary_emb

    apply: Any = apply_rotary_emb

    def ours() -> tuple[Tensor, ...]:
        turned = [rotation(x.transpose(1, 2)) for x in given]
        return torch.autograd.grad(turned, given, turned)

    def theirs() -> tuple[Tensor, ...]:
        turned = [apply(x, (rotation.cos, rotation.sin), sequence_dim=1).transpose(1, 2) for x in given]
        return torch.autograd.grad(turned, given, turned)

    return race(ours, theirs)


def _prediction(output: Any) -> Tensor:
    """Ours returns a tensor, or several of which the first counts; a rival's an object that holds it."""
    return getattr(output, "sample", output if isinstance(output, Tensor) else output[0])


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _median(function: Callable[[], object], repeats: int = 3) -> float:
    function()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


BENCHMARKS = {
    "shapes": shapes,
    "imports": imports,
    "steps": steps,
    "slider": slider,
    "unet": unet,
    "vae": vae,
    "vit": vit,
    "dit": dit,
    "mmdit": mmdit,
    "rope": rope,
    "speedrun": speedrun,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the named benchmarks in the order given, or all of them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m lesson_lib.bench", description=__doc__)
    parser.add_argument("names", nargs="+", choices=[*BENCHMARKS, "all"], metavar="name",
                        help=f"one or more of {', '.join(BENCHMARKS)}, or all but speedrun")  # fmt: skip
    names = parser.parse_args(arguments).names
    for name in [name for name in BENCHMARKS if name != "speedrun"] if "all" in names else names:
        BENCHMARKS[name]()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
