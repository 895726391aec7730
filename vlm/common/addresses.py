"""Where an address leads: only to this machine, or to others; and whether a secret may travel there unseen."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Iterable
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address: loopback, or the name localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, or empty, which means every interface
        return False


def warn_if_open(urls: Iterable[str], variable: str | None) -> None:
    """Log a warning for each address to which the secret in `variable` would travel readable: http, another machine."""
    for url in urls if variable is not None else ():
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            logger.warning(
                "%s: the secret in %s travels there unencrypted, and the images too; use https, or an SSH tunnel to "
                "127.0.0.1",
                url,
                variable,
            )
