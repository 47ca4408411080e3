"""
Tokens: the file, and who is believed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from threading import Thread, get_ident
from typing import Any

import pytest
import pytest_twisted
from argon2 import PasswordHasher, Type
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from gateway.access import tokens as tokens_module
from gateway.access.authenticator import WAITING, WAITING_EACH, Authenticator, Proof, in_threads
from gateway.access.grants import AccessSection
from gateway.access.token_file import TokenFile, tokens_of
from gateway.access.tokens import MAX_TOKEN, Token, read_tokens
from gateway.model import wording
from gateway.model.errors import ConfigError

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)

_QUICK = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, type=Type.ID)
"""The least that argon2id can do: hundreds of secrets are looked at here."""


def issue(identity: str, lifetime: timedelta | None) -> tuple[Token, str]:
    """A token as the gateway makes it, but for what its hash takes."""
    token, said = tokens_module.issue(identity, NOW, lifetime)
    return replace(token, hash=_QUICK.hash(said.partition(".")[2])), said


TOKEN, SAID = issue("till-3", None)
OTHER, OTHER_SAID = issue("till-4", timedelta(days=1))


def tokens(*given: Token) -> dict[str, Token]:
    return {token.id: token for token in given}


class Held:
    """
    Does aside what the test lets it do.

    @ivar worked: how many secrets were looked at.
    """

    def __init__(self) -> None:
        self.worked = 0
        self.waiting: list[tuple[Callable[[], bool], Callable[[bool | Failure], None]]] = []

    def __call__(self, work: Callable[[], bool], done: Callable[[bool | Failure], None]) -> None:
        self.waiting.append((work, done))

    def work(self) -> None:
        while self.waiting:
            work, done = self.waiting.pop(0)
            self.worked += 1
            done(work())


class Desk:
    """
    An Authenticator, and what it said.
    """

    def __init__(self, *given: Token) -> None:
        self.now = NOW.timestamp()
        self.aside = Held()
        self.authenticator = Authenticator(
            tokens(*given or (TOKEN, OTHER)), self.aside, lambda: self.now
        )
        self.told: list[Proof] = []

    def say(self, said: str | bytes, work: bool = True, site: str = "here") -> Proof | None:
        before = len(self.told)
        data = said.encode() if isinstance(said, str) else said
        self.authenticator.verify(data, site, self.told.append)
        if work:
            self.aside.work()
        return self.told[-1] if len(self.told) > before else None


def test_a_token_proves_its_identity() -> None:
    """Who says one of them is who it was made for; several may be for one identity."""
    second, second_said = issue("till-3", None)
    desk = Desk(TOKEN, second, OTHER)
    assert [desk.say(each) for each in (SAID, second_said, OTHER_SAID)] == [TOKEN, second, OTHER]


@pytest.mark.parametrize(
    "said",
    [
        *("", ".", "x", SAID[:-1], f"{SAID}x", SAID.partition(".")[2], f" {SAID}", f"{SAID}\n"),
        *(SAID.swapcase(), f"{TOKEN.id}.", f"{TOKEN.id}.{OTHER_SAID.partition('.')[2]}"),
        *(f"nobody12.{SAID.partition('.')[2]}", TOKEN.hash, f"{TOKEN.id}.{TOKEN.hash}"),
        *(b"\xff\xfe", b"\0" * 50, f"{TOKEN.id}." + "x" * MAX_TOKEN),
    ],
    ids=count(),
)
def test_nothing_else_does(said: str | bytes) -> None:
    """Whatever is wrong with a token, the answer is the same."""
    desk = Desk()
    assert desk.say(said) == wording.WRONG_TOKEN
    assert desk.say(SAID) == TOKEN


def test_what_nobody_has_costs_nothing() -> None:
    """An unknown ID, and what is too long, are not hashed."""
    desk = Desk()
    for said in ("unknown12.secret", f"{TOKEN.id}." + "x" * MAX_TOKEN):
        assert desk.say(said, work=False) == wording.WRONG_TOKEN
    assert desk.aside.waiting == []


def test_tokens_expire() -> None:
    """By the wall clock; also those that were right before."""
    desk = Desk()
    assert desk.say(OTHER_SAID) == OTHER
    assert desk.authenticator.current(OTHER) == OTHER
    desk.now += 86400
    assert desk.say(OTHER_SAID) == wording.WRONG_TOKEN
    assert desk.authenticator.current(OTHER) is None
    assert desk.say(SAID) == TOKEN


def test_a_right_token_is_hashed_once() -> None:
    """Then it is remembered, and all others for its ID are wrong without any work."""
    desk = Desk()
    for _ in range(2):
        assert desk.say(f"{SAID}x", work=False) is None
        assert len(desk.aside.waiting) == 1
        desk.aside.work()
    desk.say(SAID)
    assert desk.say(SAID, work=False) == TOKEN
    assert desk.say(f"{SAID}x", work=False) == wording.WRONG_TOKEN
    assert desk.aside.waiting == []


def test_what_is_remembered_outlives_a_reload() -> None:
    """As long as the hash is the same, whatever else of its line has changed; not longer."""
    desk = Desk()
    desk.say(SAID)
    later = replace(TOKEN, expires=NOW + timedelta(days=9))
    desk.authenticator.replace_tokens(tokens(later, OTHER))
    assert desk.say(SAID, work=False) == later
    desk.authenticator.replace_tokens(tokens(replace(TOKEN, hash=OTHER.hash)))
    assert desk.say(SAID) == wording.WRONG_TOKEN
    desk.authenticator.replace_tokens(tokens(TOKEN))
    assert desk.say(SAID, work=False) is None, "it was another one in between"
    desk.aside.work()
    assert desk.told[-1] == TOKEN
    desk.authenticator.replace_tokens(None)
    desk.authenticator.replace_tokens(tokens(TOKEN))
    assert desk.say(SAID, work=False) is None
    desk.aside.work()


def test_who_knows_an_id_does_not_lock_its_owner_out() -> None:
    """However many wrong secrets come for it, the right one costs nothing once it was said."""
    desk = Desk()
    desk.say(SAID)
    desk.say(OTHER_SAID, work=False)
    for number in range(10 * WAITING):
        assert (
            desk.say(f"{TOKEN.id}.{number}", work=False, site=f"there {number}")
            == wording.WRONG_TOKEN
        )
    assert len(desk.aside.waiting) == 1, "the other one, which is looked at all the time"
    assert desk.say(SAID, work=False) == TOKEN


def test_nor_before_its_owner_has_come() -> None:
    """A full queue gives way to an address that was not wrong, and that one is next."""
    desk = Desk()
    others = [f"there {number}" for number in range(WAITING)]
    for site in others:
        assert desk.say(f"{TOKEN.id}.x{site}", site=site) == wording.WRONG_TOKEN
    for site in others:
        assert desk.say(f"{TOKEN.id}.{site}", work=False, site=site) is None
    before, worked = len(desk.told), desk.aside.worked
    assert desk.say(SAID, work=False) == wording.TOO_MANY_TOKENS, "that of another, who gave way"
    desk.aside.work()
    # One was being looked at; all others that wait are wrong without a look.
    assert desk.told[before:] == [wording.TOO_MANY_TOKENS, wording.WRONG_TOKEN, TOKEN] + [
        wording.WRONG_TOKEN
    ] * (WAITING - 2)
    assert desk.aside.worked == worked + 2


def test_an_address_gives_way_to_others() -> None:
    """Whoever has most of the places; each address has its turn."""
    many = [replace(TOKEN, id=f"id-{number:06}") for number in range(WAITING)]
    desk = Desk(*many, OTHER)
    secret = SAID.partition(".")[2]
    for token in many:
        assert desk.say(f"{token.id}.{secret}", work=False) is None
    assert desk.say(OTHER_SAID, work=False, site="there") == wording.TOO_MANY_TOKENS
    desk.aside.work()
    assert desk.told[:4] == [wording.TOO_MANY_TOKENS, many[0], many[1], OTHER]
    assert desk.told[4:] == many[2:-1]


def test_an_address_is_forgiven() -> None:
    """After a minute it has its turn as all others do."""
    desk = Desk()
    desk.say(f"{TOKEN.id}.x", site="there")
    for forgiven in (False, True):
        start = len(desk.told)
        # The first of all is looked at while the others wait.
        desk.say(f"{TOKEN.id}.{forgiven}", work=False, site="first")
        desk.say(f"{TOKEN.id}.there{forgiven}", work=False, site="there")
        desk.say(OTHER_SAID if not forgiven else SAID, work=False)
        desk.aside.work()
        expected = (
            [wording.WRONG_TOKEN, wording.WRONG_TOKEN, TOKEN]
            if forgiven
            else [wording.WRONG_TOKEN, OTHER, wording.WRONG_TOKEN]
        )
        assert desk.told[start:] == expected
        desk.now += 61


def test_one_hash_for_all_who_say_the_same() -> None:
    """A storm of peers with one token waits for it together."""
    desk = Desk()
    for _ in range(1000):
        desk.say(SAID, work=False)
    assert (desk.told, len(desk.aside.waiting)) == ([], 1)
    desk.aside.work()
    assert desk.told == [TOKEN] * 1000


def test_one_at_a_time() -> None:
    """The thread looks at one token after the other, in the order they came."""
    desk = Desk()
    for said in (SAID, OTHER_SAID):
        desk.say(said, work=False)
    assert len(desk.aside.waiting) == 1
    desk.aside.work()
    assert desk.told == [TOKEN, OTHER]


def test_the_queue_is_bounded() -> None:
    """Who comes when it is full is told to come later, and it empties again."""
    many = [replace(TOKEN, id=f"id-{number:06}") for number in range(WAITING + 5)]
    desk = Desk(*many)
    said = [desk.say(f"{token.id}.{SAID.partition('.')[2]}", work=False) for token in many]
    assert said == [None] * WAITING + [wording.TOO_MANY_TOKENS] * 5
    desk.aside.work()
    assert desk.told[5:] == many[:WAITING]
    assert desk.say(f"{many[-1].id}.{SAID.partition('.')[2]}") == many[-1]


def test_nobody_can_fill_the_queue_with_one_id() -> None:
    """Wrong secrets for one token leave room for the others'."""
    desk = Desk()
    said = [desk.say(f"{TOKEN.id}.{number}", work=False) for number in range(WAITING)]
    assert said == [None] * WAITING_EACH + [wording.TOO_MANY_TOKENS] * (WAITING - WAITING_EACH)
    assert desk.say(OTHER_SAID, work=False) is None
    desk.aside.work()
    assert desk.told[-1] == OTHER
    assert desk.say(SAID) == TOKEN


