"""
Paths of a configuration: relative to its file, or a credential that systemd hands over.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from pathlib import PurePath

import pytest

from gateway.access.grants import AccessSection
from gateway.access.tokens import issue
from gateway.config.paths import ConfigPaths
from gateway.config.reader import SectionReader
from gateway.model.errors import ConfigError

SERVICE = ConfigPaths(PurePath("/etc/gateway"), PurePath("/run/credentials/gateway.service"))


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("dsn", "/etc/gateway/dsn"),
        ("../dsn", "/etc/gateway/../dsn"),
        ("/run/dsn", "/run/dsn"),
        ("credential:dsn", "/run/credentials/gateway.service/dsn"),
        ("./credential:dsn", "/etc/gateway/credential:dsn"),
    ],
)
def test_where_a_path_leads(value: str, path: str) -> None:
    """To the configuration's folder, to the root, to systemd's credentials."""
    assert SERVICE.resolve_path(value) == path


@pytest.mark.parametrize("name", ["", ".", "..", "../shadow", "a/b", "/etc/shadow"])
def test_a_credential_is_one_file(name: str) -> None:
    """No name of a credential leads out of their folder."""
    with pytest.raises(ConfigError, match="is that of a file"):
        SERVICE.resolve_path(f"credential:{name}")


@pytest.mark.parametrize(
    "secret",
    [
        "postgresql://u:s3cret@h/db",
        "host=h password=s3cret",
        "host=h PASSWORD = 's3cret'",
        issue("s3cret", datetime.now(UTC), None)[1],
        "credential:postgresql://u:s3cret@h/db",
        "-----BEGIN PRIVATE KEY-----\ns3cret\n-----END PRIVATE KEY-----\n",
    ],
    ids=count(),
)
def test_a_secret_in_place_of_its_file(secret: str) -> None:
    """What should be in a file and is in the configuration is named, and never shown."""
    with pytest.raises(ConfigError) as caught:
        SERVICE.resolve_path(secret)
    (problem,) = caught.value.problems
    assert problem.startswith("names a file, and this ") and problem.isprintable()
    assert "s3cret" not in problem and secret not in problem
    reader = SectionReader("/etc/g.toml")
    section = AccessSection(tokens=secret)
    assert SERVICE.resolved(reader, "access", section, ["tokens"]) == section
    assert reader.problems == [f"/etc/g.toml: access.tokens: {problem}"]


def test_without_systemd() -> None:
    """One line says that there are no credentials, and which setting would give this one."""
    with pytest.raises(ConfigError) as caught:
        ConfigPaths(PurePath("/etc")).resolve_path("credential:dsn")
    assert caught.value.problems == (
        "'credential:dsn': $CREDENTIALS_DIRECTORY is not set: start the gateway as a service with"
        " LoadCredential=dsn:PATH",
    )
