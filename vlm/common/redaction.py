"""Secrets stay out of logs and run records: what counts as one, and striking it out of text.

A secret is known by its place or by its shape:

    place   the value of an environment variable, recipe key or command-line flag named like one (HF_TOKEN,
            WANDB_API_KEY, hub_token, --password); whatever was given to `keep_secret`
    shape   tokens of known services (hf_…, ghp_…, sk-…, AKIA…), bearer tokens, names and passwords in URLs

Nothing here finds a secret without either; so none belongs on a command line in the first place.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence

STRUCK = "[secret]"
SHORTEST = 8
"""Characters; a shorter value (`true`, `none`) would be struck out of every other word."""

_NAME = re.compile(
    r"(?:^|.*[_.\-])(?:token|secret|password|passwd|passphrase|api_?key|apikey|access_?key|private_?key|credentials?)",
    re.IGNORECASE,
)
_SPECIAL = re.compile(r"(?:^|.*[_.\-])(?:pad|eos|bos|unk|sep|cls|mask|image|video|vision|stop|end|start)_token")
"""A tokenizer's own, which recipes may name."""
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
"""NAME_OF_A_VARIABLE, which is what should stand in a secret's place."""
_SHAPES = [
    (re.compile(shape), put)
    for shape, put in (
        (r"\bhf_[A-Za-z0-9]{20,}", STRUCK),
        (r"\b(?:gh[pousr]|github_pat)_[A-Za-z0-9_]{20,}|\bglpat-[\w-]{16,}", STRUCK),
        (r"\bsk-[A-Za-z0-9_-]{16,}|\bAIza[\w-]{30,}|\bxox[abprs]-[\w-]{10,}|\bwandb_v\d_\w{20,}", STRUCK),
        (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", STRUCK),
        (r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}", STRUCK),  # RFC 7519: a JSON web token
        (r"(?i)\b(bearer\s+)[\w.~+/=-]{8,}", rf"\g<1>{STRUCK}"),
        (r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#@]+@", rf"\g<1>{STRUCK}@"),  # RFC 3986, 3.2.1: userinfo
        (r"(?i)([?&](?:token|access_token|api_?key|key|sig|signature|password)=)[^\s&#\"']+", rf"\g<1>{STRUCK}"),
    )
]
_kept: set[str] = set()


def keep_secret(value: str) -> str:
    """Strike this value out of everything from now on; returns it."""
    if len(value) >= SHORTEST:
        _kept.add(value)
    return value


def is_secret_name(name: str) -> bool:
    """Whether a variable, key or flag of this name holds a secret."""
    return _NAME.fullmatch(name.replace("-", "_")) is not None and _SPECIAL.fullmatch(name.replace("-", "_")) is None


def known() -> list[str]:
    """The secrets known by their place, longest first, for one may stand inside another."""
    named = {value for name, value in os.environ.items() if is_secret_name(name) and len(value.strip()) >= SHORTEST}
    return sorted({value.strip() for value in named} | _kept, key=len, reverse=True)


def redact(text: str) -> str:
    """The text with each secret struck out, also where JSON has escaped it."""
    for value in known():
        for form in {value, json.dumps(value)[1:-1]}:
            text = text.replace(form, STRUCK)
    for shape, put in _SHAPES:
        text = shape.sub(put, text)
    return text


def redact_command(argv: Sequence[str]) -> list[str]:
    """A command line: `redact` on each word, and the values of flags and overrides that are named like secrets."""
    shown, strike = [], False
    for word in argv:
        name, equals, value = word.partition("=")
        if strike and not word.startswith("-"):
            shown.append(STRUCK)
            strike = False
            continue
        named = is_secret_name(name.lstrip("-")) and not _VARIABLE.fullmatch(value)
        strike = named and not equals and word.startswith("-")
        shown.append(f"{name}={STRUCK}" if named and equals and value else redact(word))
    return shown


def holds_secret(name: str, value: str) -> bool:
    """Whether a recipe's text under the key `name` is a secret rather than the name of a variable that holds one."""
    named = is_secret_name(name) and len(value) >= SHORTEST and not re.search(r"\s", value)
    return (named and not _VARIABLE.fullmatch(value)) or redact(value) != value


class Formatter(logging.Formatter):
    """Strikes secrets out of whole log entries, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
