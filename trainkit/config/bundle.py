"""Where configurations and recipes are found: the working directory first, then what trainkit ships."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path

GROUPS = ("recipe", "strategy", "launcher", "tracker", "optimizer", "schedule")
SEVERAL = ("tracker",)
"""Groups of which a run may have several: tracker=[mlflow,tensorboard]."""


def bundle(name: str) -> Path:
    """The folder `name` that trainkit ships: beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent / name
    inside = package / "_bundle" / name
    return inside if inside.is_dir() else checkout


def folders(name: str) -> list[Path]:
    """Folders to search for `name` ('conf' or 'recipes'), the user's own first."""
    own = Path.cwd() / name
    return [own, bundle(name)] if own.is_dir() and own.resolve() != bundle(name) else [bundle(name)]


def components(group: str) -> dict[str, Path]:
    """The choices of a configuration group by name."""
    found: dict[str, Path] = {}
    for folder in folders("conf"):
        for path in sorted((folder / group).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def describe(path: Path) -> str:
    """The one-line description of a component: the first comment of its YAML file."""
    lines = path.read_text().splitlines()
    comments = [line.lstrip("# ").strip() for line in lines if line.startswith("#") and "@package" not in line]
    return comments[0] if comments else ""


def install_recipes_package() -> None:
    """Make `import recipes.NAME` find the user's own recipes first and the shipped ones after them, whether or not
    the user's folder has an __init__.py."""
    spec = ModuleSpec("recipes", None, is_package=True)
    spec.submodule_search_locations = [str(folder) for folder in folders("recipes")]
    known = sys.modules.get("recipes")
    if known is None or list(known.__path__) != spec.submodule_search_locations:
        sys.modules["recipes"] = module_from_spec(spec)
