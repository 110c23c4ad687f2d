"""From what a user types to a checked folder, a model and a tokenizer. Nothing is unpickled."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.inspection import refuse_unsound
from ropewalk.common.errors import UserError
from ropewalk.rope.config import load_config, quiet, read_json, text_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DEMO = "demo"
DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve(model: str) -> str:
    """The bundled model's folder for the word ``demo``; anything else as it is."""
    if model != DEMO or Path(model).is_dir():
        return model
    return str(Path(__file__).parents[1] / "demo" / "model")


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
    from transformers import AutoModelForCausalLM

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
        with quiet():
            live: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
            )
            live.to(place)  # type: ignore[arg-type]
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"transformers cannot load {folder}: {reason}", f"ropewalk inspect {model}") from None
    check_live(live)
    return live.eval(), tokenizer, folder
