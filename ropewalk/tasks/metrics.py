"""Scores of a generated answer against a reference, 0 to 1, as the benchmarks define them.

Everything here is derived from the published rules; two libraries are asked for where a rule is theirs: ``rouge-score``
for ROUGE as InfiniteBench and L-Eval use it, ``jieba`` for Chinese words (both in the extra ``benchmarks``).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from ropewalk.common.errors import UserError
from ropewalk.common.extras import install

ARTICLES = re.compile(r"\b(a|an|the)\b")
CHINESE_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏."
)
_SYMBOL = r"(?<![\w)\]])-\d+(?:\.\d+)?|\d+(?:\.\d+)?(?![a-z_])|\w+|[^\w\s]"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NARROW = str.maketrans({wide: chr(wide - 0xFEE0) for wide in range(0xFF01, 0xFF5F)} | {"。": ".", "、": ","})
_NO_PUNCTUATION_ZH = str.maketrans("", "", string.punctuation + CHINESE_PUNCTUATION)


class Overlap(NamedTuple):
    """Precision, recall and their harmonic mean."""

    precision: float
    recall: float
    f: float


def best(metric: Callable[[str, str], float], prediction: str, references: Iterable[str]) -> float:
    """The score against the reference that fits best."""
    return max(metric(prediction, reference) for reference in references)


def needs(module: str) -> Any:
    """An optional library of the extra ``benchmarks``.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        name = module.split(".")[0].replace("_", "-")
        raise UserError(f"this score needs {name}", install("benchmarks")) from error


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and repeated spaces (the rule of SQuAD)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def normalise_zh(text: str) -> str:
    """Lower case, without ASCII and Chinese punctuation and without any space."""
    return "".join(text.lower().translate(_NO_PUNCTUATION_ZH).split())


def token_f1(prediction: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of two bags of tokens; 0 where they share none (also where both are empty)."""
    shared = sum((Counter(prediction) & Counter(reference)).values())
    return 2 * shared / (len(prediction) + len(reference)) if shared else 0.0


def set_f1(prediction: Iterable[Hashable], reference: Iterable[Hashable]) -> float:
    """F1 of two sets; 1 where both are empty."""
    said, expected = set(prediction), set(reference)
    return 2 * len(said & expected) / (len(said) + len(expected)) if said or expected else 1.0


def qa_f1(prediction: str, reference: str) -> float:
    """F1 of normalised English words."""
    return token_f1(normalise(prediction).split(), normalise(reference).split())


def qa_f1_zh(prediction: str, reference: str) -> float:
    """F1 of Chinese words as jieba cuts them, normalised one by one (LongBench)."""
    words = [[w for w in map(normalise_zh, words_zh(text)) if w] for text in (prediction, reference)]
    return token_f1(*words)


def character_f1_zh(prediction: str, reference: str) -> float:
    """F1 of characters after normalisation (InfiniteBench)."""
    return token_f1(normalise_zh(prediction), normalise_zh(reference))


def substring_match(prediction: str, reference: str) -> float:
    """1 if the normalised reference is part of the normalised prediction; 0 if nothing is left of it."""
    wanted = normalise(reference)
    return float(wanted != "" and wanted in normalise(prediction))


def value_match(prediction: str, reference: str) -> float:
    """1 if the prediction has the reference, symbol by symbol: spaces and the kind of quotes do not matter.

    A number is one symbol with its sign, so that neither "12" nor "11.2" has "1.2".
    """
    ours, theirs = (re.findall(_SYMBOL, text.lower().replace('"', "'")) for text in (prediction, reference))
    n = len(theirs)
    return float(n > 0 and any(ours[i : i + n] == theirs for i in range(len(ours) - n + 1)))


def contains(prediction: str, reference: str) -> float:
    """1 if the reference is part of the prediction but for case."""
    return float(reference.strip().lower() in prediction.lower())


def all_in_order(prediction: str, references: Sequence[str]) -> float:
    """1 if every reference occurs, each behind the one before, but for case."""
    position, text = 0, prediction.lower()
    for reference in references:
        found = text.find(reference.lower(), position)
        if found < 0:
            return 0.0
        position = found + len(reference)
    return 1.0


def classification(prediction: str, reference: str, classes: Sequence[str]) -> float:
    """1 / (number of classes named) if the right one is among them (LongBench).

    A class whose name is part of the right one's does not count as named.
    """
    named = {name for name in classes if name in prediction}
    named -= {name for name in named if name in reference and name != reference}
    return 1 / len(named) if reference in named else 0.0


def share_of_numbers(prediction: str, reference: str) -> float:
    """The share of the prediction's integers that are the reference (LongBench's count and retrieval scores)."""
    numbers = re.findall(r"\d+", prediction)
    return numbers.count(reference) / len(numbers) if numbers else 0.0


def edit_similarity(prediction: str, reference: str) -> float:
    """2 LCS / (sum of lengths) over characters, in whole percents (the fuzzy ratio of LongBench)."""
    both = len(prediction) + len(reference)
    return round(200 * len(common_subsequence(prediction, reference)) / both) / 100 if both else 0.0


def levenshtein(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and replacements of one item that make one of the other.

    Columns of the table are bits of one number (Myers 1999; Hyyrö 2003), so that 60,000 characters take seconds.
    """
    alike = (one == other for one, other in zip(first, second, strict=False))
    n_alike = next((i for i, same in enumerate(alike) if not same), min(len(first), len(second)))
    first, second = first[n_alike:], second[n_alike:]
    where: dict[Hashable, int] = {}
    for i, item in enumerate(first):
        where[item] = where.get(item, 0) | 1 << i
    everywhere, last, distance = (1 << len(first)) - 1, 1 << len(first) >> 1, len(first)
    if not last:
        return len(second)
    more, less = everywhere, 0  # where a row of the table rises by one from its neighbour, and where it falls
    for item in second:
        same = where.get(item, 0)
        down = ((same & more) + more ^ more) | same
        rises, falls = (less | ~(down | more)) & everywhere, more & down
        distance += bool(rises & last) - bool(falls & last)
        rises, falls = rises << 1 | 1, falls << 1
        more, less = (falls | ~(same | less | rises)) & everywhere, rises & (same | less) & everywhere
    return distance


