"""Shares: the published ones, one's own, and what is none."""

import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.mixing.shares import mix_of, pairs


def test_the_shares_of_prolong() -> None:
    mix = mix_of("prolong")
    assert sum(mix.shares.values()) == pytest.approx(1, abs=1e-12)
    assert [mix.shares[name] for name in ("code", "books", "textbooks")] == [0.30, 0.30, 0.03]
    short = {name: share for name, share in mix.shares.items() if name not in mix.long}
    assert sum(short.values()) == pytest.approx(0.37)
    assert {name: round(share / 0.37, 9) for name, share in short.items()} == {
        "fineweb-edu": 0.27, "fineweb": 0.27, "wikipedia": 0.11, "stackexchange": 0.11, "tulu": 0.08,
        "openwebmath": 0.08, "arxiv": 0.08,
    }  # fmt: skip


def test_ones_own_shares() -> None:
    assert mix_of("code=0.25, books=0.75").shares == {"code": 0.25, "books": 0.75}
    assert mix_of("a=0.1,b=0.2,c=0.7").shares["c"] == 0.7, "their sum is 1 but for rounding"


@pytest.mark.parametrize(("spelling", "words"), [
    ("prolnog", "did you mean"), ("a=0.5,b=0.4", "add up to 0.9"), ("a=0.5,b=x", "that of b is 'x'"),
    ("a=0,b=1", "that of a is '0'"), ("a=nan,b=1", "that of a"), ("a=0.5,a=0.5", "a has two values"),
    ("a=1,=2", "no name with a value"), ("a=", "no name with a value"), ("a=1,b=1", "add up to 2"),
])  # fmt: skip
def test_what_are_no_shares(spelling: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        mix_of(spelling)


def test_a_wrong_sum_is_mended_in_proportion() -> None:
    with pytest.raises(UserError) as refused:
        mix_of("a=0.6,b=0.2")
    assert refused.value.mend.endswith("a=0.75,b=0.25.")
    assert pairs("", "least") == {}
