"""Search path of configs: the folder that is found, and the groups that a command lists."""

from pathlib import Path

import pytest
from hydra.core.object_type import ObjectType

from triptych.commands.configs import _CommandConfigs, accepted_groups, find_configs
from triptych.errors import UserError


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TRIPTYCH_CONFIGS", raising=False)
    (tmp_path / "configs" / "shared").mkdir(parents=True)
    (tmp_path / "configs" / "shared" / "run.yaml").touch()
    (tmp_path / "inner" / "configs").mkdir(parents=True)  # without shared/run.yaml: not a folder of configs
    monkeypatch.chdir(tmp_path / "inner")
    return tmp_path.resolve()


def test_the_nearest_folder_with_shared_configs_is_found(checkout: Path) -> None:
    assert find_configs("triptych") == checkout / "configs"
    (checkout / "inner" / "configs" / "shared").mkdir()
    (checkout / "inner" / "configs" / "shared" / "run.yaml").touch()
    assert find_configs("triptych") == checkout / "inner" / "configs"


def test_the_environment_takes_precedence(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (checkout / "elsewhere").mkdir()
    monkeypatch.setenv("TRIPTYCH_CONFIGS", "../elsewhere")
    assert find_configs("triptych") == checkout / "elsewhere"
    monkeypatch.setenv("TRIPTYCH_CONFIGS", str(checkout / "absent"))
    with pytest.raises(UserError, match="TRIPTYCH_CONFIGS is '.*absent', which is not a folder: set it to"):
        find_configs("triptych")


def test_outside_of_a_checkout_the_copy_in_the_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_CONFIGS", raising=False)
    monkeypatch.chdir(tmp_path)
    packaged = find_configs("triptych")
    assert packaged.parent.name == "triptych"
    assert (packaged / "shared" / "run.yaml").is_file()


def test_without_a_folder_of_configs_the_message_gives_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_CONFIGS", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no configs/ folder in .* or above it, nor in json: run from a checkout or set TRIPTYCH_CONFIGS"):
        find_configs("json")


def test_accepted_groups_are_those_of_the_defaults_list(tmp_path: Path) -> None:
    primary = tmp_path / "train.yaml"
    primary.write_text(
        "defaults:\n"
        "  - panel_train_schema\n"
        "  - run\n"
        "  - policy: tiny\n"
        "  - memory@memories.golden: golden\n"
        "  - optional recipe: ${task}\n"
        "  - override hydra/launcher: basic\n"
        "  - _self_\n"
    )
    assert accepted_groups(primary) == {"policy", "memory", "recipe"}


def test_only_accepted_groups_are_listed_but_every_file_is_loaded_by_name(tmp_path: Path) -> None:
    for name in ("policy/tiny.yaml", "task/sums.yaml", "train.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("size: 3\n")
    source = _CommandConfigs("triptych", f"{tmp_path}#policy,tracker")
    assert source.list("", ObjectType.GROUP) == ["policy"]
    assert source.list("", ObjectType.CONFIG) == ["train"]
    assert source.list("task", ObjectType.CONFIG) == ["sums"], "inside a group nothing is hidden"
    assert source.load_config("task/sums").config == {"size": 3}
