"""Several processes train as one does: the same losses, files that any number continues, and a clear end when one dies.

Run as a script under torchrun (`torchrun --nproc-per-node 2 tests/test_distributed.py JOB FOLDER`) it is one process.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lesson_lib import ROOT, processes
from lesson_lib.checkpoint import TRAINING, CheckpointError, load_model, read_tensors, save_model
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.experiments import cost, train_dit
from lesson_lib.noise import Diffusion
from lesson_lib.train import classification_loss, denoising_loss, fit
from lesson_lib.vit import ViT, ViTConfig

STEPS, EVERY, KILLED_AT = 30, 8, 21
PATIENCE = 600  # seconds; idle, a job takes six to fifteen
CONFIG = DiTConfig(4, 2, 2, hidden_size=32, depth=2, num_heads=2, num_classes=3)
COMMAND = ["--data", "shapes", "--limit", "32", "--preset", "shapes16", "--size", "16", "--batch-size", "8"]


def make_model(seed: int = 0) -> DiT:
    torch.manual_seed(seed)
    model = DiT(CONFIG)
    for weight in model.parameters():  # zeros would keep most of the network out of the first steps
        weight.data += 0.1 * torch.randn_like(weight)
    return model


def make_data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(48, 2, 4, 4, generator=generator), torch.randint(3, (48,), generator=generator)


LOSS = denoising_loss(Diffusion.linear(100, variance="learned"), label_dropout=0.2)


def run(path: Path | None = None, *, model: nn.Module | None = None, loss=LOSS, data=None, **options):
    """Train the tiny DiT with the settings that all tests share."""
    model = make_model() if model is None else model
    settings = dict(
        steps=STEPS,
        batch_size=12,
        lr=1e-3,
        weight_decay=0.01,
        warmup=10,
        clip=0.5,
        ema=0.9,
        every=EVERY,
        progress=False,
    )
    return model, fit(model, data or make_data(), loss, checkpoint=path, **{**settings, **options})


@torch.no_grad()
def answers(model: nn.Module) -> Tensor:
    """Return what a trained model says: its weights may differ where they change nothing, as the keys' biases do."""
    images, labels = make_data()
    return model.eval()(images, torch.linspace(0, 990, len(images)), labels)


# What runs inside the processes


def message_of(function, *arguments, **options) -> str:
    """Return what a call that must fail says."""
    try:
        function(*arguments, **options)
    except (ValueError, CheckpointError) as error:
        return str(error)
    return "nothing was raised"


