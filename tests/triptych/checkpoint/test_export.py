"""Export of a run's checkpoints to a model folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from triptych.checkpoint.checkpointer import CheckpointConfig
from triptych.checkpoint.export import export
from triptych.checkpoint.model_folder import ModelFolder, ModelParts
from triptych.errors import UserError
from triptych.optim import OptimizerConfig
from triptych.own_files import JOURNAL, OwnFiles
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.strategy.ddp import DDPStrategy
from triptych.training.loop import TrainerConfig, fit


class Lines(nn.Module):
    """Two parts, and a parameter outside both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.ModuleDict({"encoder": nn.Linear(2, 3), "decoder": nn.Linear(3, 1)})
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * self.inner["decoder"](self.inner["encoder"](x))


class LineStage:
    num_examples = 8

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def losses(self, model: nn.Module, indices: Sequence[int], *, step: int, first: int, batch_size: int) -> Mapping[str, Tensor]:
        x = torch.tensor([[index, 1.0] for index in indices])
        return {"loss": (model(x) - x[:, :1]).square().mean()}


PARTS = ModelParts("make it", dict.fromkeys(("part", "encoder", "decoder", "tokenizer"), "all"))
SIZES = {"width": 3}


def train(root: Path, name: str, steps: int = 4) -> Lines:
    model = Lines()
    parts = {"encoder": (model.inner["encoder"], SIZES), "decoder": (model.inner["decoder"], {})}
    settings = RunConfig(name=name, output_root=str(root), device="cpu", checkpoint=CheckpointConfig(every_steps=2, keep=9))
    with Run.open(settings) as run:
        strategy = DDPStrategy(run.world, max_grad_norm=1.0)
        trainer = TrainerConfig(max_steps=steps, batch_size=4, log_every=1)
        fit(run, LineStage(model), strategy, trainer, OptimizerConfig(), columns=(), parts=parts)
    return model


def holds(folder: Path, part: str, module: nn.Module) -> bool:
    found = load_file(folder / f"{part}.safetensors")
    return found.keys() == module.state_dict().keys() and all(torch.equal(found[key], value) for key, value in module.state_dict().items())


def test_an_unfinished_run_is_exported(tmp_path: Path) -> None:
    trained = train(tmp_path, "a")
    folder, steps = export(tmp_path / "a")
    assert (folder, steps) == (tmp_path / "a" / "export", {"a": 4})
    assert all(holds(folder, part, trained.inner[part]) for part in ("encoder", "decoder"))
    assert ModelFolder(folder, PARTS, hint="").sizes() == {"encoder": SIZES, "decoder": {}}
    first = train(tmp_path / "other", "a", steps=2)
    assert export(tmp_path / "a", step=2)[1] == {"a": 2}, "an earlier export is replaced"
    assert holds(folder, "encoder", first.inner["encoder"])
    assert not holds(folder, "encoder", trained.inner["encoder"])
    assert [path.name for path in (tmp_path / "a").glob(".*.partial")] == []


def test_the_stages_of_a_training_are_exported_to_one_folder(tmp_path: Path) -> None:
    trained = train(tmp_path, "a/first")
    other = ModelFolder(tmp_path / "a" / "model", PARTS, hint="")
    other.save("encoder", nn.Linear(1, 1), {"width": 99})  # outdated: the checkpoint is newer
    tokenizer = nn.Linear(4, 4)
    other.save("tokenizer", tokenizer, {"width": 4})
    folder, steps = export(tmp_path / "a", tmp_path / "out")
    assert (folder, steps) == (tmp_path / "out", {"first": 4})
    assert holds(folder, "encoder", trained.inner["encoder"])
    assert holds(folder, "tokenizer", tokenizer)
    assert ModelFolder(folder, PARTS, hint="").sizes() == {"encoder": SIZES, "decoder": {}, "tokenizer": {"width": 4}}


def damage(root: Path) -> None:
    path = root / "a" / "checkpoints" / "step_00000004" / "strategy" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")


def rename_exporter(root: Path) -> None:
    path = root / "a" / "model_files" / "weights.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "exporter": "os.system"}))


def occupy(root: Path) -> None:
    (root / "a" / "export").mkdir()
    (root / "a" / "export" / "thesis.tex").write_text("years of work")


@pytest.mark.parametrize(
    ("change", "step", "message"),
    [
        (lambda root: None, 3, "--step is 3 but .* holds checkpoints of steps 2, 4"),
        (damage, None, "model.safetensors does not match its checksum"),
        (damage, 2, None),
        (rename_exporter, None, "no installed package provides the exporter 'os.system'"),
        (occupy, None, "holds files that are not an earlier export"),
        (lambda root: (root / "a" / "model_files").rename(root / "elsewhere"), None, "holds no run whose model can be exported"),
    ],
)
def test_a_refused_export_is_explained_and_leaves_no_files(tmp_path: Path, change: object, step: int | None, message: str | None) -> None:
    train(tmp_path, "a")
    change(tmp_path)  # type: ignore[operator]
    before = sorted(tmp_path.rglob("*"))
    if message is None:
        export(tmp_path / "a", step=step)
        return
    with pytest.raises(UserError, match=message):
        export(tmp_path / "a", step=step)
    assert sorted(tmp_path.rglob("*")) == before


def test_several_runs_are_exported_only_as_stages_of_one_training(tmp_path: Path) -> None:
    train(tmp_path, "a/one")
    train(tmp_path, "a/two")
    assert export(tmp_path / "a")[1] == {"one": 4, "two": 4}
    with pytest.raises(UserError, match="2 stages: --step chooses a checkpoint of one of them"):
        export(tmp_path / "a", step=2)
    index = tmp_path / "a" / "two" / "model_files" / "weights.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "exporter": "hugging_face"}))
    with pytest.raises(UserError, match="holds 2 runs: export one of them"):
        export(tmp_path / "a")


def test_an_export_that_was_interrupted_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path, "a")

    install = OwnFiles.install

    def interrupt(own: OwnFiles, *arguments: Path | str) -> None:
        if own.folder == tmp_path / "a" / "export":  # not while its parts are written
            raise KeyboardInterrupt
        install(own, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(OwnFiles, "install", interrupt)
        with pytest.raises(KeyboardInterrupt):
            export(tmp_path / "a")
    assert [path.name for path in (tmp_path / "a" / "export").iterdir()] == [JOURNAL]
    folder, _ = export(tmp_path / "a")
    assert (folder / "encoder.safetensors").is_file()
