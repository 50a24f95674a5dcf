"""Requests that belong together: a model with state, and where a request stands in its sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from zlib import crc32

from tritonclient.grpc import model_config_pb2, service_pb2
from uuid_utils import uuid7

from tradeserve_client.contract import ModelContract
from tradeserve_client.errors import WrongRequestError

_MAX_ID = 2**63 - 1
_MAX_ID_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """The place of one request in a sequence, whose state Triton keeps from its first request to its last.

    Await each answer before the next step: requests in flight may overtake each other. After a NoAnswer
    nobody knows whether the step was taken, so start a new sequence.

    Attributes:
        id: Of the sequence; nobody else's while it runs. A number from 1, or text.
        start: Whether it is the first; the state is then the initial one.
        end: Whether it is the last; the state is then dropped.
    """

    id: int | str
    start: bool = False
    end: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.id, str):
            if not 1 <= len(self.id.encode()) <= _MAX_ID_CHARACTERS:
                raise ValueError(f"a sequence's id {self.id!r} needs 1 to {_MAX_ID_CHARACTERS} bytes")
        elif isinstance(self.id, bool) or not 1 <= self.id <= _MAX_ID:
            raise ValueError(f"a sequence's id {self.id!r} must be text, or a number from 1 to {_MAX_ID}")

    def parameters(self) -> bytes:
        """Return the fields of a ModelInferRequest that say it."""
        message = service_pb2.ModelInferRequest()
        if isinstance(self.id, str):
            message.parameters["sequence_id"].string_param = self.id
        else:
            message.parameters["sequence_id"].int64_param = self.id
        message.parameters["sequence_start"].bool_param = self.start
        message.parameters["sequence_end"].bool_param = self.end
        fields: bytes = message.SerializeToString()
        return fields

    def replica_index(self, count: int) -> int:
        """Return which of several servers holds the state: the same for every client with the same targets."""
        return crc32(str(self.id).encode()) % count


def sequence_id_types(config: Any) -> tuple[type, ...]:
    """Return what the ids of a model's sequences may be, from its ModelConfig; () when it has none.

    Triton 2.51 writes a text into the 8 bytes of a CORRID control that is a number, and beyond.
    """
    if not config.HasField("sequence_batching"):
        return ()
    corrid = model_config_pb2.ModelSequenceBatching.Control.CONTROL_SEQUENCE_CORRID
    for entry in config.sequence_batching.control_input:
        for control in entry.control:
            if control.kind == corrid:
                return (str,) if control.data_type == model_config_pb2.TYPE_STRING else (int,)
    return (int, str)


def lone_step(contract: ModelContract) -> SequenceStep | None:
    """Return a sequence of one request, whose id nobody else has, for a model that wants one; else None."""
    if not contract.sequence_id_types:
        return None
    new = uuid7()
    return SequenceStep(new.int % 2**62 + 1 if int in contract.sequence_id_types else str(new), True, True)


def check_sequence(contract: ModelContract, step: SequenceStep | None) -> None:
    """Compare a call with what the model takes.

    Raises:
        WrongRequestError: A step of a sequence for a model without, none for a model with, or a wrong id.
    """
    types = contract.sequence_id_types
    if step is None and types:
        raise WrongRequestError(
            contract.name, "the model has sequences: say which with sequence=SequenceStep(id, start=…, end=…)"
        )
    if step is not None and not types:
        raise WrongRequestError(contract.name, "the model has no sequences: call it without sequence=")
    if step is not None and not isinstance(step.id, types):
        wanted = "a number" if int in types else "text"
        raise WrongRequestError(contract.name, f"the id of a sequence must be {wanted}, got {step.id!r}")
