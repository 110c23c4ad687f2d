"""RULER's thirteen configurations under their own names (arXiv 2404.06654).

Lengths count the prompt and the tokens kept for the answer, as RULER's do; prompts have them exactly. Kinds, numbers
and room are RULER's; the wording is ours, and where RULER reuses one random permutation for all samples, each has its
own here. Every prompt ends with the beginning of its answer, which keeps models from refusing.
"""

from __future__ import annotations

from typing import Any

MODULE = "ropewalk.tasks.ruler"

# Name -> (module:class, options). "essay" needs ``haystack`` (and may have ``sentence_ends``), qa needs ``examples``.
CONFIGURATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "niah_single_1": (f"{MODULE}.needles:RulerNeedles", {"hay": "noise"}),
    "niah_single_2": (f"{MODULE}.needles:RulerNeedles", {"hay": "essay"}),
    "niah_single_3": (f"{MODULE}.needles:RulerNeedles", {"hay": "essay", "value": "uuids"}),
    "niah_multikey_1": (f"{MODULE}.needles:RulerNeedles", {"hay": "essay", "keys": 4}),
    "niah_multikey_2": (f"{MODULE}.needles:RulerNeedles", {"hay": "needles", "diffusion": "high"}),
    "niah_multikey_3": (
        f"{MODULE}.needles:RulerNeedles",
        {"hay": "needles", "key": "uuids", "value": "uuids", "diffusion": "high"},
    ),
    "niah_multivalue": (f"{MODULE}.needles:RulerNeedles", {"hay": "essay", "values": 4, "diffusion": "high"}),
    "niah_multiquery": (
        f"{MODULE}.needles:RulerNeedles",
        {"hay": "essay", "keys": 4, "queries": 4, "diffusion": "high"},
    ),
    "vt": (f"{MODULE}.vt:VariableTracking", {}),
    "cwe": (f"{MODULE}.cwe:CommonWords", {}),
    "fwe": (f"{MODULE}.fwe:FrequentWords", {}),
    "qa_1": (f"{MODULE}.qa:DocumentQA", {}),
    "qa_2": (f"{MODULE}.qa:DocumentQA", {}),
}

# What takes the place of a configuration whose examples are not there, under its own name.
STAND_INS: dict[str, tuple[str, dict[str, Any]]] = {
    "qa_1_synthetic": (f"{MODULE}.qa:synthetic", {"hops": 1}),
    "qa_2_synthetic": (f"{MODULE}.qa:synthetic", {"hops": 2}),
}
