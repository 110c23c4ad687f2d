"""Vertical-slash attention against plain loops, alone and on top of other positions; the mass that it keeps."""

import itertools

import pytest
import torch

from ropewalk import DualChunk, UserError, VerticalSlash, method
from ropewalk.methods.attention.vertical_slash import kept_mass
from tests.matrix import logits
from tests.methods.attention.choices import plain, vertical_slash
from tests.methods.attention.pairs import TARGET, N, distinct, error, one_layer, padded, read
from tests.models import shared, tiny, tokens

LONG = 150  # three blocks of 64 queries
SPARSE = "vertical-slash(vertical=12, slash=20, sinks=3, near=5, last=10, threshold=100)"


def dual_chunk(c, ceiling):
    def distance(m, n):
        apart = m // c - n // c
        query = [m % c, min(m % c + c, ceiling), min(2 * c - 1, ceiling)][min(apart, 2)]
        return query - n % c

    return distance


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize(
    ("positions", "distance"),
    [
        ("", plain),
        ("dca(chunk_size=30, local_size=7)+", dual_chunk(23, 30)),
        ("rerope(window=8)+", lambda m, n: min(m - n, 8)),
    ],
    ids=["plain", "dca", "rerope"],
)
def test_a_prompt_attends_exactly_to_what_its_last_queries_choose(positions, distance, kv_heads):
    for seen in read(one_layer(num_key_value_heads=kv_heads), positions + SPARSE, distinct(2, LONG), [LONG]):
        assert error(seen, vertical_slash(seen, distance, 12, 20, 3, 5, 10), range(0, LONG, 7)) <= 1e-6


def test_each_later_piece_chooses_anew_and_short_ones_are_dense():
    ids = distinct(1, LONG)
    (seen,) = read(one_layer(), SPARSE, ids, [90, LONG - 5, *range(LONG - 4, LONG + 1)])
    whole = {n: vertical_slash(_upto(seen, n), plain, 12, 20, 3, 5, 10, start=90) for n in (LONG - 5,)}[LONG - 5]
    assert error(seen, lambda h, m: {n: m - n for n in range(m + 1)}, range(0, 90, 7)) <= 1e-6
    assert error(seen, whole, range(90, LONG - 5, 7)) <= 1e-6
    assert error(seen, lambda h, m: {n: m - n for n in range(m + 1)}, range(LONG - 5, LONG)) <= 1e-6


def _upto(seen, n):
    cut = object.__new__(type(seen))
    cut.__dict__ = seen.__dict__ | {name: getattr(seen, name)[:, :n] for name in "qkv"}
    return cut


def test_one_last_query_and_one_diagonal_by_hand():
    spelling = "vertical-slash(vertical=1, slash=1, sinks=0, near=1, last=1, threshold=1)"
    (seen,) = read(one_layer(), spelling, distinct(1), [N])

    def distances(head, m):
        row = seen.logits(head, N - 1, {n: N - 1 - n for n in range(N)}).tolist()
        heaviest = max(range(N), key=row.__getitem__)
        return {n: m - n for n in range(m + 1) if n == heaviest or n // 64 == m // 64}

    assert error(seen, distances, range(0, N, 3)) <= 1e-6


@pytest.mark.parametrize("positions", ["", "dca+", "lm-infinite(window=24, sinks=3)+", "gali(local_window=16)+"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral", "gpt_oss"])
def test_full_budgets_are_dense_attention(family, positions):
    model, ids = shared(family), tokens(2, LONG)
    with method(positions[:-1] or "none").on(model, to=LONG):
        dense = logits(model, ids)
    with method(f"{positions}vertical-slash(vertical={LONG}, slash={LONG}, threshold=1)").on(model, to=LONG):
        assert float((logits(model, ids) - dense).abs().max()) <= 2e-5


def test_short_texts_are_read_as_by_the_plain_model_bit_for_bit():
    model, ids = shared("llama"), tokens(2, LONG)
    with method("vertical-slash").on(model, to=TARGET):
        sparse = logits(model, ids)
    assert torch.equal(sparse, logits(model, ids))


def test_a_padded_row_gives_what_it_gives_alone():
    model, ids = tiny("llama"), tokens(2, LONG)
    with method("dca+" + SPARSE).on(model, to=TARGET):
        both = logits(model, ids, attention_mask=padded(ids, 50))
        assert torch.allclose(both[0, 50:], logits(model, ids[:1, 50:])[0], atol=2e-5)
        assert torch.allclose(both[1], logits(model, ids[1:])[0], atol=2e-5)


def test_the_kept_mass_is_one_at_full_budgets_and_grows_with_both():
    model, ids = tiny("llama"), tokens(2, LONG)

    def mass(vertical, slash, *others):
        sparse = VerticalSlash(vertical=vertical, slash=slash, sinks=2, near=4, last=16, threshold=1)
        return kept_mass(model, ids, sparse, *others, to=TARGET)

    assert torch.allclose(mass(LONG, LONG), torch.ones(2, 4), atol=1e-6)
    assert torch.allclose(mass(LONG, LONG, DualChunk()), torch.ones(2, 4), atol=1e-6)
    columns, diagonals = [mass(v, 8)[0] for v in (2, 8, 32, 128)], [mass(8, s)[0] for s in (4, 8, 32, 128)]
    for grown in (columns, diagonals):
        assert all(bool((b >= a).all()) for a, b in itertools.pairwise(grown))
        assert bool((grown[-1] > grown[0]).all()) and float(grown[0].max()) < 1


def test_the_kept_mass_of_one_head_by_hand():
    model, ids = one_layer(), distinct(1, LONG)
    mass = kept_mass(model, ids, method(SPARSE), to=TARGET)
    (seen,) = read(model, SPARSE, ids, [LONG])
    chosen, head = vertical_slash(seen, plain, 12, 20, 3, 5, 10), 2
    shares = []
    for m in range(LONG):
        row = seen.logits(head, m, {n: m - n for n in range(m + 1)}).softmax(0)
        shares.append(float(row[list(chosen(head, m))].sum()))
    assert float(mass[0, head]) == pytest.approx(sum(shares) / LONG, abs=1e-6)


def test_what_does_not_join_is_refused():
    with pytest.raises(UserError, match="2 tokens are attended to densely, expected at least 64"):
        kept_mass(shared("llama"), tokens(1, 2), VerticalSlash(threshold=1))
    with pytest.raises(UserError, match="what is always kept counts"):
        VerticalSlash(vertical=10)
    with pytest.raises(UserError, match="expected a number above 0"):
        VerticalSlash(near=0)
    with (
        method("s2-attention(group_size=16)+" + SPARSE).on(shared("llama"), to=TARGET),
        pytest.raises(UserError, match="does not join methods that give heads different keys"),
    ):
        logits(shared("llama"), tokens(1, LONG))


def test_gradients_are_refused():
    with method("dca+vertical-slash").on(shared("llama"), to=TARGET), pytest.raises(UserError, match="no gradient"):
        shared("llama")(tokens(1, 20))
