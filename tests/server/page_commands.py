"""The commands of README.md and docs/*.md: which run in test_readme.py, and why others do not."""

from __future__ import annotations

from pages import PAGES, snippets

FOUND = [snippet for page in PAGES for snippet in snippets(page)]

_INSTALLS = "installs into the environment: tests/unit/test_package.py installs the wheel"
_HUB = "a model of the hub, which the tests cannot fetch"
_HARNESS = "another project's harness, which pins packages of its own: the page says when it ran"
_WHEELS = "downloads 4 GB of wheels: tests/unit/test_wheelhouse.py runs both ends on small ones"
_RANKS = "a second rank: README's command of the kind runs, and other tests have --tp 2"
_IMAGES = "needs Docker: unit/test_deploy.py checks what it is given"
_FIRST_LIGHT = "needs a GPU: unit/test_first_light.py reads what it says without one"
_NODES = "two machines: test_same_tokens_any_server.py serves with two nodes on one"
_GATEWAYS = "other projects' programs, in environments of their own: the page says when it ran"
_TRAINER = "another project's trainer, with packages of its own: the page says when it ran"
_STAGES = "test_pipeline_stages.py serves so, of one rank and of two a stage"
_REAL = (
    "fetches 93 MB and computes for minutes: examples/test_real_model.py builds from a small one"
)
_PAIR = "two servers that need each other: test_pair.py starts them"
_DRAFTS = "test_speculation.py serves so"
_LOAD = "features/test_model_names.py runs it with both names, the page says when these ran"
# What does not run here, and why.
EXCUSED = {
    "led-sglang serve --pp-size 2": _STAGES,
    "led-sglang serve --pp-size 2 --tp 2": _STAGES,
    "SGLANG_PP_LAYER_PARTITION=2,8 led-sglang serve --pp-size 2": _STAGES,
    "led-sglang serve MODEL --disaggregation-mode prefill "
    "--disaggregation-bootstrap-port 8998": _PAIR,
    "led-sglang serve MODEL --disaggregation-mode decode --port 30001": _PAIR,
    "led-sglang serve --device cpu --disaggregation-transfer-backend mooncake_tcp "
    "--disaggregation-mode prefill --disaggregation-bootstrap-port 8998": _PAIR,
    "led-sglang serve --device cpu --disaggregation-transfer-backend mooncake_tcp "
    "--disaggregation-mode decode --port 30001": _PAIR,
    "smg launch --pd-disaggregation --prefill http://127.0.0.1:30000 8998 "
    "--decode http://127.0.0.1:30001": _GATEWAYS,
    "led-sglang serve --speculative-algorithm NGRAM --speculative-num-draft-tokens 4": _DRAFTS,
    "make test": "it is what runs this test",
    "make real-model": _REAL,
    "pip install .": _INSTALLS,
    'pip install "led-sglang[eval,analysis] @ git+https://HOST/OWNER/led-sglang.git"': _INSTALLS,
    'pip install ".[eval]"': _INSTALLS,
    'pip install ".[analysis]"': _INSTALLS,
    "led-sglang serve Qwen/Qwen3-4B-Thinking-2507 --port 30000": _HUB,
    "led-sglang analyze --model-path Qwen/Qwen3-4B-Thinking-2507 --prompts questions.jsonl "
    "--out report": _HUB,
    'led-sglang eval --launch "--model-path Qwen/Qwen3-4B-Thinking-2507" --config paper '
    "--run-dir runs/paper": _HUB,
    "led-sglang bench --model-path Qwen/Qwen3-4B-Thinking-2507 --batch-sizes 1,8,64 "
    "--out bench": _HUB,
    "led-sglang analyze --model-path M --prompts p.txt --out report -- --tp 2": _RANKS,
    "led-sglang bench --model-path MODEL --load-format dummy --explore-rate 0.05,0.1,0.2 "
    "-- --tp 2": _RANKS,
    "$ led-sglang serve --port 30000": "test_the_start_ends_with_a_request_to_try reads the start, "
    "test_ending.py its end, unit/test_serving.py a port in use",
    "$ echo $?": "test_ending.py",
    "$ led-sglang serve Qwen/Qwen3-0.6B": "what a machine with a network answers is another matter",
    "led-sglang trace --from-run runs/quick --sample gsm8k/gsm8k-0/0": "whether "
    "tokens repeat depends on the batches of the run: test_eval_on_server.py has one of a kind",
    "led-sglang eval --config ablations": "names a grid: test_ablations.py runs each of its rows",
    "python -m venv sgl && sgl/bin/pip install sgl-eval": _HARNESS,
    "python -m venv scope && scope/bin/pip install evalscope": _HARNESS,
    "python -m venv lm && lm/bin/pip install 'lm-eval[api]'": _HARNESS,
    "led-sglang eval --base-url http://localhost:8000 --samplers regular --tasks gsm8k "
    "--run-dir runs/vllm": "another engine: evaluation/test_start.py has one of the kind",
    "led-sglang eval --compare runs/vllm runs/led": "runs of the reader's own: another line of the "
    "page compares two",
    "led-sglang serve Qwen/Qwen3-4B-Thinking-2507 --served-model-name qwen "
    "--enable-samplers dola": _HUB,
    **{s.key: _HARNESS for s in FOUND if s.key.startswith(("sgl/bin/", "scope/bin/", "lm/bin/"))},
    **{s.key: _GATEWAYS for s in FOUND if s.key.startswith("python -m benchmarks.gateways")},
    **{s.key: _GATEWAYS for s in FOUND if "http://localhost:8080" in s.key},
    **{s.key: _LOAD for s in FOUND if s.key.startswith("python -m sglang.bench_serving")},
    **{s.key: _NODES for s in FOUND if "--nnodes 2" in s.key},
    **{s.key: _IMAGES for s in FOUND if s.key.startswith("docker ")},
    "led-sglang doctor --device cuda": "needs a GPU: unit/test_doctor_device.py reads what it says "
    "without one",
    "make first-light": _FIRST_LIGHT,
    "python -m benchmarks.first_light --out DIR --only A": _FIRST_LIGHT,
    "led-sglang serve --led-logprobs behaviour --dtype float32 --port 30000": _TRAINER,
    "PYTHONPATH=examples:SLIME python -m rl_rollouts.slime_group --url http://127.0.0.1:30000": (
        _TRAINER
    ),
    "make wheelhouse": _WHEELS,
    "make wheelhouse PYTHON=3.12 PART_MB=500": _WHEELS,
    "bash wheelhouse/offline_setup.sh wheelhouse led-venv": _WHEELS,
    "led-venv/bin/led-sglang serve MODEL_FOLDER": _WHEELS,
}
# Sizes: what is appended, because the page's own take minutes or hours on a CPU.
SMALLER = {
    "led-sglang analyze --model-path MODEL --tasks gsm8k --out report": "--limit 2 "
    "--max-new-tokens 64 --temperature 0.8 --device cpu -- --sleep-on-idle --dtype float32",
    "led-sglang bench --model-path MODEL --batch-sizes 1,8,64 --out bench": "--device cpu "
    "--batch-sizes 2,3 --explore-rate 0.5 --context 16 --output-len 32 --repeats 1 --profile "
    "-- --max-total-tokens 1024",
    "led-sglang eval --base-url http://localhost:30000 --config quick "
    "--run-dir runs/quick": "--tasks gsm8k --limit 2 --n 1 --max-tokens 64",
    "led-sglang eval --base-url URL --tasks math500,gsm8k --samplers regular,led "
    "--temperatures 0.1,0.3,0.6 --n 16 --limit 100 --run-dir runs/part": "--n 1 --limit 1 "
    "--max-tokens 64",
}
# The server of this module is what these start.
STARTED = ("make serve", "led-sglang serve")
# The same command on several pages runs once.
RUN = list({s.key: s for s in FOUND if s.key not in (*EXCUSED, *STARTED)}.values())
