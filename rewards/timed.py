"""A call with a time limit, told of when it is slow. Threads, for nothing else stops waiting for any Python code."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any, TypeVar

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

    timeout: None runs it here, without a limit. Otherwise in a thread of its own, on this thread's GPU; past so many
    seconds that thread is abandoned, not ended (Python has no way), and Overdue is raised here.
    """
    ident: int | None = threading.get_ident()
    done, result, over = threading.Event(), Result(), []

    def late() -> None:
        if not over:
            tell(_line(ident))

    timer = threading.Timer(slow, late) if slow is not None and slow < (timeout or float("inf")) else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        if timeout is None:
            return call()
        thread = threading.Thread(target=_work, args=(call, result, done, _device()), name="reward", daemon=True)
        thread.start()
        ident = thread.ident
        if not done.wait(timeout):
            where = _line(ident)
            raise Overdue(f"no answer in {timeout:g} s{f', at {where}' if where else ''}; the call is abandoned")
        return result.value()
    finally:
        over.append(True)
        if timer is not None:
            timer.cancel()


class Result:
    """What a call in another thread has returned or raised."""

    returned: Any = None
    raised: BaseException | None = None

    def value(self) -> Any:
        if self.raised is not None:
            raise self.raised
        return self.returned


def _work(call: Callable[[], Any], result: Result, done: threading.Event, device: int | None) -> None:
    try:
        if device is not None:
            sys.modules["torch"].cuda.set_device(device)  # a new thread starts on the first GPU
        result.returned = call()
    except BaseException as error:  # raised again where the call was made
        result.raised = error
    finally:
        done.set()


def _device() -> int | None:
    torch = sys.modules.get("torch")
    return torch.cuda.current_device() if torch is not None and torch.cuda.is_initialized() else None


def _line(ident: int | None) -> str:
    """The innermost line of a thread that is no library's."""
    frame = sys._current_frames().get(ident) if ident is not None else None
    if frame is None:
        return ""
    stack = [found for found in traceback.extract_stack(frame) if _own(found.filename)]
    return f"{stack[-1].filename}:{stack[-1].lineno}" if stack else ""


def _own(path: str) -> bool:
    library = threading.__file__.rpartition("/")[0]
    return not path.startswith((library, "<")) and "site-packages" not in path and path != __file__
