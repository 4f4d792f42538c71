"""The demo's sample photographs: enough of them, the same every time, hazy ones hazy."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from models import images
from models.config import ConfigError
from pipelines.demo import samples
from pipelines.demo.samples import BROKEN, SampleFolders, SampleSource, make_samples


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SampleFolders:
    return make_samples(tmp_path_factory.mktemp("samples"))


def photographs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != BROKEN)


def test_numbers_and_sizes(made: SampleFolders) -> None:
    assert len(photographs(made.clear)) == 60
    assert len(photographs(made.hazy)) == 24
    for path in photographs(made.clear) + photographs(made.hazy):
        height, width = images.read_image(path).pixels.shape[:2]
        assert 128 <= min(height, width) <= max(height, width) <= samples.LONG_SIDE, path


def test_all_differ(made: SampleFolders) -> None:
    files = photographs(made.clear) + photographs(made.hazy)
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in files}) == len(files)


def test_one_broken_file_in_each(made: SampleFolders) -> None:
    for folder in (made.clear, made.hazy):
        with pytest.raises(images.TruncatedImage):
            images.read_image(folder / BROKEN)


def test_haze_lifts_the_darkest_pixels(made: SampleFolders) -> None:
    def darkest(folder: Path) -> float:
        channels = [images.read_image(path).pixels.min(axis=2) for path in photographs(folder)]
        return float(np.mean([np.percentile(channel, 10) for channel in channels]))

    assert darkest(made.hazy) > darkest(made.clear) + 40


def test_second_time_touches_nothing(made: SampleFolders) -> None:
    files = sorted(made.clear.parent.rglob("*.jpg"))
    for path in files[::7]:
        path.write_bytes(b"damaged")
    before = {path: path.stat().st_mtime_ns for path in files}
    make_samples(made.clear.parent)
    for index, path in enumerate(files):
        assert path.read_bytes() != b"damaged"
        assert (path.stat().st_mtime_ns == before[path]) == (index % 7 != 0)
    assert len(files) == 86


def test_near_is_one_in_the_measured_depth() -> None:
    depth = samples._motorcycle_depth()
    assert np.isfinite(depth).all()
    assert (depth.min(), depth.max()) == (0.0, 1.0)
    assert depth[430:, 200:500].mean() > depth[:60].mean() + 0.2  # floor in front, wall behind


def test_missing_picture_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no_such\.png is missing: reinstall skimage"):
        SampleSource("skimage", "data/no_such.png", 1, 1).file()
    with pytest.raises(ConfigError, match="reinstall no_such_package"):
        SampleSource("no_such_package", "data/a.png", 1, 1).file()
