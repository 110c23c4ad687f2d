"""What texts begin with, kept: a radix tree of token ids whose nodes hold keys and values.

A node holds the tokens that all texts below it go on with, so a beginning that several texts share is held once. What
was not used for longest is forgotten first, from the ends of texts. Texts of different profiles share nothing: their
keys are rotated differently.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

import torch

from ropewalk.serving.batch import Batch, States

if TYPE_CHECKING:
    from ropewalk.serving.profiles import Profile

SHORTEST = 32  # tokens; fewer are read as fast as they are found


@dataclass(eq=False)
class _Node:
    tokens: tuple[int, ...] = ()
    states: States = field(default_factory=list)
    children: dict[int, _Node] = field(default_factory=dict)
    used: int = 0


class Prefixes:
    """Beginnings of texts.

    Attributes:
        size: tokens held.
    """

    def __init__(self) -> None:
        self.size = 0
        self._roots: dict[Profile | None, _Node] = defaultdict(_Node)
        self._clock = count(1)

    def longest(self, tokens: Sequence[int], profile: Profile | None = None) -> States:
        """Keys and values of the longest beginning of ``tokens`` that is held; empty if none is worth it."""
        path = self._path(tokens, profile)
        if sum(shared for _, shared in path) < SHORTEST:
            return []
        parts = [[(k[:, :, :shared], v[:, :, :shared]) for k, v in node.states] for node, shared in path]
        return [tuple(torch.cat(one, 2) for one in zip(*layer, strict=True)) for layer in zip(*parts, strict=True)]  # type: ignore[misc]

    def keep(self, tokens: Sequence[int], batch: Batch, row: int, most: int) -> None:
        """Hold the beginning of a text that ``batch`` has read, and no more than ``most`` tokens in all."""
        tokens = tokens[:most]
        path = self._path(tokens, batch.profile)
        known = sum(shared for _, shared in path)
        node, shared = path[-1] if path else (self._roots[batch.profile], 0)
        if len(tokens) >= SHORTEST and known < len(tokens):
            if shared < len(node.tokens):
                _split(node, shared)
            end = tuple(tokens[known:])
            states = batch.states(row, known, len(tokens))
            node.children[end[0]] = _Node(end, states, used=next(self._clock))
            self.size += len(end)
        self.shrink(most)

    def shrink(self, most: int) -> None:
        """Forget until ``most`` tokens are held."""
        while self.size > max(most, 0):
            parent, leaf = min(self._leaves(), key=lambda pair: pair[1].used)
            stays = len(leaf.tokens) - (self.size - max(most, 0))
            if stays > 0:
                self.size -= len(leaf.tokens) - stays
                leaf.tokens = leaf.tokens[:stays]
                leaf.states = _part(leaf.states, 0, stays)
            else:
                self.size -= len(leaf.tokens)
                del parent.children[leaf.tokens[0]]

    def _path(self, tokens: Sequence[int], profile: Profile | None) -> list[tuple[_Node, int]]:
        """The nodes that ``tokens`` begin with, and how much of each; now they are used."""
        path: list[tuple[_Node, int]] = []
        node, at, now = self._roots[profile], 0, next(self._clock)
        while at < len(tokens) and (child := node.children.get(tokens[at])) is not None:
            child.used = now
            here = tokens[at : at + len(child.tokens)]
            shared = next((i for i, (a, b) in enumerate(zip(child.tokens, here, strict=False)) if a != b), len(here))
            path.append((child, shared))
            if shared < len(child.tokens):
                break
            node, at = child, at + shared
        return path

    def _leaves(self) -> Iterator[tuple[_Node, _Node]]:
        """Ends of texts, each behind its parent."""
        inner = list(self._roots.values())
        while inner:
            node = inner.pop()
            inner += [child for child in node.children.values() if child.children]
            yield from ((node, child) for child in node.children.values() if not child.children)


def _split(node: _Node, at: int) -> None:
    """Cut a node in two; each half gets memory of its own, so that forgetting one frees it."""
    end = _Node(node.tokens[at:], _part(node.states, at, len(node.tokens)), node.children, node.used)
    node.tokens, node.states, node.children = node.tokens[:at], _part(node.states, 0, at), {end.tokens[0]: end}


def _part(states: States, start: int, end: int) -> States:
    return [(k[:, :, start:end].clone(), v[:, :, start:end].clone()) for k, v in states]
