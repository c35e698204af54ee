"""Encoder frames to tokens: greedy TDT, RNN-T and CTC decoding, in numpy.

The loops are NeMo's (``GreedyTDTInfer``, ``GreedyRNNTInfer``, ``GreedyCTCInfer``), with a state
that is carried from one window of frames to the next: the predictor's output, how far the last
duration reaches into frames that have not been heard yet, and how far the tokens have come in
phrases to prefer. Nothing here waits for a device except where an ONNX export keeps its decoder in
a graph of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from parakeet_stt.model.boost import Phrases, Place
from parakeet_stt.model.config import ModelConfig
from parakeet_stt.model.encoder import EncoderFrames, Floats


@dataclass(frozen=True, slots=True)
class Emission:
    """A token as the decoder emits it.

    Attributes:
        token: Id in the vocabulary.
        frame: Encoder frame, counted from where decoding began.
        duration: Encoder frames that it spans; 0 where the model does not say.
        confidence: 0 to 1, by :func:`judge`.
        logprob: Natural logarithm of its probability among all tokens and blank, as the model has
            it: without what boosting adds, and where it emits the token.
    """

    token: int
    frame: int
    duration: int
    confidence: float
    logprob: float


class DecoderState(Protocol):
    """Decoder state after some frames; immutable, so it can be kept and reused."""

    @property
    def frame(self) -> int:
        """Encoder frames decoded so far."""
        ...


S = TypeVar("S", bound=DecoderState)


class Decoder(Protocol[S]):
    """A greedy decoder that can stop and resume after any frame."""

    def initial(self, phrases: Phrases | None = None) -> S:
        """Return the state before the first frame; decoding boosts ``phrases``."""
        ...

    def decode(self, frames: EncoderFrames, state: S) -> tuple[list[Emission], S]:
        """Decode the frames ``[frames, width]`` that follow ``state``."""
        ...


class Network(Protocol):
    """Prediction network and joint of a transducer."""

    def initial(self) -> Any:
        """The predictor before the first token (NeMo feeds it zeros, not an embedding)."""
        ...

    def advance(self, token: int, predictor: Any) -> Any:
        """The predictor after one more token."""
        ...

    def project(self, frames: EncoderFrames) -> Floats:
        """What of the joint depends on the encoder frames alone, for all of them at once."""
        ...

    def joint(self, projected: Floats, predictor: Any) -> Floats:
        """Logits of tokens, blank, then durations, for projected frames ``[frames, ...]``.

        Returns:
            float32 ``[frames, outputs]``.
        """
        ...


_BLOCK = 4
"""Frames that are joined with the predictor at once: mostly blanks, and a token is never far."""


@dataclass(frozen=True)
class Prefix:
    """The predictor after some tokens, and after those that have followed them so far.

    A hypothesis mostly repeats the one before, and a final the last hypothesis: what the predictor
    made of those tokens is remembered here, as long as somebody holds a prefix of them.
    """

    predictor: Any
    _longer: dict[int, Prefix] = field(default_factory=dict)

    def followed_by(self, token: int, network: Network) -> Prefix:
        """The prefix with one more token."""
        if token not in self._longer:
            self._longer[token] = Prefix(network.advance(token, self.predictor))
        return self._longer[token]


@dataclass(frozen=True)
class TransducerState:
    """State of :class:`GreedyTransducer`.

    Attributes:
        prefix: The prediction network after the last token.
        frame: Encoder frames decoded so far.
        skip: Frames, from ``frame`` on, that the last duration jumps over.
        symbols: Tokens emitted on the next frame already.
        place: How far the tokens have come in phrases to prefer; None where there are none.
    """

    prefix: Prefix
    frame: int = 0
    skip: int = 0
    symbols: int = 0
    place: Place | None = None


class GreedyTransducer:
    """Greedy decoding of TDT and RNN-T models.

    TDT: Xu et al., "Efficient Sequence Transduction by Jointly Predicting Tokens and Durations",
    2023. An RNN-T is the same loop with one duration: none for a token, one frame for a blank.

    Args:
        config: The model's configuration.
        network: Its prediction network and joint.
    """

    def __init__(self, config: ModelConfig, network: Network) -> None:
        self._network = network
        self._blank = config.blank
        self._durations = config.durations
        self._max_symbols = config.max_symbols

    def initial(self, phrases: Phrases | None = None) -> TransducerState:
        """Return the state before the first frame; decoding boosts ``phrases``."""
        place = None if phrases is None else phrases.start
        return TransducerState(Prefix(self._network.initial()), place=place)

    def decode(
        self, frames: EncoderFrames, state: TransducerState
    ) -> tuple[list[Emission], TransducerState]:
        """Decode the frames ``[frames, width]`` that follow ``state``."""
        prefix, symbols, place = state.prefix, state.symbols, state.place
        projected = self._network.project(frames[state.skip :])
        emitted: list[tuple[int, int, int]] = []
        heard: list[Floats] = []  # The logits of each.
        # A block of frames joined with the predictor as it is, and the best of each.
        logits, tokens, durations, first = projected, list[int](), list[int](), 0
        position = 0  # Behind the frames that the last duration skips.
        while position < len(projected):
            row = position - first
            if row >= len(tokens):
                first, row = position, 0
                logits = self._network.joint(projected[first : first + _BLOCK], prefix.predictor)
                tokens, durations = self._best(logits)
            token, duration = tokens[row], durations[row]
            symbols += 1
            if token != self._blank:
                if place is not None:
                    token, place = place.choose(logits[row, : self._blank])
                emitted.append((token, state.frame + state.skip + position, duration))
                heard.append(logits[row, : self._blank + 1])
                prefix = prefix.followed_by(token, self._network)
                tokens = []  # Another predictor: the block is void.
            elif duration == 0:
                duration = 1  # A blank always advances.
            if symbols >= self._max_symbols and duration == 0:
                duration = 1  # Too much for one frame: the model is stuck.
            if duration:
                position += duration
                symbols = 0
        beyond = state.skip + position - len(frames)
        end = TransducerState(prefix, state.frame + len(frames), beyond, symbols, place)
        if not emitted:
            return [], end
        judged = judge(np.array(heard), np.array([token for token, _, _ in emitted]))
        scores = zip(*(score.tolist() for score in judged), strict=True)
        return [Emission(*e, *score) for e, score in zip(emitted, scores, strict=True)], end

    def _best(self, logits: Floats) -> tuple[list[int], list[int]]:
        """The best token, or blank, and the best duration for each frame of a block."""
        tokens = logits[:, : self._blank + 1].argmax(axis=1).tolist()
        if not self._durations:
            return tokens, [0] * len(tokens)
        best = logits[:, self._blank + 1 :].argmax(axis=1)
        return tokens, [self._durations[index] for index in best]


@dataclass(frozen=True)
class CTCState:
    """State of :class:`GreedyCTC`.

    Attributes:
        best: The model's best token, or blank, of the last frame.
        token: The token that was taken for it, which boosting may have changed.
        frame: Encoder frames decoded so far.
        place: As in :class:`TransducerState`.
    """

    best: int
    token: int
    frame: int = 0
    place: Place | None = None


class GreedyCTC:
    """Greedy decoding of CTC models: the best token of each frame, repetitions merged.

    Args:
        config: The model's configuration.
        output: Output layer, float32 [outputs, width] and [outputs]; None where the frames are
            already the outputs (an ONNX export).
    """

    def __init__(self, config: ModelConfig, output: tuple[Floats, Floats] | None) -> None:
        self._blank = config.blank
        self._output = output

    def initial(self, phrases: Phrases | None = None) -> CTCState:
        """Return the state before the first frame; decoding boosts ``phrases``."""
        place = None if phrases is None else phrases.start
        return CTCState(self._blank, self._blank, place=place)

    def decode(self, frames: EncoderFrames, state: CTCState) -> tuple[list[Emission], CTCState]:
        """Decode the frames ``[frames, width]`` that follow ``state``."""
        logits = frames
        if self._output is not None:
            weight, bias = self._output
            logits = frames @ weight.T + bias
        last, token, place = state.best, state.token, state.place
        emissions: list[Emission] = []
        for index, best in enumerate(logits.argmax(axis=1).tolist()):
            if best == self._blank:
                token = best
            elif best not in (last, token):
                if place is None:
                    token = best
                else:
                    others = logits[index, : self._blank].copy()
                    if token != self._blank:
                        others[token] = -np.inf  # Without a blank between it would be the same.
                    token, place = place.choose(others)
                sure, likely = map(float, judge(logits[index], np.array(token)))
                emissions.append(Emission(token, state.frame + index, 1, sure, likely))
            elif emissions:
                emissions[-1] = replace(emissions[-1], duration=emissions[-1].duration + 1)
            last = best
        return emissions, CTCState(last, token, state.frame + len(frames), place)


@dataclass(frozen=True)
class LSTMPredictor:
    """A prediction network's state: hidden and cell ``[width]`` by layer, and its joint output."""

    hidden: tuple[Floats, ...]
    cell: tuple[Floats, ...]
    projected: Floats


