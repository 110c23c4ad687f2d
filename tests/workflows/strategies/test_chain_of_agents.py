"""Paths run side by side, each the same chain; one answer is picked; a refusal does not overwrite notes."""

from __future__ import annotations

import re

import pytest

from ropewalk.common.errors import UserError
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategies.chain_of_agents import ChainOfAgents, vote
from tests.talkers import Talker
from tests.workflows.readers import FACT, answer_of, finds, metered, text_with

WINDOW = 1024
FACTS = {"Oslo": 11111, "Lima": 22222, "Baku": 33333, "Rome": 44444}
LONG = text_with(FACTS, 120)


def roles(model) -> list[str]:
    return [call.role for _, call in sorted(model.trace.calls.items())]


def chains(model) -> dict[int, list]:
    """Calls of each path, in order."""
    found: dict[int, list] = {}
    for _, call in sorted(model.trace.calls.items()):
        if match := re.match(r"path (\d+),", call.role):
            found.setdefault(int(match[1]), []).append(call)
    return found


def read(talker=None, budget=None, **options):
    model = metered(talker or Talker(finds), window=WINDOW, budget=budget)
    return answer_of(ChainOfAgents(**options), LONG, model)


@pytest.mark.parametrize(
    "options", [{"paths": 2}, {"paths": 5, "along": "permutations"}, {"paths": 3, "along": "samples"}]
)
@pytest.mark.parametrize("pick", ["vote", "judge"])
def test_calls_in_closed_form_and_paths_wait_for_nobody(options, pick) -> None:
    answer, model = read(pick=pick, **options)
    paths, found = options["paths"], chains(model)
    n = len(found[1]) - 1
    assert n > 2 and len(model.trace.calls) == paths * (n + 1) + (pick == "judge")
    for path, calls in found.items():
        assert [call.role for call in calls] == [f"path {path}, worker {i + 1} of {n}" for i in range(n)] + [
            f"path {path}, answer"
        ]
        numbers = [call.number for call in calls]
        assert [call.after for call in calls] == [(), *((one,) for one in numbers[:-1])]
    if pick == "judge":
        last = model.trace.calls[max(model.trace.calls)]
        assert last.role == "judge" and set(last.after) == {calls[-1].number for calls in found.values()}
    assert {name for name, _ in FACT.findall(answer)} == set(FACTS)
    assert len(model.trace.critical_path) == n + 1 + (pick == "judge")


def test_one_path_is_as_it_was() -> None:
    _, model = read()
    assert roles(model)[-1] == "answer" and all(re.fullmatch(r"worker \d+ of \d+", role) for role in roles(model)[:-1])


def parts_read(calls) -> list[str]:
    return [call.prompt.partition("\n\nAbove is one part")[0] for call in calls[:-1]]


def test_directions_are_the_text_and_the_text_turned_round() -> None:
    found = chains(read(paths=2)[1])
    assert parts_read(found[1]) == parts_read(found[2])[::-1] and len(set(parts_read(found[1]))) > 2
    turned = chains(read(paths=2, backwards=True)[1])
    assert parts_read(turned[1]) == parts_read(found[2]) and parts_read(turned[2]) == parts_read(found[1])


def test_permutations_are_of_the_same_parts_and_the_seeds_own() -> None:
    found = {seed: chains(read(paths=5, along="permutations", seed=seed)[1]) for seed in (0, 1)}
    own = [parts_read(calls) for calls in found[0].values()]
    assert all(sorted(one) == sorted(own[0]) for one in own) and len(set(map(tuple, own))) > 2
    assert own[0] == parts_read(chains(read(paths=2)[1])[1])  # the first is the text's own order
    assert own == [parts_read(calls) for calls in chains(read(paths=5, along="permutations", seed=0)[1]).values()]
    assert own != [parts_read(calls) for calls in found[1].values()]


class Drawn(Talker):
    """Answers with the number of the draw of its first worker."""

    def __init__(self, names: dict[int, str]):
        super().__init__(lambda prompt, again: "")
        self.names = names

    def answer(self, asked, room, again):
        self.say = lambda prompt, again: self.names[again] if "Write notes" in prompt else re.search(r"\S+", prompt)[0]
        return super().answer(asked, room, again)


def test_samples_are_drawn_and_the_most_frequent_answer_wins() -> None:
    talker = Drawn({0: "Lima", 4: "Oslo", 8: "Oslo", 12: "Rome", 16: "Oslo"})
    talker.workers = 1
    answer, model = read(talker, paths=5, along="samples")
    assert answer == "Oslo" and len({call.answer for call in model.trace.calls.values()}) == 3
    assert len(set(talker.prompts)) < len(talker.prompts)  # the first worker's prompt, five times


def test_samples_of_a_model_that_always_says_the_same_are_refused() -> None:
    talker = Talker(finds)
    talker.varies = False
    with pytest.raises(UserError, match="always gives the same"):
        read(talker, paths=2, along="samples")


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["Oslo", "Lima", "The lima."], 1),
        (["Oslo", "Lima"], 0),
        (["1.5", "15", "1.5"], 0),
        (["5", "-5", "-5"], 1),
        (["?", "a", "?!"], 0),
        (["one"], 0),
        (["C++", "C#", "Java", "java"], 2),
        (["5%", "5", "-5", "(5)."], 1),
        (["Bergen", "\u65e5\u672c", "\u65e5\u672c\u3002"], 1),
        (["**Lima**", "Oslo", "'lima'", "the Oslo.", "\u201cLima\u201d"], 0),
    ],
)
def test_votes(answers: list[str], expected: int) -> None:
    assert vote(answers) == expected


