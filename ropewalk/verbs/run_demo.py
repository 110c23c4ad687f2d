"""The whole job on the bundled model, in minutes on a laptop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.results import Result
from ropewalk.verbs.request import Place, Request, verb

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.checkpoint.inspection import Inspection
    from ropewalk.evaluation.outcome import Outcome
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
        comparison: the methods side by side, and where their report is.
        extension: the checkpoint with four times the window.
    """

    inspection: Inspection
    comparison: Outcome
    extension: Extended

    def show(self, console: Console) -> None:
        self.inspection.show(console)
        self.comparison.show(console)
        console.print(f"extended {self.extension.folder}\n")
        console.print("Next, on a model of yours:", style="bold")
        console.print("  ropewalk inspect MODEL\n  ropewalk extend MODEL --to 128k --method yarn -o OUT")

    def to_dict(self) -> dict[str, Any]:
        report = str(self.comparison.folder / "report.html")
        return {**self.comparison.to_dict(), "checkpoint": str(self.extension.folder), "report": report}


@verb("demo", keeps=True)
def run_demo(request: RunDemoRequest) -> Demo:
    """Inspect the bundled model, compare a dozen ways to lengthen its window, and write the extended checkpoint.

    Returns:
        What was found, and where the report and the checkpoint are.

    Raises:
        UserError: if ``out`` cannot be written.
    """
    from ropewalk.checkpoint.checkpoint import BUNDLED, DEMO
    from ropewalk.checkpoint.inspection import inspect
    from ropewalk.common.files import folder_to_write
    from ropewalk.verbs.compare import compare
    from ropewalk.verbs.extend import Extended, extend

    checkpoint = folder_to_write(request.out / "demo-yarn-2k", [BUNDLED], overwrite=True)
    found = inspect(DEMO)
    compared = compare(DEMO, to=TARGET, methods=METHODS, documents=12, out=request.out)
    done = extend(DEMO, to=TARGET, method="yarn", out=checkpoint, overwrite=True)
    assert isinstance(done, Extended)
    return Demo(found, compared, done)
