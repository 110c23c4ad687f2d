"""A model is loaded only if every weight of it comes from the checkpoint; transformers would fill in random numbers."""

from __future__ import annotations

import logging
import re
import resource
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from ropewalk import UserError, method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.weights import check_weights, refuse_cast, refuse_renamed
from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from tests.architectures import ARCHITECTURES, build
from tests.cli.test_main import byte_tokenizer, refused
from tests.engines.gguf.checkpoints import edit
from tests.models import tiny


def loaded(folder: Path):
    return Checkpoint.open(folder)._live("auto") if check_weights(folder) else None


def compared(folder: Path):
    """By headers alone, as ``extend`` and ``export`` do."""
    config = AutoConfig.from_pretrained(folder)  # ropes that cannot be extended are not the question here
    refuse_renamed(check_weights(folder), config)


Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


def change(folder: Path, how) -> Path:
    """Write the tensors again as ``how`` returns them."""
    file = folder / "model.safetensors"
    save_file({name: value.clone() for name, value in how(load_file(file)).items()}, file, {"format": "pt"})
    return folder


def saved(folder: Path, how=lambda tensors: tensors, **keys) -> Path:
    tiny("llama", vocab_size=260, **keys).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return change(folder, how)


def without(*names: str):
    return lambda tensors: {name: value for name, value in tensors.items() if name not in names}


def prefixed(prefix: str):
    return lambda tensors: {prefix + name: value for name, value in tensors.items()}


