"""MovieLens: ratings of films, six releases that differ in size and in the form of their files."""

import os
from pathlib import Path

import polars as pl

from vitrina.datasets.dataset import (
    Counts,
    Dataset,
    OnMismatch,
    Source,
    canonical,
    check_counts,
    count,
    find,
    seconds,
)
from vitrina.errors import InputError

SOURCE = Source(
    title="MovieLens",
    licence=(
        "GroupLens terms: research use, no redistribution, no commercial use without permission; "
        "cite the paper"
    ),
    attribution=(
        "F. M. Harper, J. A. Konstan: The MovieLens Datasets, ACM TiiS 5(4), 2015, doi:10.1145/2827872"
    ),
    page="https://grouplens.org/datasets/movielens/",
)

OFFICIAL = {
    "100k": Counts(100_000, 943, 1_682),
    "1m": Counts(1_000_209, 6_040, 3_706),
    "latest-small": Counts(100_836, 610, 9_724),
    "20m": Counts(20_000_263, 138_493, 26_744),
    "25m": Counts(25_000_095, 162_541, 59_047),
    "32m": Counts(32_000_204, 200_948, 84_432),
}
"""Ratings, users and rated films (some listed films are not rated); latest-small is that of 2018-09."""

GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary",
    "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
]  # fmt: skip
"""The 19 flags of u.item, in order."""


def movielens(
    folder: str | os.PathLike[str], *, version: str | None = None, on_mismatch: OnMismatch = "warn"
) -> Dataset:
    """An unpacked MovieLens release; `value` is the rating, event is "rating".

    Args:
        folder: where u.data (100K), ratings.dat (1M) or ratings.csv (latest-small, 20M, 25M, 32M) lies.
        version: "100k", "1m", "latest-small", "20m", "25m" or "32m"; None tells it by the form of the files,
            the name of the folder and the number of rows.
        on_mismatch: what to do when the counts are not those of the release.

    Raises:
        InputError: no release is there, or its counts are wrong and `on_mismatch` is "raise".
    """
    if version is not None and version not in OFFICIAL:
        raise InputError(f"MovieLens has no release {version!r} here; it has: {', '.join(OFFICIAL)}")
    file = find(folder, ("u.data", "ratings.dat", "ratings.csv"), source=SOURCE)
    raw = _ratings(file)
    events = canonical(
        raw,
        user_id=pl.col("user"),
        item_id=pl.col("movie"),
        ts=seconds("timestamp"),
        event=pl.lit("rating"),
        value=pl.col("rating"),
    )
    found = count(events)
    version = version or _version(file, found)
    official = OFFICIAL[version]
    notes = ["times say when people rated, often years after they watched, and in bursts"]
    if (file.parent / "timestamp_exact.txt").is_file():
        notes.append(
            "this copy was put together from several: timestamp_exact.txt marks the times that "
            "are the originals, the "
            "others lie between a user's exact ones; every user's order is right"
        )
    return Dataset(
        name=f"movielens-{version}",
        source=SOURCE,
        events=events,
        items=_movies(file.parent),
        users=_people(file.parent),
        notes=tuple(notes),
        found=found,
        official=official,
        outcome=check_counts(found, official, name=f"movielens-{version}", on_mismatch=on_mismatch),
    )


def _ratings(file: Path) -> pl.LazyFrame:
    names = ["user", "movie", "rating", "timestamp"]
    types = [pl.Int64, pl.Int64, pl.Float64, pl.Int64]
    if file.name == "u.data":
        return pl.scan_csv(
            file, separator="\t", has_header=False, schema=dict(zip(names, types, strict=True))
        )
    if file.name == "ratings.csv":
        header = dict(zip(["userId", "movieId", "rating", "timestamp"], types, strict=True))
        return pl.scan_csv(file, schema=header).rename({"userId": "user", "movieId": "movie"})
    fields = {"user": pl.Int64, "_1": pl.String, "movie": pl.Int64, "_2": pl.String}
    fields |= {"rating": pl.Float64, "_3": pl.String, "timestamp": pl.Int64}
    return pl.scan_csv(file, separator=":", has_header=False, schema=fields).select(names)


def _version(file: Path, found: Counts) -> str:
    if file.name == "u.data":
        return "100k"
    if file.name == "ratings.dat":
        return "1m"
    for version, official in OFFICIAL.items():
        if version in file.parent.name or found.rows == official.rows:
            return version
    raise InputError(
        f"{file} has {found.rows:,} ratings, which is no release known here; say version= one of "
        f"{', '.join(OFFICIAL)}"
    )


def _movies(folder: Path) -> pl.DataFrame:
    """item_id, title, year, genres (joined by |); no rows where the folder has no list of films."""
    schema = {"item_id": pl.Int64, "full": pl.String, "genres": pl.String}
    if (folder / "u.item").is_file():
        text = (folder / "u.item").read_text(encoding="iso-8859-1")
        rows = [line.split("|") for line in text.splitlines() if line]
        flags = ["|".join(g for g, on in zip(GENRES_100K, r[5:], strict=False) if on == "1") for r in rows]
        films = [(int(r[0]), r[1], genres) for r, genres in zip(rows, flags, strict=True)]
        frame = pl.DataFrame(films, schema=schema, orient="row")
    elif (folder / "movies.dat").is_file():
        text = (folder / "movies.dat").read_text(encoding="iso-8859-1")
        rows = [line.split("::") for line in text.splitlines() if line]
        frame = pl.DataFrame([(int(r[0]), r[1], r[2]) for r in rows], schema=schema, orient="row")
    elif (folder / "movies.csv").is_file():
        frame = pl.read_csv(folder / "movies.csv").select(
            item_id=pl.col("movieId"), full=pl.col("title"), genres=pl.col("genres")
        )
    else:
        frame = pl.DataFrame(schema=schema)
    return frame.select(
        "item_id",
        title=pl.col("full").str.replace(r"\s*\(\d{4}\)\s*$", ""),
        year=pl.col("full").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int16),
        genres=pl.when(~pl.col("genres").is_in(["", "(no genres listed)"])).then("genres"),
    ).sort("item_id")


def _people(folder: Path) -> pl.DataFrame:
    """user_id, age, gender, occupation; no rows where the folder does not have them.

    The 1M release tells ages in seven bands, by the lowest age of each, and occupations by number.
    """
    schema = {"user_id": pl.Int64, "age": pl.Int16, "gender": pl.String, "occupation": pl.String}
    rows: list[tuple[int, int, str, str]] = []
    if (folder / "u.user").is_file():
        lines = [line.split("|") for line in (folder / "u.user").read_text().splitlines() if line]
        rows = [(int(user), int(age), gender, work) for user, age, gender, work, _ in lines]
    elif (folder / "users.dat").is_file():
        lines = [line.split("::") for line in (folder / "users.dat").read_text().splitlines() if line]
        rows = [(int(user), int(age), gender, work) for user, gender, age, work, _ in lines]
    return pl.DataFrame(rows, schema=schema, orient="row").sort("user_id")
