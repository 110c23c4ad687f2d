"""Low-rank adapters (LoRA, QLoRA): what is trained beside frozen weights, saved with its rope, and merged into them.

Factors are peft's, put into the model in place, so that it stays what it was to all that works on it. Embeddings and
norms are trained where they are: no copies, and tied weights stay tied. On disk both look as peft writes them.

LoRA: arXiv 2106.09685. QLoRA: 2305.14314. With embeddings and norms (LongLoRA): 2309.12307.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ropewalk.checkpoint.adapter_folder import CONFIG, PREFIX, WEIGHTS, AdapterFolder, described
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.extras import extra
from ropewalk.common.files import listed
from ropewalk.common.whole import new_folder, write_text
from ropewalk.methods.frequencies.frequency_method import check_live
from ropewalk.rope.config import quiet, read, record_of, spec_to_json
from ropewalk.rope.live import decoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ALSO = ("embeddings", "norms")
QUANTISED = ("nf4",)
WORDS = ("attention", "all")
NAME = "default"  # peft's, of the one adapter
IN_A_LAYER = re.compile(r"\.\d+\.")
ATTENTION = re.compile(r"\.(self_attn|self_attention|attention|attn)\.")
ROWS, FEW = 256, 4  # of the embedding and of each linear layer, in the digest


@dataclass(frozen=True, eq=False)
class Adapter:
    """A model with trainable factors in it.

    Attributes:
        model: the live model, as before but for its linear layers.
        base: name of the model that the factors are for.
        rank: of the factors.
        alpha: their product counts alpha / rank (with ``rslora`` alpha / sqrt(rank)).
        dropout: of what the factors read, in training.
        rslora: see ``alpha``.
        whole: parameters that are trained whole, by name.
        digest: of the base's weights.
    """

    model: PreTrainedModel
    base: str
    rank: int
    alpha: float
    dropout: float
    rslora: bool
    whole: tuple[str, ...]
    digest: str

    @property
    def factors(self) -> dict[str, nn.Module]:
        """Name -> module with factors."""
        return {name: one for name, one in self.model.named_modules() if hasattr(one, "lora_A")}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name in the file -> trained parameter; under two names where the head is tied to a trained embedding."""
        found = dict(self.model.named_parameters())
        factors = {name.replace(f".{NAME}.", "."): one for name, one in found.items() if ".lora_" in name}
        whole = {name: found[name] for name in self.whole}
        if (embedding := _embedding(self.model)) in whole and (head := _tied_head(self.model)):
            whole[head] = whole[embedding]
        return {PREFIX + name: one for name, one in (factors | whole).items()}

    def counts(self) -> dict[str, int]:
        """Trained numbers: of factors, embeddings and norms."""
        found = {"factors": 0, **dict.fromkeys(ALSO, 0)}
        embedding = self.model.get_input_embeddings().weight
        for name, one in self.model.named_parameters():
            if one.requires_grad:
                found["factors" if ".lora_" in name else "embeddings" if one is embedding else "norms"] += one.numel()
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Name in the file -> copy on the CPU. Of a sharded model every process must ask, and each gets all."""
        return {name: _gathered(one) for name, one in self.parameters().items()}

    def save(
        self,
        out: str | Path,
        overwrite: bool = False,
        tensors: dict[str, Tensor] | None = None,
        training: Mapping[str, Any] | None = None,
    ) -> Path:
        """Write the adapter as peft does, with the rope of the model in the header of its weights.

        Args:
            out: folder that appears when it is complete.
            overwrite: replace one that ropewalk wrote.
            tensors: what ``tensors`` gave, where one process writes what all gathered.
            training: for the record of folders that the adapter is merged into: by which recipe ("trained"), under
                which "method", to which "target" in tokens.

        Returns:
            The folder.

        Raises:
            UserError: if the model does not rotate as its configuration says, or the folder cannot be written.
        """
        check_live(self.model)
        rope = {key: spec_to_json(spec) for key, spec in read(self.model.config).items()}
        names = sorted(self.factors)
        config = _lora(
            self.rank,
            self.alpha,
            self.dropout,
            self.rslora,
            _short(self.model, names),
            base_model_name_or_path=self.base,
            task_type="CAUSAL_LM",
            inference_mode=True,
            modules_to_save=sorted({name.split(".")[-2] for name in self.whole}) or None,
            ensure_weight_tying=bool(_tied_head(self.model)) and _embedding(self.model) in self.whole,
        ).to_dict()
        content = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
        with new_folder(Path(out), [], overwrite) as folder:
            metadata = described(rope, record_of(self.model.config), self.digest, training or {})
            save_file(tensors or self.tensors(), folder / WEIGHTS, metadata)
            write_text(folder / CONFIG, json.dumps(content, indent=2, sort_keys=True) + "\n")
        return Path(out)


def adapt(
    model: PreTrainedModel,
    *,
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    targets: Sequence[str] = ("attention",),
    also: Sequence[str] = (),
    quantise: str | None = None,
    base: str = "",
    seed: int = 0,
) -> Adapter:
    """Freeze a model and put trainable factors beside its linear layers, in place; it computes what it did.

    Args:
        model: a live transformers model, extended already.
        rank: of the factors.
        alpha: their product counts alpha / rank.
        dropout: of what the factors read, in training.
        targets: "attention" and "all" (the linear layers there, in every layer of the decoder), or their last names
            ("q_proj"). Experts that are not linear layers have no factors.
        also: "embeddings" (the input's, and the head where it is tied to them) and "norms", which are trained whole.
        quantise: "nf4": linear layers of all layers in 4 bits (double quantisation), computing in the model's type.
        base: name under which the model is found again; by default the one that it was loaded by.
        seed: of the factors' first values; the global random state stays.

    Raises:
        UserError: if the model has an adapter, does not rotate as its configuration says, or an option is unknown.
    """
    for word in also:
        _refuse_unknown("also", word, ALSO)
    if rank < 1 or alpha <= 0 or not 0 <= dropout < 1:
        raise UserError(
            f"rank is {rank}, alpha {alpha:g} and dropout {dropout:g}; expected a rank of at least 1, an alpha above 0 "
            "and a dropout in [0, 1)"
        )
    names = _chosen(model, targets)
    norms = [name for name in _norms(model) if "norms" in also]
    whole = [*([_embedding(model)] if "embeddings" in also else []), *norms]
    return _put_in(model, names, whole, rank, alpha, dropout, False, quantise, base, seed)


def load(model: PreTrainedModel, folder: str | Path, quantise: str | None = None) -> Adapter:
    """Put an adapter into a live model, in place, if it belongs to it.

    Args:
        model: the base, extended as it was in the adapter's training.
        folder: as ``Adapter.save`` or peft wrote it.
        quantise: as in ``adapt``.

    Raises:
        UserError: if the model rotates by another rope, is another base, or the file is not one of plain LoRA. The
            model is then as it was.
    """
    found = AdapterFolder.open(folder)
    found.refuse_other_rope(read(model.config), model.config.name_or_path or type(model).__name__)
    if found.rope is None:
        logging.getLogger("ropewalk").warning(
            "%s does not say which rope it was trained under; that of the model is taken for it", folder
        )
    if found.digest and found.digest != digest(model):
        raise UserError(
            f"{folder} was trained on other weights than those of {model.config.name_or_path or 'this model'}",
            f"Take its base: {found.base}, where it lies (ropewalk merge: --base FOLDER).",
        )
    _refuse_misfit(model, found)
    settings, tensors = found.settings, load_file(found.folder / WEIGHTS)
    adapter = _put_in(
        model,
        found.factors,
        [name for name, _ in model.named_parameters() if name in found.replaced],
        found.rank,
        float(settings["lora_alpha"]),
        float(settings.get("lora_dropout") or 0.0),
        bool(settings.get("use_rslora")),
        quantise,
        found.base,
    )
    with torch.no_grad():
        for name, one in adapter.parameters().items():
            one.copy_(tensors[name])
    return adapter


def digest(model: PreTrainedModel) -> str:
    """Tells bases apart, whatever type they were loaded in: of norms, and of some rows of all that factors are put to.

    Fine-tuned siblings may share embeddings and norms, where these were not trained.
    """
    found = dict(model.named_parameters())
    tensors: list[Tensor] = [found[name] for name in _norms(model)] + [found[_embedding(model)][:ROWS]]
    tensors += [one.weight[:FEW] for one in _linear(model).values() if one.weight.is_floating_point()]
    if any(one.is_meta for one in tensors):
        return ""
    whole = hashlib.sha256()
    for one in tensors:
        whole.update(_gathered(one).to(torch.bfloat16).view(torch.int16).numpy().tobytes())
    return whole.hexdigest()[:16]


def merged(adapter: Adapter) -> PreTrainedModel:
    """The model with the factors added to its weights, in the type they have, and without the adapter; in place.

    Raises:
        UserError: if its weights are in 4 bits, which would round the factors away.
    """
    for name, module in adapter.factors.items():
        base: Any = module.base_layer
        if not base.weight.is_floating_point():
            raise UserError(
                f"{name} is in 4 bits, which would round the adapter away", "Merge it into the base as it was."
            )
        module.merge(safe_merge=True)  # type: ignore[operator]
        adapter.model.set_submodule(name, base)
    vars(adapter.model).pop("peft_config", None)
    return adapter.model.requires_grad_(True)


def _put_in(
    model: PreTrainedModel,
    names: Sequence[str],
    whole: Sequence[str],
    rank: int,
    alpha: float,
    dropout: float,
    rslora: bool,
    quantise: str | None = None,
    base: str = "",
    seed: int = 0,
) -> Adapter:
    if quantise is not None:
        _refuse_unknown("quantise", quantise, QUANTISED)
    if any(hasattr(module, "lora_A") for module in model.modules()):
        raise UserError(f"{type(model).__name__} has an adapter already", "Load the base again.")
    if not next(model.parameters()).is_meta:
        check_live(model)
    dtype, mark = model.dtype, digest(model)
    config = _lora(rank, alpha, dropout, rslora, list(names))
    if quantise:
        _quantise(model)
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), quiet():
        torch.manual_seed(seed)
        extra("peft", "Adapters").inject_adapter_in_model(config, model, NAME)
    for name, one in model.named_parameters():
        one.requires_grad_(".lora_" in name or name in whole)
        if ".lora_" in name:
            one.data = one.data.to(dtype)  # one type, as sharding wants it; the optimizer has float32 masters
    return Adapter(
        model, base or str(model.config.name_or_path or ""), rank, alpha, dropout, rslora, tuple(whole), mark
    )


def _refuse_unknown(option: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise UserError(f"{option} is {word!r}, expected {' or '.join(known)}{did_you_mean(word, known)}")


def _lora(rank: int, alpha: float, dropout: float, rslora: bool, names: Sequence[str], **more: Any) -> Any:
    config = extra("peft", "Adapters").LoraConfig
    alpha = int(alpha) if alpha == int(alpha) else alpha
    return config(r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=rslora, target_modules=list(names), **more)


def _quantise(model: PreTrainedModel) -> None:
    """The linear layers inside of layers in NF4, each in the place and on the device of the old one."""
    library = extra("bitsandbytes", "Weights in 4 bits").nn
    for name, old in _linear(model).items():
        bias, device = old.bias, old.weight.device
        new = library.Linear4bit(
            old.in_features, old.out_features, bias is not None, model.dtype, quant_type="nf4", device="meta"
        )
        new.weight = library.Params4bit(old.weight.data, quant_type="nf4", compress_statistics=True, module=new)
        new.bias = bias
        new.support_avx512bf16_for_cpu = False  # packs weights in evaluation; fails for widths that 64 does not divide
        model.set_submodule(name, new.to(device))
    vars(model)["is_loaded_in_4bit"] = True  # peft asks for it


def _linear(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Name -> linear layer in a layer of the decoder."""
    inside = {id(module) for module in decoder(model).modules()}
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in inside and IN_A_LAYER.search(name)
    }


