# The three images of Warren: docker build --target producer|worker|operator .
# Works with BuildKit and with the classic builder. `make deploy` builds through tools/images, which also brings in this
# machine's pip settings and certificates (the optional folder `machine`); they stay in the stages that install.

ARG PYTHON_IMAGE=python:3.13-slim

# ---------------------------------------------------------------------------------------------------------------------
# What all three run on: Python, an ordinary user, no installer. The user's own modules go to /app.
FROM ${PYTHON_IMAGE} AS runtime
# The official image comes without bytecode: each start would compile what it imports of the standard library, which makes
# the CPU time of a worker's start three times as long. What is compiled already stays as it is.
RUN set -eu; \
    rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/ensurepip; \
    stdlib="$(python3 -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"; \
    python3 -m compileall -q -j 0 -x '/(test|tests|idlelib|turtledemo|site-packages|dist-packages)/' \
        --invalidation-mode unchecked-hash "$stdlib"; \
    groupadd --gid 10001 warren; \
    useradd --uid 10001 --gid warren --home-dir /tmp --no-create-home --shell /usr/sbin/nologin warren
# The root file system is read-only, so bytecode is compiled below and never written.
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app:/opt/warren \
    HOME=/tmp
WORKDIR /app
USER 10001:10001

# ---------------------------------------------------------------------------------------------------------------------
# What installs. Only wheels whose hash is pinned; nothing is built, so no compiler is needed.
FROM ${PYTHON_IMAGE} AS installer
ENV PIP_CONFIG_FILE=/build/pip.conf \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_NO_COMPILE=1 \
    PIP_ONLY_BINARY=:all: \
    PIP_REQUIRE_HASHES=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_TARGET=/opt/warren
# unchecked-hash: the import takes the bytecode as it is, without a look at the source.
ENV COMPILE="python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/warren"
# The licence is there because a COPY must find something, with or without the folder `machine`.
COPY LICENSE machine* /build/

# ---------------------------------------------------------------------------------------------------------------------
FROM installer AS worker-packages
COPY requirements/worker.txt /build/
RUN pip install -r /build/worker.txt && rm -rf /opt/warren/bin && $COMPILE

FROM installer AS worker-code
COPY services/contract/warren_contract /opt/warren/warren_contract
COPY services/worker/warren_worker /opt/warren/warren_worker
RUN $COMPILE

FROM runtime AS worker
COPY --from=worker-packages /opt/warren /opt/warren
COPY --from=worker-code /opt/warren /opt/warren
EXPOSE 8081
# The first process of a container never gets a SIGTERM that it has no handler for, and Python takes a good part of a second
# until it has one: a worker that is asked to stop meanwhile would stay for its whole grace. Blocked, the signal waits.
ENTRYPOINT ["env", "--block-signal=TERM", "python3", "-m", "warren_worker"]
ARG VERSION=0
LABEL org.opencontainers.image.title="Warren worker" \
      org.opencontainers.image.description="Takes tasks from a RabbitMQ queue and runs a handler for each" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"

# ---------------------------------------------------------------------------------------------------------------------
FROM installer AS producer-packages
COPY requirements/producer.txt /build/
RUN pip install -r /build/producer.txt && rm -rf /opt/warren/bin && $COMPILE

FROM installer AS producer-code
COPY services/contract/warren_contract /opt/warren/warren_contract
COPY services/producer/warren_producer /opt/warren/warren_producer
RUN $COMPILE

FROM runtime AS producer
COPY --from=producer-packages /opt/warren /opt/warren
COPY --from=producer-code /opt/warren /opt/warren
EXPOSE 8080
# As the worker's: a SIGTERM waits until there is somebody to take it.
ENTRYPOINT ["env", "--block-signal=TERM", "python3", "-m", "warren_producer"]
ARG VERSION=0
LABEL org.opencontainers.image.title="Warren producer" \
      org.opencontainers.image.description="Accepts tasks over HTTP and puts them into RabbitMQ queues" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"

# ---------------------------------------------------------------------------------------------------------------------
FROM installer AS operator-packages
COPY requirements/operator.txt /build/
RUN pip install -r /build/operator.txt && rm -rf /opt/warren/bin && $COMPILE

FROM installer AS operator-code
COPY services/contract/warren_contract /opt/warren/warren_contract
COPY operator/warren_operator /opt/warren/warren_operator
RUN $COMPILE

FROM runtime AS operator
COPY --from=operator-packages /opt/warren /opt/warren
COPY --from=operator-code /opt/warren /opt/warren
EXPOSE 8081
ENTRYPOINT ["python3", "-m", "warren_operator"]
ARG VERSION=0
LABEL org.opencontainers.image.title="Warren operator" \
      org.opencontainers.image.description="Keeps as many workers running as each queue's backlog needs" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
