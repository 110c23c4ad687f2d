"""Who filled a cache: keys that one method cached mean nothing to another, nor to the plain model.

The layers of a cache that is filled under a method become of a subclass that remembers under which setting, and refuses
every other reader. It goes along with copies and with all that is done to a cache; an emptied layer is free again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Any

import torch
from torch import nn

from ropewalk.attention import cache_argument
from ropewalk.common.errors import UserError

OWNER = "_ropewalk_owner"  # attribute of the layers of a cache: the setting that filled them
SETTING = "_ropewalk_setting"  # attribute of the decoder while a method is on: what its caches are filled under
PLAIN = "the model without a method"

reading: set[str] = set()  # settings of the models that are in a forward pass


@contextmanager
def owned(body: nn.Module, setting: str) -> Iterator[None]:
    """Let caches that a decoder fills meanwhile be read under ``setting`` alone; compiled forwards are not watched."""
    names = list(signature(body.forward).parameters)

    def begin(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not torch.compiler.is_compiling():
            refuse_others(_filled(dict(zip(names, arguments, strict=False)) | keywords), setting)
            reading.add(setting)

    def end(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        if not torch.compiler.is_compiling() and setting in reading:  # else it was refused
            reading.discard(setting)
            returned = dict(output if isinstance(output, Mapping) else enumerate(output or ()))
            for held in (dict(zip(names, arguments, strict=False)) | keywords, returned):
                claim(_filled(held), setting)

    setattr(body, SETTING, setting)
    hooks = (
        body.register_forward_pre_hook(begin, with_kwargs=True),
        body.register_forward_hook(end, with_kwargs=True, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        delattr(body, SETTING)


def _filled(held: Mapping[Any, Any]) -> list[Any]:
    """The layers of the cache among arguments or outputs that hold keys."""
    return [layer for layer in getattr(cache_argument.among(held), "layers", []) if hasattr(layer, "keys")]


def claim(layers: Iterable[Any], setting: str) -> None:
    """Let nobody but ``setting`` read what the layers hold."""
    for layer in layers:
        if not hasattr(layer, OWNER):
            kind: Any = type(layer)
            layer.__class__ = _owned(kind)
        setattr(layer, OWNER, setting)


def inherit(layer: Any, source: Any) -> None:
    """Let a layer that was made of the keys of another one have its owner."""
    if hasattr(source, OWNER):
        claim([layer], getattr(source, OWNER))


def refuse_others(layers: Iterable[Any], setting: str) -> None:
    """Refuse layers that hold what another setting, or the plain model, put there.

    Raises:
        UserError: naming both.
    """
    for layer in layers:
        owner = getattr(layer, OWNER, PLAIN)
        if owner != setting and int(layer.get_seq_length()):
            raise _refusal(layer, owner, setting)


def _refusal(layer: Any, owner: str, reader: str) -> UserError:
    return UserError(
        f"the cache holds {int(layer.get_seq_length())} tokens that were read by {owner}, and is continued by {reader}",
        "Read the text from its first token on, with a new cache.",
    )


@cache
def _owned(kind: Any) -> Any:
    """``kind``, of which an owner may be said."""

    def update(self: Any, *states: Any, **more: Any) -> Any:
        owner = getattr(self, OWNER)
        if owner not in reading and not torch.compiler.is_compiling():
            if int(self.get_seq_length()):
                raise _refusal(self, owner, PLAIN)
            self.__class__ = kind
            delattr(self, OWNER)
        return kind.update(self, *states, **more)

    def reduced(self: Any) -> Any:
        return _empty, (kind,), vars(self)

    own = {"update": update, "__reduce__": reduced, "_layer_type": None, "__doc__": kind.__doc__}  # in no registry
    return type(kind)(kind.__name__, (kind,), own)


def _empty(kind: Any) -> Any:
    """What copies and pickles begin with."""
    return object.__new__(_owned(kind))
