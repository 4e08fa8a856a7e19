"""Train one library's SASRec, list 10 items for every user, print seconds, memory and quality.

Runs in ours or a peer's Python, on .bench/ml1m_loo.npz, which `benchmarks.bench_sasrec_train` writes; what to
ask for stands there, too. The same for all: width, blocks, heads, feed-forward part as wide as the model,
learned positions, dropout, the latest `max_len` transitions of each user, softmax over the whole catalogue,
Adam with betas (0.9, 0.98), batch, epochs.

    prep     from arrays of user, item and time to what the library's `fit` takes
    fit      the library's `fit`, with what it prepares itself
    train    from the first batch to the last; for ours the whole of `fit`

What is imported or compiled at the first step is done before, on 40 users: seconds that a longer training
does not notice. Memory is the process's highest until the end of `fit`; listing comes after it.
"""

import json
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.data import WORK, Data, quality

K = 10
Steps = tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], np.ndarray]]
"""prep() gives what fit takes; fit(prepared); lists(prepared) gives (U, K) items, -1 in a short list."""
trained: dict[str, float] = {}
"""When the first batch began and the last ended; wall clock and CPU."""


def kept(n_users: int | None) -> Data:
    """The log, or its first users for a trial."""
    with np.load(WORK / "ml1m_loo.npz") as stored:
        arrays = {name: stored[name] for name in stored.files}
    if n_users is not None:
        for rows, offsets in (("item_ix", "offsets"), ("test_item_ix", "test_offsets")):
            arrays[offsets] = arrays[offsets][: n_users + 1]
            arrays[rows] = arrays[rows][: arrays[offsets][-1]]
        arrays["ts"] = arrays["ts"][: arrays["offsets"][-1]]
    return Data(**arrays | {"n_items": int(arrays["n_items"])})


def ordered_us(data: Data) -> np.ndarray:
    """Microseconds in which rows of one second keep their order."""
    place = np.arange(len(data.ts)) - np.repeat(data.offsets[:-1], np.diff(data.offsets))
    return data.ts * 1_000_000 + place


def clock(callback: type) -> Any:
    """A Lightning callback that notes when training begins and ends."""

    class Clock(callback):
        def on_train_start(self, *_: Any) -> None:
            trained["wall_from"], trained["cpu_from"] = time.perf_counter(), time.process_time()

        def on_train_end(self, *_: Any) -> None:
            trained["wall_to"], trained["cpu_to"] = time.perf_counter(), time.process_time()

    return Clock()


def lightning_options(asked: dict[str, Any], callback: type) -> dict[str, Any]:
    """Of a Trainer: nothing beside training."""
    return {
        "max_epochs": asked["n_epochs"],
        "min_epochs": asked["n_epochs"],
        "accelerator": "cpu",
        "devices": 1,
        "precision": "bf16-mixed" if asked["precision"] == "bf16" else "32-true",
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "logger": False,
        "callbacks": [clock(callback)],
    }


def ours(data: Data, asked: dict[str, Any]) -> Steps:
    import polars as pl

    from vitrina.ann import Jagged
    from vitrina.candidates import SASRec
    from vitrina.log import EventLog

    model = SASRec(
        embedding_dim=asked["dim"],
        n_layers=asked["n_layers"],
        n_heads=asked["n_heads"],
        ffn_mult=1,
        max_len=asked["max_len"],
        windows="last",
        scale_items=True,
        dropout=asked["dropout"],
        lr=asked["lr"],
        batch_size=asked["batch_size"],
        n_epochs=asked["n_epochs"],
        precision=asked["precision"],
        seed=asked["seed"],
    )
    user_ix, ts = data.user_ix, ordered_us(data)

    def prep() -> Any:
        frame = pl.DataFrame({"user_id": user_ix, "item_id": data.item_ix, "ts": ts})
        frame = frame.with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))
        return EventLog.from_frame(frame).histories()

    def fit(train: Any) -> None:
        trained["wall_from"], trained["cpu_from"] = time.perf_counter(), time.process_time()
        model.fit(train)
        trained["wall_to"], trained["cpu_to"] = time.perf_counter(), time.process_time()

    def lists(train: Any) -> np.ndarray:
        found = model.retrieve(train, k=K, exclude=Jagged(train.offsets, train.item_ix)).item_ix
        item_BK = np.full((data.n_users, K), -1, np.int64)
        item_of = np.append(train.items.values.to_numpy(), -1)
        item_BK[train.user_ids.values.to_numpy()] = item_of[found]
        return item_BK

    return prep, fit, lists


def rectools(data: Data, asked: dict[str, Any]) -> Steps:
    import pandas as pd
    import pytorch_lightning
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel
    from rectools.models.nn.item_net import IdEmbeddingsItemNet

    pytorch_lightning.seed_everything(asked["seed"], verbose=False)
    options = lightning_options(asked, pytorch_lightning.Callback)
    model = SASRecModel(
        n_factors=asked["dim"],
        n_blocks=asked["n_layers"],
        n_heads=asked["n_heads"],
        session_max_len=asked["max_len"],
        dropout_rate=asked["dropout"],
        lr=asked["lr"],
        batch_size=asked["batch_size"],
        epochs=asked["n_epochs"],
        loss="softmax",
        item_net_block_types=(IdEmbeddingsItemNet,),
        get_trainer_func=lambda: pytorch_lightning.Trainer(**options),
    )
    user_ix, ts = data.user_ix, ordered_us(data)

    def prep() -> Any:
        frame = pd.DataFrame(
            {
                Columns.User: user_ix,
                Columns.Item: data.item_ix,
                Columns.Weight: np.float32(1.0),
                Columns.Datetime: pd.to_datetime(ts, unit="us"),
            }
        )
        return Dataset.construct(frame)

    def lists(dataset: Any) -> np.ndarray:
        reco = model.recommend(users=np.arange(data.n_users), dataset=dataset, k=K, filter_viewed=True)
        item_BK = np.full((data.n_users, K), -1, np.int64)
        item_BK[reco[Columns.User], reco[Columns.Rank] - 1] = reco[Columns.Item]
        return item_BK

    return prep, model.fit, lists


