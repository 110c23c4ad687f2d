"""Whether a folder's weights are all there: every file complete, every tensor of the model in them."""

from __future__ import annotations

import copy
import logging
import re
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.common.outside import open_file, parse, read_json
from ropewalk.rope.config import quiet, text_config
from ropewalk.rope.trial import class_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

SHOWN = 3  # names in a message
LARGEST_INDEX = 1 << 26  # bytes; of models with hundreds of experts they have some 20 MB
NAMED = "transformers_weights"  # by which transformers takes a file of any kind
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
MERGE = "With peft: model.merge_and_unload().save_pretrained(OUT)"
AGAIN = "Download or save the checkpoint again."
RIGHT_CONFIG = "Use the config.json that came with these weights, or download them again."
ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save)\.")
LAYER = re.compile(r"\.layers\.(\d+)\.")
# Tables and masks that older checkpoints hold and every model computes itself.
WITHOUT_EFFECT = re.compile(r"rotary_emb\.\w+$|(^|\.)(masked_bias|position_ids|(attn|attention|self_attn)\.bias)$")


def check_weights(folder: Path) -> list[Path]:
    """The safetensors files that a folder's model is loaded from, each complete and sound; nothing else is ever opened.

    Raises:
        UserError: naming the file that is missing, truncated, outside of the folder, or not safetensors, or what in its
            header is wrong.
    """
    config = folder / "config.json"
    named = read_json(config).get(NAMED) if config.is_file() else None
    if named is not None:
        raise UserError(
            f"{config}: key {NAMED!r} names a file of its own for the weights ({named!r}); ropewalk opens only "
            "model.safetensors, or what model.safetensors.index.json names",
            f"ropewalk inspect {folder} --set {NAMED}=null   (or rename the file)",
        )
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise UserError(
            f"{adapter}: an adapter that is not merged; its weights would be loaded on top, or left out",
            MERGE + ", or move the adapter's files elsewhere.",
        )
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if whole.is_file():
        files = [whole]
    elif index.is_file():
        files = _indexed(folder, index)
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(p.name for kind in PICKLED for p in folder.glob(f"*{kind}"))
        if pickles:
            raise UserError(
                f"{folder} holds only pickled weights ({pickles[0]}), which ropewalk does not load",
                "Convert them: model.save_pretrained(OUT) writes safetensors.",
            )
        raise UserError(f"{folder} holds no weights (*.safetensors)", "Download the checkpoint again.")
    for file in files:
        _shapes(file)
    return files


def _indexed(folder: Path, index: Path) -> list[Path]:
    """The files that an index names: safetensors, inside the folder."""
    weight_map = read_json(index, most=LARGEST_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index} has no 'weight_map'", "Download the checkpoint again.")
    for name in (str(name) for name in weight_map.values()):
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:
            raise UserError(f"{index} names {name!r}, a file outside of the folder", "Download the checkpoint again.")
        if path.suffix != ".safetensors":
            raise UserError(
                f"{index} names {name!r}, which is no safetensors file; ropewalk opens no other kind",
                "Convert the weights: model.save_pretrained(OUT) writes safetensors.",
            )
    return sorted({folder / str(name) for name in weight_map.values()})


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in a safetensors file that is complete and sound, by the format's own reader.

    It refuses offsets that overlap, leave gaps, run backwards, or disagree with shapes and types.
    """
    again = "Download the file again."
    if not file.is_file():
        raise UserError(f"weights file {file} is missing", again)
    size = file.stat().st_size
    with open_file(file) as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, 100_000_000):
            raise UserError(f"weights file {file} is truncated or no safetensors file ({size} bytes)", again)
        try:
            header = parse(stream.read(length).decode("utf-8"))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise UserError(f"weights file {file} has an unreadable header", again) from None
    if size != expected:
        raise UserError(f"weights file {file} is truncated: {size} bytes, its header says {expected}", again)
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except Exception as error:  # SafetensorError, and what Python's side of the reader raises
        raise UserError(f"weights file {file} has an unsound header: {error}", again) from None


class _Named(Tensor):
    """A tensor of a file's header: a shape without values, wherever it is moved."""

    def to(self, *_: Any, **__: Any) -> _Named:
        return self


def refuse_renamed(files: Sequence[Path], config: PreTrainedConfig) -> None:
    """Refuse weights that are not, by names and shapes, those of the architecture; only headers are read.

    transformers itself loads tensors without values, so that its renaming, joining of experts and tying count. Where it
    cannot (code that comes with the model, quantised weights), a warning says that names were not compared.

    Args:
        files: complete safetensors files.
        config: the configuration beside them.

    Raises:
        UserError: as ``refuse_incomplete``.
    """
    place, shapes = files[0].parent, {name: shape for file in files for name, shape in _shapes(file).items()}
    kind = class_of(config)
    reason = "its own code names them" if kind is None else ""
    if getattr(config, "quantization_config", None):
        reason = "they are quantised"
    if kind is not None and not reason:
        try:
            refuse_incomplete(place, *_without_values(kind, config, shapes))
            return
        except UserError:
            raise
        except Exception as error:  # many kinds, of a model that needs something else to be made
            refuse_unjoined(place, error)
            reason = f"{kind.__name__} cannot be made without them ({type(error).__name__})"
    logging.getLogger("ropewalk").warning(
        "%s: the names of the weights were not compared with the model's: %s", place, reason
    )


