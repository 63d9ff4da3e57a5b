# For an app without a Dockerfile of its own, with a poetry.lock, or a pyproject.toml that Poetry alone can read.
ARG PYTHON_IMAGE=python:3.14-slim
FROM ${PYTHON_IMAGE} AS lock
WORKDIR /app
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "poetry==2.5.1", "poetry-plugin-export==1.10.1"]
COPY pyproject.toml poetry.loc[k] ./
RUN ["sh", "-c", "test -f poetry.lock || poetry lock --no-interaction"]
RUN ["poetry", "export", "--output", "requirements.txt"]

FROM ${PYTHON_IMAGE}
WORKDIR /app
# Dependencies before code: a change in the code installs none of them again.
RUN --mount=type=bind,from=lock,source=/app/requirements.txt,target=/tmp/requirements.txt \
    ["python", "-m", "pip", "install", "--no-cache-dir", "--requirement", "/tmp/requirements.txt"]
COPY . .
# Most apps are no package that could be installed: they are found in their folder.
RUN ["sh", "-c", "python -m pip install --no-cache-dir --no-deps . || true"]
