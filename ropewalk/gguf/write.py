"""A GGUF file from a checkpoint of the Llama or Qwen2 family, written as llama.cpp's architecture ``llama``.

That architecture has a slot for one factor per dimension; Qwen2's own has none, and differs from it only in the biases
of q, k and v, which ``llama`` reads as well. Rows of q and k are reordered within each head, since ``llama`` rotates
neighbours (2i, 2i + 1) where transformers rotates halves (i, i + d/2).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.errors import UserError
from ropewalk.files import new_file
from ropewalk.gguf.library import gguf
from ropewalk.gguf.read import refuse_other
from ropewalk.gguf.rope import SAME, SLOTS, Entries, entries, nearest, one_set, rope_of_checkpoint
from ropewalk.gguf.tokenizer import add_tokenizer
from ropewalk.loading import check_weights, folder_of, resolve
from ropewalk.rope.config import load_config, text_config
from ropewalk.rope.spec import RopeSpec

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from torch import Tensor
    from transformers import PreTrainedConfig

FAMILIES = frozenset({"llama", "mistral", "qwen2"})
ARCHITECTURE = "llama"
TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}  # ours -> file type
HEAD = "lm_head.weight"
READABLE = frozenset({"F32", "F16", "BF16"})


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: the file.
        dtype: of its matrices.
        n_bytes: its size.
        rope: the entries about its rope.
        launch: the line that serves it.
    """

    path: Path
    dtype: str
    n_bytes: int
    rope: Entries
    launch: str


@dataclass(frozen=True)
class _Weight:
    """One tensor: where it lies, what it is called, and how many heads its rows make (0: they are not rotated)."""

    file: Path
    source: str
    name: str
    shape: tuple[int, ...]
    rotated_heads: int
    kind: GGMLQuantizationType


def write_gguf(model: str | Path, out: Path, dtype: str = "F16", overwrite: bool = False) -> Written:
    """Write a checkpoint as one GGUF file: rope, weights and tokenizer.

    Args:
        model: folder, hub id or ``demo``.
        out: the file; it appears only when it is complete.
        dtype: of the matrices: F32, F16, BF16 or Q8_0; vectors are always F32.
        overwrite: replace a file that is there.

    Raises:
        UserError: naming the key or tensor, for architectures, ropes, weights or tokenizers that cannot be written so.
    """
    if dtype not in TYPES:
        raise UserError(f"dtype is {dtype!r}, expected one of {', '.join(TYPES)}")
    library = gguf()
    name = resolve(str(model))
    spec, config = rope_of_checkpoint(name), text_config(load_config(name))
    rope = _rope(config, spec, name)
    folder = folder_of(name)
    weights = _plan(config, folder, dtype)
    out = out.expanduser().absolute()
    with new_file(out, overwrite) as path:
        writer = library.GGUFWriter(path, ARCHITECTURE)
        try:
            _add_hyperparameters(writer, config, Path(name).name, dtype)
            add_rope(writer, ARCHITECTURE, rope)
            add_tokenizer(writer, folder, config)
            _write_tensors(writer, path, weights, rope)
        finally:
            writer.close()
        refuse_other(path, spec)
    length = rope.keys["context_length"]
    return Written(out, dtype, out.stat().st_size, rope, f"llama-server -m {out} -c {length}")


def add_rope(writer: GGUFWriter, architecture: str, rope: Entries) -> None:
    """Add the keys of a rope with the types that llama.cpp reads."""
    kinds = gguf().GGUFValueType
    for key, value in rope.keys.items():
        kind = kinds.STRING if isinstance(value, str) else kinds.UINT32 if isinstance(value, int) else kinds.FLOAT32
        writer.add_key_value(f"{architecture}.{key}", value, kind)


