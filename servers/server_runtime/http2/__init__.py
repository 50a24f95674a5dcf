"""An own gRPC server over HTTP/2 (RFC 9113) on asyncio: the part of grpc.aio.Server that our servers use.

grpc.aio takes calls in one at a time through a poller thread, some 2,500 a second, and a refusal costs it as much
as a call. Here a call is let in or refused when its headers are read, before its body is, and what one turn of the
event loop answers leaves in one send.

    server ──▶ connection ──▶ stream (one call) ──▶ behavior (runs the handler) ──▶ context
      │            ├── sending, upkeep                requests, responses, grpc_wire: pure codecs
      └── listening

- `server`: services, ports, admission, the drain.
- `connection`, `sending`, `upkeep`: frames, flow control, settings, pings, GOAWAY of one socket, and its bounds.
- `stream`: one call: messages in and out, deadline, exactly one end.
- `behavior`, `context`: run one handler of a servicer, with what it may ask of its call.

Not in it, by choice: compression of messages, server push, priorities, handlers that are not async.
"""
