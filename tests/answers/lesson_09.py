"""Different right answers to the exercises of lesson 09."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from lesson_lib.attention import CrossAttention, Rotate
from lesson_lib.text import Captioned, RMSNorm, SwiGLU, WordBlock


def pooled_by_gather(tokens: Tensor, ids: Tensor, end: int = 1) -> Tensor:
    first = torch.where(ids == end, 1, 0).argmax(1)
    return tokens.gather(1, first.view(-1, 1, 1).expand(-1, 1, tokens.shape[-1])).squeeze(1)


def pooled_row_by_row(tokens: Tensor, ids: Tensor, end: int = 1) -> Tensor:
    return torch.stack([vectors[numbers.tolist().index(end)] for vectors, numbers in zip(tokens, ids, strict=True)])


def pooled_by_counting(tokens: Tensor, ids: Tensor, end: int = 1) -> Tensor:
    ends = ids == end
    first = ends & (ends.cumsum(dim=1) == 1)
    return einsum(tokens, first.to(tokens), "b l d, b l -> b d")


def masked_by_adding(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", query, key) * query.shape[-1] ** -0.5
    return F.softmax(scores + mask.to(scores).log()[:, None, None, :], dim=-1)


def masked_row_by_row(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    maps = []
    for asking, asked, there in zip(query, key, mask, strict=True):
        scores = asking @ asked[:, there].transpose(1, 2) / math.sqrt(query.shape[-1])
        columns = there.nonzero()[:, 0].expand(scores.shape)
        maps.append(scores.new_zeros(*scores.shape[:-1], len(there)).scatter(-1, columns, scores.softmax(-1)))
    return torch.stack(maps)


def masked_by_where(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    scores = query @ key.mT / query.shape[-1] ** 0.5
    lowest = torch.finfo(scores.dtype).min
    return torch.softmax(torch.where(mask.unsqueeze(1).unsqueeze(1), scores, lowest), -1)


def silent_by_filling(asking: CrossAttention) -> CrossAttention:
    with torch.no_grad():
        asking.proj.weight.fill_(0)
        asking.proj.bias.fill_(0)
    return asking


def silent_by_loading(asking: CrossAttention) -> CrossAttention:
    asking.proj.load_state_dict({name: torch.zeros_like(old) for name, old in asking.proj.state_dict().items()})
    return asking


def silent_parameter_by_parameter(asking: CrossAttention) -> CrossAttention:
    for parameter in asking.proj.parameters():
        nn.init.constant_(parameter, 0.0)
    return asking


def norm_by_rsqrt(self: RMSNorm, x: Tensor) -> Tensor:
    long = x.to(torch.float32)
    return (long * torch.rsqrt(long.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight).type_as(x)


def norm_by_length(self: RMSNorm, x: Tensor) -> Tensor:
    channels = x.shape[-1]
    squares = einsum(x.float(), x.float(), "... d, ... d -> ...").unsqueeze(-1)
    return (self.weight * x.float() * math.sqrt(channels) / (squares + channels * self.eps).sqrt()).to(x.dtype)


def swiglu_by_one_matrix(self: SwiGLU, x: Tensor) -> Tensor:
    gate, let_through = F.linear(x, torch.cat([self.w1.weight, self.w3.weight])).chunk(2, dim=-1)
    return F.linear(gate * gate.sigmoid() * let_through, self.w2.weight)


def swiglu_step_by_step(self: SwiGLU, x: Tensor) -> Tensor:
    opened = nn.SiLU()(self.w1(x))
    return self.w2(torch.mul(self.w3(x), opened))


def captioned_by_selecting(self: Captioned, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    ids = self.ids.index_select(0, labels)
    pooled, words = self.model.hear(ids)
    return self.model.network(x, t, pooled, words)


def captioned_row_by_row(self: Captioned, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return self.model(x, t, torch.stack([self.ids[int(label)] for label in labels]))


def captioned_by_one_hot(self: Captioned, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    return self.model(x, t, F.one_hot(labels, self.num_classes + 1) @ self.ids)


def map_by_rearrange(attention: Tensor, words: int, word: int, rows: int) -> Tensor:
    patches = attention.shape[-2] - (attention.shape[-1] > words) * words
    if word < 0 or word >= words or patches % rows != 0:
        raise ValueError(f"word {word} of {words}; {patches} patches in {rows} rows")
    return rearrange(attention[..., -patches:, word], "b h (rows columns) -> b h rows columns", rows=rows)


def map_by_view(attention: Tensor, words: int, word: int, rows: int) -> Tensor:
    if word not in range(words):
        raise ValueError(f"there is no word {word}")
    column = attention.select(-1, word)
    if attention.shape[-1] != words:
        column = column[:, :, words:]
    columns, left = divmod(column.shape[-1], rows)
    if left:
        raise ValueError(f"{left} patches are left over")
    return column.reshape(*column.shape[:2], rows, columns)


def block_by_an_explicit_map(self: WordBlock, x: Tensor, mask: Tensor, rotate: Rotate) -> Tensor:
    parts = self.qkv(self.norm1(x)).chunk(3, dim=-1)
    query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
    scores = rotate(query) @ rotate(key).mT / math.sqrt(query.shape[-1])
    heard = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(-1) @ value
    x = x + self.proj(heard.transpose(1, 2).flatten(2))
    return x + self.mlp(self.norm2(x))


def block_with_a_bias(self: WordBlock, x: Tensor, mask: Tensor, rotate: Rotate) -> Tensor:
    query, key, value = rearrange(self.qkv(self.norm1(x)), "b n (c h d) -> c b h n d", c=3, h=self.num_heads)
    bias = torch.zeros_like(x[:, None, None, :, 0]).masked_fill(mask.logical_not()[:, None, None], -math.inf)
    heard = F.scaled_dot_product_attention(rotate(query), rotate(key), value, attn_mask=bias)
    after = self.proj(rearrange(heard, "b h n d -> b n (h d)")).add(x)
    return self.mlp(self.norm2(after)).add(after)


ANSWERS = {
    "text.pooled_text": [pooled_by_gather, pooled_row_by_row, pooled_by_counting],
    "attention.masked_map": [masked_by_adding, masked_row_by_row, masked_by_where],
    "attention.silence": [silent_by_filling, silent_by_loading, silent_parameter_by_parameter],
    "text.RMSNorm.forward": [norm_by_rsqrt, norm_by_length],
    "text.SwiGLU.forward": [swiglu_by_one_matrix, swiglu_step_by_step],
    "text.Captioned.forward": [captioned_by_selecting, captioned_row_by_row, captioned_by_one_hot],
    "readout.word_map": [map_by_rearrange, map_by_view],
    "text.block_bug": [block_by_an_explicit_map, block_with_a_bias],
}
