"""What a method needs to know of a model, measured on texts, into a small file."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
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
        samples: At most so many texts of the target's length; a search reads as many others in the end, and auto races
            on half of them, on two at least.
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
    from ropewalk.common.progress import Progress, shown
    from ropewalk.common.store import SampleStore, content_key

    method, _ = _asked(request)  # mistakes show before anything is loaded
    from ropewalk.common.cluster import check
    from ropewalk.fitting import fitting_page, race_page
    from ropewalk.fitting.alongside import alongside

    check(request.on, request.workers)
    searched = method is None or fitting_page.has_page(method)
    if request.out is not None:
        _refuse_places(request.out, searched, request)
    elif method is not None and any(part.measured or part.fit for part in getattr(method, "parts", (method,))):
        raise UserError(
            f"what is found for {method.id} cannot be said without a file", f"Name one: -o {method.name}.json."
        )
    if request.workers > 1 and not searched:
        raise UserError(f"{request.method} is measured in one reading, by one worker", "Leave out --workers.")
    with ExitStack() as opened:
        update = opened.enter_context(shown())
        asked = _all_asked(request, method)
        place = request.out or (RUNS / f"fit-{content_key(asked)[:8]}" if searched else None)
        candidates = None if place is None else Path(f"{place}.candidates")
        if candidates is not None:
            opened.enter_context(_held(candidates))
        if request.out is not None:
            _refuse_places(request.out, searched, request)  # again: another search may just have ended
        records = opened.enter_context(SampleStore(candidates))
        _mark(records, asked)
        opened.callback(_leave_no_mark, records)
        fresh = len(records) == 1
        update(Progress(0, 0, f"opening {request.model}"))
        what = "racing methods" if method is None else f"fitting {method.id}"
        work = partial(_found, request)
        try:
            with nullcontext() if candidates is None else alongside(work, candidates, request.on, request.workers):
                found = work(records, (0, request.workers), lambda done, total, words="": update(
                    Progress(done, total, what + (f", {words}" if words else ""))
                ))  # fmt: skip
        except UserError as error:
            if fresh and error.__cause__ is None:  # an answer; else something failed, and what was read is kept
                records.remove()
            raise
        found = replace(found, loading=_loading(request))
        if request.out is not None and searched:
            page = race_page.page_of_race if method is None else fitting_page.page_of_fit
            found = fitting_page.write(found, page, request.out, request.overwrite)
        elif request.out is not None:
            found = found.written(request.out, request.overwrite)
        records.remove()
    answer: Fit | Recommendation = found
    return answer


def _refuse_places(out: Path, searched: bool, request: FitRequest) -> None:
    """Refuse to write where something else lies, before a search.

    Raises:
        UserError: for the file, or for its page.
    """
    from ropewalk.common.files import file_to_write, is_page
    from ropewalk.fitting.fitting_page import page_of
    from ropewalk.methods.fit_file import is_fit

    sources = [place for place in (Path(request.model), Path(request.data)) if place.exists()]
    for place, ours in [(out, is_fit)] + [(page_of(out), is_page)] * searched:
        file_to_write(place, ours, sources, request.overwrite)


def _loading(request: FitRequest) -> tuple[str, ...]:
    """Words of a line that opens the model as it was opened."""
    from ropewalk.methods.fit_file import TRUST

    dtype = () if request.dtype == "auto" else ("--dtype", request.dtype)
    return (*dtype, *[TRUST] * request.trust_remote_code)


@contextmanager
def _held(store: Path) -> Iterator[None]:
    """Keep others from a file of candidates; folders that were made for it go again if they stay empty.

    Raises:
        UserError: if another search is at it, or the place cannot be written.
    """
    from filelock import FileLock, Timeout

    from ropewalk.common.errors import UserError
    from ropewalk.common.files import explained

    made = [folder for folder in store.parents if folder == RUNS or not folder.exists()]
    lock = FileLock(f"{store}.lock", timeout=0)
    try:
        with explained(store):
            store.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except Timeout:
                raise UserError(
                    f"another search keeps its candidates in {store}", "Wait for it, or choose another file, -o FILE."
                ) from None
            except NotImplementedError:  # a disk without locks
                pass
        try:
            yield
        finally:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
    finally:
        with suppress(OSError):  # they are not empty, as they should
            for folder in made:
                folder.rmdir()


def _leave_no_mark(records: SampleStore) -> None:
    """Remove a store without candidates: what was asked for was refused, or was no search."""
    if len(records) == 1:
        records.remove()


def _all_asked(request: FitRequest, method: AnyMethod | None) -> dict[str, Any]:
    """All that decides what a search finds."""
    from ropewalk.fitting.fitter import fitted_part, loaded
    from ropewalk.fitting.recommending import Recommending
    from ropewalk.methods.catalogue import options_of

    said = "model", "to", "data", "samples", "seed", "dtype"
    cls = Recommending if method is None else loaded(fitted_part(method).name)
    settings = ", ".join(f"{name}={value}" for name, value in sorted(options_of(cls, "", request.settings).items()))
    asked = {"method": AUTO if method is None else method.id, "settings": settings}
    return asked | {name: getattr(request, name) for name in said}


def _mark(records: SampleStore, asked: Mapping[str, Any]) -> None:
    """Say in the store whose candidates it holds, so that nobody else's are removed with it.

    Raises:
        UserError: if it holds others.
    """
    from ropewalk.common.errors import UserError
    from ropewalk.common.underway import differences

    there = records.get([MARK]).get(MARK)
    if len(records) and not (isinstance(there, dict) and there.keys() == asked.keys()):
        raise UserError(
            f"{records.path} is a store of something else", "Choose another file, -o FILE, or move that one away."
        )
    differ = differences(there, asked) if there else []
    if differ:
        begin = f"rm {shlex.quote(str(records.path))}*"
        raise UserError(
            f"{records.path} holds the candidates of another search, which was not finished: {'; '.join(differ)}",
            f"Ask for the same to go on, choose another file, -o FILE, or begin anew: {begin}",
        )
    records.put({MARK: dict(asked)})


def _asked(request: FitRequest) -> tuple[AnyMethod | None, Callable[[Ground], Fit | Recommendation]]:
    """The method to fit, None where it is to be found; and what does so."""
    from ropewalk.common.errors import UserError
    from ropewalk.fitting.fitter import fitting, seeded
    from ropewalk.fitting.recommending import Recommending
    from ropewalk.methods import catalogue

    parts = [part.strip().lower() for part in catalogue.split(request.method, "+")]
    if AUTO in parts and len(parts) > 1:
        raise UserError(
            f"method is {request.method!r}: auto races methods one by one, and none beside them",
            f"Say --method {AUTO}, or name the methods.",
        )
    if parts == [AUTO]:
        return None, seeded(Recommending.read(request.settings), request.seed, AUTO, request.settings).run
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
    from ropewalk.encoders.encoder_folder import refuse_encoder
    from ropewalk.fitting.fitter import Ground
    from ropewalk.texts.documents import load as load_documents

    method, search = _asked(request)
    documents = load_documents(request.data)
    checkpoint = Checkpoint(request.model, request.trust_remote_code)
    refuse_encoder(checkpoint)
    checkpoint.refuse_unsound()
    needs = checkpoint.unwritten
    if needs is not None and not needs.among([] if method is None else [method.spelling]):
        also = f"(to fit what goes with it: --method '{needs.method}+...')"
        needs.refuse(f"{needs.line('evaluate', '--methods')}   {also}")
    ground = Ground.of(
        checkpoint.load(request.dtype, request.device), checkpoint.tokenizer(), documents, request.to, request.samples,
        progress=progress, records=records, turn=turn, name=request.model, source=request.data,
    )  # fmt: skip
    return search(ground)
