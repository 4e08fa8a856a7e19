"""The commands. Each one reads its arguments, calls a recipe and shows the result."""

import os
from pathlib import Path
from typing import Annotated

import typer

from vitrina.cli import data
from vitrina.cli.options import Debug, Json, Quiet, emit_json, reporting, stderr, stdout

app = typer.Typer(
    name="vitrina",
    help="An event log becomes a measured, served feed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")

OtherSchedule = Annotated[
    bool,
    typer.Option(
        "--other-schedule",
        help="Go on with a training that was stopped, though epochs, rates or clipping differ now.",
    ),
]

Tracker = Annotated[
    str | None,
    typer.Option(
        help="Curves of training go to `tensorboard` or `mlflow` too, in place of `[training] tracker`; "
        "`tensorboard:FOLDER` says where."
    ),
]

ConfigFile = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG",
        help="A TOML file (see the page on configuration) or a run by name, as `online-retail`.",
    ),
]


def _version(value: bool) -> None:
    if value:
        from vitrina import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """An event log becomes a measured, served feed."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and context.invoked_subcommand not in (None, "train"):
        from vitrina.recipes import processes

        processes.check_alone(str(context.invoked_subcommand))


@app.command()
def inspect(
    path: Annotated[
        str, typer.Argument(help="Parquet, CSV, NDJSON (file, folder, pattern) or a CONFIG.TOML.")
    ],
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column", help="Vitrina's name of a column = the file's, as `user_id=customer`; repeatable."
        ),
    ] = None,
    time_unit: Annotated[str | None, typer.Option(help="Unit of integer times: s, ms, us or ns.")] = None,
    time_zone: Annotated[str | None, typer.Option(help="Zone of times that carry none.")] = None,
    quarantine: Annotated[
        Path | None,
        typer.Option(help="Folder for bad rows (quarantine.parquet), instead of stopping at the first."),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Check an event log and say what is in it.

    Examples:

        vitrina inspect events.parquet

        vitrina inspect 'events/*.parquet' --column user_id=customer --column ts=time --time-unit ms

        vitrina inspect my.toml --json
    """
    from vitrina.cli import show
    from vitrina.recipes import inspection

    with stderr().status(f"reading {path}"):
        found = inspection.inspect(
            path, columns=columns or [], time_unit=time_unit, time_zone=time_zone, quarantine=quarantine
        )
    emit_json(found) if json_ else show.inspection(stdout(), found)


@app.command()
def evaluate(
    config: ConfigFile,
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Model to measure, repeatable; by default all. Of a run by name also any class, with its "
            "defaults.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; by default `out` of the file.")
    ] = None,
    windows: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Test windows of a backtest, in place of `[split] windows`."),
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Train again what an earlier run left trained.")] = False,
    other_schedule: OtherSchedule = False,
    tracker: Tracker = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """From a log to a leaderboard: check, split, train, measure, report, top-k lists.

    A model that cannot be trained is named and left out, and the exit code is 1.

    Examples:

        vitrina evaluate my.toml

        vitrina evaluate my.toml --out runs/today --fresh

        vitrina evaluate my.toml --windows 4

        vitrina evaluate online-retail --model HSTU --model SASRec --out runs/sequences

        vitrina evaluate my.toml --tracker tensorboard

        vitrina evaluate my.toml --json > leaderboard.json
    """
    from vitrina.cli import show
    from vitrina.recipes import evaluate_run, open_run, with_models
    from vitrina.recipes.tracking import with_tracker

    wanted = models or []
    run = with_tracker(with_models(open_run(config, wanted), wanted), tracker)
    with reporting(quiet=quiet) as reporter:
        result = evaluate_run(
            run, out=out, windows=windows, fresh=fresh, other_schedule=other_schedule, reporter=reporter
        )
    emit_json(result.summary()) if json_ else show.evaluation(stdout(), result)
    if result.failures:
        raise typer.Exit(1)


