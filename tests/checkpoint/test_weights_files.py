"""Which files a model's weights may lie in, and what their headers may say; only safetensors are ever opened."""

from __future__ import annotations

import json
import pickle
import shlex
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ropewalk import UserError, method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.weights import check_weights
from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from ropewalk.engines.gguf.to_gguf import write_gguf
from ropewalk.engines.handover import export
from tests.engines.gguf.checkpoints import checkpoint
from tests.models import tiny, tokens

INDEX = "model.safetensors.index.json"


class Trap:
    """A pickle that tells on whoever opens it."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def saved(folder: Path) -> Path:
    tiny("llama").save_pretrained(folder)
    return folder


def sharded(folder: Path, *names: str) -> Path:
    """The weights in files of these names, and an index of them."""
    whole = saved(folder) / "model.safetensors"
    tensors, where = load_file(whole), {}
    whole.unlink()
    for i, name in enumerate(names):
        part = {key: value.clone() for n, (key, value) in enumerate(tensors.items()) if n % len(names) == i}
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(part, folder / name, {"format": "pt"})
        where |= dict.fromkeys(part, name)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


def reheaded(file: Path, change) -> None:
    """Write a file's header as ``change`` leaves it, its bytes untouched."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    change({key: value for key, value in header.items() if key != "__metadata__"})
    new = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(new)) + new + data[8 + size :])


def overlap(entries):
    first, second = list(entries.values())[:2]
    second["data_offsets"] = [first["data_offsets"][0], second["data_offsets"][1]]


def negative(entries):
    next(iter(entries.values()))["data_offsets"][0] = -4


def backwards(entries):
    entry = next(iter(entries.values()))
    entry["data_offsets"] = entry["data_offsets"][::-1]


def other_shape(entries):
    next(iter(entries.values()))["shape"][0] += 1


def other_type(entries):
    next(iter(entries.values()))["dtype"] = "F16"


def unknown_type(entries):
    next(iter(entries.values()))["dtype"] = "F3"


def gap(entries):
    last = max(entries.values(), key=lambda entry: entry["data_offsets"][1])
    last["data_offsets"][0] += 4


@pytest.mark.parametrize("change", [overlap, negative, backwards, other_shape, other_type, unknown_type, gap])
def test_an_unsound_header_is_refused_by_whoever_opens_or_copies(change, tmp_path):
    folder = saved(tmp_path / "m")
    reheaded(folder / "model.safetensors", change)
    for verb in (lambda: Checkpoint.open(folder).load(device="cpu"),
                 lambda: extend(folder, 256, method("yarn"), tmp_path / "out"),
                 lambda: export(folder, "vllm", out=tmp_path / "out")):  # fmt: skip
        with pytest.raises(UserError, match=r"model.safetensors (has an (unsound|unreadable) header|is truncated)"):
            verb()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../x.safetensors", "a/../../x.safetensors", "/etc/x.safetensors"])
def test_an_index_that_leads_out_is_refused(name, tmp_path):
    folder = sharded(tmp_path / "m", "one.safetensors", "two.safetensors")
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = name
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="a file outside of the folder"):
        check_weights(folder)


def test_shards_in_subfolders_go_along(tmp_path):
    folder = sharded(tmp_path / "m", "a/one.safetensors", "b/c/two.safetensors")
    model = Checkpoint.open(folder).load(device="cpu")
    plain = model(tokens(1, 8)).logits
    with method("yarn").on(model, 128):
        longer = model(tokens(1, 8)).logits
    for out, expected in ((extend(folder, 128, method("yarn"), tmp_path / "out").folder, longer),
                          (export(folder, "vllm", out=tmp_path / "exported").folder, plain)):  # fmt: skip
        assert (out / "b/c/two.safetensors").is_file()
        assert torch.equal(Checkpoint.open(out).load(device="cpu")(tokens(1, 8)).logits, expected)


