"""The door of every command: find the configs, compose them, hand over a dataclass, tell bad input in one line."""

import difflib
import errno
import functools
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from triptych.checkpoint import describe_disk_error, is_disk_error
from triptych.errors import EXIT_LOST_PROCESS, UserError
from triptych.interruption import Interrupted

ConfigT = TypeVar("ConfigT")

EXIT_BAD_INPUT = 2
EXIT_LOST_MEMBER = 1
_DEVICES = "TRIPTYCH_VISIBLE_DEVICES"  # of the command that starts a sweep
_LONGEST_NAME = 200  # bytes; file systems take 255

_OUT_OF_REACH = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR}


def find_configs() -> Path:
    """The folder of configs: `$TRIPTYCH_CONFIGS`, else `configs/` in the working directory or the nearest above it.

    Raises:
        UserError: if there is none.
    """
    named = os.environ.get("TRIPTYCH_CONFIGS")
    if named:
        if not Path(named).is_dir():
            raise UserError(f"TRIPTYCH_CONFIGS is '{named}', which is no folder: point it at the configs/ of a checkout")
        return Path(named).resolve()
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "configs" / "train_gspo.yaml").is_file():
            return folder / "configs"
    raise UserError(f"no configs/ folder in {here} or above it: run from a checkout or set TRIPTYCH_CONFIGS")


