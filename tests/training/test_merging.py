"""A merged model computes what the live one did, under its rope; what it does not is refused, and nothing is left."""

from __future__ import annotations

import json
import re
import shlex
import shutil

import pytest
import torch

import ropewalk
from ropewalk import UserError, YaRN
from ropewalk.checkpoint import write as writing
from ropewalk.checkpoint.checkpoint import BUNDLED
from ropewalk.cli.main import run
from ropewalk.training import merging
from ropewalk.training.adapters import adapt
from tests.training.test_adapters import moved, off

IDS = torch.randint(3, 4096, (2, 80), generator=torch.Generator().manual_seed(3))


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """An adapter for the bundled model under YaRN, and what it computes."""
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    model = live(folder)
    return folder, logits(model), model.config


@pytest.fixture
def adapter(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "adapter")
    return tmp_path / "adapter"


def live(folder, dtype="float32", method=True, **how):
    model, _ = ropewalk.load("demo", device="cpu", dtype=dtype)
    if method:
        YaRN().extend(model, to=2048)
    adapter = moved(adapt(model, **{"also": ("embeddings", "norms"), **how}))
    adapter.save(folder)
    return model


def test_the_merged_folder_is_the_live_model_with_its_rope_and_its_limits(trained, adapter, tmp_path):
    _, expected, config = trained
    done = ropewalk.merge_adapter(adapter, out=tmp_path / "out", dtype="float32")
    again, tokenizer = ropewalk.load(tmp_path / "out", device="cpu")
    assert again.dtype == torch.float32 and off(logits(again), expected) < 1e-6
    assert again.config.tie_word_embeddings and again.lm_head.weight is again.model.embed_tokens.weight
    assert again.config.rope_parameters == config.rope_parameters and tokenizer.model_max_length == 2048
    assert done.drift < 1e-5 < 0.1 < done.effect and done.base == "demo"
    assert ropewalk.inspect(tmp_path / "out").extended_by == "yarn"
    assert not (tmp_path / "out" / "adapter_config.json").exists()


