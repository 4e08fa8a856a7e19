"""Pages that are generated say what the code says."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["config_docs.py", "cli_docs.py", "bench_tables.py", "readme_tables.py", "model_tables.py"]


@pytest.mark.parametrize("tool", TOOLS)
def test_a_generated_page_is_up_to_date(tool):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / tool), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_model_is_on_a_page_and_in_the_table_of_models():
    from vitrina.candidates import CANDIDATES

    pages = "".join(page.read_text() for page in (ROOT / "docs" / "models").glob("*.md"))
    index = (ROOT / "docs" / "models" / "index.md").read_text()
    for kind in CANDIDATES:
        assert f"::: vitrina.candidates.{kind}\n" in pages, f"{kind} has no section under docs/models"
        assert f"`{kind}`" in index, f"{kind} is not in docs/models/index.md"


def test_no_page_loads_anything_from_elsewhere():
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert "extra_javascript" not in text
