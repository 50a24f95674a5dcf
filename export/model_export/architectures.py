"""The networks. All preprocessing is part of the graph, so training and serving cannot differ.

Both take raw windows, (batch, 60, 5) float32. Every step is finite for constant prices, no volume,
huge volume and even zeros (Triton's warm-up), because each divisor has a floor and each feature is
clamped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_export.contract import EMBEDDING_DIMENSION, SIGMA_FLOOR, WINDOW_BARS

_MIN_PRICE = 1e-9
_FEATURES = 7
SHAPE_POINTS = 15
# Least spread of log closes that is drawn; float32 prices do not resolve less.
CLOSE_FLOOR = 1e-7
# Least spread of z-scored log volume, and of ranges in sigmas, that is drawn.
_FEATURE_FLOOR = 0.05


def window_features(window: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale-free features of raw windows.

    Args:
        window: (batch, 60, 5) open, high, low, close, volume.

    Returns:
        (batch, 60, 7): open, high, low, close as log returns against the close before, over sigma;
        log volume, z-scored in the window; where the close lies against the last close, over
        sigma sqrt(60); the bar's range over sigma. And (batch, 1) sigma, one-bar, floored.
    """
    prices = window[:, :, :4].clamp(min=_MIN_PRICE)
    volume = window[:, :, 4:5].clamp(min=0.0)
    close = prices[:, :, 3:4]
    # The first bar has no close before it; its own open stands in.
    before = torch.cat([prices[:, :1, 0:1], close[:, :-1]], dim=1)
    # One logarithm of a ratio keeps the digits that a difference of two logarithms would lose.
    returns = torch.log(prices / before)
    close_returns = returns[:, 1:, 3]
    centred = close_returns - close_returns.mean(dim=1, keepdim=True)
    sigma = (centred * centred).mean(dim=1, keepdim=True).sqrt().clamp(min=SIGMA_FLOOR)
    scale = sigma.unsqueeze(2)
    path = torch.log(close / close[:, -1:]) / (scale * WINDOW_BARS**0.5)
    spread = torch.log(prices[:, :, 1:2] / prices[:, :, 2:3]) / scale
    # Against the first bar, so that constant volume is exactly 0 and not rounding over a small number.
    log_volume = torch.log1p(volume) - torch.log1p(volume[:, :1])
    volume_centred = log_volume - log_volume.mean(dim=1, keepdim=True)
    volume_std = (volume_centred * volume_centred).mean(dim=1, keepdim=True).sqrt().clamp(min=0.05)
    features = torch.cat(
        [
            (returns / scale).clamp(-8, 8),
            (volume_centred / volume_std).clamp(-5, 5),
            path.clamp(-5, 5),
            spread.clamp(0, 8),
        ],
        dim=2,
    )
    return features, sigma


