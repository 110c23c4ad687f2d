"""A GGUF file from a checkpoint of the Llama or Qwen2 family, written as llama.cpp's architecture ``llama``.

That architecture has a slot for one factor per dimension; Qwen2's own has none, and differs from it only in the biases
of q, k and v, which ``llama`` reads as well. Rows of q and k are reordered within each head, since ``llama`` rotates
neighbours (2i, 2i + 1) where transformers rotates halves (i, i + d/2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.from_gguf import refuse_other
from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.checkpoint.gguf.rope_keys import SAME, SLOTS, Entries, entries, nearest, one_set
from ropewalk.checkpoint.gguf.tokenizer import add_tokenizer
from ropewalk.common.errors import UserError
from ropewalk.common.files import file_to_write
from ropewalk.common.whole import new_file
from ropewalk.engines.gguf.output import Stored, Written, add_record, write_file, written_here
from ropewalk.rope.config import text_config
from ropewalk.rope.spec import RopeSpec

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import PreTrainedConfig

FAMILIES = frozenset({"llama", "mistral", "qwen2"})
ARCHITECTURE = "llama"
TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}  # ours -> file type
OTHER_NAMES = {"mixtral": "llama", "ministral3": "mistral3", "nemotron-nas": "deci"}  # model type -> architecture
READABLE = frozenset({"F32", "F16", "BF16"})


def write_gguf(model: str | Path | Checkpoint, out: Path, dtype: str = "F16", overwrite: bool = False) -> Written:
    """Write a checkpoint as one GGUF file: rope, weights and tokenizer.

    Args:
        model: folder, hub id or ``demo``.
        out: the file; it appears only when it is complete.
        dtype: of the matrices: F32, F16, BF16 or Q8_0; vectors are always F32.
        overwrite: replace a file that ropewalk wrote.

    Raises:
        UserError: naming the key or tensor, for architectures, ropes, weights or tokenizers that cannot be written so.
    """
    if dtype not in TYPES:
        raise UserError(f"dtype is {dtype!r}, expected one of {', '.join(TYPES)}")
    gguf()  # a missing library is said before any work
    checkpoint = Checkpoint.open(model)
    spec, config, name = checkpoint.rope, text_config(checkpoint.config), checkpoint.place
    rope = _rope(config, spec, name)
    out = file_to_write(out, written_here, [checkpoint.folder], overwrite)
    tensors = _plan(config, checkpoint, dtype)

    def add_keys(writer: GGUFWriter) -> None:
        _add_hyperparameters(writer, config, Path(name).name, dtype)
        add_tokenizer(writer, checkpoint.tokenizer(), checkpoint.folder, config)
        add_record(writer, checkpoint.record)

    with new_file(out, written_here, [checkpoint.folder], overwrite) as path:
        write_file(path, ARCHITECTURE, add_keys, rope, tensors)
        refuse_other(path, spec)
    return Written(out, out.stat().st_size, rope, f"llama-server -m {out} -c {spec.length}")


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
    if OTHER_NAMES.get(kind, kind) in SLOTS:
        return UserError(message, convert)
    native = nearest(one_set(spec))
    if native.error <= SAME:
        return UserError(f"{message}; llama.cpp has keys of its own for this rope", convert)
    return UserError(
        f"{message}, and llama.cpp has no place for one factor per dimension there; the nearest rope that it has is "
        f"{native}",
        f"ropewalk extend MODEL --to {spec.length} --method {native.method} -o OUT",
    )


def _heads(config: PreTrainedConfig) -> tuple[int, int, int]:
    """Query heads, key-value heads, dimensions per head."""
    heads = int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return heads, int(config.num_key_value_heads or heads), head_dim


def _add_hyperparameters(writer: GGUFWriter, config: PreTrainedConfig, name: str, dtype: str) -> None:
    library = gguf()
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


def _shapes(config: PreTrainedConfig) -> Iterator[tuple[str, tuple[int, ...], bool]]:
    """Name, shape and need of every tensor that llama.cpp's ``llama`` can hold, as transformers stores them."""
    width, inner, rows = int(config.hidden_size), int(config.intermediate_size), int(config.vocab_size)
    heads, kv_heads, head_dim = _heads(config)
    q, kv = heads * head_dim, kv_heads * head_dim
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


def _plan(config: PreTrainedConfig, checkpoint: Checkpoint, dtype: str) -> list[Stored]:
    """Every tensor to write, in the file's order; names, shapes and types are those that the configuration promises."""
    library = gguf()
    names = library.get_tensor_name_map(library.MODEL_ARCH.LLAMA, int(config.num_hidden_layers))
    shapes = {name: (shape, needed) for name, shape, needed in _shapes(config)}
    heads, kv_heads, _ = _heads(config)
    rotated = {"attn_q": heads, "attn_k": kv_heads}
    found: dict[str, Stored] = {}
    for file, source, shape, stored in _in_checkpoint(checkpoint.weights):
        if source.endswith("rotary_emb.inv_freq") or (source == "lm_head.weight" and config.tie_word_embeddings):
            continue
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name not in shapes or name in found:
            raise UserError(f"{file}: tensor {source!r} has no place in llama.cpp's 'llama'")
        if shape != shapes[name][0] or stored not in READABLE:
            raise UserError(
                f"{file}: tensor {source!r} is {stored} {shape}, expected {shapes[name][0]} in F32, F16 or BF16"
            )
        of_heads, kind = rotated.get(name.split(".")[-2], 0), _kind(shape, dtype)
        found[name] = Stored(name, shape, kind, partial(_encoded, file, source, of_heads, kind))
    missing = [name for name, (_, needed) in shapes.items() if needed and name not in found]
    if missing:
        raise UserError(
            f"{checkpoint.folder}: the weights have no {missing[0]!r} (llama.cpp's name), expected by config.json"
        )
    return [found[name] for name in shapes if name in found]


def _kind(shape: tuple[int, ...], dtype: str) -> GGMLQuantizationType:
    """Vectors stay F32; rows that do not fill whole blocks of 32 cannot be Q8_0 and become F16."""
    kinds = gguf().GGMLQuantizationType
    if len(shape) == 1:
        return kinds.F32
    return kinds.F16 if dtype == "Q8_0" and shape[-1] % 32 else kinds[dtype]


def _encoded(file: Path, source: str, heads: int, kind: GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """One tensor as the file will hold it; ``heads`` is the number of heads that its rows make, 0 if none rotates."""
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        values = neighbours(tensors.get_tensor(source).float().numpy(), heads)
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
