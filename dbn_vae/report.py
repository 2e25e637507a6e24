"""One page about one analysis: a single HTML file that needs no network, with its pictures inside it.

Whatever comes from the data, a column's name for one, is escaped; a report holds no scripts and fetches
nothing.
"""

import base64
import numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dbn_vae.plotting import DPI, png_base64
from dbn_vae.storage import write_bytes

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Section(NamedTuple):
    heading: str
    text: Sequence[str] = ()  # paragraphs
    figures: "Sequence[tuple[str, Figure]]" = ()  # (caption, picture)
    tables: "Sequence[tuple[str, pd.DataFrame]]" = ()  # (caption, table)


class Picture(NamedTuple):
    caption: str
    png: str  # base64
    width: int  # in CSS pixels


class Cell(NamedTuple):
    text: str
    is_number: bool


class Table(NamedTuple):
    caption: str
    head: list[Cell]
    rows: list[list[Cell]]


def write_report(
    path: Path | str, *, title: str, lead: str, sections: Sequence[Section], facts: Mapping[str, str]
) -> None:
    """Write the page, whole or not at all.

    Args:
        lead: the paragraph below the title: what was found.
        facts: how it was found, name and value: data, settings, versions, seeds.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("dbn_vae"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("report.html").render(
        title=title,
        lead=lead,
        facts=facts,
        sections=[
            {
                "heading": section.heading,
                "text": section.text,
                "figures": [as_picture(caption, figure) for caption, figure in section.figures],
                "tables": [as_table(caption, frame) for caption, frame in section.tables],
            }
            for section in sections
        ],
    )
    write_bytes(path, page.encode())


def as_picture(caption: str, figure: "Figure") -> Picture:
    """Shown at 92 pixels an inch, so that letters have one size in every picture of a page."""
    png = png_base64(figure)
    pixels = int.from_bytes(base64.b64decode(png[:32])[16:20], "big")  # the width in a PNG's header
    return Picture(caption, png, round(pixels * 92 / DPI))


def as_table(caption: str, frame: "pd.DataFrame") -> Table:
    """The frame's cells as text; its index only where it says more than the row's number."""
    from pandas import RangeIndex

    if not isinstance(frame.index, RangeIndex):
        frame = frame.reset_index()
    rows = [[as_cell(value) for value in row] for row in frame.itertuples(index=False, name=None)]
    head = [
        Cell(str(name), bool(rows) and all(row[i].is_number or not row[i].text for row in rows))
        for i, name in enumerate(frame.columns)
    ]
    return Table(caption, head, rows)


def as_cell(value: Any) -> Cell:
    """Whole numbers in full, other numbers short, nothing for a missing value."""
    from pandas import isna

    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return Cell(minus(f"{int(value):,}"), True)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return Cell("" if isna(float(value)) else minus(short(float(value))), True)
    missing = value is None or isna(value) is True
    return Cell("" if missing else str(value), False)


def short(value: float) -> str:
    """Four significant digits, more where that would drop the first two decimals or a whole number's digits.

    >>> short(-102.3456), short(12345.6), short(2000.0), short(0.05), short(3e-7)
    ('-102.35', '12,345.60', '2,000', '0.05', '3e-07')
    """
    if 100 <= abs(value) < 1e9:
        return f"{value:,.0f}" if value == round(value) else f"{value:,.2f}"
    return f"{value:.4g}"


def minus(text: str) -> str:
    return text.replace("-", "−", 1) if text.startswith("-") else text
