"""The page of a search: what it says, the options that it prints, and what picks a point of the front."""

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from ropewalk import UserError, method
from ropewalk.common.fingerprints import model_fingerprint
from ropewalk.evaluation.contestants import title
from ropewalk.fitting.fitter import Ground, fitting
from ropewalk.fitting.fitting_page import has_page, page_of, page_of_fit, write
from ropewalk.fitting.searching import GRADIENTS, LONG, OTHER_TEXTS, SHARE, SHORT, TOKENS
from ropewalk.methods.fit_file import DOCUMENTS, DOUBT, LIMIT, SHORT_OTHERS, VERSUS, Fit
from ropewalk.report.page import Page
from ropewalk.rope.live import decoder
from tests.models import shared, tiny
from tests.tokenizers import VOCABULARY, byte_level

TAXES, PERPLEXITIES = (0.998, 1.0041, 1.00412, 1.05, 2.5), (20.0, 19.5, 19.1, 19.05, 18.0)


def factors(i: int) -> tuple[float, ...]:
    return tuple(1.0 + (1 + i) * pair / 8 for pair in range(8))


def options(i: int) -> dict:
    return {"factors": factors(i), "attention_factor": 1.0 + i / 10}


def made(chosen: int = 4, **seen) -> Fit:
    whole = [{"perplexity": p, "tax": t} for t, p in zip(TAXES, PERPLEXITIES, strict=True)]
    front = [{"options": options(i), **one} for i, one in enumerate(whole)]
    course = [
        {"texts": 1, "perplexity": 90.0, "name": "pi", "tax": 3.0},
        {"texts": 4, "perplexity": 20.4, "name": "yarn", "tax": 1.01},
        {"texts": 2, "perplexity": 20.2},
        *({"texts": 4, **one} for one in whole),
    ]
    pairs = [
        {"wavelength": 7.0 * 3.0**i, "pi": 4.0, "ntk-aware": 1 + 3 * i / 7, "yarn": min(4.0, 1.0 + i)} for i in range(8)
    ]
    return Fit(
        method="longrope", found=options(chosen), options={}, beside={}, to=256,
        model={"name": "tiny", "fingerprint": model_fingerprint(shared("llama"))},
        data={"source": "topics", "texts": 4, "tokens": 1024, "hash": "0" * 64},
        settings={"by": "perplexity", "tax": None, "seed": 7},
        seen={
            "window": 64, "candidates": 8, "of them dropped early": 2, TOKENS: 7000,
            SHARE: 0.854, LONG["perplexity"]: PERPLEXITIES[chosen],
            SHORT: TAXES[chosen],
            OTHER_TEXTS: 4,
            DOCUMENTS: 2,
            VERSUS: {
                "pi": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 4},
                "yarn": {"value": 0.97, "low": 0.93, "high": 1.02, "n": 4},
            },
            "front": front, "course": course, "pairs": pairs, **seen,
        },
        ropewalk="0.1.0",
    )  # fmt: skip


@pytest.fixture
def file(tmp_path):
    made().written(path := tmp_path / "factors.json")
    return path


def rendered(fit):
    return page_of_fit(fit).render()


def text_of(page: str) -> str:
    return " ".join(page.split())


def test_the_settings_are_those_that_say_something():
    def told(**more):
        fit = replace(made(), settings={**made().settings, "space": "descent", "knots": 6, "front": True, **more})
        return dict(page_of_fit(fit).sections[-1].blocks[0].facts)

    wide, limited = told(batch=3, rounds=0), told(tax=0.01, rounds=4)
    assert wide["batch"] == "3" and "front" in wide and not {"knots", "rounds"} & wide.keys()
    assert limited["rounds"] == "4" and "front" not in limited


def test_what_gradients_took_is_said():
    fit = made(**{GRADIENTS: 6000})
    del fit.seen[SHARE]
    assert "They read 7,000 tokens, 6,000 of them for gradients" in text_of(rendered(fit))


