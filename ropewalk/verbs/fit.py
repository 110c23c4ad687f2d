"""Measuring on a model and texts what a method needs to know, into a small file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ropewalk.methods import catalogue

if TYPE_CHECKING:
    from ropewalk.methods.fit_file import Fit


@dataclass(frozen=True)
class Request:
    """What is to be fitted, and on what.

    Attributes:
        model: folder, hub id or ``demo``.
        method: spelling of one that can be fitted, alone or composed with what is on beside it.
        out: file to write.
        to: target length in tokens; None means what the configuration promises, or four times the window.
        data: texts: "topics", "stdlib", or a file or folder.
        settings: of the search, by keyword, such as "tolerance=0.1".
        samples: at most so many texts.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda".
        trust_remote_code: run code that comes with the model.
    """

    model: str
    method: str
    out: Path
    to: int | None = None
    data: str = "topics"
    settings: str = ""
    samples: int = 8
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False


def fit(request: Request, progress: Callable[[int, int], None] = lambda done, total: None) -> Fit:
    """Fit, and write the file.

    Raises:
        UserError: for everything that a user can mend.
    """
    method = catalogue.method(request.method)  # mistakes in names show before anything is loaded
    from ropewalk.checkpoint.opening import load
    from ropewalk.fitting.fitter import fit as measure
    from ropewalk.methods.fit_file import refuse_other_file
    from ropewalk.texts.documents import load as load_documents

    refuse_other_file(request.out)
    documents = load_documents(request.data)
    model, tokenizer, _ = load(request.model, request.dtype, request.device, request.trust_remote_code)
    found = measure(
        model,
        tokenizer,
        method,
        documents,
        to=request.to,
        settings=request.settings,
        samples=request.samples,
        name=request.model,
        source=request.data,
        progress=progress,
    )
    found.write(request.out)
    return found
