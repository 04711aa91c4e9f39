# The one project image: every pipeline stage, worker, dispatcher and migration runs `darkroom` or its package on it.
#   docker build -t darkroom:0.1.0 .
ARG CUDA=12.9.1
FROM nvidia/cuda:${CUDA}-base-ubuntu24.04

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3.12 python3.12-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3.12 -m venv /opt/darkroom

WORKDIR /opt/build
ENV PATH=/opt/darkroom/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# The dependencies change seldom and are large: they are a layer of their own.
COPY pyproject.toml constraints.txt README.md ./
RUN python -c "import os, tomllib; \
        names = tomllib.load(open('pyproject.toml', 'rb'))['tool']['setuptools']['packages']; \
        [os.makedirs(name.replace('.', '/'), exist_ok=True) for name in names]" \
    && pip install -c constraints.txt '.[text]' \
    && pip uninstall --yes darkroom
COPY services services
COPY training training
COPY kfp_pipelines kfp_pipelines
COPY migrations migrations
RUN pip install --no-deps . && rm -rf /opt/build/*

LABEL org.opencontainers.image.title="darkroom" \
      org.opencontainers.image.description="Trains latent diffusion models and develops images from them in bulk" \
      org.opencontainers.image.version="0.1.0"
# A read-only root file system is enough when /tmp is writable.
ENV HOME=/tmp DARKROOM_CACHE_DIR=/tmp/darkroom PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 65532:65532
ENTRYPOINT ["darkroom"]
CMD ["--help"]
