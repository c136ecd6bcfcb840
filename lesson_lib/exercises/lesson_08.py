"""Lesson 08, RoPE: pairs of channels that turn, how fast, along which axes, and where patches and words stand."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lesson_lib import results
from lesson_lib.attention import Rotate, SelfAttention, attend
from lesson_lib.exercises.compare import kind
from lesson_lib.exercises.core import (
    Case,
    Exercise,
    LessonCard,
    Mistake,
    Property,
    Prose,
    Question,
    integers,
    normal,
    uniform,
)
from lesson_lib.position import (
    TEXT_PLACES,
    Rotation,
    axial_angles,
    centred_grid,
    diagonal_text,
    grid_coordinates,
    half_order,
    halves_from_pairs,
    joint_coordinates,
    mixed_angles,
    pairs_from_halves,
    quarter_turn,
    rope_frequencies,
    rotate,
)

LESSON = LessonCard(
    number="08",
    slug="rope",
    title="RoPE",
    question="Where am I?",
    minutes=110,
    prerequisites=("05", "06"),
)


# --- pairs of channels turn --------------------------------------------------------------------------------------


def _to_turn(g: torch.Generator, size: int) -> Case:
    """Draw channels and their angles; the third time the angles differ from head to head."""
    heads, count, channels = ((2, 3), (3,), (2, 5), ())[size % 4], (7, 5, 9, 4)[size % 4], (10, 8, 6, 12)[size % 4]
    own = heads[-1:] if size % 4 == 2 else ()
    return Case(normal(g, *heads, count + size // 4, channels), 3 * normal(g, *own, count + size // 4, channels // 2))


def _pairs(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0::2], x[..., 1::2]


def _woven(first: Tensor, second: Tensor) -> Tensor:
    return torch.stack([first, second], dim=-1).flatten(-2)


def _side_by_side(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second], dim=-1)


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.chunk(2, dim=-1)
    return first, second


def _in_the_plane(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return a * cos - b * sin, a * sin + b * cos


Turn = Callable[[Tensor, Tensor], Tensor]
Plane = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def _turn(
    plane: Plane = _in_the_plane,
    read: Callable[[Tensor], tuple[Tensor, Tensor]] = _pairs,
    write: Callable[[Tensor, Tensor], Tensor] = _woven,
) -> Turn:
    """Return a rotation that pairs channels, moves the points of the plane and writes them back in its own way."""
    return lambda x, angles: write(*plane(*read(x), angles.cos(), angles.sin()))


def _written_over(a: Tensor, b: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    a = a * cos - b * sin
    return a, a * sin + b * cos


def _table_of_halves(x: Tensor, angles: Tensor) -> Tensor:
    twice = torch.cat([angles, angles], dim=-1)
    return x * twice.cos() + quarter_turn(x) * twice.sin()


def _table_of_pairs(x: Tensor, angles: Tensor) -> Tensor:
    twice = angles.repeat_interleave(2, dim=-1)
    return x * twice.cos() + quarter_turn(x, "half-split") * twice.sin()


def _some_channels(x: Tensor, angles: Tensor) -> Tensor:
    pairs = x.shape[-1] // 4
    return torch.cat([rotate(x[..., : 2 * pairs], angles[..., :pairs]), x[..., 2 * pairs :]], dim=-1)


def _turned_in_place(x: Tensor, angles: Tensor) -> Tensor:
    x[..., 0::2], x[..., 1::2] = _in_the_plane(*_pairs(x.clone()), angles.cos(), angles.sin())
    return x


ROTATE = Exercise(
    id="position.rotate",
    lesson="08",
    number=1,
    title="Turn channels by twos",
    points=3,
    minutes=8,
    difficulty=1,
    case=_to_turn,
    mistakes=[
        Mistake(
            "other way",
            lambda x, angles: rotate(x, -angles),
            "You turn the other way: (a cos + b sin, b cos − a sin). Scores between your own queries and keys would be "
            "those of a picture read backwards; with published weights every patch would look for its neighbours on "
            "the wrong side. The minus stands in front of b sin.",
        ),
        Mistake(
            "half-split",
            _turn(read=_halves, write=_side_by_side),
            "You pair channel j with channel j + d/2, as transformers' Llama does. Here neighbours are partners, "
            "(0, 1), (2, 3), …, as in FLUX, Qwen-Image and RoPE-ViT. Both are rotations; they fit different weights.",
        ),
        Mistake(
            "joined as halves",
            _turn(write=_side_by_side),
            "Your points are turned rightly and written back in another order: all first coordinates, then all second "
            "ones. Each pair returns to where it was taken from: stack along a new last axis, then flatten it.",
        ),
        Mistake(
            "taken from halves",
            _turn(read=_halves),
            "You take the pairs from the two halves of the channels and write them back as neighbours. Taking apart "
            "and putting together must fit: neighbours both times.",
        ),
        Mistake(
            "angles in halves",
            _table_of_halves,
            "Your partners are neighbours, but the angles stand as two copies behind each other, the layout of the "
            "half-split pairing: the two channels of a pair turn by different angles. repeat_interleave(2) gives each "
            "angle to two neighbours.",
        ),
        Mistake(
            "partners in halves",
            _table_of_pairs,
            "Each angle stands twice, side by side, as it should; but the partner with whom a channel is mixed comes "
            "from the other half of the channels. Its partner is its neighbour: (a, b) → (−b, a) inside each pair.",
        ),
        Mistake(
            "cosines only",
            _turn(lambda a, b, cos, sin: (a * cos, b * cos)),
            "You only multiply by the cosine. That shrinks a pair instead of turning it, and at 90° it is gone; the "
            "other half of the rotation, with the sines, mixes the two channels.",
        ),
        Mistake(
            "sine and cosine exchanged",
            _turn(lambda a, b, cos, sin: (a * sin - b * cos, a * cos + b * sin)),
            "Sine and cosine have changed places. An angle of 0 must leave the channels as they are, so the cosine, "
            "which is 1 there, multiplies a in the first place and b in the second.",
        ),
        Mistake(
            "two plus signs",
            _turn(lambda a, b, cos, sin: (a * cos + b * sin, a * sin + b * cos)),
            "Both of your lines add. That is no rotation: it changes the length of a pair. One of the two sines has a "
            "minus, the one with b.",
        ),
        Mistake(
            "first channel only",
            _turn(lambda a, b, cos, sin: (a * cos - b * sin, b)),
            "Only the first channel of each pair moves. Both coordinates of a point change when it turns: "
            "b becomes a sin + b cos.",
        ),
        Mistake(
            "written over",
            _turn(_written_over),
            "You write the new first channel over the old one before the second is computed, and that one then mixes "
            "with the wrong a. Compute both from the old pair.",
        ),
        Mistake(
            "half of the channels",
            _some_channels,
            "Only the first half of the channels turns; some language models do leave a part without a place. "
            "Here there is an angle for every pair: d / 2 of them.",
        ),
        Mistake(
            "degrees",
            lambda x, angles: rotate(x, angles.deg2rad()),
            "You take the angles for degrees. They are radians already: sin and cos want nothing else.",
        ),
        Mistake(
            "in place",
            _turned_in_place,
            "The result is right, but you write it into the caller's own tensor, and slices and unbind share their "
            "memory with it. Make a new one: torch.stack does.",
        ),
    ],
)


# --- how fast each pair turns ------------------------------------------------------------------------------------


def _speeds(g: torch.Generator, size: int) -> Case:
    """A number of channels alone, with a base, with a longer sequence; the fourth time two channels only."""
    channels = (16, 10, 24, 2)[size % 4] + (size % 4 < 3) * 2 * int(integers(g, 1, high=12))
    base, longer = float(10 ** uniform(g, 1, low=1, high=4.5)), float(uniform(g, 1, low=1.5, high=6))
    return Case(channels, *((), (base,), (base, longer), (base, longer))[size % 4])


def _exponents(size: int) -> Tensor:
    return torch.arange(0, size, 2, dtype=torch.float64) / size


def _raised(base: float, size: int, longer: float) -> float:
    return base * longer ** (size / (size - 2)) if size > 2 else base


def _speeds_of(
    stretched: Callable[[float, int, float], float] = _raised,
    exponents: Callable[[int], Tensor] = _exponents,
    sign: int = -1,
) -> Callable[..., Tensor]:
    """Return frequencies with a slip: in the base of longer sequences (base, size, longer) or in the exponents."""

    def answer(size: int, base: float = 10000.0, longer: float = 1.0) -> Tensor:
        if size % 2:
            raise ValueError("odd")
        return stretched(base, size, longer) ** (sign * exponents(size))

    return answer


def _interpolated(size: int, base: float = 10000.0, longer: float = 1.0) -> Tensor:
    return rope_frequencies(size, base) / longer


def _odd_accepted(size: int, base: float = 10000.0, longer: float = 1.0) -> Tensor:
    return _raised(base, size, longer) ** -_exponents(size)


def _even_only(answer: Callable[..., Tensor], case: Case) -> str | None:
    size = case.args[0] + 1
    try:
        found = answer(size)
    except ValueError:
        return None
    except Exception as error:
        return f"{size} channels do not make pairs: raise a ValueError, not {kind(error)}."
    return (
        f"{size} channels do not make pairs, but you return {found.numel()} frequencies: one channel would turn with "
        "nobody. Raise a ValueError that says so."
    )


FREQUENCIES = Exercise(
    id="position.rope_frequencies",
    lesson="08",
    number=2,
    title="Give every pair its speed",
    points=3,
    minutes=9,
    difficulty=2,
    case=_speeds,
    gradient=False,
    tolerance=1e-9,
    properties=[Property("an odd number of channels", _even_only)],
    mistakes=[
        Mistake(
            "exponent j over size",
            _speeds_of(exponents=lambda size: _exponents(size) / 2),
            "Your speeds fall half as far as they should: the exponent of pair j is 2 j / size, and you have j / size. "
            "There are size / 2 pairs, and the last must come close to 1 / base.",
        ),
        Mistake(
            "up to the base itself",
            _speeds_of(exponents=lambda size: torch.arange(size // 2, dtype=torch.float64) / (size // 2 - 1)),
            "You divide by one less than the number of pairs, so that the slowest reaches 1 / base exactly (and one "
            "pair alone becomes 0 / 0). Some tables of sines are made so; RoPE's exponent is 2 j / size and stops one "
            "step before.",
        ),
        Mistake(
            "rising",
            _speeds_of(sign=1),
            "Your speeds rise. The first pair turns by 1 radian a step, and all others more slowly: the exponent is "
            "negative.",
        ),
        Mistake(
            "no exponent on longer",
            _speeds_of(lambda base, size, longer: base * longer),
            "You raise the base to base · longer. Then the slowest pair slows by less than `longer`, because its "
            "exponent is (size − 2) / size and not 1. The power size / (size − 2) makes up for that.",
        ),
        Mistake(
            "exponent upside down",
            _speeds_of(lambda base, size, longer: base * longer ** ((size - 2) / size)),
            "The power of `longer` stands upside down. It undoes the last pair's exponent, (size − 2) / size, so it is "
            "the reciprocal: size / (size − 2).",
        ),
        Mistake(
            "all interpolated",
            _interpolated,
            "You slow all pairs down alike. That is position interpolation: the fast pairs, which tell neighbours "
            "apart, suffer too. NTK-aware scaling leaves the fastest as it is and slows only the slowest by `longer`: "
            "change the base.",
        ),
        Mistake(
            "longer ignored",
            lambda size, base=10000.0, longer=1.0: rope_frequencies(size, base),
            "longer changes nothing with you. It raises the base, and so slows every pair but the first.",
        ),
        Mistake(
            "longer the other way",
            _speeds_of(lambda base, size, longer: base * longer ** -(size / (size - 2)) if size > 2 else base),
            "For a longer sequence your pairs turn faster. They must turn more slowly, so that the far end still comes "
            "to angles that were seen in the training: the base grows.",
        ),
        Mistake(
            "single precision",
            lambda size, base=10000.0, longer=1.0: rope_frequencies(size, base, longer).float(),
            "The numbers are float32, as torch makes them unless told otherwise. The place multiplies their rounding, "
            "and the further a token stands, the more its angle is off. Give arange dtype=torch.float64.",
        ),
        Mistake(
            "cast at the end",
            lambda size, base=10000.0, longer=1.0: rope_frequencies(size, base, longer).float().double(),
            "Your result is float64, but it was computed in float32 and keeps its rounding: seven digits. The double "
            "precision must begin with arange.",
        ),
        Mistake(
            "one for each channel",
            lambda size, base=10000.0, longer=1.0: rope_frequencies(size, base, longer).repeat_interleave(2),
            "You return a speed for each channel. There is one for each pair, size / 2: rotate and Rotation give it to "
            "both channels themselves.",
        ),
        Mistake(
            "wavelengths",
            lambda size, base=10000.0, longer=1.0: 2 * math.pi / rope_frequencies(size, base, longer),
            "You return wavelengths, the number of steps of a full turn. What is wanted is their counterpart: how far "
            "a pair turns with one step, in radians.",
        ),
        Mistake(
            "one pair alone",
            _speeds_of(lambda base, size, longer: base * longer ** (size / (size - 2))),
            "With two channels there is one pair, which is the fastest of all and stays as it is; your power "
            "size / (size − 2) divides by zero there. Leave the base alone where size is 2.",
        ),
        Mistake(
            "odd accepted",
            _odd_accepted,
            "Right for even numbers. An odd number of channels leaves one without a partner, and nothing in your code "
            "says so: ask size % 2 first, and raise a ValueError.",
        ),
    ],
)


# --- the relative property ---------------------------------------------------------------------------------------


def _turn_halves(x: Tensor, angles: Tensor) -> Tensor:
    """Turn channels j and j + d / 2 as a pair: as relative as rotate."""
    return _side_by_side(*_in_the_plane(*_halves(x), angles.cos(), angles.sin()))


def _turn_to_and_fro(x: Tensor, angles: Tensor) -> Tensor:
    """Turn every second token the other way: its scores with the others then hang on the sum of their places."""
    signs = 1 - 2.0 * (torch.arange(x.shape[-2], device=x.device) % 2)
    return rotate(x, angles * signs.to(angles)[:, None])


def _turn_and_grow(x: Tensor, angles: Tensor) -> Tensor:
    """Turn, and let what stands further on grow."""
    return rotate(x, angles) * (1 + 0.1 * angles.mean(dim=-1, keepdim=True))


def _angles(query: Tensor, frequencies: Tensor, start: float) -> Tensor:
    return (start + torch.arange(len(query), dtype=frequencies.dtype))[:, None] * frequencies


def _scores(
    turn: Turn, query: Tensor, key: Tensor, frequencies: Tensor, start: float, key_start: float | None = None
) -> Tensor:
    """Return all scores with the queries placed from start on and the keys from there too, or from key_start."""
    keys = _angles(key, frequencies, start if key_start is None else key_start)
    return turn(query, _angles(query, frequencies, start)) @ turn(key, keys).mT


def _largest(change: Tensor) -> float:
    return float(change.abs().max())


def _measured(g: torch.Generator, size: int) -> Case:
    """Draw for two turns that are relative and two that are not; in one of these a score falls most, in one it rises.

    Shifts are halves, which float32 holds exactly.
    """
    turn = (rotate, _turn_to_and_fro, _turn_halves, _turn_and_grow)[size % 4]
    count, channels = 5 + size, (6, 8, 4, 10)[size % 4]
    query, key = normal(g, count, channels).double(), normal(g, count, channels).double()
    frequencies = uniform(g, channels // 2, low=0.05, high=1.2).double()
    shift = 0.5 * int(integers(g, 1, low=5, high=30))
    if size % 2:
        change = _scores(turn, query, key, frequencies, shift) - _scores(turn, query, key, frequencies, 0.0)
        rises = bool(change.max() > change.abs().max() - 1e-9)
        query = query if rises == (size % 4 == 3) else -query
    return Case(turn, query, key, frequencies, shift)


def _shifted(
    reduce: Callable[[Tensor], Any] = _largest,
    moved: Callable[[float], tuple[float, float]] = lambda shift: (shift, shift),
    first: float = 0.0,
) -> Callable[..., Any]:
    """Return an instrument with a slip: in what it makes of the changes, or in where queries and keys go."""

    def answer(turn: Turn, query: Tensor, key: Tensor, frequencies: Tensor, shift: float) -> Any:
        query_start, key_start = (first + start for start in moved(shift))
        after = _scores(turn, query, key, frequencies, query_start, key_start)
        return reduce(after - _scores(turn, query, key, frequencies, first))

    return answer


def _queries_compared(turn: Turn, query: Tensor, key: Tensor, frequencies: Tensor, shift: float) -> float:
    after, before = (turn(query, _angles(query, frequencies, start)) for start in (shift, 0.0))
    return _largest(after - before)


def _not_turned_back(turn: Turn, query: Tensor, key: Tensor, frequencies: Tensor, shift: float) -> float:
    return _largest(_scores(turn, query, key, frequencies, shift) - query @ key.mT)


def _all_in_one_place(turn: Turn, query: Tensor, key: Tensor, frequencies: Tensor, shift: float) -> float:
    def scores(start: float) -> Tensor:
        angles = (start * frequencies).expand(len(query), -1)
        return turn(query, angles) @ turn(key, angles).mT

    return _largest(scores(shift) - scores(0.0))


SHIFT_ERROR = Exercise(
    id="position.shift_error",
    lesson="08",
    number=3,
    title="Prove by experiment that only distances count",
    points=3,
    minutes=10,
    difficulty=2,
    case=_measured,
    gradient=False,
    mistakes=[
        Mistake(
            "only the queries moved",
            _shifted(moved=lambda shift: (shift, 0.0)),
            "You move the queries and leave the keys where they are. That changes every distance, and even a perfect "
            "rotation would fail. All tokens move on together: queries and keys by the same shift.",
        ),
        Mistake(
            "only the keys moved",
            _shifted(moved=lambda shift: (0.0, shift)),
            "Your keys begin at the shift and your queries at 0, which changes every distance. All tokens move on "
            "together: both begin at the shift.",
        ),
        Mistake(
            "same places twice",
            _shifted(moved=lambda shift: (0.0, 0.0)),
            "You compare the scores with themselves: both times at the same places. That gives 0 for every turn, also "
            "for those that are not relative. A proof that cannot fail proves nothing: shift must come in.",
        ),
        Mistake(
            "all in one place",
            _all_in_one_place,
            "All of your tokens stand in one place. Then there are no distances to keep or lose: token n stands at "
            "place n before the move, and at shift + n after it.",
        ),
        Mistake(
            "rotated queries compared",
            _queries_compared,
            "You compare the queries before and after. They do change, and must: it is their product with the keys, "
            "the score, that stays.",
        ),
        Mistake(
            "not turned at first",
            _not_turned_back,
            "You compare with scores that were not turned at all, as if every token stood at place 0. Before the move "
            "token n stands at place n and is turned as well.",
        ),
        Mistake(
            "own key only",
            _shifted(lambda change: _largest(change.diagonal())),
            "You look only at a query and the key of the same token, whose distance is 0 in any case. Ask every query "
            "about every key: Q Kᵀ, N × N scores.",
        ),
        Mistake(
            "mean",
            _shifted(lambda change: float(change.abs().mean())),
            "You average the changes. What is claimed is that no score changes, so the largest decides: one bad pair "
            "among thousands must show.",
        ),
        Mistake(
            "without abs",
            _shifted(lambda change: float(change.max())),
            "You take the largest rise of a score. One that falls by 5 would pass as 0, and it has changed as much: "
            "abs before max.",
        ),
        Mistake(
            "without abs, before minus after",
            _shifted(lambda change: float(-change.min())),
            "You take the largest fall of a score. One that rises by 5 would pass as 0, and it has changed as much: "
            "abs before max.",
        ),
        Mistake(
            "divided by the root",
            lambda turn, query, key, frequencies, shift: (
                _shifted()(turn, query, key, frequencies, shift) / math.sqrt(query.shape[-1])
            ),
            "You divide by √d, as attention does with its scores. Here the plain product q·k is measured.",
        ),
        Mistake(
            "counted from 1",
            _shifted(first=1.0),
            "Your first token stands at place 1. For a relative turn that changes nothing, which is just what is to be "
            "shown; for the others it does. Token n stands at place n, the first at 0.",
        ),
        Mistake(
            "still a tensor",
            _shifted(lambda change: change.abs().max()),
            "The number is right, but it is a tensor. A measurement is a plain number: float(…).",
        ),
    ],
)


# --- a checkpoint of the other pairing ---------------------------------------------------------------------------


def _other_weights(g: torch.Generator, size: int) -> Case:
    """Draw a matrix with more outputs than inputs, a bias, a matrix with fewer, and a QK-norm's weight."""
    heads, channels = ((3, 8), (5, 6), (2, 10), (1, 12))[size % 4]
    inputs = ((18,), (), (32,), ())[size % 4]
    return Case(normal(g, heads * channels, *inputs), heads)


