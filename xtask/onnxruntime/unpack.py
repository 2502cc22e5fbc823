"""unpack.py WHEEL FOLDER ARCHITECTURE: unpacks onnxruntime's library and its licence from the wheel, and fails if a file
differs from files.json."""

import hashlib
import json
import pathlib
import sys
import zipfile

wheel, folder, architecture = sys.argv[1:]
wanted = json.loads((pathlib.Path(__file__).parent / "files.json").read_text())[architecture]
with zipfile.ZipFile(wheel) as archive:
    for name, digest in wanted.items():
        content = archive.read(f"onnxruntime/capi/{name}")
        found = hashlib.sha256(content).hexdigest()
        if found != digest:
            sys.exit(f"{name} has the sha256 {found}, not {digest}")
        (pathlib.Path(folder) / name).write_bytes(content)
    (pathlib.Path(folder) / "LICENSE").write_bytes(archive.read("onnxruntime/LICENSE"))
