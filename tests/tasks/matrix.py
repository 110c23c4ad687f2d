"""Every task with small material, and how to change the fact that its answer depends on."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from ropewalk.tasks.altered_qa import AlteredNumericQA, Page
from ropewalk.tasks.association import Association
from ropewalk.tasks.babi_stories import COLOURS, SPECIES, BabiStories
from ropewalk.tasks.babilong import COUNTS, PLACES, THINGS, Babilong
from ropewalk.tasks.belief_tracking import BeliefTracking
from ropewalk.tasks.biographies import ATTRIBUTES, Biographies, asked_attributes
from ropewalk.tasks.context_rot import RotDistract, RotRepeat
from ropewalk.tasks.countdown import Countdown
from ropewalk.tasks.flenqa import Flenqa
from ropewalk.tasks.graphwalks import Graphwalks
from ropewalk.tasks.kinds import LEXICON, things
from ropewalk.tasks.latent_list import LatentList
from ropewalk.tasks.length_generalization import ALGORITHMS, LengthGeneralization
from ropewalk.tasks.lines import Lines
from ropewalk.tasks.more_documents import MoreDocuments
from ropewalk.tasks.mrcr import Mrcr
from ropewalk.tasks.oolong import MONTHS, MORE, Oolong, OolongPairs
from ropewalk.tasks.path_traversal import PathTraversal
from ropewalk.tasks.posgen import PosGen
from ropewalk.tasks.position_wise import PositionWise
from ropewalk.tasks.sessions import UPDATES, SessAbstain, SessUpdate
from ropewalk.tasks.task import Sample, Task
from ropewalk.tasks.val_probing import ValCode, ValDatabase, ValDocument, functions, sentences
from ropewalk.texts.builtin import held_out_sources, topics

MILL = "The mill at Oakby was built in 1731. It has 12 wheels, and burnt down in 1731 and in 1840."
TOWN = "Heronton counts 12,480 people.\nIt lies 60 miles from the sea."
PAGES = (
    Page(MILL, "When was the mill at Oakby built?", "1731"),
    Page(TOWN, "How many people live in Heronton?", "12,480"),
)
TEXT = tuple(one for one in sentences(topics()) if one.isascii())
CODE = functions([source for name, source in held_out_sources().items() if name in ("fractions", "shutil")])


@dataclass(frozen=True)
class Case:
    """A task to test.

    Attributes:
        task: with small material.
        lengths: tokens to ask for.
        perturb: the prompt's text with another fact where the answer stands.
        in_common: what any two texts score at most, where similar ones score something.
    """

    task: Task
    perturb: Callable[[str, Sample], str]
    lengths: tuple[int, ...] = (600, 601, 2000)
    in_common: float = 0.0


def swap(pattern: str, new: str | Callable[[re.Match[str]], str]) -> Callable[[str, Sample], str]:
    """Replaces all matches of a pattern, in which {answer} is the sample's."""

    def perturb(text: str, sample: Sample) -> str:
        changed, n = re.subn(pattern.replace("{answer}", re.escape(sample.text)), new, text)
        assert n, (pattern, text)
        return changed

    return perturb


def of_asked(attribute_pattern: str, new: str) -> Callable[[str, Sample], str]:
    """Replaces the first match of a pattern about the first asked person, {name}."""

    def perturb(text: str, sample: Sample) -> str:
        question = text[: text.rindex("?")].rpartition(". ")[2]
        name = next(one for one in re.findall(r"[A-Z]\w+ [A-Z]\w+ [A-Z]\w+", question) if text.count(one) > 1)
        return re.sub(attribute_pattern.replace("{name}", name), new.replace("{name}", name), text, count=1)

    return perturb


def older(text: str, sample: Sample) -> str:
    """Makes the youngest (or the first) of the named people the oldest."""
    return swap(rf"{re.escape(sample.references[0])} is \d+ years", f"{sample.references[0]} is 99 years")(text, sample)


def tell(text: str) -> str:
    """Adds the attribute that a biography does not tell."""
    [(attribute, name)] = asked_attributes(text[: text.rindex("?")].rpartition(". ")[2])
    sentence = ATTRIBUTES[attribute][1][0].format(name=name, value="Nowhere")
    return text.replace(f"of {name}.", f"of {name}. {sentence}", 1)


def elsewhere(text: str, sample: Sample) -> str:
    """Moves everybody who goes where the question or the answer says to another place, or all to the place of a no."""
    if sample.text == "no":
        return re.sub(r"to the \w+\.", f"to the {sample.facts['question'].split()[-1][:-1]}.", text)
    place = sample.text if sample.text in PLACES else sample.facts["question"].split()[-1][:-1]
    return re.sub(rf"to the {place}\.", f"to the {next(one for one in PLACES if one != place)}.", text)