def _chosen(model: PreTrainedModel, targets: Sequence[str]) -> list[str]:
    """Names of the linear layers that get factors."""
    every = list(_linear(model))
    found: set[str] = set()
    for word in targets:
        chosen = {
            name
            for name in every
            if word == "all" or (ATTENTION.search(name) if word == "attention" else name.endswith(f".{word}"))
        }
        if not chosen:
            last = dict.fromkeys(name.rpartition(".")[2] for name in every)
            raise UserError(
                f"targets has {word!r}, and no layer of this model has a linear layer of that name"
                f"{did_you_mean(word, [*WORDS, *last])}",
                f"Choose among {', '.join([*WORDS, *last])}.",
            )
        found |= chosen
    if not found:
        raise UserError("targets is empty, expected linear layers", "Take attention, or all.")
    return [name for name in every if name in found]


def _short(model: PreTrainedModel, names: Iterable[str]) -> list[str]:
    """Last names, if they mean these modules and no others; else the names themselves."""
    wanted = set(names)
    last = {name.rpartition(".")[2] for name in wanted}
    modules = (name for name, one in model.named_modules() if name.rpartition(".")[2] in last and ".lora_" not in name)
    return sorted(last if {name for name in modules if not name.endswith(".base_layer")} == wanted else wanted)


