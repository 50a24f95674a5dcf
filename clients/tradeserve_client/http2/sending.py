"""What goes out on a connection of a client: calls."""

from __future__ import annotations

from grpc_wire import frames, sending
from tradeserve_client.http2.exchange import Exchange


class Sender(sending.Sender[Exchange]):
    """Writes calls to one socket."""

    def open(self, exchange: Exchange, block: bytes, message: bytes | None) -> None:
        """Send the headers of a call and, where it has only one, its message."""
        stream_id = exchange.stream_id
        opening = frames.head(frames.HEADERS, frames.END_HEADERS, stream_id, len(block)) + block
        if message is None:
            self.write(opening)
        elif len(message) <= min(self.window, exchange.send_window, self.max_frame):
            self.window -= len(message)
            exchange.send_window -= len(message)
            exchange.end_sent = True
            data = frames.head(frames.DATA, frames.END_STREAM, stream_id, len(message))
            self.write(opening + data + message)
        else:
            self.write(opening)
            exchange.outbox.append(message)
            self.send(exchange)
