"""A transformers model in this process, with a method applied to it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from ropewalk.backends.backend import Ask, Backend, Losses, Reply
from ropewalk.backends.nll import BATCH_TOKENS, require_finite, token_nll
from ropewalk.backends.prefix import Runner, stops
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError, out_of_memory
from ropewalk.common.fingerprints import code_fingerprint, model_fingerprint, tokenizer_fingerprint
from ropewalk.common.lengths import show
from ropewalk.rope.config import read
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ropewalk.methods.base import Method

ORDINARY = (  # 64 tokens or more
    "A rope of three strands holds more than three ropes of one, and whoever lays it knows why: the strands are turned "
    "one way and the rope the other, so that each holds what the next would let go. In the long shed by the harbour "
    "the yarn was drawn out, tarred and twisted, and nobody spoke while the top ran down the lane."
)
VOTES = "blocks of queries vote with tokens behind them"


class LiveModel(Backend):
    """A model with its method applied; see ``live``."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        method: Method,
        basis: dict[str, str],
        batch_tokens: int,
    ):
        self.model, self.tokenizer, self.basis, self.batch_tokens = model, tokenizer, basis, batch_tokens
        self.length_dependent = length_dependent(method, model)
        self.reads = method.reads(model)
        why = "results depend on the length of the input" if self.length_dependent else ""
        if not method.cache_exact:
            why = "the method changes what is cached"
        if not method.causal:
            why = f"{VOTES}: a prompt is read in one forward, and its answer decoded token by token"
            self.no_losses = f"{VOTES}, so that the losses of one forward see the future"
        probe = (opening(tokenizer) + token_ids(ORDINARY, tokenizer))[: self.reads]
        require_finite(token_nll(model, torch.tensor([probe])), f"{method.id}: the loss of an ordinary text")
        decides = not (method.cache_exact and method.causal)
        self.runner = Runner(model, why, decides, batch_tokens, probe=probe, decode=tokenizer.decode)
        self.checks = self.runner.way != "plain"
        self.costs = method.costs(model)

    @property
    def how(self) -> str:
        return "; ".join(filter(None, [self.runner.how, self.costs]))

    @property
    def tokens(self) -> dict[str, int]:
        return {"asked": self.runner.asked, "read": self.runner.read}

    def describe(self) -> dict[str, Any]:
        return describe(self.model, self.tokenizer, self.basis["model"])

    def ask(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        taken = [max(len(ask.answer), ask.room) + len(ask.prompt) for ask in asks]
        fitting = [i for i, n in enumerate(taken) if self.reads is None or n <= self.reads]
        for i in set(range(len(asks))) - set(fitting):
            yield i, Reply(lost=f"{taken[i]:,} tokens with the answer, where the table has {self.reads:,} rows")
        for place, reply in self.runner.run([asks[i] for i in fitting]) if fitting else ():
            i = fitting[place]
            text = str(self.tokenizer.decode(list(reply.written), skip_special_tokens=True))
            yield i, replace(reply, text=text)

    def entropy(self, prompt: Sequence[int]) -> float:
        """Of the token behind a prompt, in nats, as ``generate`` would draw it.

        Raises:
            UserError: if it is not finite.
        """
        found = self.runner.entropy(prompt)
        require_finite(found, "the entropy of the next token")
        return found

    def rolling(self, rows: Sequence[Sequence[int]]) -> Iterator[tuple[int, Losses]]:
        """Rows of one length run together, as many as ``batch_tokens`` hold; longer rows are read in pieces.

        Raises:
            UserError: if the method is not causal.
        """
        if self.no_losses:
            raise UserError(f"no losses: {self.no_losses}", "Leave ppl out of the tasks.")
        by_length: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            by_length.setdefault(len(row), []).append(i)
        for length, members in by_length.items():
            size = max(1, self.batch_tokens // length)
            for some in (members[first : first + size] for first in range(0, len(members), size)):
                if length > self.batch_tokens:
                    losses = self.runner.losses(rows[some[0]])[None]
                else:
                    losses = token_nll(self.model, torch.tensor([list(rows[i]) for i in some]))
                yield from zip(some, losses.double().numpy(), strict=True)


@contextmanager
def live(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    method: Method,
    to: int,
    model_hash: str = "",
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[LiveModel]:
    """The model with ``method`` applied for contexts of ``to`` tokens, as a backend; undone on leaving.

    Args:
        model: in evaluation mode.
        tokenizer: its tokenizer.
        method: what is applied; "none" for the model as it is.
        to: target length in tokens.
        model_hash: the model's fingerprint, where the caller knows it already.
        batch_tokens: how many tokens to run at once.
    """
    basis = {
        "model": model_hash or model_fingerprint(model),
        "method": method.fingerprint(model, to),
        "stops": ",".join(map(str, sorted(stops(model)))),
        "code": code_fingerprint(),
    }
    if not method.causal:
        basis["read"] = "token by token"  # what one forward on prompt and answer said is another result
    with method.on(model, to):
        try:
            yield LiveModel(model, tokenizer, method, basis, batch_tokens)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            name, length = model.config.name_or_path, show(to)
            counts = command("plan", name, "--to", length) if name else "ropewalk plan"
            raise UserError(
                f"the memory of {model.device} is used up: {method.id} was read with texts of up to {to:,} tokens, "
                f"{batch_tokens:,} tokens at once where texts are shorter",
                f"Ask for shorter texts, or for --dtype bfloat16; {counts} says what a text of that length needs. What "
                "was finished is kept.",
            ) from None


def length_dependent(method: Method, model: PreTrainedModel) -> bool:
    """Whether a text's losses change with what follows: by the method, or by the model's own rope if that stays."""
    if method.length_dependent:
        return True
    if "frequencies" in getattr(method, "axes", ()) and method.id != "none":
        return False
    try:
        specs = read(model.config).values()
    except UserError:  # no rotary embedding
        return False
    return any(spec.rope_type == "dynamic" or spec.switches for spec in specs)


def describe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, fingerprint: str) -> dict[str, Any]:
    """What a reader needs to know of a model to get the same numbers."""
    import transformers

    return {
        "name": model.config.name_or_path,
        "type": model.config.model_type,
        "parameters": model.num_parameters(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention": getattr(model.config, "_attn_implementation", None),
        "fingerprint": fingerprint,
        "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
