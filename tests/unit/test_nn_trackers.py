"""Where curves go: any tracker, MLflow, TensorBoard."""

import sys

import pytest

torch = pytest.importorskip("torch")

import nn_small_run as small  # noqa: E402

from vitrina.errors import ConfigError  # noqa: E402
from vitrina.nn import trackers  # noqa: E402
from vitrina.nn.training import fit  # noqa: E402


class Heard:
    """A tracker that keeps what it hears, or breaks."""

    def __init__(self, *, broken: bool = False) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.broken = broken

    def log(self, values: dict[str, float], step: int) -> None:
        if self.broken:
            raise OSError("the server is gone")
        self.points.append((step, values))


def test_a_tracker_hears_every_epoch() -> None:
    heard = Heard()
    curve = fit(small.new_objective(), small.new_schedule(), small.new_run(tracker=heard, name="part"))
    assert [step for step, _ in heard.points] == [4, 8]
    assert heard.points[1][1] == {f"part/{name}": value for name, value in curve[1].items()}


def test_a_tracker_that_fails_does_not_stop_the_run(caplog) -> None:
    curve = fit(small.new_objective(), small.new_schedule(), small.new_run(tracker=Heard(broken=True)))
    assert len(curve) == 2
    assert "did not take the figures of step 4; training goes on" in caplog.text


def test_a_resumed_mlflow_run_holds_the_curve(tmp_path) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vitrina[tracking]'")
    store = tmp_path / "mlflow"
    with trackers.MLflowTracker(store, "shop", params={"lr": 0.02}) as tracker:
        curve = fit(small.new_objective(), small.new_schedule(), small.new_run(tracker=tracker))
    with trackers.MLflowTracker(store, "shop", run_id=tracker.run_id) as resumed:
        resumed.log({"fit/loss": 0.5}, 12)
    client = mlflow.MlflowClient(tracking_uri=store.as_uri())
    found = [(point.step, point.value) for point in client.get_metric_history(tracker.run_id, "fit/loss")]
    assert sorted(found) == [(4, curve[0]["loss"]), (8, curve[1]["loss"]), (12, 0.5)]
    kept = client.get_run(tracker.run_id)
    assert kept.info.status == "FINISHED"
    assert kept.data.params == {"lr": "0.02"}


def test_tensorboard_reads_the_curve(tmp_path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'vitrina[tracking]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with trackers.TensorBoardTracker(tmp_path / "tb") as tracker:
        curve = fit(small.new_objective(), small.new_schedule(), small.new_run(tracker=tracker))
    events = EventAccumulator(str(tmp_path / "tb"))
    events.Reload()
    found = [(point.step, point.value) for point in events.Scalars("fit/loss")]
    assert [step for step, _ in found] == [4, 8]
    assert [value for _, value in found] == pytest.approx([entry["loss"] for entry in curve], rel=1e-6)


@pytest.mark.parametrize("name", ["MLflowTracker", "TensorBoardTracker"])
def test_a_missing_tracker_says_what_to_install(name, tmp_path, monkeypatch) -> None:
    for package in ("mlflow", "tensorboard"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"is not installed .*; pip install 'vitrina\[tracking\]'"):
        getattr(trackers, name)(tmp_path)
