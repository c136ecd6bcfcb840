"""Text for pictures: captions as numbers, a small encoder that reads them, the same interface for CLIP and T5.

Read from the top: the tokenizer, what every encoder returns, the parts of a modern block, the encoder, public encoders,
and a network that hears a text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from lesson_lib.attention import Rotate, Words, attend, check_heads
from lesson_lib.dit import DiT
from lesson_lib.embed import LabelEmbedder
from lesson_lib.position import AxialRope
from lesson_lib.shapes import COLOURS, MIRRORED, PLACES, RELATIONS, SHAPES, SIZES

PADDING, END = 0, 1


def split_words(caption: str) -> list[str]:
    """Return the words of a caption in lower case, without punctuation: "A red circle!" → a, red, circle."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)*", caption.lower())


class WordTokenizer:
    """Captions as rows of numbers, one for each word, an end token, then padding up to a fixed length.

    words: the vocabulary; 0 is padding, 1 the end, word n has the number n + 2. length: numbers in a row, the end
    included. The empty caption is the end alone: what a model hears when nothing is asked, as CLIP's empty prompt.
    Raises ValueError for a word twice, or a length without room for a word.
    """

    def __init__(self, words: Sequence[str], length: int) -> None:
        if len(set(words)) < len(words) or length < 2:
            raise ValueError(f"WordTokenizer: {len(words)} words, {len(set(words))} of them different; length {length}")
        self.words, self.length = tuple(words), length
        self._numbers = {word: number for number, word in enumerate(self.words, 2)}

    @classmethod
    def shapes(cls) -> WordTokenizer:
        """Return the tokenizer of shapes.describe's captions; none of them is longer than 11 with its end."""
        sentences = ("a at the", *SIZES, *COLOURS, *SHAPES, *PLACES, *RELATIONS, *MIRRORED)
        return cls(sorted({word for sentence in sentences for word in split_words(sentence)}), 11)

    @classmethod
    def of(cls, captions: Iterable[str]) -> WordTokenizer:
        """Return a tokenizer that knows every word of these captions and has room for the longest of them."""
        sentences = [split_words(caption) for caption in captions]
        return cls(sorted({word for words in sentences for word in words}), max(map(len, sentences)) + 1)

    def __len__(self) -> int:
        return len(self.words) + 2

    def __call__(self, captions: Sequence[str]) -> Tensor:
        """Return the numbers (B, length) int64 of captions.

        Raises ValueError for words outside the vocabulary, naming the nearest inside, and for captions too long.
        """
        rows = torch.full((len(captions), self.length), PADDING)
        for row, caption in zip(rows, captions, strict=True):
            words = split_words(caption)
            self._check(caption, words)
            row[: len(words) + 1] = torch.tensor([*(self._numbers[word] for word in words), END])
        return rows

    def read(self, numbers: Tensor) -> list[str]:
        """Return the words of one row (length,), the end as "·", without padding: labels for a figure."""
        names = ("", "·", *self.words)
        return [names[number] for number in numbers.tolist() if number != PADDING]

    def _check(self, caption: str, words: list[str]) -> None:
        unknown = [word for word in dict.fromkeys(words) if word not in self._numbers]
        if unknown:
            told = []
            for word in unknown:
                near = difflib.get_close_matches(word, self.words, n=3, cutoff=0.5)
                told.append(f"{word!r}" + (f" (nearest: {', '.join(near)})" if near else ""))
            some = self.words if len(self.words) <= 40 else (*self.words[:20], "…")
            raise ValueError(f"unknown in {caption!r}: {', '.join(told)}. The words are: {', '.join(some)}")
        if len(words) >= self.length:
            raise ValueError(
                f"{caption!r} has {len(words)} words; there is room for {self.length - 1} and the end: shorten it"
            )


class Text(NamedTuple):
    """What an encoder returns: tokens (B, L, D), pooled (B, P) or None, and mask (B, L), True for real tokens."""

    tokens: Tensor
    pooled: Tensor | None
    mask: Tensor


# --- the parts of a modern block ------------------------------------------------------------------------------------


