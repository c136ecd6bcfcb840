"""Lesson 10, MMDiT: words and patches in one attention, with weights of their own or shared, and how to read it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib import results
from lesson_lib.attention import Rotate, attend
from lesson_lib.dit import modulate
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
from lesson_lib.mmdit import (
    DoubleStreamBlock,
    Heads,
    MMDiT,
    MMDiTConfig,
    QKNorm,
    SandwichBlock,
    SingleStreamBlock,
    SingleStreamConfig,
    SingleStreamDiT,
    joint_attention,
    modulation_share,
    sentence_mask,
)
from lesson_lib.position import TEXT_PLACES, Rotation, centred_grid, grid_coordinates, joint_coordinates
from lesson_lib.readout import BLOCKS

LESSON = LessonCard(
    number="10",
    slug="mmdit",
    title="MMDiT",
    question="What if words and patches talk to each other?",
    minutes=125,
    prerequisites=("08", "09"),
)

Result = Callable[..., Any]


def _there(g: torch.Generator, batch: int, words: int) -> Tensor:
    """Draw which words are there: the first always, the last never."""
    mask = uniform(g, batch, words) > 0.4
    mask[:, 0], mask[:, -1] = True, False
    return mask


def _in_turn(g: torch.Generator, size: int, batch: int, words: int, patches: int, channels: int) -> tuple[Any, Any]:
    """Draw a rotation of the sentence for every second size, and a mask of its words for sizes 2 and 3."""
    rotate = Rotation.of(2 * normal(g, words + patches, channels // 2)) if size % 2 else None
    return rotate, _there(g, batch, words) if size % 4 > 1 else None


# --- two projections, one softmax --------------------------------------------------------------------------------


def _two_kinds(g: torch.Generator, size: int) -> Case:
    """Draw queries, keys and values of words and of patches; the fourth time there are more words than patches."""
    heads, channels, words, patches = ((2, 6, 5, 7), (3, 4, 3, 8), (1, 8, 4, 9), (2, 4, 7, 5))[size % 4]
    batch = 2 + size
    text, image = (tuple(normal(g, batch, heads, n, channels) for _ in range(3)) for n in (words, patches))
    return Case(text, image, *_in_turn(g, size, batch, words, patches, channels))


def _merged(heard: Tensor) -> Tensor:
    return rearrange(heard, "b h n d -> b n (h d)")


def _joined(
    turn: Callable[[Tensor, Tensor, Tensor, Rotate], Sequence[Tensor]] = lambda q, k, v, r: (r(q), r(k), v),
    mask_of: Callable[[Tensor | None, int], Tensor | None] = sentence_mask,
) -> Result:
    """Return a joint attention that turns or masks in its own way."""

    def answer(text: Heads, image: Heads, rotate: Any = None, mask: Any = None) -> Any:
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(text, image, strict=True))
        if rotate is not None:
            query, key, value = turn(query, key, value, rotate)
        heard = _merged(attend(query, key, value, mask=mask_of(mask, image[0].shape[2])))
        return heard[:, : text[0].shape[2]], heard[:, text[0].shape[2] :]

    return answer


def _asking(mix: Callable[[Callable[[str, str], Tensor]], Sequence[Tensor]]) -> Result:
    """Return an attention made of parts: mix is given ask(who, whom), each with a softmax of its own."""

    def answer(text: Heads, image: Heads, rotate: Any = None, mask: Any = None) -> Any:
        words, patches = text[0].shape[2], image[0].shape[2]
        query, key, value = (torch.cat(pair, dim=2) for pair in zip(text, image, strict=True))
        if rotate is not None:
            query, key = rotate(query), rotate(key)
        places = {"text": slice(words), "image": slice(words, None), "all": slice(None)}
        everyone = sentence_mask(mask, patches)

        def ask(who: str, whom: str) -> Tensor:
            asking, asked = places[who], places[whom]
            there = None if everyone is None else everyone[:, asked]
            return _merged(attend(query[:, :, asking], key[:, :, asked], value[:, :, asked], mask=there))

        return tuple(mix(ask))

    return answer


def _each_turned(text: Heads, image: Heads, rotate: Any = None, mask: Any = None) -> Any:
    if rotate is not None:
        text, image = ((rotate(query), rotate(key), value) for query, key, value in (text, image))
    return joint_attention(text, image, None, mask)


def _patches_first(text: Heads, image: Heads, rotate: Any = None, mask: Any = None) -> Any:
    query, key, value = (torch.cat(pair, dim=2) for pair in zip(image, text, strict=True))
    if rotate is not None:
        query, key = rotate(query), rotate(key)
    patches = image[0].shape[2]
    everyone = None if mask is None else F.pad(mask, (patches, 0), value=True)
    heard = _merged(attend(query, key, value, mask=everyone))
    return heard[:, patches:], heard[:, :patches]


JOINT = Exercise(
    id="mmdit.joint_attention",
    lesson="10",
    number=1,
    title="Two projections, one softmax",
    points=4,
    minutes=12,
    difficulty=2,
    case=_two_kinds,
    mistakes=[
        Mistake(
            "a softmax for each kind",
            _asking(lambda ask: [ask(who, "text") + ask(who, "image") for who in ("text", "image")]),
            "You attend to words and to patches separately and add the two answers. Each has a softmax of its own, so "
            "every token gives away 1 twice, and must hear both kinds equally loudly. Glue the keys together first: "
            "one softmax over all L + N decides how much goes to words.",
        ),
        Mistake(
            "each among its own",
            _asking(lambda ask: (ask("text", "text"), ask("image", "image"))),
            "Words ask words and patches ask patches: two transformers side by side that never meet. Glue queries, "
            "keys and values of both kinds together before the attention.",
        ),
        Mistake(
            "only the others",
            _asking(lambda ask: (ask("text", "image"), ask("image", "text"))),
            "You built cross-attention in both directions: words ask only patches and patches only words. In the "
            "joint attention everyone asks everyone, their own kind as well.",
        ),
        Mistake(
            "words ask words only",
            _asking(lambda ask: (ask("text", "text"), ask("image", "all"))),
            "Your patches ask everyone, but your words ask only each other, as with a frozen text. In MMDiT the words "
            "look at the picture too and change with it: their queries meet all keys.",
        ),
        Mistake(
            "patches first",
            _patches_first,
            "You put the patches in front of the words, as diffusers does for SD3. Without places nothing changes, but "
            "rotate has its angles for the words first, and here it turns words by places of patches.",
        ),
        Mistake(
            "not turned",
            _joined(turn=lambda q, k, v, r: (q, k, v)),
            "rotate is unused: to your attention the picture is a bag of patches. Queries and keys of the whole "
            "sentence are turned, after gluing and before they meet.",
        ),
        Mistake(
            "values turned",
            _joined(turn=lambda q, k, v, r: (r(q), r(k), r(v))),
            "You turn the values too. What is handed out would be turned by the place it comes from, and nothing turns "
            "it back: queries and keys only (lesson 8).",
        ),
        Mistake(
            "turned before gluing",
            _each_turned,
            "You turn words and patches before they are one sentence. rotate has an angle for each of the L + N "
            "tokens, the words first: glue, then turn.",
        ),
        Mistake(
            "mask ignored",
            _joined(mask_of=lambda mask, patches: None),
            "mask is unused, so everybody hears the padding of short captions, and a caption's picture depends on how "
            "far it was padded. Words that are not there get a score of −∞.",
        ),
        Mistake(
            "mask of the words alone",
            _joined(mask_of=lambda mask, patches: mask),
            "The mask has L columns and the sentence L + N. The patches are all there: pad it with True on the right; "
            "sentence_mask does that.",
        ),
        Mistake(
            "patches masked",
            _joined(mask_of=lambda mask, patches: None if mask is None else F.pad(mask, (0, patches))),
            "You pad the mask with False, F.pad's own choice, and nobody asks a patch any more. True means there, and "
            "the patches are: value=True.",
        ),
        Mistake(
            "returned the other way round",
            lambda *args: joint_attention(*args)[::-1],
            "You return the patches first. What the words heard comes first, as the words come first everywhere.",
        ),
    ],
)


# --- the sentence is cut again -----------------------------------------------------------------------------------


def _to_cut(g: torch.Generator, size: int) -> Case:
    """Draw a sentence, in turn with fewer words than patches, with as many, and with more."""
    words, patches = ((3, 8), (5, 5), (9, 4), (1, 6))[size % 4]
    return Case(normal(g, 2 + size, words + patches, 6 + 2 * size), words)


SPLIT = Exercise(
    id="mmdit.split_sentence",
    lesson="10",
    number=2,
    title="Cut the sentence again",
    points=1,
    minutes=3,
    difficulty=1,
    case=_to_cut,
    mistakes=[
        Mistake(
            "patches first",
            lambda x, words: (x[:, -words:], x[:, :-words]),
            "You look for the words at the end. They come first in this course, as in FLUX and Qwen-Image; diffusers' "
            "SD3 has them last, which is easily overlooked when code is carried over.",
        ),
        Mistake(
            "returned the other way round",
            lambda x, words: (x[:, words:], x[:, :words]),
            "The cut is right, and the pieces are exchanged: the words come first, then the patches.",
        ),
        Mistake(
            "halves",
            lambda x, words: x.chunk(2, dim=1),
            "You cut the sentence in the middle. It has L words and N patches, and these are seldom as many: cut "
            "after `words`.",
        ),
        Mistake(
            "pieces of one length",
            lambda x, words: x.split(words, dim=1),
            "A whole number tells split how long every piece is, so a long sentence falls into many. Give it both "
            "lengths, [words, the rest], or use slices.",
        ),
        Mistake(
            "images cut",
            lambda x, words: (x[:words], x[words:]),
            "You cut the first axis, which counts the images of the batch. Tokens are the second: x[:, :words].",
        ),
        Mistake(
            "words cut off",
            lambda x, words: (x[:, :words].detach(), x[:, words:]),
            "The values are right, but the words lose their gradient: detach() cuts it. In MMDiT words learn as well, "
            "and so do all weights through which they went.",
        ),
    ],
)


# --- queries and keys of one length ------------------------------------------------------------------------------


def _loud(g: torch.Generator, size: int) -> Case:
    """Draw queries and keys, some of which have run away."""
    heads, channels = ((2, 6), (3, 4), (1, 10), (4, 8))[size % 4]
    louder = (1.0, 30.0, 4.0, 300.0)[size % 4]
    query, key = normal(g, 2 + size, heads, 5 + size, channels), normal(g, 2 + size, heads, 7, channels)
    return Case(louder * query, 2 + 3 * key, build={"head_size": channels})


Normed = Callable[[Tensor, Tensor], Tensor]


def _mean_square(x: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    return x * (x.square().mean(dim=dims, keepdim=True) + 1e-6).rsqrt()


def _both(norm: Normed) -> Result:
    """Return a QK-norm that treats queries and keys alike, by a function of the vectors and their learned weights."""
    return lambda self, query, key: (norm(query, self.query.weight), norm(key, self.key.weight))


def _squared_in_half(x: Tensor, weight: Tensor) -> Tensor:
    return _mean_square(x, -1) * weight.to(x.dtype)


def _bounded(answer: Any, case: Case) -> str | None:
    norm: QKNorm = answer.__self__
    query, key = (1200 * part / part.abs().amax() for part in case.args)
    with torch.no_grad():
        halves, wanted = answer(query.half(), key.half()), answer(query, key)
    if any(half.dtype != torch.float16 for half in halves):
        return "what comes in float16 must come back in float16: compute in float32 and go back with .to(x.dtype)."
    scores, exact = ((q.float() @ k.float().mT / math.sqrt(q.shape[-1])) for q, k in (halves, wanted))
    most = float(norm.query.weight.abs().max() * norm.key.weight.abs().max()) * math.sqrt(query.shape[-1])
    if bool(scores.isfinite().all()) and float((scores - exact).abs().max()) <= 0.01 * most:
        return None
    return (
        "in float16, with queries and keys of up to 1,200, the scores are off: 1,200² is more than float16 can hold. "
        f"They must be those of float32, none of them above {most:.3g}."
    )


QK_NORM = Exercise(
    id="mmdit.QKNorm.forward",
    lesson="10",
    number=3,
    title="Let no score run away",
    points=2,
    minutes=6,
    difficulty=1,
    case=_loud,
    properties=[Property("half precision, for which QK-norm was made", _bounded)],
    mistakes=[
        Mistake(
            "only the queries",
            lambda self, query, key: (self.query(query), key),
            "The keys come back as they were. A score is a product of two lengths: as long as one of them may grow, "
            "so may the score.",
        ),
        Mistake(
            "one norm for both",
            lambda self, query, key: (self.query(query), self.query(key)),
            "You use self.query for the keys as well. Both have d learned weights of their own; self.key would never "
            "learn anything.",
        ),
        Mistake(
            "norms exchanged",
            lambda self, query, key: (self.key(query), self.query(key)),
            "The norms have changed places: queries are stretched by the keys' weights. A network that you train would "
            "not mind; published weights would be read wrongly.",
        ),
        Mistake(
            "length 1",
            _both(lambda x, weight: F.normalize(x, dim=-1) * weight),
            "Your vectors have length 1 before the weights; those of an RMSNorm have √d, a mean square of 1. With "
            "length 1 no score is larger than 1 / √d, and the softmax can hardly prefer anybody.",
        ),
        Mistake(
            "centred",
            _both(lambda x, weight: F.layer_norm(x, x.shape[-1:], eps=1e-6) * weight),
            "You subtract the mean first, as a LayerNorm does. RMSNorm only divides, by the root of the mean square; "
            "some networks (Hunyuan-DiT, AuraFlow) do use a LayerNorm here, SD3.5 and FLUX do not.",
        ),
        Mistake(
            "heads together",
            _both(lambda x, weight: _mean_square(x, (1, 3)) * weight),
            "You take the mean square over all heads. Then a loud head makes the others faint, and its own scores may "
            "still be large: every head's vector has its own length, over the last axis alone.",
        ),
        Mistake(
            "no weights",
            _both(lambda x, weight: _mean_square(x, -1)),
            "The learned weights are unused. All scores then stay within √d and a head can never become sharper than "
            "that: the weights give back as much as the training asks for.",
        ),
        Mistake(
            "squared in half precision",
            _both(_squared_in_half),
            "Right in float32. But you square in the tensor's own type, and half precision ends at 65,504: the vectors "
            "that have run away, the very ones this norm is for, overflow. self.query and self.key compute in float32.",
        ),
    ],
)


# --- attention and perceptron side by side -----------------------------------------------------------------------


def _one_sentence(g: torch.Generator, size: int) -> Case:
    width, heads, ratio = ((12, 2, 2.0), (12, 3, 3.0), (8, 1, 4.0), (16, 2, 1.5))[size % 4]
    batch, words, patches = 2 + size, 3 + size, 5 + size
    rotate, mask = _in_turn(g, size, batch, words, patches, width // heads)
    build = {"width": width, "num_heads": heads, "mlp_ratio": ratio, "qk_norm": size % 4 != 2}
    x, c = normal(g, batch, words + patches, width), normal(g, batch, width)
    return Case(x, c, rotate, sentence_mask(mask, patches), build=build)


def _normed_then_turned(self: SingleStreamBlock, q: Tensor, k: Tensor, rotate: Rotate | None) -> Sequence[Tensor]:
    if self.norm is not None:
        q, k = self.norm(q, k)
    return (q, k) if rotate is None else (rotate(q), rotate(k))


def _turned_then_normed(self: SingleStreamBlock, q: Tensor, k: Tensor, rotate: Rotate | None) -> Sequence[Tensor]:
    if rotate is not None:
        q, k = rotate(q), rotate(k)
    return (q, k) if self.norm is None else self.norm(q, k)


def _gelu(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _side_by_side(
    heads: str = "b n (three h d) -> three b h n d",
    meet: Callable[..., Sequence[Tensor]] = _normed_then_turned,
    masked: bool = True,
    join: Callable[[Tensor, Tensor], Tensor] = lambda heard, hidden: torch.cat([heard, _gelu(hidden)], dim=-1),
    gated: bool = True,
) -> Result:
    """Return a parallel block with a slip in one of its steps."""

    def forward(self: SingleStreamBlock, x: Tensor, c: Tensor, rotate: Any = None, mask: Any = None) -> Tensor:
        shift, scale, gate = self.adaLN_modulation(c)
        qkv, hidden = self.linear1(modulate(self.pre_norm(x), shift, scale)).split(self.sizes, dim=-1)
        query, key, value = rearrange(qkv, heads, three=3, h=self.num_heads)
        query, key = meet(self, query, key, rotate)
        heard = _merged(attend(query, key, value, mask=mask if masked else None))
        answer = self.linear2(join(heard, hidden))
        return x + (gate[:, None] * answer if gated else answer)

    return forward


def _one_after_the_other(self: SingleStreamBlock, x: Tensor, c: Tensor, rotate: Any = None, mask: Any = None) -> Tensor:
    shift, scale, gate = self.adaLN_modulation(c)
    qkv, hidden = self.linear1(modulate(self.pre_norm(x), shift, scale)).split(self.sizes, dim=-1)
    query, key, value = rearrange(qkv, "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
    query, key = _normed_then_turned(self, query, key, rotate)
    heard = _merged(attend(query, key, value, mask=mask))
    to_tokens, from_hidden = self.linear2.weight.split([x.shape[-1], self.sizes[1]], dim=1)
    x = x + gate[:, None] * F.linear(heard, to_tokens, self.linear2.bias)
    hidden = self.linear1(modulate(self.pre_norm(x), shift, scale))[..., self.sizes[0] :]
    return x + gate[:, None] * F.linear(_gelu(hidden), from_hidden)


SINGLE = Exercise(
    id="mmdit.SingleStreamBlock.forward",
    lesson="10",
    number=4,
    title="Listen and think at the same time",
    points=4,
    minutes=13,
    difficulty=3,
    case=_one_sentence,
    tolerance=3e-5,
    mistakes=[
        Mistake(
            "one after the other",
            _one_after_the_other,
            "Your perceptron reads what the attention has already changed, as in DiT. Here the two stand side by side: "
            "both read the same normalised tokens, which is why one matrix (linear1) can serve both.",
        ),
        Mistake(
            "perceptron in front",
            _side_by_side(join=lambda heard, hidden: torch.cat([_gelu(hidden), heard], dim=-1)),
            "You hand linear2 the perceptron's numbers first. Its first D inputs are what was heard, the rest the "
            "hidden numbers; FLUX's weights have that order.",
        ),
        Mistake(
            "no activation",
            _side_by_side(join=lambda heard, hidden: torch.cat([heard, hidden], dim=-1)),
            "Nothing bends the hidden numbers, so linear1 and linear2 together are one matrix there, and the "
            "perceptron thinks nothing. GELU stands between them.",
        ),
        Mistake(
            "exact GELU",
            _side_by_side(join=lambda heard, hidden: torch.cat([heard, F.gelu(hidden)], dim=-1)),
            "Nearly right: FLUX's GELU is the approximation with tanh, yours the exact one. They differ in the fourth "
            'digit, which a comparison with published weights shows: approximate="tanh".',
        ),
        Mistake(
            "no gate",
            _side_by_side(gated=False),
            "The gate is cut out of the modulation and not used: a fresh block, whose three vectors are zero, then "
            "adds full answers of untrained layers.",
        ),
        Mistake(
            "no QK-norm",
            _side_by_side(meet=lambda self, q, k, rotate: (q, k) if rotate is None else (rotate(q), rotate(k))),
            "self.norm is unused, so queries and keys may grow as they like. Where it is not None, both pass it before "
            "they are turned.",
        ),
        Mistake(
            "turned before the norm",
            _side_by_side(meet=_turned_then_normed),
            "You turn first and normalise then. The lengths are the same, but the norm's d weights stretch channels, "
            "and after the turn a channel is a mixture that depends on the place: scores are no longer functions of "
            "distances. Norm first.",
        ),
        Mistake(
            "mask ignored",
            _side_by_side(masked=False),
            "mask is unused: in this block everyone hears the padding. It already covers the whole sentence; hand it "
            "to attend.",
        ),
        Mistake(
            "heads outermost",
            _side_by_side(heads="b n (h three d) -> three b h n d"),
            "You cut linear1's numbers head by head, (h three d). All queries come first, then all keys, then all "
            "values, and each of the three is cut into heads: (three h d).",
        ),
    ],
)


# --- double blocks, then single ones -----------------------------------------------------------------------------


def _whole(g: torch.Generator, size: int) -> Case:
    """Draw a small network with both kinds of blocks in other numbers; the third time there are only double blocks."""
    double, single = ((2, 2), (1, 2), (2, 0), (2, 1))[size % 4]
    width, heads = ((8, 2), (12, 3), (8, 1), (16, 2))[size % 4]
    config = MMDiTConfig(
        4, 2, 1, width, heads, double, single, mlp_ratio=2.0, context_size=5, pooled_size=0, table_size=2
    )
    batch, words, patches = 2 + size, 6 - size % 4, 4 + 2 * size
    rotate, mask = _in_turn(g, size, batch, words, patches, width // heads)
    text, image = normal(g, batch, words, width), normal(g, batch, patches, width)
    return Case(text, image, normal(g, batch, width), rotate, mask, build={"config": config})


def _hybrid(
    told: Callable[..., Any] = lambda rotate, mask: (rotate, mask),
    carry: Callable[..., Any] = lambda before, after: after,
    join: Callable[..., Tensor] = lambda first, text, image: torch.cat([text, image], dim=1),
    everyone: Callable[[Any, int], Any] = sentence_mask,
    turned: bool = True,
    singles: bool = True,
    leave: Callable[[Tensor, int], Any] = lambda sentence, words: sentence[:, words:],
) -> Result:
    """Return a pass through all blocks with a slip in one of its steps."""

    def run_blocks(self: MMDiT, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None) -> Any:
        first, words, patches = text, text.shape[1], image.shape[1]
        for block in self.double_blocks:
            text, image = carry((text, image), block(text, image, c, *told(rotate, mask)))
        sentence = join(first, text, image)
        for block in self.single_blocks if singles else ():
            sentence = block(sentence, c, rotate if turned else None, everyone(mask, patches))
        return leave(sentence, words)

    return run_blocks


def _singles_first(self: MMDiT, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None) -> Any:
    sentence = torch.cat([text, image], dim=1)
    for block in self.single_blocks:
        sentence = block(sentence, c, rotate, sentence_mask(mask, image.shape[1]))
    text, image = sentence[:, : text.shape[1]], sentence[:, text.shape[1] :]
    for block in self.double_blocks:
        text, image = block(text, image, c, rotate, mask)
    return image


def _words_stay(self: MMDiT, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None) -> Any:
    for block in self.double_blocks:
        text, image = block(text, image, c, rotate, mask)
    for block in self.single_blocks:
        image = block(image, c)
    return image


RUN_BLOCKS = Exercise(
    id="mmdit.MMDiT.run_blocks",
    lesson="10",
    number=5,
    title="First two streams, then one",
    points=4,
    minutes=11,
    difficulty=2,
    case=_whole,
    tolerance=1e-4,
    mistakes=[
        Mistake(
            "words never change",
            _hybrid(carry=lambda before, after: (before[0], after[1])),
            "You keep the words that came in and hand every block the same ones. That is what cross-attention does; in "
            "MMDiT a block returns new words as well, and the next one reads those.",
        ),
        Mistake(
            "fresh words for the single blocks",
            _hybrid(join=lambda first, text, image: torch.cat([first, image], dim=1)),
            "Your sentence for the single blocks begins with the words that came in, not with those that the double "
            "blocks have worked on. What the first blocks understood of the text is lost.",
        ),
        Mistake(
            "patches first",
            _hybrid(
                join=lambda first, text, image: torch.cat([image, text], dim=1),
                everyone=lambda mask, patches: None if mask is None else F.pad(mask, (patches, 0), value=True),
                leave=lambda sentence, words: sentence[:, : sentence.shape[1] - words],
            ),
            "Your sentence has the patches first. rotate counts the words first, so from the double to the single "
            "blocks every token would move to another place.",
        ),
        Mistake(
            "words left behind",
            _words_stay,
            "Only the patches go through your single blocks, and the words are left behind after the double ones. In "
            "FLUX the words stay in the sentence to the very end: glue once, before the first single block.",
        ),
        Mistake(
            "single blocks first",
            _singles_first,
            "You run the single blocks before the double ones. The hybrid begins with two streams, while words and "
            "patches are still unlike, and goes on with one when they have come together.",
        ),
        Mistake(
            "single blocks forgotten",
            _hybrid(singles=False),
            "The single blocks' results are lost, or they never run: your result is that of the double blocks. In "
            "FLUX.1 that would leave out 38 of 57 blocks. Each single block reads what the one before returned.",
        ),
        Mistake(
            "not turned in the single blocks",
            _hybrid(turned=False),
            "rotate reaches your double blocks only. FLUX turns queries and keys in every block, by the same places: "
            "the sentence has the same order throughout.",
        ),
        Mistake(
            "not turned in the double blocks",
            _hybrid(told=lambda rotate, mask: (None, mask)),
            "rotate reaches your single blocks only. The double blocks want it too: their joint attention sees the "
            "same sentence.",
        ),
        Mistake(
            "no mask in the single blocks",
            _hybrid(everyone=lambda mask, patches: None),
            "Your single blocks hear the padding. A mask of the whole sentence, sentence_mask(mask, N), goes to each.",
        ),
        Mistake(
            "whole sentence",
            _hybrid(leave=lambda sentence, words: sentence),
            "You return words and patches. The words are no part of the picture: cut them off at the end.",
        ),
    ],
)


# --- a norm before and a norm after ------------------------------------------------------------------------------


def _sandwich_case(g: torch.Generator, size: int) -> Case:
    """Draw a block for sentences and, the third time, a refiner that hears no time; every second one shares keys."""
    width, heads, kv_heads, told = ((8, 2, 0, 5), (16, 4, 2, 7), (12, 3, 0, 0), (8, 2, 1, 6))[size % 4]
    batch, words, patches = 2 + size, 3 + size, 5 + size
    rotate, mask = _in_turn(g, size, batch, words, patches, width // heads)
    build = dict(width=width, num_heads=heads, hidden_width=10 + size, kv_heads=kv_heads, condition_size=told)
    x, c = normal(g, batch, words + patches, width), normal(g, batch, told) if told else None
    return Case(x, c, rotate, sentence_mask(mask, patches), build=build)


def _sandwich(
    four: Callable[[SandwichBlock, Tensor], Sequence[Tensor]] = lambda self, c: self.adaLN_modulation(c).chunk(4, -1),  # type: ignore[misc]
    gate: Callable[[Tensor], Tensor] = torch.tanh,
    add: Callable[..., Tensor] = lambda x, gate, norm, answer: x + gate * norm(answer),
    masked: bool = True,
    parallel: bool = False,
) -> Result:
    """Return a block with a slip in one of its steps; a refiner's gates are 1 and its scales 0."""

    def forward(self: SandwichBlock, x: Tensor, c: Any = None, rotate: Any = None, mask: Any = None) -> Tensor:
        zero, one = x.new_zeros(()), x.new_ones(())
        scale_msa, gate_msa, scale_mlp, gate_mlp = zero, one, zero, one
        if self.adaLN_modulation is not None:
            scale_msa, gate_msa, scale_mlp, gate_mlp = (vector[:, None] for vector in four(self, c))
            gate_msa, gate_mlp = gate(gate_msa), gate(gate_mlp)
        heard = self.ask(self.norm1(x) * (1 + scale_msa), rotate, mask if masked else None)
        after = add(x, gate_msa, self.norm1_after, heard)
        read = x if parallel else after
        return add(after, gate_mlp, self.norm2_after, self.mlp(self.norm2(read) * (1 + scale_mlp)))

    return forward


