"""What every command says on the terminal: messages once for all processes, errors without a traceback, logs."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from typing import TextIO

from vlm.common import redaction
from vlm.common.errors import UserError
from vlm.common.processes import is_main_process

EXIT_USER_ERROR = 2
PATIENCE = 20.0
"""Seconds another process waits with its error for the main process to say the same, before it speaks for itself."""


_OF_A_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\n.*\n[\w.]+: (.*?)\n?", re.DOTALL)


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
