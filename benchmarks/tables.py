"""Tables of results as CSV files that are written again after every row."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from sfkd.runs import write_atomically

Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """The rows of a table; none where it is not there yet."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write the whole table anew."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text.getvalue())
