"""Experiments that several machines share: every run is somebody's, and the parts come together or are refused."""

import json
import shutil

import pytest
import torch

from lesson_lib import results
from lesson_lib.experiments import __main__ as command
from lesson_lib.experiments.run import Experiment, merge, run, share_of
from lesson_lib.setup import Budget

SMOKE = Budget("smoke", torch.device("cpu"))
GPU = Budget("gpu", torch.device("cpu"))
SEEDS = 5


def experiment(calls=None, variants=("a", "b/c", "d"), steps=1, sources=(results,)):
    """A toy whose outcome is known."""

    def measure(variant, seed, configuration, budget):
        if calls is not None:
            calls.append((seed, variant))
        return {"score": seed + 10.0 * variants.index(variant)}

    metrics = {"score": "a number"}
    return Experiment("toy", "Which?", variants, metrics, lambda budget: {"steps": steps}, measure, sources)


def machines(folder, count, toy, budget=SMOKE, only=None):
    """Run the shares of several machines, each in a folder of its own; return the folders of parts."""
    places = [folder / f"machine{number}" for number in range(1, count + 1)]
    for number, place in enumerate(places, 1):
        if only is None or number in only:
            share = (number, count)
            record = run(toy, budget, SEEDS, place / "results", place / "parts", progress=False, share=share)
            assert (record is not None) == (count == 1)
            assert (place / "results").exists() == (count == 1)
    return [place / "parts" for place in places]


