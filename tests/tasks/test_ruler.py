from __future__ import annotations

import importlib
import math
import random
import re
from collections import Counter
from itertools import islice
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.tasks import words
from ropewalk.tasks.assembly import NOISE, behind_sentence, fill, padding, plant, stretch
from ropewalk.tasks.ruler import CONFIGURATIONS, STAND_INS
from ropewalk.tasks.ruler.cwe import COMMON, CommonWords, words_that_fit
from ropewalk.tasks.ruler.fwe import largest, zipf
from ropewalk.tasks.ruler.matching import match_all, match_part
from ropewalk.tasks.ruler.needles import RulerNeedles
from ropewalk.tasks.ruler.qa import DocumentQA, QAExample, fictional
from ropewalk.tasks.ruler.vt import VariableTracking
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts.pieces import TokenUnits
from tests.tokenizers import _train, byte_level, metaspace

NAMES = list(CONFIGURATIONS)
SINGLE = ["niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3"]
ESSAY = " The sky was very blue on that day. The grass had grown tall, and nobody came to cut it." * 30


def line_ends_merged() -> PreTrainedTokenizerFast:
    """Llama 3's manner: up to three digits in a token, and line ends with the punctuation before them."""
    tokenizer = Tokenizer(models.BPE())
    words = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    split = pre_tokenizers.Split(Regex(words), behavior="isolated")
    byte_level_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level_only])
    tokenizer.decoder = decoders.ByteLevel()
    return _train(tokenizer, pre_tokenizers.ByteLevel.alphabet(), [*NOISE * 50, *map(str, range(1000))])


def with_lines(name: str) -> PreTrainedTokenizerBase:
    kinds = {"byte_level": byte_level, "metaspace": metaspace, "line_ends_merged": line_ends_merged}
    tokenizer = kinds[name]()
    if name == "metaspace":
        tokenizer.add_tokens(["\n"])
    return tokenizer


@pytest.fixture(scope="module", params=["byte_level", "metaspace", "line_ends_merged"])
def units(request: pytest.FixtureRequest) -> TokenUnits:
    return TokenUnits(with_lines(request.param))


@pytest.fixture(scope="module")
def byte_units(tokenizer: PreTrainedTokenizerFast) -> TokenUnits:
    return TokenUnits(tokenizer)


def task(name: str, units: TokenUnits) -> Any:
    place, options = CONFIGURATIONS[name]
    more: dict[str, Any] = {}
    module, _, cls = place.partition(":")
    if options.get("hay") == "essay":
        hay = tuple(units.ids(ESSAY))
        more |= {"haystack": hay, "sentence_ends": frozenset(i for i in hay if units.decode([i]).strip() == ".")}
    if name.startswith("qa"):
        more |= {"examples": fictional(40, hops=int(name[-1]))}
    if name not in ("vt", "cwe", "fwe"):
        more |= {"name": name}
    return getattr(importlib.import_module(module), cls)(**options, **more)


def test_the_configurations_are_rulers() -> None:
    assert len(NAMES) == 13
    table = {
        "niah_single_1": ("noise", "words", "numbers", 1, 1, 1),
        "niah_single_2": ("essay", "words", "numbers", 1, 1, 1),
        "niah_single_3": ("essay", "words", "uuids", 1, 1, 1),
        "niah_multikey_1": ("essay", "words", "numbers", 4, 1, 1),
        "niah_multikey_2": ("needles", "words", "numbers", 1, 1, 1),
        "niah_multikey_3": ("needles", "uuids", "uuids", 1, 1, 1),
        "niah_multivalue": ("essay", "words", "numbers", 1, 4, 1),
        "niah_multiquery": ("essay", "words", "numbers", 4, 1, 4),
    }
    for name, row in table.items():
        one = RulerNeedles(name, **CONFIGURATIONS[name][1], haystack=(1,))
        assert (one.hay, one.key, one.value, one.keys, one.values, one.queries) == row
        assert one.free == (row[4] * row[5] > 1)


