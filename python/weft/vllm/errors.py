"""What capture and the engine refuse."""

from __future__ import annotations

from weft.errors import BadInput, CoverageError, NotSupported, WeftError


class CaptureError(NotSupported):
    """What the engine's loader does cannot be said as boxes and modes."""


class EngineRefused(NotSupported):
    """This engine's settings and Weft do not go together."""


def listed(names, limit=8) -> str:
    """'"a", "b" and 3 more'."""
    names = [f'"{name}"' for name in names]
    if len(names) <= limit:
        return ", ".join(names)
    return ", ".join(names[:limit]) + f" and {len(names) - limit} more"


__all__ = ["BadInput", "CaptureError", "CoverageError", "EngineRefused",
           "WeftError", "listed"]
