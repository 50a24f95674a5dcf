"""The APIs of the servers as one protobuf descriptor set, for clients in other languages.

Triton's API (KServe v2) comes from the messages that tritonclient ships, ours from the generated code;
so what another language is generated from is exactly what this SDK speaks.
"""

from __future__ import annotations

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from tritonclient.grpc import service_pb2

from tradeserve.similarity.v1 import similarity_service_pb2
from tradeserve.strategy.v1 import strategy_service_pb2
from tradeserve.vision.v1 import chart_reading_service_pb2

_APIS = (
    service_pb2.DESCRIPTOR,
    similarity_service_pb2.DESCRIPTOR,
    strategy_service_pb2.DESCRIPTOR,
    chart_reading_service_pb2.DESCRIPTOR,
)


def descriptor_set() -> bytes:
    """Return a serialized google.protobuf.FileDescriptorSet of every API, imports first.

    `protoc --descriptor_set_in=FILE` and the dynamic loaders of other languages read it.
    """
    made = FileDescriptorSet()
    seen: set[str] = set()
    for api in _APIS:
        _add(made, api, seen)
    return made.SerializeToString(deterministic=True)


def _add(made: FileDescriptorSet, file: FileDescriptor, seen: set[str]) -> None:
    if file.name in seen:
        return
    seen.add(file.name)
    for imported in file.dependencies:
        _add(made, imported, seen)
    made.file.add().ParseFromString(file.serialized_pb)
