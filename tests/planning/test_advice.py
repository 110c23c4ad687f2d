"""Ladders, methods, hardware, cost and the published numbers."""

from __future__ import annotations

import pytest
import transformers

from ropewalk.common import lengths
from ropewalk.common.errors import UserError
from ropewalk.methods.catalogue import CATALOGUE, Entry
from ropewalk.planning import advice, memory
from ropewalk.planning.cost import cost, show_hours
from ropewalk.planning.hardware import GIB, GPUS, gpu, parse_memory, usable
from ropewalk.planning.memory import Serving, Training
from ropewalk.planning.published import RESULTS, nearest
from ropewalk.planning.shapes import shapes
from tests.planning.test_shapes import llama_3_8b

LLAMA = shapes(llama_3_8b())
H100 = usable(gpu("h100-80gb").memory)


def needs(how: Training, length: int) -> memory.Memory:
    return memory.training(LLAMA, how, length)


def ladder(target: int, room: int = H100, gpus: int = 1) -> advice.Ladder[Training]:
    return advice.climb(Training(), advice.training_switches(LLAMA, gpus), needs, target, room)


def test_a_ladder_ends_where_the_target_fits():
    found = ladder(131_072)
    assert found.fits and found.memory.total <= H100 < found.steps[-2].bytes
    assert found.steps[-1].longest >= 131_072
    assert needs(found.how, found.steps[-1].longest).total <= H100 < needs(found.how, found.steps[-1].longest + 1).total


def test_a_ladder_takes_nothing_that_it_does_not_need():
    found = ladder(131_072)
    switches = {switch.name: switch for switch in advice.training_switches(LLAMA, 1)}
    taken = [switches[step.name] for step in found.steps[1:]]
    for left_off in taken:
        others = advice.settings(Training(), [switch for switch in taken if switch is not left_off])
        assert needs(others, 131_072).total > H100, left_off.name


def test_full_training_is_given_up_last():
    names = [step.name for step in ladder(131_072, usable(24 * GIB)).steps]
    assert names[-2:] == ["LoRA", "QLoRA (4-bit base)"] and "LoRA" not in [step.name for step in ladder(131_072).steps]


def test_what_fits_as_it_is_needs_no_switch():
    found = ladder(64, 2**50)
    assert [step.name for step in found.steps] == ["plain"] and found.best == ""


def test_the_best_switch_is_the_one_that_saved_most():
    assert ladder(131_072).best == "gradient checkpointing"


def test_one_more_switch_is_the_one_that_lengthens_most():
    found = ladder(8192)
    taken = {step.name for step in found.steps}
    rest = [switch for switch in advice.training_switches(LLAMA, 1) if switch.name not in taken]
    hows = {switch.name: switch.on(found.how) for switch in rest}
    lengths = {name: memory.longest(lambda n, how=how: needs(how, n).total <= H100) for name, how in hows.items()}
    assert found.one_more and found.one_more.longest == max(lengths.values()) == lengths[found.one_more.name]
    assert found.steps[-1].longest < found.one_more.longest <= found.ceiling


