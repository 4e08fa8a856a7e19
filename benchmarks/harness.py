"""Run ours and a peer in turn, each as a process of its own, and keep the medians.

A measured script prints one JSON object as its last line: `{"seconds": ..., "cpu_seconds": ..., ...}` for
the part it times itself, and any quality figures. CPU seconds and peak memory of the whole process come from
the system.
"""

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve().parent
WORK = ROOT / ".bench"
LOCAL = Path(os.environ.get("VITRINA_DATA", ROOT.parent / "shared" / "data"))
"""Data that may not ship."""
RESULTS = HERE / "results.jsonl"
OURS = sys.executable


@dataclass
class Measured:
    """One finished process."""

    wall_s: float
    cpu_s: float
    peak_mb: float
    printed: dict[str, Any] = field(default_factory=dict)
    """The JSON object of its last line."""


def peer_python(name: str) -> str:
    """Python of the peer's environment, made from `benchmarks/peers/NAME.txt` at the first call."""
    folder = ROOT / ".venvs" / name
    requirements = HERE / "peers" / f"{name}.txt"
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.read_text() != requirements.read_text():
        print(f"   making the environment of {name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(requirements)], check=True)
        stamp.write_text(requirements.read_text())
    return str(python)


def run(argv: Sequence[str], *, threads: int = 2) -> Measured:
    """Run a script to its end and read its last line.

    Raises:
        RuntimeError: it failed; its output is in the message.
    """
    env = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", str(threads)),
        "NUMBA_NUM_THREADS": str(threads),
        "POLARS_MAX_THREADS": str(threads),
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
    }
    began = time.perf_counter()
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - began
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}: {output[-2000:]}")
    lines = output.strip().splitlines()
    printed = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, printed)


def in_turn(
    commands: dict[str, Sequence[str]], *, repeats: int = 3, threads: int = 2
) -> dict[str, list[Measured]]:
    """A B A B ...: each command `repeats` times, interleaved, so that drift of the machine hits all alike."""
    runs: dict[str, list[Measured]] = {name: [] for name in commands}
    for turn in range(repeats):
        for name, argv in commands.items():
            runs[name].append(run(argv, threads=threads))
            last = runs[name][-1]
            print(f"   {turn + 1}/{repeats} {name}: {last.wall_s:.1f} s, {last.printed}", flush=True)
    return runs


def median(runs: Sequence[Measured], of: str | Callable[[Measured], float]) -> float:
    """Median over runs of a printed figure, or of what the function reads."""
    read = (lambda one: float(one.printed[of])) if isinstance(of, str) else of
    return statistics.median(read(one) for one in runs)


@dataclass
class Row:
    """One line of results.jsonl."""

    name: str
    what: str
    ours: float
    peer: str
    """Name and version of the peer, or - for none."""
    theirs: float | None
    ratio: float | None
    """ours / theirs; for speeds, time per unit: below 1 is faster."""
    unit: str
    target: str
    quality: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


def about() -> dict[str, str]:
    """Date, commit and machine of a measurement."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    return {
        "date": datetime.date.today().isoformat(),
        "commit": commit.strip(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}",
    }


def record(row: Row) -> None:
    """Append a row with machine, date and commit, and print it."""
    with RESULTS.open("a") as stream:
        stream.write(json.dumps(asdict(row) | about()) + "\n")
    ratio = "" if row.ratio is None else f", {row.ratio:.3g}x of {row.peer}"
    print(f"   {row.name} [{row.what}]: {row.ours:.4g} {row.unit}{ratio}; target {row.target}", flush=True)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
