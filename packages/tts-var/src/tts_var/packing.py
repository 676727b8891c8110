"""`python -m tts_var.packing RUN TARGET`: a trained model as the small folder that a package can ship.

The folder holds the weights in half precision, their sizes, and `record.json`: who made each part. How good the packed
weights are is added when they have been evaluated: `python -m tts_var.packing --evaluation EVALUATION TARGET`.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from triptych.checkpoint import write_atomically
from triptych.console import get_logger, setup_logging
from triptych.errors import UserError
from triptych.weights import CONFIG_FILE
from tts_var.small_model import STAGE_OF, model_folder, shipped_folder

_logger = get_logger("packing")

RECORD_FILE = "record.json"


def pack(run: Path, target: Path) -> dict[str, Any]:
    """Writes the model of a `var-train` run to `target`, in float16, and returns its record, still without a quality.

    Args:
        run: folder of the run, `outputs/<name>`.
        target: where the folder goes; existing files of the same names are replaced.

    Raises:
        UserError: if a part of the model or its run is missing.
    """
    model = run / "model"
    sizes = model_folder(model).sizes()
    made = {stage: _made(run / stage) for stage in dict.fromkeys(STAGE_OF.values())}
    missing = [part for part in STAGE_OF if not (model / f"{part}.safetensors").is_file()]
    if missing:
        raise UserError(f"{model} has no {missing[0]}.safetensors: train it with 'make train-var'")
    target.mkdir(parents=True, exist_ok=True)
    files = {}
    for part in STAGE_OF:
        path = target / f"{part}.safetensors"
        partial = path.with_suffix(".partial")
        save_file({name: value.to(torch.float16) for name, value in load_file(model / f"{part}.safetensors").items()}, partial)
        partial.chmod(0o644)  # safetensors leaves them to their owner alone
        partial.replace(path)
        files[path.name] = {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    record = {"made": made, "files": files}
    write_atomically(target / CONFIG_FILE, json.dumps(sizes, indent=1) + "\n")
    write_atomically(target / RECORD_FILE, json.dumps(record, indent=1) + "\n")
    return record


def add_evaluation(target: Path, evaluation: Path) -> dict[str, Any]:
    """Writes into the record of a packed folder what an evaluation of this folder came to.

    Raises:
        UserError: if the folder is not packed, or the evaluation is missing or about another model.
    """
    record = _json(target / RECORD_FILE)
    made = _made(evaluation)
    path = yaml.safe_load((evaluation / "config.yaml").read_text())["generator"]["path"]
    evaluated = shipped_folder() if path is None else Path(path)
    if evaluated.resolve() != target.resolve():
        raise UserError(f"{evaluation} is an evaluation of {evaluated}: evaluate with generator.path={target}")
    record["evaluation"] = made
    write_atomically(target / RECORD_FILE, json.dumps(record, indent=1) + "\n")
    return record


def _made(run: Path) -> dict[str, Any]:
    config = run / "config.yaml"
    if not config.is_file():
        raise UserError(f"{config} is missing: {run} is no finished run")
    return {
        "seed": yaml.safe_load(config.read_text())["seed"],
        "summary": _json(run / "summary.json"),
        "provenance": _json(run / "provenance.json"),
    }


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: is the run finished?") from error


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Packs a trained model of the small world.")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("run", type=Path, nargs="?", help="folder of the training, outputs/<name>")
    source.add_argument("--evaluation", type=Path, help="folder of an evaluation of the packed model")
    parser.add_argument("target", type=Path, help="folder to write")
    arguments = parser.parse_args()
    setup_logging(0, world_size=1)
    try:
        record = pack(arguments.run, arguments.target) if arguments.run else add_evaluation(arguments.target, arguments.evaluation)
    except UserError as error:
        parser.exit(2, f"error: {error}\n")
    total = sum(entry["bytes"] for entry in record["files"].values())
    _logger.info("%s: %d files, %.1f MB", arguments.target, len(record["files"]), total / 1e6)


if __name__ == "__main__":
    main()
