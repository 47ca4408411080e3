"""
The way of a newcomer with the Debian package: from a bare Debian to C{+OK}, and off it again.

As root, on Debian, some minutes; the bare Debian is kept in a cache::

    python -m tests.debian_package                    # builds the package, then tries it
    python -m tests.debian_package --package FILE     # tries one that is there

It is installed by apt, started as the unit starts it (a chroot has no systemd), spoken to with the
README's lines, installed over itself, removed and purged; after each step what is there is held
against what docs/operations.md says.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.documents.test_readme import SESSIONS, anonymous

ROOT: Final = Path(__file__).parent.parent

NEEDED: Final = ("debhelper", "dh-virtualenv", "click-man", "mmdebstrap", "iproute2", "lintian")
"""Packages of Debian that build and try it."""

START: Final = (
    "cd /var/lib/gateway && exec setpriv --reuid=gateway --regid=gateway --clear-groups"
    " gateway-twistd --nodaemon --pidfile= gateway"
    " --config /etc/gateway/gateway.toml --data-dir /var/lib/gateway"
)

TRACES: Final = (
    r"find / -xdev \( -name '*gateway*' -o -name dropin.cache \) -not -path '/proc/*'"
    " -not -path '/tmp/*' -not -path '/var/lib/gateway/*' -print"
)

PATIENCE: Final = 120.0
"""Seconds for a gateway to become ready."""


def run(command: Sequence[str | Path], **options: object) -> str:
    """
    @return: what it printed.
    """
    done = subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        **options,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout}")
    return str(done.stdout)


def is_installed(package: str) -> bool:
    asked = subprocess.run(["dpkg", "-s", package], capture_output=True, check=False)
    return asked.returncode == 0


def build(folder: Path) -> Path:
    """
    Build the package from the files that git knows.

    @return: the package.
    """
    source = folder / "source"
    source.mkdir()
    listed = run(["git", "-C", ROOT, "ls-files", "-co", "--exclude-standard"]).splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name)
    run(["dpkg-buildpackage", "-us", "-uc", "-b"], cwd=source)
    (package,) = folder.glob("*.deb")
    return package


def bare_debian(cache: Path) -> Path:
    """
    @return: an archive of a Debian without anything.
    """
    archive = cache / "bookworm.tar"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        made = archive.with_suffix(".new.tar")
        run(["mmdebstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", made])
        made.rename(archive)
    return archive


class Debian:
    """
    A Debian in a folder, entered by chroot.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "etc/hosts").write_text("127.0.0.1 localhost\n")
        shutil.copy("/etc/resolv.conf", folder / "etc/resolv.conf")
        # Services are not started in a chroot.
        policy = folder / "usr/sbin/policy-rc.d"
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)

    def say(self, command: str) -> str:
        """
        @param command: of its shell.
        @return: what it printed.
        """
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive"}
        return run(["chroot", self._folder, "sh", "-c", command], env=environment).strip()

    def apt(self, arguments: str) -> str:
        return self.say(f"apt-get -qq -y --no-install-recommends {arguments}")

    def has(self, path: str) -> bool:
        return os.path.lexists(self._folder / path.lstrip("/"))

    def write(self, path: str, text: str) -> None:
        (self._folder / path.lstrip("/")).write_text(text)

    def converse(self) -> None:
        """
        Start the gateway with a network of its own, say the README's lines, and stop it.
        """
        lines = [f"{command}; echo; echo ----" for command, _ in SESSIONS]
        self.write("/tmp/lines.sh", "\n".join(lines))
        root, log_file = self._folder, self._folder / "tmp/log"
        script = (
            f'ip link set lo up; chroot {root} sh -c "{START}" > {log_file} 2>&1 & gateway=$!;'
            " trap 'kill $gateway; wait $gateway' EXIT;"
            f" for i in $(seq {int(PATIENCE * 5)}); do"
            f" grep -q 'gateway ready' {log_file} && break; sleep 0.2; done;"
            f" chroot {root} sh /tmp/lines.sh"
        )
        said = run(["unshare", "--net", "sh", "-c", script]).split("----\n")[:-1]
        log = log_file.read_text()
        for (command, shown), answered in zip(SESSIONS, said, strict=True):
            assert anonymous(answered) == anonymous(shown), f"{command}: {answered}\n{log}"
        assert "Server Shut Down" in log, log


