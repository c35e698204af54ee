"""The network in torch: FastConformer encoder, LSTM prediction network, joint, and NeMo's frontend.

Parameters carry parakeet-mlx's names, so that export is a renaming of nothing. With ``lengths``
the encoder masks padding everywhere, as NeMo does; training needs no masks (every window is full).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

MEL_BINS = 80
DURATIONS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    pieces: int = 256
    width: int = 128
    layers: int = 6
    heads: int = 4
    kernel: int = 9
    channels: int = 32
    expansion: int = 4
    predictor: int = 128
    joint: int = 128


class LogMel(nn.Module):
    """NeMo's raw log-mel: float32 [batch, samples] at 16 kHz to [batch, samples // 160, 80]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(400, periodic=False))
        self.register_buffer("filters", torch.from_numpy(_mel_filters()))

    def forward(self, samples: Tensor) -> Tensor:
        emphasised = torch.cat((samples[:, :1], samples[:, 1:] - 0.97 * samples[:, :-1]), 1)
        spectrum = torch.stft(
            emphasised, 512, 160, 400, self.window, center=True, pad_mode="constant",
            return_complex=True,
        )  # fmt: skip
        power = spectrum.real**2 + spectrum.imag**2
        mel = torch.log(self.filters @ power + 2**-24)
        return mel[:, :, : samples.shape[1] // 160].transpose(1, 2)


def normalise(mel: Tensor) -> Tensor:
    """NeMo's ``per_feature`` normalisation of raw log-mel [batch, frames, bins]."""
    deviation = mel.std(dim=1, keepdim=True, unbiased=True)
    return (mel - mel.mean(dim=1, keepdim=True)) / (deviation + 1e-5)


def _mel_filters() -> np.ndarray:
    """Slaney's filters with area normalisation: float32 [80, 257]."""
    bend = 15.0  # 1 kHz in mel: linear below, logarithmic above.
    top = bend + math.log(8.0) / (math.log(6.4) / 27)
    mels = np.linspace(0, top, MEL_BINS + 2)
    hertz = np.where(mels < bend, mels * 200 / 3, 1000 * np.exp((mels - bend) * np.log(6.4) / 27))
    bins = np.linspace(0, 8000, 257)
    up = (bins - hertz[:-2, None]) / (hertz[1:-1] - hertz[:-2])[:, None]
    down = (hertz[2:, None] - bins) / (hertz[2:] - hertz[1:-1])[:, None]
    area = 2 / (hertz[2:] - hertz[:-2])
    return (np.maximum(0, np.minimum(up, down)) * area[:, None]).astype(np.float32)


class Subsampling(nn.Module):
    """``dw_striding``: three strided convolutions, [batch, T, 80] to [batch, T / 8, width]."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        c = s.channels
        self.conv = nn.Sequential(
            nn.Conv2d(1, c, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(c, c, 3, 2, 1, groups=c), nn.Conv2d(c, c, 1), nn.ReLU(),
            nn.Conv2d(c, c, 3, 2, 1, groups=c), nn.Conv2d(c, c, 1), nn.ReLU(),
        )  # fmt: skip
        self.out = nn.Linear(c * MEL_BINS // 8, s.width)

    def forward(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = x.unsqueeze(1)
        for layer in self.conv:
            if lengths is not None and isinstance(layer, nn.Conv2d):
                x = x * _valid(lengths, x.shape[2])[:, None, :, None]
                if layer.stride[0] == 2:
                    lengths = (lengths + 1) // 2
            x = layer(x)
        x = x.transpose(1, 2).flatten(2)
        return self.out(x), lengths


class FeedForward(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.linear1 = nn.Linear(s.width, s.width * s.expansion, bias=False)
        self.linear2 = nn.Linear(s.width * s.expansion, s.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.silu(self.linear1(x)))


class Attention(nn.Module):
    """Multi-head attention with relative positions (Dai et al., Transformer-XL, 2019)."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.heads, self.size = s.heads, s.width // s.heads
        for name in ("q", "k", "v", "pos", "out"):
            setattr(self, f"linear_{name}", nn.Linear(s.width, s.width, bias=False))
        self.pos_bias_u = nn.Parameter(torch.zeros(s.heads, self.size))
        self.pos_bias_v = nn.Parameter(torch.zeros(s.heads, self.size))

    def forward(self, x: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        batch, frames, width = x.shape
        q = self.linear_q(x).reshape(batch, frames, self.heads, self.size)
        k = self.linear_k(x).reshape(batch, frames, self.heads, self.size).transpose(1, 2)
        v = self.linear_v(x).reshape(batch, frames, self.heads, self.size).transpose(1, 2)
        p = self.linear_pos(positions).reshape(1, -1, self.heads, self.size).transpose(1, 2)
        content = (q + self.pos_bias_u).transpose(1, 2) @ k.transpose(2, 3)
        place = (q + self.pos_bias_v).transpose(1, 2) @ p.transpose(2, 3)
        # Shift row i left so that its column j stands for the distance i - j.
        place = F.pad(place, (1, 0)).reshape(batch, self.heads, -1, frames)
        place = place[:, :, 1:].reshape(batch, self.heads, frames, -1)[..., :frames]
        scores = (content + place) / math.sqrt(self.size)
        if hidden is not None:
            scores = scores.masked_fill(hidden[:, None, None, :], -1e9)
        mixed = scores.softmax(-1) @ v
        return self.linear_out(mixed.transpose(1, 2).reshape(batch, frames, width))


class Convolution(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.pointwise_conv1 = nn.Conv1d(s.width, 2 * s.width, 1, bias=False)
        self.depthwise_conv = nn.Conv1d(
            s.width, s.width, s.kernel, padding=s.kernel // 2, groups=s.width, bias=False
        )
        self.batch_norm = nn.BatchNorm1d(s.width)
        self.pointwise_conv2 = nn.Conv1d(s.width, s.width, 1, bias=False)

    def forward(self, x: Tensor, hidden: Tensor | None) -> Tensor:
        x = F.glu(self.pointwise_conv1(x.transpose(1, 2)), dim=1)
        if hidden is not None:
            x = x.masked_fill(hidden[:, None, :], 0.0)
        x = F.silu(self.batch_norm(self.depthwise_conv(x)))
        return self.pointwise_conv2(x).transpose(1, 2)


class Layer(nn.Module):
    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.norm_feed_forward1, self.feed_forward1 = nn.LayerNorm(s.width), FeedForward(s)
        self.norm_self_att, self.self_attn = nn.LayerNorm(s.width), Attention(s)
        self.norm_conv, self.conv = nn.LayerNorm(s.width), Convolution(s)
        self.norm_feed_forward2, self.feed_forward2 = nn.LayerNorm(s.width), FeedForward(s)
        self.norm_out = nn.LayerNorm(s.width)

    def forward(self, x: Tensor, positions: Tensor, hidden: Tensor | None) -> Tensor:
        x = x + 0.5 * self.feed_forward1(self.norm_feed_forward1(x))
        x = x + self.self_attn(self.norm_self_att(x), positions, hidden)
        x = x + self.conv(self.norm_conv(x), hidden)
        x = x + 0.5 * self.feed_forward2(self.norm_feed_forward2(x))
        return self.norm_out(x)


class Encoder(nn.Module):
    """Normalised log-mel [batch, frames, 80] to [batch, frames / 8, width]."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.width = s.width
        self.pre_encode = Subsampling(s)
        self.layers = nn.ModuleList(Layer(s) for _ in range(s.layers))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        x, lengths = self.pre_encode(x, lengths)
        positions = _positions(x.shape[1], self.width, x)
        hidden = None if lengths is None else ~_valid(lengths, x.shape[1]).bool()
        for layer in self.layers:
            x = layer(x, positions, hidden)
        return x, lengths


def _valid(lengths: Tensor, frames: int | Tensor) -> Tensor:
    """1.0 where a frame is before its item's end: [batch, frames]."""
    index = torch.arange(frames, device=lengths.device)
    return (index[None] < lengths[:, None]).float()


def _positions(frames: int | Tensor, width: int, like: Tensor) -> Tensor:
    """Sinusoids of the distances frames-1 to -(frames-1): [1, 2 frames - 1, width]."""
    distance = torch.arange(2 * frames - 1, device=like.device).flip(0) - (frames - 1)
    rate = torch.exp(torch.arange(0, width, 2, device=like.device) * (-math.log(10000.0) / width))
    angle = distance[:, None].float() * rate
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)[None]


class Predictor(nn.Module):
    """The prediction network: previous pieces to [batch, pieces + 1, width]."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.embed = nn.Embedding(s.pieces + 1, s.predictor, padding_idx=s.pieces)
        self.lstm = nn.LSTM(s.predictor, s.predictor, batch_first=True)

    def forward(self, targets: Tensor) -> Tensor:
        """``targets`` int64 [batch, pieces]; a zero embedding stands before them."""
        x = F.pad(self.embed(targets), (0, 0, 1, 0))
        return self.lstm(x)[0]


class Joint(nn.Module):
    """Encoder [batch, t, d] and predictor [batch, u, d] to logits [batch, t, u, pieces + 6]."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.enc = nn.Linear(s.width, s.joint)
        self.pred = nn.Linear(s.predictor, s.joint)
        self.out = nn.Linear(s.joint, s.pieces + 1 + len(DURATIONS))

    def forward(self, encoded: Tensor, predicted: Tensor) -> Tensor:
        mixed = self.enc(encoded)[:, :, None] + self.pred(predicted)[:, None]
        return self.out(F.relu(mixed))


class Model(nn.Module):
    """All that is trained; the CTC head is left behind at export."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.shape = s
        self.encoder = Encoder(s)
        self.predictor = Predictor(s)
        self.joint = Joint(s)
        self.ctc = nn.Linear(s.width, s.pieces + 1)
