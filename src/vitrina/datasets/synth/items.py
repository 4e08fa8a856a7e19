"""What a world tells of its items: titles, authors, ages and lengths; never their topics."""

import numpy as np
import polars as pl

from vitrina.datasets.synth.ground import Ground
from vitrina.datasets.synth.tables import BIRTH, ITEM_AUTHOR, ITEM_LENGTH, ITEM_TITLE, hashed
from vitrina.schema import LongArray

_ADJECTIVES = """
amber ashen blue bright broken calm clear cold coral crimson crystal dark distant early electric empty
endless faded final first gentle gilded golden green grey hidden hollow hungry idle indigo ivory late
lonely lost lunar mellow midnight misty northern open orange pale patient quiet red restless round scarlet
secret short silent silver simple slow small soft solar southern still strange sudden sweet tall tender
tidal velvet violet warm wild winter wooden yellow young
"""
_NOUNS = """
anchor apple arrow atlas autumn avenue balcony basket beach bell bicycle birch bridge brook candle canyon
castle cedar chapel circus city cloud coast comet compass cottage desert diary dome door dragon echo ember
engine festival field fire forest fountain fox garden gate glacier hammer harbour harvest hill horizon
house island jungle kettle kite ladder lake lantern library lighthouse lion map market meadow mirror moon
mountain museum needle night ocean orchard palace parade path pearl piano pilot planet postcard prairie
radio rain raven river road rocket roof rose sail salt season shadow signal sky snow song sparrow spring
square star station storm street summer table temple theatre thunder tide tower train valley village
violin voyage wall water wave wheel willow wind window wolf wood
"""
ADJECTIVES, NOUNS = _ADJECTIVES.split(), _NOUNS.split()


def track_lengths(ground: Ground) -> LongArray:
    """Whole multiples of 5 s between 60 and 420, most near 190. Shape (I,)."""
    u = hashed(ground.rules.seed, ITEM_LENGTH, len(ground.item_ids))
    seconds = 60 + 360 * (0.5 + np.arctan(3 * (u - 0.5)) / 2.5) ** 1.4
    return np.asarray(5 * np.round(seconds / 5), dtype=np.int64)


def authors(ground: Ground) -> LongArray:
    """Author of each item, from 1; an author keeps to one topic, some have many more items. Shape (I,)."""
    start = ground.tables.topic_start
    n_of = np.maximum(np.diff(start) // 8, 1)
    first = np.concatenate([[0], np.cumsum(n_of)])[:-1]
    u = hashed(ground.rules.seed, ITEM_AUTHOR, len(ground.item_ids))
    topic = ground.tables.topic
    return np.asarray(1 + first[topic] + (u**2 * n_of[topic]).astype(np.int64))


def albums(ground: Ground, author: LongArray) -> LongArray:
    """One of four albums of the author, for each item. Shape (I,)."""
    u = hashed(ground.rules.seed, ITEM_TITLE, len(author))
    return np.asarray(4 * author + (u * 4).astype(np.int64))


def item_frame(ground: Ground) -> pl.DataFrame:
    """item_id, title, author, born, length_s, by item_id. Nouns hint at the topic."""
    n = len(ground.item_ids)
    u, topic = hashed(ground.rules.seed, ITEM_TITLE, n), ground.tables.topic.astype(np.int64)
    noun = (topic * 7 + (u * 1e6).astype(np.int64) % 12) % len(NOUNS)
    adjective = (u * len(ADJECTIVES)).astype(np.int64)
    frame = pl.DataFrame(
        {
            "item_id": ground.item_ids,
            "adjective": pl.Series(ADJECTIVES).gather(adjective),
            "noun": pl.Series(NOUNS).gather(noun),
            "author": authors(ground),
            "born": pl.Series(ground.ts_us(ground.tables.item[BIRTH])).cast(pl.Datetime("us", "UTC")),
            "length_s": track_lengths(ground),
        }
    )
    title = pl.concat_str(
        pl.lit("The "), "adjective", pl.lit(" "), "noun", pl.lit(" "), pl.col("item_id") // 10
    )
    return frame.select("item_id", title.alias("title"), "author", "born", "length_s").sort("item_id")
