"""Packages that a format or a runtime needs and that need not be installed."""

import importlib.util


def missing(packages: tuple[str, ...]) -> list[str]:
    """Those that are not installed."""
    return [package for package in packages if importlib.util.find_spec(package) is None]


def require_packages(*packages: str, what: str = "ONNX export") -> None:
    """Raise ValueError, naming the pip command, unless all are installed. what: needs them."""
    if gone := missing(packages):
        raise ValueError(f"{what} needs packages that are not installed: pip install {' '.join(gone)}")
