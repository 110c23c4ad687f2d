"""A checkpoint is opened once, and says one thing of its window, its length and its soundness."""

from __future__ import annotations

import ast
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig

import ropewalk
from ropewalk import UserError
from ropewalk.checkpoint.checkpoint import BUNDLED, DEMO, Checkpoint, local
from ropewalk.checkpoint.inspection import inspect
from ropewalk.cli.main import run
from tests.engines.gguf.checkpoints import checkpoint, edit
from tests.models import config, tiny, tokens

PACKAGE = Path(ropewalk.__file__).parent


def test_a_checkpoint_that_is_open_is_passed_on():
    demo = Checkpoint.open(DEMO)
    assert Checkpoint.open(demo) is demo
    assert demo.config is demo.config and demo.tokenizer() is demo.tokenizer() and demo.specs is demo.specs
    assert (demo.name, demo.folder, demo.gguf, demo.record) == ("demo", BUNDLED, None, None)
    assert demo.raw == json.loads((BUNDLED / "config.json").read_text())
    assert (demo.window, demo.promised) == (512, 512)
    assert not demo.load(device="cpu").training


@pytest.mark.parametrize("rope", [None, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}])
@pytest.mark.parametrize("beside", [True, False], ids=["beside another", "by itself"])
def test_a_configuration_of_another_name_is_itself_whatever_lies_beside_it(beside, rope, tmp_path):
    own = config("qwen3").to_dict() | {"max_position_embeddings": 64 * (4 if rope else 1)}
    own["rope_parameters"] = (rope or {"rope_type": "default"}) | {"rope_theta": 5e5}
    (tmp_path / "own.json").write_text(json.dumps(own))
    if beside:
        config("llama").save_pretrained(tmp_path)
        (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 9}')
        (tmp_path / "ropewalk.json").write_text('{"method": "pi"}')
    seen = inspect(tmp_path / "own.json")
    assert (seen.architecture, seen.window, seen.length) == ("qwen3", 64, 256 if rope else 64)
    assert seen.specs["all"].base == 5e5 and not seen.problems
    opened = Checkpoint.open(str(tmp_path / "own.json"))
    assert (opened.config.model_type, opened.made) == ("qwen3", {})


@pytest.mark.parametrize("line", ["export {file} --engine vllm", "check-export {file}", "serve {file}"])
def test_engines_find_no_configuration_of_another_name(line, tmp_path, capsys):
    config("llama").save_pretrained(tmp_path)
    file = (tmp_path / "config.json").rename(tmp_path / "own.json")
    config("qwen3").save_pretrained(tmp_path)
    assert run(line.format(file=file).split()) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "by itself, and engines read the config.json of a folder" in said or "is only its configuration" in said


LINES = {
    "inspect": "inspect {model}",
    "plan": "plan {model} --to 256",
    "plan, calibrated": "plan {model} --to 256 --calibrate",
    "extend": "extend {model} --to 256 -o {out}",
    "export": "export {model} --engine vllm",
    "export to a folder": "export {model} --engine vllm --to 256 -o {out}",
    "compare": "compare {model} --to 256 --methods none,yarn --tasks passkey --samples 1 --depths 1 -o {out}",
    "evaluate": "evaluate {model} --lengths 400 --tasks niah_single_1 --samples 1 -o {out}",
}


@pytest.mark.parametrize("name", LINES)
def test_a_verb_opens_its_model_once(name, tmp_path, monkeypatch, capsys):
    model, read, opened = checkpoint(tmp_path, max_position_embeddings=128), [], AutoConfig.from_pretrained

    def counted(source, *more, **keys):
        read.append(str(source))
        return opened(source, *more, **keys)

    for where in (AutoConfig, transformers.AutoConfig):
        monkeypatch.setattr(where, "from_pretrained", counted)
    assert run(LINES[name].format(model=model, out=tmp_path / "out").split()) == 0, capsys.readouterr().err
    assert read.count(str(model)) == (name != "inspect")  # a plain file says itself all that is asked there


