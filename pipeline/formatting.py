"""Format counts, bytes, durations, shares, measured values and aligned columns for people."""

import textwrap
from collections.abc import Iterator, Sequence


def counted(number: int, noun: str) -> str:
    """A count with its noun: `1 shard`, `2,000 shards`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def size(count: float) -> str:
    """Bytes in decimal units: `37.9 kB`, `293.2 MB`, `1.2 GB`."""
    unit, scale = next(((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6)) if count >= scale), ("kB", 1e3))
    return f"{count / scale:,.1f} {unit}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours with three significant digits: `45.0 s`, `12.5 min`, `3.20 h`."""
    unit, scale = next(((unit, scale) for unit, scale in (("h", 3600), ("min", 60)) if seconds >= 2 * scale), ("s", 1))
    return f"{significant(seconds / scale)} {unit}"


def significant(value: float) -> str:
    """A number with three significant digits: `0.0123`, `12.3`, `12,300`."""
    if abs(value) >= 999.5:
        digits = len(f"{abs(value):.0f}")
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:#.3g}".rstrip(".") if value else "0"


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage with three significant digits: `12.3 %`."""
    return f"{significant(100 * share)} %"


def warning_lines(text: str) -> Iterator[str]:
    """A warning as indented lines of at most 80 characters."""
    yield from textwrap.wrap(
        text, 80, initial_indent="  warning: ", subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )


def columns(rows: Sequence[Sequence[str]], *, right: bool = True) -> Iterator[str]:
    """Aligned lines, columns two spaces apart. right: all columns but the first are flush right."""
    from rich.cells import cell_len  # characters of some scripts take two columns

    widths = [max(cell_len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        pads = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        cells = (f"{pad}{cell}" if right and n else f"{cell}{pad}" for n, (cell, pad) in enumerate(zip(row, pads, strict=True)))
        yield "  ".join(cells).rstrip()