def test_a_token_revoked_while_it_is_looked_at_is_wrong() -> None:
    """What counts is the file as it is when the answer is given."""
    desk = Desk()
    desk.say(SAID, work=False)
    desk.say(OTHER_SAID, work=False)
    desk.authenticator.replace_tokens(tokens(replace(OTHER)))
    desk.aside.work()
    assert desk.told == [wording.WRONG_TOKEN, OTHER]
    assert desk.say(SAID, work=False) == wording.WRONG_TOKEN


def test_a_token_that_is_another_s_now_is_not_good() -> None:
    """Who proved an identity with a token that is now for another has proved nothing."""
    desk = Desk()
    assert desk.authenticator.current(TOKEN) == TOKEN
    desk.authenticator.replace_tokens(tokens(replace(TOKEN, identity="till-9")))
    assert desk.authenticator.current(TOKEN) is None
    assert desk.authenticator.current(replace(TOKEN, id="nobody12")) is None
    # The same ID with another secret, as somebody may write it into the file, is another token.
    desk.authenticator.replace_tokens(tokens(replace(TOKEN, hash=OTHER.hash)))
    assert desk.authenticator.current(TOKEN) is None


@pytest_twisted.ensureDeferred
async def test_hashing_is_not_the_reactor_s() -> None:
    """It is done in another thread, and told in the reactor's."""
    threads: list[int] = []
    aside = in_threads(reactor)

    def seen(work: Callable[[], bool], done: Callable[[bool | Failure], None]) -> None:
        def worked() -> bool:
            threads.append(get_ident())
            return work()

        aside(worked, done)

    authenticator = Authenticator(tokens(TOKEN), seen, lambda: NOW.timestamp())
    told: Deferred[tuple[Proof, int]] = Deferred()
    authenticator.verify(SAID.encode(), "here", lambda proof: told.callback((proof, get_ident())))
    assert await told == (TOKEN, get_ident())
    assert threads != [get_ident()] and len(threads) == 1


