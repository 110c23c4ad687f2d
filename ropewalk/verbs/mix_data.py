"""Rows of several kinds of texts, each with its share of the tokens."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.common import lengths
from ropewalk.common.errors import UserError
from ropewalk.verbs.pack_data import FolderRequest, TokenizerRequest
from ropewalk.verbs.plan import Tokens
from ropewalk.verbs.request import Count, Words, verb

if TYPE_CHECKING:
    from ropewalk.data.making import Made
    from ropewalk.data.mixing.mixing import Ingredient


@dataclass(frozen=True, kw_only=True)
class MixRequest(FolderRequest, TokenizerRequest):
    """Which domains, and how much of each.

    Attributes:
        of: A domain and its texts, NAME=TEXTS, for each of them; a folder of rows is taken row by row, as it stands.
        shares: Of tokens, by domain: code=0.3,books=0.7; or prolong, ProLong's (2410.02660).
        tokens: Of all rows: 500M, 20B; by default as many as the domain that is used up first allows.
        epochs: Times that a row may be read, where a domain has fewer tokens than its share.
        least: Tokens of a document at least, and of a piece of one, by domain: code=64k,books=64k. Where that is
            ``length``, every row is a stretch of one document, as by default in the long domains of prolong.
        joined: Domains whose files are one document for each folder below their texts, such as repositories.
    """

    of: tuple[str, ...]
    shares: str
    tokens: Tokens | None = None
    epochs: Count = 1
    least: str = ""
    joined: Words = ()

    def ingredients(self) -> list[Ingredient]:
        """The domains, with their texts.

        Raises:
            UserError: if names, shares and texts do not fit each other.
        """
        from ropewalk.data.mixing.mixing import Ingredient
        from ropewalk.data.mixing.shares import mix_of, pairs

        places: dict[str, str] = {}
        for one in self.of:
            name, _, place = one.partition("=")
            if not re.fullmatch(r"\w[\w-]*", name) or not place or name in places:
                why = ", and another has that name" if name in places else ""
                raise UserError(f"--of is {one!r}{why}", "Write --of NAME=TEXTS, once for each domain.")
            places[name] = place
        mix = mix_of(self.shares)
        for names, what in ((mix.shares.keys() - places.keys(), "texts"), (places.keys() - mix.shares.keys(), "share")):
            if names:
                shares = ",".join(f"{name}={share:.6g}" for name, share in mix.shares.items())
                raise UserError(
                    f"no {what} for {', '.join(sorted(names))}",
                    f"Say --of NAME=TEXTS for each domain of --shares, or other shares; these are {shares}.",
                )
        least = {name: self.length for name in mix.long}
        least |= {name: lengths.parse(value) for name, value in pairs(self.least, "least").items()}
        for option, named in (("least", [*least]), ("joined", self.joined)):
            for name in named:
                if name not in places:
                    raise UserError(f"--{option} names {name}, which is no domain", f"There are {', '.join(places)}.")
        for name, value in least.items():
            if value > self.length:
                raise UserError(
                    f"--least of {name} is {value:,}, and a row has {self.length:,} tokens",
                    "Say less, or a greater --length.",
                )
        texts = dict(zip(places, self.each(places.values()), strict=True))
        return [
            Ingredient(name, texts[name], mix.shares[name], least.get(name, 0), name in self.joined) for name in places
        ]


@verb("data mix", keeps=True)
def mix_data(request: MixRequest) -> Made:
    """Mix texts of several kinds into rows of training, each with its share of the tokens, to within one row.

    Returns:
        The folder, what it costs, and of each domain what was asked for and what came.

    Raises:
        UserError: if texts cannot be read, a domain does not suffice, or the folder cannot be written.
    """
    from ropewalk.common.progress import shown
    from ropewalk.data.mixing.mixing import mixed

    with shown() as heard:
        return mixed(
            request.ingredients(), request.tokens, request.epochs, request.length, request.seed, request.out,
            request.overwrite, heard,
        )  # fmt: skip
