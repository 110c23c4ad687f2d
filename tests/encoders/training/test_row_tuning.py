"""Tuning of new rows alone: what learns, what is hit, what stays, and that it helps."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, BertConfig, BertModel, RobertaConfig, RobertaModel

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_folder import EncoderFolder
from ropewalk.encoders.training.encoder_training import Pace
from ropewalk.encoders.training.row_tuning import LongTable, RowTuning, Texts, pooled, tune_rows
from ropewalk.verbs.extend import extend
from tests.clips import clip, save
from tests.encoders import tiny_encoders

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
WINDOW, LONGER, TIMES = 16, 64, 4
TABLE = "embeddings.position_embeddings.weight"
SETTINGS = RowTuning(Pace(0.03, warmup=2), scale=20.0)


def base(kind, place):
    torch.manual_seed(0)
    if kind == "bert":
        model = BertModel(BertConfig(**SIZES, max_position_embeddings=WINDOW))
    else:  # its positions begin behind the row of the padding
        model = RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=WINDOW + 2, pad_token_id=1))
    model.eval().save_pretrained(place)
    (place / "tokenizer_config.json").write_text(json.dumps({"model_max_length": WINDOW}))
    (place / "vocab.txt").write_text("\n".join(f"word{i}" for i in range(SIZES["vocab_size"])))
    return model


@pytest.fixture(params=["bert-pi", "bert-recurrent", "roberta-pi"])
def made(request, tmp_path):
    kind, method = request.param.split("-")
    plain = base(kind, tmp_path / "plain")
    folder = extend(tmp_path / "plain", to=LONGER, method=method, out=tmp_path / "longer").folder
    return plain, AutoModel.from_pretrained(folder), EncoderFolder.open(folder), method


def texts(n, count=12, seed=0):
    return Texts(torch.randint(4, 60, (count, n), generator=torch.Generator().manual_seed(seed)))


def pairs(steps):
    """Documents, and questions of some of their words."""
    documents = [texts(WINDOW, seed=i) for i in range(steps)]
    return [(Texts(one.ids[:, ::3]), one) for one in documents]


def test_only_new_rows_learn_and_the_loss_falls(made):
    _, model, folder, method = made
    before = {name: one.clone() for name, one in model.state_dict().items()}
    first = 2 if folder.model_type == "roberta" else 0
    old = torch.arange(LONGER) % TIMES == 0 if method == "pi" else torch.arange(LONGER) < WINDOW
    frozen = torch.cat([torch.ones(first, dtype=torch.bool), old])
    losses = tune_rows(model, folder, pairs(40) * 2, SETTINGS)
    assert sum(losses[-10:]) < 0.95 * sum(losses[:10])
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert [name for name in before if not torch.equal(after[name], before[name])] == [TABLE]
    changed = (after[TABLE] != before[TABLE]).any(1)
    assert torch.equal(changed, ~frozen)
    assert all(one.requires_grad and one.grad is None for one in model.parameters())


def test_one_step_moves_the_rows_that_it_hit_alone(made):
    _, model, folder, _ = made
    before = model.get_parameter(TABLE).detach().clone()
    table, batch = LongTable.of(model, folder), (texts(5, 3, 1), texts(7, 3, 2))
    draw = torch.Generator().manual_seed(SETTINGS.seed)
    hit = {int(row) for part in batch for row in table.offset(part, draw).flatten()}
    new = {int(row) for row in table.first + (~table.old).nonzero()[:, 0]}
    tune_rows(model, folder, [batch], RowTuning(Pace(0.03), scale=20.0))
    changed = (model.get_parameter(TABLE) != before).any(1).nonzero()[:, 0].tolist()
    assert set(changed) == hit & new and 0 < len(changed) < len(new)


def test_short_texts_are_read_as_before_bit_for_bit_tuned_or_not(made):
    plain, model, folder, method = made
    step = TIMES if method == "pi" else 1
    expected = step * torch.arange(WINDOW) + (2 if folder.model_type == "roberta" else 0)
    some = texts(WINDOW)
    for _ in range(2):
        positions = LongTable.of(model, folder).as_before(WINDOW)
        assert torch.equal(positions, expected)
        with torch.no_grad():
            assert torch.equal(model(some.ids, position_ids=positions[None]).last_hidden_state,
                               plain(some.ids).last_hidden_state)  # fmt: skip
        tune_rows(model, folder, pairs(2), SETTINGS)


def test_what_was_tuned_is_a_plain_folder(made, tmp_path):
    _, model, folder, _ = made
    tune_rows(model, folder, pairs(2), SETTINGS)
    model.save_pretrained(tmp_path / "tuned")
    again = AutoModel.from_pretrained(tmp_path / "tuned").eval()
    ids = texts(LONGER).ids
    with torch.no_grad():
        assert torch.equal(again(ids).last_hidden_state, model(ids).last_hidden_state)


def test_offsets_reach_all_of_the_table(made):
    _, model, folder, _ = made
    table = LongTable.of(model, folder)
    draw = torch.Generator().manual_seed(1)
    found = torch.cat([table.offset(texts(10), draw) for _ in range(80)])
    begins = found[:, 0] - table.first
    assert begins.min() == 0 and begins.max() == LONGER - 10 and len(begins.unique()) == LONGER - 9
    assert (found[:, 1:] - found[:, :-1] == 1).all()
    with pytest.raises(UserError, match="a text has 65 tokens"):
        table.offset(texts(65), draw)


def test_padding_is_not_pooled(made):
    _, model, _, _ = made
    one = texts(6)
    padded = Texts(torch.nn.functional.pad(one.ids, (0, 4), value=3), torch.tensor([[1] * 6 + [0] * 4]).expand(12, -1))
    with torch.no_grad():
        for pooling in ("mean", "cls"):
            short = pooled(model, one, torch.arange(2, 8)[None], pooling)
            assert torch.allclose(pooled(model, padded, torch.arange(2, 12)[None], pooling), short, atol=1e-5)
        states = model(one.ids, position_ids=torch.arange(2, 8)[None]).last_hidden_state
        assert torch.allclose(pooled(model, one, torch.arange(2, 8)[None]), states.mean(1), atol=1e-6)


def test_a_target_that_is_no_multiple_has_no_positions_as_before(tmp_path):
    base("bert", tmp_path / "plain")
    folder = extend(tmp_path / "plain", to=40, method="pi", out=tmp_path / "longer").folder
    table = LongTable.of(AutoModel.from_pretrained(folder), EncoderFolder.open(folder))
    assert torch.equal(table.as_before(1), torch.tensor([0])) and table.old.sum() == 9  # every second row, and the last
    with pytest.raises(UserError, match="multiple of the window"):
        table.as_before(2)


def test_what_cannot_be_tuned_is_refused(tmp_path):
    plain = base("bert", tmp_path / "plain")
    with pytest.raises(UserError, match="extended by none, expected a longer table"):
        tune_rows(plain, EncoderFolder.open(tmp_path / "plain"), pairs(1))
    folder = extend(tmp_path / "plain", to=LONGER, method="pi+tempscale", out=tmp_path / "both").folder
    with pytest.raises(UserError, match=r"extended by pi\+tempscale"):  # short texts would not be read as before
        tune_rows(AutoModel.from_pretrained(folder), EncoderFolder.open(folder), pairs(1))
    folder = extend(tmp_path / "plain", to=LONGER, method="recurrent", out=tmp_path / "other").folder
    with pytest.raises(UserError, match="rows are frozen of a table of 16"):
        tune_rows(plain, EncoderFolder.open(folder), pairs(1))
    save(tmp_path / "clip")
    folder = extend(tmp_path / "clip", to=154, method="pi", out=tmp_path / "longer").folder
    with pytest.raises(UserError, match="pools at the end token"):
        tune_rows(clip(max_position_embeddings=154), EncoderFolder.open(folder), pairs(1))
    folder = extend(tmp_path / "plain", to=LONGER, method="pi", out=tmp_path / "bert").folder
    (folder / "modules.json").write_text(json.dumps([{"type": "m.Transformer"}, {"type": "m.Pooling", "path": "pool"}]))
    (folder / "pool").mkdir()
    (folder / "pool/config.json").write_text(json.dumps({"pooling_mode": "max"}))
    with pytest.raises(UserError, match="pools by max, expected mean or cls"):
        tune_rows(AutoModel.from_pretrained(folder), EncoderFolder.open(folder), pairs(1))


def test_the_lines_of_the_page_run(tmp_path, monkeypatch):
    pytest.importorskip("sentence_transformers")
    page = (Path(__file__).parents[3] / "docs/encoders.md").read_text("utf-8")
    lines = next(one for one in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "tune_rows(" in one)
    monkeypatch.chdir(tmp_path)
    extend(tiny_encoders.folder(tmp_path / "plain"), to=64, method="pi", out="OUT")
    run = {}
    exec(lines.replace("* 200", "* 2"), run)
    assert len(run["losses"]) == 2 and run["step"][0].mask.sum() < run["step"][0].ids.numel()
    assert (tmp_path / "TUNED/modules.json").is_file()


@pytest.mark.parametrize(("ids", "mask", "said"), [
    (["Who?"], None, "ids is list, expected a tensor"),
    (torch.ones(3).long(), None, r"ids is of shape \[3\], expected a tensor \[texts, tokens\]"),
    (torch.ones(2, 3).long(), torch.ones(2, 4), r"mask is of shape \[2, 4\], expected .* like ids"),
])  # fmt: skip
def test_what_is_no_ids_is_refused(ids, mask, said):
    with pytest.raises(UserError, match=said):
        Texts(ids, mask)


@pytest.mark.parametrize("kind", tiny_encoders.CLASSES)
def test_a_folder_of_sentence_transformers_of_every_kind_of_table(kind, tmp_path):
    library = pytest.importorskip("sentence_transformers")
    plain = AutoModel.from_pretrained(tiny_encoders.folder(tmp_path / "plain", kind)).eval()
    place = extend(tmp_path / "plain", to=4 * tiny_encoders.WINDOW, method="pi", out=tmp_path / "longer").folder
    model, folder = library.SentenceTransformer(str(place)), EncoderFolder.open(place)
    losses = tune_rows(model[0].auto_model, folder, [(texts(5), texts(20, seed=1))] * 8, SETTINGS)
    assert min(losses[4:]) < losses[0]
    model.save(str(tmp_path / "tuned"))
    tuned = library.SentenceTransformer(str(tmp_path / "tuned"))
    assert tuned.max_seq_length == 4 * tiny_encoders.WINDOW
    assert (tuned.encode(["a rope " * 20]) == model.encode(["a rope " * 20])).all()
    body, ids = tuned[0].auto_model, texts(tiny_encoders.WINDOW).ids
    positions = LongTable.of(body, folder).as_before(tiny_encoders.WINDOW)
    with torch.no_grad():
        before, after = plain(ids), body(ids, position_ids=positions.expand_as(ids))
    assert torch.equal(before.last_hidden_state, after.last_hidden_state)
