from __future__ import annotations

import random
import re
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.common.errors import UserError
from ropewalk.tasks import metrics

TEXT = st.text(alphabet="ab cd.the,", max_size=30)
PAIR_SCORES = (
    metrics.qa_f1,
    metrics.value_match,
    metrics.substring_match,
    metrics.contains,
    metrics.character_f1_zh,
    metrics.edit_similarity,
    metrics.rouge_l,
)


@given(TEXT, TEXT)
@pytest.mark.parametrize("metric", PAIR_SCORES)
def test_scores_of_two_texts_stay_between_0_and_1(metric, first: str, second: str) -> None:
    assert 0 <= metric(first, second) <= 1


@given(TEXT, TEXT)
@pytest.mark.parametrize("metric", [metrics.qa_f1, metrics.character_f1_zh])
def test_f1_does_not_care_which_text_is_the_reference(metric, first: str, second: str) -> None:
    assert metric(first, second) == pytest.approx(metric(second, first))


@given(TEXT)
def test_a_text_matches_itself(text: str) -> None:
    assert metrics.value_match(text, text) == float(bool(text.strip()))
    assert metrics.qa_f1(text, text) == float(bool(metrics.normalise(text)))
    assert metrics.edit_similarity(text, text) == float(bool(text))


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_common_subsequence_is_common_and_as_long_as_brute_force_finds(first: list[str], second: list[str]) -> None:
    def occurs(needle: list[str], sequence: list[str]) -> bool:
        rest = iter(sequence)
        return all(item in rest for item in needle)

    found = metrics.common_subsequence(first, second)
    assert occurs(found, first) and occurs(found, second)
    subsets = ([x for i, x in enumerate(first) if bits >> i & 1] for bits in range(2 ** len(first)))
    assert len(found) == max(len(s) for s in subsets if occurs(s, second))


def test_normalisation_of_english_and_chinese() -> None:
    assert metrics.normalise(" The  cat, a Cat's\n hat! ") == "cat cats hat"
    assert metrics.normalise("theatre") == "theatre"
    assert metrics.normalise_zh("「你好」， World！ a the") == "你好worldathe"


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("the cat sat", "cat sat", 1.0),
        ("cat sat on mat", "cat mat", 2 * 0.5 * 1 / 1.5),
        ("cat cat", "cat", 2 * 0.5 / 1.5),
        ("", "cat", 0.0),
        ("the", "a", 0.0),
    ],
)
def test_token_f1_by_hand(prediction: str, reference: str, value: float) -> None:
    assert metrics.qa_f1(prediction, reference) == pytest.approx(value)


def test_a_reference_of_articles_alone_is_not_part_of_everything() -> None:
    assert metrics.substring_match("Paris", "The") == 0
    assert metrics.substring_match("It is the Paris of old", "paris of OLD.") == 1


def test_the_best_reference_counts() -> None:
    assert metrics.best(metrics.contains, "Paris.", ["London", "paris"]) == 1


@pytest.mark.parametrize(
    ("prediction", "reference", "value"),
    [
        ("12", "1.2", 0), ("11.2", "1.2", 0), ("1.25", "1.2", 0), ("the value is 1.2.", "1.2", 1), ("12.5", "12", 0),
        ("[1,2,3]", "[1, 2, 3]", 1), ("[1, 2, 3]", "[1, 2]", 0), ("( 1,2 )", "(1, 2)", 1), ("{'a':1}", '{"a": 1}', 1),
        ("-5", "5", 0), ("3-5", "5", 1), ("x = -1", "-1", 1), ("abc2", "2", 0), ("True", "true", 1), ("x", "", 0),
    ],
)  # fmt: skip
def test_values_are_compared_symbol_by_symbol(prediction: str, reference: str, value: float) -> None:
    assert metrics.value_match(prediction, reference) == value


def test_count_and_retrieval_divide_by_all_numbers_said() -> None:
    assert metrics.share_of_numbers("3 3 4", "3") == pytest.approx(2 / 3)
    assert metrics.share_of_numbers("Paragraph 13", "3") == 0
    assert metrics.share_of_numbers("none", "3") == 0


def test_classification_drops_every_class_inside_the_right_one() -> None:
    classes = ["a", "ab", "abc", "abcd", "x"]
    assert metrics.classification("abcd", "abcd", classes) == 1.0
    assert metrics.classification("abcd or x", "abcd", classes) == 0.5
    assert metrics.classification("x", "abcd", classes) == 0.0
    assert metrics.classification("", "abcd", classes) == 0.0
    assert metrics.classification("abc", "ab", classes) == pytest.approx(1 / 2)