class NumpyNetwork:
    """Prediction network (LSTM) and joint of a transducer, from a folder's weights.

    Args:
        weights: float32 arrays by parakeet-mlx's names.
        activation: Of the joint: ``relu``, ``tanh`` or ``sigmoid``.

    Raises:
        KeyError: A weight is missing.
    """

    def __init__(self, weights: Mapping[str, Floats], activation: str) -> None:
        self._embedding = weights["decoder.prediction.embed.weight"]
        prefix = "decoder.prediction.dec_rnn.lstm"
        layers = sum(name.startswith(prefix) and name.endswith(".Wx") for name in weights)
        self._layers = [
            (
                # Input and hidden state are multiplied in one product.
                _gates(np.hstack((weights[f"{prefix}.{i}.Wx"], weights[f"{prefix}.{i}.Wh"]))),
                _gates(weights[f"{prefix}.{i}.bias"]),
            )
            for i in range(layers)
        ]
        self._encoder = weights["joint.enc.weight"], weights["joint.enc.bias"]
        self._predictor = weights["joint.pred.weight"], weights["joint.pred.bias"]
        self._output = weights["joint.joint_net.2.weight"], weights["joint.joint_net.2.bias"]
        self._activation = _ACTIVATIONS[activation]

    def initial(self) -> LSTMPredictor:
        """The predictor after an embedding of zeros, which is what NeMo starts from."""
        width = len(self._layers[0][1]) // 4
        zeros = (np.zeros(width, np.float32),) * len(self._layers)
        return self._step(np.zeros(self._embedding.shape[1], np.float32), zeros, zeros)

    def advance(self, token: int, predictor: LSTMPredictor) -> LSTMPredictor:
        """The predictor after one more token."""
        return self._step(self._embedding[token], predictor.hidden, predictor.cell)

    def project(self, frames: EncoderFrames) -> Floats:
        """The joint's projection of encoder frames ``[frames, width]``."""
        weight, bias = self._encoder
        projected: Floats = frames @ weight.T + bias
        return projected

    def joint(self, projected: Floats, predictor: LSTMPredictor) -> Floats:
        """Logits of tokens, blank, then durations: float32 [frames, outputs]."""
        weight, bias = self._output
        logits: Floats = self._activation(projected + predictor.projected) @ weight.T + bias
        return logits

    def _step(
        self, value: Floats, hidden: tuple[Floats, ...], cell: tuple[Floats, ...]
    ) -> LSTMPredictor:
        hiddens, cells = [], []
        for (weight, bias), h, c in zip(self._layers, hidden, cell, strict=True):
            gates = weight @ np.concatenate((value, h)) + bias
            width = len(c)
            take, forget, give = _sigmoid(gates[: 3 * width]).reshape(3, width)
            c = forget * c + take * np.tanh(gates[3 * width :])
            value = give * np.tanh(c)
            hiddens.append(value)
            cells.append(c)
        weight, bias = self._predictor
        return LSTMPredictor(tuple(hiddens), tuple(cells), weight @ value + bias)


