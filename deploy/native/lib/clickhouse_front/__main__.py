"""python -m clickhouse_front --path FOLDER [--port 8123] [--user NAME:PASSWORD[:readonly] ...]"""

import argparse
import signal
import threading
from types import FrameType

import chdb

from .engine import Engine
from .web import Server, User


def main() -> None:
    options = arguments()
    engine = Engine(options.path)
    users = {user.name: user for user in options.user} or {"default": User("default")}
    server = Server((options.host, options.port), engine, users)

    def stop(_number: int, _frame: FrameType | None) -> None:
        # Not here: shutdown() waits for the loop that this signal has interrupted.
        threading.Thread(target=server.shutdown, daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"ClickHouse {chdb.engine_version} on http://{options.host}:{server.server_port}", flush=True)
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    engine.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="clickhouse_front", description="ClickHouse's HTTP interface over chdb")
    parser.add_argument("--path", required=True, help="folder of the data, kept between runs; one process at a time")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8123)
    parser.add_argument("--user", action="append", default=[], type=User.parsed, metavar="NAME:PASSWORD[:readonly]",
                        help="may be repeated; without it: default, no password")
    return parser.parse_args()


main()
