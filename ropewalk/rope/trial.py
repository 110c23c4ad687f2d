"""Whether an architecture takes another rope: its model is made of both configurations, without weights, and compared.

Attention may read rope parameters that no rotary module sees (a scale of the logits, a temperature of the queries).
What is lost there shows in no frequency, but in the scale of a layer or in the first forward.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from warnings import catch_warnings, simplefilter

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.rope.config import quiet, text_config
from ropewalk.rope.live import check, rotaries

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from ropewalk.rope.spec import Frequencies

TOKENS = 3
RUNS = 2
MISSING = (TypeError, KeyError, AttributeError, ValueError, IndexError)  # how a key that is not there shows
BLIND = ("llama4",)  # every forward of Llama4ForConditionalGeneration fails in transformers 5.24
ALIKE = 128  # layers; of more that are all the same, two are made
MEND = "Choose another method (ropewalk methods); yarn raises the factor of a model that was trained with yarn."


def class_of(config: PreTrainedConfig) -> Any:
    """The class that weights were saved from, else that of its auto class; None for code of its own."""
    import transformers

    if not type(config).__module__.startswith("transformers."):
        return None
    saved = getattr(transformers, str((config.architectures or [""])[0]), None)
    if isinstance(saved, type) and issubclass(saved, transformers.PreTrainedModel):
        return saved
    tables = transformers.MODEL_FOR_CAUSAL_LM_MAPPING, transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING
    found = [table[type(config)] for table in tables if type(config) in table]
    whole = (one for one in found if getattr(one, "config_class", None) is type(config))
    return next(whole, found[0] if found else None)


def auto_class(config: PreTrainedConfig) -> Any:
    """The auto class of transformers that loads what a configuration is of, with its eyes where it has some.

    Of some models the class for language takes the inner configuration (Qwen3.5), of others there is none (Qwen3-VL).
    Without its eyes is loaded what cannot run with them.
    """
    import transformers

    kind, languages = type(config), transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    whole = kind in transformers.MODEL_FOR_MULTIMODAL_LM_MAPPING
    own = kind in languages and getattr(languages[kind], "config_class", None) is kind
    halves = kind not in languages or getattr(config, "is_encoder_decoder", False)  # BART has a decoder's too
    if halves and kind in transformers.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForSeq2SeqLM
    language = not whole or own or kind.model_type in BLIND
    return transformers.AutoModelForCausalLM if language else transformers.AutoModelForMultimodalLM


def compare(
    before: PreTrainedConfig, after: PreTrainedConfig, meant: Mapping[str, Frequencies], tolerance: float
) -> None:
    """Refuse a configuration that its class does not allow, or with which layers scale their logits otherwise or the
    model does not run any more.

    Its rotary modules are made too, with their numbers, and their forwards compared with what is meant. Models that
    cannot be made without weights are not compared.

    Args:
        before: as the model was trained.
        after: as it is to be.
        meant: layer type -> what it is to rotate by.
        tolerance: relative, of frequencies.

    Raises:
        UserError: naming the layer and the two scales, or what the model says, or which rotation differs.
    """
    refused = _refused(after)
    if refused and not _refused(before):  # asked when a model is saved, and not before
        raise UserError(f"{type(text_config(after)).__name__} refuses these rope parameters: {refused}", MEND)
    kind = class_of(before)
    if kind is None:
        return
    try:
        old = _made(kind, before)
    except Exception:  # many kinds, of models that need something else to be made
        return
    try:
        new = _made(kind, after)
    except Exception as error:
        raise UserError(f"{kind.__name__} cannot be made with these rope parameters: {_said(error)}", MEND) from None
    _rotates(new, meant, tolerance)
    scales = _scales(new)
    for name, scale in _scales(old).items():
        if not math.isclose(scales.get(name, scale), scale, rel_tol=1e-6):
            raise UserError(
                f"layer {name} would scale its logits by {scales[name]:.6g}, it was trained with {scale:.6g}: "
                "attention reads that from the rope parameters",
                MEND,
            )
    failed = _fails(new)
    if failed and failed != _fails(old):
        raise UserError(f"{kind.__name__} does not run with these rope parameters: {failed}", MEND)


def _refused(config: PreTrainedConfig) -> str:
    """What the class of a language model's configuration says against its values; empty if nothing."""
    check = getattr(text_config(config), "validate", None)  # of transformers' strict dataclasses
    try:
        with quiet():
            if callable(check):
                check()
    except Exception as error:  # of many kinds
        return str(error).strip().splitlines()[-1].strip()
    return ""


