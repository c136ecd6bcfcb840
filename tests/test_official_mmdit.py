"""Our MMDiT holds the public models' weights and gives their outputs, and a wrong transplant would be noticed."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lesson_lib.mmdit import MMDiT, MMDiTConfig, SingleStreamConfig, SingleStreamDiT

pytest.importorskip("diffusers")

from lesson_lib.official import mmdit as official_mmdit
from lesson_lib.official import parity
from lesson_lib.official.mmdit import (
    FLUX_LAYOUTS,
    QWEN_LAYOUTS,
    SD3_LAYOUTS,
    SINGLE_LAYOUTS,
    build_diffusers_mmdit,
    build_diffusers_single,
    flux_from_bfl,
    flux_from_diffusers,
    flux_to_bfl,
    flux_to_diffusers,
    matching_inputs,
    mmdit_difference,
    mmdit_outputs,
    pack,
    qwen_from_diffusers,
    qwen_to_diffusers,
    sd3_from_diffusers,
    sd3_from_stability,
    sd3_to_diffusers,
    sd3_to_stability,
    single_difference,
    single_from_diffusers,
    single_outputs,
    single_to_diffusers,
    unpack,
)
from lesson_lib.official.unet import randomise

SD3, DUAL = SD3_LAYOUTS["SD3.5, QK-norm"], SD3_LAYOUTS["SD3.5-medium, second attention"]
FLUX, QWEN = FLUX_LAYOUTS["FLUX.1-dev"], QWEN_LAYOUTS["all words"]
Z_IMAGE, LUMINA = SINGLE_LAYOUTS["Z-Image"], SINGLE_LAYOUTS["Lumina-Image 2.0"]
KEYS = {"sd3": SD3_LAYOUTS, "flux": FLUX_LAYOUTS, "qwen-image": QWEN_LAYOUTS, "single-stream": SINGLE_LAYOUTS}

# configuration → the converters to diffusers and back
CONVERTERS = [
    *((config, sd3_to_diffusers, sd3_from_diffusers) for config in SD3_LAYOUTS.values()),
    *((config, flux_to_diffusers, flux_from_diffusers) for config in FLUX_LAYOUTS.values()),
    *((config, qwen_to_diffusers, qwen_from_diffusers) for config in QWEN_LAYOUTS.values()),
    *((config, single_to_diffusers, single_from_diffusers) for config in SINGLE_LAYOUTS.values()),
]
REFERENCES = [
    *((config, sd3_to_stability, sd3_from_stability) for config in SD3_LAYOUTS.values()),
    *((config, flux_to_bfl, flux_from_bfl) for config in FLUX_LAYOUTS.values()),
]


def ours_of(config):
    """Return our network of a configuration, freshly initialised."""
    return (MMDiT if isinstance(config, MMDiTConfig) else SingleStreamDiT)(config)


def theirs_of(config):
    """Return diffusers' network of a configuration, freshly initialised."""
    return (build_diffusers_mmdit if isinstance(config, MMDiTConfig) else build_diffusers_single)(config)


def random_network(config, seed=1):
    """Return our network with every tensor random, the table of places too."""
    generator = torch.Generator().manual_seed(seed)
    network = randomise(ours_of(config), generator).eval()
    for table in network.buffers():
        table.normal_(generator=generator)
    return network


def on_meta(build, *arguments, **options):
    """Return a network without memory for its weights."""
    with torch.device("meta"):
        return build(*arguments, **options)


