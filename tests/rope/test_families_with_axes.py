"""All families of transformers whose tokens have several positions: each is read as it turns, or refused in words."""

import ast
import copy
import importlib
import re
from functools import cache
from inspect import getsource
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ropewalk import UserError, method
from ropewalk.rope import config as rope_config
from ropewalk.rope import live, problems
from tests.matrix import near
from tests.models import COMMON

# Families and their code are those of one version; older ones lack some, and write others in another way.
pytestmark = pytest.mark.skipif(
    Version(transformers.__version__) < Version("5.24"), reason="the table is of transformers 5.24"
)
TARGET, SLOW = 256, pytest.mark.slow
ROPE = {"rope_type": "default", "rope_theta": 1e6}
HIDDEN = {key: value for key, value in COMMON.items() if key != "head_dim"}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
LINEAR = {
    "head_dim": 32, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
LATENT = {"qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 16, "kv_lora_rank": 16, "q_lora_rank": 32}
INDEXER = {"indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 32, "indexer_budget": 64,
           "indexer_compress_ratio": 4}  # fmt: skip
MIXED = {"layer_types": ["sliding_attention", "full_attention"]}
RUNS, TURNS, QUARTER = [2, 3, 3], [4, 2, 2], {"partial_rotary_factor": 0.25}

# The type of a language model -> its section, other parameters of its rope, and what else it needs to be small.
READ = {
    "cohere_compass_text": (TURNS, {}, {**COMMON, **MIXED}),
    "cosmos3_edge_text": (TURNS, {}, COMMON),  # its class takes rope_type 'default' alone
    "glm4v_moe_text": (RUNS, {"partial_rotary_factor": 0.5}, {
        **HIDDEN, "head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "n_group": 1, "topk_group": 1}),
    "glm4v_text": (RUNS, {}, HIDDEN),
    "glm_image_text": (RUNS, {}, HIDDEN),
    "glm_ocr_text": (RUNS, {}, COMMON),
    "hunyuan_vl_text": ([2, 2, 2, 2], {}, COMMON),
    "hy_v4_vl_text": (TURNS, {}, {**HIDDEN, **LATENT}),
    "paddleocr_vl_text": (RUNS, {}, COMMON),
    "qwen2_5_omni_talker": (RUNS, {}, {**COMMON, "embedding_size": 64}),
    "qwen2_5_omni_text": (RUNS, {}, HIDDEN),
    "qwen2_5_vl_text": (RUNS, {}, HIDDEN),
    "qwen2_vl_text": (RUNS, {}, HIDDEN),
    "qwen3_5_moe_text": ([2, 1, 1], QUARTER, {
        **COMMON, **LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_5_text": ([2, 1, 1], QUARTER, {**COMMON, **LINEAR}),
    "qwen3_omni_moe_talker_text": (TURNS, {}, {**COMMON, **EXPERTS, "shared_expert_intermediate_size": 32}),
    "qwen3_omni_moe_text": (TURNS, {}, {**COMMON, **EXPERTS}),
    "qwen3_vl_moe_text": (TURNS, {}, {**COMMON, **EXPERTS}),
    "qwen3_vl_text": (TURNS, {}, COMMON),
    "qwen4_exp_text": ([8, 4, 4], {}, {
        **COMMON, **LINEAR, **EXPERTS, **INDEXER, "shared_expert_intermediate_size": 32}),
}  # fmt: skip
REFUSED = {
    "ernie4_5_vl_moe_text": ([3, 3, 2], {**HIDDEN, "moe_intermediate_size": [32, 32], "moe_num_experts": 4, "moe_k": 2},
                             "holds its frequencies in an order of its own"),
    "neomme": ([4, 4], {**COMMON, **MIXED}, "gives a token several positions, and which of them turns which pair"),
}  # fmt: skip
MODELS = Path(transformers.__file__).parent / "models"


def folder(kind):
    return type(small(kind)).__module__.split(".")[-2]


@cache
def small(kind):
    section, *more = READ[kind] if kind in READ else (REFUSED[kind][0], {}, REFUSED[kind][1])
    rope, sizes = {**ROPE, "mrope_section": section, **more[0]}, more[1]
    nested = sizes.get("layer_types") == MIXED["layer_types"]
    return AutoConfig.for_model(
        kind, **sizes, rope_parameters={one: rope for one in MIXED["layer_types"]} if nested else rope
    )


def modeling(config):
    return importlib.import_module(type(config).__module__.replace("configuration_", "modeling_"))


@cache
def language(kind):
    """A small random language model, without what sees."""
    config = copy.deepcopy(small(kind))
    own = [
        one
        for name, one in vars(modeling(config)).items()
        if isinstance(one, type) and issubclass(one, PreTrainedModel) and one.config_class is type(config)
        and "For" not in name and not name.endswith("PreTrainedModel")
    ]  # fmt: skip
    torch.manual_seed(0)
    model = own[0](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model


def several(code, tower=True):
    """Whether the source of a rotary class gives each token several positions; towers that see have an axial rope."""
    axial = tower and re.search(r"\baxial\b", code)
    return not axial and bool(re.search(r"mrope|recomposition|position_ids\.expand\((?:[2-9]|len)", code))


def test_no_family_of_transformers_is_missed():
    """By the source of their rotary classes, and by the models that work out positions for pictures."""
    known = {folder(kind) for kind in (*READ, *REFUSED)}
    turning, working = set(), set()
    for file in MODELS.glob("*/modeling_*.py"):
        text = file.read_text("utf-8")
        if several(text, tower=False):  # somewhere in it
            classes = [one for one in ast.parse(text).body if isinstance(one, ast.ClassDef) and "Rotary" in one.name]
            if any(several(ast.get_source_segment(text, one) or "") for one in classes):
                turning.add(file.parent.name)
        if "def get_rope_index" in text:
            working.add(file.parent.name)
    assert turning == known
    for kind in CONFIG_MAPPING_NAMES:
        if kind.replace("-", "_") in working:
            inner = type(rope_config.text_config(AutoConfig.for_model(kind))).__module__.split(".")[-2]
            assert inner in known, f"{kind}, whose language model is in {inner}"


def halves(config):
    """Whether the code turns dimension i with i + d/2, by the slices that its rotation takes."""
    code = getsource(modeling(config))
    used = re.search(r"def apply_rotary_pos_emb\(.*?\* cos\) \+ \((\w+)\(", code, re.DOTALL)
    body = re.search(rf"def {used[1]}\(x\):.*?\n\n\n", code, re.DOTALL)[0]
    assert ("0::2" in body) != ("// 2" in body)
    return "// 2" in body


@pytest.mark.parametrize("kind", [*READ, "ernie4_5_vl_moe_text"])
def test_axes_and_style_of_a_configuration_are_those_of_the_model(kind):
    config = small(kind)
    for key, spec in rope_config.read(config).items():
        assert spec.style == ("half" if halves(config) else "interleaved")
        if kind == "hunyuan_vl_text":
            assert spec.axes == ()
            continue
        (rotary,) = [one for one in _rotations(kind) if one.layer_type == key]
        assert live.axes(rotary) in (spec.axes, None) and len(spec.axes) == spec.rotary_dim // 2
        assert live.axes(rotary) is not None or kind in ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text")


def _rotations(kind):
    """As ``live.rotaries`` finds them, also in a model that it refuses."""
    found = []
    for module in language(kind).modules():
        names = [name for name, _ in module.named_buffers(recurse=False) if name.endswith("inv_freq")]
        found += [
            live.Rotary(module, name.removesuffix("_inv_freq") if "_" in name.removesuffix("inv_freq") else "all")
            for name in names
            if "original" not in name
        ]
    return found


@torch.no_grad()
def _read(model, places):
    words = torch.randn(1, places.shape[-1], 64, generator=torch.Generator().manual_seed(1))
    return model(inputs_embeds=words, position_ids=places, use_cache=False).last_hidden_state


@pytest.mark.parametrize("spelling", ["yarn", *(pytest.param(one, marks=SLOW) for one in ("ntk-aware", "mrope-pp"))])
@pytest.mark.parametrize("kind", READ)
def test_static_methods_turn_live_as_saved(kind, spelling, tmp_path):
    model = copy.deepcopy(language(kind))
    axes = len(READ[kind][0])
    places = torch.randint(0, 200, (axes, 1, 40), generator=torch.Generator().manual_seed(0)).sort(-1).values
    chosen, plain = method(spelling), _read(model, places)
    if kind == "hunyuan_vl_text" and spelling == "mrope-pp":
        with pytest.raises(UserError, match="pairs of this model turn with two of them each"):
            chosen.plan(model.config, TARGET)
        return
    with chosen.on(model, to=TARGET):
        seen = _read(model, places)
    assert torch.equal(_read(model, places), plain) and not near(seen, plain, 1e-4)
    if kind == "cosmos3_edge_text" and spelling != "ntk-aware":
        with pytest.raises(UserError, match=r"Cosmos3EdgeTextConfig refuses these rope parameters: .*'default'"):
            chosen.extend(model, to=TARGET)
        assert torch.equal(_read(model, places), plain)
        return
    chosen.extend(model, to=TARGET)
    assert torch.equal(_read(model, places), seen)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert near(_read(again, places), seen, 1e-6)  # kernels go by where weights lie in memory
    sections = [rope["mrope_section"] for rope in rope_config.rope_parameters(again.config).values()]
    assert sections == [READ[kind][0]] * len(sections)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_no_method_can_be_put_on_is_refused_in_words(kind):
    _, _, words = REFUSED[kind]
    for spelling in ("yarn", "ntk-aware", "none"):
        with pytest.raises(UserError, match=words), method(spelling).on(copy.deepcopy(language(kind)), to=TARGET):
            pass
    with pytest.raises(UserError, match=words):
        method("yarn").plan(small(kind), TARGET)


def test_pairs_of_ernie_take_turns_and_time_is_last():
    assert rope_config.read(small("ernie4_5_vl_moe_text"))["all"].axes == (1, 2, 1, 2, 1, 2, 0, 0)


@pytest.mark.parametrize(
    ("kind", "section", "code", "expected"),
    [
        ("ernie4_5_vl_moe_text", [4, 2, 2], "mrope-section-invalid", [2, 2, 4]),
        ("ernie4_5_vl_moe_text", [3, 3, 3], "mrope-section-invalid", [2, 2, 4]),
        ("hunyuan_vl_text", None, "mrope-section-missing", [2, 2, 2, 2]),
    ],
)
def test_a_section_that_the_layout_cannot_have_is_found(kind, section, code, expected):
    raw = small(kind).to_dict()
    inner = {key: value for key, value in raw["rope_parameters"].items() if key != "mrope_section"}
    raw["rope_parameters"] = inner if section is None else {**inner, "mrope_section": section}
    whole = {"model_type": kind.removesuffix("_text"), "text_config": raw, "vision_config": {}}
    (found,) = problems.find(whole, "folder", small(kind))
    assert found.code == code and found.key == "text_config.rope_parameters.mrope_section"
    assert str(expected).replace(" ", "") in found.mend.replace(" ", "")
    assert not problems.find({**whole, "text_config": small(kind).to_dict()}, "folder", small(kind))


def test_what_is_known_of_axes_that_no_pair_has_is_said():
    raw = {"model_type": "hunyuan_vl", "text_config": small("hunyuan_vl_text").to_dict()}
    (note,) = problems.notes(raw, "folder", small("hunyuan_vl_text"))
    assert "M-RoPE of 4 axes" in note and "mrope-pp is refused" in note


@pytest.mark.parametrize(
    ("kind", "said"), [("qwen3_vl_text", True), ("cosmos3_edge_text", False), ("hy_v4_vl_text", False)]
)
def test_turns_must_be_said_where_files_of_the_family_say_them(kind, said):
    raw = small(kind).to_dict()
    found = [one.code for one in problems.find({"text_config": raw}, "folder", small(kind))]
    assert found == ["mrope-layout-contradicted"] * said
