"""The experiments run at the smallest size, resume, and what they recorded says how it was made."""

import hashlib
import importlib
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lesson_lib import results, train
from lesson_lib import shapes as shapes_module
from lesson_lib.data import digits, shapes
from lesson_lib.dit import DiTConfig
from lesson_lib.experiments import autoencoders, classifiers, dit_grid, dit_training, rope, shipped, text_to_image
from lesson_lib.experiments.__main__ import EXPERIMENTS, main
from lesson_lib.experiments.autoencoders import reconstruction_quality
from lesson_lib.experiments.run import Experiment, run
from lesson_lib.guidance import Guided
from lesson_lib.samplers import SAMPLERS
from lesson_lib.setup import Budget
from lesson_lib.text import split_words

SMOKE = Budget("smoke", torch.device("cpu"))
ALL = {e.name: e for name in EXPERIMENTS for e in importlib.import_module(f"lesson_lib.experiments.{name}").EXPERIMENTS}
TINY = replace(DiTConfig.shapes16(), hidden_size=16, depth=1, num_heads=2)


@pytest.fixture(autouse=True)
def networks(tmp_path, monkeypatch):
    """Return the folder of this test's trained networks: none is there before it, and none stays in build/."""
    folder = tmp_path / "networks"
    for module in (dit_training, text_to_image):
        monkeypatch.setattr(module, "NETWORKS", folder)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # twenty megabytes each


@pytest.fixture
def few_scenes(monkeypatch):
    """Let experiments with captions draw 80 scenes, enough for FD-judge, where they ask for thousands."""
    draw = text_to_image.scenes
    monkeypatch.setattr(text_to_image, "scenes", lambda kind, count, seed: draw(kind, min(count, 80), seed))


@pytest.mark.parametrize("name", list(ALL))
def test_every_experiment_runs_at_the_smallest_size(name, tmp_path, monkeypatch, few_scenes):
    for module in (dit_training, rope, text_to_image):
        monkeypatch.setattr(module, "SAMPLING_STEPS", 2)  # that they run is the question, not what they draw
    record = run(ALL[name], SMOKE, seeds=2, out=tmp_path, parts=tmp_path / "parts", progress=False)
    assert results.load(name, tmp_path) == record
    assert list(record.variants) == list(ALL[name].variants)
    for measured in record.variants.values():
        assert set(measured) == set(ALL[name].metrics)


@pytest.mark.parametrize("name", list(ALL))
def test_every_recorded_experiment_has_five_seeds_and_its_present_shape(name):
    record = results.load(name)
    assert len(record.seeds) >= 5
    assert record.budget != "smoke"
    assert list(record.variants) == list(ALL[name].variants)
    assert list(record.metrics) == list(ALL[name].metrics)
    if ALL[name].x is not None:
        assert record.x == {"name": ALL[name].x[0], "values": ALL[name].x[1]}


def test_a_stopped_experiment_resumes_where_it_was(tmp_path):
    calls = []

    def measure(variant, seed, configuration, budget):
        calls.append((variant, seed))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return {"score": float(seed) + (variant == "b")}

    experiment = Experiment(
        "toy", "Which?", ("a", "b"), {"score": "a number"}, lambda budget: {"steps": 1}, measure, (results,)
    )
    with pytest.raises(KeyboardInterrupt):
        run(experiment, SMOKE, seeds=2, out=tmp_path, parts=tmp_path / "parts", progress=False)
    assert not (tmp_path / "toy.json").exists()
    record = run(experiment, SMOKE, seeds=2, out=tmp_path, parts=tmp_path / "parts", progress=False)
    assert calls == [("a", 0), ("b", 0), ("a", 1), ("a", 1), ("b", 1)]
    assert record.variants == {"a": {"score": [0.0, 1.0]}, "b": {"score": [1.0, 2.0]}}


def test_one_seed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="difference from luck"):
        run(ALL["guidance_scale"], SMOKE, seeds=1, out=tmp_path, parts=tmp_path, progress=False)


def test_the_command_line_names_what_there_is(capsys):
    with pytest.raises(SystemExit):
        main(["nothing"])
    told = capsys.readouterr().err
    assert "sampler_steps" in told
    assert "pixel_latent" in told


def test_one_record_can_be_made_alone(tmp_path):
    main(["injection_time", "--budget", "smoke", "--seeds", "2", "--out", str(tmp_path)])
    assert [path.name for path in tmp_path.glob("*.json")] == ["injection_time.json"]


