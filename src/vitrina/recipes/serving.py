"""Find a port and serve a folder."""

import socket
from collections.abc import Callable
from pathlib import Path

from vitrina.errors import ConfigError
from vitrina.recipes import toml
from vitrina.recipes.config import ServeConfig
from vitrina.recipes.evaluating import CONFIG

PORTS_TRIED = 20
"""Ports after the first that are tried where none was asked for."""


def serve_folder(
    folder: Path, *, host: str | None, port: int | None, clock: str, say: Callable[[str], None]
) -> None:
    """Serve until interrupted.

    Args:
        folder: what `vitrina train` wrote.
        host: None takes that of the configuration the model was trained with.
        port: None takes the first free one from that of the configuration.
        clock: `wall`, or `log` for data of years ago.
        say: is given the address.

    Raises:
        ConfigError: the port that was asked for is taken.
        ArtifactError: the folder cannot be served.
    """
    from vitrina.serve import Settings, run

    settings = Settings(clock=clock)  # type: ignore[arg-type]  # checked there
    file = folder / CONFIG
    defaults = toml.load(file).serve if file.is_file() else ServeConfig()
    host = defaults.host if host is None else host
    port = free_port(host, defaults.port) if port is None else _checked(host, port)
    where = f"http://{host}:{port}  (Ctrl+C stops it)"
    run(folder, host, port, settings=settings, on_loaded=lambda: say(where))


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody listens on.

    Raises:
        ConfigError: none of the next ones is free.
    """
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        if _is_free(host, port):
            return port
    raise ConfigError(
        f"ports {first} to {first + PORTS_TRIED - 1} of {host} are taken; name a free one with --port"
    )


def _checked(host: str, port: int) -> int:
    if not _is_free(host, port):
        raise ConfigError(
            f"port {port} of {host} is taken; stop what listens there or name another with --port"
        )
    return port


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except socket.gaierror as error:
            raise ConfigError(
                f"{host!r} is no address of this machine ({error.strerror}); try 127.0.0.1"
            ) from error
        except OSError:
            return False
    return True
