"""extend -> export -> the engine's formulas -> the method's own frequencies: the identity, or a refusal with a mend."""

from __future__ import annotations

import json
import shlex

import pytest
import torch

from ropewalk.checkpoint.gguf import llama_rope
from ropewalk.common.errors import UserError
from ropewalk.engines import llama_cpp
from ropewalk.engines.agreement import READERS, Asked
from ropewalk.engines.handover import export
from ropewalk.engines.reading import Files
from ropewalk.rope.config import load_config
from tests.matrix import FAMILY_NAMES, SAVED, TARGET, made
from tests.models import shared

# What an engine has no keys, no flags or no class for; everything else must come back.
REFUSED = {
    "vllm": lambda family, rope_type: family == "gpt_oss",
    "sglang": lambda family, rope_type: family == "phi3",  # wants a key in the file, which a line cannot give
    "llama.cpp": lambda family, rope_type: rope_type in ("longrope", "llama3"),
    "transformers": lambda family, rope_type: False,
}


def overrides_of(line: str, engine: str) -> dict:
    words = shlex.split(line)
    name = {"vllm": "--hf-overrides", "sglang": "--json-model-override-args"}[engine]
    return json.loads(words[words.index(name) + 1])


def asked_by(line: str, engine: str, files: Files) -> tuple[Files, Asked]:
    """What the printed line makes the engine read, taken from the line alone."""
    if engine == "llama.cpp":
        return files, Asked(flags=line.split("&&")[1])
    if engine == "transformers":
        keys = line.partition("', ")[2].removesuffix(")")
        return files.replaced(eval(f"dict({keys})")), Asked()  # our own line of Python
    return files, Asked(overrides_of(line, engine), via_transformers="--model-impl transformers" in line)


DEFAULT = ("phi3", "gemma3")  # partial and fused, per layer type


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in FAMILY_NAMES]
)
@pytest.mark.parametrize("engine", list(REFUSED))
def test_the_printed_line_gives_the_methods_frequencies(engine, family, tmp_path):
    model = shared(family)
    model.config.save_pretrained(tmp_path)
    config = load_config(str(tmp_path))
    came_back = 0
    for spelling in SAVED:
        method = made(spelling, model)
        try:
            line = export(str(tmp_path), engine, TARGET, method).profiles[-1].line
        except UserError as error:
            (entry, *_) = method.saved(config, TARGET).values()
            assert REFUSED[engine](family, entry["rope_type"]), (spelling, error.message)
            assert error.mend, spelling
            continue
        files, asked = asked_by(line, engine, Files.load(tmp_path))
        found = READERS[engine](files, TARGET, asked)
        for key, want in method.static_plan(config, TARGET).items():
            reading = found.get(key, next(iter(found.values())))
            assert torch.allclose(reading.inv_freq, want.inv_freq, rtol=2e-5, atol=1e-20), (spelling, key)
            assert reading.attention_factor == pytest.approx(want.attention_factor, rel=1e-5), (spelling, key)
        came_back += 1
    assert came_back or REFUSED[engine](family, "longrope")


def test_flags_are_read_as_they_are_written():
    parameters = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.3,
                  "beta_fast": 8.0, "rope_theta": 1e4}  # fmt: skip
    flags = llama_rope.Flags.parse(llama_cpp.flags_for(parameters, TARGET, "llama"))
    assert (flags.rope_freq_scale, flags.yarn_orig_ctx, flags.ctx_size, flags.yarn_beta_fast) == (0.25, 64, 256, 8.0)
    metadata = {"context_length": 64, "rope.dimension_count": 16, "rope.freq_base": 1e4}
    found = llama_rope.read(metadata, flags)
    assert (found.attention_factor, found.max_length) == (pytest.approx(1.3), TARGET)
