"""An analysis as two files: arrays in `.npz`, the rest in `.json`. Nothing is pickled, nothing is unpickled."""

from __future__ import annotations

import dataclasses
import json
import math
import zipfile
import zlib
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfkd.runs import write_atomically, written_beside

if TYPE_CHECKING:
    from sfkd_viz.analysis import Analysis

_FORMAT, _VERSION = "sfkd analysis", 1
_MOST_BYTES = 2**30  # of all arrays, unpacked; a small archive may unfold to any size
# what json, zipfile and numpy raise on files that are not what they say; RuntimeError: nested too deeply, encrypted
_DAMAGED = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
# Results that a file may ask for, and nothing else: name → module.
_RESULTS = {
    "Analysis": "sfkd_viz.analysis",
    "BandAblation": "sfkd_viz.measures.ablation",
    "BandEnergy": "sfkd_viz.measures.subbands",
    "CKA": "sfkd_viz.measures.cka",
    "Spectrum": "sfkd_viz.measures.spectrum",
    "Transfer": "sfkd_viz.measures.transfer",
    "WaveletAttribution": "sfkd_viz.measures.attribution",
}


def save(analysis: Analysis, path: str | Path) -> Path:
    """Write `path.npz` and `path.json` (an ending of `path` that is one of these is replaced); the JSON's path."""
    arrays: dict[str, np.ndarray] = {}
    plain = {"format": _FORMAT, "version": _VERSION, "analysis": _plain(analysis, arrays, {}, "")}
    base = _base(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(_with(base, ".npz")) as beside, beside.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_atomically(_with(base, ".json"), json.dumps(plain, indent=1, allow_nan=False) + "\n")
    return _with(base, ".json")


def load(path: str | Path) -> Analysis:
    """What `save` wrote.

    Raises:
        ValueError: files that are missing, damaged, or something else.
    """
    base = _base(path)
    try:
        plain = json.loads(_with(base, ".json").read_text(encoding="utf-8"))
        if not isinstance(plain, dict) or (plain.get("format"), plain.get("version")) != (_FORMAT, _VERSION):
            raise ValueError(f"not {_FORMAT!r}, version {_VERSION}")
        analysis = _result(plain["analysis"], _arrays(_with(base, ".npz")))
    except FileNotFoundError as error:
        raise ValueError(f"no analysis at {base}: {Path(error.filename).name} is missing.") from error
    except _DAMAGED as error:
        raise ValueError(f"{base}.json and .npz cannot be read as an analysis that sfkd saved: {error}.") from error
    if type(analysis).__name__ != "Analysis":
        raise ValueError(f"{base}.json holds a {type(analysis).__name__}, not an analysis that sfkd saved.")
    return analysis


def _base(path: str | Path) -> Path:
    path = Path(path)
    return path.with_suffix("") if path.suffix in (".npz", ".json") else path


def _with(base: Path, ending: str) -> Path:
    return base.with_name(base.name + ending)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with zipfile.ZipFile(path) as file:
        size = sum(member.file_size for member in file.infolist())
        if size > _MOST_BYTES:
            raise ValueError(f"its arrays would fill {size / 2**30:.1f} GiB")
        for name in file.namelist():
            with file.open(name) as member:
                found[name.removesuffix(".npy")] = np.lib.format.read_array(member, allow_pickle=False)
    return found


def _plain(value: Any, arrays: dict[str, np.ndarray], known: dict[Any, str], where: str) -> Any:
    """`value` as JSON's types; arrays go to `arrays` under the name of the place where they stand, equal ones once."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if type(value).__name__ not in _RESULTS:
            raise TypeError(f"{type(value).__name__} has no place in a saved analysis: add it to _RESULTS.")
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return {"result": type(value).__name__, "fields": _plain(fields, arrays, known, where)["entries"]}
    if isinstance(value, dict):
        entries = [[key, _plain(v, arrays, known, f"{where}/{key}".lstrip("/"))] for key, v in value.items()]
        return {"entries": entries}
    if isinstance(value, (tuple, list)):
        return {"items": [_plain(v, arrays, known, f"{where}/{i}") for i, v in enumerate(value)]}
    if isinstance(value, np.ndarray):
        content = value.dtype.str, value.shape, value.tobytes()
        if content not in known:
            known[content] = where
            arrays[where] = value
        return {"array": known[content]}
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"number": repr(value)}
    return value


def _result(plain: Any, arrays: dict[str, np.ndarray]) -> Any:
    if not isinstance(plain, dict):
        return plain
    if "result" in plain:
        name = plain["result"]
        if name not in _RESULTS:
            raise ValueError(f"unknown result {name!r}")
        fields = {key: _result(value, arrays) for key, value in plain["fields"]}
        return getattr(import_module(_RESULTS[name]), name)(**fields)
    if "entries" in plain:
        return {key: _result(value, arrays) for key, value in plain["entries"]}
    if "items" in plain:
        return tuple(_result(value, arrays) for value in plain["items"])
    if "number" in plain:
        return float(plain["number"])
    return arrays[plain["array"]]
