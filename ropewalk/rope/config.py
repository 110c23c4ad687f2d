"""Reading any transformers configuration into RopeSpecs, and writing a scaling back into it.

The numbers are those that transformers itself derives from the configuration (``ROPE_INIT_FUNCTIONS``): what is read
here is what the model will do. Only windows need judgement: the keys that name them mean different things by type.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import re
import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.lengths import said
from ropewalk.common.outside import RESTORE, spelled
from ropewalk.rope import architecture
from ropewalk.rope.keys import LARGEST_BASE, read_beside, read_config
from ropewalk.rope.refusal import refusal
from ropewalk.rope.spec import ALL, Frequencies, RopeSpec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig

RECORD = "ropewalk"  # key beside the rope parameters: how ropewalk extended them; save_pretrained keeps it

# Configurations do not say how pairs are laid out; these model types rotate neighbours, all others rotate halves.
INTERLEAVED = frozenset(
    "blt codegen cohere cohere2 cohere2_moe deepseek_v2 deepseek_v3 deepseek_v32 deepseek_v4 ernie4_5 ernie4_5_moe "
    "ernie4_5_vl_moe ernie4_5_vl_moe_text glm glm4 glm46v glm4v glm4v_text glm_moe_dsa glm_ocr glm_ocr_text glmga gptj "
    "helium hy_v4_vl hy_v4_vl_text llama4_text llama4 longcat_flash moonshine".split()
)
READABLE = frozenset({"default", "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"})
# Published checkpoints of these were trained with the scaling that they state.
TRAINED_WITH_IT = re.compile(r"^(gemma3|gpt_oss|deepseek|olmo3|ministral3|mistral4|kimi_k|youtu|glm_moe_dsa)")
# A type's own parameters: whoever writes a rope says them anew. All others go along.
OF_TYPES = frozenset(
    "rope_type type rope_theta factor original_max_position_embeddings attention_factor attn_factor beta_fast "
    "beta_slow mscale mscale_all_dim truncate short_factor long_factor short_mscale long_mscale low_freq_factor "
    "high_freq_factor partial_rotary_factor alpha max_trained_positions extrapolation_factor finetuned".split()
)
STATED = (
    "max_sequence_length",
    "model_max_length",
    "seq_length",
    "max_seq_len",
    "n_positions",
)  # the length, said once more
STAIRS = "llama_4_scaling_beta"  # with the original length: queries grow by a step per original length
PAIR = ("mscale", "mscale_all_dim")
SCALES = {"short_mscale", "long_mscale"}
LATENT_FACTOR = 2.0  # of types that need none, where attention computes its scale from it

_ALONE = threading.RLock()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' warnings and progress bars: ropewalk reports problems itself, once.

    One thread at a time: these settings are the whole process's, and so is what transformers changes while it loads.
    """
    from transformers.utils import logging as transformers_logging

    with _ALONE:
        loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
        levels, bars = [logger.level for logger in loggers], transformers_logging.is_progress_bar_enabled()
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def config_file(model: str) -> Path:
    """The config.json of a local folder (or the file itself) or of a hub id.

    Raises:
        UserError: if it is neither, or the hub cannot be reached.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        if not (file := path / "config.json").exists():
            raise UserError(f"{file} does not exist", "Give a folder that holds a checkpoint, a hub id, or 'demo'.")
        return file
    if path.is_absolute() or model.count("/") != 1 or model.startswith("."):
        raise UserError(
            f"no model at {model!r}", "Give a folder that holds a checkpoint, a hub id (owner/name), or 'demo'."
        )
    from transformers.utils import cached_file

    try:
        with quiet():
            found = cached_file(model, "config.json")
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{model!r} is no local folder, and the hub did not give its config.json: {reason}") from None
    return Path(str(found))


def load_config(model: str, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration of a folder or hub id, as transformers reads it.

    Raises:
        UserError: if there is none, or transformers refuses it (the reason is quoted).
    """
    from transformers import AutoConfig
    from transformers import __version__ as transformers_version
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    file = config_file(model)
    raw = read_config(file)
    kind = raw.get("model_type")
    known = kind in CONFIG_MAPPING
    if "auto_map" in raw and not trust_remote_code and not known:
        raise UserError(
            f"{file} needs code of its own (key 'auto_map', model_type {kind!r})",
            "If you have read that code and trust it, add --trust-remote-code.",
        )
    if kind is None:
        raise UserError(f"{file} has no key 'model_type'; it is no transformers configuration")
    if not known and "auto_map" not in raw:
        raise UserError(
            f"{file}: model_type is {said(kind)}, which transformers {transformers_version} does not know"
            f"{did_you_mean(kind, CONFIG_MAPPING.keys())}",
            "If the model is newer than that: pip install --upgrade transformers",
        )
    try:
        with quiet():
            source = spelled(model) if spelled(model).exists() else model  # a file is itself, whatever lies beside it
            config: PreTrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises many kinds here, all of them about the file
        raise refusal(raw, error, file) from None
    if isinstance(config.get_text_config(decoder=True), dict):
        raise UserError(f"{file}: key 'text_config' is an object that model_type {kind!r} does not read", RESTORE)
    return config


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The part of a (possibly multimodal) configuration that describes the language model."""
    text: PreTrainedConfig = config.get_text_config(decoder=True)
    return text


def rope_parameters(config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """Layer type -> rope parameters; one entry ``ALL`` where they are not nested.

    Layers without a rope are left out, and so are types that no layer has, for which transformers fills in defaults.

    Raises:
        UserError: if the configuration has no rotary embedding or no base.
    """
    text = text_config(config)
    parameters = getattr(text, "rope_parameters", None)
    if not parameters and getattr(text, "rotary_dim", None):
        raise UserError(f"model_type {text.model_type!r} rotates with code of its own, which ropewalk does not read")
    if not parameters:
        raise UserError(f"model_type {text.model_type!r} has no rotary position embedding (no key 'rope_parameters')")
    if reason := architecture.rotates(text):
        raise UserError(f"model_type {text.model_type!r} has no rotary position embedding ({reason})")
    unused = {"full_attention", "sliding_attention"} - set(getattr(text, "layer_types", None) or parameters)
    nested = {key: entry for key, entry in parameters.items() if isinstance(entry, dict) and key not in unused}
    table = nested or {ALL: parameters}
    for layer_type, entry in table.items():
        if not isinstance(entry.get("rope_theta"), (int, float)) or not 1 < entry["rope_theta"] <= LARGEST_BASE:
            raise UserError(
                f"rope_parameters[{layer_type}] has rope_theta {entry.get('rope_theta')!r}, "
                f"expected a number above 1 and at most {LARGEST_BASE:g}",
                f"Add the model's own base: {example_theta(entry)}",
            )
    return table


def example_theta(entry: Mapping[str, Any]) -> str:
    """The rope parameters with a place for the missing base."""
    return json.dumps({**entry, "rope_theta": "<the base the model was pretrained with>"})


def record_of(config: PreTrainedConfig) -> dict[str, Any] | None:
    """What ropewalk wrote into this configuration of how it extended it, see ``extension``; None if it did not.

    Raises:
        UserError: if something else stands there.
    """
    record = getattr(text_config(config), RECORD, None)
    if record is None:
        return None
    try:
        specs = [spec_from_json(entry) for entry in record["pretrained"].values()]
        if min(record["window"], record["target"], len(specs)) < 1 or not isinstance(record["method"], str):
            raise ValueError("no window, target, method or rope")
        for entry in record["rope_parameters"].values():
            dict(entry)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        name = getattr(config, "name_or_path", "")
        key = RECORD if text_config(config) is config else f"text_config.{RECORD}"
        raise UserError(
            f"key {key!r}, in which ropewalk notes the pretrained rope, cannot be read: {error!r}",
            f"{setting(name, {key: None})}   (the configuration is then taken as it stands)"
            if name
            else "Remove it; the configuration is then taken as it stands.",
        ) from None
    found: dict[str, Any] = record
    return found


def extension(
    method: str,
    window: int,
    pretrained: Mapping[str, RopeSpec],
    parameters: Mapping[str, Mapping[str, Any]],
    to: int,
) -> dict[str, Any]:
    """The record of an extension: what was done, and the rope of the model before."""
    return {
        "method": method,
        "window": window,
        "target": to,
        "pretrained": {key: spec_to_json(spec) for key, spec in pretrained.items()},
        "rope_parameters": {key: dict(entry) for key, entry in parameters.items()},
    }


def read(config: PreTrainedConfig) -> dict[str, RopeSpec]:
    """Layer type -> RopeSpec of any transformers 5 configuration.

    Raises:
        UserError: for embeddings that have no such description, or contradictory keys.
    """
    table = rope_parameters(config)
    try:
        specs = {layer_type: _read_one(config, layer_type, entry) for layer_type, entry in table.items()}
    except (TypeError, ValueError, KeyError, RuntimeError, ArithmeticError) as error:
        raise UserError(f"the rope parameters cannot be read: {type(error).__name__}: {error}", RESTORE) from None
    record = record_of(config)
    if record is not None:
        specs = {key: replace(spec, window=int(record.get("window", spec.window))) for key, spec in specs.items()}
    return specs


def pretrained_specs(config: PreTrainedConfig, on_top: bool | None = None) -> dict[str, RopeSpec]:
    """The specs of the model before ropewalk extended it; what ``on_top`` decides is decided for good."""
    record = record_of(config)
    if record is not None and not on_top:
        axes = {key: spec.axes for key, spec in read(config).items()}  # no extension changes these
        kept = {key: spec_from_json(entry) for key, entry in record["pretrained"].items()}
        specs = {key: replace(spec, axes=axes.get(key, ())) for key, spec in kept.items()}
    else:
        specs = read(config)
    return specs if on_top is None else {key: spec.to_extend(on_top) for key, spec in specs.items()}


def starting_specs(
    config: PreTrainedConfig, on_top: bool | None = None, raising: Collection[str] = ()
) -> dict[str, RopeSpec]:
    """The specs that an extension starts from: see ``RopeSpec.to_extend``; a ropewalk extension is always replaced.

    Types in ``raising`` are extended by raising their factor, so that they start from the plain rope.
    """
    specs = pretrained_specs(config, on_top)
    raised = {key for key, spec in specs.items() if spec.rope_type in raising and spec.window < spec.length}
    return {key: spec.to_extend(False if key in raised else None) for key, spec in specs.items()}


def full_attention(specs: Mapping[str, RopeSpec]) -> list[RopeSpec]:
    """The specs of the layers that look past a sliding window; all, if none does."""
    return [spec for spec in specs.values() if not spec.sliding] or list(specs.values())


def window_of(specs: Mapping[str, RopeSpec]) -> int:
    """The pretrained window in tokens: the smallest among the layers that look past a sliding window."""
    return min(spec.window for spec in full_attention(specs))


def trained_window(config: PreTrainedConfig) -> int:
    """The pretrained window in tokens, whatever extension the configuration states."""
    return window_of(starting_specs(config))


def promised_by(specs: Mapping[str, RopeSpec]) -> int:
    """The length in tokens that a configuration promises: the smallest among the layers that look past a sliding one.

    The smallest, since all layers read a text; and sliding ones have no say, since their distances do not grow with it.
    """
    return min(spec.length for spec in full_attention(specs))


def spec_from_json(entry: Mapping[str, Any]) -> RopeSpec:
    """The inverse of ``dataclasses.asdict`` after a trip through JSON."""
    tuples = {key: tuple(map(float, entry[key])) for key in ("factors", "long_factors") if entry.get(key) is not None}
    return _turning(RopeSpec(**{**entry, **tuples, "axes": tuple(entry.get("axes") or ())}))


def _turning(spec: RopeSpec) -> RopeSpec:
    """The spec, if it rotates pairs inside a window.

    Raises:
        ValueError: if it does not.
    """
    if spec.rotary_dim < 2 or spec.rotary_dim % 2:
        raise ValueError(f"{spec.rotary_dim} dimensions of a head rotate, expected an even number of at least 2")
    if min(spec.window, spec.length) < 1 or len(spec.factors) != spec.rotary_dim // 2:
        raise ValueError(f"window {spec.window}, length {spec.length}, {len(spec.factors)} factors: no rope has these")
    return spec


def spec_to_json(spec: RopeSpec) -> dict[str, Any]:
    return asdict(spec)


def _read_one(config: PreTrainedConfig, layer_type: str, entry: Mapping[str, Any]) -> RopeSpec:
    text = text_config(config)
    rope_type = str(entry.get("rope_type") or "default")
    if rope_type == "mrope":  # three positions per token, which are equal in text
        rope_type = "default"
    if rope_type not in READABLE:
        raise UserError(f"rope_type {rope_type!r} is unknown, expected one of {', '.join(sorted(READABLE))}")

    own = text if layer_type == ALL else architecture.of_layer(text, layer_type)
    head_dim = architecture.head_dim(own)
    unsaid = architecture.partial_default(text) if rope_type == "default" else 1.0
    partial = 1.0 if rope_type == "proportional" else float(entry.get("partial_rotary_factor") or unsaid)
    if not 0 < partial <= 1:
        raise ValueError(f"partial_rotary_factor is {partial!r}, expected a share in (0, 1]")
    rotary_dim = int(head_dim * partial)
    base = architecture.base(text, float(entry["rope_theta"]))
    length, factor = int(text.max_position_embeddings), entry.get("factor")
    if rope_type == "dynamic" and entry.get("alpha") and "alpha" in architecture.keys_read(text):
        rope_type, base = "default", base * float(entry["alpha"]) ** (rotary_dim / (rotary_dim - 2))  # at all lengths
    plain = RopeSpec.plain(
        base,
        rotary_dim,
        length,
        head_dim=head_dim,
        rope_type=rope_type,
        style="interleaved" if _interleaved(text) else "half",
        kv_heads=int(getattr(own, "num_key_value_heads", None) or own.num_attention_heads),
        layer_type=layer_type,
        sliding=layer_type not in (ALL, "full_attention"),
        logit_scale=logit_scale(text, rope_type, entry),
        beside=_beside(entry),
    )
    known = TRAINED_WITH_IT.match(str(text.model_type)) or plain.logit_scale != 1.0 or STAIRS in entry
    spec = plain = _turning(replace(plain, trained_in=bool(known or entry.get("finetuned"))))
    if rope_type == "dynamic":  # plain inside the window; transformers measures growth from max_position_embeddings
        spec = replace(plain, length=round(plain.window * float(factor or 1.0)), factor=float(factor or 1.0))
    elif rope_type != "default":
        inv_freq, attention_factor = _initial(text, rope_type, layer_type)
        spec = replace(plain, attention_factor=_amplitude(text, entry) or attention_factor)
        original: Any = entry.get("original_max_position_embeddings")
        if rope_type == "longrope":
            short, long = (tuple(map(float, entry[key])) for key in ("short_factor", "long_factor"))
            switches = short != long and not architecture.asks_anew(text)
            spec = replace(spec, window=int(original), factors=short, long_factors=long if switches else None)
        else:
            factors = (plain.base_inv_freq / inv_freq.double()).clamp_max(1e30).tolist()
            spec = replace(spec, factors=tuple(factors), window=int(original or round(length / float(factor or 1.0))))
            if rope_type != "proportional":
                spec = replace(spec, factor=float(factor or 1.0))
        if rope_type == "linear":
            spec = replace(spec, factors=(float(factor or 1.0),) * len(spec.factors))
            if original is None and scales_the_stated(text, factor):
                spec = replace(spec, window=length, length=round(length * float(factor or 1.0)))
        elif rope_type == "yarn" and spec.trained_in:
            own_keys = [key for key in ("beta_fast", "beta_slow") if entry.get(key)]
            own_keys += list(PAIR) if all(entry.get(key) for key in PAIR) else []
            own_keys += ["truncate"] if entry.get("truncate") is False else []
            spec = replace(spec, yarn={key: float(entry[key]) for key in own_keys})
    if layer_type == ALL:
        reach = architecture.reach(text)
        spec = replace(spec, sliding=reach is not None and reach <= spec.window)
    section = entry.get("mrope_section") or architecture.mrope_default(text)
    axes = architecture.mrope_axes(architecture.mrope(text), section, rotary_dim // 2)
    return _turning(replace(spec, axes=axes))


def _initial(text: PreTrainedConfig, rope_type: str, layer_type: str) -> tuple[Tensor, float]:
    """Frequencies and attention factor as transformers derives them."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    name = None if layer_type == ALL else layer_type
    with quiet():
        inv_freq, factor = ROPE_INIT_FUNCTIONS[rope_type](text, torch.device("cpu"), layer_type=name)
    return inv_freq, float(factor)


