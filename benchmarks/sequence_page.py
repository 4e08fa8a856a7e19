"""docs/sequence_models.md from what `bench_sequences` keeps."""

import datetime
from typing import Any

from benchmarks import harness
from benchmarks.scripts.sequence_run import DELAYS
from benchmarks.sequence_cases import TITLES

PAGE = harness.ROOT / "docs" / "sequence_models.md"
PARTS = ("ndcg@10", "recall@10", "recall@100", "recall@10|head", "recall@10|middle", "recall@10|tail")
SLICES = {
    "count": ("ndcg@10|taken before:yes", "ndcg@10|taken before:no"),
    "new_only": ("recall@10|head", "recall@10|middle", "recall@10|tail"),
}
PAUSES = {"no history": None, "a day": 1, "30 days": 30, "180 days": 180, "longer": 10_000}
"""Days, at most, between a user's last row of training and the first held-out one."""
VIEWS = {"count": "repeats counted", "new_only": "only items new to the user"}


def write_page(kept: dict[str, Any]) -> None:
    """docs/sequence_models.md."""
    parts = [INTRODUCTION]
    for table, title in TITLES.items():
        for view, words in VIEWS.items():
            rows = [e for e in on(kept["entries"], table, view) if e["group"] == "models"]
            if rows:
                told = {e["model"]: named(e) for e in rows}
                parts += [
                    section(f"{title}: {words}", sorted(rows, key=lambda e: -e["ndcg@10"][0])),
                    differences(on(kept["paired"], table, view), told),
                    slice_table(on(kept["slices"], table, view), told),
                    pause_table(on(kept["pauses"], table, view), told),
                    delay_table(on(kept["delays"], table, view), told),
                ]
    parts.append(correction_section(kept["corrections"]))
    PAGE.write_text("\n".join(part for part in parts if part))


def on(rows: list[dict[str, Any]], table: str, view: str) -> list[dict[str, Any]]:
    """Those of one log and view."""
    return [e for e in rows if (e["table"], e["view"]) == (table, view)]


def named(entry: dict[str, Any]) -> str:
    """A model, with what it was told that others were not."""
    return str(entry["model"]) + (f" ({entry['disclosed']})" if entry["disclosed"] else "")


