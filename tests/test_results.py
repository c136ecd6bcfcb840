"""Records are whole and checked; intervals are the textbook's; a verdict claims no more than its intervals allow."""

import json
import math
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lesson_lib import evaluate, results
from lesson_lib.results import (
    Parts,
    Record,
    interval,
    load,
    proportion_interval,
    save,
    sources_sha256,
    summary,
)


def make(variants, seeds=None, x=None, metric="fd", **changes) -> Record:
    seeds = list(range(len(next(iter(variants.values()))))) if seeds is None else seeds
    fields = {
        "experiment": "toy", "title": "Which toy is better?", "metrics": {metric: "a distance"},
        "configuration": {"steps": 3}, "sources_sha256": "0" * 64, "hardware": "a CPU", "budget": "laptop",
        "seeds": seeds, "variants": {name: {metric: list(values)} for name, values in variants.items()},
        "seconds": 1.5, "peak_memory_mb": 20.0, "x": x,
    }  # fmt: skip
    return Record(**(fields | changes))


SMALL = {"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0, 4.5]}


class TestRecord:
    def test_comes_back_as_it_was_saved(self, tmp_path):
        for record in (make(SMALL), make({"a": [[1, 2], [3, 4]]}, x={"name": "steps", "values": [1, 2]})):
            path = save(record, tmp_path / "results")
            assert path == tmp_path / "results" / "toy.json"
            assert load("toy", tmp_path / "results") == record
            assert [file.name for file in (tmp_path / "results").iterdir()] == ["toy.json"]
            assert not [path for path in tmp_path.rglob("*.part") if path.is_file()]

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"seeds": [0, 1.0, 2]}, "seeds must be a list of integers"),
            ({"seeds": [0, True, 2]}, "seeds must be a list of integers"),
            ({"seeds": []}, "at least one"),
            ({"seeds": [0, 1, 1]}, "all different"),
            ({"seeds": [0, 1]}, "a list of 2, one entry a seed"),
            ({"experiment": "Toy/1"}, "lower-case"),
            ({"title": ""}, "title must be a text"),
            ({"hardware": None}, "hardware must be a text"),
            ({"sources_sha256": "abc"}, "64 hexadecimal"),
            ({"seconds": -1}, "seconds must be a finite number"),
            ({"seconds": "3"}, "seconds must be a finite number"),
            ({"peak_memory_mb": math.nan}, "peak_memory_mb must be a finite number"),
            ({"metrics": {}}, "at least one"),
            ({"metrics": ["fd"]}, "metrics must be a dictionary"),
            ({"configuration": None}, "configuration must be a dictionary"),
            ({"variants": {}}, "at least one variant"),
            ({"variants": {"a": {"other": [1, 2, 3]}}}, "exactly the metrics fd"),
            ({"variants": {"a": {"fd": [1.0, math.nan, 2.0]}}}, "finite numbers, got nan"),
            ({"variants": {"a": {"fd": [1.0, None, 2.0]}}}, "finite numbers, got None"),
            ({"variants": {"a": {"fd": [1.0, 2.0]}}}, "a list of 3, one entry a seed"),
            ({"x": {"name": "steps"}}, "x must be"),
            ({"x": {"name": "steps", "values": [1, 2]}}, "2 finite numbers a seed"),
        ],
    )
    def test_says_which_field_is_wrong(self, changes, words):
        fields = vars(make(SMALL)) | changes
        with pytest.raises(ValueError, match=words):
            Record(**fields)

    def test_memory_may_be_unknown(self):
        assert make(SMALL, peak_memory_mb=None).peak_memory_mb is None

    def test_a_swept_record_gives_values_and_bands(self):
        record = make({"a": [[1.0, 5.0], [3.0, 5.0]]}, x={"name": "steps", "values": [4, 8]})
        assert record.values("a", "fd", at=4) == [1.0, 3.0]
        assert record.curve("a", "fd")[0] == interval([1.0, 3.0])
        assert record.curve("a", "fd")[1] == (5.0, 5.0, 5.0)
        with pytest.raises(ValueError, match="steps = 4, 8"):
            record.values("a", "fd")
        with pytest.raises(ValueError, match="no metric 'fid'; it has fd"):
            record.values("a", "fid", at=4)
        with pytest.raises(ValueError, match="no variant 'c'; it has a"):
            record.values("c", "fd", at=4)
        with pytest.raises(ValueError, match="leave `at` out"):
            make(SMALL).values("a", "fd", at=4)
        with pytest.raises(ValueError, match="sweeps nothing"):
            make(SMALL).curve("a", "fd")


