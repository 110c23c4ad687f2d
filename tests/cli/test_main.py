"""The command line as a user meets it: what it prints, its exit codes, and every kind of bad input."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import ropewalk
from ropewalk.cli.main import run
from ropewalk.verbs.compare import CompareRequest
from tests.models import THETA, tiny

WINDOW = 64
HARPE = "harpe(base_min=1000000.0, base_max=5000000.0)"


def byte_tokenizer(vocabulary: int = 259) -> PreTrainedTokenizerFast:
    """One token per byte; ids above 255 are <s>, </s>, <pad>."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({character: i for i, character in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>"])
    tokenizer.add_tokens([f"<{i}>" for i in range(vocabulary - 259)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=WINDOW
    )


@pytest.fixture(scope="session")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny("llama", vocab_size=260).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(source, tmp_path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "model"))


@pytest.fixture
def text(tmp_path) -> Path:
    file = tmp_path / "long.txt"
    file.write_text("All work and no play makes a rope a dull thing. " * 20)
    return file


def edit(folder: Path, **keys) -> None:
    file = folder / "config.json"
    content = {**json.loads(file.read_text()), **keys}
    file.write_text(json.dumps({key: value for key, value in content.items() if value != "absent"}))


def refused(capsys, *arguments: object) -> str:
    """Run; assert exit code 2 and no traceback; return what stood on standard error."""
    code = run([str(argument) for argument in arguments])
    err = capsys.readouterr().err
    assert code == 2, err
    assert "error" in err and "Traceback" not in err
    return err


def test_help_breaks_no_name_of_a_method_and_says_how_many_samples(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["compare", "--help"]) == 0
    words = capsys.readouterr().out.replace("│", " ").split()
    for name in CompareRequest.methods:
        assert name in {word.strip(",]") for word in words}
    asked = []
    monkeypatch.setattr(CompareRequest, "conducted", lambda *words, **more: asked.append(words[1]))
    ropewalk.compare("demo", to="1k")
    assert f"by default {asked[0].samples} to compare" in " ".join(words)
    assert f"by default {asked[0].documents} to compare" in " ".join(words)


def test_help_lists_every_verb(capsys):
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("inspect", "extend", "compare", "methods", "demo"))


