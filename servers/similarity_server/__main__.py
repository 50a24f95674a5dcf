"""Start the similarity server: `python -m similarity_server --help`."""

import asyncio
import gc
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from server_runtime import cli, logs
from server_runtime.errors import StartError
from server_runtime.server import GrpcServer
from similarity_server.index import DEFAULT_MAX_ADDED, StateIndex, load_index
from similarity_server.servicer import SERVICE_NAME, SimilarityServicer
from tradeserve.similarity.v1 import similarity_service_pb2_grpc as pb_grpc

_log = structlog.get_logger()
PACKAGED_INDEXES = Path(__file__).parent / "indexes"


def build_parser() -> cli.Parser:
    """Return the parser of the command line."""
    parser = cli.Parser(
        prog="similarity_server",
        description="Search past market states by embedding (tradeserve.similarity.v1). "
        "States added with AddStates live in memory and are lost at exit; add them again, it is idempotent.",
    )
    index = parser.add_argument_group("index")
    index.add_argument("--indexes", type=Path, default=PACKAGED_INDEXES, metavar="DIR",
                       help="folder of <name>/<version>/{states.npz,card.json} (default: packaged)")  # fmt: skip
    index.add_argument(
        "--index", default="market_states", metavar="NAME", help="index to serve (default: %(default)s)"
    )
    index.add_argument(
        "--index-version", type=cli.count, default=0, metavar="N", help="its version (default: highest)"
    )
    index.add_argument("--max-added", type=cli.count, default=DEFAULT_MAX_ADDED, metavar="N",
                       help="most states that AddStates may add (default: %(default)s)")  # fmt: skip
    cli.add_server_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT.

    Returns:
        The exit status: 0 after a drain, 2 for bad input, 1 for what the machine lacks, 130 when
        interrupted before it served.
    """
    args = build_parser().parse_args(arguments)
    logs.configure("similarity", json=args.log_format == "json", level=args.log_level)
    try:
        options = cli.server_options(args)
        index = load_index(args.indexes, args.index, args.index_version, args.max_added)
        server = GrpcServer(options)
        servicer = SimilarityServicer(index, server.metrics, margin_s=options.answer_margin_s)
        server.add_service(
            SERVICE_NAME, lambda target: pb_grpc.add_SimilarityServiceServicer_to_server(servicer, target)
        )
        facts = _facts(index)
        _log.info("index loaded", **facts, added_states="in memory only, not durable")
        # The table of states is never garbage; scanning it would stall searches for milliseconds.
        gc.collect()
        gc.freeze()
        asyncio.run(server.serve({"index": facts}))
    except StartError as e:
        return cli.report(e)
    except KeyboardInterrupt:
        return 130  # while the index was loading: nothing was served yet
    return 0


def _facts(index: StateIndex) -> dict[str, object]:
    provenance = index.card.provenance
    return {
        "name": provenance.name,
        "version": provenance.version,
        "state_count": len(index),
        "dimension": index.card.dimension,
    }


if __name__ == "__main__":
    sys.exit(main())