def _gate_first(self: SandwichBlock, c: Tensor) -> Sequence[Tensor]:
    assert self.adaLN_modulation is not None
    gate_msa, scale_msa, gate_mlp, scale_mlp = self.adaLN_modulation(c).chunk(4, dim=-1)
    return scale_msa, gate_msa, scale_mlp, gate_mlp


def _always_told(self: SandwichBlock, x: Tensor, c: Any = None, rotate: Any = None, mask: Any = None) -> Tensor:
    scales = self.adaLN_modulation(c)[:, None].chunk(4, dim=-1)  # type: ignore[misc]
    x = x + scales[1].tanh() * self.norm1_after(self.ask(self.norm1(x) * (1 + scales[0]), rotate, mask))
    return x + scales[3].tanh() * self.norm2_after(self.mlp(self.norm2(x) * (1 + scales[2])))


def _silu_first(self: SandwichBlock, c: Tensor) -> Sequence[Tensor]:
    assert self.adaLN_modulation is not None
    return self.adaLN_modulation(F.silu(c)).chunk(4, dim=-1)


SANDWICH = Exercise(
    id="mmdit.SandwichBlock.forward",
    lesson="10",
    number=6,
    title="Norms around, gates that are bounded, no shifts",
    points=3,
    minutes=11,
    difficulty=2,
    case=_sandwich_case,
    tolerance=3e-5,
    mistakes=[
        Mistake(
            "gates without tanh",
            _sandwich(gate=lambda gate: gate),
            "Your gates are plain numbers, as in DiT. Here they pass through tanh, so that no branch is ever added "
            "more than once, nor less than −1 times.",
        ),
        Mistake(
            "no norm after",
            _sandwich(add=lambda x, gate, norm, answer: x + gate * answer),
            "norm1_after and norm2_after are unused. They bring every answer to one size before it is added, however "
            "loud its branch has become: the other half of the sandwich.",
        ),
        Mistake(
            "norm after the sum",
            _sandwich(add=lambda x, gate, norm, answer: norm(x + gate * answer)),
            "You normalise the sum, as the first transformers did. That wipes out how far the sentence has come, in "
            "every block. The norm is for the answer alone: x + gate · norm(answer).",
        ),
        Mistake(
            "gated before the norm",
            _sandwich(add=lambda x, gate, norm, answer: x + norm(gate * answer)),
            "Your gate stands inside the norm, which takes out most of it again: half as loud before a norm is as loud "
            "as ever after it. Gate last.",
        ),
        Mistake(
            "gate first",
            _sandwich(_gate_first),
            "You read gate, scale. The order is scale, gate, scale, gate: first what tunes a branch, then what "
            "opens it.",
        ),
        Mistake(
            "SiLU first",
            _sandwich(_silu_first),
            "You send c through SiLU. In this block the modulation is a bare linear layer; whether the time has passed "
            "a SiLU before is the network's affair (Lumina's has, Z-Image's has not).",
        ),
        Mistake(
            "side by side",
            _sandwich(parallel=True),
            "Your perceptron reads the x that came in. The branches follow each other here: norm2 sees the tokens to "
            "which the attention's answer was added.",
        ),
        Mistake(
            "always told",
            _always_told,
            "A refiner of words hears no time: its adaLN_modulation is None, and so is c. Then both branches are added "
            "as they are, after their norms.",
        ),
        Mistake(
            "mask ignored",
            _sandwich(masked=False),
            "mask does not arrive, so everyone hears the padding: hand it to self.ask with the tokens.",
        ),
    ],
)


