"""The model: one rank's shard of the weights, and the state of a decode."""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import torch
import torch.distributed as dist
import torch.nn.functional as F

from . import experts
from .context import Context


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    experts: int = 0
    top_k: int = 0


MODELS = {
    "qwen3-30b-a3b": Shape(2048, 48, 32, 4, 128, 768, 151936, 128, 8),
    "qwen3-32b": Shape(5120, 64, 64, 8, 128, 25600, 151936),
    "llama-70b": Shape(8192, 80, 64, 8, 128, 28672, 128256),
    "tiny": Shape(128, 3, 4, 4, 32, 256, 512),
    "tiny-moe": Shape(128, 3, 4, 4, 32, 64, 512, 8, 2),
}
EPS = 1e-6


class Model:
    """`tokens` [batch], `ring` of keys and values, `position` [1] and `logits` [batch, vocabulary /
    ranks] (fp32) keep their addresses, so that a step can be captured. `distinct_layers` layers
    have weights and a ring of their own, and serve the others in turns; 0: all. Raises SystemExit
    if the shape cannot be split over the ranks."""

    def __init__(
        self, context: Context, shape: Shape, batch: int, positions: int, distinct_layers: int
    ) -> None:
        self.context, self.shape, self.batch = context, shape, batch
        ranks = context.size
        if any(
            extent % ranks
            for extent in (shape.heads, shape.kv_heads, shape.vocabulary, shape.intermediate)
        ):
            raise SystemExit(f"{shape} cannot be split over {ranks} ranks")
        self.heads, self.kv_heads = shape.heads // ranks, shape.kv_heads // ranks
        self.rows = shape.vocabulary // ranks
        distinct = min(distinct_layers or shape.layers, shape.layers)
        self._shard = torch.Generator(context.device).manual_seed(1 + context.rank)
        self._replicated = torch.Generator(context.device).manual_seed(0)
        self.layers = [self._layer() for _ in range(distinct)]
        self.embedding = self._weight(self.rows, shape.hidden, fan_in=1)
        self.head = self._weight(self.rows, shape.hidden, fan_in=shape.hidden)
        self._ring_start = self._weight(
            distinct, 2, batch, self.kv_heads, positions, shape.head_dim, fan_in=1
        )
        self.ring = self._ring_start.clone()
        start = torch.randint(
            0, shape.vocabulary, (batch,), generator=torch.Generator().manual_seed(7)
        )
        self._start = start.to(context.device)
        self.tokens = self._start.clone()
        self.position = torch.zeros(1, dtype=torch.long, device=context.device)
        self.logits = torch.zeros(batch, self.rows, device=context.device, dtype=torch.float32)
        if shape.experts:
            order = torch.randperm(shape.experts, generator=torch.Generator().manual_seed(3))
            self._offsets = order[: shape.top_k].to(context.device)
        self._wide_head = self._wide_head_works()
        self.kernels, self.kernels_why_not = (
            self._kernels_work() if shape.experts else (False, None)
        )

    def _weight(self, *extent: int, fan_in: int, replicated: bool = False) -> torch.Tensor:
        made = torch.empty(extent, device=self.context.device, dtype=self.context.dtype)
        return made.normal_(
            0, fan_in**-0.5, generator=self._replicated if replicated else self._shard
        )

    def _layer(self) -> Dict[str, torch.Tensor]:
        shape, hidden, wide = (
            self.shape,
            self.shape.hidden,
            self.shape.intermediate // self.context.size,
        )
        layer = {
            "qkv": self._weight(
                (self.heads + 2 * self.kv_heads) * shape.head_dim, hidden, fan_in=hidden
            ),
            "out": self._weight(
                hidden, self.heads * shape.head_dim, fan_in=shape.heads * shape.head_dim
            ),
        }
        if shape.experts:
            layer["router"] = self._weight(shape.experts, hidden, fan_in=hidden, replicated=True)
            layer["up"] = self._weight(shape.experts, hidden, 2 * wide, fan_in=hidden)
            layer["down"] = self._weight(shape.experts, wide, hidden, fan_in=shape.intermediate)
        else:
            layer["up"] = self._weight(2 * wide, hidden, fan_in=hidden)
            layer["down"] = self._weight(hidden, wide, fan_in=shape.intermediate)
        for name in ("norm1", "norm2"):
            layer[name] = 1 + self._weight(hidden, fan_in=100, replicated=True)
        return layer

    def reset(self) -> None:
        """Back to the first token."""
        self.ring.copy_(self._ring_start)
        self.tokens.copy_(self._start)
        self.position.zero_()

    def step(self, row: Any) -> None:
        """Decodes one token for every sequence, with the allreduces of `row` (rows.Row): tokens,
        ring, position and logits change in place. Nothing in it waits for the device, so it can be
        captured."""
        shape = self.shape
        local = self.tokens - self.context.rank * self.rows
        mine = (local >= 0) & (local < self.rows)
        residual = row.plain(self.embedding[local.clamp(0, self.rows - 1)] * mine[:, None])
        x = F.rms_norm(residual, (shape.hidden,), self.layers[0]["norm1"], EPS)
        for index in range(shape.layers):
            layer = self.layers[index % len(self.layers)]
            after = self.layers[(index + 1) % len(self.layers)]
            x = row.fused(
                self._attention(x, layer, self.ring[index % len(self.layers)]),
                residual,
                layer["norm2"],
            )
            x = self._experts(x, layer, index) if shape.experts else self._dense(x, layer)
            x = row.fused(x, residual, after["norm1"])
        self.logits.copy_(self._logits(x))
        best, which = self.logits.max(-1)
        mine = torch.stack([best, (which + self.context.rank * self.rows).float()], -1)
        everyone = mine.new_empty(self.context.size, self.batch, 2)
        dist.all_gather_into_tensor(everyone.view(-1), mine.view(-1), group=self.context.group)
        winner = everyone[:, :, 0].argmax(0)
        self.tokens.copy_(everyone[:, :, 1].gather(0, winner[None, :]).squeeze(0))
        self.position.add_(1)

    def _logits(self, x: torch.Tensor) -> torch.Tensor:
        return (
            torch.mm(x, self.head.t(), out_dtype=torch.float32)
            if self._wide_head
            else F.linear(x, self.head)
        )

    def _wide_head_works(self) -> bool:
        """Can logits be had in fp32? Rounded to bf16, the best two of a hundred thousand are often
        equal."""
        try:
            torch.mm(self.embedding[:1], self.head.t(), out_dtype=torch.float32)
            works = True
        except (RuntimeError, TypeError, NotImplementedError):
            works = False
        return self.context.slowest(0.0 if works else 1.0) == 0.0

    def _attention(
        self, x: torch.Tensor, layer: Dict[str, torch.Tensor], ring: torch.Tensor
    ) -> torch.Tensor:
        batch, dim = self.batch, self.shape.head_dim
        q, k, v = (
            F.linear(x, layer["qkv"])
            .view(batch, -1, dim)
            .split([self.heads, self.kv_heads, self.kv_heads], 1)
        )
        place = self.position % ring.shape[3]
        ring[0].index_copy_(2, place, k.unsqueeze(2))
        ring[1].index_copy_(2, place, v.unsqueeze(2))
        out = F.scaled_dot_product_attention(
            q.unsqueeze(2), ring[0], ring[1], enable_gqa=self.heads != self.kv_heads
        )
        return F.linear(out.reshape(batch, -1), layer["out"])

    @staticmethod
    def _gated(x: torch.Tensor) -> torch.Tensor:
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    def _dense(self, x: torch.Tensor, layer: Dict[str, torch.Tensor]) -> torch.Tensor:
        return F.linear(self._gated(F.linear(x, layer["up"])), layer["down"])

    def _experts(self, x: torch.Tensor, layer: Dict[str, torch.Tensor], index: int) -> torch.Tensor:
        chosen = experts.choose(self.tokens, index, self._offsets, self.shape.experts)
        scores = F.linear(x, layer["router"]).float().gather(1, chosen).softmax(-1)
        multiply = experts.by_kernels if self.kernels else experts.copied
        return multiply(x, layer["up"], layer["down"], chosen, scores.to(x.dtype))

    def _kernels_work(self) -> Tuple[bool, Optional[str]]:
        layer = self.layers[0]
        x = self.embedding[: self.batch]
        works, reason = experts.kernels_work(x, layer["up"], layer["down"], self.shape.top_k)
        reason = self.context.failure(None if works else reason)
        return reason is None, reason
