"""Lesson 05, the Vision Transformer: a picture cut into words, attention among them, the block, and its two ends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from lesson_lib import results
from lesson_lib.attention import SelfAttention, attend
from lesson_lib.exercises.core import (
    Case,
    Exercise,
    LessonCard,
    Mistake,
    Property,
    Prose,
    Question,
    normal,
)
from lesson_lib.results import Record
from lesson_lib.vit import EncoderBlock, PatchEmbed, ViT, ViTConfig, patchify

LESSON = LessonCard(
    number="05",
    slug="vit",
    title="ViT",
    question="Can an image be a sentence?",
    minutes=100,
    prerequisites=("02", "03"),
)


def _accepts_a_border(answer: Callable[..., Tensor], images: Tensor, *rest: int) -> tuple[int, int] | None:
    """Return the height and width of a picture that should have been refused and was not: a row or a column short."""
    for cropped in (images[:, :, :-1], images[..., :-1]):
        try:
            answer(cropped, *rest)
        except Exception:
            continue
        return cropped.shape[2], cropped.shape[3]
    return None


# --- patchify ----------------------------------------------------------------------------------------------------


def _pictures(g: torch.Generator, size: int) -> Case:
    """Pictures that are wider than high, of one channel and of several; the last of them in patches of one pixel."""
    patch_size, channels = (2, 3, 5, 1)[size % 4], (3, 1, 2, 4)[size % 4]
    height, width = 2 + size, 5 + size
    return Case(normal(g, 2 + size, channels, height * patch_size, width * patch_size), patch_size)


def _patches(target: str, source: str = "b c (height p1) (width p2)") -> Callable[[Tensor, int], Tensor]:
    """Return an answer that moves the axes in the given way."""

    def answer(images: Tensor, patch_size: int) -> Tensor:
        return rearrange(images, f"{source} -> {target}", p1=patch_size, p2=patch_size)

    return answer


def _only_reshaped(images: Tensor, patch_size: int) -> Tensor:
    batch, channels, height, width = images.shape
    return images.reshape(batch, height * width // patch_size**2, channels * patch_size**2)


def _square_grid(images: Tensor, patch_size: int) -> Tensor:
    batch, channels, side, _ = images.shape
    grid = side // patch_size
    cut = images.reshape(batch, channels, grid, patch_size, grid, patch_size)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(batch, grid * grid, -1)


def _unfolded_in_place(images: Tensor, patch_size: int) -> Tensor:
    windows = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return windows.reshape(len(images), -1, images.shape[1] * patch_size**2)


def _unfolded(images: Tensor, patch_size: int) -> Tensor:
    return F.unfold(images, patch_size, stride=patch_size)


def _border_cut_off(images: Tensor, patch_size: int) -> Tensor:
    return F.unfold(images, patch_size, stride=patch_size).mT


def _patches_fit(answer: Callable[..., Tensor], case: Case) -> str | None:
    images, patch_size = case.args
    accepted = _accepts_a_border(answer, images, patch_size) if patch_size > 1 else None
    if accepted is None:
        return None
    return (
        f"{accepted[0]}×{accepted[1]} pixels do not divide into patches of {patch_size}, but you return some: pixels "
        "are lost or made up. Refuse such a picture with a ValueError; check_patches does it."
    )


PATCHIFY = Exercise(
    id="vit.patchify",
    lesson="05",
    number=1,
    title="Cut a picture into words",
    points=3,
    minutes=8,
    difficulty=1,
    case=_pictures,
    properties=[Property("what does not divide", _patches_fit)],
    mistakes=[
        Mistake(
            "channels innermost",
            _patches("b (height width) (p1 p2 c)"),
            "The patches are right, but inside each one you write the channels innermost: red, green, blue, red, "
            "green, blue, … A convolution's weights (D, C, p, p) have the channels outermost, and with your order "
            "every weight would meet another number.",
        ),
        Mistake(
            "only reshaped",
            _only_reshaped,
            "The shape is right and the contents are not. reshape reads memory in order, so your first patch is the "
            "beginning of the top row, and no row below it. Split each side in two axes, move the axes, then join "
            "them; rearrange does it in one line.",
        ),
        Mistake(
            "column by column",
            _patches("b (width height) (c p1 p2)"),
            "Your patches go down the columns. They are to be read like a text: along the first row, then the next. "
            "The axis written last inside a bracket runs fastest, so it is (height width).",
        ),
        Mistake(
            "turned inside",
            _patches("b (height width) (c p2 p1)"),
            "Each patch lies on its side: you write its columns where its rows should be. Inside a patch the order is "
            "channel, row, column: (c p1 p2).",
        ),
        Mistake(
            "far pixels together",
            _patches("b (height width) (c p1 p2)", "b c (p1 height) (p2 width)"),
            "Your patches collect pixels that lie far apart, each a small copy of the whole picture. Along a side the "
            "place inside the patch runs fastest and the patch's number slowest: (height p1), not (p1 height).",
        ),
        Mistake(
            "a square grid",
            _square_grid,
            "You count the patches along one side and use the number for both. This picture is wider than it is high: "
            "there are H / p rows of patches, and W / p in each row.",
        ),
        Mistake(
            "windows not moved",
            _unfolded_in_place,
            "unfold has cut well, but its result is (B, C, H/p, W/p, p, p), with the channels in front of the grid. "
            "Your reshape runs through all places of one channel before the next, and makes words of several places. "
            "Move the channels behind the grid first: permute(0, 2, 3, 1, 4, 5).",
        ),
        Mistake(
            "patches last",
            _unfolded,
            "F.unfold puts the patches along the last axis: (B, C p², N). A transformer reads (B, N, C p²), one row "
            "for each word: transpose the last two axes.",
        ),
        Mistake(
            "channels as words",
            _patches("b (c height width) (p1 p2)"),
            "You make a word of each channel of each patch, three times as many for a colour picture. A word is a "
            "whole patch with all its channels: c belongs into the second bracket.",
        ),
        Mistake(
            "pictures run together",
            _patches("(b height width) (c p1 p2)"),
            "The batch has gone: the patches of all pictures stand in one long list. Each picture is a sentence of "
            "its own: (B, N, C p²).",
        ),
        Mistake(
            "still a grid",
            _patches("b height width (c p1 p2)"),
            "You keep the patches in a grid, (B, H/p, W/p, C p²). A sentence has one axis for its words: put height "
            "and width into one bracket.",
        ),
        Mistake(
            "border cut off",
            _border_cut_off,
            "Where the patches fit, you are right. Where they do not, unfold leaves out the last rows and columns and "
            "says nothing: those pixels would never be seen. check_patches refuses such a picture.",
        ),
    ],
)


# --- the patch embedding -----------------------------------------------------------------------------------------


def _to_embed(g: torch.Generator, size: int) -> Case:
    patch_size, channels = (2, 3, 4, 2)[size % 4], (3, 1, 2, 4)[size % 4]
    build = {"patch_size": patch_size, "in_channels": channels, "hidden_size": 7 + 2 * size}
    height, width = 2 + size, 4 + size
    return Case(normal(g, 3 + size, channels, height * patch_size, width * patch_size), build=build)


def _linear(self: PatchEmbed, patches: Tensor, bias: bool = True) -> Tensor:
    """Return the tokens of flattened patches, by the convolution's weights read as a linear layer's."""
    return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias if bias else None)


def _tokens_reshaped(self: PatchEmbed, images: Tensor) -> Tensor:
    maps = self.proj(images)
    return maps.reshape(len(images), -1, maps.shape[1])


def _border_not_read(self: PatchEmbed, images: Tensor) -> Tensor:
    return self.proj(images).flatten(2).transpose(1, 2)


def _whole_patches(answer: Callable[..., Tensor], case: Case) -> str | None:
    accepted = _accepts_a_border(answer, *case.args)
    if accepted is None:
        return None
    patch_size = case.build["patch_size"]
    return (
        f"{accepted[0]}×{accepted[1]} pixels do not divide into patches of {patch_size}, but you return tokens. A "
        f"convolution that walks in steps of {patch_size} stops where no whole patch is left and never reads the rest."
    )


PATCH_EMBED = Exercise(
    id="vit.PatchEmbed.forward",
    lesson="05",
    number=2,
    title="Turn patches into tokens",
    points=3,
    minutes=7,
    difficulty=1,
    case=_to_embed,
    tolerance=3e-5,
    properties=[Property("what does not divide", _whole_patches)],
    mistakes=[
        Mistake(
            "no transpose",
            lambda self, images: self.proj(images).flatten(2),
            "You return (B, D, N): one row for each feature. A transformer reads one row for each token, (B, N, D); "
            "the last two axes must change places.",
        ),
        Mistake(
            "everything flattened",
            lambda self, images: self.proj(images).flatten(1),
            "flatten(1) makes one long row of each picture, (B, D·N), and the tokens are gone. Keep the features "
            "apart: flatten from axis 2 on, which joins only height and width.",
        ),
        Mistake(
            "only reshaped",
            _tokens_reshaped,
            "The shape is right and the contents are not. After the convolution all places of feature 0 come first; "
            "reshape only relabels them, so that your first token is one feature at many places. Flatten the places, "
            "then transpose.",
        ),
        Mistake(
            "column by column",
            lambda self, images: rearrange(self.proj(images), "b d height width -> b (width height) d"),
            "Your tokens go down the columns; the words of this sentence are in reading order, row by row. Every "
            "position embedding counts on that.",
        ),
        Mistake(
            "sentence first",
            lambda self, images: self.proj(images).flatten(2).permute(2, 0, 1),
            "You return (N, B, D), the order of recurrent networks and of torch's attention unless it is told "
            "otherwise. In this course the batch stays in front: (B, N, D).",
        ),
        Mistake(
            "still a grid",
            lambda self, images: self.proj(images).permute(0, 2, 3, 1),
            "You return the tokens as a grid, (B, H/p, W/p, D). Attention wants one axis of tokens: join height and "
            "width.",
        ),
        Mistake(
            "patches into the convolution",
            lambda self, images: self.proj(patchify(images, self.patch_size)),
            "You cut the patches yourself and hand them to the convolution, which wants pictures: with kernel and "
            "stride p it does the cutting. Give it the picture, or use its flattened weights as a linear layer.",
        ),
        Mistake(
            "channels innermost",
            lambda self, images: _linear(
                self,
                rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=self.patch_size, p2=self.patch_size),
            ),
            "Your patches have the channels innermost, and the flattened weights of the convolution have them "
            "outermost: each weight meets another number. patchify has the weights' order.",
        ),
        Mistake(
            "no bias",
            lambda self, images: _linear(self, patchify(images, self.patch_size), bias=False),
            "The layer's bias is missing: self.proj.bias is added to every token.",
        ),
        Mistake(
            "border not read",
            _border_not_read,
            "The tokens are right. But where p does not divide the picture, the convolution leaves the border out "
            "and says nothing. Ask check_patches first; it refuses such a picture in a sentence.",
        ),
    ],
)


# --- the attention map -------------------------------------------------------------------------------------------


def _asking(g: torch.Generator, size: int) -> Case:
    """Queries and keys of different numbers; every fourth time so large that their products leave exp's range."""
    batch, heads, width = 2 + size, (3, 2, 5, 1)[size % 4], 5 + 2 * size
    query, key = normal(g, batch, heads, 4 + size, width), normal(g, batch, heads, 7 + 2 * size, width)
    return Case(40 * query if size % 4 == 3 else query, key)


