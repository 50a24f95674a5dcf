"""What a Triton serves: every model of its repository, its versions and the contract of those that are ready."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tradeserve_client.contract import ModelContract
from tradeserve_client.errors import ServerDownError, error_of
from tradeserve_client.triton import TritonClient

SERVICE = "triton"
READY = "READY"


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model, as Triton sees it.

    Attributes:
        version: Number of its folder; 0 when Triton names none.
        state: READY, LOADING, UNLOADING or UNAVAILABLE.
        reason: Why, when it is not READY.
        contract: Of this version when it is READY, else None.
    """

    version: int
    state: str
    reason: str
    contract: ModelContract | None


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One model.

    Attributes:
        name: In Triton.
        default_version: Which version answers a call that names none; 0 when none is READY.
        versions: Ascending.
    """

    name: str
    default_version: int
    versions: Sequence[ModelVersion]


async def list_models(client: TritonClient, *, timeout_s: float) -> Sequence[ListedModel]:
    """Return every model of the repository, by name.

    Raises:
        CallError: No answer.
    """
    stub = service_pb2_grpc.GRPCInferenceServiceStub(client.link.channel)
    try:
        index = await stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise error_of(SERVICE, error) from error
    found: dict[str, list[ModelVersion]] = {}
    for entry in index.models:
        version = int(entry.version) if entry.version.isdigit() else 0
        contract = None
        if entry.state == READY:
            contract = await _contract(client, entry.name, version, timeout_s)
        state = entry.state or "UNAVAILABLE"  # Triton leaves it empty for what it never loaded
        found.setdefault(entry.name, []).append(ModelVersion(version, state, entry.reason, contract))
    return tuple(
        [
            ListedModel(
                name, await _default(client, name, versions, timeout_s), sorted(versions, key=_number)
            )
            for name, versions in sorted(found.items())
        ]
    )


async def _default(
    client: TritonClient, model: str, versions: Sequence[ModelVersion], timeout_s: float
) -> int:
    if not any(version.state == READY for version in versions):
        return 0
    contract = await _contract(client, model, 0, timeout_s)
    return contract.version if contract else 0


async def _contract(client: TritonClient, model: str, version: int, timeout_s: float) -> ModelContract | None:
    try:
        return await client.contract(model, version, timeout_s=timeout_s)
    except ServerDownError:  # it was unloaded just now
        return None


def _number(version: ModelVersion) -> int:
    return version.version
