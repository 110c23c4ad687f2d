"""Encodings against numbers of their papers and of a second computation, pair by pair."""

import math
from itertools import product

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.lab.encoding import Shape, Standing
from ropewalk.lab.encoding_entries import BY_ID
from ropewalk.lab.encodings import alibi, contextual, fire, sandwich, softplus, t5_bias, xpos
from ropewalk.lab.encodings.rotary import turned
from ropewalk.rope.spec import Frequencies, RopeSpec

N = 24
SHAPE = Shape(window=16, width=32, heads=4, head_width=8)


def near(found, wanted, tolerance=6e-7):
    torch.testing.assert_close(
        torch.as_tensor(found, dtype=torch.float64), torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=tolerance
    )


def made(name, shape=SHAPE, way="", to=None):
    torch.manual_seed(0)
    one = BY_ID[name].load()(shape)
    with torch.no_grad():
        one.begin(dict(one.named_parameters()))
    one.take(way, to or shape.window)
    return one.double().eval()


def heads(n=N, shape=SHAPE, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, shape.heads, n, shape.head_width, generator=generator, dtype=torch.float64) for _ in range(3)
    ]


def pair_by_pair(logit, v, n=N, shape=SHAPE):
    """Softmax attention from ``logit(b, h, i, j)``, in plain Python; None where a key is not seen."""
    out = torch.zeros_like(v)
    for b, h, i in product(range(2), range(shape.heads), range(n)):
        logits = {j: value for j in range(i + 1) if (value := logit(b, h, i, j)) is not None}
        top = max(logits.values())
        total = sum(math.exp(value - top) for value in logits.values())
        for j, value in logits.items():
            out[b, h, i] += math.exp(value - top) / total * v[b, h, j]
    return out


def same(encoding, logit, n=N, shape=SHAPE):
    q, k, v = heads(n, shape)
    with torch.no_grad():
        got = encoding.attended(q, k, v, Standing(0, torch.arange(n)))
        torch.testing.assert_close(got, pair_by_pair(lambda *at: logit(q, k, *at), v, n, shape), rtol=0, atol=1e-10)


def dot(q, k, b, h, i, j):
    return float(q[b, h, i] @ k[b, h, j]) / math.sqrt(q.shape[-1])


def met(q, k, b, h, i, j, angles, scale=1.0):
    """The logit of two heads whose pairs (a, a + d/2) meet at these angles."""
    half = q.shape[-1] // 2
    total = 0.0
    for a in range(half):
        x, y = (complex(float(one[a]), float(one[a + half])) for one in (q[b, h, i], k[b, h, j]))
        total += (x * y.conjugate() * complex(math.cos(angles[a]), math.sin(angles[a]))).real
    return total / math.sqrt(q.shape[-1]) * scale


W = [10_000 ** (-2 * i / 8) for i in range(4)]


def test_alibi_of_its_slopes():
    near(alibi.slopes(8), [2.0**-h for h in range(1, 9)])
    near(alibi.slopes(12)[-4:], [0.707107, 0.353553, 0.176777, 0.088388])
    eight = alibi.slopes(8)
    near(alibi.stretched(eight, 2, "pi"), [2.0 ** -(h + 1) for h in range(1, 9)])
    ntk = [0.5, 0.226431, 0.102542, 0.046437, 0.021030, 0.009524, 0.004313, 0.001953]
    near(alibi.stretched(eight, 2, "ntk"), ntk)
    geometric = [0.420448, 0.176777, 0.074325, 0.031250, 0.013139, 0.005524, 0.002323, 0.000977]
    near(alibi.stretched(eight, 4, "geometric"), geometric)


