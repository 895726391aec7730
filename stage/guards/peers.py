"""An error that only says that another process has gone, or keeps this one waiting: told in a sentence, so that its
cause is looked for there."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage.guards.progress import Progress
from stage.guards.watchdog import INTERVAL, compared, doing, told
from stage.parallel.agreement import begun, joined
from vlm.common.errors import UserError
from vlm.common.processes import processes

SIGNS = re.compile(
    r"connection (closed|reset) by|closed the connection|broken pipe|connection was likely closed|connection refused|"
    r"remote process exited|ncclRemoteError|socket.*(closed|timeout|timed out|failed to connect)|timed out waiting|"
    r"gloo.*(timeout|timed out)|watchdog caught collective operation timeout|NCCL communicator was aborted|"
    r"(wait|barrier) timeout after|waiting for clients|failed to (recv|send), (got|sent) 0 bytes|"
    r"retrieving ncclUniqueId",
    re.IGNORECASE,
)
"""In what gloo, NCCL and torch's store say when a process that they talk to has ended or does not come. torch's classes
(`DistBackendError`, `DistNetworkError`, `DistStoreError`) are wider: a wrong call of NCCL, an address in use."""


TIMEOUT = re.compile(r"timed out|timeout", re.IGNORECASE)
"""In those that say that nobody has answered in `ddp_timeout`, as a slow process does not."""


class PeerLost(UserError):
    """Another process of the run has ended, or does not answer."""


class PeerLate(UserError):
    """Another process of the run is at work and has not come to where this one waits."""


@contextmanager
def watched(rank: int, here: Progress, folder: Path | None = None, limit: float = 0) -> Iterator[None]:
    """Raises: PeerLate or PeerLost in place of what the communication says.

    folder: of the heartbeats (`stage.guards.watchdog`), by which one is told from the other; None without a watchdog.
    limit: `training.ddp_timeout`, in seconds.
    """
    try:
        yield
    except RuntimeError as error:  # torch.distributed's errors are RuntimeErrors, gloo's have no class of their own
        if not joined() or not SIGNS.search(str(error)):
            raise
        late = late_ones(folder, rank) if folder is not None and TIMEOUT.search(str(error)) else {}
        if late:
            named = "; ".join(f"rank {number}, which is late: {doing(state)}" for number, state in late.items())
            raise PeerLate(
                f"rank {rank} has waited {limit:g} s (training.ddp_timeout) in {here.broken} of step {here.step} for "
                f"{named}. Raise "
                "training.ddp_timeout, or limit what takes so long there (a reward has `timeout`). What was written "
                f"stays; to resume: the same command with resume=auto. ({_line(error)})"
            ) from error
        raise PeerLost(
            f"rank {rank} has lost another process of this run, in {here.broken} of step {here.step}. Why that one "
            "ended is in its own messages, or in the launcher's last lines (exit code, signal 9: killed, often for "
            f"memory). What was written stays; to resume: the same command with resume=auto. ({_line(error)})"
        ) from error


def late_ones(folder: Path, rank: int) -> dict[int, dict[str, Any]]:
    """What other processes were last heard to do, of those that live and do not merely wait."""
    states = told(folder, processes(), time.time())
    if rank in states:  # its heartbeat may be older than the call in which it waits
        states[rank] |= {"collectives": begun()}
    states = compared(states)
    return {
        number: state
        for number, state in states.items()
        if number != rank and not state["waits"] and state["silent"] < 4 * INTERVAL
    }


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
