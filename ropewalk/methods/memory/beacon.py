"""Activation Beacon: tokens with projections of their own condense each window's keys and values (arXiv 2401.03462).

A beacon stands behind every ``ratio`` tokens of a window and sees all of the window before it, the beacons there, and
those of past windows. Tokens of the text do not see beacons of their own window, as they do in the official code: what
a token gets would change with whether the text goes on behind the window.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.methods.memory.condensing import CondensingMethod, State, WindowReader, Windows
from ropewalk.rope import architecture
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import decoder
from ropewalk.rope.probe import Rotating, probe
from ropewalk.rope.rotation import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROJECTIONS = ("q_proj", "k_proj", "v_proj")
MASKED = ("sdpa", "eager")  # attention that adds a mask of numbers to logits


class Beacons(nn.Module):
    """What is learnt: the embedding of a beacon, and what beacons are projected by; both begin as the model's own.

    Args:
        model: a live transformers model; its token that ends a text is what beacons begin as.
        layers: its attention layers.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Rotating]):
        super().__init__()
        config: Any = decoder(model).config
        table: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        ends = config.eos_token_id if config.eos_token_id is not None else 0
        end = torch.tensor([ends[0] if isinstance(ends, list) else ends], device=next(table.parameters()).device)
        self.embedding = nn.Parameter(table(end)[0].detach().clone())
        self.layers = nn.ModuleList(
            nn.ModuleDict({name: copy.deepcopy(getattr(layer.module, name)) for name in PROJECTIONS})
            for layer in layers
        )
        last: Any = self.layers[-1]
        del last[PROJECTIONS[0]]  # what the last layer asks decides nothing that is carried on

    @contextmanager
    def projecting(self, layers: Sequence[Rotating]) -> Iterator[None]:
        """Every token that the model reads is a beacon for a while."""
        with ExitStack() as stack:
            for layer, own in zip(layers, self.layers, strict=True):
                for name, projection in own.items():  # type: ignore[operator]
                    hook = getattr(layer.module, name).register_forward_hook(partial(_instead, projection))
                    stack.callback(hook.remove)
            yield


def _instead(projection: nn.Module, module: nn.Module, given: Any, found: Tensor) -> Tensor:
    projected: Tensor = projection(*given)
    return projected


class BeaconReader(WindowReader):
    """Carries on the keys and values of beacons.

    Args:
        beacons: as they are trained.
    """

    def __init__(self, model: nn.Module, beacons: Beacons, windows: Windows, ratio: int, drawn: Sequence[int]):
        super().__init__(model, windows, ratio, drawn)
        self.beacons, self.attending = beacons, _condensed_layers(model)

    def condense(self, state: State, ratio: int) -> None:
        """Read beacons behind the window, as if each stood at the place of the next token; turn their keys back."""
        device, rows = state.ids.device, len(state.ids)
        seen = torch.arange(ratio, self.windows.window + 1, ratio, device=device)  # tokens, by each beacon
        count, places = len(seen), state.carried + seen
        embedded = self.beacons.embedding.expand(rows, count, -1)
        mask = beacon_mask(seen, state.carried, self.windows.window).to(embedded.dtype).expand(rows, 1, -1, -1)
        with self.beacons.projecting(self.attending):
            self.forward(state, places, mask, inputs_embeds=embedded)
        stays = self._stays(state)
        moved = torch.arange(stays, stays + count, device=device) - places
        cached: Any
        for layer, cached in zip(self.attending, state.cache.layers, strict=True):
            new = cached.keys[:, :, -count:]
            if layer.rotary is not None:
                turn = Turn(layer.rotary.inv_freq, 1.0, layer.style, layer.place)
                new = turn.by(new, turn.tables(moved[None]))
            cached.keys = torch.cat([cached.keys[:, :, :stays], new], 2)
            cached.values = torch.cat([cached.values[:, :, :stays], cached.values[:, :, -count:]], 2)


def beacon_mask(seen: Tensor, carried: int, window: int) -> Tensor:
    """What is added to the logits of beacons, float32 [beacons, carried + window + beacons].

    Args:
        seen: tokens of the window that each beacon sees, int64 [beacons].
        carried: keys before the window.
        window: tokens.
    """
    keys = torch.arange(carried + window, device=seen.device)
    own = torch.ones(len(seen), len(seen), dtype=torch.bool, device=seen.device).tril()
    visible = torch.cat([keys < carried + seen[:, None], own], 1)
    return torch.zeros(visible.shape, device=seen.device).masked_fill(~visible, -torch.inf)


def _condensed_layers(model: nn.Module) -> list[Rotating]:
    """The attention layers of a model.

    Raises:
        UserError: if one of them sees less than all that comes before, or projects and attends in other ways.
    """
    text = rope_config.text_config(decoder(model).config)  # type: ignore[arg-type]
    near = sorted(set(architecture.layers(text)) - {"full_attention"})
    if near:
        raise UserError(
            f"beacon: {type(model).__name__} has layers of type {near[0]}, and a window is condensed where every layer "
            "sees all of it",
            "Use ext-tok, which leaves the layers as they are.",
        )
    attending = getattr(text, "_attn_implementation", None) or "eager"
    if attending not in MASKED:
        raise UserError(
            f"beacon: attention is {attending}, expected {' or '.join(MASKED)}: beacons see what a mask says",
            "model.set_attn_implementation('sdpa')",
        )
    layers = probe(model)
    missing = [name for layer in layers for name in PROJECTIONS if not hasattr(layer.module, name)]
    if missing or len(layers) != text.num_hidden_layers:
        what = f"no {missing[0]}" if missing else f"{len(layers)} attention layers of {text.num_hidden_layers}"
        raise UserError(
            f"beacon: {type(model).__name__} has {what}, expected {', '.join(PROJECTIONS)} in every layer: beacons are "
            "projected by their own",
            "Use ext-tok, which leaves the layers as they are.",
        )
    return layers


@dataclass(frozen=True)
class ActivationBeacon(CondensingMethod):
    """Keys and values of beacons stand for past windows; only their projections and their embedding are learnt.

    Attributes:
        sinks: first tokens whose keys and values stay as they are; in the paper 1 for Llama 3, else 0.
    """

    sinks: int = 1  # type: ignore[misc]

    name: ClassVar[str] = "beacon"

    def costs(self, model: nn.Module) -> str:
        return f"a beacon is read for every {self.every} tokens of past windows"

    def added(self, model: PreTrainedModel) -> nn.Module:
        return Beacons(model, _condensed_layers(model))

    def reader(self, model: nn.Module, to: int) -> BeaconReader:
        windows = self.windows(model.config)  # type: ignore[arg-type]
        beacons: Any = model.ropewalk_memory
        return BeaconReader(model, beacons, windows, self.ratio_for(windows, to), self.drawn)
