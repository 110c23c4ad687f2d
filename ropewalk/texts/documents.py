"""Texts to evaluate on: some that every Python has, or the user's own files."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError
from ropewalk.common.naming import counted
from ropewalk.common.outside import read_bytes
from ropewalk.texts import rows
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SUFFIXES = (".txt", ".md", ".py", ".jsonl", ".parquet")
FIELD = "text"  # of a jsonl line, and column of a parquet file
AGAIN, AROUND, NOWHERE = "read by another name", "a link to a folder around it", "a link that leads nowhere"
PIECE = re.compile(r"(?P<before>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<behind>\.\w+)")  # of a hub set
NAMED = 3  # places of a kind that are not read
WHOLE = f'Put what is read as a whole into "{FIELD}": a chat as tokenizer.apply_chat_template(..., tokenize=False).'


def load(source: str | Path) -> dict[str, str]:
    """Documents by name.

    Args:
        source: "stdlib" (modules of the standard library), "topics" (the language reference that Python ships), a
            file (.txt, .md, .py: one document; .jsonl, .parquet: one per line or row, in "text"), or a folder of them.

    Raises:
        UserError: if there is no such file, it is of another type, or a document is empty or not text. In a folder,
            files without text are passed over as long as one has some.
    """
    from ropewalk.texts.builtin import held_out_sources, topics

    if source == "stdlib":
        return held_out_sources()
    if source == "topics":
        return {"topics": topics()}
    path = _place(source, 'give a file, a folder, "stdlib" or "topics"')
    read = ((name, text) for file in rows.good(_files(path), None) for name, text in _read(file))
    if not path.is_dir():
        return {name: _not_empty(name, text) for name, text in read}
    documents = {name: text for name, text in read if text.strip()}
    if not documents:
        raise UserError(f"{path}: no text in any of its files", "Give files that hold text.")
    return documents


def _place(source: str | Path, mend: str) -> Path:
    """Where a source lies; an empty name is no name of this folder."""
    if not source or not Path(source).exists():
        raise UserError(f"{source or '(nothing)'}: no such file or folder", mend)
    return Path(source)


def stream(source: str | Path, left_out: list[UserError] | None = None) -> Iterator[tuple[str, str]]:
    """Documents one after the other, in an order that does not change; none is held, and empty ones come too.

    Args:
        source: as of ``load``, or a hub id, whose split "train" is read.
        left_out: where the error of each document that cannot be read goes; without, the first one is raised.

    Yields:
        A name and a text.

    Raises:
        UserError: if there is no such source, it is of another type, or a document is not text.
    """
    if source in ("stdlib", "topics"):
        yield from load(source).items()
    elif rows.is_hub_id(source):
        yield from _texts(rows.read(source, split="train"), left_out)
    else:
        files = _files(_place(source, 'give a file, a folder, a hub id, "stdlib" or "topics"'))
        for file in rows.good(files, left_out):
            if file.suffix.lower() in rows.SUFFIXES:
                yield from _texts(rows.read(file, left_out=left_out), left_out)
            else:
                yield from rows.good(_whole(file), left_out)


def _texts(read: Iterable[rows.Row], left_out: list[UserError] | None) -> Iterator[tuple[str, str]]:
    return rows.good(rows.each(read, lambda row: (row.where, row.text(FIELD, empty=True, mend=WHOLE))), left_out)


def _whole(file: Path) -> Iterator[tuple[str, str] | UserError]:
    try:
        yield str(file), _decode(file)
    except UserError as error:
        yield error


def tokenise(documents: Mapping[str, str], tokenizer: PreTrainedTokenizerBase, at_least: int) -> dict[str, list[int]]:
    """Token ids, begun as the tokenizer begins texts, of the documents that have ``at_least`` tokens, BOS included.

    Documents are never joined: a boundary inside a context would look like an effect of the position.

    Raises:
        UserError: if no document is long enough.
    """
    begin = opening(tokenizer)
    ids = {name: begin + token_ids(text, tokenizer) for name, text in documents.items()}
    kept = {name: row for name, row in ids.items() if len(row) >= at_least}
    if not kept:
        longest = max(ids, key=lambda name: len(ids[name]), default=None)
        have = "there are none" if longest is None else f"the longest, {longest}, has {len(ids[longest])}"
        raise UserError(
            f"no document has {at_least} tokens: {have}", "give longer documents, or compare at smaller lengths"
        )
    return kept


def token_ids(text: str, tokenizer: PreTrainedTokenizerBase, letters: bool | None = None) -> list[int]:
    """Ids of a text of any length, with no special tokens put around it (and without the warning that it is too long).

    Args:
        text: what is read.
        tokenizer: by which.
        letters: read signs such as </s> in it as the letters that they are, not as special tokens; None: as the
            tokenizer is set.
    """
    more = {} if letters is None else {"split_special_tokens": letters}
    return list(tokenizer(text, add_special_tokens=False, verbose=False, **more).input_ids)


def passed_over(source: str | Path) -> str:
    """What of a folder is not read, in words; empty if there is nothing.

    That is files of other kinds than those that are read, by their endings, links that are not followed, and pieces of
    data sets that are not there.
    """
    path = Path(source)
    if source in ("stdlib", "topics") or not path.is_dir():
        return ""
    unread: list[tuple[str, Path]] = []
    found = [file for file in _visible(path, unread) if isinstance(file, Path)]
    others = Counter(file.suffix or "without ending" for file in found if file.suffix.lower() not in SUFFIXES)
    kinds = ", ".join(f"{ending} {count:,}" for ending, count in others.most_common(5))
    more = f", and of {len(others) - 5} other endings" if len(others) > 5 else ""
    said = [f"{counted(others.total(), 'file')} of other kinds ({kinds}{more})"] if others else []
    for why in (AGAIN, AROUND, NOWHERE):
        named = [str(one.relative_to(path)) for kind, one in unread if kind == why]
        rest = f" and {len(named) - NAMED:,} more" if len(named) > NAMED else ""
        said += [f"{why}: {', '.join(named[:NAMED])}{rest}"] if named else []
    return "; ".join([*said, *_missing([str(file.relative_to(path)) for file in found])])


def _missing(names: Iterable[str]) -> Iterator[str]:
    """Sets of numbered pieces (train-00000-of-00005.parquet) of which some are not there, in words."""
    there: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        if match := PIECE.fullmatch(name):
            there.setdefault((match["before"], match["count"], match["behind"]), set()).add(int(match["number"]))
    for (before, count, behind), numbers in there.items():
        if lacking := int(count) - len(numbers & set(range(int(count)))):
            yield f"{lacking:,} of {int(count):,} pieces of {before}-*-of-{count}{behind} are not there"


def _visible(folder: Path, unread: list[tuple[str, Path]]) -> Iterator[Path | UserError]:
    """Files below a folder, each once, by the first of its names; links are followed, but for those back around.

    What is hidden in it is an editor's, or a tool's.

    Args:
        folder: the outermost.
        unread: where it goes what links lead to that is not read, after why.

    Yields:
        A file, or the error of a folder that cannot be read.
    """
    root = os.path.realpath(folder)
    seen = {root}

    def below(place: Path, real: str) -> Iterator[Path | UserError]:
        try:
            with os.scandir(place) as entries:
                inside = sorted((one for one in entries if not one.name.startswith(".")), key=lambda one: one.name)
        except OSError as error:
            yield UserError(f"{place} cannot be read: {error.strerror}", "Let yourself read it, or move it away.")
            return
        for one in inside:
            path, link = place / one.name, one.is_symlink()
            target = os.path.realpath(path) if link else os.path.join(real, one.name)
            if target in seen:
                unread.append((AGAIN, path))
            elif link and any(Path(own).is_relative_to(target) for own in (root, real)):
                unread.append((AROUND, path))
            elif os.path.isdir(path) if link else one.is_dir(follow_symlinks=False):
                seen.add(target)
                yield from below(path, target)
            elif link and path.suffix.lower() not in SUFFIXES and not os.path.exists(path):
                unread.append((NOWHERE, path))
            else:
                seen.add(target)
                yield path

    return below(folder, root)


def _files(path: Path) -> list[Path | UserError]:
    """Those of a place that are read, as far as their names say, and errors of folders that are not."""
    if path.is_dir():
        found = _visible(path, [])
        files = [file for file in found if isinstance(file, UserError) or file.suffix.lower() in SUFFIXES]
        if not files:
            raise UserError(
                f"{path}: no {', '.join(SUFFIXES)} file in this folder",
                "Give a folder that holds some, or one such file.",
            )
        return files
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: cannot read {path.suffix or 'a file without suffix'}", f"give {', '.join(SUFFIXES)}")
    return [path]


def _read(file: Path) -> Iterable[tuple[str, str]]:
    """(name, text) of each document in a file."""
    if file.suffix.lower() in rows.SUFFIXES:
        return ((row.where, row.text(FIELD, empty=True)) for row in rows.read(file))
    return [(str(file), _decode(file))]


def _decode(file: Path) -> str:
    data = read_bytes(file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}:{line}: byte {data[error.start]:#04x} is not UTF-8", "save the file as UTF-8"
        ) from error


def _not_empty(name: str, text: str) -> str:
    if not text.strip():
        raise UserError(f"{name}: empty text", "Give one that holds text.")
    return text