def _scores(query: Tensor, key: Tensor) -> Tensor:
    return query @ key.mT / math.sqrt(query.shape[-1])


def _exp_by_hand(query: Tensor, key: Tensor) -> Tensor:
    weights = _scores(query, key).exp()
    return weights / weights.sum(dim=-1, keepdim=True)


def _causal(query: Tensor, key: Tensor) -> Tensor:
    scores = _scores(query, key)
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -math.inf).softmax(dim=-1)


ATTENTION_MAP = Exercise(
    id="attention.attention_map",
    lesson="05",
    number=3,
    title="Whom does each token ask?",
    points=3,
    minutes=9,
    difficulty=2,
    case=_asking,
    tolerance=1e-4,  # float32 rounds scores near 150 to 1.5e-5
    mistakes=[
        Mistake(
            "no scale",
            lambda query, key: (query @ key.mT).softmax(dim=-1),
            "The scores are not divided by √d. A product of two random vectors of d numbers spreads like √d, so a wide "
            "head would give nearly all its attention to one token from the first step on, and learn slowly.",
        ),
        Mistake(
            "divided by d",
            lambda query, key: (query @ key.mT / query.shape[-1]).softmax(dim=-1),
            "You divide by d; it is the root of d. A sum of d random products spreads like √d, so that with d the rows "
            "become the flatter, the wider the head.",
        ),
        Mistake(
            "multiplied",
            lambda query, key: (query @ key.mT * math.sqrt(query.shape[-1])).softmax(dim=-1),
            "You multiply the scores by √d. They are too large already and must be divided: your rows are nearly all "
            "0 and one 1.",
        ),
        Mistake(
            "root of the full width",
            lambda query, key: (query @ key.mT / math.sqrt(query.shape[1] * query.shape[-1])).softmax(dim=-1),
            "You divide by √(h · d), the root of the full width D. A score adds up the d numbers of one head, not "
            "those of all heads: √d.",
        ),
        Mistake(
            "root of the tokens",
            lambda query, key: (query @ key.mT / math.sqrt(key.shape[-2])).softmax(dim=-1),
            "You divide by the root of the number of tokens. What a score adds up are the d numbers of a query and a "
            "key: the size of the last axis.",
        ),
        Mistake(
            "softmax over the queries",
            lambda query, key: _scores(query, key).softmax(dim=-2),
            "Your softmax runs over the queries, so that the columns sum to 1: every key shares itself out. Each query "
            "shares out its attention among the keys: dim=-1.",
        ),
        Mistake(
            "softmax over the heads",
            lambda query, key: _scores(query, key).softmax(dim=1),
            "Your softmax runs over the heads (F.softmax without dim picks axis 1 here). Heads do not compete; the "
            "keys of one query do: dim=-1.",
        ),
        Mistake(
            "scaled after",
            lambda query, key: (query @ key.mT).softmax(dim=-1) / math.sqrt(query.shape[-1]),
            "You divide by √d after the softmax, and the rows no longer sum to 1. The scale belongs inside, on the "
            "scores.",
        ),
        Mistake(
            "no softmax",
            _scores,
            "You return the scores. A softmax along each row turns them into shares that are positive and sum to 1.",
        ),
        Mistake(
            "map turned",
            lambda query, key: (key @ query.mT / math.sqrt(query.shape[-1])).softmax(dim=-1),
            "Your map has a row for each key, (B, h, M, N). It is the queries that ask: Q Kᵀ, one row for each query.",
        ),
        Mistake(
            "every axis turned",
            lambda query, key: (query @ key.permute(3, 2, 1, 0) / math.sqrt(query.shape[-1])).softmax(dim=-1),
            "key.T turns all four axes around, batch and heads too. Only the last two change places: key.mT, or "
            "key.transpose(-2, -1).",
        ),
        Mistake(
            "tokens and heads turned",
            lambda query, key: (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1])).softmax(dim=-1),
            "transpose(1, 2) swaps heads and tokens. For the product the keys' last two axes change places: "
            "key.transpose(-2, -1), or key.mT.",
        ),
        Mistake(
            "the future hidden",
            _causal,
            "Your query n sees only the keys up to n. A model that writes a text must not look ahead; a picture is "
            "there all at once, and every patch may ask every patch. No mask.",
        ),
        Mistake(
            "exp by hand",
            _exp_by_hand,
            "Your softmax is right until a score passes 88: there exp leaves the range of float32, and infinity "
            "divided by infinity is NaN. torch's softmax first takes off each row's largest score, which changes "
            "nothing else.",
        ),
    ],
)


