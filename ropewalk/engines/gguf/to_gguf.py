"""A GGUF file from a checkpoint of the families that are read from such files too.

Llama, Mistral and Qwen2 are written as llama.cpp's architecture ``llama``, which has a slot for one factor per
dimension; Qwen2's own has none, and differs from it only in the biases of q, k and v, which ``llama`` reads as well.
Rows of q and k are reordered within each head there, since ``llama`` rotates neighbours (2i, 2i + 1) where transformers
rotates halves (i, i + d/2). All others are written as what they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.dequantised import FAMILIES, ONE_PLUS, PARTIAL, WIDEST, architecture_of, class_of
from ropewalk.checkpoint.gguf.from_gguf import refuse_other
from ropewalk.checkpoint.gguf.hyperparameters import SLIDES, SLIDING
from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.checkpoint.gguf.rope_keys import SAME, SLOTS, Entries, entries, nearest, one_set
from ropewalk.checkpoint.gguf.tokenizer import add_tokenizer, differences
from ropewalk.checkpoint.weights import is_finite
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.files import file_to_write
from ropewalk.common.whole import new_file
from ropewalk.engines.gguf import quantise
from ropewalk.engines.gguf.output import TYPES, Stored, Written, add_record, write_file, written_here
from ropewalk.rope.config import quiet, text_config
from ropewalk.rope.spec import RopeSpec

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PreTrainedConfig

ARCHITECTURES = {  # model type -> architecture that it is written as
    **dict.fromkeys(("llama", "mistral", "qwen2"), "llama"),
    **{kind: architecture for architecture, kind in FAMILIES.items() if kind not in ("llama", "qwen2")},
}
GELU = frozenset({"gemma", "gemma2", "gemma3"})
TIED = frozenset({"gemma", "gemma2"})  # have no tensor for the head
BIASED = frozenset({"llama"})
OTHER_NAMES = {"mixtral": "llama", "ministral3": "mistral3", "nemotron-nas": "deci"}  # model type -> architecture
READABLE = frozenset({"F32", "F16", "BF16"})


def holds_factors(model_type: str) -> bool:
    """Whether the file that is written of a model has a place for one factor per dimension."""
    return ARCHITECTURES.get(model_type) in SLOTS


def write_gguf(model: str | Path | Checkpoint, out: Path, dtype: str = "F16", overwrite: bool = False) -> Written:
    """Write a checkpoint as one GGUF file: rope, weights and tokenizer.

    Args:
        model: folder, hub id or ``demo``.
        out: the file; it appears only when it is complete.
        dtype: of the matrices: F32, F16, BF16 or Q8_0, or one of ``quantise.TYPES``, which llama.cpp makes; vectors are
            always F32.
        overwrite: replace a file that ropewalk wrote.

    Raises:
        UserError: naming the key or tensor, for architectures, ropes, weights or tokenizers that cannot be written so.
    """
    dtype = dtype.upper()
    if dtype not in (*TYPES, *quantise.TYPES):
        raise UserError(f"dtype is {dtype!r}, expected one of {', '.join((*TYPES, *quantise.TYPES))}")
    gguf()  # a missing library is said before any work
    quantiser = None if dtype in TYPES else quantise.command(dtype)
    checkpoint = Checkpoint.open(model)
    if checkpoint.unwritten is not None:
        checkpoint.unwritten.refuse(checkpoint.unwritten.line("serve", "--method"))
    spec, config, name = checkpoint.rope, text_config(checkpoint.config), checkpoint.place
    rope = _rope(config, checkpoint.specs, spec, name)
    architecture = ARCHITECTURES[config.model_type]
    out = file_to_write(out, written_here, [checkpoint.folder], overwrite)
    stored = list(_in_checkpoint(checkpoint.weights))
    whole = dtype if quantiser is None else _exact(stored)
    tensors = _plan(config, checkpoint.folder, stored, whole)

    def add_keys(writer: GGUFWriter) -> None:
        _add_hyperparameters(writer, config, Path(name).name, whole)
        add_tokenizer(writer, checkpoint.tokenizer(), checkpoint.folder, config)
        add_record(writer, checkpoint.record)

    with new_file(out, written_here, [checkpoint.folder], overwrite) as path:
        write_file(path, architecture, add_keys, rope, tensors)
        notes = differences(path, checkpoint.tokenizer())
        if quantiser is not None:
            quantise.in_place(path, quantiser, dtype)
        refuse_other(path, checkpoint.specs.values())
    return Written(out, out.stat().st_size, rope, f"llama-server -m {shlex.quote(str(out))} -c {spec.length}", notes)


def _rope(config: PreTrainedConfig, specs: Mapping[str, RopeSpec], spec: RopeSpec, name: str) -> Entries:
    """The rope entries; refuses what llama.cpp computes differently."""
    architecture = ARCHITECTURES.get(config.model_type)
    if architecture is None:
        raise _other_family(config.model_type, spec, name)
    for key, value in _expected(config, architecture).items():
        seen = getattr(config, key, value)
        if seen != value and (seen or value):
            raise UserError(f"{name}: key {key!r} is {seen!r}, expected {value!r} in llama.cpp's {architecture!r}")
    sliding = getattr(config, "sliding_window", None) if architecture not in SLIDES else None
    if sliding and getattr(config, "use_sliding_window", True) and sliding < spec.length:
        raise UserError(
            f"{name}: key 'sliding_window' is {sliding}, below the length of {spec.length}; llama.cpp's "
            f"{architecture!r} sees the whole text in every layer"
        )
    if spec.rotary_dim != spec.head_dim and config.model_type not in PARTIAL:
        raise UserError(
            f"{name}: {spec.rotary_dim} of {spec.head_dim} dimensions rotate; llama.cpp's {architecture!r} rotates all"
        )
    rope = entries(spec, architecture, name)
    near = [other.base for other in specs.values() if other.sliding and other is not spec]
    return replace(rope, keys=rope.keys | {"rope.freq_base_swa": near[0]}) if near else rope


def _expected(config: PreTrainedConfig, architecture: str) -> dict[str, Any]:
    """Key -> the only value that llama.cpp computes with."""
    gelu = architecture in GELU
    activation = "hidden_activation" if architecture in SLIDES else "hidden_act"
    expected: dict[str, Any] = {activation: "gelu_pytorch_tanh" if gelu else "silu", "quantization_config": None}
    if architecture not in BIASED:
        expected["attention_bias"] = False
    if architecture in TIED:
        expected["tie_word_embeddings"] = True
    if architecture in SLIDES:
        expected["use_bidirectional_attention"] = False
        heads, _, head_dim = _heads(config)
        widest = int(config.num_hidden_layers) == WIDEST[architecture]
        expected["query_pre_attn_scalar"] = int(config.hidden_size) // heads if widest else head_dim
    if architecture == "gemma3":
        expected["attn_logit_softcapping"] = None
    return expected


def _other_family(kind: str, spec: RopeSpec, name: str) -> UserError:
    message = f"model_type is {kind!r}, a GGUF is written for {', '.join(sorted(ARCHITECTURES))}"
    convert = (
        f"{shlex.join(['python', 'convert_hf_to_gguf.py', name, '--outfile', f'{name}.gguf'])} (of llama.cpp), then: "
        + command("inspect", f"{name}.gguf", "--against", name, "--patch", f"{name}-patched.gguf")
    )
    if OTHER_NAMES.get(kind, kind) in SLOTS:
        return UserError(message, convert)
    native = nearest(one_set(spec))
    if native.error <= SAME:
        return UserError(f"{message}; llama.cpp has keys of its own for this rope", convert)
    return UserError(
        f"{message}, and llama.cpp has no place for one factor per dimension there; the nearest rope that it has is "
        f"{native}",
        command("extend", name, "--to", spec.length, "--method", native.method),
    )


def _heads(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Query heads, key-value heads, dimensions per head."""
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return heads, int(config.num_key_value_heads or heads), head_dim


