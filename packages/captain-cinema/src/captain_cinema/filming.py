"""From a storyboard to a film in a folder: keyframes, clips, titles, contact sheet and the page that shows it all."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.data.captions import Caption, parse_caption
from captain_cinema.data.drawing import CLIP_FRAMES, Identity, Picture, Setting
from captain_cinema.data.judge import read_action, read_frames
from captain_cinema.film import contact_sheet, read_picture, title_card, to_bytes, write_film, write_picture
from captain_cinema.keyframes import DrawingConfig, Keyframe, KeyframeSampler, Reference
from captain_cinema.models import KeyframeModel
from captain_cinema.planner import plan_storyboard
from captain_cinema.report.storyboard_page import render_storyboard_page
from captain_cinema.storyboard import Storyboard, read_storyboard
from captain_cinema.video import VideoGenerator
from triptych.console import get_logger
from triptych.errors import UserError
from triptych.provenance import provenance
from triptych.report.render import ReportConfig, Samples
from triptych.run import Run
from triptych.seeding import derive_seed

_logger = get_logger("film")

DEFAULT_STORYLINE = (
    "ada meets bo in the kitchen; bo leaves; cleo looks around the garden; ada finds the red box in the attic; bo returns; "
    "ada jumps in the kitchen; cleo approaches in the garden; bo and ada meet in the kitchen"
)


@dataclass
class ReferenceConfig:
    """A picture from outside the film that shots may remember.

    Attributes:
        path: PNG or JPEG; cut to the film's aspect and size.
        caption: what it shows.
        tags: names and places that it shows; shots that share them remember it first.
    """

    path: str = ""
    caption: str = ""
    tags: list[str] = field(default_factory=list)


@dataclass
class FilmConfig:
    """What is filmed, and how it is written.

    Attributes:
        storyline: beats in plain words, with semicolons between them; null where there is a storyboard.
        storyboard: a `storyboard.json`, written by an earlier film and perhaps edited; takes the place of the storyline.
        references: pictures from outside.
        keyframes_from: folder of an earlier film whose keyframes are kept, but for those in `redraw`.
        redraw: numbers of the shots, from 1, that are drawn anew, each with a seed that derives from the run's.
        image_size: height and width of a keyframe in pixels.
        frames_per_second: of the film.
        scale: the film and the contact sheet are so many times as large as the keyframes.
        title_seconds: of the title card; 0 for none.
    """

    storyline: str | None = DEFAULT_STORYLINE
    storyboard: str | None = None
    references: list[ReferenceConfig] = field(default_factory=list)
    keyframes_from: str | None = None
    redraw: list[int] = field(default_factory=list)
    image_size: list[int] = field(default_factory=lambda: [64, 64])
    frames_per_second: int = 12
    scale: int = 6
    title_seconds: float = 1.5

    def __post_init__(self) -> None:
        if self.frames_per_second < 1 or self.scale < 1 or not 0 <= self.title_seconds <= 60:
            raise UserError(
                f"frames_per_second is {self.frames_per_second}, scale {self.scale}, title_seconds {self.title_seconds}: "
                "give 1 or more, 1 or more, and 0 to 60"
            )
        if len(self.image_size) != 2 or min(self.image_size) < 1:
            raise UserError(f"image_size is {self.image_size}: give height and width in pixels")
        if self.redraw and self.keyframes_from is None:
            raise UserError(f"redraw is {self.redraw} but there are no keyframes to keep: set keyframes_from to an earlier film")


@dataclass(frozen=True)
class Script:
    """Everything that a film is drawn from.

    Attributes:
        board: the storyboard.
        kept: keyframes that are not drawn anew, by 0-based shot.
        references: frames from outside.
    """

    board: Storyboard
    kept: dict[int, Float[Tensor, "3 height width"]]
    references: tuple[Reference, ...]


def read_script(film: FilmConfig, *, seed: int) -> Script:
    """Plans or reads the storyboard and reads all pictures that a film begins with.

    Args:
        film: what is filmed.
        seed: deals looks to a planned storyboard and seeds to redrawn shots.

    Raises:
        UserError: if the storyline, the storyboard, a reference or an earlier film cannot be used.
    """
    board, kept = _kept(_storyboard(film, seed), film, seed)
    size = (film.image_size[0], film.image_size[1])
    nameless = [entry for entry in film.references if not entry.path or not entry.caption]
    if nameless:
        raise UserError(f"references has {nameless[0]}: each needs a path and a caption")
    references = tuple(Reference(read_picture(Path(entry.path), size), entry.caption, tuple(entry.tags)) for entry in film.references)
    return Script(board, kept, references)


def make_film(
    run: Run,
    film: FilmConfig,
    script: Script,
    *,
    model: KeyframeModel,
    video: VideoGenerator,
    memory: MemoryPolicy,
    drawing: DrawingConfig,
) -> None:
    """Draws, animates and writes a film into the run's folder; call it on every process: one draws, the others wait.

    Args:
        run: not begun yet: nothing is written before all that can be refused is known.
        film: how it is written.
        script: what is filmed.
        model: the keyframe model.
        video: what draws the clips.
        memory: which earlier keyframes a shot looks at.
        drawing: how keyframes are drawn.

    Raises:
        UserError: if the size, the budget or a caption does not fit the model.
    """
    height, width = film.image_size
    if height % model.patch or width % model.patch:
        raise UserError(f"image_size is {film.image_size}: both must be multiples of {model.patch}")
    board = script.board
    sampler = KeyframeSampler(model, memory, drawing, image_size=(height, width))
    model.encode_captions([*board.captions(), *(reference.caption for reference in script.references)])
    memory.plan(len(board.shots), short_side=min(height, width) // model.patch, aspect=width / height, text_tokens=model.text_tokens)
    if drawing.mode == "joint" and script.references:
        raise UserError("drawing.mode is joint, which remembers nothing: leave references out, or draw with mode extend")
    if run.world.is_main:
        keyframes = sampler.draw(board, fixed=script.kept, references=script.references)
        clips = video.clips(board, [keyframe.frame for keyframe in keyframes], frames_per_second=film.frames_per_second)
    run.begin({})  # empties the folder of an earlier film: not before there is a new one
    if run.world.is_main:
        _write(run, film, script, keyframes, clips, shown=_settings(memory, drawing), patch=model.patch, animated=video.animates)
    run.world.barrier()


def _settings(memory: MemoryPolicy, drawing: DrawingConfig) -> dict[str, str]:
    return {"memory": f"{memory.kind}, by {memory.order}", "drawing": f"{drawing.mode}, {drawing.num_steps} steps"}


def _storyboard(film: FilmConfig, seed: int) -> Storyboard:
    if film.storyboard is not None:
        return read_storyboard(Path(film.storyboard))
    if film.keyframes_from is not None:
        return read_storyboard(Path(film.keyframes_from) / "storyboard.json")
    if film.storyline is None:
        raise UserError("there is nothing to film: set storyline or storyboard")
    return plan_storyboard(film.storyline, seed=seed)


def _kept(board: Storyboard, film: FilmConfig, seed: int) -> tuple[Storyboard, dict[int, Float[Tensor, "3 height width"]]]:
    """The storyboard with new seeds for the shots that are drawn anew, and the keyframes of all others."""
    wrong = [number for number in film.redraw if not 1 <= number <= len(board.shots)]
    if wrong:
        raise UserError(f"redraw names shot {wrong[0]}, but the storyboard has shots 1 to {len(board.shots)}")
    if film.keyframes_from is None:
        return board, {}
    shots = list(board.shots)
    for number in film.redraw:
        shots[number - 1] = replace(shots[number - 1], seed=derive_seed(seed, "redraw", number))
    kept = {}
    folder = Path(film.keyframes_from)
    earlier = read_storyboard(folder / "storyboard.json").shots
    for number, (shot, before) in enumerate(zip(shots, earlier, strict=False), start=1):
        # A shot that shows something else than its namesake of the earlier film has no keyframe yet.
        if number in film.redraw or (shot.caption, shot.tags) != (before.caption, before.tags):
            continue
        frame = read_picture(folder / _keyframe_file(number), None)
        if list(frame.shape[-2:]) != film.image_size:
            raise UserError(f"{folder / _keyframe_file(number)} has {frame.shape[-2]} x {frame.shape[-1]} pixels, not {film.image_size}")
        kept[number - 1] = frame
    return replace(board, shots=tuple(shots)), kept


def _write(
    run: Run,
    film: FilmConfig,
    script: Script,
    keyframes: Sequence[Keyframe],
    clips: Sequence[Float[Tensor, "frames 3 height width"]],
    *,
    shown: Mapping[str, str],
    patch: int,
    animated: bool,
) -> None:
    board = script.board
    for folder in ("keyframes", "clips"):
        (run.directory / folder).mkdir(exist_ok=True)
    made = provenance()
    signed = {"Software": f"triptych {made['commit']}", "Seed": str(board.seed)}
    pages = []
    for number, (shot, keyframe, clip) in enumerate(zip(board.shots, keyframes, clips, strict=True), start=1):
        texts = {**signed, "Title": board.title, "Description": shot.caption}
        write_picture(run.directory / _keyframe_file(number), to_bytes(keyframe.frame[None])[0], texts)
        path = run.directory / "clips" / f"{number:03d}.mp4"
        write_film(
            path,
            [to_bytes(clip, scale=film.scale)],
            frames_per_second=film.frames_per_second,
            metadata={"title": shot.caption, **signed},
        )
        pages.append(path.read_bytes())
    size = (film.scale * film.image_size[0], film.scale * film.image_size[1])
    title = title_card(board.title, size)[None].expand(round(film.title_seconds * film.frames_per_second), -1, -1, -1)
    large = (to_bytes(clip, scale=film.scale) for clip in clips)  # one at a time: enlarged ones fill the memory
    write_film(
        run.directory / "film.mp4",
        itertools.chain([title], large),
        frames_per_second=film.frames_per_second,
        metadata={"title": board.title, **signed},
    )
    sheet = contact_sheet(
        [to_bytes(keyframe.frame[None], scale=film.scale)[0] for keyframe in keyframes], [shot.caption for shot in board.shots]
    )
    write_picture(run.directory / "contact_sheet.png", sheet, {**signed, "Title": board.title})
    board.write(run.directory / "storyboard.json")
    run.write_text("plan.txt", _plan_text(board, keyframes))
    verdicts = [
        verdict_of(board, index, keyframe.frame, clip if animated else None)
        for index, (keyframe, clip) in enumerate(zip(keyframes, clips, strict=True))
    ]
    page = render_storyboard_page(
        board,
        keyframes,
        clips=pages,
        verdicts=verdicts,
        references=script.references,
        patch=patch,
        settings={**shown, "seed": str(board.seed), "commit": str(made["commit"])},
    )
    run.write_text("storyboard.html", page)
    _finish(run, board, keyframes, verdicts)


def _finish(run: Run, board: Storyboard, keyframes: Sequence[Keyframe], verdicts: Sequence[Mapping[str, bool]]) -> None:
    checks = [holds for verdict in verdicts for holds in verdict.values()]
    drawn = [keyframe for keyframe in keyframes if keyframe.tokens]
    seconds = sum(keyframe.seconds for keyframe in keyframes)
    summary = {
        "num_shots": len(keyframes),
        "num_drawn": len(drawn),
        "tokens_per_shot": sum(keyframe.tokens for keyframe in drawn) / max(1, len(drawn)),
        "seconds": seconds,
        "checked": len(checks),
        "holds": sum(checks),
    }
    run.log({key: float(value) for key, value in summary.items()}, step=1)
    rows = [
        (str(number), shot.caption, ", ".join(f"{what} {'holds' if holds else 'fails'}" for what, holds in verdict.items()))
        for number, (shot, verdict) in enumerate(zip(board.shots, verdicts, strict=True), start=1)
    ]
    headline = {"shots": str(len(keyframes)), "details right": f"{sum(checks)} of {len(checks)}", "seconds": f"{seconds:.1f}"}
    report = ReportConfig(title=board.title, headline=headline, samples=[Samples("Shots", ("shot", "caption", "judge"), rows)])
    run.finish(summary, report=report)
    _logger.info("shots              %d, details right %d of %d", len(keyframes), sum(checks), len(checks))
    _logger.info("film               %s", run.directory / "film.mp4")
    _logger.info("storyboard         %s", run.directory / "storyboard.html")


def verdict_of(
    board: Storyboard, index: int, frame: Float[Tensor, "3 height width"], clip: Float[Tensor, "frames 3 height width"] | None
) -> dict[str, bool]:
    """What the judge of tiny cinema says of one shot; nothing where the storyboard does not describe who and what it shows.

    Args:
        board: descriptions and captions.
        index: of the shot.
        frame: its keyframe.
        clip: its clip, if the character moves in it; None leaves the action unread.
    """
    shot = board.shots[index]
    if len(shot.characters) != 1 or shot.place is None or frame.shape[-2:] != (64, 64):
        return {}
    said = parse_caption(shot.caption)
    person, scenery = (_described(text) for text in (board.characters[shot.characters[0]], board.places[shot.place]))
    if None in (person.colour, person.shape, person.hat, person.badge, scenery.wall, scenery.ground, scenery.decoration):
        return {}
    if said.size is None or said.position is None:
        return {}
    identity = Identity(str(person.colour), str(person.shape), str(person.hat), str(person.badge))
    setting = Setting(str(scenery.wall), str(scenery.ground), str(scenery.decoration))
    wanted = Picture(identity, setting, said.size, said.position, said.prop or "none")
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


def _keyframe_file(number: int) -> str:
    return f"keyframes/{number:03d}.png"


def _plan_text(board: Storyboard, keyframes: Sequence[Keyframe]) -> str:
    lines = []
    for number, (shot, keyframe) in enumerate(zip(board.shots, keyframes, strict=True), start=1):
        lines.append(f"{number:3d}  {keyframe.tokens:5d} tokens  {shot.caption}")
        for kept in keyframe.remembered:
            name = f"shot {kept.source + 1}" if kept.source >= 0 else f"reference {-kept.source}"
            lines.append(f"       remembers {name} at {kept.grid[0]} x {kept.grid[1]} tokens")
        if keyframe.note:
            lines.append(f"       {keyframe.note}")
    return "\n".join(lines) + "\n"
