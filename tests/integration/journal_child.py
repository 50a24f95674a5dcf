"""A strategy in a process of its own, for tests that kill it or take its disk away.

usage: journal_child.py intents URL SPOOL RUN_ID | limited SPOOL BYTES
"""

import asyncio
import resource
import sys
from pathlib import Path

from journal.errors import SpoolError
from journal.writer import Journal
from journal_rows import a_quote, a_run, an_intent, one_of_each, until

NOWHERE = "postgresql://nobody@127.0.0.1:1/nowhere"


async def intents(url: str, spool: str, run_id: str) -> None:
    """Record intents durably, print each id only once it is safe, until killed."""
    journal = await Journal.open(url, a_run(run_id), spool_dir=Path(spool), on_state=lambda text: None)
    index = 0
    while True:
        intent_id = f"{run_id}-{index}"
        journal.record(a_quote(index))
        await journal.record_durably(an_intent(intent_id))
        print(intent_id, flush=True)
        index += 1


async def limited(spool: str, limit_bytes: str) -> None:
    """Record on a disk that gets full, with Postgres away, and print what the journal says."""
    said: list[str] = []
    journal = await Journal.open(
        NOWHERE, a_run("limited"), spool_dir=Path(spool), on_state=said.append, connect_timeout_s=1.0
    )
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit_bytes), hard))
    refused = safe = 0
    for index in range(40):
        try:
            await journal.record_durably(an_intent(f"i{index}"))
            safe += 1
        except SpoolError as error:
            refused += 1
            assert "free space" in str(error)
    for index in range(5000):
        journal.record(a_quote(index))
    for row in one_of_each():
        journal.record(row)
    await asyncio.sleep(0)
    await until(lambda: journal.stats().tables["quotes"].dropped > 5000)
    print(f"safe={safe} refused={refused} dropped={journal.stats().tables['quotes'].dropped}", flush=True)
    print("said:", *said, sep="\n", flush=True)
    # The disk has room again: what matters is still in memory and reaches it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(f"left={await journal.close(1.0)}", flush=True)


if __name__ == "__main__":
    asyncio.run(intents(*sys.argv[2:]) if sys.argv[1] == "intents" else limited(*sys.argv[2:]))
