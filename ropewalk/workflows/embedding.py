"""Vectors of texts, and of spans in their places in a text, by a model of sentence-transformers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder import Encoder
from ropewalk.encoders.extended_encoder import windows


class Embedding:
    """An embedding model.

    Args:
        name: its folder or hub id, with weights in safetensors.

    Raises:
        UserError: if the library is missing, or there is no such model.
    """

    def __init__(self, name: str):
        self.encoder = Encoder(name, "Name another: --embed FOLDER.")
        self.model, self.name = self.encoder.model, name

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [texts, e], not yet of length 1."""
        return np.asarray(self.model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True), np.float32)

    def within(
        self, text: str, spans: Sequence[tuple[int, int]], window: int | None = None, overlap: int | None = None
    ) -> NDArray[np.float32]:
        """Vectors of spans, each the mean over its tokens, which have read the text around them (late chunking).

        A text that is longer than the model's window is read in windows that overlap; a token counts as it is in the
        one in which it is farther from the ends.

        Args:
            text: that is read.
            spans: of characters, in order, none in another: the first, and the one behind the last.
            window: tokens that are read at once, special ones not counted; as many as the model reads unless given.
            overlap: tokens that two windows share; a quarter unless given.

        Returns:
            float32 [spans, e], not yet of length 1; what has no token is nought.

        Raises:
            UserError: if the model does not pool by the mean over its tokens.
        """
        before, behind = self._around()
        encoded = self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, starts = list(encoded["input_ids"]), [start for start, _ in spans]
        owners = np.asarray([_owner(begin, starts, spans) for begin, _ in encoded["offset_mapping"]], np.int64)
        most = self.model.max_seq_length
        window = window or (max(1, most - len(before) - len(behind)) if most else max(1, len(ids)))
        sums, counts = np.zeros((len(spans) + 1, 0)), np.bincount(owners, minlength=len(spans) + 1)
        for start, stop, first, last in windows(len(ids), window, window // 4 if overlap is None else overlap):
            states = self.encoder.states([[*before, *ids[start:stop], *behind]])[0][len(before) :]
            sums = sums if sums.size else np.zeros((len(spans) + 1, states.shape[1]))
            np.add.at(sums, owners[first:last], states[first - start : last - start])
        return self.encoder.projected((sums / np.maximum(counts, 1)[:, None])[:-1])

    def _around(self) -> tuple[list[int], list[int]]:
        """Ids that stand before and behind every text, with the prompt that is asked with by default.

        Raises:
            UserError: if the mean over the tokens is not what this model makes of a text.
        """
        mend = "Name a model that pools by the mean (--embed), or choose another strategy, such as rag(by='vectors')."
        if not getattr(self.encoder.tokenizer, "is_fast", False):
            raise UserError(f"{self.name} has no fast tokenizer, which tells where tokens stand", mend)
        if not self.encoder.pools_by_mean:
            raise UserError(f"{self.name} does not pool a text by the mean over its tokens", mend)
        before, behind = self.encoder.around
        prompt = self.model.prompts.get(self.model.default_prompt_name or "") or ""
        return before + self.encoder.ids(prompt), behind


def _owner(begin: int, starts: Sequence[int], spans: Sequence[tuple[int, int]]) -> int:
    """The span in which a token begins; their number if it is in none."""
    at = bisect_right(starts, begin) - 1
    return at if at >= 0 and begin < spans[at][1] else len(spans)
