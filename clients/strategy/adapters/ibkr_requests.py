"""The messages that begin and end a market data subscription."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from strategy.adapters.ibkr_bars import BarStream, RealtimeBarStream
from strategy.adapters.ibkr_connection import IbkrConnection
from strategy.adapters.ibkr_parsing import bar_size_setting, history_duration
from strategy.adapters.ibkr_session import IbkrSession
from strategy.adapters.ibkr_streams import DepthStream, QuoteStream, Stream

_PRINTS = "233"
_EPOCH_DATES = 2
_REALTIME_BAR_S = 5


class StreamRequests:
    """Asks for streams, and cancels them.

    Args:
        connection: Its clock notes when a stream was asked for.
        bar_size_s: Length of the bars.
        history_bars: Closed bars of the past to ask for.
        regular_hours_only: Whether bars are of regular trading hours only.
        contract_of: Returns the library's contract by con_id.

    Raises:
        ValueError: The gateway has no bars of that size.
    """

    def __init__(
        self,
        connection: IbkrConnection,
        bar_size_s: int,
        history_bars: int,
        regular_hours_only: bool,
        contract_of: Callable[[int], Any],
    ) -> None:
        self._monotonic_ns = connection.monotonic_ns
        self._bar_size = bar_size_setting(bar_size_s)
        # One more than asked for: the last one may be forming.
        self._duration = history_duration(history_bars + 1, bar_size_s)
        self._regular_hours_only = regular_hours_only
        self._contract_of = contract_of

    async def request(self, session: IbkrSession, stream: Stream) -> None:
        """Ask for a stream anew, after cancelling what is left of it.

        Raises:
            SessionError: The session is over.
        """
        if session.streams.get(stream.request_id) is stream:
            await session.pacer.take()
            self.cancel(session, stream)
        contract = self._contract_of(stream.instrument.con_id)
        if isinstance(stream, RealtimeBarStream):
            # The past first: its answer then is there before the first whole bar.
            await session.subscribe(stream, lambda i: self._send_history(session, stream, i, keep=False))

        def send(request_id: int) -> None:
            stream.requested(request_id, self._monotonic_ns())
            if isinstance(stream, RealtimeBarStream):
                session.client.reqRealTimeBars(
                    request_id, contract, _REALTIME_BAR_S, _what(stream), self._regular_hours_only, []
                )
            elif isinstance(stream, BarStream):
                self._send_history(session, stream, request_id, keep=True)
            elif isinstance(stream, QuoteStream):
                session.client.reqMktData(request_id, contract, _PRINTS, False, False, [])
            elif isinstance(stream, DepthStream):
                session.client.reqMktDepth(request_id, contract, stream.depth_rows, _is_smart(contract), [])

        await session.subscribe(stream, send)

    def fill_gap(self, session: IbkrSession, stream: RealtimeBarStream) -> None:
        """Ask once for the past of a stream of 5-second bars; room for the message is taken."""
        if session.streams.get(stream.gap_request_id) is stream:
            del session.streams[stream.gap_request_id]
        stream.gap_request_id = int(session.client.getReqId())
        session.streams[stream.gap_request_id] = stream
        self._send_history(session, stream, stream.gap_request_id, keep=False)

    def cancel(self, session: IbkrSession, stream: Stream) -> None:
        """End a stream of this session."""
        if session.streams.get(stream.request_id) is not stream:
            return
        del session.streams[stream.request_id]
        if isinstance(stream, RealtimeBarStream):
            session.client.cancelRealTimeBars(stream.request_id)
        elif isinstance(stream, BarStream):
            session.client.cancelHistoricalData(stream.request_id)
        elif isinstance(stream, QuoteStream):
            session.client.cancelMktData(stream.request_id)
        else:
            contract = self._contract_of(stream.instrument.con_id)
            session.client.cancelMktDepth(stream.request_id, _is_smart(contract))

    def _send_history(self, session: IbkrSession, stream: BarStream, request_id: int, keep: bool) -> None:
        session.client.reqHistoricalData(
            request_id,
            self._contract_of(stream.instrument.con_id),
            "",
            self._duration,
            self._bar_size,
            _what(stream),
            self._regular_hours_only,
            _EPOCH_DATES,
            keep,
            [],
        )


def _what(stream: Stream) -> str:
    return "MIDPOINT" if stream.instrument.security_type == "CASH" else "TRADES"


def _is_smart(contract: Any) -> bool:
    return bool(contract.exchange == "SMART")