def _amplitude(text: PreTrainedConfig, entry: Mapping[str, Any]) -> float | None:
    """The attention factor that an architecture takes from the rope parameters as it stands there; None if it does not.

    Raises:
        UserError: if it takes two, by length.
    """
    if not architecture.keys_read(text) >= SCALES:
        return None
    short, long = (float(entry[key]) for key in sorted(SCALES, reverse=True))
    if short != long:
        raise UserError(
            f"short_mscale is {short:g} and long_mscale {long:g}: this {text.model_type} scales its logits by the "
            "length of the text, which no attention factor says",
        )
    return short


def misread(config: PreTrainedConfig) -> tuple[str, str] | None:
    """Why a model is not, in transformers, the one that was trained, and what there is to do; None if it is."""
    text = text_config(config)
    if not architecture.asks_anew(text):
        return None
    for entry in rope_parameters(config).values():
        original = entry.get("original_max_position_embeddings")
        if entry.get("rope_type") == "longrope" and entry["short_factor"] != entry["long_factor"]:
            return (
                f"transformers rotates this {text.model_type} by short_factor at every length; it was trained with "
                f"long_factor past {original:,} tokens, so that what it does there is not worth extending",
                "Serve it with an engine that changes its factors by length (vLLM, SGLang): ropewalk export.",
            )
    return None


