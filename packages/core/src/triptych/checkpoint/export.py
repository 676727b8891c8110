"""Export of a checkpoint of any strategy to a model folder.

A run writes what an exporter needs beside the weights (sizes, a tokenizer) to `model_files/` once; its checkpoints hold weights only.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
from torch.distributed.checkpoint.state_dict_loader import load

from triptych.checkpoint.checkpointer import Checkpointer
from triptych.checkpoint.model_folder import CONFIG_FILE, write_part
from triptych.distributed import World
from triptych.errors import UserError
from triptych.files import read_json, write_atomically
from triptych.own_files import JOURNAL, OwnFiles

FILES = "model_files"
"""Subfolder of a run with the files that an exporter needs beside the weights."""

_INDEX = "weights.json"
_ORIGIN = "export.json"
_PARTS = "parts.json"


class Exporter(Protocol):
    """Writes a model folder; registered by name as an entry point of the group `triptych.exporters`."""

    def __call__(self, files: Path, weights: Mapping[str, Tensor], output: Path) -> None:
        """Writes a model.

        Args:
            files: what `Exportable.write` wrote.
            weights: the model's state by the names in `Exportable.model`, in host memory; a tied one under its first name.
            output: an existing folder; it may hold other parts of the model.
        """
        ...


@dataclass(frozen=True)
class Exportable:
    """Description of the model in the checkpoints of a run.

    Attributes:
        exporter: name of an entry point of the group `triptych.exporters`.
        component: name of the checkpoint component that a strategy saved.
        model: the module given to that strategy's `prepare`.
        write: writes the files that the exporter needs beside the weights into an existing folder.
    """

    exporter: str
    component: str
    model: nn.Module
    write: Callable[[Path], None]

    def leave(self, own: OwnFiles) -> None:
        """Writes `model_files/` into the folder of a run."""
        partial = own.folder / f".{FILES}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        self.write(partial)
        index = {"exporter": self.exporter, "component": self.component, "weights": state_shapes(self.model)}
        (partial / _INDEX).write_text(json.dumps(index))
        own.install(partial, FILES)


def state_shapes(model: nn.Module) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of every tensor of a model's state by its name; a tied parameter under the first of its names."""
    state = model.state_dict(keep_vars=True)
    first = {id(tensor): name for name, tensor in reversed(state.items())}
    return {
        name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items() if first[id(tensor)] == name
    }


def model_parts(model: nn.Module, parts: Mapping[str, tuple[nn.Module, Mapping[str, Any]]]) -> Exportable:
    """Parts of `model`, with their sizes, as what `triptych.checkpoint.model_folder.ModelFolder` holds."""
    names = {id(module): name for name, module in model.named_modules()}
    table = {part: {"module": names[id(module)], "sizes": dict(sizes)} for part, (module, sizes) in parts.items()}

    def write(folder: Path) -> None:
        (folder / _PARTS).write_text(json.dumps(table, indent=1))

    return Exportable("model_folder", "strategy", model, write)


def export_parts(files: Path, weights: Mapping[str, Tensor], output: Path) -> None:
    """The exporter `model_folder`: one safetensors file for each part, and all sizes in `config.json`."""
    for part, entry in read_json(files / _PARTS, "export a run that is complete").items():
        prefix = f"{entry['module']}." if entry["module"] else ""
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        write_part(output, part, own, entry["sizes"])


