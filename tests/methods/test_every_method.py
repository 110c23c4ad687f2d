"""What every method of the catalogue must do, frequencies and attention alike: a file and one line meet all of this.

Methods that read with a memory meet ``tests/methods/memory/test_every_memory.py``.

Exceptions are declared by the class: ``exact_near``, ``cache_exact``, ``length_dependent``, ``causal``, ``by_content``.
"""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import FrozenInstanceError, fields, replace
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ropewalk
from ropewalk import FrequencyMethod, UserError, compose, method
from ropewalk.attention.regions import Layer
from ropewalk.checkpoint.inspection import inspect
from ropewalk.checkpoint.write import config_text
from ropewalk.methods.frequencies.none import Plain
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.methods.memory.trained_memory import TrainedMemory
from tests.matrix import (
    ATTENDING,
    TWICE,
    WINDOW,
    Case,
    buffers,
    every_case,
    every_entry,
    left_padded,
    logits,
    near,
    same,
    subject,
    text,
    traces,
)
from tests.methods import oracles
from tests.models import in_pieces, step, tiny

IDS = text(2, 98)  # beyond the window of 64
FULL = text(1, TWICE, seed=1)
FAMILIES = ("qwen3", "phi3", "gemma2", "gemma3", "gpt_oss", "smollm3")  # norms on heads, part of a head rotated,
# softcaps, sliding layers, sinks, layers without positions


@cache
def plain():
    return logits(subject(), FULL)


@cache
def without(family):
    return logits(subject(family), IDS)


@cache
def partnered(spelling):
    with method(spelling).on(subject(), to=TWICE):
        return logits(subject(), IDS)


@cache
def whole(case, family="llama"):
    """Logits of both rows in one forward."""
    with case.on(subject(family)):
        return logits(subject(family), IDS)


def exact(chosen):
    """Whether results do not depend on how a text is cut."""
    return chosen.cache_exact and not chosen.length_dependent


def by_content(chosen):
    return getattr(chosen, "by_content", False)


def reads(chosen):
    """Whether it reads texts in order, into a memory that is no cache of keys."""
    return isinstance(chosen, MemoryMethod)


def may_refuse(chosen, error):
    """Whether a method may refuse what was asked: keys that were picked, and a memory, are of one text in its order."""
    told = "cannot be given to other rows", "cannot be cut back", "num_beams"
    if reads(chosen):
        return any(one in str(error) for one in told)
    return by_content(chosen) and "in the cache without them" in str(error)


# What the catalogue says


@every_entry
def test_an_entry_loads_the_class_of_its_name(entry):
    assert entry.load().name == entry.id


@every_entry
def test_an_entry_names_the_axes_of_its_class(entry):
    assert set(entry.kind.split(", ")) == entry.load().axes


@every_entry
def test_the_class_is_a_public_name(entry):
    assert getattr(ropewalk, entry.load().__name__) is entry.load()


@every_entry
def test_the_docstring_explains_every_option(entry):
    texts = " ".join(kind.__doc__ or "" for kind in entry.load().__mro__)
    assert [f.name for f in fields(entry.load()) if f"{f.name}: " not in texts] == []


@every_entry
def test_it_is_computed_a_second_time(entry):
    own = Path(__file__).parent / "memory" / f"test_{entry.where.split(':')[0].partition('.')[2]}.py"
    reader = issubclass(entry.load(), MemoryMethod)  # what it reads has no table of keys, and a test of its own
    assert own.exists() if reader else entry.id in oracles.covered(), "add a row to tests/methods/oracles.py"


@every_entry
def test_an_unknown_option_is_refused(entry):
    with pytest.raises(UserError, match=f"{entry.id} has no option 'optoin'"):
        method(f"{entry.id}(optoin=1)")


# A method is a frozen value


@every_case
def test_the_id_reads_back(case):
    chosen = case.made(subject())
    assert method(chosen.id) == chosen and method(chosen.id).id == chosen.id


@every_case
def test_equal_options_are_equal_methods(case):
    one, other = case.made(subject()), case.made(subject())
    assert one == other and hash(one) == hash(other) and {one: 1}[other] == 1


