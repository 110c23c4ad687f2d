"""Where CLIP pools: configuration and tokenizer agree on it, or it is told."""

import json

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_folder import EncoderFolder
from ropewalk.encoders.vision.end_of_text import HIGHEST, pooled_elsewhere
from ropewalk.verbs.inspect import inspect
from tests.clips import END, captions, clip, save, texts


@pytest.mark.parametrize("end", [END, HIGHEST])
def test_a_clip_that_pools_where_texts_end_is_sound(tmp_path, end):
    assert EncoderFolder.open(save(tmp_path, clip(end))).problems == []


def test_another_end_is_a_problem_and_its_line_mends_it(tmp_path):
    save(tmp_path, clip(5))
    found = inspect(tmp_path)
    assert [one.code for one in found.problems] == ["pooled-elsewhere"]
    (problem,) = found.problems
    assert (problem.key, problem.seen) == ("text_config.eos_token_id", 5) and f"{END}," in problem.expected
    assert problem.mend.endswith(f"--set text_config.eos_token_id={END}")
    assert inspect(tmp_path, set=[f"text_config.eos_token_id={END}"]).sound
    with pytest.raises(UserError, match="pooled-elsewhere"):
        EncoderFolder.open(save(tmp_path / "again", clip(5))).refuse_unsound()


def test_what_the_problem_says_is_what_transformers_does():
    ids = captions(9)
    ids[:, 4] = 5
    here, there = clip(END), clip(5)
    there.load_state_dict(here.state_dict())
    assert torch.allclose(texts(there, ids), texts(there, ids[:, :5]), atol=1e-6)  # what is behind is not read
    assert not torch.allclose(texts(there, ids), texts(here, ids))


def test_a_token_above_the_end_is_a_problem_where_the_highest_pools(tmp_path):
    save(tmp_path, clip(HIGHEST))
    file = tmp_path / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    content["added_tokens"].append({**content["added_tokens"][-1], "id": END + 1, "content": "<more>"})
    file.write_text(json.dumps(content), "utf-8")
    (problem,) = EncoderFolder.open(tmp_path).problems
    assert problem.code == "pooled-elsewhere" and str(END + 1) in problem.seen


def _ends_at_two(folder):
    """A tokenizer whose end has the id 2, and whose other ids go beyond it."""
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    words = content["model"]["vocab"]
    other = next(word for word, i in words.items() if i == HIGHEST)
    words["<|endoftext|>"], words[other] = HIGHEST, END
    for one in content["added_tokens"]:
        one["id"] = words[one["content"]]
    file.write_text(json.dumps(content), "utf-8")


@pytest.mark.parametrize("end", [HIGHEST, END])
def test_no_value_mends_a_tokenizer_that_ends_at_two(tmp_path, end):
    _ends_at_two(save(tmp_path, clip(end)))
    (problem,) = EncoderFolder.open(tmp_path).problems
    assert problem.code == "pooled-elsewhere" and "--set" not in problem.mend
    assert problem.mend.startswith("No value mends it: put the files of the tokenizer that came with the model")


def test_an_id_is_a_whole_number(tmp_path):
    save(tmp_path)
    for said in (float(END), True, None):
        (problem,) = pooled_elsewhere("m", tmp_path, {"eos_token_id": said}, ["eos_token_id"])
        assert problem.seen is said and problem.mend.endswith(f"eos_token_id={END}")


def test_older_tokenizers_are_read_too(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "<|endoftext|>": 7}))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"eos_token": {"content": "<|endoftext|>"}}))
    assert not pooled_elsewhere("m", tmp_path, {"eos_token_id": 7}, ["eos_token_id"])
    assert not pooled_elsewhere("m", tmp_path, {"eos_token_id": HIGHEST}, ["eos_token_id"])
    assert pooled_elsewhere("m", tmp_path, {"eos_token_id": 6}, ["eos_token_id"])
    assert not pooled_elsewhere("m", tmp_path / "nothing", {"eos_token_id": 6}, ["eos_token_id"])
