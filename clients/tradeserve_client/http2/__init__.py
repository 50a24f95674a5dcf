"""An own minimal gRPC transport: HTTP/2 (RFC 9113) framed on asyncio, for calls that count microseconds.

grpc.aio hands every event through a poller thread, some ten context switches per decision. Here bytes
go from the caller to the socket and back on the event loop alone. It is a client only (`server_runtime.http2`
is the server), and only what gRPC needs of HTTP/2:

    channel ──▶ connection ──▶ exchange (one call)        headers, grpc_wire: pure codecs

- `channel`: the part of grpc.aio.Channel that stubs and `channel.Link` use; connects again by itself.
- `connection`, `sending`: frames, flow control, settings, pings, GOAWAY of one socket.
- `exchange`: one call: messages in and out, deadline, status.

Not in it, by choice: server push, priorities, compression of messages, several addresses at once (one
connection per target; balance over replicas with one channel each), and sending more than 8 kB of
metadata with a call.
"""
