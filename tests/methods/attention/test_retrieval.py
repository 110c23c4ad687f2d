"""InfLLM, ReAttention, LongHeads and LM-Infinite's recall, query by query, against choices made with plain loops."""

import pytest
import torch

from ropewalk import UserError, method
from tests.matrix import logits
from tests.methods.attention.pairs import TARGET, VOCABULARY, N, distinct, error, one_layer, padded, read
from tests.models import shared, tiny, tokens


def infllm(seen, w, sinks, size, topk, representatives, run, ends=(N,)):
    """The paper's r_m, block scores and choice; queries of one run that reach attention together choose together."""
    tokens_, heads = seen.q.shape[1], range(len(seen.q))
    turned = [torch.stack([seen.rotated(x[:, i], i) for i in range(tokens_)], 1) for x in (seen.q, seen.k)]
    products = turned[0] @ turned[1].mT  # [H, queries, keys]

    def weight(n, kv):
        mine = [h for h in heads if h // seen.group == kv]
        return sum(float(products[h, n + 1 : n + w + 1, n].sum()) for h in mine) / w

    blocks = []
    for start in range(sinks, tokens_ - w - size + 1, size):
        kept = []
        for kv in range(seen.kv_heads):
            ranked = sorted(range(start, start + size), key=lambda n: -weight(n, kv))
            kept.append(seen.k[kv * seen.group, ranked[:representatives]].mean(0))
        blocks.append((start, kept))

    def distances(head, m):
        first, last = m // run * run, min(m // run * run + run, tokens_)
        for a, b in zip((0, *ends), ends, strict=False):
            if a <= m < b:
                together = range(max(first, a), min(last, b))
        complete = [(start, kept) for start, kept in blocks if start + size - 1 <= first - w]

        queries = [seen.rotated(seen.q[h, list(together)].mean(0), w - 1) for h in heads]

        def score(block):
            return sum(float(queries[h] @ block[1][h // seen.group]) for h in heads)

        chosen = {start for start, _ in sorted(complete, key=score, reverse=True)[:topk]}
        found = {n: m - n for n in range(max(0, m - w + 1), m + 1)}
        loose = sinks + len(complete) * size
        for n in range(m - w + 1):
            if n < sinks or n >= loose or sinks + (n - sinks) // size * size in chosen:
                found[n] = w - 1
        return found

    return distances


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


def longcache(seen, sinks, local, span, recalled, votes, block):
    heads = range(len(seen.q))

    def distances(head, m):
        start = m // block * block
        end = start - local + 1
        if end <= sinks:
            return {n: m - n for n in range(m + 1)}
        count = dict.fromkeys(range(sinks, end), 0)
        for h in heads:
            for i in range(start, min(start + block, seen.q.shape[1])):
                for n in sorted(count, key=lambda n: -float(seen.q[h, i] @ seen.k[h, n]))[:votes]:
                    count[n] += 1
        centres = [n for n in sorted(count, key=lambda n: (-count[n], n)) if count[n]][:recalled]
        near = {n + i for n in centres for i in range(-(span // 2), span - span // 2)} & set(count)
        listed = [*range(sinks), *sorted(near), *range(end, m + 1)]
        return {n: len(listed) - 1 - place for place, n in enumerate(listed)}

    return distances


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize(("block", "votes", "span"), [(1, 1, 4), (4, 2, 3), (7, 3, 1)])
def test_longcache_lists_the_spans_with_the_most_votes(block, votes, span, kv_heads):
    spelling = f"longcache(sinks=2, local=9, span={span}, recalled=3, votes={votes}, block={block})"
    for seen in read(one_layer(num_key_value_heads=kv_heads), spelling, distinct(2), [N]):
        assert error(seen, longcache(seen, 2, 9, span, 3, votes, block), range(0, N, 5)) <= 1e-6


def longheads(seen, size, k):
    def bidirectional(head, start):
        n = range(start, start + size)
        q, keys = ([seen.rotated(x[head, i], i - start) for i in n] for x in (seen.q, seen.k))
        keys = torch.stack(keys)
        mean = sum((keys @ x / 4).softmax(0) @ seen.v[head, start : start + size] for x in q) / size
        return (keys @ mean / 4).softmax(0) @ keys

    chunks = seen.q.shape[1] // size
    of = {(h, c): bidirectional(h, c * size) for h in range(len(seen.q)) for c in range(chunks)}

    def distances(head, m):
        own = m // size
        if own < k:
            return {n: m - n for n in range(m + 1)}
        ranked = sorted(range(1, own - 1), key=lambda c: -float(seen.q[head, m] @ of[head, c]))
        chosen = [0, *sorted(ranked[: k - 3]), own - 1, own]
        listed = [n for c in chosen for n in range(c * size, (c + 1) * size)]
        q = (k - 1) * size + m % size
        return {n: q - place for place, n in enumerate(listed) if n <= m}

    return distances


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
            best = sorted(middle, key=lambda n: -seen.logit(head, m, n, 10))[:recalled]
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


# Identities

METHODS = {  # and up to how many tokens the model is left alone
    "infllm(window=32, sinks=4, block_size=8, topk=2, execution_block=8)": 32,
    "longcache(sinks=4, local=16, span=4, recalled=3, block=4)": 20,
    "longheads(chunk=8, attended=32)": 32,
    "lm-infinite(window=24, sinks=3, recalled=4, recall_from_layer=0)": 24,
}
methods = pytest.mark.parametrize("spelling", METHODS)


@methods
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3", "phi3", "cohere", "gpt_neox"])
def test_short_texts_are_read_as_by_the_plain_model_bit_for_bit(spelling, family):
    model = shared(family)
    ids = tokens(2, min(METHODS[spelling], getattr(model.config, "sliding_window", None) or N))
    plain = logits(model, ids)
    with method(spelling).on(model, to=TARGET):
        assert torch.equal(logits(model, ids), plain)


@methods
@pytest.mark.parametrize("family", ["llama", "gpt_oss", "mistral"])
def test_long_texts_are_not(spelling, family):
    model, ids = shared(family), tokens(2, N)
    plain = logits(model, ids)
    with method(spelling).on(model, to=TARGET):
        assert float((logits(model, ids) - plain).abs().max()) > 1e-2


def near(a, b, tolerance=2e-5):
    return float((a - b).abs().max()) <= tolerance


def test_infllm_that_retrieves_all_keeps_no_distance_beyond_the_window():
    (seen,) = read(one_layer(), "infllm(window=16, sinks=2, block_size=5, topk=99)", distinct(1), [N])
    assert error(seen, lambda h, m: {n: min(m - n, 15) for n in range(m + 1)}, range(0, N, 4)) <= 1e-6


def test_longcache_that_recalls_all_is_the_plain_model():
    model, ids = tiny("llama", max_position_embeddings=4096), tokens(2, N)
    plain = logits(model, ids)
    with method("longcache(sinks=4, local=8, span=1, recalled=100, votes=99, block=4)").on(model):
        assert near(logits(model, ids), plain)


def test_longcache_that_recalls_nothing_has_the_shape_of_a_lambda():
    (seen,) = read(one_layer(), "longcache(sinks=3, local=8, recalled=0, block=1)", distinct(1), [N])

    def distances(head, m):
        listed = [n for n in range(m + 1) if n < 3 or m - n < 8]
        return {n: len(listed) - 1 - i for i, n in enumerate(listed)}

    assert error(seen, distances, range(0, N, 4)) <= 1e-6


def test_longheads_with_room_for_all_chunks_is_the_plain_model():
    model, ids = tiny("llama", max_position_embeddings=128), tokens(1, N)
    plain = logits(model, ids)
    with method("longheads(chunk=4)").on(model):
        assert torch.equal(logits(model, ids), plain)


# Caches, padding, packing

EXACT = [
    "infllm(window=16, sinks=4, block_size=8, topk=2, execution_block=1)",
    "longcache(sinks=4, local=12, span=3, recalled=3, block=1)",
    "longheads(chunk=4, attended=32)",
]


@torch.no_grad()
def in_pieces(model, ids, *sizes, cache=None):
    out, start = [], 0
    for size in sizes:
        step = model(ids[:, start : start + size], past_key_values=cache, use_cache=True)
        start, cache = start + size, step.past_key_values
        out.append(step.logits)
    return torch.cat(out, 1)


@pytest.mark.parametrize("spelling", EXACT)
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_queries_that_choose_alone_do_not_depend_on_the_cut(spelling, family):
    model, ids = tiny(family, vocab_size=VOCABULARY), distinct(2)
    with method(spelling).on(model, to=TARGET):
        assert near(in_pieces(model, ids, 70, 20, *[1] * 10), logits(model, ids))


@pytest.mark.parametrize("spelling", [*METHODS, *EXACT])
def test_methods_whose_results_depend_on_the_cut_say_so(spelling):
    assert method(spelling).cache_exact == (spelling in (EXACT[0], EXACT[2]) or spelling.startswith("longheads"))


@torch.no_grad()
@pytest.mark.parametrize("spelling", [*METHODS, *EXACT])
def test_a_padded_row_gives_what_it_gives_alone(spelling):
    model, ids = tiny("llama", vocab_size=VOCABULARY), distinct(2)
    mask = padded(ids, 30)
    with method(spelling).on(model, to=TARGET):
        out = model(ids[:, :95], attention_mask=mask[:, :95], use_cache=True)
        later = model(ids[:, 95:], attention_mask=mask, past_key_values=out.past_key_values)
        both = torch.cat([out.logits, later.logits], 1)
        assert near(both[0, 30:], in_pieces(model, ids[:1, 30:], 65, 5)[0])
        assert near(both[1], in_pieces(model, ids[1:], 95, 5)[0])


@methods
def test_packed_documents_do_not_see_each_other(spelling):
    model, ids = tiny("llama", vocab_size=VOCABULARY), distinct(1, 120)
    documents = (torch.arange(120) >= 50).long()[None]
    places = torch.where(documents == 0, torch.arange(120), torch.arange(120) - 50)
    with method(spelling).on(model, to=TARGET):
        packed = logits(model, ids, document_ids=documents, position_ids=places)
        assert near(packed, torch.cat([logits(model, ids[:, :50]), logits(model, ids[:, 50:])], 1))


@pytest.mark.parametrize("spelling", EXACT)
def test_a_cropped_cache_goes_on_with_another_text(spelling):
    model, first, second = tiny("llama", vocab_size=VOCABULARY), distinct(2, 90), distinct(2, 90).flip(0, 1)
    joined = torch.cat([first[:, :70], second[:, 70:]], 1)
    with torch.no_grad(), method(spelling).on(model, to=TARGET):
        cache = model(first, use_cache=True).past_key_values
        cache.crop(-20)
        assert near(in_pieces(model, joined[:, 70:], 10, 10, cache=cache), logits(model, joined)[:, 70:])


@pytest.mark.parametrize("spelling", EXACT)
def test_no_query_sees_what_follows_it(spelling):
    model, ids = tiny("llama", vocab_size=VOCABULARY), distinct(1)
    other = ids.clone()
    other[0, 90] = distinct(1, 101)[0, 100]
    with method(spelling).on(model, to=TARGET):
        a, b = logits(model, ids), logits(model, other)
    assert near(a[:, :90], b[:, :90], 1e-5) and not near(a[:, 90], b[:, 90], 1e-3)


@methods
def test_generate_gives_the_tokens_of_single_steps(spelling):
    model, ids = shared("llama"), tokens(1, 80)
    with torch.no_grad(), method(spelling).on(model, to=TARGET):
        options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
        got = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        step, cache, text = ids, None, ids
        for _ in range(6):
            out = model(step, past_key_values=cache, use_cache=True)
            step, cache = out.logits[:, -1:].argmax(-1), out.past_key_values
            text = torch.cat([text, step], 1)
    assert torch.equal(got, text)


def test_the_models_own_window_hides_what_is_recalled():
    (seen,) = read(one_layer("mistral", sliding_window=24), "infllm(window=16, sinks=2, block_size=5, topk=99)",
                   distinct(1), [N])  # fmt: skip
    assert error(seen, lambda h, m: {n: min(m - n, 15) for n in range(max(0, m - 23), m + 1)}, range(0, N, 4)) <= 1e-6


# What is refused


@torch.no_grad()
@pytest.mark.parametrize("spelling", [EXACT[0], EXACT[2]])
def test_a_cache_without_its_queries_is_refused(spelling):
    model, ids = shared("llama"), tokens(2, 80)
    with method(spelling).on(model, to=TARGET):
        cache = model(ids, use_cache=True).past_key_values
        cache.reorder_cache(torch.tensor([1, 0]))
        with pytest.raises(UserError, match="80 tokens are in the cache without them"):
            model(ids[:, :1], past_key_values=cache)


@methods
def test_gradients_are_refused(spelling):
    with (
        method(spelling).on(shared("llama"), to=TARGET),
        pytest.raises(UserError, match="picked by content, which has no gradient"),
    ):
        shared("llama")(tokens(1, 40))


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("infllm(window=33)", "infllm: window is 33, expected at most the 32 trained tokens"),
        ("infllm(window=16, execution_block=17)", "execution_block is 17, expected at most window = 16"),
        ("infllm(block_size=3)", "representatives is 4, expected at most block_size = 3"),
        ("longcache(sinks=4, local=8, span=4, recalled=5, block=2)",
         "sinks + recalled * span + local + block - 1 = 4 + 5 * 4 + 8 + 2 - 1 = 33, expected at most the 32"),
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
    ["infllm(topk=0)", "infllm(sinks=-1)", "longcache(span=0)", "longheads(block=0)", "lm-infinite(recalled=-1)"],
)
def test_numbers_that_make_no_sense_are_refused(spelling):
    with pytest.raises(UserError, match="expected a number above"):
        method(spelling)


def test_texts_with_gaps_are_refused():
    model, ids = shared("llama"), tokens(1, 40)
    with method(EXACT[0]).on(model, to=TARGET), pytest.raises(UserError, match="this one has gaps"):
        logits(model, ids, position_ids=2 * torch.arange(40)[None])


def test_frequencies_and_temperatures_join():
    model, ids = shared("llama"), tokens(1, N)
    with method("yarn+log-n+longheads(effective_window=256, chunk=4, attended=32)").on(model, to=512):
        assert near(in_pieces(model, ids, 90, *[1] * 10), logits(model, ids))


def test_a_default_fits_any_usual_window():
    for window in (2048, 4096, 8192, 131072):
        model = tiny("llama", max_position_embeddings=window)
        for name in ("infllm", "longcache", "longheads"):
            with method(name).on(model, to=4 * window):
                pass
