"""One thread, no network, no progress bars; the repository's root on the path, so that ``tests.models`` is found."""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may reach for the network
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
import torch
from hypothesis import settings
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging

from tests.tokenizers import byte_level, metaspace

torch.set_num_threads(1)
logging.disable_progress_bar()
logging.set_verbosity_error()
settings.register_profile("ropewalk", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("ropewalk")


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


@pytest.fixture(scope="session", params=["byte_level", "metaspace"])
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return {"byte_level": byte_level, "metaspace": metaspace}[request.param]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))
