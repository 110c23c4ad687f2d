"""Extensible Tokenization on the bundled model: scaling factors against perplexity and needles, from 512 tokens to 32x.

    python claims/memory/ext_tok.py --json claims/results/memory/ext_tok.json [--steps 60] [--work DIR]

Extensible Tokenization (arXiv 2401.07793) says that embeddings made by a small model let a frozen one read more than
100,000 tokens, with a perplexity that falls with the text behind which tokens are read, at scaling factors that are
chosen when it is used, of which small ones lose least. Here are ``--steps`` of training. ``STATED`` is what has to
hold, fixed before it was run; what was measured, and how, is said in ``windowed.py`` beside this file. Seen before: the
training losses of 10 steps of other runs, against windows alone, to choose the learning rate.
"""

from __future__ import annotations

from windowed import run

from ropewalk import ExtensibleTokenization

STATED = [
    ("behind 1,024 tokens, tokens are likelier than in windows alone (ratio of perplexities below 1)",
     "text: 1024", "text: windows alone", 1.0),
    ("perplexity is no higher behind 4,096 tokens (8x) than behind 1,024 (below 1.02)",
     "text: 4096", "text: 1024", 1.02),
    ("nor behind 16,384 (32x) (below 1.02)", "text: 16384", "text: 1024", 1.02),
    ("behind 4,096 tokens it is that of the plain model in its window, or lower (below 1.02)",
     "text: 4096", "text: plain, 512", 1.02),
    ("a small factor loses least: 2 against 64, at 896 tokens (below 1)",
     "text: ratio 2, 896", "text: ratio 64, 896", 1.0),
    ("the digits of a needle are likelier at factor 2 than in windows alone (below 1)",
     "needle: ratio 2, 896", "needle: windows alone, 896", 1.0),
]  # fmt: skip

if __name__ == "__main__":
    run(__doc__, "ext-tok", ExtensibleTokenization, "arXiv 2401.07793", 1e-3, STATED)
