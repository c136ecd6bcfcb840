"""Our ViT and DiT hold the public models' weights and give their outputs, and a wrong transplant would be noticed."""

from argparse import Namespace
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lesson_lib.dit import DiT, DiTConfig, macs
from lesson_lib.evaluate import count_macs
from lesson_lib.vit import PatchEmbed, ViT, ViTConfig, patchify

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from lesson_lib.official import dit as official_dit
from lesson_lib.official import parity
from lesson_lib.official import vit as official_vit
from lesson_lib.official.dit import (
    LAYOUTS,
    PIXART_LAYOUTS,
    build_diffusers_dit,
    build_diffusers_pixart,
    dit_difference,
    dit_from_diffusers,
    dit_from_facebook,
    dit_to_diffusers,
    dit_to_facebook,
    matching_inputs,
    pixart_difference,
    pixart_from_diffusers,
    pixart_to_diffusers,
)
from lesson_lib.official.vit import (
    build_transformers_vit,
    randomise_trained,
    transformers_outputs,
    vit_differences,
    vit_from_transformers,
    vit_to_transformers,
)

TINY, PIXART = LAYOUTS["patches of 2, learned variance"], PIXART_LAYOUTS["words"]
VIT, MEAN = official_vit.LAYOUTS["class token"], official_vit.LAYOUTS["mean of the patches"]
FIXED, NOWHERE = official_vit.LAYOUTS["class token, sin-cos places"], official_vit.LAYOUTS["mean, no places"]


def random_network(config, seed=1):
    """Return our ViT or DiT with every trained tensor random."""
    build = DiT if isinstance(config, DiTConfig) else ViT
    return randomise_trained(build(config), torch.Generator().manual_seed(seed)).eval()


def on_meta(build, *arguments):
    """Return a network without memory for its weights."""
    with torch.device("meta"):
        return build(*arguments)