@pytest.mark.parametrize("n", [3000, 4097])
@pytest.mark.parametrize("name", NAMES)
def test_length_is_exact_and_the_solver_always_right(name: str, n: int, units: TokenUnits) -> None:
    one: Task = task(name, units)
    for depth in (0.0, 0.4, 1.0, None):
        sample = one.sample(n, random.Random(n), units, depth)
        assert sample == one.sample(n, random.Random(n), units, depth) or math.isnan(sample.depth)
        assert sample.prompt == one.sample(n, random.Random(n), units, depth).prompt
        assert len(sample.prompt) + sample.room == n
        assert len(sample.answer) <= sample.room
        assert sample.prompt[0] == units.bos[0] and sample.prompt.count(units.bos[0]) == 1
        text = units.decode(sample.prompt)
        assert one.score(one.solve(text), sample) == 1.0
        assert one.score(sample.text, sample) == 1.0
        assert units.decode(sample.prompt + sample.answer) == text + " " + sample.text


@pytest.mark.parametrize("name", NAMES)
def test_other_chance_makes_another_sample(name: str, byte_units: TokenUnits) -> None:
    one = task(name, byte_units)
    first, second = (one.sample(3000, random.Random(seed), byte_units) for seed in (1, 2))
    assert first.prompt != second.prompt and first.text != second.text
    assert one.score(first.text, second) < 1.0


@pytest.mark.parametrize("name", NAMES)
def test_room_is_rulers_unless_the_answer_is_longer(name: str, byte_units: TokenUnits) -> None:
    official = {"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}.get(name, 128)
    sample = task(name, byte_units).sample(3000, random.Random(0), byte_units)
    assert sample.room == max(official, len(sample.answer))


@pytest.mark.parametrize("name", NAMES)
def test_prompts_read_like_text_that_was_tokenised_whole(name: str, units: TokenUnits) -> None:
    sample = task(name, units).sample(3000, random.Random(0), units, 0.5)
    ids = (sample.prompt + sample.answer)[1:]
    again = units.tokenizer(units.decode(ids), add_special_tokens=False).input_ids
    assert abs(len(again) - len(ids)) <= 1  # where the haystack is cut, inside a word or before a line end


@pytest.mark.parametrize("name", NAMES)
def test_questions_share_their_context(name: str, units: TokenUnits) -> None:
    one = task(name, units)
    n_questions = {"niah_multikey_1": 4, "niah_multikey_2": 6, "niah_multikey_3": 6, "qa_1": 6, "qa_2": 6}.get(name, 1)
    samples = one.questions(4096, random.Random(5), units, 6)
    assert len(samples) == n_questions == len({sample.text for sample in samples})
    assert max(len(sample.prompt) for sample in samples) + samples[0].room == 4096
    shared = next(
        (i for i, column in enumerate(zip(*(s.prompt for s in samples), strict=False)) if len(set(column)) > 1), 0
    )
    for sample in samples:
        text = units.decode(sample.prompt)
        assert one.score(one.solve(text), sample) == 1.0
        assert n_questions == 1 or len(sample.prompt) - shared < 250
        assert sum(one.score(other.text, sample) for other in samples) == 1.0


@pytest.mark.parametrize("name", SINGLE)
def test_a_reader_of_the_last_half_finds_what_stands_there(name: str, byte_units: TokenUnits) -> None:
    one = task(name, byte_units)
    passed = []
    for tenth in range(11):
        sample = one.sample(4096, random.Random(tenth), byte_units, tenth / 10)
        passed.append(one.score(one.solve(byte_units.decode(sample.prompt[-2200:])), sample))
        assert sample.depth == tenth / 10
    assert passed == [0.0] * 5 + [passed[5]] + [1.0] * 5


@pytest.mark.parametrize("name", ["niah_multivalue", "niah_multiquery", "vt"])
def test_a_reader_of_the_end_finds_parts_of_what_is_spread(name: str, byte_units: TokenUnits) -> None:
    one, scores = task(name, byte_units), []
    for seed in range(40):
        sample = one.sample(4096, random.Random(seed), byte_units)
        assert math.isnan(sample.depth)
        scores.append(one.score(one.solve(byte_units.decode(sample.prompt[-2300:])), sample))
    if name == "vt":  # later variables are worth nothing without the first
        assert set(scores) <= {0.0, 1.0} and sum(scores) < 10
    else:
        assert 0.4 < sum(scores) / 40 < 0.7 and len(set(scores)) >= 4


def test_needles_have_rulers_keys_and_values(units: TokenUnits) -> None:
    pairs = {}
    for name in NAMES[:8]:
        text = units.decode(task(name, units).sample(4096, random.Random(3), units).prompt)
        pairs[name] = re.findall(r"One of the special magic (?:numbers|uuids) for (\S+) is: (\S+)\.", text)
    sizes = [(len({key for key, _ in found}), len({value for _, value in found})) for found in pairs.values()]
    assert sizes[:4] == [(1, 1), (1, 1), (1, 1), (4, 4)] and sizes[6:] == [(1, 4), (4, 4)]
    for name in ("niah_multikey_2", "niah_multikey_3"):
        keys, values = zip(*pairs[name], strict=True)
        assert len(set(keys)) == len(set(values)) == len(keys) > 20 and not {*keys} & {*values}
    number, name, uuid = r"[1-9]\d{6}", r"[a-z]+-[a-z]{4}", r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f-]{17}"
    assert all(re.fullmatch(name, key) and re.fullmatch(number, value) for key, value in pairs["niah_multikey_2"])
    assert all(re.fullmatch(uuid, key) and re.fullmatch(uuid, value) for key, value in pairs["niah_multikey_3"])


