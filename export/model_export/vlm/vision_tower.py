"""The picture's side of a Qwen3-VL in plain torch, for square pictures of one size.

Parameters carry the names of Hugging Face's implementation, so that its loaders and vLLM's read the weights.
Source: the published architecture of Qwen3-VL (vision transformer with 2-D rotary positions, a merger of 2 x 2
patches, and further mergers whose outputs enter the first layers of the language model).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the name that every torch program uses)
from torch import Tensor, nn

from model_export.vlm.shape import VisionShape

_THETA = 10_000.0
_EPS = 1e-6
_PLACE_STD, _PATCH_STD = 0.1, 0.004
_CELLS = 8
_CELL_GAIN = 1.5


class PatchEmbedding(nn.Module):
    """Patches as vectors. Both frames of a still picture are the same, so their kernels can be added."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        kernel = (shape.temporal_patch_size, shape.patch_size, shape.patch_size)
        self.proj = nn.Conv3d(3, shape.hidden_size, kernel, kernel)

    @torch.no_grad()
    def begin_with_cells(self) -> None:
        """Begin with how green or red each of 8 x 8 cells is: the same for light and dark charts, 0 where empty."""
        weight = self.proj.weight
        nn.init.normal_(weight, 0.0, _PATCH_STD)
        weight -= weight.mean((1, 2, 3, 4), keepdim=True)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)
        side = weight.shape[-1] // _CELLS
        if weight.shape[0] < _CELLS**2 or side < 1:
            return
        for cell in range(_CELLS**2):
            rows, columns = (slice(at * side, (at + 1) * side) for at in divmod(cell, _CELLS))
            gain = _CELL_GAIN / side
            weight[cell, 0, :, rows, columns] += gain / weight.shape[2]
            weight[cell, 1, :, rows, columns] -= gain / weight.shape[2]

    def forward(self, patches: Tensor) -> Tensor:
        """Embed (batch, patches, 3 * patch * patch)."""
        return F.linear(patches, self.proj.weight.sum(2).flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Every patch looks at every patch."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.heads = shape.num_heads
        self.qkv = nn.Linear(shape.hidden_size, 3 * shape.hidden_size)
        self.proj = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Mix (batch, patches, hidden)."""
        batch, count, width = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, width))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Two layers."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.linear_fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.linear_fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """Change (batch, patches, hidden), each patch alone."""
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and a feed-forward part, each around a residual."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(shape.hidden_size, _EPS)
        self.norm2 = nn.LayerNorm(shape.hidden_size, _EPS)
        self.attn = Attention(shape)
        self.mlp = FeedForward(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Change (batch, patches, hidden)."""
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Merger(nn.Module):
    """Four neighbouring patches become one token."""

    def __init__(self, shape: VisionShape, out_size: int, *, norm_after_merge: bool) -> None:
        super().__init__()
        self.merged = shape.hidden_size * shape.spatial_merge_size**2
        self.norm_after_merge = norm_after_merge
        self.norm = nn.LayerNorm(self.merged if norm_after_merge else shape.hidden_size, _EPS)
        self.linear_fc1 = nn.Linear(self.merged, self.merged)
        self.linear_fc2 = nn.Linear(self.merged, out_size)

    def forward(self, x: Tensor) -> Tensor:
        """Merge (batch, patches, hidden) into (batch, tokens, out)."""
        batch = x.shape[0]
        if self.norm_after_merge:
            x = self.norm(x.reshape(batch, -1, self.merged))
        else:
            x = self.norm(x).reshape(batch, -1, self.merged)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))  # type: ignore[no-any-return]


class VisionTower(nn.Module):
    """Pixels to image tokens."""

    cos: Tensor
    sin: Tensor

    def __init__(self, shape: VisionShape, out_size: int) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = PatchEmbedding(shape)
        self.pos_embed = nn.Embedding(shape.grid**2, shape.hidden_size)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.merger = Merger(shape, out_size, norm_after_merge=False)
        self.deepstack_merger_list = nn.ModuleList(
            Merger(shape, out_size, norm_after_merge=True) for _ in shape.deepstack_visual_indexes
        )
        # Where a patch lies must not drown what it shows: charts are mostly background.
        nn.init.normal_(self.pos_embed.weight, 0.0, _PLACE_STD)
        self.patch_embed.begin_with_cells()
        row, column = _rows_and_columns(shape)
        self._order = row * shape.grid + column
        half = shape.hidden_size // shape.num_heads // 2
        frequencies = 1.0 / _THETA ** (torch.arange(0, half, 2).float() / half)
        angles = torch.cat((row[:, None] * frequencies, column[:, None] * frequencies), 1).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, pixels: Tensor, *, deep: bool = True) -> tuple[Tensor, list[Tensor]]:
        """Return image tokens, and what the mergers of earlier layers add to the language model's first layers.

        Args:
            pixels: (batch, side, side, 3) uint8.
            deep: Whether the mergers of earlier layers are asked.

        Returns:
            (batch, tokens, out_size), and a list of the same.
        """
        x = self.patch_embed(self.patches(pixels)) + self.pos_embed(self._order)
        deeper = []
        for index, block in enumerate(self.blocks):
            x = block(x, self.cos, self.sin)
            if deep and index in self.shape.deepstack_visual_indexes:
                merger = self.deepstack_merger_list[self.shape.deepstack_visual_indexes.index(index)]
                deeper.append(merger(x))
        return self.merger(x), deeper

    def patches(self, pixels: Tensor) -> Tensor:
        """Return (batch, patches, 3 * patch * patch) from -1 to 1, in the order of merged blocks."""
        shape, merge = self.shape, self.shape.spatial_merge_size
        parts = (shape.merged_grid, merge, shape.patch_size)
        x = pixels.float().mul_(1 / 127.5).sub_(1).view(pixels.shape[0], *parts, *parts, 3)
        return x.permute(0, 1, 4, 2, 5, 7, 3, 6).reshape(pixels.shape[0], shape.grid**2, -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the halves of (..., tokens, head) by their angles."""
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def _rows_and_columns(shape: VisionShape) -> tuple[Tensor, Tensor]:
    """Return where each patch lies, in the order of merged blocks."""
    side = torch.arange(shape.grid)
    parts = (shape.merged_grid, shape.spatial_merge_size)
    places = [
        one.view(*parts, *parts).transpose(1, 2).reshape(-1)
        for one in torch.meshgrid(side, side, indexing="ij")
    ]
    return places[0], places[1]
