"""Landmark attention against loops over single tokens, at the places that the paper's rule says."""

from __future__ import annotations

import pytest
import torch

from ropewalk import Landmark, UserError, method
from ropewalk.common.fingerprints import base_fingerprint
from ropewalk.methods.memory import landmark as landmark_module
from ropewalk.methods.memory.landmark import grouped
from ropewalk.rope.rotation import Turn
from ropewalk.training.one_shot import OneShot
from ropewalk.training.training_batch import Batch
from tests.matrix import TWICE, logits, near, subject, text
from tests.models import in_pieces, tiny

SIZE, HEADS, KV, D = 4, 4, 2, 8  # places of a block, its landmark last
TURN = Turn(10000.0 ** -(torch.arange(0, D, 2) / D), 1.0, "half", "head")
IDS = text(2, 98)


def made(n: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, heads, n, D, generator=generator).double() for heads in (HEADS, KV, KV))


def rotated(x: torch.Tensor, at: int) -> torch.Tensor:
    return TURN.by(x[None, None, None].float(), TURN.tables(torch.tensor([[at]])))[0, 0, 0].double()


def naive(q, k, v, i: int, head: int, topk: int | None) -> tuple[torch.Tensor, list[float]]:
    """Output of one query and its weights, by the card's words, one key at a time."""
    block, kv = i // SIZE, head * KV // HEADS
    slots = block if topk is None else min(block, topk + 1)
    m = slots * SIZE + i % SIZE

    def score(j: int, at: int) -> float:
        return float(rotated(q[0, head, i], m) @ rotated(k[0, kv, j], at)) * D**-0.5

    def landmark(b: int, slot: int) -> float:
        return score(b * SIZE + SIZE - 1, slot * SIZE + SIZE - 1)

    places = {b: max(0, slots - (block - b)) for b in range(block)}
    if topk is not None and block > topk:
        best = sorted(range(block), key=lambda b: landmark(b, places[b]))[-topk:]
        places, last = {b: places[b] for b in sorted(best)}, -1
        for b in places:
            last = places[b] = max(places[b], last + 1)
    first = {j: score(j, slots * SIZE + j % SIZE) for j in range(block * SIZE, i + 1)}
    first |= {(b, "landmark"): landmark(b, slot) for b, slot in places.items()}
    one = dict(zip(first, torch.tensor(list(first.values())).double().softmax(0).tolist(), strict=True))
    weights = {j: one[j] for j in range(block * SIZE, i + 1)}
    for b, slot in places.items():
        tokens = range(b * SIZE, b * SIZE + SIZE - 1)
        inner = torch.tensor([score(j, slot * SIZE + j % SIZE) for j in tokens]).double().softmax(0).tolist()
        weights |= {j: one[b, "landmark"] * share for j, share in zip(tokens, inner, strict=True)}
    return sum(w * v[0, kv, j] for j, w in weights.items()), list(weights.values())


def ours(q, k, v, topk: int | None) -> torch.Tensor:
    n, found = q.shape[2], []
    at = torch.arange(n)
    keys = TURN.by(k.float(), TURN.tables((at % SIZE)[None])).double()
    for start in range(0, n, SIZE):
        end = min(start + SIZE, n)
        found.append(grouped(q[:, :, start:end], keys[:, :, :end], v[:, :, :end], SIZE, start, D**-0.5, TURN, topk))
    return torch.cat(found, 2)


@pytest.mark.parametrize("topk", [None, 1, 2, 3, 9])
def test_it_is_what_the_loops_say_and_weights_sum_to_one(topk):
    q, k, v = made(26)
    found = ours(q, k, v, topk)
    for i in range(26):
        for head in (0, 3):
            wanted, weights = naive(q, k, v, i, head, topk)
            assert sum(weights) == pytest.approx(1)
            assert torch.allclose(found[0, head, i], wanted, atol=1e-5), (i, head)


def test_one_block_is_plain_softmax_and_a_block_of_one_token_has_its_landmarks_weight():
    q, k, v = made(SIZE)
    plain = torch.nn.functional.scaled_dot_product_attention(
        *(TURN.by(x, TURN.tables(torch.arange(SIZE)[None])) for x in (q, k)), v, is_causal=True, enable_gqa=True
    )
    assert torch.allclose(ours(q, k, v, None), plain, atol=1e-6)
    q, k, v = made(6)
    at = torch.arange(6)
    keys = TURN.by(k, TURN.tables((at % 2)[None]))
    found = grouped(q[:, :, 5:], keys, v, 2, 5, 1.0, None, None)[0, 0, 0]
    weights = (q[0, 0, 5] @ keys[0, 0, [1, 3, 4, 5]].T).softmax(0)
    assert torch.allclose(found, weights @ v[0, 0, [0, 2, 4, 5]], atol=1e-9)


def test_its_gradients_are_exact():
    inputs = [x[:, :1].clone().requires_grad_() for x in made(10)]
    assert torch.autograd.gradcheck(lambda q, k, v: grouped(q[:, :, 8:], k, v, SIZE, 8, 0.3, None, None), inputs)


@torch.no_grad()
def test_while_all_blocks_are_seen_reading_is_as_in_training():
    model, chosen = tiny("llama", vocab_size=300), Landmark(block=8, topk=5).begun()
    with chosen.on(model, TWICE):
        read = logits(model, IDS[:, :48])
        assert near(logits(model.train(), IDS[:, :48]), read)
        assert not near(logits(model, IDS), logits(model.eval(), IDS), 1e-2)


