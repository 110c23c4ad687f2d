"""Whether a folder's weights are all there: every file complete, every tensor of the model in them."""

from __future__ import annotations

import copy
import logging
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from torch import Tensor

from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.common.files import listed
from ropewalk.common.outside import open_file, parse, read_json
from ropewalk.rope.config import quiet, text_config
from ropewalk.rope.trial import class_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LARGEST_INDEX = 1 << 26  # bytes; of models with hundreds of experts they have some 20 MB
NAMED = "transformers_weights"  # by which transformers takes a file of any kind
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
MERGE = "With peft: model.merge_and_unload().save_pretrained(OUT)"
AGAIN = "Download or save the checkpoint again."
RIGHT_CONFIG = "Use the config.json that came with these weights, or download them again."
ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save)\.")
OTHER_PARTS = re.compile(r"vision|visual|image|video|audio|speech|multi_modal|projector|(^|\.)mtp|nextn")
LAYER = re.compile(r"\.layers\.(\d+)\.")
# Tables and masks that older checkpoints hold and every model computes itself.
WITHOUT_EFFECT = re.compile(r"rotary_emb\.\w+$|(^|\.)(masked_bias|position_ids|(attn|attention|self_attn)\.bias)$")
FLOATS = ("F64", "F32", "F16", "BF16")
WITHOUT_FP8 = frozenset("aqlm awq bitnet bitsandbytes eetq gptq higgs hqq spqr vptq".split())  # codes are integers

Header = dict[str, tuple[tuple[int, ...], str]]  # name of a tensor -> its shape, and its type as the format calls it


def check_weights(folder: Path) -> list[Path]:
    """The safetensors files that a folder's model is loaded from, each complete and sound; nothing else is ever opened.

    Raises:
        UserError: naming the file that is missing, truncated, outside of the folder, not safetensors, or under a name
            that transformers does not look for; or what in its header, the index or the configuration is wrong.
    """
    config = folder / "config.json"
    content = read_json(config) if config.is_file() else {}
    named = content.get(NAMED)
    if named is not None:
        raise UserError(
            f"{config}: key {NAMED!r} names a file of its own for the weights ({named!r}); ropewalk opens only "
            "model.safetensors, or what model.safetensors.index.json names",
            f"{setting(folder, {NAMED: None})}   (or rename the file)",
        )
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        raise UserError(
            f"{adapter}: an adapter that is not merged; its weights would be loaded on top, or left out",
            MERGE + ", or move the adapter's files elsewhere.",
        )
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    weight_map = {}
    if whole.is_file():
        files = [whole]
    elif index.is_file():
        weight_map = _indexed(index)
        files = sorted({folder / name for name in weight_map.values()})
    else:
        raise _no_weights(folder)
    headers = {file: _header(file) for file in files}
    _refuse_misplaced(folder, headers, weight_map)
    _refuse_codes(folder, {name: kind for header in headers.values() for name, (_, kind) in header.items()}, content)
    return files


def _no_weights(folder: Path) -> UserError:
    """Why there is nothing that transformers would load."""
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    if others:
        alone = len(others) == 1 and not re.search(r"-of-|consolidated|adapter", others[0])
        return UserError(
            f"{folder} holds {listed(others)}, and transformers loads only model.safetensors, or what "
            "model.safetensors.index.json names",
            f"mv {folder / others[0]} {folder / 'model.safetensors'}"
            if alone
            else "Download the rest too, or save the model again: model.save_pretrained(OUT).",
        )
    pickles = sorted(p.name for kind in PICKLED for p in folder.glob(f"*{kind}"))
    if pickles:
        return UserError(
            f"{folder} holds only pickled weights ({pickles[0]}), which ropewalk does not load",
            "Convert them: model.save_pretrained(OUT) writes safetensors.",
        )
    return UserError(f"{folder} holds no weights (*.safetensors)", "Download the checkpoint again.")


def _refuse_misplaced(folder: Path, headers: Mapping[Path, Header], weight_map: Mapping[str, str]) -> None:
    """Refuse a tensor that stands twice, or in another file than the index says: which one counts is then chance."""
    found: dict[str, Path] = {}
    for file, header in headers.items():
        for name in header:
            place = folder / weight_map.get(name, file.relative_to(folder))
            if name in found or place != file:
                other = found.get(name)
                what = f"stands in {other.name} too" if other else f"belongs into {place.name}, by the index"
                raise UserError(f"weights file {file}: tensor {name!r} {what}", AGAIN)
            found[name] = file


