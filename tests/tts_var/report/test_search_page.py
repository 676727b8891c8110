"""Sections of a sample report: verdicts, columns, fates, weights and links of hand-made searches, and escaped text."""

import re
from dataclasses import replace

import pytest
import torch

from tts_var.images import data_uri
from tts_var.numerics.scales import ScaleTable
from tts_var.report.search_page import _follow, _scored, images_section, search_section
from tts_var.scorers import Verdict
from tts_var.search import EventRecord, SearchCost, SearchResult

SCALES = ScaleTable(((1, 1), (2, 2), (4, 4)))  # 21 tokens
ATTACK = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def images(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


# Columns of the three scales: 0 1 2 3 -> (clustering keeps 3 and 1) 0 1 -> (resampling keeps 1 twice) 0 1, of which 1 is chosen.
RESULT = SearchResult(
    prompt="a red circle",
    chosen=1,
    images=images(2, 9),
    rewards=(2.5, 3.0),
    lineages=((1, 1, 0), (1, 1, 1)),
    events=(
        EventRecord(0, "cluster", (3, 1)),
        EventRecord(1, "resample", (1, 1), rewards=(0.5, 2.0), weights=(0.25, 0.75), effective_sample_size=1.6),
    ),
    cost=SearchCost(transformer_flops=3e9, decoder_flops=2e9, scorer_flops=1e9, num_decodes=8, num_tokens=42, seconds=0.5),
    thumbnails=(images(4, 0), images(2, 1), images(2, 2)),
)


def page(*results: SearchResult) -> str:
    return search_section(results, SCALES).html


def gallery(*results: SearchResult, verdict: Verdict | None = None) -> str:
    verdict = verdict or Verdict({"colour": True, "shape": False})
    return images_section(results, [verdict] * len(results), ["pictures/0000.png"] * len(results)).html


def fates(html: str) -> list[str]:
    return re.findall(r'<g class="([^"]+)">', html)


def test_survivors_and_fates_after_two_events_of_a_scale() -> None:
    # Clustering keeps columns 3, 1, 0 in this order; resampling keeps the first of these twice.
    events = [EventRecord(0, "cluster", (3, 1, 0)), EventRecord(0, "resample", (0, 0))]
    assert _follow(4, events) == ([3, 3], ["ended-by-resample", "ended-by-resample", "ended-by-cluster", "kept"])
    assert _follow(2, []) == ([0, 1], ["kept", "kept"])


def test_rewards_and_weights_belong_to_the_columns_before_all_events() -> None:
    events = [EventRecord(0, "cluster", (3, 1, 0)), EventRecord(0, "resample", (0, 0), rewards=(5.0, 7.0, 6.0), weights=(0.5, 0.3, 0.2))]
    assert _scored(4, events) == {3: (5.0, 0.5), 1: (7.0, 0.3), 0: (6.0, 0.2)}
    # Columns 3, 1, 0 and then the third and first of these: 0, 3.
    twice = [EventRecord(0, "cluster", (3, 1, 0)), EventRecord(0, "cluster", (2, 0))]
    assert _scored(4, [*twice, EventRecord(0, "resample", (0,), rewards=(5.0, 6.0), weights=(0.25, 0.75))]) == {
        0: (5.0, 0.25),
        3: (6.0, 0.75),
    }


def test_weights_of_copies_add_up_and_the_first_resampling_is_shown() -> None:
    # The first event continues column 2 twice, so that the second has two weights of it: 0.25 + 0.25.
    copies = EventRecord(0, "cluster", (2, 2, 0))
    first = EventRecord(0, "resample", (0, 2), rewards=(3.0, 3.0, 1.0), weights=(0.25, 0.25, 0.5))
    second = EventRecord(0, "resample", (0, 1), rewards=(9.0, 8.0), weights=(0.125, 0.875))
    assert _scored(3, [copies, first]) == {2: (3.0, 0.5), 0: (1.0, 0.5)}
    assert _scored(3, [copies, first, second]) == {2: (3.0, 0.5), 0: (1.0, 0.5)}


def test_every_particle_has_its_fate_and_the_path_to_the_chosen_image_is_marked() -> None:
    assert fates(page(RESULT)) == [
        "ended-by-cluster", "kept winner", "ended-by-cluster", "kept",
        "ended-by-resample", "kept winner",
        "not-chosen", "kept winner",
    ]  # fmt: skip


def test_links_run_from_parents_to_children() -> None:
    # Centre of column c: 68 c + 30. Rows begin at 0, 110 and 220; a link starts 92 below its row (16 of text, 60 of image, 16 of
    # numbers), and ends 16 below the next.
    links = re.findall(r'<path( class="winner")? d="M(\d+),(\d+) L(\d+),(\d+)"/>', page(RESULT))
    assert [(bool(winner), *map(int, ends)) for winner, *ends in links] == [
        (False, 234, 92, 30, 126),  # column 3 -> 0
        (True, 98, 92, 98, 126),  # column 1 -> 1
        (False, 98, 202, 30, 236),  # column 1 -> 0
        (True, 98, 202, 98, 236),  # column 1 -> 1
    ]
    assert '<svg width="480" height="330"' in page(RESULT), "room for the text of a row, and 3 rows of 110"
    wide = replace(RESULT, thumbnails=(images(8, 0), *RESULT.thumbnails[1:]))
    assert '<svg width="544"' in page(wide), "8 columns of 68"


def test_rewards_weights_copies_notes_and_cost_are_shown() -> None:
    html = page(RESULT)
    shown = re.findall(r'>([\d.]+) <tspan class="soft">([^<]*)</tspan>', html)
    assert shown == [("0.5", "25 %"), ("2.0", "75 %"), ("2.5", ""), ("3.0", "")], "a final image has a reward and no weight"
    assert html.count(">&times;2</text>") == 1
    for text in ("clustering keeps 2 of 4", "resampling keeps 2 of 2", "1 distinct, effective size 1.6", "4 x 4 tokens"):
        assert html.count(text) == 1, text
    assert "6.00 GFLOP, 0.50 seconds" in html
    assert "42, 2.0 times those of a single image" in html


def test_thumbnails_and_the_chosen_image_are_embedded() -> None:
    html = page(RESULT)
    assert re.findall(r'href="(data:[^"]+)"', html) == [data_uri(image) for row in RESULT.thumbnails for image in row]
    assert re.findall(r'<img src="(data:[^"]+)"', gallery(RESULT)) == [data_uri(RESULT.images[1])]


def test_a_chosen_image_has_its_verdict_reward_and_file() -> None:
    html = gallery(RESULT)
    assert '<li class="good">&#10003; colour</li>' in html
    assert '<li class="bad">&#10007; shape</li>' in html
    assert "reward 3.00, <code>pictures/0000.png</code>" in html
    unverified = gallery(RESULT, verdict=Verdict(note="the number is unclear"))
    assert "not verified: the number is unclear" in unverified
    assert "&#10003; " not in unverified.partition("</p>")[2]


def test_a_search_without_reward_and_events_is_one_column() -> None:
    single = replace(
        RESULT,
        chosen=0,
        images=images(1, 3),
        rewards=(),
        lineages=((0, 0, 0),),
        events=(),
        thumbnails=tuple(images(1, n) for n in range(3)),
    )
    html = page(single)
    assert fates(html) == ["kept winner"] * 3
    assert "keeps" not in html.partition("<svg")[2]
    assert "reward " not in gallery(single).partition("</p>")[2]


def test_prompts_files_and_verdicts_are_escaped() -> None:
    attacked = replace(RESULT, prompt=ATTACK)
    for html, times in ((page(attacked), 2), (images_section([attacked], [Verdict({ATTACK: True}, ATTACK)], [ATTACK]).html, 4)):
        assert "<script" not in html
        assert "<img src=x" not in html
        assert html.count("&lt;script&gt;") == times, "summary and label of the tree; label, caption, part and file of the image"
    assert "<script" not in gallery(attacked, verdict=Verdict(note=ATTACK))


def test_every_search_needs_a_verdict_and_a_file() -> None:
    for verdicts, files in (([Verdict()], ["a", "b"]), ([Verdict()] * 2, ["a"])):
        with pytest.raises(ValueError, match="shorter"):
            images_section([RESULT, RESULT], verdicts, files)