def adding(*names: str):
    return lambda tensors: tensors | {name: torch.zeros(4, 4) for name in names}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_save_pretrained_writes_is_accepted_and_less_is_refused(architecture, tmp_path, caplog):
    build(architecture).save_pretrained(tmp_path)
    names = sorted(load_file(tmp_path / "model.safetensors"))
    for look in (loaded, compared):
        look(tmp_path)
    change(tmp_path, without(names[len(names) // 2]))
    for look in (loaded, compared):
        with pytest.raises(UserError, match=r"the weights lack 1 of|tensor '.*' is \[|make one of the model's"):
            look(tmp_path)
    assert "not compared" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("look", [loaded, compared])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_single_tensor_is_missed(architecture, look, tmp_path):
    build(architecture).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for name in tensors:
        save_file(without(name)(tensors), tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(UserError):
            look(tmp_path)


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3", "gpt_neox", "cohere", "gpt_oss"])
def test_tied_weights_are_stored_once(family, tmp_path):
    tiny(family, tie_word_embeddings=True).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    embedding = next(name for name in stored if "embed" in name)
    for look in (loaded, compared):
        look(tmp_path)
    change(tmp_path, without(embedding))
    for look in (loaded, compared):
        with pytest.raises(UserError, match="the weights lack"):
            look(tmp_path)


MISSING = {  # what was done to the weights -> what the refusal says, and its mend
    "a tensor": (without(Q_PROJ), rf"lack 1 of.*'{Q_PROJ}'.*not saved or downloaded", "again"),
    "four tensors": (
        without(*(Q_PROJ.replace("q_", f"{kind}_") for kind in "qkvo")), r"lack 4 of.* and 1 more", "again",
    ),
    "the head": (without("lm_head.weight"), r"lack 1 of.*'lm_head\.weight'", "again"),
    "peft": (prefixed("base_model.model."), r"lack 21 of.*start with 'base_model\.model\.'", "merge_and_unload"),
    "compiled": (prefixed("_orig_mod."), r"start with '_orig_mod\.'", "_orig_mod"),
    "renamed": (
        lambda tensors: {name.replace("q_proj", "query"): value for name, value in tensors.items()},
        r"lack 2 of.*another architecture.*'llama'", "config.json",
    ),
    "none of them": (lambda _: {"x": torch.zeros(1)}, r"lack 21 of.*another architecture", "config.json"),
    "another size": (
        lambda tensors: tensors | {Q_PROJ: torch.zeros(32, 64)},
        r"q_proj\.weight' is \[32, 64\].*\[64, 64\]", "config.json",
    ),
    "an adapter beside": (
        adding(Q_PROJ.replace("weight", "lora_A.default.weight")),
        r"no place for 1 of.*adapter that was not merged", "merge",
    ),
    "an adapter around": (
        lambda tensors: {name.replace("q_proj", "q_proj.base_layer"): value for name, value in tensors.items()},
        r"lack 2 of.*adapter that was not merged", "merge",
    ),
    "a bias": (adding(Q_PROJ.replace("weight", "bias")), r"no place for 1 of.*q_proj\.bias", "config.json"),
    "one more norm": (adding("model.embed_norm.weight"), r"no place for 1 of.*model\.embed_norm", "config.json"),
    "a table": (adding("model.pos_bias"), r"no place for 1 of.*model\.pos_bias", "config.json"),
    "codes": (
        lambda tensors: {name: (value * 9).to(torch.int8) for name, value in tensors.items()},
        r"is I8, expected one of F64, F32, F16, BF16", "config.json",
    ),
    "a mask": (
        lambda tensors: tensors | {Q_PROJ: tensors[Q_PROJ] > 0}, rf"'{Q_PROJ}' is BOOL, expected", "config.json",
    ),
    "fp8": (
        lambda tensors: tensors | {Q_PROJ: tensors[Q_PROJ].to(torch.float8_e4m3fn)},
        rf"'{Q_PROJ}' is F8_E4M3, codes.*no quantization_config", "config.json",
    ),
    "one more layer": (adding("model.layers.2.mlp.up_proj.weight"), r"no place for 1 of.*layers\.2\.", "config.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISSING)
def test_other_weights_are_refused_with_cause_and_mend(case, tmp_path):
    how, said, mend = MISSING[case]
    saved(tmp_path, how)
    for look in (loaded, compared):
        with pytest.raises(UserError, match=said) as refusal:
            look(tmp_path)
        assert mend in refusal.value.mend


def verbs(model: Path, out: Path) -> dict[str, list[object]]:
    return {
        "compare": ["compare", model, "--to", 256, "--methods", "pi", "--tasks", "passkey", "-o", out],
        "evaluate": ["evaluate", model, "--tasks", "passkey", "--lengths", "64", "-o", out],
        "serve": ["serve", model, "--port", "0"],
        "inspect": ["inspect", model, "--weights"],
        "plan": ["plan", model, "--to", 256, "--calibrate"],
        "export, folded": ["export", model, "--engine", "llama.cpp", "--to", 256, "-m", "yarn(attention_factor=1.3)",
                           "--fold", "-o", out],
        "export": ["export", model, "--engine", "vllm", "-o", out],
        "export, extended": ["export", model, "--engine", "vllm", "--to", 256, "-o", out],
        "extend": ["extend", model, "--to", 256, "-o", out],
    }  # fmt: skip


@pytest.mark.parametrize("verb", verbs(Path(), Path()))
@pytest.mark.parametrize("case", ["a tensor", "peft", "codes", "fp8"])
def test_every_verb_that_loads_or_copies_refuses(verb, case, tmp_path, capsys):
    how, said, _ = MISSING[case]
    model = saved(tmp_path / "model", how)
    assert re.search(said, refused(capsys, *verbs(model, tmp_path / "out")[verb]))
    assert not (tmp_path / "out" / "results.json").exists() and not (tmp_path / "out" / "config.json").exists()


@pytest.mark.parametrize("how", [
    prefixed("model."), lambda tensors: {name.removeprefix("model."): value for name, value in tensors.items()},
    adding("model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.self_attn.rotary_emb.cos_cached"),
    adding("model.layers.0.self_attn.masked_bias", "model.layers.0.self_attn.bias"),
], ids=["prefix that is known", "prefix that is left out", "tables", "masks"])  # fmt: skip
def test_older_spellings_and_tables_are_no_alarm(how, tmp_path, caplog):
    with torch.no_grad():
        ids = torch.arange(3, 40)[None]
        want = loaded(saved(tmp_path / "plain"))(ids).logits
        assert torch.equal(loaded(saved(tmp_path / "other", how))(ids).logits, want)
    compared(tmp_path / "other")
    assert not caplog.records


@pytest.mark.parametrize("name", ["mtp.fc.weight", "model.vision_tower.patch.weight", "v_head.weight"])
def test_what_is_no_part_of_the_decoder_is_said(name, tmp_path, caplog):
    saved(tmp_path, adding(name))
    with caplog.at_level(logging.WARNING):
        loaded(tmp_path)
    assert [record.name for record in caplog.records] == ["ropewalk"] and repr(name) in caplog.text


@pytest.mark.parametrize("name", ["mtp.fc.weight", "model.vision_tower.patch.weight", "v_head.weight"])
def test_what_is_no_part_of_the_decoder_is_copied_without_a_word(name, tmp_path, caplog):
    compared(saved(tmp_path, adding(name)))
    assert not caplog.records


def test_a_model_without_its_head_is_compared_as_what_it_is(tmp_path, caplog):
    """Embedding models are saved as bare decoders, whose names have no prefix and no head."""
    tiny("llama").model.save_pretrained(tmp_path)
    compared(tmp_path)
    change(tmp_path, without("layers.1.self_attn.q_proj.weight"))
    with pytest.raises(UserError, match=r"lack 1 of.*'layers\.1\.self_attn\.q_proj\.weight'"):
        compared(tmp_path)
    assert not caplog.records


def test_what_cannot_be_compared_is_said_and_let_through(tmp_path, caplog):
    model, quantised = saved(tmp_path / "m"), {"quantization_config": {"quant_method": "fp8"}}
    edit(model, **quantised)
    extend(model, 256, method("yarn"), tmp_path / "out")
    assert "were not compared with the model's: they are quantised" in caplog.text
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("how", [{}, {"quant_method": "of tomorrow"}, {"bits": 4}])
@pytest.mark.parametrize("verb", ["extend", "export, extended", "compare"])
def test_a_quantisation_that_transformers_does_not_know_is_refused(verb, how, tmp_path, capsys):
    edit(saved(tmp_path / "m"), quantization_config=how)
    err = refused(capsys, *verbs(tmp_path / "m", tmp_path / "out")[verb])
    assert "key 'quantization_config' is" in err and not (tmp_path / "out").exists()
    assert run(["inspect", str(tmp_path / "m"), "--set", "quantization_config=null"]) == 0
    assert loaded(tmp_path / "m")
    for wrong in ([], "gptq", 4):
        edit(tmp_path / "m", quantization_config=wrong)
        with pytest.raises(UserError, match="key 'quantization_config' is"):
            check_weights(tmp_path / "m")


def test_codes_that_the_quantisation_does_not_have_are_refused(tmp_path, capsys):
    edit(saved(tmp_path, MISSING["fp8"][0]), quantization_config={"quant_method": "gptq", "bits": 4})
    assert "F8_E4M3, codes of quantised weights, and config.json says 'gptq'" in refused(
        capsys, "extend", tmp_path, "--to", 256, "-o", tmp_path / "out"
    )


def test_a_package_that_is_missing_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optimum", None)
    edit(saved(tmp_path / "m"), quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert "pip install optimum" in refused(capsys, *verbs(tmp_path / "m", tmp_path / "out")["compare"])


def test_whole_numbers_are_right_where_the_model_has_them(tmp_path):
    """A table of whole numbers among the weights, as models have that route by token."""
    model = tiny("llama")
    model.model.register_buffer("table", torch.arange(9))
    entry = {"model.table": ((9,), "I64"), "table": ((9,), "I64")}
    refuse_cast(tmp_path, model, entry)
    with pytest.raises(UserError, match=r"model\.norm\.weight' is I64"):
        refuse_cast(tmp_path, model, {"model.norm.weight": ((64,), "I64")})


def test_nothing_is_read_or_filled_in_for_a_comparison(tmp_path):
    """A model of 7 billion numbers that are missing is told as fast as a small one."""

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB

    size = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
    config = AutoConfig.for_model("llama", **size, architectures=["LlamaForCausalLM"])
    save_file({"model.norm.weight": torch.zeros(4096)}, tmp_path / "model.safetensors")
    held = peak()
    with pytest.raises(UserError, match="lack 290 of"):
        refuse_renamed(check_weights(tmp_path), config)
    assert peak() - held < 2**19


def test_layers_that_guess_further_tokens_are_said(tmp_path, caplog):
    saved(tmp_path, adding("model.layers.2.eh_proj.weight"), num_nextn_predict_layers=1)
    loaded(tmp_path)
    assert "eh_proj" in caplog.text


def test_a_sound_model_says_nothing(tmp_path, capsys):
    assert run(["inspect", str(saved(tmp_path)), "--weights"]) == 0
    assert capsys.readouterr().err == ""
