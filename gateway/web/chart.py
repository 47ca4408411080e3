"""
Charts of the last hour: areas upon one another, as SVG.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.web.markup import Html, Tone, escaped
from gateway.web.traffic import HOUR

WIDTH: Final = 120
HEIGHT: Final = 30
"""Units of the drawing, which is stretched to the place that it has."""


class Layer(NamedTuple):
    """
    One area of a chart.

    @ivar values: one for each moment.
    """

    tone: Tone
    values: Sequence[float]


def chart(ages: Sequence[float], layers: Sequence[Layer], label: str, kind: str) -> Html:
    """
    Return a chart, the first layer at the bottom; the highest value reaches the top.

    @param ages: how long ago each value was, in seconds, the oldest first.
    @param label: what it shows, for those who cannot see it.
    @param kind: its class in the style sheet.
    """
    places = [WIDTH * (1 - min(age, HOUR) / HOUR) for age in ages]
    most = peak(layers)
    drawn = ""
    below = [0.0] * len(places)
    if most and len(places) > 1:
        for layer in layers:
            above = [low + value for low, value in zip(below, layer.values, strict=True)]
            if any(layer.values):
                drawn += f'<path class="{layer.tone}" d="{_area(places, below, above, most)}"/>'
            below = above
    return Html(
        f'<svg class="{kind}" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
        f' role="img" aria-label="{escaped(label)}">'
        f'<path class="base" d="M0 {HEIGHT}H{WIDTH}"/>{drawn}</svg>'
    )


def peak(layers: Sequence[Layer]) -> float:
    """Return the highest sum of the layers' values."""
    return max(map(sum, zip(*(layer.values for layer in layers), strict=True)), default=0.0)


def _area(
    places: Sequence[float], below: Sequence[float], above: Sequence[float], most: float
) -> str:
    top = [_point(x, y / most) for x, y in zip(places, above, strict=True)]
    if any(below):
        bottom = [_point(x, y / most) for x, y in zip(places, below, strict=True)][::-1]
    else:
        bottom = [_point(places[-1], 0.0), _point(places[0], 0.0)]
    return f"M{'L'.join(top + bottom)}Z"


def _point(x: float, part: float) -> str:
    return f"{x:.1f} {HEIGHT * (1 - part):.1f}"
