"""
Logs numbered events with the handler of C{python-logstash-async}, and waits until each is
acknowledged::

    python logstash_sender.py PORT PEER COUNT [CA]
"""

from __future__ import annotations

import logging
import sys
import time

from logstash_async.constants import constants
from logstash_async.formatter import LogstashFormatter
from logstash_async.handler import AsynchronousLogstashHandler

# How long it waits before it tries again is not what is tested.
constants.QUEUE_CHECK_INTERVAL = 0.1
constants.QUEUED_EVENTS_FLUSH_INTERVAL = 0.1


def main(port: str, peer: str, count: str, ca: str | None = None) -> None:
    handler = AsynchronousLogstashHandler(
        "127.0.0.1",
        int(port),
        database_path=None,
        transport="logstash_async.transport.BeatsTransport",
        ssl_enable=ca is not None,
        ssl_verify=True,
        ca_certs=ca,
    )
    handler.setFormatter(LogstashFormatter(extra_prefix="", extra={"peer": peer}))
    logger = logging.getLogger("sender")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    for number in range(int(count)):
        logger.info("käse, 奶酪 %d", number, extra={"n": number})
        if number % 50 == 49:
            time.sleep(0.05)
    worker = handler._worker_thread
    while worker._database is None or worker._queue.qsize() or worker._database._cache:
        time.sleep(0.05)
    sys.stdout.write("done\n")
    sys.stdout.flush()
    handler.close()


main(*sys.argv[1:])
