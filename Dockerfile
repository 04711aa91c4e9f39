# Two images. Both run `darkroom` as an unprivileged user and need only a writable /tmp. BuildKit records how they were
# made; https://docs.sigstore.dev/cosign signs them by their digest.
#   docker build -t darkroom:0.2.0 --provenance=mode=max --build-arg COMMIT=$(git rev-parse HEAD) .
#   docker build -t darkroom-slim:0.2.0 --target slim --provenance=mode=max --build-arg COMMIT=$(git rev-parse HEAD) .
# full: workers and pipeline stages. slim: dispatcher, migrations and commands, without torch.
# The secret `pip.conf` may name a mirror of PyPI, with its password. It is in no layer.
# CUDA must be the generation of the nvidia-* packages in requirements/full.txt; a test compares them.
ARG CUDA=13.0.2

# -- build: the wheel of the project, and the list of what each image contains ------------------
FROM ubuntu:24.04 AS build

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/tools
WORKDIR /opt/build
ENV PATH=/opt/tools/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONFIG_FILE=/run/secrets/pip.conf
COPY requirements requirements
RUN --mount=type=secret,id=pip.conf \
    pip install --require-hashes --only-binary :all: -r requirements/build.txt
RUN mkdir /opt/dist \
    && for image in slim full; do \
        cyclonedx-py requirements "requirements/$image.txt" --output-format JSON --output-file "/opt/dist/$image.cdx.json"; \
    done
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY services services
COPY training training
COPY kfp_pipelines kfp_pipelines
COPY migrations migrations
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /opt/dist .

# -- slim: without torch ------------------------------------------------------------------------
FROM ubuntu:24.04 AS slim

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONFIG_FILE=/run/secrets/pip.conf
# Dependencies are large and change rarely. Installing them before the code is copied gives them a layer of their own.
COPY requirements/slim.txt /opt/requirements/
RUN --mount=type=secret,id=pip.conf \
    pip install --require-hashes --only-binary :all: -r /opt/requirements/slim.txt
COPY --from=build /opt/dist/*.whl /opt/dist/
RUN pip install --no-deps /opt/dist/*.whl
COPY --from=build /opt/dist/slim.cdx.json /usr/share/doc/darkroom/sbom.cdx.json

ARG COMMIT=unknown
LABEL org.opencontainers.image.title="darkroom-slim" \
      org.opencontainers.image.description="Plans jobs of latent diffusion models and migrates their database" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.base.name="docker.io/library/ubuntu:24.04" \
      org.opencontainers.image.revision="${COMMIT}"
ENV HOME=/tmp DARKROOM_COMMIT=${COMMIT} PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["darkroom"]
CMD ["--help"]

# -- full: with torch -----------------------------------------------------------------------------
# The base image states the driver that it needs (NVIDIA_REQUIRE_CUDA): a container does not start on an older one.
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04 AS full

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# torch.compile needs a C and a C++ compiler, and Python.h.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates g++ gcc libc6-dev python3.12 python3.12-dev python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/darkroom
ENV PATH=/opt/darkroom/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONFIG_FILE=/run/secrets/pip.conf
COPY requirements/backend.txt requirements/full.txt /opt/requirements/
# Two packages are published as source only. In isolation, pip would build them with the newest setuptools.
RUN --mount=type=secret,id=pip.conf \
    pip install --require-hashes -r /opt/requirements/backend.txt \
    && pip install --require-hashes --no-build-isolation -r /opt/requirements/full.txt
COPY --from=build /opt/dist/*.whl /opt/dist/
RUN pip install --no-deps /opt/dist/*.whl
COPY --from=build /opt/dist/full.cdx.json /usr/share/doc/darkroom/sbom.cdx.json

ARG COMMIT=unknown
ARG CUDA
LABEL org.opencontainers.image.title="darkroom" \
      org.opencontainers.image.description="Trains latent diffusion models and samples images from them in bulk" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.base.name="docker.io/nvidia/cuda:${CUDA}-base-ubuntu24.04" \
      org.opencontainers.image.revision="${COMMIT}"
ENV HOME=/tmp DARKROOM_COMMIT=${COMMIT} DARKROOM_CACHE_DIR=/tmp/darkroom PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["darkroom"]
CMD ["--help"]
