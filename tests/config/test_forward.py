"""
Configuration of listeners for the forward protocol, and the files with their secrets.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from gateway.config.changes import changes_of
from gateway.config.listener import Listener
from gateway.config.load import Config
from gateway.daemon.configuration import operator_warnings_of, read_config
from gateway.model.errors import ConfigError

CONFIG = """
[listeners.forward]
endpoint = "tcp:0"
{listener}
[routes.logs]
table = "logs"
format = "json"
{route}
columns = {{ a = "a" }}
[routes.others]
table = "others"
format = "json"
columns = {{ a = "a" }}
"""

FORWARD = 'dialect = "forward"\nroute = "logs"\n'


def write(folder: Path, listener: str, route: str = "dead_letter = true", **files: str) -> str:
    for name, content in files.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0o600)
    config = folder / "gateway.toml"
    config.write_text(CONFIG.format(listener=listener, route=route))
    config.chmod(0o600)
    return str(config)


def problems(path: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    return [problem.removeprefix(f"{path}: ") for problem in caught.value.problems]


def test_a_listener(tmp_path: Path) -> None:
    """The protocol alone is enough; its framing has its name."""
    config = read_config(write(tmp_path, FORWARD))
    assert config.listeners["forward"].framing_name == "forward"
    assert not config.listeners["forward"].asks_proof
    assert config.handshakes == {}


def test_what_the_document_shows(tmp_path: Path) -> None:
    """The configuration of docs/forward.md is accepted, with the keys of its handshake too."""
    text = (Path(__file__).parents[2] / "docs" / "forward.md").read_text()
    whole, keys = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for name, content in (("forward.key", "k"), ("forward.users", "ann:pa")):
        (tmp_path / name).write_text(content)
    config = tmp_path / "gateway.toml"
    # The second block begins with the header of the first one's section.
    header, _, keys = keys.partition("\n")
    assert header.startswith("[listeners.forward]")
    config.write_text(whole.replace('route = "logs"\n', f'route = "logs"\n{keys}', 1))
    read = read_config(str(config))
    assert read.listeners["forward"].remember_chunks == 86400.0
    assert read.handshakes["forward"].users == {"ann": b"pa"}


@pytest.mark.parametrize(
    ("listener", "route", "said"),
    [
        (FORWARD, "", r"routes\.logs\.dead_letter: has to be true: listeners\.forward cannot"),
        (
            'dialect = "forward"\nroute = "logs"\nroute_by = "@tag"\nroutes = { a = "others" }',
            "dead_letter = true",
            r"routes\.others\.dead_letter: has to be true",
        ),
        (
            'dialect = "forward"\nroute_by = "@tag"\nroutes = { a = "logs" }',
            "dead_letter = true",
            r"listeners\.forward\.route: is missing: forward cannot refuse",
        ),
        ('dialect = "forward"', "dead_letter = true", r"forward\.route: is missing: a forward"),
        (FORWARD + 'ack = "yes"', "dead_letter = true", r"forward\.ack: is what forward brings"),
        (
            FORWARD + 'framing = "line"',
            "dead_letter = true",
            r"forward\.framing: is what forward brings itself",
        ),
        (FORWARD + "auth = true", "dead_letter = true", r"forward\.auth: .* or names \(users_file"),
        (
            FORWARD + 'users_file = "users"',
            "dead_letter = true",
            r"forward\.users_file: needs shared_key_file too",
        ),
        (
            'route = "logs"\nshared_key_file = "key"',
            "",
            r"forward\.shared_key_file: is for a dialect that has chunks",
        ),
        (FORWARD + "max_chunk = 0", "dead_letter = true", r"forward\.max_chunk: "),
    ],
)
def test_what_does_not_fit(tmp_path: Path, listener: str, route: str, said: str) -> None:
    """Each mistake is told by one line, with the key and what to do."""
    (problem,) = problems(write(tmp_path, listener, route, key="k", users="a:b"))
    assert re.search(said, problem), problem


def test_without_msgpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is not installed, it is named."""
    monkeypatch.setitem(sys.modules, "msgpack", None)
    (problem,) = problems(write(tmp_path, FORWARD))
    assert problem.endswith("which is not installed: pip install 'txgateway[forward]'")


