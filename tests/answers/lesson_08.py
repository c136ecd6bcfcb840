"""Different right answers to the exercises of lesson 08."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor

from lesson_lib.attention import Rotate, SelfAttention
from lesson_lib.position import Rotation, half_order


def rotate_by_complex_numbers(x: Tensor, angles: Tensor) -> Tensor:
    points = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(points * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def rotate_by_matrices(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.cos(), angles.sin()
    matrices = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    return (matrices @ x.unflatten(-1, (-1, 2)).unsqueeze(-1)).flatten(-3)


def rotate_by_slices(x: Tensor, angles: Tensor) -> Tensor:
    turned, a, b = torch.empty_like(x), x[..., ::2], x[..., 1::2]
    turned[..., ::2] = a * torch.cos(angles) - b * torch.sin(angles)
    turned[..., 1::2] = b * torch.cos(angles) + a * torch.sin(angles)
    return turned


def rotate_by_a_table(x: Tensor, angles: Tensor) -> Tensor:
    twice = angles.repeat_interleave(2, dim=-1)
    partners = rearrange(x, "... (j two) -> ... j two", two=2).flip(-1) * x.new_tensor([-1.0, 1.0])
    return x * twice.cos() + partners.flatten(-2) * twice.sin()


def frequencies_by_list(size: int, base: float = 10000.0, longer: float = 1.0) -> Tensor:
    if size % 2 == 1:
        raise ValueError("channels turn in pairs")
    if size == 2:
        return torch.ones(1, dtype=torch.float64)
    raised = base * math.pow(longer, size / (size - 2))
    return torch.tensor([raised ** (-2 * j / size) for j in range(size // 2)], dtype=torch.float64)


def frequencies_by_exponential(size: int, base: float = 10000.0, longer: float = 1.0) -> Tensor:
    pairs, odd = divmod(size, 2)
    if odd or not pairs:
        raise ValueError(f"{size} channels are no pairs")
    j = torch.linspace(0, 1, pairs, dtype=torch.float64)  # base's share: up to (size - 2) / size
    return (-j * (math.log(base) * (size - 2) / size + math.log(longer))).exp()


def error_by_einsum(
    turn: Callable[[Tensor, Tensor], Tensor], query: Tensor, key: Tensor, frequencies: Tensor, shift: float
) -> float:
    places = torch.stack([torch.arange(len(query)), torch.arange(len(query)) + shift]).to(frequencies)
    scores = []
    for place in places:
        angles = torch.outer(place, frequencies)
        scores.append(einsum(turn(query, angles), turn(key, angles), "n d, m d -> n m"))
    return torch.dist(scores[1], scores[0], p=math.inf).item()


def error_pair_by_pair(
    turn: Callable[[Tensor, Tensor], Tensor], query: Tensor, key: Tensor, frequencies: Tensor, shift: float
) -> float:
    still = torch.arange(len(query))[:, None] * frequencies
    moved = still + shift * frequencies
    changes = [
        abs(float(after_q @ after_k - before_q @ before_k))
        for before_q, after_q in zip(turn(query, still), turn(query, moved), strict=True)
        for before_k, after_k in zip(turn(key, still), turn(key, moved), strict=True)
    ]
    return max(changes)


def pairs_by_rearrange(weight: Tensor, num_heads: int) -> Tensor:
    return rearrange(weight, "(h two j) ... -> (h j two) ...", h=num_heads, two=2)


def pairs_by_stack(weight: Tensor, num_heads: int) -> Tensor:
    first, second = weight.unflatten(0, (num_heads, -1)).chunk(2, dim=1)
    return torch.stack((first, second), dim=2).reshape(weight.shape)


def pairs_by_writing(weight: Tensor, num_heads: int) -> Tensor:
    size = len(weight) // num_heads
    rows = torch.cat([head * size + half_order(size) for head in range(num_heads)])
    pairs = torch.empty_like(weight)
    pairs[rows.to(weight.device)] = weight
    return pairs


def _speeds(size: int, base: float, longer: float, like: Tensor) -> Tensor:
    exponents = torch.arange(0, size, 2, dtype=torch.float64, device=like.device) / size
    raised = base * longer ** (size / (size - 2)) if size > 2 else base
    return 1 / raised**exponents


def axial_by_writing(
    coordinates: Tensor, axes: Sequence[int], base: float = 10000.0, longer: float = 1.0
) -> Tensor:  # fmt: skip
    if len(axes) != coordinates.size(1):
        raise ValueError("axes")
    angles, first = torch.empty(len(coordinates), sum(axes) // 2, dtype=torch.float64, device=coordinates.device), 0
    for axis, size in enumerate(axes):
        speeds = _speeds(size, base, longer, coordinates)
        angles[:, first : first + size // 2] = torch.outer(coordinates[:, axis].double(), speeds)
        first += size // 2
    return angles


def axial_by_one_matrix(
    coordinates: Tensor, axes: Sequence[int], base: float = 10000.0, longer: float = 1.0
) -> Tensor:  # fmt: skip
    matrix = torch.block_diag(*(_speeds(size, base, longer, coordinates)[None] for size in axes))
    if coordinates.shape[1] != matrix.shape[0]:
        raise ValueError(f"{coordinates.shape[1]} coordinates, {matrix.shape[0]} axes")
    return coordinates.double() @ matrix


def mixed_by_einsum(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    return einsum(coordinates, frequencies, "n axis, axis h j -> h n j")


def mixed_axis_by_axis(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    angles = torch.zeros(frequencies.shape[1], len(coordinates), frequencies.shape[2]).to(frequencies)
    for place, own in zip(coordinates.T, frequencies, strict=True):
        angles = angles + place[None, :, None] * own[:, None, :]
    return angles


def mixed_head_by_head(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    return torch.stack([coordinates @ own for own in frequencies.unbind(1)])


def centred_by_meshgrid(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(
        torch.arange(-math.ceil(height / 2), height // 2), torch.arange(-((width + 1) // 2), width // 2), indexing="ij"
    )
    return torch.stack([rows, columns], dim=-1).reshape(-1, 2).float()


def centred_by_division(height: int, width: int) -> Tensor:
    index = torch.arange(height * width)
    grid = torch.stack([index // width, index % width], dim=1)
    return (grid + torch.tensor([-height // 2, -width // 2])).to(torch.float32)


def centred_by_list(height: int, width: int) -> Tensor:
    return (
        torch.tensor([[y - height + height // 2, x - width + width // 2] for y in range(height) for x in range(width)])
        * 1.0
    )


def diagonal_by_repeat(words: int, height: int, width: int, axes: int = 3) -> Tensor:
    first = max(height, width) // 2
    return torch.arange(first, first + words, dtype=torch.float32).unsqueeze(1).repeat(1, axes)


def diagonal_by_steps(words: int, height: int, width: int, axes: int = 3) -> Tensor:
    return torch.ones(words, axes).cumsum(dim=0) + max(height // 2, width // 2) - 1


def attention_by_view(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
    batch, tokens, width = x.shape
    query, key, value = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
    if rotate is not None:
        query = rotate(query)
        key = rotate(key)
    answers = F.scaled_dot_product_attention(query, key, value)
    return self.proj(answers.transpose(1, 2).reshape(batch, tokens, width))


def attention_turned_together(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
    parts = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
    asked = parts[:2] if rotate is None else rotate(parts[:2])
    weights = (asked[0] @ asked[1].mT / math.sqrt(asked.shape[-1])).softmax(-1)
    return self.proj((weights @ parts[2]).transpose(1, 2).flatten(2))


def attention_by_its_map(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
    value = self.qkv(x)[..., -x.shape[-1] :].unflatten(-1, (self.num_heads, -1))
    return self.proj(torch.einsum("bhnm,bmhd->bnhd", self.map(x, rotate), value).flatten(2))


def attention_with_a_turn_of_nothing(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
    query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
    turn = rotate or Rotation.of(torch.zeros(x.shape[1], query.shape[-1] // 2, device=x.device))
    answers = F.scaled_dot_product_attention(turn(query), turn(key), value)
    return self.proj(rearrange(answers, "b h n d -> b n (h d)"))


def together_token_by_token(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
    first, frame = max(height // 2, width // 2), words if text == "continued" else 0
    top, left = ((height + 1) // 2, (width + 1) // 2) if text == "diagonal" else (0, 0)
    spoken = {
        "origin": [[0, 0, 0]] * words,
        "continued": [[n, 0, 0] for n in range(words)],
        "diagonal": [[first + n] * 3 for n in range(words)],
    }
    if text not in spoken:
        raise ValueError(text)
    seen = [[frame, row - top, column - left] for row in range(height) for column in range(width)]
    return torch.tensor(spoken[text] + seen, dtype=torch.float32)


def together_by_writing(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
    if text not in ("origin", "continued", "diagonal"):
        raise ValueError(text)
    places = torch.zeros(words + height * width, 3)
    grid = places[words:].view(height, width, 3)
    grid[..., 1] = torch.arange(height)[:, None]
    grid[..., 2] = torch.arange(width)
    if text == "continued":
        places[:words, 0] = torch.arange(words)
        grid[..., 0] = words
    elif text == "diagonal":
        places[:words] = torch.arange(words)[:, None] + max(height, width) // 2
        grid -= torch.tensor([0, math.ceil(height / 2), math.ceil(width / 2)])
    return places


ANSWERS = {
    "position.rotate": [rotate_by_complex_numbers, rotate_by_matrices, rotate_by_slices, rotate_by_a_table],
    "position.rope_frequencies": [frequencies_by_list, frequencies_by_exponential],
    "position.shift_error": [error_by_einsum, error_pair_by_pair],
    "position.pairs_from_halves": [pairs_by_rearrange, pairs_by_stack, pairs_by_writing],
    "position.axial_angles": [axial_by_writing, axial_by_one_matrix],
    "position.mixed_angles": [mixed_by_einsum, mixed_axis_by_axis, mixed_head_by_head],
    "position.centred_grid": [centred_by_meshgrid, centred_by_division, centred_by_list],
    "position.diagonal_text": [diagonal_by_repeat, diagonal_by_steps],
    "position.values_bug": [
        attention_by_view, attention_turned_together, attention_by_its_map, attention_with_a_turn_of_nothing,
    ],
    "position.grid_bug": [together_token_by_token, together_by_writing],
}  # fmt: skip