def test_it_says_what_was_found_against_the_best_of_the_others_and_how_sure_it_is(file):
    page = text_of(rendered(Fit.read(file)))
    for said in (
        "LongRoPE as fitted reads far tokens of other texts not surely better or worse than YaRN: its perplexity is "
        "3.0% lower than YaRN’s (−7.0% to +2.0%).", "The other texts, 4 of 2 documents, were not searched on",
        "It is 1/5.00 of Position Interpolation’s (1/10.0 to 1/3.33)", "Against YaRN nothing is sure",
        "<dd>18.00<small>on the texts that were searched on", "<dd>+150%<small>against the plain model, the first 64",
        "8 candidates were tried on 4 texts of 256 tokens. They read 7,000 tokens, 85% of what",
        "1 after 1 of 4 texts, 1 after 2 of 4 texts; 6 read all",
        "Far off: Position Interpolation (+200% on short texts, 90.00 on long ones, by 1 of 4 texts, after which",
        "window 64", "<dt>seed</dt><dd>7</dd>",
    ):  # fmt: skip
        assert said in page, said
    assert f"ropewalk extend tiny --to 256 --method &#39;longrope(fitted={file})&#39;" in page
    assert "It is surely worse than" not in page


@pytest.mark.parametrize(
    ("high", "said"), [(0.99, "surely better than YaRN"), (1.02, "not surely better or worse than YaRN")]
)
def test_it_is_better_only_where_the_interval_says_so(high, said):
    versus = {"yarn": {"value": 0.95, "low": 0.9, "high": high, "n": 4}}
    assert said in page_of_fit(made(**{VERSUS: versus})).headline
    turned = {"yarn": {"value": 1.1, "low": 1.01, "high": 1.2, "n": 4}}
    page = page_of_fit(made(**{VERSUS: turned}))
    assert "surely worse than YaRN: its perplexity is 10.0% higher" in page.headline
    assert "It is surely worse than YaRN." in page.notes[0]


def over(limit: str, other: float, **seen) -> Fit:
    """A fit under a limit of 10 %, of which other texts say something else."""
    front = made(3).seen["front"][:4]
    front[2] |= {"other": other}
    front[3] |= {"other": 1.14}
    short = {"none": {"value": 1.14 if limit == "over" else 1.06, "low": 0.99, "high": 1.2, "n": 2}}
    fit = made(3, **{"front": front, SHORT_OTHERS: short, LIMIT: limit, **seen})
    return replace(fit, settings=fit.settings | {"tax": 0.1})


def test_a_limit_that_other_texts_break_is_said_first_with_what_keeps_it_there(tmp_path):
    fit = over("over", 1.07).written(tmp_path / "f.json")
    said = "hort texts that were not searched on are read 14% worse than by the plain model, over the limit of 10%; "
    keeps = f"longrope(fitted={fit.path}, tax=0.01) keeps it there"
    page, shown = page_of_fit(fit), repr(fit)
    assert page.headline.startswith(f"S{said}{keeps}. LongRoPE as fitted reads")
    assert f"s{said}{keeps}" in shown and shown.index(said) < shown.index("it is not surely better than yarn")
    assert method(f"longrope(fitted={fit.path}, tax=0.01)").factors == factors(2)
    nobody = over("over", 1.2).written(tmp_path / "g.json")
    assert "over the limit of 10%; nothing that was found keeps it there" in repr(nobody)


def test_a_limit_that_is_not_surely_kept_is_said_to_be_so():
    fit = over("not surely kept", 1.07)
    said = "he limit of 10% to the tax is not surely kept: short texts that were not searched on are read 6% worse"
    assert f"t{said} than by the plain model, up to +20% by their interval" in repr(fit)
    assert page_of_fit(fit).notes[0].startswith(f"T{said}") and page_of_fit(fit).headline.startswith("LongRoPE")
    assert "limit" not in repr(made()) and not over("kept", 1.0).limit


