"""Logs that come with the package, readers for what users have, and synthetic worlds with a known optimum."""

from vitrina.datasets.amazon import amazon, amazon_beauty_derived
from vitrina.datasets.dataset import Counts, Dataset, DatasetWarning, Source
from vitrina.datasets.generic import generic
from vitrina.datasets.kuairand import kuairand
from vitrina.datasets.movielens import movielens
from vitrina.datasets.sessions import retailrocket, yoochoose, yoochoose_sample
from vitrina.datasets.shipped import SHIPPED, load
from vitrina.datasets.synth import World
from vitrina.datasets.tecd import tecd
from vitrina.datasets.yambda import yambda, yambda_embeddings, yambda_items

__all__ = [
    "SHIPPED",
    "Counts",
    "Dataset",
    "DatasetWarning",
    "Source",
    "World",
    "amazon",
    "amazon_beauty_derived",
    "generic",
    "kuairand",
    "load",
    "movielens",
    "retailrocket",
    "tecd",
    "yambda",
    "yambda_embeddings",
    "yambda_items",
    "yoochoose",
    "yoochoose_sample",
]
