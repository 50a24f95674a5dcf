"""The fuzz campaign, small: `make fuzz` sends a million requests."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from fuzz.main import similarity_target
from fuzz.mutations import malformed

ROOT = Path(__file__).resolve().parents[2]


def test_a_small_campaign_finds_nothing() -> None:
    command = [sys.executable, "tests/fuzz/run.py", "--count", "2000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing found" in done.stdout
    assert "INVALID_ARGUMENT" in done.stdout, "the campaign sends requests that must be refused"


def test_a_seed_makes_the_same_requests_again() -> None:
    valid = list(similarity_target("host:1").unary.values())

    def made(seed: int) -> list[bytes]:
        rng = random.Random(seed)
        return [malformed(rng, rng.choice(valid)) for _ in range(200)]

    assert made(3) == made(3) != made(4)
