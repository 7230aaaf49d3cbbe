"""A gRPC server without TLS, or a client that calls one; messages are bytes, so that no code needs to be generated.

usage: grpc_plain.py serve          prints its port
       grpc_plain.py call HOST:PORT
"""

import concurrent.futures
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


def serve():
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Missing": grpc.unary_unary_rpc_method_handler(missing),
        "Count": grpc.unary_stream_rpc_method_handler(count),
        "Total": grpc.stream_unary_rpc_method_handler(total),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
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


if sys.argv[1] == "serve":
    serve()
else:
    call(sys.argv[2])
