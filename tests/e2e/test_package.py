"""What `pip install` would install: the wheel holds the data, the templates and the types."""

import subprocess
import sys
import zipfile
from pathlib import Path

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
