"""The shipped weights: integrity, size, provenance, and the recorded quality."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from triptych.checkpoint.model_folder import CONFIG_FILE
from triptych.checkpoint.packing import RECORD_FILE, add_evaluation, pack
from triptych.errors import UserError
from tts_var.models.folder import PARTS
from tts_var.models.infinity import InfinityGenerator
from tts_var.numerics.schedule import SearchConfig
from tts_var.search import Search
from tts_var.toy.models import SHIPPED, load_small_world
from tts_var.toy.prompts import evaluation_prompts, near_miss
from tts_var.toy.rendering import render_scenes, training_pair
from tts_var.toy.scorers import clip_reward
from tts_var.toy.verifier import check_image

FOLDER = SHIPPED.folder().path


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    return dict(json.loads((FOLDER / RECORD_FILE).read_text()))


@pytest.fixture(scope="module")
def generator() -> InfinityGenerator:
    return load_small_world()


def test_the_folder_matches_its_record(record: dict[str, Any]) -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*record["files"], RECORD_FILE, CONFIG_FILE}
    for name, entry in record["files"].items():
        content = (FOLDER / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        assert len(content) == entry["bytes"]
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 10e6
    for made in (*record["made"].values(), record["evaluation"]):
        assert isinstance(made["seed"], int)
        assert made["provenance"]["command"]
        assert made["provenance"]["versions"]["torch"]
        assert made["provenance"]["processor"]


def test_a_single_sample_is_as_good_as_recorded(record: dict[str, Any], generator: InfinityGenerator) -> None:
    prompts = evaluation_prompts(60, seed=11)
    results = Search(generator).run([prompt.text for prompt in prompts], seed=0)
    found = sum(check_image(result.image, prompt).correct for result, prompt in zip(results, prompts, strict=True)) / 60
    recorded = record["evaluation"]["summary"]["strategies"]["single"]["score"]
    assert recorded >= 0.6
    assert abs(found - recorded) < 4 * (0.25 / 60) ** 0.5  # four standard errors of a fraction


def test_the_results_page_shows_the_recorded_numbers(record: dict[str, Any]) -> None:
    lines = (Path(__file__).parents[3] / "docs" / "results.md").read_text().splitlines()
    for name, row in record["evaluation"]["summary"]["strategies"].items():
        low, high = row["interval"]
        cells = [
            f"`{name}`",
            row["num_samples"],
            f"{100 * row['score']:.1f}",
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{1e3 * row['tflops']:.2f}",
        ]
        assert any(line.startswith("| " + " | ".join(map(str, cells)) + " |") for line in lines), cells


def test_the_reward_prefers_true_captions_to_most_near_misses() -> None:
    reward = clip_reward()
    pairs = [training_pair(index, seed=5, variety=0.2) for index in range(200)]
    images = render_scenes([scene for _, scene in pairs], generator=torch.Generator().manual_seed(0), variety=0.2)
    own = reward(images, [prompt.text for prompt, _ in pairs])
    wrong = reward(
        images, [near_miss(prompt, generator=torch.Generator().manual_seed(index)).text for index, (prompt, _) in enumerate(pairs)]
    )
    fraction = float((own > wrong).double().mean())
    # Nearly always right for counts, colours and shapes, less often for relations and for the binding of colours to shapes.
    assert 0.65 < fraction < 0.98


def test_choosing_by_the_reward_helps(generator: InfinityGenerator) -> None:
    prompts = evaluation_prompts(60, seed=12)
    search = Search(generator, SearchConfig(num_images=8), reward=clip_reward())
    chance, chosen = 0.0, 0
    for result, prompt in zip(search.run([prompt.text for prompt in prompts], seed=0), prompts, strict=True):
        chance += sum(check_image(image, prompt).correct for image in result.images) / len(result.images)
        chosen += check_image(result.image, prompt).correct
    assert chosen > chance


def test_packing_needs_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no model"):
        pack(tmp_path / "run", SHIPPED.folder(tmp_path / "run" / "model"), tmp_path / "target")
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / CONFIG_FILE).write_text("{}")
    with pytest.raises(UserError, match="not a finished run"):
        pack(tmp_path / "run", SHIPPED.folder(tmp_path / "run" / "model"), tmp_path / "target")
    assert not (tmp_path / "target").exists()
    assert set(PARTS.stage_of) == {"tokenizer", "transformer", "text_encoder", "reward"}


def test_the_quality_is_that_of_the_packed_weights(tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text("{}")
    (tmp_path / "config.yaml").write_text("seed: 0\ngenerator: {path: elsewhere}\n")
    for name in ("summary.json", "provenance.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="is an evaluation of elsewhere"):
        add_evaluation(tmp_path, tmp_path, key="generator", shipped=FOLDER)
