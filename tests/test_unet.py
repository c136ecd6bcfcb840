"""The U-Net: blocks against their formulas, channels and skips against what a run does, and every wrong call."""

import dataclasses
import json
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lesson_lib.evaluate import input_gradient, receptive_side
from lesson_lib.train import load_model, save_model
from lesson_lib.unet import (
    GEGLU,
    AdaGN,
    AddThenNorm,
    AttentionBlock,
    Downsample,
    ResBlock,
    SpatialTransformer,
    Stage,
    TransformerBlock,
    UNet,
    UNetConfig,
    Upsample,
    check_size,
    decoder_channels,
    encoder_channels,
    parameters_by_part,
)

SEEDS = st.integers(0, 10_000)
TINY = UNetConfig(model_channels=8, num_res_blocks=1, num_heads=2, groups=4, num_classes=3)
change = dataclasses.replace


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def randomise(module: nn.Module, seed: int = 0) -> Any:
    """Fill every parameter, zero-initialised ones too, at a size that keeps the activations near 1."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        size = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=generator) * size
    return module


@st.composite
def configs(draw: st.DrawFn, **fixed: Any) -> UNetConfig:
    """Small networks of every kind: 1 to 3 levels, with and without attention, words, classes, a vector."""
    levels = draw(st.integers(1, 3))
    words = draw(st.sampled_from([0, 6]))
    depth = st.integers(0, 2 if words else 1)
    chosen = {
        "in_channels": draw(st.integers(1, 4)),
        "out_channels": draw(st.integers(1, 4)),
        "channel_mult": tuple(draw(st.lists(st.sampled_from([1, 2, 3]), min_size=levels, max_size=levels))),
        "num_res_blocks": draw(st.integers(1, 2)),
        "attention": tuple(draw(depth) for _ in range(levels)),
        "middle_attention": draw(depth),
        "head_channels": draw(st.sampled_from([None, 4])),
        "time_way": draw(st.sampled_from(["add", "adagn"])),
        "resblock_updown": draw(st.booleans()),
        "pad_after": draw(st.booleans()),
        "num_classes": draw(st.sampled_from([0, 3])),
        "context_size": words,
        "vector_size": draw(st.sampled_from([0, 5])),
    }
    return UNetConfig(**{"model_channels": 8, "num_heads": 2, "groups": 4} | chosen | fixed)


def call_with(config: UNetConfig, height: int = 8, width: int = 8, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """All that a network of this configuration is called with."""
    inputs = {"x": normal(batch, config.in_channels, height, width, seed=seed)}
    inputs["t"] = torch.linspace(10, 900, batch)
    if config.num_classes:
        inputs["labels"] = torch.arange(batch) % (config.num_classes + 1)
    if config.context_size:
        inputs["context"] = normal(batch, 3, config.context_size, seed=seed + 1)
    if config.vector_size:
        inputs["vector"] = normal(batch, config.vector_size, seed=seed + 2)
    return inputs


def group_norm(h: Tensor, groups: int, eps: float, weight: Tensor, bias: Tensor) -> Tensor:
    parts = h.reshape(len(h), groups, -1)
    mean = parts.mean(dim=2, keepdim=True)
    variance = (parts - mean).square().mean(dim=2, keepdim=True)
    return ((parts - mean) / (variance + eps) ** 0.5).reshape(h.shape) * weight[:, None, None] + bias[:, None, None]


class TestHowABlockHearsTheTime:
    @settings(max_examples=20, deadline=None)
    @given(SEEDS, st.sampled_from([1, 2, 4]), st.sampled_from([1e-6, 0.1]))
    def test_both_ways_equal_their_formulas(self, seed, groups, eps):
        h, emb = normal(2, 8, 3, 5, seed=seed) * 3 + 1, normal(2, 6, seed=seed + 1)
        swish = emb / (1 + (-emb).exp())
        add = randomise(AddThenNorm(8, 6, groups, eps), seed)
        shifted = h + (swish @ add.project.weight.T + add.project.bias)[:, :, None, None]
        wanted = group_norm(shifted, groups, eps, add.norm.weight, add.norm.bias)
        torch.testing.assert_close(add(h, emb), wanted, rtol=1e-4, atol=1e-5)

        adagn = randomise(AdaGN(8, 6, groups, eps), seed)
        chosen = swish @ adagn.project.weight.T + adagn.project.bias
        scale, shift = chosen[:, :8, None, None], chosen[:, 8:, None, None]
        wanted = group_norm(h, groups, eps, adagn.norm.weight, adagn.norm.bias) * (1 + scale) + shift
        torch.testing.assert_close(adagn(h, emb), wanted, rtol=1e-4, atol=1e-5)

    def test_what_is_added_before_the_norm_is_lost_where_a_group_is_one_constant_and_adagn_s_is_not(self):
        """The norm takes away what moves a whole group alike; AdaGN speaks after it."""
        h, emb = normal(1, 8, 4, 4), normal(1, 6)
        add = randomise(AddThenNorm(8, 6, groups=1))
        add.project.weight.data = add.project.weight.data[:1].expand(8, 6).clone()
        add.project.bias.data = add.project.bias.data[:1].expand(8).clone()
        torch.testing.assert_close(add(h, emb), add(h, emb + 5), rtol=1e-3, atol=1e-4)
        adagn = randomise(AdaGN(8, 6, groups=1))
        assert (adagn(h, emb) - adagn(h, emb + 5)).abs().max() > 0.1


class TestResBlock:
    @pytest.mark.parametrize("resample", [None, "down", "up"])
    @pytest.mark.parametrize(("channels_in", "channels_out"), [(8, 8), (8, 12)])
    def test_a_fresh_block_is_its_shortcut(self, resample, channels_in, channels_out):
        block = ResBlock(channels_in, channels_out, 6, groups=4, resample=resample)
        h = normal(2, channels_in, 4, 6)
        wanted = h
        if resample == "down":
            wanted = (h[..., ::2, ::2] + h[..., 1::2, ::2] + h[..., ::2, 1::2] + h[..., 1::2, 1::2]) / 4
        if resample == "up":
            wanted = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        if channels_in != channels_out:
            wanted = torch.einsum("oi,bihw->bohw", block.shortcut.weight[:, :, 0, 0], wanted)
            wanted = wanted + block.shortcut.bias[:, None, None]
        torch.testing.assert_close(block(h, normal(2, 6)), wanted, rtol=1e-5, atol=1e-6)

    @settings(max_examples=12, deadline=None)
    @given(SEEDS, st.sampled_from(["add", "adagn"]), st.sampled_from([None, "down", "up"]), st.booleans())
    def test_equals_the_steps_written_out(self, seed, way, resample, hears):
        block = randomise(ResBlock(8, 12, 6 if hears else 0, time_way=way, groups=4, resample=resample), seed)
        h, emb = normal(2, 8, 4, 6, seed=seed), normal(2, 6, seed=seed + 1)
        change_size = {
            None: lambda picture: picture,
            "down": lambda picture: F.avg_pool2d(picture, 2),
            "up": lambda picture: F.interpolate(picture, scale_factor=2),
        }[resample]
        r = change_size(F.silu(group_norm(h, 4, 1e-6, block.norm1.weight, block.norm1.bias)))
        r = F.conv2d(r, block.conv1.weight, block.conv1.bias, padding=1)
        norm = block.norm2.norm if hears else block.norm2
        spoken = F.linear(F.silu(emb), block.norm2.project.weight, block.norm2.project.bias) if hears else None
        if hears and way == "add":
            r = r + spoken[:, :, None, None]
        r = group_norm(r, 4, 1e-6, norm.weight, norm.bias)
        if hears and way == "adagn":
            r = r * (1 + spoken[:, :12, None, None]) + spoken[:, 12:, None, None]
        r = F.conv2d(F.silu(r), block.conv2.weight, block.conv2.bias, padding=1)
        wanted = F.conv2d(change_size(h), block.shortcut.weight, block.shortcut.bias) + r
        found = block(h, emb) if hears else block(h)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)

    def test_dropout_acts_in_training_only(self):
        block, h = randomise(ResBlock(8, 8, groups=4, dropout=0.5)), normal(1, 8, 4, 4)
        assert not torch.equal(block.train()(h), block(h))
        assert torch.equal(block.eval()(h), block(h))


class TestAttentionOverPixels:
    def test_fresh_blocks_change_nothing(self):
        h = normal(2, 8, 3, 5)
        assert torch.equal(AttentionBlock(8, 2, groups=4)(h), h)
        assert torch.equal(SpatialTransformer(8, 6, 2, depth=2, groups=4)(h, normal(2, 3, 6)), h)

    @pytest.mark.parametrize("heads", [1, 4])
    def test_equals_the_steps_written_out_on_a_picture_that_is_not_square(self, heads):
        block, h = randomise(AttentionBlock(8, heads, groups=4)), normal(2, 8, 3, 5)
        pixels = group_norm(h, 4, 1e-6, block.norm.weight, block.norm.bias).flatten(2).mT
        q, k, v = F.linear(pixels, block.attention.qkv.weight, block.attention.qkv.bias).split(8, dim=2)
        width, answers = 8 // heads, []
        for i in range(heads):
            part = slice(i * width, (i + 1) * width)
            answers.append(((q[..., part] @ k[..., part].mT) / width**0.5).softmax(dim=-1) @ v[..., part])
        answer = F.linear(torch.cat(answers, dim=2), block.attention.proj.weight, block.attention.proj.bias)
        torch.testing.assert_close(block(h), h + answer.mT.reshape(h.shape), rtol=1e-4, atol=1e-5)

    @settings(max_examples=10, deadline=None)
    @given(SEEDS, st.permutations(range(12)))
    def test_moving_the_pixels_moves_the_answers(self, seed, order):
        """Norm and attention know no place; only convolutions do."""
        h, words = normal(2, 8, 3, 4, seed=seed), normal(2, 3, 6, seed=seed)

        def moved(picture: Tensor) -> Tensor:
            return picture.flatten(2)[:, :, order].reshape(picture.shape)

        block = randomise(AttentionBlock(8, 2, groups=4), seed)
        torch.testing.assert_close(block(moved(h)), moved(block(h)), rtol=1e-4, atol=1e-4)
        transformer = randomise(SpatialTransformer(8, 6, 2, groups=4), seed)
        torch.testing.assert_close(transformer(moved(h), words), moved(transformer(h, words)), rtol=1e-4, atol=1e-4)

    def test_transformer_block_is_three_residual_branches_in_order(self):
        block, x, words = randomise(TransformerBlock(8, 6, 2)), normal(2, 5, 8), normal(2, 3, 6)
        after_self = x + block.self_attention(F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias))
        normed = F.layer_norm(after_self, (8,), block.norm2.weight, block.norm2.bias)
        after_words = after_self + block.cross_attention(normed, words)
        normed = F.layer_norm(after_words, (8,), block.norm3.weight, block.norm3.bias)
        value, gate = block.feed_forward.enter(normed).split(32, dim=2)
        gated = value * 0.5 * gate * (1 + torch.erf(gate / 2**0.5))
        torch.testing.assert_close(block(x, words), after_words + block.feed_forward.leave(gated), rtol=1e-4, atol=1e-4)
        assert block.self_attention.qkv.bias is None
        assert block.cross_attention.q.bias is block.cross_attention.kv.bias is None

    def test_geglu_without_gate_is_silent(self):
        layer = randomise(GEGLU(4))
        layer.enter.weight.data[16:] = 0
        layer.enter.bias.data[16:] = 0
        found = layer(normal(2, 3, 4))
        torch.testing.assert_close(found, layer.leave.bias.expand_as(found))

    def test_spatial_transformer_hears_the_words_in_every_block(self):
        transformer, h, words = (
            randomise(SpatialTransformer(8, 6, 2, depth=3, groups=4)),
            normal(2, 8, 3, 5),
            normal(2, 3, 6),
        )
        assert len(transformer.blocks) == 3
        heard = []
        for block in transformer.blocks:
            block.register_forward_hook(lambda _, inputs, __: heard.append(inputs[1]))
        before = transformer(h, words)
        assert len(heard) == 3
        assert all(context is words for context in heard)
        assert (transformer(h, words + 1) - before).abs().max() > 1e-3
        pixels = transformer.enter(transformer.norm(h).flatten(2).mT)
        for block in transformer.blocks:
            pixels = block(pixels, words)
        torch.testing.assert_close(before, h + transformer.leave(pixels).mT.reshape(h.shape), rtol=1e-5, atol=1e-5)


class TestResolution:
    @settings(max_examples=20, deadline=None)
    @given(SEEDS, st.integers(1, 4), st.integers(1, 4))
    def test_halving_keeps_every_second_place_and_the_padding_says_which(self, seed, rows, columns):
        h = normal(2, 3, 2 * rows, 2 * columns, seed=seed)
        for pad_after, first in ((False, 0), (True, 1)):
            layer = randomise(Downsample(3, pad_after), seed)
            everywhere = F.conv2d(h, layer.conv.weight, layer.conv.bias, padding=1)
            torch.testing.assert_close(layer(h), everywhere[..., first::2, first::2], rtol=1e-4, atol=1e-5)

    def test_doubling_repeats_every_pixel_and_smooths(self):
        layer, h = randomise(Upsample(3)), normal(2, 3, 3, 5)
        repeated = h.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        wanted = F.conv2d(repeated, layer.conv.weight, layer.conv.bias, padding=1)
        torch.testing.assert_close(layer(h), wanted, rtol=1e-5, atol=1e-5)


class TestTheWhole:
    @settings(max_examples=15, deadline=None)
    @given(configs(), SEEDS)
    def test_starts_at_zero_and_every_weight_learns(self, config, seed):
        model, inputs = UNet(config), call_with(config, seed=seed)
        assert model(**inputs).abs().max() == 0
        out = randomise(model, seed)(**inputs)
        assert out.shape == (2, config.out_channels, 8, 8)
        (out * normal(*out.shape, seed=seed)).sum().backward()
        for name, weight in model.named_parameters():
            assert weight.grad is not None, name
            assert weight.grad.abs().max() > 0, name

    @settings(max_examples=10, deadline=None)
    @given(
        configs(channel_mult=(1, 2, 1), attention=(0, 1, 0), middle_attention=1), st.integers(1, 3), st.integers(1, 3)
    )
    def test_pictures_need_not_be_square(self, config, rows, columns):
        inputs = call_with(config, 4 * rows, 4 * columns, batch=1)
        assert UNet(config)(**inputs).shape == (1, config.out_channels, 4 * rows, 4 * columns)

    @settings(max_examples=10, deadline=None)
    @given(configs(), SEEDS)
    def test_is_deterministic_and_never_mixes_the_pictures_of_a_batch(self, config, seed):
        model, inputs = randomise(UNet(config), seed), call_with(config, batch=3, seed=seed)
        with torch.no_grad():
            out = model(**inputs)
            assert torch.equal(out, model(**inputs))
            alone = model(**{name: value[1:2] for name, value in inputs.items()})
        torch.testing.assert_close(alone, out[1:2], rtol=1e-3, atol=1e-4)

    @settings(max_examples=10, deadline=None)
    @given(configs(num_classes=3, context_size=6, vector_size=5, middle_attention=1), SEEDS)
    def test_hears_every_condition(self, config, seed):
        model, inputs = randomise(UNet(config), seed), call_with(config, seed=seed)
        other = {
            "t": inputs["t"] * 0.5,
            "labels": (inputs["labels"] + 1) % 4,
            "context": inputs["context"] + 1,
            "vector": inputs["vector"] + 1,
        }
        with torch.no_grad():
            out = model(**inputs)
            for name, value in other.items():
                assert (model(**inputs | {name: value}) - out).abs().max() > 1e-5, name

    def test_the_embedding_is_a_sum_and_every_block_hears_it(self):
        model = randomise(UNet(change(TINY, vector_size=5, resblock_updown=True)))
        inputs, heard = call_with(model.config), []
        for module in model.modules():
            if isinstance(module, ResBlock):
                module.register_forward_hook(lambda _, arguments, __: heard.append(arguments[1]))
        model(**inputs)
        wanted = model.time(inputs["t"]) + model.label(inputs["labels"]) + model.vector(inputs["vector"])
        assert wanted.shape == (2, model.config.emb_size) == (2, 32)
        assert len(heard) == sum(isinstance(module, ResBlock) for module in model.modules()) == 15
        for emb in heard:
            torch.testing.assert_close(emb, wanted)

    def test_runs_in_bfloat16_and_stays_close(self):
        for config in (TINY, change(TINY, context_size=6, resblock_updown=True)):
            model, inputs = randomise(UNet(config)), call_with(config)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                half = model(**inputs)
            assert half.dtype == torch.bfloat16
            full = model(**inputs).detach()
            assert (half.float() - full).norm() < 0.05 * full.norm()

    def test_saves_and_loads(self, tmp_path):
        config = change(TINY, context_size=6, vector_size=5, skips=(True, False, True))
        model, inputs = randomise(UNet(config)), call_with(config)
        for half, tolerance in ((False, 0.0), (True, 0.02)):
            save_model(tmp_path / "unet.safetensors", model, dataclasses.asdict(config), half=half)
            loaded = load_model(tmp_path / "unet.safetensors", lambda found: UNet(UNetConfig(**found)))
            assert not loaded.training
            with torch.no_grad():
                difference = (loaded(**inputs) - model(**inputs)).abs().max().item()
            assert difference <= tolerance
            assert (difference > 0) == half
        assert list(loaded.skips) == [True, False, True]
        assert json.loads(json.dumps(dataclasses.asdict(config)))["channel_mult"] == [1, 2, 2]

    def test_head_channels_and_num_heads_choose_the_heads(self):
        heads = {
            name: [
                module.attention.num_heads for module in UNet(config).modules() if isinstance(module, AttentionBlock)
            ]
            for name, config in {
                "heads": change(TINY, attention=(1, 1, 1), channel_mult=(1, 2, 3)),
                "width": change(TINY, attention=(1, 1, 1), channel_mult=(1, 2, 3), head_channels=4),
            }.items()
        }
        assert heads["heads"] == [2] * 10
        assert heads["width"] == [2, 4, 6, 6, 6, 6, 4, 4, 2, 2]


class TestSkips:
    @settings(max_examples=15, deadline=None)
    @given(configs(), SEEDS)
    def test_channels_are_those_of_a_real_network(self, config, seed):
        """Hooks read what flows; the two functions must have said so before."""
        model, made, received = UNet(config), [], []
        model.enter.register_forward_hook(lambda _, __, out: made.append(out.shape[1]))
        for stage in model.down:
            stage.register_forward_hook(lambda _, __, out: made.append(out.shape[1]))
        for stage in model.up:
            if isinstance(stage, Stage):
                stage.register_forward_hook(lambda _, inputs, out: received.append((inputs[0].shape[1], out.shape[1])))
        model(**call_with(config))
        assert encoder_channels(config.channels, config.num_res_blocks) == made
        assert decoder_channels(config.channels, config.num_res_blocks) == received
        assert len(made) == len(received)

    @settings(max_examples=10, deadline=None)
    @given(configs(channel_mult=(1, 2, 2), attention=(0, 0, 1), middle_attention=0))
    def test_every_level_of_the_decoder_has_one_more_block(self, config):
        model, stages = UNet(config), {"down": {}, "up": {}}
        for side in ("down", "up"):
            for stage in getattr(model, side):
                if isinstance(stage, Stage):

                    def count(_, __, out, seen=stages[side]):
                        seen[out.shape[-1]] = seen.get(out.shape[-1], 0) + 1

                    stage.register_forward_hook(count)
        model(**call_with(config))
        assert stages["down"] == dict.fromkeys((8, 4, 2), config.num_res_blocks)
        assert stages["up"] == dict.fromkeys((2, 4, 8), config.num_res_blocks + 1)

    @settings(max_examples=10, deadline=None)
    @given(configs(), SEEDS)
    def test_each_stage_gets_the_map_that_was_kept_last(self, config, seed):
        model, inputs, received = randomise(UNet(config), seed), call_with(config, seed=seed), []
        for stage in model.up:
            if isinstance(stage, Stage):
                stage.register_forward_hook(lambda _, arguments, __: received.append(arguments[0]))
        emb = model.embed(inputs["t"], inputs.get("labels"), inputs.get("vector"))
        h, kept = model.encode(inputs["x"], emb, inputs.get("context"))
        before = list(kept)
        model.decode(h, kept, emb, inputs.get("context"))
        assert all(a is b for a, b in zip(kept, before, strict=True))
        assert h is kept[-1]
        for given_to, skip in zip(received, reversed(kept), strict=True):
            assert torch.equal(given_to[:, -skip.shape[1] :], skip)

    @settings(max_examples=12, deadline=None)
    @given(
        configs(channel_mult=(1, 2, 2), attention=(0, 1, 0), middle_attention=1), st.tuples(*[st.booleans()] * 3), SEEDS
    )
    def test_a_level_whose_skips_are_off_does_not_hear_exactly_its_own_maps(self, config, skips, seed):
        model, inputs = randomise(UNet(change(config, skips=skips)), seed), call_with(config, seed=seed)
        context = inputs.get("context")
        with torch.no_grad():
            emb = model.embed(inputs["t"], inputs.get("labels"), inputs.get("vector"))
            h, kept = model.encode(inputs["x"], emb, context)
            out = model.decode(h, kept, emb, context)
            for i, changed in enumerate(kept):
                level = {8: 0, 4: 1, 2: 2}[changed.shape[-1]]
                others = [*kept[:i], changed + normal(*changed.shape, seed=seed + i), *kept[i + 1 :]]
                same = torch.equal(model.decode(h, others, emb, context), out)
                assert same != skips[level], f"map {i} of level {level}"

    def test_skips_can_be_set_after_building(self):
        inputs = call_with(TINY)
        built, changed = randomise(UNet(change(TINY, skips=(False, True, True)))), randomise(UNet(TINY))
        assert changed.skips == (True, True, True)
        assert not torch.equal(built(**inputs), changed(**inputs))
        changed.skips = (False, True, True)
        assert torch.equal(built(**inputs), changed(**inputs))

    def test_resolution_changes_inside_a_residual_block_where_asked(self):
        for updown in (False, True):
            model = UNet(change(TINY, resblock_updown=updown))
            plain = [module for module in model.modules() if isinstance(module, Downsample | Upsample)]
            inside = [m for m in model.modules() if isinstance(m, ResBlock) and not isinstance(m.resample, nn.Identity)]
            assert (len(plain), len(inside)) == ((0, 4) if updown else (4, 0))
            assert randomise(model)(**call_with(TINY)).shape == (2, 3, 8, 8)
        for pad_after in (False, True):
            model = UNet(change(TINY, pad_after=pad_after))
            halving = [part for part in model.modules() if isinstance(part, Downsample)]
            assert [part.pad_after for part in halving] == [pad_after] * 2


class TestCounts:
    @settings(max_examples=10, deadline=None)
    @given(configs())
    def test_the_parts_are_the_whole(self, config):
        model = UNet(config)
        parts = parameters_by_part(model)
        assert list(parts) == ["time and class", "encoder", "middle", "decoder", "ends"]
        assert sum(parts.values()) == sum(weight.numel() for weight in model.parameters())
        assert parts["decoder"] > parts["encoder"]
        ends = sum(
            weight.numel()
            for name, weight in model.named_parameters()
            if name.split(".")[0] in ("enter", "norm", "leave")
        )
        assert parts["ends"] == ends

    @pytest.mark.parametrize(
        ("config", "count"),
        [(UNetConfig.ddpm_cifar10(), 35_746_307), (UNetConfig.sd15(), 859_520_964), (UNetConfig.sdxl(), 2_567_463_684)],
        ids=["ddpm", "sd15", "sdxl"],
    )
    def test_presets_have_the_published_sizes(self, config, count):
        with torch.device("meta"):
            assert sum(weight.numel() for weight in UNet(config).parameters()) == count

    @pytest.mark.parametrize(("size", "millions"), [(64, 295.9), (128, 421.5), (256, 553.8), (512, 559.0)])
    def test_adm_has_the_published_sizes_and_one_null_class(self, size, millions):
        config = UNetConfig.adm(size)
        with torch.device("meta"):
            count = sum(weight.numel() for weight in UNet(config).parameters())
        assert round((count - config.emb_size) / 1e6, 1) == millions
        with pytest.raises(ValueError, match="size is 96; it must be one of 64, 128, 256, 512"):
            UNetConfig.adm(96)

    @pytest.mark.parametrize(
        ("config", "size", "coarsest"),
        [(UNetConfig.shapes16(), 16, 4), (UNetConfig.shapes32(), 32, 4), (UNetConfig.latent8(), 8, 4)],
        ids=["shapes16", "shapes32", "latent8"],
    )
    def test_learners_presets_fit_their_pictures(self, config, size, coarsest):
        model, inputs = UNet(config), call_with(config, size, size)
        assert model(**inputs).shape == inputs["x"].shape
        emb = model.embed(inputs["t"], inputs["labels"])
        assert model.encode(inputs["x"], emb)[0].shape[-2:] == (coarsest, coarsest)
        assert config.num_classes == 24


def with_skips(*skips: bool) -> UNet:
    model = UNet(TINY)
    model.skips = skips
    return model


def test_heads_must_fit_only_where_there_is_attention():
    assert change(TINY, head_channels=16, attention=(0, 1, 1)).channels == (8, 16, 16)
    with pytest.raises(ValueError, match="8 channels do not divide into heads of 16"):
        change(TINY, head_channels=16, attention=(1, 1, 1))


X, T, LABELS = normal(2, 3, 8, 8), torch.tensor([1.0, 500.0]), torch.tensor([0, 3])
TEXT = change(TINY, num_classes=0, context_size=6, vector_size=5)
WORDS, VECTOR = normal(2, 3, 6), normal(2, 5)
REFUSALS = {
    "attention": (r"attention has 2 entries for 3 levels; give one for each", lambda: change(TINY, attention=(0, 1))),
    "no levels": ("at least one level", lambda: change(TINY, channel_mult=(), attention=())),
    "no blocks": ("one residual block in each", lambda: change(TINY, num_res_blocks=0)),
    "skips set later": ("skips has 2 entries for 3 levels", lambda: with_skips(True, False)(X, T, LABELS)),
    "skips": (r"skips has 4 entries for 3 levels", lambda: change(TINY, skips=(True,) * 4)),
    "time_way": ("time_way is 'film'; it must be one of add, adagn", lambda: change(TINY, time_way="film")),
    "depth": ("more than one attention block in a row needs words", lambda: change(TINY, attention=(0, 0, 2))),
    "middle depth": ("needs words; set context_size", lambda: change(TINY, middle_attention=2)),
    "groups": ("8 channels do not divide into 3 groups; choose model_channels", lambda: change(TINY, groups=3)),
    "head_channels": ("16 channels do not divide into heads of 3", lambda: change(TINY, head_channels=3)),
    "heads": ("width 16 does not divide into 3 heads; these do: 1, 2, 4", lambda: UNet(change(TINY, num_heads=3))),
    "channels": (r"shape \(B, 3, H, W\), got \(2, 1, 8, 8\); in_channels", lambda: UNet(TINY)(X[:, :1], T, LABELS)),
    "no batch": (r"shape \(B, 3, H, W\), got \(3, 8, 8\)", lambda: UNet(TINY)(X[0], T, LABELS)),
    "labels": (r"built with labels; call it as model\(x, t, labels=labels\)", lambda: UNet(TINY)(X, T)),
    "label": (r"from 0 to 3 \(3 is the null class\), got 0 to 4", lambda: UNet(TINY)(X, T, torch.tensor([0, 4]))),
    "no classes": ("without classes; set num_classes", lambda: UNet(change(TINY, num_classes=0))(X, T, LABELS)),
    "words": ("built with context; call it as", lambda: UNet(TEXT)(X, T, vector=VECTOR)),
    "vector": ("built with vector; call it as", lambda: UNet(TEXT)(X, T, context=WORDS)),
    "width of words": ("context has width 5; .* for 6", lambda: UNet(TEXT)(X, T, None, WORDS[..., :5], VECTOR)),
    "width of vector": ("vector has width 4; .* for 5", lambda: UNet(TEXT)(X, T, None, WORDS, VECTOR[:, :4])),
    "words for a deaf network": ("built without; set context_size", lambda: UNet(TINY)(X, T, LABELS, context=WORDS)),
    "vector for a deaf network": ("built without; set vector_size", lambda: UNet(TINY)(X, T, LABELS, vector=VECTOR)),
    "one time": (r"t has shape \(1,\) for 2 pictures; expected \(B\)", lambda: UNet(TINY)(X, T[:1], LABELS)),
    "one label": (r"labels has shape \(1,\) for 2 pictures", lambda: UNet(TINY)(X, T, LABELS[:1])),
    "flat words": (r"context has shape \(2, 6\) .*\(B, M, D\)", lambda: UNet(TEXT)(X, T, None, WORDS[:, 0], VECTOR)),
    "odd": ("8×7 pixels cannot be halved 2 times.*multiples of 4.*8×8", lambda: UNet(TINY)(X[..., :7], T, LABELS)),
    "too often": ("6×8 .*Pad the pictures to 8×8, or choose 2 levels", lambda: UNet(TINY)(X[..., :6, :], T, LABELS)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_call_gets_a_sentence(name):
    sentence, call = REFUSALS[name]
    with pytest.raises(ValueError, match=sentence):
        call()


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 5))
def test_what_a_refused_size_is_told_would_fit_does_fit(height, width, halvings):
    if height % 2**halvings == width % 2**halvings == 0:
        check_size("it", height, width, halvings)
        return
    with pytest.raises(ValueError, match=f"it: {height}×{width} pixels") as error:
        check_size("it", height, width, halvings)
    padded, levels = str(error.value).split("Pad the pictures to ")[1].split(", or choose ")
    larger = tuple(map(int, padded.split("×")))
    check_size("padded", *larger, halvings)
    assert height <= larger[0] < height + 2**halvings
    assert width <= larger[1] < width + 2**halvings
    fewer = int(levels.split()[0]) - 1
    check_size("fewer levels", height, width, fewer)
    with pytest.raises(ValueError, match="one more is too many"):
        check_size("one more is too many", height, width, fewer + 1)


class TestReceptiveField:
    def test_of_one_convolution_is_its_kernel(self):
        layer, images = randomise(nn.Conv2d(2, 3, 3, padding=1)), normal(4, 2, 7, 9)
        found = input_gradient(layer, images, 2, 6)
        wanted = torch.zeros(7, 9)
        wanted[1:4, 5:8] = layer.weight.detach().sum(dim=0).abs().sum(dim=0)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        assert all(weight.grad is None for weight in layer.parameters())
        assert not images.requires_grad
        assert images.grad is None
        assert not found.requires_grad

    def test_averages_over_the_pictures_and_follows_their_values(self):
        images = normal(3, 2, 4, 4)
        found = input_gradient(lambda x: x.square(), images, 1, 2)
        assert found[1, 2].item() == pytest.approx((2 * images[:, :, 1, 2]).abs().sum(dim=1).mean().item(), rel=1e-5)
        assert found.count_nonzero() == 1

    def test_grows_with_depth_and_attention_sees_all(self):
        for depth in (1, 2, 3):
            network = randomise(nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1) for _ in range(depth))))
            gradient = input_gradient(network, normal(1, 2, 9, 9), 4, 4)
            assert receptive_side(gradient, 4, 4, share=1.0) == 2 * depth + 1
            assert gradient.count_nonzero() == (2 * depth + 1) ** 2
        seen = input_gradient(randomise(AttentionBlock(4, groups=2)), normal(1, 4, 9, 9), 4, 4)
        assert seen.count_nonzero() == 81

    def test_a_deeper_u_sees_further(self):
        """Without norms, which tie all places together, the field has an edge; one level is twelve 3×3 convolutions."""
        sides = []
        for levels in (1, 2, 3):
            nothing = (0,) * levels
            model = randomise(UNet(change(TINY, channel_mult=(1,) * levels, attention=nothing, middle_attention=0)))
            for module in list(model.modules()):
                for name, child in module.named_children():
                    if isinstance(child, nn.GroupNorm):
                        setattr(module, name, nn.Identity())
            t, labels = torch.zeros(1), torch.zeros(1, dtype=torch.int64)
            network = partial(model, t=t, labels=labels)
            seen = input_gradient(network, normal(1, 3, 160, 160), 80, 80) > 0
            sides.append(int(seen.any(dim=0).sum()))
            assert seen.sum() <= sides[-1] ** 2
        assert sides[0] == 2 * 12 + 1
        assert 2 * sides[0] < sides[1]
        assert 2 * sides[1] < sides[2] < 160, "each further level more than doubles what is seen"

    @settings(max_examples=60, deadline=None)
    @given(SEEDS, st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 1.0), st.data())
    def test_the_square_is_the_smallest_that_holds_the_share(self, seed, height, width, share, data):
        gradient = normal(height, width, seed=seed).abs().double() ** 3
        row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        side = receptive_side(gradient, row, column, share)
        assert side % 2 == 1
        distance = torch.maximum(
            (torch.arange(height) - row).abs()[:, None], (torch.arange(width) - column).abs()[None, :]
        )
        wanted = share * gradient.sum().item()
        assert gradient[distance <= side // 2].sum().item() >= wanted * (1 - 1e-9)
        if side > 1:
            assert gradient[distance <= side // 2 - 1].sum().item() < wanted * (1 + 1e-9)

    def test_of_known_gradients(self):
        point = torch.zeros(9, 9)
        point[4, 4] = 1
        assert receptive_side(point, 4, 4) == 1
        assert receptive_side(torch.ones(9, 9), 4, 4, share=1.0) == 9
        assert receptive_side(torch.ones(9, 9), 4, 4, share=25 / 81) == 5
        assert receptive_side(torch.ones(9, 9), 0, 0, share=1.0) == 17