def shapes(state):
    """Return the shape of every tensor of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def trained(network):
    """Return the number of weights that are trained."""
    return sum(weight.numel() for weight in network.parameters() if weight.requires_grad)


def same_state(ours, theirs):
    """Hold that two state dicts have the same keys, shapes and numbers."""
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def fresh():
    """Return the three comparisons, measured now."""
    return {key: parity.parity(key) for key in ("vit", "dit", "pixart")}


@pytest.mark.parametrize("key", ["vit", "dit", "pixart"])
def test_outputs_equal_the_public_ones(key, fresh):
    assert fresh[key].fresh
    assert max(fresh[key].differences.values()) <= 1e-5
    assert len({line.rindex(" ") for line in str(fresh[key]).splitlines()[1:-1]}) == 1


def test_every_layout_is_compared_and_recorded(fresh):
    assert set(fresh["vit"].differences) == set(official_vit.LAYOUTS)
    assert set(fresh["pixart"].differences) == {*PIXART_LAYOUTS, "padded words"}
    assert len(fresh["dit"].known | fresh["dit"].differences) == 4 + len(LAYOUTS) - 1
    for key, entry in fresh.items():
        assert set(parity.recorded()[key].differences) == set(entry.differences)
        assert set(parity.recorded()[key].known) == set(entry.known)


def test_the_two_differences_of_diffusers_are_what_they_are_said_to_be(fresh):
    known, repaired = fresh["dit"].known, fresh["dit"].differences
    assert known["as shipped"] > 0.1
    assert 0 < known["frequencies fixed"] < 1e-4
    assert repaired["frequencies and epsilon fixed"] <= 1e-6
    assert repaired["as shipped, ours adapted to it"] <= 1e-6
    assert str(fresh["dit"]).splitlines()[1].startswith("as shipped ")


ODD = {
    "heads of one number": (dit_difference, replace(TINY, num_heads=32)),
    "one block, oblong numbers": (dit_difference, DiTConfig(9, 3, 1, hidden_size=20, depth=1, num_heads=5)),
    "PixArt, padded captions": (
        lambda config, seed: pixart_difference(config, seed, padded=True),
        PIXART_LAYOUTS["captions, projected outside"],
    ),
    "PixArt, pixels": (pixart_difference, replace(PIXART, in_channels=3, patch_size=1, learn_sigma=False)),
    "ViT, five patches a side": (
        lambda config, seed: max(vit_differences(config, seed)),
        replace(VIT, image_size=25, patch_size=5, in_channels=1, mlp_ratio=1.5),
    ),
    "ViT, one patch": (lambda config, seed: max(vit_differences(config, seed)), replace(VIT, patch_size=12)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_configurations_equal_the_public_ones(name):
    difference, config = ODD[name]
    assert difference(config, seed=3) <= 1e-5


def test_a_training_step_equals_diffusers():
    ours = random_network(TINY)
    theirs = build_diffusers_dit(TINY).eval()  # in training mode every block would drop labels on its own
    theirs.load_state_dict(dit_to_diffusers(ours.state_dict(), TINY))
    our_inputs, their_inputs = matching_inputs(TINY, 3, torch.Generator().manual_seed(2))
    ours(**our_inputs).square().mean().backward()
    theirs(**their_inputs).sample.square().mean().backward()
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    moved = dit_to_diffusers({name: w.grad for name, w in ours.named_parameters() if w.requires_grad}, TINY)
    assert set(moved) == set(gradients)
    for name, expected in moved.items():
        _, embedder, rest = name.partition(".norm1.emb.")
        copies = [f"transformer_blocks.{i}{embedder}{rest}" for i in range(TINY.depth)] if embedder else [name]
        found = sum(gradients[copy] for copy in copies)  # one embedder here, a copy in every block there
        assert (expected - found).abs().max() <= 1e-5 * max(1.0, float(found.abs().max())), name


def test_a_training_step_equals_transformers():
    ours, x = random_network(VIT), torch.randn(3, 3, 12, 12, generator=torch.Generator().manual_seed(2))
    theirs = build_transformers_vit(VIT)
    theirs.load_state_dict(vit_to_transformers(ours.state_dict(), VIT))
    labels = torch.tensor([0, 4, 2])
    F.cross_entropy(ours(x), labels).backward()
    theirs(x, labels=labels).loss.backward()
    moved = vit_to_transformers({name: weight.grad for name, weight in ours.named_parameters()}, VIT)
    for name, weight in theirs.named_parameters():
        assert (moved[name] - weight.grad).abs().max() <= 1e-5 * max(1.0, weight.grad.abs().max()), name


@pytest.mark.parametrize("name", official_vit.LAYOUTS)
def test_vit_weights_go_there_and_back(name):
    config = official_vit.LAYOUTS[name]
    ours = random_network(config).state_dict()
    theirs = build_transformers_vit(config)
    moved = vit_to_transformers(ours, config)
    theirs.load_state_dict(moved)
    same_state(vit_from_transformers(theirs.state_dict(), config), ours)
    same_state(vit_to_transformers(vit_from_transformers(moved, config), config), moved)


def test_a_file_of_transformers_is_read(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    ours, theirs = random_network(VIT).state_dict(), build_transformers_vit(VIT)
    theirs.load_state_dict(vit_to_transformers(ours, VIT))
    theirs.save_pretrained(tmp_path)
    state = safetensors.load_file(tmp_path / "model.safetensors")
    assert any("encoder.layer" in name for name in state)
    same_state(vit_from_transformers(state, VIT), ours)


@pytest.mark.parametrize("name", LAYOUTS)
def test_dit_weights_go_there_and_back(name):
    config = LAYOUTS[name]
    ours = random_network(config).state_dict()
    theirs = build_diffusers_dit(config)
    moved = dit_to_diffusers(ours, config)
    theirs.load_state_dict(moved)
    same_state(dit_from_diffusers(theirs.state_dict(), config), ours)
    same_state(dit_from_facebook(dit_to_facebook(ours, config), config), ours)


@pytest.mark.parametrize("name", PIXART_LAYOUTS)
def test_pixart_weights_go_there_and_back(name):
    config = PIXART_LAYOUTS[name]
    ours = random_network(config).state_dict()
    theirs = build_diffusers_pixart(config)
    theirs.load_state_dict(pixart_to_diffusers(ours, config))
    same_state(pixart_from_diffusers(theirs.state_dict(), config), ours)


def test_captions_are_projected_by_the_caller():
    config = PIXART_LAYOUTS["captions, projected outside"]
    theirs = build_diffusers_pixart(config, caption_size=6).state_dict()
    assert {name.split(".")[0] for name in theirs} >= {"caption_projection"}
    assert set(pixart_from_diffusers(theirs, config)) == set(DiT(config).state_dict())
    with pytest.raises(ValueError, match=r"projected captions are 32 wide.*context_size is 12"):
        build_diffusers_pixart(PIXART, caption_size=6)


def facebook_file(config, seed=5):
    """Return random numbers in the layout of facebookresearch/DiT, written down key by key, not read from our class."""
    generator = torch.Generator().manual_seed(seed)
    width, patch = config.hidden_size, config.patch_size

    def layer(name, rows, *columns):
        return {
            f"{name}.weight": torch.randn(rows, *columns, generator=generator) / torch.Size(columns).numel() ** 0.5,
            f"{name}.bias": 0.3 * torch.randn(rows, generator=generator),
        }

    state = {
        "pos_embed": DiT(config).pos_embed.detach().clone(),
        **layer("x_embedder.proj", width, config.in_channels, patch, patch),
        **layer("t_embedder.mlp.0", width, 256),
        **layer("t_embedder.mlp.2", width, width),
        "y_embedder.embedding_table.weight": torch.randn(config.num_classes + 1, width, generator=generator),
    }
    for i in range(config.depth):
        state |= layer(f"blocks.{i}.attn.qkv", 3 * width, width)
        state |= layer(f"blocks.{i}.attn.proj", width, width)
        state |= layer(f"blocks.{i}.mlp.fc1", 4 * width, width)
        state |= layer(f"blocks.{i}.mlp.fc2", width, 4 * width)
        state |= layer(f"blocks.{i}.adaLN_modulation.1", 6 * width, width)
    state |= layer("final_layer.linear", patch**2 * config.out_channels, width)
    return state | layer("final_layer.adaLN_modulation.1", 2 * width, width)


# facebookresearch/DiT → diffusers, by hand: what stands in front of ".weight" and ".bias"
BY_HAND = {
    "x_embedder.proj": ("pos_embed.proj",),
    "final_layer.adaLN_modulation.1": ("proj_out_1",),
    "final_layer.linear": ("proj_out_2",),
}
BY_HAND_EVERY_BLOCK = {
    "t_embedder.mlp.0": ("norm1.emb.timestep_embedder.linear_1",),
    "t_embedder.mlp.2": ("norm1.emb.timestep_embedder.linear_2",),
    "y_embedder.embedding_table": ("norm1.emb.class_embedder.embedding_table",),
    "blocks.{}.adaLN_modulation.1": ("norm1.linear",),
    "blocks.{}.attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "blocks.{}.attn.proj": ("attn1.to_out.0",),
    "blocks.{}.mlp.fc1": ("ff.net.0.proj",),
    "blocks.{}.mlp.fc2": ("ff.net.2",),
}


def facebook_to_diffusers(state, depth):
    """Return a file of facebookresearch/DiT under diffusers' names, without any of the library's converters."""
    pairs = dict(BY_HAND)
    for i in range(depth):
        for here, there in BY_HAND_EVERY_BLOCK.items():
            pairs[here.format(i), i] = tuple(f"transformer_blocks.{i}.{one}" for one in there)
    moved = {}
    for key, there in pairs.items():
        here = key if isinstance(key, str) else key[0]
        for kind in ("weight", "bias"):
            if f"{here}.{kind}" in state:
                parts = state[f"{here}.{kind}"].chunk(len(there))
                moved |= {f"{name}.{kind}": part for name, part in zip(there, parts, strict=True)}
    return moved


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_file_of_facebookresearch_gives_what_diffusers_makes_of_it(name):
    config = LAYOUTS[name]
    state = facebook_file(config)
    ours = DiT(config).eval()
    ours.load_state_dict(dit_from_facebook(state, config))
    theirs = build_diffusers_dit(config).eval()
    theirs.load_state_dict(facebook_to_diffusers(state, config.depth))
    our_inputs, their_inputs = matching_inputs(config, 2, torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert (ours(**our_inputs) - theirs(**their_inputs).sample).abs().max() <= 1e-5
    same_state(dit_to_facebook(ours.state_dict(), config), state)


def test_a_checkpoint_of_train_py_gives_its_average():
    released, other = facebook_file(TINY), facebook_file(TINY, seed=6)
    checkpoint = {"model": other, "ema": released, "opt": {"state": {}}, "args": Namespace(model="DiT-XL/2")}
    same_state(dit_from_facebook(checkpoint, TINY), dit_from_facebook(released, TINY))


XL_TOP = {
    "pos_embed": (1, 256, 1152),
    "x_embedder.proj.weight": (1152, 4, 2, 2),
    "x_embedder.proj.bias": (1152,),
    "t_embedder.mlp.0.weight": (1152, 256),
    "t_embedder.mlp.0.bias": (1152,),
    "t_embedder.mlp.2.weight": (1152, 1152),
    "t_embedder.mlp.2.bias": (1152,),
    "y_embedder.embedding_table.weight": (1001, 1152),
    "final_layer.adaLN_modulation.1.weight": (2304, 1152),
    "final_layer.adaLN_modulation.1.bias": (2304,),
    "final_layer.linear.weight": (32, 1152),
    "final_layer.linear.bias": (32,),
}
XL_BLOCK = {
    "adaLN_modulation.1.weight": (6912, 1152),
    "adaLN_modulation.1.bias": (6912,),
    "attn.qkv.weight": (3456, 1152),
    "attn.qkv.bias": (3456,),
    "attn.proj.weight": (1152, 1152),
    "attn.proj.bias": (1152,),
    "mlp.fc1.weight": (4608, 1152),
    "mlp.fc1.bias": (4608,),
    "mlp.fc2.weight": (1152, 4608),
    "mlp.fc2.bias": (1152,),
}


def test_xl_2_has_the_released_keys_and_shapes():
    config = DiTConfig.paper("XL/2")
    ours = on_meta(DiT, config).state_dict()
    expected = XL_TOP | {f"blocks.{i}.{name}": shape for i in range(28) for name, shape in XL_BLOCK.items()}
    assert len(expected) == 292
    assert shapes(dit_to_facebook(ours, config)) == expected
    released = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    read = dit_from_facebook({"ema": released, "opt": None}, config)
    on_meta(DiT, config).load_state_dict(read)
    assert shapes(read) == shapes(ours)


def test_xl_2_has_the_keys_shapes_and_count_of_diffusers():
    config = DiTConfig.paper("XL/2")
    ours, theirs = on_meta(DiT, config).state_dict(), on_meta(build_diffusers_dit, config)
    assert shapes(dit_to_diffusers(ours, config)) == shapes(theirs.state_dict())
    assert trained(theirs) == 749_826_464  # 27 copies of the embedders more than 674,834,720
    assert shapes(dit_from_diffusers(theirs.state_dict(), config)) == shapes(ours)


def test_pixart_alpha_has_the_published_count():
    """Its transformer and, which is not ours, the projection of T5's words: 610,856,096."""
    config = replace(DiTConfig.paper("XL/2"), num_classes=0, conditioning="adaln-single", context_size=1152)
    ours, theirs = on_meta(DiT, config), on_meta(build_diffusers_pixart, config, 4096)
    projection = trained(theirs.caption_projection)
    assert trained(ours) + projection == trained(theirs) == 610_856_096
    assert shapes(pixart_from_diffusers(theirs.state_dict(), config)) == shapes(ours.state_dict())


