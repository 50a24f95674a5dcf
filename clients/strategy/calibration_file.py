"""The calibration of a reader of charts as a small JSON file, told apart by its sha256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from server_runtime.errors import StartError
from strategy.core.calibration import Calibration
from strategy.core.plain import from_json, to_json

FORMAT = "tradeserve vision calibration 1"
MAX_BYTES = 1_000_000


def write_calibration(path: Path, calibration: Calibration, facts: Mapping[str, Any]) -> str:
    """Write a calibration with what is known of how it was made; return the file's sha256.

    Raises:
        OSError: It can't be written.
    """
    content = {"format": FORMAT, "calibration": to_json(calibration), **facts}
    data = (json.dumps(content, indent=1) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest()


def read_calibration(path: Path, expected_sha256: str) -> Calibration:
    """Return the calibration in a file.

    Args:
        path: Where.
        expected_sha256: The file's digest; "" accepts any.

    Raises:
        StartError: It is not there, another one, or none.
    """
    where = f"vision.calibration_file {path}"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise StartError(f"{where} can't be read: {error.strerror or error}") from error
    found = hashlib.sha256(data).hexdigest()
    if expected_sha256 and found != expected_sha256:
        raise StartError(
            f"{where} has sha256 {found}, vision.calibration_sha256 is {expected_sha256}: "
            "restore the file, or set the digest of the one you want"
        )
    try:
        content = json.loads(data[:MAX_BYTES])
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f'its format is not "{FORMAT}"')
        return from_json(Calibration, content["calibration"])
    except (ValueError, KeyError) as error:
        raise StartError(
            f"{where} is no calibration ({error}): `python -m strategy calibrate-vision` writes one"
        ) from error
