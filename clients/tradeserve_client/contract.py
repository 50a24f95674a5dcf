"""What a server serves against what the caller was tested with, in words.

A model that differs is not called: a wrong voter is worse than a missing one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tradeserve_client.errors import ContractError

PROMOTED_VERSION = "promoted_version"
"""Config parameter of a model: the version for clients that name none; see docs/adr/0004-model-lifecycle.md."""
CANARY_VERSION = "canary_version"
"""Config parameter: a version that answers some of the calls that pin nothing."""
CANARY_SHARE = "canary_share"
"""Config parameter: how many of them, 0 to 0.5."""
SHADOW_VERSION = "shadow_version"
"""Config parameter: a version that strategies ask beside theirs, record, and never use."""
_MAX_CANARY_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output.

    Attributes:
        name: Name in the model.
        dtype: KServe's name, e.g. "FP32".
        shape: With the batch first; -1 is any length.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {list(self.shape)}"


@dataclass(frozen=True, slots=True)
class ModelContract:
    """What a server says it serves.

    Attributes:
        name: Model.
        version: The version these tensors belong to.
        versions: Every version served.
        inputs: Input tensors.
        outputs: Output tensors.
        parameters: Free-form facts from the model's configuration, e.g. artifact_sha256.
        sequence_id_types: What the ids of its sequences may be; () for a model without sequences.
    """

    name: str
    version: int
    versions: tuple[int, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, str] = field(default_factory=dict)
    sequence_id_types: tuple[type, ...] = ()

    @property
    def artifact_sha256(self) -> str:
        """Hex digest of the served file, "" when the server does not say."""
        return self.parameters.get("artifact_sha256", "").lower()


def version_key(version: int, key: str) -> str:
    """Return the name of a config parameter that holds for one version only."""
    return f"version_{version}.{key}"


def chosen_version(wanted: int, served: Sequence[int], parameters: Mapping[str, str]) -> int:
    """Return the version to ask: the wanted one, else the promoted one, else the newest; 0 for none."""
    promoted = parameters.get(PROMOTED_VERSION, "")
    for version in (wanted, int(promoted) if promoted.isdecimal() else 0):
        if version in served:
            return version
    return max(served, default=0)


def canary_of(parameters: Mapping[str, str]) -> tuple[int, float]:
    """Return the canary's version and its share of the calls; (0, 0.0) when there is none."""
    version, share = parameters.get(CANARY_VERSION, ""), parameters.get(CANARY_SHARE, "")
    try:
        found = int(version), min(float(share), _MAX_CANARY_SHARE)
    except ValueError:
        return 0, 0.0
    return found if found[0] > 0 and found[1] > 0 else (0, 0.0)


def shadow_of(parameters: Mapping[str, str]) -> int:
    """Return the version that is asked beside the others and never used; 0 when there is none."""
    version = parameters.get(SHADOW_VERSION, "")
    return int(version) if version.isdecimal() else 0


def parameters_of(version: int, parameters: Mapping[str, str]) -> Mapping[str, str]:
    """Return a model's config parameters as they hold for one version."""
    prefix = version_key(version, "")
    own = {key.removeprefix(prefix): value for key, value in parameters.items() if key.startswith(prefix)}
    common = {key: value for key, value in parameters.items() if not key.startswith("version_")}
    return common | own


@dataclass(frozen=True, slots=True)
class ExpectedModel:
    """What the caller was tested with.

    Attributes:
        name: Model.
        version: 0 accepts whichever is served.
        artifact_sha256: Hex digest; "" accepts and reports whatever is served.
        inputs: Every input, exactly.
        outputs: Outputs that are read; the server may have more.
    """

    name: str
    version: int
    artifact_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def differences(expected: ExpectedModel, served: ModelContract) -> list[str]:
    """Return every difference as a sentence; empty when the contract holds."""
    found: list[str] = []
    who = expected.name
    if served.name != expected.name:
        found.append(f"{who}: the server answers for a model named {served.name!r}")
    if expected.version and expected.version != served.version:
        versions = ", ".join(map(str, served.versions)) or "none"
        found.append(f"{who}: expected version {expected.version}, served: {versions}")
    found += digest_differences(who, expected.artifact_sha256, served.artifact_sha256)
    found += _tensor_differences(who, "input", expected.inputs, served.inputs)
    extra = {tensor.name for tensor in served.inputs} - {tensor.name for tensor in expected.inputs}
    found += [f"{who}: the served model also wants an input {name!r}" for name in sorted(extra)]
    found += _tensor_differences(who, "output", expected.outputs, served.outputs)
    return found


def digest_differences(who: str, expected_sha256: str, served_sha256: str) -> list[str]:
    """Return the difference between two artifact digests; "" as expected accepts any."""
    if not expected_sha256 or expected_sha256.lower() == served_sha256.lower():
        return []
    shown = f"{served_sha256[:12]}…" if served_sha256 else "none (the server does not say)"
    return [f"{who}: expected artifact sha256 {expected_sha256[:12].lower()}…, served: {shown}"]


def require(expected: ExpectedModel, served: ModelContract) -> None:
    """Check the contract.

    Raises:
        ContractError: With every difference.
    """
    found = differences(expected, served)
    if found:
        raise ContractError(found)


def _tensor_differences(
    who: str, kind: str, expected: Sequence[TensorSpec], served: Sequence[TensorSpec]
) -> list[str]:
    by_name = {tensor.name: tensor for tensor in served}
    found: list[str] = []
    for tensor in expected:
        other = by_name.get(tensor.name)
        if other is None:
            names = ", ".join(sorted(by_name)) or "none"
            found.append(f"{who}: expected an {kind} {tensor.name!r}, served: {names}")
            continue
        if other.dtype != tensor.dtype:
            found.append(
                f"{who}: {kind} {tensor.name!r}: expected dtype {tensor.dtype}, served {other.dtype}"
            )
        if not _shapes_agree(tensor.shape, other.shape):
            found.append(
                f"{who}: {kind} {tensor.name!r}: expected shape {list(tensor.shape)}, "
                f"served {list(other.shape)}"
            )
    return found


def _shapes_agree(expected: Sequence[int], served: Sequence[int]) -> bool:
    return len(expected) == len(served) and all(
        left == right or -1 in (left, right) for left, right in zip(expected, served, strict=True)
    )