def hear_tokenizer(config: PreTrainedConfig, file: Path) -> None:
    """Note the tokenizer's limit in a configuration whose ``linear`` can be read in two ways, if that decides it."""
    text = text_config(config)
    rope = getattr(text, "rope_parameters", None) or {}
    factor: Any = rope.get("factor") or 1.0
    linear = rope.get("rope_type") == "linear" and "original_max_position_embeddings" not in rope
    if not linear or not isinstance(factor, (int, float)) or any(getattr(text, key, None) for key in STATED):
        return
    limit = read_beside(file).get("model_max_length")
    if isinstance(limit, int) and limit in (text.max_position_embeddings, round(text.max_position_embeddings * factor)):
        text.max_sequence_length = limit


def scales_the_stated(text: Any, factor: Any) -> bool:
    """Whether ``max_position_embeddings`` beside ``linear`` is the length before scaling, as another key says.

    Both readings exist: transformers 4 documented this one, most later checkpoints state the length after scaling.
    """
    length = int(text.max_position_embeddings)
    stated = [getattr(text, key, None) for key in STATED]
    return bool(factor) and any(
        isinstance(value, int) and abs(value - length * float(factor)) < 1 and value > length for value in stated
    )


def stairs(entry: Mapping[str, Any]) -> tuple[float, int] | None:
    """(beta, length) of Llama 4's temperature: queries grow by ln(1 + position // length), times beta."""
    beta, original = entry.get(STAIRS), entry.get("original_max_position_embeddings")
    return None if beta is None or original is None else (float(beta), int(original))


