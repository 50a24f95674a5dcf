"""Errors of this package.

ExportError
├── DataError       market data is missing or malformed
├── ParityError     two computations that must agree do not
└── ArtifactError   an artifact does not match its card, its config or the contract
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of every error of this package; the message names the file and the fix."""


class DataError(ExportError):
    """Market data is missing or malformed."""


class ParityError(ExportError):
    """Two computations that must agree do not."""


class ArtifactError(ExportError):
    """An artifact does not match its card, its config or the contract."""


REMAKE = "run `make models` (`make detector` for the pattern detector) or restore it from git"
"""What to do about an artifact that is missing or wrong."""
