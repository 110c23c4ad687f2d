"""One thread, no network, no progress bars; the repository's root on the path, so that ``tests.models`` is found."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: nothing here may reach for the network
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
sys.path.insert(0, str(Path(__file__).parent.parent))

import pytest
from hypothesis import settings

from tests.durations import LONG

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


MOST = 12  # cells of a grid that the default suite runs; `make slow` has the rest, and `pytest -k NAME` all of an entry


@pytest.hookimpl(tryfirst=True)  # before marks are asked
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    took_long = set(LONG.read_text().split())
    grids = defaultdict(list)
    for item in items:
        grids[item.nodeid.split("[")[0]].append(item)
    for name, cells in grids.items():
        every = -(-len(cells) // MOST)
        for i, item in enumerate(cells, crc32(name.encode())):  # grids of one test leave out others than the next
            if name in took_long or i % every:
                item.add_marker(pytest.mark.slow)
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
