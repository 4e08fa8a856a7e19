"""The training loop: resuming, refusing, schedules, stopping, precision, trackers."""

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import nn_small_run as small  # noqa: E402

from vitrina.candidates.sasrec import SASRec  # noqa: E402
from vitrina.errors import ArtifactError, ConfigError  # noqa: E402
from vitrina.nn import checkpoint  # noqa: E402
from vitrina.nn.embeddings import MultiHash  # noqa: E402
from vitrina.nn.rowwise import RowwiseAdagrad  # noqa: E402
from vitrina.nn.session import session  # noqa: E402
from vitrina.nn.training import NotFiniteError, Run, Schedule, fit, has_fast_bf16  # noqa: E402

N_STEPS = 8  # 2 epochs of 4 batches
NOISY = {
    "dropout": 0.3,
    "dtype": torch.float32,
    "loss": "sampled_softmax",
    "n_negatives": 6,
    "negatives": "mixed",
    "learned_temperature": True,
}


pytestmark = pytest.mark.usefixtures("one_thread")


def validation() -> Any:
    """A figure that draws from torch's generator, as a careless validation would."""
    return lambda: float(torch.rand(()))


def noisy_fit(folder: Path | None = None, kill: int | None = None, **schedule: Any) -> tuple[Any, list[Any]]:
    """Weights and curve (without times) of a run with dropout, drawn negatives and validation."""
    objective = small.new_objective(**NOISY)
    run = small.new_run(folder=folder, validate=validation())
    if kill is not None:
        run.on_step = small.kill_after(kill)
    curve = fit(objective, small.new_schedule(checkpoint_s=0.0, **schedule), run)
    return small.weights(objective), [{k: v for k, v in e.items() if k != "seconds"} for e in curve]


def same(one: Any, other: Any) -> None:
    assert one[1] == other[1]
    assert one[0].keys() == other[0].keys()
    for name, array in one[0].items():
        np.testing.assert_array_equal(array, other[0][name], err_msg=name)


@pytest.mark.parametrize("step", range(1, N_STEPS + 1))
def test_a_run_killed_at_any_step_goes_on_to_the_same_weights(step, tmp_path) -> None:
    expected = noisy_fit()
    with pytest.raises(small.Killed):
        noisy_fit(tmp_path / "run", kill=step)
    same(noisy_fit(tmp_path / "run"), expected)


@settings(deadline=None, max_examples=5)
@given(st.lists(st.integers(2, N_STEPS), min_size=2, max_size=3))
def test_a_run_killed_again_and_again_goes_on_to_the_same_weights(tmp_path_factory, steps) -> None:
    folder = tmp_path_factory.mktemp("killed") / "run"
    for step in steps:
        try:
            noisy_fit(folder, kill=step)
        except small.Killed:
            continue
    same(noisy_fit(folder), noisy_fit())


@pytest.mark.parametrize("steps", [(10,), pytest.param((3, 19, 1, 17, 9), marks=pytest.mark.slow)])
def test_a_process_killed_with_sigkill_goes_on_to_the_same_weights(steps, tmp_path) -> None:
    """The signal strikes wherever the process then is: in a step, or while a checkpoint is written."""
    for step in steps:
        program = [sys.executable, small.__file__, str(tmp_path / "run"), "alone"]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
            for _ in range(step):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
    assert checkpoint.find(tmp_path / "run") is not None
    left = []
    found = small.noisy_fit(tmp_path / "run", on_step=lambda *step: left.append(step))
    assert 0 < len(left) <= 80 - sum(steps) + len(steps)  # the checkpoint of a step follows its line
    for name, array in small.noisy_fit().items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_checkpoints_between_steps_need_not_be_written_at_each(tmp_path) -> None:
    run = small.new_run(folder=tmp_path / "run", on_step=small.kill_after(6))
    with pytest.raises(small.Killed):
        fit(small.new_objective(**NOISY), small.new_schedule(), run)
    assert checkpoint.find(tmp_path / "run").name == "e0001-s000000004"
    objective = small.new_objective(**NOISY)
    fit(objective, small.new_schedule(), small.new_run(folder=tmp_path / "run"))
    expected = small.new_objective(**NOISY)
    fit(expected, small.new_schedule(), small.new_run())
    for name, array in small.weights(expected).items():
        np.testing.assert_array_equal(small.weights(objective)[name], array)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch) -> None:
    expected = noisy_fit()
    written = []

    def save(saved, path):
        written.append(path)
        if len(written) == 3:
            partial = path.with_name(f".{path.name}.partial-123")
            partial.mkdir()
            (partial / "arrays.safetensors").write_bytes(b"half")
            raise small.Killed
        real(saved, path)

    real = checkpoint.artifact.save
    monkeypatch.setattr(checkpoint.artifact, "save", save)
    with pytest.raises(small.Killed):
        noisy_fit(tmp_path / "run")
    monkeypatch.undo()
    same(noisy_fit(tmp_path / "run"), expected)
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["e0002-s000000008"]


