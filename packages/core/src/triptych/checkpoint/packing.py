"""Packing of a trained model as a folder that a package ships: float16 weights, their sizes, and a record.

`record.json` holds the run of each part and, after an evaluation of the packed weights, its result.
"""

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import torch

from triptych.checkpoint.model_folder import CONFIG_FILE, ModelFolder, ModelParts
from triptych.checkpoint.weights import read_safetensors, write_safetensors
from triptych.errors import UserError
from triptych.files import read_json, read_yaml, write_atomically

RECORD_FILE = "record.json"
SHIPPED_MODELS = "triptych.shipped_models"
"""Group of entry points: the name of a model that a package ships -> its `ShippedModel`."""


@dataclass(frozen=True)
class ShippedModel:
    """A model that a package ships in its folder `weights`.

    Attributes:
        parts: parts of the model and the command that trains them.
        package: import name of the package that holds `weights`.
        key: the setting of a command that selects the model, such as `generator`.
    """

    parts: ModelParts
    package: str
    key: str

    def folder(self, path: str | Path | None = None) -> ModelFolder:
        """The model folder at a path; None for the shipped one."""
        if path is not None:
            return self.parts.folder(Path(path), hint=f"omit {self.key}.path to use the shipped model")
        with as_file(files(self.package) / "weights") as shipped:
            return self.parts.folder(shipped, hint="the installation has no weights, reinstall the package")


def pack(run: Path, model: ModelFolder, target: Path) -> dict[str, Any]:
    """Writes a trained model to `target`, in float16, and returns its record, which has no evaluation yet.

    Args:
        run: folder of the run, `outputs/<name>`; each stage is a run below it.
        model: the model that the run wrote.
        target: the folder to write; the files of a model that was packed there before are replaced.

    Raises:
        UserError: if a part of the model or its run is missing, or the folder has other content.
    """
    sizes = model.sizes()
    made = {stage: _made(run / stage) for stage in model.parts.stages}
    missing = [part for part in model.parts.stage_of if not model.has(part)]
    if missing:
        raise UserError(f"{model.path} has no {missing[0]}.safetensors: train it first")
    if target.is_dir() and any(target.iterdir()) and not (target / RECORD_FILE).is_file():
        raise UserError(f"{target} holds files that are not a packed model: choose another folder")
    target.mkdir(parents=True, exist_ok=True)
    written = {}
    for part in model.parts.stage_of:
        path = target / f"{part}.safetensors"
        write_safetensors(path, {name: value.to(torch.float16) for name, value in read_safetensors(model.path / path.name).items()})
        written[path.name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    record = {"made": made, "files": written}
    write_atomically(target / CONFIG_FILE, json.dumps(sizes, indent=1) + "\n")
    write_atomically(target / RECORD_FILE, json.dumps(record, indent=1) + "\n")
    return record


def add_evaluation(target: Path, evaluation: Path, *, key: str, shipped: Path) -> dict[str, Any]:
    """Writes the result of an evaluation of a packed folder into its record.

    Args:
        target: the packed folder.
        evaluation: folder of the evaluation's run.
        key: the setting that holds the path of the model, such as `generator`.
        shipped: the folder that is loaded for a null path.

    Raises:
        UserError: if the folder is not packed, or the evaluation is missing or of another model.
    """
    record = _json(target / RECORD_FILE)
    made = _made(evaluation)
    path = read_yaml(evaluation / "config.yaml", "evaluate again")[key]["path"]
    evaluated = shipped if path is None else Path(path)
    if evaluated.resolve() != target.resolve():
        raise UserError(f"{evaluation} is an evaluation of {evaluated}: evaluate with {key}.path={target}")
    record["evaluation"] = made
    write_atomically(target / RECORD_FILE, json.dumps(record, indent=1) + "\n")
    return record


def _made(run: Path) -> dict[str, Any]:
    config = run / "config.yaml"
    if not config.is_file():
        raise UserError(f"{config} is missing: {run} is not a finished run, train or evaluate first")
    return {
        "seed": read_yaml(config, "train or evaluate again")["seed"],
        "summary": _json(run / "summary.json"),
        "provenance": _json(run / "provenance.json"),
    }


def _json(path: Path) -> dict[str, Any]:
    found = read_json(path, "finish the run first")
    if not isinstance(found, dict):
        raise UserError(f"{path} is no table: finish the run first")
    return found
