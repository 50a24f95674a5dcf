"""What a call to a model is about, and the straight way to it, which needs only one server to be asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from tradeserve_client.contract_watch import Known
from tradeserve_client.lane import Lane
from tradeserve_client.metadata import Metadata
from tradeserve_client.replicas import Replica
from tradeserve_client.sequence import SequenceStep
from tradeserve_client.tensor_request import TensorRequests


@dataclass(frozen=True, slots=True)
class Question:
    """What `TritonClient.infer` was asked, for as long as more than one step may follow from it.

    Attributes:
        model: Name.
        inputs: Arrays by name.
        deadline_ns: Monotonic.
        version: 0 for the promoted one, or the newest.
        outputs: Names of those wanted; () for all.
        metadata: Headers of this call.
        sequence: Its place in a sequence.
    """

    model: str
    inputs: Mapping[str, ArrayLike]
    deadline_ns: int
    version: int
    outputs: Sequence[str]
    metadata: Metadata | None
    sequence: SequenceStep | None = None


class Route:
    """A model whose contract was found good on the only server, and what a call to it needs.

    Attributes:
        replica: The server.
        contract: What it serves.
        version: Of the contract.
        lane: The way to the model there.
        requests: Makes requests as the contract says.
    """

    __slots__ = ("_known", "_link", "_seen", "contract", "lane", "replica", "requests", "version")

    def __init__(self, replica: Replica, known: Known, lane: Lane, requests: TensorRequests) -> None:
        self.replica = replica
        self.contract = requests.contract
        self.version = requests.contract.version
        self.lane = lane
        self.requests = requests
        self._known = known
        self._seen = known.contract
        self._link = replica.link

    @property
    def holds(self) -> bool:
        """Whether the contract was not read again since, and the connection is still the same."""
        known = self._known
        return known.epoch == self._link.epoch and known.contract is self._seen and known.problem is None
