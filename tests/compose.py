"""Reads docker-compose.yaml as compose itself does: with its own program, and a `.env` of the test's own."""

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.settings import REPOSITORY

FILE = REPOSITORY / "docker-compose.yaml"
EXAMPLE = REPOSITORY / ".env.example"


@cache
def program() -> tuple[str, ...]:
    """Compose's command; neither the engine nor a network is needed. A test that needs it is skipped without."""
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    ):
        return ("docker", "compose")
    pytest.skip("docker-compose is not there (apt-get install docker-compose)")


def config(env_file: Path) -> subprocess.CompletedProcess[str]:
    """Ask compose to check the file and put in the variables."""
    clean = {
        name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ
    }  # a variable of the shell would win
    return subprocess.run(
        [*program(), "--file", FILE, "--env-file", env_file, "config"],
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )


def services(env_file: Path) -> dict[str, dict[str, Any]]:
    """Every service as compose would start it, its environment complete."""
    answer = config(env_file)
    assert answer.returncode == 0, answer.stderr
    found: dict[str, dict[str, Any]] = yaml.safe_load(answer.stdout)["services"]
    return found


def new_env(target: Path, **values: str) -> Path:
    """A `.env` as `make env` writes it, with some values changed."""
    subprocess.run(["sh", REPOSITORY / "deploy" / "new_env.sh", target], check=True, capture_output=True)
    lines = target.read_text().splitlines()
    for name, value in values.items():
        at = next(n for n, line in enumerate(lines) if line.startswith(f"{name}="))
        lines[at] = f"{name}={value}"
    target.write_text("\n".join(lines) + "\n")
    return target


def variables(file: Path) -> dict[str, str]:
    """Names and values of an env file."""
    lines = (line for line in file.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)
