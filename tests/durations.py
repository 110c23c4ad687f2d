"""Which tests take long, as they were last measured: the default suite leaves them to `make slow`.

    pytest -n 2 -m "not gpu" --junitxml=run.xml
    python -m tests.durations run.xml

What was not measured stays as it is in the list. Tests that are slow by their nature are marked where they are written.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

LONG = Path(__file__).with_name("long.txt")
SECONDS = 0.5  # of a cell, on average


def means(runs: Iterable[str | Path]) -> dict[str, float]:
    """Seconds of a cell of every test function, by its id, such as ``tests/rope/test_keys.py::test_a_typo``."""
    taken: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for one in ElementTree.parse(run).iter("testcase"):
            if one.find("skipped") is None:
                file, name = one.attrib["classname"].replace(".", "/"), one.attrib["name"].split("[")[0]
                taken[f"{file}.py::{name}"].append(float(one.attrib["time"]))
    return {name: sum(times) / len(times) for name, times in taken.items()}


def marked(name: str) -> bool:
    """Whether the function says itself that it is slow."""
    file, function = name.split("::")
    lines = Path(file).read_text().partition(f"def {function}(")[0].splitlines()[::-1]
    above = lines[: next((i for i, line in enumerate(lines) if not line.strip()), len(lines))]
    return "@pytest.mark.slow" in above


def main(runs: list[str]) -> None:
    measured = means(runs)
    listed = {name for name in LONG.read_text().split() if name not in measured} if LONG.exists() else set()
    listed |= {name for name, seconds in measured.items() if seconds > SECONDS and not marked(name)}
    LONG.write_text("".join(f"{name}\n" for name in sorted(listed)))


if __name__ == "__main__":
    main(sys.argv[1:])
