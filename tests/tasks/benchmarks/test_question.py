from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore
from ropewalk.tasks.benchmarks import MODULES, benchmark, grading
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, around, means, with_means
from ropewalk.tasks.task import TooShort
from ropewalk.texts.rows import Row
from tests.tasks.benchmarks.files import jsonl
from tests.tokenizers import byte_level

QUESTION = Question(
    id="q",
    context=" ".join(f"word{i}" for i in range(400)),
    question="What?",
    references=("yes",),
    subset="s",
    metric="exact",
    before="Read this.\n\n",
    after="\n\nWhat?\nAnswer:",
    max_new_tokens=16,
    source="f:1",
)
TOKENIZER = byte_level()


def test_a_prompt_that_fits_is_the_plain_encoding(any_tokenizer: PreTrainedTokenizerBase) -> None:
    text = QUESTION.before + QUESTION.context + QUESTION.after
    plain = [any_tokenizer.bos_token_id, *any_tokenizer(text, add_special_tokens=False).input_ids]
    assert QUESTION.prompt(any_tokenizer, 100_000) == plain
    assert QUESTION.prompt(any_tokenizer, len(plain) + 16) == plain


def test_a_cut_prompt_keeps_all_but_the_middle_of_the_context(any_tokenizer: PreTrainedTokenizerBase) -> None:
    whole = QUESTION.prompt(any_tokenizer, 100_000)
    for n_tokens in (200, 201, 700):
        ids = QUESTION.prompt(any_tokenizer, n_tokens)
        assert len(ids) == n_tokens - 16
        kept = next(i for i, (a, b) in enumerate(zip(ids, whole, strict=False)) if a != b)
        assert ids[kept:] == whole[len(whole) - (len(ids) - kept) :]
        text = any_tokenizer.decode(ids[1:])
        assert "Read this." in text and "What?" in text and text.endswith("Answer:")
        assert "word0 word1" in text and "word398 word399" in text and "word200" not in text


@given(st.text(max_size=60), st.integers(60, 400))
def test_prompts_have_at_most_the_asked_length_whatever_the_text(context: str, n_tokens: int) -> None:
    question = replace(QUESTION, context=context * 5 + "x")
    whole = len(question.prompt(TOKENIZER, 100_000))
    try:
        ids = question.prompt(TOKENIZER, n_tokens)
    except TooShort:
        assert n_tokens < whole + 16
        return
    assert len(ids) == min(whole, n_tokens - 16)


def test_too_short_says_how_many_tokens_are_needed() -> None:
    with pytest.raises(TooShort, match=r"q needs (\d+) tokens") as caught:
        QUESTION.prompt(TOKENIZER, 30)
    least = int(str(caught.value).split()[2])
    assert len(QUESTION.prompt(TOKENIZER, least)) == least - 16
    with pytest.raises(TooShort):
        QUESTION.prompt(TOKENIZER, least - 1)


def test_a_context_that_must_stay_whole_is_never_cut() -> None:
    question = replace(QUESTION, shorten=False)
    least = len(question.prompt(TOKENIZER, 100_000)) + 16
    with pytest.raises(TooShort, match=f"q needs {least} tokens"):
        question.prompt(TOKENIZER, least - 1)
    assert len(question.prompt(TOKENIZER, least)) == least - 16


@pytest.mark.parametrize("content", ["m.content", "m.content | trim"])
def test_chat_templates_wrap_the_prompt_and_bring_their_own_bos(content: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[user]{{ " + content + " }}[/user]{% endfor %}[model]"
    )
    question = replace(QUESTION, before="")
    ids = question.prompt(tokenizer, 300, chat=True)
    assert len(ids) == 300 - 16 and ids.count(tokenizer.bos_token_id) == 1
    text = tokenizer.decode(ids)
    assert text.startswith("<s>[user]word0") and text.endswith("Answer:[/user][model]")


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("n_tokens", [300, 100_000])
def test_parts_are_the_prompt_and_the_context_is_the_middle_one(chat: bool, n_tokens: int) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[user]{{ m.content }}[/user]{% endfor %}[model]"
    before, context, after = QUESTION.parts(tokenizer, n_tokens, chat)
    assert before + context + after == QUESTION.prompt(tokenizer, n_tokens, chat)
    said = [tokenizer.decode(part) for part in (before, context, after)]
    assert (
        said[0] == f"<s>{'[user]' * chat}Read this.\n\n" and said[2] == f"\n\nWhat?\nAnswer:{'[/user][model]' * chat}"
    )
    assert said[1].startswith("word0 word1") and said[1].endswith("word399")
    assert (said[1] == QUESTION.context) is (n_tokens > 300)
    none = replace(QUESTION, context="").parts(tokenizer, n_tokens, chat)
    assert none[1:] == ([], []), "without a context there is nothing to read"


def test_what_a_tokenizer_lacks_is_said() -> None:
    with pytest.raises(UserError, match="no chat template"):
        QUESTION.prompt(byte_level(), 300, chat=True)
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"
    with pytest.raises(UserError, match="rewrites the message"):
        QUESTION.prompt(tokenizer, 300, chat=True)


def test_a_tokenizer_without_offsets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(UserError, match="no character offsets"):
        QUESTION.prompt(byte_level(), 300)