@every_case
def test_options_cannot_be_assigned(case):
    chosen = case.made(subject())
    with pytest.raises(FrozenInstanceError):
        setattr(chosen, next((f.name for f in fields(chosen)), "option"), 1)


@every_case
def test_copies_and_pickles_are_equal(case):
    chosen = case.made(subject())
    assert copy.deepcopy(chosen) == chosen == pickle.loads(pickle.dumps(chosen))


def numbers(chosen):
    return [f.name for f in fields(chosen) if str(f.type).split(" |")[0] in ("int", "float")]


def refused(chosen, **options):
    with pytest.raises(UserError), replace(chosen, **options).on(subject(), to=TWICE):
        logits(subject(), IDS[:, :8])


@every_case
def test_numbers_that_are_none_are_refused(case):
    chosen = case.made(subject())
    for name in numbers(chosen):
        with pytest.raises(UserError):
            method(f"{case.entry.id}({name}='x')")
        for value in (math.nan, math.inf):
            refused(chosen, **{name: value})


@every_case
def test_negative_numbers_are_refused(case):
    chosen = case.made(subject())
    for name in numbers(chosen):
        refused(chosen, **{name: -1})


@every_case
def test_a_target_below_the_window_is_refused(case):
    if isinstance(case.made(subject()), Plain):
        pytest.skip("the plain model has no target")
    with pytest.raises(UserError, match="target 63 is shorter than the"), case.on(subject(), to=WINDOW - 1):
        pass


# What it does to the logits


def untouched(chosen):
    """Tokens of a text whose logits are the plain model's, by what the regions say at a target of the window."""
    if isinstance(chosen, FrequencyMethod):
        return WINDOW
    layer = chosen.seen_as(Layer(0, WINDOW, WINDOW, heads=4, kv_heads=2, length=WINDOW))
    m, n = torch.arange(WINDOW)[:, None], torch.arange(WINDOW)[None]
    plain_to = torch.zeros(4, WINDOW, dtype=torch.bool)  # for heads and queries, whether one region is all they see
    for region in chosen.regions(layer):
        in_place = (n >= region.lo(m)) & (n < region.hi(m)) & (region.q_pos(m) == m) & (region.k_pos(n) == n)
        plain_to[slice(*region.heads) if region.heads else slice(None)] |= (in_place | (n > m)).all(-1)
    as_plain = plain_to.all(0)
    factor = chosen.temperature(m.T, layer)
    if factor is not None:
        as_plain &= (factor == 1).flatten(0, -2).all(0)
    return int(as_plain.long().cumprod(0).sum())


@every_case
def test_short_texts_are_read_as_by_the_plain_model_bit_for_bit(case):
    model = subject()
    chosen, n = case.made(model), 0
    if not chosen.exact_near:
        ids = text(2, WINDOW)
    else:
        n = untouched(chosen)
        assert n >= WINDOW // 8
        ids = text(2, n)
    expected = logits(model, ids)
    with case.on(model, to=WINDOW):
        assert torch.equal(logits(model, ids), expected) == chosen.exact_near


@every_case
def test_a_long_text_is_read_otherwise(case):
    with case.on(subject()) as chosen:
        found = logits(subject(), FULL)
    assert found.isfinite().all()
    assert near(found, plain(), 1e-4) == isinstance(chosen, Plain)


@every_case
def test_pieces_give_what_one_forward_gives_unless_the_class_says_otherwise(case):
    with case.on(subject()) as chosen:
        assert near(in_pieces(subject(), IDS, 70, 22, *[1] * 6), whole(case)) == exact(chosen)


@every_case
def test_so_does_token_by_token(case):
    ids = IDS[:1, :76]
    with case.on(subject()) as chosen:
        assert near(in_pieces(subject(), ids, *[1] * 76), logits(subject(), ids)) == exact(chosen)


@every_case
def test_what_follows_changes_nothing_unless_the_class_says_otherwise(case):
    with case.on(subject()) as chosen:
        alone = logits(subject(), IDS[:, :75])
    settled = chosen.causal and not chosen.length_dependent
    assert near(alone, whole(case)[:, :75]) == settled


