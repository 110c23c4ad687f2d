"""Renders the generated parts of README.md and docs from the lists of methods and tasks and the committed results.

``python docs/render.py`` writes them, and the README's pictures; ``--check`` fails if the texts are not up to date.
``--architectures`` writes docs/architectures.md, from models that it builds and reads; the tests check that table.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

from ropewalk.carriers.carrier import FAMILIES
from ropewalk.checkpoint.carrier_inspection import CARRIED
from ropewalk.encoders.encoder_entries import ENCODER_METHODS
from ropewalk.lab import setups
from ropewalk.lab.encoding_entries import ENCODINGS
from ropewalk.methods.carriers.carrier_entries import CARRIER_METHODS, fits
from ropewalk.methods.catalogue import CATALOGUE
from ropewalk.report import numbers
from ropewalk.report.numbers import Estimate, pool
from ropewalk.report.picture import picture
from ropewalk.report.schema import Results
from ropewalk.report.view import View
from ropewalk.rope.problem_kinds import BESIDE, CONFIG, ENCODER, GGUF, KINDS, ROPELESS
from ropewalk.tasks.benchmarks import MODULES, benchmark
from ropewalk.tasks.context import PLAIN
from ropewalk.tasks.registry import TASKS, Material, make
from ropewalk.tasks.ruler.qa import fictional
from ropewalk.training.positions.entries import POSITIONS
from ropewalk.training.recipes.recipe_entries import RECIPES
from ropewalk.workflows.strategy_entries import STRATEGIES

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
CLAIMS = ROOT / "claims" / "results"
REAL = CLAIMS / "real"
ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "llama.cpp": "llama.cpp"}
RENDERED = ("demo", "real", "methods", "attention", "evaluation", "benchmarks", "training", "problems", "workflows",
            "encoders", "architectures", "lab", "claims")  # fmt: skip


def methods_table() -> str:
    rows = ["| id | method | decides | training-free | in a checkpoint | paper |", "|---|---|---|---|---|---|"]
    for entry in CATALOGUE:
        cells = f"`{entry.id}`", f"{entry.title}: {entry.summary}", entry.kind, entry.training_free, entry.exportable
        rows.append("| " + " | ".join([*cells, linked(entry.paper)]) + " |")
    return "\n".join(rows)


def linked(paper: str) -> str:
    """A link to an arXiv id, or to an address without its https://."""
    return f"[{paper}](https://{'' if '/' in paper else 'arxiv.org/abs/'}{paper})" if paper else ""


def recipes_table() -> str:
    """The recipes that ``train`` takes."""
    rows = ["| id | recipe | rope | samples | steps x samples | trains | source |", "|---|---|---|---|---|---|---|"]
    for entry in RECIPES:
        one = entry.load()
        trains = "all" if one.trainable == "all" else " + ".join([f"rank {one.rank}", *one.also])
        trains += ", on four bits" if one.quantise != "none" else ""
        rope = f"`{one.method.partition('(')[0]}`"
        stages = f", {len(one.stages)} stages" if one.stages[1:] else ""
        rows.append(
            f"| `{entry.id}` | {entry.title}: {entry.summary} | {rope} | `{one.positions}` | "
            f"{one.steps:,} x {one.batch}{stages} | {trains} | {linked(entry.paper)} |"
        )
    return "\n".join(rows)


def positions_table() -> str:
    rows = ["| id | in Python | what | a text needs | the model's rope | source |", "|---" * 6 + "|"]
    for entry in POSITIONS:
        cells = (
            f"`{entry.id}`",
            f"`{entry.where.split(':')[1]}`",
            f"{entry.title}: {entry.summary}",
            entry.texts,
            entry.rope,
        )
        rows.append("| " + " | ".join([*cells, linked(entry.paper)]) + " |")
    return "\n".join(rows)


def strategies_table() -> str:
    """Of a text of n chunks."""
    rows = ["| id | what | calls, of n chunks | needs | source |", "|---" * 5 + "|"]
    for one in STRATEGIES:
        cells = f"`{one.id}`", f"{one.title}: {one.summary}", one.calls, one.needs
        rows.append("| " + " | ".join([*cells, linked(one.paper)]) + " |")
    return "\n".join(rows)


