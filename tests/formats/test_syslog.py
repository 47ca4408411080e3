"""
Syslog: what senders write comes out as fields, and what is at fault is named by its part.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import product
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.formats.fields import Format, Texts
from gateway.formats.syslog import FACILITIES, NAMES, SEVERITIES, SyslogFormat, fault_of

NOVEMBER = datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp()

Row = dict[str, str | None]


def at(moment: float) -> Callable[[], float]:
    return lambda: moment


def read(
    *frames: bytes,
    fields: tuple[str, ...] = NAMES,
    now: float = NOVEMBER,
    zone: tzinfo = UTC,
) -> list[Row]:
    """Frames without fault -> the fields that are not None."""
    reader: Format = SyslogFormat(fields, zone, at(now))
    found = reader.parse_frames(frames)
    assert found.faults == []
    columns = {name: cells.values for name, cells in found.cells.items()}
    return [
        {name: str(values[row]) for name, values in columns.items() if values[row] is not None}
        for row in range(len(frames))
    ]


def parts(frame: bytes, now: float = NOVEMBER, zone: tzinfo = UTC) -> Row:
    """The fields that are not taken from the priority."""
    derived = ("facility", "severity", "facility_name", "severity_name")
    return {
        name: value
        for name, value in read(frame, now=now, zone=zone)[0].items()
        if name not in derived
    }


def fault(frame: bytes) -> str:
    found = SyslogFormat(NAMES).parse_frames([frame])
    assert all(cells.values == [None] for cells in found.cells.values())
    [(row, outcome)] = found.faults
    assert row == 0
    return outcome.text


def modern(
    priority: str, timestamp: str, hostname: str, app_name: str, **others: str | None
) -> Row:
    row = {
        **{"priority": priority, "version": "1", "timestamp": timestamp},
        **{"hostname": hostname, "app_name": app_name, **others},
    }
    return {name: value for name, value in row.items() if value is not None}


EXAMPLE_SD = '{"exampleSDID@32473":{"iut":"3","eventSource":"Application","eventID":"1011"}'
EXAMPLE_TIME = "2003-10-11T22:14:15.003Z"


@pytest.mark.parametrize(
    ("frame", "row"),
    [
        (
            b"<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - "
            b"\xef\xbb\xbf'su root' failed for lonvick on /dev/pts/8",
            modern(
                *("34", EXAMPLE_TIME, "mymachine.example.com", "su"),
                msgid="ID47",
                message="'su root' failed for lonvick on /dev/pts/8",
            ),
        ),
        (
            b"<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - "
            b"%% It's time to make the do-nuts.",
            modern(
                *("165", "2003-08-24T05:14:15.000003-07:00", "192.0.2.1", "myproc"),
                procid="8710",
                message="%% It's time to make the do-nuts.",
            ),
        ),
        (
            b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
            b'[exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"] '
            b"\xef\xbb\xbfAn application event log entry...",
            modern(
                *("165", EXAMPLE_TIME, "mymachine.example.com", "evntslog"),
                msgid="ID47",
                structured_data=EXAMPLE_SD + "}",
                message="An application event log entry...",
            ),
        ),
        (
            b"<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
            b'[exampleSDID@32473 iut="3" eventSource="Application" eventID="1011"]'
            b'[examplePriority@32473 class="high"]',
            modern(
                *("165", EXAMPLE_TIME, "mymachine.example.com", "evntslog"),
                msgid="ID47",
                structured_data=EXAMPLE_SD + ',"examplePriority@32473":{"class":"high"}}',
            ),
        ),
    ],
)
def test_examples_of_rfc_5424(frame: bytes, row: Row) -> None:
    """The four messages of RFC 5424, section 6.5, are read as it explains them."""
    assert parts(frame) == row


@pytest.mark.parametrize(
    ("frame", "row"),
    [
        (
            b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8",
            {
                **{"priority": "34", "timestamp": "2026-10-11T22:14:15Z"},
                **{"hostname": "mymachine", "app_name": "su"},
                "message": "'su root' failed for lonvick on /dev/pts/8",
            },
        ),
        (b"Use the BFG!", {"priority": "13", "message": "Use the BFG!"}),
        (
            b"<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!",
            {
                **{"priority": "13", "timestamp": "2027-02-05T17:32:18Z"},
                **{"hostname": "10.0.0.99", "message": "Use the BFG!"},
            },
        ),
        (
            b"<165>Aug 24 05:34:00 CST 1987 mymachine myproc[10]: %% It's time to make the "
            b"do-nuts.  %%  Ingredients: Mix=OK, Jelly=OK # Devices: Mixer=OK, "
            b"Jelly_Injector=OK, Frier=OK # Transport: Conveyer1=OK, Conveyer2=OK # %%",
            {
                **{"priority": "165", "timestamp": "1987-08-24T05:34:00-06:00"},
                **{"hostname": "mymachine", "app_name": "myproc", "procid": "10"},
                "message": "%% It's time to make the do-nuts.  %%  Ingredients: Mix=OK, "
                "Jelly=OK # Devices: Mixer=OK, "
                "Jelly_Injector=OK, Frier=OK # Transport: Conveyer1=OK, Conveyer2=OK # %%",
            },
        ),
        (
            b"<0>1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: "
            b"That's All Folks!",
            {
                "priority": "0",
                "message": "1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 "
                "sched[0]: That's All Folks!",
            },
        ),
        (
            b"<0>Oct 22 10:52:12 scapegoat 1990 Oct 22 10:52:01 TZ-6 "
            b"scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!",
            {
                **{"priority": "0", "timestamp": "2026-10-22T10:52:12Z", "hostname": "scapegoat"},
                "message": "1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 "
                "sched[0]: That's All Folks!",
            },
        ),
    ],
)
def test_examples_of_rfc_3164(frame: bytes, row: Row) -> None:
    """The messages of RFC 3164, section 5.4, those that its relay writes among them."""
    assert parts(frame) == row


QUALITY = '"timeQuality":{"tzKnown":"1","isSynced":"0"}'
LOGGED = "2026-11-21T11:52:47.486295+00:00"


@pytest.mark.parametrize(
    ("frame", "row"),
    [
        (
            b"<13>1 2026-11-21T11:52:47.486295+00:00 vm root - - "
            b'[timeQuality tzKnown="1" isSynced="0"] hello',
            modern(
                *("13", LOGGED, "vm", "root"),
                structured_data=f"{{{QUALITY}}}",
                message="hello",
            ),
        ),
        (
            b"<13>1 - - root - - - hello",
            {"priority": "13", "version": "1", "app_name": "root", "message": "hello"},
        ),
        (
            b"<163>1 2026-11-21T11:52:47.486295+00:00 vm app 21712 ID47 "
            b'[timeQuality tzKnown="1" isSynced="0"] gr\xc3\xbc\xc3\x9fe "x" ]',
            modern(
                *("163", LOGGED, "vm", "app"),
                **{"procid": "21712", "msgid": "ID47", "message": 'grüße "x" ]'},
                structured_data=f"{{{QUALITY}}}",
            ),
        ),
        (
            b"<13>1 2026-11-21T11:52:47.486295+00:00 vm app - - [timeQuality tzKnown="
            b'"1" isSynced="0"][zoo@123 tiger="hungry" lion="a\\]b"] two',
            modern(
                *("13", LOGGED, "vm", "app"),
                structured_data=f'{{{QUALITY},"zoo@123":{{"tiger":"hungry","lion":"a]b"}}}}',
                message="two",
            ),
        ),
        (
            b"<13>Nov 21 11:52:47 vm root: hello",
            {
                **{"priority": "13", "timestamp": "2026-11-21T11:52:47Z", "hostname": "vm"},
                **{"app_name": "root", "message": "hello"},
            },
        ),
        (
            b"<20>Nov 21 11:52:47 vm app[21715]: hello there",
            {
                **{"priority": "20", "timestamp": "2026-11-21T11:52:47Z", "hostname": "vm"},
                **{"app_name": "app", "procid": "21715", "message": "hello there"},
            },
        ),
        (
            b"<13>Nov 21 11:52:47 vm postfix/smtpd[77]: x: y",
            {
                **{"priority": "13", "timestamp": "2026-11-21T11:52:47Z", "hostname": "vm"},
                **{"app_name": "postfix/smtpd", "procid": "77", "message": "x: y"},
            },
        ),
        (b"<12>py: from python\0", {"priority": "12", "message": "py: from python"}),
    ],
)
def test_what_logger_sends(frame: bytes, row: Row) -> None:
    """Frames as logger of util-linux 2.38 and Python's SysLogHandler sent them."""
    assert parts(frame) == row


