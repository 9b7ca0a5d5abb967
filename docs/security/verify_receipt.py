#!/usr/bin/env python3
"""Checks a prediction's receipt offline; needs Python 3.11 and `cryptography`, nothing of Madang.

    python verify_receipt.py receipt.json [--key VERIFIER_KEY]

Give the key that you got from the owner of the ledger in another way than the receipt: without it,
the script only shows that the receipt fits together, not who signed it.

What it checks, in this order:

1. the checkpoint is signed by the key (Ed25519; C2SP signed-note and tlog-checkpoint);
2. each line of the ledger leads to the checkpoint's root (RFC 9162, section 2.1.3.2);
3. the prediction's event leads to the root that one of these lines holds (the same);
4. what the receipt says of the prediction and of the lines is what these bytes say.
"""

import argparse
import base64
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

DASH = "\N{EM DASH} "


class WrongError(Exception):
    """Something of the receipt does not hold."""


def need(holds, problem):
    if not holds:
        raise WrongError(problem)


def root_of(data, index, size, path):
    """The root that the inclusion proof of `data` leads to: RFC 9162, section 2.1.3.2."""
    need(0 <= index < size, "an inclusion proof has an index beyond its size")
    at, last, found = index, size - 1, hashlib.sha256(b"\0" + data).digest()
    for text in path:
        need(last, "an inclusion proof is too long")
        sibling = bytes.fromhex(text)
        need(len(sibling) == 32, "an inclusion proof holds something that is no SHA-256")
        if at & 1 or at == last:
            found = hashlib.sha256(b"\1" + sibling + found).digest()
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = hashlib.sha256(b"\1" + found + sibling).digest()
        at, last = at >> 1, last >> 1
    need(last == 0, "an inclusion proof is too short")
    return found


def signed_root(note, verifier):
    """Size and root of a checkpoint that the key signed."""
    name, known, encoded = verifier.split("+", 2)
    raw = base64.b64decode(encoded, validate=True)
    need(raw[:1] == b"\1" and len(raw) == 33, "the key is no Ed25519 key")
    need(
        hashlib.sha256(name.encode() + b"\n" + raw).digest()[:4].hex() == known,
        "the key's parts don't belong together",
    )
    text, _, signatures = note.partition("\n\n")
    origin, size, root, _time = text.split("\n")
    need(origin == name, f"the checkpoint is of {origin!r}, the key of {name!r}")
    signed = signatures.splitlines()
    need(
        all(line.startswith(DASH) for line in signed),
        "something that is no signature stands below the checkpoint",
    )
    for line in signed:
        signer, _, signature = line.removeprefix(DASH).partition(" ")
        value = base64.b64decode(signature)
        if signer == name and value[:4].hex() == known:
            try:
                Ed25519PublicKey.from_public_bytes(raw[1:]).verify(value[4:], f"{text}\n".encode())
            except InvalidSignature:
                continue
            return int(size), base64.b64decode(root)
    raise WrongError("the checkpoint is not signed by the key")


def check(receipt, key):
    """Raises `WrongError`; else returns the lines' contents by number."""
    need(receipt["receipt"] == "madang-receipt/1", "this is no receipt of a known form")
    proof = receipt["proof"]
    size, root = signed_root(proof["checkpoint"], key)
    lines = {}
    for one in proof["lines"]:
        data = one["line"].encode()
        found = root_of(data, one["seq"] - 1, size, one["path"])
        need(found == root, f"line {one['seq']} is not in the signed ledger")
        lines[one["seq"]] = json.loads(data)
        need(lines[one["seq"]]["seq"] == one["seq"], f"line {one['seq']} has another number")
    event = proof["event"]
    need(event["seq"] in lines, "the line that seals the prediction is missing")
    seal = lines[event["seq"]]
    need(seal["kind"] == "topic.sealed", "the line that seals the prediction is of another kind")
    need(event["size"] == seal["data"]["events"], "the seal is over another number of events")
    found = root_of(event["event"].encode(), event["index"], event["size"], event["path"])
    need(found.hex() == seal["data"]["root"], "the prediction is not among what was sealed")
    need(json.loads(event["event"]) == receipt["prediction"], "the prediction was edited")
    for told in all_told(receipt):
        line = lines.get(told["line"])
        need(line is not None, f"line {told['line']} is told and not proven")
        for name in ("time", "actor", "kind", "subject", "inputs", "outputs", "data"):
            need(line[name] == told[name], f"{name} of line {told['line']} was edited")
    for model in receipt["models"]:
        check_model(model, receipt["prediction"])
    return lines


def check_model(model, prediction):
    refs = [f"model:{r}" for r in prediction.get("models") or [named(prediction)]]
    need(model["ref"] in refs, f"{model['ref']} did not make the prediction")
    told = model["registered"]
    made_from = told["inputs"] if told else []
    if told:
        need(told["subject"] == model["ref"], "another model's registration is told")
    for name, kind in (("code", "code:"), ("datasets", "dataset:"), ("feature_views", "view:")):
        known = [ref for ref in made_from if ref.startswith(kind)]
        need(model[name] == known, f"{name} of {model['ref']} are not what its registration says")
    if model["run"] is not None:
        need(f"run:{model['run']}" in made_from, f"{model['ref']} was made by another run")


def named(prediction):
    return f"{prediction['model']}@{prediction['version']}"


def all_told(receipt):
    """What the receipt says of lines."""
    found = [*receipt["rollout"], *receipt["decisions"]]
    found += [receipt["endpoint"]] if receipt["endpoint"] else []
    for model in receipt["models"]:
        found += model["lineage"] + ([model["registered"]] if model["registered"] else [])
    return found


def main():
    parser = argparse.ArgumentParser(description="Checks a prediction's receipt offline.")
    parser.add_argument("receipt")
    parser.add_argument("--key", help="the ledger's public key, as its owner gave it to you")
    chosen = parser.parse_args()
    try:
        with open(chosen.receipt, encoding="utf-8") as file:
            receipt = json.load(file)
        lines = check(receipt, chosen.key or receipt["proof"]["key"])
    except (WrongError, KeyError, TypeError, ValueError, AttributeError) as error:
        print(f"WRONG: {error if isinstance(error, WrongError) else repr(error)}")
        return 1
    prediction = receipt["prediction"]
    print(f"ok: prediction {prediction['id']} of {prediction['time']} by {named(prediction)}")
    for seq, line in sorted(lines.items()):
        print(f"  line {seq}: {line['time'][:19]} {line['actor']} {line['kind']} {line['subject']}")
    if not chosen.key:
        print("no key was given: this shows that the receipt fits together, not who signed it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
