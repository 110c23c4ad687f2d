"""What it takes to bring a model to a length."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from ropewalk.common import lengths
from ropewalk.verbs.request import Count, ModelRequest, Place, Spelling, TargetRequest, verb

if TYPE_CHECKING:
    from ropewalk.encoders.encoder_plan import EncoderPlan
    from ropewalk.planning.carrier_plan import CarrierPlan
    from ropewalk.planning.planner import Plan


def _tokens(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TypeError
    return lengths.tokens(value)


Tokens = Annotated[float, Spelling(str | float, _tokens, "{:.0f}".format, "NUMBER")]  # 500M, 1B


@dataclass(frozen=True, kw_only=True)
class PlanRequest(TargetRequest, ModelRequest):
    """With what.

    Attributes:
        gpu: The accelerator: h100-80gb (the default), h200, a100-80gb, rtx4090, ...; an unknown name lists all.
        memory: Memory of one device, with its unit: 24G; with ``gpu``, the part of it that may be used. Without ``gpu``
            there are no times.
        gpus: How many devices.
        tokens: How many to train on, for the time that it takes: 500M, 1B.
        mfu: Share of the devices' peak that a run reaches, for the times.
        calibrate: Load the model, run one short training step and a prefill, and correct the memory model by what they
            took.
        out: HTML page to write.
        overwrite: Replace a page that is there.
    """

    gpu: str | None = None
    memory: str | None = None
    gpus: Count = 1
    tokens: Tokens = 1e9
    mfu: float = 0.4
    calibrate: bool = False
    out: Place | None = None
    overwrite: bool = False


@verb("plan")
def plan(request: PlanRequest) -> Plan | EncoderPlan | CarrierPlan:
    """Say which methods reach a length, what memory and time they take, and what to run. Needs only the configuration.

    Returns:
        The plan: window, factor, methods with what was published of them, memory, cost, and the commands to run next.
        Of an embedding model the methods that fit it, and what one text costs; of a model without a rope the methods
        that fit it, and its cache.

    Raises:
        UserError: naming the option or the configuration's key, and the mend.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is loaded: its profiler is silent about itself
    from ropewalk.carriers import carrier as carriers
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.common.files import file_to_write, is_page
    from ropewalk.encoders.encoder_folder import EncoderFolder, is_encoder
    from ropewalk.planning.planner import plan as make

    checkpoint = Checkpoint(request.model, request.trust_remote_code)
    if is_encoder(checkpoint):
        from ropewalk.encoders.encoder_plan import plan_encoder

        of_writers = ["gpu", "memory", "gpus", "tokens", "mfu", "calibrate", "out", "overwrite", "trust_remote_code"]
        request.refuse_unused(of_writers, "of an embedding model")
        return plan_encoder(EncoderFolder(checkpoint), request.to)
    if carriers.has_none(checkpoint.raw):
        from ropewalk.planning.carrier_plan import plan_carrier

        of_ropes = ["gpu", "memory", "gpus", "tokens", "mfu", "calibrate", "out", "overwrite", "trust_remote_code"]
        request.refuse_unused(of_ropes, "of a model without a rope")
        return plan_carrier(checkpoint, request.to)
    if request.out is not None:
        file_to_write(request.out, is_page, [], request.overwrite)  # mistakes show before anything is computed

    made = make(
        request.model,
        request.to,
        request.gpu,
        request.memory,
        request.gpus,
        request.tokens,
        request.mfu,
        request.calibrate,
        request.trust_remote_code,
    )
    if request.out is None:
        return made
    from ropewalk.planning.plan_page import page_of_plan

    page_of_plan(made).write(request.out, request.overwrite)
    return replace(made, page=str(request.out))
