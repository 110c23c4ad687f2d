"""FoPE's floor: which pairs stand still, and where there is none."""

import pytest

from ropewalk import UserError, method
from ropewalk.rope.spec import RopeSpec


def test_half_of_the_pairs_stand_still_as_on_the_card():
    rope = RopeSpec.plain(10_000.0, 64, 512)
    found = method("fope").frequencies(rope, 4096).inv_freq
    assert (found[:16] == rope.inv_freq[:16]).all() and (found[16:] == 0).all()
    assert rope.inv_freq[15] > 0.012272 > rope.inv_freq[16]  # 2 pi / 512


def test_where_every_pair_turns_it_is_refused():
    with pytest.raises(UserError, match="fope: every pair that rotates makes a turn in the window of 100,000"):
        method("fope").frequencies(RopeSpec.plain(10_000.0, 64, 100_000), 200_000)
