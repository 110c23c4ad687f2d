"""A row of results: ours and a peer's, and under what they were measured."""

from __future__ import annotations

from typing import Any

import torch
import transformers


def row(name: str, ours: float, peer: float, unit: str, n: int, **setting: Any) -> dict[str, Any]:
    """What goes into the JSON file; versions and threads are added to the setting.

    ``ratio`` is ours / peer, in every file: below 1 is better of what is spent (time, memory, tokens read, points of
    error), above 1 of what is got (tokens or samples per second).
    """
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
