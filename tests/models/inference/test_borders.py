"""Borders of films and scans: found where they are, nowhere else, and kept bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.images import Photo as Picture
from models.images import decode, encode, to_tensor
from models.inference.borders import content_of
from models.inference.dehazing import EXACT, dehaze
from models.inference.tiles import Tile
from models.options import DehazeOptions
from models.predictor import Predictor

Photo = Callable[..., NDArray[np.uint8]]


def framed(pixels: NDArray[np.uint8], level: int, *sides: int) -> NDArray[np.uint8]:
    top, bottom, left, right = (*sides, 0, 0)[:4]
    return np.pad(pixels, ((top, bottom), (left, right), (0, 0)), constant_values=level)


@pytest.mark.parametrize("level", [0, 255, 3, 250])
@pytest.mark.parametrize("sides", [(40, 40, 0, 0), (0, 0, 30, 50), (12, 9, 20, 0), (0, 5, 0, 0)])
def test_borders_are_found_to_the_line(photo: Photo, level: int, sides: tuple[int, int, int, int]) -> None:
    picture = photo(1, 150, 200, hazy=True)
    top, _, left, _ = sides
    image = to_tensor(framed(picture, level, *sides))
    assert content_of(image) == Tile(top, top + 150, left, left + 200)


@pytest.mark.parametrize("quality", [60, 95])
def test_in_a_jpeg_too(photo: Photo, quality: int) -> None:
    pixels = framed(photo(1, 150, 200, hazy=True), 0, 37, 37)
    found = content_of(decode(encode(Picture(pixels), "JPEG", quality)).tensor())
    assert (found.left, found.right) == (0, 200)
    assert abs(found.top - 37) <= 2
    assert abs(found.bottom - 187) <= 2


def test_what_is_no_border(photo: Photo) -> None:
    picture = photo(1, 150, 200, hazy=True)
    whole = Tile(0, 150, 0, 200)
    assert content_of(to_tensor(picture)) == whole
    assert content_of(torch.zeros(1, 3, 150, 200)) == whole
    assert content_of(torch.ones(1, 3, 150, 200)) == whole
    assert content_of(to_tensor(framed(picture, 0, 2, 0))) == Tile(0, 152, 0, 200)  # too thin
    assert content_of(to_tensor(framed(picture, 128, 20, 20))) == Tile(0, 190, 0, 200)  # gray may be anything
    assert content_of(to_tensor(framed(picture, 0, 140, 0))) == Tile(0, 290, 0, 200)  # half of the picture
    fading = (1.05 - torch.linspace(0, 0.4, 150))[:, None].clamp(max=1.0).expand(1, 3, 150, 200)
    burnt = torch.where(torch.arange(150)[:, None] > 60, to_tensor(picture), fading)
    assert float(burnt[:, :, :18].min()) == 1.0
    assert content_of(burnt) == whole  # a sky that is burnt out has no straight edge
    for size in ((1, 1), (1, 9), (8, 2), (5, 5)):
        assert content_of(torch.zeros(1, 3, *size)) == Tile(0, size[0], 0, size[1])


@pytest.mark.parametrize("level", [0, 255])
@pytest.mark.parametrize("model", ["dcp", "corun-compact"])
def test_they_are_kept_and_the_rest_is_dehazed_as_if_alone(photo: Photo, model: str, level: int) -> None:
    picture = photo(1, 96, 128, hazy=True)
    pixels = framed(picture, level, 24, 24, 16, 0)
    predictor = Predictor(model)
    for options in ({}, {"strength": 1.5, "keep_exposure": True, "protect": True}, {"strength": -1}):
        wanted = DehazeOptions.model_validate(options)
        found = predictor.dehaze_photo(Picture(pixels), wanted).pixels
        alone = predictor.dehaze_photo(Picture(picture), wanted).pixels
        assert np.array_equal(found[24:120, 16:], alone)
        found[24:120, 16:] = level
        assert (found == level).all()


def test_each_of_a_batch_has_its_own(photo: Photo) -> None:
    network = Predictor("dcp").network
    one = to_tensor(framed(photo(1, 96, 128, hazy=True), 0, 16, 16))
    other = to_tensor(photo(2, 128, 128, hazy=True))
    both = dehaze(network, torch.cat([one, other]))
    torch.testing.assert_close(both.scene, torch.cat([dehaze(network, image).scene for image in (one, other)]))
    assert both.transmission is not None
    assert (both.scene[0, :, :16] == 0).all()
    assert (both.transmission[0, :, :16] == 1).all()
    exact = dehaze(network, one, EXACT)
    assert not torch.equal(exact.scene[:, :, 16:112], both.scene[:1, :, 16:112])  # papers count all pixels


def test_of_a_video_they_stay_while_the_picture_goes_dark(photo: Photo) -> None:
    image = to_tensor(framed(photo(1, 96, 128, hazy=True), 0, 16, 16))
    inside = content_of(image)
    dark = image * 0.01
    assert content_of(dark) != inside
    assert content_of(dark, inside) == inside
    assert content_of(image.flip(-2).roll(40, -2), inside) != inside


def test_mirrored_in_gives_mirrored_out(photo: Photo) -> None:
    image = to_tensor(framed(photo(3, 90, 131, hazy=True), 0, 20, 0, 0, 12))
    network = Predictor("dcp").network

    def scene(picture: Tensor) -> Tensor:
        return dehaze(network, picture).scene

    difference = scene(image.flip(-1)).flip(-1) - scene(image)
    assert float(-10 * torch.log10(difference.square().mean() + 1e-12)) >= 45
