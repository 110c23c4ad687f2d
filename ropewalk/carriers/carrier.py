"""What a model that writes, and has no rope, knows of positions: slopes, a table, buckets of distances, or a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ropewalk.carriers.slopes import slopes
from ropewalk.common.command_lines import setting
from ropewalk.common.errors import UserError
from ropewalk.common.outside import RESTORE
from ropewalk.rope.problems import Problem
from ropewalk.rope.spec import ALL

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ALIBI, TABLE, BUCKETS, STATE = "alibi", "table", "buckets", "state"
TWO_TABLES = "two tables"


@dataclass(frozen=True)
class Family:
    """Where the files of one architecture keep it.

    Attributes:
        kind: ``ALIBI``, ``TABLE``, ``BUCKETS``, ``STATE``, or ``TWO_TABLES``: the encoder's and the decoder's.
        key: of config.json, which says the window; empty where none does.
        table: end of the name of the weight with a row for each position.
        first: row of position 0.
        bias: end of the names of the weights with a number for each bucket and head.
        queries: end of the names of the projections of the queries that this bias is added to.
        fixed: key -> the only value that the code of transformers has, whatever the file says.
    """

    kind: str
    key: str = ""
    table: str = ""
    first: int = 0
    bias: str = ""
    queries: str = ""
    fixed: Mapping[str, Any] = field(default_factory=dict)


_T5 = Family(
    BUCKETS, "n_positions", bias="SelfAttention.relative_attention_bias.weight", queries="SelfAttention.q.weight"
)
_GPT2 = Family(TABLE, "n_positions", table="wpe.weight")
_OPT = Family(TABLE, "max_position_embeddings", table="embed_positions.weight", first=2)
FAMILIES: Mapping[str, Family] = {
    "bloom": Family(ALIBI, "seq_length"),
    "falcon": Family(ALIBI, "max_position_embeddings"),
    "mpt": Family(ALIBI, "max_seq_len", fixed={"attn_config.alibi": True, "attn_config.alibi_bias_max": 8}),
    "gpt2": _GPT2,
    "gpt_bigcode": _GPT2,
    "gpt_neo": Family(TABLE, "max_position_embeddings", table="wpe.weight"),
    "opt": _OPT,
    "biogpt": _OPT,
    "bart": Family(TWO_TABLES, "max_position_embeddings"),
    "t5": _T5,
    "mt5": _T5,
    "umt5": _T5,
    "mamba": Family(STATE),
    "mamba2": Family(STATE),
    "falcon_mamba": Family(STATE),
}


@dataclass(frozen=True)
class Carrier:
    """What one model knows of positions.

    Attributes:
        model_type: of its configuration.
        family: where its files keep it.
        window: tokens that it was made for; None where no key says it.
        layers: that attend, or hold a state.
        heads: of a layer, where there are some.
        cache: elements that one more token adds to the cache.
        slopes: of each head, of ``ALIBI``.
        buckets: of distances, and the distance from which all are in the last, of ``BUCKETS``.
    """

    model_type: str
    family: Family
    window: int | None
    layers: int
    heads: int
    cache: int
    slopes: tuple[float, ...] = ()
    buckets: tuple[int, int] | None = None

    @property
    def kind(self) -> str:
        return self.family.kind

    @property
    def reads(self) -> int | None:
        """Tokens that a forward can read; None where that is not bounded."""
        return self.window if self.kind in (TABLE, TWO_TABLES) else None


def has_none(raw: Mapping[str, Any]) -> bool:
    """Whether a config.json is of a model without a rope that is known here."""
    kind = raw.get("model_type")
    return kind in FAMILIES and (kind != "falcon" or raw.get("alibi") is True)


def carrier_of(config: PreTrainedConfig) -> Carrier:
    """What a model without a rope knows of positions.

    Args:
        config: of one for which ``has_none``.

    Raises:
        UserError: if the window is no number of tokens.
    """
    model_type = str(config.model_type)
    family, name = FAMILIES[model_type], getattr(config, "name_or_path", "")
    window: Any = getattr(config, family.key, None) if family.key else None
    if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 2):
        raise UserError(
            f"config.json of {name}: {family.key} is {window!r}, expected the window in tokens, 2 or more", RESTORE
        )
    layers = int(getattr(config, "num_hidden_layers", None) or 0)
    if family.kind == STATE:
        return Carrier(model_type, family, window, layers, 0, 0)
    heads = int(config.decoder_attention_heads if family.kind == TWO_TABLES else config.num_attention_heads)
    size, shared = int(config.hidden_size) // heads, 1 if getattr(config, "multi_query", False) else heads
    if model_type == "falcon" and getattr(config, "new_decoder_architecture", False):
        shared = heads  # its cache holds keys for every head
    slanted = tuple(slopes(heads)) if family.kind == ALIBI else ()
    buckets = None
    if family.kind == TWO_TABLES:
        layers = int(config.decoder_layers)
    if family.kind == BUCKETS:
        size, layers = int(config.d_kv), int(config.num_decoder_layers)
        buckets = int(config.relative_attention_num_buckets), int(config.relative_attention_max_distance)
    return Carrier(model_type, family, window, layers, heads, 2 * layers * shared * size, slanted, buckets)


def problems(
    carrier: Carrier, raw: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], name: str
) -> list[Problem]:
    """What of a model's files contradicts itself; empty for a sound one.

    Args:
        carrier: of the model.
        raw: its config.json.
        shapes: name of a weight -> its shape; empty where there are no weights.
        name: as the user named the model.
    """
    found, family = [], carrier.family
    for key, value in family.fixed.items():
        said = _inside(raw, key)
        if said is not None and said != value:
            found.append(Problem(
                "alibi-unread", ALL, key, said, f"{value}: transformers reads this key nowhere",
                "None with transformers: its code has slopes for that value alone. Run the code the model came with.",
            ))  # fmt: skip
    if carrier.kind == TABLE and shapes:
        tables = [shape for weight, shape in shapes.items() if weight.endswith(family.table)]
        rows = None if carrier.window is None else carrier.window + family.first
        if len(tables) == 1 and tables[0][0] != rows:
            found.append(Problem(
                "rows-contradict", ALL, family.key, carrier.window,
                f"{tables[0][0] - family.first}, by the {tables[0][0]} rows of the table in the weights",
                setting(name, {family.key: tables[0][0] - family.first}),
            ))  # fmt: skip
    if carrier.buckets is not None:
        sizes = {shape[0] for weight, shape in shapes.items() if weight.endswith(family.bias)}
        if sizes and sizes != {carrier.buckets[0]}:
            rows = max(sizes)
            found.append(Problem(
                "rows-contradict", ALL, "relative_attention_num_buckets", carrier.buckets[0],
                f"{rows}, by the rows of the bias in the weights",
                setting(name, {"relative_attention_num_buckets": rows}),
            ))  # fmt: skip
    return found


def notes(carrier: Carrier) -> list[str]:
    """What to know of a sound model."""
    if carrier.kind == STATE:
        return ["how far it reads is a matter of its training, and no key: measure it (ropewalk compare --lengths)"]
    if carrier.kind in (BUCKETS, TWO_TABLES):
        return ["the cache of a decoder: as much again for each token that the encoder read, where there is one"]
    if carrier.kind == ALIBI and carrier.window is None:
        key = carrier.family.key
        return [f"key {key} is missing, which transformers does not need: methods take alibi-pi(effective_window=...)"]
    return []


def _inside(raw: Mapping[str, Any], key: str) -> Any:
    value: Any = raw
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
