"""Reading with a memory: while a method is on, the decoder's forward goes through the method's reader.

A reader takes a text in pieces and carries a state from piece to piece. The state lies on the cache that a caller
passes, so that decoding goes on from a prompt; the cache holds no keys of its own. What the reader asks of the model
itself, from inside, is answered by the forward of before.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import count
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicCache
from transformers.modeling_outputs import MoeModelOutputWithPast

from ropewalk.attention import cache_argument
from ropewalk.common.errors import UserError
from ropewalk.rope.live import decoder, forward_of

KEPT = "_ropewalk_memory"  # attribute of a cache: what was read into it
FOLLOWED = {"input_ids", "attention_mask", "position_ids", "cache_position", "use_cache", "return_dict"}
FOLLOWED |= set(cache_argument.NAMES)
AGAIN = "Read the text from its first token on, with a new cache."

_readings = count(1)


class Reader:
    """How a method reads a text. What a token gets never depends on tokens behind it.

    Attributes:
        apart: whether each row of a batch is a text with a state of its own, which is begun for one row.
    """

    apart: ClassVar[bool] = False

    def begin(self, rows: int) -> Any:
        """What so many texts begin with."""
        raise NotImplementedError

    def read(self, ids: Tensor, state: Any) -> Tensor:
        """Last hidden states [B, n, D] of tokens int64 [B, n] that follow what ``state`` has read."""
        raise NotImplementedError

    def attached(self) -> AbstractContextManager[None]:
        """What stays on the model while the reader is on, between reads too."""
        return nullcontext()

    def prompt(self, ids: Tensor, state: Any, last: bool) -> Tensor:
        """As ``read``, where several tokens are read that are to be gone on with.

        Args:
            ids: int64 [B, n].
            state: what was read.
            last: whether nobody asks for more than the last hidden state.
        """
        return self.read(ids, state)


@contextmanager
def reading(model: nn.Module, reader: Reader) -> Iterator[None]:
    """Let a model read by ``reader`` for a while; its forward is as before on leaving."""
    body = decoder(model)
    one = _Reading(body, reader)
    hooks = [model.register_forward_pre_hook(one.begin, with_kwargs=True)] if model is not body else []
    hooks += [model.register_forward_hook(one.end, always_call=True)] if model is not body else []
    try:
        with forward_of(body, one.forward()), reader.attached():
            yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass
class _Kept:
    """What lies on a cache.

    Attributes:
        reading: which one read it.
        states: of all rows together, or of each row.
        pads: columns before the text of each row.
        columns: that were read, padding included.
        whole: whether the last read came to its end.
    """

    reading: int
    states: list[Any]
    pads: list[int]
    columns: int = 0
    whole: bool = True


@dataclass(eq=False)
class _Reading:
    """One reader on one decoder."""

    body: nn.Module
    reader: Reader
    number: int = field(default_factory=lambda: next(_readings))
    inside: bool = False
    last: bool = False  # whether the head is asked for the last token's logits alone

    def begin(self, _: nn.Module, arguments: Any, keywords: dict[str, Any]) -> None:
        """Before a forward of the whole model."""
        if not self.inside:
            self.last = keywords.get("logits_to_keep") == 1

    def end(self, *_: Any) -> None:
        """Behind it."""
        if not self.inside:
            self.last = False

    def forward(self) -> Callable[..., Any]:
        """What takes the place of the decoder's forward."""
        before: Any = self.body.forward
        names = list(inspect.signature(before).parameters)

        @functools.wraps(before)
        def forward(*arguments: Any, **keywords: Any) -> Any:
            if self.inside:
                return before(*arguments, **keywords)
            self.inside = True
            try:
                return self._output(dict(zip(names, arguments, strict=False)) | keywords)
            finally:
                self.inside = False

        return forward

    def _output(self, given: dict[str, Any]) -> Any:
        given = {name: value for name, value in given.items() if value is not None}
        cache = cache_argument.among(given)
        self._refuse_unfollowed({name: one for name, one in given.items() if one is not cache})
        config: Any = self.body.config
        ids: Tensor = given["input_ids"]
        if cache is None and given.get("use_cache", getattr(config, "use_cache", False)):
            cache = DynamicCache()
        pads = self._pads(given.get("attention_mask"), ids)
        kept = self._kept(cache, pads)
        self._check_places(given, kept, ids)
        kept.whole = False
        hidden = self._read(ids, kept, asked=cache is not None)
        kept.whole, kept.columns = True, kept.columns + ids.shape[1]
        if cache is not None and not hasattr(cache, KEPT):
            _remember(cache, kept)
        # models with experts ask it for their routers too
        found = MoeModelOutputWithPast(last_hidden_state=hidden)  # type: ignore[arg-type]
        if cache is not None:
            found[next(name for name in cache_argument.NAMES if hasattr(found, name))] = cache
        return found if given.get("return_dict", True) else found.to_tuple()

    def _refuse_unfollowed(self, given: dict[str, Any]) -> None:
        """Refuse what a reader would leave out."""
        for name in ("output_hidden_states", "output_attentions"):
            if given.get(name) or getattr(self.body.config, name, False):
                _refuse(f"{name} is true, and only the last hidden states are there")
        if "inputs_embeds" in given:
            _refuse(
                "the model was given inputs_embeds, expected input_ids: a memory is made of tokens",
                "Train it with memory='checkpointed', or pass input_ids.",
            )
        if "document_ids" in given:
            _refuse(
                "the model was given document_ids, and a memory goes through a row from its first token to its last",
                "Say --packing none.",
            )
        asked = [name for name, value in given.items() if value is not False]
        if strange := [name for name in asked if name not in FOLLOWED]:
            _refuse(f"the model was given {', '.join(strange)}, which a memory does not follow")
        ids = given.get("input_ids")
        if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.shape[1] == 0:
            _refuse(f"input_ids is {_shown(ids)}, expected int64 [B, n] with one token at least")

    def _pads(self, mask: Any, ids: Tensor) -> tuple[list[int], int]:
        """Columns before each row's text, and columns of the mask; without one, those of the tokens."""
        if mask is None:
            return [0] * len(ids), 0
        if not isinstance(mask, Tensor) or mask.ndim != 2 or len(mask) != len(ids):
            _refuse(
                f"attention_mask is {_shown(mask)}, expected [B, tokens so far]: who sees whom is the memory's",
                "Pass the mask of ones that the tokenizer gives, and no static cache.",
            )
        seen = mask.bool()
        pads = (~seen).sum(1)
        at_the_left = torch.arange(mask.shape[1], device=mask.device) >= pads[:, None]
        if not torch.equal(seen, at_the_left) or bool((pads == mask.shape[1]).any()):
            _refuse("attention_mask hides tokens inside a row or behind it", "Pad texts on their left.")
        return pads.tolist(), mask.shape[1]

    def _kept(self, cache: Cache | None, told: tuple[list[int], int]) -> _Kept:
        """What a cache holds; a new text where it holds nothing."""
        pads, _ = told
        kept: _Kept | None = getattr(cache, KEPT, None)
        if kept is None:
            if cache is not None and int(cache.get_seq_length()):
                _refuse(
                    f"the cache holds {int(cache.get_seq_length())} tokens that were read without this memory", AGAIN
                )
            alone = self.reader.apart or len(set(pads)) > 1
            states = [self.reader.begin(1) for _ in pads] if alone else [self.reader.begin(len(pads))]
            return _Kept(self.number, states, pads)
        if kept.reading != self.number:
            _refuse("the cache was filled by another memory, or by this one before it was taken off", AGAIN)
        if not kept.whole:
            _refuse("a read of this cache has failed, so that what it holds is not known", AGAIN)
        if kept.pads != pads:
            _refuse(f"rows begin with {pads} columns of padding, and the cache was filled with {kept.pads}", AGAIN)
        return kept

    def _check_places(self, given: dict[str, Any], kept: _Kept, ids: Tensor) -> None:
        """Refuse tokens that do not follow what was read."""
        mask, start, end = given.get("attention_mask"), kept.columns, kept.columns + ids.shape[1]
        if mask is not None and mask.shape[1] != end:
            _refuse(
                f"attention_mask has {mask.shape[1]} columns, expected {end}: {start} that were read and "
                f"{ids.shape[1]} new ones",
                AGAIN,
            )
        columns = torch.arange(start, end)
        places = columns - torch.tensor(kept.pads)[:, None]
        for name, expected in (("position_ids", places), ("cache_position", columns)):
            if name not in given:
                continue
            found = given[name].cpu().expand(*given[name].shape[:-2], *expected.shape)
            wrong = ((found != expected) & (places >= 0 if name == "position_ids" else True)).nonzero()
            if len(wrong):
                at = tuple(wrong[0].tolist())
                _refuse(
                    f"{name} has {int(found[at])} for a token that is at {int(expected.expand(found.shape)[at])} of "
                    f"its row: texts are read in order, a token after the one before it",
                    "Leave it out, or choose a recipe whose positions are those of the text.",
                )

    def _read(self, ids: Tensor, kept: _Kept, asked: bool) -> Tensor:
        skipped = [max(0, pad - kept.columns) for pad in kept.pads]
        if len(kept.states) == 1 and len(set(skipped)) == 1:
            rows = [(ids[:, skipped[0] :], kept.states[0], skipped[0])]
        else:
            rows = [(ids[i : i + 1, skip:], kept.states[i], skip) for i, skip in enumerate(skipped)]
        found = []
        for row, state, skip in rows:
            if asked and row.shape[1] > 1:
                hidden = self.reader.prompt(row, state, self.last)
            else:
                hidden = self.reader.read(row, state)
            found.append(nn.functional.pad(hidden, (0, 0, skip, 0)))
        return torch.cat(found)


