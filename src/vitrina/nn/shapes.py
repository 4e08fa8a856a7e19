"""Few shapes: what differs in size from batch to batch is rounded up before it is multiplied.

For every shape of a product in half precision oneDNN keeps code and room, a thousand of them: without
rounding, SASRec on MovieLens 1M in bfloat16 grew from 1.1 to 1.9 GB in six epochs, and eSASRec with a set of
negatives for every 16 positions to 4.2 GB. Rounded up, SASRec stays at 1.2 GB.

    tokens of a padded row              to 16, at most to the longest there can be  `vitrina.nn.layout.pad`
    positions after whole chunks        64 at a time, then the rest                 `vitrina.nn.full_softmax`
    sets of negatives, positions        to 16, to 256                               `vitrina.nn.corrections`
    distinct items of a batch           to 256                                      `vitrina.nn.towers`
"""

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

TOKENS, REST, SETS, ROWS = 16, 64, 16, 256


def rounded_up(n: int, step: int) -> int:
    """The next multiple of `step`."""
    return n + -n % step


def padded(x: Tensor, n_rows: int) -> Tensor:
    """`x` with zeros behind its first axis, (n_rows, ...)."""
    return F.pad(x, (0, 0) * (x.ndim - 1) + (0, n_rows - len(x)))
