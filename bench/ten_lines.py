"""What gptpipe began as: the SDK, a prompt, and a loop that prints."""

import sys

from openai import OpenAI

prompt = " ".join(sys.argv[2:]) or sys.stdin.read()
answer = OpenAI().chat.completions.create(
    model=sys.argv[1], messages=[{"role": "user", "content": prompt}], stream=True
)
for chunk in answer:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
