"""Different right answers to the exercises of lesson 10."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import pack, rearrange, unpack
from torch import Tensor, nn

from lesson_lib.attention import Rotate
from lesson_lib.mmdit import DoubleStreamBlock, Heads, MMDiT, QKNorm, SandwichBlock, SingleStreamBlock
from lesson_lib.readout import BLOCKS


def joint_by_four_scores(
    text: Heads, image: Heads, rotate: Rotate | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    words = text[0].shape[2]
    query, key = torch.cat([text[0], image[0]], 2), torch.cat([text[1], image[1]], 2)
    if rotate is not None:
        query, key = rotate(query), rotate(key)
    to_words = query @ key[:, :, :words].transpose(-1, -2)
    to_patches = query @ key[:, :, words:].transpose(-1, -2)
    if mask is not None:
        to_words = to_words.masked_fill(~mask[:, None, None, :], float("-inf"))
    shares = (torch.cat([to_words, to_patches], -1) / math.sqrt(query.shape[-1])).softmax(-1)
    heard = shares[..., :words] @ text[2] + shares[..., words:] @ image[2]
    return heard[:, :, :words].transpose(1, 2).flatten(2), heard[:, :, words:].transpose(1, 2).flatten(2)


def joint_in_two_calls(
    text: Heads, image: Heads, rotate: Rotate | None = None, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    (query, shapes), (key, _), (value, _) = (pack(both, "b h * d") for both in zip(text, image, strict=True))
    if rotate is not None:
        query, key = rotate(torch.stack([query, key]))
    there = None
    if mask is not None:
        patches = torch.ones(len(mask), image[0].shape[2], dtype=torch.bool, device=mask.device)
        there = torch.cat([mask, patches], dim=1)[:, None, None]
    asking = unpack(query, shapes, "b h * d")
    heard = [F.scaled_dot_product_attention(one, key, value, attn_mask=there) for one in asking]
    return rearrange(heard[0], "b h n d -> b n (h d)"), rearrange(heard[1], "b h n d -> b n (h d)")


def cut_by_lengths(x: Tensor, words: int) -> tuple[Tensor, Tensor]:
    text, image = x.split([words, x.shape[1] - words], dim=1)
    return text, image


def cut_by_narrow(x: Tensor, words: int) -> tuple[Tensor, Tensor]:
    return x.narrow(1, 0, words), x.narrow(1, words, x.shape[1] - words)


def cut_at_a_place(x: Tensor, words: int) -> tuple[Tensor, Tensor]:
    return x.tensor_split((words,), dim=1)


def normed_by_the_parts(self: QKNorm, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    return self.query(query), self.key(key)


def normed_by_hand(self: QKNorm, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float()
        return (wide / (wide.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight).to(x.dtype)

    return norm(query, self.query.weight, self.query.eps), norm(key, self.key.weight, self.key.eps)


def normed_by_lengths(self: QKNorm, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    results = []
    for x, part in ((query, self.query), (key, self.key)):
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        results.append((x.float() * math.sqrt(x.shape[-1]) / length * part.weight).to(x.dtype))
    return results[0], results[1]


def single_in_two_branches(
    self: SingleStreamBlock, x: Tensor, c: Tensor, rotate: Rotate | None = None, mask: Tensor | None = None
) -> Tensor:
    shift, scale, gate = (vector.unsqueeze(1) for vector in self.adaLN_modulation(c))
    tuned, width = self.pre_norm(x) * (1 + scale) + shift, x.shape[-1]
    qkv = F.linear(tuned, self.linear1.weight[: 3 * width], self.linear1.bias[: 3 * width])
    hidden = F.linear(tuned, self.linear1.weight[3 * width :], self.linear1.bias[3 * width :])
    query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in qkv.chunk(3, -1))
    if self.norm:
        query, key = self.norm(query, key)
    if rotate:
        query, key = rotate(query), rotate(key)
    there = mask if mask is None else mask[:, None, None]
    heard = F.scaled_dot_product_attention(query, key, value, there).transpose(1, 2).flatten(2)
    listened = heard @ self.linear2.weight[:, :width].T
    thought = nn.GELU("tanh")(hidden) @ self.linear2.weight[:, width:].T
    return x + gate * (listened + thought + self.linear2.bias)


def single_by_einsum(
    self: SingleStreamBlock, x: Tensor, c: Tensor, rotate: Rotate | None = None, mask: Tensor | None = None
) -> Tensor:
    shift, scale, gate = self.adaLN_modulation(c)
    inner = self.linear1(torch.addcmul(shift[:, None], self.pre_norm(x), 1 + scale[:, None]))
    parts = rearrange(inner[..., : self.sizes[0]], "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
    asking = parts[:2].unbind() if self.norm is None else self.norm(*parts[:2])
    query, key = asking if rotate is None else map(rotate, asking)
    scores = torch.einsum("bhnd,bhmd->bhnm", query, key) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = torch.where(mask[:, None, None], scores, -torch.inf)
    heard = torch.einsum("bhnm,bhmd->bnhd", scores.softmax(-1), parts[2]).flatten(2)
    joined, _ = pack([heard, F.gelu(inner[..., self.sizes[0] :], approximate="tanh")], "b n *")
    return x + torch.einsum("bd,bnd->bnd", gate, self.linear2(joined))


def blocks_in_one_loop(
    self: MMDiT, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None
) -> Tensor:  # fmt: skip
    words = text.shape[1]
    everyone = mask
    if mask is not None:
        everyone = torch.cat([mask, mask.new_ones(image.shape[:2])], dim=1)
    for block in [*self.double_blocks, *self.single_blocks]:
        if isinstance(block, DoubleStreamBlock):
            text, image = block(text, image, c, rotate, mask)
        else:
            sentence = block(torch.cat([text, image], dim=1), c, rotate, everyone)
            text, image = sentence[:, :words], sentence[:, words:]
    return image


def blocks_with_one_tensor(
    self: MMDiT, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None
) -> Tensor:  # fmt: skip
    words, sentence = text.size(1), torch.cat((text, image), 1)
    for block in self.double_blocks:
        sentence = torch.cat(block(sentence[:, :words], sentence[:, words:], c, rotate=rotate, mask=mask), 1)
    if mask is not None:
        there = torch.ones(sentence.shape[:2], dtype=torch.bool, device=mask.device)
        there[:, :words] = mask
        mask = there
    for block in self.single_blocks:
        sentence = block(sentence, c, rotate=rotate, mask=mask)
    return sentence[:, words:]


def sandwich_by_a_loop(
    self: SandwichBlock, x: Tensor, c: Tensor | None = None, rotate: Any = None, mask: Any = None
) -> Tensor:  # fmt: skip
    branches = (
        (self.norm1, lambda x: self.ask(x, rotate, mask), self.norm1_after),
        (self.norm2, self.mlp, self.norm2_after),
    )
    told = None if self.adaLN_modulation is None else self.adaLN_modulation(c).unflatten(-1, (2, 2, -1))
    for i, (before, branch, after) in enumerate(branches):
        read = before(x)
        if told is not None:
            read = read + read * told[:, None, i, 0]
        said = after(branch(read))
        x = x + (said if told is None else said * torch.tanh(told[:, None, i, 1]))
    return x


def sandwich_with_neutral_vectors(
    self: SandwichBlock, x: Tensor, c: Tensor | None = None, rotate: Any = None, mask: Any = None
) -> Tensor:  # fmt: skip
    width = x.shape[-1]
    if self.adaLN_modulation is not None:
        four = self.adaLN_modulation(c)
        s1, g1, s2, g2 = (four[:, i * width : (i + 1) * width].unsqueeze(1) for i in range(4))
        g1, g2 = g1.tanh(), g2.tanh()
    else:
        s1, g1, s2, g2 = 0, 1, 0, 1
    middle = g1 * self.norm1_after(self.ask((1 + s1) * self.norm1(x), rotate=rotate, mask=mask)) + x
    return g2 * self.norm2_after(self.mlp((1 + s2) * self.norm2(middle))) + middle


def places_by_filling(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
    ways = {"origin": (0, 0, 0), "continued": (1, 0, 0), "diagonal": (1, 1, 1)}
    if text not in ways:
        raise ValueError(f"{text!r} is none of {list(ways)}")
    first = max(height, width) // 2 if text == "diagonal" else 0
    spoken = torch.outer(first + torch.arange(words, dtype=torch.float32), torch.tensor(ways[text]).float())
    number = torch.arange(height * width)
    seen = torch.stack([torch.zeros_like(number), number // width, number % width], dim=1).float()
    if text == "continued":
        seen[:, 0] = words
    if text == "diagonal":
        seen = seen - torch.tensor([0, -(-height // 2), -(-width // 2)])
    return torch.vstack([spoken, seen])


def places_in_lists(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
    rows, columns = range(height), range(width)
    if text == "origin":
        told = [(0, 0, 0) for _ in range(words)] + [(0, y, x) for y in rows for x in columns]
    elif text == "continued":
        told = [(n, 0, 0) for n in range(words)] + [(words, y, x) for y in rows for x in columns]
    elif text == "diagonal":
        up, left = height - height // 2, width - width // 2
        start = max(height - up, width - left)
        told = [(start + n,) * 3 for n in range(words)] + [(0, y - up, x - left) for y in rows for x in columns]
    else:
        raise ValueError(text)
    return torch.tensor(told, dtype=torch.float)


def share_module_by_module(model: nn.Module) -> float:
    modulations = {id(m): m for name, m in model.named_modules() if name.split(".")[-1] == "adaLN_modulation"}
    told = sum(p.numel() for m in modulations.values() for p in m.parameters())
    return told / sum(p.numel() for p in model.parameters())


def share_by_two_sums(model: nn.Module) -> float:
    told, others = 0, 0
    for name, weight in model.named_parameters():
        if "adaLN_modulation" in name.split("."):
            told += math.prod(weight.shape)
        else:
            others += math.prod(weight.shape)
    return told / (told + others)


def quarters_by_split(joint: Tensor, words: int, renormalise: bool = False) -> dict[str, Tensor]:
    rows, columns = joint.shape[-2:]
    if rows != columns or words <= 0 or words >= rows:
        raise ValueError(f"{rows} × {columns}, {words} words")
    lengths, found = [words, rows - words], {}
    for who, part in zip(("text", "image"), joint.split(lengths, dim=-2), strict=True):
        for whom, block in zip(("text", "image"), part.split(lengths, dim=-1), strict=True):
            found[f"{who} → {whom}"] = F.normalize(block, p=1, dim=-1) if renormalise else block
    return found


def quarters_by_slices(joint: Tensor, words: int, renormalise: bool = False) -> dict[str, Tensor]:
    if joint.size(-1) != joint.size(-2):
        raise ValueError("square maps only")
    if words not in range(1, joint.size(-1)):
        raise ValueError("both kinds of tokens are needed")
    text, image = slice(0, words), slice(words, None)
    places = ((text, text), (text, image), (image, text), (image, image))
    found = {}
    for name, (who, whom) in zip(BLOCKS, places, strict=True):
        block = joint[..., who, whom]
        if renormalise:
            total = block.sum(-1, keepdim=True)
            block = torch.where(total > 0, block / total, torch.zeros_like(block))
        found[name] = block
    return found


def double_stream_by_stream(
    self: DoubleStreamBlock, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None
) -> tuple[Tensor, Tensor]:
    streams = [(self.text, text), (self.image, image)]
    vectors = [stream.adaLN_modulation(c) for stream, _ in streams]
    asked = [stream.ask(x, own) for (stream, x), own in zip(streams, vectors, strict=True)]
    heard = joint_in_two_calls(asked[0], asked[1], rotate, mask)
    after = [stream.think(x, h, own) for (stream, x), h, own in zip(streams, heard, vectors, strict=True)]
    return after[0], after[1]


def double_stream_written_out(
    self: DoubleStreamBlock, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None
) -> tuple[Tensor, Tensor]:
    def tuned(norm: nn.Module, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return norm(x) * (1 + scale[:, None]) + shift[:, None]

    t, i = self.text.adaLN_modulation(c), self.image.adaLN_modulation(c)
    asking = self.text.attn.heads(tuned(self.text.norm1, text, t[0], t[1]))
    seeing = self.image.attn.heads(tuned(self.image.norm1, image, i[0], i[1]))
    text_heard, image_heard = joint_by_four_scores(asking, seeing, rotate, mask)
    after = image + i[2][:, None] * self.image.attn.proj(image_heard)
    if self.image.attn2 is not None:
        own = self.image.attn2.heads(tuned(self.image.norm1, image, i[6], i[7]))
        among = rearrange(F.scaled_dot_product_attention(*own), "b h n d -> b n (h d)")
        after = after + i[8][:, None] * self.image.attn2.proj(among)
    after = after + i[5][:, None] * self.image.mlp(tuned(self.image.norm2, after, i[3], i[4]))
    if len(t) > 2:
        text = text + t[2][:, None] * self.text.attn.proj(text_heard)
        text = text + t[5][:, None] * self.text.mlp(tuned(self.text.norm2, text, t[3], t[4]))
    return text, after


ANSWERS = {
    "mmdit.joint_attention": [joint_by_four_scores, joint_in_two_calls],
    "mmdit.split_sentence": [cut_by_lengths, cut_by_narrow, cut_at_a_place],
    "mmdit.QKNorm.forward": [normed_by_the_parts, normed_by_hand, normed_by_lengths],
    "mmdit.SingleStreamBlock.forward": [single_in_two_branches, single_by_einsum],
    "mmdit.MMDiT.run_blocks": [blocks_in_one_loop, blocks_with_one_tensor],
    "mmdit.SandwichBlock.forward": [sandwich_by_a_loop, sandwich_with_neutral_vectors],
    "mmdit.joint_places": [places_by_filling, places_in_lists],
    "mmdit.modulation_share": [share_module_by_module, share_by_two_sums],
    "readout.four_blocks": [quarters_by_split, quarters_by_slices],
    "mmdit.block_bug": [double_stream_by_stream, double_stream_written_out],
}