@pytest.mark.parametrize("name", list(shipped.RECIPES))
def test_shipped_models_load_and_sample(name):
    model, process = shipped.load_shipped(name)
    recipe = shipped.RECIPES[name]
    data = shipped.DATA_SETS[recipe.data]
    assert model.num_classes == data.classes
    sampler = SAMPLERS["euler" if recipe.predicts == "flow" else "ddim"]
    noise = torch.randn(2, *data.shape, generator=torch.Generator().manual_seed(0))
    images = sampler(Guided(model, torch.tensor([0, data.classes - 1]), 2.0), noise, 2, process)
    assert images.shape == noise.shape
    assert torch.isfinite(images).all()


@pytest.mark.parametrize("name", list(shipped.VAE_RECIPES))
def test_shipped_autoencoders_load_and_go_there_and_back(name):
    vae = shipped.load_vae(name)
    images = torch.rand(2, vae.config.in_channels, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = vae.to_latents(images)
    assert latents.shape == (2, 4, 8, 8)
    assert vae.from_latents(latents).shape == images.shape
    with pytest.raises(ValueError, match="vae-shapes, vae-fashion"):
        shipped.load_vae("vae-cats")


def test_the_shipped_autoencoder_of_shapes_keeps_what_matters():
    quality = reconstruction_quality("vae-shapes", SMOKE)
    assert quality["psnr"] >= 28
    assert quality["attributes read"] >= 0.97
    assert 0.8 < quality["sharpness"] < 1.1


def test_the_shipped_latent_model_draws_what_is_asked():
    hits, count = shipped.quality("latent-shapes", 1.0, Budget("laptop", torch.device("cpu")))
    assert hits / count >= 0.95


def test_an_autoencoder_is_shipped_with_its_card_and_figure(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoders, "ROOT", tmp_path)
    shipped.ship("vae-shapes", SMOKE, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert hashlib.sha256((tmp_path / "vae-shapes.safetensors").read_bytes()).hexdigest() in card
    assert (tmp_path / "vae-shapes.png").exists()
    assert shipped.load_vae("vae-shapes", folder=tmp_path).config.scale != 1


def test_shipping_writes_a_model_that_loads_and_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("# Checkpoints\n\n## digits-flow.safetensors\n\nold\n\n## other\n\nkept\n")
    shipped.ship("digits-flow", SMOKE, tmp_path)
    model, _ = shipped.load_shipped("digits-flow", folder=tmp_path)
    assert model.num_classes == 10
    card = (tmp_path / "README.md").read_text()
    assert hashlib.sha256((tmp_path / "digits-flow.safetensors").read_bytes()).hexdigest() in card
    assert card.count("## digits-flow.safetensors") == 1
    assert "old" not in card
    assert "kept" in card


def test_a_smoke_run_never_replaces_what_is_shipped(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    monkeypatch.setattr("lesson_lib.experiments.run.ROOT", tmp_path)
    before = (shipped.CHECKPOINTS / "digits-flow.safetensors").read_bytes()
    shipped.ship("digits-flow", SMOKE)
    assert (shipped.CHECKPOINTS / "digits-flow.safetensors").read_bytes() == before
    assert (tmp_path / "build" / "checkpoints" / "digits-flow.safetensors").exists()


def test_an_unknown_model_lists_the_known_ones():
    with pytest.raises(ValueError, match="digits-flow, digits-eps"):
        shipped.load_shipped("cats")


def test_the_shipped_transformer_draws_what_is_asked():
    hits, count = shipped.quality("dit-shapes", 2.0, Budget("laptop", torch.device("cpu")))
    assert hits / count >= 0.97


@pytest.mark.parametrize("name", list(classifiers.VIT_RECIPES))
def test_shipped_classifiers_load_and_read(name):
    vit = classifiers.load_vit(name)
    config = vit.config
    logits = vit(torch.zeros(2, config.in_channels, config.image_size, config.image_size))
    assert logits.shape == (2, 10)
    with pytest.raises(ValueError, match="vit-digits, vit-fashion"):
        classifiers.load_vit("vit-cats")


def test_the_shipped_classifier_reads_digits_that_it_never_saw():
    held_out = digits("test")
    assert classifiers.right(classifiers.load_vit("vit-digits"), held_out.images, held_out.labels) >= 380  # of 400


def test_a_transformer_is_shipped_with_its_card_and_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    shipped.ship("dit-shapes", SMOKE, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert hashlib.sha256((tmp_path / "dit-shapes.safetensors").read_bytes()).hexdigest() in card
    assert (tmp_path / "dit-shapes.png").exists()
    assert "the judge reads" in card


def test_the_fashion_models_learn_from_a_folder_of_parquet_files(tmp_path, monkeypatch):
    folder = os.environ.get("COURSE_DATA")
    if not folder:
        pytest.skip("COURSE_DATA names no folder with fashion-mnist")
    monkeypatch.setattr(shipped, "ROOT", tmp_path)
    monkeypatch.setattr(classifiers, "ROOT", tmp_path)
    for name in ("vit-fashion", "dit-fashion"):
        shipped.ship(name, SMOKE, tmp_path, str(Path(folder) / "fashion-mnist"))
        assert f"## {name}.safetensors" in (tmp_path / "README.md").read_text()


def grid_record(seeds):
    """A grid whose distances fall with the logarithm of the arithmetic, with another noise for each seed."""
    macs = {name: [float(10**place)] * len(seeds) for place, name in enumerate("abcd")}
    fd = {name: [10.0 - 2 * place + 0.1 * seed * (-1) ** place for seed in seeds] for place, name in enumerate("abcd")}
    return results.Record(
        experiment="toy", title="?", metrics={"fd_judge": "a distance", "macs_millions": "work"}, configuration={},
        sources_sha256="0" * 64, hardware="a CPU", budget="laptop", seeds=list(seeds), seconds=1.0,
        variants={name: {"fd_judge": fd[name], "macs_millions": macs[name]} for name in "abcd"},
    )  # fmt: skip


def test_the_correlation_of_a_grid_is_pearsons_over_its_cells():
    found = dit_grid.correlation(grid_record([1, 2, 3]))
    mean, low, high = found["log MACs"]
    assert -1 < low < mean < high < -0.9
    assert found["MACs"][0] == pytest.approx(-0.83, abs=0.05)


@pytest.fixture
def steps(monkeypatch):
    """Count the training steps that are taken, on a few pictures; the smoke budget takes 4 in all."""
    taken, advance = [], train._Run.advance

    def counted(self):
        taken.append(self.step)
        advance(self)

    monkeypatch.setattr(train._Run, "advance", counted)
    monkeypatch.setattr(dit_training, "draw_shapes", lambda count, **options: shapes(64, **options))
    return taken


def weights(model):
    return torch.cat([tensor.flatten() for tensor in model.state_dict().values()])


def test_a_finished_network_is_loaded_and_not_trained_again(steps, networks):
    first = dit_training.trained(TINY, 0, (1.0,), SMOKE, 8)
    assert steps == [0, 1, 2, 3]
    again = dit_training.trained(TINY, 0, (1.0,), SMOKE, 8)
    assert steps == [0, 1, 2, 3]
    assert torch.equal(weights(again), weights(first))
    assert not again.training
    assert len(list(networks.iterdir())) == 1


def test_a_share_continues_the_one_before_it(steps, networks):
    whole = dit_training.trained(TINY, 0, (1.0,), SMOKE, 8)
    shutil.rmtree(networks)
    steps.clear()
    shares = (0.25, 0.5, 1.0)
    for number, (wanted, name) in enumerate([([0], "-1."), ([0, 1], "-2."), ([0, 1, 2, 3], "-4.")], start=1):
        model = dit_training.trained(TINY, 0, shares[:number], SMOKE, 8)
        assert steps == wanted
        (file,) = networks.iterdir()
        assert name in file.name
    assert torch.equal(weights(model), weights(whole))
    assert torch.equal(weights(dit_training.trained(TINY, 0, (1.0,), SMOKE, 8)), weights(whole))
    assert steps == [0, 1, 2, 3]


def test_whatever_decides_the_outcome_makes_another_network(steps, networks, monkeypatch):
    dit_training.trained(TINY, 0, (1.0,), SMOKE, 8)

    def trains_anew(config=TINY, seed=0):
        steps.clear()
        dit_training.trained(config, seed, (1.0,), SMOKE, 8)
        return steps == [0, 1, 2, 3]

    assert not trains_anew()
    assert trains_anew(seed=1)
    assert trains_anew(replace(TINY, positions="axial"))
    assert trains_anew(replace(TINY, positions="axial", rope_base=10.0))
    plain, count = dit_training.settings, len(list(networks.iterdir()))
    for name, value in (("lr", 1e-3), ("batch_size", 16), ("warmup", 10), ("ema", 0.9), ("times", "uniform")):
        with monkeypatch.context() as patch:
            changed = {name: value}
            patch.setattr(dit_training, "settings", lambda *given, changed=changed: plain(*given) | changed)
            assert trains_anew(), name
    with monkeypatch.context() as patch:
        patch.setattr(dit_training, "sources_sha256", lambda *modules: "another text")
        assert trains_anew()
    assert not trains_anew()
    assert len(list(networks.iterdir())) == count + 6


def test_a_learned_table_may_start_larger_and_all_else_is_the_same():
    torch.manual_seed(0)
    plain = dit_training.build(replace(DiTConfig.shapes16(), positions="learned"))
    torch.manual_seed(0)
    larger = dit_training.build(dit_training.LearnedTable.shapes16())
    one, other = plain.state_dict(), larger.state_dict()
    assert [name for name in one if not torch.equal(one[name], other[name])] == ["pos_embed"]
    assert float(one["pos_embed"].std()) == pytest.approx(0.02, rel=0.1)
    assert float(other["pos_embed"].std()) == pytest.approx(0.5, rel=0.1)
    assert larger.pos_embed.requires_grad


def test_a_reading_counts_objects_and_those_that_were_asked_for():
    one, two = shapes(3, seed=5), shapes(1, objects=2, seed=1)
    assert two.attributes["colour"][0, 0] != two.attributes["colour"][0, 1]
    images = torch.cat([one.images, two.images])
    labels = torch.cat([one.labels[:2], (one.labels[2:] + 4) % 24, two.labels])
    found = rope.reading(images, labels, torch.device("cpu"))
    assert found == pytest.approx({"objects": 5 / 4, "one": 3 / 4, "right": 3 / 5, "accuracy": 2 / 4})
    assert set(found) == set(rope.SIZE_METRICS)


def test_a_network_draws_pictures_of_another_shape_and_the_same_ones_again():
    torch.manual_seed(0)
    model, labels = dit_training.build(replace(TINY, positions="axial")), torch.tensor([0, 23])
    images = rope.draw(model, "interpolate", 24, 16, labels, seed=0)
    assert images.shape == (2, 3, 24, 16)
    assert torch.equal(rope.draw(model, "interpolate", 24, 16, labels, seed=0), images)
    assert not torch.equal(rope.draw(model, "interpolate", 24, 16, labels, seed=1), images)
    assert (model.height, model.width) == (16, 16)


def test_the_two_tasks_of_one_layer_ask_for_what_they_say():
    diagonal, offset = (rope.task(name).unflatten(1, (7, 7)).unflatten(0, (7, 7)) for name in rope.TASK_METRICS)
    for row in range(7):
        for column in range(7):
            line = torch.eye(7).roll(column - row, 1).triu(column - row) if column >= row else None
            if line is not None:
                torch.testing.assert_close(diagonal[row, column], line / line.sum())
            wanted = torch.zeros(7, 7)
            if max(row, column) < 5:
                wanted[row + 2, column + 2] = 1
            assert torch.equal(offset[row, column], wanted)
    torch.testing.assert_close(diagonal, diagonal.permute(1, 0, 3, 2))


# Texts

TINY_TEXT = text_to_image.joint(text_to_image.Size(32, 2, 1.0, double=1))


@pytest.mark.parametrize(
    ("kind", "counts", "held_out"),
    [("known", {1, 2}, 0), ("one", {1}, 0), ("two", {2}, 0), ("new one", {1}, 1), ("new two", {2}, 1)],
)
def test_scenes_are_what_they_say(kind, counts, held_out):
    found = text_to_image.scenes(kind, 80, 7)
    known, objects = found.attributes, set()
    assert found.images.shape == (80, 3, 16, 16)
    assert set(known["count"].tolist()) == counts
    columns = (known[key].tolist() for key in ("colour", "shape", "size", "count"))
    for colours, names, sizes, count in zip(*columns, strict=True):
        shown = [(shapes_module.COLOURS[colours[n]], shapes_module.SHAPES[names[n]]) for n in range(count)]
        assert sum(pair in text_to_image.HELD_OUT for pair in shown) == held_out
        assert set(sizes[:count]) == {shapes_module.SIZES.index("large")}
        objects |= set(shown)
    assert {colour for colour, _ in objects} >= {colour for colour, _ in text_to_image.HELD_OUT}
    assert {name for _, name in objects} == set(shapes_module.SHAPES)  # each part is known, if not each combination
    colours = "|".join(shapes_module.COLOURS)
    asked = shapes_module.read_captions([re.sub(rf"({colours})", r"a large \1", words) for words in found.captions])
    for key in ("count", "colour", "shape", "size", "relation", "mentioned_first"):
        assert torch.equal(asked[key], known[key]), key
    assert torch.equal(found.labels, shapes_module.class_of(asked))
    assert text_to_image.right(found.images, found) > 0.9  # the pictures show it too
    assert text_to_image.right(found.images.roll(1, 0), found) < 0.3


def test_held_out_are_one_of_every_shape_in_four_colours():
    colours, names = (set(part) for part in zip(*text_to_image.HELD_OUT, strict=True))
    assert len(text_to_image.HELD_OUT) == len(colours) == len(names) == 4


def test_scenes_that_are_too_rare_are_no_silent_few(monkeypatch):
    monkeypatch.setattr(text_to_image, "HELD_OUT", ())
    with pytest.raises(ValueError, match="only 0 of 3 scenes of kind 'new two'"):
        text_to_image.scenes("new two", 3, 99)


def test_plain_captions_have_twenty_words_without_articles_and_sizes():
    assert text_to_image.plain("a large red circle above a large blue square") == "red circle above blue square"
    assert text_to_image.plain("a large red cross at the top left") == "red cross at the top left"
    tokenizer = text_to_image.tokenizer_of_plain()
    assert len(tokenizer.words) == 20
    assert not {"a", "large", "small"} & set(tokenizer.words)
    rows = tokenizer([words for kind in ("known", "new two") for words in text_to_image.scenes(kind, 80, 7).captions])
    assert int((rows > 0).sum(dim=1).max()) == rows.shape[1] == 7
    assert tokenizer(["red circle left of blue square"]).all()


@pytest.mark.parametrize(
    ("variants", "what"),
    [(text_to_image.EQUAL_PARAMETERS, "parameters"), (text_to_image.EQUAL_COMPUTE, "macs_millions")],
)
def test_networks_that_are_compared_cost_the_same(variants, what):
    costs = {name: text_to_image.cost(config)[what] for name, config in variants.items()}
    assert costs == {name: pytest.approx(costs["double-stream"], rel=0.03) for name in variants}
    assert list(variants) == [
        "one vector",
        "cross-attention",
        "one sentence",
        "double-stream",
        "single-stream",
        "hybrid",
    ]


def test_a_cost_is_that_of_the_network_without_its_encoder():
    model = text_to_image.build(TINY_TEXT)
    found = text_to_image.cost(TINY_TEXT)
    assert found["parameters"] == sum(weight.numel() for weight in model.network.parameters())
    shared = [text_to_image.cost(config)["parameters"] for config in text_to_image.SHARING.values()]
    assert shared == sorted(shared, reverse=True)
    assert shared[-1] < shared[0] / 3


@pytest.mark.parametrize("name", list(text_to_image.EQUAL_PARAMETERS))
def test_every_way_to_hear_a_text_hears_it_in_its_own_way(name):
    model = text_to_image.build(text_to_image.EQUAL_PARAMETERS[name])
    assert (model.hears_pooled, model.hears_words) == (name != "cross-attention", name != "one vector")
    ids = model.encoder.tokenizer(["red circle above blue square", ""])
    assert model(torch.zeros(2, 3, 16, 16), torch.zeros(2), ids).shape == (2, 3, 16, 16)


def test_a_text_network_continues_an_earlier_share_and_is_found_again(steps, networks, few_scenes):
    whole = text_to_image.trained(TINY_TEXT, 0, 1.0, SMOKE)
    assert steps == [0, 1, 2, 3]
    assert not whole.training
    shutil.rmtree(networks)
    steps.clear()
    half = text_to_image.trained(TINY_TEXT, 0, 0.5, SMOKE)
    assert steps == [0, 1]
    continued = text_to_image.trained(TINY_TEXT, 0, 1.0, SMOKE)
    assert steps == [0, 1, 2, 3]
    assert torch.equal(weights(continued), weights(whole))
    assert not torch.equal(weights(half), weights(whole))
    for share, model in ((1.0, whole), (0.5, half)):
        assert torch.equal(weights(text_to_image.trained(TINY_TEXT, 0, share, SMOKE)), weights(model))
    assert steps == [0, 1, 2, 3]
    assert len(list(networks.iterdir())) == 2


def test_whatever_decides_the_outcome_makes_another_text_network(steps, networks, few_scenes, monkeypatch):
    text_to_image.trained(TINY_TEXT, 0, 1.0, SMOKE)

    def trains_anew(config=TINY_TEXT, seed=0, **changes):
        steps.clear()
        text_to_image.trained(config, seed, 1.0, SMOKE, **changes)
        return steps == [0, 1, 2, 3]

    assert not trains_anew()
    assert trains_anew(seed=1)
    assert trains_anew(replace(TINY_TEXT, qk_norm=False))
    assert trains_anew(dropout=0.3)
    assert trains_anew(frozen=True)
    plain = text_to_image.settings
    for name, value in (("lr", 1e-3), ("batch_size", 16), ("warmup", 10), ("ema", 0.9), ("times", "uniform")):
        with monkeypatch.context() as patch:
            changed = {name: value}
            patch.setattr(text_to_image, "settings", lambda *given, changed=changed: plain(*given) | changed)
            assert trains_anew(), name
    assert not trains_anew()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_frozen_encoder_stays_as_it_was_drawn(frozen, few_scenes):
    torch.manual_seed(0)
    drawn = text_to_image.build(TINY_TEXT, frozen)
    model = text_to_image.trained(TINY_TEXT, 0, 1.0, SMOKE, frozen=frozen)
    assert torch.equal(weights(model.encoder), weights(drawn.encoder)) == frozen
    assert not torch.equal(weights(model.network), weights(drawn.network))


def test_drawing_repeats_itself_and_hears_caption_scale_and_negative_prompt(monkeypatch):
    monkeypatch.setattr(text_to_image, "SAMPLING_STEPS", 2)
    torch.manual_seed(0)
    model, captions = text_to_image.build(TINY_TEXT).eval(), ["red circle above blue square", "green cross at the top"]
    for weight in model.network.parameters():
        weight.data += 0.05 * torch.randn(weight.shape)
    images = text_to_image.draw(model, captions, 0, 2.0)
    assert images.shape == (2, 3, 16, 16)
    assert images.abs().max() <= 1
    assert torch.equal(text_to_image.draw(model, captions, 0, 2.0), images)
    for change in ({"seed": 1}, {"scale": 1.0}, {"nothing": "pink circle"}, {"captions": captions[::-1]}):
        assert not torch.equal(
            text_to_image.draw(model, **{"captions": captions, "seed": 0, "scale": 2.0, **change}), images
        )
    alone = text_to_image.draw(model, captions, 0, 1.0)
    assert torch.equal(text_to_image.draw(model, captions, 0, 1.0, "pink circle"), alone)  # no guidance, no negative


def test_words_that_act_on_their_own_objects_are_told_from_those_that_do_not():
    asked = text_to_image.scenes("two", 40, 7)
    words = [split_words(caption) for caption in asked.captions]
    cover = text_to_image.patch_cover(text_to_image.masks(asked.attributes, torch.zeros(40, 2, 3), size=16), 4)
    alone = ((cover > 0) & (cover.flip(1) == 0)).float().flatten(2)  # patches with one of the two objects
    names = {"colour": shapes_module.COLOURS, "shape": shapes_module.SHAPES}
    for kind in names:
        own, other = torch.zeros(2, 40, 2, 16, 7)
        for row, sentence in enumerate(words):
            first = int(asked.attributes["mentioned_first"][row])
            for place, n in enumerate(n for n, word in enumerate(sentence) if word in names[kind]):
                own[row, :, :, n] = alone[row, first if place == 0 else 1 - first]
                other[row, :, :, n] = alone[row, 1 - first if place == 0 else first]
        for attention, share in ((own, 1.0), (other, 0.0), (torch.ones(40, 2, 16, 7), 0.5)):
            found = text_to_image._on_object(attention, 7, words, asked, cover, kind)
            assert found == pytest.approx(share, abs=1e-6)
