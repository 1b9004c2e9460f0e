"""Layers that hold their weights as integers: what the ways of ``quantize`` and ``aware`` leave to run.

``codes`` and ``scale`` are plain tensors, so that a ``state_dict`` is saved without pickle. ``weight`` gives the weights
in float32, for code that reads a layer's weight itself.

Under ``torch.export`` activations and weights go through the operators ``quantized_decomposed``: ONNX has QuantizeLinear
and DequantizeLinear for them, and ExecuTorch and OpenVINO know them as well.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from understudy.compress.rounding import LEAST, MOST, affine, codes, largest, pack, rounded, scales, unpack

__all__ = ["Grid", "QuantConv", "QuantEmbedding", "QuantLinear", "quantized"]


@functools.cache
def _operators() -> Any:
    # The import registers them, and warns that its package is to move.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch.ao.quantization.fx._decomposed
    return torch.ops.quantized_decomposed


class Grid(nn.Module):
    """Activations on the grid of a calibrated range: int8, one scale and one zero for the whole tensor."""

    scale: Tensor
    zero: Tensor

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        scale, zero = affine(low.detach(), high.detach())
        self.register_buffer("scale", scale)
        self.register_buffer("zero", zero)
        self.register_load_state_dict_post_hook(Grid._read)  # type: ignore[no-untyped-call]
        Grid._read(self)

    def _read(self, _: object = None) -> None:
        # As numbers: an exporter writes them into the file, where runtimes look for them, and traces tensors otherwise.
        self.numbers = (float(self.scale), int(self.zero))

    def forward(self, x: Tensor) -> Tensor:
        """The nearest values of the grid, in the dtype of ``x``."""
        if torch.compiler.is_exporting():
            options = (*self.numbers, LEAST, MOST, torch.int8)
            ops = _operators()
            made: Tensor = ops.dequantize_per_tensor(ops.quantize_per_tensor(x.float(), *options), *options)
            return made.to(x.dtype)
        return rounded(x.float(), *self.numbers).to(x.dtype)

    def codes(self, x: Tensor) -> Tensor:
        """The same as int8 codes."""
        scale, zero = self.numbers
        return (torch.round(x.float() / scale) + zero).clamp_(LEAST, MOST).to(torch.int8)

    def extra_repr(self) -> str:
        """Scale and zero."""
        return "scale={:.3g}, zero={}".format(*self.numbers)


class _Held(nn.Module):
    """Weights as integers: int8 as they are, or two of four bits in a byte."""

    scale: Tensor

    def __init__(self, weight: Tensor, scale: Tensor, bits: int) -> None:
        """``scale`` is ``[out]``, or ``[out, groups]`` of equally many weights, the last of which may be shorter."""
        super().__init__()
        self.bits, self.shape = bits, tuple(weight.shape)
        self.group = math.prod(self.shape[1:]) if scale.ndim == 1 else -(-math.prod(self.shape[1:]) // scale.shape[1])
        whole = codes(_grouped(weight.detach().float(), self.group), scale.flatten(), bits).to(torch.int8)
        whole = whole.view(self.shape[0], -1)[:, : math.prod(self.shape[1:])]
        self.codes = nn.Parameter(
            whole.reshape(self.shape) if bits == 8 else pack(whole.flatten()), requires_grad=False
        )
        self.register_buffer("scale", scale.detach().clone())

    @property
    def packed_weights(self) -> int:
        """How many more weights are held than the codes have elements."""
        return math.prod(self.shape) - self.codes.numel()

    def integers(self) -> Tensor:
        """The codes as int8, in the weight's shape."""
        return self.codes if self.bits == 8 else unpack(self.codes, math.prod(self.shape)).view(self.shape)

    @property
    def weight(self) -> Tensor:
        """The weight in float."""
        if self.scale.ndim == 1:
            if torch.compiler.is_exporting():
                most, zeros = largest(self.bits), torch.zeros_like(self.scale, dtype=torch.int64)
                made: Tensor = _operators().dequantize_per_channel(
                    self.integers(), self.scale, zeros, 0, -most, most, torch.int8
                )
                return made
            return self.integers() * self.scale.view(-1, *[1] * (len(self.shape) - 1))
        rows = _grouped(self.integers().float(), self.group) * self.scale.view(-1, 1)
        return rows.view(self.shape[0], -1)[:, : math.prod(self.shape[1:])].reshape(self.shape)

    def extra_repr(self) -> str:
        """Sizes and bits."""
        return f"{list(self.shape)}, {self.bits} bits, {self.scale.numel()} scales"


def _grouped(weight: Tensor, group: int) -> Tensor:
    """``[out, ...]`` as rows of ``group`` weights, each channel filled up with zeros."""
    flat = weight.flatten(1)
    return F.pad(flat, (0, -flat.shape[1] % group)).reshape(-1, group)


class QuantEmbedding(_Held):
    """An embedding whose rows are integers, each with its scale; a row is made float when it is looked up."""

    def forward(self, index: Tensor) -> Tensor:
        """Rows of the table."""
        if self.bits == 8 and self.scale.ndim == 1:
            return F.embedding(index, self.codes) * F.embedding(index, self.scale[:, None])
        return F.embedding(index, self.weight)


