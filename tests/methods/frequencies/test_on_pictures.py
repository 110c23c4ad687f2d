"""Frequency methods on models whose tokens have three positions: in time, height and width (M-RoPE)."""

import math

import pytest
import torch
from transformers import AutoModelForImageTextToText, Qwen2Config, Qwen2ForCausalLM

from ropewalk import RopeSpec, UserError, method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.inspection import inspect
from ropewalk.checkpoint.write import extend
from ropewalk.methods.frequencies.mrope_pp import MRoPEPlusPlus
from ropewalk.rope import config as rope_config
from ropewalk.rope import live
from ropewalk.rope.live import rotaries
from tests.matrix import METHODS, RUNTIME, TARGET, WINDOW, buffers, made, near, same
from tests.vision import AXES, MODELS, joins, logits, pictures, positions, seeing, shared, turned, words

STATIC = [name for name in METHODS if name not in {spelling.split("(")[0] for spelling in RUNTIME}]
FEW = ("pi", "yarn", "longrope", "mrope-pp")
PAIRS = [(name, kind) for kind in MODELS for name in (STATIC if kind == "qwen2_vl" else FEW)]


def by_hand(kind, places, frequencies):
    """Cosines and sines [n, d/2] of one row, pair by pair."""
    angles = [frequencies.inv_freq[i] * places[axis, 0].double() for i, axis in enumerate(AXES[kind])]
    t, angle = frequencies.attention_factor, torch.stack(angles, -1)
    return t * angle.cos(), t * angle.sin()


@pytest.mark.parametrize("kind", MODELS)
def test_the_axes_of_a_configuration_are_those_that_the_model_turns_by(kind):
    model = shared(kind)
    assert rope_config.read(model.config)["all"].axes == AXES[kind]
    assert live.axes(rotaries(model)[0]) == (AXES[kind] if joins(model) else None)


@pytest.mark.parametrize(("spelling", "kind"), PAIRS)
def test_pictures_are_read_alike_while_it_is_on_after_extending_and_after_a_reload(spelling, kind, tmp_path):
    model, read, text = seeing(kind), pictures(), words(200)
    chosen, before, plain, state = made(spelling, model), logits(model, read), logits(model, text), buffers(model)
    places = positions(model, read)
    assert not torch.equal(places[0], places[1]) and not torch.equal(places[1], places[2])
    with chosen.on(model, to=TARGET):
        seen, said = logits(model, read), logits(model, text)
        meant = by_hand(kind, places, chosen.plan(model.config, TARGET)["all"])
        for table, exact in zip(turned(model, places), meant, strict=True):
            assert torch.allclose(table.double(), exact, atol=1e-4)
    assert same(buffers(model), state) and torch.equal(logits(model, read), before)
    assert spelling == "none" or not near(seen, before, 1e-4)
    assert spelling == "none" or not near(said, plain, 1e-4)
    section = model.config.text_config.rope_parameters["mrope_section"]
    chosen.extend(model, to=TARGET)
    assert torch.equal(logits(model, read), seen) and torch.equal(logits(model, text), said)
    model.save_pretrained(tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, read), seen) and torch.equal(logits(again, text), said)
    kept = again.config.text_config.rope_parameters
    assert kept["mrope_section"] == section and inspect(tmp_path).sound
    assert inspect(tmp_path).specs["all"].axes == AXES[kind]


@pytest.mark.parametrize("kind", MODELS)
def test_a_folder_that_was_extended_is_opened_with_its_eyes(kind, tmp_path):
    model, read = seeing(kind), pictures()
    model.save_pretrained(tmp_path / "m")
    extend(tmp_path / "m", TARGET, method("mrope-pp"), tmp_path / "long")
    with method("mrope-pp").on(model, to=TARGET):
        seen = logits(model, read)
    assert torch.equal(logits(Checkpoint.open(tmp_path / "long").load(device="cpu"), read), seen)
    (note,) = Checkpoint.open(tmp_path / "long").notes
    assert "M-RoPE with rope_type 'longrope': transformers reads it; vLLM and SGLang have M-RoPE in" in note