# --- where words stand -------------------------------------------------------------------------------------------


def _words_and_patches(g: torch.Generator, size: int) -> Case:
    """Draw words and a picture for every way to place them; pictures are never square, and mostly of odd sides."""
    height, width = ((5, 9), (3, 4), (4, 7), (11, 6))[size % 4]
    more = 2 * int(integers(g, 1, high=3))
    words = 4 + 2 * size + int(integers(g, 1, high=2))
    return Case(words, height + more, width + more, *((), ("continued",), ("origin",), ("diagonal",))[size % 4])


Move = Callable[[Tensor, str], Tensor]


def _placed(
    sentence: Move = lambda places, text: places,
    picture: Move = lambda places, text: places,
    patches_first: bool = False,
    **grids: Callable[[int, int], Tensor],
) -> Result:
    """Return joint coordinates whose words or patches are moved afterwards, or laid out by another grid."""

    def answer(words: int, height: int, width: int, text: str = "diagonal") -> Tensor:
        right = joint_coordinates(words, height, width, text)
        spoken, seen = sentence(right[:words], text), right[words:]
        if text in grids:
            seen = torch.cat([seen[:, :1], grids[text](height, width)], dim=1)
        return torch.cat([picture(seen, text), spoken] if patches_first else [spoken, picture(seen, text)])

    return answer


