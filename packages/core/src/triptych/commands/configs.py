"""Search path of configs: a command composes those of its panel and the shared ones, and lists the groups that it accepts."""

import os
from importlib.resources import files
from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from triptych.errors import UserError

SHARED = "shared"


def find_configs(package: str) -> Path:
    """The folder of configs: `$TRIPTYCH_CONFIGS`, else `configs/` in the working directory or the nearest above it, else the package's.

    Args:
        package: import name of the package of a command, whose wheel has a copy of its configs and of the shared ones.

    Raises:
        UserError: if there is none.
    """
    named = os.environ.get("TRIPTYCH_CONFIGS")
    if named:
        if not Path(named).is_dir():
            raise UserError(f"TRIPTYCH_CONFIGS is '{named}', which is not a folder: set it to the configs/ of a checkout")
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "configs" / SHARED / "run.yaml").is_file():
            return folder / "configs"
    packaged = Path(str(files(package))) / "configs"
    if (packaged / SHARED / "run.yaml").is_file():
        return packaged
    raise UserError(f"no configs/ folder in {here} or above it, nor in {package}: run from a checkout or set TRIPTYCH_CONFIGS")


def accepted_groups(primary: Path) -> set[str]:
    """The config groups that the defaults list of a primary config names."""
    groups = set()
    for entry in yaml.safe_load(primary.read_text())["defaults"]:
        if isinstance(entry, dict):
            # `optional recipe: ...` and `memory@memories.golden: ...` name the groups recipe and memory.
            groups |= {key.split()[-1].split("@")[0] for key in entry if not key.startswith("override ")}
    return groups


class _CommandConfigs(FileConfigSource):
    """A folder of configs of which only the groups that a command accepts are listed: `triptych://<folder>#<group>,<group>`.

    Help, completion and the message for an unknown choice use these lists; loading by name is not restricted.
    """

    def __init__(self, provider: str, path: str) -> None:
        folder, _, groups = path.partition("#")
        super().__init__(provider, folder)
        self._groups = set(groups.split(","))

    @staticmethod
    def scheme() -> str:
        return "triptych"

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        found: list[str] = super().list(config_path, results_filter)
        if config_path or results_filter is ObjectType.CONFIG:
            return found
        return [name for name in found if name in self._groups or not self.is_group(name)]


class CommandSearchPath(SearchPathPlugin):
    """Adds the folders of a command to Hydra's search path.

    Attributes:
        panel, name, package: of the command whose configs are composed, set by `use_configs`.
    """

    panel = ""
    name = ""
    package = ""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Adds the panel's folder and the shared one; see `SearchPathPlugin`."""
        configs = find_configs(self.package)
        groups = ",".join(sorted(accepted_groups(configs / self.panel / f"{self.name}.yaml")))
        for folder in (self.panel, SHARED):
            search_path.append(provider="triptych", path=f"triptych://{configs / folder}#{groups}")


def use_configs(panel: str, name: str, package: str) -> None:
    """Makes Hydra compose the configs of one command; `package` is the import name of its package."""
    Plugins.instance().register(_CommandConfigs)
    Plugins.instance().register(CommandSearchPath)
    CommandSearchPath.panel, CommandSearchPath.name, CommandSearchPath.package = panel, name, package
