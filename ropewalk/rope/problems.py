"""What is wrong with a rope configuration, seen from the files alone.

Each check is a small generator over the raw JSON, before transformers fills gaps with defaults that hide the mistake.
A sound configuration yields nothing.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ropewalk.common.command_lines import command, setting
from ropewalk.common.outside import RESTORE
from ropewalk.rope import architecture, lookalikes
from ropewalk.rope.config import READABLE, RECORD, STATED, TRAINED_WITH_IT
from ropewalk.rope.keys import LARGEST_BASE, LARGEST_FACTOR
from ropewalk.rope.problem_kinds import KINDS
from ropewalk.rope.spec import ALL, ROUNDED

SCALED = READABLE - {"default"}
SCALES_LOGITS = frozenset({"yarn", "longrope"})
WITH_AXES = frozenset({"default", "yarn"})  # the types in which vLLM and SGLang take M-RoPE's three positions
NEEDS_ORIGINAL = frozenset({"yarn", "longrope", "llama3"})
# Rope keys that some engine reads; anything that looks like one of them but is not is a misspelling.
KNOWN_KEYS = (
    "rope_type type rope_theta factor original_max_position_embeddings attention_factor attn_factor beta_fast "
    "beta_slow mscale mscale_all_dim truncate short_factor long_factor short_mscale long_mscale low_freq_factor "
    "high_freq_factor partial_rotary_factor mrope_section mrope_interleaved max_trained_positions "
    "extrapolation_factor alpha llama_4_scaling_beta"
).split()
# Only these drop the cache when a generation crosses the switch between the two longrope factor sets.
SWITCHING = frozenset({"phi3", "phimoe", "phi4_multimodal"})
# With these the numbers that a method starts from are not known; the others only say what an engine does not do.
BLOCKING = frozenset(code for code, kind in KINDS.items() if kind.stops)
VLLM_BY_LENGTH = "0.30"  # of vLLM: the first that takes YaRN's length from max_position_embeddings
SYNONYMS = dict.fromkeys("scale scaling scaling_factor scale_factor rope_factor".split(), "factor")  # nobody reads them
TYPE_ALIASES = {"su": "longrope", "mrope": "default"}
# Names of the base in other code, which transformers does not read.
FOREIGN_BASES = frozenset({"rotary_base", "rope_base", "rope_freq_base", "freq_base", "rotary_theta", "theta"})
# Keys of a type that others do not read, and the type that is meant where none is named.
MEANT = (
    ("longrope", {"short_factor", "long_factor"}),
    ("llama3", {"low_freq_factor", "high_freq_factor"}),
    ("yarn", {"beta_fast", "beta_slow", "original_max_position_embeddings", "attention_factor"}),
    ("linear", {"factor"}),
)
OF_SCALING = frozenset().union(*(keys for _, keys in MEANT))
ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "max_position_embeddings")


@dataclass(frozen=True)
class Problem:
    """One misconfiguration.

    Attributes:
        code: name of its kind, see ``problem_kinds``.
        layer_type: the layer type concerned; ``all`` where layers share one rope.
        key: dotted path of the key in config.json (or the file's name before a colon).
        seen: value found; None if missing.
        expected: what should stand there.
        mend: the command that mends it.
    """

    code: str
    layer_type: str
    key: str
    seen: Any
    expected: Any
    mend: str


@dataclass(frozen=True)
class Entry:
    """One rope dict in the raw JSON, with what its keys mean there."""

    raw: Mapping[str, Any]  # the language model's part of config.json
    model: str  # as the user named it
    layer_type: str
    path: str  # "rope_parameters", "rope_scaling" or "rope_parameters.full_attention"
    rope: Mapping[str, Any]
    prefix: str = ""  # "text_config." for multimodal configurations

    defaults: Any = None  # the configuration that transformers makes of the model type alone, if it knows it

    @property
    def rope_type(self) -> str:
        named = self.rope.get("rope_type") or self.rope.get("type") or "default"
        return TYPE_ALIASES.get(str(named), str(named))

    @property
    def takes_su(self) -> bool:
        """Whether transformers reads the old name: in two classes, which then miss the length beside the rope dict."""
        reads = self.raw.get("model_type") in ("phi3", "phi4_multimodal")
        return reads and "original_max_position_embeddings" in self.rope

    @property
    def type_key(self) -> str:
        """The key that names the type, or would."""
        legacy = "rope_type" not in self.rope and ("type" in self.rope or self.path.startswith("rope_scaling"))
        return self.inside("type" if legacy else "rope_type")

    @property
    def original(self) -> Any:
        return self.rope.get("original_max_position_embeddings", self.raw.get("original_max_position_embeddings"))

    @property
    def length(self) -> Any:
        return self.raw.get("max_position_embeddings")

    @property
    def factor(self) -> Any:
        return self.rope.get("factor")

    def problem(self, code: str, key: str, seen: Any, expected: Any, mend: str) -> Problem:
        return Problem(code, self.layer_type, self.prefix + key, seen, expected, mend)

    def set(self, key: str, value: Any, *more: tuple[str, Any]) -> str:
        return setting(self.model, {self.prefix + name: one for name, one in ((key, value), *more)})

    def inside(self, key: str) -> str:
        return f"{self.path}.{key}"


def number(value: Any) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < math.inf


def in_words(value: Any) -> float | None:
    """The number that a text says, where a number was meant; whole ones as such."""
    try:
        found = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    return None if not math.isfinite(found) else int(found) if found == int(found) and "." not in value else found


def find(raw: Mapping[str, Any], model: str, defaults: Any = None) -> list[Problem]:
    """All problems of a raw config.json.

    Args:
        raw: the file's content.
        model: how the user named the model; goes into the mending commands.
        defaults: the configuration of the language model that transformers makes of the model type alone.
    """
    inside = isinstance(raw.get("text_config"), dict)
    text, prefix = (raw["text_config"], "text_config.") if inside else (raw, "")
    found: list[Problem] = []
    entries = list(_entries(text, model, prefix, defaults))
    for entry in entries:
        for check in CHECKS:
            found += check(entry)
    whole = Entry(text, model, ALL, "", {}, prefix, defaults)
    for more in (_heads, _rope_of_none, _partial_at_top, _unread, _length_said_twice, _two_dicts, _dual_chunk):
        found += more(whole)
    if inside:
        found += _outside(raw, Entry(text, model, ALL, "", {}, "", defaults))
    if _nested(defaults):
        found += _not_nested(whole)
    return found


def _nested(defaults: Any) -> bool:
    """Whether this model type's own defaults hold rope parameters per layer type."""
    parameters = getattr(defaults, "rope_parameters", None) or {}
    return bool(parameters) and all(isinstance(value, dict) for value in parameters.values())


def default_base(defaults: Any) -> float | None:
    """The base that a model type's class takes where the file names none."""
    parameters = getattr(defaults, "rope_parameters", None) or {}
    parameters = parameters.get("full_attention", parameters) if _nested(defaults) else parameters
    base = parameters.get("rope_theta") if isinstance(parameters, dict) else None
    return float(base) if number(base) else None


def _entries(text: Mapping[str, Any], model: str, prefix: str, defaults: Any) -> Iterator[Entry]:
    name = "rope_parameters" if isinstance(text.get("rope_parameters"), dict) else "rope_scaling"
    rope = text.get(name)
    if not isinstance(rope, dict) or not rope:
        return
    nested = {key: value for key, value in rope.items() if isinstance(value, dict)}
    for layer_type, entry in nested.items():
        yield Entry(text, model, layer_type, f"{name}.{layer_type}", entry, prefix, defaults)
    if not nested:
        yield Entry(text, model, ALL, name, rope, prefix, defaults)


def _theta(entry: Entry) -> Iterator[Problem]:
    theta = entry.rope.get("rope_theta")
    top = entry.raw.get("rope_theta", entry.raw.get("rotary_emb_base"))
    # The pair of transformers 4 without a base always meant the class's own.
    known = entry.path.startswith("rope_scaling") and default_base(entry.defaults) is not None
    none = "rope_theta" in entry.rope and entry.defaults is not None
    known = known or (none and bool(architecture.BASE_OR_NONE.search(architecture.source(entry.defaults))))
    if theta is None and top is None and not known and "rope_local_base_freq" not in entry.raw:
        yield entry.problem(
            "rope-theta-missing", entry.inside("rope_theta"), None, "the base the model was pretrained with",
            entry.set(entry.inside("rope_theta"), 10000.0) + "   (put the model's own base in place of 10000.0)",
        )  # fmt: skip
    for key, value in ((entry.inside("rope_theta"), theta), ("rope_theta", top)):
        if value is not None and not (number(value) and 1 < value <= LARGEST_BASE):
            yield entry.problem(
                "rope-theta-invalid",
                key,
                value,
                f"a number above 1 and at most {LARGEST_BASE:g}",
                entry.set(key, in_words(value))
                if 1 < (in_words(value) or 0) <= LARGEST_BASE
                else entry.set(key, 10000.0) + "   (put the model's own base in place of 10000.0)",
            )
    if number(theta) and number(top) and theta != top and entry.layer_type == ALL:
        other = entry.set(entry.inside("rope_theta"), top)
        yield entry.problem(
            "rope-theta-conflict", "rope_theta", top, theta,
            entry.set("rope_theta", theta) + f"   (or, if the model was pretrained with {top:g}: {other})",
        )  # fmt: skip


def _type(entry: Entry) -> Iterator[Problem]:
    one, other = entry.rope.get("rope_type"), entry.rope.get("type")
    if one is not None and other is not None and TYPE_ALIASES.get(other, other) != TYPE_ALIASES.get(one, one):
        yield entry.problem(
            "rope-type-conflict", entry.inside("type"), other, one, entry.set(entry.inside("type"), one)
        )
    named = entry.rope.get("rope_type") or entry.rope.get("type")
    if named == "su" and not entry.takes_su:
        yield entry.problem(
            "rope-type-unknown", entry.type_key, named, "longrope, as it is called now",
            entry.set(entry.type_key, "longrope"),
        )  # fmt: skip
    elif entry.rope_type not in READABLE:
        near = _type_near(entry.rope_type)
        expected = near or f"one of {', '.join(sorted(READABLE))}"
        mend = entry.set(entry.type_key, near) if near else f"Name the type that the model was trained with: {expected}"
        yield entry.problem("rope-type-unknown", entry.type_key, entry.rope_type, expected, mend)
    elif entry.rope_type == "default":
        meant = _type_meant(entry)
        if meant:
            yield entry.problem(
                "rope-type-missing", entry.type_key, named,
                f"a type that reads {', '.join(sorted(set(entry.rope) & OF_SCALING))}; 'default' scales nothing",
                entry.set(entry.type_key, meant) + "   (or the type that was meant)",
            )  # fmt: skip
        elif named is None and ("rope_type" in entry.rope or "type" in entry.rope):
            yield entry.problem(
                "rope-type-unknown", entry.type_key, None, "default", entry.set(entry.type_key, "default")
            )


def _type_near(name: str) -> str:
    """The type that a name most likely means; empty if that would be a guess, and never the one that does nothing."""
    word = name.lower().replace("-", "").replace("_", "")
    for known in sorted(SCALED, key=len, reverse=True):
        if known in word:
            return known
    near = difflib.get_close_matches(word, SCALED, n=1, cutoff=0.7)
    return near[0] if near else ""


def _type_meant(entry: Entry) -> str:
    """The type whose keys stand in a dict that names none; empty if they would change nothing."""
    keys = {key for key, value in entry.rope.items() if value is not None}
    if entry.factor in (1, 1.0) or "alpha" in keys:
        keys -= {"factor"}
    if not keys & OF_SCALING or not (keys & {"factor", "short_factor", "long_factor"}):
        return ""
    return next((kind for kind, own in MEANT if keys & own), "")


def _factor(entry: Entry) -> Iterator[Problem]:
    needs = entry.rope_type in {"linear", "dynamic", "yarn", "llama3"}
    if (needs and entry.factor is None and not _said_otherwise(entry, "factor")) or (
        entry.factor is not None and not (number(entry.factor) and 1 <= entry.factor <= LARGEST_FACTOR)
    ):
        key, said = entry.inside("factor"), in_words(entry.factor)
        if number(entry.length) and number(entry.original) and entry.length > entry.original:
            said = said or entry.length / entry.original
        mend = f"Say the factor that is meant, such as --set '{entry.prefix}{key}=4.0': the file does not tell it."
        if not needs or (said is not None and 1 <= said <= LARGEST_FACTOR):
            mend = entry.set(key, 1.0 if said is None else said)
        yield entry.problem("factor-invalid", key, entry.factor, f"a number from 1 to {LARGEST_FACTOR:,.0f}", mend)
    if entry.rope_type == "llama3":
        low, high = (entry.rope.get(key) for key in ("low_freq_factor", "high_freq_factor"))
        if not (number(low) and number(high) and low < high):
            key = entry.inside("high_freq_factor")
            seen = f"low_freq_factor {low!r}, high_freq_factor {high!r}"
            mend = entry.set(key, 4.0, (entry.inside("low_freq_factor"), 1.0))
            yield entry.problem("factor-invalid", key, seen, "numbers with low < high (Llama 3.1: 1 and 4)", mend)
    if entry.rope_type == "yarn":
        fast, slow = (entry.rope.get(key) or default for key, default in (("beta_fast", 32), ("beta_slow", 1)))
        if not (number(fast) and number(slow) and 0 < slow <= fast):
            key = entry.inside("beta_fast")
            mend = entry.set(key, 32, (entry.inside("beta_slow"), 1))
            yield entry.problem("beta-order", key, f"beta_fast {fast!r}, beta_slow {slow!r}", "fast >= slow > 0", mend)


def _original(entry: Entry) -> Iterator[Problem]:
    if entry.rope_type not in NEEDS_ORIGINAL:
        return
    key = entry.inside("original_max_position_embeddings")
    if entry.original is None and not _said_otherwise(entry, "original_max_position_embeddings"):
        guess, other = 8192 if entry.rope_type == "llama3" else None, ""
        factor = entry.factor if number(entry.factor) else in_words(entry.factor)
        if guess is None and number(entry.length) and factor is not None and 1 <= factor <= LARGEST_FACTOR:
            guess, whole = round(entry.length / factor), round(entry.length * factor)
            both = entry.set(key, entry.length, ("max_position_embeddings", whole))
            other = f"   (if the {entry.length:,} tokens of the file are the pretrained length: {both})"
        if guess is None:
            guess, other = 4096, "   (put the model's own there)"
        yield entry.problem(
            "original-length-missing", key, None, "the pretrained length (else transformers takes the extended one)",
            entry.set(key, guess) + other,
        )  # fmt: skip
    elif entry.original is not None and (not number(entry.original) or entry.original < 1):
        said = in_words(entry.original)
        mend = entry.set(key, said) if said and said >= 1 else entry.set(key, 4096) + "   (put the model's own there)"
        yield entry.problem("original-length-invalid", key, entry.original, "a length in tokens", mend)


def notes(raw: Mapping[str, Any], model: str, defaults: Any = None) -> list[str]:
    """What to know of a sound file: YaRN that is for more tokens than the file states, M-RoPE in a type that
    transformers alone reads with it (engines differ there), and axes that no pair has.
    """
    text, prefix = (raw["text_config"], "text_config.") if isinstance(raw.get("text_config"), dict) else (raw, "")
    found = []
    for entry in _entries(text, model, prefix, None):
        if defaults is not None and architecture.mrope(defaults) == "halves apart":
            found.append(
                f"M-RoPE of {len(entry.rope.get('mrope_section') or ())} axes: in transformers' code of a "
                f"{text.get('model_type')} the two dimensions of a pair turn with different axes, so that no pair is "
                "of one. Methods that stretch all pairs alike hold for text and for pictures; mrope-pp is refused"
            )
        if entry.rope.get("mrope_section") and entry.rope_type not in WITH_AXES:
            found.append(
                f"M-RoPE with rope_type {entry.rope_type!r}: transformers reads it; vLLM and SGLang have M-RoPE in the "
                f"types {' and '.join(sorted(WITH_AXES))} alone. To serve it there: "
                + command("extend", model, "--to", entry.length or 0, "--method", "yarn")
            )
        if entry.rope_type == "yarn" and all(map(number, (entry.original, entry.factor, entry.length))):
            reached = round(entry.original * entry.factor)
            if entry.original <= entry.length and ROUNDED * entry.length < reached:
                says, line = f"{prefix}max_position_embeddings", entry.set("max_position_embeddings", reached)
                found.append(
                    f"{entry.length:,} tokens are promised: {says} says so, and transformers, SGLang and vLLM go by "
                    f"it; vLLM before {VLLM_BY_LENGTH} goes by YaRN's factor, {entry.factor:g} x {entry.original:,} = "
                    f"{reached:,}. To promise these: {line}"
                )
    return found


def _length(entry: Entry) -> Iterator[Problem]:
    """The factor is a ratio of lengths for yarn (llama3's and longrope's need not be)."""
    stated = all(map(number, (entry.original, entry.factor, entry.length)))
    if entry.rope_type == "yarn" and stated and entry.factor >= 1:
        expected = round(entry.original * entry.factor)
        if not entry.original <= entry.length <= ROUNDED * expected:
            key, other = entry.inside("original_max_position_embeddings"), ""
            if entry.length < entry.original:
                other = (
                    f"   (or, if the model was pretrained to {entry.length:,} tokens: {entry.set(key, entry.length)})"
                )
            yield entry.problem(
                "length-contradicts-factor", "max_position_embeddings", entry.length, expected,
                entry.set("max_position_embeddings", expected) + other,
            )  # fmt: skip
    elif entry.rope_type == "llama3" and stated and entry.length <= entry.original:
        expected = round(entry.original * entry.factor)
        yield entry.problem(
            "length-contradicts-factor", "max_position_embeddings", entry.length, f"above {entry.original}",
            entry.set("max_position_embeddings", expected),
        )  # fmt: skip


def _longrope(entry: Entry) -> Iterator[Problem]:
    if entry.rope_type != "longrope":
        return
    half = _rotated_pairs(entry)
    for name in ("short_factor", "long_factor"):
        value = entry.rope.get(name)
        listed = isinstance(value, list) and bool(value)
        sound = listed and all(number(f) and f > 0 for f in value or ())
        if not sound or (half is not None and len(value or ()) != half):
            seen = f"{len(value or ())} values" if listed else value
            yield entry.problem(
                "factor-list-invalid", entry.inside(name), seen, f"{half or 'rotary_dim / 2'} numbers above 0",
                entry.set(entry.inside(name), [1.0] * (half or 1)) + "   (put the model's own factors there)",
            )  # fmt: skip
            return
    if entry.rope["short_factor"] != entry.rope["long_factor"] and entry.raw.get("model_type") not in SWITCHING:
        yield entry.problem(
            "longrope-switch", entry.inside("short_factor"), "differs from long_factor",
            "equal sets: a generation that crosses the original length mixes two rotations in its cache",
            entry.set(entry.inside("short_factor"), entry.rope["long_factor"]),
        )  # fmt: skip


def _rotated_pairs(entry: Entry) -> int | None:
    latent = entry.raw.get("qk_rope_head_dim")
    if number(latent):
        return int(latent) // 2
    hidden, heads = entry.raw.get("hidden_size"), entry.raw.get("num_attention_heads")
    stated = entry.raw.get("head_dim") or getattr(type(entry.defaults), "head_dim", None)
    head = stated or (hidden // heads if number(hidden) and number(heads) and heads else None)
    own = getattr(entry.defaults, "rope_parameters", None) or {}  # Qwen3.5 turns a quarter where nothing is said
    unsaid = own.get("partial_rotary_factor") or 1.0
    partial = entry.rope.get("partial_rotary_factor", entry.raw.get("partial_rotary_factor", unsaid))
    return int(head * partial) // 2 if number(head) and number(partial) else None


def _dynamic(entry: Entry) -> Iterator[Problem]:
    if entry.rope_type == "dynamic" and not (entry.rope.get("alpha") and _fixed_alpha(entry)):
        target = round(entry.length * entry.factor) if number(entry.length) and number(entry.factor) else None
        mend = "Extend it by --method dynamic-ntk, which freezes its base at the target."
        if target is not None:
            mend = command("extend", entry.model, "--to", target, "--method", "dynamic-ntk")
            mend += "   (freezes its base there)"
        if target == entry.length:  # which promises no more than the window
            mend = entry.set(entry.type_key, "default") + "   (inside the window it is that)"
        yield entry.problem(
            "dynamic-scaling", entry.inside("rope_type"), "dynamic",
            "a static type: 'dynamic' keeps stale keys in transformers and is one fixed table in vLLM and SGLang", mend,
        )  # fmt: skip


def _fixed_alpha(entry: Entry) -> bool:
    """Whether the architecture takes one base at all lengths from ``alpha``."""
    return entry.defaults is not None and "alpha" in architecture.keys_read(entry.defaults)


def _attention_factor(entry: Entry) -> Iterator[Problem]:
    """A factor that transformers honours and another engine does not read."""
    t = entry.rope.get("attention_factor")
    if t is None or not number(entry.factor or 1.0):
        return
    if not number(t) or t <= 0:
        yield entry.problem("attention-factor-invalid", entry.inside("attention_factor"), t, "a number above 0",
                            entry.set(entry.inside("attention_factor"), 1.0))  # fmt: skip
    elif entry.rope_type == "yarn":
        default = 0.1 * math.log(entry.factor) + 1 if entry.factor and entry.factor >= 1 else 1.0
        wanted = t / default
        given = entry.rope.get("attn_factor", 1.0)
        if number(given) and abs(given - wanted) > 1e-3:
            yield entry.problem(
                "attention-factor-ignored", entry.inside("attn_factor"), entry.rope.get("attn_factor"),
                round(wanted, 6),
                entry.set(entry.inside("attn_factor"), round(wanted, 6)) + "   (SGLang reads this key only)",
            )  # fmt: skip
    elif entry.rope_type == "longrope" and number(entry.original) and number(entry.length):
        ratio = entry.length / entry.original
        default = math.sqrt(1 + math.log(ratio) / math.log(entry.original)) if ratio > 1 else 1.0
        for key in ("short_mscale", "long_mscale"):
            given = entry.rope.get(key, default)
            if number(given) and abs(given - t) > 1e-3:
                yield entry.problem(
                    "attention-factor-ignored", entry.inside(key), entry.rope.get(key), t,
                    entry.set(entry.inside(key), t) + "   (vLLM and SGLang read this key only)",
                )  # fmt: skip


def _meant_by(key: str) -> str:
    """The key of a rope dict that an unknown one is meant to be; empty if that would be a guess, or it is known."""
    if key in KNOWN_KEYS:
        return ""
    return SYNONYMS.get(key) or "".join(difflib.get_close_matches(key, KNOWN_KEYS, n=1, cutoff=0.8))


def _said_otherwise(entry: Entry, key: str) -> bool:
    """Whether a missing key stands there under a name that nobody reads: that is the problem then, and its mend."""
    return any(_meant_by(other) == key for other in entry.rope)


def _misspelt(entry: Entry) -> Iterator[Problem]:
    for key, value in entry.rope.items():
        if key in KNOWN_KEYS and not (key == "attn_factor" and entry.rope_type == "yarn"):
            continue
        near = _meant_by(key) or (key if key == "attn_factor" else "")
        meant = "attention_factor" if near == "attn_factor" else near
        if not meant or meant in entry.rope or (meant == "attention_factor" and entry.rope_type not in SCALES_LOGITS):
            continue
        right, expected = value, meant
        if near == "attn_factor" and entry.rope_type == "yarn":  # of SGLang: a multiplier of the default
            expected = f"{meant} (the key that transformers and vLLM read)"
            known = number(value) and number(entry.factor) and entry.factor >= 1
            right = round(value * (0.1 * math.log(entry.factor) + 1), 6) if known else 1.0
        gone = () if key == "attn_factor" else ((entry.inside(key), None),)
        mend = entry.set(entry.inside(meant), right, *gone)
        yield entry.problem("key-misspelt", entry.inside(key), value, expected, mend)


def _partial(entry: Entry) -> Iterator[Problem]:
    yield from _share(entry, entry.inside("partial_rotary_factor"), entry.rope.get("partial_rotary_factor"))


def _partial_at_top(entry: Entry) -> Iterator[Problem]:
    for key in ("partial_rotary_factor", "rotary_pct", "rope_pct"):
        yield from _share(entry, key, entry.raw.get(key))


def _share(entry: Entry, key: str, value: Any) -> Iterator[Problem]:
    if value is not None and not (number(value) and 0 < value <= 1):
        yield entry.problem("partial-rotary-invalid", key, value, "a share in (0, 1]", entry.set(key, 1.0))


def _rope_of_none(entry: Entry) -> Iterator[Problem]:
    """A scaling in the file of a model that does not rotate."""
    for key in ("rope_scaling", "rope_parameters"):
        rope = entry.raw.get(key)
        scaled = isinstance(rope, dict) and (rope.get("rope_type") or rope.get("type") or "default") != "default"
        if scaled and entry.defaults is not None and (reason := architecture.rotates(entry.defaults)):
            yield entry.problem("rope-unused", key, rope, f"no such key: {reason}", entry.set(key, None))


def _unread(entry: Entry) -> Iterator[Problem]:
    """What decides the rope or the length, under a name that the class does not read and nothing else says."""
    for key, value in entry.raw.items():
        foreign = key in FOREIGN_BASES and not (entry.defaults is not None and lookalikes.known(entry.defaults, key))
        target = "rope_theta" if foreign else lookalikes.meant(key, entry.defaults) if entry.defaults else ""
        if not target or value in (None, {}, []) or isinstance(value, bool) or lookalikes.is_said(target, entry.raw):
            continue
        gone = (key, None)
        if target in lookalikes.DICTS and isinstance(value, dict):
            there = next((name for name in lookalikes.DICTS if isinstance(entry.raw.get(name), dict)), target)
            mend = entry.set(there, {**(entry.raw.get(there) or {}), **value}, gone)
        elif target not in lookalikes.DICTS and number(value) and value > (target == "rope_theta"):
            mend = entry.set(target, float(value) if target == "rope_theta" else value, gone)
        else:
            mend = f"Say it in the key {target}, as the model's documentation does, and remove {key}."
        yield entry.problem("key-misspelt", key, value, f"{target}; nobody reads {key}", mend)


def _length_said_twice(entry: Entry) -> Iterator[Problem]:
    """Another key of the file that says the length, and says another one."""
    length, scaling = entry.length, entry.raw.get("rope_scaling") or entry.raw.get("rope_parameters") or {}
    if not number(length) or not isinstance(scaling, dict):
        return
    factor: Any = scaling.get("factor")
    kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
    stated = {key: value for key in STATED if number(value := entry.raw.get(key)) and 1 < value < 1e9}
    both = kind == "linear" and number(factor) and factor > 1 and "original_max_position_embeddings" not in scaling
    told = stated or RECORD in entry.raw or TRAINED_WITH_IT.match(str(entry.raw.get("model_type")))
    if both and not told:
        key = (
            f"{'rope_scaling' if entry.raw.get('rope_scaling') else 'rope_parameters'}.original_max_position_embeddings"
        )
        yield entry.problem(
            "length-ambiguous", "max_position_embeddings", length,
            f"the length after scaling, as it is read here ({round(length / factor)} x {factor:g}); older files state "
            f"the one before ({length} x {factor:g})",
            entry.set(key, round(length / factor))
            + f"   (else: {entry.set(key, length, ('max_position_embeddings', round(length * factor)))})",
        )  # fmt: skip
    original = scaling.get("original_max_position_embeddings", entry.raw.get("original_max_position_embeddings"))
    known = [length, original, *([length * factor, length / factor] if number(factor) and factor > 0 else [])]
    for key, value in stated.items():
        if not any(number(one) and abs(value - one) < 1 for one in known):
            larger = max(value, length)
            mend = entry.set("max_position_embeddings" if larger > length else key, larger)
            other = entry.set(*((key, length) if larger > length else ("max_position_embeddings", value)))
            yield entry.problem(
                "length-contradicted", "max_position_embeddings", length, f"{value}, as key {key!r} says, or neither",
                mend + f"   (if it was trained so far; else: {other})",
            )  # fmt: skip


def _outside(raw: Mapping[str, Any], entry: Entry) -> Iterator[Problem]:
    """Keys beside ``text_config`` that belong into it: there nobody reads them."""
    own = entry.raw.get("rope_parameters") or entry.raw.get("rope_scaling") or {}
    base = own.get("rope_theta") if isinstance(own, dict) else None
    for key in ROPE:
        default = base or default_base(entry.defaults) if key == "rope_theta" else getattr(entry.defaults, key, None)
        value, inner = raw.get(key), entry.raw.get(key, default)
        if value is None or value == inner or _same_rope(value, entry.raw):
            continue
        yield Problem(
            "keys-outside", ALL, key, value, f"text_config.{key}: beside 'text_config' nobody reads it",
            entry.set(f"text_config.{key}", value, (key, None)),
        )  # fmt: skip


def _same_rope(value: Any, text: Mapping[str, Any]) -> bool:
    """Whether a rope dict says what the language model's own one says, under either name."""
    own = text.get("rope_parameters") or text.get("rope_scaling")
    if not isinstance(value, dict) or not isinstance(own, dict):
        return False
    said = {**text, **own, "rope_type": own.get("rope_type", own.get("type", "default"))}
    return all(said.get("rope_type" if key == "type" else key) == one for key, one in value.items())


def _head_dim(entry: Entry) -> Iterator[Problem]:
    """Transformers' yarn and longrope take ``head_dim`` as it stands, which is nothing in some classes."""
    heads, hidden = entry.raw.get("num_attention_heads"), entry.raw.get("hidden_size")
    empty = entry.defaults is not None and getattr(type(entry.defaults), "head_dim", 0) is None
    empty = empty and getattr(entry.defaults, "head_dim", None) is None and entry.raw.get("head_dim") is None
    if entry.rope_type in SCALES_LOGITS and empty and number(heads) and number(hidden) and heads:
        size = int(hidden // heads)
        yield entry.problem("head-dim-missing", "head_dim", None, size, entry.set("head_dim", size))


def _heads(entry: Entry) -> Iterator[Problem]:
    """Query heads that the key-value heads do not divide; latent attention has no use for the latter."""
    heads, groups = entry.raw.get("num_attention_heads"), entry.raw.get("num_key_value_heads")
    if number(heads) and number(groups) and "kv_lora_rank" not in entry.raw and (groups < 1 or heads % groups):
        yield entry.problem(
            "head-count-invalid", "num_key_value_heads", groups, f"a divisor of num_attention_heads {heads}", RESTORE
        )


def _sliding(entry: Entry) -> Iterator[Problem]:
    if "sliding" in entry.layer_type and entry.rope_type in SCALED - {"proportional"}:
        kept = {key: entry.rope[key] for key in ("rope_theta", "partial_rotary_factor") if key in entry.rope}
        yield entry.problem(
            "sliding-layer-scaled", entry.inside("rope_type"), entry.rope_type,
            "default: layers that never look past their window need no scaling",
            entry.set(entry.path, {"rope_type": "default", **kept}),
        )  # fmt: skip


def _mrope(entry: Entry) -> Iterator[Problem]:
    """Sections of M-RoPE that are lost, that do not fit the pairs, or that the class lays out otherwise."""
    layout = "" if entry.defaults is None else architecture.mrope(entry.defaults)
    pairs, section, key = _rotated_pairs(entry), entry.rope.get("mrope_section"), entry.inside("mrope_section")
    if not layout or pairs is None:
        return
    if layout == "halves apart":  # of as many axes as its section has numbers; their sum is transformers' to check
        if section is None:
            yield entry.problem(
                "mrope-section-missing", key, None, f"four numbers that sum to {pairs}, the pairs that rotate",
                entry.set(key, _alike(pairs)) + "   (alike on every axis; put the model's there)",
            )  # fmt: skip
        return
    own = _shared_out(layout, architecture.mrope_default(entry.defaults), pairs)
    if section is None:
        if entry.prefix or "vision_config" in entry.raw:
            yield entry.problem(
                "mrope-section-missing", key, None, f"three numbers that sum to {pairs}, the pairs that rotate",
                entry.set(key, own) + "   (as in the class's own; put the model's there)",
            )  # fmt: skip
        return
    turned = _counted(layout, section, pairs)
    if not turned or turned != section:
        expected = f"three numbers that sum to {pairs}, the pairs that rotate"
        expected += f"; this class rotates by {turned}" if turned else ""
        mend = "changes nothing in transformers" if turned else "as in the class's own; put the model's there"
        yield entry.problem(
            "mrope-section-invalid", key, section, expected, entry.set(key, turned or own) + f"   ({mend})"
        )
    stated, interleaved = entry.rope.get("mrope_interleaved"), layout == "interleaved"
    known = getattr(entry.defaults, "ignore_keys_at_rope_validation", ())  # not of all that take turns (Cosmos 3 Edge)
    if bool(stated) != interleaved and (stated is not None or "mrope_interleaved" in known):
        yield entry.problem(
            "mrope-layout-contradicted", entry.inside("mrope_interleaved"), entry.rope.get("mrope_interleaved"),
            interleaved, entry.set(entry.inside("mrope_interleaved"), True if interleaved else None),
        )  # fmt: skip


def _counted(layout: str, section: Sequence[int], pairs: int) -> list[int]:
    """How many pairs an architecture turns by each axis, in its order; empty if the section does not fit."""
    axes = architecture.mrope_axes(layout, section, pairs)
    order = (1, 2, 0) if layout == "time last" else (0, 1, 2)
    return [axes.count(axis) for axis in order] if axes else []


def _shared_out(layout: str, section: Sequence[int], pairs: int) -> list[int]:
    """A division of ``pairs`` that the layout can have, in the ratio of another."""
    ratio = section or (2, 3, 3)  # Qwen2-VL's
    one, other, another = (pairs * size // sum(ratio) for size in ratio)
    if layout == "time last":  # as many of height as of width
        return [one, one, pairs - 2 * one]
    return _counted(layout, [pairs - other - another, other, another], pairs)


def _alike(pairs: int) -> list[int]:
    return [pairs - 3 * (pairs // 4), *[pairs // 4] * 3]


CHECKS = (
    _theta, _type, _factor, _original, _length, _longrope, _dynamic, _attention_factor, _misspelt, _partial, _sliding,
    _head_dim, _mrope,
)  # fmt: skip


def _two_dicts(whole: Entry) -> Iterator[Problem]:
    """Files may hold the old and the new form of the same thing; they must agree."""
    text, model, prefix = whole.raw, whole.model, whole.prefix
    new, old = text.get("rope_parameters"), text.get("rope_scaling")
    if not (isinstance(new, dict) and isinstance(old, dict)):
        return
    target = new.get("full_attention", new)
    same = {"type": "rope_type"}
    for key, value in old.items():
        name = same.get(key, key)
        if isinstance(target, dict) and target.get(name) != value and name in (*KNOWN_KEYS, *target):
            entry = Entry(text, model, ALL, "rope_scaling", old, prefix)
            yield entry.problem(
                "two-rope-dicts-disagree",
                f"rope_scaling.{key}",
                value,
                target.get(name),
                entry.set("rope_scaling", None),
            )
            return


def _dual_chunk(entry: Entry) -> Iterator[Problem]:
    if entry.raw.get("dual_chunk_attention_config"):
        yield entry.problem(
            "dual-chunk-not-served", "dual_chunk_attention_config", "present",
            "absent for vLLM (removed in 0.11) and SGLang (no backend in 0.5.23)",
            entry.set("dual_chunk_attention_config", None),
        )  # fmt: skip


def _not_nested(entry: Entry) -> Iterator[Problem]:
    rope = entry.raw.get("rope_parameters")
    if isinstance(rope, dict) and rope and not any(isinstance(value, dict) for value in rope.values()):
        nested = {"full_attention": rope, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
        yield entry.problem(
            "rope-not-nested", "rope_parameters", "one dict for all layers", "one dict per layer type",
            entry.set("rope_parameters", nested),
        )  # fmt: skip
