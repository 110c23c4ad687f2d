"""ropewalk: make the context window of a pretrained language model longer, and prove that the model uses it.

Public are the verbs (``ropewalk.inspect``, ``ropewalk.compare``, ...), a class for every method of the catalogue
(``ropewalk.YaRN``), and what a method is made and written with. Each is imported when it is first used, so that
``import ropewalk`` stays instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MAKING = {
    "AttentionMethod": "methods.attention.attention_method",
    "Frequencies": "rope.spec",
    "FrequencyMethod": "methods.frequencies.frequency_method",
    "Region": "attention.regions",
    "RopeSpec": "rope.spec",
    "UserError": "common.errors",
    "compose": "methods.compose",
    "method": "methods.catalogue",
}


def _places() -> dict[str, str]:
    """Public name -> the module that has it."""
    from ropewalk.methods.catalogue import CATALOGUE
    from ropewalk.verbs import NAMES

    classes = (entry.where.split(":") for entry in CATALOGUE)
    return {
        **_MAKING,
        **{name: f"methods.{module}" for module, name in classes},
        **{name: f"verbs.{name}" for name in NAMES},
    }


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    places = {} if name.startswith("__") else _places()
    if name not in places:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{places[name]}"), name)


def __dir__() -> list[str]:
    return ["__version__", *sorted(_places())]
