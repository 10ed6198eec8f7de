"""HTTP over WASI 0.3: one request, and the whole of its answer. Loads in a component only."""

from urllib.parse import urlsplit

import wit_world
from componentize_py_async_support import spawn
from componentize_py_async_support.streams import ByteStreamReader, ByteStreamWriter
from componentize_py_types import Err, Ok
from wit_world.imports import client
from wit_world.imports import wasi_http_types as wasi

from .context import Response
from .failures import Denied, Failure, Internal, TimedOut, Unavailable

_CHUNK = 64 * 1024
_METHODS = {
    "GET": wasi.Method_Get,
    "HEAD": wasi.Method_Head,
    "POST": wasi.Method_Post,
    "PUT": wasi.Method_Put,
    "DELETE": wasi.Method_Delete,
    "OPTIONS": wasi.Method_Options,
    "PATCH": wasi.Method_Patch,
}


async def fetch(
    method: str, url: str, headers: list[tuple[str, str]], body: bytes | None, timeout: float | None, body_max: int
) -> Response:
    """Sends the request and reads the answer."""
    try:
        response = await client.send(_request(method, url, headers, body, timeout))
    except Err as error:
        raise _failure(error.value, url) from None
    status = response.get_status_code()
    with response.get_headers() as fields:
        found = [(name, value.decode("utf-8", "replace")) for name, value in fields.copy_all()]
    return Response(status, found, await _body(response, url, body_max))


def _request(method: str, url: str, headers: list[tuple[str, str]], body: bytes | None, timeout: float | None) -> wasi.Request:
    parsed = urlsplit(url)
    if parsed.scheme not in ("http", "https") or not parsed.netloc:
        raise Internal("url-invalid", f"`{parsed.scheme}` and `{parsed.netloc}` are no origin; a URL is http://… or https://…")
    try:
        fields = wasi.Fields.from_list([(name.lower(), value.encode()) for name, value in headers])
    except Err:
        raise Internal("header-invalid", "a header of the request has a name or a value that HTTP does not allow") from None
    contents = None
    if body is not None:
        writer, contents = wit_world.byte_stream()
        spawn(_send(writer, body))
    # No trailers: the default is what is sent when the writer is closed.
    trailers, trailers_read = wit_world.result_option_wasi_http_types_fields_wasi_http_types_error_code_future(lambda: Ok(None))
    options = _options(timeout)
    request, transmitted = wasi.Request.new(fields, contents, trailers_read, options)
    with transmitted, trailers:
        pass
    kind = _METHODS.get(method)
    request.set_method(kind() if kind else wasi.Method_Other(method))
    request.set_scheme(wasi.Scheme_Https() if parsed.scheme == "https" else wasi.Scheme_Http())
    request.set_authority(parsed.netloc)
    path = parsed.path or "/"
    request.set_path_with_query(f"{path}?{parsed.query}" if parsed.query else path)
    return request


def _options(timeout: float | None) -> wasi.RequestOptions | None:
    if timeout is None:
        return None
    nanoseconds = max(1, int(timeout * 1e9))
    options = wasi.RequestOptions()
    options.set_connect_timeout(nanoseconds)
    options.set_first_byte_timeout(nanoseconds)
    options.set_between_bytes_timeout(nanoseconds)
    return options


async def _send(writer: ByteStreamWriter, body: bytes) -> None:
    with writer:
        await writer.write_all(body)


async def _body(response: wasi.Response, url: str, body_max: int) -> bytes:
    done, done_read = wit_world.result_unit_wasi_http_types_error_code_future(lambda: Ok(None))
    with done:
        stream, trailers = wasi.Response.consume_body(response, done_read)
    body = bytearray()
    with trailers:
        with stream:
            await _read(stream, body, body_max)
        # Only now it is known whether the body is whole.
        match await trailers.read():
            case Err(value=error):
                raise _failure(error, url)
    return bytes(body)


async def _read(stream: ByteStreamReader, body: bytearray, body_max: int) -> None:
    while not stream.writer_dropped:
        body += await stream.read(_CHUNK)
        if len(body) > body_max:
            raise Unavailable("body-too-large", f"the source's answer has more than {body_max} bytes (`body_max`)")


def _failure(error: object, url: str) -> Failure:
    name = type(error).__name__.removeprefix("ErrorCode_")
    origin = urlsplit(url).netloc
    if "Timeout" in name:
        return TimedOut("source-timeout", f"{origin} did not answer in time ({name})")
    if name in ("HttpRequestDenied", "DestinationIpProhibited"):
        return Denied("request-denied", f"the request to {origin} is not granted")
    return Unavailable("source-unreachable", f"the request to {origin} failed ({name})")
