"""What has something to remember from one training step to the next."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Stateful(Protocol):
    """A reward may offer this: the trainer then stores its state in every checkpoint, and gives it back on a resume.

    A state consists of numbers, texts, None, bytes, tensors, PIL images, and lists, tuples and dicts of them (with keys
    that are texts or numbers); each process stores and gets back its own.
    """

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
