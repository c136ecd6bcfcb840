"""Different right answers to the exercises of lesson 05."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce
from torch import Tensor

from lesson_lib.attention import SelfAttention
from lesson_lib.vit import EncoderBlock, PatchEmbed, ViT, check_patches, patchify


def patchify_by_reshape(images: Tensor, patch_size: int) -> Tensor:
    batch, channels, height, width = images.shape
    check_patches("patchify", height, width, patch_size)
    rows, columns = height // patch_size, width // patch_size
    cut = images.reshape(batch, channels, rows, patch_size, columns, patch_size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * columns, channels * patch_size**2)


def patchify_one_by_one(images: Tensor, patch_size: int) -> Tensor:
    *_, height, width = images.shape
    if height % patch_size or width % patch_size:
        raise ValueError("no whole number of patches")
    corners = [(y, x) for y in range(0, height, patch_size) for x in range(0, width, patch_size)]
    return torch.stack([images[..., y : y + patch_size, x : x + patch_size].flatten(1) for y, x in corners], dim=1)


def patchify_by_einops_alone(images: Tensor, patch_size: int) -> Tensor:
    p = patch_size  # einops itself refuses what does not divide
    return rearrange(images, "b c (h p1) (w p2) -> b (h w) (c p1 p2)", p1=p, p2=p)


def patchify_by_unfold(images: Tensor, patch_size: int) -> Tensor:
    words = F.unfold(images, patch_size, stride=patch_size).transpose(1, 2)
    assert words.numel() == images.numel(), "some pixels are in no patch"
    return words


def embed_by_linear(self: PatchEmbed, images: Tensor) -> Tensor:
    return F.linear(patchify(images, self.patch_size), self.proj.weight.flatten(1), self.proj.bias)


def embed_by_rearrange(self: PatchEmbed, images: Tensor) -> Tensor:
    check_patches("PatchEmbed", *images.shape[2:], self.patch_size)
    return rearrange(self.proj(images), "b d height width -> b (height width) d")


def embed_by_einsum(self: PatchEmbed, images: Tensor) -> Tensor:
    p = self.patch_size
    cut = rearrange(images, "b c (h p1) (w p2) -> b h w c p1 p2", p1=p, p2=p)
    tokens = einsum(cut, self.proj.weight, "b h w c p1 p2, d c p1 p2 -> b h w d")
    assert self.proj.bias is not None
    return tokens.flatten(1, 2) + self.proj.bias


def map_by_einsum(query: Tensor, key: Tensor) -> Tensor:
    scores = torch.einsum("bhnd,bhmd->bhnm", query, key) * query.size(-1) ** -0.5
    weights = torch.exp(scores - scores.amax(-1, keepdim=True))
    return weights / weights.sum(-1, keepdim=True)


def map_scaled_first(query: Tensor, key: Tensor) -> Tensor:
    share = query.shape[3] ** 0.25
    return F.softmax(torch.matmul(query / share, (key / share).transpose(-2, -1)), dim=3)


def map_by_logarithm(query: Tensor, key: Tensor) -> Tensor:
    scores = (query[:, :, :, None] * key[:, :, None]).sum(-1) / math.sqrt(key.shape[-1])
    return (scores - scores.logsumexp(dim=-1, keepdim=True)).exp()


def attention_by_view(self: SelfAttention, x: Tensor) -> Tensor:
    batch, tokens, width = x.shape
    qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, width // self.num_heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.unbind(0)
    weights = (query @ key.transpose(-2, -1) * (width // self.num_heads) ** -0.5).softmax(dim=-1)
    return self.proj((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


def attention_by_its_map(self: SelfAttention, x: Tensor) -> Tensor:
    value = self.qkv(x)[..., -x.shape[-1] :].unflatten(-1, (self.num_heads, -1))
    return self.proj(torch.einsum("bhnm,bmhd->bnhd", self.map(x), value).flatten(2))


def attention_head_by_head(self: SelfAttention, x: Tensor) -> Tensor:
    query, key, value = self.qkv(x).chunk(3, dim=-1)
    size, answers = x.shape[-1] // self.num_heads, []
    for start in range(0, x.shape[-1], size):
        own = slice(start, start + size)
        scores = torch.bmm(query[..., own], key[..., own].mT) / size**0.5
        answers.append(scores.softmax(-1) @ value[..., own])
    return F.linear(torch.cat(answers, dim=-1), self.proj.weight, self.proj.bias)


def block_in_one_line(self: EncoderBlock, x: Tensor) -> Tensor:
    return (asked := self.attn(self.norm1(x)) + x) + self.mlp(self.norm2(asked))


def block_step_by_step(self: EncoderBlock, x: Tensor) -> Tensor:
    stream = x.clone()
    for norm, branch in ((self.norm1, self.attn), (self.norm2, self.mlp)):
        centred = stream - stream.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + norm.eps).sqrt()
        stream = stream + branch(centred / spread * norm.weight + norm.bias)
    return stream


def sentence_by_repeat(self: ViT, images: Tensor) -> Tensor:
    tokens = [self.patch_embed(images)]
    if self.cls_token is not None:
        tokens.insert(0, self.cls_token.repeat(images.shape[0], 1, 1))
    sentence = torch.cat(tokens, dim=1)
    if self.pos_embed is not None:
        sentence = sentence + self.pos_embed
    return sentence


def sentence_row_by_row(self: ViT, images: Tensor) -> Tensor:
    patches, extra = self.patch_embed(images), int(self.config.pool == "cls")
    sentence = patches.new_zeros(len(patches), patches.shape[1] + extra, patches.shape[2])
    sentence[:, extra:] = patches
    if extra:
        sentence[:, 0] = self.cls_token[0, 0]  # type: ignore[index]
    for place in range(sentence.shape[1] if self.config.positions != "none" else 0):
        sentence[:, place] += self.pos_embed[0, place]  # type: ignore[index]
    return sentence


def sentence_placed_first(self: ViT, images: Tensor) -> Tensor:
    x, token, table = self.patch_embed(images), self.cls_token, self.pos_embed
    if table is not None:  # the class token's row apart, then the patches' rows
        x = x + table[:, table.shape[1] - x.shape[1] :]
        token = None if token is None else token + table[:, :1]
    return x if token is None else torch.cat((token.expand(x.size(0), 1, -1), x), dim=-2)


def pool_by_cases(self: ViT, x: Tensor) -> Tensor:
    if self.cls_token is not None:
        first, *_ = x.unbind(dim=1)
        return first
    return reduce(x, "b n d -> b d", "mean")


def pool_by_weights(self: ViT, x: Tensor) -> Tensor:
    weights = torch.full_like(x[0, :, 0], 1 / x.shape[1])
    if self.config.pool != "mean":
        weights = torch.zeros_like(weights)
        weights[0] = 1
    return weights @ x


ANSWERS = {
    "vit.patchify": [patchify_by_reshape, patchify_one_by_one, patchify_by_einops_alone, patchify_by_unfold],
    "vit.PatchEmbed.forward": [embed_by_linear, embed_by_rearrange, embed_by_einsum],
    "attention.attention_map": [map_by_einsum, map_scaled_first, map_by_logarithm],
    "attention.SelfAttention.forward": [attention_by_view, attention_by_its_map, attention_head_by_head],
    "vit.EncoderBlock.forward": [block_in_one_line, block_step_by_step],
    "vit.ViT.embed": [sentence_by_repeat, sentence_row_by_row, sentence_placed_first],
    "vit.pool_bug": [pool_by_cases, pool_by_weights],
}
