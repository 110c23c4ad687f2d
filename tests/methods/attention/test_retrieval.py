"""Methods that retrieve, query by query, against choices made with plain loops."""

import pytest
import torch

from ropewalk import UserError, method
from tests.matrix import logits, near
from tests.methods.attention.choices import ihip, infllm, longcache, longheads
from tests.methods.attention.pairs import TARGET, N, distinct, error, one_layer, read
from tests.models import in_pieces, shared, step, tiny, tokens


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("run", [1, 5, 16])
def test_infllm_retrieves_the_blocks_that_the_formula_names(run, kv_heads):
    spelling = f"infllm(window=16, sinks=3, block_size=6, topk=2, representatives=2, execution_block={run})"
    (seen,) = read(one_layer(num_key_value_heads=kv_heads), spelling, distinct(1), [N])
    assert error(seen, infllm(seen, 16, 3, 6, 2, 2, run), range(0, N, 3)) <= 1e-6


@pytest.mark.parametrize("ends", [[41, 42, 43, N], [30, *range(31, N + 1)]], ids=["pieces", "tokens"])
def test_infllm_on_top_of_a_cache_averages_the_queries_that_it_has(ends):
    spelling = "infllm(window=16, sinks=3, block_size=6, topk=2, representatives=2, execution_block=8)"
    (seen,) = read(one_layer(), spelling, distinct(1), ends)
    assert error(seen, infllm(seen, 16, 3, 6, 2, 2, 8, ends), range(30, N, 3)) <= 1e-6


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize(("block", "votes", "span"), [(1, 1, 4), (4, 2, 3), (7, 3, 1)])
def test_longcache_lists_the_spans_with_the_most_votes(block, votes, span, kv_heads):
    spelling = f"longcache(sinks=2, local=9, span={span}, recalled=3, votes={votes}, block={block})"
    for seen in read(one_layer(num_key_value_heads=kv_heads), spelling, distinct(2), [N]):
        assert error(seen, longcache(seen, 2, 9, span, 3, votes, block), range(0, N, 5)) <= 1e-6


@pytest.mark.parametrize("style", ["chunk", "relative", "exact"])
@pytest.mark.parametrize(("stages", "block", "kv_heads"), [((1,), 1, 4), ((8, 4, 1), 3, 2), ((4,), 5, 1)])
def test_ihip_rope_scores_by_the_style_of_the_layer(stages, block, kv_heads, style):
    layers = f"late={style}, early_layers=0"
    spelling = f"ihip-rope({layers}, sinks=2, window=9, kept=8, stages={stages}, block={block})"
    (seen,) = read(one_layer(num_key_value_heads=kv_heads), spelling, distinct(1), [N])
    assert error(seen, ihip(seen, style, 2, 9, 8, stages, block), range(0, N, 11)) <= 1e-6


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize(("size", "k"), [(4, 8), (5, 4), (8, 3)])
@pytest.mark.parametrize("ends", [[N], [40, 41, 77, *range(78, N + 1)]], ids=["at once", "pieces"])
def test_every_head_of_longheads_chooses_its_chunks(ends, size, k, kv_heads):
    spelling = f"longheads(chunk={size}, attended={size * k})"
    for seen in read(one_layer(num_key_value_heads=kv_heads), spelling, distinct(2), ends):
        assert error(seen, longheads(seen, size, k), range(0, N, 3)) <= 1e-6


@pytest.mark.parametrize("recalled", [1, 5, 200])
def test_the_last_query_of_lm_infinite_recalls_middle_keys(recalled):
    (seen,) = read(one_layer(), f"lm-infinite(window=20, sinks=4, recalled={recalled}, recall_from_layer=0)",
                   distinct(1), [N - 1, N])  # fmt: skip

    def distances(head, m):
        found = {n: min(m - n, 20) for n in range(m + 1) if n < 4 or m - n < 20}
        if m >= N - 2:
            middle = range(4, m - 20 + 1)
            scores = dict(zip(middle, seen.logits(head, m, dict.fromkeys(middle, 10)).tolist(), strict=True))
            best = sorted(middle, key=lambda n: -scores[n])[:recalled]
            found |= dict.fromkeys(best, 10)
        return found

    assert error(seen, distances, range(N - 6, N)) <= 1e-6


