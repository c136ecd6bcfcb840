"""Lesson 06, DiT: a ViT's places, patches laid out again, a learned variance, and what is measured and counted."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lesson_lib import results
from lesson_lib.dit import DiT, DiTConfig, macs, sum_of, unpatchify
from lesson_lib.evaluate import frechet_distance
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
from lesson_lib.guidance import guide
from lesson_lib.noise import expand
from lesson_lib.position import sin_cos_1d, sin_cos_2d

LESSON = LessonCard(
    number="06",
    slug="dit",
    title="DiT",
    question="What does a ViT need to become a generator?",
    minutes=110,
    prerequisites=("02", "05"),
)


# --- the table of places -----------------------------------------------------------------------------------------


def _grid(g: torch.Generator, size: int) -> Case:
    height = 3 + int(integers(g, 1, high=4))
    return Case(height, height + (2, -1, 3, -2)[size % 4], 8 + 4 * (size % 4) + 8 * int(integers(g, 1, high=3)))


def _places(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the row and the column of every patch, in reading order."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return rows.flatten(), columns.flatten()


def _hands(positions: Tensor, size: int, over: int = 0) -> tuple[Tensor, Tensor]:
    """Return sines and cosines (N, size / 2) each; over: what the exponent is divided by, size / 2 unless given."""
    exponent = torch.arange(size // 2, dtype=torch.float64) / (over or size // 2)
    angles = positions.double()[:, None] * 10_000.0**-exponent
    return angles.sin().float(), angles.cos().float()


def _row_first(height: int, width: int, size: int) -> Tensor:
    return torch.cat([sin_cos_1d(place, size // 2) for place in _places(height, width)], dim=1)


def _column_by_column(height: int, width: int, size: int) -> Tensor:
    return sin_cos_2d(height, width, size).unflatten(0, (height, width)).transpose(0, 1).flatten(0, 1)


def _interleaved(height: int, width: int, size: int) -> Tensor:
    rows, columns = _places(height, width)
    parts = [torch.stack(_hands(place, size // 2), dim=2).flatten(1) for place in (columns, rows)]
    return torch.cat(parts, dim=1)


def _cosines_first(height: int, width: int, size: int) -> Tensor:
    rows, columns = _places(height, width)
    return torch.cat([hand for place in (columns, rows) for hand in reversed(_hands(place, size // 2))], dim=1)


def _all_sines_first(height: int, width: int, size: int) -> Tensor:
    rows, columns = _places(height, width)
    pairs = zip(_hands(columns, size // 2), _hands(rows, size // 2), strict=True)
    return torch.cat([hand for pair in pairs for hand in pair], dim=1)


def _over_half(height: int, width: int, size: int) -> Tensor:
    rows, columns = _places(height, width)
    return torch.cat([hand for place in (columns, rows) for hand in _hands(place, size // 2, size // 2)], dim=1)


def _added(height: int, width: int, size: int) -> Tensor:
    rows, columns = _places(height, width)
    return sin_cos_1d(columns, size) + sin_cos_1d(rows, size)


def _in_a_line(height: int, width: int, size: int) -> Tensor:
    return sin_cos_1d(torch.arange(height * width), size)


def _rounded_down(height: int, width: int, size: int) -> Tensor:
    rows, columns = _places(height, width)
    return torch.cat([hand for place in (columns, rows) for hand in _hands(place, size // 2)], dim=1)


def _divides_by_four(answer: Callable[..., Tensor], case: Case) -> str | None:
    height, width, size = case.args
    for wrong in (size + 1, size + 2):
        try:
            found = answer(height, width, wrong)
        except ValueError:
            continue
        except Exception as error:
            return f"size {wrong} does not divide by 4: raise a ValueError, not {kind(error)}."
        return (
            f"size {wrong} does not divide by 4, but you return rows of {found.shape[-1]} numbers. Raise a ValueError "
            "that says which sizes fit."
        )
    return None


PLACES = Exercise(
    id="position.sin_cos_2d",
    lesson="06",
    number=1,
    title="Tell every patch its column and its row",
    points=3,
    minutes=9,
    difficulty=2,
    case=_grid,
    gradient=False,
    properties=[Property("what does not divide by 4", _divides_by_four)],
    mistakes=[
        Mistake(
            "row first",
            _row_first,
            "Your first half encodes the row. In DiT's code it is the column, although the variable there is called h. "
            "A network trained with your table would learn as well, but DiT's published weights would place every "
            "patch as if the picture were mirrored along its diagonal.",
        ),
        Mistake(
            "column by column",
            _column_by_column,
            "Your table goes through the grid column by column. The patches come in reading order: the token after "
            "the first lies to its right. Look at the indexing of meshgrid, and at what comes first in it.",
        ),
        Mistake(
            "height and width swapped",
            lambda height, width, size: sin_cos_2d(width, height, size),
            "Height and width have changed places. On a square grid nobody notices; on this one your lines are as "
            "long as a column. Rows are counted along the height, columns along the width.",
        ),
        Mistake(
            "interleaved",
            _interleaved,
            "Your numbers alternate: sine, cosine, sine, cosine. Within each half all sines come first, then all "
            "cosines: cat, not stack.",
        ),
        Mistake(
            "cosines first",
            _cosines_first,
            "Sines and cosines have changed places. DiT's time features have the cosines first, its table of places "
            "has the sines first: sin_cos_1d does it right, sinusoidal does not.",
        ),
        Mistake(
            "all sines first",
            _all_sines_first,
            "You sort by sines and cosines first and by coordinate after. Each coordinate keeps its half to itself: "
            "column (sines, cosines), then row (sines, cosines).",
        ),
        Mistake(
            "exponent over D / 2",
            _over_half,
            "Your frequencies fall too slowly: the slowest hand is up to a hundred times as fast as it should be. "
            "Each coordinate has D / 2 numbers, so D / 4 frequencies: the exponent is j / (D / 4).",
        ),
        Mistake(
            "added",
            _added,
            "You encode both coordinates at full width and add them. Then column 2, row 5 and column 5, row 2 get the "
            "same vector. Give each coordinate half of the width, and put the halves side by side.",
        ),
        Mistake(
            "in a line",
            _in_a_line,
            "You number the patches in a line, as words of a text. A patch and the one below it are then as far apart "
            "as the line is long. Encode column and row, each in its own half.",
        ),
        Mistake(
            "one more axis",
            lambda height, width, size: sin_cos_2d(height, width, size)[None],
            "The table has one axis too many, as in DiT.pos_embed, where the constructor adds it. Return (H · W, D).",
        ),
        Mistake(
            "not flattened",
            lambda height, width, size: sin_cos_2d(height, width, size).unflatten(0, (height, width)),
            "Your table is still a grid. Tokens stand in one line: flatten rows and columns to one axis of H · W.",
        ),
        Mistake(
            "double precision",
            lambda height, width, size: sin_cos_2d(height, width, size).double(),
            "The numbers are right, but float64, as numpy makes them. Added to float32 tokens they would turn the "
            "whole network to float64, or stop it. Return float32.",
        ),
        Mistake(
            "rounded down",
            _rounded_down,
            "The table is right where size divides by 4. Otherwise // rounds, and the rows are shorter than the "
            "tokens they are added to. Refuse such a size with a ValueError.",
        ),
    ],
)


# --- from tokens to a picture ------------------------------------------------------------------------------------


def _patches(g: torch.Generator, size: int) -> Case:
    """Draw tokens of a grid that is not square, with other numbers of channels than of pixels along a patch."""
    height, width = ((2, 3), (5, 2), (3, 4), (2, 8))[size % 4]
    patch_size, channels = ((2, 3), (3, 2), (2, 5), (4, 1))[size % 4]
    batch = 2 + size
    return Case(normal(g, batch, height * width, patch_size**2 * channels), patch_size, height)


def _laid_out(pattern: str, **swapped: str) -> Callable[[Tensor, int, int], Tensor]:
    """Return an unpatchify that follows another pattern; height="width" gives the number to that axis."""
    name = swapped.get("height", "height")

    def answer(tokens: Tensor, patch_size: int, height: int) -> Tensor:
        return rearrange(tokens, pattern, **{name: height, "p1": patch_size, "p2": patch_size})

    return answer


def _square(tokens: Tensor, patch_size: int, height: int) -> Tensor:
    side = int(tokens.shape[1] ** 0.5)
    assert side * side == tokens.shape[1]
    return unpatchify(tokens, patch_size, side)


def _only_reshaped(tokens: Tensor, patch_size: int, height: int) -> Tensor:
    batch, count, numbers = tokens.shape
    return tokens.reshape(batch, numbers // patch_size**2, height * patch_size, count // height * patch_size)


def _channels_last(tokens: Tensor, patch_size: int, height: int) -> Tensor:
    return rearrange(unpatchify(tokens, patch_size, height), "b c height width -> b height width c")


PICTURE = "b c (height p1) (width p2)"

UNPATCHIFY = Exercise(
    id="dit.unpatchify",
    lesson="06",
    number=2,
    title="Lay the patches out as a picture",
    points=3,
    minutes=9,
    difficulty=2,
    case=_patches,
    mistakes=[
        Mistake(
            "channels outermost",
            _laid_out(f"b (height width) (c p1 p2) -> {PICTURE}"),
            "You undo patchify, where the channels stand outermost in a token. DiT's last layer writes (row, column, "
            "channel), the channel fastest. Both are trainable, but the published weights know only theirs.",
        ),
        Mistake(
            "grid transposed",
            _laid_out(f"b (width height) (p1 p2 c) -> {PICTURE}"),
            "Your patches are laid out column by column. Tokens come in reading order: the second one lies to the "
            "right of the first, so the width counts fastest.",
        ),
        Mistake(
            "patch transposed",
            _laid_out(f"b (height width) (p2 p1 c) -> {PICTURE}"),
            "The patches are in their places, but each is mirrored along its diagonal: inside a token the row counts "
            "slower than the column.",
        ),
        Mistake(
            "height for width",
            _laid_out(f"b (height width) (p1 p2 c) -> {PICTURE}", height="width"),
            "You use height as the number of patches in a line, and the picture lies on its side. height counts the "
            "patches from top to bottom; the width is what is left of N.",
        ),
        Mistake(
            "square",
            _square,
            "You take the root of N for both sides, as DiT's code does, which knows square pictures only. Here the "
            "grid may have any shape: height is given, the width is N / height.",
        ),
        Mistake(
            "patches scattered",
            _laid_out("b (height width) (p1 p2 c) -> b c (p1 height) (p2 width)"),
            "Inside a side of the picture you have the pixel of the patch first and the patch second, which scatters "
            "each patch over the whole picture. Which patch is the coarse question: (height p1), (width p2).",
        ),
        Mistake(
            "only reshaped",
            _only_reshaped,
            "The shape is right and the contents are not: reshape reads memory in order, and there a whole token "
            "comes before the next. Split the axes first, then move them, then join them.",
        ),
        Mistake(
            "channels last",
            _channels_last,
            "Your picture has its channels last, as files and matplotlib do. torch wants (B, C, H, W).",
        ),
    ],
)


# --- the whole ---------------------------------------------------------------------------------------------------


def _little(**changes: int | bool | str) -> DiTConfig:
    settings = {"in_channels": 3, "hidden_size": 8, "depth": 1, "num_heads": 2, "num_classes": 0, "learn_sigma": False}
    return DiTConfig(**settings | changes)  # type: ignore[arg-type]


WHOLES = (
    _little(input_size=4, patch_size=2, num_classes=5, learn_sigma=True),
    _little(input_size=12, patch_size=3, in_channels=2, depth=2),
    _little(input_size=8, patch_size=2, hidden_size=12, num_classes=3, learn_sigma=True, conditioning="in-context"),
    _little(input_size=6, patch_size=3, in_channels=1, num_classes=4, conditioning="adaln-single", context_size=6),
)


def _noisy(g: torch.Generator, size: int) -> Case:
    """Draw noisy pictures, times, and labels and words where the network has them; the null class is a label too."""
    config, batch = WHOLES[size % len(WHOLES)], 3 + 2 * (size % 3) + size // len(WHOLES)
    given: list[Tensor | None] = []
    if config.num_classes:
        given.append(integers(g, batch, high=config.num_classes + 1))
    if config.context_size:
        given.append(normal(g, batch, 7, config.context_size))
    x = normal(g, batch, config.in_channels, config.input_size, config.input_size)
    return Case(x, uniform(g, batch, low=0.0, high=1000.0), *given, build={"config": config})


Given = Tensor | None


def _tokens(self: DiT, x: Tensor) -> Tensor:
    return self.x_embedder(x) + self.pos_embed


def _heard(self: DiT, t: Tensor, labels: Given) -> list[Tensor]:
    return [self.t_embedder(t), *([] if self.y_embedder is None else [self.y_embedder(labels)])]


def _picture(self: DiT, numbers: Tensor) -> Tensor:
    return unpatchify(numbers, self.config.patch_size, self.config.grid)


def _passed(self: DiT, tokens: Tensor, heard: list[Tensor], context: Given) -> Tensor:
    """Return the end of the way, from what the blocks are told on."""
    return _picture(self, self.final_layer(self.run_blocks(tokens, heard, context), sum_of(heard)))


def _no_positions(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    return _passed(self, self.x_embedder(x), _heard(self, t, labels), context)


def _no_class(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    return _passed(self, _tokens(self, x), [self.t_embedder(t)], context)


def _bare_labels(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    heard = [self.t_embedder(t)] + ([] if labels is None else [labels])
    return _passed(self, _tokens(self, x), heard, context)


def _labels_as_column(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    told = self.t_embedder(t)
    heard = [told] + ([] if labels is None else [labels[:, None].expand_as(told)])
    return _passed(self, _tokens(self, x), heard, context)


def _always_a_class(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    heard = [self.t_embedder(t), self.y_embedder(labels)]  # type: ignore[misc]
    return _passed(self, _tokens(self, x), heard, context)


def _truth_of_labels(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    heard = [self.t_embedder(t)] + ([self.y_embedder(labels)] if labels else [])  # type: ignore[misc]
    return _passed(self, _tokens(self, x), heard, context)


def _silu_twice(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    return _passed(self, _tokens(self, x), [F.silu(sum_of(_heard(self, t, labels)))], context)


def _silu_on_each(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    return _passed(self, _tokens(self, x), [F.silu(vector) for vector in _heard(self, t, labels)], context)


def _one_vector(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    return _passed(self, _tokens(self, x), [sum_of(_heard(self, t, labels))], context)


def _no_list(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    c = sum_of(_heard(self, t, labels))
    tokens = self.run_blocks(_tokens(self, x), c, context)  # type: ignore[arg-type]
    return _picture(self, self.final_layer(tokens, c))


def _own_loop(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    tokens, c = _tokens(self, x), sum_of(_heard(self, t, labels))
    for block in self.blocks:
        tokens = block(tokens, c)
    return _picture(self, self.final_layer(tokens, c))


def _no_words(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    return _passed(self, _tokens(self, x), _heard(self, t, labels), None)


def _last_hears_time(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    heard = _heard(self, t, labels)
    return _picture(self, self.final_layer(self.run_blocks(_tokens(self, x), heard, context), heard[0]))


def _last_is_deaf(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    tokens = self.run_blocks(_tokens(self, x), _heard(self, t, labels), context)
    return _picture(self, self.final_layer(tokens))


def _picture_too_early(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    heard = _heard(self, t, labels)
    return self.final_layer(_picture(self, self.run_blocks(_tokens(self, x), heard, context)), sum_of(heard))


def _no_last_layer(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    return _picture(self, self.run_blocks(_tokens(self, x), _heard(self, t, labels), context))


def _still_tokens(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    heard = _heard(self, t, labels)
    return self.final_layer(self.run_blocks(_tokens(self, x), heard, context), sum_of(heard))


def _pixels_for_patches(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    heard, config = _heard(self, t, labels), self.config
    self._check(x, t, labels, context)
    numbers = self.final_layer(self.run_blocks(_tokens(self, x), heard, context), sum_of(heard))
    return unpatchify(numbers, config.patch_size, config.input_size)


def _half_the_answer(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    self._check(x, t, labels, context)
    return _passed(self, _tokens(self, x), _heard(self, t, labels), context)[:, : self.config.in_channels]


def _not_checked(self: DiT, x: Tensor, t: Tensor, labels: Given = None, context: Given = None) -> Tensor:
    return _passed(self, _tokens(self, x), _heard(self, t, labels), context)


def _refuses_other_shapes(answer: Callable[..., Tensor], case: Case) -> str | None:
    x, *rest = case.args
    batch, channels, side, _ = x.shape
    tall = x.reshape(batch, channels, 2 * side, side // 2)
    try:
        answer(tall, *rest)
    except ValueError:
        return None
    except Exception as error:
        return f"pictures of {2 * side}×{side // 2} should raise a ValueError, not {kind(error)}: see self._check."
    return (
        f"pictures of {2 * side}×{side // 2} have as many patches as the {side}×{side} this network was built for, so "
        "they pass, with the places of other patches, and come back in another shape. Call self._check first."
    )


FORWARD = Exercise(
    id="dit.DiT.forward",
    lesson="06",
    number=3,
    title="From a noisy picture to what the noise was",
    points=5,
    minutes=14,
    difficulty=2,
    case=_noisy,
    tolerance=1e-4,
    properties=[Property("what does not fit", _refuses_other_shapes)],
    mistakes=[
        Mistake(
            "no places",
            _no_positions,
            "The tokens go into the blocks without self.pos_embed. Attention sees a set: without the table the network "
            "cannot know which patch lies where. Add it once, after the patches are embedded.",
        ),
        Mistake(
            "no class",
            _no_class,
            "Your network hears the time and not the class: self.y_embedder is unused, so all labels give the same "
            "picture, and guidance has nothing to push along.",
        ),
        Mistake(
            "labels not embedded",
            _bare_labels,
            "You hand the labels on as they are, whole numbers of shape (B,). Class 4 is not twice class 2: "
            "self.y_embedder looks up a vector (B, D) for each.",
        ),
        Mistake(
            "labels as numbers",
            _labels_as_column,
            "You add the label's number to every entry of the time's vector, as if class 4 were twice class 2. "
            "self.y_embedder looks up a vector of its own for each class.",
        ),
        Mistake(
            "always a class",
            _always_a_class,
            "A network built without classes has no self.y_embedder; it is None, and None cannot be called. Ask first "
            "whether there is one.",
        ),
        Mistake(
            "truth of the labels",
            _truth_of_labels,
            "`if labels` asks a whole tensor whether it is true, and torch refuses to say. Ask whether there is one: "
            "`self.y_embedder is not None`.",
        ),
        Mistake(
            "SiLU once too often",
            _silu_twice,
            "You send the sum of time and class through SiLU. Every Modulation does so itself, before its linear "
            "layer, and once is enough: hand over what was heard as it is.",
        ),
        Mistake(
            "SiLU on each part",
            _silu_on_each,
            "You send the time's vector and the class's through SiLU. The SiLU stands inside every Modulation and "
            "takes their sum; before that the two are added as they are.",
        ),
        Mistake(
            "one vector for the blocks",
            _one_vector,
            "You give run_blocks the sum only. That is all that adaLN needs, but blocks that listen in another way, "
            "as in-context ones do, need time and class apart: hand over the list of what was heard.",
        ),
        Mistake(
            "the sum is no list",
            _no_list,
            "run_blocks wants a list of vectors (B, D) and got one tensor, whose rows, the pictures, it takes for the "
            "list. Hand over the list; it adds them up itself where its blocks want the sum.",
        ),
        Mistake(
            "a loop of your own",
            _own_loop,
            "You call the blocks yourself with the sum. That is right for adaLN only: other ways to listen put "
            "tokens into the sentence or share one modulation. self.run_blocks knows them all.",
        ),
        Mistake(
            "no words",
            _no_words,
            "context does not arrive in the blocks. A network built with context_size attends to words in every block: "
            "run_blocks takes them as its third argument.",
        ),
        Mistake(
            "the last layer hears the time only",
            _last_hears_time,
            "The blocks hear time and class, but your last layer hears the time alone. It is modulated by their sum, "
            "as the blocks are: sum_of(heard).",
        ),
        Mistake(
            "the last layer hears nothing",
            _last_is_deaf,
            "self.final_layer takes two things: the tokens, and the vector c = sum_of(heard) that says how to shift "
            "and scale them.",
        ),
        Mistake(
            "picture before the last layer",
            _picture_too_early,
            "You make a picture of the tokens before the last layer. That layer works on tokens (B, N, D): it turns D "
            "features into the p² · C numbers of a patch, and only these can be laid out.",
        ),
        Mistake(
            "no last layer",
            _no_last_layer,
            "Tokens of D features cannot be laid out as pixels: self.final_layer is missing, which turns each into "
            "the p² · C numbers of its patch.",
        ),
        Mistake(
            "still tokens",
            _still_tokens,
            "You return (B, N, p² · C): a row of numbers for each patch. unpatchify makes a picture of them.",
        ),
        Mistake(
            "pixels for patches",
            _pixels_for_patches,
            "The last argument of unpatchify counts patches from top to bottom, and you give the pixels: "
            "self.rows, not input_size.",
        ),
        Mistake(
            "half the answer",
            _half_the_answer,
            "With learn_sigma the answer has twice as many channels as the picture, and you return the first half. "
            "The second half chooses the variance of a step; whoever samples or trains splits the two.",
        ),
        Mistake(
            "not checked",
            _not_checked,
            "The pictures are right, but self._check is not called: labels for a network without classes are ignored "
            "in silence, and a picture of another shape with as many patches passes. Check at the door, once.",
        ),
    ],
)


# --- a learned variance ------------------------------------------------------------------------------------------


def _chosen(g: torch.Generator, size: int) -> Case:
    """Draw raw outputs, some of them beyond −1 and 1, as maps and as vectors in turn, and two levels of noise."""
    batch = 4 + size
    now = uniform(g, batch, low=0.1, high=0.6)
    before = now + (1 - now) * uniform(g, batch, low=0.3, high=0.9)
    shape = ((3, 2, 5), (6,))[size % 2]
    return Case(0.8 * normal(g, batch, *shape), now, before)


def _bounds(v: Tensor, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return beta, the posterior's variance and the share of the first, all as they should be."""
    now, before = expand(now, v), expand(before, v)
    beta = 1 - now / before
    return beta, (beta * (1 - before) / (1 - now)).clamp(min=1e-20), (v + 1) / 2


