"""The straight way to a model: what can be known before a call when there is only one server to ask."""

from __future__ import annotations

from tradeserve_client.contract_watch import Known
from tradeserve_client.fan_out import Lane
from tradeserve_client.replicas import Replica
from tradeserve_client.tensor_request import TensorRequests


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
