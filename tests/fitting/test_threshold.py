"""The threshold of a fixed prefix, and which prefix it is."""

import pytest
import torch

from ropewalk import Squeezed, UserError
from ropewalk.fitting.threshold import Threshold
from ropewalk.methods.attention.squeezed import cluster_scores, clustered
from tests.fitting.grounds import ground
from tests.methods.attention.pairs import distinct, one_layer, read
from tests.models import shared, tiny, tokens

RAW = Squeezed(clusters=0.2, observed=20)


def found(model, ids, percentile=0.7, method=RAW, **more):
    return Threshold(percentile).search(method, ground(model, ids, **more)).options


def test_one_quantile_over_all_keys_and_heads_by_hand():
    ids, model = distinct(1, 60), one_layer()
    (seen,) = read(model, "none", ids, [60])
    turned = torch.stack([seen.rotated(seen.k[:, n], n) for n in range(40)], 1)[:: seen.group]
    queries = torch.stack([seen.rotated(seen.q[:, m], m) for m in range(40, 60)], 1)
    centroids, belongs = clustered(turned[None].float(), 8, 300, 0)
    scores = cluster_scores(queries[None], centroids.double(), belongs, 0.25)[0]
    of_key = [scores[h, :, belongs[0, h // seen.group, n]].mean() for h in range(len(scores)) for n in range(40)]
    wanted = torch.quantile(torch.stack(of_key), 0.7).item()
    assert found(one_layer(), ids, to=100) == {"prefix": 60, "threshold": pytest.approx(wanted, rel=1e-5)}


def test_a_higher_percentile_drops_more():
    looser, stricter = (found(tiny("llama"), tokens(1, 60), p, to=100)["threshold"] for p in (0.5, 0.9))
    assert 0 < looser < stricter


def test_the_prefix_is_what_all_texts_start_with():
    ids = tokens(3, 150)
    ids[:, :50] = ids[0, :50]
    ids[:, 50] = torch.tensor([3, 4, 5])
    assert found(shared("llama"), ids)["prefix"] == 50


@pytest.mark.parametrize(
    ("texts", "given", "prefix"),
    [(3, None, 75), (1, None, 75), (3, 90, 90)],
    ids=["texts that share nothing", "one text as long as the target", "as the method says"],
)
def test_else_it_is_what_the_method_says_or_half_of_the_target(texts, given, prefix):
    method = Squeezed(prefix=given, clusters=0.2, observed=20)
    assert found(shared("llama"), tokens(texts, 150), method=method)["prefix"] == prefix


@pytest.mark.parametrize(
    ("tokens_of", "percentile", "message"),
    [(30, 0.7, "expected 0 < observed < prefix < target"), (150, 1.0, "percentile is 1.0"), (150, 0.0, "is 0.0")],
)
def test_what_makes_no_sense_is_refused(tokens_of, percentile, message):
    with pytest.raises(UserError, match=message):
        found(shared("llama"), tokens(2, tokens_of), percentile)


def test_texts_shorter_than_the_prefix_are_refused():
    with pytest.raises(UserError, match="no text has 75 tokens, the longest has 40"):
        found(shared("llama"), tokens(2, 40), to=150)
