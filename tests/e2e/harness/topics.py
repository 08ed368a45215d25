"""Kafka as the tests see it: making and removing topics, sending, reading everything, where the logs end."""

import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic

from .waiting import PATIENCE, until

Origin = tuple[str, int, int]
"""topic, partition, offset"""


class Sent(NamedTuple):
    """One message as Kafka keeps it."""

    origin: Origin
    key: bytes | None
    value: bytes | None


class Kafka:
    def __init__(self, bootstrap: str, transactional_id: str | None = None) -> None:
        """With a `transactional_id` each `send` is a transaction: the partitions that it reaches end with its marker."""
        self.bootstrap = bootstrap
        self.transactional_id = transactional_id
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self.renew_producer()

    def renew_producer(self) -> None:
        """One that was at work knows the topics as they were: their ids, how many partitions they had, its sequence numbers."""
        # Topics say themselves how large a message they take.
        settings = {"enable.idempotence": True, "linger.ms": 5, "log_level": 3, "message.max.bytes": 64 << 20}
        transactional = {"transactional.id": self.transactional_id} if self.transactional_id else {}
        self.producer = Producer({"bootstrap.servers": self.bootstrap, **settings, **transactional})
        if transactional:
            self.producer.init_transactions(30)

    def create(self, topic: str, partitions: int = 3, **config: str) -> None:
        """Also right after a deletion, while the old topic is still going. `config` as `max_message_bytes`."""
        settings = {key.replace("_", "."): value for key, value in config.items()}

        def made() -> bool:
            try:
                self.admin.create_topics([NewTopic(topic, partitions, 1, config=settings)])[topic].result(20)
            except KafkaException as e:
                if e.args[0].code() == KafkaError.TOPIC_ALREADY_EXISTS:
                    return False
                raise
            return True

        until(f"topic {topic} can be made", made, 30)
        until(f"topic {topic} is there", lambda: self.partitions(topic) == list(range(partitions)), 30)

    def delete(self, *topics: str) -> None:
        for topic, done in self.admin.delete_topics(list(topics)).items():
            try:
                done.result(20)
            except KafkaException as e:
                assert e.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART, e
        until(f"topics {topics} are gone", lambda: not set(topics) & set(self.names()), 30)
        self.renew_producer()

    def grow(self, topic: str, partitions: int) -> None:
        """Adds partitions, up to `partitions` in all."""
        self.admin.create_partitions([NewPartitions(topic, partitions)])[topic].result(20)
        until(f"{topic} has {partitions} partitions", lambda: self.partitions(topic) == list(range(partitions)), 30)
        self.renew_producer()

    def delete_records(self, topic: str, before: dict[int, int]) -> None:
        """What retention does: offsets below `before` are gone."""
        wanted = [TopicPartition(topic, partition, offset) for partition, offset in before.items()]
        for done in self.admin.delete_records(wanted).values():
            done.result(20)

    def names(self, beginning: str = "") -> list[str]:
        return [t for t in self.admin.list_topics(timeout=20).topics if t.startswith(beginning)]

    def partitions(self, topic: str) -> list[int]:
        found = self.admin.list_topics(timeout=20).topics.get(topic)
        return sorted(found.partitions) if found and not found.error else []

    def send(self, topic: str, messages: Iterable[tuple[bytes | None, bytes | None]], partition: int = -1) -> None:
        """Returns when all are acknowledged. Without `partition` the key decides."""
        failures: list[object] = []
        if self.transactional_id:
            self.producer.begin_transaction()
        for key, value in messages:
            while True:
                try:
                    self.producer.produce(topic, key=key, value=value, partition=partition, on_delivery=lambda e, _: e and failures.append(e))
                    break
                except BufferError:
                    self.producer.poll(0.1)
            self.producer.poll(0)
        left = self.producer.flush(60)
        assert left == 0 and not failures, f"{left} messages not acknowledged, {failures[:3]}"
        if self.transactional_id:
            self.producer.commit_transaction(30)

    def ends(self, topic: str) -> dict[int, int]:
        """The offset after the last message of each partition."""
        return {p: high for p, (_, high) in self.watermarks(topic).items()}

    def group_offsets(self, group: str, topic: str) -> dict[int, int]:
        """What a consumer group has committed of a topic, where it has."""
        wanted = [TopicPartition(topic, p) for p in self.partitions(topic)]
        asked = self.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group, wanted)])
        return {at.partition: at.offset for at in asked[group].result(20).topic_partitions if at.offset >= 0}

    def watermarks(self, topic: str) -> dict[int, tuple[int, int]]:
        """Of a topic that was made just now too: the cluster names a leader a moment before the broker takes office."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "firn-e2e-reader"})
        marks: dict[int, tuple[int, int]] = {}

        def answered() -> bool:
            try:
                marks.update({p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=20) for p in self.partitions(topic)})
            except KafkaException as e:
                if e.args[0].code() in (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE):
                    return False
                raise
            return True

        try:
            until(f"the leaders of {topic} answer", answered, 30)
        finally:
            consumer.close()
        return marks

    def everything(self, topic: str) -> list[Sent]:
        """All messages of a topic, in the order of each partition."""
        return list(self.read(topic))

    def read(self, topic: str, within_s: float = 120) -> Iterator[Sent]:
        """The same, one by one."""
        marks = {p: (low, high) for p, (low, high) in self.watermarks(topic).items() if high > low}
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "firn-e2e-reader", "enable.auto.commit": False, "enable.partition.eof": True})
        missing = set(marks)
        end = time.monotonic() + within_s * PATIENCE
        try:
            consumer.assign([TopicPartition(topic, p, low) for p, (low, _) in marks.items()])
            while missing:
                assert time.monotonic() < end, f"{topic} is not read to its end, {sorted(missing)} are left"
                for message in consumer.consume(10_000, timeout=1.0):
                    error = message.error()
                    if error is None:
                        yield Sent((topic, message.partition(), message.offset()), message.key(), message.value())
                    elif error.code() == KafkaError._PARTITION_EOF:
                        missing.discard(message.partition())
                    else:
                        raise KafkaException(error)
        finally:
            consumer.close()
