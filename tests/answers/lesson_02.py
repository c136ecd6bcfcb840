"""Different right answers to the exercises of lesson 02."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lesson_lib.condition import Concat, CrossAttention, FiLM
from lesson_lib.guidance import Guided


def sinusoidal_by_power(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    half = size // 2
    angle = t[:, None] * max_period ** (-torch.arange(half, device=t.device) / half)
    return torch.cat([torch.cos(angle), torch.sin(angle)], dim=-1)


def sinusoidal_by_phase(t: Tensor, size: int, max_period: float = 10_000.0, convention: str = "dit") -> Tensor:
    steps = torch.arange(0, size, 2, device=t.device, dtype=t.dtype)
    angle = torch.outer(t, torch.exp(-math.log(max_period) * steps / size))
    return torch.cos(torch.cat([angle, angle - math.pi / 2], dim=1))


def drop_by_mask(labels: Tensor, probability: float, null_label: int, generator: torch.Generator) -> Tensor:
    result = labels.clone()
    result[torch.rand(labels.shape, generator=generator) < probability] = null_label
    return result


def drop_by_fill(labels: Tensor, probability: float, null_label: int, generator: torch.Generator) -> Tensor:
    return labels.masked_fill(torch.rand(len(labels), generator=generator).lt(probability), null_label)


def guide_by_weights(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    return scale * conditional + (1 - scale) * unconditional


def guide_by_lerp(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    return torch.lerp(unconditional, conditional, scale)


def guided_in_two_calls(self: Guided, x: Tensor, t: Tensor) -> Tensor:
    null = torch.full_like(self.labels, self.null_label)
    return self.combine(self.model(x, t, self.labels), self.model(x, t, null), self.scale)


def guided_interleaved_rightly(self: Guided, x: Tensor, t: Tensor) -> Tensor:
    null = torch.full_like(self.labels, self.null_label)
    labels = torch.stack([self.labels, null], dim=1).flatten()
    both = self.model(x.repeat_interleave(2, dim=0), t.repeat_interleave(2), labels)
    return self.combine(both[0::2], both[1::2], self.scale)


def concat_by_expand(self: Concat, h: Tensor, condition: Tensor) -> Tensor:
    everywhere = condition[:, :, None, None].expand(-1, -1, *h.shape[2:])
    return self.mix(torch.cat((h, everywhere), 1))


def concat_by_two_products(self: Concat, h: Tensor, condition: Tensor) -> Tensor:
    weight = self.mix.weight[:, :, 0, 0]
    mixed = torch.einsum("oc,bchw->bohw", weight[:, : h.shape[1]], h)
    return mixed + (condition @ weight[:, h.shape[1] :].T + self.mix.bias)[:, :, None, None]


def film_by_chunk(self: FiLM, h: Tensor, condition: Tensor) -> Tensor:
    scale, shift = self.project(condition)[:, :, None, None].chunk(2, dim=1)
    return h + h * scale + shift


def film_by_addcmul(self: FiLM, h: Tensor, condition: Tensor) -> Tensor:
    both = self.project(condition)
    channels = h.shape[1]
    return torch.addcmul(both[:, channels:, None, None], h, both[:, :channels, None, None] + 1)


def attend_by_torch(self: CrossAttention, h: Tensor, condition: Tensor) -> Tensor:
    tokens = condition.unsqueeze(1) if condition.ndim == 2 else condition
    query = self.query(h.flatten(2).mT)
    answer = F.scaled_dot_product_attention(query, self.key(tokens), self.value(tokens))
    return h + self.out(answer).mT.reshape(h.shape)


def attend_by_einsum(self: CrossAttention, h: Tensor, condition: Tensor) -> Tensor:
    tokens = condition.reshape(len(h), -1, condition.shape[-1])
    query = torch.einsum("bchw,oc->bhwo", h, self.query.weight) / math.sqrt(h.shape[1])
    weights = torch.einsum("bhwc,bmc->bhwm", query, self.key(tokens)).softmax(-1)
    return h + self.out(torch.einsum("bhwm,bmc->bhwc", weights, self.value(tokens))).permute(0, 3, 1, 2)


ANSWERS = {
    "embed.sinusoidal": [sinusoidal_by_power, sinusoidal_by_phase],
    "embed.drop_labels": [drop_by_mask, drop_by_fill],
    "guidance.guide": [guide_by_weights, guide_by_lerp],
    "guidance.guided_bug": [guided_in_two_calls, guided_interleaved_rightly],
    "condition.Concat.forward": [concat_by_expand, concat_by_two_products],
    "condition.FiLM.forward": [film_by_chunk, film_by_addcmul],
    "condition.CrossAttention.forward": [attend_by_torch, attend_by_einsum],
}