def _refuse(what: str, mend: str = "") -> NoReturn:
    raise UserError(what, mend)


def _shown(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _remember(cache: Cache, kept: _Kept) -> None:
    """Let a cache hold what was read, and refuse what would part it from that."""
    kind: Any = type(cache)
    cache.__class__ = _remembering(kind)
    setattr(cache, KEPT, kept)


@functools.cache
def _remembering(kind: Any) -> Any:
    """``kind``, with a memory in place of keys."""

    def get_seq_length(self: Any, layer_idx: int = 0) -> int:
        return int(getattr(self, KEPT).columns)

    def reset(self: Any) -> None:
        delattr(self, KEPT)
        self.__class__ = kind
        self.reset()

    def refused(what: str, mend: str) -> Callable[..., NoReturn]:
        def method(self: Any, *arguments: Any, **keywords: Any) -> NoReturn:
            _refuse(f"a memory of {get_seq_length(self)} tokens cannot be {what}", mend)

        return method

    beams = refused("given to other rows", "Leave num_beams out.")
    own = {
        "get_seq_length": get_seq_length,
        "reset": reset,
        "crop": refused("cut back", AGAIN),
        "reorder_cache": beams,
        "batch_repeat_interleave": beams,
        "batch_select_indices": beams,
        "update": refused("gone on with by the model without its method", AGAIN),
        "is_croppable": property(lambda self: False),
        "__doc__": kind.__doc__,
    }
    return type(kind)(kind.__name__, (kind,), own)
