"""What every gRPC server of ours shares.

`logs` configures structlog, `server` runs a gRPC server from bind to drain, over grpc.aio or over
`http2`, a transport of our own; `deadlines` refuses what can't finish, `errors` turns exceptions into
rich gRPC statuses, `admission` bounds what is in flight, `metrics` counts, and `cli` holds the options
that every command line shares.
"""