def levenshtein_similarity(prediction: str, reference: str) -> float:
    """1 - distance / longer length, over characters; 1 where both are empty."""
    longest = max(len(prediction), len(reference))
    return 1 - levenshtein(prediction, reference) / longest if longest else 1.0


def code_line_similarity(prediction: str, reference: str) -> float:
    """Edit similarity of the first line that is neither a comment nor markup."""
    lines = prediction.lstrip("\n").split("\n")
    line = next((line for line in lines if not any(mark in line for mark in ("`", "#", "//"))), "")
    return edit_similarity(line, reference)


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> list[str]:
    """A longest common subsequence: of several, the one found from the end, passing over ``second`` first."""
    table = [[0] * (len(second) + 1)]
    for item in first:
        row, above = [0], table[-1]
        for j, other in enumerate(second):
            row.append(above[j] + 1 if item == other else max(above[j + 1], row[j]))
        table.append(row)
    found, i, j = [], len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            i, j = i - 1, j - 1
            found.append(first[i])
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def rouge_l_words(prediction: str, reference: str) -> Overlap:
    """ROUGE-L as the ``rouge`` package of LongBench and M4LE defines it.

    Texts are cut into sentences at every full stop. Counted are distinct words: those on a longest common subsequence
    of some sentence of each text, against all of either text. Nothing is lower-cased or stripped.
    """
    theirs, ours = ([" ".join(s.split()).split(" ") for s in text.split(".") if s] for text in (reference, prediction))
    if not theirs or not ours:
        return Overlap(0.0, 0.0, 0.0)
    shared = {word for a in theirs for b in ours for word in common_subsequence(a, b)}
    precision = len(shared) / len({word for sentence in ours for word in sentence})
    recall = len(shared) / len({word for sentence in theirs for word in sentence})
    return Overlap(precision, recall, 2 * precision * recall / (precision + recall + 1e-8))


def rouge_l(prediction: str, reference: str) -> float:
    """F of ``rouge_l_words``."""
    return rouge_l_words(prediction, reference).f


def rouge_l_zh(prediction: str, reference: str) -> float:
    """F of ``rouge_l_words`` over the words that jieba finds."""
    return rouge_l(" ".join(words_zh(prediction)), " ".join(words_zh(reference)))


def rouge(prediction: str, reference: str, kind: str, stem: bool = False) -> float:
    """F of Google's ``rouge-score``.

    Args:
        prediction: generated text.
        reference: the expected one.
        kind: "rouge1", "rouge2", "rougeL" or "rougeLsum" (sentences are lines).
        stem: whether words are reduced by Porter's stemmer first.

    Raises:
        UserError: if rouge-score is not installed.
    """
    return float(_rouge_scorer(kind, stem).score(target=reference, prediction=prediction)[kind].fmeasure)