@every_case
def test_texts_leave_nothing_for_the_next(case):
    with case.on(subject()):
        logits(subject(), IDS[:1, :80].flip(1))
        in_pieces(subject(), IDS[:, :80].flip(1), 70, 10)
        assert torch.equal(logits(subject(), IDS), whole(case))


@every_case
def test_a_mask_of_ones_is_no_mask(case):
    with case.on(subject()):
        assert near(logits(subject(), IDS, attention_mask=torch.ones_like(IDS)), whole(case))


@every_case
def test_rows_do_not_see_each_other(case):
    with case.on(subject()):
        assert near(logits(subject(), IDS[1:]), whole(case)[1:])


@torch.no_grad()
@every_case
def test_a_padded_row_gives_what_it_gives_alone(case):
    model, pad = subject(), 30
    mask = left_padded(IDS, pad)
    with case.on(model) as chosen:
        first, held = step(model, IDS[:, :93], attention_mask=mask[:, :93])
        later, _ = step(model, IDS[:, 93:], held, attention_mask=mask)
        both = torch.cat([first, later], 1)
        assert near(both[1], in_pieces(model, IDS[1:], 93, 5)[0])
        if not chosen.length_dependent:  # else the longest row sets the length for all
            assert near(both[0, pad:], in_pieces(model, IDS[:1, pad:], 93 - pad, 5)[0])


@every_case
def test_packed_documents_do_not_see_each_other(case):
    model, ids = subject(), text(2, 140)
    with case.on(model) as chosen:
        first = 70 if chosen.length_dependent else 50  # else the longest document sets the length for all
        documents = (torch.arange(140) >= first).long()[None].repeat(2, 1)
        places = torch.arange(140) - first * documents
        if reads(chosen):
            with pytest.raises(UserError, match="from its first token to its last"):
                logits(model, ids, document_ids=documents, position_ids=places)
            return
        packed = logits(model, ids, document_ids=documents, position_ids=places)
        assert near(packed, torch.cat([logits(model, ids[:, :first]), logits(model, ids[:, first:])], 1))


@pytest.mark.parametrize("pieces", [(98,), (70, 28)], ids=["at once", "pieces"])
@every_case
def test_no_query_sees_what_follows_it(case, pieces):
    model, k = subject(), 8
    other = IDS.clone()
    other[:, -k:] = text(2, 98, seed=1)[:, -k:]
    with case.on(model) as chosen:
        a, b = in_pieces(model, IDS, *pieces), in_pieces(model, other, *pieces)
    assert near(a[:, :-k], b[:, :-k]) == getattr(chosen, "causal", True)
    assert not near(a[:, -k:], b[:, -k:], 1e-2)


@pytest.mark.parametrize("kv_heads", [1, 4])
@every_case
def test_heads_may_share_keys_or_not(case, kv_heads):
    model = subject(num_key_value_heads=kv_heads)
    with case.on(model) as chosen:
        once = logits(model, IDS)
        assert near(in_pieces(model, IDS, 70, 28), once) == exact(chosen)
    assert isinstance(chosen, Plain) or not near(once, logits(model, IDS), 1e-4)


@cache
def halved(dtype):
    half = tiny("llama", vocab_size=300).to(dtype)
    for name, buffer in subject().named_buffers():  # .to() rounds the frequencies too, from_pretrained does not
        half.get_buffer(name).data = buffer.clone()
    return half


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@every_case
def test_half_precision_stays_near(case, dtype):
    def last(model):
        _, held = step(model, FULL[:, :127])
        return step(model, FULL[:, 127:], held)[0][0, -1].float()

    with case.on(subject()) as chosen:
        expected = last(subject())
    with case.on(halved(dtype)):
        found = last(halved(dtype))
    assert found.isfinite().all()
    if not by_content(chosen):  # choices may differ by rounding
        assert near(found, expected, 0.05)