@pytest.mark.parametrize("again", [0.0, 1.0], ids=["other values", "the same"])
def test_a_tensor_that_stands_twice_is_refused(again, tmp_path):
    folder = sharded(tmp_path / "m", "a.safetensors", "b.safetensors")
    first, second = load_file(folder / "a.safetensors"), load_file(folder / "b.safetensors")
    name = next(iter(first))
    save_file(second | {name: first[name] * again}, folder / "b.safetensors", {"format": "pt"})
    refused_by_all(folder, tmp_path, rf"b.safetensors: tensor '{name}' stands in a.safetensors too")


def test_a_tensor_in_another_file_than_the_index_says_is_refused(tmp_path):
    folder = sharded(tmp_path / "m", "a.safetensors", "b.safetensors")
    index = json.loads((folder / INDEX).read_text())
    name = next(name for name, file in index["weight_map"].items() if file == "a.safetensors")
    index["weight_map"][name] = "b.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    refused_by_all(folder, tmp_path, rf"a.safetensors: tensor '{name}' belongs into b.safetensors, by the index")


@pytest.mark.parametrize("name", ["weights", "model.fp16", "consolidated", "model-00001-of-00001", "adapter_model"])
def test_files_that_transformers_does_not_look_for_are_refused(name, tmp_path):
    folder = saved(tmp_path / "m")
    (folder / "model.safetensors").rename(folder / f"{name}.safetensors")
    mend = refused_by_all(folder, tmp_path, rf"holds {name}.safetensors, and transformers loads only")
    if mend.startswith("mv "):
        shutil.move(*mend.split()[1:])
        AutoModelForCausalLM.from_pretrained(extend(folder, 256, method("yarn"), tmp_path / "out").folder)
    else:
        assert name in ("consolidated", "model-00001-of-00001", "adapter_model")


def test_shards_without_an_index_are_refused(tmp_path):
    folder = sharded(tmp_path / "m", "a.safetensors", "b.safetensors")
    (folder / INDEX).unlink()
    refused_by_all(folder, tmp_path, r"holds a.safetensors, b.safetensors, and transformers loads only")


def test_an_index_without_metadata_is_refused_and_the_mend_mends(tmp_path):
    folder = sharded(tmp_path / "m", "a.safetensors", "b.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": json.loads((folder / INDEX).read_text())["weight_map"]}))
    mend = refused_by_all(folder, tmp_path, "has no 'metadata'")
    assert run(shlex.split(mend)[1:]) == 0
    AutoModelForCausalLM.from_pretrained(extend(folder, 256, method("yarn"), tmp_path / "out").folder)


def refused_by_all(folder: Path, place: Path, said: str) -> str:
    """Refused in loading and in all that copies; the mend."""
    fold = method("yarn(attention_factor=1.3)")
    for verb in (lambda: Checkpoint.open(folder).load(device="cpu"),
                 lambda: extend(folder, 256, method("yarn"), place / "out"),
                 lambda: export(folder, "vllm", out=place / "out"),
                 lambda: export(folder, "llama.cpp", 256, fold, out=place / "out", fold=True)):  # fmt: skip
        with pytest.raises(UserError, match=said) as refusal:
            verb()
        assert not (place / "out").exists()
    return refusal.value.mend