# --- self-attention ----------------------------------------------------------------------------------------------


def _sentences(g: torch.Generator, size: int) -> Case:
    heads, head_width = ((3, 5), (2, 7), (5, 3), (1, 9))[size % 4]
    width = heads * head_width
    return Case(
        normal(g, 2 + size, 4 + 3 * size, width), build={"width": width, "num_heads": heads, "bias": size % 4 != 1}
    )


def _asked(
    self: SelfAttention,
    x: Tensor,
    *,
    split: str = "b n (three h d) -> three b h n d",
    order: str = "qkv",
    mix: Callable[[Tensor, Tensor, Tensor], Tensor] = attend,
    join: str = "b h n d -> b n (h d)",
) -> Tensor:
    """Return what the tokens learn before the last layer, with the slip that a mistake asks for."""
    parts = dict(zip(order, rearrange(self.qkv(x), split, three=3, h=self.num_heads), strict=True))
    return rearrange(mix(parts["q"], parts["k"], parts["v"]), join)


def _slip(**slips: Any) -> Callable[[SelfAttention, Tensor], Tensor]:
    """Return a whole forward with one slip."""
    return lambda self, x: self.proj(_asked(self, x, **slips))


def _other_scale(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    width = query.shape[1] * query.shape[-1]
    return (query @ key.mT / math.sqrt(width)).softmax(dim=-1) @ value


def _viewed_into_heads(self: SelfAttention, x: Tensor) -> Tensor:
    batch, tokens, width = x.shape
    shape = (batch, self.num_heads, tokens, width // self.num_heads)
    query, key, value = (part.reshape(shape) for part in self.qkv(x).chunk(3, dim=-1))
    return self.proj(rearrange(attend(query, key, value), "b h n d -> b n (h d)"))


def _viewed_out_of_heads(self: SelfAttention, x: Tensor) -> Tensor:
    query, key, value = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
    return self.proj(attend(query, key, value).reshape(x.shape))


def _one_head(self: SelfAttention, x: Tensor) -> Tensor:
    query, key, value = self.qkv(x).chunk(3, dim=-1)
    return self.proj(attend(query, key, value))


SELF_ATTENTION = Exercise(
    id="attention.SelfAttention.forward",
    lesson="05",
    number=4,
    title="Let every token ask, in several heads",
    points=5,
    minutes=14,
    difficulty=3,
    case=_sentences,
    tolerance=3e-5,
    mistakes=[
        Mistake(
            "keys first",
            _slip(order="kqv"),
            "Queries and keys have changed places: the map is turned, and each token gives where it should ask. The "
            "layer holds queries, keys, values, in that order.",
        ),
        Mistake(
            "values first",
            _slip(order="vkq"),
            "Queries and values have changed places: you compare values with keys and hand out queries. The layer "
            "holds queries, keys, values, in that order.",
        ),
        Mistake(
            "values in the middle",
            _slip(order="qvk"),
            "Keys and values have changed places: the scores compare queries with keys, and what is handed out are "
            "the values, the last third of the layer.",
        ),
        Mistake(
            "heads outermost",
            _slip(split="b n (h three d) -> three b h n d"),
            "You read the layer head by head, each with its query, key and value (some language models store it so). "
            "Here first come the queries of all heads, then all keys, then all values: (three h d).",
        ),
        Mistake(
            "heads interleaved",
            _slip(split="b n (three d h) -> three b h n d", join="b h n d -> b n (d h)"),
            "Your heads take every h-th number. A network trained like this works as well, but no published weights "
            "fit it: there the d numbers of a head stand side by side, (h d), on the way in and on the way out.",
        ),
        Mistake(
            "split across",
            _slip(split="b n (three d h) -> three b h n d"),
            "You split the heads with d before h, though you join them with h before d. The numbers of one head stand "
            "side by side: (three h d).",
        ),
        Mistake(
            "joined across",
            _slip(join="b h n d -> b n (d h)"),
            "The heads are split rightly and joined in another order: self.proj would get the first number of every "
            "head, then the second, … Put them back as they came: (h d).",
        ),
        Mistake(
            "viewed into heads",
            _viewed_into_heads,
            "view or reshape to (B, h, N, d) cuts the sentence, not the width: a head gets all features of a few "
            "tokens. First split the width, (B, N, h, d), then move the heads in front of the tokens.",
        ),
        Mistake(
            "viewed out of heads",
            _viewed_out_of_heads,
            "The answers are (B, h, N, d), and you reshape them to (B, N, D) with the heads still in front of the "
            "tokens: each token gets pieces of other tokens' answers. Move the heads behind the tokens first.",
        ),
        Mistake(
            "heads ask heads",
            _slip(split="b n (three h d) -> three b n h d", join="b n h d -> b n (h d)"),
            "Your attention runs over the heads of one token: (B, N, h, d) was never turned to (B, h, N, d). The "
            "shapes agree, but no token hears any other.",
        ),
        Mistake(
            "pictures ask pictures",
            _slip(split="b n (three h d) -> three n h b d", join="n h b d -> b n (h d)"),
            "Your attention runs over the batch: a token asks the same place in the other pictures, and a picture's "
            "result depends on its company. The axis before the last must be the tokens, (B, h, N, d).",
        ),
        Mistake(
            "one head",
            _one_head,
            "You use the full width as one head; self.num_heads is unused. With h heads a token can ask h different "
            "questions at once, each with its own softmax.",
        ),
        Mistake(
            "root of the full width",
            _slip(mix=_other_scale),
            "You divide the scores by √D, the root of the full width. Each head compares d = D / h numbers: √d.",
        ),
        Mistake(
            "no last layer",
            _asked,
            "self.proj is unused. The heads' answers stand side by side; the last layer mixes them.",
        ),
        Mistake(
            "residual inside",
            lambda self, x: x + self.proj(_asked(self, x)),
            "You add x. The residual belongs to the block around this layer; added here too, x would come twice.",
        ),
        Mistake(
            "the future hidden",
            _slip(mix=lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
            "is_causal hides every later token. That is for models that write a text from left to right; here the "
            "patch at the top left must be able to ask the one at the bottom right.",
        ),
    ],
)


# --- the encoder block -------------------------------------------------------------------------------------------


def _tokens(g: torch.Generator, size: int) -> Case:
    heads, head_width = ((3, 4), (2, 5), (1, 7), (5, 2))[size % 4]
    width = heads * head_width
    build = {"width": width, "num_heads": heads, "mlp_ratio": (4.0, 1.5, 2.0, 3.0)[size % 4]}
    return Case(0.5 + 2 * normal(g, 2 + size, 5 + 2 * size, width), build=build)


def _post_norm(self: EncoderBlock, x: Tensor) -> Tensor:
    x = self.norm1(x + self.attn(x))
    return self.norm2(x + self.mlp(x))


def _branch_normalised(self: EncoderBlock, x: Tensor) -> Tensor:
    x = x + self.norm1(self.attn(x))
    return x + self.norm2(self.mlp(x))


def _normalised_residual(self: EncoderBlock, x: Tensor) -> Tensor:
    x = self.norm1(x)
    x = x + self.attn(x)
    x = self.norm2(x)
    return x + self.mlp(x)


def _one_norm(self: EncoderBlock, x: Tensor) -> Tensor:
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm1(x))


def _side_by_side(self: EncoderBlock, x: Tensor) -> Tensor:
    return x + self.attn(self.norm1(x)) + self.mlp(self.norm2(x))


def _old_residual(self: EncoderBlock, x: Tensor) -> Tensor:
    h = x + self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(h))


def _bare_answer(self: EncoderBlock, x: Tensor) -> Tensor:
    answer = self.attn(self.norm1(x))
    return x + answer + self.mlp(self.norm2(answer))


def _no_first_residual(self: EncoderBlock, x: Tensor) -> Tensor:
    x = self.attn(self.norm1(x))
    return x + self.mlp(self.norm2(x))


def _no_second_residual(self: EncoderBlock, x: Tensor) -> Tensor:
    x = x + self.attn(self.norm1(x))
    return self.mlp(self.norm2(x))


def _second_not_normalised(self: EncoderBlock, x: Tensor) -> Tensor:
    x = x + self.attn(self.norm1(x))
    return x + self.mlp(x)


def _not_normalised(self: EncoderBlock, x: Tensor) -> Tensor:
    x = x + self.attn(x)
    return x + self.mlp(x)


def _thinks_first(self: EncoderBlock, x: Tensor) -> Tensor:
    x = x + self.mlp(self.norm2(x))
    return x + self.attn(self.norm1(x))


def _in_place(self: EncoderBlock, x: Tensor) -> Tensor:
    x += self.attn(self.norm1(x))
    x += self.mlp(self.norm2(x))
    return x


BLOCK = Exercise(
    id="vit.EncoderBlock.forward",
    lesson="05",
    number=5,
    title="Ask, then think",
    points=3,
    minutes=8,
    difficulty=1,
    case=_tokens,
    tolerance=3e-5,
    mistakes=[
        Mistake(
            "post-norm",
            _post_norm,
            "You normalise after adding, as the transformer of 2017 did. ViT normalises what goes into a branch and "
            "leaves the sum alone, so that a gradient passes through all blocks along the sums untouched.",
        ),
        Mistake(
            "branch normalised last",
            _branch_normalised,
            "Each norm stands behind its branch. It stands in front: the branch reads normalised tokens and may answer "
            "as loudly or softly as it has learned.",
        ),
        Mistake(
            "normalised residual",
            _normalised_residual,
            "You write the normalised tokens over x, and the residual then carries those. Only the branch reads them; "
            "what it answers is added to the x that came in.",
        ),
        Mistake(
            "one norm for both",
            _one_norm,
            "Both branches use self.norm1. Each has a norm of its own, with its own learned scale and shift; with you "
            "self.norm2 is never trained.",
        ),
        Mistake(
            "side by side",
            _side_by_side,
            "Both branches read the same x, side by side. Some very large models do this to save time; in ViT the "
            "perceptron comes second and thinks about what attention has just brought.",
        ),
        Mistake(
            "second residual from the start",
            _old_residual,
            "The second sum starts again from the x that came in, so what attention brought reaches the result only "
            "through the perceptron. Both times add to the newest x.",
        ),
        Mistake(
            "perceptron reads the answer only",
            _bare_answer,
            "Your perceptron reads the answer of the attention alone. It reads the sum: the token and what the token "
            "has learned from the others.",
        ),
        Mistake(
            "no first residual",
            _no_first_residual,
            "The attention's answer replaces the tokens. It is a correction: x + …; otherwise a token is lost in what "
            "it heard from the others.",
        ),
        Mistake(
            "no second residual",
            _no_second_residual,
            "You return the perceptron's answer alone. It is a correction too: x + ….",
        ),
        Mistake(
            "second branch not normalised",
            _second_not_normalised,
            "The perceptron reads x as it is; self.norm2 is unused. The sums grow from block to block, and without the "
            "norm so does everything the branch reads.",
        ),
        Mistake(
            "not normalised",
            _not_normalised,
            "Both norms are unused. Each branch reads normalised tokens: self.norm1 before attention, self.norm2 "
            "before the perceptron.",
        ),
        Mistake(
            "thinks first",
            _thinks_first,
            "The order is turned: first the tokens ask one another, then each thinks about what it has heard.",
        ),
        Mistake(
            "in place",
            _in_place,
            "x += … writes into the tensor of whoever called: a token sequence that is used again elsewhere has "
            "changed behind their back. x = x + … makes a new one.",
        ),
    ],
)


# --- the sentence ------------------------------------------------------------------------------------------------


def _vit(**changes: Any) -> ViTConfig:
    return ViTConfig(num_classes=3, depth=1, num_heads=1, mlp_ratio=1.0, **changes)


SENTENCES = (
    _vit(image_size=6, patch_size=2, in_channels=1, hidden_size=5),
    _vit(image_size=12, patch_size=3, in_channels=2, hidden_size=12, positions="sin-cos", pool="mean"),
    _vit(image_size=9, patch_size=3, in_channels=3, hidden_size=7, positions="none"),
    _vit(image_size=10, patch_size=2, in_channels=1, hidden_size=8, positions="sin-cos"),
)


def _to_read(g: torch.Generator, size: int) -> Case:
    """Learned places, a fixed table or none; three times with a class token and once without."""
    config = SENTENCES[size % len(SENTENCES)]
    images = normal(g, 2 + size, config.in_channels, config.image_size, config.image_size)
    return Case(images, build={"config": config})


def _with_class(self: ViT, x: Tensor) -> Tensor:
    """Put the class token in front, where there is one."""
    return x if self.cls_token is None else torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)