def _rope(config: PreTrainedConfig, spec: RopeSpec, name: str) -> Entries:
    """The rope entries; refuses what llama.cpp's ``llama`` computes differently."""
    if config.model_type not in FAMILIES:
        raise _other_family(config.model_type, spec, name)
    expected = {"hidden_act": "silu", "quantization_config": None}
    for key, value in expected.items():
        if getattr(config, key, value) != value:
            raise UserError(f"{name}: key {key!r} is {getattr(config, key)!r}, expected {value!r}")
    sliding = getattr(config, "sliding_window", None)
    if sliding and getattr(config, "use_sliding_window", True) and sliding < spec.length:
        raise UserError(
            f"{name}: key 'sliding_window' is {sliding}, below the length of {spec.length}; llama.cpp's 'llama' sees "
            "the whole text in every layer"
        )
    if spec.rotary_dim != spec.head_dim:
        raise UserError(
            f"{name}: {spec.rotary_dim} of {spec.head_dim} dimensions rotate; llama.cpp's 'llama' rotates all"
        )
    return entries(spec, ARCHITECTURE)


def _other_family(kind: str, spec: RopeSpec, name: str) -> UserError:
    message = f"model_type is {kind!r}, a GGUF is written for {', '.join(sorted(FAMILIES))}"
    convert = (
        f"python convert_hf_to_gguf.py {name} --outfile IN.gguf (of llama.cpp), then: "
        f"ropewalk inspect IN.gguf --against {name} --patch OUT.gguf"
    )
    if kind in SLOTS:
        return UserError(message, convert)
    native = nearest(one_set(spec))
    if native.error <= SAME:
        return UserError(f"{message}; llama.cpp has its own keys for this rope ({native.method})", convert)
    return UserError(
        f"{message}, and llama.cpp has no place for one factor per dimension there; the nearest rope that it has is "
        f"{native.method}, with frequencies off by up to {native.error:.2%}",
        f"ropewalk extend MODEL --to {spec.length} --method '{native.method}' -o OUT",
    )


def _add_hyperparameters(writer: GGUFWriter, config: PreTrainedConfig, name: str, dtype: str) -> None:
    library = gguf()
    heads = int(config.num_attention_heads)
    head_dim = _head_dim(config)
    writer.add_name(name)
    writer.add_file_type(int(library.LlamaFileType[TYPES[dtype]]))
    writer.add_quantization_version(library.GGML_QUANT_VERSION)
    writer.add_vocab_size(int(config.vocab_size))
    writer.add_block_count(int(config.num_hidden_layers))
    writer.add_embedding_length(int(config.hidden_size))
    writer.add_feed_forward_length(int(config.intermediate_size))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.num_key_value_heads or heads))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(float(config.rms_norm_eps))


