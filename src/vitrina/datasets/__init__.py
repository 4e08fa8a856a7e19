"""Logs that come with the package, readers for what users have on disk, and synthetic worlds with a known optimum."""

from vitrina.datasets.dataset import Counts, Dataset, DatasetWarning, Source
from vitrina.datasets.shipped import SHIPPED, load

__all__ = ["SHIPPED", "Counts", "Dataset", "DatasetWarning", "Source", "load"]