def replay(data: Data, asked: dict[str, Any]) -> Steps:
    import lightning
    import pyarrow as pa
    import pyarrow.parquet as pq
    import torch
    from replay.data import FeatureHint, FeatureType
    from replay.data.nn import ParquetModule, TensorFeatureInfo, TensorSchema
    from replay.nn.lightning import LightningModule
    from replay.nn.sequential.length_bucket import LengthBucketedQueryEncoder
    from replay.nn.sequential.sasrec import SasRec
    from replay.nn.transform.template.sasrec import make_default_sasrec_transforms

    lightning.seed_everything(asked["seed"], verbose=False)
    item = TensorFeatureInfo(
        "item_id",
        FeatureType.CATEGORICAL,
        is_seq=True,
        feature_hint=FeatureHint.ITEM_ID,
        cardinality=data.n_items,
        padding_value=data.n_items,
        embedding_dim=asked["dim"],
    )
    schema = TensorSchema([item])
    net = SasRec.from_params(
        schema,
        embedding_dim=asked["dim"],
        num_heads=asked["n_heads"],
        num_blocks=asked["n_layers"],
        max_sequence_length=asked["max_len"],
        dropout=asked["dropout"],
    )
    if asked.get("bucket_size"):
        net.body.encoder = LengthBucketedQueryEncoder(net.body.encoder, asked["bucket_size"])
    folder = Path(tempfile.mkdtemp(dir=WORK))

    def prep() -> Any:
        sequences = pa.ListArray.from_arrays(data.offsets.astype(np.int32), data.item_ix.astype(np.int64))
        pq.write_table(pa.table({"item_id": sequences}), folder / "train.parquet")
        return ParquetModule(
            batch_size=asked["batch_size"],
            metadata={"train": {"item_id": {"shape": asked["max_len"] + 1, "padding": data.n_items}}},
            transforms=make_default_sasrec_transforms(schema),
            train_path=str(folder / "train.parquet"),
        )

    def fit(module: Any) -> None:
        trainer = lightning.Trainer(**lightning_options(asked, lightning.Callback), limit_val_batches=0)
        trainer.fit(LightningModule(net), datamodule=module)

    @torch.inference_mode()
    def lists(_: Any) -> np.ndarray:
        net.eval()
        item_BK = np.full((data.n_users, K), -1, np.int64)
        for lo in range(0, data.n_users, 256):
            users = range(lo, min(lo + 256, data.n_users))
            taken = [data.item_ix[data.offsets[u] : data.offsets[u + 1]] for u in users]
            item_BT = np.full((len(taken), asked["max_len"]), data.n_items, np.int64)
            for row, items in zip(item_BT, taken, strict=True):
                row[-len(items[-asked["max_len"] :]) :] = items[-asked["max_len"] :]
            read = torch.from_numpy(item_BT)
            logit = net({"item_id": read}, padding_mask=read != data.n_items)["logits"][:, : data.n_items]
            for row, items in zip(logit, taken, strict=True):
                row[torch.from_numpy(items.astype(np.int64))] = -torch.inf
            item_BK[lo : lo + len(taken)] = logit.topk(K).indices.numpy()
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
        return item_BK

    return prep, fit, lists


LIBRARIES = {"ours": ours, "rectools": rectools, "replay": replay}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(asked: dict[str, Any]) -> dict[str, float]:
    warnings.filterwarnings("ignore")
    library = LIBRARIES[asked["library"]]
    prep, fit, lists = library(kept(40), asked | {"n_epochs": 1})
    few = prep()
    fit(few)
    lists(few)
    data = kept(asked.get("n_users"))
    prep, fit, lists = library(data, asked)
    warm_mb = peak_mb()
    began, cpu_began = time.perf_counter(), time.process_time()
    prepared = prep()
    middle, cpu_middle = time.perf_counter(), time.process_time()
    fit(prepared)
    ended, cpu_ended = time.perf_counter(), time.process_time()
    high_mb = peak_mb()
    steps = np.minimum(np.diff(data.offsets) - 1, asked["max_len"])
    n_windows, n_targets = int((steps > 0).sum()), int(steps[steps > 0].sum())
    train_s = trained["wall_to"] - trained["wall_from"]
    train_cpu_s = trained["cpu_to"] - trained["cpu_from"]
    n_epochs = asked["n_epochs"]
    found = {
        "prep_s": middle - began,
        "prep_cpu_s": cpu_middle - cpu_began,
        "fit_s": ended - middle,
        "fit_cpu_s": cpu_ended - cpu_middle,
        "train_s": train_s,
        "train_cpu_s": train_cpu_s,
        "windows": n_windows,
        "targets": n_targets,
        "windows_per_s": n_windows * n_epochs / train_s,
        "windows_per_cpu_s": n_windows * n_epochs / train_cpu_s,
        "targets_per_s": n_targets * n_epochs / train_s,
        "targets_per_cpu_s": n_targets * n_epochs / train_cpu_s,
        "warm_mb": warm_mb,
        "peak_mb": high_mb,
    }
    found = {name: round(value, 3) for name, value in found.items()}
    return found | {"ndcg@10": quality(data, lists(prepared))["ndcg@10"]}


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
