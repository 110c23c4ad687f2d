"""What a model makes of long texts while it is trained: perplexity by position and pass keys, in the Trainer's log."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import TrainerCallback

from ropewalk.common import lengths
from ropewalk.common.errors import UserError
from ropewalk.evaluation.long_context import LongContext
from ropewalk.texts import documents
from ropewalk.texts.pieces import TokenUnits
from ropewalk.training.checks import check_rope, sharded

if TYPE_CHECKING:
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )

    from ropewalk.methods.base import Method


class LongContextCallback(TrainerCallback):
    """Logs, through the Trainer's own log, how a model reads contexts up to the target.

    ``trainer.add_callback(LongContextCallback(trainer, to="32k"))``. Measured before the first step and after the last
    one, and at every evaluation of the Trainer in between; always the same texts and keys. ``eval_perplexity_512-724``
    is of the tokens at positions 512 .. 723, and ``eval_passkey_4096`` the share of keys found in 4,096 tokens.
    Measuring draws no number of the training's, so that weights are what they are without it.

    Args:
        trainer: whose log is written; a transformers ``Trainer`` or one made from it, such as TRL's.
        to: tokens of the context that is trained for; 4096 or "32k".
        texts: held-out texts of ``to`` tokens or more: what ``compare --data`` takes, or documents by name.
        texts_used: how many of them, the first ones.
        keys: pass keys per length: the window, its doubles, and the target, as far as these hold one.
        every: also after so many steps; None: only at evaluations.
        method: put on while measuring, to reach the target; None: the model's own rope must.
        tokenizer: None: the trainer's ``processing_class``.
        seed: of the pass keys.

    Raises:
        UserError: if there is no tokenizer, no text is long enough, or a number is none.
    """

    def __init__(
        self,
        trainer: Trainer,
        to: int | str,
        *,
        texts: str | Path | Mapping[str, str] = "stdlib",
        texts_used: int = 8,
        keys: int = 10,
        every: int | None = None,
        method: Method | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        seed: int = 0,
    ):
        for name, value in (("texts_used", texts_used), ("keys", keys), ("every", 1 if every is None else every)):
            if type(value) is not int or value < 1:
                raise UserError(f"{name} is {value!r}, expected a whole number from 1 on")
        found: Any = tokenizer or trainer.processing_class
        if found is None:
            raise UserError("the trainer has no processing_class, expected a tokenizer", "Give tokenizer=tokenizer.")
        self.trainer, self.to, self.every, self.method = trainer, lengths.parse(to), every, method
        loaded = texts if isinstance(texts, Mapping) else documents.load(texts)
        long = list(documents.tokenise(loaded, found, self.to).values())
        self.reading = LongContext.of(long, TokenUnits(found), self.to, texts_used, keys=keys, seed=seed)
        self._done = -1

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if sharded(args):
            raise UserError(
                "LongContextCallback reads whole texts, which a model that FSDP or DeepSpeed spreads over processes "
                "cannot do beside its training",
                "Leave the callback out, and run ropewalk compare on the saved checkpoints.",
            )
        if self.method is None:
            check_rope(kwargs["model"], self.to)
        self._done = -1
        self._measure(kwargs["model"], state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.every is not None and state.global_step % self.every == 0:
            self._measure(kwargs["model"], state, control)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._measure(kwargs["model"], state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._measure(kwargs["model"], state, control)

    def _measure(self, model: PreTrainedModel, state: TrainerState, control: TrainerControl) -> None:
        """Log once per step."""
        if state.global_step == self._done:
            return
        self._done = state.global_step
        put_on = nullcontext() if self.method is None else self.method.on(model, self.to)
        with put_on, self.trainer.accelerator.autocast():
            seen = self.reading.measure(model)
        found = {f"eval_perplexity_{start}-{end}": one.value for (start, end), one in seen.by_position.items()}
        found |= {f"eval_passkey_{n}": one.value for n, one in seen.passkeys.items()}
        due = control.should_log  # any log clears it, and the Trainer's own losses would be missing
        self.trainer.log(found)
        control.should_log = due
