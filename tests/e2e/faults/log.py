"""What Kafka's log says that a table has to hold."""

import json
from typing import Any

from confluent_kafka import Consumer, KafkaException, TopicPartition

from harness.waiting import until

Place = tuple[int, int]
"""partition, offset"""


class Fold:
    """One topic's messages folded into rows by key, read on from where it stands."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.topic = topic
        self.rows: dict[int, list[Any]] = {}
        self.places: set[Place] = set()
        self.next: dict[int, int] = {}
        self.consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "firn-e2e-reader", "enable.auto.commit": False})

    def read_to(self, ends: dict[int, int], rejected: set[Place]) -> None:
        """Takes in all before `ends` but for the `rejected`."""
        missing = {p for p, end in ends.items() if self.next.get(p, 0) < end}
        if not missing:
            return
        self.consumer.assign([TopicPartition(self.topic, p, self.next.get(p, 0)) for p in missing])

        def read() -> bool:
            for message in self.consumer.consume(500, timeout=0.5):
                if message.error():
                    raise KafkaException(message.error())
                partition, offset = message.partition(), message.offset()
                if offset < ends[partition]:
                    self.next[partition] = offset + 1
                    if (partition, offset) not in rejected:
                        self._take((partition, offset), json.loads(message.value())["payload"])
                if self.next.get(partition, 0) >= ends[partition]:
                    missing.discard(partition)
            return not missing

        until(f"{self.topic} read to {ends}", read, 60, every_s=0)

    def _take(self, place: Place, change: dict[str, Any]) -> None:
        self.places.add(place)
        if change["op"] == "d":
            self.rows.pop(change["before"]["id"], None)
        else:
            after = change["after"]
            self.rows[after["id"]] = [after["id"], after["name"], after["quantity"]]

    def close(self) -> None:
        self.consumer.close()