def shapes(state):
    """Return the shape of every tensor of a state dict."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def count(network):
    """Return the number of weights."""
    return sum(weight.numel() for weight in network.parameters())


def same_state(ours, theirs):
    """Hold that two state dicts have the same keys, shapes and numbers."""
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.fixture(scope="module")
def fresh():
    """Return the four comparisons, measured now."""
    return {key: parity.parity(key) for key in KEYS}


@pytest.mark.parametrize("key", KEYS)
def test_outputs_equal_the_public_ones(key, fresh):
    assert fresh[key].fresh
    assert max(fresh[key].differences.values()) <= 1e-5
    assert len({line.rindex(" ") for line in str(fresh[key]).splitlines()[1:-1]}) == 1


def test_every_layout_is_compared_and_recorded(fresh):
    for key, layouts in KEYS.items():
        more = {"padded words"} if key == "qwen-image" else set()
        assert set(fresh[key].differences) == set(layouts) | more
        assert set(parity.recorded()[key].differences) == set(fresh[key].differences)


def test_the_outputs_are_of_order_one():
    for config in (SD3, DUAL, FLUX, QWEN):
        for output in mmdit_outputs(config):
            assert 0.5 < output.std() < 2
    for config in (Z_IMAGE, LUMINA):
        assert 0.5 < single_outputs(config)[0].std() < 2


ODD = {
    "SD3, one block, one head, one patch": (replace(SD3, double=1, hidden_size=16, num_heads=1), (1, 1)),
    "SD3, patches of 1, all of the table": (replace(SD3, input_size=12, patch_size=1, in_channels=3), (12, 12)),
    "SD3, every block with a second attention": (replace(DUAL, dual=3), (2, 5)),
    "FLUX, double blocks alone": (replace(FLUX, single=0, last_text=True), (5, 1)),
    "FLUX, single blocks alone": (replace(FLUX, double=0), (4, 4)),
    "FLUX, no frame of its own": (replace(FLUX, axes=(2, 6, 8), patch_size=1), (2, 6)),
    "Qwen-Image, a tall picture": (QWEN, (9, 2)),
    "Qwen-Image, a picture of one row": (replace(QWEN, double=1), (1, 6)),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_configurations_equal_the_public_ones(name):
    config, grid = ODD[name]
    assert mmdit_difference(config, grid=grid, padded="Qwen" in name, seed=3) <= 1e-5


@pytest.mark.parametrize("change", [{"depth": 1}, {"refiners": 0}, {"num_heads": 6, "axes": (2, 2, 4)}])
def test_odd_networks_of_one_stream_equal_the_public_ones(change):
    assert single_difference(replace(Z_IMAGE, **{"kv_heads": change.get("num_heads", 3)} | change), seed=3) <= 1e-5
    assert single_difference(replace(LUMINA, **change), seed=3) <= 1e-5


def test_packing_is_the_convolution_of_the_other_networks():
    generator = torch.Generator().manual_seed(0)
    embed = random_network(FLUX).x_embedder
    x = torch.randn(2, 4, 6, 10, generator=generator)
    weight = flux_to_diffusers(random_network(FLUX).state_dict(), FLUX)["x_embedder.weight"]
    assert (F.linear(pack(x, 2), weight, embed.proj.bias) - embed(x)).abs().max() <= 1e-5
    assert torch.equal(unpack(pack(x, 2), 2, 3), x)


@pytest.mark.parametrize("config", [DUAL, FLUX, QWEN], ids=["SD3", "FLUX", "Qwen-Image"])
def test_a_training_step_equals_diffusers(config):
    ours, theirs = random_network(config), theirs_of(config)
    convert = {"origin": flux_to_diffusers, "diagonal": qwen_to_diffusers}.get(config.places, sd3_to_diffusers)
    theirs.load_state_dict(convert(ours.state_dict(), config))
    our_inputs, their_inputs = matching_inputs(config, 2, torch.Generator().manual_seed(2))
    ours(**our_inputs).square().mean().backward()
    theirs(**their_inputs).sample.square().mean().backward()
    # what Qwen-Image's last block makes of its words is heard by nobody, and has no gradient
    gradients = {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in ours.named_parameters()}
    moved = convert({**ours.state_dict(), **gradients}, config)
    for name, weight in theirs.named_parameters():
        expected = torch.zeros_like(weight) if weight.grad is None else weight.grad
        assert (moved[name] - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max())), name


@pytest.mark.parametrize(("config", "to", "back"), CONVERTERS)
def test_weights_go_to_diffusers_and_back(config, to, back):
    ours, theirs = random_network(config).state_dict(), theirs_of(config)
    moved = to(ours, config)
    theirs.load_state_dict(moved)
    same_state(back(theirs.state_dict(), config), ours)
    same_state(to(back(moved, config), config), moved)


@pytest.mark.parametrize(("config", "to", "back"), REFERENCES)
def test_weights_go_to_the_reference_and_back(config, to, back):
    ours = random_network(config).state_dict()
    same_state(back(to(ours, config), config), ours)


@pytest.mark.parametrize(("config", "to", "back"), [CONVERTERS[0], CONVERTERS[3], CONVERTERS[-2], *REFERENCES[::3]])
def test_moved_weights_share_no_memory(config, to, back):
    ours = random_network(config).state_dict()
    before = {name: tensor.clone() for name, tensor in ours.items()}
    for tensor in to(ours, config).values():
        tensor.zero_()
    same_state(ours, before)
    moved = to(ours, config)
    for tensor in back(moved, config).values():
        tensor.zero_()
    same_state(moved, to(before, config))


# --- files of the reference repositories, written down key by key, not read from our classes ------------------------


def written(layers, seed=5):
    """Return random numbers for layers given by name and shape of the weight; a vector is a norm's, without a bias."""
    generator, state = torch.Generator().manual_seed(seed), {}
    for name, shape in layers.items():
        if len(shape) == 1:
            state[name] = 1 + 0.3 * torch.randn(shape, generator=generator)
        elif name == "pos_embed":
            state[name] = torch.randn(shape, generator=generator)
        else:
            state[f"{name}.weight"] = torch.randn(shape, generator=generator) / torch.Size(shape[1:]).numel() ** 0.5
            state[f"{name}.bias"] = 0.3 * torch.randn(shape[0], generator=generator)
    return state


