"""The official clients of OpenAI, Anthropic and Ollama for Python against the provider simulator: simulator.py ADDRESS.

What proves the gateway is proved by them first: each format, whole and streamed, with tools, reasoning, images, odd framing,
errors. Whatever is not as the clients' own types have it ends this with an error.
"""
import json
import sys

import anthropic
import ollama
import openai

(address,) = sys.argv[1:]
by_openai = openai.OpenAI(base_url=f"http://{address}/v1", api_key="k", max_retries=0)
by_anthropic = anthropic.Anthropic(base_url=f"http://{address}", api_key="k", max_retries=0)
by_ollama = ollama.Client(host=f"http://{address}")
TEXT = 'Grüße, "World"\n🦀 and more'
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}, "required": ["city"]}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
# Not `bom`: that a stream may begin with one, the clients do not know.
FRAMINGS = ["", "crlf", "no-space", "multi-line", "comments", "pings", "unknown", "split=3", "crlf,comments,split=7"]


def same(one, other):
    assert one == other, f"{one!r} is not {other!r}"


def user(script, text=TEXT):
    return [{"role": "user", "content": f"[mock:{script}] {text}"}]


def cities(calls):
    """The arguments of calls, which are all of the same schema."""
    for number, call in enumerate(calls):
        same((call["city"], call["n"]), (f'Zürich "{number}" 😀', number + 7))


def completions():
    chat = by_openai.chat.completions
    whole = chat.create(model="m", messages=user("thoughts=3,tokens=4"))
    message = whole.choices[0].message
    same((message.content, message.reasoning_content), (TEXT, "Messages go in"))
    same((whole.choices[0].finish_reason, whole.usage.completion_tokens), ("stop", 7))
    for framing in FRAMINGS:
        chunks = list(
            chat.create(
                model="m",
                messages=user(f"thoughts=2,{framing}"),
                stream=True,
                stream_options={"include_usage": True},
            )
        )
        deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
        same("".join(delta.content or "" for delta in deltas), TEXT)
        same("".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas), "Messages go")
        same((deltas[0].role, chunks[-2].choices[0].finish_reason), ("assistant", "stop"))
        assert chunks[-1].usage.completion_tokens > 2 and not chunks[-1].choices, chunks[-1]
    for reason, expected in (("length", "length"), ("filter", "content_filter")):
        same(chat.create(model="m", messages=user(f"finish={reason}")).choices[0].finish_reason, expected)
    image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    seen = chat.create(model="m", messages=[{"role": "user", "content": [{"type": "text", "text": "see"}, image]}])
    same(seen.choices[0].message.content, "see")


def completions_with_tools():
    function = {"name": "weather", "description": "The weather", "parameters": SCHEMA}
    tools = [{"type": "function", "function": function}]
    for script in ("tools=2", "tools=2,interleave,arguments=3", "tools=3,interleave,split=5", "tools=1,arguments=1"):
        asked = user(script)
        with by_openai.chat.completions.stream(model="m", messages=asked, tools=tools) as stream:
            stream.until_done()
            streamed = stream.get_final_completion()
        for answer in (streamed, by_openai.chat.completions.create(model="m", messages=asked, tools=tools)):
            same(answer.choices[0].finish_reason, "tool_calls")
            calls = answer.choices[0].message.tool_calls
            same({call.function.name for call in calls}, {"weather"})
            cities([json.loads(call.function.arguments) for call in calls])
        said = {
            "role": "assistant",
            "tool_calls": [call.model_dump(exclude={"function": {"parsed_arguments"}}) for call in calls],
        }
        results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in calls]
        last = by_openai.chat.completions.create(model="m", messages=[*asked, said, *results], tools=tools)
        same(last.choices[0].message.content, " ".join(["sunny"] * len(calls)))


