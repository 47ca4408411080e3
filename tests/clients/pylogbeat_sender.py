"""
Sends numbered events with C{pylogbeat} until its input ends::

    python pylogbeat_sender.py PORT PEER WINDOW [CA]

A window that is not acknowledged is sent again, over a new connection. Prints how many events it
has an acknowledgement for after each window.
"""

from __future__ import annotations

import sys
import threading
import time

import pylogbeat


def note_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main(port: str, peer: str, window: str, ca: str | None = None) -> None:
    ended = threading.Event()
    threading.Thread(target=note_end, args=(ended,), daemon=True).start()
    acknowledged = 0
    while not ended.is_set():
        client = pylogbeat.PyLogBeatClient(
            "127.0.0.1", int(port), timeout=60, ssl_enable=ca is not None, ca_certs=ca
        )
        try:
            with client:
                while not ended.is_set():
                    numbers = range(acknowledged, acknowledged + int(window))
                    client.send([{"peer": peer, "n": n} for n in numbers])
                    acknowledged += len(numbers)
                    sys.stdout.write(f"{acknowledged}\n")
                    sys.stdout.flush()
        except (OSError, pylogbeat.ConnectionException):
            time.sleep(0.05)


main(*sys.argv[1:])
