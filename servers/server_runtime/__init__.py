"""What every gRPC server of ours shares.

`logs` configures structlog, `server` runs a grpc.aio server from bind to drain, `deadlines`
refuses what can't finish, `errors` turns exceptions into rich gRPC statuses, `admission` bounds
what is in flight, `metrics` counts, and `cli` holds the options that every command line shares.
"""
