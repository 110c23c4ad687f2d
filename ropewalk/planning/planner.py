"""What it takes to bring a model to a length: methods, factors, memory, time, and the commands to run next."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.write import extended_config, extension_notes, unchanged
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show
from ropewalk.common.results import Result
from ropewalk.methods.catalogue import method
from ropewalk.planning import advice, memory
from ropewalk.planning.advice import Ladder, MethodAdvice
from ropewalk.planning.calibrate import Calibration, calibrate
from ropewalk.planning.cost import MFU, Cost, cost
from ropewalk.planning.hardware import DEFAULT, GIB, gpu, parse_memory, usable
from ropewalk.planning.memory import Correction, Serving, Training
from ropewalk.planning.published import SHORT_TAX, Published
from ropewalk.planning.shapes import Shapes, shapes
from ropewalk.rope.config import full_attention, text_config

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedConfig

FIRST = "yarn"  # the method to begin with, where it can be saved


@dataclass(frozen=True, repr=False)
class Plan(Result):
    """What ``ropewalk plan`` shows.

    Attributes:
        model: as the user named it.
        architecture: class name in the configuration, or the model type.
        shapes: parameters and widths.
        window: pretrained window in tokens.
        length: length in tokens that the configuration promises now.
        target: length wanted.
        scale: target over window: the smallest factor that covers the need.
        device: name of the accelerator, or the memory given.
        gpus: how many.
        part: how much of each card is used, where less than all of it was asked for; empty otherwise.
        room: bytes that tensors can have on each.
        mfu: share of the peak assumed for times.
        methods: what every method would write, and what was published about it.
        serving: from a plain start to settings that fit the target.
        training: the same for a training step on sequences of the target's length.
        devices_needed: of these devices, for that training; None if ``gpus`` are enough or no usual number is.
        skip_wise: the same for sequences of the window's length with skipping positions; None where that is the target.
        cost: of the target's length; ``skip_wise_cost`` of the window's.
        calibration: what a short step on the model showed, if one was run.
        notes: what to know before choosing.
        short_tax: published costs for short texts of a factor that is always on.
        commands: to run next.
        page: that shows it; empty if none was asked for.
    """

    model: str
    architecture: str
    shapes: Shapes
    window: int
    length: int
    target: int
    scale: float
    device: str
    gpus: int
    part: str
    room: int
    mfu: float
    methods: list[MethodAdvice]
    serving: Ladder[Serving]
    training: Ladder[Training]
    devices_needed: int | None
    skip_wise: Ladder[Training] | None
    cost: Cost
    skip_wise_cost: Cost | None
    calibration: Calibration | None
    notes: list[str]
    short_tax: tuple[Published, ...]
    commands: list[str]
    page: str = ""

    def show(self, console: Console) -> None:
        from ropewalk.planning.plan_view import show

        show(self, console)

    def to_dict(self) -> dict[str, Any]:
        content = asdict(self)
        for name in ("serving", "training", "skip_wise"):
            ladder = getattr(self, name)
            if ladder is not None:
                content[name] |= {"best": ladder.best, "total": ladder.memory.total}
        content["shapes"] |= {"parameters": self.shapes.parameters, "active_parameters": self.shapes.active_parameters}
        return content


def plan(
    model: str | Path | Checkpoint,
    to: int,
    device: str | None = None,
    memory_size: str | None = None,
    gpus: int = 1,
    tokens: float = 1e9,
    mfu: float = MFU,
    calibrated: bool = False,
    trust_remote_code: bool = False,
) -> Plan:
    """Plan the way of a model to ``to`` tokens; only its configuration is read.

    Args:
        model: folder, config.json, hub id or ``demo``.
        to: target length in tokens.
        device: name of an accelerator, as in ``planning.hardware``.
        memory_size: memory of one device ("24G"), at most what it has; without a device there are no times.
        gpus: how many devices.
        tokens: to train on.
        mfu: share of the devices' peak to assume.
        calibrated: load the model, run one short step, and correct the memory model by it.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        UserError: naming the argument or the configuration's key, and the mend.
    """
    if gpus < 1:
        raise UserError(f"gpus is {gpus}, expected 1 or more")
    if not 0 < mfu <= 1:
        raise UserError(f"mfu is {mfu:g}, expected a share of the peak, above 0 and at most 1", "Write --mfu 0.4.")
    chosen = gpu(device or DEFAULT) if memory_size is None or device else None
    size = parse_memory(memory_size) if memory_size is not None else chosen.memory if chosen else 0
    if chosen and size > chosen.memory:
        raise UserError(
            f"memory is {memory_size}, and one {chosen.name} has {chosen.memory / GIB:.0f} GiB",
            "Leave --memory out, or say less.",
        )
    room = usable(size)
    checkpoint = Checkpoint.open(model, trust_remote_code)
    config, window, promised, name = checkpoint.config, checkpoint.window, checkpoint.promised, checkpoint.name
    _check_target(to, window, name)
    numbers = shapes(config)
    calibration = None
    if calibrated:
        calibration = calibrate(checkpoint.load(), numbers, window)
    correction = calibration.correction if calibration else Correction()

    def step(how: Training, length: int) -> memory.Memory:
        return memory.training(numbers, how, length, correction)

    def request(how: Serving, length: int) -> memory.Memory:
        return memory.serving(numbers, how, length, correction)

    switches = advice.training_switches(numbers, gpus)
    serve = advice.climb(Serving(), advice.serving_switches(numbers, gpus), request, to, room)
    train = advice.climb(Training(), switches, step, to, room)
    longer = to > window

    def enough(devices: int) -> bool:
        return advice.climb(Training(), advice.training_switches(numbers, devices), step, to, room).fits

    listed = advice.methods(config, to, to / window) if longer else []
    first, refusals = _reaching(config, to, listed) if longer else ("", [])
    commands, why = _next(checkpoint, to, first) if longer else ([command("inspect", name)], [])
    return Plan(
        model=name,
        architecture=str((config.architectures or [config.model_type])[0]),
        shapes=numbers,
        window=window,
        length=promised,
        target=to,
        scale=to / window,
        device=chosen.name if chosen else str(memory_size),
        gpus=gpus,
        part=f"{memory_size} of its {chosen.memory / GIB:.0f} GiB" if chosen and size < chosen.memory else "",
        room=room,
        mfu=mfu,
        methods=listed,
        serving=serve,
        training=train,
        devices_needed=None if train.fits else advice.devices_needed(enough, gpus),
        skip_wise=advice.climb(Training(), switches, step, window, room) if longer else None,
        cost=cost(numbers, to, tokens, chosen, gpus, mfu, serve.how),
        skip_wise_cost=cost(numbers, window, tokens, chosen, gpus, mfu, serve.how) if longer else None,
        calibration=calibration,
        notes=[
            *checkpoint.notes,
            *([checkpoint.unwritten.warning] if checkpoint.unwritten else []),
            *_standing(checkpoint, to, first),
            *_notes(config, numbers, window, to),
            *refusals,
            *why,
        ],
        short_tax=SHORT_TAX if longer else (),
        commands=commands,
    )


def _check_target(to: int, window: int, model: str) -> None:
    if to < window:
        raise UserError(
            f"target {to:,} is shorter than the pretrained window of {window:,} tokens of {model}",
            f"Say --to {show(window)} or more; shorter inputs already fit.",
        )
    if to > memory.LONGEST:
        raise UserError(
            f"target {to:,} is past {memory.LONGEST:,} tokens, where float32 positions stop being whole numbers",
            f"Say --to {show(memory.LONGEST)} or less.",
        )


def _standing(checkpoint: Checkpoint, to: int, first: str) -> list[str]:
    """What is to know of a rope that is extended already, and what ``first``, the method to begin with, makes of it."""
    if checkpoint.promised <= checkpoint.window:
        return []
    full = full_attention(checkpoint.specs)
    had = ", ".join(dict.fromkeys(spec.scaling for spec in full if not spec.is_plain))
    what = "that covers the target"
    if checkpoint.promised < to:
        what = extension_notes(checkpoint.config, method(first), to)[0] if first else "no method extends it"
    return [f"the configuration already extends the window to {checkpoint.promised:,} tokens ({had}): {what}"]


def _notes(config: PreTrainedConfig, numbers: Shapes, window: int, to: int) -> list[str]:
    notes = []
    if to > window:
        notes.append(
            f"two profiles: a factor that is always on also changes short texts, so keep serving the original up to "
            f"{window:,} tokens and send only longer requests to the extended copy (its weights are linked, not copied)"
        )
    if text_config(config) is not config:
        notes.append("the language model alone is counted; what reads pictures or sound comes on top")
    quantised = getattr(config, "quantization_config", None)
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        notes.append(
            f"the checkpoint is quantised ({method}); weights are counted as bfloat16 where no switch says else"
        )
    layers = [layer for layer, _ in numbers.layers]
    bounded = [n for layer, n in numbers.layers if layer.window is not None]
    if bounded and all(layer.window is not None for layer in layers):
        notes.append(
            f"every layer sees at most {max(layer.window or 0 for layer in layers):,} tokens back: no method makes it "
            "look further"
        )
    elif bounded and numbers.fused_attention:
        notes.append(
            f"{sum(bounded)} sliding-window layers: with sdpa transformers holds a mask of {to**2 / 2**30:,.3g} GiB "
            "for one such sequence; train with flash attention (attn_implementation='flash_attention_2')"
        )
    if not numbers.fused_attention:
        notes.append(
            f"without flash or flex attention transformers holds all attention scores of {numbers.model_type}, which "
            "grow with the square of the length; the numbers here assume such a kernel"
        )
    if any(layer.cached < layer.key_value for layer in layers):
        expanded = sum(n * 2 * layer.key_value * layer.seen(to) for layer, n in numbers.layers)
        notes.append(
            f"the cache counts latents, as vLLM and SGLang keep them; transformers keeps {expanded / 2**30:,.4g} GiB"
        )
    return notes


def _next(checkpoint: Checkpoint, to: int, method: str) -> tuple[list[str], list[str]]:
    """The commands that run next, and notes on those that do not: what would refuse them is asked first."""
    words = [checkpoint.name, "--to", show(to), *(["--trust-remote-code"] if checkpoint.trust_remote_code else [])]
    compare, needs = ["ropewalk", "compare", *words], checkpoint.unwritten
    if needs is not None:  # what has not its rope is not measured
        lines = [[*compare, "--methods", ",".join([needs.method, *[method] * bool(method)])]]
    else:
        lines = [compare if method == FIRST else [*compare, "--methods", method or "none"]]
    lines += [["ropewalk", "extend", *words, "--method", method]] if method else []
    commands = [shlex.join(line) for line in lines]
    try:
        if Path(checkpoint.place).expanduser().exists():  # what the hub has is not fetched for this
            _ = checkpoint.weights
            checkpoint.refuse_renamed()
            checkpoint.tokenizer()
    except UserError as error:
        return [], [f"before anything can be run: {error.message}; then {' and '.join(commands)}"]
    return commands, []


def _reaching(config: PreTrainedConfig, to: int, listed: list[MethodAdvice]) -> tuple[str, list[str]]:
    """The method to begin with, as ``extend`` would take it; empty, and why, if it would take none."""
    refused: list[str] = []
    written = [one.id for one in listed if one.written]
    for name in [FIRST, *(one for one in written if one != FIRST)]:
        chosen = method(name)
        try:
            extended_config(config, chosen, to)
        except UserError as error:
            refused.append(error.message)
            continue
        if not unchanged(config, chosen, to):
            return name, refused[:1]
    why = refused[0] if refused else "no method changes a frequency of this model"
    return "", [f"{why}; measure it as it is on longer text"]
