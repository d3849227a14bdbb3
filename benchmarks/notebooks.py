"""Execute the notebooks and save them with their outputs, a picture beside each figure, which is what GitHub shows.

make notebooks-run
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import tempfile
import time
from base64 import b64encode
from copy import deepcopy
from pathlib import Path
from typing import Any

import nbformat
import plotly.graph_objects as go
from nbclient import NotebookClient

import sfkd_viz

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
FIGURE = "application/vnd.plotly.v1+json"
MOST_BYTES = 1_500_000
_KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="beginnings of names, such as 03; default all")
    only = tuple(parser.parse_args().only)
    for path in sorted(FOLDER.glob("*.ipynb")):
        if only and not path.name.startswith(only):
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            done = execute(nbformat.read(path, as_version=4), Path(folder))
        seconds = time.perf_counter() - start
        text = nbformat.writes(pictured(done)) + "\n"
        if len(text) > MOST_BYTES:
            raise SystemExit(f"{path.name} takes {len(text):,} bytes, more than {MOST_BYTES:,}: draw less.")
        path.write_text(text, encoding="utf-8")
        print(f"{path.name}: {seconds:.0f} s, {len(text) / 1000:.0f} kB")


def execute(notebook: Any, folder: Path) -> Any:
    """A copy of `notebook` run in order on a clean kernel in `folder`, without anything that differs from run to run.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell that fails.
    """
    fresh = deepcopy(notebook)
    # without the hint of each kernel that it talks over ports of this machine
    options: dict[str, Any] = {
        "extra_arguments": ["--log-level=ERROR"],
        "record_timing": False,
        "coalesce_streams": True,
    }
    options |= {"timeout": 600, "kernel_name": "python3", "resources": {"metadata": {"path": str(folder)}}}
    # older plotly adds its whole script to the first figure
    NotebookClient(fresh, **options).execute(env={**os.environ, "PLOTLY_RENDERER": "plotly_mimetype"})
    fresh.metadata = nbformat.from_dict(
        {"kernelspec": _KERNEL, "language_info": {"name": "python"}, "sfkd": {"sources": digest(fresh)}}
    )
    return fresh


def digest(notebook: Any) -> str:
    """Of the sources of all code cells: outputs belong to the sources whose digest was saved with them."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def pictured(notebook: Any) -> Any:
    """A copy with a PNG and the title beside every figure; the title alone where no browser can draw."""
    drawn = deepcopy(notebook)
    for cell in drawn.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if FIGURE not in data:
                continue
            figure = go.Figure({part: data[FIGURE][part] for part in ("data", "layout")})
            data["text/plain"] = re.sub("<[^>]*>", " ", figure.layout.title.text or "figure")
            try:
                data["image/png"] = _png(figure)
            except RuntimeError as error:
                print(f"no picture of {data['text/plain']!r}: {error}")
    return drawn


def _png(figure: go.Figure) -> str:
    with tempfile.TemporaryDirectory() as folder:
        drawn = sfkd_viz.save_figure(figure, Path(folder) / "figure.png", dpi=96)
        return b64encode(drawn.read_bytes()).decode()


if __name__ == "__main__":
    main()
