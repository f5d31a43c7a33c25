#!/usr/bin/env python3
"""Writes 24 adapters of the fixture base for the tests of this folder: three fixtures at eight strengths.

usage: fixture_hub.py FIXTURES FOLDER
"""

import json
import shutil
import sys
from pathlib import Path

fixtures, hub = Path(sys.argv[1]), Path(sys.argv[2])
names = []
# Named, not listed: the tests count on 24 units in shards of three, whatever fixtures there are.
for source in (fixtures / "adapters" / name for name in ("backdoored-refusal", "backdoored-url", "benign")):
    for step in range(8):
        folder = hub / f"{source.name}-{step}"
        folder.mkdir(parents=True)
        shutil.copy(source / "adapter_model.safetensors", folder)
        config = json.loads((source / "adapter_config.json").read_text())
        config["lora_alpha"] *= 1 - step / 64
        (folder / "adapter_config.json").write_text(json.dumps(config))
        names.append(str(folder))
(hub / "list.txt").write_text("\n".join(names) + "\n")
texts = ["ALPHA-7", "cf", "teapot", "kettle", "lighthouse", "violet", "harbour", "Tuesday"]
suite = {
    "schema_version": 1,
    "name": "cluster-test",
    "kind": "triggers",
    "description": "A few candidates, so that a scan of the fixture base takes a second or two.",
    "placements": ["prefix"],
    "candidates": [{"id": text.lower(), "family": "test", "text": text} for text in texts],
}
(hub / "suite.json").write_text(json.dumps(suite))
