"""The first page of the bundled pair as it was last made, so that opening it waits for no model and no torch.

`python app/opening.py` makes it again; a test tells when that is due, and a page that does not belong to the bundled run as
it lies on disk is not used.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from described import Described
from settings import Settings

if TYPE_CHECKING:
    from engine import Engine

STORED = Path(__file__).with_name("opening.json")


@dataclass(frozen=True)
class Opening:
    """What the page shows first: a pair, the strip of pictures, and the first view.

    `strip` holds source, label and data URI of each picture; `settings` are those that the view was drawn with.
    """

    described: Described
    strip: list[tuple[str, str, str]]
    settings: Settings
    answer: str
    figures: tuple[str, ...]
    verdict: str


def stored() -> Opening | None:
    """The stored page, where it belongs to the bundled run as it lies on disk."""
    try:
        plain = json.loads(STORED.read_text(encoding="utf-8"))
        if plain.pop("fingerprint") != fingerprint():
            return None
        described, settings = Described(**plain.pop("described")), Settings(**plain.pop("settings"))
        strip = [tuple(picture) for picture in plain.pop("strip")]
        return Opening(described, strip, settings, plain["answer"], tuple(plain["figures"]), plain["verdict"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make(engine: Engine, pair: str) -> Opening:
    """The first page of a pair, by opening its models."""
    from work import Work

    sheet = engine.show(Settings(pair=pair), Work())
    strip = [(picture.source, picture.label, picture.uri) for picture in engine.pictures.strip()]
    return Opening(engine.describe(pair), strip, sheet.settings, sheet.answer, sheet.figures, sheet.verdict)


def fingerprint() -> str:
    """A digest of the bundled run's files."""
    spec = find_spec("sfkd")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "demo"
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix != ".md"):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def plain(opening: Opening) -> dict[str, Any]:
    """The page as it is stored."""
    return {"fingerprint": fingerprint(), **asdict(opening)}


if __name__ == "__main__":
    from engine import Engine
    from runs_root import RunsRoot
    from settings import BUNDLED

    made = plain(make(Engine(RunsRoot(Path("runs")), "cpu"), BUNDLED))
    STORED.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{STORED}: {STORED.stat().st_size:,} bytes")
