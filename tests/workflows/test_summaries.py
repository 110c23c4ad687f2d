"""BooookScore's summarisers: calls in closed form, limits kept, no token lost, compressions of what was not yet one."""

from __future__ import annotations

import re
from itertools import pairwise
from math import ceil
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.workflows.chunks import chunks
from ropewalk.workflows.spending import Budget
from ropewalk.workflows.strategies.hierarchical_summary import (
    BEFORE,
    MERGE,
    HierarchicalSummary,
    levels_of,
    merges,
    runs_of,
)
from ropewalk.workflows.strategies.incremental_summary import IncrementalSummary
from ropewalk.workflows.strategy import NOTES, SLACK
from ropewalk.workflows.summaries import fills, whole, words
from tests.talkers import Talker
from tests.workflows.readers import QUESTION, answer_of, metered, reading

TEXT = "".join(f"Sentence {i} tells what happened on day {i}. " for i in range(400))
WINDOW = 1024


def first_words(count: int, end: str = "."):
    """A summariser that says the first words of what it is to sum up."""

    def say(prompt: str, again: int) -> str:
        text = re.sub(r"^Summar(y|ies) of .*?\n\n?", "", prompt, flags=re.DOTALL)
        return " ".join(re.findall(r"\w+", text)[:count]) + end

    return say


def roles(model) -> list[str]:
    return [call.role for _, call in sorted(model.trace.calls.items())]


def tokens(model, text: str) -> int:
    return len(model.spans(text))


@pytest.mark.parametrize("count", [5, 40, 200])
def test_calls_of_a_hierarchy_are_those_of_its_levels(count: int) -> None:
    model = metered(Talker(first_words(count)), window=WINDOW)
    _, model = answer_of(HierarchicalSummary(), TEXT, model)
    said = roles(model)
    leaves = [call for call in model.trace.calls.values() if call.role.startswith("summary")]
    left = len(leaves)
    assert all(call.after == () for call in leaves) and said[:left] == [
        f"summary {i + 1} of {left}" for i in range(left)
    ]
    at = left
    while at < len(said) - 1:  # a level has as many merges as it says, fewer than were merged
        level, merged = map(int, re.fullmatch(r"level (\d+), merge 1 of (\d+)", said[at]).groups())
        assert said[at : at + merged] == [f"level {level}, merge {i + 1} of {merged}" for i in range(merged)]
        assert merged < left
        left, at = merged, at + merged
    assert said[-1] == "answer" and (count > 5 or at == len(leaves))


def test_every_part_of_the_text_is_summed_up_once() -> None:
    model = metered(Talker(first_words(20)), window=WINDOW)
    answer_of(HierarchicalSummary(), TEXT, model)
    read = [call.prompt for _, call in sorted(model.trace.calls.items()) if call.role.startswith("summary")]
    days = [
        int(day) for prompt in read for day in re.findall(r"Sentence (\d+) tells", prompt.partition("\n\nAbove")[0])
    ]
    assert days == list(range(400))


def test_summaries_grow_from_level_to_level_and_none_outgrows_its_limit() -> None:
    model = metered(Talker(first_words(10**6)), window=WINDOW)
    answer_of(HierarchicalSummary(), TEXT, model)
    limit, sizes = WINDOW // 8, {}
    for call in model.trace.calls.values():
        level = re.match(r"level (\d+)|(summary)", call.role)
        if level:
            sizes.setdefault(int(level[1] or 0), []).append(tokens(model, call.answer))
    most = [max(sizes[level]) for level in sorted(sizes)]
    assert most == [int(limit * 0.65), limit]  # the level above both is the answer, which has room of its own


def test_merges_are_as_many_as_levels_of_full_summaries_take() -> None:
    model = metered(Talker(first_words(10**6, end="")), window=WINDOW)
    answer_of(HierarchicalSummary(ratio=1.0), TEXT, model)
    limit, each = WINDOW // 8, WINDOW // 8 + 2
    bare = MERGE.format(before=BEFORE.format(summary=""), text="", words=limit, question=QUESTION)
    fan = int(0.8 * (WINDOW - model.count(bare) - limit - SLACK)) // each
    left = WINDOW - model.count(reading("").last("", NOTES)) - 128 - SLACK
    n = sum(role.startswith("summary") for role in roles(model))
    counts = [sum(role.startswith(f"level {level},") for role in roles(model)) for level in (1, 2, 3)]
    wanted = []
    while n * each - 2 > left:
        n = ceil(n / fan)
        wanted.append(n)
    assert [count for count in counts if count] == wanted and len(wanted) > 0
    assert sum(counts) == merges(sum(role.startswith("summary") for role in roles(model)), limit, fan, left)


def test_merging_ends_where_the_last_call_has_hardly_any_room() -> None:
    """A summary has half of that room at most, so that one always fits, and nothing is merged for ever."""
    model = metered(Talker(first_words(10**6, end="")), window=WINDOW)
    question, free = "", WINDOW
    while free > 70:
        question += "Why? "
        free = WINDOW - model.count(reading("", question).last("", NOTES)) - 256 - SLACK
    answer_of(HierarchicalSummary(), TEXT[:4000], model, question=question, room=256)
    assert roles(model)[-1] == "answer"


def test_a_merge_sees_the_one_before_it() -> None:
    model = metered(Talker(lambda prompt, again: f"Told {crc32(prompt.encode())}. " + "It is so. " * 9), window=WINDOW)
    answer_of(HierarchicalSummary(), TEXT, model)
    merged = [call for _, call in sorted(model.trace.calls.items()) if call.role.startswith("level 1,")]
    assert len(merged) > 1 and "comes before" not in merged[0].prompt
    for before, call in pairwise(merged):
        seen = call.prompt.partition("Summaries of consecutive")[0]
        assert before.answer.partition(".")[0] in seen and seen.count("Told") == 1 and call.after == (before.number,)


