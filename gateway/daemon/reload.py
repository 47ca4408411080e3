"""
Reload: apply a new configuration to the running gateway, all of it or nothing.

Keys of admission, rights and rates are applied at once, and connections stay open. The other keys
wait for the next start, and the log says so. A file without C{[access]}, where there was one, may
be empty or cut off and would open everything: it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from gateway.config.listener import Listener
from gateway.config.load import Config
from gateway.model.errors import ConfigError

LIVE: Final = (
    *("allow", "deny", "trusted_proxies", "max_connections", "max_connections_per_address"),
    *("messages_per_second", "bytes_per_second", "burst", "tls"),
)
"""Keys of a listener that a reload takes over."""

GONE: Final = (
    "[access] is gone from the file: a reload does not take away what guards a running gateway;"
    " start it again if that is meant"
)

Part = Callable[[Config], None]
"""
Takes over its part of a configuration.

Raises L{ConfigError} before anything has changed, where it cannot.
"""


class ReloadOutcome(NamedTuple):
    """
    Outcome of a reload.

    @ivar taken: whether the new configuration is in force.
    @ivar lines: what waits for the next start, or every problem.
    """

    taken: bool
    lines: Sequence[str]


class Reload:
    """
    Callable that reads the configuration again and applies it.

    @ivar config: the configuration in force.
    """

    _log = Logger()

    def __init__(self, config: Config, read: Callable[[], Config], parts: Sequence[Part]) -> None:
        """
        @param config: configuration at the start of the gateway.
        @param read: reads the new one; raises L{ConfigError}.
        @param parts: called with the new one, in this order.
        """
        self._started = config
        self.config = config
        self._read = read
        self._parts = tuple(parts)

    def __call__(self) -> None:
        """Reload, for SIGHUP."""
        Deferred.fromCoroutine(self.apply()).addErrback(
            lambda failure: self._log.failure(
                "the reload failed", event="reload-failed", failure=failure
            )
        )

    async def apply(self) -> ReloadOutcome:
        """
        Read the configuration again and apply it.

        @return: the outcome, which is logged as well.
        """
        try:
            config = self._read()
            if self.config.access is not None and config.access is None:
                raise ConfigError([GONE])
        except ConfigError as error:
            return self._refuse(error)
        except Exception:  # noqa: BLE001 - whatever is in a file, it must not end the gateway
            self._log.failure(
                "not reloaded: the configuration could not be read", event="reload-unread"
            )
            self._log.error("the configuration from before stays in force", event="reload-refused")
            return ReloadOutcome(False, ["the configuration could not be read; see the log"])
        try:
            for part in self._parts:
                part(config)
        except ConfigError as error:
            return self._refuse(error)
        except Exception:  # noqa: BLE001 - a bug in one part must not go unsaid
            # Part of it may be in force, so a later reload must not drop its [access].
            self.config = config
            self._log.failure("the reload broke off", event="reload-broken-off")
            self._log.error(
                "the configuration from before stays in force, but for what was taken over until"
                " then; start the gateway again",
                event="reload-incomplete",
            )
            return ReloadOutcome(False, ["the reload broke off; see the log"])
        self.config = config
        waiting = changed_at_start(self._started, config)
        lines = ["configuration reloaded; connections live on"]
        if waiting:
            self._log.warn(
                "changed, but for the next start: {keys}",
                event="reload-at-next-start",
                keys=", ".join(waiting),
            )
            lines += [f"{key}: changed, but for the next start" for key in waiting]
        self._log.info("configuration reloaded; connections live on", event="reloaded")
        return ReloadOutcome(True, lines)

    def _refuse(self, error: ConfigError) -> ReloadOutcome:
        for problem in error.problems:
            self._log.error("not reloaded: {problem}", event="reload-problem", problem=problem)
        self._log.error("the configuration from before stays in force", event="reload-refused")
        return ReloadOutcome(False, error.problems)


def changed_at_start(old: Config, new: Config) -> list[str]:
    """
    Return the keys that differ and are only applied at the next start.
    """
    keys = [
        section
        for section in ("database", "limits", "spool", "channels", "routes", "queries")
        if getattr(old, section) != getattr(new, section)
    ]
    if old.http.endpoint != new.http.endpoint:
        keys.append("http.endpoint")
    if (old.http.tls is None) != (new.http.tls is None):
        keys.append("http.tls")
    for name in sorted({*old.listeners, *new.listeners}):
        before, after = old.listeners.get(name), new.listeners.get(name)
        if before is None or after is None:
            keys.append(f"listeners.{name}")
        else:
            keys += [
                f"listeners.{name}.{key}"
                for key in Listener.__struct_fields__
                if key not in LIVE and getattr(before, key) != getattr(after, key)
            ]
            if (before.tls is None) != (after.tls is None):
                keys.append(f"listeners.{name}.tls")
    return keys