@pytest.mark.parametrize("variants", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_shares_are_balanced_and_cover_everything_once(variants, count):
    toy = experiment(variants=tuple("abcdefgh"[:variants]))
    shares = [share_of(toy, SEEDS, (number, count)) for number in range(1, count + 1)]
    everything = [(seed, variant) for seed in range(SEEDS) for variant in toy.variants]
    assert sorted(one for share in shares for one in share) == sorted(everything)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert shares == [share_of(toy, SEEDS, (number, count)) for number in range(1, count + 1)]
    assert share_of(toy, SEEDS, (1, 1)) == everything
    for variant in toy.variants:  # a slow variant must not become one machine's burden
        mine = [sum(one[1] == variant for one in share) for share in shares]
        assert max(mine) - min(mine) <= 1


@pytest.mark.parametrize(
    ("share", "sentence"),
    [((0, 4), "from 1 to n"), ((5, 4), "from 1 to n"), ((1, 16), "15 runs with 5 seeds: too few for 16 machines")],
)
def test_wrong_shares_get_a_sentence(share, sentence):
    with pytest.raises(ValueError, match=sentence):
        share_of(experiment(), SEEDS, share)


@pytest.mark.parametrize("count", [2, 4])
def test_merged_machines_give_the_record_of_one(count, tmp_path, capsys):
    calls = []
    folders = machines(tmp_path, count, experiment(calls))
    assert sorted(calls) == sorted(share_of(experiment(), SEEDS, (1, 1)))
    record = merge(experiment(calls), SMOKE, folders, SEEDS, tmp_path / "out", tmp_path / "parts")
    assert len(calls) == 15, "merging must not run anything"
    assert "toy: 15 parts copied, 0 were here already" in capsys.readouterr().out
    alone = run(experiment(), SMOKE, SEEDS, tmp_path / "alone", tmp_path / "others", progress=False)
    assert record.variants == alone.variants
    assert results.load("toy", tmp_path / "out") == record


def test_what_is_missing_is_named_and_can_come_later(tmp_path, capsys):
    toy = experiment()
    folders = machines(tmp_path, 3, toy)
    out, parts = tmp_path / "out", tmp_path / "parts"
    assert merge(toy, SMOKE, folders[:2], SEEDS, out, parts) is None
    assert not out.exists()
    told = capsys.readouterr().out
    assert "toy: no record yet, 5 of 15 runs are not here: " in told
    assert merge(toy, SMOKE, [folders[2] / "toy"], SEEDS, out, parts).seeds == list(range(SEEDS))
    assert merge(toy, SMOKE, folders, SEEDS, out, parts) is not None
    assert "toy: 0 parts copied, 15 were here already" in capsys.readouterr().out


def test_machines_with_one_folder_need_no_merging(tmp_path):
    for number in (1, 2):
        record = run(experiment(), SMOKE, SEEDS, tmp_path / "out", tmp_path, progress=False, share=(number, 2))
    assert record == results.load("toy", tmp_path / "out")


@pytest.mark.parametrize(
    ("theirs", "budget", "sentence"),
    [
        ({"steps": 7}, SMOKE, r"a\.seed1\.json was made with steps = 7 \(here 1\)"),
        ({"sources": (results, json)}, SMOKE, r"a\.seed1\.json was made by another version of the library's sources"),
        ({}, GPU, r"a\.seed1\.json was made with budget gpu \(here smoke\)"),
        ({"steps": 7}, GPU, r"with budget gpu \(here smoke\) and with steps = 7 \(here 1\)"),
    ],
)
def test_parts_made_otherwise_are_refused_by_name_and_nothing_is_taken(theirs, budget, sentence, tmp_path):
    good = machines(tmp_path / "good", 2, experiment(), only=[1])[0]
    bad = machines(tmp_path / "bad", 2, experiment(**theirs), budget, only=[2])[1]
    with pytest.raises(ValueError, match=sentence):
        merge(experiment(), SMOKE, [good, bad], SEEDS, tmp_path / "out", tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    assert not (tmp_path / "out").exists()


def test_damaged_old_and_foreign_files_are_refused(tmp_path):
    folder = machines(tmp_path, 1, experiment())[0]
    path = folder / "toy" / "a.seed1.json"
    whole = json.loads(path.read_text())
    old = {key: value for key, value in whole.items() if key not in ("configuration", "sources_sha256", "budget")}
    for content, sentence in [
        (path.read_text()[:40], "is damaged"),
        ("[1, 2]", "is no part of an experiment"),
        (json.dumps({**old, "key": "other"}), "another configuration, budget or library"),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"a\.seed1\.json .*{sentence}"):
            merge(experiment(), SMOKE, [folder], SEEDS, tmp_path / "out", tmp_path / "parts")
    path.write_text(json.dumps(old))  # parts that were made before they said what they were made with
    assert merge(experiment(), SMOKE, [folder], SEEDS, tmp_path / "out", tmp_path / "parts") is not None


def test_a_folder_without_parts_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    folder = machines(tmp_path, 1, experiment())[0]
    shutil.move(folder / "toy", folder / "another")
    for place in (tmp_path / "empty", tmp_path / "nowhere", folder / "another"):
        with pytest.raises(FileNotFoundError, match=f"no parts of toy in .*{place.name}"):
            merge(experiment(), SMOKE, [place], SEEDS, tmp_path / "out", tmp_path / "parts")


# The command line


@pytest.fixture
def toy_command(tmp_path, monkeypatch):
    """Return the command line, which now knows the toy, on a machine that is a folder of the test."""
    monkeypatch.setattr(command, "_named", lambda name, parser: [experiment()])

    def use(place, *arguments):
        folders = ["--out", str(tmp_path / place / "results"), "--parts", str(tmp_path / place / "parts")]
        return command.main(["toy", "--budget", "smoke", *folders, *arguments])

    return use


def test_the_command_line_splits_and_merges(toy_command, tmp_path, capsys):
    for number in (1, 2):
        assert toy_command(f"machine{number}", "--shard", f"{number}/2") == 0
    assert "score" not in capsys.readouterr().out
    assert toy_command("here", "--merge", str(tmp_path / "machine1/parts"), str(tmp_path / "machine2/parts")) == 0
    assert "mean ± 95 % t-interval, 5 seeds" in capsys.readouterr().out
    assert (tmp_path / "here" / "results" / "toy.json").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shard", "0/4"], "write i/n with i from 1 to n, such as 1/4"),
        (["--shard", "quarter"], "'quarter' is no share"),
        (["--shard", "1/99"], "too few for 99 machines"),
        (["--shard", "1/2", "--merge", "there"], "give one of them"),
        (["--merge", "nowhere"], "no parts of toy in nowhere"),
    ],
)
def test_wrong_command_lines_get_a_sentence(arguments, sentence, toy_command, capsys):
    with pytest.raises(SystemExit):
        toy_command("here", *arguments)
    assert sentence in capsys.readouterr().err