def _known_only(answer: Callable[..., Tensor], case: Case) -> str | None:
    try:
        answer(3, 2, 4, "centre")
    except ValueError:
        return None
    except Exception as error:
        return f'there is no way to place words called "centre": raise a ValueError, not {kind(error)}.'
    return 'there is no way to place words called "centre", and you return places. Raise a ValueError that says so.'


PLACES = Exercise(
    id="mmdit.joint_places",
    reference="position.joint_coordinates",
    lesson="10",
    number=7,
    title="Give words a place beside the patches",
    points=3,
    minutes=10,
    difficulty=2,
    case=_words_and_patches,
    gradient=False,
    properties=[Property("an unknown way", _known_only)],
    mistakes=[
        Mistake(
            "all at the origin",
            _placed(lambda places, text: torch.zeros_like(places)),
            "All of your words stand at (0, 0, 0), whatever text says. That is FLUX.1's way; Lumina counts on along "
            "the first axis and Qwen-Image goes along the diagonal.",
        ),
        Mistake(
            "on the first axis only",
            _placed(lambda places, text: F.pad(places[:, :1], (0, 2))),
            "On the diagonal a word has the same number on all three axes, (m + n, m + n, m + n). Yours counts on the "
            "first alone and stands in row 0 and column 0, which are in the middle of the picture.",
        ),
        Mistake(
            "continued on all axes",
            _placed(lambda places, text: places[:, :1].expand(-1, 3)),
            "Your continued words count on all axes at once. Lumina's count on the frame axis only, (n, 0, 0): rows "
            "and columns belong to the picture.",
        ),
        Mistake(
            "diagonal from 0",
            _placed(lambda places, text: places - places[0]),
            "Your diagonal begins at (0, 0, 0), the patch in the middle, and the next words lie on patches too. The "
            "first free number is m = max(⌊height / 2⌋, ⌊width / 2⌋).",
        ),
        Mistake(
            "picture from the corner",
            _placed(diagonal=grid_coordinates),
            "With the words on the diagonal the picture is counted from its middle (centred_grid). Yours begins at the "
            "corner, and words stand where patches are.",
        ),
        Mistake(
            "always centred",
            _placed(origin=centred_grid, continued=centred_grid),
            "You count every picture from its middle. That goes with the diagonal; FLUX.1 and Lumina count from the "
            "upper left corner.",
        ),
        Mistake(
            "picture in frame 0",
            _placed(picture=lambda places, text: F.pad(places[:, 1:], (1, 0))),
            "Your picture stands in frame 0, where the first word is. When words are continued, the picture is the "
            "step after the last of them: frame `words`.",
        ),
        Mistake(
            "picture in the last word's frame",
            _placed(picture=lambda places, text: places - (text == "continued") * torch.eye(3)[0]),
            "Your picture shares its frame with the last word. Words are numbered from 0, so `words` is the first "
            "frame that is free.",
        ),
        Mistake(
            "patches first",
            _placed(patches_first=True),
            "Your rows begin with the patches. The sentence that is turned has the words first.",
        ),
        Mistake(
            "any text",
            lambda words, height, width, text="diagonal": joint_coordinates(
                words, height, width, text if text in TEXT_PLACES else "diagonal"
            ),
            "Right for the three ways there are. For any other name you silently take one of them, and a slip of the "
            "pen gives a network with other places. Compare with TEXT_PLACES first.",
        ),
    ],
)


