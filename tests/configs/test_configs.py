"""Every config composes, and every choice names an existing target that accepts the listed settings."""

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from hydra import compose, initialize
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from omegaconf import OmegaConf

from projects import ROOT, commands
from triptych.commands.configs import accepted_groups
from tts_var.numerics.schedule import plan

CONFIGS = ROOT / "configs"
COMMANDS = commands()
SCHEMAS = {name: command.schema for name, command in COMMANDS.items()}
PANELS = sorted({command.panel for command in COMMANDS.values()})
# Groups that change other settings or several nodes have separate tests.
ELSEWHERE = {"cluster", "experiment", "recipe", "policy_recipe"}


def choices() -> Iterator[tuple[str, str, str]]:
    """Every choice with a command that accepts it: command, group, name."""
    for group in sorted({path.name for panel in (*PANELS, "shared") for path in (CONFIGS / panel).iterdir() if path.is_dir()} - ELSEWHERE):
        command = next(name for name, own in COMMANDS.items() if group in accepted_groups(CONFIGS / own.panel / f"{own.name}.yaml"))
        for folder in (COMMANDS[command].panel, "shared"):
            for path in sorted((CONFIGS / folder / group).glob("*.yaml")):
                yield command, group, path.stem


CHOICES = list(choices())
EXPERIMENTS = [(path.parents[1].name, path.stem) for panel in PANELS for path in sorted((CONFIGS / panel / "experiment").glob("*.yaml"))]
ARGUMENTS_FROM_THE_ENTRY_POINT = {
    "adapter": set(),
    "policy": {"device"}, "rollout": {"policy"}, "strategy": {"world", "max_grad_norm"}, "tracker": {"directory", "run_id", "name", "config"},
    "objective": {"logprobs", "old_logprobs", "advantages", "mask", "behavior_logprobs"}, "task": set(),
    "generator": {"device"}, "reward": {"device"}, "features": {"device"}, "benchmark": set(), "verifier": set(),
    "model": {"device"}, "video": {"device"}, "planner": set(),
}  # fmt: skip


def composed(primary: str, *overrides: str, **options: Any) -> Any:
    COMMANDS[primary].register()
    with initialize(config_path=None, version_base="1.3"):
        return compose(COMMANDS[primary].name, overrides=list(overrides), **options)


def override_keys(command: str, group: str) -> list[str]:
    """The command-line keys of a choice: `memory`, or `memory@memories.golden`."""
    own = COMMANDS[command]
    entries = yaml.safe_load((CONFIGS / own.panel / f"{own.name}.yaml").read_text())["defaults"]
    keys = [key.split()[-1] for entry in entries if isinstance(entry, dict) for key in entry if not key.startswith("override ")]
    return [key for key in keys if key.split("@")[0] == group] or [f"+{group}"]


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}".lstrip("."))


def check_signature(group: str, node: dict[str, Any]) -> None:
    target = get_object(node["_target_"])
    parameters = inspect.signature(target).parameters
    given = {key for key in node if not key.startswith("_")}
    assert given <= parameters.keys(), f"{node['_target_']} takes no {given - parameters.keys()}"
    needed = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    missing = needed - given - ARGUMENTS_FROM_THE_ENTRY_POINT[group]
    assert not missing, f"{node['_target_']} needs {missing}"
    tunable = {
        name for name, parameter in parameters.items() if parameter.default is not inspect.Parameter.empty
    } - ARGUMENTS_FROM_THE_ENTRY_POINT[group]
    assert tunable <= given, f"{group}: tunable arguments are missing from the YAML: {tunable - given}"


@pytest.mark.parametrize("primary", SCHEMAS)
def test_primary_configs_become_their_dataclass(primary: str) -> None:
    config = OmegaConf.to_object(composed(primary))
    assert isinstance(config, SCHEMAS[primary])


def test_every_primary_config_belongs_to_a_command() -> None:
    primaries = {f"{path.stem}_{path.parent.name}" for path in CONFIGS.glob("*/*.yaml") if path.parent.name != "shared"}
    assert primaries == set(SCHEMAS)