def test_code_is_compared_by_its_first_line_that_is_code() -> None:
    assert metrics.code_line_similarity("\n# note\n```python\nx = 1\ny = 2", "x = 1") == 1.0
    assert metrics.code_line_similarity("// only\n# comments", "x = 1") == 0.0
    assert metrics.edit_similarity("abcd", "bcde") == 0.75
    assert metrics.edit_similarity("abc", "abd") == 0.67


def test_rouge_l_counts_distinct_words_per_sentence() -> None:
    overlap = metrics.rouge_l_words("the cat sat. a dog ran", "the cat sat on it. a dog")
    assert overlap.recall == pytest.approx(5 / 7) and overlap.precision == pytest.approx(5 / 6)
    assert metrics.rouge_l("b a", "a b") == pytest.approx(0.5)
    assert metrics.rouge_l("", "a b") == metrics.rouge_l("...", "a") == 0.0


@given(st.text(alphabet="ab c.", max_size=40), st.text(alphabet="ab c.", max_size=40))
def test_rouge_l_is_that_of_the_rouge_package(prediction: str, reference: str) -> None:
    package = pytest.importorskip("rouge")
    try:
        theirs = package.Rouge(metrics=["rouge-l"]).get_scores(prediction, reference)[0]["rouge-l"]
    except ValueError:  # empty texts
        return
    ours = metrics.rouge_l_words(prediction, reference)
    assert (ours.precision, ours.recall, ours.f) == pytest.approx((theirs["p"], theirs["r"], theirs["f"]))


def test_rouge_l_of_a_sentence_that_is_too_long_for_the_package() -> None:
    long = " ".join(f"w{i}" for i in range(700))
    assert metrics.rouge_l(long, long) == pytest.approx(1.0)


def test_google_rouge_with_lines_as_sentences() -> None:
    pytest.importorskip("rouge_score")
    assert metrics.rouge("a b\nc d", "c d\na b", "rougeLsum") == pytest.approx(1.0)
    assert metrics.rouge("a b c d", "c d a b", "rougeL") == pytest.approx(0.5)
    assert metrics.rouge("running", "runs", "rouge1", stem=True) == 1.0
    assert metrics.rouge("running", "runs", "rouge1") == 0.0


def test_chinese_words_come_from_jieba() -> None:
    pytest.importorskip("jieba")
    assert metrics.qa_f1_zh("我爱北京天安门。", "北京天安门") == pytest.approx(2 * 0.5 / 1.5)
    assert metrics.rouge_l_zh("北京天安门", "北京天安门") == pytest.approx(1.0)


def test_chinese_characters() -> None:
    assert metrics.character_f1_zh("张三，李", "张三") == pytest.approx(0.8)


def test_stemmed_f1_drops_commas_articles_and_and() -> None:
    pytest.importorskip("nltk")
    assert metrics.stemmed_f1("The dogs and cats", "dog, cat") == 1.0


def test_missing_libraries_are_named_with_their_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(UserError, match=r"-m pip install .*sacrebleu"):
        metrics.words_zh("中文")


def test_several_references_in_order() -> None:
    assert metrics.all_in_order("First Rome, then Oslo", ["rome", "oslo"]) == 1
    assert metrics.all_in_order("First Oslo, then Rome", ["Rome", "Oslo"]) == 0
    assert metrics.all_in_order("Rome", ["Rome", "Rome"]) == 0


def test_numbers_in_texts() -> None:
    assert metrics.numbers("It is -3.5, not 34,258 or v2, nor 1-2") == [-3.5, 34.0, 258.0, 1.0, 2.0]
    assert metrics.first_integer("x7 or 8") == "7" and metrics.last_integer("x7 or 8") == "8"
    assert metrics.first_integer("none") == metrics.last_integer("none") == ""


