"""Work that ends at every instant: in a fork, right before or behind each of its changes of a folder."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

CHANGES = "replace", "rename", "link", "unlink", "mkdir", "rmdir"
ENDED = 77


def ended(work: Callable[[], Any], moment: int) -> bool:
    """Whether work was ended at a moment, 2 n - 1 before its n-th change and 2 n behind it; False if it has fewer.

    Raises:
        AssertionError: if it failed, which it says on its standard error.
    """
    if (child := os.fork()) == 0:
        code, done = 1, 0

        def tick() -> None:
            nonlocal done
            done += 1
            if done == moment:
                os._exit(ENDED)

        def watched(change: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*some: Any, **more: Any) -> Any:
                tick()
                found = change(*some, **more)
                tick()
                return found

            return wrapped

        for name in CHANGES:
            setattr(os, name, watched(getattr(os, name)))
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, ENDED), f"moment {moment}: ended with {code}"
    return code == ENDED
