"""Each attention method against its formula, pair by pair, on one attention call of a live model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ropewalk import method
from ropewalk.methods.attention import gali as gali_module
from tests.attention import oracle
from tests.attention.oracle import attention, base_frequencies, expected, watched
from tests.methods.attention.pairs import distinct, error
from tests.methods.attention.pairs import one_layer as choosing
from tests.methods.attention.pairs import read as read_rows
from tests.methods.oracles import CHOICES, PAIRS, L, T
from tests.models import step, tiny, tokens

N = 100  # tokens of the test text
every = pytest.mark.parametrize("spelling", PAIRS)
W = base_frequencies(16)


@torch.no_grad()
def one_layer(kv_heads=2):
    """Logits of about 3 and outputs of about 1, so that float32 leaves less than 1e-6."""
    model = tiny("llama", num_hidden_layers=1, max_position_embeddings=L, num_key_value_heads=kv_heads)
    model.model.layers[0].self_attn.q_proj.weight.mul_(0.5)
    model.model.layers[0].self_attn.v_proj.weight.mul_(0.4)
    return model


@torch.no_grad()
def read(model, spelling, ids, ends, **more):
    """The attention calls of a text read in pieces."""
    cache, start = None, 0
    with method(spelling).begun().on(model, to=T), watched(model) as seen:
        for end in ends:
            _, cache = step(model, ids[:, start:end], cache, **more)
            start = end
        return seen()


def close(got, wanted):
    error = float((got.double() - wanted).abs().max())
    assert error <= 1e-6


@every
@pytest.mark.parametrize("kv_heads", [1, 4])
def test_a_prompt_is_attended_as_the_formula_says(spelling, kv_heads):
    seen = read(one_layer(kv_heads), spelling, tokens(2, N), [N])
    for row in (0, 1):
        close(seen.out[row], expected(seen, PAIRS[spelling], W, row, [N]))


@every
@pytest.mark.parametrize("ends", [(37, 74, N), (1, 2, 50, 51, N)], ids=["even", "uneven"])
def test_so_is_a_prompt_in_chunks(spelling, ends):
    seen = read(one_layer(), spelling, tokens(1, N), ends)
    close(seen.out[0], expected(seen, PAIRS[spelling], W, 0, ends))


@every
def test_so_is_every_new_token(spelling):
    ends = [84, *range(85, N + 1)]
    seen = read(one_layer(), spelling, tokens(2, N), ends)
    close(seen.out[1], expected(seen, PAIRS[spelling], W, 1, ends))


@every
def test_so_is_a_row_behind_padding(spelling):
    ids, pad = tokens(2, N), 33
    mask = torch.ones_like(ids)
    mask[0, :pad] = 0
    seen = read(one_layer(), spelling, ids, [N], attention_mask=mask)
    rules = PAIRS[spelling]
    close(seen.out[1], expected(seen, rules, W, 1, [N]))
    padded = lambda m, n, length: rules(m, n, N)  # noqa: E731  the longest row sets the length
    close(seen.out[0, :, pad:], expected(seen, padded, W, 0, [N - pad], first=pad))


@every
def test_so_is_each_of_several_packed_documents(spelling):
    sizes = [30, 9, 61]
    documents = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])[None]
    positions = torch.cat([torch.arange(n) for n in sizes])[None]
    seen = read(one_layer(), spelling, tokens(1, N), [N], document_ids=documents, position_ids=positions)
    first = 0
    for size in sizes:
        rule = lambda m, n, length: PAIRS[spelling](m, n, max(sizes))  # noqa: E731
        close(seen.out[0, :, first : first + size], expected(seen, rule, W, 0, [size], first=first))
        first += size


@pytest.mark.parametrize("spelling", CHOICES)
def test_what_is_chosen_is_what_the_loops_choose(spelling):
    for seen in read_rows(choosing(), spelling, distinct(2), [N]):
        assert error(seen, CHOICES[spelling](seen), range(0, N, 5)) <= 1e-6


@pytest.mark.parametrize("spelling", ["s2-attention", "s2-attention(group_size=5)"])
def test_shifted_groups_with_odd_heads_and_lengths(spelling):
    group = max(2, N // 4) if spelling == "s2-attention" else 5
    seen = read(one_layer(4), spelling, tokens(1, N), [N])
    close(seen.out[0], expected(seen, oracle.s2(group, 4), W, 0, [N]))


def test_the_streaming_formula_is_the_list_of_cached_tokens():
    sinks, recent = 3, 13
    m, n = torch.arange(N)[:, None], torch.arange(N)[None]
    pairs = oracle.streaming(sinks, recent)(m, n, N)
    d = m - n
    assert torch.equal(pairs.seen, (d >= 0) & ((n < sinks) | (d < recent)))
    formula = torch.where(d < recent, d, m.clamp_max(sinks + recent - 1) - n)
    assert torch.equal(pairs.distance[pairs.seen], formula[pairs.seen].float())


@given(st.integers(2, 40), st.integers(1, 30), st.integers(1, 300))
def test_gali_gives_the_positions_of_the_papers_procedure(window, local, length):
    local = min(local, window - 1)
    got = gali_module.positions(length, window, local)
    assert got.tolist() == pytest.approx([float(p) for p in oracle.gali_positions(length, window, local)], abs=1e-12)


# The numbers of the papers' formulas on a text that is written down


def toy():
    t = 8 * torch.arange(24, dtype=torch.float64)[:, None] + torch.arange(8)
    return (0.1 * t + 1).sin()[None], (0.07 * t + 2).cos()[None], (0.05 * t + 3).sin()[None]


TOY = {  # spelling: trained window, rule, outputs at 23, outputs at 9
    "self-extend(group=3, window=6)": (
        24, oracle.self_extend(3, 6), (-0.474960, -0.479593, -0.483027, -0.485253), (-0.299923, -0.262910)),
    "dca(chunk_size=9, local_size=3)": (
        24, oracle.dual_chunk(6, 9), (-0.405027, -0.400732, -0.395436, -0.389151), (-0.294384, -0.258855)),
    "streaming-llm(sinks=2, recent=6)": (
        24, oracle.streaming(2, 6), (-0.790213, -0.808455, -0.824677, -0.838837), (-0.289356, -0.250817)),
    "lm-infinite(window=6, sinks=2)": (
        24, oracle.lm_infinite(6, 2), (-0.791671, -0.809864, -0.826033, -0.840138), (-0.289148, -0.250652)),
    "rerope(window=4)": (
        24, oracle.rerope(4), (-0.432786, -0.428623, -0.423390, -0.417098), (-0.310314, -0.277166)),
    "leaky-rerope(window=4, slope_divisor=4.0)": (
        24, oracle.leaky_rerope(4, 4.0), (-0.442267, -0.433409, -0.423466, -0.412466), (-0.308463, -0.273267)),
    "log-n": (8, oracle.log_n(8), (-0.533652, -0.548111, -0.561200, -0.572886), ()),
    "yarn-temperature": (8, oracle.yarn_temperature(8, 24), (-0.490743, -0.501902, -0.511806, -0.520431), ()),
    "gali(local_window=2, chunk=16)": (8, oracle.gali(8, 2, 16), (-0.423143, -0.412065, -0.399957, -0.386849), ()),
    "yarn-temperature(effective_window=24)": (
        24, oracle.plain, (-0.449064, -0.457876, -0.465543, -0.472046), (-0.294384, -0.258855)),
}  # fmt: skip


@pytest.mark.parametrize("spelling", TOY)
def test_the_formula_gives_the_written_numbers(spelling):
    _, rule, last, ninth = TOY[spelling]
    m, n = torch.arange(24)[:, None], torch.arange(24)[None]
    out = attention(*toy(), rule(m, n, 24), base_frequencies(8))[0]
    assert out[23, :4].tolist() == pytest.approx(last, abs=5.1e-7)
    assert out[9, : len(ninth)].tolist() == pytest.approx(ninth, abs=5.1e-7)


@torch.no_grad()
@pytest.mark.parametrize("spelling", TOY)
def test_the_engine_gives_the_written_numbers(spelling):
    window, _, last, ninth = TOY[spelling]
    model = tiny("llama", num_hidden_layers=1, hidden_size=8, head_dim=8, num_attention_heads=1, num_key_value_heads=1,
                 max_position_embeddings=window)  # fmt: skip
    layer = model.model.layers[0].self_attn
    with method(spelling).on(model, to=24), watched(model) as seen:
        for projection, value in zip((layer.q_proj, layer.k_proj, layer.v_proj), toy(), strict=True):
            projection.register_forward_hook(lambda *_, value=value: value.float())
        model(tokens(1, 24), use_cache=False)
    out = seen().out[0, 0]
    assert out[23, :4].tolist() == pytest.approx(last, abs=1e-6)
    assert out[9, : len(ninth)].tolist() == pytest.approx(ninth, abs=1e-6)


def summed_cosines(distance):
    return 2 / math.sqrt(128) * float((base_frequencies(128) * distance).cos().sum())


@pytest.mark.parametrize(
    ("rule", "m", "n", "distance", "logit"),
    [
        (oracle.self_extend(8, 1024), 16000, 77, 2887, 0.453677),
        (oracle.dual_chunk(2560, 3072), 8000, 100, 2972, 0.857082),
        (oracle.dual_chunk(2560, 3072), 8000, 5200, 2800, 0.971151),
        (oracle.dual_chunk(2560, 3072), 8000, 7700, 300, 3.473639),
        (oracle.lm_infinite(4096, 10), 8191, 5, 4096, -0.597967),
        (oracle.rerope(512), 8191, 5, 512, 2.482503),
        (oracle.rerope(512), 600, 89, 511, 2.392030),
        (oracle.leaky_rerope(512, 16), 8191, 100, 985.6875, 2.684785),
    ],
)
def test_distances_and_logits_at_the_sizes_of_real_models(rule, m, n, distance, logit):
    pairs = rule(torch.tensor([[m]]), torch.tensor([[n]]), m + 1)
    assert pairs.seen.all() and float(pairs.distance) == distance
    assert summed_cosines(distance) == pytest.approx(logit, abs=5.1e-7)


def test_a_sink_of_streaming_llm_at_the_size_of_a_real_model():
    pairs = oracle.streaming(4, 2044)(torch.tensor([[4000]]), torch.tensor([[2]]), 4001)
    assert float(pairs.distance) == 2045 and summed_cosines(2045) == pytest.approx(1.812048, abs=5.1e-7)