@every_case
def test_gradients_flow_or_are_refused(case):
    model = tiny("llama", vocab_size=300)
    with case.on(model) as chosen:
        if by_content(chosen):
            with pytest.raises(UserError, match="picked by content, which has no gradient"):
                model(IDS)
        elif reads(chosen) and not isinstance(chosen, TrainedMemory):
            with pytest.raises(UserError, match=r"training|gradient|no_grad"):
                model.train()(IDS)
        elif reads(chosen):  # of the base, what is trained or passed through
            model(IDS, labels=IDS, use_cache=False).loss.backward()
            assert all(one.grad.isfinite().all() for one in model.parameters() if one.grad is not None)
            assert any(one.grad is not None and one.grad.any() for one in model.ropewalk_memory.parameters())
        else:
            model(IDS, labels=IDS, use_cache=False).loss.backward()
            assert all(weight.grad.isfinite().all() and weight.grad.any() for weight in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@every_entry
def test_architectures(entry, family):
    model, case = subject(family), Case(entry, 0)
    chosen = case.made(model)
    state = buffers(model)
    if chosen.exact_near and not reads(chosen):
        short = text(2, max(8, min(untouched(chosen), 16)))  # sliding layers see 16
        expected = logits(model, short)
        with case.on(model, to=WINDOW):  # attention with sinks or softcaps is written out by transformers
            assert near(logits(model, short), expected, 1e-5 if family in ("gemma2", "gpt_oss") else 0)
    try:
        with case.on(model):
            pass
    except UserError as error:
        assert reads(chosen) and "cannot be given another mixer" in str(error)
        return
    with case.on(model):
        once = logits(model, IDS)
        assert once.isfinite().all()
        assert near(in_pieces(model, IDS, 70, 27, 1), once) == exact(chosen)
    assert same(buffers(model), state)
    assert near(once, without(family), 1e-4) == isinstance(chosen, Plain)


# Caches and generation


@torch.no_grad()
@every_case
def test_a_cropped_cache_goes_on_with_another_text(case):
    model, other = subject(), text(2, 98, seed=1)
    joined = torch.cat([IDS[:, :70], other[:, 70:90]], 1)
    with case.on(model) as chosen:
        _, held = step(model, IDS[:, :70])
        expected = in_pieces(model, joined[:, 70:], 10, 10, cache=held)
        _, held = step(model, IDS[:, :70])
        _, held = step(model, IDS[:, 70:90], held)
        if reads(chosen):
            with pytest.raises(UserError, match="cannot be cut back"):
                held.crop(-20)
            return
        held.crop(-20)
        assert near(in_pieces(model, joined[:, 70:], 10, 10, cache=held), expected)


@torch.no_grad()
@every_case
def test_rows_of_a_cache_may_change_places(case):
    model, new = subject(), text(2, 2, seed=1)
    with case.on(model) as chosen:
        _, held = step(model, IDS)
        try:
            held.reorder_cache(torch.tensor([1, 0]))
            found, _ = step(model, new, held)
        except UserError as error:
            assert may_refuse(chosen, error)
            return
        assert near(found, in_pieces(model, torch.cat([IDS.flip(0), new], 1), 98, 2)[:, -2:])


@torch.no_grad()
@every_case
def test_texts_with_caches_of_their_own_may_take_turns(case):
    model, texts = subject(), [IDS[:1], IDS[1:, :90]]
    with case.on(model) as chosen:
        alone = [in_pieces(model, ids, ids.shape[1] - 2, 1, 1)[:, -2:] for ids in texts]
        caches = [step(model, ids[:, :-2])[1] for ids in texts]
        try:
            for i in (0, 1):
                for ids, held, wanted in zip(texts, caches, alone, strict=True):
                    at = ids.shape[1] - 2 + i
                    assert near(step(model, ids[:, at : at + 1], held)[0], wanted[:, i : i + 1])
        except UserError as error:
            assert by_content(chosen) and "in the cache without them" in str(error)


OPTIONS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1, "disable_compile": True}


def generated(model, **more):
    ids = IDS[:, :80]
    return model.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS, **more)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["dynamic", "static"])
@every_case
def test_generate_gives_the_tokens_of_single_steps(case, implementation):
    model = subject()
    with case.on(model):
        found, new, held = [], IDS[:, :80], None
        for _ in range(5):
            scores, held = step(model, new, held)
            new = scores[:, -1:].argmax(-1)
            found.append(new)
        assert torch.equal(generated(model, cache_implementation=implementation)[:, 80:], torch.cat(found, 1))


