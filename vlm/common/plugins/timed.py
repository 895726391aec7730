"""A call with a time limit, told of when it is slow. Threads, for nothing else stops waiting for any Python code."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from vlm.common.plugins.places import innermost

T = TypeVar("T")


class Overdue(Exception):
    """The call took longer than its limit, and was left to itself."""


def timed(
    call: Callable[[], T],
    timeout: float | None = None,
    slow: float | None = None,
    tell: Callable[[str], None] = lambda where: None,
) -> T:
    """`call()`; `tell(where)` once when it takes longer than `slow` seconds, where: its innermost line, "file.py:12".

    timeout: None runs it here, without a limit. Otherwise in a thread of its own, on this thread's GPU; past that many
    seconds that thread is abandoned, not ended (Python has no way), and Overdue is raised here.
    """
    ident: int | None = threading.get_ident()
    result: Future[T] = Future()
    over = threading.Event()

    def late() -> None:
        if not over.is_set():
            tell(_line(ident))

    timer = threading.Timer(slow, late) if slow is not None and slow < (timeout or float("inf")) else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        if timeout is None:
            return call()
        thread = threading.Thread(target=_work, args=(call, result, _device()), name="plugin", daemon=True)
        thread.start()
        ident = thread.ident
        if not wait([result], timeout).done:
            where = _line(ident)
            raise Overdue(f"no answer in {timeout:g} s{f', at {where}' if where else ''}; the call is abandoned")
        return result.result()
    finally:
        over.set()
        if timer is not None:
            timer.cancel()


def _work(call: Callable[[], T], result: Future[T], device: int | None) -> None:
    try:
        if device is not None:
            sys.modules["torch"].cuda.set_device(device)  # a new thread starts on the first GPU
        result.set_result(call())
    except BaseException as error:  # raised again where the call was made
        result.set_exception(error)


def _device() -> int | None:
    torch = sys.modules.get("torch")
    return torch.cuda.current_device() if torch is not None and torch.cuda.is_initialized() else None


def _line(ident: int | None) -> str:
    """The innermost line of a thread that is no library's."""
    frame = sys._current_frames().get(ident) if ident is not None else None
    return "" if frame is None else innermost(traceback.extract_stack(frame))
