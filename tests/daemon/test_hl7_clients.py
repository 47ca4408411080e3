"""
Senders of HL7 v2 that nobody here wrote: C{mllp_send} and the asyncio client of PyPI's hl7.
"""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import hl7
from hl7.mllp import open_hl7_connection

from tests.faults.look import assert_quiet
from tests.forking import BIN
from tests.issuer import Issuer
from tests.support import PATIENCE, Database, Gateway, wait_until

Start = Callable[..., Gateway]

SECTIONS: Final = """
[listeners.hospital]
endpoint = "tcp:0:interface=127.0.0.1"
dialect = "mllp"
route = "admissions"
{listener}
[routes.admissions]
table = "admissions"
format = "hl7"
conflict = "ignore"
key = ["sender", "control_id"]
timezone = "Europe/Berlin"
create = true
[routes.admissions.columns]
control_id = "MSH-10"
sender = {{ field = "MSH-3", required = true }}
sent_at = "MSH-7"
patient = {{ field = "PID-3.1", required = true }}
name = "PID-5.1"
born = "PID-7"
weight = "OBX(2)-5"
ids = "PID-3(*).1"
message = "message"
frame = "@frame"
who = "@identity"
[routes.admissions.create_columns]
id = "bigserial primary key"
control_id = "text"
sender = "text"
sent_at = "timestamptz"
patient = "text not null"
name = "varchar(20)"
born = "date"
weight = "numeric"
ids = "text[]"
message = "text"
frame = "bytea"
who = "text"
"""

MOMENT: Final = datetime(2026, 11, 27, 19, 34, 47, tzinfo=UTC)


def message(control_id: str, name: str = "MASSIE", charset: str = "", **fields: str) -> str:
    """
    A message.

    @param fields: C{f9}, a field of MSH; C{patient} and C{weight}.
    """
    header = {3: "REG", 4: "NORTH", 5: "LAB", 6: "SOUTH", 7: "20261127203447", 9: "ADT^A04^ADT_A01"}
    header |= {10: control_id, 11: "P", 12: "2.5.1", 18: charset}
    header |= {int(key[1:]): value for key, value in fields.items() if key[1:].isdigit()}
    patient, weight = fields.get("patient", "191919"), fields.get("weight", "79.5")
    return "\r".join(
        [
            "|".join(["MSH", "^~\\&", *(header.get(n, "") for n in range(3, 19))]),
            f"PID|1||{patient}^^^GEN^MR~371-66^^^USSSA^SS||{name}^JAMES||19560129|M",
            "OBX|1|NM|8302-2^Body height^LN||1.80|m|||||F",
            f"OBX|2|NM|3141-9^Body weight^LN||{weight}|kg|||||F",
            "",
        ]
    )


