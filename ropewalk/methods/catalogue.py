"""The one list of methods: it drives the command line, the documentation's table and the test matrix.

Nothing heavy is imported here; a method's file is loaded when the method is made.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.lengths import said
from ropewalk.common.naming import find
from ropewalk.methods.typed import LARGEST_OPTION, typed

if TYPE_CHECKING:
    from ropewalk.methods.base import Method


@dataclass(frozen=True)
class Entry:
    """One method of the catalogue.

    Attributes:
        id: as in papers and on the command line.
        title: the paper's name for it.
        where: "module:Class".
        summary: one line.
        kind: the axes it decides.
        training_free: "yes", "no", or how far.
        exportable: how a checkpoint says it, or why it cannot.
        paper: arXiv id, or the address of another source without https://; empty if there is none.
    """

    id: str
    title: str
    where: str
    summary: str
    kind: str
    training_free: str
    exportable: str
    paper: str = ""

    def load(self) -> type[Method]:
        module, name = self.where.split(":")
        loaded: type[Method] = getattr(import_module(f"ropewalk.methods.{module}"), name)
        return loaded


F, P, V, T = "frequencies", "positions", "positions, visibility", "temperature"
CODE = "no: needs code at run time"
PICK = "tax"  # beside a fitted file: which of its front
FOLDER = "trained"  # the option of methods that are trained
CATALOGUE: tuple[Entry, ...] = (
    Entry("none", "Plain model", "frequencies.none:Plain", "the model as it comes, for comparison", F, "yes",
          "yes: as it is"),
    Entry("pi", "Position Interpolation", "frequencies.pi:PositionInterpolation", "every frequency divided by s", F,
          "weak", "yes: linear", "2306.15595"),
    Entry("ntk-aware", "NTK-aware scaling", "frequencies.ntk:NTKAware", "a larger base, b s^(d/(d-2))", F, "yes",
          "yes: rope_theta", "2309.00071"),
    Entry("dynamic-ntk", "Dynamic NTK", "frequencies.dynamic_ntk:DynamicNTK", "the NTK base of the current length", F,
          "yes", "frozen at the target: rope_theta", "2309.00071"),
    Entry("ntk-by-parts", "NTK-by-parts", "frequencies.parts:NTKByParts", "interpolate slow dimensions only", F, "yes",
          "yes: llama3", "2309.00071"),
    Entry("yarn", "YaRN", "frequencies.yarn:YaRN", "by parts, and a logit temperature", F, "yes", "yes: yarn",
          "2309.00071"),
    Entry("mr-rope", "MrRoPE", "frequencies.mr_rope:MrRoPE", "by parts, the divisor's exponent rising by dimension", F,
          "yes", "yes: longrope", "github.com/mattian7/mrRoPE"),
    Entry("llama3", "Llama 3 scaling", "frequencies.parts:Llama3", "by parts between 1 and 4 turns", F, "small s",
          "yes: llama3", "2407.21783"),
    Entry("abf", "Adjusted base frequency", "frequencies.abf:AdjustedBase", "a larger base, by rule or given", F, "no",
          "yes: rope_theta", "2309.16039"),
    Entry("entropy-abf", "Entropy-aware ABF", "frequencies.entropy_abf:EntropyABF",
          "a larger base, and a log-length logit scale", F + ", temperature", "100 samples",
          "no: depends on the position", "2401.07004"),
    Entry("longrope", "LongRoPE", "frequencies.longrope:LongRoPE", "one given (searched) factor per dimension", F,
          "to 8x", "yes: longrope", "2402.13753"),
    Entry("resonance", "Resonance RoPE", "frequencies.resonance:Resonance", "whole-number wavelengths; refines others",
          "refinement", "yes", "yes: longrope", "2403.00071"),
    Entry("giraffe", "Giraffe", "frequencies.giraffe:Giraffe", "linear, power or truncated basis", F, "linear only",
          "yes: longrope", "2308.10882"),
    Entry("dprope", "Distributional RoPE", "frequencies.dprope:DistributionalRoPE",
          "interpolate where the angle histogram suffers less", F, "yes", "yes: longrope", "2410.01490"),
    Entry("longembed-rope", "LongEmbed (RoPE)", "frequencies.longembed:LongEmbedRoPE",
          "the base times ten, for embedding models", F, "yes", "yes: rope_theta", "2404.12096"),
    Entry("clex", "CLEX at a fixed scale", "frequencies.clex:CLEX", "a learned flow of log-frequencies", F, "no",
          "yes: longrope", "2310.16450"),
    Entry("harpe", "HARPE", "frequencies.harpe:HARPE", "a base per head", F, "no", "no: depends on the head",
          "2412.07171"),
    Entry("cope", "CoPE (clipped RoPE)", "frequencies.cope:CoPE", "pairs that never finish a turn fade to no rotation",
          F, "claimed by ports", "yes: longrope", "2602.05258"),
    Entry("fope", "FoPE's floor", "frequencies.fourier_floor:FourierFloor",
          "pairs that make no turn in the window do not rotate", F, "not claimed", "yes: longrope", "2412.17739"),
    Entry("drope", "DroPE", "frequencies.drope:DroPE", "no pair rotates; trained briefly at the window", F, "no",
          "yes: longrope", "2512.12167"),
    Entry("mrope-pp", "M-RoPE++", "frequencies.mrope_pp:MRoPEPlusPlus",
          "M-RoPE: pairs of time as they are, of height and width stretched", F, "no", "yes: longrope", "2412.12735"),
    Entry("visual-window", "Visual context window extension", "frequencies.visual_window:VisualWindow",
          "YaRN from a shorter window, that of pictures", F, "yes", "yes: yarn", "2409.20018"),
    Entry("self-extend", "SelfExtend", "attention.self_extend:SelfExtend", "exact positions near, grouped ones far", P,
          "yes", CODE, "2401.01325"),
    Entry("dca", "Dual Chunk Attention", "attention.dual_chunk:DualChunk",
          "keys at their place in a chunk, queries by chunk difference", P, "yes", CODE, "2402.17463"),
    Entry("rerope", "ReRoPE", "attention.rerope:ReRoPE", "no distance above w", P, "yes", CODE,
          "kexue.fm/archives/9708"),
    Entry("leaky-rerope", "Leaky ReRoPE", "attention.rerope:LeakyReRoPE", "distances grow slowly beyond w", P, "yes",
          CODE, "kexue.fm/archives/9708"),
    Entry("string", "STRING", "attention.string:STRING", "far keys take well-trained distances a second time", P, "yes",
          CODE, "2410.18745"),
    Entry("dope", "DoPE", "attention.dope:DoPE", "heads whose rotated keys are nearly of rank one do not rotate", P,
          "fit", CODE, "2511.09146"),
    Entry("lm-infinite", "LM-Infinite", "attention.lm_infinite:LMInfinite", "the first tokens and the last W", V, "yes",
          CODE, "2308.16137"),
    Entry("streaming-llm", "StreamingLLM", "attention.streaming:StreamingLLM",
          "sinks and a recent window, in constant memory", V, "yes", CODE, "2309.17453"),
    Entry("gali", "GALI", "attention.gali:GALI", "fewest interpolated positions, logits interpolated", P, "yes", CODE,
          "2502.02659"),
    Entry("infllm", "InfLLM", "attention.infllm:InfLLM", "sinks, a window, and retrieved blocks at one distance", V,
          "yes", CODE, "2402.04617"),
    Entry("longcache", "ReAttention (LongCache)", "attention.longcache:LongCache",
          "recalled spans between the first and the latest tokens, counted anew", V, "yes", CODE, "2407.15176"),
    Entry("longheads", "LongHeads", "attention.longheads:LongHeads", "every head chooses chunks of its own", V, "yes",
          CODE, "2402.10685"),
    Entry("ihip-rope", "InfiniteHiP's RoPE styles", "attention.ihip_rope:IHipRoPE",
          "chunks scored at positions of their own, by layer, and attended as if next to each other", V, "yes", CODE,
          "2502.08910"),
    Entry("attendre", "Attendre's bounded memory", "memory.attendre:Attendre",
          "a memory of keys that evicts the least recently or least often attended", V, "yes", CODE, "2401.04881"),
    Entry("squeezed", "Squeezed Attention", "attention.squeezed:Squeezed",
          "clusters of a fixed prefix's keys, kept where a query scores them above a threshold", "visibility",
          "fit", CODE, "2411.09688"),
    Entry("tca", "Context-adaptive attention", "attention.tca:TCA", "core tokens of every block, by calibrated budgets",
          "visibility", "fit", CODE, "2512.09238"),
    Entry("log-n", "Log-n scaling", "attention.log_n:LogN", "logits times ln(m + 1) / ln(L)", T, "yes", CODE,
          "2202.12172"),
    Entry("yarn-temperature", "YaRN's temperature", "attention.log_n:YaRNTemperature",
          "logits times (0.1 ln s + 1)^2, positions as they are", T, "yes", CODE, "2309.00071"),
    Entry("attention-alignment", "Attention alignment", "attention.align:AttentionAlignment",
          "logits over a measured tau, so that long texts are attended to as sharply as short ones", T, "fit",
          CODE, "2311.00684"),
    Entry("head-scale", "Head scale (NoPE)", "attention.head_scale:HeadScale", "one learned logit scale per head", T,
          "fit: light tuning", "not in the configuration: fold puts it into W_q", "2404.12224"),
    Entry("vertical-slash", "Vertical-slash sparse prefill", "attention.vertical_slash:VerticalSlash",
          "columns and diagonals of long prompts, chosen by the last queries (MInference, Qwen2.5-1M)", "sparsity",
          "yes", CODE, "2407.02490"),
    Entry("s2-attention", "Shifted sparse attention", "attention.s2:S2Attention",
          "groups, shifted for half of the heads; for training", "visibility", "no", "not needed: plain at inference",
          "2309.12307"),
    Entry("scca", "SCCA (shifted cross chunk attention)", "attention.scca:SCCA",
          "chunks of keys, shifted for groups of heads; for training", "visibility", "no",
          "not needed: plain at inference", "2312.07305"),
    Entry("longgen", "LongGen", "memory.longgen:LongGen",
          "full attention in the middle third of the layers, sinks and a window in the others", "visibility, memory",
          "no", CODE, "2410.01485"),
    Entry("landmark", "Landmark attention", "memory.landmark:Landmark",
          "a token behind every block, whose weight the block shares, and by which it is found", "memory", "no", CODE,
          "2305.16300"),
    Entry("fot", "Focused Transformer (LongLLaMA)", "memory.fot:FoT",
          "a few layers see all earlier windows, trained with windows of other documents among them",
          "positions, visibility, memory", "no", CODE, "2307.03170"),
    Entry("temp-lora", "Temp-LoRA", "memory.temp_lora:TempLoRA",
          "an adapter that is trained on each chunk of the text, and thrown away", "memory", "yes: trains as it reads",
          CODE, "2401.11504"),
    Entry("qttt", "qTTT (query-only test-time training)", "memory.qttt:QTTT",
          "queries that are trained on spans of the text, over frozen keys and values", "memory",
          "yes: trains as it reads", CODE, "2512.13898"),
    Entry("beacon", "Activation Beacon", "memory.beacon:ActivationBeacon",
          "tokens with projections of their own condense each window's keys and values", "memory", "no", CODE,
          "2401.03462"),
    Entry("ext-tok", "Extensible Tokenization", "memory.ext_tok:ExtensibleTokenization",
          "outputs of a small model stand in place of token embeddings of the past", "memory", "no", CODE,
          "2401.07793"),
    Entry("lact", "LaCT", "memory.lact:LaCT", "a window, and weights that learn the text chunk by chunk beside it",
          "memory", "no", CODE, "2505.23884"),
    Entry("hylo", "HyLo", "memory.hylo:HyLo", "some layers attend through latent keys, the others are linear",
          "memory", "no", CODE, "2604.24715"),
)  # fmt: skip


def _names(entry: Entry) -> tuple[str, ...]:
    """What a method is called: its id, the title in reports and the class in Python."""
    return entry.id, entry.title.partition(" (")[0], entry.where.partition(":")[2]


QUOTED = r"('[^']*'|\"[^\"]*\")"
KEYWORD = QUOTED + r"|([A-Za-z][\w-]*)(?=\s*=)"  # or what stands in quotes
PERCENT = QUOTED + r"|(?<=[=\s])(-?[\d.]+)\s*%(?=\s*(?:,|$))"
FROM_TARGET = frozenset("factor scale scaling scaling_factor rope_factor s to target length max_length".split())
BY_NAME = {name: entry for entry in CATALOGUE for name in _names(entry)}


def entry(name: str) -> Entry:
    """The catalogue's entry, by its id, its title or its class, as people write names.

    Raises:
        UserError: for an unknown name; the nearest id is offered.
    """
    found = find(name, BY_NAME)
    if found is not None:
        return BY_NAME[found]
    about = {entry.id: f"{entry.title} {entry.exportable} {entry.summary}" for entry in CATALOGUE}
    raise UserError(f"unknown method {said(name)}{did_you_mean(name, about, about)}", "ropewalk methods")


def method(spelling: str) -> Method:
    """A method from its spelling: ``yarn``, ``yarn(beta_fast=16)``, ``resonance+yarn``; also ``YaRN(beta-fast=16)``.

    Raises:
        UserError: for unknown methods or options, wrong values, or parts that do not compose.
    """
    parts = [part.strip() for part in split(spelling, "+")]
    made = [_one(part) for part in parts]
    if len(made) == 1:
        return made[0]
    from ropewalk.methods.compose import compose

    return compose(*made)


def methods(spellings: str) -> list[Method]:
    """Methods from a comma-separated list of spellings, duplicates dropped."""
    made = {m.id: m for m in (method(part) for part in split(spellings, ",") if part.strip())}
    if not made:
        raise UserError(f"no method named in {spellings!r}", "ropewalk methods")
    return list(made.values())


def split(text: str, separator: str) -> list[str]:
    """Split at ``separator`` outside brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _one(spelling: str) -> Method:
    match = re.fullmatch(r"([\w. -]+?)\s*(?:\((.*)\))?", spelling, re.DOTALL)
    if match is None:
        raise UserError(f"cannot read method {said(spelling)}", "Write it as name or name(option=value, option=value).")
    cls = entry(match.group(1)).load()
    options = options_of(cls, cls.name, match.group(2) or "", "fitted" if cls.measured or cls.tunable else "")
    if "fitted" not in options:
        if PICK in options:
            raise UserError(
                f"{cls.name}: {PICK} picks from what was fitted, and no file is named",
                f"Say {cls.name}(fitted=FILE, {PICK}={options[PICK]}).",
            )
        made = cls(**options)
        object.__setattr__(made, "held", frozenset(options))
        if options.get(FOLDER):
            made.refuse_others(options)  # type: ignore[attr-defined]
            for name in options.keys() & {*cls.chosen}:  # type: ignore[attr-defined]
                object.__setattr__(made, name, options[name])
        return made
    from ropewalk.methods.fit_file import fitted

    return fitted(cls, options.pop("fitted"), options, options.pop(PICK, None))