@pytest.mark.parametrize("version", ["--rfc5424", "--rfc3164"])
def test_logger_itself(version: str) -> None:
    """What the logger of this machine sends now is read, with the year of now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(10)
        to = ["-n", "127.0.0.1", "-P", str(sink.getsockname()[1]), "-d"]
        said = ["-p", "mail.warn", "-t", "postfix/smtpd", "--id=77", 'it\'s: [so] "it" is']
        subprocess.run(["logger", *to, version, *said], check=True, timeout=10)
        frame = sink.recv(65536)
    [row] = read(frame, now=time.time())
    assert (row["facility_name"], row["severity_name"]) == ("mail", "warning")
    assert (row["app_name"], row["procid"]) == ("postfix/smtpd", "77")
    assert row["message"] == 'it\'s: [so] "it" is'
    moment = datetime.fromisoformat(str(row["timestamp"]))
    # The old format has no zone: it is the clock of the machine, taken for UTC.
    assert abs(moment - datetime.now(UTC)) < timedelta(hours=15)


RELAYED = "2026-11-21T11:52:52.683424+00:00"


@pytest.mark.parametrize(
    ("frame", "row"),
    [
        (
            b"<13>1 2026-11-21T11:52:52.683424+00:00 vm app 21807 - -  via socket\n",
            modern("13", RELAYED, "vm", "app", procid="21807", message=" via socket"),
        ),
        (
            b"<13>1 2026-11-21T11:52:52.683424+00:00 vm app - - "
            b'[timeQuality tzKnown="1" isSynced="0"][zoo@123 tiger="hungry"] via 5424\n',
            modern(
                *("13", RELAYED, "vm", "app"),
                structured_data=f'{{{QUALITY},"zoo@123":{{"tiger":"hungry"}}}}',
                message="via 5424",
            ),
        ),
        (
            b"<13>Nov 21 11:52:52 vm app[21807]: via socket",
            {
                **{"priority": "13", "timestamp": "2026-11-21T11:52:52Z", "hostname": "vm"},
                **{"app_name": "app", "procid": "21807", "message": "via socket"},
            },
        ),
        (
            b"<13>2026-11-21T11:52:52.683424+00:00 vm sshd: no pid",
            {
                **{"priority": "13", "timestamp": RELAYED, "hostname": "vm"},
                **{"app_name": "sshd", "message": "no pid"},
            },
        ),
        # This is how the traditional format writes a tag that came by RFC 5424.
        (
            b"<13>Nov 21 11:52:52 vm app via 5424",
            {
                **{"priority": "13", "timestamp": "2026-11-21T11:52:52Z", "hostname": "vm"},
                "message": "app via 5424",
            },
        ),
    ],
)
def test_what_rsyslog_forwards(frame: bytes, row: Row) -> None:
    """Frames of RSYSLOG_SyslogProtocol23Format, the traditional and the ISO forward format."""
    assert parts(frame) == row


@pytest.mark.parametrize(
    ("rest", "hostname", "app_name", "procid", "message"),
    [
        ("root: hello", None, "root", None, "hello"),
        ("root[12]: hello", None, "root", "12", "hello"),
        ("(sd-pam)[7]: hello", None, "(sd-pam)", "7", "hello"),
        ("host my_app-1.2/x[7a]: : b", "host", "my_app-1.2/x", "7a", ": b"),
        ("host app[12] no colon", "host", "app", "12", "no colon"),
        ("host app[12]:close", "host", "app", "12", "close"),
        ("host app[]: no pid", "host", "app", None, "no pid"),
        ("host app:", "host", "app", None, ""),
        ("host app:  two", "host", "app", None, " two"),
        ("host %ASA-6-302013: Built", "host", "%ASA-6-302013", None, "Built"),
        ("host http://x is a text", "host", None, None, "http://x is a text"),
        ("host last message repeated 2 times", "host", None, None, "last message repeated 2 times"),
        ("2001:db8:: app: x", "2001:db8::", "app", None, "x"),
        ("2001:db8::1 app: x", "2001:db8::1", "app", None, "x"),
        ("- app: x", None, "app", None, "x"),
        ("'quoted' text", None, None, None, "'quoted' text"),
        ("alone", None, None, None, "alone"),
        ("", None, None, None, ""),
        ("host grüße: x", "host", None, None, "grüße: x"),
    ],
)
def test_hostname_and_tag(
    rest: str, hostname: str | None, app_name: str | None, procid: str | None, message: str
) -> None:
    """A hostname may be missing, a tag too; what is neither for sure stays in the message."""
    names = ("timestamp", "hostname", "app_name", "procid", "message")
    expected = ("2026-11-21T10:00:00Z", hostname, app_name, procid, message)
    found = SyslogFormat(names, UTC, at(NOVEMBER)).parse_frames(
        [f"<13>Nov 21 10:00:00 {rest}".encode()]
    )
    assert [found.cells[name].values for name in names] == [[value] for value in expected]


@pytest.mark.parametrize(
    "text",
    [
        *("<13>hello", "<13>", "<13>Nov 31 10:00:00 host app: x", "<13>Feb 30 10:00:00 x"),
        *("<13>Nov 21 24:00:00 x", "<13>2026-02-29T10:00:00Z host x", "<13>Nov 21 10:00:00"[:-1]),
        *(
            "<13>12 monkeys",
            "<13>1",
            "<13>29: text",
            "<13>nov 21 10:00:00 x",
            "<13>Nov 00 10:00:00",
        ),
    ],
)
def test_message_without_timestamp(text: str) -> None:
    """Without a timestamp, or with one of no possible day, all behind the PRI is the message."""
    assert parts(text.encode()) == {"priority": "13", "message": text[4:]}


@pytest.mark.parametrize(
    "text", ["", "<", "<>x", "<192>x", "<00>x", "<013>Nov 21 10:00:00 x", "13>1 - - - - - -", "<1"]
)
def test_message_without_priority(text: str) -> None:
    """Without a PRI that is one everything is the message, and the priority user.notice."""
    assert read(text.encode()) == [
        {
            **{"priority": "13", "facility": "1", "severity": "5", "message": text},
            **{"facility_name": "user", "severity_name": "notice"},
        }
    ]


@pytest.mark.parametrize("day", ["Nov  1", "Nov 01", "Nov 1"])
def test_days_of_one_digit(day: str) -> None:
    """A day of one digit is padded with a blank, with 0 or not at all."""
    assert parts(f"<13>{day} 10:00:00 h a: x".encode())["timestamp"] == "2026-11-01T10:00:00Z"


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        # Cisco's ASA, IOS and NX-OS; the first is also Linksys', the last RFC 3164's own example.
        ("Oct 11 22:14:15 2026", "2026-10-11T22:14:15Z"),
        ("Oct 11 2024 22:14:15", "2024-10-11T22:14:15Z"),
        ("Oct 11 2024 22:14:15:", "2024-10-11T22:14:15Z"),
        ("Oct 11 22:14:15:", "2026-10-11T22:14:15Z"),
        ("Oct 11 22:14:15.123", "2026-10-11T22:14:15.123Z"),
        ("Oct 11 22:14:15.123 UTC:", "2026-10-11T22:14:15.123Z"),
        ("Oct 11 22:14:15 CEST", "2026-10-11T22:14:15+02:00"),
        ("Oct 11 2024 22:14:15 EDT:", "2024-10-11T22:14:15-04:00"),
        ("Oct 11 22:14:15 +0530", "2026-10-11T22:14:15+05:30"),
        ("Oct 11 22:14:15 -03:00", "2026-10-11T22:14:15-03:00"),
        ("Oct 11 22:14:15 2024 GMT", "2024-10-11T22:14:15Z"),
        ("Aug 24 05:34:00 CST 1987", "1987-08-24T05:34:00-06:00"),
        ("Feb 29 2024 22:14:15", "2024-02-29T22:14:15Z"),
    ],
)
def test_year_and_zone(time: str, expected: str) -> None:
    """A year, before or behind the time, and a zone belong to it, so that the host is the host."""
    for behind, hostname in (("host su[1]: x", "host"), ("su[1]: x", None)):
        row = parts(f"<13>{time} {behind}".encode())
        assert (row["timestamp"], row.get("hostname")) == (expected, hostname)
        assert (row["app_name"], row["procid"], row["message"]) == ("su", "1", "x")


@pytest.mark.parametrize(
    ("behind", "hostname", "message"),
    [
        ("1969 x", "1969", "x"),
        ("2100 x", "2100", "x"),
        ("20261 x", "20261", "x"),
        ("XYZ x", "XYZ", "x"),
        ("utc x", "utc", "x"),
        ("UTC2 x", "UTC2", "x"),
        ("UTC. x", "UTC.", "x"),
        ("UTC UTC x", "UTC", "x"),
        ("2026 2026 x", "2026", "x"),
        ("2025 UTC 2026 x", "2026", "x"),
        ("+2460 x", None, "+2460 x"),
        ("UTC", None, ""),
        ("UTC:", None, ""),
        ("2026", None, ""),
    ],
)
def test_what_is_no_year_and_no_zone(behind: str, hostname: str | None, message: str) -> None:
    """Any other word behind the time is the host, also one that only begins as a zone does."""
    row = parts(f"<13>Oct 11 22:14:15 {behind}".encode())
    assert (row.get("hostname"), row["message"]) == (hostname, message)
    assert str(row["timestamp"]).endswith("-10-11T22:14:15Z")


def test_no_such_day_in_the_year() -> None:
    """A leap day of a year that has none is no timestamp: all behind the PRI is the message."""
    assert parts(b"<13>Feb 29 2023 22:14:15 h a: x") == {
        **{"priority": "13", "message": "Feb 29 2023 22:14:15 h a: x"}
    }


BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("zone", "time", "expected"),
    [
        ("Asia/Tokyo", "Nov 21 10:00:00", "2026-11-21T10:00:00+09:00"),
        ("Europe/Berlin", "Nov 21 10:00:00", "2026-11-21T10:00:00+01:00"),
        ("Europe/Berlin", "Jul 21 2026 10:00:00.5", "2026-07-21T10:00:00.5+02:00"),
        # Forward at 2:00 on 29 March, back at 3:00 on 25 October.
        ("Europe/Berlin", "Mar 29 2026 01:59:59", "2026-03-29T01:59:59+01:00"),
        ("Europe/Berlin", "Mar 29 2026 02:30:00", "2026-03-29T02:30:00+01:00"),
        ("Europe/Berlin", "Mar 29 2026 03:00:00", "2026-03-29T03:00:00+02:00"),
        ("Europe/Berlin", "Oct 25 01:59:59", "2026-10-25T01:59:59+02:00"),
        ("Europe/Berlin", "Oct 25 02:30:00", "2026-10-25T02:30:00+01:00"),
        ("Europe/Berlin", "Oct 25 02:30:00 CEST", "2026-10-25T02:30:00+02:00"),
        # Forward at 0:00, and back at 24:00.
        ("Africa/Cairo", "Apr 24 2026 00:30:00", "2026-04-24T00:30:00+02:00"),
        ("Africa/Cairo", "Apr 24 2026 01:00:00", "2026-04-24T01:00:00+03:00"),
        ("Africa/Cairo", "Oct 29 2026 22:59:59", "2026-10-29T22:59:59+03:00"),
        ("Africa/Cairo", "Oct 29 2026 23:30:00", "2026-10-29T23:30:00+02:00"),
        # A zone's own names count more than what they mean elsewhere.
        ("Asia/Shanghai", "Nov 21 10:00:00 CST", "2026-11-21T10:00:00+08:00"),
        ("Asia/Kolkata", "Nov 21 10:00:00 IST", "2026-11-21T10:00:00+05:30"),
        ("Asia/Kolkata", "Nov 21 10:00:00 UTC", "2026-11-21T10:00:00Z"),
        ("America/Sao_Paulo", "Nov 21 10:00:00", "2026-11-21T10:00:00-03:00"),
        ("Africa/Monrovia", "Nov 21 1971 10:00:00", "1971-11-21T10:00:00-00:44:30"),
    ],
)
def test_zone(zone: str, time: str, expected: str) -> None:
    """A time without a zone is of the reader's, with the offset that it has on that day."""
    row = parts(f"<13>{time} host su: x".encode(), zone=ZoneInfo(zone))
    assert row["timestamp"] == expected
    assert (row["hostname"], row["app_name"]) == ("host", "su")


