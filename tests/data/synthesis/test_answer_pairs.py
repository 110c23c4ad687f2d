"""Two answers of one model: rows are what it was asked, the chosen one is what stands there, all calls are counted."""

from __future__ import annotations

import random
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.pairs import ROWS, Pairs
from ropewalk.data.synthesis.answer_pairs import QUESTIONS, share
from ropewalk.data.synthesis.information_intensive import SEGMENT
from tests.data.synthesis.written import TOKENIZER, content, talker, text_of, write
from tests.talkers import Talker
from tests.tokenizers import sentencepiece

LENGTH, PAIRS = 2048, 12
TEMPLATE = (
    "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|model|>{% endif %}"
)


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    folder, chance = tmp_path_factory.mktemp("texts"), random.Random(0)
    words = "the rope walks on a long lane of hemp and tar while gulls turn over masts in rain or sun".split()
    for i in range(12):
        (folder / f"{i:02}.txt").write_text(
            " ".join(f"{chance.choice(words)} {chance.randrange(1000)}" for _ in range(900))
        )
    return folder


def short_of(prompt: str) -> bool:
    return len(prompt) < 8 * SEGMENT


def beside(prompt: str) -> str:
    """What stands beside the quote, as a model that reads its prompt says it."""
    for name, question in QUESTIONS.items():
        text, found, quote = prompt.partition(question)
        if found:
            before, _, after = text.partition(quote.removesuffix("\nAnswer:"))
            return (after[:80] if name == "forward" else before[-80:]).strip()
    raise AssertionError(prompt)


def say(prompt: str, again: int) -> str:
    return beside(prompt) if short_of(prompt) else "I cannot find it."


@pytest.fixture(scope="module")
def made(texts, tmp_path_factory):
    return write("longpo", texts, tmp_path_factory.mktemp("longpo") / "rows", talker(say), LENGTH, rows=PAIRS)