def test_pieces_of_one_document_make_nothing_sure():
    versus = {"yarn": {"value": 0.95, "low": 0.9, "high": 0.99, "n": 4}}
    one, two = (made(**{VERSUS: versus, DOCUMENTS: documents}) for documents in (1, 2))
    assert "it is better than yarn" in repr(two) and "surely better than YaRN" in page_of_fit(two).headline
    assert "it is not surely better than yarn" in repr(one) and "pieces of one document" in repr(one)
    assert "not surely better or worse than YaRN" in page_of_fit(one).headline
    assert "more documents tell" in page_of_fit(one).notes[0]


def test_one_text_is_a_text():
    fit = made()
    page = page_of_fit(replace(fit, data=fit.data | {"texts": 1, "tokens": 256}))
    assert "were tried on 1 text of 256 tokens" in page.notes[-1]


def test_fresh_or_read_from_its_file_the_page_is_the_same(file):
    assert rendered(replace(made(), path=str(file))) == rendered(Fit.read(file))


def test_its_drawings_are_well_formed_and_show_every_candidate_that_read_all(file):
    drawings = [part.partition("</svg>")[0] for part in rendered(Fit.read(file)).split("<svg ")[1:]]
    front, *others = [ElementTree.fromstring(f"<svg {one}</svg>") for one in drawings if "chart wide" in one]
    assert len(others) == 2
    titles = [one.text for one in front.iter("title")]
    assert sum(title.startswith("tried: ") for title in titles) == len(TAXES)
    assert sum(title.startswith("front: ") for title in titles) == len(TAXES)
    assert "found: +150% on short texts, 18.00 on long ones" in titles
    assert [title for title in titles if title.startswith("YaRN: ")] == ["YaRN: +1% on short texts, 20.40 on long ones"]


@pytest.mark.parametrize("i", range(len(TAXES)))
def test_every_printed_option_picks_its_point_and_the_model_gets_its_factors(i, file):
    fit = Fit.read(file)
    tax = fit.picking(fit.seen["front"][i])
    assert f"tax={tax}" in rendered(fit) and len(str(tax)) < 8
    chosen = method(f"longrope(fitted={file}, tax={tax})")
    assert chosen.factors == factors(i) and chosen.attention_factor == 1 + i / 10
    assert method(chosen.spelling) == chosen and f"tax={tax}" in chosen.spelling
    model = shared("llama")
    rope = decoder(model).rotary_emb
    plain = rope.inv_freq.clone()
    with chosen.on(model, to=256):
        assert (plain / rope.inv_freq).tolist() == pytest.approx(factors(i)) and rope.attention_scaling == 1 + i / 10
    assert (rope.inv_freq == plain).all()


def test_without_a_tax_it_is_what_was_found_and_ids_tell_points_apart(file):
    assert method(f"longrope(fitted={file})").factors == factors(4)
    ids = {method(f"longrope(fitted={file}, tax={tax})").id for tax in (0, 0.0041, 0.005, 0.1, 1.6)}
    assert len(ids) == 5 and method(f"longrope(fitted={file}, tax=1.6)").id == method(f"longrope(fitted={file})").id


@pytest.mark.parametrize(
    ("spelling", "message"),
    [
        ("longrope(fitted={}, tax=-0.01)", r"keeps tax=-0.01: the least there is -0.002\nSay tax=-0.002, or more"),
        ("longrope(fitted={}, tax=nan)", "tax is nan, expected a share"),
        ("longrope(fitted={}, tax=true)", "tax is True, expected a share"),
        ("longrope(fitted={}, tax='1%')", "tax is '1%', expected a share"),
        ("longrope(tax=0.01)", r"no file is named\nSay longrope\(fitted=FILE, tax=0.01\)"),
        ("longrope(fitted={}, tax=0.05, attention_factor=1.4)", "attention_factor = 1.3, not 1.4"),
        ("pi(tax=0.01)", "pi has no option 'tax'"),
    ],
)
def test_what_picks_nothing_is_refused(spelling, message, file):
    with pytest.raises(UserError, match=message):
        method(spelling.format(file))


