"""ClickHouse's errors in its own words, `Code: 60. DB::Exception: ... (UNKNOWN_TABLE) (version ...)`, and the statuses that its server
answers them with.
"""

import re

import chdb

STATUSES = {
    400: """BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING
        CANNOT_PARSE_ESCAPE_SEQUENCE CANNOT_PARSE_INPUT_ASSERTION_FAILED CANNOT_PARSE_IPV4 CANNOT_PARSE_IPV6 CANNOT_PARSE_NUMBER
        CANNOT_PARSE_QUOTED_STRING CANNOT_PARSE_TEXT CANNOT_PARSE_UUID DUPLICATE_COLUMN ILLEGAL_COLUMN INCORRECT_DATA SYNTAX_ERROR
        THERE_IS_NO_COLUMN TOO_BIG_AST TOO_DEEP_AST TYPE_MISMATCH UNEXPECTED_AST_STRUCTURE UNKNOWN_ELEMENT_IN_AST
        UNKNOWN_TYPE_OF_AST_NODE VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE""",
    401: "REQUIRED_PASSWORD",
    403: "ACCESS_DENIED AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE UNKNOWN_USER WRONG_PASSWORD",
    404: """UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_DATABASE UNKNOWN_DATABASE_ENGINE UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_FORMAT
        UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_ROLE UNKNOWN_SETTING UNKNOWN_STORAGE UNKNOWN_TABLE UNKNOWN_TYPE
        UNKNOWN_TYPE_OF_QUERY""",
    408: "TIMEOUT_EXCEEDED",
    411: "HTTP_LENGTH_REQUIRED",
    413: "QUERY_IS_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    501: "NOT_IMPLEMENTED",
    503: "CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK SOCKET_TIMEOUT",
}
STATUS_OF = {name: status for status, names in STATUSES.items() for name in names.split()}

CODE = re.compile(r"Code:\s*(\d+)\.\s*DB::")
NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)")


class ClickHouseError(Exception):
    """`str()` is what the body of the answer says."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.status = STATUS_OF.get(name, 500)


def refusal(code: int, name: str, message: str) -> ClickHouseError:
    """What the server itself would say, before any engine is asked."""
    return ClickHouseError(code, name, f"Code: {code}. DB::Exception: {message}. ({name}) (version {chdb.engine_version})")


def from_engine(error: Exception) -> ClickHouseError:
    """chdb raises several classes, with words of its own before ClickHouse's."""
    text = str(error).strip()
    code = CODE.search(text)
    if code is None:
        return refusal(1002, "UNKNOWN_EXCEPTION", text)
    text = text[code.start():]
    names = NAME.findall(text)
    if "(version " not in text:
        text += f" (version {chdb.engine_version})"
    return ClickHouseError(int(code[1]), names[-1] if names else "", text)
