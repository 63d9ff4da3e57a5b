# For an app without a Dockerfile of its own, with a pyproject.toml alone.
ARG PYTHON_IMAGE=python:3.14-slim
FROM ${PYTHON_IMAGE}
WORKDIR /app
# A Python that the project wants and the image has not, uv brings: where every user can read it.
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_INSTALL_DIR=/opt/python
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "uv==0.13.9"]
# The code too: what the project depends on may stand in any of its files.
COPY . .
# pip would install the project itself, which most apps can't be: uv does so where there is a [build-system].
RUN ["uv", "sync", "--no-dev", "--no-cache"]
