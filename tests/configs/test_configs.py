"""Every config composes, and every choice names something that exists and takes the settings it lists."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.utils import get_object
from omegaconf import OmegaConf

from captain_cinema import evaluate as evaluate_cinema
from captain_cinema import train as train_cinema
from captain_cinema.generate import FilmRun
from gspo_rl.evaluate import EvaluateConfig
from gspo_rl.train import TrainConfig
from tts_var import evaluate as evaluate_var
from tts_var import sample as sample_var
from tts_var import train as train_var
from tts_var.batch_schedule import plan

CONFIGS = Path(__file__).parents[2] / "configs"
SCHEMAS = {
    "train_gspo": TrainConfig, "evaluate_gspo": EvaluateConfig, "train_var": train_var.TrainConfig, "sample_var": sample_var.SampleConfig,
    "evaluate_var": evaluate_var.EvaluateConfig, "train_cinema": train_cinema.TrainConfig, "generate_cinema": FilmRun,
    "evaluate_cinema": evaluate_cinema.EvaluateConfig,
}  # fmt: skip
# The primary config in which a group's choices are tried; train_gspo for those not listed.
PRIMARY_OF = dict.fromkeys(("generator", "reward", "features", "search"), "sample_var") | dict.fromkeys(
    ("memory", "model", "video"), "generate_cinema"
)
GROUPS = sorted({path.name for path in CONFIGS.iterdir() if path.is_dir()} - {"cluster", "experiment", "recipe"})
CHOICES = [f"{path.parent.name}/{path.stem}" for group in GROUPS for path in sorted((CONFIGS / group).glob("*.yaml"))]
EXPERIMENTS = [str(path.relative_to(CONFIGS / "experiment").with_suffix("")) for path in sorted((CONFIGS / "experiment").rglob("*.yaml"))]
ARGUMENTS_FROM_THE_ENTRY_POINT = {
    "policy": {"device"}, "rollout": {"policy"}, "strategy": {"world", "max_grad_norm"}, "tracker": {"directory", "run_id", "name", "config"},
    "objective": {"logprobs", "old_logprobs", "advantages", "mask"}, "task": set(),
    "generator": {"device"}, "reward": set(), "features": set(),
    "model": {"device"}, "video": set(),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _schemas() -> None:
    for name, schema in SCHEMAS.items():
        ConfigStore.instance().store(name=f"{name}_schema", node=schema)


def composed(primary: str, *overrides: str) -> Any:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(primary, overrides=list(overrides))


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
    assert tunable <= given, f"{group}: every argument that may be tuned is listed, not so {tunable - given}"


@pytest.mark.parametrize("primary", SCHEMAS)
def test_primary_configs_become_their_dataclass(primary: str) -> None:
    config = OmegaConf.to_object(composed(primary))
    assert isinstance(config, SCHEMAS[primary])


def test_every_primary_config_is_tested() -> None:
    primaries = {path.stem for path in CONFIGS.glob("*.yaml") if f"{path.stem}_schema" in path.read_text()}
    assert primaries == set(SCHEMAS)


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_names_something_that_takes_its_settings(choice: str) -> None:
    group, name = choice.split("/")
    primary = PRIMARY_OF.get(group, "train_gspo")
    if group == "search":
        plan(OmegaConf.to_object(composed(primary, f"search={name}")).search, num_scales=7)
        return
    if group == "memory":
        OmegaConf.to_object(composed(primary, f"memory={name}")).memory.plan(8, short_side=8)
        return
    tree = OmegaConf.to_container(composed(primary, f"{group}={name}"), resolve=False)
    nodes = dict(targets(tree))
    if name == "none":
        assert isinstance(tree, dict)
        assert tree[group] is None
        return
    if choice == "task/reasoning_gym":
        pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed")
    if choice.startswith("strategy/deepspeed"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed")
    if choice == "tracker/wandb":
        pytest.importorskip("wandb", reason="wandb is not installed")
    check_signature(group, nodes[group])


@pytest.mark.parametrize("cluster", sorted(path.stem for path in (CONFIGS / "cluster").glob("*.yaml")))
@pytest.mark.parametrize("primary", sorted(SCHEMAS))
def test_every_command_sweeps_on_every_cluster(primary: str, cluster: str) -> None:
    if cluster != "none":
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose(primary, overrides=[f"cluster={cluster}"], return_hydra_config=True)
    launcher = "BasicLauncher" if cluster == "none" else "LocalLauncher" if cluster == "local" else "SlurmLauncher"
    assert config.hydra.launcher._target_.endswith(f".{launcher}")
    if launcher == "SlurmLauncher":
        assert config.hydra.launcher.tasks_per_node == (config.hydra.launcher.gpus_per_node or 1), "one task for each GPU"
        assert config.hydra.launcher.max_num_timeout > 0, "or a time limit would end the member for good"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes(experiment: str) -> None:
    primary = {"cinema": "evaluate_cinema", "gspo": "train_gspo", "var": "evaluate_var"}[experiment.split("/")[0]]
    OmegaConf.to_object(composed(primary, f"experiment={experiment}"))


def test_every_setting_of_a_schema_is_documented() -> None:
    """A field without a line of meaning in its class's docstring cannot be set by anybody who has not read the code."""

    def check(schema: type) -> None:
        documentation = " ".join(base.__doc__ or "" for base in schema.__mro__)
        for name, field in schema.__dataclass_fields__.items():
            assert f"{name}:" in documentation, f"{schema.__name__}.{name}"
            if isinstance(field.type, type) and hasattr(field.type, "__dataclass_fields__"):
                check(field.type)

    for schema in SCHEMAS.values():
        check(schema)


def test_numbers_of_the_paper_cite_it() -> None:
    for name in ("gspo", "gspo_token", "grpo"):
        text = (CONFIGS / "objective" / f"{name}.yaml").read_text()
        assert "2507.18071" in text
        assert yaml.safe_load(text)["clip_low"] == {"gspo": 3e-4, "gspo_token": 3e-4, "grpo": 0.2}[name]
        assert yaml.safe_load(text)["clip_high"] == {"gspo": 4e-4, "gspo_token": 4e-4, "grpo": 0.27}[name]
