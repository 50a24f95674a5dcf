"""One model's folder in a Triton model repository: its versions, and which of them is promoted.

Which versions Triton loads, which one is promoted and what each was made from stand in the model's
configs and nowhere else: what a client reads over gRPC and what a restarted server loads can't differ.
See docs/adr/0004-model-lifecycle.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from tradeserve_client.contract import (
    CANARY_SHARE,
    CANARY_VERSION,
    PROMOTED_VERSION,
    SHADOW_VERSION,
    canary_of,
    shadow_of,
    version_key,
)
from tradeserve_client.errors import TradeserveError

MODEL_FILE = "model.onnx"
_PREVIOUS_VERSION = "previous_version"
_ARTIFACT = "artifact_sha256"
# What a card says of one version; a version without a card says that it has shown nothing.
_OF_A_CARD = ("export_commit", "demonstrated_skill", "statement")
_READ_BYTES = 1 << 20


class RepositoryError(TradeserveError):
    """A model's folder is not what it has to be, or somebody else is changing it."""


@dataclass(frozen=True, slots=True)
class Lifecycle:
    """Which versions of a model there are to be.

    Attributes:
        promoted: The version that clients use which name none.
        previous: What was promoted before, to roll back to; 0 for none.
        served: Versions that Triton loads, ascending; the promoted one is among them.
        facts: Version -> what is known of it: artifact_sha256, statement, …
        canary: A served version that answers some of those who pin nothing; 0 for none.
        canary_share: How many of them, 0 to 0.5.
        shadow: A served version that strategies ask beside theirs and never use; 0 for none.
    """

    promoted: int
    previous: int
    served: tuple[int, ...]
    facts: Mapping[int, Mapping[str, str]]
    canary: int = 0
    canary_share: float = 0.0
    shadow: int = 0


class ModelFolder:
    """The folder of one model.

    Attributes:
        name: The model.
        path: Its folder.
    """

    def __init__(self, repository: Path, name: str) -> None:
        self.name = name
        self.path = repository / name
        if not self._configs():
            raise RepositoryError(
                f"{self.path}: no config.pbtxt; give the repository that Triton serves and one of its models"
            )

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep everybody else from changing this folder meanwhile.

        Raises:
            RepositoryError: Somebody does.
        """
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(folder)
            raise RepositoryError(f"{self.path}: another command changes this model; wait for it") from error
        try:
            yield
        finally:
            os.close(folder)  # which unlocks

    def versions(self) -> tuple[int, ...]:
        """Return the versions that lie here, ascending."""
        return tuple(sorted(int(path.name) for path in self.path.iterdir() if _is_version(path)))

    def read(self) -> Lifecycle:
        """Return what the configs say.

        Raises:
            RepositoryError: They are unreadable, or there is no version.
        """
        config = self._parse(self._configs()[0])
        parameters = {key: value.string_value for key, value in config.parameters.items()}
        served = self._served(config)
        if not served:
            raise RepositoryError(f"{self.path}: no version folder such as 1/{MODEL_FILE}")
        promoted = _number(parameters.get(PROMOTED_VERSION, ""))
        if promoted not in served:
            promoted = served[-1]
        facts = {version: _facts(parameters, version, promoted) for version in served}
        canary, share = canary_of(parameters)
        previous = _number(parameters.get(_PREVIOUS_VERSION, ""))
        return Lifecycle(promoted, previous, served, facts, canary, share, shadow_of(parameters))

    def write(self, lifecycle: Lifecycle) -> None:
        """Replace every config of the model, each in one step."""
        for path in self._configs():
            config = self._parse(path)
            config.version_policy.specific.versions[:] = lifecycle.served
            stated = {
                PROMOTED_VERSION: str(lifecycle.promoted),
                _PREVIOUS_VERSION: str(lifecycle.previous),
                CANARY_VERSION: str(lifecycle.canary),
                CANARY_SHARE: str(lifecycle.canary_share),
                SHADOW_VERSION: str(lifecycle.shadow),
                # Clients that know nothing of versions read the promoted one's.
                **lifecycle.facts[lifecycle.promoted],
            }
            for version, facts in lifecycle.facts.items():
                stated |= {version_key(version, key): value for key, value in facts.items()}
            for key in list(config.parameters):
                if key.startswith("version_"):
                    del config.parameters[key]
            for key, value in stated.items():
                config.parameters[key].string_value = value
            _replace(path, text_format.MessageToString(config))

    def texts(self) -> Mapping[Path, str]:
        """Return the configs as they are, for `restore`."""
        return {path: path.read_text(encoding="utf-8") for path in self._configs()}

    def restore(self, texts: Mapping[Path, str]) -> None:
        """Put configs back as they were."""
        for path, text in texts.items():
            _replace(path, text)

    def add(self, model: Path, version: int) -> str:
        """Copy a model file into a new version folder, which appears whole or not at all.

        Returns:
            Its sha256 in hex.

        Raises:
            RepositoryError: The version exists, or the file can't be read.
        """
        target = self.path / str(version)
        if target.exists():
            raise RepositoryError(f"{target} exists; a version never changes, deploy it as another")
        staging = Path(tempfile.mkdtemp(prefix=f".{version}-", dir=self.path))
        try:
            digest = _copy(model, staging / MODEL_FILE)
            staging.chmod(0o755)
            staging.rename(target)
        except OSError as error:
            raise RepositoryError(f"{model}: can't be copied to {target}: {error.strerror}") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return digest

    def remove(self, version: int) -> None:
        """Delete a version folder; call it only for one that is not served."""
        shutil.rmtree(self.path / str(version), ignore_errors=True)

    def sha256(self, version: int) -> str:
        """Return the digest of a version's file in hex."""
        return _digest(self.path / str(version) / MODEL_FILE)

    def _configs(self) -> list[Path]:
        found = [self.path / "config.pbtxt", *sorted((self.path / "configs").glob("*.pbtxt"))]
        return [path for path in found if path.is_file()]

    def _parse(self, path: Path) -> Any:
        try:
            return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        except (OSError, text_format.ParseError) as error:
            raise RepositoryError(f"{path}: can't be read as a Triton config: {error}") from error

    def _served(self, config: Any) -> tuple[int, ...]:
        present, policy = self.versions(), config.version_policy
        match policy.WhichOneof("policy_choice"):
            case "specific":
                return tuple(version for version in present if version in policy.specific.versions)
            case "all":
                return present
            case _:  # Triton's own default is the newest one
                return present[-max(1, policy.latest.num_versions) :]


