"""The official client against a daemon: `openai_client.py URL REFERENCES MODEL TOLERANCE`.

Prints one line per check that holds; the first that does not ends it with a traceback.
"""

import json
import sys

import openai

url, references, model, tolerance = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3], float(sys.argv[4])
client = openai.OpenAI(base_url=url + "/v1", api_key="unused", max_retries=0, timeout=120)


def check(what, holds, got):
    assert holds, f"{what}: {got}"
    print("ok", what)


def check_vectors(what, answer, rows):
    check(f"{what}: order", [row.index for row in answer.data] == list(range(len(rows))), answer)
    for got, want in zip(answer.data, rows):
        assert len(got.embedding) == len(want["embedding"]), (what, len(got.embedding))
        error = max(abs(a - b) for a, b in zip(got.embedding, want["embedding"]))
        check(f"{what}: {want['text'][:20]!r}", error <= tolerance, error)
    tokens = sum(len(row["input_ids"]) for row in rows)
    check(f"{what}: usage", answer.usage.prompt_tokens == answer.usage.total_tokens == tokens, answer.usage)
    check(f"{what}: model", answer.model == model, answer.model)


def refused(what, kind, part, **arguments):
    try:
        answer = client.embeddings.create(**{"model": model, "input": "x", **arguments})
    except openai.APIStatusError as error:
        check(what, type(error) is kind and part in str(error) and error.code, repr(error))
    else:
        raise AssertionError(f"{what}: answered with {answer}")


texts = [row["text"] for row in references]
ids = [row["input_ids"] for row in references]
# By default the client requests base64 and decodes it.
check_vectors("string", client.embeddings.create(model=model, input=texts[0]), references[:1])
check_vectors("strings", client.embeddings.create(model=model, input=texts), references)
check_vectors("token ids", client.embeddings.create(model=model, input=ids[1]), references[1:2])
check_vectors("lists of token ids", client.embeddings.create(model=model, input=ids[:3]), references[:3])
check_vectors(
    "float", client.embeddings.create(model=model, input=texts[:2], encoding_format="float"), references[:2]
)
size = len(references[0]["embedding"])
check_vectors("dimensions", client.embeddings.create(model=model, input=texts[0], dimensions=size), references[:1])

served = [entry.id for entry in client.models.list()]
check("models.list", model in served, served)
check("models.retrieve", client.models.retrieve(model).id == model, served)

refused("wrong model", openai.NotFoundError, "no-such-model", model="no-such-model")
refused("empty text", openai.BadRequestError, "empty", input="")
refused("no texts", openai.BadRequestError, "empty", input=[])
refused("too long", openai.BadRequestError, "tokens", input=[101] * 10_000)
refused("dimensions that the model has not", openai.BadRequestError, "dimensions", dimensions=size + 1)
try:
    client.models.retrieve("no-such-model")
except openai.NotFoundError as error:
    check("models.retrieve of a wrong model", "no-such-model" in str(error), error)
check_vectors("afterwards", client.embeddings.create(model=model, input=texts[0]), references[:1])
