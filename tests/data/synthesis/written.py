"""Rows that a stand-in for an engine writes, made as the verb makes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ropewalk
from ropewalk.backends.chat.answering import Engine
from ropewalk.data.arranged import Arranged
from ropewalk.data.making import Made, Texts, make_rows
from ropewalk.data.synthesis.syntheses import synthesis, synthesis_class
from tests.talkers import Talker, engine

TOKENIZER: Any = ropewalk.load("demo")[1]


def talker(say: Any, **more: Any) -> Talker:
    """A stand-in that counts with the demo's tokenizer."""
    return Talker(say, tokenizer=TOKENIZER, **more)


def write(
    kind: str,
    texts: Path,
    out: Path,
    asked: Talker | Engine,
    length: int,
    seed: int = 0,
    tokenizer: Any = TOKENIZER,
    **options: Any,
) -> tuple[Made, Arranged, Engine]:
    """Rows of a kind, written by a stand-in."""
    some = engine(asked) if isinstance(asked, Talker) else asked
    made = synthesis(synthesis_class(kind, engine=True), options, some)
    source = Texts(str(texts), tokenizer, "demo")
    told = make_rows(source, made, kind, options, length, False, seed, out, False, lambda *_: None, some)
    return told, Arranged.open(out), some


def passages(prompt: str) -> list[str]:
    """Those that a prompt shows."""
    shown = prompt[: prompt.index("\n\nWrite one question")]
    return [one.strip() for one in re.split(r"^Passage(?: \d+)?:\n", shown, flags=re.MULTILINE)[1:]]


def text_of(arranged: Arranged, row: int, learnt: bool) -> str:
    """What is learnt of a row, but for the token that ends it, or what is not learnt."""
    ids, _, _, weights = arranged.row(row)
    assert ids[-1] == TOKENIZER.eos_token_id and weights[-1] == 1 and TOKENIZER.eos_token_id not in ids[:-1]
    return str(TOKENIZER.decode(ids[:-1][(weights[:-1] > 0) == learnt].tolist()))


def content(folder: Path) -> dict[str, bytes]:
    """All but what tells times."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "ropewalk.json"}
