"""The data of the course, all behind one interface: shapes, digits, sets from the Hugging Face hub, and 2-D points.

`python -m lesson_lib.data` writes the shipped shapes (data/shapes) again.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import torch
from torch import Tensor

from lesson_lib import DATA
from lesson_lib.shapes import COLOURS, PLACES, RGB, SHAPES, SIZES, ImageSet, scenes, shapes

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "COLOURS",
    "PLACES",
    "RGB",
    "SHAPES",
    "SIZES",
    "ImageSet",
    "digits",
    "hub",
    "load_shapes",
    "scenes",
    "shapes",
    "toy_points",
]

SHAPES_FOLDER = DATA / "shapes"
SHAPES_SPLITS = {"train": (4000, 1_000_003), "test": (1000, 2_000_003)}  # scenes, seed
HUB_NAMES = {"fashion_mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
CAPTION_COLUMNS = ("caption", "text")
OFFLINE = "Two sets need no network: shapes(1000) or load_shapes(), and digits()."


def _known_split(split: str, splits: Iterable[str], name: str) -> str:
    if split not in (known := sorted(splits, reverse=True)):
        raise ValueError(f"{name} has no split {split!r}; it has {', '.join(known)}")
    return split


def digits(split: str = "train", *, seed: int = 0) -> ImageSet:
    """Return real handwritten digits, small enough to train on in seconds and shipped inside scikit-learn.

    split: "train" (1,397) or "test" (400), each with its share of every class; seed: how they are divided.
    Images are (N, 1, 8, 8). Source: the test part of UCI's optical recognition of handwritten digits, through
    sklearn.datasets. Raises ValueError for another split.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    _known_split(split, ("train", "test"), "digits")
    parts = train_test_split(range(len(bunch.target)), test_size=400, random_state=seed, stratify=bunch.target)
    indices = parts[("train", "test").index(split)]
    images = torch.from_numpy(bunch.images[indices]).float()[:, None] / 8 - 1  # from 0 to 16
    labels = torch.from_numpy(bunch.target[indices]).long()
    return ImageSet(images, labels, tuple("0123456789"), name="digits")


def toy_points(kind: str, count: int, generator: torch.Generator) -> Tensor:
    """Draw points of a 2-D distribution: the toy on which every method can be watched before it meets images.

    kind: "moons", "spiral", "checkerboard" or "gaussians" (eight in a ring). Returns (count, 2), about zero mean and
    unit variance, on the generator's device. Raises ValueError for another kind.
    """
    where = generator.device

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=generator, device=where)

    def normal(scale: float) -> Tensor:
        return scale * torch.randn(count, 2, generator=generator, device=where)

    def moons() -> Tensor:
        angle, lower = uniform(0, math.pi), uniform(0, 1) < 0.5
        x = torch.where(lower, 1 - angle.cos(), angle.cos()) - 0.5
        y = torch.where(lower, 0.5 - angle.sin(), angle.sin()) - 0.25
        return torch.stack([x / 0.87, y / 0.50], dim=1) + normal(0.06)

    def spiral() -> Tensor:
        turn = 4 * math.pi * uniform(0, 1).sqrt()  # the root spreads the points evenly along the arm
        x, y = turn * turn.cos() - 1 / math.pi, turn * turn.sin() + 2  # less their means
        return torch.stack([x / 6.35, y / 6.05], dim=1) + normal(0.03)

    def checkerboard() -> Tensor:
        x, y, row = uniform(-2, 2), uniform(0, 1), uniform(0, 2).floor()
        return torch.stack([x, y + 2 * row - 2 + x.floor() % 2], dim=1) / 1.155

    def gaussians() -> Tensor:
        angle = uniform(0, 8).floor() * math.pi / 4
        return 1.4 * torch.stack([angle.cos(), angle.sin()], dim=1) + normal(0.1)

    kinds: dict[str, Callable[[], Tensor]] = {
        "moons": moons,
        "spiral": spiral,
        "checkerboard": checkerboard,
        "gaussians": gaussians,
    }
    if kind not in kinds:
        raise ValueError(f"there is no toy {kind!r}; there is {', '.join(kinds)}")
    return kinds[kind]()


def load_shapes(split: str = "train", *, size: int = 32) -> ImageSet:
    """Return the shipped shapes, one and two objects mixed: the fixed sets that every experiment trains and tests on.

    split: "train" (4,000) or "test" (1,000). At 32 pixels the pictures come from data/shapes, at 16 they are drawn anew
    from the same scenes. Raises FileNotFoundError where the shipped file is missing.
    """
    count, seed = SHAPES_SPLITS[_known_split(split, SHAPES_SPLITS, "shapes")]
    if size != 32:
        return shapes(count, size=size, objects=(1, 2), seed=seed)
    stored, rows = hub(str(SHAPES_FOLDER), split), _open(str(SHAPES_FOLDER), split)
    truth = rows.remove_columns(["image", "label", "caption"])[:]
    attributes = {key: torch.tensor(values) for key, values in truth.items()}
    return replace(stored, name="shapes", attributes=attributes)


