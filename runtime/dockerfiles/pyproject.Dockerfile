# For an app without a Dockerfile of its own, with a pyproject.toml alone.
ARG PYTHON_IMAGE=python:3.14-slim
FROM ${PYTHON_IMAGE}
WORKDIR /app
# Without a lock nobody knows the dependencies apart from the project.
COPY . .
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "."]
