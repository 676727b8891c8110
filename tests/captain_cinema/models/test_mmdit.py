"""The small MM-DiT: folded and masked attention agree, attention is restricted as specified, positions and times are per pair."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from captain_cinema.models import ATTENTIONS, CaptionEmbeddings, Frames
from captain_cinema.models.mmdit import MMDiTConfig, SmallMMDiT, _token_centres, _waves
from captain_cinema.toy.captions import VOCABULARY_SIZES
from captain_cinema.toy.models import clip_mmdit, keyframe_mmdit
from triptych.errors import UserError


@pytest.fixture(scope="module")
def model() -> SmallMMDiT:
    torch.manual_seed(0)
    model = keyframe_mmdit(width=64, num_heads=2, num_double=2, num_single=2)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.1)
    return model.eval()


def group(count: int, side: int, *, memory: bool, first: int, seed: int) -> Frames:
    stream = torch.Generator().manual_seed(seed)
    captions = torch.stack([torch.randint(size, (2, count), generator=stream) for size in VOCABULARY_SIZES], dim=-1)
    return Frames(
        torch.randn(2, count, 3, 8 * side, 8 * side, generator=stream),
        CaptionEmbeddings(captions),
        torch.rand(2, count, generator=stream),
        torch.arange(first, first + count).float().expand(2, -1),
        memory,
    )


@pytest.fixture
def groups() -> list[Frames]:
    return [
        group(2, 8, memory=True, first=1, seed=1),
        group(1, 4, memory=True, first=3, seed=2),
        group(3, 8, memory=False, first=0, seed=3),
    ]


@torch.no_grad()
def change(model: SmallMMDiT, groups: list[Frames], which: int, frame: int, attention: str, what: str = "latents") -> list[Tensor]:
    """Largest change of every prediction when one frame of one group changes: (batch, frames) per group."""
    before = model.predict(groups, attention=attention)
    values = getattr(groups[which], what).clone()
    values[:, frame] = 0.3 if what == "timesteps" else values[:, frame] + 1
    changed = [replace(own, **{what: values}) if index == which else own for index, own in enumerate(groups)]
    after = model.predict(changed, attention=attention)
    return [(own - other).abs().flatten(2).amax(2) for own, other in zip(before, after, strict=True)]


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_folded_and_masked_agree(model: SmallMMDiT, groups: list[Frames], attention: str) -> None:
    with torch.no_grad():
        folded, masked = model.predict(groups, attention=attention), model.predict(groups, attention=attention, masked=True)
    for own, other in zip(folded, masked, strict=True):
        assert own.abs().max() > 0.1
        assert (own - other).abs().max() < 2e-6 * own.abs().max()


def test_under_extend_attention_targets_attend_to_the_memory_and_not_to_one_another(model: SmallMMDiT, groups: list[Frames]) -> None:
    near, far, targets = change(model, groups, 2, 0, "extend")
    assert near.max() == far.max() == 0.0
    assert targets[:, 0].min() > 0
    assert targets[:, 1:].max() == 0.0
    near, far, targets = change(model, groups, 0, 1, "extend")
    assert min(near.min(), far.min(), targets.min()) > 0


def test_under_causal_attention_earlier_pairs_do_not_change(model: SmallMMDiT, groups: list[Frames]) -> None:
    near, far, targets = change(model, groups, 1, 0, "causal")
    assert near.max() == 0.0
    assert min(far.min(), targets.min()) > 0
    near, far, targets = change(model, groups, 2, 1, "causal")
    assert max(near.max(), far.max(), targets[:, 0].max()) == 0.0
    assert targets[:, 1:].min() > 0


def test_under_joint_attention_all_pairs_attend_to_all(model: SmallMMDiT, groups: list[Frames]) -> None:
    for which in range(3):
        assert min(changed.min() for changed in change(model, groups, which, 0, "joint")) > 0


def test_double_stream_blocks_are_local(groups: list[Frames]) -> None:
    torch.manual_seed(1)
    local = keyframe_mmdit(width=64, num_heads=2, num_double=2, num_single=0).eval()
    for parameter in local.parameters():
        parameter.data.normal_(std=0.1)
    _, _, targets = change(local, groups, 2, 1, "joint")
    assert targets[:, 1].min() > 0
    assert targets[:, [0, 2]].max() == 0.0
    _, _, targets = change(local, groups, 2, 1, "joint", "timesteps")
    assert targets[:, 1].min() > 0
    assert targets[:, [0, 2]].max() == 0.0


def test_cached_keys_and_values_give_the_same_velocity(model: SmallMMDiT, groups: list[Frames]) -> None:
    with torch.no_grad():
        whole = model.velocity(groups)[-1]
        cached = model.velocity(groups[2:], memory=model.remember(groups[:2]))[-1]
    assert (whole - cached).abs().max() < 2e-6 * whole.abs().max()


def test_a_sequence_of_one_pair_is_the_model_of_single_images(model: SmallMMDiT) -> None:
    single = group(1, 8, memory=False, first=0, seed=5)
    with torch.no_grad():
        found = [model.predict([single], attention=attention)[0] for attention in ATTENTIONS]
    for other in found[1:]:
        assert (found[0] - other).abs().max() < 1e-5


def test_shifting_all_position_ids_changes_nothing(model: SmallMMDiT, groups: list[Frames]) -> None:
    moved = [replace(own, position_ids=own.position_ids + 5) for own in groups]
    stretched = [replace(own, position_ids=own.position_ids * 2) for own in groups]
    with torch.no_grad():
        first, second, third = (model.predict(part)[-1] for part in (groups, moved, stretched))
    assert (first - second).abs().max() < 1e-5
    assert (first - third).abs().max() > 1e-4


def test_a_clip_depends_on_absolute_times_and_a_keyframe_on_relative_ones() -> None:
    torch.manual_seed(2)
    sizes = {"width": 32, "num_heads": 2, "num_single": 1}
    single = group(1, 8, memory=False, first=0, seed=5)
    later = replace(single, position_ids=single.position_ids + 3)
    for build, moves in ((keyframe_mmdit, False), (clip_mmdit, True)):
        own = build(**sizes).eval()
        with torch.no_grad():
            own.moment is None or own.moment.weight.normal_(std=0.1)  # type: ignore[union-attr]
            for layer in (own.double_modulation, own.single_modulation):
                layer.weight.normal_(std=0.1)
            change = (own.predict([single], attention="joint")[0] - own.predict([later], attention="joint")[0]).abs().max()
        assert (change > 1e-3) == moves, change


def test_a_video_model_starts_from_the_weights_of_the_keyframe_model() -> None:
    torch.manual_seed(3)
    known = keyframe_mmdit(width=32, num_heads=2, num_single=1)
    for parameter in known.parameters():
        parameter.data.normal_(std=0.1)
    clips = clip_mmdit(width=32, num_heads=2, num_single=1)
    clips.start_from(known)
    taken = dict(clips.named_parameters())
    assert all(torch.equal(taken.pop(name), value) for name, value in known.named_parameters())
    assert sorted(taken) == ["encoder.embeddings.action.weight", "moment.bias", "moment.weight"]
    assert all(value.any() for value in taken.values())
    with pytest.raises(UserError, match="give both the same sizes"):
        clips.start_from(keyframe_mmdit(width=32, num_heads=2, num_single=2))


def test_token_positions_do_not_depend_on_the_frame_size() -> None:
    full, half = _waves((torch.arange(8.0)[:, None].expand(8, 2) + 0.5) / 8), _waves((_token_centres(4, 8)[:, None].expand(4, 2) + 0.5) / 8)
    between = _waves((torch.arange(8.0)[:, None].expand(8, 2).view(4, 2, 2).mean(1) + 0.5) / 8)
    assert torch.allclose(half, between)
    assert torch.cdist(full, full).fill_diagonal_(9).min() > 0.3
    assert full.abs().max() <= 1


def test_token_centres_at_half_size_are_means_of_those_at_full_size() -> None:
    assert torch.equal(_token_centres(4, 8), _token_centres(8, 8).view(4, 2).mean(1))
    assert torch.equal(_token_centres(8, 8), torch.arange(8.0))


def test_predictions_depend_on_the_caption(model: SmallMMDiT, groups: list[Frames]) -> None:
    tokens = groups[2].captions.tokens.clone()
    tokens[:, 1, 0] = (tokens[:, 1, 0] + 1) % VOCABULARY_SIZES[0]
    with torch.no_grad():
        before, after = model.predict(groups)[-1], model.predict([*groups[:2], replace(groups[2], captions=CaptionEmbeddings(tokens))])[-1]
    changed = (before - after).abs().flatten(2).amax(2)
    assert changed[:, 1].min() > 0
    assert changed[:, [0, 2]].max() == 0.0


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 60}, "multiple of 8"),
        ({"image_size": 60}, "not a multiple of patch"),
        ({"num_double": 0, "num_single": 0}, "at least one block"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"patch": 0}, "patch is 0"),
    ],
    ids=["heads", "patches", "blocks", "no head", "no patch"],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        MMDiTConfig(**sizes)


def test_frames_and_attentions_that_do_not_fit_are_refused(model: SmallMMDiT) -> None:
    single = group(1, 8, memory=False, first=0, seed=5)
    with pytest.raises(UserError, match="multiples of 8"):
        model.predict([replace(single, latents=torch.zeros(2, 1, 3, 60, 64))])
    with pytest.raises(UserError, match="choose one of joint, causal, extend"):
        model.predict([single], attention="all")
