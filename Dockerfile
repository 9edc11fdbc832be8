# Remora in a container: built on Debian 12, run on the same Debian without compiler, shell history or root.
#
#   docker build -t remora --build-arg REMORA_COMMIT=$(git rev-parse --short=10 HEAD) .
#   docker run -d --name remora -p 1883:1883 -v "$PWD/remora.toml:/etc/remora/remora.toml:ro" \
#       --stop-timeout 60 --ulimit nofile=1048576:1048576 remora
#
# The health check asks the admin listener, which is 127.0.0.1:9883 inside the container unless the configuration says
# otherwise. To let Prometheus in from outside, set admin.address = "0.0.0.0:9883" and publish the port to its network only.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock build.rs ./
COPY crates crates
COPY src src
# The help of the command line includes a file from here.
COPY config config
# Printed by --version; there is no repository in here.
ARG REMORA_COMMIT=""
ARG REMORA_COMMIT_DATE=""
RUN cargo build --profile dist --locked --bin remora

FROM debian:bookworm-slim
# For the admin socket: `docker exec … remora ctl status`.
RUN install -d -o 65532 -g 65532 -m 0750 /run/remora
# An unused number instead of a name, so that Kubernetes' runAsNonRoot can tell that it is not root.
USER 65532:65532
COPY --from=build /src/target/dist/remora /usr/local/bin/remora
EXPOSE 1883 8083 8084 8883
# Drains, as drain.delay, drain.rate and drain.grace say; give the container more time to stop than delay and grace together. HAProxy's
# image has SIGUSR1 here, which is its graceful end: there and here it waits for clients to leave, which those of MQTT do not.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["remora", "health", "--config", "/etc/remora/remora.toml"]
ENTRYPOINT ["remora"]
CMD ["run", "--config", "/etc/remora/remora.toml"]