def test_a_failure_of_the_thread_is_told() -> None:
    """A bug leaves nobody waiting, and is not taken for a right token."""
    desk = Desk()
    desk.say(SAID, work=False)
    ((_, done),) = desk.aside.waiting
    done(Failure(MemoryError("no room")))
    (proof,) = desk.told
    assert bytes(proof).startswith(b"-BYE INTERNAL") if not isinstance(proof, Token) else False


IDENTITIES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(
    lambda text: text.isprintable() and not any(map(str.isspace, text)) and "*" not in text
)
MOMENTS = st.datetimes(datetime(1980, 1, 1), datetime(2200, 1, 1)).map(
    lambda moment: moment.replace(tzinfo=UTC, microsecond=0)
)
IDS = st.from_regex(r"[A-Za-z0-9_-]{8,64}", fullmatch=True)
TOKENS = st.builds(Token, IDS, IDENTITIES, MOMENTS, st.none() | MOMENTS, st.just(TOKEN.hash))


@given(st.lists(TOKENS, unique_by=lambda token: token.id, max_size=5), st.data())
def test_what_is_written_is_read(given: list[Token], data: st.DataObject) -> None:
    """Every token, with comments and empty lines between."""
    lines = [str(token) for token in given]
    for _ in range(data.draw(st.integers(0, 3))):
        lines.insert(data.draw(st.integers(0, len(lines))), data.draw(st.sampled_from(COMMENTS)))
    assert list(read_tokens("\n".join(lines), "f").values()) == given


