"""gRPC on the wire: what our HTTP/2 client and our HTTP/2 server share. No sockets of its own.

`frames` are HTTP/2's frames as bytes, `fields` header fields as HPACK, `sending` what goes out on one
connection as far as the peer's windows allow.
"""
