"""
What C{/readyz} says of a status.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from gateway.status.status import Status
from gateway.web.answer import Query
from gateway.web.readiness import readiness
from tests.status.samples import with_workers
from tests.web import made

AWAY = "the database cannot be reached: refused"


def ask(status: Status, **arguments: str) -> tuple[int, str]:
    query = Query("/readyz", {name: [value] for name, value in arguments.items()})
    answer = readiness(status, query)
    return answer.code, answer.body.decode()


def spooling() -> Status:
    return made.status(
        is_storing=False,
        reasons=[AWAY],
        pools=[made.pool(in_use=0, idle=0, trouble="refused")],
        spool=made.spool(state="keeping", messages=5, reason="the database is away"),
    )


def test_while_all_is_well() -> None:
    """It is ready in every way."""
    assert ask(made.status()) == (200, "ok\n")
    assert ask(made.status(), stored="") == (200, "ok\n")
    assert ask(made.status(), route="messages") == (200, "ok\n")


def test_while_spooling() -> None:
    """It is ready and says why it might not be; who asks for stored is told no."""
    assert ask(spooling()) == (200, f"ok\n{AWAY}\n")
    assert ask(spooling(), stored="") == (503, f"{AWAY}\n")
    assert ask(spooling(), stored="1", route="messages") == (503, f"{AWAY}\n")


@pytest.mark.parametrize("arguments", [{}, {"stored": ""}, {"route": "messages"}])
def test_while_neither_stored_nor_spooled(arguments: dict[str, str]) -> None:
    """It is not ready, for each reason in a line."""
    reasons = [AWAY, "there is no spool for what comes meanwhile"]
    status = made.status(is_storing=False, is_taking=False, reasons=reasons)
    assert ask(status, **arguments) == (503, "".join(f"{reason}\n" for reason in reasons))


def test_a_paused_route() -> None:
    """Who asks for it is told to stay away, unless the spool takes its messages."""
    paused = made.route("orders", state="paused", reason="paused by the operator")
    status = made.status(
        routes=[made.route("messages"), paused], reasons=["route orders is paused"]
    )
    assert ask(status, route="orders")[0] == 200
    assert ask(status, route="orders", stored="")[0] == 503
    assert ask(replace(status, spool=None), route="orders")[0] == 503
    refusing = replace(status, spool=made.spool(takes=False))
    assert ask(refusing, route="orders")[0] == 503
    assert ask(refusing, route="messages")[0] == 200 and ask(refusing)[0] == 200


def test_one_route() -> None:
    """A route out of service is named with 200; who asks for it gets 503, for another one 200
    without a word of it."""
    fault = "route orders is out of service: no table"
    status = made.status(
        routes=[
            made.route("messages"),
            made.route("orders", state="out of service", reason="no table"),
        ],
        reasons=[fault],
    )
    assert ask(status) == (200, f"ok\n{fault}\n")
    assert ask(status, route="orders") == (503, f"{fault}\n")
    assert ask(status, route="messages") == (200, "ok\n")
    assert ask(status, route="nope") == (404, "no such route; there is messages, orders\n")


def test_each_check() -> None:
    """Verbose lists what readiness depends on, and how each is."""
    code, body = ask(spooling(), verbose="")
    assert code == 200
    assert body.splitlines() == [
        "[+] gateway: ready",
        "[-] database: refused",
        "[+] spool: keeping, 5 messages wait: the database is away",
        "[+] route messages: in service",
        "ready",
    ]
    code, body = ask(spooling(), verbose="", stored="")
    assert (code, body.splitlines()[-1]) == (503, "not ready")
    draining: dict[str, Any] = {"state": "draining", "is_taking": False, "spool": None}
    code, body = ask(made.status(**draining), verbose="")
    assert code == 503 and "[-] gateway: draining\n" in body and "[+] spool: none\n" in body


def test_unknown_arguments() -> None:
    """A misspelt argument is no check that always succeeds."""
    assert ask(made.status(), store="") == (400, "unknown argument 'store'; there is stored\n")


def test_lines_stay_lines() -> None:
    """A reason with a line feed in it is one line."""
    assert ask(made.status(reasons=["a\nb"]))[1] == "ok\na\\nb\n"


def test_each_worker_is_a_check() -> None:
    """One that takes messages is enough; what each does is a line with verbose."""
    whole, _ = with_workers(2)
    away = replace(whole.workers[1], state="away", pid=None, is_taking=False)
    status = replace(whole, workers=[whole.workers[0], away], reasons=["worker 2: away"])
    assert ask(status) == (200, "ok\nworker 2: away\n")
    code, body = ask(status, verbose="")
    assert code == 200 and body.endswith("\nready\n")
    assert "[+] worker 1: ready\n[-] worker 2: away, takes nothing\n" in body
