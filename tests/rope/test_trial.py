"""Which class of transformers loads a model, so that it runs."""

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, Llama4Config, Llama4ForConditionalGeneration

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.rope.trial import auto_class
from tests import cases
from tests.models import config, tokens
from tests.vision import seeing


@pytest.fixture(scope="module")
def llama4():
    """A whole Llama 4, eyes and all."""
    torch.manual_seed(0)
    seen = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 128,
            "image_size": 28, "patch_size": 14, "vision_output_dim": 32, "projector_input_dim": 32,
            "projector_output_dim": 32, "pixel_shuffle_ratio": 0.5}  # fmt: skip
    text = {key: value for key, value in cases.llama4().items() if key != "model_type"}
    return Llama4ForConditionalGeneration(Llama4Config(text_config=text, vision_config=seen)).eval()


def test_a_model_with_eyes_is_loaded_with_them_where_it_runs_with_them():
    assert auto_class(config("llama")) is AutoModelForCausalLM
    assert auto_class(seeing("qwen3_vl").config) is AutoModelForMultimodalLM


@pytest.mark.skipif(Version(transformers.__version__) < Version("5.24"), reason="older ones run it")
def test_a_whole_llama4_does_not_run(llama4):
    with pytest.raises(AttributeError, match="image_outputs"):  # once this runs, BLIND can go
        llama4(input_ids=tokens(1, 20))


def test_llama4_is_loaded_as_its_language_model(llama4, tmp_path):
    ids = tokens(1, 20)
    assert auto_class(llama4.config) is AutoModelForCausalLM
    llama4.save_pretrained(tmp_path)
    live = Checkpoint.open(str(tmp_path)).load(device="cpu")
    with torch.no_grad():
        assert torch.equal(live(ids).logits, llama4.language_model(ids).logits)
