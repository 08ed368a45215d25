"""What the tests talk to: the servers, the program under test, and the readers that judge it. One subject a module.

`waiting` conditions with limits · `stack` the servers · `program` firn as a process · `topics` Kafka · `envelopes` and `churn` hand-made
changes · `source` PostgreSQL and its connectors · `load` a mixed load by SQL · `lake` Trino, PyIceberg and the bucket ·
`clickhouse` and `redis` what sinks have written there · `sameness` rows compared by type and value.
"""
