"""Fixtures of recordings: a test that takes one of `recordings.KINDS` runs once for every recording of that kind.

So any other set of recordings of the same form can take the place of the default one. Without TRIPTYCH_GOLDEN the tests are skipped where
the default folder is absent; a folder named by TRIPTYCH_GOLDEN must contain recordings.
"""

from typing import Any

import pytest

from recordings import KINDS, Golden, are_expected, folder, recordings


@pytest.fixture(scope="session")
def golden() -> Golden:
    """The recordings."""
    if not are_expected():
        pytest.skip(f"no recordings at {folder()}: set TRIPTYCH_GOLDEN")
    return Golden(folder())


def _named(kind: str) -> Any:
    @pytest.fixture(name=kind)
    def fixture(request: pytest.FixtureRequest, golden: Golden) -> str:
        if request.param is None:
            pytest.fail(f"TRIPTYCH_GOLDEN={golden.folder} has no recording {'/*'.join(KINDS[kind])}")
        return str(request.param)

    return fixture


infinity_variant, var_variant, search_recording = (_named(kind) for kind in KINDS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for every recording; one that is skipped or fails if there is none."""
    for kind in KINDS:
        if kind in metafunc.fixturenames:
            metafunc.parametrize(kind, recordings(kind) or [None], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that compare with a recording."""
    for item in items:
        if "golden" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.golden)
