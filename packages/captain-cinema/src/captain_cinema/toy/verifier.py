"""What a frame of tiny cinema shows, read from its pixels by drawing every possibility: analysis by synthesis.

Size, position and prop of a shot are known from its caption. The judge looks for the nearest of all sets outside the
character's box, then, on that set, for the nearest of all identities inside it. Nothing is learned.
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
    """What the judge sees in one frame.

    Attributes:
        identity: the nearest identity.
        setting: the nearest set.
        prop: the nearest prop.
        residual: root mean square distance between the frame and its best synthesis, on the scale of [-1, 1]; high
            where the frame shows something that is not of this world.
    """

    identity: Identity
    setting: Setting
    prop: str
    residual: float


def read_frames(frames: Float[Tensor, "frames 3 side side"], scenes: Sequence[Scene]) -> list[Reading]:
    """Reads identity, set and prop of every frame.

    Args:
        frames: in [-1, 1], square.
        pictures: what was asked for; size and position are taken from here, and where a prop would be.
    """
    if not scenes:
        return []
    frames = frames.float().cpu()
    side = frames.shape[-1]
    found = torch.zeros(len(frames), len(LOOK_VALUES), dtype=torch.long)
    places = places_of(scenes)
    framings = [(scene.size, scene.position) for scene in scenes]
    for framing in dict.fromkeys(framings):
        rows = torch.tensor([index for index, other in enumerate(framings) if other == framing])
        place = tuple(places[rows[0]].tolist())
        found[rows, :_NUM_IDENTITY], found[rows, _NUM_IDENTITY:-1] = _read(frames[rows], place, side)
    candidates = torch.stack([_with_prop(found, index) for index in range(len(PROPS))])
    drawn = torch.stack([render(candidate, places, image_size=side) for candidate in candidates])
    distances = (drawn - frames).square().flatten(2).mean(2)
    found[:, -1] = distances.argmin(0)
    residuals = distances.amin(0).sqrt().tolist()
    return [_reading(row, residual) for row, residual in zip(found.tolist(), residuals, strict=True)]


def read_action(clip: Float[Tensor, "frames 3 side side"], scene: Scene) -> str:
    """The action that a clip shows: the nearest of those that begin with what its first frame shows.

    Args:
        clip: frames in [-1, 1], the first one the keyframe.
        picture: what was asked for; size and position are taken from here.
    """
    reading = read_frames(clip[:1], [scene])[0]
    seen = Scene(reading.identity, reading.setting, scene.size, scene.position, reading.prop)
    looks = looks_of([seen] * len(clip))
    side = clip.shape[-1]
    drawn = [render(looks, action_places(seen, action, len(clip)), image_size=side) for action in ACTIONS]
    # Only what departs from the mean frame counts, and when it does: the same frames shuffled are no walk. Differences of
    # neighbouring frames would tell the order too, but in them the frames' own errors outweigh a step of one pixel.
    change = clip.float().cpu() - clip.float().cpu().mean(0)
    distances = torch.stack([(change - (frames - frames.mean(0))).square().mean() for frames in drawn])
    return ACTIONS[int(distances.argmin())]


def every_identity(scene: Scene, *, image_size: int = 64) -> Float[Tensor, "identities 3 side side"]:
    """The picture with every identity in turn and without its prop, in the order of `IDENTITIES`."""
    return _composed(scene, range(len(IDENTITIES)), [SETTINGS.index(scene.setting)], image_size)


def every_setting(scene: Scene, *, image_size: int = 64) -> Float[Tensor, "settings 3 side side"]:
    """The picture with every set in turn and without its prop, in the order of `SETTINGS`."""
    return _composed(scene, [IDENTITIES.index(scene.identity)], range(len(SETTINGS)), image_size)


def _composed(scene: Scene, identities: Sequence[int], settings: Sequence[int], side: int) -> Tensor:
    x, y, radius = places_of([scene])[0].tolist()
    place = (x, y, radius)
    rows, columns = _box(place, side)
    bank = _identity_bank(place, side)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    coverage = bank.coverage[list(identities)].unflatten(1, (1, height, width))
    painted = bank.painted[list(identities)].unflatten(1, (3, height, width))
    frames = _setting_bank(side)[list(settings)].expand(max(len(identities), len(settings)), -1, -1, -1).clone()
    frames[:, :, rows, columns] = frames[:, :, rows, columns] * (1 - coverage) + painted
    return frames


def _read(frames: Tensor, place: tuple[float, float, float], side: int) -> tuple[Tensor, Tensor]:
    """Indices of identity and set of frames that share a place."""
    rows, columns = _box(place, side)
    outside = torch.ones(side, side)
    outside[rows, columns] = 0
    settings, banks = _setting_bank(side), _identity_bank(place, side)
    flat = (frames * outside).flatten(1)
    bank = (settings * outside).flatten(1)
    chosen = (bank.square().sum(1) - 2 * flat @ bank.T).argmin(1)
    # The sum over pixels of |f - (b (1 - a) + p)|^2 for every identity's coverage a and painted colour p, as products
    # with banks that do not depend on the frame. Where a prop may lie nobody looks.
    scene, behind = frames[:, :, rows, columns], settings[chosen][:, :, rows, columns]
    weight = banks.weight
    rest = (scene - behind) * weight
    seen = behind * weight
    cost = 2 * (rest * behind).sum(1).flatten(1) @ banks.coverage.T
    cost = cost - 2 * rest.flatten(1) @ banks.painted.T
    cost = cost + (seen * behind).sum(1).flatten(1) @ banks.coverage.square().T
    cost = cost - 2 * seen.flatten(1) @ (banks.painted * banks.coverage.repeat(1, 3)).T
    cost = cost + (banks.painted.square() @ weight.expand(3, -1, -1).flatten())
    return _combinations(IDENTITY_VALUES)[cost.argmin(1)], _combinations(SETTING_VALUES)[chosen]


@dataclass(frozen=True)
class _IdentityBank:
    coverage: Tensor  # identities, pixels
    painted: Tensor  # identities, 3 * pixels
    weight: Tensor  # rows, columns: 0 where a prop may lie


@lru_cache(maxsize=32)
def _identity_bank(place: tuple[float, float, float], side: int) -> _IdentityBank:
    rows, columns = _box(place, side)
    identities = _combinations(IDENTITY_VALUES)
    # Before two plain walls the difference tells coverage and colour apart; the walls are not part of the world.
    places = torch.tensor(place).expand(len(identities), -1)
    dark, light = (_before(level, identities, places, side)[:, :, rows, columns] for level in (-1.0, 1.0))
    coverage = (1 - (light - dark) / 2).mean(1)
    painted = dark + 1 - coverage[:, None]
    props = torch.tensor([[0] * (len(LOOK_VALUES) - 1) + [index] for index in (0, 1)])
    plain, boxed = render(props, places[:2], image_size=side)[:, :, rows, columns]
    weight = ((plain - boxed).abs().amax(0) == 0).float()
    return _IdentityBank(coverage.flatten(1), painted.flatten(1), weight)


def _before(level: float, identities: Tensor, places: Places, side: int) -> Tensor:
    canvas = Canvas(torch.full((len(identities), 3, side, side), level), side)
    canvas.render_character(identities, places)
    return canvas.frames


@lru_cache(maxsize=4)
def _setting_bank(side: int) -> Tensor:
    return render_settings(_combinations(SETTING_VALUES), image_size=side)


def _combinations(values: Sequence[Sequence[str]]) -> Tensor:
    return torch.tensor(list(itertools.product(*(range(len(options)) for options in values))))


def _box(place: tuple[float, float, float], side: int) -> tuple[slice, slice]:
    """Rows and columns that body, hat and prop may touch."""
    x, y, radius = place
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
    """What is right in one shot of tiny cinema; nothing where the storyboard does not describe who and what it shows.

    Args:
        board: descriptions and captions.
        index: of the shot.
        frame: its keyframe.
        clip: its clip, if the character moves in it; None leaves the action unread.
    """
    shot = board.shots[index]
    if len(shot.characters) != 1 or shot.place is None or frame.shape[-2:] != (64, 64):
        return {}
    try:
        said = parse_caption(shot.caption)
    except UserError:  # a caption of another world
        return {}
    person, scenery = (_described(text) for text in (board.characters[shot.characters[0]], board.places[shot.place]))
    if None in (person.colour, person.shape, person.hat, person.badge, scenery.wall, scenery.ground, scenery.decoration):
        return {}
    if said.size is None or said.position is None:
        return {}
    identity = Identity(str(person.colour), str(person.shape), str(person.hat), str(person.badge))
    setting = Setting(str(scenery.wall), str(scenery.ground), str(scenery.decoration))
    wanted = Scene(identity, setting, said.size, said.position, said.prop or "none")
    reading = read_frames(frame[None], [wanted])[0]
    found = {part: getattr(reading.identity, part) == getattr(identity, part) for part in vars(identity)}
    found |= {part: getattr(reading.setting, part) == getattr(setting, part) for part in vars(setting)}
    found["box"] = reading.prop == wanted.prop
    if clip is not None and len(clip) >= CLIP_FRAMES:
        frames = clip[torch.linspace(0, len(clip) - 1, CLIP_FRAMES).round().long()]
        found["action"] = read_action(frames, wanted) == (said.action or "still")
    return found


def _described(text: str) -> Caption:
    try:
        return parse_caption(text)
    except UserError:
        return Caption()


class TinyCinemaVerifier:
    """Tiny cinema's `Verifier`: identity, place, box and action of shots with one described character."""

    def __call__(self, storyboard: Storyboard, index: int, keyframe: Float[Tensor, "3 height width"], clip: Clip | None) -> dict[str, bool]:
        """See `Verifier`; a clip of larger frames is read at the size of its keyframe."""
        frames = None if clip is None else from_bytes(clip.frames, scale=clip.frames.shape[1] // keyframe.shape[1])
        return verdict_of(storyboard, index, keyframe, frames)