@cache
def _rouge_scorer(kind: str, stem: bool) -> Any:
    return needs("rouge_score.rouge_scorer").RougeScorer([kind], use_stemmer=stem)


def words_zh(text: str) -> list[str]:
    """Chinese words.

    Raises:
        UserError: if jieba is not installed.
    """
    return list(needs("jieba").cut(text, cut_all=False))


def stemmed_f1(prediction: str, reference: str) -> float:
    """F1 of words without commas, articles and "and", reduced by Porter's stemmer (LoCoMo).

    Raises:
        UserError: if nltk is not installed.
    """
    stem = _stemmer().stem
    words = [
        [stem(word) for word in re.sub(r"\b(a|an|the|and)\b", " ", text.lower().translate(_NO_PUNCTUATION)).split()]
        for text in (prediction, reference)
    ]
    return token_f1(*words)


@cache
def _stemmer() -> Any:
    return needs("nltk.stem").PorterStemmer()


def first_integer(text: str) -> str:
    """The first run of digits; empty if there is none."""
    found = re.search(r"\d+", text)
    return found.group() if found else ""


def last_integer(text: str) -> str:
    """The last run of digits; empty if there is none."""
    return (re.findall(r"\d+", text) or [""])[-1]


def numbers(text: str) -> list[float]:
    """All numbers of a text, with their sign; a comma ends a number."""
    return [float(n) for n in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", text)]


def stated_choice(prediction: str, letters: str = "ABCD") -> str:
    """The one letter that a multiple-choice answer states; empty if it states none, or several."""
    stated = stated_choices(prediction, letters)
    return stated if len(stated) == 1 else ""


def stated_choices(prediction: str, letters: str = "ABCD") -> str:
    """The letters that a multiple-choice answer states, each once and in order; empty if it states none.

    Letters that are denied are struck out first ("not A", "A is wrong", "rather than A", "unlike A"); what follows
    them is a sentence of its own. Then what is read first counts: the last "the answer (option, choice) is X" or
    "answer: X"; the last "X is correct" or "X remains"; the last "I choose X"; the letters with which the text begins;
    the last sentence that does no more than name them ("It's X.", "Option X"); the only line that is a letter, or
    begins with one and its mark; the only "option X" or "(X)". Letters may be in brackets, quotes or bold, and several
    joined ("A, C and D", "ACD"); small ones count behind such words. A word that begins with a letter states nothing,
    nor does a letter behind a noun ("vitamin C"), nor "A or B", nor the article, nor what goes through three choices or
    more ("A. ... B. ... C. ..."). Chinese is read by the same rules.
    """
    patterns = _choice_patterns(letters)
    text = re.sub(r"[*`$]|\\(?:text|mathrm|mathbf)\{|</?\w+>|\[(?=\[)|\](?=\])", "", prediction.translate(_NARROW))
    text = re.sub(r"(?<=[一-鿿])(?=[A-Za-z(])|(?<=[A-Za-z)])(?=[一-鿿])", " ", text)
    text = re.sub(
        r"\s+", lambda space: "\n" if "\n" in space[0] else " ", text
    ).strip()  # so that nothing is read twice
    text = patterns.small.sub(lambda found: found[0].replace(found[1], found[1].upper()), text)
    text = patterns.denied.sub(lambda found: "…\n" if found["next"].strip() else "… ", text)
    for pattern in patterns.statements:
        if found := pattern.findall(text):
            return _distinct(found[-1], letters)
    listed = {_distinct(one, letters) for one in patterns.marked.findall(text)}
    if len(listed) < LISTED and (begins := patterns.group.match(text)) and patterns.end.match(text, begins.end()):
        return _distinct(begins[0], letters)
    sentences = [(_distinct(one, letters), mark) for one, mark in patterns.sentence.findall(text)]
    if len({one for one, mark in sentences if mark == ":"}) > 1:  # each is explained
        sentences = [(one, mark) for one, mark in sentences if mark != ":"]
    if sentences:
        return sentences[-1][0]
    for pattern in (patterns.alone, patterns.marked, patterns.mention):
        if len(named := {_distinct(one, letters) for one in pattern.findall(text)}) == 1:
            return named.pop()
    return ""


def named_choices(text: str, letters: str = "ABCD") -> str:
    """All letters of choices that stand alone in a text, each once and in order."""
    return _distinct(tuple(_choice_patterns(letters).group.findall(text)), letters)


class _ChoicePatterns(NamedTuple):
    """How letters of choices are stated.

    Attributes:
        group: one letter, or several joined ones.
        small: a small letter that is a choice: "option c", or in brackets where a text begins.
        denied: "not X", "X is wrong".
        statements: "the answer is X", "X is correct", "I choose X".
        sentence: one that does no more than name letters.
        end: of what names letters.
        alone: a line that is a letter.
        marked: a line that begins with a letter and its mark.
        mention: "option X" or "(X)", wherever it stands.
    """

    group: re.Pattern[str]
    small: re.Pattern[str]
    denied: re.Pattern[str]
    statements: tuple[re.Pattern[str], ...]
    sentence: re.Pattern[str]
    end: re.Pattern[str]
    alone: re.Pattern[str]
    marked: re.Pattern[str]
    mention: re.Pattern[str]


LISTED = 3  # different choices that begin lines are gone through, not stated
_LEAD = (
    "it|that|this|i|am|we|you|my|the|so|thus|hence|therefore|then|is|it['’]s|that['’]s|i['’]d|i['’]ll|let['’]s|must|be|would|"
    "will|should|say|go|with|for|choose|pick|select|think|believe|guess|probably|likely|definitely|clearly|surely|"
    "certainly|maybe|perhaps|sure|yes|ok|okay|final|correct|right|best|most|options?|choices?|letters?|answers?|both|"
    "rather|instead|actually|indeed|but|no|wait"
)
_BEFORE_SUBJECT = rf"{_LEAD}|because|since|as|while|though|although|if|only|conclude|find|see|means|says?|\w+ly"
_DENIES = (  # in front of a letter
    r"(?:\b(?:not|cannot|never|neither|nor)|n['’]t|(?<!other )\bthan|\bover|\binstead of|\bunlike|"
    r"\b(?:rul(?:e|es|ed|ing) out|(?:eliminat|exclud|reject|discard|dismiss)\w*))"
    r"(?: (?:be|been|choose|choosing|pick|select|go with|going with|opt for|"
    r"(?:think|believe|say|sure|certain|true|the case)(?: that)?"
    r"(?: it is| it['’]s| the (?:correct |right |best )?(?:answer|option|choice) is)?))?"
    r"(?: (?:the|either|both|just|simply|really|actually|necessarily|options?|choices?|letters?|answers?)){0,3}"
)
_DENIED = (  # behind a letter
    r"(?: (?:is|are|was|were|does|do|did|would|could|should|ca|wo)n['’]t\b| cannot\b| contradicts?\b|"
    r" (?:is|are|was|were|seems?|can|could|would|must)(?: be)?(?: \w+ly| both| all| also){0,2}"
    r" (?:not|never|incorrect|wrong|false|inconsistent|eliminated|excluded|ruled out|out|impossible|implausible)\b)"
)
_DENIES_ZH = "(?:不是|并非|不选|不能选|不应选|不可能是|不会是|排除)(?:选项)?"
_DENIED_ZH = "(?:选?项)?[都均]?是?(?:不[正对符是]|错)"


@cache
def _choice_patterns(letters: str) -> _ChoicePatterns:
    # letters, alone and joined
    article = (
        r"\s+(?!(?:and|or|nor|is|isn|are|was|wasn|can|cannot|could|does|doesn|seems|must be|would|remains|fits|matches|"
        r"contradicts|over|rather than|instead of|because|since|as|but|which|so|for|with)\b)[a-z]"
    )
    letter = rf"(?:A(?!{article})|[{letters.replace('A', '')}])" if "A" in letters else f"[{letters}]"
    one = rf"(?<![\w'])[(\[{{\"'“‘]?{letter}(?!\w|['’]\w)[)\]}}\"'”’]?"
    run = rf"(?<![\w'])[(\[]?[{letters}]{{2,}}(?!\w)[)\]]?"
    group = rf"(?:{run}|{one}(?:(?:\s*,\s*and\s+|\s+and\s+|\s*[,&/;+]\s*){one}){{0,{len(letters) - 1}}})"
    small = rf"[(\[][{letters.lower()}][)\]]|[{letters.lower()}](?=[.,;:!)]|\s*$)"
    either = rf"(?:{one}(?:\s?[,/]\s?{one}){{0,{len(letters)}}},?\s(?:and|n?or)\s(?i:options?\s)?{one}|{one})"
    listed = rf"{one}(?:,?\s(?:(?:and|n?or)\s)?{one}){{0,{len(letters)}}}"
    alone = rf"(?!,?\s(?:or\b|and\s{one})|\s?[,/]\s?{one}|\s?(?:还是|或))"
    end = r"(?:(?<=[)\]])|\s*(?:[.,;:!)–…-]|$|\n)|\s+(?:because|since|as)\b)"
    # what denies them
    before = (
        rf"(?:(?i:{_DENIES})\s{either}|(?i:\bnone of)\s{listed}|{_DENIES_ZH}\s?{either})"
        r"(?:\s(?i:is|are)\s(?:the\s)?(?:right|correct|true|answer)\b)?"
    )
    are = r"(?i:are|were|can|could|would|must|do|did|seem)\b"
    behind = (
        rf"(?:{either}(?=\s{are})|{listed}(?=\s?[都均])|{one})(?:(?i:{_DENIED})|\s?{_DENIED_ZH})"
        rf"(?:[^.,;:\n{letters}]{{0,60}}(?=[,;]))?"
    )
    then = r"(?:(?i:but|so|and|hence|thus|therefore|then)\b|而?应?该?是)"
    # what states them
    verb = r"(?:\s+(?i:is|are|(?:would|should|must|will|could)(?:\s\w+){0,2}\sbe)\b|\s*[:=–-])\s*[:–-]?\s*"
    filler = r"(?:(?i:the|simply|just|clearly|likely|most|definitely|both|options?|choices?|letters?)\s*:?\s+)*"
    about = r"(?:\s+(?i:to|for|of|in|from|here|that|which)\b[^.:\n]{0,80}?)?"
    subject = r"\b(?i:answers?|option|choice|letter|(?:correct|right|best|true)\s(?:options|choices|letters))"
    right = r"(?:the\s+)?(?:(?!not\b)\w+\s+)?(?:correct|right|best|true|answer|answers|most|only|closest)\b"
    is_right = (
        rf"(?:\s(?i:is|are|seems|must be|would be)\s(?i:{right})|\s?(?:选?项)?[都均]?是?(?:正确|对的|答案)|"
        r"\s(?:remains|(?:is|are) left|(?:fits?|match(?:es)?) best)\b)"
    )
    one_is = rf"(?={letter}\s(?:is|remains|fits|matches)\b)"
    begins = (
        rf"(?:^|(?<![{letters}]),\s?|,\s?{one_is}|[^\w\s,]\s?|\b(?i:{_BEFORE_SUBJECT})\s|"
        rf"(?:^|(?<![{letters})])\s)[Aa]nd\s|(?<=[为以此故])\s)(?:选项\s)?"
    )
    choose = (
        r"(?:(?:I|[Ww]e)(?:['’]\w+)?(?:\s\w+){0,2}?\s"
        r"(?:choose|chose|pick(?:ed)?|select(?:ed)?|opt for|(?:go|went|going) with)|"
        r"leav(?:es|ing)(?:\sus)?(?:\swith)?(?:\sonly)?)"
    )
    choose_zh = r"(?:答案|正确选项|选(?!项)择?)(?:应该|应当|应|就)?[是为选]?\s?:?\s?(?:选项\s?)?"
    return _ChoicePatterns(
        re.compile(group),
        re.compile(
            rf"(?:\b(?i:option|choice|letter)\s[(\[]?|\A[(\[](?=\w[)\]]))([{letters.lower()}])(?!\w|['’]|(?<=a)\s[a-z])"
        ),
        re.compile(rf"(?:{before}|{behind})(?P<next>(?:[ ,;:–-]{{0,3}}{then}){{0,2}}[ ,;:–-]{{0,3}})"),
        (
            re.compile(rf"(?:{subject}{about}{verb}{filler}|\\boxed\{{(?:\\text\{{)?)({group}|{small}){alone}"),
            re.compile(rf"{begins}({group}){is_right}", re.MULTILINE),
            re.compile(rf"\b{choose}\s{filler}({group}(?={end})|{small}){alone}"),
            re.compile(rf"{choose_zh}({group}){alone}"),
        ),
        re.compile(rf"(?:^|[.!?\n])\s*(?:(?i:{_LEAD}|and)[\s,:–-]+)+({group}){alone}(?={end})(:?)"),
        re.compile(end),
        re.compile(rf"^\s*({one})[).]?\s*$", re.MULTILINE),
        re.compile(rf"^\s*({one})(?<=[)\]])\s|^\s*({one})[).:]\s", re.MULTILINE),
        re.compile(rf"(?:\b(?i:option|choice|answer|letter)|选项)\s+({one}){alone}|([(\[]{letter}[)\]])"),
    )


def _distinct(found: str | tuple[str, ...], letters: str) -> str:
    """The letters in what a pattern found."""
    found = found if isinstance(found, str) else " ".join(found)
    return "".join(sorted(set("".join(re.findall(rf"(?<!\w)[{letters}]+(?!\w)", found.upper())))))
