"""Questions about many artificial biographies: a long context that is coherent throughout (after LongBioBench,
arXiv 2506.02921). Everybody has the same attributes, so that every biography distracts from the asked ones.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from ropewalk.tasks.context import SPARE, Question, SharedContext, label, mentions_all, pose, records_context
from ropewalk.tasks.names import distinct, person, town
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

INTRODUCTION = " Below are the biographies of many people. All ages are those at the end of 2024."
THIS_YEAR = 2024
AGES = range(18, 91)
MONTHS = "January February March April May June July August September October November December".split()
HOBBIES = tuple(
    "archery baking beekeeping birdwatching bookbinding bowling calligraphy canoeing carpentry chess "
    "climbing cycling dancing embroidery fencing fishing gardening hiking juggling kayaking knitting "
    "origami painting photography pottery quilting rowing running sailing sculpting singing skating "
    "sketching surfing swimming weaving".split()
)
MAJORS = (
    "accounting", "agriculture", "anthropology", "archaeology", "architecture", "astronomy", "biology", "botany",
    "chemistry", "civil engineering", "computer science", "dentistry", "economics", "education", "forestry",
    "geography", "geology", "history", "journalism", "law", "linguistics", "literature", "marine science",
    "mathematics", "medicine", "music theory", "nursing", "philosophy", "physics", "political science", "psychology",
    "sociology", "statistics", "theology", "veterinary medicine", "zoology",
)  # fmt: skip

# Attribute -> what a question calls it, and sentences that state it: the first one is plain, the others paraphrase it.
ATTRIBUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "birth date": ("the birth date of {name}", (
        "{name} was born on {value}.", "{name}'s birthday is {value}.", "{name} came into the world on {value}.",
        "The birth of {name} is dated {value}.", "{name} first saw daylight on {value}.",
        "The registry has {value} as the day when {name} was born.",
    )),
    "birthplace": ("the birthplace of {name}", (
        "{name} was born in {value}.", "{name} is a native of {value}.", "{name} hails from {value}.",
        "The birthplace of {name} is {value}.", "{value} is where {name} came into the world.",
        "{name}'s life began in {value}.",
    )),
    "hobby": ("the hobby of {name}", (
        "{name}'s hobby is {value}.", "{name} spends free evenings on {value}.", "{name} has a passion for {value}.",
        "On weekends {name} enjoys {value}.", "Nothing relaxes {name} as much as {value}.",
        "{name} took up {value} as a pastime.",
    )),
    "major": ("the major of {name}", (
        "{name} majored in {value}.", "{name} holds a degree in {value}.", "{name}'s field of study was {value}.",
        "As a student {name} chose {value}.", "{name} graduated in {value}.", "{name} was trained in {value}.",
    )),
    "university": ("the university of {name}", (
        "{name} studied at the University of {value}.", "{name}'s alma mater is the University of {value}.",
        "{name} attended the University of {value}.", "The University of {value} awarded {name} a degree.",
        "{name} was a student of the University of {value}.", "{name} enrolled at the University of {value}.",
    )),
    "work city": ("the city where {name} works", (
        "{name} works in {value}.", "{name} has a job in {value}.", "{name} is employed in {value}.",
        "{name}'s office is in {value}.", "The career of {name} led to {value}.", "{name} earns a living in {value}.",
    )),
    "age": ("the age of {name}", (
        "{name} is {value} years old.", "{name}'s age is {value}.", "{name} has reached the age of {value}.",
        "{value} is the age of {name}.", "{name} has lived for {value} years.", "{name} has turned {value}.",
    )),
}  # fmt: skip
LOOKED_UP = tuple(one for one in ATTRIBUTES if one != "age")

# Skill -> scope and diffusion.
SKILLS = {
    "standard": ("small", "low"),
    "multi_standard": ("large", "low"),
    "paraphrase": ("small", "high"),
    "pronoun": ("small", "high"),
    "calculation": ("small", "low"),
    "rank": ("large", "low"),
    "multihop": ("large", "high"),
    "twodiff": ("large", "high"),
    "citation": ("small", "low"),
    "idk": ("small", "high"),
}
FREE = ("multi_standard", "rank", "twodiff", "citation", "idk")  # what may be said in more than one way
PEOPLE = {"multi_standard": 2, "rank": 2, "multihop": 2, "citation": 1}  # skills that take ``n`` people, and the fewest
SAME_PLACE = "the same place as "
UNKNOWN = "unknown"
SHOTS = {
    "calculation": (
        " For example, if Tom Reed is 40 years old and Ann Bell is 31 years old, their ages differ by 9 years."
        " If Kim Gray is 25 years old and Joe Lane is 52 years old, their ages differ by 27 years."
    ),
    "rank": (
        " For example, if Tom Reed is 40 years old and Ann Bell is 31 years old, the order is Ann Bell, Tom Reed."
        " If Kim Gray is 25 years old and Joe Lane is 52 years old, the order is Kim Gray, Joe Lane."
    ),
}


@dataclass(frozen=True)
class Life:
    """Somebody: a name, a value of each attribute that the biography tells, and its number (0: not numbered)."""

    name: str
    values: dict[str, str]
    number: int = 0

    def without(self, attribute: str) -> Life:
        return replace(self, values={key: value for key, value in self.values.items() if key != attribute})

    def told(self, attribute: str, value: str) -> Life:
        return replace(self, values=self.values | {attribute: value})


@dataclass(frozen=True)
class Biographies(SharedContext):
    """Ten skills: of understanding (the first four), of reasoning (the next four) and of trust (the last two).

    Attributes:
        skill: one of ``SKILLS``.
        n: how many people a question of "multi_standard", "rank", "multihop" (its hops) or "citation" is about.

    Raises:
        ValueError: if there is no such skill, or it does not take ``n`` people.
    """

    skill: str = "standard"
    n: int = 1
    name: str = field(init=False, default="longbio")
    scope: str = field(init=False, default="")
    diffusion: str = field(init=False, default="")
    free: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        if self.skill not in SKILLS:
            raise ValueError(f"skill must be one of {', '.join(SKILLS)}, not {self.skill!r}")
        if self.n < PEOPLE.get(self.skill, 1) or (self.n > 1 and self.skill not in PEOPLE):
            raise ValueError(f"{self.skill} does not take {self.n} people")
        scope, diffusion = SKILLS[self.skill]
        name = f"longbio_{self.skill}" + (f"_{self.n}" if self.n > 1 else "")
        label(self, name=name, scope=scope, diffusion=diffusion, free=self.skill in FREE)

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """One question per depth, but a single one of "twodiff", whose answer must be the only one.

        Who is asked about together with others stands anywhere.
        """
        names, numbers = distinct(lambda: person(rng)), distinct(lambda: str(rng.randint(10000, 999999)))

        def somebody(ages: Sequence[int] = AGES) -> Life:
            number = int(next(numbers)) if self.skill == "citation" else 0
            return life(next(names), rng.choice(ages), rng, number)

        ages: Sequence[int] = AGES
        if self.skill == "twodiff":
            people, question, ages = two_of_unique_difference(somebody, rng)
            cases = [(people, question)]
        else:
            cases = [self._case(somebody, rng) for _ in depths]
        alone = len(cases[0][0]) == 1
        questions = [
            replace(question, depth=depth if alone else question.depth, spare=SPARE if self.free else 0)
            for (_, question), depth in zip(cases, depths, strict=False)
        ]
        asked = [one for people, _ in cases for one in people]
        context, _ = records_context(
            self.name, n_tokens, units, INTRODUCTION, [biography(one, rng, self.skill) for one in asked],
            depths if alone else [rng.random() for _ in asked], questions,
            (biography(one, rng, self.skill) for one in self._others(lambda: somebody(ages), rng)),
        )  # fmt: skip
        return pose(context, questions, n_tokens, units)

    def _case(self, somebody: Callable[[], Life], rng: random.Random) -> tuple[list[Life], Question]:
        """People and a question about them."""
        if self.skill == "calculation":
            return age_difference(somebody)
        if self.skill == "rank":
            return order_of_ages(somebody, self.n)
        if self.skill == "multihop":
            return birthplace_chain(somebody, self.n)
        people = [somebody() for _ in range(self.n)]
        attributes = [rng.choice(LOOKED_UP) for _ in people]
        nouns = "; ".join(ATTRIBUTES[key][0].format(name=one.name) for one, key in zip(people, attributes, strict=True))
        values = tuple(one.values[key] for one, key in zip(people, attributes, strict=True))
        facts = {"skill": self.skill, "attributes": attributes}
        if self.skill == "idk":
            stem = f" What is {nouns}? If the text does not say it, answer {UNKNOWN}. The answer is"
            return [people[0].without(attributes[0])], Question(stem, UNKNOWN, facts=facts)
        if self.skill == "citation":
            numbers = tuple(str(one.number) for one in people)
            answer = "; ".join(f"{value} [{number}]" for value, number in zip(values, numbers, strict=True))
            stem = f" What is {nouns}? Cite the number of each biography in brackets. The answer is"
            return people, Question(
                stem, answer, references=values + numbers, facts=facts | {"citations": list(numbers)}
            )
        return people, Question(f" What is {nouns}? The answer is", "; ".join(values), references=values, facts=facts)

    def _others(self, somebody: Callable[[], Life], rng: random.Random) -> Iterator[Life]:
        """Distractors; half of those of "multihop" are born where another one is."""
        before = somebody()
        yield before
        while True:
            new = somebody()
            if self.skill == "multihop" and rng.random() < 0.5:
                new = new.told("birthplace", SAME_PLACE + before.name)
            yield new
            before = new

    def solve(self, prompt_text: str) -> str:
        """The answer, from a table of all attributes that is read off the prompt."""
        question = prompt_text[: prompt_text.rindex("?")].rpartition(". ")[2]
        table = read_lives(prompt_text)
        if gap := re.search(r"differ by exactly (\d+) years", question):
            return " and ".join(pair_with_difference(table, int(gap.group(1))))
        names = [name for name in re.findall(NAME, question) if name in table]
        if "do the ages" in question:
            return str(abs(age_of(table[names[0]]) - age_of(table[names[1]])))
        if "from the youngest" in question:
            return ", ".join(sorted(names, key=lambda name: age_of(table[name])))
        if "In which town" in question:
            return birthplace(table, names[0])
        answers = []
        for attribute, name in asked_attributes(question):
            value = table[name].values.get(attribute, UNKNOWN)
            answers.append(f"{value} [{table[name].number}]" if table[name].number else value)
        return "; ".join(answers)

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if all that was asked stands in the prediction, and for "rank" in the right order."""
        if self.skill == "rank":
            pattern = r".*".join(map(re.escape, sample.references))
            return float(re.search(pattern, prediction, re.DOTALL) is not None)
        return mentions_all(prediction, sample)


