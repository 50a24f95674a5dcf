"""Sends malformed requests to a server and judges what it does: it refuses them, lives on and does not grow."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.message import Message

from fuzz.mutations import garbage, malformed

# A server that answers one of these to a malformed request has a fault, or died.
FAULTS = frozenset({grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE})
_CALL_TIMEOUT_S = 20.0
_GARBAGE_SHARE = 0.002
_STREAM_SHARE = 0.02
_IN_FLIGHT = 16
_MAX_EXAMPLES = 10


@dataclass
class Findings:
    """What came back.

    Attributes:
        codes: Answers by gRPC code; "garbage" counts connections that spoke no gRPC.
        faults: Examples of what a server must not answer: method, code, detail, request in hex.
    """

    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Target:
    """A server under fire.

    Attributes:
        address: host:port.
        unary: Full method -> a valid request.
        streams: Full method of a stream of requests -> a valid request.
    """

    address: str
    unary: Mapping[str, Message]
    streams: Mapping[str, Message]


async def attack(target: Target, count: int, seed: int) -> Findings:
    """Send `count` malformed requests, some on streams, some as garbage on a connection of its own."""
    findings = Findings()
    shares = iter(range(count))
    async with grpc.aio.insecure_channel(
        target.address, options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    ) as channel:
        await asyncio.gather(
            *(
                _attacker(target, channel, random.Random(f"{seed}-{number}"), shares, findings)
                for number in range(_IN_FLIGHT)
            )
        )
    return findings


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; Linux only."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024


async def _attacker(
    target: Target,
    channel: grpc.aio.Channel,
    rng: random.Random,
    shares: Iterator[int],
    findings: Findings,
) -> None:
    unary = {name: (channel.unary_unary(name), valid) for name, valid in target.unary.items()}
    for _ in shares:
        dice = rng.random()
        if dice < _GARBAGE_SHARE:
            await _connect_and_talk_nonsense(target.address, garbage(rng))
            findings.codes["garbage"] += 1
            continue
        if dice < _GARBAGE_SHARE + _STREAM_SHARE and target.streams:
            name, valid = rng.choice(sorted(target.streams.items()))
            body = malformed(rng, valid)
            code, detail = await _stream(channel, name, body)
        else:
            name = rng.choice(sorted(unary))
            method, valid = unary[name]
            body = malformed(rng, valid)
            code, detail = await _call(method, body)
        findings.codes[code.name] += 1
        if code in FAULTS and len(findings.faults) < _MAX_EXAMPLES:
            findings.faults.append(
                f"{name}: {code.name}: {detail}; request {body[:64].hex()} ({len(body)} bytes)"
            )


async def _call(method: grpc.aio.UnaryUnaryMultiCallable, body: bytes) -> tuple[grpc.StatusCode, str]:
    try:
        await method(body, timeout=_CALL_TIMEOUT_S)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


async def _stream(channel: grpc.aio.Channel, name: str, body: bytes) -> tuple[grpc.StatusCode, str]:
    call = channel.stream_stream(name)(timeout=_CALL_TIMEOUT_S)
    try:
        await call.write(body)
        await call.done_writing()
        while await call.read() is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    except asyncio.InvalidStateError:  # grpc's word for a write after the server had ended the stream
        pass
    return await call.code(), await call.details() or ""


async def _connect_and_talk_nonsense(address: str, noise: bytes) -> None:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    with contextlib.suppress(OSError):
        writer.write(noise)
        await writer.drain()
        writer.write_eof()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(reader.read(1 << 16), 5)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
