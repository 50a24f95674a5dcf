"""End vLLM's engine core when the server that started it is gone: a server that is killed cannot end it.

vLLM calls `end_with_server` in each of its processes, as a plugin (pyproject.toml, vllm.general_plugins).
"""

import os
import shutil
import threading
import time

SERVER_PID = "VISION_SERVER_PID"
"""Environment variable with the process id of the vision server; set by it before it starts vLLM."""
SERVER_FOLDER = "VISION_SERVER_FOLDER"
"""Environment variable with the folder of its temporary files, which a killed server cannot remove either."""
_POLL_S = 0.5


def end_with_server() -> None:
    """Watch the server from a thread of its child; in any other process do nothing.

    Not by PR_SET_PDEATHSIG: that goes by the thread that started the child, which may end before the server.
    """
    parent = os.getppid()
    if os.environ.get(SERVER_PID) != str(parent):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_S)
        shutil.rmtree(os.environ[SERVER_FOLDER], ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, name="server watch", daemon=True).start()
