"""The first layer of a video network (of each network, if two look at the same window) as a 2D convolution.

GPU libraries have only slow kernels for a 3D convolution over 3 colours (it takes more than half of the embedded
network's time on an H100). Over taps × colours, padded to a multiple of 8 channels, it is an ordinary 2D convolution:

    (B, 3, T, H, W) → rows (B, H, W, (T + 2·padding) · 3) → a view of `taps · 3` lanes at every time step → conv2d

The view overlaps itself, so one copy gathers the taps. Lanes beyond the taps have weights of 0. The result equals that
of the 3D form up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from stream_detector.engines.network import is_plain

LANES = 8  # the fast kernels need channels in multiples of this
FEW_CHANNELS = 4


class FoldedConv3d(nn.Module):
    """Replaces an `nn.Conv3d` that `can_fold` accepts; on its device, in its dtype, without gradients."""

    def __init__(self, layer: nn.Conv3d) -> None:
        super().__init__()
        outputs, channels, self.taps, height, width = layer.weight.shape
        self.step, *stride = layer.stride
        self.before, *padding = (int(p) for p in layer.padding)
        self.stride, self.padding = tuple(stride), tuple(padding)
        self.lanes = -(-self.taps * channels // LANES) * LANES
        weight = layer.weight.detach().new_zeros((outputs, self.lanes, height, width))
        weight[:, : self.taps * channels] = (
            layer.weight.detach().permute(0, 2, 1, 3, 4).reshape(outputs, -1, height, width)
        )
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    weight: Tensor
    bias: Tensor | None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) → (B, outputs, T', H', W'), as the 3D layer, in channels-last memory."""
        batch, channels, frames, height, width = x.shape
        steps = (frames + 2 * self.before - self.taps) // self.step + 1
        hop = self.step * channels
        length = max((frames + 2 * self.before) * channels, (steps - 1) * hop + self.lanes)
        rows = x.new_zeros((batch, height, width, length))
        inner = rows[..., self.before * channels : (self.before + frames) * channels]
        inner.view(batch, height, width, frames, channels).copy_(x.permute(0, 3, 4, 2, 1))
        shape = (batch, steps, height, width, self.lanes)
        taps = rows.as_strided(shape, (height * width * length, hop, width * length, length, 1))
        flat = taps.reshape(batch * steps, height, width, self.lanes).permute(0, 3, 1, 2)
        y = functional.conv2d(flat, self.weight, self.bias, self.stride, self.padding)
        return y.view(batch, steps, *y.shape[1:]).transpose(1, 2)


def can_fold(layer: nn.Module) -> bool:
    """Return whether a layer is a plain 3D convolution over few channels.

    A subclass, a layer with hooks, and one whose `forward` was replaced may compute something else: they are refused.
    """
    return (
        type(layer) is nn.Conv3d
        and is_plain(layer)
        and layer.in_channels <= FEW_CHANNELS
        and layer.groups == 1
        and tuple(layer.dilation) == (1, 1, 1)
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )


def fold_few_channels(network: nn.Module) -> int:
    """Replace every layer that `can_fold` accepts, in place; return how many. `network` itself is never replaced."""
    folded: dict[nn.Module, FoldedConv3d] = {}
    for name, layer in list(network.named_modules(remove_duplicate=False)):
        if not name or not isinstance(layer, nn.Conv3d) or not can_fold(layer):
            continue
        if layer not in folded:
            folded[layer] = FoldedConv3d(layer)
        parent, _, last = name.rpartition(".")
        setattr(network.get_submodule(parent), last, folded[layer])
    return len(folded)