# --- weights that touch no token ---------------------------------------------------------------------------------


def _to_weigh(g: torch.Generator, size: int) -> Case:
    """Draw a network on the meta device: a hybrid, one with a shared modulation, one of a single stream, MMDiT-X."""
    heads, told = int(integers(g, 1, low=1, high=4)), int(integers(g, 1, low=3, high=30))
    start: dict[str, Any] = dict(in_channels=3, hidden_size=8 * heads, num_heads=heads, context_size=told)
    changes: dict[str, Any] = (
        {"double": 1, "single": 1, "pooled_size": 9},
        {"double": 2, "single": 1, "pooled_size": 0, "shared": ("modulation", "weights")},
        {"depth": 1, "refiners": 1, "kv_heads": heads, "condition_size": told, "mlp_width": 20, "axes": (4, 2, 2)},
        {"double": 2, "dual": 1, "pooled_size": 5, "guidance": True},
    )[size % 4]
    with torch.device("meta"):
        if size % 4 == 2:
            return Case(SingleStreamDiT(SingleStreamConfig(**start, **changes)))
        return Case(MMDiT(MMDiTConfig(input_size=8, table_size=4, **start, **changes)))


def _modulates(name: str) -> bool:
    return "adaLN_modulation" in name


def _share(
    told: Callable[[str, Tensor], bool] = lambda name, weight: _modulates(name),
    all_of: Callable[[str, Tensor], bool] = lambda name, weight: True,
    size: Callable[[Tensor], int] = Tensor.numel,
    listed: Callable[[nn.Module], Any] = lambda model: model.named_parameters(),
) -> Callable[[nn.Module], float]:
    """Return a share that lists, chooses or sizes the weights in its own way."""

    def answer(model: nn.Module) -> float:
        weights = list(listed(model))
        found = sum(size(weight) for name, weight in weights if told(name, weight))
        return found / sum(size(weight) for name, weight in weights if all_of(name, weight))

    return answer