def life(name: str, age: int, rng: random.Random, number: int = 0) -> Life:
    """Somebody with a value of each attribute; the birth date agrees with the age."""
    return Life(
        name,
        {
            "birth date": f"{rng.choice(MONTHS)} {rng.randint(1, 28)}, {THIS_YEAR - age}",
            "birthplace": town(rng),
            "hobby": rng.choice(HOBBIES),
            "major": rng.choice(MAJORS),
            "university": town(rng),
            "work city": town(rng),
            "age": str(age),
        },
        number,
    )


def biography(one: Life, rng: random.Random, wording: str = "standard") -> str:
    """The text about somebody; a wording of "paraphrase" or "pronoun" differs from the plain one."""
    opening = f" Biography {one.number} of" if one.number else " Biography of"
    sentences = [f"{' My name is' if wording == 'pronoun' else opening} {one.name}."]
    for attribute, value in one.values.items():
        templates = ATTRIBUTES[attribute][1]
        template = rng.choice(templates) if wording == "paraphrase" else templates[0]
        template = in_first_person(template) if wording == "pronoun" else template
        sentences.append(template.format(name=one.name, value=value))
    return " ".join(sentences)


def in_first_person(template: str) -> str:
    """A plain sentence about {name} as {name} would say it."""
    for third, first in {"{name}'s": "My", "{name} is": "I am", "{name} works": "I work", "{name}": "I"}.items():
        template = template.replace(third, first)
    return template