@every_case
def test_beams_give_what_they_give_without_a_cache(case):
    model = subject()
    with case.on(model) as chosen:
        try:
            found = generated(model, num_beams=3)
        except UserError as error:
            assert may_refuse(chosen, error)
            return
        if exact(chosen):
            assert torch.equal(found, generated(model, num_beams=3, use_cache=False))
        assert torch.equal(found[:1], generated_alone(model, num_beams=3))


def generated_alone(model, **more):
    ids = IDS[:1, :80]
    return model.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS, **more)


# Leaving the model as it was


@every_case
def test_all_is_put_back_bit_for_bit(case):
    model = subject()
    state, before = buffers(model), traces(model)
    with case.on(model):
        logits(model, IDS)
    assert same(buffers(model), state) and traces(model) == before
    assert torch.equal(logits(model, FULL), plain())


@every_case
def test_all_is_put_back_after_an_exception_inside_a_forward(case):
    model = subject()
    state, before = buffers(model), traces(model)
    with pytest.raises(IndexError), case.on(model):
        logits(model, torch.full((1, 8), 10**6))
    with pytest.raises(KeyboardInterrupt), case.on(model):
        raise KeyboardInterrupt
    assert same(buffers(model), state) and traces(model) == before
    assert torch.equal(logits(model, FULL), plain())


@every_case
def test_another_model_is_left_alone(case):
    other = tiny("llama", vocab_size=300)
    with case.on(other):
        assert torch.equal(logits(subject(), FULL), plain())


@every_case
def test_a_second_method_on_top_is_refused(case):
    with (
        case.on(subject()) as chosen,
        pytest.raises(UserError, match="is on this model already; pi cannot be put on top") as error,
        method("pi").on(subject(), to=TWICE),
    ):
        pass
    assert error.value.message.startswith(chosen.id)


@every_case
def test_the_target_is_the_promised_length_where_none_is_given(case):
    promised = tiny("llama", vocab_size=300, max_position_embeddings=WINDOW)
    with case.on(promised, to=None):
        found = logits(promised, IDS[:, :WINDOW])
    with case.on(subject(), to=WINDOW):
        assert torch.equal(logits(subject(), IDS[:, :WINDOW]), found)


@every_case
def test_the_attention_implementation_does_not_matter(case):
    eager = tiny("llama", vocab_size=300, attn_implementation="eager")
    with case.on(eager):
        assert near(logits(eager, IDS), whole(case))
    assert eager.config._attn_implementation == "eager"


@every_entry
def test_the_method_is_saved_or_refused_with_a_reason(entry, tmp_path):
    model = tiny("llama", vocab_size=300)
    before, chosen = copy.deepcopy(model.config.to_dict()), entry.load().examples(model.config)[0]
    if not isinstance(chosen, FrequencyMethod) or entry.exportable.startswith("no"):
        with pytest.raises(UserError, match="cannot be saved in a configuration: "):
            chosen.extend(model, to=TWICE)
        assert model.config.to_dict() == before and torch.equal(logits(model, FULL), plain())
        assert not entry.exportable.startswith("yes")
        return
    chosen.extend(model, to=TWICE)
    (tmp_path / "config.json").write_text(config_text(model.config))
    assert inspect(tmp_path).problems == [], "what is written here is sound"
    again = type(model)(copy.deepcopy(model.config)).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(logits(again, FULL), logits(model, FULL))
    if not chosen.length_dependent:
        with chosen.on(subject(), to=TWICE):
            assert near(logits(model, FULL), logits(subject(), FULL), 1e-4)


# Fingerprints: results are stored under them


