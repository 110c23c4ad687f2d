"""A model of its own out of an adapter and its base."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ropewalk.verbs.request import Dtype, Model, Place, Request, verb

if TYPE_CHECKING:
    from ropewalk.training.merging import Merged


@dataclass(frozen=True, kw_only=True)
class MergeRequest(Request):
    """Which adapter, and into what.

    Attributes:
        adapter: Folder of a LoRA adapter, as training here or peft wrote it.
        out: Folder to write; by default one here, named after the adapter.
        base: The model as it was published: a folder, a hub id, or 'demo'; by default the one that the adapter names.
            Where the adapter was trained on an extension by ropewalk, that extension is made again.
        dtype: Of the new weights: auto (that of the base), float32, bfloat16 or float16.
        overwrite: Replace what is at ``out``, if ropewalk wrote it.
        trust_remote_code: Run code that comes with the base.
    """

    adapter: Place = field(kw_only=False)
    out: Place | None = None
    base: Model | None = None
    dtype: Dtype = "auto"
    overwrite: bool = False
    trust_remote_code: bool = False


@verb("merge")
def merge_adapter(request: MergeRequest) -> Merged:
    """Add an adapter to its base, in the base's own precision and under the rope of the adapter's training.

    The merged model must compute what base and adapter do; what rounding changes is measured. Takes four bytes of
    memory per weight.

    Returns:
        The folder, and by how much adapter and rounding move log-probabilities.

    Raises:
        UserError: if the base is another one, is quantised or has another rope, or the merged model computes something
            else; nothing is left behind.
    """
    from ropewalk.training.merging import merge

    return merge(
        request.adapter, request.out, request.base, request.dtype, request.overwrite, request.trust_remote_code
    )