@given(st.datetimes(datetime(2026, 6, 1), datetime(2027, 5, 1)))
def test_zone_of_any_time(moment: datetime) -> None:
    """Each time has the offset of its own moment, on days on which the clocks change too."""
    frame = f"<13>{moment:%b} {moment.day:2} {moment:%H:%M:%S} h a: x".encode()
    [row] = read(frame, frame, fields=("timestamp",), zone=BERLIN)[1:]
    expected = min(
        moment.replace(tzinfo=BERLIN, fold=fold).isoformat("T", "seconds") for fold in (0, 1)
    )
    assert row["timestamp"] == expected


def test_today_is_that_of_the_zone() -> None:
    """The year follows the date where the sender is, not that of UTC."""
    new_year = datetime(2026, 12, 31, 20, tzinfo=UTC).timestamp()
    middle = b"<13>Jul  2 10:00:00 h a: x"
    assert parts(middle, new_year)["timestamp"] == "2026-07-02T10:00:00Z"
    assert parts(middle, new_year, ZoneInfo("Asia/Tokyo"))["timestamp"] == (
        "2027-07-02T10:00:00+09:00"
    )


def test_many_days_are_not_kept() -> None:
    """However many days senders write, few are remembered, and all are read."""
    days = [date(1971, 1, 1) + timedelta(days=n) for n in range(3000)]
    reader = SyslogFormat(["timestamp"], UTC, at(NOVEMBER))
    for day in days:
        frame = f"<13>{day:%b %d %Y} 10:00:00 h a: x".encode()
        assert reader.parse_frames([frame]).cells["timestamp"].values == [f"{day}T10:00:00Z"]
    assert len(reader._legacy._days) <= 1100


