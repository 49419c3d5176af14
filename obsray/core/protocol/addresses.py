"""Addresses on a network as people write them: ``host:port``, ``[host]:port`` for numbers with colons."""

from __future__ import annotations

import ipaddress

PORT_MAX = 65535
LOCALHOST = "127.0.0.1"


def parse(text: str, name: str = "address") -> tuple[str, int]:
    """Host and port. Raises ValueError, which names ``name``, for what is not ``host:port``."""
    host, colon, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not colon or not host or (":" in host and not bracketed) or any(each.isspace() or each in "/@" for each in host):
        raise ValueError(f"{name}={text!r}: an address is written host:port, like {LOCALHOST}:6379")
    if not (port.isascii() and port.isdecimal()) or int(port) > PORT_MAX:
        raise ValueError(f"{name}={text!r}: {port!r} is not a port, which is a number up to {PORT_MAX}")
    return (LOCALHOST if host == "localhost" else host), int(port)


def join(host: str, port: int) -> str:
    """The address as ``parse`` reads it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def normal(text: str, name: str = "address") -> str:
    """The address in the one form in which it is compared. Raises ValueError as ``parse`` does."""
    return join(*parse(text, name))


def is_address(text: str) -> bool:
    """Whether that is written like an address."""
    try:
        parse(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
