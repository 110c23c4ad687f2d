"""On releases of transformers that nobody has tested, the engine proves itself before a method is put on."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import transformers
from packaging.version import Version

from ropewalk import method
from ropewalk.attention import cache_argument, engine, selftest
from ropewalk.common.errors import UserError
from tests.matrix import TARGET, logits
from tests.models import FAMILIES, tiny, tokens


@pytest.fixture
def untested(monkeypatch):
    monkeypatch.setattr(selftest, "TESTED", ("5.0.0", "5.1.0"))


def test_the_installed_release_is_a_tested_one():
    oldest, newest = map(Version, selftest.TESTED)
    assert oldest <= Version(transformers.__version__) <= newest


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(family, untested):
    model = tiny(family)
    with method("rerope").on(model, to=TARGET):
        assert model in selftest._passed
        inside = logits(model, tokens(1, 100))
    assert inside.isfinite().all()


def test_it_runs_once_and_not_on_tested_releases(monkeypatch):
    calls = []
    difference = selftest._difference
    monkeypatch.setattr(selftest, "_difference", lambda *given: calls.append(1) or difference(*given))
    model = tiny("llama")
    with method("rerope").on(model, to=TARGET):
        assert not calls
    monkeypatch.setattr(selftest, "TESTED", ("5.0.0", "5.1.0"))
    for _ in range(2):
        with method("rerope").on(model, to=TARGET):
            assert len(calls) == 1


def test_it_leaves_the_model_as_it_was(untested):
    model = tiny("llama").train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    with method("rerope").on(model, to=TARGET):
        assert [module.training for module in model.modules()] == before


def refused(model) -> str:
    with pytest.raises(UserError) as error, method("rerope").on(model, to=TARGET):
        raise AssertionError("was put on")
    assert model not in selftest._passed
    return error.value.message


def test_rotations_that_are_not_taken_away_are_found(untested, monkeypatch):
    monkeypatch.setattr(engine, "identity_rotary", lambda model: nullcontext())
    assert "outside the tested releases 5.0.0 to 5.1.0" in refused(tiny("llama"))


def test_a_cache_that_is_not_seen_is_found(untested, monkeypatch):
    monkeypatch.setattr(cache_argument, "among", lambda given: None)
    message = refused(tiny("llama"))
    assert "a cache that cannot be followed" in message and transformers.__version__ in message


def test_positions_that_do_not_go_on_are_found(untested, monkeypatch):
    from ropewalk.attention.forward import Layout

    monkeypatch.setattr(Layout, "positions", property(lambda self: torch.arange(self.queries)[None]))
    assert "not the model's own" in refused(tiny("llama"))
