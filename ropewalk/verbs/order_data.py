"""Texts in an order in which each follows one like it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.verbs.pack_data import RowsRequest
from ropewalk.verbs.request import Count, Request, Source, verb

if TYPE_CHECKING:
    from ropewalk.data.making import Made


@dataclass(frozen=True, kw_only=True)
class WhichOrderRequest(Request):
    """Which order.

    Attributes:
        kind: icp (similar texts follow each other, 2310.10638), smooth-path (few demonstrations, with as few turns as
            possible), length (the shortest first) or random.
    """

    kind: str = field(kw_only=False)


@dataclass(frozen=True, kw_only=True)
class OrderRequest(RowsRequest, WhichOrderRequest):
    """By which vectors.

    Attributes:
        embed: An embedding model, as a folder or a hub id; by default, TF-IDF of token n-grams.
        neighbours: Of each text, among which the next one is looked for; of icp.
        parts: Order so many runs of texts each by itself.
        keep_duplicates: Do not leave out near duplicates of earlier texts.
        on: Where blocks of vectors are made and parts ordered: local (this process) or ray (a Ray cluster, or a local
            one if none runs). The rows are the same.
        workers: How many blocks or parts are at work at the same time; of ray.
    """

    embed: Source = ""
    neighbours: Count = 10
    parts: Count = 1
    keep_duplicates: bool = False
    on: str = "local"
    workers: Count = 2


@verb("data order", keeps=True)
def order_data(request: OrderRequest) -> Made:
    """Put texts into an order and, one behind the other, into rows; all of a row sees what stands before it.

    Returns:
        The folder, what was left out, and how similar neighbours are.

    Raises:
        UserError: if texts cannot be read, a model gives no vectors, or the folder cannot be written.
    """
    from ropewalk.common.cluster import LOCAL, check, spread
    from ropewalk.common.progress import shown
    from ropewalk.common.underway import aside
    from ropewalk.data.ordering.kept_vectors import Embedder
    from ropewalk.data.ordering.model_vectors import ModelVectors
    from ropewalk.data.ordering.orders import ORDERS, Ordering
    from ropewalk.data.ordering.token_vectors import TokenVectors

    if request.kind not in ORDERS:
        hint = did_you_mean(request.kind, ORDERS)
        raise UserError(f"no order {request.kind!r}{hint}", f"There are {', '.join(ORDERS)}.")
    if request.kind != "icp":
        request.refuse_unused(["neighbours"], f"in {request.kind}")
    check(request.on, request.workers)
    if request.on == LOCAL:
        request.refuse_unused(["workers"], "without --on ray")
    embedder: Embedder = TokenVectors(request.seed)
    if request.embed:
        tokenizer = request.read().tokenizer
        if tokenizer is None:
            raise UserError(f"{request.embed} reads texts, and no tokenizer says them", "Add --tokenizer MODEL.")
        embedder = ModelVectors(request.embed, tokenizer)
        embedder.require()  # before hours of tokenising
    kept = aside(request.out, "shards")
    with shown() as heard, spread(request.on, request.workers) as each:
        chosen = Ordering(
            request.kind, embedder, kept, request.neighbours, request.parts, request.keep_duplicates, each, heard
        )
        chosen.require(request.read().up_to(request.parts))  # likewise
        return request.made(chosen, request.kind, chosen.options, apart=False, heard=heard)