def age_of(one: Life) -> int:
    return int(one.values["age"])


def of_different_ages(somebody: Callable[[], Life], n: int) -> list[Life]:
    """``n`` people, no two of one age."""
    people: dict[int, Life] = {}
    while len(people) < n:
        one = somebody()
        people.setdefault(age_of(one), one)
    return list(people.values())


def age_difference(somebody: Callable[[], Life]) -> tuple[list[Life], Question]:
    """By how many years two ages differ."""
    one, other = people = of_different_ages(somebody, 2)
    stem = f"{SHOTS['calculation']} By how many years do the ages of {one.name} and {other.name} differ? They differ by"
    return people, Question(stem, str(abs(age_of(one) - age_of(other))), facts={"skill": "calculation"})


def order_of_ages(somebody: Callable[[], Life], n: int) -> tuple[list[Life], Question]:
    """``n`` people from the youngest to the oldest."""
    people = of_different_ages(somebody, n)
    names = tuple(one.name for one in sorted(people, key=age_of))
    asked = ", ".join(one.name for one in people)
    stem = f"{SHOTS['rank']} What is the order of {asked} from the youngest to the oldest? The order is"
    return people, Question(stem, ", ".join(names), references=names, facts={"skill": "rank", "n": n})


def birthplace_chain(somebody: Callable[[], Life], n: int) -> tuple[list[Life], Question]:
    """Where somebody was born: in the same place as somebody who was born in the same place as ... (``n`` people)."""
    people = [somebody()]
    while len(people) < n:
        people.append(somebody().told("birthplace", SAME_PLACE + people[-1].name))
    stem = f" In which town was {people[-1].name} born? The town is"
    return people, Question(stem, people[0].values["birthplace"], facts={"skill": "multihop", "hops": n})