def test_more_devices_reach_further():
    assert ladder(131_072, gpus=8).ceiling > 4 * ladder(131_072).ceiling
    found = advice.devices_needed(lambda n: ladder(2**20, gpus=n).fits, 1)
    assert found and ladder(2**20, gpus=found).fits and not ladder(2**20, gpus=found // 2).fits


def test_a_sequence_is_spread_over_devices_that_divide_the_heads():
    assert advice.sequence_devices(LLAMA, 8) == 8 and advice.sequence_devices(LLAMA, 64) == 32
    assert advice.sequence_devices(LLAMA, 6) == 2


def test_the_longest_lengths_that_alst_reports_are_met_within_a_third():
    how = Training(checkpointing=True, chunked_loss=True, tiled_mlp=True, offload=True, optimizer="adamw-offload")
    for n, reported in ((1, 500_000), (8, 3_700_000)):  # arXiv 2506.13996; on one GPU the weights are on the host too
        spread = advice.replace(how, shard=n, sequence=n)
        room = H100 + (needs(spread, 1).parts["weights"] if n == 1 else 0)
        found = memory.longest(lambda length, h=spread, r=room: needs(h, length).total <= r)
        assert found == pytest.approx(reported, rel=1 / 3), n


def test_serving_ladder_reaches_what_a_plain_request_does_not():
    def request(how: Serving, length: int) -> memory.Memory:
        return memory.serving(LLAMA, how, length)

    found = advice.climb(Serving(), advice.serving_switches(LLAMA, 1), request, 131_072, usable(gpu("rtx4090").memory))
    assert found.fits and found.how.chunk == advice.PREFILL_CHUNK and found.how.cache == "fp8"


def test_the_cache_is_rounded_before_weights_are_and_those_to_eight_bits_before_four():
    def request(how: Serving, length: int) -> memory.Memory:
        return memory.serving(LLAMA, how, length)

    switches = advice.serving_switches(LLAMA, 1)

    def named(room: float) -> list[str]:
        found = advice.climb(Serving(), switches, request, 32_768, round(room))
        return [step.name for step in found.steps[1:] if found.fits]

    by_name = {switch.name: switch.on for switch in switches}
    chunked = by_name["chunked prefill"](Serving())
    cache, weights = by_name["fp8 cache"](chunked), by_name["fp8 weights"](chunked)
    needs = [request(how, 32_768).total for how in (chunked, cache, weights, by_name["fp8 weights"](cache))]
    assert needs == sorted(needs, reverse=True), "weights are the most of it"
    assert named(needs[0]) == ["chunked prefill"] and named(needs[1]) == ["chunked prefill", "fp8 cache"]
    assert named(needs[2]) == ["chunked prefill", "fp8 weights"], "the cache is enough no more, and not needed either"
    assert named(needs[3]) == ["chunked prefill", "fp8 cache", "fp8 weights"]
    assert named(needs[3] - 1)[-1] == "int4 weights"


def test_methods_say_what_extend_would_write():
    found = {method.id: method for method in advice.methods(llama_3_8b(), 131_072, 16)}
    assert found.keys() == {e.id for e in CATALOGUE if e.id != "none" and e.kind != "refinement"} - {"resonance"}
    assert found["yarn"].written == "yarn x16" and found["pi"].written == "linear x16"
    assert found["ntk-aware"].rope_parameters["all"]["rope_theta"] == pytest.approx(5e5 * 16 ** (128 / 126))
    assert found["harpe"].why_not == "run-time code, options needed" and not found["harpe"].written
    assert found["longrope"].why_not == "fit first"
    assert {one.why_not for one in found.values() if "fit" in one.training_free} == {"run-time code, fit first"}
    assert found["cope"].written == "longrope x1 to no rotation"


def test_published_numbers_are_nearest_in_factor():
    assert nearest("pi", 5, trained=False).scale == 4
    assert nearest("pi", 100).scale == 16
    assert nearest("no such method", 4) is None


def test_published_numbers_have_a_source_and_a_setting():
    for result in RESULTS:
        assert result.source.startswith(("arXiv ", "https://")) and result.setting and result.scale > 1


@pytest.mark.parametrize(("word", "scale", "said"), [("to 8x", 8, "yes"), ("to 8x", 16, "no"), ("weak", 16, "weak")])
def test_limits_of_the_catalogue_are_decided_by_the_factor(word, scale, said):
    assert advice.training_free(Entry("x", "X", "a:B", "", "frequencies", word, "yes"), scale) == said


@pytest.mark.parametrize("spelling", ["h100", "H100-80GB", "NVIDIA H100 80GB", "rtx4090", "GeForce RTX 4090", "A100"])
def test_gpus_are_found_as_people_write_them(spelling):
    assert gpu(spelling).name in ("h100-80gb", "rtx4090", "a100-80gb")


def test_every_gpu_is_found_by_its_name_and_says_its_source():
    assert all(gpu(known.name) is known and known.source and known.tflops < 5000 for known in GPUS)


@pytest.mark.parametrize(("written", "name"), [
    ("RTX-3060", "rtx3060"), ("4090", "rtx4090"), ("rtx_4090", "rtx4090"), ("H100", "h100-80gb"),
    ("H100 80GB", "h100-80gb"), ("A100 40GB", "a100-40gb"), ("a100", "a100-80gb"), ("mi300x", "mi300x"),
    ("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("NVIDIA H100 80GB HBM3", "h100-80gb"), ("NVIDIA H100 PCIe", "h100-pcie"),
    ("NVIDIA GeForce RTX 3090", "rtx3090"), ("NVIDIA RTX 6000 Ada Generation", "rtx6000-ada"),
    ("NVIDIA RTX A6000", "a6000"), ("AMD Instinct MI300X", "mi300x"),
])  # fmt: skip
def test_gpus_as_people_and_drivers_name_them(written, name):
    assert gpu(written).name == name


@pytest.mark.parametrize("other", ["RTX 4090 Ti", "8xH100", "H100x8", "RTX 4090 laptop", "rtx6000", "24G", ""])
def test_another_gpu_is_not_taken_for_a_known_one(other):
    with pytest.raises(UserError, match="unknown GPU") as refusal:
        gpu(other)
    assert "--memory 24G" in refusal.value.mend


def test_unknown_gpus_and_sizes_without_unit_are_refused():
    with pytest.raises(UserError, match="did you mean 'rtx4090'"):
        gpu("rtx409")
    for text in ("24", "24X", "0G", "-3G", ""):
        with pytest.raises(UserError, match="memory is"):
            parse_memory(text)
    assert parse_memory("24G") == parse_memory("24 GiB") == 24 * GIB and parse_memory("1.5T") == 1536 * GIB


def test_token_counts_are_decimal():
    assert lengths.tokens("1B") == 1e9 and lengths.tokens("2.5t") == 2.5e12 and lengths.tokens("300") == 300
    with pytest.raises(UserError, match="tokens is"):
        lengths.tokens("a lot")


@pytest.mark.parametrize(("length", "share"), [(8192, 0.118), (65_536, 0.517), (524_288, 0.895), (1_048_576, 0.945)])
def test_attention_share_follows_the_textbook_formula(length, share):
    # 6 P + 6 layers S h per token with all P = 8.03e9 counted; ours leaves the input embedding out
    found = cost(LLAMA, length, 1e9, None)
    attention = found.flops_per_token * found.attention_share
    assert attention / (attention + 2 * LLAMA.parameters) == pytest.approx(share, abs=0.001)


def test_training_time_is_operations_over_speed():
    h100 = gpu("h100")
    one, eight = (cost(LLAMA, 8192, 1e9, h100, n, mfu=0.5) for n in (1, 8))
    assert one.training_hours == pytest.approx(one.training_flops / (989.4e12 * 0.5) / 3600)
    assert eight.training_hours == pytest.approx(one.training_hours / 8)
    assert eight.device_hours == pytest.approx(one.device_hours)
    assert cost(LLAMA, 8192, 1e9, None).training_hours is None


def test_a_window_bounds_the_cost_of_attention():
    free, bound = (
        shapes(transformers.MistralConfig(sliding_window=window, num_hidden_layers=2)) for window in (None, 4096)
    )
    length, window = 131_072, 4096
    attention = [(c := cost(numbers, length, 1, None)).flops_per_token * c.attention_share for numbers in (free, bound)]
    seen = sum(min(i + 1, window) for i in range(length)), sum(i + 1 for i in range(length))
    assert attention[1] / attention[0] == pytest.approx(seen[0] / seen[1], rel=1e-3)
    assert cost(free, 2048, 1, None).flops_per_token == cost(bound, 2048, 1, None).flops_per_token


def test_decoding_is_bound_by_reading_weights_and_cache():
    found = cost(LLAMA, 131_072, 1e9, gpu("h100"))
    assert found.decode_tokens_per_second == pytest.approx(3.35e12 / (LLAMA.parameters * 2 + 16 * GIB))


@pytest.mark.parametrize(
    ("hours", "words"),
    [(2.5e-8, "0.09 ms"), (1e-5, "36 ms"), (0.01, "36 s"), (0.5, "30 min"), (7.5, "7.5 h"), (240, "10.0 days")],
)
def test_hours_are_said_as_people_say_them(hours, words):
    assert show_hours(hours) == words
