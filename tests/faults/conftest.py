"""
Fixtures for faults: servers that may be killed, proxies, configured gateways.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.load import Loader
from tests.faults.look import Start
from tests.faults.proxy import FaultProxy
from tests.support import Gateway, TemporaryServer

_CONFIG = """
[database]
dsn = "{dsn}"
{database}
[limits]
{limits}
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
{listener}
[listeners.netstrings]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "netstring"
route = "messages"
{listener}
[listeners.octets]
endpoint = "tcp:0:interface=127.0.0.1"
framing = "octet-counted"
route = "messages"
{listener}
[listeners.commands]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "command"
{more}
"""


@pytest.fixture(autouse=True)
def load_ends() -> Iterator[None]:
    """What a failed test left of its load is not the next test's."""
    yield
    for thread in threading.enumerate():
        if isinstance(thread, Loader):
            thread.finish()


@pytest.fixture
def own_server(tmp_path: Path, template: Path) -> Iterator[TemporaryServer]:
    """A server that may be killed."""
    server = TemporaryServer(tmp_path, template)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_configured(tmp_path: Path, start_gateway: Start) -> Start:
    """Starts gateways with listeners of every kind and some keys of the configuration set."""

    def start(
        dsn: str,
        database: str = "",
        limits: str = "",
        listener: str = "",
        more: str = "",
        wrapper: tuple[str, ...] = (),
    ) -> Gateway:
        config = tmp_path / "gateway.toml"
        config.write_text(
            _CONFIG.format(
                dsn=dsn.replace("'", ""),
                database=database,
                limits=limits,
                listener=listener,
                more=more,
            )
        )
        return start_gateway("--config", str(config), wrapper=wrapper)

    return start


@pytest.fixture
def start_proxy() -> Iterator[Callable[[str], FaultProxy]]:
    """Starts fault proxies and ends them."""
    running: list[FaultProxy] = []

    def start(to: str) -> FaultProxy:
        """To C{unix:PATH}, C{tcp:HOST:PORT}, or the server of a connection string."""
        kind = to.partition(":")[0]
        proxy = FaultProxy(to) if kind in ("unix", "tcp") else FaultProxy.before_database(to)
        running.append(proxy)
        return proxy

    yield start
    for proxy in running:
        proxy.end()
