"""The training loop: what a step does, what a run leaves behind, and that a killed run goes on bit for bit.

Run as a script (`python tests/test_train.py HOW FILE`) it is the process that gets killed.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lesson_lib import checkpoint as checkpoint_module
from lesson_lib import train
from lesson_lib.flow import RectifiedFlow
from lesson_lib.noise import Diffusion
from lesson_lib.position import MixedRope
from lesson_lib.train import (
    CheckpointError,
    Recipe,
    classification_loss,
    denoising_loss,
    fit,
    load_model,
    read_config,
    save_model,
)
from lesson_lib.vit import ViT, ViTConfig

POSIX = os.name == "posix"
STEPS, EVERY = 240, 20


class Net(nn.Module):
    """A tiny model with everything that a checkpoint must hold: dropout, running statistics, a frozen weight."""

    def __init__(self, width: int = 8, num_classes: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.labels = nn.Embedding(num_classes + 1, width)
        self.inner = nn.Linear(3, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.2)
        self.outer = nn.Linear(width, 2)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        hidden = self.inner(torch.cat([x, t[:, None] / 1000], dim=1)) + self.labels(labels)
        return self.outer(self.drop(self.norm(hidden).relu())) * self.frozen


def make_net(seed: int = 0, width: int = 8) -> Net:
    torch.manual_seed(seed)
    return Net(width)


def make_data(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(count, 2, generator=generator), torch.randint(3, (count,), generator=generator)


def run(path: Path | None = None, *, steps: int = STEPS, net: Net | None = None, loss=None, **options):
    """Train the tiny model with the settings that all tests of resuming share."""
    net = make_net() if net is None else net
    loss = loss or denoising_loss(Diffusion.cosine(100), label_dropout=0.2)
    settings = dict(batch_size=16, lr=1e-2, weight_decay=0.01, warmup=30, ema=0.99, every=EVERY, progress=False)
    record = fit(net, make_data(), loss, steps=steps, checkpoint=path, **{**settings, **options})
    return net, record


def assert_same_weights(first: nn.Module, second: nn.Module) -> None:
    one, two = first.state_dict(), second.state_dict()
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def uninterrupted() -> tuple[Net, train.TrainRecord]:
    torch.set_num_threads(1)
    return run()


# One step, and the averages


def square_loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def linear_problem(**options) -> tuple[nn.Linear, list[dict[str, float]], list[list[Tensor]]]:
    """Train a linear map; return it, AdamW's settings and all weights as they stand at the start of each step."""
    torch.manual_seed(1)
    model, settings, history = nn.Linear(4, 2), [], []
    data = (torch.randn(32, 4), torch.randn(32, 2))

    def watched(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        history.append([weight.detach().clone() for weight in model.parameters()])
        return square_loss(model, batch, generator)

    step = torch.optim.AdamW.step

    def watched_step(self, *arguments, **keywords):
        norm = math.sqrt(sum(float(weight.grad.square().sum()) for weight in model.parameters()))
        settings.append({"lr": self.param_groups[0]["lr"], "norm": norm})
        return step(self, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched_step)
        fit(model, data, watched, progress=False, batch_size=8, **options)
    return model, settings, history


def test_the_average_equals_a_naive_one():
    averaged, _, history = linear_problem(steps=40, ema=0.9)
    last, _, _ = linear_problem(steps=40, ema=0.0)
    after_each_step = [*history[1:], [weight.detach() for weight in last.parameters()]]
    for position, weight in enumerate(averaged.parameters()):
        naive = history[0][position].double()
        for n, weights in enumerate(after_each_step, start=1):
            decay = min(0.9, (1 + n) / (10 + n))
            naive = decay * naive + (1 - decay) * weights[position].double()
        torch.testing.assert_close(weight.detach().double(), naive, rtol=1e-5, atol=1e-6)
        assert not torch.equal(weight, list(last.parameters())[position])


def test_warm_up_rises_in_a_line_and_stays():
    _, settings, _ = linear_problem(steps=8, lr=0.4, warmup=4)
    assert [round(entry["lr"], 6) for entry in settings] == [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4, 0.4]
    assert Recipe(1, 0.4, 0, 0, 0, 0, 0, 0, 0).lr_at(0) == 0.4


def test_the_cooldown_ends_at_zero_with_the_last_step():
    _, settings, _ = linear_problem(steps=8, lr=0.4, warmup=2, cooldown=4)
    assert [round(entry["lr"], 6) for entry in settings] == [0.2, 0.4, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1]


def test_a_run_with_a_cooldown_goes_on_only_to_the_same_end(tmp_path):
    model, data, settings = nn.Linear(2, 1), (torch.randn(20, 2),), {"batch_size": 4, "cooldown": 3, "progress": False}

    def loss(net, batch, generator):
        return net(batch[0]).square().mean()

    fit(model, data, loss, steps=6, checkpoint=tmp_path / "run.safetensors", **settings)
    with pytest.raises(CheckpointError, match="end is 6 in the file and 8 here"):
        fit(model, data, loss, steps=8, checkpoint=tmp_path / "run.safetensors", resume=True, **settings)


def test_classification_is_cross_entropy():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    wanted = -logits.log_softmax(dim=1)[torch.arange(5), labels].mean()
    found = classification_loss(nn.Identity(), (logits, labels), torch.Generator())
    torch.testing.assert_close(found, wanted)


class Halves(nn.Module):
    """Returns what it holds: a prediction, and what chooses the variance."""

    def __init__(self) -> None:
        super().__init__()
        self.prediction, self.v = nn.Parameter(torch.zeros(1, 2, 4, 4)), nn.Parameter(torch.zeros(1, 2, 4, 4))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([self.prediction, self.v], dim=1).expand(len(x), -1, -1, -1)


def test_a_learned_variance_adds_a_term_that_trains_the_variance_alone():
    images = torch.randn(16, 2, 4, 4, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    plain, learned = Diffusion.linear(), Diffusion.linear(variance="learned")
    net = Halves()
    both = denoising_loss(learned)(net, (images,), torch.Generator().manual_seed(1))
    squared = denoising_loss(plain)(lambda x, t: net(x, t)[:, :2], (images,), torch.Generator().manual_seed(1))
    assert both > squared
    from_both = torch.autograd.grad(both, [net.prediction, net.v])
    (from_squared,) = torch.autograd.grad(squared, [net.prediction])
    torch.testing.assert_close(from_both[0], from_squared)
    assert from_both[1].abs().min() > 0


def test_a_network_without_a_variance_half_is_named():
    net = nn.Conv2d(2, 2, 1)
    with pytest.raises(ValueError, match=r"returned \(4, 1, 4, 4\); the target is \(4, 2, 4, 4\)"):
        denoising_loss(Diffusion.linear(variance="learned"))(
            lambda x, t: net(x), (torch.zeros(4, 2, 4, 4),), torch.Generator()
        )


def test_gradients_are_clipped_only_when_asked():
    _, clipped, _ = linear_problem(steps=5, clip=0.01)
    _, free, _ = linear_problem(steps=5, clip=0.0)
    assert all(entry["norm"] <= 0.0101 for entry in clipped)
    assert all(entry["norm"] > 0.1 for entry in free)


def test_one_step_is_adamw():
    model, _, history = linear_problem(steps=1, ema=0.0, clip=0.0, lr=0.01, weight_decay=0.1)
    for before, after in zip(history[0], model.parameters(), strict=True):
        # The first step of Adam moves every weight by lr, after decaying it by lr * weight_decay.
        moved = (after.detach() - before * (1 - 0.01 * 0.1)).abs()
        torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-3, atol=1e-6)


class Spared(nn.Module):
    """A layer whose second weight asks not to decay, inside a network where everything else does."""

    undecayed = ("kept",)

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.kept = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))


