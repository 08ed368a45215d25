"""Every PostgreSQL type: the column that has it, the values that are sent, and by which rule they come back in which mode.

This table is the test's expectation and the source of docs/types.md. The first value of a column is its typical one; every mode must take it.
"""

from dataclasses import dataclass

from . import rules as r
from .modes import BARE, Mode
from .rules import Rule


@dataclass(frozen=True)
class As:
    """The Iceberg type, and how a value gets there. Without a type there is no column."""

    iceberg: str
    rule: Rule
    note: str = ""
    """What holds for all values."""


NOWHERE = As("", r.same, "Debezium leaves the column out")


@dataclass(frozen=True)
class Column:
    name: str
    """In PostgreSQL and in the lake."""
    sql: str
    values: list[str | None]
    becomes: As | dict[str, As]
    """By the mode's setting for the dimension `by`, or by its format; a setting that isn't named is as the first."""
    by: str = ""
    through: str = ""
    """The column that is written to in its place, of the type `integer`."""

    def in_mode(self, mode: Mode) -> As:
        if isinstance(self.becomes, As):
            return self.becomes
        default = next(iter(self.becomes.values()))
        return self.becomes.get(mode.format, self.becomes.get(mode[self.by], default))

    @property
    def is_array(self) -> bool:
        return self.sql.endswith("[]")


@dataclass(frozen=True)
class Group:
    title: str
    columns: list[Column]


TEXT = As("string", r.same)
UNICODE = "ünïcødé 🦀 \u2028 \x01 \"quotes\" \\back\\ 'single'\nnewline\ttab"
UNKNOWN = "base64 of what PostgreSQL prints"
ENCODED = "Debezium sends text; nothing tells that it stands for bytes"
FLOATS = ["NaN", "Infinity", "-Infinity", "-0"]
NOT_NUMBERS = ["NaN", "Infinity", "-Infinity"]


def text(name: str, sql: str, *values: str) -> Column:
    return Column(name, sql, list(values), TEXT)


def numeric(name: str, sql: str, iceberg: str, *values: str, precise: Rule = r.fixed) -> Column:
    modes = {"precise": As(iceberg, precise), "string": As("string", r.decimal_text), "double": As("double", r.decimal_double)}
    return Column(name, sql, list(values), modes, "decimal")


def array_of_unknown(name: str, sql: str, *values: str) -> Column:
    """An array whose elements Debezium doesn't know, with `include.unknown.datatypes` neither."""
    return Column(name, sql, list(values), NOWHERE)


def bytea(name: str, sql: str, *values: str) -> Column:
    modes = {"bytes": As("binary", r.as_bytes), "base64": As("string", r.as_base64, ENCODED), "base64-url-safe": As("string", r.as_base64_url, ENCODED), "hex": As("string", r.as_hex, ENCODED)}
    return Column(name, sql, list(values), modes, "binary")


def unknown(name: str, sql: str, *values: str) -> Column:
    """A type that Debezium doesn't know."""
    return Column(name, sql, list(values), {"false": NOWHERE, "true": As("string", r.text_as_base64, UNKNOWN)}, "unknown")


def array(name: str, sql: str, *values: str, of: As | dict[str, As] = TEXT, by: str = "") -> Column:
    lists = {mode: As(f"list<{a.iceberg}>", r.each(a.rule), a.note) for mode, a in (of if isinstance(of, dict) else {"": of}).items()}
    return Column(name, sql, list(values), lists if by else next(iter(lists.values())), by)


BOOLEANS = As("boolean", r.boolean)
INTEGER, BIGINT = As("int", r.same), As("long", r.same)
REAL, DOUBLE = As("float", r.real), As("double", r.double)
DATE, TIME = As("date", r.date), As("time", r.time)
TIMESTAMP, TIMESTAMPTZ = As("timestamp", r.timestamp), As("timestamptz", r.timestamptz)
UUID = As("uuid", r.same)
MILLI_TIME, MILLI_TIMESTAMP = As("time", r.of_millis(r.time)), As("timestamp", r.of_millis(r.timestamp))
TIMES = {"adaptive": TIME, "connect": MILLI_TIME}
TIMESTAMPS = {"adaptive": TIMESTAMP, "connect": MILLI_TIMESTAMP}
MONEYS = {"precise": As("string", r.of_money(r.fixed), "Debezium says no precision; decimal(19,2) can be declared"), BARE: As("decimal(19,2)", r.of_money(r.fixed)), "string": As("string", r.of_money(r.same)), "double": As("double", r.of_money(r.decimal_double))}
INTERVALS = {"numeric": As("long", r.interval_micros, "µs"), "string": As("string", r.interval_text)}
BYTES = bytea("", "").becomes
NUMERICS = numeric("", "", "string", precise=r.without_trailing_zeros).becomes
BEYOND_38 = numeric("", "", "string").becomes | {BARE: As("string", r.unscaled_base64)}  # type: ignore[operator]
NUMERICS_10_2 = numeric("", "", "decimal(10,2)").becomes
HSTORES = {"json": As("string", r.rule(r.hstore_json)), "map": As("map<string, string>", r.rule(r.hstore_map))}
POINT = "struct<x: double, y: double, wkb: binary, srid: int>"
GEOMETRY = "struct<wkb: binary, srid: int, extensions: map<string, string>>"

