"""How a forward takes a cache and gives it back: the argument's name is asked, the cache is known by its class.

Decoders of transformers took ``past_key_values`` up to 5.23 and take ``cache`` since; state-space models said
``cache_params``. A caller may still say the old name. So no name is relied on.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from transformers import Cache

NAMES = ("cache", "past_key_values", "cache_params")  # newest first


def as_argument(model: nn.Module, cache: Cache | None) -> dict[str, Cache]:
    """``cache`` under the name that the forward of ``model`` gives it, to be passed as a keyword; nothing for None.

    Raises:
        UserError: if the forward takes none of the known names.
    """
    if cache is None:
        return {}
    taken = inspect.signature(type(model).forward).parameters  # of the class: hooks wrap the instance's
    for name in NAMES:
        if name in taken:
            return {name: cache}
    raise UserError(
        f"the forward of {type(model).__name__} takes none of {', '.join(NAMES)}, so that no cache can be passed to it"
    )


def of_output(output: Any) -> Cache:
    """The cache that a forward gave back.

    Raises:
        UserError: if there is none.
    """
    from transformers import Cache

    for name in NAMES:
        if isinstance(found := getattr(output, name, None), Cache):
            return found
    raise UserError(f"{type(output).__name__} holds no cache under any of {', '.join(NAMES)}")


def among(arguments: Mapping[Any, Any]) -> Cache | None:
    """The cache among the arguments of a forward, or what it returned, whatever it is called.

    Raises:
        UserError: if there are two, or something that is no ``Cache`` is passed where a cache belongs.
    """
    from transformers import Cache

    found = {id(value): value for value in arguments.values() if isinstance(value, Cache)}
    strange = [name for name in NAMES if not isinstance(arguments.get(name), (Cache, type(None)))]
    if strange or len(found) > 1:
        what = f"{strange[0]} is a {type(arguments[strange[0]]).__name__}" if strange else f"{len(found)} caches"
        raise UserError(
            f"the model was given {what}, expected one transformers.Cache; it cannot be followed",
            "Pass a DynamicCache, or leave the cache out.",
        )
    return next(iter(found.values()), None)
