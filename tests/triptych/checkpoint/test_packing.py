"""Packing: float16 weights with sizes and checksums, the record of the runs, and the evaluation of the packed weights."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from triptych.checkpoint.model_folder import ModelFolder, ModelParts
from triptych.checkpoint.packing import RECORD_FILE, ShippedModel, add_evaluation, pack
from triptych.errors import UserError

STAGE_OF = {"encoder": "first", "decoder": "first", "head": "second"}
PARTS = ModelParts("make it", STAGE_OF)


def write_run(folder: Path, *, seed: int, summary: dict[str, object], path: str | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"seed: {seed}\ngenerator:\n  path: {'null' if path is None else path}\n")
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "provenance.json").write_text(json.dumps({"commit": f"commit of seed {seed}"}))


@pytest.fixture
def trained(tmp_path: Path) -> ModelFolder:
    """A trained model of three parts and the two runs of its stages, in `run`."""
    folder = PARTS.folder(tmp_path / "run" / "model")
    for index, part in enumerate(STAGE_OF):
        torch.manual_seed(index)
        folder.save(part, nn.Linear(3, 2), {"inputs": 3, "index": index})
    write_run(tmp_path / "run" / "first", seed=1, summary={"loss": 0.5})
    write_run(tmp_path / "run" / "second", seed=2, summary={"accuracy": 0.75})
    return folder


def packed(tmp_path: Path, trained: ModelFolder) -> Path:
    pack(tmp_path / "run", trained, tmp_path / "packed")
    return tmp_path / "packed"


def test_packed_weights_are_those_of_the_model_rounded_to_float16(tmp_path: Path, trained: ModelFolder) -> None:
    target = packed(tmp_path, trained)
    for part in STAGE_OF:
        before, after = (load_file(folder / f"{part}.safetensors") for folder in (trained.path, target))
        assert before.keys() == after.keys()
        for key, value in before.items():
            assert value.dtype == torch.float32
            assert torch.equal(after[key], value.half())


def test_a_packed_folder_is_a_model_folder_of_the_same_sizes(tmp_path: Path, trained: ModelFolder) -> None:
    found = PARTS.folder(packed(tmp_path, trained))
    assert found.sizes() == trained.sizes() == {part: {"inputs": 3, "index": index} for index, part in enumerate(STAGE_OF)}
    found.load("head", nn.Linear(3, 2))


def test_the_record_holds_each_run_once_and_the_checksums_of_the_files(tmp_path: Path, trained: ModelFolder) -> None:
    target = packed(tmp_path, trained)
    record = json.loads((target / RECORD_FILE).read_text())
    assert record["made"] == {
        "first": {"seed": 1, "summary": {"loss": 0.5}, "provenance": {"commit": "commit of seed 1"}},
        "second": {"seed": 2, "summary": {"accuracy": 0.75}, "provenance": {"commit": "commit of seed 2"}},
    }
    assert set(record["files"]) == {f"{part}.safetensors" for part in STAGE_OF}
    for name, entry in record["files"].items():
        content = (target / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def test_the_same_model_gives_the_same_bytes(tmp_path: Path, trained: ModelFolder) -> None:
    target = packed(tmp_path, trained)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    assert {path.name: path.read_bytes() for path in packed(tmp_path, trained).iterdir()} == before


def remove_part(run: Path) -> None:
    (run / "model" / "decoder.safetensors").unlink()


def remove_config(run: Path) -> None:
    (run / "second" / "config.yaml").unlink()


def remove_summary(run: Path) -> None:
    (run / "first" / "summary.json").unlink()


def damage_provenance(run: Path) -> None:
    (run / "first" / "provenance.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_part, "has no decoder.safetensors: train it first"),
        (remove_config, r"second/config.yaml is missing: .*second is not a finished run"),
        (remove_summary, r"first/summary.json: finish the run first"),
        (damage_provenance, r"first/provenance.json is not JSON"),
    ],
)
def test_an_unfinished_training_is_refused_and_writes_no_file(
    tmp_path: Path, trained: ModelFolder, damage: Callable[[Path], None], message: str
) -> None:
    damage(tmp_path / "run")
    with pytest.raises(UserError, match=message):
        packed(tmp_path, trained)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("is_null", [False, True])
def test_an_evaluation_of_the_packed_folder_joins_its_record(tmp_path: Path, trained: ModelFolder, is_null: bool) -> None:
    """A null path stands for the shipped folder."""
    target = packed(tmp_path, trained)
    before = json.loads((target / RECORD_FILE).read_text())
    # The same folder by another spelling.
    write_run(tmp_path / "evaluation", seed=7, summary={"score": 0.9}, path=None if is_null else f"{tmp_path}/run/../packed")
    shipped = target if is_null else tmp_path / "elsewhere"
    found = add_evaluation(target, tmp_path / "evaluation", key="generator", shipped=shipped)
    expected = {"seed": 7, "summary": {"score": 0.9}, "provenance": {"commit": "commit of seed 7"}}
    assert found == json.loads((target / RECORD_FILE).read_text()) == before | {"evaluation": expected}


@pytest.mark.parametrize("is_null", [False, True])
def test_an_evaluation_of_other_weights_is_refused(tmp_path: Path, trained: ModelFolder, is_null: bool) -> None:
    target = packed(tmp_path, trained)
    before = (target / RECORD_FILE).read_bytes()
    write_run(tmp_path / "evaluation", seed=7, summary={}, path=None if is_null else str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match=r"is an evaluation of .*elsewhere: evaluate with generator.path=.*packed"):
        add_evaluation(target, tmp_path / "evaluation", key="generator", shipped=tmp_path / "elsewhere")
    assert (target / RECORD_FILE).read_bytes() == before


def test_a_folder_that_is_not_packed_has_no_record(tmp_path: Path) -> None:
    write_run(tmp_path / "evaluation", seed=7, summary={}, path=str(tmp_path))
    with pytest.raises(UserError, match=r"there is no file .*record.json"):
        add_evaluation(tmp_path, tmp_path / "evaluation", key="generator", shipped=tmp_path)


def test_a_shipped_model_is_loaded_from_its_package_or_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "packing_probe" / "weights").mkdir(parents=True)
    (tmp_path / "packing_probe" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    shipped = ShippedModel(PARTS, package="packing_probe", key="generator")
    assert shipped.folder().path == tmp_path / "packing_probe" / "weights"
    with pytest.raises(UserError, match="the installation has no weights"):
        shipped.folder().sizes()
    with pytest.raises(UserError, match=r"other holds no model .*'make it'; omit generator.path to use the shipped model"):
        shipped.folder(tmp_path / "other").sizes()
