"""Chromium, where it is installed, over its debugging pipe: one start for many pages, at any width, on any medium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --remote-debugging-pipe".split()
MOVED = """import os, sys
commands, answers, *line = sys.argv[1:]
for start, end in ((int(commands), 60), (int(answers), 61), (60, 3), (61, 4)):
    os.dup2(start, end)
os.execv(line[0], line)
"""  # puts the pipe's ends where Chromium looks for them


class Browser:
    """One window of a Chromium that reads commands from its file 3 and answers on its file 4."""

    def __init__(self) -> None:
        assert PROGRAM
        theirs, self._out = os.pipe()
        self._in, answers = os.pipe()
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        line = [PROGRAM, *OPTIONS, f"--user-data-dir={self._home.name}"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", MOVED, str(theirs), str(answers), *line], pass_fds=(theirs, answers),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(answers)
        self._sent, self._rest, self._session = 0, b"", {}
        target = self.do("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.do("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        self.do("Page.enable")

    def do(self, command: str, **options: Any) -> Any:
        """Run a command of the DevTools protocol, and wait for what it answers."""
        self._sent += 1
        message = {"id": self._sent, "method": command, "params": options, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._sent:
            pass
        return answer["result"]

    def _read(self) -> Any:
        while b"\0" not in self._rest:
            some = os.read(self._in, 1 << 20)
            assert some, "Chromium has ended"
            self._rest += some
        one, _, self._rest = self._rest.partition(b"\0")
        return json.loads(one)

    def open(self, page: Path, width: int, medium: str = "screen", scheme: str = "light") -> None:
        """Show a page in a window so many pixels wide."""
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.do("Emulation.setEmulatedMedia", media=medium, features=features)
        self.do("Page.navigate", url=page.as_uri())
        while self._read().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """Of an expression in JavaScript."""
        return self.do("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def close(self) -> None:
        self._session = {}
        self.do("Browser.close")
        self._process.wait(20)
        self._home.cleanup()
