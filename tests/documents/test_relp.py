"""
What docs/relp.md has users write is what the gateway and rsyslog take.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.installing import Installer
from tests.issuer import Issuer
from tests.support import PATIENCE, tool

PAGE = (Path(__file__).parents[2] / "docs" / "relp.md").read_text()


def blocks(kind: str) -> list[str]:
    found = re.findall(rf"^```{kind}\n(.*?)^```\n", PAGE, re.MULTILINE | re.DOTALL)
    assert len(found) == 2
    return found


def test_the_gateway_takes_its_configuration(tmp_path: Path) -> None:
    """The page's listener, with its TLS, has no problem."""
    issuer = Issuer(tmp_path)
    (tmp_path / "authority.pem").write_bytes(issuer.pem)
    (tmp_path / "gateway.pem").write_bytes(issuer.issue("localhost").file.read_bytes())
    config = tmp_path / "gateway.toml"
    config.write_text("".join(blocks("toml")))
    said = tool("check", str(config))
    assert "no problem in the file itself" in said.stdout, said


def test_rsyslog_takes_its_configuration(installer: Installer, tmp_path: Path) -> None:
    """The page's actions are valid for the real rsyslog."""
    issuer = Issuer(tmp_path)
    mine = issuer.issue("web1", common_names=["web1"])
    files = {
        "authority.pem": issuer.file,
        "web1.pem": mine.certificate_file,
        "web1.key": mine.key_file,
    }
    for block in blocks("rsyslog"):
        for name, file in files.items():
            block = block.replace(f"/etc/rsyslog/{name}", str(file))
        config = tmp_path / "rsyslog.conf"
        config.write_text(f'global(workDirectory="{tmp_path}")\n{block}')
        said = subprocess.run(
            [
                *(installer.program("rsyslogd"), "-N", "1", "-C", "-f", str(config)),
                *("-M", installer.plugins("omrelp")),
            ],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        lines = [line for line in said.stderr.splitlines() if "rsyslog.com/e/" in line]
        assert said.returncode == 0 and not lines, said.stderr
