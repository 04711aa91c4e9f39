"""Values at the edges of JSON, Unicode, numbers and keys: each is used as it is, or refused in words."""

import bz2
import gzip
import json
from typing import Any

from tests.support.stack import Process, Stack
from tests.support.tenants import Tenant

ONE = {"class_label": 1}
NAMES = ["é", "e\u0301", "a\u202eb\u200f", "line\u2028end\u0085", "\u0001\u001b[31m", "\U0001f600", "__proto__", " "]
SUCCEEDS: dict[str, Any] = {
    "names": {"items": [{**ONE, "id": name, "metadata": {name: [name, None]}} for name in NAMES]},
    "zero below": '{"steps":1,"items":[{"class_label":-0.0,"seed":-0.0}],"seed":-0}',
    "exponents": '{"steps":1e0,"items":[{"class_label":1E0,"steps":10e-1}]}',
    "the largest seed": {"items": [{**ONE, "seed": 2**62}], "images_per_item": 2},
    "small numbers": {"items": [ONE], "guidance_scale": 5e-324, "guidance_interval": [0, 5e-324]},
    "large numbers": '{"steps":1,"items":[{"class_label":1,"metadata":{"n":[1e308,-1e308,-0.0,1e-16383]}}]}',
    "twice": '{"steps":1,"items":[{"class_label":99,"class_label":1,"id":"x","id":"a"},{"class_label":1,"id":"x"}]}',
    "a deep key": {"items": [ONE], "output_prefix": "outputs/attacker" + "/a" * 240},
    "a long name": {"items": [ONE], "output_prefix": "outputs/attacker/" + "x" * 480},
    "dots": {"items": [ONE], "output_prefix": "outputs/attacker/.../=/.a"},
}
REJECTED: dict[str, tuple[Any, str]] = {
    "a newline": ({"items": [ONE], "output_prefix": "outputs/attacker/x\n"}, r"output_prefix: 'outputs/attacker/x\n' "),
    "a parent": ({"items": [ONE], "output_prefix": "outputs/attacker/../x"}, "output_prefix: "),
    "an escape": ({"input_uri": "inputs/attacker/%2e%2e/x"}, "input_uri: "),
    "a key that turns": ({"input_uri": "inputs/attacker/\u202ex"}, "input_uri: s3://darkroom/inputs/attacker/\ufffdx "),
    "a folder": ({"input_uri": "inputs/attacker"}, "input_uri: "),
    "a large seed": ('{"items":[{"class_label":1,"seed":1e308}]}', "items[0].seed: "),
    "309 digits": ('{"items":[{"class_label":1,"metadata":{"n":%s}}]}' % ("9" * 309), "an integer of 309 digits"),
    "1e131071": ('{"items":[{"class_label":1,"metadata":{"n":1e131071}}]}', "an integer of 131072 digits"),
    "an item inside": ({"items": [[ONE]]}, "items[0]: "),
}
INPUTS: dict[str, tuple[bytes, str, str]] = {
    "gzip": (gzip.compress(b'{"class_label":1,"steps":1}\n'), "succeeded", ""),
    "gzip-twice": (gzip.compress(gzip.compress(b"{}")), "rejected", "is a gzip file within a gzip file; permitted"),
    "gzip-cut": (gzip.compress(b'{"class_label":1}\n' * 99)[:-9], "rejected", "is a gzip file that ends early"),
    "bzip2": (bz2.compress(b'{"class_label":1}\n'), "rejected", "is a bzip2 file; permitted: lines of JSON in UTF-8"),
    "empty": (b"", "rejected", "has no lines; give one item a line"),
    "utf-16": ('{"class_label":1}\n'.encode("utf-16"), "failed", "line 1: not JSON: byte 1 is not UTF-8"),
    "one-byte": (b"x", "failed", "line 1: not JSON"),
    "newline": (b"\n", "failed", "line 1: not JSON"),
    "mark": (b'\xef\xbb\xbf{"class_label":1,"steps":1}', "succeeded", ""),
    "crlf": (b'{"class_label":1,"steps":1}\r\n{"class_label":2,"steps":1}\r\n', "succeeded", ""),
    "deep": (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "failed", "line 1: nested too deeply; permitted: at most 32"),
    "deep-half": (b'{"a":' * 900 + b'"\\ud800"' + b"}" * 900, "failed", "line 1: nested too deeply; permitted: at"),
}


def test_odd_values_are_used_or_refused_in_words(
    stack: Stack, service: tuple[Process, Process], attacker: Tenant, neighbour: Tenant
) -> None:
    def submit(request: Any) -> Any:
        text = request if isinstance(request, str) else json.dumps({"steps": 1, **request})
        with attacker.connect() as connection:
            query = "INSERT INTO jobs (model, request) VALUES ('tiny@production', %s) RETURNING id"
            return connection.execute(query, (text,)).fetchall()[0].id

    store = stack.store()
    for name, (body, _, _) in INPUTS.items():
        store.put(f"inputs/attacker/odd-{name}", body, content_type="application/jsonl")
    good = {name: submit(request) for name, request in SUCCEEDS.items()}
    bad = {name: submit(request) for name, (request, _) in REJECTED.items()}
    read = {name: submit({"input_uri": f"inputs/attacker/odd-{name}"}) for name in INPUTS}
    neighbour.assert_served()
    for name, (_, words) in REJECTED.items():
        row = attacker.wait(bad[name])
        assert row.state == "rejected", (name, row)
        assert words in row.reason, (name, row.reason)
        assert row.reason.isprintable(), name
    for name, (_, state, words) in INPUTS.items():
        row = attacker.wait(read[name])
        assert row.state == state, (name, row)
        assert words in (row.reason or ""), (name, row.reason)
    for name, job_id in good.items():
        row = attacker.wait(job_id)
        assert (row.state, row.failed) == ("succeeded", 0), (name, row)
    manifest = json.loads(store.get(attacker.job(good["names"]).manifest_key))
    listed = [json.loads(line) for line in store.get(manifest["outputs"][0]).decode().split("\n")[:-1]]
    assert [line["id"] for line in listed] == NAMES
    assert [line["metadata"] for line in listed] == [{name: [name, None]} for name in NAMES]
