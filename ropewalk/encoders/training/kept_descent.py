"""What a descent goes on from: one file of weights, the optimiser's moments and chance, and the losses so far."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.common.whole import new_file

KIND = "ropewalk descent"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of AdamW
CHANCE = "chance"


@dataclass(frozen=True)
class KeptDescent:
    """A file that a killed descent goes on from; it stays when the descent is over, until what it led to is saved.

    Attributes:
        path: of the file, .safetensors.
        asked: a hash of all that decides the descent.
        every: steps between two writings.
    """

    path: Path
    asked: str
    every: int = 50

    def load(self, learning: list[Tensor], optimiser: torch.optim.Optimizer) -> list[float]:
        """Take what is kept, in place; the losses of the steps that were done, of which there may be none.

        Raises:
            UserError: if the file is no descent's, of another one, or cannot be read.
        """
        if not self.path.exists():
            return []
        held, losses = self.read()
        with torch.no_grad():
            for i, one in enumerate(learning):
                one.copy_(held[f"weight {i}"])
        moments = {i: {name: held[f"{name} {i}"] for name in MOMENTS} for i in range(len(learning))}
        optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
        torch.set_rng_state(held[CHANCE])
        return losses

    def read(self) -> tuple[dict[str, Tensor], list[float]]:
        """What is kept, and the losses.

        Raises:
            UserError: as ``load``.
        """
        try:
            with safe_open(self.path, "pt") as file:
                notes = file.metadata() or {}
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise UserError(f"{self.path} cannot be read: {error}", "Remove it to begin anew.") from None
        if notes.get("kind") != KIND or notes.get("asked") != self.asked:
            raise UserError(
                f"{self.path} is of another descent: model, texts or recipe differ",
                "Name another file, or remove this one to begin anew.",
            )
        return held, [float(loss) for loss in json.loads(notes["losses"])]

    def save(self, learning: list[Tensor], optimiser: torch.optim.Optimizer, losses: list[float]) -> None:
        """Write the file in place of the one before.

        Raises:
            UserError: if it cannot be written.
        """
        state: dict[int, dict[str, Tensor]] = optimiser.state_dict()["state"]
        held = {f"weight {i}": one.detach() for i, one in enumerate(learning)}
        held |= {f"{name} {i}": state[i][name] for i in state for name in MOMENTS}
        held |= {CHANCE: torch.get_rng_state()}
        notes = {"kind": KIND, "asked": self.asked, "losses": json.dumps(losses)}
        with new_file(self.path, is_kept, [], overwrite=True) as file:
            save_file({name: one.contiguous().cpu().clone() for name, one in held.items()}, file, notes)


def is_kept(path: Path) -> bool:
    """Whether a file was written by a descent."""
    try:
        with safe_open(path, "pt") as file:
            notes: Any = file.metadata() or {}
    except (SafetensorError, OSError):
        return False
    return bool(notes.get("kind") == KIND)
