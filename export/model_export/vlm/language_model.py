"""The words' side of a Qwen3-VL in plain torch, made for training many charts with one prompt.

The text before the picture is the same for all of them, so it is computed once per batch.
Parameters carry the names of Hugging Face's implementation. Source: the published architecture of Qwen3-VL
(grouped-query attention with normalised queries and keys, interleaved 3-D rotary positions, gated feed-forward).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the name that every torch program uses)
from torch import Tensor, nn

from model_export.vlm.shape import TextShape
from model_export.vlm.vision_tower import rotate


class RmsNorm(nn.Module):
    """Divide by the root mean square."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Norm the last dimension."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """Keys and values of what came before, (1 or batch, kv heads, tokens, head)."""

    keys: Tensor
    values: Tensor


class SelfAttention(nn.Module):
    """Every token looks at those before it."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = (
            shape.num_attention_heads,
            shape.num_key_value_heads,
            shape.head_dim,
        )
        self.q_proj = nn.Linear(shape.hidden_size, self.heads * self.size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, self.kv_heads * self.size, bias=False)
        self.o_proj = nn.Linear(self.heads * self.size, shape.hidden_size, bias=False)
        self.q_norm = RmsNorm(self.size, shape.rms_norm_eps)
        self.k_norm = RmsNorm(self.size, shape.rms_norm_eps)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, before: Memory | None
    ) -> tuple[Tensor, Memory]:
        """Mix (batch, tokens, hidden) with what came before; return it and what later tokens may look at."""
        batch, count, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(batch, count, self.heads, self.size)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(batch, count, self.kv_heads, self.size)).transpose(1, 2)
        v = self.v_proj(x).view(batch, count, self.kv_heads, self.size).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if before is not None:
            k = torch.cat((before.keys.expand(batch, -1, -1, -1), k), 2)
            v = torch.cat((before.values.expand(batch, -1, -1, -1), v), 2)
        memory = Memory(k, v)
        times = self.heads // self.kv_heads
        k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, count, -1)), memory


class GatedFeedForward(nn.Module):
    """Two layers, one of them gated."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Change (batch, tokens, hidden), each token alone."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """Attention and a feed-forward part, each around a residual."""

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = SelfAttention(shape)
        self.mlp = GatedFeedForward(shape)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor, before: Memory | None
    ) -> tuple[Tensor, Memory]:
        """Change (batch, tokens, hidden); return it and what later tokens may look at."""
        mixed, memory = self.self_attn(self.input_layernorm(x), cos, sin, mask, before)
        x = x + mixed
        return x + self.mlp(self.post_attention_layernorm(x)), memory


class LanguageModel(nn.Module):
    """Tokens to what comes next."""

    frequencies: Tensor

    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        half = torch.arange(0, shape.head_dim, 2).float() / shape.head_dim
        self.register_buffer("frequencies", 1.0 / shape.rope_theta**half, persistent=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, 0.0, 0.06 if "embed" in name else 0.04)

    def forward(
        self,
        x: Tensor,
        places: Tensor,
        deep: Sequence[Tensor] = (),
        deep_count: int = 0,
        before: Sequence[Memory] | None = None,
    ) -> tuple[Tensor, list[Memory]]:
        """Run the layers.

        Args:
            x: (batch, tokens, hidden) embedded tokens.
            places: (3, tokens) positions in time, height and width.
            deep: What is added to the first `deep_count` tokens after each of the first layers.
            deep_count: Number of image tokens that `x` begins with.
            before: What the layers made of the tokens before.

        Returns:
            (batch, tokens, hidden) and what the layers made of all tokens up to here.
        """
        cos, sin = self._angles(places)
        count = x.shape[1]
        known = before[0].keys.shape[2] if before else 0
        mask = torch.ones(count, known + count, dtype=torch.bool).tril(known)
        memories = []
        for index, layer in enumerate(self.layers):
            x, memory = layer(x, cos, sin, mask, before[index] if before else None)
            memories.append(memory)
            if index < len(deep):
                x = torch.cat((x[:, :deep_count] + deep[index], x[:, deep_count:]), 1)
        return self.norm(x), memories

    def words(self, hidden: Tensor) -> Tensor:
        """Return logits over the vocabulary, (…, vocabulary)."""
        return F.linear(hidden, self.embed_tokens.weight)

    def _angles(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, (tokens, head): every third frequency turns with height, every third with width."""
        angles = places[:, :, None].float() * self.frequencies
        mixed = angles[0].clone()
        for axis in (1, 2):
            which = slice(axis, self.shape.mrope_section[axis] * 3, 3)
            mixed[:, which] = angles[axis][:, which]
        mixed = torch.cat((mixed, mixed), -1)
        return mixed.cos(), mixed.sin()