SAY_D = (
    "The correct option is D", "Option D", "It's D.", "It’s D", "It is D, since", "(D)", "D)", "D: text", "D - text",
    "I choose D", "I would go with D.", "I think it's D, because", "My answer: D", "Therefore, D is correct.",
    "D is the right answer", "The right answer would be D", "The answer to the question is option (D).", "Answer - D",
    "answer is: **D**", r"\boxed{D}", "Final answer: D", "The best choice is (D) as", "[[D]]", '"D"', "Letter D",
    "Option D is correct, because option A says so", "Reasons.\nThe correct option is **D. Bob**", "Definitely D!",
    "Options:\nA. no\nB. no\nC. no\nD. yes\nSo it's D.", "A. no\nB. no\nC. no\nD. yes\n\nD", "It was Bob, option D.",
    "Option A: no.\nOption B: no.\nThe options were A, B, C and D. So D.", "By the text, Bob (D) did it.",
    "The answer would most likely be D", "The answer is:\n\nD. text",
    "D\n\nThe answer is in the text", "Let's see. Option A is wrong. Option D is right.",
)  # fmt: skip
SAY_NOTHING = (
    "A or B", "B or A", "It's a trap", "The answer is a matter of taste", "The answer is A good man", "AB", "A and B",
    "The answer is not D.", "D is not correct", "D is incorrect", "None of A, B, C or D is correct", "Vitamin D helps",
    "Bob (D), not Ann (A)", "The answer is either A or B", "The answer is A or B",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C) because", "C"),
        ("D. Text", "D"),
        ("The answer is **A**.", "A"),
        ("Answer: (b)", "B"),
        ("The answer is A. No, the answer is C.", "C"),
        ("Because of this", ""),
        ("A good guess", ""),
        ("Reasoning first.\nD", "D"),
        ("A\nor\nB", "A"),
        ("The answer is Berlin", ""),
        ("", ""),
        *((text, "D") for text in SAY_D),
        *((text, "") for text in SAY_NOTHING),
        ("The correct answer is (C) Mars, not (D).", "C"),
        ("C. cmd_gen\n\nIn this function ...\n\nTherefore, the answer is:\n\nB. other", "B"),
        ("The function with the error is:\n\nB. Test.call\n\nThis function is wrong because ...", "B"),
    ],
)
def test_the_letter_that_an_answer_states(text: str, letter: str) -> None:
    assert metrics.stated_choice(text) == letter


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("ACD", "ACD"), ("A, C, D", "ACD"), ("D, C and A", "ACD"), ("The correct answers are A, C and D.", "ACD"),
        ("A and C", "AC"), ("Both A and C are correct", "AC"), ("(A), (C)", "AC"), ("A/C", "AC"), ("AC because", "AC"),
        ("A) and C)", "AC"), ("[A, C]", "AC"), ("B is the answer", "B"), ("CEO", ""), ("A or C", ""),
    ],
)  # fmt: skip
def test_several_letters_can_be_stated(text: str, letters: str) -> None:
    assert metrics.stated_choices(text, "ABCDEFGH") == letters


STATED = {  # letters: sentences, one a line
    "A": """
        I'd choose a.
        I choose a.
        So A is correct.
        Therefore A is the answer.
        应选A
        The answer is A, not B.
        A, not B, is the answer.
        The best answer is (A), since (B) and (C) are false.
        The answer is A, and B is wrong.
        The answer is A and B is wrong.
        It's A, and not B.
        选择题的答案：A
        BCD都是错的，选A
    """,
    "B": """
        It can't be A, so it must be B
        It cannot be (A); it must be (B).
        A and C can be ruled out, so the answer is B.
        I ruled out A, C and D, which leaves B.
        The answer is B rather than C.
        B, rather than A.
        Rather than A, I choose B.
        I choose B instead of C.
        The answer is definitely not A, but B.
        The answer is not (A) but (B).
        It is not A; rather, it is B.
        Option b is correct.
        Hence, option B is right.
        We conclude that B is the correct answer.
        答案为B。
        我选择B。
        B正确
        答案不是A，而是B。
        不是A，是B
        A不正确，所以答案是B
        根据文章，答案是 B，因为……
        The option that is not correct is B.
        It's neither (A) nor (C). It's (B).
        The answer is B. A is wrong because C says so.
        D contradicts the text, so B.
        Answer B is the best.
        B, I think.
        Definitely not A, definitely B.
        No, B.
        Of A and B, B is correct.
        The answer is B, and I am sure.
        A is wrong and B is right.
        I have to go with B.
        I chose B because it fits.
        B is what the text says, so the answer is B
        Let me see. Option A says X. Option B says Y. Option C says Z. I pick B.
        Given that A is false, B must be the answer.
        B seems right.
        我认为B是正确答案。
        答案是：B. 因为
    """,
    "C": """
        The answer isn't A or B but C.
        Neither A nor B is right, so it's C.
        Eliminating A and B, C remains.
        I'd go with C, not B.
        I do not think it's A. I think it's C.
        I pick (c).
        option c
        Option (c)
        (c)
        (c) The third
        I think that C is right.
        I believe C is correct
        Obviously C is correct.
        答案是C
        正确答案：C
        答案：Ｃ
        选C
        选项C正确
        C是正确的。
        C选项正确
        不选A，选C。
        排除A和B，选C
        正确答案是（C）。
        The answer is C, although B is not wrong.
        B isn't mentioned. The answer is C.
        I would choose option C over option A.
        C over A.
        Answer: C. Not D.
        A is false; B is false; C is true.
        Letter C.
        I choose letter c.
        Options A and B are both incorrect. The remaining option is C.
        Only C is correct.
        Of the four, C is correct.
        The answer (C) is supported by the text.
        You should pick C.
        C. Not A because ...
        A and B are both wrong; C is right
        A和B都不正确，C正确
        A选项错误，应选C。
    """,
    "D": """
        It isn't C. It's D.
        Not A, not B, not C: D.
        A is wrong, B is wrong and C is wrong, so D.
        We can eliminate A, B and C. The answer is D.
        I would not choose B. I would choose D.
        I choose d.
        choice d, because
        答案应该是D
        故选D。
        A错误，B错误，C错误，因此选D。
        The correct answer is not A, not B, not C, but D.
        C is not stated, but D is correct.
        All of A, B and C are false, hence D.
        My choice is D.
        My choice: d
        Let's go with D!
        It must be option D because the others are false.
        Wait, no: the answer is D.
        The answer would be D, as B is wrong.
        Ann picked the letter D.
        正确选项是 D。
        我认为答案为D
        这道题选D
    """,
    "AC": """
        A、C都正确
        A and C
    """,
    "ABC": """
        答案是ABC
    """,
    "ACD": """
        A, C and D are correct.
    """,
    "": """
        Neither A nor B.
        I wouldn't pick A.
        I don't think the answer is A.
        The answer is A, B or C.
        The answer is A, B, or C.
        Either B or C is correct.
        It's B or C.
        I choose B or C.
        I choose a book.
        option a is a good one
        a good answer
        I select Plan B.
        Plan B is correct.
        Plan B is the answer.
        Vitamin C is the answer
        Hepatitis B is the right answer.
        The answer is vitamin C.
        The answer is Plan B.
        Group A was larger, and group B is the best.
        Team A is the best.
        None of A, B or C is correct.
        None of A, B and C is correct; D is.
        A is not wrong.
        Not only A but also B is correct.
        答案是A还是B？
        答案是A或B
        维生素C是答案
        选项A、B、C、D都有可能
        The answer: not A.
        Which is not correct? B.
        A isn't right, B is.
        It is not the case that A is correct.
        The answer cannot be D.
        The answer can't be C, it has to be D.
        The answer is: Not B.
        I prefer C to A.
        A > B
        It's a C.
        I got a B in maths.
        Grade A is the best.
        She got an A.
        Section B is the right place.
        The choice is between A and B.
        Going with B.
        It must not be D.
        None other than B.
        The answer is none other than B.
        A, B and C are wrong.
        Statement A is correct.
        Statements A and B are correct.
        Person B is right.
        Statements A, B and C are correct.
        People who choose B are wrong.
        He chose B.
        The answer could not be clearer: D.
        No answer.
        Not enough information to choose between A and B.
        I can't decide between A and C.
        It is unlikely to be A.
        A seems wrong.
        答案不是A。
        不是A。
    """,
}  # fmt: skip


