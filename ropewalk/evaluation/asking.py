"""Asks a backend planned samples; every sample is computed once and kept as soon as it is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ropewalk.backends.backend import Ask, Backend, Reply, Spent
from ropewalk.backends.nll import require_finite
from ropewalk.common.fingerprints import ids_fingerprint
from ropewalk.common.store import Record, Records, content_key
from ropewalk.evaluation.perplexity import Sums, position_edges
from ropewalk.evaluation.samples import Cell, RowCell
from ropewalk.tasks.task import Sample

TOGETHER = 2**23  # tokens of prompts that are built at once, so that cells of several lengths share prefixes
CHECKED = 10  # one in so many teacher-forced answers is decoded as well


@dataclass(frozen=True)
class Answer:
    """The score of one sample.

    Attributes:
        depth: where the needed information stands, 0 to 1; None where it is spread.
        score: 0 to 1; of a closed answer, 0 or 1.
        context: samples with the same one share a text, so that they are not independent.
        decoded: whether decoding agreed that the teacher-forced answer is right or wrong; None if not checked.
        text: of a free answer.
        readings: what else it shows, 0 to 1 each, by name.
        place: its cell, and its number there.
        spent: what it took, if it came of several calls.
        lost: why there is no answer; empty if there is one.
    """

    depth: float | None
    score: float
    context: str = ""
    decoded: bool | None = None
    text: str = ""
    readings: Mapping[str, float] = field(default_factory=dict)
    place: tuple[Cell, int] | None = field(default=None, repr=False, compare=False)
    spent: Spent | None = None
    lost: str = ""


@dataclass(frozen=True)
class Losses:
    """Summed losses of the same documents.

    Attributes:
        lengths: tested lengths.
        by_length: float64 [D, len(lengths)], of the first tokens of each document.
        edges: of the position buckets.
        by_edge: float64 [D, len(edges)], of the tokens before each edge, in a forward of the longest length.
    """

    lengths: Sequence[int]
    by_length: Sums
    edges: Sequence[int]
    by_edge: Sums

    def at(self, length: int) -> Sums:
        """float64 [D]"""
        return self.by_length[:, self.lengths.index(length)]


class Asking:
    """One backend's results on planned samples, from the store where they are there.

    Args:
        backend: what is asked.
        method: how records and progress name it.
        store: where finished samples are kept.
        advance: called with (samples, method, task, length) whenever some have a result.
    """

    def __init__(
        self,
        backend: Backend,
        method: str,
        store: Records,
        advance: Callable[[int, str, str, int], None] = lambda *_: None,
    ):
        self.backend, self.method, self.store, self.advance = backend, method, store, advance

    def losses(self, texts: Mapping[str, Sequence[int]], lengths: Sequence[int]) -> Losses:
        """One pass per document, or one per document and length where the length matters.

        Args:
            texts: token ids by name, each as long as the longest of ``lengths``.
            lengths: tested lengths, increasing.
        """
        edges = position_edges(lengths[-1])
        cuts = sorted({*lengths, *edges})
        longest = self._prefix_sums(texts, lengths[-1], cuts)
        by_length = longest[:, [cuts.index(n) for n in lengths]]
        if self.backend.length_dependent:
            for j, n in enumerate(lengths[:-1]):
                by_length[:, j] = self._prefix_sums(texts, n, [n])[:, 0]
        return Losses(lengths, by_length, edges, longest[:, [cuts.index(edge) for edge in edges]])

    def answers(self, cells: Iterable[Cell]) -> dict[tuple[str, int], list[Answer]]:
        """The answers of all samples of some cells, by (task, length); those of one task share prefixes."""
        found: dict[tuple[str, int], list[Answer]] = {}
        for together in _together(cells):
            planned = [(cell, i) for cell in together for i in range(len(cell))]
            for (cell, _), answer in zip(planned, self.ask(planned), strict=True):
                found.setdefault((cell.name, cell.length), []).append(answer)
        return found

    def ask(self, planned: Sequence[tuple[Cell, int]]) -> list[Answer]:
        """The answers of some samples, given as cells and indices."""
        keys = [self._key(cell, i) for cell, i in planned]
        records = self.store.get(keys)
        missing = {key: place for key, place in zip(keys, planned, strict=True) if key not in records}
        alike = Counter(keys)  # two cells may ask the same
        stored = (place for key, place in zip(keys, planned, strict=True) if key in records)
        for (name, length), n in Counter((cell.name, cell.length) for cell, _ in stored).items():
            self.advance(n, self.method, name, length)
        for key, record in self._compute(missing) if missing else ():
            if "lost" not in record:  # which calls that are kept led to, in no time
                self.store.put({key: record})
            records[key] = record
            self.advance(alike[key], self.method, record["task"], record["length"])
        return [_answer(records[key], cell, i) for key, (cell, i) in zip(keys, planned, strict=True)]

    def _compute(self, missing: Mapping[str, tuple[Cell, int]]) -> Iterator[tuple[str, Record]]:
        """Key and record of every missing sample, as soon as it is there."""
        keys, places = list(missing), list(missing.values())
        samples = _samples(places)
        checked = [self.backend.checks and not cell.task.free and i % CHECKED == 0 for cell, i in places]
        asks = []
        for (cell, i), one, check in zip(places, samples, checked, strict=True):
            free = cell.task.free
            room = one.room if free else len(one.answer) if check else 0
            asks.append(Ask(one.prompt, () if free else one.answer, room, cell.ends(i), one.before, one.after))
        for n, reply in self.backend.ask(asks):
            cell, i = places[n]
            where = f"{self.method}: the log-probability of an answer to {cell.name} at {cell.length:,} tokens"
            require_finite(reply.logprob or 0.0, where)
            result = {"lost": reply.lost} if reply.lost else _result(cell, samples[n], reply, checked[n])
            spent = {"spent": asdict(reply.spent)} if reply.spent else {}
            yield keys[n], self._facts(cell, i) | result | spent

    def _key(self, cell: Cell, i: int) -> str:
        free: dict[str, object] = {"free": cell.rooms[i]} if cell.task.free else {}
        if ends := cell.ends(i):
            free["ends"] = ends
        parts = {**self.backend.basis, "answer": True, "task": cell.name, "ids": cell.hashes[i], **free}
        return content_key(parts)

    def _facts(self, cell: Cell, i: int) -> Record:
        return {
            "method": self.method, "task": cell.name, "length": cell.length, "index": i, "context": cell.context(i),
            "seed": cell.seed, "depth": cell.stands[i], "ids_sha256": cell.hashes[i], "how": self.backend.how,
        }  # fmt: skip

    def _prefix_sums(self, texts: Mapping[str, Sequence[int]], length: int, cuts: Sequence[int]) -> Sums:
        """float64 [D, len(cuts)]: summed losses of the documents, cut to ``length``, before each cut.

        A sum depends on the tokens before the cut alone, so that one forward serves every shorter length, also those
        that another experiment asks for. Where losses change with what follows, the length is a part of the key.
        """
        names, rows = list(texts), [list(ids[:length]) for ids in texts.values()]
        basis = self.backend.basis | ({"length": length} if self.backend.length_dependent else {})
        keys = [[content_key({**basis, "losses": ids_fingerprint(row[:cut])}) for cut in cuts] for row in rows]
        records = self.store.get(key for some in keys for key in some)
        missing = [i for i, some in enumerate(keys) if any(key not in records for key in some)]
        if len(missing) < len(rows):
            self.advance(len(rows) - len(missing), self.method, "ppl", length)
        for n, losses in self.backend.rolling([rows[i] for i in missing]) if missing else ():
            i = missing[n]
            require_finite(losses, f"{self.method}: the loss of {names[i]} at {length:,} tokens")
            sums = np.concatenate([[0.0], np.cumsum(losses)])[np.asarray(cuts) - 1].tolist()
            facts = {"method": self.method, "task": "ppl", "document": names[i], "how": self.backend.how}
            by_cut = zip(keys[i], cuts, sums, strict=True)
            found = {key: {**facts, "length": cut, "sum": one} for key, cut, one in by_cut if key not in records}
            self.store.put(found)
            records |= found
            self.advance(1, self.method, "ppl", length)
        return np.array([[records[key]["sum"] for key in some] for some in keys])


def _result(cell: Cell, sample: Sample, reply: Reply, checked: bool) -> Record:
    """What a record keeps of a reply.

    The text of a free answer, with its score unless that is given anew from the text (a judge may grade it), else
    whether and how sure it is right.
    """
    if isinstance(cell, RowCell):
        return {"text": reply.text}
    if cell.task.free:
        readings = cell.task.readings(reply.text, sample)
        more: Record = {"readings": readings} if readings else {}
        return {"score": cell.task.score(reply.text, sample), "text": reply.text, **more}
    result: Record = {"right": reply.right, "logprob": reply.logprob}
    if checked:
        decoded = reply.written[: len(sample.answer)] == tuple(sample.answer)
        result["decoded"] = decoded == reply.right
    return result


def _answer(record: Record, cell: Cell, i: int) -> Answer:
    text = f"{cell.name}/{cell.seed}/{cell.context(i)}"
    if "lost" in record:
        return Answer(cell.stands[i], 0.0, text, place=(cell, i), lost=record["lost"])
    spent = Spent(**record["spent"] | {"notes": tuple(record["spent"]["notes"])}) if "spent" in record else None
    said = record.get("decoded"), record.get("text", ""), record.get("readings", {})
    return Answer(cell.stands[i], cell.score(i, record), text, *said, (cell, i), spent)


def _samples(places: Sequence[tuple[Cell, int]]) -> list[Sample]:
    """The samples at some places; neighbours of one cell are built together."""
    made: list[Sample] = []
    indices: list[int] = []
    for n, (cell, i) in enumerate(places):
        indices.append(i)
        if n + 1 == len(places) or places[n + 1][0] is not cell:
            made += cell.samples(indices)
            indices = []
    return made


def _together(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """Neighbouring cells of one task, as many as can be built at once."""
    group: list[Cell] = []
    tokens = 0
    for cell in cells:
        size = cell.length * len(cell)
        if group and (group[0].name != cell.name or tokens + size > TOGETHER):
            yield group
            group, tokens = [], 0
        group.append(cell)
        tokens += size
    if group:
        yield group
