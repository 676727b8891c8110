"""`python -m captain_cinema.generate`: a storyline or an edited storyboard becomes a film."""

from captain_cinema.filming import FilmRun, make_film
from triptych.cli import entry_point


@entry_point("generate_cinema", FilmRun)
def main(config: FilmRun) -> None:
    """Draws the keyframes and the clips and writes film and storyboard page into the run's folder."""
    make_film(config)


if __name__ == "__main__":
    main()
