"""Vectors of texts, by a model of sentence-transformers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.common.extras import extra


def embedding(name: str) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """What gives float32 [texts, e], not yet of length 1.

    Args:
        name: folder or hub id of an embedding model, with weights in safetensors.

    Raises:
        UserError: if the library is missing, or there is no such model.
    """
    library = extra("sentence_transformers", "vectors of an embedding model", "embed")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)
    try:
        model = library.SentenceTransformer(name, model_kwargs={"use_safetensors": True})
    except Exception as error:  # whatever its files make of it
        first = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{name} cannot be loaded as an embedding model: {first}", "Name another: --embed FOLDER."
        ) from None

    def vectors(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.asarray(model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True), np.float32)

    return vectors