def two_of_unique_difference(
    somebody: Callable[[Sequence[int]], Life], rng: random.Random
) -> tuple[list[Life], Question, list[int]]:
    """Two people whose ages differ as no other two of the context do, and the ages that all others may have.

    One age is odd and all others are even, so that odd differences are differences to it.
    """
    odd, even = rng.choice([age for age in AGES if age % 2]), rng.choice([age for age in AGES if age % 2 == 0])
    people = [somebody([odd]), somebody([even])]
    rng.shuffle(people)
    names = tuple(one.name for one in people)
    stem = f" Which two people have ages that differ by exactly {abs(odd - even)} years? The two are"
    question = Question(stem, " and ".join(names), references=names, facts={"skill": "twodiff"})
    return people, question, [age for age in AGES if age % 2 == 0 and age not in (even, 2 * odd - even)]


NAME = r"[A-Z]\w+ [A-Z]\w+ [A-Z]\w+"


@cache
def patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Attribute and pattern of all sentences that may state it, about "NAME" or in the first person."""
    return [
        (attribute, re.compile(re.escape(sentence).replace("VALUE", "(.+)")))
        for attribute, (_, templates) in ATTRIBUTES.items()
        for template in (*templates, in_first_person(templates[0]))
        for sentence in [template.format(name="NAME", value="VALUE")]
    ]


def read_lives(text: str) -> dict[str, Life]:
    """Name -> what the biographies in a text tell."""
    parts = re.split(rf"(?:Biography (?:(\d+) )?of|My name is) ({NAME})\.", text)
    lives = {}
    for number, name, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        sentences = [one.strip().replace(name, "NAME") for one in re.findall(r"[^.]+\.", body)]
        values = {
            attribute: found.group(1)
            for attribute, pattern in patterns()
            for sentence in sentences
            if (found := pattern.fullmatch(sentence))
        }
        lives[name] = Life(name, values, int(number or 0))
    return lives


def asked_attributes(question: str) -> list[tuple[str, str]]:
    """The attributes that a question names, each with whose it is, in their order."""
    found = [
        (match.start(), attribute, match.group(1))
        for attribute, (noun, _) in ATTRIBUTES.items()
        for match in re.finditer(noun.format(name=f"({NAME})"), question)
    ]
    return [(attribute, name) for _, attribute, name in sorted(found)]


def birthplace(table: dict[str, Life], name: str) -> str:
    """Where somebody was born, found through all that were born in the same place."""
    for _ in table:
        place = table[name].values.get("birthplace", "")
        if not place.startswith(SAME_PLACE):
            return place
        name = place.removeprefix(SAME_PLACE)
    return ""


def pair_with_difference(table: dict[str, Life], years: int) -> list[str]:
    """The names of two people whose ages differ so."""
    by_age = {age_of(one): one.name for one in table.values()}
    return next(([name, by_age[age + years]] for age, name in by_age.items() if age + years in by_age), [])
