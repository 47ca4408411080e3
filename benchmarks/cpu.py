"""
What a message costs the gateway's process, this tree beside others::

    python -m benchmarks.cpu                  # this tree alone, about a minute
    python -m benchmarks.cpu --beside ../old  # in turns with another checkout

CPU seconds of the gateway for a million messages, with one peer that waits for each answer,
with 64 such peers, and with sixteen that have a thousand under way. CPU seconds hardly depend
on what else the machine does, so two trees can be told apart by a few percent.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parent.parent

LINE = b"x" * 100 + b"\n"

KINDS = {"1 x 1": (1, 1, 4_000), "64 x 1": (64, 1, 40_000), "16 x 1000": (16, 1000, 800_000)}
"""Name -> connections, messages under way of each, messages in all."""

CONFIG = """
[database]
dsn = '''{dsn}'''
[listeners.lines]
endpoint = "tcp:0:interface=127.0.0.1"
route = "messages"
window = 1000
"""


def send(port: int, connections: int, window: int, count: int, line: bytes = LINE) -> None:
    """
    Send so many messages in all, and wait for their answers.

    @param line: each of them, with its line feed; or several lines, which count as one.
    """
    share = count // connections
    peers = [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)]
    if window > 1:
        threads = [threading.Thread(target=_pour, args=(peer, share, line)) for peer in peers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        _ask(peers, share, line)
    for peer in peers:
        peer.close()


def _pour(peer: socket.socket, count: int, line: bytes) -> None:
    sender = threading.Thread(target=lambda: peer.sendall(line * count))
    sender.start()
    answered, wanted = 0, count * line.count(b"\n")
    while answered < wanted:
        answered += peer.recv(1 << 18).count(b"\n")
    sender.join()


def _ask(peers: list[socket.socket], count: int, line: bytes) -> None:
    left = {peer.fileno(): count for peer in peers}
    by_number = {peer.fileno(): peer for peer in peers}
    waiting = select.epoll()
    for peer in peers:
        waiting.register(peer, select.EPOLLIN)
        peer.sendall(line)
    while left:
        for number, _ in waiting.poll():
            peer = by_number[number]
            if not peer.recv(64):
                raise RuntimeError("the gateway closed a connection")
            left[number] -= 1
            if left[number]:
                peer.sendall(line)
            else:
                del left[number]


def measure() -> dict[str, float]:
    """
    @return: for each kind, the gateway's CPU seconds for a million messages.
    """
    from tests.support import Database, Gateway, TemporaryServer

    found = {}
    with tempfile.TemporaryDirectory(prefix="gateway-cpu-") as name:
        folder = Path(name)
        server = TemporaryServer(folder)
        server.start()
        config = folder / "gateway.toml"
        config.write_text(CONFIG.format(dsn=Database(server.embedded.dsn).dsn))
        # As an operator starts it, not forked as for tests.
        gateway = Gateway(("--config", str(config)), folder, wrapper=("env",))
        try:
            gateway.wait_ready()
            port = gateway.port("lines")
            process = psutil.Process(gateway.process.pid)
            for kind, (connections, window, count) in KINDS.items():
                send(port, connections, window, count // 10)
                before = process.cpu_times()
                send(port, connections, window, count)
                after = process.cpu_times()
                used = after.user + after.system - before.user - before.system
                found[kind] = used / count * 1e6
        finally:
            gateway.end()
            server.stop()
    return found


def of_tree(tree: Path) -> dict[str, float]:
    """
    The same of another checkout, by this file.
    """
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, __file__, "--once"]
    out = subprocess.run(command, env=environment, cwd=tree, check=True, stdout=subprocess.PIPE)
    result: dict[str, float] = json.loads(out.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu")
    parser.add_argument("--beside", type=Path, action="append", default=[], metavar="CHECKOUT")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.once:
        print(json.dumps(measure()))
        return
    trees = [ROOT, *(tree.resolve() for tree in options.beside)]
    figures: dict[Path, list[dict[str, Any]]] = {tree: [] for tree in trees}
    for number in range(options.rounds):
        for tree in trees:
            begun = time.monotonic()
            figures[tree].append(of_tree(tree))
            shown = ", ".join(f"{kind}: {value:.4g}" for kind, value in figures[tree][-1].items())
            print(f"round {number + 1}, {tree}: {shown} ({time.monotonic() - begun:.0f} s)")
    print(f"\n| CPU seconds for a million | {' | '.join(tree.name for tree in trees)} |")
    print("|---|" + "---:|" * len(trees))
    for kind in KINDS:
        medians = [statistics.median(one[kind] for one in figures[tree]) for tree in trees]
        print(f"| {kind} | {' | '.join(f'{median:.4g}' for median in medians)} |")


if __name__ == "__main__":
    main()
