"""What the gateway's error codes mean for us.

Source: https://interactivebrokers.github.io/tws-api/message_codes.html and what was seen on the socket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class CodeKind(StrEnum):
    """How a code is acted upon."""

    INFO = "info"
    """Nothing changes."""
    LINK_LOST = "link lost"
    """The gateway lost Interactive Brokers; our socket still stands."""
    LINK_BACK_DATA_LOST = "link back, data lost"
    """The link is back, the subscriptions are gone."""
    LINK_BACK = "link back"
    """The link is back, the subscriptions are said to be alive."""
    DATA_STALE = "data stale"
    """A data farm is away; data may be stale, nothing is torn down."""
    CLIENT_ID_TAKEN = "client id taken"
    """Another session holds our client id."""
    DATA_REFUSED = "data refused"
    """A market data request is refused for good (permission, unknown contract, too many lines)."""
    DATA_ENDED = "data ended"
    """A subscription is dead or was refused for the moment: subscribe again later."""
    BOOK_RESET = "book reset"
    """The order book must be emptied; updates follow."""
    ORDER_REJECTED = "order rejected"
    """The order was refused for good, whatever was said about it before."""
    ORDER_REFUSED = "order refused"
    """The order was refused, unless it was accepted before."""
    ORDER_NOTE = "order note"
    """The order lives on."""
    ORDER_UNCONFIRMED = "order unconfirmed"
    """The order's state is not known until an orderStatus says so."""
    PACING = "pacing"
    """Too many messages per second; the gateway dropped one."""


@dataclass(frozen=True, slots=True)
class CodeMeaning:
    """What a code means.

    Attributes:
        kind: How it is acted upon.
        advice: What a person can do; "" when there is nothing to do.
    """

    kind: CodeKind
    advice: str = ""


_UNKNOWN = CodeMeaning(CodeKind.INFO)

_K = CodeKind
CODES: Mapping[int, CodeMeaning] = MappingProxyType(
    {
        100: CodeMeaning(
            _K.PACING, "another program sends on this client id, or the pacer's limit is too high"
        ),
        103: CodeMeaning(
            _K.ORDER_REFUSED, "the order id was used before: reconnect to learn the next free one"
        ),
        104: CodeMeaning(_K.ORDER_NOTE),
        110: CodeMeaning(_K.ORDER_REFUSED, "round the price to the contract's min_tick"),
        105: CodeMeaning(_K.ORDER_NOTE),
        135: CodeMeaning(_K.ORDER_REFUSED),
        161: CodeMeaning(_K.ORDER_NOTE),
        162: CodeMeaning(_K.DATA_ENDED, "historical data were refused (pacing, no data or no permission)"),
        200: CodeMeaning(_K.DATA_REFUSED, "check symbol, exchange and currency"),
        201: CodeMeaning(_K.ORDER_REJECTED, "see the reason in the text; often margin or permissions"),
        202: CodeMeaning(_K.ORDER_UNCONFIRMED),
        203: CodeMeaning(_K.ORDER_REJECTED, "the security is not available or allowed for this account"),
        309: CodeMeaning(
            _K.DATA_REFUSED, "the account's number of market depth subscriptions is used up (at least 3)"
        ),
        310: CodeMeaning(_K.INFO),
        316: CodeMeaning(_K.DATA_ENDED),
        317: CodeMeaning(_K.BOOK_RESET),
        321: CodeMeaning(
            _K.ORDER_UNCONFIRMED, "the request was not valid, or the API is read-only: untick 'Read-Only API'"
        ),
        326: CodeMeaning(
            _K.CLIENT_ID_TAKEN, "stop the other program with this client id, or wait until its session ends"
        ),
        354: CodeMeaning(
            _K.DATA_REFUSED, "subscribe to the market data in Client Portal, or set the data type to delayed"
        ),
        366: CodeMeaning(_K.INFO),
        399: CodeMeaning(_K.ORDER_NOTE),
        404: CodeMeaning(_K.ORDER_NOTE, "shares are being located for the short sale; the order is held"),
        420: CodeMeaning(_K.DATA_ENDED, "real-time query refused: pacing, or no permission"),
        434: CodeMeaning(_K.ORDER_REFUSED, "the quantity must be above zero"),
        387: CodeMeaning(_K.ORDER_REFUSED, "the order type is not supported for this contract"),
        1100: CodeMeaning(_K.LINK_LOST, "the gateway lost Interactive Brokers; it reconnects by itself"),
        1101: CodeMeaning(_K.LINK_BACK_DATA_LOST),
        1102: CodeMeaning(_K.LINK_BACK),
        2103: CodeMeaning(_K.DATA_STALE),
        2105: CodeMeaning(_K.DATA_STALE),
        2109: CodeMeaning(_K.ORDER_NOTE),
        2110: CodeMeaning(_K.LINK_LOST, "the gateway lost Interactive Brokers; it reconnects by itself"),
        2157: CodeMeaning(_K.DATA_STALE),
        10089: CodeMeaning(
            _K.DATA_REFUSED, "subscribe to the market data in Client Portal, or set the type to delayed"
        ),
        10090: CodeMeaning(_K.INFO),
        10006: CodeMeaning(_K.ORDER_REFUSED),
        10147: CodeMeaning(_K.ORDER_UNCONFIRMED),
        10148: CodeMeaning(_K.ORDER_NOTE),
        10168: CodeMeaning(
            _K.DATA_REFUSED, "subscribe to the market data in Client Portal, or enable delayed data"
        ),
        10182: CodeMeaning(_K.DATA_ENDED),
        10197: CodeMeaning(
            _K.DATA_ENDED, "the user is logged in elsewhere and gets the data there: log out there"
        ),
        10225: CodeMeaning(_K.DATA_ENDED),
        10243: CodeMeaning(_K.ORDER_REFUSED, "the quantity must be a whole number"),
        10349: CodeMeaning(_K.ORDER_NOTE),
    }
)


def meaning_of(code: int) -> CodeMeaning:
    """Return what a code means; an unknown one is information."""
    return CODES.get(code, _UNKNOWN)


def describe(code: int, text: str) -> str:
    """Return one line for people: code, the gateway's text, and what to do."""
    advice = meaning_of(code).advice
    line = f"{code}: {' '.join(text.split())}"
    return f"{line} ({advice})" if advice else line