def test_timestamp_of_rfc_3339_in_an_old_message() -> None:
    """It may have nanoseconds there, and any zone."""
    frame = b"<34>2026-11-21T10:00:00.123456789+05:30 host tag: msg"
    assert parts(frame)["timestamp"] == "2026-11-21T10:00:00.123456789+05:30"


@pytest.mark.parametrize(
    ("now", "day", "expected"),
    [
        ("2026-12-31", "Jan  1", "2027-01-01"),
        ("2027-01-01", "Dec 31", "2026-12-31"),
        ("2026-06-30", "Jan  1", "2026-01-01"),
        ("2026-11-21", "Feb 29", "2028-02-29"),
        ("2026-01-21", "Feb 29", "2024-02-29"),
        ("1901-01-01", "Feb 29", "1904-02-29"),
        ("2100-02-28", "Feb 29", "2096-02-29"),
    ],
)
def test_year(now: str, day: str, expected: str) -> None:
    """The year is the one that brings the day nearest to today, across New Year both ways."""
    moment = datetime.fromisoformat(now).replace(hour=23, tzinfo=UTC).timestamp()
    frame = f"<13>{day} 23:59:59 h a: x".encode()
    assert parts(frame, now=moment)["timestamp"] == f"{expected}T23:59:59Z"