KEYS = FORWARD + 'shared_key_file = "key"\nusers_file = "users"\n'


def test_secrets_from_files(tmp_path: Path) -> None:
    """The key is without the space around it; of a user's line all behind the colon counts."""
    users = "# who\n\nann:one: two \r\nkäthe:größer\n"
    config = read_config(write(tmp_path, KEYS, key=" a key\n", users=users))
    secrets = config.handshakes["forward"]
    assert secrets.shared_key == b"a key"
    assert secrets.users == {"ann": b"one: two ", "käthe": "größer".encode()}
    assert config.listeners["forward"].asks_proof
    assert "a key" not in repr(config) and "two" not in repr(config)


@pytest.mark.parametrize(
    ("users", "fault"),
    [
        ("ann", "line 1: is not name:password"),
        ("ann:x\nben:", "line 2: is not name:password"),
        (":x", "line 1: the name '' is empty"),
        ("a\x01b:x", r"line 1: the name 'a\x01b' has a control character"),
        ("ann:x\nann:y", "line 2: 'ann' is there twice"),
        ("# nobody", "has no line name:password"),
        ("", "is empty"),
    ],
)
def test_a_file_of_users_that_will_not_do(tmp_path: Path, users: str, fault: str) -> None:
    """Each problem names the file and the line, and shows no password."""
    (problem,) = problems(write(tmp_path, KEYS, key="k", users=users))
    assert problem == f"listeners.forward.users_file: {tmp_path / 'users'}: {fault}"


def test_files_that_are_not_there(tmp_path: Path) -> None:
    """Both are told."""
    found = problems(write(tmp_path, KEYS))
    assert [line.partition(": ")[0] for line in found] == [
        "listeners.forward.shared_key_file",
        "listeners.forward.users_file",
    ]


def test_a_secret_in_place_of_a_file(tmp_path: Path) -> None:
    """A path that cannot be one is told once, and not shown."""
    path = write(tmp_path, FORWARD + 'shared_key_file = "password=hidden"')
    (problem,) = problems(path)
    assert "looks like" in problem and "hidden" not in problem


def test_files_that_others_may_read(tmp_path: Path) -> None:
    """A warning for each file that is open to group or others."""
    path = write(tmp_path, KEYS, key="k", users="a:b")
    config = read_config(path)
    assert operator_warnings_of(config, path) == []
    for name in ("key", "users"):
        (tmp_path / name).chmod(0o644)
    found = [line for line in operator_warnings_of(config, path) if "chmod 600" in line]
    assert [line.partition(": ")[0] for line in found] == [
        "listeners.forward.shared_key_file",
        "listeners.forward.users_file",
    ]


def test_a_reload_tells_of_other_secrets(tmp_path: Path) -> None:
    """Files with other content are one line, without it."""

    def read(**files: str) -> Config:
        return read_config(write(tmp_path, KEYS, **files))

    before = read(key="k", users="a:b")
    after = read(key="k", users="a:secret")
    changes = changes_of(before, after, before, has_spool=False)
    (line,) = changes.lines
    assert line.startswith("listener forward: shared key or users changed")
    assert "secret" not in line
    same = read(key="k ", users="a:secret\n")
    assert not changes_of(after, same, before, has_spool=False).lines


def test_other_listeners_have_none_of_it() -> None:
    """A token is asked for by listeners without a protocol of their own alone."""
    assert Listener(endpoint="tcp:0", auth=True).asks_token
    assert not Listener(endpoint="tcp:0", auth=True, dialect="forward").asks_token
