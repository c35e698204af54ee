"""A model's configuration, as far as this package needs it.

Read from a parakeet-mlx folder's ``config.json`` (NeMo's YAML as JSON) or from an onnx-asr
export's (``model_type`` and a vocabulary file). A configuration that cannot be run is refused
here, with the key and its value.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from parakeet_stt.errors import ModelFormatError

Kind = Literal["tdt", "rnnt", "ctc"]

ENCODER_HOP = 8
"""Mel frames per encoder frame."""

_MAX_SYMBOLS = 10
_ACTIVATIONS = ("relu", "tanh", "sigmoid")
_TDT_DURATIONS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class ModelConfig:
    """What distinguishes one Parakeet model from another.

    Attributes:
        kind: How it decodes.
        features: Mel bins.
        vocabulary: Pieces by id; blank is the id after the last.
        durations: Encoder frames that a TDT token may span; empty for the other kinds.
        max_symbols: Most tokens that may be emitted on one encoder frame.
        activation: Of a transducer's joint: ``relu``, ``tanh`` or ``sigmoid``.
    """

    kind: Kind
    features: int
    vocabulary: tuple[str, ...]
    durations: tuple[int, ...] = ()
    max_symbols: int = _MAX_SYMBOLS
    activation: str = "relu"

    @property
    def blank(self) -> int:
        """Id of the blank token."""
        return len(self.vocabulary)


@dataclass(frozen=True)
class EncoderConfig:
    """What the shapes of an encoder's tensors do not show.

    Attributes:
        layers: Number of FastConformer blocks.
        heads: Number of attention heads.
        scale_input: Whether the subsampled input is multiplied by the square root of the width.
    """

    layers: int
    heads: int
    scale_input: bool


def nemo_encoder(config: dict[str, Any], where: Path) -> EncoderConfig:
    """Read the encoder's part of NeMo's configuration; errors as :func:`from_nemo`."""
    reader = _Reader(config, where)
    return EncoderConfig(
        layers=reader.number("encoder.n_layers"),
        heads=reader.number("encoder.n_heads"),
        scale_input=bool(reader.get("encoder.xscaling", default=True)),
    )


def from_transformers(
    config: dict[str, Any], tokenizer: dict[str, Any], where: Path
) -> tuple[ModelConfig, EncoderConfig]:
    """Read the configuration of a model in Hugging Face Transformers' layout.

    Args:
        config: The parsed ``config.json``.
        tokenizer: The parsed ``tokenizer.json``.
        where: The file ``config.json``, for messages.

    Raises:
        ModelFormatError: A key is missing or has a value that this version cannot run.
    """
    reader = _Reader(config, where)
    kinds: dict[str, Kind] = {"parakeet_tdt": "tdt", "parakeet_rnnt": "rnnt", "parakeet_ctc": "ctc"}
    model_type = reader.get("model_type")
    if model_type not in kinds:
        raise ModelFormatError(
            f"{where}: model_type={model_type!r} is not a model that this version can run; it "
            f"runs {', '.join(kinds)}."
        )
    kind = kinds[model_type]
    reader.expect("encoder_config.subsampling_factor", ENCODER_HOP, default=ENCODER_HOP)
    reader.expect("encoder_config.hidden_act", "silu", default="silu")
    blank = reader.number("pad_token_id" if kind == "ctc" else "blank_token_id")
    reader.expect("vocab_size", blank + 1)
    activation = reader.get("hidden_act", default="relu")
    if activation not in _ACTIVATIONS:
        reader.refuse("hidden_act", activation, f"one of {', '.join(_ACTIVATIONS)}")
    encoder = EncoderConfig(
        layers=reader.number("encoder_config.num_hidden_layers"),
        heads=reader.number("encoder_config.num_attention_heads"),
        scale_input=bool(reader.get("encoder_config.scale_input", default=True)),
    )
    model = ModelConfig(
        kind=kind,
        features=reader.number("encoder_config.num_mel_bins"),
        vocabulary=_tokenizer_pieces(tokenizer, blank, where.parent / "tokenizer.json"),
        durations=tuple(reader.numbers("durations")) if kind == "tdt" else (),
        max_symbols=reader.number("max_symbols_per_step", default=_MAX_SYMBOLS),
        activation=activation,
    )
    return model, encoder


def _tokenizer_pieces(tokenizer: dict[str, Any], count: int, where: Path) -> tuple[str, ...]:
    """The pieces with the ids below ``count``, those of added tokens included."""
    model = tokenizer.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    pieces: dict[int, str] = {}
    if isinstance(vocabulary, dict):  # BPE: ids by piece.
        pieces = {identifier: piece for piece, identifier in vocabulary.items()}
    elif isinstance(vocabulary, list):  # Unigram: pieces with their scores, in order.
        pieces = {identifier: entry[0] for identifier, entry in enumerate(vocabulary)}
    try:
        pieces |= {added["id"]: added["content"] for added in tokenizer.get("added_tokens", [])}
    except (LookupError, TypeError) as error:
        raise ModelFormatError(f"{where}: added_tokens lack an id or content") from error
    missing = next((identifier for identifier in range(count) if identifier not in pieces), None)
    if missing is not None:
        raise ModelFormatError(f"{where} has no piece with the id {missing}, expected {count}")
    return tuple(pieces[identifier] for identifier in range(count))


def from_nemo(config: dict[str, Any], where: Path) -> ModelConfig:
    """Read NeMo's configuration as parakeet-mlx's folders hold it.

    Args:
        config: The parsed ``config.json``.
        where: The file, for messages.

    Raises:
        ModelFormatError: A key is missing or has a value that this version cannot run.
    """
    reader = _Reader(config, where)
    reader.expect("preprocessor.sample_rate", 16_000)
    reader.expect("preprocessor.normalize", "per_feature")
    reader.expect("preprocessor.window_size", 0.025)
    reader.expect("preprocessor.window_stride", 0.01)
    reader.expect("preprocessor.n_fft", 512)
    reader.expect("encoder.subsampling_factor", ENCODER_HOP)
    reader.expect("encoder.subsampling", "dw_striding")
    reader.expect("encoder.causal_downsampling", False, default=False)
    reader.expect("encoder.self_attention_model", "rel_pos")
    reader.expect("encoder.conv_norm_type", "batch_norm", default="batch_norm")
    features = reader.number("preprocessor.features")
    reader.expect("encoder.feat_in", features)

    target = str(reader.get("target"))
    name = target.rsplit(".", 1)[-1]
    if name == "EncDecCTCModelBPE":
        return ModelConfig("ctc", features, reader.strings("decoder.vocabulary"))
    if name not in ("EncDecRNNTBPEModel", "EncDecHybridRNNTCTCBPEModel"):
        raise ModelFormatError(
            f"{where}: target={target!r} is not a model that this version can run; it runs "
            f"Parakeet TDT, RNN-T, CTC and their hybrids."
        )
    durations = tuple(reader.numbers("model_defaults.tdt_durations"))
    if durations:
        reader.expect("decoding.durations", list(durations), default=list(durations))
    activation = reader.get("joint.jointnet.activation")
    if activation not in _ACTIVATIONS:
        raise ModelFormatError(
            f"{where}: joint.jointnet.activation={activation!r} cannot be run by this version, "
            f"which expects {', '.join(_ACTIVATIONS)}"
        )
    return ModelConfig(
        kind="tdt" if durations else "rnnt",
        features=features,
        vocabulary=reader.strings("joint.vocabulary"),
        durations=durations,
        max_symbols=reader.number("decoding.greedy.max_symbols", default=_MAX_SYMBOLS),
        activation=activation,
    )


def from_onnx_asr(config: dict[str, Any], vocabulary: Path, where: Path) -> ModelConfig:
    """Read an onnx-asr export's configuration and vocabulary file.

    Raises:
        ModelFormatError: As :func:`from_nemo`.
    """
    reader = _Reader(config, where)
    reader.expect("subsampling_factor", ENCODER_HOP, default=ENCODER_HOP)
    model_type = str(reader.get("model_type"))
    kinds: dict[str, Kind] = {
        "nemo-conformer-tdt": "tdt",
        "nemo-conformer-rnnt": "rnnt",
        "nemo-conformer-ctc": "ctc",
    }
    if model_type not in kinds:
        raise ModelFormatError(
            f"{where}: model_type={model_type!r} is not a model that this version can run; it "
            f"runs {', '.join(kinds)}."
        )
    kind = kinds[model_type]
    return ModelConfig(
        kind=kind,
        features=reader.number("features_size", default=80),
        vocabulary=read_vocabulary(vocabulary),
        durations=_TDT_DURATIONS if kind == "tdt" else (),
        max_symbols=reader.number("max_tokens_per_step", default=_MAX_SYMBOLS),
    )


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Pieces of a ``vocab.txt`` (``piece id`` a line, ``<blk>`` last), in the order of their ids.

    Lines end with a line feed, and only with that: a piece may hold other separators. Empty lines
    at the end are ignored.

    Raises:
        ModelFormatError: The file is not UTF-8, a line is not of that form, or the ids have gaps
            or repetitions.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{path} is not UTF-8: {error}") from error
    pieces: dict[int, str] = {}
    for number, line in enumerate(text.rstrip("\r\n").split("\n"), start=1):
        piece, _, identifier = line.removesuffix("\r").rpartition(" ")
        if not identifier.isdecimal():
            raise ModelFormatError(f"{path}:{number}: expected 'piece id', got {line!r}")
        if int(identifier) in pieces:
            raise ModelFormatError(f"{path}:{number}: the id {identifier} is there twice")
        pieces[int(identifier)] = piece
    if sorted(pieces) != list(range(len(pieces))) or not pieces:
        raise ModelFormatError(f"{path}: the ids do not run from 0 without a gap")
    if pieces[len(pieces) - 1] != "<blk>":
        raise ModelFormatError(f"{path}: the last piece is {pieces[len(pieces) - 1]!r}, not <blk>")
    return tuple(pieces[i] for i in range(len(pieces) - 1))


class _Reader:
    """Looks values up by dotted key and says which one is wrong."""

    def __init__(self, config: dict[str, Any], where: Path) -> None:
        self._config = config
        self._where = where

    def get(self, key: str, **default: Any) -> Any:
        value: Any = self._config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                if default:
                    return default["default"]
                raise ModelFormatError(f"{self._where}: the key {key} is missing")
            value = value[part]
        return value

    def number(self, key: str, **default: int) -> int:
        """A whole number of 1 and more; a default also stands for null and 0."""
        value = self.get(key, **default)
        if not value and default:
            value = default["default"]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            self.refuse(key, value, "a whole number of 1 and more")
        return int(value)

    def numbers(self, key: str) -> list[int]:
        """A list of whole numbers from 0; empty if the key is missing or null."""
        value = self.get(key, default=None) or []
        if not isinstance(value, list) or not all(isinstance(n, int) and n >= 0 for n in value):
            self.refuse(key, value, "a list of whole numbers")
        return list(value)

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings that is not empty."""
        value = self.get(key)
        if not value or not isinstance(value, list) or not all(isinstance(s, str) for s in value):
            self.refuse(key, value, "a list of strings")
        return tuple(value)

    def refuse(self, key: str, value: Any, expected: str) -> NoReturn:
        shown = repr(value)
        raise ModelFormatError(
            f"{self._where}: {key}={shown[:80]}{'…' if len(shown) > 80 else ''} cannot be used, "
            f"expected {expected}"
        )

    def expect(self, key: str, wanted: Any, **default: Any) -> None:
        value = self.get(key, **default)
        if value != wanted:
            raise ModelFormatError(
                f"{self._where}: {key}={value!r} cannot be run by this version, which expects "
                f"{wanted!r}"
            )
