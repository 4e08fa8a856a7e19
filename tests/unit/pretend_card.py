"""A second device that is not there: the processor computes, but tensors say "cuda" and refuse to be mixed.

While a `PretendCard` is entered, a tensor that was made with device="cuda", or moved there, carries a mark,
and so does what is computed from it. An operation on marked and unmarked tensors raises, as it does on a GPU,
where only a tensor of one number and CPU indices of a GPU tensor may be mixed in. A forgotten `.to(device)`
or `.cpu()` so fails without a GPU. Backward passes are not watched, and CUDA's own numbers are for `-m gpu`.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

CARD = torch.device("cuda", 0)
MAY_MIX = {Tensor.__getitem__, Tensor.copy_, Tensor.to, Tensor.data.__set__, Tensor.grad.__set__}
MAY_MIX |= {torch._has_compatible_shallow_copy_type}


class PretendCard(TorchFunctionMode):
    """While it is entered, the card is there; `n_ops` counts what ran on it."""

    def __init__(self) -> None:
        super().__init__()
        self.n_ops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", str(func))
        if func == Tensor.device.__get__:
            return CARD if is_marked(args[0]) else func(*args)
        if func == Tensor.is_cuda.__get__:
            return is_marked(args[0])
        if func in (Tensor.numpy, Tensor.__array__) and is_marked(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy; use Tensor.cpu()")
        if func in (Tensor.tolist, Tensor.item):
            return func(*args, **kwargs)
        if func is Tensor.cpu:
            return off(args[0])
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        marks = {is_marked(x) for x in tensors if x.ndim}
        by_card = func is Tensor.__getitem__ and not is_marked(args[0])  # a GPU's indices of a CPU tensor
        if len(marks) == 2 and (func not in MAY_MIX or by_card):
            shapes = [("cuda" if is_marked(x) else "cpu", tuple(x.shape)) for x in tensors]
            raise RuntimeError(f"{name} got tensors of two devices: {shapes}")
        on_card, args, kwargs = self._where(func, args, kwargs, tensors)
        made = func(*args, **kwargs)
        if func == Tensor.data.__set__:
            args[0]._on_card = is_marked(args[1])
        if not on_card:
            return off(made) if func is Tensor.to else made
        self.n_ops += 1
        return tree_map(lambda x: mark(x, tensors) if isinstance(x, Tensor) else x, made)

    def _where(self, func: Any, args: Any, kwargs: dict, tensors: list[Tensor]) -> tuple[bool, Any, dict]:
        """Whether the result lies on the card; the arguments with the processor in its place."""
        on_card = any(is_marked(x) for x in tensors)
        found = [x for x in (*args, kwargs.get("device")) if isinstance(x, torch.device | str)]
        asked = [x for x in found if func is Tensor.to or x is kwargs.get("device")]
        if func is Tensor.copy_:
            return is_marked(args[0]), args, kwargs
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            return is_marked(args[1]), args, kwargs
        if asked:
            on_card = torch.device(asked[0]).type == "cuda"
            args = tuple(torch.device("cpu") if x is asked[0] else x for x in args)
            kwargs = {key: torch.device("cpu") if x is asked[0] else x for key, x in kwargs.items()}
        return on_card, args, kwargs


def is_marked(tensor: Tensor) -> bool:
    """Whether a tensor lies on the card."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor, "_on_card", False)


def off(tensor: Tensor) -> Tensor:
    """The tensor on the processor: another that shares its numbers, where it was on the card."""
    with torch._C.DisableTorchFunction():
        return tensor.view_as(tensor) if is_marked(tensor) else tensor


def mark(tensor: Tensor, inputs: list[Tensor]) -> Tensor:
    """The tensor, on the card; where nothing was computed, another that shares its numbers."""
    with torch._C.DisableTorchFunction():
        if any(tensor is x for x in inputs) and not is_marked(tensor):
            tensor = tensor.view_as(tensor)
        tensor._on_card = True
    return tensor