def hub(
    name: str,
    split: str = "train",
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    caption_column: str | None = None,
    size: int | None = None,
    limit: int | None = None,
) -> ImageSet:
    """Load any set of images with labels or captions, from the Hugging Face hub or from a folder of Parquet files.

    name: "fashion_mnist", "cifar10", any hub name ("owner/name"), or a folder with SPLIT.parquet or SPLIT-….parquet
    in it or in its data folder. Columns are found by their types (Image, ClassLabel) and names (caption, text) unless
    given. size: crop the middle square and resize it to this side; limit: take only the first rows. Greyscale stays
    one channel. Raises ConnectionError without network and cache, FileNotFoundError for a missing folder, ValueError
    for a missing split or column, an unreadable file, or images of several sizes.
    """
    from datasets import ClassLabel
    from datasets import Image as ImageFeature

    rows = _open(name, split)
    rows = rows.select(range(min(limit, len(rows)))) if limit is not None else rows
    if not len(rows):
        raise ValueError(f"the split {split!r} of {name} holds no rows")
    image_column = _column(rows, name, "image_column", image_column, lambda _, kind: isinstance(kind, ImageFeature))
    label_column = _column(rows, name, "label_column", label_column, lambda _, kind: isinstance(kind, ClassLabel))
    caption_column = _column(rows, name, "caption_column", caption_column, lambda key, _: key in CAPTION_COLUMNS)
    if image_column is None:
        columns = ", ".join(rows.column_names)
        raise ValueError(f"{name} has no column of type Image; it has {columns}: name one with image_column=")
    images = _to_tensor(_decode(rows, name, image_column, size), name)
    labels, class_names = torch.empty(0, dtype=torch.int64), tuple[str, ...]()
    if label_column is not None:
        labels, class_names = _labels(rows, name, label_column)
    captions: tuple[str, ...] = ()
    if caption_column is not None:
        captions = tuple(map(_first, rows.select_columns([caption_column])[:][caption_column]))
    return ImageSet(images, labels, class_names, captions, name=Path(name).name)


def _column(
    rows: Dataset, name: str, argument: str, chosen: str | None, suits: Callable[[str, Any], bool]
) -> str | None:
    if chosen is not None and chosen not in rows.features:
        raise ValueError(f"{argument}={chosen!r}: {name} has no such column; it has {', '.join(rows.column_names)}")
    return chosen or next((key for key, kind in rows.features.items() if suits(key, kind)), None)


def _first(text: str | Sequence[str]) -> str:
    return text if isinstance(text, str) else text[0]  # some sets give several captions for each image


def _labels(rows: Dataset, name: str, column: str) -> tuple[Tensor, tuple[str, ...]]:
    values, kind = rows.select_columns([column])[:][column], rows.features[column]
    if hasattr(kind, "names"):
        return torch.tensor(values), tuple(kind.names)
    if not all(isinstance(value, (int, str)) for value in values):
        raise ValueError(f"label_column={column!r} of {name} must hold whole numbers or words")
    names = sorted(set(values)) if isinstance(values[0], str) else list(range(max(values) + 1))
    number = {value: index for index, value in enumerate(names)}
    return torch.tensor([number[value] for value in values]), tuple(map(str, names))


