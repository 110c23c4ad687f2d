"""Trains the bundled model: ``python -m ropewalk.demo.pretrain --out ropewalk/demo/model``.

A Llama of about 5.5 M parameters with a window of 512 tokens, small enough for a laptop CPU and trained long enough to
retrieve anywhere inside its window. Resumable: state is written atomically every ``--save-every`` steps, and data
depend on (seed, step) alone. The learning rate is constant with a linear decay over the last fifth of ``--tokens``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ropewalk.demo import drills
from ropewalk.texts import builtin as corpus
from ropewalk.texts.opening import force_bos
from ropewalk.texts.pieces import TokenUnits

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

WINDOW = 512
VOCABULARY = 4096
SEED = 20260101
BATCH = 24  # rows per step
DRILL_ROWS = 6  # of them generated
LEARNING_RATE = 3e-3
WARMUP_STEPS = 100
DECAY = 0.2  # the last part of training


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE with one token per digit, trained on every eighth document and on a few drills."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    prose = [drills.needle(city, "") + drills.stem(city) for city in drills.CITIES] * 20
    words = [" ".join(drills.WORDS)] * 100
    tokenizer.train_from_iterator(
        documents[::8] + prose + words,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<s>", "</s>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    live = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )
    force_bos(live)  # as the model is trained
    return live


def build_model() -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config)


def tokenise(work: Path) -> tuple[PreTrainedTokenizerFast, np.ndarray]:
    """The tokenizer and the training stream (uint16, ``<s>`` before each document), made once and kept in ``work``."""
    from transformers import PreTrainedTokenizerFast

    stream = work / "stream.npy"
    if not stream.exists():
        documents = corpus.training_documents(SEED)
        tokenizer = train_tokenizer(documents)
        tokenizer.save_pretrained(work / "tokenizer")
        ids: list[np.ndarray] = []
        for start in range(0, len(documents), 256):
            batch = tokenizer(documents[start : start + 256], add_special_tokens=False).input_ids
            ids += [np.array([tokenizer.bos_token_id, *one], np.uint16) for one in batch]
        with open(work / "stream.tmp", "wb") as file:
            np.save(file, np.concatenate(ids))
        os.replace(work / "stream.tmp", stream)
    return PreTrainedTokenizerFast.from_pretrained(work / "tokenizer"), np.load(stream, mmap_mode="r")


class Rows:
    """Rows of WINDOW + 1 tokens for each step; the text is read once per epoch in a seeded order."""

    def __init__(self, stream: np.ndarray, units: TokenUnits):
        self.stream, self.units = stream, units
        self.n = (len(stream) - 1) // WINDOW

    def text(self, index: int) -> np.ndarray:
        epoch, i = divmod(index, self.n)
        start = int(self.order(epoch)[i]) * WINDOW
        return self.stream[start : start + WINDOW + 1]

    @cache  # noqa: B019  (one object lives as long as the process)
    def order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((SEED, epoch)).permutation(self.n)

    def batch(self, step: int) -> Tensor:
        """int64 [BATCH, WINDOW + 1]."""
        rng = random.Random(SEED + step)
        rows = [self.text(step * BATCH + i).astype(np.int64) for i in range(BATCH)]
        for i in range(DRILL_ROWS):
            rows[i] = np.array(drills.row(WINDOW + 1, rng, self.units, rows[i].tolist()))
        return torch.from_numpy(np.stack(rows))


def _chunk_loss(hidden: Tensor, head: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Summed cross entropy of one chunk and its gradients with respect to ``hidden`` and ``head``."""
    logits = (hidden @ head.T).float()
    shifted = logits - logits.amax(-1, keepdim=True)
    exp = shifted.exp()
    total = exp.sum(-1, keepdim=True)
    loss = (total.log() - shifted.gather(-1, targets[:, None])).sum()
    one_hot = torch.arange(logits.shape[-1])[None] == targets[:, None]
    gradient = (exp / total - one_hot.float()).to(hidden.dtype)
    return loss, gradient @ head, gradient.T @ hidden


