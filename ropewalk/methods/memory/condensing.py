"""Reading in windows: when a window is full and the text goes on, a few keys per layer are carried on in its place.

The text so far is a cache of plain keys and values: what past windows left at places 0, 1, 2, .., behind it the tokens
of the present window. Raw tokens are read by the model as it is, on top of that; so is a text of one window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, DynamicLayer

from ropewalk.attention.cache_argument import as_argument
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.methods.memory.reader import Reader
from ropewalk.methods.memory.trained_memory import TrainedMemory
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SHARE = 4  # of the trained window, that a window has where none is said


@dataclass(frozen=True)
class Windows:
    """How many keys of a layer are left of how many tokens.

    Attributes:
        window: tokens that are read at a time.
        sinks: first tokens whose own keys stay.
        places: positions that the model was trained on.
    """

    window: int
    sinks: int
    places: int

    def kept(self, tokens: int, ratio: int) -> int:
        """Keys per layer behind so many tokens: a full window is condensed when a token follows it."""
        full = max(0, tokens - 1) // self.window
        return self.sinks * (full > 0) + full * (self.window // ratio) + tokens - full * self.window

    def reach(self, ratio: int) -> int:
        """Tokens that can be read before places run out."""
        room = max(0, self.places - self.sinks - self.window)
        return (room // (self.window // ratio) + 1) * self.window


@dataclass(eq=False)
class State:
    """What is left of a text.

    Attributes:
        cache: keys and values of every layer: ``carried`` of them, then those of the present window.
        carried: keys in place of past windows, sinks among them.
        ids: the tokens of the present window, int64 [B, n].
    """

    cache: Cache
    carried: int
    ids: Tensor


class WindowReader(Reader):
    """Reads texts in windows; subclasses write ``condense``.

    Args:
        model: a live transformers model.
        windows: sizes.
        ratio: tokens of a window per key that is carried on.
        drawn: in training it is drawn of these for each window, by its tokens.
    """

    def __init__(self, model: nn.Module, windows: Windows, ratio: int, drawn: Sequence[int]):
        self.body: Any = decoder(model)
        self.windows, self.ratio, self.drawn = windows, ratio, drawn

    def begin(self, rows: int) -> State:
        """A text of which nothing is read."""
        device = self.body.get_input_embeddings().weight.device
        layers: list[Any] = [DynamicLayer() for _ in range(self.body.config.num_hidden_layers)]
        return State(Cache(layers=layers), 0, torch.zeros(rows, 0, dtype=torch.long, device=device))

    def read(self, ids: Tensor, state: State) -> Tensor:
        """Last hidden states [B, n, D] of the tokens that follow, int64 [B, n].

        Raises:
            UserError: if places run out.
        """
        window, found = self.windows.window, []
        while ids.shape[1]:
            if state.ids.shape[1] == window:
                ratio = self._ratio(state, ids.shape[1])
                self.condense(state, ratio)
                state.carried = self._stays(state) + window // ratio
                state.ids = state.ids[:, :0]
            room = window - state.ids.shape[1]
            raw, ids = ids[:, :room], ids[:, room:]
            found.append(self.behind(state, state.carried + state.ids.shape[1], input_ids=raw))
            state.ids = torch.cat([state.ids, raw], 1)
        return torch.cat(found, 1)

    def condense(self, state: State, ratio: int) -> None:
        """Leave in the cache what stays, and ``window / ratio`` keys and values behind it, of places that follow."""
        raise NotImplementedError

    def forward(self, state: State, places: Tensor, mask: Tensor, **given: Tensor) -> Tensor:
        """The model itself on top of the cache: last hidden states of tokens at ``places``, int64 [n].

        Raises:
            UserError: if the cache does not grow by all of them.
        """
        cache = as_argument(self.body, state.cache)
        found = self.body(position_ids=places[None], attention_mask=mask, use_cache=True, **cache, **given)
        kept, expected = state.cache.get_seq_length(), mask.shape[-1]
        if kept != expected:
            raise UserError(
                f"layers have kept {kept} keys, expected {expected}: those that are computed again in a backward pass "
                "lose their cache",
                "Say --memory plain.",
            )
        hidden: Tensor = found[0]
        return hidden

    def behind(self, state: State, past: int, **given: Tensor) -> Tensor:
        """The same for tokens that see all ``past`` keys of the cache, and each other from left to right."""
        (tokens,) = given.values()
        places = torch.arange(past, past + tokens.shape[1], device=tokens.device)
        everything = torch.ones(len(tokens), past + tokens.shape[1], dtype=torch.long, device=tokens.device)
        return self.forward(state, places, everything, **given)

    def _stays(self, state: State) -> int:
        """Keys of the cache that are not condensed: what is carried, or the sinks of the first window."""
        return state.carried or self.windows.sinks

    def _ratio(self, state: State, more: int) -> int:
        """For a window that ``more`` tokens follow: such that there is room for the next one.

        In training there is also room for those after it, at the largest ratio.

        Raises:
            UserError: if there is none.
        """
        window = self.windows.window
        room = self.windows.places - window - self._stays(state)
        if not self.body.training:
            if window // self.ratio > room:
                reach = self.windows.reach(self.ratio)
                raise UserError(
                    f"the text has more than the {reach:,} tokens that ratio {self.ratio} and windows of {window} "
                    f"reach in {self.windows.places} trained positions",
                    "Say a larger target with --to, or a larger ratio.",
                )
            return self.ratio
        room -= (more - 1) // window * (window // max(self.drawn))
        fitting = [ratio for ratio in self.drawn if window // ratio <= room]
        if not fitting:
            raise UserError(
                f"rows of training have more than the {self.windows.reach(max(self.drawn)):,} tokens that ratio "
                f"{max(self.drawn)} and windows of {window} reach",
                "Say a smaller --to, or a larger ratio among ratios.",
            )
        says = (state.ids[0] * torch.arange(1, window + 1, device=state.ids.device)).sum()
        by = torch.Generator().manual_seed(int(says))  # by the window: a text is read the same in every pass
        return fitting[int(torch.randint(len(fitting), (), generator=by))]


@dataclass(frozen=True)
class CondensingMethod(TrainedMemory, MemoryMethod):
    """Past windows, condensed by a ratio that is chosen when a text is read, of those that were trained.

    Attributes:
        window: tokens of a window; None means a quarter of the trained window.
        ratio: tokens of a past window per key and value that is carried on; None means the smallest with which the
            target fits into the trained window.
        ratios: what training draws from, anew for each window.
    """

    window: int | None = None
    ratio: int | None = None
    ratios: tuple[int, ...] = (2, 4, 8, 16, 32)

    sinks: ClassVar[int] = 0
    chosen: ClassVar[tuple[str, ...]] = ("ratio",)
    trained_in: ClassVar[tuple[str, ...]] = ("plain",)  # layers that are computed again have lost their cache
    cache_exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(0, self, "window", "ratio")
        require_above(-1, self, "sinks")
        if not self.ratios or any(type(one) is not int or one < 1 for one in self.ratios):
            raise UserError(f"{self.name}: ratios is {self.ratios}, expected whole numbers from 1 on")
        if self.ratio is not None and self.ratio not in self.ratios:
            raise UserError(f"{self.name}: ratio is {self.ratio}, expected one of ratios, {self.ratios}")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        return cls(window=w // 4, ratio=4, ratios=(2, 4)).begun(), cls(window=w // 8, ratios=(8,)).begun()

    @property
    def drawn(self) -> tuple[int, ...]:
        """What training draws the ratio of a window from."""
        return self.ratios if self.ratio is None else (self.ratio,)

    @property
    def every(self) -> str:
        """The ratio in words, for what reading costs."""
        return str(self.ratio or (f"{min(self.ratios)} to {max(self.ratios)}" if self.ratios[1:] else self.ratios[0]))

    def windows(self, config: PreTrainedConfig) -> Windows:
        """Sizes on a model.

        Raises:
            UserError: if a ratio does not divide the window, or the window leaves no place for what is carried on.
        """
        places = rope_config.trained_window(config)
        window = self.window or places // SHARE
        odd = [ratio for ratio in self.ratios if window % ratio]
        if odd:
            raise UserError(f"{self.name}: window is {window}, expected a multiple of each of ratios, also of {odd[0]}")
        if self.sinks + window + window // min(self.ratios) > places:
            raise UserError(
                f"{self.name}: window is {window} and carries {window // min(self.ratios)} keys on at ratio "
                f"{min(self.ratios)}, sinks are {self.sinks}; together expected at most the {places} trained positions"
            )
        return Windows(window, self.sinks, places)

    def ratio_for(self, windows: Windows, to: int) -> int:
        """The ratio that texts of up to ``to`` tokens are read with.

        Raises:
            UserError: if they are longer than it reaches.
        """
        ratio = self.ratio or next((r for r in sorted(self.ratios) if windows.reach(r) >= to), max(self.ratios))
        if windows.reach(ratio) < to:
            raise UserError(
                f"{self.name} reaches {windows.reach(ratio):,} tokens with ratio {ratio} and windows of "
                f"{windows.window}, {to:,} are the target",
                f"Say --to {show(windows.reach(ratio))}, or train with a larger ratio among ratios.",
            )
        return ratio
