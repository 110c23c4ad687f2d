"""The whole job on the bundled model, in minutes on a laptop."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.results import Result
from ropewalk.verbs.request import Place, Request, verb

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.checkpoint.inspection import Inspection
    from ropewalk.verbs.extend import Extended

METHODS = (
    "none,pi,ntk-aware,ntk-aware(stretch=2),dynamic-ntk,llama3,yarn,resonance+yarn,lm-infinite,self-extend,dca,"
    "yarn+dca(effective_window=1024)"
)
TARGET = 2048


@dataclass(frozen=True, kw_only=True)
class RunDemoRequest(Request):
    """Where its files go.

    Attributes:
        out: Folder for the report, the results and the checkpoint.
    """

    out: Place = Path("runs/demo")


@dataclass(frozen=True, repr=False)
class Demo(Result):
    """What the demo found and wrote.

    Attributes:
        inspection: of the bundled model.
        comparison: content of results.json.
        extension: the checkpoint with four times the window.
        report: the page.
    """

    inspection: Inspection
    comparison: dict[str, Any]
    extension: Extended
    report: Path

    def show(self, console: Console) -> None:
        from ropewalk.report.table import summary_table

        self.inspection.show(console)
        console.print(summary_table(self.comparison, intervals=console.width >= 100))
        console.print(f"report   {self.report}\nresults  {self.report.with_name('results.json')}", soft_wrap=True)
        console.print(f"extended {self.extension.folder}\n", soft_wrap=True)
        console.print("Next, on a model of yours:", style="bold")
        console.print("  ropewalk inspect MODEL\n  ropewalk extend MODEL --to 128k --method yarn -o OUT")

    def to_dict(self) -> dict[str, Any]:
        return {**self.comparison, "checkpoint": str(self.extension.folder), "report": str(self.report)}


@verb("demo")
def run_demo(request: RunDemoRequest) -> Demo:
    """Inspect the bundled model, compare a dozen ways to lengthen its window, and write the extended checkpoint.

    Returns:
        What was found, and where the report and the checkpoint are.

    Raises:
        UserError: if ``out`` cannot be written.
    """
    from ropewalk.checkpoint.checkpoint import BUNDLED, DEMO
    from ropewalk.common.files import folder_to_write
    from ropewalk.verbs import compare
    from ropewalk.verbs.extend import extend
    from ropewalk.verbs.inspect import inspect
    from ropewalk.verbs.progress import shown

    checkpoint = folder_to_write(request.out / "demo-yarn-2k", [BUNDLED], overwrite=True)
    found = inspect(DEMO)
    command = f"ropewalk compare demo --to {TARGET} --methods {shlex.quote(METHODS)} --max-documents 12"
    asked = compare.Request(model=DEMO, to=TARGET, methods=METHODS, max_documents=12, command=command)
    with shown() as progress:
        results = compare.compare(asked, request.out, progress)
    done = extend(DEMO, to=TARGET, method="yarn", out=checkpoint, overwrite=True)
    return Demo(found, results, done, request.out / "report.html")
