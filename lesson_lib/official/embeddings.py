"""Our time features, time embedder and cross-attention against diffusers' own, on the same weights."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from lesson_lib.condition import CrossAttention
from lesson_lib.embed import TimeEmbedder, sinusoidal

Module = TypeVar("Module", bound=nn.Module)

# convention → whether diffusers is to put the cosines first, and its downscale_freq_shift
THEIR_NAMES = {"dit": (True, 0), "ddpm": (False, 1), "diffusers-dit": (True, 1)}


def compare_embeddings() -> dict[str, float]:
    """Return the largest difference of the features of time by convention, of the time embedder and of cross-attention.

    Weights are random and moved into diffusers' modules. Raises ImportError where diffusers is absent.
    Source: diffusers, models/embeddings.py and models/attention_processor.py.
    """
    from diffusers.models.attention_processor import Attention
    from diffusers.models.embeddings import TimestepEmbedding, Timesteps, get_timestep_embedding

    generator = torch.Generator().manual_seed(0)
    t = torch.tensor([0.0, 12.0, 250.0, 640.5, 999.0])
    found: dict[str, float] = {}
    for convention, (cosines_first, short) in THEIR_NAMES.items():
        theirs = get_timestep_embedding(t, 256, flip_sin_to_cos=cosines_first, downscale_freq_shift=short)
        found[f"features, {convention}"] = _difference(sinusoidal(t, 256, convention=convention), theirs)
    with torch.no_grad():
        ours = _randomise(TimeEmbedder(32), generator)
        perceptron = TimestepEmbedding(256, 32)
        perceptron.linear_1.load_state_dict(ours.mlp[0].state_dict())
        perceptron.linear_2.load_state_dict(ours.mlp[2].state_dict())
        features = Timesteps(256, flip_sin_to_cos=True, downscale_freq_shift=0)
        found["time embedder"] = _difference(ours(t), perceptron(features(t)))
        attend = _randomise(CrossAttention(8, 6), generator)
        attention = Attention(query_dim=8, cross_attention_dim=6, heads=1, dim_head=8)
        pairs = ((attention.to_q, attend.query), (attention.to_k, attend.key), (attention.to_v, attend.value))
        for their_layer, our_layer in (*pairs, (attention.to_out[0], attend.out)):
            their_layer.load_state_dict(our_layer.state_dict())
        h, tokens = torch.randn(2, 8, 4, 5, generator=generator), torch.randn(2, 3, 6, generator=generator)
        answer = attention(h.flatten(2).mT, encoder_hidden_states=tokens).mT.reshape(h.shape)
        found["cross-attention"] = _difference(attend(h, tokens), h + answer)
    return found


def _randomise(module: Module, generator: torch.Generator) -> Module:
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return module


def _difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())
