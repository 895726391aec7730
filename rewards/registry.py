"""From a reward's name in a recipe to the callable that TRL calls.

The one rule: a **function** *is* the reward, and its options are bound to it as keyword arguments; a
**class** is built once with its options, and the instance is the reward (for rewards that hold something: a
model, other rewards). Without options a function is passed on untouched. Nothing needs registering to be used
by path:

    # bright.py, anywhere on disk; in the recipe: {use: /data/bright.py:mentions, word: ship}
    def mentions(completions, word="dam", **columns):
        return [float(word in completion[0]["content"]) for completion in completions]
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import inspect
import typing
from collections.abc import Callable, Iterable
from typing import Any

from samples import Sample
from vlm.common.errors import RecipeError, UserError
from vlm.common.plugins.importing import failed, imported, nearest

Reward = Callable[..., list[float | None]]

ENTRY_POINTS = "nadir.rewards"

# What TRL passes by keyword: its own arguments, the columns that `samples.rows` adds, and the Sample's fields. (What
# else a data set has, `rewards.columns` compares with the rewards.) No
# option may carry such a name, because TRL's keyword would silently replace the bound option on every call.
_TRL = "prompts completions completion_ids trainer_state log_extra log_metric environments prompt image"
_ROWS = "image_file image_names resized form named turns crops"
COLUMNS = frozenset(f"{_TRL} {_ROWS}".split(" ")) | {field.name for field in dataclasses.fields(Sample)}

_REGISTERED: dict[str, Any] = {}


def register(name: str) -> Callable[[Any], Any]:
    """Decorator: make a reward function or class known to ``resolve`` as ``name``, and return it unchanged.

    Raises RecipeError when the name is taken by something else, or could be read as a path.
    """
    if not name or ":" in name:
        raise RecipeError(f"reward name {name!r}: expected a non-empty name without ':'")

    def keep(target: Any) -> Any:
        known = _REGISTERED.get(name)
        if known is not None and _origin(known) != _origin(target):
            raise RecipeError(
                f"reward name {name!r} is taken by {_origin(known)}; register {_origin(target)} under another"
            )
        _REGISTERED[name] = target
        return target

    return keep


def collective(reward: Any) -> bool:
    """Whether a reward works together with those of the other processes: it has an attribute `collective`, and that is
    true. Then whoever calls it must do so in every process, also where the batch has no row for it (all lists are
    empty then); a reward that leaves a call out lets the others wait for ever. TRL and `gated` keep to this.
    """
    return bool(getattr(reward, "collective", False))


def names() -> list[str]:
    """Every name that ``resolve`` knows now: built in, registered, or an installed entry point."""
    return sorted({*_REGISTERED, *(point.name for point in _entry_points())})


def resolve(spec: str, **options: Any) -> Reward:
    """The reward that ``spec`` names, with ``options`` bound, ready for TRL.

    spec: a name (built in or registered first, then entry points of the group "nadir.rewards"),
    "pkg.module:function", or "path/file.py:function" with a path that is absolute or relative to the current
    directory. A file is executed once per process, and need not be in a package or in this repository.

    TRL names the metrics after the function (``rewards/<function>/mean``); binding options does not change
    that.

    Raises RecipeError, naming the spec, where it does not import, is no reward (not callable, or does not
    accept further columns), or does not have one of the options.
    """
    target = _find(spec)
    known = _options(spec, target)
    _check_options(spec, target, known, options)
    if inspect.isclass(target):
        reward = _build(spec, target, options)
        _options(spec, reward)  # the instance, too, must take TRL's columns
        return reward
    if not options:
        return target
    bound = functools.partial(target, **options)
    bound.__name__ = _name(target)  # type: ignore[attr-defined]  # TRL unwraps partials, others read __name__
    return bound


def options_of(spec: str) -> set[str]:
    """Names of the options that ``resolve(spec, …)`` takes. Raises RecipeError as ``resolve`` does."""
    return set(_options(spec, _find(spec)))


# Finding what a spec names.


def _find(spec: str) -> Any:
    """The function, class or callable object behind ``spec``."""
    if not isinstance(spec, str) or not spec:
        raise RecipeError(f"reward {spec!r}: expected a name, 'pkg.module:function' or 'path/file.py:function'")
    if ":" not in spec:
        return _by_name(spec)
    return imported(spec, "reward")


def _by_name(name: str) -> Any:
    if name in _REGISTERED:
        return _REGISTERED[name]
    for point in _entry_points():
        if point.name == name:
            try:
                return point.load()
            except Exception as cause:  # an import can raise anything; its user must read which plugin it was
                raise failed(name, "reward", f"its entry point {point.value!r}", cause) from cause
    module, dot, function = name.rpartition(".")
    hint = f" (a plugin is written '{module}:{function}')" if dot else ""
    raise RecipeError(f"unknown reward {name!r}{hint}; {nearest(name, names())}")


def _entry_points() -> Iterable[importlib.metadata.EntryPoint]:
    return importlib.metadata.entry_points(group=ENTRY_POINTS)


def _build(spec: str, target: type, options: dict[str, Any]) -> Any:
    try:
        return target(**options)
    except UserError:
        raise
    except Exception as cause:  # as above
        raise RecipeError(f"reward {spec!r} cannot be built: {type(cause).__name__}: {cause}") from cause


# Options.


def _options(spec: str, target: Any) -> dict[str, inspect.Parameter]:
    """Options of a reward: its named parameters that are no columns. Raises RecipeError on a non-reward."""
    if not callable(target):
        raise RecipeError(f"reward {spec!r} is {type(target).__name__}, which cannot be called; expected a function")
    try:
        signature = inspect.signature(target)
    except ValueError as cause:  # some functions written in C have none
        raise RecipeError(f"reward {spec!r} has no readable signature; wrap it in a Python function") from cause
    parameters = signature.parameters.values()
    if not inspect.isclass(target) and all(p.kind is not p.VAR_KEYWORD for p in parameters):
        raise RecipeError(
            f"reward {spec!r} must accept columns that it does not use, because TRL passes them all: "
            f"add **columns to the parameters of {_name(target)}{signature}"
        )
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p for p in parameters if p.kind in named and p.name not in COLUMNS}


def _check_options(spec: str, target: Any, known: dict[str, inspect.Parameter], options: dict[str, Any]) -> None:
    for name in options:
        if name in COLUMNS:
            raise RecipeError(f"reward {spec!r}: {name!r} is a column of the data and cannot be an option")
        if name not in known:
            raise RecipeError(f"reward {spec!r} has no option {name!r}; {nearest(name, known)}")
    if inspect.isclass(target):
        missing = [name for name, p in known.items() if p.default is p.empty and name not in options]
        if missing:
            raise RecipeError(f"reward {spec!r} needs the option {missing[0]!r}")
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except (NameError, TypeError):  # annotations that only a type checker can read: nothing to check against
        return
    for name, value in options.items():
        _check_value(spec, name, value, hints.get(name))


def _check_value(spec: str, name: str, value: Any, hint: Any) -> None:
    """Refuse a value that a plain annotation (Literal, bool, int, float, str) excludes."""
    if typing.get_origin(hint) is typing.Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise RecipeError(
                f"reward {spec!r}: option {name!r} is {value!r}; expected {' or '.join(map(repr, allowed))}"
            )
    elif hint in (bool, int, float, str):
        accepted = (int, float) if hint is float else hint
        if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
            raise RecipeError(f"reward {spec!r}: option {name!r} is {value!r}; expected {hint.__name__}")


def _name(target: Any) -> str:
    """The name TRL gives a reward: of the function under any partials, else of the object's class."""
    while isinstance(target, functools.partial):
        target = target.func
    return getattr(target, "__name__", type(target).__name__)


def _origin(target: Any) -> str:
    described = target if hasattr(target, "__qualname__") else type(target)
    return f"{described.__module__}:{described.__qualname__}"
