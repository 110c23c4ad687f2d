"""Texts counted while they are tokenised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from ropewalk.common.progress import Progress
from ropewalk.data.arranged import Arranged, is_arranged
from ropewalk.data.arrangement import Ints
from ropewalk.data.making import Texts
from ropewalk.data.mixing.domain import domain_of
from ropewalk.data.near_duplicates import near_duplicates
from ropewalk.data.survey import Scripts, Survey, by_length, quantiles
from ropewalk.data.survey_page import page_of_survey

COPIES = 20  # that are named


def surveyed(
    texts: Texts, duplicates: bool, page: Path | None, overwrite: bool, heard: Callable[[Progress], None]
) -> Survey:
    """Count.

    Args:
        texts: what is looked at.
        duplicates: whether near duplicates are looked for.
        page: where a page goes; None writes none.
        overwrite: replace the page that is there.
        heard: told how far it is.

    Raises:
        UserError: if texts cannot be read, or the page cannot be written.
    """
    scripts = Scripts()
    with (
        TemporaryDirectory() as aside,
        texts.corpus(Path(aside) / "texts", False, heard, scripts.watched) as (corpus, _),
    ):
        lengths, manifest = corpus.lengths, corpus.manifest
        first = near_duplicates(corpus, heard=heard) if duplicates else None
        copies = [] if first is None else np.flatnonzero(first != np.arange(len(first))).tolist()
        found = Survey(
            texts.source, manifest.tokenizer, len(corpus), int(lengths.sum()), manifest.empty, manifest.unread,
            manifest.left_out,
            quantiles(lengths), int(lengths.max()), by_length(lengths), None if first is None else len(copies),
            tuple((corpus.name(i), corpus.name(int(first[i]))) for i in copies[:COPIES] if first is not None),
            scripts.shares, _by_domain(Path(texts.source), lengths), page,
        )  # fmt: skip
        if page:
            page_of_survey(found).write(page, overwrite)
        return found


def _by_domain(source: Path, lengths: Ints) -> dict[str, int]:
    """Tokens of each domain's texts, where the source is a mix of some."""
    domains = Arranged.open(source).domains if is_arranged(source) else ()
    of = domain_of(domains, np.arange(len(lengths)))
    return {one.name: int(lengths[of == i].sum()) for i, one in enumerate(domains)}
