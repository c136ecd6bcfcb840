"""Different right answers to the exercises of lesson 00.

ANSWERS maps an exercise's id to a list of at least two answers that are written differently from each other and from
the library. An answer to a function is a function with the same arguments; an answer to a method is that method
written as a function that takes self first, or the whole class.
"""

from __future__ import annotations

import torch
from torch import Tensor


def torch_functions(images: Tensor) -> Tensor:
    return torch.clamp(torch.add(images, 1) * 0.5, min=0.0, max=1.0)


def clamp_first(images: Tensor) -> Tensor:
    return 0.5 + images.clamp(-1, 1) / 2


def minimum_and_maximum(images: Tensor) -> Tensor:
    shifted = (images + 1) / 2
    return torch.minimum(torch.maximum(shifted, torch.zeros_like(shifted)), torch.ones_like(shifted))


ANSWERS = {"noise.to_pixels": [torch_functions, clamp_first, minimum_and_maximum]}