def others(chosen):
    """The same class with one option changed; some do not fit."""
    for f in fields(chosen):
        value = getattr(chosen, f.name)
        if isinstance(value, bool):
            values = [not value]
        elif isinstance(value, (int, float)):
            values = [type(value)(2 * value), type(value)(value / 2)]
        else:
            values = [WINDOW // 2, *(get_args(f.type) if value is None or isinstance(value, str) else ())]
        for v in values:
            try:
                yield replace(chosen, **{f.name: v})
            except (UserError, TypeError):
                continue


@every_case
def test_a_fingerprint_is_that_of_the_values(case):
    model, twin = subject(), tiny("llama", vocab_size=300)
    assert case.made(model).fingerprint(model, TWICE) == case.made(twin).fingerprint(twin, TWICE)


@every_case
def test_equal_fingerprints_give_equal_logits(case):
    model, found = subject(), {}
    chosen = case.made(model)
    for one, to in [(chosen, TWICE), (chosen, 2 * TWICE), (Plain(), TWICE), *((o, TWICE) for o in others(chosen))]:
        try:
            with one.on(model, to=to):
                got = logits(model, IDS[:1])
        except (UserError, TypeError):
            continue
        assert torch.equal(found.setdefault(one.fingerprint(model, to), got), got), (one.id, to)


# Composition


SPARSE = "vertical-slash(vertical=8, slash=2, sinks=2, near=1, last=8, threshold=65)"


@pytest.mark.parametrize("spelling", ["yarn", "dca", "log-n", SPARSE], ids=lambda spelling: spelling.split("(")[0])
@every_case
def test_it_joins_methods_on_other_axes_and_no_others(case, spelling):
    model = subject()
    chosen, partner = case.made(model), method(spelling)
    if shared := chosen.axes & partner.axes:
        with pytest.raises(UserError, match=f"both set the ({'|'.join(shared)})"):
            compose(chosen, partner)
        return
    if getattr(chosen, "sets_regions", False) and getattr(partner, "sets_regions", False):
        with pytest.raises(UserError, match="both say which keys are seen"):
            compose(chosen, partner)
        return
    if reads(chosen) and not isinstance(partner, FrequencyMethod):
        with pytest.raises(UserError, match="reads a text in pieces of its own"):
            compose(chosen, partner)
        return
    joined = compose(chosen, partner)
    assert joined == compose(partner, chosen) == method(joined.id)
    assert joined.axes == chosen.axes | partner.axes
    assert exact(joined) == (exact(chosen) and exact(partner))
    with joined.on(model, to=TWICE):
        try:
            once = logits(model, IDS)
        except UserError as error:
            assert "does not join" in error.message
            return
        assert exact(joined) <= near(in_pieces(model, IDS, 70, 28), once)
    assert isinstance(chosen, Plain) or not near(once, partnered(spelling), 1e-4)


@every_case
def test_it_does_not_join_itself(case):
    with pytest.raises(UserError, match="both set the"):
        compose(case.made(subject()), case.made(subject()))


# Devices and memory


@pytest.mark.gpu
@every_case
def test_a_gpu_gives_what_the_cpu_gives(case):
    model = tiny("llama", vocab_size=300).to("cuda")
    with case.on(model):
        assert near(logits(model, IDS.to("cuda")).cpu(), whole(case), 1e-3)


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        out = function(*arguments, **(keywords or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor):
                self.elements = max(self.elements, x.untyped_storage().nbytes() // max(1, x.element_size()))
        return out


@cache
def small():
    return tiny("llama", num_hidden_layers=1, hidden_size=16, intermediate_size=16, num_attention_heads=2,
                num_key_value_heads=1, head_dim=16, max_position_embeddings=2048)  # fmt: skip


@torch.no_grad()
@every_entry
def test_a_long_prompt_never_makes_queries_by_keys(entry):
    model, n = small(), 4096
    ids, chosen = torch.arange(n)[None] % 90, entry.load().examples(small().config)[-1]
    with chosen.on(model, to=n), Largest() as seen:
        model.model(ids, use_cache=False)
    assert 16 * n <= seen.elements <= (n * n // 8 if by_content(chosen) else 64 * n)


# How much this is


def test_every_method_meets_forty_checks_by_name():
    class Collected:
        def pytest_collection_modifyitems(self, items):
            self.items = list(items)

    options = ["--collect-only", "-o", "addopts=", "-p", "no:terminal", "-p", "no:cacheprovider"]
    pytest.main([*options, __file__], plugins=[collected := Collected()])
    met = {}
    for item in collected.items:
        parameters = getattr(item, "callspec", None) and item.callspec.params
        if parameters and ("entry" in parameters or "case" in parameters):
            name = (parameters.get("entry") or parameters["case"].entry).id
            met[name] = met.get(name, 0) + 1
    assert set(met) == {entry.id for entry in ATTENDING} and min(met.values()) >= 40