def _refuse_codes(folder: Path, kinds: Mapping[str, str], content: Mapping[str, Any]) -> None:
    """Refuse quantised weights that transformers would take for plain numbers, and a configuration that it refuses."""
    how, method = content.get("quantization_config"), ""
    if how is not None:
        from transformers.quantizers.auto import AutoHfQuantizer

        try:
            with quiet():
                known = AutoHfQuantizer.supports_quant_method(how)
        except (ValueError, AttributeError, TypeError):
            known = False
        method = str(how.get("quant_method")) if isinstance(how, dict) else ""
        if not known:
            raise UserError(
                f"{folder / 'config.json'}: key 'quantization_config' is {how!r:.80}, expected one with a "
                "'quant_method' that transformers knows; it would load the weights as plain numbers, or not at all",
                f"{setting(folder, {'quantization_config': None})}   (if the weights are not quantised)",
            )
    for name, kind in kinds.items():
        if kind not in FLOATS and kind.startswith(("F8", "F6", "F4")) and (how is None or method in WITHOUT_FP8):
            raise UserError(
                f"{folder}: tensor {name!r} is {kind}, codes of quantised weights, and config.json "
                + (f"says {method!r}, which has none" if method else "has no quantization_config")
                + "; they would be taken for plain numbers",
                RIGHT_CONFIG,
            )


def _indexed(index: Path) -> dict[str, str]:
    """Name -> file of every tensor, as an index says: safetensors, inside the folder."""
    content = read_json(index, most=LARGEST_INDEX)
    weight_map = content.get("weight_map")
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
    if not isinstance(content.get("metadata"), dict):
        raise UserError(
            f"{index} has no 'metadata', without which transformers does not load the files",
            setting(index.parent, {f"{index.name}:metadata": {}}),
        )
    return {name: str(file) for name, file in weight_map.items()}


