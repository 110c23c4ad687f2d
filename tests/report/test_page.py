"""Pages of every kind: each number is explained, each link leads somewhere, and phones and paper hold them."""

from __future__ import annotations

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ropewalk.common.errors import UserError
from ropewalk.fitting.fitting_page import page_of_fit
from ropewalk.planning.plan_page import page_of_plan
from ropewalk.planning.planner import plan
from ropewalk.report.experiment_page import page_of_results
from ropewalk.report.glossary import MEANINGS
from ropewalk.report.page import Cell, Column, Facts, Folded, Item, Page, Section, Table, address, facts, with_numbers
from ropewalk.report.schema import Results
from ropewalk.training.training_page import page_of_training
from tests.browser import PROGRAM, Browser
from tests.fitting.test_fitting_page import made as made_fit
from tests.report.conftest import cut, make_results
from tests.training.test_training_page import trained

KINDS = ("twelve methods", "one length", "one method", "losses of one text", "long names", "fit", "training", "plan")
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


class Tree(HTMLParser):
    """A page as elements."""

    def __init__(self, text: str):
        super().__init__()
        self.builder = ElementTree.TreeBuilder()
        self.feed(text)
        self.close()
        self.root = self.builder.close()
        self.parent = {child: parent for parent in self.root.iter() for child in parent}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag == "meta":
            self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.builder.data(data)

    def is_in(self, one: ElementTree.Element, name: str) -> bool:
        above = self.parent.get(one)
        return above is not None and (name in (above.get("class") or "").split() or self.is_in(above, name))


