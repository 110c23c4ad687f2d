"""A command line as people guess it, made into the words that are declared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.common.naming import find, plain
from ropewalk.verbs.request import Verb


def understood(words: Sequence[str], verbs: Mapping[str, Verb[Any]]) -> list[str]:
    """The same line, with its verb and its options as they are declared; what is not known stays as it is.

    Verbs may be written as in Python (``list_methods``); verbs and options in any case, in the plural or the singular;
    and options that have a value of their own (``alone``) without one.
    """
    first, *rest = [*words][list(words[:1]) == ["ropewalk"] :] or [""]
    if first in ("help", "version"):
        return [*(word for word in rest[:2] if first == "help"), f"--{first}"]
    if first == "-V":
        return ["--version"]
    if rest and any(name.startswith(f"{first.lower()} ") for name in verbs):  # a verb of two words
        first, *rest = f"{first} {rest[0]}", *rest[1:]
    called = {verb.run.__name__: name for name, verb in verbs.items()} | {name: name for name in verbs}
    verb = verbs.get(called.get(_spelled(first, list(called)), ""))
    if verb is None:
        return list(words)
    alone = {option.flag: option.alone for option in verb.options if option.alone}
    flags = [option.flag for option in verb.options if not option.positional] + ["--json", "--help"]
    line = verb.name.split()
    for i, word in enumerate(rest):
        name, equals, value = word.partition("=")
        flag = _spelled(name, flags) if name.startswith("--") else name
        bare = not equals and (i + 1 == len(rest) or rest[i + 1].startswith("-"))
        line.append(f"{flag}={alone[flag]}" if bare and flag in alone else flag + equals + value)
    return line


def _spelled(word: str, known: Sequence[str]) -> str:
    """The one that ``word`` spells, or else differs from in number alone; ``word`` itself if there is none."""
    number = [one for one in known if plain(one).removesuffix("s") == plain(word).removesuffix("s")]
    return find(word, known) or (number[0] if len(number) == 1 else word)


def names_a_model(word: str) -> bool:
    """Whether a word that should be a verb reads like a model: a path, a hub id, a file of weights."""
    return "/" in word or word.endswith((".gguf", ".safetensors", ".json")) or Path(word).is_dir()
