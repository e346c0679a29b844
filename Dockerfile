# The worker, without what development needs. Built from deploy/requirements.lock, every package by its hash.
ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM ${PYTHON_IMAGE} AS packages
ARG PIP_INDEX_URL=
COPY deploy/requirements.lock /tmp/
RUN python -m venv /opt/venv \
 && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r /tmp/requirements.lock \
 && /opt/venv/bin/pip uninstall --yes --quiet pip setuptools

FROM ${PYTHON_IMAGE}
RUN groupadd --gid 10001 famulus && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent famulus \
 && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/famulus
COPY --from=packages /opt/venv /opt/venv
WORKDIR /srv/famulus
COPY appsettings.json ./
COPY famulus famulus
COPY app app
COPY models models
COPY agents agents
RUN /opt/venv/bin/python -m compileall -q famulus app models agents
# The root file system may be read-only: all that is written is below the state folder.
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    WORKER__DATADIR=/var/lib/famulus WORKER__WEBBIND=0.0.0.0
USER 10001:10001
VOLUME /var/lib/famulus
EXPOSE 6066
# The worker itself is process 1, so SIGTERM reaches it: it finishes and commits what it has in hand.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", \
  "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ.get(\"WORKER__WEBPORT\", 6066)}/livez', timeout=4)"]
CMD ["python", "-m", "faust", "-A", "app", "worker", "-l", "info"]