def _head_dim(config: PreTrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _shapes(config: PreTrainedConfig) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape and need of every tensor that llama.cpp's ``llama`` can hold, as transformers stores them."""
    width, inner, rows = int(config.hidden_size), int(config.intermediate_size), int(config.vocab_size)
    q = int(config.num_attention_heads) * _head_dim(config)
    kv = int(config.num_key_value_heads or config.num_attention_heads) * _head_dim(config)
    yield "token_embd.weight", (rows, width), True
    yield "output_norm.weight", (width,), True
    if not config.tie_word_embeddings:
        yield "output.weight", (rows, width), True
    matrices = {"attn_q": (q, width), "attn_k": (kv, width), "attn_v": (kv, width), "attn_output": (width, q),
                "ffn_gate": (inner, width), "ffn_up": (inner, width), "ffn_down": (width, inner)}  # fmt: skip
    for i in range(int(config.num_hidden_layers)):
        for norm in ("attn_norm", "ffn_norm"):
            yield f"blk.{i}.{norm}.weight", (width,), True
        for part, shape in matrices.items():
            yield f"blk.{i}.{part}.weight", shape, True
            yield f"blk.{i}.{part}.bias", shape[:1], False


def _plan(config: PreTrainedConfig, folder: Path, dtype: str) -> list[_Weight]:
    """Every tensor to write, in the file's order; names, shapes and types are those that the configuration promises."""
    from safetensors import safe_open

    library = gguf()
    names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, int(config.num_hidden_layers))
    shapes = {name: (shape, needed) for name, shape, needed in _shapes(config)}
    heads = {"attn_q": int(config.num_attention_heads), "attn_k": int(config.num_key_value_heads)}
    found: dict[str, _Weight] = {}
    for file in check_weights(folder):
        with safe_open(file, framework="pt") as tensors:
            for source in tensors.keys():  # noqa: SIM118 (no mapping)
                if source.endswith("rotary_emb.inv_freq") or (
                    source == "lm_head.weight" and config.tie_word_embeddings
                ):
                    continue
                name = names.get_name(source, try_suffixes=(".weight", ".bias"))
                if name not in shapes or name in found:
                    raise UserError(f"{file}: tensor {source!r} has no place in llama.cpp's 'llama'")
                cut = tensors.get_slice(source)
                shape, stored = tuple(cut.get_shape()), str(cut.get_dtype())
                if shape != shapes[name][0] or stored not in READABLE:
                    raise UserError(
                        f"{file}: tensor {source!r} is {stored} {shape}, expected {shapes[name][0]} in F32, F16 or BF16"
                    )
                part = name.split(".")[2] if name.startswith("blk.") else name
                kind = _kind(shape, dtype)
                found[name] = _Weight(file, source, name, shape, heads.get(part, 0), kind)
    missing = [name for name, (_, needed) in shapes.items() if needed and name not in found]
    if missing:
        raise UserError(f"{folder}: the weights have no {missing[0]!r} (llama.cpp's name), expected by config.json")
    return [found[name] for name in shapes if name in found]


def _kind(shape: tuple[int, ...], dtype: str) -> GGMLQuantizationType:
    """Vectors stay F32; rows that do not fill whole blocks of 32 cannot be Q8_0 and become F16."""
    kinds = gguf().GGMLQuantizationType
    if len(shape) == 1:
        return kinds.F32
    return kinds.F16 if dtype == "Q8_0" and shape[-1] % 32 else kinds[dtype]


def _write_tensors(writer: GGUFWriter, path: Path, weights: list[_Weight], rope: Entries) -> None:
    """Announce all tensors, then write them one at a time: memory holds the largest alone."""
    from safetensors import safe_open

    library = gguf()
    for tensor, factors in rope.factors.items():
        writer.add_tensor_info(f"{tensor}.weight", (len(factors),), np.dtype(np.float32), 4 * len(factors))
    for weight in weights:
        block, size = library.GGML_QUANT_SIZES[weight.kind]
        n_bytes = int(np.prod(weight.shape)) // block * size
        writer.add_tensor_info(weight.name, weight.shape, np.dtype(np.float32), n_bytes, weight.kind)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for factors in rope.factors.values():
        writer.write_tensor_data(np.asarray(factors, dtype=np.float32))
    with ExitStack() as stack:
        files = {file: stack.enter_context(safe_open(file, framework="pt")) for file in {w.file for w in weights}}
        for weight in weights:
            writer.write_tensor_data(_encode(weight, files[weight.file].get_tensor(weight.source)))


def _encode(weight: _Weight, tensor: Tensor) -> np.ndarray[Any, Any]:
    values = neighbours(tensor.float().numpy(), weight.rotated_heads)
    if weight.kind.name == "F16" and float(np.abs(values).max(initial=0.0)) > float(np.finfo(np.float16).max):
        raise UserError(
            f"{weight.file}: tensor {weight.source!r} holds values above 65504, which F16 cannot", "Use BF16 or F32."
        )
    encoded: np.ndarray[Any, Any] = gguf().quantize(np.ascontiguousarray(values), weight.kind)
    return encoded


def neighbours(values: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows [heads * d, ...] of each head from halves (i, i + d/2) to neighbours (2i, 2i + 1); untouched for 0 heads."""
    if heads == 0:
        return values
    pairs = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)
