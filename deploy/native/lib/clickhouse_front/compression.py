"""Compressed bodies: HTTP's encodings, and ClickHouse's own frames (what its clients send with decompress=1)."""

import gzip
import struct
import zlib

import lz4.block
import lz4.frame
import zstandard
from clickhouse_cityhash.cityhash import CityHash128

from .errors import refusal

CHECKSUM_BYTES = 16
HEADER_BYTES = 9   # method, compressed size with this header, uncompressed size


def from_frames(body: bytes) -> bytes:
    blocks, at = [], 0
    while at < len(body):
        if len(body) - at < CHECKSUM_BYTES + HEADER_BYTES:
            raise refusal(33, "CANNOT_READ_ALL_DATA", "Cannot read all data: a frame is cut off")
        checksum = body[at:at + CHECKSUM_BYTES]
        at += CHECKSUM_BYTES
        method, size, plain_size = struct.unpack_from("<BII", body, at)
        block = body[at:at + size]
        if size < HEADER_BYTES or len(block) != size:
            raise refusal(33, "CANNOT_READ_ALL_DATA", "Cannot read all data: a frame is cut off")
        at += size
        computed = CityHash128(block)
        if struct.pack("<QQ", computed >> 64, computed & (1 << 64) - 1) != checksum:
            raise refusal(40, "CHECKSUM_DOESNT_MATCH", "Checksum doesn't match: corrupted data")
        blocks.append(decompressed(method, block[HEADER_BYTES:], plain_size))
    return b"".join(blocks)


def decompressed(method: int, data: bytes, plain_size: int) -> bytes:
    match method:
        case 0x02:
            return data
        case 0x82:
            return lz4.block.decompress(data, uncompressed_size=plain_size)
        case 0x90:
            return zstandard.ZstdDecompressor().decompress(data, max_output_size=plain_size)
    raise refusal(89, "UNKNOWN_COMPRESSION_METHOD", f"Unknown compression method: 0x{method:02x}")


def decoded(encoding: str, body: bytes) -> bytes:
    """By Content-Encoding."""
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "x-gzip":
            return gzip.decompress(body)
        case "deflate":
            return zlib.decompress(body)
        case "lz4":
            return lz4.frame.decompress(body)
        case "zstd":
            return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    raise refusal(48, "NOT_IMPLEMENTED", f"Unknown Content-Encoding: {encoding}")


def encoded(accepted: str, body: bytes) -> tuple[str | None, bytes]:
    """By Accept-Encoding: which encoding was taken, and the body in it."""
    offered = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
    if "lz4" in offered:
        return "lz4", lz4.frame.compress(body, block_linked=False, store_size=False)
    if "zstd" in offered:
        return "zstd", zstandard.ZstdCompressor(level=1).compress(body)
    if "gzip" in offered:
        return "gzip", gzip.compress(body, 1)
    return None, body
