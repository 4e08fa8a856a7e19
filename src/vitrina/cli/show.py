"""Results for people: tables on stdout."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from vitrina.evaluate import Evaluation
    from vitrina.recipes import Evaluated, Trained, Tuned
    from vitrina.recipes.demo import Demonstrated
    from vitrina.recipes.planning import Planned

SHOWN_METRICS = 4
"""Metrics of a leaderboard on the screen; the report and `--json` have all."""
SHOWN_WINDOWS = 6
"""Windows of a backtest on the screen, the last ones."""
WITH_INTERVAL = 2
"""How many of them show their interval."""


def inspection(console: "Console", found: dict[str, Any]) -> None:
    """What is in a log."""
    check = found["check"]
    console.print(f"[bold]{found['name']}[/]")
    aside = sum(check["set_aside"].values())
    console.print(f"{check['rows_in']:,} rows in = {check['rows_kept']:,} kept + {aside:,} set aside")
    for reason, n in check["set_aside"].items():
        console.print(f"  {n:,} {reason}")
    if check["quarantine"]:
        console.print(f"  set-aside rows, with reasons: {check['quarantine']}")
    for note in dict.fromkeys([*check["notes"], *found["notes"]]):
        console.print(f"  {note}", markup=False)
    facts = _grid()
    facts.add_row(
        "events", f"{found['rows']:,}  " + ", ".join(f"{k} {n:,}" for k, n in found["events"].items())
    )
    facts.add_row("users", f"{found['users']:,}  ({found['frac_users_with_one_event']:.1%} have one event)")
    facts.add_row("items", f"{found['items']:,}")
    facts.add_row("time", f"{found['since']} to {found['until']}  ({found['days']:,.1f} days)")
    facts.add_row(
        "repeats", f"{found['frac_repeats']:.1%} of events are an item that the user had taken before"
    )
    facts.add_row("density", f"{found['density']:.4%} of user-item pairs occur")
    facts.add_row("history length", _quantiles(found["history_length"]))
    facts.add_row("events an item", _quantiles(found["item_events"]))
    facts.add_row("digest", found["digest"][:16])
    console.print(facts)
    console.print(_splits(found["splits"]))


def _splits(splits: list[dict[str, Any]]) -> "Table":
    table = _table("What a test window at the end would hold")
    for name in ("last_days", "cut", "test rows", "share", "test users", "warm", "cold", ""):
        table.add_column(name, justify="left" if name in ("cut", "") else "right")
    for one in splits:
        table.add_row(
            str(one["last_days"]),
            one["cut"],
            f"{one['test_rows']:,}",
            f"{one['frac_rows']:.1%}",
            f"{one['test_users']:,}",
            f"{one['warm_users']:,}",
            f"{one['cold_users']:,}",
            "sensible" if one["sensible"] else "",
        )
    return table


def evaluation(console: "Console", result: "Evaluated") -> None:
    """Leaderboards of every view, and where the rest is."""
    for view in result.views.values():
        leaderboard(console, view)
    for found in result.windows.values():
        backtest(console, found)
    for sentence in result.window_failures.values():
        console.print(f"[yellow]left out of a window:[/] {sentence}")
    if result.split.warning:
        console.print(f"[yellow]warning:[/] {result.split.warning}")
    for name, sentence in result.skipped.items():
        console.print(f"[yellow]the view {name} is left out:[/] {sentence}")
    for sentence in result.failures.values():
        console.print(f"[red]left out:[/] {sentence}")
    if result.reused:
        console.print(f"trained by an earlier run: {', '.join(result.reused)} (--fresh trains again)")
    console.print(f"winner: [bold]{result.winner}[/]")
    if result.report is not None:
        _path(console, "report", str(result.report))
    _path(console, "lists and tables", str(result.folder))


def leaderboard(console: "Console", view: "Evaluation") -> None:
    """One view: means, with 95 % intervals for the metric that orders the table and the next, best first."""
    from vitrina.evaluate import pretty

    names = [one.name for one in view.protocol.parsed]
    board = {(row["model"], f"{row['metric']}@{row['k']}"): row for row in view.leaderboard().to_dicts()}
    fit_s = {row["model"]: row["fit_s"] for row in view.timings().to_dicts()}
    table = _table(view.protocol.title)
    table.add_column("model", no_wrap=True)
    shown = _shown(names)
    for at, name in enumerate(shown):
        table.add_column(pretty(name), justify="right", no_wrap=True, style="bold" if at == 0 else "")
        if at < WITH_INTERVAL:
            table.add_column("95 %", justify="left", no_wrap=True, style="dim")
    table.add_column("fit s", justify="right", no_wrap=True)
    for model in view.models:
        cells = []
        for at, name in enumerate(shown):
            row = board[model, name]
            cells.append(f"{row['mean']:.4f}")
            if at < WITH_INTERVAL:
                cells.append("-" if row["ci_low"] is None else f"{row['ci_low']:.4f}-{row['ci_high']:.4f}")
        table.add_row(model, *cells, "-" if fit_s[model] is None else f"{fit_s[model]:.1f}")
    console.print(table)
    _left_out(console, view)


def backtest(console: "Console", windows: "Sequence[Evaluation]") -> None:
    """How the models do from window to window, oldest first, by the metric that orders the table."""
    from vitrina.evaluate import backtest as over_windows
    from vitrina.evaluate import pretty
    from vitrina.recipes.backtesting import cut

    main = windows[0].protocol.main
    label, _, k = main.partition("@")
    table = _table(f"{pretty(main)} in {len(windows)} windows: {windows[0].protocol.title}")
    table.add_column("model", no_wrap=True)
    days = [cut(window).partition("T")[0] for window in windows]
    for name in ("mean", "sd", "times first", *days[-SHOWN_WINDOWS:]):
        table.add_column(name, justify="right", no_wrap=True, style="bold" if name == "mean" else "")
    for row in over_windows(windows).to_dicts():
        if (row["metric"], row["k"]) == (label, int(k)):
            values = [f"{value:.4f}" for value in row["values"][-SHOWN_WINDOWS:]]
            table.add_row(
                row["model"], f"{row['mean']:.4f}", f"{row['sd_windows']:.4f}", str(row["n_first"]), *values
            )
    console.print(table)


def _shown(names: list[str]) -> list[str]:
    """The first metric, and of the others those that say something else, as far as a screen goes."""
    first = names[0]
    k = first.partition("@")[2]
    wanted = [f"recall@{k}", "recall@100", f"coverage@{k}", f"hitrate@{k}"]
    found = [first] + [name for name in wanted if name in names and name != first]
    return (found + [name for name in names if name not in found])[:SHOWN_METRICS]


def _left_out(console: "Console", view: "Evaluation") -> None:
    counts = view.counts
    console.print(
        f"{len(view.users):,} of {counts['n_test_users']:,} test users measured"
        f" ({counts['n_warm_users']:,} of all known, {counts['n_cold_users']:,} new)"
    )
    console.print(f"  {counts['n_cold_item_targets']:,} targets are items that training never saw: misses")
    for dropped in view.dropped:
        console.print(f"  {dropped.n:,} {dropped.what} {dropped.why}")
    for model, notes in view.notes().items():
        console.print(f"  {model} {'; '.join(notes)}", markup=False)
    console.print()


def training(console: "Console", result: "Trained") -> None:
    """Where the served folder is and what is in it."""
    console.print(f"trained [bold]{result.model}[/] in {result.fit_s:.1f} s")
    _path(console, "card", str(result.folder / "card.md"))
    _path(console, "serve it", f"vitrina serve {result.folder}")


def tuning(console: "Console", result: "Tuned") -> None:
    """The best of each model, beside where it began."""
    from vitrina.evaluate import pretty

    table = _table(f"{pretty(result.metric)} on the validation window ({result.window})")
    table.add_column("model", no_wrap=True)
    for name in ("configured", "best", "trials", "failed"):
        table.add_column(name, justify="right")
    table.add_column("parameters")
    for model, best in result.best.items():
        start = "-" if best["start"] is None else f"{best['start']:.4f}"
        params = ", ".join(
            f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in best["params"].items()
        )
        table.add_row(
            model, start, f"{best['value']:.4f}", str(best["n_trials"]), str(best["n_failed"]), params
        )
    console.print(table)
    _path(console, "measure them on what was held out", f"vitrina evaluate {result.config_file}")


def demo(console: "Console", result: "Demonstrated") -> None:
    """The leaderboards, the report and the served folder."""
    evaluation(console, result.evaluated)
    _path(console, "served folder", str(result.served))


def plan(console: "Console", found: "Planned") -> None:
    """What a model takes."""
    console.print(f"[bold]{found.kind}[/] " + ", ".join(f"{k}={v}" for k, v in found.params.items()))
    facts = _grid()
    facts.add_row(
        "parameters", f"{found.dense_parameters:,} dense + {found.embedding_parameters:,} in tables"
    )
    facts.add_row(
        "epoch",
        f"{found.windows_per_epoch:,} windows of {found.tokens_per_window:,} tokens, "
        f"{found.steps_per_epoch:,} steps",
    )
    parts = {
        "weights": found.weights_bytes,
        "gradients": found.gradients_bytes,
        "AdamW": found.optimizer_bytes,
        "activations": found.activations_bytes,
        "logits": found.logits_bytes,
    }
    told = ", ".join(f"{name} {_bytes(n)}" for name, n in parts.items())
    facts.add_row("memory, training", f"{_bytes(found.training_bytes)}  ({told})")
    facts.add_row("memory, serving", _bytes(found.serving_bytes))
    facts.add_row("FLOPs", f"{found.flops_per_step:.3g} a step, {found.flops_per_epoch:.3g} an epoch")
    facts.add_row(
        "time", f"{found.seconds_per_step:.3g} s a step, {found.seconds_per_epoch / 60:,.3g} min an epoch"
    )
    console.print(facts)


def _bytes(n: int) -> str:
    return f"{n / 1e9:,.2f} GB" if n >= 1e9 else f"{n / 1e6:,.1f} MB"


def _path(console: "Console", what: str, path: str) -> None:
    console.print(f"{what}: {path}", markup=False, soft_wrap=True)


def _quantiles(found: dict[str, float]) -> str:
    names = {"0": "least", "0.5": "median", "0.9": "90 %", "0.99": "99 %", "1": "most"}
    return ", ".join(f"{name} {found[q]:,.0f}" for q, name in names.items()) + f", mean {found['mean']:,.1f}"


def _table(title: str) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)


def _grid() -> "Table":
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    return grid