def test_braces_in_texts_are_not_filled_in() -> None:
    before, after = around("a {name} {context} b {name}", name="{context} {name}")
    assert (before, after) == ("a {context} {name} ", " b {context} {name}")


def _toy(*rows: Question) -> Benchmark:
    return Benchmark(
        "toy",
        "Toy",
        (),
        lambda row, name: rows,
        lambda prediction, question: float(prediction in question.references),
        means,
        "",
        "",
        one_file=True,
        judged={"judged": lambda judge, prediction, question: float(judge(prediction))},
    )


def test_what_needs_a_judge_is_left_out_with_the_reason_or_asked_once(tmp_path, monkeypatch) -> None:
    class Half:
        name, asked = "half", 0

        def __call__(self, prompt: str) -> str:
            Half.asked += 1
            return "0.5"

        def __repr__(self) -> str:
            return "half"

    open_one = replace(QUESTION, id="j", subset="open", metric="judged")
    toy, file, store = _toy(QUESTION, open_one), jsonl(tmp_path, "toy", {}), SampleStore()
    monkeypatch.setattr(grading, "benchmark", lambda name: toy)
    made, left_out = grading.subsets(["toy/all"], str(file), None, store)
    assert list(made) == ["toy/s"] and made["toy/s"].grade("yes", QUESTION) == 1.0
    ((name, reason),) = left_out
    assert name == "toy/open" and reason.startswith("1 of 1 questions: judged is given") and "no judge" in reason
    for _ in range(2):
        made, left_out = grading.subsets(["toy/all"], str(file), Half(), store)
        assert not left_out and made["toy/open"].grade("text", open_one) == 0.5
    assert Half.asked == 1
    assert list(grading.subsets(["toy/open"], str(file), Half(), store)[0]) == ["toy/open"]


LAYOUTS = {  # rows without ids of their own
    "leval": ("coursera", {"instructions": ["Q?"], "outputs": ["A"], "input": "text"}),
    "m4le": ("duorc", {"instruction": "Do.", "input": "text", "answers": ["x"], "length_bucket": 1000}),
    "lcfo": ("lcfo", {"source": "a b c", "summary_20": "a", "summary_10": "a", "summary_5": "a",
                      "qa": [{"question": "?", "answer": "a"}]}),
    "longrewardbench": ("LongQA", {"prompt_template": [{"content": "x"}], "chosen": "a", "rejected": "b"}),
    "infinitebench": ("longbook_qa_eng", {"context": "c", "input": "?", "answer": ["a"]}),
    "longbench": ("hotpotqa", {"context": "c", "question": "?", "answers": ["a"]}),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("indent", [None, 1])
def test_rows_of_a_list_on_one_line_have_ids_of_their_own(tmp_path, name: str, indent: int | None) -> None:
    subset, row = LAYOUTS[name]
    (tmp_path / f"{subset}.json").write_text(json.dumps([row] * 3, indent=indent))
    questions = benchmark(name).load(tmp_path)
    assert len(questions) % 3 == 0 and len({one.id for one in questions}) == len(questions) > 0


def test_bad_rows_are_counted_by_subset(tmp_path) -> None:
    subset, row = LAYOUTS["longbench"]
    jsonl(tmp_path, subset, row, row | {"context": 3}, row)
    (tmp_path / "musique.json").write_text('{"rows": []}')
    bad: list[tuple[str, str]] = []
    assert [one.id for one in benchmark("longbench").load(tmp_path, None, bad)] == ["hotpotqa/1", "hotpotqa/3"]
    assert [name for name, _ in bad] == ["hotpotqa", "musique"] and "hotpotqa.jsonl:2" in bad[0][1]
    with pytest.raises(UserError, match=r"hotpotqa.jsonl:2"):
        benchmark("longbench").load(tmp_path)


def test_repeated_ids_are_refused(tmp_path) -> None:
    file = jsonl(tmp_path, "toy", {})
    with pytest.raises(UserError, match=r"f:2: the id 'q' was at f:1 before"):
        _toy(QUESTION, replace(QUESTION, source="f:2")).load(file)
    with pytest.raises(UserError, match="no subset 't'"):
        _toy(QUESTION).load(file, ["t"])


def test_a_question_fills_its_template() -> None:
    row = Row({}, "f:7")
    made = Question.of(
        row, "s", "a {x} {context} {question}?", "text", ["r"], "m", 9, question="Who", texts={"x": "{y}"}
    )
    assert (made.id, made.before, made.after, made.source) == ("s/7", "a {y} ", " Who?", "f:7")


def test_a_mean_of_groups_needs_all_of_them() -> None:
    table = means([Scored(QUESTION, "", 0.5), Scored(replace(QUESTION, subset="t"), "", 1.0)])
    groups = {"both": ("s", "t"), "more": ("s", "u"), "nested": ("both", "t")}
    assert with_means(table, groups) == {"s": 50.0, "t": 100.0, "both": 75.0, "nested": 87.5}


@pytest.mark.parametrize("name", MODULES)
def test_every_benchmark_is_found_under_its_name(name: str) -> None:
    assert benchmark(name).name == name


def test_unknown_benchmarks_get_a_hint() -> None:
    with pytest.raises(UserError, match="did you mean 'longbench'"):
        benchmark("longbnch")
