"""The network: convolutions to strides 8 and 16, attention over the whole picture, two heads.

A pattern takes most of a chart, so what decides sees all of it: attention between all places of the coarse grid. A gap
is two bars wide, so what finds it sees a finer grid as well.

Source: Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", 2019, for one answer per place without
anchors; Vaswani et al., "Attention Is All You Need", 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from model_export.detector.layout import GAP_GRID, HEIGHT_PX, OUTLINE_GRID, WIDTH_PX, Grid

_RARE = -4.6  # the logit of 1%: at first nothing is seen anywhere
_MOST_LOG_SIZE = 4.0
_BOX = 4


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class _Residual(nn.Module):
    """Two convolutions added to what they are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, image: Tensor) -> Tensor:
        return torch.relu(image + self.body(image))


class _Attention(nn.Module):
    """One layer of attention between all places, then two linear maps at each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.ask, self.answer = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.inner, self.outer = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, places: Tensor) -> Tensor:
        batch, count, width = places.shape
        asked = self.ask(self.before(places)).reshape(batch, count, 3, self.heads, width // self.heads)
        query, key, value = asked.permute(2, 0, 3, 1, 4).unbind(0)
        share = torch.softmax(query @ key.transpose(2, 3) * self.scale, dim=3)
        seen = share @ value
        places = places + self.answer(seen.transpose(1, 2).reshape(batch, count, width))
        result: Tensor = places + self.outer(torch.relu(self.inner(self.between(places))))
        return result


class _Head(nn.Module):
    """Says for each cell of a grid how likely each class is, and where its box would be."""

    def __init__(self, inputs: int, width: int, grid: Grid) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(inputs, width), _conv(width, width))
        self.classes = nn.Conv2d(width, grid.classes, 1)
        self.box = nn.Conv2d(width, _BOX, 1)
        if self.classes.bias is not None:
            nn.init.constant_(self.classes.bias, _RARE)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.body(image)
        return self.classes(seen).flatten(2).transpose(1, 2), self.box(seen).flatten(2).transpose(1, 2)


class PatternNet(nn.Module):
    """Finds patterns on charts of 256 x 320 pixels.

    Args:
        widths: Channels at strides 4, 8 and 16.
        heads: Of the attention; they divide the last width.
        layers: Of the attention.
    """

    def __init__(self, widths: tuple[int, int, int] = (32, 64, 96), heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        first, second, third = widths
        self.fine = nn.Sequential(
            # Blocks of 2 x 2 pixels as channels: as much seen for less work than at full size.
            nn.PixelUnshuffle(2),
            _conv(12, first, 3, 2),
            _Residual(first),
            _conv(first, second, 3, 2),
            _Residual(second),
        )
        self.coarse = nn.Sequential(_conv(second, third, 3, 2), _Residual(third), _Residual(third))
        self.place = nn.Parameter(0.02 * torch.randn(1, OUTLINE_GRID.cells, third))
        self.context = nn.Sequential(*(_Attention(third, heads) for _ in range(layers)))
        self.told = _conv(third, second // 2, 1)
        self.outlines = _Head(third, third, OUTLINE_GRID)
        self.gaps = _Head(second + second // 2, 3 * second // 4, GAP_GRID)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Look at charts.

        Args:
            image: (batch, 3, 256, 320), 0 to 255.

        Returns:
            (batch, 320, 11) logits and (batch, 320, 4) boxes of outlined patterns, (batch, 1280, 2) logits
            and (batch, 1280, 4) boxes of gaps; boxes are left, top, right, bottom as shares of the picture.
        """
        fine = self.fine((image - 128.0) / 64.0)
        coarse = self.coarse(fine)
        batch = coarse.shape[0]
        places = self.context(coarse.flatten(2).transpose(1, 2) + self.place)
        context = places.transpose(1, 2).reshape(batch, -1, OUTLINE_GRID.rows, OUTLINE_GRID.columns)
        told = nn.functional.interpolate(self.told(context), scale_factor=2.0, mode="nearest")
        outline_logits, outline_boxes = self.outlines(context)
        gap_logits, gap_boxes = self.gaps(torch.cat([fine, told], dim=1))
        return (
            outline_logits,
            boxes_of(outline_boxes, OUTLINE_GRID),
            gap_logits,
            boxes_of(gap_boxes, GAP_GRID),
        )


def cell_centres(grid: Grid) -> Tensor:
    """Return (cells, 2) the middles of a grid's cells, across and down, as shares of the picture."""
    down, across = torch.meshgrid(torch.arange(grid.rows), torch.arange(grid.columns), indexing="ij")
    shares = torch.stack([(across + 0.5) / grid.columns, (down + 0.5) / grid.rows], dim=2)
    return shares.reshape(-1, 2).float()


def boxes_of(raw: Tensor, grid: Grid) -> Tensor:
    """Return boxes from what a head says: the middle in cells from the cell's own, sizes as logarithms.

    Args:
        raw: (batch, cells, 4).
        grid: Whose cells.

    Returns:
        (batch, cells, 4) float32 left, top, right, bottom as shares of the picture.
    """
    raw = raw.float()
    cell = torch.tensor([1.0 / grid.columns, 1.0 / grid.rows])
    usual = torch.tensor([grid.usual_width, grid.usual_height])
    middle = cell_centres(grid) + raw[..., :2] * cell
    half = 0.5 * usual * torch.exp(raw[..., 2:].clamp(-_MOST_LOG_SIZE, _MOST_LOG_SIZE))
    return torch.cat([middle - half, middle + half], dim=-1)


def input_shape(batch: int) -> tuple[int, int, int, int]:
    """Return the shape of what the network takes."""
    return batch, 3, HEIGHT_PX, WIDTH_PX