def test_the_promised_length_has_one_rule():
    """The smallest or largest of several lengths is taken in one place, and of engines' readings in one other."""
    taken = [
        f"{path.relative_to(PACKAGE)}"
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("min", "max", "sorted")
        and re.search(r"\b(spec|reading|rope)\w*\.(length|max_length) for", ast.unparse(node))
    ]
    assert sorted(taken) == ["rope/config.py", "rope/spec.py"]


@pytest.mark.parametrize("sliding", [False, True])
def test_the_layers_that_see_the_whole_text_promise(sliding, tmp_path):
    """A rope of sliding layers has no say, whichever way it differs."""
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    ropes = {"sliding_attention": dynamic if sliding else plain, "full_attention": plain if sliding else dynamic}
    config("gemma3", rope_parameters=ropes).save_pretrained(tmp_path)
    assert Checkpoint.open(tmp_path).promised == (64 if sliding else 256)


def test_unsound_configurations_are_refused_at_the_door_or_at_the_load(tmp_path):
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0, "original_max_position_embeddings": 64}
    folder = edit(checkpoint(tmp_path), rope_parameters=rope, max_position_embeddings=512)  # not 4 x 64
    with pytest.raises(UserError, match="length-contradicts-factor"):
        Checkpoint.open(folder)
    looked_at = Checkpoint.open(folder, sound=False)
    assert [problem.code for problem in looked_at.problems] == ["length-contradicts-factor"]
    with pytest.raises(UserError, match="length-contradicts-factor"):
        looked_at.load(device="cpu")
    with pytest.raises(UserError, match="length-contradicts-factor"):
        Checkpoint.open(looked_at)


def test_what_is_no_folder_says_so(tmp_path):
    folder = checkpoint(tmp_path)
    assert Checkpoint.open(folder / "config.json").source == folder
    (folder / "other.json").write_text((folder / "config.json").read_text())
    alone = Checkpoint.open(folder / "other.json")
    assert (alone.window, alone.promised) == (64, 64)
    with pytest.raises(UserError, match="only its configuration"):
        alone.load(device="cpu")
    with pytest.raises(UserError, match="no model at"):
        Checkpoint.open(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"nothing.gguf does not exist"):
        Checkpoint.open(tmp_path / "nothing.gguf")


def test_the_bundled_model_is_known_under_any_name(tmp_path):
    (tmp_path / "link").symlink_to(BUNDLED)
    for name in (DEMO, str(BUNDLED), str(tmp_path / "link")):
        with pytest.raises(UserError, match="is the bundled model"):
            Checkpoint(name).refuse_bundled()
    Checkpoint(str(checkpoint(tmp_path))).refuse_bundled()
    assert local([DEMO, "owner/name"], str(tmp_path)) == [BUNDLED]


def test_a_softcap_is_computed(tmp_path):
    """Gemma 2's, which sdpa does not know: transformers 5.16 leaves it out there without a word."""
    model = tiny("gemma2", attn_logit_softcapping=0.5)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(20)
    model.save_pretrained(tmp_path)
    ids = tokens(1, 40)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected, found = model(ids).logits, Checkpoint.open(str(tmp_path)).load()(ids).logits
        model.config.attn_logit_softcapping = None
        for layer in model.model.layers:
            layer.self_attn.attn_logit_softcapping = None
        without = model(ids).logits
    assert torch.equal(found, expected) and not torch.allclose(found, without, atol=1e-2)


def test_threads_may_load_at_the_same_time():
    ids = tokens(1, 32)
    expected = Checkpoint.open(DEMO).load("float32", "cpu")(ids).logits

    def loaded(dtype):
        live = Checkpoint.open(DEMO).load(dtype, "cpu")
        assert str(live.dtype) == f"torch.{dtype}"
        return dtype == "bfloat16" or torch.equal(live(ids).logits, expected)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(loaded, ["float32", "bfloat16"] * 4))