def _made(kind: Any, config: PreTrainedConfig) -> nn.Module:
    config = copy.deepcopy(config)
    text = text_config(config)
    if not getattr(text, "layer_types", None) and getattr(text, "num_hidden_layers", 0) > 2:
        text.num_hidden_layers = 2  # the others are the same
    with torch.device("meta"), quiet():
        model: nn.Module = kind(config)
    return model


def reached(config: PreTrainedConfig) -> tuple[int, str]:
    """How far one gets with the model of a configuration: 0 it cannot be made, 1 it does not run, 2 it runs; and why.

    It is made without weights and reads a few tokens, so that what shapes say is seen, and no value. Also 2 where
    that cannot be told: for code of its own, and past what looks at values (some routers of experts).
    """
    kind = class_of(config)
    if kind is None:
        return RUNS, ""
    config = copy.deepcopy(config)
    config._experts_implementation = "batched_mm"  # the others look at values, or ask for a type of number
    text = text_config(config)
    if not getattr(text, "layer_types", None) and getattr(text, "num_hidden_layers", 0) > ALIKE:
        text.num_hidden_layers = 2
    try:
        with torch.device("meta"), quiet(), catch_warnings():
            simplefilter("ignore")  # of torch, of what is refused below
            model = kind._from_config(config)
    except Exception as error:  # many kinds, all about the configuration
        return 0, f"{kind.__name__} cannot be made: {_said(error)}"
    empty = next((name for name, weight in model.named_parameters() if not weight.numel()), None)
    if empty is not None:
        return 0, f"{kind.__name__} would have no number in {empty}, {list(model.get_parameter(empty).shape)}"
    failed = ""
    for mask in (torch.ones(1, 1, TOKENS, TOKENS, device="meta", dtype=model.dtype), None):  # some take only the one
        try:
            _forward(model, mask)
        except (NotImplementedError, UserError):  # it looked at values; it has no rotary module
            return RUNS, ""
        except Exception as error:
            failed = failed or f"{kind.__name__} does not run: {_said(error)}"
        else:
            return RUNS, ""
    return 1, failed


def _rotates(model: nn.Module, meant: Mapping[str, Frequencies], tolerance: float) -> None:
    """Compare every rotary module of a model on the meta device, made again on the CPU, with what is meant.

    Raises:
        UserError: if one rotates otherwise, or there is none.
    """
    modules = {id(rotary.module): rotary.module for rotary in rotaries(model)}.values()
    try:
        with quiet():
            again = nn.ModuleList([type(module)(config=module.config) for module in modules])
    except MISSING:  # made of something else than a configuration
        return
    check(again, meant, tolerance)


def _scales(model: nn.Module) -> dict[str, float]:
    """Name of a module -> the number by which it scales its logits."""
    found = {name: getattr(module, "scaling", None) for name, module in model.named_modules()}
    return {name: scale for name, scale in found.items() if isinstance(scale, float)}


def _fails(model: nn.Module) -> str:
    """What the model says of a few tokens where a key is missing; empty if it reads them."""
    try:
        _forward(model, torch.ones(1, 1, TOKENS, TOKENS, device="meta"))  # a mask, since making one looks at values
    except UserError:  # no rotary module
        return ""
    except MISSING as error:
        return _said(error)
    except Exception:  # what the meta device cannot do (looking at values, routing to experts): it got that far
        return ""
    return ""


def _forward(model: nn.Module, mask: Tensor | None) -> None:
    """Let a model on the meta device read a few tokens."""
    for rotary in rotaries(model):
        rotary.rope_type = "default"  # others look at positions
    with quiet(), torch.no_grad():
        model.eval()(
            input_ids=torch.ones(1, TOKENS, dtype=torch.long, device="meta"), attention_mask=mask, use_cache=False
        )


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
