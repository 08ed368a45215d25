"""The connectors of the matrix: each sends the same rows under settings of its own."""

from dataclasses import dataclass, field
from typing import Any

DEFAULTS = {"decimal": "precise", "time": "adaptive", "interval": "numeric", "hstore": "json", "binary": "bytes", "unknown": "false", "format": "JSON"}
"""Debezium's own, and the format."""

SETTINGS = {
    "decimal": "decimal.handling.mode",
    "time": "time.precision.mode",
    "interval": "interval.handling.mode",
    "hstore": "hstore.handling.mode",
    "binary": "binary.handling.mode",
    "unknown": "include.unknown.datatypes",
}

JSON, BARE, AVRO, FLAT = "JSON", "JSON without schema", "Avro", "flattened JSON"

UNWRAP = {
    "transforms": "unwrap",
    "transforms.unwrap.type": "io.debezium.transforms.ExtractNewRecordState",
    "transforms.unwrap.add.fields": "op,lsn,source.ts_ms",
    "transforms.unwrap.delete.tombstone.handling.mode": "rewrite-with-tombstone",
    "transforms.unwrap.replace.null.with.default": "false",
}


@dataclass(frozen=True)
class Mode:
    """One connector, or a second way to read its topic into a table."""

    name: str
    changed: dict[str, str] = field(default_factory=dict)
    """What differs from `DEFAULTS`."""
    reads: str = ""
    """The mode whose topic it is, where that is another one."""
    lake: dict[str, Any] = field(default_factory=dict)
    """firn's settings for the table."""

    def __getitem__(self, dimension: str) -> str:
        return self.changed.get(dimension, DEFAULTS[dimension])

    @property
    def format(self) -> str:
        return self["format"]

    @property
    def connector(self) -> str:
        return self.reads or self.name

    def settings(self) -> dict[str, str]:
        """Of the connector, beside those of deploy/connect."""
        changed = {SETTINGS[d]: value for d, value in self.changed.items() if d in SETTINGS}
        if self.format == BARE:
            changed |= {"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false"}
            # One partition, so that always the same value comes first: by it a type is inferred.
            changed["topic.creation.default.partitions"] = "1"
        if self.format == FLAT:
            changed |= UNWRAP
        return changed

    def read_again(self, name: str, **lake: Any) -> "Mode":
        """The same topic in another table."""
        return Mode(name, self.changed, self.name, lake)


# By default Debezium counts ms where the source has no more than three digits.
UNITS = {"encodings": {"c_time3": "ms", "c_ts0": "ms", "c_ts3": "ms"}}

MODES = [
    Mode("json"),
    Mode("bare", {"format": BARE}, lake=UNITS),
    Mode("avro", {"format": AVRO}),
    Mode("flat", {"format": FLAT, "time": "adaptive_time_microseconds"}),
    Mode("text", {"decimal": "string", "time": "microseconds", "interval": "string", "binary": "base64", "unknown": "true"}),
    Mode("coarse", {"decimal": "double", "time": "connect", "hstore": "map", "binary": "hex"}),
    Mode("nanos", {"time": "nanoseconds", "binary": "base64-url-safe"}),
    Mode("iso", {"time": "isostring"}),
]

_BY_NAME = {mode.name: mode for mode in MODES}

DECLARED = [
    _BY_NAME["json"].read_again("declared"),
    _BY_NAME["text"].read_again("restored", infinity="clamp"),
    _BY_NAME["coarse"].read_again("unhexed", infinity="reject", encodings={"c_bytea": "hex"}),
]
"""With some columns declared, and other policies for infinity."""

INFERRED = _BY_NAME["bare"].read_again("inferred")
"""Without a schema, and nothing declared."""
