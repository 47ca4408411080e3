"""
Sends Python's log by the forward protocol, with the package fluent-logger.
"""

from __future__ import annotations

import logging

from fluent import handler

one = handler.FluentHandler("app", host="127.0.0.1", port=24224, nanosecond_precision=True)
one.setFormatter(handler.FluentRecordFormatter({"level": "%(levelname)s", "from": "%(name)s"}))
log = logging.getLogger("shop")
log.addHandler(one)

log.warning("only %d left", 3)
log.error({"message": "sold out", "items": ["bread", "käse"]})
one.close()