@app.command()
def train(
    config: ConfigFile,
    model: Annotated[
        str | None,
        typer.Option(
            help="Name of a model; by default the winner of the evaluation. Of a run by name also any class, "
            "with its defaults."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; by default `served` in the run's.")
    ] = None,
    other_schedule: OtherSchedule = False,
    tracker: Tracker = None,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Fit one model on the whole log and write the folder that `vitrina serve` reads.

    The winner comes from the evaluation of the same file, which is run first unless it was already. Several
    processes train one model together under torchrun (see the page on training).

    Examples:

        vitrina train my.toml

        vitrina train my.toml --model ItemKNN --out served

        vitrina train online-retail --model HSTU
    """
    from vitrina.cli import show
    from vitrina.recipes import open_run, processes, train_run
    from vitrina.recipes.tracking import with_tracker

    asked = open_run(config, [] if model is None else [model])
    run, is_first = with_tracker(asked, tracker), processes.is_first()
    with reporting(quiet=quiet or not is_first) as reporter:
        result = train_run(run, model=model, out=out, other_schedule=other_schedule, reporter=reporter)
    if is_first:
        emit_json(result.summary()) if json_ else show.training(stdout(), result)


@app.command()
def tune(
    config: ConfigFile,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="Model to search, repeatable; by default those of `[tune]`."),
    ] = None,
    n_trials: Annotated[int | None, typer.Option(min=1, help="Settings to try for each model.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Wall time for each model.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; by default `out` of the file.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Forget the trials of an earlier search.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search parameters on the validation window; the held-out events are never looked at.

    Of a model that merges sources, the parameters of each and their weights are searched. An interrupted
    search goes on where it stopped. The best settings become a TOML file for `evaluate`.

    Examples:

        vitrina tune my.toml --n-trials 30

        vitrina tune my.toml --model ItemKNN --minutes 5

        vitrina tune online-retail --model GRU4Rec --n-trials 10
    """
    from vitrina.cli import show
    from vitrina.recipes import open_run, tune_run

    run = open_run(config, models or [])
    with reporting(quiet=quiet) as reporter:
        result = tune_run(
            run, models=models, n_trials=n_trials, minutes=minutes, out=out, fresh=fresh, reporter=reporter
        )
    emit_json(result.summary()) if json_ else show.tuning(stdout(), result)


@app.command()
def plan(
    kind: Annotated[str, typer.Argument(help="Class name of a sequence model, as `SASRec` or `ARGUS`.")],
    items: Annotated[int, typer.Option(min=1, help="Items of the catalogue.")],
    users: Annotated[int, typer.Option(min=1, help="Users of the log.")],
    events: Annotated[int, typer.Option(min=1, help="Events of the log.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any parameter of the model, as `embedding_dim=128`; repeatable."),
    ] = None,
    teraflops: Annotated[
        float, typer.Option(help="Tera-FLOPs a second that the device reaches in practice.")
    ] = 0.05,
    gigabytes_per_s: Annotated[float, typer.Option(help="Gigabytes a second that its memory moves.")] = 10.0,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Parameters, memory, FLOPs and time of a model, before anything runs.

    Examples:

        vitrina plan SASRec --items 100000 --users 50000 --events 5000000

        vitrina plan ARGUS --set size=100m --items 1000000 --users 1000000 --events 200000000 --teraflops 200
        --gigabytes-per-s 2000

        vitrina plan TwoTower --items 100000 --users 50000 --events 5000000 --json
    """
    from vitrina.cli import show
    from vitrina.errors import ConfigError
    from vitrina.recipes import planning

    params: dict[str, object] = {}
    for given in set_ or []:
        name, equals, value = given.partition("=")
        if not equals:
            raise ConfigError(f"--set {given!r} must be NAME=VALUE, as embedding_dim=128")
        params[name] = value
    found = planning.plan(
        kind,
        params,
        n_items=items,
        n_users=users,
        n_events=events,
        teraflops=teraflops,
        gigabytes_per_s=gigabytes_per_s,
    )
    emit_json(found.summary()) if json_ else show.plan(stdout(), found)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="Folder that `vitrina train` wrote.")],
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Port to listen on.")] = None,
    clock: Annotated[
        str, typer.Option(help="`wall` serves at the present time, `log` at the end of the training log.")
    ] = "wall",
    debug: Debug = False,
) -> None:
    """Serve the feed over HTTP, with the console beside it.

    Examples:

        vitrina serve runs/served

        vitrina serve runs/served --host 0.0.0.0 --port 8080
    """
    from vitrina.recipes.serving import serve_folder

    serve_folder(folder, host=host, port=port, clock=clock, say=stderr().print)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder that `vitrina evaluate` wrote.")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file; by default `report.html` in the folder.")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write the report of a finished evaluation again: one HTML file that needs nothing else.

    Examples:

        vitrina report runs

        vitrina report runs --out report.html
    """
    from vitrina.recipes import report_run

    written = report_run(run, out=out)
    emit_json({"report": str(written)}) if json_ else stdout().print(str(written), soft_wrap=True)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("runs/demo"),
    serve: Annotated[bool, typer.Option(help="Serve the feed and the console at the end.")] = True,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; by default the first free from 8000.")
    ] = None,
    fresh: Annotated[bool, typer.Option(help="Train again what an earlier run left trained.")] = False,
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train the classical models on two years of a real shop, show who wins, serve the winner.

    Examples:

        vitrina demo

        vitrina demo --no-serve --json
    """
    from vitrina.cli import show
    from vitrina.recipes.demo import demo_run
    from vitrina.recipes.serving import serve_folder

    with reporting(quiet=quiet) as reporter:
        result = demo_run(out=out, fresh=fresh, reporter=reporter)
    emit_json(result.summary()) if json_ else show.demo(stdout(), result)
    if serve:
        serve_folder(result.served, host=None, port=port, clock="log", say=stderr().print)
