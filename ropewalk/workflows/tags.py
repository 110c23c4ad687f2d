"""Marks of a prompt that nobody takes for those of the text in it."""

from __future__ import annotations

import re


def unused(tag: str, *texts: str) -> str:
    """The name of a tag, with as many x behind it as none of the texts has a tag that begins like it, in any case."""
    while any(re.search(rf"<[\s/]*{tag}", text, re.IGNORECASE) for text in texts):
        tag += "x"
    return tag
