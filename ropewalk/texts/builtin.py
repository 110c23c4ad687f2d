"""The text of the bundled model: Python sources for training, held-out library modules and topics for evaluation."""

from __future__ import annotations

import hashlib
import importlib.util
import random
import sysconfig
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

# Standard-library modules that the bundled model has never seen (nor their tests): long, and in every Python 3.10+.
HELD_OUT = frozenset(
    "argparse ast configparser difflib doctest fractions gettext imaplib inspect ipaddress locale mailbox optparse "
    "pdb pickletools plistlib shutil smtplib statistics subprocess tarfile threading traceback turtle typing".split()
)

# Permissively licensed (BSD, MIT, Apache-2.0, PSF) packages whose sources a ropewalk installation has beside it.
PACKAGES = (
    "torch", "transformers", "numpy", "sympy", "networkx", "matplotlib", "fontTools", "pygments", "rich", "jinja2",
    "huggingface_hub",
)  # fmt: skip
PACKAGE_BYTES = 20_000_000  # no single package may dominate
FILE_BYTES = (500, 400_000)


def standard_library() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def held_out_sources() -> dict[str, str]:
    """Name -> source of the held-out standard-library modules of the running Python."""
    return {name: (standard_library() / f"{name}.py").read_text("utf-8") for name in sorted(HELD_OUT)}


def topics() -> str:
    """The English text of ``pydoc_data.topics`` (the language reference), about 450 KB."""
    from pydoc_data.topics import topics as texts

    return "\n\n".join(texts[name] for name in sorted(texts))


def _is_held_out(path: Path) -> bool:
    return path.stem.removeprefix("test_").removeprefix("_") in HELD_OUT or "pydoc_data" in path.parts


def _sources(root: Path, rng: random.Random, limit: int | None) -> Iterator[str]:
    paths = sorted(p for p in root.rglob("*.py") if "site-packages" not in p.relative_to(root).parts)
    rng.shuffle(paths)
    total = 0
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        if not FILE_BYTES[0] <= len(text) <= FILE_BYTES[1] or _is_held_out(path):
            continue
        total += len(text)
        if limit is not None and total > limit:
            return
        yield text


def library_documents(seed: int, count: int) -> list[str]:
    """Some modules of the standard library, none of them held out, in a seeded order."""
    return list(islice(_sources(standard_library(), random.Random(seed), None), count))


def training_documents(seed: int) -> list[str]:
    """All training documents in a seeded order, each once (files that are copies of another are dropped)."""
    rng = random.Random(seed)
    roots: list[tuple[Path, int | None]] = [(standard_library(), None)]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            roots.append((Path(spec.origin).parent, PACKAGE_BYTES))
    unique = {
        hashlib.sha256(text.encode()).digest(): text for root, limit in roots for text in _sources(root, rng, limit)
    }
    documents = list(unique.values())
    rng.shuffle(documents)
    return documents
