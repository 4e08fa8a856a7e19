"""Checks that any candidate generator must pass, and worlds whose best possible answer is known.

Made for tests: yours of your own models as well as ours.
"""

from vitrina.testing.candidates import CAPABILITIES, CHECKS, CheckFailed, check_candidates
from vitrina.testing.feed_world import FeedWorld, feed_world
from vitrina.testing.lists import same_lists, well_formed
from vitrina.testing.worlds import (
    ConfoundedLog,
    World,
    block_world,
    checkerboard,
    confounded_log,
    markov_world,
)

__all__ = [
    "CAPABILITIES",
    "CHECKS",
    "CheckFailed",
    "ConfoundedLog",
    "FeedWorld",
    "World",
    "block_world",
    "check_candidates",
    "checkerboard",
    "confounded_log",
    "feed_world",
    "markov_world",
    "same_lists",
    "well_formed",
]
