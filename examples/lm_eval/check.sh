#!/usr/bin/env bash
# Runs the commands that docs/evaluation.md gives for lm-evaluation-harness, as they stand there, and
# compares what each of its model names got with what custom_params gets.
#
#   examples/lm_eval/check.sh      in the checkout, with a server on port 30000:
#   led-sglang serve --served-model-name tiny
set -euo pipefail

commands=$(sed -n '/lm\/bin\/lm_eval/s/^ *//p' docs/evaluation.md)
[ "$(wc -l <<<"$commands")" = 2 ]
[ -x lm/bin/lm_eval ] || eval "$(sed -n '/-m venv lm /s/^ *//p' docs/evaluation.md)"

# At temperature 0 and few tokens, so that every answer repeats: the last of a flag counts.
short='--limit 2 --log_samples --gen_kwargs temperature=0 max_gen_toks=24 seed=1'
while read -r command; do
  sampler=$(grep -o 'model=tiny:[a-z]*' <<<"$command" | cut -d: -f2)
  eval "$command $short --output_path runs/lm/by-name/$sampler"
  eval "${command/:$sampler/} $short 'custom_params={\"sampler\":\"$sampler\"}' --output_path runs/lm/by-params/$sampler"
done <<<"$commands"

python3 - <<'PYTHON'
import json
from pathlib import Path


def answers(kind, sampler):
    (file,) = Path("runs/lm", kind, sampler).rglob("samples_*.jsonl")
    return [json.loads(line)["resps"] for line in file.open()]


found = {s: [answers(kind, s) for kind in ("by-name", "by-params")] for s in ("regular", "led")}
for sampler, (by_name, by_params) in found.items():
    assert by_name == by_params, sampler
    print(sampler, by_name)
assert found["regular"] != found["led"]
PYTHON
