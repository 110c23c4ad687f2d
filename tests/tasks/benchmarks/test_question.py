from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks import MODULES, benchmark
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, around, grade, means, with_means
from ropewalk.tasks.task import TooShort
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


def _toy() -> Benchmark:
    return Benchmark(
        "toy",
        lambda source: [],
        lambda prediction, question: float(prediction in question.references),
        means,
        "",
        "",
        judged={"judged": lambda judge, prediction, question: float(judge(prediction))},
    )


def test_what_needs_a_judge_is_skipped_with_the_reason_or_asked() -> None:
    class Half:
        name = "half"

        def __call__(self, prompt: str) -> str:
            return "0.5"

    questions = [QUESTION, replace(QUESTION, id="j", subset="open", metric="judged")]
    without = grade(_toy(), questions, {"q": "yes", "j": "text"})
    assert without.table == {"s": 100.0} and list(without.skipped) == ["open"]
    assert "no judge was named" in without.skipped["open"]
    graded = grade(_toy(), questions, {"q": "no", "j": "text"}, Half())
    assert graded.table == {"s": 0.0, "open": 50.0} and not graded.skipped


def test_missing_predictions_and_repeated_ids_are_refused() -> None:
    with pytest.raises(UserError, match=r"no prediction for q \(f:1\)"):
        grade(_toy(), [QUESTION], {})
    with pytest.raises(UserError, match=r"f:2: the id 'q' was at f:1 before"):
        grade(_toy(), [QUESTION, replace(QUESTION, source="f:2")], {"q": ""})


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
