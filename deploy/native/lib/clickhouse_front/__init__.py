"""ClickHouse's HTTP interface over chdb, ClickHouse's own engine as a Python wheel: for machines without its server. Every statement is
parsed and run by the engine; this package only speaks HTTP.

`web` requests and answers · `statement` where an INSERT's data begin · `compression` compressed bodies · `engine` one statement ·
`errors` ClickHouse's errors and their statuses.

What differs from the server: eight statements run at a time, the others wait; bodies and answers are wholly in memory, so nothing is
streamed and no query is cancelled; an INSERT is never asynchronous, whatever `async_insert` says; there is no native protocol, no users and grants in SQL, no
replication, no system.query_log.
"""
