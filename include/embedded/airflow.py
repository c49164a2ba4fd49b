"""Start, stop and look at the embedded Airflow: `python -m include.embedded.airflow start|stop|status`.

It is `airflow standalone` with SQLite and the LocalExecutor, all of it under `TIDEMARK_HOME/airflow`, in a session of its
own, listening on 127.0.0.1 only, with a login.
"""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]

from include.errors import BadInput, TidemarkError
from include.settings import REPOSITORY, Settings, load
from include.stores import files

HOST = "127.0.0.1"
PORT = 8080
USER = "admin"
MARK = "EMBEDDED_AIRFLOW_HOME"  # set for every process of an embedded Airflow, so that each can be found again
GRACE = 20.0  # seconds between asking to end and ending
START_LIMIT = 300.0  # seconds; 25 to 50 are usual

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """A started Airflow: the process at its head, and where it listens."""

    pid: int
    port: int
    created: float  # seconds since 1970; tells the process from a later one with the same id

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"


def folder(settings: Settings) -> Path:
    """AIRFLOW_HOME.

    Raises:
        BadInput: the home is not a local folder.
    """
    if files.is_remote(settings.home):
        raise BadInput(
            f"the embedded Airflow keeps its database in a local home, not in {settings.home}: unset TIDEMARK_HOME"
        )
    return settings.home.resolve() / "airflow"


def password_file(settings: Settings) -> Path:
    """The file that holds the login's generated password."""
    return folder(settings) / "simple_auth_manager_passwords.json.generated"


def password(settings: Settings) -> str:
    """The login's password.

    Raises:
        BadInput: Airflow was never started here.
    """
    file = password_file(settings)
    if not file.exists():
        raise BadInput(f"{file} is not there: start Airflow first (make up)")
    return str(json.loads(file.read_text("utf-8"))[USER])


def log_file(settings: Settings) -> Path:
    return folder(settings) / "standalone.log"


def environment(settings: Settings, port: int = PORT) -> dict[str, str]:
    """The environment of every Airflow process and of every `airflow` command on this Airflow."""
    home = folder(settings)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return inherited | {
        MARK: str(home),
        "TIDEMARK_HOME": str(settings.home.resolve()),
        "PYTHONPATH": str(REPOSITORY),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(REPOSITORY / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "8",
        "AIRFLOW__SCHEDULER__MP_START_METHOD": "forkserver",
        "AIRFLOW__SCHEDULER__MP_FORKSERVER_PRELOAD": "airflow.jobs.scheduler_job_runner,include.preloaded",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(password_file(settings)),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://{HOST}:{port}/execution/",
        # Several processes write. On a busy machine one waits for another for longer than the 5 s after which SQLite gives up. No
        # longer than a client waits: of two requests that change something, Airflow 3.3 may let each wait for the other that long.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=30",
        # A pooled SQLite connection that was left inside a transaction would fail every later write through it.
        "AIRFLOW__DATABASE__SQL_ALCHEMY_POOL_ENABLED": "False",
        "AIRFLOW__API__HOST": HOST,
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",  # a skipped task takes that long to end
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port(0)),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port(0)),
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "30",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "2",
        "SCARF_ANALYTICS": "false",
        "DO_NOT_TRACK": "1",
    }


def processes(settings: Settings) -> list[psutil.Process]:
    """Every live process of this home's Airflow, whatever its process group.

    Most carry the mark in their environment. Those that rename themselves overwrite it, but no Airflow process leaves the
    session that it was started in, so they are found by that.
    """
    home, session = str(folder(settings)), _session(settings)
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if (session and os.getsid(process.pid) == session) or process.environ().get(MARK) == home:
                found.append(process)
    return found


def _session(settings: Settings) -> int | None:
    """The session that Airflow was started in, or None where its number has gone to somebody else since."""
    head = _head(settings)
    if head is None:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        if abs(psutil.Process(head.pid).create_time() - head.created) > 1:
            return None
    return head.pid


