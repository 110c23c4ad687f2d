"""NoPE: no encoding, the causal mask alone tells positions (arXiv 2305.19466)."""

from __future__ import annotations

from ropewalk.lab.encoding import Encoding


class NoPE(Encoding):
    """Says nothing of positions."""
