"""The same for many things, here and on Ray: in their order, and what fails is said as it would be here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from ropewalk.common.cluster import spread
from ropewalk.common.errors import UserError

HAVE_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAVE_RAY, reason="the extra 'ray' is not installed")


@pytest.fixture(scope="module")
def cluster():
    import ray

    root = str(Path(__file__).parents[2])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    yield
    ray.shutdown()


def square(one: int) -> int:
    if one < 0:
        raise UserError(f"{one} is below 0", "Give another.")
    return one * one


def test_here_they_are_done_one_after_the_other() -> None:
    with spread("local", 1) as each:
        assert list(each(square, range(5))) == [0, 1, 4, 9, 16]


@pytest.mark.slow
@needs_ray
def test_on_ray_the_order_is_that_of_the_things_and_few_are_held(cluster) -> None:
    taken = []

    def things():
        for one in range(20):
            taken.append(one)
            yield one

    with spread("ray", 3) as each:
        for number, found in enumerate(each(lambda one: -square(one), things())):
            assert found == -number * number and len(taken) <= number + 3
    with pytest.raises(UserError, match="-1 is below 0") as caught, spread("ray", 2) as each:
        list(each(square, [1, -1, 2]))
    assert caught.value.mend == "Give another."
    with pytest.raises(UserError, match=r"a task failed: (?s:.*)ZeroDivisionError"), spread("ray", 2) as each:
        list(each(lambda one: 1 // one, [0]))


@pytest.mark.parametrize(("on", "workers", "message"), [("moon", 1, "one of local, ray"), ("ray", 0, "at least 1")])
def test_places_that_are_none_are_refused(on: str, workers: int, message: str) -> None:
    with pytest.raises(UserError, match=message), spread(on, workers):
        pass


def test_without_ray_it_says_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="need ray") as caught, spread("ray", 2):
        pass
    assert "install" in caught.value.mend and "ray" in caught.value.mend
