"""Public text encoders behind our interface: tiny random ones of transformers, with tokenizers written here."""

import json

import pytest
import torch
from torch import nn

from lesson_lib.attention import Words
from lesson_lib.mmdit import MMDiT, MMDiTConfig
from lesson_lib.official.unet import randomise
from lesson_lib.text import Captioned, PublicEncoder, Text, TextToImage, join_encoders, pooled_text

transformers = pytest.importorskip("transformers")

WORDS = ("a", "red", "blue", "circle", "square", "above")
CAPTIONS = ["a red circle above a blue square", "a red square", ""]
LETTERS = sorted({letter for word in WORDS for letter in word})
START, END = "<|startoftext|>", "<|endoftext|>"


def seeded(module, seed=0):
    """Return a network with every tensor random, embeddings too."""
    return randomise(module, torch.Generator().manual_seed(seed)).eval()


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory):
    """Return a CLIPTokenizer from files: a token for every word, made by merging its letters."""
    folder = tmp_path_factory.mktemp("clip")
    merges, tokens = [], [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts[:2] = ["".join(parts[:2])]
            tokens.append(parts[0])
    vocabulary = {token: number for number, token in enumerate([*dict.fromkeys(tokens), START, END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *dict.fromkeys(merges), ""]))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def clip_config(tokenizer, width=16, **options):
    """Return a tiny CLIP of three layers, with dropout that would be noticed."""
    return transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=20, projection_dim=12, attention_dropout=0.5, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def clip(clip_tokenizer):
    """Return CLIP's text encoder behind our interface."""
    return PublicEncoder(clip_tokenizer, seeded(transformers.CLIPTextModel(clip_config(clip_tokenizer))), 20)


@pytest.fixture(scope="module")
def projected(clip_tokenizer):
    """Return CLIP's text encoder with its projection, read one layer before the last, as SD3 reads it."""
    model = seeded(transformers.CLIPTextModelWithProjection(clip_config(clip_tokenizer)), seed=1)
    return PublicEncoder(clip_tokenizer, model, 20, layer=-2)


@pytest.fixture(scope="module")
def t5():
    """Return T5's encoder behind our interface."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -2.0)]
    pieces += [(f"▁{word}", -1.0) for word in WORDS] + [(letter, -3.0) for letter in LETTERS]
    tokenizer = transformers.T5Tokenizer(vocab=pieces, extra_ids=0)
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=40, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.5
    )
    return PublicEncoder(tokenizer, seeded(transformers.T5EncoderModel(config), seed=2), 10)


def test_rows_end_once_and_are_filled_up(clip, t5):
    ids = clip.tokenizer(CAPTIONS)
    assert ids.shape == (3, 20)
    assert ids.dtype == torch.int64
    assert clip.mask(ids).sum(dim=1).tolist() == [9, 5, 2]  # the words, a start and an end
    assert (ids[~clip.mask(ids)] == clip._tokenizer.eos_token_id).all()  # filled with more ends
    ids = t5.tokenizer(CAPTIONS)
    assert ids.shape == (3, 10)
    assert t5.mask(ids).sum(dim=1).tolist() == [8, 4, 1]  # no start there
    assert (ids[~t5.mask(ids)] == 0).all()


def test_clip_gives_its_tokens_and_its_own_vector(clip):
    ids = clip.tokenizer(CAPTIONS)
    found = clip(ids)
    with torch.no_grad():
        theirs = clip.model(ids)
    assert torch.equal(found.tokens, theirs.last_hidden_state)
    assert torch.equal(found.pooled, theirs.pooler_output)
    assert torch.equal(found.pooled, pooled_text(found.tokens, ids, clip._tokenizer.eos_token_id))
    assert torch.equal(found.mask, clip.mask(ids))
    assert (clip.context_size, clip.pooled_size) == (16, 16)
    assert found.tokens.shape == (3, 20, 16)


def test_clip_with_a_projection_gives_the_projected_vector(projected):
    ids = projected.tokenizer(CAPTIONS)
    found = projected(ids)
    with torch.no_grad():
        theirs = projected.model(ids)
        end = pooled_text(theirs.last_hidden_state, ids, projected._tokenizer.eos_token_id)
        assert (found.pooled - projected.model.text_projection(end)).abs().max() <= 1e-6
    assert torch.equal(found.pooled, theirs.text_embeds)
    assert (projected.context_size, projected.pooled_size) == (16, 12)
    assert found.pooled.shape == (3, 12)


def test_the_layer_before_the_last_is_what_a_shorter_network_ends_with(projected):
    ids = projected.tokenizer(CAPTIONS)
    shorter = transformers.CLIPTextModelWithProjection(clip_config(projected._tokenizer))
    shorter.load_state_dict(projected.model.state_dict())
    layers = next(part for part in shorter.modules() if isinstance(part, nn.ModuleList))
    del layers[-1]
    norm = next(part for name, part in shorter.named_modules() if name.endswith("final_layer_norm"))
    found = projected(ids).tokens
    with torch.no_grad():
        assert (norm(found) - shorter.eval()(ids).last_hidden_state).abs().max() <= 1e-5
        assert (found - projected.model(ids).last_hidden_state).abs().max() > 0.1
        assert (found - shorter(ids).last_hidden_state).abs().max() > 0.1  # the last norm is left out


def test_t5_has_tokens_and_no_vector(t5):
    ids = t5.tokenizer(CAPTIONS)
    found = t5(ids)
    assert found.pooled is None
    assert (t5.context_size, t5.pooled_size) == (40, 0)
    assert found.tokens.shape == (3, 10, 40)
    assert torch.equal(found.mask, ids != 0)


def test_padding_is_not_heard_by_the_words(clip, t5):
    for encoder, longer in ((clip, 20), (t5, 14)):
        short = PublicEncoder(encoder._tokenizer, encoder.model, 9)
        longer = PublicEncoder(encoder._tokenizer, encoder.model, longer)
        one, other = (found(found.tokenizer(CAPTIONS)) for found in (short, longer))
        assert torch.equal(other.mask[:, :9], one.mask)
        assert not other.mask[:, 9:].any()
        assert (one.tokens - other.tokens[:, :9])[one.mask].abs().max() <= 1e-5
    with torch.no_grad():  # and T5 would listen, were it not told
        ids = t5.tokenizer(CAPTIONS)
        assert (t5.model(ids).last_hidden_state - t5(ids).tokens)[t5.mask(ids)].abs().max() > 0.1


def test_captions_that_are_too_long_are_refused(clip, t5):
    fits = " ".join(["red"] * 18)
    assert clip.tokenizer([fits]).shape == (1, 20)
    with pytest.raises(ValueError, match=r"'red .* red' has 21 tokens; there is room for 20: shorten it"):
        clip.tokenizer(["a", f"{fits} red"])
    with pytest.raises(ValueError, match="has 11 tokens; there is room for 10"):
        t5.tokenizer([" ".join(["red"] * 10)])


def network(encoder, **options):
    """Return a tiny MMDiT that hears all that an encoder says."""
    config = MMDiTConfig(
        8, 4, 3, hidden_size=32, num_heads=2, double=1, single=1, context_size=encoder.context_size,
        pooled_size=encoder.pooled_size, places="origin", axes=(8, 8), **options,
    )  # fmt: skip
    return TextToImage(encoder, seeded(MMDiT(config), seed=3))


def noisy(count, seed=4):
    """Return pictures and times."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.rand(count, generator=generator) * 1000


@pytest.mark.parametrize("name", ["clip", "projected", "t5"])
def test_a_network_hears_a_public_encoder(name, request):
    encoder = request.getfixturevalue(name)
    model = network(encoder)
    (x, t), ids = noisy(3), encoder.tokenizer(CAPTIONS)
    pooled, words = model.hear(ids)
    assert isinstance(words, Words)
    assert (pooled is None) == (name == "t5")
    with torch.no_grad():
        assert model(x, t, ids).shape == x.shape
        other = model(x, t, ids[[1, 0, 2]])
        assert (model(x, t, ids) - other)[:2].abs().max() > 1e-3
        captioned = Captioned(model, CAPTIONS[:2])
        assert torch.equal(captioned.ids, ids)
        assert torch.equal(captioned(x, t, torch.arange(3)), model(x, t, ids))


def test_a_longer_row_changes_nothing(t5):
    x, t = noisy(3)
    longer = PublicEncoder(t5._tokenizer, t5.model, 16)
    with torch.no_grad():
        one, other = (network(encoder)(x, t, encoder.tokenizer(CAPTIONS)) for encoder in (t5, longer))
    assert (one - other).abs().max() <= 1e-5


def test_a_vector_that_an_encoder_has_not_is_refused(t5):
    with pytest.raises(ValueError, match="the network's pooled_size is 16, the encoder's 0"):
        TextToImage(t5, MMDiT(MMDiTConfig(8, 4, 3, 32, 2, 1, context_size=40, pooled_size=16)))


@pytest.mark.parametrize("name", ["clip", "t5"])
def test_it_stays_frozen_and_without_dropout_when_the_network_is_trained(name, request):
    encoder = request.getfixturevalue(name)
    model = network(encoder).train()
    assert model.network.training
    assert not any(part.training for part in encoder.model.modules())
    (x, t), ids = noisy(3), encoder.tokenizer(CAPTIONS)
    assert torch.equal(encoder(ids).tokens, encoder(ids).tokens)
    model(x, t, ids).square().mean().backward()
    assert not any(weight.requires_grad or weight.grad is not None for weight in encoder.parameters())
    assert all(weight.grad is not None for weight in model.network.parameters())
    encoder.model.train()
    assert not torch.equal(encoder(ids).tokens, encoder(ids).tokens)  # the dropout that it is kept from
    model.train()
    assert torch.equal(encoder(ids).tokens, encoder(ids).tokens)


@pytest.mark.parametrize("name", ["clip", "projected", "t5"])
def test_it_is_read_from_a_folder(name, request, tmp_path):
    encoder = request.getfixturevalue(name)
    encoder._tokenizer.save_pretrained(tmp_path)
    encoder.model.save_pretrained(tmp_path)
    read = PublicEncoder.load(str(tmp_path), length=12, layer=-2)
    assert (read.length, read.layer, read.is_clip) == (12, -2, name != "t5")
    assert (read.context_size, read.pooled_size) == (encoder.context_size, encoder.pooled_size)
    other = PublicEncoder(encoder._tokenizer, encoder.model, 12, layer=-2)
    ids = read.tokenizer(CAPTIONS)
    assert torch.equal(ids, other.tokenizer(CAPTIONS))
    assert torch.equal(read(ids).tokens, other(ids).tokens)


def test_without_network_and_without_a_copy_it_says_what_needs_none(monkeypatch, tmp_path):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    for name in ("nobody/no-such-encoder", str(tmp_path / "nothing")):
        with pytest.raises(ConnectionError, match=r"is neither a folder here nor .* CaptionEncoder needs no network"):
            PublicEncoder.load(name)


def drawn(tokens, width, pooled, seed):
    """Return a random Text of two captions with a mask."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(tokens) < torch.tensor([[tokens], [tokens // 3]])
    vector = torch.randn(2, pooled, generator=generator) if pooled else None
    return Text(torch.randn(2, tokens, width, generator=generator), vector, mask)


def test_three_encoders_are_joined_as_in_sd3():
    clip_l, clip_g, t5 = drawn(77, 768, 768, 0), drawn(77, 1280, 1280, 1), drawn(77, 4096, 0, 2)
    both = join_encoders(clip_l, clip_g, t5)
    assert both.tokens.shape == (2, 154, 4096)
    assert both.pooled.shape == (2, 2048)
    assert both.mask.shape == (2, 154)
    assert torch.equal(both.tokens[:, :77, :768], clip_l.tokens)
    assert torch.equal(both.tokens[:, :77, 768:2048], clip_g.tokens)
    assert not both.tokens[:, :77, 2048:].any()
    assert torch.equal(both.tokens[:, 77:], t5.tokens)
    assert torch.equal(both.pooled[:, :768], clip_l.pooled)
    assert torch.equal(both.pooled[:, 768:], clip_g.pooled)
    assert torch.equal(both.mask, torch.cat([clip_l.mask, t5.mask], dim=1))
    medium = MMDiTConfig.sd3_medium()
    assert (medium.context_size, medium.pooled_size) == (4096, 2048)


def test_encoders_that_cannot_be_joined_are_refused():
    wide = drawn(5, 40, 0, 2)
    with pytest.raises(ValueError, match=r"join_encoders: .* no wider than T5: 48, 40"):
        join_encoders(drawn(5, 24, 24, 0), drawn(5, 24, 24, 1), wide)
    with pytest.raises(ValueError, match="needs two pooled CLIPs"):
        join_encoders(drawn(5, 16, 0, 0), drawn(5, 16, 16, 1), wide)


def test_three_tiny_encoders_draw_together(clip, projected, t5):
    text = join_encoders(*(encoder(encoder.tokenizer(CAPTIONS)) for encoder in (clip, projected, t5)))
    assert text.tokens.shape == (3, 30, 40)
    assert text.pooled.shape == (3, 28)
    config = MMDiTConfig(8, 4, 3, hidden_size=32, num_heads=2, double=2, context_size=40, pooled_size=28)
    model, (x, t) = seeded(MMDiT(config)), noisy(3)
    with torch.no_grad():
        masked, unmasked = (model(x, t, text.pooled, Words(text.tokens, mask)) for mask in (text.mask, None))
    assert masked.shape == x.shape
    assert (masked - unmasked).abs().max() > 1e-3  # SD3 itself hears the padding
