"""Looks for dead links in the built site: ``python docs/links.py runs/site``.

Sphinx warns of most; this reads the pages as a browser does, so that links in tables, in outputs of notebooks and in
what a theme adds are found too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page, and the places in it that a link may name."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places = {"", "top"}
        self.feed(file.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name == "id" and value:
                self.places.add(value)


def dead(site: Path) -> Iterator[str]:
    """Links that lead nowhere, with the page they are on; those to other hosts are not followed."""
    pages = {file.resolve(): Page(file) for file in sorted(site.rglob("*.html"))}
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            known = target not in pages or unquote(parts.fragment) in pages[target].places
            if not target.is_file() or not known:
                yield f"{file.relative_to(site.resolve())}: {link}"


def main() -> None:
    site = Path(sys.argv[1])
    if not (site / "index.html").is_file():
        sys.exit(f"{site} holds no index.html")
    if found := list(dead(site)):
        sys.exit("\n".join(["dead links:", *found]))


if __name__ == "__main__":
    main()
