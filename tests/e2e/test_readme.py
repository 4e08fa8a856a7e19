"""The Python of README.md runs, and its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

import typer.main

from vitrina.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_ten_lines_run_and_print_a_leaderboard_and_a_feed(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("import")]) <= 10
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ci_low" in done.stdout
    assert "query_id" in done.stdout
    assert not any(tmp_path.iterdir())


def test_every_command_in_the_readme_exists():
    commands = set(re.findall(r"^vitrina (\w+)", README, re.MULTILINE))
    assert commands
    assert commands <= set(typer.main.get_command(app).commands)


def test_every_relative_link_of_the_readme_leads_to_a_file():
    for target in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / target).exists(), target
