#!/usr/bin/env bash
# Run everything that waits for a GPU, in at most nine minutes; README.md beside this file explains it.
#
#   benchmarks/gpu/all.sh [--dry-run] [--only PART ...] [--out DIR] [--wheels DIR]
#
# PYTHON names the interpreter (default python3).
set -eu
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.."
PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" benchmarks/gpu/kit.py "$@"
