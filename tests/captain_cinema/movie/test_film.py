"""Films: scripts and their refusals, validation against the models, and the folder of a film with resampled shots."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.data.storyboard import Shot, Storyboard, read_storyboard
from captain_cinema.images import to_bytes, write_image
from captain_cinema.models import KeyframeModel
from captain_cinema.movie.film import FilmConfig, ReferenceConfig, Script, Studio, make_film, read_script
from captain_cinema.sampling import KeyframeSampler, Reference, SamplingConfig
from captain_cinema.video import Clip
from captain_cinema.video.interpolation import CameraMoves
from triptych.errors import UserError
from triptych.run.config import RunConfig
from triptych.run.session import Run
from triptych.seeding import derive_seed

BOARD = Storyboard(
    "a film",
    {"ada": "", "bo": ""},
    {"attic": ""},
    (
        Shot("ada in the attic", ("ada",), "attic", seconds=0.5),
        Shot("bo in the attic", ("bo",), "attic", seconds=0.25),
        Shot("ada in the attic, wide shot", ("ada",), "attic", seconds=0.5),
    ),
    seed=3,
)


def planner(storyline: str, *, seed: int) -> Storyboard:
    return replace(BOARD, title=storyline, seed=seed)


def every_second(storyboard: Storyboard, index: int, keyframe: Tensor, clip: Clip | None) -> Mapping[str, bool]:
    """A verifier with one detail, right in every second shot; the camera does not animate, so there is no clip."""
    assert clip is None
    return {"parity": index % 2 == 0}


def studio(model: KeyframeModel, mode: str = "extend", scale: int = 1) -> Studio:
    return Studio(model, MemoryPolicy(), SamplingConfig(mode=mode, num_steps=1), CameraMoves(scale=scale), every_second)


def film(**settings: object) -> FilmConfig:
    return FilmConfig(**{"storyline": "x", "scale": 1, "title_seconds": 0.5, **settings})  # type: ignore[arg-type]


def make(root: Path, name: str, model: KeyframeModel, config: FilmConfig) -> Path:
    script = read_script(config, planner, seed=3)
    with Run.open(RunConfig(name=name, output_root=str(root), device="cpu", seed=3, overwrite=True)) as run:
        make_film(run, config, script, studio(model))
    return root / name


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_film_is_a_folder_of_keyframes_clips_and_records(tmp_path: Path, keyframe_model: KeyframeModel) -> None:
    folder = make(tmp_path, "film", keyframe_model, film())
    board = replace(BOARD, title="x")
    assert read_storyboard(folder / "storyboard.json") == board
    sampler = KeyframeSampler(keyframe_model, MemoryPolicy(), SamplingConfig(num_steps=1), image_size=(64, 64))
    for number, keyframe in enumerate(sampler.sample(board), start=1):
        path = folder / "keyframes" / f"{number:03d}.png"
        assert (pixels(path) == to_bytes(keyframe.frame[None])[0].numpy()).all()
        assert Image.open(path).text["Description"] == board.shots[number - 1].caption  # type: ignore[attr-defined]
    # Title card of 0.5 seconds, then shots of 0.5, 0.25 and 0.5 seconds at 12 frames per second.
    for name, frames in (("film", 6 + 6 + 3 + 6), ("clips/001", 6), ("clips/002", 3), ("clips/003", 6)):
        with av.open(str(folder / f"{name}.mp4")) as container:
            assert sum(1 for _ in container.decode(video=0)) == frames
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["num_shots"], summary["num_drawn"], summary["checked"], summary["holds"]) == (3, 3, 3, 2)
    # Golden memory of 0, 1 and 2 full-size frames: 64 image tokens and the caption for each of 1 + 2 + 3 frames, over 3 shots.
    assert summary["tokens_per_shot"] == 2 * (64 + keyframe_model.text_tokens)
    plan = (folder / "plan.txt").read_text()
    assert plan.count("remembers shot 1 at 8 x 8 tokens") == 2
    assert plan.count("remembers shot 2") == 1
    assert pixels(folder / "contact_sheet.png").shape[1] > 3 * 64
    assert "parity" in (folder / "storyboard.html").read_text()


def test_only_shots_in_redraw_and_edited_shots_are_sampled_again(tmp_path: Path, keyframe_model: KeyframeModel) -> None:
    first = make(tmp_path, "first", keyframe_model, film())
    second = make(tmp_path, "second", keyframe_model, film(keyframes_from=str(first), redraw=[2]))
    for number, same in ((1, True), (2, False), (3, True)):
        name = f"keyframes/{number:03d}.png"
        assert (pixels(first / name) == pixels(second / name)).all() == same
    assert json.loads((second / "summary.json").read_text())["num_drawn"] == 1
    assert read_storyboard(second / "storyboard.json").shots[1].seed == derive_seed(3, "redraw", 2)
    # An edited caption has no keyframe to reuse.
    board = read_storyboard(first / "storyboard.json")
    edited = replace(board, shots=(replace(board.shots[0], caption="bo in the attic"), *board.shots[1:]))
    edited.write(tmp_path / "edited.json")
    script = read_script(film(storyboard=str(tmp_path / "edited.json"), keyframes_from=str(first)), planner, seed=3)
    assert script.board == edited
    assert sorted(script.kept) == [1, 2]
    assert torch.equal(to_bytes(script.kept[1][None])[0], torch.from_numpy(pixels(first / "keyframes/002.png").copy()))


def test_references_are_read_at_the_size_of_the_film(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", torch.full((32, 96, 3), 255, dtype=torch.uint8))
    config = film(references=[ReferenceConfig(str(tmp_path / "a.png"), "ada", ["ada"])], image_size=[16, 24])
    (reference,) = read_script(config, planner, seed=0).references
    assert (reference.caption, reference.tags) == ("ada", ("ada",))
    assert torch.equal(reference.frame, torch.ones(3, 16, 24))
    with pytest.raises(UserError, match="set path and caption of every reference"):
        read_script(film(references=[ReferenceConfig(str(tmp_path / "a.png"))]), planner, seed=0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": 0}, "scale 0"),
        ({"title_seconds": 61.0}, "title_seconds 61.0"),
        ({"image_size": [64]}, r"image_size is \[64\]: give height and width in pixels"),
        ({"redraw": [1]}, r"redraw is \[1\] without keyframes to reuse: set keyframes_from"),
    ],
    ids=["scale", "title", "size", "redraw"],
)
def test_invalid_films_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        film(**settings)


def test_scripts_without_content_or_with_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no storyline: set storyline or storyboard"):
        read_script(film(storyline=None), planner, seed=0)
    BOARD.write(tmp_path / "storyboard.json")
    earlier = {"storyboard": None, "keyframes_from": str(tmp_path)}
    with pytest.raises(UserError, match="redraw names shot 4 but the storyboard has shots 1 to 3"):
        read_script(film(**earlier, redraw=[4]), planner, seed=0)
    (tmp_path / "keyframes").mkdir()
    write_image(tmp_path / "keyframes" / "001.png", torch.zeros(32, 64, 3, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"001.png has 32 x 64 pixels but image_size is \[64, 64\]"):
        read_script(film(**earlier), planner, seed=0)


def test_what_does_not_fit_the_models_is_refused_before_sampling(keyframe_model: KeyframeModel) -> None:
    script = Script(BOARD, {}, ())
    studio(keyframe_model).check(film(), script)
    with pytest.raises(UserError, match="video.scale is 2 but the film's scale is 1"):
        studio(keyframe_model, scale=2).check(film(), script)
    with pytest.raises(UserError, match="both must be multiples of 8"):
        studio(keyframe_model).check(film(image_size=[60, 64]), script)
    referenced = replace(script, references=(Reference(torch.zeros(3, 64, 64), "ada", ("ada",)),))
    with pytest.raises(UserError, match="sampling.mode is joint, which has no memory for references"):
        studio(keyframe_model, "joint").check(film(), referenced)
    small = replace(studio(keyframe_model), memory=MemoryPolicy(budget_tokens=5))
    with pytest.raises(UserError, match="one full frame has"):
        small.check(film(), script)


def test_a_refused_film_writes_nothing(tmp_path: Path, keyframe_model: KeyframeModel) -> None:
    with pytest.raises(UserError, match="video.scale is 1 but the film's scale is 2"):
        make(tmp_path, "film", keyframe_model, film(scale=2))
    assert not (tmp_path / "film").exists()
