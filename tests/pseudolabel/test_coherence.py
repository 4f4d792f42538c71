"""The admission rule, blocks and trust maps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudolabel.coherence import admits, blocks, trust_from_blocks, upsample_trust

score = st.floats(0, 1)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ((None, None), (0.0, 0.0), True),
        ((0.5, 0.5), (0.6, 0.6), True),
        ((0.5, 0.5), (0.5, 0.5), True),
        ((0.5, 0.5), (0.6, 0.5), True),
        ((0.5, 0.5), (0.9, 0.4), False),
        ((0.5, 0.5), (0.4, 0.9), False),
        ((0.5, 0.5), (0.4, 0.4), False),
        ((None, None), (math.nan, 0.9), False),
        ((0.1, 0.1), (0.9, math.nan), False),
        ((0.1, 0.1), (math.inf, 0.9), False),
    ],
)
def test_both_coherences_must_agree(old, new, expected):
    assert admits(*old, *new) is expected


@given(st.lists(st.tuples(score, score, score, score), min_size=1, max_size=20))
def test_arrays_agree_with_scalars(rows):
    columns = np.array(rows, dtype=np.float64).T
    columns[:2, 0] = np.nan  # the first photograph has nothing held yet
    mask = admits(*columns)
    assert np.asarray(mask).tolist() == [True, *(admits(*row) for row in rows[1:])]


def test_blocks_are_cut_row_by_row_and_keep_their_pixels():
    image = torch.arange(2 * 3 * 70 * 100, dtype=torch.float32).reshape(2, 3, 70, 100)
    cut = blocks(image, 32)
    assert cut.shape == (2, 2, 3, 3, 32, 32)
    assert torch.equal(cut[1, 1, 2], image[1, :, 32:64, 64:96])


def test_blocks_of_too_small_an_image_say_so():
    with pytest.raises(ValueError, match="20x40"):
        blocks(torch.zeros(1, 3, 20, 40), 32)


def test_trust_is_high_where_the_label_is_free_of_haze():
    clearness = torch.tensor([[[0.1, 0.9]]])
    quality = torch.tensor([[[0.5, 0.7]]])
    trust = trust_from_blocks(clearness, quality)
    torch.testing.assert_close(trust, torch.tensor([[[0.3, 0.8]]]))
    pixels = upsample_trust(trust, (8, 64))
    assert pixels.shape == (1, 1, 8, 64)
    assert (pixels.diff(dim=3) > -1e-6).all(), "the hazy half must be trusted less"
    assert pixels[0, 0, 0, 0].item() == pytest.approx(0.3)
    assert pixels[0, 0, 0, -1].item() == pytest.approx(0.8)
    torch.testing.assert_close(trust_from_blocks(clearness, quality, "product"), torch.tensor([[[0.05, 0.63]]]))


def test_upsampled_trust_keeps_the_centers_of_the_blocks():
    trust = torch.rand(2, 3, 5)
    pixels = upsample_trust(trust, (3 * 9, 5 * 9))
    torch.testing.assert_close(pixels[:, 0, 4::9, 4::9], trust)
