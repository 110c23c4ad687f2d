"""BABILong's further stories: the bAbI tasks 9 to 20, scattered over other text (arXiv 1502.05698 and 2406.10149).

Each world has two halves that share no code: one tells a story and knows the answers while it does so, the other reads
sentences and works the answer out. People, places, animals and wording are our own.

Not as in the official code: yes and no (in task 10 maybe, too) are equally often right; in task 16 a species has one
colour, where the published set gives some two; in task 19 "n,e", "n, e" and "north, then east" say the same. Labels are
read as words: "know" is no "no", and "yesterday" no "yes".
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from ropewalk.tasks.babilong import OPPOSITE, PEOPLE, PLACES, VERBS, Asked, Babilong
from ropewalk.tasks.context import label, mentions
from ropewalk.texts.pieces import TokenUnits

MOVES = VERBS["move"]
SHE = ("Ludmila", "Henrike", "Philippa")
THEN = ("Then", "After that", "Later", "Next")
TIMES = ("yesterday", "this morning", "this afternoon", "this evening")
SPECIES = ("badger", "heron", "weasel", "raven")
COLOURS = ("gray", "green", "white", "yellow")
SHAPES = ("red star", "blue cross", "green ring", "white arrow", "black heart")
BOXES = ("red box", "blue chest", "green crate", "white trunk", "black case")
OFFSETS = {"above": (0, 1), "below": (0, -1), "to the left of": (-1, 0), "to the right of": (1, 0)}  # x, y
STEPS = {"north": (0, 1), "south": (0, -1), "west": (-1, 0), "east": (1, 0)}  # x, y
MOTIVES = {
    "hungry": ("kitchen", "apple"), "thirsty": ("kitchen", "pitcher"), "bored": ("garden", "kite"),
    "tired": ("bedroom", "pillow"),
}  # fmt: skip

WHO, WHERE, MOVED = f"({'|'.join(PEOPLE)})", f"({'|'.join(PLACES)})", f"(?:{'|'.join(MOVES)})"
Story = tuple[list[str], Asked]


def pick(asked: Asked, answers: Iterable[str], rng: random.Random) -> Asked:
    """As many questions with each of the answers as there are of the rarest; none if one of them has no question."""
    by_answer = {answer: [one for one in asked if one[1] == (answer,)] for answer in answers}
    least = min(map(len, by_answer.values()))
    return [one for some in by_answer.values() for one in rng.sample(some, least)]


def elsewhere(rng: random.Random, *places: str) -> str:
    return rng.choice([one for one in PLACES if one not in places])


def negation(rng: random.Random) -> Story:
    """Task 9: who is somewhere, who is not, and who no longer is."""
    story: list[str] = []
    state: dict[str, tuple[str, str]] = {}  # person -> place, and whether the person is there
    wanted = rng.randint(2, 10)
    while True:
        who = rng.choice(PEOPLE)
        here, there = state.get(who, ("", "no"))
        place = elsewhere(rng, here)
        told = {f"{rng.choice(MOVES)} the {place}": (place, "yes"), f"is in the {place}": (place, "yes"),
                f"is not in the {place}": (place, "no")}  # fmt: skip
        if there == "yes":
            told[f"is no longer in the {here}"] = here, "no"
        said = rng.choice(list(told))
        state[who] = told[said]
        story.append(f" {who} {said}.")
        asked: Asked = [(f"Is {one} in the {place}?", (answer,)) for one, (place, answer) in state.items()]
        asked += [(f"Is {one} in the {elsewhere(rng, place)}?", ("no",)) for one, (place, it) in state.items()
                  if it == "yes"]  # fmt: skip
        if len(story) >= wanted and (asked := pick(asked, ("yes", "no"), rng)):
            return story, asked


def read_negation(text: str) -> str:
    state: dict[str, tuple[str, bool]] = {}
    for who, said, place in re.findall(rf"{WHO} ((?:is (?:not |no longer )?in|\w+ to)) the {WHERE}\.", text):
        state[who] = place, said not in ("is not in", "is no longer in")
    who, place = re.findall(rf"Is {WHO} in the {WHERE}\?", text)[-1]
    return "yes" if state[who] == (place, True) else "no"


def indefinite(rng: random.Random) -> Story:
    """Task 10: who is somewhere, and who is in one of two places."""
    story: list[str] = []
    state: dict[str, tuple[str, ...]] = {}
    wanted = rng.randint(2, 10)
    while True:
        who, (one, other) = rng.choice(PEOPLE), rng.sample(PLACES, 2)
        said = rng.choice(
            [f"{rng.choice(MOVES)} the {one}", f"is in the {one}", f"is either in the {one} or the {other}"]
        )
        state[who] = (one, other) if " or " in said else (one,)
        story.append(f" {who} {said}.")
        asked: Asked = []
        for who, places in state.items():
            asked += [(f"Is {who} in the {place}?", ("yes" if len(places) == 1 else "maybe",)) for place in places]
            asked.append((f"Is {who} in the {elsewhere(rng, *places)}?", ("no",)))
        if len(story) >= wanted and (asked := pick(asked, ("yes", "no", "maybe"), rng)):
            return story, asked


def read_indefinite(text: str) -> str:
    state: dict[str, set[str]] = {}
    for who, one, other in re.findall(rf"{WHO} (?:is in|is either in|\w+ to) the {WHERE}(?: or the {WHERE})?\.", text):
        state[who] = {one, other} - {""}
    who, place = re.findall(rf"Is {WHO} in the {WHERE}\?", text)[-1]
    return "no" if place not in state[who] else "yes" if len(state[who]) == 1 else "maybe"


def _moves(rng: random.Random, together: int, twice: bool) -> Story:
    """Tasks 11 to 13: ``together`` people move at a time, and if ``twice``, then move on as he, she or they."""
    story: list[str] = []
    place: dict[str, str] = {}
    for _ in range(rng.randint(1, 5) if twice else rng.randint(2, 10)):
        people = rng.sample(PEOPLE, together)
        here = elsewhere(rng, *(place.get(one, "") for one in people))
        story.append(f" {' and '.join(people)} {rng.choice(MOVES)} the {here}.")
        if twice:
            here = elsewhere(rng, here)
            they = "they" if together > 1 else "she" if people[0] in SHE else "he"
            story.append(f" {rng.choice(THEN)} {they} {rng.choice(MOVES)} the {here}.")
        place |= dict.fromkeys(people, here)
    return story, [(f"Where is {who}?", (here,)) for who, here in place.items()]


def read_moves(text: str) -> str:
    place: dict[str, str] = {}
    people: list[str] = []
    for one, other, they, where in re.findall(
        rf"(?:{WHO}(?: and {WHO})?|\w+ (she|he|they)) {MOVED} the {WHERE}\.", text
    ):
        people = people if they else [one, other]
        place |= dict.fromkeys(people, where)
    return place[re.findall(rf"Where is {WHO}\?", text)[-1]]


def times(rng: random.Random) -> Story:
    """Task 14: who was where at which time, told in any order."""
    story: list[str] = []
    asked: Asked = []
    for who in rng.sample(PEOPLE, rng.randint(2, 4)):
        n = rng.randint(2, len(TIMES))
        when, where = sorted(rng.sample(range(len(TIMES)), n)), rng.sample(PLACES, n)
        for time, place in zip(when, where, strict=True):
            told = f"{who} {rng.choice(MOVES)} the {place}"
            front = TIMES[time][0].upper() + TIMES[time][1:]
            story.append(rng.choice([f" {front} {told}.", f" {told} {TIMES[time]}."]))
        asked += [(f"Where was {who} before the {b}?", (a,)) for a, b in pairwise(where)]
    return rng.sample(story, len(story)), asked


def read_times(text: str) -> str:
    time = rf"({'|'.join(TIMES)})"
    who, place = re.findall(rf"Where was {WHO} before the {WHERE}\?", text)[-1]
    told = re.findall(rf"(?:(?i:{time}) )?{who} {MOVED} the {WHERE}(?: {time})?\.", text)
    order = [where for _, where in sorted((TIMES.index((a or b).lower()), where) for a, where, b in told)]
    return order[order.index(place) - 1]


def deduction(rng: random.Random) -> Story:
    """Task 15: what kind of animal everybody is, and what each kind is afraid of."""
    fears = {one: rng.choice([other for other in SPECIES if other != one]) for one in SPECIES}
    kinds = {who: rng.choice(SPECIES) for who in rng.sample(PEOPLE, 4)}
    story = [f" {one.capitalize()}s are afraid of {other}s." for one, other in fears.items()]
    story += [f" {who} is a {kind}." for who, kind in kinds.items()]
    asked: Asked = [(f"What is {who} afraid of?", (fears[kind],)) for who, kind in kinds.items()]
    return rng.sample(story, len(story)), asked


def read_deduction(text: str) -> str:
    species = "|".join(SPECIES)
    fears = dict(re.findall(rf"((?i:{species}))s are afraid of ({species})s\.", text))
    kinds = dict(re.findall(rf"{WHO} is a ({species})\.", text))
    return str(fears[kinds[re.findall(rf"What is {WHO} afraid of\?", text)[-1]].capitalize()])


def induction(rng: random.Random) -> Story:
    """Task 16: of what kind and colour everybody is; the colour of one who is of a kind with another is not told."""
    colours = dict(zip(SPECIES, rng.sample(COLOURS, len(COLOURS)), strict=True))
    asked, like, *others = rng.sample(PEOPLE, 5)
    kinds = {who: rng.choice(SPECIES) for who in (like, *others)}
    kinds[asked] = kinds[like]
    story = [f" {who} is a {kind}." for who, kind in kinds.items()]
    story += [f" {who} is {colours[kind]}." for who, kind in kinds.items() if who != asked]
    return rng.sample(story, len(story)), [(f"What colour is {asked}?", (colours[kinds[asked]],))]


def read_induction(text: str) -> str:
    kinds = dict(re.findall(rf"{WHO} is a ({'|'.join(SPECIES)})\.", text))
    colours = dict(re.findall(rf"{WHO} is ({'|'.join(COLOURS)})\.", text))
    who = re.findall(rf"What colour is {WHO}\?", text)[-1]
    return next(str(colour) for other, colour in colours.items() if kinds[other] == kinds[who])


def positions(rng: random.Random) -> Story:
    """Task 17: how three shapes lie; only an axis on which the first and the last differ is asked about."""
    first, middle, last = rng.sample(SHAPES, 3)
    ways = [rng.choice(list(OFFSETS)) for _ in range(2)]
    x, y = (sum(OFFSETS[way][axis] for way in ways) for axis in (0, 1))  # of the first from the last
    if not (x or y):
        return positions(rng)
    opposite = {
        way: other for way, (a, b) in OFFSETS.items() for other, (c, d) in OFFSETS.items() if (a, b) == (-c, -d)
    }
    story = [
        rng.choice([f" The {one} is {way} the {other}.", f" The {other} is {opposite[way]} the {one}."])
        for way, one, other in zip(ways, (first, middle), (middle, last), strict=True)
    ]
    true = [way for way, (right, up) in OFFSETS.items() if right * x > 0 or up * y > 0]
    asked: Asked = []
    for way in true:
        for one, other, answer, no in ((first, last, "yes", "no"), (last, first, "no", "yes")):
            asked += [(f"Is the {one} {way} the {other}?", (answer,)),
                      (f"Is the {one} {opposite[way]} the {other}?", (no,))]  # fmt: skip
    return rng.sample(story, 2), asked


def read_positions(text: str) -> str:
    shape, way = f"({'|'.join(SHAPES)})", f"({'|'.join(OFFSETS)})"
    lies: dict[str, list[tuple[str, int, int]]] = defaultdict(list)
    for one, how, other in re.findall(rf"The {shape} is {way} the {shape}\.", text):
        right, up = OFFSETS[how]
        lies[other].append((one, right, up))
        lies[one].append((other, -right, -up))
    one, how, other = re.findall(rf"Is the {shape} {way} the {shape}\?", text)[-1]
    at, left = {other: (0, 0)}, [other]
    while left:
        here = left.pop()
        for near, right, up in lies[here]:
            if near not in at:
                at[near] = at[here][0] + right, at[here][1] + up
                left.append(near)
    return "yes" if sum(a * b for a, b in zip(at[one], OFFSETS[how], strict=True)) > 0 else "no"


def sizes(rng: random.Random) -> Story:
    """Task 18: what is bigger than what; every answer takes two steps."""
    order = rng.sample(BOXES, len(BOXES))  # the biggest first
    story = [
        rng.choice([f" The {a} is bigger than the {b}.", f" The {b} fits inside the {a}."]) for a, b in pairwise(order)
    ]
    asked: Asked = []
    for big, small in zip(order, order[2:], strict=False):
        asked += [(f"Is the {big} bigger than the {small}?", ("yes",)),
                  (f"Is the {small} bigger than the {big}?", ("no",)),
                  (f"Does the {small} fit inside the {big}?", ("yes",)),
                  (f"Does the {big} fit inside the {small}?", ("no",))]  # fmt: skip
    return rng.sample(story, len(story)), asked


def read_sizes(text: str) -> str:
    box = f"({'|'.join(BOXES)})"
    smaller: dict[str, set[str]] = defaultdict(set)
    for one, how, other in re.findall(rf"The {box} (is bigger than|fits inside) the {box}\.", text):
        big, small = (one, other) if how == "is bigger than" else (other, one)
        smaller[big].add(small)
    one, how, other = re.findall(rf"(?:Is|Does) the {box} (bigger than|fit inside) the {box}\?", text)[-1]
    big, small = (one, other) if how == "bigger than" else (other, one)
    inside: set[str] = set()
    left = {big}
    while left:
        left = {two for one in left for two in smaller[one]} - inside
        inside |= left
    return "yes" if small in inside else "no"


def paths(rng: random.Random) -> Story:
    """Task 19: how five places lie; from the first to the third it takes two steps."""
    places = rng.sample(PLACES, 5)
    steps = [rng.choice(list(STEPS))]
    steps.append(rng.choice([one for one in STEPS if one != OPPOSITE[steps[0]]]))
    at = {places[0]: (0, 0)}
    near = []  # (place, direction, the place that lies there)
    for here, step, there in zip(places, steps, places[1:3], strict=False):
        at[there] = beyond(at[here], step)
        near.append((here, step, there))
    corner = beyond(at[places[0]], steps[1])  # another way round, which nothing may lie on
    for place in places[3:]:
        free = [(here, step) for here in at for step in STEPS if beyond(at[here], step) not in (*at.values(), corner)]
        here, step = rng.choice(free)
        at[place] = beyond(at[here], step)
        near.append((here, step, place))
    story = [
        rng.choice([f" The {there} is {step} of the {here}.", f" The {here} is {OPPOSITE[step]} of the {there}."])
        for here, step, there in near
    ]
    answer = ",".join(step[0] for step in steps)
    return rng.sample(story, len(story)), [(f"How do you go from the {places[0]} to the {places[2]}?", (answer,))]


def beyond(at: tuple[int, int], step: str) -> tuple[int, int]:
    """The point that lies one step further."""
    return at[0] + STEPS[step][0], at[1] + STEPS[step][1]


def read_paths(text: str) -> str:
    ways: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for one, way, other in re.findall(rf"The {WHERE} is ({'|'.join(STEPS)}) of the {WHERE}\.", text):
        ways[other].append((way, one))
        ways[one].append((OPPOSITE[way], other))
    start, goal = re.findall(rf"from the {WHERE} to the {WHERE}\?", text)[-1]
    return next(f"{a[0]},{b[0]}" for a, middle in ways[start] for b, end in ways[middle] if end == goal)


def motives(rng: random.Random) -> Story:
    """Task 20: who feels how, goes where and takes what; the next place, or the reason, is asked for."""
    story: list[str] = []
    asked: Asked = []
    people = {who: rng.choice(list(MOTIVES)) for who in rng.sample(PEOPLE, rng.randint(2, 4))}
    left = [who for who in people for _ in range(rng.randint(1, 3))]
    done: dict[str, int] = {}
    for who in rng.sample(left, len(left)):
        place, thing = MOTIVES[people[who]]
        told = (f"is {people[who]}", f"{rng.choice(MOVES)} the {place}", f"{rng.choice(VERBS['take'])} the {thing}")
        story.append(f" {who} {told[done.get(who, 0)]}.")
        done[who] = done.get(who, 0) + 1
    for who, n in done.items():
        place, thing = MOTIVES[people[who]]
        asked.append((
            (f"Where will {who} go?", (place,)), (f"Why did {who} go to the {place}?", (people[who],)),
            (f"Why did {who} take the {thing}?", (people[who],)),
        )[n - 1])  # fmt: skip
    return story, asked


def read_motives(text: str) -> str:
    feels = dict(re.findall(rf"{WHO} is ({'|'.join(MOTIVES)})\.", text))
    word, who = re.findall(rf"(Where|Why) (?:will|did) {WHO} ", text)[-1]
    return MOTIVES[feels[who]][0] if word == "Where" else feels[who]


@dataclass(frozen=True)
class Kind:
    """One of the bAbI tasks.

    Attributes:
        tell: a story: its sentences, and what may be asked about it.
        read: the answer to the question behind a text, worked out from the sentences of the text.
        labels: all possible answers.
        example: facts, question and answer, about other people, places and things.
        scope: "small" if one sentence is enough.
    """

    tell: Callable[[random.Random], Story]
    read: Callable[[str], str]
    labels: tuple[str, ...]
    example: str
    scope: str = "large"


KINDS = {
    9: Kind(negation, read_negation, ("yes", "no"),
            "Tom is no longer in the office. Is Tom in the office? Answer: no.", "small"),
    10: Kind(indefinite, read_indefinite, ("yes", "no", "maybe"),
             "Tom is either in the office or the hall. Is Tom in the hall? Answer: maybe. "
             "Is Tom in the yard? Answer: no.", "small"),
    11: Kind(lambda rng: _moves(rng, 1, True), read_moves, PLACES,
             "Tom went to the office. Then he moved to the hall. Where is Tom? Answer: hall."),
    12: Kind(lambda rng: _moves(rng, 2, False), read_moves, PLACES,
             "Tom and Ann went to the office. Where is Ann? Answer: office.", "small"),
    13: Kind(lambda rng: _moves(rng, 2, True), read_moves, PLACES,
             "Tom and Ann went to the office. Then they moved to the hall. Where is Ann? Answer: hall."),
    14: Kind(times, read_times, PLACES,
             "Tom went to the office this morning. Yesterday Tom went to the hall. "
             "Where was Tom before the office? Answer: hall."),
    15: Kind(deduction, read_deduction, SPECIES,
             "Tom is a cow. Cows are afraid of dogs. What is Tom afraid of? Answer: dog."),
    16: Kind(induction, read_induction, COLOURS,
             "Tom is a cow. Ann is a cow. Ann is brown. What colour is Tom? Answer: brown."),
    17: Kind(positions, read_positions, ("yes", "no"),
             "The coin is above the key. The key is to the left of the pen. Is the coin above the pen? Answer: yes."),
    18: Kind(sizes, read_sizes, ("yes", "no"),
             "The cup is bigger than the key. The cup fits inside the jug. "
             "Is the key bigger than the jug? Answer: no."),
    19: Kind(paths, read_paths, tuple(f"{a[0]},{b[0]}" for a in STEPS for b in STEPS if a != OPPOSITE[b]),
             "The office is north of the hall. The hall is west of the yard. "
             "How do you go from the office to the yard? Answer: s,e."),
    20: Kind(motives, read_motives, tuple(dict.fromkeys([*MOTIVES, *(place for place, _ in MOTIVES.values())])),
             "Who is hungry takes an apple in the kitchen, who is thirsty a pitcher there; who is bored takes a kite in"
             " the garden, and who is tired a pillow in the bedroom. Tom is tired. Where will Tom go? Answer: bedroom.",
             "small"),
}  # fmt: skip


@dataclass(frozen=True)
class BabiStories(Babilong):
    """A story whose sentences stand at random places of a text, in their order.

    Attributes:
        qa: which of the bAbI tasks, 9 to 20.
    """

    qa: int = 9

    def __post_init__(self) -> None:
        label(self, name=f"babilong_qa{self.qa}", scope=KINDS[self.qa].scope)

    @property
    def labels(self) -> tuple[str, ...]:
        return KINDS[self.qa].labels

    @property
    def example(self) -> str:
        return KINDS[self.qa].example

    def _story(self, most_tokens: int, rng: random.Random, units: TokenUnits) -> Story:
        return KINDS[self.qa].tell(rng)

    def solve(self, prompt_text: str) -> str:
        """The answer, worked out from all that the prompt tells."""
        return KINDS[self.qa].read(prompt_text)

    def guess(self, prompt_text: str) -> str:
        """A label that the question does not name; of two or three labels, all are equally often right."""
        question = re.findall(r"[A-Z][^.?]*\? Answer:", prompt_text)[-1]
        return next(one for one in self.labels if not mentions(question, one))

    def said(self, prediction: str) -> str:
        """The first sentence; of task 19 its directions alone, as a label has them."""
        first = super().said(prediction)
        if self.qa != 19:
            return first
        return ",".join(re.findall(r"(?<![\w'’])(n|s|e|w)(?:orth|outh|ast|est)?(?![\w'’])", first.lower()))
