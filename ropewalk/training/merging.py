"""A model of its own out of an adapter: added to the base in the precision it was published in, and checked twice.

First in float32, where the merged model must compute what base and adapter did; then in the base's own type, where what
rounding took away is measured against what the adapter gave, and the written files are read back.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ropewalk.checkpoint.adapter_folder import AdapterFolder, alike
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.write import trained_folder
from ropewalk.common.errors import UserError
from ropewalk.common.files import folder_to_write
from ropewalk.common.results import Result
from ropewalk.methods.frequencies.frequency_method import check_live
from ropewalk.rope import config as rope_config
from ropewalk.rope import live as rope_live
from ropewalk.training.adapters import load, merged

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedModel

ROWS, TOKENS, SEED = 2, 64, 0  # of the random texts on which models are compared
EXACT = 1e-3  # of log-probabilities in float32: summation in another order
FAINT = 0.25  # of the adapter's effect, from which on rounding is worth a word


@dataclass(frozen=True, repr=False)
class Merged(Result):
    """What ``merge`` wrote.

    Attributes:
        folder: a checkpoint like the base.
        adapter: that was merged.
        base: that it was merged into.
        rope: of the new model, in words.
        dtype: of its weights.
        effect: by how much the adapter moves log-probabilities on random texts, root mean square.
        drift: by how much rounding to ``dtype`` moved them.
    """

    folder: Path
    adapter: str
    base: str
    rope: str
    dtype: str
    effect: float
    drift: float

    @property
    def faint(self) -> bool:
        """Whether rounding is not small beside what the adapter does."""
        return self.drift > FAINT * self.effect

    @property
    def notes(self) -> list[str]:
        """What to know of it."""
        if not self.faint:
            return []
        line = ["ropewalk", "merge", self.adapter, "--base", self.base, "--dtype", "float32"]
        return [
            f"rounding to {self.dtype} is not small beside what so weak an adapter does; float32 keeps it: "
            f"{shlex.join([*line, '-o', f'{self.folder}-float32'])}"
        ]

    def show(self, console: Console) -> None:
        console.print(f"{self.adapter} merged into {self.base}, {self.dtype}")
        console.print(self.rope)
        console.print(
            f"the adapter moves log-probabilities by {self.effect:.2g}, rounding of the merged weights by "
            f"{self.drift:.2g}",
        )
        for note in self.notes:
            console.print(note)
        console.print(f"written to {self.folder}")


def merge(
    adapter: str | Path,
    out: Path | None = None,
    base: str | None = None,
    dtype: str = "auto",
    overwrite: bool = False,
    trust_remote_code: bool = False,
    more: Callable[[Path], None] = lambda folder: None,
    home: Path | None = None,
) -> Merged:
    """Write the base with the adapter in it, under the rope that the adapter was trained with.

    Everything is computed in float32 on the CPU, with four bytes per weight.

    Args:
        adapter: its folder.
        out: folder to write; by default one here, named after the adapter.
        base: the model as it was published; by default the one that the adapter names. Where the adapter was trained
            on an extension of it by ropewalk, that extension is made again.
        dtype: of the new weights: "auto" (each as in the base), "float32", "bfloat16" or "float16".
        overwrite: replace ``out``, if ropewalk wrote it.
        trust_remote_code: run code that comes with the base.
        more: puts more into the folder before it appears.
        home: where the adapter will lie, if elsewhere than now.

    Raises:
        UserError: if the base is another one, is quantised, or has another rope; or if the merged model does not
            compute what base and adapter did, beyond what rounding explains. Nothing is left behind then.
    """
    found = AdapterFolder.open(adapter)
    if not (base or found.base):
        raise UserError(f"{adapter} does not name its base", "Say --base MODEL.")
    try:
        checkpoint = Checkpoint.open(base or found.base, trust_remote_code)
    except UserError as error:
        if base or os.path.exists(found.base):
            raise
        raise UserError(
            f"{adapter} was trained on {found.base!r}, which is not found from here: {error.message}",
            "Name it where it lies: --base FOLDER.",
        ) from None
    if checkpoint.gguf is not None or checkpoint.raw.get("quantization_config"):
        raise UserError(
            f"{checkpoint.name} is quantised, and merging would round the adapter away",
            "Name the model as it was published: --base MODEL.",
        )
    out = folder_to_write(
        out or Path(f"{found.folder.resolve().name}-merged"), [checkpoint.folder, found.folder], overwrite
    )
    model = checkpoint.load("auto", "cpu")
    dtypes = {name: one.dtype if dtype == "auto" else getattr(torch, dtype) for name, one in model.named_parameters()}
    model.float()
    _extend(model, found)
    ids = torch.randint(
        rope_config.text_config(model.config).vocab_size, (ROWS, TOKENS), generator=torch.Generator().manual_seed(SEED)
    )
    plain = _said(model, ids)
    live = load(model, found.folder)
    adapted = _said(live.model.eval(), ids)
    merged(live)
    exact = _said(model, ids)
    if not (off := float((exact - adapted).abs().max())) < EXACT:
        raise UserError(
            f"merged weights do not compute what {found.folder} does on {checkpoint.name}: log-probabilities are off "
            f"by {off:.2g} in float32, expected less than {EXACT:g}"
        )
    for name, one in model.named_parameters():
        one.data = one.data.to(dtypes[name]).float()
    rounded = _said(model, ids)
    effect, drift = _apart(adapted, plain), _apart(rounded, adapted)
    kind = next(iter(dtypes.values()))
    for name, one in model.named_parameters():
        one.data = one.data.to(dtypes[name])
    model.config.dtype = kind
    named = str(home or found.folder)
    _write(model, checkpoint, found, named, out, overwrite, rounded, ids, more)
    rope = found.trained if found.rope else ""
    return Merged(out, named, checkpoint.name, rope, str(kind).removeprefix("torch."), effect, drift)


def _extend(model: PreTrainedModel, found: AdapterFolder) -> None:
    """Extend the base as it was for the adapter's training, if it is the one that was extended there."""
    if found.rope is None or found.extension is None or alike(found.rope, rope_config.read(model.config)):
        return
    before = {key: rope_config.spec_from_json(entry) for key, entry in found.extension["pretrained"].items()}
    if not alike(before, rope_config.pretrained_specs(model.config)):
        return  # loading says what is wrong
    parameters = found.extension["rope_parameters"]
    rope_config.write(model.config, parameters, int(found.extension["target"]), found.extension)
    rope_live.rebuild(model, parameters)
    check_live(model)


@torch.no_grad()
def _said(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Log-probabilities of the next tokens, float32 [B, N, V]."""
    return model(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean().sqrt())


def _write(
    model: PreTrainedModel,
    checkpoint: Checkpoint,
    found: AdapterFolder,
    named: str,
    out: Path,
    overwrite: bool,
    expected: Tensor,
    ids: Tensor,
    more: Callable[[Path], None],
) -> None:
    """Write the folder, and read it back before it appears."""
    record = {
        "merged": named,
        "source": checkpoint.name,
        "method": None if found.extension is None else found.extension["method"],
        **found.training,
    }
    length = None if found.extension is None else int(found.extension["target"])
    with trained_folder(
        model, checkpoint, out, record, length=length, sources=[found.folder], overwrite=overwrite
    ) as folder:
        again = _said(Checkpoint(str(folder), checkpoint.trust_remote_code).load("float32", "cpu"), ids)
        if not (off := float((again - expected).abs().max())) < EXACT:
            raise UserError(f"what was written does not compute what was merged: off by {off:.2g}")
        more(folder)