def renamed(text: str, sample: Sample) -> str:
    """Another thing, person or place where the answer stands in the story."""
    story, _, question = text.rpartition(sample.facts["question"])
    return re.sub(rf"\b{sample.references[0]}\b", "cloud", story) + sample.facts["question"] + question


def nothing_taken(text: str, sample: Sample) -> str:
    """The asked person takes or gets one thing more (at the end) or puts all down."""
    story, _, question = text.rpartition(sample.facts["question"])
    who = re.findall(r"does (\w+) carry", sample.facts["question"])[0]
    drops = " ".join(f"{who} dropped the {thing}." for thing in THINGS)
    extra = drops if sample.text not in (COUNTS[0], "nothing") else f"{who} took the apple."
    return f"{story} {extra} {sample.facts['question']}{question}"


def opposite(text: str, sample: Sample) -> str:
    """Without the second fact nothing follows; of something false, the second fact is made to fit."""
    _, second = sample.facts["facts"]
    question = text.rpartition(" Is it true or false that ")[2]
    if sample.text == "true":
        return text.replace(second, "", 1)
    if rule := re.search(r"If somebody is \w+ and (\w+), then", text):
        return text.replace(second, f" {' '.join(second.split()[:3])} is {rule.group(1)}.", 1)
    if "room that has" in question:
        what = question.partition("room that has ")[2].partition("?")[0]
        return text.replace(second, second.partition(" has ")[0] + f" has {what}.", 1)
    claim = question.partition("?")[0]
    return text.replace(second, f" {claim}.", 1)


def other_input(text: str, sample: Sample) -> str:
    """Another first digit; for retrieval, zeros all over."""
    before, mark, problem = text.rpartition("Input:")
    if "counted from 0" in before:
        return before + mark + re.sub(r"\d", lambda old: "1" if sample.text.startswith("0") else "0", problem)
    largest = 2 if "ones even" in before else 10
    return before + mark + re.sub(r"\d", lambda old: str((int(old[0]) + 1) % largest), problem, count=1)


def by_sled(text: str, sample: Sample) -> str:
    """Another means of transport for the first hop."""
    start = sample.text.split()[1]
    return re.sub(rf"(From {start} one can go to \S+ by) \w+", r"\1 sled", text)


def singing(text: str, sample: Sample) -> str:
    """Somebody sings instead of the last thing that happened."""
    return re.sub(r"Step 5: (\w+) \w+", r"Step 5: \1 sang", text)


def one_node_more(text: str, sample: Sample) -> str:
    """A path of new nodes from the asked one, or to it."""
    node = re.findall(r"(?:search from|parents of) (\w+)[ .]", text)[-1]
    path = [node, *(f"0000000{i}" for i in range(sample.facts["depth"]))]
    edges = pairwise(path) if "search from" in text.rpartition("Operation")[2] else [(path[1], node)]
    graph, mark, question = text.rpartition(" Operation:")
    return graph + "".join(f" {start} -> {end};" for start, end in edges) + mark + question


def in_front(told: str, text: str, sample: Sample) -> str:
    """One more sentence behind the story."""
    story, question, rest = text.rpartition(sample.facts["question"])
    return f"{story}{told} {question}{rest}"


def moved_on(text: str, sample: Sample) -> str:
    """The asked person is somewhere else, or in the asked place, after all else."""
    who, place = re.findall(r"(?:Is|Where is) (\w+)(?: in the (\w+))?", sample.facts["question"])[0]
    place = place if sample.text == "no" else next(one for one in PLACES if one not in (place, sample.text))
    return in_front(f"{who} went to the {place}.", text, sample)


def unlike(text: str, sample: Sample) -> str:
    """Other fears, or colours."""
    kinds = SPECIES if sample.text in SPECIES else COLOURS
    other = next(one for one in kinds if one != sample.text)
    return re.sub(rf"(?<= )(of )?{sample.text}(s?)\.", rf"\g<1>{other}\2.", text)


def turned(text: str, sample: Sample) -> str:
    """All directions the other way round; of sizes, the other thing is the bigger one."""
    story, question, rest = text.rpartition(sample.facts["question"])
    opposite = {"above": "below", "left": "right", "north": "south", "east": "west"}
    opposite |= {value: key for key, value in opposite.items()}
    story = re.sub(rf"\b({'|'.join(opposite)})\b", lambda way: opposite[way[0]], story)
    story = re.sub(r"The (\w+ \w+) (is bigger than|fits inside) the (\w+ \w+)\.", r"The \3 \2 the \1.", story)
    return f"{story}{question}{rest}"


