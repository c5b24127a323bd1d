"""Draws models as points, score against milliseconds, as an SVG without scripts or fonts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 52  # of the frame
THEMES = {  # background, ink, grid
    "light": ("#ffffff", "#1f2328", "#d0d7de"),
    "dark": ("#0d1117", "#e6edf3", "#30363d"),
}
COLORS = ("#1f6feb", "#d29922", "#2da44e", "#8250df")  # legible on both backgrounds
TICKS = (1, 2, 5)


@dataclass(frozen=True)
class Point:
    """A form of a model: the model's name, the group whose colour it has, and where it stands.

    Forms of one model are joined by a line, and the fastest has the name above it.
    """

    name: str
    group: str
    ms: float
    score: float


def draw_scatter(
    points: Sequence[Point], title: str, x_title: str, y_title: str, theme: str
) -> str:
    """Draw points with a logarithmic horizontal axis; theme: light or dark."""
    background, ink, grid = THEMES[theme]
    low, high = _widen(min(p.ms for p in points), max(p.ms for p in points))
    bottom, top = _round_range([point.score for point in points])

    def x(ms: float) -> float:
        share = math.log(ms / low) / math.log(high / low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(score: float) -> float:
        return HEIGHT - BOTTOM - (score - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{ink}">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{background}"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for tick in _list_ticks(low, high):
        lines.append(
            f'<path d="M{x(tick):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="{grid}"/>'
            f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{tick:g}</text>"
        )
    step = _choose_step(top - bottom)
    for count in range(round((top - bottom) / step) + 1):
        score = bottom + count * step
        lines.append(
            f'<path d="M{LEFT} {y(score):.1f}H{WIDTH - RIGHT}" stroke="{grid}"/>'
            f'<text x="{LEFT - 8}" y="{y(score) + 4:.1f}" text-anchor="end">{score:g}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    lines.append(
        f'<text x="{middle:g}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_title)}</text>'
        f'<text transform="translate(18 {HEIGHT / 2:g}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_title)}</text>"
    )
    groups = list(dict.fromkeys(point.group for point in points))
    for number, group in enumerate(groups):
        color, left = COLORS[number % len(COLORS)], LEFT + 190 * number
        lines.append(
            f'<circle cx="{left + 5}" cy="40" r="5" fill="{color}"/>'
            f'<text x="{left + 16}" y="44">{escape(group)}</text>'
        )
    for name in dict.fromkeys(point.name for point in points):
        forms = sorted((point for point in points if point.name == name), key=lambda p: p.ms)
        corners = "L".join(f"{x(point.ms):.1f} {y(point.score):.1f}" for point in forms)
        lines.append(f'<path d="M{corners}" fill="none" stroke="{ink}" opacity="0.4"/>')
        lines.append(
            f'<text x="{x(forms[0].ms):.1f}" y="{y(forms[0].score) - 11:.1f}" '
            f'text-anchor="middle">{escape(name)}</text>'
        )
    for point in points:
        color = COLORS[groups.index(point.group) % len(COLORS)]
        circle = f'<circle cx="{x(point.ms):.1f}" cy="{y(point.score):.1f}" r="5" fill="{color}"/>'
        lines.append(circle)
    return "\n".join([*lines, "</svg>", ""])


def _widen(low: float, high: float) -> tuple[float, float]:
    """Return a range with some space at both ends of a logarithmic axis."""
    factor = max((high / low) ** 0.12, 1.2)
    return low / factor, high * factor


def _list_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in TICKS]
    return [tick for tick in ticks if low <= tick <= high]


def _choose_step(span: float) -> float:
    """Choose a step of 1, 2, 5 or 10 times a power of ten that divides a span into 3 to 8."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 8)


def _round_range(values: Sequence[float]) -> tuple[float, float]:
    """Return a range of whole steps around values, with some space at both ends."""
    low, high = min(values), max(values)
    space = max(0.08 * (high - low), 0.5)
    step = _choose_step(high - low + 2 * space)
    return step * math.floor((low - space) / step), step * math.ceil((high + space) / step)
