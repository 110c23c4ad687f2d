"""A recipe: one frozen value that decides a training, but for the model, the texts and the target."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, get_type_hints

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.lengths import said
from ropewalk.methods.catalogue import method as method_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ropewalk.methods.base import Method
    from ropewalk.methods.memory.trained_memory import TrainedMemory
    from ropewalk.training.positions.training_positions import TrainingPositions

CHOICES: dict[str, tuple[str, ...]] = {
    "packing": ("none", "documents"),
    "scope": ("document", "sequence"),
    "optimizer": ("adamw", "muon", "adamw-8bit"),
    "schedule": ("constant", "linear", "cosine"),
    "trainable": ("all", "lora"),
    "quantise": ("none", "nf4"),
    "loss": ("token", "sample", "longpo"),
    "memory": ("plain", "selective", "checkpointed", "recurrent", "recurrent-checkpointed"),
    "dtype": ("auto", "float32", "bfloat16"),
}
LEAST = {
    "steps": 1, "batch": 1, "micro": 1, "rank": 1, "chunk": 1, "save_every": 1, "evaluate_every": 0, "warmup": 0,
    "seed": 0, "window": 2,
}  # fmt: skip


SEEDS = 2**32
RECIPE = "recipe.json"  # beside a checkpoint that one was trained by
OFFLOADED = ("activations", "optimizer")


@dataclass(frozen=True)
class Stage:
    """A part of a training: so many of its steps, under one rope, on samples of one reach.

    Attributes:
        steps: of the paper; a run of other length keeps the proportions.
        rope: tokens that the rope is made for, as a share of the target.
        reach: positions that samples come to, as a share of the target; 0: the pretrained window.
        batch: samples per step, as a multiple of the recipe's.
        method: the rope of this stage; empty: the recipe's.
        rate: its learning rate, as a multiple of the recipe's.
    """

    steps: int
    rope: float = 1.0
    reach: float = 1.0
    batch: float = 1.0
    method: str = ""
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A value on every axis of a training.

    Attributes:
        name: Of the paper's recipe that it began as.
        method: The rope, as in the catalogue: put on before the first step, and written into the checkpoint.
        positions: How samples are laid out: full, pose, cream, ...; options in brackets: pose(chunks=3).
        window: Tokens of a sample; by default what the positions say: the pretrained window, or for full the target.
        packing: none: a row is of one document; documents: rows are filled with documents, cut where a row ends.
        scope: What a token of a packed row sees: its document, or the whole sequence.
        attention: What is attended in training only, as in the catalogue: full, or s2-attention and the like.
        steps: Optimizer steps.
        stages: Parts of the training, in proportion to their steps.
        restart: Whether the schedule of the learning rate begins anew with each stage.
        batch: Samples per step, over all processes.
        micro: Samples per forward pass.
        optimizer: adamw, muon (matrices of layers; AdamW for the rest) or adamw-8bit.
        learning_rate: Peak of the learning rate.
        beta1: AdamW's, of the first moment.
        beta2: AdamW's, of the second moment.
        weight_decay: Of all weights that are trained, norms and biases aside.
        clip: Largest norm of a step's gradient; 0: no clipping.
        warmup: Steps until the learning rate's peak.
        warmup_from: Share of the peak that the warmup begins with.
        schedule: Learning rate after the warmup: constant, linear or cosine.
        floor: Share of the peak that the schedule ends with.
        trainable: all weights, or low-rank adapters: lora.
        rank: Rank of the adapters.
        alpha: Scale of the adapters: their product counts alpha / rank.
        dropout: Dropout of what the adapters read.
        targets: Linear maps that get adapters: attention, all, or names such as q_proj,v_proj.
        also: What is trained beside the adapters: embeddings, norms.
        quantise: none, or nf4: the frozen weights in four bits.
        loss: What a step is the mean over: every token, or every sample (of its tokens' mean); or longpo, over pairs of
            answers: the one to short evidence is preferred to the one to the whole text.
        longpo_beta: What log-probabilities count in the margin between two answers; of loss longpo.
        longpo_lambda: What the preference counts beside the chosen answer's own loss; of loss longpo.
        memory: plain; selective (layers are computed twice, but for attention); checkpointed (layers are computed
            twice); recurrent (activations of one chunk only; exact); recurrent-checkpointed (both).
        chunk: Tokens at a time, of memory recurrent.
        offload: What waits in the memory of the CPU: activations (layer inputs of checkpointed, keys and values of
            recurrent-checkpointed), optimizer (states and wide weights, which are moved there).
        tiled_mlp: MLPs over pieces of as many tokens as the model is wide, computed twice.
        dtype: Of the weights in a forward pass: auto (the checkpoint's), float32 or bfloat16; the optimizer's are wide.
        seed: Of order, positions, dropout and adapters.
        save_every: Steps between two states that a run can go on from.
        evaluate_every: Steps between two evaluations; 0: only before and after.
    """

    name: str = "own"
    method: str = "yarn"
    positions: str = "full"
    window: int | None = None
    packing: str = "none"
    scope: str = "document"
    attention: str = "full"
    steps: int = 1000
    stages: tuple[Stage, ...] = ()
    restart: bool = False
    batch: int = 8
    micro: int = 1
    optimizer: str = "adamw"
    learning_rate: float = 2e-5
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0
    warmup: int = 20
    warmup_from: float = 0.0
    schedule: str = "constant"
    floor: float = 0.0
    trainable: str = "all"
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("attention",)
    also: tuple[str, ...] = ()
    quantise: str = "none"
    loss: str = "token"
    longpo_beta: float = 0.1
    longpo_lambda: float = 0.01
    memory: str = "plain"
    chunk: int = 2048
    offload: tuple[str, ...] = ()
    tiled_mlp: bool = False
    dtype: str = "auto"
    seed: int = 0
    save_every: int = 100
    evaluate_every: int = 0

    def __post_init__(self) -> None:
        hints = get_type_hints(Recipe)
        for one in fields(self):
            self._check(one.name, hints[one.name])
        if self.stages and sum(stage.steps for stage in self.stages) < 1:
            raise UserError("stages have no steps")
        if self.scope == "sequence" and self.packing == "none":
            raise UserError(
                "scope is 'sequence', which changes nothing where a row is of one document", "Add packing=documents."
            )
        if self.packing != "none" and self.positions != "full":
            raise UserError(
                f"packing is {self.packing!r} with positions {self.positions!r}: those pick from one document",
                "Pack with positions full, or leave packing out.",
            )
        if self.paired and self.positions != "full":
            raise UserError(
                f"loss is longpo with positions {self.positions!r}: those drop tokens of an answer's context",
                "Say --positions full.",
            )
        for word in self.offload:
            if word not in OFFLOADED:
                raise UserError(
                    f"offload has {said(word)}, expected {' or '.join(OFFLOADED)}{did_you_mean(word, OFFLOADED)}"
                )
        if "activations" in self.offload and self.memory in ("plain", "recurrent"):
            raise UserError(
                f"activations are to be offloaded, and memory {self.memory} keeps all that is computed where it is",
                f"Say --memory {'recurrent-' * self.recurrent}checkpointed.",
            )
        if self.trainable == "all" and (self.quantise != "none" or self.also):
            raise UserError(
                "quantise and also go with adapters: the weights themselves are trained as they are",
                "Say trainable lora.",
            )

    def _check(self, name: str, hint: Any) -> None:
        value = getattr(self, name)
        if isinstance(value, list):
            value = tuple(value)
            object.__setattr__(self, name, value)
        if name == "name" and isinstance(value, str) and not re.fullmatch(r"[\w+.-]+", value):
            raise UserError(f"name is {said(value)}, expected letters, digits, '-' and '_': folders are named after it")
        if name in CHOICES and value not in CHOICES[name]:
            hint_ = did_you_mean(value, CHOICES[name]) if isinstance(value, str) else ""
            raise UserError(f"{name} is {said(value)}, expected one of {', '.join(CHOICES[name])}{hint_}")
        if name in LEAST and value is not None and (type(value) is not int or value < LEAST[name]):
            raise UserError(f"{name} is {said(value)}, expected a whole number from {LEAST[name]} on")
        if name == "seed" and value >= SEEDS:
            raise UserError(f"seed is {said(value)}, expected a whole number below {SEEDS:,}")
        if hint is float:
            right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
            if not right or (name in UP_TO_ONE and value > 1) or (name in BELOW_ONE and value >= 1):
                most = " to 1" * (name in UP_TO_ONE) + ", below 1" * (name in BELOW_ONE)
                raise UserError(f"{name} is {said(value)}, expected a number from 0{most}")
            object.__setattr__(self, name, float(value))
        if (hint is str and not isinstance(value, str)) or (hint is bool and not isinstance(value, bool)):
            raise UserError(f"{name} is {said(value)}, expected {'a word' if hint is str else 'true or false'}")
        words = isinstance(value, tuple) and all(isinstance(word, str) for word in value)
        if hint == tuple[str, ...] and not words:
            raise UserError(f"{name} is {said(value)}, expected a list of words")
        if name == "stages" and not all(isinstance(stage, Stage) for stage in value):
            raise UserError(f"stages is {said(value)}, expected stages")

    def with_changes(self, changes: Mapping[str, Any]) -> Recipe:
        """The same with other values; another number of steps keeps the proportions of the stages and of the warmup.

        Raises:
            UserError: for a field that a recipe does not have, or a value that it cannot have.
        """
        known = {one.name for one in fields(self)}
        for name in changes:
            if name not in known:
                raise UserError(f"a recipe has no {name!r}{did_you_mean(name, known)}")
        changed = replace(self, **changes)
        if "warmup" in changes or changed.steps == self.steps:
            return changed
        return replace(changed, warmup=self.warmup * changed.steps // self.steps)

    @property
    def paired(self) -> bool:
        """Whether a sample is two rows: a chosen and a rejected answer."""
        return self.loss == "longpo"

    @property
    def recurrent(self) -> bool:
        """Whether a text is read in chunks."""
        return self.memory.startswith("recurrent")

    def schedule_of_stages(self) -> tuple[tuple[Stage, int], ...]:
        """The stages, each with the steps that it has in a run of ``steps``; a single one where none is named.

        A short run leaves out what has no whole step, but never the last stage, which comes to the target.
        """
        *earlier, last = self.stages or (Stage(self.steps),)
        total = sum(stage.steps for stage in (*earlier, last))
        final = max(1, round(self.steps * last.steps / total))
        left, weight, done, found = self.steps - final, total - last.steps, 0, []
        for stage in earlier:
            n = round(left * (done + stage.steps) / weight) - round(left * done / weight)
            done += stage.steps
            found += [(stage, n)] * (n > 0)
        return (*found, (last, final))

    def rope_method(self, stage: Stage) -> Method:
        """The rope of a stage; a memory is as the training begins with it."""
        return method_of(stage.method or self.method).begun()

    @property
    def memory_method(self) -> TrainedMemory | None:
        """The memory that is trained, if there is one."""
        from ropewalk.methods.memory.trained_memory import memory_of

        return memory_of(self.rope_method(self.schedule_of_stages()[-1][0]))

    def require(self, config: PreTrainedConfig, to: int) -> None:
        """Refuse ropes that lack what must be given, and an attention that has no gradient.

        Args:
            config: of the model.
            to: target length in tokens.

        Raises:
            UserError: naming the stage, or the attention.
        """
        stages = self.schedule_of_stages()
        for i, (stage, _) in enumerate(stages):
            try:
                self.rope_method(stage).require(config, round(stage.rope * to))
            except UserError as error:
                where = f"stage {i + 1} of {len(stages)} of {self.name}, to {stage.rope:g} of the target: "
                of_each = " They are the method of each stage, in a recipe.json."
                if self.name == "longrope":
                    of_each = " The recipe takes the files of both legs: longrope(half=FILE, whole=FILE)."
                several = len(stages) > 1
                raise UserError(where * several + error.message, (error.mend or "") + of_each * several) from None
        self.require_memory()
        if self.attention == "full":
            return
        attention = method_of(self.attention)
        attention.require(config, to)
        parts = getattr(attention, "parts", (attention,))
        if any(getattr(part, "by_content", False) for part in parts):
            wrong = "picks keys by content, which has no gradient: nothing could be trained"
        elif any(part.axes != {"visibility"} for part in parts):
            wrong = "changes more than who is seen, and is off in what is written: other positions would be trained"
        else:
            return
        raise UserError(f"attention {attention.id} {wrong}", "Say --attention s2-attention, scca, or full.")

    def require_memory(self) -> None:
        """Refuse what does not go with a memory.

        Raises:
            UserError: naming the field.
        """
        memory = self.memory_method
        if memory is None:
            return
        stages = [self.rope_method(stage).id for stage, _ in self.schedule_of_stages()]
        if len(set(stages)) > 1:
            raise UserError(
                f"stages train {' and '.join(dict.fromkeys(stages))}, expected one memory",
                "Leave method out of the stages.",
            )
        wrong = {
            "trainable": self.trainable != "all",
            "memory": self.memory not in memory.trained_in,
            "positions": self.positions != "full",
            "loss": self.paired,
        }
        for name in (name for name, yes in wrong.items() if yes):
            plain = getattr(Recipe(), name)
            raise UserError(
                f"{name} is {getattr(self, name)!r}; {memory.name} says itself what is trained, and reads whole texts",
                f"Say --{name} {plain}.",
            )

    def layout(self, cue: tuple[int, ...] = ()) -> TrainingPositions:
        """How samples are laid out.

        Args:
            cue: token ids of a sentence that ends a sample, for positions that need one and say none.
        """
        from ropewalk.training.positions.entries import positions

        return positions(self.positions, cue)

    @property
    def spelling(self) -> str:
        """The fields that differ from their defaults, as JSON, which ``ropewalk train`` takes in a recipe's place."""
        plain = Recipe().to_dict()
        return json.dumps({name: value for name, value in self.to_dict().items() if value != plain[name]})

    def to_dict(self) -> dict[str, Any]:
        """In plain values, from which ``from_dict`` makes the same recipe."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Any) -> Recipe:
        """A recipe from plain values, as ``to_dict`` gives them.

        Raises:
            UserError: naming the key, and the value seen and expected.
        """
        if not isinstance(content, dict):
            raise UserError(f"a recipe is {said(content)}, expected an object of its fields")
        if "model_type" in content:
            raise UserError("this is a model's configuration, and no recipe", f"Name the {RECIPE} beside it.")
        stages = content.get("stages", [])
        if not isinstance(stages, list | tuple) or not all(isinstance(stage, dict) for stage in stages):
            raise UserError(f"stages is {said(stages)}, expected a list of objects")
        known = {one.name for one in fields(cls)}
        missing = known - content.keys()
        if missing:
            raise UserError(f"a recipe has no {', '.join(sorted(missing))}, expected all of its fields")
        return cls().with_changes({**content, "stages": tuple(_stage(stage) for stage in stages)})


UP_TO_ONE = frozenset({"warmup_from", "floor"})
BELOW_ONE = frozenset({"beta1", "beta2", "dropout"})


def _stage(content: dict[str, Any]) -> Stage:
    known = {one.name: one for one in fields(Stage)}
    for name, value in content.items():
        if name not in known:
            raise UserError(f"a stage has no {name!r}{did_you_mean(name, known)}")
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < math.inf
        if not (isinstance(value, str) if name == "method" else number):
            raise UserError(
                f"{name} of a stage is {said(value)}, expected {'a word' if name == 'method' else 'a number'}"
            )
    if type(content.get("steps")) is not int:
        raise UserError(f"steps of a stage is {said(content.get('steps'))}, expected a whole number")
    return Stage(**content)
