"""
Arguments of Twisted's endpoint strings: the names and values that each kind takes.

Twisted converts numbers and hands the rest on, so that a second port is taken for an interface,
a backlog may be larger than the kernel's type, and a name that is there twice counts as the
last one. All of that would be found out when it is used, or never.

Pure: no file and no name is looked up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from ipaddress import ip_address
from typing import Final, NamedTuple

MAX_C_INT: Final = 2**31 - 1
"""Largest C int, which listen(2) takes."""

_DAY_SECONDS: Final = 86400

_TOO_MANY_PARTS: Final = "it has too many parts; a colon within one is \\:"

_INTEGER_TEXT: Final = re.compile(r" *[+-]?[0-9]{1,99} *", re.ASCII)

Check = Callable[[str], str | None]
"""A value -> what is wrong with it."""


class EndpointArguments(NamedTuple):
    """
    Kind and arguments of an endpoint string.

    @ivar kind: its first word.
    @ivar values: those without a name, in order.
    @ivar named: names and values, in order; a name may be there twice.
    """

    kind: str
    values: Sequence[str]
    named: Sequence[tuple[str, str]]


class _Form(NamedTuple):
    """
    Arguments that one kind of endpoint takes.

    @ivar names: of the arguments; the first C{bare} may go without their names.
    @ivar needed: names of arguments without which nothing else is judged: Twisted tells them.
    """

    names: Mapping[str, Check | None]
    bare: int
    needed: Collection[str] = ()


def split_endpoint(text: str) -> EndpointArguments | None:
    """
    Split an endpoint string into its kind and arguments, as Twisted does.

    @return: C{None} where it ends within an escape.
    """
    parts: list[list[str]] = [[""]]
    characters = iter(text)
    for letter in characters:
        part = parts[-1]
        if letter == ":":
            parts.append([""])
        elif letter == "=" and len(part) == 1:
            part.append("")
        elif letter != "\\":
            part[-1] += letter
        elif (escaped := next(characters, None)) is not None:
            part[-1] += escaped
        else:
            return None
    values = [part[0] for part in parts if len(part) == 1]
    named = [(part[0], part[1]) for part in parts if len(part) == 2]
    return EndpointArguments(values[0] if values else "", values[1:], named)


DATAGRAM_TYPE: Final = ":type=datagram"
"""Argument of a C{systemd:} endpoint whose socket is one for datagrams."""


def is_datagram(text: str) -> bool:
    """Say whether an endpoint string is one for datagrams."""
    kind, _, rest = text.partition(":")
    return kind in ("udp", "unixgram") or (kind == "systemd" and DATAGRAM_TYPE in f":{rest}")


def named_arguments(endpoint: EndpointArguments) -> dict[str, str]:
    """
    Return the arguments of a server's endpoint by name, those given without one too.
    """
    names = _SERVERS[endpoint.kind].names
    return {**dict(zip(names, endpoint.values, strict=False)), **dict(endpoint.named)}


def escaped(value: str) -> str:
    """Escape a value for an endpoint string."""
    return re.sub(r"([\\:=])", r"\\\1", value)


def argument_fault(text: str, listening: bool) -> str | None:
    """
    Say what is wrong with the arguments of an endpoint string.

    @param listening: whether it is a server's.
    @return: C{None}: nothing, or something that Twisted reports clearly itself.
    """
    endpoint = split_endpoint(text)
    if endpoint is None:
        return None
    kind, values, named = endpoint
    if listening and kind == "haproxy":
        # Twisted passes the wrapped endpoint string on unchanged, escapes included.
        inner = text.partition(":")[2]
        if inner.startswith("haproxy:"):
            return "it has haproxy: twice"
        return argument_fault(inner, listening)
    if listening and kind == "stdio":
        return "the gateway's standard input and output are no place for peers"
    form = (_SERVERS if listening else _CLIENTS).get(kind if listening else kind.lower())
    if form is None:
        return None
    if len(values) > form.bare:
        return _TOO_MANY_PARTS
    names = list(form.names)
    if not listening and len(values) == 1 and form.bare == 2 and "host" in dict(named):
        names = ["port"]
    given = list(zip(names, values, strict=False))
    for name, value in named:
        if name not in form.names:
            return f"it takes no {name}="
        if name in dict(given[: len(values)]):
            return _TOO_MANY_PARTS
        if name in dict(given):
            return f"it has {name}= twice"
        given.append((name, value))
    if not dict(given).keys() >= set(form.needed):
        return None
    for name, value in given:
        check = form.names[name]
        fault = None if check is None else check(value)
        if fault is not None:
            return fault
    return None


def _integer_between(what: str, least: int, most: int) -> Check:
    def check(value: str) -> str | None:
        if not value:
            return "a number is missing"
        if _INTEGER_TEXT.fullmatch(value) is None:
            return f"{value!r} is no number"
        if not least <= int(value) <= most:
            return f"{what} is a number from {least} to {most}, and {value} is not"
        return None

    return check


def _mode(value: str) -> str | None:
    if re.fullmatch("0?[0-7]{3}", value, re.ASCII):
        return None
    return f"a mode is three octal digits, such as 660, and {value!r} is not"


def _switch(value: str) -> str | None:
    return None if value in ("0", "1") else f"lockfile is 0 or 1, not {value!r}"


def _domain(value: str) -> str | None:
    if value in ("INET", "INET6", "UNIX"):
        return None
    return f"domain is INET, INET6 or UNIX, not {value!r}"


def _type(value: str) -> str | None:
    return None if value == "datagram" else f"type is datagram, or left out, not {value!r}"


def _is_host(value: str) -> bool:
    # Digits alone are an address to the resolver (28401 is 0.0.110.241), and a port to people.
    return is_address(value) or (
        re.fullmatch(r"[\w.-]+", value) is not None
        and any(letter not in "0123456789." for letter in value)
    )


def _interface(value: str) -> str | None:
    if not value or _is_host(value):
        return None
    return f"an interface is an address or the name of a host, and {value!r} is not"


def _host(value: str) -> str | None:
    if not value:
        return "it names no host"
    return None if _is_host(value) else f"{value!r} is no address and no name of a host"


def _address(value: str) -> str | None:
    return None if is_address(value) else f"{value!r} is no address"


def is_address(text: str) -> bool:
    """Say whether a text is an IPv4 or IPv6 address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