@pytest.mark.parametrize(("verdict", "expected"), [("2", "33333"), ("Answer: 2", "33333"), ("Answer 1.", "44444"),
                                                   ("both", "44444"),
                                                   ("3", "44444"), ("0", "44444")])  # fmt: skip
def test_a_judge_names_a_number_or_votes_are_counted(verdict: str, expected: str) -> None:
    def nearest(prompt: str, again: int) -> str:
        if prompt.startswith("Several readers"):
            assert "Answer 2: The code" in prompt and "Notes of reader 2: The code" in prompt
            return verdict
        facts = [match.group() for match in FACT.finditer(prompt)]
        return facts[0] if facts else "nothing"  # of the part that is read now, before the notes

    answer, model = read(Talker(nearest), paths=2, pick="judge", guard=False)
    told = [calls[-1].answer for calls in chains(model).values()]
    assert told[0] != told[1]
    picked = {"2": 1, "Answer: 2": 1}.get(verdict, 0)
    assert answer == told[picked]
    assert (verdict in ("2", "Answer 1.", "Answer: 2")) == (
        not any("named no answer" in note for note in model.trace.notes)
    )


def test_answers_that_leave_no_room_for_a_judge_are_put_to_the_vote() -> None:
    talker = Talker(lambda prompt, again: "well " * 200)
    model = metered(talker, window=WINDOW // 2)
    answer, _ = answer_of(ChainOfAgents(paths=5, along="permutations", pick="judge"), LONG, model)
    assert answer.startswith("well well") and "judge" not in roles(model)
    assert "the window has no room for a judge of 5 answers: they were put to the vote" in model.trace.notes


@pytest.mark.parametrize("calls", [1, 3])
def test_paths_that_the_budget_does_not_pay_are_refused_before_anything_is_asked(calls: int) -> None:
    talker = Talker(finds)
    with pytest.raises(UserError, match="pays for no call that reads: the least is 4 calls of up to"):
        read(talker=talker, budget=Budget(calls=calls), paths=2)
    assert not talker.prompts


@pytest.mark.parametrize("calls", [6, 9, 50])
@pytest.mark.parametrize("pick", ["vote", "judge"])
def test_paths_share_the_budget_and_read_the_same_parts(calls: int, pick: str) -> None:
    answer, model = read(budget=Budget(calls=calls), paths=2, pick=pick)
    assert answer and len(model.trace.calls) <= calls
    found = chains(model)
    assert not found or len({len(one) for one in found.values()}) == 1
    assert not any("calls were not made" in note for note in model.trace.notes) or calls < 4


def refuses(words: str):
    """A worker that finds what is in its part, and beyond it has only words."""

    def say(prompt: str, again: int) -> str:
        part = prompt.partition("\n\nAbove is")[0]
        if "Write notes" not in prompt:
            return finds(prompt, again)
        return finds(prompt, again) + " " * 3 + "So it stands. " * 20 if FACT.search(part) else words

    return say


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        ("There is no information.", True),
        ("Not mentioned.", True),
        ("Sorry, I cannot.", True),
        ("The grass is green.", False),
        ("No information here. " + "But the grass is green. " * 2, False),
    ],
)
@pytest.mark.parametrize("guard", [True, False])
def test_a_refusal_does_not_overwrite_notes_unless_it_may(words: str, kept: bool, guard: bool) -> None:
    text = text_with({"Oslo": 11111}, 4) + text_with({}, 100)
    model = metered(Talker(refuses(words)), window=WINDOW)
    answer, model = answer_of(ChainOfAgents(guard=guard), text, model)
    refused = [note for note in model.trace.notes if "refused" in note]
    n = len(model.trace.calls) - 1
    assert n > 2 and ("11111" in answer) == (kept and guard)
    numbers = ", ".join(map(str, range(2, n + 1)))
    assert refused == [f"worker {numbers} of {n} only refused: the notes before stayed"] * (kept and guard)


@pytest.mark.parametrize(
    ("words", "stays"),
    [
        ("no information", True),
        ("There is no relevant information in this part of the text.", True),
        ("Nothing.", True),
        ("none: 22222", False),
        ("Not mentioned, but Oslo moved to Bergen.", False),
        ("", True),
    ],
)
def test_short_notes_are_not_lost_to_a_bare_refusal(words: str, stays: bool) -> None:
    def say(prompt: str, again: int) -> str:
        if "Write notes" not in prompt:
            return finds(prompt, again)
        return finds(prompt, again) if FACT.search(prompt.partition("\n\nAbove is")[0]) else words

    text = text_with({"Oslo": 11111}, 4) + text_with({}, 100)
    answer, _ = answer_of(ChainOfAgents(), text, metered(Talker(say), window=WINDOW))
    assert ("11111" in answer) == stays


def test_where_there_are_no_notes_a_refusal_is_no_loss() -> None:
    _, model = read(Talker(lambda prompt, again: "nothing"))
    assert not model.trace.notes


@pytest.mark.parametrize(
    ("options", "message"), [({"paths": 0}, "paths is 0"), ({"paths": 3}, "two directions"), ({"unit": -1}, "unit is")]
)
def test_what_cannot_be_is_refused(options, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ChainOfAgents(**options)
