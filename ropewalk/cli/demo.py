"""``ropewalk demo``: the whole job on the bundled model, in minutes on a laptop."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

METHODS = (
    "none,pi,ntk-aware,ntk-aware(stretch=2),dynamic-ntk,llama3,yarn,resonance+yarn,lm-infinite,self-extend,dca,"
    "yarn+dca(effective_window=1024)"
)
TARGET = 2048


def demo(
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("runs/demo"),
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Inspect the bundled model, compare a dozen ways to lengthen its window, and write the extended checkpoint.

    Parameters
    ----------
    out: Path
        Folder for the report, the results and the checkpoint.
    as_json: bool
        Print JSON.
    """
    from ropewalk.checkpoint.checkpoint import BUNDLED, DEMO
    from ropewalk.checkpoint.inspection import inspect
    from ropewalk.checkpoint.write import extend
    from ropewalk.cli.compare import conclude, shown
    from ropewalk.cli.inspect import show
    from ropewalk.common.files import folder_to_write
    from ropewalk.methods.catalogue import method
    from ropewalk.verbs.compare import Request, compare

    checkpoint = folder_to_write(out / "demo-yarn-2k", [BUNDLED], overwrite=True)
    console = Console(highlight=False, stderr=as_json)
    show(inspect(DEMO), console)
    command = f"ropewalk compare demo --to {TARGET} --methods {shlex.quote(METHODS)} --max-documents 12"
    request = Request(model=DEMO, to=TARGET, methods=METHODS, max_documents=12, command=command)
    with shown() as progress:
        results = compare(request, out, progress)
    done = extend(DEMO, TARGET, method("yarn"), checkpoint, overwrite=True)
    if as_json:
        print(json.dumps({**results, "checkpoint": str(done.folder), "report": str(out / "report.html")}))
        return
    conclude(results, out, console)
    console.print(f"extended {done.folder}\n", soft_wrap=True)
    console.print("Next, on a model of yours:", style="bold")
    console.print("  ropewalk inspect MODEL\n  ropewalk extend MODEL --to 128k --method yarn -o OUT")
    sys.stdout.flush()