def test_a_pair_is_four_rows_of_what_was_asked_and_said(made) -> None:
    told, arranged, engine = made
    assert " train longpo MODEL " in told.training
    assert len(arranged) == ROWS * PAIRS and len(Pairs(arranged)) == PAIRS == arranged.about.told["pairs wanted"]
    assert "rows wanted" not in arranged.about.told and not told.notes
    for pair in range(PAIRS):
        texts = [[text_of(arranged, ROWS * pair + i, learnt) for learnt in (False, True)] for i in range(ROWS)]
        whole, evidence = (texts[i][0].removeprefix(str(TOKENIZER.bos_token)) for i in (0, 2))
        assert texts[0][0] == texts[1][0] and texts[2][0] == texts[3][0]
        assert {whole, evidence} <= {*engine.chat.prompts}
        assert (
            texts[0][1] == texts[2][1] == f" {beside(evidence)}" and texts[1][1] == texts[3][1] == " I cannot find it."
        )
        for i in range(ROWS):
            ids, _, _, weights = arranged.row(ROWS * pair + i)
            source = arranged.provenance[ROWS * pair + i]
            assert len(ids) <= LENGTH and weights[-1] and "one run" in source.support
            assert source.kind.endswith(("chosen, ", "rejected, ")[i % 2] + ("whole text", "evidence")[i // 2])
            (where,) = source.evidence
            text = TOKENIZER.decode(ids[where["at"] : where["at"] + SEGMENT].tolist())
            assert evidence.startswith(text) and (i < 2 or where["at"] < 8)


def test_calls_are_counted_and_what_is_no_pair_is_dropped(made, texts, tmp_path) -> None:
    _, arranged, engine = made
    counts = arranged.about.told
    assert counts["asked"] == counts["calls"] == 2 * PAIRS == len(engine.chat.prompts) and counts["draws"] == PAIRS

    def mixed(prompt: str, again: int) -> str:
        number = sum(map(ord, prompt.split("\n")[-2])) % 5  # of the quote
        if number == 0:
            return "the same"
        if number == 1:
            return say(prompt, again) if short_of(prompt) else beside(prompt)
        if number == 2:
            return "geese" if short_of(prompt) else "something else"
        return say(prompt, again) if number == 3 or not short_of(prompt) else ""

    _, arranged, _ = write("longpo", texts, tmp_path / "out", talker(mixed), LENGTH, rows=PAIRS, draws=400)
    few, _, _ = write("longpo", texts, tmp_path / "few", talker(mixed), LENGTH, rows=PAIRS, draws=PAIRS)
    assert few.notes == (f"{few.counts.rows // ROWS} of {PAIRS} pairs: {PAIRS} draws are used up; more with --draws",)
    counts = arranged.about.told
    dropped = {name.removeprefix("dropped: "): n for name, n in counts.items() if name.startswith("dropped: ")}
    assert set(dropped) == {
        "one answer to both", "the answer to the whole text is as good", "no answer to the evidence",
        "the answer to the evidence is not what stands there",
    }  # fmt: skip
    assert sum(dropped.values()) + len(arranged) // ROWS == counts["draws"]


def test_in_a_chat_template_a_row_is_what_the_model_was_given(texts, tmp_path) -> None:
    chat: Any = deepcopy(TOKENIZER)
    chat.chat_template = TEMPLATE
    asked = talker(say)
    asked.tokenizer = chat
    _, arranged, engine = write("longpo", texts, tmp_path / "out", asked, LENGTH, rows=3)
    for row in range(len(arranged)):
        whole = text_of(arranged, row, False).removeprefix(str(TOKENIZER.bos_token))
        prompt = whole.removeprefix("<|user|>").removesuffix("<|end|><|model|>")
        assert whole == f"<|user|>{prompt}<|end|><|model|>" and prompt in engine.chat.prompts
        answer = text_of(arranged, row, True)
        assert row % ROWS != 2 or answer == beside(prompt)


@pytest.mark.parametrize("template", [None, "{% for m in messages %}[INST] {{ m.content }} [/INST]{% endfor %}"])
def test_blanks_that_a_tokenizer_strips_of_what_it_decodes_are_what_was_asked(template, texts, tmp_path) -> None:
    stripping: Any = sentencepiece()
    stripping.chat_template = template
    piece = stripping("the rope walks", add_special_tokens=False)["input_ids"]
    assert stripping.decode(piece)[0] == "t" and stripping.decode(piece * 2) == "the rope walks the rope walks"

    def words(prompt: str, again: int) -> str:
        (name, question), *_ = [one for one in QUESTIONS.items() if one[1] in prompt]
        text, _, quote = prompt.partition(question)
        before, _, after = text.partition(quote.removesuffix("\nAnswer:").strip())
        said = after.split()[:30] if name == "forward" else before.split()[-30:]
        return " ".join(said) if short_of(prompt) else "I cannot find it."

    asked = Talker(words, tokenizer=stripping)
    _, arranged, _ = write("longpo", texts, tmp_path / "out", asked, LENGTH, tokenizer=stripping, rows=4)
    opens, closes = ("[INST] ", " [/INST]") if template else ("", "")
    for row in range(len(arranged)):
        ids, _, _, weights = arranged.row(row)
        whole = stripping.decode(ids[weights == 0].tolist(), skip_special_tokens=True)
        assert whole.startswith(opens) and whole.endswith(closes)
        assert whole.removeprefix(opens).removesuffix(closes) in asked.prompts


def test_evidence_is_anywhere(texts, tmp_path) -> None:
    _, arranged, _ = write("longpo", texts, tmp_path / "out", talker(say), LENGTH, rows=120)
    depth = []
    for row in range(0, len(arranged), ROWS):
        some = arranged.arrangement
        mine = list(arranged.pieces(row))
        segments = sum(int(some.stop[i] - some.start[i]) == SEGMENT for i in mine)
        depth.append((arranged.provenance[row].evidence[0]["at"] // SEGMENT + 0.5) / segments)
    counts, _ = np.histogram(depth, 4, (0, 1))
    assert ((counts - 30) ** 2 / 30).sum() < 16.3, "chi-square of 3 degrees of freedom, p = 0.001"


def test_the_same_bytes_whatever_stops_it(made, texts, tmp_path) -> None:
    seen: list[str] = []

    def dying(prompt: str, again: int) -> str:
        seen.append(prompt)
        if len(seen) > 9:
            raise KeyboardInterrupt
        return say(prompt, again)

    with pytest.raises(KeyboardInterrupt):
        write("longpo", texts, tmp_path / "rows", talker(dying), LENGTH, rows=PAIRS)
    _, _, again = write("longpo", texts, tmp_path / "rows", talker(say), LENGTH, rows=PAIRS)
    assert content(tmp_path / "rows") == content(Path(made[1].corpus.folder))
    assert len(again.chat.prompts) < 2 * PAIRS


def test_the_longest_run_of_words_counts() -> None:
    assert share("two three four", "one two three four") == 0.75
    assert share("It says: Two  THREE, perhaps", "one two three four") == 0.25
    assert share("", "one") == 0 and share("one", "one") == 1


@pytest.mark.slow
def test_they_are_trained_on(made, tmp_path) -> None:
    folder = Path(made[1].corpus.folder)
    said: dict[str, Any] = dict(to=LENGTH, documents=0, keys=0, device="cpu", out=tmp_path / "out")
    forecast = ropewalk.train("longpo", "demo", folder, steps=2, batch=2, dry_run=True, **said)
    assert forecast.tokens == 2 * 2 * 2 * LENGTH
    done = ropewalk.train("longpo", "demo", folder, steps=1, batch=1, warmup=0, learning_rate=1e-4, **said)
    assert len(done.log) == 1 and (tmp_path / "out" / "recipe.json").exists()
    with pytest.raises(UserError, match="pairs of answers, one of which is rejected"):
        ropewalk.train("pi", "demo", folder, **said | {"out": tmp_path / "other"})
    with pytest.raises(UserError, match="no pairs of answers"):
        ropewalk.train("longpo", "demo", "stdlib", **said | {"out": tmp_path / "other"})
    assert isinstance(Arranged.open(folder), Arranged)


def test_texts_that_do_not_suffice_are_refused(texts, tmp_path) -> None:
    with pytest.raises(UserError, match="contexts of 512 to"):
        write("longpo", texts, tmp_path / "out", talker(say), 640, rows=2)


def test_a_window_that_holds_no_context_is_refused_before_the_first_call(texts, tmp_path) -> None:
    narrow = talker(say)
    narrow.window = 600
    with pytest.raises(UserError, match="with 128 for the answer, where the window of talker has 600") as error:
        write("longpo", texts, tmp_path / "out", narrow, LENGTH, rows=2)
    needs = int(re.search(r"ropewalk extend talker --to (\d+) -o EXTENDED", error.value.mend)[1])
    assert not narrow.prompts and needs == LENGTH
    narrow.window = needs
    write("longpo", texts, tmp_path / "out", narrow, LENGTH, rows=2)