COMMENTS = ["", "  ", "# a b c d e", "#"]


@given(
    st.text(max_size=200) | st.lists(st.sampled_from(str(TOKEN).split()), max_size=7).map(" ".join)
)
def test_whatever_is_in_the_file_is_read_or_named(text: str) -> None:
    """Never another error, and never a word of what stands there."""
    try:
        read_tokens(text, "f")
    except ConfigError as error:
        for problem in error.problems:
            assert problem.startswith("f:")
            assert TOKEN.hash not in problem and SAID not in problem


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{TOKEN.id} a", "has 2 words; a token has 5"),
        (SAID, "has 1 words"),
        (str(replace(TOKEN, id="short")), "the ID is 8 to 64"),
        (str(replace(TOKEN, identity="a*")), "the identity has an asterisk"),
        (str(replace(TOKEN, identity="x" * 256)), "the identity has 256 bytes"),
        (str(TOKEN).replace(" - ", " soon "), "EXPIRES is a time"),
        (str(TOKEN).replace(" - ", " 2026-01-31T12:00:00 "), "EXPIRES is a time"),
        (str(TOKEN).replace("2026-03-01T12:00:00Z", "-"), "CREATED is a time"),
        (str(replace(TOKEN, hash=SAID)), "the hash is not one of argon2id"),
        (str(replace(TOKEN, hash=TOKEN.hash.replace("2id", "2i"))), "is not one of argon2id"),
        (str(TOKEN), "an ID that is there already"),
    ],
    ids=count(),
)
def test_problems_name_the_line(line: str, said: str) -> None:
    """All of them at once, none with what stands there."""
    text = f"# comment\n{TOKEN}\n\n{line}\nx\n"
    with pytest.raises(ConfigError) as raised:
        read_tokens(text, "etc/tokens")
    first, second = raised.value.problems
    assert first.startswith("etc/tokens:4: ") and said in first
    assert second.startswith("etc/tokens:5: has 1 words")
    secret = SAID.partition(".")[2]
    assert TOKEN.hash not in str(raised.value) and secret not in str(raised.value)


@pytest.mark.parametrize("moment", ["0126-01-31T12:00:00Z", "0126-01-31T12:00:00+01:00"])
def test_a_moment_long_ago_is_written_as_it_is_read(moment: str) -> None:
    """Years before 1000 keep their four digits, whatever strftime(3) makes of them."""
    text = str(TOKEN).replace("2026-03-01T12:00:00Z", moment)
    (again,) = read_tokens("\n".join(map(str, read_tokens(text, "f").values())), "f").values()
    assert again.created == datetime.fromisoformat(moment)


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00"])
def test_a_moment_outside_of_time_is_none(moment: str) -> None:
    """What has no time in UTC is told with its line."""
    with pytest.raises(ConfigError, match="f:1: CREATED is a time such as"):
        read_tokens(str(TOKEN).replace("2026-03-01T12:00:00Z", moment), "f")