@pytest.mark.parametrize("heads_", [4, 8, 12, 20])
def test_alibi_is_that_of_transformers(heads_):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    bloom = build_alibi_tensor(torch.ones(1, 2), heads_, torch.float32)[:, 0, 1]
    near(alibi.slopes(heads_), bloom.tolist(), 1e-6)
    far = build_mpt_alibi_tensor(heads_, 8, alibi_bias_max=10)[:, 0, -2]
    if heads_ in (4, 8):
        near(alibi.stretched(alibi.slopes(heads_), 4, "geometric"), (-far).tolist(), 1e-6)


@pytest.mark.parametrize(("way", "s"), [("", 1), ("pi", 1.5), ("ntk", 1.5)])
def test_alibi_pair_by_pair(way, s):
    slopes = [2.0 ** (-2 * h) / (1 if not way else s if way == "pi" else s ** ((h - 1) / 3)) for h in range(1, 5)]
    same(made("alibi", way=way, to=N), lambda q, k, b, h, i, j: dot(q, k, b, h, i, j) - slopes[h] * (i - j))


def test_t5_of_its_buckets():
    far = torch.tensor([0, 1, 15, 16, 17, 32, 64, 100, 127, 128, 1000])
    assert t5_bias.bucket(far).tolist() == [0, 1, 15, 16, 16, 21, 26, 30, 31, 31, 31]
    assert t5_bias.bucket(far, 16).tolist() == [0, 1, 9, 10, 10, 12, 14, 15, 15, 15, 15]


def test_t5_of_transformers():
    from transformers.models.t5.modeling_t5 import T5Attention

    far = torch.arange(2000)
    theirs = T5Attention._relative_position_bucket(-far, bidirectional=False, num_buckets=32, max_distance=128)
    assert torch.equal(t5_bias.bucket(far), theirs)


def test_t5_pair_by_pair():
    one = made("t5")
    table = one.table.tolist()
    same(one, lambda q, k, b, h, i, j: dot(q, k, b, h, i, j)
         + table[i - j if i - j < 16 else min(31, int(16 + math.log((i - j) / 16) / math.log(8) * 16))][h])  # fmt: skip


def test_kerple_of_its_formula():
    for name in ("kerple", "kerple-power"):
        one = made(name, Shape(16, 8, 1, 8))
        with torch.no_grad():
            one.p.fill_(1.0)
            one.a.fill_(1.0 if name == "kerple" else 0.25)
        found = one.added(torch.tensor([0, 1, 16, 256, 4096]), *one.weights())[0].detach()
        log = [0, -0.693147, -2.833213, -5.549076, -8.318010]
        near(found, log if name == "kerple" else [0, -0.25, -4, -64, -1024])
    one = made("kerple")
    p, a = one.p.tolist(), one.a.tolist()
    same(
        one, lambda q, k, b, h, i, j: dot(q, k, b, h, i, j) - max(p[h], 0.01) * math.log(1 + max(a[h], 0.01) * (i - j))
    )
    same(made("kerple-power"), lambda q, k, b, h, i, j: dot(q, k, b, h, i, j) - max(a[h], 0.01) * (i - j) ** p[h])


def test_sandwich_of_its_formula():
    found = sandwich.sandwich(torch.tensor([0, 1, 16, 256, 4096]))
    near(found, [0, -1.446619, -22.340688, -42.435704, -67.269324])

    def bias(far):
        return sum(math.cos(far / 10_000 ** (2 * k / 128)) for k in range(1, 65)) - 64

    same(made("sandwich"), lambda q, k, b, h, i, j: dot(q, k, b, h, i, j) + bias(i - j) / (2 * (h + 1)))


def test_fire_of_its_formula():
    at = [(1000, 900), (100, 0), (511, 0), (8191, 0), (8191, 8190)]
    c, threshold = torch.tensor(0.1, dtype=torch.float64), torch.tensor(512.0, dtype=torch.float64)
    found = [float(fire.share(torch.tensor(i - j), torch.tensor(i), c, threshold)) for i, j in at]
    near(found, [0.519574, 0.606282, 0.999515, 1, 0.014205], 1.5e-6)
    one = made("fire")
    weights = [x.tolist() for x in (one.into, one.inner, one.out, one.rest)]

    def bias(h, i, j):
        into, inner, out, rest = weights
        c = float(one.c)
        x = math.log(c * (i - j) + 1) / (math.log(c * max(i, 16) + 1) + 1e-6)
        return sum(o * max(0.0, a * x + b) for a, b, o in zip(into, inner, out[h], strict=True)) + rest[h]

    same(one, lambda q, k, b, h, i, j: dot(q, k, b, h, i, j) + bias(h, i, j))