def _by_columns(weight: Tensor, num_heads: int) -> Tensor:
    return pairs_from_halves(weight.movedim(-1, 0), num_heads).movedim(0, -1)


def _heads_fastest(weight: Tensor, num_heads: int) -> Tensor:
    channels = weight.unflatten(0, (-1, num_heads))
    return channels[half_order(len(channels)).argsort()].flatten(0, 1)


def _partners_exchanged(weight: Tensor, num_heads: int) -> Tensor:
    first, second = weight.unflatten(0, (num_heads, 2, -1)).unbind(dim=1)
    return torch.stack([second, first], dim=2).flatten(0, 2)


def _halves_exchanged(weight: Tensor, num_heads: int) -> Tensor:
    return weight.unflatten(0, (num_heads, 2, -1)).flip(1).flatten(0, 2)


def _with_a_sign(weight: Tensor, num_heads: int) -> Tensor:
    first, second = weight.unflatten(0, (num_heads, 2, -1)).unbind(dim=1)
    return torch.stack([first, -second], dim=2).flatten(0, 2)


def _matrices_only(weight: Tensor, num_heads: int) -> Tensor:
    rows, columns = weight.shape
    return weight.reshape(num_heads, 2, rows // num_heads // 2, columns).transpose(1, 2).reshape(rows, columns)


def _reordered_in_place(weight: Tensor, num_heads: int) -> Tensor:
    weight[:] = pairs_from_halves(weight, num_heads)
    return weight


CONVERT = Exercise(
    id="position.pairs_from_halves",
    lesson="08",
    number=4,
    title="Convert a checkpoint of the other pairing",
    points=3,
    minutes=9,
    difficulty=3,
    case=_other_weights,
    mistakes=[
        Mistake(
            "other direction",
            halves_from_pairs,
            "You go from neighbours to halves, the way of halves_from_pairs. half_order says from where each channel "
            "of the half-split layout is taken; the way back needs the inverse of that order: .argsort().",
        ),
        Mistake(
            "all heads at once",
            lambda weight, num_heads: pairs_from_halves(weight, 1),
            "You reorder all rows in one go, and channels wander from head to head. Every head is paired within "
            "itself: split the rows into heads first.",
        ),
        Mistake(
            "columns",
            _by_columns,
            "You reorder the columns, which are the inputs. The pairs are channels of queries and keys, so the outputs "
            "of the layer: its rows, axis 0.",
        ),
        Mistake(
            "heads fastest",
            _heads_fastest,
            "You read the rows as (d, h), with the heads running fastest. The d channels of a head stand side by "
            "side: unflatten axis 0 to (h, d).",
        ),
        Mistake(
            "partners exchanged",
            _partners_exchanged,
            "Your pairs are the right ones and the wrong way round: (second half, first half). Exchanged partners turn "
            "the other way. From the first half comes the first of each pair.",
        ),
        Mistake(
            "halves exchanged",
            _halves_exchanged,
            "You exchange the two halves of each head and leave it half-split. Channel j of the first half and channel "
            "j of the second must become neighbours: weave the halves.",
        ),
        Mistake(
            "with a sign",
            _with_a_sign,
            "You change the sign of the second half, as the quarter turn does. Here only the order changes; turning "
            "comes later, when the layer is used.",
        ),
        Mistake(
            "still in heads",
            lambda weight, num_heads: pairs_from_halves(weight, num_heads).unflatten(0, (num_heads, -1)),
            "The order is right, but the rows still lie in heads, (h, d, …). load_state_dict wants the shape that came "
            "in: flatten the first two axes.",
        ),
        Mistake(
            "matrices only",
            _matrices_only,
            "Right for a matrix; a bias or a QK-norm's weight has one axis only, and must be reordered with it. Leave "
            "the axes behind the first alone, however many there are: unflatten(0, …) and flatten(0, …).",
        ),
        Mistake(
            "in place",
            _reordered_in_place,
            "You write the new order into the checkpoint's own weights: converted twice they would be wrong. Return a "
            "new tensor.",
        ),
    ],
)


# --- each axis its own channels ----------------------------------------------------------------------------------


def _on_axes(g: torch.Generator, size: int) -> Case:
    """Draw places on two or three axes whose channels differ in number, every second time for a longer side."""
    axes = ((8, 12), (4, 10, 6), (16, 6), (2, 14, 8))[size % 4]
    base = float(10 ** uniform(g, 1, low=1, high=4))
    longer = (float(uniform(g, 1, low=1.5, high=4)),) if size % 2 else ()
    return Case(5 * normal(g, 7 + 2 * size, len(axes)), axes, base, *longer)


def _on_each(
    frequencies: Callable[[int, int, Sequence[int], float, float], Tensor],
    join: Callable[[list[Tensor]], Tensor] = lambda parts: torch.cat(parts, dim=-1),
) -> Callable[..., Tensor]:
    """Return axial angles with a slip: frequencies (place of the axis, its size, all axes, base, longer), or join."""

    def answer(coordinates: Tensor, axes: Sequence[int], base: float = 10000.0, longer: float = 1.0) -> Tensor:
        parts = []
        for axis, (place, size) in enumerate(zip(coordinates.double().unbind(dim=-1), axes, strict=True)):
            parts.append(place[:, None] * frequencies(axis, size, axes, base, longer).to(place.device))
        return join(parts)

    return answer


def _own(axis: int, size: int, axes: Sequence[int], base: float, longer: float) -> Tensor:
    return rope_frequencies(size, base, longer)


def _whole(axis: int, size: int, axes: Sequence[int], base: float, longer: float) -> Tensor:
    return rope_frequencies(sum(axes), base, longer)


def _beginning(axis: int, size: int, axes: Sequence[int], base: float, longer: float) -> Tensor:
    return rope_frequencies(sum(axes), base, longer)[: size // 2]


def _in_one_run(axis: int, size: int, axes: Sequence[int], base: float, longer: float) -> Tensor:
    first = sum(axes[:axis]) // 2
    return rope_frequencies(sum(axes), base, longer)[first : first + size // 2]


def _added_up(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _on_the_cpu(
    coordinates: Tensor, axes: Sequence[int], base: float = 10000.0, longer: float = 1.0
) -> Tensor:  # fmt: skip
    places = zip(coordinates.double().unbind(dim=-1), axes, strict=True)
    return torch.cat([place[:, None] * rope_frequencies(size, base, longer) for place, size in places], dim=-1)


def _axes_left_over(
    coordinates: Tensor, axes: Sequence[int], base: float = 10000.0, longer: float = 1.0
) -> Tensor:  # fmt: skip
    return axial_angles(coordinates[:, : len(axes)], axes, base, longer)


def _as_many_axes(answer: Callable[..., Tensor], case: Case) -> str | None:
    coordinates, axes = case.args[:2]
    try:
        answer(torch.cat([coordinates, coordinates[:, :1]], dim=1), axes)
    except ValueError:
        return None
    except Exception as error:
        return f"{len(axes) + 1} coordinates for {len(axes)} axes: raise a ValueError, not {kind(error)}."
    return (
        f"there are {len(axes) + 1} coordinates and channels for {len(axes)} of them, but you return angles: one "
        "coordinate is lost. Raise a ValueError; zip(…, strict=True) does it."
    )


AXIAL = Exercise(
    id="position.axial_angles",
    lesson="08",
    number=5,
    title="Give each axis channels of its own",
    points=3,
    minutes=9,
    difficulty=2,
    case=_on_axes,
    properties=[Property("one coordinate too many", _as_many_axes)],
    mistakes=[
        Mistake(
            "all channels for every axis",
            _on_each(_whole),
            "You give every axis as many frequencies as the whole head has pairs, and there are more angles than "
            "pairs. An axis has channels of its own: rope_frequencies(size) for its own size.",
        ),
        Mistake(
            "frequencies of the whole head",
            _on_each(_beginning),
            "Each axis takes the first frequencies of the whole head, so all of them are fast and nobody sees far. "
            "Every axis runs through the whole range within its own channels: rope_frequencies(size, …).",
        ),
        Mistake(
            "one run through all axes",
            _on_each(_in_one_run),
            "One run of frequencies goes through all axes: the first gets the fast ones, the last the slow ones, and "
            "can hardly tell neighbours apart. Each axis begins at 1 again.",
        ),
        Mistake(
            "coordinates exchanged",
            lambda coordinates, axes, base=10000.0, longer=1.0: axial_angles(coordinates.flip(-1), axes, base, longer),
            "The coordinates are in reverse order: the first channels turn with the last one. RoPE-ViT's own code does "
            "have the column first; here coordinate 0 belongs to axes[0].",
        ),
        Mistake(
            "pair by pair",
            _on_each(_own, lambda parts: torch.stack(parts, dim=-1).flatten(-2)),
            "You weave the axes pair by pair, which needs axes of equal size. They stand block by block: all pairs of "
            "coordinate 0, then all of coordinate 1. torch.cat, not stack.",
        ),
        Mistake(
            "summed",
            _on_each(_whole, _added_up),
            "You add the axes' angles up, so that every pair turns with all coordinates. That is mixed RoPE, with "
            "frequencies that would have to differ. In axial RoPE each pair hears one coordinate: put the parts side "
            "by side.",
        ),
        Mistake(
            "summed in their axes",
            _on_each(_own, _added_up),
            "You add the parts up, and they have different numbers of pairs. They belong side by side, along the last "
            "axis: torch.cat.",
        ),
        Mistake(
            "longer ignored",
            lambda coordinates, axes, base=10000.0, longer=1.0: axial_angles(coordinates, axes, base),
            "longer does not reach the frequencies. Hand it on to rope_frequencies with the base, for each axis.",
        ),
        Mistake(
            "base ignored",
            lambda coordinates, axes, base=10000.0, longer=1.0: axial_angles(coordinates, axes, longer=longer),
            "base does not reach the frequencies: yours are always those of 10,000. Grids are short, and networks for "
            "pictures often use 100.",
        ),
        Mistake(
            "places divided",
            lambda coordinates, axes, base=10000.0, longer=1.0: axial_angles(coordinates / longer, axes, base),
            "You divide the places by longer, which slows every pair alike: position interpolation. Here longer is "
            "rope_frequencies' own and changes the base.",
        ),
        Mistake(
            "an angle for each channel",
            lambda coordinates, axes, base=10000.0, longer=1.0: axial_angles(
                coordinates, axes, base, longer
            ).repeat_interleave(2, dim=-1),
            "You return an angle for each channel. A pair has one, (N, d / 2); Rotation.of doubles them.",
        ),
        Mistake(
            "single precision",
            lambda coordinates, axes, base=10000.0, longer=1.0: axial_angles(coordinates, axes, base, longer).float(),
            "Your angles are float32. A place multiplies the rounding of its frequency: stay in float64 up to the "
            "angles; their cosines and sines may be rounded.",
        ),
        Mistake(
            "on the CPU",
            _on_the_cpu,
            "rope_frequencies makes its numbers on the CPU; coordinates of a GPU cannot be multiplied by them. Move "
            "them: .to(coordinates.device).",
        ),
        Mistake(
            "a coordinate left over",
            _axes_left_over,
            "Right where the numbers fit. A coordinate for which there are no channels is dropped without a word, and "
            "its places would be the same to the network.",
        ),
    ],
)


# --- all axes in every pair --------------------------------------------------------------------------------------


def _in_all_directions(g: torch.Generator, size: int) -> Case:
    axes, heads, pairs = (2, 3, 2, 3)[size % 4], (3, 4, 5, 2)[size % 4], (4, 6, 8, 10)[size % 4]
    return Case(4 * normal(g, 7 + 2 * size, axes), normal(g, axes, heads, pairs))


def _products(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    """Return coordinate times frequency, the axes apart: (A, h, N, d / 2)."""
    return coordinates.T[:, None, :, None] * frequencies[:, :, None]


def _axes_in_turn(coordinates: Tensor, frequencies: Tensor) -> Tensor:
    axes, _, pairs = frequencies.shape
    own = torch.arange(pairs) * axes // pairs == torch.arange(axes)[:, None]
    return (_products(coordinates, frequencies) * own[:, None, None].to(frequencies)).sum(dim=0)


MIXED = Exercise(
    id="position.mixed_angles",
    lesson="08",
    number=6,
    title="Let every pair look in its own direction",
    points=3,
    minutes=8,
    difficulty=2,
    case=_in_all_directions,
    mistakes=[
        Mistake(
            "side by side",
            lambda coordinates, frequencies: torch.cat(list(_products(coordinates, frequencies)), dim=-1),
            "You put the axes side by side, as axial RoPE does, and there are more angles than pairs. Here every pair "
            "hears all coordinates: its one angle is the sum.",
        ),
        Mistake(
            "axes in turn",
            _axes_in_turn,
            "Your first pairs turn with the row and the others with the column. That is axial RoPE with learned "
            "speeds, and can only look along the axes. Each pair adds up all coordinates: ω_row · row + ω_column · "
            "column.",
        ),
        Mistake(
            "product",
            lambda coordinates, frequencies: _products(coordinates, frequencies).prod(dim=0),
            "You multiply the axes' angles. Then a patch in row 0 is not turned at all, whatever its column, and "
            "scores no longer depend on distances. Angles add up: turning by one and then by the other.",
        ),
        Mistake(
            "first axis only",
            lambda coordinates, frequencies: _products(coordinates, frequencies)[0],
            "Only the first coordinate turns anything: all patches of a row would stand in the same place. Add the "
            "others.",
        ),
        Mistake(
            "mean",
            lambda coordinates, frequencies: _products(coordinates, frequencies).mean(dim=0),
            "You average over the axes. Learned frequencies could make up for it, but those of published weights "
            "expect the sum.",
        ),
        Mistake(
            "length",
            lambda coordinates, frequencies: _products(coordinates, frequencies).norm(dim=0),
            "You take the root of the summed squares, a distance. Left and right of a place would be the same, and "
            "differences of such angles are no offsets. Plain sums.",
        ),
        Mistake(
            "coordinates exchanged",
            lambda coordinates, frequencies: mixed_angles(coordinates.flip(-1), frequencies),
            "The coordinates meet the frequencies in reverse order: frequencies[0] belongs to coordinate 0.",
        ),
        Mistake(
            "tokens in front",
            lambda coordinates, frequencies: mixed_angles(coordinates, frequencies).transpose(0, 1),
            "You return (N, h, d/2). Queries are (B, h, N, d), with the heads in front of the tokens, and the angles "
            "must line up with them: (h, N, d/2).",
        ),
        Mistake(
            "only reshaped",
            lambda coordinates, frequencies: (
                mixed_angles(coordinates, frequencies)
                .transpose(0, 1)
                .reshape(frequencies.shape[1], len(coordinates), -1)
            ),
            "The shape is right and the contents are not: reshape only relabels (N, h, d/2), so that a head gets "
            "angles of other heads. Exchange the two axes: transpose(0, 1).",
        ),
        Mistake(
            "heads averaged",
            lambda coordinates, frequencies: mixed_angles(coordinates, frequencies).mean(dim=0),
            "The heads are gone. Each head has directions of its own, which is what RoPE-Mixed learns: keep an axis "
            "for them, (h, N, d/2).",
        ),
        Mistake(
            "an angle for each channel",
            lambda coordinates, frequencies: mixed_angles(coordinates, frequencies).repeat_interleave(2, dim=-1),
            "You return an angle for each channel. A pair has one, (h, N, d/2); Rotation.of doubles them.",
        ),
        Mistake(
            "cut off",
            lambda coordinates, frequencies: mixed_angles(coordinates, frequencies.detach()),
            "The angles are right, but no gradient reaches the frequencies: they would stay as they were drawn. They "
            "are learned here: no detach, no .data, no no_grad.",
        ),
    ],
)


# --- a grid counted from its middle ------------------------------------------------------------------------------


def _sides(g: torch.Generator, size: int) -> Case:
    """Odd and even sides in all four pairs, in turn higher and wider."""
    height, width = ((3, 4), (8, 5), (6, 10), (9, 5))[size % 4]
    return Case(*(side + 2 * int(integers(g, 1, high=3)) for side in (height, width)))


def _counted(first: Callable[[int], float]) -> Callable[[int, int], Tensor]:
    """Return a grid whose rows and columns begin at first(side)."""

    def answer(height: int, width: int) -> Tensor:
        rows, columns = (torch.arange(side) + first(side) for side in (height, width))
        return torch.cartesian_prod(rows.float(), columns.float())

    return answer


def _down_the_columns(height: int, width: int) -> Tensor:
    return centred_grid(height, width).unflatten(0, (height, width)).transpose(0, 1).flatten(0, 1)


def _to_one(height: int, width: int) -> Tensor:
    return torch.cartesian_prod(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width))


CENTRED = Exercise(
    id="position.centred_grid",
    lesson="08",
    number=7,
    title="Count from the middle",
    points=2,
    minutes=6,
    difficulty=1,
    case=_sides,
    gradient=False,
    mistakes=[
        Mistake(
            "half a patch",
            _counted(lambda side: -(side - 1) / 2),
            "Your middle is exact, and for even sides that means halves: −1.5, −0.5, 0.5, 1.5. Qwen-Image counts whole "
            "steps: four rows are −2, −1, 0, 1.",
        ),
        Mistake(
            "half of the side",
            _counted(lambda side: -side / 2),
            "You subtract half of the side, which for odd ones leaves halves: −1.5, −0.5, 0.5. The coordinates are "
            "whole: three rows are −2, −1, 0.",
        ),
        Mistake(
            "rounded to the middle",
            _counted(lambda side: -(side // 2)),
            "Even sides are right. For odd ones you begin at −⌊side / 2⌋: −1, 0, 1, with the zero in the middle patch. "
            "Qwen-Image begins at −⌈side / 2⌉, one further: −2, −1, 0. (In Python −side // 2 is that and −(side // 2) "
            "is yours: // rounds down, also below zero.)",
        ),
        Mistake(
            "zero one earlier",
            _counted(lambda side: -((side - 1) // 2)),
            "Your grid reaches further to the right and below: four rows are −1, 0, 1, 2. It is the other way round, "
            "−2, −1, 0, 1: the zero is the row just below the middle.",
        ),
        Mistake(
            "from the corner",
            _counted(lambda side: 0),
            "You count from the upper left corner. Then the same place in the middle of a larger picture has other "
            "coordinates; these grids agree in their middles.",
        ),
        Mistake(
            "scaled to one",
            _to_one,
            "You scale both sides to −1 … 1. Neighbours would lie at another distance in every picture, and in a wide "
            "one at another distance than those above. A step is 1, in all sizes.",
        ),
        Mistake(
            "column first",
            lambda height, width: centred_grid(height, width).flip(-1),
            "Your coordinates say column, row. Here it is the row first: (row, column), as in FLUX and Qwen-Image.",
        ),
        Mistake(
            "down the columns",
            _down_the_columns,
            "Your patches go down the columns. Tokens are in reading order: the second lies to the right of the first, "
            "so the column counts fastest.",
        ),
        Mistake(
            "height and width exchanged",
            lambda height, width: centred_grid(width, height),
            "Height and width have changed places, and your lines are as long as a column. On a square grid nobody "
            "notices.",
        ),
        Mistake(
            "still a grid",
            lambda height, width: centred_grid(height, width).unflatten(0, (height, width)),
            "You return (H, W, 2). Tokens stand in one line: (H · W, 2).",
        ),
        Mistake(
            "coordinates in front",
            lambda height, width: centred_grid(height, width).T,
            "You return (2, H · W), as meshgrid and indices do. A row for each token: (H · W, 2), stacked along the "
            "last axis.",
        ),
        Mistake(
            "whole numbers",
            lambda height, width: centred_grid(height, width).long(),
            "The numbers are right, but of an integer type. Coordinates are float32, since other grids have fractions "
            "and all are used in the same way.",
        ),
    ],
)


# --- words on the diagonal ---------------------------------------------------------------------------------------


def _beside_a_picture(g: torch.Generator, size: int) -> Case:
    """Draw a number of words and a picture, in turn wide and high, odd and even, of two to four axes."""
    small, large = 2 + int(integers(g, 1, high=4)), (9, 11, 10, 12)[size % 4] + 2 * int(integers(g, 1, high=3))
    height, width = (small, large) if size % 2 == 0 else (large, small)
    return Case(4 + 3 * size, height, width, *((), (2,), (4,), ())[size % 4])


def _from(first: Callable[[int, int], int], step: int = 1) -> Callable[..., Tensor]:
    """Return words on the diagonal that begin at first(height, width) and go on by step."""

    def answer(words: int, height: int, width: int, axes: int = 3) -> Tensor:
        return (first(height, width) + step * torch.arange(words).float())[:, None].expand(words, axes)

    return answer


def _one_axis(start: int) -> Callable[..., Tensor]:
    """Return words that count on the first axis alone; start: 0 for from 0, 1 for from where the picture ends."""

    def answer(words: int, height: int, width: int, axes: int = 3) -> Tensor:
        return F.pad(diagonal_text(words, height, width, 1) - (1 - start) * max(height // 2, width // 2), (0, axes - 1))

    return answer


def _own_start_on_each_axis(words: int, height: int, width: int, axes: int = 3) -> Tensor:
    starts = torch.tensor([0] * (axes - 2) + [height // 2, width // 2])
    return (starts + torch.arange(words)[:, None]).float()


DIAGONAL = Exercise(
    id="position.diagonal_text",
    lesson="08",
    number=8,
    title="Put the words on the diagonal",
    points=2,
    minutes=6,
    difficulty=1,
    case=_beside_a_picture,
    gradient=False,
    mistakes=[
        Mistake(
            "from 0",
            _from(lambda height, width: 0),
            "Your first word stands at 0, the place of the patch in the middle, and the next words on patches further "
            "down. They begin beyond the picture: at max(⌊height / 2⌋, ⌊width / 2⌋).",
        ),
        Mistake(
            "from the whole side",
            _from(max),
            "You begin at the whole longer side. The picture is centred and reaches only half as far: its largest "
            "coordinate is ⌊side / 2⌋ − 1. The first free number is ⌊side / 2⌋.",
        ),
        Mistake(
            "from the shorter side",
            _from(lambda height, width: min(height // 2, width // 2)),
            "You begin behind the shorter side. Along the longer one the words then have numbers that patches have "
            "too: max, not min.",
        ),
        Mistake(
            "from the sum",
            _from(lambda height, width: height + width),
            "You begin at height + width. That leaves a gap, and puts the words at angles that nobody has trained. The "
            "first free number is max(⌊height / 2⌋, ⌊width / 2⌋).",
        ),
        Mistake(
            "rounded up",
            _from(lambda height, width: max((height + 1) // 2, (width + 1) // 2)),
            "You round up. Odd sides reach further up and left than down and right: of nine rows the last is 3, and "
            "the first free number is 4, ⌊9 / 2⌋.",
        ),
        Mistake(
            "one further",
            _from(lambda height, width: max(height // 2, width // 2) + 1),
            "You leave one number out. The last patch has ⌊side / 2⌋ − 1, so ⌊side / 2⌋ is free already.",
        ),
        Mistake(
            "all in one place",
            _from(lambda height, width: max(height // 2, width // 2), step=0),
            "All words stand in the same place. Between two of them there is no distance, and the order of the "
            "sentence is lost: add n for word n.",
        ),
        Mistake(
            "first axis only, from 0",
            _one_axis(0),
            'Your words count on the frame axis alone and stand at row 0, column 0. That is "continued", '
            "Lumina-Image 2.0's way; on the diagonal a word has the same number on every axis.",
        ),
        Mistake(
            "first axis only",
            _one_axis(1),
            "You begin at the right number, but only the first axis counts; on the others all words stand at 0. The "
            "diagonal has the same number on every axis.",
        ),
        Mistake(
            "own start on each axis",
            _own_start_on_each_axis,
            "Each axis begins where the picture ends along it. Then a word's numbers differ from axis to axis and it "
            "leaves the diagonal. One start for all: the largest.",
        ),
        Mistake(
            "always three axes",
            lambda words, height, width, axes=3: diagonal_text(words, height, width),
            "You always return three coordinates. axes says how many there are: a network without frames has two.",
        ),
        Mistake(
            "one axis",
            lambda words, height, width, axes=3: diagonal_text(words, height, width, 1)[:, 0],
            "You return one number for each word. It must stand on every axis: (words, axes); expand repeats it "
            "without copying.",
        ),
        Mistake(
            "axes in front",
            lambda words, height, width, axes=3: diagonal_text(words, height, width, axes).T,
            "You return (axes, words). A row for each word: (words, axes).",
        ),
        Mistake(
            "whole numbers",
            lambda words, height, width, axes=3: diagonal_text(words, height, width, axes).long(),
            "The numbers are right, but of an integer type. The picture's coordinates, to which they are joined, are "
            "float32.",
        ),
    ],
)


# --- an attention that turns too much ----------------------------------------------------------------------------


def _placed(g: torch.Generator, size: int) -> Case:
    """Draw tokens and a rotation for all heads, for a single head and for each head; the fourth time there is none."""
    heads, channels = ((3, 4), (1, 6), (2, 8), (5, 2))[size % 4]
    batch, count = 2 + size, 7 + 2 * size
    own = (heads,) if size % 4 == 2 else ()
    angles = 2 * normal(g, *own, count, channels // 2)
    turned = None if size % 4 == 3 else Rotation.of(angles, ("interleaved", "half-split")[size % 4 == 2])
    build = {"width": heads * channels, "num_heads": heads, "bias": size % 2 == 0}
    return Case(normal(g, batch, count, heads * channels), turned, build=build)


Forward = Callable[..., Tensor]


def _values_turned(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
    parts = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
    if rotate is not None:
        parts = rotate(parts)
    query, key, value = parts
    return self.proj(rearrange(attend(query, key, value), "b h n d -> b n (h d)"))


def _turning(which: str, answers: bool = False, joined: bool = False) -> Forward:
    """Return a forward that turns these of q, k and v, the heads' answers too, or those after they were joined."""

    def forward(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
        turn: Rotate = (lambda t: t) if rotate is None else rotate
        parts = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        query, key, value = (turn(t) if name in which else t for name, t in zip("qkv", parts, strict=True))
        heard = attend(query, key, value)
        merged = rearrange(turn(heard) if answers else heard, "b h n d -> b n (h d)")
        return self.proj(turn(merged) if joined else merged)

    return forward


def _input_turned(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
    return _turning("")(self, x if rotate is None else rotate(x))


def _turned_before_the_heads(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
    query, key, value = self.qkv(x).chunk(3, dim=-1)
    if rotate is not None:
        query, key = rotate(query), rotate(key)
    heads = (rearrange(part, "b n (h d) -> b h n d", h=self.num_heads) for part in (query, key, value))
    return self.proj(rearrange(attend(*heads), "b h n d -> b n (h d)"))


def _turned_among_the_heads(self: SelfAttention, x: Tensor, rotate: Rotate | None = None) -> Tensor:
    query, key, value = rearrange(self.qkv(x), "b n (three h d) -> three b n h d", three=3, h=self.num_heads)
    if rotate is not None:
        query, key = rotate(query), rotate(key)
    heads = (part.transpose(1, 2) for part in (query, key, value))
    return self.proj(rearrange(attend(*heads), "b h n d -> b n (h d)"))


def _always_turned(self: SelfAttention, x: Tensor, rotate: Rotate) -> Tensor:
    query, key, value = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
    return self.proj(rearrange(attend(rotate(query), rotate(key), value), "b h n d -> b n (h d)"))


VALUES_BUG = Exercise(
    id="position.values_bug",
    reference="attention.SelfAttention.forward",
    lesson="08",
    number=9,
    title="Debug: the picture moves on, and the answers change",
    points=3,
    minutes=8,
    difficulty=2,
    case=_placed,
    tolerance=3e-5,
    broken="values turned",
    mistakes=[
        Mistake(
            "values turned",
            _values_turned,
            "The values are turned with the queries and keys. Scores depend on distances, but what is handed out is "
            "then turned by the place it comes from, and nothing turns it back: the same picture, moved on, gives "
            "other answers.",
        ),
        Mistake(
            "not turned at all",
            _turning(""),
            "Now nothing is turned: rotate is unused, and to this layer a sentence has no order again. Queries and "
            "keys must be turned, before they meet.",
        ),
        Mistake(
            "only the queries",
            _turning("q"),
            "Only the queries are turned now. A score then holds the angle of one place instead of the difference of "
            "two. Queries and keys turn, each by its own place.",
        ),
        Mistake(
            "only the keys",
            _turning("k"),
            "Only the keys are turned now. A score then holds the angle of one place instead of the difference of two. "
            "Queries and keys turn, each by its own place.",
        ),
        Mistake(
            "keys left out",
            _turning("qv"),
            "You left out the keys and still turn the values. The keys are the second of the three, and it is the "
            "third that must stay as it is.",
        ),
        Mistake(
            "queries left out",
            _turning("kv"),
            "You left out the queries and still turn the values. The queries are the first of the three, and it is "
            "the third that must stay as it is.",
        ),
        Mistake(
            "only the values",
            _turning("v"),
            "Now the values alone are turned, which is the wrong way round: queries and keys turn, values stay.",
        ),
        Mistake(
            "answers turned",
            _turning("qk", answers=True),
            "The values are right now, but you turn the heads' answers. That is a turn by the asking token's own "
            "place, and again the answers change when the picture moves on. After the softmax nothing turns.",
        ),
        Mistake(
            "turned after the heads were joined",
            _turning("qk", joined=True),
            "You turn once more after the heads were joined. There a token has D numbers and rotate knows only the d "
            "of one head; and what is handed out is not turned in any case.",
        ),
        Mistake(
            "turned before the layer",
            _input_turned,
            "You turn x before the layer makes queries, keys and values of it. All three hear the place then, mixed by "
            "weights that know nothing of pairs, and the distance is no longer what is left. Turn what the layer "
            "returns, head by head.",
        ),
        Mistake(
            "turned before the heads",
            _turned_before_the_heads,
            "You turn the right two, but before they are split into heads. rotate has angles for the d channels of "
            "one head: split first, (B, h, N, d).",
        ),
        Mistake(
            "tokens and heads exchanged",
            _turned_among_the_heads,
            "You turn (B, N, h, d), where rotate finds heads in the place of tokens. It wants (B, h, N, d), the tokens "
            "last but one.",
        ),
        Mistake(
            "always turned",
            _always_turned,
            "rotate may be None: a layer without rotations, as in every network of the lessons before. Ask before you "
            "call it.",
        ),
    ],
)


# --- places that fit squares only --------------------------------------------------------------------------------


def _words_and_patches(g: torch.Generator, size: int) -> Case:
    """Draw a sentence of words and patches for every way to place the words; pictures are never square."""
    height, width = ((3, 6), (7, 4), (2, 5), (8, 3))[size % 4]
    more = 2 * int(integers(g, 1, high=3))
    words = 4 + size + int(integers(g, 1, high=4))
    return Case(words, height + more, width + more, *((), ("continued",), ("origin",), ("diagonal",))[size % 4])


def _grid_transposed(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
    if text not in TEXT_PLACES:
        raise ValueError(f"joint_coordinates: text is {text!r}; it must be one of {', '.join(TEXT_PLACES)}")
    if text == "diagonal":
        sentence, picture = diagonal_text(words, width, height), centred_grid(width, height)
    else:
        sentence, picture = torch.zeros(words, 3), grid_coordinates(height, width)
    if text == "continued":
        sentence[:, 0] = torch.arange(words)
    frame = float(words) if text == "continued" else 0.0
    return torch.cat([sentence, F.pad(picture, (1, 0), value=frame)])


def _together(
    centred: Callable[[int, int], Tensor] = centred_grid,
    counted: Callable[[int, int], Tensor] = grid_coordinates,
    sentence: Callable[[Tensor, str], Tensor] = lambda places, text: places,
    picture: Callable[[Tensor, str], Tensor] = lambda places, text: places,
    patches_first: bool = False,
) -> Callable[..., Tensor]:
    """Return joint coordinates with other grids, or with words or patches that are moved afterwards."""

    def answer(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
        grid = (centred if text == "diagonal" else counted)(height, width)
        right = joint_coordinates(words, height, width, text)
        spoken = sentence(right[:words], text)
        seen = picture(torch.cat([right[words:, :1], grid], dim=1), text)
        return torch.cat([seen, spoken] if patches_first else [spoken, seen])

    return answer


def _from_the_corner(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
    if text != "diagonal":
        return joint_coordinates(words, height, width, text)
    return torch.cat([diagonal_text(words, height, width), F.pad(grid_coordinates(height, width), (1, 0))])


GRID_BUG = Exercise(
    id="position.grid_bug",
    reference="position.joint_coordinates",
    lesson="08",
    number=10,
    title="Debug: right on squares, scrambled on wide pictures",
    points=2,
    minutes=7,
    difficulty=1,
    case=_words_and_patches,
    gradient=False,
    broken="grid transposed",
    mistakes=[
        Mistake(
            "grid transposed",
            _grid_transposed,
            "Height and width have changed places in the centred grid: its rows are as long as a column, and patches "
            "that touch get places far apart. On a square grid, and with the words at the origin, nothing is wrong.",
        ),
        Mistake(
            "column first",
            _together(centred=lambda height, width: centred_grid(height, width).flip(-1)),
            "The patches are in reading order now, but row and column have changed places: (frame, column, row). The "
            "row comes first.",
        ),
        Mistake(
            "down the columns",
            _together(centred=lambda height, width: centred_grid(width, height).flip(-1)),
            "Now every pair of numbers names a patch of this picture, but they go down the columns. Tokens are in "
            "reading order; exchanging the two columns cannot mend that. Look at what the grid is asked for.",
        ),
        Mistake(
            "the other grid turned too",
            _together(counted=lambda height, width: grid_coordinates(width, height)),
            "The centred grid is right now, and the other one, which was right, is transposed: you exchanged height "
            "and width there as well. Both want height, width.",
        ),
        Mistake(
            "both grids turned",
            _together(
                centred=lambda height, width: centred_grid(width, height),
                counted=lambda height, width: grid_coordinates(width, height),
            ),
            "You made the two branches alike, after the wrong one: now both grids are transposed. Both want height, "
            "width.",
        ),
        Mistake(
            "from the corner",
            _from_the_corner,
            "Your grid is no longer transposed, and no longer centred: with the words on the diagonal the picture is "
            "counted from its middle. From the corner it reaches twice as far, and the words stand among the patches.",
        ),
        Mistake(
            "always centred",
            _together(counted=centred_grid),
            "You centre every grid. That belongs to the diagonal; with words at the origin or on the frame axis the "
            "picture is counted from its upper left corner.",
        ),
        Mistake(
            "frame last",
            _together(picture=lambda places, text: places.roll(-1, dims=1)),
            "The patches' frame stands last, (row, column, frame). It comes first: pad on the left, (1, 0).",
        ),
        Mistake(
            "words last",
            _together(patches_first=True),
            "The patches come first with you. A sentence begins with its words; the patches follow.",
        ),
        Mistake(
            "picture in frame 0",
            _together(picture=lambda places, text: F.pad(places[:, 1:], (1, 0))),
            "Every picture stands in frame 0 with you. Where the words count on along the frame axis, the picture is "
            "one more step: it stands in frame `words`.",
        ),
        Mistake(
            "words without places",
            _together(sentence=lambda places, text: torch.zeros_like(places)),
            "Your words always stand at the origin. That was not the error: diagonal and continued give each word a "
            "place of its own.",
        ),
    ],
)

EXERCISES = [
    ROTATE,
    FREQUENCIES,
    SHIFT_ERROR,
    CONVERT,
    AXIAL,
    MIXED,
    CENTRED,
    DIAGONAL,
    VALUES_BUG,
    GRID_BUG,
]


# --- guesses and the question in words ---------------------------------------------------------------------------

PLACES = {
    "none": "none at all",
    "learned, σ 0.5": "a learned table, added",
    "sin-cos": "fixed sines and cosines, added",
    "axial": "axial rotations",
    "mixed": "mixed rotations, learned",
    "": "no single one stands out",
}
DRAWN = ("no object: noise or an empty ground", "one object", "several objects")


def _best_places() -> str:
    """Read which of the five kinds of positions draws what is asked for most often, after the whole training."""
    kinds = [kind for kind in PLACES if kind]
    best = results.established(results.load("rope_positions"), "accuracy", kinds, better="higher", at=1.0)
    return PLACES[best or ""]


def _objects_at_twice_the_side() -> str:
    """Read how many objects a picture has on average: below 0.5 none, up to 1.5 one, more than that several."""
    counts = results.load("rope_sizes").values("axial, extended", "objects", 2)
    mean = sum(counts) / len(counts)
    return DRAWN[0] if mean < 0.5 else DRAWN[1] if mean <= 1.5 else DRAWN[2]


def _longest_wave() -> float:
    """Compute after how many rows the slowest of 16 pairs has turned once."""
    return 2 * math.pi / float(rope_frequencies(32, 100.0)[-1])


QUESTIONS = [
    Question(
        id="rope.q1",
        lesson="08",
        text="Five small DiTs are trained alike on 16×16 shapes, for 1,500 steps; they differ only in how a patch "
        "hears its place. Which draws the colour and shape that were asked for most often?",
        choices=tuple(PLACES.values()),
        answer=_best_places,
        because="Judged by the share of pictures in which the judge finds what was asked for: one kind is named only "
        "where its paired interval against each of the other four, widened for ten comparisons, leaves out 0. The "
        "learned table is the one with the larger start.",
    ),
    Question(
        id="rope.q2",
        lesson="08",
        text="A DiT with axial rotations has only seen pictures of 16×16 pixels with one object each. It is asked for "
        "32×32 pixels: rows and columns go on counting, from 0 to 7 instead of 3. What does a picture show?",
        choices=DRAWN,
        answer=_objects_at_twice_the_side,
        because="Read from the recorded runs as the mean number of objects a picture: below 0.5 counts as none, up to "
        "1.5 as one, more as several. The mean says nothing about their size: look at the pictures for that.",
    ),
    Question(
        id="rope.q3",
        lesson="08",
        text="A head of 64 channels turns 32 of them with the row, with base 100. After how many rows does the slowest "
        "of these pairs come round again?",
        unit="rows",
        answer=_longest_wave,
        because="16 pairs, the slowest of which turns 100 ** (−30 / 32) of a radian a row: 2π / 0.0133. With base "
        "10,000 it would be 35,333, for grids that have some tens of rows.",
    ),
]

PROSE = [
    Prose(
        id="rope.w1",
        lesson="08",
        text="A colleague adds rotary positions to a text-to-image transformer in which words and patches share one "
        "attention. The text encoder already knows the order of its words. Where should the words stand: all at the "
        "origin, on a continued index, or on the diagonal? Advise, and say what you would measure.",
        points=2,
        rubric=(
            "weighs at least two of the three by what the places do: at the origin words have no order of their own "
            "(the encoder's vectors carry it) and share the place of a patch; continued, they have an order on an axis "
            "of their own, and the picture's place hangs on their number; on the diagonal they keep one-dimensional "
            "distances among themselves, off every patch, and begin where the picture's size says; advises one with a "
            "reason and does not sell it as proven: 1",
            "names a measurement that could decide against the advice: the same network trained with each placing, "
            "several seeds, prompt accuracy (or binding of colours to shapes) with paired intervals, also at sizes, "
            "shapes or numbers of words that were not trained: 1",
        ),
        min_words=60,
        max_words=150,
    )
]
