# For an app without a Dockerfile of its own, with a poetry.lock, or a pyproject.toml that Poetry alone can read.
ARG PYTHON_IMAGE=python:3.14-slim
FROM ${PYTHON_IMAGE}
WORKDIR /app
# In a venv of its own: what Poetry needs is not what the app needs.
RUN ["python", "-m", "venv", "/opt/poetry"]
RUN ["/opt/poetry/bin/python", "-m", "pip", "install", "--no-cache-dir", "poetry==2.5.1"]
RUN ["ln", "-s", "/opt/poetry/bin/poetry", "/usr/local/bin/poetry"]
ENV POETRY_VIRTUALENVS_IN_PROJECT=true POETRY_NO_INTERACTION=1
# Dependencies before code: a change in the code installs none of them again.
COPY pyproject.toml poetry.loc[k] ./
RUN ["poetry", "install", "--no-cache", "--only", "main", "--no-root"]
COPY . .
# Most apps are no package that could be installed: they are found in their folder.
RUN ["sh", "-c", "poetry install --no-cache --only-root || true"]
