"""The settings that choose GPU kernels: right inside, and afterwards exactly as the host program left them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

HAS_NEW = hasattr(torch.backends, "fp32_precision")

# What a host program may have done. Each is tried in a process of its own (a fork: importing PyTorch takes long), for a
# setting cannot be unmade. "state" reads what holds, and what holds when a parent changes: that shows what was set.
SCRIPT = """
import json, os, sys, warnings
import torch
from stream_detector.engines import kernels
warnings.simplefilter("error")
B = torch.backends

def read(what):
    try:
        return what()
    except RuntimeError:
        return "refused"

def values():
    places = (B, B.cudnn, B.cuda.matmul, B.cudnn.conv, B.cudnn.rnn) if NEW else ()
    return [place.fp32_precision for place in places]

def state():
    old = [lambda: B.cuda.matmul.allow_tf32, lambda: B.cudnn.allow_tf32, torch.get_float32_matmul_precision]
    found = [read(what) for what in old] + values()
    found += [B.cudnn.enabled, B.cudnn.benchmark, B.cudnn.deterministic]
    for parent in (B, B.cudnn) if NEW else ():  # the upper one first: changing the lower one sets it
        for value in ("ieee", "tf32", "none"):
            parent.fp32_precision = value
            found.append(values())
    return found

def tried(host, precision):
    def run(go):
        out, into = os.pipe()
        if os.fork() == 0:
            try:
                exec(host)
                found = go()
            except BaseException as error:
                found = repr(error)
            os.write(into, json.dumps(found).encode())
            os._exit(0)
        os.close(into)
        with os.fdopen(out) as file:
            found = json.loads(file.read())
        os.wait()
        return found

    def used():
        try:
            with kernels.kernels(precision, deterministic=True):
                inside = values()[2:] if NEW else [B.cuda.matmul.allow_tf32, B.cudnn.allow_tf32]
                inside += [B.cudnn.enabled, B.cudnn.benchmark, B.cudnn.deterministic]
                raise KeyError
        except KeyError:
            return [inside, state()]

    return {"before": run(state), "after": run(used)}

NEW = True
new = {host: {p: tried(host, p) for p in ("fp32", "tf32")} for host in json.loads(sys.argv[1])}
NEW, kernels._has_new_interface = False, lambda: False
old = {host: {p: tried(host, p) for p in ("fp32", "tf32")} for host in json.loads(sys.argv[2])}
print(json.dumps([new, old]))
"""
OLD = [
    "pass",
    "torch.set_float32_matmul_precision('high')",
    "B.cuda.matmul.allow_tf32 = True; B.cudnn.allow_tf32 = False",
    "B.cudnn.benchmark = True; B.cudnn.enabled = False",
]
NEW = [
    *OLD,
    "B.fp32_precision = 'tf32'",
    "B.fp32_precision = 'ieee'; B.cudnn.fp32_precision = 'ieee'",
    "B.cudnn.fp32_precision = 'tf32'; B.cuda.matmul.fp32_precision = 'ieee'",
    "B.cuda.matmul.fp32_precision = 'tf32'",
    "B.cudnn.conv.fp32_precision = 'tf32'",
    "B.cudnn.conv.fp32_precision = 'ieee'; B.cudnn.rnn.fp32_precision = 'tf32'",
]


@pytest.mark.skipif(not HAS_NEW, reason="this PyTorch has the old interface alone")
def test_kernels_are_chosen_and_every_setting_of_the_host_program_is_restored() -> None:
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps(NEW), json.dumps(OLD)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    new, old = json.loads(done.stdout)
    assert list(new) == NEW and list(old) == OLD
    flags = [True, False, True]
    for found, wanted in (
        (new, {"fp32": ["ieee"] * 3, "tf32": ["tf32"] * 3}),
        (old, {"fp32": [False] * 2, "tf32": [True] * 2}),
    ):
        for host, by_precision in found.items():
            for precision, seen in by_precision.items():
                inside, after = seen["after"]
                assert inside == wanted[precision] + flags, (host, precision)
                assert after == seen["before"], (host, precision)
