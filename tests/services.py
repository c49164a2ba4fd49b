"""Starts the services of a cluster on loopback for a test: Postgres, and an S3-compatible object store.

Each listens on a free port, with generated credentials, on folders of the test's own, and is ended with it. Postgres is
the real server from the system's packages; the object store is moto's server.
"""

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import boto3
import psycopg2

HOST = "127.0.0.1"
START_LIMIT = 600.0  # seconds until a server answers; 20 are usual, more where other tests run beside it


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind((HOST, 0))
        return int(listening.getsockname()[1])


def binary(name: str) -> Path | None:
    """A program of Postgres: on the path, or where Debian keeps the newest version's."""
    found = shutil.which(name)
    if found:
        return Path(found)
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda file: int(file.parts[-3]))
    return versions[-1] if versions else None


def _as_postgres() -> list[str]:
    """How a server that refuses root is started by root."""
    if os.geteuid() != 0:
        return []
    user = pwd.getpwnam("postgres")
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]


@dataclass(frozen=True)
class Postgres:
    port: int
    password: str

    def dsn(self, database: str = "postgres") -> str:
        return f"host={HOST} port={self.port} user=tidemark dbname={database} password={self.password}"

    def create(self, database: str) -> str:
        """Make a database; returns its DSN."""
        connection = psycopg2.connect(self.dsn())
        try:
            connection.autocommit = True
            connection.cursor().execute(f'CREATE DATABASE "{database}"')
        finally:
            connection.close()
        return self.dsn(database)


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    """A Postgres with the superuser `tidemark`, who needs the password even on loopback."""
    initdb, server = binary("initdb"), binary("postgres")
    assert initdb is not None
    assert server is not None
    password, port = secrets.token_urlsafe(16), free_port()
    data = Path("/tmp") / f"tidemark-postgres-{secrets.token_hex(6)}"  # noqa: S108 - pytest's folders are closed to others
    data.mkdir(mode=0o700)
    secret = data / "password"
    secret.write_text(password)
    if os.geteuid() == 0:
        for path in (data, secret):
            shutil.chown(path, "postgres")
    log = (folder / "postgres.log").open("wb")
    process = None
    try:
        subprocess.run(
            [*_as_postgres(), str(initdb), "--username=tidemark", f"--pwfile={secret}", "--auth=scram-sha-256", "--encoding=UTF8",
             "--no-sync", str(data / "data")],
            check=True, stdout=log, stderr=log, cwd="/",
        )  # fmt: skip
        process = subprocess.Popen(
            [*_as_postgres(), str(server), "-D", str(data / "data"), "-p", str(port), "-c", f"listen_addresses={HOST}",
             "-c", "unix_socket_directories=", "-c", "fsync=off"],
            stdout=log, stderr=log, cwd="/",
        )  # fmt: skip
        found = Postgres(port, password)
        _wait(process, lambda: psycopg2.connect(found.dsn()).close(), folder / "postgres.log")
        yield found
    finally:
        _end(process)
        log.close()
        shutil.rmtree(data)


@dataclass(frozen=True)
class ObjectStore:
    endpoint: str
    key_id: str
    secret: str

    def client(self):
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key_id,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
        )


@contextmanager
def object_store(folder: Path, *buckets: str) -> Iterator[ObjectStore]:
    """An S3-compatible server with some buckets."""
    port = free_port()
    log = (folder / "object_store.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)],
        stdout=log,
        stderr=log,
        env={**os.environ, "MOTO_S3_CUSTOM_ENDPOINTS": f"http://{HOST}:{port}"},
    )
    try:
        found = ObjectStore(f"http://{HOST}:{port}", secrets.token_hex(8), secrets.token_urlsafe(24))
        _wait(process, found.client().list_buckets, folder / "object_store.log")
        for bucket in buckets:
            found.client().create_bucket(Bucket=bucket)
        yield found
    finally:
        _end(process)
        log.close()


def _wait(process: subprocess.Popen, answers, log: Path) -> None:
    """Until a server answers; one that ended, or never does, fails with what its log says."""
    deadline = time.monotonic() + START_LIMIT
    while True:
        try:
            answers()
            return
        except Exception as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args[0]} did not start: {log.read_text()[-2000:]}") from error
        time.sleep(0.1)


def _end(process: subprocess.Popen | None) -> None:
    if process is not None:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
