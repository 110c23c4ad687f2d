from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from ropewalk.backends.backend import Ask, Reply
from ropewalk.backends.nll import answer_match, token_nll
from ropewalk.backends.prefix import Runner, Trunk
from ropewalk.methods.catalogue import method
from tests.models import FAMILIES, shared, tiny

PACKED = {"llama", "qwen2", "qwen3", "phi3", "gpt_neox", "olmo2", "cohere"}


def greedy(model: PreTrainedModel, prompt: list[int], room: int) -> list[int]:
    """Decoding without any cache."""
    row = list(prompt)
    for _ in range(room):
        ids = torch.tensor([row])
        with torch.no_grad():
            row.append(int(model(ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1].argmax()))
    return row[len(prompt) :]


def grid(rng: random.Random, n_prompts: int = 7, length: int = 60) -> list[list[int]]:
    """Prompts of several lengths with a needle at several places of one haystack, and two that share nothing."""
    hay = [rng.randint(3, 96) for _ in range(length)]
    prompts = []
    for i in range(n_prompts):
        cut = length * i // n_prompts
        size = rng.choice([length, length // 2 + 3])
        planted = [*hay[:cut], 90 + i % 3, rng.randint(3, 96), *hay[cut:]]
        prompts.append([*planted[:size], 7, 8, 9])
    return [*prompts, [rng.randint(3, 96) for _ in range(length)], [5]]


def replies(runner: Runner, asks: list[Ask]) -> list[Reply]:
    found = dict(runner.run(asks))
    assert sorted(found) == list(range(len(asks)))
    return [found[i] for i in range(len(asks))]


def trie_tokens(asks: list[Ask]) -> int:
    prompts = {tuple(ask.prompt[: n + 1]) for ask in asks for n in range(len(ask.prompt))}
    return len(prompts)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_prefixes_change_no_answer(family: str) -> None:
    model, rng = shared(family), random.Random(1)
    prompts = grid(rng)
    right = [greedy(model, prompt, 3) for prompt in prompts]
    wrong = [[*answer[:2], (answer[2] + 1) % 90] for answer in right]
    for answers, expected in ((right, True), (wrong, False)):
        plain = [answer_match(model, [p], [a])[0] for p, a in zip(prompts, answers, strict=True)]
        runner = Runner(model, step=32)
        assert runner.way == ("packed" if family in PACKED else "forked"), runner.how
        for reply, (verdict, logprob) in zip(
            replies(runner, [Ask(p, a) for p, a in zip(prompts, answers, strict=True)]), plain, strict=True
        ):
            assert reply.right is verdict is expected
            assert reply.logprob == pytest.approx(logprob, abs=2e-4)
        assert runner.read < 0.7 * runner.asked


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss", "cohere"])
def test_parallel_decoding_writes_what_decoding_without_a_cache_writes(family: str) -> None:
    model, prompts = shared(family), grid(random.Random(2))
    asks = [Ask(prompt, (4, 4), room=6) for prompt in prompts]
    runner = Runner(model, step=40)
    stops = runner.stops
    for prompt, reply in zip(prompts, replies(runner, asks), strict=True):
        expected = greedy(model, prompt, 6)
        end = next((i for i, token in enumerate(expected) if token in stops), 6)
        assert list(reply.written) == expected[:end]
        assert reply.right is (expected[:2] == [4, 4])


def test_decoding_ends_at_the_end_of_text_and_leaves_it_out() -> None:
    model = shared("llama")
    prompt = grid(random.Random(3))[0]
    written = greedy(model, prompt, 5)
    runner = Runner(model)
    runner.stops = frozenset({written[3]})
    first = written.index(written[3])
    assert replies(runner, [Ask(prompt, room=5), Ask([*prompt, 5], room=1)])[0].written == tuple(written[:first])


@settings(max_examples=60)
@given(
    prompts=st.lists(st.lists(st.integers(3, 5), min_size=1, max_size=24), min_size=1, max_size=9),
    step=st.integers(1, 30),
    masked=st.booleans(),
)
def test_each_token_of_the_trie_is_read_once(prompts: list[list[int]], step: int, masked: bool) -> None:
    """Duplicates, prefixes of each other, single tokens; nothing wanted but the answer's first token."""
    model = shared("llama")
    runner = Runner(model, step=step, batch_tokens=1)
    runner.way = "packed" if masked else "forked"
    asks = [Ask(prompt, (3,)) for prompt in prompts]
    plain = [answer_match(model, [prompt], [[3]])[0] for prompt in prompts]
    for reply, (right, logprob) in zip(replies(runner, asks), plain, strict=True):
        assert reply.right is right and reply.logprob == pytest.approx(logprob, abs=2e-4)
    ends = len(prompts)  # a prompt that ends where others go on has its last token read for itself
    assert trie_tokens(asks) <= runner.read <= trie_tokens(asks) + ends


def test_growing_and_forgetting_copy_nothing() -> None:
    runner = Runner(shared("llama"))
    trunk = Trunk(runner, 200)
    trunk.forward(list(range(3, 60)))
    layer = trunk.cache.layers[0]
    where, kept = layer.keys.data_ptr(), layer.keys.clone()
    trunk.forward(list(range(3, 90)))
    trunk.cut(57)
    assert layer.keys.data_ptr() == where and torch.equal(layer.keys, kept)
    trunk.forward([3] * (layer.capacity + 1 - 57))
    assert torch.equal(layer.keys[..., :57, :], kept), "more than there is room for"


def test_losses_of_a_long_text_are_those_of_one_forward() -> None:
    for family in ("llama", "mistral", "gpt_oss"):
        ids = [random.Random(4).randint(3, 96) for _ in range(150)]
        runner = Runner(shared(family), step=32, batch_tokens=100)
        expected = token_nll(shared(family), torch.tensor([ids]))[0]
        assert torch.allclose(runner.losses(ids), expected, atol=2e-4)
        assert runner.read == 149
        assert torch.equal(Runner(shared(family)).losses(ids), expected)


@pytest.mark.parametrize("name", ["yarn", "ntk-by-parts", "entropy-abf", "harpe(base_min=1e6, base_max=5e6)"])
def test_methods_that_do_not_depend_on_length_share_prefixes(name: str) -> None:
    model, prompts = tiny("llama"), grid(random.Random(5), length=100)
    with method(name).on(model, 256):
        runner = Runner(model, step=48)
        expected = [answer_match(model, [prompt], [[3, 4]])[0][1] for prompt in prompts]
        found = replies(runner, [Ask(prompt, (3, 4)) for prompt in prompts])
        assert [reply.logprob for reply in found] == pytest.approx(expected, abs=3e-4)
        static = name in ("yarn", "ntk-by-parts")
        assert runner.way == ("packed" if static else "forked"), runner.how


def test_what_is_not_exact_is_run_plainly_and_says_so() -> None:
    model, prompts = tiny("llama"), grid(random.Random(6))
    with method("dynamic-ntk").on(model, 256):
        runner = Runner(model, inexact="frequencies depend on the length")
        expected = [answer_match(model, [prompt], [[3, 4]])[0] for prompt in prompts]
        found = replies(runner, [Ask(prompt, (3, 4)) for prompt in prompts])
        assert [(reply.right, reply.logprob) for reply in found] == [
            (r, pytest.approx(v, abs=1e-5)) for r, v in expected
        ]
        assert runner.how == "plain: frequencies depend on the length" and runner.read == runner.asked


def test_a_method_that_acts_on_the_cache_is_decoded_by_the_models_own_generate() -> None:
    model, prompts = shared("llama"), grid(random.Random(7))[:3]
    runner = Runner(model, inexact="the cache is compressed", decoding_decides=True)
    right = [greedy(model, prompt, 3) for prompt in prompts]
    found = replies(runner, [Ask(p, a) for p, a in zip(prompts, [right[0], right[1], [4, 4, 4]], strict=True)])
    assert [reply.right for reply in found] == [True, True, False]
    assert all(reply.logprob is None and reply.written == () for reply in found)


def test_attention_that_takes_no_mask_of_ours_is_asked_one_branch_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    monkeypatch.setattr("ropewalk.backends.prefix.Tree.read", _breaks_with_a_mask())
    runner = Runner(model)
    assert runner.way == "forked" and "RuntimeError" in runner.why


def _breaks_with_a_mask():
    from ropewalk.backends.prefix import Tree

    read = Tree.read

    def guarded(tree: Tree, keep: list[int], targets: list[int]) -> torch.Tensor:
        if tree.masked:
            raise RuntimeError("no mask of this shape")
        return read(tree, keep, targets)

    return guarded


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="no tokens"):
        list(Runner(shared("llama")).run([Ask([])]))


@pytest.mark.parametrize("way", ["packed", "forked", "plain"])
def test_decoding_stops_at_texts(way: str) -> None:
    model, rng = shared("llama"), random.Random(3)
    prompts = grid(rng)
    runner = Runner(model, decode=lambda ids: "".join(f"<{i}>" for i in ids))
    runner.way = way
    whole = [reply.written for reply in replies(runner, [Ask(prompt, room=8) for prompt in prompts])]
    ends = [(f"<{tokens[2]}><{tokens[3]}>", "never") for tokens in whole]
    got = [
        reply.written for reply in replies(runner, [Ask(p, room=8, ends=e) for p, e in zip(prompts, ends, strict=True)])
    ]
    assert all(short == tokens[: len(short)] for short, tokens in zip(got, whole, strict=True))
    assert all("".join(f"<{i}>" for i in short).endswith(end) for short, (end, _) in zip(got, ends, strict=True))
    assert any(len(short) == 4 for short in got)