def logit_scale(text: PreTrainedConfig, rope_type: str, entry: Mapping[str, Any]) -> float:
    """What latent attention makes of ``mscale_all_dim`` besides YaRN's own attention factor."""
    m, factor = entry.get("mscale_all_dim"), entry.get("factor")
    if rope_type == "default" or not m or not factor or "mscale_all_dim" not in architecture.keys_read(text):
        return 1.0
    from ropewalk.rope.formulas import yarn_magnitude

    return yarn_magnitude(float(factor), float(m)) ** 2


def _beside(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that go along with a rope: those that are no type's, and what an architecture insists on."""
    found = {key: value for key, value in entry.items() if key not in OF_TYPES and value is not None}
    if entry.get("partial_rotary_factor") == 1.0:
        found["partial_rotary_factor"] = 1.0
    if STAIRS in found:
        found["original_max_position_embeddings"] = entry.get("original_max_position_embeddings")
    return found


def _interleaved(text: PreTrainedConfig) -> bool:
    return bool(getattr(text, "rope_interleave", text.model_type in INTERLEAVED))


def partial_rotary(spec: RopeSpec) -> dict[str, float]:
    """The key for heads that rotate only in part; transformers truncates head_dim x factor, so it is rounded up."""
    share = spec.rotary_dim / spec.head_dim
    if int(spec.head_dim * share) < spec.rotary_dim:
        share = math.nextafter(share, 1.0)
    return {} if spec.rotary_dim == spec.head_dim else {"partial_rotary_factor": share}


def complete(spec: RopeSpec, parameters: Mapping[str, Any], attention_factor: float) -> dict[str, Any] | None:
    """The parameters of a type with all that the architecture reads besides; None if that type cannot say it.

    What YaRN's pair says is said again for the new factor: the ratio is the attention factor, and the scale that latent
    attention computes from ``mscale_all_dim`` stays as trained.
    """
    found = {**parameters, **partial_rotary(spec)}
    kind, original = parameters.get("rope_type"), parameters.get("original_max_position_embeddings")
    stairs = spec.beside.get("original_max_position_embeddings", original)
    if original != stairs and kind not in ("longrope", "default", "linear"):  # these have no other use for it
        return None
    if spec.logit_scale != 1.0:
        if kind == "longrope":
            found["factor"] = LATENT_FACTOR
        grown, root = math.log(float(found.get("factor") or 1.0)) / 10, math.sqrt(spec.logit_scale)
        if kind == "default" or grown <= 0:
            return None
        found |= {"mscale": (attention_factor * root - 1) / grown, "mscale_all_dim": (root - 1) / grown}
    elif kind == "yarn":
        found |= {key: spec.yarn[key] for key in PAIR if key in spec.yarn}
    return {**found, **spec.beside}


def proportional(spec: RopeSpec, frequencies: Frequencies) -> dict[str, Any] | None:
    """Frequencies that are all those of a ``proportional`` rope divided by one number, as its parameters, else None."""
    turning = [i for i, factor in enumerate(spec.factors) if factor < 1e29]
    factors = frequencies.factors(spec)
    ratios = factors[turning]
    still = int((factors >= 1e29).sum()) == len(spec.factors) - len(turning)
    alike = still and float(ratios.max() / ratios.min()) - 1 < 1e-6
    if not alike or abs(frequencies.attention_factor - 1) > 1e-9:
        return None
    factor = float(f"{float(ratios.mean()):.7g}")
    return {
        "rope_type": "proportional",
        "rope_theta": spec.base,
        "partial_rotary_factor": len(turning) / len(spec.factors),
        **({} if abs(factor - 1) < 1e-6 else {"factor": factor}),
    }


def flat_longrope(spec: RopeSpec, frequencies: Frequencies, length: int) -> dict[str, Any]:
    """Any static frequencies as ``longrope`` parameters that every engine reads alike.

    Both factor sets are equal, so nothing switches; the attention factor stands under every key that an engine reads
    (transformers: ``attention_factor``; vLLM and SGLang: the two ``mscale`` keys).
    """
    factors = frequencies.factors(spec).tolist()
    t = float(frequencies.attention_factor)
    flat = {
        "rope_type": "longrope",
        "rope_theta": spec.base,
        "short_factor": factors,
        "long_factor": list(factors),
        "original_max_position_embeddings": length,
        "factor": 1.0,
        "attention_factor": t,
        "short_mscale": t,
        "long_mscale": t,
    }
    found = complete(spec, flat, t)
    assert found is not None
    return found


def accepts(config: PreTrainedConfig, key: str, parameters: Mapping[str, Any], to: int) -> bool:
    """Whether the architecture takes these rope parameters for layer type ``key``, and keeps their type."""
    trial = copy.deepcopy(config)
    try:
        write(trial, {key: parameters}, to)
    except (ValueError, KeyError, TypeError, RuntimeError):
        return False
    return bool(rope_parameters(trial)[key].get("rope_type") == parameters["rope_type"])


def write(
    config: PreTrainedConfig,
    parameters: Mapping[str, Mapping[str, Any]],
    length: int,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Put rope parameters (layer type -> dict, base included) and the new length into a configuration, in place.

    ``record`` says how they were made, see ``extension``; without one an older record goes.
    """
    text = text_config(config)
    if record is not None:
        setattr(text, RECORD, dict(record))
    elif hasattr(text, RECORD):
        delattr(text, RECORD)
    if set(parameters) == {ALL}:
        text.rope_parameters = dict(parameters[ALL])
    else:
        text.rope_parameters = {**text.rope_parameters, **{key: dict(entry) for key, entry in parameters.items()}}
    text.max_position_embeddings = length
    for key, bases in architecture.listed_bases(text, next(iter(parameters.values()))["rope_theta"]).items():
        setattr(text, key, bases)
    for key in STATED:
        if key not in (text.attribute_map or {}) and isinstance(getattr(text, key, None), int):
            setattr(text, key, length)
    if (
        not architecture.differs(text) and getattr(text, "head_dim", 0) is None
    ):  # yarn and longrope of transformers take it as it stands
        text.head_dim = int(text.hidden_size) // int(text.num_attention_heads)
    if hasattr(text, "original_max_position_embeddings"):  # Phi3: this attribute overrides the nested key
        originals = {entry.get("original_max_position_embeddings") for entry in parameters.values()} - {None}
        text.original_max_position_embeddings = originals.pop() if originals else length
    with quiet():
        text.standardize_rope_params()
        text.validate_rope()