@torch.no_grad()
@pytest.mark.parametrize("spelling", ["none", "pi", "yarn", "mrope-pp"])
def test_text_is_read_as_by_the_language_model_alone(spelling):
    """Three equal positions are one: Qwen2-VL on text is Qwen2 with the same weights and frequencies."""
    model, ids = shared("qwen2_vl"), words(200)
    text = model.config.text_config.to_dict()
    keys = "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads".split()
    one = Qwen2ForCausalLM(
        Qwen2Config(
            **{key: text[key] for key in (*keys, "max_position_embeddings", "rms_norm_eps")},
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        )
    ).eval()
    weights = {name.replace("language_model.", ""): value for name, value in model.state_dict().items()}
    one.load_state_dict({name: value for name, value in weights.items() if "visual" not in name})
    axes = tuple(AXES["qwen2_vl"].count(axis) for axis in range(3))
    other = MRoPEPlusPlus(section=axes) if spelling == "mrope-pp" else method(spelling)
    with method(spelling).on(model, to=TARGET), other.on(one, to=TARGET):
        assert near(logits(model, ids), one(ids).logits)


ATTENTION_TIME = [
    "log-n",
    "self-extend(group=9, window=32)",
    "yarn+log-n",
    "streaming-llm(sinks=2, recent=30)",
    *RUNTIME,
]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("spelling", ATTENTION_TIME)
def test_what_counts_one_position_per_token_refuses_pictures_and_reads_text(spelling, kind):
    model, ids = shared(kind), words(90)
    with method(spelling).on(model, to=TARGET):
        with pytest.raises(UserError, match="other positions in time than in height or width"):
            logits(model, pictures())
        once = logits(model, ids)
        for rows in (3, 4):
            places = torch.arange(90).expand(rows, 1, -1)
            assert torch.equal(logits(model, ids, position_ids=places), once)
        with pytest.raises(UserError, match=r"position_ids have the shape \[2, 1, 90\]"):
            logits(model, ids, position_ids=places[:2])
    assert not near(once, logits(model, ids), 1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_regions_that_change_no_distance_change_no_text(kind):
    model, ids = shared(kind), words(WINDOW)
    with method("self-extend(group=1, window=8)").on(model, to=WINDOW):
        assert near(logits(model, ids), logits(shared(kind), ids)) and torch.equal(
            logits(model, ids), logits(model, ids)
        )


def test_a_module_that_divides_its_pairs_otherwise_than_its_configuration_is_refused():
    model = seeing("qwen2_vl")
    if not joins(model):
        pytest.skip("attention joins the axes, by the section of its own configuration")
    rotaries(model)[0].module.mrope_section = [3, 2, 3]
    with pytest.raises(UserError, match=r"pair 2 turns with the time, the configuration gives the height \(1 of 8"):
        method("yarn").extend(model, to=TARGET)


# M-RoPE++


LARGE = RopeSpec.plain(1e6, 128, 16384, axes=(0,) * 16 + (1,) * 24 + (2,) * 24)


def test_the_base_of_width_at_the_point_of_the_authors_code():
    found = method("mrope-pp").frequencies(LARGE, 65536)
    pairs = torch.arange(40, 64, dtype=torch.float64)
    assert torch.allclose(found.inv_freq[40:], 4089184.405327 ** (-pairs / 64), rtol=1e-10)
    assert torch.equal(found.inv_freq[:16], LARGE.inv_freq[:16]) and found.attention_factor == 1.0


@pytest.mark.parametrize("spelling", ["mrope-pp", "mrope-pp(form=paper)", "mrope-pp(ntk_factor=0.3)"])
def test_a_target_of_the_window_changes_nothing(spelling):
    assert torch.allclose(method(spelling).frequencies(LARGE, 16384).inv_freq, LARGE.inv_freq, rtol=1e-14)
    assert torch.equal(method(spelling).at(LARGE, 16384).inv_freq, LARGE.inv_freq)


def test_the_form_of_the_paper_goes_from_one_to_s():
    f = method("mrope-pp(form=paper)").frequencies(LARGE, 65536).factors(LARGE)
    assert bool((f[:16] == 1).all() and (f[40:] == 4).all() and (f[15:40].diff() > 0).all())
    assert float(f[39]) == pytest.approx(4) and 1 < float(f[16]) < 1.2


def test_pairs_in_turns_are_stretched_by_their_axis():
    f = (
        method("mrope-pp")
        .plan(shared("qwen3_vl").config, TARGET)["all"]
        .factors(rope_config.read(shared("qwen3_vl").config)["all"])
    )
    base = ((TARGET - 1) / (WINDOW - 1)) ** (16 / 14)
    meant = [base ** (i / 8) if axis else 1.0 for i, axis in enumerate(AXES["qwen3_vl"])]
    assert f.tolist() == pytest.approx(meant)


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("mrope-pp(section=(3, 3, 2))", r"section is \(3, 3, 2\), expected those of this model, which are \[2, 3, 3\]"),
        ("mrope-pp(section=(8,))", "expected those of this model"),
        ("mrope-pp(section=(2.0, 3, 3))", "expected those of this model"),
    ],
)
def test_axes_that_are_not_the_models_are_refused(spelling, message):
    with pytest.raises(UserError, match=message):
        method(spelling).plan(shared("qwen2_vl").config, TARGET)