@given(st.dates(date(1950, 1, 1), date(2200, 1, 1)), st.integers(-170, 170))
def test_year_of_any_day(today: date, days: int) -> None:
    """Whatever is less than half a year away has its own year."""
    day = today + timedelta(days=days)
    if (day.month, day.day) == (2, 29):
        return  # there is none in most years; it has its own test
    moment = datetime(today.year, today.month, today.day, 5, tzinfo=UTC).timestamp()
    frame = f"<13>{day:%b} {day.day:2} 10:00:00 h a: x".encode()
    assert parts(frame, now=moment)["timestamp"] == f"{day}T10:00:00Z"


def test_the_year_follows_the_clock() -> None:
    """A format that lives over New Year gives each message the year of its own time."""
    now = [datetime(2026, 6, 1, tzinfo=UTC).timestamp()]
    reader = SyslogFormat(["timestamp"], UTC, lambda: now[0])
    frame = b"<13>Mar  1 00:00:00 h a: x"
    before = reader.parse_frames([frame])
    now[0] = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
    assert before.cells["timestamp"].values == ["2026-03-01T00:00:00Z"]
    assert reader.parse_frames([frame]).cells["timestamp"].values == ["2027-03-01T00:00:00Z"]


def test_priorities() -> None:
    """All 192 priorities give facility and severity, as numbers and by name."""
    assert (len(FACILITIES), len(SEVERITIES)) == (24, 8)
    rows = read(*[f"<{number}>x".encode() for number in range(192)])
    for number, (facility, severity) in enumerate(product(range(24), range(8))):
        assert rows[number] == {
            **{"priority": str(number), "message": "x"},
            **{"facility": str(facility), "facility_name": FACILITIES[facility]},
            **{"severity": str(severity), "severity_name": SEVERITIES[severity]},
        }
    assert (rows[0]["facility_name"], rows[191]["facility_name"]) == ("kern", "local7")
    assert (rows[0]["severity_name"], rows[191]["severity_name"]) == ("emerg", "debug")


HEAD = b"<13>1 2026-11-21T10:00:00Z host app - - "


