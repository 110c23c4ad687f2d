"""One short step on the real model, to correct the memory model by what it took."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from ropewalk.common.errors import UserError
from ropewalk.planning.measure import peak_bytes
from ropewalk.planning.memory import Correction, Serving, Training, serving, training
from ropewalk.planning.shapes import Shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

SHORT = {"cuda": 2048, "cpu": 512}
RESIDENT = ("weights", "gradients", "optimizer")


@dataclass(frozen=True)
class Calibration:
    """What the short step showed.

    Attributes:
        correction: measured over predicted bytes of what comes and goes.
        device: where it ran.
        length: tokens of the step.
        seconds: of one forward and backward pass, recomputation included.
        measured: moment -> bytes beyond weights and gradients.
        predicted: the same, before the correction.
    """

    correction: Correction
    device: str
    length: int
    seconds: float
    measured: dict[str, int]
    predicted: dict[str, int]


def calibrate(model: PreTrainedModel, shapes: Shapes, window: int) -> Calibration:
    """Run a checkpointed step without and with the loss, and a prefill, on ``model``.

    Gradients are kept from one pass to the next, as in gradient accumulation, and freed at the end; training mode and
    frozen weights are put back.

    Raises:
        UserError: if weights and gradients of the model do not fit the device.
    """
    import torch

    device = model.device
    length = min(window, SHORT.get(device.type, SHORT["cpu"]))
    ids = torch.randint(
        0, shapes.vocabulary, (1, length), device=device, generator=torch.Generator(device).manual_seed(0)
    )
    name = str(model.dtype).removeprefix("torch.")
    how = Training(dtype=cast(Literal["bfloat16", "float16", "float32"], name), checkpointing=True)
    was_training, state = model.training, [p.requires_grad for p in model.parameters()]
    try:
        model.train().requires_grad_(True)
        _checkpointing(model, True)
        with_loss, body = _step(model, ids), _body(model, ids)
        with_loss()
        began = time.perf_counter()
        with_loss()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        measured = {"layer": peak_bytes(body, device), "step": peak_bytes(with_loss, device)}
        _checkpointing(model, False)
        measured["prefill"] = peak_bytes(_prefill(model.eval(), ids), device)
    except torch.OutOfMemoryError:
        raise UserError(
            f"one step of {length:,} tokens with all gradients does not fit on {device}",
            "Leave --calibrate out: the plan without it needs only the configuration.",
        ) from None
    finally:
        _checkpointing(model, False)
        model.zero_grad(set_to_none=True)
        model.train(was_training)
        for parameter, wanted in zip(model.parameters(), state, strict=True):
            parameter.requires_grad_(wanted)
    parts = training(shapes, how, length, Correction(loss=0.0)).parts
    inputs = parts["layer inputs"]
    loss = training(shapes, how, length, Correction(layer=0.0)).parts["logits and loss"]
    cached = sum(n * layer.key_value * layer.seen(length) for layer, n in shapes.layers) * model.dtype.itemsize
    prefill = serving(shapes, Serving(weights=name, cache=name), length).parts["prefill"]
    layer = sum(size for part, size in parts.items() if part not in RESIDENT) - inputs
    loss_shows = measured["step"] > measured["layer"]  # else the layer's peak hides it
    correction = Correction(
        layer=_ratio(measured["layer"] - inputs, layer),
        loss=_ratio(measured["step"] - inputs, loss) if loss_shows else 1.0,
        prefill=_ratio(measured["prefill"] - cached, prefill),
    )
    predicted = {"layer": inputs + layer, "step": inputs + max(layer, loss), "prefill": cached + prefill}
    return Calibration(correction, str(device), length, seconds, measured, predicted)


def _checkpointing(model: Any, on: bool) -> None:
    verb = "enable" if on else "disable"
    old, new = f"gradient_checkpointing_{verb}", f"activation_checkpointing_{verb}"  # renamed within transformers 5
    getattr(model, new if hasattr(model, new) else old)()


def _ratio(measured: int, predicted: int) -> float:
    return max(0.1, measured / predicted)


def _step(model: PreTrainedModel, ids: Any) -> Callable[[], object]:
    return lambda: model(input_ids=ids, labels=ids, use_cache=False).loss.backward()


def _body(model: PreTrainedModel, ids: Any) -> Callable[[], object]:
    return lambda: model.base_model(input_ids=ids, use_cache=False).last_hidden_state.sum().backward()


def _prefill(model: PreTrainedModel, ids: Any) -> Callable[[], object]:
    import torch

    @torch.no_grad()
    def work() -> object:
        return model(input_ids=ids, use_cache=True, logits_to_keep=1)

    return work
