"""The folder whose runs the page offers, by name; nothing outside it is ever opened."""

from __future__ import annotations

import os
import re
from pathlib import Path

import yaml
from messages import UserError

_MOST_BYTES = 2**18  # of a recipe
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


class RunsRoot:
    """Runs by name. Needs no torch, so that the first page can list them.

    Args:
        root: folder of runs; it need not exist yet.
        first: a run folder that was named on the command line, offered too, wherever it lies.
    """

    def __init__(self, root: Path, first: Path | None = None) -> None:
        self.root, self.first = root, first

    @property
    def first_name(self) -> str:
        """What the page calls the run of the command line."""
        assert self.first is not None
        return re.sub(r"[^A-Za-z0-9._-]", "-", self.first.resolve().name).lstrip("._-")[:64] or "run"

    def finished(self) -> dict[str, Path]:
        """Name → folder of the runs that can be looked at: trained to the end, with a teacher."""
        found = {} if self.first is None else {self.first_name: self.first}
        for config in sorted(self.root.glob("*/config.yaml")):
            name = config.parent.name
            if self._inside(name) and (config.parent / "student" / "model.safetensors").is_file() and _teacher(config):
                found.setdefault(name, config.parent)
        return found

    def folder(self, name: str) -> Path:
        """Where a run of this name lies, or would lie.

        Raises:
            UserError: a name that is none, or a link that leads out of the root.
        """
        if not NAME.fullmatch(name):
            raise UserError("A run's name is made of letters, digits, dots, dashes and underscores, 64 at most.")
        if not self._inside(name):
            raise UserError(f"{name} does not lie in the runs folder of this app: it is a link that leads out of it.")
        return self.root / name

    def _inside(self, name: str) -> bool:
        folder, root = self.root / name, self.root.resolve()
        if not NAME.fullmatch(name) or _end(folder).parent != root:
            return False
        # os.walk passes over what vanishes meanwhile, where Path.rglob raises
        files = (Path(at, name) for at, folders, names in os.walk(folder) for name in (*folders, *names))
        return all(_end(path).is_relative_to(root) for path in files if path.is_symlink())


def _end(path: Path) -> Path:
    """Where a path leads; of a link that leads to itself or to nothing, nowhere."""
    try:
        return path.resolve(strict=path.is_symlink())  # Python 3.13 raises at a loop only where it is strict
    except (OSError, RuntimeError):
        return Path()


def _teacher(config: Path) -> bool:
    """Whether a recipe has a teacher. Its values are not made: a folder that cannot be opened must not hide the others."""
    try:
        if not config.is_file() or config.stat().st_size > _MOST_BYTES:
            return False
        recipe = yaml.compose(config.read_text(encoding="utf-8"), yaml.SafeLoader)
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
        return False
    pairs = recipe.value if isinstance(recipe, yaml.MappingNode) else []
    return any(key.value == "teacher" and isinstance(value, yaml.MappingNode) for key, value in pairs)
