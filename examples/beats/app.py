"""
Log each argument as a warning, to the gateway.
"""

import logging
import sys

from logstash_async.constants import constants
from logstash_async.handler import AsynchronousLogstashHandler

# Seconds for which it waits for an acknowledgement: longer than a commit may take.
constants.SOCKET_TIMEOUT = 60.0
# Else it sends two windows, and the first again if the second gets no acknowledgement.
constants.QUEUED_EVENTS_BEATS_BATCH_SIZE = constants.QUEUED_EVENTS_BATCH_SIZE

handler = AsynchronousLogstashHandler(
    "localhost",
    5044,
    # Where events wait until they are acknowledged, also from one run to the next.
    database_path="gateway-data/app-events.db",
    transport="logstash_async.transport.BeatsTransport",
)
logger = logging.getLogger("shop")
logger.addHandler(handler)
for message in sys.argv[1:]:
    logger.warning(message)
logging.shutdown()
