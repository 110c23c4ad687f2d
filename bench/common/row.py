"""A row of results: ours and a peer's, and under what they were measured."""

from __future__ import annotations

from typing import Any

import torch
import transformers


def row(name: str, ours: float, peer: float, unit: str, n: int, **setting: Any) -> dict[str, Any]:
    """What goes into the JSON file; versions and threads are added to the setting."""
    versions = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    return {
        "name": name,
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "unit": unit,
        "n": n,
        "setting": setting | versions,
    }
