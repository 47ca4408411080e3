"""
TLS contexts of all listeners: all are read first, then replaced at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IReactorTime

from gateway.config.listener import TlsSection
from gateway.model.errors import ConfigError
from gateway.tls.certificate_watch import INTERVAL, CertificateWatch
from gateway.tls.contexts import Contexts
from gateway.tls.handshake import ListenerTls


def read_contexts(
    sections: Mapping[str, TlsSection | None], source: str | None, now: Callable[[], float]
) -> dict[str, Contexts]:
    """
    Build the contexts of all that has TLS.

    @param sections: name of a listener, or L{HTTP} -> its TLS; C{None}: it has none.
    @param source: the configuration file's name, for messages.
    @param now: seconds since 1970.
    @raise ConfigError: with every problem of the files.
    """
    problems: list[str] = []
    contexts = {}
    for name, section in sections.items():
        if section is not None:
            try:
                contexts[name] = Contexts(section, name, now)
            except ConfigError as error:
                problems += error.problems
    if problems:
        prefix = "" if source is None else f"{source}: "
        raise ConfigError([prefix + problem for problem in problems])
    return contexts


class TlsRegistry:
    """
    TLS of all listeners that have it, and the watch of their files.
    """

    def __init__(
        self, clock: IReactorTime, interval: float = INTERVAL, watches: bool = True
    ) -> None:
        """
        @param interval: seconds between two looks at the files.
        @param watches: whether files are looked at; else another process does, see L{renew}.
        """
        self._clock = clock
        self._watches = watches
        self._listeners: dict[str, ListenerTls] = {}
        self._watch = CertificateWatch(clock, interval, lambda: self._changed())
        self._changed: Callable[[], None] = lambda: None

    def replace_contexts(self, contexts: Mapping[str, Contexts]) -> None:
        """
        Use these contexts for new connections, and no others; open connections keep theirs.
        """
        for name in self._listeners.keys() - contexts.keys():
            del self._listeners[name]
        for name, listener_contexts in contexts.items():
            if name in self._listeners:
                self._listeners[name].contexts = listener_contexts
            else:
                self._listeners[name] = ListenerTls(listener_contexts, self._clock)
        self._watch.watch([listener_tls.contexts for listener_tls in self._listeners.values()])

    def renew(self, contexts: Mapping[str, Contexts]) -> None:
        """
        Use contexts whose changed files another process has read.
        """
        self.replace_contexts(contexts)
        self._changed()

    def on_change(self, call: Callable[[], None]) -> None:
        """
        Set the function to call when changed files have been read again.
        """
        self._changed = call

    def listener_tls(self, listener: str) -> ListenerTls | None:
        """
        Return the TLS of a listener, or of L{HTTP}; C{None}: it has none.
        """
        return self._listeners.get(listener)

    def expiries(self) -> list[tuple[str, str, str, float]]:
        """
        Return listener, kind, name and time of expiry of each certificate, authority and list in
        use; see L{Contexts.expiries}.
        """
        return [
            (listener, *expiry)
            for listener, listener_tls in self._listeners.items()
            for expiry in listener_tls.contexts.expiries()
        ]

    def start(self) -> None:
        """
        Start to watch the files, and warn of certificates that soon expire.
        """
        if self._watches:
            self._watch.start()

    def stop(self) -> None:
        self._watch.stop()
