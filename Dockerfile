# syntax=docker/dockerfile:1
# firn as an image: docker build --build-arg RUST_VERSION=... --build-arg DEBIAN_VERSION=... (.env has the tried ones).
ARG RUST_VERSION
ARG DEBIAN_VERSION

FROM rust:${RUST_VERSION}-slim-bookworm AS build
# librdkafka and OpenSSL are built from source and linked in: their builds want make, a C and C++ compiler, perl, pkg-config.
RUN apt-get update \
  && apt-get install -y --no-install-recommends gcc g++ libc6-dev make perl pkg-config \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY catalog catalog
COPY src src
# Declared in Cargo.toml, so cargo looks for it; not built.
COPY benches benches
COPY tests tests
# The caches stay between builds, so a changed line doesn't compile every dependency again; the result is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
  cargo build --release --locked --bin firn && install -D target/release/firn /out/firn && strip --strip-debug /out/firn

FROM debian:${DEBIAN_VERSION}-slim
# Certificates for S3 and registries over TLS; curl for the health check.
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates curl \
  && rm -rf /var/lib/apt/lists/* \
  && useradd --uid 10001 --user-group --home-dir /var/lib/firn --create-home --shell /usr/sbin/nologin firn
COPY --from=build /out/firn /usr/local/bin/firn
USER 10001:10001
WORKDIR /var/lib/firn
ENV FIRN_CONFIG=/etc/firn/firn.toml
EXPOSE 8088
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=6 CMD ["curl", "-sf", "-o", "/dev/null", "http://127.0.0.1:8088/healthz"]
ENTRYPOINT ["firn"]
CMD ["run"]
