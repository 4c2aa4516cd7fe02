"""Siamese networks for face verification: train, test and report."""

__version__ = "0.1.0"

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from siamese.inference.verifier import Match, Verification, Verifier

__all__ = ["Match", "Verification", "Verifier"]


def __getattr__(name: str) -> Any:
    """Import the verifier on first use: PyTorch takes seconds, and configuration errors are reported without it."""
    if name in __all__:
        from siamese.inference import verifier

        return getattr(verifier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
