"""Decoding, the cache, the split, and the pairs that the data module makes of them."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siamese.config.schema import ImageOptions, SyntheticData
from siamese.data import images
from siamese.data.dataset import PairSet
from siamese.data.images import decode, load_images
from siamese.data.lists import Pair
from siamese.data.split import stratified_split
from siamese.errors import DataError
from siamese.training.data_module import PairDataModule, pair_loader

# --- decoding ---------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of different kinds and four files that are none."""
    root = tmp_path / "photos"
    root.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        pixels = rng.integers(0, 256, (40, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.jpg").write_text("<html>not found</html>")
    (root / "cut.png").write_bytes((root / "0.png").read_bytes()[:900])
    (root / "folder.jpg").mkdir()
    return root


def options(tmp_path: Path, **changes: object) -> ImageOptions:
    return ImageOptions.model_validate({"image_size": 16, "cache": str(tmp_path / "cache"), **changes})


def test_decode_is_grey_resized_and_scaled_as_pillow_does(folder: Path, tmp_path: Path) -> None:
    with Image.open(folder / "0.png") as image:
        grey = np.asarray(image.convert("L").resize((16, 16), Image.Resampling.BILINEAR))
        color = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode(folder / "0.png", options(tmp_path)), grey[None])
    rgb = decode(folder / "0.png", options(tmp_path, color=True, interpolation="bicubic"))
    np.testing.assert_array_equal(rgb, color.transpose(2, 0, 1))


def test_crop_takes_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30), np.uint8)
    pixels[6:14, 11:19] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", options(tmp_path, crop=8)).min() == 255


def test_a_photo_smaller_than_the_crop_is_refused(tmp_path: Path) -> None:
    Image.new("L", (20, 30)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"20 x 30 pixels, which is less than data\.crop=24"):
        decode(tmp_path / "a.png", options(tmp_path, crop=24))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by 180 degrees
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    decoded = decode(tmp_path / "a.png", options(tmp_path))[0]
    assert decoded[:8].max() == 0
    assert decoded[8:].min() == 255


# --- the cache --------------------------------------------------------------------------------------------

NAMES = ["0.png", "1.png", "2.png", "empty.jpg", "text.jpg", "cut.png", "folder.jpg", "gone.png"]


def test_unusable_files_are_listed_with_their_reason(folder: Path, tmp_path: Path) -> None:
    loaded = load_images(folder, NAMES, options(tmp_path))
    assert loaded.names == ["0.png", "1.png", "2.png"]
    assert loaded.pixels.shape == (3, 1, 16, 16)
    assert loaded.excluded["gone.png"] == "missing"
    assert "not an image" in loaded.excluded["empty.jpg"]
    assert "not an image" in loaded.excluded["text.jpg"]
    assert "does not decode" in loaded.excluded["cut.png"]
    assert "does not decode" in loaded.excluded["folder.jpg"]


