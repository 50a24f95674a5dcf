import signal

import pytest

from fakes.gate import start_gate  # noqa: F401 - a fixture
from fakes.transports import server_transport, transport  # noqa: F401 - fixtures
from postgres_fixture import (  # noqa: F401 - fixtures
    own_postgres,
    postgres_programs,
    postgres_server,
    postgres_template,
    postgres_url,
    reachable_tmp,
)
from served_models import real_similarity, real_triton  # noqa: F401 - fixtures
from stack_process import stacks  # noqa: F401 - a fixture
from vision_processes import real_vision  # noqa: F401 - a fixture


@pytest.fixture(scope="session", autouse=True)
def _interrupts_interrupt() -> None:
    """Undo what a shell does to jobs in the background: they, and their children, ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
