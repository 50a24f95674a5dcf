"""What the adapters raise.

```
AdapterError
├── FeedError      market data can't be had: unknown symbol, refused subscription, no gateway
└── BrokerError    an order, a cancel or a connection was refused; nothing was sent
```
"""

from __future__ import annotations


class AdapterError(Exception):
    """Base of every error of the adapters; the message says what to do."""


class FeedError(AdapterError):
    """Market data can't be had."""


class BrokerError(AdapterError):
    """The broker can't be used for this; nothing was sent."""
