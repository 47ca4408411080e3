"""
A program that logs, as any other: it knows Graylog's handler, and nothing of the gateway.
"""

import logging

import pygelf

handler = pygelf.GelfTcpHandler(host="127.0.0.1", port=8060, include_extra_fields=True)
logging.basicConfig(level=logging.INFO, handlers=[handler])

logging.info("logged in", extra={"user": "ann", "attempt": 2})
try:
    int("x")
except ValueError:
    logging.exception("failed")
