"""From what a user types to a checked folder, a model and a tokenizer. Nothing is unpickled."""

from __future__ import annotations

import json
import logging
import os
import re
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.inspection import refuse_unsound
from ropewalk.common.errors import UserError
from ropewalk.rope.config import load_config, quiet, read_json, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEMO = "demo"
BUNDLED = Path(__file__).parents[1] / "demo" / "model"
SHOWN = 3  # names in a message
AGAIN = "Download or save the checkpoint again."
RIGHT_CONFIG = "Use the config.json that came with these weights, or download them again."
ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer|modules_to_save)\.")
LAYER = re.compile(r"\.layers\.(\d+)\.")
# Tables and masks that older checkpoints hold and every model computes itself.
WITHOUT_EFFECT = re.compile(r"rotary_emb\.\w+$|(^|\.)(masked_bias|position_ids|(attn|attention|self_attn)\.bias)$")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve(model: str) -> str:
    """The bundled model's folder for the word ``demo``; anything else as it is."""
    if model != DEMO or Path(model).is_dir():
        return model
    return str(BUNDLED)


def refuse_bundled(model: str) -> None:
    """Refuse to change the bundled model: it belongs to the installation.

    Raises:
        UserError: if ``model`` is the bundled one, under whatever name.
    """
    place = Path(resolve(model)).expanduser()
    if place.exists() and place.samefile(BUNDLED):
        raise UserError(f"{model!r} is the bundled model, which is not changed in place", f"cp -r {BUNDLED} COPY")


def local(models: Iterable[str], data: str = "") -> list[Path]:
    """What results must not be written onto: models and a file of texts, those that lie on this machine's disk."""
    places = [os.path.expanduser(resolve(model)) for model in models]
    texts = os.path.expanduser(data)
    return [Path(place) for place in places if os.path.lexists(place)] + [Path(texts)] * os.path.isfile(texts)


def folder_of(model: str) -> Path:
    """A local folder with the model's files; a hub id is downloaded into the hub's cache.

    Raises:
        UserError: if there is no such folder and the hub does not give one.
    """
    path = Path(resolve(model)).expanduser()
    if path.is_dir():
        return path
    load_config(model)  # says what is wrong with the name
    from huggingface_hub import snapshot_download

    patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.md"]
    try:
        return Path(snapshot_download(model, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many kinds
        raise UserError(f"the hub did not give {model!r}: {str(error).splitlines()[0]}") from None


def check_weights(folder: Path) -> list[Path]:
    """The safetensors files of a folder, each complete: the header's last offset is the file's end.

    Raises:
        UserError: naming the file that is missing, truncated or not safetensors.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise UserError(f"{index} has no 'weight_map'", "Download the checkpoint again.")
        files = sorted({folder / str(name) for name in weight_map.values()})
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(p.name for p in folder.glob("*.bin"))
        if pickles:
            raise UserError(
                f"{folder} holds only pickled weights ({pickles[0]}), which ropewalk does not load",
                "Convert them: model.save_pretrained(OUT) writes safetensors.",
            )
        raise UserError(f"{folder} holds no weights (*.safetensors)", "Download the checkpoint again.")
    for file in files:
        _check_safetensors(file)
    return files


def _check_safetensors(file: Path) -> None:
    again = "Download the file again."
    if not file.is_file():
        raise UserError(f"weights file {file} is missing", again)
    size = file.stat().st_size
    with open(file, "rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, 100_000_000):
            raise UserError(f"weights file {file} is truncated or no safetensors file ({size} bytes)", again)
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            raise UserError(f"weights file {file} has an unreadable header", again) from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise UserError(f"weights file {file} is truncated: {size} bytes, its header says {expected}", again)


def load_tokenizer(folder: Path, config: Any, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder.

    Raises:
        UserError: if there is none, or it makes ids that the model's embedding does not have.
    """
    from transformers import AutoTokenizer

    try:
        with quiet():
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code
            )
    except Exception as error:  # many kinds, all about the files
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"no usable tokenizer in {folder}: {reason}", "Copy tokenizer.json and tokenizer_config.json there."
        ) from None
    vocabulary = int(text_config(config).vocab_size)
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= vocabulary:
        raise UserError(
            f"the tokenizer in {folder} does not fit the model: it makes ids up to {highest}, "
            f"the embedding has {vocabulary} rows",
            "Use the tokenizer that came with the checkpoint.",
        )
    return tokenizer


