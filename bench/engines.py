"""Real engines against transformers: the bundled model in many ropes and SmolLM2 at twice its window, on a CPU.

    python bench/engines.py [--vllm VENV] [--sglang VENV] [--llama-cpp VENV] [--only PART ..] [--quick] --json FILE

vLLM and SGLang are started on every checkpoint with the launch line that ``ropewalk export`` prints (and flags for
float32 on a CPU), and give the log-probabilities of one held-out text over HTTP; llama.cpp from a GGUF file that
``ropewalk.engines.gguf`` writes; transformers gives the same in this process, in one forward. vLLM's and SGLang's
own rotary classes are compared with what ``ropewalk.engines`` says of them, on tiny models of all test families. The
real model is fetched as a package, as by ``make real``. Engines and parts that are not named keep their results in
FILE, unless the engine has another version.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from claims.real import SMOLLM2, fetched
from ropewalk.backends.nll import token_nll
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.write import extend, extended_config
from ropewalk.common.errors import UserError
from ropewalk.common.whole import write_text
from ropewalk.engines import sglang, vllm
from ropewalk.engines.agreement import READERS, Asked
from ropewalk.engines.gguf.patch import patch_gguf
from ropewalk.engines.gguf.to_gguf import write_gguf
from ropewalk.engines.handover import Export, export
from ropewalk.engines.launch import sglang_line, vllm_line
from ropewalk.engines.reading import Files
from ropewalk.methods.catalogue import method
from ropewalk.texts.builtin import held_out_sources
from ropewalk.texts.documents import tokenise

TARGET = 2048  # 4 x the bundled model's window
TOKENS = 2040
REAL = "SmolLM2-135M-Instruct"
REAL_TARGET = 16384  # twice its window
REAL_TOKENS = 12288
ALLOWED = {"vllm": 1e-3, "sglang": 1e-3, "llama.cpp": 5e-3}  # log-probabilities, float32
HERE = Path(__file__).parent / "engines"
METHODS = {
    "PI": "pi",
    "YaRN": "yarn",
    "YaRN, attention factor 1.3": "yarn(attention_factor=1.3)",
    "NTK-aware": "ntk-aware",
    "NTK-by-parts (llama3 keys)": "ntk-by-parts",
    "Resonance + YaRN": "resonance+yarn",
    "power basis (flat longrope)": "giraffe(basis='power')",
    "truncated basis": "giraffe",
}
FOR_A_CPU = {
    "vllm": "--dtype float32 --enforce-eager --no-enable-prefix-caching --max-num-seqs 1",
    "sglang": "--dtype float32 --device cpu --attention-backend torch_native --sampling-backend pytorch "
    f"--grammar-backend none --disable-radix-cache --chunked-prefill-size 2048 --max-total-tokens {REAL_TARGET} "
    "--watchdog-timeout 7200",
}
ENVIRONMENT = {
    "vllm": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"},
    "sglang": {"PYTHONPATH": str(HERE / "stand_ins")},
}


@dataclass(frozen=True)
class Case:
    """A checkpoint, how many tokens an engine should take, a text, and its log-probabilities by transformers."""

    name: str
    folder: Path
    longest: int
    ids: list[int]
    expected: torch.Tensor


@dataclass
class Work:
    """What the engines share: a folder for files, how much is measured, and the real model with its references."""

    place: Path
    quick: bool

    @property
    def methods(self) -> dict[str, str]:
        return dict(list(METHODS.items())[: 2 if self.quick else None])

    def new(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.place))

    @cached_property
    def real(self) -> list[Case]:
        """Somebody else's model at twice its window."""
        file = fetched(SMOLLM2, ".gguf", Path("runs/real/SmolLM2-135M-Instruct.Q4_1.gguf"))
        ids = held_out(file, REAL_TOKENS // 3 if self.quick else REAL_TOKENS)
        cases = []
        for name in ("YaRN", "PI")[: 1 if self.quick else None]:
            folder = extend(file, REAL_TARGET, method(METHODS[name]), self.new() / "model").folder
            begun = time.perf_counter()
            cases.append(Case(f"{REAL}, {name}", folder, REAL_TARGET, ids, reference(folder, ids)))
            print(f"{cases[-1].name}, transformers: {time.perf_counter() - begun:.0f} s", flush=True)
        return cases


def reference(folder: str | Path, ids: list[int]) -> torch.Tensor:
    """Log-probability of each token after the first, float64 [n - 1], by transformers in float32, in one forward."""
    model = Checkpoint.open(folder).load("float32", "cpu")
    return -token_nll(model, torch.tensor([ids]))[0].double()


def held_out(model: str | Path, tokens: int) -> list[int]:
    """The first tokens of a text that the bundled model has not seen."""
    documents = tokenise(held_out_sources(), Checkpoint.open(model).tokenizer(), tokens)
    return next(iter(documents.values()))[:tokens]


@contextlib.contextmanager
def served(engine: str, line: str, venv: Path, log: Path) -> Iterator[str]:
    """Run a launch line with the tools of ``venv`` until it answers; yields the server's address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    path = f"{venv.absolute() / 'bin'}:{own['PATH']}"
    with open(log, "w") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"{line} {FOR_A_CPU[engine]} --port {port}"],
            env=own | ENVIRONMENT[engine] | {"PATH": path}, stdout=output, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 900
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{line}\ndid not start:\n" + "".join(log.read_text()[-3000:]))
                time.sleep(1)
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=300)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def ask(address: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=7200) as reply:
        return json.load(reply)


def log_probabilities(engine: str, address: str, ids: list[int]) -> tuple[torch.Tensor, int]:
    """As ``reference``, from a server; and the longest text that it takes."""
    card = ask(address, "/v1/models")["data"][0]
    if engine == "vllm":
        body = {"model": card["id"], "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0}
        found = ask(address, "/v1/completions", body)["choices"][0]["prompt_logprobs"]
        values = [entry[str(token)]["logprob"] for entry, token in zip(found[1:], ids[1:], strict=True)]
    else:
        once = {"max_new_tokens": 1, "temperature": 0}
        body = {"input_ids": ids, "sampling_params": once, "return_logprob": True, "logprob_start_len": 0}
        found = ask(address, "/generate", body)["meta_info"]["input_token_logprobs"]
        values = [value for value, *_ in found[1:]]
        assert [token for _, token, _ in found] == ids
    return torch.tensor(values, dtype=torch.float64), card["max_model_len"]


def seen(name: str, found: torch.Tensor, expected: torch.Tensor, allowed: float, **more: Any) -> dict[str, Any]:
    """A row: the largest difference of a log-probability; of a control, which is wrong on purpose, it must be large."""
    difference = float((found - expected).abs().max())
    holds = difference > 10 * allowed if name.startswith("control") else difference <= allowed
    row = {"name": name, "tokens": len(expected) + 1, "max_difference": difference, "holds": holds} | more
    print(f"{name}: {difference:.2g} over {len(expected) + 1} tokens", flush=True)
    return row


def in_server(
    engine: str, venv: Path, work: Work, case: Case, done: Export, profile: str = "long", flags: str = ""
) -> dict[str, Any]:
    """A row: the launch line of a profile, and flags behind it, in a server of its own."""
    chosen = next(p for p in done.profiles if p.name == profile)
    line = f"{chosen.line} {flags}".rstrip()
    with served(engine, line, venv, work.new() / "log") as address:
        found, longest = log_probabilities(engine, address, case.ids)
    row = seen(case.name, found, case.expected, ALLOWED[engine], line=line.replace(str(chosen.folder), "DIR"))
    return row | {"max_model_len": longest, "holds": row["holds"] and longest == case.longest}


def real_in_server(engine: str, venv: Path, work: Work) -> Iterator[dict[str, Any]]:
    for case in work.real:
        yield in_server(engine, venv, work, case, export(str(case.folder), engine))
    yield from apart(work, engine)


def apart(work: Work, engine: str) -> Iterator[dict[str, Any]]:
    """That the text tells the real model's two ropes apart."""
    if not work.quick:
        first, second = work.real
        yield seen("control: YaRN taken for PI", first.expected, second.expected, ALLOWED[engine])


def demo_in_server(engine: str, venv: Path, work: Work) -> Iterator[dict[str, Any]]:
    """Every method as a folder; YaRN by transformers' own code, by overrides, undone, folded, without its keys."""
    ids, cases = held_out("demo", TOKENS), {}
    measured = partial(in_server, engine, venv, work)
    for name, spelling in work.methods.items():
        done = export("demo", engine, TARGET, method(spelling), out=work.new() / "model")
        assert done.folder is not None
        cases[name] = Case(name, done.folder, TARGET, ids, reference(done.folder, ids))
        yield measured(cases[name], done)
        if name.startswith("YaRN"):
            named = replace(cases[name], name=f"{name}, by transformers' code")
            yield measured(named, export(str(done.folder), engine), flags="--model-impl transformers")
    yarn = cases["YaRN"]
    by_line = replace(yarn, name="YaRN by overrides on the line")
    yield measured(by_line, export("demo", engine, TARGET, method("yarn")))
    if work.quick:
        return
    short, plain = ids[:500], Checkpoint.open("demo").folder
    undone = Case("YaRN undone on the line", yarn.folder, TARGET // 4, short, reference(plain, short))
    yield measured(undone, export(str(yarn.folder), engine), "native")
    keyed = cases["YaRN, attention factor 1.3"]
    done = export("demo", engine, TARGET, method(METHODS[keyed.name]), out=work.new() / "model", fold=True)
    assert done.folder is not None
    folded = Case("YaRN 1.3, rest folded", done.folder, TARGET, ids, reference(done.folder, ids))
    yield measured(folded, done)
    without_keys(keyed.folder)
    with served(engine, LINES[engine](keyed.folder, TARGET), venv, work.new() / "log") as address:
        found, _ = log_probabilities(engine, address, ids)
    name = "control: YaRN 1.3 without short_mscale and long_mscale"
    yield seen(name, found, keyed.expected, ALLOWED[engine])


def without_keys(folder: Path) -> None:
    """Take away the keys that carry the attention factor in vLLM and SGLang."""
    content = json.loads((folder / "config.json").read_text())
    for name in ("rope_parameters", "rope_scaling"):
        for key in ("short_mscale", "long_mscale"):
            content[name].pop(key)
    (folder / "config.json").write_text(json.dumps(content))


def ask_llama_cpp(
    venv: Path, file: Path, prompts: Sequence[list[int]] = (), texts: Sequence[str] = (), **parameters: Any
) -> dict[str, Any]:
    """What ``engines/llama_cpp_logprobs.py`` answers about a GGUF file; ``parameters`` are of llama.cpp's context."""
    request = {"gguf": str(file), "prompts": prompts, "texts": texts, "parameters": parameters}
    return _run(venv, "llama_cpp_logprobs.py", request=request)


def by_llama_cpp(venv: Path, file: Path, ids: list[int], **parameters: Any) -> tuple[torch.Tensor, int]:
    """As ``reference``, of a GGUF file; and the context that the file declares."""
    answer = ask_llama_cpp(venv, file, [ids], **parameters)
    return torch.tensor(answer["logprobs"][0], dtype=torch.float64), answer["context_trained"]


def in_llama_cpp(venv: Path, case: Case, file: Path) -> dict[str, Any]:
    """A row: a GGUF file, with weights and cache in float32."""
    found, longest = by_llama_cpp(venv, file, case.ids)
    row = seen(case.name, found, case.expected, ALLOWED["llama.cpp"])
    return row | {"max_model_len": longest, "holds": row["holds"] and longest == case.longest}


def written(case: Case, work: Work) -> Path:
    return write_gguf(case.folder, work.new() / "model.gguf", "F32").path


def real_in_llama_cpp(venv: Path, work: Work) -> Iterator[dict[str, Any]]:
    for case in work.real:
        yield in_llama_cpp(venv, case, written(case, work))
    yield from apart(work, "llama.cpp")


def demo_in_llama_cpp(venv: Path, work: Work) -> Iterator[dict[str, Any]]:
    """The unextended model in its window, every method, and PI without its frequencies."""
    ids, source = held_out("demo", TARGET), Checkpoint.open("demo").folder
    inside = ids[: TARGET // 4]
    plain = Case("plain", source, len(inside), inside, reference(source, inside))
    yield in_llama_cpp(venv, plain, written(plain, work))
    for name, spelling in work.methods.items():
        folder = extend("demo", TARGET, method(spelling), work.new() / "model").folder
        case = Case(name, folder, TARGET, ids, reference(folder, ids))
        file = written(case, work)
        yield in_llama_cpp(venv, case, file)
        if name == "PI":
            without = patch_gguf(file, "demo", work.new() / "without.gguf").path
            found, _ = by_llama_cpp(venv, without, ids)
            yield seen("control: PI without rope_freqs", found, case.expected, ALLOWED["llama.cpp"])


def own_classes(engine: str, venv: Path, work: Work) -> Iterator[dict[str, Any]]:
    """The engine's own rotary classes against what ropewalk says of them, over families x methods."""
    from tests.matrix import SAVED, TARGET, made
    from tests.models import FAMILIES, tiny

    module = {"vllm": vllm, "sglang": sglang}[engine]
    positions = [0, 1, 5, 63, 100, TARGET - 1]
    jobs, readings = [], []
    for family in FAMILIES:
        model = tiny(family)
        for spelling in SAVED:
            config, _ = extended_config(model.config, made(spelling, model), TARGET)
            files = Files(family, config.to_dict(), config)
            if files.model_type in module.VIA_TRANSFORMERS or files.model_type == "gpt_oss":
                continue
            for key, entry in files.entries.items():
                found: Any
                try:
                    found = READERS[engine](files, TARGET, Asked())[key]
                except UserError as error:
                    found = error
                rotated = entry.get("partial_rotary_factor", 1.0) if engine == "vllm" else 1.0
                rotated = getattr(config, "partial_rotary_factor", rotated)
                width = files.head_dim(key)
                jobs.append({
                    "head_dim": width, "rotary_dim": int(width * rotated), "max_position": TARGET,
                    "max_model_len": TARGET, "neox": family != "cohere", "rope_parameters": entry,
                    "positions": positions,
                })  # fmt: skip
                readings.append(found)
    tables = _run(venv, "rotary.py", engine, request=jobs)
    worst, agreed, refused = 0.0, 0, 0
    for table, reading in zip(tables, readings, strict=True):
        if "error" in table or isinstance(reading, UserError):
            if not ("error" in table and isinstance(reading, UserError)):
                raise SystemExit(f"{engine}: one refuses, the other does not: {table.get('error')}, {reading}")
            refused += 1
            continue
        angles = torch.tensor(positions)[:, None] * reading.inv_freq
        for name, exact in (("cos", angles.cos()), ("sin", angles.sin())):
            worst = max(worst, float((torch.tensor(table[name]) - exact * reading.attention_factor).abs().max()))
        agreed += 1
    print(f"{engine}'s own classes: {agreed} tables, largest difference {worst:.2g}; both refuse {refused}", flush=True)
    holds = worst < 1e-4
    yield {"name": "tables", "tables": agreed, "max_difference": worst, "both_refuse": refused, "holds": holds}


def _run(venv: Path, script: str, *arguments: str, request: Any) -> Any:
    """The JSON answer of a script beside this file, run in the environment of an engine."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(interpreter(venv)), str(HERE / script), *arguments]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def interpreter(venv: Path) -> Path:
    """The Python of an environment, named by its folder or by that Python."""
    return venv / "bin" / "python" if venv.is_dir() else venv


def version(venv: Path, package: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    return subprocess.check_output([interpreter(venv), "-c", code], text=True).strip()


LINES = {"vllm": vllm_line, "sglang": sglang_line}
ENGINES = {
    **{
        engine: {
            "classes": partial(own_classes, engine),
            "demo": partial(demo_in_server, engine),
            "real": partial(real_in_server, engine),
        }
        for engine in LINES
    },
    "llama.cpp": {"demo": demo_in_llama_cpp, "real": real_in_llama_cpp},
}
PARTS = ("classes", "demo", "real")
PACKAGES = {"vllm": ("vllm-cpu", "transformers", "torch"), "sglang": ("sglang", "transformers", "torch"),
            "llama.cpp": ("llama-cpp-python",)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, metavar="VENV")
    parser.add_argument("--sglang", type=Path, metavar="VENV")
    parser.add_argument("--llama-cpp", type=Path, metavar="VENV", help="with llama-cpp-python; or its Python")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="two methods, and a third of the real text")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the results go")
    arguments = parser.parse_args()
    venvs = {"vllm": arguments.vllm, "sglang": arguments.sglang, "llama.cpp": arguments.llama_cpp}
    if not any(venvs.values()):
        parser.error("name an engine: --vllm, --sglang or --llama-cpp")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server is ended as well
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    against = {name: metadata.version(name) for name in ("transformers", "torch")}
    holds = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Work(Path(temporary), arguments.quick)
        for engine, parts in ENGINES.items():
            if venvs[engine] is None:
                continue
            versions = {name: version(venvs[engine], name) for name in PACKAGES[engine]}
            if results.get(engine, {}).get("versions") != versions:
                results[engine] = {"versions": versions, "allowed": ALLOWED[engine]}
            for part in arguments.only:
                if part in parts:
                    results[engine][part] = {"against": against, "rows": []}
                    for row in parts[part](venvs[engine], work):  # a run that is stopped keeps what it saw
                        results[engine][part]["rows"].append(row)
                        write_text(arguments.json, json.dumps(results, indent=1) + "\n")
                        holds.append(row["holds"])
    if not all(holds):
        raise SystemExit("not all rows hold; see " + str(arguments.json))


if __name__ == "__main__":
    main()
