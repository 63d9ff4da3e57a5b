# Your image, as FastAPI's guide has it: https://fastapi.tiangolo.com/deployment/docker/
ARG PYTHON_IMAGE=python:3.14-slim
FROM ${PYTHON_IMAGE}
WORKDIR /code
# Dependencies before code: a change in app/ installs none of them again.
COPY requirements.txt .
RUN ["python", "-m", "pip", "install", "--no-cache-dir", "--require-hashes", "--requirement", "requirements.txt"]
COPY . .
CMD ["uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", "80"]
