"""The rotary modules of a loaded model: reading them, writing them in place, and checking them against a spec.

transformers builds ``inv_freq`` once, when the module is made; changing the configuration afterwards changes nothing.
So the model's own buffers are written, never replaced: a replaced module would lose its buffers in a meta-device load.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.rope import architecture
from ropewalk.rope.spec import ALL, AXES, STILL, Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

ON = "_ropewalk_on"  # attribute of the decoder while a method is on: the method's id
ROWS = "_ropewalk_rows"  # attribute of the decoder while a method looks from row to row: they must stay rows
BETWEEN_FORWARDS = ("max_seq_len_cached", "long_inv_freq", "rope_init_fn", "config")  # what they keep or ask, by name
TOLERANCE = 1e-6  # relative; the float32 rounding of transformers' own formulas


@contextmanager
def forward_of(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Another forward of one module, for a while; an own one, of what moves weights between devices, comes back."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def rounding(rope: RopeSpec, target: int) -> float:
    """What float32 formulas may be off by: blends of w and w / s lose up to a factor of s."""
    return TOLERANCE * rope.scale(target)


@dataclass(eq=False)
class Rotary:
    """One layer type's rotation inside one rotary module."""

    module: nn.Module
    layer_type: str

    @property
    def prefix(self) -> str:
        return "" if self.layer_type == ALL else f"{self.layer_type}_"

    @property
    def inv_freq(self) -> Tensor:
        """The live buffer, float32 [d/2]."""
        buffer: Tensor = getattr(self.module, f"{self.prefix}inv_freq")
        return buffer

    @property
    def original_inv_freq(self) -> Tensor | None:
        """The module's own copy, from which transformers restores and re-initialises."""
        return getattr(self.module, f"{self.prefix}original_inv_freq", None)

    @property
    def built(self) -> Tensor:
        """``inv_freq`` as it was when the module was made; ``dynamic`` and ``longrope`` change the live one."""
        return self.inv_freq if self.original_inv_freq is None else self.original_inv_freq

    @property
    def attention_scaling(self) -> float:
        return float(getattr(self.module, f"{self.prefix}attention_scaling", 1.0))

    @attention_scaling.setter
    def attention_scaling(self, value: float) -> None:
        setattr(self.module, f"{self.prefix}attention_scaling", value)

    @property
    def asks_anew(self) -> bool:
        """Whether forwards ask function and configuration (PhiMoE), and not the buffer."""
        return hasattr(self.module, "rope_init_fn")

    def ask(self, function: Callable[..., tuple[Tensor, float]], config: Any) -> None:
        """What such forwards ask from now on."""
        module: Any = self.module
        module.rope_init_fn, module.config = function, config

    @property
    def rope_type(self) -> str:
        """What the module recomputes by: ``dynamic`` and ``longrope`` change ``inv_freq`` in every forward."""
        kind: str | dict[str, str] = getattr(self.module, "rope_type", "default")
        return kind[self.layer_type] if isinstance(kind, dict) else kind

    @rope_type.setter
    def rope_type(self, value: str) -> None:
        kind = getattr(self.module, "rope_type", None)
        if isinstance(kind, dict):
            kind[self.layer_type] = value
        elif kind is not None:
            self.module.rope_type = value  # type: ignore[assignment]


def decoder(model: nn.Module) -> nn.Module:
    """The language-model part of a model (without vision towers and heads)."""
    get = getattr(model, "get_decoder", None)
    found = get() if callable(get) else None
    return found if isinstance(found, nn.Module) and hasattr(found, "config") else model  # a head may have that name


@contextmanager
def still(body: nn.Module) -> Iterator[None]:
    """Without dropout; the training flag of every module comes back."""
    flags = [(module, module.training) for module in body.modules()]
    try:
        body.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training