def test_structured_data() -> None:
    """Escapes are undone, another backslash is one; a repeated parameter is a list."""
    data = rb'[a.b@1 x="\"\\\]" y="\n\\n" x.y="1"][c ip="1" ip="2" ip="3" [d="]"][e]'
    data = data.replace(b'="]"', rb'="\]"')
    fields = ("structured_data", "sd.a.b@1.x", "sd.a.b@1.y", "sd.c.ip", "sd.c.no", "sd.no.x")
    [row] = read(HEAD + data, fields=fields)
    assert msgspec.json.decode(str(row.pop("structured_data"))) == {
        "a.b@1": {"x": '"\\]', "y": "\\n\\n", "x.y": "1"},
        "c": {"ip": ["1", "2", "3"], "[d": "]"},
        "e": {},
    }
    assert row == {"sd.a.b@1.x": '"\\]', "sd.a.b@1.y": "\\n\\n", "sd.c.ip": "3"}


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (b"<192>1 - - - - - -", "PRI at byte 1: '192' is not 0 to 191"),
        (b"<013>1 - - - - - -", "PRI at byte 1: '013' starts with 0"),
        (b"<13>2 - - - - - -", "VERSION at byte 4: 2 is not known, only 1 is"),
        (b"<13>1 ", "TIMESTAMP at byte 6: '' is not of the form 2003-10-11T22:14:15.003Z"),
        (b"<13>1 x - - - - -", "TIMESTAMP at byte 6: 'x' is not of the form"),
        (b"<13>1 2026-02-29T10:00:00Z h", "TIMESTAMP at byte 6: there is no day 2026-02-29"),
        (b"<13>1 0000-01-01T10:00:00Z h", "TIMESTAMP at byte 6: there is no day 0000-01-01"),
        (b"<13>1 2026-11-21T24:00:00Z h", "TIMESTAMP at byte 17: there is no hour 24"),
        (b"<13>1 2026-11-21T10:60:00Z h", "TIMESTAMP at byte 20: there is no minute 60"),
        (b"<13>1 2026-11-21T23:59:60Z h", "TIMESTAMP at byte 23: there is no second 60"),
        (b"<13>1 2003-08-24T05:14:15.000000003-07:00 h", "TIMESTAMP at byte 26: 9 digits of"),
        (b"<13>1 2026-11-21T10:00:00 h", "TIMESTAMP at byte 25: the zone is missing"),
        (b"<13>1 2026-11-21T10:00:00+24:00 h", "TIMESTAMP at byte 25: there is no zone +24:00"),
        (b"<13>1 - ", "HOSTNAME at byte 8: it is empty, where there is none write -"),
        (b"<13>1 -  - - - -", "HOSTNAME at byte 8: it is empty"),
        (b"<13>1 - h\xc3\xbc - - - -", "HOSTNAME at byte 9: 'ü' is not printable ASCII"),
        (b"<13>1 - " + b"h" * 256 + b" - - - -", "HOSTNAME at byte 8: 256 characters, at most 255"),
        (b"<13>1 - h " + b"a" * 49 + b" - - -", "APP-NAME at byte 10: 49 characters, at most 48"),
        (b"<13>1 - - - " + b"1" * 129 + b" - -", "PROCID at byte 12: 129 characters, at most 128"),
        (b"<13>1 - - - - " + b"m" * 33 + b" -", "MSGID at byte 14: 33 characters, at most 32"),
        (b"<13>1 - - - - -", "MSGID at byte 15: the message ends here"),
        (b"<13>1 - - - - - ", "STRUCTURED-DATA at byte 16: the end where - or [ must be"),
        (b"<13>1 - - - - - x", "STRUCTURED-DATA at byte 16: 'x' where - or [ must be"),
        (b"<13>1 - - - - - -x", "STRUCTURED-DATA at byte 17: 'x' where a blank or the end must"),
        (b"<13>1 - - - - - [a]x", "STRUCTURED-DATA at byte 19: 'x' where a blank or the end"),
        (b"<13>1 - - - - - [a", "SD-ID at byte 18: the end where a blank or ] must be"),
        (b"<13>1 - - - - - []", "SD-ID at byte 17: ']' where a name must be"),
        (b"<13>1 - - - - - [a=b]", "SD-ID at byte 18: '=' where a blank or ] must be"),
        (b"<13>1 - - - - - [" + b"a" * 33 + b"]", "SD-ID at byte 17: 33 characters, at most 32"),
        (b"<13>1 - - - - - [a][a]", "SD-ID at byte 20: 'a' is there twice"),
        (b"<13>1 - - - - - [a ]", "PARAM-NAME at byte 19: ']' where a name must be"),
        (b"<13>1 - - - - - [a b]", "PARAM-NAME at byte 20: ']' where = must be"),
        (b"<13>1 - - - - - [a " + b"b" * 33 + b'="x"]', "PARAM-NAME at byte 19: 33 characters"),
        (b"<13>1 - - - - - [a b=c]", "PARAM-VALUE at byte 21: 'c' where \" must be"),
        (b'<13>1 - - - - - [a b="c', 'PARAM-VALUE at byte 21: the closing " is missing'),
        (b'<13>1 - - - - - [a b="c\\"]', "PARAM-VALUE at byte 25: ] must be written as \\]"),
        (b'<13>1 - - - - - [a b="\xc3\xbc]"]', "PARAM-VALUE at byte 24: ] must be written as \\]"),
        (b'<13>1 - - - - - [a b="c"x', "SD-ELEMENT at byte 24: 'x' where a blank or ] must be"),
    ],
)
def test_faults_name_part_and_place(frame: bytes, text: str) -> None:
    """What breaks RFC 5424 is refused with the part, its byte and what is wrong."""
    assert fault(frame).startswith(f"not RFC 5424: {text}")


