# This project with all it needs, for machines with and without a GPU.
#
#   make image
#   docker run --gpus all -v DATA:/data distill3d python train_student.py --teacher ft3d --gamma 0.3
#
# /data is the one place that is kept: it holds the processed data sets, and checkpoints/ and runs/ lie there too.
# Without a GPU leave out --gpus all. It works with --read-only --tmpfs /tmp and as any user (--user).
#
# The base: torch's wheels bring CUDA 13.0 themselves (runtime, cuBLAS, cuDNN, NVRTC), so the gigabytes of a "runtime"
# image would lie beside them unused. "base" has what wheels cannot bring: the settings by which NVIDIA's container
# runtime hands in the driver and refuses, in words, one too old for CUDA 13.0.
ARG BASE_IMAGE=nvidia/cuda:13.0.1-base-ubuntu24.04
FROM ${BASE_IMAGE}

# Versions of Debian's and Ubuntu's packages go with the release of the base image, which is pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

# Python packages in a layer of their own, made anew only when requirements.txt changes.
ENV PATH=/opt/venv/bin:$PATH
COPY requirements.txt /tmp/requirements.txt
RUN python3 -m venv /opt/venv \
    && pip install --no-cache-dir --requirement /tmp/requirements.txt \
    && rm /tmp/requirements.txt

# Everything that is written besides /data goes to /tmp: HOME, matplotlib's settings, compiled CPU loops (numba ties them
# to the very processor, so that none made here would fit elsewhere) and CUDA kernels.
ENV DATA_ROOT=/data \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    MPLCONFIGDIR=/tmp/cache/matplotlib \
    NUMBA_CACHE_DIR=/tmp/cache/numba \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

WORKDIR /app
COPY . .
RUN ln -s /data/checkpoints /data/runs . \
    && mkdir -m 777 /data

# What git would say of the tree above: results carry it, see lib/provenance.py.
ARG GIT_COMMIT=
ENV GIT_COMMIT=${GIT_COMMIT}

# The first user of most Linux machines; any other with --user "$(id -u):$(id -g)".
USER 1000:1000
ENTRYPOINT ["/app/entrypoint.sh"]
CMD ["python", "train_student.py", "--help"]
