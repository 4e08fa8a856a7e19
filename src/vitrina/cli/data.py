"""`vitrina data`: logs that ship, logs on your disk, and logs made up with a known truth."""

from pathlib import Path
from typing import Annotated

import typer

from vitrina.cli.options import Debug, Json, Quiet, emit_json, reporting, stdout

app = typer.Typer(
    help="Data sets that ship, readers for what you have, synthetic logs.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Name = Annotated[str, typer.Argument(help="Name of a data set; `vitrina data list` has them.")]
Folder = Annotated[
    Path | None, typer.Option(help="Folder with the downloaded files, for a data set that does not ship.")
]


@app.command(name="list")
def list_(json_: Json = False, debug: Debug = False) -> None:
    """Data sets by name: what ships, and what a folder is needed for.

    Examples:

        vitrina data list

        vitrina data list --json
    """
    from vitrina.recipes import known_data

    found = known_data.listing()
    if json_:
        emit_json(found)
        return
    for one in found:
        what = one["what"] if one["ships"] else f"--folder: {one['what']}"
        stdout().print(f"{one['name']:<24} {what}", markup=False, soft_wrap=True)


@app.command()
def info(name: Name, folder: Folder = None, json_: Json = False, debug: Debug = False) -> None:
    """What is in a data set, from where, and on what terms.

    Examples:

        vitrina data info online-retail

        vitrina data info movielens-1m --folder ~/ml-1m
    """
    from vitrina.recipes import known_data

    found = known_data.about(name, folder)
    if json_:
        emit_json(found)
        return
    console = stdout()
    for key, value in found.items():
        for line in value if isinstance(value, list) else [value]:
            console.print(f"{key}: {line}", markup=False, soft_wrap=True)


@app.command()
def export(
    name: Name,
    out: Annotated[
        Path,
        typer.Argument(help="Folder for events.parquet, items.parquet and users.parquet."),
    ],
    folder: Folder = None,
    users: Annotated[
        int | None, typer.Option(min=1, help="Only so many users, chosen by a hash of the id.")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write a data set as plain Parquet, as a log of your own would look.

    Examples:

        vitrina data export online-retail shop

        vitrina data export movietweetings-100k films --users 500
    """
    from vitrina.recipes import known_data

    found = known_data.export(name, out, folder=folder, users=users)
    if json_:
        emit_json(found)
        return
    for key, value in found.items():
        stdout().print(f"{key}: {value}", markup=False, soft_wrap=True)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    events: Annotated[int | None, typer.Option(min=1, help="Events in all.")] = None,
    users: Annotated[int | None, typer.Option(min=1, help="Users.")] = None,
    items: Annotated[int | None, typer.Option(min=1, help="Items.")] = None,
    days: Annotated[float | None, typer.Option(help="Length of the log.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds give equal bytes.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any parameter of the world, as `p_repeat=0.4`; repeatable."),
    ] = None,
    like_yambda: Annotated[
        float | None,
        typer.Option(help="A world like Yambda-50M instead, with this share of its users and events."),
    ] = None,
    schema: Annotated[str, typer.Option(help="Files as `vitrina` or as `yambda` has them.")] = "vitrina",
    json_: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make up a log whose truth is known: tastes that drift, births, sessions, repeats, a recommender.

    Examples:

        vitrina data synth world --events 1000000 --users 20000 --items 5000

        vitrina data synth big --like-yambda 1 --schema yambda

        vitrina data synth habits --set p_repeat=0.6 --set half_life_days=3
    """
    from vitrina.errors import ConfigError
    from vitrina.recipes import known_data

    named = {"n_events": events, "n_users": users, "n_items": items, "days": days, "seed": seed}
    world: dict[str, object] = {name: value for name, value in named.items() if value is not None}
    for given in set_ or []:
        name, equals, value = given.partition("=")
        if not equals:
            raise ConfigError(f"--set {given!r} must be NAME=VALUE, as p_repeat=0.4")
        world[name] = value
    with reporting(quiet=quiet) as reporter:
        found = known_data.synth(out, world=world, like_yambda=like_yambda, schema=schema, reporter=reporter)
    if json_:
        emit_json(found)
        return
    for file, n in found["rows"].items():
        stdout().print(f"{out / file}: {n:,} rows", markup=False, soft_wrap=True)
    stdout().print(f"{found['rows_per_s']:,.0f} rows/s")