GROUPS = [
    Group("Numbers", [
        Column("c_smallint", "smallint", ["-32768", "32767"], INTEGER),
        Column("c_int", "integer", ["-2147483648", "0", "2147483647"], INTEGER),
        Column("c_bigint", "bigint", ["-9223372036854775808", "9223372036854775807"], BIGINT),
        Column("c_oid", "oid", ["4294967295"], BIGINT),
        Column("c_real", "real", ["1.5", "3.4028235e38", "1.4e-45", "0.1", *FLOATS], REAL),
        Column("c_double", "double precision", ["2.718281828459045", "1e-300", "1.7976931348623157e308", "5e-324", *FLOATS], DOUBLE),
        numeric("c_numeric_10_2", "numeric(10,2)", "decimal(10,2)", "-12345678.90", "0.01", "99999999.99", "NaN"),
        numeric("c_numeric_5", "numeric(5)", "decimal(5,0)", "-99999"),
        numeric("c_numeric_38_0", "numeric(38,0)", "decimal(38,0)", "9" * 38, "-" + "9" * 38),
        numeric("c_numeric_38_18", "numeric(38,18)", "decimal(38,18)", "-0.000000000000000001", "12345678901234567890.123456789012345678"),
        Column("c_numeric_50_10", "numeric(50,10)", ["1234567890123456789012345678901234567890.0123456789"], BEYOND_38, "decimal"),
        numeric("c_numeric", "numeric", "string", "12345.5", "12345.678900", "0.00", "-1000000000000000000000000000000", "1e-20",
                "123456789012345678901234567890123456789012345678901234567890.123456789", *NOT_NUMBERS, precise=r.without_trailing_zeros),
        Column("c_money", "money", ["-$1,234.56", "$92,233,720,368,547,758.07"], MONEYS, "decimal"),
        Column("c_domain_int", "posint", ["7"], INTEGER),
        numeric("c_domain_numeric", "price", "decimal(12,4)", "99.9999"),
        Column("c_bool", "boolean", ["t", "f"], BOOLEANS),
    ]),
    Group("Text", [
        text("c_char", "char(5)", "ab"),
        text("c_varchar", "varchar(60)", "varchar", UNICODE, ""),
        text("c_text", "text", "text", UNICODE, "", "null", "é" * 300),
        text("c_citext", "citext", "CiText"),
        Column("c_name", "name", ["a_name"], As("string", r.streamed_only_if_unknown_types_are)),
        text("c_internal_char", '"char"', "x"),
        text("c_enum", "mood", "happy"),
        Column("c_uuid", "uuid", ["b3a1c2d4-0000-4000-8000-00000000beef"], UUID),
        text("c_json", "json", '{"a": 1,  "b":[1,2,{"c":null}]}', "null", '"__debezium_unavailable_value"'),
        text("c_jsonb", "jsonb", '{"a": 1.10, "n": 12345678901234567890.123}', "null", '{"k": "__debezium_unavailable_value"}', '["\\u2028 \\\\ \\" 🦀"]'),
        text("c_xml", "xml", '<r a="1">x</r>'),
        text("c_ltree", "ltree", "top.science.astro"),
        text("c_tsvector", "tsvector", "'brown':3 'fox':4 'quick':2", ""),
        text("c_inet", "inet", "192.168.1.7/24", "2001:db8::1/64", "10.0.0.1"),
        text("c_cidr", "cidr", "10.0.0.0/8", "2001:db8::/32"),
        text("c_macaddr", "macaddr", "08:00:2b:01:02:03"),
        text("c_macaddr8", "macaddr8", "08:00:2b:01:02:03:04:05"),
    ]),
    Group("Bytes and bits", [
        bytea("c_bytea", "bytea", "\\x00ff10deadbeef", "\\x"),
        Column("c_bit1", "bit(1)", ["1", "0"], As("boolean", r.rule(lambda t: "true" if t == "1" else "false"))),
        Column("c_bit8", "bit(8)", ["10101010", "00000001"], As("binary", r.bit_string, "little-endian, without leading zeros")),
        Column("c_bit40", "bit(40)", ["1" + "0" * 38 + "1", "0" * 40], As("binary", r.bit_string, "little-endian, without leading zeros")),
        Column("c_varbit", "bit varying(16)", ["1011", ""], As("binary", r.bit_string, "little-endian, without leading zeros")),
    ]),
    Group("Dates and times", [
        Column("c_date", "date", ["2024-02-29", "0001-01-01", "1582-10-14", "9999-12-31", "12345-06-07", "5874897-12-31", "0044-03-15 BC", "infinity", "-infinity"], DATE),
        Column("c_time", "time", ["12:34:56.123456", "00:00:00", "23:59:59.999999", "24:00:00"], TIMES, "time"),
        Column("c_time3", "time(3)", ["12:34:56.789", "24:00:00"], TIMES, "time"),
        Column("c_timetz", "timetz", ["10:11:12.131415+00", "10:11:12.131415+05:30", "23:59:59.999999-12", "24:00:00+00", "10:00:00+05:30:15"], As("string", r.timetz)),
        Column("c_ts", "timestamp", ["2024-02-29 12:34:56.123456", "1969-12-31 23:59:59.999999", "0001-01-01 00:00:00", "1582-10-14 00:00:00", "9999-12-31 23:59:59.999999",
               "12345-06-07 08:09:10.111213", "0044-03-15 12:00:00 BC", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999", "infinity", "-infinity"], TIMESTAMPS, "time"),
        Column("c_ts0", "timestamp(0)", ["2024-02-29 12:34:56", "infinity"], TIMESTAMPS, "time"),
        Column("c_ts3", "timestamp(3)", ["2024-02-29 12:34:56.123", "1969-12-31 23:59:59.999", "infinity", "-infinity"], TIMESTAMPS, "time"),
        Column("c_tstz", "timestamptz", ["2024-02-29 12:34:56.123456+02", "1969-12-31 23:59:59.999999+00", "0001-01-01 00:00:00+00", "1582-10-14 00:00:00+00", "9999-12-31 23:59:59.999999+00",
               "12345-06-07 08:09:10.111213+00", "0044-03-15 12:00:00+00 BC", "4713-01-02 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "infinity", "-infinity"], TIMESTAMPTZ),
        Column("c_tstz3", "timestamptz(3)", ["2024-02-29 12:34:56.120-07"], TIMESTAMPTZ),
        Column("c_interval", "interval", ["P3DT4H5M6.789S", "P1Y2M3DT4H5M6.000007S", "P-1M2DT-1.5S", "PT0S", "P178000000Y"], INTERVALS, "interval"),
    ]),
    Group("Geometry", [
        Column("c_point", "point", ["(1.5,-2.25)"], As(POINT, r.rule(r.point))),
        Column("c_line", "line", ["{1,2,3}"], As("struct<a: double, b: double, c: double>", r.rule(r.line))),
        Column("c_circle", "circle", ["<(1,2),3>"], As(f"struct<center: {POINT}, radius: double>", r.rule(r.circle))),
        Column("c_lseg", "lseg", ["[(0,0),(1,1)]"], As(GEOMETRY, r.rule(r.lseg))),
        Column("c_box", "box", ["(2,3),(0,1)"], As(GEOMETRY, r.rule(r.box))),
        Column("c_path", "path", ["[(0,0),(1,1),(2,0)]", "((0,0),(1,1),(2,0))"], As(GEOMETRY, r.rule(r.path))),
        Column("c_polygon", "polygon", ["((0,0),(1,1),(2,0))"], As(GEOMETRY, r.rule(r.polygon))),
    ]),
    Group("Ranges", [
        text("c_int4range", "int4range", "[1,10)", "empty"),
        text("c_int8range", "int8range", "(,9223372036854775807)"),
        text("c_numrange", "numrange", "[1.5,2.5]"),
        text("c_tsrange", "tsrange", "[2024-01-01 00:00,2024-01-02 00:00)"),
        text("c_tstzrange", "tstzrange", "[2024-01-01 00:00+00,2024-01-02 00:00+00)", "[2024-01-01,infinity)"),
        text("c_daterange", "daterange", "[2024-01-01,2024-02-01)", "(,)"),
    ]),
    Group("Maps", [
        Column("c_hstore", "hstore", ['"a"=>"1"', '"a"=>"1", "b c"=>NULL, "d"=>"x\\"y"', ""],
               HSTORES, "hstore"),
    ]),
    Group("Arrays", [
        array("a_smallint", "smallint[]", "{1,2}", of=INTEGER),
        array("a_int", "int[]", "{1,NULL,-3}", "{}", "{{1,2},{3,4}}", of=INTEGER),
        array("a_bigint", "bigint[]", "{9223372036854775807}", of=BIGINT),
        array("a_real", "real[]", "{1.5,NULL}", "{NaN,Infinity}", of=REAL),
        array("a_double", "double precision[]", "{1.25,-0.5}", "{NaN,-Infinity}", of=DOUBLE),
        array("a_numeric", "numeric[]", "{1.1,NULL,12345678901234567890.5}", "{1.10}", of=NUMERICS, by="decimal"),
        array("a_numeric_10_2", "numeric(10,2)[]", "{1.10,2.20}", of=NUMERICS_10_2, by="decimal"),
        array_of_unknown("a_money", "money[]", "{$1.10}"),
        array("a_bool", "boolean[]", "{t,f,NULL}", of=BOOLEANS),
        array("a_text", "text[]", '{a,"b,c",NULL,"NULL","d\\"e",""}', "{}"),
        array("a_varchar", "varchar(10)[]", "{x}"),
        array("a_char", "char(3)[]", "{x}"),
        array("a_citext", "citext[]", "{X}"),
        array("a_enum", "mood[]", "{sad,happy}"),
        array("a_uuid", "uuid[]", "{b3a1c2d4-0000-4000-8000-00000000beef}", of=UUID),
        array("a_json", "json[]", '{"{\\"k\\": 1}"}'),
        array("a_jsonb", "jsonb[]", '{"{\\"k\\": 1}","[1, 2]"}'),
        array("a_inet", "inet[]", "{10.0.0.1,::1}"),
        array("a_cidr", "cidr[]", "{10.0.0.0/8}"),
        array("a_macaddr", "macaddr[]", "{08:00:2b:01:02:03}"),
        array("a_ltree", "ltree[]", "{a.b}"),
        array("a_oid", "oid[]", "{4294967295}", of=BIGINT),
        array("a_bytea", "bytea[]", '{"\\\\x01ff"}', of=BYTES, by="binary"),
        array("a_date", "date[]", "{2024-02-29,1970-01-01}", "{infinity}", of=DATE),
        array("a_time", "time[]", "{01:02:03}", "{01:02:03.456789}", of=As("time", r.time_in_array)),
        array("a_timetz", "timetz[]", "{10:11:12.131415+00}", of=As("string", r.timetz)),
        array("a_ts", "timestamp[]", '{"2024-02-29 12:34:56.123456"}', "{infinity}", of=TIMESTAMPS, by="time"),
        array("a_tstz", "timestamptz[]", '{"2024-02-29 12:34:56.123456+00",NULL}', of=TIMESTAMPTZ),
        array_of_unknown("a_interval", "interval[]", "{P3DT4H5M6S}"),
        array("a_int4range", "int4range[]", '{"[1,10)"}'),
        array("a_numrange", "numrange[]", '{"[1,10)"}'),
        array("a_tstzrange", "tstzrange[]", '{"[2024-01-01 00:00+00,)"}'),
        array_of_unknown("a_point", "point[]", '{"(1,2)"}'),
        Column("a_bit8", "bit(8)[]", ["{10101010}"], As("binary", r.lost("Debezium sends null for arrays of bits"))),
        array("a_hstore", "hstore[]", '{"\\"a\\"=>\\"1\\""}', of=HSTORES, by="hstore"),
        Column("a_domain", "posint[]", ["{1}"], {"false": NOWHERE, "true": As("list<string>", r.each(r.text_as_base64), UNKNOWN)}, "unknown"),
        array_of_unknown("a_xml", "xml[]", "{<a/>}"),
    ]),
    Group("Columns with an expression", [
        Column("c_generated", "bigint GENERATED ALWAYS AS (c_base * 2) STORED", ["21"], As("long", r.generated), through="c_base"),
        Column("c_default", "integer DEFAULT 7", [None], As("int", r.default_7)),
    ]),
    Group("Types that Debezium doesn't know", [
        unknown("c_composite", "addr_t", '("Main st. ""5""",12345)'),
        unknown("c_multirange", "int4multirange", "{[1,3),[5,8)}"),
        unknown("c_tsquery", "tsquery", "'quick' & 'fox'"),
        unknown("c_pg_lsn", "pg_lsn", "16/B374D848"),
        unknown("c_pg_snapshot", "pg_snapshot", "10:20:10,14,15"),
        unknown("c_xid8", "xid8", "42"),
        unknown("c_xid", "xid", "42"),
        unknown("c_jsonpath", "jsonpath", '$."a"[*]'),
        unknown("c_regclass", "regclass", "pg_class"),
    ]),
]  # fmt: skip

COLUMNS = [column for group in GROUPS for column in group.columns]
