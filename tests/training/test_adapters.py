"""Adapters: counts of the papers, a start that changes nothing, files that peft reads, ropes that are told apart."""

from __future__ import annotations

import copy
import json
import re
import shlex
import sys

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import ropewalk
from ropewalk import DualChunk, NTKAware, PositionInterpolation, S2Attention, SelfExtend, UserError, YaRN
from ropewalk.checkpoint.adapter_folder import CONFIG, WEIGHTS, AdapterFolder
from ropewalk.cli.main import run
from ropewalk.training.adapters import Adapter, adapt, digest, load, merged
from ropewalk.training.optimizers import Optimizer
from tests.models import tiny, tokens

BOTH = ("embeddings", "norms")
IDS = tokens(2, 24)


def extended(family="llama", method=None, **more):
    model = tiny(family, **more)
    (method or YaRN()).extend(model, to=256)
    return model


def moved(adapter: Adapter) -> Adapter:
    """As after a training: every trained number is another."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for one in adapter.parameters().values():
            one.add_(torch.randn(one.shape, generator=generator).to(one.dtype) * 0.05)
    return adapter


@torch.no_grad()
def logits(model):
    return model.eval()(IDS).logits.float()


def off(one, other):
    """Relative, over all logits."""
    return float((one - other).norm() / other.norm())


def halved(model, dtype=torch.bfloat16):
    """As a load in that type: the rotation stays float32."""
    for one in model.parameters():
        one.data = one.data.to(dtype)
    return model


def trained(model):
    return {name for name, one in model.named_parameters() if one.requires_grad}


def shaped(**more):
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(
            transformers.LlamaConfig(hidden_size=4096, num_attention_heads=32, tie_word_embeddings=False, **more)
        )


LLAMA_2 = dict(vocab_size=32000, intermediate_size=11008)
LLAMA_3 = dict(vocab_size=128256, intermediate_size=14336, num_key_value_heads=8)


@pytest.mark.parametrize(("model", "layers", "how", "counts"), [
    (LLAMA_2, 32, dict(rank=8, also=BOTH), (8_388_608, 131_072_000, 266_240)),
    (LLAMA_2, 2, dict(rank=64, targets=["all"]), (159_907_840, 0, 0)),
    (LLAMA_3, 2, dict(rank=32, also=["embeddings"]), (27_262_976, 525_336_576, 0)),
], ids=["Llama-2-7B, LongLoRA", "Llama-2-7B, LongQLoRA", "Llama-3-8B, Overnight"])  # fmt: skip
def test_counts_are_those_of_the_papers(model, layers, how, counts):
    adapter = adapt(shaped(num_hidden_layers=layers, **model), **how)
    found = adapter.counts()
    assert (found["factors"] * 32 // layers, found["embeddings"], found["norms"]) == counts
    assert sum(one.numel() for one in adapter.model.parameters() if one.requires_grad) == sum(found.values())


@pytest.mark.parametrize("quantise", [None, "nf4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_begins_as_the_base_bit_for_bit(dtype, quantise):
    plain, model = halved(extended(), dtype), halved(extended(), dtype)
    before = plain(input_ids=IDS, labels=IDS)
    if quantise:  # against the quantised base
        adapter = adapt(model, targets=["all"], also=BOTH, quantise=quantise)
        with torch.no_grad():
            for module in adapter.factors.values():
                module.scaling["default"] = 0.0
        before = model(input_ids=IDS, labels=IDS)
        for module in adapter.factors.values():
            module.scaling["default"] = 2.0
    else:
        adapter = adapt(model, targets=["all"], also=BOTH)
    after = model(input_ids=IDS, labels=IDS)
    assert torch.equal(before.loss, after.loss) and torch.equal(before.logits, after.logits)
    assert {one.dtype for one in adapter.parameters().values()} == {dtype}
    apart = off(after.logits.float(), plain(IDS).logits.float())
    assert (0.01 < apart < 0.7) if quantise else apart == 0  # 4 bits are not the same, and not something else


@pytest.mark.parametrize("quantise", [None, "nf4"])
def test_only_what_was_asked_for_is_trained(quantise):
    model = extended()
    base = {name: one.detach().clone() for name, one in model.named_parameters()}
    adapter = adapt(model.train(), targets=["attention"], also=["norms"], quantise=quantise)
    optimizer = Optimizer(model.named_parameters(), learning_rate=1e-2)
    losses = []
    for _ in range(6):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
        model.eval()
        with torch.no_grad():  # an evaluation in between changes nothing of what is trained
            model(IDS)
        model.train()
    assert losses[-1] < losses[0] - 0.1
    factors = {name for name in trained(model) if ".lora_" in name}
    assert len(factors) == 2 * 4 * 2 and trained(model) - factors == {name for name in base if "norm" in name}
    for name, one in model.named_parameters():
        plain = name.replace(".base_layer", "")
        if name not in trained(model) and one.is_floating_point():
            assert torch.equal(one, base[plain]), name
        elif plain in base and one.is_floating_point():
            assert not torch.equal(one, base[plain]), name
    assert set(optimizer.masters) == trained(model) and len(adapter.parameters()) == len(trained(model))


CASES = [("llama", {}), ("llama", {"tie_word_embeddings": True}), ("qwen3", {"tie_word_embeddings": True}),
         ("gpt_neox", {}), ("phi3", {}), ("gemma2", {}), ("olmo2", {})]  # fmt: skip


@pytest.mark.parametrize(("family", "more"), CASES)
def test_what_is_saved_is_what_is_loaded_here_by_peft_and_in_the_merged_model(family, more, tmp_path):
    model = extended(family, PositionInterpolation(), **more)
    base = copy.deepcopy(model)
    adapter = moved(adapt(model, targets=["all"], also=BOTH, base="BASE"))
    live = logits(model)
    assert (live - logits(base)).abs().max() > 0.1
    folder = adapter.save(tmp_path / "adapter")

    here = copy.deepcopy(base)
    again = load(here, folder)
    assert torch.equal(logits(here), live) and trained(here) == trained(model) and again.base == "BASE"
    again.save(tmp_path / "again")
    one, other = (AdapterFolder.open(tmp_path / name) for name in ("adapter", "again"))
    assert one.header == other.header and one.rope == other.rope and one.digest == other.digest != ""
    assert (tmp_path / "again" / CONFIG).read_bytes() == (folder / CONFIG).read_bytes()

    theirs = PeftModel.from_pretrained(copy.deepcopy(base), folder)
    assert torch.equal(logits(theirs), live)

    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert tied is (base.get_input_embeddings().weight is base.get_output_embeddings().weight)
    plain = merged(adapter)
    assert [name for name, _ in plain.named_parameters()] == [name for name, _ in base.named_parameters()]
    assert (plain.get_input_embeddings().weight is plain.get_output_embeddings().weight) is tied
    assert off(logits(plain), live) < 5e-6  # float32, and CPUs round differently


def test_an_adapter_of_peft_is_loaded_with_a_word_that_its_rope_is_not_known(tmp_path, caplog):
    model = extended()
    base = copy.deepcopy(model)
    config = LoraConfig(r=4, lora_alpha=3, use_rslora=True, target_modules=["q_proj", "down_proj"],
                        modules_to_save=["norm"], init_lora_weights=False)  # fmt: skip
    peft = get_peft_model(model, config)
    peft.save_pretrained(tmp_path)
    live = logits(peft)
    adapter = load(base, tmp_path)
    assert torch.equal(logits(base), live) and "does not say which rope" in caplog.text
    assert torch.allclose(logits(merged(adapter)), live, atol=2e-5)


def test_an_adapter_is_refused_on_another_rope_with_the_line_that_mends_it(tmp_path, monkeypatch):
    model, _ = ropewalk.load("demo", device="cpu")
    YaRN().extend(model, to=2048)
    folder = moved(adapt(model)).save(tmp_path / "adapter")
    expected = logits(model)

    plain, _ = ropewalk.load("demo", device="cpu")
    names = [name for name, _ in plain.named_parameters()]
    with pytest.raises(UserError) as refusal:
        load(plain, folder)
    assert "was trained under a rope of yarn" in refusal.value.message
    assert "demo rotates by a rope of default" in refusal.value.message
    assert [name for name, _ in plain.named_parameters()] == names and all(p.requires_grad for p in plain.parameters())

    monkeypatch.chdir(tmp_path)  # the command, as it stands
    line = re.search(r"ropewalk extend.*?(?=   )", refusal.value.mend)[0]
    assert run(shlex.split(line)[1:]) == 0
    mended, _ = ropewalk.load("demo-2k", device="cpu")
    load(mended, folder)
    assert torch.equal(logits(mended), expected)

    python = re.search(r"in Python: (.*)\)$", refusal.value.mend)[1]  # and the one for a live model
    exec(python, {"ropewalk": ropewalk, "model": plain})
    load(plain, folder)
    assert torch.equal(logits(plain), expected)


@pytest.mark.parametrize("other", [PositionInterpolation(), NTKAware(), YaRN(beta_fast=2), None])
def test_every_other_rope_is_another(other, tmp_path):
    folder = adapt(extended()).save(tmp_path / "adapter")
    model = tiny("llama") if other is None else extended(method=other)
    with pytest.raises(UserError, match="angles that they were not trained at\nExtend the base first"):
        load(model, folder)
    shorter = tiny("llama")
    YaRN().extend(shorter, to=128)
    with pytest.raises(UserError, match=r"256 tokens.*128 tokens"):
        load(shorter, folder)


def test_an_adapter_of_a_plain_model_is_refused_on_an_extended_one(tmp_path):
    folder = adapt(tiny("llama"), base="BASE").save(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"Take the base as it was in training: BASE\."):
        load(extended(), folder)


def test_a_model_that_rotates_by_something_else_than_it_says_saves_no_adapter(tmp_path):
    adapter = adapt(extended())
    adapter.model.model.rotary_emb.inv_freq.mul_(1.01)
    with pytest.raises(UserError, match="the configuration gives"):
        adapter.save(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_other_weights_of_the_same_shapes_are_another_base(tmp_path):
    model = extended()
    folder = adapt(model, base="BASE").save(tmp_path / "adapter")
    other = extended()
    with torch.no_grad():
        other.model.norm.weight[0] += 0.5
    with pytest.raises(UserError, match=r"trained on other weights.*\nTake its base: BASE"):
        load(other, folder)


@pytest.mark.parametrize("quantise", [None, "nf4"])
@pytest.mark.parametrize("moving", ["_proj", "layers.1.mlp.down_proj"])
def test_a_sibling_whose_linear_layers_alone_were_trained_is_another_base(moving, quantise, tmp_path):
    folder = adapt(extended(), base="BASE", quantise=quantise).save(tmp_path / "adapter")
    load(extended(), folder)
    sibling = extended()
    with torch.no_grad():
        for name, one in sibling.named_parameters():
            if moving in name:
                one.add_(torch.randn(one.shape, generator=torch.Generator().manual_seed(0)) * 0.02)
    with pytest.raises(UserError, match=r"trained on other weights.*\nTake its base: BASE"):
        load(sibling, folder)


def test_the_digest_is_that_of_the_base_in_every_type_and_state():
    model = halved(extended())
    mark = digest(model)
    assert digest(copy.deepcopy(model).float()) == mark
    assert moved(adapt(copy.deepcopy(model), also=BOTH, quantise="nf4")).digest == mark
    assert digest(tiny("olmo2")) != mark


@pytest.mark.parametrize(("more", "said"), [
    (dict(hidden_size=32), r"makes it \[\d+, \d+\]"), (dict(num_hidden_layers=1), "has no place for it"),
    (dict(num_key_value_heads=4), r"makes it \[\d+, \d+\]"),
])  # fmt: skip
def test_a_base_of_another_shape_is_refused_as_it_is(more, said, tmp_path):
    folder = adapt(extended(), base="BASE").save(tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    save_file(tensors, folder / WEIGHTS)  # without the note that would tell before
    model = tiny("llama", **more)
    with pytest.raises(UserError, match=f"{said}\nTake the base that it was trained on: BASE"):
        load(model, folder)
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_tensors_that_are_missing_are_missed(tmp_path):
    folder = adapt(extended()).save(tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({key: value for key, value in tensors.items() if key != name}, folder / WEIGHTS)
    with pytest.raises(UserError, match=r"lacks .*lora_B"):
        load(extended(), folder)
    save_file({key: value for key, value in tensors.items() if False}, folder / WEIGHTS)
    with pytest.raises(UserError, match="no low-rank factors"):
        load(extended(), folder)


def test_embeddings_trained_apart_from_their_head_are_not_put_into_both(tmp_path):
    model = extended(tie_word_embeddings=True)
    folder = moved(adapt(model, also=["embeddings"])).save(tmp_path / "adapter")
    tensors = load_file(folder / WEIGHTS)
    head = "base_model.model.lm_head.weight"
    for apart in ({head: tensors[head] + 1}, {}):
        others = {key: value for key, value in tensors.items() if key != head}
        save_file(others | apart, folder / WEIGHTS)
        with pytest.raises(UserError, match="embeddings apart from the head"):
            load(extended(tie_word_embeddings=True), folder)


def test_the_same_seed_is_the_same_adapter_and_the_global_state_stays():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (adapt(extended(), seed=seed).parameters() for seed in (1, 1, 2))
    torch.manual_seed(5)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_names_are_short_where_they_say_enough(tmp_path):
    def said(model, **how):
        folder = adapt(model, **how).save(tmp_path / "adapter", overwrite=True)
        return json.loads((folder / CONFIG).read_text())["target_modules"]

    assert said(extended()) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert said(extended(), targets=["q_proj", "v_proj"]) == ["q_proj", "v_proj"]
    assert said(extended("gpt_neox"), targets=["attention"]) == [
        f"gpt_neox.layers.{i}.attention.{name}" for i in range(2) for name in ("dense", "query_key_value")
    ] or said(extended("gpt_neox")) == ["dense", "query_key_value"]


@pytest.mark.parametrize(("how", "said"), [
    (dict(targets=["q_prj"]), "did you mean 'q_proj'"), (dict(targets=["lm_head"]), "lm_head"),
    (dict(targets=[]), "targets is empty"), (dict(also=["norm"]), "did you mean 'norms'"),
    (dict(quantise="int4"), "expected nf4"), (dict(rank=0), "rank is 0"), (dict(alpha=0), "alpha 0"),
    (dict(dropout=1.0), "dropout 1"),
])  # fmt: skip
def test_what_cannot_be_adapted_is_refused(how, said):
    model = extended()
    with pytest.raises(UserError, match=said):
        adapt(model, **how)
    assert all(one.requires_grad for one in model.parameters())


def test_one_adapter_is_enough():
    model = extended()
    adapt(model)
    with pytest.raises(UserError, match="has an adapter already"):
        adapt(model)


def test_a_training_over_four_bits_goes_on_over_four_bits(tmp_path):
    model = extended()
    folder = moved(adapt(model, quantise="nf4")).save(tmp_path / "adapter")
    again = extended()
    load(again, folder, quantise="nf4")
    assert torch.equal(logits(again), logits(model))
    whole = extended()
    load(whole, folder)
    assert off(logits(whole), logits(model)) > 0.01


def test_four_bits_are_not_merged_into():
    with pytest.raises(UserError, match="in 4 bits, which would round the adapter away"):
        merged(adapt(extended(), quantise="nf4"))


@pytest.mark.parametrize(("package", "how"), [("peft", {}), ("bitsandbytes", {"quantise": "nf4"})])
def test_a_missing_package_is_said(package, how, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"need the package '{package}'\n.* -m pip install .*{package}"):
        adapt(extended(), **how)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3"])
@pytest.mark.parametrize("method", [SelfExtend(window=16), DualChunk(), S2Attention()], ids=lambda method: method.name)
def test_attention_methods_work_on_it_as_on_the_base(method, family):
    plain, model = tiny(family), tiny(family)
    adapter = adapt(model, targets=["attention"])
    with method.on(plain, 96), method.on(model, 96):
        ids = tokens(1, 96)
        before, after = plain(ids).logits, model(ids).logits
        after.square().mean().backward()
    assert torch.equal(before, after)
    assert all(one.grad.abs().sum() > 0 for name, one in adapter.parameters().items() if "lora_B" in name)
