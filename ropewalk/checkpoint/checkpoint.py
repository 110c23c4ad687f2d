"""A model opened once: its files, configuration, ropes, window and record. It is passed on, never opened again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from ropewalk.carriers import carrier as carriers
from ropewalk.carriers.carrier import Carrier
from ropewalk.checkpoint.adapter_folder import CONFIG as ADAPTER
from ropewalk.checkpoint.adapter_folder import AdapterFolder
from ropewalk.checkpoint.unwritten import Unwritten
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD, record_in
from ropewalk.common.lengths import show
from ropewalk.common.outside import spelled
from ropewalk.rope import config as rope_config
from ropewalk.rope import plain_config, problems, record
from ropewalk.rope.config import quiet, text_config
from ropewalk.rope.keys import read_config, refuse_beside

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

    from ropewalk.checkpoint.gguf.from_gguf import RopeOfFile
    from ropewalk.rope.plain_config import PlainConfig
    from ropewalk.rope.problems import Problem
    from ropewalk.rope.spec import RopeSpec

DEMO = "demo"
MEMORY = "memory.json"
BUNDLED = Path(__file__).parents[1] / "demo" / "model"
DEVICE = re.compile(r"(auto|cpu|cuda|mps|xpu)(:\d+)?")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model's files: each is read when it is first asked for, and once. Nothing is unpickled.

    Attributes:
        name: as the user spelled it: a folder, a config.json, a hub id, a GGUF file, or ``demo``.
        trust_remote_code: run code that comes with it.
    """

    name: str
    trust_remote_code: bool = False

    @classmethod
    def open(cls, model: str | Path | Checkpoint, trust_remote_code: bool = False, sound: bool = True) -> Checkpoint:
        """The checkpoint that ``model`` names, or ``model`` itself if it is one.

        Args:
            model: folder, config.json, hub id, GGUF file, ``demo``, or a checkpoint that was opened before.
            trust_remote_code: run code that comes with it.
            sound: refuse a configuration that leaves the pretrained rope in doubt.

        Raises:
            UserError: if there is no such model, or it is not sound: naming key, value seen, value expected, the mend.
        """
        checkpoint = model if isinstance(model, Checkpoint) else cls(str(model), trust_remote_code)
        if sound:
            checkpoint.refuse_unsound()
        return checkpoint

    @cached_property
    def place(self) -> str:
        """Where it is: a folder, a GGUF file, a configuration of another name, or a hub id.

        What is part of a checkpoint stands for all of it: its config.json or a file of its weights for the folder, the
        folder of one GGUF file for that. The word ``demo`` is the bundled model.

        Raises:
            UserError: if a folder holds several GGUF files and nothing else, or a trained memory.
        """
        name = re.sub(r"^https?://(?:www\.)?(?:huggingface\.co|hf\.co)/", "", self.name)
        path = spelled(name)
        if not path.exists():
            name = name.rstrip("/") or name
            return str(BUNDLED) if name == DEMO else name
        if path.is_dir() and not (path / "config.json").exists():
            files = sorted(file for file in path.iterdir() if file.name.lower().endswith(".gguf"))
            if len(files) > 1:
                raise UserError(
                    f"{path} holds {len(files)} GGUF files and no config.json", f"Name one, for example {files[0]}."
                )
            if not files and (path / MEMORY).is_file():
                _refuse_memory(name)
            return str(files[0]) if files else name
        part = path.is_file() and (path.name == "config.json" or path.suffix == ".safetensors")
        return str(path.parent) if part else name

    @property
    def label(self) -> str:
        """What files that are made of it are called by default: the last part of its name, without an ending."""
        path = Path(self.place)
        path = path.expanduser().resolve() if self.place != str(BUNDLED) else Path(DEMO)
        return path.stem if path.suffix in (".gguf", ".json") else path.name

    def refuse_bundled(self) -> None:
        """Refuse to change the bundled model: it belongs to the installation.

        Raises:
            UserError: if this is the bundled one, under whatever name.
        """
        path = Path(self.place).expanduser()
        if path.exists() and path.samefile(BUNDLED):
            raise UserError(
                f"{self.name!r} is the bundled model, which is not changed in place", f"cp -r {BUNDLED} COPY"
            )

    @cached_property
    def gguf(self) -> Path | None:
        """The GGUF file that it is; None if it is a folder or a hub id."""
        return spelled(self.place) if self.place.lower().endswith(".gguf") else None

    @cached_property
    def adapter(self) -> AdapterFolder | None:
        """The adapter that lies there instead of a model; None if there is none.

        Raises:
            UserError: if it is of a kind that is not read here.
        """
        path = spelled(self.place)
        alone = (path / ADAPTER).is_file() and not (path / "config.json").exists()
        return AdapterFolder.open(path) if alone else None

    @cached_property
    def _file(self) -> RopeOfFile:
        from ropewalk.checkpoint.gguf import from_gguf

        assert self.gguf is not None
        return from_gguf.read(self.gguf)

    @cached_property
    def config_file(self) -> Path:
        """Its config.json; of a hub id it is fetched alone.

        Raises:
            UserError: if there is none, or only an adapter.
        """
        if self.adapter is not None:
            self.adapter.refuse_as_model()
        return rope_config.config_file(self.place) if self.gguf is None else self.folder / "config.json"

    @cached_property
    def beside(self) -> Path | None:
        """The folder whose other files belong to it; None of a configuration of another name, which is itself alone."""
        return self.config_file.parent if self.config_file.name == "config.json" else None

    def refuse_alone(self) -> None:
        """Refuse a configuration that engines do not find: they read a folder's config.json.

        Raises:
            UserError: if this is one of another name.
        """
        if self.gguf is None and self.beside is None:
            raise UserError(
                f"{self.name} is a configuration by itself, and engines read the config.json of a folder",
                "Give the folder that the model is in, with this file as its config.json.",
            )

    @cached_property
    def raw(self) -> dict[str, Any]:
        """config.json as it stands in the file, or as a GGUF's keys make it; every verb asks for it.

        Raises:
            UserError: if it is missing, no JSON object, or holds what no model can have, as a file beside it may, too.
        """
        if self.gguf is not None:
            content: dict[str, Any] = json.loads(self.config.to_json_string())
            return content
        if self.beside is not None:
            refuse_beside(self.beside)
        return read_config(self.config_file)

    @cached_property
    def problems(self) -> list[Problem]:
        """Misconfigurations; empty for a sound model."""
        if self.gguf is not None:
            from ropewalk.checkpoint.gguf import mistakes

            return list(mistakes.problems(self._file))
        if self.carrier is not None:
            shapes = {name: shape for name, (shape, _) in self._headers.items()}
            return carriers.problems(self.carrier, self.raw, shapes, self.name)
        if self.plain is not None:  # no gaps that defaults would fill
            return problems.find(self.raw, self.place)
        found = problems.find(self.raw, self.place, defaults(self.raw))
        try:
            return [*record.contradicted(self.config, self.raw, self.place), *found]
        except UserError:  # who asks for the configuration or the record is told
            return found

    @cached_property
    def notes(self) -> list[str]:
        """What to know of the window that it promises, sound as it is."""
        if self.carrier is not None:
            return carriers.notes(self.carrier)
        if self.gguf is None:
            return problems.notes(self.raw, self.place, None if self.plain is not None else defaults(self.raw))
        from ropewalk.checkpoint.gguf import mistakes

        return mistakes.notes(self._file)

    @cached_property
    def carrier(self) -> Carrier | None:
        """What a model without a rope knows of positions; None of one that has a rope, or that is not known here.

        Raises:
            UserError: if its window is no number of tokens.
        """
        known = self.gguf is None and self.adapter is None and carriers.has_none(self.raw)
        return carriers.carrier_of(self.config) if known else None

    @property
    def _headers(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shapes and types of the weights of a folder; empty where there are none."""
        from ropewalk.checkpoint.weights import read_headers

        files = sorted(Path(self.place).expanduser().glob("*.safetensors"))
        return read_headers(files) if files else {}

    def refuse_unsound(self) -> None:
        """Raise the first problem that leaves the pretrained rope in doubt.

        Raises:
            UserError: naming key, value seen, value expected and the mend.
        """
        for problem in self.problems:
            if problem.code in problems.BLOCKING:
                raise UserError(
                    f"{problem.code}: {problem.key} is {problem.seen!r}, expected {problem.expected}", problem.mend
                )

    @cached_property
    def config(self) -> PreTrainedConfig:
        """The configuration as transformers reads it; copy it before you change it.

        Raises:
            UserError: if transformers refuses it.
        """
        if self.gguf is not None:
            from ropewalk.checkpoint.gguf import dequantised

            config = dequantised.configuration(self._file)
        else:
            config = rope_config.load_config(self.place, self.trust_remote_code)
            if self.beside is not None:
                rope_config.hear_tokenizer(config, self.beside / "tokenizer_config.json")
        config.name_or_path = self.name  # goes into messages
        return config

    @cached_property
    def plain(self) -> PlainConfig | None:
        """What its config.json says, if that is all there is to it; None where transformers has to be asked."""
        return plain_config.read(self.raw) if self.gguf is None else None

    @property
    def outline(self) -> PreTrainedConfig:
        """The configuration for those who only read ropes and sizes in it: without transformers where that can be."""
        return self.config if self.plain is None else cast("PreTrainedConfig", self.plain)

    @cached_property
    def record(self) -> dict[str, Any] | None:
        """How ropewalk extended it, as its configuration notes; None if it did not."""
        return rope_config.record_of(self.outline)

    @cached_property
    def made(self) -> dict[str, Any]:
        """What ropewalk noted of how it made the folder; of a hub id it is fetched alone. Empty if it did not."""
        if self.gguf is not None:
            return {}
        if not Path(self.place).expanduser().exists():
            from transformers.utils import cached_file

            with quiet(), suppress(OSError):  # no record, or no network
                cached_file(self.place, RECORD)
        return {} if self.beside is None else record_in(self.beside)

    @property
    def training(self) -> dict[str, Any]:
        """That its weights were trained under another rope than the pretrained one, as the folder notes it."""
        if self.made.get("method") in (None, "none"):
            return {}
        return {key: self.made[key] for key in ("trained", "merged") if key in self.made}

    @cached_property
    def unwritten(self) -> Unwritten | None:
        """The rope that its weights were trained with, where its configuration does not say it."""
        return Unwritten.of(self.name, self.made, self.outline) if self.training else None

    @cached_property
    def specs(self) -> dict[str, RopeSpec]:
        """Layer type -> rope.

        Raises:
            UserError: if it has no rope that can be described so.
        """
        if self.carrier is not None:
            raise UserError(
                f"{self.name} is of model_type {self.carrier.model_type!r}, which has no rope",
                "For models without a rope there are inspect, plan, extend, compare and evaluate.",
            )
        return rope_config.read(self.outline)

    @cached_property
    def rope(self) -> RopeSpec:
        """The one rope of the layers that see past a sliding window.

        Raises:
            UserError: if these layers have several.
        """
        specs = rope_config.full_attention(self.specs)
        if len(specs) > 1:
            kinds = ", ".join(spec.layer_type for spec in specs)
            raise UserError(f"{self.name} has one rope per layer type ({kinds}); a GGUF from here has one for all")
        return specs[0]

    def starting(self, on_top: bool | None = None) -> dict[str, RopeSpec]:
        """Layer type -> the rope that an extension starts from; see ``rope.config.starting_specs``."""
        return rope_config.starting_specs(self.outline, on_top)

    @cached_property
    def window(self) -> int:
        """The window in tokens that an extension starts from."""
        return rope_config.window_of(self.starting())

    @cached_property
    def promised(self) -> int:
        """Tokens that the configuration promises now; see ``rope.config.promised_by``."""
        return rope_config.promised_by(self.specs)

    @cached_property
    def folder(self) -> Path:
        """A local folder with all its files; a hub id is downloaded into the hub's cache.

        Raises:
            UserError: if the name is that of a configuration or a GGUF file, or the hub does not give it.
        """
        if self.gguf is not None:
            raise UserError(
                f"a folder is needed, and {self.name} is one file",
                self.extending(self.promised, "none" if self.promised <= self.window else "yarn"),
            )
        path = Path(self.place).expanduser()
        if path.is_dir():
            refuse_beside(path)
            return path
        if path.is_file():
            raise UserError(f"the model is needed, and {self.name} is only its configuration", "Give its folder.")
        _ = self.config  # says what is wrong with the name
        from huggingface_hub import snapshot_download

        patterns = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.txt", "*.model", "*.jinja", "*.md"]
        try:
            found = Path(snapshot_download(self.place, allow_patterns=patterns))
        except Exception as error:  # the hub client raises many kinds
            raise UserError(f"the hub did not give {self.name!r}: {str(error).splitlines()[0]}") from None
        refuse_beside(found)
        return found

    def extending(self, to: int, method: str) -> str:
        """The command that writes a folder which reaches ``to`` tokens."""
        return command("extend", self.name, "--to", show(to), "--method", method)

    @property
    def source(self) -> Path:
        """The folder or GGUF file that its weights lie in."""
        return self.folder if self.gguf is None else self.gguf

    @cached_property
    def weights(self) -> list[Path]:
        """The files of its weights, each complete.

        Raises:
            UserError: naming the file that is missing, truncated or not safetensors.
        """
        from ropewalk.checkpoint.weights import check_weights

        return check_weights(self.folder) if self.gguf is None else [self._file.path]

    def refuse_renamed(self) -> None:
        """Refuse weights to be copied that are not those of the architecture; a GGUF's are told when it is loaded.

        Raises:
            UserError: naming the file or the tensors, the likely cause and the mend.
        """
        from ropewalk.checkpoint.weights import refuse_renamed

        if self.gguf is None:
            refuse_renamed(self.weights, self.config)

    def dequantised(self) -> str:
        """A sentence on what a GGUF file's weights are when they are loaded; empty for other checkpoints."""
        if self.gguf is None:
            return ""
        from ropewalk.checkpoint.gguf import dequantised

        return dequantised.size(self._file, self.config)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, the same one at every call.

        Raises:
            UserError: if there is none, or it makes ids that the model's embedding does not have.
        """
        return self._tokenizer

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        from transformers import AutoTokenizer

        if self.gguf is not None:
            from ropewalk.checkpoint.gguf.tokenizer import tokenizer_of

            tokenizer = tokenizer_of(self.gguf)
        else:
            try:
                with quiet():
                    tokenizer = AutoTokenizer.from_pretrained(
                        self.folder, config=self.config, trust_remote_code=self.trust_remote_code
                    )
            except Exception as error:  # many kinds, all about the files
                raise UserError(
                    f"no usable tokenizer in {self.folder}: {_first_line(error)}",
                    "Copy tokenizer.json and tokenizer_config.json there"
                    + (", from where the model came." if (self.folder / "tokenizer.json").exists() else "."),
                ) from None
        vocabulary = int(text_config(self.config).vocab_size)
        unused = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}  # an image's, say
        highest = max((i for i in tokenizer.get_vocab().values() if i not in unused), default=-1)
        if highest >= vocabulary:
            raise UserError(
                f"the tokenizer in {self.source} does not fit the model: it makes ids up to {highest}, "
                f"the embedding has {vocabulary} rows",
                "Use the tokenizer that came with the checkpoint.",
            )
        return tokenizer

    def load(self, dtype: str = "auto", device: str = "auto") -> PreTrainedModel:
        """The model, for evaluation; every weight is from its files, and it rotates as its configuration says.

        Args:
            dtype: "auto" (that of the checkpoint), "float32", "bfloat16" or "float16".
            device: "auto" (CUDA if there is one), "cpu", "cuda", ...

        Raises:
            UserError: naming the file and the mend.
        """
        import torch

        from ropewalk.checkpoint.weights import refuse_no_numbers
        from ropewalk.methods.frequencies.frequency_method import check_live

        if not DEVICE.fullmatch(device):
            raise UserError(f"device is {device!r}, expected auto, cpu or cuda", "Leave --device out.")
        place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if place.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(
                f"device is {device!r}, but this torch sees no CUDA device", "Say --device cpu, or leave it out."
            )
        if dtype not in DTYPES:
            raise UserError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
        self.refuse_unsound()
        _ = self.weights
        if getattr(text_config(self.config), "attn_logit_softcapping", None):
            self.config._attn_implementation = "eager"  # sdpa has no softcap; transformers 5.16 goes on without one
        try:
            live = self._live(dtype)
            live.to(place)  # type: ignore[arg-type]
        except UserError:
            raise
        except Exception as error:  # many kinds, all about the files, or a package that is missing
            install = re.search(r"pip install [^`\n]+", str(error)) if isinstance(error, ImportError) else None
            raise UserError(
                f"transformers cannot load {self.source}: {_first_line(error)}",
                install[0].strip() if install else command("inspect", self.name),
            ) from None
        live.config.name_or_path = self.name  # transformers put the folder there
        if self.carrier is None:
            check_live(live)
        refuse_no_numbers(self.source, live, self.weights if self.gguf is None else [])
        return live.eval()

    def _live(self, dtype: str) -> PreTrainedModel:
        if self.gguf is not None:
            from ropewalk.checkpoint.gguf import dequantised

            return dequantised.model(self._file, self.config, dtype)
        from ropewalk.checkpoint import weights
        from ropewalk.rope.trial import auto_class

        try:
            with quiet():
                loaded: Any = auto_class(self.config).from_pretrained(
                    self.folder,
                    config=self.config,
                    dtype=dtype,
                    use_safetensors=True,
                    trust_remote_code=self.trust_remote_code,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # so that they are reported
                )
        except RuntimeError as error:
            weights.refuse_unjoined(self.folder, error)
            raise
        live: PreTrainedModel = loaded[0]
        weights.warn_left_out(self.folder, weights.refuse_incomplete(self.folder, live, loaded[1], self.config))
        header = weights.read_headers(self.weights)
        weights.refuse_twice(self.folder, live.base_model_prefix, header)
        weights.refuse_cast(self.folder, live, header)
        return live


def local(models: Iterable[str], data: str = "") -> list[Path]:
    """What results must not be written onto: models and a file of texts, those that lie on this machine's disk."""
    places = [os.path.expanduser(Checkpoint(model).place) for model in models]
    texts = os.path.expanduser(data)
    return [Path(place) for place in places if os.path.lexists(place)] + [Path(texts)] * os.path.isfile(texts)


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def defaults(raw: Mapping[str, Any]) -> PreTrainedConfig | None:
    """The language model's configuration that transformers makes of the model type alone; None if it knows none."""
    from transformers import AutoConfig

    inner = raw.get("text_config") if isinstance(raw.get("text_config"), dict) else raw
    model_type = (inner or raw).get("model_type", raw.get("model_type"))
    try:
        with quiet():
            return text_config(AutoConfig.for_model(str(model_type)))
    except Exception:  # unknown types are reported by load_config
        return None


def _refuse_memory(folder: str) -> NoReturn:
    """Refuse what a training of a memory wrote: it is put on its base.

    Raises:
        UserError: with the line that does.
    """
    from ropewalk.methods.memory.trained_memory import MemoryFolder

    held = MemoryFolder.read(folder)
    line = command("evaluate", held.model["name"], "--methods", held.spelling, "--to", held.to)
    raise UserError(f"{folder} is a memory of {held.model['name']}, and no model", f"Put it on that one: {line}")
