# Two images. Both run `darkroom` as an unprivileged user and need only a writable /tmp.
#   docker build -t darkroom:0.2.0 .                          full: workers and pipeline stages
#   docker build -t darkroom-slim:0.2.0 --target slim .       slim: dispatcher, migrations and commands, without torch
ARG CUDA=12.9.1

# -- slim: without torch ------------------------------------------------------------------------
FROM ubuntu:24.04 AS slim

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/darkroom
WORKDIR /opt/build
ENV PATH=/opt/darkroom/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Dependencies are large and change rarely. Installing them before the code is copied gives them a layer of their own.
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
RUN pip install -c constraints.txt . && pip uninstall --yes darkroom
COPY services services
COPY training training
COPY kfp_pipelines kfp_pipelines
COPY migrations migrations
RUN pip install --no-deps . && rm -rf /opt/build/*

ARG COMMIT=unknown
LABEL org.opencontainers.image.title="darkroom-slim" \
      org.opencontainers.image.description="Plans jobs of latent diffusion models and migrates their database" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${COMMIT}"
ENV HOME=/tmp DARKROOM_COMMIT=${COMMIT} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["darkroom"]
CMD ["--help"]

# -- full: with torch -----------------------------------------------------------------------------
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04 AS full

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/darkroom
WORKDIR /opt/build
ENV PATH=/opt/darkroom/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
RUN pip install -c constraints.txt '.[training,pipelines,text]' && pip uninstall --yes darkroom
COPY services services
COPY training training
COPY kfp_pipelines kfp_pipelines
COPY migrations migrations
RUN pip install --no-deps . && rm -rf /opt/build/*

ARG COMMIT=unknown
LABEL org.opencontainers.image.title="darkroom" \
      org.opencontainers.image.description="Trains latent diffusion models and samples images from them in bulk" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${COMMIT}"
ENV HOME=/tmp DARKROOM_COMMIT=${COMMIT} DARKROOM_CACHE_DIR=/tmp/darkroom PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["darkroom"]
CMD ["--help"]
