"""The textbook form of channel attention, written for clarity: the oracle of tests and the baseline of benchmarks."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from types import MethodType
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.networks.blocks import AttentionBlock, ChannelAttention

N = TypeVar("N", bound=nn.Module)


def in_sequence(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """One layer after the other, nothing fused."""
    for layer in layers:
        x = layer(x)
    return x


def textbook_attention(layer: ChannelAttention, x: Tensor) -> Tensor:
    """q, k, v over the pixels, as MST (Cai et al., CVPR 2022) writes it: N C H W -> N C H W."""
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
    q, k, v = (rows @ part.weight.T for part in (layer.query, layer.key, layer.value))
    q_h, k_h, v_h = (part.reshape(n, h * w, layer.heads, -1).permute(0, 2, 3, 1) for part in (q, k, v))  # N H D S
    q_h, k_h = F.normalize(q_h, dim=-1), F.normalize(k_h, dim=-1)
    attention = (k_h @ q_h.transpose(-2, -1) * layer.rescale).softmax(dim=-1)
    attended = (attention @ v_h).permute(0, 3, 1, 2).reshape(n, h * w, c)
    projected = (attended @ layer.project.weight.T + layer.project.bias).reshape(n, h, w, c).permute(0, 3, 1, 2)
    return projected + in_sequence(layer.position, v.reshape(n, h, w, c).permute(0, 3, 1, 2))


def textbook_block(block: AttentionBlock, x: Tensor) -> Tensor:
    """``x += attention(x)``, then ``x += ffn(layernorm(x))``, each over the whole image."""
    x = x + textbook_attention(block.attention, x)
    return x + in_sequence(block.feed_forward, block.norm(x))


def as_textbook(network: N) -> N:
    """A copy with the same weights that computes by the book, in torch's ordinary memory layout."""
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    for module in plain.modules():
        if isinstance(module, AttentionBlock):
            module.forward = MethodType(textbook_block, module)  # type: ignore[method-assign]
    return plain
