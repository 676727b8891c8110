"""Parts of a model folder: the stages that train them, and the commands in error messages."""

from pathlib import Path

import pytest
import torch
import yaml

from captain_cinema.models.folder import PARTS
from triptych.errors import UserError

ROOT = Path(__file__).parents[3]


def test_every_stage_of_the_shipped_recipe_trains_one_part() -> None:
    recipe = yaml.safe_load((ROOT / "configs" / "cinema" / "recipe" / "shipped.yaml").read_text())
    assert list(PARTS.stages) == recipe["stages"]
    assert [PARTS.made_by(stage) for stage in recipe["stages"]] == [["keyframes"], ["video"]]


@pytest.mark.parametrize("part", ["keyframes", "video"])
def test_a_missing_part_is_refused_with_the_command_that_trains_it(tmp_path: Path, part: str) -> None:
    other = next(name for name in PARTS.stage_of if name != part)
    folder = PARTS.folder(tmp_path)
    folder.save(other, torch.nn.Linear(1, 1), {"width": 1})
    assert folder.has(other)
    assert not folder.has(part)
    with pytest.raises(UserError) as refused:
        folder.sizes_of(part)
    assert f'make train-cinema ARGS="stages=[{part}]"' in str(refused.value)


def test_an_empty_folder_is_refused_with_the_hint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make train-cinema.*leave it out"):
        PARTS.folder(tmp_path, hint="leave it out").sizes_of("keyframes")