def rotaries(model: nn.Module) -> list[Rotary]:
    """Every rotation in the language model.

    Raises:
        UserError: if there is no module with an ``inv_freq`` buffer, or it is not in the order of pairs.
    """
    found: list[Rotary] = []
    body = decoder(model)
    if callable(text := getattr(getattr(body, "config", None), "get_text_config", None)):
        architecture.refuse_own_order(text(decoder=True))
    for module in body.modules():
        for name, _ in module.named_buffers(recurse=False):
            if name.endswith("inv_freq") and "original" not in name:
                found.append(Rotary(module, name.removesuffix("inv_freq").removesuffix("_") or ALL))
    if not found:
        raise UserError(f"{type(model).__name__} has no rotary module with an 'inv_freq' buffer: nothing to extend")
    return found


def in_float32(wanted: Tensor, live: Tensor, spec: RopeSpec) -> Tensor:
    """``wanted`` (float64) as float32, keeping the bits of ``live`` where it equals what ``spec`` says is in use.

    transformers computes its tables in float32 throughout; a frequency that a method leaves alone must not move by that
    rounding.
    """
    unchanged = (wanted - spec.inv_freq).abs() <= 1e-12 * wanted.abs()
    return torch.where(unchanged, live.detach().float().cpu(), wanted.float())


def write(
    model: nn.Module,
    plan: Mapping[str, Frequencies],
    current: Mapping[str, RopeSpec],
    saved: PreTrainedConfig | None = None,
    tolerance: float = TOLERANCE,
) -> None:
    """Write frequencies and attention factor of each layer type in ``plan`` into the live buffers.

    What equals ``current`` (the specs in use) keeps its bits. Layer types outside ``plan`` are left alone.

    Args:
        model: a live transformers model.
        plan: layer type -> what it is to rotate by.
        current: layer type -> what it rotates by now.
        saved: text configuration that says ``plan``: what a load of it would build is written, so that a saved model
            computes the same to the last bit; in bfloat16 a last bit of an angle can move a logit by whole units.
        tolerance: relative, of what was written to ``plan``; where ``saved`` builds something else, it is not used.

    Raises:
        UserError: if a layer type has no live rotation, or shapes differ.
    """
    live = rotaries(model)
    missing = set(plan) - {rotary.layer_type for rotary in live}
    if missing:
        raise UserError(f"layer types {sorted(missing)} have no rotary module; live: {[r.layer_type for r in live]}")
    with torch.no_grad():
        for rotary in live:
            if rotary.layer_type not in plan:
                continue
            frequencies = plan[rotary.layer_type]
            new = frequencies.inv_freq
            if new.shape != rotary.inv_freq.shape:
                raise UserError(
                    f"layer type {rotary.layer_type!r} rotates {2 * rotary.inv_freq.numel()} dimensions per head, "
                    f"the method gives frequencies of shape {tuple(new.shape)}"
                )
            value, t = in_float32(new, rotary.built, current[rotary.layer_type]), frequencies.attention_factor
            if saved is not None and not bool((new == current[rotary.layer_type].inv_freq).all()):
                loaded, factor, _ = built(rotary, saved)
                if bool(_close(loaded, new, tolerance).all()) and abs(factor - t) <= tolerance * t:
                    value, t = loaded, factor
            rotary.inv_freq.copy_(value)
            if rotary.original_inv_freq is not None:
                rotary.original_inv_freq.copy_(value)
            rotary.attention_scaling = t
            rotary.rope_type = "default"  # nothing recomputes behind our back
            if rotary.asks_anew:
                rotary.ask(partial(_given, value.to(rotary.inv_freq.device), t), _plainly(rotary.module.config))
    check(model, plan, tolerance)


def _given(inv_freq: Tensor, factor: float, *asked: Any, **more: Any) -> tuple[Tensor, float]:
    return inv_freq, factor


def _plainly(config: Any) -> Any:
    """The configuration with a rope of which a forward that reads it takes nothing else."""
    plain = copy.copy(config)
    plain.rope_parameters = {**config.rope_parameters, "rope_type": "default"}
    return plain


def built(rotary: Rotary, config: PreTrainedConfig) -> tuple[Tensor, float, str]:
    """What a load of a text configuration would build there: frequencies float32 [d/2], attention factor, rope type."""
    build, name, rope_type = _function(rotary, config)
    inv_freq, factor = build(config, device=rotary.inv_freq.device, layer_type=name)
    return inv_freq.to(rotary.inv_freq.device), factor, rope_type


