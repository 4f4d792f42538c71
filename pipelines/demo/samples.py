"""Sample photographs for the demo, cut from the pictures inside scikit-image and scikit-learn. No network, no Ray.

The haze on the sample hazy photographs is synthetic: neither package holds a real hazy photograph. The stereo pair's
motorcycle gets haze by its measured depth, the others by a made-up one. So the samples show that the system works, and
say nothing about real haze; for that, take your own photographs (``make demo HAZY=… CLEAR=…``).

Clear and hazy samples come from different parts of each picture, so no hazy sample has its clear version in the corpus.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import images
from models.config import ConfigError
from models.images import Photo

Pixels = NDArray[np.uint8]

LONG_SIDE = 384
QUALITY = 95
BROKEN = "broken_download.jpg"  # cut off half way: an ingest has to reject it
_HAZY_SHARE = 0.5  # of the width of a picture that serves both kinds
_STEREO_OFFSET = 31.086  # of the principal points, in pixels; Middlebury 2014 "Motorcycle" at a quarter of its size


@dataclass(frozen=True)
class SampleFolders:
    """Where the samples are."""

    hazy: Path
    clear: Path


@dataclass(frozen=True)
class SampleSource:
    """A picture inside a package, how many samples of each kind are cut from it, and which side the hazy ones get."""

    package: str
    path: str
    clear: int
    hazy: int = 0
    hazy_left: bool = False

    @property
    def name(self) -> str:
        """Return the file name without suffix."""
        return Path(self.path).stem

    def file(self) -> Path:
        """Return where it is installed.

        Raises:
            ConfigError: the package or the picture is missing.
        """
        spec = importlib.util.find_spec(self.package)  # finds the folder without importing
        folder = Path(spec.origin).parent if spec is not None and spec.origin is not None else Path(self.package)
        if not (folder / self.path).is_file():
            raise ConfigError(
                f"{folder / self.path} is missing: reinstall {self.package}, or give photographs of your own"
            )
        return folder / self.path


SOURCES = (
    SampleSource("sklearn", "datasets/images/china.jpg", clear=6, hazy=11, hazy_left=True),
    SampleSource("skimage", "data/motorcycle_left.png", clear=9, hazy=7),
    SampleSource("skimage", "data/rocket.jpg", clear=6, hazy=3, hazy_left=True),
    SampleSource("skimage", "data/astronaut.png", clear=8, hazy=2),
    SampleSource("skimage", "data/camera.png", clear=4, hazy=1, hazy_left=True),
    SampleSource("sklearn", "datasets/images/flower.jpg", clear=10),
    SampleSource("skimage", "data/chelsea.png", clear=9),
    SampleSource("skimage", "data/coffee.png", clear=8),
)
DISPARITY = SampleSource("skimage", "data/motorcycle_disp.npz", clear=0)


def make_samples(out: Path) -> SampleFolders:
    """Write 60 clear and 24 hazy photographs, and a broken file beside each, to ``out/clear`` and ``out/hazy``.

    The same pictures every time; files that are there already stay untouched, so that a corpus made of them stays
    valid.

    Raises:
        ConfigError: a package has lost its pictures.
    """
    folders = SampleFolders(hazy=out / "hazy", clear=out / "clear")
    for number, source in enumerate(SOURCES):
        random = np.random.default_rng(number)
        picture = images.read_image(source.file()).pixels
        depth = _motorcycle_depth() if source.name == "motorcycle_left" else _landscape_depth(picture, random)
        clear, hazy = _sides(np.dstack([picture, np.rint(depth * 255).astype(np.uint8)]), source)
        for index, crop in enumerate(_crops(clear, source.clear, random)):
            _store(crop[:, :, :3], folders.clear / f"{source.name}_{index:02d}.jpg")
        for index, crop in enumerate(_crops(hazy, source.hazy, random)):
            _store(_add_haze(crop, seed=100 * number + index), folders.hazy / f"{source.name}_{index:02d}.jpg")
    for folder in (folders.hazy, folders.clear):
        whole = (folder / f"{SOURCES[0].name}_00.jpg").read_bytes()
        _store_bytes(whole[: len(whole) // 2], folder / BROKEN)
    return folders


def _sides(pixels: Pixels, source: SampleSource) -> tuple[Pixels, Pixels]:
    """The part for clear samples and the part for hazy ones; all is for the clear ones when there are no others."""
    width = pixels.shape[1]
    if not source.hazy:
        return pixels, pixels[:, :0]
    if source.hazy_left:
        border = round(width * _HAZY_SHARE)
        return pixels[:, border:], pixels[:, :border]
    border = round(width * (1 - _HAZY_SHARE))
    return pixels[:, :border], pixels[:, border:]


def _crops(pixels: Pixels, count: int, random: np.random.Generator) -> Iterator[Pixels]:
    """Overlapping pieces of a picture, some mirrored, at most ``LONG_SIDE`` long. (H, W, C) each."""
    height, width = pixels.shape[:2]
    for _ in range(count):
        scale = random.uniform(0.65, 1.0)
        tall, wide = _fit(height * scale, width * scale, random.uniform(0.75, 1.33))
        top, left = random.integers(0, height - tall + 1), random.integers(0, width - wide + 1)
        crop = pixels[top : top + tall, left : left + wide]
        if random.random() < 0.5:
            crop = crop[:, ::-1]
        shrink = min(1.0, LONG_SIDE / max(tall, wide))
        size = round(wide * shrink), round(tall * shrink)
        channels = [images.resize(np.ascontiguousarray(crop[:, :, c]), *size) for c in range(crop.shape[2])]
        yield np.dstack(channels)


def _fit(height: float, width: float, aspect: float) -> tuple[int, int]:
    """Return the largest (height, width) inside that is ``aspect`` times as wide as high."""
    return (
        (round(width / aspect), round(width)) if width / aspect <= height else (round(height), round(height * aspect))
    )


def _landscape_depth(picture: Pixels, random: np.random.Generator) -> NDArray[Any]:
    """(H, W) in [0, 1], 1 = near: from far at the top to near at the bottom, gently uneven, without any edges."""
    height, width = picture.shape[:2]
    coarse = random.uniform(0, 255, (3, 3)).astype(np.uint8)
    uneven = images.resize(coarse, width, height) / 255.0
    depth: NDArray[Any] = np.clip(np.linspace(0.05, 0.85, height)[:, None] + 0.3 * (uneven - 0.5), 0, 1)
    return depth


def _motorcycle_depth() -> NDArray[Any]:
    """(H, W) in [0, 1], 1 = near, from the stereo pair's true disparity; unseen pixels take the nearest value."""
    from scipy.ndimage import distance_transform_edt

    with np.load(DISPARITY.file(), allow_pickle=False) as archive:
        disparity = archive["arr_0"].astype(np.float64)
    seen = np.isfinite(disparity)
    nearest = distance_transform_edt(~seen, return_distances=False, return_indices=True)
    distance = 1.0 / (disparity[tuple(nearest)] + _STEREO_OFFSET)
    depth: NDArray[Any] = (distance.max() - distance) / (distance.max() - distance.min())
    return depth


def _add_haze(crop: Pixels, seed: int) -> Pixels:
    """Haze by the fourth channel, the depth (255 = near). (H, W, 4) to (H, W, 3)."""
    from models.haze import HazeConfig, synthesize

    config = HazeConfig(
        beta=(0.5, 1.3), airlight=(0.72, 0.95), darken_probability=0.0, noise_probability=0.0, jpeg_probability=0.0
    )
    tensor = images.to_tensor(crop)
    hazy: Pixels = images.to_uint8(synthesize(tensor[:, :3], tensor[:, 3:], [seed], config).hazy)[0]
    return hazy


def _store(pixels: Pixels, path: Path) -> None:
    _store_bytes(images.encode(Photo(pixels), "JPEG", QUALITY), path)


def _store_bytes(data: bytes, path: Path) -> None:
    """Write a file unless it holds these bytes already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.is_file() and path.read_bytes() == data):
        path.write_bytes(data)