class ChunkedLoss(torch.autograd.Function):
    """Mean cross entropy of ``hidden`` [N, D] under ``head`` [V, D] that never holds more than a chunk of logits."""

    chunk_loss = staticmethod(torch.compile(_chunk_loss))
    size = 1024

    @staticmethod
    def forward(ctx, hidden: Tensor, head: Tensor, targets: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        loss = torch.zeros(())
        d_hidden, d_head = torch.empty_like(hidden), torch.zeros_like(head, dtype=torch.float32)
        for part in torch.arange(len(hidden)).split(ChunkedLoss.size):
            chunk = slice(int(part[0]), int(part[-1]) + 1)
            value, d_hidden[chunk], d_part = ChunkedLoss.chunk_loss(hidden[chunk], head, targets[chunk])
            loss, d_head = loss + value, d_head + d_part
        ctx.save_for_backward(d_hidden / len(hidden), d_head / len(hidden))
        return loss / len(hidden)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[no-untyped-def,override]
        d_hidden, d_head = ctx.saved_tensors
        return d_hidden * gradient, (d_head * gradient).to(d_hidden.dtype), None


class MasterWeights:
    """float32 weights behind a bfloat16 model: Muon for the matrices of the layers, AdamW for the rest."""

    def __init__(self, model: nn.Module):
        self.pairs = [(p, p.detach().float().clone()) for p in model.parameters()]
        names = [name for name, _ in model.named_parameters()]
        matrices = [m for name, (_, m) in zip(names, self.pairs, strict=True) if m.ndim == 2 and "layers" in name]
        rest = [m for name, (_, m) in zip(names, self.pairs, strict=True) if not (m.ndim == 2 and "layers" in name)]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]

    def step(self, rate: float) -> None:
        for parameter, master in self.pairs:
            master.grad = parameter.grad.float() if parameter.grad is not None else None
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_([master for _, master in self.pairs], 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.publish()

    def publish(self) -> None:
        with torch.no_grad():
            for parameter, master in self.pairs:
                parameter.copy_(master)

    def state(self) -> dict[str, object]:
        return {"masters": [m for _, m in self.pairs], "optimizers": [o.state_dict() for o in self.optimizers]}

    def load(self, state: dict) -> None:  # type: ignore[type-arg]
        with torch.no_grad():
            for (_, master), saved in zip(self.pairs, state["masters"], strict=True):
                master.copy_(saved)
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.publish()


def rate_at(step: int, steps: int) -> float:
    """Warm-up, constant, then linear to zero over the last DECAY of the steps."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARMUP_STEPS, (steps - step) / (DECAY * steps))


def train(work: Path, tokens: int, save_every: int) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, list[dict]]:  # type: ignore[type-arg]
    """Train to ``tokens`` tokens (the schedule's end), going on from ``work`` where there is a state."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer, stream = tokenise(work)
    rows = Rows(stream, TokenUnits(tokenizer))
    torch.manual_seed(SEED)
    model = build_model()
    for name, parameter in model.named_parameters():  # residual branches start small
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            nn.init.normal_(parameter, std=0.02 / (2 * model.config.num_hidden_layers) ** 0.5)
    master = MasterWeights(model)
    for parameter in model.parameters():  # not model.bfloat16(): that would round inv_freq too
        parameter.data = parameter.data.bfloat16()
    body = torch.compile(model.model)

    steps, first, log = tokens // (BATCH * WINDOW), 0, []
    state_file = work / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        master.load(state["master"])
        first, log = state["step"], json.loads((work / "log.json").read_text())[: state["logged"]]
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.2f} M parameters, stream of {len(stream) / 1e6:.1f} M tokens")
    print(f"steps {first}..{steps}", flush=True)
    began, seen = time.monotonic(), []
    for step in range(first, steps):
        batch = rows.batch(step)
        hidden = body(input_ids=batch[:, :-1], use_cache=False).last_hidden_state
        loss = ChunkedLoss.apply(hidden.flatten(0, 1), model.lm_head.weight, batch[:, 1:].flatten())
        loss.backward()
        master.step(rate_at(step, steps))
        seen.append(loss.item())
        if (step + 1) % 25 == 0:
            speed = (step + 1 - first) * BATCH * WINDOW / (time.monotonic() - began)
            log.append(
                {"step": step + 1, "tokens": (step + 1) * BATCH * WINDOW, "loss": round(sum(seen) / len(seen), 4)}
            )
            print(f"{log[-1]} {speed:.0f} tokens/s", flush=True)
            seen = []
        if (step + 1) % save_every == 0 or step + 1 == steps:
            (work / "log.json").write_text(json.dumps(log))
            torch.save({"master": master.state(), "step": step + 1, "logged": len(log)}, work / "state.tmp")
            os.replace(work / "state.tmp", state_file)
    return model, tokenizer, log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "model", help="where the checkpoint goes")
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="tokens and resumable state")
    parser.add_argument("--tokens", type=int, default=42_000_000)
    parser.add_argument("--save-every", type=int, default=100, help="steps")
    arguments = parser.parse_args()
    model, tokenizer, log = train(arguments.work, arguments.tokens, arguments.save_every)
    model.save_pretrained(arguments.out)
    tokenizer.save_pretrained(arguments.out)
    (arguments.out / "training_log.json").write_text("[\n" + ",\n".join(map(json.dumps, log)) + "\n]\n")
    print(f"saved to {arguments.out}")


if __name__ == "__main__":
    main()
