"""A model and its tokenizer, checked and ready to run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

from ropewalk.common.results import Result
from ropewalk.verbs.request import LiveRequest, verb

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _Pair(NamedTuple):
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


class Loaded(Result, _Pair):
    """What ``load`` returns; ``model, tokenizer = ropewalk.load(...)`` takes it apart.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: its own; every id that it makes is a row of the model's embedding.
    """

    def show(self, console: Console) -> None:
        for name, value in self.to_dict().items():
            console.print(f"{name:<11}{value}")

    def to_dict(self) -> dict[str, Any]:
        """What was loaded, without the weights."""
        model, tokenizer = self
        return {
            "model": f"{type(model).__name__} of {model.config.name_or_path}",
            "parameters": f"{model.num_parameters():,}, {model.dtype} on {model.device}".replace("torch.", ""),
            "tokenizer": f"{type(tokenizer).__name__}, {len(tokenizer):,} tokens",
        }


@verb("")
def load(request: LiveRequest) -> Loaded:
    """Load a model and its tokenizer; how the model rotates is checked against its configuration.

    Nothing is unpickled: weights come from safetensors files, each checked to be complete.

    Returns:
        ``(model, tokenizer)``.

    Raises:
        UserError: naming the file, or the key of the configuration, and the mend.
    """
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.encoders.encoder_folder import refuse_encoder

    checkpoint = Checkpoint(request.model, request.trust_remote_code)
    refuse_encoder(checkpoint)
    checkpoint.refuse_unsound()
    if checkpoint.unwritten is not None:
        logging.getLogger("ropewalk").warning("%s; %s", checkpoint.unwritten.warning, checkpoint.unwritten.in_python)
    return Loaded(checkpoint.load(request.dtype, request.device), checkpoint.tokenizer())
