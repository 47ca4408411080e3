"""
Entry point of C{twistd gateway}.
"""

from gateway.daemon.options import Options
from gateway.daemon.wiring import makeService

__all__ = ["Options", "makeService"]