def _norms(model: PreTrainedModel) -> list[str]:
    """Names of the parameters of the decoder's norms."""
    inside = {id(module) for module in decoder(model).modules()}
    found = (name for name, one in model.named_modules() if "Norm" in type(one).__name__ and id(one) in inside)
    modules = set(found)
    return [name for name, _ in model.named_parameters() if name.rpartition(".")[0] in modules]


def _embedding(model: PreTrainedModel) -> str:
    """Name of the input embedding's weight."""
    embedding = model.get_input_embeddings().weight
    return next(name for name, one in model.named_parameters() if one is embedding)


def _tied_head(model: PreTrainedModel) -> str:
    """Name of the head's weight if it is that of the input embedding; else empty."""
    embedding = model.get_input_embeddings().weight
    names = [name for name, one in model.named_parameters(remove_duplicate=False) if one is embedding]
    return next((name for name in names if name != _embedding(model)), "")


def _gathered(one: Tensor) -> Tensor:
    """A copy on the CPU, whole."""
    whole: Tensor = one.full_tensor() if isinstance(one, DTensor) else one  # type: ignore[no-untyped-call]
    return whole.detach().to("cpu", copy=True).contiguous()


def _refuse_misfit(model: PreTrainedModel, found: AdapterFolder) -> None:
    """Refuse tensors that have no place in the model, in their size or with the meaning they were trained in."""
    linear, whole = _linear(model), dict(model.named_parameters(remove_duplicate=False))
    wanted: dict[str, tuple[int, ...]] = {}
    for name in found.factors:
        if (one := linear.get(name)) is not None:
            wanted |= {f"{PREFIX}{name}.lora_A.weight": (found.rank, one.in_features)}
            wanted |= {f"{PREFIX}{name}.lora_B.weight": (one.out_features, found.rank)}
    wanted |= {PREFIX + name: tuple(whole[name].shape) for name in found.replaced if name in whole}
    for name, (shape, _) in found.header.items():
        if wanted.get(name) != shape:
            place = f"makes it {list(wanted[name])}" if name in wanted else "has no place for it"
            raise UserError(
                f"{found.folder / WEIGHTS}: {name!r} is {list(shape)}, and {type(model).__name__} {place}",
                f"Take the base that it was trained on: {found.base}.",
            )
    if wanted.keys() - found.header.keys():
        raise UserError(f"{found.folder / WEIGHTS} lacks {listed(sorted(wanted.keys() - found.header.keys()))}")
    if not found.factors:
        raise UserError(f"{found.folder / WEIGHTS} holds no low-rank factors")
    head, embedding = _tied_head(model), _embedding(model)
    with safe_open(found.folder / WEIGHTS, "pt") as file:
        stored = [file.get_tensor(PREFIX + name) for name in (embedding, head) if name in found.replaced]
    if head and len(stored) > 0 and not (len(stored) == 2 and torch.equal(*stored)):
        raise UserError(
            f"{found.folder} was trained with embeddings apart from the head, and in this model they are one",
            "Merge it with peft: model.merge_and_unload().save_pretrained(OUT).",
        )