def compare(folder: Path, device: torch.device) -> dict:
    """Train in every way that the tests compare with one process, and return what cannot be seen in files."""
    me, told = processes.index(), {}
    for name, options in {"together": {}, "sharded": {"shard": True}}.items():
        # Only the first process starts from the right weights: it gives them to the others.
        model, record = run(folder / f"{name}.safetensors", model=make_model(seed=me), **options)
        save_model(folder / f"{name}-model.safetensors", model, dataclasses.asdict(CONFIG), half=False)
        told[name] = record.losses
        path = folder / f"killed-{name}.safetensors"
        told[f"killed, {name}"] = run(path, resume=True, **options)[1].losses
        told[f"alone, {name}"] = run(folder / f"alone-{name}.safetensors", resume=True, **options)[1].losses
    told["share"] = sum(w.to_local().numel() for w in model.parameters()) / sum(w.numel() for w in model.parameters())

    seen = []

    def counted(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        seen.append(tuple(len(rows) for rows in processes.own_rows(*batch)))
        if me == 1 and len(seen) == 7:
            signal.raise_signal(signal.SIGINT)
        return LOSS(model, batch, generator)

    _, record = run(loss=counted)
    told["rows"], told["interrupted"] = seen[0], [record.interrupted, record.steps]
    torch.manual_seed(3)
    images = make_data()[0]
    vit = ViT(ViTConfig(image_size=4, patch_size=2, in_channels=2, num_classes=3, hidden_size=32, depth=1, num_heads=2))
    told["classified"] = run(model=vit, loss=classification_loss, steps=5)[1].losses
    told["batch"] = message_of(run, batch_size=5)
    told["data"] = message_of(run, data=(images + me, make_data()[1]))
    told["blocks"] = message_of(run, model=nn.Linear(2, 2), shard=True)
    told["damaged"] = message_of(run, folder / "damaged.safetensors", resume=True)
    command = [*COMMAND, "--checkpoint", str(folder / "command.safetensors"), "--every", "2"]
    told["status"] = [train_dit.main([*command, "--steps", "3"])]
    told["status"] += [train_dit.main([*command, "--steps", "5", "--resume", "--shard"])]
    return told


def be_killed(folder: Path, busy: bool) -> None:
    """Train until the second process kills itself; where busy, the first is not waiting for the network just then."""
    calls = []

    def loss(model: nn.Module, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        calls.append(1)
        if len(calls) == KILLED_AT and processes.index() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(calls) == KILLED_AT and busy:
            time.sleep(60)
        return LOSS(model, batch, generator)

    loss.description = LOSS.description
    run(folder / "killed.safetensors", loss=loss, steps=10**6)


def main(job: str, folder: Path) -> None:
    torch.set_num_threads(1)
    with processes.start_processes() as device:
        if job == "compare":
            told = compare(folder, device)
            (folder / f"told{processes.index()}.json").write_text(json.dumps(told))
        else:
            be_killed(folder, job == "killed-while-busy")


# What pytest runs


def start(job: str, folder: Path) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", __file__, job]
    return subprocess.Popen(
        [*command, str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


pytestmark = [
    pytest.mark.timeout(2 * PATIENCE),
    pytest.mark.skipif(
        not hasattr(signal, "SIGKILL") or not torch.distributed.is_gloo_available(), reason="needs POSIX and gloo"
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone() -> tuple[nn.Module, list[float]]:
    """One process, never interrupted: the model after STEPS, and the losses of a few steps more."""
    return run()[0], run(steps=STEPS + 5)[1].losses


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> dict[str, tuple[Path, int, str]]:
    """Two jobs whose second process was killed: the file, the status and the output of each."""
    folder = tmp_path_factory.mktemp("killed")
    jobs = {job: start(job, folder / job) for job in ("killed-while-waiting", "killed-while-busy")}
    found = {}
    for job, process in jobs.items():
        output, _ = process.communicate(timeout=PATIENCE)
        found[job] = (folder / job / "killed.safetensors", process.returncode, output)
    return found


@pytest.fixture(scope="module")
def together(tmp_path_factory, killed) -> tuple[Path, list[dict]]:
    """The folder that two processes filled, and what each of them told."""
    folder = tmp_path_factory.mktemp("together")
    for name in ("together", "sharded"):
        shutil.copy(killed["killed-while-waiting"][0], folder / f"killed-{name}.safetensors")
        run(folder / f"alone-{name}.safetensors", steps=11)
    (folder / "damaged.safetensors").write_bytes(b"these are not the weights you are looking for")
    job = start("compare", folder)
    output, _ = job.communicate(timeout=PATIENCE)
    assert job.returncode == 0, output
    (folder / "output.txt").write_text(output)
    return folder, [json.loads((folder / f"told{number}.json").read_text()) for number in range(2)]


@pytest.mark.parametrize("how", ["together", "sharded"])
def test_two_processes_give_the_losses_and_the_model_of_one(how, together, alone):
    folder, told = together
    assert told[0][how] == told[1][how]
    assert told[0][how] == pytest.approx(alone[1][:STEPS], abs=1e-5, rel=0)
    assert sum(alone[1][-5:]) < sum(alone[1][:5])
    model = load_model(folder / f"{how}-model.safetensors", lambda config: DiT(CONFIG))
    torch.testing.assert_close(answers(model), answers(alone[0]), rtol=0, atol=1e-5)


def test_two_processes_classify_as_one_does(together):
    torch.manual_seed(3)
    vit = ViT(ViTConfig(image_size=4, patch_size=2, in_channels=2, num_classes=3, hidden_size=32, depth=1, num_heads=2))
    _, record = run(model=vit, loss=classification_loss, steps=5)
    assert together[1][0]["classified"] == pytest.approx(record.losses, abs=1e-5, rel=0)


def test_each_process_has_its_rows_and_where_sharded_its_weights(together):
    assert [told["rows"] for told in together[1]] == [[6, 6], [6, 6]]
    shares = [told["share"] for told in together[1]]
    assert sum(shares) == pytest.approx(1)
    assert all(0.45 < share < 0.55 for share in shares)


@pytest.mark.parametrize("how", ["together", "sharded"])
@pytest.mark.parametrize("origin", ["alone", "killed"])
def test_two_processes_continue_a_file_of_any_number(origin, how, together, alone):
    assert together[1][0][f"{origin}, {how}"] == pytest.approx(alone[1][:STEPS], abs=1e-5, rel=0)


@pytest.mark.parametrize("how", ["together", "sharded", "killed-together"])
def test_one_process_continues_the_file_of_two(how, together, alone, tmp_path):
    path = shutil.copy(together[0] / f"{how}.safetensors", tmp_path / "run.safetensors")
    _, config = read_tensors(path, TRAINING)
    assert config["step"] == STEPS
    _, record = run(path, resume=True, steps=STEPS + 5)
    assert record.losses == pytest.approx(alone[1], abs=1e-5, rel=0)


@pytest.mark.parametrize("job", ["killed-while-waiting", "killed-while-busy"])
def test_a_killed_process_ends_the_job_with_a_sentence_and_one_process_goes_on(job, killed, alone):
    path, status, output = killed[job]
    assert status != 0
    saved = KILLED_AT // EVERY * EVERY
    told = re.findall(r"^Process .*$", output, re.MULTILINE)
    assert len(told) == 1, output
    assert told[0].startswith("Process 0 of 2: ")
    assert "another process" in told[0]
    assert f"{path} holds step {saved} of 1000000: start the job again with resume=True (--resume)" in told[0]
    assert "gloo" not in output.replace(told[0], ""), "a stack of network errors buries the sentence"
    _, record = run(shutil.copy(path, path.with_stem("continued")), resume=True)
    assert record.losses == pytest.approx(alone[1][:STEPS], abs=1e-5, rel=0)


def test_an_interrupt_of_one_process_ends_all_after_the_same_step(together):
    assert [told["interrupted"] for told in together[1]] == [[True, 7], [True, 7]]
    assert (together[0] / "output.txt").read_text().count(f"Interrupted after 7 of {STEPS} steps") == 1


def test_wrong_calls_get_the_same_sentence_on_all_processes(together):
    for told in together[1]:
        assert "batch_size is 5, the rows of all 2 processes together, and must divide by 2; 4 does" in told["batch"]
        assert "all processes must run the same command on the same data" in told["data"]
        assert told["data"].startswith("data is [")
        assert "Linear has no model.blocks" in told["blocks"]
        assert "damaged.safetensors is no safetensors file" in told["damaged"]


# The command


def test_the_command_trains_on_two_processes_and_its_model_loads(together):
    assert [told["status"] for told in together[1]] == [[0, 0], [0, 0]]
    path = together[0] / "command.safetensors"
    _, config = read_tensors(path, TRAINING)
    assert config["step"] == 5
    model = train_dit.load_trained(train_dit.averaged_path(path))
    assert (model.config.input_size, model.config.num_classes) == (16, 24)
    output = (together[0] / "output.txt").read_text()
    assert output.count("The averaged model: ") == 2, "only the first process of each run prints"


def test_the_command_takes_pictures_latents_and_files_of_latents(tmp_path):
    device = torch.device("cpu")
    images, labels, classes = train_dit.load_data("digits", 8, 30, None, device)
    assert images.shape == (30, 1, 8, 8)
    assert classes == 10
    latents, _, classes = train_dit.load_data("shapes", 32, 6, "vae-shapes", device)
    assert latents.shape == (6, 4, 8, 8)
    assert classes == 24
    path = tmp_path / "latents.safetensors"
    save_file({"latents": latents.half(), "labels": torch.arange(6)}, path)
    found, labels, classes = train_dit.load_data(str(path), 32, 4, None, device)
    assert torch.equal(found, latents[:4].half())
    assert labels.tolist() == [0, 1, 2, 3]
    config = train_dit.config_for("S/2", found, classes)
    assert (config.input_size, config.in_channels, config.num_classes, config.depth) == (8, 4, 4, 12)
    half = run(model=DiT(CONFIG), data=(make_data()[0].half(), make_data()[1]), steps=2)[1].losses
    assert all(map(math.isfinite, half))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--preset", "M/2", "--data", "shapes"], "there is no DiT-M/2; .*the course's own sizes are shapes16"),
        (["--preset", "XL/3", "--data", "digits"], "there is no DiT-XL/3"),
        (["--preset", "B/2", "--data", "nowhere.safetensors"], "there is no file nowhere.safetensors"),
        (["--preset", "B/2", "--data", "latents.pt"], "write latents to a safetensors file"),
        (["--preset", "B/2", "--data", "./nowhere"], "there is no folder ./nowhere"),
        (
            ["--preset", "B/2", "--data", "shapes", "--vae", "best"],
            "--vae best is neither a file nor one of vae-shapes",
        ),
        (["--preset", "latent8", "--data", "shapes", "--batch-size", "0"], "batch_size is 0"),
    ],
)
def test_wrong_commands_get_a_sentence(arguments, sentence, tmp_path, capsys):
    command = [*arguments, "--limit", "8", "--steps", "1", "--checkpoint", str(tmp_path / "run.safetensors")]
    assert train_dit.main(command) == 2
    assert re.search(f"train_dit: error: .*{sentence}", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"weight": torch.zeros(3)}, "holds weight; the tensors latents"),
        ({"latents": torch.zeros(3, 4, 8, 8), "labels": torch.zeros(2)}, r"labels \(2,\); it should be"),
        ({"latents": torch.zeros(3, 4, 8, 8), "labels": -torch.ones(3)}, "none below 0"),
        ({"latents": torch.zeros(3, 4, 8, 6), "labels": torch.zeros(3)}, "reads squares; these are 8×6"),
    ],
)
def test_wrong_files_of_latents_get_a_sentence(tensors, sentence, tmp_path, capsys):
    path = tmp_path / "latents.safetensors"
    save_file(tensors, path)
    command = ["--preset", "B/2", "--data", str(path), "--checkpoint", str(tmp_path / "run.safetensors")]
    assert train_dit.main(command) == 2
    assert re.search(sentence, capsys.readouterr().err)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        train_dit.load_data(str(path), 32, None, None, torch.device("cpu"))


def test_the_page_holds_what_the_command_computes():
    page = (ROOT / "lesson_lib" / "experiments" / "README.md").read_text()
    assert cost.table("B/2") in page
    assert cost.overview() in page
    assert cost.hours(1e15, 2, 1.0, 0.5) == pytest.approx(1000 / 3600)
    weights = cost.trained_weights(DiTConfig.paper("B/2"))
    assert weights == 130_315_808
    assert cost.state_bytes(weights, 8) == -(-20 * weights // 8)
    with pytest.raises(ValueError, match="does not divide by 7"):
        cost.table("B/2", gpus=7)


def test_what_is_counted_as_kept_grows_with_tokens_and_depth():
    config = DiTConfig.paper("S/8")
    once, deeper = cost.picture_bytes(config), cost.picture_bytes(dataclasses.replace(config, depth=24))
    finer = cost.picture_bytes(dataclasses.replace(config, patch_size=4))
    assert 1.9 < deeper / once < 2
    assert 3.5 < finer / once < 4


# Alone


def test_alone_nothing_is_split_or_sent():
    rows = torch.arange(5)
    assert processes.count() == 1
    assert processes.index() == 0
    assert processes.own_rows(rows, rows) == (rows, rows)
    assert processes.mean(rows) is rows
    assert processes.anywhere(True, torch.device("cpu")) is True
    assert processes.from_first(lambda: 3) == 3
    model = make_model()
    processes.shard(model, torch.device("cpu"))
    assert not processes.is_sharded(model)
    with processes.start_processes() as device:
        assert processes.count() == 1
        assert device.type in ("cpu", "cuda", "mps")
    before = signal.getsignal(signal.SIGTERM)
    with processes.stay_together(lambda: "never said"):
        assert signal.getsignal(signal.SIGTERM) is before


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