def _with_places(self: ViT, x: Tensor) -> Tensor:
    """Add the places, where there are any."""
    return x if self.pos_embed is None else x + self.pos_embed


def _joined(self: ViT, images: Tensor, join: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the sentence, the class token joined to the patches in the given way."""
    x = self.patch_embed(images)
    return _with_places(self, x if self.cls_token is None else join(self.cls_token, x))


def _patches_placed_only(self: ViT, images: Tensor) -> Tensor:
    x = self.patch_embed(images)
    if self.pos_embed is not None:
        x = x + self.pos_embed[:, -x.shape[1] :]
    return _with_class(self, x)


def _rows_from_the_start(self: ViT, images: Tensor) -> Tensor:
    x = self.patch_embed(images)
    if self.pos_embed is not None:
        x = x + self.pos_embed[:, : x.shape[1]]
    return _with_class(self, x)


def _learned_only(self: ViT, images: Tensor) -> Tensor:
    x = _with_class(self, self.patch_embed(images))
    return _with_places(self, x) if self.config.positions == "learned" else x


def _truth_of_a_tensor(self: ViT, images: Tensor) -> Tensor:
    x = self.patch_embed(images)
    if self.cls_token:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
    return _with_places(self, x)


def _always_a_class(self: ViT, images: Tensor) -> Tensor:
    x = self.patch_embed(images)
    x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)  # type: ignore[union-attr]
    return _with_places(self, x)


def _always_a_place(self: ViT, images: Tensor) -> Tensor:
    return _with_class(self, self.patch_embed(images)) + self.pos_embed  # type: ignore[operator]


EMBED = Exercise(
    id="vit.ViT.embed",
    lesson="05",
    number=6,
    title="Write the sentence",
    points=4,
    minutes=12,
    difficulty=2,
    case=_to_read,
    tolerance=3e-5,
    mistakes=[
        Mistake(
            "no places",
            lambda self, images: _with_class(self, self.patch_embed(images)),
            "The places are missing: self.pos_embed is unused. To attention a sentence is a bag of words, and a "
            "picture with its patches shuffled would look the same.",
        ),
        Mistake(
            "places before the class token",
            lambda self, images: _with_class(self, _with_places(self, self.patch_embed(images))),
            "You add the places before the class token has joined. The table has a row for it, the first, so the two "
            "lengths differ by one. First join, then add.",
        ),
        Mistake(
            "class token without a place",
            _patches_placed_only,
            "Only the patches get their places. The class token has a row of its own, the first: add the whole table "
            "after joining. (Some later networks leave it out; these weights count on it.)",
        ),
        Mistake(
            "rows from the start",
            _rows_from_the_start,
            "You cut the table so that it fits the patches, and every patch gets the row of the one before it. The "
            "first row belongs to the class token: join first, then add the whole table.",
        ),
        Mistake(
            "class token last",
            lambda self, images: _joined(
                self, images, lambda token, x: torch.cat([x, token.expand(len(x), -1, -1)], dim=1)
            ),
            "Your class token stands at the end. It comes first: the table's first row is its own, and pool reads "
            "token 0, which with you is the patch at the top left.",
        ),
        Mistake(
            "no class token",
            lambda self, images: _with_places(self, self.patch_embed(images)),
            "The class token is missing. Where self.cls_token is there, it stands in front of the patches, and the "
            "table of places has one row more.",
        ),
        Mistake(
            "class token of zeros",
            lambda self, images: _joined(
                self, images, lambda token, x: torch.cat([torch.zeros_like(x[:, :1]), x], dim=1)
            ),
            "You put zeros in front of the patches. The class token only starts at zero; it is learned, and what it "
            "has learned is in self.cls_token.",
        ),
        Mistake(
            "one class token for the batch",
            lambda self, images: _joined(self, images, lambda token, x: torch.cat([token, x], dim=1)),
            "self.cls_token is (1, 1, D), one for all pictures, and torch.cat repeats nothing. Give each picture of "
            "the batch its copy first: expand(B, -1, -1).",
        ),
        Mistake(
            "joined along the batch",
            lambda self, images: _joined(self, images, lambda token, x: torch.cat([token.expand(len(x), -1, -1), x])),
            "torch.cat without dim joins along the batch, as if the class token were one more picture. The tokens are "
            "dim 1.",
        ),
        Mistake(
            "class token added",
            lambda self, images: _joined(self, images, lambda token, x: x + token),
            "You add the class token to every patch. It is a word of its own in front of the others, one token more, "
            "so that it can ask them all.",
        ),
        Mistake(
            "places put beside",
            lambda self, images: torch.cat(
                [_with_class(self, self.patch_embed(images)), *([] if self.pos_embed is None else [self.pos_embed])],
                dim=1,
            ),
            "You put the table behind the tokens with torch.cat. A place is added to its token, number by number: "
            "x + self.pos_embed.",
        ),
        Mistake(
            "learned places only",
            _learned_only,
            'You add the places only where positions is "learned". The fixed sines and cosines lie in self.pos_embed '
            "too and are added in the same way: ask whether self.pos_embed is None.",
        ),
        Mistake(
            "always a class token",
            _always_a_class,
            'Pooled by the mean there is no class token: self.cls_token is None where pool is "mean". Ask before you '
            "expand it.",
        ),
        Mistake(
            "always a place",
            _always_a_place,
            'self.pos_embed is None where positions is "none": there is nothing to add. Ask before you add it.',
        ),
        Mistake(
            "truth of a tensor",
            _truth_of_a_tensor,
            "`if self.cls_token` asks a whole tensor whether it is true, and torch refuses to say. Ask whether there "
            "is one: `is not None`.",
        ),
    ],
)


# --- the reading of the sentence ---------------------------------------------------------------------------------


def _read(g: torch.Generator, size: int) -> Case:
    config = _vit(image_size=6, patch_size=2, in_channels=1, hidden_size=5 + 2 * size, pool=("cls", "mean")[size % 2])
    return Case(normal(g, 3 + size, 9 + (size + 1) % 2, config.hidden_size), build={"config": config})


def _pools(
    cls: Callable[[Tensor], Tensor] = lambda x: x[:, 0], mean: Callable[[Tensor], Tensor] = lambda x: x.mean(dim=1)
) -> Callable[[ViT, Tensor], Tensor]:
    """Return an answer that pools in the given ways; what is not given is right."""
    return lambda self, x: cls(x) if self.config.pool == "cls" else mean(x)


def _wrong_tokens(self: ViT, x: Tensor) -> Tensor:
    if self.config.pool == "cls":
        return x[:, -1]
    return x[:, 1:].mean(dim=1)


POOL_BUG = Exercise(
    id="vit.pool_bug",
    reference="vit.ViT.pool",
    lesson="05",
    number=7,
    title="Debug: it learns, and reads the wrong tokens",
    points=3,
    minutes=8,
    difficulty=2,
    case=_read,
    broken="wrong tokens",
    mistakes=[
        Mistake(
            "wrong tokens",
            _wrong_tokens,
            "Two lines from other networks. The last token has read everything in a text model that hides the future; "
            "here it is the patch at the bottom right. And leaving out token 0 is right only where it is a class "
            "token.",
        ),
        Mistake(
            "last token",
            _pools(cls=lambda x: x[:, -1]),
            "The mean is right now. With a class token you still read the last token, which here is the patch at the "
            "bottom right. It learns nevertheless, because that patch may ask all others; but embed has put the class "
            "token somewhere else.",
        ),
        Mistake(
            "a patch left out",
            _pools(mean=lambda x: x[:, 1:].mean(dim=1)),
            "The class token is right now. Your mean still leaves out token 0, as code does that has a class token "
            "there. A ViT that pools by the mean has none: token 0 is the patch at the top left, and nobody reads it.",
        ),
        Mistake(
            "always the first",
            _pools(mean=lambda x: x[:, 0]),
            'You return token 0 in both cases. Where pool is "mean" there is no class token, and token 0 is only the '
            "patch at the top left.",
        ),
        Mistake(
            "always the mean",
            _pools(cls=lambda x: x.mean(dim=1)),
            "You average in both cases. With a class token that mixes it with all patches; it was put there to collect "
            "what the classifier needs, and is read alone.",
        ),
        Mistake(
            "mean of the patches for both",
            _pools(cls=lambda x: x[:, 1:].mean(dim=1)),
            "With a class token you now average the patches and leave the class token out: nothing that it has "
            'collected is read. Where pool is "cls", return that token alone.',
        ),
        Mistake(
            "the two swapped",
            _pools(cls=lambda x: x.mean(dim=1), mean=lambda x: x[:, 0]),
            'The two cases have changed places: the class token is read where pool is "cls", the mean where it is '
            '"mean".',
        ),
        Mistake(
            "first picture",
            _pools(cls=lambda x: x[0]),
            "x[0] is the first picture with all its tokens. The batch is axis 0 and the tokens axis 1: x[:, 0] is the "
            "first token of every picture.",
        ),
        Mistake(
            "axis kept",
            _pools(cls=lambda x: x[:, :1]),
            "x[:, :1] is a sentence of one token, (B, 1, D). The classifier wants one vector for each picture, (B, D): "
            "an index, not a range.",
        ),
        Mistake(
            "mean over the features",
            _pools(mean=lambda x: x.mean(dim=-1)),
            "Your mean runs over the features and leaves one number for each token. It runs over the tokens, axis 1, "
            "and leaves one vector for each picture.",
        ),
        Mistake(
            "mean over the pictures",
            _pools(mean=lambda x: x.mean(dim=0)),
            "Your mean runs over axis 0, the pictures of the batch. The tokens are axis 1.",
        ),
        Mistake(
            "summed",
            _pools(mean=lambda x: x.sum(dim=1)),
            "You add the tokens up. The mean divides by their number, so that the head gets numbers of the same size "
            "however many patches there are.",
        ),
        Mistake(
            "largest",
            _pools(mean=lambda x: x.amax(dim=1)),
            "You take the largest value of each feature, as convolutional networks sometimes do. Here pool is the "
            "mean over all patches.",
        ),
    ],
)

EXERCISES = [PATCHIFY, PATCH_EMBED, ATTENTION_MAP, SELF_ATTENTION, BLOCK, EMBED, POOL_BUG]


# --- guesses and the question in words ---------------------------------------------------------------------------


def _ahead(record: Record, first: str, second: str, *, pairs: int = 1, at: float | None = None) -> bool:
    """Whether the first variant is established as more accurate than the second.

    Judged as results.verdict judges: paired by seed, the interval widened for all pairs that could be compared.
    """
    accuracies = (record.values(variant, "accuracy", at) for variant in (first, second))
    gains = [own - other for own, other in zip(*accuracies, strict=True)]
    return results.interval(gains, 1 - 0.05 / pairs)[1] > 0


PLACES = {
    "none": "none at all",
    "learned": "the learned table",
    "sin-cos": "the fixed sines and cosines",
    "both": "each of the two tables beats none; between the two no difference is established",
    "": "nothing of this can be claimed",
}
AHEAD = ("the convolutional network", "the ViT", "no difference is established")


def _best_places() -> str:
    """Read from the record which way of telling a patch its place is most accurate, or what else can be said."""
    record, variants = results.load("vit_positions"), ("none", "learned", "sin-cos")
    for best in variants:
        if all(_ahead(record, best, other, pairs=3) for other in variants if other != best):
            return PLACES[best]
    both = all(_ahead(record, table, "none", pairs=3) for table in ("learned", "sin-cos"))
    return PLACES["both" if both else ""]


def _ahead_with_few_pictures() -> str:
    """Read from the record which network is more accurate after 50 training pictures."""
    record = results.load("data_efficiency")
    if _ahead(record, "convolutional", "ViT", at=50):
        return AHEAD[0]
    return AHEAD[1] if _ahead(record, "ViT", "convolutional", at=50) else AHEAD[2]


def _pairs_in_the_map() -> float:
    """Count, on the meta device, the entries of one head's attention map for a picture and for one twice as wide."""
    entries = []
    for side in (16, 32):
        with torch.device("meta"):
            vit = ViT(_vit(image_size=side, patch_size=4, in_channels=1, hidden_size=4, pool="mean"))
            [shares] = vit.attention_maps(torch.zeros(1, 1, side, side))
        entries.append(shares.numel())
    return entries[1] / entries[0]


QUESTIONS = [
    Question(
        id="vit.q1",
        lesson="05",
        text="A ViT reads 8 × 8 digits as 16 patches. Its tokens are told their places by a learned table, by fixed "
        "sines and cosines, or not at all. Trained alike, which recognises most digits that it has not seen?",
        choices=tuple(PLACES.values()),
        answer=_best_places,
        because="Read from the recorded runs: a difference counts where the paired interval, widened for three "
        "comparisons, leaves out 0.",
    ),
    Question(
        id="vit.q2",
        lesson="05",
        text="A small convolutional network and a small ViT learn to read digits from 50 pictures. Which recognises "
        "more of those that it has not seen?",
        choices=AHEAD,
        answer=_ahead_with_few_pictures,
        because="Read from the recorded runs: a difference counts where the paired 95 % interval leaves out 0.",
    ),
    Question(
        id="vit.q3",
        lesson="05",
        text="A picture becomes twice as wide and twice as high; the patches keep their size. There is no class token. "
        "How many times as many entries has the attention map of one head?",
        unit="times as many",
        answer=_pairs_in_the_map,
        because="Four times as many tokens, and each of them asks four times as many: the fourth power of the side.",
    ),
]

PROSE = [
    Prose(
        id="vit.w1",
        lesson="05",
        text="Cut every digit into its 16 patches and lay them down again in another order, the same wrong order for "
        "all pictures, those for training and those for testing. A convolutional network and a ViT with learned "
        "positions are trained anew on these. Say for each whether it will miss the true order, and why; then say, "
        "with a measurement of this lesson, what the answer has to do with how many pictures each of them needs.",
        points=2,
        rubric=(
            "the ViT loses nothing: its patches stay whole, and its positions are learned row by row without knowing "
            "which patches are neighbours, so a fixed other order only renumbers the table; the convolutional network "
            "loses, because its filters and their shared weights take for granted that what lies side by side belongs "
            "together, which at the borders of patches is no longer so: 1",
            "what a network takes for granted it need not learn from pictures, so it is worth most where they are "
            "few; quotes the measurement of accuracy against the number of training pictures with its interval or its "
            "verdict, and claims no more than that says: 1",
        ),
        min_words=50,
        max_words=150,
    )
]
