"""ropewalk: make the context window of a pretrained language model longer, and prove that the model uses it."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module; imported when first used, so that ``import ropewalk`` stays instant.
_PUBLIC = {
    "AttentionMethod": "attention.base",
    "AttentionAlignment": "attention.align",
    "DualChunk": "attention.dual_chunk",
    "GALI": "attention.gali",
    "HeadScale": "attention.head_scale",
    "InfLLM": "attention.infllm",
    "LMInfinite": "attention.lm_infinite",
    "LeakyReRoPE": "attention.rerope",
    "LogN": "attention.log_n",
    "LongCache": "attention.longcache",
    "LongHeads": "attention.longheads",
    "ReRoPE": "attention.rerope",
    "Region": "attention.regions",
    "S2Attention": "attention.s2",
    "SelfExtend": "attention.self_extend",
    "Squeezed": "attention.squeezed",
    "StreamingLLM": "attention.streaming",
    "TCA": "attention.tca",
    "VerticalSlash": "attention.vertical_slash",
    "YaRNTemperature": "attention.log_n",
    "CLEX": "frequencies.clex",
    "HARPE": "frequencies.harpe",
    "AdjustedBase": "frequencies.abf",
    "DistributionalRoPE": "frequencies.dprope",
    "DynamicNTK": "frequencies.dynamic_ntk",
    "EntropyABF": "frequencies.entropy_abf",
    "Frequencies": "rope.spec",
    "FrequencyMethod": "frequencies.base",
    "Giraffe": "frequencies.giraffe",
    "Llama3": "frequencies.parts",
    "LongEmbedRoPE": "frequencies.longembed",
    "LongRoPE": "frequencies.longrope",
    "NTKAware": "frequencies.ntk",
    "NTKByParts": "frequencies.parts",
    "Plain": "frequencies.none",
    "PositionInterpolation": "frequencies.pi",
    "Resonance": "frequencies.resonance",
    "RopeSpec": "rope.spec",
    "UserError": "errors",
    "YaRN": "frequencies.yarn",
    "compose": "composition",
    "method": "catalogue",
}
__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
