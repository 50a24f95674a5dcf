"""Messages of load tests as bytes: protosets, varint-delimited files, JSON data. Only here is protobuf seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.message import DecodeError, Message

from load_test.config import LoadConfig
from load_test.errors import ConfigError

MAX_PAYLOAD_BYTES = 256 * 1024 * 1024
"""Most that a file of messages may hold; they are kept in memory."""


def protoset(files: Iterable[FileDescriptor]) -> bytes:
    """Return a serialized FileDescriptorSet of files and all they import, imports first."""
    found: dict[str, FileDescriptor] = {}

    def add(file: FileDescriptor) -> None:
        if file.name not in found:
            for imported in file.dependencies:
                add(imported)
            found[file.name] = file

    for file in files:
        add(file)
    result = descriptor_pb2.FileDescriptorSet()
    for file in found.values():
        result.file.add().MergeFromString(file.serialized_pb)
    return result.SerializeToString()


def delimited(messages: Iterable[bytes]) -> bytes:
    """Return messages one after the other, each after its length as a varint: ghz's binary-file."""
    return b"".join(_varint(len(message)) + message for message in messages)


def split(raw: bytes) -> list[bytes] | None:
    """Return the messages of a delimited file; None when it is not delimited."""
    messages: list[bytes] = []
    at = 0
    while at < len(raw):
        length, shift = 0, 0
        while True:
            if at >= len(raw) or shift > 28:
                return None
            byte = raw[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if at + length > len(raw):
            return None
        messages.append(raw[at : at + length])
        at += length
    return messages


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


class Call:
    """The unary RPC that a config names, looked up in its protoset.

    Attributes:
        path: "/package.Service/Method".
    """

    def __init__(self, config: LoadConfig) -> None:
        """Look it up.

        Raises:
            ConfigError: The protoset can't be read, lacks the call, or the call is a stream.
        """
        method = _method(config)
        if method.client_streaming or method.server_streaming:
            raise ConfigError(f"call: {config.call} is a stream; only unary calls can be loaded")
        self.path = f"/{method.containing_service.full_name}/{method.name}"
        self._request: type[Message] = message_factory.GetMessageClass(method.input_type)

    def payloads(self, config: LoadConfig) -> Sequence[bytes]:
        """Return the serialized requests that are sent in turn; at least one.

        Raises:
            ConfigError: The data can't be read, or are no requests of this call.
        """
        if config.binary_file:
            return self._from_binary(config.binary_file)
        data, where = config.data, "data"
        if config.data_file:
            where = f"data-file {config.data_file}"
            try:
                data = json.loads(_read(Path(config.data_file), "data-file"))
            except ValueError as e:
                raise ConfigError(f"{where}: {e}") from e
        return self._from_json(data, where)

    def _from_json(self, data: Any, where: str) -> list[bytes]:
        items = data if isinstance(data, list) else [data]
        if not items or not all(isinstance(item, dict) for item in items):
            raise ConfigError(f"{where}: give an object, or an array of at least one")
        if "{{" in json.dumps(data):
            raise ConfigError(f"{where}: templates ({{{{…}}}}) are not supported by our generator")
        try:
            return [json_format.ParseDict(item, self._request()).SerializeToString() for item in items]
        except (json_format.ParseError, TypeError, ValueError) as e:
            raise ConfigError(f"{where}: not a {self._request.DESCRIPTOR.full_name}: {e}") from e

    def _from_binary(self, name: str) -> list[bytes]:
        raw = _read(Path(name), "binary-file")
        messages = split(raw)
        if messages and all(map(self._parses, messages)):
            return messages
        if self._parses(raw):  # as ghz does: else the whole file is one message
            return [raw]
        raise ConfigError(
            f"binary-file {name}: neither delimited messages nor one message of type "
            f"{self._request.DESCRIPTOR.full_name}; make it again: python -m load_test payloads"
        )

    def _parses(self, raw: bytes) -> bool:
        try:
            self._request.FromString(raw)
        except DecodeError:
            return False
        return True


def _method(config: LoadConfig) -> MethodDescriptor:
    raw = _read(Path(config.protoset), "protoset")
    pool: Any = descriptor_pool.DescriptorPool()  # its methods have no types
    try:
        for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file:
            pool.AddSerializedFile(file.SerializeToString())
    except (DecodeError, TypeError) as e:
        raise ConfigError(f"protoset {config.protoset}: no set of descriptors: {e}") from e
    service, _, method = config.call.strip("/").replace("/", ".").rpartition(".")
    try:
        found: MethodDescriptor = pool.FindServiceByName(service).methods_by_name[method]
    except KeyError as e:
        raise ConfigError(
            f"call: {config.call} is not in {config.protoset}; write it as package.Service/Method"
        ) from e
    return found


def _read(path: Path, key: str) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_PAYLOAD_BYTES:
            raise ConfigError(f"{key}: {path} has {size:,} bytes, at most {MAX_PAYLOAD_BYTES:,}")
        return path.read_bytes()
    except OSError as e:
        raise ConfigError(
            f"{key}: {path}: {e.strerror}; python -m load_test payloads writes the shipped ones "
            "(paths count from the working directory)"
        ) from e