def test_needles_in_an_essay_stand_behind_sentences(byte_units: TokenUnits) -> None:
    one = task("niah_multikey_1", byte_units)
    for seed in range(10):
        text = byte_units.decode(one.sample(3000, random.Random(seed), byte_units).prompt)
        before = [text[match.start() - 1] for match in re.finditer(" One of the special", text)]
        assert len(before) == 4 and set(before) <= {".", "\n"}


def test_an_essay_is_needed() -> None:
    with pytest.raises(UserError, match=r"niah_single_2 hides its needles in natural text"):
        RulerNeedles("niah_single_2", "essay")


def test_chains_of_variables_are_as_many_and_as_long_as_said(units: TokenUnits) -> None:
    one = VariableTracking(chains=3, hops=2)
    samples = one.questions(3000, random.Random(0), units, 5)
    assert len(samples) == 3
    for sample in samples:
        text = units.decode(sample.prompt)
        assert len(sample.references) == 3 and all(re.fullmatch("[A-Z]{5}", name) for name in sample.references)
        assert one.score(one.solve(text), sample) == 1.0
        statements = re.findall(r"VAR ([A-Z]{5}) = (?:VAR )?(\w+)\n", text)
        assert len(statements) == 9
        first, second, third = sample.references
        assert [pair for pair in statements if pair[0] in sample.references][1:] == [(second, first), (third, second)]
    assert len(re.findall(r"VAR [A-Z]{3} = ", text)) == 3


def test_common_words_have_rulers_counts(units: TokenUnits) -> None:
    for n, often, seldom, shown in ((9000, 30, 3, 190), (4095, 6, 1, 40), (4096, 6, 1, 40)):
        sample = CommonWords().sample(n, random.Random(0), units)
        example, items = units.decode(sample.prompt).split(" Here is")[1:]
        assert len(re.findall(r"\d+\. \S+", example.split("Question")[0])) == shown
        numbers, found = zip(*re.findall(r"(\d+)\. (\S+)", items.split("Question")[0]), strict=True)
        assert [*numbers] == [str(i + 1) for i in range(len(numbers))]
        counts = Counter(found)
        assert sample.facts == {"often": often}
        assert {word for word, count in counts.items() if count == often} == {*sample.references}
        assert len(counts) > COMMON and {*counts.values()} == {often, seldom}
        assert len(found) == COMMON * often + (len(counts) - COMMON) * seldom
        assert sample.text == " ".join(f"{i}. {word}" for i, word in enumerate(sample.references, 1))


def test_a_list_of_500_words_has_1770_items(byte_units: TokenUnits) -> None:
    known = list(words.compounds()[:501])
    items = 10 * 30 + 490 * 3
    ids = sum(len(byte_units.ids(f" {i}.")) for i in range(1, items + 1))
    ids += sum(len(byte_units.ids(f" {word}")) * (30 if i < 10 else 3) for i, word in enumerate(known[:500]))
    assert items == 1770
    assert words_that_fit(known, 30, 3, ids, byte_units) == (known[:500], ids)
    assert words_that_fit(known, 30, 3, ids - 1, byte_units)[0] == known[:499]
    with pytest.raises(UserError, match="needs more than 500 words"):
        words_that_fit(known[:500], 30, 3, ids, byte_units)


