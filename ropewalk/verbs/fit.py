"""What a method needs to know of a model, measured on texts, into a small file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.verbs.compare import RUNS
from ropewalk.verbs.request import Count, Length, LiveRequest, Method, Number, Place, Source, verb

if TYPE_CHECKING:
    from ropewalk.common.store import Records, SampleStore
    from ropewalk.fitting.fitter import Ground
    from ropewalk.fitting.recommendation import Recommendation
    from ropewalk.methods.base import Method as AnyMethod
    from ropewalk.methods.fit_file import Fit

AUTO = "auto"  # in the place of a method
MARK = "whose candidates these are"  # key in their store


@dataclass(frozen=True, kw_only=True)
class FitRequest(LiveRequest):
    """What is to be measured, and on what.

    Attributes:
        method: auto, the best of the catalogue; or a method that must know something of the model: longrope,
            attention-alignment, tca, squeezed, dope, head-scale; or one whose options can be searched, such as yarn. A
            plus puts others on as well: yarn+head-scale.
        out: File to write; options that are numbers are said without one, too.
        overwrite: Replace a fit file that is there.
        to: Target length in tokens: 4096, 4k, 128K; by default what the configuration promises, or four times the
            window where it promises no more.
        data: Texts: topics (English), stdlib (held-out Python modules), or a file or folder of yours.
        settings: Of the search, by keyword: tax=0.01, space=longrope2, by=needles, tolerance=0.1, steps=200; of auto,
            also its limits: "exportable=true, engine=vllm, tax=0.01".
        samples: At most so many texts of the target's length; a search reads as many others in the end.
        seed: Of all that the search draws; by default 0.
        on: Where further workers of a search run: local (processes of this machine) or ray (a Ray cluster).
        workers: Processes that read candidates at the same time, this one counted; each loads the model.
    """

    method: Method
    out: Place | None = None
    overwrite: bool = False
    to: Length | None = None
    data: Source = "topics"
    settings: str = ""
    samples: Count = 8
    seed: Number | None = None
    on: str = "local"
    workers: Count = 1


@verb("fit", keeps=True)
def fit(request: FitRequest) -> Fit | Recommendation:
    """Find the method (auto), or the options of one, that suit a model and your texts; a file keeps them.

    With the method auto, methods that need no training race under the limits in the settings, and one is recommended.
    Of others, what they need to know of a model is measured, or their options are searched; tca(fitted=FILE) takes it.

    A search also writes its page, FILE.html for FILE.json: auto's shows the race, others a front of long texts against
    short ones, of which longrope(fitted=FILE, tax=0.01) picks another point. One that was stopped goes on: its
    candidates lie beside the file, in FILE.candidates, until it is written; without a file, in runs/.

    Returns:
        What was found, and all that it was found for; of auto, the method to take.

    Raises:
        UserError: for everything that a user can mend; no fit file and no page are written then.
    """
    from ropewalk.common.errors import UserError
    from ropewalk.common.files import file_to_write, is_page
    from ropewalk.common.progress import Progress, shown
    from ropewalk.common.store import SampleStore

    method, _ = _asked(request)  # mistakes show before anything is loaded
    from ropewalk.evaluation.workers import check
    from ropewalk.fitting import fitting_page, race_page
    from ropewalk.fitting.alongside import alongside
    from ropewalk.methods.fit_file import is_fit

    check(request.on, request.workers)
    page, searched = None, method is None or fitting_page.has_page(method)
    sources = [place for place in (Path(request.model), Path(request.data)) if place.exists()]
    if request.out is not None:
        file_to_write(request.out, is_fit, sources, request.overwrite)
        page = fitting_page.page_of(request.out) if searched else None
        if page:
            file_to_write(page, is_page, sources, request.overwrite)
    elif method is not None and any(part.measured or part.fit for part in getattr(method, "parts", (method,))):
        raise UserError(
            f"what is found for {method.id} cannot be said without a file", f"Name one: -o {method.name}.json."
        )
    if request.workers > 1 and not searched:
        raise UserError(f"{request.method} is measured in one reading, by one worker", "Leave out --workers.")
    with ExitStack() as opened:
        update = opened.enter_context(shown())
        place = request.out or (RUNS / f"fit-{_key(request)}" if searched else None)
        candidates = None if place is None else Path(f"{place}.candidates")
        records = opened.enter_context(SampleStore(candidates))
        _mark(records, request, method)
        opened.callback(_leave_no_mark, records)
        update(Progress(0, 0, f"opening {request.model}"))
        if candidates is not None:
            opened.enter_context(alongside(partial(_found, request), candidates, request.on, request.workers))
        what = "racing methods" if method is None else f"fitting {method.id}"
        found = _found(request, records, (0, request.workers), lambda done, total, words="": update(
            Progress(done, total, what + (f", {words}" if words else ""))
        ))  # fmt: skip
        if request.out is not None:
            found = found.written(request.out, request.overwrite)
    if page:
        shown_as = race_page.page_of_race if method is None else fitting_page.page_of_fit
        found = fitting_page.write(found, shown_as(found), page, request.overwrite)
    _remove(records)
    answer: Fit | Recommendation = found
    return answer


def _key(request: FitRequest) -> str:
    """What tells a search from others."""
    from ropewalk.common.store import content_key

    asked = {name: str(value) for name, value in vars(request).items() if name not in ("overwrite", "on", "workers")}
    return content_key(asked)[:8]


def _leave_no_mark(records: SampleStore) -> None:
    """Remove a store without candidates: what was asked for was refused, or was no search."""
    if len(records) == 1:
        _remove(records)


def _remove(records: SampleStore) -> None:
    records.remove()
    if records.path is not None and records.path.parent == RUNS:
        with suppress(OSError):  # other runs lie there
            RUNS.rmdir()


def _mark(records: SampleStore, request: FitRequest, method: AnyMethod | None) -> None:
    """Say in the store whose candidates it holds, so that nobody else's are removed with it.

    Raises:
        UserError: if it holds others.
    """
    from ropewalk.common.errors import UserError

    mark = {"method": AUTO if method is None else method.id, "model": request.model, "to": request.to}
    there = records.get([MARK]).get(MARK)
    if there is None and len(records):
        raise UserError(
            f"{records.path} is a store of something else", "Choose another file, -o FILE, or move that one away."
        )
    if there is not None and there != mark:
        raise UserError(
            f"{records.path} holds the candidates of another search, which was not finished: {there['method']} on "
            f"{there['model']}",
            "Finish it by its own command, choose another file, -o FILE, or remove that one.",
        )
    records.put({MARK: mark})


def _asked(request: FitRequest) -> tuple[AnyMethod | None, Callable[[Ground], Fit | Recommendation]]:
    """The method to fit, None where it is to be found; and what does so."""
    from ropewalk.fitting.fitter import fitting, seeded
    from ropewalk.fitting.recommending import Recommending
    from ropewalk.methods import catalogue

    if request.method.strip().lower() == AUTO:
        return None, seeded(Recommending.read(request.settings), request.seed, AUTO).run
    method = catalogue.method(request.method)
    return method, fitting(method, request.settings, request.seed)


def _found(
    request: FitRequest,
    records: Records,
    turn: tuple[int, int],
    progress: Callable[..., None] = lambda done, total, words="": None,
) -> Any:
    """What a worker does, the first or a further one: open the model, and search."""
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.fitting.fitter import Ground
    from ropewalk.texts.documents import load as load_documents

    method, search = _asked(request)
    documents = load_documents(request.data)
    checkpoint = Checkpoint.open(request.model, request.trust_remote_code)
    needs = checkpoint.unwritten
    if needs is not None and not needs.among([] if method is None else [method.spelling]):
        also = f"(to fit what goes with it: --method '{needs.method}+...')"
        needs.refuse(f"{needs.line('evaluate', '--methods')}   {also}")
    ground = Ground.of(
        checkpoint.load(request.dtype, request.device), checkpoint.tokenizer(), documents, request.to, request.samples,
        progress=progress, records=records, turn=turn, name=request.model, source=request.data,
    )  # fmt: skip
    return search(ground)
