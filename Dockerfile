# syntax=docker/dockerfile:1
# `parakeet-stt serve`, for CPUs (target `cpu`, the last one and so the default) and for NVIDIA GPUs
# (target `cuda`). docs/docker.md says how to run it.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS sources
RUN python -m venv /opt/parakeet
ENV PATH=/opt/parakeet/bin:$PATH
WORKDIR /build
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
ENV PIP_CACHE_DIR=/var/cache/pip

# With MLX, for PARAKEET_BACKEND=mlx.
FROM sources AS build
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --constraint constraints.txt ".[server,mlx]"

FROM sources AS build-cuda
RUN --mount=type=cache,target=/var/cache/pip \
    pip install --constraint constraints.txt ".[server,cuda]"

FROM python:${PYTHON}-slim AS base
# A fast BLAS for MLX on CPUs (PARAKEET_BACKEND=mlx), and the formats that libsndfile does not know.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ffmpeg libopenblas0 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home parakeet \
    && install -d -o parakeet -g parakeet /models
# The process writes to /models and /tmp only. ONNX Runtime's telemetry is off.
ENV PATH=/opt/parakeet/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    HF_HOME=/models \
    XDG_CACHE_HOME=/tmp/.cache \
    PARAKEET_CACHE_DIR=/models/hub \
    PARAKEET_HOST=0.0.0.0 \
    PARAKEET_PORT=8000
VOLUME /models
EXPOSE 8000 10300
USER 10001:10001
WORKDIR /tmp
# The first start downloads the model. The container is `starting` until the model is loaded.
HEALTHCHECK --start-period=30m --interval=15s --timeout=5s --retries=3 CMD ["python", "-c", "\
import http.client as h, os, ssl, sys; \
address = ('127.0.0.1', int(os.environ['PARAKEET_PORT'])); \
connection = h.HTTPConnection(*address) if not os.getenv('PARAKEET_TLS_CERT') else \
h.HTTPSConnection(*address, context=ssl._create_unverified_context()); \
connection.request('GET', '/v1/health/ready'); \
sys.exit(connection.getresponse().status != 200)"]
ENTRYPOINT ["parakeet-stt"]
CMD ["serve"]

FROM base AS cuda
COPY --from=build-cuda /opt/parakeet /opt/parakeet

FROM base AS cpu
COPY --from=build /opt/parakeet /opt/parakeet
