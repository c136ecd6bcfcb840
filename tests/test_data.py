"""The data: shapes whose truth is known, digits, 2-D toys, and any set of images through one door."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lesson_lib import data
from lesson_lib import shapes as drawing
from lesson_lib.data import COLOURS, PLACES, RGB, SHAPES, digits, hub, load_shapes, scenes, shapes, toy_points
from lesson_lib.shapes import BACKGROUND, CLASS_NAMES, ImageSet, draw_attributes, masks, read_captions, render


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test reads or writes the user's cache, and none asks the network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.mark.parametrize("objects", [1, 2, (1, 2)])
@pytest.mark.parametrize("size", [16, 32])
def test_shapes_keep_the_contract(size: int, objects: int | tuple[int, ...]) -> None:
    drawn = shapes(300, size=size, objects=objects, seed=4)
    assert drawn.images.shape == (300, 3, size, size)
    assert drawn.images.dtype == torch.float32
    assert -1 <= drawn.images.min() < drawn.images.max() <= 1
    assert drawn.labels.shape == (300,)
    assert drawn.labels.dtype == torch.int64
    assert len(drawn.captions) == 300
    assert drawn.class_names == CLASS_NAMES
    for key in ("count", "relation", "mentioned_first", "colour", "shape", "size", "place"):
        pair = key in ("colour", "shape", "size", "place")
        assert drawn.attributes[key].shape == ((300, 2) if pair else (300,))
        assert drawn.attributes[key].dtype == torch.int64


def test_a_seed_decides_everything() -> None:
    first, second, other = shapes(200, objects=(1, 2)), shapes(200, objects=(1, 2)), shapes(200, objects=(1, 2), seed=1)
    assert torch.equal(first.images, second.images)
    assert first.captions == second.captions
    assert not torch.equal(first.images, other.images)
    longer = shapes(333, objects=(1, 2))
    assert torch.equal(longer.images[:200], first.images)
    assert longer.captions[:200] == first.captions


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    shapes(10)
    assert torch.equal(state, torch.get_rng_state())


def test_both_sizes_show_the_same_scenes() -> None:
    large, small = shapes(500, size=32, objects=(1, 2), seed=2), shapes(500, size=16, objects=(1, 2), seed=2)
    assert large.captions == small.captions
    assert all(torch.equal(large.attributes[key], small.attributes[key]) for key in large.attributes)
    difference = (F.avg_pool2d(large.images, 2) - small.images).abs()
    assert difference.max() < 0.2  # of a range of 2: edges are rounded a little differently
    assert difference.mean() < 0.005


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_change_the_scenes() -> None:
    here, there = shapes(500, objects=(1, 2)), shapes(500, objects=(1, 2), device="cuda")
    assert there.images.device.type == there.labels.device.type == "cuda"
    assert here.captions == there.captions
    assert torch.allclose(here.images, there.images.cpu(), atol=1e-4)


def test_24_classes_all_occur_and_evenly() -> None:
    drawn = shapes(24_000, size=16)
    assert len(set(drawn.class_names)) == 24
    counts = drawn.labels.bincount(minlength=24)
    assert counts.min() > 800
    assert counts.max() < 1200
    label = int(drawn.labels[0])
    assert drawn.class_names[label] == f"{COLOURS[label // 4]} {SHAPES[label % 4]}"
    assert drawn.class_names[label] in drawn.captions[0]


def test_every_choice_occurs_evenly() -> None:
    attributes = shapes(20_000, size=16, objects=2).attributes
    for key, choices in {"colour": 6, "shape": 4, "size": 2}.items():
        for slot in (0, 1):
            shares = attributes[key][:, slot].bincount(minlength=choices) / 20_000
            assert (shares - 1 / choices).abs().max() < 0.02
    for key in ("relation", "mentioned_first"):
        assert abs(attributes[key].float().mean() - 0.5) < 0.02
    single = shapes(20_000, size=16).attributes["place"][:, 0].bincount(minlength=9) / 20_000
    assert (single - 1 / 9).abs().max() < 0.02
    mixture = shapes(20_000, size=16, objects=(1, 2)).attributes["count"].float().mean()
    assert abs(mixture - 1.5) < 0.02


@pytest.mark.parametrize("size", [16, 32])
def test_objects_never_share_a_pixel(size: int) -> None:
    attributes, wobble = draw_attributes(5000, 2, torch.Generator().manual_seed(0))
    for strayed in (wobble, wobble.sign()):  # as drawn, and every coordinate at one of its two limits
        covered = masks(attributes, strayed, size=size)
        assert (covered.amax(dim=(2, 3)) > 0.5).all()
        assert (covered.prod(dim=1) == 0).all()


def test_large_objects_pressed_together_still_leave_a_gap() -> None:
    captions = [
        f"a large {COLOURS[0]} {a} {relation} a large {COLOURS[1]} {b}"
        for a in SHAPES
        for b in SHAPES
        for relation in ("above", "left of")
    ]
    attributes = read_captions(captions)
    wobble = torch.ones(len(captions), 2, 3)
    wobble[:, 1, :2] = -1  # towards each other, and as large as they get
    for size in (16, 32):
        assert (masks(attributes, wobble, size=size).prod(dim=1) == 0).all()


def test_no_object_leaves_the_picture() -> None:
    attributes, wobble = draw_attributes(5000, (1, 2), torch.Generator().manual_seed(1))
    x, y, radius = drawing._layout(attributes, wobble.sign()).unbind(-1)
    present = attributes["colour"] >= 0
    for centre in (x[present], y[present]):
        assert ((centre - radius[present]) >= 0).all()
        assert ((centre + radius[present]) <= 1).all()


def _pixels_of(image: Tensor, colour: str) -> Tensor:
    """Where a picture shows a colour rather than the ground or another colour: (H, W) of bool."""
    palette = torch.tensor([*RGB, (BACKGROUND,) * 3]) / 127.5 - 1
    nearest = (image[None] - palette[:, :, None, None]).square().sum(dim=1).argmin(dim=0)
    exact = (image - palette[COLOURS.index(colour)][:, None, None]).abs().amax(dim=0) < 0.02
    return (nearest == COLOURS.index(colour)) & exact


def _middle(mask: Tensor) -> tuple[float, float]:
    y, x = mask.nonzero().float().mean(dim=0).tolist()
    return x + 0.5, y + 0.5


def test_captions_of_two_objects_agree_with_the_pixels() -> None:
    drawn = shapes(400, objects=2, seed=8)
    wording = re.compile(r"a (\w+) (\w+) (\w+) (above|below|left of|right of) a (\w+) (\w+) (\w+)")
    seen = set()
    for image, caption in zip(drawn.images, drawn.captions, strict=True):
        found = wording.fullmatch(caption)
        assert found, caption
        _, colour, _, relation, _, other, _ = found.groups()
        if colour == other:
            continue
        (x, y), (other_x, other_y) = _middle(_pixels_of(image, colour)), _middle(_pixels_of(image, other))
        across, down = other_x - x, other_y - y
        if abs(down) > abs(across):
            assert relation == ("below" if down < 0 else "above"), caption
        else:
            assert relation == ("right of" if across < 0 else "left of"), caption
        seen.add(relation)
    assert seen == {"above", "below", "left of", "right of"}


def _look(image: Tensor, colour: str) -> tuple[str, str]:
    """Judge size and shape of a single object by its box, its area and its balance, not by how it was drawn."""
    ground, paint = torch.tensor(BACKGROUND / 127.5 - 1), torch.tensor(RGB[COLOURS.index(colour)]) / 127.5 - 1
    away = paint - ground
    covered = ((image - ground) * away[:, None, None]).sum(dim=0) / away.square().sum()  # share of every pixel
    width, height = float(covered.amax(dim=0).sum()), float(covered.amax(dim=1).sum())
    fill = float(covered.sum()) / (width * height)
    weight = covered.sum(dim=1) / covered.sum()
    y = torch.arange(32) - (weight * torch.arange(32)).sum()
    skew = float((weight * y**3).sum() / (weight * y**2).sum() ** 1.5)  # 0 for what is the same upside down
    shape = "triangle" if skew < -0.3 else "cross" if fill < 0.65 else "circle" if fill < 0.9 else "square"
    return ("large" if width > 10.5 else "small"), shape


def test_captions_of_single_objects_agree_with_the_pixels() -> None:
    drawn = shapes(600, seed=9)
    for image, caption in zip(drawn.images, drawn.captions, strict=True):
        found = re.fullmatch(r"a (\w+) (\w+) (\w+) at the ([a-z ]+)", caption)
        assert found, caption
        size, colour, shape, place = found.groups()
        mask = _pixels_of(image, colour)
        assert mask.any(), caption
        assert not any(_pixels_of(image, other).any() for other in COLOURS if other != colour)
        x, y = _middle(mask)
        assert PLACES[3 * min(int(y / 32 * 3), 2) + min(int(x / 32 * 3), 2)] == place, caption
        assert _look(image, colour) == (size, shape), caption


def test_colours_are_far_apart() -> None:
    palette = torch.tensor([*RGB, (BACKGROUND,) * 3]).float()
    distance = torch.cdist(palette, palette) + 1000 * torch.eye(len(palette))
    assert distance.min() > 140


def test_a_caption_can_be_read_back_and_drawn() -> None:
    drawn = shapes(500, objects=(1, 2), seed=11)
    read = read_captions(drawn.captions)
    for key, values in read.items():
        if key == "place":
            told = (drawn.attributes["count"] == 1)[:, None]
            assert torch.equal(values, torch.where(told, drawn.attributes["place"], -1))
        else:
            assert torch.equal(values, drawn.attributes[key]), key
    again = scenes(drawn.captions)
    assert again.captions == drawn.captions
    assert torch.equal(again.labels, drawn.labels)
    with pytest.raises(ValueError, match="write, for example, 'a large red circle"):
        scenes(["a purple cow"])


def test_scenes_without_wobble_lie_in_the_middle_of_their_place() -> None:
    (image,) = scenes(["a large blue square at the centre"], size=16).images
    assert torch.equal(image, image.flip(-1))
    assert torch.equal(image, image.flip(-2))


def test_rendering_does_not_depend_on_the_batch() -> None:
    attributes, wobble = draw_attributes(200, (1, 2), torch.Generator().manual_seed(3))
    alone = render({key: value[150:151] for key, value in attributes.items()}, wobble[150:151])
    assert torch.equal(render(attributes, wobble)[150:151], alone)


def test_wrong_requests_for_shapes_get_a_sentence() -> None:
    with pytest.raises(ValueError, match="32 or 16"):
        shapes(3, size=24)
    with pytest.raises(ValueError, match="1, 2 or \\(1, 2\\)"):
        shapes(3, objects=3)
    assert len(shapes(0)) == 0


def test_a_subset_takes_everything_along() -> None:
    drawn = shapes(20, objects=(1, 2))
    part = drawn.subset(torch.tensor([7, 3]))
    assert len(part) == 2
    assert torch.equal(part.images[1], drawn.images[3])
    assert part.captions == (drawn.captions[7], drawn.captions[3])
    assert torch.equal(part.attributes["place"][0], drawn.attributes["place"][7])
    assert "2 images of 3×32×32" in repr(part)
    assert torch.equal(part.to("cpu").labels, part.labels)


def test_an_image_set_whose_parts_disagree_is_refused() -> None:
    images = torch.zeros(3, 1, 4, 4)
    with pytest.raises(ValueError, match="3 images need as many labels or none, not 2"):
        ImageSet(images, torch.zeros(2).long(), ("a",))
    with pytest.raises(ValueError, match="captions"):
        ImageSet(images, torch.zeros(3).long(), ("a",), ("one",))
    with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
        ImageSet(images[0], torch.zeros(1).long(), ("a",))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_card_holds_the_checksums(split: str) -> None:
    file = data.SHAPES_FOLDER / f"{split}.parquet"
    card = (file.parent / "README.md").read_text("utf-8")
    row = re.search(rf"(?m)^\| {file.name} \| ([\d,]+) \| ([\d,]+) \| (\w+) \|$", card)
    assert row
    assert row[1] == f"{data.SHAPES_SPLITS[split][0]:,}"
    assert row[2] == f"{file.stat().st_size:,}"
    assert row[3] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_shipped_files_are_small() -> None:
    assert sum(file.stat().st_size for file in data.SHAPES_FOLDER.glob("*.parquet")) < 4_000_000


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_shipped_shapes_are_what_the_generator_draws(split: str) -> None:
    count, seed = data.SHAPES_SPLITS[split]
    stored, drawn = load_shapes(split), shapes(count, objects=(1, 2), seed=seed)
    assert (stored.images - drawn.images).abs().max() <= 0.51 / 127.5
    assert torch.equal(stored.labels, drawn.labels)
    assert stored.captions == drawn.captions
    assert stored.class_names == drawn.class_names
    assert stored.attributes.keys() == drawn.attributes.keys()
    for key, values in drawn.attributes.items():
        assert torch.equal(stored.attributes[key], values)
        assert stored.attributes[key].dtype == torch.int64


def test_the_shipped_shapes_at_16_are_the_same_scenes() -> None:
    small, large = load_shapes("test", size=16), load_shapes("test")
    assert small.images.shape == (1000, 3, 16, 16)
    assert small.captions == large.captions
    assert (F.avg_pool2d(large.images, 2) - small.images).abs().mean() < 0.005


def test_train_and_test_share_no_picture() -> None:
    train, test = ({image.tobytes() for image in load_shapes(split).images.numpy()} for split in ("train", "test"))
    assert not train & test


def test_writing_again_gives_the_same_pictures_and_a_true_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "SHAPES_SPLITS", {"test": (50, 2_000_003)})
    shutil.copy(data.SHAPES_FOLDER / "README.md", tmp_path)
    data.write_shapes(tmp_path)
    written = tmp_path / "test.parquet"
    assert hashlib.sha256(written.read_bytes()).hexdigest() in (tmp_path / "README.md").read_text("utf-8")
    again = hub(str(tmp_path), "test")
    assert torch.equal(again.images, load_shapes("test").images[:50])
    assert len(again.class_names) == 24


def test_an_unknown_split_lists_the_splits() -> None:
    for load in (load_shapes, digits):
        with pytest.raises(ValueError, match="has no split 'val'; it has train, test"):
            load("val")


def test_digits_are_real_divided_and_stratified() -> None:
    train, test = digits("train"), digits("test")
    assert (len(train), len(test)) == (1397, 400)
    assert train.images.shape == (1397, 1, 8, 8)
    assert train.images.dtype == torch.float32
    assert (train.images.min(), train.images.max()) == (-1, 1)
    assert test.labels.bincount().min() >= 38
    assert torch.equal(digits("test").images, test.images)
    assert not torch.equal(digits("test", seed=1).labels, test.labels)
    assert train.class_names[3] == "3"
    assert torch.cat([train.images, test.images]).flatten(1).unique(dim=0).shape[0] > 1790


@pytest.mark.parametrize("kind", ["moons", "spiral", "checkerboard", "gaussians"])
def test_toys_are_standardised_and_follow_their_generator(kind: str) -> None:
    points = toy_points(kind, 20_000, torch.Generator().manual_seed(0))
    assert points.shape == (20_000, 2)
    assert points.mean(dim=0).abs().max() < 0.05
    assert (points.std(dim=0) - 1).abs().max() < 0.05
    assert torch.equal(points, toy_points(kind, 20_000, torch.Generator().manual_seed(0)))
    assert not torch.equal(points, toy_points(kind, 20_000, torch.Generator().manual_seed(1)))


def test_half_of_the_checkerboard_is_empty() -> None:
    cell = (toy_points("checkerboard", 5000, torch.Generator().manual_seed(0)) * 1.155).floor()
    assert (cell.sum(dim=1) % 2 == 0).all()
    assert len(cell.unique(dim=0)) == 8


def test_an_unknown_toy_lists_the_toys() -> None:
    with pytest.raises(ValueError, match="moons, spiral, checkerboard, gaussians"):
        toy_points("cube", 3, torch.Generator())


def write_set(
    file: Path, mode: str = "RGB", *, sizes: tuple[int, ...] = (6,), count: int = 8, **columns: list
) -> np.ndarray:
    """Write a tiny Parquet with image, label and caption; returns the pixels of the last image."""
    from datasets import ClassLabel, Dataset, Features, Value
    from datasets import Image as ImageFeature
    from PIL import Image

    random = np.random.default_rng(0)
    shape = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    arrays = [random.integers(0, 256, (sizes[i % len(sizes)],) * 2 + shape, dtype=np.uint8) for i in range(count)]
    features = {"picture": ImageFeature(), "kind": ClassLabel(names=["cat", "dog"]), "caption": Value("string")}
    rows = {
        "picture": [Image.fromarray(array) for array in arrays],
        "kind": [i % 2 for i in range(count)],
        "caption": [f"number {i}" for i in range(count)],
    }
    for key, values in columns.items():
        rows[key], features[key] = values, Value("string" if isinstance(values[0], str) else "int64")
    file.parent.mkdir(exist_ok=True)
    Dataset.from_dict(rows, features=Features(features)).to_parquet(file)
    return arrays[-1]


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_local_folder_is_decoded_once_into_one_tensor(tmp_path: Path, mode: str, channels: int) -> None:
    last = write_set(tmp_path / "train.parquet", mode)
    loaded = hub(str(tmp_path))
    assert loaded.images.shape == (8, channels, 6, 6)
    assert loaded.images.dtype == torch.float32
    assert loaded.images.is_contiguous()
    expected = torch.from_numpy(last).float().reshape(6, 6, channels).permute(2, 0, 1) / 127.5 - 1
    assert torch.allclose(loaded.images[-1], expected, atol=1e-6)
    assert loaded.labels.tolist() == [0, 1] * 4
    assert loaded.class_names == ("cat", "dog")
    assert loaded.captions[3] == "number 3"
    assert loaded.name == tmp_path.name


def test_splits_and_shards_are_found_as_the_hub_names_them(tmp_path: Path) -> None:
    write_set(tmp_path / "data" / "train-00000-of-00002.parquet", count=3)
    write_set(tmp_path / "data" / "train-00001-of-00002.parquet", count=4)
    write_set(tmp_path / "data" / "test-00000-of-00001.parquet", count=2)
    assert len(hub(str(tmp_path))) == 7
    assert len(hub(str(tmp_path), "test")) == 2
    with pytest.raises(ValueError, match="has no split 'validation'; it has train, test"):
        hub(str(tmp_path), "validation")


def test_columns_can_be_named(tmp_path: Path) -> None:
    write_set(tmp_path / "train.parquet", sort=["b", "a", "b", "a"] * 2, level=[3, 0, 1, 2] * 2, legend=["x"] * 8)
    by_word = hub(str(tmp_path), label_column="sort", caption_column="legend", image_column="picture")
    assert by_word.class_names == ("a", "b")
    assert by_word.labels.tolist() == [1, 0, 1, 0] * 2
    assert by_word.captions == ("x",) * 8
    by_number = hub(str(tmp_path), label_column="level", limit=3)
    assert by_number.labels.tolist() == [3, 0, 1]
    assert len(by_number) == 3


def test_a_set_without_labels_or_captions_has_none(tmp_path: Path) -> None:
    from pyarrow import parquet

    write_set(tmp_path / "full" / "train.parquet")
    table = parquet.read_table(tmp_path / "full" / "train.parquet").select(["picture"])
    parquet.write_table(table, tmp_path / "train.parquet")
    loaded = hub(str(tmp_path))
    assert loaded.labels.shape == (0,)
    assert loaded.captions == loaded.class_names == ()


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    write_set(tmp_path / "train.parquet", sizes=(6, 9))
    with pytest.raises(ValueError, match="2 sizes \\(6×6, 9×9\\); pass size=32"):
        hub(str(tmp_path))
    assert hub(str(tmp_path), size=8).images.shape == (8, 3, 8, 8)


def test_the_middle_square_is_kept(tmp_path: Path) -> None:
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature
    from PIL import Image

    wide = np.zeros((4, 12, 3), dtype=np.uint8)
    wide[:, 4:8] = 255
    Dataset.from_dict({"image": [Image.fromarray(wide)]}, features=Features({"image": ImageFeature()})).to_parquet(
        tmp_path / "train.parquet"
    )
    assert (hub(str(tmp_path), size=4).images == 1).all()


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    last = write_set(tmp_path / "train.parquet", "RGBA").astype(float)
    alpha = last[..., 3:] / 255
    expected = (last[..., :3] * alpha + 255 * (1 - alpha)) / 127.5 - 1
    seen = hub(str(tmp_path)).images[-1].permute(1, 2, 0).double().numpy()
    assert np.abs(seen - expected).max() < 2 / 127.5


def test_a_missing_column_lists_the_columns(tmp_path: Path) -> None:
    write_set(tmp_path / "train.parquet")
    for argument in ("image_column", "label_column", "caption_column"):
        with pytest.raises(ValueError, match=f"{argument}='nonsense'.*it has picture, kind, caption"):
            hub(str(tmp_path), **{argument: "nonsense"})
    with pytest.raises(ValueError, match=r"image_column='kind' of .* does not hold images"):
        hub(str(tmp_path), image_column="kind")
    with pytest.raises(ValueError, match="whole numbers or words"):
        hub(str(tmp_path), label_column="picture")


def test_a_set_without_images_lists_its_columns(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_dict({"colour": ["red"], "price": [3]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="no column of type Image; it has colour, price"):
        hub(str(tmp_path))


@pytest.mark.parametrize("damage", ["truncated", "rubbish", "body"])
def test_a_corrupted_parquet_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "train.parquet"
    write_set(file)
    whole = file.read_bytes()
    broken = {"truncated": whole[: len(whole) // 2], "rubbish": b"not a parquet file at all", "body": b""}[damage]
    if damage == "body":
        broken = whole[:4] + b"\xff" * 60 + whole[64:]
    file.write_bytes(broken)
    with pytest.raises(ValueError, match=r"train\.parquet"):
        hub(str(tmp_path))
    assert file.read_bytes() == broken


def test_an_unreadable_picture_is_named_by_its_row(tmp_path: Path) -> None:
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    records = [{"bytes": b"no picture", "path": None}]
    Dataset.from_dict({"image": records}, features=Features({"image": ImageFeature(decode=False)})).to_parquet(
        tmp_path / "train.parquet"
    )
    with pytest.raises(ValueError, match=r"row 0 of .* no readable image in 'image'"):
        hub(str(tmp_path), image_column="image")


def test_an_empty_or_missing_folder_names_the_offline_sets(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no Parquet files.*load_shapes.*digits"):
        hub(str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere.*digits"):
        hub(str(tmp_path / "nowhere"))


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    write_set(tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="holds no rows"):
        hub(str(tmp_path), limit=0)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "somebody/something"])
def test_without_network_and_cache_the_offline_sets_are_named(name: str) -> None:
    with pytest.raises(ConnectionError, match=f"{name} is neither.*shapes.*digits"):
        hub(name)


def test_a_dead_network_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline mode is not set, but no name resolves: the same sentence, without the half minute of retries."""
    import datasets

    def no_address(*_: object, **__: object) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", no_address)
    with pytest.raises(ConnectionError, match=r"hub cannot be reached.*digits"):
        hub("fashion_mnist")
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_set_in_the_cache_needs_no_network(tmp_path: Path) -> None:
    import datasets

    write_set(tmp_path / "here" / "train.parquet")
    builder = datasets.load_dataset_builder("parquet", data_files={"train": str(tmp_path / "here/train.parquet")})
    builder.download_and_prepare()
    home = tmp_path / "cache" / "somebody___something" / "default" / "0.0.0" / "0123456789abcdef"
    shutil.copytree(builder.cache_dir, home)
    for file in home.glob("parquet-*"):
        file.rename(home / file.name.replace("parquet-", "something-"))
    info = home / "dataset_info.json"
    text = info.read_text("utf-8").replace('"dataset_name": "parquet"', '"dataset_name": "something"')
    info.write_text(text, "utf-8")
    assert len(hub("somebody/something")) == 8
    with pytest.raises(ValueError, match="somebody/something has no split 'test'; it has train"):
        hub("somebody/something", "test")


@pytest.mark.skipif("COURSE_DATA" not in os.environ, reason="COURSE_DATA names no folder of data sets")
def test_real_fashion_mnist() -> None:
    folder = Path(os.environ["COURSE_DATA"]) / "fashion-mnist"
    train, test = hub(str(folder)), hub(str(folder), "test")
    assert train.images.shape == (60_000, 1, 28, 28)
    assert test.images.shape == (10_000, 1, 28, 28)
    assert train.class_names[9] == "Ankle boot"
    assert train.labels.bincount().tolist() == [6000] * 10
    assert train.labels[:5].tolist() == [9, 0, 0, 3, 0]
    assert abs(float((train.images + 1).mean() / 2) - 0.2860) < 1e-3  # the mean that is known for this set
    assert hub(str(folder), "test", size=32, limit=10).images.shape == (10, 1, 32, 32)