def test_not_utf8() -> None:
    """A frame that is not UTF-8 is at fault, whichever kind it is of; others are not."""
    found = SyslogFormat(["message"]).parse_frames([b"<13>a", HEAD + b"- \xff", b"<13>b", b"\xe4"])
    assert found.cells["message"].values == ["a", None, "b", None]
    assert [(row, bytes(outcome)) for row, outcome in found.faults] == [
        (1, b"-REJ FORMAT :not UTF-8: invalid start byte at byte 42"),
        (3, b"-REJ FORMAT :not UTF-8: unexpected end of data at byte 0"),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\0", b"\n\0", b"\0\n"])
@pytest.mark.parametrize("start", [b"", b"<13>", b"<13>Nov 21 10:00:00 h a: ", HEAD + b"- "])
def test_trailing_lf_and_nul(start: bytes, end: bytes) -> None:
    """LF and NUL at the end are dropped, blanks and CR are not."""
    assert parts(start + b"a\nb \r" + end)["message"] == "a\nb \r"


@pytest.mark.parametrize(
    ("behind", "message"),
    [(b"", None), (b" ", ""), (b" \xef\xbb\xbf", ""), (b" \xef\xbb\xbf\xef\xbb\xbfx", "\ufeffx")],
)
def test_message_and_bom(behind: bytes, message: str | None) -> None:
    """A message that is not there is none, one that is empty is; one BOM is dropped."""
    assert parts(HEAD + b"-" + behind).get("message") == message


@pytest.mark.parametrize("field", [*NAMES, "sd.origin.ip", "sd.a.b@32473.1.x", "sd.[.\\"])
def test_fields_there_are(field: str) -> None:
    """Each of the names is a field, and so is every parameter of structured data."""
    assert fault_of(field) is None
    assert list(SyslogFormat([field]).parse_frames([b"x"]).cells) == [field]


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("host", "no field 'host' in syslog: there are priority, facility, "),
        ("", "no field ''"),
        ("sd", "no field 'sd'"),
        ("sd.", "field 'sd.' is not of the form sd.SD-ID.PARAM: SD-ID ''"),
        ("sd.x", "field 'sd.x' is not of the form sd.SD-ID.PARAM: SD-ID ''"),
        ("sd.x.", "field 'sd.x.' is not of the form sd.SD-ID.PARAM: PARAM ''"),
        ("sd.x.a b", "field 'sd.x.a b' is not of the form sd.SD-ID.PARAM: PARAM 'a b'"),
        (f"sd.{'x' * 33}.a", f"field 'sd.{'x' * 33}.a' is not of the form"),
    ],
)
def test_fields_there_are_not(field: str, text: str) -> None:
    """A field that no message can have is refused before there is any, and named."""
    assert str(fault_of(field)).startswith(text)
    with pytest.raises(ValueError) as caught:
        SyslogFormat(["message", field])
    assert str(caught.value) == fault_of(field)


def word(longest: int) -> st.SearchStrategy[str | None]:
    characters = st.characters(min_codepoint=33, max_codepoint=126)
    return st.none() | st.text(characters, min_size=1, max_size=longest).filter("-".__ne__)


any_text = st.text(st.characters(codec="utf-8"))
names = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='=]"'),
    min_size=1,
    max_size=32,
)
data = st.dictionaries(names, st.dictionaries(names, any_text, max_size=4), max_size=4)
zones = st.sampled_from(["Z", "+00:00", "-07:00", "+05:30", "+23:59"])
times = st.builds(
    lambda moment, zone: moment.isoformat() + zone, st.datetimes(timezones=st.none()), zones
)


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")


@given(
    st.integers(0, 191),
    st.none() | times,
    st.tuples(word(255), word(48), word(128), word(32)),
    st.none() | data,
    st.none() | any_text.filter(lambda text: not text.endswith(("\n", "\0"))),
    st.booleans(),
)
def test_round_trip(
    priority: int,
    timestamp: str | None,
    words: tuple[str | None, ...],
    data: dict[str, dict[str, str]] | None,
    message: str | None,
    bom: bool,
) -> None:
    """Every message that RFC 5424 allows is read as the parts that it was made of."""
    written = "".join(
        "[" + sd_id + "".join(f' {name}="{escaped(v)}"' for name, v in params.items()) + "]"
        for sd_id, params in (data or {}).items()
    )
    header = " ".join([part or "-" for part in (timestamp, *words, written)])
    frame = f"<{priority}>1 {header}"
    if message is not None:
        frame += " \ufeff" if bom or message.startswith("\ufeff") else " "
        frame += message
    values = {
        f"sd.{sd_id}.{name}": value
        for sd_id, params in (data or {}).items()
        for name, value in params.items()
        if "." not in name
    }
    found = SyslogFormat([*NAMES, *values]).parse_frames([frame.encode()])
    assert found.faults == []
    row = {name: cells.values[0] for name, cells in found.cells.items()}
    assert (row["priority"], row["version"]) == (str(priority), "1")
    assert row["timestamp"] == timestamp
    assert (row["hostname"], row["app_name"], row["procid"], row["msgid"]) == words
    assert row["message"] == message
    assert {field: row[field] for field in values} == values
    whole = row["structured_data"]
    assert (None if whole is None else msgspec.json.decode(str(whole))) == (data or None)


