"""A simulated IB Gateway: it speaks the TWS socket protocol and replays a market session.

Errors:
    GatewayError
    ├── WireError      a client sent bytes that are not the protocol
    ├── SessionError   a session file, or the choice of what to replay, is unusable
    ├── StateError     a state file is unusable or belongs to another session
    └── FaultError     a fault script is unusable
"""

from __future__ import annotations


class GatewayError(Exception):
    """Base of everything this package raises on purpose."""


class WireError(GatewayError):
    """A client sent something that is not the TWS protocol."""


class SessionError(GatewayError):
    """What should be replayed cannot be; the message names file, column, row and the fix."""


class StateError(GatewayError):
    """The state file is unusable; the message says what to do."""


class FaultError(GatewayError):
    """The fault script is unusable; the message names the entry and the fix."""