@given(st.integers(1, 300), st.integers(2, 9))
def test_merges_in_closed_form(parts: int, fan: int) -> None:
    limit, left, total, n = 100, 250, 0, parts
    while n > 2:  # two of 102 tokens fit
        n = ceil(n / fan)
        total += n
    assert merges(parts, limit, fan, left) == total
    assert levels_of(parts, limit, 1000, left) >= 1


@given(st.lists(st.integers(1, 10), max_size=30), st.integers(10, 40))
def test_runs_hold_as_many_as_fit(sizes: list[int], size: int) -> None:
    names = [str(i) for i in range(len(sizes))]
    runs = runs_of(names, sizes, size)
    assert [one for run in runs for one in run] == names
    loads = [sum(sizes[int(one)] for one in run) for run in runs]
    assert all(load <= size for load in loads)
    assert all(load + sizes[int(after[0])] > size for load, after in zip(loads, runs[1:], strict=False))


@pytest.mark.parametrize("tokens_", [2100, 4000, 8000])
def test_a_budget_leaves_out_chunks_and_not_merges(tokens_: int) -> None:
    model = metered(Talker(first_words(60)), window=WINDOW, budget=Budget(tokens_))
    _, model = answer_of(HierarchicalSummary(), TEXT, model)
    assert model.trace.tokens <= tokens_ and roles(model)[-1] == "answer"
    assert any("were not read" in note for note in model.trace.notes)
    assert not any("calls were not made" in note for note in model.trace.notes)


def updates(model) -> int:
    return sum(bool(re.fullmatch(r"update \d+ of \d+", role)) for role in roles(model))


def test_an_update_a_chunk_and_the_answer() -> None:
    model = metered(Talker(first_words(30)), window=WINDOW)
    answer_of(IncrementalSummary(), TEXT, model)
    n = updates(model)
    assert roles(model) == [f"update {i + 1} of {n}" for i in range(n)] + ["answer"]
    assert len(model.trace.critical_path) == n + 1


def test_a_summary_that_outgrows_its_room_costs_two_calls_more_and_is_cut_behind_a_sentence() -> None:
    def endless(prompt: str, again: int) -> str:
        return "It is so. " * 400

    model = metered(Talker(endless), window=WINDOW)
    _, model = answer_of(IncrementalSummary(), TEXT, model)
    n = updates(model)
    assert len(model.trace.calls) == n + 2 * (n - 1) + 1  # nothing is before the first chunk
    last = model.trace.calls[max(model.trace.calls)].prompt
    assert last.startswith("It is so. It is so.") and last.partition("\n")[0].endswith("It is so.")
    assert f"{n} of {n} summaries outgrew 256 tokens: they were cut there" in model.trace.notes


def test_what_is_compressed_is_the_summary_before_and_to_its_share() -> None:
    """Each compression is asked for limit * j / n words of the last good summary: no shrunken limit shrinks again."""
    asked = []

    def say(prompt: str, again: int) -> str:
        match = re.search(r"in about (\d+) words", prompt)
        if match:
            asked.append((int(match[1]), prompt.partition("\n")[0]))
            return "Short."
        return "Good now." if "Short." in prompt.partition("\n\n")[0] else "word " * 2000

    model = metered(Talker(say), window=WINDOW)
    answer_of(IncrementalSummary(), TEXT, model)
    n, limit = updates(model), words(WINDOW // 4)
    assert [count for count, _ in asked] == [limit * j // n for j in range(2, n + 1)]
    assert asked[0][1].startswith("word word") and {before for _, before in asked[1:]} == {"Good now."}


def test_a_budget_pays_for_chunks_before_compressions() -> None:
    def endless(prompt: str, again: int) -> str:
        return "It is so. " * 400

    free = metered(Talker(endless), window=WINDOW)
    answer_of(IncrementalSummary(), TEXT, free)
    n = updates(free)
    model = metered(Talker(endless), window=WINDOW, budget=Budget(calls=n + 1 + 3))
    answer_of(IncrementalSummary(), TEXT, model)
    assert updates(model) == n and sum(role.startswith("compression") for role in roles(model)) == 1
    assert not any("were not read" in note for note in model.trace.notes)


@pytest.mark.parametrize("strategy", [HierarchicalSummary(), IncrementalSummary()])
def test_what_is_one_chunk_is_asked_of_at_once(strategy) -> None:
    _, model = answer_of(strategy, TEXT[:600], metered(Talker(first_words(9))))
    assert roles(model) == ["answer"]


def test_chunks_are_the_text() -> None:
    model = metered()
    assert "".join(part.text for part in chunks(TEXT, model.spans(TEXT), 200)) == TEXT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two", "One."),
        ("One. Two.", "One. Two."),
        ('He said "No." ', 'He said "No."'),
        ("no end", "no end"),
        ("Pi is 3.14 and", "Pi is 3.14 and"),
        ("是。不", "是。"),
        ("- the landlord is Mr. Ropewalk", "- the landlord is Mr."),
    ],
)
def test_a_summary_that_fills_its_room_ends_with_a_sentence_and_another_one_stays(text: str, expected: str) -> None:
    model = metered()
    room = tokens(model, text.rstrip())
    assert fills(model, text, room) and whole(model, text, room) == expected
    assert not fills(model, text, room + 2) and whole(model, text, room + 2) == text.rstrip()