@pytest.mark.parametrize(
    "front",
    [
        [], {}, "front", [3], [{"perplexity": 1.0, "tax": 1.0}],
        [{"options": {"factors": ["x"]}, "perplexity": 1, "tax": 1}],
        [{"options": options(0), "perplexity": 1.0, "tax": "low"}], [{"options": options(0), "tax": 1.0}],
        [{"options": options(0), "perplexity": 1.0, "tax": math.nan}],
    ],
)  # fmt: skip
def test_a_front_that_was_edited_is_refused(front, file):
    content = json.loads(file.read_text())
    content["seen"]["front"] = front
    file.write_text(json.dumps(content))
    assert method(f"longrope(fitted={file})").factors == factors(4)
    with pytest.raises(UserError, match=r"its front is .* expected options, perplexity and tax of each"):
        method(f"longrope(fitted={file}, tax=9)")


@pytest.mark.parametrize("found", [{}, {"factors": [1.0] * 8, "base": 3.0}])
def test_edited_options_meet_the_checks_of_every_file(found, file):
    content = json.loads(file.read_text())
    content["seen"]["front"] = [{"options": found, "perplexity": 1.0, "tax": 1.0}]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="do not agree on the option"):
        method(f"longrope(fitted={file}, tax=0)")


def test_a_file_without_a_front_picks_nothing(file):
    content = json.loads(file.read_text())
    del content["seen"]["front"]
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no front"):
        method(f"longrope(fitted={file}, tax=0.01)")


def test_a_search_under_a_limit_tells_who_read_nothing(file):
    fit = made(chosen=2)
    fit.settings["tax"] = 0.01
    fit.seen["course"].insert(0, {"texts": 0, "tax": 1.7})
    page = text_of(rendered(replace(fit, path=str(file))))
    assert "1 tax short texts more than +1%, and read nothing else" in page
    assert "tax=0.01, as found" in page


def test_one_point_alone_and_no_other_texts(file):
    fit = made(front=made().seen["front"][:1], course=[], candidates=1)
    del fit.seen[VERSUS]
    page = text_of(rendered(replace(fit, path=str(file))))
    assert (
        "there were no other texts to check it on" in page
        and "tax=0, as found" not in page
        and "The search" not in page
    )


def test_names_are_no_markup(file):
    fit = replace(made(), model={"name": "<b>x", "fingerprint": "0"}, path="<i>.json")
    assert "<b>" not in rendered(fit) and "<i>" not in rendered(fit)


def test_a_file_of_many_candidates_stays_small(tmp_path):
    course = [{"texts": 1, "perplexity": 20.123456789012345 + i} for i in range(280)]
    course += [{"texts": 8, "perplexity": 20.123456789012345 + i, "tax": 1.0123456789012345} for i in range(20)]
    front = [
        {"options": {"factors": tuple(1.2345678901234567 + i for i in range(64))}, "perplexity": 1.1, "tax": 1.0}
    ] * 12
    pairs = [{name: 1.2345678901234567 for name in ("wavelength", "pi", "ntk-aware", "yarn")}] * 64
    made(course=course, front=front, pairs=pairs).written(tmp_path / "many.json")
    assert (tmp_path / "many.json").stat().st_size < 100_000


@pytest.mark.parametrize(
    ("file", "page"), [("a/f.json", "a/f.html"), ("f", "f.html"), ("f.html", "f.html.html"), ("f.v2", "f.v2.html")]
)
def test_the_page_lies_beside_the_file_and_is_never_the_file(file, page, tmp_path):
    assert page_of(tmp_path / file) == tmp_path / page