def _stored(model: nn.Module) -> Any:
    return model.state_dict().items()


SHARE = Exercise(
    id="mmdit.modulation_share",
    lesson="10",
    number=8,
    title="Weigh what touches no token",
    points=2,
    minutes=7,
    difficulty=1,
    case=_to_weigh,
    gradient=False,
    mistakes=[
        Mistake(
            "shared weights counted again",
            _share(listed=lambda model: model.named_parameters(remove_duplicate=False)),
            "You count a modulation once for every block that uses it. Where blocks share it there is one set of "
            "weights, which is the point of sharing: model.named_parameters() lists each weight once.",
        ),
        Mistake(
            "everything that is stored",
            _share(listed=_stored),
            "state_dict lists what is stored: shared weights under each of their names, and tables of places, which "
            "are no weights. model.named_parameters() lists each weight once.",
        ),
        Mistake(
            "per cent",
            lambda model: 100 * modulation_share(model),
            "You return per cent. A share is a number from 0 to 1; where it is printed it may become per cent.",
        ),
        Mistake(
            "beside the rest",
            _share(all_of=lambda name, weight: not _modulates(name)),
            "You divide by the other weights. A share is a part of the whole, and the part belongs to the whole: one "
            "third, not one half.",
        ),
        Mistake(
            "matrices only",
            _share(told=lambda name, weight: _modulates(name) and weight.ndim > 1),
            "The biases of the modulation are missing. They are weights too, and in a zero-initialised layer they are "
            "the first to say anything.",
        ),
        Mistake(
            "blocks only",
            _share(told=lambda name, weight: _modulates(name) and "blocks" in name),
            "You count the blocks' modulations. The last layer has one as well, with a shift and a scale, under the "
            "same name: final_layer.adaLN_modulation.",
        ),
        Mistake(
            "any modulation",
            _share(told=lambda name, weight: "modulation" in name),
            'You look for "modulation" and also find a last layer of another name (final_modulation). What is asked '
            "for are the weights called adaLN_modulation.",
        ),
        Mistake(
            "tensors counted",
            _share(size=lambda weight: 1),
            "You count tensors, however large: a bias weighs as much as a matrix. weight.numel() says how many numbers "
            "there are.",
        ),
    ],
)


# --- four blocks of one matrix -----------------------------------------------------------------------------------


def _joint_map(g: torch.Generator, size: int) -> Case:
    """Draw a joint map; the third time some patches and some words ask no word at all."""
    words, patches = ((4, 7), (3, 6), (5, 8), (7, 4))[size % 4]
    scores = 2 * normal(g, 2 + size, 1 + size % 3, words + patches, words + patches)
    if size % 4 == 2:
        scores[:, :, [1, -2, -1], :words] = -math.inf
    return Case(scores.softmax(dim=-1), words, *((), (True,), (True,), (False,))[size % 4])


