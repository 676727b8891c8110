"""Code that configs name: what is outside of a command's packages, however it is spelled, and what a lab allows."""

import pytest

from triptych.errors import UserError
from triptych.run.config import RunConfig
from triptych.run.targets import check_targets, origin, outside_targets, package_of

OWN = {"triptych"}
SETTINGS = {
    "tracker": {"_target_": "triptych.telemetry.tracking.terminal.TerminalTracker"},
    "task": {"_target_": "mylab.tasks.Task", "inner": [{"_target_": "torch.load"}]},
    "alias": {"_target_": "triptych.checkpoint.checkpointer.shutil.rmtree"},
    "text": "_target_",
}


def test_targets_outside_are_found_at_any_depth_and_under_other_names() -> None:
    assert outside_targets(SETTINGS, OWN) == ["mylab.tasks.Task", "torch.load", "triptych.checkpoint.checkpointer.shutil.rmtree"]
    assert outside_targets(SETTINGS, {*OWN, "mylab", "shutil", "torch"}) == []


def test_the_origin_is_the_definition() -> None:
    assert origin("triptych.checkpoint.checkpointer.shutil.rmtree", OWN) == "shutil.rmtree"
    assert origin("triptych.run.config.RunConfig", OWN) == "triptych.run.config.RunConfig"
    assert origin("triptych.no.such.thing", OWN) == "triptych.no.such.thing"
    assert origin("mylab.module_that_is_never_imported", OWN) == "mylab.module_that_is_never_imported"


def test_nothing_outside_is_imported() -> None:
    import sys

    outside_targets({"a": {"_target_": "antigravity.open"}}, OWN)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("allowed", "refused"),
    [
        (None, None),
        ([], "mylab.tasks.Task"),
        (["mylab"], "torch.load"),
        (["mylab.tasks", "torch.load"], r"triptych\.checkpoint\.checkpointer\.shutil\.rmtree \(shutil\.rmtree\)"),
        (["mylab.tasks.Task", "torch", "shutil.rmtree"], None),
        (["my", "torch"], "mylab.tasks.Task"),
    ],
)
def test_a_lab_can_restrict_what_configs_name(allowed: list[str] | None, refused: str | None) -> None:
    if refused is None:
        check_targets(SETTINGS, OWN, allowed)
    else:
        with pytest.raises(UserError, match=f"_target_ {refused} is not allowed: allowed_targets has"):
            check_targets(SETTINGS, OWN, allowed)


def test_the_package_of_a_class() -> None:
    assert package_of(RunConfig) == "triptych"
