"""Our rotations turn queries and keys as the public models do, and a wrong place, axis or pairing would be noticed."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lesson_lib.attention import SelfAttention, attention_map
from lesson_lib.position import (
    AxialRope,
    Rotation,
    centred_grid,
    diagonal_text,
    grid_coordinates,
    halves_from_pairs,
    joint_coordinates,
    mixed_angles,
    mixed_frequencies,
    pairs_from_halves,
)

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from lesson_lib.official import parity
from lesson_lib.official import rope as official_rope
from lesson_lib.official.rope import (
    LLAMA_RULES,
    MODELS,
    attention_from_llama,
    build_llama_attention,
    cogview_rotation,
    diffusers_cogview,
    diffusers_qwen,
    llama_differences,
    llama_rotations,
    qwen_rotation,
    rope_differences,
)
from lesson_lib.official.unet import randomise


def normal(*shape, seed=0):
    """Return random numbers of a shape."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def fresh():
    """Return the two comparisons, measured now."""
    return {key: parity.parity(key) for key in ("rope", "rope-llama")}


@pytest.mark.parametrize("key", ["rope", "rope-llama"])
def test_rotations_equal_the_public_ones(key, fresh):
    assert fresh[key].fresh
    assert max(fresh[key].differences.values()) <= 1e-6
    assert len({line.rindex(" ") for line in str(fresh[key]).splitlines()[1:-1]}) == 1


def test_every_model_and_rule_is_compared_and_recorded(fresh):
    assert set(fresh["rope"].differences) == {f"{name}, {what}" for name in MODELS for what in ("tables", "queries")}
    assert len(fresh["rope-llama"].differences) == 2 * len(LLAMA_RULES) + 2
    for key, entry in fresh.items():
        assert set(parity.recorded()[key].differences) == set(entry.differences)


@pytest.mark.parametrize("grid", [(1, 1, 1), (3, 1, 6), (2, 7, 4), (6, 5, 9), (1, 9, 9)])
@pytest.mark.parametrize("name", MODELS)
def test_other_grids_equal_too(name, grid):
    ours, theirs = (make(*grid) for make in MODELS[name])
    tables, queries = rope_differences(ours, theirs, seed=3)
    assert tables <= 1e-6
    assert queries <= 4e-6  # the tables' difference times a number as large as 4
    if name == "FLUX.1":  # the same arithmetic, float64 until the last step; only sums are rounded otherwise
        assert tables == 0
        assert queries <= 1e-6


def single(coordinates, axes, pairing="interleaved"):
    """Return a rotation whose angles are computed in float32 from the first step on."""
    parts = []
    for place, size in zip(coordinates.unbind(dim=1), axes, strict=True):
        frequencies = 1 / torch.pow(10000.0, torch.arange(0, size, 2, dtype=torch.float32) / size)
        parts.append(place.float()[:, None] * frequencies)
    return Rotation.of(torch.cat(parts, dim=1), pairing)


