"""What papers compare, at the lab's size: their encodings, tasks, and how far beyond the window they ask."""

from __future__ import annotations

from dataclasses import dataclass

from ropewalk.common.errors import one_of


@dataclass(frozen=True)
class Setup:
    """A paper's comparison.

    Attributes:
        id: on the command line.
        encodings: ids.
        tasks: names.
        window: bytes of the longest row that is trained on.
        times: the lengths that are asked, in windows.
        differs: what is not as in the paper, beside sizes.
        paper: arXiv id.
    """

    id: str
    encodings: tuple[str, ...]
    tasks: tuple[str, ...]
    window: int
    times: tuple[float, ...]
    differs: str
    paper: str


SETUPS: tuple[Setup, ...] = (
    Setup("nope", ("nope", "t5", "alibi", "rope", "sinusoidal"),
          ("copy", "reverse", "addition", "addition_scratchpad", "sum", "polynomial", "sort", "sort_numbers", "parity",
           "lego", "scan", "pcfg"), 44, (1, 2),
          "grammars of SCAN and PCFG are ours, and so is how far they go; no variants of copying; a scratchpad for "
          "addition alone",
          "2305.19466"),
    Setup("randomized", ("randomized", "rope", "alibi", "sinusoidal", "nope"),
          ("parity", "state_even_pairs", "state_cycle", "state_arithmetic", "reverse", "copy", "sort",
           "addition_reversed", "multiplication_reversed"), 44, (1, 3, 12),
          "a causal decoder for an encoder; nine tasks of its kinds for its fifteen; random positions with RoPE alone",
          "2305.16843"),
    Setup("fire", ("fire", "t5", "alibi", "kerple", "rope", "sinusoidal", "nope"), ("text",), 64, (1, 2, 4),
          "perplexity of bytes of source code alone; no benchmarks of long texts", "2310.04418"),
    Setup("xpos", ("xpos", "alibi", "rope", "sinusoidal"), ("text",), 128, (1, 2, 4),
          "bytes of source code; in so short a window xPos hardly decays", "2212.10554"),
    Setup("kerple", ("kerple", "kerple-power", "alibi", "t5", "rope", "sinusoidal"), ("text",), 64, (1, 2, 4, 8),
          "bytes of source code, and eight windows for thirty-two", "2205.09921"),
    Setup("priming", ("t5", "rope", "alibi", "nope"),
          ("addition_reversed", "addition_primed", "multiplication_reversed", "multiplication_primed"), 32, (1, 2, 4),
          "a causal decoder for an encoder, digits from the last one on, and priming with two windows for seven",
          "2306.15400"),
    Setup("hinting", ("sinusoidal", "nope", "rope"), ("sort", "sort_hinted"), 44, (1, 2, 5),
          "digits for numbers, other encodings beside sinusoids, and temperatures of lengths only as NoPE's way",
          "2310.00726"),
    Setup("formats", ("fire", "nope", "rope", "kerple", "randomized"),
          ("addition", "addition_reversed", "addition_hints", "addition_spaced"), 64, (1, 2.5),
          "random positions with RoPE, and not with FIRE", "2402.09371"),
    Setup("columns", ("sinusoidal", "nope", "rope"), ("addition_reversed", "addition_by_column"), 32, (1, 4, 16),
          "rows in a format of our own; columns of three digits for two", "2406.00075"),
)  # fmt: skip

BY_NAME = {one.id: one for one in SETUPS}


def setup(name: str) -> Setup:
    """One by its id.

    Raises:
        UserError: if there is none.
    """
    return one_of("setup", name, BY_NAME)
