# Two images of one project; both run `darkroom` as nobody, on a read-only root with a writable /tmp.
#   docker build -t darkroom:0.2.0 .                              everything: workers, stages of pipelines
#   docker build -t darkroom-slim:0.2.0 --target slim .           dispatcher, migrations, commands: no torch
ARG CUDA=12.9.1

# -- without torch -------------------------------------------------------------------------------
FROM ubuntu:24.04 AS slim

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/darkroom
WORKDIR /opt/build
ENV PATH=/opt/darkroom/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Dependencies change seldom and are large: they are a layer of their own, of a project that is still empty.
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
RUN pip install -c constraints.txt . && pip uninstall --yes darkroom
COPY services services
COPY training training
COPY kfp_pipelines kfp_pipelines
COPY migrations migrations
RUN pip install --no-deps . && rm -rf /opt/build/*

ARG COMMIT=unknown
LABEL org.opencontainers.image.title="darkroom-slim" \
      org.opencontainers.image.description="Plans jobs of latent diffusion models, migrates their database" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${COMMIT}"
ENV HOME=/tmp DARKROOM_COMMIT=${COMMIT} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["darkroom"]
CMD ["--help"]

# -- everything ----------------------------------------------------------------------------------
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
      org.opencontainers.image.description="Trains latent diffusion models and develops images from them in bulk" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${COMMIT}"
ENV HOME=/tmp DARKROOM_COMMIT=${COMMIT} DARKROOM_CACHE_DIR=/tmp/darkroom PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["darkroom"]
CMD ["--help"]
