"""Fixtures that every test may use."""

from pathlib import Path

import pytest

from include.settings import Settings

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Default settings with a home of the test's own."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public data sets beside the repository; a test that needs them says so where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the data sets in ../shared/data, which are not here")
    return SHARED