def test_a_hash_is_not_shown() -> None:
    """Not where a token is printed by a trace of a bug."""
    assert TOKEN.hash not in repr(TOKEN)


def test_the_hash_is_as_strong_as_owasp_asks_for() -> None:
    """argon2id with 19 MiB and two passes, and salt of its own."""
    (one, said), (other, _) = (tokens_module.issue("a", NOW, None) for _ in range(2))
    assert one.hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert one.hash.split("$")[4] != other.hash.split("$")[4]
    assert one.has_secret(said.partition(".")[2].encode()) and not one.has_secret(b"other")


# The file.


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o700, 0o620, 0o602])
def test_a_file_that_others_may_get_at_is_refused(tmp_path: Path, mode: int) -> None:
    """Reading and changing alike, with one line that says its mode and what to do."""
    path = tmp_path / "tokens"
    path.write_text(f"{TOKEN}\n")
    path.chmod(mode)
    for use in (TokenFile(path).read_text, lambda: TokenFile(path).change(str.upper)):
        with pytest.raises(ConfigError) as raised:
            use()
        (problem,) = raised.value.problems
        assert problem.startswith(f"{path}: has mode {mode:04o}")
        assert problem.endswith(f"run: chmod 600 {path}")
    assert path.read_text() == f"{TOKEN}\n"


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_change_keeps_mode_and_owner(tmp_path: Path, mode: int) -> None:
    """The file is another one with the same rights; a link to it stays a link."""
    path, link = tmp_path / "tokens", tmp_path / "link"
    path.write_text("a\n")
    path.chmod(mode)
    link.symlink_to("tokens")
    if os.geteuid() == 0:
        os.chown(path, 1234, 2345)
    before = path.stat()
    TokenFile(link).change(lambda text: text + "b\n")
    after = path.stat()
    assert path.read_text() == "a\nb\n" and link.is_symlink()
    assert before.st_ino != after.st_ino
    assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
    assert stat.S_IMODE(after.st_mode) == mode
    assert names(tmp_path) == ["link", "tokens"]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    """And leaves nothing behind."""
    path = tmp_path / "tokens"
    TokenFile(path).change(lambda text: text + "a\n", make=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def fails(text: str) -> Any:
        raise KeyError(text)

    def writes_what_cannot_be(text: str) -> str:
        return "\ud800"

    for edit in (fails, writes_what_cannot_be):
        with pytest.raises((KeyError, UnicodeEncodeError)):
            TokenFile(path).change(edit)
    assert path.read_text() == "a\n"
    assert names(tmp_path) == ["tokens"]


def appended(line: str, text: str) -> str:
    return text + line


def test_changes_at_once_do_not_undo_each_other(tmp_path: Path) -> None:
    """Each sees what the others have written."""
    path = tmp_path / "tokens"

    def add(number: int) -> None:
        for each in range(20):
            line = f"{number}-{each}\n"
            TokenFile(path).change(partial(appended, line), make=True)

    threads = [Thread(target=add, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.read_text().split()) == sorted(
        f"{a}-{b}" for a in range(4) for b in range(20)
    )


@pytest.mark.parametrize("what", ["missing", "folder", "no folder", "binary"])
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, what: str) -> None:
    """In one line."""
    path = tmp_path / "tokens"
    if what == "folder":
        path.mkdir(0o600)
    elif what == "binary":
        path.write_bytes(b"\xff")
        path.chmod(0o600)
    elif what == "no folder":
        path = tmp_path / "none" / "tokens"
    for use in (TokenFile(path).read_text, lambda: TokenFile(path).change(str.upper)):
        with pytest.raises(ConfigError) as raised:
            use()
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)


def test_an_empty_file_turns_nobody_away(tmp_path: Path) -> None:
    """A file that a broken write left without a byte is a fault, at a start and a reload: taken for
    what it says, it would lock everybody out. One with a comment alone is meant so."""
    path = tmp_path / "tokens"
    path.touch(0o600)
    with pytest.raises(ConfigError, match="is empty; who wants to let nobody in"):
        tokens_of(AccessSection(tokens=str(path)))
    path.write_text("# nobody\n")
    assert tokens_of(AccessSection(tokens=str(path))) == {}
