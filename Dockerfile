# An image that trains, fine-tunes and exports. For CPUs:
#   docker build -t clower-jax .
# For NVIDIA GPUs (jax brings its own CUDA libraries; the host needs the driver and nvidia-container-toolkit):
#   docker build -t clower-jax:cuda --build-arg EXTRAS=beam,rjieba,gpu .
# On top of an image of your own, with Python 3.11 or newer in it: --build-arg BASE=IMAGE
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG EXTRAS=beam,rjieba
WORKDIR /clower-jax
# What is installed changes less often than the code: first the versions, then the code.
COPY pyproject.toml constraints.txt README.md ./
COPY clower_jax ./clower_jax
COPY input_pipeline ./input_pipeline
RUN python -m pip install --no-cache-dir -c constraints.txt -e ".[${EXTRAS}]"
COPY run.py ./
COPY configs ./configs
# Runs, and compiled programs, which a second start takes from there.
VOLUME /clower-jax/runs
ENV JAX_COMPILATION_CACHE_DIR=/clower-jax/runs/compiled
ENTRYPOINT ["python"]
CMD ["run.py", "--config=configs/pretrain.py"]
