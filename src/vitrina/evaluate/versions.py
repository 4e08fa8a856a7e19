"""What a number was measured with."""

import platform
from importlib import metadata

PACKAGES = ("vitrina", "numpy", "scipy", "polars", "numba", "pyarrow")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on, and the machine."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return found | {"machine": f"{platform.system()} {platform.machine()}"}