def journey(debian: Debian, name: str) -> None:
    """
    Install, use, upgrade, remove and purge the package C{/tmp/name}.
    """
    before = set(debian.say(TRACES).splitlines())
    began = time.monotonic()

    def tell(step: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.1f} s  {step}\n")
        sys.stdout.flush()

    debian.apt("update")
    debian.apt(f"install /tmp/{name} netcat-openbsd")
    tell("installed")
    assert debian.say("gateway --version").startswith("gateway, version ")
    owned = debian.say("stat -c '%U:%G %a' /var/lib/gateway /etc/gateway")
    assert owned == "gateway:gateway 700\nroot:gateway 750", owned
    found = debian.say(
        "systemd-analyze verify --man=no /lib/systemd/system/gateway.service 2>&1 || true"
    )
    assert "gateway.service" not in found, found
    for command in ("gateway", "gateway-check", "gateway-token-add", "gateway-twistd"):
        # Debian's minimal images leave manual pages out when packages are unpacked.
        assert debian.say(f"dpkg -L txgateway | grep -c 'man1/{command}.1.gz'") == "1", command
    for path in (
        "/usr/share/bash-completion/completions/gateway",
        "/usr/share/zsh/vendor-completions/_gateway",
        "/usr/share/fish/vendor_completions.d/gateway.fish",
    ):
        assert debian.has(path), path
    debian.converse()
    tell("answered the README's lines")

    debian.write("/etc/gateway/mine.toml", "")
    debian.say("echo '# mine' >> /etc/gateway/gateway.toml")
    debian.apt(f"install --reinstall /tmp/{name}")
    assert debian.say("tail -n1 /etc/gateway/gateway.toml") == "# mine"
    debian.say("gateway check /etc/gateway/gateway.toml --data-dir /var/lib/gateway")
    tell("installed over itself, with the configuration as it was")

    debian.apt("remove txgateway")
    left = set(debian.say(TRACES).splitlines()) - before
    assert not debian.has("/usr/lib/txgateway") and not debian.has("/usr/bin/gateway"), left
    assert debian.has("/etc/gateway/gateway.toml") and debian.has("/var/lib/gateway/postgres")
    tell(f"removed; there are still {', '.join(sorted(left))}")

    said = debian.apt("purge txgateway")
    left = set(debian.say(TRACES).splitlines()) - before
    assert left == {"/etc/gateway", "/var/lib/gateway"}, left
    assert debian.has("/etc/gateway/mine.toml") and debian.has("/var/lib/gateway/postgres")
    assert not debian.has("/etc/gateway/gateway.toml")
    assert "to delete it: rm -r /var/lib/gateway" in said, said
    tell(f"purged; there are still {', '.join(sorted(left))}")

    debian.say("rm -r /var/lib/gateway /etc/gateway")
    debian.apt(f"install /tmp/{name}")
    debian.apt("purge txgateway")
    assert set(debian.say(TRACES).splitlines()) <= before
    tell("installed and purged without a message in between: nothing is left")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--package", type=Path, help="a .deb that was built before")
    parser.add_argument("--cache", type=Path, default=Path("/var/cache/gateway-tests"))
    given = parser.parse_args()
    if os.geteuid():
        sys.exit("only root may do that: it installs packages, and enters a chroot")
    missing = [name for name in NEEDED if not is_installed(name)]
    if missing:
        run(["apt-get", "-qq", "-y", "--no-install-recommends", "install", *missing])
    with tempfile.TemporaryDirectory(prefix="gateway-debian-") as folder:
        package = given.package or build(Path(folder))
        root = Path(folder) / "root"
        root.mkdir()
        run(["tar", "-C", root, "-xf", bare_debian(given.cache)])
        shutil.copy(package, root / "tmp" / package.name)
        run(["mount", "-t", "proc", "proc", root / "proc"])
        try:
            journey(Debian(root), package.name)
        finally:
            run(["umount", root / "proc"])
        found = run(["lintian", "--allow-root", "--fail-on=none", "--tag-display-limit=5", package])
        sys.stdout.write(found)
        assert "E: " not in found


if __name__ == "__main__":
    main()
