"""Send each argument as a name, and print what the gateway answers."""

import socket
import sys

with (
    socket.create_connection(("localhost", 8010), timeout=60) as connection,
    connection.makefile("rw", encoding="utf-8", newline="\n") as lines,
):
    for name in sys.argv[1:]:
        lines.write(f"{name}\n")
        lines.flush()
        print(name, "->", lines.readline().strip() or "no answer")
