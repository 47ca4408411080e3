"""
Faults of endpoint strings as people mistype them, and suggestions for what is probably meant.

Servers are C{tcp:PORT:interface=ADDRESS}, clients C{tcp:HOST:PORT}; each is written for the other,
as a URL, or as C{host:port}. A guess is suggested only where it has no fault itself.

Pure: the check that finds a string's fault is passed in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Final, NamedTuple

from gateway.system.endpoint_arguments import argument_fault, escaped, is_address

EndpointFault = Callable[[str], str | None]
"""An endpoint string -> what is wrong with it."""

_ENDPOINT_KINDS: Final = ("tcp", "tcp4", "tcp6", "unix", "ssl", "tls", "systemd", "haproxy")
_DATAGRAM_KINDS: Final = ("udp", "unixgram")
_ARGUMENT_NAMES: Final = (
    "interface",
    "backlog",
    "port",
    "mode",
    "host",
    "timeout",
    "address",
    "path",
)
"""Arguments that have names."""

_OTHER_KINDS: Final = ("fd", "stdio", "sctp", "pipe")
"""Kinds that are none here, and no names of hosts."""

_LOCAL_HOSTS: Final = ("", "localhost")
_ANY: Final = ("*", "0.0.0.0")

_SCHEME: Final = re.compile(r"(?P<kind>[a-z][a-z0-9+.-]*):/{2,}(?P<rest>.*)", re.I | re.S)
_PATH: Final = re.compile(
    r"(?:(?:unix|local)[:;,= ]?/{0,2}(?=/)|unix[;,= ]+|(?=\.{0,2}/))(?P<path>[^:]+)", re.I
)
_PLACE_PATTERN: Final = re.compile(
    r"(?:(?P<kind>[a-z]+[46]?)[:;,= ]+)?"
    r"(?:(?:host=)?(?P<host>\[[0-9a-f:.]+\]|[\w.*-]*[a-z.*_-][\w.*-]*|)[:; ])?"
    r"(?:port=)?(?P<port>[0-9]{1,9})(?:[:;, ]+(?:interface=)?(?P<interface>[\w.*\\:-]+))?/?",
    re.I | re.A,
)
_FUNCTION_CALL: Final = re.compile(r"\w+(\.\w+)*\(\) ")


class _HostAndPort(NamedTuple):
    """
    Host and port that an endpoint string seems to mean.
    """

    host: str
    port: str
    secure: bool

    def written(self, listening: bool) -> str:
        """Return it as an endpoint string."""
        host = self.host.strip("[]").replace("\\:", ":")
        if not listening:
            host = "127.0.0.1" if host in _LOCAL_HOSTS + _ANY else host
            return f"tcp:{escaped(host)}:{self.port}"
        if host in _ANY:
            return f"tcp:{self.port}"
        return f"tcp:{self.port}:interface={escaped('127.0.0.1' if host in _LOCAL_HOSTS else host)}"


def endpoint_hint(text: str, fault: EndpointFault, listening: bool) -> str:
    """
    Suggest the endpoint string that a faulty one probably means.

    @param listening: whether it is a server's.
    @return: in words that are appended to the fault; C{""} where there is no guess.
    """
    for guess, secure in _guesses(text.strip(), listening):
        if guess != text and fault(guess) is None:
            # Never a certificate in the string: listeners and commands have keys for that.
            tls = " with [listeners.NAME.tls]" if listening else " with --tls"
            return f'; did you mean "{guess}"{tls if secure else ""}?'
    return ""


def text_fault(text: str, listening: bool) -> str | None:
    """
    Say what is wrong with an endpoint string that Twisted would find out too late, or not at all.
    """
    if "\0" in text:
        return "no address has a NUL"
    kind, _, rest = text.removeprefix("haproxy:").partition(":")
    if kind in ("tcp", "tcp4", "tcp6", "ssl", "tls") and rest.startswith("//"):
        return "it is no URL"
    if kind == "unix" and (not rest.partition(":")[0].removeprefix("path=")) and not listening:
        return "it names no file for its Unix socket"
    return argument_fault(text, listening)


def error_words(error: Exception) -> str:
    """
    Return Twisted's words for what is wrong with a string, without Python's.
    """
    # Twisted's error for a folder that cannot be listed wraps the OSError.
    original = getattr(error, "originalException", None)
    error = original if isinstance(original, OSError) else error
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, RuntimeError):
        return "it ends with a backslash"  # where Twisted's generator runs out of text
    if isinstance(error, LookupError | AttributeError):
        return "what it names is not there"
    if error.args and isinstance(error.args[0], list):
        # OpenSSL's: (library, function, reason), each call's after that of those it made.
        reasons = [str(entry[-1]) for entry in error.args[0] if isinstance(entry, tuple) and entry]
        reason = reasons[-1] if reasons else "no reason given"
        return f"its certificate or key cannot be read: {reason}"
    if isinstance(error, TypeError):
        if match := re.search(r"unexpected keyword argument '(.*)'", text):
            return f"it takes no {match[1]}="
        if match := re.search(r"missing \d+ required .*: (.*)", text):
            return f"it has no {match[1].replace(chr(39), '')}"
        if "positional argument" in text or "multiple values" in text:
            return "it has too many parts; a colon within one is \\:"
        return _FUNCTION_CALL.sub("", text)
    if match := re.search(r"invalid literal for int\(\) .*: (.*)", text):
        return f"{match[1]} is no number" if match[1] != "''" else "a number is missing"
    if match := re.fullmatch(r"Unknown endpoint type: (.*)", text):
        return f"there is no kind {match[1]} of endpoints"
    return text


def _guesses(text: str, listening: bool) -> list[tuple[str, bool]]:
    """
    Return endpoint strings, the likelier first, each with whether TLS is meant.
    """
    guesses: list[tuple[str, bool]] = []
    kind, colon, rest = text.partition(":")
    kinds = _ENDPOINT_KINDS + (_DATAGRAM_KINDS if listening else ())
    if colon and kind.lower() in kinds:
        guesses.append((f"{kind.lower()}:{rest}", False))
        guesses += [(f"{kind.lower()}:{named}", False) for named in _corrected_names(rest)]
    elif colon and not rest.startswith("//"):
        near = difflib.get_close_matches(kind.lower(), kinds, 1)
        guesses += [(f"{each}:{rest}", False) for each in near]
    url = _SCHEME.fullmatch(text)
    path = _PATH.fullmatch(text)
    if url is not None and url["kind"].lower() in ("unix", "file", "local"):
        guesses.append((f"unix:/{url['rest'].lstrip('/')}", False))
    elif path is not None:
        guesses.append((f"unix:{path['path']}", False))
    else:
        secure = kind.lower() in ("https", "tls", "ssl", "wss")
        place = _place(url["rest"].rstrip("/") if url is not None else text)
        if place is not None:
            place = place._replace(secure=place.secure or secure)
            written = place.written(listening)
            if listening and kind.lower() == "udp":
                written = written.replace("tcp:", "udp:", 1)
            guesses.append((written, place.secure))
    return guesses


def _place(text: str) -> _HostAndPort | None:
    address = text.partition("/")[0]
    if is_address(address.strip("[]")):
        return None  # an address without a port
    bare = _of_bare_address(address)
    if bare is not None:
        return bare
    match = _PLACE_PATTERN.fullmatch(address)
    if match is None:
        return None
    kind, host = match["kind"] or "", match["host"] or ""
    interface = match["interface"] or ""
    if kind.lower() not in (*_ENDPOINT_KINDS, "udp"):
        # Without one, what stands before the port is a host: "localhost:8002".
        if (
            (kind and host)
            or kind.lower() in _OTHER_KINDS
            or (interface and not is_address(interface))
        ):
            return None
        host = host or kind
    return _HostAndPort(host or interface, match["port"], kind.lower() in ("ssl", "tls"))


def _of_bare_address(text: str) -> _HostAndPort | None:
    """Parse an IPv6 address without escapes: C{tcp:8000:interface=::1}, C{tcp:::1:8000}."""
    _, _, rest = text.partition(":")
    port, _, address = rest.partition(":interface=")
    if port.isdecimal() and is_address(address):
        return _HostAndPort(address, port, False)
    address, _, port = rest.rpartition(":")
    if port.isdecimal() and is_address(address):
        return _HostAndPort(address, port, False)
    return None


def _corrected_names(rest: str) -> list[str]:
    """
    Replace each mistyped argument name by the nearest one that exists.
    """
    parts = rest.split(":")
    for number, part in enumerate(parts):
        name, equals, value = part.partition("=")
        if equals and name not in _ARGUMENT_NAMES:
            near = difflib.get_close_matches(name.lower(), _ARGUMENT_NAMES, 1)
            parts[number] = f"{near[0]}={value}" if near else part
    return [":".join(parts)]
