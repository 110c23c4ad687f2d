"""Many prompts through one model, every shared prefix read once.

The prompts form a trie. Its trunk is read into a cache whose buffers never move: a branch is written behind the trunk,
asked, and forgotten by moving the end back, so nothing is copied. Small branches are packed into one forward, in which
each token sees the trunk and its own ancestors (tree attention, as in speculative decoding); answers are then decoded
in parallel behind the same trunk. All of it equals one forward per prompt, up to rounding; where it would not, the
prompts are run one by one, and ``Runner.how`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import Cache, DynamicLayer

from ropewalk.backends.backend import Ask, Reply
from ropewalk.backends.nll import BATCH_TOKENS, answer_match, best_and_nll, token_nll

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEP = 1024  # tokens of one forward behind a trunk; on a CPU, more are slower
SCORES = 2**26  # elements of a mask: with a long trunk, the step is shorter
WIDEST = 2**27  # elements of the widest activation of a forward that begins a text: it needs no mask, so it is longer
SHARED = 0.1  # prompts that share less than this much of their tokens are run in batches, which is as fast
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}  # of a loss in nats, on average; half precision:
ROUNDING = 0.15  # it moves losses by 0.05 on average; a wrong mask does by 0.8, a cache that is not seen by 2

PROBE = (3, 5, 4, 6, 7, 3, 8, 5, 4, 9, 6, 3, 7, 5, 8, 4, 3, 9, 5, 7, 6, 8, 4, 5)  # where no tokenizer is known
PROBED = 64  # tokens of a text to compare the ways on

Way = Literal["packed", "forked", "plain"]


class Runner:
    """Asks a live model, with whatever method is applied to it.

    Args:
        model: the model; the method must stay applied while the runner is in use.
        inexact: why reading with a cache, or in pieces, would not equal one forward; empty if it would.
        decoding_decides: True if the method acts on the cache, so that teacher forcing says nothing about it and
            every answer has to be decoded.
        batch_tokens: tokens of one forward where nothing is shared.
        step: tokens of one forward behind a trunk.
        probe: the beginning of an ordinary text, on which the ways are compared: rounding hardly moves the losses of
            likely tokens, and by several nats those of tokens that training never saw.
        decode: the text of some tokens, for asks that end at texts.

    Attributes:
        way: "packed" (shared prefixes, branches in one forward), "forked" (shared prefixes, one branch at a time) or
            "plain" (one prompt at a time).
        why: why it is not "packed"; empty if it is.
        asked: tokens of the prompts and answers so far.
        read: tokens that went through the model for them.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        inexact: str = "",
        decoding_decides: bool = False,
        batch_tokens: int = BATCH_TOKENS,
        step: int = STEP,
        probe: Sequence[int] = PROBE,
        decode: Callable[[list[int]], Any] = lambda _: "",
    ):
        self.model, self.decoding_decides, self.step, self.batch_tokens = model, decoding_decides, step, batch_tokens
        self.decode, self.read = decode, 0
        self.stops = stops(model)
        self.way, self.why = ("plain", inexact) if inexact or decoding_decides else self._try_ways(list(probe[:PROBED]))
        self.asked = self.read = 0

    @property
    def how(self) -> str:
        return f"{self.way}: {self.why}" if self.why else self.way

    def run(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """Every ask's index and reply, each as soon as it is there, in an order that shares prefixes.

        Raises:
            ValueError: if a prompt is empty.
        """
        if not all(len(ask.prompt) for ask in asks):
            raise ValueError("a prompt has no tokens")
        self.asked += sum(len(ask.prompt) + len(ask.answer) for ask in asks)
        if self.way == "plain" or not self._worth_sharing(asks):
            yield from self._plain(asks)
        else:
            with torch.no_grad():
                yield from Walk(self, asks).replies()

    def losses(self, ids: Sequence[int]) -> Tensor:
        """float32 [T - 1]: the negative log-likelihood of each token but the first, in nats.

        A long text is read in pieces behind one cache, so that the peak of memory is the cache's and not that of the
        activations.
        """
        self.asked += len(ids)
        if self.way == "plain" or len(ids) <= self.batch_tokens:
            self.read += len(ids)
            return token_nll(self.model, torch.tensor([list(ids)]))[0]
        trunk, parts = Trunk(self, len(ids)), []
        with torch.no_grad():
            while trunk.length < len(ids) - 1:
                start = trunk.length
                end = min(start + (self.step_at(start) if start else self.opening()), len(ids) - 1)
                parts.append(trunk.forward(ids[start:end], range(end - start), ids[start + 1 : end + 1])[:, 1])
        return torch.cat(parts)

    def step_at(self, depth: int) -> int:
        """Tokens of one forward behind a trunk of ``depth``."""
        return max(1, min(self.step, SCORES // (depth + self.step)))

    def opening(self) -> int:
        """Tokens of a forward that begins a text."""
        config = self.model.config.get_text_config(decoder=True)
        return max(self.step, WIDEST // int(getattr(config, "intermediate_size", None) or 4 * config.hidden_size))

    def until_stop(self, written: Sequence[int]) -> tuple[int, ...]:
        """``written`` up to the first token that ends a text."""
        end = next((i for i, token in enumerate(written) if token in self.stops), len(written))
        return tuple(written[:end])

    def _worth_sharing(self, asks: Sequence[Ask]) -> bool:
        """Whether a trie saves tokens, memory (long prompts are read in pieces) or decoding."""
        if any(ask.room or len(ask.prompt) > self.batch_tokens for ask in asks):
            return True
        walk = Walk(self, asks)
        return walk.work(0, len(asks), 0) <= (1 - SHARED) * sum(len(ask.prompt) + len(ask.answer) for ask in asks)

    def _plain(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """Teacher forcing in batches of one length; decoding, where it is wanted, one prompt at a time."""
        if self.decoding_decides:
            for i, ask in enumerate(asks):
                written = self._generate(ask, max(ask.room, len(ask.answer)))
                right = written[: len(ask.answer)] == tuple(ask.answer) if ask.answer else None
                yield i, Reply(right, None, written[: ask.room])
            return
        by_length: dict[int, list[int]] = {}
        for i, ask in enumerate(asks):
            by_length.setdefault(len(ask.prompt) + len(ask.answer), []).append(i)
        for length, members in by_length.items():
            size = max(1, self.batch_tokens // length)
            for first in range(0, len(members), size):
                yield from self._batch([(i, asks[i]) for i in members[first : first + size]])

    def _batch(self, some: Sequence[tuple[int, Ask]]) -> Iterator[tuple[int, Reply]]:
        closed = [ask for _, ask in some if ask.answer]
        prompts, answers = [list(ask.prompt) for ask in closed], [list(ask.answer) for ask in closed]
        self.read += sum(map(len, prompts + answers))
        verdicts = iter(answer_match(self.model, prompts, answers, self.batch_tokens))
        for i, ask in some:
            right, logprob = next(verdicts) if ask.answer else (None, None)
            yield i, Reply(right, logprob, self._generate(ask, ask.room))

    def over(self, ask: Ask, written: Sequence[int]) -> bool:
        """Whether the last tokens that were written complete a text at which an ask ends."""
        if not ask.ends:
            return False
        text = self.decode(list(written[-max(map(len, ask.ends)) - 1 :]))
        return any(end in text for end in ask.ends)

    def _generate(self, ask: Ask, room: int) -> tuple[int, ...]:
        """Greedy tokens by the model's own ``generate``, which knows what its caches and methods want."""
        if not room:
            return ()
        start = len(ask.prompt)
        ids = torch.tensor([list(ask.prompt)], device=self.model.device)

        def over(row: Tensor, _: object) -> Tensor:
            return torch.tensor([self.over(ask, row[0, start:].tolist())], device=row.device)

        with _greedy(self.model, room):
            mask = torch.ones_like(ids)
            out = self.model.generate(ids, attention_mask=mask, stopping_criteria=[over])  # type: ignore[operator]
        self.read += out.shape[1]
        return self.until_stop(out[0, start:].tolist())

    def entropy(self, prompt: Sequence[int]) -> float:
        """Of the token behind a prompt, in nats: by the forward that ``generate`` begins with, in float32."""
        ids = torch.tensor([list(prompt)], device=self.model.device)
        with _greedy(self.model, 1):
            out = self.model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), output_logits=True, return_dict_in_generate=True
            )
        self.asked += ids.shape[1]
        self.read += ids.shape[1]
        return float(torch.special.entr(out.logits[0][0].float().softmax(-1)).sum())

    def _try_ways(self, ids: list[int]) -> tuple[Way, str]:
        """The fastest way that gives the losses of one forward on a few tokens."""
        config = self.model.get_decoder().config
        a, b = len(ids) // 3, 2 * len(ids) // 3
        trunk, branches = ids[:a], [ids[a:b], [*ids[a : a + 3], *ids[: a // 3]], ids[b:]]
        with torch.no_grad():
            expected = [self._one_forward(trunk, branch) for branch in branches]
            try:
                if not self._agree(expected, self._behind(trunk, branches, masked=False)):
                    return "plain", "this model's cache does not give the results of one forward"
            except Exception as error:  # caches that are no list of keys and values fail in many ways
                return "plain", f"this model's cache cannot be cut ({type(error).__name__})"
            if config._attn_implementation not in ("sdpa", "eager"):
                return "forked", f"attention implementation {config._attn_implementation!r} takes no mask of ours"
            if _has_windows(config):
                return "forked", "layers with a sliding window take no mask of ours"
            try:
                packs = self._agree(expected, self._behind(trunk, branches, masked=True))
                packs &= self._follows_positions(ids)
            except Exception as error:
                return "forked", f"this model takes no mask of ours ({type(error).__name__})"
        return ("packed", "") if packs else ("forked", "this model does not follow masks and positions of ours")

    def _agree(self, expected: Sequence[Tensor], found: Sequence[Tensor]) -> bool:
        off = (torch.cat(list(expected)) - torch.cat(list(found))).abs().mean()
        return bool(off <= TOLERANCE.get(self.model.dtype, ROUNDING))

    def _follows_positions(self, ids: list[int]) -> bool:
        """Whether positions move anything, which in half precision is less than rounding."""
        moved = []
        for shift in (0, 1):
            trunk = Trunk(self, PROBED)
            trunk.forward(ids[:-2])
            places = torch.tensor([len(ids) - 2 + shift])
            moved.append(trunk.forward(ids[-2:-1], [0], ids[-1:], positions=places))
        return not torch.equal(*moved)

    def _one_forward(self, trunk: list[int], branch: list[int]) -> Tensor:
        """[len(branch) - 1] losses of a branch's tokens but the first."""
        row = torch.tensor([trunk + branch], device=self.model.device)
        keep = range(len(trunk), row.shape[1] - 1)
        mask = torch.ones_like(row)
        return best_and_nll(self.model, row, keep, branch[1:], attention_mask=mask, use_cache=False)[:, 1]

    def _behind(self, prefix: list[int], branches: list[list[int]], masked: bool) -> list[Tensor]:
        """The same losses, by branches behind a trunk: in one forward (``masked``) or one at a time."""
        trunk, losses = Trunk(self, PROBED), []
        trunk.forward(prefix)
        for group in [branches] if masked else [[branch] for branch in branches]:
            tree = Tree(trunk, masked)
            paths = [tree.add(branch)[:-1] for branch in group]
            found = tree.read([node for path in paths for node in path], [t for branch in group for t in branch[1:]])
            losses += found[:, 1].split([len(path) for path in paths])
            trunk.cut(len(prefix))
        return losses


class Trunk:
    """A prefix in a cache, with room behind it."""

    def __init__(self, runner: Runner, capacity: int):
        self.runner, self.model = runner, runner.model
        layer: Any = partial(RoomyLayer, capacity + runner.step)
        self.cache = Cache(layer_class_to_replicate=layer)
        self.length = 0

    def forward(
        self,
        ids: Sequence[int],
        keep: Sequence[int] = (),
        targets: Sequence[int] = (),
        mask: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Read ``ids`` behind what was read; float32 [len(keep), 2], see ``best_and_nll``.

        Args:
            ids: token ids.
            keep: indices into ``ids``.
            targets: the token whose loss is wanted behind each of them.
            mask: bool [len(ids), length + len(ids)], what each token sees; by default all before it and itself.
            positions: int64 [len(ids)]; by default those that follow.
        """
        device, end = self.model.device, self.length + len(ids)
        places = torch.arange(self.length, end) if positions is None else positions
        attention_mask = torch.ones(1, end, dtype=torch.long, device=device)
        if mask is not None:
            bias = torch.zeros(mask.shape, dtype=self.model.dtype, device=device)
            attention_mask = bias.masked_fill_(~mask.to(device), torch.finfo(bias.dtype).min)[None, None]
        row = torch.tensor([list(ids)], device=device)
        more = {"attention_mask": attention_mask, "position_ids": places[None].to(device), "use_cache": True}
        found = best_and_nll(self.model, row, keep, targets, self.cache, **more)
        self.length = end
        self.runner.read += len(ids)
        return found

    def cut(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        if length < self.length:
            self.cache.crop(length - self.length)
            self.length = length


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer in buffers with room: growing and forgetting copy nothing.

    A layer with a sliding window keeps everything too; the model's mask makes the window.
    """

    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._room = [self._buffer(states) for states in (key_states, value_states)]
        elif end > self.capacity:
            self.capacity = end + end // 4
            self._room = [self._buffer(old[..., :start, :]) for old in self._room]
        for buffer, states in zip(self._room, (key_states, value_states), strict=True):
            buffer[..., start:end, :] = states
        self.keys, self.values = (buffer[..., :end, :] for buffer in self._room)
        return self.keys, self.values

    def _buffer(self, states: Tensor) -> Tensor:
        """Room for ``capacity`` tokens that begins with ``states`` [B, H, n, D]."""
        self.capacity = max(self.capacity, states.shape[-2])
        buffer = states.new_empty(*states.shape[:-2], self.capacity, states.shape[-1])
        buffer[..., : states.shape[-2], :] = states
        return buffer


class Tree:
    """Branches behind a trunk.

    Args:
        trunk: what all branches share.
        masked: True if several branches stand behind the trunk at once, every token seeing the trunk and its own
            ancestors; False for a single branch, which needs no mask.
    """

    def __init__(self, trunk: Trunk, masked: bool):
        self.trunk, self.masked, self.base = trunk, masked, trunk.length
        self.tokens: list[int] = []
        self.parents: list[int] = []  # -1 is the end of the trunk
        self.children: dict[tuple[int, int], int] = {}
        self.sees: NDArray[np.bool_] = np.zeros((0, 0), bool)  # nodes that were read: which sees which

    def add(self, branch: Sequence[int]) -> list[int]:
        """The nodes of a branch; those that it has in common with earlier branches are shared."""
        path, node = [], -1
        for token in branch:
            key = (node, token)
            node = self.children.get(key, len(self.tokens))
            if node == len(self.tokens):
                self.children[key] = self.append(key[0], token)
            path.append(node)
        return path

    def append(self, parent: int, token: int) -> int:
        """A new node behind ``parent``; without a mask, all that stood behind that one is forgotten."""
        if not self.masked and parent + 1 < len(self.tokens):
            self.trunk.cut(self.base + parent + 1)
            self.sees = self.sees[: parent + 1, : parent + 1]
            del self.tokens[parent + 1 :], self.parents[parent + 1 :]
        self.tokens.append(token)
        self.parents.append(parent)
        return len(self.tokens) - 1

    def read(self, keep: Sequence[int], targets: Sequence[int]) -> Tensor:
        """Run the nodes that are new; float32 [len(keep), 2] at those of them, see ``best_and_nll``."""
        old, n = len(self.sees), len(self.tokens)
        sees = np.zeros((n, n), bool)
        sees[:old, :old] = self.sees
        for node in range(old, n):
            if self.parents[node] >= 0:
                sees[node] = sees[self.parents[node]]
            sees[node, node] = True
        self.sees = sees
        positions = torch.from_numpy(self.base - 1 + sees[old:].sum(1))
        mask = None
        if self.masked:
            trunk = torch.ones(n - old, self.base, dtype=torch.bool)
            mask = torch.cat([trunk, torch.from_numpy(sees[old:])], 1)
        return self.trunk.forward(self.tokens[old:], [node - old for node in keep], targets, mask, positions)


class Walk:
    """A walk over the trie of prompts, depth first: every shared prefix is read once.

    Attributes:
        order: indices of the asks, sorted by prompt.
        shared: how many tokens each prompt, in that order, has in common with the one before.
        sizes: tokens of each prompt and its answer, in that order.
    """

    def __init__(self, runner: Runner, asks: Sequence[Ask]):
        self.runner, self.asks = runner, asks
        self.order = sorted(range(len(asks)), key=lambda i: list(asks[i].prompt))
        rows = [np.asarray(asks[i].prompt) for i in self.order]
        self.shared = np.array([0, *(_common(a, b) for a, b in pairwise(rows))])
        self.sizes = np.array([len(asks[i].prompt) + len(asks[i].answer) for i in self.order])

    def replies(self) -> Iterator[tuple[int, Reply]]:
        """Index and reply of every ask."""
        self.trunk = Trunk(self.runner, max(len(ask.prompt) for ask in self.asks))
        ahead = self._begin()
        stack = [(0, len(self.asks), 0)]  # prompts ``first .. last`` share ``depth`` tokens, which are in the trunk
        while stack:
            first, last, depth = stack.pop()
            if not first <= ahead < last:
                self.trunk.cut(depth)
            common, known = self._known(first, last)
            if self._is_asked(first, last, depth):
                self.trunk.cut(depth)
                yield from self._ask(first, last)
            elif known > depth:
                end = min(known, self.trunk.length)
                if end <= depth:
                    end = min(known, depth + self._piece(self.work(first, last, depth), depth))
                    self.trunk.forward(self._prompt(first)[depth:end])
                stack.append((first, last, end))
            else:
                parts = self._parts(first, last, common, depth)
                stack += [(a, b, depth) for a, b in sorted(parts, key=lambda part: part[0] <= ahead < part[1])]

    def _begin(self) -> int:
        """Read the beginning of the longest prompt in one forward, which needs no mask; where that prompt stands.

        The walk then goes down along it without reading, and asks what branches off on the way back.
        """
        ahead = max(range(len(self.order)), key=lambda n: len(self._prompt(n)))
        first, last, depth = 0, len(self.order), 0
        while not self._is_asked(first, last, depth):
            common, known = self._known(first, last)
            if known > depth:
                depth = known
            else:
                parts = self._parts(first, last, common, depth)
                first, last = next((a, b) for a, b in parts if a <= ahead < b)
        if end := min(depth, self.runner.opening()):
            self.trunk.forward(self._prompt(ahead)[:end])
        return ahead

    def _prompt(self, n: int) -> Sequence[int]:
        return self.asks[self.order[n]].prompt

    def _known(self, first: int, last: int) -> tuple[int, int]:
        """Tokens that some prompts have in common, and how many of these lie before the last token of each."""
        shortest = min(len(self._prompt(n)) for n in range(first, last))
        common = int(min(self.shared[first + 1 : last], default=shortest))
        return common, min(common, shortest - 1)

    def _is_asked(self, first: int, last: int, depth: int) -> bool:
        """Whether what is left of some prompts goes into one forward."""
        alone = last - first == 1
        small = self.work(first, last, depth) <= self.runner.step_at(depth)
        return (small and (alone or self.runner.way == "packed")) or (alone and depth == len(self._prompt(first)) - 1)

    def _piece(self, work: int, depth: int) -> int:
        """Tokens to read next, so that the pieces are of one size."""
        return math.ceil(work / math.ceil(work / self.runner.step_at(depth)))

    def work(self, first: int, last: int, depth: int) -> int:
        """Tokens of the trie of prompts ``first .. last`` behind their first ``depth``."""
        return int(self.sizes[first:last].sum() - depth - self.shared[first + 1 : last].sum())

    def _parts(self, first: int, last: int, common: int, depth: int) -> list[tuple[int, int]]:
        """The branches behind ``common`` tokens; neighbours that fit into one forward stay together."""
        step = self.runner.step_at(depth) if self.runner.way == "packed" else 0
        cuts = [i for i in range(first + 1, last) if self.shared[i] == common]
        parts: list[tuple[int, int]] = []
        for a, b in pairwise([first, *cuts, last]):
            if parts and self.work(parts[-1][0], b, depth) <= step:
                parts[-1] = (parts[-1][0], b)
            else:
                parts.append((a, b))
        return parts

    def _ask(self, first: int, last: int) -> Iterator[tuple[int, Reply]]:
        """Ask a few prompts behind the trunk, teacher-forced first, then decoded in parallel."""
        members = self.order[first:last]
        tree = Tree(self.trunk, masked=len(members) > 1)
        ends: dict[int, int] = {}
        keep: list[int] = []
        targets: list[int] = []
        for i in members:
            prompt, answer = self.asks[i].prompt[tree.base :], self.asks[i].answer
            path = tree.add([*prompt, *answer[:-1]])
            ends[i] = path[len(prompt) - 1]
            keep += path[len(prompt) - 1 :]
            targets += answer or [0]
        found = iter(tree.read(keep, targets).split([max(1, len(self.asks[i].answer)) for i in members]))
        verdicts = {i: next(found) for i in members}
        written = self._decode(tree, ends, {i: int(rows[0, 0]) for i, rows in verdicts.items()})
        for i, rows in verdicts.items():
            answer = list(self.asks[i].answer)
            right = rows[:, 0].tolist() == answer if answer else None
            yield i, Reply(right, -rows[:, 1].mean().item() if answer else None, written[i])

    def _decode(self, tree: Tree, ends: dict[int, int], best: dict[int, int]) -> dict[int, tuple[int, ...]]:
        """Greedy tokens of each ask, from the node of its prompt's end and its first token; one forward per token."""
        written: dict[int, list[int]] = {i: [] for i in ends}
        going = [i for i in ends if self.asks[i].room]
        nodes = dict(ends)
        while True:
            for i in going:
                written[i].append(best[i])
            going = [
                i for i in going
                if best[i] not in self.runner.stops and len(written[i]) < self.asks[i].room
                and not self.runner.over(self.asks[i], written[i])
            ]  # fmt: skip
            if not going:
                return {i: self.runner.until_stop(tokens) for i, tokens in written.items()}
            nodes = {i: tree.append(nodes[i], best[i]) for i in going}
            found = tree.read(list(nodes.values()), [0] * len(nodes))
            best = {i: int(token) for i, token in zip(nodes, found[:, 0].tolist(), strict=True)}


def stops(model: PreTrainedModel) -> frozenset[int]:
    """Tokens that end a text."""
    config = getattr(model, "generation_config", None) or model.config
    ends = config.eos_token_id
    return frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)


@contextmanager
def _greedy(model: PreTrainedModel, room: int) -> Iterator[None]:
    """Decoding as the model's probabilities say, whatever its generation_config asks for besides (penalties, ...)."""
    before, ends = model.generation_config, sorted(stops(model))
    model.generation_config = GenerationConfig(
        max_new_tokens=room, do_sample=False, eos_token_id=ends or None, pad_token_id=min(ends, default=0)
    )
    try:
        yield
    finally:
        model.generation_config = before


def _has_windows(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return any(kind != "full_attention" for kind in kinds)
    return bool(getattr(config, "sliding_window", None)) and getattr(config, "use_sliding_window", True) is not False


def _common(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """How many tokens two rows begin with alike."""
    n = min(len(a), len(b))
    differ = a[:n] != b[:n]
    return int(differ.argmax()) if differ.any() else n
