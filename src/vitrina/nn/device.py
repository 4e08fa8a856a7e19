"""Where tensors are computed with: the session's choice, as a torch device."""

import os

import torch

from vitrina.errors import ConfigError
from vitrina.nn import session


def chosen() -> torch.device:
    """The device of the session in force: "auto" takes a GPU where torch sees one, else the processor.

    Under `torchrun`, "auto" and "cuda" are the GPU of this process, `LOCAL_RANK`.

    Raises:
        ConfigError: the name is none, or torch does not see that GPU.
    """
    name = session.current().wanted_device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f'device must be "auto", "cpu", "cuda" or "cuda:<number>", got {name!r}')
    if device.type == "cpu":
        return torch.device("cpu")
    n_seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    at = device.index if device.index is not None else int(os.environ.get("LOCAL_RANK", "0"))
    if at >= n_seen:
        raise ConfigError(
            f'device={name!r} was asked for and torch sees {n_seen} GPUs; take "cpu", or "auto" for the '
            "processor where there is no GPU"
        )
    return torch.device("cuda", at)
