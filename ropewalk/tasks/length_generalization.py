"""The length-generalisation battery: small algorithms whose inputs grow, the smallest test bed of any position method.

Tasks and formats follow arXiv 2305.19466 (copying, reversing, addition, parity, sorting, sums), arXiv 2305.20019 (run
copying, positional retrieval, lookup tables) and arXiv 2402.09371 (reversed digits with index hints, random spaces);
multiplication by numbers of up to three digits is that of arXiv 2306.15400.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count, groupby, product, zip_longest
from string import ascii_lowercase

from ropewalk.tasks.context import label, quiet
from ropewalk.tasks.task import Sample, Task, haystack_tokens
from ropewalk.texts.pieces import TokenUnits

Words = list[str]
RUN_LENGTHS = (1, 3, 5)
SHOT_SIZES = (2, 4)
SPACE, SPACED = "_", 0.25  # and how often it stands before a digit
FACTOR = 3  # digits of a second factor, at most
STEPS = {"A": (1, 3), "B": (3, 1), "C": (7, 2), "D": (9, 5)}  # digit -> last digit of factor * digit + term


def digits(rng: random.Random, size: int) -> Words:
    return [str(rng.randrange(10)) for _ in range(size)]


def repeats(digit: str) -> int:
    """How often run copying writes a digit: once up to 3, three times up to 6, five times above."""
    return RUN_LENGTHS[(int(digit) > 3) + (int(digit) > 6)]


def recopied(words: Words) -> Words:
    return [word for word in words for _ in range(repeats(word))]


def recopied_back(words: Words) -> Words:
    return [word for word, run in groupby(words) for _ in range(len(list(run)) // repeats(word))]


def runs(rng: random.Random, size: int) -> Words:
    """``size`` runs of one, three or five equal digits; neighbours differ."""
    words: Words = []
    for _ in range(size):
        digit = rng.choice([one for one in "0123456789" if one != "".join(words[-1:])])
        words += [digit] * rng.choice(RUN_LENGTHS)
    return words


def deduplicated(words: Words) -> Words:
    return [word for word, _ in groupby(words)]


def retrieved(words: Words) -> Words:
    """For each digit, the word at that place (counted from 0), or "none"."""
    return [words[int(word)] if int(word) < len(words) else "none" for word in words]


def lookups(rng: random.Random, size: int) -> Words:
    return [str(rng.randrange(10)), *rng.choices(list(STEPS), k=size)]


def looked_up(words: Words) -> Words:
    """The digit after each step."""
    value, found = int(words[0]), []
    for step in words[1:]:
        factor, term = STEPS[step]
        value = (factor * value + term) % 10
        found.append(str(value))
    return found


def bits(rng: random.Random, size: int) -> Words:
    return [str(rng.randrange(2)) for _ in range(size)]


def numbers(rng: random.Random, size: int) -> Words:
    return [str(rng.randrange(10 ** rng.randint(1, 3))) for _ in range(size)]


# Numbers are their digits from the least significant on: Python refuses to spell ints of more than 4300 digits.
def operands(rng: random.Random, size: int) -> tuple[Words, Words]:
    """Two numbers, one of ``size`` digits and one whose number of digits is uniform up to that."""
    lengths = [size, rng.randint(1, size)]
    rng.shuffle(lengths)
    first, second = ([*digits(rng, n - 1), str(rng.randint(int(n > 1), 9))] for n in lengths)
    return first, second


def columns(first: Words, second: Words) -> list[tuple[str, str, int, int]]:
    """Long addition: both digits, the carry and the sum of each column."""
    found, carry = [], 0
    for a, b in zip_longest(first, second, fillvalue="0"):
        total = int(a) + int(b) + carry
        found.append((a, b, carry, total))
        carry = total // 10
    return found


def added(first: Words, second: Words) -> Words:
    totals = [total for *_, total in columns(first, second)]
    return [str(total % 10) for total in totals] + ["1"] * (totals[-1] // 10)


def backwards(words: Words) -> Words:
    return words[::-1]


def hints() -> Iterator[str]:
    """a, b, ... z, aa, ab, ..."""
    return ("".join(letters) for n in count(1) for letters in product(ascii_lowercase, repeat=n))


def hinted(number: Words) -> Words:
    """Each digit behind the letter of its significance."""
    return [word for pair in zip(hints(), number, strict=False) for word in pair]


def unhinted(words: Words) -> Words:
    return words[1::2]


def spaced(rng: random.Random, words: Words) -> Words:
    """The same words, with spaces among them at random."""
    return [one for word in words for one in ([SPACE, word] if rng.random() < SPACED else [word])]


def unspaced(words: Words) -> Words:
    return [word for word in words if word != SPACE]


def factors(rng: random.Random, size: int) -> Words:
    """A number of ``size`` digits, and one whose number of digits is uniform up to ``FACTOR``."""
    first, second = ([*digits(rng, n - 1), str(rng.randint(1, 9))] for n in (size, rng.randint(1, FACTOR)))
    return [*first, "*", *second]


def multiplied(words: Words) -> Words:
    """Long multiplication: each digit of the product is the last of what its column sums to, carry included."""
    star = words.index("*")
    first, second = ([*map(int, part)] for part in (words[:star], words[star + 1 :]))
    found, carry = [], 0
    for column in range(len(first) + len(second)):
        pairs = ((column - i, other) for i, other in enumerate(second))
        total = carry + sum(first[j] * other for j, other in pairs if 0 <= j < len(first))
        found.append(str(total % 10))
        carry = total // 10
    return found if found[-1] != "0" else found[:-1]


def summands(words: Words, read: Callable[[Words], Words]) -> tuple[Words, Words]:
    plus = words.index("+")
    return read(words[:plus]), read(words[plus + 1 :])


def scratchpad(words: Words) -> Words:
    """Each column, then the result."""
    first, second = summands(words, list)
    steps = [
        word
        for a, b, carry, total in columns(first, second)
        for word in (a, "+", b, "+", str(carry), "=", str(total), ";")
    ]
    return [*steps, *added(first, second)]


@dataclass(frozen=True)
class Algorithm:
    """What is asked.

    Attributes:
        instruction: for a reader who was not trained on it.
        problem: words of a random input of a size.
        answer: words of the output.
    """

    instruction: str
    problem: Callable[[random.Random, int], Words]
    answer: Callable[[Words], Words]


def addition(
    write: Callable[[Words], Words],
    read: Callable[[Words], Words],
    how: str,
    answer: Callable[[Words], Words] | None = None,
) -> Algorithm:
    """Addition in one format of numbers; the answer is the sum in that format unless given."""

    def problem(rng: random.Random, size: int) -> Words:
        first, second = operands(rng, size)
        return [*write(first), "+", *write(second)]

    return Algorithm(
        f"Add the two numbers{how}.", problem, answer or (lambda words: write(added(*summands(words, read))))
    )


ALGORITHMS = {
    "copy": Algorithm("Copy the digits.", digits, list),
    "reverse": Algorithm("Write the digits in reverse order.", digits, backwards),
    "recopy": Algorithm(
        "Write digits up to 3 once, digits from 4 to 6 three times, and larger digits five times.", digits, recopied
    ),
    "inverse_recopy": Algorithm(
        "Digits up to 3 stand once, digits from 4 to 6 three times, and larger digits five times. Write each once.",
        lambda rng, size: recopied(digits(rng, size)),
        recopied_back,
    ),
    "deduplicate": Algorithm("Write each run of equal digits as one digit.", runs, deduplicated),
    "retrieve": Algorithm(
        "For each digit, write the digit at that position, counted from 0, or none if there is no such position.",
        digits,
        retrieved,
    ),
    "lookup": Algorithm(
        "Start with the digit and write the last digit after each step: A adds 3, B takes 3 times and adds 1, C takes 7"
        " times and adds 2, D takes 9 times and adds 5.",
        lookups,
        looked_up,
    ),
    "lookup_reverse": Algorithm(
        "Start with the digit at the end and write the last digit after each step, from right to left: A adds 3, B"
        " takes 3 times and adds 1, C takes 7 times and adds 2, D takes 9 times and adds 5.",
        lambda rng, size: lookups(rng, size)[::-1],
        lambda words: looked_up(words[::-1]),
    ),
    "parity": Algorithm(
        "Is the number of ones even or odd?", bits, lambda words: [("even", "odd")[words.count("1") % 2]]
    ),
    "sum": Algorithm(
        "Write the last digit of the sum of all digits.", digits, lambda words: [str(sum(map(int, words)) % 10)]
    ),
    "sort": Algorithm("Sort the digits.", digits, sorted),
    "sort_numbers": Algorithm("Sort the numbers.", numbers, lambda words: sorted(words, key=int)),
    "addition": addition(backwards, backwards, ""),
    "addition_reversed": addition(list, list, ", whose digits stand in reverse order"),
    "addition_hints": addition(
        hinted, unhinted, ", whose digits stand in reverse order, each behind the letter of its place"
    ),
    "addition_scratchpad": addition(
        list, list, ", whose digits stand in reverse order, column by column, and write the result", scratchpad
    ),
    "addition_spaced": Algorithm(
        "Add the two numbers, whose digits stand in reverse order, with spaces among them that mean nothing.",
        lambda rng, size: spaced(rng, addition(list, list, "").problem(rng, size)),
        lambda words: added(*summands(unspaced(words), list)),
    ),
    "multiplication_reversed": Algorithm(
        "Multiply the two numbers, whose digits stand in reverse order.", factors, multiplied
    ),
}


@dataclass(frozen=True)
class LengthGeneralization(Task):
    """One problem of an algorithm behind two small worked ones.

    Attributes:
        algorithm: one of ``ALGORITHMS``.
        size: of the problem (digits, runs, steps, digits of the longer number); as large as the length holds if None.
            What the problem leaves of the length is filler before it.
    """

    algorithm: str = "copy"
    size: int | None = None
    name: str = field(init=False, default="")
    scope: str = "large"
    diffusion: str = "low"

    def __post_init__(self) -> None:
        size = "" if self.size is None else f"_{self.size}"
        label(self, name=f"lengen_{self.algorithm}{size}")

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A problem; ``depth`` is not used.

        Raises:
            TooShort: if ``n_tokens`` does not hold the smallest problem (or one of the asked size).
        """
        head, stem = units.ids(self._introduction(rng)), units.ids(" Output:")
        seed = rng.getrandbits(64)

        def problem(size: int) -> tuple[list[int], list[int], str]:
            """Token ids of the problem and of the answer, and the answer."""
            words = ALGORITHMS[self.algorithm].problem(random.Random(seed), size)
            answer = ALGORITHMS[self.algorithm].answer(words)
            ids = ([token for word in part for token in units.ids(f" {word}")] for part in (words, answer))
            return next(ids), next(ids), " ".join(answer)

        def left(size: int) -> int:
            asked, answer, _ = problem(size)
            return n_tokens - sum(map(len, (units.bos, head, asked, stem, answer)))

        size = self.size or 1
        asked, answer, text = problem(size)
        haystack_tokens(self.name, n_tokens, units.bos, head, asked, stem, answer)
        if self.size is None:
            size = largest(lambda size: left(size) >= 0)
            asked, answer, text = problem(size)
        prompt = units.bos + quiet(left(size), units) + head + asked + stem
        return Sample(prompt, answer, text, float("nan"), facts={"size": size})

    def _introduction(self, rng: random.Random) -> str:
        """The instruction, two worked problems, and where the real one begins."""
        algorithm = ALGORITHMS[self.algorithm]
        shots = [algorithm.problem(rng, size) for size in SHOT_SIZES]
        worked = [f"Input: {' '.join(words)} Output: {' '.join(algorithm.answer(words))}." for words in shots]
        return " ".join(["", algorithm.instruction, *worked, "Input:"])

    def solve(self, prompt_text: str) -> str:
        """The output for the last input."""
        words = prompt_text.rpartition("Input:")[2].removesuffix(" Output:").split()
        return " ".join(ALGORITHMS[self.algorithm].answer(words))

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the prediction begins with exactly the words of the answer."""
        words = sample.text.split()
        return float(re.findall(r"\w+|[^\w\s]", prediction)[: len(words)] == words)


def largest(fits: Callable[[int], bool]) -> int:
    """The largest size that fits, if 1 does and all larger than one that does not, do not."""
    high = 1
    while fits(2 * high):
        high *= 2
    low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
