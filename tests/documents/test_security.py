"""
docs/security.md: its configuration is accepted, and is what it says it is.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath

from gateway.config.load import Config, load_config
from gateway.daemon.configuration import endpoint_fault
from gateway.system.addresses import Networks

ROOT = Path(__file__).parents[2]

PAGE = (ROOT / "docs" / "security.md").read_text()

CREDENTIALS = PurePath("/run/credentials/gateway.service")


def hardened() -> Config:
    section = PAGE.partition("\n## A hardened configuration\n")[2].partition("\n## ")[0]
    (text,) = re.findall(r"(?s)```toml\n(.*?)```", section)
    return load_config(text, PurePath("/etc/gateway/gateway.toml"), endpoint_fault, CREDENTIALS)


def test_the_hardened_configuration() -> None:
    """It has no fault, no secret, and no listener that is open to those who proved nothing."""
    config = hardened()
    assert config.database.dsn_file == str(CREDENTIALS / "dsn")
    assert config.access is not None and config.access.tokens == "/etc/gateway/tokens"
    for name, listener in config.listeners.items():
        if listener.kind == "unix":
            assert listener.socket_mode == "0660" and listener.socket_owner
            continue
        assert listener.auth or (listener.tls and listener.tls.client_certificate == "required")
        assert listener.tls is not None and listener.tls.key == str(CREDENTIALS / "key"), name
        assert listener.first_frame_timeout and listener.idle_timeout
        assert listener.max_connections_per_address and listener.messages_per_second
        assert Networks(listener.allow)
    for grant in config.access.grants.values():
        assert grant.identities or grant.networks
        assert set(grant.listeners) <= set(config.listeners)
        assert set(grant.routes) <= set(config.routes)
        assert set(grant.queries) <= set(config.queries)
        assert set(grant.channels) <= set(config.channels.allow)


def test_what_it_leads_to() -> None:
    """Each section that it points to is there, and each file."""
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"(?m)^#+ (.*)$", PAGE)
    }
    for place in re.findall(r"\]\(#([^)]+)\)", PAGE):
        assert place in headings, place
    for path in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", PAGE):
        assert path.startswith("https://") or (ROOT / "docs" / path).exists(), path
