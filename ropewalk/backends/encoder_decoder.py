"""A model that reads a prompt by its encoder and writes the answer by its decoder, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F
from transformers import GenerationConfig

from ropewalk.backends.backend import Ask, Backend, Reply
from ropewalk.backends.local import ORDINARY, describe
from ropewalk.backends.nll import require_finite
from ropewalk.backends.prefix import stops
from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import code_fingerprint, model_fingerprint
from ropewalk.rope.live import still
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening, surroundings

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ropewalk.methods.base import Method


class EncoderDecoder(Backend):
    """A model with its method applied; see ``encoder_decoder``.

    A prompt ends for the encoder as the tokenizer ends a text. No token of a text has a loss: the decoder writes what
    follows it, and sees all of it.
    """

    no_losses = "the text is read by the encoder, and the decoder, which sees all of it, writes what follows"

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, method: Method, basis: dict[str, str]
    ):
        self.model, self.tokenizer, self.basis = model, tokenizer, basis
        self.reads = method.reads(model)
        _, self.ending = surroundings(tokenizer)
        self.starts = started(model)
        self.read = 0
        probe = (opening(tokenizer) + token_ids(ORDINARY, tokenizer))[: self.reads]
        logits = self._logits(probe[:-1], probe[-1:])
        require_finite(logits, f"{method.id}: the loss of an ordinary text")

    @property
    def how(self) -> str:
        return "plain: an encoder reads each prompt as a whole"

    @property
    def tokens(self) -> dict[str, int]:
        return {"asked": self.read, "read": self.read}

    def describe(self) -> dict[str, Any]:
        return describe(self.model, self.tokenizer, self.basis["model"])

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        for i, ask in enumerate(asks):
            count = len(ask.prompt) + len(self.ending)
            if self.reads is not None and count > self.reads:
                yield i, Reply(lost=f"{count:,} tokens, where the table has {self.reads:,} rows")
                continue
            self.read += count + max(len(ask.answer), ask.room)
            yield i, self._reply(ask)

    def _reply(self, ask: Ask) -> Reply:
        right: bool | None = None
        logprob: float | None = None
        written: tuple[int, ...] = ()
        if ask.answer:
            logits, goals = self._logits(ask.prompt, ask.answer), torch.tensor(ask.answer)
            right = logits.argmax(-1).tolist() == list(ask.answer)
            logprob = -float(F.cross_entropy(logits, goals))
        if ask.room:
            written = self._written(ask.prompt, ask.room)
        return Reply(right, logprob, written, str(self.tokenizer.decode(list(written), skip_special_tokens=True)))

    def _encoded(self, prompt: Sequence[int]) -> dict[str, Tensor]:
        ids = torch.tensor([[*prompt, *self.ending]], device=self.model.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def _logits(self, prompt: Sequence[int], answer: Sequence[int]) -> Tensor:
        """Of an answer's tokens, float32 [A, V]."""
        begun = torch.tensor([[*self.starts, *answer[:-1]]], device=self.model.device)
        with still(self.model), torch.no_grad():
            out = self.model(**self._encoded(prompt), decoder_input_ids=begun, use_cache=False)
        found: Tensor = out.logits[0, len(self.starts) - 1 :].float().cpu()
        return found

    def _written(self, prompt: Sequence[int], room: int) -> tuple[int, ...]:
        """What the decoder writes greedily, without the token that ends a text."""
        ends, begun = stops(self.model), torch.tensor([self.starts], device=self.model.device)
        plainly = GenerationConfig(
            max_new_tokens=room, do_sample=False, eos_token_id=sorted(ends) or None, pad_token_id=min(ends, default=0),
            decoder_start_token_id=self.starts[0],
        )  # fmt: skip
        generate: Any = self.model.generate
        before, self.model.generation_config = self.model.generation_config, plainly
        try:
            with still(self.model), torch.no_grad():
                row = generate(**self._encoded(prompt), decoder_input_ids=begun)[0].tolist()
        finally:
            self.model.generation_config = before
        new = row[len(self.starts) :]
        return tuple(new[: next((i for i, token in enumerate(new) if token in ends), len(new))])


def started(model: PreTrainedModel) -> list[int]:
    """What the decoder begins every answer with.

    Raises:
        UserError: if the configuration does not say.
    """
    configs: tuple[Any, ...] = (model.generation_config, model.config)
    first, forced = (
        next((int(one) for config in configs if (one := getattr(config, key, None)) is not None), None)
        for key in ("decoder_start_token_id", "forced_bos_token_id")
    )
    if first is None:
        name = str(model.config.name_or_path)
        raise UserError(
            f"config.json of {name} has no decoder_start_token_id, with which every answer begins",
            f"{setting(name, {'decoder_start_token_id': 0})}, for T5; of BART it is 2.",
        )
    return [first] if forced is None else [first, forced]


@contextmanager
def encoder_decoder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, method: Method, to: int, model_hash: str = ""
) -> Iterator[EncoderDecoder]:
    """The model with ``method`` applied for texts of ``to`` tokens, as a backend; undone on leaving.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        method: what is applied.
        to: target length in tokens.
        model_hash: the model's fingerprint, where the caller knows it already.
    """
    basis = {
        "model": model_hash or model_fingerprint(model),
        "method": method.fingerprint(model, to),
        "stops": ",".join(map(str, sorted(stops(model)))),
        "code": code_fingerprint(),
    }
    with method.on(model, to):
        yield EncoderDecoder(model, tokenizer, method, basis)
