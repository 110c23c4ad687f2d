"""Activation Beacon on the bundled model: ratios against perplexity and needles, and the memory, from 512 to 32x.

    python claims/memory/beacon.py --json claims/results/memory/beacon.json [--steps 60] [--work DIR]

Activation Beacon (arXiv 2401.03462) says that a frozen model reads a hundred times its window behind beacons, that its
perplexity goes on falling with the text behind which tokens are read, that small ratios lose least, and that needles
are found; after 10,000 steps. Here are ``--steps``. ``STATED`` is what has to hold, fixed before it was run; what was
measured, and how, is said in ``windowed.py`` beside this file. Seen before: the training losses of 20 steps of other
runs, against windows alone, to choose the learning rate.
"""

from __future__ import annotations

from windowed import run

from ropewalk import ActivationBeacon

STATED = [
    ("behind 1,024 tokens, tokens are likelier than in windows alone (ratio of perplexities below 1)",
     "text: 1024", "text: windows alone", 1.0),
    ("perplexity is no higher behind 4,096 tokens (8x) than behind 1,024 (below 1.02)",
     "text: 4096", "text: 1024", 1.02),
    ("nor behind 16,384 (32x) (below 1.02)", "text: 16384", "text: 1024", 1.02),
    ("behind 4,096 tokens it is that of the plain model in its window, or lower (below 1.02)",
     "text: 4096", "text: plain, 512", 1.02),
    ("a small ratio loses least: 2 against 64, at 896 tokens (below 1)",
     "text: ratio 2, 896", "text: ratio 64, 896", 1.0),
    ("the digits of a needle are likelier at ratio 2 than in windows alone (below 1)",
     "needle: ratio 2, 896", "needle: windows alone, 896", 1.0),
    ("and at 4,096 tokens (8x), at ratio 16 (below 1)", "needle: 4096", "needle: windows alone, 4096", 1.0),
]  # fmt: skip

if __name__ == "__main__":
    run(__doc__, "beacon", ActivationBeacon, "arXiv 2401.03462", 1e-3, STATED)
