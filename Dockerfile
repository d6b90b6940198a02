# One image for every program; docker-compose.yml gives each its command.
FROM python:3.13-slim
WORKDIR /opt/keymill
COPY requirements-run.lock pyproject.toml README.md ./
RUN pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements-run.lock \
    && pip install --no-cache-dir hatchling editables
COPY keymill keymill
COPY schemas schemas
COPY streams streams
COPY connectors connectors
RUN pip install --no-cache-dir --no-build-isolation --no-deps . \
    && useradd --system --create-home --home-dir /var/lib/keymill keymill
USER keymill
WORKDIR /var/lib/keymill
ENV KEYMILL_DATA=/var/lib/keymill/data
STOPSIGNAL SIGTERM
ENTRYPOINT ["keymill"]
