"""Small tasks of many steps: chains of signs, chains of pointers, polynomials, commands, and functions of strings.

After those of arXiv 2305.19466: LEGO's chains (arXiv 2206.04301), polynomials modulo 10, SCAN's commands (arXiv
1711.00350) and PCFG SET's functions (arXiv 1908.08351), by one byte a word, in grammars of our own that go on to any
length. Pointers are ours: of two chains, so that what nothing points away from is not the answer by that alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import islice, pairwise

from ropewalk.tasks.length_generalization import Algorithm, Words, digits, hints

NAMES = 26  # to draw from, at least
ACTS = {"w": "W", "r": "R", "j": "J", "k": "K", "t": ""}  # walk, run, jump, look, turn
TURNS = "<>"  # left, right
OPPOSITE, AROUND = "o", "a"
TIMES = {"2": 2, "3": 3}
AND, AFTER = "&", "~"
FUNCTIONS: dict[str, Callable[[Words], Words]] = {
    "C": list,
    "R": lambda words: words[::-1],
    "S": lambda words: words[1:] + words[:1],
    "X": lambda words: [words[-1], *words[1:-1], words[0]] if len(words) > 1 else words,
    "E": lambda words: words + words[-1:],
}  # copy, reverse, shift, swap first and last, echo
OF = ":"


def names(rng: random.Random, size: int) -> Words:
    """Different ones, in an order that says nothing."""
    return rng.sample(list(islice(hints(), max(size, NAMES))), size)


def signs(rng: random.Random, size: int) -> Words:
    """``size`` clauses such as b=-a; in any order, each of the variable before it in a chain; asked is the last."""
    chain = names(rng, size)
    clauses = [[chain[0], "=", rng.choice("+-"), ";"]]
    clauses += [[one, "=", rng.choice("+-"), before, ";"] for before, one in pairwise(chain)]
    rng.shuffle(clauses)
    return [*(word for clause in clauses for word in clause), "?", chain[-1]]


def sign(words: Words) -> Words:
    """That of the variable behind the question mark."""
    clauses = {words[i - 1]: (words[i + 1], words[i + 2]) for i, word in enumerate(words) if word == "="}
    one, minus = words[-1], False
    while one != ";":
        own, one = clauses[one]
        minus ^= own == "-"
    return ["-" if minus else "+"]


def pointers(rng: random.Random, size: int) -> Words:
    """``size`` hops of two chains, as a>b; in any order, and the beginning of one of them."""
    every = names(rng, size + 2)
    cut = rng.randint(1, size + 1)
    chains = every[:cut], every[cut:]
    hops = [[a, ">", b, ";"] for chain in chains for a, b in pairwise(chain)]
    rng.shuffle(hops)
    return [*(word for hop in hops for word in hop), "?", rng.choice(chains)[0]]


def followed(words: Words) -> Words:
    """Where the chain of the name behind the question mark ends."""
    hops = {words[i - 1]: words[i + 1] for i, word in enumerate(words) if word == ">"}
    one = words[-1]
    while one in hops:
        one = hops[one]
    return [one]


def polynomial(rng: random.Random, size: int) -> Words:
    """A digit, and ``size`` terms as 3x2, with exponents up to 3."""
    terms = (["+", str(rng.randrange(10)), "x", str(rng.randrange(4))] for _ in range(size))
    return [str(rng.randrange(10)), OF, *[word for term in terms for word in term][1:]]


def evaluated(words: Words) -> Words:
    """The last digit of what the polynomial is at the digit before it."""
    x = int(words[0])
    terms = ((int(words[i - 1]), int(words[i + 1])) for i, word in enumerate(words) if word == "x")
    return [str(sum(factor * x**power for factor, power in terms) % 10)]


def commands(rng: random.Random, size: int) -> Words:
    """``size`` commands, such as j<2 (jump left twice), with "and" or "after" between them."""
    found: Words = []
    for _ in range(size):
        act = rng.choice(list(ACTS))
        how = ["", OPPOSITE, AROUND] if act == "t" else ["", "", OPPOSITE, AROUND]
        turns = [rng.choice(TURNS), rng.choice(how)] if act == "t" or rng.random() < 0.5 else []
        found += [rng.choice([AND, AFTER]), act, *turns, rng.choice(["", *TIMES])]
    return [word for word in found[1:] if word]


def actions(words: Words) -> Words:
    """What is done, from left to right; what stands behind "after" is done before all that stands before it."""
    found: Words = []
    joined, command = AND, list[str]()
    for word in [*words, AND]:
        if word not in (AND, AFTER):
            command.append(word)
            continue
        found = _done(command) + found if joined == AFTER else found + _done(command)
        joined, command = word, []
    return found


def _done(command: Words) -> Words:
    """Of one command."""
    act, turn = [ACTS[command[0]]] if ACTS[command[0]] else [], [one for one in command if one in TURNS]
    once = turn + act
    if OPPOSITE in command:
        once = turn + once
    if AROUND in command:
        once = once * 4
    return once * TIMES.get(command[-1], 1)


def functions(rng: random.Random, size: int) -> Words:
    """Half of ``size`` functions at least one, then as many digits."""
    return [*rng.choices(list(FUNCTIONS), k=(size + 1) // 2), OF, *digits(rng, size)]


def applied(words: Words) -> Words:
    """All functions, the one next to the digits first."""
    at = words.index(OF)
    found = words[at + 1 :]
    for name in reversed(words[:at]):
        found = FUNCTIONS[name](found)
    return found


REASONING = {
    "lego": Algorithm("Is the last variable + or -?", signs, sign),
    "multi_hop": Algorithm("Follow the chain to its end.", pointers, followed),
    "polynomial": Algorithm("Write the last digit of the polynomial.", polynomial, evaluated),
    "scan": Algorithm("Write what is done.", commands, actions),
    "pcfg": Algorithm("Apply all functions.", functions, applied),
}
