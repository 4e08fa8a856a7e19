"""Worlds: synthetic logs of any size whose truth is known. See docs/datasets.md for the formulas."""

from vitrina.datasets.synth.world import World

__all__ = ["World"]
