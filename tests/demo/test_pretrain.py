"""The bundled model: what teaches it, that its training resumes, and what it shows."""

from __future__ import annotations

import json
import random

import pytest
import torch

from ropewalk.checkpoint.checkpoint import BUNDLED, DEMO, Checkpoint
from ropewalk.checkpoint.inspection import inspect
from ropewalk.demo import drills
from ropewalk.texts import builtin as corpus
from ropewalk.texts.pieces import TokenUnits

FOLDER = BUNDLED


@pytest.fixture(scope="module")
def tokenizer():
    return Checkpoint.open(DEMO).tokenizer()


def test_the_bundled_files_are_small_and_sound():
    found = inspect(str(FOLDER))
    assert (found.problems, found.window, found.specs["all"].head_dim) == ([], 512, 64)
    assert sum(file.stat().st_size for file in Checkpoint.open(DEMO).weights) <= 24e6
    assert len(json.loads((FOLDER / "training_log.json").read_text())) > 100
    assert (FOLDER / "README.md").is_file()


@pytest.mark.parametrize("length", [100, 301, 513])
def test_drill_rows_are_exact(tokenizer, length):
    units, text = TokenUnits(tokenizer), list(range(10, 10 + length))
    for seed in range(40):
        assert len(drills.row(length, random.Random(seed), units, text)) == length


def test_drills_state_what_they_ask(tokenizer):
    """Every number that a needle question is answered with stands in a needle before."""
    units, text = TokenUnits(tokenizer), tokenizer("x = y + z\n" * 400, add_special_tokens=False).input_ids
    for seed in range(20):
        row = tokenizer.decode(drills.needles(400, random.Random(seed), units, text))
        for city in (c for c in drills.CITIES if drills.stem(c) in row):
            value = row.split(drills.stem(city) + " ")[1][:5]
            assert drills.needle(city, value) in row.split(" What is")[0]


def test_held_out_modules_are_not_trained_on():
    held_out = corpus.held_out_sources()
    assert len(held_out) == len(corpus.HELD_OUT) >= 24
    rng = random.Random(0)
    library = set(corpus._sources(corpus.standard_library(), rng, None))
    assert len(library) > 1000
    assert not library & set(held_out.values())


@pytest.mark.slow
def test_training_resumes_where_it_was(tmp_path, monkeypatch):
    """Two steps, a stop, two more steps: the same weights as four steps at once."""
    from ropewalk.demo import pretrain

    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(pretrain.ChunkedLoss, "chunk_loss", staticmethod(pretrain._chunk_loss))
    monkeypatch.setattr(pretrain, "BATCH", 2)
    monkeypatch.setattr(pretrain, "WINDOW", 128)
    monkeypatch.setattr(pretrain, "DRILL_ROWS", 1)
    documents = [text for _, text in sorted(corpus.held_out_sources().items())][:4]
    monkeypatch.setattr(corpus, "training_documents", lambda seed: documents)
    monkeypatch.setattr(pretrain, "VOCABULARY", 600)
    tokens = 4 * pretrain.BATCH * pretrain.WINDOW

    whole, *_ = pretrain.train(tmp_path / "whole", tokens, save_every=1)
    halfway = pretrain.Rows.batch

    def stop_at_two(rows, step):
        if step == 2:
            raise KeyboardInterrupt
        return halfway(rows, step)

    monkeypatch.setattr(pretrain.Rows, "batch", stop_at_two)
    with pytest.raises(KeyboardInterrupt):
        pretrain.train(tmp_path / "parts", tokens, save_every=1)
    monkeypatch.setattr(pretrain.Rows, "batch", halfway)
    parts, *_ = pretrain.train(tmp_path / "parts", tokens, save_every=1)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.equal(one, other)


def test_chunked_loss_is_cross_entropy(monkeypatch):
    from ropewalk.demo import pretrain

    monkeypatch.setattr(pretrain.ChunkedLoss, "chunk_loss", staticmethod(pretrain._chunk_loss))
    monkeypatch.setattr(pretrain.ChunkedLoss, "size", 7)
    generator = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(n, 8, generator=generator, requires_grad=True) for n in (30, 50))
    targets = torch.randint(0, 50, (30,), generator=generator)
    ours = pretrain.ChunkedLoss.apply(hidden, head, targets)
    plain = torch.nn.functional.cross_entropy(hidden @ head.T, targets)
    assert torch.allclose(ours, plain, atol=1e-6)
    mine, theirs = torch.autograd.grad(ours, (hidden, head)), torch.autograd.grad(plain, (hidden, head))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.slow
def test_what_the_bundled_model_shows():
    """Passkeys inside the window at every depth; broken at four times the window; YaRN and NTK mend that."""

    from ropewalk.evaluation.contestants import Live
    from ropewalk.methods.catalogue import methods
    from tests.experiments import experiment

    checkpoint = Checkpoint.open(DEMO)
    found = experiment(
        Live(checkpoint.load("float32"), checkpoint.tokenizer()),
        methods=methods("none,pi,ntk-aware(stretch=2),yarn"), to=2048, tasks=("ppl", "passkey"),
        lengths=[512, 2048], texts=corpus.held_out_sources(), samples=40, controls=False,
    )  # fmt: skip
    accuracy = {(row.method, row.length): row.value for row in found.rows if row.task == "passkey"}
    perplexity = {(row.method, row.length): row.value for row in found.rows if row.task == "ppl"}
    assert accuracy["none", 512] >= 0.95
    assert accuracy["none", 2048] <= 0.05 < 0.8 <= accuracy["yarn", 2048]
    assert perplexity["none", 2048] > 2 * perplexity["yarn", 2048]
    assert perplexity["none", 2048] > 2 * perplexity["ntk-aware(stretch=2.0)", 2048]
