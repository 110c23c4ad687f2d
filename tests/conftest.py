"""One thread, no network, no progress bars; the repository's root on the path, so that ``tests.models`` is found."""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may reach for the network
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
from hypothesis import settings

if TYPE_CHECKING:  # tests that need no model do not wait for torch
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

settings.register_profile("ropewalk", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ropewalk")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    from tests.tokenizers import byte_level

    return byte_level()


@pytest.fixture(scope="session", params=["byte_level", "metaspace"])
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    from tests.tokenizers import byte_level, metaspace

    return {"byte_level": byte_level, "metaspace": metaspace}[request.param]()


# Grids of which the default suite runs every k-th cell, so that it ends within five minutes; `make slow` has the rest.
THINNED = {
    "test_a_budget_decides_the_same_when_it_is_taken_up_again": 3,
    "test_a_budget_is_kept_and_what_was_left_out_is_said": 2,
    "test_architectures": 3,
    "test_only_what_is_longer_than_the_window_changes_and_all_is_put_back": 3,
    "test_the_printed_line_gives_the_methods_frequencies": 6,
    "test_what_a_plan_names_runs": 4,
    "test_sliding_layers_are_left_alone": 3,
    "test_a_native_type_is_used_where_one_says_the_same": 3,
    "test_a_row_of_the_table_is_what_the_model_does": 3,
    "test_what_save_pretrained_writes_is_accepted_and_less_is_refused": 3,
    "test_rules_solve_every_task_and_a_constant_model_none": 3,
    "test_it_joins_methods_on_other_axes_and_no_others": 3,
    "test_an_output_lies_apart_from_its_source": 3,
    "test_every_method_gives_each_text_what_it_gets_alone": 3,
    "test_what_is_extended_saved_and_loaded_is_the_method": 3,
    "test_every_recipe_trains_and_what_it_writes_is_sound": 4,
    "test_every_recipe_passes_the_self_test": 4,
    "test_what_extend_writes_is_read_back_by_the_engine_or_refused": 4,
    "test_wherever_the_disk_is_full_all_stays_as_it_was": 2,
    "test_equal_fingerprints_give_equal_logits": 3,
    "test_a_patched_file_is_what_would_have_been_written": 2,
    "test_length_is_exact_and_the_solver_always_right": 3,
    "test_what_is_no_litter_stays": 3,
    "test_so_does_token_by_token": 3,
    "test_generate_gives_the_tokens_of_single_steps": 3,
    "test_half_precision_stays_near": 3,
    "test_no_query_sees_what_follows_it": 3,
    "test_texts_with_caches_of_their_own_may_take_turns": 3,
    "test_beams_give_what_they_give_without_a_cache": 3,
    "test_a_padded_row_gives_what_it_gives_alone": 3,
    "test_heads_may_share_keys_or_not": 3,
    "test_a_cropped_cache_goes_on_with_another_text": 3,
    "test_packed_documents_do_not_see_each_other": 3,
    "test_texts_leave_nothing_for_the_next": 3,
    "test_the_command_of_a_request_asks_for_it_again": 3,
    "test_the_lines_of_the_page_run": 3,
    "test_a_search_that_was_killed_goes_on_and_finds_the_same": 3,
    "test_progress_ends_with_what_is_found": 2,
    "test_so_is_every_new_token": 2,
    "test_a_prompt_is_attended_as_the_formula_says": 2,
    "test_so_is_a_prompt_in_chunks": 2,
    "test_the_sink_cache_gives_the_same_in_constant_memory": 2,
    "test_so_do_beams": 2,
    "test_options_of_every_method_that_names_them_are_searched_and_used": 3,
    "test_so_do_all_that_read_them": 3,
    "test_however_rows_go_through_the_model": 3,
    "test_a_run_that_was_stopped_ends_as_if_it_had_not": 2,
    "test_a_plain_save_is_known_as_an_extension": 3,
    "test_every_head_of_longheads_chooses_its_chunks": 3,
    "test_the_tokens_that_are_told_were_read": 3,
    "test_measured_peaks_are_predicted_within_ten_percent": 4,
    "test_rows_that_are_too_short_by_any_tokenizer_are_no_context": 5,
    "test_mistakes_are_named_and_stop_every_verb": 4,
    "test_the_printed_line_mends_the_refusal": 3,
    "test_says_what_transformers_says_of_the_file_and_of_every_file_near_it": 3,
    "test_every_prompt_is_what_stands_before_a_text_the_text_and_a_question": 4,
    "test_a_gradient_that_holds_goes_on": 4,
    "test_pieces_give_what_one_forward_gives_unless_the_class_says_otherwise": 3,
    "test_a_long_value_is_cut": 5,
    "test_a_limit_of_the_tokenizer_that_is_none": 3,
    "test_ihip_rope_scores_by_the_style_of_the_layer": 3,
    "test_it_would_show_if_rotations_were_lost": 4,
    "test_an_extension_does_what_it_says": 4,
    "test_a_printed_mend_mends": 3,
    "test_every_verb_that_loads_or_copies_refuses": 4,
    "test_weights_that_were_trained_to_be_long_have_no_native_profile": 4,
    "test_a_long_prompt_never_makes_queries_by_keys": 4,
    "test_every_architecture_can_be_made_and_runs": 5,
    "test_there_and_back_by_our_own_writer": 3,
    "test_a_key_that_nobody_reads_is_named_and_its_mend_mends": 3,
    "test_what_ropewalk_writes_contradicts_nothing": 4,
    "test_wrong_input_is_a_sentence": 3,
    "test_shared_prefixes_change_no_answer": 3,
    "test_the_target_is_the_promised_length_where_none_is_given": 4,
    "test_queries_keep_their_stairs": 3,
    "test_the_method_is_saved_or_refused_with_a_reason": 4,
    "test_a_cache_changes_nothing_where_frequencies_are_fixed": 4,
    "test_the_rope_read_back_is_the_checkpoints": 3,
    "test_a_generation_that_is_none": 4,
    "test_latent_attention_keeps_its_scale": 3,
    "test_loss_and_gradients_are_those_of_documents_alone": 3,
    "test_what_contradicts_the_record_is_named_and_its_mend_mends": 3,
    "test_each_mend_mends": 3,
    "test_a_verb_opens_its_model_once": 3,
    "test_a_broken_record_protects_the_folder": 3,
    "test_the_attention_implementation_does_not_matter": 4,
    "test_what_is_chosen_is_what_the_loops_choose": 3,
}


@pytest.hookimpl(tryfirst=True)  # before marks are asked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    seen: Counter[str] = Counter()
    for item in items:
        name = getattr(item, "originalname", item.name)
        if name in THINNED and "slow" not in item.keywords:
            if (seen[name] + crc32(name.encode())) % THINNED[name]:  # grids of one test leave out others than the next
                item.add_marker(pytest.mark.slow)
            seen[name] += 1
    on_gpu = [item for item in items if "gpu" in item.keywords]
    if on_gpu:
        import torch

        if not torch.cuda.is_available():
            for item in on_gpu:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


def pytest_collection_finish() -> None:
    """What was loaded for the tests that were found is made quiet, and takes one thread."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