def test_lm_infinite_recalls_from_a_layer_on():
    model, ids = shared("llama"), tokens(1, N)
    with method("lm-infinite(window=20)").on(model, to=TARGET):
        plain = logits(model, ids)
    with method("lm-infinite(window=20, recalled=5, recall_from_layer=2)").on(model, to=TARGET):
        assert torch.equal(logits(model, ids), plain)
    with method("lm-infinite(window=20, recalled=5, recall_from_layer=1)").on(model, to=TARGET):
        got = logits(model, ids)
    assert torch.equal(got[:, :-1], plain[:, :-1]) and not torch.equal(got[:, -1], plain[:, -1])


def test_layers_of_ihip_rope_score_by_styles_of_their_own():
    model, ids = shared("llama"), distinct(1) % 90  # 2 layers
    sizes = "early_layers=1, sinks=2, window=8, kept=8, stages=(4, 1), block=4"
    found = []
    for early in ("chunk", "relative"):
        for late in ("chunk", "relative"):
            with method(f"ihip-rope({sizes}, early={early}, late={late})").on(model, to=TARGET):
                found.append(logits(model, ids))
    assert not any(near(one, other, 1e-4) for i, one in enumerate(found) for other in found[:i])


# Identities


def test_infllm_that_retrieves_all_keeps_no_distance_beyond_the_window():
    (seen,) = read(one_layer(), "infllm(window=16, sinks=2, block_size=5, topk=99)", distinct(1), [N])
    assert error(seen, lambda h, m: {n: min(m - n, 15) for n in range(m + 1)}, range(0, N, 4)) <= 1e-6


def test_longcache_that_recalls_all_is_the_plain_model():
    model, ids = tiny("llama", max_position_embeddings=4096), tokens(2, N)
    plain = logits(model, ids)
    with method("longcache(sinks=4, local=8, span=1, recalled=100, votes=99, block=4)").on(model):
        assert near(logits(model, ids), plain)


@pytest.mark.parametrize(
    "spelling",
    ["longcache(sinks=3, local=8, recalled=0, block=1)", "ihip-rope(sinks=3, window=8, kept=0, block=1)"],
)
def test_what_recalls_nothing_has_the_shape_of_a_lambda(spelling):
    (seen,) = read(one_layer(), spelling, distinct(1), [N])

    def distances(head, m):
        listed = [n for n in range(m + 1) if n < 3 or m - n < 8]
        return {n: len(listed) - 1 - i for i, n in enumerate(listed)}

    assert error(seen, distances, range(0, N, 4)) <= 1e-6


@pytest.mark.parametrize("style", ["chunk", "relative", "exact"])
def test_ihip_rope_that_keeps_all_is_the_plain_model(style):
    model, ids = tiny("llama", max_position_embeddings=4096), tokens(2, N)
    plain = logits(model, ids)
    with method(f"ihip-rope(early={style}, early_layers=1, sinks=3, window=7, kept=104, block=4, stages=(8,))").on(
        model
    ):
        assert near(logits(model, ids), plain)


def test_longheads_with_room_for_all_chunks_is_the_plain_model():
    model, ids = tiny("llama", max_position_embeddings=128), tokens(1, N)
    plain = logits(model, ids)
    with method("longheads(chunk=4)").on(model):
        assert torch.equal(logits(model, ids), plain)


def test_the_models_own_window_hides_what_is_recalled():
    (seen,) = read(one_layer("mistral", sliding_window=24), "infllm(window=16, sinks=2, block_size=5, topk=99)",
                   distinct(1), [N])  # fmt: skip
    assert error(seen, lambda h, m: {n: min(m - n, 15) for n in range(max(0, m - 23), m + 1)}, range(0, N, 4)) <= 1e-6


