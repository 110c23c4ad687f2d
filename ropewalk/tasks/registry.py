"""The one list of tasks: what they are called, where they are, what they are made from, how they are asked.

A task is added by one line in ``_tasks``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.tasks.ruler import CONFIGURATIONS, STAND_INS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ropewalk.tasks.task import Task

PPL = "ppl"  # no task with samples: perplexity by length and loss by position

# How a task is asked at one length: "spread": one question per context, at depths that cover it evenly; "grid": at
# every depth of a grid, in one haystack per round; "planted": the same with the needles of all cells in one haystack;
# "questions": several questions per context where the task has them.
Asked = Literal["spread", "grid", "planted", "questions"]


@dataclass(frozen=True)
class Entry:
    """A task of the list.

    Attributes:
        target: "module:callable" of this package that makes the task.
        family: the suite that it belongs to; empty for a stand-in.
        title: what is asked, as in reports.
        options: arguments of the callable.
        material: arguments of the callable that are parts of ``Material``, by name.
        asked: see ``Asked``.
        stand_in: what takes its place in a suite where its material is not there.
        comparable: what its number is comparable to, and how far; only of the family "quoted".
    """

    target: str
    family: str
    title: str
    options: Mapping[str, Any] = field(default_factory=dict)
    material: Mapping[str, str] = field(default_factory=dict)
    asked: Asked = "questions"
    stand_in: str = ""
    comparable: str = ""


PACKAGE = "ropewalk.tasks."
HAY = {"haystack": "haystack", "sentence_ends": "sentence_ends"}
BACKGROUND = {"background": "background"}
RULER = {
    "niah_single_1": "Needle in noise",
    "niah_single_2": "Needle in an essay",
    "niah_single_3": "Needle in an essay, UUID",
    "niah_multikey_1": "One needle of four",
    "niah_multikey_2": "One of many needles",
    "niah_multikey_3": "One of many needles, UUIDs",
    "niah_multivalue": "Four values of a key",
    "niah_multiquery": "Values of four keys",
    "vt": "Variable tracking",
    "cwe": "Common words",
    "fwe": "Frequent words",
    "qa_1": "Questions on SQuAD",
    "qa_2": "Questions on HotpotQA",
    "qa_1_synthetic": "Questions, made-up documents",
    "qa_2_synthetic": "Two-hop questions, made-up documents",
}
RULER_MATERIAL = {
    **{name: HAY for name, (_, options) in CONFIGURATIONS.items() if options.get("hay") == "essay"},
    "qa_1": {"examples": "squad"},
    "qa_2": {"examples": "hotpotqa"},
}
LONGBIO = {
    "standard": "One attribute of a person",
    "multi_standard": "Attributes of {n} people",
    "paraphrase": "One attribute, in other words",
    "pronoun": "One attribute, told in the first person",
    "calculation": "Difference of two ages",
    "rank": "{n} people by age",
    "multihop": "Birthplace over {n} people",
    "twodiff": "Two people of a given age difference",
    "citation": "Attributes, with the numbers of {n} biographies",
    "idk": "An attribute that is not told",
}
LONGBIO_PEOPLE = {"multi_standard": (2, 5), "rank": (2, 5), "multihop": (2, 5), "citation": (1, 2)}
BABILONG = (
    "Where somebody is", "Where a thing is", "Where a thing was before", "What lies beside a place",
    "Who gave what to whom", "Whether somebody is there", "How many things somebody carries", "What somebody carries",
)  # fmt: skip
FLENQA = {"relations": "Who is older", "rooms": "Who is in which room", "rules": "Whether a rule holds"}
FLENQA_PADDING = {"text": "text", "task": "facts of the same kind"}
DOCUMENTS = (5, 10, 20, 40)
POSGEN = {"recurrent": "", "cot": ", steps shown", "semi_recurrent": ", from far ones too"}
ALGORITHMS = (
    "copy", "reverse", "recopy", "inverse_recopy", "deduplicate", "retrieve", "lookup", "lookup_reverse", "parity",
    "sum", "sort", "sort_numbers", "addition", "addition_reversed", "addition_hints", "addition_scratchpad",
    "addition_spaced", "multiplication_reversed",
)  # fmt: skip
MRCR = (2, 4, 8)
NOT_MRCR = "openai/mrcr at 2, 4 and 8 needles only in its order of models: pieces by templates, no worked example"
GRAPHWALKS = {"bfs": "Nodes at a distance in a graph", "parents": "Nodes with an edge to one"}
NOT_GRAPHWALKS = "openai/graphwalks only in its order of models: other node names, one example, other sizes of graph"
OOLONG = {
    "counting": "How many lines are of a class",
    "user": "Which user has most lines of a class",
    "timeline": "When lines are of a class",
}
NOT_OOLONG = "OOLONG-synth only in its order of models: other texts, classes that are easier to tell, no ties"
NOT_PAIRS = "OOLONG-Pairs (arXiv 2512.24601) only in its order of models: other lines, relations and numbers of pairs"
ASSOCIATIONS = ("Who keeps a thing", "Who keeps a thing of a sort", "Who keeps a thing of a kind")
NOT_NOLIMA = (
    "NoLiMa only in how far a model reaches for 85 % of its ceiling: another lexicon, neither NoLiMa's nor WordNet's"
)
BABI_STORIES = {
    9: "Whether somebody is there, or no longer", 10: "Whether somebody is there, or may be",
    11: "Where he or she then went", 12: "Where two went", 13: "Where they then went", 14: "Where somebody was before",
    15: "What an animal is afraid of", 16: "What colour an animal is", 17: "How shapes lie", 18: "What is bigger",
    19: "Which way to go", 20: "Why somebody does what",
}  # fmt: skip
NOT_BABILONG = "BABILong only in its order of models: other people, places and prompts, and as many times yes as no"
RIVALS = {0: "A fact without rivals", 1: "A fact and a rival", 4: "A fact and four rivals"}
RIVAL_SHARES = (10, 50, 90)
NOT_ROT = (
    "chroma-core/context-rot only in how scores fall with length: other texts and facts, read by rule, all counted"
)
LATENT_LIST = (1, 5, 20)
NOT_LATENT_LIST = "Michelangelo's Latent List only in its idea: lines, numbers and scores are ours"
UPDATES = {
    "": "A value that changes",
    "_earlier": "The value before the last change",
    "_changes": "How often it changed",
}
NOT_LONGMEMEVAL = "LongMemEval only in which ability is asked for: other chats, shorter, read by rule"


def _tasks() -> Iterator[tuple[str, Entry]]:
    """Names and entries, family by family."""
    yield "passkey", Entry("passkey:Passkey", "retrieval", "Passkey", asked="spread")
    niah = "niah:NeedleInHaystack", "retrieval"
    yield "niah", Entry(*niah, "Needle in a haystack", material=HAY, asked="grid")
    yield "niah-planted", Entry(*niah, "Needle among needles", material=HAY, asked="planted")
    for name, (target, options) in CONFIGURATIONS.items():
        stand_in = f"{name}_synthetic" if f"{name}_synthetic" in STAND_INS else ""
        named, parts = {"name": name, **options}, RULER_MATERIAL.get(name, {})
        yield name, Entry(target.removeprefix(PACKAGE), "ruler", RULER[name], named, parts, stand_in=stand_in)
    for name, (target, options) in STAND_INS.items():
        yield name, Entry(target.removeprefix(PACKAGE), "", RULER[name], options)
    yield "kv_retrieval", Entry("kv:KeyValue", "infinitebench", "Value of a key in JSON")
    yield "number_string", Entry("number:NumberString", "infinitebench", "Repeating digits in noise", asked="spread")
    for keys in ("words", "uuids", "letters"):
        name = "lines" if keys == "words" else f"lines_{keys}"
        yield name, Entry("lines:Lines", "longchat", f"Line of a record, by {keys}", {"keys": keys})
    pages = {"pages": "pages", **BACKGROUND}
    yield "altered_qa", Entry("altered_qa:AlteredNumericQA", "longchat", "Altered numbers", material=pages)
    yield "val_database", Entry("val_probing:ValDatabase", "film", "Entry of a database")
    yield "val_code", Entry("val_probing:ValCode", "film", "Function of a line", material={"material": "functions"})
    yield "val_document", Entry("val_probing:ValDocument", "film", "Whole sentence", material={"material": "sentences"})
    for skill, title in LONGBIO.items():
        for n in LONGBIO_PEOPLE.get(skill, (1,)):
            name = f"longbio_{skill}" + (f"_{n}" if n > 1 else "")
            yield name, Entry("biographies:Biographies", "longbio", title.format(n=n), {"skill": skill, "n": n})
    for qa, title in enumerate(BABILONG, 1):
        yield f"babilong_qa{qa}", Entry("babilong:Babilong", "babilong", title, {"qa": qa}, BACKGROUND)
    for kind, title in FLENQA.items():
        for padding, among in FLENQA_PADDING.items():
            for together, where in ((False, ""), (True, "_together")):
                options = {"kind": kind, "padding": padding, "together": together}
                said = f"{title}, {'facts together' if together else 'facts apart'} in {among}"
                yield f"flenqa_{kind}_{padding}{where}", Entry("flenqa:Flenqa", "flenqa", said, options, BACKGROUND)
    for n in DOCUMENTS:
        more = "more_documents:MoreDocuments", "more-documents", f"Two of {n} documents"
        yield f"more_documents_{n}", Entry(*more, {"documents": n}, BACKGROUND)
    for kind, how in POSGEN.items():
        yield f"posgen_{kind}", Entry("posgen:PosGen", "posgen", f"Next of a sequence{how}", {"kind": kind})
    yield "position_wise_20", Entry("position_wise:PositionWise", "position-wise", "One of 20 numbers")
    for algorithm in ALGORITHMS:
        title = algorithm.replace("_", " ").capitalize()
        yield (
            f"lengen_{algorithm}",
            Entry(
                "length_generalization:LengthGeneralization", "length-generalisation", title, {"algorithm": algorithm}
            ),
        )
    yield "path_traversal_24", Entry("path_traversal:PathTraversal", "longproc", "Route of 24 connections")
    yield "belief_tracking_10", Entry("belief_tracking:BeliefTracking", "longproc", "Who believes what", {}, BACKGROUND)
    yield "countdown_60", Entry("countdown:Countdown", "longproc", "Search for a number", {}, BACKGROUND)
    for needles in MRCR:
        title = f"One of {needles} pieces asked for alike"
        yield f"mrcr-like_{needles}", Entry("mrcr:Mrcr", "quoted", title, {"needles": needles}, comparable=NOT_MRCR)
    for operation, title in GRAPHWALKS.items():
        walks = "graphwalks:Graphwalks", "quoted", title, {"operation": operation}
        yield f"graphwalks-like_{operation}", Entry(*walks, comparable=NOT_GRAPHWALKS)
    for group, title in OOLONG.items():
        yield f"oolong-like_{group}", Entry("oolong:Oolong", "quoted", title, {"group": group}, comparable=NOT_OOLONG)
    yield "oolong-like_pairs", Entry("oolong:OolongPairs", "quoted", "Pairs of users", comparable=NOT_PAIRS)
    for hops, title in enumerate(ASSOCIATIONS):
        found = "association:Association", "quoted", title, {"hops": hops}, BACKGROUND
        yield f"latent-association_{hops}", Entry(*found, comparable=NOT_NOLIMA)
    for qa, title in BABI_STORIES.items():
        story = "babi_stories:BabiStories", "quoted", title, {"qa": qa}, BACKGROUND
        yield f"babilong_qa{qa}", Entry(*story, comparable=NOT_BABILONG)
    repeat = "context_rot:RotRepeat", "quoted", "One word many times, and an odd one"
    yield "rot-repeat", Entry(*repeat, asked="spread", comparable=NOT_ROT)
    fact = "context_rot:RotDistract", "quoted"
    for n, title in RIVALS.items():
        rot = Entry(*fact, title, {"rivals": n}, BACKGROUND, asked="spread", comparable=NOT_ROT)
        yield f"rot-distract_{n}", rot
    title, alone = "A fact among shuffled sentences", {"rivals": 0, "shuffled": True}
    yield "rot-shuffle", Entry(*fact, title, alone, BACKGROUND, asked="spread", comparable=NOT_ROT)
    for share in RIVAL_SHARES:
        title = f"A fact in a text of {share} % rivals"
        rot = Entry(*fact, title, {"share": share / 100}, BACKGROUND, asked="spread", comparable=NOT_ROT)
        yield f"rival-share_{share}", rot
    for n in LATENT_LIST:
        program = "latent_list:LatentList", "quoted", f"A list after {n} changes", {"relevant": n}
        yield f"latent-list-like_{n}", Entry(*program, comparable=NOT_LATENT_LIST)
    for kind, title in UPDATES.items():
        update = "sessions:SessUpdate", "quoted", title, {"asks": kind[1:] or "current"}
        yield f"sess-update{kind}", Entry(*update, asked="spread", comparable=NOT_LONGMEMEVAL)
    abstain = "sessions:SessAbstain", "quoted", "A fact that is told, and one that is not"
    yield "sess-abstain", Entry(*abstain, asked="spread", comparable=NOT_LONGMEMEVAL)


TASKS = dict(_tasks())


class Material:
    """What tasks are made from, for one tokenizer; each part is made when it is first asked for.

    Args:
        tokenizer: of the prompts.
        given: parts that the caller has: "squad" and "hotpotqa" (examples of questions), "pages" (to alter).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, given: Mapping[str, Any] | None = None):
        self.tokenizer, self.given = tokenizer, given or {}
        self._made: dict[str, Any] = dict(self.given)

    def __getitem__(self, part: str) -> Any:
        if part not in self._made:
            self._made[part] = getattr(self, f"_{part}")()
        return self._made[part]

    def _haystack(self) -> tuple[int, ...]:
        """Token ids of the language reference that Python ships."""
        from ropewalk.texts.builtin import topics
        from ropewalk.texts.documents import token_ids

        return tuple(token_ids(topics(), self.tokenizer))

    def _sentence_ends(self) -> frozenset[int]:
        """Ids of the haystack that end a sentence."""
        ids = set(self["haystack"])
        return frozenset(i for i in ids if str(self.tokenizer.decode([i])).rstrip().endswith((".", "!", "?")))

    def _background(self) -> Any:
        """The haystack, to hide facts in."""
        from ropewalk.tasks.context import Background

        return Background(self["haystack"], self["sentence_ends"])

    def _functions(self) -> Any:
        """Functions of the held-out modules of the standard library."""
        from ropewalk.tasks.val_probing import functions
        from ropewalk.texts.builtin import held_out_sources

        return functions(held_out_sources().values())

    def _sentences(self) -> Any:
        """Sentences of the language reference; only ASCII, which every tokenizer gives back as it was."""
        from ropewalk.tasks.val_probing import sentences
        from ropewalk.texts.builtin import topics

        return tuple(one for one in sentences(topics()) if one.isascii())


