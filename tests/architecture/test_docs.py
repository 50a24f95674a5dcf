"""What the README says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from strategy import config

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = (
    "strategy",
    "journal",
    "similarity_server",
    "vision_server",
    "triton_server",
    "gateway_simulator",
    "local_stack",
    "load_test",
    "model_export",
    "tradeserve_cli",
)


def test_every_make_target_named_in_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)\b", README, re.MULTILINE))
    assert named
    assert named <= targets


def test_every_switch_named_in_the_readme_reaches_the_stack() -> None:
    switches = set(re.findall(r"^\| `([A-Z_]+)=", README, re.MULTILINE))
    assert {
        "SESSION",
        "SPEED",
        "SYMBOLS",
        "GATEWAY",
        "TRITON",
        "SIMILARITY",
        "VISION",
        "DATABASE_URL",
    } <= switches
    for switch in switches - {"DATABASE_URL"}:  # this one is read from the environment
        assert f"$({switch})" in MAKEFILE, f"{switch} is not used by the Makefile"


def test_every_link_of_the_readme_leads_somewhere() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), f"README links to {link}, which is not there"


def test_the_budget_table_of_the_readme_is_the_default_configuration() -> None:
    budget = config.load(None).budget
    section = README.split("## The latency budget")[1]
    shares = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE))
    assert f"has {budget.total_ms:g} ms" in section
    assert shares["decode, bars, window"] == f"{budget.decode_ms:g} ms"
    assert shares["forecasts in parallel (each)"] == f"{budget.forecast_ms:g} ms"
    assert shares["embedding → neighbours"] == f"{budget.forecast_ms:g} + {budget.search_ms:g} ms"
    assert shares["ensemble, policy, risk"] == f"{budget.decide_ms:g} ms"
    assert shares["intent on disk, order on the socket"] == f"{budget.order_ms:g} ms"


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_explains_itself(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")
