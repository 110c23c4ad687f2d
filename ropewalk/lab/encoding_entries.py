"""The one list of position encodings: it drives the lab, the documentation's table and the test matrix."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ropewalk.common.errors import one_of

if TYPE_CHECKING:
    from ropewalk.lab.encoding import Encoding


@dataclass(frozen=True)
class EncodingEntry:
    """One position encoding.

    Attributes:
        id: as in papers and on the command line.
        title: the paper's name for it.
        where: "module:Class", below ``lab/encodings``.
        summary: one line.
        ways: what is changed at evaluation beyond the window, where nobody says it.
        paper: arXiv id.
    """

    id: str
    title: str
    where: str
    summary: str
    ways: tuple[str, ...]
    paper: str

    def load(self) -> type[Encoding]:
        module, name = self.where.split(":")
        loaded: type[Encoding] = getattr(import_module(f"ropewalk.lab.encodings.{module}"), name)
        return loaded


ENCODINGS: tuple[EncodingEntry, ...] = (
    EncodingEntry("rope", "RoPE", "rotary:Rotary", "queries and keys turn with their positions",
                  ("pi", "ntk-aware", "yarn", "hirope"), "2104.09864"),
    EncodingEntry("nope", "NoPE", "nope:NoPE", "none: the causal mask alone", ("temperatures",),
                  "2305.19466"),
    EncodingEntry("learned", "Learned positions", "absolute:Learned", "a learned row for each position is added",
                  ("pi", "grouped", "recurrent"), "1706.03762"),
    EncodingEntry("sinusoidal", "Sinusoidal positions", "absolute:Sinusoidal", "sines and cosines are added",
                  ("pi", "recurrent"), "1706.03762"),
    EncodingEntry("alibi", "ALiBi", "alibi:ALiBi", "logits fall in a line with the distance, by head", ("pi", "ntk"),
                  "2108.12409"),
    EncodingEntry("t5", "T5 bias", "t5_bias:T5Bias", "a learned bias for each bucket of distances", ("align",),
                  "1910.10683"),
    EncodingEntry("kerple", "Kerple (log)", "kerple:Kerple", "a bias that falls with the distance's logarithm", (),
                  "2205.09921"),
    EncodingEntry("kerple-power", "Kerple (power)", "kerple:KerplePower", "a bias that falls with its learned power",
                  (), "2205.09921"),
    EncodingEntry("sandwich", "Sandwich", "sandwich:Sandwich", "sinusoids' inner product as a bias", (), "2212.10356"),
    EncodingEntry("fire", "FIRE", "fire:FIRE", "a network of the distance as a share of the query's position", (),
                  "2310.04418"),
    EncodingEntry("xpos", "xPos", "xpos:XPos", "RoPE that decays with the distance", ("bca",), "2212.10554"),
    EncodingEntry("randomized", "Randomised positions", "random_positions:RandomPositions",
                  "RoPE at a sorted random subset of 2,048 positions", (), "2305.16843"),
    EncodingEntry("cable", "Cable", "cable:Cable", "every token adds a learned penalty to attention across it", (),
                  "2503.08067"),
    EncodingEntry("fope", "FoPE", "fope:FoPE", "pairs turn by random Fourier series of trained frequencies", (),
                  "2412.17739"),
    EncodingEntry("softplus", "Softplus attention", "softplus:Softplus",
                  "RoPE, with softplus and a log-length scale for softmax", ("reweight",), "2501.13428"),
    EncodingEntry("contextual", "CoPE (contextual)", "contextual:Contextual",
                  "positions count the tokens that gates let through", (), "2405.18719"),
)  # fmt: skip

BY_ID = {entry.id: entry for entry in ENCODINGS}


def encoding(name: str) -> EncodingEntry:
    """An entry by its id.

    Raises:
        UserError: if there is none.
    """
    return one_of("encoding", name, BY_ID)