def _without_values(
    kind: Any, config: PreTrainedConfig, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model on the meta device, and what transformers reports of loading tensors of these names and shapes."""

    def nothing(*_: Any, **__: Any) -> None:
        """What is missing stays without values too."""

    filled = {"_move_missing_keys_from_meta_to_device": nothing, "_initialize_missing_keys": nothing}
    skeleton: Any = type(kind.__name__, (kind,), {"__module__": kind.__module__, **filled})
    state = {name: torch.empty(shape, device="meta").as_subclass(_Named) for name, shape in shapes.items()}
    with quiet():
        live, report = skeleton.from_pretrained(
            None,
            config=copy.deepcopy(config),
            state_dict=state,
            dtype="float32",
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    return live, report


def refuse_unjoined(place: Path, error: Exception) -> None:
    """Refuse what transformers says in loading of tensors that make one together; any other error is left alone.

    Raises:
        UserError: in place of an error about a conversion.
    """
    if isinstance(error, RuntimeError) and "CONVERSION" in str(error):
        raise UserError(  # transformers logs which, and says "see above"
            f"{place}: tensors that make one of the model's together (experts) are missing or differ in size",
            RIGHT_CONFIG,
        ) from None


def refuse_no_numbers(place: Path, live: PreTrainedModel) -> None:
    """Refuse weights that are not finite: every answer would be of them, and look like a model's failure.

    Raises:
        UserError: naming the tensor.
    """
    for name, weight in live.named_parameters():
        if weight.is_floating_point() and weight.element_size() > 1 and weight.numel():  # torch compares no float8
            low, high = weight.detach().aminmax()
            if not (low.isfinite() and high.isfinite()):
                raise UserError(f"{place}: tensor {name!r} holds NaN or infinite numbers", AGAIN)


def refuse_incomplete(place: Path, live: PreTrainedModel, report: Mapping[str, Any]) -> list[str]:
    """Refuse a loaded model that is not, in every tensor, what lies at ``place``.

    transformers fills tensors that it does not find, or finds in another size, with random numbers, and only warns.
    Tensors that have no place in the model are refused where they would be part of its decoder (a bias, an adapter, one
    more layer: without them it is another model).

    Args:
        place: folder or file, for messages.
        live: the model.
        report: what ``from_pretrained(output_loading_info=True, ignore_mismatched_sizes=True)`` says of its loading.

    Returns:
        Tensors without a place elsewhere (a vision tower, a head that guesses further tokens) or in quantised
        checkpoints (scales that other engines read).

    Raises:
        UserError: naming the tensors, the likely cause and the mend.
    """
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        cause, mend = _cause(live, missing, unexpected)
        raise UserError(
            f"{place}: the weights lack {len(missing)} of the model's tensors: {_listed(missing)}; transformers would "
            f"fill in random numbers. Likely cause: {cause}",
            mend,
        )
    for name, seen, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{place}: tensor {name!r} is {list(seen)}, config.json makes it {list(expected)}; of another size are "
            f"{len(report['mismatched_keys'])} tensors",
            RIGHT_CONFIG,
        )
    unexpected = [name for name in unexpected if not WITHOUT_EFFECT.search(name)]
    parts = [name for name in unexpected if _in_decoder(live, name)]
    if parts:
        cause, mend = _cause(live, [], parts)
        raise UserError(
            f"{place}: the model that config.json describes has no place for {len(parts)} of the weights' tensors: "
            f"{_listed(parts)}. Likely cause: {cause}",
            mend,
        )
    return unexpected


def warn_left_out(place: Path, names: Sequence[str]) -> None:
    """Say which tensors a loaded model does without."""
    if names:
        logging.getLogger("ropewalk").warning(
            "%s: %d tensors are not part of the language model and are left out: %s", place, len(names), _listed(names)
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _cause(live: PreTrainedModel, missing: Sequence[str], unexpected: Sequence[str]) -> tuple[str, str]:
    """Why names in the weights are not those of the model, and what mends it."""
    if any(ADAPTER.search(name) for name in unexpected):
        return (
            "an adapter that was not merged into the weights",
            MERGE,
        )
    base = f"{live.base_model_prefix}."
    for wanted in (missing, [name.removeprefix(base) for name in missing]):
        prefix = next((name.removesuffix(wanted[0]) for name in unexpected if wanted and name.endswith(wanted[0])), "")
        if prefix and {prefix + name for name in wanted} <= set(unexpected):
            return (
                f"all names start with {prefix!r}, as a wrapper around the model leaves them (an adapter, "
                "torch.compile, parallel training)",
                "Save the model inside the wrapper: model.merge_and_unload() of peft, model._orig_mod, model.module.",
            )
    if unexpected:
        kind = text_config(live.config).model_type
        return f"weights of another architecture or size than config.json says (model_type {kind!r})", RIGHT_CONFIG
    return "a part of the weights was not saved or downloaded, or config.json says more layers", AGAIN


def _in_decoder(live: PreTrainedModel, name: str) -> bool:
    """Whether a tensor without a place lies inside a part that the model has, below its top level."""
    text = text_config(live.config)
    layer, further = LAYER.search(name), int(getattr(text, "num_nextn_predict_layers", None) or 0)
    layers = int(getattr(text, "num_hidden_layers", 0))
    if getattr(live.config, "quantization_config", None) or (layer and layers <= int(layer[1]) < layers + further):
        return False
    modules, parent = dict(live.named_modules()), name
    while parent not in modules:
        parent = parent.rpartition(".")[0]
    return modules[parent] not in (live, live.base_model, getattr(live.base_model, "language_model", None))