PAPER = {
    "S/8": (33_142_016, 0.358, 0.36),
    "S/4": (32_920_448, 1.413, 1.41),
    "S/2": (32_865_056, 6.056, 6.06),
    "B/8": (130_869_248, 1.418, 1.42),
    "B/4": (130_426_496, 5.565, 5.56),
    "B/2": (130_315_808, 23.005, 23.01),
    "L/8": (458_578_432, 5.011, 5.01),
    "L/4": (457_988_224, 19.696, 19.70),
    "L/2": (457_840_672, 80.698, 80.71),
    "XL/8": (675_664_640, 7.392, 7.39),
    "XL/4": (675_000_704, 29.044, 29.05),
    "XL/2": (674_834_720, 118.621, 118.64),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_twelve_models_of_the_paper(name):
    count, billions, published = PAPER[name]
    config = DiTConfig.paper(name)
    assert trained(on_meta(DiT, config)) == count
    assert round(macs(config) / 1e9, 3) == billions
    assert abs(macs(config) / 1e9 - published) < 0.02


def counted(config):
    """Return the multiply-accumulates of a call for one picture, counted by running networks without memory.

    Blocks are alike, so two short networks tell what a deep one needs.
    """
    one, two = (_counted(replace(config, depth=depth)) for depth in (1, 2))
    return one + (config.depth - 1) * (two - one)


def _counted(config):
    with torch.device("meta"):
        if isinstance(config, ViTConfig):
            return count_macs(ViT(config), torch.zeros(1, config.in_channels, config.image_size, config.image_size))
        x = torch.zeros(1, config.in_channels, config.input_size, config.input_size)
        return count_macs(DiT(config), x, torch.zeros(1), torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize("name", ["S/8", "B/4", "XL/2"])
def test_the_formula_counts_what_a_run_does(name):
    paper = DiTConfig.paper(name)
    for config in (paper, replace(paper, learn_sigma=False, input_size=16)):
        assert macs(config) == counted(config)
    assert macs(replace(paper, depth=3)) == _counted(replace(paper, depth=3))


@pytest.mark.parametrize(
    ("conditioning", "millions", "published"),
    [
        ("in-context", 449, 119.37),
        ("cross-attention", 598, 137.62),
        ("adaln", 600, 118.56),
        ("adaln-zero", 675, 118.64),
    ],
)
def test_the_four_ways_of_the_paper(conditioning, millions, published):
    config = replace(DiTConfig.paper("XL/2"), conditioning=conditioning)
    assert round(trained(on_meta(DiT, config)) / 1e6) == millions
    assert abs(counted(config) / 1e9 - published) < 0.02


VITS = {
    "Ti/16": (ViTConfig.tiny(), 5_717_416, 1.25),
    "S/16": (ViTConfig.small(), 22_050_664, 4.60),
    "B/16": (ViTConfig.base(), 86_567_656, 17.6),
    "B/32": (ViTConfig.base(32), 88_224_232, 4.4),
    "L/16": (ViTConfig.large(), 304_326_632, 61.6),
    "H/14": (ViTConfig.huge(), 632_045_800, 167.3),
}


@pytest.mark.parametrize("name", VITS)
def test_the_vits_have_the_published_counts(name):
    config, count, billions = VITS[name]
    assert trained(on_meta(ViT, config)) == count
    assert counted(config) / 1e9 == pytest.approx(billions, abs=0.06)


@pytest.mark.parametrize("name", ["B/16", "H/14"])
def test_the_vits_have_the_keys_and_shapes_of_transformers(name):
    config = VITS[name][0]
    ours, theirs = on_meta(ViT, config).state_dict(), on_meta(build_transformers_vit, config).state_dict()
    assert shapes(vit_to_transformers(ours, config)) == shapes(theirs)
    assert shapes(vit_from_transformers(theirs, config)) == shapes(ours)


@pytest.mark.parametrize(("patch_size", "height", "width"), [(2, 4, 8), (4, 12, 4), (3, 3, 9)])
def test_patches_are_a_linear_layer_on_flattened_patches(patch_size, height, width):
    generator = torch.Generator().manual_seed(0)
    embed = randomise_trained(PatchEmbed(patch_size, 3, 10), generator).double()
    x = torch.randn(2, 3, height, width, generator=generator).double()
    flat = F.linear(patchify(x, patch_size), embed.proj.weight.flatten(1), embed.proj.bias)
    assert (embed(x) - flat).abs().max() <= 1e-13


def test_a_masked_class_token_is_as_good_as_none():
    theirs = randomise_trained(build_transformers_vit(MEAN), torch.Generator().manual_seed(0)).eval()
    x = torch.randn(2, 2, 15, 15, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = transformers_outputs(theirs, x, "mean")
        theirs.vit.embeddings.cls_token += 7
        for one, other in zip(before, transformers_outputs(theirs, x, "mean"), strict=True):
            assert torch.equal(one, other)


def exchanged(first, second):
    """Return a damage: the tensors of two names exchanged."""

    def damage(state):
        found = [name for name in state if first in name]
        assert found
        for name in found:
            other = name.replace(first, second)
            state[name], state[other] = state[other], state[name]

    return damage


def parts_rolled(part, parts, by=1):
    """Return a damage: in every tensor of that name the equal parts of the rows moved round."""

    def damage(state):
        found = [name for name in state if part in name]
        assert found
        for name in found:
            state[name] = torch.cat([*state[name].chunk(parts)[by:], *state[name].chunk(parts)[:by]])

    return damage


def patch_transposed(name):
    """Return a damage: rows and columns exchanged inside the patches."""

    def damage(state):
        state[name] = state[name].mT.contiguous()

    return damage


def scale_before_shift(state):
    """Damage: the order of ADM (scale, shift, gate) in the place of DiT's."""
    for name in [name for name in state if "norm1.linear" in name]:
        six = state[name].chunk(6)
        state[name] = torch.cat([six[i] for i in (1, 0, 2, 4, 3, 5)])


def channels_first(state):
    """Damage: the last layer's rows ordered (channel, row, column) instead of (row, column, channel)."""
    for name in ("proj_out_2.weight", "proj_out_2.bias"):
        state[name] = state[name].unflatten(0, (4, 8)).transpose(0, 1).flatten(0, 1)


WRONG_DIT = {
    "shift and scale exchanged": scale_before_shift,
    "attention's six parts and the perceptron's": parts_rolled("norm1.linear", 2),
    "shift and scale of the last layer": parts_rolled("proj_out_1", 2),
    "queries and keys": exchanged("to_q", "to_k"),
    "keys and values": exchanged("to_k", "to_v"),
    "heads moved round": parts_rolled("to_v", 4),
    "channels first in a patch": channels_first,
    "rows and columns of a patch": patch_transposed("pos_embed.proj.weight"),
    "two blocks": exchanged("transformer_blocks.1.attn1", "transformer_blocks.2.attn1"),
    "null row moved": lambda state: state.update(
        {name: tensor.roll(1, 0) for name, tensor in state.items() if "class_embedder" in name}
    ),
}


@pytest.mark.parametrize("name", WRONG_DIT)
def test_a_wrong_transplant_of_the_dit_is_noticed(name, monkeypatch):
    right = official_dit.dit_to_diffusers

    def wrong(state, config):
        moved = right(state, config)
        WRONG_DIT[name](moved)
        return moved

    monkeypatch.setattr(official_dit, "dit_to_diffusers", wrong)
    assert dit_difference(TINY) > 1e-3


WRONG_VIT = {
    "queries and keys": (VIT, exchanged("q_proj", "k_proj")),
    "norms of one block": (VIT, exchanged("layernorm_before", "layernorm_after")),
    "places moved by one": (VIT, lambda state: state.update({
        official_vit.PLACES: state[official_vit.PLACES].roll(1, 1)})),
    "rows and columns of a patch": (VIT, patch_transposed("vit.embeddings.patch_embeddings.projection.weight")),
    "heads moved round": (MEAN, parts_rolled("v_proj", 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_VIT)
def test_a_wrong_transplant_of_the_vit_is_noticed(name, monkeypatch):
    config, damage = WRONG_VIT[name]
    right = official_vit.vit_to_transformers

    def wrong(state, config):
        moved = right(state, config)
        damage(moved)
        return moved

    monkeypatch.setattr(official_vit, "vit_to_transformers", wrong)
    assert max(vit_differences(config)) > 1e-3


@pytest.mark.parametrize("part", ["scale_shift_table", "attn2.to_k", "adaln_single.linear"])
def test_a_wrong_transplant_of_pixart_is_noticed(part, monkeypatch):
    right = official_dit.pixart_from_diffusers

    def wrong(state, config):
        state = dict(state)
        parts_rolled(part, 2)(state)
        return right(state, config)

    monkeypatch.setattr(official_dit, "pixart_from_diffusers", wrong)
    assert pixart_difference(PIXART) > 1e-3


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_padding_that_is_heard_is_noticed(whose, monkeypatch):
    right = official_dit.matching_inputs

    def wrong(*arguments):
        ours, theirs = right(*arguments)
        if whose == "ours":
            ours["context"] = ours["context"].tokens
        else:
            del theirs["encoder_attention_mask"]
        return ours, theirs

    assert pixart_difference(PIXART, padded=True) <= 1e-5
    monkeypatch.setattr(official_dit, "matching_inputs", wrong)
    assert pixart_difference(PIXART, padded=True) > 1e-3


def test_every_trained_tensor_is_random_and_the_tables_stay():
    for config in (TINY, PIXART, VIT, FIXED):
        network = random_network(config)
        fresh = (DiT if isinstance(config, DiTConfig) else ViT)(config)
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                assert weight.std() > 0.01, name
            else:
                assert torch.equal(weight, fresh.get_parameter(name))


def test_moved_weights_share_no_memory():
    for config, to, back in (
        (TINY, dit_to_facebook, dit_from_facebook),
        (TINY, dit_to_diffusers, dit_from_diffusers),
        (PIXART, pixart_to_diffusers, pixart_from_diffusers),
        (MEAN, vit_to_transformers, vit_from_transformers),
    ):
        ours = random_network(config).state_dict()
        before = {name: tensor.clone() for name, tensor in ours.items()}
        for tensor in to(ours, config).values():
            tensor.zero_()
        same_state(ours, before)
        moved = to(ours, config)
        for tensor in back(moved, config).values():
            tensor.zero_()
        same_state(moved, to(before, config))


EVERY_WAY = [
    (TINY, None, dit_to_facebook, "final_layer.linear.bias"),
    (TINY, dit_to_facebook, dit_from_facebook, "y_embedder.embedding_table.weight"),
    (TINY, None, dit_to_diffusers, "y_embedder.table.weight"),
    (TINY, dit_to_diffusers, dit_from_diffusers, "transformer_blocks.1.attn1.to_k.bias"),
    (PIXART, None, pixart_to_diffusers, "blocks.0.scale_shift_table"),
    (PIXART, pixart_to_diffusers, pixart_from_diffusers, "transformer_blocks.2.attn2.to_v.weight"),
    (VIT, None, vit_to_transformers, "cls_token"),
    (VIT, vit_to_transformers, vit_from_transformers, "vit.layers.1.attention.v_proj.weight"),
]


@pytest.mark.parametrize(("config", "prepare", "convert", "name"), EVERY_WAY)
def test_missing_unknown_and_wrongly_shaped_tensors_are_named(config, prepare, convert, name):
    state = random_network(config).state_dict()
    state = prepare(state, config) if prepare else state
    without = {key: tensor for key, tensor in state.items() if key != name}
    with pytest.raises(ValueError, match=rf"missing: {name}"):
        convert(without, config)
    with pytest.raises(ValueError, match="unknown: mystery"):
        convert({**state, "mystery": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match=rf"shapes do not fit this configuration; {name} is \(1, 3\), not "):
        convert({**without, name: torch.zeros(1, 3)}, config)
    with pytest.raises(ValueError, match=r"and \d+ more"):
        convert({key: torch.zeros(2, 2, 2, 2, 2) for key in state}, config)


def test_another_number_of_blocks_is_told():
    longer, state = replace(TINY, depth=4), random_network(TINY).state_dict()
    with pytest.raises(ValueError, match=r"missing: transformer_blocks\.3\."):
        dit_from_diffusers(dit_to_diffusers(state, TINY), longer)
    with pytest.raises(ValueError, match=r"unknown: blocks\.2\."):
        dit_from_facebook(dit_to_facebook(state, TINY), replace(TINY, depth=2))


def test_embedders_that_are_no_copies_are_refused():
    state = dit_to_diffusers(random_network(TINY).state_dict(), TINY)
    state["transformer_blocks.2.norm1.emb.class_embedder.embedding_table.weight"][0, 0] += 1e-3
    with pytest.raises(ValueError, match=r"transformer_blocks\.2\.norm1\.emb\.class_embedder.*only equal ones"):
        dit_from_diffusers(state, TINY)


def test_other_places_are_refused():
    state = facebook_file(TINY)
    half = {**state, "pos_embed": state["pos_embed"].half()}
    assert torch.equal(dit_from_facebook(half, TINY)["pos_embed"], half["pos_embed"])
    exchanged_axes = state["pos_embed"].unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
    for wrong in (exchanged_axes, state["pos_embed"] / 2, state["pos_embed"] * float("nan")):
        with pytest.raises(ValueError, match=r"table of places differs by up to .* rows and columns exchanged"):
            dit_from_facebook({**state, "pos_embed": wrong}, TINY)
    ours = dit_from_facebook(state, TINY)
    for convert, config in ((dit_to_diffusers, TINY), (dit_to_facebook, TINY)):
        with pytest.raises(ValueError, match="table of places"):
            convert({**ours, "pos_embed": exchanged_axes}, config)
    for config in (FIXED, NOWHERE):
        learned = build_transformers_vit(config)
        with torch.no_grad():
            learned.vit.embeddings.position_embeddings.normal_(generator=torch.Generator().manual_seed(0))
        with pytest.raises(ValueError, match="table of places"):
            vit_from_transformers(learned.state_dict(), config)


@pytest.mark.parametrize(
    ("function", "config", "complaint"),
    [
        (build_diffusers_dit, replace(TINY, conditioning="adaln"), "diffusers' DiT has no way.*'adaln'"),
        (build_diffusers_dit, replace(TINY, mlp_ratio=2.0), "mlp_ratio of 2"),
        (build_diffusers_dit, replace(TINY, num_classes=0), "without classes"),
        (build_diffusers_pixart, TINY, "diffusers' PixArt has no way.*'adaln-zero'"),
        (build_diffusers_pixart, replace(PIXART, num_classes=3), "PixArt has no way to express classes"),
        (lambda config: dit_to_facebook({}, config), PIXART, "dit_to_facebook: facebookresearch/DiT has no way"),
        (lambda config: dit_from_facebook({}, config), replace(TINY, num_classes=0), "without classes"),
        (lambda config: dit_to_diffusers({}, config), PIXART, "dit_to_diffusers: .*'adaln-single'"),
        (lambda config: dit_from_diffusers({}, config), PIXART, "dit_from_diffusers: .*'adaln-single'"),
        (lambda config: pixart_to_diffusers({}, config), TINY, "pixart_to_diffusers: .*'adaln-zero'"),
        (lambda config: pixart_from_diffusers({}, config), TINY, "pixart_from_diffusers: .*'adaln-zero'"),
    ],
)
def test_what_the_public_ones_cannot_express_is_said(function, config, complaint):
    with pytest.raises(ValueError, match=complaint):
        function(config)


def test_facebookresearch_knows_other_perceptrons():
    config = replace(TINY, mlp_ratio=2.0)
    ours = random_network(config).state_dict()
    same_state(dit_from_facebook(dit_to_facebook(ours, config), config), ours)