def without_gradient(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    return sum(0 * weight.sum() for weight in model.parameters())


def test_weights_that_a_module_names_do_not_decay():
    model = nn.Sequential(Spared(), nn.Sequential(MixedRope(2, 8)), nn.Linear(2, 2))
    with torch.no_grad():
        for weight in (model[2].weight, model[2].bias):
            weight.fill_(1)
    directions = model[1][0].freqs.detach().clone()
    fit(
        model, (torch.zeros(4, 1),), without_gradient, steps=3, lr=0.1, weight_decay=0.5, ema=0.0, batch_size=2,
        progress=False,
    )  # fmt: skip
    assert torch.equal(model[0].kept, torch.ones(3))
    assert torch.equal(model[1][0].freqs, directions)
    for weight in (model[0].plain, model[2].weight, model[2].bias):
        torch.testing.assert_close(weight.detach(), torch.full_like(weight, 0.95**3))


def test_weights_that_do_not_decay_learn_at_the_same_rate():
    model = Spared()

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        return model.plain.sum() + model.kept.sum()

    fit(model, (torch.zeros(4, 1),), loss, steps=1, lr=0.1, warmup=10, ema=0.0, batch_size=2, progress=False)
    for weight in (model.plain, model.kept):  # the first step of Adam is as long as the learning rate, here a tenth
        torch.testing.assert_close(weight.detach(), torch.full((3,), 0.99), rtol=0, atol=1e-6)


def test_training_lowers_the_loss_and_reports_the_run():
    net, record = run(steps=400)
    assert sum(record.losses[-50:]) < 0.9 * sum(record.losses[:50])
    assert len(record.losses) == record.steps == 400
    assert record.device == "cpu"
    assert record.config["precision"] == "float32"
    assert record.seconds > 0
    assert record.images_per_second == pytest.approx(400 * 16 / record.seconds)
    assert record.peak_memory_mb > 50 or not POSIX
    assert not net.training
    assert not record.interrupted
    assert float(net.frozen) == 1
    json.dumps(record.config)


def test_a_run_depends_on_its_seed_alone():
    first, one = run(steps=30)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    second, two = run(steps=30, net=make_net())
    torch.manual_seed(99)
    net = make_net()
    torch.set_rng_state(before)
    _, three = run(steps=30, net=net, seed=1)
    assert torch.equal(torch.get_rng_state(), before), "fit must give the caller's random state back"
    assert_same_weights(first, second)
    assert one.losses == two.losses
    assert one.losses != three.losses


def test_data_move_to_the_device_once(monkeypatch):
    calls = []
    to = Tensor.to

    def counted(self, *arguments, **keywords):
        if self.shape[:1] == (64,):
            calls.append(arguments)
        return to(self, *arguments, **keywords)

    monkeypatch.setattr(Tensor, "to", counted)
    run(steps=10)
    assert len(calls) == 2  # images and labels, before the first step


def read_sparsely(monkeypatch) -> None:
    """Let the loop look at the losses as seldom as on a GPU."""
    prepare = train._Run.prepare

    def like_a_gpu(self, steps, compile):
        prepare(self, steps, compile)
        self.read_every = train.READ_EVERY

    monkeypatch.setattr(train._Run, "prepare", like_a_gpu)


def test_losses_are_read_back_sparsely_on_a_gpu(monkeypatch):
    """On a GPU tolist() waits for the device; the loop may call it every fifty steps and at the end."""
    reads = []
    tolist = Tensor.tolist

    def counted(self):
        reads.append(len(self))
        return tolist(self)

    read_sparsely(monkeypatch)
    monkeypatch.setattr(Tensor, "tolist", counted)
    monkeypatch.setattr(Tensor, "item", lambda self: pytest.fail("a step must not wait for the device"))
    _, record = run(steps=120, loss=lambda model, batch, generator: model(batch[0], batch[0][:, 0], batch[1]).mean())
    assert reads == [50, 50, 20]
    assert len(record.losses) == 120


def test_bfloat16_only_where_the_card_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    assert not train._has_bfloat16(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert train._has_bfloat16(torch.device("cuda"))
    assert not train._has_bfloat16(torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_a_gpu():
    net = make_net().cuda()
    data = tuple(tensor.cuda() for tensor in make_data())
    loss = denoising_loss(RectifiedFlow(), label_dropout=0.1)
    fit(net, data, loss, steps=2, progress=False)
    running = train._Run(net, data, loss, Recipe(16, 1e-3, 0, 0, 0, 0, 1, 0.99, 0), False)
    running.advance()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            running.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# The denoising loss


class Recorder(nn.Module):
    """Answer with zeros and keep what the model was called with."""

    num_classes = 3

    def forward(self, x: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        self.called_with = (x, t, conditions)
        return torch.zeros_like(x)


@pytest.mark.parametrize("process", [Diffusion.linear(prediction="v"), RectifiedFlow()], ids=["diffusion", "flow"])
def test_denoising_loss_is_the_squared_error_to_the_target(process):
    images, labels, model = torch.randn(32, 2, 4, 4), torch.randint(3, (32,)), Recorder()
    value = denoising_loss(process)(model, (images, labels), torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(images.shape, generator=generator)
    t = process.sample_times(32, generator)
    noisy, target = process.training_pair(images, noise, t)
    x, time, conditions = model.called_with
    assert torch.equal(x, noisy)
    assert torch.equal(time, process.model_time(t))
    assert torch.equal(conditions[0], labels)
    torch.testing.assert_close(value, target.square().mean())


def test_denoising_loss_drops_labels_to_the_null_class():
    images, labels, model = torch.zeros(4000, 2), torch.zeros(4000, dtype=torch.int64), Recorder()
    denoising_loss(RectifiedFlow(), label_dropout=0.25)(model, (images, labels), torch.Generator().manual_seed(0))
    given = model.called_with[2][0]
    assert set(given.tolist()) == {0, 3}
    assert 0.2 < (given == 3).float().mean() < 0.3
    assert not labels.any()


def test_denoising_loss_explains_wrong_calls():
    with pytest.raises(ValueError, match="from 0 to 1"):
        denoising_loss(RectifiedFlow(), label_dropout=10)
    with pytest.raises(ValueError, match=r"needs labels.*\(images, labels\)"):
        denoising_loss(RectifiedFlow(), label_dropout=0.1)(Recorder(), (torch.zeros(2, 2),), torch.Generator())
    with pytest.raises(ValueError, match=r"returned \(2, 1\); the target is \(2, 2\)"):
        denoising_loss(RectifiedFlow())(lambda x, t: x[:, :1], (torch.zeros(2, 2),), torch.Generator())


# Wrong calls, losses of nan, interrupts


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "at least 1"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"lr": 0}, "above 0"),
        ({"clip": -1}, "0 .off. or more"),
        ({"ema": 1.0}, "below 1"),
        ({"resume": True}, "needs a file"),
    ],
)
def test_wrong_settings_get_a_sentence(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(**{"steps": 2, **options})


def test_wrong_tensors_get_a_sentence():
    loss = denoising_loss(RectifiedFlow())
    with pytest.raises(TypeError, match="tuple of tensors"):
        fit(make_net(), make_data()[0], loss, steps=1)
    with pytest.raises(ValueError, match=r"same number of rows.*64, 63"):
        fit(make_net(), (make_data()[0], make_data()[1][:63]), loss, steps=1)
    with pytest.raises(ValueError, match="no weights"):
        fit(nn.ReLU(), make_data(), loss, steps=1)


def failing_after(steps: int):
    taken = []

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        taken.append(1)
        value = model(batch[0], batch[0][:, 0], batch[1]).square().mean()
        return value * (math.nan if len(taken) > steps else 1)

    return loss


@pytest.mark.parametrize("seldom", [False, True])
def test_a_loss_of_nan_stops_the_run_and_never_reaches_the_file(tmp_path, monkeypatch, seldom):
    if seldom:
        read_sparsely(monkeypatch)
    path = tmp_path / "run.safetensors"
    with pytest.raises(FloatingPointError, match=r"became nan at step 25\. Try a smaller lr \(now 0.01\)"):
        run(path, loss=failing_after(25))
    tensors, config = checkpoint_module.read_tensors(path, checkpoint_module.TRAINING)
    assert config["step"] == 20
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


@pytest.mark.skipif(not POSIX, reason="raises a POSIX signal")
def test_an_interrupt_ends_the_run_after_the_step_and_resume_completes_it(tmp_path, uninterrupted, capsys):
    path, plain = tmp_path / "run.safetensors", denoising_loss(Diffusion.cosine(100), label_dropout=0.2)
    calls = []

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        calls.append(1)
        if len(calls) == 33:
            signal.raise_signal(signal.SIGINT)
        return plain(model, batch, generator)

    loss.description = plain.description
    before = signal.getsignal(signal.SIGINT)
    net, record = run(path, loss=loss)
    assert signal.getsignal(signal.SIGINT) is before
    assert record.interrupted
    assert record.steps == 33
    assert "Interrupted after 33 of 240 steps: saved to" in capsys.readouterr().out
    assert_same_weights(net, run(steps=33)[0])
    resumed, record = run(path, resume=True)
    assert not record.interrupted
    assert_same_weights(resumed, uninterrupted[0])


def test_fit_works_outside_the_main_thread():
    results = []
    thread = threading.Thread(target=lambda: results.append(run(steps=3)[1].steps))
    thread.start()
    thread.join()
    assert results == [3]


# Checkpoints of a run


def test_resume_without_a_file_starts_and_with_one_extends(tmp_path, uninterrupted):
    path = tmp_path / "deep" / "run.safetensors"
    run(path, steps=50, resume=True)
    run(path, steps=113, resume=True)
    net, record = run(path, resume=True, net=make_net(seed=5))  # the first weights come from the file
    assert_same_weights(net, uninterrupted[0])
    assert record.losses == uninterrupted[1].losses
    again, record = run(path, resume=True)
    assert_same_weights(again, net)
    assert record.steps == STEPS
    assert os.listdir(path.parent) == ["run.safetensors"]


def read_with_rotations(path: Path | None, steps: int, seed: int = 0) -> tuple[ViT, train.TrainRecord]:
    """Train a tiny classifier with learned rotations, whose weights stand in two groups of the optimizer."""
    torch.manual_seed(seed)
    config = ViTConfig(4, 2, 2, num_classes=3, hidden_size=16, depth=2, num_heads=2, positions="mixed", pool="mean")
    model, generator = ViT(config), torch.Generator().manual_seed(5)
    images, labels = torch.randn(24, 2, 4, 4, generator=generator), torch.randint(3, (24,), generator=generator)
    record = fit(
        model, (images, labels), classification_loss, steps=steps, batch_size=8, lr=1e-2, weight_decay=0.1, warmup=5,
        ema=0.9, checkpoint=path, every=7, resume=path is not None, progress=False,
    )  # fmt: skip
    return model, record


def test_a_run_with_weights_that_do_not_decay_goes_on_bit_for_bit(tmp_path):
    path = tmp_path / "run.safetensors"
    whole, wanted = read_with_rotations(None, 23)
    stopped, _ = read_with_rotations(path, 9)
    tensors, _ = checkpoint_module.read_tensors(path, checkpoint_module.TRAINING)
    names = [name for name, _ in stopped.named_parameters()]
    assert {"ropes.0.freqs", "ropes.1.freqs"} < set(names)
    for kind in ("model", "exp_avg", "exp_avg_sq", "step", "average"):
        assert {name for name in tensors if name.startswith(f"{kind}/")} == {f"{kind}/{name}" for name in names}
    resumed, record = read_with_rotations(path, 23, seed=1)  # the first weights come from the file
    assert_same_weights(resumed, whole)
    assert record.losses == wanted.losses


def test_without_resume_a_run_starts_afresh(tmp_path):
    path = tmp_path / "run.safetensors"
    run(path, steps=30)
    first = path.read_bytes()
    _, record = run(path, steps=20)
    assert len(record.losses) == 20
    assert path.read_bytes() != first


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lr": 0.5}, "lr is 0.01 in the file and 0.5 here"),
        ({"seed": 3}, "seed is 0 in the file and 3 here"),
        ({"net": Net(width=9)}, r"labels.weight is \(4, 8\) in the file and \(4, 9\) in the model"),
        (
            {"net": nn.Sequential(Net())},
            r"lacks 0.frozen, .* more; the model lacks frozen, .* more; model is",
        ),
        ({"loss": denoising_loss(Diffusion.linear(100), label_dropout=0.2)}, "loss is .*Diffusion"),
        ({"steps": 20}, "already at step 30"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path_factory, options, sentence):
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    run(path, steps=30)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=sentence):
        run(path, resume=True, **options)
    assert path.read_bytes() == before


def test_other_data_are_refused(tmp_path):
    path, loss = tmp_path / "run.safetensors", denoising_loss(RectifiedFlow())
    images, labels = make_data()
    fit(make_net(), (images, labels), loss, steps=2, checkpoint=path, progress=False)
    with pytest.raises(CheckpointError, match="data is"):
        fit(make_net(), (images + 1, labels), loss, steps=4, checkpoint=path, resume=True, progress=False)


def damaged_files(whole: bytes) -> dict[str, bytes]:
    from safetensors.torch import save

    return {
        "empty": b"",
        "seven bytes": whole[:7],
        "cut in the header": whole[:200],
        "cut in the numbers": whole[:-100],
        "one byte short": whole[:-1],
        "too long": whole + b"!",
        "header spoilt": whole[:20] + b"\xff\xff" + whole[22:],
        "pickle": b"\x80\x04\x95" + bytes(300),
        "zip": b"PK\x03\x04" + bytes(300),
        "text": b"these are not the weights you are looking for",
        "foreign": save({"weight": torch.zeros(3)}),
        "foreign with a note": save({"weight": torch.zeros(3)}, {"format": "pt"}),
        "huge header": (2**63).to_bytes(8, "little") + b"{" + bytes(100),
    }


def test_damaged_and_foreign_files_get_a_sentence_and_stay_as_they_are(tmp_path):
    training, model = tmp_path / "run.safetensors", tmp_path / "model.safetensors"
    run(training, steps=5)
    save_model(model, make_net(), {"width": 8})
    for path, read in [(training, lambda: run(training, resume=True)), (model, lambda: load_model(model, build))]:
        for name, content in damaged_files(path.read_bytes()).items():
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=path.name) as caught:
                read()
            assert any(word in str(caught.value) for word in ("expected", "cut off", "damaged")), name
            assert path.read_bytes() == content, name
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "run.safetensors"]