def test_only_what_is_searched_has_a_page():
    assert has_page(method("longrope")) and has_page(method("yarn")) and not has_page(method("tca"))
    assert has_page(method("resonance+longrope"))


def test_only_pages_are_replaced_and_only_if_that_is_said(file, tmp_path):
    fit, page = Fit.read(file), tmp_path / "factors.html"
    file.unlink()
    written = write(fit, page_of_fit, file)
    assert written.page == str(page) and Fit.read(file) == fit and str(file) in page.read_text()
    with pytest.raises(UserError, match="exists already"):
        write(fit, page_of_fit, file)
    write(fit, page_of_fit, file, overwrite=True)
    page.write_text("<title>mine</title>")
    with pytest.raises(UserError, match="did not write it"):
        write(fit, page_of_fit, file, overwrite=True)
    assert page.read_text() == "<title>mine</title>"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["factors.html", "factors.json"]


@pytest.mark.parametrize("failing", ["the page", "the file"])
def test_the_page_and_the_file_are_written_both_or_none(failing, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((Page, "render", full) if failing == "the page" else (json, "dumps", full)))
    with pytest.raises((UserError, OSError), match="No space left"):
        write(made(), page_of_fit, tmp_path / "new" / "factors.json")
    assert not list(tmp_path.iterdir())


def test_a_report_names_points_of_a_front_as_the_user_did(file):
    for tax in (0, 0.01):
        said = f"longrope(fitted={file}, tax={tax})"
        assert title(method(said)) == f"LongRoPE (fitted='{file}', tax={tax})"
        assert title(method(f"{said}+log-n")) == f"LongRoPE + Log-n scaling (fitted='{file}', tax={tax})"


def test_a_whole_number_stays_one_and_a_doubt_is_said(tmp_path):
    found = {"window": 48}
    front = [{"options": found, "perplexity": 20.0, "tax": 1.0}]
    fit = made(front=front, course=[])
    del fit.seen["pairs"]
    one = replace(fit, method="self-extend", found=found, path="x.json")
    assert "<dt>window</dt><dd>48</dd>" in text_of(rendered(one)) and "hardly" not in text_of(rendered(one))
    assert "trained window: 64" in repr(one) and "found window: 48" in repr(one) and "hardly" not in repr(one)
    rivals = {"self-extend(group=8)": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 4}}
    beside = replace(one, options={"group": 8}, seen={**one.seen, VERSUS: rivals})
    assert "Against SelfExtend (group=8) as it is" in text_of(rendered(beside)), "it has a blank to break at"
    one.seen[DOUBT] = "that it forgets"
    assert "What losses hardly tell: that it forgets." in text_of(rendered(one))
    assert "what losses hardly tell: that it forgets\n" in repr(one)


def test_a_search_has_all_that_its_page_says(tmp_path):
    model = tiny("llama", vocab_size=VOCABULARY)
    texts = {str(i): " ".join(str((7 * i + 11) * n * n % 1009) for n in range(200)) for i in range(8)}
    ground = Ground.of(model, byte_level(), texts, to=256, samples=2)
    found = fitting(method("longrope"), "rounds=1")(ground)
    written = found.written(tmp_path / "factors.json")
    assert [one["name"] for one in written.seen["course"] if "name" in one]
    assert len(written.seen["course"]) == written.seen["candidates"] and len(written.seen["pairs"]) == 8
    for one in written.seen["course"]:
        if one["texts"] == written.data["texts"]:
            assert one["perplexity"] >= written.seen[LONG["perplexity"]] * (1 - 1e-9)
    for one in written.seen["front"]:
        tax = written.picking(one)
        chosen = method(f"longrope(fitted={written.path}, tax={tax})")
        assert chosen.factors == one["options"]["factors"]
        with chosen.on(model, to=256):
            pass
    page = text_of(rendered(written))
    assert "Position Interpolation" in page and "The search" in page and "The factors" in page
