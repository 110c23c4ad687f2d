from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.evaluation.tokenizers import byte_level, metaspace


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_level()


@pytest.fixture(scope="session", params=["byte_level", "metaspace"])
def any_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    return {"byte_level": byte_level, "metaspace": metaspace}[request.param]()
