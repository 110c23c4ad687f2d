"""ropewalk: make the context window of a pretrained language model longer, and prove that the model uses it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module; imported when first used, so that ``import ropewalk`` stays instant.
_PUBLIC = {
    "AttentionMethod": "methods.attention.attention_method",
    "AttentionAlignment": "methods.attention.align",
    "DualChunk": "methods.attention.dual_chunk",
    "GALI": "methods.attention.gali",
    "HeadScale": "methods.attention.head_scale",
    "InfLLM": "methods.attention.infllm",
    "LMInfinite": "methods.attention.lm_infinite",
    "LeakyReRoPE": "methods.attention.rerope",
    "LogN": "methods.attention.log_n",
    "LongCache": "methods.attention.longcache",
    "LongHeads": "methods.attention.longheads",
    "ReRoPE": "methods.attention.rerope",
    "Region": "attention.regions",
    "S2Attention": "methods.attention.s2",
    "SelfExtend": "methods.attention.self_extend",
    "Squeezed": "methods.attention.squeezed",
    "StreamingLLM": "methods.attention.streaming",
    "TCA": "methods.attention.tca",
    "VerticalSlash": "methods.attention.vertical_slash",
    "YaRNTemperature": "methods.attention.log_n",
    "CoPE": "methods.frequencies.cope",
    "STRING": "methods.attention.string",
    "CLEX": "methods.frequencies.clex",
    "HARPE": "methods.frequencies.harpe",
    "AdjustedBase": "methods.frequencies.abf",
    "DistributionalRoPE": "methods.frequencies.dprope",
    "DynamicNTK": "methods.frequencies.dynamic_ntk",
    "EntropyABF": "methods.frequencies.entropy_abf",
    "Frequencies": "rope.spec",
    "FrequencyMethod": "methods.frequencies.frequency_method",
    "Giraffe": "methods.frequencies.giraffe",
    "Llama3": "methods.frequencies.parts",
    "LongEmbedRoPE": "methods.frequencies.longembed",
    "LongRoPE": "methods.frequencies.longrope",
    "NTKAware": "methods.frequencies.ntk",
    "NTKByParts": "methods.frequencies.parts",
    "Plain": "methods.frequencies.none",
    "PositionInterpolation": "methods.frequencies.pi",
    "Resonance": "methods.frequencies.resonance",
    "RopeSpec": "rope.spec",
    "UserError": "common.errors",
    "YaRN": "methods.frequencies.yarn",
    "compose": "methods.compose",
    "method": "methods.catalogue",
}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