def _header(file: Path) -> Header:
    """The tensors in a safetensors file that is complete and sound, by the format's own reader.

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
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            said = f": {error}" if isinstance(error, ValueError) else ""
            raise UserError(f"weights file {file} has an unreadable header{said}", again) from None
    if size != expected:
        raise UserError(f"weights file {file} is truncated: {size} bytes, its header says {expected}", again)
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (tuple(part.get_shape()), str(part.get_dtype())) for name, part in slices.items()}
    except Exception as error:  # SafetensorError, and what Python's side of the reader raises
        raise UserError(f"weights file {file} has an unsound header: {error}", again) from None


def read_headers(files: Sequence[Path]) -> Header:
    """The tensors of several files."""
    return {name: entry for file in files for name, entry in _header(file).items()}


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
    if reason := compared(files, config):
        logging.getLogger("ropewalk").warning(
            "%s: the names of the weights were not compared with the model's: %s", files[0].parent, reason
        )


def compared(files: Sequence[Path], config: PreTrainedConfig) -> str:
    """Why weights could not be compared with their architecture, see ``refuse_renamed``; empty if they were.

    Raises:
        UserError: as ``refuse_incomplete``.
    """
    place, header = files[0].parent, read_headers(files)
    kind = class_of(config)
    reason = "its own code names them" if kind is None else ""
    if getattr(config, "quantization_config", None):
        reason = "they are quantised"
    if kind is not None and not reason:
        try:
            refuse_twice(place, kind.base_model_prefix, header)
            shapes = {name: shape for name, (shape, _) in header.items()}
            refuse_incomplete(place, *_without_values(kind, config, shapes), config)
            if any(stored not in FLOATS for _, stored in header.values()):
                with torch.device("meta"), quiet():
                    plain = kind(copy.deepcopy(config))
                refuse_cast(place, plain, header)
            return ""
        except UserError:
            raise
        except Exception as error:  # many kinds, of a model that needs something else to be made
            refuse_unjoined(place, error)
            reason = f"{kind.__name__} cannot be made without them ({type(error).__name__})"
    return reason


def lacking(files: Sequence[Path], kind: Any, config: PreTrainedConfig) -> list[str]:
    """Tensors of a model that weights do not hold; only headers are read.

    Names are compared as transformers loads them, see ``refuse_renamed``; where it cannot, a warning says so.

    Args:
        files: complete safetensors files.
        kind: class of the model.
        config: the configuration beside them.

    Raises:
        UserError: if tensors that make one together are missing.
    """
    try:
        return sorted(_without_values(kind, config, {k: shape for k, (shape, _) in read_headers(files).items()})[1][
            "missing_keys"
        ])  # fmt: skip
    except Exception as error:  # many kinds, of a model that needs something else to be made
        refuse_unjoined(files[0].parent, error)
        logging.getLogger("ropewalk").warning(
            "%s: the names of the weights were not compared with the model's: %s cannot be made without them (%s)",
            files[0].parent, kind.__name__, type(error).__name__,
        )  # fmt: skip
        return []


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


def is_finite(weight: Tensor) -> bool:
    """Whether a tensor holds numbers alone; one pass, for its extremes."""
    if not weight.is_floating_point() or weight.element_size() == 1 or not weight.numel():  # torch compares no float8
        return True
    low, high = weight.detach().aminmax()
    return bool(low.isfinite() and high.isfinite())


def refuse_not_finite(files: Iterable[Path]) -> None:
    """Refuse files with weights that are no numbers; they are read once, tensor by tensor.

    Raises:
        UserError: naming the tensor.
    """
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                if not is_finite(opened.get_tensor(name)):
                    raise UserError(f"{file}: tensor {name!r} holds NaN or infinite numbers", AGAIN)


def refuse_no_numbers(place: Path, live: PreTrainedModel, files: Iterable[Path]) -> None:
    """Refuse weights that are not finite: every answer would be of them, and look like a model's failure.

    Args:
        place: what was loaded.
        live: the model.
        files: of its weights; where these hold numbers alone, it is the type of ``live`` that does not.

    Raises:
        UserError: naming the tensor.
    """
    for name, weight in live.named_parameters():
        if not is_finite(weight):
            refuse_not_finite(files)
            kind = str(weight.dtype).removeprefix("torch.")
            wider = "bfloat16" if weight.dtype == torch.float16 else "float32"
            raise UserError(
                f"{place}: tensor {name!r} holds numbers beyond {torch.finfo(weight.dtype).max:,.6g}, the largest of "
                f"{kind}",
                f"Say --dtype {wider}, which has room for them.",
            )


def refuse_twice(place: Path, prefix: str, header: Header) -> None:
    """Refuse one tensor under two names, with the decoder's prefix and without: either may be the one that is loaded.

    Raises:
        UserError: naming both.
    """
    twice = next((name for name in header if f"{prefix}.{name}" in header), None) if prefix else None
    if twice is not None:
        raise UserError(
            f"{place}: {twice!r} and '{prefix}.{twice}' are one tensor of the model, and both are stored", RIGHT_CONFIG
        )


def refuse_cast(place: Path, live: PreTrainedModel, header: Header) -> None:
    """Refuse whole numbers and truth values where the model has floating-point weights: codes of a quantisation.

    transformers casts them without a word. Where the model itself has such a buffer, they are right.

    Args:
        place: folder, for messages.
        live: the model, with or without values.
        header: of all of its weights.

    Raises:
        UserError: naming tensor, its type, and the type expected.
    """
    if getattr(live.config, "quantization_config", None):
        return
    last = lambda name: name.rpartition(".")[2]  # noqa: E731 - what stands before it may be renamed on the way
    whole = {last(name) for name, value in live.state_dict().items() if not value.is_floating_point()}
    for name, (_, kind) in header.items():
        if kind in FLOATS or WITHOUT_EFFECT.search(name):
            continue
        if last(name) not in whole:
            raise UserError(
                f"{place}: tensor {name!r} is {kind}, expected one of {', '.join(FLOATS)}: config.json has no "
                "quantization_config, so that codes would be taken for plain numbers",
                RIGHT_CONFIG,
            )


def refuse_incomplete(
    place: Path, live: PreTrainedModel, report: Mapping[str, Any], config: PreTrainedConfig | None = None
) -> list[str]:
    """Refuse a loaded model that is not, in every tensor, what lies at ``place``.

    transformers fills tensors that it does not find, or finds in another size, with random numbers, and only warns.
    Tensors that have no place in the model are refused where they would be part of its decoder (a bias, an adapter, one
    more layer: without them it is another model).

    Args:
        place: folder or file, for messages.
        live: the model.
        report: what ``from_pretrained(output_loading_info=True, ignore_mismatched_sizes=True)`` says of its loading.
        config: of the whole checkpoint, of which the model may be a part; None means the model's own.

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
            f"{place}: the weights lack {len(missing)} of the model's tensors: {listed(map(repr, missing))}; "
            f"transformers would fill in random numbers. Likely cause: {cause}",
            mend,
        )
    for name, seen, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{place}: tensor {name!r} is {list(seen)}, config.json makes it {list(expected)}; of another size are "
            f"{len(report['mismatched_keys'])} tensors",
            RIGHT_CONFIG,
        )
    unexpected = [name for name in unexpected if not WITHOUT_EFFECT.search(name)]
    parts = [name for name in unexpected if _in_decoder(live, name, config or live.config)]
    if parts:
        cause, mend = _cause(live, [], parts)
        raise UserError(
            f"{place}: the model that config.json describes has no place for {len(parts)} of the weights' tensors: "
            f"{listed(map(repr, parts))}. Likely cause: {cause}",
            mend,
        )
    return unexpected


def warn_left_out(place: Path, names: Sequence[str]) -> None:
    """Say which tensors a loaded model does without."""
    if names:
        logging.getLogger("ropewalk").warning(
            "%s: %d tensors are not part of the language model and are left out: %s",
            place,
            len(names),
            listed(map(repr, names)),
        )


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


def _in_decoder(live: PreTrainedModel, name: str, config: PreTrainedConfig) -> bool:
    """Whether a tensor without a place lies inside the decoder, or another part that the model has.

    What lies beside the decoder is another tower where there may be one, or a head of another task.
    """
    text = text_config(live.config)
    layer, further = LAYER.search(name), int(getattr(text, "num_nextn_predict_layers", None) or 0)
    layers = int(getattr(text, "num_hidden_layers", 0))
    if getattr(live.config, "quantization_config", None) or (layer and layers <= int(layer[1]) < layers + further):
        return False
    modules, parent = dict(live.named_modules()), name
    while parent not in modules:
        parent = parent.rpartition(".")[0]
    if modules[parent] is live or OTHER_PARTS.search(name):
        return False
    return modules[parent] is not live.base_model or text_config(config) is config
