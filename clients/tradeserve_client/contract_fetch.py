"""Asks a Triton what it serves under a name."""

from __future__ import annotations

from typing import Any

import grpc.aio
from tritonclient.grpc import service_pb2

from tradeserve_client.contract import ModelContract, TensorSpec, chosen_version, parameters_of
from tradeserve_client.errors import error_of
from tradeserve_client.sequence import sequence_id_types


async def fetch_contract(stub: Any, model: str, version: int, timeout_s: float) -> ModelContract:
    """Return the contract of a version, or of the one that is chosen where it is not served.

    Args:
        stub: A GRPCInferenceServiceStub.
        model: Name.
        version: 0 for the promoted one, or the newest where none is promoted.
        timeout_s: For each of up to three calls.

    Raises:
        CallError: No answer; ServerDownError when the model is not loaded.
    """
    try:
        newest = await stub.ModelMetadata(service_pb2.ModelMetadataRequest(name=model), timeout=timeout_s)
        versions = tuple(sorted(int(number) for number in newest.versions if number.isdigit()))
        # Whichever version: they share the model's one config.
        config = await stub.ModelConfig(service_pb2.ModelConfigRequest(name=model), timeout=timeout_s)
        parameters = {key: value.string_value for key, value in config.config.parameters.items()}
        chosen = chosen_version(version, versions, parameters)
        metadata = newest
        if chosen and len(versions) > 1:
            request = service_pb2.ModelMetadataRequest(name=model, version=str(chosen))
            metadata = await stub.ModelMetadata(request, timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        raise error_of(model, error) from error
    return ModelContract(
        name=metadata.name,
        version=chosen,
        versions=versions,
        inputs=tuple(_spec(tensor) for tensor in metadata.inputs),
        outputs=tuple(_spec(tensor) for tensor in metadata.outputs),
        parameters=parameters_of(chosen, parameters),
        sequence_id_types=sequence_id_types(config.config),
    )


def _spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.datatype, tuple(tensor.shape))
