"""docs/tutorial.md is run from top to bottom: the commands, the files it writes, the Python."""

import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import polars as pl

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    return [Block(*(part.strip() for part in found)) for found in FENCE.findall(page)]


def command(text: str) -> list[str]:
    words = shlex.split(text)
    assert words[0] == "vitrina"
    return [sys.executable, "-m", "vitrina", *words[1:]]


def run(argv: list[str], folder: Path) -> str:
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def wait_until_ready(server: subprocess.Popen[bytes], address: str) -> None:
    for _ in range(150):
        assert server.poll() is None, "the server ended"
        try:
            with urllib.request.urlopen(f"{address}/health/ready") as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("the server was not ready in 30 s")


def test_the_tutorial_runs_from_top_to_bottom_and_leaves_what_it_says(tmp_path):
    found = blocks(PAGE.read_text())
    assert [b.language for b in found].count("python") >= 2
    said: dict[str, str] = {}
    server = None
    try:
        for block in found:
            if block.language == "toml":
                name = re.search(r'title="(.+)"', block.title)
                assert name is not None
                (tmp_path / name[1]).write_text(block.text)
            elif block.title == "serve":
                server = subprocess.Popen(
                    command(block.text), cwd=tmp_path, env=os.environ | {"PYTHONUNBUFFERED": "1"}
                )
                port = re.search(r"--port (\d+)", block.text)
                assert port is not None
                wait_until_ready(server, f"http://127.0.0.1:{port[1]}")
            elif block.language == "sh":
                said[block.text] = run(command(block.text), tmp_path)
            elif block.language == "python":
                said[block.text] = run([sys.executable, "-c", block.text], tmp_path)
    finally:
        if server is not None:
            server.terminate()
            server.wait(timeout=20)
    check_folder(tmp_path)
    inspected = said["vitrina inspect shop/events.parquet"]
    assert "repeats" in inspected
    assert "sensible" in inspected
    evaluated = said["vitrina evaluate shop.toml"]
    for model in ("Random", "MostPop", "OwnHistory", "ItemKNN", "repeats and neighbours"):
        assert evaluated.count(model) >= 2
    served = next(text for code, text in said.items() if "urlopen" in code)
    assert [line.split()[0] for line in served.splitlines()] == ["1", "2", "3", "4", "5"]


def check_folder(folder: Path) -> None:
    board = pl.read_parquet(folder / "runs" / "leaderboard.parquet")
    ndcg = board.filter((pl.col("view") == "count") & (pl.col("metric") == "ndcg") & (pl.col("k") == 10))
    mean = dict(zip(ndcg["model"], ndcg["mean"], strict=True))
    assert mean["OwnHistory"] > mean["MostPop"] > mean["Random"]
    assert (ndcg["ci_low"] <= ndcg["mean"]).all()
    assert (ndcg["mean"] <= ndcg["ci_high"]).all()
    lists = pl.read_parquet(folder / "runs" / "lists" / "count" / "ItemKNN.parquet")
    assert lists.columns == ["query_id", "item_id", "source", "score", "rank"]
    assert lists["rank"].max() == 50
    assert "<html" in (folder / "runs" / "report.html").read_text()[:500]
    assert "What was tried" in (folder / "runs" / "tuned" / "report.html").read_text()
    card = (folder / "runs" / "served" / "card.md").read_text()
    assert "95 % interval" in card
    assert (folder / "runs" / "tune" / "tuned.toml").is_file()
