"""A gRPC server without TLS, or a client that calls one; messages are bytes, so that no code needs to be generated.

usage: grpc_plain.py serve          prints its port
       grpc_plain.py call HOST:PORT
       grpc_plain.py refused HOST:PORT   expects the second call of an hour to be refused
       grpc_plain.py retried HOST:PORT   makes calls that are refused at first, with a policy that retries them
       grpc_plain.py quiet HOST:PORT     reads a stream with a silence in it
"""

import concurrent.futures
import json
import queue
import sys
import time

import grpc

SERVICE = "test.Plain"


def unary(request, context):
    context.send_initial_metadata([("x-early", "1")])
    context.set_trailing_metadata([("x-late", "2")])
    return request


def missing(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: " + request.decode())


def count(request, context):
    for n in range(int(request)):
        yield f"message {n}".encode()


def total(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def chat(requests, context):
    for request in requests:
        yield b"re: " + request


def slow(request, context):
    # Until the call's deadline; its end is the client's.
    while context.is_active():
        yield b"still here"
        time.sleep(0.01)


def quiet(request, context):
    yield b"first"
    time.sleep(float(request))
    yield b"last"


def serve():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Missing": grpc.unary_unary_rpc_method_handler(missing),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Quiet": grpc.unary_stream_rpc_method_handler(quiet),
        "Slow": grpc.unary_stream_rpc_method_handler(slow),
    })])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def check(what, got, wanted):
    if got != wanted:
        sys.exit(f"{what}: got {got!r:.200}, wanted {wanted!r:.200}")


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error.code(), error.details()
    return None


def call(target):
    with grpc.insecure_channel(target) as channel:
        path = f"/{SERVICE}/"
        echo = channel.unary_unary(path + "Unary")
        for size in (0, 10, 300_000):
            answer, done = echo.with_call(b"x" * size, timeout=30)
            check("unary", answer, b"x" * size)
            check("initial metadata", dict(done.initial_metadata()).get("x-early"), "1")
            check("trailing metadata", dict(done.trailing_metadata()).get("x-late"), "2")
        missing = channel.unary_unary(path + "Missing")
        check("status", failure(lambda: missing(b"\xc3\xa4", timeout=30)), (grpc.StatusCode.NOT_FOUND, "no such thing: \xe4"))
        unknown = channel.unary_unary(path + "Unknown")
        check("method", failure(lambda: unknown(b"", timeout=30))[0], grpc.StatusCode.UNIMPLEMENTED)
        counted = list(channel.unary_stream(path + "Count")(b"100", timeout=30))
        check("server streaming", counted, [f"message {n}".encode() for n in range(100)])
        sent = channel.stream_unary(path + "Total")(iter([b"y" * 50_000] * 20), timeout=30)
        check("client streaming", sent, b"1000000")
        # Each message is an answer to the one before, so none may wait for the next.
        conversation, heard = [], queue.SimpleQueue()

        def talk():
            for n in range(20):
                yield f"{n}".encode()
                heard.get(timeout=30)

        for answer in channel.stream_stream(path + "Chat")(talk(), timeout=30):
            conversation.append(answer)
            heard.put(answer)
        check("both ways", conversation, [f"re: {n}".encode() for n in range(20)])
        cancelled = channel.unary_stream(path + "Slow")(b"", timeout=30)
        check("a stream that is cancelled", next(cancelled), b"still here")
        cancelled.cancel()
        check("after it", echo(b"again", timeout=30), b"again")
    print("well")


def call_refused(target):
    with grpc.insecure_channel(target, [("grpc.enable_retries", 0)]) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Unary")
        check("the first", echo(b"x", timeout=30), b"x")
        try:
            echo(b"y", timeout=30)
            sys.exit("the second was not refused")
        except grpc.RpcError as error:
            check("status", error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            check("message", error.details().split(":")[0], "full")
            # gRFC A6 gives a server's word to its retrying client in this field.
            metadata = dict(error.initial_metadata() or ()) | dict(error.trailing_metadata() or ())
            pause = int(metadata["grpc-retry-pushback-ms"])
            check("pause", 0 < pause <= 3_600_000, True)
    print("well")


def call_retried(target):
    policy = {
        "maxAttempts": 5,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    with grpc.insecure_channel(target, [("grpc.service_config", config)]) as channel:
        echo = channel.unary_unary(f"/{SERVICE}/Unary")
        # With the policy's own pauses all attempts would be over in a tenth of a second.
        for one in [echo.future(b"x", timeout=50) for _ in range(4)]:
            check("unary", one.result(), b"x")
    print("well")


def call_quiet(target):
    with grpc.insecure_channel(target) as channel:
        got = list(channel.unary_stream(f"/{SERVICE}/Quiet")(b"1.2", timeout=50))
        check("server streaming", got, [b"first", b"last"])
    print("well")


if sys.argv[1] == "serve":
    serve()
else:
    {"call": call, "refused": call_refused, "retried": call_retried, "quiet": call_quiet}[sys.argv[1]](sys.argv[2])