class TestFiles:
    def test_an_absent_record_lists_those_there_are(self, tmp_path):
        save(make(SMALL), tmp_path)
        with pytest.raises(FileNotFoundError, match=r"'other'.*there are: toy.*lesson_lib.experiments other"):
            load("other", tmp_path)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", "not JSON"),
            ('{"experiment": "toy", ', "not JSON"),
            ("[]", "one JSON object, got list"),
            ('{"experiment": "toy", "colour": 1}', "missing keys: title, .*unknown: colour"),
        ],
    )
    def test_a_damaged_file_says_so_and_stays(self, tmp_path, text, words):
        (tmp_path / "toy.json").write_text(text)
        with pytest.raises(ValueError, match=words):
            load("toy", tmp_path)
        assert (tmp_path / "toy.json").read_text() == text

    def test_the_file_bears_the_name_of_its_experiment(self, tmp_path):
        save(make(SMALL), tmp_path).rename(tmp_path / "other.json")
        with pytest.raises(ValueError, match="holds the experiment 'toy'"):
            load("other", tmp_path)

    def test_a_failed_save_leaves_the_old_file(self, tmp_path):
        path = save(make(SMALL), tmp_path / "results")
        before = path.read_bytes()
        with pytest.raises(TypeError):
            save(make(SMALL, configuration={"model": object()}), tmp_path / "results")
        with pytest.raises(ValueError):
            save(make(SMALL, configuration={"lr": math.inf}), tmp_path / "results")
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == ["toy.json"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a process that can be killed")
    def test_a_killed_save_leaves_a_whole_file(self, tmp_path):
        folder = tmp_path / "results"
        save(make(SMALL), folder)
        for delay in (0.02, 0.05, 0.1):
            process = multiprocessing.get_context("fork").Process(target=_save_for_ever, args=(folder,))
            process.start()
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            assert load("toy", folder).experiment == "toy"
            assert [file.name for file in folder.iterdir()] == ["toy.json"]

    def test_every_recorded_experiment_fits_the_schema(self):
        for path in results.RESULTS.iterdir():
            if path.name == "README.md":
                continue
            assert path.suffix == ".json", f"{path.name}: the folder holds records only"
            load(path.stem)


def _save_for_ever(folder: Path) -> None:
    size = 2000
    while True:
        size += 1
        save(make({"a": np.arange(size).tolist()}), folder)


class TestParts:
    def parts(self, tmp_path, *, steps=3, sources="1" * 64, budget="smoke"):
        return Parts("toy", {"steps": steps}, sources, budget, folder=tmp_path / "experiments")

    def test_resume_and_collect(self, tmp_path):
        parts = self.parts(tmp_path)
        assert not parts.done("a/b c", 0)
        for seed in (0, 1):
            parts.store("a/b c", seed, {"fd": seed + 0.5}, seconds=2.0, peak_memory_mb=10.0 + seed)
        assert parts.done("a/b c", 0)
        again = self.parts(tmp_path)
        with pytest.raises(ValueError, match="1 of 3 runs are not done yet: a/b c with seed 2"):
            again.collect("Toy?", {"fd": "a distance"}, ["a/b c"], [0, 1, 2])
        again.store("a/b c", 2, {"fd": 2.5}, seconds=2.0, peak_memory_mb=math.nan)
        record = again.collect("Toy?", {"fd": "a distance"}, ["a/b c"], [0, 1, 2])
        assert record.variants == {"a/b c": {"fd": [0.5, 1.5, 2.5]}}
        assert (record.seconds, record.peak_memory_mb, record.budget) == (6.0, 11.0, "smoke")
        assert record.configuration == {"steps": 3}
        assert record.hardware == results.hardware()

    def test_other_configuration_sources_or_budget_starts_again(self, tmp_path):
        self.parts(tmp_path).store("a", 0, {"fd": 1.0}, seconds=1.0, peak_memory_mb=1.0)
        assert self.parts(tmp_path).done("a", 0)
        assert not self.parts(tmp_path, steps=4).done("a", 0)
        assert not self.parts(tmp_path, sources="2" * 64).done("a", 0)
        assert not self.parts(tmp_path, budget="laptop").done("a", 0)

    def test_half_a_part_counts_as_not_done(self, tmp_path):
        parts = self.parts(tmp_path)
        parts.store("a", 0, {"fd": 1.0}, seconds=1.0, peak_memory_mb=1.0)
        (file,) = parts.folder.iterdir()
        for text in ("", file.read_text()[:40], "[1, 2]"):
            file.write_text(text)
            assert not parts.done("a", 0)

    def test_variants_with_like_names_keep_apart(self, tmp_path):
        parts = self.parts(tmp_path)
        for value, variant in enumerate(("a/b", "a%2Fb", "a b", "a.b")):
            parts.store(variant, 0, {"fd": float(value)}, seconds=1.0, peak_memory_mb=1.0)
        for value, variant in enumerate(("a/b", "a%2Fb", "a b", "a.b")):
            assert parts.read(variant, 0)["metrics"] == {"fd": value}

    def test_a_run_without_a_metric_is_refused(self, tmp_path):
        parts = self.parts(tmp_path)
        parts.store("a", 0, {"other": 1.0}, seconds=1.0, peak_memory_mb=1.0)
        with pytest.raises(ValueError, match="finite numbers, got None"):
            parts.collect("Toy?", {"fd": "a distance"}, ["a"], [0])


def test_sources_hash_names_the_code_and_nothing_else():
    assert sources_sha256(results, evaluate) == sources_sha256(evaluate, results, results)
    assert sources_sha256(results) != sources_sha256(evaluate)
    assert len(sources_sha256(results)) == 64


class TestIntervals:
    @given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
    def test_mean_interval_is_the_textbooks(self, values):
        mean, low, high = interval(values)
        spread = np.std(values, ddof=1) / math.sqrt(len(values))
        half = scipy.stats.t.ppf(0.975, len(values) - 1) * spread
        np.testing.assert_allclose([mean, low, high], np.mean(values) + half * np.array([0, -1, 1]), atol=1e-6)

    def test_one_value_has_no_interval(self):
        with pytest.raises(ValueError, match="at least two"):
            interval([1.0])

    def test_wilson_is_scipys(self):
        for successes, trials in ((0, 5), (5, 5), (3, 7), (95, 100), (999, 1000)):
            wanted = scipy.stats.binomtest(successes, trials).proportion_ci(method="wilson")
            np.testing.assert_allclose(
                proportion_interval(successes, trials), [successes / trials, wanted.low, wanted.high], atol=1e-12
            )

    def test_a_share_needs_trials(self):
        for successes, trials in ((0, 0), (3, 2), (-1, 2)):
            with pytest.raises(ValueError, match="0 ≤ successes ≤ trials"):
                proportion_interval(successes, trials)


def verdict(*given, **options):
    """Return the verdict as one line."""
    return " ".join(results.verdict(*given, **options).split())


CLAIM, NO_CLAIM = " is lower than ", "no difference is established at this scale"


class TestVerdict:
    def test_it_is_folded_between_words(self):
        lines = results.verdict(make({"cross-attention " * 9: [1.0, 2.0], "b": [5.0, 6.5]}), "fd").split("\n")
        assert len(lines) > 1
        assert all(len(line) <= 96 and not line.endswith("-") for line in lines)

    def test_clear_separation_is_claimed_with_its_numbers(self):
        words = verdict(make({"heun": [1.0, 2.0, 3.0], "euler": [2.0, 3.0, 4.5]}), "fd", names={"heun": "Heun"})
        assert words == (
            "fd: Heun (2) is lower than euler (3.17) by 1.17 [0.45, 1.88] "
            "(95 % t-interval of the paired difference, 3 seeds)."
        )

    def test_overlap_is_not(self):
        words = verdict(make({"a": [1.0, 2.0, 3.0], "b": [1.5, 1.5, 3.5]}), "fd")
        assert words == (
            "fd: no difference is established at this scale between a (2) and b (2.17), difference 0.167 [-1.27, 1.6] "
            "(95 % t-interval of the paired difference, 3 seeds)."
        )

    def test_pairs_count_not_spread_over_seeds(self):
        """Seeds differ by far more than the variants do, yet each seed says the same."""
        a = np.array([1.0, 50.0, 7.0, 90.0, 20.0])
        assert CLAIM in verdict(make({"a": a, "b": a + np.array([1.0, 1.1, 0.9, 1.05, 0.95])}), "fd")

    def test_higher_may_be_better(self):
        words = verdict(make({"a": [0.5, 0.6, 0.5], "b": [0.9, 0.9, 0.92]}), "fd", better="higher")
        assert words.startswith("fd: b (0.907) is higher than a (0.533) by 0.373 [")
        assert CLAIM in verdict(make({"a": [0.5, 0.6, 0.5], "b": [0.9, 0.9, 0.92]}), "fd")

    def test_many_variants_are_corrected_and_it_says_so(self):
        best = np.array([1.0, 1.1, 0.9, 1.05, 0.95])
        near, far = best + np.array([0.02, -0.02, 0.01, -0.01, 0.01]), best + np.array([2.0, 2.1, 1.9, 2.0, 2.05])
        words = verdict(make({"far": far, "best": best, "near": near}), "fd")
        assert words.startswith("fd: best (1) is lower than far (3.01) by 2.01 [")
        assert "; no difference is established at this scale from near (1), difference 0.002 [" in words
        assert words.endswith(
            "(95 % t-intervals of paired differences, 5 seeds, widened for 3 comparisons (Bonferroni))."
        )

    def test_a_pair_that_stands_alone_may_fall_among_many(self):
        base = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
        record = make({"a": base, "b": base + np.array([1, 3, 1, 4, 2]), "c": base + 9, "d": base + 8, "e": base + 7})
        assert CLAIM in verdict(record, "fd", variants=["a", "b"])
        assert "b (5.2), difference" in verdict(record, "fd")

    def test_one_seed_says_nothing(self):
        words = verdict(make({"a": [1.0], "b": [2.0]}), "fd")
        assert words == "fd: one seed only, so nothing can be said about a difference between a (1) and b (2)."

    def test_equal_up_to_rounding_is_equal(self):
        assert NO_CLAIM in verdict(make({"a": [0.3] * 5, "b": [0.1 + 0.2] * 5}), "fd")
        assert NO_CLAIM in verdict(make({"a": [0.0] * 5, "b": [0.0] * 5}), "fd")

    def test_at_one_value_of_a_sweep(self):
        record = make(
            {"a": [[9, 1], [8, 2], [9, 3]], "b": [[9, 2], [9, 3], [8, 4.5]]}, x={"name": "NFE", "values": [4, 8]}
        )
        assert verdict(record, "fd", at=8).startswith("fd at NFE = 8: a (2) is lower than b")
        assert NO_CLAIM in verdict(record, "fd", at=4)
        with pytest.raises(ValueError, match="NFE = 4, 8"):
            verdict(record, "fd")

    def test_wrong_calls_say_what_would_be_right(self):
        with pytest.raises(ValueError, match='"lower" or "higher"'):
            verdict(make(SMALL), "fd", better="smaller")
        with pytest.raises(ValueError, match="at least two variants"):
            verdict(make({"a": [1.0, 2.0]}), "fd")
        with pytest.raises(ValueError, match="no variant 'z'; it has a, b"):
            verdict(make(SMALL), "fd", variants=["a", "z"])
        with pytest.raises(ValueError, match="no metric 'fid'"):
            verdict(make(SMALL), "fid")

    @settings(max_examples=80)
    @given(
        st.lists(st.floats(-100, 100), min_size=6, max_size=6),
        st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
        st.sampled_from(["lower", "higher"]),
    )
    def test_differences_of_both_signs_are_never_a_claim(self, base, gaps, better):
        other = np.array(base) + np.repeat(gaps, 2) * [1, -1, 1, -1, 1, -1]
        assert NO_CLAIM in verdict(make({"a": base, "b": other}), "fd", better=better)

    @settings(max_examples=80)
    @given(
        st.lists(st.floats(-100, 100), min_size=5, max_size=5),
        st.lists(st.floats(0.9, 1.1), min_size=5, max_size=5),
        st.integers(2, 5),
    )
    def test_clear_separation_is_always_a_claim(self, base, gaps, count):
        variants = {f"v{i}": np.array(base) + 10 * i * np.array(gaps) for i in range(count)}
        words = verdict(make(variants), "fd")
        assert words.count(" by ") == count - 1
        assert NO_CLAIM not in words

    @pytest.mark.parametrize("count", [2, 3, 5])
    def test_claims_on_pure_noise_stay_rare(self, count):
        """The promise of a 95 % interval, after picking the best of several: at most one false claim in twenty."""
        rng, trials = np.random.default_rng(count), 400
        claims = sum(
            CLAIM in verdict(make({f"v{i}": rng.normal(size=5) for i in range(count)}), "fd") for _ in range(trials)
        )
        assert claims / trials <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / trials)


