"""Squeezed Attention: scores, clusters, and attention to what is kept, against plain loops."""

import pytest
import torch

from ropewalk import Squeezed, UserError
from ropewalk.methods.attention.squeezed import cluster_scores, clustered
from tests.matrix import logits
from tests.methods.attention.choices import squeezed
from tests.methods.attention.pairs import TARGET, N, distinct, error, one_layer, read
from tests.models import shared, step, tiny, tokens

PREFIX = 60


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_scores_times_sizes_sum_to_one():
    keys, queries = random(2, 2, 40, 8), random(2, 4, 5, 8, seed=1)
    centroids, belongs = clustered(keys, 7, 300, 0)
    sizes = torch.stack([belongs.eq(i).sum(-1) for i in range(7)], -1).repeat_interleave(2, 1)
    total = (cluster_scores(queries, centroids, belongs, 0.3) * sizes[:, :, None]).sum(-1)
    assert torch.allclose(total, torch.ones_like(total), atol=1e-12)


def test_a_cluster_for_every_key_gives_the_softmax():
    keys, queries = random(1, 2, 12, 8), random(1, 4, 5, 8, seed=1)
    centroids, belongs = clustered(keys, 12, 300, 0)
    scores = cluster_scores(queries, centroids, belongs, 0.3)
    of_key = scores.gather(-1, belongs.repeat_interleave(2, 1)[:, :, None].expand(-1, -1, 5, -1))
    expected = (0.3 * queries @ keys.repeat_interleave(2, 1).mT).softmax(-1)
    assert torch.allclose(of_key, expected, atol=1e-12)


def test_keys_around_a_few_directions_fall_into_their_clusters():
    directions = torch.eye(6, dtype=torch.float64)
    labels = torch.arange(120) % 6
    lengths = 1 + 4 * torch.rand(120, 1, generator=torch.Generator().manual_seed(0))
    keys = lengths * (directions[labels] + 0.05 * random(120, 6))
    for seed in range(5):
        centroids, belongs = clustered(keys[None, None], 6, 300, seed)
        groups = {frozenset((belongs[0, 0] == i).nonzero()[:, 0].tolist()) for i in range(6)}
        assert groups == {frozenset((labels == i).nonzero()[:, 0].tolist()) for i in range(6)}
        first = int(belongs[0, 0, 0])
        assert torch.allclose(centroids[0, 0, first], keys[labels == 0].mean(0))


def test_no_key_is_nearer_to_another_centre():
    keys = random(1, 1, 200, 8)
    unit = torch.nn.functional.normalize(keys[0, 0], dim=-1)
    _, belongs = clustered(keys, 15, 300, 3)
    centres = torch.stack([unit[belongs[0, 0] == i].mean(0) for i in range(15)])
    assert torch.equal(torch.cdist(unit, centres).argmin(-1), belongs[0, 0])


@pytest.mark.parametrize("kv_heads", [1, 2])
@pytest.mark.parametrize("ends", [[N], [PREFIX, 80, 81, N], [40, 70, N]], ids=["at once", "prefix first", "across"])
def test_a_query_attends_to_the_clusters_above_the_threshold(ends, kv_heads):
    chosen = Squeezed(prefix=PREFIX, threshold=0.02, clusters=0.25, observed=20)
    for seen in read(one_layer(num_key_value_heads=kv_heads), chosen, distinct(2), ends):
        distances = squeezed(seen, PREFIX, 0.02, 0.25, 20)
        kept = [len(distances(0, m)) / (m + 1) for m in range(PREFIX, N)]
        assert 0.4 < sum(kept) / len(kept) < 0.95
        assert error(seen, distances, range(0, N, 3)) <= 1e-6


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3"])
def test_a_threshold_of_zero_keeps_all(family):
    model, ids = shared(family), tokens(2, N)
    plain = logits(model, ids)
    with Squeezed(prefix=PREFIX, threshold=0.0, observed=20).on(model, to=TARGET):
        assert float((logits(model, ids) - plain).abs().max()) <= 2e-5


@torch.no_grad()
def test_pieces_padding_and_another_prefix_change_nothing():
    model, ids, mask = tiny("llama"), tokens(2, N), torch.ones(2, N, dtype=torch.long)
    mask[0, :10] = 0
    with (chosen := Squeezed(prefix=PREFIX, threshold=0.05, clusters=0.2, observed=10)).on(model, to=TARGET):
        assert chosen.cache_exact
        whole = logits(model, ids, attention_mask=mask)
        _, cache = step(model, ids.flip(1)[:, :90])
        cache.crop(-90)
        parts = []
        for start, end in [(0, 50), (50, 90), *[(i, i + 1) for i in range(90, N)]]:
            part, cache = step(model, ids[:, start:end], cache, attention_mask=mask[:, :end])
            parts.append(part)
        assert torch.allclose(torch.cat(parts, 1)[mask.bool()], whole[mask.bool()], atol=2e-5)
        assert torch.allclose(whole[0, 10:], logits(model, ids[:1, 10:])[0], atol=2e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Squeezed(prefix=100), "prefix is 100, observed is 100, expected prefix > observed"),
        (lambda: Squeezed(prefix=TARGET, threshold=0.1).on(shared("llama"), to=TARGET).__enter__(), "prefix < target"),
        (lambda: Squeezed(clusters=1.5), "expected at most 1 cluster per key"),
    ],
)
def test_options_that_make_no_sense_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
