"""Python's `openai`, unchanged, against a running server. Argument: JSON with address, key and what is wanted."""
import json
import sys
from typing import Literal

import openai
import pydantic

given = json.loads(sys.argv[1])
client = openai.OpenAI(base_url=given["address"] + "/v1", api_key=given["key"], max_retries=0)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": given["question"]}]
options = dict(model=model, messages=messages, temperature=0, max_tokens=24)

whole = client.chat.completions.create(**options, logprobs=True, top_logprobs=2)
assert whole.choices[0].message.content == given["answer"], whole
assert len(whole.choices[0].logprobs.content[0].top_logprobs) == 2
assert whole.usage.prompt_tokens_details.cached_tokens >= 0

text, usage = "", None
for chunk in client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}):
    text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    usage = chunk.usage or usage
assert text == given["answer"], text
assert usage.completion_tokens == whole.usage.completion_tokens

completion = client.completions.create(
    model=model, prompt=[given["prompt"]] * 2, temperature=0, max_tokens=12,
    extra_body={"top_k": 5, "ignore_eos": True},
)
assert [choice.text for choice in completion.choices] == [given["story"]] * 2, completion

response = client.responses.create(
    model=model, input=given["question"], temperature=0, max_output_tokens=24
)
assert response.output_text == given["answer"], response
with client.responses.stream(
    model=model, input=given["question"], temperature=0, max_output_tokens=24
) as stream:
    assert stream.get_final_response().output_text == given["answer"]

try:
    client.completions.create(model=model, prompt="word " * 5000)
    raise SystemExit("a prompt longer than the context was not refused")
except openai.BadRequestError as error:
    assert error.code == "context_length_exceeded", error

class Animal(pydantic.BaseModel):
    name: Literal["cat", "dog"]
    legs: Literal[4]


parsed = client.chat.completions.parse(**{**options, "max_tokens": 300}, response_format=Animal)
assert parsed.choices[0].message.parsed.legs == 4, parsed
anything = client.chat.completions.create(
    **{**options, "max_tokens": 1}, response_format={"type": "json_object"}
)
assert anything.choices[0].message.content.startswith("{"), anything
try:
    client.chat.completions.create(**options, modalities=["text", "audio"])
    raise SystemExit("modalities was not refused")
except openai.BadRequestError as error:
    assert error.param == "modalities", error
print("ok")
