# Redis, from system packages.
# shellcheck shell=bash

redis_start() {
  mkdir -p "$DATA/redis"
  launch redis redis-server "$DEPLOY/redis/redis.conf" --bind 127.0.0.1 --port "$FIRN_REDIS_PORT" --dir "$DATA/redis" --daemonize no
}
# While it loads its log after a start it answers, but not with PONG.
redis_ready() { [ "$(redis_cli ping)" = PONG ]; }
redis_prepare() { :; }

redis_cli() { redis-cli -h 127.0.0.1 -p "$FIRN_REDIS_PORT" "$@"; }
