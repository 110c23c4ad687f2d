"""Generated rows that teach the bundled model to retrieve inside its window: keys, needles, variables, lists."""

from __future__ import annotations

import random
from collections.abc import Callable

from ropewalk.tasks.niah import CITIES, needle, stem
from ropewalk.tasks.passkey import Passkey
from ropewalk.texts.pieces import TokenUnits

WORDS = (
    "apple bread candle door engine forest garden hammer island jacket kitchen lantern mirror needle orange paper "
    "quarter river silver table umbrella valley window yellow zebra anchor bridge castle desert eagle feather glass"
).split()

SHORTEST = 72  # tokens; below this no drill is worth its room


def code(rng: random.Random) -> str:
    return str(rng.randint(10000, 99999))


def passkey(n: int, rng: random.Random, units: TokenUnits, text: list[int]) -> list[int]:
    """A passkey prompt of exactly ``n`` tokens with its answer."""
    sample = Passkey().sample(n, rng, units)
    return sample.prompt + sample.answer


def needles(n: int, rng: random.Random, units: TokenUnits, text: list[int]) -> list[int]:
    """Natural text with one to four needles, each asked for at the end."""
    facts = [(city, code(rng)) for city in rng.sample(CITIES, rng.randint(1, 4))]
    pins = [units.ids(needle(*fact)) for fact in facts]
    questions = [units.ids(f"{stem(city)} {value}.") for city, value in rng.sample(facts, len(facts))]
    hay = text[: max(0, n - len(units.bos) - sum(map(len, pins + questions)))]
    cuts = sorted(rng.randint(0, len(hay)) for _ in pins)
    body: list[int] = []
    for pin, start, end in zip([[], *pins], [0, *cuts], [*cuts, len(hay)], strict=True):
        body += pin + hay[start:end]
    return units.bos + body + [token for question in questions for token in question]


def records(n: int, rng: random.Random, units: TokenUnits, text: list[int]) -> list[int]:
    """Key-value lines, then as many look-ups as lines."""
    row = list(units.bos)
    table: dict[str, str] = {}
    while len(row) < n * 0.6:
        key, value = rng.choice(WORDS) + code(rng)[:2], code(rng)
        table[key] = value
        row += units.ids(f"\n {key}: {value}")
    while len(row) < n:
        key = rng.choice(list(table))
        row += units.ids(f"\n lookup {key} -> {table[key]}")
    return row


def variables(n: int, rng: random.Random, units: TokenUnits, text: list[int]) -> list[int]:
    """Assignments and copies of variables, then their values."""
    row = list(units.bos)
    values: dict[str, str] = {}
    while len(row) < n * 0.6:
        name = rng.choice(WORDS)
        if values and rng.random() < 0.5:
            source = rng.choice(list(values))
            values[name] = values[source]
            row += units.ids(f"\n {name} = {source}")
        else:
            values[name] = code(rng)
            row += units.ids(f"\n {name} = {values[name]}")
    while len(row) < n:
        name = rng.choice(list(values))
        row += units.ids(f"\n print({name}) # {values[name]}")
    return row


def lists(n: int, rng: random.Random, units: TokenUnits, text: list[int]) -> list[int]:
    """A list of random words, repeated to the end."""
    words = [
        f" {rng.choice(WORDS)}" + (f" {code(rng)[:3]}" if rng.random() < 0.5 else "") for _ in range(rng.randint(6, 40))
    ]
    row = list(units.bos)
    while len(row) < n:
        row += units.ids(" List:" + ",".join(words) + ".")
    return row


DRILLS: tuple[tuple[Callable[[int, random.Random, TokenUnits, list[int]], list[int]], float], ...] = (
    (passkey, 0.3),
    (needles, 0.35),
    (records, 0.15),
    (variables, 0.1),
    (lists, 0.1),
)


def row(n: int, rng: random.Random, units: TokenUnits, text: list[int]) -> list[int]:
    """One training row of exactly ``n`` tokens: drills one after another, the rest filled with ``text`` (>= n ids)."""
    out: list[int] = []
    functions, weights = zip(*DRILLS, strict=True)
    while (room := n - len(out)) >= SHORTEST:
        length = room if rng.random() < 0.5 else rng.randint(SHORTEST, room)
        out += rng.choices(functions, weights)[0](length, rng, units, text)[:room]
    return (out + text)[:n]