def _function(rotary: Rotary, config: PreTrainedConfig) -> tuple[Callable[..., tuple[Tensor, float]], str | None, str]:
    """The function of a rope type, the layer type that it is asked for, and that rope type."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    module: Any = rotary.module
    name = None if rotary.layer_type == ALL else rotary.layer_type
    parameters: Any = config.rope_parameters if name is None else config.rope_parameters[name]
    rope_type: str = parameters["rope_type"]
    build = ROPE_INIT_FUNCTIONS.get(rope_type) or module.compute_default_rope_parameters
    if rope_type == "dynamic" and parameters.get("alpha"):  # one base at all lengths, in code of the model's own
        build = getattr(module, "compute_ntk_alpha_rope_parameters", build)
    return build, name, rope_type


def rebuild(model: nn.Module, layer_types: Collection[str]) -> None:
    """Bring live rotations to exactly what a reload of the model's present configuration would build."""
    config = decoder(model).config.get_text_config(decoder=True)  # type: ignore[union-attr, operator]
    for rotary in rotaries(model):
        if rotary.layer_type not in layer_types:
            continue
        inv_freq, rotary.attention_scaling, rotary.rope_type = built(rotary, config)
        rotary.module.config = config  # a copy of its own would still say the rope of before
        vars(rotary.module).pop(f"{rotary.prefix}long_inv_freq", None)
        if rotary.asks_anew:
            rotary.ask(_function(rotary, config)[0], config)
        with torch.no_grad():
            rotary.inv_freq.copy_(inv_freq)
            if rotary.original_inv_freq is not None:
                rotary.original_inv_freq.copy_(inv_freq)


@dataclass(eq=False)
class _Kept:
    """One rotation as it was."""

    rotary: Rotary
    inv_freq: Tensor
    original: Tensor | None
    attention_scaling: float
    rope_type: str
    cached: dict[str, Any]


State = list[_Kept]


def state(model: nn.Module) -> State:
    """Copies of all that every rotary module holds."""
    found: State = []
    for rotary in rotaries(model):
        original = rotary.original_inv_freq
        cached = {k: v for k, v in vars(rotary.module).items() if k.endswith(BETWEEN_FORWARDS)}
        copies = rotary.inv_freq.clone(), None if original is None else original.clone()
        found.append(_Kept(rotary, *copies, rotary.attention_scaling, rotary.rope_type, cached))
    return found


@torch.no_grad()
def put(state: State) -> None:
    """Bring every rotary module to a ``state`` of the same model, bit for bit."""
    for kept in state:
        kept.rotary.inv_freq.copy_(kept.inv_freq)
        if kept.original is not None and kept.rotary.original_inv_freq is not None:
            kept.rotary.original_inv_freq.copy_(kept.original)
        kept.rotary.attention_scaling = kept.attention_scaling
        kept.rotary.rope_type = kept.rope_type
        attributes = vars(kept.rotary.module)
        for name in [k for k in attributes if k.endswith(BETWEEN_FORWARDS)]:
            del attributes[name]
        attributes.update(kept.cached)


def holds(state: State) -> bool:
    """Whether the rotary modules rotate as they did, bit for bit."""
    return all(
        torch.equal(kept.rotary.inv_freq, kept.inv_freq) and kept.rotary.attention_scaling == kept.attention_scaling
        for kept in state
    )


@contextmanager
def restored(model: nn.Module) -> Iterator[State]:
    """Bring every rotary module back, bit for bit, on leaving; gives the state that it brings back."""
    before = state(model)
    try:
        yield before
    finally:
        put(before)


