"""What the packages declare in their own pyproject, for tests that look at all of them."""

import tomllib
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PROJECTS = {path.parent: tomllib.loads(path.read_text()) for path in sorted(ROOT.glob("packages/*/pyproject.toml"))}


@cache
def commands() -> dict[str, Any]:
    """The Hydra commands by `<name>_<panel>`, found as console scripts."""
    targets = [target for project in PROJECTS.values() for target in project["project"].get("scripts", {}).values()]
    loaded = [getattr(import_module(target.split(":")[0]), target.split(":")[1]) for target in targets]
    return {f"{command.name}_{command.panel}": command for command in loaded if hasattr(command, "schema")}
