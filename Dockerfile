# A node of obsray, without root and without a compiler.
#   docker build -t obsray:0.1.0 .
FROM python:3.12.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY obsray ./obsray
RUN python -m pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:3.12.11-slim-bookworm
RUN groupadd --gid 10001 obsray && useradd --uid 10001 --gid obsray --create-home obsray \
    && mkdir -p /var/lib/obsray /var/lib/obsray-gpu-jobs && chown obsray:obsray /var/lib/obsray /var/lib/obsray-gpu-jobs
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    python -m pip install --no-cache-dir --no-index --find-links /wheels obsray
USER 10001:10001
WORKDIR /home/obsray
# Sessions: records, logs, spilled objects.
ENV TMPDIR=/var/lib/obsray PYTHONUNBUFFERED=1
VOLUME /var/lib/obsray
# Control store, the node's own port, metrics.
EXPOSE 6379 6380 9464
ENTRYPOINT ["obsray"]
CMD ["--help"]
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=6 CMD ["obsray", "status", "--json"]
