"""
Makes C{twistd gateway} and C{twist gateway} known to Twisted.
"""

from twisted.application.service import ServiceMaker

gateway = ServiceMaker(
    "gateway",
    "gateway.daemon.tap",
    "Stores messages from sockets in PostgreSQL and answers each one.",
    "gateway",
)
