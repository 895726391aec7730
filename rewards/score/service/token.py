"""The bearer token: read from the environment by name, so that it is in no recipe, command line or log."""

from __future__ import annotations

import hmac
import os

from vlm.common.errors import RecipeError
from vlm.common.redaction import keep_secret

SHORTEST = 16
"""Characters of a token: 64 bits in hexadecimal. Others may try to guess it, on this machine, too; and a shorter one
could not be struck out of logs without striking out words."""


def read(variable: str | None) -> str | None:
    """The token in an environment variable; None where none is named.

    Raises: RecipeError where the variable is not set, or holds what could be guessed or what an HTTP header cannot.
    """
    if variable is None:
        return None
    token = os.environ.get(variable, "").strip()
    if not token:
        raise RecipeError(
            f"token_variable: the environment variable {variable} is empty or not set; put the token into it, e.g. "
            f"export {variable}=$(openssl rand -hex 32)"
        )
    if not (token.isascii() and token.isprintable() and " " not in token):
        raise RecipeError(f"token_variable: {variable} holds more than printable ASCII without blanks")
    if len(token) < SHORTEST:
        raise RecipeError(
            f"token_variable: the token in {variable} has {len(token)} characters and could be guessed; expected at "
            f"least {SHORTEST}, e.g. export {variable}=$(openssl rand -hex 32)"
        )
    return keep_secret(token)


def header(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def accepted(authorization: str | None, token: str | None) -> bool:
    """Whether a request's Authorization header carries the token, in a time that does not tell how much was right."""
    if token is None:
        return True
    scheme, _, given = (authorization or "").partition(" ")
    return hmac.compare_digest(given.strip().encode(), token.encode()) and scheme.lower() == "bearer"
