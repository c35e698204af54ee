"""The executors of encoders on this machine: MLX, if it can be imported, and ONNX Runtime."""

from __future__ import annotations

from functools import cache

from loguru import logger

from parakeet_stt.errors import ConfigurationError
from parakeet_stt.model import device
from parakeet_stt.model.encoder import Encoder
from parakeet_stt.model.layout import ModelFiles
from parakeet_stt.settings import Device, Precision, RunPrecision


@cache
def missing_mlx() -> str | None:
    """Why MLX cannot be imported and how to install it; None if it can."""
    try:
        with device.native_calls:  # The process must not end during the import: it would abort.
            import parakeet_stt.model.mlx.encoder  # noqa: F401
    except ImportError as error:
        logger.info(f"MLX cannot be imported ({error}): using ONNX Runtime")
        return (
            f"MLX cannot be imported: {error}. To use it: pip install 'pipecat-parakeet-stt[mlx]', "
            f"or 'pipecat-parakeet-stt[cuda]' for an NVIDIA GPU"
        )
    return None


def mlx_has_gpu(device: Device) -> bool:
    """Whether MLX runs on a GPU, after ``cpu`` has been applied; MLX must be importable."""
    from parakeet_stt.model.mlx.encoder import has_gpu, use_cpu

    if device == "cpu":
        use_cpu()
    return has_gpu()


def choose_precision(setting: Precision, files: ModelFiles, gpu: bool) -> RunPrecision:
    """Choose the arithmetic of an encoder.

    ``auto`` is bf16 for MLX on a GPU and fp32 otherwise. ``bf16`` counts for MLX only.

    Raises:
        ConfigurationError: ``int8``, and the encoder is an export or runs on MLX.
    """
    if setting == "int8" and (files.executor == "mlx" or files.checkpoint is None):
        what = "MLX has no int8" if files.executor == "mlx" else "an ONNX export runs as it is"
        raise ConfigurationError(
            f"PARAKEET_PRECISION='int8': {what}. int8 needs a checkpoint and backend 'onnx'"
        )
    if files.executor == "onnx":
        return "int8" if setting == "int8" else "fp32"
    if setting != "auto":
        return setting
    if gpu:
        return "bf16"
    _log_fp32()
    return "fp32"


@cache
def _log_fp32() -> None:
    logger.info("MLX has no GPU here: computing in fp32, which a CPU does faster than bf16")


def load_encoder(files: ModelFiles, precision: RunPrecision, device: Device) -> Encoder:
    """Load the encoder of a model on its executor.

    Args:
        files: The model's files.
        precision: Arithmetic of the products; an ONNX export has its own.
        device: Where ONNX Runtime runs it; MLX has one device per process.

    Raises:
        ModelFormatError: The weights do not match the configuration, or cannot be read.
        ConfigurationError: There is no GPU, or MLX cannot run in this process.
    """
    checkpoint = files.checkpoint
    if files.executor == "mlx":
        from parakeet_stt.model.mlx.encoder import MLXEncoder

        assert checkpoint is not None
        return MLXEncoder(checkpoint, "bf16" if precision == "bf16" else "fp32")
    if checkpoint is None:
        from parakeet_stt.model.onnx.export import OnnxExport

        return OnnxExport(files.onnx_encoder, files.config.features, device)
    from parakeet_stt.model.onnx.encoder import OnnxEncoder

    return OnnxEncoder(checkpoint, precision, device)
