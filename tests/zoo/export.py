"""Gathers fp32 ONNX files as packages ship and real exporters write them, with inputs and reference outputs.

    python export.py --out DIR [--only NAME,NAME..] [--list] [--force]

Every model becomes DIR/NAME/ with model.onnx, about.json and the tensors `in.NAME` and `out.NAME` of io.safetensors (further data
sets of other sizes: io.1.safetensors, ..). Outputs are native onnxruntime's on the CPU without graph optimizations. A model that
cannot be made, or whose outputs would prove nothing, is in DIR/failed.json with the reason.

Models that come from one export form a family. A family is made in a process of its own, so that a crash, a hang or a leak ends
with it, and from a seed of its own, so that a model does not depend on what was made before it.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

# An isolated interpreter (-I) does not search the script's folder for modules.
sys.path.insert(0, str(Path(__file__).resolve().parent))
# Nothing is fetched from a hub, and one thread makes sums repeatable.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_NUM_THREADS": "1",
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "KERAS_BACKEND": "torch",
        "CUDA_VISIBLE_DEVICES": "",
    }
)

import family
import reference

# After this time a family counts as hung: the slowest needs a few minutes on one busy core.
FAMILY_SECONDS_MAX = 1500
FILE_BYTES_MAX = 160 << 20


def families():
    import files, keras_networks, modules, networks, optimized, speech, text, vision  # noqa: E401

    return [made for module in (files, networks, vision, text, speech, modules, keras_networks, optimized) for made in module.FAMILIES]


def store(made, owner, folder):
    """Writes one model's folder; refuses models that are degenerate or too large."""
    import onnx

    folder.mkdir(parents=True)
    path = folder / "model.onnx"
    facts = reference.Facts.of(made.path)
    if facts.external:
        # One file is easier to handle, and all are far below protobuf's limit of 2 GB.
        onnx.save(onnx.load(made.path), path)
    else:
        shutil.copyfile(made.path, path)
    size = path.stat().st_size
    if size > FILE_BYTES_MAX:
        raise ValueError(f"model.onnx has {size} bytes, the limit is {FILE_BYTES_MAX}")
    runs = [reference.run(path, inputs, made.unchecked) for inputs in made.sets]
    for index, run in enumerate(runs):
        reference.write(folder / (f"io.{index}.safetensors" if index else "io.safetensors"), run)
    about = {
        "name": made.name,
        "group": owner.group,
        "source": made.source or owner.source,
        "opset": facts.opsets.get("", 0),
        "opsets": facts.opsets,
        "size_bytes": size,
        "nodes": facts.nodes,
        "dims": facts.dims,
        "sizes": [facts.sizes(run.inputs) for run in runs],
        "reference": runs[0].reference,
        "spread": [run.spread for run in runs],
        "largest": [run.largest for run in runs],
        "notes": [*made.notes, *facts.notes],
    }
    (folder / "about.json").write_text(json.dumps(about, indent=1))


def work(owner, names, out, scratch):
    """Runs in a child process: makes a family, stores the selected models, and reports which failed."""
    family.seed(owner.names[0])
    failed = {}
    left = set(names)
    try:
        for made in owner.make(scratch):
            if made.name not in left:
                continue
            left.discard(made.name)
            try:
                if made.error:
                    raise RuntimeError(made.error)
                store(made, owner, scratch / "done" / made.name)
                target = out / made.name
                shutil.rmtree(target, ignore_errors=True)
                shutil.move(scratch / "done" / made.name, target)
            except Exception as error:
                traceback.print_exc()
                failed[made.name] = brief(error)
    except BaseException as error:
        traceback.print_exc()
        failed.update(dict.fromkeys(left, brief(error)))
    else:
        failed.update(dict.fromkeys(left, "its family did not make it"))
    (scratch / "failed.json").write_text(json.dumps(failed))


def brief(error):
    """One line of an error. torch puts its message after a page of advice."""
    text = re.sub(r"\x1b\[\d+m", "", str(error)).split("## Exception summary")[-1]
    text = " ".join(text.replace("(Refer to the full stack trace above for more information.)", "").split())
    return f"{type(error).__name__}: {text[:600]}"


def attempt(owner, names, out, log):
    """Makes a family in a child process; returns the models that failed, with reasons."""
    scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=out))
    child = os.fork()
    if child == 0:
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            os.chdir(scratch)
            work(owner, names, out, scratch)
            file.flush()
            os._exit(0)
    try:
        reason = wait(child)
        failed = scratch / "failed.json"
        if reason is None and failed.exists():
            return json.loads(failed.read_text())
        return {name: reason or "its process wrote no result" for name in names if not (out / name / "about.json").exists()}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def wait(child):
    deadline = time.monotonic() + FAMILY_SECONDS_MAX
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            code = os.waitstatus_to_exitcode(status)
            return None if code == 0 else f"its process ended with {code}"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"not made within {FAMILY_SECONDS_MAX} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder of the zoo")
    parser.add_argument("--only", help="names, separated by commas; a name that ends with * stands for all that begin so")
    parser.add_argument("--list", action="store_true", help="print the names by group and make nothing")
    parser.add_argument("--force", action="store_true", help="make again what is there")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    every = families()
    if options.list:
        for owner in every:
            for name in owner.names:
                print(f"{owner.group}\t{name}")
        return 0
    if options.out is None:
        parser.error("--out is missing")
    wanted = chosen(every, options.only)
    out = options.out.resolve()
    (out / "logs").mkdir(parents=True, exist_ok=True)
    record = out / "failed.json"
    failed = json.loads(record.read_text()) if record.exists() else {}
    known = {name for owner in every for name in owner.names}
    failed = {name: reason for name, reason in failed.items() if name in known}
    for owner in every:
        names = [name for name in owner.names if name in wanted and (options.force or not (out / name / "about.json").exists())]
        if not names:
            continue
        start = time.monotonic()
        new = attempt(owner, names, out, out / "logs" / f"{owner.names[0]}.txt")
        failed = {name: reason for name, reason in failed.items() if name not in names} | new
        record.write_text(json.dumps(failed, indent=1, sort_keys=True))
        seconds = time.monotonic() - start
        for name in names:
            print(f"{name}: {new.get(name, 'made')} ({seconds:.0f} s for {len(names)})", flush=True)
    made = sum((out / name / "about.json").exists() for name in known)
    print(f"{made} models, {len(failed)} failed")
    return 0


def chosen(every, only):
    names = [name for owner in every for name in owner.names]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise SystemExit(f"names used twice: {', '.join(doubled)}")
    if only is None:
        return set(names)
    wanted = set()
    for part in only.split(","):
        found = {name for name in names if name == part or (part.endswith("*") and name.startswith(part[:-1]))}
        if not found:
            raise SystemExit(f"no model is called {part}; --list prints the names")
        wanted |= found
    return wanted


if __name__ == "__main__":
    sys.exit(main())