@torch.no_grad()
def test_a_text_in_pieces_is_the_text_and_a_short_one_is_the_plain_models():
    model = subject()
    with Landmark(block=8, topk=2).begun().on(model, TWICE):
        whole = logits(model, IDS)
        assert near(in_pieces(model, IDS, 70, 22, *[1] * 6), whole)
        assert near(in_pieces(model, IDS[:, :40], 7, *[1] * 33), whole[:, :40])
        short = logits(model, IDS[:, :8])
        other = IDS.clone()
        other[:, 90:] = IDS[:, 90:].flip(1)
        moved = logits(model, other)
        assert torch.equal(moved[:, :90], whole[:, :90]) and not near(moved[:, 90:], whole[:, 90:], 1e-2)
    assert torch.equal(short, logits(model, IDS[:, :8]))


@torch.no_grad()
def test_what_a_query_attends_to_does_not_grow(monkeypatch):
    model, seen, own = subject(), [], landmark_module._of_picked

    def noting(keys, values, scale, far, picked, *rest):
        seen.append((picked.shape[-1], far.shape[-2]))
        assert all(len(set(one.tolist())) == 2 for one in picked.flatten(0, 2)), "no block twice"
        return own(keys, values, scale, far, picked, *rest)

    monkeypatch.setattr(landmark_module, "_of_picked", noting)
    monkeypatch.setattr(landmark_module, "HELD", 2000)  # a few queries at a time
    with Landmark(block=8, topk=2).begun().on(model, 4 * TWICE):
        few = logits(model, IDS)
        assert set(seen) == {(2, 3)}, "two blocks, and no place farther than three before the own one"
        monkeypatch.undo()
        assert near(logits(model, IDS), few)


@torch.no_grad()
def test_the_cache_holds_one_key_per_place():
    model, chosen, counts = subject(), Landmark(block=8, topk=2).begun(), []
    with chosen.installed(model):
        reader = chosen.reader(model, TWICE)
        with reader.attached():
            for n in (48, 96):
                state = reader.begin(1)
                reader.read(IDS[:1, :n], state)
                counts.append(sum(x.numel() for x in (*state.keys.values(), *state.values.values())))
    layers, heads, width = 2, 2, 16
    assert counts[1] == 2 * counts[0] == 2 * layers * heads * width * (96 + 12)


def some_rows() -> Batch:
    ids = IDS[:, :48]
    return Batch(ids, ids.roll(-1, 1), torch.ones(2, 48), torch.arange(48).expand(2, -1), torch.zeros_like(ids))


def test_training_it_lowers_a_loss_that_the_landmark_carries():
    model = tiny("llama", vocab_size=300)
    chosen = Landmark(block=8, topk=2).begun()
    chosen.carried(model)
    for name, one in model.named_parameters():
        one.requires_grad_("landmark" in name)
    rows = some_rows()
    optimizer, losses = torch.optim.Adam([model.ropewalk_memory.landmark], 0.05), []
    with chosen.on(model, TWICE):
        for _ in range(4):
            optimizer.zero_grad()
            losses.append(float(OneShot(checkpoint=True).backward(model.train(), rows, 96.0)))
            optimizer.step()
        kept = model.ropewalk_memory.landmark.grad.clone()
        optimizer.zero_grad()
        OneShot().backward(model, rows, 96.0)
    assert losses[-1] < losses[0] - 1e-3
    assert kept.any() and model.ropewalk_memory.landmark.grad.any()


def test_computing_activations_again_changes_no_gradient():
    model = tiny("llama", vocab_size=300)
    Landmark(block=8, topk=2).begun().carried(model)
    rows, found = some_rows(), []
    with Landmark(block=8, topk=2).begun().on(model.train(), TWICE):
        for again in (False, True):
            model.zero_grad()
            OneShot(checkpoint=again).backward(model, rows, 96.0)
            found.append({name: one.grad.clone() for name, one in model.named_parameters()})
    assert all(near(found[1][name], one, 1e-5) for name, one in found[0].items())


def test_how_many_blocks_are_seen_may_be_chosen_when_it_is_used(tmp_path):
    model, base = tiny("llama", vocab_size=300), {"name": "tiny", "fingerprint": base_fingerprint(subject())}
    trained = Landmark(block=8, topk=1).begun()
    trained.carried(model)
    trained.write(tmp_path, model, base, TWICE, {})
    assert method(f"landmark(trained={tmp_path})").topk == 1
    for topk in (3, 5):  # 5 is the default
        assert method(f"landmark(topk={topk}, trained={tmp_path})").topk == topk
    with pytest.raises(UserError, match="trained with block = 8, not 50"):
        method(f"landmark(block=50, trained={tmp_path})")
    with method(f"landmark(topk=3, trained={tmp_path})").on(subject(), TWICE):
        assert logits(subject(), IDS[:, :20]).isfinite().all()


def test_what_it_cannot_do_is_refused():
    with pytest.raises(UserError, match=r"distances of \(topk \+ 2\) \(block \+ 1\) = 153, expected at most the 64"):
        Landmark(block=50, topk=1).begun().on(subject(), TWICE).__enter__()
    with pytest.raises(UserError, match="layers of type sliding_attention, and landmark takes"):
        Landmark(block=8, topk=2).begun().on(subject("gemma3"), TWICE).__enter__()
    with (
        Landmark(block=8, topk=2).begun().on(subject(), TWICE),
        pytest.raises(UserError, match="which has no gradient"),
    ):
        subject()(IDS, use_cache=False)
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    model = tiny("llama", vocab_size=300, rope_parameters=rope, max_position_embeddings=64)
    with pytest.raises(UserError, match="change with the length of a text"):
        Landmark(block=8, topk=2).begun().on(model, TWICE).__enter__()