def encodings_table() -> str:
    rows = ["| id | what | ways | source |", "|---" * 4 + "|"]
    for one in ENCODINGS:
        ways = ", ".join(f"`{way}`" for way in one.ways)
        rows.append(f"| `{one.id}` | {one.title}: {one.summary} | {ways} | {linked(one.paper)} |")
    return "\n".join(rows)


def setups_table() -> str:
    rows = ["| id | encodings | tasks | window, lengths | not as there | source |", "|---" * 6 + "|"]
    for one in setups.SETUPS:
        names, tasks = (", ".join(f"`{name}`" for name in some) for some in (one.encodings, one.tasks))
        asked = ", ".join(str(int(times * one.window)) for times in one.times)
        cells = f"`{one.id}`", names, tasks, f"{one.window} bytes; {asked}", one.differs, linked(one.paper)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def encoding_claims_table() -> str:
    """What papers say of encodings, what was measured of it, and the losses and shares that it was measured by."""
    found = json.loads((CLAIMS / "encodings.json").read_text("utf-8"))
    rows = ["| what the paper says | difference | seeds | | source |", "|---" * 5 + "|"]
    for one in found["rows"]:
        seen = interval(Estimate(one.get("measured"), one.get("low"), one.get("high")), "+.3f")
        said = f"**{one['verdict']}**" if one["verdict"] in ("holds", "refuted") else one["verdict"]
        rows.append(f"| {one['claim']} | {seen} | {one['n']} | {said} | {linked(one['source'])} |")
    lengths = [str(n) for n in found["texts"]]
    rows += ["", f"| nats per byte of text at | {' | '.join(lengths)} |", "|---" * (1 + len(lengths)) + "|"]
    for name, losses in found["loss"].items():
        for way in dict.fromkeys(at.rpartition(" ")[0] for at in losses):
            cells = [losses.get(f"{way} {n}".strip()) for n in lengths]
            told = " | ".join("" if one is None else f"{one['value']:.3f}" for one in cells)
            rows.append(f"| {name}{f' + {way}' if way else ''} | {told} |")
    return "\n".join([*_untrained(found["missing"]), *rows, *_shares_of_tasks(found)])


def _untrained(missing: list[str]) -> list[str]:
    """What of a run is not there yet, by task."""
    seeds: dict[str, dict[str, None]] = {}
    for one in missing:
        *_, task, seed = one.split()
        seeds.setdefault(task, {})[seed] = None
    said = [f"`{task}` (seeds {', '.join(some)})" for task, some in seeds.items()]
    so_far = "Means are of the seeds that are there, not the same ones in every row; nothing is judged before all are."
    return (
        [f"**Not finished:** {len(missing)} trainings are missing, of {', '.join(said)}. {so_far}", ""] if said else []
    )


def _shares_of_tasks(found: dict[str, Any]) -> list[str]:
    """Rows of tables of the algorithms, where there are any."""
    rows: list[str] = []
    for task, of in found["right"].items():
        lengths = list(dict.fromkeys(n for cells in of.values() for n in cells))
        rows += ["", f"| `{task}`, rows and bytes that are right at | {' | '.join(lengths)} |",
                 "|---" * (1 + len(lengths)) + "|"]  # fmt: skip
        for name, cells in of.items():
            told = [f"{cells[n]['rows']['value']:.2f}, {cells[n]['bytes']['value']:.2f}" for n in lengths]
            rows.append(f"| {name} | {' | '.join(told)} |")
    return rows


def encoder_methods_table() -> str:
    rows = ["| id | what | decides | in a folder | source |", "|---" * 5 + "|"]
    for one in ENCODER_METHODS:
        cells = f"`{one.id}`", f"{one.title}: {one.summary}", one.axis, one.exportable
        rows.append("| " + " | ".join([*cells, linked(one.paper)]) + " |")
    return "\n".join(rows)


def without_rope_table() -> str:
    """What goes for which model type without a rope."""
    rows = ["| model types | positions | window by | `extend` | `compare`, `evaluate` |", "|---" * 5 + "|"]
    alike: dict[tuple[str, ...], list[str]] = {}
    for kind, family in FAMILIES.items():
        fit = [one for one in CARRIER_METHODS[1:] if fits(one, family.kind)]
        saved = ", ".join(f"`{one.id}`" for one in fit if one.exportable.startswith("yes")) or "refused"
        live = ", ".join(f"`{one.id}`" for one in [CARRIER_METHODS[0], *fit])
        key = f"`{family.key}`" if family.key else "no key"
        alike.setdefault((CARRIED[family.kind], key, saved, live), []).append(kind)
    rows += ["| " + " | ".join([", ".join(kinds), *cells]) + " |" for cells, kinds in alike.items()]
    rows += ["", "| method | what | in a folder | source |", "|---" * 4 + "|"]
    for one in CARRIER_METHODS:
        cells = f"`{one.id}`", f"{one.title}: {one.summary}", one.exportable
        rows.append("| " + " | ".join([*cells, linked(one.paper)]) + " |")
    return "\n".join(rows)


