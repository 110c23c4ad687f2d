"""A model from a GGUF file: its configuration from the file's keys, its weights dequantised.

transformers has a reader too; it passes over what it does not map (rope scaling, factor tensors, biases, the width of
heads), which makes another model of the same file without a word. Here every tensor has its place or is refused, and
the rope that transformers makes of the configuration is that which llama.cpp makes of the keys, or is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.checkpoint.gguf.from_gguf import RECORD_KEY, RopeOfFile
from ropewalk.checkpoint.gguf.header import Place
from ropewalk.checkpoint.gguf.hyperparameters import SLIDES, SLIDING, layer_types, sliding_window
from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.checkpoint.gguf.mistakes import ORIGIN
from ropewalk.checkpoint.gguf.rope_keys import FACTOR_TENSORS, SAME, error, one_set
from ropewalk.checkpoint.weights import refuse_incomplete
from ropewalk.common.errors import UserError
from ropewalk.common.outside import parse
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import ALL, Frequencies, RopeSpec

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

# Architectures of llama.cpp -> model type. Mistral is a "llama" there, and so is a Qwen2 that ropewalk wrote.
FAMILIES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
    "phi3": "phi3",
}
ONE_PLUS = frozenset({"gemma", "gemma2", "gemma3"})  # norms are stored as 1 + weight
DTYPES = {"F32": "float32", "F16": "float16"}  # of the matrices -> of the model; all others become bfloat16
PARTIAL = frozenset({"phi3"})  # model types that can rotate a part of each head
WIDEST = {"gemma2": 46, "gemma3": 62}  # layers of the largest, whose queries are scaled by hidden size over heads


def configuration(file: RopeOfFile) -> PreTrainedConfig:
    """The configuration of the model in a GGUF file.

    Raises:
        UserError: if the architecture is another, a key is missing, or transformers cannot rotate as llama.cpp does.
    """
    from transformers import AutoConfig

    kind, keys = FAMILIES.get(file.architecture), file.keys
    if kind is None:
        what = f"architecture {file.architecture!r}"
        raise UserError(f"{file.path} has the {what}; a GGUF is opened for {', '.join(FAMILIES)}", ORIGIN)
    parts = file.header.values.get("split.count", 0)
    if parts > 1:
        raise UserError(f"{file.path} is one of {parts} parts", f"llama-gguf-split --merge {file.path} WHOLE.gguf")
    heads, width = int(_need(file, "attention.head_count")), int(_need(file, "embedding_length"))
    head_dim = int(keys.get("attention.key_length") or width // heads)
    values: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": int(_need(file, "feed_forward_length")),
        "num_hidden_layers": int(_need(file, "block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(keys.get("attention.head_count_kv", heads)),
        "head_dim": head_dim,
        "rms_norm_eps": float(_need(file, "attention.layer_norm_rms_epsilon")),
        "max_position_embeddings": int(keys["context_length"]),
        "vocab_size": _place(file, "token_embd.weight").elements // width,
        "tie_word_embeddings": "output.weight" not in file.header.tensors,
        "dtype": _dtype(file),
    }
    for name in ("bos", "eos", "padding"):
        values[f"{name.removesuffix('ding')}_token_id"] = file.header.values.get(f"tokenizer.ggml.{name}_token_id")
    kind, more = _of_family(file, kind, head_dim)
    if file.rotary_dim != head_dim and kind not in PARTIAL:
        raise UserError(f"{file.path}: {file.rotary_dim} of {head_dim} dimensions rotate; {kind} rotates all", ORIGIN)
    tried = []
    for parameters in _spellings(file):
        if kind == "gemma3_text":
            near = {"rope_type": "default", "rope_theta": float(keys.get("rope.freq_base_swa", 10000.0))}
            parameters = {kind: near if kind == SLIDING else parameters for kind in layer_types(file)}
        try:
            with rope_config.quiet():
                made = AutoConfig.for_model(kind, **values, **more, rope_parameters=parameters)
        except Exception as error:  # transformers raises many kinds here, all of them about the values
            reason = str(error).strip().splitlines()[-1].removeprefix("ValueError: ").strip()
            raise UserError(f"{file.path}: transformers makes no {kind} of its keys: {reason}", ORIGIN) from None
        if kind == "phi3":  # the attribute has priority over the key
            made.original_max_position_embeddings = file.spec().window
        tried.append(_difference(file, made))
        if not tried[-1]:
            made.architectures = [class_of(made).__name__]
            made.name_or_path = str(file.path)
            if record := _record(file):
                setattr(made, rope_config.RECORD, record)
                rope_config.record_of(made)  # refuses what is none
            return made
    raise UserError(f"{file.path}: transformers would rotate otherwise than llama.cpp: {tried[-1]}", ORIGIN)


def _record(file: RopeOfFile) -> Any:
    """What ropewalk noted of the extension whose rope the file has; None if nothing."""
    try:
        return parse(file.header.values.get(RECORD_KEY, "null"))
    except (AttributeError, TypeError, ValueError):
        raise UserError(f"{file.path}: key {RECORD_KEY!r} cannot be read", "Export the file again.") from None


def _need(file: RopeOfFile, key: str) -> Any:
    if not isinstance(file.keys.get(key), (int, float)):
        raise UserError(f"{file.path}: key '{file.architecture}.{key}' is missing, or is no number", ORIGIN)
    return file.keys[key]


def _place(file: RopeOfFile, name: str) -> Place:
    if name not in file.header.tensors:
        raise UserError(f"{file.path}: tensor {name!r} is missing", ORIGIN)
    return file.header.tensors[name]


def _dtype(file: RopeOfFile) -> str:
    """The type of the dequantised model: that of most of the file's numbers, where torch has it."""
    amounts: Counter[int] = Counter()
    for place in file.header.tensors.values():
        amounts[place.kind] += place.elements
    [(most, _)] = amounts.most_common(1)
    return DTYPES.get(gguf().GGMLQuantizationType(most).name, "bfloat16")