def test_what_is_left_far_out_is_the_rounding_of_their_angles():
    places, grid = joint_coordinates(100, 30, 21, "diagonal"), (100, 30, 21)
    theirs = diffusers_qwen(*grid)
    assert max(rope_differences(qwen_rotation(*grid), theirs)) <= 2e-7 * float(places.max()) * 4
    assert max(rope_differences(single(places, (16, 56, 56)), theirs)) <= 1e-6
    places = F.pad(torch.tensor([(256 * i // 7, 256 * j // 12) for i in range(7) for j in range(12)]), (0, 0, 3, 0))
    theirs = diffusers_cogview(3, 7, 12)
    assert max(rope_differences(cogview_rotation(3, 7, 12), theirs)) <= 2e-7 * float(places.max()) * 4
    assert max(rope_differences(single(places, (20, 20), "half-split"), theirs)) <= 1e-6


def part(rotation, rows):
    """Return the rotation of some of the tokens."""
    return replace(rotation, cos=rotation.cos[rows], sin=rotation.sin[rows])


@pytest.fixture
def calls(monkeypatch):
    """Return a function that begins to write down what a function of a module is given and returns."""

    def watch(module, name):
        function, found = getattr(module, name), []

        def watched(x, *arguments, **options):
            found.append((x.clone(), function(x, *arguments, **options)))
            return found[-1][1]

        monkeypatch.setattr(module, name, watched)
        return found

    return watch


TINY = {"num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}


def test_a_whole_flux_turns_its_queries_so(calls):
    from diffusers.models.transformers import transformer_flux

    found = calls(transformer_flux, "apply_rotary_emb")
    network = transformer_flux.FluxTransformer2DModel(
        **TINY, in_channels=16, num_single_layers=1, joint_attention_dim=24, pooled_projection_dim=20,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    patches = torch.tensor([(0.0, row, column) for row in range(3) for column in range(4)])
    with torch.no_grad():
        network(normal(2, 12, 16), normal(2, 5, 24), normal(2, 20), torch.ones(2), patches, torch.zeros(5, 3))
    rotate = AxialRope((4, 6, 6))(joint_coordinates(5, 3, 4, "origin"))
    assert len(found) == 4  # queries and keys of two blocks
    for given, turned in found:
        assert (rotate(given.transpose(1, 2)) - turned.transpose(1, 2)).abs().max() <= 1e-6


def test_a_whole_qwen_image_turns_its_queries_so(calls):
    from diffusers.models.transformers import transformer_qwenimage

    found = calls(transformer_qwenimage, "apply_rotary_emb_qwen")
    network = transformer_qwenimage.QwenImageTransformer2DModel(
        **TINY, in_channels=16, out_channels=4, joint_attention_dim=24, axes_dims_rope=(4, 6, 6)
    )
    with torch.no_grad():
        network(
            normal(2, 15, 16), normal(2, 6, 24), torch.ones(2, 6).bool(), torch.ones(2), img_shapes=[[(1, 3, 5)]] * 2
        )
    rotate = AxialRope((4, 6, 6))(joint_coordinates(6, 3, 5, "diagonal"))
    assert [given.shape[1] for given, _ in found] == [15, 15, 6, 6]
    for given, turned in found:
        rows = slice(6) if given.shape[1] == 6 else slice(6, None)
        assert (part(rotate, rows)(given.transpose(1, 2)) - turned.transpose(1, 2)).abs().max() <= 2e-6


def test_a_whole_lumina_turns_its_queries_so(calls):
    from diffusers.models.transformers import transformer_lumina2

    found = calls(transformer_lumina2, "apply_rotary_emb")
    network = transformer_lumina2.Lumina2Transformer2DModel(
        sample_size=8, in_channels=4, hidden_size=36, num_layers=1, num_refiner_layers=1, num_attention_heads=3,
        num_kv_heads=1, multiple_of=8, axes_dim_rope=(4, 4, 4), axes_lens=(30, 20, 20), cap_feat_dim=24,
    )  # fmt: skip
    heard = torch.arange(7) < torch.tensor([[5], [7]])
    with torch.no_grad():
        network(normal(2, 4, 6, 10), torch.ones(2), normal(2, 7, 24), heard)
    joint = [(given, turned) for given, turned in found if given.shape[1] == 7 + 15]
    assert [given.shape[2] for given, _ in joint] == [3, 1]  # heads of queries and of keys
    for given, turned in joint:
        for i, words in enumerate((5, 7)):
            rotate, tokens = AxialRope((4, 4, 4))(joint_coordinates(words, 3, 5, "continued")), slice(words + 15)
            assert (rotate(given[i, tokens].transpose(0, 1)) - turned[i, tokens].transpose(0, 1)).abs().max() <= 1e-6


def test_a_whole_cogview_turns_its_patches_so(calls):
    from diffusers.models import embeddings
    from diffusers.models.transformers.transformer_cogview4 import CogView4Transformer2DModel

    found = calls(embeddings, "apply_rotary_emb")
    network = CogView4Transformer2DModel(
        num_layers=1, attention_head_dim=40, num_attention_heads=2, in_channels=4, out_channels=4, sample_size=8,
        text_embed_dim=24, time_embed_dim=16, condition_dim=8,
    )  # fmt: skip
    sizes = [torch.full((1, 2), value) for value in (64.0, 64.0, 0.0)]
    with torch.no_grad():
        network(normal(1, 4, 6, 10), normal(1, 5, 24), torch.ones(1).long(), *sizes)
    assert [given.shape for given, _ in found] == [(1, 2, 15, 40)] * 2  # the five words are not among them
    for given, turned in found:
        rotate = part(cogview_rotation(5, 3, 5), slice(5, None))
        assert (rotate(given) - turned).abs().max() <= 5e-5  # float32 angles there, up to 204


FLIP = torch.tensor([0, 2, 1])


def moved(coordinates, rows, by, axes=(0, 1, 2)):
    """Return coordinates in which some tokens stand elsewhere."""
    coordinates = coordinates.clone()
    for axis in axes:
        coordinates[rows, axis] += by
    return coordinates


def joined(text, words=4, height=3, width=5):
    """Return the coordinates of a sentence on a grid of odd sides."""
    return joint_coordinates(words, height, width, text)


def other_half(sides):
    """Return a centred grid whose larger half lies after the middle where a side is odd."""
    return torch.cartesian_prod(*(torch.arange(side) - side // 2 for side in sides)).float()


AXES, WORDS, PATCHES = (16, 56, 56), slice(4), slice(4, None)
WRONG = {
    "rows and columns exchanged": ("FLUX.1", AXES, joined("origin")[:, FLIP], {}),
    "columns first among the patches": ("FLUX.1", AXES, joined("origin", 4, 5, 3)[:, FLIP], {}),
    "the other pairing": ("FLUX.1", AXES, joined("origin"), {"pairing": "half-split"}),
    "another base": ("FLUX.1", AXES, joined("origin"), {"base": 9000.0}),
    "channels of the axes exchanged": ("FLUX.1", (56, 16, 56), joined("origin"), {}),
    "words counted": ("FLUX.1", AXES, joined("continued"), {}),
    "words in a picture's first row": ("FLUX.1", AXES, moved(joined("origin"), WORDS, 1, (2,)), {}),
    "the centred grid off by one": ("Qwen-Image", AXES, moved(joined("diagonal"), PATCHES, 1, (1, 2)), {}),
    "its rows off by one": ("Qwen-Image", AXES, moved(joined("diagonal"), PATCHES, -1, (1,)), {}),
    "its larger half after the middle": (
        "Qwen-Image", AXES, torch.cat([diagonal_text(4, 3, 5), F.pad(other_half((3, 5)), (1, 0))]), {}),
    "counted from the corner": ("Qwen-Image", AXES, torch.cat([diagonal_text(4, 3, 5), joined("origin", 0)]), {}),
    "words one place late": ("Qwen-Image", AXES, moved(joined("diagonal"), WORDS, 1), {}),
    "words without frames": (
        "Qwen-Image", AXES, torch.cat([F.pad(diagonal_text(4, 3, 5, 2), (1, 0)), joined("diagonal", 0)]), {}),
    "the other pairing there": ("Qwen-Image", AXES, joined("diagonal"), {"pairing": "half-split"}),
    "picture one frame early": ("Lumina-Image 2.0", (32,) * 3, moved(joined("continued"), PATCHES, -1, (0,)), {}),
    "words at the origin": ("Lumina-Image 2.0", (32,) * 3, joined("origin"), {}),
    "a grid of the picture's size": (
        "CogView4, grid of 16", (20, 20), grid_coordinates(3, 5, before=4), {"pairing": "half-split"}),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_rotation_is_noticed(name):
    model, axes, coordinates, options = WRONG[name]
    assert max(rope_differences(AxialRope(axes, **options)(coordinates), MODELS[model][1](4, 3, 5))) > 1e-2


def test_the_right_one_of_each_model_beside_the_wrong_ones():
    for model, (ours, theirs) in MODELS.items():
        assert max(rope_differences(ours(4, 3, 5), theirs(4, 3, 5))) <= 1e-6, model
    assert torch.equal(joined("diagonal")[PATCHES, 1:], centred_grid(3, 5))


@pytest.mark.parametrize(("head_size", "tokens"), [(4, 6), (8, 3), (20, 15), (64, 9)])
@pytest.mark.parametrize("rule", LLAMA_RULES)
def test_other_heads_equal_llamas(rule, head_size, tokens):
    assert max(rope_differences(*llama_rotations(rule, head_size, tokens), seed=2)) <= 4e-6


def test_the_rules_differ_and_so_do_the_pairings():
    theirs = {rule: llama_rotations(rule)[1] for rule in LLAMA_RULES}
    for rule in LLAMA_RULES:
        ours = llama_rotations(rule)[0]
        for other in set(LLAMA_RULES) - {rule}:
            assert max(rope_differences(ours, theirs[other])) > 1e-2, (rule, other)
    neighbours = AxialRope((16,))(torch.arange(12)[:, None])
    tables, queries = rope_differences(neighbours, theirs["as trained"])
    assert tables <= 1e-6  # the same angles
    assert queries > 1  # of other pairs


LAYERS = [(32, 4, False), (32, 4, True), (40, 1, True), (24, 12, False), (96, 3, True)]


@pytest.mark.parametrize(("width", "num_heads", "bias"), LAYERS)
def test_a_converted_layer_asks_and_answers_like_llamas(width, num_heads, bias):
    assert max(llama_differences(width, num_heads, bias, seed=4)) <= 2e-6


def unpaired(state, num_heads):
    """Damage: no conversion at all."""
    return {
        "qkv.weight": torch.cat([state[f"{one}_proj.weight"] for one in "qkv"]),
        "qkv.bias": torch.cat([state[f"{one}_proj.bias"] for one in "qkv"]),
        "proj.weight": state["o_proj.weight"],
        "proj.bias": state["o_proj.bias"],
    }


def damaged(change):
    """Return a wrong converter, which changes the tensors of the right one's rows of queries, keys and values."""

    def convert(state, num_heads):
        found = attention_from_llama(state, num_heads)
        for name in ("qkv.weight", "qkv.bias"):
            found[name] = torch.cat(change(*found[name].chunk(3), num_heads))
        return found

    return convert


WRONG_LAYERS = {
    "no conversion": unpaired,
    "keys left as they were": damaged(lambda q, k, v, heads: (q, halves_from_pairs(k, heads), v)),
    "the wrong way round": damaged(lambda q, k, v, heads: (
        *(halves_from_pairs(halves_from_pairs(one, heads), heads) for one in (q, k)), v)),
    "values too": damaged(lambda q, k, v, heads: (q, k, pairs_from_halves(v, heads))),
    "all heads as one": damaged(lambda q, k, v, heads: (
        *(pairs_from_halves(halves_from_pairs(one, heads), 1) for one in (q, k)), v)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_LAYERS)
def test_a_wrong_conversion_is_noticed(name, monkeypatch):
    monkeypatch.setattr(official_rope, "attention_from_llama", WRONG_LAYERS[name])
    attention, output = llama_differences()
    assert output > 1e-2
    assert attention > 1e-2 or name == "values too"


def test_shared_keys_and_norms_are_converted_too():
    heads, shared, size, tokens = 6, 2, 8, 7
    x, places = normal(2, tokens, 20), torch.arange(tokens)[:, None]
    queries, keys = normal(heads * size, 20, seed=1), normal(shared * size, 20, seed=2)
    gain = 1 + 0.5 * normal(size, seed=3)

    def scores(queries, keys, gain, rotate):
        q, k = ((x @ weight.mT).unflatten(2, (-1, size)).transpose(1, 2) for weight in (queries, keys))
        q, k = (rotate(F.rms_norm(one, (size,), gain)) for one in (q, k))
        return attention_map(q, k.repeat_interleave(heads // shared, dim=1))

    halves, pairs = (AxialRope((size,), pairing=pairing)(places) for pairing in ("half-split", "interleaved"))
    expected = scores(queries, keys, gain, halves)
    turned = pairs_from_halves(queries, heads), pairs_from_halves(keys, shared)
    assert (scores(*turned, pairs_from_halves(gain, 1), pairs) - expected).abs().max() <= 1e-6
    assert (scores(*turned, gain, pairs) - expected).abs().max() > 1e-2
    assert (scores(queries, keys, gain, pairs) - expected).abs().max() > 1e-2


def test_a_training_step_equals_llamas():
    theirs, embed = build_llama_attention(24, 3, bias=True)
    randomise(theirs, torch.Generator().manual_seed(0))
    ours, x, places = SelfAttention(24, 3), normal(2, 6, 24), torch.arange(6)
    ours.load_state_dict(attention_from_llama(theirs.state_dict(), 3))
    theirs(x, embed(x, places[None]))[0].square().mean().backward()
    ours(x, AxialRope((8,))(places[:, None])).square().mean().backward()
    expected = attention_from_llama({name: weight.grad for name, weight in theirs.named_parameters()}, 3)
    for name, weight in ours.named_parameters():
        assert (weight.grad - expected[name]).abs().max() <= 1e-5 * max(1.0, float(expected[name].abs().max())), name


def test_a_layer_that_does_not_fit_is_refused():
    state = {f"{one}_proj.weight": normal(8, 8) for one in "qkvo"}
    assert set(attention_from_llama(state, 2)) == {"qkv.weight", "proj.weight", "proj.bias"}
    assert not attention_from_llama(state, 2)["proj.bias"].any()
    with pytest.raises(ValueError, match=r"attention_from_llama: .*missing: k_proj\.weight"):
        attention_from_llama({name: tensor for name, tensor in state.items() if name[0] != "k"}, 2)
    with pytest.raises(ValueError, match=r"unknown: q_norm\.weight"):
        attention_from_llama({**state, "q_norm.weight": torch.ones(4)}, 2)
    with pytest.raises(ValueError, match=r"missing: k_proj\.bias, o_proj\.bias, v_proj\.bias"):
        attention_from_llama({**state, "q_proj.bias": torch.zeros(8)}, 2)
    with pytest.raises(ValueError, match="4 channels of keys beside 8 of queries"):
        attention_from_llama({**state, "k_proj.weight": normal(4, 8), "v_proj.weight": normal(4, 8)}, 2)


# RoPE-ViT is a repository, not a package: its formulas are written out here, with complex numbers.


def rope_vit_axial(height, width, size, base=100.0):
    """Return e^(i angle) (N, size / 2) of naver-ai/rope-vit, models/vit_rope.py, compute_axial_cis.

    The first quarter of the head's numbers, as complex ones, turns with x, the column; the second with y, the row.
    """
    table = torch.empty(height * width, size // 2, dtype=torch.complex128)
    for row in range(height):
        for column in range(width):
            for k in range(size // 4):
                frequency = base ** (-4 * k / size)
                table[row * width + column, k] = complex(math.cos(column * frequency), math.sin(column * frequency))
                table[row * width + column, size // 4 + k] = complex(
                    math.cos(row * frequency), math.sin(row * frequency)
                )
    return table


def rope_vit_start(direction, size, base=10.0):
    """Return x's and y's frequencies (size / 2,) of a head, by init_random_2d_freqs of the same file."""
    x, y = [], []
    for turned in (direction, direction + math.pi / 2):
        for k in range(size // 4):
            x.append(base ** (-4 * k / size) * math.cos(turned))
            y.append(base ** (-4 * k / size) * math.sin(turned))
    return torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64)


def turned_as_complex(x, table):
    """Return x (..., N, d) whose neighbouring numbers, as complex ones, are multiplied by a table (..., N, d / 2)."""
    return torch.view_as_real(torch.view_as_complex(x.double().unflatten(-1, (-1, 2))) * table).flatten(-2)


@pytest.mark.parametrize(("height", "width", "size"), [(3, 3, 8), (2, 5, 16), (6, 1, 12)])
def test_axial_rotations_are_rope_vits_with_the_column_first(height, width, size):
    places, x = grid_coordinates(height, width), normal(2, 3, height * width, size)
    table = rope_vit_axial(height, width, size)
    ours = AxialRope((size // 2, size // 2), 100.0)
    assert (ours(places.flip(1))(x) - turned_as_complex(x, table)).abs().max() <= 1e-6
    assert (ours(places)(x) - turned_as_complex(x, table)).abs().max() > 0.1


DIRECTIONS = torch.tensor([0.3, 2.1, 4.4, 6.0])


@pytest.mark.parametrize(("height", "width", "size"), [(3, 3, 8), (2, 5, 16), (6, 2, 4)])
def test_mixed_rotations_are_rope_vits_with_the_column_first(height, width, size):
    places, x = grid_coordinates(height, width), normal(2, len(DIRECTIONS), height * width, size)
    row, column = places.double().unbind(dim=1)
    tables = []
    for direction in DIRECTIONS.tolist():
        along_x, along_y = rope_vit_start(direction, size)
        tables.append(torch.exp(1j * (column[:, None] * along_x + row[:, None] * along_y)))
    frequencies = mixed_frequencies(DIRECTIONS, size)
    ours = Rotation.of(mixed_angles(places.flip(1), frequencies))
    assert (ours(x) - turned_as_complex(x, torch.stack(tables))).abs().max() <= 3e-6  # our frequencies are float32
    other = Rotation.of(mixed_angles(places, frequencies))
    assert (other(x) - turned_as_complex(x, torch.stack(tables))).abs().max() > 0.1


@pytest.mark.parametrize("base", [10.0, 100.0])
def test_mixed_in_direction_zero_is_axial(base):
    places, x = grid_coordinates(4, 3), normal(2, 2, 12, 16)
    mixed = Rotation.of(mixed_angles(places, mixed_frequencies(torch.zeros(2), 16, base)))
    assert (mixed(x) - AxialRope((8, 8), base)(places)(x)).abs().max() <= 2e-6
    turned = Rotation.of(mixed_angles(places, mixed_frequencies(torch.full((2,), 0.1), 16, base)))
    assert (turned(x) - AxialRope((8, 8), base)(places)(x)).abs().max() > 0.1