def section(title: str, rows: list[dict[str, Any]]) -> str:
    """One table."""
    lines = [
        f"\n## {title}\n",
        f"{rows[0]['n_users']:,} users, {rows[0]['n_items']:,} items in training, split "
        f"`{rows[0]['split'][:16]}`.\n",
        "| model | Recall@10 | NDCG@10 | Recall@100 | coverage@10 | seeds (sd) | epochs | fit CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for e in rows:
        seeds = str(e["seeds"]) + ("" if e["sd_seeds"] is None else f" ({e['sd_seeds']:.4f})")
        cells = [spread(e[m]) for m in ("recall@10", "ndcg@10", "recall@100")]
        cells += [f"{e['coverage@10']:.3f}", seeds, str(e["epochs"] or "-"), f"{e['fit_cpu_s']:.0f}"]
        lines.append(f"| {named(e)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def differences(rows: list[dict[str, Any]], told: dict[str, str]) -> str:
    """The best sequence model, of those with values per user, against the others."""
    if not rows:
        return ""
    others = ", ".join(f"{told[d['other']]} {signed(d['difference'])}" for d in rows)
    lost = set(told) - {rows[0]["best"]} - {d["other"] for d in rows}
    without = f" No values per user were kept of {'; '.join(sorted(lost))}." if lost else ""
    return f"NDCG@10 of **{rows[0]['best']}** minus that of the others, paired by user: {others}.{without}\n"


def slice_table(rows: list[dict[str, Any]], told: dict[str, str]) -> str:
    """Parts of the targets."""
    if not rows:
        return ""
    names = SLICES[rows[0]["view"]]
    lines = [f"| model | {' | '.join(n.replace('|', ', ') for n in names)} |", "|---|" + "---:|" * len(names)]
    for e in sorted(rows, key=lambda e: -e[names[0]][0]):
        lines.append(f"| {told[e['model']]} | " + " | ".join(spread(e[n]) for n in names) + " |")
    return "\n".join(lines) + "\n"


def pause_table(rows: list[dict[str, Any]], told: dict[str, str]) -> str:
    """Users by how long they were away."""
    if not rows:
        return ""
    groups = [(name, rows[0][name][3]) for name in PAUSES if rows[0][name]]
    heads = [f"{name} ({n} users)" for name, n in groups]
    hour, day = rows[0]["share of rows within an hour"], rows[0]["share of rows within a day"]
    lines = [
        f"In training {hour:.1%} of the rows follow a user's row before within an hour, {day:.1%} in a day. "
        "NDCG@10 by the time, at most, from a user's last row of training to the first held-out one:\n",
        f"| model | {' | '.join(heads)} |",
        "|---|" + "---:|" * len(groups),
    ]
    for e in sorted(rows, key=lambda e: -sum(e[name][0] * n for name, n in groups)):
        lines.append(f"| {told[e['model']]} | " + " | ".join(spread(e[name]) for name, _ in groups) + " |")
    return "\n".join(lines) + "\n"


def delay_table(rows: list[dict[str, Any]], told: dict[str, str]) -> str:
    """Targets by how long after the cut they were taken."""
    if not rows:
        return ""
    lines = [
        "NDCG@10 of the rows taken within some time of the cut, each part as if it were all:\n",
        f"| model | {' | '.join(name.partition(': ')[2] for name in DELAYS)} |",
        "|---|" + "---:|" * len(DELAYS),
    ]
    for e in sorted(rows, key=lambda e: -e[next(iter(DELAYS))][0]):
        lines.append(f"| {told[e['model']]} | " + " | ".join(spread(e[name]) for name in DELAYS) + " |")
    return "\n".join(lines) + "\n"


def correction_section(rows: list[dict[str, Any]]) -> str:
    """Corrected against standard logQ."""
    if not rows:
        return ""
    head = (
        " | ".join(PARTS).replace("|head", ", head").replace("|middle", ", middle").replace("|tail", ", tail")
    )
    lines = [CORRECTIONS, f"| log | negatives | {head} |", "|---|---|" + "---:|" * len(PARTS)]
    for e in rows:
        cells = [f"{e[name][0]:.4f} {signed(e[name][1:])}" for name in PARTS]
        lines.append(f"| {TITLES[e['table']]} | {e['negatives']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(m: list[float]) -> str:
    return f"{m[0]:.4f} [{m[1]:.4f}, {m[2]:.4f}]"


def signed(m: list[float]) -> str:
    return f"{m[0]:+.4f} [{m[1]:+.4f}, {m[2]:+.4f}]"


CORRECTIONS = """
## Corrected against standard logQ

SASRec with separate tables, one block, 64 wide, the latest 50 rows of each user, 256 negatives, early
stopping on validation, three seeds. Each cell: the standard correction, and corrected minus standard with its
95 % interval, paired by user, values averaged over the seeds first. Head, middle and tail items hold a third
of the training rows each.
"""

INTRODUCTION = f"""# Sequence models, measured

Full catalogue, seen items hidden (but where repeats count), ties read against the model, 95 % intervals by
bootstrap over users. Written by `make bench NAME=sequences` ({datetime.date.today().isoformat()}); parameters
stand in `benchmarks/sequence_cases.py`.

Tables that hold out each user's last row are for comparison with papers: training sees the time after other
users' test rows, and what wins there need not win in time order. The epoch was chosen on each user's row
before the last, never on the test. Rows of equal time are in the order of the file on MovieLens 1M, and in an
order drawn by a hash on Beauty, whose times are days. A user has one held-out row there, so Recall@10 is the
papers' HR@10. "50 epochs on all rows", "53 epochs": as many as were best on those rows before the last in
runs with other batches ([what changed](negative_results.md));
the 80 epochs of eSASRec were set beforehand. BCE with one negative was stopped after ten epochs without a
better validation, of 200 at most.

Tables that hold out the future are the ones to go by. There the simple models have the parameters of the
[leaderboards](leaderboards.md), and each sequence model the number of epochs that did best on the latest
twentieth of its training rows (seed 0, five epochs of patience), trained anew on all of them with three
seeds, or one where the table says so. All of them score by cosines. "trend": `trend_days`, an item's share of
the latest events as a term of its logit; "new targets": only rows in which a user takes an item first are
predicted. Where many rows share a time, baskets on Online Retail and dates on Beauty, ties are put in a new
order every epoch (`shuffle_ties`). All three were chosen on Online Retail's 30 days before the test
([what was tried](models/sequences.md)). A second table shows parts of the targets: whether a user had taken
the item before, and whether it is among the most popular items that hold a third of the training rows (head),
the next third, or the rest.

`OwnHistory` stays ahead on Online Retail where repeats count because of them alone: it orders what a user
took by how often and how lately, which a model of the next row keeps only as far as its vectors can, and
finds next to nothing else. A merged list takes both: the demo's has 0.341.

On MovieLens 1M in time order every sequence model stays below bestsellers of the last days, EASE,
neighbours and bestsellers of all time, though with each user's last row held out SASRec is far above them.
The held-out tenth lasts 26 months, and a person has 38 rows in it in the median: most of what is asked for
is far away. Of rows taken within 30 days of the cut SASRec with a trend finds as much as neighbours and
EASE (0.134, 0.132, 0.128; bestsellers of the last days 0.155), of rows after half a year far less (0.153,
0.200, 0.208): what a model of the next row learns does not last. After one epoch, the seven that validation
chose, and twenty, SASRec has 0.113, 0.108 and 0.104 of the first 30 days, and 0.159, 0.114 and 0.110 of
what comes after half a year. Its lists move from the head of the catalogue to the middle and tail
meanwhile. Validation cannot tell, for it has 19 days, the latest twentieth of the training rows: 362 of its
464 people are back within 30 days, 287 of 1,182 in the test. So models that stop after an epoch or two are
ahead. On Beauty, whose held-out rows span two months, what is learned carries over, and SASRec with a trend
is ahead or level in every group with a history.
"""
