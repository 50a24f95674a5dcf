"""Replace a model under load: deploy beside, compare, promote, roll back, retire.

Over Triton's explicit model control and the model's folder. Every change is written to the configs
first and loaded then; a load that fails leaves configs and server as they were. Triton loads the
changed model beside the running one and swaps when it is ready, so that no request is lost; old and new
version stay loaded together until the old one is retired. See docs/adr/0004-model-lifecycle.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tradeserve_client.answers import NoAnswer
from tradeserve_client.contract import ExpectedModel, ModelContract, differences
from tradeserve_client.errors import CallError, ContractError, error_of
from tradeserve_client.model_repository import (
    Lifecycle,
    ModelFolder,
    RepositoryError,
    facts_of,
    with_version,
    without_version,
)
from tradeserve_client.sequence import lone_step
from tradeserve_client.triton import TritonClient

Inputs = Mapping[str, NDArray[Any]]

_CALL_TIMEOUT_S = 5.0
_WARM_UP_CALLS = 20
_DTYPES = {"BOOL": "?", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8"}


@dataclass(frozen=True, slots=True)
class Deployed:
    """A version that is loaded, warm and checked, and that nobody uses yet.

    Attributes:
        contract: What the server says of it.
        artifact_sha256: Of its file, in hex.
    """

    contract: ModelContract
    artifact_sha256: str


class ModelControl:
    """Changes the models of Triton servers that run with explicit model control on one repository.

    Attributes:
        client: To these servers; the caller closes it.
    """

    def __init__(self, client: TritonClient, repository: Path, *, load_timeout_s: float = 120.0) -> None:
        """Make one.

        Args:
            client: To every replica that serves the repository: all of them load each change.
            repository: The model repository, writable here.
            load_timeout_s: What loading a model may take; TensorRT engines take minutes.
        """
        self.client = client
        self._stubs = {
            replica.target: service_pb2_grpc.GRPCInferenceServiceStub(replica.channel)
            for replica in client.replicas.replicas
        }
        self._repository = repository
        self._load_timeout_s = load_timeout_s

    def folder(self, model: str) -> ModelFolder:
        """Return the folder of a model.

        Raises:
            RepositoryError: There is none.
        """
        return ModelFolder(self._repository, model)

    async def deploy(self, model: str, file: Path, *, version: int = 0, card: Path | None = None) -> Deployed:
        """Load a new version beside those that serve, warm it and check its contract.

        Nobody who names no version is answered by it. When anything fails, configs, folder and server
        are as they were.

        Args:
            model: Name.
            file: The model file; it is copied.
            version: 0 takes the next free number.
            card: Its card.json, for what clients show of it; None without one.

        Raises:
            RepositoryError: The folder, the file or its card is unusable, or the version exists.
            ContractError: Its inputs or outputs differ from those of the promoted version.
            CallError: Triton could not load it, or it does not answer.
        """
        folder = self.folder(model)
        with folder.lock():
            before = folder.read()
            number = version or max(folder.versions()) + 1
            promoted = await self.client.contract(model, before.promoted, timeout_s=_CALL_TIMEOUT_S)
            digest = folder.add(file, number)
            try:
                after = with_version(before, number, facts_of(digest, card))
            except RepositoryError:
                folder.remove(number)
                raise
            async with self._changed(folder, after, number, is_new=True):
                contract = await self._checked(promoted, number)
                await self._warm(contract)
        return Deployed(contract, digest)

    async def promote(self, model: str, version: int) -> ModelContract:
        """Make a loaded version the one that clients use which name none.

        Raises:
            RepositoryError: It is not deployed, or its file is not the one that was.
            CallError: Triton could not load the change; the old version stays promoted.
        """
        folder = self.folder(model)
        with folder.lock():
            before = folder.read()
            if version not in before.served:
                raise RepositoryError(
                    f"{model}: version {version} is not deployed; deployed: {', '.join(map(str, before.served))}"
                )
            _check_file(folder, before, version)
            if version == before.promoted:
                return await self.client.contract(model, timeout_s=_CALL_TIMEOUT_S)
            after = replace(
                before,
                promoted=version,
                previous=before.promoted,
                canary=0,
                canary_share=0.0,
                shadow=0 if before.shadow == version else before.shadow,
            )
            async with self._changed(folder, after, version):
                return await self._promoted(model, version)

    async def rollback(self, model: str) -> ModelContract:
        """Promote again what was promoted before.

        Raises:
            RepositoryError: Nothing was, or it is retired.
            CallError: Triton could not load the change.
        """
        previous = self.folder(model).read().previous
        if not previous:
            raise RepositoryError(f"{model}: nothing was promoted before; name a version with promote")
        return await self.promote(model, previous)

    async def canary(self, model: str, version: int, share: float) -> ModelContract:
        """Have a loaded version answer a share of the calls that pin neither version nor sha256.

        Args:
            model: Name.
            version: Deployed and not promoted.
            share: 0 to 0.5; 0 ends it.

        Raises:
            RepositoryError: The version is promoted, or not deployed.
            ValueError: The share is out of range.
            CallError: Triton could not load the change.
        """
        if not 0 <= share <= 0.5:
            raise ValueError(f"share = {share!r}: give 0 to 0.5")
        folder = self.folder(model)
        with folder.lock():
            before = folder.read()
            if version == before.promoted or version not in before.served:
                raise RepositoryError(f"{model}: version {version} must be deployed and not promoted")
            after = replace(before, canary=version if share else 0, canary_share=share)
            async with self._changed(folder, after, version):
                return await self._promoted(model, before.promoted)

    async def shadow(self, model: str, version: int) -> ModelContract:
        """Have strategies ask a loaded version what they ask theirs, record its answers and never use them.

        Args:
            model: Name.
            version: Deployed and not promoted, with the inputs and outputs of the promoted one; 0 ends it.

        Returns:
            What clients get that name no version: it stays as it was.

        Raises:
            RepositoryError: The version is promoted, or not deployed.
            ContractError: Its inputs or outputs differ from those of the promoted version.
            CallError: Triton could not load the change.
        """
        folder = self.folder(model)
        with folder.lock():
            before = folder.read()
            if version and (version == before.promoted or version not in before.served):
                raise RepositoryError(f"{model}: version {version} must be deployed and not promoted")
            promoted = await self.client.contract(model, before.promoted, timeout_s=_CALL_TIMEOUT_S)
            if version:
                await self._checked(promoted, version)
            if version == before.shadow:
                return promoted
            after = replace(before, shadow=version)
            async with self._changed(folder, after, version or before.promoted):
                return await self._promoted(model, before.promoted)

    async def retire(self, model: str, version: int) -> None:
        """Unload a version; its folder stays, so that it can't be taken for another.

        Raises:
            RepositoryError: It is promoted, or not served.
            CallError: Triton could not load the change.
        """
        folder = self.folder(model)
        with folder.lock():
            before = folder.read()
            if version == before.promoted:
                raise RepositoryError(f"{model}: version {version} is promoted; promote another first")
            if version not in before.served:
                raise RepositoryError(f"{model}: version {version} is not served")
            async with self._changed(folder, without_version(before, version), before.promoted):
                pass

    @asynccontextmanager
    async def _changed(
        self, folder: ModelFolder, after: Lifecycle, version: int, *, is_new: bool = False
    ) -> AsyncIterator[None]:
        """Write and load a change; when it, or what follows in the block, fails, take it back."""
        texts = folder.texts()
        folder.write(after)
        try:
            await self._load(folder.name, version)
            yield
        except BaseException:
            folder.restore(texts)
            if is_new:
                folder.remove(version)
            # Also when the caller is cancelled: what is on disk and what is served must not differ.
            await asyncio.shield(self._load_everywhere(folder.name))
            raise

    async def _load(self, model: str, version: int) -> None:
        """Have every replica load what the folder says now, and check that a version is ready there."""
        await self._load_everywhere(model)
        ready = service_pb2.ModelReadyRequest(name=model, version=str(version))
        for target, stub in self._stubs.items():
            try:
                answer = await stub.ModelReady(ready, timeout=_CALL_TIMEOUT_S)
            except grpc.aio.AioRpcError as error:
                raise error_of(model, error) from error
            # Triton answers once it has swapped: a version that is missing now is not in what it serves.
            if not answer.ready:
                raise CallError(
                    model, f"version {version} is not ready: does {target} serve {self._repository}?"
                )

    async def _load_everywhere(self, model: str) -> None:
        request = service_pb2.RepositoryModelLoadRequest(model_name=model)
        for stub in self._stubs.values():
            try:
                await stub.RepositoryModelLoad(request, timeout=self._load_timeout_s)
            except grpc.aio.AioRpcError as error:
                raise error_of(model, error) from error

    async def _checked(self, promoted: ModelContract, version: int) -> ModelContract:
        served = await self.client.contract(promoted.name, version, timeout_s=_CALL_TIMEOUT_S)
        expected = ExpectedModel(promoted.name, version, "", promoted.inputs, promoted.outputs)
        if found := differences(expected, served):
            raise ContractError(found)
        return served

    async def _promoted(self, model: str, version: int) -> ModelContract:
        """Read what a client that names no version gets now."""
        contract = await self.client.contract(model, timeout_s=_CALL_TIMEOUT_S)
        if contract.version != version:
            raise CallError(
                model,
                f"the server still promotes version {contract.version}: does it serve {self._repository}?",
            )
        return contract

    async def _warm(self, contract: ModelContract) -> None:
        """Have a version compute until nothing of it is new."""
        for _ in range(_WARM_UP_CALLS):
            outcome = await self.client.infer(
                contract.name,
                _zeros(contract),
                budget=_CALL_TIMEOUT_S,
                version=contract.version,
                sequence=lone_step(contract),
            )
            if isinstance(outcome, NoAnswer):
                raise CallError(
                    contract.name,
                    f"version {contract.version} does not answer: {outcome.detail}",
                    outcome.reason,
                )


def _zeros(contract: ModelContract) -> Inputs:
    zeros: dict[str, NDArray[Any]] = {}
    for tensor in contract.inputs:
        dtype = _DTYPES.get(tensor.dtype)
        shape = [max(1, size) for size in tensor.shape]
        zeros[tensor.name] = np.zeros(shape, dtype or tensor.dtype.lower())
    return zeros


def _check_file(folder: ModelFolder, lifecycle: Lifecycle, version: int) -> None:
    known = lifecycle.facts[version].get("artifact_sha256", "")
    found = folder.sha256(version)
    if known and known != found:
        raise RepositoryError(
            f"{folder.path}/{version}: its file has sha256 {found[:12]}…, deployed was {known[:12]}…; "
            "deploy it as another version"
        )
