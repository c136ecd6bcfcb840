"""The recorded and the fresh comparison of our samplers with diffusers' schedulers."""

import pytest

from lesson_lib.official import parity
from lesson_lib.samplers import SAMPLERS


def test_every_comparison_is_recorded_and_small():
    recorded = parity.recorded()
    assert set(recorded) == set(parity.COMPARISONS)
    assert set(recorded["samplers"].differences) == set(SAMPLERS)
    for one in recorded.values():
        assert max(one.differences.values()) <= 1e-5
        assert "torch" in one.versions
        assert "recorded" in str(one)


def test_a_fresh_comparison_agrees():
    pytest.importorskip("diffusers")
    fresh = parity.parity("samplers")
    assert fresh.fresh
    assert max(fresh.differences.values()) <= 1e-5


def test_without_the_package_the_record_is_shown(monkeypatch):
    monkeypatch.setattr(parity, "find_spec", lambda name: None)
    assert not parity.parity("samplers").fresh


def test_an_unknown_comparison_gets_the_names():
    with pytest.raises(KeyError, match="samplers"):
        parity.parity("nothing")
