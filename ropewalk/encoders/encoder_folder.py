"""An embedding model's files: its encoder, what it knows of positions, how it pools and where texts are cut.

A folder of sentence-transformers lists its modules in ``modules.json``: the encoder, a pooling, and what comes behind;
without that file it is an encoder alone, which that library pools by the mean. No weights are read here.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any, TypeGuard

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD, listed
from ropewalk.common.outside import RESTORE, parse, read_bytes, read_json
from ropewalk.encoders.families import BIAS, FAMILIES, ROPE, ROPE_KEYS, ROTATING, TABLE, UNKNOWN, Family
from ropewalk.encoders.vision.end_of_text import pooled_elsewhere
from ropewalk.rope.config import load_config
from ropewalk.rope.problems import Problem

MODULES = "modules.json"
POOLINGS = ("cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
AT_END = "end token"
OLDER = "pooling_mode_"  # the spelling of older files: one switch for each
SWITCHES = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens":
            "mean_sqrt_len_tokens", "weightedmean_tokens": "weightedmean", "lasttoken": "lasttoken"}  # fmt: skip
SETTINGS = tuple(  # of the encoder, in sentence-transformers' own order
    f"sentence_{kind}_config.json" for kind in "bert roberta distilbert camembert albert xlm-roberta xlnet".split()
)
TOKENIZER = "tokenizer_config.json"
ENCODERS = ("Transformer", "CLIPModel")  # modules that read texts
MOST = "max_seq_length"
OF_TOKENIZER = ("processor_kwargs.model_max_length", "tokenizer_args.model_max_length")  # in settings; before MOST
DOCUMENTS, QUESTIONS = "document_length", "query_length"  # of one kind alone, where sentence-transformers 6 notes them
OF_CALL = "processing_kwargs.text.max_length"  # in settings; before all others
CUTS = (*OF_TOKENIZER, MOST, DOCUMENTS, OF_CALL)  # where settings say at how many tokens a text is cut
WORDS = ("tokenizer.json", "vocab.txt", "vocab.json", "tekken.json")  # files of tokenizers, by name
WORD_MODELS = (".model", ".tiktoken")  # and by ending
ENCODER_CLASSES = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel"}  # where sentence-transformers takes a half
POOLER = re.compile(r"(^|\.)pooler\.")  # what makes a vector of the first token
ALL = "all"
DECIDING = frozenset({".safetensors", ".json", ".txt", ".model", ".bin"})
BOUNDLESS = 10**9  # tokens: what tokenizers say that have no limit
WRITERS = ("CausalLM", "LMHeadModel", "ConditionalGeneration")  # models that go on with a text


@dataclass(frozen=True)
class Part:
    """An entry of ``modules.json``.

    Attributes:
        kind: class name, such as Pooling.
        folder: where its files are.
    """

    kind: str
    folder: Path


def is_encoder(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint is one for embeddings: its folder lists modules, or its architecture writes no text."""
    if checkpoint.gguf is not None or checkpoint.adapter is not None:
        return False
    place = Path(checkpoint.place).expanduser()
    if (place / MODULES).is_file():
        return True
    try:
        config = checkpoint.raw
    except UserError:
        return False  # who reads the configuration says what is wrong with it
    names = config.get("architectures") or []
    writes = config.get("is_decoder") is True or any(str(name).endswith(WRITERS) for name in names)
    return config.get("model_type") in (*FAMILIES, *ROTATING) and not writes


def refuse_encoder(checkpoint: Checkpoint) -> None:
    """Refuse an embedding model where a model that writes is needed.

    Raises:
        UserError: naming it, and the verbs that there are for it.
    """
    if is_encoder(checkpoint):
        raise UserError(
            f"{checkpoint.name} is an embedding model, expected a model that writes",
            "For embedding models there are inspect, plan, extend, compare and evaluate.",
        )