def check(model: nn.Module, expected: Mapping[str, RopeSpec | Frequencies], tolerance: float = TOLERANCE) -> None:
    """Compare the live rotations with what they should be, to a relative ``tolerance``: buffers, then a forward.

    Buffers are not compared where they do not say what a forward does: in types that recompute (``dynamic``, two sets
    of ``longrope``), and in modules that do not read them.

    Raises:
        UserError: naming the layer type and how it differs (missing, shape, first differing index, attention factor).
    """
    live = rotaries(model)
    with restored(model):
        for layer_type, want in expected.items():
            matching = [rotary for rotary in live if rotary.layer_type == layer_type]
            if not matching:
                raise UserError(
                    f"layer type {layer_type!r} has no live rotary module; live: {[r.layer_type for r in live]}"
                )
            for rotary in matching:
                _compare(rotary, want, tolerance)


def _close(have: Tensor, expected: Tensor, tolerance: float) -> Tensor:
    return torch.isclose(have.detach().double().cpu(), expected, rtol=tolerance, atol=STILL)


def _compare(rotary: Rotary, want: RopeSpec | Frequencies, tolerance: float) -> None:
    where = f"live rotary of layer type {rotary.layer_type!r} ({type(rotary.module).__name__})"
    mend = (
        "Reload the model after changing its configuration, or let ropewalk change both: method.extend(model, to=...)"
    )
    if rotary.inv_freq.dtype != torch.float32:
        mend = f"inv_freq is {rotary.inv_freq.dtype}, expected float32: from_pretrained(dtype=...), not model.half()."
    recomputes = isinstance(want, RopeSpec) and (want.rope_type == "dynamic" or want.long_factors is not None)
    if not (recomputes or rotary.asks_anew):
        held = rotary.inv_freq.detach().double().cpu(), rotary.attention_scaling
        _compare_one(where, "inv_freq", held, (want.inv_freq, want.attention_factor), tolerance, mend)
    mend = "This module does not rotate by its buffer; update transformers, or report the architecture."
    lasts = {1: want.inv_freq}
    if isinstance(want, RopeSpec) and want.long_factors is not None:
        long = torch.tensor(want.long_factors, dtype=torch.float64)
        lasts[want.window] = want.base_inv_freq / long
    for last, inv_freq in lasts.items():
        turned = forwarded(rotary, last)
        if turned is not None:
            meant = torch.atan2(inv_freq.sin(), inv_freq.cos()), want.attention_factor
            _compare_one(f"forward of the {where}", "frequency", turned, meant, tolerance + TOLERANCE, mend)
    if isinstance(want, RopeSpec) and want.axes and (seen := axes(rotary)) is not None:
        wrong = [i for i, w in enumerate(want.inv_freq) if w > STILL and seen[i] != want.axes[i]]
        for i in wrong[:1]:
            raise UserError(
                f"{where}: pair {i} turns with the {AXES[seen[i]]}, the configuration gives the {AXES[want.axes[i]]} "
                f"({len(wrong)} of {len(seen)} differ)",
                mend,
            )


Turned = tuple[Tensor, float]  # frequencies, float64 [d/2], and attention factor


def _compare_one(where: str, name: str, have: Turned, want: Turned, tolerance: float, mend: str) -> None:
    (seen, factor), (meant, wanted) = have, want
    if seen.shape != meant.shape:
        raise UserError(
            f"{where} rotates {2 * seen.numel()} dimensions, the configuration says {2 * meant.numel()}", mend
        )
    wrong = ~_close(seen, meant, tolerance)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        raise UserError(
            f"{where}: {name}[{i}] is {seen[i]:.9g}, the configuration gives {meant[i]:.9g} "
            f"({int(wrong.sum())} of {seen.numel()} differ)",
            mend,
        )
    if abs(factor - wanted) > tolerance * wanted:
        raise UserError(f"{where}: attention factor is {factor:.9g}, the configuration gives {wanted:.9g}", mend)