def _of_family(file: RopeOfFile, kind: str, head_dim: int) -> tuple[str, dict[str, Any]]:
    """The model type, and what only this family's configuration has."""
    keys, layers = file.keys, int(file.keys["block_count"])
    if kind == "llama":
        biased = {part for part in ("attn_q", "attn_output", "ffn_up") if f"blk.0.{part}.bias" in file.header.tensors}
        if biased == {"attn_q"}:
            return "qwen2", {}
        return kind, {"attention_bias": "attn_q" in biased, "mlp_bias": "ffn_up" in biased}
    if file.architecture in SLIDES:
        width, heads = int(keys["embedding_length"]), int(keys["attention.head_count"])
        more: dict[str, Any] = {
            "layer_types": layer_types(file),
            "query_pre_attn_scalar": width // heads if layers == WIDEST[file.architecture] else head_dim,
        }
        if sliding_window(file):
            more["sliding_window"] = sliding_window(file)
        capped = kind == "gemma2"
        if capped and keys.get("attn_logit_softcapping") == 0:
            raise UserError(f"{file.path}: key 'gemma2.attn_logit_softcapping' is 0; llama.cpp divides by it", ORIGIN)
        more["attn_logit_softcapping"] = keys.get("attn_logit_softcapping", 50.0) if capped else None
        more["final_logit_softcapping"] = keys.get("final_logit_softcapping", 30.0 if capped else 0.0) or None
        return kind, more
    return kind, {}


def _spellings(file: RopeOfFile) -> Iterator[dict[str, Any]]:
    """Rope parameters that may say what llama.cpp does, the plainest first."""
    spec, keys = file.spec(), file.keys
    plain = {"rope_theta": spec.base, **rope_config.partial_rotary(spec)}
    original, t = {"original_max_position_embeddings": spec.window}, spec.attention_factor
    if spec.is_plain:
        yield {"rope_type": "default", **plain}
    elif not file.factors and keys.get("rope.scaling.factor"):
        scaled = {**plain, "factor": float(keys["rope.scaling.factor"]), **original}
        if spec.rope_type == "yarn":
            yield {"rope_type": "yarn", **scaled, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": t}
        elif t == 1.0:
            yield {"rope_type": "linear", **scaled}
    flat = rope_config.flat_longrope(spec, Frequencies(spec.inv_freq, t), spec.length)
    if "rope_factors_short" in file.factors:
        flat |= {"short_factor": list(file.factors["rope_factors_short"])}
    yield flat | original | {"factor": spec.length / spec.window}


def _difference(file: RopeOfFile, config: PreTrainedConfig) -> str:
    """Where transformers rotates otherwise than llama.cpp, at the promised length; empty if nowhere."""
    for key, spec in rope_config.read(config).items():
        wanted = file.reading(sliding=spec.sliding)
        whole: RopeSpec = spec if spec.long_factors is None else one_set(spec)
        off, t = error(wanted, whole), spec.attention_factor
        if off > SAME or abs(t - wanted.attention_factor) > SAME:
            layers = "" if key == ALL else f" in {key} layers"
            return f"frequencies off by {off:.2g}, attention factor {t:.6g} for {wanted.attention_factor:.6g}{layers}"
    return ""


def model(file: RopeOfFile, config: PreTrainedConfig, dtype: str) -> PreTrainedModel:
    """The model of a GGUF file with its weights dequantised; every tensor of the file is in it.

    Args:
        file: the file.
        config: its configuration.
        dtype: "auto" (that of the configuration), or one of torch's names.

    Raises:
        UserError: naming a tensor that the model lacks or has no place for.
    """
    import torch

    dtype = str(config.dtype).removeprefix("torch.") if dtype == "auto" else dtype
    state = _state(file, config, getattr(torch, dtype))
    with rope_config.quiet():
        loaded: Any = class_of(config).from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True
        )
    live: PreTrainedModel = loaded[0]
    refuse_incomplete(file.path, live, loaded[1])
    return live


