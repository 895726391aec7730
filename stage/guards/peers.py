"""An error that only says that another process has gone: told in a sentence, so that its cause is looked for there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from stage.guards.progress import Progress
from stage.parallel.agreement import joined
from vlm.common.errors import UserError

SIGNS = re.compile(
    r"connection (closed|reset) by peer|broken pipe|connection was likely closed|connection refused|"
    r"remote process exited|ncclRemoteError|socket.*(closed|timeout)|timed out waiting|gloo.*(timeout|timed out)|"
    r"watchdog caught collective operation timeout",
    re.IGNORECASE,
)
"""In what gloo, NCCL and torch's store say when a process that they talk to has ended."""


class PeerLost(UserError):
    """Another process of the run has ended, or does not answer."""


@contextmanager
def watched(rank: int, here: Progress) -> Iterator[None]:
    """Raises: PeerLost in place of what the communication says."""
    try:
        yield
    except RuntimeError as error:  # torch.distributed's errors are RuntimeErrors, gloo's have no class of their own
        if not joined() or not SIGNS.search(str(error)):
            raise
        raise PeerLost(
            f"rank {rank} has lost another process of this run, in {here.broken} of step {here.step}. Why that one "
            "ended is in its own messages, or in the launcher's last lines (exit code, signal 9: killed, often for "
            f"memory). What was written stays; to resume: the same command with resume=auto. ({_line(error)})"
        ) from error


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