def _rows_first(joint: Tensor, words: int) -> list[Tensor]:
    return [part for row in joint.tensor_split((words,), dim=-2) for part in row.tensor_split((words,), dim=-1)]


def _quarters(
    renormalised: Callable[[Tensor], Tensor] = lambda part: part / part.sum(dim=-1, keepdim=True).clamp(min=1e-12),
    cut: Callable[[Tensor, int], Sequence[Tensor]] = _rows_first,
    asked: Callable[[bool], bool] = bool,
) -> Result:
    """Return the four blocks, cut or renormalised in its own way."""

    def answer(joint: Tensor, words: int, renormalise: bool = False) -> dict[str, Tensor]:
        if joint.shape[-1] != joint.shape[-2] or not 0 < words < joint.shape[-1]:
            raise ValueError("not joint")
        parts = cut(joint, words)
        return dict(zip(BLOCKS, [renormalised(p) for p in parts] if asked(renormalise) else parts, strict=True))

    return answer


def _columns_first(joint: Tensor, words: int) -> list[Tensor]:
    return [part for column in joint.tensor_split((words,), dim=-1) for part in column.tensor_split((words,), dim=-2)]


def _in_the_callers(part: Tensor) -> Tensor:
    part /= part.sum(dim=-1, keepdim=True).clamp(min=1e-12)
    return part


def _anything_cut(joint: Tensor, words: int, renormalise: bool = False) -> dict[str, Tensor]:
    parts = _rows_first(joint, words)
    if renormalise:
        parts = [part / part.sum(dim=-1, keepdim=True).clamp(min=1e-12) for part in parts]
    return dict(zip(BLOCKS, parts, strict=True))


def _joint_only(answer: Callable[..., Any], case: Case) -> str | None:
    joint = case.args[0]
    for told, shown, words in (
        ("a map of cross-attention, which has other columns than rows,", joint[..., :-1], 2),
        ("a map in which all tokens are words", joint, joint.shape[-1]),
        ("no words", joint, 0),
    ):
        try:
            answer(shown, words)
        except ValueError:
            continue
        except Exception as error:
            return f"{told} has no four blocks: raise a ValueError, not {kind(error)}."
        return f"{told} has no four blocks, but you return some. Raise a ValueError that says so."
    return None


FOUR_BLOCKS = Exercise(
    id="readout.four_blocks",
    lesson="10",
    number=9,
    title="Read who asks whom",
    points=2,
    minutes=9,
    difficulty=2,
    case=_joint_map,
    gradient=False,
    properties=[Property("maps that are not joint", _joint_only)],
    mistakes=[
        Mistake(
            "asking and asked exchanged",
            _quarters(cut=_columns_first),
            '"text → image" and "image → text" have changed places. A row is a token that asks, a column one that is '
            "asked: words asking patches are the first L rows and the last N columns.",
        ),
        Mistake(
            "patches first",
            _quarters(cut=lambda joint, words: _rows_first(joint, joint.shape[-1] - words)),
            "You cut after N tokens, as if the patches came first. The words do, L of them; check the order before you "
            "read a map of another library (diffusers' SD3 has the patches first).",
        ),
        Mistake(
            "always renormalised",
            _quarters(asked=lambda renormalise: True),
            "You renormalise without being asked. Then nobody can see any more how much of a patch's attention goes to "
            "words at all.",
        ),
        Mistake(
            "never renormalised",
            _quarters(asked=lambda renormalise: False),
            "renormalise changes nothing with you. A row sums to 1 over words and patches together; its part among the "
            "words sums to less, and dividing by that sum shows where it looks there.",
        ),
        Mistake(
            "columns",
            _quarters(lambda part: part / part.sum(dim=-2, keepdim=True).clamp(min=1e-12)),
            "You let columns sum to 1. A row belongs to one token that asks, and its shares are what is divided up: "
            "sum over the last axis.",
        ),
        Mistake(
            "another softmax",
            _quarters(lambda part: part.softmax(dim=-1)),
            "You take a softmax of shares, which are between 0 and 1, so that all come out nearly equal. They were "
            "through the softmax already: divide by their sum.",
        ),
        Mistake(
            "zero over zero",
            _quarters(lambda part: part / part.sum(dim=-1, keepdim=True)),
            "A row that asks nobody in a block has the sum 0, and 0 / 0 is no number; one such row spoils every mean. "
            "Keep the sum from zero, clamp(min=1e-12), and the row stays zero.",
        ),
        Mistake(
            "in the caller's map",
            _quarters(_in_the_callers),
            "Slices share their memory with the map, and /= divides in it: the caller's joint map no longer sums to 1. "
            "Make new tensors.",
        ),
        Mistake(
            "anything cut",
            _anything_cut,
            "Right for joint maps. A map of cross-attention, or one without words or without patches, is cut as well "
            "and gives blocks that mean something else: look at the shape first.",
        ),
    ],
)


# --- a block whose words hear the wrong vectors ------------------------------------------------------------------