def test_rope_pair_by_pair_and_its_ways():
    same(made("rope"), lambda *at: met(*at, [(at[-2] - at[-1]) * w for w in W]))
    same(made("rope", way="pi", to=N), lambda *at: met(*at, [(at[-2] - at[-1]) * w * 16 / N for w in W]))
    base = 10_000 * (N / 16) ** (8 / 6)
    ntk = [base ** (-2 * i / 8) for i in range(4)]
    same(made("rope", way="ntk-aware", to=N), lambda *at: met(*at, [(at[-2] - at[-1]) * w for w in ntk]))


def test_hirope_pair_by_pair():
    """Near: 4 tokens. Further off: fast pairs by the token's place in its segment of 1, slow ones by its number."""
    shape = Shape(64, 32, 4, 8)

    def logit(q, k, b, h, i, j):
        fast, slow = (i - j,) * 2 if i - j < 16 else (i % 4 - j % 4, i // 4 - j // 4 + 15)
        return met(q, k, b, h, i, j, [fast * W[0], fast * W[1], slow * W[2], slow * W[3]])

    same(made("rope", shape, "hirope", 96), logit, 40, shape)


def test_hirope_inside_its_near_tokens_is_rope_to_the_bit():
    shape = Shape(64, 32, 4, 8)
    q, k, v = heads(16, shape)
    standing = Standing(0, torch.arange(16))
    assert torch.equal(
        made("rope", shape, "hirope", 96).attended(q, k, v, standing), made("rope", shape).attended(q, k, v, standing)
    )


def test_xpos_of_its_formula():
    zeta = xpos.zetas(128)
    near(zeta[[0, 1, 32, 63]], [0.285714, 0.296875, 0.642857, 0.988839])
    near(zeta[[0, 1, 32, 63]] ** (100 / 512), [0.782955, 0.788837, 0.917323, 0.997810])
    rope = RopeSpec.plain(10_000.0, 128, 512)
    ones, far = torch.ones(1, 1, 1, 128, dtype=torch.float64), [0, 1, 64, 1024]
    zero = torch.zeros(1, dtype=torch.long)
    plain = [float((turned(ones, torch.tensor([d]), Frequencies(rope.inv_freq)) * ones).sum() / 2) for d in far]
    near(plain, [64, 62.093684, 30.520059, 13.084251])
    one = made("xpos", Shape(512, 256, 2, 128))
    for shift in (0, 700):
        found = []
        for d in far:
            q, k = one.query(ones, Standing(0, zero + d + shift)), one.key(ones, Standing(0, zero + shift))
            found.append(float((q * k).sum() / 2))
        near(found, [64, 62.034402, 29.815363, 10.813936])


@pytest.mark.parametrize("way", ["", "bca"])
def test_xpos_pair_by_pair(way):
    zeta = [(i / 4 + 0.4) / 1.4 for i in range(4)]

    def logit(q, k, b, h, i, j):
        if way and j < (i // 8 - 1) * 8:
            return None
        far, parts = i - j, []
        for a in range(4):
            only = torch.zeros(8, dtype=torch.float64)
            only[[a, a + 4]] = 1
            parts.append(met(q * only, k, b, h, i, j, [far * w for w in W], zeta[a] ** (far / 512)))
        return sum(parts)

    same(made("xpos", way=way, to=N), logit)


def test_cable_of_its_formula():
    one = made("cable", Shape(4, 1, 1, 8))
    with torch.no_grad():
        one.weight.fill_(1.0)
        hidden = torch.tensor([0, 1, -1, 0.5], dtype=torch.float64)[None, :, None]
        k = one.kept(torch.zeros(1, 1, 4, 8, dtype=torch.float64), hidden, None)
    near(-k[0, 0, :, -1], [-0.693147, -2.006409, -2.319671, -3.293748])
    near(k[0, 0, :, -1] - k[0, 0, 3, -1], [-2.600600, -1.287339, -0.974077, 0])


def test_cable_pair_by_pair_and_of_a_constant_alibi():
    one, (q, k, v) = made("cable"), heads()
    standing = Standing(0, torch.arange(N))
    for constant in (False, True):
        hidden = torch.randn(2, 1 if constant else N, 32, dtype=torch.float64).expand(2, N, 32)
        with torch.no_grad():
            penalty = torch.log1p((hidden @ one.weight.T).exp())
            got = one.attended(q, one.kept(k, hidden, None), v, standing)

        def logit(b, h, i, j, penalty=penalty, constant=constant):
            across = (i - j) * penalty[b, 0, h] if constant else penalty[b, j + 1 : i + 1, h].sum()
            return dot(q, k, b, h, i, j) - float(across)

        torch.testing.assert_close(got, pair_by_pair(logit, v), rtol=0, atol=1e-10)


def test_fope_keeps_what_turns_and_without_noise_is_rope():
    one = made("fope", Shape(512, 128, 2, 64))
    assert len(one.trained) == 16
    near([2 * math.pi / 512], [0.012272])
    shape = Shape(2**20, 32, 4, 8)  # all turn
    one = made("fope", shape)
    with torch.no_grad():
        for series in (one.cosines, one.sines):
            series.copy_(torch.eye(4))
    same(one, lambda *at: met(*at, [(at[-2] - at[-1]) * w for w in W]), shape=shape)


def test_fope_pair_by_pair():
    one = made("fope")  # a turn within 16 tokens: the first pair alone
    cos, sin = (float(x[2, 0, 0]) for x in (one.cosines, one.sines))
    assert one.cosines.shape == (4, 1, 1)
    q, *_ = heads()
    with torch.no_grad():
        turned_ = one.query(q, Standing(0, torch.arange(N)))[1, 2, 5]
    x, y = q[1, 2, 5, 0], q[1, 2, 5, 4]
    expected = q[1, 2, 5].clone()
    expected[0] = x * cos * math.cos(5) - y * sin * math.sin(5)
    expected[4] = y * cos * math.cos(5) + x * sin * math.sin(5)
    torch.testing.assert_close(turned_, expected)


def test_softplus_of_its_formula():
    unit = torch.zeros(2, 1, 1, 3, 64, dtype=torch.float64)
    unit[0, ..., :2] = torch.tensor([[1, 0], [0.6, 0.8], [0, 1]])
    unit[1, ..., :2] = torch.tensor([[1, 0], [0, 1], [0.8, 0.6]])
    seen = torch.arange(1, 4)
    found = softplus.weights(*unit, seen)[0, 0]
    near(found, [[1, 0, 0], [0.440818, 0.559182, 0], [0.085824, 0.567003, 0.347173]])
    sharp = softplus.weights(*unit, seen, 3, 0.0)[0, 0]
    near(sharp, [[1, 0, 0], [0.328819, 0.671181, 0], [0.002813, 0.811017, 0.186170]])
    near(softplus.weights(*unit, seen, 3)[0, 0, 0], [1.0, 0, 0])  # 0 / 0: the row as it was


@pytest.mark.parametrize("rows", [5, 256])
def test_softplus_in_blocks_is_at_once(rows, monkeypatch):
    monkeypatch.setattr(softplus, "ROWS", rows)
    q, k, v = (one.requires_grad_() for one in heads())
    got = made("softplus").attended(q, k, v, Standing(0, torch.arange(N)))
    places = Frequencies(RopeSpec.plain(10_000.0, 8, 16).inv_freq)
    one, two = (turned(x / x.norm(dim=-1, keepdim=True), torch.arange(N), places) for x in (q, k))
    i = torch.arange(1, N + 1).double()[:, None]
    a = (1 + (math.log(8) * i.log() * (one @ two.mT)).exp()).log().tril()
    wanted = a / a.sum(-1, keepdim=True) @ v
    torch.testing.assert_close(got, wanted)
    for slopes in zip(*(torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (got, wanted)), strict=True):
        torch.testing.assert_close(*slopes, rtol=0, atol=1e-9)


def test_contextual_pair_by_pair():
    one = made("contextual")
    with torch.no_grad():
        one.table.normal_(generator=torch.Generator().manual_seed(3))

    def logit(q, k, b, h, i, j):
        place = min(15.0, sum(1 / (1 + math.exp(-dot(q, k, b, h, i, t))) for t in range(j, i + 1)))
        low, high = (float(q[b, h, i] @ one.table[int(x)]) for x in (math.floor(place), math.ceil(place)))
        return dot(q, k, b, h, i, j) + (1 - place % 1) * low + place % 1 * high

    same(one, logit)


def test_open_gates_count_tokens():
    places = contextual.positions(torch.full((3, 3), 50.0), torch.tensor([1, 2, 3]), 99)
    near(places, [[1.0, 0, 0], [2, 1, 0], [3, 2, 1]])


def test_tables_are_read_between_their_rows():
    one = made("learned", Shape(4, 1, 1, 1), "pi", 8)
    with torch.no_grad():
        one.table.copy_(torch.tensor([[0.0], [10], [20], [50]]))
        nothing = torch.zeros(1, 8, 1, dtype=torch.float64)
        near(one.embedded(nothing, Standing(0, torch.arange(8))).flatten(), [0.0, 5, 10, 15, 20, 35, 50, 50])
        one.take("", 4)
        with pytest.raises(UserError, match="a table of 4 positions has no row 7"):
            one.embedded(nothing, Standing(0, torch.arange(8)))
        one.take("pi", 6)
        with pytest.raises(UserError, match="spread for 6 tokens, and one stands at 7"):
            one.embedded(nothing, Standing(0, torch.arange(8)))


def test_sinusoids_of_their_formula():
    one = made("sinusoidal", Shape(16, 4, 1, 4))
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    got = one.embedded(x, Standing(2, torch.arange(7)))
    wanted = [[math.sin(p), math.sin(p / 100), math.cos(p), math.cos(p / 100)] for p in range(2, 7)]
    near(got[0] - 2 * x[0], wanted)


def test_random_positions_rise_and_are_the_same_for_the_same_length():
    one = made("randomized", to=40)
    found = one.positions(40)
    assert bool((found[1:] > found[:-1]).all()) and int(found.min()) >= 0 and int(found.max()) < 2048
    assert torch.equal(one.positions(9), found[:9])
    one.take("", 2048)
    assert torch.equal(one.positions(2048), torch.arange(2048))
    with pytest.raises(UserError, match="drawn for texts of 2,049 tokens"):
        one.take("", 2049)
        one.positions(3)
    one.take("", 16)
    with pytest.raises(UserError, match="one of 17 is read"):
        one.positions(17)
    one.train()
    torch.manual_seed(5)
    first, second = one.positions(30), one.positions(30)
    assert not torch.equal(first, second) and len(first) == 30
    torch.manual_seed(5)
    assert torch.equal(one.positions(30), first)


def test_nope_sees_a_bag_in_one_layer():
    q, k, v = heads()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    standing, one = Standing(N - 1, torch.arange(N)), made("nope")
    got = one.attended(q[:, :, -1:], k[:, :, order], v[:, :, order], standing)
    torch.testing.assert_close(got, one.attended(q[:, :, -1:], k, v, standing))
