"""Skip-wise training with somebody else's trainer: a data collator that is a callback of transformers' Trainer too."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers.trainer_callback import TrainerCallback

from ropewalk.common import lengths
from ropewalk.common.errors import UserError
from ropewalk.rope.config import trained_window
from ropewalk.training import checks
from ropewalk.training.positions.entries import positions as positions_of
from ropewalk.training.positions.training_positions import Ints, Picks, TrainingPositions
from ropewalk.training.training_batch import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

COLUMNS = {"input_ids", "labels", "attention_mask"}
UNTOLD = -1
TRIALS = 20  # batches, of which one has a jump
Text = tuple[Ints, Ints]  # token ids and labels
Chance = np.random.Generator


class SkipwiseCollator(TrainerCallback):
    """Makes batches of samples that are short, and stand at positions up to the target.

    ``Trainer(..., data_collator=skipwise, callbacks=[skipwise])``, and the same with TRL's ``SFTTrainer``. As a
    callback it hears of epochs, so that every text is drawn anew in each, and refuses before the first step what would
    train something else without an error. In a loop of your own, call ``check`` once, and ``set_epoch`` before each
    epoch.

    A draw depends on seed, epoch and text alone: not on batches, workers, ranks or a resume. What a step shares
    (the scale of ``e2``) is shared by a batch, and depends on all of it. Where examples have labels, what holds none of
    them is drawn again. Evaluation through the same Trainer is on such samples too.

    Args:
        positions: a value such as ``PoSE()``, or its spelling.
        to: tokens of the context that is trained for; 4096 or "32k".
        window: tokens of a sample at most; None: the window that the model was trained with (of ``full``, the target).
        seed: of all draws.
    """

    def __init__(
        self, positions: TrainingPositions | str, to: int | str, window: int | str | None = None, seed: int = 0
    ):
        self.positions = positions_of(positions) if isinstance(positions, str) else positions
        self.to = lengths.parse(to)
        self.window = None if window is None else lengths.parse(window)
        self.seed = seed
        self._epoch = torch.tensor(UNTOLD).share_memory_()  # workers that outlive an epoch hear of the next one
        self._next = 0
        self._arrival: checks.Arrival | None = None
        if self.window is not None:
            self.positions.require(self.window, self.to)

    def check(self, model: PreTrainedModel) -> None:
        """Refuse a model that these samples would train for something else; once, in a loop of your own.

        Its rope must be the one that the positions are for, and tokens behind a jump must see those before it, which is
        tried on random texts. Where no window was given, samples have the model's from then on.

        Raises:
            UserError: with the line that mends it.
        """
        self._meet(model)
        self._check(model, 2)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew; before every epoch, in a loop of your own.

        Args:
            epoch: from 0 on.
        """
        self._epoch.fill_(epoch)

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch.

        Args:
            examples: tokenised texts, each one document: ``input_ids``, and ``labels`` if not all tokens count.

        Returns:
            ``input_ids``, ``labels``, ``attention_mask``, int64 [B, N], and ``position_ids``, int64 or, of ``e2``,
            float32 [B, N]. Rows are padded behind their end. The mask is always there: without one, transformers takes
            positions that jump for packed documents.

        Raises:
            UserError: if a text is too short, or is no single document.
        """
        epoch, window = int(self._epoch), self.window
        if epoch == UNTOLD or window is None:
            raise UserError(
                "SkipwiseCollator does not know " + ("the epoch" if epoch == UNTOLD else "how long samples are"),
                "Trainer(..., data_collator=collator, callbacks=[collator]); in a loop of your own, "
                "collator.check(model) once, and collator.set_epoch(n) before every epoch.",
            )
        batch = self._batch([_text(example) for example in examples], window, epoch)
        if bool((batch["labels"] == IGNORED).all()):
            raise UserError(
                "no token of a batch has a loss, which would make the weights NaN: what was drawn holds no label",
                "Train on all tokens (examples without labels), or take longer samples or larger batches.",
            )
        return batch

    def _batch(self, texts: Sequence[Text], window: int, epoch: int) -> dict[str, Tensor]:
        keys = [hashlib.blake2b(ids.tobytes(), digest_size=16).digest() for ids, _ in texts]
        step = self.positions.for_step(window, self.to, self._chance(epoch, b"".join(keys)))
        rows = [self._row(*text, step, window, self._chance(epoch, key)) for text, key in zip(texts, keys, strict=True)]
        return {name: _padded([row[name] for row in rows], IGNORED * (name == "labels")) for name in rows[0]}

    def _chance(self, epoch: int, key: bytes) -> Chance:
        digest = hashlib.blake2b(key, digest_size=16).digest()
        return np.random.default_rng([self.seed, epoch, int.from_bytes(digest, "little")])

    def _row(self, ids: Ints, labels: Ints, step: TrainingPositions, window: int, chance: Chance) -> dict[str, Tensor]:
        cue = np.asarray(step.cue, np.int64)

        def counted(picks: Picks) -> Ints:
            return np.where(picks.weight > 0, np.concatenate([labels, cue])[picks.index], IGNORED)

        picks = step.pick_some(len(ids), window, self.to, chance, lambda picks: bool((counted(picks) != IGNORED).any()))
        several = bool(picks.document.any())
        if several or not np.isin(picks.weight, (0, 1)).all():
            what = "several documents" if several else "a loss weight between 0 and 1"
            raise UserError(f"{step.id}: a sample has {what}, which a Trainer's batch cannot carry")
        positions = torch.from_numpy(picks.position)
        return {
            "input_ids": torch.from_numpy(np.concatenate([ids, cue])[picks.index]),
            "labels": torch.from_numpy(counted(picks)),
            "position_ids": positions.float() if positions.is_floating_point() else positions,
            "attention_mask": torch.ones(len(picks.index), dtype=torch.int64),
        }

    # What a Trainer tells

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._meet(kwargs["model"])
        self.set_epoch(0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model, loader = kwargs["model"], kwargs["train_dataloader"]
        window = self._meet(model)
        self._next = int(state.epoch or 0)
        self.set_epoch(self._next)
        collate = getattr(loader.collate_fn, "data_collator", loader.collate_fn)
        if collate is not self:
            raise UserError(
                "SkipwiseCollator is among the callbacks, but batches are made by another collator",
                "Trainer(..., data_collator=collator, callbacks=[collator])",
            )
        shortest = self.positions.shortest(window, self.to)
        checks.check_settings(args, self.positions, max(shortest, min(window, self.to)))
        checks.check_texts(loader.dataset, shortest, self.positions)
        self._check(model, 0 if checks.sharded(args) else min(2, args.per_device_train_batch_size))
        self._look_away()  # of a run before that failed
        self._arrival = checks.Arrival(model)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.set_epoch(self._next)
        self._next += 1  # what a Trainer says of epochs of a stream is a share of its steps

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._look_away()

    def _look_away(self) -> None:
        if self._arrival is not None:
            self._arrival.end()
        self._arrival = None

    def _meet(self, model: PreTrainedModel) -> int:
        """The window, of the model where none was given."""
        if self.window is None:
            self.window = self.positions.window_for(trained_window(model.config), self.to)
        self.positions.require(self.window, self.to)
        return self.window

    def _check(self, model: PreTrainedModel, rows: int) -> None:
        """The model alone, and what it makes of a batch of random texts, unless that has no rows."""
        assert self.window is not None
        checks.check_model(model, self.positions, self.window, self.to)
        n = max(self.positions.shortest(self.window, self.to), self.window)
        chance, vocabulary = np.random.default_rng(self.seed), model.get_input_embeddings().num_embeddings  # type: ignore[union-attr]
        for epoch in range(TRIALS if rows else 0):
            texts = [chance.integers(0, int(vocabulary), n) for _ in range(rows)]  # type: ignore[arg-type]
            if checks.check_sight(model, self._batch([(ids, ids) for ids in texts], self.window, epoch)):
                break

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_arrival": None}  # hooks stay where the model is


def _text(example: Mapping[str, Any]) -> Text:
    """Token ids and labels of a text, without padding.

    Raises:
        UserError: for what is no single tokenised text.
    """
    if "input_ids" not in example or set(example) - COLUMNS:
        others = ", ".join(sorted(set(example) - COLUMNS)) or "no input_ids"
        raise UserError(
            f"an example has {others}; expected input_ids of one tokenised text, and at most labels and attention_mask",
            "Draw from texts as they are, before any packing, and remove other columns: dataset.select_columns(...).",
        )
    ids = np.asarray(example["input_ids"], np.int64)
    labels = np.asarray(example.get("labels", ids), np.int64)
    mask = np.asarray(example.get("attention_mask", np.ones(len(ids))), np.bool_)
    if ids.ndim != 1 or ids.shape != labels.shape or ids.shape != mask.shape:
        raise UserError(
            f"an example has input_ids of shape {ids.shape}, labels of {labels.shape} and a mask of {mask.shape}, "
            "expected one text and one length"
        )
    return ids[mask], labels[mask]


def _padded(rows: list[Tensor], value: int) -> Tensor:
    """Rows of different lengths as one tensor [B, N]."""
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