def other_mood(text: str, sample: Sample) -> str:
    """The asked person feels otherwise."""
    who = re.findall(r"(?:will|did) (\w+)", sample.facts["question"])[0]
    mood = "bored" if sample.text in ("tired", "bedroom") else "tired"
    return re.sub(rf"{who} is \w+\.", f"{who} is {mood}.", text)


def one_more_value(text: str, sample: Sample) -> str:
    """The asked value changes once more."""
    chats, mark, question = text.rpartition(" It is 20")
    (owned,) = re.findall(r"(?:is|was|did) (my .+?)(?: today| just before| change)", question)
    return f"{chats} User: {owned} is anything-else-now.{mark}{question}"


def other_lines(text: str, sample: Sample) -> str:
    """Other users, months or kinds of thing in the lines, as the answer needs it."""
    lines, mark, question = text.rpartition(". ")
    answer = sample.facts["answer"]
    if answer == "user":
        return re.sub(r"user (\d+)", r"user 9\1", lines) + mark + question
    if answer == "month":
        return re.sub("|".join(MONTHS), lambda one: MONTHS[MONTHS.index(one[0]) - 1], lines) + mark + question
    every = things()
    kinds = [kind for kind in LEXICON if kind in lines]
    other = dict(zip(kinds, kinds[1:] + kinds[:1], strict=True))
    if answer == "comparison":
        ours, theirs = re.findall(r"Is the kind (\w+) .* as (\w+)", question)[0]
        other = {one: theirs if sample.text == MORE and one == ours else one for one in kinds}
        other |= {theirs: ours} if sample.text != MORE else {}
    if answer == "number":
        return lines.partition("The lines:")[0] + "The lines" + mark + question
    like = {kind: next(one for one, (_, its) in every.items() if its == kind) for kind in kinds}
    return (
        re.sub(
            r"\b(\w+)\.", lambda one: f"{like[other[every[one[1]][1]]]}." if one[1] in every else one[0], lines + "."
        )
        + " "
        + question
    )


