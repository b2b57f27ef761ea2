# CPU:  docker build -t psl_jax .
# CUDA: docker build -t psl_jax:cuda --build-arg EXTRAS=cuda,serve .
#       docker run --gpus all -v "$PWD:/work" psl_jax:cuda main --config quickstart
# The page: docker run -p 127.0.0.1:8000:8000 -v "$PWD:/work" psl_jax serve MODEL --host=0.0.0.0
FROM python:3.12-slim

# JAX's wheels hold CUDA, and those of soundfile and PyAV hold libsndfile and FFmpeg.
ARG EXTRAS=serve
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints-py312.txt ".[${EXTRAS}]" \
    && useradd --uid 1000 --create-home user

USER 1000
WORKDIR /work
ENTRYPOINT ["psl-jax"]
CMD ["--help"]
