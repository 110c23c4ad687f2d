"""The one list of recipes: it drives ``ropewalk train``, the documentation's table and the tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.methods.catalogue import CATALOGUE

if TYPE_CHECKING:
    from ropewalk.training.recipe import Recipe


@dataclass(frozen=True)
class RecipeEntry:
    """One recipe.

    Attributes:
        id: as on the command line.
        title: the paper's name for it.
        where: "module:function".
        summary: one line.
        paper: arXiv id, or the address of another source without https://.
    """

    id: str
    title: str
    where: str
    summary: str
    paper: str

    def load(self, **files: str) -> Recipe:
        """The recipe, with what it is given."""
        return self.function(**files)

    @property
    def function(self) -> Callable[..., Recipe]:
        """What makes it."""
        module, name = self.where.split(":")
        made: Callable[..., Recipe] = getattr(import_module(f"ropewalk.training.recipes.{module}"), name)
        return made


RECIPES: tuple[RecipeEntry, ...] = (
    RecipeEntry("pi", "Position interpolation", "interpolation:pi", "1,000 steps at the target's length", "2306.15595"),
    RecipeEntry("yarn", "YaRN", "interpolation:yarn", "400 steps at half of the target, 200 at the whole factor",
                "2309.00071"),
    RecipeEntry("longrope", "LongRoPE", "interpolation:longrope",
                "half of the target, then all of it; searched factors for each, which must be given", "2402.13753"),
    RecipeEntry("growlength", "GrowLength", "interpolation:growlength", "samples that double, at constant tokens",
                "2310.00576"),
    RecipeEntry("pose", "PoSE", "skipwise:pose", "short samples with a jump; the one to begin with", "2309.10400"),
    RecipeEntry("cream", "CREAM", "skipwise:cream", "head, tail, and a drawn middle", "2406.07138"),
    RecipeEntry("endprompt", "EndPrompt", "skipwise:endprompt", "one piece, and a cue at the end",
                "github.com/clx1415926/EndPrompt"),
    RecipeEntry("endprompt-pose", "EndPrompt + PoSE", "skipwise:endprompt_pose", "a jump, and the cue",
                "github.com/clx1415926/EndPrompt"),
    RecipeEntry("e2", "E2-LLM", "skipwise:e2", "random scale and offset, then any factor", "2401.06951"),
    RecipeEntry("randpos", "Randomised positions", "skipwise:randpos", "a random subset of positions: the control",
                "2305.16843"),
    RecipeEntry("segmented", "Segmented sequences", "skipwise:segmented", "segments of long texts, where they stand",
                "2310.14633"),
    RecipeEntry("longlora", "LongLoRA", "low_rank:longlora", "shifted sparse attention, adapters, embeddings, norms",
                "2309.12307"),
    RecipeEntry("longqlora", "LongQLoRA", "low_rank:longqlora", "the same on weights in four bits", "2311.04879"),
    RecipeEntry("scca", "SCCA", "low_rank:scca", "shifted cross chunk attention, adapters", "2312.07305"),
    RecipeEntry("overnight", "Llama-3 ten-fold overnight", "low_rank:overnight", "a large base and QLoRA",
                "2404.19553"),
    RecipeEntry("entropy-abf", "Entropy-aware ABF", "continued:entropy_abf", "six steps on 100 long samples",
                "2401.07004"),
    RecipeEntry("harpe", "HARPE", "continued:harpe", "a base per head, in one stage", "2412.07171"),
    RecipeEntry("prolong", "ProLong", "continued:prolong", "two lengths, documents apart", "2410.02660"),
    RecipeEntry("llama-2-long", "Llama 2 Long", "continued:llama_2_long", "a larger base, 400 G tokens", "2309.16039"),
    RecipeEntry("lwm", "Large World Model", "continued:lwm", "five lengths, five bases", "2402.08268"),
    RecipeEntry("longpo", "LongPO", "preference:longpo",
                "answers to short evidence preferred to those to the whole text; on pairs", "2502.13922"),
    RecipeEntry("drope", "DroPE", "recalibration:drope", "rotation dropped, recalibrated at the pretrained window",
                "2512.12167"),
    RecipeEntry("landmark", "Landmark attention", "memories:landmark",
                "a landmark behind every 50 tokens, at the pretrained window; all weights", "2305.16300"),
    RecipeEntry("longgen", "LongGen", "memories:longgen", "sparse layers around a full middle third; all weights",
                "2410.01485"),
    RecipeEntry("fot", "Focused Transformer", "memories:fot",
                "memory layers, beside windows of other documents; all weights", "2307.03170"),
    RecipeEntry("beacon", "Activation Beacon", "memories:beacon",
                "beacons' projections; the ratio drawn for each window", "2401.03462"),
    RecipeEntry("ext-tok", "Extensible Tokenization", "memories:ext_tok",
                "a copy of the first layers; the ratio drawn for each window", "2401.07793"),
    RecipeEntry("lact", "LaCT", "memories:lact", "weights that learn while a text is read, beside a window",
                "2505.23884"),
    RecipeEntry("hylo", "HyLo", "memories:hylo", "layers become latent attention or linear; taught by the model itself",
                "2604.24715"),
)  # fmt: skip

BY_ID = {entry.id: entry for entry in RECIPES}


def recipe(spelling: str) -> Recipe:
    """A recipe by its id, with what it is given of files: ``longrope(half=half.json, whole=whole.json)``.

    Raises:
        UserError: for one that there is not, or what it does not take.
    """
    name, given = files_of(spelling)
    return BY_ID[name].load(**given)


def files_of(spelling: str) -> tuple[str, dict[str, str]]:
    """A recipe's id, and the files that it is given.

    Raises:
        UserError: as ``recipe``.
    """
    name, bracket, rest = spelling.partition("(")
    if name not in BY_ID:
        if any(name == entry.id for entry in CATALOGUE):
            raise UserError(f"{name} is a method that needs no training of its own", f"Put it on: --methods {name}.")
        raise UserError(f"no recipe {name!r}{did_you_mean(name, BY_ID)}", f"There are {', '.join(BY_ID)}.")
    if not bracket:
        return name, {}
    takes = list(signature(BY_ID[name].function).parameters)
    given = dict(re.findall(r"(\w+)\s*=\s*([^,\s][^,]*?)\s*(?:,|$)", rest.removesuffix(")")))
    if not rest.endswith(")") or not given or not given.keys() <= set(takes):
        raise UserError(
            f"cannot read {spelling}: {name} takes {' and '.join(takes) or 'nothing'}",
            f"Write it as {name}" + (f"({', '.join(f'{one}=FILE' for one in takes)})." if takes else "."),
        )
    return name, given
