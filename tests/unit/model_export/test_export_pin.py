from __future__ import annotations

from pathlib import Path

import pytest

from model_export.errors import ArtifactError
from model_export.pin import replace_value

TOML = """\
[services.similarity]
index_sha256 = ""    # "" accepts any

[voters.one]         # first
artifact_sha256 = "old"
[voters.two]
artifact_sha256 = "old"
"""
PATH = Path("strategy.toml")


def test_one_value_changes_and_comments_stay() -> None:
    new = replace_value(TOML, "voters.one", "artifact_sha256", "new", PATH)
    assert new == TOML.replace('"old"', '"new"', 1)
    similarity = replace_value(TOML, "services.similarity", "index_sha256", "abc", PATH)
    assert 'index_sha256 = "abc"    # "" accepts any' in similarity
    assert replace_value(TOML, "voters.two", "artifact_sha256", "new", PATH).count('"old"') == 1


def test_a_missing_section_or_key_is_named() -> None:
    with pytest.raises(ArtifactError, match=r"no section \[voters.three\]"):
        replace_value(TOML, "voters.three", "artifact_sha256", "new", PATH)
    with pytest.raises(ArtifactError, match="index_sha256"):
        replace_value(TOML, "voters.one", "index_sha256", "new", PATH)
