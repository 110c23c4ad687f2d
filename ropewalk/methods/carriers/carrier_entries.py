"""The one list of methods for models without a rope: it drives the command line and the documentation's table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from ropewalk.carriers.carrier import ALIBI, BUCKETS, TABLE, TWO_TABLES
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.methods.catalogue import CODE, Entry, options_of, split

if TYPE_CHECKING:
    from ropewalk.methods.carriers.carrier_method import CarrierMethod

HERE = "carriers."
ANY = ""
ROWS = "yes: a longer table"
CARRIER_METHODS: tuple[Entry, ...] = (
    Entry("none", "Plain model", f"{HERE}plain_carrier:PlainCarrier", "the model as it comes, for comparison", ANY,
          "yes", "yes: as it is"),
    Entry("alibi-pi", "ALiBi Position Interpolation", f"{HERE}alibi_interpolation:AlibiInterpolation",
          "every slope divided by s; ntk, geometric: the flat ones more than the steep", ALIBI, "to about 2 L",
          "no: slopes are computed in code", "2310.13017"),
    Entry("pi", "Position Interpolation", f"{HERE}longer_table:InterpolatedTable",
          "rows between the rows of the table, evenly", TABLE, "weak", ROWS, "2310.14633"),
    Entry("grouped", "Grouped positions", f"{HERE}longer_table:GroupedTable",
          "each row serves several positions side by side", TABLE, "weak", ROWS, "2404.12096"),
    Entry("recurrent", "Recurrent positions", f"{HERE}longer_table:RecurrentTable",
          "the table again and again; short texts are read as before", TABLE, "weak", ROWS, "2404.12096"),
    Entry("t5-align", "Attention alignment of T5", f"{HERE}bias_alignment:BiasAlignment",
          "logits, bias and all, over a tau below 1", BUCKETS, "calibration",
          "yes: in the projections of the queries, and the bias", "2311.00684"),
    Entry("unlimiformer", "Unlimiformer", f"{HERE}unlimiformer:Unlimiformer",
          "chunks are encoded, and each head of the decoder looks up k states", f"{BUCKETS}, {TWO_TABLES}", "yes",
          CODE, "2305.01625"),
    Entry("attendre", "Attendre", f"{HERE}waiting_queries:WaitingQueries",
          "a bounded memory of keys in the encoder, and queries that wait before they attend", BUCKETS, "partly",
          CODE, "2401.04881"),
)  # fmt: skip
BY_ID = {entry.id: entry for entry in CARRIER_METHODS}


def fitting(kind: str) -> list[str]:
    """Ids of the methods for what carries positions, of ``carriers.carrier``."""
    return [one.id for one in CARRIER_METHODS if fits(one, kind)]


def fits(entry: Entry, kind: str) -> bool:
    """Whether a method is for what carries the positions of a model."""
    return entry.kind == ANY or kind in entry.kind.split(", ")


def carrier_method(spelling: str, kind: str) -> CarrierMethod:
    """A method from its spelling: ``alibi-pi``, ``alibi-pi(form=ntk)``, ``pi(effective_window=1024)``.

    Args:
        spelling: an id, with options in brackets.
        kind: of what carries the positions of the model that it is for.

    Raises:
        UserError: for an unknown id, one that does not fit, or a wrong option; naming those that fit.
    """
    names = ", ".join(fitting(kind))
    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", spelling, re.DOTALL)
    entry = None if match is None else BY_ID.get(match[1])
    if match is None or entry is None:
        near = did_you_mean(spelling.partition("(")[0].strip(), BY_ID)
        raise UserError(
            f"{spelling.strip()} is no method for a model whose positions are carried by: {kind}{near}",
            f"For it there are {names}.",
        )
    if not fits(entry, kind):
        raise UserError(
            f"{entry.id} is for models whose positions are carried by: {entry.kind}; of this one it is: {kind}",
            f"For it there are {names}.",
        )
    module, name = entry.where.split(":")
    found = getattr(import_module(f"ropewalk.methods.{module}"), name)
    made: CarrierMethod = found(**options_of(found, found.name, match[2] or ""))
    return made


def carrier_methods(spellings: Iterable[str], kind: str) -> list[CarrierMethod]:
    """Methods from their spellings, duplicates dropped; see ``carrier_method``."""
    made = (carrier_method(one, kind) for text in spellings for one in split(text, ",") if one.strip())
    return list({one.id: one for one in made}.values())