def _add_hyperparameters(writer: GGUFWriter, config: PreTrainedConfig, name: str, dtype: str) -> None:
    library, architecture = gguf(), ARCHITECTURES[config.model_type]
    heads, kv_heads, head_dim = _heads(config)
    writer.add_name(name)
    writer.add_file_type(int(library.LlamaFileType[TYPES[dtype]]))
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    writer.add_vocab_size(int(config.vocab_size))
    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))
    if architecture in SLIDES:
        _add_layers(writer, config, architecture)
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        if getattr(config, key, None):
            writer.add_float32(f"{architecture}.{key}", float(getattr(config, key)))


def _add_layers(writer: GGUFWriter, config: PreTrainedConfig, architecture: str) -> None:
    """The sliding window, and which layers have it where that is not llama.cpp's own pattern."""
    window, every = SLIDES[architecture]
    slides = [kind == SLIDING for kind in config.layer_types]
    if any(slides) or window:
        writer.add_sliding_window(int(config.sliding_window))
        if slides != [i % every < every - 1 for i in range(len(slides))]:
            writer.add_sliding_window_pattern(slides)


def _parameters(config: PreTrainedConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every parameter of the model as transformers builds it, a tied head left out."""
    import torch

    with torch.device("meta"), quiet():
        state = class_of(config)(config).state_dict()
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name not in tied}


def _in_checkpoint(files: Iterable[Path]) -> Iterator[tuple[Path, str, tuple[int, ...], str]]:
    """File, name, shape and type of every tensor of a checkpoint."""
    from safetensors import SafetensorError, safe_open

    for file in files:
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    cut = tensors.get_slice(name)
                    yield file, name, tuple(cut.get_shape()), str(cut.get_dtype())
        except SafetensorError as error:
            raise UserError(f"{file} cannot be read: {error}", "Download the file again.") from None


def _exact(stored: Iterable[tuple[Path, str, tuple[int, ...], str]]) -> str:
    """The type that holds all weights as they are."""
    kinds = {kind for _, _, _, kind in stored}
    return kinds.pop() if len(kinds) == 1 and kinds < READABLE else "F32"


def _of_text(source: str) -> str:
    """A parameter's name in the text model alone; empty for one that reads no text."""
    if any(part in source for part in ("vision_tower.", "multi_modal_projector.")):
        return ""
    return source.replace("language_model.", "", 1)


def _plan(
    config: PreTrainedConfig, folder: Path, stored: Iterable[tuple[Path, str, tuple[int, ...], str]], dtype: str
) -> list[Stored]:
    """Every tensor to write, in the model's order; names and shapes are those that the configuration promises."""
    library, architecture = gguf(), ARCHITECTURES[config.model_type]
    names = library.get_tensor_name_map(architecture_of(architecture), int(config.num_hidden_layers))
    parameters = _parameters(config)
    heads, kv_heads, _ = _heads(config)
    rotated = {"attn_q": heads, "attn_k": kv_heads} if architecture == "llama" else {}
    found: dict[str, Stored] = {}
    for file, source, shape, kind in stored:
        parameter = _of_text(source)
        if not parameter or source.endswith("rotary_emb.inv_freq"):
            continue
        if parameter == "lm_head.weight" and config.tie_word_embeddings:
            continue
        if parameter not in parameters or parameter in found:
            raise UserError(f"{file}: tensor {source!r} has no place in llama.cpp's {architecture!r}")
        if shape != parameters[parameter] or kind not in READABLE:
            raise UserError(
                f"{file}: tensor {source!r} is {kind} {shape}, expected {parameters[parameter]} in F32, F16 or BF16"
            )
        name = names.get_name(parameter, try_suffixes=(".weight", ".bias"))
        change = Change(rotated.get(name.split(".")[-2], 0), architecture in ONE_PLUS and name.endswith("norm.weight"))
        to = _kind(shape, dtype)
        found[parameter] = Stored(name, shape, to, partial(_encoded, file, source, change, to))
    missing = [name for name in parameters if name not in found]
    if missing:
        raise UserError(f"{folder}: the weights have no {missing[0]!r}, expected by config.json")
    return [found[name] for name in parameters]


@dataclass(frozen=True)
class Change:
    """What llama.cpp has otherwise in a tensor: the rows of so many heads in another order (0: none), or 1 added."""

    heads: int
    plus_one: bool


def _kind(shape: tuple[int, ...], dtype: str) -> GGMLQuantizationType:
    """Vectors stay F32; rows that do not fill whole blocks of 32 cannot be Q8_0 and become F16."""
    kinds = gguf().GGMLQuantizationType
    if len(shape) == 1:
        return kinds.F32
    return kinds.F16 if dtype == "Q8_0" and shape[-1] % 32 else kinds[dtype]


def _encoded(file: Path, source: str, change: Change, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """One tensor as the file will hold it."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        stored = tensors.get_tensor(source)
    if not is_finite(stored):
        raise UserError(f"{file}: tensor {source!r} holds NaN or infinite numbers", "Download the file again.")
    values = neighbours(stored.float().numpy(), change.heads)
    if change.plus_one:
        values = values + 1
    if kind.name == "F16" and float(np.abs(values).max(initial=0.0)) > float(np.finfo(np.float16).max):
        raise UserError(
            f"{file}: tensor {source!r} holds values above 65504, which F16 cannot", "Use --dtype BF16 or F32."
        )
    encoded: np.ndarray[Any, Any] = gguf().quantize(np.ascontiguousarray(values), kind)
    return encoded


def neighbours(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows [heads * d, ...] of each head from halves (i, i + d/2) to neighbours (2i, 2i + 1); untouched for 0 heads."""
    if heads == 0:
        return values
    pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
