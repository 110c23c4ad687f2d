"""A longer folder holds all that the source held, changed where it must be, and nothing when something goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import ropewalk
from ropewalk.common.errors import UserError
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
    for same in ("README.md", "modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"):
        assert (done.folder / same).read_bytes() == (source / same).read_bytes()
    record = json.loads((done.folder / "ropewalk.json").read_text())
    assert (record["method"], record["window"], record["target"]) == ("grouped", WINDOW, 64)
    assert done.to_dict()["changed"][name] == f"[{WINDOW + first}, 16] -> [{64 + first}, 16]"


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


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    source = tiny_encoders.folder(tmp_path / "source")
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (source / "1_Pooling" / "more.json").symlink_to(secret)
    with pytest.raises(UserError, match="link out of the model's folder"):
        ropewalk.extend(source, to=64, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