_LISTENED: Final = _integer_between("a port", 0, 65535)
_DIALLED: Final = _integer_between("a port", 1, 65535)
_BACKLOG: Final = _integer_between("backlog", 0, MAX_C_INT)
_TIMEOUT: Final = _integer_between("timeout", 1, _DAY_SECONDS)

_SERVERS: Final[Mapping[str, _Form]] = {
    "tcp": _Form({"port": _LISTENED, "interface": _interface, "backlog": _BACKLOG}, 3),
    "tcp6": _Form({"port": _LISTENED, "backlog": _BACKLOG, "interface": _interface}, 3),
    "unix": _Form({"address": None, "mode": _mode, "backlog": _BACKLOG, "lockfile": _switch}, 4),
    "ssl": _Form(
        {
            "port": _LISTENED,
            "privateKey": None,
            "certKey": None,
            "sslmethod": None,
            "interface": _interface,
            "backlog": _BACKLOG,
            "extraCertChain": None,
            "dhParameters": None,
        },
        8,
    ),
    "tls": _Form(
        {"path": None, "port": _LISTENED, "backlog": _BACKLOG, "interface": _interface}, 4
    ),
    "systemd": _Form(
        {
            "domain": _domain,
            "index": _integer_between("index", 0, MAX_C_INT),
            "name": None,
            "type": _type,
        },
        3,
    ),
    "udp": _Form({"port": _LISTENED, "interface": _interface}, 2, ("port",)),
    "unixgram": _Form({"address": None, "mode": _mode}, 2, ("address",)),
}

_DIAL: Final = {"host": _host, "port": _DIALLED, "timeout": _TIMEOUT, "bindAddress": _address}

_PLACE_NAMES: Final = ("host", "port")

_CLIENTS: Final[Mapping[str, _Form]] = {
    "tcp": _Form(_DIAL, 2, _PLACE_NAMES),
    "unix": _Form({"path": None, "lockfile": _switch, "timeout": _TIMEOUT}, 1),
    "ssl": _Form(
        {**_DIAL, "certKey": None, "privateKey": None, "caCertsDir": None, "hostname": _host},
        2,
        _PLACE_NAMES,
    ),
    "tls": _Form(
        {
            **_DIAL,
            "certificate": None,
            "privateKey": None,
            "trustRoots": None,
            "endpoint": lambda value: argument_fault(value, listening=False),
        },
        8,
        _PLACE_NAMES,
    ),
}
"""Twisted takes a client's kind in any case."""
