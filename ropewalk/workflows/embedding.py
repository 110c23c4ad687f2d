"""Vectors of texts, and of spans in their places in a text, by a model of sentence-transformers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ropewalk.backends.text_encoder import text_encoder
from ropewalk.common.errors import UserError

PROBE = "A rope of three strands holds more than three ropes of one."
TOLERANCE = 0.02  # relative: the rounding of half precision


class Embedding:
    """An embedding model.

    Args:
        name: its folder or hub id, with weights in safetensors.

    Raises:
        UserError: if the library is missing, or there is no such model.
    """

    def __init__(self, name: str):
        self.model, _ = text_encoder(name, "Name another: --embed FOLDER.")
        self.name = name

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
        before, behind = self._around
        encoded = self.model.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, starts = list(encoded["input_ids"]), [start for start, _ in spans]
        owners = np.asarray([_owner(begin, starts, spans) for begin, _ in encoded["offset_mapping"]], np.int64)
        most = self.model.max_seq_length
        window = window or (max(1, most - len(before) - len(behind)) if most else max(1, len(ids)))
        sums, counts = np.zeros((len(spans) + 1, 0)), np.bincount(owners, minlength=len(spans) + 1)
        for start, stop, first, last in windows(len(ids), window, window // 4 if overlap is None else overlap):
            states = self._states([*before, *ids[start:stop], *behind])[len(before) :]
            sums = sums if sums.size else np.zeros((len(spans) + 1, states.shape[1]))
            np.add.at(sums, owners[first:last], states[first - start : last - start])
        return self._projected((sums / np.maximum(counts, 1)[:, None])[:-1])

    @cached_property
    def _around(self) -> tuple[list[int], list[int]]:
        """Ids that stand before and behind every text that is encoded.

        Raises:
            UserError: if the mean over the tokens is not what this model makes of a text.
        """
        mend = "Name a model that pools by the mean (--embed), or choose another strategy, such as rag(by='vectors')."
        tokenizer = self.model.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise UserError(f"{self.name} has no fast tokenizer, which tells where tokens stand", mend)
        encoded = tokenizer(PROBE, return_special_tokens_mask=True)
        ids, special = list(encoded["input_ids"]), list(encoded["special_tokens_mask"])
        mean = self._projected(self._states(ids).mean(0, keepdims=True))[0]
        own = np.asarray(self.model.encode([PROBE], prompt="", show_progress_bar=False), np.float32)[0]
        if not np.linalg.norm(mean - own) <= TOLERANCE * np.linalg.norm(own):
            raise UserError(f"{self.name} does not pool a text by the mean over its tokens", mend)
        first, last = special.index(0), len(special) - special[::-1].index(0)
        prompt = self.model.prompts.get(self.model.default_prompt_name or "") or ""
        return ids[:first] + list(tokenizer(prompt, add_special_tokens=False)["input_ids"]), ids[last:]

    def _states(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """float64 [T, e]: what the encoder makes of each token."""
        import torch

        row = torch.tensor([list(ids)], device=self.model.device)
        with torch.no_grad():
            states = self.model[0]({"input_ids": row, "attention_mask": torch.ones_like(row)})["token_embeddings"][0]
        return np.asarray(states.double().cpu())

    def _projected(self, pooled: NDArray[np.float64]) -> NDArray[np.float32]:
        """What the model does behind its pooling, such as a dense layer."""
        import torch

        features = {"sentence_embedding": torch.tensor(pooled, dtype=self.model.dtype, device=self.model.device)}
        with torch.no_grad():
            for module in list(self.model)[2:]:
                features = module(features)
        return np.asarray(features["sentence_embedding"].float().cpu())


def windows(n: int, size: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows over n tokens: first token and the one behind the last that it reads, and that count as it has them."""
    start = first = 0
    while True:
        stop = min(start + size, n)
        last = n if stop == n else stop - overlap // 2
        yield start, stop, first, last
        if stop == n:
            return
        first, start = last, start + size - overlap


def _owner(begin: int, starts: Sequence[int], spans: Sequence[tuple[int, int]]) -> int:
    """The span in which a token begins; their number if it is in none."""
    at = bisect_right(starts, begin) - 1
    return at if at >= 0 and begin < spans[at][1] else len(spans)
