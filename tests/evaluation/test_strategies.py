"""Strategies as an axis of the experiment: subjects with intervals and costs, on the samples of everybody else."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ropewalk.backends.chat.chat import Answer, Prompt, text_of
from ropewalk.backends.oracles import WindowOracle
from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore
from ropewalk.evaluation import workers
from ropewalk.evaluation.contestants import AsItIs, Contestant, Live
from ropewalk.evaluation.experiment import Experiment
from ropewalk.methods.catalogue import CATALOGUE, methods
from ropewalk.report.experiment_page import page_of_results, render
from ropewalk.report.page import Table
from ropewalk.report.schema import Results
from ropewalk.report.table import sentences, tables
from ropewalk.workflows.strategy_entries import STRATEGIES, strategy
from tests.experiments import experiment, row, rows
from tests.models import tiny
from tests.talkers import Talker, endpoint
from tests.tokenizers import VOCABULARY, byte_level
from tests.workflows.test_strategic import NEEDLE, NEEDLES, knows

WINDOW = 2048
BOTH = tuple(strategy(one) for one in ("rag", "chain-of-agents"))
ASKED: dict[str, Any] = {"tasks": ["niah_single_1"], "lengths": [1024, 8192], "samples": 4, "controls": False}


class Known(AsItIs):
    """Sees the end of a whole prompt alone, and all of what a strategy asks."""

    window, length = WINDOW, WINDOW

    def __init__(self, talker: Any = None):
        super().__init__(WindowOracle(byte_level(), [NEEDLES], 300), "known")
        self.talker = talker or Talker(knows)

    @contextmanager
    def chatting(self, window: int) -> Iterator[Talker]:
        yield self.talker


def measured(contestant: Contestant | None = None, **more: Any) -> Results:
    return experiment(contestant or Known(), **{"strategies": BOTH, "spend": 2.0, "to": 8192, **ASKED, **more})


def test_a_strategy_is_a_subject_beside_the_plain_model() -> None:
    found = measured()
    plain, rag, chain = found.subjects
    assert [one.method for one in found.subjects] == ["none", "rag", "chain-of-agents"]
    assert (rag.title, rag.paper) == ("Retrieval", "2310.03025") and "manager" in chain.note
    alone = row(found, method="none", length=8192).value
    for one in (rag, chain):
        long = row(found, method=one.method, length=8192)
        assert alone < long.value and long.low < long.value <= long.high and long.n == 4
        assert one.beyond_window is not None and one.beyond_window.only_this == 4 * (long.value - alone)
        assert not one.tokens and "at most 2,048 tokens" in one.how and "2 times" in one.how
    assert row(found, method="rag", length=8192).value == 1.0
    assert not plain.costs and [one.length for one in rag.costs] == [1024, 8192]
    short, long = rag.costs
    assert (short.n, short.calls, short.chain) == (4, 1.0, 1) and 0.9 < short.share <= 1 and long.share < 0.3
    assert all(cost.share <= 2 for cost in chain.costs) and chain.costs[-1].chain >= chain.costs[-1].calls > 3
    assert sum(chain.costs[-1].notes.values()) == 4 * any("not read" in note for note in chain.costs[-1].notes)


def test_what_is_written_is_read_again_and_what_cannot_be_is_refused() -> None:
    found = measured()
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert Results.of(data) == found
    changes = {"share": -0.1, "chain": 99, "notes": {"n were lost": 5}, "n": 0, "tokens": None}
    for key, value in changes.items():
        wrong = json.loads(json.dumps(data))
        wrong["subjects"][1]["costs"][0][key] = value
        with pytest.raises(UserError, match=r"impossible|costs"):
            Results.of(wrong)


def test_page_and_terminal_say_what_it_took() -> None:
    found = measured()
    (section,) = (one for one in page_of_results(found).sections if one.title == "What reading in parts takes")
    table = section.blocks[0]
    assert isinstance(table, Table)
    every = ["As served", "Retrieval", "Chain of Agents"]
    assert [item.title for item, _ in table.rows] == [*every[:2], *every], "a chain of 1,024 tokens has no budget"
    cost = found.subjects[1].costs[-1]
    (cells,) = (cells for item, cells in table.rows if (item.title, item.small) == ("Retrieval", "8,192 tokens"))
    assert [cell.text for cell in cells[1:]] == [f"{cost.tokens:,.0f}", f"{cost.share:.2f}", "1.0", "1"]
    assert "none may spend more than 2 times that" in section.text and "What reading in parts takes" in render(found)
    assert any("times" in str(column.header) for one in tables(found) for column in one.columns)
    plain = measured(strategies=())
    assert not any(one.title == "What reading in parts takes" for one in page_of_results(plain).sections)


def test_what_has_no_text_and_what_has_no_losses_is_left_out_and_said() -> None:
    found = measured(
        Live(tiny("llama", vocab_size=VOCABULARY, max_position_embeddings=1024), byte_level(), "m"),
        strategies=BOTH[:1], tasks=["ppl", "lengen_copy", "passkey"], lengths=[512], to=1024, spend=1.0,
        texts={name: "It is so, and it is not. " * 200 for name in "ab"},
    )  # fmt: skip
    lost = {one.task: one.reason for one in found.not_measured if one.method == "rag"}
    assert set(lost) == {"ppl", "lengen_copy"} and "nothing to read in parts" in lost["lengen_copy"]
    assert {one.task for one in rows(found, method="rag")} == {"passkey"}
    assert {one.task for one in rows(found, method="none")} == {"ppl", "position", "lengen_copy", "passkey"}


def test_what_no_budget_pays_for_is_no_zero() -> None:
    found = measured(spend=1.0)
    assert [one.length for one in rows(found, method="chain-of-agents")] == [8192]
    (lost,) = found.not_measured
    assert (lost.task, lost.length, lost.method) == ("niah_single_1", 1024, "chain-of-agents")
    assert "4 of 4 questions" in lost.reason and "--spend 1" in lost.reason
    assert any("of Chain of Agents at 1k" in one for one in sentences(found))


def test_finished_samples_are_asked_for_once_whatever_was_measured_before() -> None:
    store, first = SampleStore(), Talker(knows)
    found = measured(Known(first), store=store)
    assert len(first.prompts) == len(set(first.prompts)), "no call twice, nor one that another strategy made"
    for silent in (Talker(knows), Talker(knows)):
        again = measured(Known(silent), store=store)
        assert not silent.prompts and (again.rows, again.subjects) == (found.rows, found.subjects)
    more = Talker(knows)
    measured(Known(more), store=store, strategies=(*BOTH, strategy("truncation")))
    assert more.prompts and all("Notes:" not in prompt for prompt in more.prompts)


@pytest.mark.slow
def test_an_experiment_killed_at_any_call_goes_on_there(tmp_path: Path) -> None:
    log = tmp_path / "answered"

    class Killed(Talker):
        workers, left = 1, 0

        def answer(self, asked: Prompt, room: int, again: int) -> Answer:
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            self.left -= 1
            answer = super().answer(asked, room, again)
            with open(log, "a") as stream:
                stream.write(json.dumps(text_of(asked)) + "\n")
            return answer

    whole, last = Talker(knows), Talker(knows)
    expected = measured(Known(whole))
    for left in (1, 4, 7, 9):
        if (child := os.fork()) == 0:
            talker = Killed(knows)
            talker.left = left
            with SampleStore(tmp_path / "kept.sqlite") as store:
                measured(Known(talker), store=store)
            os._exit(1)  # nothing was left to ask
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    with SampleStore(tmp_path / "kept.sqlite") as store:
        found = measured(Known(last), store=store)
    assert (found.rows, found.subjects) == (expected.rows, expected.subjects)
    before = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(before) == 21 and sorted(before + last.prompts) == sorted(whole.prompts)


def test_controls_are_those_of_everybody() -> None:
    found = measured(controls=True, lengths=[2048], spend=0.0, strategies=BOTH[:1])
    plain, rag = (one.tasks[0].controls for one in found.subjects)
    assert set(rag) == set(plain) == {"ceiling", "closed book", "altered"}
    assert rag["ceiling"].value == 1.0 and rag["closed book"].value == rag["altered"].value == 0.0


def test_the_question_alone_is_asked_of_every_strategy_and_a_control_that_is_lost_has_a_reason() -> None:
    talker = Talker(knows)
    found = measured(Known(talker), controls=True, lengths=[2048], spend=1.0, strategies=BOTH[1:])
    plain, chain = (one.tasks[0].controls for one in found.subjects)
    assert set(chain) == {"closed book"} and chain["closed book"].value == 0.0
    alone = [prompt for prompt in talker.prompts if not NEEDLE.search(prompt) and "Notes" not in prompt]
    assert len(set(alone)) >= 4 and not any("grass" in prompt for prompt in alone)
    lost = {one.task: one.reason for one in found.not_measured if one.method == found.subjects[1].method}
    assert set(lost) >= {f"niah_single_1: {name}" for name in set(plain) - set(chain)}
    assert all("no call that reads" in reason for reason in lost.values())
    assert any("niah_single_1: ceiling" in one for one in sentences(found))


def test_workers_leave_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Experiment(
        ("known",), tuple(methods("none")), ("ppl", "niah_single_1"), (1024, 8192), 8192, samples=4, strategies=BOTH
    )
    todo = workers.jobs(whole, lambda model: (8192, (1024, 8192)))
    assert {(job.part.methods, job.part.strategies) for job in todo} == {
        (whole.methods, ()), ((), BOTH[:1]), ((), BOTH[1:]),
    }  # fmt: skip
    assert [job.part.methods for job in todo if job.part.tasks == ("ppl",)] == [whole.methods], "ppl"
    assert {job.name for job in todo if job.part.strategies == BOTH[:1]} == {
        f"known  rag  niah_single_1 at {length}, seed 0" for length in ("1,024", "8,192")
    }
    store, talker, silent = SampleStore(), Talker(knows), Talker(knows)
    monkeypatch.setattr(workers, "_held", {"known": Known(talker)})
    for job in todo:
        if "ppl" not in job.part.tasks:
            workers.work(job, store)
    found = measured(Known(silent), store=store, spend=1.0)
    assert talker.prompts and not silent.prompts and rows(found, method="rag")


def test_a_server_is_asked_token_by_token_and_must_have_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openai")
    import openai

    from ropewalk.backends.openai import Pace, Server

    tokenizer = byte_level()

    def reply(number: int, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        prompt = asked["prompt"]
        text = NEEDLES.solve(tokenizer.decode(prompt) if isinstance(prompt, list) else prompt)
        choice = {"index": 0, "text": f" {text}", "finish_reason": "length", "logprobs": None}
        return 200, {"id": "1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}

    with endpoint(reply) as served:
        client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
        server = AsItIs(Server(client, served.url, "tiny", tokenizer, Pace(None), 2), "served")
        with pytest.raises(UserError, match="does not say how much it reads"):
            measured(server, strategies=BOTH[:1])
        found = measured(server, strategies=BOTH[:1], lengths=[1024], window=2048, spend=1.0)
        plain, rag = (row(found, method=name) for name in ("none", "rag"))
        assert plain.value == rag.value == 1.0
        prompts = [tuple(asked["prompt"]) for _, asked in served.requests[-8:]]
    assert sorted(prompts[:4]) == sorted(prompts[4:]), "the same tokens, as the window holds the whole"


def test_what_a_server_does_not_read_is_not_asked_and_not_measured() -> None:
    pytest.importorskip("openai")
    import openai

    from ropewalk.backends.openai import Pace, Server

    tokenizer, longest = byte_level(), []

    def reply(number: int, path: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        longest.append(len(asked["prompt"]) + asked["max_tokens"])
        choice = {"index": 0, "text": f" {NEEDLES.solve(tokenizer.decode(asked['prompt']))}", "finish_reason": "length",
                  "logprobs": None}  # fmt: skip
        return 200, {"id": "1", "object": "text_completion", "created": 1, "model": "tiny", "choices": [choice]}

    with endpoint(reply) as served:
        client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
        server = AsItIs(Server(client, served.url, "tiny", tokenizer, Pace(None), 2, reads=1500), "served")
        found = measured(server, strategies=BOTH[:1], lengths=[1024, 2048], spend=1.0)
    assert max(longest) <= 1500
    assert {one.length for one in rows(found, method="none")} == {1024}
    assert {one.length for one in rows(found, method="rag")} == {1024, 2048}
    assert any("where the server reads 1,500" in one.reason for one in found.not_measured)


@pytest.mark.parametrize(("change", "why"), [
    ({"window": 4096}, "window is 4,096, where known reads 2,048"), ({"window": 0}, "window is 0"),
    ({"spend": -1.0}, "spend is -1"), ({"spend": float("nan")}, "spend is nan"),
    ({"strategies": (strategy("full"),)}, "full is what methods are asked"),
    ({"strategies": (BOTH[0], BOTH[0])}, "a method is given twice"),
    ({"strategies": (strategy("rag(by='vectors')"),)}, "needs an embedding model"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError, match=why):
        measured(**change)


def test_a_model_that_answers_no_prompts_in_words_has_no_strategies() -> None:
    oracle = AsItIs(WindowOracle(byte_level(), [NEEDLES]), "oracle")
    with pytest.raises(UserError, match="oracle answers no prompts in words"):
        measured(oracle, window=2048)


def test_no_method_and_no_strategy_are_called_alike() -> None:
    assert not {entry.id for entry in CATALOGUE} & {entry.id for entry in STRATEGIES}