def _open(name: str, split: str) -> Dataset:
    """Find the rows of a split, locally where the name is a folder, else on the hub or in its cache."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _open_folder(folder, split)
    if name.count("/") > 1 or name.startswith((".", "~", "/")) or "\\" in name:
        raise FileNotFoundError(f"there is no folder {name}; a hub set is called owner/name. {OFFLINE}")
    return _open_hub(name, split)


def _open_folder(folder: Path, split: str) -> Dataset:
    import pyarrow
    from datasets import Dataset
    from pyarrow import parquet

    files: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")]):
        files.setdefault(re.sub(r"-\d+.*", "", path.stem), []).append(path)
    if not files:
        raise FileNotFoundError(f"the folder {folder} holds no Parquet files; train.parquet was expected. {OFFLINE}")
    tables = []
    for path in files[_known_split(split, files, str(folder))]:
        try:
            tables.append(parquet.read_table(path))
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is not a whole Parquet file ({error}); fetch or write it again") from error
    return Dataset(pyarrow.concat_tables(tables))


def _open_hub(name: str, split: str) -> Dataset:
    from datasets import config, load_dataset
    from datasets.exceptions import DatasetNotFoundError

    was_offline = config.HF_HUB_OFFLINE
    offline = was_offline or not _answers(config.HF_ENDPOINT)
    try:
        config.HF_HUB_OFFLINE = offline  # straight to the cache: without this a missing network costs 25 s of retries
        splits = load_dataset(HUB_NAMES.get(name, name))
    except DatasetNotFoundError as error:
        raise FileNotFoundError(f"there is no folder {name} here and no such set on the hub ({error})") from error
    except OSError as error:
        if not offline and not isinstance(error, ConnectionError):
            raise
        what = f"{name} is neither a folder here nor in the cache, and the hub cannot be reached"
        raise ConnectionError(f"{what}. {OFFLINE} Or pass a folder of Parquet files.") from error
    finally:
        config.HF_HUB_OFFLINE = was_offline
    return splits[_known_split(split, splits, name)]


def _answers(address: str, seconds: float = 4) -> bool:
    """Whether anything answers there, proxies honoured, be it with a refusal."""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=seconds):
            return True
    except HTTPError:
        return True
    except OSError:
        return False


def _decode(rows: Dataset, name: str, column: str, size: int | None) -> list[np.ndarray]:
    """Decode every image into (H, W) or (H, W, 3) bytes; what is transparent becomes white."""
    from datasets import Image as ImageFeature
    from PIL import Image

    def open_one(record: dict[str, Any] | None) -> np.ndarray:
        if record is None:
            raise OSError("there is nothing there")
        with Image.open(io.BytesIO(record["bytes"]) if record["bytes"] is not None else record["path"]) as file:
            picture: Image.Image = file
            if "A" in file.mode or "transparency" in file.info:
                clear = file.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
            picture = picture.convert("L" if file.mode in ("1", "L") else "RGB")
        if size is not None:
            side = min(picture.size)
            left, top = (picture.width - side) / 2, (picture.height - side) / 2
            picture = picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        return np.asarray(picture)

    try:
        records = rows.select_columns([column]).cast_column(column, ImageFeature(decode=False))[:][column]
    except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's own errors are among them
        what = f"{name} does not hold images but {rows.features[column]}"
        raise ValueError(f"image_column={column!r} of {what}") from error
    decoded = []
    for index, record in enumerate(records):
        try:
            decoded.append(open_one(record))
        except OSError as error:
            raise ValueError(f"row {index} of {name} holds no readable image in {column!r} ({error})") from error
    return decoded


def _to_tensor(pictures: list[np.ndarray], name: str) -> Tensor:
    """Join the images into one tensor (N, C, H, W) in [-1, 1]; C is 1 where all of them are grey."""
    sizes = sorted({(picture.shape[1], picture.shape[0]) for picture in pictures})
    if len(sizes) > 1:
        some = ", ".join(f"{width}×{height}" for width, height in sizes[:4]) + (", …" if len(sizes) > 4 else "")
        raise ValueError(f"{name} has images of {len(sizes)} sizes ({some}); pass size=32 to crop and resize them")
    if all(picture.ndim == 2 for picture in pictures):
        stacked = np.stack(pictures)[:, None]
    else:
        coloured = [np.repeat(p[..., None], 3, axis=2) if p.ndim == 2 else p for p in pictures]
        stacked = np.stack(coloured).transpose(0, 3, 1, 2)
    return torch.from_numpy(stacked).contiguous().float().div_(127.5).sub_(1)


def write_shapes(folder: Path = SHAPES_FOLDER) -> None:
    """Write the shipped shapes and their checksums again: what `python -m lesson_lib.data` does.

    The pictures are the same everywhere; the bytes of the files may differ with other versions of pyarrow or Pillow.
    """
    from datasets import ClassLabel, Dataset, Features, List, Value
    from datasets import Image as ImageFeature
    from PIL import Image

    card = folder / "README.md"
    for split, (count, seed) in SHAPES_SPLITS.items():
        drawn = shapes(count, objects=(1, 2), seed=seed)
        pixels = ((drawn.images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
        columns: dict[str, Any] = {"image": [Image.fromarray(one) for one in pixels], "label": drawn.labels.tolist()}
        columns |= {"caption": list(drawn.captions)} | {k: v.tolist() for k, v in drawn.attributes.items()}
        kinds: dict[str, Any] = {"image": ImageFeature(), "label": ClassLabel(names=list(drawn.class_names))}
        kinds["caption"] = Value("string")
        for key, values in drawn.attributes.items():
            kinds[key] = List(Value("int8"), length=2) if values.ndim == 2 else Value("int8")
        file = folder / f"{split}.parquet"
        Dataset.from_dict(columns, features=Features(kinds)).to_parquet(file)
        row = f"| {file.name} | {count:,} | {file.stat().st_size:,} | {hashlib.sha256(file.read_bytes()).hexdigest()} |"
        print(row)
        if card.exists():
            card.write_text(re.sub(rf"(?m)^\| {file.name} \|.*$", row, card.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    write_shapes()
