"""The application of SGLang's extra HTTP workers (--tokenizer-worker-num), with plugins loaded.

SGLang imports this module by name (environment variable SGLANG_HTTP_SERVER_APP_PATH) in workers
that would otherwise miss LED's checks, seeds and statistics.
"""

from __future__ import annotations

from sglang.srt.plugins import load_plugins

# Before SGLang's application, so that nothing is bound to a function that is hooked later.
load_plugins()

from sglang.srt.entrypoints.http_server import app  # noqa: E402

__all__ = ["app"]