def with_version(lifecycle: Lifecycle, version: int, facts: Mapping[str, str]) -> Lifecycle:
    """Return the lifecycle with one more version served."""
    served = tuple(sorted({*lifecycle.served, version}))
    return replace(lifecycle, served=served, facts={**lifecycle.facts, version: facts})


def without_version(lifecycle: Lifecycle, version: int) -> Lifecycle:
    """Return the lifecycle with one version fewer served."""
    served = tuple(number for number in lifecycle.served if number != version)
    previous = 0 if lifecycle.previous == version else lifecycle.previous
    facts = {number: known for number, known in lifecycle.facts.items() if number != version}
    shadow = 0 if lifecycle.shadow == version else lifecycle.shadow
    changed = replace(lifecycle, previous=previous, served=served, facts=facts, shadow=shadow)
    return replace(changed, canary=0, canary_share=0.0) if lifecycle.canary == version else changed


def facts_of(sha256: str, card: Path | None) -> Mapping[str, str]:
    """Return what a config says of one version.

    Args:
        sha256: Of its file, in hex.
        card: Its card.json, None when there is none.

    Raises:
        RepositoryError: The card is unreadable, or is another file's.
    """
    facts = {_ARTIFACT: sha256, "export_commit": "", "demonstrated_skill": "false", "statement": ""}
    if card is None:
        return facts
    try:
        said = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{card}: no readable card: {error}") from error
    if not isinstance(said, dict) or said.get(_ARTIFACT) != sha256:
        raise RepositoryError(f"{card}: is the card of another file: the model's sha256 is {sha256}")
    for key in _OF_A_CARD:
        value = said.get(key, facts[key])
        facts[key] = str(value).lower() if isinstance(value, bool) else str(value)
    return facts


def _facts(parameters: Mapping[str, str], version: int, promoted: int) -> Mapping[str, str]:
    facts = {}
    for key in (_ARTIFACT, *_OF_A_CARD):
        own = parameters.get(version_key(version, key))
        if own is None and version == promoted:
            own = parameters.get(key)
        if own is not None:
            facts[key] = own
    return facts


def _is_version(path: Path) -> bool:
    return path.is_dir() and path.name.isdecimal() and not path.name.startswith("0")


def _number(text: str) -> int:
    return int(text) if text.isdecimal() else 0


def _replace(path: Path, text: str) -> None:
    new = path.with_name(f".{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _copy(source: Path, target: Path) -> str:
    shutil.copyfile(source, target)
    return _digest(target)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
