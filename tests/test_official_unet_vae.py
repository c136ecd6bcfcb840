"""Our U-Net and autoencoder hold diffusers' weights and give its outputs, and a wrong transplant would be noticed."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lesson_lib.unet import UNet, UNetConfig
from lesson_lib.vae import AutoencoderKL, VAEConfig

pytest.importorskip("diffusers")

from lesson_lib.official import parity
from lesson_lib.official import unet as official_unet
from lesson_lib.official import vae as official_vae
from lesson_lib.official.unet import (
    LAYOUTS,
    SIZE_FEATURES,
    build_diffusers_unet,
    matching_inputs,
    randomise,
    unet_difference,
    unet_from_diffusers,
    unet_to_diffusers,
)
from lesson_lib.official.vae import build_diffusers_vae, vae_differences, vae_from_diffusers, vae_to_diffusers

DDPM, ADM, SD = LAYOUTS["DDPM"], LAYOUTS["ADM"], LAYOUTS["SD 1.5"]


def random_unet(config, seed=1):
    """Return our U-Net with every tensor random."""
    return randomise(UNet(config), torch.Generator().manual_seed(seed)).eval()


def random_vae(config, seed=1):
    """Return our autoencoder with every tensor random."""
    return randomise(AutoencoderKL(config), torch.Generator().manual_seed(seed)).eval()


def same_state(ours, theirs):
    """Hold that two state dicts have the same keys, shapes and numbers."""
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def fresh():
    """Return both comparisons, measured now."""
    return {key: parity.parity(key) for key in ("unet", "vae")}


@pytest.mark.parametrize("key", ["unet", "vae"])
def test_outputs_equal_diffusers(key, fresh):
    assert fresh[key].fresh
    assert max(fresh[key].differences.values()) <= 1e-5
    assert len({line.rindex(" ") for line in str(fresh[key]).splitlines()[1:-1]}) == 1


def test_every_layout_is_compared_and_recorded(fresh):
    assert set(fresh["unet"].differences) == set(LAYOUTS)
    assert len(fresh["vae"].differences) == 3 * len(official_vae.LAYOUTS)
    for key, entry in fresh.items():
        assert set(parity.recorded()[key].differences) == set(entry.differences)


ODD_UNETS = {
    "one level": replace(DDPM, channel_mult=(1,), attention=(1,)),
    "four levels, three blocks": replace(
        DDPM, channel_mult=(1, 1, 2, 2), attention=(0, 1, 0, 1), num_res_blocks=3, pad_after=False
    ),
    "another convention of time": replace(DDPM, time_convention="diffusers-dit"),
    "more channels out than in": replace(ADM, in_channels=1, out_channels=2, attention=(0, 0, 1)),
    "padding after, beside words": replace(SD, pad_after=True, attention=(0, 2, 0)),
    "heads of a size, beside words": replace(SD, head_channels=4, attention=(1, 0, 1)),
    "several heads at one level": replace(DDPM, num_heads=4, attention=(0, 0, 1)),
}


@pytest.mark.parametrize("name", ODD_UNETS)
def test_odd_configurations_equal_diffusers(name):
    assert unet_difference(ODD_UNETS[name], seed=3) <= 1e-5


def test_a_training_step_equals_diffusers():
    config = LAYOUTS["AdaGN and classes"]
    ours = random_unet(config).train()
    theirs = build_diffusers_unet(config).train()
    theirs.load_state_dict(unet_to_diffusers(ours.state_dict(), config))
    our_inputs, their_inputs = matching_inputs(config, 2, 8, 12, torch.Generator().manual_seed(2))
    ours(**our_inputs).square().mean().backward()
    theirs(**their_inputs).sample.square().mean().backward()
    moved = unet_to_diffusers({name: weight.grad for name, weight in ours.named_parameters()}, config)
    for name, weight in theirs.named_parameters():
        assert (moved[name] - weight.grad).abs().max() <= 1e-5 * max(1.0, weight.grad.abs().max()), name


@pytest.mark.parametrize("name", LAYOUTS)
def test_unet_weights_go_there_and_back(name):
    config = LAYOUTS[name]
    ours = random_unet(config).state_dict()
    theirs = build_diffusers_unet(config, SIZE_FEATURES)
    moved = unet_to_diffusers(ours, config)
    theirs.load_state_dict(moved)
    same_state(unet_from_diffusers(theirs.state_dict(), config), ours)
    same_state(unet_to_diffusers(unet_from_diffusers(moved, config), config), moved)


@pytest.mark.parametrize("name", official_vae.LAYOUTS)
def test_autoencoder_weights_go_there_and_back(name):
    config = official_vae.LAYOUTS[name]
    ours = random_vae(config).state_dict()
    theirs = build_diffusers_vae(config)
    moved = vae_to_diffusers(ours, config)
    theirs.load_state_dict(moved)
    same_state(vae_from_diffusers(theirs.state_dict(), config), ours)
    same_state(vae_to_diffusers(vae_from_diffusers(moved, config), config), moved)


def test_moved_weights_share_no_memory():
    ours = random_unet(ADM).state_dict()
    before = {name: tensor.clone() for name, tensor in ours.items()}
    for tensor in unet_to_diffusers(ours, ADM).values():
        tensor.zero_()
    same_state(ours, before)
    for tensor in unet_from_diffusers(moved := unet_to_diffusers(ours, ADM), ADM).values():
        tensor.zero_()
    same_state(moved, unet_to_diffusers(before, ADM))


PAPER_UNETS = {
    "DDPM": (UNetConfig.ddpm_cifar10(), 35_746_307),
    "SD 1.5": (UNetConfig.sd15(), 859_520_964),
    "SDXL": (UNetConfig.sdxl(), 2_567_463_684),
    "ADM 64": (UNetConfig.adm(64), None),
    "ADM 256": (UNetConfig.adm(256), None),
}


@pytest.mark.parametrize("name", PAPER_UNETS)
def test_paper_sizes_have_diffusers_keys_shapes_and_count(name):
    config, count = PAPER_UNETS[name]
    with torch.device("meta"):
        ours, theirs = UNet(config).state_dict(), build_diffusers_unet(config).state_dict()
    assert count in (None, sum(tensor.numel() for tensor in ours.values()))
    moved = unet_to_diffusers(ours, config)
    assert {name: tensor.shape for name, tensor in moved.items()} == {n: t.shape for n, t in theirs.items()}
    back = unet_from_diffusers(theirs, config)
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in ours.items()}


@pytest.mark.parametrize(("size", "millions"), [(64, 295.9), (128, 421.5), (256, 553.8), (512, 559.0)])
def test_adm_has_the_published_count(size, millions):
    with torch.device("meta"):
        unet = UNet(UNetConfig.adm(size))
    null_row = unet.config.emb_size
    count = sum(weight.numel() for weight in unet.parameters()) - null_row
    assert round(count / 1e6, 1) == millions


def test_the_paper_autoencoder_has_diffusers_keys_shapes_and_count():
    config = VAEConfig.ldm_kl_f8()
    with torch.device("meta"):
        ours, theirs = AutoencoderKL(config).state_dict(), build_diffusers_vae(config).state_dict()
    assert sum(tensor.numel() for tensor in ours.values()) == 83_653_863
    moved = vae_to_diffusers(ours, config)
    assert {name: tensor.shape for name, tensor in moved.items()} == {n: t.shape for n, t in theirs.items()}
    back = vae_from_diffusers(theirs, config)
    assert {name: tensor.shape for name, tensor in back.items()} == {n: t.shape for n, t in ours.items()}


def swapped(first, second):
    """Return a damage: the tensors of two names exchanged."""

    def damage(state):
        found = [name for name in state if first in name]
        assert found
        for name in found:
            other = name.replace(first, second)
            state[name], state[other] = state[other], state[name]

    return damage


def halves_swapped(part):
    """Return a damage: in every tensor of that name the halves of the rows exchanged."""

    def damage(state):
        found = [name for name in state if part in name]
        assert found
        for name in found:
            state[name] = torch.cat(state[name].chunk(2)[::-1])

    return damage


def left_out(part):
    """Return a damage: the tensors of that name as in a fresh norm, ones for a weight and zeros for a bias."""

    def damage(state):
        found = [name for name in state if part in name]
        assert found
        for name in found:
            state[name] = torch.full_like(state[name], 1.0 if name.endswith("weight") else 0.0)

    return damage


WRONG = {
    "scale and shift swapped": (ADM, halves_swapped("time_emb_proj")),
    "queries and keys swapped": (DDPM, swapped("to_q", "to_k")),
    "keys and values swapped": (SD, swapped("attn2.to_k", "attn2.to_v")),
    "value and gate swapped": (SD, halves_swapped("ff.net.0.proj")),
    "self- and cross-attention's norms swapped": (SD, swapped("blocks.0.norm1", "blocks.0.norm2")),
    "two blocks of one level swapped": (SD, swapped("up_blocks.0.resnets.1", "up_blocks.0.resnets.2")),
    "attention's norm left out": (DDPM, left_out("group_norm")),
    "last norm left out": (DDPM, left_out("conv_norm_out")),
    "null row moved": (ADM, lambda state: state.update({
        "class_embedding.weight": state["class_embedding.weight"].roll(1, 0)})),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_transplant_is_noticed(name, monkeypatch):
    config, damage = WRONG[name]
    right = official_unet.unet_from_diffusers

    def wrong(state, config):
        state = dict(state)
        damage(state)
        return right(state, config)

    monkeypatch.setattr(official_unet, "unet_from_diffusers", wrong)
    assert unet_difference(config) > 1e-3


def test_a_wrong_transplant_of_the_autoencoder_is_noticed(monkeypatch):
    right = official_vae.vae_from_diffusers

    def wrong(state, config):
        state = dict(state)
        halves_swapped("quant_conv")(state)
        return right(state, config)

    monkeypatch.setattr(official_vae, "vae_from_diffusers", wrong)
    assert min(vae_differences(official_vae.LAYOUTS["f = 4"])) > 1e-3


def test_every_tensor_is_random():
    for module in (random_unet(LAYOUTS["SDXL"]), random_vae(official_vae.LAYOUTS["f = 4"])):
        for name, weight in module.named_parameters():
            assert weight.std() > 0.01, name


def test_missing_and_unknown_keys_are_named():
    state = random_unet(DDPM).state_dict()
    state["down.0.block.extra"] = state.pop("down.0.block.conv1.weight")
    with pytest.raises(ValueError, match=r"missing: down\.0\.block\.conv1\.weight; unknown: down\.0\.block\.extra"):
        unet_to_diffusers(state, DDPM)
    with pytest.raises(ValueError, match=r"unet_from_diffusers.*missing: .*and \d+ more"):
        unet_from_diffusers({}, DDPM)
    config = official_vae.LAYOUTS["f = 4"]
    vae = random_vae(config).state_dict()
    del vae["quant.bias"]
    with pytest.raises(ValueError, match=r"vae_to_diffusers.*missing: quant\.bias$"):
        vae_to_diffusers(vae, config)
    with pytest.raises(ValueError, match=r"vae_from_diffusers.*unknown: mystery$"):
        vae_from_diffusers({**vae_to_diffusers(random_vae(config).state_dict(), config), "mystery": F.relu}, config)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        (replace(DDPM, skips=(True, False, True)), "skips"),
        (UNetConfig.adm(512), "first level"),
        (UNetConfig.adm(128), "heads"),
        (replace(DDPM, vector_size=8), "vector without words"),
        (replace(SD, resblock_updown=True), "residual blocks beside words"),
        (replace(SD, attention=(1, 1, 2)), "depth in the middle"),
        (replace(SD, middle_attention=0, attention=(1, 1, 0)), "without attention"),
    ],
)
def test_what_diffusers_cannot_express_is_said(config, complaint):
    with torch.device("meta"), pytest.raises(ValueError, match=complaint):
        build_diffusers_unet(config)
