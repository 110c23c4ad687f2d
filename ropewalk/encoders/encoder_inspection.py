"""What an embedding model's files say about the length of its texts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ropewalk.checkpoint.inspection_view import show_ropes, show_verdict
from ropewalk.common.errors import cut
from ropewalk.common.files import record_in
from ropewalk.common.results import Result, sentences
from ropewalk.encoders.encoder_folder import EncoderFolder
from ropewalk.encoders.families import ROPE
from ropewalk.rope.config import spec_to_json

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.rope.problems import Problem
    from ropewalk.rope.spec import RopeSpec


@dataclass(frozen=True, repr=False)
class EncoderInspection(Result):
    """What ``ropewalk inspect`` shows of an embedding model.

    Attributes:
        model: as the user named it.
        architecture: class name in the configuration, or the model type.
        modules: of sentence-transformers, in order; empty of an encoder alone.
        poolings: how token states become one vector; empty where nothing says it.
        positions: what the encoder knows of them: "table", "table, bias by distance", "bias by distance", "rope".
        window: rows of the table, or what the rope is for, in tokens; None if there is neither.
        reads: tokens at which texts are cut; None if they are not.
        limits: ``FILE:key`` -> tokens, where a limit is stated.
        layers: of the encoder.
        dimensions: of a token's state.
        prompts: by name.
        extended_by: the method that ropewalk applied, if it did.
        problems: misconfigurations; empty for a sound model.
        notes: what else to know.
        ropes: layer type -> RopeSpec, of an encoder that rotates.
        wrote: file that was changed -> where its old content is.
    """

    model: str
    architecture: str
    modules: list[str]
    poolings: list[str]
    positions: str
    window: int | None
    reads: int | None
    limits: dict[str, int]
    layers: int | None
    dimensions: int | None
    prompts: dict[str, str]
    extended_by: str | None
    problems: list[Problem]
    notes: list[str]
    ropes: dict[str, RopeSpec] = field(default_factory=dict)
    wrote: dict[str, str] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not self.problems

    def show(self, console: Console) -> None:
        for file, old in self.wrote.items():
            console.print(f"wrote {file}; what it was is in {old}")
        console.print(Text(cut(self.architecture), "bold"), f"  {self.model}", sep="")
        unit = "tokens" if self.ropes else "rows"
        rows = "" if self.window is None else f" of {self.window:,} {unit}"
        sentences(console, f"positions: {self.positions}{rows}; {self.layers} layers, {self.dimensions} dimensions")
        by = f", extended by ropewalk with {self.extended_by}" if self.extended_by else ""
        sentences(console, f"texts are cut at {self.reads:,} tokens{by}" if self.reads else f"texts are not cut{by}")
        pooled = f"pooled by {' and '.join(self.poolings)}" if self.poolings else "no module says how it pools"
        sentences(console, f"{' > '.join(self.modules) or 'an encoder alone'}; {pooled}")
        if self.ropes:
            show_ropes(self.ropes, console)
        for name, text in self.prompts.items():
            if text:
                console.print(f"prompt {name}: {cut(repr(text))}")
        show_verdict(self.notes, self.problems, self.sound, console)

    def to_dict(self) -> dict[str, Any]:
        ropes = {key: spec_to_json(spec) for key, spec in self.ropes.items()}
        return {**vars(self), "ropes": ropes, "problems": [asdict(one) for one in self.problems]}


def inspect_encoder(folder: EncoderFolder) -> EncoderInspection:
    """Inspect one; of its weights only the names are read.

    Raises:
        UserError: if a file cannot be read, or the pooling is none that is known.
    """
    config, family = folder.config, folder.family
    kinds = [word for word, there in (("table", family and family.table), ("bias by distance", family and family.bias))
             if there]  # fmt: skip
    made = record_in(folder.path)
    return EncoderInspection(
        model=folder.name,
        architecture=str((folder.written.get("architectures") or [folder.model_type])[0]),
        modules=[part.kind for part in folder.parts],
        poolings=list(folder.poolings),
        positions=", ".join(kinds)
        or (ROPE if folder.positions == ROPE else f"unknown here (model type {folder.model_type})"),
        window=folder.window,
        reads=folder.reads,
        limits=folder.limits,
        layers=_number(config, "num_hidden_layers", "n_layers", "num_layers"),
        dimensions=_number(config, "hidden_size", "dim", "d_model"),
        prompts=dict(folder.prompts),
        extended_by=made.get("method"),
        problems=folder.problems,
        notes=folder.notes,
        ropes=dict(folder.rotating.specs) if folder.positions == ROPE else {},
    )


def _number(config: Any, *keys: str) -> int | None:
    return next((config[key] for key in keys if isinstance(config.get(key), int)), None)
