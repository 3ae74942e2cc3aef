"""An MCP server over stdio that does what its tools are called: dies, hangs, floods, changes. Needs Python alone."""

import json
import os
import signal
import sys

TOOLS = ["say", "environment", "number", "fail", "long", "die", "hang", "slow", "flood", "chatter", "garbage", "grow"]


def send(message):
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def notify(method):
    send({"jsonrpc": "2.0", "method": method})


def described(name):
    schema = {"type": "object", "properties": {"text": {"type": "string"}}, "additionalProperties": False}
    return {"name": name, "description": f"It does {name}.", "inputSchema": schema}


def call(name, arguments):
    """What the tool says, or None for one that says nothing."""
    if name == "environment":
        return "\n".join(sorted(os.environ))
    if name == "number":
        return str(os.getpid())
    if name == "long":
        return "x" * 100_000
    if name == "die":
        os._exit(3)
    if name == "hang":
        while True:
            signal.pause()
    if name == "slow":
        return None
    if name == "flood":
        # One line that never ends.
        while True:
            os.write(1, b"y" * 65_536)
    if name == "chatter":
        while True:
            notify("notifications/message")
    if name == "garbage":
        sys.stdout.write('no message\n{"half":\n[1, 2]\n\n')
        sys.stderr.write("2026-01-01T00:00:00Z ERROR a line of another\n")
        return "said"
    if name == "grow":
        TOOLS.append("grown")
        notify("notifications/tools/list_changed")
        return "grown"
    return arguments.get("text", "nothing")


def answer(request):
    method, params = request["method"], request.get("params", {})
    if method == "initialize":
        capabilities = {"tools": {"listChanged": True}}
        info = {"name": "hostile", "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": info}
    if method == "tools/list":
        # Two pages.
        if params.get("cursor") == "rest":
            return {"tools": [described(name) for name in TOOLS[2:]]}
        return {"tools": [described(name) for name in TOOLS[:2]], "nextCursor": "rest"}
    if method == "tools/call":
        text = call(params["name"], params.get("arguments", {}))
        if text is None:
            return None
        return {"content": [{"type": "text", "text": text}], "isError": params["name"] == "fail"}
    return {}


for line in sys.stdin:
    request = json.loads(line)
    if "id" not in request or "method" not in request:
        continue
    result = answer(request)
    if result is not None:
        send({"jsonrpc": "2.0", "id": request["id"], "result": result})