@pytest.mark.parametrize("way", ["named", "index", "alone", "adapter"])
def test_nothing_is_unpickled(way, tmp_path):
    folder, sprung = saved(tmp_path / "m"), tmp_path / "sprung"
    trap = folder / ("adapter_model.bin" if way == "adapter" else "pytorch_model.bin")
    trap.write_bytes(pickle.dumps(Trap(sprung)))
    if way == "named":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": trap.name}))
    elif way == "index":
        names = load_file(folder / "model.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, trap.name)}))
    elif way == "adapter":
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    if way in ("index", "alone"):
        (folder / "model.safetensors").unlink()
    for verb in (lambda: Checkpoint.open(folder).load(device="cpu"),
                 lambda: extend(folder, 256, method("yarn"), tmp_path / "out"),
                 lambda: export(folder, "vllm", out=tmp_path / "out")):  # fmt: skip
        with pytest.raises(UserError):
            verb()
    assert not sprung.exists() and not (tmp_path / "out").exists()


def test_the_mend_of_named_weights_mends(tmp_path):
    folder = saved(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "x.bin"}))
    with pytest.raises(UserError) as refusal:
        check_weights(folder)
    assert run(refusal.value.mend.split("   (")[0].split()[1:]) == 0
    assert check_weights(folder)


def test_a_whole_file_goes_before_an_index_as_transformers_takes_it(tmp_path):
    folder = saved(tmp_path / "m")
    (folder / INDEX).write_text(json.dumps({"weight_map": {"x": "missing.safetensors"}}))
    assert [file.name for file in check_weights(folder)] == ["model.safetensors"]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_not_written(wrong, tmp_path):
    folder = checkpoint(tmp_path)
    weights = load_file(folder / "model.safetensors")
    list(weights.values())[-1].view(-1)[-1] = wrong
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for write in (
        lambda out: extend(folder, 256, method("yarn"), out),
        lambda out: export(folder, "vllm", out=out),
        lambda out: write_gguf(folder, out.with_suffix(".gguf")),
    ):
        with pytest.raises(UserError, match=r"tensor '.*' holds NaN or infinite numbers"):
            write(tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_a_cast_that_overflows_is_no_fault_of_the_file(tmp_path):
    folder = checkpoint(tmp_path)
    weights = load_file(folder / "model.safetensors")
    list(weights.values())[-1].view(-1)[-1] = 70000.0
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"beyond 65,504, the largest of float16\nSay --dtype bfloat16"):
        Checkpoint.open(folder).load("float16", "cpu")
    assert Checkpoint.open(folder).load("bfloat16", "cpu").dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["notes.txt", "model.safetensors"])
def test_links_out_of_the_folder_are_not_copied(name, tmp_path):
    folder, outside = saved(tmp_path / "m"), tmp_path / "elsewhere"
    if name == "notes.txt":
        outside.write_text("private")
    else:
        (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    for verb in (lambda: extend(folder, 256, method("yarn"), tmp_path / "out"),
                 lambda: export(folder, "vllm", out=tmp_path / "out")):  # fmt: skip
        with pytest.raises(UserError, match="is a link out of the model's folder"):
            verb()
    assert not (tmp_path / "out").exists()
    Checkpoint.open(folder).load(device="cpu")  # reading is the user's own business


def test_a_hub_cache_is_a_folder_of_links_to_its_blobs(tmp_path):
    repository = tmp_path / "models--a--b"
    snapshot, blobs = repository / "snapshots" / "0123", repository / "blobs"
    saved(snapshot)
    blobs.mkdir()
    for i, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / str(i))
        file.symlink_to(Path("../../blobs") / str(i))
    out = extend(snapshot, 256, method("yarn"), tmp_path / "out").folder
    assert not any(file.is_symlink() for file in out.iterdir())
    assert Checkpoint.open(out).load(device="cpu").config.max_position_embeddings == 256


def test_double_precision_is_no_code_and_one_tensor_has_one_name(tmp_path):
    folder = tmp_path / "m"
    tiny("llama").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: value.double() for name, value in weights.items()}, folder / "model.safetensors", {"format": "pt"})
    check_weights(folder)
    Checkpoint.open(folder).load(device="cpu")
    name = "layers.0.mlp.down_proj.weight"
    save_file(
        weights | {name: torch.zeros_like(weights[f"model.{name}"])}, folder / "model.safetensors", {"format": "pt"}
    )
    refused_by_all(folder, tmp_path, f"'{name}' and 'model.{name}' are one tensor of the model")