def _between(beta: Tensor, smallest: Tensor, share: Tensor) -> Tensor:
    return torch.exp(share * beta.log() + (1 - share) * smallest.log())


def _straight_line(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, smallest, share = _bounds(v, now, before)
    return share * beta + (1 - share) * smallest


def _raw_share(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, smallest, _ = _bounds(v, now, before)
    return _between(beta, smallest, v)


def _sigmoid_share(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, smallest, _ = _bounds(v, now, before)
    return _between(beta, smallest, v.sigmoid())


def _clamped_share(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, smallest, share = _bounds(v, now, before)
    return _between(beta, smallest, share.clamp(0, 1))


def _bounds_swapped(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, smallest, share = _bounds(v, now, before)
    return _between(smallest, beta, share)


def _no_posterior(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, _, share = _bounds(v, now, before)
    return torch.exp(share * beta.log())


def _not_divided(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, _, share = _bounds(v, now, before)
    return _between(beta, beta * (1 - expand(before, v)), share)


def _upside_down(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, _, share = _bounds(v, now, before)
    return _between(beta, beta * (1 - expand(now, v)) / (1 - expand(before, v)), share)


def _all_noise(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    _, _, share = _bounds(v, now, before)
    beta = 1 - expand(now, v)
    return _between(beta, beta * (1 - expand(before, v)) / (1 - expand(now, v)), share)


def _logarithm(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    return _between(*_bounds(v, now, before)).log()


def _deviation(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    return _between(*_bounds(v, now, before)).sqrt()


def _bare_levels(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta = 1 - now / before
    return _between(beta, beta * (1 - before) / (1 - now), (v + 1) / 2)


def _not_held(v: Tensor, now: Tensor, before: Tensor) -> Tensor:
    beta, _, share = _bounds(v, now, before)
    return _between(beta, beta * (1 - expand(before, v)) / (1 - expand(now, v)), share)


def _last_step(answer: Callable[..., Tensor], case: Case) -> str | None:
    v, now, _ = case.args
    v = v.clamp(-0.9, 0.9)
    v[0] = 1.0
    found = answer(v, now, torch.ones_like(now))
    if not bool(torch.isfinite(found).all()):
        return (
            "where alpha_bar_prev is 1, the last step of sampling, the posterior's variance is 0 and its logarithm "
            "−∞; with v = 1 that is 0 · ∞, and your result holds NaN or ∞."
        )
    if float((found[0] - (1 - now[0])).abs().max()) > 1e-3 * float(1 - now[0]):
        return f"where alpha_bar_prev is 1, v = 1 must give beta, {1 - now[0]:.4g}; you return {found[0].max():.4g}."
    return None


VARIANCE = Exercise(
    id="noise.learned_variance",
    lesson="06",
    number=4,
    title="Let the network choose how much noise to add",
    points=3,
    minutes=10,
    difficulty=2,
    case=_chosen,
    tolerance=2e-5,
    properties=[Property("nothing before it", _last_step)],
    mistakes=[
        Mistake(
            "straight line",
            _straight_line,
            "You mix the two variances themselves. They may differ by powers of ten, and then nearly every v gives "
            "about the larger one. Mix their logarithms, and take the exponential.",
        ),
        Mistake(
            "v as the share",
            _raw_share,
            "You use v as the share. It runs from −1 for the smaller bound to 1 for the larger; a share runs from 0 to "
            "1: (v + 1) / 2. A fresh DiT, which answers 0, must stand half-way.",
        ),
        Mistake(
            "sigmoid",
            _sigmoid_share,
            "You squash v with a sigmoid, so neither bound can be reached. The share is a straight line in v: "
            "(v + 1) / 2.",
        ),
        Mistake(
            "v clamped",
            _clamped_share,
            "You hold v within −1 and 1. The reference does not: beyond them the variance leaves the two bounds, and "
            "the gradient still says how to come back. A clamped v would learn nothing there.",
        ),
        Mistake(
            "bounds swapped",
            _bounds_swapped,
            "The bounds have changed places: with you v = 1 gives the posterior's variance. It must give beta, the "
            "larger one, and −1 the posterior's.",
        ),
        Mistake(
            "no posterior",
            _no_posterior,
            "There is one bound only: with v = −1 you return 1, more noise than there ever was. The logarithm of the "
            "posterior's variance is missing, with the share that is left.",
        ),
        Mistake(
            "not divided",
            _not_divided,
            "Your smaller bound is too small: the posterior's variance is beta · (1 − alpha_bar_prev) divided by "
            "(1 − alpha_bar), and the division is missing.",
        ),
        Mistake(
            "upside down",
            _upside_down,
            "The fraction in the posterior's variance stands upside down, so your smaller bound is larger than beta. "
            "Less noise before than now: (1 − alpha_bar_prev) / (1 − alpha_bar).",
        ),
        Mistake(
            "all the noise",
            _all_noise,
            "You take 1 − alpha_bar for beta. That is all the noise since the beginning; beta is what this one step "
            "added: 1 − alpha_bar / alpha_bar_prev.",
        ),
        Mistake(
            "still a logarithm",
            _logarithm,
            "You return the logarithm of the variance. Take the exponential at the end.",
        ),
        Mistake(
            "deviation",
            _deviation,
            "You return the standard deviation. The variance is wanted; the sampler takes the root.",
        ),
        Mistake(
            "no axes",
            _bare_levels,
            "alpha_bar has the shape (B,), v has (B, …). torch lines shapes up from the right, so the levels meet the "
            "last axis of v. expand(alpha_bar, v) gives them the missing axes.",
        ),
        Mistake(
            "logarithm of zero",
            _not_held,
            "Right on all other steps. On the very last one alpha_bar_prev is 1, the posterior's variance 0 and its "
            "logarithm −∞. Hold it above a tiny number before you take the logarithm: clamp(min=1e-20).",
        ),
    ],
)


# --- guidance on some channels -----------------------------------------------------------------------------------


def _halves(g: torch.Generator, size: int) -> Case:
    """Draw two predictions; by default three channels are guided, later other numbers, and once all there are."""
    total, channels = ((8, ()), (5, (2,)), (6, (4,)), (3, (3,)))[size % 4]
    shape = (5 + size, total, 3, 4 + size)
    return Case(normal(g, *shape), normal(g, *shape), float(uniform(g, 1, low=1.5, high=6.0)), *channels)


def _others_unconditional(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    return torch.cat([guide(cond, uncond, scale)[:, :channels], uncond[:, channels:]], dim=1)


def _last_channels(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    first = cond.shape[1] - channels
    return torch.cat([cond[:, :first], guide(cond, uncond, scale)[:, first:]], dim=1)


def _half_guided(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    half = cond.shape[1] // 2
    return torch.cat([guide(cond, uncond, scale)[:, :half], cond[:, half:]], dim=1)


def _always_three(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    return torch.cat([guide(cond, uncond, scale)[:, :3], cond[:, 3:]], dim=1)


def _pictures_cut(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    return torch.cat([guide(cond, uncond, scale)[:channels], cond[channels:]])


def _joined_along_pictures(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    return torch.cat([guide(cond, uncond, scale)[:, :channels], cond[:, channels:]])


def _w_not_s(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    return torch.cat([guide(cond, uncond, 1 + scale)[:, :channels], cond[:, channels:]], dim=1)


def _roles_swapped(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    return torch.cat([guide(uncond, cond, scale)[:, :channels], cond[:, channels:]], dim=1)


def _others_zero(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    return torch.cat([guide(cond, uncond, scale)[:, :channels], torch.zeros_like(cond[:, channels:])], dim=1)


def _overwritten(cond: Tensor, uncond: Tensor, scale: float, channels: int = 3) -> Tensor:
    cond[:, :channels] = guide(cond[:, :channels], uncond[:, :channels], scale)
    return cond


GUIDE_FIRST = Exercise(
    id="guidance.guide_first",
    lesson="06",
    number=5,
    title="Guide the noise, not the variance",
    points=2,
    minutes=6,
    difficulty=1,
    case=_halves,
    mistakes=[
        Mistake(
            "all channels",
            lambda cond, uncond, scale, channels=3: guide(cond, uncond, scale),
            "You guide every channel. Those that choose a variance are no direction: exaggerating them makes a step "
            "far too noisy or not noisy at all. Guide the first `channels` only.",
        ),
        Mistake(
            "others without the class",
            _others_unconditional,
            "The channels you do not guide come from the prediction without the class. They belong to a picture of "
            "this class: take them from conditional.",
        ),
        Mistake(
            "the last channels",
            _last_channels,
            "You guide the last channels and leave the first. The noise comes first, the variance after it.",
        ),
        Mistake(
            "others dropped",
            lambda cond, uncond, scale, channels=3: guide(cond[:, :channels], uncond[:, :channels], scale),
            "You return the guided channels alone. The others are still needed by the sampler: put them back behind "
            "the guided ones.",
        ),
        Mistake(
            "others zero",
            _others_zero,
            "The channels you do not guide have become zeros. They stay as the network gave them with the class.",
        ),
        Mistake(
            "always three",
            _always_three,
            "You guide three channels whatever is asked. Three is the default, for DiT; the argument channels may be "
            "another number.",
        ),
        Mistake(
            "always half",
            _half_guided,
            "You guide half of the channels, which is the noise of a network with a learned variance. How many it is "
            "here stands in the argument channels.",
        ),
        Mistake(
            "pictures cut",
            _pictures_cut,
            "You cut along the first axis: the first pictures are guided, the others are not. The channels are the "
            "second axis: [:, :channels].",
        ),
        Mistake(
            "joined along the pictures",
            _joined_along_pictures,
            "torch.cat without dim joins along the pictures, as if the other channels were more of them. The channels "
            "are dim 1.",
        ),
        Mistake(
            "w, not s",
            _w_not_s,
            "You start from the conditional prediction: that is Ho and Salimans' w, and your scale means 1 + scale. "
            "Here scale 1 is no guidance: start from the unconditional one.",
        ),
        Mistake(
            "swapped",
            _roles_swapped,
            "Conditional and unconditional have changed places in the guided channels: a larger scale now pushes away "
            "from the class.",
        ),
        Mistake(
            "overwritten",
            _overwritten,
            "The numbers are right, but conditional[:, :channels] = … writes them into the caller's prediction. Join "
            "two parts with torch.cat, or write into a clone.",
        ),
    ],
)


# --- the distance of two Gaussians -------------------------------------------------------------------------------


def _two_gaussians(g: torch.Generator, size: int) -> Case:
    """Draw two Gaussians whose axes point in different directions; the second is wider or narrower."""
    width, wider = 3 + 2 * size, (2.5, 0.3, 0.6, 4.0)[size % 4]
    mixing = [normal(g, width, 2 * width).double() for _ in range(2)]
    cov_a, cov_b = (factor * mix @ mix.T / (2 * width) for factor, mix in zip((1.0, wider), mixing, strict=True))
    return Case(normal(g, width).double(), cov_a, normal(g, width).double(), cov_b)


def _root(cov: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def _trace_of_root(cov_a: Tensor, cov_b: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(_root(cov_a) @ cov_b @ _root(cov_a)).clamp(min=0).sqrt().sum()


def _apart(mean_a: Tensor, mean_b: Tensor) -> Tensor:
    return (mean_a - mean_b).square().sum()


def _traces(cov_a: Tensor, cov_b: Tensor, between: Tensor, times: float = 2) -> Tensor:
    return cov_a.trace() + cov_b.trace() - times * between


def _spreads(cov_a: Tensor, cov_b: Tensor) -> Tensor:
    return _traces(cov_a, cov_b, _trace_of_root(cov_a, cov_b))


def _root_without_clamp(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.sqrt() @ vectors.T
    between = torch.linalg.eigvalsh(root @ cov_b @ root).sqrt().sum()
    return float(_apart(mean_a, mean_b) + _traces(cov_a, cov_b, between))


Distance = Callable[[Tensor, Tensor, Tensor, Tensor], float]


def _measured(between: Callable[[Tensor, Tensor], Tensor]) -> Distance:
    """Return an answer that takes another number for the trace of the root."""
    return lambda mean_a, cov_a, mean_b, cov_b: float(
        _apart(mean_a, mean_b) + _traces(cov_a, cov_b, between(cov_a, cov_b))
    )


def _nothing_between_equals(answer: Distance, case: Case) -> str | None:
    mean, cov, *_ = case.args
    found = answer(mean, cov, mean.clone(), cov.clone())
    if abs(found) <= 1e-4 * float(cov.trace()):
        return None
    return f"of a Gaussian from itself you return {found:.4g}; it must be 0."


def _independent_features(answer: Distance, case: Case) -> str | None:
    mean_a, cov_a, mean_b, cov_b = case.args
    one, other = cov_a.diagonal().clone(), cov_b.diagonal().clone()
    one[0] = other[-1] = 0  # a feature that never moves
    wanted = float(_apart(mean_a, mean_b) + (one.sqrt() - other.sqrt()).square().sum())
    for found in (
        answer(mean_a, one.diag(), mean_b, other.diag()),
        answer(mean_b, other.diag(), mean_a, one.diag()),
    ):
        if not abs(found - wanted) <= 1e-3 * wanted:
            return (
                "where the features are independent, some of them without any variance, the distance is the sum of "
                f"(μa − μb)² + (σa − σb)² over the features: {wanted:.4g}. You return {found:.4g}."
            )
    return None


def _few_samples(answer: Distance, case: Case) -> str | None:
    mean_a, cov_a, mean_b, cov_b = case.args
    flat_a, flat_b = torch.cov(cov_a[:3].T), torch.cov(cov_b[:3].T)
    there, back = answer(mean_a, flat_a, mean_b, flat_b), answer(mean_b, flat_b, mean_a, flat_a)
    if abs(there - back) <= 1e-2 * float(_apart(mean_a, mean_b) + flat_a.trace() + flat_b.trace()):
        return None
    return (
        f"of two covariances that were taken from three samples each you return {there:.4g}, and {back:.4g} in the "
        "other order. A distance is the same both ways, and there is one for singular covariances too."
    )


FRECHET = Exercise(
    id="evaluate.gaussian_frechet",
    lesson="06",
    number=6,
    title="Measure how far apart two Gaussians lie",
    points=4,
    minutes=13,
    difficulty=3,
    case=_two_gaussians,
    tolerance=1e-4,
    gradient=False,
    properties=[
        Property("nothing between equals", _nothing_between_equals),
        Property("independent features", _independent_features),
        Property("few samples", _few_samples),
    ],
    mistakes=[
        Mistake(
            "no two",
            lambda mean_a, cov_a, mean_b, cov_b: float(
                _apart(mean_a, mean_b) + _traces(cov_a, cov_b, _trace_of_root(cov_a, cov_b), times=1)
            ),
            "The 2 in front of the root is missing, so a Gaussian lies away from itself. It is the 2 of "
            "(a − b)² = a² + b² − 2ab.",
        ),
        Mistake(
            "diagonals only",
            _measured(lambda cov_a, cov_b: (cov_a * cov_b).diagonal().sqrt().sum()),
            "You multiply the covariances entry by entry, or compare the features' own variances only. Two clouds may "
            "agree in every feature and differ in how features go together. Σa Σb is a product of matrices, and so is "
            "its root.",
        ),
        Mistake(
            "root of every entry",
            _measured(lambda cov_a, cov_b: (cov_a @ cov_b).sqrt().trace()),
            "sqrt takes the root of every entry. The root of a matrix is the one that, multiplied by itself, gives the "
            "matrix; its trace is the sum of the roots of the eigenvalues.",
        ),
        Mistake(
            "product of the roots",
            _measured(lambda cov_a, cov_b: (_root(cov_a) @ _root(cov_b)).trace()),
            "You multiply the two roots. That is the root of the product only where the two covariances share their "
            "axes; here they do not. Take the root of Σa^½ Σb Σa^½.",
        ),
        Mistake(
            "half of the product",
            _measured(lambda cov_a, cov_b: torch.linalg.eigvalsh(cov_a @ cov_b).clamp(min=0).sqrt().sum()),
            "eigvalsh believes that its matrix is symmetric and reads one half of it. Σa Σb is not. Σa^½ Σb Σa^½ is, "
            "and has the same eigenvalues.",
        ),
        Mistake(
            "no root",
            _measured(lambda cov_a, cov_b: (cov_a @ cov_b).trace()),
            "The root is missing: you take the trace of the product itself, which is a variance squared and cannot be "
            "subtracted from variances.",
        ),
        Mistake(
            "deviations for variances",
            lambda mean_a, cov_a, mean_b, cov_b: float(
                _apart(mean_a, mean_b) + _traces(_root(cov_a), _root(cov_b), _trace_of_root(cov_a, cov_b))
            ),
            "You add the standard deviations, the traces of the roots, and take variances away from them. "
            "(σa − σb)² begins with the variances themselves: Tr Σa + Tr Σb.",
        ),
        Mistake(
            "sum for trace",
            lambda mean_a, cov_a, mean_b, cov_b: float(
                _apart(mean_a, mean_b) + (cov_a + cov_b).sum() - 2 * _trace_of_root(cov_a, cov_b)
            ),
            "You add up all entries of the covariances. The trace adds the diagonal only, the features' variances.",
        ),
        Mistake(
            "distance not squared",
            lambda mean_a, cov_a, mean_b, cov_b: float((mean_a - mean_b).norm() + _spreads(cov_a, cov_b)),
            "The distance of the means is not squared. Everything else in the formula is a variance, a squared length.",
        ),
        Mistake(
            "averaged means",
            lambda mean_a, cov_a, mean_b, cov_b: float((mean_a - mean_b).square().mean() + _spreads(cov_a, cov_b)),
            "You average the squared differences of the means. They are added up: |μa − μb|² is a squared length.",
        ),
        Mistake(
            "no means",
            lambda mean_a, cov_a, mean_b, cov_b: float(_spreads(cov_a, cov_b)),
            "You compare the covariances only. Two clouds of the same form in different places would have no distance.",
        ),
        Mistake(
            "no covariances",
            lambda mean_a, cov_a, mean_b, cov_b: float(_apart(mean_a, mean_b)),
            "You compare the means only. A generator whose every picture has the average features, without any "
            "variety, would be perfect.",
        ),
        Mistake(
            "root of the whole",
            lambda mean_a, cov_a, mean_b, cov_b: float((_apart(mean_a, mean_b) + _spreads(cov_a, cov_b)).sqrt()),
            "You take a root at the end. As mathematics a distance has it; the number that is called Fréchet distance "
            "in this field, FID among them, is the square.",
        ),
        Mistake(
            "still a tensor",
            lambda mean_a, cov_a, mean_b, cov_b: _apart(mean_a, mean_b) + _spreads(cov_a, cov_b),
            "The number is right, but it is a tensor. It goes into records and tables as a plain number: float(…).",
        ),
        Mistake(
            "root without clamp",
            _root_without_clamp,
            "Right where both covariances have full rank. One of few samples, or with a feature that never moves, has "
            "eigenvalues 0, which come out as −1e-17, and their root as NaN; a Cholesky factor does not exist at all. "
            "clamp(min=0) before each root.",
        ),
    ],
)


# --- the arithmetic of a DiT -------------------------------------------------------------------------------------


def _sizes(g: torch.Generator, size: int) -> Case:
    """Choose a small adaLN-Zero DiT, in turn with a learned variance and without."""
    patch_size, heads = (2, 3, 4, 1)[size % 4], (2, 3, 4, 2)[size % 4]
    config = DiTConfig(
        input_size=patch_size * (4 + size + int(integers(g, 1, high=4))),
        patch_size=patch_size,
        in_channels=1 + int(integers(g, 1, high=5)),
        hidden_size=4 * heads * (2 + int(integers(g, 1, high=4))),
        depth=2 + size,
        num_heads=heads,
        num_classes=int(integers(g, 1, low=3, high=40)),
        learn_sigma=size % 2 == 0,
    )
    return Case(config)


def _counted(
    config: DiTConfig,
    *,
    tokens: int = 0,
    linear: int = 12,
    pairs: int = 2,
    outputs: int = 0,
    modulated: int = 1,
    depth: int = 0,
    time: int = 1,
    last: int = 2,
) -> int:
    """Return a DiT's multiply-accumulates with the slip that a mistake asks for; 0 stands for the right number."""
    width, tokens = config.hidden_size, tokens or config.grid**2
    block = linear * tokens * width**2 + pairs * tokens**2 * width + modulated * 6 * width**2
    channels = config.in_channels + (outputs or config.out_channels)
    ends = config.patch_size**2 * tokens * width * channels
    return ends + (depth or config.depth) * block + time * (256 * width + width**2) + last * width**2


def _no_ends(config: DiTConfig) -> int:
    channels = config.in_channels + config.out_channels
    return macs(config) - config.patch_size**2 * config.grid**2 * config.hidden_size * channels


def _table_counted(config: DiTConfig) -> int:
    return macs(config) + (config.num_classes + 1) * config.hidden_size


def _counts_whole(answer: Callable[[DiTConfig], int], case: Case) -> str | None:
    if isinstance(answer(*case.args), int):
        return None
    return "operations are counted, so return a whole number: / makes a float, // does not."


MACS = Exercise(
    id="dit.macs",
    lesson="06",
    number=7,
    title="Count what one call costs",
    points=2,
    minutes=9,
    difficulty=2,
    case=_sizes,
    gradient=False,
    tolerance=1e-12,
    seconds=20,  # an answer may build the network on the device "meta", whose first use imports for seconds
    properties=[Property("whole numbers", _counts_whole)],
    mistakes=[
        Mistake(
            "modulation for every token",
            lambda config: _counted(config, modulated=config.grid**2),
            "You count the modulation once for each token. Its linear layer reads the condition, one vector for each "
            "picture: 6 D² a block, whatever N is. That is why it holds a third of the weights and costs almost "
            "nothing.",
        ),
        Mistake(
            "no modulation",
            lambda config: _counted(config, modulated=0),
            "The blocks' modulation is missing: one linear layer from D to 6 D in each block, once for each picture.",
        ),
        Mistake(
            "no pairs",
            lambda config: _counted(config, pairs=0),
            "The term with N² is missing: every token is compared with every other. It is the part that grows "
            "sixteenfold when patches become half as wide.",
        ),
        Mistake(
            "one product",
            lambda config: _counted(config, pairs=1),
            "You count one product of N × N. Attention has two: queries with keys, then the weights with the values.",
        ),
        Mistake(
            "pairs in every head",
            lambda config: _counted(config, pairs=2 * config.num_heads),
            "You multiply the pairs by the number of heads. Each head is only D / h wide, so that all of them together "
            "cost what one of width D would.",
        ),
        Mistake(
            "operations, not pairs of them",
            lambda config: 2 * macs(config),
            "You count multiplications and additions separately (FLOPs). Here one multiply-accumulate counts once, as "
            "in the paper's table, where they are called Gflops.",
        ),
        Mistake(
            "no learned variance",
            lambda config: _counted(config, outputs=config.in_channels),
            "Your last layer writes as many channels as the picture has. With learn_sigma it writes twice as many: "
            "config.out_channels.",
        ),
        Mistake(
            "no ends",
            _no_ends,
            "The two ends are missing: the linear layer that reads patches, p² · C_in to D, and the one that writes "
            "them, D to p² · C_out, both for each token.",
        ),
        Mistake(
            "no time",
            lambda config: _counted(config, time=0),
            "The time's perceptron is missing: 256 features to D, then D to D, once for each picture.",
        ),
        Mistake(
            "the last modulation",
            lambda config: _counted(config, last=0),
            "The last layer has a modulation too, of two parts: 2 D², once for each picture.",
        ),
        Mistake(
            "a gate at the end",
            lambda config: _counted(config, last=3),
            "You count three parts for the last layer's modulation. It has a shift and a scale and no gate: there is "
            "no residual path to let through.",
        ),
        Mistake(
            "attention's layers only",
            lambda config: _counted(config, linear=4),
            "You count the four projections of attention and leave out the perceptron, whose two layers are four "
            "times as wide: 4 + 8 in all.",
        ),
        Mistake(
            "one side only",
            lambda config: _counted(config, tokens=config.grid),
            "You count the patches along one side. N is the square of config.grid.",
        ),
        Mistake(
            "pixels for tokens",
            lambda config: _counted(config, tokens=config.input_size**2),
            "You count one token for each pixel. A token is a patch of p × p pixels: N = (input_size / p)².",
        ),
        Mistake(
            "no depth",
            lambda config: _counted(config, depth=1),
            "This is one block. There are config.depth of them.",
        ),
        Mistake(
            "the table of classes",
            _table_counted,
            "You count the table of classes. A class is looked up, not multiplied: it costs weights and no arithmetic.",
        ),
        Mistake(
            "a float",
            lambda config: float(macs(config)),
            "The number is right, but it is a float. Operations are counted: stay with whole numbers, and write // "
            "where you divide.",
        ),
    ],
)


# --- a scrambled picture -----------------------------------------------------------------------------------------


def _channels_outermost(tokens: Tensor, patch_size: int, height: int) -> Tensor:
    if tokens.shape[1] % height or tokens.shape[2] % patch_size**2:
        raise ValueError(
            f"unpatchify: {tokens.shape[1]} tokens of {tokens.shape[2]} numbers do not make {height} rows of patches "
            f"of {patch_size}×{patch_size} pixels"
        )
    pattern = "b (height width) (c p1 p2) -> b c (height p1) (width p2)"
    return rearrange(tokens, pattern, height=height, p1=patch_size, p2=patch_size)


UNPATCHIFY_BUG = Exercise(
    id="dit.unpatchify_bug",
    reference="dit.unpatchify",
    lesson="06",
    number=8,
    title="Debug: right shapes, scrambled patches",
    points=2,
    minutes=7,
    difficulty=1,
    case=_patches,
    broken="channels outermost",
    mistakes=[
        Mistake(
            "channels outermost",
            _channels_outermost,
            "The channels stand outermost in a token, as patchify writes them and as the last layer does not: its "
            "numbers come as (row, column, channel). Every shape fits, and colours and pixels of a patch are mixed up.",
        ),
        Mistake(
            "channels in the middle",
            _laid_out(f"b (height width) (p1 c p2) -> {PICTURE}"),
            "You moved the channels, but only half of the way: they stand between row and column now. They count "
            "fastest, so they come last.",
        ),
        Mistake(
            "patch transposed",
            _laid_out(f"b (height width) (p2 p1 c) -> {PICTURE}"),
            "The channels are right now, but rows and columns of a patch have changed places: each patch is mirrored "
            "along its diagonal. p1 stands before p2.",
        ),
        Mistake(
            "grid transposed",
            _laid_out(f"b (width height) (c p1 p2) -> {PICTURE}"),
            "You changed the order of the patches, which was right: reading order, the width fastest. The error is "
            "inside the patches.",
        ),
        Mistake(
            "patches scattered",
            _laid_out("b (height width) (c p1 p2) -> b c (p1 height) (p2 width)"),
            "You changed the right-hand side, which was right: a side of the picture is (patch, pixel of the patch). "
            "The error is in how the numbers of a token are read.",
        ),
        Mistake(
            "only reshaped",
            _only_reshaped,
            "reshape moves nothing, so whole tokens lie one after another in the picture. Keep rearrange, and look at "
            "the order inside its second bracket.",
        ),
    ],
)

EXERCISES = [PLACES, UNPATCHIFY, FORWARD, VARIANCE, GUIDE_FIRST, FRECHET, MACS, UNPATCHIFY_BUG]


# --- guesses and the question in words ---------------------------------------------------------------------------

AHEAD = {
    "U-Net": "the U-Net",
    "DiT, equal compute": "the DiT",
    "": "no difference is established",
}
SPENT = {
    "p8 w256": "4 patches of 8×8, 256 wide",
    "p4 w128": "16 patches of 4×4, 128 wide",
    "p2 w64": "64 patches of 2×2, 64 wide",
    "": "no single one stands out",
}
APART = ("0, but for rounding", "more than 0, less than 1", "from 1 to 10", "more than 10")


def _ahead() -> str:
    """Read who draws nearer to real pictures at equal compute, by FD-judge."""
    variants = [variant for variant in AHEAD if variant]
    return AHEAD[results.established(results.load("unet_dit"), "fd_judge", variants, better="lower") or ""]


def _best_spent() -> str:
    """Read which of three DiTs of about 14 million multiply-accumulates draws best, by FD-judge."""
    variants = [variant for variant in SPENT if variant]
    return SPENT[results.established(results.load("dit_grid"), "fd_judge", variants, better="lower") or ""]


def _of_one_distribution() -> str:
    """Measure the Fréchet distance of two sets of 100 points of one Gaussian in 64 dimensions, ten times; the mean."""
    g = torch.Generator().manual_seed(6)
    found = [frechet_distance(normal(g, 100, 64), normal(g, 100, 64)) for _ in range(10)]
    mean = sum(found) / len(found)
    return APART[0] if mean < 1e-6 else APART[1] if mean < 1 else APART[2] if mean < 10 else APART[3]


QUESTIONS = [
    Question(
        id="dit.q1",
        lesson="06",
        text="A small U-Net and a DiT of about equal compute are trained on the same 16×16 shapes, with the same "
        "batches and for the same number of steps. Whose samples lie nearer to real pictures, by FD-judge?",
        choices=tuple(AHEAD.values()),
        answer=_ahead,
        because="Read from the recorded runs: a difference counts where the paired 95 % interval leaves out 0. It says "
        "something about small networks and short trainings, and nothing about large ones.",
    ),
    Question(
        id="dit.q2",
        lesson="06",
        text="You may spend about 14 million multiply-accumulates a picture of 16×16 on a DiT of four blocks: on few "
        "patches and a wide network, or on many patches and a narrow one. Which draws best after the same number of "
        "training steps?",
        choices=tuple(SPENT.values()),
        answer=_best_spent,
        because="Judged by FD-judge: one is named only where its paired interval against both others leaves out 0.",
    ),
    Question(
        id="dit.q3",
        lesson="06",
        text="Two sets of 100 points are drawn from one and the same standard normal distribution in 64 dimensions, "
        "as many as the judge has features. How large is their Fréchet distance, on average? (For scale: with all "
        "points there are, moving one of the two by 1 along an axis makes it 1.)",
        choices=APART,
        answer=_of_one_distribution,
        because="100 points say little about a covariance of 64 × 64, and every error of both counts as distance. It "
        "falls about as 1 / N: compare only distances that were measured with the same N.",
    ),
]

PROSE = [
    Prose(
        id="dit.w1",
        lesson="06",
        text="DiT's authors report a correlation of −0.93 between FID and the logarithm of Gflops, over twelve models. "
        "Two rows of the same table (arXiv 2212.09748, Table 4): L/8 with 5.01 Gflops has FID 118.87, B/4 with 5.56 "
        "Gflops has 68.38. A friend concludes from the correlation: 'Only compute counts; what you spend it on does "
        "not matter.' Say what the number does show, what it does not, and what this lesson measured about it.",
        points=2,
        rubric=(
            "over a range of several hundred-fold compute, more goes with a lower FID; but equal compute is not equal "
            "FID (L/8 against B/4: too few tokens hurt, however wide the network), and a correlation over twelve "
            "models, on a logarithmic axis, hides such pairs: 1",
            "quotes what the lesson measured on its grid of patch sizes and widths (the correlation, or the three "
            "networks of equal compute) with its interval or its verdict, and claims no more than that says: 1",
        ),
        min_words=50,
        max_words=150,
    )
]
