"""Channel attention against its textbook form, and the U-shaped transformer around it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.networks import blocks
from models.networks.blocks import ChannelAttention
from tests.models.textbook import textbook_attention, textbook_block


def random_attention(channels: int, head_channels: int, dtype: torch.dtype) -> ChannelAttention:
    torch.manual_seed(channels)
    layer = ChannelAttention(channels, head_channels).to(dtype)
    torch.nn.init.normal_(layer.rescale, 3.0, 1.0)  # sharp and different per head, so that heads cannot be mixed up
    return layer


@pytest.mark.parametrize(
    ("channels", "head_channels", "size"),
    [(4, 4, (8, 8)), (8, 4, (5, 7)), (12, 2, (3, 10)), (24, 6, (16, 16)), (6, 3, (1, 4)), (8, 4, (1, 1))],
)
def test_second_moments_give_the_textbook_attention(channels: int, head_channels: int, size: tuple[int, int]) -> None:
    layer = random_attention(channels, head_channels, torch.float64)
    assert layer.heads == channels // head_channels
    x = torch.randn(2, channels, *size, dtype=torch.float64, requires_grad=True)
    ours, theirs = layer(x), textbook_attention(layer, x)
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)
    direction = torch.randn_like(ours)
    names, parameters = zip(*layer.named_parameters(), strict=True)
    ours_grad = torch.autograd.grad((ours * direction).sum(), (x, *parameters))
    theirs_grad = torch.autograd.grad((theirs * direction).sum(), (x, *parameters))
    wrong = [
        name
        for name, a, b in zip(("x", *names), ours_grad, theirs_grad, strict=True)
        if not torch.allclose(a, b, atol=1e-8, rtol=1e-6)
    ]
    assert wrong == []


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_float32_rounding_stays_small(memory_format: torch.memory_format) -> None:
    layer = random_attention(32, 8, torch.float32)
    x = torch.randn(2, 32, 40, 24).contiguous(memory_format=memory_format)
    torch.testing.assert_close(layer(x), textbook_attention(layer, x), atol=2e-5, rtol=0)


def test_attention_of_nothing_is_finite_and_so_is_its_gradient() -> None:
    layer = random_attention(8, 4, torch.float32)
    x = torch.zeros(1, 8, 4, 4, requires_grad=True)
    out = layer(x)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    network = blocks.SpectralTransformer(4, 3, 4).double()
    x = torch.randn(2, 4, 16, 8, dtype=torch.float64)
    torch.testing.assert_close(network(x)[1:], network(x[1:]))


def test_channel_norm_is_over_the_channels() -> None:
    normed = blocks.ChannelNorm(16)(5 + 3 * torch.randn(2, 16, 3, 5))
    torch.testing.assert_close(normed.mean(1), torch.zeros(2, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(normed.var(1, correction=0), torch.ones(2, 3, 5), atol=1e-3, rtol=0)


def test_block_adds_attention_then_the_normed_feed_forward() -> None:
    block, x = blocks.AttentionBlock(8, 4).double(), torch.randn(1, 8, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(block(x), textbook_block(block, x))


@pytest.mark.parametrize(("groups", "bias"), [(1, False), (8, False), (1, True)])
def test_a_convolution_with_its_gelu_is_the_two_in_turn(groups: int, bias: bool) -> None:
    conv, x = torch.nn.Conv2d(8, 16, 3, padding=1, groups=groups, bias=bias), torch.randn(2, 8, 9, 7)
    expected = F.gelu(conv(x)).detach()
    torch.testing.assert_close(blocks.conv_gelu(conv, x).detach(), expected)
    with torch.no_grad():
        torch.testing.assert_close(blocks.conv_gelu(conv, x), expected, atol=5e-6, rtol=0)
        in_place = blocks.conv_gelu(conv.double(), x.double())
    torch.testing.assert_close(in_place, F.gelu(conv(x.double())).detach())


def test_without_gradients_the_input_of_a_block_stays_as_it_was() -> None:
    block, x = blocks.AttentionBlock(8, 4), torch.randn(1, 8, 6, 6)
    before, expected = x.clone(), block(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)
    assert torch.equal(x, before)


def test_second_moments_are_more_accurate_than_the_textbook_on_many_pixels() -> None:
    layer = random_attention(8, 8, torch.float32)
    x = torch.randn(1, 8, 512, 512)
    truth = textbook_attention(layer.double(), x.double())
    layer = layer.float()
    ours, theirs = ((f.double() - truth).abs().max() for f in (layer(x), textbook_attention(layer, x)))
    assert ours < 1e-5
    assert ours < theirs


@pytest.mark.parametrize("per_channel", [True, False])
def test_global_norms_are_torch_s(per_channel: bool) -> None:
    ours = blocks.GlobalNorm(6, per_channel=per_channel)
    theirs: torch.nn.Module = torch.nn.InstanceNorm2d(6, affine=True) if per_channel else torch.nn.GroupNorm(1, 6)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.data.uniform_(0.5, 2.0)
        other.data.copy_(mine)
    x = 3 + 2 * torch.randn(2, 6, 9, 11)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=0)
    plain = blocks.GlobalNorm(6, affine=False)
    assert list(plain.parameters()) == []
    torch.testing.assert_close(plain(x), torch.nn.InstanceNorm2d(6)(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_in_half_precision_only_round_their_result(dtype: torch.dtype) -> None:
    x = (10 + torch.randn(2, 6, 16, 16)).to(dtype).requires_grad_()
    found = blocks.GlobalNorm(6)(x)
    exact = torch.nn.InstanceNorm2d(6)(x.float())
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), exact, atol=1e-5, rtol=torch.finfo(dtype).eps)
    found.float().square().mean().backward()
    assert x.grad is not None
    assert x.grad.dtype == dtype


@pytest.mark.parametrize(("in_channels", "out_channels"), [(4, 1), (4, 3)])
def test_transformer_adds_its_first_input_channels(in_channels: int, out_channels: int) -> None:
    network, x = blocks.SpectralTransformer(in_channels, out_channels, 2), torch.randn(2, in_channels, 8, 16)
    assert network(x).shape == (2, out_channels, 8, 16)
    torch.nn.init.zeros_(network.output.weight)
    assert torch.equal(network(x), x[:, :out_channels])


@settings(max_examples=30, deadline=None)
@given(height=st.integers(1, 20), width=st.integers(1, 20), multiple=st.sampled_from([1, 4, 8]))
def test_padding_reaches_the_next_multiple_and_keeps_the_image(height: int, width: int, multiple: int) -> None:
    image = torch.rand(1, 2, height, width)
    padded = blocks.pad_to_multiple(image, multiple)
    assert torch.equal(padded[..., :height, :width], image)
    for side, size in zip(padded.shape[-2:], (height, width), strict=True):
        assert side % multiple == 0
        assert side - size < multiple


def test_padding_reflects_where_it_can_and_repeats_the_border_where_not() -> None:
    row = torch.arange(5.0).expand(1, 1, 8, 5)
    assert blocks.pad_to_multiple(row, 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 3, 2, 1]
    assert blocks.pad_to_multiple(row[..., :3], 8)[0, 0, 0].tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
