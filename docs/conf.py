"""The site: ``make site``. The pages are docs/*.md, readable without it; docs/api is filled from docstrings and lists.

A page of docs/api says where with a line ``<!-- api: NAME -->``; a new verb, method or layout appears by itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby
from typing import TYPE_CHECKING

import ropewalk
from ropewalk.methods.catalogue import CATALOGUE, Entry
from ropewalk.training.positions.entries import POSITIONS
from ropewalk.verbs import NAMES, public

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "ropewalk"
author = "The ropewalk authors"
copyright = author
release = version = ropewalk.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "ropewalk"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {"footer_icons": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
nb_execution_mode = "off"  # outputs are stored; tests/docs executes the notebook and the guides
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_block"]
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 88
pygments_dark_style = "github-dark"


def block(*lines: str) -> str:
    """Lines of reStructuredText, in a page of Markdown."""
    return "\n".join(["```{eval-rst}", *lines, "```", ""])


def documented(name: str, directive: str = "autoclass", *options: str) -> str:
    """The docstring of a public name, under that name."""
    return block(f".. {directive}:: ropewalk.{name}", *(f"   {option}" for option in options))


def source(paper: str) -> str:
    """A link to an arXiv id, or to an address without its https://."""
    if not paper:
        return ""
    return f"[{paper}](https://{paper})" if "/" in paper else f"[arXiv {paper}](https://arxiv.org/abs/{paper})"


def verbs() -> Iterable[str]:
    for name in NAMES:
        spelled = public(name).verb.name
        yield f"## {name}\n"
        yield f"In a shell: `ropewalk {spelled}`.\n" if spelled else "In Python only.\n"
        yield documented(name, "autofunction")


def methods(room: str) -> Iterable[str]:
    """The methods whose files lie in ``room``, by what they decide."""
    for kind, entries in groupby(kinds(room), key=lambda entry: entry.kind):
        yield f"## {kind[0].upper()}{kind[1:]}\n"
        for entry in entries:
            name = entry.where.partition(":")[2]
            yield f"({entry.id})=\n### {entry.title}\n"
            yield f"`{entry.id}`, in Python `ropewalk.{name}`: {entry.summary}. {source(entry.paper)}\n"
            yield f"Without training: {entry.training_free}. In a checkpoint: {entry.exportable}.\n"
            yield documented(name)


def kinds(room: str) -> list[Entry]:
    """Entries of one room; those of a kind together, in the catalogue's order otherwise."""
    entries = [entry for entry in CATALOGUE if entry.where.startswith(f"{room}.")]
    order = list(dict.fromkeys(entry.kind for entry in entries))
    return sorted(entries, key=lambda entry: order.index(entry.kind))


def positions() -> Iterable[str]:
    for entry in POSITIONS:
        yield f"## {entry.title}\n"
        yield f"`{entry.id}`: {entry.summary}. A text needs: {entry.texts}. {source(entry.paper)}\n"
        yield documented(entry.where.partition(":")[2])


def making(*names: str) -> Iterable[str]:
    for name in names:
        yield f"## {name}\n"
        if isinstance(getattr(ropewalk, name), type):
            yield documented(name, "autoclass", ":members:")
        else:
            yield documented(name, "autofunction")


def rest() -> list[str]:
    """Public names that stand in no list: what methods and layouts are made and used with."""
    listed = {entry.where.partition(":")[2] for entry in (*CATALOGUE, *POSITIONS)} | {*NAMES, "__version__"}
    return [name for name in dir(ropewalk) if name not in listed]


PARTS = {
    "verbs": verbs,
    "frequencies": lambda: methods("frequencies"),
    "attention": lambda: methods("attention"),
    "memory": lambda: methods("memory"),
    "positions": positions,
    "making": lambda: making(*rest()),
}


def fill(app: Sphinx, page: str, text: list[str]) -> None:
    """Puts what the lists have where a page asks for it."""
    text[0] = re.sub(r"^<!-- api: (\w+) -->$", lambda match: "\n".join(PARTS[match[1]]()), text[0], flags=re.MULTILINE)


def reworded(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Links the arXiv ids of a docstring; the attributes of a class are its options, which is how it is made."""
    lines[:] = [
        "Args:" if what == "class" and line == "Attributes:" else
        re.sub(r"arXiv (\d{4}\.\d{5})", r"`arXiv \1 <https://arxiv.org/abs/\1>`__", line)
        for line in lines
    ]  # fmt: skip


def signed(app: Sphinx, obj: object, bound_method: bool) -> None:
    """Leaves a verb the signature that it is given; its annotations are those of the function around it."""
    if hasattr(obj, "verb"):
        obj.__annotations__ = {}


def setup(app: Sphinx) -> None:
    app.connect("autodoc-before-process-signature", signed)
    app.connect("source-read", fill)
    app.connect("autodoc-process-docstring", reworded, priority=400)  # before napoleon reads it
