"""A model of sentence-transformers that gives texts vectors, out of safetensors and without a word."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.common.extras import extra
from ropewalk.rope.config import quiet


def text_encoder(name: str, mend: str) -> tuple[Any, bool]:
    """A ``SentenceTransformer``, and whether its own files say how it pools.

    Args:
        name: a folder or a hub id.
        mend: what to do where it cannot be loaded.

    Raises:
        UserError: if the library is missing, or the model cannot be loaded.
    """
    library = extra("sentence_transformers", "vectors of an embedding model", "embed")
    logging.getLogger("sentence_transformers").setLevel(logging.ERROR)  # it tells that it pools a plain encoder
    try:
        with quiet():
            model = library.SentenceTransformer(name, model_kwargs={"use_safetensors": True})
        return model, library.util.is_sentence_transformer_model(name)
    except Exception as error:  # whatever its files make of it
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"{name} cannot be loaded as an embedding model: {first}", mend) from None


def loaded_from(body: Any) -> Path | None:
    """The folder that a model of transformers was just loaded from, in the hub's cache of a hub id; None if unknown."""
    from huggingface_hub import snapshot_download

    name = str(body.config.name_or_path)
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except Exception as error:  # the hub client raises many kinds
        logging.getLogger("ropewalk").warning(
            "%s: the names of the weights were not compared with the model's: %s", name, str(error).partition("\n")[0]
        )
        return None
