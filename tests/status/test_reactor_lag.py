"""
Lag of the reactor.
"""

from __future__ import annotations

from twisted.internet.task import Clock

from gateway.metrics.counters import LAGS, Histogram
from gateway.status.reactor_lag import LOOKS, ReactorLag


def test_every_lag_is_counted() -> None:
    """A timer that is late counts once with its lag; the longest is told for a minute."""
    clock, lags = Clock(), Histogram(LAGS)
    lag = ReactorLag(clock, lags)
    lag.start()
    clock.advance(1.0)
    clock.advance(3.0)
    assert (lag.last, lag.longest) == (2.0, 2.0)
    assert (lags.count, lags.total) == (2, 2.0)
    for _ in range(LOOKS):
        clock.advance(1.0)
    assert lag.longest == 0.0
    assert (lags.count, lags.total) == (2 + LOOKS, 2.0)
    lag.stop()
    assert not clock.getDelayedCalls()
