"""What a file's keys say besides its rope: which of them are understood, and how far each layer sees.

llama.cpp reads a key where its loader of the architecture asks for it, and passes over all others; who wrote one of
those meant a computation that llama.cpp does not do. Facts from ggml-org/llama.cpp (``src/llama-model.cpp``,
``src/models``, ``conversion``), as vendored by llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ropewalk.checkpoint.gguf.from_gguf import RopeOfFile
from ropewalk.checkpoint.gguf.header import AGAIN
from ropewalk.checkpoint.gguf.rope_keys import SCALING_KEYS
from ropewalk.common.errors import UserError

WINDOW, PATTERN = "attention.sliding_window", "attention.sliding_window_pattern"
FULL, SLIDING, OR_SLIDING = "full_attention", "sliding_attention", "full or sliding"  # the last: not known here
# Read alike in every architecture here; those about a rope that some do not read are problems of their own.
COMMON = frozenset(
    "context_length block_count embedding_length feed_forward_length attention.head_count attention.head_count_kv "
    "attention.key_length attention.layer_norm_rms_epsilon rope.dimension_count rope.freq_base "
    "rope.scale_linear".split()
) | {f"rope.scaling.{key}" for key in SCALING_KEYS if key != "yarn_log_multiplier"}
# Architectures that are opened -> what each reads besides. phi3 reads the window and puts it aside.
OWN = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gemma", "phi3"), frozenset[str]()),
    "gemma2": frozenset({WINDOW, PATTERN, "attn_logit_softcapping", "final_logit_softcapping"}),
    "gemma3": frozenset({WINDOW, PATTERN, "final_logit_softcapping", "rope.freq_base_swa"}),
}
SLIDES = {"gemma2": (4096, 2), "gemma3": (0, 6)}  # window without a key; one layer in so many looks past it
# Of no meaning: the tensors or another key say it, or no layer of these architectures has the part that it is about.
WITHOUT_EFFECT = frozenset("vocab_size attention.layer_norm_epsilon rope.scaling.finetuned".split())
NONE = (
    "pooling_type nextn_predict_layers leading_dense_block_count expert_count expert_used_count expert_shared_count "
    "expert_group_count expert_group_used_count n_deepstack_layers attention.clamp_kqv attention.max_alibi_bias "
    "attn_logit_softcapping final_logit_softcapping attention.temperature_length attention.temperature_scale "
    "attention.shared_kv_layers use_parallel_residual swin_norm rope.scaling.alpha rope.scaling.yarn_log_multiplier"
).split()  # 0 means that there is none
ONCE = "logit_scale residual_scale attention.output_scale attention.value_scale".split()  # 0 means not given
# llama.cpp reads these everywhere, so that a file without them is another model.
READ = frozenset(
    "attention.causal pooling_type classifier.pooling_type classifier.output_labels embedding_length_out "
    "nextn_predict_layers expert_count expert_used_count expert_group_count expert_group_used_count "
    "attention.value_length".split()
)


@dataclass(frozen=True)
class Strange:
    """A key that changes the computation, and is not understood.

    Attributes:
        key: without the architecture's name.
        seen: its value.
        allowed: what it may be; empty for a key that is not known.
        passed_over: llama.cpp does not read it in this architecture.
    """

    key: str
    seen: Any
    allowed: str
    passed_over: bool


def strange(file: RopeOfFile) -> Iterator[Strange]:
    """The keys that are not understood, of an architecture that can be opened; of any other none."""
    if file.architecture not in OWN:
        return
    prefix = f"{file.architecture}."
    lists = {key.removeprefix(prefix): v for key, v in file.header.lists.items() if key.startswith(prefix)}
    harmless = _harmless(file)
    for key, seen in {**file.keys, **lists}.items():
        understood = key in COMMON or key in OWN[file.architecture]
        if key in WITHOUT_EFFECT or (key == PATTERN and (understood or not sliding_window(file))):
            continue
        if key in lists and (understood or key == WINDOW):
            yield Strange(key, seen, "one value for all layers", False)
        elif key == WINDOW and not understood:
            length = file.keys["context_length"]
            if 0 < seen < length:
                yield Strange(key, seen, f"0, or {length} at least", True)
        elif not understood:
            values = harmless.get(key, ())
            if not any(_same(seen, value) for value in values):
                yield Strange(key, seen, " or ".join(map(str, values)), key not in READ)


def _harmless(file: RopeOfFile) -> dict[str, tuple[Any, ...]]:
    """Key -> the values that change nothing."""
    keys, gemma = file.keys, file.architecture.startswith("gemma")
    width, heads = keys.get("embedding_length", 0), keys.get("attention.head_count", 1)
    head_dim = keys.get("attention.key_length") or width // heads or file.rotary_dim
    widths = ("attention.value_length", "attention.key_length_swa", "attention.value_length_swa")
    return {
        **dict.fromkeys(NONE, (0,)),
        **dict.fromkeys(ONCE, (0, 1)),
        **dict.fromkeys(widths, (head_dim,)),
        "attention.causal": (True,),
        "attention.scale": (0,) if gemma else (0, head_dim**-0.5),  # the largest Gemmas scale otherwise
        "embedding_scale": (0, width**0.5 if gemma else 1),
        "embedding_length_out": (width,),
        "rope.dimension_count_swa": (file.rotary_dim,),
        "rope.freq_base_swa": (keys.get("rope.freq_base", 10000.0),),
        # What old converters wrote: rows of q and k as llama.cpp has them.
        "tensor_data_layout": ("Meta AI original pth",) if file.architecture == "llama" else (),
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, (int, float)) and isinstance(other, (int, float)):
        return math.isclose(one, other, rel_tol=1e-5)
    return bool(one == other)


def sliding_window(file: RopeOfFile) -> int:
    """Keys that a query of a sliding layer sees in llama.cpp, itself included; 0 where every layer sees the whole text.

    Raises:
        UserError: if llama.cpp would hide every key.
    """
    if file.architecture not in SLIDES:
        return 0
    default, _ = SLIDES[file.architecture]
    window = int(file.keys.get(WINDOW, default))
    if window == 0 and default:
        raise UserError(f"{file.path}: key '{file.architecture}.{WINDOW}' is 0, expected a whole number above 0", AGAIN)
    return window


def layer_types(file: RopeOfFile) -> list[str]:
    """What each layer is in llama.cpp.

    Raises:
        UserError: if the pattern is not one of these layers.
    """
    layers, pattern = int(file.keys.get("block_count", 0)), f"{file.architecture}.{PATTERN}"
    if not sliding_window(file):
        known = file.architecture in OWN or not file.keys.get(WINDOW)
        return [FULL if known else OR_SLIDING] * layers
    every = file.keys.get(PATTERN, SLIDES[file.architecture][1])
    slides = file.header.lists.get(pattern) or [every == 0 or i % every < every - 1 for i in range(layers)]
    if len(slides) != layers:
        raise UserError(f"{file.path}: key '{pattern}' has {len(slides)} entries, expected {layers}", AGAIN)
    return [SLIDING if slide else FULL for slide in slides]