def encoders_table() -> str:
    """Accuracy@1 of real embedding models by method and length."""
    parts = []
    for file in sorted(CLAIMS.glob("encoders-*.json")):
        found = json.loads(file.read_text("utf-8"))
        rows = {(row["method"], row["task"], row["to"], row["length"]): row for row in found["rows"]}
        shortest = min(row["length"] for row in found["rows"] if row["task"] == "short")  # the others are in the file
        several = {row["to"] for row in found["rows"] if row["method"] != "none"}  # else there is nothing to compare
        cells = sorted(((task, to, length) for _, task, to, length in set(rows) if task in ("passkey", "needle") or
                        (task == "short" and to in several and length == shortest)),
                       key=lambda cell: (cell[0] == "short", cell[0] == "needle", *cell[1:]))  # fmt: skip
        cells = list(dict.fromkeys(cells))
        short = "short texts of up to {length:,} tokens, as a folder for {to:,}"
        heads = ["method", *((short if task == "short" else task + " at {to:,}").format(length=length, to=to)
                             for task, to, length in cells)]  # fmt: skip
        n = {row["n"] for row in found["rows"]}
        parts += [f"{found['model']} ({' or '.join(map(str, sorted(n)))} questions in each cell):", ""]
        parts += ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
        for method in dict.fromkeys(row["method"] for row in found["rows"]):
            own = [_share(rows.get((method, *cell))) for cell in cells]
            parts.append("| " + " | ".join([f"`{method}`", *own]) + " |")
        parts.append("")
    return "\n".join(parts).rstrip()


def _share(row: dict[str, Any] | None) -> str:
    return "" if row is None else f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def problems_list() -> str:
    """Every kind of problem that ``inspect`` reports, under the files that have it."""
    parts = []
    for place in (CONFIG, GGUF, BESIDE, ENCODER, ROPELESS):
        parts.append(f"## {place}")
        for kind in KINDS.values():
            if kind.where[0] == place:
                notes = ["A GGUF file can have it too."] * (kind.where[1:] == (GGUF,))
                notes += ["Until it is mended every verb but `inspect` refuses the model."] * kind.stops
                parts += [f"### `{kind.code}`", f"{kind.wrong} {kind.why}", " ".join([f"*Mend.* {kind.mend}", *notes])]
    return "\n\n".join(parts)


def interval(found: Estimate, show: str) -> str:
    return spread(found, lambda value: "–" if value is None else f"{value:{show}}")


def spread(found: Estimate, printer: numbers.Printer) -> str:
    bounds = numbers.interval(found, printer, " to ")
    return printer(found.value) + (f" ({bounds})" if bounds else "")


