"""Recipes that the page offers, and one of them with the pair and the length that a visitor asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from messages import UserError
from settings import key_of_names


class Wish(NamedTuple):
    """What a visitor asks for; empty and None leave it to the recipe.

    `teacher`, `student` are timm names. `epochs` are those of the student; `download` allows to fetch weights and data.
    """

    recipe: str
    name: str
    teacher: str = ""
    student: str = ""
    epochs: int | None = None
    download: bool = False


class Recipes:
    """The recipes in a folder of `NAME.yaml` files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Those that there are, the bundled run's first."""
        return sorted((path.stem for path in self.folder.glob("*.yaml")), key=lambda name: (name != "demo", name))

    def made(self, wish: Wish, out: Path) -> dict[str, Any]:
        """Plain values of a recipe that `sfkd train` takes.

        Raises:
            UserError: no such recipe, no timm name, a recipe that does not hold.
        """
        if wish.recipe not in self.names():
            raise UserError("Choose one of the recipes.")
        values = _read(self.folder / f"{wish.recipe}.yaml")
        values["out"] = str(out)
        for role, name in (("teacher", wish.teacher.strip()), ("student", wish.student.strip())):
            if name:
                key_of_names(name, name, pretrained=False)
                values[role] = _replaced(values, role, name)
        if wish.epochs:
            values.setdefault("schedule", {})["epochs"] = int(wish.epochs)
        if not wish.download:
            values["data"].pop("download", None)
        return _checked(values)


def _read(path: Path) -> dict[str, Any]:
    """Plain values of a recipe that holds but for its `out`."""
    from sfkd.config import RecipeError, read_mapping

    try:
        values = read_mapping(path)
    except RecipeError as error:
        raise UserError(str(error)) from error
    _checked({**values, "out": ""})
    return values


def _replaced(values: dict[str, Any], role: str, name: str) -> dict[str, Any]:
    """Another model in the place of the recipe's; its options belonged to that one, its schedule belongs to the data."""
    old = values.get(role) or {}
    model: dict[str, Any] = {"name": name}
    if "schedule" in old:
        model["schedule"] = old["schedule"]
    elif role == "teacher":
        raise UserError("This recipe takes its teacher as it comes, trained: choose one that trains its teacher.")
    size = values["data"].get("input_size", [3, 224, 224])
    if size[1:] != [224, 224] and _fixed(name):
        model["kwargs"] = {"img_size": list(size[1:])}
    return model


def _fixed(name: str) -> bool:
    """Whether a model has to be told the size of its images."""
    import timm

    if not timm.is_model(name):
        raise UserError(f"timm knows no model {name!r}.")
    config = timm.get_pretrained_cfg(name, allow_unregistered=False)
    return bool(config is not None and config.fixed_input_size)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    from sfkd.config import RecipeError, parse_recipe

    try:
        parse_recipe(values)
    except RecipeError as error:
        raise UserError(str(error)) from error
    return values