def count_decodes(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    seen: list[Path] = []

    def counting(path: Path, opts: ImageOptions) -> object:
        seen.append(path)
        return decode(path, opts)

    monkeypatch.setattr(images, "decode", counting)
    return seen


def test_second_load_decodes_nothing_and_is_equal(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_images(folder, NAMES, options(tmp_path))
    seen = count_decodes(monkeypatch)
    second = load_images(folder, NAMES[::-1] + NAMES, options(tmp_path))
    assert not seen
    assert (second.names, second.excluded) == (first.names, first.excluded)
    np.testing.assert_array_equal(second.pixels, first.pixels)


@pytest.mark.parametrize(
    "change", [{"image_size": 17}, {"color": True}, {"crop": 20}, {"interpolation": "nearest"}], ids=str
)
def test_every_option_has_its_own_entry(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
) -> None:
    plain = load_images(folder, NAMES, options(tmp_path))
    seen = count_decodes(monkeypatch)
    load_images(folder, NAMES, options(tmp_path, **change))
    assert seen
    seen.clear()
    again = load_images(folder, NAMES, options(tmp_path))
    assert not seen
    np.testing.assert_array_equal(again.pixels, plain.pixels)


def test_changed_appeared_and_vanished_files_make_it_stale(folder: Path, tmp_path: Path) -> None:
    before = load_images(folder, NAMES, options(tmp_path))
    shutil.copyfile(folder / "3.png", folder / "0.png")
    shutil.copyfile(folder / "3.png", folder / "gone.png")
    (folder / "1.png").unlink()
    after = load_images(folder, NAMES, options(tmp_path))
    assert after.names == ["0.png", "2.png", "gone.png"]
    assert after.excluded["1.png"] == "missing"
    assert not np.array_equal(after.pixels[0], before.pixels[0])
    entries = [path for path in (tmp_path / "cache").glob("*/*") if path.is_dir()]
    assert len(entries) == 1, "the stale entry was not removed"


def test_a_cache_named_from_here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkdtemp
    # As from Python 3.12 on.
    monkeypatch.setattr(tempfile, "mkdtemp", lambda **options: str(Path(make(**options)).absolute()))
    monkeypatch.chdir(tmp_path)
    plain = load_images(folder, NAMES, options(Path()))
    seen = count_decodes(monkeypatch)
    np.testing.assert_array_equal(load_images(folder, NAMES, options(Path())).pixels, plain.pixels)
    assert not seen


@pytest.mark.parametrize("damage", ["cut", "flip", "index", "leftover"])
def test_damaged_entries_are_built_anew(
    folder: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_images(folder, NAMES, options(tmp_path))
    (entry,) = (path for path in (tmp_path / "cache").glob("*/*") if path.is_dir())
    pixels = entry / "pixels.npy"
    if damage == "cut":
        pixels.write_bytes(pixels.read_bytes()[:-10])
    elif damage == "flip":
        content = bytearray(pixels.read_bytes())
        content[-5] ^= 1
        pixels.write_bytes(content)
    elif damage == "index":
        (entry / "index.json").write_text("{")
    else:  # of a build that was killed
        shutil.move(entry, entry.with_name("building-x"))
    with caplog.at_level(logging.WARNING):
        after = load_images(folder, NAMES, options(tmp_path))
    np.testing.assert_array_equal(after.pixels, before.pixels)
    assert ("damaged" in caplog.text) == (damage != "leftover")
    assert [path.name for path in entry.parent.iterdir() if path.is_dir()] == [entry.name]


def test_a_failure_of_the_machine_is_not_remembered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path, options: ImageOptions) -> object:
        if path.name == "0.png":
            raise OSError(errno.EIO, "Input/output error")
        return decode(path, options)

    monkeypatch.setattr(images, "decode", failing)
    assert "Input/output error" in load_images(folder, ["0.png", "1.png"], options(tmp_path)).excluded["0.png"]
    monkeypatch.setattr(images, "decode", decode)
    assert load_images(folder, ["0.png", "1.png"], options(tmp_path)).excluded == {}

    def starved(path: Path, options: ImageOptions) -> object:
        raise MemoryError

    monkeypatch.setattr(images, "decode", starved)
    with pytest.raises(MemoryError):
        load_images(folder, ["0.png", "2.png"], options(tmp_path))


def test_failed_build_leaves_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", fail)
    with pytest.raises(DataError, match=r"data\.cache=.*No space left"):
        load_images(folder, NAMES, options(tmp_path))
    assert not [path for path in (tmp_path / "cache").glob("*/*") if path.is_dir()]


def _load_in_process(arguments: tuple[Path, Path]) -> int:
    folder, tmp_path = arguments
    return int(load_images(folder, NAMES, options(tmp_path)).pixels.sum())


def test_processes_that_come_together_get_the_same(folder: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        sums = pool.map(_load_in_process, [(folder, tmp_path)] * 4, chunksize=1)
    assert set(sums) == {int(load_images(folder, NAMES, options(tmp_path)).pixels.sum())}


# --- the split and the loader -----------------------------------------------------------------------------


@given(st.integers(5, 60), st.integers(5, 60), st.floats(0.1, 0.9), st.integers(0, 2**32))
def test_split_is_a_stratified_partition(ones: int, zeros: int, fraction: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation([1] * ones + [0] * zeros)
    try:
        train, validation = stratified_split(labels, fraction, seed)
    except DataError:
        assert min(round(fraction * n) for n in (ones, zeros)) == 0 or any(
            round(fraction * n) == n for n in (ones, zeros)
        )
        return
    assert sorted([*train, *validation]) == list(range(ones + zeros))
    assert labels[validation].sum() == round(fraction * ones)
    assert len(validation) == round(fraction * ones) + round(fraction * zeros)
    again = stratified_split(labels, fraction, seed)
    assert np.array_equal(again[1], validation)


def test_split_of_view_1_has_the_reports_sizes() -> None:
    labels = np.array([1] * 1100 + [0] * 1100)
    train, validation = stratified_split(labels, 0.2, 0)
    assert (len(train), len(validation), labels[train].sum()) == (1760, 440, 880)
    assert not np.array_equal(stratified_split(labels, 0.2, 1)[1], validation)


def pair_set(n: int) -> PairSet:
    row = {str(i): i for i in range(n + 1)}
    return PairSet.of([Pair(str(i), str(i + 1), i % 2) for i in range(n)], row)


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 15, 16, 17])
def test_an_epoch_has_every_pair_once_and_no_lonely_pair(n: int) -> None:
    loader = pair_loader(pair_set(n), batch_size=8, shuffle=True, seed=3)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert sorted(int(first) for indices, _ in batches for first in indices[:, 0]) == list(range(n))
    assert all(
        int(label) == int(index[0]) % 2 for pairs, labels in batches for index, label in zip(pairs, labels, strict=True)
    )
    assert n == 1 or min(len(labels) for _, labels in batches) > 1


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        loader = pair_loader(pair_set(50), batch_size=8, shuffle=True, seed=seed)
        loader.sampler.set_epoch(epoch)
        return [int(i) for indices, _ in loader for i in indices[:, 0]]

    assert order(0, 1) == order(0, 1)
    assert order(0, 0) != order(0, 1) != order(1, 1)


# --- the data module --------------------------------------------------------------------------------------


def test_batches_are_the_images_as_floats(tiny_data: dict[str, object]) -> None:
    config = SyntheticData.model_validate(tiny_data)
    data = PairDataModule(config, batch_size=4, seed=0)
    data.setup()
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, TINY.test_pairs)
    assert int(data.val.labels.sum()) == 3
    indices, labels = next(iter(data.test_dataloader()))
    batch = data.transfer_batch_to_device((indices, labels), torch.device("cpu"), 0)
    assert batch.image1.shape == (4, 1, 65, 65)
    assert batch.image1.dtype == torch.float32
    pair = data.test.pairs[1]
    expected = decode(Path(config.root) / "lfw" / pair.image2, config).astype(np.float32) / 255
    np.testing.assert_allclose(batch.image2[1].numpy(), expected, atol=1e-7)
    assert batch.label.tolist() == [float(p.label) for p in data.test.pairs[:4]]


def test_pairs_with_unusable_images_are_dropped(
    tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tiny_root, root)
    data = PairDataModule(SyntheticData.model_validate({**tiny_data, "root": str(tiny_root)}), 4, 0)
    data.setup()
    victim = data.test.pairs[0].image1
    (root / "lfw" / victim).write_bytes(b"broken")
    hit = [p for p in data.test.pairs if victim in (p.image1, p.image2)]
    damaged = PairDataModule(SyntheticData.model_validate({**tiny_data, "root": str(root)}), 4, 0)
    with caplog.at_level(logging.WARNING):
        damaged.setup()
    assert damaged.test.pairs == [p for p in data.test.pairs if p not in hit]
    assert list(damaged.images.excluded) == [victim]
    assert f"{len(hit)} of {TINY.test_pairs} in pairsDevTest.txt" in caplog.text


def test_nothing_usable_left_is_a_clear_end(tiny_data: dict[str, object], tiny_root: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(tiny_root, root)
    for image in (root / "lfw").rglob("*.jpg"):
        image.write_bytes(b"")
    data = PairDataModule(SyntheticData.model_validate({**tiny_data, "root": str(root)}), 4, 0)
    with pytest.raises(DataError, match=r"0 of 30 pairs of pairsDevTrain\.txt are left.*not an image"):
        data.setup()
    assert data.images.excluded
