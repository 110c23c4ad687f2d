"""CLIP past its 77 tokens: a plain folder, of which only the text tower's positions are new."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_folder import EncoderFolder
from ropewalk.verbs.extend import extend
from ropewalk.verbs.inspect import inspect
from tests.clips import END, SIDE, captions, clip, save, texts, tokenizer

TABLE = "text_model.embeddings.position_embedding.weight"
WINDOW, LONGER, KEPT = 77, 248, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def stretched(folder, tmp_path_factory):
    return extend(folder, to=LONGER, method="stretch", out=tmp_path_factory.mktemp("out") / "longer").folder


def weights(place):
    return load_file(place / "model.safetensors")


def config(place):
    return json.loads((place / "config.json").read_text("utf-8"))


def of_the_card(old):
    """Long-CLIP's table, row by row as the paper's code makes it."""
    rows = [old[i] for i in range(KEPT)]
    for i in range(KEPT, WINDOW - 1):
        rows += [((4 - a) * old[i] + a * old[i + 1]) / 4 for a in range(4)]
    return torch.stack(rows + [old[-1] + a * (old[-1] - old[-2]) / 4 for a in range(4)])


def test_inspect_shows_the_text_tower(folder):
    found = inspect(folder)
    assert (found.window, found.reads, found.architecture) == (WINDOW, WINDOW, "CLIPModel")
    assert found.limits == {"tokenizer_config.json:model_max_length": WINDOW}
    assert (found.positions, found.poolings, found.layers, found.dimensions) == ("table", ["end token"], 2, 32)
    assert found.sound


def test_only_the_table_and_the_limits_are_new(folder, stretched):
    old, new = weights(folder), weights(stretched)
    assert old.keys() == new.keys()
    assert [name for name in old if not torch.equal(old[name], new[name])] == [TABLE]
    assert torch.allclose(new[TABLE], of_the_card(old[TABLE]), atol=1e-7) and len(new[TABLE]) == LONGER
    assert torch.equal(new[TABLE][:KEPT], old[TABLE][:KEPT])
    before, after = config(folder), config(stretched)
    assert after["text_config"].pop("max_position_embeddings") == LONGER
    assert before["text_config"].pop("max_position_embeddings") == WINDOW
    assert before == after
    assert CLIPTokenizer.from_pretrained(stretched).model_max_length == LONGER


@pytest.mark.parametrize("end", [END, 2])  # 2: configurations of before 2023, which pool at the highest id
def test_short_captions_are_read_as_before_bit_for_bit(tmp_path, end):
    save(tmp_path / "clip", clip(end))
    longer = extend(tmp_path / "clip", to=LONGER, method="stretch", out=tmp_path / "longer").folder
    before, after = CLIPModel.from_pretrained(tmp_path / "clip"), CLIPModel.from_pretrained(longer)
    for tokens in (3, KEPT):
        ids = captions(tokens)
        padded = torch.nn.functional.pad(ids, (0, WINDOW - tokens), value=END)  # as openai's tokenizer pads
        assert torch.equal(texts(before, ids), texts(after, ids))
        assert torch.equal(texts(before, padded), texts(after, padded))
    for tokens in (KEPT + 2, WINDOW):
        assert not torch.allclose(texts(before, captions(tokens)), texts(after, captions(tokens)))
    with pytest.raises(ValueError, match="max_position_embeddings"):
        texts(before, captions(LONGER))
    assert texts(after, captions(LONGER)).isfinite().all()


def test_both_ways_to_pool_are_one(tmp_path):
    found = []
    for end in (END, 2):
        save(tmp_path / f"{end}", clip(end))
        longer = extend(tmp_path / f"{end}", to=LONGER, method="stretch", out=tmp_path / f"longer-{end}").folder
        found.append(texts(CLIPModel.from_pretrained(longer), captions(200)))
    assert torch.equal(*found)


def test_images_are_seen_as_before(folder, stretched):
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (CLIPModel.from_pretrained(one).get_image_features(pixels).pooler_output
                         for one in (folder, stretched))  # fmt: skip
    assert torch.equal(before, after)


@pytest.mark.parametrize(("method", "row"), [("pi", lambda j: j / 2), ("grouped", lambda j: j // 2),
                                             ("recurrent", lambda j: j % WINDOW)])  # fmt: skip
def test_other_tables_work_too(folder, tmp_path, method, row):
    longer = extend(folder, to=2 * WINDOW, method=method, out=tmp_path / "longer").folder
    old, new = weights(folder)[TABLE], weights(longer)[TABLE]
    for j in (0, 1, 76, 77, 151):
        low, part = int(row(j)), row(j) % 1
        assert torch.allclose(new[j], old[low] * (1 - part) + old[min(low + 1, 76)] * part, atol=1e-7)
    if method == "recurrent":
        before, after = CLIPModel.from_pretrained(folder), CLIPModel.from_pretrained(longer)
        assert torch.equal(texts(before, captions(WINDOW)), texts(after, captions(WINDOW)))


def test_a_temperature_is_the_text_towers_alone(folder, tmp_path):
    longer = extend(folder, to=LONGER, method="stretch+tempscale(tau=0.5)", out=tmp_path / "longer").folder
    old, new = weights(folder), weights(longer)
    changed = {name for name in old if not torch.equal(old[name], new[name])} - {TABLE}
    assert changed == {f"text_model.encoder.layers.{i}.self_attn.q_proj.{kind}" for i in (0, 1)
                       for kind in ("weight", "bias") if old[f"text_model.encoder.layers.{i}.self_attn.q_proj.{kind}"]
                       .any()}  # fmt: skip
    assert all(torch.equal(new[name], 2 * old[name]) for name in changed) and len(changed) >= 2


def test_buffers_of_older_files_are_followed_in_the_text_tower_alone(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "old")
    buffer = "text_model.embeddings.position_ids"
    more = {buffer: torch.arange(WINDOW)[None], buffer.replace("text", "vision"): torch.arange(WINDOW)[None]}
    save_file(weights(folder) | more, tmp_path / "old/model.safetensors", {"format": "pt"})
    longer = weights(extend(tmp_path / "old", to=LONGER, method="stretch", out=tmp_path / "longer").folder)
    assert torch.equal(longer[buffer], torch.arange(LONGER)[None])
    assert torch.equal(longer[buffer.replace("text", "vision")], torch.arange(WINDOW)[None])


@pytest.mark.parametrize("said", ["all", "some", "empty"])
def test_a_second_configuration_of_the_text_tower_is_followed(folder, tmp_path, said):
    """``text_config_dict`` of older files, which counts for more, its defaults too."""
    shutil.copytree(folder, tmp_path / "old")
    content = config(folder)
    inner = dict(content["text_config"])
    content["text_config_dict"] = inner if said == "all" else {k: v for k, v in inner.items()
                                                               if k != "max_position_embeddings"}  # fmt: skip
    if said == "empty":
        content |= {"text_config": content["text_config_dict"]}
        del content["text_config_dict"]
    (tmp_path / "old/config.json").write_text(json.dumps(content))
    assert inspect(tmp_path / "old").window == WINDOW
    longer = extend(tmp_path / "old", to=LONGER, method="stretch", out=tmp_path / "longer").folder
    model = CLIPModel.from_pretrained(longer)
    assert model.config.text_config.max_position_embeddings == LONGER
    assert texts(model, captions(LONGER)).isfinite().all() and inspect(longer).window == LONGER


def test_a_text_tower_alone(tmp_path):
    whole = clip()
    save(tmp_path / "clip", whole)
    tower = CLIPTextModelWithProjection.from_pretrained(tmp_path / "clip")
    tower.save_pretrained(tmp_path / "tower")
    tokenizer().save_pretrained(tmp_path / "tower")
    longer = extend(tmp_path / "tower", to=LONGER, method="stretch", out=tmp_path / "longer").folder
    after = CLIPTextModelWithProjection.from_pretrained(longer).eval()
    with torch.no_grad():
        assert torch.equal(after(captions(KEPT)).text_embeds, tower.eval()(captions(KEPT)).text_embeds)
        assert after(captions(LONGER)).text_embeds.isfinite().all()


def test_a_table_of_other_length_is_refused_and_its_line_mends_it(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "wrong")
    inspect(tmp_path / "wrong", set=["text_config.max_position_embeddings=99"])
    (problem,) = inspect(tmp_path / "wrong").problems
    assert (problem.code, problem.key) == ("table-of-other-length", "text_config.max_position_embeddings")
    with pytest.raises(UserError, match="table-of-other-length"):
        extend(tmp_path / "wrong", to=LONGER, method="stretch", out=tmp_path / "longer")
    assert not (tmp_path / "longer").exists()
    assert inspect(tmp_path / "wrong", set=[problem.mend.rpartition(" ")[2]]).sound


def test_notes_say_how_far_texts_are_read_as_before(folder, tmp_path):
    done = extend(folder, to=LONGER, method="stretch", out=tmp_path / "longer")
    assert done.notes[0].startswith("texts of up to 20 tokens are read as before")
    done = extend(folder, to=LONGER, method="stretch(effective_window=40)", out=tmp_path / "other")
    assert done.notes[0].startswith("texts of up to 20 tokens are read as before")
    done = extend(folder, to=LONGER, method="stretch+tempscale", out=tmp_path / "third")
    assert "otherwise than before" in done.notes[0]


@pytest.mark.parametrize("older", [False, True])
def test_sentence_transformers_reads_it(folder, tmp_path, older):
    library = pytest.importorskip("sentence_transformers")
    image_module = pytest.importorskip("PIL.Image")
    place = folder
    if older:  # as that library wrote CLIP before version 5.4
        place = tmp_path / "modules"
        shutil.copytree(folder, place / "0_CLIPModel")
        entry = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
        (place / "modules.json").write_text(json.dumps([entry]))
    longer = extend(place, to=LONGER, method="stretch", out=tmp_path / "longer").folder
    before, after = library.SentenceTransformer(str(place)), library.SentenceTransformer(str(longer))
    assert (before.max_seq_length, after.max_seq_length) == (WINDOW, LONGER)
    short, long, image = "a red cat", "a red cat " * 30, image_module.new("RGB", (SIDE, SIDE), (200, 30, 10))
    for one in (short, image):
        assert (before.encode([one]) == after.encode([one])).all()
    assert (after.encode([long]) != after.encode([long[:-60]])).any()
    assert (before.encode([long]) == before.encode([long[:-60]])).all()  # cut
    assert EncoderFolder.open(longer).reads == LONGER


def test_a_folder_reads_as_the_method_does_in_code(folder, stretched):
    pytest.importorskip("sentence_transformers")
    from ropewalk.encoders.encoder import Encoder
    from ropewalk.encoders.encoder_method import encoder_methods
    from ropewalk.encoders.extended_encoder import ExtendedEncoder

    live = ExtendedEncoder(Encoder(str(folder)), EncoderFolder.open(folder), encoder_methods("stretch"), LONGER)
    plain = ExtendedEncoder(Encoder(str(stretched)), EncoderFolder.open(stretched), encoder_methods("none"), LONGER)
    for tokens in (10, 200):
        ids = captions(tokens)[0, 1:-1].tolist()
        assert (live.vectors(ids) == plain.vectors(ids)).all()
    with pytest.raises(UserError, match="does not pool a text by the mean"):
        ExtendedEncoder(live.encoder, live.folder, encoder_methods("late-chunking"), LONGER).vectors([1, 2])