class TestSummary:
    def test_table(self):
        text = summary(make(SMALL), "fd", names={"b": "the other"})
        assert text.splitlines() == [
            "fd",
            "a             2 ± 2.48",
            "the other  3.17 ± 3.13",
            "mean ± 95 % t-interval, 3 seeds",
        ]

    def test_sweep_has_a_column_for_each_x(self):
        record = make({"a": [[1.0, 2000.0], [1.0, 2000.0]]}, x={"name": "NFE", "values": [4, 8]})
        assert summary(record, "fd").splitlines()[:2] == [
            "fd, by NFE      4          8",
            "a           1 ± 0  2,000 ± 0",
        ]
        assert "2,000" not in summary(record, "fd", at=4)

    def test_one_seed(self):
        assert summary(make({"a": [1.0]}), "fd").splitlines() == ["fd", "a   1", "one seed: no interval can be given"]


def test_records_are_frozen_and_json_is_plain(tmp_path):
    record = make(SMALL)
    with pytest.raises(AttributeError):
        record.seeds = []
    assert replace(record, title="Other?").title == "Other?"
    assert json.loads(save(record, tmp_path).read_text())["seeds"] == [0, 1, 2]


def test_established_says_what_the_verdict_says():
    record = make({"a": [1.0, 1.1, 0.9], "b": [2.0, 2.15, 1.9], "c": [5.0, 0.1, 2.0]})
    assert results.established(record, "fd", ["a", "b"]) == "a"
    assert results.established(record, "fd", ["a", "b"], better="higher") == "b"
    assert results.established(record, "fd", ["a", "b", "c"]) is None
    with pytest.raises(ValueError, match="lower"):
        results.established(record, "fd", ["a", "b"], better="best")