def test_a_model_without_axes_is_told_so():
    with pytest.raises(UserError, match="tokens of this model have one position") as error:
        method("mrope-pp").plan(Qwen2Config(), 131072)
    assert "mrope-pp(section=(16, 24, 24))" in error.value.mend


# The visual window


def test_a_visual_window_of_the_whole_window_is_yarn_bit_for_bit():
    config = shared("qwen2_vl").config
    visual, yarn = method(f"visual-window(effective_window={WINDOW})"), method("yarn")
    assert visual.saved(config, TARGET) == yarn.saved(config, TARGET)
    one, other = (chosen.plan(config, TARGET)["all"] for chosen in (visual, yarn))
    assert torch.equal(one.inv_freq, other.inv_freq) and one.attention_factor == other.attention_factor


def test_a_shorter_visual_window_is_yarn_of_a_model_with_that_window():
    model = shared("qwen2_vl")
    visual = method("visual-window(effective_window=32)")
    shorter = seeing("qwen2_vl").config
    shorter.text_config.max_position_embeddings = 32
    for target in (WINDOW, TARGET):  # also inside the trained window
        saved = visual.saved(model.config, target)
        assert saved == method("yarn").saved(shorter, target) and saved["all"]["factor"] == target / 32
    assert visual.plan(model.config, TARGET)["all"].attention_factor == pytest.approx(0.1 * math.log(8) + 1)


@pytest.mark.parametrize("target", [WINDOW, TARGET])
def test_a_visual_window_is_refined_from_where_it_starts(target):
    rope = rope_config.read(shared("qwen2_vl").config)["all"]
    joined = method("resonance+visual-window(effective_window=32)").plan(shared("qwen2_vl").config, target)["all"]
    assert float(joined.factors(rope)[-1]) == pytest.approx(target / 32, rel=1e-3)
    assert joined.attention_factor == pytest.approx(0.1 * math.log(target / 32) + 1)


def test_a_visual_window_inside_the_window_is_written_and_the_trained_one_stays_known(tmp_path):
    model, read = seeing("qwen2_5_vl"), pictures()
    chosen = method("visual-window(effective_window=32)")
    with chosen.on(model, to=WINDOW):
        seen = logits(model, read)
    chosen.extend(model, to=WINDOW)
    model.save_pretrained(tmp_path)
    found = inspect(tmp_path)
    assert torch.equal(logits(AutoModelForImageTextToText.from_pretrained(tmp_path).eval(), read), seen)
    assert found.sound and found.window == WINDOW == found.length


@pytest.mark.parametrize("window", [0, 65, 3.5])
def test_a_visual_window_that_is_none_is_refused(window):
    with pytest.raises(UserError, match=r"effective_window is|option effective_window"):
        method(f"visual-window(effective_window={window})").plan(shared("qwen2_vl").config, TARGET)


def test_a_visual_window_must_be_given():
    with pytest.raises(UserError, match="effective_window") as error:
        method("visual-window").plan(shared("qwen2_vl").config, TARGET)
    assert "visual-window(effective_window=8192)" in str(error.value)
