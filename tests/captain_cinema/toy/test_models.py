"""The shipped weights: complete, small, with provenance, and as accurate as their record states."""

import hashlib
import json
from typing import Any

import pytest
import torch

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.models import CaptionEmbeddings
from captain_cinema.sampling import KeyframeSampler, SamplingConfig
from captain_cinema.toy.captions import caption_indices
from captain_cinema.toy.clips import TinyClips
from captain_cinema.toy.models import SHIPPED, load_clips, load_keyframe_model
from captain_cinema.toy.probe import measure_reappearances, sample_reappearances
from captain_cinema.toy.verifier import read_action
from triptych.checkpoint.model_folder import CONFIG_FILE
from triptych.checkpoint.packing import RECORD_FILE

FOLDER = SHIPPED.folder().path


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return dict(json.loads((FOLDER / RECORD_FILE).read_text()))


def test_the_folder_matches_its_record(record: dict[str, Any]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*record["files"], RECORD_FILE, CONFIG_FILE}
    for name, entry in record["files"].items():
        content = (FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert len(content) == entry["bytes"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 12e6
    for made in (*record["made"].values(), record["evaluation"]):
        assert isinstance(made["seed"], int)
        assert made["provenance"]["command"]
        assert made["provenance"]["versions"]["torch"]
        assert made["provenance"]["processor"]


def test_looks_of_reappearing_characters_come_from_the_memory_alone() -> None:
    model = load_keyframe_model()
    returns = sample_reappearances(60, 8, seed=77, min_gap=2)
    fractions = {}
    for name, memory in (("golden", MemoryPolicy(frames_per_level=1)), ("none", MemoryPolicy("none"))):
        outcomes, _ = measure_reappearances(
            KeyframeSampler(model, memory, SamplingConfig(num_steps=2), image_size=(64, 64)), returns, upper_bounds=False
        )
        fractions[name] = sum(outcome.right["colour"] for outcome in outcomes) / 60
    assert fractions["golden"] >= 0.9
    assert fractions["none"] <= 0.35


def test_actions_are_recognised_as_often_as_recorded(record: dict[str, Any]) -> None:
    data = TinyClips(20, seed=78)
    examples = data.examples(range(20))
    captions = CaptionEmbeddings(torch.stack([caption_indices([shot.caption for shot in example.story.shots]) for example in examples]))
    keyframes = torch.stack([example.keyframes for example in examples])
    clips = load_clips().animate(keyframes, captions, [example.index for example in examples], seeds=list(range(20)))
    shots = [example.story.shots[example.index] for example in examples]
    right = sum(
        read_action(clip, example.story.scene(shot)) == shot.action for clip, example, shot in zip(clips, examples, shots, strict=True)
    )
    recorded = record["evaluation"]["summary"]["actions"]
    assert recorded["all"] >= recorded["shuffled"] + 0.3
    assert right / 20 >= recorded["all"] - 4 * (0.25 / 20) ** 0.5
