"""The official clients of OpenAI and Anthropic for Python against a gateway: python.py ADDRESS KEY.

The agents `main` (an echo), `demo` (a script) and `tools` (a simulated model that calls a tool, then says what the tool
said) are there. Whatever is not as the clients' own types have it ends this with an error.
"""
import json
import sys

import anthropic
import openai

address, key = sys.argv[1:]
by_openai = openai.OpenAI(base_url=f"http://{address}/v1", api_key=key, max_retries=0)
by_anthropic = anthropic.Anthropic(base_url=f"http://{address}", api_key=key, max_retries=0)
hello = [{"role": "user", "content": "Hello there"}]
DEMO = "Hello! You wrote: “Hello there”."
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def same(one, other):
    assert one == other, f"{one!r} is not {other!r}"


def refused(kind, status, call):
    try:
        call()
    except kind as error:
        same(error.status_code, status)
        assert error.message, error
    else:
        raise AssertionError(f"{kind} was to come")


def models():
    same(sorted(model.id for model in by_openai.models.list()), ["demo", "main", "tools"])
    same(by_openai.models.retrieve("main").id, "main")
    same(sorted(model.id for model in by_anthropic.models.list()), ["demo", "main", "tools"])


def completions():
    chat = by_openai.chat.completions
    whole = chat.create(model="main", messages=hello)
    same((whole.choices[0].message.content, whole.choices[0].finish_reason), ("Hello there", "stop"))
    same(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)
    chunks = list(
        chat.create(model="demo", messages=hello, stream=True, stream_options={"include_usage": True}, user="ana")
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith(DEMO) and len(chunks) > 10, text
    same([chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1], "stop")
    assert chunks[-1].usage.completion_tokens > 0 and len({chunk.id for chunk in chunks}) == 1
    refused(openai.NotFoundError, 404, lambda: chat.create(model="nobody", messages=hello))
    refused(openai.BadRequestError, 400, lambda: chat.create(model="main", messages="hello"))
    wrong = openai.OpenAI(base_url=f"http://{address}/v1", api_key="sk-not-a-canary-key", max_retries=0)
    refused(openai.AuthenticationError, 401, lambda: wrong.chat.completions.create(model="main", messages=hello))


def completions_with_tools():
    tools = [{"type": "function", "function": {"name": "weather", "description": "The weather", "parameters": SCHEMA}}]
    messages = [{"role": "user", "content": "How is the weather in Rome?"}]
    for streamed in (False, True):
        if streamed:
            with by_openai.chat.completions.stream(model="tools", messages=messages, tools=tools) as stream:
                stream.until_done()
                answer = stream.get_final_completion()
        else:
            answer = by_openai.chat.completions.create(model="tools", messages=messages, tools=tools)
        choice = answer.choices[0]
        same((choice.finish_reason, len(choice.message.tool_calls)), ("tool_calls", 1))
        call = choice.message.tool_calls[0]
        same((call.function.name, json.loads(call.function.arguments)), ("weather", {"city": "Rome"}))
        said = {"role": "assistant", "tool_calls": [call.model_dump(exclude={"function": {"parsed_arguments"}})]}
        result = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
        last = by_openai.chat.completions.create(model="tools", messages=[*messages, said, result], tools=tools)
        same(last.choices[0].message.content, "It is sunny.")


def responses():
    whole = by_openai.responses.create(model="main", input="Hello there")
    same((whole.output_text, whole.status), ("Hello there", "completed"))
    with by_openai.responses.stream(model="demo", input="Hello there") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    same((kinds[0], kinds[-1]), ("response.created", "response.completed"))
    assert final.output_text.startswith(DEMO) and final.usage.output_tokens > 0, final
    tools = [{"type": "function", "name": "weather", "parameters": SCHEMA, "strict": False}]
    asked = [{"role": "user", "content": "How is the weather in Rome?"}]
    first = by_openai.responses.create(model="tools", input=asked, tools=tools)
    call = first.output[0]
    same((call.type, call.name, json.loads(call.arguments)), ("function_call", "weather", {"city": "Rome"}))
    said = {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    last = by_openai.responses.create(model="tools", input=[*asked, said, result], tools=tools)
    same(last.output_text, "It is sunny.")


def messages():
    create = by_anthropic.messages.create
    whole = create(model="main", max_tokens=100, messages=hello)
    same((whole.content[0].text, whole.stop_reason), ("Hello there", "end_turn"))
    with by_anthropic.messages.stream(model="demo", max_tokens=100, messages=hello) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text.startswith(DEMO) and final.usage.output_tokens > 0, final
    refused(anthropic.NotFoundError, 404, lambda: create(model="nobody", max_tokens=1, messages=hello))
    refused(anthropic.BadRequestError, 400, lambda: create(model="main", max_tokens=1, messages=[{"role": "user"}]))
    wrong = anthropic.Anthropic(base_url=f"http://{address}", api_key="sk-not-a-canary-key", max_retries=0)
    refused(
        anthropic.AuthenticationError,
        401,
        lambda: wrong.messages.create(model="main", max_tokens=1, messages=hello),
    )
    tools = [{"name": "weather", "description": "The weather", "input_schema": SCHEMA}]
    asked = [{"role": "user", "content": "How is the weather in Rome?"}]
    for streamed in (False, True):
        if streamed:
            with by_anthropic.messages.stream(model="tools", max_tokens=100, messages=asked, tools=tools) as stream:
                first = stream.get_final_message()
        else:
            first = create(model="tools", max_tokens=100, messages=asked, tools=tools)
        call = first.content[-1]
        same((first.stop_reason, call.type, call.name, call.input), ("tool_use", "tool_use", "weather", {"city": "Rome"}))
        said = {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]}
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}
        last = create(
            model="tools",
            max_tokens=100,
            messages=[*asked, said, {"role": "user", "content": [result]}],
            tools=tools,
        )
        same(last.content[0].text, "It is sunny.")


for part in (models, completions, completions_with_tools, responses, messages):
    part()
    print(part.__name__, "ok")
