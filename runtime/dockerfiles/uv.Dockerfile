# For an app without a Dockerfile of its own, with a uv.lock: https://docs.astral.sh/uv/guides/integration/docker/.
ARG PYTHON_IMAGE=python:3.14-slim
FROM ${PYTHON_IMAGE}
WORKDIR /app
# A Python that the project wants and the image has not, uv brings: where every user can read it.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_INSTALL_DIR=/opt/python
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "uv==0.13.9"]
# Dependencies before code: a change in the code installs none of them again.
COPY pyproject.toml uv.lock .python-versio[n] ./
RUN ["uv", "sync", "--frozen", "--no-dev", "--no-cache", "--no-install-local"]
COPY . .
RUN ["uv", "sync", "--frozen", "--no-dev", "--no-cache"]