def export(folder: Path, output: Path | None = None, step: int | None = None) -> tuple[Path, dict[str, int]]:
    """Makes a model folder of a run's checkpoint, or of the checkpoints of all stages of a training.

    The weights pass through host memory one run at a time. Every file is compared with its checksum first.

    Args:
        folder: of a run, or of a training whose stages are runs below it; parts of a model that no stage trained are taken
            from its `model/`.
        output: the model folder; None for `export` below `folder`. The files of an earlier export are replaced, other content refused.
        step: of the checkpoint; None for the newest.

    Returns:
        The model folder, and the step of each run in it.

    Raises:
        UserError: if there is no such run or checkpoint, it is damaged, or `output` has other content.
    """
    runs = [folder] if (folder / FILES).is_dir() else [path.parent for path in sorted(folder.glob(f"*/{FILES}"))]
    if not runs:
        raise UserError(f"{folder} holds no run whose model can be exported: give the folder of a training")
    indices = [_read_index(run) for run in runs]
    if len(runs) > 1 and any(index["exporter"] != "model_folder" for index in indices):
        raise UserError(f"{folder} holds {len(runs)} runs: export one of them, such as {runs[0]}")
    if len(runs) > 1 and step is not None:
        raise UserError(f"{folder} holds {len(runs)} stages: --step chooses a checkpoint of one of them, such as {runs[-1]}")
    target = folder / "export" if output is None else output
    foreign = target.exists() and (not target.is_dir() or any(path.name != JOURNAL for path in target.iterdir()))
    if foreign and not (target / _ORIGIN).is_file():
        raise UserError(f"{target} holds files that are not an earlier export: choose another --output")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        found = {run: _export_run(run, index, partial, step) for run, index in zip(runs, indices, strict=True)}
        if folder not in runs:
            _add_parts(folder / "model", partial)
        steps = {run.name: at for run, at in found.items()}
        write_atomically(partial / _ORIGIN, json.dumps({"run": str(folder.resolve()), "steps": steps}, indent=1))
        target.mkdir(exist_ok=True)
        own = OwnFiles(target)
        own.clear()
        own.install(partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target, steps


def _read_index(run: Path) -> Mapping[str, Any]:
    index = read_json(run / FILES / _INDEX, "the run is damaged, export another one")
    if not isinstance(index, dict) or set(index) != {"exporter", "component", "weights"}:
        raise UserError(f"{run / FILES / _INDEX} does not describe a model: the run is damaged, export another one")
    return index


def _export_run(run: Path, index: Mapping[str, Any], output: Path, step: int | None) -> int:
    checkpointer = Checkpointer(run / "checkpoints", World())
    chosen = checkpointer.choose(step, option="--step")
    if chosen is None:
        raise UserError(f"{run} holds no checkpoint yet: wait until it has written one")
    damage = checkpointer.damage(chosen)
    if damage is not None:
        raise UserError(f"checkpoint {checkpointer.path(chosen)} is damaged or has just been removed ({damage}): choose another by --step")
    exporters = entry_points(group="triptych.exporters", name=index["exporter"])
    if not exporters:
        raise UserError(f"no installed package provides the exporter '{index['exporter']}' of {run}: install the package that trained it")
    exporter: Exporter = next(iter(exporters)).load()
    try:
        weights = read_weights(checkpointer.path(chosen) / index["component"], index["weights"])
    except FileNotFoundError:  # a running training removes old checkpoints
        raise UserError(f"checkpoint {checkpointer.path(chosen)} was removed while it was read: rerun the same command") from None
    exporter(run / FILES, weights, output)
    return chosen


def _add_parts(model: Path, output: Path) -> None:
    """Copies the parts of the model folder `model` that `output` does not have."""
    if not (model / CONFIG_FILE).is_file():
        return
    known = read_json(output / CONFIG_FILE, "export again")
    for part, sizes in read_json(model / CONFIG_FILE, "train the model again").items():
        source = model / f"{part}.safetensors"
        if part not in known and source.is_file():
            shutil.copyfile(source, output / source.name)
            known[part] = sizes
    write_atomically(output / CONFIG_FILE, json.dumps(known, indent=1))


def read_weights(directory: Path, shapes: Mapping[str, tuple[list[int], str]]) -> dict[str, Tensor]:
    """The full state dict of a model, in host memory, from the files of any strategy.

    Args:
        directory: what `Strategy.save` filled: safetensors files, of whole tensors or of shards.
        shapes: the result of `state_shapes`.

    Raises:
        UserError: if a tensor is missing or has another shape.
    """
    state = {name: torch.empty(shape, dtype=getattr(torch, dtype)) for name, (shape, dtype) in shapes.items()}
    saved = dict(_saved_names(directory))
    missing = next((name for name in state if name not in saved), None)
    if missing is not None:
        raise UserError(f"{directory} does not hold the model of this run: it has no '{missing}'")
    # Sharding strategies save scalars with the shape (1,).
    table = {saved[name][0]: tensor.view(1) if saved[name][1] == (1,) and tensor.dim() == 0 else tensor for name, tensor in state.items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process is intended
            load(table, storage_reader=HuggingFaceStorageReader(str(directory)), no_dist=True)
    except CheckpointException as error:
        reason = str(next(iter(error.failures.values()))[0]).splitlines()[0]
        raise UserError(f"{directory} does not hold the model of this run: {reason}") from None
    return state


def _saved_names(directory: Path) -> Iterator[tuple[str, tuple[str, torch.Size]]]:
    """For each tensor of the model, its name and shape in a strategy's files; optimizer states have other prefixes and are skipped."""
    metadata: Any = HuggingFaceStorageReader(str(directory)).read_metadata()
    for name, entry in metadata.state_dict_metadata.items():
        kind, slash, rest = name.partition("/")
        if not slash or kind == "model":
            yield rest if slash else name, (name, entry.size)