class Calibration(nn.Module):
    """Probabilities from logits: softmax(scale * logits + bias), fitted on the validation split."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(3), requires_grad=False)

    def forward(self, logits: Tensor) -> Tensor:
        """Return (batch, 3) probabilities."""
        return torch.softmax(self.scale * logits + self.bias, dim=1)


class LstmCnn(nn.Module):
    """Two convolutions over time, then an LSTM; its last state and the mean decide."""

    def __init__(self, width: int = 48, hidden: int = 96) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(_FEATURES, width, 5, padding=2),
            nn.ReLU(),
            nn.Conv1d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.lstm = nn.LSTM(width, hidden, batch_first=True)
        self.head = nn.Sequential(nn.Linear(2 * hidden, 48), nn.ReLU(), nn.Dropout(0.2), nn.Linear(48, 3))
        self.calibration = Calibration()

    def logits(self, window: Tensor) -> Tensor:
        """Return (batch, 3) uncalibrated scores."""
        features, _ = window_features(window)
        states, _ = self.lstm(self.front(features.transpose(1, 2)).transpose(1, 2))
        logits: Tensor = self.head(torch.cat([states[:, -1], states.mean(dim=1)], dim=1))
        return logits

    def forward(self, window: Tensor) -> Tensor:
        """Return (batch, 3) probabilities."""
        probabilities: Tensor = self.calibration(self.logits(window))
        return probabilities


def gramian_fields(series: Tensor, floor: Tensor | float = CLOSE_FLOOR) -> Tensor:
    """Return the Gramian angular summation and difference fields of series scaled to [0, 1].

    Equal to pyts `GramianAngularField(sample_range=(0, 1))`. Scaled to [-1, 1] the summation field
    of a series and of its negation would be the same image. The series is not averaged down first:
    the rounding of the means would cost the digits that the square root needs; the first convolution
    has stride 4 instead.

    Args:
        series: (batch, channels, n) values.
        floor: Least spread (highest minus lowest) that counts as one; (1, channels, 1) or a number.
            Below it the scaling would blow rounding errors up to a picture.

    Returns:
        (batch, 2 * channels, n, n): all summation fields, then all difference fields. A constant
        series counts as all zeros.

    Source: Wang and Oates (2015), arXiv 1506.00327.
    """
    low, high = series.amin(dim=2, keepdim=True), series.amax(dim=2, keepdim=True)
    above = series - low
    spread = (high - low).clamp(min=floor)
    cosine = above / spread
    # 1 - cosine from the series itself: 1 - cosine * cosine would lose the digits near the maximum.
    below_one = torch.where(high - low >= spread, high - series, spread - above) / spread
    sine = (below_one * (1 + cosine)).sqrt()
    across, down = cosine.unsqueeze(2), cosine.unsqueeze(3)
    sine_across, sine_down = sine.unsqueeze(2), sine.unsqueeze(3)
    summation = down * across - sine_down * sine_across
    difference = sine_down * across - down * sine_across
    return torch.cat([summation, difference], dim=1)


class _Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, image: Tensor) -> Tensor:
        return torch.relu(self.body(image) + self.shortcut(image))


class GafResNet(nn.Module):
    """Close, log volume and range of each bar as Gramian fields, read by a small ResNet.

    The embedding also has to give back the drawn path (`shape`), so that neighbours look alike
    even where nothing about the future can be learned.
    """

    def __init__(self, widths: tuple[int, int, int] = (24, 40, 72)) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Sequential(
            nn.Conv2d(6, first, 5, stride=4, padding=2, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.body = nn.Sequential(
            _Residual(first, first, 1), _Residual(first, second, 2), _Residual(second, third, 2)
        )
        # Position in the image is time: flatten instead of averaging it away.
        self.project = nn.Linear(third * 16, EMBEDDING_DIMENSION)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(EMBEDDING_DIMENSION, 3))
        self.shape = nn.Linear(EMBEDDING_DIMENSION, SHAPE_POINTS + 1)
        self.calibration = Calibration()
        floor = torch.tensor([CLOSE_FLOOR, _FEATURE_FLOOR, _FEATURE_FLOOR]).reshape(1, 3, 1)
        self.register_buffer("floor", floor, persistent=False)

    floor: Tensor

    def embed(self, window: Tensor) -> Tensor:
        """Return (batch, 128) embeddings of length 1."""
        features, _ = window_features(window)
        close = window[:, :, 3].clamp(min=_MIN_PRICE)
        log_close = torch.log(close / close[:, -1:])
        channels = torch.stack([log_close, features[:, :, 4], features[:, :, 6]], dim=1)
        image = self.stem(gramian_fields(channels, self.floor))
        raw = self.project(self.body(image).flatten(1))
        length = (raw * raw).sum(dim=1, keepdim=True).sqrt().clamp(min=1e-6)
        embedding: Tensor = raw / length
        return embedding

    def logits_of(self, embedding: Tensor) -> Tensor:
        """Return (batch, 3) uncalibrated scores of an embedding."""
        logits: Tensor = self.head(embedding * 8.0)
        return logits

    def forward(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """Return (batch, 3) probabilities and (batch, 128) embeddings."""
        embedding = self.embed(window)
        return self.calibration(self.logits_of(embedding)), embedding


def shape_target(window: Tensor) -> Tensor:
    """Return what the embedding has to give back, (batch, 16).

    The path of the close in 15 steps, over sigma sqrt(60), centred; and the share of the window's
    variance that lies in its last quarter, as a log ratio.
    """
    features, _ = window_features(window)
    path = features[:, :, 5].reshape(-1, SHAPE_POINTS, WINDOW_BARS // SHAPE_POINTS).mean(dim=2)
    squares = features[:, 1:, 3] ** 2
    recent = torch.log((squares[:, -15:].mean(dim=1) + 0.05) / (squares.mean(dim=1) + 0.05))
    return torch.cat([path - path.mean(dim=1, keepdim=True), recent.unsqueeze(1)], dim=1)


def build(name: str) -> nn.Module:
    """Return an untrained network by the model's name."""
    models: dict[str, type[nn.Module]] = {"lstm_cnn": LstmCnn, "gaf_resnet": GafResNet}
    return models[name]()
