"""A longer folder holds all that the source held, changed where it must be, and nothing when something goes wrong."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.common.terminal import Terminal
from tests.encoders import tiny_encoders
from tests.encoders.tiny_encoders import FIRST, WINDOW


@pytest.mark.parametrize("kind", ["bert", "roberta", "mpnet"])
def test_only_the_table_and_the_limits_change(kind: str, tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source", kind)
    (source / "README.md").write_text("A card.")
    done = ropewalk.extend(source, to=64, method="grouped", out=tmp_path / "out")
    old, new = load_file(source / "model.safetensors"), load_file(done.folder / "model.safetensors")
    assert old.keys() == new.keys()
    changed = [name for name in old if not torch.equal(old[name], new[name])]
    assert changed == ["embeddings.position_embeddings.weight"]
    (name,), first = changed, FIRST.get(kind, 0)
    assert torch.equal(new[name][:first], old[name][:first])
    assert torch.equal(new[name][first:], old[name][first:].repeat_interleave(2, 0))
    before, after = (json.loads((place / "config.json").read_text()) for place in (source, done.folder))
    assert after == before | {"max_position_embeddings": 64 + first}
    assert json.loads((done.folder / "sentence_bert_config.json").read_text()) == {"max_seq_length": 64}
    assert json.loads((done.folder / "tokenizer_config.json").read_text())["model_max_length"] == 64
    for same in ("modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        assert (done.folder / same).read_bytes() == (source / same).read_bytes()
    record = json.loads((done.folder / "ropewalk.json").read_text())
    assert (record["method"], record["window"], record["target"]) == ("grouped", WINDOW, 64)
    assert done.to_dict()["changed"][name] == f"[{WINDOW + first}, 16] -> [{64 + first}, 16]"


@pytest.mark.parametrize("settings", [b"", b"---\nlicense: mit\n---\n", b"---\r\nlicense: mit\r\n---\r\n"])
def test_the_card_says_first_that_it_is_of_the_model_before(settings: bytes, tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source", limit=16)
    card = b"# A model\n\nCuts at 16. \xff\n\n---\nruler\n---\n"
    (source / "README.md").write_bytes(settings + card)
    done = ropewalk.extend(source, to=64, method="grouped", out=tmp_path / "out")
    new = (done.folder / "README.md").read_bytes()
    assert new.startswith(settings + b"> Changed by ropewalk") and new.endswith(b".\n\n" + card)
    assert b"`grouped`: it reads texts of up to 64 tokens" in new and b"which cut them at 16." in new
    assert (source / "README.md").read_bytes() == settings + card


def test_a_folder_whose_limits_alone_were_raised_can_grow(tmp_path: Path) -> None:
    """What comes out is what the first folder would have given."""
    source = tiny_encoders.folder(tmp_path / "source", limit=16)
    uncut = ropewalk.extend(source, to=WINDOW, method="uncut", out=tmp_path / "uncut").folder
    twice = ropewalk.extend(uncut, to=80, method="pi", out=tmp_path / "twice").folder
    once = ropewalk.extend(source, to=80, method="pi", out=tmp_path / "once").folder
    assert (twice / "model.safetensors").read_bytes() == (once / "model.safetensors").read_bytes()
    for same in ("config.json", "sentence_bert_config.json", "tokenizer_config.json"):
        assert (twice / same).read_bytes() == (once / same).read_bytes()
    with pytest.raises(UserError, match="extended already, by pi"):
        ropewalk.extend(twice, to=96, method="pi", out=tmp_path / "more")


def test_sentences_break_between_words_and_commands_do_not(tmp_path: Path, bert: Path) -> None:
    done = ropewalk.extend(bert, to=64, method="pi", out=tmp_path / "out")
    told = io.StringIO()
    done.show(Terminal(file=told, width=40, color_system=None))
    lines = told.getvalue().splitlines()
    assert f"measure it: {done.measure}" in lines and len(done.measure) > 40
    first = lines.index("texts of every length are read otherwise")
    assert " ".join(one.strip() for one in lines[first:-1]) == " ".join(done.notes)
    assert all(len(one) <= 40 for one in lines[first:-1])


def test_the_default_reads_short_texts_as_before(tmp_path: Path, bert: Path) -> None:
    from sentence_transformers import SentenceTransformer

    done = ropewalk.extend(bert, to=80, out=tmp_path / "out")
    assert done.method == "recurrent" and "bit for bit" in done.notes[0]
    plain, longer = SentenceTransformer(str(bert)), SentenceTransformer(str(done.folder))
    texts = ["Mara cooks.", "The ship sails at nine."]
    assert (plain.encode(texts) == longer.encode(texts)).all()


def test_an_older_file_with_numbers_of_rows_and_a_cut_in_the_tokenizer_keeps_up(tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    save_file(weights | {"embeddings.position_ids": torch.arange(WINDOW)[None]}, source / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    fast = json.loads((source / "tokenizer.json").read_text())
    fast["truncation"] = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    (source / "tokenizer.json").write_text(json.dumps(fast))
    done = ropewalk.extend(source, to=64, method="pi", out=tmp_path / "out")
    numbers = load_file(done.folder / "model.safetensors")["embeddings.position_ids"]
    assert numbers.tolist() == [list(range(64))]
    assert json.loads((done.folder / "tokenizer.json").read_text())["truncation"]["max_length"] == 64


def test_weights_in_several_files_are_linked_but_for_the_one_that_changes(tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    parts = {"a": {k: v for k, v in weights.items() if k.startswith("embeddings")}}
    parts["b"] = {k: v for k, v in weights.items() if k not in parts["a"]}
    where = {}
    for i, (_, part) in enumerate(parts.items(), 1):
        file = f"model-0000{i}-of-00002.safetensors"
        save_file(part, source / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": where}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    done = ropewalk.extend(source, to=64, method="pi", out=tmp_path / "out")
    other = "model-00002-of-00002.safetensors"
    assert (done.folder / other).samefile(source / other)
    from sentence_transformers import SentenceTransformer

    assert SentenceTransformer(str(done.folder)).max_seq_length == 64


@pytest.mark.parametrize(("to", "method", "said"), [
    (64, "tempscale", "does not reach 64 tokens"), (16, "pi", "not beyond the 32 rows"), (64, "none", "does not reach"),
    (16, "none", "makes nothing longer"), (32, "none", "what is read already"),
    (1, "tempscale", "makes nothing longer"),
    (64, "uncut", "table of positions has 32 rows"), (32, "uncut", "not beyond the 32"),
    (64, "yarn", "unknown method for encoders"), (64, "chunks", "cannot be saved"),
])  # fmt: skip
def test_what_no_folder_can_say_is_refused_and_nothing_is_left(
    to: int, method: str, said: str, tmp_path: Path, bert: Path
) -> None:
    with pytest.raises(UserError, match=said):
        ropewalk.extend(bert, to=to, method=method, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_decoder_takes_no_method_of_encoders_and_its_source_is_never_written_onto(tmp_path: Path, bert: Path) -> None:
    with pytest.raises(UserError, match="grouped is a method for embedding models, and demo is none"):
        ropewalk.extend("demo", to=2048, method="grouped", out=tmp_path / "out")
    with pytest.raises(UserError):
        ropewalk.extend(bert, to=64, out=bert, overwrite=True)
    out = ropewalk.extend(bert, to=64, out=tmp_path / "out").folder
    with pytest.raises(UserError, match="exists already"):
        ropewalk.extend(bert, to=64, out=out)
    assert ropewalk.extend(bert, to=96, out=out, overwrite=True).target == 96


def test_every_limit_of_texts_is_raised_and_that_of_questions_stays(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    source = tiny_encoders.folder(tmp_path / "source")
    settings = {
        "max_seq_length": 16, "document_length": 16, "query_length": 8, "processor_kwargs": {"model_max_length": 16},
        "processing_kwargs": {"text": {"max_length": 16, "truncation": True}},
    }  # fmt: skip
    (source / "sentence_bert_config.json").write_text(json.dumps(settings))
    done = ropewalk.extend(source, to=64, out=tmp_path / "out")
    assert done.cut_before == 16
    ids = SentenceTransformer(str(done.folder))[0].preprocess(["rope " * 80], task="document")["input_ids"]
    assert ids.shape == (1, 64)
    assert json.loads((done.folder / "sentence_bert_config.json").read_text())["query_length"] == 8
    (source / "sentence_bert_config.json").write_text(json.dumps({"tokenizer_args": {"model_max_length": 16}}))
    older = ropewalk.extend(source, to=64, out=tmp_path / "older")
    assert SentenceTransformer(str(older.folder)).max_seq_length == 64


def test_what_holds_the_old_table_is_left_out_and_modules_come_along(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense

    source = tiny_encoders.in_a_folder(tiny_encoders.folder(tmp_path / "source"))
    (source / "3_Dense").mkdir()
    Dense(16, 8).save(str(source / "3_Dense"), safe_serialization=False)
    listed = json.loads((source / "modules.json").read_text())
    listed.append(listed[1] | {"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (source / "modules.json").write_text(json.dumps(listed))
    beside = ["model.onnx", "model.safetensors.index.json", "pytorch_model.bin", "tf_model.h5"]
    for name in beside:
        (source / "0_Transformer" / name).write_text("{}")
    for name in ("assets", "onnx"):
        (source / name).mkdir()
        (source / name / "model.onnx").write_bytes(b"x")
    done = ropewalk.extend(source, to=64, out=tmp_path / "out")
    (note,) = (note for note in done.notes if "not taken along" in note)
    assert note.partition(": ")[2] == ", ".join(["assets/", "onnx/", *(f"0_Transformer/{name}" for name in beside)])
    left = {file.name for file in (source / "0_Transformer").iterdir()} - set(beside)
    assert {file.name for file in (done.folder / "0_Transformer").iterdir()} == left
    dense = "3_Dense/pytorch_model.bin"  # what is saved again in place would change the source through a link
    assert not (done.folder / dense).samefile(source / dense)
    plain, longer = SentenceTransformer(str(source)), SentenceTransformer(str(done.folder))
    assert (plain.encode(["Mara cooks."]) == longer.encode(["Mara cooks."])).all() and longer.max_seq_length == 64


def test_a_snapshot_of_a_hub_cache_is_extended_as_its_files_are(tmp_path: Path) -> None:
    plain = tiny_encoders.in_a_folder(tiny_encoders.folder(tmp_path / "plain"))
    snapshot, blobs = (tmp_path / "hub" / "models--a--b" / name for name in ("snapshots/abc", "blobs"))
    blobs.mkdir(parents=True)
    for i, file in enumerate(sorted(file for file in plain.rglob("*") if file.is_file())):
        (blobs / str(i)).write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / str(i), link.parent))
    one, other = (ropewalk.extend(place, to=64, out=tmp_path / f"out{i}").folder
                  for i, place in enumerate((plain, snapshot)))  # fmt: skip
    names = {str(file.relative_to(one)) for file in one.rglob("*") if file.is_file()} - {"ropewalk.json"}
    assert names and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_the_tokenizer_of_many_languages_is_read(tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source")
    fast = source / "tokenizer.json"
    fast.write_text(fast.read_text() + " " * (9 << 20))
    assert ropewalk.extend(source, to=64, out=tmp_path / "out").target == 64


@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_weights_in_shards_are_extended_as_in_one_file(kind: str, tmp_path: Path) -> None:
    whole = tiny_encoders.folder(tmp_path / "whole", kind)
    parts = tiny_encoders.folder(tmp_path / "parts", kind)
    (parts / "model.safetensors").unlink()
    tiny_encoders.model(kind).save_pretrained(parts, max_shard_size=3000)
    assert len(list(parts.glob("*.safetensors"))) > 5
    one, other = (ropewalk.extend(place, to=64, method="pi+tempscale", out=tmp_path / f"out{i}")
                  for i, place in enumerate((whole, parts)))  # fmt: skip
    assert one.changed == other.changed and "queries" in one.changed
    expected = load_file(one.folder / "model.safetensors")
    found = {name: tensor for file in other.folder.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_uncut_raises_limits_to_the_end_of_the_table(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    source = tiny_encoders.folder(tmp_path / "source", limit=16)
    done = ropewalk.extend(source, to=WINDOW, method="uncut", out=tmp_path / "out")
    assert SentenceTransformer(str(done.folder)).max_seq_length == WINDOW and done.cut_before == 16
    assert (done.folder / "model.safetensors").samefile(source / "model.safetensors")


def test_a_table_of_the_same_size_is_said_to_have_changed(tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source")
    done = ropewalk.extend(source, to=WINDOW, method="pi(effective_window=16)", out=tmp_path / "out")
    assert done.changed["embeddings.position_embeddings.weight"] == f"[{WINDOW}, 16] -> [{WINDOW}, 16]"
    assert "queries" not in done.changed


@pytest.mark.parametrize("tau", ["1e-60", "0", "-1", "1e3", "0.04", "20.5"])
def test_a_temperature_that_no_weight_can_hold_is_refused(tau: str, tmp_path: Path, bert: Path) -> None:
    with pytest.raises(UserError, match=r"tau is .*, expected 0\.05 to 20"):
        ropewalk.extend(bert, to=32, method=f"tempscale(tau={tau})", out=tmp_path / "out")


def test_numbers_beyond_the_type_of_a_tensor_are_refused(tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source")
    weights = {name: one.half() for name, one in load_file(source / "model.safetensors").items()}
    query = "encoder.layer.1.attention.self.query.weight"
    weights[query][0, 0] = 60000
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=f"'{query}' would hold numbers beyond the largest of float16"):
        ropewalk.extend(source, to=64, method="pi+tempscale(tau=0.5)", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source")
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (source / "1_Pooling" / "more.json").symlink_to(secret)
    with pytest.raises(UserError, match="link out of the model's folder"):
        ropewalk.extend(source, to=64, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
