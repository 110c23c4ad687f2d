"""Whether attention through the engine is the model's own, asked where nobody has tested it: other transformers.

What the hooks rely on changes between releases: 5.24 renamed the cache's argument, and every method with a cache would
have been silently wrong. So on a release outside the tested ones, the first method that is put on a model is preceded
by a comparison on that model: its own forward over a few tokens, against the same tokens read through the engine in
pieces, on top of a cache, with plain attention cut into two regions.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor, nn

from ropewalk.attention import cache_argument
from ropewalk.attention.attending import VISIBILITY, Attending
from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.rope.live import decoder, still

TESTED = ("5.16.0", "5.24.0")  # oldest and newest release of transformers that the test suite has run on
ENDS = (7, 8, 16)  # of the pieces
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of the states' size; half precision: 0.1

_passed: WeakSet[nn.Module] = WeakSet()

Engaged = Callable[[nn.Module, None, list[Attending]], AbstractContextManager[None]]


@dataclass(frozen=True)
class _Cut:
    """Plain attention in two regions: the last four keys, and all before them."""

    name: ClassVar[str] = "self-test"
    id: ClassVar[str] = "self-test"
    axes: ClassVar[frozenset[str]] = frozenset({VISIBILITY})
    fit = None
    length_dependent = by_content = by_layer = far = False
    sets_regions = True

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        return Region(lo=lambda m: m - 3), Region(hi=lambda m: m - 3)

    def temperature(self, m: Tensor, layer: Layer) -> None:
        return None

    def picks(self, layer: Layer) -> bool:
        return False

    def recall(self, text: Any) -> tuple[()]:
        return ()

    def keep(self, text: Any) -> None:
        return None

    def check(self, layer: Layer) -> None:
        return None

    def seen_as(self, layer: Layer) -> Layer:
        return layer


def once(model: nn.Module, engaged: Engaged) -> None:
    """Refuse ``model`` if the engine does not follow it on this release; nothing is asked on tested ones.

    Args:
        model: a live transformers model, with no method on.
        engaged: puts methods on.

    Raises:
        UserError: naming the tested releases and what differed.
    """
    import transformers
    from packaging.version import Version

    oldest, newest = map(Version, TESTED)
    if oldest <= Version(transformers.__version__) <= newest or model in _passed:
        return
    _passed.add(model)  # the comparison itself goes through the engine
    try:
        difference = _difference(model, engaged)
        allowed = TOLERANCE.get(next(decoder(model).parameters()).dtype, 0.1)
        what = None if difference <= allowed else f"states differ by {difference:.2g} of their size"
    except UserError as error:
        what = error.message
    except BaseException:
        _passed.discard(model)
        raise
    if what is not None:
        _passed.discard(model)
        raise UserError(
            f"transformers {transformers.__version__} lies outside the tested releases {oldest} to {newest}, and on "
            f"this {type(model).__name__} attention through ropewalk is not the model's own there: {what}",
            f"pip install 'transformers=={newest}'",
        )


@torch.no_grad()
def _difference(model: nn.Module, engaged: Engaged) -> float:
    """Root mean square of the difference between the two readings, relative to that of the model's own."""
    from transformers import DynamicCache

    body = decoder(model)
    config: Any = body.config
    ids = torch.arange(ENDS[-1], device=next(body.parameters()).device)[None] % int(config.vocab_size)
    with still(body):
        own = body(input_ids=ids, use_cache=False)[0].float()
        cache, pieces, start = DynamicCache(config=config), [], 0
        with engaged(model, None, [_Cut()]):
            for end in ENDS:
                read = body(input_ids=ids[:, start:end], use_cache=True, **cache_argument.as_argument(body, cache))
                pieces.append(read[0].float())
                start = end
    return float((torch.cat(pieces, 1) - own).norm() / own.norm())
