# For an app without a Dockerfile of its own, with a requirements.txt.
ARG PYTHON_IMAGE=python:3.14-slim
FROM ${PYTHON_IMAGE}
WORKDIR /app
# Dependencies before code: a change in the code installs none of them again.
COPY requirements.txt ./
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "--requirement", "requirements.txt"]
COPY . .
