"""Figures: one PNG each with alt text, clear refusals, colours that stay apart, nothing left behind in matplotlib."""

from __future__ import annotations

import base64
import html
import io
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import IPython
import IPython.display
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from lesson_lib import diagrams, plot, style, widgets
from lesson_lib.unet import UNet, UNetConfig, decoder_channels, encoder_channels

ALT = "two curves that fall"


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict]]:
    """Stand in for a notebook's front end and record what is displayed."""
    record: list[tuple[Any, dict]] = []
    monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=None))
    monkeypatch.setattr(IPython.display, "display", lambda data, **options: record.append((data, options)))
    monkeypatch.setenv("LESSON_HEADLESS", "1")
    return record


def picture(shown: list[tuple[Any, dict]]) -> Image.Image:
    assert len(shown) == 1
    return Image.open(io.BytesIO(base64.b64decode(shown[0][0]["image/png"])))


class Small(nn.Module):
    """A stand-in with a side input, equal blocks and a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(1, 4)
        self.enter = nn.Linear(3, 4)
        self.blocks = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        first = h = self.enter(x)
        condition = self.time(t[:, None])
        for block in self.blocks:
            h = block(h + condition)
        return self.leave(torch.cat([h, first], dim=-1))


X = [1.0, 2.0, 4.0]
IMAGES = torch.rand(6, 3, 8, 8) * 2 - 1
AXES = {"xlabel": "steps", "ylabel": "loss"}
FIGURES: dict[str, Callable[..., None]] = {
    "lines": lambda alt: plot.lines(X, {"linear": X, "cosine": X[::-1]}, alt=alt, **AXES),
    "curves": lambda alt: plot.curves(X, {"euler": torch.rand(5, 3), "heun": torch.rand(5, 3)}, alt=alt, **AXES),
    "one seed": lambda alt: plot.curves(X, {"euler": np.ones((1, 3))}, alt=alt, logx=True, logy=True, **AXES),
    "losses": lambda alt: plot.losses({"v": SimpleNamespace(losses=[3.0, 2.0, 1.0], steps=3)}, alt=alt),
    "one loss": lambda alt: plot.losses([3.0, 2.0, 1.0], alt=alt),
    "intervals": lambda alt: plot.intervals(
        SimpleNamespace(variants={"add": {"fd": [1.0, 2.0, 3.0]}, "film": {"fd": [1.0, 1.5, 1.2]}}), "fd", alt=alt
    ),
    "histogram": lambda alt: plot.histogram({"uniform": torch.rand(99)}, xlabel="t", alt=alt),
    "heat": lambda alt: plot.heat(torch.rand(3, 4), alt=alt, centre=0.0, **AXES),
    "points": lambda alt: plot.points({"data": torch.randn(20, 2), "noise": torch.randn(9, 2)}, alt=alt),
    "paths": lambda alt: plot.paths(torch.randn(4, 9, 2), alt=alt),
    "flow_field": lambda alt: plot.flow_field(lambda x, t: -x * t[:, None], [0.1, 0.9], alt=alt),
    "sample_grid": lambda alt: plot.sample_grid(IMAGES, alt=alt, titles=list("abcdef"), columns=4),
    "sample_rows": lambda alt: plot.sample_rows({"Euler": IMAGES, "Heun": IMAGES}, alt=alt),
    "trajectory": lambda alt: plot.trajectory(IMAGES[:, None], list(range(6)), alt=alt),
    "course_map": lambda alt: diagrams.course_map(alt=alt, here="02"),
    "course_map with points": lambda alt: diagrams.course_map(alt=alt, points={"00": (1, 1), "01": (3, 25)}),
    "network": lambda alt: diagrams.network_diagram(Small(), torch.rand(2, 3), torch.rand(2), alt=alt),
    "unet": lambda alt: diagrams.unet_diagram(UNet(UNetConfig.shapes16()), size=16, alt=alt),
    "slider": lambda alt: widgets.slider([IMAGES, -IMAGES], [0.5, 1.0], label="w", alt=alt),
    "prompt": lambda alt: widgets.prompt(lambda _: plot.sample_grid(IMAGES, alt="one"), ["a", "b"], label="p", alt=alt),
    "menu": lambda alt: widgets.menu(["a", "b"], lambda _: plot.sample_grid(IMAGES, alt="one"), label="p", alt=alt),
}


@pytest.mark.parametrize("name", FIGURES)
def test_each_figure_is_one_small_png_with_alt_text_and_leaves_matplotlib_alone(name: str, shown: list) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams.copy())
    FIGURES[name](ALT)
    drawn = picture(shown)
    assert drawn.text["Description"] == ALT
    assert shown[0][1] == {"raw": True, "metadata": {"image/png": {"alt": ALT}}}
    assert ALT in shown[0][0]["text/plain"]
    assert drawn.width <= round(style.WIDTH * style.DPI) + 2
    assert len(np.unique(np.asarray(drawn.convert("L")))) > 1, "the figure is empty"
    assert dict(matplotlib.rcParams.copy()) == before
    with pytest.raises(TypeError):
        plot.sample_grid(IMAGES)  # type: ignore[call-arg]


def test_the_description_is_printed_where_it_is_asked_for(
    shown: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plot.losses([2.0, 1.0], alt=ALT)
    assert capsys.readouterr().out == ""
    monkeypatch.setenv("LESSON_ALT", "1")
    plot.losses([2.0, 1.0], alt=ALT)
    assert capsys.readouterr().out == f"[figure: {ALT}]\n"
    assert len(shown) == 2


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("alt", ["", "  ", None])
def test_each_figure_needs_alt_text(name: str, alt: Any, shown: list) -> None:
    with pytest.raises(ValueError, match="say in a sentence what the figure shows"):
        FIGURES[name](alt)
    assert not shown


REFUSALS: dict[str, tuple[str, Callable[[], None]]] = {
    "images of rank 3": (r"\(B, C, H, W\).*got \(3, 8, 8\)", lambda: plot.sample_grid(IMAGES[0], alt=ALT)),
    "two channels": ("1 or 3 channels", lambda: plot.sample_grid(IMAGES[:, :2], alt=ALT)),
    "titles": ("2 titles for 6 images", lambda: plot.sample_grid(IMAGES, alt=ALT, titles=["a", "b"])),
    "uneven rows": ("as many", lambda: plot.sample_rows({"a": IMAGES, "b": IMAGES[:2]}, alt=ALT)),
    "no rows": ("dictionary", lambda: plot.sample_rows({}, alt=ALT)),
    "times": ("6 images for 2 times", lambda: plot.trajectory(IMAGES[:, None], [0, 1], alt=ALT)),
    "points": (r"\(20, 3\).*\(N, 2\)", lambda: plot.points({"data": torch.rand(20, 3)}, alt=ALT)),
    "paths": (r"\(T, N, 2\)", lambda: plot.paths(torch.rand(5, 2), alt=ALT)),
    "velocity": ("velocity returned", lambda: plot.flow_field(lambda x, t: x[:, :1], [0.5], alt=ALT)),
    "line length": (r"\(2,\).*\(3,\)", lambda: plot.lines(X, {"a": [1.0, 2.0]}, alt=ALT, **AXES)),
    "curve shape": (r"\(seeds, 3\)", lambda: plot.curves(X, {"a": [1.0, 2.0, 3.0]}, alt=ALT, **AXES)),
    "no loss": ("at least one number", lambda: plot.losses([], alt=ALT)),
    "metric": ("no metric 'fd'; it has acc", lambda: plot.intervals({"a": {"acc": [1.0]}}, "fd", alt=ALT)),
    "better": ("'higher', 'lower'", lambda: plot.intervals({"a": [1.0]}, alt=ALT, better="up")),
    "matrix": (r"\(rows, columns\)", lambda: plot.heat([1.0, 2.0], alt=ALT, **AXES)),
    "lesson": ("no lesson '99'", lambda: diagrams.course_map(alt=ALT, here="99")),
    "points of a lesson": ("no lesson '99'", lambda: diagrams.course_map(alt=ALT, points={"99": (1, 2)})),
    "no child": ("no child", lambda: diagrams.network_diagram(nn.Linear(2, 2), torch.rand(1, 2), alt=ALT)),
    "no U": ("Small has no down, middle1, .* network_diagram", lambda: diagrams.unet_diagram(Small(), size=8, alt=ALT)),
    "size of the U": (
        "10×10 .* halved 2 times",
        lambda: diagrams.unet_diagram(UNet(UNetConfig.shapes16()), size=10, alt=ALT),
    ),
    "one value": ("2 to 24", lambda: widgets.slider([IMAGES], [1], label="w", alt=ALT)),
    "frames": ("3 values", lambda: widgets.slider([IMAGES, IMAGES], [1, 2, 3], label="w", alt=ALT)),
    "no examples": ("at least one example", lambda: widgets.prompt(lambda _: None, [], label="p", alt=ALT)),
    "draws nothing": ("drew 0 figures", lambda: widgets.slider(lambda _: None, [1, 2], label="w", alt=ALT)),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_call_gets_a_sentence_and_no_figure(name: str, shown: list) -> None:
    sentence, call = REFUSALS[name]
    with pytest.raises(ValueError, match=sentence):
        call()
    assert not shown


def test_a_name_has_one_colour_in_every_group_and_unknown_names_get_free_ones() -> None:
    for group in style.GROUPS.values():
        assert all(plot.COLOUR[name] == colour for name, colour in group.items())
    assert plot.colours(["heun", "mine", "Euler"])[0] == plot.COLOUR["heun"]
    assert len(set(plot.colours(["heun", "mine", "Euler", "other"]))) == 4
    assert len(plot.colours([str(i) for i in range(30)])) == 30


def test_pixels_are_whole_squares_and_keep_their_colours(shown: list) -> None:
    board = torch.ones(1, 3, 2, 2)
    board[0, :, 0, 0] = torch.tensor([1.0, -1.0, -1.0])
    board[0, :, 1, 1] = float("nan")
    plot.sample_grid(board, alt=ALT)
    pixels = np.asarray(picture(shown).convert("RGB"))
    for colour in ((255, 0, 0), (255, 0, 255)):
        rows, columns = np.nonzero((pixels == colour).all(-1))
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) == 52**2


def test_the_diagram_follows_the_data() -> None:
    parts = diagrams.trace(Small(), torch.rand(2, 3), torch.rand(2))
    assert [part.name for part in parts] == ["enter", "time", "blocks.0", "blocks.1", "blocks.2", "leave"]
    assert [part.sources for part in parts] == [set(), set(), {0, 1}, {1, 2}, {1, 3}, {0, 4}]
    assert [part.reads_input for part in parts] == [True, False, False, False, False, False]
    assert (parts[-1].shape, parts[-1].parameters) == ("2×3", 27)


def test_the_diagram_leaves_the_module_as_it_was(shown: list) -> None:
    module = Small().train()
    module.blocks[1].eval()
    diagrams.network_diagram(module, torch.rand(2, 3), torch.rand(2), alt=ALT)
    assert module.training
    assert not module.blocks[1].training
    assert not any(child._forward_hooks for child in module.modules())


def steps_of(unet: UNet, size: int) -> dict[str, Any]:
    return diagrams.unet_steps(unet, diagrams._run_unet(unet, size))


def on_meta(config: UNetConfig, skips: tuple[bool, ...] | None = None) -> UNet:
    with torch.device("meta"):
        unet = UNet(config)
    unet.skips = skips or unet.skips
    return unet


def test_the_u_is_what_the_run_did() -> None:
    config = replace(UNetConfig.shapes16(), channel_mult=(1, 3, 2), num_res_blocks=2, attention=(0, 1, 0))
    unet = UNet(config)
    steps = steps_of(unet, 16)
    names = ["x", "enter", *(f"down.{i}" for i in range(8)), "middle1", "middle2", *(f"up.{i}" for i in range(11))]
    assert list(steps) == [*names, "norm", "leave"]
    assert [step.before for step in steps.values()] == ["", *names, "norm"]
    kept = ["enter", *(f"down.{i}" for i in range(8))]
    assert [steps[name].channels for name in kept] == encoder_channels(config.channels, 2)
    stages = [step for step in steps.values() if step.skip]
    assert [step.skip for step in stages] == kept[::-1]
    sizes = [(steps[step.before].channels + steps[step.skip].channels, step.channels) for step in stages]
    assert sizes == decoder_channels(config.channels, 2)
    assert all(steps[step.skip].size == step.size for step in stages)
    assert [step.name for step in steps.values() if step.attention] == [
        "down.3",
        "down.4",
        "middle1",
        "up.4",
        "up.5",
        "up.6",
    ]
    assert [step.size[0] for step in steps.values()] == [16] * 4 + [8] * 3 + [4] * 8 + [8] * 4 + [16] * 6
    assert {step.kind for step in steps.values()} == {
        "input",
        "Conv2d",
        "ResBlock",
        "Downsample",
        "Upsample",
        "GroupNorm",
    }
    inside = steps_of(UNet(replace(config, resblock_updown=True)), 16)
    assert {step.kind for step in inside.values()} == {"input", "Conv2d", "ResBlock", "GroupNorm"}


def test_the_u_shows_a_decoder_that_takes_its_skips_in_the_wrong_order() -> None:
    class Swapped(UNet):
        def decode(self, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
            return super().decode(h, [kept[1], kept[0], *kept[2:]], emb, context)

    config = replace(UNetConfig.shapes16(), channel_mult=(1, 1, 1))
    right, wrong = steps_of(UNet(config), 16), steps_of(Swapped(config), 16)
    differ = {name: wrong[name].skip for name in right if wrong[name].skip != right[name].skip}
    assert differ == {"up.7": "down.0", "up.6": "enter"}


def drawing(unet: UNet, size: int | tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> tuple[list, list]:
    """Draw a U; return its labels (text, left, bottom, right, top) and its arrows (dashed, start, end), in inches."""
    labels, arrows = [], []

    def look(fig: Any, alt: str) -> None:
        fig.savefig(io.BytesIO(), format="png", dpi=100)
        for text in fig.axes[0].texts:
            if text.get_text():
                box = text.get_window_extent()
                inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= fig.bbox.width and box.y1 <= fig.bbox.height
                assert inside, f"{text.get_text()!r} leaves the page"
                labels.append((text.get_text(), *(edge / fig.dpi for edge in (box.x0, box.y0, box.x1, box.y1))))
            else:
                dashed = isinstance(text.arrow_patch.get_linestyle(), tuple)
                to_inches = fig.axes[0].transData.transform
                arrows.append((dashed, *(to_inches(place) / fig.dpi for place in (text.xyann, text.xy))))

    monkeypatch.setattr(style, "show", look)
    diagrams.unet_diagram(unet, size=size, alt=ALT)
    return labels, arrows


WORDS = UNetConfig.sd15()
US: dict[str, tuple[UNetConfig, int | tuple[int, int]]] = {
    "shapes16": (UNetConfig.shapes16(), 16),
    "shapes32": (UNetConfig.shapes32(), (64, 32)),
    "one level": (replace(UNetConfig.shapes16(), channel_mult=(1,), attention=(0,), middle_attention=0), 16),
    "DDPM": (UNetConfig.ddpm_cifar10(), 32),
    "ADM": (UNetConfig.adm(512), 512),
    "SD 1.5": (WORDS, 64),
    "SDXL": (UNetConfig.sdxl(), 128),
    "large": (replace(WORDS, num_classes=9, vector_size=8), 2048),
}


@pytest.mark.parametrize("name", US)
def test_no_two_labels_of_a_u_overlap_and_skips_run_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, size = US[name]
    unet = on_meta(config, tuple(i % 3 == 0 for i in range(len(config.channels))))
    labels, arrows = drawing(unet, size, monkeypatch)
    for (a, ax0, ay0, ax1, ay1), (b, bx0, by0, bx1, by1) in combinations(labels, 2):
        assert ax1 <= bx0 or bx1 <= ax0 or ay1 <= by0 or by1 <= ay0, f"{a!r} lies on {b!r}"
    steps = steps_of(unet, size)  # type: ignore[arg-type]
    texts = [label[0] for label in labels]
    for step in steps.values():
        assert f"{step.name}: {step.kind}" in texts
        assert any(f"{step.channels} channels · {step.size[0]}×{step.size[1]}" in text for text in texts)
    kept = config.num_res_blocks + 1
    names = {label[0].split(":")[0]: (label[1], (label[2] + label[4]) / 2) for label in labels if ":" in label[0]}
    for name, step in ((name, step) for name, step in steps.items() if step.skip):
        reached = [
            (dashed, start[1])
            for dashed, start, end in arrows
            if abs(names[name][0] - end[0]) < 0.15 and abs(names[name][1] - end[1]) < 0.1
        ]
        level = [step.size[0] * 2**i for i in range(9)].index(steps["x"].size[0])
        assert [dashed for dashed, _ in reached] == [not unet.skips[level]], name
        assert abs(names[step.skip][1] - reached[0][1]) < 0.1, f"the skip of {name} does not start at {step.skip}"
    assert texts.count("skips cut: zeros") == unet.skips.count(False)
    across = [end for _, start, end in arrows if abs(start[1] - end[1]) < 1e-6]
    assert len(across) == kept * len(config.channels) + 1, "every skip, and from middle1 to middle2"
    assert len(arrows) == len(steps) - 1 + kept * len(config.channels)


def test_a_u_fits_a_narrower_page_too(shown: list, monkeypatch: pytest.MonkeyPatch) -> None:
    unet = UNet(UNetConfig.shapes16())
    with plot.capture(width=4.2) as pictures:
        diagrams.unet_diagram(unet, size=16, alt=ALT)
        labels, _ = drawing(unet, 16, monkeypatch)
    assert Image.open(io.BytesIO(pictures[0])).width <= 4.2 * style.DPI
    assert max(label[3] for label in labels) <= 4.2


def test_a_live_front_end_gets_the_grid_first_and_then_a_dial(shown: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESSON_HEADLESS", "0")
    widgets.slider([IMAGES, -IMAGES, IMAGES / 2], ["a", "b", "c"], label="w", alt=ALT)
    assert len(shown) == 2
    assert "image/png" in shown[0][0]
    dial, image = shown[1][0].children
    assert image.layout.align_self == "flex-start"  # else JupyterLab stretches it to the page's width
    first = image.value
    dial.value = 1
    assert image.value != first
    dial.value = 0
    assert image.value == first


def test_a_typed_prompt_is_drawn_and_a_wrong_one_is_explained_while_the_picture_stays(
    shown: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(text: str) -> None:
        if "zebra" in text:
            raise ValueError(f"unknown in {text!r}")
        plot.sample_grid(IMAGES if text == "one" else -IMAGES, alt="a picture")

    monkeypatch.setenv("LESSON_HEADLESS", "0")
    widgets.prompt(draw, ["one"], label="prompt", alt=ALT)
    assert len(shown) == 2
    assert "image/png" in shown[0][0]
    box, told, image = shown[1][0].children
    first = image.value
    box.value = "another"
    second = image.value
    assert second != first
    assert told.value == ""
    box.value = "a zebra"
    assert html.unescape(told.value) == "unknown in 'a zebra'"
    assert image.value == second
    box.value = "one"
    assert (image.value, told.value) == (first, "")


@pytest.mark.parametrize(("asked", "answer"), [("1", False), ("0", True), ("", False)])
def test_who_is_there(asked: str, answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LESSON_HEADLESS", asked)  # "": pytest counts as nobody
    assert widgets.front_end() is answer


def test_figures_inside_capture_are_kept_and_no_wider_than_its_page(shown: list) -> None:
    with plot.capture(width=4.0) as pictures:
        FIGURES["curves"](ALT)
        FIGURES["sample_rows"](ALT)
    assert not shown
    assert [Image.open(io.BytesIO(png)).width <= 480 for png in pictures] == [True, True]


def test_outside_a_notebook_the_alt_text_is_printed(capsys: pytest.CaptureFixture) -> None:
    FIGURES["heat"](ALT)
    assert capsys.readouterr().out == f"[figure: {ALT}]\n"


def test_drawing_needs_no_pyplot_and_importing_needs_no_matplotlib() -> None:
    code = (
        "import sys; from lesson_lib import plot, diagrams, widgets\n"
        "assert not {'matplotlib', 'ipywidgets', 'scipy', 'IPython'} & set(sys.modules)\n"
        "plot.lines([0, 1], {'a': [0, 1]}, xlabel='x', ylabel='y', alt='a line')\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
