"""Stand-ins for language models that answer prompts: what they say, and how they fail, is known beforehand."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ropewalk.backends.chat.answering import Engine
from ropewalk.backends.chat.chat import Answer, Failed, Prompt, Usage, rendered, text_of
from ropewalk.texts.documents import token_ids
from tests.tokenizers import byte_level


class Talker:
    """Says what ``say`` makes of a prompt, and counts tokens as the tokenizer does.

    Args:
        say: from a prompt and the number of the draw, which failures leave as it is, to a text.
        fails: tries of each prompt that fail before one is answered.
        usage: from the true usage to what is told.
        reads: tokens of a prompt that are read; longer ones are cut without a word. None reads all.
    """

    name, workers, varies, window = "talker", 4, True, None

    def __init__(
        self,
        say: Callable[[str, int], str],
        fails: int = 0,
        usage: Callable[[Usage], Usage | None] = lambda one: one,
        reads: int | None = None,
        tokenizer: Any = None,
    ):
        self.say, self.fails, self.usage, self.reads = say, fails, usage, reads
        self.tokenizer = tokenizer or byte_level()
        self.basis = {"model": "talker"}
        self.prompts: list[str] = []
        self._lock = threading.Lock()

    def answer(self, asked: Prompt, room: int, again: int) -> Answer:
        prompt = text_of(asked)
        with self._lock:
            self.prompts.append(prompt)
            tried = self.prompts.count(prompt)
        if tried <= self.fails:
            raise Failed("code 500")
        ids = rendered(asked, self.tokenizer)
        seen = prompt if self.reads is None else self.tokenizer.decode(ids[: self.reads], skip_special_tokens=True)
        written = token_ids(self.say(seen, again), self.tokenizer)
        text = str(self.tokenizer.decode(written[:room]))
        read = len(ids) if self.reads is None else min(len(ids), self.reads)
        return Answer(text, len(written) > room, self.usage(Usage(read, 0, min(len(written), room))))


def echo(prompt: str, again: int) -> str:
    """What was asked."""
    return prompt


def engine(talker: Any, served: bool = True, **more: Any) -> Engine:
    """An engine that does not pause."""
    return Engine(talker, getattr(talker, "tokenizer", None) or byte_level(), served, pause=0, **more)


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        models = [{"id": name, "object": "model"} for name in self.server.served]
        told = [one | ({"max_model_len": n} if (n := self.server.windows.get(one["id"])) else {}) for one in models]
        self._send(200, {"object": "list", "data": told})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((self.path, asked))
            number = len(self.server.requests)
        with suppress(BrokenPipeError, ConnectionResetError):  # nobody waits any more
            self._send(*self.server.reply(number, self.path, asked))

    def _send(self, code: int, content: Any, headers: dict[str, str] | None = None) -> None:
        if isinstance(content, Iterator):  # parts, up to the end of the connection
            self.send_response(code)
            self.end_headers()
            for part in content:
                self.wfile.write(part)
            return
        html = isinstance(content, str)
        body = content if isinstance(content, bytes) else (content if html else json.dumps(content)).encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/html" if html else "application/json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def endpoint(
    reply: Callable[[int, str, dict[str, Any]], Sequence[Any]], served: Sequence[str] = ("tiny",), port: int = 0
) -> Iterator[Any]:
    """A server on this machine; ``reply`` takes the number of a request, its path and body, and gives code and body."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    server.reply, server.served, server.requests, server.lock = reply, list(served), [], threading.Lock()
    server.windows = {}
    server.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def chat_body(text: Any, usage: Any = None, finish: str = "stop") -> dict[str, Any]:
    """What /v1/chat/completions answers."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice], "usage": usage}
