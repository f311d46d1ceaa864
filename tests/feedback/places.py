"""Databases for tests: files, and a PostgreSQL server that is started for them."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgresql() -> Iterator[Path]:
    """A server for as long as the block lasts: the folder of its socket, where user ``didact`` may do everything."""
    programs = _programs()
    psycopg = pytest.importorskip("psycopg")
    owner = _owner()
    folder = Path(tempfile.mkdtemp(prefix="didact-pg-"))
    who = {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    if owner:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    log = folder / "log"
    quiet = {"stdout": log.open("ab"), "stderr": subprocess.STDOUT, "cwd": folder, **who}
    try:
        initdb = [programs / "initdb", "-D", folder / "data", "-A", "trust", "-U", "didact", "--no-sync", "-E", "UTF8"]
        subprocess.run([*initdb, "--locale=C"], check=True, **quiet)
        settings = ("listen_addresses=", "fsync=off", "max_connections=60", "shared_buffers=16MB")
        options = [part for setting in settings for part in ("-c", setting)]
        server = subprocess.Popen([programs / "postgres", "-D", folder / "data", "-k", folder, *options], **quiet)
        try:
            _wait(psycopg, folder, server, log)
            yield folder
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: what it holds is thrown away
            server.wait(timeout=30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def schema(folder: Path, name: str) -> str:
    """The URL of a new schema, as empty as a new database and made in a moment."""
    import psycopg

    with psycopg.connect(f"host={folder} user=didact dbname=postgres", autocommit=True) as connection:
        connection.execute(f'create schema "{name}"')
    return f"postgresql+psycopg://didact@/postgres?host={folder}&options=-csearch_path%3D{name}"


def _programs() -> Path:
    found = [Path(path).parent for path in (shutil.which("initdb"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    chosen = next((each for each in found if (each / "initdb").exists() and (each / "postgres").exists()), None)
    if chosen is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    return chosen


def _owner() -> pwd.struct_passwd | None:
    """Somebody else, where we are root: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    known = {one.pw_name: one for one in pwd.getpwall()}
    owner = known.get("postgres") or known.get("nobody")
    if owner is None:
        pytest.skip("PostgreSQL does not run as root, and there is no other user")
    return owner


def _wait(psycopg, folder: Path, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(f"host={folder} user=didact dbname=postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < until, "PostgreSQL did not start"
            time.sleep(0.05)
