"""Generation of a film from a storyboard: keyframes, clips, title card, contact sheet and HTML page in one folder."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from captain_cinema.conditioning import MemoryPolicy
from captain_cinema.data.storyboard import Storyboard, read_storyboard
from captain_cinema.images import read_image, to_bytes, write_image
from captain_cinema.models import KeyframeModel
from captain_cinema.movie import Planner, Verifier, no_verdict
from captain_cinema.movie.files import contact_sheet, title_card, write_film
from captain_cinema.report.storyboard_page import render_storyboard_page
from captain_cinema.sampling import Keyframe, KeyframeSampler, Reference, SamplingConfig
from captain_cinema.video import Clip, VideoGenerator
from triptych.errors import UserError
from triptych.files import write_atomically
from triptych.report import ReportConfig, Samples
from triptych.run.provenance import provenance
from triptych.run.session import Run
from triptych.seeding import derive_seed
from triptych.telemetry.logging import get_logger

_logger = get_logger("film")


@dataclass
class ReferenceConfig:
    """An external image that enters the memory of the shots.

    Attributes:
        path: PNG or JPEG; center-cropped and resized to the film's size.
        caption: caption of its content.
        tags: its characters and places; it ranks high in the memory of shots with the same tags.
    """

    path: str = ""
    caption: str = ""
    tags: list[str] = field(default_factory=list)


@dataclass
class FilmConfig:
    """Input and format of a film.

    Attributes:
        storyline: beats in plain text, separated by semicolons; null with a storyboard.
        storyboard: a `storyboard.json` of an earlier film, possibly edited; replaces the storyline.
        references: external images.
        keyframes_from: folder of an earlier film whose keyframes are reused, except those in `redraw`.
        redraw: 1-based numbers of the shots to sample again, each with a seed derived from the run's seed.
        image_size: height and width of a keyframe in pixels.
        frames_per_second: frame rate of the film.
        scale: upscaling factor of the film and the contact sheet relative to the keyframes.
        title_seconds: duration of the title card; 0 for none.
    """

    storyline: str | None = None
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
            raise UserError(f"redraw is {self.redraw} without keyframes to reuse: set keyframes_from to the folder of an earlier film")


@dataclass(frozen=True)
class Script:
    """The content of a film: storyboard, reused keyframes and references.

    Attributes:
        board: the storyboard.
        kept: reused keyframes, by 0-based shot.
        references: external frames.
    """

    board: Storyboard
    kept: dict[int, Float[Tensor, "3 height width"]]
    references: tuple[Reference, ...]


def read_script(film: FilmConfig, planner: Planner, *, seed: int) -> Script:
    """Plans or reads the storyboard and reads all images that the film depends on.

    Args:
        film: input and format.
        planner: turns the storyline into a storyboard.
        seed: seed of the planner and of resampled shots.

    Raises:
        UserError: if the storyline, the storyboard, a reference or an earlier film cannot be used.
    """
    board, kept = _kept(_storyboard(film, planner, seed), film, seed)
    size = (film.image_size[0], film.image_size[1])
    incomplete = [entry for entry in film.references if not entry.path or not entry.caption]
    if incomplete:
        raise UserError(f"references has {incomplete[0]}: set path and caption of every reference")
    references = tuple(Reference(read_image(Path(entry.path), size), entry.caption, tuple(entry.tags)) for entry in film.references)
    return Script(board, kept, references)


@dataclass(frozen=True)
class Studio:
    """The components that generate a film from a script.

    Attributes:
        model: the keyframe model.
        memory: memory policy of the keyframes.
        sampling: settings of the keyframe sampler.
        video: generator of the clips.
        verifier: compares shots with their descriptions.
    """

    model: KeyframeModel
    memory: MemoryPolicy
    sampling: SamplingConfig
    video: VideoGenerator
    verifier: Verifier = no_verdict

    def check(self, film: FilmConfig, script: Script) -> None:
        """Validates film and script against the models, without sampling.

        Raises:
            UserError: if the image size, memory budget or a caption does not fit the model, or the clips have another scale.
        """
        if self.video.scale != film.scale:
            raise UserError(
                f"video.scale is {self.video.scale} but the film's scale is {film.scale}: set only scale, which video.scale follows"
            )
        height, width = film.image_size
        side = self.model.space.pixels_per_token
        if height % side or width % side:
            raise UserError(f"image_size is {film.image_size}: both must be multiples of {side}")
        board = script.board
        self.model.encode_captions([*board.captions(), *(reference.caption for reference in script.references)])
        self.memory.plan(len(board.shots), short_side=min(height, width) // side, aspect=width / height, text_tokens=self.model.text_tokens)
        if self.sampling.mode == "joint" and script.references:
            raise UserError("sampling.mode is joint, which has no memory for references: remove them or set sampling.mode=extend")


def make_film(run: Run, film: FilmConfig, script: Script, studio: Studio) -> None:
    """Samples, animates and writes a film into the run's folder. Call it on every process: the main one samples, the others wait.

    Args:
        run: a run that has not begun, so that invalid input is refused before anything is written.
        film: input and format.
        script: content.
        studio: models and settings.

    Raises:
        UserError: see `Studio.check`.
    """
    studio.check(film, script)
    if run.world.is_main:
        size = (film.image_size[0], film.image_size[1])
        sampler = KeyframeSampler(studio.model, studio.memory, studio.sampling, image_size=size)
        keyframes = sampler.sample(script.board, fixed=script.kept, references=script.references)
        frames = [keyframe.frame for keyframe in keyframes]
        clips = studio.video.clips(script.board, frames, frames_per_second=Fraction(film.frames_per_second))
    run.begin({})  # deletes an earlier film in the folder, hence only after the new keyframes are sampled: they may come from it
    if run.world.is_main:
        _write(run, film, script, studio, keyframes, clips)
    run.world.barrier()


def _storyboard(film: FilmConfig, planner: Planner, seed: int) -> Storyboard:
    if film.storyboard is not None:
        return read_storyboard(Path(film.storyboard))
    if film.keyframes_from is not None:
        return read_storyboard(Path(film.keyframes_from) / "storyboard.json")
    if film.storyline is None:
        raise UserError("the film has no storyline: set storyline or storyboard")
    return planner(film.storyline, seed=seed)


def _kept(board: Storyboard, film: FilmConfig, seed: int) -> tuple[Storyboard, dict[int, Float[Tensor, "3 height width"]]]:
    """The storyboard with new seeds for the shots in `redraw`, and the reused keyframes of all others."""
    wrong = [number for number in film.redraw if not 1 <= number <= len(board.shots)]
    if wrong:
        raise UserError(f"redraw names shot {wrong[0]} but the storyboard has shots 1 to {len(board.shots)}: choose among them")
    if film.keyframes_from is None:
        return board, {}
    shots = list(board.shots)
    for number in film.redraw:
        shots[number - 1] = replace(shots[number - 1], seed=derive_seed(seed, "redraw", number))
    kept = {}
    folder = Path(film.keyframes_from)
    earlier = read_storyboard(folder / "storyboard.json").shots
    for number, (shot, before) in enumerate(zip(shots, earlier, strict=False), start=1):
        # A shot whose caption or tags differ from the earlier shot of that number is sampled.
        if number in film.redraw or (shot.caption, shot.tags) != (before.caption, before.tags):
            continue
        frame = read_image(folder / _keyframe_file(number), None)
        if list(frame.shape[-2:]) != film.image_size:
            raise UserError(
                f"{folder / _keyframe_file(number)} has {frame.shape[-2]} x {frame.shape[-1]} pixels but image_size is {film.image_size}: "
                "set image_size to that of the earlier film"
            )
        kept[number - 1] = frame
    return replace(board, shots=tuple(shots)), kept


def _write(run: Run, film: FilmConfig, script: Script, studio: Studio, keyframes: Sequence[Keyframe], clips: Iterator[Clip]) -> None:
    board = script.board
    with run.staging() as folder:
        verdicts = _write_files(folder, film, script, studio, keyframes, clips)
    _finish(run, board, keyframes, verdicts)


def _write_files(
    folder: Path, film: FilmConfig, script: Script, studio: Studio, keyframes: Sequence[Keyframe], clips: Iterator[Clip]
) -> list[Mapping[str, bool]]:
    """Writes all files of a film but the run's own; returns the verdicts on the shots."""
    board = script.board
    for name in ("keyframes", "clips"):
        (folder / name).mkdir()
    made = provenance()
    signed = {"Software": f"triptych {made['commit']}", "Seed": str(board.seed)}
    for number, (shot, keyframe) in enumerate(zip(board.shots, keyframes, strict=True), start=1):
        texts = {**signed, "Title": board.title, "Description": shot.caption}
        write_image(folder / _keyframe_file(number), to_bytes(keyframe.frame[None])[0], texts)
    verdicts = _write_film(folder, film, studio, board, keyframes, clips, signed)
    sheet = contact_sheet(
        [to_bytes(keyframe.frame[None], scale=film.scale)[0] for keyframe in keyframes], [shot.caption for shot in board.shots]
    )
    write_image(folder / "contact_sheet.png", sheet, {**signed, "Title": board.title})
    board.write(folder / "storyboard.json")
    write_atomically(folder / "plan.txt", _plan_text(board, keyframes))
    memory, sampling = studio.memory, studio.sampling
    page = render_storyboard_page(
        board,
        keyframes,
        clips=[(folder / _clip_file(number)).read_bytes() for number in range(1, len(keyframes) + 1)],
        verdicts=verdicts,
        references=script.references,
        patch=studio.model.space.pixels_per_token,
        settings={
            "memory": f"{memory.kind}, by {memory.order}",
            "sampling": f"{sampling.mode}, {sampling.num_steps} steps",
            "seed": str(board.seed),
            "commit": str(made["commit"]),
        },
    )
    write_atomically(folder / "storyboard.html", page)
    return verdicts