def class_of(config: PreTrainedConfig) -> Any:
    """The model's class."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]


def _state(file: RopeOfFile, config: PreTrainedConfig, dtype: Any) -> dict[str, Tensor]:
    """Parameter of transformers -> its values."""
    import torch

    library, kind = gguf(), class_of(config)
    with torch.device("meta"), rope_config.quiet():
        parameters = list(kind(config).state_dict())
    names = library.get_tensor_name_map(architecture_of(file.architecture), int(config.num_hidden_layers))
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    places = {names.get_name(name, (".weight", ".bias")) or name: name for name in parameters if name not in tied}
    tensors = file.header.tensors
    stored = {name: tensors[name] for name in tensors if name.removesuffix(".weight") not in FACTOR_TENSORS}
    for ours, theirs, what in ((places, stored, "lacks"), (stored, places, "has no place in transformers' model for")):
        for name in ours:
            if name not in theirs:
                raise UserError(f"{file.path}: the {kind.__name__} of this file {what} the tensor {name!r}", ORIGIN)
    heads = {"attn_q": int(config.num_attention_heads), "attn_k": int(config.num_key_value_heads)}
    state = {}
    for name, place in stored.items():
        values = _values(file, place)
        if not np.isfinite(values).all():
            raise UserError(f"{file.path}: tensor {name!r} holds NaN or infinite numbers", ORIGIN)
        if file.architecture == "llama":
            values = halves(values, heads.get(name.split(".")[-2], 0))
        if file.architecture in ONE_PLUS and name.endswith("norm.weight"):
            values = values - 1
        state[places[name]] = torch.from_numpy(np.array(values, dtype=np.float32)).to(dtype)
    return state


def _values(file: RopeOfFile, place: Place) -> np.ndarray[Any, Any]:
    """A tensor's values in float32."""
    library, kind = gguf(), gguf().GGMLQuantizationType(place.kind)
    form = {"F32": "<f4", "F16": "<f2"}.get(kind.name)
    if form is not None:
        data = np.memmap(file.path, form, "r", place.start, place.shape)
    else:
        block, size = library.GGML_QUANT_SIZES[kind]
        data = np.memmap(file.path, np.uint8, "r", place.start, (*place.shape[:-1], place.shape[-1] // block * size))
    try:
        values: np.ndarray[Any, Any] = library.dequantize(data, kind)
    except NotImplementedError:
        raise UserError(f"{file.path}: the gguf library cannot dequantise {kind.name}", ORIGIN) from None
    return values


def architecture_of(name: str) -> Any:
    """The gguf library's number of an architecture."""
    return next(key for key, value in gguf().MODEL_ARCH_NAMES.items() if value == name)


def halves(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows [heads * d, ...] of each head from neighbours (2i, 2i + 1) to halves (i, i + d/2); untouched for 0 heads."""
    if heads == 0:
        return values
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def size(file: RopeOfFile, config: PreTrainedConfig) -> str:
    """A sentence on what dequantising does to the size."""
    kinds = Counter(gguf().GGMLQuantizationType(place.kind).name for place in file.header.tensors.values())
    kinds.pop("F32", None)
    [(most, _)] = kinds.most_common(1) or [("F32", 0)]
    dtype = str(config.dtype).removeprefix("torch.")
    before, after = file.path.stat().st_size, sum(p.elements for p in file.header.tensors.values()) * _bytes(dtype)
    return (
        f"dequantised: {before / 2**20:,.0f} MiB of {most} became about {after / 2**20:,.0f} MiB of {dtype}, which "
        "know no more than the file did"
    )


def _bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2
