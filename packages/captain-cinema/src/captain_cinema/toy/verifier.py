"""The verifier of tiny cinema: reads a frame by rendering all candidates (analysis by synthesis), without a learned model.

Size and position of a shot are given by its caption. The verifier finds the nearest of all sets outside the box of the
character, the nearest of all identities on that set inside the box, and then the nearest prop.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from captain_cinema.data.storyboard import Storyboard
from captain_cinema.images import from_bytes
from captain_cinema.toy.captions import Caption, parse_caption
from captain_cinema.toy.rendering import (
    ACTIONS,
    CLIP_FRAMES,
    IDENTITY_VALUES,
    LOOK_VALUES,
    PROPS,
    SETTING_VALUES,
    Canvas,
    Identity,
    Looks,
    Places,
    Scene,
    Setting,
    action_places,
    looks_of,
    places_of,
    render,
    render_settings,
)
from captain_cinema.video import Clip
from triptych.errors import UserError

IDENTITIES = tuple(Identity(*values) for values in itertools.product(*IDENTITY_VALUES))
SETTINGS = tuple(Setting(*values) for values in itertools.product(*SETTING_VALUES))

_NUM_IDENTITY, _NUM_SETTING = len(IDENTITY_VALUES), len(SETTING_VALUES)


@dataclass(frozen=True)
class Reading:
    """The verifier's result for one frame.

    Attributes:
        identity: the nearest identity.
        setting: the nearest set.
        prop: the nearest prop.
        residual: root mean square distance between the frame and its nearest rendered frame, on the scale of [-1, 1]; high
            for frames that the renderer cannot produce.
    """

    identity: Identity
    setting: Setting
    prop: str
    residual: float


def read_frames(frames: Float[Tensor, "frames 3 side side"], scenes: Sequence[Scene]) -> list[Reading]:
    """Reads identity, set and prop of every frame.

    Args:
        frames: square frames in [-1, 1].
        scenes: requested scenes, which give size and position.
    """
    if not scenes:
        return []
    frames = frames.float().cpu()
    side = frames.shape[-1]
    found = torch.zeros(len(frames), len(LOOK_VALUES), dtype=torch.long)
    locations = places_of(scenes)
    # Frames with the same size and position share the rendered candidates of `_identity_bank`.
    framings = [(scene.size, scene.position) for scene in scenes]
    for framing in dict.fromkeys(framings):
        rows = torch.tensor([index for index, other in enumerate(framings) if other == framing])
        location = tuple(locations[rows[0]].tolist())
        found[rows, :_NUM_IDENTITY], found[rows, _NUM_IDENTITY:-1] = _read(frames[rows], location, side)
    # With identity and set fixed, every prop is rendered in full: (props, frames, 3, side, side) -> distances (props, frames).
    candidates = torch.stack([_with_prop(found, index) for index in range(len(PROPS))])
    rendered = torch.stack([render(candidate, locations, image_size=side) for candidate in candidates])
    distances = (rendered - frames).square().flatten(2).mean(2)
    found[:, -1] = distances.argmin(0)
    residuals = distances.amin(0).sqrt().tolist()
    return [_reading(row, residual) for row, residual in zip(found.tolist(), residuals, strict=True)]


def read_action(clip: Float[Tensor, "frames 3 side side"], scene: Scene) -> str:
    """The action of a clip: the nearest of all actions, rendered from the content of its first frame.

    Args:
        clip: frames in [-1, 1], the first one the keyframe.
        scene: requested scene, which gives size and position.
    """
    reading = read_frames(clip[:1], [scene])[0]
    first = Scene(reading.identity, reading.setting, scene.size, scene.position, reading.prop)
    looks = looks_of([first] * len(clip))
    side = clip.shape[-1]
    rendered = [render(looks, action_places(first, action, len(clip)), image_size=side) for action in ACTIONS]
    # Deviations from the mean frame (frames, 3, side, side) are compared, frame by frame, so that the order counts: a shuffled walk
    # is not a walk. Differences of adjacent frames would encode the order too, but errors of the frames exceed a step of one pixel.
    change = clip.float().cpu() - clip.float().cpu().mean(0)
    distances = torch.stack([(change - (frames - frames.mean(0))).square().mean() for frames in rendered])
    return ACTIONS[int(distances.argmin())]


def every_identity(scene: Scene, *, image_size: int = 64) -> Float[Tensor, "identities 3 side side"]:
    """The scene with every identity, in the order of `IDENTITIES`, without its prop."""
    return _composed(scene, range(len(IDENTITIES)), [SETTINGS.index(scene.setting)], image_size)


def every_setting(scene: Scene, *, image_size: int = 64) -> Float[Tensor, "settings 3 side side"]:
    """The scene with every set, in the order of `SETTINGS`, without its prop."""
    return _composed(scene, [IDENTITIES.index(scene.identity)], range(len(SETTINGS)), image_size)


def _composed(scene: Scene, identities: Sequence[int], settings: Sequence[int], side: int) -> Tensor:
    # The bank holds alpha and premultiplied colour of every identity in the box: frame = set * (1 - coverage) + painted there.
    x, y, radius = places_of([scene])[0].tolist()
    location = (x, y, radius)
    rows, columns = _box(location, side)
    bank = _identity_bank(location, side)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    coverage = bank.coverage[list(identities)].unflatten(1, (1, height, width))
    painted = bank.painted[list(identities)].unflatten(1, (3, height, width))
    frames = _setting_bank(side)[list(settings)].expand(max(len(identities), len(settings)), -1, -1, -1).clone()
    frames[:, :, rows, columns] = frames[:, :, rows, columns] * (1 - coverage) + painted
    return frames


def _read(frames: Tensor, location: tuple[float, float, float], side: int) -> tuple[Tensor, Tensor]:
    """Indices of identity (frames, 4) and set (frames, 3) of frames with the same body location."""
    rows, columns = _box(location, side)
    outside = torch.ones(side, side)
    outside[rows, columns] = 0
    settings, identities = _setting_bank(side), _identity_bank(location, side)
    # Nearest set outside the box: |f - s|^2 without |f|^2, as a product (frames, pixels) x (pixels, sets).
    flat = (frames * outside).flatten(1)
    bank = (settings * outside).flatten(1)
    chosen = (bank.square().sum(1) - 2 * flat @ bank.T).argmin(1)
    # Nearest identity inside the box: with frame f, set b, coverage a, painted colour p and weight w (0 where a prop may be),
    #   sum w |f - (b (1 - a) + p)|^2 - sum w |f - b|^2
    #     = sum w (2 (f - b) b a - 2 (f - b) p + b^2 a^2 - 2 b a p + p^2),
    # whose terms are products of a factor per frame (frames, pixels) with one per identity (identities, pixels), so that no
    # tensor (frames, identities, pixels) is needed. Coverage has one channel: the terms in a and a^2 sum over channels first.
    inside, behind = frames[:, :, rows, columns], settings[chosen][:, :, rows, columns]
    weight = identities.weight
    weighted_rest = (inside - behind) * weight
    weighted_set = behind * weight
    cost = 2 * (weighted_rest * behind).sum(1).flatten(1) @ identities.coverage.T
    cost = cost - 2 * weighted_rest.flatten(1) @ identities.painted.T
    cost = cost + (weighted_set * behind).sum(1).flatten(1) @ identities.coverage.square().T
    cost = cost - 2 * weighted_set.flatten(1) @ (identities.painted * identities.coverage.repeat(1, 3)).T
    cost = cost + (identities.painted.square() @ weight.expand(3, -1, -1).flatten())
    return _combinations(IDENTITY_VALUES)[cost.argmin(1)], _combinations(SETTING_VALUES)[chosen]


@dataclass(frozen=True)
class _IdentityBank:
    """All identities at one location, rendered inside the box of the character."""

    coverage: Tensor  # (identities, pixels): alpha
    painted: Tensor  # (identities, 3 * pixels): colour times alpha
    weight: Tensor  # (rows, columns): 0 where a prop may be


@lru_cache(maxsize=32)
def _identity_bank(location: tuple[float, float, float], side: int) -> _IdentityBank:
    rows, columns = _box(location, side)
    identities = _combinations(IDENTITY_VALUES)
    # In front of backgrounds -1 and 1, frame = background * (1 - a) + p gives a = 1 - (light - dark) / 2 and p = dark + 1 - a.
    locations = torch.tensor(location).expand(len(identities), -1)
    dark, light = (_on_background(level, identities, locations, side)[:, :, rows, columns] for level in (-1.0, 1.0))
    coverage = (1 - (light - dark) / 2).mean(1)
    painted = dark + 1 - coverage[:, None]
    props = torch.tensor([[0] * (len(LOOK_VALUES) - 1) + [index] for index in (0, 1)])
    plain, boxed = render(props, locations[:2], image_size=side)[:, :, rows, columns]
    weight = ((plain - boxed).abs().amax(0) == 0).float()
    return _IdentityBank(coverage.flatten(1), painted.flatten(1), weight)


def _on_background(level: float, identities: Tensor, locations: Places, side: int) -> Tensor:
    canvas = Canvas(torch.full((len(identities), 3, side, side), level), side)
    canvas.render_character(identities, locations)
    return canvas.frames


@lru_cache(maxsize=4)
def _setting_bank(side: int) -> Tensor:
    return render_settings(_combinations(SETTING_VALUES), image_size=side)


def _combinations(values: Sequence[Sequence[str]]) -> Tensor:
    """All combinations of value indices (combinations, details), in the order of `itertools.product`."""
    return torch.tensor(list(itertools.product(*(range(len(options)) for options in values))))


def _box(location: tuple[float, float, float], side: int) -> tuple[slice, slice]:
    """Rows and columns that body, hat and prop may cover."""
    x, y, radius = location
    scale = side / 64
    edges = [y - 2.15 * radius, y + 1.45 * radius, x - 1.3 * radius, x + 1.3 * radius]
    top, bottom, left, right = (min(side, max(0, round(edge * scale))) for edge in edges)
    return slice(top, bottom), slice(left, right)


def _with_prop(looks: Looks, prop: int) -> Looks:
    changed = looks.clone()
    changed[:, -1] = prop
    return changed


def _reading(row: Sequence[int], residual: float) -> Reading:
    names = [values[index] for values, index in zip(LOOK_VALUES, row, strict=True)]
    return Reading(Identity(*names[:_NUM_IDENTITY]), Setting(*names[_NUM_IDENTITY:-1]), names[-1], residual)


def verdict_of(
    board: Storyboard, index: int, frame: Float[Tensor, "3 height width"], clip: Float[Tensor, "frames 3 height width"] | None
) -> dict[str, bool]:
    """Whether each detail of one shot is right, by name; empty if the storyboard does not fully describe character and place.

    Args:
        board: descriptions and captions.
        index: index of the shot.
        frame: its keyframe.
        clip: its clip, if the character moves in it; None skips the action.
    """
    shot = board.shots[index]
    if len(shot.characters) != 1 or shot.place is None or frame.shape[-2:] != (64, 64):
        return {}
    try:
        caption = parse_caption(shot.caption)
    except UserError:  # not a caption of tiny cinema
        return {}
    character, scenery = (_described(text) for text in (board.characters[shot.characters[0]], board.places[shot.place]))
    if None in (character.colour, character.shape, character.hat, character.badge, scenery.wall, scenery.ground, scenery.decoration):
        return {}
    if caption.size is None or caption.position is None:
        return {}
    identity = Identity(str(character.colour), str(character.shape), str(character.hat), str(character.badge))
    setting = Setting(str(scenery.wall), str(scenery.ground), str(scenery.decoration))
    wanted = Scene(identity, setting, caption.size, caption.position, caption.prop or "none")
    reading = read_frames(frame[None], [wanted])[0]
    found = {part: getattr(reading.identity, part) == getattr(identity, part) for part in vars(identity)}
    found |= {part: getattr(reading.setting, part) == getattr(setting, part) for part in vars(setting)}
    found["box"] = reading.prop == wanted.prop
    if clip is not None and len(clip) >= CLIP_FRAMES:
        frames = clip[torch.linspace(0, len(clip) - 1, CLIP_FRAMES).round().long()]
        found["action"] = read_action(frames, wanted) == (caption.action or "still")
    return found


def _described(text: str) -> Caption:
    try:
        return parse_caption(text)
    except UserError:
        return Caption()


class TinyCinemaVerifier:
    """The `Verifier` of tiny cinema: identity, set, box and action of shots with one described character."""

    def __call__(self, storyboard: Storyboard, index: int, keyframe: Float[Tensor, "3 height width"], clip: Clip | None) -> dict[str, bool]:
        """See `Verifier`; an upscaled clip is reduced to the size of its keyframe."""
        frames = None if clip is None else from_bytes(clip.frames, scale=clip.frames.shape[1] // keyframe.shape[1])
        return verdict_of(storyboard, index, keyframe, frames)
