"""One-line messages: errors of Hydra as it raises them, of the disk and of lost processes; bugs keep their traceback."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore
from hypothesis import given
from hypothesis import strategies as st

from triptych.commands.messages import causes, choice_name, explain, is_first_to_report, is_lost_process, quote_text, refuse, renamed_key
from triptych.errors import EXIT_LOST_PROCESS, UserError
from triptych.run.config import RunConfig


@dataclass
class ProbeConfig(RunConfig):
    """A schema with one free node, a former key and a former choice."""

    RENAMED: ClassVar[dict[str, str]] = {"start_seed": "seed", "shape=ball": "shape=round"}

    part: Any = None


@pytest.fixture(scope="module", autouse=True)
def _configs() -> None:
    store = ConfigStore.instance()
    store.store(name="probe_schema", node=ProbeConfig)
    store.store(name="probe", node={"defaults": ["probe_schema", {"shape@part": "round"}, "_self_"]})
    store.store(group="shape", name="round", node={"radius": 1})
    store.store(group="shape", name="flat", node={"side": 1})


def message_for(override: str) -> str | None:
    with pytest.raises(Exception) as caught, initialize(config_path=None, version_base="1.3"):  # noqa: PT011
        compose("probe", overrides=[override])
    return explain(caught.value, ProbeConfig)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeed=1", "unknown setting seeed: did you mean seed?"),
        ("checkpoint.keeep=1", "unknown setting checkpoint.keeep: did you mean checkpoint.keep?"),
        ("zzzzzzzz=1", "unknown setting zzzzzzzz: --help lists all settings"),
        ("start_seed=1", "start_seed was renamed: use seed"),
        ("seed=abc", "seed=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        ("name=[a", "cannot read 'name=[a': write key=value, and quote values that hold spaces, commas or brackets"),
        ("shape@part=oval", "unknown choice shape/oval: shape is one of flat, round"),
        ("shape@part=ball", "shape=ball was renamed: use shape=round"),
        ("shape@part=panel/flat", "unknown choice shape/panel/flat: it is shape=flat"),
        ("shape@part=panel_flat", "unknown choice shape/panel_flat: it is shape=flat"),
        ("shape=flat", "this command selects shape as shape@part"),
    ],
)
def test_errors_of_hydra_become_one_line(override: str, message: str) -> None:
    assert message_for(override) == message


def test_an_unknown_table_is_explained_by_its_first_key() -> None:
    found = message_for("part.extra={a: 3}")
    assert found == "part.extra has no such key: add its keys separately, as in +part.extra.a=3"


def raised_from(error: Exception, cause: BaseException) -> Exception:
    try:
        raise error from cause
    except Exception as raised:
        return raised


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("a is 1:\n  choose 2"), "a is 1: choose 2"),
        (raised_from(RuntimeError("instantiation failed"), UserError("a is 1: choose 2")), "a is 1: choose 2"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            "cannot write to the disk (/data/x): No space left on device; make room or choose another output_root, and rerun the same command",
        ),
        (
            RuntimeError("PytorchStreamWriter failed writing file"),
            "cannot write to the disk: No space left on device; make room or choose another output_root, and rerun the same command",
        ),
        (
            ModuleNotFoundError("No module named 'absent'", name="absent"),
            "the library 'absent' is not installed: install it, or choose another option",
        ),
    ],
    ids=["user", "cause", "full disk", "torch", "library"],
)
def test_errors_of_the_user_and_the_disk_are_explained(error: Exception, message: str) -> None:
    assert explain(error, RunConfig) == message


@pytest.mark.parametrize(
    "error", [ValueError("shapes differ"), FileNotFoundError(errno.ENOENT, "No such file or directory", "a"), KeyError("a")]
)
def test_a_bug_has_no_message_and_is_raised_again(error: Exception) -> None:
    assert explain(error, RunConfig) is None
    with pytest.raises(type(error)) as caught:
        refuse(error, RunConfig, False)
    assert caught.value is error


@given(st.text(min_size=1))
def test_a_message_is_one_line(text: str) -> None:
    found = explain(UserError(text), RunConfig)
    assert found is not None
    assert len(found.splitlines()) <= 1


def test_bad_input_exits_with_2_and_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIPTYCH_ERROR_MARKER", raising=False)
    with pytest.raises(SystemExit) as caught:
        refuse(UserError("a is 1: choose 2"), RunConfig, False)
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: a is 1: choose 2\n")
    with pytest.raises(UserError, match="choose 2"):
        refuse(UserError("a is 1: choose 2"), RunConfig, True)


def test_only_the_first_process_of_a_run_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPTYCH_ERROR_MARKER", str(tmp_path / "reported"))
    for _ in range(2):
        with pytest.raises(SystemExit) as caught:
            refuse(UserError("a is 1: choose 2"), RunConfig, False)
        assert caught.value.code == 2
    assert capsys.readouterr().err.count("error: ") == 1
    monkeypatch.delenv("TRIPTYCH_ERROR_MARKER")
    assert is_first_to_report(), "a single process reports always"


def test_a_lost_process_is_reported_here_or_by_the_launcher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1\nframes follow")
    assert is_lost_process(lost)
    assert not is_lost_process(OSError("Broken pipe")), "a pipe of this process is no peer"
    monkeypatch.delenv("TRIPTYCH_ERROR_MARKER", raising=False)
    with pytest.raises(SystemExit) as caught:
        refuse(lost, RunConfig, False)
    assert caught.value.code == EXIT_LOST_PROCESS
    printed = capsys.readouterr().err
    assert printed.startswith("error: another process of this run has died or does not respond ([gloo/transport")
    assert printed.endswith("; rerun the same command to resume from the last checkpoint\n")
    assert printed.count("\n") == 1
    monkeypatch.setenv("TRIPTYCH_ERROR_MARKER", str(tmp_path / "reported"))
    with pytest.raises(SystemExit):
        refuse(lost, RunConfig, False)
    assert capsys.readouterr().err == ""


def test_causes_follow_explicit_and_implicit_links_but_not_suppressed_ones() -> None:
    first = KeyError("first")
    implicit = ValueError("implicit")
    implicit.__context__ = first
    assert list(causes(raised_from(RuntimeError("outer"), implicit)))[1:] == [implicit, first]
    implicit.__suppress_context__ = True
    assert list(causes(implicit)) == [implicit]


def test_a_renamed_table_renames_its_keys_only() -> None:
    renamed = {"drawing": "sampling"}
    assert renamed_key("drawing.mode", renamed) == "drawing.mode was renamed: use sampling.mode"
    assert renamed_key("drawings", renamed) is None


@pytest.mark.parametrize(
    ("argument", "quoted"),
    [
        ("name=plain", "name=plain"),
        ("name=a, b", "name='a, b'"),
        ("name=it's [x]; y", r"name='it\'s [x]; y'"),
        ("name='a, b'", "name='a, b'"),  # quoted by the user
        ("seed=1,2", "seed=1,2"),  # not a string
        ("checkpoint.keep=[", "checkpoint.keep=["),  # nested
        ("-m", "-m"),
    ],
)
def test_only_strings_at_the_top_level_are_quoted(argument: str, quoted: str) -> None:
    assert quote_text(argument, RunConfig) == quoted


def test_a_choice_is_named_by_its_target() -> None:
    assert choice_name(None) == "none"
    assert choice_name({"_target_": "package.module.Thing", "a": 1}) == "Thing"