def test_methods_as_json_is_the_catalogue(capsys):
    from ropewalk.methods.catalogue import CATALOGUE

    assert run(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["methods"]
    assert [entry["id"] for entry in listed] == [entry.id for entry in CATALOGUE]
    assert {"kind", "training_free", "exportable", "paper"} <= set(listed[0])


def test_extend_then_inspect(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["extend", str(checkpoint), "--to", "256", "--method", "yarn", "-o", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "64 -> 256" in shown and "vllm serve" in shown and "llama-server" in shown
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 256
    record = json.loads((out / "ropewalk.json").read_text())
    assert (record["method"], record["window"], record["target"], record["scale"]) == ("yarn", 64, 256, 4.0)
    assert run(["inspect", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == [] and found["window"] == 64 and found["length"] == 256
    assert found["extended_by"] == "yarn"


def test_weights_are_linked_and_the_source_is_untouched(checkpoint, tmp_path):
    before = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    out = tmp_path / "out"
    assert run(["extend", str(checkpoint), "--to", "256", "-o", str(out)]) == 0
    assert os.path.samefile(out / "model.safetensors", checkpoint / "model.safetensors")
    assert {file.name: file.read_bytes() for file in checkpoint.iterdir()} == before


def test_extending_again_starts_from_the_pretrained_window(checkpoint, tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert run(["extend", str(checkpoint), "--to", "128", "-m", "ntk-aware", "-o", str(first)]) == 0
    assert run(["extend", str(first), "--to", "512", "-m", "yarn", "-o", str(second)]) == 0
    rope = json.loads((second / "config.json").read_text())["rope_parameters"]
    assert (rope["factor"], rope["rope_theta"], rope["original_max_position_embeddings"]) == (8.0, 10000.0, 64)


def test_refuses_to_overwrite_unless_asked(checkpoint, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["extend", str(checkpoint), "--to", "256", "-o", str(out)]
    assert run(command) == 0
    assert "exists already" in refused(capsys, *command)
    assert run([*command, "-m", "pi", "--overwrite"]) == 0
    assert json.loads((out / "ropewalk.json").read_text())["method"] == "pi"


def test_never_overwrites_what_is_no_checkpoint(checkpoint, tmp_path, capsys):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work")
    assert "no ropewalk.json" in refused(capsys, "extend", checkpoint, "--to", 256, "-o", precious, "--overwrite")
    assert (precious / "thesis.txt").exists()


def test_compare_is_resumed_and_its_rows_have_the_promised_keys(checkpoint, text, tmp_path, capsys):
    out = tmp_path / "cmp"
    command = ["compare", str(checkpoint), "--to", "256", "--methods", f"none,yarn,dynamic-ntk,{HARPE}",
               "--tasks", "ppl", "--lengths", "64,256", "--data", str(text), "-o", str(out), "--json"]  # fmt: skip
    assert run(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert {row["method"] for row in first["rows"]} == {"none", "yarn", "dynamic-ntk", HARPE}
    assert all({"model", "method", "task", "length", "value", "low", "high", "n"} <= set(row) for row in first["rows"])
    page = (out / "report.html").read_text()
    assert "YaRN" in page and "http" not in page.replace("https://arxiv.org/abs/", "").replace("http://www.w3.org", "")
    assert run(command) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == first["rows"]


# Bad input, one test for each kind.


def test_missing_model(capsys):
    assert "no model at" in refused(capsys, "inspect", "./nowhere")


def test_hub_that_cannot_be_reached(capsys):
    assert "hub" in refused(capsys, "inspect", "nobody/nothing")


def test_wrong_json(checkpoint, capsys):
    (checkpoint / "config.json").write_text('{"model_type": "llama", ')
    assert "not valid JSON" in refused(capsys, "inspect", checkpoint)
    (checkpoint / "config.json").write_text("[1, 2]")
    assert "expected an object" in refused(capsys, "inspect", checkpoint)


def test_missing_weights(checkpoint, tmp_path, capsys):
    (checkpoint / "model.safetensors").unlink()
    assert "holds no weights" in refused(capsys, "extend", checkpoint, "--to", 256, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_truncated_weights(checkpoint, tmp_path, capsys):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "truncated" in refused(capsys, "extend", checkpoint, "--to", 256, "-o", tmp_path / "out")
    weights.write_bytes(b"short")
    assert "truncated" in refused(capsys, "compare", checkpoint, "--to", 256, "-o", tmp_path / "out")


def test_missing_shard(checkpoint, tmp_path, capsys):
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    (checkpoint / "model.safetensors").unlink()  # which would be read instead
    assert "model-00001-of-00002" in refused(capsys, "extend", checkpoint, "--to", 256, "-o", tmp_path / "out")


def test_pickled_weights_are_not_loaded(checkpoint, tmp_path, capsys):
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    assert "pickled" in refused(capsys, "compare", checkpoint, "--to", 256, "-o", tmp_path / "out")


def test_unknown_method_offers_the_nearest(checkpoint, tmp_path, capsys):
    assert "'yarn'" in refused(capsys, "extend", checkpoint, "--to", 256, "-m", "yarm", "-o", tmp_path / "out")
    assert "'ntk-aware'" in refused(capsys, "compare", checkpoint, "--to", 256, "-m", "none,ntk-awar")


def test_misspelt_option_offers_the_nearest(checkpoint, tmp_path, capsys):
    method = "yarn(beta_fats=3)"
    assert "'beta_fast'" in refused(capsys, "extend", checkpoint, "--to", 256, "-m", method, "-o", tmp_path / "out")
    assert "--method" in refused(capsys, "extend", checkpoint, "--to", 256, "--metod", "yarn", "-o", tmp_path / "out")
    assert "'passkey'" in refused(capsys, "compare", checkpoint, "--to", 256, "--tasks", "pasky")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("compare demo --too 1k", "compare has no option --too; did you mean '--to'?"),
        ("compare demo --too=1k", "compare has no option --too; did you mean '--to'?"),
        ("compare demo --to 1k --metods yarn", "compare has no option --metods; did you mean '--methods'?"),
        ("compare demo --to", "--to needs a value"),
        ("compare demo -m yarn", "compare needs --to"),
        ("compare --to 1k", "compare needs MODEL"),
    ],
)
def test_a_sentence_says_what_is_wrong_with_a_line(capsys, line, said):
    assert refused(capsys, *line.split()).splitlines()[0] == f"error {said}"


def test_target_shorter_than_the_window(checkpoint, tmp_path, capsys):
    assert "not beyond the window" in refused(capsys, "extend", checkpoint, "--to", 32, "-o", tmp_path / "out")


def test_target_that_is_no_length(checkpoint, tmp_path, capsys):
    assert "no length" in refused(capsys, "extend", checkpoint, "--to", "long", "-o", tmp_path / "out")


def test_target_not_reachable(checkpoint, tmp_path, capsys):
    assert "not reachable" in refused(capsys, "extend", checkpoint, "--to", "32m", "-o", tmp_path / "out")


def test_method_that_cannot_be_saved(checkpoint, tmp_path, capsys):
    assert "every head" in refused(capsys, "extend", checkpoint, "--to", 256, "-m", HARPE, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_rope_theta(checkpoint, tmp_path, capsys):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    edit(checkpoint, rope_parameters=yarn, max_position_embeddings=256)
    err = refused(capsys, "extend", checkpoint, "--to", 512, "-o", tmp_path / "out")
    assert "rope-theta-missing" in err and "--set" in err


def test_one_method_or_task_is_shown_by_its_name(capsys):
    assert run(["methods", "YaRN"]) == 0
    shown = capsys.readouterr().out
    assert "beta_fast=32.0" in shown and "2309.00071" in shown and "ntk-aware" not in shown
    assert run(["tasks", "niah"]) == 0
    assert "Needle in a haystack" in (shown := capsys.readouterr().out) and "suites:" not in shown
    assert "did you mean 'yarn'" in refused(capsys, "methods", "yarm")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "compare demo --to 1k --methods yarn(factor=4)",
            "its factor is the target over the window\nSay the target with",
        ),
        ("export demo --output x --engine vllm", "did you mean '--out' (-o)?"),
        ("inspect demo -o x", "inspect has no option -o"),
        ("export demo", "With --gguf alone, a GGUF file is written."),
        ("serve demo --per-request", "none is named\nAdd one: --method yarn --to 1024"),
    ],
)
def test_a_wrong_line_is_told_what_was_meant(line, said, capsys):
    assert said in refused(capsys, *line.split())


def test_an_extended_folder_is_told_how_each_request_gets_its_own_factor(tmp_path, capsys):
    out = str(tmp_path / "out")
    assert run(["extend", "demo", "--to", "2k", "-o", out]) == 0
    capsys.readouterr()
    err = refused(capsys, "serve", out, "--per-request")
    assert "stretched by yarn for every request alike" in err
    assert "Add it: --method yarn --to 2048" in err


def test_the_bundled_model_is_called_demo(capsys):
    assert run(["inspect", "demo"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "LlamaForCausalLM  demo"


def test_contradictory_lengths(checkpoint, tmp_path, capsys):
    edit(
        checkpoint,
        rope_parameters={**THETA, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        max_position_embeddings=512,
    )
    err = refused(capsys, "extend", checkpoint, "--to", 512, "-o", tmp_path / "out")
    assert "max_position_embeddings is 512, expected 256" in err
    mend = err.splitlines()[-1].split("--set ")[1].strip("'")
    tokenizer = "tokenizer_config.json:model_max_length=256"
    assert run(["inspect", str(checkpoint), "--set", mend, "--set", tokenizer]) == 0
    assert run(["extend", str(checkpoint), "--to", "512", "-o", str(tmp_path / "out")]) == 0


def test_no_disk_space(checkpoint, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    err = refused(capsys, "extend", checkpoint, "--to", 256, "-o", tmp_path / "deep" / "out")
    assert "no room" in err
    assert not (tmp_path / "deep").exists(), "a failure leaves no folder"


def test_unwritable_folder(checkpoint, tmp_path, text, capsys):
    (tmp_path / "file").write_text("not a folder")
    assert "cannot write" in refused(capsys, "extend", checkpoint, "--to", 256, "-o", tmp_path / "file" / "out")
    command = ["compare", checkpoint, "--to", 256, "--tasks", "ppl", "--data", text, "-o", tmp_path / "file" / "out"]
    assert "cannot write" in refused(capsys, *command)


def test_empty_and_tiny_text(checkpoint, tmp_path, capsys):
    empty, short = tmp_path / "empty.txt", tmp_path / "short.txt"
    empty.write_text("")
    short.write_text("too short")
    for file in (empty, short):
        err = refused(
            capsys, "compare", checkpoint, "--to", 256, "--tasks", "ppl", "--data", file, "-o", tmp_path / "o"
        )
        assert file.name in err or "nothing can be measured: ppl at 32: fewer than 1 documents" in err


def test_tokenizer_that_does_not_fit(checkpoint, tmp_path, text, capsys):
    byte_tokenizer(vocabulary=300).save_pretrained(checkpoint)
    err = refused(capsys, "compare", checkpoint, "--to", 256, "--data", text, "-o", tmp_path / "out")
    assert "does not fit" in err and "260 rows" in err


@pytest.mark.parametrize("option, value", [("--device", "cuda"), ("--device", "warp"), ("--dtype", "int3")])
def test_device_and_dtype_that_are_not_there(checkpoint, tmp_path, text, capsys, monkeypatch, option, value):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["compare", checkpoint, "--to", 256, "--tasks", "ppl", "--data", text, "-o", tmp_path / "out"]
    assert value in refused(capsys, *command, option, value)


def test_missing_tokenizer(checkpoint, tmp_path, text, capsys):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    assert "tokenizer" in refused(capsys, "compare", checkpoint, "--to", 256, "--data", text, "-o", tmp_path / "out")


def test_model_without_a_rope(checkpoint, capsys):
    (checkpoint / "config.json").write_text('{"model_type": "ctrl"}')
    assert "no rotary" in refused(capsys, "inspect", checkpoint)


def test_code_of_the_checkpoint_is_not_run(checkpoint, capsys):
    edit(checkpoint, model_type="mystery", auto_map={"AutoConfig": "code.Config"})
    (checkpoint / "code.py").write_text("raise SystemExit('ran')")
    assert "--trust-remote-code" in refused(capsys, "inspect", checkpoint)


HERE = os.environ | {"PYTHONPATH": str(Path(ropewalk.__file__).parents[1])}
DROPPED = """
import os, signal, sys, time, weakref
from ropewalk.cli import main

class Left:
    pass

def callback(_):
    os.kill(os.getpid(), {number})
    for _ in range(1000):
        pass

def work(arguments):
    left = Left()
    kept = weakref.ref(left, callback)
    del left
    try:
        time.sleep(20)
    except KeyboardInterrupt as stop:
        return 128 + (stop.args[0] if isinstance(stop, main.Terminated) else signal.SIGINT)
    return 0

main.run = work
main.main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_where_errors_are_dropped_comes_again(number):
    code = DROPPED.format(number=int(number))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=HERE)
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [("compare demo --to 1k", "the same command goes on"), ("data pack t --length 64 --model demo --out o", "goes on"),
     ("inspect demo", "the same command begins anew")],
)  # fmt: skip
def test_a_stopped_verb_says_whether_it_goes_on(line, said, capsys, monkeypatch):
    def stopped(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("ropewalk.cli.main.app", stopped)
    assert run(line.split()) == 130
    assert capsys.readouterr().err.strip().endswith(said)
