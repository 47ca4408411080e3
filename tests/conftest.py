"""
Fixtures: one embedded PostgreSQL for the whole run, and gateways as processes.

Everything is in memory where there is enough of it (L{tests.scratch}).
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.installing import Installer
from tests.ordering import long_first
from tests.scratch import in_memory
from tests.sending import Running, StartSend
from tests.support import PATIENCE, Database, Gateway, TemporaryServer

# Each of a thousand processes would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# How fast the machine is, and what else runs on it, is not what is tested.
settings.register_profile("gateway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("gateway")


def pytest_configure(config: pytest.Config) -> None:
    """Whoever names a folder with --basetemp gets that one."""
    if config.option.basetemp is None:
        scratch = in_memory()
        if scratch is not None:
            config.option.basetemp = str(scratch.folder)
            config.add_cleanup(scratch.remove)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """A whole run goes by six processes, since most of it is waiting; files and tests that
    are named are run here."""
    return 0 if any(Path(name.partition("::")[0]).is_file() for name in config.args) else 6


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A long test that came last would run alone."""
    processes = getattr(config, "workerinput", {}).get("workercount", 0)
    if processes:
        items[:] = long_first(items, lambda item: item.get_closest_marker("long"), processes)


def pytest_collection_finish() -> None:
    """Thousands of tests are there until the end: no collection has to look at them."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporaryServer]:
    """An embedded PostgreSQL that ends with the run."""
    server = TemporaryServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data of a server that was made and stopped."""
    made = TemporaryServer(tmp_path_factory.mktemp("template"))
    made.start()
    made.stop()
    return made.embedded.data


@pytest.fixture
def database(server: TemporaryServer) -> Iterator[Database]:
    """An empty database of its own."""
    with server.create_database() as database:
        yield database


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways as processes and ends them."""
    running: list[Gateway] = []

    def start(
        *arguments: str,
        cwd: Path | None = None,
        wrapper: tuple[str, ...] = (),
        until: str = "gateway ready",
    ) -> Gateway:
        gateway = Gateway(arguments, cwd or tmp_path, wrapper)
        running.append(gateway)
        gateway.wait_log(until)
        return gateway

    yield start
    for gateway in running:
        gateway.end()


@pytest.fixture
def start_send() -> Iterator[StartSend]:
    """Starts C{gateway send} as a process and ends it."""
    running: list[Running] = []

    def start(where: Gateway | str, *arguments: str) -> Running:
        running.append(Running(where, *arguments))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def start_with(
    database: Database, start_gateway: Callable[..., Gateway], tmp_path: Path
) -> Callable[..., Gateway]:
    """
    Starts a gateway on the test's database with sections of a configuration file.

    A batch that a busy machine stores late is answered C{+OK} all the same, and not C{+QUE}.
    """

    def start(sections: str, dsn: str | None = None) -> Gateway:
        config = tmp_path / "gateway.toml"
        config.write_text(
            f"[database]\ndsn = '''{dsn or database.dsn}'''\n"
            f"answer_timeout = {PATIENCE}\n{sections}"
        )
        return start_gateway("--config", str(config))

    return start


@pytest.fixture(scope="session")
def installer(request: pytest.FixtureRequest) -> Installer:
    """Programs and packages of others, installed where they are missing."""
    return Installer(request.config.cache.mkdir("others"))
