"""What an operator can set. Every limit exists because somebody will send more."""

from dataclasses import dataclass
from typing import Literal

from vitrina.errors import ConfigError

Clock = Literal["wall", "log"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Limits and choices of one server."""

    clock: Clock = "wall"
    """`wall` is the present; `log` starts at the end of the training log, for data of years ago."""
    default_k: int = 20
    """Items of a feed where the request names no k."""
    max_k: int = 500
    """Largest k of a request; a larger one is refused, one above the catalogue gets the whole catalogue."""
    max_body_bytes: int = 2 * 1024 * 1024
    """Largest request body; the rest of a larger one is not read."""
    max_batch: int = 1000
    """Events in one batch."""
    max_session: int = 1000
    """Items in one anonymous session."""
    max_id_length: int = 256
    """Characters of a user, item, event or request id."""
    max_future_s: float = 300.0
    """How far ahead of the server's clock the ts of an event may be, in seconds."""
    extra_events: tuple[str, ...] = ()
    """Event names that are stored but do not enter histories, as `impression`."""
    tail: int = 500
    """Latest events of a user that shape the feed, on top of the training history; all events are kept."""
    durable: Literal["process", "power"] = "process"
    """What acknowledged events survive: the death of the process, or of the machine (one fsync a commit)."""
    n_threads: int = 2
    """Requests that are scored side by side; much of the scoring holds Python's lock, so more only wait."""
    max_waiting: int = 256
    """Requests in work or waiting; beyond it the answer is 503 with Retry-After."""
    allowed_hosts: tuple[str, ...] = ()
    """Values of the Host header that are answered, without port; empty answers all."""
    console: bool = True
    """Whether the HTML pages are served beside the API."""

    def __post_init__(self) -> None:
        for name in ("default_k", "max_k", "max_body_bytes", "max_batch", "tail", "n_threads", "max_waiting"):
            if getattr(self, name) < 1:
                raise ConfigError(f"Settings.{name} must be >= 1, got {getattr(self, name)}")
        if self.default_k > self.max_k:
            raise ConfigError(f"Settings.default_k {self.default_k} is above max_k {self.max_k}")
        if self.clock not in ("wall", "log"):
            raise ConfigError(f"Settings.clock must be 'wall' or 'log', got {self.clock!r}")
        if self.durable not in ("process", "power"):
            raise ConfigError(f"Settings.durable must be 'process' or 'power', got {self.durable!r}")
