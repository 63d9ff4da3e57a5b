# The app's image. The base image is a setting: a mirror, a pinned digest, a stand-in.
ARG PYTHON_IMAGE=python:3.14-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /code
RUN ["apt-get", "update", "-qq"]
RUN ["apt-get", "install", "-qq", "--yes", "--no-install-recommends", "binutils"]
RUN ["python", "-m", "venv", "--without-pip", "/venv"]
# Dependencies before code: a change in app/ installs none of them again.
COPY requirements.txt .
RUN --mount=type=cache,target=/root/.cache/pip \
    ["python", "-m", "pip", "--python", "/venv", "install", "--quiet", "--require-hashes", "--compile", "--requirement", "requirements.txt"]
# Debugging symbols, the test suites of libraries and the sources of what is compiled: a third of the size.
RUN ["find", "/venv", "-name", "*.so*", "-type", "f", "-exec", "strip", "--strip-unneeded", "{}", "+"]
# Named one by one: other packages do import what they call `testing`.
RUN ["find", "/venv", "-regex", ".*/\\(sqlalchemy/testing\\|alembic/testing\\|mako/testing\\|greenlet/tests\\)", "-prune", "-exec", "rm", "-r", "{}", "+"]
RUN ["find", "/venv", "-type", "f", "-regex", ".*\\.\\(c\\|cpp\\|h\\|hpp\\|pyx\\|pxd\\|pyi\\)", "-delete"]
# .dockerignore lets only the app, the migrations and their configuration through.
COPY . .
# Readable for every uid, whatever the umask of the clone.
RUN ["chmod", "-R", "a+rX", "."]
RUN ["python", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "."]

FROM ${PYTHON_IMAGE}
RUN ["useradd", "--system", "--no-create-home", "--uid", "10001", "app"]
# The user that migrate runs as. The same uids stand in postgres/Dockerfile.
RUN ["useradd", "--system", "--no-create-home", "--uid", "10002", "owner"]
ARG APP=app.main:app
ENV APP=${APP} \
    PATH=/venv/bin:${PATH} \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /code
COPY --from=build /venv /venv
COPY --from=build /code /code
USER app
CMD ["python", "-m", "app.serve"]
# Whether everything that a worker and a migration import is there.
RUN ["python", "-c", "import app.serve, app.worker, app.health; app.health.application(); import alembic.config, httptools, uvloop, websockets"]
