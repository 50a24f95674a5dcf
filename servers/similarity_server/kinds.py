"""Which kind of FAISS index fits a number of states and a dimension.

Source of the bounds: measured with FAISS 1.15 on clustered unit vectors. Up to 20,000 states of 128
dimensions an exact search takes about half a millisecond; beyond, 4-bit codes are scanned with SIMD
("FastScan") and the best of them are compared exactly (RFlat); from 400,000 states an inverted file
leaves most codes out. RFlat is done here, on the table of states, so that vectors are kept once.
"""

from dataclasses import dataclass
from math import log2, sqrt

FLAT = "flat"
PQ = "pq"
IVF = "ivf"
AUTO = "auto"
KINDS = (AUTO, FLAT, PQ, IVF)

_FLAT_STATES = 20_000
_PQ_STATES = 400_000
_PQ_DIMENSION = 512
# k-means needs this many points per list at least, says FAISS.
_POINTS_PER_LIST = 39
_NPROBE = 32
_K_FACTOR = 16


@dataclass(frozen=True, slots=True)
class IndexKind:
    """How states are searched.

    Attributes:
        lists: Inverted lists; 1 scans every code, 0 is the exact search without codes.
        subquantizers: 4-bit codes per embedding; 0 for the exact search.
        nprobe: Lists that a search without a filter looks into.
        k_factor: Candidates per wanted neighbour that are compared exactly.
    """

    lists: int
    subquantizers: int
    nprobe: int = 1
    k_factor: int = _K_FACTOR

    @property
    def exact(self) -> bool:
        """Whether every search finds the nearest."""
        return self.lists == 0

    @property
    def rank(self) -> int:
        """Return 0 for exact, 1 for scanned codes, 2 for inverted lists: what more states need."""
        return min(self.lists, 2)

    @property
    def codes(self) -> str:
        """The FAISS factory string of the index of codes.

        One inverted list instead of none: it is as fast, and takes filters, which a plain FastScan
        index refuses.
        """
        return "" if self.exact else f"IVF{self.lists},PQ{self.subquantizers}x4fs"

    def __str__(self) -> str:
        return "Flat" if self.exact else f"{self.codes},RFlat"


EXACT = IndexKind(0, 0)


def choose(
    count: int, dimension: int, wanted: str = AUTO, *, nprobe: int = _NPROBE, k_factor: int = _K_FACTOR
) -> IndexKind:
    """Choose how to search so many states.

    Args:
        count: Number of states.
        dimension: Length of an embedding.
        wanted: "auto" to choose by size, or "flat", "pq", "ivf".
        nprobe: Lists that a search looks into, for "ivf".
        k_factor: Candidates per wanted neighbour.

    Raises:
        ValueError: The kind does not fit; the message says why and what to choose.
    """
    if wanted not in KINDS:
        raise ValueError(f"{wanted!r} is no kind of index: choose one of {', '.join(KINDS)}")
    if wanted == AUTO:
        if count <= _FLAT_STATES or dimension % 2:
            wanted = FLAT
        else:
            wanted = PQ if count < _PQ_STATES or dimension >= _PQ_DIMENSION else IVF
    if wanted == FLAT:
        return EXACT
    if dimension % 2:
        raise ValueError(f"{wanted!r} needs an even dimension, not {dimension}: choose 'flat'")
    if wanted == PQ:
        return IndexKind(1, dimension // 2, 1, k_factor)
    lists = lists_for(count)
    return IndexKind(lists, dimension // 2, min(nprobe, lists), k_factor)


def lists_for(count: int) -> int:
    """Return how many inverted lists suit so many states: the power of two nearest to 4 sqrt(count)."""
    lists = 2 ** max(0, round(log2(4 * sqrt(max(1, count)))))
    while lists > 1 and lists * _POINTS_PER_LIST > count:
        lists //= 2
    return int(lists)


def training_states(kind: IndexKind) -> int:
    """Return how many states are enough to train a kind."""
    return max(48 * kind.lists, 20_000)
