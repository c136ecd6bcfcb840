"""Different right answers to the exercises of lesson 03."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib.unet import AdaGN, AttentionBlock, ResBlock, Stage, UNet


def adagn_by_chunk(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    scale, shift = self.project(emb * emb.sigmoid())[:, :, None, None].chunk(2, dim=1)
    h = self.norm(h)
    return h + h * scale + shift


def adagn_by_einsum(self: AdaGN, h: Tensor, emb: Tensor) -> Tensor:
    channels = h.shape[1]
    knobs = F.linear(F.silu(emb), self.project.weight, self.project.bias)
    stretched = torch.einsum("bchw,bc->bchw", self.norm(h), 1 + knobs[:, :channels])
    return stretched + knobs[:, channels:].view(len(h), channels, 1, 1)


def res_block_step_by_step(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    branch = self.norm1(h)
    branch = branch * torch.sigmoid(branch)
    branch = self.conv1(self.resample(branch))
    arguments = (branch,) if emb is None else (branch, emb)
    branch = F.silu(self.norm2(*arguments))
    branch = self.conv2(self.dropout(branch))
    shortcut = self.shortcut(h)  # a 1×1 convolution and a resampling may change places
    return branch + self.resample(shortcut)


def res_block_by_layers(self: ResBlock, h: Tensor, emb: Tensor | None = None) -> Tensor:
    first = nn.Sequential(self.norm1, nn.SiLU(), self.resample, self.conv1)
    last = nn.Sequential(nn.SiLU(), self.dropout, self.conv2)
    middle = self.norm2(first(h), emb) if emb is not None else self.norm2(first(h))
    return torch.add(last(middle), nn.Sequential(self.resample, self.shortcut)(h))


def attention_by_flatten(self: AttentionBlock, h: Tensor) -> Tensor:
    answer = self.attention(self.norm(h).flatten(2).transpose(1, 2))
    return h + answer.transpose(1, 2).reshape(h.shape)


def attention_column_by_column(self: AttentionBlock, h: Tensor) -> Tensor:
    pixels = rearrange(self.norm(h), "b c height width -> b (width height) c")
    return h + rearrange(self.attention(pixels), "b (width height) c -> b c height width", width=h.shape[3])


def attention_by_einsum(self: AttentionBlock, h: Tensor) -> Tensor:
    batch, channels, height, width = h.shape
    pixels = self.norm(h).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
    heads = self.attention.num_heads
    query, key, value = self.attention.qkv(pixels).view(batch, -1, 3, heads, channels // heads).unbind(2)
    weights = torch.einsum("bnhd,bmhd->bhnm", query, key).div((channels // heads) ** 0.5).softmax(-1)
    answer = self.attention.proj(torch.einsum("bhnm,bmhd->bnhd", weights, value).flatten(2))
    return h + answer.unflatten(1, (height, width)).permute(0, 3, 1, 2)


def decoder_by_stack(channels: Sequence[int], num_res_blocks: int) -> list[tuple[int, int]]:
    kept = [channels[0]]
    for level, width in enumerate(channels):
        kept.extend([width] * num_res_blocks)
        kept.extend([width] if level + 1 < len(channels) else [])
    widths = [width for width in channels[::-1] for _ in range(num_res_blocks + 1)]
    features = [channels[-1], *widths]
    return [(features[i] + kept[-1 - i], widths[i]) for i in range(len(widths))]


def decoder_level_by_level(channels: Sequence[int], num_res_blocks: int) -> list[tuple[int, int]]:
    blocks, below = [], channels[-1]
    for level in range(len(channels) - 1, -1, -1):
        width, above = channels[level], channels[max(level - 1, 0)]
        inside = [2 * width] * num_res_blocks + [width + above]  # the last map came from the finer level
        inside[0] += below - width
        blocks += [(number, width) for number in inside]
        below = width
    return blocks


def decode_by_index(self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None) -> Tensor:
    taken, ups = 0, 0
    for stage in self.up:
        if not isinstance(stage, Stage):
            ups += 1
            h = stage(h, emb)
            continue
        taken += 1
        h = torch.cat((h, kept[-taken] * float(self.skips[-1 - ups])), 1)
        h = stage(h, emb, context)
    return h


def decode_level_by_level(
    self: UNet, h: Tensor, kept: list[Tensor], emb: Tensor, context: Tensor | None = None
) -> Tensor:
    stages, maps = iter(self.up), reversed(kept)
    for level in reversed(range(len(self.skips))):
        for _ in range(self.config.num_res_blocks + 1):
            skip = next(maps)
            both = torch.zeros(len(h), h.shape[1] + skip.shape[1], *h.shape[2:], device=h.device)
            both[:, : h.shape[1]] = h
            if self.skips[level]:
                both[:, h.shape[1] :] = skip
            h = next(stages)(both, emb, context)
        if level:
            h = next(stages)(h, emb, context)
    return h


def gradient_by_vjp(network: Callable[[Tensor], Tensor], images: Tensor, row: int, column: int) -> Tensor:
    ones = torch.ones_like(network(images)[:, :, row, column])
    _, gradient = torch.autograd.functional.vjp(lambda x: network(x)[:, :, row, column], images, ones)
    return torch.einsum("bchw->hw", gradient.abs()) / len(images)


def gradient_one_by_one(network: Callable[[Tensor], Tensor], images: Tensor, row: int, column: int) -> Tensor:
    total = torch.zeros_like(images[0, 0])
    for image in images:
        leaf = image[None].clone().requires_grad_(True)
        network(leaf)[0, :, row, column].sum().backward(inputs=[leaf])
        assert leaf.grad is not None
        total += leaf.grad[0].abs().sum(0)
    return total / images.shape[0]


def parts_by_name(unet: UNet) -> dict[str, int]:
    places = {
        "time and class": ("time", "label", "vector"),
        "encoder": ("down",),
        "middle": ("middle1", "middle2"),
        "decoder": ("up",),
        "ends": ("enter", "norm", "leave"),
    }
    sums = dict.fromkeys(places, 0)
    for name, weight in unet.named_parameters():
        sums[next(part for part, names in places.items() if name.split(".")[0] in names)] += weight.numel()
    return sums


def parts_by_the_rest(unet: UNet) -> dict[str, int]:
    def count(module: nn.Module) -> int:
        return sum(torch.Size(weight.shape).numel() for weight in module.state_dict().values())

    encoder, decoder = sum(map(count, unet.down)), sum(map(count, unet.up))
    middle = count(nn.ModuleList([unet.middle1, unet.middle2]))
    ends = count(unet.enter) + count(unet.norm) + count(unet.leave)
    rest = count(unet) - encoder - decoder - middle - ends
    return {"encoder": encoder, "decoder": decoder, "middle": middle, "ends": ends, "time and class": rest}


ANSWERS = {
    "unet.AdaGN.forward": [adagn_by_chunk, adagn_by_einsum],
    "unet.ResBlock.forward": [res_block_step_by_step, res_block_by_layers],
    "unet.AttentionBlock.forward": [attention_by_flatten, attention_column_by_column, attention_by_einsum],
    "unet.decoder_channels": [decoder_by_stack, decoder_level_by_level],
    "unet.UNet.decode": [decode_by_index, decode_level_by_level],
    "evaluate.input_gradient": [gradient_by_vjp, gradient_one_by_one],
    "unet.parameters_by_part": [parts_by_name, parts_by_the_rest],
    "unet.attention_bug": [attention_by_flatten, attention_column_by_column],
}