class RMSNorm(nn.Module):
    """Divide each token by its root mean square, then stretch its channels as learned: a LayerNorm without centring.

    x: (..., D). Returns the same shape: x / √(mean(x²) + eps) · weight. Computed in float32.
    Source: arXiv 1910.07467, Eq. 4.
    """

    def __init__(self, size: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps, self.weight = eps, nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class SwiGLU(nn.Module):
    """The perceptron of newer blocks: one half of the hidden numbers opens and closes the other. No biases.

    x: (..., D). Returns the same shape: W₂ (SiLU(W₁ x) ⊙ W₃ x). With a hidden width of 8/3 D it has the weights of the
    usual perceptron of 4 D. Source: arXiv 2002.05202, Eq. 6.
    """

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden_width, bias=False)
        self.w3 = nn.Linear(width, hidden_width, bias=False)
        self.w2 = nn.Linear(hidden_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class WordBlock(nn.Module):
    """Let words ask each other, then think: RMSNorm, rotations and SwiGLU, as in a language model, but both ways.

    x: (B, L, D); mask: (B, L), True for words that are there; rotate: by the words' places. Returns (B, L, D).
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        check_heads(width, num_heads)
        self.num_heads = num_heads
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = SwiGLU(width, 8 * width // 3)

    def forward(self, x: Tensor, mask: Tensor, rotate: Rotate) -> Tensor:
        asked = self.qkv(self.norm1(x))
        query, key, value = rearrange(asked, "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        heard = attend(rotate(query), rotate(key), value, mask=mask)
        x = x + self.proj(rearrange(heard, "b h n d -> b n (h d)"))
        return x + self.mlp(self.norm2(x))


# --- encoders -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CaptionConfig:
    """A caption encoder: its vocabulary, the length of a row, and the size of its transformer."""

    words: tuple[str, ...]
    length: int
    width: int = 128
    depth: int = 2
    num_heads: int = 4

    @classmethod
    def shapes(cls, width: int = 128) -> CaptionConfig:
        """Return the encoder of the captions of shapes."""
        tokenizer = WordTokenizer.shapes()
        return cls(tokenizer.words, tokenizer.length, width)


class CaptionEncoder(nn.Module):
    """Read captions word by word: a table of words, a few blocks, and both a vector for each word and one for all.

    ids: (B, L) int64, from tokenizer. Returns a Text; pooled is the vector at the end token, as CLIP's.
    frozen: nothing in it is trained. Raises ValueError for numbers outside the vocabulary and for rows without end.
    """

    def __init__(self, config: CaptionConfig, frozen: bool = False) -> None:
        super().__init__()
        self.config, self.tokenizer = config, WordTokenizer(config.words, config.length)
        self.context_size = self.pooled_size = config.width
        self.table = nn.Embedding(len(self.tokenizer), config.width, padding_idx=PADDING)
        self.rope = AxialRope((config.width // config.num_heads,), 100.0)
        self.blocks = nn.ModuleList(WordBlock(config.width, config.num_heads) for _ in range(config.depth))
        self.norm = RMSNorm(config.width)
        self.places: Tensor
        self.register_buffer("places", torch.arange(config.length).float()[:, None], persistent=False)
        self.requires_grad_(not frozen)

    def forward(self, ids: Tensor) -> Text:
        self._check(ids)
        mask = ids != PADDING
        x, rotate = self.table(ids), self.rope(self.places)
        for block in self.blocks:
            x = block(x, mask, rotate)
        x = self.norm(x)
        return Text(x, pooled_text(x, ids), mask)

    def _check(self, ids: Tensor) -> None:
        if ids.ndim != 2 or ids.shape[1] != self.config.length:
            wanted = f"(B, {self.config.length})"
            raise ValueError(f"CaptionEncoder: expects numbers of shape {wanted}, got {tuple(ids.shape)}")
        if ids.device.type != "cpu":
            return
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < len(self.tokenizer):
            raise ValueError(f"CaptionEncoder: numbers must lie from 0 to {len(self.tokenizer) - 1}")
        if not (ids == END).any(dim=1).all():
            raise ValueError("CaptionEncoder: a row has no end token; make rows with the tokenizer")


def pooled_text(tokens: Tensor, ids: Tensor, end: int = END) -> Tensor:
    """Return the vector at each row's first end token: one vector that has attended to the whole caption.

    tokens: (B, L, D); ids: (B, L) int64. Returns (B, D).
    Source: CLIP (arXiv 2103.00020, §2.4); transformers, modeling_clip.py.
    """
    return tokens[torch.arange(len(ids), device=ids.device), (ids == end).int().argmax(dim=1)]


class PublicEncoder(nn.Module):
    """A public text encoder, CLIP's or T5's, behind the interface of CaptionEncoder; it is frozen.

    tokenizer, model: of transformers, CLIPTokenizer with CLIPTextModel (pooled is its own vector), or T5's tokenizer
    with T5EncoderModel (which has no pooled vector). layer: the hidden layer that gives the tokens, -1 the last, -2 the
    one before it, which SD3 takes of CLIP; not normalised then. length: tokens in a row.
    """

    def __init__(self, tokenizer: Any, model: nn.Module, length: int, layer: int = -1) -> None:
        super().__init__()
        self._tokenizer, self.model = tokenizer, model.eval().requires_grad_(False)
        self.length, self.layer = length, layer
        config: Any = model.config
        self.is_clip = "clip" in config.model_type
        self.context_size = int(config.hidden_size if self.is_clip else config.d_model)
        self.pooled_size = int(getattr(config, "projection_dim", 0)) if hasattr(model, "text_projection") else 0
        self.pooled_size = self.pooled_size or (self.context_size if self.is_clip else 0)

    @classmethod
    def load(cls, name: str, length: int = 77, layer: int = -1) -> PublicEncoder:
        """Fetch an encoder from the Hugging Face hub, or read it from a folder: "google/t5-v1_1-small", say.

        Raises ImportError without transformers, and ConnectionError, naming what needs no network, where it is neither
        here nor can be fetched.
        """
        from transformers import AutoConfig, AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection, T5EncoderModel

        try:
            config = AutoConfig.from_pretrained(name)
            kind: Any = T5EncoderModel
            if config.model_type.startswith("clip"):
                projects = "CLIPTextModelWithProjection" in (config.architectures or ())
                kind = CLIPTextModelWithProjection if projects else CLIPTextModel
            return cls(AutoTokenizer.from_pretrained(name), kind.from_pretrained(name), length, layer)
        except OSError as error:
            raise ConnectionError(
                f"{name} is neither a folder here nor in the cache, and the hub cannot be reached. "
                "CaptionEncoder needs no network."
            ) from error

    def train(self, mode: bool = True) -> PublicEncoder:
        """Stay as in use, without dropout, when the network around it is trained."""
        super().train(mode)
        self.model.eval()
        return self

    def tokenizer(self, captions: Sequence[str]) -> Tensor:
        """Return the numbers (B, length) int64 of captions; raises ValueError for one that is too long to be read."""
        numbers = self._tokenizer(list(captions))["input_ids"]
        for caption, row in zip(captions, numbers, strict=True):
            if len(row) > self.length:
                raise ValueError(f"{caption!r} has {len(row)} tokens; there is room for {self.length}: shorten it")
        found = self._tokenizer(list(captions), padding="max_length", max_length=self.length, return_tensors="pt")
        return found["input_ids"]

    def mask(self, ids: Tensor) -> Tensor:
        """Return (B, L), True up to and with each row's end: CLIP also fills its rows with end tokens."""
        end = ids == self._tokenizer.eos_token_id
        return end.int().cumsum(dim=1) - end.int() == 0

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Text:
        mask = self.mask(ids)
        asked = {} if self.is_clip else {"attention_mask": mask.long()}  # CLIP reads from left to right
        found = self.model(ids, output_hidden_states=True, **asked)
        tokens = found.last_hidden_state if self.layer == -1 else found.hidden_states[self.layer]
        pooled = getattr(found, "text_embeds", None)
        return Text(tokens, pooled if pooled is not None else getattr(found, "pooler_output", None), mask)


def join_encoders(clip_l: Text, clip_g: Text, t5: Text) -> Text:
    """Return one text from SD3's three encoders: CLIPs side by side, zeros up to T5's width, T5's tokens after them.

    clip_l, clip_g: (B, L, 768) and (B, L, 1280), pooled too; t5: (B, M, 4096). Returns tokens (B, L + M, 4096) and
    pooled (B, 768 + 1280). SD3 uses no mask; here it is kept. Raises ValueError where the CLIPs are wider than T5.
    Source: SD3 (arXiv 2403.03206, App. B.2); Stability-AI/sd3-ref, sd3_infer.py, get_cond.
    """
    both = torch.cat([clip_l.tokens, clip_g.tokens], dim=-1)
    if clip_l.pooled is None or clip_g.pooled is None or both.shape[-1] > t5.tokens.shape[-1]:
        raise ValueError(
            f"join_encoders: needs two pooled CLIPs, together no wider than T5: {both.shape[-1]}, {t5.tokens.shape[-1]}"
        )
    both = F.pad(both, (0, t5.tokens.shape[-1] - both.shape[-1]))
    pooled = torch.cat([clip_l.pooled, clip_g.pooled], dim=-1)
    return Text(torch.cat([both, t5.tokens], dim=1), pooled, torch.cat([clip_l.mask, t5.mask], dim=1))


# --- a network that hears a text ------------------------------------------------------------------------------------


class TextToImage(nn.Module):
    """An encoder that reads and a network that draws, called with the numbers of captions: (x, t, ids).

    encoder: CaptionEncoder or PublicEncoder. network: a DiT, an MMDiT or a SingleStreamDiT; as its configuration says,
    it gets one vector for the text (pooled_size), one for each word (context_size), or both. Returns the network's
    answer.
    Raises ValueError where the sizes of the two do not fit.
    """

    def __init__(self, encoder: CaptionEncoder | PublicEncoder, network: nn.Module) -> None:
        super().__init__()
        self.encoder, self.network = encoder, network
        config: Any = network.config
        for name in ("pooled_size", "context_size"):
            wanted, has = getattr(config, name, 0), getattr(encoder, name)
            if wanted not in (0, has):
                raise ValueError(f"TextToImage: the network's {name} is {wanted}, the encoder's {has}")
        self.hears_pooled, self.hears_words = bool(getattr(config, "pooled_size", 0)), bool(config.context_size)
        if not (self.hears_pooled or self.hears_words):
            raise ValueError("TextToImage: this network hears neither a pooled text nor words")

    def forward(self, x: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        if len(ids) != len(x):
            raise ValueError(f"TextToImage: there are {len(ids)} captions for {len(x)} pictures; give one for each")
        return self.network(x, t, *self.hear(ids))

    def hear(self, ids: Tensor) -> tuple[Tensor | None, Words | None]:
        """Return what the network hears of captions (B, L): one vector for each (B, P), or None; words, or None."""
        text = self.encoder(ids)
        words = Words(text.tokens, text.mask) if self.hears_words else None
        return text.pooled if self.hears_pooled else None, words


class Captioned(nn.Module):
    """A text-to-image network with a list of captions, so that a caption is what a class was: a number.

    captions: label n stands for the n-th, and label num_classes for `nothing`, the empty caption, or a negative prompt.
    Called with (x, t, labels), so that guidance.Guided, train.denoising_loss and label dropout work as with classes.
    """

    def __init__(self, model: TextToImage, captions: Sequence[str], nothing: str = "") -> None:
        super().__init__()
        self.model, self.num_classes = model, len(captions)
        ids = model.encoder.tokenizer([*captions, nothing])
        self.ids: Tensor
        self.register_buffer("ids", ids.to(next(model.parameters()).device), persistent=False)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return self.model(x, t, self.ids[labels])


def start_from_classes(source: DiT, context_size: int, time: float = 500.0) -> DiT:
    """Return a text-to-image DiT with the weights of a class-conditional one: PixArt-α's re-parameterisation.

    source: an adaLN-Zero DiT. Patches, attention, perceptrons, the time's embedder and the last layer are copied. Each
    block's table becomes what is missing from the shared modulation to what the block's own layer said at one time,
    with the null class: at that time, and without words, the new network returns what the old one returned.
    Cross-attention starts silent. Raises ValueError for another conditioning.
    Source: PixArt-α (arXiv 2310.00426, §2.3).
    """
    if source.config.conditioning != "adaln-zero" or not isinstance(source.y_embedder, LabelEmbedder):
        raise ValueError("start_from_classes: needs an adaLN-Zero DiT with classes")
    model = DiT(replace(source.config, num_classes=0, context_size=context_size, conditioning="adaln-single"))
    weights = {name: tensor for name, tensor in source.state_dict().items() if "adaLN_modulation" not in name}
    model.load_state_dict({name: weights.get(name, tensor) for name, tensor in model.state_dict().items()})
    with torch.no_grad():
        heard = source.t_embedder(torch.tensor([time]))
        said = heard + source.y_embedder(torch.tensor([source.num_classes]))
        assert model.t_block is not None
        shared = model.t_block(heard).unflatten(1, (6, -1))[0]
        for old, new in zip(source.blocks, model.blocks, strict=True):
            vectors = old.get_submodule("adaLN_modulation")(said)
            new.get_parameter("scale_shift_table").copy_(torch.cat(vectors) - shared)
        final = torch.cat(source.final_layer.adaLN_modulation(said)) - heard
        model.final_layer.scale_shift_table.copy_(final)
    return model
