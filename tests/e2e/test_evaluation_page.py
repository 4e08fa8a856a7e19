"""The code on the page about evaluation runs as it stands."""

import re
from pathlib import Path

import polars as pl

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"


def test_the_code_on_the_evaluation_page_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    board = names["views"]["Repeat purchases counted"].leaderboard()
    main = board.filter((pl.col("metric") == "ndcg") & (pl.col("k") == 10))
    assert main["model"].to_list() == ["OwnHistory", "ItemKNN", "MostPop"]
    assert names["views"]["Only items new to the user"].models[0] == "ItemKNN"
    assert "OwnHistory leads with NDCG@10" in (tmp_path / "report.html").read_text()
    assert pl.read_parquet(tmp_path / "lists" / "MostPop.parquet").columns[:2] == ["query_id", "item_id"]
    assert (tmp_path / "evaluation" / "evaluation.json").is_file()
