"""Documents as the vectors that an embedding model gives them, pooled as its own files say."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ropewalk.backends.text_encoder import text_encoder
from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Ints
from ropewalk.data.corpus import Corpus
from ropewalk.data.ordering.neighbours import Floats

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = 8192  # tokens of a document that are decoded; the model reads what its own window holds of them
WRITERS = ("CausalLM", "LMHeadModel", "ConditionalGeneration")  # models that go on with a text
MEND = "Name a folder or a hub id of an embedding model, with weights in safetensors; or leave --embed out."


@dataclass(frozen=True, eq=False)
class ModelVectors:
    """Of sentence-transformers' models; of a plain encoder, the mean over its tokens.

    Attributes:
        model: a folder or a hub id.
        tokenizer: of the corpus, by which its texts are read.
    """

    model: str
    tokenizer: PreTrainedTokenizerBase

    @property
    def name(self) -> str:
        return self.model

    @cached_property
    def digest(self) -> str:
        """sha256 of its weights, and of how they are pooled."""
        import torch

        digest = hashlib.sha256(f"{READ} {self._encoder}".encode())
        for name, weight in sorted(self._encoder.state_dict().items()):
            digest.update(name.encode())
            digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def require(self) -> None:
        """Load the model.

        Raises:
            UserError: if that cannot be, or it is none that embeds.
        """
        _ = self._encoder

    def over(self, corpus: Corpus) -> Callable[[Sequence[Ints]], Floats]:
        """What gives float32 [m, e], the vectors of m documents, without what texts begin with."""
        import torch

        threads = torch.get_num_threads()

        def vectors(documents: Sequence[Ints]) -> Floats:
            torch.set_num_threads(threads)  # wherever it runs: sums are rounded alike
            texts = [self.tokenizer.decode(one[:READ]) for one in documents]
            found: Floats = self._encoder.encode(texts, show_progress_bar=False, convert_to_numpy=True)
            return found.astype("float32")

        return vectors

    @cached_property
    def _encoder(self) -> Any:
        found, described = text_encoder(self.model, MEND)
        config = getattr(getattr(found[0], "auto_model", None), "config", None)
        names = getattr(config, "architectures", None) or []
        if not described and any(one.endswith(WRITERS) for one in names):
            raise UserError(f"{self.model} is a {names[0]}, and no embedding model", MEND)
        return found