@pytest.mark.parametrize("command", SCHEMAS)
def test_help_lists_the_accepted_choices_and_none_of_another_panel(command: str) -> None:
    """Every listed choice composes, and becomes the command's dataclass."""
    COMMANDS[command].register()
    with initialize(config_path=None, version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        groups = [group for group in loader.list_groups("") if group != "hydra"]
        listed = {group: loader.get_group_options(group) for group in groups}
    own = {path.name for folder in (COMMANDS[command].panel, "shared") for path in (CONFIGS / folder).iterdir() if path.is_dir()}
    assert set(groups) <= own
    assert {"cluster", "tracker"} <= set(groups)
    for group, options in listed.items():
        for option in options:
            if group == "cluster" and option != "none":
                pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
            for key in override_keys(command, group):
                OmegaConf.to_container(composed(command, f"{key}={option}"), throw_on_missing=False)


@pytest.mark.parametrize(("primary", "group", "name"), CHOICES)
def test_every_choice_names_a_target_that_accepts_its_settings(primary: str, group: str, name: str) -> None:
    choice = f"{group}/{name}"
    if group == "search":
        for num_scales in (7, 10, 12, 13):
            plan(OmegaConf.to_object(composed(primary, f"search={name}")).search, num_scales)
        return
    if group == "memory":
        OmegaConf.to_object(composed("generate_cinema", f"memory={name}")).memory.plan(8, short_side=8)
        return
    key = override_keys(primary, group)[0]
    tree = OmegaConf.to_container(composed(primary, f"{key}={name}"), resolve=False)
    nodes = dict(targets(tree))
    if choice == "verifier/none":
        assert nodes[key.split("@")[-1]]["_partial_"]
        return
    if name == "none":
        assert isinstance(tree, dict)
        assert tree[group] is None
        return
    if choice == "task/reasoning_gym":
        pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    if choice.startswith("strategy/deepspeed"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    if choice.endswith("/open_clip"):
        pytest.importorskip("open_clip", reason="open_clip is not installed")
    if choice == "tracker/wandb":
        pytest.importorskip("wandb", reason="wandb is not installed")
    check_signature(group, nodes[key.split("@")[-1]])


@pytest.mark.parametrize("cluster", sorted(path.stem for path in (CONFIGS / "shared" / "cluster").glob("*.yaml")))
@pytest.mark.parametrize("primary", sorted(SCHEMAS))
def test_every_command_sweeps_on_every_cluster(primary: str, cluster: str) -> None:
    if cluster != "none":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    config = composed(primary, f"cluster={cluster}", return_hydra_config=True)
    launcher = "BasicLauncher" if cluster == "none" else "LocalLauncher" if cluster == "local" else "SlurmLauncher"
    assert config.hydra.launcher._target_.endswith(f".{launcher}")
    if launcher == "SlurmLauncher":
        assert config.hydra.launcher.tasks_per_node == (config.hydra.launcher.gpus_per_node or 1), "one task for each GPU"
        assert config.hydra.launcher.max_num_timeout > 0, "without it a time limit would end the member permanently"


@pytest.mark.parametrize(("panel", "experiment"), EXPERIMENTS)
def test_every_experiment_composes_with_a_command_of_its_panel(panel: str, experiment: str) -> None:
    accepting = [
        name
        for name, own in COMMANDS.items()
        if own.panel == panel and "experiment" in accepted_groups(CONFIGS / panel / f"{own.name}.yaml")
    ]
    assert accepting
    for primary in accepting:
        OmegaConf.to_object(composed(primary, f"experiment={experiment}"))


def test_every_setting_of_a_schema_is_documented() -> None:
    """Every field has an entry in the docstring of its class."""

    def check(schema: type) -> None:
        documentation = " ".join(base.__doc__ or "" for base in schema.__mro__)
        for field in dataclasses.fields(schema):
            name = field.name
            assert f"{name}:" in documentation, f"{schema.__name__}.{name}"
            if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
                check(field.type)

    for schema in SCHEMAS.values():
        check(schema)


def test_clip_widths_are_those_of_the_paper_and_cite_it() -> None:
    for name in ("gspo", "gspo_token", "grpo"):
        text = (CONFIGS / "gspo" / "objective" / f"{name}.yaml").read_text()
        assert "2507.18071" in text
        assert yaml.safe_load(text)["clip_low"] == {"gspo": 3e-4, "gspo_token": 3e-4, "grpo": 0.2}[name]
        assert yaml.safe_load(text)["clip_high"] == {"gspo": 4e-4, "gspo_token": 4e-4, "grpo": 0.27}[name]