def entry_point(
    config_name: str, schema: type[ConfigT], *, check: Callable[[ConfigT], object] | None = None
) -> Callable[[Callable[[ConfigT], Any]], Callable[[], None]]:
    """Makes a command of a function that takes a config dataclass.

    The primary config `<config_name>.yaml` lists `<config_name>_schema` first among its defaults; that name is
    registered here and holds `schema`. So a wrong key or type fails while composing, before anything is loaded.

    Bad input (a `UserError`, or whatever Hydra finds wrong with the overrides) ends the process with one line on
    standard error and exit code 2. `HYDRA_FULL_ERROR=1` shows tracebacks instead.

    Of a sweep all members are composed and checked before the first is started or queued.

    Args:
        config_name: name of the primary config, without `.yaml`.
        schema: dataclass of its settings.
        check: refuses what the dataclass itself cannot, such as a choice's arguments; quick, and without effects.
    """

    def decorate(function: Callable[[ConfigT], Any]) -> Callable[[], None]:
        wants_traceback = bool(os.environ.get("HYDRA_FULL_ERROR"))

        @functools.wraps(function)
        def task(config: DictConfig) -> Any:
            try:
                settings = cast(ConfigT, OmegaConf.to_object(config))
                if is_member():
                    # A member of a sweep is named by its overrides, so that a requeued member finds itself.
                    member = _member_name(HydraConfig.get().job.override_dirname)
                    object.__setattr__(settings, "name", f"{settings.name}/{member}")  # type: ignore[attr-defined]
                if check is not None:
                    check(settings)
                _show_devices()
                return function(settings)
            except Interrupted as interrupted:
                if _speaks_first():
                    print(interrupted, file=sys.stderr)
                sys.exit(128 + interrupted.signal_number)
            except Exception as error:
                # Told here and not above, because Hydra would print a line of its own before handing it on.
                _refuse(error, schema, wants_traceback)

        def command() -> None:
            # Hydra would print its own, longer account of an error and exit with 1; asked for the full error it
            # lets the exception through, and the line below is ours.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                ConfigStore.instance().store(name=f"{config_name}_schema", node=schema)
                if {"-m", "--multirun"} & set(sys.argv):
                    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
                        raise UserError(
                            "a sweep (-m) was started by several processes: start it by one (NPROC=1); cluster= says what a member has"
                        )
                    _check_members(config_name, sys.argv[1:], check)
                    # Hydra takes the overrides in one piece, before or after its options.
                    sys.argv[1:] = _together(sys.argv[1:])
                    os.environ.setdefault(_DEVICES, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
                    last = max((place for place, argument in enumerate(sys.argv) if "=" in argument and argument[0] != "-"), default=0)
                    sys.argv.insert(last + 1, _swept_alone(sys.argv[1:]))
                else:
                    sys.argv[1:] = [quote_text(argument, schema) for argument in sys.argv[1:]]
                hydra.main(version_base="1.3", config_path=str(find_configs()), config_name=config_name)(task)()
            except (UserError, HydraException, OmegaConfBaseException) as error:
                _refuse(error, schema, wants_traceback)
            except Exception as error:
                lost = _lost_member(error)
                if lost is None or wants_traceback:
                    raise
                print(f"error: {lost}", file=sys.stderr)
                sys.exit(EXIT_LOST_MEMBER)
            except KeyboardInterrupt:
                print("interrupted: the same command goes on from the last checkpoint, where it has one", file=sys.stderr)
                sys.exit(130)

        return command

    return decorate


def _show_devices() -> None:
    """Gives a member of a sweep on this machine (`cluster=local`) one of its GPUs in turn; submitit hides all of them."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "local" or os.environ.get("CUDA_VISIBLE_DEVICES") != "" or not is_member():
        return
    shown = os.environ.get(_DEVICES, "")
    visible = shown.split(",") if shown else None
    if visible is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        visible = [str(index) for index in range(torch.cuda.device_count())]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[HydraConfig.get().job.num % len(visible)]


def is_member() -> bool:
    """Whether this command runs as a member of a sweep, so that its arguments are not the ones that were typed."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def _together(arguments: list[str]) -> list[str]:
    """Overrides first, where there is no option but `-m`; an option's value could not be told from an override."""
    options = [argument for argument in arguments if argument.startswith("-")]
    return sorted(arguments, key=options.__contains__) if set(options) <= {"-m", "--multirun"} else arguments


def _check_members(config_name: str, arguments: list[str], check: Callable[[Any], object] | None) -> None:
    """Composes every member of a sweep by Hydra's own sweeper, and makes its dataclass, which refuses what makes no sense.

    A sweep with options of Hydra's, or by another sweeper, is left to its members.
    """
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if len(arguments) > len(overrides) + 1 or any(override.startswith("hydra/sweeper") for override in overrides):
        return
    with initialize_config_dir(str(find_configs()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        [members] = BasicSweeper.split_arguments(OverridesParser.create(config_loader=loader).parse_overrides(overrides), None)
        for member in members:
            config = compose(config_name, overrides=member)
            try:
                settings = OmegaConf.to_object(config)
                if check is not None:
                    check(settings)
            except (UserError, HydraException, OmegaConfBaseException) as error:
                reason = next((link for link in _causes(error) if isinstance(link, UserError)), None)
                if reason is None:
                    raise
                swept = " ".join(item for item in member if item not in overrides)
                raise UserError(f"{reason} (the sweep's member {swept or 'without overrides'}; none was started)") from error


def _swept_alone(arguments: list[str]) -> str:
    """The override that names the members of a sweep by what differs among them: all other overrides stay out."""
    same = ["name", "output_root", "overwrite", "resume", "resume_step"]
    for argument in arguments:
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException:
            continue  # an option such as -m; what cannot be read is told by Hydra
        if not override.is_sweep_override():
            same.append(override.get_key_element().lstrip("+~"))
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(dict.fromkeys(same))}]"


def _member_name(overrides: str) -> str:
    """A folder name from the overrides of a member; one that file systems would refuse ends in a hash instead."""
    overrides = overrides.replace("/", "_")  # a path among them would be a path of ours
    if len(overrides.encode()) <= _LONGEST_NAME:
        return overrides or "default"
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:16]
    return f"{overrides.encode()[: _LONGEST_NAME - 17].decode(errors='ignore')}-{digest}"


def _lost_member(error: Exception) -> str | None:
    """One line for a member of a sweep that ended without a result, as submitit tells it; None for any other error."""
    if 'Could not detect "srun"' in str(error):
        return "there is no Slurm on this machine (no srun): submit the sweep from a machine of the cluster, or use cluster=local"
    if str(error).startswith("sbatch:"):  # what it says last is what ended it
        return f"Slurm did not take the sweep ({str(error).strip().splitlines()[-1]}): see hydra.launcher's partition, account and limits"
    if type(error).__name__ not in ("UncompletedJobError", "FailedJobError"):
        return None
    logs = re.search(r"(\S+/\.submitit)/", str(error))
    where = f": its log is below {logs.group(1)}" if logs else ""
    return f"a member of the sweep ended without a result{where}; the same command goes on with those that are not finished"


