"""Renders the generated parts of README.md and docs from the lists of methods and tasks and the committed results.

``python docs/render.py`` writes them, and the README's picture; ``--check`` fails if the texts are not up to date.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from ropewalk.catalogue import CATALOGUE
from ropewalk.evaluation.tasks.layout import PLAIN
from ropewalk.evaluation.tasks.registry import TASKS, Material, make
from ropewalk.evaluation.tasks.ruler.qa import fictional
from ropewalk.report.picture import picture

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def methods_table() -> str:
    rows = ["| id | method | decides | training-free | in a checkpoint | paper |", "|---|---|---|---|---|---|"]
    for entry in CATALOGUE:
        paper = (
            f"[{entry.paper}](https://{'' if '/' in entry.paper else 'arxiv.org/abs/'}{entry.paper})"
            if entry.paper
            else ""
        )
        cells = f"`{entry.id}`", f"{entry.title}: {entry.summary}", entry.kind, entry.training_free, entry.exportable
        rows.append("| " + " | ".join([*cells, paper]) + " |")
    return "\n".join(rows)


def interval(row: dict, name: str, low: str, high: str, show: str) -> str:
    if row[name] is None:
        return ""
    bounds = "" if row[low] is None else f" ({row[low]:{show}} to {row[high]:{show}})"
    return f"{row[name]:{show}}{bounds}"


def demo_table() -> str:
    results = json.loads((RESULTS / "demo.json").read_text())
    target = results["to"]
    rows = [
        f"| method | effective length | retrieval at {target} | perplexity at {target} | short-text tax |",
        "|---|---|---|---|---|",
    ]
    titles = {method["id"]: method["title"] for method in results["methods"]}
    best_first = sorted(
        results["summary"],
        key=lambda row: (-row["effective_length"], -row["accuracy_at_target"], row["perplexity_at_target"]),
    )
    for row in best_first:
        cells = [
            titles[row["method"]],
            interval(row, "effective_length", "low", "high", ",d"),
            interval(row, "accuracy_at_target", "accuracy_low", "accuracy_high", ".0%"),
            interval(row, "perplexity_at_target", "perplexity_low", "perplexity_high", ".1f"),
            interval(row, "short_tax", "short_tax_low", "short_tax_high", "+.1%"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def benchmarks_table() -> str:
    rows = ["| what | ours | peer | ratio | setting |", "|---|---|---|---|---|"]
    for file in sorted(RESULTS.glob("*.json")):
        content = json.loads(file.read_text())
        if isinstance(content, dict):
            continue  # a comparison, not a benchmark
        for row in content:
            setting = row["setting"] if isinstance(row["setting"], str) else json.dumps(row["setting"])
            cells = row["name"], f"{row['ours']:.3g} {row['unit']}", f"{row['peer']:.3g} {row['unit']}"
            rows.append("| " + " | ".join([*cells, f"{row['ratio']:.1f}x", setting.replace("|", "/")]) + " |")
    return "\n".join(rows)


def tasks_table() -> str:
    """Every task; what it is made from matters for its samples, not for its labels."""
    parts = {
        "haystack": (0,), "sentence_ends": frozenset(), "background": PLAIN, "functions": (), "sentences": (),
        "squad": fictional(1, 1), "hotpotqa": fictional(1, 2), "pages": (),
    }  # fmt: skip
    material = Material(None, parts)
    rows = ["| name | family | scope | diffusion | answer | what |", "|---|---|---|---|---|---|"]
    for name, entry in TASKS.items():
        task = make(name, material)
        answer = "generated" if task.free else "one"
        rows.append(
            f"| `{name}` | {entry.family or 'stand-in'} | {task.scope} | {task.diffusion} | {answer} | {entry.title} |"
        )
    return "\n".join(rows)


PARTS = {"methods": methods_table, "tasks": tasks_table, "demo": demo_table, "benchmarks": benchmarks_table}


def rendered(text: str) -> str:
    """``text`` with everything between ``<!-- NAME -->`` and ``<!-- /NAME -->`` made anew."""
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n)(?:.*?\n)?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            body = make()
            text = pattern.sub(lambda match, body=body: f"{match.group(1)}{body}\n{match.group(2)}", text)
    return text


def main() -> None:
    stale = []
    for file in (ROOT / "README.md", ROOT / "docs" / "methods.md", ROOT / "docs" / "evaluation.md"):
        old = file.read_text("utf-8")
        new = rendered(old)
        if new != old:
            stale.append(file.name)
            if "--check" not in sys.argv:
                file.write_text(new, "utf-8")
    if "--check" not in sys.argv:
        picture(json.loads((RESULTS / "demo.json").read_text()), ROOT / "docs" / "picture.png")
    elif stale:
        sys.exit(f"{', '.join(stale)} out of date: run make docs")


if __name__ == "__main__":
    main()
