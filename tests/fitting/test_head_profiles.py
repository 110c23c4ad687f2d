"""What pairs of dimensions add to a logit, how it follows the slow ones, and what inspect shows of it."""

import json

import pytest
import torch
from rich.console import Console

from ropewalk import UserError
from ropewalk.checkpoint.inspection_view import show_heads
from ropewalk.cli.main import run
from ropewalk.engines.gguf.to_gguf import write_gguf
from ropewalk.fitting import head_profiles as heads_module
from ropewalk.fitting.head_profiles import Head, contributions, head_profiles
from tests.matrix import logits
from tests.methods.attention.pairs import N, W, distinct, one_layer, read
from tests.models import shared, tiny, tokens


@pytest.mark.parametrize("family", ["llama", "cohere", "phi3", "gpt_neox", "gemma3", "qwen3"])
def test_contributions_add_up_to_the_logit(family, monkeypatch):
    sums = []

    def look(self, text, rows):
        parts = [part for _, part in contributions(text, rows)]
        region = text.regions[0]
        keys = text.keys(region).repeat_interleave(text.query.shape[1] // text.key.shape[1], 1)
        whole = text.queries(region)[:, :, rows] @ keys.mT * text.scale
        sums.append((len(parts), float((sum(parts) - whole).abs().max()), float(whole.abs().max())))
        return whole[..., 0], whole[..., 0]

    monkeypatch.setattr(heads_module._Looking, "_look", look)
    head_profiles(shared(family), [tokens(2, 60)], 64, queries=20)
    assert sums and all(off <= 1e-5 * size for _, off, size in sums)
    assert {n for n, _, _ in sums} == {{"phi3": 7, "gpt_neox": 5}.get(family, 8)}  # with one for unrotated dimensions


def test_a_head_by_hand():
    model, ids, window = one_layer(max_position_embeddings=128), distinct(1), 128
    (seen,) = read(model, "none", ids, [N])
    slow = [i for i in range(8) if 2 * torch.pi / float(W[i]) > window]
    assert 0 < len(slow) < 8
    dims = [*slow, *(i + 8 for i in slow)]
    for found in head_profiles(model, [ids], window, queries=10):
        correlations, far = [], []
        for m in range(N - 10, N):
            q = seen.rotated(seen.q[found.head, m], m)
            keys = torch.stack([seen.rotated(seen.k[found.head, n], n) for n in range(m + 1)])
            correlations.append(float(torch.corrcoef(torch.stack([keys @ q, keys[:, dims] @ q[dims]]))[0, 1]))
            far.append(float((keys @ q / 4).softmax(0)[: (m + 1) // 2].sum()))
        assert found.slow_correlation == pytest.approx(sum(correlations) / 10, abs=1e-5)
        assert found.far_share == pytest.approx(sum(far) / 10, abs=1e-6)


def test_heads_without_slow_dimensions_have_no_correlation():
    found = head_profiles(shared("llama"), [tokens(1, 60)], 10**9, queries=20)
    assert len(found) == 8 and all(head.slow_correlation is None for head in found)


def test_sliding_layers_are_left_out_and_nothing_changes():
    model, ids = tiny("gemma3"), tokens(1, 60)
    plain = logits(model, ids)
    assert {head.layer for head in head_profiles(model, [ids], 64, queries=20)} == {1}
    assert torch.equal(logits(model, ids), plain)


@pytest.mark.parametrize("texts", [[], [tokens(1, 60), tokens(1, 30)]])
def test_short_texts_are_refused(texts):
    with pytest.raises(UserError, match="expected at least 1 query and twice as many tokens"):
        head_profiles(shared("llama"), texts, 64, queries=20)


@pytest.mark.slow
def test_inspect_shows_the_heads(capsys):
    assert run(["inspect", "demo", "--weights", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["heads"]
    assert {"layer", "head", "slow_correlation", "far_share"} == set(shown[0])
    assert all(-1 <= head["slow_correlation"] <= 1 and 0 <= head["far_share"] <= 1 for head in shown)
    assert run(["inspect", "demo", "--json"]) == 0
    assert "heads" not in json.loads(capsys.readouterr().out)


def test_the_table_ranks_heads_by_what_their_slow_dimensions_say(capsys):
    found = [Head(0, 0, 0.2, 0.5), Head(0, 1, 0.9, 0.1), Head(1, 0, None, 0.3)]
    show_heads(found, Console(width=200))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[1:3]] == [["0", "1", "0.900", "10.0%"], ["0", "0", "0.200", "50.0%"]]
    assert lines[3].startswith("2 of 3 heads") and lines[3].endswith("30.0% over all heads")
    show_heads(found[2:], Console(width=200))
    assert "every pair of dimensions completes a turn" in capsys.readouterr().out


@pytest.mark.slow
def test_the_heads_of_a_gguf_file_are_looked_at(capsys, tmp_path):
    file = write_gguf("demo", tmp_path / "demo.gguf", "F32").path
    shown = []
    for model in ("demo", str(file)):
        assert run(["inspect", model, "--weights", "--data", "topics", "--json"]) == 0
        shown.append([head["far_share"] for head in json.loads(capsys.readouterr().out)["heads"]])
    assert shown[0] == pytest.approx(shown[1], abs=1e-2)  # the folder holds half precision
    assert run(["inspect", str(file), "--weights", "--patch", str(tmp_path / "x.gguf"), "--against", "demo"]) == 2
    assert "two things" in capsys.readouterr().err