@pytest.mark.parametrize("letters", STATED)
def test_denials_choices_nouns_and_chinese(letters: str) -> None:
    texts = [line.strip() for line in STATED[letters].strip().splitlines()]
    assert {text: metrics.stated_choices(text) for text in texts} == dict.fromkeys(texts, letters)
    later = [text for text in texts if not re.match(r"\(?\w\b", text)]  # what begins with a letter counts there alone
    assert {text: metrics.stated_choices(f"Let us see.\n\n{text}\n") for text in later} == dict.fromkeys(later, letters)


def test_what_loops_is_read_in_no_time() -> None:
    loops = (
        "A, ", "answer ", "option is ", "it is the so ", "(", "A\n", "A. x\n", "\n", " ", "not A ", "not the ", "A or ",
        "none of A ", "I choose ", "A is clearly both ", "n't be the ", "A isn't ", "A remains ", "rule out ", "and ",
        "选", "不是A", "A错", "答案", "A,B,", "ly ", "<a",
    )  # fmt: skip
    start = time.monotonic()
    for loop in loops:
        metrics.stated_choices(loop * 5000)
    assert time.monotonic() - start < 20


def table_distance(first: str, second: str) -> int:
    """Levenshtein's table, row by row."""
    row = list(range(len(second) + 1))
    for i, one in enumerate(first, 1):
        above, row = row, [i]
        for j, other in enumerate(second, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (one != other)))
    return row[-1]


def test_edit_distance_is_that_of_the_table() -> None:
    rng = random.Random(0)
    for _ in range(200):
        first, second = ("".join(rng.choices("ab c", k=rng.randint(0, 90))) for _ in range(2))
        assert metrics.levenshtein(first, second) == table_distance(first, second)
    gold = "apple apple apples apple apple"
    assert metrics.levenshtein_similarity("apple apple apple apple apple", gold) == pytest.approx(29 / 30)
    assert metrics.levenshtein_similarity("apple apple apples apple", gold) == pytest.approx(0.8)
    assert metrics.levenshtein_similarity("", "") == 1.0 and metrics.levenshtein_similarity("", "a") == 0.0