class _Layer(_Held):
    def __init__(self, layer: nn.Module, weight: Tensor, bias: Tensor | None, scale: Tensor, bits: int) -> None:
        super().__init__(weight, scale, bits)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.before: Grid | None = None
        self.after: Grid | None = None

    def _bias(self, x: Tensor) -> Tensor | None:
        return None if self.bias is None else self.bias.to(x.dtype)


class QuantLinear(_Layer):
    """A linear layer with integer weights.

    Of weights alone (``before`` is None, ``dynamic`` False) the product is one of floats. With a grid for the inputs, or
    with ``dynamic``, by which each row of inputs gets its own symmetric scale when it comes, the product is one of int8
    with sums in int32 on a CPU. Elsewhere, and where a gradient flows into the inputs, it is the same product of rounded
    floats.
    """

    sums: Tensor

    def __init__(self, layer: nn.Module, weight: Tensor, bias: Tensor | None, scale: Tensor, bits: int = 8) -> None:
        super().__init__(layer, weight, bias, scale, bits)
        self.out_features, self.in_features = self.shape
        self.dynamic = False
        self.register_buffer("sums", torch.zeros(self.shape[0], dtype=torch.int32), persistent=False)
        self.register_load_state_dict_post_hook(QuantLinear._add_up)  # type: ignore[no-untyped-call]
        QuantLinear._add_up(self)

    def _add_up(self, _: object = None) -> None:
        self.sums = self.integers().sum(1, dtype=torch.int32)

    def forward(self, x: Tensor) -> Tensor:
        """``[*, in]`` to ``[*, out]``."""
        whole = x.device.type == "cpu" and self.scale.ndim == 1 and not (torch.is_grad_enabled() and x.requires_grad)
        whole = whole and not torch.compiler.is_exporting() and x.numel() > 0
        if self.before is not None:
            if whole:
                scale, zero = self.before.numbers
                return self._product(self.before.codes(x), zero, self.scale * scale, x)
            x = self.before(x)
        elif self.dynamic:
            step = (x.detach().float().abs().amax(-1, keepdim=True) / MOST).clamp_min(torch.finfo(torch.float32).tiny)
            if whole:
                at = torch.round(x.float() / step).to(torch.int8)
                return self._product(at, 0, self.scale * step, x)
            x = (torch.round(x / step) * step).to(x.dtype) if torch.compiler.is_exporting() else rounded(x, step)
        return F.linear(x, self.weight.to(x.dtype), self._bias(x))

    def _product(self, at: Tensor, zero: int, scale: Tensor, x: Tensor) -> Tensor:
        sums = torch._int_mm(at.reshape(-1, self.in_features), self.integers().t()).view(*at.shape[:-1], -1)
        made = (sums - zero * self.sums if zero else sums) * scale
        return (made if self.bias is None else made + self.bias).to(x.dtype)


class QuantConv(_Layer):
    """A convolution with integer weights. In PyTorch its product is one of floats: of the values that the integers stand
    for, which are those of a runtime's int8 arithmetic but for the last digits."""

    def __init__(self, layer: nn.Module, weight: Tensor, bias: Tensor | None, scale: Tensor, bits: int = 8) -> None:
        super().__init__(layer, weight, bias, scale, bits)
        form = type(layer).__new__(type(layer))
        form.__dict__.update({**layer.__dict__, "_parameters": {"weight": None, "bias": None}, "_modules": {}})
        # Stride, padding and the like, without weights. Within a tuple, since it is no layer of the model.
        self.form: tuple[Any] = (form,)

    def extra_repr(self) -> str:
        """Sizes, bits, and what the convolution is."""
        return f"{super().extra_repr()}, {self.form[0].extra_repr()}"

    def forward(self, x: Tensor) -> Tensor:
        """As the convolution."""
        x = x if self.before is None else self.before(x)
        y: Tensor = self.form[0]._conv_forward(x, self.weight.to(x.dtype), self._bias(x))
        return y if self.after is None else self.after(y)


def quantized(
    layer: nn.Module, bits: int = 8, group: int | None = None, weight: Tensor | None = None, bias: Tensor | None = None
) -> Any:
    """A layer's form with integer weights; ``weight`` and ``bias`` in place of its own, if a normalization is folded in."""
    bias = cast("Tensor | None", getattr(layer, "bias", None)) if weight is None else bias
    weight = cast("Tensor", layer.weight) if weight is None else weight
    size = math.prod(weight.shape[1:])
    scale = scales(_grouped(weight.detach().float(), min(group or size, size)), bits)
    scale = scale if group is None else scale.view(len(weight), -1)
    if isinstance(layer, nn.Embedding):
        made: nn.Module = QuantEmbedding(weight, scale, bits)
    else:
        kind = QuantLinear if isinstance(layer, nn.Linear) else QuantConv
        made = kind(layer, weight, bias, scale, bits)
    return made.train(layer.training)
