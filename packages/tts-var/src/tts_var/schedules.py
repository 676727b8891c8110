"""The searches of `configs/var/search/` as functions: TTS-VAR, its ablations, and the baselines.

Each returns new settings, which `dataclasses.replace` changes. Numbers of particles are per final image.

Example:
    >>> from tts_var.numerics.schedule import plan
    >>> [step.particles for step in plan(tts_var(num_images=2), 13)]
    [16, 16, 16, 12, 12, 12, 8, 4, 4, 4, 2, 2, 2]
"""

from tts_var.numerics.schedule import Event, SearchConfig

_PAPER = (8, 8, 6, 6, 6, 4, 2, 2, 2, 1, 1, 1, 1)


def single() -> SearchConfig:
    """One image, no search."""
    return SearchConfig()


def best_of_n(num_images: int = 4) -> SearchConfig:
    """Independent images, of which the reward selects one."""
    return SearchConfig(num_images=num_images)


def tts_var(num_images: int = 1) -> SearchConfig:
    """The paper's search: clustering at scales 2 and 5 of thirteen, resampling at 6 and 9.

    Source: TTS-VAR (arXiv 2507.18537), section 4.
    """
    return _papers({2: "cluster", 5: "cluster", 6: "resample", 9: "resample"}, num_images)


def clustering_only(num_images: int = 1) -> SearchConfig:
    """The paper's batch schedule with all events by clustering."""
    return _papers(dict.fromkeys((2, 5, 6, 9), "cluster"), num_images)


def resampling_only(num_images: int = 1) -> SearchConfig:
    """The paper's batch schedule with all events by resampling."""
    return _papers(dict.fromkeys((2, 5, 6, 9), "resample"), num_images)


def importance_sampling(num_images: int = 4) -> SearchConfig:
    """A constant number of particles, resampled twice; written for seven scales."""
    return SearchConfig(events=[Event(4, "resample"), Event(5, "resample")], num_scales=7, num_images=num_images)


def late_top(num_images: int = 2) -> SearchConfig:
    """Twice the particles until a third of the tokens are sampled, then the better half by the reward; written for seven scales."""
    return SearchConfig([2, 2, 2, 2, 1, 1, 1], [Event(4, "resample")], num_scales=7, num_images=num_images, scheme="top")


def _papers(events: dict[int, str], num_images: int) -> SearchConfig:
    return SearchConfig(list(_PAPER), [Event(scale, kind) for scale, kind in events.items()], num_scales=13, num_images=num_images)
