"""
Names under which the HTTP site may be asked for: a guard against DNS rebinding.

A web page from elsewhere can have its own name resolve to 127.0.0.1, so that a browser on this
machine lets it read what it finds there. Its requests carry that name in C{Host}. So what came by
the loopback interface has to name it, or this machine. Whoever reached another address of the
machine may do that under any name: nothing is open to that page which is not open to its author.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.system.addresses import Address, address_of


class OwnHosts:
    """
    Hosts that are ours.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """
        @param names: names of the machine; their first labels alone are ours too.
        """
        own = {name.lower().rstrip(".") for name in names}
        self._names = {"localhost", *own, *(name.partition(".")[0] for name in own)} - {""}

    def is_ours(self, header: str, local: Address | None) -> bool:
        """
        Say whether a request may have this C{Host}.

        @param local: the address that the connection came in at; C{None}: a Unix socket.
        """
        if local is None or not local.is_loopback:
            return True
        host = host_of(header)
        if host is None:
            return False
        try:
            address = address_of(host)
        except ValueError:
            name = host.lower().rstrip(".")
            return name in self._names or name.endswith(".localhost")
        return address is not None and (address == local or address.is_loopback)


def host_of(header: str) -> str | None:
    """
    Return the host of a C{Host} header, without its port and brackets; C{None}: it is malformed.
    """
    if header.startswith("["):
        host, bracket, rest = header[1:].partition("]")
        if not bracket:
            return None
    else:
        host, colon, port = header.partition(":")
        rest = colon + port
    is_port = rest == "" or (rest[0] == ":" and (rest == ":" or rest[1:].isdecimal()))
    return host if host and is_port else None
