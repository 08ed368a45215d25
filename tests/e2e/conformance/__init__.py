"""The type-conformance matrix: what each PostgreSQL type becomes, as a table that is the test's expectation and the source of docs/types.md."""