def test_it_is_in_the_precision_of_the_base_and_says_what_that_costs(tmp_path, capsys):
    model = live(tmp_path / "adapter", "bfloat16", quantise="nf4")
    adapter, out = str(tmp_path / "adapter"), str(tmp_path / "out")
    assert run(["merge", adapter, "-o", out, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["dtype"] == "bfloat16" and 0 < done["drift"] < 0.1 * done["effect"]
    again, _ = ropewalk.load(out, device="cpu")
    assert again.dtype == torch.bfloat16 and "quantization_config" not in again.config.to_dict()
    apart = (logits(again) - logits(model)).float().log_softmax(-1).std()  # of what was trained over 4 bits
    assert apart < 1
    assert run(["merge", adapter, "-o", out]) == 2 and "exists already" in capsys.readouterr().err


def test_what_is_said_of_the_bases_weights_does_not_come_along_and_its_licence_does(adapter, tmp_path):
    shutil.copytree(BUNDLED, tmp_path / "base")
    for name in ("LICENSE", "USE_POLICY.md", "chat_template.jinja", "trainer_state.json", "recipe.json"):
        (tmp_path / "base" / name).write_text("{}")
    ropewalk.merge_adapter(adapter, base=tmp_path / "base", out=tmp_path / "out")
    before, after = ({file.name for file in (tmp_path / name).iterdir()} for name in ("base", "out"))
    assert before - after == {"README.md", "training_log.json", "trainer_state.json", "recipe.json"}
    assert after - before == {"ropewalk.json"}


def test_an_extended_folder_is_a_base_too_and_one_of_another_rope_is_not(adapter, tmp_path):
    for to, method in (("2k", "yarn"), ("2k", "pi"), ("1k", "yarn")):
        ropewalk.extend("demo", to=to, method=method, out=tmp_path / method / to)
    one = ropewalk.merge_adapter(tmp_path / "adapter", base=tmp_path / "yarn/2k", out=tmp_path / "one")
    two = ropewalk.merge_adapter(
        tmp_path / "adapter", base=tmp_path / "pi/2k", out=tmp_path / "two"
    )  # pi is taken back
    assert one.rope == two.rope and one.effect == two.effect
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]
    live(tmp_path / "plain", method=False)
    with pytest.raises(UserError, match="was trained under a rope of default"):
        ropewalk.merge_adapter(tmp_path / "plain", base=tmp_path / "yarn/1k", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_computes_something_else_is_refused_and_leaves_nothing(adapter, tmp_path, monkeypatch):
    true = merging.merged

    def forgetful(adapter):
        model = true(adapter)
        model.model.layers[3].self_attn.v_proj.weight.data.mul_(1.01)
        return model

    monkeypatch.setattr(merging, "merged", forgetful)
    with pytest.raises(UserError, match=r"merged weights do not compute what .* does on demo"):
        ropewalk.merge_adapter(tmp_path / "adapter", out=tmp_path / "out", dtype="float32")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["adapter"]


def test_files_that_are_not_what_was_merged_are_refused(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "config_text", lambda config: json.dumps({**config.to_dict(), "rms_norm_eps": 0.01}))
    with pytest.raises(UserError, match="what was written does not compute what was merged"):
        ropewalk.merge_adapter(tmp_path / "adapter", out=tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["adapter"]


def test_rounding_that_is_not_small_beside_the_adapter_is_said_with_the_type_that_keeps_it(tmp_path, capsys):
    model, _ = ropewalk.load("demo", device="cpu", dtype="float32")
    adapter = adapt(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, one in adapter.parameters().items():
            if "lora_B" in name:
                one.copy_(torch.randn(one.shape, generator=generator) * 1.5e-3)
    adapter.save(tmp_path / "adapter")
    done = ropewalk.merge_adapter(tmp_path / "adapter", out=tmp_path / "out")
    assert 0.25 < done.drift / done.effect < 0.5  # not half of it, and not to be passed over in silence
    assert done.faint and "float32 keeps it" in repr(done)
    note = done.notes[0]
    assert run([*shlex.split(note.partition("keeps it: ")[2])[1:], "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert kept["folder"] == f"{done.folder}-float32" and kept["dtype"] == "float32" and kept["drift"] < 1e-5


def test_a_quantised_or_missing_base_is_refused(adapter, tmp_path):
    ropewalk.extend("demo", to="1k", out=tmp_path / "base")
    config = tmp_path / "base" / "config.json"
    content = json.loads(config.read_text())
    config.write_text(json.dumps({**content, "quantization_config": {"quant_method": "bitsandbytes"}}))
    with pytest.raises(UserError, match="is quantised, and merging would round the adapter away"):
        ropewalk.merge_adapter(tmp_path / "adapter", base=tmp_path / "base", out=tmp_path / "out")
    settings = tmp_path / "adapter" / "adapter_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "base_model_name_or_path": None}))
    with pytest.raises(UserError, match="does not name its base\nSay --base MODEL"):
        ropewalk.merge_adapter(tmp_path / "adapter", out=tmp_path / "out")


def test_verbs_say_what_an_adapter_is_and_the_line_that_makes_a_model_of_it_runs(
    adapter, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refusal:
        ropewalk.load("adapter")
    assert re.search(r"adapter is no model, but a LoRA adapter of demo: rank 8, alpha 16, on", refusal.value.message)
    assert "trained under a rope of yarn" in refusal.value.message
    assert run(["inspect", "adapter"]) == 0
    shown = capsys.readouterr().out
    assert "LoRA adapter of demo" in shown and refusal.value.mend in shown
    assert run(shlex.split(refusal.value.mend)[1:]) == 0
    ropewalk.load("adapter-merged", device="cpu")