def forwarded(rotary: Rotary, last: int) -> Turned | None:
    """What a forward really rotates by where the last of the positions is ``last``, from its cosines and sines.

    None where its tables are of a form that is not known here. Modules that recompute do so: see ``restored``.
    """
    tables = _tables(rotary, [1, last])
    if isinstance(tables, Tensor) and tables.is_complex():
        tables = tables.real, tables.imag
    if not isinstance(tables, tuple) or len(tables) != 2 or tables[0].shape != tables[1].shape:
        return None
    cos, sin = (table.reshape(-1, 2, table.shape[-1])[0, 0].double().cpu() for table in tables)
    pairs = rotary.inv_freq.numel()
    if len(cos) == 2 * pairs:  # halves, or neighbours
        halves = torch.equal(cos[:pairs], cos[pairs:]) and torch.equal(sin[:pairs], sin[pairs:])
        cos, sin = (cos[:pairs], sin[:pairs]) if halves else (cos[::2], sin[::2])
    if len(cos) != pairs:
        return None
    return torch.atan2(sin, cos), float(torch.hypot(cos, sin).mean())


def _tables(rotary: Rotary, positions: list[int]) -> Any:
    """What the module itself returns, in float32; hooks of methods do not meet it."""
    probe = torch.zeros(1, 1, 1, dtype=torch.float32, device=rotary.inv_freq.device)
    arguments = {} if rotary.layer_type == ALL else {"layer_type": rotary.layer_type}
    places = torch.tensor([positions], device=probe.device)
    section = (getattr(getattr(rotary.module, "config", None), "rope_parameters", None) or {}).get("mrope_section")
    if section:
        places = places.expand(len(section), 1, -1)  # a position on each axis; of text they are the same
    with torch.no_grad(), torch.autocast(probe.device.type, enabled=False):
        return rotary.module.forward(probe, places, **arguments)


def axes(rotary: Rotary) -> tuple[int, ...] | None:
    """The axis of M-RoPE whose position turns each pair, [d/2], seen in a forward; None if it cannot be told from one.

    Token a is at 1 on axis a and at 0 on the others. A pair that does not rotate counts as of axis 0.
    """
    probe = torch.zeros(1, 1, 1, dtype=torch.float32, device=rotary.inv_freq.device)
    arguments = {} if rotary.layer_type == ALL else {"layer_type": rotary.layer_type}
    one_each = torch.eye(len(AXES), dtype=torch.long, device=probe.device)[:, None]
    with torch.no_grad(), torch.autocast(probe.device.type, enabled=False):
        tables = rotary.module.forward(probe, one_each, **arguments)
    pairs = rotary.inv_freq.numel()
    if not isinstance(tables, tuple) or tables[1].shape not in ((1, 3, pairs), (1, 3, 2 * pairs)):
        return None
    sines = tables[1][0]
    if sines.shape[1] == 2 * pairs:  # halves, or neighbours
        sines = sines[:, :pairs] if torch.equal(sines[:, :pairs], sines[:, pairs:]) else sines[:, ::2]
    return tuple(sines.abs().argmax(0).tolist())


def check_angles(model: nn.Module, position: int) -> float:
    """Largest error of the live cos and sin at ``position`` against a float64 computation from the live ``inv_freq``.

    Catches tables kept in half precision, where neighbouring positions collapse.

    Raises:
        UserError: if the error is larger than float32 angles explain (position x 2^-23 radians).
    """
    with restored(model):  # types that recompute do so in the probe's forward
        worst = max(_angle_error(rotary, position) for rotary in rotaries(model))
    allowed = position * 2.0**-23 + 1e-5
    if worst > allowed:
        raise UserError(
            f"cos/sin at position {position} are off by {worst:.3g} (float32 angles allow {allowed:.3g})",
            "The rotary tables are kept in low precision: load the model with from_pretrained, not model.half().",
        )
    return worst


def _angle_error(rotary: Rotary, position: int) -> float:
    output = _tables(rotary, [position])
    if not isinstance(output, tuple):
        return 0.0  # complex tables (Llama 4) are built in float32 by construction
    angles = rotary.inv_freq.detach().double().cpu() * position
    worst = 0.0
    for table, exact in zip(output, (angles.cos(), angles.sin()), strict=True):
        values = table.reshape(-1, table.shape[-1])[0].double().cpu() / rotary.attention_scaling
        order = torch.cat([exact, exact]), exact.repeat_interleave(2), exact
        errors = [float((values - o).abs().max()) for o in order if o.shape == values.shape]
        worst = max(worst, min(errors, default=0.0))
    return worst