def responses():
    whole = by_openai.responses.create(model="m", input=f"[mock:thoughts=2] {TEXT}")
    same((whole.output_text, whole.status, whole.output[0].type), (TEXT, "completed", "reasoning"))
    for framing in FRAMINGS:
        with by_openai.responses.stream(model="m", input=f"[mock:thoughts=2,{framing}] {TEXT}") as stream:
            events = list(stream)
            final = stream.get_final_response()
        same((events[0].type, events[-1].type), ("response.created", "response.completed"))
        same([event.sequence_number for event in events if hasattr(event, "response")][0], 0)
        same((final.output_text, final.output[0].summary[0].text), (TEXT, "Messages go"))
        assert final.usage.output_tokens_details.reasoning_tokens == 2, final.usage
    short = by_openai.responses.create(model="m", input=f"[mock:finish=length] {TEXT}")
    same((short.status, short.incomplete_details.reason), ("incomplete", "max_output_tokens"))
    tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]
    for script in ("tools=2", "tools=2,interleave,arguments=3", "tools=2,tokens=4,thoughts=1"):
        asked = [{"role": "user", "content": f"[mock:{script}] {TEXT}"}]
        with by_openai.responses.stream(model="m", input=asked, tools=tools) as stream:
            stream.until_done()
            streamed = stream.get_final_response()
        for answer in (streamed, by_openai.responses.create(model="m", input=asked, tools=tools)):
            calls = [item for item in answer.output if item.type == "function_call"]
            same(len(calls), 2)
            cities([json.loads(call.arguments) for call in calls])
        said = [
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
            for call in calls
        ]
        results = [{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"} for call in calls]
        same(by_openai.responses.create(model="m", input=[*asked, *said, *results], tools=tools).output_text, "sunny sunny")


def messages():
    create = by_anthropic.messages.create
    whole = create(model="m", max_tokens=100, messages=user("thoughts=3"))
    same([block.type for block in whole.content], ["thinking", "text"])
    same((whole.content[1].text, whole.stop_reason), (TEXT, "end_turn"))
    for framing in FRAMINGS:
        with by_anthropic.messages.stream(model="m", max_tokens=100, messages=user(f"thoughts=2,{framing}")) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        same((text, final.content[0].thinking), (TEXT, "Messages go"))
        assert final.content[0].signature and final.usage.output_tokens > 2 and final.usage.input_tokens > 0, final
    same(create(model="m", max_tokens=100, messages=user("finish=length")).stop_reason, "max_tokens")
    source = {"type": "base64", "media_type": "image/png", "data": PNG}
    blocks = [{"type": "text", "text": "see"}, {"type": "image", "source": source}]
    same(create(model="m", max_tokens=9, messages=[{"role": "user", "content": blocks}]).content[0].text, "see")
    tools = [{"name": "weather", "description": "The weather", "input_schema": SCHEMA}]
    for script in ("tools=2", "tools=2,arguments=1,pings", "tools=2,tokens=4,thoughts=2"):
        asked = user(script)
        with by_anthropic.messages.stream(model="m", max_tokens=100, messages=asked, tools=tools) as stream:
            streamed = stream.get_final_message()
        for answer in (streamed, create(model="m", max_tokens=100, messages=asked, tools=tools)):
            calls = [block for block in answer.content if block.type == "tool_use"]
            same((answer.stop_reason, len(calls)), ("tool_use", 2))
            cities([call.input for call in calls])
        said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in answer.content]}
        results = [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"} for call in calls]
        last = create(
            model="m", max_tokens=100, messages=[*asked, said, {"role": "user", "content": results}], tools=tools
        )
        same(last.content[-1].text, "sunny sunny")


def ollama_chat():
    whole = by_ollama.chat(model="m", messages=user("thoughts=2"))
    same((whole.message.content, whole.message.thinking, whole.done_reason), (TEXT, "Messages go", "stop"))
    assert whole.prompt_eval_count > 0 and whole.eval_count > 2, whole
    for framing in ("", "crlf", "unknown", "split=3"):
        lines = list(by_ollama.chat(model="m", messages=user(f"thoughts=2,{framing}"), stream=True))
        same("".join(line.message.content or "" for line in lines), TEXT)
        same("".join(line.message.thinking or "" for line in lines), "Messages go")
        same(([line.done for line in lines].count(True), lines[-1].done), (1, True))
    seen = by_ollama.chat(model="m", messages=[{"role": "user", "content": "see", "images": [PNG]}])
    same(seen.message.content, "see")
    tools = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": SCHEMA}}]
    asked = user("tools=2")
    streamed = [line.message.tool_calls for line in by_ollama.chat(model="m", messages=asked, tools=tools, stream=True)]
    whole = by_ollama.chat(model="m", messages=asked, tools=tools).message
    for calls in ([call for calls in streamed for call in calls or []], whole.tool_calls):
        cities([call.function.arguments for call in calls])
    results = [{"role": "tool", "tool_name": "weather", "content": "sunny"}] * 2
    last = by_ollama.chat(model="m", messages=[*asked, whole, *results], tools=tools)
    same(last.message.content, "sunny sunny")


def refused(kind, status, call):
    try:
        for _ in call():
            pass
    except kind as error:
        same(error.status_code, status)
        return error
    raise AssertionError(f"{kind} with {status} was to come")


def errors():
    chat, create = by_openai.chat.completions.create, by_anthropic.messages.create
    for status, of_openai, of_anthropic in (
        (400, openai.BadRequestError, anthropic.BadRequestError),
        (401, openai.AuthenticationError, anthropic.AuthenticationError),
        (403, openai.PermissionDeniedError, anthropic.PermissionDeniedError),
        (429, openai.RateLimitError, anthropic.RateLimitError),
        (503, openai.InternalServerError, anthropic.InternalServerError),
        (529, openai.InternalServerError, anthropic.APIStatusError),
    ):
        asked = user(f"status={status},retry-after=7")
        error = refused(of_openai, status, lambda: chat(model="m", messages=asked, stream=True))
        same(error.response.headers["retry-after"], "7")
        refused(of_openai, status, lambda: by_openai.responses.create(model="m", input=asked[0]["content"]))
        error = refused(of_anthropic, status, lambda: create(model="m", max_tokens=9, messages=asked, stream=True))
        assert "the script says so" in error.message, error
        refused(ollama.ResponseError, status, lambda: by_ollama.chat(model="m", messages=asked, stream=True))
    same(refused(openai.RateLimitError, 429, lambda: chat(model="m", messages=user("status=429,spent"))).code, "insufficient_quota")
    # In mid-stream.
    for kind, call in (
        (openai.APIError, lambda: chat(model="m", messages=user("fault=error,at=2"), stream=True)),
        (openai.APIError, lambda: by_openai.responses.create(model="m", input="[mock:fault=error,at=2] abcdefghijkl", stream=True)),
        (anthropic.APIStatusError, lambda: create(model="m", max_tokens=9, messages=user("fault=error,at=2"), stream=True)),
        (ollama.ResponseError, lambda: by_ollama.chat(model="m", messages=user("fault=error,at=2"), stream=True)),
    ):
        said = []
        try:
            for piece in call():
                said.append(piece)
        except kind as error:
            assert said, error
        else:
            # The client of OpenAI's responses hands the event on.
            same(said[-1].type, "error")


for part in (completions, completions_with_tools, responses, messages, ollama_chat, errors):
    part()
    print(part.__name__, "ok")
