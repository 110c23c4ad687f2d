"""ropewalk: make the context window of a pretrained language model longer, and prove that the model uses it.

Public are the verbs (``ropewalk.inspect``, ``ropewalk.compare``, ...), a class for every method of the catalogue
(``ropewalk.YaRN``) and for every way to lay out training samples (``ropewalk.PoSE``), and what these are made and
written with. Each is imported when it is first used, so that ``import ropewalk`` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MAKING = {
    "AttentionMethod": "methods.attention.attention_method",
    "Frequencies": "rope.spec",
    "FrequencyMethod": "methods.frequencies.frequency_method",
    "LongContextCallback": "evaluation.long_context_callback",
    "MemoryMethod": "methods.memory.memory_method",
    "Picks": "training.positions.training_positions",
    "Recipe": "training.recipe",
    "Region": "attention.regions",
    "RopeSpec": "rope.spec",
    "SkipwiseCollator": "training.collator",
    "Stage": "training.recipe",
    "TrainingPositions": "training.positions.training_positions",
    "UserError": "common.errors",
    "compose": "methods.compose",
    "fractional_frames": "rope.fractional",
    "fractional_time": "rope.fractional",
    "method": "methods.catalogue",
    "recipe": "training.recipes.recipe_entries",
    "visual_increment": "rope.visual_increments",
    "visual_positions": "rope.visual_increments",
}


def _places() -> dict[str, str]:
    """Public name -> the module that has it."""
    from ropewalk.methods.catalogue import CATALOGUE
    from ropewalk.training.positions.entries import POSITIONS
    from ropewalk.verbs import NAMES

    methods = (entry.where.split(":") for entry in CATALOGUE)
    layouts = (entry.where.split(":") for entry in POSITIONS)
    return {
        **_MAKING,
        **{name: f"methods.{module}" for module, name in methods},
        **{name: f"training.positions.{module}" for module, name in layouts},
        **{name: f"verbs.{name}" for name in NAMES},
    }


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    places = {} if name.startswith("__") else _places()
    if name not in places:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_as_a_verb(name)}")
    return getattr(import_module(f"{__name__}.{places[name]}"), name)


def _as_a_verb(name: str) -> str:
    """What a word of the command line is called here, where that is another word."""
    from ropewalk.verbs import NAMES

    longer = next((one for one in NAMES if one in (f"list_{name}", f"{name}_adapter", f"run_{name}")), None)
    return f"; ropewalk {name} is ropewalk.{longer}() in Python" if longer else ""


def __dir__() -> list[str]:
    return ["__version__", *sorted(_places())]
