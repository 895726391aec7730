"""What every command says on the terminal: messages once for all processes, errors without a traceback, logs."""

from __future__ import annotations

import io
import logging
import os
import re
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from vlm.common import redaction
from vlm.common.errors import UserError
from vlm.common.processes import is_main_process

EXIT_USER_ERROR = 2
EXIT_BROKEN_PIPE = 141
"""As of a program that SIGPIPE ends."""
PATIENCE = 20.0
"""Seconds another process waits with its error for the main process to say the same, before it speaks for itself."""


_OF_A_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n.*\n[\w.]+: (.*?)\n?", re.DOTALL)


@contextmanager
def terminal() -> Iterator[None]:
    """Around a whole command: what the terminal cannot show is written as \\u2265, and where nobody reads on (`--keys |
    head`), the process ends silently with EXIT_BROKEN_PIPE."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not any([_closed(sys.stdout), _closed(sys.stderr)]):  # another pipe
            raise
        sys.exit(EXIT_BROKEN_PIPE)


def _closed(stream: TextIO) -> bool:
    """Whether nobody reads what is written there; then it goes nowhere, also at the interpreter's end."""
    reader = select.poll()
    reader.register(stream, 0)
    if not any(event & (select.POLLERR | select.POLLHUP) for _, event in reader.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return True


def say(message: str, stream: TextIO | None = None) -> None:
    """Print (on stderr by default) on the main process only, so that eight processes give one message."""
    if is_main_process():
        print(message, file=stream or sys.stderr, flush=True)


def report(error: UserError) -> None:
    """Print the error once over all processes.

    The launcher ends every process as soon as one exits with an error, so the others let the main process speak first.
    Whoever still lives after `PATIENCE` has an error of its own.
    """
    if not is_main_process():
        time.sleep(PATIENCE)
    text = str(error)
    if said := _OF_A_WORKER.fullmatch(text):  # torch puts the traceback of a data loader's worker before it
        text = said[1]
    print(f"error: {redaction.redact(text)}", file=sys.stderr, flush=True)


def log_to_stderr() -> None:
    """Log entries from warnings on, with secrets struck out."""
    written = logging.StreamHandler()
    place = "" if is_main_process() else f"process {os.environ['RANK']}: "
    written.setFormatter(redaction.Formatter(f"%(levelname)s {place}%(name)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[written])