def made(kind: str) -> Page:
    if kind == "fit":
        return page_of_fit(made_fit())
    if kind == "training":
        return page_of_training(trained(memory=1 << 30))
    if kind == "plan":
        return page_of_plan(plan("demo", 4096))
    raw = make_results()
    if kind == "one length":
        raw = cut(raw, lengths=[4096])
    elif kind == "one method":
        raw = cut(raw, methods=["yarn"])
        controls = {name: {"value": 0.5} for name in ("ceiling", "closed book", "altered", "guess")}
        read = [{"length": 4096, "n": 9, "strict": {"value": 0.4, "low": 0.3, "high": 0.5}, "taken": {"another": 2}}]
        one = {"task": "niah", "controls": controls, "effective_length": {"value": 512}, "readings": read}
        raw["subjects"][0] |= {"tasks": [one], "area": {"value": 0.7, "low": 0.6, "high": 0.8}}
        raw["subjects"][0]["averages"][-1]["harmonic"] = {"value": 0.3, "low": 0.2, "high": 0.4}
    elif kind == "losses of one text":
        raw = cut(raw, methods=["none", "yarn", "pi"], tasks=["ppl"], lengths=[4096])
        for one in [*raw["rows"], *(subject["perplexity_at_to"] for subject in raw["subjects"])]:
            one |= {"low": None, "high": None, "n": 1}
        for subject in raw["subjects"]:
            del subject["averages"], subject["effective_length"]
            subject["short_tax"] = []
    elif kind == "long names":
        raw["models"][0]["facts"]["type"] = "x" * 90
        for subject in raw["subjects"]:
            subject["title"] += f" (fitted='{'f' * 60}', attention_factor=1.13)"
    return page_of_results(Results.of(raw))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for kind in KINDS:
        found[kind] = folder / f"{kind}.html"
        made(kind).write(found[kind])
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if PROGRAM is None:
        pytest.skip("Chromium is not installed")
    one = Browser()
    yield one
    one.close()


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_explained_and_every_link_leads_somewhere(kind: str, pages: dict[str, Path]) -> None:
    tree = Tree(pages[kind].read_text("utf-8"))
    places = {one.get("id") for one in tree.root.iter() if one.get("id")}
    assert len(places) == sum(one.get("id") is not None for one in tree.root.iter())
    for link in tree.root.iter("a"):
        where = link.get("href") or ""
        assert where[1:] in places if where.startswith("#") else where.startswith("https://"), where
        assert link.get("class") != "term" or link.get("title") in MEANINGS.values()
    (headline,) = tree.root.iter("h1")
    assert len("".join(headline.itertext())) > 20
    tables = list(tree.root.iter("table"))
    assert tables
    for table in tables:
        assert tree.is_in(table, "scroll")
        heads = list(table[0].iter("th"))
        for row in table[1].iter("tr"):
            name, *cells = row
            assert name.tag == "th" and len(row) == len(heads) and "".join(name.itertext()).strip()
            for cell, head in zip(cells, heads[1:], strict=True):
                assert cell.get("data-heading")
                explained = [one.tag for one in head.iter() if one.tag in ("a", "small")]
                assert explained or cell.get("class") == "words", "".join(head.itertext())
    for drawing in tree.root.iter("svg"):
        assert drawing.get("aria-hidden") or drawing.find("title") is not None


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wider_than_a_phone_or_a_sheet(kind: str, pages: dict[str, Path], browser: Browser) -> None:
    beyond = "[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > innerWidth + 1)"
    browser.open(pages[kind], 400)
    browser.value("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert browser.value("document.documentElement.scrollWidth") == 400
    assert browser.value(f"{beyond}.map((e) => e.outerHTML.slice(0, 80)).join()") == ""
    browser.open(pages[kind], 700, "print", "dark")  # A4 with margins
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value("[...document.querySelectorAll('details')].every((one) => one.open)")
    assert browser.value("document.documentElement.scrollWidth") <= 700


def test_dark_screens_are_dark_and_paper_never_is(pages: dict[str, Path], browser: Browser) -> None:
    def colours(*how: str) -> tuple[str, str]:
        browser.open(pages["twelve methods"], 1280, *how)
        line = "getComputedStyle(document.querySelector('.chart .lead1 .line')).stroke"
        return browser.value("getComputedStyle(document.body).color"), browser.value(line)

    light, dark, paper = colours("screen", "light"), colours("screen", "dark"), colours("print", "dark")
    assert paper == light and all(a != b for a, b in zip(light, dark, strict=True))


def test_nothing_that_is_said_is_markup() -> None:
    table = Table(EVIL, [Column(EVIL, unit=EVIL)], [(Item(EVIL, EVIL, key=EVIL), [Cell(EVIL, EVIL)])], EVIL)
    blocks = [table, Facts([(EVIL, EVIL)]), Folded(EVIL, [table])]
    text = Page(EVIL, EVIL, EVIL, [EVIL], command=EVIL, sections=[Section(EVIL, EVIL, blocks)]).render()
    assert "<img" not in text and text.count("<script") == 1
    page = page_of_fit(made_fit())
    assert EVIL not in Page(**{**vars(page), "subject": EVIL}).render()


def test_only_words_that_are_used_are_explained_and_all_that_are() -> None:
    table = Table("x", [Column("a", "short-text tax")], [])
    page = Page("t", "s", "h", sections=[Section("", "", [Folded("more", [table])], ["interval"])])
    words = [one.text for one in Tree(page.render()).root.iter("dt")]
    assert words == ["Interval", "Short-text tax"]
    with pytest.raises(KeyError):
        _ = MEANINGS["no such word"]


def test_every_word_of_the_glossary_is_on_some_page(pages: dict[str, Path]) -> None:
    written = "".join(path.read_text("utf-8") for path in pages.values())
    said = {"points", "receptive field"}  # of benchmarks of real texts and of the lab, which none of these pages is of
    assert [word for word in MEANINGS if f'id="word-{word.replace(" ", "-")}"' not in written] == sorted(said)


def test_a_table_too_wide_for_paper_is_turned() -> None:
    columns = [Column(str(n), unit="tokens") for n in range(9)]
    wide = Table.of("Method", columns, [["A", *"012345678"], ["B", *"abcdefghi"]])
    (turned,) = with_numbers([], wide, "score")
    assert isinstance(turned, Table)
    assert [column.heading for column in turned.columns] == ["A", "B"] and len(turned.rows) == 9
    item, cells = turned.rows[3]
    assert item.title == "3 tokens" and [cell.text for cell in cells] == ["3", "d"]
    assert with_numbers([], Table.of("Method", columns[:6], []), "score") == []


@pytest.mark.parametrize(
    ("paper", "where"),
    [
        ("2309.00071", "https://arxiv.org/abs/2309.00071"), ("kexue.fm/archives/9708", "https://kexue.fm/archives/9708"),
        ("javascript:alert(3)", ""), ("", ""), ("a book", ""), ("x.y/z' onclick='", ""),
    ],
)  # fmt: skip
def test_a_paper_has_an_address_only_if_it_is_one(paper: str, where: str) -> None:
    assert address(paper) == where


def test_settings_that_say_nothing_are_left_out() -> None:
    given: dict[str, Any] = {"a": None, "b": [], "c": 0, "d": ["x", 1], "e": {"f": 2, "g": ""}}
    assert facts(given).facts == [("c", "0"), ("d", "x, 1"), ("e", "f 2")]


def test_only_pages_are_replaced_and_only_if_that_is_said(tmp_path: Path) -> None:
    page, path = Page("t", "s", "h"), tmp_path / "a.html"
    page.write(path)
    with pytest.raises(UserError, match="exists already"):
        page.write(path)
    page.write(path, overwrite=True)
    path.write_text("<title>mine</title>")
    with pytest.raises(UserError, match="did not write it"):
        page.write(path, overwrite=True)
