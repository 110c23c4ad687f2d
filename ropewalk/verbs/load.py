"""A model and its tokenizer, checked and ready to run."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ropewalk.verbs.request import LiveRequest, verb

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Loaded(NamedTuple):
    """What ``load`` returns; ``model, tokenizer = ropewalk.load(...)`` takes it apart.

    Attributes:
        model: in evaluation mode, on its device.
        tokenizer: its own; every id that it makes is a row of the model's embedding.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


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

    checkpoint = Checkpoint.open(request.model, request.trust_remote_code)
    return Loaded(checkpoint.load(request.dtype, request.device), checkpoint.tokenizer())
