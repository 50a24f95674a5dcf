"""Exact search on an NVIDIA GPU, with the faiss-gpu package and `--gpu`.

The vectors lie in the memory of the GPU beside the index on the CPU. Searches without a filter go
there; those with one, and those after a deletion until the next merge, stay on the CPU: FAISS's
indexes on a GPU take no selector.
"""

import faiss

from server_runtime.errors import StartError
from similarity_server.main_index import MainIndex

_ADD_ROWS = 50_000


def gpu_count() -> int:
    """Return how many GPUs FAISS can use; 0 with the package for CPUs."""
    count = getattr(faiss, "get_num_gpus", None)
    return int(count()) if count is not None else 0


def require_gpu() -> None:
    """Check that there is a GPU.

    Raises:
        StartError: FAISS sees none.
    """
    if gpu_count() == 0:
        raise StartError(
            "--gpu: FAISS sees no GPU: install tradeserve[gpu] instead of [cpu] on a machine with an NVIDIA GPU "
            "and its driver, or leave the option out"
        )


def exact_on_gpu(main: MainIndex) -> faiss.Index:
    """Copy the vectors of a main part into the memory of the GPU.

    Returns:
        What searches them exactly; from one thread at a time.

    Raises:
        RuntimeError: The GPU has too little memory.
    """
    # Resources of its own, which the index keeps: FAISS's must not be shared by threads, and a merge
    # makes the next index in another thread than the one that searches.
    index = faiss.GpuIndexFlatIP(faiss.StandardGpuResources(), main.table.dimension)
    for first in range(0, len(main.table), _ADD_ROWS):
        index.add(main.table.embedding[first : first + _ADD_ROWS])
    return index