def _two_streams(g: torch.Generator, size: int) -> Case:
    """Draw a plain block, one with rotations, a last one with a mask, and one with a second attention."""
    width, heads = ((8, 2), (12, 3), (8, 1), (16, 2))[size % 4]
    build = {
        "width": width, "num_heads": heads, "mlp_ratio": 2.0, "qk_norm": size % 4 != 3,
        "last": size % 4 == 2, "dual": size % 4 == 3,
    }  # fmt: skip
    batch, words, patches = 2 + size, 3 + size, 6 + size
    rotate, mask = _in_turn(g, size, batch, words, patches, width // heads)
    text, image = normal(g, batch, words, width), normal(g, batch, patches, width)
    return Case(text, image, normal(g, batch, width), rotate, mask, build=build)


Pair = tuple[Tensor, Tensor]


def _the_patches_vectors(
    self: DoubleStreamBlock, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None
) -> Pair:  # fmt: skip
    for_text, for_image = self.image.adaLN_modulation(c), self.image.adaLN_modulation(c)
    asked_by_text, asked_by_image = self.text.ask(text, for_text), self.image.ask(image, for_image)
    text_heard, image_heard = joint_attention(asked_by_text, asked_by_image, rotate, mask)
    return self.text.think(text, text_heard, for_text), self.image.think(image, image_heard, for_image)


def _told(
    asking: str = "text", thinking: str = "text", patches: str = "image", turned: bool = True, masked: bool = True
) -> Result:  # fmt: skip
    """Return a block whose words ask and think with other vectors, or whose patches do, or which forgets something."""

    def forward(self: Any, text: Tensor, image: Tensor, c: Tensor, rotate: Any = None, mask: Any = None) -> Pair:
        vectors = {"text": self.text.adaLN_modulation(c), "image": self.image.adaLN_modulation(c)}
        vectors["none"] = tuple(torch.zeros_like(own) for own in vectors["text"])
        asked = self.text.ask(text, vectors[asking]), self.image.ask(image, vectors[patches])
        heard = joint_attention(*asked, rotate if turned else None, mask if masked else None)
        thought = self.text.think(text, heard[0], vectors[thinking])
        return thought, self.image.think(image, heard[1], vectors[patches])

    return forward


BLOCK_BUG = Exercise(
    id="mmdit.block_bug",
    reference="mmdit.DoubleStreamBlock.forward",
    lesson="10",
    number=10,
    title="Debug: a layer that never learns",
    points=3,
    minutes=10,
    difficulty=2,
    case=_two_streams,
    tolerance=3e-5,
    broken="the patches' vectors",
    mistakes=[
        Mistake(
            "the patches' vectors",
            _the_patches_vectors,
            "The words are tuned and gated with the patches' vectors; self.text.adaLN_modulation is never called and "
            "gets no gradient. In a fresh network both are zero, and nothing shows.",
        ),
        Mistake(
            "the words' vectors for both",
            _told(patches="text"),
            "Now the patches hear the words' vectors: the same slip the other way round. Each stream has a modulation "
            "of its own.",
        ),
        Mistake(
            "exchanged",
            _told("image", "image", "text"),
            "Both modulations run now, and they are exchanged: the words get what was made for the patches. A last "
            "block, whose words have two vectors, cannot work like that at all.",
        ),
        Mistake(
            "asking repaired",
            _told(thinking="image"),
            "Half repaired: the words ask with their own shift and scale, but what they heard is still gated and "
            "tuned with the patches' vectors. self.text.think wants the words' as well.",
        ),
        Mistake(
            "thinking repaired",
            _told(asking="image"),
            "Half repaired: the words think with their own vectors, but they still ask with the patches' shift and "
            "scale. self.text.ask wants the words' as well.",
        ),
        Mistake(
            "words untold",
            _told("none", "none"),
            "The patches' vectors no longer reach the words, and neither do their own: time and text say nothing to "
            "them. self.text.adaLN_modulation(c) makes what they need.",
        ),
        Mistake(
            "mask lost",
            _told(masked=False),
            "The vectors are right now, but on the way you lost the mask: joint_attention needs it, or all tokens hear "
            "the padding.",
        ),
        Mistake(
            "rotation lost",
            _told(turned=False),
            "The vectors are right now, but on the way you lost rotate: joint_attention needs it, or nobody knows "
            "where a patch stands.",
        ),
    ],
)

EXERCISES = [JOINT, SPLIT, QK_NORM, SINGLE, RUN_BLOCKS, SANDWICH, PLACES, SHARE, FOUR_BLOCKS, BLOCK_BUG]


# --- guesses and the question in words ---------------------------------------------------------------------------

WAYS = {
    "one vector": "one vector for the whole text",
    "cross-attention": "cross-attention to the words",
    "one sentence": "one sentence, one set of weights, attention then perceptron",
    "double-stream": "double-stream: two sets of weights, one attention",
    "single-stream": "single-stream: one set of weights, attention beside perceptron",
    "hybrid": "hybrid: double-stream, then single-stream",
    "": "no single one stands out",
}
WHEN = {
    "near the noise": (0.7, 0.9),
    "in the middle": (0.5,),
    "near the picture": (0.1, 0.3),
    "no part of the way stands out": (),
}


def _best_binder() -> str:
    """Read which way to hear a text binds two objects best at equal parameters, after the whole training."""
    record, ways = results.load("text_equal_parameters"), [way for way in WAYS if way]
    return WAYS[results.established(record, "binding", ways, better="higher", at=1.0) or ""]


def _words_act_most() -> str:
    """Read in which part of the way a colour word's map lies most on its own object, in the double-stream network."""
    record = results.load("text_attention")
    parts = {part: times for part, times in WHEN.items() if times}
    found: dict[str, dict[str, list[Any]]] = {}
    for part, times in parts.items():
        seeds = zip(*(record.values("double-stream", "colour", at) for at in times), strict=True)
        found[part] = {"colour": [sum(values) / len(values) for values in seeds]}
    compared = dataclasses.replace(record, variants=found, metrics={"colour": record.metrics["colour"]}, x=None)
    return results.established(compared, "colour", list(parts), better="higher") or list(WHEN)[-1]


def _touching_no_token() -> float:
    """Count, on the meta device, what share of SD3-medium's weights makes shifts, scales and gates, in per cent."""
    with torch.device("meta"):
        return 100 * modulation_share(MMDiT(MMDiTConfig.sd3_medium()))


QUESTIONS = [
    Question(
        id="mmdit.q1",
        lesson="10",
        text="Six small networks with equally many weights, to within three per cent, are trained alike on pictures of "
        "one and two objects; they differ only in how they hear the caption. Which draws two objects most often as "
        "asked, each with its own colour and shape and in the right relation?",
        choices=tuple(WAYS.values()),
        answer=_best_binder,
        because="Judged by binding, the share of samples in which everything is as asked: one way is named only where "
        "its paired interval against each of the other five, widened for fifteen comparisons, leaves out 0. Where none "
        "is named, the lesson's table still says which groups are apart.",
    ),
    Question(
        id="mmdit.q2",
        lesson="10",
        text="A patch of the double-stream network may ask the word that names the colour of its own object, or the "
        "colour of the other one. At which part of the way from noise to picture does the word's map lie most clearly "
        "on the right object?",
        choices=tuple(WHEN),
        answer=_words_act_most,
        because="Read from the recorded maps, averaged over blocks and heads: near the noise are the times 0.7 and "
        "0.9, near the picture 0.3 and 0.1. A part is named only where its paired interval against each of the others "
        "leaves out 0. A map shows where a word is asked, not yet what it changes.",
    ),
    Question(
        id="mmdit.q3",
        lesson="10",
        text="Stable Diffusion 3 medium has 2.03 thousand million weights. Some of them touch words and patches; "
        "others only make shifts, scales and gates out of time and pooled text. What share are those?",
        unit="% of the weights",
        answer=_touching_no_token,
        because="A double-stream block has 36 D² weights, and 12 D² of them are two modulations of 6 D² each. They run "
        "once an image, not once a token: much memory, hardly any arithmetic. One modulation for all blocks (FLUX.2, "
        "DiT-Air) or a narrow one (Z-Image) saves most of it.",
    ),
]

PROSE = [
    Prose(
        id="mmdit.w1",
        lesson="10",
        text="You must build a text-to-image transformer of 100 million weights. Argue for double-stream, "
        "single-stream, a hybrid, or the shared weights of DiT-Air, from the records of this lesson.",
        points=2,
        rubric=(
            "decides for one and supports it with at least two measured numbers, differences or verdicts of the "
            "lesson (equal parameters, equal compute, sharing), saying which budget it argues from: weights, which "
            "are given here, or arithmetic: 1",
            "says what the records do not show: five seeds, networks far smaller than 100 million weights, 16×16 "
            "shapes, differences whose intervals hold 0; or names the measurement that would change the decision: 1",
        ),
        min_words=60,
        max_words=150,
    )
]