def quote_text(argument: str, schema: type[Any]) -> str:
    """The override in quotes where its value is a text that Hydra would take for something else, or could not read.

    Only for top-level settings of type `str`: a storyline holds semicolons, commas and brackets, and a shell takes away the
    quotes that were meant for Hydra.

    Example:
        >>> from triptych.run import RunConfig
        >>> quote_text("name=a; b", RunConfig)
        "name='a; b'"
    """
    key, equals, value = argument.partition("=")
    texts = {item.name for item in fields(schema) if item.type in (str, str | None, "str", "str | None")}
    if not equals or key not in texts or value[:1] in ("'", '"'):
        return argument
    try:
        plain = not OverridesParser.create().parse_override(argument).is_sweep_override()
    except HydraException:
        plain = False
    # Hydra takes a backslash for itself unless a quote follows, or the end.
    return argument if plain else key + "='" + re.sub(r"(\\*)('|$)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"


def _refuse(error: Exception, schema: type[Any], wants_traceback: bool) -> NoReturn:
    """Ends the process with one line if the error is the user's, and hands it on if it is ours."""
    if not wants_traceback and is_lost_process(error):
        if "TRIPTYCH_ERROR_MARKER" not in os.environ:  # our launcher knows better who was lost, and how
            print(
                f"error: another process of this run has died or does not answer ({str(error).splitlines()[0][:120]}): "
                "the same command goes on from the last checkpoint",
                file=sys.stderr,
            )
        sys.exit(EXIT_LOST_PROCESS)
    message = explain(error, schema)
    if wants_traceback or message is None:
        raise error
    if _speaks_first():
        print(f"error: {message}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)


def is_lost_process(error: BaseException) -> bool:
    """Whether a collective failed because a peer has gone or stays away: what gloo and NCCL make of it."""
    signs = ("Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Broken pipe", "remote process exited")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def _speaks_first() -> bool:
    """Whether no other process of this run has told its error yet; most errors come to all of them alike."""
    marker = os.environ.get("TRIPTYCH_ERROR_MARKER")
    if marker is None:
        return True
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def explain(error: BaseException, schema: type[Any]) -> str | None:
    """One line for whoever typed the command; None if the error is a defect of ours and deserves its traceback."""
    chain = list(_causes(error))
    for link in chain:
        if isinstance(link, UserError):
            return " ".join(str(link).split())
        if (isinstance(link, OSError) and link.errno in _OUT_OF_REACH) or (not isinstance(link, OSError) and is_disk_error(link)):
            where = f" ({link.filename})" if isinstance(link, OSError) and link.filename else ""
            mend = "make room or choose another output_root, and run the same command again"
            return f"the disk refuses to be written{where}: {describe_disk_error(link)}; {mend}"
        if isinstance(link, ModuleNotFoundError):
            return f"the library '{link.name}' is not installed: install it (the package's extra of that name), or choose another option"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    # Building an object from the config failed for a reason of its own: that is no matter of the config's wording.
    if any(not isinstance(link, HydraException | OmegaConfBaseException | OSError) for link in chain):
        return None
    told, cause = str(error), str(chain[-1])
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}': write key=value, and quote values that hold spaces, commas or brackets"
    unknown = re.search(r"Could not override '([^']+)'", told)
    if unknown:
        table = re.search(r"To append to your config use \+(\S+)=\{\s*([^:\s]+)\s*:\s*([^,}]+)", told)
        if table:
            return f"{table.group(1)} has no such key: add keys one by one, as in +{table.group(1)}.{table.group(2)}={table.group(3)}"
        return f"unknown setting {unknown.group(1)}{_suggest(unknown.group(1), schema)}"
    missing_group = re.search(
        r"Could not find '([^']+)'\s+Available options in '([^']+)':\s+(.*?)(?:Config search path|$)", told, re.DOTALL
    )
    if missing_group:
        return f"unknown choice {missing_group.group(1)}: {missing_group.group(2)} is one of {', '.join(missing_group.group(3).split())}"
    merging = re.search(r"Error merging override (.+)", told)
    if merging:
        return f"{merging.group(1)}: {cause.splitlines()[0]}"
    lines = [line.strip() for line in told.splitlines() if line.strip() and not line.strip().startswith(("object_type", "reference_type"))]
    return "; ".join(lines[:3])


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _suggest(key: str, schema: type[Any]) -> str:
    close = difflib.get_close_matches(key.lstrip("+~"), list(_setting_names(schema)), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else ": --help lists all settings"


def _setting_names(schema: Any, prefix: str = "") -> Iterator[str]:
    for item in fields(schema):
        yield f"{prefix}{item.name}"
        if is_dataclass(item.type):
            yield from _setting_names(item.type, f"{prefix}{item.name}.")


def choice_name(node: Mapping[str, Any] | None) -> str:
    """A short name for a config's choice node: the last part of its `_target_`, or `none`."""
    return "none" if node is None else str(node["_target_"]).rsplit(".", 1)[-1]