def mllp_send(gateway: Gateway, file: Path, *options: str) -> list[list[str]]:
    """
    What C{mllp_send} sends of a file, and prints.

    @return: MSA of each answer, and ERR-3 and ERR-8 where there is an ERR.
    """
    program = BIN / "mllp_send"
    port = str(gateway.port("hospital"))
    done = subprocess.run(
        [program, "--port", port, "--file", str(file), *options, "127.0.0.1"],
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    found = []
    for block in done.stdout.split(b"\x1c\r\n")[:-1]:
        answer = hl7.parse(block.removeprefix(b"\x0b").decode())
        words = [str(answer.segment("MSA")(n)) for n in (1, 2)]
        if b"\rERR|" in block:
            words += [str(answer["ERR.F3.R1.C1"]), str(answer["ERR.F8"])]
        found.append(words)
    return found


def test_mllp_send(start_with: Start, database: Database, tmp_path: Path) -> None:
    """A file of blocks: each is answered by its own id, a refused one with the reason, alone."""
    gateway = start_with(SECTIONS.format(listener='[listeners.hospital.hl7]\nversions = ["2.5.1"]'))
    messages = [
        message("1"),
        message("2", weight="heavy"),
        message("3", f12="2.3.1"),
        message("4", name="x" * 21),
        message("5", patient=""),
        message("1"),
        message("6", f15="AL", f16="NE"),
    ]
    file = tmp_path / "messages"
    file.write_bytes(b"".join(b"\x0b" + text.encode() + b"\x1c\r" for text in messages))
    answers = mllp_send(gateway, file)
    assert [answer[:3] for answer in answers] == [
        ["AA", "1"],
        ["AE", "2", "102"],
        ["AR", "3", "203"],
        ["AE", "4", "102"],
        ["AE", "5", "102"],
        ["AA", "1"],
        ["CA", "6"],
    ]
    assert answers[1][3] == "column 'weight': 'heavy' is not a number"
    assert answers[2][3] == "version '2.3.1' (MSH-12) is not taken"
    assert database.column("SELECT control_id FROM admissions ORDER BY id") == ["1", "6"]
    assert database.execute("SELECT * FROM admissions WHERE control_id = '1'")[0][1:9] == (
        *(
            "1",
            "REG",
            MOMENT,
            "191919",
            "MASSIE",
            date(1956, 1, 29),
            Decimal("79.5"),
        ),
        ["191919", "371-66"],
    )
    assert_quiet(gateway)


def test_mllp_send_loose(start_with: Start, database: Database, tmp_path: Path) -> None:
    """A file that was edited by hand, with lines for segments and nothing around its messages."""
    gateway = start_with(SECTIONS.format(listener=""))
    file = tmp_path / "edited.hl7"
    file.write_text("\n".join([message("a"), message("b")]).replace("\r", "\n"))
    assert mllp_send(gateway, file, "--loose") == [["AA", "a"], ["AA", "b"]]
    assert database.column("SELECT control_id FROM admissions ORDER BY id") == ["a", "b"]


async def exchange(
    gateway: Gateway, messages: list[str], encoding: str = "utf-8", **options: Any
) -> list[tuple[str, str]]:
    """Send all of them by the asyncio client before any answer is read."""
    reader, writer = await open_hl7_connection(
        "127.0.0.1", gateway.port("hospital"), encoding=encoding, limit=1 << 22, **options
    )
    for text in messages:
        writer.writemessage(hl7.parse(text))
    await writer.drain()
    answers = [await asyncio.wait_for(reader.readmessage(), PATIENCE) for _ in messages]
    writer.close()
    await writer.wait_closed()
    return [(str(a.segment("MSA")(1)), str(a.segment("MSA")(2))) for a in answers]


def test_asyncio_client(start_with: Start, database: Database) -> None:
    """Any number of messages in flight over one connection, each answered in order."""
    gateway = start_with(SECTIONS.format(listener=""))
    messages = [message(f"id-{n}", weight="x" if n % 10 == 7 else "1") for n in range(300)]
    answers = asyncio.run(exchange(gateway, messages))
    assert answers == [("AE" if n % 10 == 7 else "AA", f"id-{n}") for n in range(300)]
    stored = database.column("SELECT control_id FROM admissions ORDER BY id")
    assert stored == [f"id-{n}" for n in range(300) if n % 10 != 7]
    # All of it again, as after a connection that was lost: nothing is there twice.
    assert asyncio.run(exchange(gateway, messages)) == answers
    assert database.column("SELECT control_id FROM admissions ORDER BY id") == stored
    assert_quiet(gateway)


def test_character_sets(start_with: Start, database: Database) -> None:
    """A message is stored and answered in the character set that it names."""
    gateway = start_with(
        SECTIONS.format(listener="").replace('format = "hl7"', 'format = "hl7"\ncharset = "8859/1"')
    )
    for control_id, charset, encoding in (
        ("größe-1", "8859/1", "latin-1"),
        ("größe-2", "UNICODE UTF-8", "utf-8"),
        ("größe-3", "", "latin-1"),
    ):
        text = message(control_id, "LÖW", charset)
        assert asyncio.run(exchange(gateway, [text], encoding)) == [("AA", control_id)]
        ((name, whole, frame),) = database.execute(
            "SELECT name, message, frame FROM admissions WHERE control_id = %s", control_id
        )
        assert (name, whole, bytes(frame)) == ("LÖW", text, text.encode(encoding))


def test_over_tls(start_with: Start, database: Database, tmp_path: Path) -> None:
    """TLS with certificates of both sides is as for other listeners."""
    issuer = Issuer(tmp_path)
    (tmp_path / "authority.pem").write_bytes(issuer.pem)
    ours, theirs = issuer.issue("localhost"), issuer.issue("station-7")
    keys = f'[listeners.hospital.tls]\ncertificate = "{ours.file}"\nclient_ca = "authority.pem"'
    gateway = start_with(SECTIONS.format(listener=keys))
    context = ssl.create_default_context(cafile=str(tmp_path / "authority.pem"))
    context.load_cert_chain(theirs.file)
    options: dict[str, Any] = {"ssl": context, "server_hostname": "localhost"}
    assert asyncio.run(exchange(gateway, [message("1")], **options)) == [("AA", "1")]
    assert database.column("SELECT who FROM admissions") == ["station-7"]


def test_no_hl7(start_with: Start, database: Database) -> None:
    """Who speaks something else is disconnected, and the log says why in one line."""
    gateway = start_with(SECTIONS.format(listener=""))
    for sent, said in (
        (b"GET / HTTP/1.1\r\n\r\n", "MLLP: b'G' where a message should begin with VT (0x0B)"),
        (b"\x0b<xml/>\x1c\r", "not HL7: it begins with b'<xml/>', not with MSH"),
        (b"\x0b" + message("1").encode() + b"\x1c\n", "MLLP: b'\\n' where CR should be behind FS"),
    ):
        peer = gateway.connect("hospital")
        peer.send(sent)
        assert peer.read_all() == b""
        wait_until(lambda said=said: said in gateway.log, "the log says why")
        (line,) = [line for line in gateway.log.splitlines() if said in line]
        assert "hospital" in line
    assert_quiet(gateway)
