"""What models, configs, cards and the index agree on; imported by every other module here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

WINDOW_BARS = 60
CHANNELS = ("open", "high", "low", "close", "volume")
HORIZON_BARS = 6
CLASSES = ("down", "flat", "up")
BAR_SIZES_S = (60, 300, 3600, 86400)
EMBEDDING_DIMENSION = 128
MAX_BATCH_SIZE = 64
# A move counts as up or down beyond this share of sigma * sqrt(horizon).
BAND_SIGMAS = 0.5
# Standard deviation of one-bar log returns is never taken below this (0.1 basis points).
SIGMA_FLOOR = 1e-5
# Lowest opset that holds all operators used; the ONNX Runtime of every Triton since 23.x loads it.
OPSET = 18
# The newest file format that the ONNX Runtime in Triton 24.10 reads.
MAX_IR_VERSION = 10


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a model, without the batch dimension.

    Attributes:
        name: In the graph.
        dims: Lengths; -1 is any.
        description: For the card.
        datatype: KServe's name.
    """

    name: str
    dims: tuple[int, ...]
    description: str
    datatype: str = "FP32"


WINDOW = Tensor(
    "window",
    (WINDOW_BARS, len(CHANNELS)),
    "raw bars (open, high, low, close, volume), oldest first; prices > 0, volume >= 0, all finite",
)


@dataclass(frozen=True, slots=True)
class ModelContract:
    """What a model takes and gives.

    Attributes:
        name: In Triton.
        version: Of the committed file.
        task: For the card.
        outputs: In the graph's order.
        input: The only one.
        max_batch_size: Rows that Triton puts together at most.
        warm_dims: What a warm-up request has where the input's lengths are free; () where none is.
        tensorrt: Whether a GPU serves it through TensorRT; else through CUDA.
    """

    name: str
    version: int
    task: str
    outputs: tuple[Tensor, ...]
    input: Tensor = WINDOW
    max_batch_size: int = MAX_BATCH_SIZE
    warm_dims: tuple[int, ...] = ()
    tensorrt: bool = True


PROBABILITIES = Tensor(
    "probabilities",
    (len(CLASSES),),
    f"P(down), P(flat), P(up) of the close {HORIZON_BARS} bars ahead against "
    f"±{BAND_SIGMAS} sigma sqrt({HORIZON_BARS}); sigma: one-bar log returns in the window",
)
EMBEDDING = Tensor("embedding", (EMBEDDING_DIMENSION,), "the window as a unit vector, for nearest neighbours")

MODELS: dict[str, ModelContract] = {
    "lstm_cnn": ModelContract(
        "lstm_cnn", 1, "direction of the next 6 bars from a window of 60 bars", (PROBABILITIES,)
    ),
    "gaf_resnet": ModelContract(
        "gaf_resnet",
        1,
        "direction of the next 6 bars, and an embedding, from Gramian angular fields of 60 bars",
        (PROBABILITIES, EMBEDDING),
    ),
}

# Most boxes that the detector gives of one chart.
DETECTIONS = 32
DETECTOR = ModelContract(
    "pattern_detector",
    1,
    "chart patterns with boxes and scores on a picture of a chart",
    (
        Tensor(
            "boxes",
            (DETECTIONS, 4),
            "left, top, right, bottom in pixels of the given picture, surest first; 0 in rows without one",
        ),
        Tensor("scores", (DETECTIONS,), "0 to 1; 0 in rows without a box"),
        Tensor("labels", (DETECTIONS,), "positions in `classes`; -1 in rows without a box", "INT32"),
        Tensor("count", (1,), "rows with a box", "INT32"),
    ),
    Tensor("image", (-1, -1, 3), "red, green, blue of each pixel, the uppermost row first", "UINT8"),
    # A picture weighs 0.7 MB, and one alone keeps a core busy.
    max_batch_size=8,
    warm_dims=(480, 480, 3),
    # Pictures come in any size, and each would be an engine of its own.
    tensorrt=False,
)
SERVED: dict[str, ModelContract] = {**MODELS, DETECTOR.name: DETECTOR}
"""All that the model repository holds; MODELS are the forecasters among them."""

INDEX_NAME = "market_states"
INDEX_VERSION = 1
INDEX_MODEL = "gaf_resnet"


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things lie below the repository's root."""

    root: Path

    @property
    def model_repository(self) -> Path:
        """What Triton loads."""
        return self.root / "model_repository"

    def model_dir(self, name: str) -> Path:
        """Folder of one model."""
        return self.model_repository / name

    def onnx(self, name: str) -> Path:
        """The graph of one model."""
        return self.model_dir(name) / str(SERVED[name].version) / "model.onnx"

    def card(self, name: str) -> Path:
        """The card of one model."""
        return self.model_dir(name) / "card.json"

    @property
    def index_dir(self) -> Path:
        """The index of past market states."""
        return self.root / "servers/similarity_server/indexes" / INDEX_NAME / str(INDEX_VERSION)

    @property
    def work(self) -> Path:
        """Weights between `train` and `export`; never committed."""
        return self.root / "build/models"

    @property
    def strategy_toml(self) -> Path:
        """The strategy's contract pins."""
        return self.root / "clients/strategy/strategy.toml"
