"""The files that say how to install the project agree with each other and with what the code imports."""

from __future__ import annotations

import ast
import importlib
import os
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import metadata, packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import yaml
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
# import name → project, where the environment of the tests does not have it to ask
NOT_INSTALLED = {"skimage": "scikit-image"}
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def requirements(*extras: str) -> dict[str, Requirement]:
    """Direct requirements by name, of the project and these extras, extras that name the project followed."""
    found: dict[str, Requirement] = {}
    for line in chain(PROJECT["dependencies"], *(EXTRAS[extra] for extra in extras)):
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            found |= requirements(*requirement.extras)
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


providers = cache(packages_distributions)


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_extras() -> None:
    assert set(EXTRAS) == {"app", "analysis", "notebooks", "data", "docs", "train", "test"}


def test_every_constraint_is_one_exact_version() -> None:
    for pin in pins():
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        assert "*" not in specifier.version, pin
        assert Version(specifier.version).local is None, f"{pin}: a local version is on no public index"
    names = [canonicalize_name(pin.name) for pin in pins()]
    assert names == sorted(set(names))


@pytest.mark.parametrize("name", sorted(requirements(*EXTRAS)))
def test_requirement_is_pinned_inside_its_range(name: str) -> None:
    pinned: dict[str, str] = {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in pins()}
    assert name in pinned, f"add {name} to constraints.txt"
    assert requirements(*EXTRAS)[name].specifier.contains(pinned[name])


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("sfkd", ["train"]), ("sfkd_viz", ["analysis"]), ("app", ["app"]), ("tests", ["test"]), ("benchmarks", ["test"])],
)
def test_what_is_imported_is_required(folder: str, extras: list[str]) -> None:
    own = {
        "sfkd",
        "sfkd_viz",
        "app",
        *(p.stem for name in (folder, "app", "tests") for p in (ROOT / name).rglob("*.py")),
    }
    own |= {p.parent.name for p in (ROOT / "app").rglob("__init__.py")}
    required = requirements(*extras)
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for package in {name.partition(".")[0] for name in names} - own - sys.stdlib_module_names:
                names_of_package = {
                    canonicalize_name(d) for d in providers().get(package, [NOT_INSTALLED.get(package, package)])
                }
                assert names_of_package & required.keys(), (
                    f"{path.relative_to(ROOT)} imports {package}, which is not required"
                )


def test_environment_yml_installs_the_extras_under_the_constraints() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    *conda, pip = environment["dependencies"]
    assert environment["name"] == PROJECT["name"]
    assert environment["channels"] == ["conda-forge"]
    python = next(d.removeprefix("python=") for d in conda if d.startswith("python="))
    assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert "pip" in conda
    constraints, project = pip["pip"]
    assert constraints == "-c constraints.txt"
    installed = Requirement(project.removeprefix("-e ").replace(".[", "sfkd["))
    assert installed.extras == set(EXTRAS)


def test_license_is_mit() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n")
    assert "Permission is hereby granted, free of charge" in text
    assert 'THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND' in text
    assert (PROJECT["license"], PROJECT["license-files"]) == ("MIT", ["LICENSE"])
    assert metadata("sfkd")["License-Expression"] == "MIT"


def test_every_package_is_listed() -> None:
    found = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for package in ("sfkd", "sfkd_viz")
        for path in (ROOT / package).rglob("*.py")
    }
    assert set(SETUPTOOLS["packages"]) == found
    for name in found:
        assert (ROOT / name.replace(".", "/") / "__init__.py").is_file()


def test_the_bundled_run_is_package_data() -> None:
    patterns = SETUPTOOLS["package-data"]["sfkd"]
    data = {path for pattern in patterns for path in (ROOT / "sfkd").glob(pattern) if path.is_file()}
    assert data == {path for path in (ROOT / "sfkd" / "demo").rglob("*") if path.is_file()}
    assert ROOT / "sfkd" / "demo" / "student" / "model.safetensors" in data


def test_commands_in_the_documents_are_targets_of_the_makefile() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert {"app", "test"} <= set(re.findall(r"^make ([a-z-]+)", readme, re.MULTILINE))
    for path in DOCUMENTS:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert target in make_targets(), f"{path.name} names make {target}"


def test_ci_runs_the_tests() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_in_the_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def python_examples() -> list[str]:
    texts = [path.read_text(encoding="utf-8") for path in DOCUMENTS]
    return [block for text in texts for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def test_names_in_the_documents_exist() -> None:
    for block in python_examples():
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                package, name = node.value.id, node.attr
                if package in ("sfkd", "sfkd_viz"):
                    assert hasattr(importlib.import_module(package), name), f"{package}.{name}"
            elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in ("sfkd", "sfkd_viz"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"
