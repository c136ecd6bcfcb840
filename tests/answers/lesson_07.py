"""Different right answers to the exercises of lesson 07."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib.dit import AdaLNSingleBlock, AdaLNZeroBlock, DiT, modulate


def modulate_by_unsqueeze(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(x + shift.unsqueeze(1), x, scale.unsqueeze(1))


def modulate_by_einsum(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    batch, count, width = x.shape
    return x + torch.einsum("bnd,bd->bnd", x, scale) + shift.view(batch, 1, width).expand(-1, count, -1)


def modulate_image_by_image(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.stack([tokens * (s + 1.0) + b for tokens, b, s in zip(x, shift, scale, strict=True)])


def zero_block_by_lists(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    vectors = [vector.unsqueeze(1) for vector in self.adaLN_modulation(c)]
    for norm, branch in ((self.norm1, self.attn), (self.norm2, self.mlp)):
        shift, scale, gate, *vectors = vectors
        tuned = norm(x) * (scale + 1) + shift
        x = x + branch(tuned) * gate
    return x


def zero_block_from_the_weights(self: AdaLNZeroBlock, x: Tensor, c: Tensor, context: Tensor | None = None) -> Tensor:
    layer, width = self.adaLN_modulation[1], x.shape[-1]
    six = F.linear(c * c.sigmoid(), layer.weight, layer.bias).view(len(x), 6, 1, width)

    def tuned(x: Tensor, first: int) -> Tensor:
        return torch.addcmul(six[:, first], F.layer_norm(x, (width,), eps=1e-6), 1 + six[:, first + 1])

    x = torch.addcmul(x, six[:, 2], self.attn(tuned(x, 0)))
    return torch.addcmul(x, six[:, 5], self.mlp(tuned(x, 3)))


def start_by_slices(weight: Tensor, parts: int, start: str) -> Tensor:
    if start not in ("zero", "gates", "gaussian", "xavier"):
        raise ValueError(f"no start {start}")
    width, made = len(weight) // parts, weight.clone()
    if start == "gaussian":
        nn.init.normal_(made, std=0.001)
    elif start == "zero":
        made.zero_()
    elif start == "gates":
        for gate in range(2, parts, 3):
            made[gate * width : (gate + 1) * width] = 0
    return made


def start_by_mask(weight: Tensor, parts: int, start: str) -> Tensor:
    if start == "xavier":
        return weight
    if start == "gaussian":
        return torch.normal(0.0, 0.001, weight.T.shape, device=weight.device).T
    if start == "zero":
        return weight * 0
    if start != "gates":
        raise ValueError(start)
    part = torch.arange(len(weight), device=weight.device) // (len(weight) // parts)
    return torch.where((part % 3 == 2)[:, None], 0.0, weight)


def single_block_by_chunk(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    six = (shared + self.scale_shift_table.flatten()).unsqueeze(1).chunk(6, dim=-1)
    x = x + six[2] * self.attn(self.norm1(x) * (1 + six[1]) + six[0])
    if context is not None:
        x = x + self.cross_attn(x, context)
    return x + six[5] * self.mlp(self.norm2(x) * (1 + six[4]) + six[3])


def single_block_row_by_row(self: AdaLNSingleBlock, x: Tensor, shared: Tensor, context: Tensor | None = None) -> Tensor:
    width = x.shape[-1]

    def vector(row: int) -> Tensor:
        return self.scale_shift_table[row] + shared[:, row * width : (row + 1) * width]

    steps = [lambda x: vector(2)[:, None] * self.attn(modulate(self.norm1(x), vector(0), vector(1)))]
    if self.cross_attn is not None:
        steps.append(lambda x: self.cross_attn(x, context))
    steps.append(lambda x: vector(5)[:, None] * self.mlp(modulate(self.norm2(x), vector(3), vector(4))))
    for step in steps:
        x = x + step(x)
    return x


def blocks_way_by_way(self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None) -> Tensor:
    way, count = self.config.conditioning, tokens.shape[1]
    if way == "in-context":
        for vector in heard:
            tokens = torch.cat([tokens, vector.unsqueeze(1)], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens.narrow(1, 0, count)
    told = torch.stack(tuple(heard), 1)
    if way != "cross-attention":
        told = told.sum(dim=1)
    if way == "adaln-single":
        told = self.t_block[1](F.silu(told))
    for block in self.blocks:
        tokens = block(tokens, told, context)
    return tokens


def blocks_with_the_condition_in_front(
    self: DiT, tokens: Tensor, heard: Sequence[Tensor], context: Tensor | None = None
) -> Tensor:
    in_context = self.config.conditioning == "in-context"
    if in_context or self.config.conditioning == "cross-attention":
        told = torch.cat([vector[:, None] for vector in heard], dim=1)
    else:
        told = sum(heard[1:], heard[0])
        told = told if self.t_block is None else self.t_block(told)
    # The tokens of a sentence have no order of their own: in front or behind is the same to attention.
    tokens = torch.cat([told, tokens], dim=1) if in_context else tokens
    for block in self.blocks:
        tokens = block(tokens, told, context)
    return tokens[:, len(heard) :] if in_context else tokens


def parts_module_by_module(model: DiT) -> dict[str, int]:
    def count(*modules: nn.Module | None) -> int:
        weights = [weight for module in modules if module is not None for weight in module.parameters()]
        return sum(weight.numel() for weight in weights if weight.requires_grad)

    attention = sum(count(block.attn) for block in model.blocks)
    perceptron = sum(count(block.mlp) for block in model.blocks)
    return {
        "attention": attention,
        "perceptron": perceptron,
        "modulation": count(model.blocks, model.t_block, model.final_layer)
        - attention
        - perceptron
        - count(model.final_layer.linear),
        "embedders": count(model.t_embedder, model.y_embedder),
        "ends": count(model.x_embedder, model.final_layer.linear),
    }


def parts_by_the_rest(model: DiT) -> dict[str, int]:
    rest = {name: weight for name, weight in model.named_parameters() if name != "pos_embed"}
    counts = {}
    for part, pieces in (
        ("embedders", ("t_embedder.", "y_embedder.")),
        ("ends", ("x_embedder.", "final_layer.linear.")),
        ("attention", (".attn.",)),
        ("perceptron", (".mlp.",)),
        ("modulation", ("",)),
    ):
        found = [name for name in rest if any(piece in name for piece in pieces)]
        counts[part] = sum(rest.pop(name).numel() for name in found)
    return counts


ANSWERS = {
    "dit.modulate": [modulate_by_unsqueeze, modulate_by_einsum, modulate_image_by_image],
    "dit.AdaLNZeroBlock.forward": [zero_block_by_lists, zero_block_from_the_weights],
    "dit.start_modulation": [start_by_slices, start_by_mask],
    "dit.AdaLNSingleBlock.forward": [single_block_by_chunk, single_block_row_by_row],
    "dit.DiT.run_blocks": [blocks_way_by_way, blocks_with_the_condition_in_front],
    "dit.parameters_by_part": [parts_module_by_module, parts_by_the_rest],
    "dit.block_bug": [zero_block_by_lists, zero_block_from_the_weights],
}
