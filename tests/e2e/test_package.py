"""What `pip install` would install: the wheel holds the data, the templates and the types."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("hatchling", reason="the build back end is not installed: pip install hatchling")
    out = tmp_path_factory.mktemp("wheel")
    argv = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        str(ROOT),
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(out),
    ]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_data_templates_types_and_licences(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "vitrina/py.typed",
        "vitrina/__init__.pyi",
        "vitrina/datasets/data/online-retail/events.parquet",
        "vitrina/datasets/data/online-retail/LICENSE",
        "vitrina/datasets/data/movietweetings-100k/events.parquet",
        "vitrina/datasets/data/movietweetings-100k/LICENSE",
        "vitrina/evaluate/templates/report.html",
    ):
        assert name in names, name
    assert any(name.startswith("vitrina/serve/templates/") for name in names)
    assert any(name.startswith("vitrina/serve/static/") for name in names)
    assert not any("test" in name.split("/")[0] for name in names)


def test_the_demo_runs_from_an_installed_wheel_outside_the_checkout(wheel, tmp_path):
    """Unpacked beside the dependencies of this environment, with nothing of the checkout in reach."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import vitrina;"
        "assert vitrina.__file__.startswith(sys.argv[1]), vitrina.__file__;"
        "sys.argv = ['vitrina', 'demo', '--no-serve', '-q', '--out', 'demo'];"
        "from vitrina.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "winner:" in done.stdout
    assert (tmp_path / "demo" / "served" / "model").is_dir()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def got(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert answer.status == 200
        text = answer.read().decode()
        return json.loads(text) if answer.headers["Content-Type"].startswith("application/json") else text


def wait_until_ready(server: subprocess.Popen[str], address: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        assert server.poll() is None, f"the demo ended: {server.stderr.read() if server.stderr else ''}"
        try:
            got(f"{address}/health/ready")
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"the demo was not ready in {seconds:g} s")


def test_the_demo_serves_the_winner_with_its_console_until_it_is_interrupted(tmp_path):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    argv = [sys.executable, "-m", "vitrina", "demo", "--out", "demo", "--port", str(port), "-q"]
    server = subprocess.Popen(
        argv, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        wait_until_ready(server, address, 900)
        feed = got(f"{address}/v1/users/12346/recommendations?k=5")
        assert [item["rank"] for item in feed["items"]] == [1, 2, 3, 4, 5]
        assert "<html" in got(f"{address}/")
        body = json.dumps({"items": [feed["items"][0]["item_id"]], "k": 3}).encode()
        request = urllib.request.Request(
            f"{address}/v1/sessions/recommendations", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert len(json.load(answer)["items"]) == 3
    finally:
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    assert server.returncode == 0, err
    assert "winner:" in out
    assert address in err
    assert "Traceback" not in err


RUN = """
[data]
dataset = "movietweetings-100k"
[split]
last_days = 30
[evaluate]
metrics = ["NDCG@10", "Recall@10", "Coverage@10"]
k = 20
repeats = ["new_only"]
[[models]]
kind = "MostPop"
[[models]]
kind = "ItemKNN"
[[models]]
kind = "ImplicitALS"
[[models]]
kind = "Ease"
"""


@pytest.mark.network
def test_the_wheel_in_a_fresh_environment_without_extras_evaluates_and_says_what_is_missing(wheel, tmp_path):
    """Only what `pip install vitrina` brings: no torch, no web framework, no Optuna, no charts."""
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt")]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    vitrina = str(home / "bin" / "vitrina")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [vitrina, *arguments], cwd=tmp_path, capture_output=True, text=True, env=environment
        )

    names = ("torch", "fastapi", "optuna", "altair")
    absent = f"import importlib.util as u; print([name for name in {names} if u.find_spec(name)])"
    found = subprocess.run([str(home / "bin" / "python"), "-c", absent], capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
    (tmp_path / "run.toml").write_text(RUN)
    done = run("evaluate", "run.toml", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    board = {
        r["model"]: r["mean"] for r in answer["views"]["new_only"]["leaderboard"] if r["metric"] == "ndcg"
    }
    assert set(board) == {"MostPop", "ItemKNN", "ImplicitALS", "Ease"}
    assert answer["report"] is None
    assert "pip install 'vitrina[report]'" in done.stderr
    done = run("train", "run.toml")
    assert done.returncode == 0, done.stderr
    done = run("serve", "runs/served")
    assert done.returncode == 2
    assert "pip install 'vitrina[serve]'" in done.stderr
    done = run("tune", "run.toml")
    assert done.returncode == 2
    assert "pip install 'vitrina[tune]'" in done.stderr
