"""What models learn from and what they are measured on.

    split = at(log, cut="2026-03-01T00:00Z", gap_days=1, horizon_days=7)
    split = last_days(log, 30, validation_days=30)

By time, with one cut for everybody, is the default; per user is there for comparison with papers.
"""

from vitrina.split.by_time import at, by_quantile, last_days, rolled, windows
from vitrina.split.moments import Moment, written
from vitrina.split.per_user import last_n_per_user, leave_one_out
from vitrina.split.splits import PER_USER_WARNING, Part, Split, same_split
from vitrina.split.truth import Truth

__all__ = [
    "PER_USER_WARNING",
    "Moment",
    "Part",
    "Split",
    "Truth",
    "at",
    "by_quantile",
    "last_days",
    "last_n_per_user",
    "leave_one_out",
    "rolled",
    "same_split",
    "windows",
    "written",
]