def _write_film(
    folder: Path,
    film: FilmConfig,
    studio: Studio,
    board: Storyboard,
    keyframes: Sequence[Keyframe],
    clips: Iterator[Clip],
    signed: Mapping[str, str],
) -> list[Mapping[str, bool]]:
    """Writes every clip and the film in one pass, one clip in memory at a time; returns the verdicts on the shots."""
    rate = Fraction(film.frames_per_second)
    size = (film.scale * film.image_size[0], film.scale * film.image_size[1])
    verdicts: list[Mapping[str, bool]] = []

    def shots() -> Iterator[Tensor]:
        yield title_card(board.title, size)[None].expand(round(film.title_seconds * film.frames_per_second), -1, -1, -1)
        for index, clip in enumerate(clips):
            tags = {"title": board.shots[index].caption, **signed}
            write_film(folder / _clip_file(index + 1), [clip.frames], frames_per_second=rate, metadata=tags)
            animated = clip if studio.video.animates else None
            verdicts.append(studio.verifier(board, index, keyframes[index].frame, animated))
            yield clip.frames

    write_film(folder / "film.mp4", shots(), frames_per_second=rate, metadata={"title": board.title, **signed})
    return verdicts


def _finish(run: Run, board: Storyboard, keyframes: Sequence[Keyframe], verdicts: Sequence[Mapping[str, bool]]) -> None:
    checks = [holds for verdict in verdicts for holds in verdict.values()]
    sampled = [keyframe for keyframe in keyframes if keyframe.tokens]
    seconds = sum(keyframe.seconds for keyframe in keyframes)
    summary = {
        "num_shots": len(keyframes),
        "num_drawn": len(sampled),
        "tokens_per_shot": sum(keyframe.tokens for keyframe in sampled) / max(1, len(sampled)),
        "seconds": seconds,
        "checked": len(checks),
        "holds": sum(checks),
    }
    run.log({key: float(value) for key, value in summary.items()}, step=1)
    rows = [
        (str(number), shot.caption, ", ".join(f"{part} {'right' if right else 'wrong'}" for part, right in verdict.items()))
        for number, (shot, verdict) in enumerate(zip(board.shots, verdicts, strict=True), start=1)
    ]
    headline = {"shots": str(len(keyframes)), "details right": f"{sum(checks)} of {len(checks)}", "seconds": f"{seconds:.1f}"}
    report = ReportConfig(title=board.title, headline=headline, samples=[Samples("Shots", ("shot", "caption", "verifier"), rows)])
    run.finish(summary, report=report)
    _logger.info("shots              %d, details right %d of %d", len(keyframes), sum(checks), len(checks))
    _logger.info("film               %s", run.directory / "film.mp4")
    _logger.info("storyboard         %s", run.directory / "storyboard.html")


def _keyframe_file(number: int) -> str:
    return f"keyframes/{number:03d}.png"


def _clip_file(number: int) -> str:
    return f"clips/{number:03d}.mp4"


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
