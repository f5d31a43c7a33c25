"""Keeps the 40 strongest screened candidates and every eighth answer of a record: the goldens need no more."""

import json
import sys

record = json.load(sys.stdin)
evidence = record["evidence"]
evidence["screened"] = evidence["screened"][:40]
if "answers" in evidence:
    evidence["answers"] = evidence["answers"][::8]
json.dump(record, sys.stdout, indent=2, ensure_ascii=False)