BIOGRAPHY = (2000, 2001, 5000)
CASES = {
    "lines": Case(Lines(), swap(r"is {answer}\.", "is <77>.")),
    "lines uuids": Case(Lines(keys="uuids"), swap(r"is {answer}\.", "is <77>.")),
    "lines letters": Case(Lines(keys="letters"), swap(r"is {answer}\.", "is <77>.")),
    "altered_qa": Case(AlteredNumericQA(PAGES), swap(r"(built in|counts) {answer}", r"\1 1999")),
    "val_database": Case(ValDatabase(), swap("label: {answer}>", "label: other, description: another>")),
    "val_code": Case(ValCode(CODE), swap(r"def {answer}\b", "def other"), (1500, 1501, 4000)),
    "val_document": Case(ValDocument(TEXT), swap("{answer}", "Gone."), (1000, 1001, 4000)),
    "longbio_standard": Case(Biographies(), swap("{answer}", "Nowhere"), BIOGRAPHY),
    "longbio_multi_standard": Case(
        Biographies("multi_standard", 3), lambda text, one: text.replace(one.references[1], "Nowhere"), BIOGRAPHY
    ),
    "longbio_paraphrase": Case(Biographies("paraphrase"), swap("{answer}", "Nowhere"), BIOGRAPHY),
    "longbio_pronoun": Case(Biographies("pronoun"), swap("{answer}", "Nowhere"), BIOGRAPHY),
    "longbio_calculation": Case(Biographies("calculation"), of_asked(r"{name} is \d+", "{name} is 1234"), BIOGRAPHY),
    "longbio_rank": Case(Biographies("rank", 2), older, BIOGRAPHY),
    "longbio_multihop": Case(Biographies("multihop", 3), swap("in {answer}", "in Nowhere"), (3000, 3001)),
    "longbio_twodiff": Case(Biographies("twodiff"), older, BIOGRAPHY),
    "longbio_citation": Case(
        Biographies("citation", 2),
        lambda text, one: text.replace(f"Biography {one.references[-1]}", "Biography 1"),
        BIOGRAPHY,
    ),
    "longbio_idk": Case(Biographies("idk"), lambda text, one: tell(text), BIOGRAPHY),
    "babilong_qa1": Case(Babilong(1), elsewhere, (900, 901, 3000)),
    "babilong_qa2": Case(Babilong(2), elsewhere, (900, 901, 3000)),
    "babilong_qa3": Case(Babilong(3), elsewhere, (1500, 1501, 3000)),
    "babilong_qa4": Case(Babilong(4), renamed, (900, 901, 3000)),
    "babilong_qa5": Case(Babilong(5), renamed, (1500, 1501, 3000)),
    "babilong_qa6": Case(Babilong(6), elsewhere, (900, 901, 3000)),
    "babilong_qa7": Case(Babilong(7), nothing_taken, (900, 901, 3000)),
    "babilong_qa8": Case(Babilong(8), nothing_taken, (900, 901, 3000)),
    **{
        f"flenqa {kind} {padding} {together}": Case(Flenqa(kind, padding, together), opposite, (700, 701, 2000))
        for kind in ("relations", "rooms", "rules")
        for padding in ("text", "task")
        for together in (True, False)
    },
    "more_documents": Case(MoreDocuments(6), swap("in {answer}", "in Nowhere"), (3000, 3001, 5000)),
    **{
        f"posgen {kind}": Case(
            PosGen(kind), lambda text, one: re.sub(r"\d+$", lambda n: str(int(n[0]) ^ 1), text), (150, 151, 500)
        )
        for kind in ("recurrent", "cot", "semi_recurrent")
    },
    "position_wise": Case(PositionWise(), swap("number {answer}", "number 77"), (1500, 1501, 3000)),
    **{
        f"lengen {algorithm} {size}": Case(LengthGeneralization(algorithm, size), other_input, (700, 701, 1500))
        for algorithm in ALGORITHMS
        for size in (None, 5)
    },
    "path_traversal": Case(PathTraversal(5), by_sled, (1500, 1501, 3000)),
    "belief_tracking": Case(BeliefTracking(5, 2), singing, (4000, 4001)),
    "babilong_qa9": Case(BabiStories(9), moved_on, (900, 901, 3000)),
    "babilong_qa10": Case(BabiStories(10), moved_on, (900, 901, 3000)),
    "babilong_qa11": Case(BabiStories(11), moved_on, (900, 901, 3000)),
    "babilong_qa12": Case(BabiStories(12), moved_on, (900, 901, 3000)),
    "babilong_qa13": Case(BabiStories(13), moved_on, (900, 901, 3000)),
    "babilong_qa14": Case(BabiStories(14), renamed, (1200, 1201, 3000)),
    "babilong_qa15": Case(BabiStories(15), unlike, (900, 901, 3000)),
    "babilong_qa16": Case(BabiStories(16), unlike, (900, 901, 3000)),
    "babilong_qa17": Case(BabiStories(17), turned, (900, 901, 3000)),
    "babilong_qa18": Case(BabiStories(18), turned, (900, 901, 3000)),
    "babilong_qa19": Case(BabiStories(19), turned, (900, 901, 3000)),
    "babilong_qa20": Case(BabiStories(20), other_mood, (900, 901, 3000)),
    "rot-repeat": Case(RotRepeat(), swap("text is:", "text is: another"), in_common=0.02),
    **{
        task.name: Case(task, swap("named the {answer} as", "named the late-lime-lamp as"), (900, 901, 3000))
        for task in (RotDistract(0), RotDistract(4), RotDistract(share=0.5), RotDistract(0, shuffled=True))
    },
    **{
        f"latent-list {n}": Case(
            LatentList(n), swap(r" What does print", " a = [0, 250]; What does print"), (900, 901, 3000)
        )
        for n in (1, 20)
    },
    **{f"sess-update {asks}": Case(SessUpdate(asks), one_more_value, (1500, 1501, 4000)) for asks in UPDATES},
    "sess-abstain": Case(
        SessAbstain(), lambda text, one: text.replace(one.facts["value"], "Nobody At All"), (1500, 1501, 4000)
    ),
    "countdown": Case(Countdown(12), swap(r"(The target is) (\d+)", r"\1 1\2"), (2000, 2001)),
    **{f"graphwalks {one}": Case(Graphwalks(one), one_node_more, (700, 701, 2000)) for one in ("bfs", "parents")},
    **{f"oolong {one}": Case(Oolong(one), other_lines) for one in ("counting", "user", "timeline")},
    "mrcr": Case(Mrcr(2), lambda text, one: text.replace(one.references[1], "Gone."), (1500, 1501, 3000)),
    **{f"association {n}": Case(Association(n), swap(r"\b{answer}\b", "Zorro")) for n in range(3)},
    "oolong pairs": Case(OolongPairs(), swap(r"user (\d+)", r"user 9\1")),
}
