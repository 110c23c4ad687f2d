"""Where a causal encoder pools: at the token that ends a text, which configuration and tokenizer must agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.common.command_lines import setting
from ropewalk.common.outside import MOST_WORDS, read_json
from ropewalk.rope.problems import Problem
from ropewalk.rope.spec import ALL

HIGHEST = 2  # what configurations of before 2023 say: there transformers pools at the highest id of a text


def pooled_elsewhere(model: str, folder: Path, config: Mapping[str, Any], keys: Sequence[str]) -> list[Problem]:
    """A problem if texts would be pooled at another token than the one that ends them: a wrong vector, no error.

    Args:
        model: as the user named it.
        folder: of the encoder.
        config: of the encoder.
        keys: where its configuration says ``eos_token_id``.
    """
    pools, ids = config.get("eos_token_id"), _ids(folder)
    ends = ids.get(_end_token(folder))
    if ends is None:
        return []
    highest = max(ids.values())
    if type(pools) is int and ends == (highest if pools == HIGHEST else pools):
        return []
    seen = f"{pools}, which pools at the highest id, {highest}" if pools == HIGHEST else pools
    expected = f"{ends}, at which the tokenizer ends a text; the model pools there"
    mend = setting(model, dict.fromkeys(keys, ends))
    if ends == HIGHEST != highest:
        expected = f"a tokenizer that ends a text at another id than {ends}: with that the highest id pools, {highest}"
        mend = "No value mends it: put the files of the tokenizer that came with the model in the place of these."
    return [Problem("pooled-elsewhere", ALL, keys[-1], seen, expected, mend)]


def _end_token(folder: Path) -> str:
    """The token that ends a text; empty if no file of the tokenizer says it."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        said = read_json(folder / name).get("eos_token") if (folder / name).is_file() else None
        token = said.get("content") if isinstance(said, dict) else said
        if isinstance(token, str):
            return token
    return ""


def _ids(folder: Path) -> dict[str, int]:
    """Token -> its id, by ``tokenizer.json`` or else the files of older tokenizers; empty without either."""
    fast = folder / "tokenizer.json"
    if fast.is_file():
        content = read_json(fast, MOST_WORDS)
        inside, added = content.get("model"), content.get("added_tokens")
        said = inside.get("vocab") if isinstance(inside, dict) else None
        more = {one.get("content"): one.get("id") for one in added or [] if isinstance(one, dict)}
        found = (said if isinstance(said, dict) else {}) | more
    else:
        files = [folder / name for name in ("vocab.json", "added_tokens.json")]
        found = {token: n for file in files if file.is_file() for token, n in read_json(file).items()}
    return {token: n for token, n in found.items() if isinstance(n, int)}