@given(st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32))
def test_exactly_the_days_there_are(year: int, month: int, day: int) -> None:
    """A date is read if and only if the calendar has it."""
    text = f"{year:04}-{month:02}-{day:02}"
    try:
        date.fromisoformat(text)
        exists = True
    except ValueError:
        exists = False
    found = SyslogFormat(["timestamp"]).parse_frames([f"<13>1 {text}T10:00:00Z - - - - -".encode()])
    assert found.faults == [] if exists else f"there is no day {text}" in found.faults[0][1].text


def test_middles() -> None:
    """Leap days of all years are those of the calendar."""
    frames = [f"<13>1 {year:04}-02-29T10:00:00Z - - - - -".encode() for year in range(10000)]
    bad = {row for row, _ in SyslogFormat(["timestamp"]).parse_frames(frames).faults}
    leap = {y for y in range(1, 10000) if y % 4 == 0 and (y % 100 or y % 400 == 0)}
    assert bad == set(range(10000)) - leap


pieces = st.sampled_from(
    [
        *(b"<13>", b"1 ", b"<34>1 ", b"-", b" ", b"- - - ", b"2026-11-21T10:00:00Z ", b"[", b"]"),
        *(b'a="b"', b'"', b"\\", b"=", b"Nov 21 10:00:00 ", b"host ", b"app[1]: ", b":", b"\n"),
        *(b"\0", b"\xef\xbb\xbf", b"\xff", b"[e@1", b"][e@1", b"2026-02-30T10:00:00Z ", HEAD),
    ]
)
anything = st.lists(pieces, max_size=20).map(b"".join) | st.binary(max_size=60)


@given(st.lists(anything, min_size=1, max_size=8))
def test_any_bytes(frames: list[bytes]) -> None:
    """No bytes raise; a frame is read the same alone and among others; faults have a place."""
    fields = [*NAMES, "sd.e@1.a"]
    reader = SyslogFormat(fields, UTC, at(NOVEMBER))
    together = reader.parse_frames(frames)
    rows = [row for row, _ in together.faults]
    assert rows == sorted(set(rows))
    faults = dict(together.faults)
    for row, frame in enumerate(frames):
        alone = SyslogFormat(fields, UTC, at(NOVEMBER)).parse_frames([frame])
        assert [outcome for _, outcome in alone.faults] == ([faults[row]] if row in faults else [])
        for field in fields:
            cells = together.cells[field]
            assert isinstance(cells, Texts) and len(cells.values) == len(frames)
            assert alone.cells[field].values == [cells.values[row]]
            assert row not in faults or cells.values[row] is None
        if row in faults:
            place = faults[row].text.partition(" at byte ")[2].partition(":")[0]
            assert 0 <= int(place) <= len(frame)
        else:
            assert together.cells["priority"].values[row] is not None


SIZE = 65536


@pytest.mark.parametrize(
    "frame",
    [
        *(HEAD + b"".join(b'[e%d a="b"]' % n for n in range(10000)) + end for end in (b"", b"[")),
        HEAD + b"".join(b'[e%d a="b"]' % n for n in range(10000)) + b"[e0]",
        *(HEAD + b"[e" + b' a="b"' * 10000 + end for end in (b"]", b"")),
        *(HEAD + b'[e a="' + value for value in (b"\\" * SIZE, b'\\"' * (SIZE // 2) + b'"]')),
        *(HEAD + b'[e a="' + value for value in (b"x" * SIZE, b"\\][" * (SIZE // 3) + b'"]')),
        *(HEAD + b"[" * SIZE, HEAD + b"[" + b"a" * SIZE, HEAD + b"[e" + b" a" * (SIZE // 2)),
        *(b"<13>1 " + b"- " * (SIZE // 2), b"<13>1 - " + b"x" * SIZE, b"<13>1 " + b" " * SIZE),
        *(b"<" * SIZE, b"<" + b"1" * SIZE + b">1 ", b"\0" * SIZE + b"x", b"\xff" * SIZE),
        b"<13>1 2026-11-21T11:52:47." + b"1" * SIZE,
        *(b"<13>Nov 21 10:00:00 " + rest for rest in (b"a" * SIZE, b":" * SIZE, b"a[" * SIZE)),
        *(b"<13>Nov 21 10:00:00 " + rest for rest in (b"2026" * SIZE, b"UTC" * SIZE, b"2026 UTC ")),
        b"<13>Nov 21 10:00:00." + b"1" * SIZE,
        *(b"<13>Nov 21 10:00:00 h " + rest for rest in (b"a: " * SIZE, b"a[" + b"1" * SIZE)),
    ],
)
def test_nothing_is_slow(frame: bytes) -> None:
    """The nastiest frame of 64 KiB takes milliseconds; anything but linear would take seconds."""
    reader = SyslogFormat([*NAMES, "sd.e.a"])
    took = []
    for _ in range(3):
        start = time.thread_time()
        reader.parse_frames([frame])
        took.append(time.thread_time() - start)
    assert min(took) < 0.3
