"""Hydra entry points: compose the config, hand over a dataclass, report bad input in one line."""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Generic, TypeVar, cast

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from triptych.commands.arguments import explaining_arguments
from triptych.commands.configs import use_configs
from triptych.commands.environment import mark_secrets
from triptych.commands.help import print_help, wants_help
from triptych.commands.messages import is_first_to_report, quote_text, refuse
from triptych.commands.sweep import is_member, is_sweep, lost_member, member_name, prepare_sweep, show_devices
from triptych.errors import UserError
from triptych.run.config import RunConfig
from triptych.run.signals import Interrupted
from triptych.run.targets import CORE, check_targets

ConfigT = TypeVar("ConfigT", bound=RunConfig)

EXIT_LOST_MEMBER = 1


class Command(Generic[ConfigT]):
    """A function of a config dataclass as a command; see `entry_point`.

    Attributes:
        panel: folder of its configs.
        name: of its primary config.
        schema: dataclass of its settings.
        package: import name of the package that has it.
    """

    def __init__(
        self, function: Callable[[ConfigT], Any], panel: str, name: str, schema: type[ConfigT], check: Callable[[ConfigT], object] | None
    ) -> None:
        functools.update_wrapper(self, function)
        self.panel = panel
        self.name = name
        self.schema = schema
        self.package = str(function.__globals__["__package__"]).split(".")[0]
        self._function = function
        self._check = check
        self._shows_traceback = False

    @property
    def schema_name(self) -> str:
        """Name of the schema in the defaults list of the primary config."""
        return f"{self.panel}_{self.name}_schema"

    def register(self) -> None:
        """Makes Hydra compose this command's configs: its dataclass under `schema_name`, its panel's folder and the shared folder."""
        ConfigStore.instance().store(name=self.schema_name, node=self.schema)
        use_configs(self.panel, self.name, self.package)

    def __call__(self) -> None:
        """Runs the command with the arguments in `sys.argv`."""
        # By default Hydra prints a longer report of an error and exits with 1; with HYDRA_FULL_ERROR it raises the
        # exception, which is reported in one line below.
        self._shows_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))
        os.environ["HYDRA_FULL_ERROR"] = "1"
        try:
            self.register()
            if wants_help():
                print_help(self)
                return
            if is_sweep():
                prepare_sweep(self.name, self._check_member)
            else:
                sys.argv[1:] = [quote_text(argument, self.schema) for argument in sys.argv[1:]]
            # Hydra names the job after the function.
            task = functools.update_wrapper(lambda config: self._run(config), self._function)
            hydra.main(version_base="1.3", config_path=None, config_name=self.name)(task)()
        except (UserError, HydraException, OmegaConfBaseException) as error:
            refuse(error, self.schema, self._shows_traceback)
        except Exception as error:
            lost = lost_member(error)
            if lost is None or self._shows_traceback:
                raise
            print(f"error: {lost}", file=sys.stderr)
            sys.exit(EXIT_LOST_MEMBER)
        except KeyboardInterrupt:
            print("interrupted: rerun the same command to resume from the last checkpoint, if there is one", file=sys.stderr)
            sys.exit(130)

    def _run(self, config: DictConfig) -> Any:
        try:
            settings = cast(ConfigT, OmegaConf.to_object(config))
            mark_secrets(config, settings)
            if is_member():
                # A sweep member is named by its overrides, so that a requeued member finds its own folder.
                member = member_name(HydraConfig.get().job.override_dirname)
                object.__setattr__(settings, "name", f"{settings.name}/{member}")
            with explaining_arguments(config):
                self._check_member(settings)
                show_devices()
                return self._function(settings)
        except Interrupted as interrupted:
            if is_first_to_report():
                print(interrupted, file=sys.stderr)
            sys.exit(128 + interrupted.signal_number)
        except Exception as error:
            # Reported here and not in `__call__`, because Hydra would print a line of its own before raising it there.
            refuse(error, self.schema, self._shows_traceback)

    def _check_member(self, settings: ConfigT) -> None:
        """Refuses code that is not allowed, and what the command itself refuses; nothing is instantiated before."""
        check_targets(asdict(settings), {CORE, self.package}, settings.allowed_targets)
        if self._check is not None:
            self._check(settings)


def entry_point(
    panel: str, name: str, schema: type[ConfigT], *, check: Callable[[ConfigT], object] | None = None
) -> Callable[[Callable[[ConfigT], Any]], Command[ConfigT]]:
    """Decorator that makes a command of a function of a config dataclass.

    The primary config `configs/<panel>/<name>.yaml` lists `<panel>_<name>_schema` first among its defaults; that name is
    registered for `schema` when the command runs. So a wrong key or type fails while composing, before anything is
    loaded. A command composes the configs of its panel and of `configs/shared`, and no others.

    Bad input (a `UserError`, or an override that Hydra rejects) ends the process with one line on
    standard error and exit code 2. `HYDRA_FULL_ERROR=1` shows tracebacks instead.

    All members of a sweep are composed and checked before the first is started or queued.

    Args:
        panel: folder of the configs.
        name: name of the primary config, without `.yaml`.
        schema: dataclass of its settings.
        check: raises a `UserError` for settings that the dataclass cannot validate, such as a choice's arguments; has no
            side effects.
    """
    return lambda function: Command(function, panel, name, schema, check)