@dataclass(frozen=True, eq=False)
class EncoderFolder:
    """The files of one; each is read when it is first asked for.

    Attributes:
        checkpoint: the folder, or a hub id.
    """

    checkpoint: Checkpoint

    @classmethod
    def open(cls, model: str | Path | Checkpoint) -> EncoderFolder:
        """A folder or a hub id.

        Raises:
            UserError: if there is no such model, or it is none that embeds.
        """
        checkpoint = model if isinstance(model, Checkpoint) else Checkpoint(str(model))
        if not is_encoder(checkpoint):
            raise UserError(
                f"{checkpoint.name} is no embedding model: it lists no modules ({MODULES}), and its architecture is "
                "none of " + ", ".join([*FAMILIES, *sorted(ROTATING)]),
                "Name the folder of an embedding model.",
            )
        return cls(checkpoint)

    @property
    def name(self) -> str:
        return self.checkpoint.name

    @cached_property
    def path(self) -> Path:
        return self.checkpoint.folder

    @cached_property
    def parts(self) -> list[Part]:
        """The modules; empty of an encoder alone.

        Raises:
            UserError: if the file lists none, or one that leads out of the folder.
        """
        file = self.path / MODULES
        if not file.is_file():
            return []
        try:
            content = parse(read_bytes(file).decode("utf-8"))
        except ValueError as error:
            raise UserError(f"{file} is not valid JSON: {error}", RESTORE) from None
        entries = content if isinstance(content, list) else []
        if not entries or not all(isinstance(one, dict) and isinstance(one.get("type"), str) for one in entries):
            raise UserError(f"{file}: expected a list of modules, each with a type", RESTORE)
        found = []
        for entry in entries:
            inside = str(entry.get("path", ""))
            folder = self.path / inside
            if not folder.resolve().is_relative_to(self.path.resolve()):
                raise UserError(f"{file}: path is {inside!r}, expected a folder inside of {self.path}")
            found.append(Part(entry["type"].rpartition(".")[2], folder))
        return found

    @cached_property
    def encoder(self) -> Path:
        """The folder of the encoder itself.

        Raises:
            UserError: if the first module is another.
        """
        if not self.parts:
            return self.path
        first = self.parts[0]
        if first.kind not in ENCODERS:
            raise UserError(
                f"{self.path / MODULES}: the first module is {first.kind}, expected Transformer",
                "Only models that are a Transformer and what pools it can be made longer here.",
            )
        return first.folder

    @cached_property
    def written(self) -> Mapping[str, Any]:
        """All of config.json."""
        return read_json(self.encoder / "config.json")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """Of the encoder, as its config.json says it."""
        if self.family is None or not self.family.inside:
            return self.written
        found = dict(self.family.defaults)
        for key in self.family.inside:
            if isinstance(said := self.written.get(key), dict):
                found |= {**self.family.defaults, **said}
        return found

    def places(self, key: str) -> list[str]:
        """Where config.json says a key of the encoder: with dots, as ``--set`` has it."""
        inside = self.family.inside if self.family is not None else ()
        said = [outer for outer in inside if isinstance(self.written.get(outer), dict)] or list(inside[:1])
        return [f"{outer}.{key}" for outer in said] or [key]

    @property
    def model_type(self) -> str:
        return str(self.written.get("model_type"))

    @cached_property
    def family(self) -> Family | None:
        """Where it keeps what it knows of positions; None if it rotates, or is not known."""
        return FAMILIES.get(self.model_type)

    @cached_property
    def positions(self) -> str:
        """What decides how far it reads: ``TABLE``, ``ROPE``, ``BIAS``, or ``UNKNOWN``."""
        if self.family is not None:
            return TABLE if self.family.table else BIAS
        return ROPE if self.model_type in ROTATING or not ROPE_KEYS.isdisjoint(self.config) else UNKNOWN

    @cached_property
    def rotating(self) -> Checkpoint:
        """The encoder itself, for those who read and write its rope."""
        return self.checkpoint if self.encoder == self.path else Checkpoint(str(self.encoder))

    @cached_property
    def window(self) -> int | None:
        """Tokens that its table of positions has rows for, or that its rope is for; None if nothing of it ends.

        Raises:
            UserError: if the configuration does not say it.
        """
        if self.positions == ROPE:
            return self.rotating.promised
        if self.family is None or not self.family.table:
            return None
        rows = self.config.get("max_position_embeddings")
        first = self.family.row(self.config)
        if not isinstance(rows, int) or isinstance(rows, bool) or rows < first + 2:
            raise UserError(
                f"{self.places('max_position_embeddings')[-1]} is {rows!r} in {self.encoder / 'config.json'}, expected "
                f"{first + 2} or more",
                "Restore the file: it is the number of rows of the table of positions.",
            )
        return rows - first

    @cached_property
    def settings_file(self) -> Path:
        """Where sentence-transformers notes the length; it need not be there, and is read of a list of modules only."""
        return next((self.encoder / name for name in SETTINGS if (self.encoder / name).is_file()),
                    self.encoder / SETTINGS[0])  # fmt: skip

    @cached_property
    def settings(self) -> Mapping[str, Any]:
        return read_json(self.settings_file) if self.parts and self.settings_file.is_file() else {}

    @cached_property
    def told(self) -> dict[str, Any]:
        """``FILE:key`` -> what is said there of tokens at which texts are cut, as ``--set`` has it; without null."""
        keys = (*CUTS, QUESTIONS)
        told = {self.key(self.settings_file.name, key): _inside(self.settings, key) for key in keys}
        tokenizer = self.encoder / TOKENIZER
        if tokenizer.is_file():
            told[self.key(TOKENIZER, "model_max_length")] = read_json(tokenizer).get("model_max_length")
        return {key: value for key, value in told.items() if value is not None}

    @cached_property
    def limits(self) -> dict[str, int]:
        """``FILE:key`` -> tokens at which texts are cut there; without those that say nothing."""
        return {key: int(value) for key, value in self.told.items() if _is_limit(value) and value < BOUNDLESS}

    @cached_property
    def cuts_at(self) -> str | None:
        """``FILE:key`` of the limit that cuts texts first; None if that is the table, or nothing is."""
        limits = {key: value for key, value in self.told.items() if _is_limit(value)}
        here = {key: self.key(self.settings_file.name, key) for key in CUTS}
        if here[OF_CALL] in limits:
            return here[OF_CALL]
        general = next((here[key] for key in (*OF_TOKENIZER, MOST) if here[key] in limits), None)
        own = [key for key in (general, here[DOCUMENTS]) if key is not None and key in limits]
        tokenizer, rows = self.key(TOKENIZER, "model_max_length"), self.config.get("max_position_embeddings")
        own += [tokenizer] if general is None and tokenizer in limits else []
        if general is None and _is_limit(rows) and all(rows <= limits[key] for key in own):
            return None
        return min(own, key=lambda key: limits[key], default=None)

    @cached_property
    def reads(self) -> int | None:
        """Tokens, those around a text among them, at which sentence-transformers cuts a text; None if it does not."""
        first = self.told[self.cuts_at] if self.cuts_at else self.config.get("max_position_embeddings")
        return int(first) if _is_limit(first) and (first < BOUNDLESS or self.positions == TABLE) else None

    def key(self, file: str, key: str) -> str:
        """A key in a file of the encoder's, as ``--set`` has it."""
        inside = (self.encoder / file).relative_to(self.path).as_posix()
        return key if inside == "config.json" else f"{inside}:{key}"

    @cached_property
    def poolings(self) -> tuple[str, ...]:
        """How token states become one vector; several are put side by side. Empty where nothing says it.

        Raises:
            UserError: if it is none that is known.
        """
        pooling, content = self._pooling
        if pooling is None:
            if self.family is not None and self.family.tower:  # CLIP itself pools
                return (AT_END,)
            if self.parts and self.settings.get("module_output_name") != "sentence_embedding":
                raise UserError(
                    f"{self.path / MODULES}: none of {' > '.join(part.kind for part in self.parts)} pools, expected a "
                    "module Pooling; what comes out is no vector of a text",
                    RESTORE,
                )
            return ()
        told = content.get("pooling_mode")
        modes: Sequence[Any] = [told] if isinstance(told, str) else told if isinstance(told, list) else []
        if told is None:
            on = [key.removeprefix(OLDER) for key, value in content.items() if key.startswith(OLDER) and value is True]
            modes = [SWITCHES.get(switch, switch) for switch in on]
        unknown = [mode for mode in modes if mode not in POOLINGS]
        if not modes or unknown:
            raise UserError(
                f"{pooling}: the pooling is {unknown[0] if unknown else None!r}, expected one of {', '.join(POOLINGS)}",
                "Restore the file, or say how it pools: "
                + setting(self.name, {f"{pooling.relative_to(self.path).as_posix()}:pooling_mode": "mean"}),
            )
        return tuple(modes)

    @property
    def pools_by_mean(self) -> bool:
        """Whether it pools by the mean over tokens alone, which late chunking needs."""
        return self.poolings in ((), ("mean",))

    @property
    def pools_prompts(self) -> bool:
        """Whether the tokens of a prompt are pooled as all others are."""
        return self._pooling[1].get("include_prompt", True) is not False

    @cached_property
    def _pooling(self) -> tuple[Path | None, Mapping[str, Any]]:
        file = next((part.folder / "config.json" for part in self.parts if part.kind == "Pooling"), None)
        return file, {} if file is None else read_json(file)

    @cached_property
    def prompts(self) -> Mapping[str, str]:
        """Prompts by name, which stand before texts."""
        told = self._library.get("prompts")
        return {str(key): str(value or "") for key, value in told.items()} if isinstance(told, dict) else {}

    @property
    def compared(self) -> str:
        """How vectors are compared, as sentence-transformers names it."""
        return str(self._library.get("similarity_fn_name") or "cosine")

    @property
    def gives_length_one(self) -> bool:
        """Whether its last module makes vectors of length 1, so that all ways to compare them agree."""
        return bool(self.parts) and self.parts[-1].kind == "Normalize"

    @cached_property
    def _library(self) -> Mapping[str, Any]:
        file = self.path / "config_sentence_transformers.json"
        return read_json(file) if file.is_file() else {}

    @cached_property
    def digest(self) -> str:
        """sha256 of all files that decide a vector: weights, configurations and tokenizers, those of modules too."""
        found = hashlib.sha256()
        for file in sorted(self.path.rglob("*")):
            if file.suffix in DECIDING and file.name != RECORD and file.is_file():
                found.update(f"{file.relative_to(self.path).as_posix()}\0".encode())
                with file.open("rb") as stream:
                    while part := stream.read(2**24):
                        found.update(part)
        return found.hexdigest()

    @cached_property
    def table_shape(self) -> tuple[int, ...] | None:
        """Shape of the table of positions in the weights; None if there is none.

        Raises:
            UserError: if weights are missing, damaged or not safetensors.
        """
        found = [shape for name, shape in self.shapes.items() if self.holds_table(name)]
        return found[0] if found else None

    @cached_property
    def lacking(self) -> list[str]:
        """Tensors of the encoder that its weights do not hold; transformers fills them with random numbers, unsaid.

        Raises:
            UserError: as ``table_shape``.
        """
        import transformers

        from ropewalk.checkpoint.weights import check_weights, lacking

        try:
            config = load_config(str(self.encoder))
        except UserError:
            return []  # of other code: nothing loads it either
        half = ENCODER_CLASSES.get(config.model_type, "")
        kind: Any = getattr(transformers, half, None) or transformers.MODEL_MAPPING.get(type(config), None)
        kind = kind[0] if isinstance(kind, tuple) else kind
        if kind is None or getattr(config, "quantization_config", None):
            return []
        found = lacking(check_weights(self.encoder), kind, config)
        pooled = "pooler_output" in str(self.settings.get("modality_config"))
        return found if pooled else [name for name in found if not POOLER.search(name)]

    def refuse_lacking(self) -> None:
        """Refuse an encoder that would be random in part.

        Raises:
            UserError: naming the tensors; or as ``table_shape``.
        """
        if self.lacking:
            problem = self._lacking_problem
            raise UserError(f"{problem.code}: {self.encoder}: {problem.key} are {problem.seen}, expected "
                            f"{problem.expected}", problem.mend)  # fmt: skip

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name of a weight -> its shape."""
        from ropewalk.checkpoint.weights import check_weights, read_headers

        return {name: tuple(shape) for name, (shape, _) in read_headers(check_weights(self.encoder)).items()}

    def holds_table(self, name: str) -> bool:
        """Whether a weight is the table of positions, by its name."""
        table = self.family.table if self.family is not None else ""
        return bool(table) and self.owns(name) and f".{name}".endswith(f".{table}")

    def owns(self, name: str) -> bool:
        """Whether a weight is the encoder's, and not of what stands beside it in its model, by its name."""
        return self.family is not None and f".{name}".find(f".{self.family.tower}") >= 0

    @cached_property
    def problems(self) -> list[Problem]:
        """What is wrong with it; each ends in an error, or a wrong vector, where a long text is read."""
        found = list(self.rotating.problems) if self.positions == ROPE else []
        found += self._limit_problems()
        try:
            held = bool(self.shapes)
        except UserError:
            held = False  # a configuration alone
        window = self.window
        if held:
            found += self._weight_problems()
            if self.family is not None and self.table_shape is not None:  # which counts where the two differ
                window = self.table_shape[0] - self.family.row(self.config)
        if self.positions == TABLE and window is not None and (self.reads or 0) > window:
            found.append(self._cut_behind(window))
        if self.family is not None and self.family.causal:
            keys = [self.key("config.json", key) for key in self.places("eos_token_id")]
            found += pooled_elsewhere(self.name, self.encoder, self.config, keys)
        return found

    def _limit_problems(self) -> list[Problem]:
        expected = "a number of tokens above 0"
        return [
            Problem("limit-invalid", ALL, key, value, expected, setting(self.name, {key: self.window}))
            for key, value in self.told.items()
            if not _is_limit(value)
        ]

    def _cut_behind(self, window: int) -> Problem:
        noted = (self.encoder / TOKENIZER).is_file()
        key = self.cuts_at or self.key(TOKENIZER, "model_max_length")
        mend = setting(self.name, {key: window})
        if self.cuts_at is None and not noted:
            content = json.dumps({"model_max_length": window})
            mend = f"echo {shlex.quote(content)} > {shlex.quote(str(self.encoder / TOKENIZER))}"
        return Problem(
            "cut-behind-the-table", ALL, key, self.reads if self.cuts_at else None,
            f"{window} at most: the table of positions has no more rows, and longer texts end in an error", mend,
        )  # fmt: skip

    def _weight_problems(self) -> list[Problem]:
        found, tables = [], [name for name in self.shapes if self.holds_table(name)]
        if len(tables) > 1:
            found.append(Problem(
                "two-tables", ALL, "weights", f"holding {listed(tables)}", "one table of positions", RESTORE,
            ))  # fmt: skip
        rows = self.config.get("max_position_embeddings")
        if self.table_shape is not None and self.table_shape[0] != rows:
            keys = [self.key("config.json", key) for key in self.places("max_position_embeddings")]
            found.append(Problem(
                "table-of-other-length", ALL, keys[-1], rows,
                f"{self.table_shape[0]}, the rows of the table of positions in the weights",
                setting(self.name, dict.fromkeys(keys, self.table_shape[0])),
            ))  # fmt: skip
        elif self.lacking:
            found.append(self._lacking_problem)
        beside = [file for file in self.encoder.iterdir() if file.name in WORDS or file.suffix in WORD_MODELS]
        if not beside:
            found.append(Problem(
                "tokenizer-missing", ALL, "tokenizer.json", None, "the file of a tokenizer",
                f"Put it into {self.encoder}, from where the model came.",
            ))  # fmt: skip
        return found

    @property
    def _lacking_problem(self) -> Problem:
        names = listed(map(repr, self.lacking))
        return Problem(
            "weights-lacking", ALL, "weights", f"without {len(self.lacking)} tensors of the model: {names}",
            "all of them; transformers would fill in random numbers", RESTORE,
        )  # fmt: skip

    @cached_property
    def notes(self) -> list[str]:
        """What to know of a sound model."""
        window, reads = self.window, self.reads
        if self.positions == BIAS:
            return ["a bias by distance ends nowhere: to read longer texts, limits are raised, and nothing else"]
        if window is None or reads is None or reads == window:
            return []
        if self.positions == TABLE:
            return [f"texts are cut at {reads:,} tokens, though its table of positions has {window:,} rows"]
        beyond = "beyond" if reads > window else "though its rope is for"
        return [
            f"texts are cut at {reads:,} tokens, {beyond} {window:,}" + (" that its rope is for" * (reads > window))
        ]

    def refuse_unsound(self) -> None:
        """Raise the first problem.

        Raises:
            UserError: naming key, value seen, value expected and the mend.
        """
        if self.positions == ROPE:
            self.rotating.refuse_unsound()
        for problem in self.problems[len(self.rotating.problems) if self.positions == ROPE else 0 :]:
            raise UserError(
                f"{problem.code}: {problem.key} is {problem.seen!r}, expected {problem.expected}", problem.mend
            )


def _is_limit(value: Any) -> TypeGuard[float]:
    """Whether a value is a number of tokens; of floats only what says "no limit", for tokenizers take no others."""
    return (type(value) is int and value > 0) or (type(value) is float and BOUNDLESS <= value < inf)


def _inside(content: Any, key: str) -> Any:
    """What stands under a key with dots; None if nothing does."""
    for step in key.split("."):
        content = content.get(step) if isinstance(content, dict) else None
    return content
