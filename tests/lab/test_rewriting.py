"""Rewritings: pairs that are known, and targets said another way."""

import random
from itertools import groupby

import pytest

from ropewalk.lab.rewriting import REWRITINGS, SYMBOLS, repeated, retrieved


class Given(random.Random):
    """Draws the digits 0, 5 and 9."""

    def randrange(self, *_):
        self.drawn = [*getattr(self, "drawn", []), None]
        return (0, 5, 9)[len(self.drawn) - 1]


def test_known_sources_have_known_targets():
    made = {name: tuple(" ".join(part) for part in of(Given(), 3)) for name, of in REWRITINGS.items() if "rec" in name}
    assert made["recopy"] == ("0 5 9", "0 5 5 5 9 9 9 9 9")
    assert made["reverse_recopy"] == ("0 5 9", "9 9 9 9 9 5 5 5 0")
    assert made["inverse_recopy"] == ("0 5 5 5 9 9 9 9 9", "0 5 9")
    assert " ".join(retrieved([*"30719"])) == "3 : 1 ; 0 : 3 ; 7 : n/a ; 1 : 0 ; 9 : n/a ;"


@pytest.mark.parametrize("name", REWRITINGS)
def test_targets_are_those_of_another_computation(name):
    for seed in range(40):
        source, target = REWRITINGS[name](random.Random(seed), 12)
        assert (source, target) == REWRITINGS[name](random.Random(seed), 12) and set(source + target) <= set(SYMBOLS)
        assert len(target if name.startswith("inverse") else source) == 12 or name == "deduplicate"
        if name.startswith("inverse"):
            source, target = target, source
        said = "".join(source if name not in ("reverse", "reverse_recopy", "inverse_reverse_recopy") else source[::-1])
        if "recopy" in name:
            said = "".join(one * (1 + 2 * (one > "3") + 2 * (one > "6")) for one in said)
        elif name == "deduplicate":
            said = "".join(one for i, one in enumerate(said) if i == 0 or said[i - 1] != one)
        elif name == "retrieve":
            said = "".join(f"{one}:{dict(enumerate(source)).get(int(one), 'n/a')};" for one in source)
        assert "".join(target) == said


def test_runs_have_odd_parts_of_up_to_five():
    lengths = [len(list(run)) for seed in range(50) for _, run in groupby(repeated(random.Random(seed), 30))]
    assert set(lengths) >= {1, 2, 3, 5} and max(lengths) > 5  # neighbours that are equal merge