def options_of(cls: type, name: str, text: str, file: str = "") -> dict[str, Any]:
    """The options of a frozen dataclass as a user writes them: ``beta_fast=16, truncate=False``.

    Args:
        cls: whose fields are the options.
        name: that errors name.
        text: Python literals by keyword; words may stand without quotes, and shares as percentages.
        file: a further option, the name of a file, which may stand without quotes; and with it ``tax``, a number that
            picks from what is in there.

    Raises:
        UserError: for what cannot be read, unknown options, and values of another type than the option's.
    """
    known = {f.name: f for f in fields(cls)}
    holds = FOLDER in known and known[FOLDER].default == ""
    for place in {file, FOLDER if holds else ""} - {""}:
        bare = rf"((?:^|,)\s*(?i:{place})\s*=\s*)([^\s'\",][^'\",]*?)(?=\s*(?:,|$))"
        text = re.sub(bare, lambda match: match[1] + repr(match[2]), text)
    text = re.sub(PERCENT, lambda match: match[1] or f"{match[2]}e-2", text)
    names = [*known, file, PICK] if file else list(known)
    spelled = re.sub(KEYWORD, lambda match: match[1] or find(match[2], names) or match[2].replace("-", "_"), text)
    options = _literals(f"{name}({text})", spelled)
    for option, value in options.items():
        if option in FROM_TARGET - set(names) and "to" not in names:
            raise UserError(
                f"{name} has no option {option!r}: its factor is the target over the window",
                "Say the target with --to: 128k of a window of 32k is the factor 4.",
            )
        if option not in names:
            raise UserError(
                f"{name} has no option {option!r}{did_you_mean(option, names)}",
                f"Its options: {', '.join(names) or 'none'}.",
            )
        if option in known:
            options[option] = typed(name, option, known[option], value)
        elif option == PICK:
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST_OPTION:
                raise UserError(f"{name}: {PICK} is {said(value)}, expected a share such as 0.01, a hundredth")
        elif not isinstance(value, str):
            raise UserError(f"{name}: option {option} is {value!r}, expected the name of a file")
    return options


class _Words(ast.NodeTransformer):
    """Reads bare words as people write them; ``nan`` and ``inf`` too, so that they are refused as values."""

    KNOWN: ClassVar[dict[str, Any]] = {"true": True, "false": False, "none": None, "infinity": float("inf")}

    def visit_Name(self, node: ast.Name) -> ast.expr:
        word = node.id.lower()
        return ast.Constant(float(word) if word in ("nan", "inf") else self.KNOWN.get(word, node.id))

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Constant(ast.unparse(node))  # llama.cpp


def _literals(spelling: str, text: str) -> dict[str, Any]:
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args
        options = {str(k.arg): ast.literal_eval(_Words().visit(k.value)) for k in call.keywords}
        assert len(options) == len(call.keywords)
        return options
    except (SyntaxError, ValueError, AssertionError, RecursionError, MemoryError):
        raise UserError(
            f"cannot read the options of {said(spelling)}",
            "Write name=value, with commas: beta_fast=16, truncate=False.",
        ) from None
