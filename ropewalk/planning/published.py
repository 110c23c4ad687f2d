"""Numbers that papers and maintainers published about methods of the catalogue, each with its setting and source.

RULER of Llama-2-7B itself at 4k is 80.9 (arXiv 2409.12181).

Read before comparing: settings differ in model, factor, training and test, so rows of different sources do not rank
methods. ``ropewalk compare`` measures all of them on one model.
"""

from __future__ import annotations

from dataclasses import dataclass

LCEG = "arXiv 2409.12181"
LCEG_UNTRAINED = "Llama-2-7B 4k, no training"
LCEG_TRAINED = "Llama-2-7B 4k, 1B tokens"


@dataclass(frozen=True)
class Published:
    """One result.

    Attributes:
        method: id in the catalogue.
        scale: target length over pretrained window.
        trained: whether the model was trained with the method.
        result: what was measured.
        setting: model and training.
        source: arXiv id or address.
    """

    method: str
    scale: float
    trained: bool
    result: str
    setting: str
    source: str


RESULTS = (
    Published("pi", 4, False, "PG19 ppl 16.1 at 8k (7.2 at 2k)", "LLaMA-7B 2k, no training", "arXiv 2306.15595"),
    Published("pi", 8, False, "PG19 ppl 112 at 16k (7.2 at 2k)", "LLaMA-7B 2k, no training", "arXiv 2306.15595"),
    Published("pi", 16, True, "PG19 ppl 6.77 at 32k (7.2 at 2k)", "LLaMA-7B 2k, 1000 steps", "arXiv 2306.15595"),
    Published("pi", 8, True, "RULER 57.7 at 32k, 84.6 at 4k", LCEG_TRAINED, LCEG),
    Published("dynamic-ntk", 2, False, "RULER 44.5 at 8k, 81.1 at 4k", LCEG_UNTRAINED, LCEG),
    Published("dynamic-ntk", 4, False, "RULER 14.8 at 16k, 81.1 at 4k", LCEG_UNTRAINED, LCEG),
    Published("dynamic-ntk", 8, False, "RULER 0.7 at 32k, 81.1 at 4k", LCEG_UNTRAINED, LCEG),
    Published("dynamic-ntk", 8, True, "RULER 59.4 at 32k, 86.6 at 4k", LCEG_TRAINED, LCEG),
    Published("dynamic-ntk", 16, True, "RULER 46.3 at 64k, 86.6 at 4k", LCEG_TRAINED, LCEG),
    Published("ntk-aware", 2, True, "Proof-pile 3.59 at 8k (YaRN 3.36)", "8k models of the YaRN repository",
              "arXiv 2309.00071"),
    Published("yarn", 8, False, "GovReport ppl 5.83 at 16k (4.74)", "LLaMA-7B 2k, no training",
              "arXiv 2309.10400"),
    Published("yarn", 8, True, "RULER 37.0 at 32k, 79.1 at 4k", LCEG_TRAINED, LCEG),
    Published("yarn", 32, True, "Proof-pile ppl 2.37 at 128k (3.56 at 8k)", "Llama-2-7B 4k, 600 steps at 64k",
              "arXiv 2309.00071"),
    Published("yarn", 16, True, "RULER 49.4 at 128k", "Llama-3-8B 8k, 10B tokens", "arXiv 2502.20082"),
    Published("abf", 8, True, "book ppl 6.32 at 32k (PI 6.34)", "Llama 2 4k, continued pretraining",
              "arXiv 2309.16039"),
    Published("abf", 16, True, "RULER 73.2 at 128k (rule='critical')", "Llama-3-8B 8k, 10B tokens",
              "arXiv 2502.20082"),
    Published("abf", 32, True, "NIAH-8 79.5 to 128k", "Llama-2-7B 4k, one stage, 6B tokens", "arXiv 2412.07171"),
    Published("abf", 64, True, "HELMET 49.4 at 128k (Llama-3.1 46.5)", "Llama-3-8B 8k, 40B tokens to 512k (ProLong)",
              "arXiv 2410.02660"),
    Published("entropy-abf", 4, True, "LongBench-12 37.4 (base 33.0)", "Llama-2-7B-chat 4k, 100 samples",
              "arXiv 2401.07004"),
    Published("longrope", 4, False, "PG19 ppl 11.3 at 16k (PI 20.5)", "Llama-2-7B 4k, searched, no training",
              "arXiv 2402.13753"),
    Published("longrope", 16, True, "RULER 73.4 at 128k (LongRoPE2 82.0)", "Llama-3-8B 8k, 10B tokens",
              "arXiv 2502.20082"),
    Published("longrope", 512, True, "Books3 ppl 7.08 at 2048k (6.81 at 8k)", "Llama-2-7B 4k, trained to 256k",
              "arXiv 2402.13753"),
    Published("longembed-rope", 8, False, "passkey 94.5 % to 32k (71 % before)",
              "E5-Mistral 4k, no training", "arXiv 2404.12096"),
    Published("clex", 8, True, "RULER 52.2 at 32k, 50.2 at 4k", LCEG_TRAINED, LCEG),
    Published("clex", 16, True, "PG19 ppl 5.79 at 64k (base 6.30 at 4k)", LCEG_TRAINED, LCEG),
    Published("harpe", 32, True, "NIAH-8 86.8 to 128k (ABF 79.5)", "Llama-2-7B 4k, 6B tokens",
              "arXiv 2412.07171"),
    Published("selfextend", 2, False, "RULER 50.7 at 8k, 65.0 at 4k", LCEG_UNTRAINED, LCEG),
    Published("selfextend", 4, False, "RULER 44.0 at 16k, 65.0 at 4k", LCEG_UNTRAINED, LCEG),
    Published("selfextend", 8, False, "RULER 29.5 at 32k, 65.0 at 4k", LCEG_UNTRAINED, LCEG),
    Published("dca", 4, False, "PG19 ppl 8.62 at 32k (9.04 at 4k)", "Llama-3-8B 8k, no training",
              "https://github.com/HKUNLP/ChunkLlama"),
    Published("lm-infinite", 8, False, "RULER 12.3 at 32k, 81.1 at 4k", LCEG_UNTRAINED, LCEG),
    Published("rerope", 4, False, "loss 1.40 at 16k (1.50 at 4k)", "Llama-2-13B 4k, no training",
              "https://github.com/bojone/rerope"),
    Published("gali", 2, False, "LongBench 45.2 at 16k", "Llama-3-8B-Instruct 8k, no training", "arXiv 2502.02659"),
)  # fmt: skip

SHORT_TAX = (
    Published("yarn", 4, False, "Arena-Hard 39 before, 26.5 with factor 4 always on", "Qwen3, reported by a user",
              "https://github.com/QwenLM/Qwen3/issues/1567"),
    Published("yarn", 8, True, "RULER at 4k: 79.1, plain 80.9", LCEG_TRAINED, LCEG),
)  # fmt: skip


def nearest(method: str, scale: float, trained: bool | None = None) -> Published | None:
    """The result of ``method`` whose scale is nearest in ratio, of trained or untrained models if that is said."""
    known = [r for r in RESULTS if r.method == method and trained in (None, r.trained)]
    return min(known, key=lambda r: max(r.scale / scale, scale / r.scale), default=None)