def categories(names: Iterable[str]) -> list[list[str]]:
    """Tasks that one module makes, side by side; each for itself where one makes all of them."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(entry(name).target.partition(":")[0], []).append(name)
    return list(found.values()) if len(found) > 1 else [[name] for some in found.values() for name in some]


def missing(name: str, given: Mapping[str, Any]) -> list[str]:
    """The parts of a task's material that only a user can give, and did not."""
    return [part for part in entry(name).material.values() if part not in given and not hasattr(Material, f"_{part}")]


def entry(name: str) -> Entry:
    """The entry called ``name``.

    Raises:
        UserError: if there is none; the nearest name is offered.
    """
    if name not in TASKS:
        raise UserError(f"unknown task {name!r}{did_you_mean(name, TASKS)}", "ropewalk tasks")
    return TASKS[name]


def refuse_without(name: str, given: Mapping[str, Any]) -> None:
    """Refuse a task that does not exist, or whose material is not there.

    Raises:
        UserError: naming what is missing.
    """
    if missing(name, given):
        raise UserError(
            f"{name} asks about texts that are not there",
            "Give --qa a folder with SQuAD's dev-v2.0.json as qa_1.json and HotpotQA's hotpot_dev_distractor_v1.json as"
            " qa_2.json.",
        )


def make(name: str, material: Material) -> Task:
    """The task called ``name``.

    Raises:
        UserError: if there is none, or its material is not there.
    """
    refuse_without(name, material.given)
    found = entry(name)
    module, _, attribute = found.target.partition(":")
    parts = {argument: material[part] for argument, part in found.material.items()}
    task: Task = getattr(import_module(PACKAGE + module), attribute)(**found.options, **parts)
    return task