def from_folder(folder: Path, dtype: Any, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a folder, every weight of it from the folder's files.

    transformers fills tensors that it does not find, or finds in another size, with random numbers, and only warns;
    here they are refused. Tensors that have no place in the model are refused where they would be part of its decoder
    (a bias, an adapter, one more layer: without them it is another model). Elsewhere (a vision tower, a head that
    guesses further tokens) and in quantised checkpoints (scales that other engines read) a warning names them.

    Args:
        folder: the checkpoint.
        dtype: as transformers takes it.
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        UserError: naming the tensors, the likely cause and the mend.
        OSError, ValueError, KeyError, RuntimeError: from transformers.
    """
    from transformers import AutoModelForCausalLM

    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported
            )
    except RuntimeError as error:
        if "CONVERSION" not in str(error):
            raise
        raise UserError(  # transformers logs which, and says "see above"
            f"{folder}: tensors that make one of the model's together (experts) are missing or differ in size",
            RIGHT_CONFIG,
        ) from None
    live: PreTrainedModel = loaded[0]
    report: dict[str, Any] = loaded[1]
    missing, unexpected = sorted(report["missing_keys"]), sorted(report["unexpected_keys"])
    if missing:
        cause, mend = _cause(live, missing, unexpected)
        raise UserError(
            f"{folder}: the weights lack {len(missing)} of the model's tensors: {_listed(missing)}; transformers would "
            f"fill in random numbers. Likely cause: {cause}",
            mend,
        )
    for name, seen, expected in sorted(report["mismatched_keys"]):
        raise UserError(
            f"{folder}: tensor {name!r} is {list(seen)}, config.json makes it {list(expected)}; of another size are "
            f"{len(report['mismatched_keys'])} tensors",
            RIGHT_CONFIG,
        )
    unexpected = [name for name in unexpected if not WITHOUT_EFFECT.search(name)]
    parts = [name for name in unexpected if _in_decoder(live, name)]
    if parts:
        cause, mend = _cause(live, [], parts)
        raise UserError(
            f"{folder}: the model that config.json describes has no place for {len(parts)} of the weights' tensors: "
            f"{_listed(parts)}. Likely cause: {cause}",
            mend,
        )
    if unexpected:
        logging.getLogger("ropewalk").warning(
            "%s: %d tensors are not part of the language model and are left out: %s", folder, len(unexpected),
            _listed(unexpected),
        )  # fmt: skip
    return live


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more


def _cause(live: PreTrainedModel, missing: Sequence[str], unexpected: Sequence[str]) -> tuple[str, str]:
    """Why names in the weights are not those of the model, and what mends it."""
    if any(ADAPTER.search(name) for name in unexpected):
        return (
            "an adapter that was not merged into the weights",
            "With peft: model.merge_and_unload().save_pretrained(OUT)",
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


def load(
    model: str, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Path]:
    """Model (evaluation mode), tokenizer and folder; the live rotations are checked against the configuration.

    Args:
        model: folder, hub id or ``demo``.
        dtype: "auto" (that of the checkpoint), "float32", "bfloat16" or "float16".
        device: "auto" (CUDA if there is one), "cpu", "cuda", ...
        trust_remote_code: run code that comes with the checkpoint.

    Raises:
        UserError: naming the file and the mend.
    """
    import torch

    from ropewalk.methods.frequencies.frequency_method import check_live

    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if place.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"device is {device!r}, but this torch sees no CUDA device", "Say --device cpu, or leave it out."
        )
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    refuse_unsound(resolve(model))
    config = load_config(resolve(model), trust_remote_code)
    folder = folder_of(model)
    check_weights(folder)
    tokenizer = load_tokenizer(folder, config, trust_remote_code)
    try:
        live = from_folder(folder, dtype, trust_remote_code)
        live.to(place)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"transformers cannot load {folder}: {reason}", f"ropewalk inspect {model}") from None
    check_live(live)
    return live.eval(), tokenizer, folder