def stability_file(config):
    """Return a file of Stability-AI/sd3.5 with random numbers."""
    d, p, c = config.hidden_size, config.patch_size, config.in_channels
    layers = {
        "pos_embed": (1, config.table_size**2, d),
        "x_embedder.proj": (d, c, p, p),
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "y_embedder.mlp.0": (d, config.pooled_size),
        "y_embedder.mlp.2": (d, d),
        "context_embedder": (d, config.context_size),
        "final_layer.linear": (p * p * c, d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
    }
    for i in range(config.double):
        for block in ("x_block", "context_block"):
            here, image = f"joint_blocks.{i}.{block}", block == "x_block"
            only_answers = i == config.double - 1 and not image
            dual = i < config.dual and image
            layers[f"{here}.adaLN_modulation.1"] = ((2 if only_answers else 9 if dual else 6) * d, d)
            for attention in ("attn", "attn2") if dual else ("attn",):
                layers[f"{here}.{attention}.qkv"] = (3 * d, d)
                if config.qk_norm:
                    for norm in ("ln_q", "ln_k"):
                        layers[f"{here}.{attention}.{norm}.weight"] = (d // config.num_heads,)
                if not only_answers:
                    layers[f"{here}.{attention}.proj"] = (d, d)
            if not only_answers:
                layers |= {f"{here}.mlp.fc1": (4 * d, d), f"{here}.mlp.fc2": (d, 4 * d)}
    return written(layers)


def bfl_file(config):
    """Return a file of black-forest-labs/flux with random numbers."""
    d, packed = config.hidden_size, config.in_channels * config.patch_size**2
    layers = {"img_in": (d, packed), "txt_in": (d, config.context_size), "final_layer.linear": (packed, d)}
    layers["final_layer.adaLN_modulation.1"] = (2 * d, d)
    sizes = {"time_in": 256, "vector_in": config.pooled_size} | ({"guidance_in": 256} if config.guidance else {})
    for name, size in sizes.items():
        layers |= {f"{name}.in_layer": (d, size), f"{name}.out_layer": (d, d)}
    norm = (d // config.num_heads,)
    for i in range(config.double):
        for kind in ("img", "txt"):
            here = f"double_blocks.{i}.{kind}_"
            layers |= {f"{here}mod.lin": (6 * d, d), f"{here}attn.qkv": (3 * d, d), f"{here}attn.proj": (d, d)}
            layers |= {f"{here}attn.norm.{one}_norm.scale": norm for one in ("query", "key")}
            layers |= {f"{here}mlp.0": (4 * d, d), f"{here}mlp.2": (d, 4 * d)}
    for i in range(config.single):
        here = f"single_blocks.{i}"
        layers |= {f"{here}.modulation.lin": (3 * d, d), f"{here}.linear1": (7 * d, d), f"{here}.linear2": (d, 5 * d)}
        layers |= {f"{here}.norm.{one}_norm.scale": norm for one in ("query", "key")}
    return written(layers)


# black-forest-labs/flux → diffusers, by hand: what stands in front of ".weight" and ".bias"
BFL_BY_HAND = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
}
BFL_DOUBLE = {
    "img_mod.lin": ["norm1.linear"],
    "txt_mod.lin": ["norm1_context.linear"],
    "img_attn.qkv": ["attn.to_q", "attn.to_k", "attn.to_v"],
    "txt_attn.qkv": ["attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"],
    "img_attn.proj": ["attn.to_out.0"],
    "txt_attn.proj": ["attn.to_add_out"],
    "img_mlp.0": ["ff.net.0.proj"],
    "img_mlp.2": ["ff.net.2"],
    "txt_mlp.0": ["ff_context.net.0.proj"],
    "txt_mlp.2": ["ff_context.net.2"],
}
BFL_NORMS = {
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
}


def bfl_to_diffusers(state, config):
    """Return a file of black-forest-labs/flux under diffusers' names, without any of the library's converters."""
    moved, d = {}, config.hidden_size
    for kind in ("weight", "bias"):
        for ours, theirs in BFL_BY_HAND.items():
            if f"{ours}.{kind}" in state:
                moved[f"{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        shift, scale = state[f"final_layer.adaLN_modulation.1.{kind}"].chunk(2)
        moved[f"norm_out.linear.{kind}"] = torch.cat([scale, shift])
        for i in range(config.double):
            for ours, theirs in BFL_DOUBLE.items():
                parts = state[f"double_blocks.{i}.{ours}.{kind}"].chunk(len(theirs))
                for name, part in zip(theirs, parts, strict=True):
                    moved[f"transformer_blocks.{i}.{name}.{kind}"] = part
        for i in range(config.single):
            here, there = f"single_blocks.{i}", f"single_transformer_blocks.{i}"
            moved[f"{there}.norm.linear.{kind}"] = state[f"{here}.modulation.lin.{kind}"]
            moved[f"{there}.proj_out.{kind}"] = state[f"{here}.linear2.{kind}"]
            four = state[f"{here}.linear1.{kind}"].split([d, d, d, 4 * d])
            for name, part in zip(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), four, strict=True):
                moved[f"{there}.{name}.{kind}"] = part
    for i in range(config.double):
        for ours, theirs in BFL_NORMS.items():
            moved[f"transformer_blocks.{i}.{theirs}.weight"] = state[f"double_blocks.{i}.{ours}.scale"]
    for i in range(config.single):
        for one, name in (("query", "norm_q"), ("key", "norm_k")):
            there = f"single_transformer_blocks.{i}.attn.{name}.weight"
            moved[there] = state[f"single_blocks.{i}.norm.{one}_norm.scale"]
    return moved


def outputs_of(config, our_state, their_state):
    """Return the largest difference of our output and diffusers' with these weights, for two pictures of 5 × 3."""
    ours, theirs = ours_of(config).eval(), theirs_of(config).eval()
    ours.load_state_dict(our_state)
    theirs.load_state_dict(their_state)
    our_inputs, their_inputs = matching_inputs(config, 2, torch.Generator().manual_seed(3), (5, 3))
    with torch.no_grad():
        found, expected = ours(**our_inputs), theirs(**their_inputs).sample
    assert expected.std() > 0.3
    return (found - (unpack(expected, config.patch_size, 5) if expected.ndim == 3 else expected)).abs().max()


@pytest.mark.parametrize("name", SD3_LAYOUTS)
def test_a_file_of_stability_gives_what_diffusers_makes_of_it(name):
    from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers

    config = SD3_LAYOUTS[name]
    state = stability_file(config)
    ours = sd3_from_stability(state, config)
    theirs = convert_sd3_transformer_checkpoint_to_diffusers(dict(state))
    assert outputs_of(config, ours, theirs) <= 1e-5
    same_state(sd3_to_diffusers(ours, config), theirs)
    same_state(sd3_to_stability(ours, config), state)


@pytest.mark.parametrize("name", FLUX_LAYOUTS)
def test_a_file_of_bfl_gives_what_diffusers_makes_of_it(name):
    config = FLUX_LAYOUTS[name]
    state = bfl_file(config)
    ours, theirs = flux_from_bfl(state, config), bfl_to_diffusers(state, config)
    assert outputs_of(config, ours, theirs) <= 1e-5
    same_state(flux_to_diffusers(ours, config), theirs)
    same_state(flux_to_bfl(ours, config), state)


@pytest.mark.parametrize(
    ("config", "write", "read"), [(SD3, stability_file, sd3_from_stability), (FLUX, bfl_file, flux_from_bfl)]
)
def test_a_released_file_holds_other_networks_too(config, write, read):
    state = write(config)
    released = {f"model.diffusion_model.{name}": tensor for name, tensor in state.items()}
    released["first_stage_model.decoder.conv_in.weight"] = torch.zeros(1)
    same_state(read(released, config), read(state, config))


def test_the_tiny_files_have_as_many_tensors_as_the_facts_say():
    config = replace(SD3, double=2, qk_norm=False)
    assert len(stability_file(config)) == 51
    assert len(sd3_to_diffusers(random_network(config).state_dict(), config)) == 67
    config = replace(DUAL, double=2, dual=1)
    assert len(stability_file(config)) == 65
    assert len(sd3_to_diffusers(random_network(config).state_dict(), config)) == 85
    assert len(bfl_file(FLUX)) == 84
    assert len(flux_to_diffusers(random_network(FLUX).state_dict(), FLUX)) == 112


# --- the published sizes --------------------------------------------------------------------------------------------


def published_sd3(**options):
    """Return diffusers' SD3 as its released configurations have it."""
    from diffusers import SD3Transformer2DModel

    shared = {"sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 64,
              "joint_attention_dim": 4096, "pooled_projection_dim": 2048, "pos_embed_max_size": 192}  # fmt: skip
    return SD3Transformer2DModel(**shared | options)


def published(name, **options):
    """Return a network of diffusers whose defaults are its released configuration."""
    import diffusers

    return getattr(diffusers, name)(**options)


MEDIUM = {"num_layers": 24, "num_attention_heads": 24, "caption_projection_dim": 1536}
LARGE = {"num_layers": 38, "num_attention_heads": 38, "caption_projection_dim": 2432, "qk_norm": "rms_norm"}
SECOND = {"qk_norm": "rms_norm", "dual_attention_layers": tuple(range(13)), "pos_embed_max_size": 384}
DEV = {"guidance_embeds": True}
# preset → converter, diffusers' network as it was released, thousand millions of weights
PRESETS = {
    "sd3_medium": (sd3_to_diffusers, lambda: published_sd3(**MEDIUM), 2.028),
    "sd35_medium": (sd3_to_diffusers, lambda: published_sd3(**MEDIUM | SECOND), 2.243),
    "sd35_large": (sd3_to_diffusers, lambda: published_sd3(**LARGE), 8.057),
    "flux_dev": (flux_to_diffusers, lambda: published("FluxTransformer2DModel", **DEV), 11.901),
    "qwen_image": (qwen_to_diffusers, lambda: published("QwenImageTransformer2DModel"), 20.430),
    "z_image": (single_to_diffusers, lambda: published("ZImageTransformer2DModel"), 6.155),
    "lumina_image_2": (single_to_diffusers, lambda: published("Lumina2Transformer2DModel", cap_feat_dim=2304), 2.610),
}


@pytest.mark.parametrize("name", PRESETS)
def test_the_presets_have_the_published_keys_shapes_and_counts(name):
    convert, build, billions = PRESETS[name]
    config = getattr(SingleStreamConfig if convert is single_to_diffusers else MMDiTConfig, name)()
    ours, theirs = on_meta(ours_of, config), on_meta(build)
    assert shapes(convert(ours.state_dict(), config)) == shapes(theirs.state_dict())
    padding = sum(weight.numel() for key, weight in theirs.named_parameters() if "pad_token" in key)
    assert count(ours) == count(theirs) - padding
    assert round(count(theirs) / 1e9, 3) == billions
    if name in ("flux_dev", "sd35_medium"):
        assert shapes(on_meta(theirs_of, config).state_dict()) == shapes(theirs.state_dict())


# --- wrong transplants ----------------------------------------------------------------------------------------------


def exchanged(first, second):
    """Return a damage: the tensors of two names exchanged, where both are of one shape."""

    def damage(state):
        found = [name for name in state if first in name and name.replace(first, second) in state]
        found = [name for name in found if state[name].shape == state[name.replace(first, second)].shape]
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


def scale_before_shift(part):
    """Return a damage: (scale, shift, gate) in the place of (shift, scale, gate) in every six vectors."""

    def damage(state):
        for name in [name for name in state if part in name]:
            six = state[name].chunk(6)
            state[name] = torch.cat([six[i] for i in (1, 0, 2, 4, 3, 5)])

    return damage


def reordered(name, dim, sizes, moved):
    """Return a damage: one dimension of a layer's tensors, seen as three, in another order."""

    def damage(state):
        for kind in ("weight", "bias") if dim == 0 else ("weight",):
            tensor = state[f"{name}.{kind}"].unflatten(dim, sizes)
            state[f"{name}.{kind}"] = tensor.movedim(*moved).flatten(dim, dim + 2)

    return damage


def table_left_behind(state):
    """Damage: the places as diffusers starts them, not as they were trained."""
    state["pos_embed.pos_embed"] = build_diffusers_mmdit(SD3).pos_embed.pos_embed.clone()


def table_transposed(state):
    """Damage: rows and columns of the table exchanged."""
    table = state["pos_embed.pos_embed"]
    state["pos_embed.pos_embed"] = table.unflatten(1, (12, 12)).transpose(1, 2).flatten(1, 2)


WRONG = {
    "SD3: the last modulation not swapped": (SD3, parts_rolled("norm_out.linear", 2)),
    "SD3: the last words' modulation not swapped": (SD3, parts_rolled("blocks.1.norm1_context.linear", 2)),
    "SD3: shift and scale exchanged": (SD3, scale_before_shift("0.norm1_context.linear")),
    "SD3: attention's vectors and the perceptron's": (SD3, parts_rolled("norm1.linear", 2)),
    "SD3: queries and keys": (SD3, exchanged("to_q", "to_k")),
    "SD3: keys and values of the words": (SD3, exchanged("add_k_proj", "add_v_proj")),
    "SD3: the streams' queries": (SD3, exchanged("to_q", "add_q_proj")),
    "SD3: the streams' perceptrons": (SD3, exchanged("ff.net", "ff_context.net")),
    "SD3: norms of queries and keys": (SD3, exchanged("norm_q", "norm_k")),
    "SD3: norms of the streams": (SD3, exchanged("norm_k", "norm_added_k")),
    "SD3: channels first in the answer": (SD3, reordered("proj_out", 0, (2, 2, 4), (2, 0))),
    "SD3: the table left behind": (SD3, table_left_behind),
    "SD3: the table transposed": (SD3, table_transposed),
    "SD3.5-medium: the attentions exchanged": (DUAL, exchanged("attn.to_v", "attn2.to_v")),
    "SD3.5-medium: its vectors first": (DUAL, parts_rolled("blocks.0.norm1.linear", 9, 6)),
    "SD3.5-medium: norms of the second attention": (DUAL, parts_rolled("attn2.norm_q", 2)),
    "FLUX: the last modulation not swapped": (FLUX, parts_rolled("norm_out.linear", 2)),
    "FLUX: channels last on entering": (FLUX, reordered("x_embedder", 1, (4, 2, 2), (1, 3))),
    "FLUX: channels last on leaving": (FLUX, reordered("proj_out", 0, (4, 2, 2), (0, 2))),
    "FLUX: keys and values of the single blocks": (FLUX, exchanged("blocks.0.attn.to_k", "blocks.0.attn.to_v")),
    "FLUX: the perceptron's output first": (
        FLUX, lambda state: state.update({
            name: tensor.roll(32, 1) for name, tensor in state.items() if name.endswith("0.proj_out.weight")})),
    "FLUX: time and guidance exchanged": (FLUX, exchanged("timestep_embedder", "guidance_embedder")),
    "FLUX: two single blocks exchanged": (
        FLUX, exchanged("single_transformer_blocks.0", "single_transformer_blocks.1")),
    "Qwen-Image: the last modulation not swapped": (QWEN, parts_rolled("norm_out.linear", 2)),
    "Qwen-Image: the streams' vectors": (QWEN, exchanged("img_mod", "txt_mod")),
    "Qwen-Image: channels last on leaving": (QWEN, reordered("proj_out", 0, (4, 2, 2), (0, 2))),
    "Qwen-Image: the words' norm moved": (QWEN, lambda state: state.update({
        "txt_norm.weight": state["txt_norm.weight"].roll(1)})),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_transplant_is_noticed(name, monkeypatch):
    config, damage = WRONG[name]
    right = official_mmdit.from_diffusers

    def wrong(state, config):
        state = dict(state)
        damage(state)
        return right(state, config)

    monkeypatch.setattr(official_mmdit, "from_diffusers", wrong)
    assert mmdit_difference(config) > 1e-2


WRONG_INPUTS = {
    "SD3: time from 0 to 1": (SD3, "timestep", lambda t: t / 1000),
    "FLUX: time from 0 to 1000": (FLUX, "timestep", lambda t: 1000 * t),
    "FLUX: guidance a thousandth": (FLUX, "guidance", lambda strength: strength / 1000),
    "FLUX: words counted": (FLUX, "txt_ids", lambda places: places + torch.arange(7)[:, None]),
    "FLUX: columns before rows": (FLUX, "img_ids", lambda places: places[:, [0, 2, 1]]),
    "FLUX: patches packed channels last": (
        FLUX, "hidden_states", lambda x: x.unflatten(2, (4, 4)).mT.flatten(2)),
    "Qwen-Image: another picture's shape": (QWEN, "img_shapes", lambda shapes: [[(1, 4, 3)]] * 2),
    "Qwen-Image: padding heard": (QWEN, "encoder_hidden_states_mask", lambda mask: torch.ones_like(mask)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_INPUTS)
def test_a_wrong_input_is_noticed(name, monkeypatch):
    config, key, change = WRONG_INPUTS[name]
    right = official_mmdit.matching_inputs

    def wrong(*arguments, **options):
        ours, theirs = right(*arguments, **options)
        return ours, {**theirs, key: change(theirs[key])}

    monkeypatch.setattr(official_mmdit, "matching_inputs", wrong)
    assert mmdit_difference(config, padded="padding" in name) > 1e-2


def test_a_mask_of_ours_is_heard(monkeypatch):
    right = official_mmdit.matching_inputs

    def wrong(*arguments, **options):
        ours, theirs = right(*arguments, **options)
        return {**ours, "context": ours["context"].tokens}, theirs

    assert mmdit_difference(QWEN, padded=True) <= 1e-5
    monkeypatch.setattr(official_mmdit, "matching_inputs", wrong)
    assert mmdit_difference(QWEN, padded=True) > 1e-2


WRONG_SINGLE = {
    "norms before and after exchanged": (Z_IMAGE, exchanged("attention_norm1", "attention_norm2")),
    "gate and scale exchanged": (Z_IMAGE, parts_rolled("layers.0.adaLN_modulation", 4)),
    "the perceptron's halves exchanged": (LUMINA, exchanged("feed_forward.linear_1", "feed_forward.linear_3")),
    "keys and values exchanged": (LUMINA, exchanged("to_k", "to_v")),
    "refiners exchanged": (Z_IMAGE, exchanged("noise_refiner", "context_refiner")),
    "channels first on entering": (LUMINA, reordered("x_embedder", 1, (2, 2, 4), (3, 1))),
}


@pytest.mark.parametrize("name", WRONG_SINGLE)
def test_a_wrong_transplant_of_one_stream_is_noticed(name, monkeypatch):
    config, damage = WRONG_SINGLE[name]
    right = official_mmdit.single_from_diffusers

    def wrong(state, config):
        state = dict(state)
        damage(state)
        return right(state, config)

    monkeypatch.setattr(official_mmdit, "single_from_diffusers", wrong)
    assert single_difference(config) > 1e-2


# --- errors ---------------------------------------------------------------------------------------------------------

EVERY_WAY = [
    (SD3, None, sd3_to_diffusers, "double_blocks.0.text.attn.qkv.bias"),
    (SD3, sd3_to_diffusers, sd3_from_diffusers, "transformer_blocks.1.attn.add_k_proj.bias"),
    (SD3, None, sd3_to_stability, "pos_embed"),
    (SD3, sd3_to_stability, sd3_from_stability, "joint_blocks.1.context_block.attn.ln_q.weight"),
    (FLUX, None, flux_to_diffusers, "single_blocks.1.linear1.weight"),
    (FLUX, flux_to_diffusers, flux_from_diffusers, "single_transformer_blocks.0.proj_mlp.weight"),
    (FLUX, None, flux_to_bfl, "guidance_embedder.mlp.0.weight"),
    (FLUX, flux_to_bfl, flux_from_bfl, "double_blocks.1.txt_attn.norm.key_norm.scale"),
    (QWEN, None, qwen_to_diffusers, "context_norm.weight"),
    (QWEN, qwen_to_diffusers, qwen_from_diffusers, "transformer_blocks.2.txt_mlp.net.2.weight"),
    (Z_IMAGE, None, single_to_diffusers, "blocks.1.adaLN_modulation.bias"),
    (LUMINA, single_to_diffusers, single_from_diffusers, "norm_out.linear_2.bias"),
]


@pytest.mark.parametrize(("config", "prepare", "convert", "name"), EVERY_WAY)
def test_missing_unknown_and_wrongly_shaped_tensors_are_named(config, prepare, convert, name):
    state = random_network(config).state_dict()
    state = prepare(state, config) if prepare else state
    without = {key: tensor for key, tensor in state.items() if key != name}
    with pytest.raises(ValueError, match=rf"{convert.__name__}: .*missing: {name}"):
        convert(without, config)
    with pytest.raises(ValueError, match="unknown: mystery"):
        convert({**state, "mystery": torch.zeros(1)}, config)
    with pytest.raises(ValueError, match=rf"shapes do not fit this configuration; {name} is \(1, 3\), not "):
        convert({**without, name: torch.zeros(1, 3)}, config)
    with pytest.raises(ValueError, match=r"and \d+ more"):
        convert({key: torch.zeros(2, 2, 2, 2, 2) for key in state}, config)


def test_another_number_of_blocks_is_told():
    state = random_network(FLUX).state_dict()
    with pytest.raises(ValueError, match=r"missing: single_transformer_blocks\.2\."):
        flux_from_diffusers(flux_to_diffusers(state, FLUX), replace(FLUX, single=3))
    with pytest.raises(ValueError, match=r"unknown: double_blocks\.1\."):
        flux_from_bfl(flux_to_bfl(state, FLUX), replace(FLUX, double=1))


@pytest.mark.parametrize(
    ("function", "config", "complaint"),
    [
        (sd3_to_diffusers, FLUX, r"sd3_to_diffusers: diffusers' SD3 has no way to express places 'origin'"),
        (sd3_from_diffusers, replace(SD3, mlp_ratio=2.0), r"mlp_ratio 2\.0 \(it is 4\.0 there\)"),
        (sd3_to_stability, replace(SD3, shared=("streams",)), r"Stability-AI/sd3\.5 .* shared \('streams',\)"),
        (sd3_from_stability, replace(SD3, pooled_size=0), "without a pooled text"),
        (sd3_to_diffusers, replace(SD3, last_text=True), "last_text True"),
        (flux_to_diffusers, SD3, "flux_to_diffusers: diffusers' FLUX .* places 'sin-cos'"),
        (flux_from_diffusers, MMDiTConfig.shapes16(), "diffusers' FLUX .* rope_base 100"),
        (flux_to_bfl, replace(FLUX, axes=(8, 8)), "black-forest-labs/flux .* places on 2 axes"),
        (flux_from_bfl, replace(FLUX, single=0), "a last block whose words only answer"),
        (flux_from_bfl, replace(FLUX, qk_norm=False), "qk_norm False"),
        (qwen_to_diffusers, FLUX, "diffusers' Qwen-Image"),
        (qwen_from_diffusers, replace(QWEN, pooled_size=20), "pooled_size 20"),
        (single_to_diffusers, replace(LUMINA, rope_base=256.0), "diffusers' Lumina-Image 2.0 .* rope_base 256"),
        (single_from_diffusers, replace(Z_IMAGE, time_width=48), "diffusers' Z-Image .* time_width 48"),
    ],
)
def test_what_the_public_ones_cannot_express_is_said(function, config, complaint):
    with pytest.raises(ValueError, match=complaint):
        function({}, config)


@pytest.mark.parametrize(
    ("build", "config", "complaint"),
    [
        (build_diffusers_mmdit, replace(SD3, guidance=True), "build_diffusers_mmdit: diffusers' SD3 .* guidance True"),
        (build_diffusers_mmdit, replace(QWEN, last_text=False), "last_text False"),
        (build_diffusers_mmdit, replace(FLUX, places="continued"), "diffusers' SD3 .* places 'continued'"),
        (build_diffusers_single, replace(Z_IMAGE, mlp_width=100), "no mlp_width of 100 .it is 128 there"),
        (build_diffusers_single, replace(LUMINA, condition_size=8), "no condition_size of 8 .it is 48 there"),
    ],
)
def test_what_diffusers_cannot_build_is_said(build, config, complaint):
    with pytest.raises(ValueError, match=complaint):
        build(config)