def _head(settings: Settings) -> Running | None:
    try:
        return Running(**json.loads(_pid_file(settings).read_text("utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def running(settings: Settings) -> Running | None:
    """The Airflow that runs for this home, or None. A pid file whose process is gone or is another's counts as none."""
    head = _head(settings)
    return head if head and head.pid in {process.pid for process in processes(settings)} else None


def start(settings: Settings, progress: Progress = print) -> Running:
    """Start Airflow, unless it runs already, and wait until its scheduler and its DAGs are there.

    Raises:
        TidemarkError: it ended, or was not healthy in time; the message names its log.
    """
    found = running(settings)
    if found is not None:
        progress(f"Airflow runs already at {found.url}")
        wait_until_healthy(settings, found, progress)
        return found
    if processes(settings):
        progress("ending what an earlier Airflow left behind")
        stop(settings, progress)
    home = folder(settings)
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    if not password_file(settings).exists():
        with open(os.open(password_file(settings), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:  # noqa: PTH123
            json.dump({USER: secrets.token_urlsafe(12)}, file)
    port = free_port()
    with log_file(settings).open("ab") as log:
        head = subprocess.Popen(
            [sys.executable, "-m", "airflow", "standalone"],
            env=environment(settings, port),
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    started = Running(head.pid, port, psutil.Process(head.pid).create_time())
    _pid_file(settings).write_text(json.dumps(asdict(started)), "utf-8")
    progress(f"Airflow is starting at {started.url} (log: {log_file(settings)})")
    try:
        wait_until_healthy(settings, started, progress)
    except BaseException:
        stop(settings, progress)
        raise
    return started


def wait_until_healthy(settings: Settings, airflow: Running, progress: Progress = print) -> None:
    """Wait until the API server, the scheduler and the DAG processor say that they are healthy.

    Raises:
        TidemarkError: it ended, was not healthy in time, or another server listens on its port.
    """
    began = said = time.monotonic()
    while True:
        state: dict[str, str] = {}
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            health = httpx.get(f"{airflow.url}/api/v2/monitor/health", timeout=5).json()
            state = {name: health[name]["status"] for name in ("metadatabase", "scheduler", "dag_processor")}
            if set(state.values()) == {"healthy"}:
                _log_in(settings, airflow)
                progress(f"Airflow is healthy after {time.monotonic() - began:.0f} s")
                return
        if running(settings) is None:
            raise TidemarkError(f"Airflow ended while it started: see the end of {log_file(settings)}")
        if time.monotonic() - began > START_LIMIT:
            raise TidemarkError(
                f"Airflow was not healthy after {START_LIMIT:.0f} s ({state}): see {log_file(settings)}"
            )
        if time.monotonic() - said >= 5:
            said = time.monotonic()
            progress(f"  waiting for Airflow, {said - began:.0f} s ({state or 'no answer yet'})")
        time.sleep(1)


def _log_in(settings: Settings, airflow: Running) -> None:
    """See that the server is ours: whoever starts in the same moment finds the same port free."""
    login = {"username": USER, "password": password(settings)}
    if httpx.post(f"{airflow.url}/auth/token", json=login, timeout=60).status_code == httpx.codes.UNAUTHORIZED:
        raise TidemarkError(f"another Airflow has taken {airflow.url}, which does not know our login: start again")


def stop(settings: Settings, progress: Progress = print) -> None:
    """End every process of this home's Airflow: ask first, then insist, and prove that none is left.

    Raises:
        TidemarkError: a process outlived even SIGKILL.
    """
    found = running(settings)
    left = processes(settings)
    if left:
        progress(f"stopping Airflow ({len(left)} processes)")
    if found is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(found.pid, signal.SIGTERM)  # children outlive a SIGTERM to the parent alone
    # Tasks and workers put themselves into groups of their own, hence each by its id too.
    for send in (psutil.Process.terminate, psutil.Process.kill):
        left = processes(settings)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                send(process)
        deadline = time.monotonic() + GRACE
        while (left := processes(settings)) and time.monotonic() < deadline:
            time.sleep(0.2)
    if left:
        raise TidemarkError(f"processes of Airflow are left: {[process.pid for process in left]}")
    _pid_file(settings).unlink(missing_ok=True)
    progress("no process of Airflow is left")


def free_port(preferred: int = PORT) -> int:
    """The preferred port of the loopback interface, or any other that is free."""
    for port in dict.fromkeys((preferred, 0)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return int(probe.getsockname()[1])
    raise TidemarkError(f"no port of {HOST} is free")


def scheduler(settings: Settings) -> psutil.Process | None:
    """The scheduler's process, or None where it has ended: Airflow goes on without it, and nothing starts any more."""
    for process in processes(settings):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[-1:] == ["scheduler"]:
                return process
    return None


def describe(settings: Settings) -> str:
    """Whether it runs, and how to log in."""
    found = running(settings)
    if found is None:
        return "Airflow does not run (make up starts it)"
    lines = [
        f"Airflow: {found.url}",
        f"  user {USER}, password in {password_file(settings)}",
        f"  log {log_file(settings)}",
    ]
    if scheduler(settings) is None:
        lines.append("  its scheduler has ended, the log says why: nothing starts until make down and make up")
    return "\n".join(lines)


def _pid_file(settings: Settings) -> Path:
    return folder(settings) / "embedded.json"


def main(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    commands: dict[str, Callable[[Settings], object]] = {"start": start, "stop": stop, "status": lambda _: None}
    if len(arguments) != 1 or arguments[0] not in commands:
        print(f"usage: python -m include.embedded.airflow {'|'.join(commands)}", file=sys.stderr)
        return 2
    try:
        settings = load()
        commands[arguments[0]](settings)
        if arguments[0] != "stop":
            print(describe(settings))
    except TidemarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
