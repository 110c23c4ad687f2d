"""What it takes to bring an embedding model to a length: methods, the work of one text, the commands to run next."""

from __future__ import annotations

import weakref
from collections.abc import Set
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from ropewalk.attention import soundness
from ropewalk.attention.regions import Layer
from ropewalk.common.command_lines import command, setting
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show
from ropewalk.common.results import Result, columns, sentences
from ropewalk.encoders.encoder_entries import ENCODER_METHODS, FITTING
from ropewalk.encoders.encoder_extension import refuse_unwritable
from ropewalk.encoders.encoder_folder import ENCODER_CLASSES
from ropewalk.encoders.encoder_method import encoder_methods
from ropewalk.encoders.encoder_methods.pooled_chunks import PooledChunks
from ropewalk.encoders.encoder_methods.stretch import KnowledgePreservingStretch
from ropewalk.encoders.families import BIAS, ROPE, TABLE, UNKNOWN
from ropewalk.methods.catalogue import BY_NAME
from ropewalk.planning import advice
from ropewalk.planning.plan_view import Choice, show_choices
from ropewalk.rope.config import load_config, quiet

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedConfig

    from ropewalk.encoders.encoder_folder import EncoderFolder

FIRST = {TABLE: "recurrent", ROPE: "yarn", BIAS: "uncut"}  # the method to begin with
MILLION = 2**20
AROUND = 8  # rows of a table that no text reaches, at most
ENDLESS = 2**62


@dataclass(frozen=True)
class Work:
    """What one text costs in one forward pass of the encoder, in float32, as transformers runs it on a CPU.

    Attributes:
        tokens: of the text.
        flops: of matrix products and attention, a multiplication and an addition being two.
        bytes: most that is held beside the weights.
    """

    tokens: int
    flops: int
    bytes: int


@dataclass(frozen=True, repr=False)
class EncoderPlan(Result):
    """What ``ropewalk plan`` shows of an embedding model.

    Attributes:
        model: as the user named it.
        positions: what decides how far it reads: "table", "rope" or "bias".
        window: tokens that this is for; None of a bias, which ends nowhere.
        reads: tokens at which texts are cut; None if they are not.
        target: length wanted.
        parameters: of the encoder.
        work: of a text as long as is read now, and of one of the target's length.
        methods: that reach it, and ways of reading.
        notes: what to know before choosing.
        commands: to run next.
    """

    model: str
    positions: str
    window: int | None
    reads: int | None
    target: int
    parameters: int
    work: tuple[Work, Work]
    methods: list[Choice]
    notes: list[str]
    commands: list[str]

    def show(self, console: Console) -> None:
        now, then = self.work
        console.print(f"{self.model}: {now.tokens:,} -> {self.target:,} tokens, by a {self.positions}", style="bold")
        table = columns("one text", ">tokens", ">GFLOP", ">MiB beside the weights")
        for name, one in (("now", now), ("target", then)):
            table.add_row(name, f"{one.tokens:,}", f"{one.flops / 1e9:,.1f}", f"{one.bytes / MILLION:,.1f}")
        console.print(table)
        sentences(
            console,
            f"{then.flops / now.flops:,.1f} times the work for {then.tokens / now.tokens:,.1f} times the tokens; "
            f"weights {4 * self.parameters / MILLION:,.0f} MiB in float32",
        )
        show_choices(self.methods, console)
        sentences(console, *self.notes)
        console.print("\nNext", style="bold")
        for line in self.commands:
            console.print(line)

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "work": [asdict(one) for one in self.work], "methods": [asdict(m) for m in self.methods]}


def plan_encoder(folder: EncoderFolder, to: int) -> EncoderPlan:
    """Plan the way of one to ``to`` tokens; only its configuration is read.

    Raises:
        UserError: naming key, value seen, value expected and the mend.
    """
    folder.refuse_unsound()
    window, reads = folder.window, folder.reads
    now = window or reads
    if folder.positions == UNKNOWN or now is None:
        raise UserError(
            f"what model type {folder.model_type} ({folder.name}) knows of positions is unknown here, or nothing says "
            "how many tokens it reads",
            f"Look what its files say: {command('inspect', folder.name)}",
        )
    cut = now if reads is None else min(now, reads)
    if to <= cut:
        raise UserError(
            f"the target of {to:,} tokens is not beyond the {cut:,} that it reads",
            f"Say --to {show(2 * cut)}, or more.",
        )
    config = load_config(str(folder.encoder))
    parameters, before = work(config, cut)
    held = window is not None and to <= window  # by the table or the rope as it is
    if held and folder.positions == ROPE:
        raise UserError(
            f"the target of {to:,} tokens is within the {window:,} that the rope of {folder.name} is for, though texts "
            f"are cut at {cut:,}: there is nothing to extend",
            "Raise the limit: " + setting(folder.name, {key: to for key, at in folder.told.items() if at < to}),
        )
    first = FIRST[BIAS] if held else FIRST[folder.positions]
    refuse_unwritable(folder, to, encoder_methods(first, folder.positions))
    methods = _choices(folder, config, to, now, first)
    return EncoderPlan(
        folder.name, folder.positions, window, reads, to, parameters, (before, work(config, to)[1]),
        methods, [*folder.notes, *_notes(folder, {one.id for one in methods})],
        [
            command("compare", folder.name, "--to", show(to)),
            command("extend", folder.name, "--to", show(to), "--method", first),
        ],
    )  # fmt: skip


