"""The connectors of the matrix: each sends the same rows under settings of its own."""

from dataclasses import dataclass, field

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

JSON, BARE, AVRO = "JSON", "JSON without schema", "Avro"


@dataclass(frozen=True)
class Mode:
    """One connector. `changed` holds what differs from `DEFAULTS`."""

    name: str
    changed: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, dimension: str) -> str:
        return self.changed.get(dimension, DEFAULTS[dimension])

    @property
    def format(self) -> str:
        return self["format"]

    def settings(self) -> dict[str, str]:
        """Of the connector, beside those of deploy/connect."""
        changed = {SETTINGS[d]: value for d, value in self.changed.items() if d in SETTINGS}
        if self.format == BARE:
            changed |= {"key.converter.schemas.enable": "false", "value.converter.schemas.enable": "false"}
        return changed


MODES = [
    Mode("json"),
    Mode("bare", {"format": BARE}),
    Mode("text", {"decimal": "string", "time": "microseconds", "interval": "string", "binary": "base64", "unknown": "true"}),
    Mode("coarse", {"decimal": "double", "time": "connect", "hstore": "map", "binary": "hex"}),
    Mode("nanos", {"time": "nanoseconds", "binary": "base64-url-safe"}),
    Mode("iso", {"time": "isostring"}),
]
