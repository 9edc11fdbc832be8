# Remora in a container: one static program and nothing else, run by a user without a name who can write nothing.
#
#   docker build -t remora --build-arg REMORA_COMMIT=$(git rev-parse --short=10 HEAD) .
#
# or around the program that packaging/static has left there:
#
#   docker build -t remora --build-arg REMORA_COMMIT=$(git rev-parse --short=10 HEAD) --target prebuilt -f Dockerfile target/packages/image
#
#   docker run -d --name remora -p 1883:1883 -v "$PWD/remora.toml:/etc/remora/remora.toml:ro" \
#       --read-only --tmpfs /run/remora:mode=0750,uid=65532,gid=65532 --cap-drop ALL \
#       --stop-timeout 60 --ulimit nofile=1048576:1048576 remora
#
# The health check asks the admin listener, which is 127.0.0.1:9883 inside the container unless the configuration says
# otherwise. To let Prometheus in from outside, set admin.address = "0.0.0.0:9883" and publish the port to its network only.

# Any Debian 12 with a Rust toolchain of rustup.
ARG BUILD=docker.io/library/rust:1.95-bookworm

FROM scratch AS settings
ARG REMORA_COMMIT=""
LABEL org.opencontainers.image.title="Remora" \
    org.opencontainers.image.description="A sticky-session, MQTT-aware load balancer for TCP and WebSocket, in front of EMQX clusters" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.revision="$REMORA_COMMIT"
ENV PATH=/usr/local/bin
# An unused number instead of a name, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 65532:65532
EXPOSE 1883 8083 8084 8883
# Drains, as drain.delay, drain.rate and drain.grace say; give the container more time to stop than delay and grace together. HAProxy's
# image has SIGUSR1 here, which is its graceful end: there and here it waits for clients to leave, which those of MQTT do not.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/local/bin/remora", "health", "--config", "/etc/remora/remora.toml"]
ENTRYPOINT ["/usr/local/bin/remora"]
CMD ["run", "--config", "/etc/remora/remora.toml"]

FROM settings AS prebuilt
COPY remora /usr/local/bin/remora
# For the admin socket: `docker exec … remora ctl status`.
COPY --chown=65532:65532 run /run/remora

FROM ${BUILD} AS build
WORKDIR /src
# Printed by --version; there is no repository in here.
ARG REMORA_COMMIT=""
ARG REMORA_COMMIT_DATE=""
# Cargo wants to find everything that Cargo.toml names, tests and benches too.
COPY . .
ARG PROFILE=dist
RUN packaging/static --profile "$PROFILE"

FROM settings
COPY --from=build /src/target/packages/image/remora /usr/local/bin/remora
COPY --from=build --chown=65532:65532 /src/target/packages/image/run /run/remora
