# For an app without a Dockerfile of its own, with a uv.lock: https://docs.astral.sh/uv/guides/integration/docker/.
ARG PYTHON_IMAGE=python:3.14-slim
FROM ${PYTHON_IMAGE}
WORKDIR /app
# Dependencies before code: a change in the code installs none of them again.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "uv==0.13.9"]
COPY pyproject.toml uv.lock ./
RUN ["uv", "sync", "--frozen", "--no-dev", "--no-cache", "--no-install-project"]
COPY . .
RUN ["uv", "sync", "--frozen", "--no-dev", "--no-cache"]
