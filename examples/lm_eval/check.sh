#!/usr/bin/env bash
# Runs the commands that docs/evaluation.md gives for lm-evaluation-harness, as they stand there with
# flags behind them that shorten them, and checks that each model name got its sampler: the answers are
# those that custom_params gets, and the server counts tokens of LED's for tiny:led alone.
#
#   examples/lm_eval/check.sh      in the checkout, beside an idle server on port 30000:
#   led-sglang serve --served-model-name tiny
set -euo pipefail

commands=$(sed -n '/lm\/bin\/lm_eval/s/^ *//p' docs/evaluation.md)
[ "$(wc -l <<<"$commands")" = 2 ]
[ -x lm/bin/lm_eval ] || eval "$(sed -n '/-m venv lm /s/^ *//p' docs/evaluation.md)"

counted() {
  curl -sf http://localhost:30000/server_info |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["internal_states"][0]["led"]["totals"]["think_tokens"])'
}

short='--limit 2 --log_samples --gen_kwargs temperature=0 max_gen_toks=24 seed=1'
rm -rf runs/lm
while read -r command; do
  sampler=$(grep -o 'model=tiny:[a-z]*' <<<"$command" | cut -d: -f2)
  before=$(counted)
  eval "$command $short --output_path runs/lm/by-name/$sampler"
  echo "$sampler: $(($(counted) - before)) tokens of LED's" | tee -a runs/lm/counts
  eval "${command/:$sampler/} $short 'custom_params={\"sampler\":\"$sampler\"}' --output_path runs/lm/by-params/$sampler"
done <<<"$commands"

python3 - <<'PYTHON'
import json
from pathlib import Path

counts = dict(line.split(": ") for line in Path("runs/lm/counts").read_text().splitlines())
for sampler, count in counts.items():
    files = [
        next(Path("runs/lm", kind, sampler).rglob("samples_*.jsonl"))
        for kind in ("by-name", "by-params")
    ]
    by_name, by_params = ([json.loads(line)["resps"] for line in f.open()] for f in files)
    assert by_name == by_params, sampler
    assert (int(count.split()[0]) > 0) == (sampler == "led"), counts
    print(f"{sampler}: {len(by_name)} answers by name are those by custom_params; {count}")
assert set(counts) == {"regular", "led"}
PYTHON
