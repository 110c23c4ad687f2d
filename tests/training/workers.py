"""Two processes of gloo that do the same."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import torch
from torch import multiprocessing

from ropewalk.training.processes import Processes, processes

Work = Callable[[Path, Processes], None]


def _begin(rank: int, port: int, work: Work, folder: Path) -> None:
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    with processes() as together:
        work(folder, together)


def in_two(work: Work, folder: Path) -> None:
    """``work(folder, processes)`` in each of two processes; what fails there fails here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_begin, (port, work, folder), nprocs=2)
