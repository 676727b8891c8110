"""Members of a sweep (`-m`): validation before the first starts, folder names from the differing overrides, GPU assignment."""

import hashlib
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from hydra import compose, initialize
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from triptych.commands.arguments import explaining_arguments
from triptych.commands.messages import causes
from triptych.errors import UserError

_DEVICES = "TRIPTYCH_VISIBLE_DEVICES"  # of the command that starts a sweep
_LONGEST_NAME = 200  # bytes; file systems take 255


def is_sweep() -> bool:
    """Whether the command line starts a sweep."""
    return bool({"-m", "--multirun"} & set(sys.argv))


def prepare_sweep(name: str, check: Callable[[Any], object] | None) -> None:
    """Checks all members, and rewrites the command line so that each is named by the overrides that differ among them.

    Raises:
        UserError: if several processes started the sweep, or the settings of a member are invalid.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            "a sweep (-m) was started by several processes: start it with NPROC=1 and choose the resources of a member with cluster="
        )
    _check_members(name, sys.argv[1:], check)
    # Hydra requires the overrides to be contiguous, before or after its options.
    sys.argv[1:] = _together(sys.argv[1:])
    os.environ.setdefault(_DEVICES, os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    last = max((index for index, argument in enumerate(sys.argv) if "=" in argument and argument[0] != "-"), default=0)
    sys.argv.insert(last + 1, _exclude_unswept(sys.argv[1:]))


def is_member() -> bool:
    """Whether this command runs as a member of a sweep, whose overrides differ from the command line."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def member_name(overrides: str) -> str:
    """A folder name from the overrides of a member; one too long for file systems is truncated and ends in a hash."""
    overrides = overrides.replace("/", "_")  # a path among them must not make subfolders
    if len(overrides.encode()) <= _LONGEST_NAME:
        return overrides or "default"
    digest = hashlib.sha256(overrides.encode()).hexdigest()[:16]
    return f"{overrides.encode()[: _LONGEST_NAME - 17].decode(errors='ignore')}-{digest}"


def show_devices() -> None:
    """Assigns the GPUs of this machine to the members of a sweep with `cluster=local` in turn; submitit hides all of them."""
    if os.environ.get("SUBMITIT_EXECUTOR") != "local" or os.environ.get("CUDA_VISIBLE_DEVICES") != "" or not is_member():
        return
    shown = os.environ.get(_DEVICES, "")
    visible = shown.split(",") if shown else None
    if visible is None:
        del os.environ["CUDA_VISIBLE_DEVICES"]
        visible = [str(index) for index in range(torch.cuda.device_count())]
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[HydraConfig.get().job.num % len(visible)]


def lost_member(error: Exception) -> str | None:
    """One line for submitit's error about a member that ended without a result; None for any other error."""
    if 'Could not detect "srun"' in str(error):
        return "there is no Slurm on this machine (no srun): submit the sweep from a machine of the cluster, or use cluster=local"
    if str(error).startswith("sbatch:"):  # the last line is the cause
        return f"Slurm rejected the sweep ({str(error).strip().splitlines()[-1]}): check partition, account and limits in hydra.launcher"
    if type(error).__name__ not in ("UncompletedJobError", "FailedJobError"):
        return None
    logs = re.search(r"(\S+/\.submitit)/", str(error))
    where = f": its log is below {logs.group(1)}" if logs else ""
    return f"a member of the sweep ended without a result{where}; rerun the same command to resume the unfinished members"


def _together(arguments: list[str]) -> list[str]:
    """Overrides first, if `-m` is the only option; the value of another option cannot be distinguished from an override."""
    options = [argument for argument in arguments if argument.startswith("-")]
    return sorted(arguments, key=options.__contains__) if set(options) <= {"-m", "--multirun"} else arguments


def _check_members(name: str, arguments: list[str], check: Callable[[Any], object] | None) -> None:
    """Composes every member of a sweep with Hydra's own sweeper, and builds its dataclass, which refuses invalid settings.

    A sweep with further options of Hydra, or with another sweeper, is not checked here; its members check themselves.
    """
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    if len(arguments) > len(overrides) + 1 or any(override.startswith("hydra/sweeper") for override in overrides):
        return
    with initialize(config_path=None, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        # One list of overrides per member, in the order in which Hydra numbers them.
        [members] = BasicSweeper.split_arguments(OverridesParser.create(config_loader=loader).parse_overrides(overrides), None)
        for member in members:
            config = compose(name, overrides=member)
            try:
                settings = OmegaConf.to_object(config)
                if check is not None:
                    with explaining_arguments(config):
                        check(settings)
            except (UserError, HydraException, OmegaConfBaseException) as error:
                reason = next((link for link in causes(error) if isinstance(link, UserError)), None)
                if reason is None:
                    raise
                swept = " ".join(item for item in member if item not in overrides)
                raise UserError(f"{reason} (sweep member {swept or 'without overrides'}; none was started)") from error


def _exclude_unswept(arguments: list[str]) -> str:
    """The override of Hydra that names members by the swept overrides: all others are excluded from the name."""
    same = ["name", "output_root", "overwrite", "resume", "resume_step"]
    for argument in arguments:
        try:
            override = OverridesParser.create().parse_override(argument)
        except HydraException:
            continue  # an option such as -m; Hydra reports what it cannot parse
        if not override.is_sweep_override():
            same.append(override.get_key_element().lstrip("+~"))
    return f"hydra.job.config.override_dirname.exclude_keys=[{','.join(dict.fromkeys(same))}]"
