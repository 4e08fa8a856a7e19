"""Which device a session chooses, and what is refused."""

import pytest

torch = pytest.importorskip("torch")

from vitrina.errors import ConfigError  # noqa: E402
from vitrina.nn import device  # noqa: E402
from vitrina.nn.session import current, session  # noqa: E402


def test_a_session_within_another_keeps_its_device_and_nothing_of_the_run(tmp_path) -> None:
    assert current().wanted_device == "auto"
    with session(device="cpu", folder=tmp_path, other_schedule=True):
        with session():
            assert current().wanted_device == "cpu"
            assert current().other_schedule
            assert current().folder is None
        with session(device="cuda", other_schedule=False):
            assert current().wanted_device == "cuda"
            assert not current().other_schedule
        assert current().folder == tmp_path
    assert current().device is None


def test_the_environment_chooses_where_no_session_does(monkeypatch) -> None:
    monkeypatch.setenv("VITRINA_DEVICE", "cpu")
    assert current().wanted_device == "cpu"
    assert device.chosen() == torch.device("cpu")
    with session(device="cuda:7"):
        assert current().wanted_device == "cuda:7"


def test_auto_is_the_processor_where_there_is_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.chosen() == torch.device("cpu")


def test_each_process_of_a_node_has_the_gpu_of_its_local_rank(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.chosen() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device.chosen() == torch.device("cuda", 1)
    with session(device="cuda:0"):
        assert device.chosen() == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="'cuda' was asked for and torch sees 2 GPUs"):
        device.chosen()


def test_a_gpu_that_torch_does_not_see_is_refused(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with (
        session(device="cuda"),
        pytest.raises(ConfigError, match="'cuda' was asked for and torch sees 0 GPUs"),
    ):
        device.chosen()


@pytest.mark.parametrize("name", ["gpu", "meta", "tpu:0", "cuda:x"])
def test_a_device_that_is_none_is_refused(name) -> None:
    with session(device=name), pytest.raises(ConfigError, match=f'must be "auto", "cpu".*, got {name!r}'):
        device.chosen()