def _gates(value: Floats) -> Floats:
    """Rows of an LSTM's input, forget, candidate and output gate, the candidate's last."""
    take, forget, candidate, give = np.split(value, 4)
    return np.concatenate((take, forget, give, candidate))


def judge(
    logits: Floats, tokens: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the confidence and log-probability of the chosen token.

    Confidence, from 0 (every token alike) to 1 (one token only), is NeMo's ``entropy`` measure of
    type ``tsallis`` with alpha 2 and linear normalisation (Laptev and Ginsburg, "Fast Entropy-Based
    Methods of Word-Level Confidence Estimation", 2022). It tells wrong words from right ones as
    well as NeMo's default of alpha 0.33, whose values crowd at 0 (docs/benchmarks.md), and its
    scale is that of a probability.

    Args:
        logits: Of all tokens and blank, float32 [..., tokens + 1].
        tokens: What was chosen, [...].

    Returns:
        Confidences and natural logarithms of probabilities, float64 [...].
    """
    relative = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    weights = np.exp(relative)
    total = weights.sum(axis=-1)
    same = (weights**2).sum(axis=-1) / total**2
    guess = 1 / logits.shape[-1]
    chosen = np.take_along_axis(relative, tokens[..., None], axis=-1)[..., 0]
    return (same - guess) / (1 - guess), chosen - np.log(total)


def _sigmoid(x: Floats) -> Floats:
    # By way of tanh, which does not overflow.
    half = np.float32(0.5)
    result: Floats = half * np.tanh(half * x) + half
    return result


def _relu(x: Floats) -> Floats:
    result: Floats = np.maximum(x, np.float32(0))
    return result


_ACTIVATIONS: dict[str, Any] = {"relu": _relu, "tanh": np.tanh, "sigmoid": _sigmoid}
