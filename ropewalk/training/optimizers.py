"""What turns gradients into weights: float32 masters, clipping, steps that are refused, and a state that comes back.

A bfloat16 weight has 8 bits: most updates of a training are smaller than half of its last one, and adding them changes
nothing. So a float32 master stands behind every such weight; the optimizer moves the master, and the weight is its
rounded copy. Weights that are float32 are their own masters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.extras import extra
from ropewalk.common.files import listed

OPTIMIZERS = ("adamw", "muon", "adamw-8bit")
TYPES = (torch.float32, torch.bfloat16)
IN_A_LAYER = re.compile(r"(^|\.)\d+\.")  # layers are numbered, embeddings and heads are not
FACTOR = re.compile(r"(^|\.)lora_")
MOMENTUM = 0.95
EPSILON = 1e-8

State = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """What became of the gradients of one step.

    Attributes:
        norm: their global norm, before clipping.
        taken: False if the norm is not finite, so that all weights stayed.
    """

    norm: float
    taken: bool


class Optimizer:
    """One of ``OPTIMIZERS`` over the trainable parameters of a model.

    Weight decay is on all with two dimensions and more, embeddings included, and not on norms and biases. ``muon``
    takes the matrices inside of layers, at the learning rate of AdamW (its updates have AdamW's root mean square), and
    AdamW the rest, factors of adapters included. ``adamw-8bit`` is that of bitsandbytes: tensors below 4,096 numbers
    keep float32 states.

    Args:
        parameters: names and parameters, as ``model.named_parameters()``; frozen ones are left out.
        name: one of ``OPTIMIZERS``.
        learning_rate: the peak.
        betas: of AdamW.
        weight_decay: decoupled, relative to the learning rate.
        clip: largest global norm of gradients; None for no clipping.
        offload: masters and states live in the memory of the CPU, where the step is made.
        float32_gradients: gradients of bfloat16 parameters add up in float32, from one backward pass to the next.
            ``DistributedDataParallel`` does not take them; sharded parameters have a type of their own for that.
        patience: steps in a row that may be refused, before the training is.

    Attributes:
        skipped: steps that were refused so far.

    Raises:
        UserError: for an unknown name, nothing to train, a type that it cannot train, or a package that is missing.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, nn.Parameter]],
        name: str = "adamw",
        *,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        clip: float | None = 1.0,
        offload: bool = False,
        float32_gradients: bool = True,
        patience: int = 10,
    ):
        self.parameters = {key: one for key, one in parameters if one.requires_grad}
        _refuse_untrainable(self.parameters, name)
        self.name, self.learning_rate, self.clip, self.patience = name, learning_rate, clip, patience
        self.skipped = self._in_a_row = 0
        self.masters = {key: _master(one, offload) for key, one in self.parameters.items()}
        if float32_gradients:
            for one in self.parameters.values():
                if not isinstance(one, DTensor):
                    one.grad_dtype = torch.float32
        matrices = [key for key in self.masters if name == "muon" and _is_matrix_of_a_layer(key, self.masters[key])]
        if name == "muon" and not matrices:
            raise UserError("muon is for matrices of layers, and none is trained", "Take optimizer adamw.")
        rest = [key for key in self.masters if key not in matrices]
        how: dict[str, Any] = {"lr": learning_rate}
        self._inner: list[torch.optim.Optimizer] = []
        if matrices:
            groups = self._groups(matrices, weight_decay)
            self._inner.append(torch.optim.Muon(groups, **how, momentum=MOMENTUM, adjust_lr_fn="match_rms_adamw"))
        if rest:
            kind: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW
            if name == "adamw-8bit":
                kind = extra("bitsandbytes", "8-bit optimizers").optim.AdamW8bit
            else:
                how["fused"] = all(one.device.type in ("cpu", "cuda") for one in self.masters.values())
            self._inner.append(kind(self._groups(rest, weight_decay), **how, betas=betas, eps=EPSILON))
        self._begin()

    def _groups(self, names: list[str], weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups: those that decay, and those that do not."""
        found = []
        for decays in (True, False):
            params = [self.masters[name] for name in names if _decays(name, self.masters[name]) is decays]
            found.append({"params": params, "weight_decay": weight_decay if decays else 0.0})
        return [group for group in found if group["params"]]

    def _begin(self) -> None:
        """Make all states, so that a checkpoint has where to load them to before the first step."""
        for inner in self._inner:
            for i, group in enumerate(inner.param_groups):
                for j, one in enumerate(group["params"]):
                    if isinstance(inner, torch.optim.Muon):
                        inner.state[one]["momentum_buffer"] = torch.zeros_like(one)
                    elif isinstance(inner, torch.optim.AdamW):
                        zero = torch.zeros((), device=one.device if group["fused"] else "cpu")
                        moments = {key: torch.zeros_like(one) for key in ("exp_avg", "exp_avg_sq")}
                        inner.state[one].update(step=zero, **moments)
                    else:
                        inner.init_state(group, one, i, j)  # type: ignore[attr-defined]

    @torch.no_grad()
    def step(self, factor: float = 1.0) -> Step:
        """Update the weights by their gradients, which are gone afterwards.

        Args:
            factor: of the peak learning rate, see ``schedule``.

        Returns:
            The norm, and whether the step was taken.

        Raises:
            UserError: if no parameter has a gradient, or ``patience`` steps in a row had no finite one.
        """
        for name, one in self.parameters.items():
            master, gradient = self.masters[name], one.grad
            one.grad = None
            master.grad = None if gradient is None else gradient.to(master.device, master.dtype)
        masters = [one for one in self.masters.values() if one.grad is not None]
        if not masters:
            raise UserError(
                f"none of the {len(self.masters)} trainable tensors has a gradient ({listed(self.masters)})",
                "Call backward first, on a loss that depends on them.",
            )
        total = nn.utils.get_total_norm([one.grad for one in masters if one.grad is not None])
        norm = float(total.full_tensor() if isinstance(total, DTensor) else total)
        if taken := math.isfinite(norm):
            self._update(masters, total, factor)
        for master in masters:
            master.grad = None
        self._in_a_row = 0 if taken else self._in_a_row + 1
        self.skipped += not taken
        if self._in_a_row >= self.patience:
            raise UserError(
                f"the gradients of {self._in_a_row} steps in a row were not finite (norm {norm}); their updates were "
                "skipped, and the weights are those of before",
                "Lower the learning rate, or look at the texts of these steps.",
            )
        return Step(norm, taken)

    def _update(self, masters: list[Tensor], total: Tensor, factor: float) -> None:
        if self.clip is not None:
            nn.utils.clip_grads_with_norm_(masters, self.clip, total)
        for inner in self._inner:
            for group in inner.param_groups:
                group["lr"] = self.learning_rate * factor
            inner.step()
        self._publish()

    @torch.no_grad()
    def _publish(self) -> None:
        """Round masters into the weights."""
        for name, one in self.parameters.items():
            if self.masters[name] is not one:
                one.copy_(self.masters[name])

    def _states(self) -> dict[str, State]:
        """Name -> what the optimizer remembers of it, itself."""
        of = {id(one): state for inner in self._inner for one, state in inner.state.items()}
        return {name: of[id(master)] for name, master in self.masters.items()}

    def state_dict(self) -> dict[str, Any]:
        """All that a training goes on from besides the weights, for ``torch.distributed.checkpoint``.

        Nested dictionaries of tensors under the parameters' names: the optimizer's own, not copies, so that a loading
        in place needs no second set.
        """
        tensors = {
            name: {
                key: value if isinstance(value, Tensor) else torch.tensor(value)
                for key, value in state.items()
                if not key.startswith("qmap")  # a constant of bitsandbytes
            }
            for name, state in self._states().items()
        }
        masters = {name: one for name, one in self.masters.items() if one is not self.parameters[name]}
        return {"state": tensors, "masters": masters, "skipped": torch.tensor([self.skipped, self._in_a_row])}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state_dict`` gave; weights with masters become their rounded copies.

        Raises:
            UserError: if it is not that of this optimizer over these parameters.
        """
        mine = self.state_dict()
        wanted, found = _flat(mine), _flat(state)
        for name in sorted(wanted.keys() ^ found.keys()):
            where = "lacks" if name in wanted else "has also"
            raise UserError(
                f"the state of the optimizer {where} {name!r}: it is of another optimizer than {self.name}, or of "
                "other parameters",
                "Go on with the settings that the checkpoint was made with.",
            )
        for name, value in found.items():
            if value.shape != wanted[name].shape or value.dtype != wanted[name].dtype:
                raise UserError(
                    f"the state of the optimizer has {name!r} as {value.dtype} {list(value.shape)}, expected "
                    f"{wanted[name].dtype} {list(wanted[name].shape)}",
                    "Go on with the model that the checkpoint was made with.",
                )
        for name, into in self._states().items():
            for key, value in state["state"][name].items():
                if isinstance(into[key], Tensor):
                    into[key].copy_(value)
                else:
                    into[key] = int(value)
        for name, value in state["masters"].items():
            self.masters[name].copy_(value)
        self.skipped, self._in_a_row = state["skipped"].tolist()
        self._publish()


def _refuse_untrainable(parameters: Mapping[str, nn.Parameter], name: str) -> None:
    if name not in OPTIMIZERS:
        raise UserError(
            f"optimizer is {name!r}, expected one of {', '.join(OPTIMIZERS)}{did_you_mean(name, OPTIMIZERS)}"
        )
    if not parameters:
        raise UserError("the model has no trainable parameters: all are frozen")
    for key, one in parameters.items():
        if one.dtype not in TYPES:
            raise UserError(
                f"parameter {key!r} is {one.dtype}, which is not trained here: its gradients vanish or overflow",
                "Load the model in bfloat16 or float32.",
            )
        if name == "adamw-8bit" and isinstance(one, DTensor):
            raise UserError(
                f"parameter {key!r} is sharded, and the 8-bit states of adamw-8bit belong to whole tensors",
                "Take optimizer adamw: sharding makes its states smaller, too.",
            )


def _master(one: nn.Parameter, offload: bool) -> Tensor:
    """The float32 tensor that the optimizer moves."""
    if one.dtype == torch.float32 and not offload:
        return one
    return one.detach().to(device="cpu" if offload else one.device, dtype=torch.float32, copy=True)


def _decays(name: str, one: Tensor) -> bool:
    return one.ndim > 1 and not name.endswith("bias")  # experts hold theirs together, [experts, width]


def _is_matrix_of_a_layer(name: str, one: Tensor) -> bool:
    return one.ndim == 2 and _decays(name, one) and bool(IN_A_LAYER.search(name)) and not FACTOR.search(name)


def _flat(state: Mapping[str, Any], prefix: str = "") -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        found |= {f"{prefix}{key}": value} if isinstance(value, Tensor) else _flat(value, f"{prefix}{key} ")
    return found