def test_a_finished_run_is_not_run_again(tmp_path) -> None:
    expected = noisy_fit(tmp_path / "run")
    with pytest.raises(AssertionError, match="a step"):
        fit(
            small.new_objective(),
            small.new_schedule(),
            small.new_run(on_step=lambda *_: (_ for _ in ()).throw(AssertionError("a step"))),
        )
    objective = small.new_objective(**NOISY)
    run = small.new_run(folder=tmp_path / "run", validate=validation())
    run.on_step = lambda *_: pytest.fail("a step was taken")
    fit(objective, small.new_schedule(), run)
    for name, array in expected[0].items():
        np.testing.assert_array_equal(small.weights(objective)[name], array)


def test_validation_does_not_move_the_generator() -> None:
    def losses(validate: Any) -> list[float]:
        objective = small.new_objective(**NOISY)
        return [
            entry["loss"] for entry in fit(objective, small.new_schedule(), small.new_run(validate=validate))
        ]

    assert losses(None) == losses(validation())


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder with a checkpoint."""
    fit(small.new_objective(**NOISY), small.new_schedule(), small.new_run(folder=tmp_path / "run"))
    return tmp_path / "run"


def refused(folder: Path, match: str, *, schedule: Any = None, run: Any = None, **objective: Any) -> None:
    with pytest.raises(ArtifactError, match=match) as caught:
        fit(
            small.new_objective(**{**NOISY, **objective}),
            schedule or small.new_schedule(),
            run or small.new_run(folder=folder),
        )
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_other_shapes_is_refused(written) -> None:
    shapes = (
        r"other shapes \(encoder.item.weight is \(14, 8\) in it and \(14, 16\) in the model\); resume with"
    )
    refused(written, shapes, dim=16)


def test_a_checkpoint_of_another_log_is_refused(written) -> None:
    run = small.new_run(folder=written)
    run.fingerprint = "another log"
    refused(written, r"of another run \(log or parameters differ: .*delete it or give another", run=run)


@pytest.mark.parametrize("change", [{"lr": 0.01}, {"n_epochs": 5}, {"clip_norm": 0.0}])
def test_a_checkpoint_of_another_schedule_is_refused(change, written) -> None:
    refused(written, "of another run", schedule=small.new_schedule(**change))


def test_a_checkpoint_of_another_schedule_is_gone_on_with_where_that_is_said(written, caplog) -> None:
    """As after a loss that was NaN: two epochs at lr 0.02 lie in the folder, one more follows at 0.001."""
    later = small.new_schedule(n_epochs=3, lr=0.001)
    before = checkpoint.find(written)
    run = small.new_run(folder=written, other_schedule=True)
    curve = fit(small.new_objective(**NOISY), later, run)
    assert (
        f"{before} had another schedule: n_epochs=2 in it and 3 now, lr=0.02 in it and 0.001" in caplog.text
    )
    assert [entry["epoch"] for entry in curve] == [1, 2, 3]
    assert curve[2]["lr"] == pytest.approx(later.lr_at(11, 12))
    fit(small.new_objective(**NOISY), later, small.new_run(folder=written))  # it is of this schedule now


def test_another_schedule_gives_the_optimiser_its_own_options(written) -> None:
    """Not those that lie in the checkpoint, where only moments are of use."""
    made = []

    def make(module):
        made.append(torch.optim.AdamW(module.parameters(), lr=0.1, betas=(0.8, 0.9), weight_decay=5.0))
        return made[0]

    later = small.new_schedule(n_epochs=3, weight_decay=5.0, betas=(0.8, 0.9))
    fit(
        small.new_objective(**NOISY),
        later,
        small.new_run(folder=written, other_schedule=True),
        optimizer=make,
    )
    (group,) = made[0].param_groups
    assert (group["weight_decay"], group["betas"]) == (5.0, (0.8, 0.9))
    assert {int(state["step"]) for state in made[0].state.values()} == {12}  # eight of them before


def test_a_checkpoint_of_another_optimiser_is_refused(written) -> None:
    with pytest.raises(ArtifactError, match="its optimiser is AdamW, this run's SGD"):
        fit(
            small.new_objective(**NOISY),
            small.new_schedule(),
            small.new_run(folder=written),
            optimizer=lambda module: torch.optim.SGD(module.parameters(), lr=0.1),
        )


def test_a_folder_of_something_else_is_refused(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    refused(tmp_path, "holds thesis.tex, which is no checkpoint; give a folder of its own")
    assert (tmp_path / "thesis.tex").exists()


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


DAMAGES = {
    "a bit": lambda at: flip(at / "arrays.safetensors"),
    "cut": lambda at: (at / "arrays.safetensors").write_bytes((at / "arrays.safetensors").read_bytes()[:99]),
    "no arrays": lambda at: (at / "arrays.safetensors").unlink(),
    "no manifest": lambda at: (at / "manifest.json").unlink(),
    "no JSON": lambda at: (at / "manifest.json").write_text("{"),
    "empty": lambda at: [file.unlink() for file in at.iterdir()],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_kept(damage, written) -> None:
    DAMAGES[damage](checkpoint.find(written))
    before = sorted(written.rglob("*"))
    refused(written, r"is damaged \(.*\); delete .*run to train from the start")
    assert sorted(written.rglob("*")) == before


def test_a_checkpoint_of_another_version_is_refused(written) -> None:
    manifest = checkpoint.find(written) / "manifest.json"
    content = json.loads(manifest.read_text())
    content["state"]["about"]["value"]["progress"]["mood"] = 1
    manifest.write_text(json.dumps(content))
    refused(written, r"does not hold what this version keeps \(.*mood.*\); delete")


def poisoned(at_step: int) -> Any:
    """Batches of a run whose weights are made NaN before one of them."""
    objective = small.new_objective(**NOISY)
    run = small.new_run()

    def on_step(epoch: int, at: int, loss: float) -> None:
        if epoch * run.n_batches + at + 1 == at_step:
            with torch.no_grad():
                objective.encoder.item.weight[0, 0] = math.nan

    run.on_step = on_step
    return objective, run


@pytest.mark.parametrize("step", [1, 5])
def test_a_loss_that_is_nan_stops_the_run_and_says_where(step) -> None:
    objective, run = poisoned(step)
    where = f"the loss is nan at epoch {1 + step // 4}, batch {step % 4 + 1} of 4; lower lr=0.02"
    with pytest.raises(NotFiniteError, match=where):
        fit(objective, small.new_schedule(), run)


def test_ruined_weights_never_reach_a_checkpoint(tmp_path) -> None:
    objective, run = poisoned(6)
    run.folder = tmp_path / "run"
    with pytest.raises(NotFiniteError, match=r"not finite after epoch 2, batch 2 of 4; .*stays in .*run"):
        fit(objective, small.new_schedule(checkpoint_s=0.0), run)
    assert checkpoint.find(tmp_path / "run").name == "e0001-s000000005"
    objective = small.new_objective(**NOISY)
    fit(objective, small.new_schedule(checkpoint_s=0.0), small.new_run(folder=tmp_path / "run"))
    expected = small.new_objective(**NOISY)
    fit(expected, small.new_schedule(), small.new_run())
    for name, array in small.weights(expected).items():
        np.testing.assert_array_equal(small.weights(objective)[name], array)


def test_a_learning_rate_out_of_bounds_stops_with_the_batch() -> None:
    schedule = small.new_schedule(lr=1e30, clip_norm=0.0, n_warmup_steps=0)
    with pytest.raises(NotFiniteError, match=r"epoch 1, batch \d of 4; lower lr=1e\+30"):
        fit(small.new_objective(**NOISY), schedule, small.new_run())


def test_a_validation_that_is_nan_is_refused() -> None:
    with pytest.raises(NotFiniteError, match="the validation after epoch 1 is nan; hold out more"):
        fit(small.new_objective(), small.new_schedule(), small.new_run(validate=lambda: math.nan))


def test_schedules_follow_their_formula() -> None:
    n, warm, lr = 50, 10, 0.3
    none = Schedule(n_epochs=1, lr=lr, n_warmup_steps=warm)
    assert [none.lr_at(s, n) for s in (0, 4, 9, 10, 49)] == pytest.approx([0.03, 0.15, 0.3, 0.3, 0.3])
    cosine = Schedule(n_epochs=1, lr=lr, n_warmup_steps=warm, decay="cosine")
    at = np.array([cosine.lr_at(s, n) for s in range(n)])
    np.testing.assert_allclose(at[:warm], lr * np.arange(1, warm + 1) / warm)
    x = np.arange(n - warm) / (n - 1 - warm)
    np.testing.assert_allclose(at[warm:], lr * (0.1 + 0.9 * (1 + np.cos(np.pi * x)) / 2))
    assert at[-1] == pytest.approx(lr / 10)
    assert cosine.lr_at(n + 5, n) == pytest.approx(lr / 10)


def test_the_optimiser_steps_at_the_scheduled_rate() -> None:
    seen = []
    schedule = small.new_schedule()

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            seen.append(self.param_groups[0]["lr"])
            return super().step(closure)

    curve = fit(
        small.new_objective(),
        schedule,
        small.new_run(),
        optimizer=lambda module: Watched(module.parameters(), lr=1.0),
    )
    assert seen == [schedule.lr_at(step, N_STEPS) for step in range(N_STEPS)]
    assert [entry["lr"] for entry in curve] == [seen[3], seen[7]]


@pytest.mark.parametrize(
    "bad",
    [
        {"decay": "linear"},
        {"precision": "fp8"},
        {"n_epochs": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"clip_norm": -1.0},
    ],
)
def test_a_schedule_that_makes_no_sense_is_refused(bad) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(bad.values())))):
        small.new_schedule(**bad)


def test_clipping_bounds_the_gradient() -> None:
    norms = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad.norm() for g in self.param_groups for p in g["params"] if p.grad is not None]
            norms.append(float(torch.stack(grads).norm()))
            return super().step(closure)

    for clip in (0.0, 0.05):
        fit(
            small.new_objective(),
            small.new_schedule(clip_norm=clip),
            small.new_run(),
            optimizer=lambda module: Watched(module.parameters(), lr=1.0),
        )
    assert min(norms[:N_STEPS]) > 0.05
    assert norms[N_STEPS:] == pytest.approx([0.05] * N_STEPS, rel=1e-4)


class TwoBags(torch.nn.Module):
    """A hashed table and a dense layer; a batch is ids (B, n) and the figures (B,) they should add up to."""

    def __init__(self, *, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = MultiHash(50, 4, sparse=sparse)
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, batch: Any) -> tuple[Any, Any]:
        ids, wanted_B = batch
        found_B = self.layer(self.table(ids).sum(1))[:, 0]
        return (found_B - wanted_B).square().sum(), torch.tensor(len(ids))


OPTIMIZERS = {
    "rowwise": lambda module: RowwiseAdagrad(module.parameters(), lr=0.1),
    "sgd": lambda module: torch.optim.SGD(module.parameters(), lr=0.1),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_a_sparse_table_takes_the_steps_of_a_dense_one(clip, optimizer) -> None:
    """Both optimisers leave rows without a gradient where they are; ids repeat within a batch."""

    def batches(epoch: int) -> Any:
        generator = torch.Generator().manual_seed(epoch)
        for _ in range(3):
            yield torch.randint(20, (8, 3), generator=generator), torch.randn(8, generator=generator) * 9

    found, norms = [], []
    for sparse in (True, False):
        objective = TwoBags(sparse=sparse)
        run = Run(batches=batches, n_batches=3)

        def on_step(*_: Any, objective: Any = objective) -> None:
            grads = [p.grad.to_dense() for p in objective.parameters()]
            norms.append(float(torch.cat([grad.flatten() for grad in grads]).norm()))

        run.on_step = on_step
        schedule = small.new_schedule(lr=0.05, clip_norm=clip)
        curve = fit(objective, schedule, run, optimizer=OPTIMIZERS[optimizer])
        assert objective.table.table.weight.grad.is_sparse == sparse
        found.append((small.weights(objective), [entry["loss"] for entry in curve]))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)
    for name, array in found[0][0].items():
        np.testing.assert_allclose(array, found[1][0][name], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(norms[:6], norms[6:], rtol=1e-4)
    if clip:
        assert norms == pytest.approx([clip] * 12, rel=1e-4)
    else:
        assert min(norms) > 0.3


def test_early_stopping_keeps_the_best_weights(tmp_path) -> None:
    figures, seen = [0.1, 0.5, 0.4, 0.3, 0.9], []
    objective = small.new_objective()

    def validate() -> float:
        assert not objective.training
        seen.append(small.weights(objective))
        return figures[len(seen) - 1]

    run = small.new_run(validate=validate, folder=tmp_path / "run")
    curve = fit(objective, small.new_schedule(n_epochs=5, patience=2), run)
    assert [entry["validation"] for entry in curve] == figures[:4]
    assert not objective.training
    for name, array in seen[1].items():
        np.testing.assert_array_equal(small.weights(objective)[name], array)
    again = small.new_objective()
    fit(again, small.new_schedule(n_epochs=5, patience=2), run)
    for name, array in seen[1].items():
        np.testing.assert_array_equal(small.weights(again)[name], array)


def test_bfloat16_gives_losses_close_to_float32() -> None:
    def losses(precision: str) -> np.ndarray:
        objective = small.new_objective(dtype=torch.float32)
        curve = fit(objective, small.new_schedule(precision=precision, n_epochs=3), small.new_run())
        assert next(objective.parameters()).dtype == torch.float32
        return np.array([entry["loss"] for entry in curve])

    full, half = losses("float32"), losses("bf16")
    assert (full != half).any()
    np.testing.assert_allclose(half, full, rtol=0.02)  # 8 bits of mantissa: products are off by 2^-8 = 0.004
    expected = half if has_fast_bf16() else full
    np.testing.assert_array_equal(losses("auto"), expected)


def test_fast_bfloat16_is_what_the_processor_lists() -> None:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        pytest.skip("no /proc/cpuinfo")
    listed = {word for line in cpuinfo.read_text().splitlines() for word in line.split() if "bf16" in word}
    assert has_fast_bf16() == bool(listed & {"avx512_bf16", "amx_bf16", "bf16"})


def test_a_model_stopped_in_either_part_of_its_fit_goes_on(tmp_path) -> None:
    train = small.small_log()
    model = {
        "embedding_dim": 8,
        "max_len": 10,
        "n_layers": 1,
        "n_epochs": 2,
        "validation": "last",
        "lr": 0.01,
    }
    expected = SASRec(**model).fit(train)
    for part in ("fit", "refit"):
        with session(folder=tmp_path / part):
            SASRec(**model).fit(train)
        shutil.rmtree(tmp_path / part / f"SASRec-{part}")
        with session(folder=tmp_path / part):
            again = SASRec(**model).fit(train)
        np.testing.assert_array_equal(again.item_emb_, expected.item_emb_)
    with session(folder=tmp_path / "fit"), pytest.raises(ArtifactError, match="of another run"):
        SASRec(**model | {"dropout": 0.2}).fit(train)


def test_fitting_and_retrieving_leave_the_generator_alone() -> None:
    train = small.small_log()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = SASRec(embedding_dim=8, max_len=10, n_layers=1, n_epochs=1).fit(train)
    model.retrieve(train, k=3)
    assert torch.rand(3).equal(expected)
