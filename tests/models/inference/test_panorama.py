"""Panoramas that say what they are, and what becomes of them."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from models.images import Metadata, Photo, decode
from models.inference.panorama import goes_round
from models.options import DehazeOptions
from models.predictor import Predictor

ATTRIBUTES = '<rdf:Description GPano:ProjectionType="{kind}" GPano:FullPanoWidthPixels="{width}"/>'
ELEMENTS = (
    "<GPano:ProjectionType> {kind} </GPano:ProjectionType>"
    "<GPano:FullPanoWidthPixels>{width}</GPano:FullPanoWidthPixels>"
)


def photo(text: str) -> Photo:
    return Photo(np.zeros((10, 64, 3), np.uint8), metadata=Metadata(xmp=text.encode()))


@pytest.mark.parametrize("form", [ATTRIBUTES, ELEMENTS])
def test_the_whole_circle_only(form: str) -> None:
    assert goes_round(photo(form.format(kind="equirectangular", width=64)))
    assert not goes_round(photo(form.format(kind="equirectangular", width=128)))
    assert not goes_round(photo(form.format(kind="equirectangular", width=6)))
    assert not goes_round(photo(form.format(kind="cylindrical", width=64)))
    assert not goes_round(photo(form))
    assert not goes_round(Photo(np.zeros((10, 64, 3), np.uint8)))


def test_files_are_wrapped_by_what_they_say_or_what_is_asked() -> None:
    pixels = np.random.default_rng(0).integers(100, 220, (48, 96, 3), dtype=np.uint8)

    def file(xmp: str) -> bytes:
        buffer = io.BytesIO()
        packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/">{xmp}</x:xmpmeta>'
        Image.fromarray(pixels).save(buffer, "JPEG", quality=95, xmp=packet.encode())
        return buffer.getvalue()

    predictor = Predictor("dcp")
    round_file = file(ATTRIBUTES.format(kind="equirectangular", width=96))
    plain = file(ATTRIBUTES.format(kind="equirectangular", width=192))
    assert goes_round(decode(round_file))

    def made(data: bytes, wrap: bool | None) -> bytes:
        return predictor.dehaze_bytes(data, DehazeOptions(wrap=wrap, format="PNG"))[0]

    assert made(round_file, None) == made(round_file, True) == made(plain, True)
    assert made(round_file, False) == made(plain, None) == made(plain, False)
    assert made(plain, True) != made(plain, False)
    (note,) = predictor.dehaze_bytes(round_file)[1].notes
    assert "a panorama of 360 degrees" in note
    assert not predictor.dehaze_bytes(plain)[1].notes
