# One image for every program; docker-compose.yml gives each its command.
FROM python:3.13.9-slim@sha256:326df678c20c78d465db501563f3492d17c42a4afe33a1f2bf5406a1d56b0e86
WORKDIR /opt/keymill
COPY requirements-run.lock pyproject.toml README.md ./
RUN pip install --no-cache-dir --only-binary :all: --require-hashes -r requirements-run.lock
COPY keymill keymill
COPY schemas schemas
COPY streams streams
COPY connectors connectors
RUN pip install --no-cache-dir --no-build-isolation --no-deps . \
    && useradd --system --create-home --home-dir /var/lib/keymill keymill \
    && install -d -o keymill -m 700 /keys /var/lib/keymill/data
# A named volume takes over the owner of the folder that it is mounted on.
USER keymill
WORKDIR /var/lib/keymill
ENV KEYMILL_DATA=/var/lib/keymill/data
STOPSIGNAL SIGTERM
ENTRYPOINT ["keymill"]
