"""Channel attention through second moments against its textbook form, and the shapes of the shared blocks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.blocks import ChannelAttention, SpectralTransformer, pad_to_multiple


def textbook_attention(block: ChannelAttention, x: Tensor) -> Tensor:
    """MST's attention as published: q, k and v over all pixels, normalised, ``softmax(r k q^T) v``, projected."""
    n, c, h, w = x.shape
    pixels = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    query, key, value = (part(pixels) for part in (block.query, block.key, block.value))
    q, k, v = (part.view(n, h * w, block.heads, -1).permute(0, 2, 3, 1) for part in (query, key, value))
    q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
    attention = (k @ q.transpose(-2, -1) * block.rescale).softmax(dim=-1)
    mixed = (attention @ v).permute(0, 3, 1, 2).reshape(n, h * w, c)
    out = block.project(mixed).view(n, h, w, c)
    position = block.position(value.view(n, h, w, c).permute(0, 3, 1, 2))
    return out.permute(0, 3, 1, 2) + position


@pytest.mark.parametrize(("channels", "head", "height", "width"), [(8, 8, 5, 7), (16, 8, 12, 4), (24, 6, 9, 9)])
def test_attention_equals_the_textbook(channels: int, head: int, height: int, width: int) -> None:
    torch.manual_seed(channels)
    block = ChannelAttention(channels, head).double()
    with torch.no_grad():
        block.rescale.uniform_(0.5, 3.0)
    x = torch.randn(3, channels, height, width, dtype=torch.float64)
    assert block.heads == channels // head
    torch.testing.assert_close(block(x), textbook_attention(block, x), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(block.float()(x.float()), textbook_attention(block, x.float()), rtol=1e-4, atol=1e-5)


def test_gradients_equal_the_textbook_s() -> None:
    torch.manual_seed(0)
    block = ChannelAttention(8, 4).double()
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    ours = torch.autograd.grad(block(x).square().sum(), list(block.parameters()))
    theirs = torch.autograd.grad(textbook_attention(block, x).square().sum(), list(block.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-10)


def test_attention_of_an_empty_image_is_finite() -> None:
    block = ChannelAttention(8, 8)
    assert torch.isfinite(block(torch.zeros(1, 8, 4, 4))).all()


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (7, 9), (3, 17), (16, 25)])
def test_padding_keeps_the_image_and_reaches_the_multiple(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size)
    padded = pad_to_multiple(image, 8)
    assert all(side % 8 == 0 for side in padded.shape[-2:])
    assert all(have - side < 8 for have, side in zip(padded.shape[-2:], size, strict=True))
    assert torch.equal(padded[..., : size[0], : size[1]], image)
    assert padded.min() >= image.min()
    assert padded.max() <= image.max()


def test_transformer_adds_to_the_first_channels() -> None:
    network = SpectralTransformer(4, 3, dim=4)
    torch.nn.init.zeros_(network.output.weight)
    x = torch.rand(2, 4, 16, 24)
    assert torch.equal(network(x), x[:, :3])
