"""A Trainer collects garbage at its end, which takes a second on all that a test session holds."""

import gc

import pytest


@pytest.fixture(scope="module", autouse=True)
def small_heap():
    gc.freeze()
    yield
    gc.unfreeze()