def test_frequent_words_follow_zipfs_law(units: TokenUnits) -> None:
    assert zipf(2000, 7) == [1215, 303, 135, 75, 48, 33, 24]
    one = task("fwe", units)
    sample = one.sample(6000, random.Random(0), units)
    text = units.decode(sample.prompt).split("most frequent ones.")[1].split("Question")[0]
    counts = Counter(text.split())
    (dots, first), *rest = counts.most_common()
    assert dots == "..." and tuple(word for word, _ in rest[:3]) == sample.references
    assert all(re.fullmatch("[a-z]{6}", word) for word, _ in rest) and len(counts) <= 6000 // 50 + 1
    n = next(n for n in range(first, 3 * first) if zipf(n, len(counts)) == sorted(counts.values(), reverse=True))
    assert n > 0


def test_the_largest_text_that_fits_is_found() -> None:
    lengths = [1, 3, 2, 4, 3, 5, 2]
    for n_tokens in (10, 99, 1000, 4321):
        n = largest(n_tokens, lengths)
        sizes = [sum(a * b for a, b in zip(zipf(m, 7), lengths, strict=False)) for m in (n, n + 1)]
        assert sizes[0] <= n_tokens < sizes[1]


@pytest.mark.parametrize("hops", [1, 2])
def test_questions_need_all_their_documents(hops: int, byte_units: TokenUnits) -> None:
    one = task(f"qa_{hops}", byte_units)
    sample = one.sample(4096, random.Random(1), byte_units)
    text = byte_units.decode(sample.prompt)
    numbers = [int(number) for number in re.findall(r"Document (\d+):\n", text)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 5
    asked = next(example for example in one.examples if example.question in text)
    assert len(asked.documents) == hops and asked.answers[0] in asked.documents[-1]
    for document in asked.documents:
        assert text.count(document) == 1
        assert one.solve(text.replace(document, "")) == ""
    assert text.count(asked.question) == 1 and text.endswith("Answer:")


def test_the_document_needed_stands_where_it_is_asked_for(byte_units: TokenUnits) -> None:
    one = task("qa_1", byte_units)
    for depth in (0.0, 0.5, 1.0):
        sample = one.sample(4096, random.Random(1), byte_units, depth)
        text = byte_units.decode(sample.prompt)
        start = text.index(next(example for example in one.examples if example.question in text).documents[0])
        assert start / len(text) == pytest.approx(depth, abs=0.15)
        assert sample.depth == pytest.approx(depth, abs=0.05)


def test_own_distractors_come_before_other_documents(byte_units: TokenUnits) -> None:
    near = tuple(f"The {colour} boat " + "goes on " * 40 + "to nobody." for colour in ("red", "green", "white"))
    mine = QAExample("Who owns the blue boat?", ("Ann", "Anna"), ("The blue boat is Ann's.",), near)
    other = QAExample("What?", ("that",), tuple(f"The {end} end " + "goes on " * 80 for end in ("first", "last")))
    one = DocumentQA((mine, other), "qa_1")
    found = [one.sample(1250, random.Random(seed), byte_units) for seed in range(20)]
    texts = [byte_units.decode(sample.prompt) for sample in found if sample.text == "Ann"]
    assert 3 < len(texts) < 17
    assert all(document in text for text in texts for document in (*near, *mine.documents))
    assert not any(document in text for text in texts for document in other.documents)
    assert {one.score(answer, found[0]) for answer in found[0].references} == {1.0}


def test_stand_ins_say_that_they_are(byte_units: TokenUnits) -> None:
    for name, (place, options) in STAND_INS.items():
        module, _, make = place.partition(":")
        one = getattr(importlib.import_module(module), make)(**options)
        sample = one.sample(2000, random.Random(0), byte_units)
        assert one.name == name and one.score(one.solve(byte_units.decode(sample.prompt)), sample) == 1.0


def test_examples_are_needed_and_names_may_run_out() -> None:
    with pytest.raises(UserError, match="qa_1 has no examples"):
        DocumentQA((), "qa_1")
    with pytest.raises(ValueError, match="names for 13107 examples, 20000 were"):
        fictional(20000, 1)
    assert len({example.answers for example in fictional(2000, 2)}) == 2000


@pytest.mark.parametrize("name", NAMES)
def test_too_short_is_said(name: str, byte_units: TokenUnits) -> None:
    with pytest.raises(TooShort, match=f"{name} needs more than .*"):
        task(name, byte_units).sample(180, random.Random(0), byte_units)


def test_metrics_count_references_that_are_contained() -> None:
    sample = Sample([], [], "a", 0.5, ("alpha", "Beta", "gamma", "delta"))
    assert match_all("ALPHA, beta; then gamma", sample) == 0.75
    assert match_all("", sample) == match_part("none", sample) == 0.0
    assert match_part("it is beta", sample) == 1.0


def test_metrics_are_fooled_by_longer_words_and_by_echo(byte_units: TokenUnits) -> None:
    assert match_all("party", Sample([], [], "art", 0.5)) == 1.0
    one = task("niah_single_1", byte_units)
    sample = one.sample(1000, random.Random(0), byte_units)
    assert one.score(byte_units.decode(sample.prompt), sample) == 1.0


@pytest.mark.parametrize("vocabulary", [words.compounds(), words.numbers(), words.uuids("a"), words.codes(6)])
def test_vocabularies_have_equal_lengths_and_no_doubles(vocabulary: tuple[str, ...]) -> None:
    assert len(set(vocabulary)) == words.SIZE and len({len(entry) for entry in vocabulary}) == 1


def test_no_name_contains_another() -> None:
    assert len(set(words.names())) == words.SIZE and {len(noun) for noun in words.NOUNS} == {4}
    assert not [(a, b) for a in words.ADJECTIVES for b in words.ADJECTIVES if a != b and b.endswith(a)]
    assert len(words.codes(3)) == 26**3 == len(set(words.codes(3)))
    assert not {*words.uuids("keys")} & {*words.uuids("values")}


def test_longer_contexts_draw_from_more_words() -> None:
    assert [words.reach(words.names(), n) for n in (100, 1 << 15, 1 << 17, 1 << 20)] == [4096, 4096, 16384, 65536]
    drawn = list(words.draw(words.names(), 4096, random.Random(0)))
    assert len(drawn) == 4096 and sorted(drawn) == sorted(words.names()[:4096])
    assert drawn[:9] == [*islice(words.draw(words.names(), 4096, random.Random(0)), 9)] != [*words.names()[:9]]


def test_needles_are_planted_in_order_and_in_place() -> None:
    hay = list(range(10))
    planted = plant(hay, [(7, [-1]), (0, [-2]), (7, [-3, -4]), (10, [-5])])
    assert planted == [-2, 0, 1, 2, 3, 4, 5, 6, -1, -3, -4, 7, 8, 9, -5]
    assert plant(hay, []) == hay


def test_padding_ends_with_a_line_of_noise(byte_units: TokenUnits) -> None:
    line = byte_units.ids(NOISE[0])
    for n in (0, 1, len(line), len(line) + 3, 3 * len(line)):
        assert padding(byte_units, n) == (4 * line)[4 * len(line) - n :]


def test_lines_fill_from_the_end(byte_units: TokenUnits) -> None:
    ids, place = fill(20, iter([[1] * 6, [2] * 7, [3] * 9]), byte_units)
    assert ids[7:] == [1] * 6 + [2] * 7 and ids[:7] == padding(byte_units, 7)
    assert [place(at) for at in (0, 7, 12, 13, 19, 20)] == [7, 7, 7, 13, 13, 20]
    with pytest.raises(UserError, match="20 tokens need more than 1 different lines"):
        fill(20, [[1]], byte_units)


def test_text_is_cut_out_and_repeated() -> None:
    assert stretch((1, 2, 3, 4), 1, 2) == [2, 3]
    assert stretch((1, 2, 3), 2, 8) == [3, 1, 2, 3, 1, 2, 3, 1]


def test_places_move_back_to_a_sentence_that_is_near() -> None:
    text = [0] * 200
    text[50] = 9
    ends = frozenset({9})
    assert [behind_sentence(text, at, ends) for at in (0, 30, 51, 100, 114, 115, 200)] == [0, 0, 51, 51, 51, 115, 200]