def _choices(folder: EncoderFolder, config: PreTrainedConfig, to: int, window: int, first: str) -> list[Choice]:
    """Methods that a folder can say and that reach the target, by themselves or with the first, and ways of reading."""
    found = []
    if folder.positions == ROPE:
        for one in advice.methods(config, to, to / window):
            entry = BY_NAME[one.id]
            if "fit first" in one.why_not or entry.kind not in ("frequencies", "positions"):
                continue
            if entry.kind == "frequencies" or _mirrors(entry.load()(), window, to):
                found.append(Choice(one.id, entry.summary, one.written or f"no: {one.why_not}"))
    for ours in ENCODER_METHODS:
        if ours.axis not in FITTING[folder.positions] or not ours.axis:
            continue
        spellings = [ours.id] if ours.axis != "logits" else [ours.id, f"{first}+{ours.id}"]
        if ours.axis == "reading":
            reach = spellings if folder.pools_by_mean or ours.id != PooledChunks.name else []
        else:
            reach = [spelled for spelled in spellings if _writes(folder, to, spelled)]
        found += [Choice(spelled, ours.summary, ours.exportable) for spelled in reach[:1]]
    return found


def _writes(folder: EncoderFolder, to: int, spelled: str) -> bool:
    """Whether ``extend`` does."""
    try:
        refuse_unwritable(folder, to, encoder_methods(spelled, folder.positions))
    except UserError:
        return False
    return True


def _mirrors(chosen: Any, window: int, to: int) -> bool:
    """Whether a method of positions looks both ways."""
    try:
        soundness.mirrored(chosen.id, chosen.regions(Layer(0, window, to, heads=1, kv_heads=1)), to)
    except UserError:
        return False
    return True


def _notes(folder: EncoderFolder, methods: Set[str]) -> list[str]:
    if folder.positions == BIAS:
        return []
    kept = " and ".join(f"{one}'s" for one in ("recurrent", "uncut") if one in methods)
    but = f" but {kept}" if kept else ""
    notes = [f"in code, texts of the window or less are read as before; a folder{but} reads every text otherwise"]
    if "stretch" in methods and folder.family is not None and folder.family.causal:
        keep = KnowledgePreservingStretch.keep
        notes = [f"{notes[0]}, but stretch's one of up to {keep} tokens"]
    return notes


def work(config: PreTrainedConfig, tokens: int) -> tuple[int, Work]:
    """Parameters, and what a forward over ``tokens`` tokens does: counted on tensors without values.

    Raises:
        UserError: if the model cannot be laid out so.
    """
    import copy

    own = copy.deepcopy(config.text_config if config.model_type == "clip" else config)  # images cost apart
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counted = FlopCounterMode(display=False, custom_mapping={flash: _attention_flops})
    try:
        with quiet(), FakeTensorMode(), torch.no_grad():
            model = _laid_out(own)
            parameters = sum(one.numel() for one in model.parameters())
            if getattr(own, "max_position_embeddings", ENDLESS) < tokens + AROUND:  # a table as long as the text
                own.max_position_embeddings = tokens + AROUND
                model = _laid_out(own)
            ids = torch.zeros(1, tokens, dtype=torch.long)
            with counted, _Held() as held:
                model(input_ids=ids)
    except Exception as error:  # transformers raises many kinds here, all of them about the configuration
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"no encoder can be laid out from this configuration (model_type {config.model_type!r}): {reason}",
            "Measure it instead: ropewalk compare.",
        ) from None
    return parameters, Work(tokens, int(counted.get_total_flops()), held.most)


def _laid_out(config: PreTrainedConfig) -> torch.nn.Module:
    """The model that sentence-transformers loads, without values."""
    import transformers
    from transformers.initialization import no_init_weights

    with no_init_weights():
        kind = ENCODER_CLASSES.get(config.model_type)
        model = transformers.AutoModel.from_config(config) if kind is None else getattr(transformers, kind)(config)
        model.tie_weights()
    laid: torch.nn.Module = model.eval()
    return laid


def _attention_flops(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


class _Held(TorchDispatchMode):
    """Bytes of the tensors that are made and not yet let go of.

    Attributes:
        most: that were held at one moment.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        out = function(*arguments, **(keywords or {}))
        for one in tree_leaves(out):
            if isinstance(one, torch.Tensor) and (storage := one.untyped_storage()) not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._gone, storage.nbytes())
        return out

    def _gone(self, size: int) -> None:
        self.now -= size
