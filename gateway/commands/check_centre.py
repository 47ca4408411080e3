"""
C{gateway check} of an edge: ask the centre, at each endpoint, whether it takes the routes.

Nothing is stored, and no stream is opened.
"""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from gateway.commands.check import CheckReport
from gateway.commit.attempt import retry_delay
from gateway.config.load import Config
from gateway.relay.link import LinkError
from gateway.relay.upstream import LOOP, Upstream


async def check_centre(config: Config, reactor: Any) -> CheckReport:
    """
    Connect as the edge does, to each endpoint, and ask for each route.
    """
    report = CheckReport()
    relay = config.relay
    assert relay is not None
    upstream = Upstream(relay, reactor, retry_delay, uuid4().hex, 1)
    for place, endpoint in enumerate(relay.endpoints):
        where = f"relay.endpoints[{place}]"
        try:
            link = await upstream.open(place)
        except LinkError as error:
            said = report.problems if str(error) == LOOP else report.unasked
            said.append(f"{where}: {endpoint}: {error}")
            continue
        try:
            report.notes.append(f"{where}: connected to the centre at {endpoint}")
            for route in config.routes:
                answer = await link.ask(b"HELP PUT " + route.encode())
                if not answer.kept:
                    report.problems.append(f"routes.{route}: {endpoint} refuses it: {answer}")
        except LinkError as error:
            report.unasked.append(f"{where}: {endpoint}: {error}")
        finally:
            link.close()
    return report