# What is refused


INFLLM = "infllm(window=16, sinks=4, block_size=8, topk=2, execution_block=1)"


@torch.no_grad()
@pytest.mark.parametrize("spelling", [INFLLM, "longheads(chunk=4, attended=32)"])
def test_a_cache_without_its_queries_is_refused(spelling):
    model, ids = shared("llama"), tokens(2, 80)
    with method(spelling).on(model, to=TARGET):
        _, cache = step(model, ids)
        cache.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(UserError, match="80 tokens are in the cache without them"):
            step(model, ids[:, :1], cache)


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("infllm(window=33)", "infllm: window is 33, expected at most the 32 trained tokens"),
        ("infllm(window=16, execution_block=17)", "execution_block is 17, expected at most window = 16"),
        ("infllm(block_size=3)", "representatives is 4, expected at most block_size = 3"),
        ("longcache(sinks=4, local=8, span=4, recalled=5, block=2)",
         "sinks + recalled * span + local + block - 1 = 4 + 5 * 4 + 8 + 2 - 1 = 33, expected at most the 32"),
        ("ihip-rope(sinks=2, window=8, kept=10, stages=(1,), block=4)",
         "sinks + 2 kept + window + block - 1 = 2 + 20 + 8 + 4 - 1 = 33, expected at most the 32"),
        ("ihip-rope(early_layers=0, sinks=2, window=8, kept=20, stages=(1,), block=4)",
         "sinks + kept + window + block - 1 = 2 + 20 + 8 + 4 - 1 = 33, expected at most the 32"),
        ("ihip-rope(kept=6, stages=(8, 4))", "kept is 6, expected a multiple of 4"),
        ("ihip-rope(stages=(8, 3))", "stages is (8, 3), expected falling powers of two"),
        ("ihip-rope(stages=(4, 4))", "stages is (4, 4), expected falling powers of two"),
        ("longheads(chunk=8, attended=40)", "attended is 40, expected at most the 32 trained tokens"),
        ("longheads(chunk=5, attended=32)", "expected attended = k * chunk with k at least 3"),
        ("longheads(chunk=16)", "expected attended = k * chunk with k at least 3"),
        ("longheads(chunk=8, block=3)", "block is 3, expected a divisor of chunk = 8"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused_with_the_formula(spelling, message):
    with pytest.raises(UserError) as caught, method(spelling).on(one_layer(), to=TARGET):
        pass
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "spelling",
    [
        "infllm(topk=0)",
        "infllm(sinks=-1)",
        "longcache(span=0)",
        "longheads(block=0)",
        "lm-infinite(recalled=-1)",
        "ihip-rope(window=0)",
        "ihip-rope(early_layers=-1)",
    ],
)
def test_numbers_that_make_no_sense_are_refused(spelling):
    with pytest.raises(UserError, match="expected a number above"):
        method(spelling)


def test_texts_with_gaps_are_refused():
    model, ids = shared("llama"), tokens(1, 40)
    with method(INFLLM).on(model, to=TARGET), pytest.raises(UserError, match="this one has gaps"):
        logits(model, ids, position_ids=2 * torch.arange(40)[None])


def test_frequencies_and_temperatures_join():
    model, ids = shared("llama"), tokens(1, N)
    with method("yarn+log-n+longheads(effective_window=256, chunk=4, attended=32)").on(model, to=512):
        assert near(in_pieces(model, ids, 90, *[1] * 10), logits(model, ids))


def test_a_default_fits_any_usual_window():
    for window in (2048, 4096, 8192, 131072):
        model = tiny("llama", max_position_embeddings=window)
        for name in ("infllm", "longcache", "longheads", "ihip-rope"):
            with method(name).on(model, to=4 * window):
                pass