def demo_table() -> str:
    view = View(Results.read(RESULTS / "demo.json"))
    target = view.target
    rows = [
        f"| method | effective length | average score at {target} | perplexity at {target} | short-text tax |",
        "|---|---|---|---|---|",
    ]
    best_first = sorted(
        view.lines, key=lambda one: (-one.effective_length.value, -one.score.value, one.perplexity.value)
    )
    for line in best_first:
        tax = Estimate(0.0, 0.0, 0.0) if line.is_plain else line.short_tax
        cells = [
            line.title,
            spread(line.effective_length, line.printer("effective_length", numbers.tokens)),
            interval(line.score, ".0%"),
            interval(line.perplexity, ".1f"),
            interval(tax, "+.1%"),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def reach_table() -> str:
    """Retrieval and perplexity of every method beyond the window of the bundled model."""
    view = View(Results.read(RESULTS / "reach.json"))
    lengths = [n for n in view.lengths if n > view.window]
    columns = [f"retrieval at {n}" for n in lengths] + [f"perplexity at {n}" for n in lengths]
    rows = ["| method | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
    order = {subject.method: i for i, subject in enumerate(view.results.subjects)}
    for line in sorted(view.lines, key=lambda line: order[line.subject.method]):
        cells = [line.title + ("" if line.subject.causal else " (not causal)")]
        found = {task: {r.length: r.estimate for r in view.of(line, task)} for task in ("passkey", "niah", "ppl")}
        cells += [interval(pool([found[task][n] for task in ("passkey", "niah")]), ".0%") for n in lengths]
        cells += [interval(found["ppl"].get(n, Estimate()), ".1f") for n in lengths]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows)


def real() -> Results:
    """What was measured of a real model, the furthest target of all."""
    return max((Results.read(file) for file in REAL.glob("*-compare.json")), key=lambda one: one.models[0].to or 0)


def real_heading(view: View) -> str:
    return f"{view.name.partition('.')[0]}, trained to {numbers.tokens(view.window or 0)} tokens; no further training"


def real_table() -> str:
    """Perplexity and keys of a real model, the best method first."""
    view = View(real())
    task, to = view.tasks("score")[0], numbers.tokens(view.target or 0)
    heads = ["method", f"perplexity at {to}", "of the last tokens there", "short-text tax"]
    heads += [f"{task.title.lower()}s found at {numbers.tokens(n)}" for n in view.lengths]
    rows = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for line in view.lines:
        keys = {row.length: row for row in view.of(line, task.id)}
        tax = "–" if line.is_plain else interval(line.short_tax, "+.1%")
        cells = [interval(line.perplexity, ".1f"), interval(line.subject.tail_perplexity or Estimate(), ".1f"), tax]
        cells += [f"{round(keys[n].value * keys[n].n)} of {keys[n].n}" if n in keys else "–" for n in view.lengths]
        rows.append("| " + " | ".join([line.title, *cells]) + " |")
    return "\n".join(rows)


def benchmarks() -> list[tuple[str, str, list[dict]]]:
    """Name, first sentence of the script's docstring, and rows of every benchmark with committed results."""
    found = []
    for file in sorted(RESULTS.glob("*.json")):
        content = json.loads(file.read_text())
        if isinstance(content, list):
            script = ast.parse((ROOT / "bench" / f"{file.stem}.py").read_text("utf-8"))
            sentence = (ast.get_docstring(script) or "").split("\n\n")[0].replace("\n", " ")
            found.append((file.stem, sentence, content))
    return found


def benchmarks_table() -> str:
    parts = []
    for name, sentence, content in benchmarks():
        settings = [row["setting"] if isinstance(row["setting"], dict) else {} for row in content]
        common = {k: v for k, v in settings[0].items() if all(s.get(k) == v for s in settings)}
        rows = [
            f"## {name}",
            "",
            sentence,
            "",
            plainly(common),
            "",
            "| what | ours | peer | ratio | setting |",
            "|---" * 5 + "|",
        ]
        for row, setting in zip(content, settings, strict=True):
            cells = row["name"], f"{row['ours']:.3g} {row['unit']}", f"{row['peer']:.3g} {row['unit']}"
            own = plainly({k: v for k, v in setting.items() if k not in common})
            rows.append("| " + " | ".join([*cells, f"{row['ratio']:.3g}", own.replace("|", "/")]) + " |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def plainly(setting: dict) -> str:
    numbers = (
        f"{k.replace('_', ' ')} {v:.3g}" if isinstance(v, float) else f"{k.replace('_', ' ')} {v}"
        for k, v in setting.items()
    )
    return "; ".join(numbers)


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


def quoted_table() -> str:
    """The tasks that people quote: what the number of each is comparable to."""
    found: dict[str, list[str]] = {}
    for name, entry in TASKS.items():
        if entry.comparable:
            found.setdefault(entry.comparable, []).append(f"`{name}`")
    rows = [f"| {', '.join(names)} | {said} |" for said, names in found.items()]
    return "\n".join(["| tasks | comparable to |", "|---|---|", *rows])


def rows_table() -> str:
    """Every benchmark of real texts: its files, and whether the reader has met rows as they are published."""
    table = ["| name | files | met real rows | licence of the data |", "|---|---|---|---|"]
    for name in MODULES:
        one = benchmark(name)
        table.append(f"| `{name}` | {one.home} | {'yes' if one.met else 'no'} | {one.licence} |")
    return "\n".join(table)


def claims_ledger() -> str:
    """Every system that claims something, and how its claims fared."""
    sys.path.insert(0, str(ROOT))
    from claims.ledger import ledger

    return ledger()


def engine_rows(engine: str, part: str, controls: bool = False) -> list[dict]:
    """What bench/engines.py found; without what is wrong on purpose."""
    rows = json.loads((RESULTS / "engines.json").read_text())[engine].get(part, {"rows": []})["rows"]
    return [row for row in rows if controls or not row["name"].startswith("control")]


def engines_table() -> str:
    """Every row of real engines, and under which versions it was seen."""
    found = json.loads((RESULTS / "engines.json").read_text())
    lines = ["| engine | model | rope | tokens | largest difference |", "|---|---|---|---|---|"]
    for engine, name in ENGINES.items():
        for part, model in (("demo", "bundled"), ("real", "SmolLM2-135M")):
            for row in engine_rows(engine, part, controls=True):
                rope = row["name"].removeprefix("SmolLM2-135M-Instruct, ")
                lines.append(f"| {name} | {model} | {rope} | {row['tokens']:,} | {row['max_difference']:.1e} |")
    versions = [
        ", ".join(f"{package} {version}" for package, version in found[engine]["versions"].items())
        for engine in ENGINES
    ]
    against = dict.fromkeys(
        ", ".join(f"{package} {version}" for package, version in part["against"].items())
        for engine in ENGINES for part in found[engine].values() if isinstance(part, dict) and "against" in part
    )  # fmt: skip
    return "\n".join([*lines, "", f"Engines: {'; '.join(versions)}. Held against {'; '.join(against)}."])


def only_here() -> str:
    """What the README promises, each with what was seen of it, out of the committed results."""
    rows = {file: content for file, _, content in benchmarks()}

    def ratio(file: str, name: str) -> str:
        """Of several types of weights, from the least to the largest."""
        every = [f"{row['ratio']:.2g}" for row in rows[file] if row["name"] == name]
        return " to ".join(dict.fromkeys(sorted(every)))

    longrope = json.loads((ROOT / "claims" / "results" / "longrope.json").read_text())
    yarn = longrope["against"]["yarn"]
    tax = longrope["seen"]["on other texts, short ones, times the perplexity of"]["none"]
    within = {
        part: ", ".join(
            f"{name} {max(row['max_difference'] for row in measured):.1e}"
            for engine, name in ENGINES.items()
            if (measured := engine_rows(engine, part))
        )
        for part in ("demo", "real")
    }
    encoders = json.loads((CLAIMS / "encoders-minilm.json").read_text())["rows"]

    def found(method: str) -> str:
        asked = method, "passkey", 1024
        return _share(next(row for row in encoders if (row["method"], row["task"], row["length"]) == asked))

    prefill = "self-extend, prefill of {} tokens, against {}"
    said = {
        "**Finds what is wrong with a rope** before it costs a training: dozens of mistakes, each with the command "
        "that mends it": "`ropewalk inspect MODEL`, on configurations and GGUF files, without weights; of a plain "
            "rope in " + ratio("verbs", "inspect, a plain rope") + " of the time in which transformers reads it: "
            "[is my rope right?](docs/guides/is-my-rope-right.md)",
        f"**{len(CATALOGUE) - 1} methods on one modelling path**, composed with a plus, on today's transformers":
            "`ropewalk methods`; of 74 architectures 66 give what transformers gives, 8 are refused with the reason: "
            "[architectures](docs/architectures.md)",
        "**Position methods in one softmax**, not in two score matrices":
            "a layer under SelfExtend, one CPU thread: 8k tokens in "
            + ratio("attention", prefill.format(8192, "two score matrices")) + " of the papers' way, in "
            + ratio("attention", prefill.format(8192, "stock SDPA")) + " of stock SDPA's time, 32k in "
            + ratio("attention", prefill.format(32768, "stock SDPA")) + ": [benchmarks](docs/benchmarks.md#attention)",
        "**Says which method**, with which options, for this model, under your limits":
            "`ropewalk fit MODEL --method auto`. LongRoPE's factors, searched for the bundled model (5.5 M) to 8 "
            f"windows: perplexity {yarn['value']:.3f} ({yarn['low']:.3f} to {yarn['high']:.3f}) of that under YaRN, on "
            f"short texts {tax['value']:.2f} ({tax['low']:.2f} to {tax['high']:.2f}) of plain: "
            "[methods](docs/methods.md#fitted-methods)",
        f"**{len(RECIPES)} recipes out of papers** that reach far on short samples, and exact training beyond memory":
            "16,384 tokens in "
            + ratio("training", "memory of 16,384 tokens in chunks, of 2,048 stock")
            + " of the memory of stock transformers at 2,048 (most of that is logits); against checkpoints with the "
            "same loss "
            + ratio("training", "memory per token, 16 layers, 8 heads on 2, chunks against checkpoints")
            + " a token: [training](docs/benchmarks.md#training)",
        "**Shows whether the context is used**: same prompts for all, intervals that hold in simulations, a headline "
        "that says no more than they bear":
            f"perplexity and {len(TASKS)} tasks: [evaluation](docs/evaluation.md); perplexity at 64 lengths in "
            + ratio("perplexity", "truncated perplexity at 64 lengths up to 2048")
            + " of the time of a forward per length: [benchmarks](docs/benchmarks.md#perplexity)",
        "**Checkpoints that engines read alike**, held against the engines themselves":
            f"log-probabilities off transformers' at most: the bundled model in many ropes, {within['demo']}; "
            f"SmolLM2 over 12k tokens, {within['real']}: [engines](docs/benchmarks.md#engines)",
        "**Embedding models past their window**, as folders that sentence-transformers reads, and measured":
            "all-MiniLM-L6-v2 at 1,024 tokens, passkeys found: as it comes " + found("none") + ", its table to the end "
            + found("uncut") + ", recurrent positions, which read short texts bit for bit as before, "
            + found("recurrent") + ", separate chunks " + found("chunks") + ": [embedding models](docs/encoders.md)",
        "**Serves what no checkpoint can say**, in OpenAI's protocol":
            "`ropewalk serve MODEL --method self-extend`; beginnings are kept: a document of 10,000 tokens asked ten "
            "times takes " + ratio("serving", "a document of 10,000 tokens asked 10 times")
            + " of the work without: [serving](docs/serving.md)",
    }  # fmt: skip
    return "\n".join(["| what | seen |", "|---|---|", *(f"| {what} | {seen} |" for what, seen in said.items())])


PARTS = {
    "rows": rows_table,
    "methods": methods_table,
    "positions": positions_table,
    "recipes": recipes_table,
    "strategies": strategies_table,
    "encoder-methods": encoder_methods_table,
    "encoders": encoders_table,
    "encodings": encodings_table,
    "setups": setups_table,
    "encoding-claims": encoding_claims_table,
    "tasks": tasks_table,
    "quoted": quoted_table,
    "problems": problems_list,
    "demo": demo_table,
    "reach": reach_table,
    "only-here": only_here,
    "real": real_table,
    "all-benchmarks": benchmarks_table,
    "engines": engines_table,
    "without-rope": without_rope_table,
    "claims": claims_ledger,
}


def rendered(text: str) -> str:
    """``text`` with everything between ``<!-- NAME -->`` and ``<!-- /NAME -->`` made anew."""
    for name, render in PARTS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n)(?:.*?\n)?(<!-- /{name} -->)", re.DOTALL)
        if pattern.search(text):
            body = render()
            text = pattern.sub(lambda match, body=body: f"{match.group(1)}{body}\n{match.group(2)}", text)
    return text


def architectures() -> None:
    """Write docs/architectures.md."""
    sys.path.insert(0, str(ROOT))
    from tests.architectures import table

    PARTS["architectures"] = table
    file = ROOT / "docs" / "architectures.md"
    file.write_text(rendered(file.read_text("utf-8")), "utf-8")


def main() -> None:
    if "--architectures" in sys.argv:
        return architectures()
    stale = []
    for file in (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in RENDERED)):
        old = file.read_text("utf-8")
        new = rendered(old)
        if new != old:
            stale.append(file.name)
            if "--check" not in sys.argv:
                file.write_text(new, "utf-8")
    if "--check" not in sys.argv:
        picture(Results.read(RESULTS / "demo.json"), ROOT / "docs" / "picture.png")
        picture(real(), ROOT / "docs" / "real.png", real_heading(View(real())), by_position=True)
    elif stale:
        sys.exit(f"{', '.join(stale)} out of date: run make docs")


if __name__ == "__main__":
    main()
