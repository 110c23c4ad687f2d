"""What llama.cpp derives: the YaRN paper's numbers by hand, and each key and flag that it reads or passes over."""

from __future__ import annotations

import math

import pytest
import torch

from ropewalk.checkpoint.gguf.llama_rope import Flags, read
from ropewalk.common.errors import UserError

PLAIN = {"context_length": 4096, "rope.dimension_count": 128, "rope.freq_base": 10000.0}
YARN = PLAIN | {
    "context_length": 16384, "rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 4096,
}  # fmt: skip
AT = [0, 16, 32, 40, 48, 63]
W = 10000.0 ** -(torch.arange(0, 128, 2, dtype=torch.float64) / 128)
FACTORS = [1.0 + i / 16 for i in range(64)]


def factors(reading) -> list[float]:
    return (W / reading.inv_freq)[AT].tolist()


def test_yarn_keys_give_the_numbers_of_yarn():
    found = read(YARN)
    assert factors(found) == pytest.approx([1, 1, 1.529412, 2.363636, 4, 4], abs=1e-6)
    assert found.attention_factor == pytest.approx(1.138629, abs=1e-6)
    assert found.max_length == 16384


def test_yarn_flags_on_a_plain_file_say_the_same_and_raise_the_servers_cap():
    flags = Flags.parse("llama-server -m m.gguf --rope-scaling yarn --rope-scale 4 --yarn-orig-ctx 4096 -c 16384")
    found, keys = read(PLAIN, flags), read(YARN)
    assert torch.equal(found.inv_freq, keys.inv_freq)
    assert (found.attention_factor, found.max_length) == (keys.attention_factor, keys.max_length)


def test_without_a_context_flag_the_context_stays_that_of_the_file():
    assert read(PLAIN, Flags(rope_scaling="yarn", rope_freq_scale=0.25)).max_length == 4096


def test_linear_flags_do_not_raise_the_cap_but_an_overridden_key_does():
    line = "--rope-scaling linear --rope-scale 4 -c 16384"
    assert read(PLAIN, Flags.parse(line)).max_length == 4096
    found = read(PLAIN, Flags.parse(line + " --override-kv llama.context_length=int:16384"))
    assert found.max_length == 16384
    assert factors(found) == pytest.approx([4] * 6)


def test_a_scale_of_2_in_freq_scale_shortens_the_window():
    found = read(PLAIN, Flags.parse("--rope-scaling yarn --rope-freq-scale 2.0 --yarn-orig-ctx 4096 -c 16384"))
    assert found.max_length == 2048
    assert factors(found)[-1] == pytest.approx(0.5)


def test_yarn_cancels_its_own_attention_flag_and_reads_the_general_key():
    assert read(YARN, Flags(yarn_attn_factor=1.3)).attention_factor == pytest.approx(1.138629, abs=1e-6)
    wanted = 1.3 / (0.1 * math.log(4) + 1)
    assert read(YARN | {"rope.scaling.attn_factor": wanted}).attention_factor == pytest.approx(1.3)
    assert read(PLAIN, Flags(yarn_attn_factor=1.3)).attention_factor == pytest.approx(1.3)


def test_yarn_betas_are_read_from_flags_and_from_keys_of_two_architectures_only():
    keys = YARN | {"rope.scaling.yarn_beta_fast": 8.0, "rope.scaling.yarn_beta_slow": 2.0}
    by_flag = read(YARN, Flags(yarn_beta_fast=8.0, yarn_beta_slow=2.0))
    assert torch.equal(read(keys).inv_freq, read(YARN).inv_freq)
    assert torch.equal(read(keys, architecture="mistral3").inv_freq, by_flag.inv_freq)
    assert not torch.equal(by_flag.inv_freq, read(YARN).inv_freq)


def test_the_type_none_ignores_the_factor():
    assert factors(read(YARN | {"rope.scaling.type": "none"})) == pytest.approx([1] * 6)


def test_one_factor_per_dimension_divides_and_wants_an_architecture_that_loads_it():
    found = read(PLAIN | {"rope_freqs": FACTORS, "rope.scaling.attn_factor": 1.2})
    assert factors(found) == pytest.approx([FACTORS[i] for i in AT])
    assert found.attention_factor == pytest.approx(1.2)
    with pytest.raises(UserError, match="'rope_freqs' for architecture 'qwen2'"):
        read(PLAIN | {"rope_freqs": FACTORS}, architecture="qwen2")


def test_long_factors_are_chosen_by_the_context_at_load():
    keys = PLAIN | {
        "context_length": 16384, "rope.scaling.type": "longrope", "rope.scaling.original_context_length": 4096,
        "rope_factors_short": [1.0] * 64, "rope_factors_long": FACTORS,
    }  # fmt: skip
    assert factors(read(keys, architecture="phi3")) == pytest.approx([FACTORS[i] for i in AT])
    assert factors(read(keys, Flags(ctx_size=4096), "phi3")) == pytest.approx([1] * 6)
    assert factors(read(keys, Flags(ctx_size=4097), "phi3")) == pytest.approx([FACTORS[i] for i in AT])


def test_sliding_layers_follow_the_architecture():
    keys = YARN | {"rope.freq_base_swa": 10000.0}
    olmo = read(keys, architecture="olmo2", sliding=True)
    assert factors(olmo) == pytest.approx([1] * 6)
    assert olmo.attention_factor == pytest.approx(1.0)
    assert factors(read(keys, architecture="gpt-oss", sliding=True)) == pytest.approx(factors(read(YARN)))


@pytest.mark.parametrize("line", ["--rope-scale 0", "--rope-scale four", "--yarn-orig-ctx"])
def test_flags_that_cannot_be_read_are_named(line):
    with pytest.raises(UserError, match=line.split()[0]):
        Flags.parse(line)


def test_a_file_without_a_length_or_with_an_unknown_type_is_refused():
    with pytest.raises(UserError, match="context_length"):
        read({"rope.dimension_count": 128})
    with pytest.raises(UserError, match=r"rope.scaling.type' is 'llama3'"):
        read(YARN | {"rope.scaling.type": "llama3"})