# Shipped models


def build(config: dict) -> Net:
    return Net(config["width"])


def test_a_saved_model_comes_back(tmp_path):
    path, net = tmp_path / "net.safetensors", make_net()
    run(steps=10, net=net)
    save_model(path, net, {"width": 8, "levels": (1, 2)}, half=False)
    assert_same_weights(load_model(path, build), net)
    assert read_config(path) == {"width": 8, "levels": [1, 2]}
    full = path.stat().st_size
    save_model(path, net, {"width": 8})
    torch.manual_seed(4)
    before = torch.get_rng_state()
    back = load_model(path, build)
    assert torch.equal(torch.get_rng_state(), before)
    assert not back.training
    assert path.stat().st_size < full
    for name, tensor in back.state_dict().items():
        assert tensor.dtype == net.state_dict()[name].dtype
        torch.testing.assert_close(tensor, net.state_dict()[name], rtol=1e-3, atol=1e-4)


def test_wrong_models_and_configurations_get_a_sentence(tmp_path):
    path, net = tmp_path / "net.safetensors", make_net()
    with pytest.raises(FileNotFoundError, match="no checkpoint at"):
        load_model(path, build)
    with pytest.raises(TypeError, match="only numbers, strings"):
        save_model(path, net, {"device": torch.device("cpu")})
    with torch.no_grad():
        net.frozen.fill_(1e6)
    with pytest.raises(ValueError, match="frozen holds numbers that are not finite in float16"):
        save_model(path, net, {})
    assert not path.exists()
    save_model(path, make_net(), {"width": 8})
    with pytest.raises(CheckpointError, match=r"does not fit .* inner.weight is \(8, 3\)"):
        load_model(path, lambda config: Net(9))
    with pytest.raises(
        CheckpointError,
        match=r"file lacks weight, bias; the model lacks frozen, inner.bias, .* more",
    ):
        load_model(path, lambda config: nn.Linear(2, 2))
    with pytest.raises(CheckpointError, match="a model written by save_model; expected a training state"):
        run(path, resume=True)
    run(path, steps=1)
    with pytest.raises(CheckpointError, match="a training state written by fit; expected a model"):
        load_model(path, build)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "net.safetensors"
    save_model(path, make_net(), {"width": 8})
    before = path.read_bytes()

    def full_disk(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        save_model(path, make_net(seed=2), {"width": 8})
    assert path.read_bytes() == before


# Processes that are killed


def be_killed(how: str, path: Path) -> None:
    """Train until somebody kills this process, or until it kills itself during its third save."""
    torch.set_num_threads(1)
    saves = []

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if how == "while-writing":
        fsync = os.fsync

        def cut(handle: int) -> None:
            saves.append(1)
            if len(saves) == 5:  # two calls a save, the file and its folder: this is the third save
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                kill()
            fsync(handle)

        os.fsync = cut
    if how == "before-replacing":
        replace = os.replace

        def never(source: Path, target: Path) -> None:
            saves.append(1)
            if len(saves) == 3:
                kill()
            replace(source, target)

        os.replace = never
    plain, calls = denoising_loss(Diffusion.cosine(100), label_dropout=0.2), []

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        calls.append(1)
        print(len(calls), flush=True)
        return plain(model, batch, generator)

    loss.description = plain.description
    run(path, loss=loss, steps=STEPS if how != "while-training" else 10**6)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_runs_continue_bit_for_bit(tmp_path, uninterrupted):
    ways = {"while-training": tmp_path / "a", "while-writing": tmp_path / "b", "before-replacing": tmp_path / "c"}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    processes = {
        how: subprocess.Popen(
            [sys.executable, __file__, how, str(path)], stdout=subprocess.PIPE, text=True, env=environment
        )
        for how, path in ways.items()
    }
    for how, process in processes.items():
        assert process.stdout is not None
        for line in process.stdout:
            if how == "while-training" and int(line) >= 70:
                process.send_signal(signal.SIGKILL)
                break
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    for how, path in ways.items():
        _, config = checkpoint_module.read_tensors(path, checkpoint_module.TRAINING)
        part = path.with_name(path.name + ".part")
        if how == "while-training":
            assert config["step"] >= 60
        else:
            assert config["step"] == 40, "the third save, of step 60, must not have happened"
            assert part.exists()
        steps = max(STEPS, config["step"] + 10)  # a slow machine may notice late that it should kill
        net, record = run(path, resume=True, steps=steps)
        expected, expected_record = uninterrupted if steps == STEPS else run(steps=steps)
        assert_same_weights(net, expected)
        assert record.losses == expected_record.losses
        assert not part.exists()


if __name__ == "__main__":
    be_killed(sys.argv[1], Path(sys.argv[2]))
