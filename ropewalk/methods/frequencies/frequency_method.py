"""What a frequency method is: from a RopeSpec and a target length to Frequencies; everything else follows."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ropewalk.attention import cache_owner
from ropewalk.attention.engine import Rotation, engaged
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import parse
from ropewalk.methods.base import USE_IT_LIVE, Method, digest, refuse_if_on, require_beyond
from ropewalk.rope import architecture, live, trial
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LAST_POSITION = 2**24  # the last whole number before float32 skips one


class FrequencyMethod(Method):
    """A method that changes rotary frequencies. Subclasses write ``frequencies``, and ``native`` where a type says it.

    Attributes:
        runtime: True if frequencies depend on the length or the head, so that rotation happens at attention time and
            nothing can be saved; ``frozen`` may offer a static stand-in.
        raises: rope types, trained in, that this method extends by raising their factor; on others it goes on top.
    """

    axes: ClassVar[frozenset[str]] = frozenset({"frequencies"})
    runtime: ClassVar[bool] = False
    raises: ClassVar[frozenset[str]] = frozenset()

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        """Frequencies for ``target`` tokens (the length of the moment for length-dependent methods)."""
        raise TypeError(f"{type(self).__name__} does not define frequencies")

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any] | None:
        """Parameters of a rope type that says exactly the same in every engine, or None. Asked for plain specs only."""
        return None

    def temperature(self, rope: RopeSpec, positions: Tensor) -> Tensor | None:
        """Logit multiplier for queries at ``positions`` (int64 [B, Q]), or None."""
        return None

    def frozen(self, rope: RopeSpec, target: int) -> FrequencyMethod | None:
        """The static method that is saved in place of this one; itself if static, None if there is none."""
        return None if self.runtime else self

    def refine(self, frequencies: Frequencies) -> Frequencies:
        """Adjust frequencies that another method chose; methods on the "refinement" axis override this."""
        return frequencies

    # What follows is the same for all methods.

    def at(self, rope: RopeSpec, target: int) -> Frequencies:
        """Frequencies for ``target``, untouched where the window need not grow; on top of a trained-in scaling."""
        if rope.scale(target) == 1.0 and "frequencies" in self.axes:
            return Frequencies(rope.inv_freq, rope.attention_factor)
        found = self.frequencies(rope, target)
        return Frequencies(found.inv_freq, found.attention_factor * rope.attention_factor)

    def plan(self, config: PreTrainedConfig, to: int | None, on_top: bool | None = None) -> dict[str, Frequencies]:
        """Layer type -> Frequencies; sliding-window layers of mixed models are left out.

        Raises:
            UserError: if ``to`` is shorter than the pretrained window, or past what float32 positions can tell apart.
        """
        return {key: self.at(rope, length) for key, (rope, length) in self._targets(config, to, on_top).items()}

    def _targets(
        self, config: PreTrainedConfig, to: int | None, on_top: bool | None = None
    ) -> dict[str, tuple[RopeSpec, int]]:
        self.require(config, to)
        promised = {key: spec.length for key, spec in rope_config.read(config).items()}
        starting = self.starting(config, on_top)
        if reason := rope_config.misread(config):
            raise UserError(*reason)
        targets: dict[str, tuple[RopeSpec, int]] = {}
        for key, rope in starting.items():
            if rope.sliding:
                continue
            target = to if to is not None else max(promised[key], rope.window)  # less may be promised
            if target < rope.window:
                raise UserError(
                    f"target {target:,} is shorter than the pretrained window of {rope.window:,} tokens",
                    f"Choose a target of at least {rope.window} tokens; shorter inputs already fit.",
                )
            if target > LAST_POSITION:
                raise UserError(
                    f"target {target:,} is not reachable: past {LAST_POSITION:,} tokens float32 positions are no "
                    "longer whole numbers, and every engine computes its angles in float32",
                    f"Choose a target of at most {LAST_POSITION} tokens.",
                )
            targets[key] = (rope, target)
        if not targets:
            raise UserError(*_nothing_to_extend(config, starting))
        return targets

    def rounding(self, config: PreTrainedConfig, to: int | None, on_top: bool | None = None) -> float:
        """What the float32 formulas of all layer types may be off by, relative."""
        return max(live.rounding(rope, target) for rope, target in self._targets(config, to, on_top).values())

    def starting(self, config: PreTrainedConfig, on_top: bool | None = None) -> dict[str, RopeSpec]:
        """Layer type -> the rope that this method starts from; see ``rope.config.starting_specs``."""
        architecture.refuse_own_order(rope_config.text_config(config))
        return rope_config.starting_specs(config, on_top, self.raises)

    def fingerprint(self, model: nn.Module, to: int, whole: Method | None = None) -> str:
        self.require(model, to, whole)
        plan = self.plan(model.config, to)  # type: ignore[arg-type]
        numbers = {key: (f.inv_freq.tolist(), f.attention_factor) for key, f in plan.items()}
        if not self.runtime:
            return digest("static", sorted(numbers.items()))
        targets = self._targets(model.config, to)  # type: ignore[arg-type]
        grows = sorted(key for key, (rope, target) in targets.items() if rope.scale(target) > 1)  # see ``on``
        return digest(self.id, grows, sorted(numbers.items()))

    @contextmanager
    def applied(self, model: nn.Module, to: int | None) -> Iterator[None]:
        check_live(model)
        with live.restored(model) as before:
            rotations = self.written(model, to)
            if rotations or live.holds(before):  # an engine knows its caches; the plain model may read its own
                with engaged(model, to, rotations=rotations):
                    yield
            else:
                length = to or rope_config.promised_by(rope_config.read(model.config))  # type: ignore[arg-type]
                with cache_owner.owned(live.decoder(model), f"{self.id} for {length:,} tokens"):
                    yield

    def written(self, model: nn.Module, to: int | None) -> dict[str, Rotation]:
        """Write static frequencies into the live buffers; return run-time ones, layer type -> frequencies by length."""
        current = rope_config.read(model.config)  # type: ignore[arg-type]
        targets = self._targets(model.config, to)  # type: ignore[arg-type]
        if self.runtime:
            growing = {key: rope for key, (rope, target) in targets.items() if rope.scale(target) > 1}
            return {key: self._rotation(rope, current[key]) for key, rope in growing.items()}
        plan = {key: self.at(rope, target) for key, (rope, target) in targets.items()}
        tolerance = self.rounding(model.config, to)  # type: ignore[arg-type]
        live.write(model, plan, current, self._as_saved(model.config, to), tolerance)  # type: ignore[arg-type]
        return {}

    def _as_saved(self, config: PreTrainedConfig, to: int | None) -> PreTrainedConfig | None:
        """The text configuration with this method in it; None if it cannot be saved."""
        text, length = (
            copy.deepcopy(rope_config.text_config(config)),
            to or rope_config.promised_by(self.starting(config)),
        )
        try:
            rope_config.write(text, self.saved(config, to or length), length)
        except UserError:
            return None
        return text

    def _rotation(self, rope: RopeSpec, current: RopeSpec) -> Rotation:
        chosen: Callable[[int], Frequencies] = lambda length: self.at(rope, length)  # noqa: E731
        return Rotation(current, chosen, lambda positions: self.temperature(rope, positions))

    def rope_parameters(self, rope: RopeSpec, target: int, accepts: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The parameters to save: a native type where one says the same and is accepted, else flat longrope."""
        native: dict[str, Any] | None = None
        if rope.is_plain:
            untouched = rope.scale(target) == 1.0 and "refinement" not in self.axes
            native = {"rope_type": "default"} if untouched else self.native(rope, target)
        if native is not None:
            t = self.at(rope, target).attention_factor
            native = rope_config.complete(rope, {"rope_theta": rope.base, **native}, t)
            if native is not None and accepts(native):
                return native
        found = self.at(rope, target)
        if rope.rope_type == "proportional" and (same := rope_config.proportional(rope, found)):
            return same
        flat = rope_config.flat_longrope(rope, found, target)
        if not accepts(flat):
            changed = not torch.allclose(found.inv_freq, rope.inv_freq, rtol=1e-6, atol=1e-12)
            what = (
                "" if changed else ", of which it changes none: every pair that rotates has turned often; what is left"
            )
            what += "" if changed else f" is an attention factor of {found.attention_factor:.4g}"
            raise UserError(
                f"{self.id} cannot be written into this configuration: its layers take no rope type that says its "
                f"frequencies{what}",
                f"Measure the model as it is on longer text: ropewalk compare, --to {target} --methods none.",
            )
        return flat

    def saved(self, config: PreTrainedConfig, to: int, on_top: bool | None = None) -> dict[str, dict[str, Any]]:
        """Layer type -> rope parameters that say this method in a configuration.

        Raises:
            UserError: if no static parameters can.
        """
        table: dict[str, dict[str, Any]] = {}
        for key, (rope, target) in self._targets(config, to, on_top).items():
            static = self.frozen(rope, target)
            if static is None:
                raise UserError(
                    f"{self.id} cannot be saved in a configuration: {self.why_not_saved()}",
                    USE_IT_LIVE,
                )
            table[key] = static.rope_parameters(rope, target, partial(rope_config.accepts, config, key, to=to))
        return table

    def write(self, config: PreTrainedConfig, to: int, on_top: bool | None = None) -> dict[str, dict[str, Any]]:
        """Put what says this method, and the record of it, into a configuration; returns what ``saved`` does.

        Raises:
            UserError: as ``saved``, and where the target is not beyond the window.
        """
        window = rope_config.window_of(self.starting(config, on_top))
        require_beyond([self], to, window)
        parameters = self.saved(config, to, on_top)
        record = rope_config.extension(self.id, window, rope_config.pretrained_specs(config, on_top), parameters, to)
        rope_config.write(config, parameters, to, record)
        return parameters

    def static_plan(self, config: PreTrainedConfig, to: int, on_top: bool | None = None) -> dict[str, Frequencies]:
        """Layer type -> the frequencies that ``saved`` means to say."""
        targets = self._targets(config, to, on_top).items()
        static = {key: (self.frozen(rope, target), rope, target) for key, (rope, target) in targets}
        return {key: method.at(rope, target) for key, (method, rope, target) in static.items() if method is not None}

    def why_not_saved(self) -> str:
        return "it depends on the length, the head or the token, and configurations hold one vector of frequencies"

    def extend(self, model: PreTrainedModel, to: int | str, on_top: bool | None = None) -> None:
        to = parse(to)
        refuse_if_on(model, self.id)
        self.require(model, to)
        check_live(model)
        text, window = rope_config.text_config(model.config), rope_config.trained_window(model.config)
        before, trained, rotating = dict(vars(text)), copy.deepcopy(model.config), live.state(model)
        self.write(model.config, to, on_top)
        plan, tolerance = self.static_plan(trained, to, on_top), self.rounding(trained, to, on_top)
        try:  # what was written says what the method meant
            live.rebuild(model, plan)
            trial.compare(trained, model.config, plan, tolerance)
            live.check(model, plan, tolerance=tolerance)
        except UserError:
            vars(text).clear()
            vars(text).update(before)
            live.put(rotating)
            raise
        check_live(model)
        generation = getattr(model, "generation_config", None)
        if generation is not None and window <= (generation.max_length or 0) < to:  # it was the window's
            generation.max_length = to


def _nothing_to_extend(config: PreTrainedConfig, starting: Mapping[str, RopeSpec]) -> tuple[str, str]:
    """Why no rope of a model is an extension's to change, and what there is to do."""
    text = rope_config.text_config(config)
    reach = architecture.reach(text)
    if reach is None:
        kinds = ", ".join(starting)
        seen = f"its ropes ({kinds}) are not those of plain attention"
    else:
        seen = f"its rotating layers see {reach:,} tokens at most, no more than in training: no angle is new"
    return (
        f"no layer of this {text.model_type} has a rope that an extension may change: {seen}",
        "Measure the model as it is on longer text; what bounds it are its other layers, and their training.",
    )


def check_live(model: nn.Module) -> None:
    """Assert that the live rotary modules, and a forward of theirs, are what the configuration says.

    Raises:
        UserError: naming the layer type and the difference.
    """
    live.check(model, rope_config.read(model.config))  # type: ignore[arg-type]
